//! A Parsec server: enveloped channels over HTTP.
//!
//! Each channel is a log; a subscriber has a position in it, and gets the envelopes after it over Server-Sent
//! Events. Positions count the envelopes of all producers, so that a resume is exact; each sequence of a producer
//! is accepted once. Envelopes that are no longer retained are reported by a `gap`.
//!
//! What it deliberately does not do: interpret payloads beyond their schemas, speak TLS (put a proxy in front),
//! push to subscribers that do not read, or copy its logs to other machines.
//!
//! ```
//! use relay_parsec_server::{ParsecServer, ServerConfig};
//! use tokio_util::sync::CancellationToken;
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), relay_parsec_server::ServerError> {
//! let server = ParsecServer::bind("127.0.0.1:0".parse().unwrap(), ServerConfig::default()).await?;
//! println!("relay listening on http://{}", server.local_addr());
//! let stop = CancellationToken::new();
//! # stop.cancel();
//! server.run(stop).await;
//! # Ok(()) }
//! ```

mod access;
mod channel;
mod config;
mod history;
mod http;
mod hub;
mod stream;

pub use config::ServerConfig;
pub use http::{ParsecServer, ServerError};
pub use tokio_util::sync::CancellationToken;
