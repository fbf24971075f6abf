//! `cargo xtask interop`: runs relay with real systems of others on this machine.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::{Usage, workspace};

mod address;
mod autoconfig;
mod bus;
mod cluster;
mod durable;
mod golang;
mod json_lines;
mod kube;
mod kube_bus;
mod link;
mod parsec;
mod printing;
pub(crate) mod process;
mod proxy;
mod relay;
mod sse;

/// The text of `interop --help` after the table of commands.
pub(crate) const DETAILS: &str = "\
Suites (all of them when none is named):
  sse    builds a server of event streams with github.com/launchdarkly/eventsource (Go 1.24), then follows it while it
         publishes, closes streams, compresses, is killed and started again
  kube   builds a Kubernetes API server with its etcd (Go 1.26; several minutes the first time, seconds later), then
         creates, changes and deletes pods, cuts connections and restarts the server, while `relay serve --source kube`
         and `relay replay` follow; then the same through the service proxy of that API server, for which the loopback
         device is given an address (192.0.2.1) meanwhile: this part is skipped when that is not allowed; and
         `relay bus monitor` with the rights of `relay bus crds --rbac` follows 2,000 channels
  parsec builds a server with github.com/centrifugal/centrifuge (Go 1.26), then publishes and subscribes by `relay parsec`
         while it disconnects, trims and forgets histories, refuses, is killed and started again
  durable installs the packages of the authors of Durable Streams with npm (Node.js 20), then runs their suite for
         servers against `relay durable serve`, in memory and in a directory
  autoconfig builds a service and a client of auto-configuration streams with github.com/launchdarkly/eventsource (Go
         1.24), then `relay autoconfig watch` follows the one while it publishes, compresses, reconnects, is killed and
         started again, and the other follows `relay autoconfig serve`
  bus    starts the program nats-server (2.9 or later, Debian package nats-server), then sends messages by
         `relay bus serve --engine jetstream` while subscribers fail, NATS goes away and the bus is killed twenty times;
         before that it builds a bus of 2018 from github.com/knative/eventing (Go 1.24) and puts it in chains with ours

  --relay PATH   use this relay binary instead of building one
  --only WORD    of `durable`: only the steps with that word in their name
  --keep         keep the directory with the logs, also when everything passed";

/// The server of the `parsec` suite, for benchmarks.
pub(crate) fn parsec_peer() -> Result<PathBuf> {
    parsec::build_peer()
}

type Suite = fn(&mut Run) -> Result<()>;

const SUITES: &[(&str, Suite)] = &[
    ("sse", sse::run),
    ("kube", kube::run),
    ("parsec", parsec::run),
    ("bus", bus::run),
    ("durable", durable::run),
    ("autoconfig", autoconfig::run),
];

/// Runs the named suites. Prints one line for each step, and a count as the last line.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    let options = Options::parse(arguments)?;
    let suites = SUITES
        .iter()
        .filter(|(name, _)| options.suites.is_empty() || options.suites.iter().any(|s| s == name));
    let mut failed = 0;
    for (name, suite) in suites {
        let mut run = Run::new(name, &options)?;
        if let Err(error) = suite(&mut run) {
            run.record("set-up", Err(error));
        }
        failed += run.finish();
    }
    if failed > 0 {
        bail!("{failed} failed");
    }
    Ok(())
}

#[derive(Debug, Default, PartialEq)]
struct Options {
    suites: Vec<String>,
    relay: Option<PathBuf>,
    only: Option<String>,
    keep: bool,
}

impl Options {
    fn parse(arguments: &[String]) -> Result<Self, Usage> {
        let mut options = Self::default();
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--keep" => options.keep = true,
                "--relay" => {
                    let path = arguments.next().ok_or_else(|| Usage("--relay needs a path".to_owned()))?;
                    options.relay = Some(path.into());
                }
                "--only" => {
                    let part = arguments.next().ok_or_else(|| Usage("--only needs a word".to_owned()))?;
                    options.only = Some(part.clone());
                }
                name if SUITES.iter().any(|(suite, _)| *suite == name) => {
                    options.suites.push(name.to_owned())
                }
                other => {
                    return Err(Usage(format!("`{other}` is neither a suite nor an option; see --help")));
                }
            }
        }
        Ok(options)
    }
}

