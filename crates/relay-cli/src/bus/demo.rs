//! `relay bus demo`: a bus, its subscribers and a sender in one process.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::{Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use relay_bus::{
    CancellationToken, ChannelReference, Component, DispatcherOptions, Engine as _, EngineOptions, Event,
    Headers, MemoryEngine, Message, MessageDispatcher, MessageReceiver, Metrics, ReceiverOptions, Report,
    SubscriptionReference,
};
use relay_transport::server::{Body, Cut, HttpServer, Settings, full};
use tokio::sync::Notify;

use super::lines::Lines;
use crate::args::{Show, Until};
use crate::exit::Exit;
use crate::follow::Ending;

/// The time limit of a subscriber, after which the stalled one loses a message.
const PATIENCE: Duration = Duration::from_secs(10);
/// Time for calls of the monitor that have begun at the end. They write to memory only.
const LAST_CALLS: Duration = Duration::from_secs(1);
/// Calls at a time, and messages that wait. Both are so small that the stalled subscriber soon loses messages.
const IN_FLIGHT: usize = 1;
const QUEUE: usize = 2;

pub(super) async fn run(args: Show) -> anyhow::Result<Exit> {
    // Signals are caught before the first line.
    let ending = Ending::new(Until { max: None, time: args.time });
    let lines = Lines::in_format(args.output, false);
    let stop = CancellationToken::new();
    let subscribers = Subscribers::start(&stop).await?;
    let file = tempfile::NamedTempFile::with_suffix(".yaml")?;
    std::fs::write(file.path(), objects(&subscribers))?;

    let dispatcher = MessageDispatcher::new(DispatcherOptions::default().timeout(PATIENCE))?;
    let told = lines.clone();
    let verdict = Verdict::default();
    let counted = verdict.clone();
    let engine = MemoryEngine::new(
        dispatcher,
        EngineOptions::default().in_flight(IN_FLIGHT).queue(QUEUE),
        Arc::<Metrics>::default(),
        // The answers of the subscriber of `orders` are not messages of the sender.
        move |event| {
            counted.count(event);
            match event {
                Event::Received { channel } if channel.name() != "orders" => {}
                // The verdict reports it.
                Event::Unsent { .. } => {}
                event => told.event(event, true),
            }
        },
    );
    let server = HttpServer::bind("127.0.0.1:0", Settings::default().drain(Duration::ZERO)).await?;
    let address = server.local_addr();
    lines.listening("listening", address)?;
    for line in INTRODUCTION {
        lines.heading(line);
    }
    let ready = Arc::new(Notify::new());
    let monitor = relay_bus::Monitor::builder(Component::Dispatcher)
        .file(Some(file.path().to_owned()))
        .report({
            let (lines, engine, ready) = (lines.clone(), engine.clone(), ready.clone());
            move |report| {
                lines.report(report);
                if let Report::Ready { .. } = report {
                    engine.set_ready();
                    ready.notify_one();
                }
            }
        })
        .handler(engine.clone());
    let receiving = tokio::spawn(
        MessageReceiver::new(engine.clone(), ReceiverOptions::default()).run(server, stop.clone()),
    );
    let sending = tokio::spawn(send(address, ready));
    let drops = tokio::spawn({
        let (engine, monitor) = (engine.clone(), monitor.clone());
        async move { engine.attend(&monitor).await }
    });
    let bus = relay_bus::BusReference::cluster("demo");
    let (exit, _) = super::follow(&monitor, Some(&bus), 4, Some(LAST_CALLS), &stop, &lines, ending).await;
    sending.abort();
    drops.abort();
    stop.cancel();
    engine.drain(Duration::ZERO).await;
    let _ = receiving.await;
    verdict.tell(&lines);
    exit
}

const INTRODUCTION: [&str; 6] = [
    "",
    "A message per second goes to the channel shop/orders, which has three subscriptions:",
    "  answers  its reply goes to the channel shop/confirmations, and from there to billing",
    "  fails    refuses every other message, which is given up then: the memory engine tries once",
    "  stalls   never answers; two messages wait for it, and later ones are dropped",
    "",
];

/// The counts of messages, by subscription.
#[derive(Clone, Default)]
struct Verdict(Arc<Mutex<Counts>>);

#[derive(Default)]
struct Counts {
    sent: u64,
    subscriptions: BTreeMap<String, Count>,
}

#[derive(Default)]
struct Count {
    delivered: u64,
    given_up: u64,
    dropped: u64,
}

