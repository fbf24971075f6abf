//! The protocol's TypeScript client, in Node.js, where it is there.

use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

pub(crate) const NAME: &str = "TypeScript 0.2.7";

/// Lets it do a work on a stream, which it makes unless it reads; gives what it measured: seconds of the whole, or
/// milliseconds of each. `None` when `RELAY_BENCH_DURABLE_NODE` names no folder with it.
pub(crate) fn run(work: &str, base: &str, path: &str, count: usize) -> Result<Option<Vec<f64>>> {
    let Some(folder) = std::env::var_os("RELAY_BENCH_DURABLE_NODE") else { return Ok(None) };
    let mut command = Command::new("node");
    command.current_dir(folder).args(["peer.mjs", work, &format!("{base}{path}"), &count.to_string()]);
    let output = command.stderr(Stdio::inherit()).output().context("cannot run node")?;
    ensure!(output.status.success(), "the TypeScript client failed at {work}");
    Ok(Some(serde_json::from_slice(&output.stdout).context("the TypeScript client says no figures")?))
}
