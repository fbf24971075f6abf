//! A server with centrifuge's JSON protocol and Parsec's Twirp, in the process of the test.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::{Bytes, BytesMut};
use relay_proto::parsec::centrifuge::{
    Command, CommandError, Connected, Message as Line, Publication, Recover, Reply as Answer, Subscribed,
};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::Message;

use super::Reply;
use super::listening;
use super::peer::Request;
use super::reply::Next;

mod socket;

/// Has subscriptions over WebSockets at `/connection/websocket`, and everything else over Twirp with JSON, like servers
/// that embed centrifuge. Produces the faults of such servers on request.
///
/// A channel exists once it was [opened](Self::open). It retains its newest publications, 1,000 by default. A channel
/// whose name begins with `private:` requires the token `token-of-NAME`. Dropping the server closes the port and all
/// connections.
pub struct CentrifugeServer {
    addr: SocketAddr,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

pub(crate) struct Shared {
    state: Mutex<State>,
    journal: watch::Sender<Journal>,
}

/// What the server has received so far.
#[derive(Default)]
struct Journal {
    /// Lines from WebSockets, in order.
    lines: Vec<String>,
    requests: Vec<Request>,
    /// The numbers of WebSockets that were opened, and that have ended.
    opened: usize,
    over: usize,
}

struct State {
    channels: BTreeMap<String, Channel>,
    epochs: u64,
    retain: usize,
    connected: Connected,
    /// Answers instead of the next upgrades.
    upgrades: VecDeque<Reply>,
    /// Errors instead of the next subscriptions.
    refusals: VecDeque<CommandError>,
    /// Answers instead of the next Twirp calls, by method.
    twirp: BTreeMap<String, VecDeque<Reply>>,
    connections: BTreeMap<u64, Connection>,
    next_connection: u64,
}

struct Channel {
    epoch: String,
    head: u64,
    log: VecDeque<Publication>,
}

struct Connection {
    out: mpsc::Sender<Vec<Message>>,
    channels: BTreeSet<String>,
}

impl CentrifugeServer {
    /// Listens on a free port of 127.0.0.1.
    ///
    /// # Panics
    /// When there is no free port.
    pub async fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("there is a free port");
        let addr = listener.local_addr().expect("a bound socket has an address");
        let state = State {
            channels: BTreeMap::new(),
            epochs: 0,
            retain: 1000,
            connected: Connected { client: "client".into(), ..Connected::default() },
            upgrades: VecDeque::new(),
            refusals: VecDeque::new(),
            twirp: BTreeMap::new(),
            connections: BTreeMap::new(),
            next_connection: 0,
        };
        let shared = Arc::new(Shared { state: Mutex::new(state), journal: watch::Sender::default() });
        let taking = shared.clone();
        let accepting =
            tokio::spawn(listening::accept(listener, move |socket| serve(socket, taking.clone())));
        Self { addr, shared, accepting }
    }

    /// `http://127.0.0.1:PORT`, without a slash at the end.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Opens a channel, or gives it a new epoch and removes its publications.
    pub fn open(&self, channel: &str) {
        let mut state = self.shared.state();
        state.open(channel);
    }

    /// Sets how many publications a channel retains, from the next publication on.
    pub fn retain(&self, publications: usize) {
        self.shared.state().retain = publications;
    }

    /// Drops the publications of a channel except for the newest ones; its epoch and offset stay.
    ///
    /// # Panics
    /// When the channel is not open.
    pub fn trim(&self, channel: &str, keep: usize) {
        let mut state = self.shared.state();
        let log = &mut state.channels.get_mut(channel).expect("the channel is open").log;
        log.drain(..log.len().saturating_sub(keep));
    }

    /// Announces pings from the next connection on. They are sent only with [`say`](Self::say).
    pub fn pings(&self, seconds: u64, pong: bool) {
        let mut state = self.shared.state();
        (state.connected.ping, state.connected.pong) = (seconds, pong);
    }

    /// Publishes to a channel, and returns the offset. Waits for connections that lag.
    ///
    /// # Panics
    /// When the channel is not open.
    pub async fn publish(&self, channel: &str, data: impl Into<Bytes>) -> u64 {
        self.shared.publish(channel, data.into()).await.expect("the channel is open").0
    }

    /// Sends a publication with this offset to all subscribers, and does not retain it.
    pub async fn push(&self, channel: &str, data: impl Into<Bytes>, offset: u64) {
        let publication = Publication { data: data.into(), offset };
        let line = Line::Publication { channel: channel.into(), publication }.to_line();
        self.say(line).await;
    }

    /// Sends any text frame over every connection.
    pub async fn say(&self, text: impl Into<String>) {
        self.send(vec![Message::text(text.into())]).await;
    }

