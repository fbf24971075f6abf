//! The `relay` binary as a user runs it: a server, a consumer that follows it, a list.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{ChildStdout, Command};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::process::Process;
use crate::workspace::{self, cargo, check, output};

/// The longest time for anything to appear on the other side: four times the longest delay between two attempts.
pub(super) const SOON: Duration = Duration::from_secs(120);

/// Builds the command line and returns its path.
pub(super) fn build() -> Result<PathBuf> {
    check(cargo().args(["build", "--quiet", "--locked", "--package=relay-cli", "--bin=relay"]))?;
    Ok(workspace::target_directory()?.join("debug/relay"))
}

/// A command of relay that ignores settings in the caller's environment.
pub(super) fn command(binary: &Path) -> Command {
    let mut command = Command::new(binary);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("RELAY_")) {
        command.env_remove(name);
    }
    command
}

/// Access to a relay: the program, and its arguments for URL and credentials.
#[derive(Clone)]
pub(super) struct Access {
    binary: PathBuf,
    arguments: Vec<String>,
}

impl Access {
    pub(super) fn new(binary: &Path, arguments: &[&str]) -> Self {
        Self { binary: binary.to_owned(), arguments: arguments.iter().map(|&one| one.to_owned()).collect() }
    }

    /// The same access with further arguments.
    pub(super) fn with(&self, arguments: &[&str]) -> Self {
        let mut access = self.clone();
        access.arguments.extend(arguments.iter().map(|&one| one.to_owned()));
        access
    }

    /// Runs a command of relay that prints one object per line.
    pub(super) fn ask(&self, words: &[&str]) -> Result<Vec<Value>> {
        let text = output(self.command(words).args(["-o", "json"]))?;
        text.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
    }

    /// Runs a command that must fail. Returns the exit code and its errors.
    pub(super) fn refused(&self, words: &[&str]) -> Result<(i32, String)> {
        let end = self.command(words).output()?;
        ensure!(!end.status.success(), "{words:?} succeeded: {}", String::from_utf8_lossy(&end.stdout));
        let code = end.status.code().with_context(|| format!("{words:?} ended with {}", end.status))?;
        Ok((code, String::from_utf8_lossy(&end.stderr).trim().to_owned()))
    }

    /// The pods as `relay pods` prints them.
    pub(super) fn pods(&self) -> Result<Vec<Value>> {
        self.ask(&["pods"])
    }

    /// Starts a consumer with further arguments for `relay replay`.
    pub(super) fn follow(&self, arguments: &[&str], log: &Path) -> Result<Follower> {
        let mut replay = self.command(&["replay", "--pods", "-o", "json"]);
        let (process, stdout) = Process::start_piped(replay.args(arguments), log)?;
        Ok(Follower { process, lines: lines(stdout), seen: Vec::new(), pods: Vec::new() })
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = command(&self.binary);
        command.args(words).args(&self.arguments);
        command
    }
}

/// `relay serve`.
pub(super) struct Server {
    access: Access,
    url: String,
    process: Process,
}

impl Server {
    /// Starts the server on a free loopback port, and waits for the line with its address.
    pub(super) fn start(binary: &Path, arguments: &[&str], log: &Path) -> Result<Self> {
        Self::listen(binary, "127.0.0.1:0", arguments, log)
    }

    /// Starts the server at this address.
    pub(super) fn listen(binary: &Path, at: &str, arguments: &[&str], log: &Path) -> Result<Self> {
        let mut serve = command(binary);
        let (process, stdout) =
            Process::start_piped(serve.args(["serve", "--listen", at]).args(arguments), log)?;
        let lines = lines(stdout);
        let first = lines.recv_timeout(SOON).with_context(|| process.log_end())?;
        let url = first
            .strip_prefix("relay listening on ")
            .with_context(|| format!("unexpected first line `{first}`"))?;
        Ok(Self { access: Access::new(binary, &["--url", url]), url: url.to_owned(), process })
    }

