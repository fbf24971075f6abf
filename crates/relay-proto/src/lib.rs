//! Sans-IO wire formats of event relays: SSE codec, connection machine, pod messages.
//!
//! The input is bytes, the output is messages. There is no socket, runtime or clock in this crate or in its
//! dependencies: the caller reads and writes the bytes and passes the time. It keeps no state of a cluster, only
//! the state of the stream being read.
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
#![cfg_attr(not(any(feature = "std", test)), no_std)]

extern crate alloc;

#[cfg(feature = "autoconfig")]
pub mod autoconfig;
#[cfg(feature = "bus")]
pub mod bus;
#[cfg(feature = "durable")]
pub mod durable;
pub mod error;
pub mod eventsource;
pub mod http;
#[cfg(feature = "json")]
#[cfg_attr(not(feature = "pods"), allow(dead_code, reason = "each wire format needs a part of it"))]
mod json;
pub mod mark;
#[cfg(feature = "parsec")]
pub mod parsec;
#[cfg(feature = "pods")]
pub mod pods;
#[cfg(feature = "problem")]
pub mod problem;
pub mod retry;
pub mod secret;
mod setters;
pub mod sse;
#[cfg(feature = "time")]
pub mod time;
