//! A bus with its objects in a file, and subscribers, on real sockets.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use relay_bus::{
    CancellationToken, Component, DispatcherOptions, Engine as _, EngineOptions, Event, MemoryEngine,
    MessageDispatcher, MessageReceiver, Metrics, Monitor, ReceiverOptions, Report,
};
use relay_transport::server::{HttpServer, Settings};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A bus with its objects in a file.
pub(crate) struct Bus {
    pub(crate) address: SocketAddr,
    pub(crate) reports: mpsc::UnboundedReceiver<Report>,
    pub(crate) events: mpsc::UnboundedReceiver<Event>,
    stop: CancellationToken,
    _directory: tempfile::TempDir,
}

impl Bus {
    pub(crate) async fn start(objects: &str, options: EngineOptions, receiver: ReceiverOptions) -> Self {
        Self::start_within(objects, options, receiver, Duration::from_secs(20)).await
    }

    /// Starts a bus whose calls have this time limit.
    pub(crate) async fn start_within(
        objects: &str,
        options: EngineOptions,
        receiver: ReceiverOptions,
        timeout: Duration,
    ) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("objects.yaml");
        std::fs::write(&file, objects).unwrap();
        let (tell, events) = mpsc::unbounded_channel();
        let dispatcher = DispatcherOptions::default().timeout(timeout);
        let engine = MemoryEngine::new(
            MessageDispatcher::new(dispatcher).unwrap(),
            options,
            Arc::<Metrics>::default(),
            move |event| drop(tell.send(event.clone())),
        );
        let server = HttpServer::bind("127.0.0.1:0", Settings::default().h2c(true)).await.unwrap();
        let (address, stop) = (server.local_addr(), CancellationToken::new());
        tokio::spawn(MessageReceiver::new(engine.clone(), receiver).run(server, stop.clone()));
        let reports = follow(&file, engine, stop.clone());
        let mut bus = Self { address, reports, events, stop, _directory: directory };
        bus.reported(|report| matches!(report, Report::Ready { .. })).await;
        bus
    }

    pub(crate) async fn of(objects: &str) -> Self {
        Self::start(objects, EngineOptions::default(), ReceiverOptions::default()).await
    }

    pub(crate) async fn reported(&mut self, wanted: impl Fn(&Report) -> bool) -> Report {
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

    pub(crate) async fn event(&mut self, wanted: impl Fn(&Event) -> bool) -> Event {
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

    /// Sends raw bytes. Returns the status and the whole answer.
    pub(crate) async fn ask(&self, request: &str) -> (u16, String) {
        self.address.ask(request).await
    }

    pub(crate) async fn post(&self, host: &str, headers: &str, body: &str) -> (u16, String) {
        self.address.post(host, headers, body).await
    }
}

/// Sends requests to a server over a raw socket.
pub(crate) trait Asking {
    /// Sends raw bytes. Returns the status and the whole answer.
    async fn ask(&self, request: &str) -> (u16, String);

    async fn post(&self, host: &str, headers: &str, body: &str) -> (u16, String) {
        let length = body.len();
        self.ask(&format!(
            "POST / HTTP/1.1\r\nhost: {host}\r\n{headers}content-length: {length}\r\n\r\n{body}"
        ))
        .await
    }
}

impl Asking for SocketAddr {
    async fn ask(&self, request: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self).await.unwrap();
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

/// A subscriber that gives this answer on each connection, and hands over the requests that it gets.
pub(crate) async fn subscriber(answer: &'static str) -> (String, mpsc::UnboundedReceiver<String>) {
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

pub(crate) async fn next(requests: &mut mpsc::UnboundedReceiver<String>) -> String {
    tokio::time::timeout(PATIENCE, requests.recv()).await.expect("a request").unwrap()
}

pub(crate) const ACCEPTED: &str = "HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n";

pub(crate) fn object(kind: &str, name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: channels.knative.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}, namespace: ns}}\nspec: {{{spec}}}\n"
    )
}
