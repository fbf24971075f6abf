//! Peers for tests of relays and clients.
//!
//! * [`Peer`] plays a [`Script`]: exact bytes in exact chunks, delays, stalls until a [`Gate`] opens, ends by FIN,
//!   RST or silence. It records every request. [`RelayScript`] and [`Conversation`] build such scripts of the pod
//!   relay's messages.
//! * [`ApiServer`] is a Kubernetes API server with objects of any type, which fails on demand.
//! * [`CentrifugeServer`] has channels over WebSockets and by Twirp, and fails on demand.
//! * [`FaultLink`] is a proxy for a real server that cuts, stalls, splits and slows its data, in the same way for the
//!   same seed.
//! * [`Oracle`] folds events into pods in a slow and simple way, and [`audit`] compares a client's items with the log.
//! * `Authority` (feature `tls`) signs certificates, and puts TLS in front of a peer.
//! * [`Clock`] freezes tokio's time although sockets are in use, and moves it by hand.
//! * [`ReservedPort`] keeps a port for one test; [`Logged`] has what the tested code logs.
//!
//! It is not an HTTP server: requests are split at their blank line and `Content-Length`; nothing is negotiated, and
//! nothing is checked. For plain REST with matchers, wiremock is better. Unlike the rest of the workspace it panics if
//! a test is wrong: if a request never comes, or a script has an error.
//!
//! Nothing here sleeps: tests wait for events, with a limit of real time ([`within`]).
//!
//! ```
//! use relay_testkit::{Conversation, Peer, RelayScript};
//! use tokio::io::{AsyncReadExt, AsyncWriteExt};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> std::io::Result<()> {
//! let relay = RelayScript::new("e1").stream(
//!     Conversation::new("e1").connected(0).pod("ADDED", &Conversation::sample_pod("web-1")).catchup_complete().cut(),
//! );
//! let peer = Peer::start(relay).await;
//!
//! // A client, as raw as it gets.
//! let mut socket = tokio::net::TcpStream::connect(peer.addr()).await?;
//! socket.write_all(b"GET /events/stream?since_hash=e1.0 HTTP/1.1\r\nhost: relay\r\n\r\n").await?;
//! let mut answer = String::new();
//! socket.read_to_string(&mut answer).await?;
//!
//! assert!(answer.contains("event: catchup_complete\n"));
//! assert_eq!(peer.request(0).await.query("since_hash").as_deref(), Some("e1.0"));
//! # Ok(()) }
//! ```

mod api_server;
#[cfg(feature = "tls")]
mod authority;
mod centrifuge;
mod clock;
mod gate;
mod link;
mod listening;
mod logged;
mod oracle;
mod peer;
mod relay;
mod reply;
mod reserved_port;
mod seed;

pub use api_server::{ApiServer, Ask};
#[cfg(feature = "tls")]
pub use authority::Authority;
pub use centrifuge::CentrifugeServer;
pub use clock::{Clock, within};
pub use gate::Gate;
pub use link::{Counters, FaultLink, Faults};
pub use logged::Logged;
pub use oracle::{Audit, Oracle, audit};
pub use peer::{Opening, Peer, Request, Script};
pub use relay::{Conversation, RelayScript, hash_of, pods_reply, session_reply, sse_event};
pub use reply::Reply;
pub use reserved_port::ReservedPort;
pub use seed::Rng;
