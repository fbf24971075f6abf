//! Client of a Pod Event Relay: a gap-less, resumable, bounded view of a cluster's pods.
//!
//! [`Client`] requests lists, single pods, history, sessions and health, and opens streams:
//!
//! | call | gives |
//! |---|---|
//! | [`Client::stream`] | the raw messages of one connection |
//! | [`Client::stream_pod_events`] | events and gaps; reconnects, resumes, heals |
//! | [`Client::stream_pod_state`] | a snapshot of the pods after each change |
//! | [`Client::stream_pod_state_with_replay`] | snapshots in six phases, each with the position that may be saved |
//!
//! [`SnapshotStream::watch`] shares one stream among many readers. With [`StreamOptions::conflate`] a consumer that
//! is slower than the relay gets several events in one snapshot.
//!
//! **What it does not do:** it starts no tasks for a stream (unless it is shared) and keeps no queue beyond one
//! bounded buffer. A stream reads its socket while it is polled, a slow consumer slows the relay, and dropping the
//! stream closes the connection. It does not know when your work is done: save an acknowledgement after you have
//! processed its snapshot.
//!
//! ```no_run
//! use futures_util::TryStreamExt;
//! use relay_pods::{Client, Filter, StreamOptions};
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let relay = Client::builder("http://localhost:8080").build()?;
//! let workers = Filter::new().namespace("prod")?.label("app=worker")?;
//! let mut snapshots = relay.stream_pod_state_with_replay(StreamOptions::new().filter(workers));
//! while let Some(snapshot) = snapshots.try_next().await? {
//!     println!("{}: {} pods", snapshot.phase, snapshot.pods.len());
//! }
//! # Ok(())
//! # }
//! ```

/// The target of log events about attempts that failed and are made again: fields `cause`, a line of text, and `delay`
/// in seconds. A program that reports outages in another way can leave them out of its log by this target.
pub const RETRY_TARGET: &str = "relay_pods::retry";

mod builder;
mod calls;
mod error;
mod events;
mod messages;
mod pages;
mod request;
mod session;
mod state;
mod status;
mod tickets;
mod watch;

pub use builder::{ClientBuilder, ClientFactory};
pub use calls::Client;
pub use error::{AnswerError, Blame, Error};
pub use events::{PodEventItem, PodEventStream};
pub use messages::{MessageStream, RawMessage};
pub use request::{EventsQuery, Order, StreamOptions};
pub use session::{SessionMode, SessionSource};
pub use state::SnapshotStream;
pub use status::{Freshness, Outage, Statistics, StreamHandle};
pub use tickets::RelaySessions;
pub use watch::{GroupWatch, PodWatch};

// The types in its signatures, and the stores of acknowledgements.
pub use relay_proto::pods::{
    Container, ContainerKind, Endpoints, EventHash, EventPage, EventType, Filter, Gap, GapReason, Health,
    InvalidPage, InvalidPod, InvalidSession, ListError, ListLimits, Message, Pod, PodEvent, PodKey, PodList,
    Printed, Requirement, Selector, Session, Undecodable,
};
pub use relay_proto::problem::{Problem, ProblemCode};
pub use relay_state::files::FileError;
pub use relay_state::pods::{
    Change, ChangeKind, CursorError, CursorStore, FileCursorStore, Group, Groups, MemoryCursorStore, Phase,
    Pods, Snapshot,
};
pub use relay_transport::{HttpClient, Secret, TokenSource};

/// The example of the repository's README, so that it compiles.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;

/// The examples of the how-to pages, so that they are run.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/how-to.md")]
struct HowTo;

/// The examples of the repository's guide, so that they compile.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/replacing-a-polling-loop.md")]
struct ReplacingAPollingLoop;
