//! Measures channel buses: `cargo xtask bench bus [--quick] [--only WORK] [--json FILE]`.
//!
//! Each work first checks that everything arrives. The compared programs run in interleaved rounds of one run, with the
//! same senders and subscribers. Only ratios are meaningful.

use relay_bench_report::{Options, Work, arguments, exit, finish, run_works};
use std::process::ExitCode;

mod cluster;
mod flow;
mod idle;
mod loader;
mod process;
mod silent;
mod stored;

const WORKS: [(&str, Work); 5] = [
    ("flow", flow::run),
    ("silent", silent::run),
    ("cluster", cluster::run),
    ("idle", idle::run),
    ("stored", stored::run),
];

fn main() -> ExitCode {
    let arguments = arguments("bus");
    exit(match arguments.split_first().map(|(first, rest)| (first.as_str(), rest)) {
        Some(("child-bus", rest)) => process::bus(rest),
        Some(("child-proxy", rest)) => process::proxy(rest),
        _ => run(&arguments),
    })
}

fn run(arguments: &[String]) -> anyhow::Result<()> {
    let options = Options::parse(arguments)?;
    finish("bus", &options, &run_works(&options, &WORKS)?)
}
