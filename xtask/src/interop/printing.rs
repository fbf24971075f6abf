//! A command of relay that prints a JSON object per line.

use std::path::Path;
use std::process::Command;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::process::Process;
use super::relay::{SOON, command, lines};

/// The command, with all lines that it has printed so far.
pub(super) struct Printing {
    process: Process,
    lines: Receiver<String>,
    pub(super) seen: Vec<Value>,
}

impl Printing {
    pub(super) fn start(binary: &Path, words: &[&str], log: &Path) -> Result<Self> {
        let mut command = command(binary);
        command.args(words).args(["-o", "json"]);
        Self::start_command(command, log)
    }

    /// Starts a command that was made elsewhere.
    pub(super) fn start_command(mut command: Command, log: &Path) -> Result<Self> {
        let (process, stdout) = Process::start_piped(&mut command, log)?;
        Ok(Self { process, lines: lines(stdout), seen: Vec::new() })
    }

    /// Reads until a line matches, beginning with the line `start`, and returns it.
    pub(super) fn until(&mut self, what: &str, start: usize, fits: impl Fn(&Value) -> bool) -> Result<Value> {
        let deadline = Instant::now() + SOON;
        let mut at = start;
        loop {
            if let Some(line) = self.seen.get(at) {
                if fits(line) {
                    return Ok(line.clone());
                }
                at += 1;
                continue;
            }
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => self.seen.push(serde_json::from_str(&line).with_context(|| line.clone())?),
                Err(RecvTimeoutError::Timeout) => bail!("{what}: not within {} s", SOON.as_secs()),
                Err(RecvTimeoutError::Disconnected) => bail!("{what}: ended; {}", self.process.log_end()),
            }
        }
    }

    /// Reads the lines printed so far.
    pub(super) fn catch_up(&mut self) -> Result<()> {
        while let Ok(line) = self.lines.try_recv() {
            self.seen.push(serde_json::from_str(&line)?);
        }
        Ok(())
    }

    /// Tells the command to end, and checks that it ends with this code.
    pub(super) fn stop(self, code: i32) -> Result<()> {
        let status = self.process.terminate(SOON)?;
        ensure!(status.code() == Some(code), "SIGTERM ended it with {status}");
        Ok(())
    }

    pub(super) fn kill(mut self) -> Result<()> {
        self.process.kill()
    }
}
