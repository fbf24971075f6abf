//! The `relay` binary as child processes, with a deadline on every wait.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::wire::{eventually, get};

/// The longest time that a test waits for one thing. It is far above the usual time, so that no test fails on a busy
/// machine.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// A command line of the binary, in an environment without variables of the developer.
pub(crate) fn relay(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_relay"));
    command.args(args).env_clear().env("HOME", std::env::temp_dir());
    command
}

/// A command that has ended.
#[derive(Debug)]
pub(crate) struct Done {
    /// `None` if a signal ended it.
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Done {
    /// The lines of stdout, every one of which must be a JSON object.
    pub(crate) fn json(&self) -> Vec<Value> {
        self.stdout.lines().map(object).collect()
    }

    #[track_caller]
    pub(crate) fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "stderr: {}\nstdout: {:.2000}", self.stderr, self.stdout);
        self
    }
}

/// Runs a command to its end.
#[track_caller]
pub(crate) fn run(args: &[&str]) -> Done {
    run_command(relay(args))
}

#[track_caller]
pub(crate) fn run_command(command: Command) -> Done {
    Running::start(command).wait()
}

fn object(line: &str) -> Value {
    match serde_json::from_str(line) {
        Ok(value @ Value::Object(_)) => value,
        other => panic!("not a JSON object ({other:?}): {line}"),
    }
}

#[derive(Default)]
struct Errors {
    text: Mutex<(String, bool)>,
    changed: Condvar,
}

/// A running command. Dropping it kills it.
pub(crate) struct Running {
    child: Child,
    lines: Receiver<String>,
    errors: Arc<Errors>,
    what: String,
}

impl Running {
    #[track_caller]
    pub(crate) fn start(mut command: Command) -> Self {
        let what = command.get_args().map(|arg| arg.to_string_lossy()).collect::<Vec<_>>().join(" ");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the binary of this package starts");
        let stdout = child.stdout.take().expect("piped");
        let mut stderr = child.stderr.take().expect("piped");
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines() {
                let Ok(line) = line else { return };
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let errors = Arc::new(Errors::default());
        let shared = errors.clone();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            loop {
                let read = stderr.read(&mut buffer).unwrap_or(0);
                let mut text = shared.text.lock().unwrap();
                text.0.push_str(&String::from_utf8_lossy(&buffer[..read]));
                text.1 = read == 0;
                shared.changed.notify_all();
                if read == 0 {
                    return;
                }
            }
        });
        Self { child, lines, errors, what }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The next line of stdout; `None` at its end.
    #[track_caller]
    pub(crate) fn line(&self) -> Option<String> {
        match self.lines.recv_timeout(DEADLINE) {
            Ok(line) => Some(line),
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => {
                panic!("`{}` prints nothing for {DEADLINE:?}; stderr: {}", self.what, self.stderr())
            }
        }
    }

