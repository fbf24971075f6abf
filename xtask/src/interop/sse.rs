//! `interop sse`: the event stream client with a server in Go.
//!
//! The steps are tests of relay-transport, and of relay-cli for `relay sse`. This builds the server and runs each test
//! with it. Each test starts its own servers.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::{Run, golang};
use crate::workspace::{cargo, output};

/// The module of the tests that are run.
const MODULE: &str = "golang::";

/// Runs the suite.
pub(super) fn run(run: &mut Run) -> Result<()> {
    let needs = "this suite needs Go 1.24 or later on the PATH, and for the first build a way to the Go module \
                 github.com/launchdarkly/eventsource";
    let server = golang::build("sse", "sse-server", needs)?;
    for package in ["relay-transport", "relay-cli"] {
        let tests = build(package)?;
        let list = output(Command::new(&tests).args(["--list", "--ignored", "--format=terse"]))?;
        let names = names(&list);
        ensure!(!names.is_empty(), "there are no tests in {MODULE} of {package}");
        for name in names {
            run.step(name, || step(&tests, name, &server));
        }
    }
    Ok(())
}

/// Runs one test with the server.
fn step(tests: &Path, name: &str, server: &Path) -> Result<()> {
    let mut test = Command::new(tests);
    test.args([name, "--exact", "--ignored", "--nocapture"]).env("SSE_SERVER", server);
    let end = test.output().context("cannot run the tests")?;
    let text = String::from_utf8_lossy(&end.stdout);
    if !end.status.success() {
        let why = String::from_utf8_lossy(&end.stderr);
        let lines = why.lines().chain(text.lines()).filter(|line| !line.trim().is_empty());
        bail!("{}", lines.collect::<Vec<_>>().join(" / "));
    }
    ensure!(text.contains("1 passed"), "it was not run");
    Ok(())
}

/// Builds the tests of a package and returns where they are.
fn build(package: &str) -> Result<PathBuf> {
    println!("building the tests of {package}");
    let package = format!("--package={package}");
    let arguments = ["test", "--locked", "--no-run", &package, "--test=it"];
    let messages = output(cargo().args(arguments).arg("--message-format=json"))?;
    executable(&messages).context("cargo named no test binary")
}

/// The binary of the tests in cargo's messages; a package may have others.
fn executable(messages: &str) -> Option<PathBuf> {
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let tests = messages.filter(|message| message["target"]["kind"][0] == "test");
    tests.filter_map(|message| Some(message["executable"].as_str()?.into())).next_back()
}

/// The names of the tests in a list.
fn names(list: &str) -> Vec<&str> {
    let names = list.lines().filter_map(|line| line.strip_suffix(": test"));
    names.filter(|name| name.starts_with(MODULE)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_binary_and_its_tests_are_found() {
        let messages = r#"{"reason":"compiler-artifact","executable":null}
warning: not JSON
{"reason":"compiler-artifact","target":{"kind":["test"]},"executable":"/target/it-1"}
{"reason":"compiler-artifact","target":{"kind":["bin"]},"executable":"/target/relay"}
{"reason":"build-finished","success":true}"#;
        assert_eq!(executable(messages), Some("/target/it-1".into()));
        assert_eq!(executable(""), None);
        assert_eq!(names("golang::a: test\nproxy::b: test\n\n1 test, 0 benchmarks\n"), ["golang::a"]);
    }
}
