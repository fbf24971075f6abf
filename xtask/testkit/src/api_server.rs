//! A Kubernetes API server on a real socket, with the parts that a list-and-watch and a controller use.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use self::store::{Failure, Place, Store};
use crate::clock::within;
use crate::listening;
use crate::peer::{Request, until_closed};
use crate::reply::{Next, Reply};

mod store;

/// A fake API server on a free loopback port: objects of any type, lists in pages, watches with bookmarks, creates,
/// merge patches with versions, status subresources, deletions. Dropping it ends every connection.
///
/// Types are named `VERSION/PLURAL` in the core group (`v1/pods`) and `GROUP/VERSION/PLURAL` in others. Types need not
/// be declared: all of them exist, have no objects at first, and have a status subresource unless
/// [`without_status`](Self::without_status) says otherwise. Namespaces are not checked.
///
/// Faults of real servers occur only when a test asks for them: versions expire or go back, watches end, further pages
/// are gone, tokens and namespaces are refused, and any kind of request gets any [`Reply`] instead of an answer.
///
/// ```
/// use relay_testkit::{ApiServer, Ask, Reply};
/// use serde_json::json;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let cluster = ApiServer::start().await;
/// cluster.put("v1/pods", json!({"metadata": {"namespace": "prod", "name": "web-1"}}));
/// cluster.reply(Ask::List, Reply::empty(429).header("retry-after", "20"));
/// assert_eq!(cluster.get("v1/pods", "prod", "web-1").unwrap()["metadata"]["resourceVersion"], "2");
/// # }
/// ```
pub struct ApiServer {
    addr: SocketAddr,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

/// A kind of request, as a list-and-watch distinguishes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Ask {
    /// The first page of a list, or a list without pages.
    List,
    /// A further page: a list with a `continue` token.
    Page,
    /// A list that must not be older than a version: `resourceVersionMatch=NotOlderThan`.
    Check,
    /// A watch.
    Watch,
    /// One object.
    Get,
    /// A POST.
    Create,
    /// A PATCH of an object.
    Patch,
    /// A PATCH of an object's status.
    PatchStatus,
    /// A DELETE.
    Delete,
    /// Anything else.
    Other,
}

struct Shared {
    state: Mutex<State>,
    /// Counts changes of the state. Watches and waiting tests look at the state after each change.
    changed: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    store: Store,
    next: BTreeMap<Ask, VecDeque<Reply>>,
    always: BTreeMap<Ask, Reply>,
    /// The only token that is accepted.
    token: Option<String>,
    forbidden: BTreeSet<String>,
    requests: Vec<(Ask, Request)>,
    /// Watches that were opened before have to end.
    watch_generation: u64,
    /// How many watches of each type will stay open.
    open: BTreeMap<String, usize>,
    bookmarks: u64,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("a test that panicked has failed already")
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.state());
        self.changed.send_modify(|count| *count += 1);
        result
    }
}

impl ApiServer {
    /// Listens on a free port of 127.0.0.1, with no object, at version 1.
    ///
    /// # Panics
    /// When there is no free port.
    pub async fn start() -> Self {
        let listener = TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let addr = listener.local_addr().expect("a bound socket has an address");
        let shared = Arc::new(Shared { state: Mutex::default(), changed: watch::Sender::new(0) });
        let taking = shared.clone();
        let accepting =
            tokio::spawn(listening::accept(listener, move |socket| serve(socket, taking.clone())));
        Self { addr, shared, accepting }
    }

