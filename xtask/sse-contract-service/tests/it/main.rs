//! The cases of the public contract tests, and some that these lack: the service runs as a process, gets orders over a
//! socket and streams from a scripted peer, and its callbacks are read from a raw socket.
#![allow(clippy::unwrap_used, reason = "a helper that fails fails its test")]

mod beyond;
mod connections;
mod linefeeds;
mod parsing;

use std::process::Stdio;

use bytes::Bytes;
use relay_testkit::{Gate, Peer, Reply, Script, within};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;

/// The service, and the server for its callbacks.
struct Harness {
    _service: Child,
    addr: String,
    callback_url: String,
    callbacks: mpsc::UnboundedReceiver<(String, Value)>,
    streams: usize,
}

/// A stream that the service follows.
struct Followed<'h> {
    harness: &'h mut Harness,
    path: String,
    name: String,
    told: usize,
}

impl Harness {
    async fn start() -> Self {
        let mut service = Command::new(env!("CARGO_BIN_EXE_sse-contract-service"))
            .args(["--listen", "127.0.0.1:0"])
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(service.stdout.take().unwrap()).lines();
        let line = within("the service's first line", lines.next_line()).await.unwrap().unwrap();
        let addr = line.strip_prefix("listening on http://").unwrap().to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let callback_url = format!("http://{}", listener.local_addr().unwrap());
        let (tell, callbacks) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(hear(socket, tell.clone()));
            }
        });
        Self { _service: service, addr, callback_url, callbacks, streams: 0 }
    }

    /// The status, the `Location` and the body of an answer of the service.
    async fn ask(&self, method: &str, path: &str, body: &Value) -> (u16, String, String) {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let mut socket = TcpStream::connect(&self.addr).await.unwrap();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: service\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        socket.write_all(head.as_bytes()).await.unwrap();
        let mut answer = String::new();
        within("the service's answer", socket.read_to_string(&mut answer)).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let location = head.lines().find_map(|line| line.strip_prefix("location: ")).unwrap_or_default();
        (head[9..12].parse().unwrap(), location.to_owned(), body.to_owned())
    }

    /// Orders the service to follow a stream, with these options in addition to the URLs.
    async fn follow(&mut self, stream_url: &str, mut options: Value) -> Followed<'_> {
        self.streams += 1;
        let name = format!("/callback{}", self.streams);
        options["streamUrl"] = json!(stream_url);
        options["callbackUrl"] = json!(format!("{}{name}", self.callback_url));
        options["tag"] = json!(name);
        let (status, path, _) = self.ask("POST", "/", &options).await;
        assert_eq!(status, 201);
        Followed { harness: self, path, name, told: 0 }
    }
}

/// Reads callbacks from one connection.
async fn hear(socket: TcpStream, tell: mpsc::UnboundedSender<(String, Value)>) -> Option<()> {
    let mut socket = BufReader::new(socket);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if socket.read_line(&mut head).await.ok()? == 0 {
                return None;
            }
        }
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "))?.parse().ok()?;
        let mut body = vec![0; length];
        socket.read_exact(&mut body).await.ok()?;
        tell.send((head.split(' ').nth(1)?.to_owned(), serde_json::from_slice(&body).ok()?)).ok()?;
        socket.write_all(b"HTTP/1.1 202 Heard\r\ncontent-length: 0\r\n\r\n").await.ok()?;
    }
}

impl Followed<'_> {
    /// The next callback. Callbacks are numbered from 1.
    async fn told(&mut self) -> Value {
        let (path, message) = within("a callback", self.harness.callbacks.recv()).await.unwrap();
        self.told += 1;
        assert_eq!(path, format!("{}/{}", self.name, self.told));
        message
    }

    /// The next callback, which must be an event, as type, data and id.
    async fn event(&mut self) -> (String, String, String) {
        let mut message = self.told().await;
        assert_eq!(message["kind"], "event", "{message}");
        let mut text = |name: &str| match message["event"][name].take() {
            Value::String(text) => text,
            other => panic!("{name} is {other}"),
        };
        (text("type"), text("data"), text("id"))
    }

    async fn expect_events(&mut self, expected: &[(&str, &str, &str)]) {
        for (kind, data, id) in expected {
            let event = self.event().await;
            assert_eq!((event.0.as_str(), event.1.as_str(), event.2.as_str()), (*kind, *data, *id));
        }
    }

    async fn expect_error(&mut self) -> String {
        let message = self.told().await;
        assert_eq!(message["kind"], "error", "{message}");
        message["error"].as_str().unwrap().to_owned()
    }

    async fn order(&self, order: Value) -> u16 {
        self.harness.ask("POST", &self.path, &order).await.0
    }

    /// Tells the service to give the stream up. There must be no more callbacks.
    async fn end(self) {
        assert_eq!(self.harness.ask("DELETE", &self.path, &Value::Null).await.0, 204);
        let left = self.harness.callbacks.try_recv();
        assert!(left.is_err(), "more than was expected: {left:?}");
    }
}

/// A stream that sends these chunks and stays open. Each of them is a chunk of the transfer encoding, so that it
/// reaches the decoder unchanged.
fn chunks(chunks: impl IntoIterator<Item = impl Into<Bytes>>) -> Reply {
    chunks.into_iter().fold(Reply::sse().chunked(), |reply, chunk| reply.send(chunk)).silence()
}

/// A stream that sends this text and stays open.
fn body(text: impl Into<Bytes>) -> Reply {
    chunks([text])
}

/// Checks that the case has a row in the documentation.
fn documented(case: &str) {
    const TABLE: &str = include_str!("../../../../docs/sse-contract.md");
    assert!(TABLE.lines().any(|line| line.starts_with(&format!("| {case} |"))), "no row for {case:?}");
}
