//! `interop durable`: durable streams against the packages of the protocol's authors.

use std::path::PathBuf;

use anyhow::Result;

use self::npm::Packages;
use super::Run;

mod npm;
mod server_suite;

/// Runs the suite.
pub(super) fn run(run: &mut Run) -> Result<()> {
    let packages = npm::install()?;
    let world = World { packages, relay: run.relay()?, directory: run.directory().to_owned() };
    server_suite::steps(run, &world);
    Ok(())
}

/// What every step needs.
struct World {
    /// The authors' packages, installed.
    packages: Packages,
    /// The binary `relay`.
    relay: PathBuf,
    /// Where logs and data go.
    directory: PathBuf,
}
