//! Server-Sent Events, both directions, without I/O.
//!
//! [`Decoder`] turns bytes into [`Frame`]s, [`Encoder`] turns events into bytes. Neither knows a socket, a clock or a
//! runtime, and neither decides when to reconnect: that is the connection machine's work.
//!
//! The decoder follows the interpretation rules of the WHATWG HTML standard for every way the input may be cut into
//! chunks, in time linear in the input. It guarantees three things beyond the standard:
//!
//! * **Nothing is fatal.** Invalid UTF-8 becomes U+FFFD, unknown fields are ignored, and an event over a limit is
//!   skipped up to its blank line and reported as [`Frame::Oversized`].
//! * **Nothing is copied without need.** An event whose lines of interest lie in one chunk, with one `data` line,
//!   borrows that chunk by reference count. Other events are put together in a buffer that is reused, so that a steady
//!   stream of events that are dropped after use allocates nothing per event.
//! * **Nothing is hidden.** Comments and `retry` lines are frames of their own, yielded as soon as their line ends.
//!
//! ```
//! use relay_proto::sse::{Decoder, Frame};
//!
//! let mut decoder = Decoder::default();
//! decoder.feed("id: 7\nevent: greeting\ndata: hel");
//! assert!(decoder.next_frame().is_none());
//! decoder.feed("lo\n\n");
//! let Some(Frame::Event(event)) = decoder.next_frame() else { panic!("one event") };
//! assert_eq!((event.kind(), event.data(), event.last_event_id()), ("greeting", "hello", "7"));
//! ```

mod block;
mod decoder;
mod encoder;
mod frame;
mod limits;
mod span;

pub use decoder::{Decoder, Numbered, Series};
pub use encoder::{EncodeError, Encoder};
pub use frame::{Comment, Event, Frame, Oversized};
pub use limits::{Limit, Limits};
