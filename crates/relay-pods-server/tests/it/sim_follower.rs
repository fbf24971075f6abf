//! A minimal correct consumer of streams: it resumes after every end, and checks on the way that nothing is missing.

use std::net::SocketAddr;

use relay_proto::pods::{
    EventHash, EventPage, ListDecoder, ListFormat, ListLimits, Message, PodEvent, PodList,
};
use relay_proto::sse::{Decoder, Frame};
use relay_testkit::Oracle;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The events that it has seen, and its pods.
#[derive(Default)]
pub struct Follower {
    /// Query of the filter, such as `namespace=prod`, or empty.
    pub filter: String,
    pub cursor: Option<String>,
    pub sequence: u64,
    pub pods: Oracle,
    /// Hashes of the events, in order.
    pub seen: Vec<String>,
    /// Reasons of the gaps.
    pub gaps: Vec<String>,
    pub left_filter: usize,
    pub connections: usize,
    pub unfinished: usize,
    /// The sequence up to which the pods come from a list.
    seeded: u64,
}

impl Follower {
    pub fn new(filter: &str) -> Self {
        Self { filter: filter.into(), ..Self::default() }
    }

    /// Follows the stream of `stream_at`, through any number of connections, until it has everything up to a sequence
    /// and nothing beyond. After a gap it reads the list of `list_at`.
    pub async fn follow(&mut self, stream_at: SocketAddr, list_at: SocketAddr, until: u64) {
        while self.sequence < until {
            self.connections += 1;
            assert!(self.connections < 20_000, "no progress");
            self.one_connection(stream_at, list_at, until).await;
        }
    }

    async fn one_connection(&mut self, stream_at: SocketAddr, list_at: SocketAddr, until: u64) {
        let cursor = self.cursor.clone().unwrap_or_default();
        let target = format!("/events/stream?since_hash={cursor}&{}", self.filter);
        let Ok(mut body) = Body::open(stream_at, &target).await else { return };
        let mut decoder = Decoder::default();
        let (mut sent, mut first) = (0, true);
        while let Some(bytes) = body.next().await {
            decoder.feed(bytes);
            while let Some(frame) = decoder.next_frame() {
                let Frame::Event(event) = frame else { continue };
                let message = Message::decode(event.kind(), event.last_event_id(), event.data());
                if std::mem::take(&mut first) {
                    let Message::Connected(connected) = message else { panic!("{message:?} came first") };
                    assert_eq!(connected.filtered, Some(!self.filter.is_empty()));
                    let after = connected.resumes_after.expect("a position");
                    if self.cursor.is_none() {
                        (self.cursor, self.sequence) =
                            (Some(after.hash.as_str().into()), after.sequence.unwrap());
                    }
                    continue;
                }
                match message {
                    Message::Pod(event) => {
                        sent += 1;
                        self.check(&event, sent);
                        let sequence = event.sequence.unwrap();
                        if sequence <= until {
                            self.take(&event);
                        }
                        if sequence >= until {
                            self.sequence = until;
                            return;
                        }
                    }
                    Message::Gap(gap) => {
                        sent += 1;
                        self.gaps.push(gap.reason.as_str().into());
                        let position = gap.hash.expect("a position");
                        (self.cursor, self.sequence) =
                            (Some(position.as_str().into()), gap.sequence.unwrap());
                        let list = pods(list_at, &format!("at_least={position}&{}", self.filter)).await;
                        self.seeded = list.sequence.unwrap();
                        self.pods = Oracle::seeded(list.pods);
                    }
                    Message::CatchupComplete(at) => {
                        assert_eq!(at.sent, (!self.filter.is_empty()).then_some(sent));
                        if at.sequence.unwrap() >= until {
                            self.sequence = until;
                            return;
                        }
                    }
                    Message::Heartbeat(at) if !at.catching_up && at.sequence.unwrap() >= until => {
                        self.sequence = until;
                        return;
                    }
                    Message::Heartbeat(_) | Message::Closing(_) => {}
                    other => panic!("{other:?}"),
                }
            }
        }
        self.unfinished += usize::from(!body.ended);
    }

