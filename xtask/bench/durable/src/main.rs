//! Measures the client of durable streams: `cargo xtask bench durable [--quick] [--only WORK] [--json FILE]`.
//!
//! Next to it run bare requests over one connection of hyper, which is the limit, and the protocol's TypeScript client
//! where Node.js is there; on our server, and on another one where its program is there. Every round has a fresh
//! stream, and the bytes that arrive are counted. What is compared runs in interleaved rounds of one run, and only
//! ratios mean something.

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};

mod append;
mod bare;
mod live;
mod peer;
mod produce;
mod read;
mod server;

/// What the command line says.
pub(crate) struct Options {
    /// A result in a minute or two instead of a good one.
    pub(crate) quick: bool,
    only: Option<String>,
    json: Option<String>,
}

impl Options {
    /// One of two numbers.
    pub(crate) fn pick<T>(&self, quick: T, good: T) -> T {
        if self.quick { quick } else { good }
    }
}

/// A figure, and the bar that it is held to.
pub(crate) struct Figure {
    work: &'static str,
    server: &'static str,
    name: String,
    unit: &'static str,
    value: f64,
    bar: Option<Bar>,
}

pub(crate) enum Bar {
    AtMost(f64),
    AtLeast(f64),
}

/// Where figures of a work on a server go.
pub(crate) struct Figures {
    work: &'static str,
    server: &'static str,
    all: Vec<Figure>,
}

impl Figures {
    pub(crate) fn add(&mut self, name: impl Into<String>, unit: &'static str, value: f64) {
        self.held(name, unit, value, None);
    }

    pub(crate) fn held(&mut self, name: impl Into<String>, unit: &'static str, value: f64, bar: Option<Bar>) {
        let figure = Figure { work: self.work, server: self.server, name: name.into(), unit, value, bar };
        println!("{}", figure.line());
        self.all.push(figure);
    }
}

impl Figure {
    fn holds(&self) -> bool {
        match self.bar {
            Some(Bar::AtMost(most)) => self.value <= most,
            Some(Bar::AtLeast(least)) => self.value >= least,
            None => true,
        }
    }

    fn line(&self) -> String {
        let bar = match self.bar {
            Some(Bar::AtMost(most)) => format!("at most {most}"),
            Some(Bar::AtLeast(least)) => format!("at least {least}"),
            None => String::new(),
        };
        let verdict = if self.holds() { "" } else { "  MISSED" };
        let Self { work, server, name, value, unit, .. } = self;
        format!("{work:<9} {server:<6} {name:<44} {value:>12.3} {unit:<8} {bar}{verdict}")
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
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // `xtask bench durable` names the benchmark, as it does for the others.
    let rest = arguments.strip_prefix(&["durable".to_owned()][..]).unwrap_or(&arguments);
    let result = match rest.first().map(String::as_str) {
        Some("child-server") => server::serve(),
        _ => run(rest),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> Result<()> {
    let mut options = Options { quick: false, only: None, json: None };
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--quick" => options.quick = true,
            "--only" => options.only = Some(arguments.next().context("--only needs a work")?.clone()),
            "--json" => options.json = Some(arguments.next().context("--json needs a file")?.clone()),
            other => anyhow::bail!("unknown argument {other}"),
        }
    }
    let wanted = |name: &str| options.only.as_deref().is_none_or(|only| name.contains(only));
    let mut figures = Vec::new();
    for kind in server::KINDS {
        let Some(running) = server::Running::start(kind)? else {
            eprintln!("the server {kind} is not there: left out");
            continue;
        };
        for (name, work) in WORKS.iter().filter(|(name, _)| wanted(name)) {
            let mut found = Figures { work: name, server: kind, all: Vec::new() };
            work(&options, &running, &mut found).with_context(|| format!("{name} on {kind}"))?;
            figures.extend(found.all);
        }
    }
    ensure!(!figures.is_empty(), "no work has such a name");
    if let Some(path) = &options.json {
        let mut file = std::fs::File::create(path).with_context(|| format!("cannot write {path}"))?;
        for Figure { work, server, name, unit, value, .. } in &figures {
            let line = serde_json::json!({
                "bench": "durable", "work": format!("{work}/{server}"), "impl": name, "unit": unit, "value": value,
            });
            writeln!(file, "{line}")?;
        }
    }
    let missed = figures.iter().filter(|figure| !figure.holds()).count();
    ensure!(missed == 0, "{missed} bars are missed");
    Ok(())
}

/// The value in the middle.
pub(crate) fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}

/// The value that so large a part of all is below.
pub(crate) fn quantile(values: &[f64], part: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = ((sorted.len().max(1) - 1) as f64 * part).round() as usize;
    sorted.get(at).copied().unwrap_or(f64::NAN)
}