/// One run of one suite: its directory, and its results so far.
struct Run {
    suite: &'static str,
    /// A directory for logs, keys and data of this run. It is removed afterwards, unless something failed.
    directory: tempfile::TempDir,
    relay: Option<PathBuf>,
    only: Option<String>,
    keep: bool,
    passed: u32,
    failed: u32,
    skipped: u32,
    started: Instant,
}

impl Run {
    fn new(suite: &'static str, options: &Options) -> Result<Self> {
        let base = workspace::target_directory()?.join("interop");
        std::fs::create_dir_all(&base).with_context(|| format!("cannot create {}", base.display()))?;
        Ok(Self {
            suite,
            directory: tempfile::Builder::new().prefix(&format!("{suite}-")).tempdir_in(base)?,
            relay: options.relay.clone(),
            only: options.only.clone(),
            keep: options.keep,
            passed: 0,
            failed: 0,
            skipped: 0,
            started: Instant::now(),
        })
    }

    fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The relay binary, built unless one was named.
    fn relay(&self) -> Result<PathBuf> {
        match &self.relay {
            Some(path) => path.canonicalize().with_context(|| format!("no relay at {}", path.display())),
            None => relay::build(),
        }
    }

    /// Runs one step of the suite. A failing step is recorded, and the suite continues.
    fn step(&mut self, name: &str, step: impl FnOnce() -> Result<()>) {
        if self.only.as_ref().is_some_and(|only| !name.contains(only)) {
            return;
        }
        let end = step();
        self.record(name, end);
    }

    fn record(&mut self, name: &str, end: Result<()>) {
        let at = self.started.elapsed().as_secs_f32();
        match end {
            Ok(()) => {
                self.passed += 1;
                println!("ok {name} ({at:.1} s)");
            }
            Err(error) => {
                self.failed += 1;
                println!("FAILED {name} ({at:.1} s): {error:#}");
            }
        }
    }

    /// Reports that a part of the suite cannot be run here, and why.
    fn skip(&mut self, part: &str, why: &anyhow::Error) {
        self.skipped += 1;
        println!("SKIPPED {part}: {why:#}");
    }

    /// Prints the closing lines and returns the number of failures.
    fn finish(self) -> u32 {
        if self.keep || self.failed > 0 {
            println!("logs are in {}", self.directory.keep().display());
        }
        let skipped = if self.skipped > 0 { format!(", {} SKIPPED", self.skipped) } else { String::new() };
        println!("interop {}: {} passed, {} failed{skipped}", self.suite, self.passed, self.failed);
        println!("{} passed, {} failed{skipped}", self.passed, self.failed);
        self.failed
    }
}

/// Repeats a request until there is an answer. At the deadline, the error includes the last failure.
fn wait_for<T>(what: &str, limit: Duration, mut ask: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        let last = match ask() {
            Ok(Some(value)) => return Ok(value),
            Ok(None) => None,
            Err(error) => Some(error),
        };
        if Instant::now() >= deadline {
            let late = format!("{what}: not within {} s", limit.as_secs());
            return Err(match last {
                Some(error) => error.context(late),
                None => anyhow::Error::msg(late),
            });
        }
        std::thread::sleep(Duration::from_millis(25));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<Options, String> {
        let arguments: Vec<String> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        Options::parse(&arguments).map_err(|usage| usage.to_string())
    }

    #[test]
    fn arguments_name_suites_and_options() {
        assert_eq!(parse(&[]), Ok(Options::default()));
        let all = Options {
            suites: vec!["kube".to_owned()],
            relay: Some("a/relay".into()),
            only: None,
            keep: true,
        };
        assert_eq!(parse(&["kube", "--keep", "--relay", "a/relay"]), Ok(all));
        assert_eq!(parse(&["--relay"]), Err("--relay needs a path".to_owned()));
        assert_eq!(parse(&["moon"]), Err("`moon` is neither a suite nor an option; see --help".to_owned()));
    }

    #[test]
    fn waiting_ends_with_the_last_error() {
        let mut asked = 0;
        let answer = wait_for("three", Duration::from_secs(60), || {
            asked += 1;
            Ok((asked == 3).then_some(asked))
        });
        assert_eq!(answer.unwrap(), 3);
        let late = wait_for::<()>("the moon", Duration::ZERO, || bail!("it is cloudy")).unwrap_err();
        assert_eq!(format!("{late:#}"), "the moon: not within 0 s: it is cloudy");
    }
}
