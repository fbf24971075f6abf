//! The time from an append to a reader that follows the stream, by events and by long-polls.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use futures_util::StreamExt as _;
use relay_bench_report::{Options, median, quantile};
use relay_durable::{Checkpoint, CreateOptions, LiveMode, Offset, ReaderConfig};

use crate::bare::Bare;
use crate::server::Running;
use crate::{Figures, peer};

const KIND: &str = "application/json";

pub(crate) fn run(options: &Options, server: &Running, figures: &mut Figures) -> Result<()> {
    let count = options.pick(200, 500);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    for (name, mode, work) in
        [("events", LiveMode::Sse, "live-sse"), ("long-polls", LiveMode::LongPoll, "live-long-poll")]
    {
        let times = runtime.block_on(async {
            let client = server.client()?;
            let stream = client
                .create(&server.fresh("live"), CreateOptions::new().content_type(KIND.to_owned()))
                .await?;
            let config = ReaderConfig::default().mode(mode);
            let mut reads = stream.read_raw(config, Checkpoint::at(Offset::START));
            let mut connection = Bare::connect(stream.url()).await?;
            let mut times = Vec::new();
            for n in 0..count {
                // Waits so that the reader waits again.
                tokio::time::sleep(Duration::from_millis(2)).await;
                let message = Bytes::from(format!("[{n}]"));
                let began = Instant::now();
                let posting = connection.post(stream.url(), KIND, message);
                let reading = async {
                    loop {
                        let batch = reads.next().await.context("the stream has ended")??.batch();
                        if batch.is_some_and(|batch| !batch.items.is_empty()) {
                            return anyhow::Ok(began.elapsed());
                        }
                    }
                };
                let (posted, time) = tokio::join!(posting, reading);
                posted?;
                // The first append opens the connections, so it is not counted.
                if n > 0 {
                    times.push(time?.as_secs_f64() * 1e3);
                }
            }
            anyhow::Ok(times)
        })?;
        let theirs = peer::run(work, &server.url, &server.fresh("theirs"), count)?;
        for (who, times) in [("relay-durable", Some(times)), (peer::NAME, theirs)] {
            if let Some(times) = times {
                figures.add(format!("{who}, {name}, p50"), "ms", median(&times));
                figures.add(format!("{who}, {name}, p99"), "ms", quantile(&times, 0.99));
            }
        }
    }
    Ok(())
}