    /// Sends these frames unchanged over every connection.
    pub async fn send(&self, frames: Vec<Message>) {
        let outs: Vec<_> = self.shared.state().connections.values().map(|open| open.out.clone()).collect();
        for out in outs {
            // The connection may have ended.
            let _ = out.send(frames.clone()).await;
        }
    }

    /// Ends a subscription from the server's side.
    pub async fn unsubscribe(&self, channel: &str, code: u32) {
        let line = Line::Unsubscribe { channel: channel.into(), code, reason: "as asked".into() }.to_line();
        for connection in self.shared.state().connections.values_mut() {
            connection.channels.remove(channel);
        }
        self.say(line).await;
    }

    /// Ends every connection with a close frame; without a code, the frame has none.
    pub async fn close(&self, code: Option<u16>, reason: &str) {
        self.send(vec![socket::close(code, reason)]).await;
    }

    /// Ends every connection without a close frame.
    pub fn cut(&self) {
        self.shared.state().connections.clear();
    }

    /// The answer to the next request for a WebSocket.
    pub fn refuse_upgrade(&self, reply: Reply) {
        self.shared.state().upgrades.push_back(reply);
    }

    /// The error for the next subscribe.
    pub fn refuse_subscribe(&self, code: u32, message: &str, temporary: bool) {
        self.shared.state().refusals.push_back(CommandError { code, message: message.into(), temporary });
    }

    /// The answer to the next call of a Twirp method.
    pub fn answer(&self, method: &str, reply: Reply) {
        self.shared.state().twirp.entry(method.into()).or_default().push_back(reply);
    }

    /// The lines that were received over WebSockets so far.
    pub fn lines(&self) -> Vec<String> {
        self.shared.journal.borrow().lines.clone()
    }

    /// The HTTP requests so far, including upgrades.
    pub fn requests(&self) -> Vec<Request> {
        self.shared.journal.borrow().requests.clone()
    }

    /// The number of WebSockets that were opened so far.
    pub fn connections(&self) -> usize {
        self.shared.journal.borrow().opened
    }

    /// Waits for the `n`-th line with this text, counted from 0.
    ///
    /// # Panics
    /// When it does not come within 60 s of real time.
    pub async fn line(&self, text: &str, n: usize) -> String {
        let look =
            |journal: &Journal| journal.lines.iter().filter(|line| line.contains(text)).nth(n).cloned();
        self.until(&format!("line {n} with {text:?}"), look).await
    }

    /// Waits until this many WebSockets were opened.
    ///
    /// # Panics
    /// When that takes longer than 60 s of real time.
    pub async fn opened(&self, count: usize) {
        self.until(&format!("{count} WebSockets"), |journal| (journal.opened >= count).then_some(())).await;
    }

    /// Waits until this many WebSockets have ended.
    ///
    /// # Panics
    /// When that takes longer than 60 s of real time.
    pub async fn over(&self, count: usize) {
        self.until(&format!("the end of {count} WebSockets"), |journal| {
            (journal.over >= count).then_some(())
        })
        .await;
    }

    async fn until<T>(&self, what: &str, look: impl FnMut(&Journal) -> Option<T>) -> T {
        listening::found(&self.shared.journal, what, look).await
    }
}

impl Drop for CentrifugeServer {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl fmt::Debug for CentrifugeServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CentrifugeServer").field("addr", &self.addr).finish_non_exhaustive()
    }
}

async fn serve(mut socket: TcpStream, shared: Arc<Shared>) {
    let mut buffer = BytesMut::new();
    while let Some(request) = Request::read(&mut socket, &mut buffer).await {
        shared.journal.send_modify(|journal| journal.requests.push(request.clone()));
        let upgrade = request.path().ends_with("/connection/websocket");
        let reply = if upgrade {
            let refusal = shared.state().upgrades.pop_front();
            match refusal {
                Some(reply) => reply,
                None => return socket::run(socket, &request, &shared).await,
            }
        } else {
            shared.call(&request).await
        };
        let (_, mut writing) = socket.split();
        if !matches!(reply.play(&mut writing).await, Ok(Next::KeepAlive)) {
            return;
        }
    }
}

impl State {
    fn open(&mut self, channel: &str) {
        self.epochs += 1;
        let fresh = Channel { epoch: format!("c{}", self.epochs), head: 0, log: VecDeque::new() };
        self.channels.insert(channel.to_owned(), fresh);
    }
}

