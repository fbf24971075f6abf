//! Clients of event streams, from the socket to the event.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, bail, ensure};

use crate::measure::{self, Options, Result};

mod contenders;
mod server;
mod work;

use contenders::ALL;
pub use contenders::{idle, once};
pub use server::serve;
use work::{Seen, WORKS};

/// The contender that all others are compared with.
const BASE: &str = "hyper";

const CPU: &str = "cpu-s/M-events";
const RATE: &str = "events/s";
const PEAK: &str = "MiB-peak-rss";
const FRESH: &str = "KiB/connection-fresh";
const AFTER: &str = "KiB/connection-after-1-MB";

/// `bench client`: the cost of reading an event stream for the process that reads it.
///
/// Each measurement is a separate process, and so is the server, so that CPU time and memory are those of the client
/// alone.
pub fn run(arguments: &[String]) -> anyhow::Result<()> {
    let options = Options::parse(arguments)?;
    let wanted = |work: &str| options.only.as_deref().is_none_or(|only| work.contains(only));
    let (server, url) = start_server()?;
    let _server = Stopped(server);
    let rounds = if options.quick { 3 } else { 7 };
    let mut results = Vec::new();
    for work in WORKS.iter().filter(|work| wanted(work.name)) {
        let passes = if options.quick { work.quick_passes } else { 3 * work.quick_passes };
        let (url, pass) = (format!("{url}/{}", work.name), work.wire()?.holds);
        let mut runs: Vec<Vec<[f64; 3]>> = vec![Vec::new(); ALL.len()];
        for round in 1..=rounds {
            eprintln!("{}: round {round} of {rounds}", work.name);
            for (contender, runs) in ALL.iter().zip(&mut runs) {
                runs.push(child("client-once", contender.name, &url, passes, &pass)?);
            }
        }
        for (contender, runs) in ALL.iter().zip(&runs) {
            results.extend(figures(work.name, contender.name, [CPU, RATE, PEAK], runs)?);
        }
    }
    if wanted("idle") {
        let connections = if options.quick { 200 } else { 500 };
        let burst = work::burst()?.holds;
        let rounds = if options.quick { 1 } else { 3 };
        for contender in ALL {
            eprintln!("idle: {connections} connections of {}", contender.name);
            let runs = (0..rounds)
                .map(|_| child("client-idle", contender.name, &url, connections, &burst))
                .collect::<anyhow::Result<Vec<[f64; 2]>>>()?;
            results.extend(figures("idle", contender.name, [FRESH, AFTER], &runs)?);
        }
    }
    ensure!(!results.is_empty(), "no work has such a name");
    report(&results);
    if let Some(path) = &options.json {
        std::fs::write(path, measure::json(&results)).with_context(|| format!("cannot write {path}"))?;
    }
    Ok(())
}

fn report(results: &[Result]) {
    let print = |title: &str, unit: &str, decimals: usize| {
        let part: Vec<&Result> = results.iter().filter(|result| result.unit == unit).collect();
        if !part.is_empty() {
            println!("{title}:\n\n{}", measure::grid(&part, decimals));
        }
    };
    let ratios: Vec<Result> = results
        .iter()
        .filter(|result| result.unit == CPU)
        .filter_map(|result| {
            let base = |other: &&Result| {
                other.unit == CPU && other.work == result.work && other.name.starts_with("hyper ")
            };
            let value = result.value / results.iter().find(base)?.value;
            Some(Result { value, name: result.name.clone(), work: result.work.clone(), ..*result })
        })
        .collect();
    if !ratios.is_empty() {
        let ratios: Vec<&Result> = ratios.iter().collect();
        println!(
            "CPU time of the client per event, as a multiple of {BASE}'s:\n\n{}",
            measure::grid(&ratios, 2)
        );
    }
    print("CPU seconds of the client per million events, medians", CPU, 2);
    print("Events per second, medians", RATE, 0);
    print("Peak resident memory of the process, MiB", PEAK, 1);
    print("Resident memory per idle connection, KiB, fresh", FRESH, 1);
    print("The same after 1 MB of events on each", AFTER, 1);
}

fn figures<const N: usize>(
    work: &str,
    contender: &str,
    units: [&'static str; N],
    runs: &[[f64; N]],
) -> anyhow::Result<Vec<Result>> {
    let name = measure::labelled(contender)?;
    Ok((0..N)
        .map(|which| Result {
            bench: "client",
            work: work.to_owned(),
            name: name.clone(),
            unit: units[which],
            value: measure::median(runs.iter().map(|run| run[which]).collect()),
            runs: runs.len(),
        })
        .collect())
}

/// Runs a part of this program as a separate process, and reads the figures that it prints.
fn child<const N: usize>(
    part: &str,
    contender: &str,
    url: &str,
    times: u64,
    sent: &Seen,
) -> anyhow::Result<[f64; N]> {
    let output = Command::new(std::env::current_exe()?)
        .args([part, contender, url, &times.to_string()])
        .args(sent.arguments())
        .stderr(Stdio::inherit())
        .output()?;
    ensure!(output.status.success(), "{part} {contender} failed: {}", output.status);
    let text = String::from_utf8_lossy(&output.stdout);
    let figures = text.split_whitespace().map(str::parse).collect::<std::result::Result<Vec<f64>, _>>()?;
    figures.try_into().map_err(|_| anyhow::anyhow!("{part} {contender} printed {text:?}"))
}

fn start_server() -> anyhow::Result<(Child, String)> {
    let mut server = Command::new(std::env::current_exe()?)
        .arg("client-server")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut port = String::new();
    if let Some(stdout) = server.stdout.take() {
        BufReader::new(stdout).read_line(&mut port)?;
    }
    if port.trim().parse::<u16>().is_err() {
        let _ = server.kill();
        bail!("the server did not start");
    }
    Ok((server, format!("http://127.0.0.1:{}", port.trim())))
}

struct Stopped(Child);

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
