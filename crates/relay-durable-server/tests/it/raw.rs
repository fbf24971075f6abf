//! Requests and answers as bytes.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use relay_durable_server::{Config, Server};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// A running server.
pub(crate) struct Running {
    pub(crate) addr: SocketAddr,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// Short long-polls, so that tests of their ends are fast.
pub(crate) fn config() -> Config {
    Config::default().poll_wait(Duration::from_millis(150))
}

impl Running {
    pub(crate) async fn memory() -> Self {
        Self::of(Server::bind("127.0.0.1:0", config()).await.unwrap())
    }

    pub(crate) async fn dir(dir: &Path) -> Self {
        Self::of(Server::bind("127.0.0.1:0", config().dir(Some(dir.into()))).await.unwrap())
    }

    pub(crate) fn of(server: Server) -> Self {
        let (addr, stop) = (server.local_addr(), server.stop_token());
        Self { addr, stop, task: tokio::spawn(server.run()) }
    }

    pub(crate) async fn end(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }

    /// Sends one request on its own connection: the first line without the version, header lines, and a body.
    pub(crate) async fn ask(&self, line: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        ask(self.addr, line, headers, body).await
    }

    /// A GET that does not borrow the server.
    pub(crate) fn get_later(&self, target: &str) -> impl Future<Output = Answer> + use<> {
        let (addr, line) = (self.addr, format!("GET {target}"));
        async move { ask(addr, &line, &[], b"").await }
    }

    pub(crate) async fn get(&self, target: &str) -> Answer {
        self.ask(&format!("GET {target}"), &[], b"").await
    }

    pub(crate) async fn put(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        self.ask(&format!("PUT {path}"), headers, b"").await
    }

    pub(crate) async fn post(&self, path: &str, kind: &str, body: &str) -> Answer {
        self.ask(&format!("POST {path}"), &[("content-type", kind)], body.as_bytes()).await
    }

    /// Reads the head of an answer, and leaves the rest to be read.
    pub(crate) async fn open(&self, line: &str, headers: &[(&str, &str)], body: &[u8]) -> Open {
        open(self.addr, line, headers, body).await
    }
}

async fn ask(addr: SocketAddr, line: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
    let mut open = open(addr, line, headers, body).await;
    let mut rest = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(60), open.lines.read_to_end(&mut rest));
    read.await.expect("an answer within a minute").expect("an answer that is not cut");
    let body = if open.headers.contains_key("transfer-encoding") { unchunked(&rest) } else { rest };
    Answer { status: open.status, headers: open.headers, body }
}

async fn open(addr: SocketAddr, line: &str, headers: &[(&str, &str)], body: &[u8]) -> Open {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    let mut request = format!("{line} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n", addr);
    for (name, value) in headers {
        request += &format!("{name}: {value}\r\n");
    }
    if !body.is_empty() || line.starts_with('P') {
        request += &format!("content-length: {}\r\n", body.len());
    }
    request += "\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    stream.write_all(body).await.unwrap();
    let mut lines = BufReader::new(stream);
    let mut head = String::new();
    lines.read_line(&mut head).await.unwrap();
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    let status = status.unwrap_or_else(|| panic!("no answer to {line}: {head:?}"));
    let mut headers = BTreeMap::new();
    loop {
        let mut header = String::new();
        lines.read_line(&mut header).await.unwrap();
        let Some((name, value)) = header.trim_end().split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    Open { status, headers, lines }
}

/// An answer whose head was read.
pub(crate) struct Open {
    pub(crate) status: u16,
    pub(crate) headers: BTreeMap<String, String>,
    lines: BufReader<TcpStream>,
}

impl Open {
    /// The next event: its name and its data, with lines joined by LF. Chunk sizes are skipped; `None` at the end.
    pub(crate) async fn event(&mut self) -> Option<(String, String)> {
        let (mut name, mut data) = (String::new(), Vec::new());
        loop {
            let mut line = String::new();
            let read = tokio::time::timeout(Duration::from_secs(60), self.lines.read_line(&mut line));
            if read.await.expect("an event within a minute").unwrap_or(0) == 0 {
                return None;
            }
            match line.trim_end_matches('\n') {
                "" if !name.is_empty() => return Some((name, data.join("\n"))),
                text => {
                    if let Some(text) = text.strip_prefix("event: ") {
                        name = text.to_owned();
                    } else if let Some(text) = text.strip_prefix("data:") {
                        data.push(text.strip_prefix(' ').unwrap_or(text).to_owned());
                    }
                }
            }
        }
    }

    /// The next event, which must be a control event.
    pub(crate) async fn control(&mut self) -> serde_json::Value {
        let (name, data) = self.event().await.expect("another event");
        assert_eq!(name, "control", "{data}");
        serde_json::from_str(&data).unwrap()
    }

    /// The next event, which must have data.
    pub(crate) async fn data(&mut self) -> String {
        let (name, data) = self.event().await.expect("another event");
        assert_eq!(name, "data", "{data}");
        data
    }
}

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// A header; empty when it is missing.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    /// The offset of the next read.
    pub(crate) fn offset(&self) -> String {
        self.header("stream-next-offset").to_owned()
    }

    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{:?} {}", self.headers, String::from_utf8_lossy(&self.body));
        self
    }
}

fn unchunked(mut rest: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    loop {
        let end = rest.windows(2).position(|pair| pair == b"\r\n").expect("the size of a chunk");
        let size = usize::from_str_radix(std::str::from_utf8(&rest[..end]).unwrap(), 16).unwrap();
        if size == 0 {
            return body;
        }
        body.extend_from_slice(&rest[end + 2..end + 2 + size]);
        rest = &rest[end + 4 + size..];
    }
}
