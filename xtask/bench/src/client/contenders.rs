//! The clients that are compared, each driven the way its documentation shows.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use cpu_time::ProcessTime;
use futures_util::StreamExt as _;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use relay_proto::eventsource::Item;
use relay_proto::sse::Frame;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::{LocalSet, spawn_local};

use super::work::{GREETING, Seen};
use crate::measure::memory;

type Reading = Pin<Box<dyn Future<Output = anyhow::Result<()>>>>;

/// A client, named after its crate: reads the stream at a URL until the tally has what it wants.
pub struct Contender {
    pub name: &'static str,
    read: fn(String, Tally) -> Reading,
}

pub const ALL: &[Contender] = &[
    Contender { name: "hyper", read: |url, tally| Box::pin(hyper(url, tally)) },
    Contender { name: "sse-core", read: |url, tally| Box::pin(sse_core(url, tally)) },
    Contender { name: "sseer", read: |url, tally| Box::pin(sseer(url, tally)) },
    Contender { name: "eventsource-client", read: |url, tally| Box::pin(eventsource_client(url, tally)) },
    Contender { name: "relay-transport", read: |url, tally| Box::pin(relay_transport(url, tally)) },
    Contender { name: "relay-pods", read: |url, tally| Box::pin(relay_pods(url, tally)) },
    Contender { name: "relay-pods-decoded", read: |url, tally| Box::pin(relay_pods_decoded(url, tally)) },
];

/// The counts of a client so far, and their receiver.
pub struct Tally {
    seen: Seen,
    goal: Seen,
    later_goals: Vec<Seen>,
    /// Gets a permit for each goal.
    reached: Arc<Semaphore>,
}

impl Tally {
    fn new(goal: Seen, later_goals: Vec<Seen>) -> Self {
        Self { seen: Seen::default(), goal, later_goals, reached: Arc::new(Semaphore::new(0)) }
    }

    /// Takes over an event. False if that was the last one.
    #[inline]
    fn event(&mut self, kind: &str, data: &str, id: &str) -> bool {
        std::hint::black_box((kind, id));
        self.seen.events += 1;
        self.seen.data += data.len() as u64;
        self.seen.events < self.goal.events || self.arrived(self.seen.data == self.goal.data)
    }

    /// Takes over bytes without interpreting them.
    #[inline]
    fn body(&mut self, bytes: usize) -> bool {
        self.seen.body += bytes as u64;
        self.seen.body < self.goal.body || self.arrived(self.seen.body == self.goal.body)
    }

    #[cold]
    fn arrived(&mut self, exactly: bool) -> bool {
        if exactly {
            self.reached.add_permits(1);
        }
        let next = self.later_goals.pop().filter(|_| exactly);
        self.goal = next.unwrap_or(self.goal);
        next.is_some()
    }
}

fn find(name: &str) -> anyhow::Result<&'static Contender> {
    ALL.iter().find(|contender| contender.name == name).with_context(|| format!("no client {name}"))
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

/// `bench client-once CLIENT URL-OF-WORK PASSES EVENTS DATA BODY`, with what one pass holds: reads a tenth as a
/// warm-up, then everything. Prints CPU seconds per million events, events per second, and the peak of resident
/// memory in MiB.
pub fn once(arguments: &[String]) -> anyhow::Result<()> {
    let [name, url, passes, events, data, body] = arguments else {
        bail!("usage: client-once CLIENT URL-OF-WORK PASSES EVENTS DATA BODY");
    };
    let (contender, passes) = (find(name)?, passes.parse::<u64>()?);
    let pass = Seen { events: events.parse()?, data: data.parse()?, body: body.parse()? };
    let runtime = runtime()?;
    let read = |passes: u64| {
        let tally = Tally::new(pass * passes, Vec::new());
        let reached = tally.reached.clone();
        runtime.block_on((contender.read)(format!("{url}/{passes}/"), tally))?;
        ensure!(reached.available_permits() == 1, "{name} did not see what was sent");
        anyhow::Ok(())
    };
    read(passes.div_ceil(10))?;
    let (cpu, wall) = (ProcessTime::now(), Instant::now());
    read(passes)?;
    let (cpu, wall) = (cpu.elapsed().as_secs_f64(), wall.elapsed().as_secs_f64());
    let events = (pass.events * passes) as f64;
    println!("{} {} {}", cpu / events * 1e6, events / wall, memory("VmHWM")? as f64 / (1 << 20) as f64);
    Ok(())
}

