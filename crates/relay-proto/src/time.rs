//! Points in time as a relay writes them.

use std::borrow::Cow;
use std::fmt;
use std::hash::{Hash, Hasher};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A point in time as the relay wrote it, RFC 3339. Kept as text, so that nothing is lost in passing it on.
#[derive(Clone)]
pub struct Timestamp(Kept);

/// A time of usual length is kept in place: there is one in every message.
#[derive(Clone)]
enum Kept {
    Here(u8, [u8; Timestamp::USUAL]),
    Elsewhere(Box<str>),
}

impl Timestamp {
    /// Nanoseconds and an offset just fit, and the whole is as large as four pointers.
    const USUAL: usize = 30;

    /// Takes a text as it is; [`Self::unix_millis`] tells whether it is a time.
    pub fn new(text: &str) -> Self {
        let mut here = [0; Self::USUAL];
        Self(match here.get_mut(..text.len()) {
            Some(start) => {
                start.copy_from_slice(text.as_bytes());
                Kept::Here(text.len() as u8, here)
            }
            None => Kept::Elsewhere(text.into()),
        })
    }

    /// The RFC 3339 text of a number of milliseconds since 1970-01-01T00:00:00Z, in UTC with millisecond precision
    /// where there are any. Out-of-range values are clamped to the years -9999 to 9999.
    pub fn from_unix_millis(millis: i64) -> Self {
        let time = jiff::Timestamp::from_millisecond(millis).unwrap_or(if millis < 0 {
            jiff::Timestamp::MIN
        } else {
            jiff::Timestamp::MAX
        });
        Self::new(&time.to_string())
    }

    /// The text as on the wire.
    pub fn as_str(&self) -> &str {
        match &self.0 {
            Kept::Here(len, bytes) => {
                std::str::from_utf8(&bytes[..usize::from(*len)]).expect("a text, copied whole")
            }
            Kept::Elsewhere(text) => text,
        }
    }

    /// Milliseconds since 1970-01-01T00:00:00Z; `None` when the text is not RFC 3339.
    pub fn unix_millis(&self) -> Option<i64> {
        self.as_str().parse::<jiff::Timestamp>().ok().map(|time| time.as_millisecond())
    }
}

impl PartialEq for Timestamp {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for Timestamp {}

impl Hash for Timestamp {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Timestamp({:?})", self.as_str())
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self::new(&Cow::<str>::deserialize(deserializer)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_its_text_whatever_its_length() {
        for text in ["", "2026-11-21T09:00:00Z", &"x".repeat(30), &"ü".repeat(15), &"x".repeat(31), "no"] {
            let time = Timestamp::new(text);
            assert_eq!((time.as_str(), time.to_string().as_str()), (text, text));
            assert_eq!(time, serde_json::from_str(&serde_json::to_string(&time).unwrap()).unwrap());
        }
        assert_eq!(Timestamp::from_unix_millis(1500).as_str(), "1970-01-01T00:00:01.5Z");
        assert_eq!(Timestamp::new("1970-01-01T01:00:01.5+01:00").unix_millis(), Some(1500));
        assert_eq!(Timestamp::new("today").unix_millis(), None);
    }
}
