//! The Pod Event Relay's wire format, version 1: pods, stream messages, lists, history pages, sessions, problems.
//!
//! Everything here is a *tolerant reader*: field names match in `snake_case` and `camelCase`, unknown fields are
//! ignored, a pod may also be a Kubernetes object, and lists come bare or wrapped. Writers always use the flat
//! `snake_case` shape of `docs/protocol.md`.
//!
//! Nothing here does I/O or compares a message with those before it: these checks are in `relay-state`.

mod builder;
mod canonical;
mod container;
mod cursor;
mod event;
mod fields;
mod filter;
mod history;
mod key;
mod kubernetes;
mod layout;
mod list;
mod message;
mod parameter;
mod pod;
pub mod problem_codes;
mod selector;
mod session;
mod status;
mod text;

pub use builder::PodBuilder;
pub use container::{Container, ContainerKind, Owner};
pub use cursor::{Epoch, EventHash, InvalidHash, Position};
pub use event::{EventType, PodEvent};
pub use filter::Filter;
pub use history::{EventPage, InvalidPage};
pub use key::PodKey;
pub use list::{ListDecoder, ListError, ListFormat, ListLimits, PodList};
pub use message::{
    CatchupComplete, Closing, ClosingReason, Connected, Gap, GapReason, Heartbeat, Message, SourceState,
    Undecodable,
};
pub use parameter::InvalidParameter;
pub use pod::{InvalidPod, Pod};
pub use selector::{Requirement, Selector};
pub use session::{Health, InvalidSession, Session};
pub use status::Printed;

/// Protocol version that [`Connected::protocol`] carries and this crate reads and writes.
pub const PROTOCOL: u32 = 1;

/// Paths and query names of a relay. The defaults are those of `docs/protocol.md`; a foreign relay may differ.
///
/// Paths are relative to the base URL and begin with `/`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Endpoints {
    /// Health document. Default `/health`.
    pub health: String,
    /// Current pods; one pod is `{pods}/{namespace}/{name}`, its history `{pods}/{namespace}/{name}/events`. Default
    /// `/pods`.
    pub pods: String,
    /// History. Default `/events`.
    pub events: String,
    /// Session tickets. Default `/auth/session`.
    pub session: String,
    /// The SSE stream. Default `/events/stream`.
    pub stream: String,
    /// Query name of the cursor after which to begin. Default `since_hash`.
    pub since_hash: String,
    /// Query name of the cursor before which a history page ends. Default `before_hash`.
    pub before_hash: String,
    /// Query name of the position a list must reflect. Default `at_least`.
    pub at_least: String,
    /// Query name of the consumer's name. Default `client_id`.
    pub client_id: String,
    /// Query name of the session ticket. Default `session_id`.
    pub session_id: String,
    /// Query name of a namespace; repeats. Default `namespace`.
    pub namespace: String,
    /// Query name of a label selector; repeats. Default `label`.
    pub label: String,
}

impl Default for Endpoints {
    fn default() -> Self {
        Self {
            health: "/health".into(),
            pods: "/pods".into(),
            events: "/events".into(),
            session: "/auth/session".into(),
            stream: "/events/stream".into(),
            since_hash: "since_hash".into(),
            before_hash: "before_hash".into(),
            at_least: "at_least".into(),
            client_id: "client_id".into(),
            session_id: "session_id".into(),
            namespace: "namespace".into(),
            label: "label".into(),
        }
    }
}
