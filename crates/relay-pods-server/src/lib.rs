//! The Pod Event Relay server as a library: a log of pod events, and the HTTP service in front of it.
//!
//! A [`Source`] tells a [`Publisher`] about pods. The publisher appends changes to the log in a store of
//! `relay-log`. Every subscriber holds a position in that log and gets the bytes of events, which are encoded once.
//!
//! It does not print, does not read flags or the environment, does not speak TLS or HTTP/2 (put a proxy in front),
//! and never waits for a subscriber: a slow one whose next event is dropped from the log gets a `gap`.
//!
//! ```
//! use relay_pods_server::{Config, Server, SimSource};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), relay_pods_server::ServeError> {
//! let cluster = SimSource::default().seed(7).pods(20).rate(0.0);
//! let server = Server::builder(Config::default()).source(cluster).bind("127.0.0.1:0").await?;
//! let handle = server.handle();
//! println!("listening on http://{}", server.local_addr());
//! # let relay = handle.clone();
//! # let stop = async move { while relay.publisher().current().len() < 20 { tokio::task::yield_now().await } };
//! server.run(stop).await?;
//! assert_eq!(handle.publisher().current().len(), 20);
//! # Ok(()) }
//! ```

mod auth;
mod clock;
mod config;
mod cursor;
mod http;
mod log;
mod metrics;
mod server;
mod source;
mod store;
mod transfer;

pub use clock::Clock;
pub use config::Config;
pub use cursor::LogIdentity;
pub use relay_transport::server::TokensError;
pub use server::{Builder, Handle, ServeError, Server};
#[cfg(feature = "kube")]
pub use source::KubeSource;
pub use source::{Publisher, Relisted, Scope, SimSource, Source, SourceError};
pub use store::{Change, DEFAULT_RETENTION, Record, StoreError};
pub use transfer::{
    ExportedPart, ProblemReport, SnapshotReport, StoreReport, TransferError, export_store,
    export_until_damage, import_store, verify_store,
};

pub use futures_util::future::BoxFuture;
pub use relay_log::Retention;
pub use relay_proto::pods::{Pod, PodBuilder};
pub use tokio_util::sync::CancellationToken;
