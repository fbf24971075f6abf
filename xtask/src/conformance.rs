//! `cargo xtask conformance SUITE`: our readings of published rules, against cases that anyone can run.

use anyhow::{Result, bail};

use crate::conformance_sse;

/// What `cargo xtask conformance --help` says.
pub(crate) const DETAILS: &str = conformance_sse::DETAILS;

/// Runs the suite that is named first, with the arguments after it.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    match arguments.split_first() {
        Some((suite, rest)) if suite == "sse" => conformance_sse::run(rest),
        Some((suite, _)) => bail!("there is no suite {suite}; there is: sse"),
        None => bail!("which suite? `cargo xtask conformance sse [--vectors FILE]`"),
    }
}
