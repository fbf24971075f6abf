//! `cargo xtask bench table`: a table must not take longer than the JSON.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::interop::process::{Process, first_line};
use crate::workspace::{cargo, check, root, target_directory};

const PODS: usize = 100_000;
/// The highest time of a table relative to the JSON.
const BAR: f64 = 1.2;

pub(super) fn run(quick: bool) -> Result<()> {
    check(cargo().current_dir(root()).args([
        "build",
        "--quiet",
        "--release",
        "--locked",
        "-p",
        "relay-cli",
    ]))?;
    let relay = target_directory()?.join("release/relay");
    let folder = tempfile::tempdir()?;
    let pods = PODS.to_string();
    let mut serve = Command::new(&relay);
    serve.args(["serve", "--listen", "127.0.0.1:0", "--sim-rate", "0", "--sim-pods", &pods]);
    let (_serve, output) = Process::start_piped(&mut serve, &folder.path().join("serve.log"))?;
    let url = first_line(output)?.rsplit(' ').next().unwrap_or_default().to_owned();
    let file = folder.path().join("out");
    let begin = Instant::now();
    // The relay listens before it has all pods.
    while list(&relay, &url, "json", &file).map(|_| lines(&file)).ok() != Some(PODS) {
        ensure!(begin.elapsed() < Duration::from_secs(120), "the relay never lists {PODS} pods");
        std::thread::sleep(Duration::from_millis(200));
    }
    let rounds = if quick { 3 } else { 9 };
    let (mut tables, mut json) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        tables.push(list(&relay, &url, "table", &file)?);
        ensure!(lines(&file) == PODS + 1, "the table has not all pods");
        json.push(list(&relay, &url, "json", &file)?);
    }
    let (table, json) = (median(tables), median(json));
    let ratio = table.as_secs_f64() / json.as_secs_f64();
    println!(
        "{PODS} pods, {rounds} rounds, medians: table {table:.2?}, JSON {json:.2?}, ratio {ratio:.2} (bar {BAR})"
    );
    ensure!(ratio <= BAR, "the table takes {ratio:.2} times as long as the JSON");
    Ok(())
}

fn list(relay: &Path, url: &str, format: &str, file: &Path) -> Result<Duration> {
    let begin = Instant::now();
    let listing = Command::new(relay)
        .args(["pods", "--url", url, "-o", format])
        .stdout(File::create(file)?)
        .stderr(Stdio::null())
        .status()?;
    ensure!(listing.success(), "relay pods -o {format}: {listing}");
    Ok(begin.elapsed())
}

fn lines(file: &Path) -> usize {
    std::fs::read(file).map_or(0, |bytes| bytes.iter().filter(|byte| **byte == b'\n').count())
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}
