//! Enveloped channels: publish and subscribe with sequences, gaps and schemas.
//!
//! A [`Client`] publishes under one producer id, with a sequence per channel that is stored before an envelope is
//! sent, and subscribes to channels as a `Stream` of [`Item`]s or with handlers. A [`Transport`] carries the
//! envelopes: [`MemoryTransport`] within a process, [`SseTransport`] to a Parsec server of ours over HTTP, and with
//! the feature `websocket` a transport to servers that embed centrifuge.
//!
//! What it deliberately does not do: merge channels, resolve schema references, keep what was received, or decide
//! what a gap means. It reports gaps; the application decides what to do about them.
//!
//! ```
//! use futures_util::StreamExt;
//! use relay_parsec::{Client, Item, MemoryTransport, Outgoing, SubscribeOptions};
//! use relay_proto::parsec::{Payload, Producer};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), relay_parsec::Error> {
//! let client = Client::builder(MemoryTransport::new()).producer(Producer::user("me")).build()?;
//! let mut items = client.subscribe("public:demo.chat", SubscribeOptions::default()).await?.items();
//! let hello = Payload::of(&serde_json::json!({"text": "hi"})).unwrap();
//! client.publish("public:demo.chat", Outgoing::new("said").payload(hello)).await?;
//! assert!(matches!(items.next().await, Some(Ok(Item::Subscribed { .. }))));
//! let Some(Ok(Item::Envelope(said))) = items.next().await else { panic!() };
//! assert_eq!((said.envelope.aspect(), said.envelope.sequence()), ("said", 1));
//! # client.close().await;
//! # Ok(()) }
//! ```

mod client;
mod endpoint;
mod error;
mod items;
mod memory;
mod options;
mod publisher;
mod snapshot;
mod sse;
mod subscription;
mod transport;
#[cfg(feature = "websocket")]
mod websocket;

/// The target of log events about attempts that are repeated. The field `cause` says why, and `delay` after how many
/// seconds, for programs that show them in another form.
pub const RETRY_TARGET: &str = "relay_parsec::retry";

pub use client::{Client, ClientBuilder};
pub use endpoint::{Endpoint, EndpointBuilder};
pub use error::{Error, ErrorKind};
pub use items::{Items, SubscriptionState};
pub use memory::MemoryTransport;
pub use options::{HistoryOptions, Outgoing, SubscribeOptions};
pub use publisher::Sent;
pub use snapshot::{FileIo, FileSnapshotter, SequenceSnapshotter, SnapshotError};
pub use sse::{SseConfig, SseTransport};
pub use subscription::{Handled, Subscriber, Subscription};
pub use transport::{Event, Feed, HistoryItem, Presence, PublishFailure, Receipt, Start, Transport};
#[cfg(feature = "websocket")]
pub use websocket::{WebSocketConfig, WebSocketTransport};

pub use relay_proto::parsec::PresenceEntry;
pub use relay_state::sequences::{Delivered, Gap, GapCause, Item, SequenceTracker};
pub use relay_transport::{HttpClient, Outer, TokenSource};
