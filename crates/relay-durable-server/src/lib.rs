//! Server of Durable Streams: append-only streams behind URLs, in memory or in a directory.
//!
//! Creates, appends, closes, deletes and forks streams; serves them from any offset, by plain reads, long-polls and
//! events; keeps the state of idempotent producers in the same record as their data, so that a kill loses neither or
//! both.
//!
//! **What it does not do:** TLS and authentication (put a proxy in front), subscriptions, sub-streams, replication.
//!
//! ```
//! use relay_durable_server::{Config, Server};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> std::io::Result<()> {
//! let server = Server::bind("127.0.0.1:0", Config::default()).await?;
//! println!("listening on http://{}", server.local_addr());
//! let stop = server.stop_token();
//! # stop.cancel();
//! server.run().await;
//! # Ok(()) }
//! ```

mod answer;
mod config;
mod events;
mod fold;
mod handler;
mod http;
mod record;
mod server;
mod streams;
mod write;

pub use config::Config;
pub use server::Server;
pub use tokio_util::sync::CancellationToken;
