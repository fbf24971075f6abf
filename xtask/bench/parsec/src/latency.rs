//! The time from publish to handler over a WebSocket, compared with the other client, with the server of the interop
//! suite.

use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use relay_bench_report::{Bar, Figure, Options, median, quantile};
use relay_parsec::{
    Client, Endpoint, Item, SubscribeOptions, Transport, WebSocketConfig, WebSocketTransport,
};
use tokio::sync::mpsc;

use crate::process::Part;

const CHANNEL: &str = "public:bench.latency";
/// The longest time that an envelope may take.
const LIMIT: Duration = Duration::from_secs(10);

pub(crate) fn run(options: &Options) -> Result<Vec<Figure>> {
    let Some(peer) = std::env::var_os("RELAY_BENCH_PEER") else {
        bail!("`cargo xtask bench parsec` builds the server in Go and names it in RELAY_BENCH_PEER");
    };
    let mut command = Command::new(peer);
    command.args(["-open", CHANNEL, "-history", "100"]);
    let mut server = Part::start(command)?;
    let address = server.line()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let (rounds, each) = if options.quick { (11, 200) } else { (31, 500) };
        let publisher = transport(&address)?;
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        let mut sequence = 0;
        for _ in 0..rounds {
            let mut subscriber = Ours::start(&address).await?;
            ours.push(measure(&publisher, &mut sequence, each, &mut subscriber.came).await?);
            subscriber.end().await;
            let mut subscriber = Theirs::start(&address).await?;
            theirs.push(measure(&publisher, &mut sequence, each, &mut subscriber.came).await?);
            subscriber.client.close().await;
        }
        // The median of the rounds is used, so that other load in one round does not count.
        let of_rounds = |rounds: &[[f64; 2]]| {
            [0, 1].map(|at| median(&rounds.iter().map(|round| round[at]).collect::<Vec<_>>()))
        };
        let (ours, theirs) = (of_rounds(&ours), of_rounds(&theirs));
        let mut figures = Vec::new();
        for (at, name) in ["p50", "p99"].into_iter().enumerate() {
            figures.push(Figure::new(
                "latency",
                format!("publish to handler, {name}, relay"),
                "us",
                ours[at],
            ));
            let peer = format!("publish to handler, {name}, centrifuge-client 0.1.0");
            figures.push(Figure::new("latency", peer, "us", theirs[at]));
            let ratio = Figure::new(
                "latency",
                format!("{name} beside centrifuge-client"),
                "x",
                ours[at] / theirs[at],
            );
            figures.push(ratio.bar(Bar::AtMost(1.1)));
        }
        Ok(figures)
    })
}

fn transport(address: &str) -> Result<WebSocketTransport> {
    let endpoint = Endpoint::builder(format!("http://{address}")).build()?;
    Ok(WebSocketTransport::new(endpoint, WebSocketConfig::default()))
}

/// Sends one envelope after another, and measures from before the call to the handler. Returns the median and the 99th
/// percentile.
async fn measure(
    publisher: &WebSocketTransport,
    sequence: &mut i64,
    count: usize,
    came: &mut mpsc::UnboundedReceiver<(Instant, i64)>,
) -> Result<[f64; 2]> {
    let mut took = Vec::with_capacity(count);
    for number in 0..count + 10 {
        *sequence += 1;
        let text = format!(
            r#"{{"channel":"{CHANNEL}","sequence":{sequence},"producer":{{"id":"p","kind":"service"}},"aspect":"data","payload":"{}","produced_at":"2026-05-27T14:22:09.331Z"}}"#,
            "x".repeat(60)
        );
        let begun = Instant::now();
        if let Err(error) = publisher.publish(CHANNEL, Bytes::from(text)).await {
            bail!("not published: {error:?}");
        }
        let (at, seen) =
            tokio::time::timeout(LIMIT, came.recv()).await?.context("the subscriber has ended")?;
        anyhow::ensure!(seen == *sequence, "{seen} came in the place of {sequence}");
        // The first envelopes are a warm-up.
        if number >= 10 {
            took.push((at - begun).as_secs_f64() * 1e6);
        }
    }
    Ok([median(&took), quantile(&took, 0.99)])
}

struct Ours {
    client: Client,
    came: mpsc::UnboundedReceiver<(Instant, i64)>,
}

impl Ours {
    async fn start(address: &str) -> Result<Self> {
        let client = Client::builder(transport(address)?).build()?;
        let (sender, came) = mpsc::unbounded_channel();
        let ready = Arc::new(tokio::sync::Notify::new());
        let told = ready.clone();
        client
            .subscribe(CHANNEL, SubscribeOptions::default())
            .await?
            .on_item(move |item| {
                if matches!(item, Item::Subscribed { .. }) {
                    told.notify_one();
                }
                async {}
            })
            .on_envelope(move |handled| {
                let _ = sender.send((Instant::now(), handled.envelope().sequence()));
                async {}
            })
            .start();
        tokio::time::timeout(LIMIT, ready.notified()).await?;
        Ok(Self { client, came })
    }

    async fn end(self) {
        self.client.close().await;
    }
}

struct Theirs {
    client: centrifuge::Client,
    came: mpsc::UnboundedReceiver<(Instant, i64)>,
}

impl Theirs {
    async fn start(address: &str) -> Result<Self> {
        let client = centrifuge::Client::builder(format!("ws://{address}/connection/websocket"))
            .protocol(centrifuge::Protocol::Json)
            .event_delivery(centrifuge::EventDelivery::Inline)
            .build()?;
        let (sender, came) = mpsc::unbounded_channel();
        let subscription = client
            .new_subscription(CHANNEL)
            .recoverable(true)
            .on_publication(move |_, publication| {
                // Decodes the envelope, because our client has done that at this point, too.
                let sequence =
                    relay_proto::parsec::Envelope::decode(Bytes::copy_from_slice(&publication.data))
                        .map_or(0, |envelope| envelope.sequence());
                let _ = sender.send((Instant::now(), sequence));
            })
            .build()?;
        subscription.subscribe();
        client.connect()?;
        subscription.ready(Some(LIMIT)).await?;
        Ok(Self { client, came })
    }
}
