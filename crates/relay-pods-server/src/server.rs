//! The server: a port, a source, and an orderly shutdown.

use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use relay_log::{MemoryStore, Store};
use relay_proto::pods::ClosingReason;
use relay_transport::server::{HttpServer, Settings, TokensError};
use tokio::net::ToSocketAddrs;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::auth::{Sessions, TokenWatch};
use crate::clock::Clock;
use crate::config::Config;
use crate::cursor::LogIdentity;
use crate::http::Relay;
use crate::log::{Following, Log};
use crate::metrics::Metrics;
use crate::source::{Publisher, Source, SourceError};
use crate::store::{DEFAULT_RETENTION, StoreError};
use relay_log::Retention;

/// A relay with an open store and a listening port. It serves once [`run`](Self::run) is called.
///
/// ```no_run
/// # use relay_pods_server::{Config, Server, Source};
/// # async fn example(source: impl Source + 'static, stop: impl Future<Output = ()>) -> Result<(),
/// relay_pods_server::ServeError> { let server =
/// Server::builder(Config::default()).source(source).bind("127.0.0.1:0").await?; let address = server.local_addr();
/// server.run(stop).await
/// # }
/// ```
pub struct Server {
    http: HttpServer,
    source: Option<Box<dyn Source>>,
    handle: Handle,
    /// Whether the store outlives the server.
    shared: bool,
}

/// Builds a [`Server`]: by default with a [`MemoryStore`] that keeps [`DEFAULT_RETENTION`], no source (see
/// [`Handle::publisher`]) and the system's clock.
pub struct Builder {
    config: Config,
    store: Option<Arc<dyn Store>>,
    /// Whether the store is shared with others.
    shared: bool,
    retention: Retention,
    identity: Option<LogIdentity>,
    source: Option<Box<dyn Source>>,
    clock: Clock,
}

impl Builder {
    /// Sets the store in which the log is kept, under the name `pods`. It is closed when the server ends.
    #[must_use]
    pub fn store(self, store: impl Store) -> Self {
        Self { shared: false, ..self.shared_store(Arc::new(store)) }
    }

    /// Sets a store that is shared with others, and is not closed when the server ends.
    #[must_use]
    pub fn shared_store(mut self, store: Arc<dyn Store>) -> Self {
        (self.store, self.shared) = (Some(store), true);
        self
    }

    /// Sets how much of the log is kept. Default: [`DEFAULT_RETENTION`].
    #[must_use]
    pub fn retention(mut self, retention: Retention) -> Self {
        self.retention = retention;
        self
    }

    /// Sets epoch and key of a new log, for tests that need exact bytes. By default they are random.
    #[must_use]
    pub fn identity(mut self, identity: LogIdentity) -> Self {
        self.identity = Some(identity);
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
        let Self { config, store, shared, retention, identity, source, clock } = self;
        let tokens = config.tokens_file.as_deref().map(TokenWatch::open).transpose()?.map(Arc::new);
        let store = store.unwrap_or_else(|| Arc::new(MemoryStore::new()));
        let log = Arc::new(Log::open(store, retention, identity.as_ref(), clock.clone()).await?);
        let http = HttpServer::bind(address, settings(&config))
            .await
            .map_err(|source| ServeError::Bind { source })?;
        let address = http.local_addr();
        let relay = Arc::new(Relay {
            source_kind: source.as_ref().map_or("embedded", |source| source.kind()),
            sessions: Sessions::new(clock, config.session_ttl),
            tokens,
            log,
            metrics: Metrics::default(),
            connections: http.connections(),
            subscribers: AtomicU64::new(0),
            control: watch::Sender::default(),
            config,
        });
        let handle = Handle { relay, address, stop: CancellationToken::new() };
        Ok(Server { http, source, handle, shared })
    }
}

impl Server {
    /// Begins to build a server.
    pub fn builder(config: Config) -> Builder {
        Builder {
            config,
            store: None,
            shared: false,
            retention: DEFAULT_RETENTION,
            identity: None,
            source: None,
            clock: Clock::system(),
        }
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.handle.address
    }

