//! Raw HTTP over a socket, so that tests check the bytes on the wire.

use std::net::SocketAddr;
use std::time::Duration;

use relay_pods_server::{
    Builder, Clock, Config, DEFAULT_RETENTION, Handle, LogIdentity, Publisher, Retention, Scope, Server,
};
use relay_proto::pods::{Pod, PodBuilder};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

/// 2026-11-21T09:00:00Z, the time on the clock of every test.
pub(crate) const NOW: i64 = 1_795_251_600_000;

/// The longest time that a test waits for a result.
const PATIENCE: Duration = Duration::from_secs(20);

/// A running server with a known epoch, key and clock, and access to its log.
pub(crate) struct Rig {
    pub(crate) handle: Handle,
    pub(crate) publisher: Publisher,
    pub(crate) clock: Clock,
    pub(crate) served: JoinHandle<()>,
}

impl Rig {
    /// A server whose source has synced without any pod.
    pub(crate) async fn start(config: Config) -> Self {
        Self::with_retention(config, DEFAULT_RETENTION).await
    }

    pub(crate) async fn with_retention(config: Config, retention: Retention) -> Self {
        let rig = Self::unsynced(config, retention).await;
        rig.publisher.relist(Scope::All, vec![]).await.unwrap();
        rig
    }

    pub(crate) async fn unsynced(config: Config, retention: Retention) -> Self {
        Self::around(Server::builder(config).retention(retention).identity(identity())).await
    }

    pub(crate) async fn around(builder: Builder) -> Self {
        let clock = Clock::manual(NOW);
        let server = builder.clock(clock.clone()).bind("127.0.0.1:0").await.unwrap();
        let handle = server.handle();
        let served = tokio::spawn(async move { server.run(std::future::pending()).await.unwrap() });
        Self { publisher: handle.publisher(), handle, clock, served }
    }

    pub(crate) async fn connect(&self) -> Peer {
        self.connect_to(self.handle.local_addr()).await
    }

    pub(crate) async fn connect_to(&self, address: SocketAddr) -> Peer {
        Peer { stream: TcpStream::connect(address).await.unwrap(), buffer: Vec::new() }
    }

    /// Waits until this many streams are open.
    pub(crate) async fn subscribers_are(&self, count: u64) {
        let reached = async {
            while self.handle.subscribers() != count {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, reached).await.expect("so many streams in time");
    }

    /// Sends one request on its own connection.
    pub(crate) async fn get(&self, target: &str) -> Answer {
        self.ask(&format!("GET {target} HTTP/1.1\r\nhost: relay\r\n\r\n")).await
    }

    /// Sends one literal request on its own connection.
    pub(crate) async fn ask(&self, request: &str) -> Answer {
        let mut peer = self.connect().await;
        peer.send(request.as_bytes()).await;
        peer.answer().await
    }

    /// Opens a stream, which must succeed.
    pub(crate) async fn stream(&self, target: &str) -> EventStream {
        self.stream_with(target, "").await
    }

    /// Opens a stream with more header lines, each ending with CRLF.
    pub(crate) async fn stream_with(&self, target: &str, fields: &str) -> EventStream {
        let mut peer = self.connect().await;
        peer.send(format!("GET {target} HTTP/1.1\r\nhost: relay\r\n{fields}\r\n").as_bytes()).await;
        let head = peer.head().await;
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        EventStream { peer, head, body: Vec::new() }
    }
}

/// The identity of every test's log.
pub(crate) fn identity() -> LogIdentity {
    LogIdentity::new("fixture-epoch-1", [7; 32])
}

/// One connection.
pub(crate) struct Peer {
    pub(crate) stream: TcpStream,
    buffer: Vec<u8>,
}

impl Peer {
    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// Reads more; false at the end of the connection, however it ended.
    async fn fill(&mut self) -> bool {
        let read = tokio::time::timeout(PATIENCE, self.stream.read_buf(&mut self.buffer)).await;
        matches!(read.expect("nothing came in time"), Ok(1..))
    }

    /// Everything up to the end of the connection.
    pub(crate) async fn rest(&mut self) -> Vec<u8> {
        while self.fill().await {}
        std::mem::take(&mut self.buffer)
    }

    async fn until(&mut self, mark: &[u8]) -> Option<Vec<u8>> {
        loop {
            if let Some(at) = self.buffer.windows(mark.len()).position(|window| window == mark) {
                return Some(self.buffer.drain(..at + mark.len()).collect());
            }
            if !self.fill().await {
                return None;
            }
        }
    }

    async fn exactly(&mut self, count: usize) -> Option<Vec<u8>> {
        while self.buffer.len() < count {
            if !self.fill().await {
                return None;
            }
        }
        Some(self.buffer.drain(..count).collect())
    }

    /// The head of an answer, with its blank line.
    pub(crate) async fn head(&mut self) -> String {
        let head = self.until(b"\r\n\r\n").await.expect("a head");
        String::from_utf8(head).unwrap()
    }

