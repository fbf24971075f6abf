//! The scripted server.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::Reply;
use super::listening;

/// A server on a free loopback port that plays a [`Script`] and records its requests. Dropping it closes the port and
/// every connection.
pub struct Peer {
    addr: SocketAddr,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

/// The answers of a peer: replies for each path, which are used in order, and how connections begin.
///
/// A request without a scripted reply is answered with 500 and listed by [`Peer::unscripted`].
#[derive(Default)]
pub struct Script {
    /// Keyed by the path without the query.
    replies: BTreeMap<String, VecDeque<Reply>>,
    always: BTreeMap<String, Answer>,
    openings: VecDeque<Opening>,
}

type Answer = Arc<dyn Fn(&Request) -> Reply + Send + Sync>;

/// How an accepted connection begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Opening {
    /// Its requests are read and answered.
    #[default]
    Serve,
    /// Reset before a byte is read.
    Reset,
    /// Closed before a byte is read.
    Close,
    /// It is accepted, and then no byte is read or written.
    Silence,
}

impl Script {
    /// A script without a reply.
    pub fn new() -> Self {
        Self::default()
    }

    /// The next reply for a path (without query). Replies of one path are used in the order they are added.
    #[must_use]
    pub fn on(mut self, path: &str, reply: Reply) -> Self {
        self.replies.entry(path.into()).or_default().push_back(reply);
        self
    }

    /// The reply of a path once the replies added by [`on`](Self::on) are used up. It can be used any number of times.
    #[must_use]
    pub fn always(self, path: &str, reply: Reply) -> Self {
        self.answer(path, move |_| reply.clone())
    }

    /// Like [`always`](Self::always), with a reply that is made from the request.
    #[must_use]
    pub fn answer(mut self, path: &str, reply: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        self.always.insert(path.into(), Arc::new(reply));
        self
    }

    /// How the next connection begins; connections beyond those added here are served.
    #[must_use]
    pub fn opening(mut self, opening: Opening) -> Self {
        self.openings.push_back(opening);
        self
    }

    fn reply(&mut self, request: &Request) -> Option<Reply> {
        let path = request.path();
        self.replies
            .get_mut(path)
            .and_then(VecDeque::pop_front)
            .or_else(|| self.always.get(path).map(|answer| answer(request)))
    }
}

impl fmt::Debug for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let left: BTreeMap<_, _> = self.replies.iter().map(|(path, replies)| (path, replies.len())).collect();
        f.debug_struct("Script")
            .field("left", &left)
            .field("openings", &self.openings)
            .finish_non_exhaustive()
    }
}

struct Shared {
    script: Mutex<Script>,
    /// What has happened so far. Waiting tests look at it after every change.
    journal: watch::Sender<Journal>,
}

#[derive(Default)]
struct Journal {
    connections: usize,
    requests: Vec<Entry>,
}

struct Entry {
    request: Request,
    scripted: bool,
    /// Whether the reply was played to its end.
    played: bool,
    /// Whether the client has ended the connection.
    closed: bool,
}

impl Shared {
    fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().expect("a test that panicked while it made a reply has failed already")
    }
}

impl Peer {
    /// Listens on a free port of 127.0.0.1.
    ///
    /// # Panics
    /// When there is no free port.
    pub async fn start(script: impl Into<Script>) -> Self {
        Self::start_at(SocketAddr::from(([127, 0, 0, 1], 0)), script).await
    }

    /// Listens on this address, for a peer that comes back on the port of one that was dropped.
    ///
    /// # Panics
    /// When the address is in use.
    pub async fn start_at(addr: SocketAddr, script: impl Into<Script>) -> Self {
        let listener = TcpListener::bind(addr).await.unwrap_or_else(|error| panic!("bind {addr}: {error}"));
        let addr = listener.local_addr().expect("a bound socket has an address");
        let shared =
            Arc::new(Shared { script: Mutex::new(script.into()), journal: watch::Sender::default() });
        let taking = shared.clone();
        let accepting = tokio::spawn(listening::accept(listener, move |socket| {
            let opening = taking.script().openings.pop_front().unwrap_or_default();
            taking.journal.send_modify(|journal| journal.connections += 1);
            serve(socket, opening, taking.clone())
        }));
        Self { addr, shared, accepting }
    }

