//! The protocol's TypeScript client in Node.js, if it is there.

use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

pub(crate) const NAME: &str = "TypeScript 0.2.7";

/// Lets it do a work on a stream, which it creates unless it only reads. Returns its measurements: seconds in total, or
/// milliseconds for each. `None` if `RELAY_BENCH_DURABLE_NODE` does not name its folder.
pub(crate) fn run(work: &str, base: &str, path: &str, count: usize) -> Result<Option<Vec<f64>>> {
    let Some(folder) = std::env::var_os("RELAY_BENCH_DURABLE_NODE") else { return Ok(None) };
    let mut command = Command::new("node");
    command.current_dir(folder).args(["peer.mjs", work, &format!("{base}{path}"), &count.to_string()]);
    let output = command.stderr(Stdio::inherit()).output().context("cannot run node")?;
    ensure!(output.status.success(), "the TypeScript client failed at {work}");
    Ok(Some(serde_json::from_slice(&output.stdout).context("the TypeScript client says no figures")?))
}
