//! Rounds, medians, and tables.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::Context as _;
use cpu_time::ThreadTime;

/// The options of the command line that every benchmark has.
pub struct Options {
    /// Whether to be done in under a minute, with a less exact result.
    pub quick: bool,
    /// The file for the results, one JSON object per line.
    pub json: Option<String>,
    /// Runs only works whose name contains this.
    pub only: Option<String>,
}

impl Options {
    pub fn parse(arguments: &[String]) -> anyhow::Result<Self> {
        let mut options = Self { quick: false, json: None, only: None };
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().cloned().with_context(|| format!("{argument} needs a value"));
            match argument.as_str() {
                "--quick" => options.quick = true,
                "--json" => options.json = Some(value()?),
                "--only" => options.only = Some(value()?),
                _ => anyhow::bail!("unknown argument {argument}"),
            }
        }
        Ok(options)
    }

    /// The number of rounds, and the least CPU time of one measurement in a round.
    pub fn rounds(&self) -> (usize, Duration) {
        if self.quick { (3, Duration::from_millis(25)) } else { (9, Duration::from_millis(100)) }
    }
}

/// One figure.
#[derive(Clone)]
pub struct Result {
    pub bench: &'static str,
    pub work: String,
    /// `relay`, `limit:NAME` or a crate and its version.
    pub name: String,
    pub unit: &'static str,
    pub value: f64,
    /// The number of measurements whose median the value is.
    pub runs: usize,
}

/// A measured program: one pass over `bytes` of input.
pub struct Contender<'a> {
    pub name: String,
    pub pass: Box<dyn Fn() + 'a>,
    /// The CPU time of an earlier pass, from which the number of passes in a measurement is derived.
    pub estimate: Duration,
}

/// Megabytes (10^6) per CPU second of each contender, interleaved.
pub fn throughput(
    bench: &'static str,
    work: &str,
    bytes: usize,
    contenders: &[Contender<'_>],
    options: &Options,
) -> Vec<Result> {
    let (rounds, target) = options.rounds();
    let mut rates: Vec<Vec<f64>> = contenders.iter().map(|_| Vec::new()).collect();
    for _ in 0..rounds {
        for (contender, rates) in contenders.iter().zip(&mut rates) {
            // A participant that needs seconds where others need milliseconds is measured only once.
            if contender.estimate > 10 * target && !rates.is_empty() {
                continue;
            }
            let passes = (target.as_secs_f64() / contender.estimate.as_secs_f64().max(1e-9)).ceil() as usize;
            let start = ThreadTime::now();
            for _ in 0..passes {
                (contender.pass)();
            }
            let seconds = start.elapsed().as_secs_f64();
            rates.push((bytes * passes) as f64 / seconds / 1e6);
        }
    }
    contenders
        .iter()
        .zip(rates)
        .map(|(contender, rates)| Result {
            bench,
            work: work.to_owned(),
            name: contender.name.clone(),
            unit: "MB/cpu-s",
            runs: rates.len(),
            value: median(rates),
        })
        .collect()
}

/// The median.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The name of a crate with its version from the lock file; parts of relay without a version.
pub fn labelled(name: &str) -> anyhow::Result<String> {
    if name.starts_with("relay") || name == "hashmap" {
        return Ok(name.into());
    }
    let lock = include_str!("../Cargo.lock");
    let (_, package) = lock
        .split_once(&format!("name = \"{name}\"\nversion = \""))
        .with_context(|| format!("{name} is not locked"))?;
    let version = package.split('"').next().unwrap_or_default();
    Ok(format!("{name} {version}"))
}

/// The works and the names in the results, in the order of their first occurrence.
fn axes<'a>(results: impl IntoIterator<Item = &'a Result>) -> (Vec<&'a str>, Vec<&'a str>) {
    let (mut works, mut names): (Vec<&str>, Vec<&str>) = Default::default();
    for Result { work, name, .. } in results {
        if !works.contains(&work.as_str()) {
            works.push(work);
        }
        if !names.contains(&name.as_str()) {
            names.push(name);
        }
    }
    (works, names)
}

