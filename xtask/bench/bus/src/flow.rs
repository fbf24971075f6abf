//! Messages of 1 KB through the memory engine, compared with a bare proxy between the same senders and the same
//! subscriber.

use std::net::SocketAddr;
use std::time::Instant;

use anyhow::Result;
use relay_bench_report::{Bar, Figure, Options, median};

use crate::loader::{Sink, send_all};
use crate::process::{Part, objects};

const SENDERS: usize = 64;

/// Messages per second that were received and delivered.
async fn rate(to: SocketAddr, sink: &Sink, messages: u64) -> Result<f64> {
    let before = sink.count.load(std::sync::atomic::Ordering::Acquire);
    let begin = Instant::now();
    send_all(to, SENDERS, messages, begin).await?;
    sink.wait_for(before + messages).await?;
    Ok(messages as f64 / begin.elapsed().as_secs_f64())
}

pub(crate) fn run(options: &Options) -> Result<Vec<Figure>> {
    let (rounds, messages) = if options.quick { (3, 20_000) } else { (7, 60_000) };
    let directory = tempfile::tempdir()?;
    tokio::runtime::Runtime::new()?.block_on(async {
        let sink = Sink::start(Instant::now(), false, true).await?;
        let file = objects(directory.path(), 1, &[sink.url()])?;
        // The queue has room for all messages, because this measures speed and not drops.
        let mut bus = Part::own(&[
            "child-bus",
            &file.to_string_lossy(),
            &messages.to_string(),
            &(1_u64 << 30).to_string(),
        ])?;
        let mut proxy = Part::own(&["child-proxy", &sink.address.to_string()])?;
        let (bus_at, proxy_at) = (bus.address()?, proxy.address()?);
        let (mut ours, mut bare) = (Vec::new(), Vec::new());
        for round in 0..=rounds {
            let (one, other) = (rate(bus_at, &sink, messages).await?, rate(proxy_at, &sink, messages).await?);
            // The first round is a warm-up.
            if round > 0 {
                ours.push(one);
                bare.push(other);
            }
        }
        let (ours, bare) = (median(&ours), median(&bare));
        Ok(vec![
            Figure::new("flow", "hyper as a bare proxy, 64 senders", "msg/s", bare),
            Figure::new("flow", "memory engine, received and delivered", "msg/s", ours),
            Figure::new("flow", "of the bare proxy", "%", 100.0 * ours / bare).bar(Bar::AtLeast(60.0)),
        ])
    })
}
