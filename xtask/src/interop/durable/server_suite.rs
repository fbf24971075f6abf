//! The public suite for servers with `relay durable serve`, in memory and in a directory.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::super::process::Process;
use super::super::{Run, wait_for};
use super::World;

/// The number of tests that must pass, of the 332 that run. `docs/durable.md` explains those that do not.
const MUST_PASS: usize = 330;

/// Runs the suite against both kinds of store.
pub(super) fn steps(run: &mut Run, world: &World) {
    for (name, directory) in [("memory", None), ("directory", Some("server-suite-data"))] {
        run.step(&format!("the public server suite, {name}"), || suite(world, name, directory));
    }
}

fn suite(world: &World, name: &str, directory: Option<&str>) -> Result<()> {
    let server = Server::start(world, &format!("server-suite-{name}.log"), directory)?;
    let report = world.directory.join(format!("server-suite-{name}.json"));
    let log = world.directory.join(format!("server-suite-{name}.vitest.log"));
    let mut vitest = world.packages.program("vitest");
    vitest.args(["run", "server.test.mjs", "--reporter=json"]).arg("--outputFile").arg(&report);
    vitest.env("SERVER_URL", &server.url).stdout(std::fs::File::create(&log)?);
    let mut running = Process::start_to(&mut vitest, &log)?;
    // The exit code only says whether every test passed; the report says which did not.
    running.wait(Duration::from_secs(300))?;
    let text = std::fs::read_to_string(&report).with_context(|| running.log_end())?;
    let outcome = Outcome::read(&text)?;
    println!("   {} passed, {} failed, {} skipped", outcome.passed, outcome.failed.len(), outcome.skipped);
    for name in &outcome.failed {
        println!("   missed: {name}");
    }
    ensure!(outcome.passed >= MUST_PASS, "{} tests passed, and {MUST_PASS} must", outcome.passed);
    let end = server.process.terminate(Duration::from_secs(20))?;
    ensure!(end.success(), "the server ended with {end}");
    Ok(())
}

/// `relay durable serve` on a free port.
pub(super) struct Server {
    pub(super) process: Process,
    pub(super) url: String,
}

impl Server {
    /// Starts a server whose long-polls wait 2 s, so that tests of their ends are fast.
    pub(super) fn start(world: &World, log: &str, directory: Option<&str>) -> Result<Self> {
        let log = world.directory.join(log);
        let mut command = Command::new(&world.relay);
        command.args(["durable", "serve", "--listen", "127.0.0.1:0", "--poll-wait", "2s"]);
        if let Some(directory) = directory {
            command.arg("--dir").arg(world.directory.join(directory));
        }
        command.env_remove("RELAY_DURABLE_DIR").stdout(Stdio::null());
        let mut process = Process::start_to(&mut command, &log)?;
        let url = wait_for("the server's address", Duration::from_secs(30), || {
            process.check_running()?;
            address(&log)
        })?;
        Ok(Self { process, url })
    }
}

/// The URL in the first line of a server.
fn address(log: &Path) -> Result<Option<String>> {
    let text = std::fs::read_to_string(log)?;
    let line =
        text.lines().find_map(|line| line.split_once("listening on ").filter(|_| text.ends_with('\n')));
    Ok(line.map(|(_, url)| url.trim().to_owned()))
}

/// The result of a run of vitest.
#[derive(Debug, Default, PartialEq)]
struct Outcome {
    passed: usize,
    failed: Vec<String>,
    skipped: usize,
}

impl Outcome {
    /// Reads a report of vitest's `json` reporter.
    fn read(report: &str) -> Result<Self> {
        let report: Value = serde_json::from_str(report).context("the report is not JSON")?;
        let files = report["testResults"].as_array().context("the report has no results")?;
        let mut outcome = Self::default();
        for test in files.iter().filter_map(|file| file["assertionResults"].as_array()).flatten() {
            match test["status"].as_str() {
                Some("passed") => outcome.passed += 1,
                Some("failed") => outcome.failed.push(test["fullName"].as_str().unwrap_or("?").to_owned()),
                _ => outcome.skipped += 1,
            }
        }
        Ok(outcome)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_counted_test_by_test() {
        let report = r#"{"success":false,"testResults":[{"assertionResults":[
            {"status":"passed","fullName":"a"},{"status":"failed","fullName":"b c"},{"status":"pending","fullName":"d"}
        ]},{"assertionResults":[{"status":"passed","fullName":"e"}]}]}"#;
        let expected = Outcome { passed: 2, failed: vec!["b c".to_owned()], skipped: 1 };
        assert_eq!(Outcome::read(report).unwrap(), expected);
        assert!(Outcome::read("{}").is_err());
    }
}
