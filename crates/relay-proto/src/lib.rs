//! Sans-IO wire formats of event relays: SSE codec, connection machine, pod messages.
//!
//! Bytes in, meaning out. There is no socket, no runtime and no clock in this crate or below it: who uses it reads and
//! writes the bytes and brings the time. It keeps no state of a cluster either, only that of a stream being read.
//!
//! ```
//! use relay_proto::sse::{Decoder, Frame};
//!
//! let mut decoder = Decoder::default();
//! decoder.feed(": welcome\ndata: 12345\n\n");
//! while let Some(frame) = decoder.next_frame() {
//!     match frame {
//!         Frame::Comment(comment) => assert_eq!(comment.text(), " welcome"),
//!         Frame::Event(event) => assert_eq!(event.data(), "12345"),
//!         other => panic!("not sent: {other:?}"),
//!     }
//! }
//! ```
#![cfg_attr(not(feature = "std"), no_std)]

extern crate alloc;

pub mod eventsource;
#[cfg(feature = "pods")]
pub mod pods;
pub mod sse;