/// A table with a row per contender and a column per work.
pub fn grid(results: &[&Result], decimals: usize) -> String {
    let (works, names) = axes(results.iter().copied());
    let width = names.iter().map(|name| name.len()).max().unwrap_or(0);
    let mut out = format!("| {:width$} |", "");
    for work in &works {
        let _ = write!(out, " {work:>8} |");
    }
    let _ = write!(out, "\n|{}|", "-".repeat(width + 2));
    for work in &works {
        let _ = write!(out, "{}:|", "-".repeat(work.len().max(8) + 1));
    }
    out.push('\n');
    for name in &names {
        let _ = write!(out, "| {name:width$} |");
        for work in &works {
            let value = results.iter().find(|result| result.work == *work && result.name == *name);
            let text = value.map_or("-".into(), |result| format!("{:.decimals$}", result.value));
            let _ = write!(out, " {text:>0$} |", work.len().max(8));
        }
        out.push('\n');
    }
    out
}

/// A table with a row per work and a column per participant, and below it the ratio of relay to the best other one.
pub fn table(results: &[Result]) -> String {
    let (works, names) = axes(results);
    let mut out = String::new();
    let width = works.iter().map(|work| work.len()).max().unwrap_or(0);
    let _ = write!(out, "| {:width$} |", "work");
    for name in &names {
        let _ = write!(out, " {name} |");
    }
    let _ = write!(out, " relay / best peer |\n|{}|", "-".repeat(width + 2));
    for name in &names {
        let _ = write!(out, "{}:|", "-".repeat(name.len() + 1));
    }
    let _ = writeln!(out, "{}:|", "-".repeat(18));
    for work in works {
        let _ = write!(out, "| {work:width$} |");
        let find = |name: &str| results.iter().find(|result| result.work == work && result.name == name);
        for name in &names {
            let text = find(name).map_or("-".into(), |result| format!("{:.0}", result.value));
            let _ = write!(out, " {text:>0$} |", name.len());
        }
        let less_is_better =
            find("relay").is_some_and(|r| ["instructions/event", "bytes/pod"].contains(&r.unit));
        let peers = names
            .iter()
            .filter(|name| **name != "relay" && !name.starts_with("limit:"))
            .filter_map(|name| find(name))
            .map(|result| result.value);
        let best = peers.reduce(if less_is_better { f64::min } else { f64::max });
        let ratio = match (find("relay"), best) {
            (Some(relay), Some(best)) => format!("{:.2}", relay.value / best),
            _ => "-".into(),
        };
        let _ = writeln!(out, " {ratio:>17} |");
    }
    out
}

/// One JSON object per line. No name needs escaping.
pub fn json(results: &[Result]) -> String {
    let mut out = String::new();
    for Result { bench, work, name, unit, value, runs } in results {
        let _ = writeln!(
            out,
            "{{\"bench\":\"{bench}\",\"work\":\"{work}\",\"impl\":\"{name}\",\"unit\":\"{unit}\",\"value\":{value:.3},\"runs\":{runs}}}"
        );
    }
    out
}

/// Memory of this process in bytes: `VmRSS` is the present amount, `VmHWM` the highest one so far.
pub fn memory(name: &str) -> anyhow::Result<u64> {
    kilobytes("/proc/self/status", name)
}

/// Free memory of the machine, in bytes.
pub fn available_memory() -> anyhow::Result<u64> {
    kilobytes("/proc/meminfo", "MemAvailable")
}

/// The figure with this name, in bytes.
fn kilobytes(path: &str, name: &str) -> anyhow::Result<u64> {
    let text = std::fs::read_to_string(path)?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let number = line.and_then(|line| line.trim().strip_suffix(" kB")).context("no such figure")?;
    Ok(number.trim().parse::<u64>()? << 10)
}
