//! The server: a port, a source, and an orderly end.

use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::header::CONTENT_TYPE;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use relay_proto::pods::ClosingReason;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, ToSocketAddrs};
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::auth::{Sessions, TokenWatch, TokensError};
use crate::clock::Clock;
use crate::config::Config;
use crate::conn::{Activity, Held, Socket};
use crate::http::{Cut, MAX_HEAD, Relay};
use crate::log::Log;
use crate::metrics::Metrics;
use crate::source::{Publisher, Source, SourceError};
use crate::store::{MemoryStore, Retention, Store, StoreError};

/// Fields of a request head that are taken, as [`HEAD_RULE`](crate::http::HEAD_RULE) says. More than this within 64 KiB would be next to empty; room for them is set
/// aside while a head is read.
const MAX_FIELDS: usize = 4096;
/// How long a request head that has begun may still take when the server ends.
const HEAD_GRACE: Duration = Duration::from_millis(250);

/// A relay whose store is open and whose port listens. It answers once it runs.
///
/// ```no_run
/// # use relay_pods_server::{Config, Server, Source};
/// # async fn example(source: impl Source + 'static, stop: impl Future<Output = ()>) -> Result<(), relay_pods_server::ServeError> {
/// let server = Server::builder(Config::default()).source(source).bind("127.0.0.1:0").await?;
/// let address = server.local_addr();
/// server.run(stop).await
/// # }
/// ```
pub struct Server {
    listener: TcpListener,
    source: Option<Box<dyn Source>>,
    handle: Handle,
}

/// Collects what a [`Server`] needs: by default a [`MemoryStore`] of the default [`Retention`], no source (see
/// [`Handle::publisher`]) and the system's clock.
pub struct Builder {
    config: Config,
    store: Option<Arc<dyn Store>>,
    source: Option<Box<dyn Source>>,
    clock: Clock,
}

impl Builder {
    /// Sets the store.
    #[must_use]
    pub fn store(mut self, store: impl Store) -> Self {
        self.store = Some(Arc::new(store));
        self
    }

    /// Sets the source.
    #[must_use]
    pub fn source(self, source: impl Source + 'static) -> Self {
        self.boxed_source(Box::new(source))
    }

    /// Sets a source that was chosen at run time.
    #[must_use]
    pub fn boxed_source(mut self, source: Box<dyn Source>) -> Self {
        self.source = Some(source);
        self
    }

    /// Sets the clock.
    #[must_use]
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// Opens the tokens file, the store and the port. Port 0 lets the system choose one.
    ///
    /// # Errors
    /// When one of them cannot be opened.
    pub async fn bind(self, address: impl ToSocketAddrs) -> Result<Server, ServeError> {
        let Self { config, store, source, clock } = self;
        let tokens = config.tokens_file.as_deref().map(TokenWatch::open).transpose()?;
        let store = store.unwrap_or_else(|| Arc::new(MemoryStore::new(Retention::default())));
        let log = Arc::new(Log::open(store, clock.clone())?);
        let listener = TcpListener::bind(address).await.map_err(|source| ServeError::Bind { source })?;
        let address = listener.local_addr().map_err(|source| ServeError::Bind { source })?;
        let relay = Arc::new(Relay {
            source_kind: source.as_ref().map_or("embedded", |source| source.kind()),
            sessions: Sessions::new(clock, config.session_ttl),
            tokens,
            log,
            metrics: Metrics::default(),
            subscribers: AtomicU64::new(0),
            control: watch::Sender::default(),
            config,
        });
        let handle = Handle { relay, address, stop: CancellationToken::new() };
        Ok(Server { listener, source, handle })
    }
}

impl Server {
    /// Begins to build a server.
    pub fn builder(config: Config) -> Builder {
        Builder { config, store: None, source: None, clock: Clock::system() }
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.handle.address
    }

