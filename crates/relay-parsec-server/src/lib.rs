//! A Parsec server: enveloped channels over HTTP.
//!
//! Each channel is a log; a subscriber is a position in it, and is sent what follows over Server-Sent Events.
//! Positions are of all producers together, so that a drop resumes exactly; a producer's sequence is taken once. What
//! cannot be given any more is said with a `gap`.
//!
//! What it deliberately does not do: look into payloads beyond their schemas, speak TLS (put a proxy in front), push to
//! subscribers that do not read, or copy its logs to other machines.
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
