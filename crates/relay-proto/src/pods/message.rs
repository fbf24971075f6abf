//! Messages of the stream: one SSE event each.

use std::borrow::Cow;

use serde::{Deserialize, Serialize, Serializer};

use super::event::{WireEvent, object};
use super::{Epoch, EventHash, EventType, PodEvent, Position};
use crate::error::JsonError;
use crate::time::Timestamp;

/// One decoded message of a relay's stream.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Message {
    /// First on every connection: the effective parameters and the start position.
    Connected(Connected),
    /// A change of one pod.
    Pod(PodEvent),
    /// All retained events, and those that arrived during the replay, have been sent.
    CatchupComplete(CatchupComplete),
    /// Events were lost for this consumer.
    Gap(Gap),
    /// Nothing happened; a bookmark.
    Heartbeat(Heartbeat),
    /// The relay is about to end the connection.
    Closing(Closing),
    /// An SSE event this version does not know; passed on in raw streams, ignored by folds.
    Unknown {
        /// The SSE event name.
        event: String,
    },
    /// A message of the protocol that cannot be read, or was over the size limit.
    Undecodable(Undecodable),
}

/// `connected`: the first message of a connection. Every field but the protocol may be missing on a foreign relay.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Connected {
    /// Protocol version; 1 when absent. Above [`super::PROTOCOL`]: best effort.
    #[serde(default = "protocol_one")]
    pub protocol: u32,
    /// The consumer's name as the relay knows it.
    #[serde(default, alias = "clientId")]
    pub client_id: Option<String>,
    /// The log's epoch.
    #[serde(default)]
    pub epoch: Option<Epoch>,
    /// The newest position of the log at the connect.
    #[serde(default)]
    pub head: Option<Position>,
    /// Events after this position follow.
    #[serde(default, alias = "resumesAfter")]
    pub resumes_after: Option<Position>,
    /// Whether a filter or the token narrows the stream; `None` when the relay does not send it.
    #[serde(default)]
    pub filtered: Option<bool>,
    /// The effective namespaces; empty means all.
    #[serde(default)]
    pub namespaces: Vec<String>,
    /// Seconds between heartbeats, may be fractional.
    #[serde(default, alias = "heartbeatSeconds")]
    pub heartbeat_seconds: Option<f64>,
}

fn protocol_one() -> u32 {
    1
}

/// `catchup_complete`: the replay, and events that arrived during it, have been sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct CatchupComplete {
    /// The position reached.
    #[serde(default)]
    pub hash: Option<EventHash>,
    /// Its sequence.
    #[serde(default)]
    pub sequence: Option<u64>,
    /// Messages sent on this connection so far; filtered streams only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sent: Option<u64>,
    /// Pod events sent before it on this connection.
    #[serde(default)]
    pub replayed: Option<u64>,
}

/// Why events were lost. The first three come from a relay, the rest are a client's own findings.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum GapReason {
    /// The event after the cursor is no longer retained.
    CursorExpired,
    /// The cursor is not of this log.
    CursorUnknown,
    /// The consumer was too slow: its next event was dropped from the log.
    SlowConsumer,
    /// Events are missing on the wire, also after a resume.
    Hole,
    /// The log was rewritten below a position already seen.
    Rewind,
    /// The log was replaced without a gap.
    EpochChanged,
    /// A message could not be read.
    Undecodable,
    /// A message was over the size limit.
    TooLarge,
    /// A reason this version does not know.
    Other(Box<str>),
}

impl GapReason {
    const NAMES: [(&'static str, Self); 8] = [
        ("cursor-expired", Self::CursorExpired),
        ("cursor-unknown", Self::CursorUnknown),
        ("slow-consumer", Self::SlowConsumer),
        ("hole", Self::Hole),
        ("rewind", Self::Rewind),
        ("epoch-changed", Self::EpochChanged),
        ("undecodable", Self::Undecodable),
        ("too-large", Self::TooLarge),
    ];

    /// Reads a reason.
    pub fn parse(text: &str) -> Self {
        let known = Self::NAMES.into_iter().find(|(name, _)| *name == text);
        known.map_or_else(|| Self::Other(text.into()), |(_, reason)| reason)
    }

    /// The name as written on the wire.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Other(name) => name,
            known => Self::NAMES.iter().find(|(_, reason)| reason == known).map_or("", |(name, _)| name),
        }
    }
}

/// Implements serde by the enum's own `parse` and `as_str`.
macro_rules! serde_by_name {
    ($($name:ty)*) => { $(
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                Ok(Self::parse(&Cow::<str>::deserialize(deserializer)?))
            }
        }
    )* };
}

serde_by_name! { EventType GapReason ClosingReason SourceState }