    /// A hold on it for while it runs.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Serves until `shutdown` is done or [`Handle::shutdown`] is called; then tells every stream `closing`, lets open
    /// answers end within [`Config::drain`], and cuts what is left. Dropping the future cuts everything at once.
    ///
    /// # Errors
    /// When the source fails for good. Errors of single connections are their own.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<(), ServeError> {
        let Self { listener, source, handle } = self;
        let Handle { relay, stop, .. } = handle.clone();
        let kill = CancellationToken::new();
        let _cut_when_dropped = kill.clone().drop_guard();
        let connections = TaskTracker::new();
        let evict = watch::Sender::new(0);
        let mut upkeep = JoinSet::new();
        upkeep.spawn(keep_up(relay.clone()));
        let mut sources = JoinSet::new();
        if let Some(source) = source {
            sources.spawn(source.run(handle.publisher(), stop.child_token()));
        }
        let mut shutdown = pin!(shutdown);
        let mut next_id = 0;
        let outcome = loop {
            tokio::select! {
                () = &mut shutdown => break Ok(()),
                () = stop.cancelled() => break Ok(()),
                Some(ended) = sources.join_next() => {
                    if let Err(error) = source_ended(&relay, ended) {
                        break Err(error);
                    }
                }
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => {
                        next_id += 1;
                        // Events are small and wanted at once.
                        let _ = stream.set_nodelay(true);
                        if let Some(place) = Place::take(&relay, &evict, next_id) {
                            let watch = (evict.subscribe(), stop.clone(), kill.clone());
                            connections.spawn(serve_connection(relay.clone(), stream, place, watch));
                        }
                    }
                    Err(error) => {
                        tracing::warn!(%error, "a connection could not be accepted");
                        // Most likely out of file descriptors: make room at the cost of those who said nothing.
                        evict.send_replace(next_id);
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                },
            }
        };
        drop(listener);
        relay.control.send_modify(|control| control.closing = Some(ClosingReason::Shutdown));
        stop.cancel();
        connections.close();
        if tokio::time::timeout(relay.config.drain, connections.wait()).await.is_err() {
            tracing::warn!(left = connections.len(), "connections are cut: they did not end in time");
            kill.cancel();
            connections.wait().await;
        }
        outcome
    }
}

/// A hold on a server, for while it runs. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    relay: Arc<Relay>,
    address: SocketAddr,
    stop: CancellationToken,
}

impl Handle {
    /// Where the server listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// The way into the log: for embedders without a [`Source`], and for tests.
    pub fn publisher(&self) -> Publisher {
        Publisher::new(self.relay.log.clone(), self.relay.config.annotations.iter().cloned())
    }

    /// Streams open right now.
    pub fn subscribers(&self) -> u64 {
        self.relay.subscribers.load(Ordering::Acquire)
    }

    /// Begins an orderly end: see [`Server::run`].
    pub fn shutdown(&self) {
        self.stop.cancel();
    }

    /// Cuts the connection of every open stream, without a word: for demonstrations and tests.
    pub fn cut_streams(&self) {
        self.relay.control.send_modify(|control| control.cuts += 1);
    }

    /// Tells every open stream `closing` with reason `rebalance` and ends it, so that its consumer comes back, perhaps to
    /// another replica.
    pub fn rebalance(&self) {
        self.relay.control.send_modify(|control| control.rebalances += 1);
    }

    /// Drops every retained event, keeping the positions: whoever is behind the head is told `gap`. For demonstrations
    /// and tests.
    pub fn trim_to_head(&self) {
        self.relay.log.store.clear();
    }

    /// Makes every open stream fall off the log: holds all back until an event was appended, and drops it. False when
    /// none was appended within `patience`, and nothing was done. For demonstrations and tests.
    pub async fn force_gap(&self, patience: Duration) -> bool {
        let _held_back = HeldBack::new(&self.relay);
        let mut head = self.relay.log.watch_head();
        let before = *head.borrow_and_update();
        let moved = tokio::time::timeout(patience, head.wait_for(|head| *head > before)).await;
        let moved = matches!(moved, Ok(Ok(_)));
        if moved {
            self.trim_to_head();
        }
        moved
    }
}

/// While it lives, no stream reads the log.
struct HeldBack<'a>(&'a Relay);

impl<'a> HeldBack<'a> {
    fn new(relay: &'a Relay) -> Self {
        relay.control.send_modify(|control| control.paused = true);
        Self(relay)
    }
}

impl Drop for HeldBack<'_> {
    fn drop(&mut self) {
        self.0.control.send_modify(|control| control.paused = false);
    }
}

/// A connection's place among the bounded number of them.
struct Place {
    relay: Arc<Relay>,
    id: u64,
}

impl Place {
    /// Connections accepted last that are spared when room is made: their first request may be on its way.
    const SPARED: u64 = 64;

    /// Takes a place; when all are taken, connections that wait for their peer make room for the next ones.
    fn take(relay: &Arc<Relay>, evict: &watch::Sender<u64>, id: u64) -> Option<Self> {
        let place = Self { relay: relay.clone(), id };
        let open = relay.metrics.connections.fetch_add(1, Ordering::AcqRel) + 1;
        let max = relay.config.max_connections as u64;
        if open > max {
            evict.send_replace(id.saturating_sub(Self::SPARED));
        }
        // Room is made by other tasks in their own time, so that a few more than the limit are let in.
        (open <= max + Self::SPARED).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.relay.metrics.connections.fetch_sub(1, Ordering::AcqRel);
    }
}