    /// The next line of stdout, a JSON object.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        match self.line() {
            Some(line) => object(&line),
            None => panic!("`{}` has ended; stderr: {}", self.what, self.stderr()),
        }
    }

    /// Reads lines up to the first one that matches. Returns all of them.
    #[track_caller]
    pub(crate) fn until(&self, fits: impl Fn(&Value) -> bool) -> Vec<Value> {
        let start = Instant::now();
        let mut seen = Vec::new();
        loop {
            let line = self.json();
            let last = fits(&line);
            seen.push(line);
            if last {
                return seen;
            }
            assert!(
                start.elapsed() < DEADLINE,
                "`{}`: {} lines, none fits; the last: {:.600}; stderr: {}",
                self.what,
                seen.len(),
                seen[seen.len() - 1].to_string(),
                self.stderr()
            );
        }
    }

    #[track_caller]
    pub(crate) fn until_phase(&self, phase: &str) -> Vec<Value> {
        self.until(|line| line["phase"] == phase)
    }

    /// The text on stderr so far.
    pub(crate) fn stderr(&self) -> String {
        self.errors.text.lock().unwrap().0.clone()
    }

    /// Waits until the text on stderr matches.
    #[track_caller]
    pub(crate) fn until_stderr(&self, fits: impl Fn(&str) -> bool) -> String {
        let mut text = self.errors.text.lock().unwrap();
        let start = Instant::now();
        while !fits(&text.0) {
            assert!(!text.1 && start.elapsed() < DEADLINE, "`{}`: stderr: {}", self.what, text.0);
            text = self.errors.changed.wait_timeout(text, Duration::from_millis(200)).unwrap().0;
        }
        text.0.clone()
    }

    /// Sends a signal by its name: TERM, INT, KILL.
    pub(crate) fn signal(&self, name: &str) {
        let kill = format!("kill -{name} {}", self.pid());
        assert!(Command::new("/bin/sh").args(["-c", &kill]).status().unwrap().success());
    }

    /// Waits for the end. The result has the lines of stdout that were not read yet.
    #[track_caller]
    pub(crate) fn wait(mut self) -> Done {
        let start = Instant::now();
        let mut stdout = String::new();
        loop {
            match self.lines.recv_timeout(DEADLINE.saturating_sub(start.elapsed())) {
                Ok(line) => {
                    stdout.push_str(&line);
                    stdout.push('\n');
                }
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    panic!("`{}` does not end; stdout: {stdout:.2000}; stderr: {}", self.what, self.stderr())
                }
            }
        }
        // stdout is closed, so the process is ending; only the kernel has work left.
        self.until_stderr_end();
        let code = self.child.wait().unwrap().code();
        Done { code, stdout, stderr: self.stderr() }
    }

    #[track_caller]
    fn until_stderr_end(&self) {
        let mut text = self.errors.text.lock().unwrap();
        let start = Instant::now();
        while !text.1 {
            assert!(start.elapsed() < DEADLINE, "`{}` does not end; stderr: {}", self.what, text.0);
            text = self.errors.changed.wait_timeout(text, Duration::from_millis(200)).unwrap().0;
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A `relay serve` that listens.
pub(crate) struct Server {
    running: Running,
    pub(crate) addr: SocketAddr,
}

impl Server {
    /// Starts a server on a free port, with a simulated cluster of seed 7.
    #[track_caller]
    pub(crate) fn start(args: &[&str]) -> Self {
        Self::start_at("127.0.0.1:0", args)
    }

    /// Starts a server whose pods do not change.
    #[track_caller]
    pub(crate) fn quiet(pods: u32) -> Self {
        Self::start(&["--sim-rate", "0", "--sim-pods", &pods.to_string()])
    }

    #[track_caller]
    pub(crate) fn start_at(listen: &str, args: &[&str]) -> Self {
        let mut all = vec!["serve", "--listen", listen];
        if !args.contains(&"--sim-seed") {
            all.extend(["--sim-seed", "7"]);
        }
        all.extend(args);
        let running = Running::start(relay(&all));
        let first = running.line().unwrap_or_else(|| panic!("no first line; stderr: {}", running.stderr()));
        let addr = first
            .strip_prefix("relay listening on http://")
            .and_then(|addr| addr.parse().ok())
            .unwrap_or_else(|| panic!("first line: {first}"));
        let server = Self { running, addr };
        // The server listens before its source has synced.
        eventually("readiness", || (get(addr, "/readyz").status == 200).then_some(()));
        server
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Runs a client command against it.
    #[track_caller]
    pub(crate) fn run(&self, args: &[&str]) -> Done {
        run_command(self.command(args))
    }

    /// Starts a client command against it, with short delays.
    #[track_caller]
    pub(crate) fn follow(&self, args: &[&str]) -> Running {
        Running::start(self.command(args))
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        command_at(&self.url(), args)
    }

    pub(crate) fn signal(&self, name: &str) {
        self.running.signal(name);
    }

    pub(crate) fn stderr(&self) -> String {
        self.running.stderr()
    }

    #[track_caller]
    pub(crate) fn wait(self) -> Done {
        self.running.wait()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.running.pid()
    }
}

/// The resident memory of a process, in KiB.
pub(crate) fn resident_kib(pid: u32) -> u64 {
    status_kib(pid, "VmRSS:")
}

/// The highest resident memory of a process so far, in KiB, without the pages of its program file: the program of a
/// debug build is many times as large as that of a release build.
pub(crate) fn peak_kib(pid: u32) -> u64 {
    status_kib(pid, "VmHWM:") - status_kib(pid, "RssFile:")
}

fn status_kib(pid: u32, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// A client command for this base URL, with JSON output, and with short delays if it reconnects.
pub(crate) fn command_at(url: &str, args: &[&str]) -> Command {
    let mut all = args.to_vec();
    all.extend(["--url", url]);
    if !args.contains(&"-o") {
        all.extend(["-o", "json"]);
    }
    if matches!(args[0], "state" | "replay" | "stream" | "wait") && !args.contains(&"--reconnect-base") {
        all.extend(["--reconnect-base", "5ms"]);
    }
    relay(&all)
}

/// Starts a client command against this base URL.
#[track_caller]
pub(crate) fn follow_at(url: &str, args: &[&str]) -> Running {
    Running::start(command_at(url, args))
}

/// The names of an object's fields, sorted.
#[track_caller]
pub(crate) fn fields(value: &Value) -> Vec<&str> {
    let mut names: Vec<_> =
        value.as_object().unwrap_or_else(|| panic!("{value}")).keys().map(String::as_str).collect();
    names.sort_unstable();
    names
}

/// Checks the fields of an event object: the required ones, and those that are optional on the wire.
#[track_caller]
pub(crate) fn check_event(event: &Value) {
    let mut names = fields(event);
    for always in ["hash", "pod", "sequence", "synthetic", "timestamp", "type"] {
        assert!(names.contains(&always), "{always}: {event}");
        names.retain(|name| *name != always);
    }
    assert!(
        names.iter().all(|name| ["entered_filter", "left_filter", "previous_hash"].contains(name)),
        "{names:?}: {event}"
    );
}

/// Namespace and name of a pod.
pub(crate) fn key(pod: &Value) -> (String, String) {
    (pod["namespace"].as_str().unwrap().into(), pod["name"].as_str().unwrap().into())
}