    /// Access without a proxy.
    pub(super) fn access(&self) -> &Access {
        &self.access
    }

    /// Host and port.
    pub(super) fn address(&self) -> &str {
        self.url.trim_start_matches("http://")
    }

    /// The state of the source in `/health`: `live` or `stale`.
    pub(super) fn source_state(&self) -> Result<String> {
        // While the relay is degraded, the answer is 503 and the command fails, but it prints the body nevertheless.
        let answer = self.access.command(&["health", "-o", "json"]).output()?;
        let health: Value =
            serde_json::from_slice(&answer.stdout).context("relay health did not print JSON")?;
        Ok(health["source"]["state"].as_str().context("health names no source state")?.to_owned())
    }

    /// Tells the server to shut down, and checks that it ends properly.
    pub(super) fn stop(self) -> Result<()> {
        let status = self.process.terminate(SOON)?;
        ensure!(status.success(), "SIGTERM ended the server with {status}");
        Ok(())
    }

    /// Kills the server outright.
    pub(super) fn kill(mut self) -> Result<()> {
        self.process.kill()
    }
}

/// `relay replay`, with all lines that it has printed so far.
pub(super) struct Follower {
    process: Process,
    lines: Receiver<String>,
    /// Every line, without its set of pods.
    pub(super) seen: Vec<Value>,
    /// The set of pods of the last line.
    pub(super) pods: Vec<Value>,
}

impl Follower {
    /// Reads until the condition holds, which may be so at once.
    pub(super) fn until(&mut self, what: &str, mut holds: impl FnMut(&Self) -> Result<bool>) -> Result<()> {
        let deadline = Instant::now() + SOON;
        while !holds(self)? {
            // A condition may depend only on the other side, so it is also checked when no line comes.
            let patience = Duration::from_millis(100).min(deadline.saturating_duration_since(Instant::now()));
            match self.lines.recv_timeout(patience) {
                Ok(line) => self.take(&line)?,
                Err(RecvTimeoutError::Timeout) if Instant::now() < deadline => {}
                Err(RecvTimeoutError::Timeout) => bail!("{what}: not within {} s", SOON.as_secs()),
                Err(RecvTimeoutError::Disconnected) => {
                    bail!("{what}: replay ended; {}", self.process.log_end())
                }
            }
        }
        Ok(())
    }

