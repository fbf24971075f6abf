//! `cargo xtask test`: the checks that every change must pass. They need nothing but Rust.

mod programs;

use std::process::Command;
use std::time::Instant;

use anyhow::Result;
use serde_json::Value;

use crate::workspace::{check, metadata, root};
use crate::{no_arguments, tidy, workspace};

/// The text of `test --help` after the table of commands.
pub(crate) const DETAILS: &str = "\
Needs nothing but Rust. Runs in order: rustfmt --check, tidy, clippy with warnings as errors (the whole workspace, then
each library without its features), rustdoc likewise, then every test and doctest, as many test programs at a time as
there are processors. Stops at the first step that fails; the last lines are the test runner's own.";

/// Runs the steps in order, the cheapest first and the tests last, so that the last lines are those of the test runner.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    no_arguments(arguments)?;
    let begin = Instant::now();
    step("format", begin);
    check(cargo().args(["fmt", "--all", "--check"]))?;
    step("tidy", begin);
    tidy::run(&[])?;
    step("clippy", begin);
    check(cargo().args(["clippy", "--locked", "--workspace", "--all-targets", "--", "--deny=warnings"]))?;
    // In the workspace above, all features of the command line are on. Each library must also build without any.
    step("without features", begin);
    for name in featured_libraries(&metadata(root())?) {
        check(cargo().args([
            "clippy",
            "--locked",
            "--package",
            &name,
            "--no-default-features",
            "--",
            "--deny=warnings",
        ]))?;
    }
    step("docs", begin);
    check(
        cargo().args(["doc", "--locked", "--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "--deny=warnings"),
    )?;
    step("tests", begin);
    programs::run()
}

/// Cargo without incremental compilation, unless a variable says otherwise: a cold build takes a quarter less time.
fn cargo() -> Command {
    let mut command = workspace::cargo();
    if std::env::var_os("CARGO_INCREMENTAL").is_none() {
        command.env("CARGO_INCREMENTAL", "0");
    }
    command
}

/// The libraries under `crates/` that have features, by `cargo metadata`.
fn featured_libraries(metadata: &Value) -> Vec<String> {
    let packages = metadata["packages"].as_array().into_iter().flatten();
    let crates = root().join("crates");
    let in_crates = move |package: &Value| {
        package["manifest_path"].as_str().is_some_and(|path| std::path::Path::new(path).starts_with(&crates))
    };
    let featured = packages.filter(move |package| {
        in_crates(package) && package["features"].as_object().is_some_and(|all| !all.is_empty())
    });
    let libraries = featured.filter(|package| {
        let kinds =
            package["targets"].as_array().into_iter().flatten().flat_map(|target| target["kind"].as_array());
        kinds.flatten().any(|kind| kind == "lib")
    });
    libraries.filter_map(|package| Some(package["name"].as_str()?.to_owned())).collect()
}

/// Says that a step begins, and how long the steps before it took.
fn step(name: &str, begin: Instant) {
    println!("== {name}, after {:.0} s", begin.elapsed().as_secs_f64());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_with_features_are_found() {
        let names = featured_libraries(&metadata(root()).unwrap());
        assert!(names.contains(&"relay-proto".to_owned()), "{names:?}");
        for other in ["xtask", "relay-cli", "relay-testkit"] {
            assert!(!names.contains(&other.to_owned()), "{names:?}");
        }
    }
}
