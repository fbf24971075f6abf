//! The client side of an event stream connection as a state machine without I/O.
//!
//! [`Machine`] decides everything about a connection that is not moving bytes: the meaning of a response, when a
//! silent connection is dead, how long to wait before the next attempt, which id to resume from, where a redirect
//! may lead. It has no socket, no clock and no randomness: time comes in as a [`Duration`](core::time::Duration)
//! since an origin the driver chose, and a seed is given once, so that a run can be repeated exactly.
//!
//! A driver does what the machine asks for. **After every `handle_*` and every command, call [`Machine::poll`], do
//! what it returns, and feed the result back.**
//!
//! ```text
//!                 poll               200, event stream
//!    +-> Connect ------> Response ----------------------> Bytes
//!    |      ^             | |  | \                          |
//!    |      | redirect,   | |  |  \ another status          | end, silence, restart,
//!    |      | first 401   | |  |   v                        | endless event
//!    |      +-------------+ |  | Problem (reads the         |
//!    |      |  end, timeout,|  |  |  |    error body)        |
//!    |      |  restart,     |  |  |  +--> Stopped <-- close (from everywhere)
//!    |      |  refused      |  |  |         ^
//!    |      |               v  |  v         | 204, a status that is final,
//!    +----- Wait <----------+--|--+---------|---------------+ refused for good
//!     time                     +------------+
//! ```
//!
//! A driver over blocking sockets, complete except for the HTTP in `open` and `read`:
//!
//! ```
//! use core::time::Duration;
//! use relay_proto::eventsource::{Attempt, Config, End, Item, Machine, Stop, Action};
//! use relay_proto::http::ResponseHead;
//!
//! # fn open(attempt: &Attempt) -> Result<(u16, Option<&'static str>), String> {
//! #     Ok(if attempt.number() == 1 { (200, Some("text/event-stream")) } else { (204, None) })
//! # }
//! # fn read(until: Option<Duration>) -> Option<&'static [u8]> { None }
//! # fn sleep_until(time: Duration) {}
//! # let mut clock = Duration::ZERO;
//! # let mut now = || { clock += Duration::from_secs(31); clock };
//! let mut machine = Machine::new(Config::default(), 42);
//! let stop = loop {
//!     match machine.poll(now()) {
//!         Action::Connect(attempt) => match open(&attempt) {
//!             Ok((status, content_type)) => {
//!                 let mut head = ResponseHead::new(status, "http://relay.example/events");
//!                 if let Some(content_type) = content_type {
//!                     head = head.header("content-type", content_type.as_bytes());
//!                 }
//!                 machine.handle_response(head, now());
//!             }
//!             Err(error) => machine.handle_end(End::Io(error), now()),
//!         },
//!         Action::Bytes(until) => match read(until) {
//!             Some(bytes) => machine.handle_bytes(bytes, now()),
//!             None => machine.handle_end(End::Eof, now()),
//!         },
//!         Action::Wait(until) => sleep_until(until),
//!         Action::Item(Item::Frame(frame)) => { /* to the caller */ }
//!         Action::Item(_) => {}
//!         Action::Stop(stop) => break stop,
//!         _ => machine.handle_timeout(now()),
//!     }
//! };
//! assert!(matches!(stop, Stop::NoContent));
//! ```

mod config;
mod machine;
mod outcome;
#[cfg(test)]
mod tests;

pub use config::{Config, ServerRetry, StatusPolicy, Verdict};
pub use machine::{Machine, State};
pub use outcome::{Action, Attempt, Cause, End, Ended, Item, Refused, Retry, Stop};
