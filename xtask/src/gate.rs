//! `cargo xtask test`: the checks that every change must pass. They need nothing but Rust.

mod programs;

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::Result;
use serde_json::Value;

use crate::workspace::{check, metadata, root};
use crate::{no_arguments, tidy, workspace};

/// The text of `test --help` after the table of commands.
pub(crate) const DETAILS: &str = "\
Needs nothing but Rust. Runs in order: rustfmt --check, tidy, clippy with warnings as errors (the whole workspace, then
each library without its features), rustdoc likewise, then every test and doctest, several test programs at a time.
Stops at the first step that fails; the last lines are the test runner's own.";

/// Runs the steps in order, the cheapest first and the tests last, so that the last lines are those of the test runner.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    no_arguments(arguments)?;
    let begin = Instant::now();
    step("format", begin);
    check(cargo().args(["fmt", "--all", "--check"]))?;
    step("tidy", begin);
    tidy::run(&[])?;
    step("clippy", begin);
    check(cargo().args(["clippy", "--locked", "--workspace", "--all-targets", "--", "--deny=warnings"]))?;
    // In the workspace above, all features of the command line are on. Each library must also build without any.
    step("without features", begin);
    for names in without_features(&metadata(root())?) {
        let mut clippy = cargo();
        clippy.args(["clippy", "--locked", "--no-default-features"]);
        check(
            clippy.args(names.iter().map(|name| format!("--package={name}"))).args(["--", "--deny=warnings"]),
        )?;
    }
    step("docs", begin);
    check(
        cargo().args(["doc", "--locked", "--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "--deny=warnings"),
    )?;
    step("tests", begin);
    programs::run()
}

/// Cargo without incremental compilation and without debug information, unless a variable says otherwise: a cold build
/// takes a quarter less time, and a panic still says where it was.
fn cargo() -> Command {
    let mut command = workspace::cargo();
    for variable in ["CARGO_INCREMENTAL", "CARGO_PROFILE_DEV_DEBUG"] {
        if std::env::var_os(variable).is_none() {
            command.env(variable, "0");
        }
    }
    command
}

/// The libraries under `crates/` that have features, in groups to be built together: alone those that others of them
/// depend on, as these turn features on.
fn without_features(metadata: &Value) -> Vec<Vec<String>> {
    fn list(value: &Value) -> impl Iterator<Item = &Value> {
        value.as_array().into_iter().flatten()
    }
    let crates = root().join("crates");
    let libraries: Vec<&Value> = list(&metadata["packages"])
        .filter(|package| {
            let path = package["manifest_path"].as_str();
            let is_library =
                list(&package["targets"]).any(|target| list(&target["kind"]).any(|kind| kind == "lib"));
            path.is_some_and(|path| Path::new(path).starts_with(&crates))
                && package["features"].as_object().is_some_and(|all| !all.is_empty())
                && is_library
        })
        .collect();
    let is_below = |name: &Value| {
        libraries.iter().any(|other| list(&other["dependencies"]).any(|needed| needed["name"] == *name))
    };
    let (below, above): (Vec<&Value>, _) =
        libraries.iter().map(|package| &package["name"]).partition(|name| is_below(name));
    let text = |name: &Value| name.as_str().unwrap_or_default().to_owned();
    let mut groups: Vec<Vec<String>> = below.into_iter().map(|name| vec![text(name)]).collect();
    groups.push(above.into_iter().map(text).collect());
    groups
}

/// Says that a step begins, and how long the steps before it took.
fn step(name: &str, begin: Instant) {
    println!("== {name}, after {:.0} s", begin.elapsed().as_secs_f64());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_with_features_are_built_without_them() {
        let groups = without_features(&metadata(root()).unwrap());
        let group = |name: &str| groups.iter().find(|group| group.contains(&name.to_owned()));
        for below in ["relay-proto", "relay-state", "relay-transport", "relay-log"] {
            assert_eq!(group(below).map(Vec::len), Some(1), "{below}: {groups:?}");
        }
        assert!(group("relay-bus").is_some_and(|group| group.contains(&"relay-parsec".to_owned())));
        for other in ["xtask", "relay-cli", "relay-testkit", "relay-durable"] {
            assert_eq!(group(other), None, "{groups:?}");
        }
    }
}