    /// `http://127.0.0.1:PORT`, without a slash at the end.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// A kubeconfig (as JSON, which is also YAML) whose current context is this cluster, with this user: `{}` has no
    /// credentials.
    pub fn kubeconfig(&self, user: &Value) -> String {
        json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "fake",
            "clusters": [{"name": "fake", "cluster": {"server": self.url()}}],
            "users": [{"name": "tester", "user": user}],
            "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "tester"}}],
        })
        .to_string()
    }

    /// Creates an object or replaces it, and notifies watches. It gets the next version of the cluster, and a new UID
    /// unless it has one or exists already.
    ///
    /// # Panics
    /// When it has no name.
    pub fn put(&self, kind: &str, object: Value) -> u64 {
        self.shared.change(|state| state.store.put(kind, object))
    }

    /// Deletes an object, and notifies watches. Returns whether it existed.
    pub fn delete(&self, kind: &str, namespace: &str, name: &str) -> bool {
        self.shared.change(|state| state.store.delete(&Place::new(kind, namespace, name)).is_ok())
    }

    /// An object in its present state. The namespace is empty for types without one.
    pub fn get(&self, kind: &str, namespace: &str, name: &str) -> Option<Value> {
        self.shared.state().store.get(&Place::new(kind, namespace, name)).cloned()
    }

    /// The cluster's version.
    pub fn version(&self) -> u64 {
        self.shared.state().store.version()
    }

    /// This type has no status subresource: a patch of a status is 404, and a patch of an object may change the status.
    pub fn without_status(&self, kind: &str) {
        self.shared.change(|state| state.store.without_status(kind));
    }

    /// The answer to the next request of this kind, instead of the usual one. Several answers are used in order.
    pub fn reply(&self, ask: Ask, reply: Reply) {
        self.shared.change(|state| state.next.entry(ask).or_default().push_back(reply));
    }

    /// The answer to all requests of this kind, until [`restore`](Self::restore).
    pub fn always(&self, ask: Ask, reply: Reply) {
        self.shared.change(|state| state.always.insert(ask, reply));
    }

    /// Requests of this kind are answered as usual again.
    pub fn restore(&self, ask: Ask) {
        self.shared.change(|state| (state.next.remove(&ask), state.always.remove(&ask)));
    }

    /// Forgets all earlier versions, as after a compaction: a watch from an older version gets the error that it
    /// has expired.
    pub fn expire(&self) {
        self.shared.change(|state| state.store.expire());
    }

    /// The version goes back, as after etcd was restored from a backup. Open watches stay open and silent, and so do
    /// new ones that start from a later version.
    pub fn go_back(&self, version: u64) {
        self.shared.change(|state| state.store.go_back(version));
    }

    /// Tokens for further pages that were given so far are refused with 410.
    pub fn expire_pages(&self) {
        self.shared.change(|state| state.store.expire_pages());
    }

    /// Ends all open watches, as a time-out does.
    pub fn end_watches(&self) {
        self.shared.change(|state| {
            state.watch_generation += 1;
            state.open.clear();
        });
    }

    /// Sends a bookmark on every open watch.
    pub fn bookmark(&self) {
        self.shared.change(|state| state.bookmarks += 1);
    }

    /// Answers 401 to every request without this bearer token; with `None` no token is needed.
    pub fn require_token(&self, token: Option<&str>) {
        self.shared.change(|state| state.token = token.map(str::to_owned));
    }

    /// Answers 403 to every request for this namespace, and for all namespaces.
    pub fn forbid(&self, namespace: &str) {
        self.shared.change(|state| state.forbidden.insert(namespace.to_owned()));
    }

    /// Ends the effect of [`forbid`](Self::forbid).
    pub fn allow(&self, namespace: &str) {
        self.shared.change(|state| state.forbidden.remove(namespace));
    }

    /// Every request so far, in order.
    pub fn requests(&self) -> Vec<(Ask, Request)> {
        self.shared.state().requests.clone()
    }

    /// The number of requests of this kind so far.
    pub fn count(&self, ask: Ask) -> usize {
        self.shared.state().requests.iter().filter(|(kind, _)| *kind == ask).count()
    }

    /// Waits for the `n`-th request of this kind, from 0.
    ///
    /// # Panics
    /// When it does not come within 60 s of real time.
    pub async fn request(&self, ask: Ask, n: usize) -> Request {
        let found = |state: &State| {
            state.requests.iter().filter(|(kind, _)| *kind == ask).nth(n).map(|(_, request)| request.clone())
        };
        self.until(&format!("request {n} of kind {ask:?}"), found).await
    }

    /// Waits until a watch of this type is open that was opened after the last [`end_watches`](Self::end_watches).
    ///
    /// # Panics
    /// When there is none within 60 s of real time.
    pub async fn watched(&self, kind: &str) {
        let is_open = |state: &State| (state.open.get(kind) > Some(&0)).then_some(());
        self.until(&format!("a watch of {kind}"), is_open).await;
    }

    async fn until<T>(&self, what: &str, look: impl Fn(&State) -> Option<T>) -> T {
        let mut changed = self.shared.changed.subscribe();
        let waiting = async {
            loop {
                changed.mark_unchanged();
                if let Some(found) = look(&self.shared.state()) {
                    return found;
                }
                let _ = changed.changed().await;
            }
        };
        within(what, waiting).await
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl fmt::Debug for ApiServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiServer").field("addr", &self.addr).finish_non_exhaustive()
    }
}

