//! Connections: drives the connection machine over hyper, TLS and tokio.
//!
//! [`HttpClient`] sends single requests, [`EventStream`] keeps an event stream going over as many connections as it
//! takes. The meaning of responses, retries and redirects is decided in [`relay_proto::eventsource`]; this crate
//! moves the bytes, reads the clock and holds the secrets.
//!
//! With the feature `server`, the module `server` is the server side: accepting connections with deadlines and
//! limits, tokens, responses and an orderly shutdown.
//!
//! It knows no message of any relay, keeps no cache and no cookies, and never logs a payload or a credential.
//!
//! ```no_run
//! use futures_util::StreamExt;
//! use relay_proto::eventsource::{Config, Item};
//! use relay_transport::{BaseUrl, EventStream, HttpClient};
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let base = BaseUrl::parse("https://relay.example/prefix/")?;
//! let url = base.join("events/stream", &[("client_id", "docs")]);
//! let mut stream = EventStream::get(HttpClient::builder().build()?, Config::default(), &url)?;
//! while let Some(item) = stream.next().await {
//!     if let Item::Frame(frame) = item? { /* ... */ }
//! }
//! # Ok(())
//! # }
//! ```

mod client;
#[cfg(feature = "server")]
pub mod server;

pub use client::{
    BaseUrl, ClientIdentity, Error, EventStream, Handle, HttpClient, HttpClientBuilder, Outer, Secret,
    TokenSource, retry_after,
};
