//! The server side: a port, connections with deadlines and limits, tokens, responses, an orderly shutdown.
//!
//! A [`Service`] answers requests; [`HttpServer`] does the rest. It speaks HTTP/1.1 without TLS, and, if enabled,
//! HTTP/2 without TLS: put a proxy in front for TLS. It has no routes and knows no messages, does not print and
//! does not read the environment.
//!
//! ```
//! use std::sync::Arc;
//!
//! use http::{Request, Response, StatusCode};
//! use hyper::body::Incoming;
//! use relay_transport::server::{Body, Cut, HttpServer, Settings, full};
//! use tokio_util::sync::CancellationToken;
//!
//! async fn hello(request: Request<Incoming>) -> Result<Response<Body>, Cut> {
//!     Ok(full(StatusCode::OK, "text/plain", format!("hello from {}\n", request.uri().path())))
//! }
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> std::io::Result<()> {
//! let server = HttpServer::bind("127.0.0.1:0", Settings::default()).await?;
//! println!("listening on http://{}", server.local_addr());
//! let stop = CancellationToken::new();
//! # stop.cancel();
//! server.run(Arc::new(hello), stop.cancelled()).await;
//! # Ok(()) }
//! ```

mod accept;
mod answer;
mod connection;
mod framing;
mod h2c;
mod hyper_answers;
mod opened;
mod request;
mod service;
mod tokens;

pub use accept::{Connections, HttpServer, Settings, serve_connection};
pub use answer::{Body, Cut, full, json, method_not_allowed, problem, seconds, with_body};
pub use request::{
    BodyError, Query, Refusal, Unread, allows, check_head, collect_body, credential, percent_decode,
    read_body, refuse,
};
pub use service::Service;
pub use tokens::{Principal, Rights, TokenWatch, Tokens, TokensError};
