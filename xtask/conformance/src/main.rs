//! `relay-conformance pods|autoconfig [--dir D]`: plays the conversations of `fixtures`, or of another directory.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command line tool talks to its terminal")]

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use relay_conformance::{AutoconfigReport, Report};

const USAGE: &str = "relay-conformance pods|autoconfig [--dir DIRECTORY]";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let fixtures = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures"));
    let directory: PathBuf = match words[..] {
        ["autoconfig"] => return autoconfig(&fixtures.join("autoconfig")),
        ["autoconfig", "--dir", directory] => return autoconfig(Path::new(directory)),
        ["pods"] => fixtures.join("pods"),
        ["pods", "--dir", directory] => directory.into(),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match Report::of(&directory) {
        Ok(report) => {
            if report.conversations() == 0 {
                eprintln!("there is no *.jsonl file in {}", directory.display());
                return ExitCode::FAILURE;
            }
            print!("{report}");
            ExitCode::from(u8::from(report.failures().next().is_some()))
        }
        Err(mistake) => {
            eprintln!("{mistake}");
            ExitCode::FAILURE
        }
    }
}

/// Plays the conversations of auto-configuration streams.
fn autoconfig(directory: &Path) -> ExitCode {
    match AutoconfigReport::of(directory) {
        Ok(report) if report.conversations() == 0 => {
            eprintln!("there is no *.jsonl file in {}", directory.display());
            ExitCode::FAILURE
        }
        Ok(report) => {
            print!("{report}");
            ExitCode::from(u8::from(!report.failures().is_empty()))
        }
        Err(mistake) => {
            eprintln!("{mistake}");
            ExitCode::FAILURE
        }
    }
}
