//! Very many envelopes, within a process and through a server over SSE.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use cpu_time::ProcessTime;
use futures_util::StreamExt;
use http_body_util::{BodyExt, Empty};
use relay_bench_report::{Bar, Figure, Options};
use relay_parsec::{Client, Endpoint, MemoryTransport, SseConfig, SseTransport, SubscribeOptions, Transport};
use relay_proto::sse::{Decoder, Frame, Limits};

use crate::corpus::{CHANNEL, Check, Corpus, PRODUCERS};
use crate::process::{Part, memory as memory_of};

/// How far a subscriber may be behind before its publisher waits. No envelope should be dropped here.
const WINDOW: u64 = 512;

fn count(options: &Options) -> u64 {
    if options.quick { 100_000 } else { 1_000_000 }
}

fn rss() -> Result<f64> {
    Ok(memory_of("/proc/self/status", "VmRSS")? as f64 / f64::from(1 << 20))
}

/// Through memory, with publisher and subscriber on one thread.
pub(crate) fn memory(options: &Options) -> Result<Vec<Figure>> {
    let envelopes = count(options);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let transport = MemoryTransport::new().queue(2 * WINDOW as usize);
        let client = Client::builder(transport.clone()).build()?;
        let mut items = client.subscribe(CHANNEL, SubscribeOptions::default()).await?.items();
        let seen = Arc::new(AtomicU64::new(0));
        let published = seen.clone();
        let mut check = Check::default();
        // The subscription begins when its items are first polled.
        check.item(&items.next().await.context("it begins")??)?;
        let begun = Instant::now();
        let publisher = tokio::spawn(async move {
            let mut corpus = Corpus::new(envelopes, 7);
            for (sent, (_, envelope)) in (1..).zip(&mut corpus) {
                transport.publish(CHANNEL, envelope).await.ok().context("memory takes everything")?;
                while sent - published.load(Ordering::Acquire) >= WINDOW {
                    tokio::task::yield_now().await;
                }
            }
            Ok::<u64, anyhow::Error>(corpus.dropped)
        });
        let (mut early, mut late) = (0.0, 0.0);
        while check.envelopes < envelopes {
            check.item(&items.next().await.context("it goes on")??)?;
            seen.store(check.envelopes, Ordering::Release);
            if check.envelopes == envelopes / 5 {
                early = rss()?;
            } else if check.envelopes == envelopes {
                late = rss()?;
            }
        }
        let seconds = begun.elapsed().as_secs_f64();
        let dropped = publisher.await??;
        check.end(envelopes, dropped)?;
        Ok(vec![
            Figure::new(
                "memory",
                format!("{envelopes} envelopes, {dropped} dropped and said"),
                "env/s",
                envelopes as f64 / seconds,
            ),
            Figure::new("memory", "growth of the process behind the first fifth", "MiB", late - early)
                .bar(Bar::AtMost(8.0)),
        ])
    })
}

/// Through a server in another process: published over HTTP, then read from the start over SSE.
pub(crate) fn sse(options: &Options) -> Result<Vec<Figure>> {
    let envelopes = count(options);
    let mut server = Part::own(&["child-server", &(envelopes + 10).to_string()])?;
    let url = server.line()?;
    let runtime = tokio::runtime::Runtime::new()?;
    let begun = Instant::now();
    let dropped = runtime.block_on(publish(&url, envelopes))?;
    let publishing = envelopes as f64 / begun.elapsed().as_secs_f64();
    eprintln!("published {envelopes}, {publishing:.0}/s");
    let rounds = if options.quick { 5 } else { 7 };
    // Elapsed time and CPU time. The best of all rounds is used, because other load only makes a round slower.
    let (mut bare, mut ours) = ([0.0_f64; 2], [0.0_f64; 2]);
    let mut growth: f64 = 0.0;
    for round in 0..2 * rounds {
        let (what, best) = if round % 2 == 0 { ("bare", &mut bare) } else { ("ours", &mut ours) };
        let mut reader =
            Part::own(&["child-read", what, &url, &envelopes.to_string(), &dropped.to_string()])?;
        let line = reader.line()?;
        let mut figures = line.split(' ').map(str::parse::<f64>);
        let mut next = || figures.next().context("a figure")?.context("a number");
        *best = [best[0].max(next()?), best[1].max(next()?)];
        if what == "ours" {
            growth = growth.max(next()?);
        }
    }
    let published = format!("{envelopes} published by {PRODUCERS} producers, one after another each");
    Ok(vec![
        Figure::new("sse", published, "env/s", publishing),
        Figure::new("sse", "a bare hyper stream, decoded with our SSE codec", "env/s", bare[0]),
        Figure::new("sse", format!("a subscription, {dropped} dropped and said"), "env/s", ours[0]),
        Figure::new("sse", "the subscription beside the bare stream", "x", ours[0] / bare[0])
            .bar(Bar::AtLeast(0.6)),
        Figure::new("sse", "the bare stream, of its CPU time", "env/cpu-s", bare[1]),
        Figure::new("sse", "the subscription, of its CPU time", "env/cpu-s", ours[1]),
        Figure::new("sse", "growth of the subscriber behind the first fifth", "MiB", growth)
            .bar(Bar::AtMost(8.0)),
    ])
}

