//! Options, figures and limits: what a benchmark reads from its command line, what it prints and writes, and when it
//! fails.

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail, ensure};

/// The options of the command line.
pub struct Options {
    /// Whether to be done in a minute or two, with a less exact result.
    pub quick: bool,
    only: Option<String>,
    json: Option<String>,
}

impl Options {
    /// Reads `[--quick] [--only WORK] [--json FILE]`.
    ///
    /// # Errors
    /// The argument that is unknown, or lacks its value.
    pub fn parse(arguments: &[String]) -> Result<Self> {
        let mut options = Self { quick: false, only: None, json: None };
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--quick" => options.quick = true,
                "--only" => options.only = Some(arguments.next().context("--only needs a work")?.clone()),
                "--json" => options.json = Some(arguments.next().context("--json needs a file")?.clone()),
                other => bail!("unknown argument {other}"),
            }
        }
        Ok(options)
    }

    /// Returns one of two numbers, depending on `quick`.
    pub fn pick<T>(&self, quick: T, good: T) -> T {
        if self.quick { quick } else { good }
    }

    /// Whether the work with this name is wanted.
    pub fn wants(&self, work: &str) -> bool {
        self.only.as_deref().is_none_or(|only| work.contains(only))
    }
}

/// The limit of a figure.
#[derive(Clone, Copy)]
pub enum Bar {
    /// The highest accepted value.
    AtMost(f64),
    /// The lowest accepted value.
    AtLeast(f64),
}

/// A figure, and its limit.
pub struct Figure {
    work: String,
    name: String,
    unit: &'static str,
    value: f64,
    bar: Option<Bar>,
}

impl Figure {
    /// A figure without a limit.
    pub fn new(work: impl Into<String>, name: impl Into<String>, unit: &'static str, value: f64) -> Self {
        Self { work: work.into(), name: name.into(), unit, value, bar: None }
    }

    /// Sets the limit.
    #[must_use]
    pub fn bar(mut self, bar: Bar) -> Self {
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

    /// Prints the line of the figure.
    pub fn print(&self) {
        let bar = match self.bar {
            Some(Bar::AtMost(most)) => format!("at most {most}"),
            Some(Bar::AtLeast(least)) => format!("at least {least}"),
            None => String::new(),
        };
        let verdict = if self.holds() { "" } else { "  MISSED" };
        let Self { work, name, unit, value, .. } = self;
        println!("{work:<14} {name:<66} {value:>12.3} {unit:<9} {bar}{verdict}");
    }
}

/// A part of a benchmark.
pub type Work = fn(&Options) -> Result<Vec<Figure>>;

/// Runs the wanted works, and prints their figures.
///
/// # Errors
/// The first work that failed.
pub fn run_works(options: &Options, works: &[(&str, Work)]) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for (name, work) in works.iter().filter(|(name, _)| options.wants(name)) {
        eprintln!("{name} ..");
        let found = work(options).with_context(|| (*name).to_owned())?;
        found.iter().for_each(Figure::print);
        figures.extend(found);
    }
    Ok(figures)
}

/// Writes the figures to the file of `--json`, as one object per line.
///
/// # Errors
/// There is no figure, the file cannot be written, or a figure is outside its limit.
pub fn finish(bench: &str, options: &Options, figures: &[Figure]) -> Result<()> {
    ensure!(!figures.is_empty(), "no work has such a name, or none could run");
    if let Some(path) = &options.json {
        let mut file = std::fs::File::create(path).with_context(|| format!("cannot write {path}"))?;
        for Figure { work, name, unit, value, .. } in figures {
            let line =
                serde_json::json!({"bench": bench, "work": work, "impl": name, "unit": unit, "value": value});
            writeln!(file, "{line}")?;
        }
    }
    let missed = figures.iter().filter(|figure| !figure.holds()).count();
    ensure!(missed == 0, "{missed} bars are missed");
    Ok(())
}

/// The arguments of the program. `xtask bench NAME` names the benchmark first, which is left out.
pub fn arguments(bench: &str) -> Vec<String> {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|first| first == bench) {
        arguments.remove(0);
    }
    arguments
}

/// The exit code of the program.
pub fn exit(result: Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The median.
pub fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}

/// The value below which this part of all values lies; NaN if there are none.
pub fn quantile(values: &[f64], part: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = ((sorted.len().max(1) - 1) as f64 * part).round() as usize;
    sorted.get(at).copied().unwrap_or(f64::NAN)
}
