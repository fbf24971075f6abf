//! Pod events: the most frequent message.

use std::borrow::Cow;

use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;

use super::{EventHash, Pod, Position};
use crate::error::JsonError;
use crate::json::{Scan, Scanner, Unusual};
use crate::time::Timestamp;

/// The type of an event.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EventType {
    /// The pod appeared, or entered the filter.
    Added,
    /// The pod changed.
    Modified,
    /// The pod is gone, or left the filter.
    Deleted,
    /// A type this version does not know: yielded, not applied, counted.
    Other(Box<str>),
}

impl EventType {
    /// Reads a type without regard to case; `CREATED`, `UPDATED` and `REMOVED` are synonyms.
    pub fn parse(text: &str) -> Self {
        let is = |name: &str| text.eq_ignore_ascii_case(name);
        match () {
            () if is("ADDED") || is("CREATED") => Self::Added,
            () if is("MODIFIED") || is("UPDATED") => Self::Modified,
            () if is("DELETED") || is("REMOVED") => Self::Deleted,
            () => Self::Other(text.into()),
        }
    }

    /// The name as written on the wire.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
            Self::Other(name) => name,
        }
    }
}

/// `pod`: one event of the log.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct PodEvent {
    /// Its type.
    pub kind: EventType,
    /// The event's position.
    pub hash: EventHash,
    /// The position before it; unfiltered streams and pages only.
    pub previous_hash: Option<EventHash>,
    /// Messages sent on this connection so far, this one included; filtered streams only.
    pub sent: Option<u64>,
    /// Number within the epoch, growing by one per event of the log.
    pub sequence: Option<u64>,
    /// When the relay took the event into its log.
    pub timestamp: Option<Timestamp>,
    /// The pod after the event; for a deletion, its last state.
    pub pod: Pod,
    /// Made by the relay from a difference between its log and a fresh list.
    pub synthetic: bool,
    /// With [`EventType::Deleted`]: the pod still exists, but its labels left the filter.
    pub left_filter: bool,
    /// With [`EventType::Added`]: the pod existed before, and its labels entered the filter.
    pub entered_filter: bool,
}

impl PodEvent {
    /// An event with a hash, a sequence and nothing optional.
    pub fn new(kind: EventType, hash: EventHash, sequence: Option<u64>, pod: Pod) -> Self {
        Self {
            kind,
            hash,
            previous_hash: None,
            sent: None,
            sequence,
            timestamp: None,
            pod,
            synthetic: false,
            left_filter: false,
            entered_filter: false,
        }
    }

    /// Its hash and sequence.
    pub fn position(&self) -> Position {
        Position { hash: self.hash.clone(), sequence: self.sequence }
    }
}

impl Serialize for PodEvent {
    /// Writes `type`, `hash`, `previous_hash` (when known), `sequence`, `timestamp`, `synthetic`, `left_filter` and
    /// `entered_filter` (when true), and `pod`. `sent` counts messages of one connection and is left out.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("type", self.kind.as_str())?;
        map.serialize_entry("hash", &self.hash)?;
        if let Some(previous) = &self.previous_hash {
            map.serialize_entry("previous_hash", previous)?;
        }
        map.serialize_entry("sequence", &self.sequence)?;
        map.serialize_entry("timestamp", &self.timestamp)?;
        map.serialize_entry("synthetic", &self.synthetic)?;
        if self.left_filter {
            map.serialize_entry("left_filter", &true)?;
        }
        if self.entered_filter {
            map.serialize_entry("entered_filter", &true)?;
        }
        map.serialize_entry("pod", &self.pod)?;
        map.end()
    }
}

impl PodEvent {
    /// Reads an event from its JSON; `id` replaces a missing hash, because the SSE id is the hash.
    ///
    /// # Errors
    /// When the JSON is malformed, the type or the pod is missing, the pod is not one, or there is no hash.
    pub fn decode(id: &str, data: &str) -> Result<Self, JsonError> {
        let found = Scanner::new(data).and_then(|mut scanner| {
            let event = Self::scan(&mut scanner, id)?;
            scanner.end().map(|()| event)
        });
        found.or_else(|Unusual| Self::decode_tolerantly(id, data).map_err(Into::into))
    }

    /// Reads an event in the usual form; other forms are left to serde.
    pub(super) fn scan(scanner: &mut Scanner<'_>, id: &str) -> Scan<Self> {
        let mut straight = scanner.clone();
        let parts = match Parts::canonical(&mut straight) {
            Ok(parts) => {
                *scanner = straight;
                parts
            }
            Err(Unusual) => Parts::scan(scanner)?,
        };
        let hash = parts.hash.unwrap_or(id);
        let (hash, previous_hash) = match parts.previous_hash {
            Some(previous) => {
                let (previous, hash) = EventHash::pair(previous, hash).map_err(|_| Unusual)?;
                (hash, Some(previous))
            }
            None => (EventHash::new(hash).map_err(|_| Unusual)?, None),
        };
        Ok(Self {
            kind: EventType::parse(parts.kind.ok_or(Unusual)?),
            hash,
            previous_hash,
            sent: parts.sent,
            sequence: parts.sequence,
            timestamp: parts.timestamp.map(Timestamp::new),
            pod: parts.pod.ok_or(Unusual)?,
            synthetic: parts.synthetic,
            left_filter: parts.left_filter,
            entered_filter: parts.entered_filter,
        })
    }

