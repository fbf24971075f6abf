//! The server: a port and a store.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use relay_log::{DiskOptions, DiskStore, Logs, MemoryStore, Store};
use relay_transport::server::{HttpServer, Settings};
use tokio::net::ToSocketAddrs;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::handler::Handler;
use crate::streams::Streams;

/// Approximate size of a segment of a stream, in bytes.
const SEGMENT: u64 = 4 << 20;
/// Bytes of the newest records that are kept in memory for each stream that is being written; of these there are 256.
const CACHE: u64 = 128 << 10;

/// A listening server. It serves once [`run`](Self::run) is called.
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
                // Small segments, of which only the newest is checked, so that the first request of a long stream
                // is fast.
                let options = DiskOptions::default().segment_bytes(SEGMENT).check_bytes(0).cache_bytes(CACHE);
                let opening = tokio::task::spawn_blocking(move || DiskStore::open(dir, options));
                Self::bind_on(address, config, opening.await?.map_err(io::Error::other)?).await
            }
        }
    }

    /// As [`bind`](Self::bind) with the caller's store; [`Config::dir`] is ignored.
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

    /// Cancelling it ends the server: live readers get their end, and requests in progress are completed.
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
