//! The set of pods: relay's cache compared with kube-rs' reflector store and with a hash map of `Arc`s.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use cpu_time::ThreadTime;

use crate::measure::{self, Options, Result as Figure};

mod corpus;
mod seeding;
mod stores;

use corpus::Cluster;
use stores::Store;

pub use seeding::once as seed_once;

/// The number of values of the label that is looked up.
const GROUPS: u64 = 10_000;

/// The measurements of one store at one size, in the order of the tables.
const WORKS: [(&str, &str, &str); 4] = [
    ("apply", "events/cpu-s", "Events decoded and applied per CPU second"),
    ("snapshot", "events/cpu-s", "The same with a snapshot after each event, kept until the next"),
    (
        "group",
        "look-ups/cpu-s",
        "Look-ups of one of 10,000 groups (of as many as there are pods, if fewer) per CPU second",
    ),
    ("memory", "bytes/pod", "Resident bytes per pod (less is better)"),
];

/// `bench state`: all stores at all sizes, each in a separate process, then seeding through HTTP.
pub fn run(arguments: &[String]) -> Result<()> {
    let options = Options::parse(arguments)?;
    stores::agree()?;
    let sizes: &[u64] =
        if options.quick { &[1_000, 10_000, 100_000] } else { &[1_000, 10_000, 100_000, 1_000_000] };
    let mut figures = Vec::new();
    for &size in sizes {
        if options.only.as_deref().is_some_and(|only| !size.to_string().contains(only)) {
            continue;
        }
        figures.extend(compare(size, &options)?);
    }
    for (work, _, title) in WORKS {
        let of_work: Vec<Figure> =
            figures.iter().filter(|figure| figure.work.starts_with(&format!("{work}/"))).cloned().collect();
        if !of_work.is_empty() {
            println!("{title}:\n\n{}", measure::table(&of_work));
        }
    }
    print_bars(&figures);
    if options.only.as_deref().is_none_or(|only| "seed".contains(only)) {
        figures.extend(seeding::run()?);
    }
    if let Some(path) = &options.json {
        std::fs::write(path, measure::json(&figures)).with_context(|| format!("cannot write {path}"))?;
    }
    Ok(())
}

/// Interleaved rounds of all stores at one size.
fn compare(size: u64, options: &Options) -> Result<Vec<Figure>> {
    let rounds = match (options.quick, size) {
        (true, _) => 1,
        (false, 1_000_000) => 3,
        (false, _) => 5,
    };
    let mut seen: BTreeMap<(usize, usize), Vec<f64>> = BTreeMap::new();
    for round in 1..=rounds {
        for (store, name) in stores::NAMES.iter().enumerate() {
            // With 11 KB per pod, a million pods need a machine with much memory.
            if size >= 1_000_000 && *name == "kube-runtime" && measure::available_memory()? < 14 << 30 {
                eprintln!("{name} is left out: {size} pods need 14 GB of memory that nobody uses");
                continue;
            }
            eprintln!("{size} pods, round {round} of {rounds}: {name}");
            let millis = if options.quick { "200" } else { "1000" };
            let output = Command::new(std::env::current_exe()?)
                .args(["state-once", name, &size.to_string(), millis])
                .output()?;
            ensure!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
            let text = String::from_utf8(output.stdout)?;
            for (work, value) in text.split_whitespace().enumerate() {
                seen.entry((work, store)).or_default().push(value.parse()?);
            }
        }
    }
    let mut figures = Vec::new();
    for ((work, store), values) in seen {
        let (work, unit, _) = WORKS.get(work).context("more figures than works")?;
        // The memory of a thousand pods is small compared with that of the program itself.
        if *work == "memory" && size < 10_000 {
            continue;
        }
        figures.push(Figure {
            bench: "state",
            work: format!("{work}/{size}"),
            name: if store == 0 { "relay".into() } else { measure::labelled(stores::NAMES[store])? },
            unit,
            runs: values.len(),
            value: measure::median(values),
        });
    }
    Ok(figures)
}

