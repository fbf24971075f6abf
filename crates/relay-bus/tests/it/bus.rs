use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use relay_bus::{
    CancellationToken, Component, DispatcherOptions, DropReason, EngineOptions, Event, MemoryEngine,
    MessageDispatcher, MessageReceiver, Metrics, Monitor, ReceiverOptions, Report,
};
use relay_transport::server::{HttpServer, Settings};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

const PATIENCE: Duration = Duration::from_secs(60);

/// A bus with its objects in a file.
struct Bus {
    address: SocketAddr,
    reports: mpsc::UnboundedReceiver<Report>,
    events: mpsc::UnboundedReceiver<Event>,
    stop: CancellationToken,
    _directory: tempfile::TempDir,
}

impl Bus {
    async fn start(objects: &str, options: EngineOptions, receiver: ReceiverOptions) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("objects.yaml");
        std::fs::write(&file, objects).unwrap();
        let (tell, events) = mpsc::unbounded_channel();
        let dispatcher = DispatcherOptions::default().timeout(Duration::from_secs(20));
        let engine = MemoryEngine::new(
            MessageDispatcher::new(dispatcher).unwrap(),
            options,
            Arc::<Metrics>::default(),
            move |event| drop(tell.send(event.clone())),
        );
        let server = HttpServer::bind("127.0.0.1:0", Settings::default()).await.unwrap();
        let (address, stop) = (server.local_addr(), CancellationToken::new());
        tokio::spawn(MessageReceiver::new(engine.clone(), receiver).run(server, stop.clone()));
        let reports = follow(&file, engine, stop.clone());
        let mut bus = Self { address, reports, events, stop, _directory: directory };
        bus.reported(|report| matches!(report, Report::Ready { .. })).await;
        bus
    }

    async fn of(objects: &str) -> Self {
        Self::start(objects, EngineOptions::default(), ReceiverOptions::default()).await
    }

    async fn reported(&mut self, wanted: impl Fn(&Report) -> bool) -> Report {
        let found = async {
            loop {
                let report = self.reports.recv().await.unwrap();
                if wanted(&report) {
                    return report;
                }
            }
        };
        tokio::time::timeout(PATIENCE, found).await.expect("a report")
    }

    async fn event(&mut self, wanted: impl Fn(&Event) -> bool) -> Event {
        let found = async {
            loop {
                let event = self.events.recv().await.unwrap();
                if wanted(&event) {
                    return event;
                }
            }
        };
        tokio::time::timeout(PATIENCE, found).await.expect("an event")
    }

    /// Sends raw bytes; the status and the whole answer.
    async fn ask(&self, request: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let mut buffer = [0; 4096];
        let read = async {
            loop {
                let count = stream.read(&mut buffer).await.unwrap_or(0);
                answer.extend_from_slice(&buffer[..count]);
                let text = String::from_utf8_lossy(&answer).into_owned();
                let Some((head, body)) = text.split_once("\r\n\r\n") else {
                    assert_ne!(count, 0, "{text:?}");
                    continue;
                };
                let length = head
                    .lines()
                    .find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
                if count == 0 || body.len() >= length.unwrap_or(0) {
                    return text;
                }
            }
        };
        let text = tokio::time::timeout(PATIENCE, read).await.expect("an answer");
        (text[9..12].parse().unwrap(), text)
    }

    async fn post(&self, host: &str, headers: &str, body: &str) -> (u16, String) {
        let length = body.len();
        self.ask(&format!(
            "POST / HTTP/1.1\r\nhost: {host}\r\n{headers}content-length: {length}\r\n\r\n{body}"
        ))
        .await
    }
}

