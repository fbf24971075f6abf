//! The connection machine of `relay-proto` on runtimes other than tokio: [`blocking`] sockets, and [`smol`].
//!
//! Two drivers to read and to copy, each a loop that asks the machine and obeys. What they leave out is stated: no TLS, no
//! proxies, no connection pool. For those use `relay-transport`. Unpublished.
//!
//! ```
//! use std::io::{Read, Write};
//! use std::net::TcpListener;
//! use std::ops::ControlFlow;
//!
//! use relay_proto::eventsource::{Config, Item};
//! use relay_proto::sse::Frame;
//!
//! let listener = TcpListener::bind("127.0.0.1:0")?;
//! let url = format!("http://{}/events", listener.local_addr()?);
//! std::thread::spawn(move || {
//!     let (mut peer, _) = listener.accept()?;
//!     peer.read(&mut [0; 1024])?;
//!     peer.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: hello\n\n")
//! });
//! let mut heard = String::new();
//! relay_runtimes::blocking::follow(&url, Config::default(), |item| match item {
//!     Item::Frame(Frame::Event(event)) => {
//!         heard.push_str(event.data());
//!         ControlFlow::Break(())
//!     }
//!     _ => ControlFlow::Continue(()),
//! });
//! assert_eq!(heard, "hello");
//! # Ok::<(), std::io::Error>(())
//! ```

pub mod blocking;
mod http1;
pub mod smol;
