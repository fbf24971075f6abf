//! The JetStream engine: kills under traffic, and its rate compared with publishing, pulling and acknowledging alone.

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use async_nats::HeaderMap;
use async_nats::jetstream::consumer::{AckPolicy, pull};
use async_nats::jetstream::stream::{Config, RetentionPolicy, StorageType};
use async_nats::jetstream::{self};
use futures_util::StreamExt as _;
use relay_bench_report::{Bar, Figure, Options, median};

use crate::loader::{Load, Sender, Sink, send_all};
use crate::process::{Part, objects, processor_time};

const SENDERS: usize = 64;
const RATE: u64 = 500;
const CONNECTIONS: u64 = 4;

/// A NATS server. Dropping it ends it.
struct Nats {
    process: Child,
    url: String,
}

impl Nats {
    async fn start(directory: &Path) -> Result<Option<Self>> {
        let port = free_port()?.port();
        let mut command = Command::new("nats-server");
        command.args(["-a", "127.0.0.1", "-p", &port.to_string(), "-js", "-sd"]).arg(directory);
        let Ok(process) = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn() else {
            return Ok(None);
        };
        let nats = Self { process, url: format!("nats://127.0.0.1:{port}") };
        let begin = Instant::now();
        while async_nats::connect(&nats.url).await.is_err() {
            ensure!(begin.elapsed() < Duration::from_secs(20), "NATS does not start");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(Some(nats))
    }

    fn processor_time(&self) -> Result<Duration> {
        processor_time(&self.process.id().to_string())
    }
}

impl Drop for Nats {
    fn drop(&mut self) {
        // The process may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn free_port() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

pub(crate) fn run(options: &Options) -> Result<Vec<Figure>> {
    let directory = tempfile::tempdir()?;
    tokio::runtime::Runtime::new()?.block_on(async {
        let Some(nats) = Nats::start(&directory.path().join("nats")).await? else {
            eprintln!("stored: not run, as nats-server is not on the PATH");
            return Ok(Vec::new());
        };
        let mut figures = throughput(options, &nats, directory.path()).await?;
        let kills = if options.quick { 5 } else { 20 };
        let (sent, lost) = killed(kills, &nats, directory.path()).await?;
        figures.push(Figure::new(
            "stored",
            format!("messages taken around {kills} kills, 500 a second"),
            "",
            sent as f64,
        ));
        figures.push(
            Figure::new("stored", "of them lost to one of three subscribers", "", lost as f64)
                .bar(Bar::AtMost(0.0)),
        );
        Ok(figures)
    })
}

/// Messages a second, received and delivered.
async fn rate(load: &Load, to: SocketAddr, sink: &Sink, messages: u64) -> Result<f64> {
    let sink = sink.clone();
    let work = async move {
        let begin = Instant::now();
        let before = sink.count.load(Ordering::Acquire);
        send_all(to, SENDERS, messages, begin).await?;
        sink.wait_for(before + messages).await?;
        Ok(messages as f64 / begin.elapsed().as_secs_f64())
    };
    load.run(work).await
}

async fn throughput(options: &Options, nats: &Nats, directory: &Path) -> Result<Vec<Figure>> {
    let (rounds, messages) = if options.quick { (3, 10_000) } else { (5, 30_000) };
    let load = Load::start()?;
    let sink = load.run(Sink::start(Instant::now(), false, true)).await?;
    let file = objects(directory, 1, &[sink.url()])?;
    let file = file.to_string_lossy();
    let at = free_port()?.to_string();
    let mut bus = Part::own(&["child-bus", &file, "1024", "67108864", &at, &nats.url])?;
    let mut memory = Part::own(&["child-bus", &file, &messages.to_string(), "1073741824"])?;
    let (address, memory_at) = (bus.address()?, memory.address()?);
    let (mut ours, mut alone, mut http) = (Vec::new(), Vec::new(), Vec::new());
    let mut used = [Duration::ZERO; 4];
    for round in 0..=rounds {
        let times = || -> Result<[Duration; 3]> {
            Ok([bus.processor_time()?, nats.processor_time()?, load.processor_time()?])
        };
        let before = times()?;
        let one = rate(&load, address, &sink, messages).await?;
        let between = times()?;
        let other = bare(nats, messages, round).await?;
        let after = times()?;
        let without = rate(&load, memory_at, &sink, messages).await?;
        // The first round warms up.
        if round > 0 {
            ours.push(one);
            alone.push(other);
            http.push(without);
            for part in 0..3 {
                used[part] += between[part] - before[part];
            }
            used[3] += after[1] - between[1];
        }
    }
    let (ours, alone, http) = (median(&ours), median(&alone), median(&http));
    let each = |used: Duration| used.as_secs_f64() * 1e6 / (rounds as f64 * messages as f64);
    let figure = |name: &str, unit, value| Figure::new("stored", name, unit, value);
    Ok(vec![
        figure("async-nats alone: publish, pull, acknowledge, 64 at a time", "msg/s", alone),
        figure("memory engine: HTTP in and out, without NATS", "msg/s", http),
        figure("one after the other, if both take the whole machine", "msg/s", 1.0 / (1.0 / alone + 1.0 / http)),
        figure("JetStream engine, received and delivered", "msg/s", ours),
        figure("of async-nats alone", "%", 100.0 * ours / alone).bar(Bar::AtLeast(50.0)),
        figure("processor time of a message: bus", "us", each(used[0])),
        figure("processor time of a message: NATS", "us", each(used[1])),
        figure("processor time of a message: sender and subscriber", "us", each(used[2])),
        figure("processor time of a message: NATS for async-nats alone", "us", each(used[3])),
    ])
}

/// Messages per second without a bus. They have the header that the bus stores with each of its messages.
async fn bare(nats: &Nats, messages: u64, round: usize) -> Result<f64> {
    let context = jetstream::new(async_nats::connect(&nats.url).await?);
    let (name, subject) = (format!("bare{round}"), format!("bare.{round}"));
    let config = Config {
        name: name.clone(),
        subjects: vec![subject.clone()],
        retention: RetentionPolicy::Interest,
        storage: StorageType::File,
        ..Config::default()
    };
    let stream = context.create_stream(config).await?;
    let config = pull::Config {
        durable_name: Some("c".into()),
        ack_policy: AckPolicy::Explicit,
        ..pull::Config::default()
    };
    let consumer = stream.create_consumer(config).await?;
    let begin = Instant::now();
    let pulling = tokio::spawn(async move {
        let mut came = consumer.messages().await?;
        for _ in 0..messages {
            let message = came.next().await.context("the consumer ended")??;
            message.ack().await.map_err(|error| anyhow::anyhow!("{error}"))?;
        }
        Ok::<_, anyhow::Error>(())
    });
    let mut publishing = tokio::task::JoinSet::new();
    for sender in 0..SENDERS as u64 {
        let (context, subject) = (context.clone(), subject.clone());
        let count = messages / SENDERS as u64 + u64::from(sender < messages % SENDERS as u64);
        publishing.spawn(async move {
            for _ in 0..count {
                let mut headers = HeaderMap::new();
                headers.insert("ce-id", "1");
                let payload = vec![b'x'; 1024].into();
                context.publish_with_headers(subject.clone(), headers, payload).await?.await?;
            }
            Ok::<_, anyhow::Error>(())
        });
    }
    while let Some(published) = publishing.join_next().await {
        published??;
    }
    pulling.await??;
    let rate = messages as f64 / begin.elapsed().as_secs_f64();
    context.delete_stream(&name).await?;
    Ok(rate)
}

/// A bus that is killed this many times. Returns the number of accepted messages, and how many of them one of three
/// subscribers did not get.
async fn killed(kills: usize, nats: &Nats, directory: &Path) -> Result<(usize, usize)> {
    let begin = Instant::now();
    let mut sinks = Vec::new();
    for _ in 0..3 {
        sinks.push(Sink::start(begin, true, true).await?);
    }
    let to: Vec<String> = sinks.iter().map(Sink::url).collect();
    let file = objects(directory, 1, &to)?.to_string_lossy().into_owned();
    let at = free_port()?;
    let start = || Part::own(&["child-bus", &file, "1024", "67108864", &at.to_string(), &nats.url]);
    let taken = Arc::new(Mutex::new(BTreeSet::new()));
    for kill in 0..=kills {
        let mut bus = start()?;
        bus.address()?;
        let mut sending = tokio::task::JoinSet::new();
        for _ in 0..CONNECTIONS {
            let taken = taken.clone();
            // Sends until the bus is killed, possibly with a message in transit.
            sending.spawn(async move {
                let mut tick = tokio::time::interval(Duration::from_micros(1_000_000 * CONNECTIONS / RATE));
                let Ok(mut sender) = Sender::connect(at, "c0", 1024, begin).await else { return };
                loop {
                    tick.tick().await;
                    match sender.send().await {
                        Ok(202) => taken.lock().expect("nobody panics with it").insert(sender.last_time()),
                        Ok(_) => continue,
                        Err(_) => return,
                    };
                }
            });
        }
        tokio::time::sleep(Duration::from_millis(600 + 37 * (kill as u64 % 9))).await;
        if kill == kills {
            sending.shutdown().await;
            return arrived(&taken.lock().expect("nobody panics with it").clone(), &sinks, bus).await;
        }
        drop(bus);
        while sending.join_next().await.is_some() {}
    }
    unreachable!("the last round returns")
}

/// The number of accepted messages, and how many of them one of the subscribers has not got after a minute.
async fn arrived(taken: &BTreeSet<u64>, sinks: &[Sink], _bus: Part) -> Result<(usize, usize)> {
    let begin = Instant::now();
    loop {
        let lost = taken.iter().filter(|time| !sinks.iter().all(|sink| sink.remembers(**time))).count();
        if lost == 0 || begin.elapsed() > Duration::from_secs(60) {
            return Ok((taken.len(), lost));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
