//! A raw HTTP client: it sends exact bytes, checks every byte of the answer, and shares no code with the client under
//! test.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::process::DEADLINE;

/// An HTTP answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("bodies are UTF-8")
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// The JSON of a successful answer.
    #[track_caller]
    pub(crate) fn ok(&self) -> Value {
        assert_eq!(self.status, 200, "{}", self.text());
        self.json()
    }

    /// Checks that it is a problem document of this code, and returns its `detail`.
    #[track_caller]
    pub(crate) fn problem(&self, status: u16, code: &str) -> String {
        assert_eq!(self.status, status, "expected {code}: {}", self.text());
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{code}");
        let problem = self.json();
        assert_eq!(problem["type"], format!("urn:relay:problem:{code}"));
        assert_eq!(problem["code"], code);
        assert_eq!(problem["status"], status);
        assert!(problem["title"].as_str().is_some_and(|title| !title.is_empty()), "{problem}");
        problem["detail"].as_str().expect("detail").into()
    }
}

pub(crate) fn get(addr: SocketAddr, target: &str) -> Answer {
    get_with(addr, target, &[])
}

pub(crate) fn get_with(addr: SocketAddr, target: &str, headers: &[(&str, &str)]) -> Answer {
    request(addr, "GET", target, headers, "")
}

#[track_caller]
pub(crate) fn request(
    addr: SocketAddr,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Answer {
    let mut connection = Connection::open(addr);
    connection.send(head(method, target, headers, body).as_bytes());
    connection.answer(method == "HEAD")
}

/// The text of a request that closes its connection after the answer.
pub(crate) fn head(method: &str, target: &str, headers: &[(&str, &str)], body: &str) -> String {
    let mut text = format!("{method} {target} HTTP/1.1\r\nhost: relay\r\nconnection: close\r\n");
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    if !body.is_empty() || method == "POST" {
        text.push_str(&format!("content-length: {}\r\n", body.len()));
    }
    text + "\r\n" + body
}

/// Percent-encodes a value of the query.
pub(crate) fn encode(value: &str) -> String {
    value
        .bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                char::from(byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

/// One connection, with the bytes that were read and not used yet.
pub(crate) struct Connection {
    socket: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    #[track_caller]
    pub(crate) fn open(addr: SocketAddr) -> Self {
        let socket = TcpStream::connect_timeout(&addr, DEADLINE).expect("the server accepts");
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        socket.set_write_timeout(Some(DEADLINE)).unwrap();
        socket.set_nodelay(true).unwrap();
        Self { socket, buffer: Vec::new() }
    }

    #[track_caller]
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).expect("the server reads");
    }

    /// Sends bytes that the server may not read to the end.
    pub(crate) fn try_send(&mut self, bytes: &[u8]) {
        let _ = self.socket.write_all(bytes);
    }

    /// Ends the sending half.
    pub(crate) fn finish(&self) {
        let _ = self.socket.shutdown(Shutdown::Write);
    }

    /// Reads more; false at the end of the connection.
    #[track_caller]
    fn more(&mut self) -> bool {
        let mut bytes = [0; 16384];
        match self.socket.read(&mut bytes) {
            Ok(0) => false,
            Ok(read) => {
                self.buffer.extend_from_slice(&bytes[..read]);
                true
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                panic!("the server says nothing for {DEADLINE:?}")
            }
            Err(_) => false,
        }
    }

    /// Waits until the server ends the connection.
    #[track_caller]
    pub(crate) fn until_end(&mut self) {
        let start = Instant::now();
        while self.more() {
            assert!(start.elapsed() < DEADLINE, "the server goes on and on");
        }
    }

    #[track_caller]
    fn line(&mut self) -> String {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|two| two == b"\r\n") {
                let line = String::from_utf8(self.buffer[..end].to_vec()).expect("heads are ASCII");
                self.buffer.drain(..end + 2);
                return line;
            }
            assert!(
                self.more(),
                "the connection ended inside a line: {}",
                String::from_utf8_lossy(&self.buffer)
            );
        }
    }

    /// The head of an answer.
    #[track_caller]
    fn head(&mut self) -> Answer {
        let status = self.line();
        let status =
            status.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or_else(|| panic!("{status}"));
        let mut headers = Vec::new();
        loop {
            let line = self.line();
            if line.is_empty() {
                return Answer { status, headers, body: Vec::new() };
            }
            let (name, value) = line.split_once(':').unwrap_or_else(|| panic!("header line {line}"));
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
    }

    /// The next chunk of a chunked body; `None` after the last one, or if the connection ended instead.
    #[track_caller]
    fn chunk(&mut self) -> Option<Vec<u8>> {
        while !self.buffer.windows(2).any(|two| two == b"\r\n") {
            if !self.more() {
                return None;
            }
        }
        let size = self.line();
        let size = usize::from_str_radix(size.trim(), 16).unwrap_or_else(|_| panic!("chunk size {size}"));
        while self.buffer.len() < size + 2 {
            if !self.more() {
                return None;
            }
        }
        let chunk = self.buffer[..size].to_vec();
        self.buffer.drain(..size + 2);
        (size > 0).then_some(chunk)
    }

    /// A whole answer.
    #[track_caller]
    pub(crate) fn answer(&mut self, without_body: bool) -> Answer {
        let mut answer = self.head();
        if without_body || answer.status == 204 {
            return answer;
        }
        if answer.header("transfer-encoding") == Some("chunked") {
            while let Some(chunk) = self.chunk() {
                answer.body.extend(chunk);
            }
        } else if let Some(length) =
            answer.header("content-length").map(|length| length.parse::<usize>().unwrap())
        {
            while self.buffer.len() < length {
                assert!(self.more(), "the body ends early");
            }
            answer.body = self.buffer.drain(..length).collect();
        } else {
            self.until_end();
            answer.body = std::mem::take(&mut self.buffer);
        }
        answer
    }
}

