//! Measures Parsec's client and server: `cargo xtask bench parsec [--quick] [--only WORK] [--json FILE]`.
//!
//! Each work first checks that everything arrives: no envelope is lost, the order of each producer is kept, and as many
//! are missing as the fault dropped. The compared programs run in interleaved rounds of one run. Only ratios are
//! meaningful.

use relay_bench_report::{Options, Work, arguments, exit, finish, run_works};
use std::process::ExitCode;

mod corpus;
mod decode;
mod flow;
mod idle;
mod latency;
mod process;

const WORKS: [(&str, Work); 5] = [
    ("memory", flow::memory),
    ("sse", flow::sse),
    ("decode", decode::run),
    ("idle", idle::run),
    ("latency", latency::run),
];

fn main() -> ExitCode {
    let arguments = arguments("parsec");
    exit(match arguments.split_first().map(|(first, rest)| (first.as_str(), rest)) {
        Some(("child-server", rest)) => process::serve(rest),
        Some(("child-read", rest)) => flow::read(rest),
        _ => run(&arguments),
    })
}

fn run(arguments: &[String]) -> anyhow::Result<()> {
    let options = Options::parse(arguments)?;
    finish("parsec", &options, &run_works(&options, &WORKS)?)
}
