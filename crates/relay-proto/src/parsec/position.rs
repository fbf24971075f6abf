//! Positions in a channel.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A position in one epoch of a channel's log: it includes every envelope up to it. Written `EPOCH.OFFSET`; the last
/// dot separates the two.
///
/// The epoch is an opaque id of the log. The offset counts the envelopes of all producers, from 1 on; `EPOCH.0` is the
/// position before the first envelope.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Position {
    /// In a box of its own, so that a position is two words: they are moved with every envelope.
    epoch: Arc<Box<str>>,
    offset: u64,
}

/// The text is not a position: it should read `EPOCH.OFFSET`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a position is EPOCH.OFFSET, such as Xy3.42")]
#[non_exhaustive]
pub struct InvalidPosition {}

impl Position {
    /// A position in an epoch.
    pub fn new(epoch: impl Into<Box<str>>, offset: u64) -> Self {
        Self { epoch: Arc::new(epoch.into()), offset }
    }

    /// Reads `EPOCH.OFFSET`: an epoch of 1 to 256 visible ASCII characters, a decimal offset without sign and leading
    /// zeros.
    ///
    /// # Errors
    /// [`InvalidPosition`].
    pub fn parse(text: &str) -> Result<Self, InvalidPosition> {
        let (epoch, offset) = Self::split(text).ok_or(InvalidPosition {})?;
        Ok(Self::new(epoch, offset))
    }

    /// Like [`parse`](Self::parse). If the neighbour has the same epoch, its memory is shared.
    #[inline]
    pub fn parse_near(text: &str, neighbour: Option<&Self>) -> Result<Self, InvalidPosition> {
        if let Some(near) = neighbour
            && let Some(digits) = text.strip_prefix(&**near.epoch).and_then(|rest| rest.strip_prefix('.'))
            && let Some(offset) = offset(digits)
        {
            return Ok(near.at(offset));
        }
        Self::parse(text)
    }

    fn split(text: &str) -> Option<(&str, u64)> {
        let (epoch, digits) = text.rsplit_once('.')?;
        let fits = (1..=256).contains(&epoch.len()) && epoch.bytes().all(|byte| byte.is_ascii_graphic());
        if fits { Some((epoch, offset(digits)?)) } else { None }
    }

    /// The epoch.
    pub fn epoch(&self) -> &str {
        &self.epoch
    }

    /// The offset.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Replaces this position by another; cheaper than an assignment when both are in the same epoch.
    #[inline]
    pub fn go_to(&mut self, other: &Self) {
        if !Arc::ptr_eq(&self.epoch, &other.epoch) {
            self.epoch = other.epoch.clone();
        }
        self.offset = other.offset;
    }

    /// Whether the other one is one step after this one, in the same epoch.
    #[inline]
    pub fn is_next(&self, other: &Self) -> bool {
        self.offset.checked_add(1) == Some(other.offset) && self.same_epoch(other)
    }

    /// Goes to an offset of the epoch of `near`, if that is one step after this position. Returns whether it did.
    #[inline]
    pub fn step_to(&mut self, near: &Self, offset: u64) -> bool {
        if self.offset.checked_add(1) != Some(offset) || !self.same_epoch(near) {
            return false;
        }
        self.go_to(near);
        self.offset = offset;
        true
    }

    /// Another offset of the same epoch.
    #[inline]
    #[must_use]
    pub fn at(&self, offset: u64) -> Self {
        Self { epoch: self.epoch.clone(), offset }
    }

    /// Whether both are in the same epoch.
    #[inline]
    pub fn same_epoch(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.epoch, &other.epoch) || self.epoch == other.epoch
    }
}

/// A decimal number without sign and leading zeros.
fn offset(digits: &str) -> Option<u64> {
    let canonical = digits == "0" || !digits.starts_with('0');
    if !canonical || digits.is_empty() {
        return None;
    }
    // What is so short cannot overflow.
    if digits.len() < 20 {
        let mut sum = 0;
        for digit in digits.bytes() {
            let digit = digit.wrapping_sub(b'0');
            if digit > 9 {
                return None;
            }
            sum = sum * 10 + u64::from(digit);
        }
        return Some(sum);
    }
    digits.bytes().try_fold(0_u64, |sum, digit| {
        let digit = Some(digit.wrapping_sub(b'0')).filter(|digit| *digit <= 9)?;
        sum.checked_mul(10)?.checked_add(u64::from(digit))
    })
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.epoch, self.offset)
    }
}

impl FromStr for Position {
    type Err = InvalidPosition;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl Serialize for Position {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Position {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn split_at_the_last_dot_and_nothing_else_is_one() {
        for (text, epoch, offset) in
            [("Xy.12", "Xy", 12), ("a.b.0", "a.b", 0), ("e_-.18446744073709551615", "e_-", u64::MAX)]
        {
            let position = Position::parse(text).unwrap();
            assert_eq!((position.epoch(), position.offset()), (epoch, offset));
            assert_eq!(position.to_string(), text);
        }
        for bad in [
            "",
            ".",
            "a",
            "a.",
            ".1",
            "a.01",
            "a.+1",
            "a.-1",
            "a.1x",
            "a b.1",
            "ä.1",
            "a.18446744073709551616",
        ] {
            assert!(Position::parse(bad).is_err(), "{bad}");
        }
        assert!(Position::parse(&format!("{}.1", "e".repeat(257))).is_err());
        let near = Position::parse("Xy.1").unwrap();
        for (other, next) in [("Xy.2", true), ("Xy.1", false), ("Xy.3", false), ("Z.2", false)] {
            let (mut here, other) = (near.clone(), Position::parse(other).unwrap());
            assert_eq!(near.is_next(&other), next, "{other}");
            assert_eq!(here.step_to(&other.at(7), other.offset()), next, "{other}");
            assert_eq!(here, if next { other } else { near.clone() });
        }
        assert!(!Position::new("Xy", u64::MAX).is_next(&Position::new("Xy", 0)));
        assert!(!Position::new("Xy", u64::MAX).step_to(&near, 0));
        assert!(Arc::ptr_eq(&near.epoch, &Position::parse_near("Xy.2", Some(&near)).unwrap().epoch));
        assert_eq!(Position::parse_near("Z.2", Some(&near)).unwrap(), Position::new("Z", 2));
    }
}