/// `bench client-idle CLIENT URL CONNECTIONS EVENTS DATA BODY`, with what the burst holds: opens that many
/// connections, one after the other. Prints KiB of resident memory for each, after one event and after the burst.
pub fn idle(arguments: &[String]) -> anyhow::Result<()> {
    let [name, url, connections, events, data, body] = arguments else {
        bail!("usage: client-idle CLIENT URL CONNECTIONS EVENTS DATA BODY");
    };
    let (contender, connections) = (find(name)?, connections.parse::<u32>()?);
    let burst = Seen { events: events.parse()?, data: data.parse()?, body: body.parse()? };
    let address = url.trim_start_matches("http://");
    let resident = || anyhow::Ok(memory("VmRSS")? as f64 / 1024.0);
    LocalSet::new().block_on(&runtime()?, async {
        let reached = Arc::new(Semaphore::new(0));
        // The first connection allocates the parts that all of them share.
        let mut before = 0.0;
        for opened in 0..=connections {
            // The last goal is never reached, so the connections stay open.
            let mut tally = Tally::new(GREETING, vec![Seen::MAX, GREETING + burst]);
            tally.reached = reached.clone();
            let reading = (contender.read)(format!("{url}/idle/0/"), tally);
            spawn_local(async move {
                let end = reading.await;
                eprintln!("a connection ended: {end:?}");
            });
            wait(&reached, 1).await?;
            if opened == 0 {
                before = resident()?;
            }
        }
        let fresh = resident()?;
        let mut burst = TcpStream::connect(address).await?;
        burst.write_all(b"GET /burst/0/ HTTP/1.1\r\n\r\n").await?;
        wait(&reached, connections + 1).await?;
        let after = resident()?;
        let each = |now: f64| (now - before) / f64::from(connections);
        println!("{} {}", each(fresh), each(after));
        Ok(())
    })
}

async fn wait(reached: &Semaphore, times: u32) -> anyhow::Result<()> {
    let all = tokio::time::timeout(Duration::from_secs(60), reached.acquire_many(times)).await;
    all.context("a client did not see what was sent")??.forget();
    Ok(())
}

/// The simplest possible client, with the default settings of hyper.
async fn hyper_body(url: &str) -> anyhow::Result<Incoming> {
    let uri: http::Uri = url.parse()?;
    let authority = uri.authority().context("no authority")?.to_string();
    let io = TokioIo::new(TcpStream::connect(&authority).await?);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await?;
    tokio::spawn(connection);
    let request = http::Request::get(uri.path()).header("host", authority).body(Empty::<Bytes>::new())?;
    Ok(sender.send_request(request).await?.into_body())
}

async fn hyper(url: String, mut tally: Tally) -> anyhow::Result<()> {
    let mut body = hyper_body(&url).await?;
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame?.into_data()
            && !tally.body(data.len())
        {
            break;
        }
    }
    Ok(())
}

async fn sse_core(url: String, mut tally: Tally) -> anyhow::Result<()> {
    let mut body = hyper_body(&url).await?;
    let mut decoder = sse_core::SseDecoder::new();
    while let Some(frame) = body.frame().await {
        let Ok(mut data) = frame?.into_data() else { continue };
        while let Some(event) = decoder.next(&mut data) {
            if let Ok(sse_core::SseEvent::Message(event)) = event
                && !tally.event(&event.event, &event.data, event.last_event_id.as_deref().unwrap_or_default())
            {
                return Ok(());
            }
        }
    }
    Ok(())
}

async fn sseer(url: String, mut tally: Tally) -> anyhow::Result<()> {
    let response = reqwest::get(url).await?.error_for_status()?;
    let mut events = sseer::EventStream::new(response.bytes_stream());
    while let Some(event) = events.next().await {
        let event = event.map_err(|error| anyhow::anyhow!("{error:?}"))?;
        if !tally.event(&event.event, &event.data, &event.id) {
            break;
        }
    }
    Ok(())
}

async fn eventsource_client(url: String, mut tally: Tally) -> anyhow::Result<()> {
    use eventsource_client::{Client as _, ClientBuilder, SSE};
    let transport = launchdarkly_sdk_transport::HyperTransport::new()?;
    let client = ClientBuilder::for_url(&url)
        .map_err(|error| anyhow::anyhow!("{error:?}"))?
        .build_with_transport(transport);
    let mut events = client.stream();
    while let Some(event) = events.next().await {
        if let SSE::Event(event) = event.map_err(|error| anyhow::anyhow!("{error:?}"))?
            && !tally.event(&event.event_type, &event.data, event.id.as_deref().unwrap_or_default())
        {
            break;
        }
    }
    Ok(())
}

async fn relay_transport(url: String, mut tally: Tally) -> anyhow::Result<()> {
    let http = relay_transport::HttpClient::builder().build()?;
    let mut stream = relay_transport::EventStream::get(http, Default::default(), &url)?;
    while let Some(item) = stream.next().await {
        if let Item::Frame(Frame::Event(event)) = item?
            && !tally.event(event.kind(), event.data(), event.last_event_id())
        {
            break;
        }
    }
    Ok(())
}

async fn relay_pods(url: String, mut tally: Tally) -> anyhow::Result<()> {
    let client = relay_pods::Client::builder(url).build()?;
    let mut stream = client.stream(Default::default());
    while let Some(message) = stream.next().await {
        let message = message?;
        if !tally.event(message.event(), message.data(), message.id()) {
            break;
        }
    }
    Ok(())
}

/// The same client, which also decodes each message.
async fn relay_pods_decoded(url: String, mut tally: Tally) -> anyhow::Result<()> {
    let client = relay_pods::Client::builder(url).build()?;
    let mut stream = client.stream(Default::default());
    while let Some(message) = stream.next().await {
        let message = message?;
        std::hint::black_box(message.message());
        if !tally.event(message.event(), message.data(), message.id()) {
            break;
        }
    }
    Ok(())
}