    fn check(&self, event: &PodEvent, sent: u64) {
        if self.filter.is_empty() {
            assert_eq!(event.sequence, Some(self.sequence + 1));
            assert_eq!(event.previous_hash.as_ref().map(EventHash::as_str), self.cursor.as_deref());
        } else {
            assert!(event.sequence > Some(self.sequence));
            assert_eq!(event.sent, Some(sent));
        }
    }

    fn take(&mut self, event: &PodEvent) {
        (self.cursor, self.sequence) = (Some(event.hash.as_str().into()), event.sequence.unwrap());
        self.seen.push(event.hash.as_str().into());
        self.left_filter += usize::from(event.left_filter);
        if self.sequence > self.seeded {
            self.pods.apply(event);
        }
    }
}

/// The pods that a server lists.
pub async fn pods(server: SocketAddr, query: &str) -> PodList {
    let mut body = Body::open(server, &format!("/pods?{query}")).await.unwrap();
    let mut decoder = ListDecoder::new(ListFormat::Json, ListLimits::default());
    while let Some(bytes) = body.next().await {
        decoder.feed(&bytes).unwrap();
    }
    decoder.finish().unwrap()
}

/// The hashes of a server's history.
pub async fn history(server: SocketAddr) -> Vec<String> {
    let (mut hashes, mut since) = (Vec::new(), String::new());
    loop {
        let mut body = Body::open(server, &format!("/events?limit=1000&since_hash={since}")).await.unwrap();
        let mut text = Vec::new();
        while let Some(bytes) = body.next().await {
            text.extend(bytes);
        }
        let page: EventPage = EventPage::from_json(&text).unwrap();
        hashes.extend(page.events.iter().map(|event| event.hash.as_str().to_owned()));
        let Some(next) = page.next_hash else { return hashes };
        since = next.as_str().to_owned();
    }
}

/// The body of an answer while it arrives, however it ends.
struct Body {
    socket: TcpStream,
    buffer: Vec<u8>,
    chunked: bool,
    /// The number of bytes that are left of the body or of the chunk.
    left: usize,
    /// Whether the line end after a chunk comes next.
    behind_chunk: bool,
    /// Whether the body has ended properly.
    ended: bool,
}

impl Body {
    async fn open(server: SocketAddr, target: &str) -> std::io::Result<Self> {
        let mut socket = TcpStream::connect(server).await?;
        let request = format!("GET {target} HTTP/1.1\r\nhost: relay\r\n\r\n");
        socket.write_all(request.as_bytes()).await?;
        let mut buffer = Vec::new();
        let end = loop {
            if let Some(at) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                break at + 4;
            }
            if socket.read_buf(&mut buffer).await? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
        };
        let head = String::from_utf8(buffer.drain(..end).collect()).unwrap();
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let (chunked, left) = length.map_or((true, 0), |text| (false, text.parse().unwrap()));
        Ok(Self { socket, buffer, chunked, left, behind_chunk: false, ended: false })
    }

    /// The next bytes, also of an incomplete chunk; `None` at the end of the body or of the connection.
    async fn next(&mut self) -> Option<Vec<u8>> {
        loop {
            if self.left > 0 && !self.buffer.is_empty() {
                let part: Vec<u8> = self.buffer.drain(..self.buffer.len().min(self.left)).collect();
                self.left -= part.len();
                self.behind_chunk = self.chunked;
                return Some(part);
            }
            if self.left == 0 {
                if !self.chunked {
                    self.ended = true;
                    return None;
                }
                if self.next_chunk() {
                    if self.ended {
                        return None;
                    }
                    continue;
                }
            }
            if self.socket.read_buf(&mut self.buffer).await.unwrap_or(0) == 0 {
                return None;
            }
        }
    }

    /// Reads the size line of the next chunk, if it is there.
    fn next_chunk(&mut self) -> bool {
        let from = if self.behind_chunk { 2 } else { 0 };
        let Some(line) = self.buffer.get(from..) else { return false };
        let Some(length) = line.windows(2).position(|window| window == b"\r\n") else { return false };
        self.left = usize::from_str_radix(std::str::from_utf8(&line[..length]).unwrap(), 16).unwrap();
        self.ended = self.left == 0;
        self.buffer.drain(..from + length + 2);
        true
    }
}