    /// Reads to the end of a consumer that ends by itself.
    pub(super) fn read_to_end(&mut self) -> Result<()> {
        loop {
            match self.lines.recv_timeout(SOON) {
                Ok(line) => self.take(&line)?,
                Err(RecvTimeoutError::Timeout) => bail!("replay does not end"),
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        let status = self.process.wait(SOON)?;
        ensure!(status.success(), "replay ended with {status}; {}", self.process.log_end());
        Ok(())
    }

    /// The events of the lines from `start` on.
    pub(super) fn events_since(&self, start: usize) -> impl Iterator<Item = &Value> {
        self.seen[start..].iter().map(|line| &line["event"]).filter(|event| !event.is_null())
    }

    /// Checks the rules for a consumer that was never disconnected: the phases are in order, there is no gap, and every
    /// event directly follows the one before.
    pub(super) fn check_unbroken(&self) -> Result<()> {
        let mut phases: Vec<&str> = self.seen.iter().filter_map(|line| line["phase"].as_str()).collect();
        phases.dedup();
        let with_history = ["CurrentSeed", "Backfill", "CatchupComplete", "CurrentSeed", "Live"];
        let without: Vec<&str> = with_history.into_iter().filter(|phase| *phase != "Backfill").collect();
        let expected = if phases.contains(&"Backfill") { &with_history[..] } else { &without[..] };
        ensure!(
            expected.starts_with(&phases) && phases.len() + 1 >= expected.len(),
            "phases were {phases:?}"
        );
        for line in &self.seen {
            ensure!(line["gap"].is_null(), "a gap was reported: {line}");
            ensure!(line["cause"].is_null(), "the stream dropped: {line}");
        }
        let mut last = None;
        for event in self.events_since(0) {
            let sequence = event["sequence"].as_u64().with_context(|| format!("no sequence in {event}"))?;
            ensure!(last.is_none_or(|last| sequence == last + 1), "sequence {sequence} comes after {last:?}");
            last = Some(sequence);
        }
        Ok(())
    }

    fn take(&mut self, line: &str) -> Result<()> {
        let mut line: Value =
            serde_json::from_str(line).with_context(|| format!("replay printed `{line}`"))?;
        match line.as_object_mut().and_then(|line| line.remove("pod_set")) {
            Some(Value::Array(pods)) => self.pods = pods,
            other => bail!("a line of replay has no pod set but {other:?}"),
        }
        self.seen.push(line);
        Ok(())
    }
}

/// The fields of a pod that must be the same on both sides.
#[derive(Debug, PartialEq)]
pub(super) struct Facts {
    uid: Value,
    version: Value,
    phase: Value,
    node: Value,
    address: Value,
    ready: bool,
    labels: BTreeMap<String, Value>,
    containers: Vec<(Value, Value, u64)>,
}

/// Facts of pods in relay's shape, by namespace and name.
pub(super) fn facts(pods: &[Value]) -> BTreeMap<String, Facts> {
    pods.iter().map(|pod| (key(pod), facts_of(pod))).collect()
}

fn facts_of(pod: &Value) -> Facts {
    let containers = pod["containers"].as_array().into_iter().flatten();
    let containers =
        containers.map(|c| (c["name"].clone(), c["state"].clone(), c["restart_count"].as_u64().unwrap_or(0)));
    Facts {
        uid: pod["uid"].clone(),
        version: pod["resource_version"].clone(),
        phase: pod["phase"].clone(),
        node: pod["node_name"].clone(),
        address: pod["pod_ip"].clone(),
        ready: pod["ready"].as_bool().unwrap_or(false),
        labels: labels(&pod["labels"]),
        containers: containers.collect(),
    }
}

/// Facts of pods as the Kubernetes API server lists them.
pub(super) fn kubernetes_facts(pods: &[Value]) -> BTreeMap<String, Facts> {
    pods.iter().map(|pod| (key(&pod["metadata"]), kubernetes_facts_of(pod))).collect()
}

fn kubernetes_facts_of(pod: &Value) -> Facts {
    let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    let statuses: &[Value] = pod["status"]["containerStatuses"].as_array().map_or(&[], Vec::as_slice);
    let containers = pod["spec"]["containers"].as_array().into_iter().flatten().map(|container| {
        let status = statuses.iter().find(|status| status["name"] == container["name"]);
        let state = status.and_then(|status| status["state"].as_object()?.keys().next());
        let restarts = status.and_then(|status| status["restartCount"].as_u64()).unwrap_or(0);
        (container["name"].clone(), state.map_or(Value::Null, |state| Value::from(state.as_str())), restarts)
    });
    Facts {
        uid: pod["metadata"]["uid"].clone(),
        version: pod["metadata"]["resourceVersion"].clone(),
        phase: pod["status"]["phase"].clone(),
        node: pod["spec"]["nodeName"].clone(),
        address: pod["status"]["podIP"].clone(),
        ready: conditions.into_iter().any(|c| c["type"] == "Ready" && c["status"] == "True"),
        labels: labels(&pod["metadata"]["labels"]),
        containers: containers.collect(),
    }
}

fn key(named: &Value) -> String {
    format!("{}/{}", named["namespace"].as_str().unwrap_or("?"), named["name"].as_str().unwrap_or("?"))
}

fn labels(labels: &Value) -> BTreeMap<String, Value> {
    labels.as_object().into_iter().flatten().map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// Reads a pipe to its end in a separate thread, so that its writer never blocks.
pub(super) fn lines(stdout: ChildStdout) -> Receiver<String> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            // If the receiver is gone, nobody needs the rest, but the pipe must still be read.
            let _ = sender.send(line);
        }
    });
    receiver
}
