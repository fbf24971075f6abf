//! Raw HTTP over a socket, so that tests check the bytes on the wire.

use std::net::SocketAddr;
use std::time::Duration;

use relay_parsec_server::{ParsecServer, ServerConfig};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub(crate) const CHANNEL: &str = "public:a.b";
/// The longest time that a test waits for a result.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running server.
pub(crate) struct Rig {
    pub(crate) address: SocketAddr,
    pub(crate) stop: CancellationToken,
    pub(crate) running: JoinHandle<()>,
}

impl Rig {
    pub(crate) async fn start() -> Self {
        Self::with(ServerConfig::default()).await
    }

    pub(crate) async fn with(config: ServerConfig) -> Self {
        let server = ParsecServer::bind("127.0.0.1:0".parse().unwrap(), config).await.unwrap();
        let (address, stop) = (server.local_addr(), CancellationToken::new());
        let running = tokio::spawn(server.run(stop.clone()));
        Self { address, stop, running }
    }

    /// Tells the server to end, and waits for it.
    pub(crate) async fn end(self) {
        self.stop.cancel();
        tokio::time::timeout(PATIENCE, self.running).await.unwrap().unwrap();
    }

    /// Sends these bytes. Returns the head and the body of the answer.
    pub(crate) async fn exchange(&self, request: &[u8]) -> Answer {
        let mut peer = Stream::open(self.address, request).await;
        let head = peer.head().await;
        let empty = request.starts_with(b"HEAD ");
        let body = if empty { String::new() } else { peer.body(&head).await };
        Answer { head, body }
    }

