//! `interop durable`: durable streams with the packages of the protocol's authors.

use std::path::PathBuf;

use anyhow::Result;

use self::npm::Packages;
use self::peer::Peer;
use super::Run;

mod adapter;
mod cases;
mod client;
mod cutter;
mod npm;
mod peer;
mod server_suite;

/// Runs the suite.
pub(super) fn run(run: &mut Run) -> Result<()> {
    let packages = npm::install()?;
    let world = World { packages, relay: run.relay()?, directory: run.directory().to_owned() };
    server_suite::steps(run, &world);
    let adapter = adapter::build()?;
    let cases = cases::load()?;
    for (name, directory) in [("memory", None), ("files", Some("peer-data"))] {
        run.step(&format!("{} cases of a client, server of the authors, {name}", cases.len()), || {
            let peer = Peer::start(&world, directory)?;
            cases::play_all(&cases, &adapter, &peer.url)
        });
        let peer = Peer::start(&world, directory.map(|directory| format!("{directory}-client")).as_deref())?;
        client::steps(run, &world, &peer, name);
    }
    Ok(())
}

/// The data that every step needs.
struct World {
    /// The authors' packages, installed.
    packages: Packages,
    /// The binary `relay`.
    relay: PathBuf,
    /// The directory for logs and data.
    directory: PathBuf,
}
