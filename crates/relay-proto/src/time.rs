//! Timestamps on the wire.

use std::borrow::Cow;
use std::fmt;
use std::hash::{Hash, Hasher};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A point in time as the relay wrote it, RFC 3339. Repr as text, so that nothing is lost in passing it on.
#[derive(Clone)]
pub struct Timestamp(Repr);

/// A time of usual length is kept in place: there is one in every message.
#[derive(Clone)]
enum Repr {
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
                Repr::Here(text.len() as u8, here)
            }
            None => Repr::Elsewhere(text.into()),
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

    /// Takes a text that is RFC 3339 and nothing looser: date, `T`, time with seconds, any number of digits of a
    /// fraction, and `Z` or an offset in hours and minutes, under 24 hours. `None` for anything else.
    pub fn parse_rfc3339(text: &str) -> Option<Self> {
        exact_millis(text).map(|_| Self::new(text))
    }

    /// The first whole millisecond since 1970-01-01T00:00:00Z that is not before it; `None` when the text is not RFC
    /// 3339.
    pub fn unix_millis_at_or_after(&self) -> Option<i64> {
        exact_millis(self.as_str()).map(|(millis, more)| millis + i64::from(more))
    }

    /// The text as on the wire.
    pub fn as_str(&self) -> &str {
        match &self.0 {
            Repr::Here(len, bytes) => {
                std::str::from_utf8(&bytes[..usize::from(*len)]).expect("a text, copied whole")
            }
            Repr::Elsewhere(text) => text,
        }
    }

    /// Milliseconds since 1970-01-01T00:00:00Z; `None` when the text is not RFC 3339.
    pub fn unix_millis(&self) -> Option<i64> {
        let usual = self.as_str().parse::<jiff::Timestamp>().ok().map(|time| time.as_millisecond());
        // The library has no last days of the year 9999, and at most nine digits of a fraction.
        usual.or_else(|| exact_millis(self.as_str()).map(|(millis, _)| millis))
    }
}

/// The last millisecond since 1970-01-01T00:00:00Z that is not after a time of RFC 3339, and whether the time is later
/// than it.
fn exact_millis(text: &str) -> Option<(i64, bool)> {
    const SHAPE: &[u8; 19] = b"0000-00-00T00:00:00";
    let fits = |shape: &[u8], part: &[u8]| {
        shape.len() == part.len()
            && shape.iter().zip(part).all(|(shape, byte)| match shape {
                b'0' => byte.is_ascii_digit(),
                _ => shape.eq_ignore_ascii_case(byte),
            })
    };
    let (start, rest) = text.split_at_checked(SHAPE.len())?;
    let (fraction, zone) = match rest.strip_prefix('.') {
        None => ("", rest),
        Some(rest) => {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            Some(rest.split_at(digits)).filter(|_| digits > 0)?
        }
    };
    let offset_minutes = if fits(b"Z", zone.as_bytes()) {
        0
    } else {
        let sign = if fits(b"+00:00", zone.as_bytes()) {
            1
        } else if fits(b"-00:00", zone.as_bytes()) {
            -1
        } else {
            return None;
        };
        let (hours, minutes) = (zone[1..3].parse::<i64>().ok()?, zone[4..6].parse::<i64>().ok()?);
        Some(sign * (60 * hours + minutes)).filter(|_| hours < 24 && minutes < 60)?
    };
    let local = Some(start).filter(|start| fits(SHAPE, start.as_bytes()))?;
    let local: jiff::civil::DateTime = local.parse().ok()?;
    let seconds = local.duration_since(jiff::civil::date(1970, 1, 1).at(0, 0, 0, 0)).as_secs();
    let digit = |at: usize| fraction.as_bytes().get(at).map_or(0, |digit| i64::from(digit - b'0'));
    let millis = 100 * digit(0) + 10 * digit(1) + digit(2);
    let more = fraction.bytes().skip(3).any(|digit| digit != b'0');
    Some(((seconds - 60 * offset_minutes) * 1000 + millis, more))
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
    fn only_rfc_3339_is_taken_where_it_is_asked_for() {
        for (text, millis) in [
            ("1970-01-01T00:00:01Z", Some(1000)),
            ("1970-01-01t00:00:01z", Some(1000)),
            ("1970-01-01T01:00:01.5+01:00", Some(1500)),
            ("1969-12-31T23:00:00-01:00", Some(0)),
            ("1970-01-01T00:00:00.001000000Z", Some(1)),
            ("1970-01-01T00:00:00.000000001Z", Some(1)),
            ("1969-12-31T23:59:59.999999999Z", Some(0)),
            ("1969-12-31T23:59:59.9985Z", Some(-1)),
            ("", None),
            ("today", None),
            ("5m", None),
            ("1700000000", None),
            ("1970-01-01", None),
            ("1970-01-01T00:00:01", None),
            ("1970-01-01T00:00Z", None),
            ("1970-01-01 00:00:01Z", None),
            ("1970-01-01T00:00:01.Z", None),
            ("1970-01-01T00:00:01.0000000001Z", Some(1001)),
            ("1970-01-01T00:00:01.0010000000000000000000Z", Some(1001)),
            ("1969-12-31T23:59:59.9980000000001Z", Some(-1)),
            ("9999-12-31T23:59:59Z", Some(253_402_300_799_000)),
            ("9999-12-31T23:59:59.9999-23:59", Some(253_402_387_140_000)),
            ("0000-01-01T00:00:00Z", Some(-62_167_219_200_000)),
            ("2016-12-31T23:59:60Z", Some(1_483_228_799_000)),
            ("1970-01-01T23:59:00+23:59", Some(0)),
            ("1970-01-01T00:00:01+24:00", None),
            ("1970-01-01T00:00:01-25:59", None),
            ("1970-01-01T00:00:01+00:60", None),
            ("1970-01-01T00:00:01.1+", None),
            ("1970-01-01T00:00:01.1+0\u{661}:00", None),
            ("1970-01-01T00:00:01 01:00", None),
            ("1970-01-01T00:00:01+01", None),
            ("1970-01-01T00:00:01+0100", None),
            ("1970-01-01T00:00:01Z[UTC]", None),
            ("1970-02-30T00:00:01Z", None),
            ("1970-01-01T24:00:01Z", None),
            ("1970-01-01T00:00:0\u{661}Z", None),
        ] {
            let time = Timestamp::parse_rfc3339(text);
            assert_eq!(time.as_ref().map(Timestamp::as_str), millis.map(|_| text), "{text}");
            assert_eq!(time.and_then(|time| time.unix_millis_at_or_after()), millis, "{text}");
        }
    }

    #[test]
    fn a_time_is_its_text_whatever_its_length() {
        for text in ["", "2026-11-21T09:00:00Z", &"x".repeat(30), &"ü".repeat(15), &"x".repeat(31), "no"] {
            let time = Timestamp::new(text);
            assert_eq!((time.as_str(), time.to_string().as_str()), (text, text));
            assert_eq!(time, serde_json::from_str(&serde_json::to_string(&time).unwrap()).unwrap());
        }
        assert_eq!(Timestamp::from_unix_millis(1500).as_str(), "1970-01-01T00:00:01.5Z");
        assert_eq!(Timestamp::new("1970-01-01T01:00:01.5+01:00").unix_millis(), Some(1500));
        assert_eq!(Timestamp::new("1969-12-31T23:59:59.9980000000001Z").unix_millis(), Some(-2));
        assert_eq!(Timestamp::new("today").unix_millis(), None);
    }
}
