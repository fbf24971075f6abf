//! Durable Streams: append-only streams behind URLs, read from any offset and followed live.
//!
//! Wire format and rules of the protocol (draft 1.0), without I/O: [`Offset`]s and [`Checkpoint`]s, response heads
//! as an [`Answer`], [`Control`] events, the incremental [`ArraySplitter`], and two machines: [`Reader`] decides
//! which request to make so that nothing is lost or repeated, [`Producer`] decides which batch to send so that each
//! message is written once. Time and seeds are arguments.
//!
//! **What it does not do:** sockets, credentials, redirects, and the choice of a token after a 401.
//!
//! ```
//! use relay_proto::durable::{Answer, Refusal};
//!
//! let closed = Answer::new(409).header("Stream-Closed", b"true").header("Stream-Next-Offset", b"0_12");
//! assert!(matches!(closed.refusal(), Some(Refusal::Closed)));
//! assert_eq!(closed.next_offset().unwrap().as_str(), "0_12");
//! ```

mod answer;
mod array;
mod batch;
mod control;
mod offset;
mod producer;
mod reader;

pub use answer::{Answer, Refusal, is_json};
pub use array::{ArrayError, ArraySplitter};
pub use control::{BadControl, Control, decode_base64};
pub use offset::{Checkpoint, InvalidOffset, Offset};
pub use producer::{
    Acknowledged, Attempt, Bounds, Event, MAX_NUMBER, Producer, ProducerConfig, ProducerState, ProducerStop,
    ProducerWant, Refused,
};
pub use reader::{
    Ask, Content, End, Live, LiveMode, Piece, Reader, ReaderConfig, ReaderStop, ReaderWant, Retry,
};