    /// A handle for use while it runs.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Serves until `shutdown` completes or [`Handle::shutdown`] is called; then sends `closing` on every stream,
    /// lets responses in progress end within [`Config::drain`], and cuts the rest. Dropping the future cuts
    /// everything at once.
    ///
    /// # Errors
    /// When the source fails for good. Errors of single connections do not count.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<(), ServeError> {
        let Self { http, source, handle, shared } = self;
        let Handle { relay, stop, .. } = handle.clone();
        let mut upkeep = JoinSet::new();
        upkeep.spawn(keep_up(relay.clone()));
        if let Some(tokens) = &relay.tokens {
            upkeep.spawn(keep_tokens(relay.clone(), tokens.clone()));
        }
        let mut sources = JoinSet::new();
        if let Some(source) = source {
            sources.spawn(source.run(handle.publisher(), stop.child_token()));
        }
        let mut shutdown = pin!(shutdown);
        let told = async {
            let outcome = loop {
                tokio::select! {
                    // A source also ends because it was stopped, so the reason is checked first.
                    biased;
                    () = &mut shutdown => break Ok(()),
                    () = stop.cancelled() => break Ok(()),
                    Some(ended) = sources.join_next() => {
                        if let Err(error) = source_ended(&relay, ended) {
                            break Err(error);
                        }
                    }
                }
            };
            // Reported before the server stops, so that every stream has the reason.
            relay.control.send_modify(|control| control.closing = Some(ClosingReason::Shutdown));
            stop.cancel();
            outcome
        };
        let outcome = http.run(relay.clone(), told).await;
        sources.shutdown().await;
        upkeep.shutdown().await;
        let settled = relay.log.settle().await;
        let closed = if shared { Ok(()) } else { relay.log.events.close().await };
        outcome.and(settled.and(closed).map_err(Into::into))
    }
}

/// A handle of a running server. Cheap to clone.
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

    /// Begins an orderly shutdown: see [`Server::run`].
    pub fn shutdown(&self) {
        self.stop.cancel();
    }

    /// Cuts the connection of every open stream: for demonstrations and tests.
    pub fn cut_streams(&self) {
        self.relay.control.send_modify(|control| control.cuts += 1);
    }

    /// Sends `closing` with reason `rebalance` on every open stream and ends it, so that its consumer reconnects,
    /// perhaps to another replica.
    pub fn rebalance(&self) {
        self.relay.control.send_modify(|control| control.rebalances += 1);
    }

    /// Drops every retained event and keeps the positions: subscribers behind the head get a `gap`. For
    /// demonstrations and tests.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn trim_to_head(&self) -> Result<(), StoreError> {
        let log = self.relay.log.events.log();
        Ok(log.trim(log.bounds().head).await?)
    }

    /// Makes every open stream miss an event: holds all streams until an event was appended, and drops it. False
    /// when none was appended within `patience`, or the store fails, and nothing was done. For demonstrations and
    /// tests.
    pub async fn force_gap(&self, patience: Duration) -> bool {
        let _held_back = HeldBack::new(&self.relay);
        let mut head = self.relay.log.watch_head();
        let before = *head.borrow_and_update();
        let moved = {
            let moved = tokio::time::timeout(patience, head.wait_for(|head| *head > before)).await;
            matches!(moved, Ok(Ok(_)))
        };
        moved && self.trim_to_head().await.is_ok()
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

fn settings(config: &Config) -> Settings {
    Settings::default()
        .max_connections(config.max_connections)
        .stall_timeout(config.stall_timeout)
        .drain(config.drain)
}

/// Checks that are made every second.
async fn keep_up(relay: Arc<Relay>) {
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        if let Err(error) = relay.log.events.log().expire(relay.log.clock.unix_millis()).await {
            tracing::warn!(%error, "old events could not be dropped");
        }
        relay.sessions.sweep();
    }
}

async fn keep_tokens(relay: Arc<Relay>, tokens: Arc<TokenWatch>) {
    let count = &relay.metrics.token_file_errors;
    let failed = || {
        count.fetch_add(1, Ordering::Relaxed);
    };
    tokens.keep_fresh(failed).await;
}

fn source_ended(relay: &Relay, ended: Result<Result<(), SourceError>, JoinError>) -> Result<(), ServeError> {
    relay.log.set_following(Following::Away("the source has ended"));
    match ended {
        Ok(Ok(())) => tracing::warn!("the source has ended; the log stands still"),
        Ok(Err(source)) => return Err(ServeError::Source { source }),
        Err(error) => tracing::error!(%error, "the source broke off; the log stands still"),
    }
    Ok(())
}

/// Why a server does not start, or has ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The port cannot be opened.
    #[error("cannot listen")]
    Bind {
        /// What happened.
        source: std::io::Error,
    },
    /// The tokens file is refused.
    #[error(transparent)]
    Tokens(#[from] TokensError),
    /// The store cannot be opened.
    #[error("the log cannot be opened")]
    Store {
        /// What happened.
        #[from]
        source: StoreError,
    },
    /// The source failed for good.
    #[error("the source failed")]
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
