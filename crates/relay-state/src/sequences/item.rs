//! The items of a subscription.

use std::fmt;

use relay_proto::parsec::{DecodeError, Envelope, GapReason, Position, Rejection};

/// One item of a subscription, in order.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Item {
    /// A connection has begun. Its gap and its envelopes follow.
    Subscribed {
        /// Its start position; `None` when the server has no positions.
        position: Option<Position>,
        /// Whether it continues from the position of an earlier connection, or of the caller.
        resumed: bool,
    },
    /// An envelope that matches the subscription.
    Envelope(Delivered),
    /// Lost envelopes, given before the one that showed the loss.
    Gap(Gap),
    /// An envelope that was left out: its sequence is not above the highest one of its producer.
    Duplicate {
        /// The producer's id.
        producer: String,
        /// The envelope's sequence.
        sequence: i64,
        /// The highest sequence seen before.
        high_water: i64,
        /// Its position.
        position: Option<Position>,
    },
    /// A message that is not an envelope. Its position counts.
    Undecodable {
        /// Its position.
        position: Option<Position>,
        /// Its size, in bytes.
        bytes: u64,
        /// The error.
        error: DecodeError,
    },
    /// An envelope that the validator rejects.
    Rejected {
        /// Its position.
        position: Option<Position>,
        /// The producer's id.
        producer: String,
        /// Its sequence.
        sequence: i64,
        /// Its aspect.
        aspect: String,
        /// The reason.
        rejection: Box<Rejection>,
    },
    /// The subscriber was too slow, and a bounded queue has dropped frames.
    Lag {
        /// The number of dropped frames.
        dropped: u64,
        /// Envelopes after this position follow.
        position: Option<Position>,
    },
}

impl Item {
    /// Its position, whatever it is: `None` when the server has no positions.
    #[inline]
    pub fn position(&self) -> Option<&Position> {
        match self {
            Self::Envelope(Delivered { position, .. })
            | Self::Subscribed { position, .. }
            | Self::Gap(Gap { position, .. })
            | Self::Duplicate { position, .. }
            | Self::Undecodable { position, .. }
            | Self::Rejected { position, .. }
            | Self::Lag { position, .. } => position.as_ref(),
        }
    }
}

/// An envelope with its position.
// The envelope is last for the same reason as its kind is: see there.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
#[repr(C)]
pub struct Delivered {
    /// Its position; `None` when the server has no positions.
    pub position: Option<Position>,
    /// Why it does not match its schema, in warn mode.
    pub warning: Option<Box<Rejection>>,
    /// The envelope.
    pub envelope: Envelope,
}

/// Lost envelopes.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Gap {
    /// Their producer; `None` when the channel's log lost them, from any producers.
    pub producer: Option<String>,
    /// Their number; `None` when unknown.
    pub missing: Option<u64>,
    /// The first sequence that is missing; `None` without a producer.
    pub from: Option<i64>,
    /// The last sequence that is missing; `None` without a producer.
    pub to: Option<i64>,
    /// The reason.
    pub cause: GapCause,
    /// Envelopes after this position follow.
    pub position: Option<Position>,
}

/// Why envelopes are lost.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum GapCause {
    /// A producer's sequence jumped.
    Sequence,
    /// An offset was skipped, and again on another connection.
    Hole,
    /// The server says so, or its position shows it.
    Server(GapReason),
}

impl GapCause {
    /// `sequence`, `hole`, or the server's reason.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Sequence => "sequence",
            Self::Hole => "hole",
            Self::Server(reason) => reason.as_str(),
        }
    }
}

impl fmt::Display for GapCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is larger is moved by calls of `memcpy`, several for each envelope.
    #[test]
    fn an_item_is_small_enough_to_be_moved_in_registers() {
        assert_eq!((size_of::<Item>(), size_of::<Option<Result<Item, String>>>()), (120, 120));
    }
}