    /// The address of the peer.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// `http://127.0.0.1:PORT`, without a slash at the end.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Adds a reply to the running script, after those of its path.
    pub fn on(&self, path: &str, reply: Reply) {
        self.shared.script().replies.entry(path.into()).or_default().push_back(reply);
    }

    /// The `n`-th request, counted from 0, as soon as it has arrived.
    ///
    /// # Panics
    /// When it does not arrive within 60 s of real time.
    pub async fn request(&self, n: usize) -> Request {
        let look = |journal: &Journal| journal.requests.get(n).map(|entry| entry.request.clone());
        self.until(&format!("request {n}"), look).await
    }

    /// The `n`-th request for a path (without query), counted from 0, as soon as it has arrived.
    ///
    /// # Panics
    /// When it does not arrive within 60 s of real time.
    pub async fn request_to(&self, path: &str, n: usize) -> Request {
        self.until(&format!("request {n} for {path}"), |journal| {
            journal.requests.iter().map(|entry| &entry.request).filter(|r| r.path() == path).nth(n).cloned()
        })
        .await
    }

    /// Waits until the reply to the `n`-th request has been played to its end.
    ///
    /// # Panics
    /// When that takes longer than 60 s of real time.
    pub async fn played(&self, n: usize) {
        let what = format!("the reply to request {n} to be played");
        self.until(&what, |journal| journal.requests.get(n).filter(|entry| entry.played).map(|_| ())).await;
    }

    /// Waits until the client has ended the connection of the `n`-th request.
    ///
    /// # Panics
    /// When that takes longer than 60 s of real time.
    pub async fn closed(&self, n: usize) {
        let what = format!("the client to close the connection of request {n}");
        self.until(&what, |journal| journal.requests.get(n).filter(|entry| entry.closed).map(|_| ())).await;
    }

    /// Waits for the `n`-th accepted connection, counted from 0.
    ///
    /// # Panics
    /// When it does not come within 60 s of real time.
    pub async fn connection(&self, n: usize) {
        self.until(&format!("connection {n}"), |journal| (journal.connections > n).then_some(())).await;
    }

    /// The number of connections that were accepted so far.
    pub fn connections(&self) -> usize {
        self.shared.journal.borrow().connections
    }

    /// Every request so far, in order.
    pub fn requests(&self) -> Vec<Request> {
        self.shared.journal.borrow().requests.iter().map(|entry| entry.request.clone()).collect()
    }

    /// Requests without a scripted reply. A test that allows none asserts that this is empty.
    pub fn unscripted(&self) -> Vec<Request> {
        let journal = self.shared.journal.borrow();
        journal.requests.iter().filter(|entry| !entry.scripted).map(|entry| entry.request.clone()).collect()
    }

    /// The number of replies added by `on` that were not used yet.
    pub fn unused(&self) -> usize {
        self.shared.script().replies.values().map(VecDeque::len).sum()
    }

    async fn until<T>(&self, what: &str, look: impl FnMut(&Journal) -> Option<T>) -> T {
        listening::found(&self.shared.journal, what, look).await
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let requests = self.shared.journal.borrow().requests.len();
        f.debug_struct("Peer").field("addr", &self.addr).field("requests", &requests).finish_non_exhaustive()
    }
}

async fn serve(mut socket: TcpStream, opening: Opening, shared: Arc<Shared>) {
    use super::reply::Next;
    match opening {
        Opening::Serve => {}
        Opening::Reset => {
            let _ = socket.set_zero_linger();
            return;
        }
        Opening::Close => return,
        Opening::Silence => return std::future::pending().await,
    }
    let mut buffer = BytesMut::new();
    let mut last = None;
    while let Some(request) = Request::read(&mut socket, &mut buffer).await {
        let reply = shared.script().reply(&request);
        let scripted = reply.is_some();
        let mut at = 0;
        shared.journal.send_modify(|journal| {
            at = journal.requests.len();
            journal.requests.push(Entry { request, scripted, played: false, closed: false });
        });
        last = Some(at);
        let mark = |entry: fn(&mut Entry)| shared.journal.send_modify(|j| entry(&mut j.requests[at]));
        let reply =
            reply.unwrap_or_else(|| Reply::new(500, "text/plain", "nothing is scripted for this path"));
        let (mut reading, mut writing) = socket.split();
        let next = tokio::select! {
            biased;
            next = reply.play(&mut writing) => next,
            () = until_closed(&mut reading, &mut buffer) => Err(std::io::ErrorKind::ConnectionAborted.into()),
        };
        let Ok(next) = next else {
            mark(|entry| entry.closed = true);
            return;
        };
        mark(|entry| entry.played = true);
        match next {
            Next::KeepAlive => continue,
            Next::Reset => {
                let _ = socket.set_zero_linger();
            }
            Next::Fin => {
                let _ = writing.shutdown().await;
                // The rest of the client's data is read, so that the FIN does not become an RST.
                until_closed(&mut reading, &mut buffer).await;
                mark(|entry| entry.closed = true);
            }
            Next::Silence => {
                until_closed(&mut reading, &mut buffer).await;
                mark(|entry| entry.closed = true);
            }
        }
        return;
    }
    if let Some(at) = last {
        shared.journal.send_modify(|journal| journal.requests[at].closed = true);
    }
}