impl Drop for Bus {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn follow(file: &Path, engine: MemoryEngine, stop: CancellationToken) -> mpsc::UnboundedReceiver<Report> {
    let (tell, reports) = mpsc::unbounded_channel();
    let ready = engine.clone();
    let monitor = Monitor::builder(Component::Dispatcher)
        .file(Some(file.to_owned()))
        .report(move |report| {
            if matches!(report, Report::Ready { .. }) {
                ready.set_ready();
            }
            let _ = tell.send(report.clone());
        })
        .handler(engine);
    tokio::spawn(async move { monitor.run(None, 4, stop).await });
    reports
}

/// A subscriber that answers each connection so, and hands over what it was sent.
async fn subscriber(answer: &'static str) -> (String, mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (tell, requests) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let tell = tell.clone();
            tokio::spawn(async move {
                let (mut held, mut buffer) = (Vec::new(), [0; 4096]);
                while let Ok(count) = stream.read(&mut buffer).await {
                    if count == 0 {
                        return;
                    }
                    held.extend_from_slice(&buffer[..count]);
                    let text = String::from_utf8_lossy(&held).into_owned();
                    let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
                    let lower = head.to_lowercase();
                    let length =
                        lower.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
                    if body.len() < length.unwrap_or(0) {
                        continue;
                    }
                    held.clear();
                    let _ = tell.send(text.clone());
                    if answer.is_empty() {
                        std::future::pending::<()>().await;
                    }
                    stream.write_all(answer.as_bytes()).await.unwrap();
                }
            });
        }
    });
    (address, requests)
}

async fn next(requests: &mut mpsc::UnboundedReceiver<String>) -> String {
    tokio::time::timeout(PATIENCE, requests.recv()).await.expect("a request").unwrap()
}

const ACCEPTED: &str = "HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n";

fn object(kind: &str, name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: channels.knative.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}, namespace: ns}}\nspec: {{{spec}}}\n"
    )
}

#[tokio::test]
async fn every_row_of_the_answer_table() {
    let options = ReceiverOptions::default().max_payload(10);
    let bus = Bus::start(&object("Channel", "c", ""), EngineOptions::default(), options).await;
    for (request, status, code) in [
        ("POST /x HTTP/1.1\r\nhost: c.ns\r\ncontent-length: 0\r\n\r\n", 404, "not-found"),
        ("GET / HTTP/1.1\r\nhost: c.ns\r\n\r\n", 405, "method-not-allowed"),
        ("POST / HTTP/1.1\r\nhost: c\r\ncontent-length: 0\r\n\r\n", 400, "bad-host"),
        ("POST / HTTP/1.1\r\nhost: 127.0.0.1:80\r\ncontent-length: 0\r\n\r\n", 400, "bad-host"),
        ("POST / HTTP/1.1\r\nhost: d.ns\r\ncontent-length: 5\r\n\r\n", 404, "unknown-channel"),
        (
            "POST / HTTP/1.1\r\nhost: c.ns\r\ncontent-encoding: gzip\r\ncontent-length: 1\r\n\r\nx",
            415,
            "encoded-body",
        ),
        ("POST / HTTP/1.1\r\nhost: c.ns\r\ncontent-length: 11\r\n\r\n", 413, "body-too-large"),
        (
            "POST / HTTP/1.1\r\nhost: c.ns\r\ntransfer-encoding: chunked\r\n\r\nb\r\n12345678901\r\n",
            413,
            "body-too-large",
        ),
        ("POST / HTTP/1.1\r\nhost: c.ns\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", 400, "bad-body"),
        ("POST /?query HTTP/1.1\r\nhost: c.ns\r\ncontent-length: 2\r\n\r\nhi", 202, ""),
        ("POST / HTTP/1.1\r\nhost: c-channel.ns.svc.cluster.local\r\ncontent-length: 0\r\n\r\n", 202, ""),
        ("POST http://c.ns/ HTTP/1.1\r\nhost: bad\r\ncontent-length: 0\r\n\r\n", 202, ""),
    ] {
        let (got, text) = bus.ask(request).await;
        assert_eq!(got, status, "{request}\n{text}");
        assert!(code.is_empty() || text.contains(&format!("\"code\":\"{code}\"")), "{request}\n{text}");
        assert_eq!(status == 405, text.to_lowercase().contains("allow: post"), "{text}");
    }
}

