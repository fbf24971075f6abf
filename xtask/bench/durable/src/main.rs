//! Measures the client of durable streams: `cargo xtask bench durable [--quick] [--only WORK] [--json FILE]`.
//!
//! The client is compared with bare requests over one connection of hyper, which is the limit, and with the protocol's
//! TypeScript client if Node.js is there. It runs with the server of this project, and with another server if its
//! program is there. Every round has a new stream, and the bytes that arrive are counted. The compared programs run in
//! interleaved rounds of one run. Only ratios are meaningful.

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use relay_bench_report::{Bar, Figure, Options, arguments, exit, finish};

mod append;
mod bare;
mod live;
mod peer;
mod produce;
mod read;
mod server;

/// Collects the figures of a work with one server.
pub(crate) struct Figures {
    work: String,
    all: Vec<Figure>,
}

impl Figures {
    pub(crate) fn add(&mut self, name: impl Into<String>, unit: &'static str, value: f64) {
        self.held(name, unit, value, None);
    }

    pub(crate) fn held(&mut self, name: impl Into<String>, unit: &'static str, value: f64, bar: Option<Bar>) {
        let figure = Figure::new(&*self.work, name, unit, value);
        let figure = bar.into_iter().fold(figure, Figure::bar);
        figure.print();
        self.all.push(figure);
    }
}

type Work = fn(&Options, &server::Running, &mut Figures) -> Result<()>;

const WORKS: [(&str, Work); 6] = [
    ("append", append::run),
    ("small", produce::small),
    ("large", produce::large),
    ("json", read::json),
    ("bytes", read::bytes),
    ("live", live::run),
];

fn main() -> ExitCode {
    let arguments = arguments("durable");
    exit(match arguments.first().map(String::as_str) {
        Some("child-server") => server::serve(),
        _ => run(&arguments),
    })
}

fn run(arguments: &[String]) -> Result<()> {
    let options = Options::parse(arguments)?;
    let mut figures = Vec::new();
    for kind in server::KINDS {
        let Some(running) = server::Running::start(kind)? else {
            eprintln!("the server {kind} is not there: left out");
            continue;
        };
        for (name, work) in WORKS.iter().filter(|(name, _)| options.wants(name)) {
            let mut found = Figures { work: format!("{name}/{kind}"), all: Vec::new() };
            work(&options, &running, &mut found).with_context(|| format!("{name} on {kind}"))?;
            figures.extend(found.all);
        }
    }
    finish("durable", &options, &figures)
}
