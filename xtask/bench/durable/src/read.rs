//! Reading existing data: JSON messages as values, and bytes.

use std::time::Instant;

use anyhow::{Result, ensure};
use bytes::Bytes;
use futures_util::StreamExt as _;
use relay_bench_report::{Bar, Options, median};
use relay_durable::{
    AppendOptions, Checkpoint, CreateOptions, Delivery, DurableStream, LiveMode, Offset, ReaderConfig,
};
use serde::Deserialize;

use crate::bare::Bare;
use crate::server::Running;
use crate::{Figures, peer};

fn start() -> (ReaderConfig, Checkpoint) {
    (ReaderConfig::default().mode(LiveMode::Off), Checkpoint::at(Offset::START))
}

/// Fails unless a stream has this many bytes.
pub(crate) async fn expect_bytes(server: &Running, stream: &DurableStream, bytes: usize) -> Result<()> {
    // Uses a separate client, whose connections are not part of the measurement.
    let client = server.client()?;
    let (config, from) = start();
    let mut reads = client.stream(stream.url())?.read_bytes(config, from);
    let mut found = 0;
    while let Some(delivery) = reads.next().await {
        if let Some(batch) = delivery?.batch() {
            found += batch.items.len();
        }
    }
    ensure!(found == bytes, "{} holds {found} bytes, not {bytes}", stream.url());
    Ok(())
}

/// A message as a program uses it.
#[derive(Deserialize)]
struct Message {
    n: u64,
    name: String,
    text: String,
}

/// A message of 100 bytes, including its comma.
fn message(n: usize) -> String {
    format!("{{\"n\":{n:07},\"name\":\"customer {:04}\",\"text\":\"{:x<45}\"}}", n % 10_000, "paid")
        .replace("\"n\":0", "\"n\":1")
}

pub(crate) fn json(options: &Options, server: &Running, figures: &mut Figures) -> Result<()> {
    let (rounds, count) = (options.pick(5, 9), 100_000);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let path = server.fresh("json");
    let kind = "application/json";
    let bytes = runtime.block_on(async {
        let stream =
            server.client()?.create(&path, CreateOptions::new().content_type(kind.to_owned())).await?;
        let messages: Vec<String> = (0..count).map(message).collect();
        for part in messages.chunks(10_000) {
            let body = format!("[{}]", part.join(","));
            stream.append(body, AppendOptions::new().raw(true).content_type(kind.to_owned())).await?;
        }
        anyhow::Ok(messages.iter().map(String::len).sum::<usize>())
    })?;
    let mib = bytes as f64 / f64::from(1 << 20);
    let (mut typed, mut values, mut theirs) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..rounds {
        let (one, other) = runtime.block_on(async {
            let client = server.client()?;
            let stream = client.stream(&path)?;
            let (config, from) = start();
            let began = Instant::now();
            let mut reads = stream.read_json::<Message>(config.clone(), from.clone());
            let (mut found, mut size) = (0, 0);
            while let Some(delivery) = reads.next().await {
                if let Delivery::Batch(batch) = delivery? {
                    found += batch.items.len();
                    size += batch
                        .items
                        .iter()
                        .map(|m| m.name.len() + m.text.len() + (m.n > 0) as usize)
                        .sum::<usize>();
                }
            }
            let one = began.elapsed().as_secs_f64();
            ensure!(found == count && size >= count * 58, "{found} messages, {size}");
            let began = Instant::now();
            let mut reads = stream.read_json::<serde_json::Value>(config, from);
            let mut found = 0;
            while let Some(delivery) = reads.next().await {
                found += delivery?.batch().map_or(0, |batch| batch.items.len());
            }
            ensure!(found == count, "{found} messages");
            Ok((one, began.elapsed().as_secs_f64()))
        })?;
        typed.push(mib / one);
        values.push(mib / other);
        // The TypeScript client needs seconds where this client needs a fifth of one, so it gets fewer rounds.
        if round < rounds.min(3)
            && let Some(seconds) = peer::run("json", &server.url, &path, count)?
        {
            theirs.extend(seconds.iter().map(|seconds| mib / seconds));
        }
    }
    figures.add("relay-durable, a struct", "MiB/s", median(&typed));
    figures.add("relay-durable, serde_json::Value", "MiB/s", median(&values));
    if !theirs.is_empty() {
        figures.add(peer::NAME, "MiB/s", median(&theirs));
        let ratio = median(&typed) / median(&theirs);
        figures.held("relay-durable / TypeScript", "", ratio, Some(Bar::AtLeast(40.0)));
    }
    Ok(())
}

pub(crate) fn bytes(options: &Options, server: &Running, figures: &mut Figures) -> Result<()> {
    let rounds = options.pick(5, 9);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let path = server.fresh("bytes");
    let (size, kind) = (64 << 20, "application/octet-stream");
    runtime.block_on(async {
        let stream =
            server.client()?.create(&path, CreateOptions::new().content_type(kind.to_owned())).await?;
        let body = Bytes::from(vec![7; 1 << 20]);
        for _ in 0..size >> 20 {
            stream.append(body.clone(), AppendOptions::new()).await?;
        }
        anyhow::Ok(())
    })?;
    let (mut ours, mut bare, mut theirs) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        runtime.block_on(async {
            let stream = server.client()?.stream(&path)?;
            let began = Instant::now();
            expect_bytes(server, &stream, size).await?;
            ours.push(64.0 / began.elapsed().as_secs_f64());
            let began = Instant::now();
            let mut connection = Bare::connect(stream.url()).await?;
            let (mut found, mut next) = (0, Some("-1".to_owned()));
            while let Some(offset) = next {
                let (length, behind) = connection.get(&format!("{}?offset={offset}", stream.url())).await?;
                (found, next) = (found + length, behind);
            }
            ensure!(found == size as u64, "{found} bytes");
            bare.push(64.0 / began.elapsed().as_secs_f64());
            anyhow::Ok(())
        })?;
        if let Some(seconds) = peer::run("bytes", &server.url, &path, size)? {
            theirs.extend(seconds.iter().map(|seconds| 64.0 / seconds));
        }
    }
    figures.add("relay-durable", "MiB/s", median(&ours));
    figures.add("hyper, bare GETs", "MiB/s", median(&bare));
    if !theirs.is_empty() {
        figures.add(peer::NAME, "MiB/s", median(&theirs));
    }
    Ok(())
}
