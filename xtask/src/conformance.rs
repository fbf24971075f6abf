//! `cargo xtask conformance [SUITE]`: checks published rules with cases that others can use too.

use anyhow::Result;

use crate::workspace::{cargo, check};
use crate::{Usage, conformance_sse};

/// The text of `cargo xtask conformance --help`.
pub(crate) const DETAILS: &str = "\
Without a suite all are run.

`conformance sse` decodes every vector whole, in chunks of 1, 2 and 3 bytes and cut in two at every place, and prints
how many hold; it fails unless all do.
  --vectors FILE    other vectors than those of fixtures/sse; fixtures/README.md describes both formats

`conformance pods` plays every conversation of fixtures/pods through the pure machines and through real HTTP.
  --dir DIRECTORY   other conversations than those of fixtures/pods; its README describes the format

`conformance autoconfig` plays every conversation of fixtures/autoconfig through the pure session and through real HTTP.
  --dir DIRECTORY   other conversations than those of fixtures/autoconfig; its README describes the format";

/// Runs the suite that is named first, with the arguments after it.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    match arguments.split_first() {
        None => {
            conformance_sse::run(&[])?;
            conversations("pods", &[])?;
            conversations("autoconfig", &[])
        }
        Some((suite, rest)) => match suite.as_str() {
            "sse" => conformance_sse::run(rest),
            "pods" | "autoconfig" => conversations(suite, rest),
            _ => Err(Usage(format!("there is no suite `{suite}`; there are: sse, pods, autoconfig")).into()),
        },
    }
}

/// The player is a separate crate: it depends on the whole client, and this program should build without it.
fn conversations(suite: &str, arguments: &[String]) -> Result<()> {
    let mut command = cargo();
    // File names are relative to the directory of the caller.
    command.current_dir(std::env::current_dir()?);
    check(
        command
            .args(["run", "--quiet", "--locked", "--package=relay-conformance", "--", suite])
            .args(arguments),
    )
}