/// Prints what the tables do not show: how the cost of an event grows with the number of pods.
fn print_bars(figures: &[Figure]) {
    let relay = |work: &str| {
        figures.iter().find(|figure| figure.name == "relay" && figure.work == work).map(|figure| figure.value)
    };
    for work in ["apply", "snapshot", "group"] {
        let largest = figures.iter().filter_map(|figure| figure.work.strip_prefix(work)?.strip_prefix('/'));
        let Some(largest) = largest.max_by_key(|size| size.parse::<u64>().unwrap_or(0)) else { continue };
        if let Some((small, large)) = relay(&format!("{work}/1000")).zip(relay(&format!("{work}/{largest}")))
        {
            println!(
                "relay, {work}: at {largest} pods it costs {:.2} times what it costs at 1000.",
                small / large
            );
        }
    }
    println!();
}

/// `bench state-once STORE PODS MILLIS`: the part that runs in a separate process. Prints a figure for each of
/// [`WORKS`].
pub fn once(arguments: &[String]) -> Result<()> {
    let [name, pods, millis] = arguments else { bail!("usage: state-once STORE PODS MILLIS") };
    let (pods, target) = (pods.parse()?, Duration::from_millis(millis.parse()?));
    let mut cluster = Cluster::new(pods, GROUPS);
    let before = measure::memory("VmRSS")?;
    let mut store = stores::seeded(name, &cluster)?;
    let memory = measure::memory("VmRSS")?.saturating_sub(before);
    let apply = rate(&mut *store, &mut cluster, target, false)?;
    let snapshot = rate(&mut *store, &mut cluster, target, true)?;
    let group = look_ups(&*store, pods, target);
    println!("{apply} {snapshot} {group} {}", memory as f64 / pods as f64);
    Ok(())
}

/// Events per CPU second. A first part, which is not counted, brings the store to its steady state.
fn rate(store: &mut dyn Store, cluster: &mut Cluster, target: Duration, snapshots: bool) -> Result<f64> {
    let (mut events, mut spent) = (0, Duration::ZERO);
    let mut warm = false;
    while spent < target {
        let wire = store.events(cluster, 20_000);
        let mut chunks = wire.chunks.as_slice();
        // Small batches if each event takes long, and large ones if reading the clock would cost more than the work.
        let mut batch = 1;
        while !chunks.is_empty() && spent < target {
            let (now, later) = chunks.split_at(batch.min(chunks.len()));
            let start = ThreadTime::now();
            for chunk in now {
                events += store.feed(chunk, snapshots)?;
            }
            let took = start.elapsed();
            spent += took;
            chunks = later;
            if took < Duration::from_millis(10) {
                batch *= 2;
            }
        }
        // This part is not counted, but it must be read, because events span chunks and change what comes later.
        for chunk in chunks {
            store.feed(chunk, false)?;
        }
        if !std::mem::replace(&mut warm, true) && spent < target / 2 {
            (events, spent) = (0, Duration::ZERO);
        }
    }
    Ok(events as f64 / spent.as_secs_f64())
}

fn look_ups(store: &dyn Store, pods: u64, target: Duration) -> f64 {
    let groups = GROUPS.min(pods);
    let (mut count, mut number, mut batch) = (0_u64, 1, 1_u64);
    let mut spent = Duration::ZERO;
    while spent < target / 4 {
        let values: Vec<String> = (0..batch)
            .map(|_| {
                number = (number * 7_919 + 13) % groups;
                format!("d-{number}")
            })
            .collect();
        let start = ThreadTime::now();
        for value in &values {
            std::hint::black_box(store.group(value));
        }
        spent += start.elapsed();
        count += batch;
        batch = (batch * 2).min(4_096);
    }
    count as f64 / spent.as_secs_f64()
}