async fn serve(mut socket: TcpStream, shared: Arc<Shared>) {
    let mut buffer = bytes::BytesMut::new();
    while let Some(request) = Request::read(&mut socket, &mut buffer).await {
        let asked = Asked::of(&request);
        let answer = shared.change(|state| {
            state.requests.push((asked.ask, request.clone()));
            state.answer(&asked, &request)
        });
        let (mut reading, mut writing) = socket.split();
        let reply = match answer {
            Answer::Reply(reply) => reply,
            Answer::Watch(mut following) => {
                let is_whole = tokio::select! {
                    ended = following.play(&mut writing, &shared) => ended.is_ok(),
                    () = until_closed(&mut reading, &mut buffer) => false,
                };
                following.close(&mut shared.state());
                if is_whole {
                    continue;
                }
                return;
            }
        };
        let next = tokio::select! {
            biased;
            next = reply.play(&mut writing) => next,
            () = until_closed(&mut reading, &mut buffer) => return,
        };
        match next {
            Ok(Next::KeepAlive) => continue,
            Ok(Next::Reset) => {
                let _ = socket.set_zero_linger();
            }
            Ok(Next::Fin) => {
                let _ = writing.shutdown().await;
                until_closed(&mut reading, &mut buffer).await;
            }
            Ok(Next::Silence) => until_closed(&mut reading, &mut buffer).await,
            Err(_) => {}
        }
        return;
    }
}

/// The object or list of a request.
struct Asked {
    ask: Ask,
    place: Place,
    status: bool,
}

impl Asked {
    fn of(request: &Request) -> Self {
        let Some((place, status)) = Place::of_path(request.path()) else {
            return Self { ask: Ask::Other, place: Place::new("", "", ""), status: false };
        };
        let one = !place.name.is_empty();
        let ask = match request.method() {
            "GET" if one => Ask::Get,
            "GET" if request.query("watch").is_some() => Ask::Watch,
            "GET" if request.query("resourceVersionMatch").is_some() => Ask::Check,
            "GET" if request.query("continue").is_some() => Ask::Page,
            "GET" => Ask::List,
            "POST" if !one => Ask::Create,
            "PATCH" if one && status => Ask::PatchStatus,
            "PATCH" if one => Ask::Patch,
            "DELETE" if one => Ask::Delete,
            _ => Ask::Other,
        };
        Self { ask, place, status }
    }
}

enum Answer {
    Reply(Reply),
    Watch(Following),
}

impl State {
    fn answer(&mut self, asked: &Asked, request: &Request) -> Answer {
        let scripted = self.next.get_mut(&asked.ask).and_then(VecDeque::pop_front);
        if let Some(reply) = scripted.or_else(|| self.always.get(&asked.ask).cloned()) {
            return Answer::Reply(reply);
        }
        match self.usual(asked, request) {
            Ok(answer) => answer,
            Err(failure) => Answer::Reply(Reply::json(failure.code, &failure.status())),
        }
    }

