//! A port and a store.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use relay_log::{DiskOptions, DiskStore, Logs, MemoryStore, Store};
use relay_proto::setters;
use relay_transport::server::{HttpServer, Settings};
use tokio::net::ToSocketAddrs;
use tokio_util::sync::CancellationToken;

use crate::http::Handler;
use crate::streams::Streams;

/// Bytes of a file of a stream, more or less.
const SEGMENT: u64 = 4 << 20;
/// Bytes of the newest records that are kept in memory for each stream that is being written; of these there are 256.
const CACHE: u64 = 128 << 10;

/// Settings of a [`Server`]: `Config::default()` and setters named like the fields.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Config {
    /// Directory that keeps the streams. Default: none, they are kept in memory.
    pub dir: Option<PathBuf>,
    /// Largest body of a request, in bytes. Default 64 MiB.
    pub max_body: usize,
    /// How long a long-poll waits. Default 30 s.
    pub poll_wait: Duration,
    /// Age at which a connection with events ends. Default 60 s.
    pub events_age: Duration,
    /// Bytes of data in one answer, but for a single append that is larger. Default 8 MiB.
    pub answer_bytes: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            dir: None,
            max_body: 64 << 20,
            poll_wait: Duration::from_secs(30),
            events_age: Duration::from_secs(60),
            answer_bytes: 8 << 20,
        }
    }
}

setters! { Config {
    dir: Option<PathBuf>,
    max_body: usize,
    poll_wait: Duration,
    events_age: Duration,
    answer_bytes: usize,
} }

/// A server that listens; it answers once it runs.
#[derive(Debug)]
pub struct Server {
    http: HttpServer,
    handler: Arc<Handler>,
    stop: CancellationToken,
}

impl Server {
    /// Opens the port and the store.
    ///
    /// # Errors
    /// When either cannot be opened.
    pub async fn bind(address: impl ToSocketAddrs, config: Config) -> io::Result<Self> {
        match config.dir.clone() {
            None => Self::bind_on(address, config, MemoryStore::new()).await,
            Some(dir) => {
                // Small segments, and no more than the newest one looked at, so that the first request of a stream is
                // answered soon, however long the stream is.
                let options = DiskOptions::default().segment_bytes(SEGMENT).check_bytes(0).cache_bytes(CACHE);
                let opening = tokio::task::spawn_blocking(move || DiskStore::open(dir, options));
                Self::bind_on(address, config, opening.await?.map_err(io::Error::other)?).await
            }
        }
    }

    /// As [`bind`](Self::bind) over a store of the caller's; [`Config::dir`] counts for nothing.
    ///
    /// # Errors
    /// When the port cannot be opened, or the store cannot be read.
    pub async fn bind_on(address: impl ToSocketAddrs, config: Config, store: impl Store) -> io::Result<Self> {
        let streams = Streams::open(Logs::new(store)).await.map_err(io::Error::other)?;
        let http = HttpServer::bind(address, Settings::default()).await?;
        let stop = CancellationToken::new();
        Ok(Self { http, handler: Arc::new(Handler::new(streams, config, stop.clone())), stop })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.http.local_addr()
    }

    /// Cancelling it ends the server: live readers get their end, what is being answered is answered.
    pub fn stop_token(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Serves until it is stopped.
    pub async fn run(self) {
        let Self { http, handler, stop } = self;
        http.run(handler.clone(), stop.cancelled()).await;
        handler.close().await;
    }
}
