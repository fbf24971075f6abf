//! Positions in a stream.

use alloc::string::{String, ToString};
use alloc::sync::Arc;
use core::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A position in a stream: opaque, case-sensitive, ordered bytewise. Only the server makes offsets; clients send
/// them back unchanged.
///
/// ```
/// use relay_proto::durable::Offset;
/// let offset = Offset::new("0000_0012").unwrap();
/// assert!(Offset::START.is_start() && !offset.is_start());
/// assert_eq!(Offset::new("a+b").unwrap().encoded(), "a%2Bb");
/// ```
#[derive(Clone)]
pub struct Offset(Text);

#[derive(Clone)]
enum Text {
    Fixed(&'static str),
    Shared(Arc<str>),
}

/// Longest accepted offset, in bytes. The protocol guarantees fewer than 256 characters.
const LONGEST: usize = 1024;

/// The text is not an offset: it is empty, longer than 1,024 bytes, or has control characters or spaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an offset has 1 to 1024 bytes, without spaces and control characters")]
pub struct InvalidOffset;

impl Offset {
    /// The beginning of every stream, `-1`.
    pub const START: Self = Self(Text::Fixed("-1"));
    /// The end of the stream at the time of the request, `now`.
    pub const NOW: Self = Self(Text::Fixed("now"));

    /// Checks an offset from a server or from a file.
    ///
    /// # Errors
    /// [`InvalidOffset`].
    pub fn new(text: &str) -> Result<Self, InvalidOffset> {
        match text {
            "-1" => Ok(Self::START),
            "now" => Ok(Self::NOW),
            "" => Err(InvalidOffset),
            _ if text.len() > LONGEST || text.contains(|c: char| c.is_control() || c.is_whitespace()) => {
                Err(InvalidOffset)
            }
            _ => Ok(Self(Text::Shared(text.into()))),
        }
    }

    /// The offset as it is written in headers.
    pub fn as_str(&self) -> &str {
        match &self.0 {
            Text::Fixed(text) => text,
            Text::Shared(text) => text,
        }
    }

    /// Whether this is the beginning of the stream.
    pub fn is_start(&self) -> bool {
        self.as_str() == "-1"
    }

    /// Whether this is the end at the time of the request.
    pub fn is_now(&self) -> bool {
        self.as_str() == "now"
    }

    /// Whether a server issued it: it is neither [`START`](Self::START) nor [`NOW`](Self::NOW).
    pub fn is_minted(&self) -> bool {
        !self.is_start() && !self.is_now()
    }

    /// The offset as it is written in a query: everything except unreserved characters is percent-encoded.
    pub fn encoded(&self) -> String {
        encoded(self.as_str())
    }
}

/// Text as the value of a query: all but unreserved characters percent-encoded.
pub(super) fn encoded(text: &str) -> String {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push('%');
            out.push(char::from(HEX[usize::from(byte >> 4)]));
            out.push(char::from(HEX[usize::from(byte & 15)]));
        }
    }
    out
}

impl fmt::Debug for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Offset({})", self.as_str())
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl PartialEq for Offset {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for Offset {}

impl PartialOrd for Offset {
    fn partial_cmp(&self, other: &Self) -> Option<core::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Offset {
    fn cmp(&self, other: &Self) -> core::cmp::Ordering {
        // The beginning is before everything, the end after everything.
        let rank = |offset: &Self| match (offset.is_start(), offset.is_now()) {
            (true, _) => 0,
            (_, true) => 2,
            _ => 1,
        };
        rank(self).cmp(&rank(other)).then_with(|| self.as_str().cmp(other.as_str()))
    }
}

impl core::hash::Hash for Offset {
    fn hash<H: core::hash::Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

impl core::str::FromStr for Offset {
    type Err = InvalidOffset;

    fn from_str(text: &str) -> Result<Self, InvalidOffset> {
        Self::new(text)
    }
}

impl Serialize for Offset {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Offset {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::new(&text).map_err(|error| serde::de::Error::custom(error.to_string()))
    }
}

/// The position of a reader, and all it needs to continue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Everything before this offset was returned.
    pub offset: Offset,
    /// The server's last cursor, to be sent back.
    pub cursor: Option<String>,
    /// Messages (JSON streams) or bytes (others) after `offset` that were returned, too.
    pub skip: u64,
}

impl Checkpoint {
    /// A position that consists of an offset only.
    pub fn at(offset: Offset) -> Self {
        Self { offset, cursor: None, skip: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_are_opaque_ordered_and_encoded() {
        for (text, query) in
            [("a+%#;:", "a%2B%25%23%3B%3A"), ("0_0-.~Z", "0_0-.~Z"), ("-1", "-1"), ("é", "%C3%A9")]
        {
            assert_eq!(Offset::new(text).unwrap().encoded(), query);
        }
        for bad in ["", "a b", "a\n", &"x".repeat(1025)] {
            assert_eq!(Offset::new(bad), Err(InvalidOffset), "{bad:?}");
        }
        let (low, high) = (Offset::new("0_10").unwrap(), Offset::new("0_9").unwrap());
        assert!(Offset::START < low && low < high && high < Offset::NOW);
        assert_ne!(Offset::new("a").unwrap(), Offset::new("A").unwrap());
        let checkpoint = Checkpoint { offset: low, cursor: Some("7".into()), skip: 3 };
        let text = serde_json::to_string(&checkpoint).unwrap();
        assert_eq!(serde_json::from_str::<Checkpoint>(&text).unwrap(), checkpoint);
        assert!(serde_json::from_str::<Offset>("\"\"").is_err());
    }
}
