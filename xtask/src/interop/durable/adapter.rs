//! Runs the adapter of the public client suite as a process.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::workspace;

/// The longest time for one command.
const PATIENCE: Duration = Duration::from_secs(30);

/// Builds the adapter, and returns its path.
pub(super) fn build() -> Result<PathBuf> {
    workspace::check(workspace::cargo().args(["build", "--quiet", "-p", "durable-conformance-adapter"]))?;
    Ok(workspace::target_directory()?.join("debug/durable-conformance-adapter"))
}

/// A running adapter; killed when dropped.
pub(super) struct Adapter {
    child: Child,
    stdin: ChildStdin,
    lines: Receiver<String>,
}

impl Adapter {
    /// Starts an adapter and gives it the server's URL. It must support all features, because no case is skipped.
    pub(super) fn start(program: &Path, url: &str) -> Result<Self> {
        let mut child = Command::new(program)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let stdin = child.stdin.take().context("piped above")?;
        let stdout = child.stdout.take().context("piped above")?;
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let mut adapter = Self { child, stdin, lines };
        let answer = adapter.ask(&json!({"type": "init", "serverUrl": url, "timeoutMs": 30_000}))?;
        let features = answer["features"].as_object().context("an adapter without features")?;
        ensure!(features.len() >= 9 && features.values().all(|there| there == true), "a feature is missing");
        Ok(adapter)
    }

    /// Sends a command; its answer is read later.
    pub(super) fn send(&mut self, command: &Value) -> Result<()> {
        writeln!(self.stdin, "{command}")?;
        Ok(self.stdin.flush()?)
    }

    /// The answer to the oldest command without one.
    pub(super) fn answer(&mut self) -> Result<Value> {
        let line = self.lines.recv_timeout(PATIENCE).context("the adapter does not answer")?;
        serde_json::from_str(&line).with_context(|| format!("not JSON: {line}"))
    }

    /// Sends a command and waits for its answer.
    pub(super) fn ask(&mut self, command: &Value) -> Result<Value> {
        self.send(command)?;
        self.answer()
    }

    /// Ends the adapter in the way of the suite.
    pub(super) fn shut_down(mut self) -> Result<()> {
        self.ask(&json!({"type": "shutdown"}))?;
        let end = self.child.wait()?;
        ensure!(end.success(), "the adapter ended with {end}");
        Ok(())
    }
}

impl Drop for Adapter {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
