//! Client of Durable Streams: append-only streams behind URLs.
//!
//! * [`Client`]: one per program, cheap to clone; base URL, token, headers, time limits, one pool of connections.
//! * [`DurableStream`]: a handle without I/O; create, append, close, head, delete, fork.
//! * [`Reads`]: everything from an offset on, then live. Resumes after every cut, without a gap and without a
//!   duplicate.
//! * [`DurableStream::read_json`], [`read_raw`](DurableStream::read_raw), [`read_bytes`](DurableStream::read_bytes):
//!   the same by kind of data; [`get`](DurableStream::get): one answer, unless nothing has changed.
//! * [`Subscription`]: work on many streams, shared by workers: one holds a [`Lease`] at a time, and acknowledges.
//! * [`IdempotentProducer`]: each message once, in order, through lost answers and restarts.
//!
//! **What it does not do:** a plain append is never sent a second time once bytes of it left, unless asked: its
//! outcome is then [`ErrorKind::OutcomeUnknown`]. It follows no redirect to another origin, prints nothing, and logs
//! no payload.
//!
//! ```no_run
//! use futures_util::StreamExt;
//! use relay_durable::{Checkpoint, Client, Offset, ReadEvent, ReaderConfig};
//!
//! # async fn run() -> Result<(), relay_durable::Error> {
//! let client = Client::builder("http://127.0.0.1:4437").build()?;
//! let stream = client.stream("/orders")?;
//! let mut reads = stream.read(ReaderConfig::default(), Checkpoint::at(Offset::START));
//! while let Some(event) = reads.next().await {
//!     if let ReadEvent::Piece(piece) = event? {
//!         // Work on piece.content, then keep piece.checkpoint.
//!     }
//! }
//! # Ok(())
//! # }
//! ```

mod batches;
mod client;
mod error;
mod exchange;
mod producer;
mod read;
mod stream;
mod subscription;

pub use batches::{Batch, Batches, Delivery};
pub use client::{Client, ClientBuilder};
pub use error::{Error, ErrorKind};
pub use producer::{IdempotentProducer, Notice, Outcome, ProducerOptions, Receipt, StateStore};
pub use read::{ReadEvent, Reads};
pub use relay_proto::durable::{
    Acknowledged, Bounds, Checkpoint, Content, End, LiveMode, Offset, Piece, ProducerConfig, ProducerState,
    ReaderConfig, Retry, is_json,
};
pub use relay_transport::{HttpClient, Outer, TokenSource};
pub use stream::{
    AppendOptions, AppendOutcome, CreateOptions, Created, DurableStream, Expiry, Fetched, ForkOptions, Head,
    Snapshot,
};
pub use subscription::{
    Ack, Lease, PendingStream, SubscribedStream, Subscription, SubscriptionInfo, SubscriptionOptions,
};
