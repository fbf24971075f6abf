//! A hundred subscribers, one of which never answers: its effect on the others, and the memory that it needs.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use relay_bench_report::{Bar, Figure, Options, median};

use crate::loader::{Sender, Sink};
use crate::process::{Part, objects};

const SUBSCRIBERS: usize = 100;
/// Messages per second; there are a hundred times as many deliveries.
const RATE: u64 = 40;
const QUEUE: usize = 1024;
const QUEUE_BYTES: usize = 64 << 20;

/// The 99th percentile of the time from sending to delivery, in milliseconds.
async fn p99(to: SocketAddr, sinks: &[Sink], begin: Instant, messages: u64) -> Result<f64> {
    let mut sender = Sender::connect(to, "c0", 1024, begin).await?;
    for sink in sinks {
        sink.delays.lock().expect("nobody panics with it").clear();
    }
    let start = sinks[0].count.load(std::sync::atomic::Ordering::Acquire);
    let mut tick = tokio::time::interval(Duration::from_micros(1_000_000 / RATE));
    for _ in 0..messages {
        tick.tick().await;
        ensure!(sender.send().await? == 202);
    }
    for sink in sinks {
        sink.wait_for(start + messages).await?;
    }
    let mut delays: Vec<u64> = Vec::new();
    for sink in sinks {
        delays.append(&mut sink.delays.lock().expect("nobody panics with it"));
    }
    delays.sort_unstable();
    Ok(delays[delays.len() * 99 / 100] as f64 / 1e6)
}

pub(crate) fn run(options: &Options) -> Result<Vec<Figure>> {
    let (rounds, messages) = if options.quick { (5, 120) } else { (9, 400) };
    let directory = tempfile::tempdir()?;
    tokio::runtime::Runtime::new()?.block_on(async {
        let begin = Instant::now();
        let mut sinks = Vec::new();
        for _ in 1..SUBSCRIBERS {
            sinks.push(Sink::start(begin, true, true).await?);
        }
        let deaf = Sink::start(begin, false, false).await?;
        let answering: Vec<String> = sinks.iter().map(Sink::url).collect();
        let with: Vec<String> = answering.iter().cloned().chain([deaf.url()]).collect();
        let (queue, bytes) = (QUEUE.to_string(), QUEUE_BYTES.to_string());
        let start = |to: &[String]| -> Result<(Part, SocketAddr)> {
            let file = objects(directory.path(), 1, to)?;
            let mut bus = Part::own(&["child-bus", &file.to_string_lossy(), &queue, &bytes])?;
            let address = bus.address()?;
            Ok((bus, address))
        };
        let (_quiet, without_at) = start(&answering)?;
        let (bus, with_at) = start(&with)?;
        let (mut alone, mut beside) = (Vec::new(), Vec::new());
        for round in 0..=rounds {
            let one = p99(without_at, &sinks, begin, messages).await?;
            let other = p99(with_at, &sinks, begin, messages).await?;
            if round > 0 {
                alone.push(one);
                beside.push(other);
            }
        }
        let (alone, beside) = (median(&alone), median(&beside));
        let grown = memory_of_a_stall(&bus, with_at, &sinks).await?;
        Ok(vec![
            Figure::new("silent", "p99 from sending to delivery, 99 subscribers", "ms", alone),
            Figure::new("silent", "the same beside one that never answers", "ms", beside),
            Figure::new("silent", "of the run without it", "times", beside / alone).bar(Bar::AtMost(1.2)),
            Figure::new("silent", "memory that the silent one takes, 160 MB sent", "MiB", grown)
                .bar(Bar::AtMost((QUEUE_BYTES >> 20) as f64 * 1.25)),
        ])
    })
}

/// The growth of a bus in MiB while 160 MB in messages of 64 KiB arrive for a subscriber that accepts none.
async fn memory_of_a_stall(bus: &Part, to: SocketAddr, sinks: &[Sink]) -> Result<f64> {
    let before = bus.memory()?;
    let mut sender = Sender::connect(to, "c0", 64 << 10, Instant::now()).await?;
    let start = sinks[0].count.load(std::sync::atomic::Ordering::Acquire);
    for number in 0..2500 {
        ensure!(sender.send().await? == 202);
        // Waits for the other subscribers, so that only messages for the silent one are queued.
        if number % 16 == 15 {
            for sink in sinks {
                sink.wait_for(start + number + 1).await?;
            }
        }
    }
    Ok((bus.memory()? - before) / f64::from(1 << 20))
}