    fn usual(&mut self, asked: &Asked, request: &Request) -> Result<Answer, Failure> {
        if let Some(token) = &self.token
            && request.header("authorization") != Some(&format!("Bearer {token}"))
        {
            return Err(Failure::new(401, "Unauthorized", "Unauthorized"));
        }
        let Place { kind, namespace, .. } = &asked.place;
        if self.forbidden.contains(namespace) || (namespace.is_empty() && !self.forbidden.is_empty()) {
            let verb = format!("{:?}", asked.ask).to_lowercase();
            let message = format!(
                "{kind} is forbidden: User \"tester\" cannot {verb} in the namespace \"{namespace}\""
            );
            return Err(Failure::new(403, "Forbidden", &message));
        }
        let body = || {
            let wrong = || Failure::new(400, "BadRequest", "the body is no JSON");
            serde_json::from_slice::<Value>(request.body()).map_err(|_| wrong())
        };
        let store = &mut self.store;
        let object = match asked.ask {
            Ask::List | Ask::Page | Ask::Check => {
                return Ok(Answer::Reply(Reply::json(200, &store.list(&asked.place, request)?)));
            }
            Ask::Watch => {
                let from = request.query("resourceVersion").unwrap_or_default();
                *self.open.entry(kind.clone()).or_default() += 1;
                return Ok(Answer::Watch(Following {
                    place: asked.place.clone(),
                    from: from.parse().unwrap_or(0),
                    generation: Some(self.watch_generation),
                    bookmarks: self.bookmarks,
                }));
            }
            Ask::Get => store.find(&asked.place)?.clone(),
            Ask::Create => {
                let created = store.create(&asked.place, body()?)?;
                return Ok(Answer::Reply(Reply::json(201, &created)));
            }
            Ask::Patch | Ask::PatchStatus => store.patch(&asked.place, asked.status, &body()?)?,
            Ask::Delete => store.delete(&asked.place)?,
            Ask::Other => {
                return Err(Failure::new(
                    404,
                    "NotFound",
                    "the server could not find the requested resource",
                ));
            }
        };
        Ok(Answer::Reply(Reply::json(200, &object)))
    }
}

/// An open watch.
struct Following {
    place: Place,
    from: u64,
    /// `None` once it has ended.
    generation: Option<u64>,
    bookmarks: u64,
}

impl Following {
    async fn play(
        &mut self,
        socket: &mut (impl tokio::io::AsyncWrite + Unpin),
        shared: &Shared,
    ) -> std::io::Result<()> {
        let mut changed = shared.changed.subscribe();
        socket
            .write_all(
                b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n",
            )
            .await?;
        loop {
            changed.mark_unchanged();
            let (lines, ends) = self.news(&mut shared.state());
            for line in lines {
                let line = format!("{line}\n");
                socket.write_all(format!("{:x}\r\n{line}\r\n", line.len()).as_bytes()).await?;
            }
            if ends {
                socket.write_all(b"0\r\n\r\n").await?;
                return socket.flush().await;
            }
            socket.flush().await?;
            if changed.changed().await.is_err() {
                return Ok(());
            }
        }
    }

    /// The events to send, and whether the watch ends after them.
    fn news(&mut self, state: &mut State) -> (Vec<Value>, bool) {
        let events = match state.store.since(&self.place, self.from) {
            Ok(events) => events,
            Err(failure) => {
                self.close(state);
                return (vec![json!({"type": "ERROR", "object": failure.status()})], true);
            }
        };
        let mut lines = Vec::new();
        for (version, kind, object) in events {
            self.from = version;
            lines.push(json!({"type": kind, "object": object}));
        }
        if state.bookmarks != self.bookmarks {
            self.bookmarks = state.bookmarks;
            self.from = self.from.max(state.store.version());
            let metadata = json!({"resourceVersion": self.from.to_string()});
            lines.push(json!({"type": "BOOKMARK", "object": {"metadata": metadata}}));
        }
        (lines, self.generation != Some(state.watch_generation))
    }

    fn close(&mut self, state: &mut State) {
        if self.generation.take() == Some(state.watch_generation)
            && let Some(open) = state.open.get_mut(&self.place.kind)
        {
            *open -= 1;
        }
    }
}
