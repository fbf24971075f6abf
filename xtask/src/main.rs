//! Task runner of the relay workspace: `cargo xtask COMMAND`.
//!
//! Every task of a contributor or of CI is one of the commands in [`COMMANDS`]; there is no other script with logic
//! in it. The product crates do not depend on this one.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command line tool talks to its terminal")]

use std::process::ExitCode;

mod bench;
mod conformance;
mod conformance_sse;
mod fuzz;
mod gate;
mod interop;
mod npm;
mod soak;
mod tidy;
mod workspace;

/// What can be run, in the order `--help` lists it.
const COMMANDS: &[Command] = &[
    Command {
        name: "test",
        arguments: "",
        about: "everything a change must pass: format, tidy, clippy, docs, tests and doctests",
        details: gate::DETAILS,
        run: gate::run,
    },
    Command {
        name: "tidy",
        arguments: "",
        about: "the house rules no compiler checks: layers, file names and sizes, documentation",
        details: "Prints one line per finding (`path:line: what is wrong`) and fails when there is one.",
        run: tidy::run,
    },
    Command {
        name: "interop",
        arguments: "[SUITE..] [--relay PATH] [--keep]",
        about: "relay next to real servers and clients of others: Go, Kubernetes, NATS, Node.js",
        details: interop::DETAILS,
        run: interop::run,
    },
    Command {
        name: "conformance",
        arguments: "[sse [--vectors FILE].. | pods|autoconfig [--dir DIRECTORY]]",
        about: "published rules, case by case: event streams (`sse`), conversations (`pods`, `autoconfig`)",
        details: conformance::DETAILS,
        run: conformance::run,
    },
    Command {
        name: "soak",
        arguments: "[autoconfig] [--for 10m] [--seed N]",
        about: "follow relays through random faults, and check that nothing is lost and nothing grows",
        details: soak::DETAILS,
        run: soak::run,
    },
    Command {
        name: "bench",
        arguments: "NAME [--quick] [--only WORK] [--json FILE]",
        about: "how fast it is next to its peers, in one run",
        details: bench::DETAILS,
        run: bench::run,
    },
    Command {
        name: "fuzz",
        arguments: "[TARGET] [--for 10m]",
        about: "look for inputs that break a promise",
        details: fuzz::DETAILS,
        run: fuzz::run,
    },
];

/// One entry of the command table.
struct Command {
    name: &'static str,
    arguments: &'static str,
    about: &'static str,
    details: &'static str,
    run: fn(&[String]) -> anyhow::Result<()>,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some(name) = arguments.first().map(String::as_str) else {
        eprint!("{}", overview());
        return ExitCode::from(2);
    };
    if matches!(name, "help" | "--help" | "-h") {
        print!("{}", overview());
        return ExitCode::SUCCESS;
    }
    let Some(command) = COMMANDS.iter().find(|command| command.name == name) else {
        eprintln!("xtask: no command `{name}`\n\n{}", overview());
        return ExitCode::from(2);
    };
    let rest = &arguments[1..];
    if rest.iter().any(|argument| argument == "--help" || argument == "-h") {
        println!(
            "cargo xtask {} {}\n\n{}\n\n{}",
            command.name, command.arguments, command.about, command.details
        );
        return ExitCode::SUCCESS;
    }
    match (command.run)(rest) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask {name}: {error:#}");
            ExitCode::from(if error.is::<Usage>() { 2 } else { 1 })
        }
    }
}

fn overview() -> String {
    let mut text = String::from("cargo xtask COMMAND [ARGUMENTS] (COMMAND --help says more)\n\n");
    for command in COMMANDS {
        text.push_str(&format!("  {:<12} {}\n", command.name, command.about));
    }
    text
}

/// A wrong use of the command line, which ends with exit code 2.
#[derive(Debug)]
struct Usage(String);

impl std::fmt::Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

/// Refuses arguments of a command that takes none.
fn no_arguments(arguments: &[String]) -> anyhow::Result<()> {
    match arguments.first() {
        None => Ok(()),
        Some(argument) => Err(Usage(format!("unexpected argument `{argument}`")).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_is_listed_once() {
        let text = overview();
        for command in COMMANDS {
            assert_eq!(text.matches(&format!("\n  {} ", command.name)).count(), 1, "{}", command.name);
        }
    }

    #[test]
    fn commands_without_arguments_refuse_them() {
        let error = no_arguments(&["--fast".to_owned()]).unwrap_err();
        assert!(error.is::<Usage>() && error.to_string().contains("--fast"));
    }
}