    /// A whole answer to a request that was not HEAD.
    pub(crate) async fn answer(&mut self) -> Answer {
        let head = self.head().await;
        let field = |name: &str| field(&head, name).map(str::to_owned);
        let body = if let Some(length) = field("content-length") {
            self.exactly(length.parse().unwrap()).await.expect("a whole body")
        } else {
            assert_eq!(field("transfer-encoding").as_deref(), Some("chunked"), "{head}");
            self.rest_of_chunked().await
        };
        Answer { head, body: String::from_utf8(body).unwrap() }
    }

    /// The rest of a chunked body, after its head was read.
    pub(crate) async fn rest_of_chunked(&mut self) -> Vec<u8> {
        let mut body = Vec::new();
        while let Some(chunk) = self.chunk().await {
            body.extend(chunk);
        }
        body
    }

    /// The next chunk of a chunked body; `None` at its proper end. Panics if the connection ends before.
    async fn chunk(&mut self) -> Option<Vec<u8>> {
        self.try_chunk().await.expect("the chunked body was cut")
    }

    async fn try_chunk(&mut self) -> Result<Option<Vec<u8>>, ()> {
        let line = self.until(b"\r\n").await.ok_or(())?;
        let size = std::str::from_utf8(&line[..line.len() - 2]).unwrap();
        let size = usize::from_str_radix(size, 16).unwrap();
        let mut chunk = self.exactly(size + 2).await.ok_or(())?;
        assert!(chunk.ends_with(b"\r\n"));
        chunk.truncate(size);
        Ok(if size == 0 { None } else { Some(chunk) })
    }
}

/// An answer as it was received.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn status(&self) -> u16 {
        self.head.split(' ').nth(1).unwrap().parse().unwrap()
    }

    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        field(&self.head, name)
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Checks that it is a complete and consistent problem document with this code. Returns its detail.
    pub(crate) fn problem(&self, code: &str) -> String {
        let document = self.json();
        assert_eq!(document["code"], code, "{self:?}");
        assert_eq!(document["type"], format!("urn:relay:problem:{code}"));
        assert_eq!(document["status"], self.status());
        assert!(document["title"].is_string());
        assert_eq!(self.field("content-type"), Some("application/problem+json"));
        document["detail"].as_str().expect("a detail").to_owned()
    }
}

fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = head.split("\r\n").skip(1).filter_map(|line| line.split_once(": "));
    lines.find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value)
}

/// An open stream.
pub(crate) struct EventStream {
    pub(crate) peer: Peer,
    pub(crate) head: String,
    body: Vec<u8>,
}

/// How a stream ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// With the proper end of its body.
    Proper,
    /// With the end of the connection.
    Cut,
}

impl EventStream {
    /// The next block as it is on the wire, with its blank line.
    pub(crate) async fn block(&mut self) -> Result<String, End> {
        loop {
            if let Some(at) = self.body.windows(2).position(|window| window == b"\n\n") {
                return Ok(String::from_utf8(self.body.drain(..at + 2).collect()).unwrap());
            }
            match self.peer.try_chunk().await {
                Ok(Some(chunk)) => self.body.extend(chunk),
                Ok(None) => return Err(End::Proper),
                Err(()) => return Err(End::Cut),
            }
        }
    }

    /// The next message: its event name and its data.
    pub(crate) async fn next(&mut self) -> (String, serde_json::Value) {
        let block = self.block().await.expect("a message");
        parse(&block)
    }

    /// The next message, which must be of this kind.
    pub(crate) async fn expect(&mut self, event: &str) -> serde_json::Value {
        let (found, data) = self.next().await;
        assert_eq!(found, event, "{data}");
        data
    }

    /// All messages up to the first one of this kind.
    pub(crate) async fn until(&mut self, event: &str) -> Vec<(String, serde_json::Value)> {
        let mut messages = Vec::new();
        loop {
            let message = self.next().await;
            let last = message.0 == event;
            messages.push(message);
            if last {
                return messages;
            }
        }
    }
}

/// Event name and data of a block.
pub(crate) fn parse(block: &str) -> (String, serde_json::Value) {
    let lines = |name: &'static str| block.lines().filter_map(move |line| line.strip_prefix(name));
    let data = lines("data: ").collect::<Vec<_>>().join("\n");
    let event = lines("event: ").next().unwrap_or("message").to_owned();
    (event, serde_json::from_str(&data).unwrap_or_else(|error| panic!("{error}: {block}")))
}

/// A pod with a few fields, labels given as `key=value`.
pub(crate) fn pod(namespace: &str, name: &str, version: u64, labels: &[&str]) -> Pod {
    PodBuilder::new(namespace, name)
        .uid(Some(&format!("uid-of-{name}")))
        .resource_version(Some(&version.to_string()))
        .labels(labels.iter().map(|label| label.split_once('=').unwrap()))
        .phase(Some("Running"))
        .build()
}