/// Reads until the client ends the connection. The bytes are kept, up to a limit, for the next request.
pub(crate) async fn until_closed(reading: &mut tokio::net::tcp::ReadHalf<'_>, buffer: &mut BytesMut) {
    loop {
        if buffer.len() > Request::MAX_HEAD {
            return std::future::pending().await;
        }
        match reading.read_buf(buffer).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
    }
}

/// A request as it was received.
#[derive(Clone)]
pub struct Request {
    head: Bytes,
    body: Bytes,
}

impl Request {
    const MAX_HEAD: usize = 1 << 20;

    /// The bytes of the head: request line, header lines and the blank line.
    pub fn head(&self) -> &[u8] {
        &self.head
    }

    /// The body, if a `Content-Length` announced one.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// The method, such as `GET`.
    pub fn method(&self) -> &str {
        self.word(0)
    }

    /// The path and the query as they were received.
    pub fn target(&self) -> &str {
        self.word(1)
    }

    /// The path as it was received, still percent-encoded.
    pub fn path(&self) -> &str {
        self.target().split('?').next().unwrap_or("")
    }

    /// The decoded values of a query parameter, in their order.
    pub fn query_all(&self, name: &str) -> Vec<String> {
        let query = self.target().split_once('?').map_or("", |(_, query)| query);
        let pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        pairs.filter(|(key, _)| percent_decode(key) == name).map(|(_, value)| percent_decode(value)).collect()
    }

    /// The decoded value of a query parameter; the first one if there are several.
    pub fn query(&self, name: &str) -> Option<String> {
        self.query_all(name).into_iter().next()
    }

    /// The value of a header; the first one if there are several. Names are compared without case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let lines = std::str::from_utf8(&self.head).ok()?.split("\r\n").skip(1);
        let mut pairs = lines.filter_map(|line| line.split_once(':'));
        pairs.find(|(key, _)| key.trim().eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }

    fn word(&self, n: usize) -> &str {
        let line = self.head.split(|b| *b == b'\r').next().unwrap_or(b"");
        std::str::from_utf8(line).unwrap_or("").split(' ').nth(n).unwrap_or("")
    }

    /// Reads the next request; `None` if the connection ended before it was complete.
    pub(crate) async fn read(socket: &mut TcpStream, buffer: &mut BytesMut) -> Option<Self> {
        let end = loop {
            if let Some(at) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                break at + 4;
            }
            if buffer.len() > Self::MAX_HEAD || socket.read_buf(buffer).await.unwrap_or(0) == 0 {
                return None;
            }
        };
        let mut request = Self { head: buffer.split_to(end).freeze(), body: Bytes::new() };
        let length: usize = request.header("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
        if length > Self::MAX_HEAD {
            return None;
        }
        while buffer.len() < length {
            if socket.read_buf(buffer).await.unwrap_or(0) == 0 {
                return None;
            }
        }
        request.body = buffer.split_to(length).freeze();
        Some(request)
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} ({} bytes of body)", self.method(), self.target(), self.body.len())
    }
}

pub(crate) fn percent_decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let (mut out, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while at < bytes.len() {
        let hex = text.get(at + 1..at + 3).and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match (bytes[at], hex) {
            (b'%', Some(byte)) => {
                out.push(byte);
                at += 2;
            }
            (b'+', _) => out.push(b' '),
            (byte, _) => out.push(byte),
        }
        at += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}
