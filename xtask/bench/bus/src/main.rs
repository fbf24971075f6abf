//! Measures channel buses: `cargo xtask bench bus [--quick] [--only WORK] [--json FILE]`.
//!
//! Each work checks first that everything arrives. What is compared runs in interleaved rounds of one run, between the
//! same senders and subscribers, and only ratios mean something.

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};

mod cluster;
mod flow;
mod idle;
mod loader;
mod process;
mod silent;
mod stored;

/// What the command line says.
pub(crate) struct Options {
    /// A result in a minute or two instead of a good one.
    pub(crate) quick: bool,
    only: Option<String>,
    json: Option<String>,
}

/// A figure, and the bar that it is held to.
pub(crate) struct Figure {
    work: &'static str,
    name: String,
    unit: &'static str,
    value: f64,
    bar: Option<Bar>,
}

/// At most, or at least, so much.
#[derive(Clone, Copy)]
pub(crate) enum Bar {
    AtMost(f64),
    AtLeast(f64),
}

impl Figure {
    pub(crate) fn new(work: &'static str, name: impl Into<String>, unit: &'static str, value: f64) -> Self {
        Self { work, name: name.into(), unit, value, bar: None }
    }

    pub(crate) fn bar(mut self, bar: Bar) -> Self {
        self.bar = Some(bar);
        self
    }

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
        format!("{:<8} {:<66} {:>10.2} {:<8} {bar}{verdict}", self.work, self.name, self.value, self.unit)
    }
}

type Work = fn(&Options) -> Result<Vec<Figure>>;

const WORKS: [(&str, Work); 5] = [
    ("flow", flow::run),
    ("silent", silent::run),
    ("cluster", cluster::run),
    ("idle", idle::run),
    ("stored", stored::run),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // `xtask bench bus` names the benchmark, as it does for the others.
    let rest = arguments.strip_prefix(&["bus".to_owned()][..]).unwrap_or(&arguments);
    let result = match rest.split_first().map(|(first, rest)| (first.as_str(), rest)) {
        Some(("child-bus", rest)) => process::bus(rest),
        Some(("child-proxy", rest)) => process::proxy(rest),
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
    let mut figures = Vec::new();
    for (name, work) in WORKS {
        if options.only.as_deref().is_none_or(|only| name.contains(only)) {
            eprintln!("{name} ..");
            let found = work(&options).with_context(|| name.to_owned())?;
            for figure in &found {
                println!("{}", figure.line());
            }
            figures.extend(found);
        }
    }
    ensure!(!figures.is_empty(), "no work has such a name, or none could run");
    if let Some(path) = &options.json {
        let mut file = std::fs::File::create(path).with_context(|| format!("cannot write {path}"))?;
        for Figure { work, name, unit, value, .. } in &figures {
            let line =
                serde_json::json!({"bench": "bus", "work": work, "impl": name, "unit": unit, "value": value});
            writeln!(file, "{line}")?;
        }
    }
    let missed = figures.iter().filter(|figure| !figure.holds()).count();
    ensure!(missed == 0, "{missed} bars are missed");
    Ok(())
}

/// The middle one.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