/// A message of an event stream.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    pub(crate) event: String,
    pub(crate) id: Option<String>,
    pub(crate) retry: Option<String>,
    pub(crate) data: Value,
}

/// An open event stream. Dropping it closes the connection.
pub(crate) struct Stream {
    connection: Connection,
    pub(crate) head: Answer,
    text: Vec<u8>,
}

impl Stream {
    /// Opens `/events/stream` and this query, which must succeed.
    #[track_caller]
    pub(crate) fn open(addr: SocketAddr, query: &str) -> Self {
        Self::open_with(addr, query, &[])
            .unwrap_or_else(|answer| panic!("{}: {}", answer.status, answer.text()))
    }

    /// Opens a stream. `Err` has any answer that is not an event stream.
    #[track_caller]
    pub(crate) fn open_with(addr: SocketAddr, query: &str, headers: &[(&str, &str)]) -> Result<Self, Answer> {
        Self::almost(addr, query, headers).go()
    }

    /// Sends the request without its last byte.
    #[track_caller]
    pub(crate) fn almost(addr: SocketAddr, query: &str, headers: &[(&str, &str)]) -> Almost {
        let mut connection = Connection::open(addr);
        let target = format!("/events/stream{query}");
        let mut text = format!("GET {target} HTTP/1.1\r\nhost: relay\r\naccept: text/event-stream\r\n");
        for (name, value) in headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        connection.send((text + "\r").as_bytes());
        Almost(connection)
    }

    #[track_caller]
    fn opened(mut connection: Connection) -> Result<Self, Answer> {
        let head = connection.head();
        if head.status == 200 {
            return Ok(Self { connection, head, text: Vec::new() });
        }
        // Read to the end of the body by its framing, like any other answer.
        let mut answer = head;
        if answer.header("transfer-encoding") == Some("chunked") {
            while let Some(chunk) = connection.chunk() {
                answer.body.extend(chunk);
            }
        } else if let Some(length) =
            answer.header("content-length").and_then(|length| length.parse::<usize>().ok())
        {
            while connection.buffer.len() < length && connection.more() {}
            answer.body = connection.buffer.clone();
        }
        Err(answer)
    }

    /// The next message; `None` at the end of the stream. Comments are skipped.
    #[track_caller]
    pub(crate) fn next(&mut self) -> Option<Message> {
        loop {
            if let Some(end) = self.text.windows(2).position(|two| two == b"\n\n") {
                let block = String::from_utf8(self.text[..end].to_vec()).expect("streams are UTF-8");
                self.text.drain(..end + 2);
                if let Some(message) = parse(&block) {
                    return Some(message);
                }
                continue;
            }
            self.text.extend(self.connection.chunk()?);
        }
    }

    /// The next message; fails the test if there is none.
    #[track_caller]
    pub(crate) fn message(&mut self) -> Message {
        self.next().expect("the stream goes on")
    }

    /// All messages up to the first one with this name.
    #[track_caller]
    pub(crate) fn until(&mut self, event: &str) -> Vec<Message> {
        let start = Instant::now();
        let mut seen = Vec::new();
        loop {
            let message = self.message();
            let last = message.event == event;
            seen.push(message);
            if last {
                return seen;
            }
            assert!(start.elapsed() < DEADLINE, "no {event} among {} messages", seen.len());
        }
    }

    /// Ends the client's half of the connection.
    pub(crate) fn finish(&self) {
        self.connection.finish();
    }

    #[track_caller]
    pub(crate) fn until_end(&mut self) {
        self.connection.until_end();
    }
}

/// A stream request that is complete except for its last byte.
pub(crate) struct Almost(Connection);

impl Almost {
    #[track_caller]
    pub(crate) fn go(mut self) -> Result<Stream, Answer> {
        self.0.send(b"\n");
        Stream::opened(self.0)
    }
}

fn parse(block: &str) -> Option<Message> {
    let (mut event, mut id, mut retry, mut data) = ("message".to_owned(), None, None, Vec::new());
    for line in block.lines() {
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match name {
            "event" => event = value.into(),
            "id" => id = Some(value.into()),
            "retry" => retry = Some(value.into()),
            "data" => data.push(value),
            _ => {}
        }
    }
    if data.is_empty() {
        return None;
    }
    let data = serde_json::from_str(&data.join("\n")).unwrap_or_else(|error| panic!("{error} in {block}"));
    Some(Message { event, id, retry, data })
}

/// Repeats a request until the answer matches.
#[track_caller]
pub(crate) fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(start.elapsed() < DEADLINE, "{what}: not within {DEADLINE:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The whole history of a relay, page by page, up to its end at the first request.
#[track_caller]
pub(crate) fn history(addr: SocketAddr) -> Vec<Value> {
    let head = get(addr, "/health").ok()["head"]["sequence"].as_u64().unwrap();
    let mut events: Vec<Value> = Vec::new();
    let mut target = "/events?limit=1000".to_owned();
    loop {
        let page = get(addr, &target).ok();
        events.extend(page["events"].as_array().unwrap().iter().cloned());
        let reached = events.last().is_none_or(|event| event["sequence"].as_u64().unwrap() >= head);
        match page["next_hash"].as_str() {
            Some(next) if !reached => target = format!("/events?limit=1000&since_hash={}", encode(next)),
            _ => return events,
        }
    }
}

/// Waits until the log has this many events.
#[track_caller]
pub(crate) fn until_head(addr: SocketAddr, sequence: u64) {
    eventually(&format!("head {sequence}"), || {
        let health = get(addr, "/health").json();
        (health["head"]["sequence"].as_u64()? >= sequence).then_some(())
    });
}
