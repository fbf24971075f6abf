//! Parsec: enveloped channels, on the wire.
//!
//! A publisher wraps each payload in an [`Envelope`]: channel, aspect, producer, and a sequence per channel and
//! producer. Channels are named by a grammar ([`ChannelName`]); [`Pattern`]s match them and carry schemas
//! ([`Registry`], [`Validator`]). [`StreamFrame`]s are the events of a stream over Server-Sent Events. The messages
//! of a `centrifuge` server over a WebSocket are in [`centrifuge`], with the connection as a state machine in
//! [`session`].
//!
//! It keeps no sequences and finds no gaps: these are folds in `relay-state`.
//!
//! ```
//! use relay_proto::parsec::{Envelope, EnvelopeError, Payload, Producer};
//!
//! let envelope = Envelope::new("public:app.demo", "said", Producer::user("me"))
//!     .with_sequence(1)
//!     .with_produced_at_millis(1_779_891_729_331)
//!     .with_payload(Payload::parse(r#"{"text":"hi", "n":9007199254740993}"#)?);
//! let text = envelope.encode()?;
//! let end = r#""payload":{"text":"hi","n":9007199254740993},"produced_at":"2026-05-27T14:22:09.331Z"}"#;
//! assert!(text.ends_with(end));
//! assert_eq!(Envelope::decode(text)?, envelope);
//!
//! let nobody = Envelope::new("public:app.demo", "said", Producer::user(""));
//! assert_eq!(nobody.encode(), Err(EnvelopeError::ProducerRequired));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod answer;
pub mod centrifuge;
mod channel;
mod decode;
mod envelope;
mod frame;
mod instant;
mod pattern;
mod payload;
mod position;
pub mod problems;
mod registry;
mod schema;
pub mod session;
mod validator;

pub use answer::{
    ChannelInfo, ChannelList, Health, HistoryEntry, HistoryPage, PresenceEntry, PresenceList, Published,
};
pub use channel::{ChannelName, InvalidChannel};
pub use decode::{DecodeError, Draft};
pub use envelope::{
    Causation, Envelope, EnvelopeError, MAX_ENVELOPE_BYTES, Producer, ProducerKind, ProducerRef,
};
pub use frame::{ClosingReason, Connected, FrameError, GapReason, LegacyFrame, StreamFrame, StreamGap};
pub use pattern::{Bindings, InvalidPattern, Pattern};
pub use payload::{NotJson, Payload, PayloadRef};
pub use position::{InvalidPosition, Position};
pub use registry::{
    Access, AspectSchema, Change, ChangeKind, ChannelPattern, Registry, RegistryError, RegistrySnapshot,
};
pub use schema::{Mismatch, Schema};
pub use validator::{Rejection, Validation, Validator, ValidatorMode};
