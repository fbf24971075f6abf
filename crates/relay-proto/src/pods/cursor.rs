//! Positions in a relay's log.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// An opaque cursor: names one position of one log. Cheap to clone; compare only for equality.
///
/// 1 to 256 visible ASCII characters (`docs/protocol.md`, "Cursors").
#[derive(Clone)]
pub struct EventHash {
    /// May contain another hash too: the two hashes of a message share one allocation.
    text: Arc<str>,
    start: u16,
    end: u16,
}

impl EventHash {
    /// Longest hash in bytes.
    pub const MAX_LEN: usize = 256;

    /// Checks a hash.
    ///
    /// # Errors
    /// When `text` is empty, longer than [`Self::MAX_LEN`] or holds anything but visible ASCII.
    pub fn new(text: &str) -> Result<Self, InvalidHash> {
        Self::check(text)?;
        Ok(Self { text: text.into(), start: 0, end: text.len() as u16 })
    }

    /// Checks two hashes.
    pub(super) fn pair(first: &str, second: &str) -> Result<(Self, Self), InvalidHash> {
        Self::check(first)?;
        Self::check(second)?;
        let (split, end) = (first.len(), first.len() + second.len());
        // Usually they are short; longer ones get two allocations.
        let mut both = [0; 128];
        if end > both.len() {
            return Ok((Self::new(first)?, Self::new(second)?));
        }
        both[..split].copy_from_slice(first.as_bytes());
        both[split..end].copy_from_slice(second.as_bytes());
        let text: Arc<str> = std::str::from_utf8(&both[..end]).expect("it is ASCII").into();
        let (split, end) = (split as u16, end as u16);
        Ok((Self { text: text.clone(), start: 0, end: split }, Self { text, start: split, end }))
    }

    fn check(text: &str) -> Result<(), InvalidHash> {
        let visible = || text.bytes().fold(true, |visible, byte| visible & byte.is_ascii_graphic());
        let valid = (1..=Self::MAX_LEN).contains(&text.len()) && visible();
        if valid { Ok(()) } else { Err(InvalidHash { length: text.len() }) }
    }

    /// The text as on the wire.
    pub fn as_str(&self) -> &str {
        &self.text[self.start.into()..self.end.into()]
    }
}

impl PartialEq for EventHash {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for EventHash {}

impl Hash for EventHash {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

impl fmt::Debug for EventHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EventHash({})", self.as_str())
    }
}

impl fmt::Display for EventHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for EventHash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
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
    /// Wraps an epoch id.
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