    pub(super) fn decode_tolerantly(id: &str, data: &str) -> Result<Self, serde_json::Error> {
        use serde::de::Error;
        let wire: WireEvent<'_> = object(data)?;
        let kind = wire.r#type.ok_or_else(|| Error::missing_field("type"))?;
        let pod = wire.pod.ok_or_else(|| Error::missing_field("pod"))?;
        Ok(Self {
            kind: EventType::parse(&kind),
            hash: match wire.hash {
                Some(hash) => hash,
                None => EventHash::new(id)
                    .map_err(|_| serde_json::Error::custom("neither a hash nor an SSE id"))?,
            },
            previous_hash: wire.previous_hash,
            sent: wire.sent,
            sequence: wire.sequence,
            timestamp: wire.timestamp,
            pod: serde_json::from_str(pod.get())?,
            synthetic: wire.synthetic.unwrap_or(false),
            left_filter: wire.left_filter.unwrap_or(false),
            entered_filter: wire.entered_filter.unwrap_or(false),
        })
    }
}

/// The fields of an event in its text.
#[derive(Default)]
pub(super) struct Parts<'a> {
    pub(super) sent: Option<u64>,
    pub(super) kind: Option<&'a str>,
    pub(super) left_filter: bool,
    pub(super) entered_filter: bool,
    pub(super) previous_hash: Option<&'a str>,
    pub(super) hash: Option<&'a str>,
    pub(super) sequence: Option<u64>,
    pub(super) timestamp: Option<&'a str>,
    pub(super) synthetic: bool,
    pub(super) pod: Option<Pod>,
}

impl<'a> Parts<'a> {
    fn scan(scanner: &mut Scanner<'a>) -> Scan<Self> {
        let text = scanner.text();
        let mut parts = Self::default();
        let field = |scanner: &mut Scanner<'a>, at| {
            if scanner.null()? {
                return Ok(());
            }
            match at {
                0 => parts.sent = Some(scanner.count()?),
                1 => parts.kind = Some(scanner.string()?.plain(text)?),
                2 => parts.left_filter = scanner.boolean()?,
                3 => parts.previous_hash = Some(scanner.string()?.plain(text)?),
                4 => parts.hash = Some(scanner.string()?.plain(text)?),
                5 => parts.sequence = Some(scanner.count()?),
                6 => parts.timestamp = Some(scanner.string()?.plain(text)?),
                7 => parts.synthetic = scanner.boolean()?,
                8 => parts.entered_filter = scanner.boolean()?,
                _ => parts.pod = Some(Pod::scan_any(scanner)?),
            }
            Ok(())
        };
        let other = |scanner: &mut Scanner<'a>, key: &str| match key {
            "previousHash" | "leftFilter" | "enteredFilter" | "object" => Err(Unusual),
            _ => scanner.skip(),
        };
        scanner.fields(&NAMES, field, other)?;
        Ok(parts)
    }
}

/// The fields, nearly in the order in which a relay writes them.
const NAMES: [&str; 10] = [
    "\"sent\":",
    "\"type\":",
    "\"left_filter\":",
    "\"previous_hash\":",
    "\"hash\":",
    "\"sequence\":",
    "\"timestamp\":",
    "\"synthetic\":",
    "\"entered_filter\":",
    "\"pod\":",
];

/// The wire shape of a pod event. The pod is decoded separately, so that an error names the right part.
#[derive(Deserialize)]
pub(super) struct WireEvent<'a> {
    #[serde(default, borrow)]
    r#type: Option<Cow<'a, str>>,
    #[serde(default)]
    hash: Option<EventHash>,
    #[serde(default, alias = "previousHash")]
    previous_hash: Option<EventHash>,
    #[serde(default)]
    sent: Option<u64>,
    #[serde(default)]
    sequence: Option<u64>,
    #[serde(default)]
    timestamp: Option<Timestamp>,
    #[serde(default, borrow, alias = "object")]
    pub(super) pod: Option<&'a RawValue>,
    #[serde(default)]
    synthetic: Option<bool>,
    #[serde(default, alias = "leftFilter")]
    left_filter: Option<bool>,
    #[serde(default, alias = "enteredFilter")]
    entered_filter: Option<bool>,
}

/// Reads a JSON object. A derived reader alone would also accept an array of the fields.
pub(super) fn object<'a, T: Deserialize<'a>>(data: &'a str) -> Result<T, serde_json::Error> {
    match data.trim_start().as_bytes().first() {
        Some(b'[') => Err(serde::de::Error::custom("an array where an object belongs")),
        _ => serde_json::from_str(data),
    }
}
