//! Positions in a relay's log.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// An opaque cursor: names one position of one log. Cheap to clone; compare only for equality.
///
/// 1 to 256 visible ASCII characters (`docs/protocol.md`, "Cursors").
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct EventHash(Arc<str>);

impl EventHash {
    /// Longest hash in bytes.
    pub const MAX_LEN: usize = 256;

    /// Checks and takes a hash.
    ///
    /// # Errors
    /// When `text` is empty, longer than [`Self::MAX_LEN`] or holds anything but visible ASCII.
    pub fn new(text: &str) -> Result<Self, InvalidHash> {
        let valid = (1..=Self::MAX_LEN).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
        if valid { Ok(Self(text.into())) } else { Err(InvalidHash { length: text.len() }) }
    }

    /// The text as on the wire.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for EventHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EventHash({})", self.0)
    }
}

impl fmt::Display for EventHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for EventHash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for EventHash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        Self::new(&text).map_err(serde::de::Error::custom)
    }
}

/// A hash that is empty, over 256 bytes, or not visible ASCII.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a hash of {length} bytes is not 1 to 256 visible ASCII characters")]
pub struct InvalidHash {
    length: usize,
}

/// The random id of one log. Sequences and hashes of two epochs cannot be compared. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Epoch(Arc<str>);

impl Epoch {
    /// Takes an epoch id as it is.
    pub fn new(text: &str) -> Self {
        Self(text.into())
    }

    /// The text as on the wire.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A hash with its sequence in the log, as `head` and `resumes_after` carry it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// The opaque cursor.
    pub hash: EventHash,
    /// Its number within the epoch; `None` from a relay that sends no sequences.
    #[serde(default)]
    pub sequence: Option<u64>,
}

impl Position {
    /// A position whose sequence is known.
    pub fn new(hash: EventHash, sequence: u64) -> Self {
        Self { hash, sequence: Some(sequence) }
    }
}