impl Verdict {
    fn count(&self, event: &Event) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::Received { channel } => counts.sent += u64::from(channel.name() == "orders"),
            Event::Delivered { subscription, .. } => counts.of(subscription).delivered += 1,
            Event::DispatchFailed { subscription, last: true, .. } => counts.of(subscription).given_up += 1,
            Event::Dropped { subscription, count, .. } => counts.of(subscription).dropped += count,
            _ => {}
        }
    }

    fn tell(&self, lines: &Lines) {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines.heading("");
        lines.heading(format!("{} messages were sent to shop/orders. What became of them:", counts.sent));
        for (subscription, Count { delivered, given_up, dropped }) in &counts.subscriptions {
            let waiting = counts.sent.saturating_sub(delivered + given_up + dropped);
            let lost = if waiting > 0 { format!(", {waiting} lost at the end") } else { String::new() };
            lines.heading(format!(
                "  {subscription:<14} {delivered} delivered, {given_up} given up, {dropped} dropped{lost}"
            ));
        }
        lines.heading("The subscription that stalls delayed no other one.");
    }
}

impl Counts {
    fn of(&mut self, subscription: &SubscriptionReference) -> &mut Count {
        self.subscriptions.entry(subscription.to_string()).or_default()
    }
}

/// A subscriber that answers, one that fails every other time, one that stalls, and one for the replies.
struct Subscribers {
    answers: String,
    fails: String,
    stalls: String,
    billing: String,
}

impl Subscribers {
    async fn start(stop: &CancellationToken) -> anyhow::Result<Self> {
        Ok(Self {
            answers: subscriber(stop, |_| Some((StatusCode::OK, "confirmed"))).await?,
            fails: subscriber(stop, |count| {
                Some(if count % 2 == 1 { (StatusCode::BAD_REQUEST, "") } else { (StatusCode::ACCEPTED, "") })
            })
            .await?,
            stalls: subscriber(stop, |_| None).await?,
            billing: subscriber(stop, |_| Some((StatusCode::ACCEPTED, ""))).await?,
        })
    }
}

/// A subscriber that answers its n-th message like this, or never.
async fn subscriber(
    stop: &CancellationToken,
    answer: fn(u64) -> Option<(StatusCode, &'static str)>,
) -> anyhow::Result<String> {
    let server = HttpServer::bind("127.0.0.1:0", Settings::default().drain(Duration::ZERO)).await?;
    let url = format!("http://{}/", server.local_addr());
    let count = Arc::new(AtomicU64::new(0));
    let service = move |request: Request<Incoming>| {
        let count = count.clone();
        async move {
            request.into_body().collect().await.map_err(|_| Cut)?;
            match answer(count.fetch_add(1, Ordering::Relaxed)) {
                Some((status, body)) => Ok::<Response<Body>, Cut>(full(status, "text/plain", body)),
                None => std::future::pending().await,
            }
        }
    };
    tokio::spawn(server.run(Arc::new(service), stop.clone().cancelled_owned()));
    Ok(url)
}

fn objects(to: &Subscribers) -> String {
    let mut text = String::new();
    let mut object = |kind: &str, name: &str, spec: &str| {
        let namespace = if kind == "ClusterBus" { "" } else { ", namespace: shop" };
        text += &format!(
            "---\napiVersion: channels.knative.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}{namespace}}}\nspec: {{{spec}}}\n"
        );
    };
    object("ClusterBus", "demo", "");
    object("Channel", "orders", "clusterBus: demo");
    object("Channel", "confirmations", "clusterBus: demo");
    let replies = "replyTo: confirmations.shop.channels.cluster.local";
    object("Subscription", "answers", &format!("channel: orders, subscriber: \"{}\", {replies}", to.answers));
    object("Subscription", "fails", &format!("channel: orders, subscriber: \"{}\"", to.fails));
    object("Subscription", "stalls", &format!("channel: orders, subscriber: \"{}\"", to.stalls));
    object("Subscription", "billing", &format!("channel: confirmations, subscriber: \"{}\"", to.billing));
    text
}

/// Sends a message per second over HTTP, like any other program.
async fn send(address: std::net::SocketAddr, ready: Arc<Notify>) {
    ready.notified().await;
    let channel = ChannelReference::new("orders", "shop");
    let http = relay_transport::HttpClient::builder().no_proxy().build();
    let Ok(http) = http else { return };
    for number in 1_u64.. {
        let headers = Headers::from_iter([("knative-correlation-id", number.to_string())]);
        let message = Message::new(headers, format!("{{\"order\":{number}}}"));
        if let Err(error) = post(&http, address, &channel, &message).await {
            tracing::warn!(error, "the demo cannot send");
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

async fn post(
    http: &relay_transport::HttpClient,
    address: std::net::SocketAddr,
    channel: &ChannelReference,
    message: &Message,
) -> Result<(), String> {
    let mut request = Request::post(format!("http://{address}/"))
        .header("host", format!("{}.{}.channels.cluster.local", channel.name(), channel.namespace()));
    for (name, value) in message.headers.iter() {
        request = request.header(name, &value[..]);
    }
    let body = http_body_util::Full::new(message.payload.clone());
    let request = request.body(body).map_err(|error| error.to_string())?;
    let answer = http.send(request).await.map_err(|error| error.to_string())?;
    if answer.status() == StatusCode::ACCEPTED { Ok(()) } else { Err(answer.status().to_string()) }
}