async fn serve_connection(
    relay: Arc<Relay>,
    stream: impl AsyncRead + AsyncWrite + Unpin,
    place: Place,
    (mut evict, stop, kill): (watch::Receiver<u64>, CancellationToken, CancellationToken),
) {
    let activity = Arc::new(Activity::default());
    let socket = Socket::new(stream, activity.clone(), relay.config.stall_timeout);
    let service = service_fn(|request| {
        let (relay, activity) = (relay.clone(), activity.clone());
        // At once, not when the future is first polled: the connection may be looked at in between.
        let busy = activity.begin();
        async move {
            let response = relay.serve(request).await?;
            if matches!(response.status().as_u16(), 413 | 431) {
                activity.linger();
            }
            if response.headers().get(CONTENT_TYPE).is_some_and(|kind| kind == "text/event-stream") {
                activity.streams();
            }
            Ok::<_, Cut>(response.map(|body| Held::new(body, busy)))
        }
    });
    let mut http = http1::Builder::new();
    // Beyond the limit on heads, so that the usual excess is answered by our own check.
    http.max_buf_size(MAX_HEAD + (16 << 10));
    http.max_headers(MAX_FIELDS);
    let mut connection = pin!(http.serve_connection(TokioIo::new(socket), service));
    let mut stopping = false;
    let mut grace = pin!(tokio::time::sleep(Duration::ZERO));
    let mut in_grace = false;
    loop {
        tokio::select! {
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "a connection ended");
                }
                return;
            }
            () = stop.cancelled(), if !stopping => {
                if activity.is_fresh() {
                    return;
                }
                stopping = true;
                in_grace = true;
                grace.as_mut().reset(Instant::now() + HEAD_GRACE);
                connection.as_mut().graceful_shutdown();
            }
            () = &mut grace, if in_grace => {
                if activity.is_heading() {
                    return;
                }
                in_grace = false;
            }
            () = kill.cancelled() => return,
            Ok(()) = evict.changed() => {
                if place.id <= *evict.borrow_and_update() && activity.is_waiting() {
                    return;
                }
            }
        }
    }
}

/// What has to be looked at every second.
async fn keep_up(relay: Arc<Relay>) {
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut complaint = String::new();
    loop {
        tick.tick().await;
        relay.log.store.expire(relay.log.clock.unix_millis());
        relay.sessions.sweep();
        if relay.tokens.is_none() {
            continue;
        }
        let reader = relay.clone();
        let read = tokio::task::spawn_blocking(move || reader.tokens.as_ref().map(TokenWatch::refresh)).await;
        match read {
            Ok(Some(Ok(changed))) => {
                complaint.clear();
                if changed {
                    tracing::info!("the tokens file was read again");
                }
            }
            Ok(Some(Err(error))) => {
                relay.metrics.token_file_errors.fetch_add(1, Ordering::Relaxed);
                let text = error.to_string();
                if text != complaint {
                    tracing::error!(error = text, "the tokens stay as they were");
                    complaint = text;
                }
            }
            Ok(None) | Err(_) => {}
        }
    }
}

fn source_ended(relay: &Relay, ended: Result<Result<(), SourceError>, JoinError>) -> Result<(), ServeError> {
    relay.log.set_live(false, false);
    match ended {
        Ok(Ok(())) => tracing::warn!("the source has ended; the log stands still"),
        Ok(Err(source)) => return Err(ServeError::Source { source }),
        Err(error) => tracing::error!(%error, "the source broke off; the log stands still"),
    }
    Ok(())
}

/// Why a server does not run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The port cannot be opened.
    #[error("cannot listen: {source}")]
    Bind {
        /// What happened.
        source: std::io::Error,
    },
    /// The tokens file is refused.
    #[error(transparent)]
    Tokens(#[from] TokensError),
    /// The store cannot be opened.
    #[error("the log cannot be opened: {source}")]
    Store {
        /// What happened.
        #[from]
        source: StoreError,
    },
    /// The source failed for good.
    #[error("the source failed: {source}")]
    Source {
        /// What happened.
        source: SourceError,
    },
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("handle", &self.handle).finish_non_exhaustive()
    }
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder").field("config", &self.config).finish_non_exhaustive()
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").field("address", &self.address).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