#[tokio::test]
async fn rule_3_and_7_only_the_list_passes_and_the_answer_goes_on() {
    let answer = "HTTP/1.1 200 OK\r\nce-id: answered\r\nset-cookie: no\r\nknative-correlation-id: theirs\r\ncontent-length: 5\r\n\r\nreply";
    let (first, mut firsts) = subscriber(answer).await;
    let (second, mut seconds) = subscriber(ACCEPTED).await;
    let spec = format!("channel: c, subscriber: \"{first}\", replyTo: \"{second}\"");
    let bus = Bus::of(&(object("Channel", "c", "") + &object("Subscription", "s", &spec))).await;
    let headers = "Knative-Correlation-Id: ours\r\nCE-Id: 1\r\ncookie: secret\r\nauthorization: secret\r\ntraceparent: t\r\n";
    assert_eq!(bus.post("c.ns", headers, "payload").await.0, 202);
    let request = next(&mut firsts).await.to_lowercase();
    for line in
        ["ce-id: 1\r\n", "knative-correlation-id: ours", "traceparent: t", "prefer: reply", "\r\n\r\npayload"]
    {
        assert!(request.contains(line), "{line}\n{request}");
    }
    assert!(!request.contains("secret"), "{request}");
    let reply = next(&mut seconds).await.to_lowercase();
    for line in ["ce-id: answered", "knative-correlation-id: ours", "traceparent: t", "\r\n\r\nreply"] {
        assert!(reply.contains(line), "{line}\n{reply}");
    }
    assert!(!reply.contains("cookie") && !reply.contains("prefer"), "{reply}");
}

#[tokio::test]
async fn rule_6_a_chain_of_channels_stays_inside() {
    let (end, mut ends) = subscriber(ACCEPTED).await;
    let to_d = "channel: c, subscriber: d.ns.channels.cluster.local";
    let objects = object("Channel", "c", "")
        + &object("Channel", "d", "")
        + &object("Subscription", "s", to_d)
        + &object("Subscription", "t", &format!("channel: d, subscriber: \"{end}\""));
    let bus = Bus::of(&objects).await;
    assert_eq!(bus.post("c.ns", "ce-id: 7\r\n", "x").await.0, 202);
    assert!(next(&mut ends).await.contains("ce-id: 7"));
}

#[tokio::test]
async fn a_failed_try_is_told_tried_again_and_buried() {
    let (fails, mut tries) = subscriber("HTTP/1.1 500 No\r\ncontent-length: 3\r\n\r\nwhy").await;
    let (grave, mut letters) = subscriber(ACCEPTED).await;
    let spec = format!("channel: c, subscriber: \"http://user:secret@{fails}/p\"");
    let options = EngineOptions::default()
        .max_deliver(2)
        .retry_delay(Duration::from_millis(1))
        .dead_letter(Some(grave));
    let objects = object("Channel", "c", "") + &object("Subscription", "s", &spec);
    let mut bus = Bus::start(&objects, options, ReceiverOptions::default()).await;
    assert_eq!(bus.post("c.ns", "", "x").await.0, 202);
    for number in 1..=2 {
        assert!(next(&mut tries).await.contains("authorization: Basic dXNlcjpzZWNyZXQ="));
        let event = bus.event(|event| matches!(event, Event::DispatchFailed { .. })).await;
        let Event::DispatchFailed { destination, error, tries, last, .. } = event else { unreachable!() };
        assert_eq!(
            (destination.as_str(), tries, last),
            (format!("http://{fails}/p").as_str(), number, number == 2)
        );
        assert_eq!(error, "Unable to complete request: unexpected HTTP response, expected 2xx, got 500");
    }
    let letter = next(&mut letters).await.to_lowercase();
    for line in [
        "ce-knativeerrorcode: 500",
        &format!("ce-knativeerrordest: http://{fails}/p"),
        "ce-knativeerrordata: d2h5",
    ] {
        assert!(letter.contains(line), "{line}\n{letter}");
    }
}

#[tokio::test]
async fn one_that_stalls_loses_alone_and_is_told_of() {
    let (stalls, mut stalled) = subscriber("").await;
    let (works, mut worked) = subscriber(ACCEPTED).await;
    let subscribed =
        |name: &str, to: &str| object("Subscription", name, &format!("channel: c, subscriber: \"{to}\""));
    let objects = object("Channel", "c", "") + &subscribed("stalls", &stalls) + &subscribed("works", &works);
    let options = EngineOptions::default().in_flight(1).queue(2);
    let mut bus = Bus::start(&objects, options, ReceiverOptions::default()).await;
    for number in 0..4 {
        assert_eq!(bus.post("c.ns", "", &format!("m{number}")).await.0, 202);
        assert!(next(&mut worked).await.ends_with(&format!("m{number}")));
    }
    assert!(next(&mut stalled).await.ends_with("m0"));
    let event = bus.event(|event| matches!(event, Event::Dropped { .. })).await;
    let Event::Dropped { subscription, reason, count, .. } = event else { unreachable!() };
    assert_eq!((subscription.to_string(), reason, count), ("ns/stalls".into(), DropReason::QueueFull, 1));
}