/// `gap`: events were lost for this consumer; reseed before trusting later events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Gap {
    /// The reason; `unspecified` when the relay does not send one.
    #[serde(default = "unspecified")]
    pub reason: GapReason,
    /// The epoch of the log from here on.
    #[serde(default)]
    pub epoch: Option<Epoch>,
    /// Messages sent on this connection so far, this one included; filtered streams only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sent: Option<u64>,
    /// The consumer's cursor.
    #[serde(default, alias = "requestedHash")]
    pub requested_hash: Option<String>,
    /// The oldest retained event.
    #[serde(default, alias = "oldestHash")]
    pub oldest_hash: Option<EventHash>,
    /// How many events were lost; `None` when unknown.
    #[serde(default)]
    pub missed: Option<u64>,
    /// Events after this position follow.
    #[serde(default)]
    pub hash: Option<EventHash>,
    /// Its sequence.
    #[serde(default)]
    pub sequence: Option<u64>,
}

fn unspecified() -> GapReason {
    GapReason::Other("unspecified".into())
}

impl Gap {
    /// A gap with a reason and a position, all else unknown.
    pub fn new(reason: GapReason, hash: Option<EventHash>, sequence: Option<u64>) -> Self {
        Self {
            reason,
            epoch: None,
            sent: None,
            requested_hash: None,
            oldest_hash: None,
            missed: None,
            hash,
            sequence,
        }
    }
}

/// Whether a relay's source is followed.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SourceState {
    /// The source is being followed.
    Live,
    /// The source is unavailable; the log does not change.
    Stale,
    /// A state this version does not know.
    Other(Box<str>),
}

impl SourceState {
    /// Reads a state.
    pub fn parse(text: &str) -> Self {
        match text {
            "live" => Self::Live,
            "stale" => Self::Stale,
            other => Self::Other(other.into()),
        }
    }

    /// The name as written on the wire.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Live => "live",
            Self::Stale => "stale",
            Self::Other(name) => name,
        }
    }
}

/// `heartbeat`: everything up to this position that matches the filter has been sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Heartbeat {
    /// The position reached.
    #[serde(default)]
    pub hash: Option<EventHash>,
    /// Its sequence.
    #[serde(default)]
    pub sequence: Option<u64>,
    /// Messages sent on this connection so far; filtered streams only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sent: Option<u64>,
    /// True during the replay.
    #[serde(default, alias = "catchingUp")]
    pub catching_up: bool,
    /// The relay's clock.
    #[serde(default)]
    pub time: Option<Timestamp>,
    /// Whether the relay's source is followed right now.
    #[serde(default)]
    pub source: Option<SourceState>,
    /// Since when it is not.
    #[serde(default, alias = "staleSince")]
    pub stale_since: Option<Timestamp>,
}

/// Why a relay ends a connection.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ClosingReason {
    /// The relay shuts down.
    Shutdown,
    /// Another replica should serve this consumer.
    Rebalance,
    /// The stream reached its age limit.
    Lifetime,
    /// The credential is no longer valid, or its rights changed.
    Revoked,
    /// A reason this version does not know.
    Other(Box<str>),
}

impl ClosingReason {
    /// Reads a reason.
    pub fn parse(text: &str) -> Self {
        match text {
            "shutdown" => Self::Shutdown,
            "rebalance" => Self::Rebalance,
            "lifetime" => Self::Lifetime,
            "revoked" => Self::Revoked,
            other => Self::Other(other.into()),
        }
    }

    /// The name as written on the wire.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Shutdown => "shutdown",
            Self::Rebalance => "rebalance",
            Self::Lifetime => "lifetime",
            Self::Revoked => "revoked",
            Self::Other(name) => name,
        }
    }
}

/// `closing`: the connection is about to end; reconnect with the cursor after the `retry:` delay of the same block.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Closing {
    /// Why.
    pub reason: ClosingReason,
}

/// A message that cannot be read, and its known parts.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Undecodable {
    /// The SSE event name.
    pub event: String,
    /// The SSE id, when it is a hash.
    pub hash: Option<EventHash>,
    /// Bytes of its data, or of the whole block when it was over the limit.
    pub size: u64,
    /// Whether it was over the size limit, rather than malformed.
    pub too_large: bool,
    /// The error; never the payload.
    pub reason: String,
}

impl Undecodable {
    /// A message whose block went over a limit of the SSE decoder; `limit` says which.
    pub fn oversized(event: &str, id: &str, size: u64, limit: &str) -> Self {
        Self {
            event: event.into(),
            hash: EventHash::new(id).ok(),
            size,
            too_large: true,
            reason: format!("over the limit of {limit}"),
        }
    }

    /// The reason a fold gives for the gap that this message is.
    pub fn gap_reason(&self) -> GapReason {
        if self.too_large { GapReason::TooLarge } else { GapReason::Undecodable }
    }
}

impl std::fmt::Display for Undecodable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let hash = self.hash.as_ref().map_or("none", EventHash::as_str);
        write!(f, "event {:?} (hash {hash}, {} bytes): {}", self.event, self.size, self.reason)
    }
}

