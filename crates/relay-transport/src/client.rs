//! The client side: single requests, and event streams over many connections.

mod base_url;
mod connect;
mod credentials;
mod dial;
mod error;
mod handover;
mod http_client;
mod limits;
mod proxies;
mod retry_after;
mod stream;
mod tls;
mod tls_io;

pub use base_url::BaseUrl;
pub use credentials::{Outer, Secret, TokenSource};
pub use error::Error;
pub use http_client::{HttpClient, HttpClientBuilder};
pub use retry_after::retry_after;
pub use stream::{EventStream, Handle};
pub use tls::ClientIdentity;
