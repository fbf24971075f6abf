//! An idempotent producer with small messages, and with some of 1 MiB.

use std::time::Instant;

use anyhow::{Result, ensure};
use bytes::Bytes;
use relay_bench_report::{Bar, Options, median};
use relay_durable::{CreateOptions, DurableStream, IdempotentProducer, ProducerOptions};

use crate::bare::Bare;
use crate::server::Running;
use crate::{Figures, peer, read};

const KIND: &str = "text/plain";

/// Messages per second of a producer with its default settings.
async fn produced(server: &Running, stream: &DurableStream, size: usize, count: usize) -> Result<f64> {
    let message = Bytes::from(vec![b'x'; size]);
    let options = ProducerOptions::new("bench").content_type(KIND);
    let producer = IdempotentProducer::start(stream, options).await?;
    let began = Instant::now();
    for at in 0..count {
        producer
            .append_owned(message.clone(), at as u64 + 1)
            .await
            .map_err(|error| anyhow::anyhow!("{error}"))?;
    }
    producer.flush().await.map_err(|error| anyhow::anyhow!("{error}"))?;
    let rate = count as f64 / began.elapsed().as_secs_f64();
    read::expect_bytes(server, stream, size * count).await?;
    Ok(rate)
}

/// Messages per second if each bare request carries as many as fit into 1 MiB, or one; with or without the headers of a
/// producer.
async fn posted(
    server: &Running,
    stream: &DurableStream,
    size: usize,
    count: usize,
    numbered: bool,
) -> Result<f64> {
    let most = ((1 << 20) / size).max(1);
    let body = Bytes::from(vec![b'x'; size * most]);
    let mut connection = Bare::connect(stream.url()).await?;
    let began = Instant::now();
    let (mut left, mut number) = (count, 0);
    while left > 0 {
        let now = left.min(most);
        let body = body.slice(..size * now);
        connection.post_numbered(stream.url(), KIND, body, numbered.then_some(number)).await?;
        (left, number) = (left - now, number + 1);
    }
    let rate = count as f64 / began.elapsed().as_secs_f64();
    read::expect_bytes(server, stream, size * count).await?;
    Ok(rate)
}

struct Rates {
    ours: Vec<f64>,
    bare: Vec<f64>,
    numbered: Vec<f64>,
    theirs: Vec<f64>,
}

fn rates(server: &Running, rounds: usize, size: usize, count: usize) -> Result<Rates> {
    // There are two threads: one for the program that appends, and one for the producer's task.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let mut rates = Rates { ours: Vec::new(), bare: Vec::new(), numbered: Vec::new(), theirs: Vec::new() };
    for _ in 0..rounds {
        runtime.block_on(async {
            let client = server.client()?;
            let fresh = || CreateOptions::new().content_type(KIND.to_owned());
            let stream = client.create(&server.fresh("ours"), fresh()).await?;
            rates.ours.push(produced(server, &stream, size, count).await?);
            let stream = client.create(&server.fresh("bare"), fresh()).await?;
            rates.bare.push(posted(server, &stream, size, count, false).await?);
            let stream = client.create(&server.fresh("numbered"), fresh()).await?;
            rates.numbered.push(posted(server, &stream, size, count, true).await?);
            let path = server.fresh("theirs");
            let work = if size > 1000 { "large" } else { "small" };
            if let Some(seconds) = peer::run(work, &server.url, &path, count)? {
                let stream = client.stream(&path)?;
                read::expect_bytes(server, &stream, size * count).await?;
                rates.theirs.extend(seconds.iter().map(|seconds| count as f64 / seconds));
            }
            anyhow::Ok(())
        })?;
    }
    ensure!(!rates.ours.is_empty(), "no round");
    Ok(rates)
}

/// Messages of 100 bytes.
pub(crate) fn small(options: &Options, server: &Running, figures: &mut Figures) -> Result<()> {
    let found = rates(server, options.pick(3, 5), 100, options.pick(300_000, 500_000))?;
    let ours = median(&found.ours);
    // The goal holds for a server that is not the limit itself.
    figures.held("relay-durable", "msg/s", ours, Some(Bar::AtLeast(1.4e6)));
    figures.add("hyper, bare POSTs of 1 MiB", "msg/s", median(&found.bare));
    if !found.theirs.is_empty() {
        figures.add(peer::NAME, "msg/s", median(&found.theirs));
        let ratio = ours / median(&found.theirs);
        figures.held("relay-durable / TypeScript", "", ratio, Some(Bar::AtLeast(3.0)));
    }
    Ok(())
}

/// Messages of 1 MiB.
pub(crate) fn large(options: &Options, server: &Running, figures: &mut Figures) -> Result<()> {
    let found = rates(server, options.pick(5, 9), 1 << 20, options.pick(50, 100))?;
    figures.add("relay-durable", "msg/s", median(&found.ours));
    figures.add("hyper, bare POSTs", "msg/s", median(&found.bare));
    figures.add("hyper, bare POSTs with a producer's headers", "msg/s", median(&found.numbered));
    let ratios: Vec<f64> = found.ours.iter().zip(&found.bare).map(|(ours, bare)| ours / bare).collect();
    figures.held("relay-durable / bare POSTs", "", median(&ratios), Some(Bar::AtLeast(0.9)));
    if !found.theirs.is_empty() {
        figures.add(peer::NAME, "msg/s", median(&found.theirs));
    }
    Ok(())
}
