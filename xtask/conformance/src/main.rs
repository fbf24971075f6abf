//! `relay-conformance pods [--dir D]`: plays the conversations of `fixtures/pods`, or of another directory.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command line tool talks to its terminal")]

use std::path::PathBuf;
use std::process::ExitCode;

use relay_conformance::Report;

const USAGE: &str = "relay-conformance pods [--dir DIRECTORY]";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let directory: PathBuf = match words[..] {
        ["pods"] => concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/pods").into(),
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
