//! Runs the test programs of the workspace beside each other.
//!
//! `cargo test` runs one after another. Many of the long tests wait for processes and timers, and leave the processors
//! to other programs.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{Read as _, Seek as _, Write as _};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::cargo;
use crate::workspace::{check, output};

/// The package whose tests take longest: the others run beside them.
const FIRST: &str = "relay-cli";
/// Threads of each test program.
const THREADS: usize = 4;

/// Builds and runs all tests and doctests. Prints what each program printed, once it has ended.
pub(super) fn run() -> Result<()> {
    let build = ["test", "--locked", "--workspace", "--no-run"];
    // First with cargo's own output, then for the list.
    check(cargo().args(build))?;
    let messages = output(cargo().args(build).args(["--quiet", "--message-format=json"]))?;
    let mut programs = programs(&messages)?;
    ensure!(!programs.is_empty(), "cargo named no test program");
    programs.sort_by_key(|program| program.package != FIRST);
    let mut jobs: VecDeque<Job> = programs.into_iter().map(Program::job).collect();
    let mut doctests = cargo();
    doctests.args(["test", "--locked", "--workspace", "--no-fail-fast", "--doc"]);
    // Soon, since most of them are built one after another.
    jobs.insert(1, Job::of("doctests".into(), doctests));
    println!("{} test programs and the doctests", jobs.len() - 1);
    let processors = thread::available_parallelism().map_or(1, usize::from);
    all(jobs, processors + 1, tell)
}

/// A test program that cargo has built.
#[derive(Debug, PartialEq)]
struct Program {
    package: String,
    target: String,
    executable: PathBuf,
    /// Where cargo runs it: the directory of the package.
    directory: PathBuf,
}

impl Program {
    fn job(self) -> Job {
        let mut command = Command::new(self.executable);
        command.current_dir(&self.directory).env("CARGO_MANIFEST_DIR", &self.directory);
        command.arg(format!("--test-threads={THREADS}"));
        Job::of(format!("{} {}", self.package, self.target), command)
    }
}

/// The test programs among cargo's messages.
fn programs(messages: &str) -> Result<Vec<Program>> {
    let mut programs = Vec::new();
    for line in messages.lines() {
        let message: Value = serde_json::from_str(line).context("a message of cargo is not JSON")?;
        if message["reason"] != "compiler-artifact" || message["profile"]["test"] != true {
            continue;
        }
        let text =
            |value: &Value| value.as_str().map(str::to_owned).context("a message of cargo lacks a field");
        let directory = PathBuf::from(text(&message["manifest_path"])?).with_file_name("");
        let name = directory.file_name().context("a package lies in no directory")?;
        let kind = text(&message["target"]["kind"][0])?;
        programs.push(Program {
            package: name.to_string_lossy().into_owned(),
            target: format!("{kind} {}", text(&message["target"]["name"])?),
            executable: text(&message["executable"])?.into(),
            directory,
        });
    }
    Ok(programs)
}

struct Job {
    name: String,
    /// What it printed, and whether it succeeded.
    run: Box<dyn FnOnce() -> Result<(Vec<u8>, bool)> + Send>,
}

impl Job {
    fn of(name: String, mut command: Command) -> Self {
        Self { name, run: Box::new(move || captured(&mut command)) }
    }
}

/// Runs the jobs, `at_once` at a time. Each one is run, also when others have failed. `tell` gets the name of a job
/// that has ended, what it printed, and how long it took.
fn all(jobs: VecDeque<Job>, at_once: usize, tell: impl Fn(&str, &[u8], Duration) + Sync) -> Result<()> {
    let count = jobs.len();
    let (jobs, failed) = (Mutex::new(jobs), Mutex::new(Vec::new()));
    let next = || lock(&jobs).pop_front();
    let work = || {
        while let Some(job) = next() {
            let begin = Instant::now();
            let (printed, end) = match (job.run)() {
                Ok((printed, true)) => (printed, None),
                Ok((printed, false)) => (printed, Some(format!("{} failed", job.name))),
                Err(error) => (Vec::new(), Some(format!("{} cannot be run: {error:#}", job.name))),
            };
            tell(&job.name, &printed, begin.elapsed());
            lock(&failed).extend(end);
        }
    };
    thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(work);
        }
    });
    let failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
    if !failed.is_empty() {
        bail!("{} of {count} test programs: {}", failed.len(), failed.join("; "));
    }
    Ok(())
}

/// What a program printed, on both outputs in its order, and whether it succeeded.
fn captured(command: &mut Command) -> Result<(Vec<u8>, bool)> {
    let mut file: File = tempfile::tempfile()?;
    command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file.try_clone()?);
    let status = command.status()?;
    let mut printed = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut printed)?;
    Ok((printed, status.success()))
}

fn tell(name: &str, printed: &[u8], took: Duration) {
    let mut out = std::io::stdout().lock();
    // An error means that nobody reads it any more.
    let _ = writeln!(out, "-- {name}, {:.1} s", took.as_secs_f64());
    let _ = out.write_all(printed);
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quiet(_: &str, _: &[u8], _: Duration) {}

    #[test]
    fn test_programs_are_found_among_the_messages() {
        let messages = r#"{"reason":"compiler-artifact","manifest_path":"/w/crates/a/Cargo.toml","target":{"kind":["lib"],"name":"a"},"profile":{"test":false},"executable":null}
{"reason":"compiler-artifact","manifest_path":"/w/crates/a/Cargo.toml","target":{"kind":["test"],"name":"it"},"profile":{"test":true},"executable":"/w/target/debug/deps/it-1"}
{"reason":"build-finished","success":true}"#;
        let expected = Program {
            package: "a".into(),
            target: "test it".into(),
            executable: "/w/target/debug/deps/it-1".into(),
            directory: "/w/crates/a/".into(),
        };
        assert_eq!(programs(messages).unwrap(), [expected]);
        assert!(programs("warning: not JSON").is_err());
    }

    #[test]
    fn each_job_is_run_and_failures_are_named() {
        let job = |name: &str, succeeds| Job {
            name: name.into(),
            run: Box::new(move || Ok((Vec::new(), succeeds))),
        };
        all([job("fine", true)].into(), 2, quiet).unwrap();
        let error =
            all([job("broken", false), job("fine", true), job("bad", false)].into(), 1, quiet).unwrap_err();
        assert_eq!(error.to_string(), "2 of 3 test programs: broken failed; bad failed");

        let (printed, succeeded) = captured(cargo().arg("no-such-command")).unwrap();
        assert!(!succeeded);
        assert!(String::from_utf8_lossy(&printed).contains("no-such-command"));
    }

    #[test]
    fn jobs_run_beside_each_other() {
        let (tell, told) = std::sync::mpsc::channel();
        let waits = move || Ok((Vec::new(), told.recv_timeout(Duration::from_secs(30)).is_ok()));
        let tells = move || Ok((Vec::new(), tell.send(()).is_ok()));
        let job = |run| Job { name: "one of two".into(), run };
        all([job(Box::new(waits) as Box<_>), job(Box::new(tells))].into(), 2, quiet).unwrap();
    }
}