impl Channel {
    /// The answer to a subscribe. If it recovers, its offset is the requested one.
    fn subscribe(&self, recover: Option<Recover>) -> Subscribed {
        let mut answer = Subscribed {
            recoverable: true,
            positioned: true,
            epoch: self.epoch.clone(),
            offset: self.head,
            ..Subscribed::default()
        };
        let Some(Recover { epoch, offset }) = recover else { return answer };
        answer.was_recovering = true;
        let base = self.head - self.log.len() as u64;
        let known = epoch.is_empty() || epoch == self.epoch;
        if known && (base..=self.head).contains(&offset) {
            answer.recovered = true;
            answer.offset = offset;
            answer.publications = self.log.iter().filter(|item| item.offset > offset).cloned().collect();
        }
        answer
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("a test that panicked while it held the state has failed already")
    }

    async fn publish(&self, channel: &str, data: Bytes) -> Option<(u64, String)> {
        let (offset, epoch, outs, line) = {
            let mut state = self.state();
            let retain = state.retain;
            let known = state.channels.get_mut(channel)?;
            known.head += 1;
            let publication = Publication { data, offset: known.head };
            known.log.push_back(publication.clone());
            while known.log.len() > retain {
                known.log.pop_front();
            }
            let (offset, epoch) = (known.head, known.epoch.clone());
            let line = Line::Publication { channel: channel.to_owned(), publication }.to_line();
            let open = state.connections.values().filter(|open| open.channels.contains(channel));
            (offset, epoch, open.map(|open| open.out.clone()).collect::<Vec<_>>(), line)
        };
        for out in outs {
            // The connection may have ended.
            let _ = out.send(vec![Message::text(line.clone())]).await;
        }
        Some((offset, epoch))
    }

    /// Handles a command of a connection. `None`: there is no answer. `Err`: the connection ends with this code.
    fn command(&self, connection: u64, line: &str, greeted: &mut bool) -> Result<Option<String>, u16> {
        self.journal.send_modify(|journal| journal.lines.push(line.to_owned()));
        let (id, command) = Command::from_line(line).map_err(|_| 3501_u16)?;
        if !*greeted && !matches!(command, Command::Connect { .. }) {
            return Err(3501);
        }
        let mut state = self.state();
        let state = &mut *state;
        let result = match command {
            Command::Connect { .. } => {
                *greeted = true;
                Ok(Answer::Connect(state.connected.clone()))
            }
            Command::Subscribe { channel, token, recover } => {
                let own = state.connections.get_mut(&connection);
                let known = state.channels.get(&channel);
                let private = channel.starts_with("private:") && token != format!("token-of-{channel}");
                let error = |code, message: &str, temporary| CommandError {
                    code,
                    message: message.into(),
                    temporary,
                };
                match (own, known, state.refusals.pop_front()) {
                    (_, _, Some(refusal)) => Err(refusal),
                    (Some(own), _, _) if own.channels.contains(&channel) => {
                        Err(error(105, "already subscribed", false))
                    }
                    (Some(own), Some(known), None) if !private => {
                        own.channels.insert(channel);
                        Ok(Answer::Subscribe(known.subscribe(recover)))
                    }
                    _ => Err(error(100, "internal server error", true)),
                }
            }
            Command::Unsubscribe { channel } => {
                if let Some(own) = state.connections.get_mut(&connection) {
                    own.channels.remove(&channel);
                }
                Ok(Answer::Other)
            }
            _ => return Ok(None),
        };
        Ok(Some(Line::Reply { id, result }.to_line()))
    }

    async fn call(&self, request: &Request) -> Reply {
        let method = request.path().rsplit('/').next().unwrap_or_default().to_owned();
        if let Some(reply) = self.state().twirp.get_mut(&method).and_then(VecDeque::pop_front) {
            return reply;
        }
        let body: serde_json::Value = serde_json::from_slice(request.body()).unwrap_or_default();
        let name = body["name"].as_str().unwrap_or_default().to_owned();
        let error = |status, code: &str, msg: &str| {
            Reply::json(status, &serde_json::json!({"code": code, "msg": msg}))
        };
        let known = self.state().channels.contains_key(&name);
        match method.as_str() {
            "OpenPublic" if known => error(409, "already_exists", "the channel is open"),
            "OpenPublic" => {
                self.state().open(&name);
                Reply::json(200, &serde_json::json!({"name": name}))
            }
            _ if !known => error(404, "not_found", "no such channel"),
            "Publish" => {
                let data = socket::from_base64(body["data"].as_str().unwrap_or_default());
                let Some(data) = data else { return error(400, "invalid_argument", "data is not base64") };
                let Some((offset, epoch)) = self.publish(&name, data.into()).await else {
                    return error(404, "not_found", "no such channel");
                };
                Reply::json(200, &serde_json::json!({"offset": offset.to_string(), "epoch": epoch}))
            }
            "Presence" => Reply::json(200, &serde_json::json!({"subscribers": 0})),
            _ => error(404, "bad_route", "no such method"),
        }
    }
}