async fn publish(url: &str, envelopes: u64) -> Result<u64> {
    let mut producers = Vec::new();
    for _ in 0..PRODUCERS {
        let (sender, mut queue) = tokio::sync::mpsc::channel::<Bytes>(64);
        let transport = SseTransport::new(Endpoint::builder(url).build()?, SseConfig::default());
        let task = tokio::spawn(async move {
            while let Some(envelope) = queue.recv().await {
                if let Err(error) = transport.publish(CHANNEL, envelope).await {
                    anyhow::bail!("not published: {error:?}");
                }
            }
            Ok(())
        });
        producers.push((sender, task));
    }
    let mut corpus = Corpus::new(envelopes, 11);
    for (producer, envelope) in &mut corpus {
        producers[producer as usize].0.send(envelope).await.context("a producer has ended")?;
    }
    for (sender, task) in producers {
        drop(sender);
        task.await??;
    }
    Ok(corpus.dropped)
}

/// `child-read bare|ours URL ENVELOPES DROPPED`: prints envelopes per second, envelopes per second of its CPU time, and
/// the growth of the process in MiB.
pub(crate) fn read(arguments: &[String]) -> Result<()> {
    let [what, url, envelopes, dropped] = arguments else { anyhow::bail!("four arguments are needed") };
    let (envelopes, dropped) = (envelopes.parse()?, dropped.parse()?);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (Took { seconds, cpu }, growth) = runtime.block_on(async {
        if what == "bare" {
            read_bare(url, envelopes).await
        } else {
            read_ours(url, envelopes, dropped).await
        }
    })?;
    println!("{} {} {growth}", envelopes as f64 / seconds, envelopes as f64 / cpu);
    Ok(())
}

struct Begun(Instant, ProcessTime);

struct Took {
    seconds: f64,
    cpu: f64,
}

impl Begun {
    fn now() -> Self {
        Self(Instant::now(), ProcessTime::now())
    }

    fn took(&self) -> Took {
        Took { seconds: self.0.elapsed().as_secs_f64(), cpu: self.1.elapsed().as_secs_f64() }
    }
}

async fn read_ours(url: &str, envelopes: u64, dropped: u64) -> Result<(Took, f64)> {
    let transport = SseTransport::new(Endpoint::builder(url).build()?, SseConfig::default());
    let client = Client::builder(transport).build()?;
    let options = SubscribeOptions::default().from_start(true);
    let mut items = client.subscribe(CHANNEL, options).await?.items();
    let (mut check, mut early) = (Check::default(), 0.0);
    let mut begun = Begun::now();
    while check.envelopes < envelopes {
        // Matched at once, as unwrapping layer by layer moves each item several times.
        match items.next().await {
            Some(Ok(item)) => check.item(&item)?,
            Some(Err(error)) => return Err(error.into()),
            None => anyhow::bail!("it does not go on"),
        }
        match check.envelopes {
            0 => begun = Begun::now(),
            seen if seen == envelopes / 5 => early = rss()?,
            _ => {}
        }
    }
    let elapsed = begun.took();
    check.end(envelopes, dropped)?;
    Ok((elapsed, rss()? - early))
}

/// hyper reads the body, the SSE decoder reads its events, and nothing else is done.
async fn read_bare(url: &str, envelopes: u64) -> Result<(Took, f64)> {
    let address = url.strip_prefix("http://").context("an address")?;
    let socket = tokio::net::TcpStream::connect(address).await?;
    socket.set_nodelay(true)?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(hyper_util::rt::TokioIo::new(socket)).await?;
    tokio::spawn(connection);
    let request = hyper::Request::get(format!("/parsec/stream?channel={CHANNEL}&start=oldest"))
        .header("host", address)
        .body(Empty::<Bytes>::new())?;
    let response = sender.send_request(request).await?;
    ensure!(response.status().is_success(), "{}", response.status());
    let mut body = response.into_body();
    let mut decoder = Decoder::new(Limits::default());
    let (mut seen, mut bytes) = (0, 0_usize);
    let mut begun = Begun::now();
    while seen < envelopes {
        let frame = body.frame().await.context("it goes on")??;
        let Ok(data) = frame.into_data() else { continue };
        decoder.feed(data);
        while let Some(frame) = decoder.next_frame() {
            let Frame::Event(event) = frame else { continue };
            if event.kind() == "envelope" {
                seen += 1;
                bytes += event.data().len() + event.last_event_id().len();
            } else {
                begun = Begun::now();
            }
        }
    }
    ensure!(bytes > 0, "nothing came");
    Ok((begun.took(), 0.0))
}