impl Message {
    /// Decodes one SSE event: its type, its last event id and its data. Never fails: an unreadable message is
    /// [`Message::Undecodable`], an unknown one [`Message::Unknown`].
    pub fn decode(event: &str, id: &str, data: &str) -> Self {
        fn read<'a, T: Deserialize<'a>>(data: &'a str) -> Result<T, JsonError> {
            object(data).map_err(Into::into)
        }
        let result = match event {
            "connected" => read(data).map(Self::Connected),
            "catchup_complete" => read(data).map(Self::CatchupComplete),
            "gap" => read(data).map(Self::Gap),
            "heartbeat" => read(data).map(Self::Heartbeat),
            "closing" => read(data).map(Self::Closing),
            "pod" | "pod_event" => PodEvent::decode(id, data).map(Self::Pod),
            "event" | "message" => match PodEvent::decode(id, data) {
                Ok(event) => Ok(Self::Pod(event)),
                Err(error) => match object::<WireEvent<'_>>(data) {
                    Ok(wire) if wire.pod.is_none() => return Self::Unknown { event: event.into() },
                    _ => Err(error),
                },
            },
            _ => return Self::Unknown { event: event.into() },
        };
        result.unwrap_or_else(|error| {
            Self::Undecodable(Undecodable {
                event: event.into(),
                hash: EventHash::new(id).ok(),
                size: data.len() as u64,
                too_large: false,
                reason: error.to_string(),
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn undecodable(event: &str, id: &str, data: &str) -> Undecodable {
        match Message::decode(event, id, data) {
            Message::Undecodable(u) => u,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_pod_event_is_known_by_name_or_by_content() {
        let data = r#"{"type":"updated","hash":"h2","previousHash":"h1","sequence":2,"leftFilter":true,"enteredFilter":true,"pod":{"namespace":"a","name":"b"}}"#;
        for name in ["pod", "pod_event", "event", "message"] {
            let Message::Pod(event) = Message::decode(name, "", data) else { panic!("{name}") };
            assert_eq!(event.kind, EventType::Modified);
            assert_eq!((event.hash.as_str(), event.sequence), ("h2", Some(2)));
            assert_eq!((event.left_filter, event.entered_filter), (true, true));
            assert_eq!(event.previous_hash.unwrap().as_str(), "h1");
        }
        assert!(matches!(Message::decode("message", "", r#"{"hello":1}"#), Message::Unknown { .. }));
        assert!(matches!(Message::decode("podium", "", data), Message::Unknown { .. }));
    }

    #[test]
    fn data_on_two_lines_is_one_object() {
        let data =
            "{\"sent\":3,\"type\":\"DELETED\",\n\"hash\":\"h\",\"pod\":{\"namespace\":\"a\",\"name\":\"b\"}}";
        let Message::Pod(event) = Message::decode("pod", "h", data) else { panic!() };
        assert_eq!((event.sent, event.kind), (Some(3), EventType::Deleted));
    }

    #[test]
    fn a_missing_hash_is_the_sse_id() {
        let data = r#"{"type":"ADDED","pod":{"namespace":"a","name":"b"}}"#;
        let Message::Pod(event) = Message::decode("pod", "h9", data) else { panic!() };
        assert_eq!(event.hash.as_str(), "h9");
        assert!(undecodable("pod", "", data).reason.contains("hash"));
    }

    #[test]
    fn what_cannot_be_read_names_its_event_hash_size_and_reason() {
        let broken = undecodable("pod", "h7", "{\"type\":");
        assert_eq!((broken.event.as_str(), broken.size, broken.too_large), ("pod", 8, false));
        assert_eq!(broken.hash.as_ref().unwrap().as_str(), "h7");
        assert_eq!(broken.gap_reason(), GapReason::Undecodable);
        assert!(broken.to_string().contains("h7"), "{broken}");
        for (event, data, why) in [
            ("pod", r#"{"type":"ADDED","hash":"h"}"#, "pod"),
            ("pod", r#"{"hash":"h","pod":{"namespace":"a","name":"b"}}"#, "type"),
            ("pod", r#"{"type":"ADDED","hash":"h","pod":{"name":"b"}}"#, "namespace"),
            ("pod", r#"{"type":"ADDED","hash":"a b","pod":{"namespace":"a","name":"b"}}"#, "visible ASCII"),
            ("message", "{", "EOF"),
            ("connected", "[1]", "an array"),
            ("gap", "[]", "an array"),
        ] {
            let found = undecodable(event, "", data);
            assert!(found.reason.contains(why), "{event} {data}: {}", found.reason);
        }
    }

    #[test]
    fn control_messages_tolerate_what_is_missing() {
        let Message::Connected(connected) = Message::decode("connected", "", "{}") else { panic!() };
        assert_eq!((connected.protocol, connected.filtered, connected.epoch), (1, None, None));
        let Message::Heartbeat(beat) =
            Message::decode("heartbeat", "", r#"{"catchingUp":true,"source":"stale"}"#)
        else {
            panic!()
        };
        assert_eq!((beat.catching_up, beat.source), (true, Some(SourceState::Stale)));
        let Message::Gap(gap) = Message::decode("gap", "", r#"{"reason":"new-reason"}"#) else { panic!() };
        assert_eq!(gap.reason.as_str(), "new-reason");
        let Message::Gap(gap) = Message::decode("gap", "", "{}") else { panic!() };
        assert_eq!(gap.reason.as_str(), "unspecified");
    }
}
