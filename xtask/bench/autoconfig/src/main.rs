//! `cargo xtask bench autoconfig [--quick] [--json FILE]`: the client's state, the service and the close, each with its
//! limit.

use std::fmt::Write as _;
use std::process::ExitCode;

mod close;
mod serve;
mod state;

/// A figure, and its highest accepted value.
struct Figure {
    work: String,
    value: f64,
    unit: &'static str,
    bar: f64,
}

fn figure(work: impl Into<String>, value: f64, unit: &'static str, bar: f64) -> Figure {
    Figure { work: work.into(), value, unit, bar }
}

fn run(arguments: &[String]) -> anyhow::Result<bool> {
    let (mut quick, mut json) = (false, None);
    let mut arguments = arguments.iter().filter(|argument| *argument != "autoconfig");
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--quick" => quick = true,
            "--json" => json = arguments.next().cloned(),
            _ => anyhow::bail!("usage: cargo xtask bench autoconfig [--quick] [--json FILE]"),
        }
    }
    let mut figures = state::run(quick)?;
    figures.extend(serve::run()?);
    figures.extend(close::run(quick)?);
    let width = figures.iter().map(|figure| figure.work.chars().count()).max().unwrap_or(0);
    let mut lines = String::new();
    let mut kept = true;
    for Figure { work, value, unit, bar } in &figures {
        let verdict = if value <= bar { "" } else { "  OVER" };
        kept &= value <= bar;
        println!("{work:width$}  {value:>9.2} {unit:<6} at most {bar}{verdict}");
        let _ = writeln!(
            lines,
            "{{\"bench\":\"autoconfig\",\"work\":\"{work}\",\"unit\":\"{unit}\",\"value\":{value:.3},\"bar\":{bar}}}"
        );
    }
    if let Some(file) = json {
        std::fs::write(file, lines)?;
    }
    Ok(kept)
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The median.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
