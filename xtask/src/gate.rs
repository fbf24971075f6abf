//! `cargo xtask test`: what every change has to pass, and nothing that needs more than Rust.

use anyhow::Result;

use crate::workspace::{cargo, check};
use crate::{no_arguments, tidy};

/// Runs the steps in order, cheapest first, and the tests last, so that the closing lines are the test runner's.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    no_arguments(arguments)?;
    step("format");
    check(cargo().args(["fmt", "--all", "--check"]))?;
    step("tidy");
    tidy::run(&[])?;
    step("clippy");
    check(cargo().args(["clippy", "--locked", "--workspace", "--all-targets", "--", "--deny=warnings"]))?;
    step("docs");
    check(
        cargo().args(["doc", "--locked", "--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "--deny=warnings"),
    )?;
    step("tests");
    check(cargo().args(["test", "--locked", "--workspace", "--no-fail-fast"]))
}

fn step(name: &str) {
    println!("== {name}");
}