    pub(crate) async fn ask(
        &self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Answer {
        self.exchange(&request(method, target, headers, body)).await
    }

    pub(crate) async fn get(&self, target: &str) -> Answer {
        self.ask("GET", target, &[], b"").await
    }

    pub(crate) async fn publish(&self, envelope: &str) -> Answer {
        self.publish_to(CHANNEL, envelope).await
    }

    pub(crate) async fn publish_to(&self, channel: &str, envelope: &str) -> Answer {
        self.ask("POST", &format!("/parsec/publish?channel={channel}"), &[], envelope.as_bytes()).await
    }

    /// Publishes an envelope with this number, which must be accepted. Returns its position.
    pub(crate) async fn say(&self, producer: &str, sequence: i64) -> String {
        let answer = self.publish(&envelope(producer, sequence)).await;
        assert_eq!(answer.status(), 200, "{}", answer.body);
        answer.json()["position"].as_str().unwrap().to_owned()
    }

    /// Opens a stream, which must succeed. `query` begins with the channel.
    pub(crate) async fn stream(&self, query: &str) -> Stream {
        self.stream_with(query, &[]).await
    }

    pub(crate) async fn stream_with(&self, query: &str, headers: &[(&str, &str)]) -> Stream {
        let target = format!("/parsec/stream?channel={query}");
        let mut stream = Stream::open(self.address, &request("GET", &target, headers, b"")).await;
        let head = stream.head().await;
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        stream
    }

    /// Repeats a request until the answer matches.
    pub(crate) async fn until(&self, target: &str, what: impl Fn(&Value) -> bool) -> Value {
        let waited = async {
            loop {
                let answer = self.get(target).await;
                let json = answer.json();
                if what(&json) {
                    return json;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, waited).await.unwrap_or_else(|_| panic!("{target} stays as it was"))
    }
}

pub(crate) fn request(method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut head = format!("{method} {target} HTTP/1.1\r\nhost: relay\r\n");
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    if !body.is_empty() {
        head += &format!("content-length: {}\r\n", body.len());
    }
    [head.as_bytes(), b"\r\n", body].concat()
}

/// A valid envelope with this number.
pub(crate) fn envelope(producer: &str, sequence: i64) -> String {
    envelope_of(CHANNEL, producer, sequence, "\"x\"")
}

pub(crate) fn envelope_of(channel: &str, producer: &str, sequence: i64, payload: &str) -> String {
    format!(
        r#"{{"channel":"{channel}","sequence":{sequence},"producer":{{"id":"{producer}","kind":"service"}},"aspect":"said","payload":{payload},"produced_at":"2026-05-27T14:22:09.331Z"}}"#
    )
}

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn status(&self) -> u16 {
        self.head.split(' ').nth(1).unwrap().parse().unwrap()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        header(&self.head, name)
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    /// Checks that it is a problem document with this status and code, whose detail contains these words.
    #[track_caller]
    pub(crate) fn is_problem(&self, status: u16, code: &str, words: &[&str]) {
        assert_eq!(self.status(), status, "{}", self.body);
        assert_eq!(self.header("content-type"), Some("application/problem+json"));
        let problem = self.json();
        assert_eq!(problem["code"], code);
        assert_eq!(problem["status"], status);
        assert_eq!(problem["type"], format!("urn:relay:problem:{code}"));
        let detail = problem["detail"].as_str().unwrap();
        assert!(words.iter().all(|word| detail.contains(word)), "{detail}");
    }
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let mut pairs = head.lines().filter_map(|line| line.split_once(':'));
    pairs.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
}

/// A connection whose answer is read piece by piece.
pub(crate) struct Stream {
    socket: TcpStream,
    /// The bytes that arrived and are not decoded yet.
    raw: Vec<u8>,
    /// The body without the chunk framing.
    text: String,
    /// Whether the last chunk has arrived.
    over: bool,
}

impl Stream {
    async fn open(address: SocketAddr, request: &[u8]) -> Self {
        let mut socket = TcpStream::connect(address).await.unwrap();
        // A server that refuses early may not read all of it.
        let _ = socket.write_all(request).await;
        Self { socket, raw: Vec::new(), text: String::new(), over: false }
    }

    async fn more(&mut self) -> bool {
        let read = tokio::time::timeout(PATIENCE, self.socket.read_buf(&mut self.raw));
        read.await.expect("something comes").unwrap_or(0) > 0
    }

    async fn head(&mut self) -> String {
        loop {
            if let Some(end) = self.raw.windows(4).position(|window| window == b"\r\n\r\n") {
                let rest = self.raw.split_off(end + 4);
                return String::from_utf8(std::mem::replace(&mut self.raw, rest)).unwrap();
            }
            assert!(self.more().await, "no head: {:?}", String::from_utf8_lossy(&self.raw));
        }
    }

    async fn body(&mut self, head: &str) -> String {
        let length: usize = header(head, "content-length").map_or(0, |length| length.parse().unwrap());
        while self.raw.len() < length && self.more().await {}
        String::from_utf8(std::mem::take(&mut self.raw)).unwrap()
    }

    /// Moves complete chunks to the text.
    fn unchunk(&mut self) {
        while !self.over {
            let Some(line) = self.raw.windows(2).position(|window| window == b"\r\n") else { return };
            let size = std::str::from_utf8(&self.raw[..line]).unwrap();
            let size = usize::from_str_radix(size, 16).unwrap();
            if self.raw.len() < line + 4 + size {
                return;
            }
            self.text += std::str::from_utf8(&self.raw[line + 2..line + 2 + size]).unwrap();
            self.raw.drain(..line + 4 + size);
            self.over = size == 0;
        }
    }

    /// The next block with its blank line; `None` at the end of the stream.
    pub(crate) async fn block(&mut self) -> Option<String> {
        loop {
            self.unchunk();
            if let Some(end) = self.text.find("\n\n") {
                let rest = self.text.split_off(end + 2);
                return Some(std::mem::replace(&mut self.text, rest));
            }
            if self.over || !self.more().await {
                return None;
            }
        }
    }

    /// The next block, which must be one of this event: its id and its data.
    pub(crate) async fn event(&mut self, kind: &str) -> (Option<String>, Value) {
        let block = self.block().await.expect("the stream goes on");
        let field = |name: &str| -> Vec<&str> {
            block.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).collect()
        };
        assert_eq!(field("event"), [kind], "{block}");
        let data = field("data").join("\n");
        let data = serde_json::from_str(&data).unwrap_or_else(|error| panic!("{error}: {block}"));
        (field("id").first().map(|id| (*id).to_owned()), data)
    }

    /// Stops reading; the connection stays open.
    pub(crate) fn stall(self) -> TcpStream {
        self.socket
    }
}
