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
    /// An envelope that the subscriber asked for.
    Envelope(Delivered),
    /// Lost envelopes, given before the one that showed the loss.
    Gap(Gap),
    /// An envelope that was left out: its sequence is not above the highest one of its producer.
    Duplicate {
        /// The producer's id.
        producer: String,
        /// The sequence that came.
        sequence: i64,
        /// The highest one seen before.
        high_water: i64,
        /// Where it stands.
        position: Option<Position>,
    },
    /// A message that is not an envelope. Its position counts.
    Undecodable {
        /// Where it stands.
        position: Option<Position>,
        /// Bytes that came.
        bytes: u64,
        /// The error.
        error: DecodeError,
    },
    /// An envelope that the validator rejects.
    Rejected {
        /// Where it stands.
        position: Option<Position>,
        /// The producer's id.
        producer: String,
        /// Its sequence.
        sequence: i64,
        /// Its aspect.
        aspect: String,
        /// Why.
        rejection: Rejection,
    },
    /// The subscriber was too slow, and a bounded queue has dropped frames.
    Lag {
        /// How many.
        dropped: u64,
        /// What follows this position comes.
        position: Option<Position>,
    },
}

/// An envelope with its position.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Delivered {
    /// Where it stands; `None` when the server keeps no positions.
    pub position: Option<Position>,
    /// The envelope.
    pub envelope: Envelope,
    /// Why it does not match its schema, in warn mode.
    pub warning: Option<Box<Rejection>>,
}

/// Lost envelopes.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Gap {
    /// Their producer; `None` when the channel's log lost them, from any producers.
    pub producer: Option<String>,
    /// How many; `None` when that is not known.
    pub missing: Option<u64>,
    /// The first sequence that is missing; `None` without a producer.
    pub from: Option<i64>,
    /// The last sequence that is missing; `None` without a producer.
    pub to: Option<i64>,
    /// Why.
    pub cause: GapCause,
    /// What follows this position comes.
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
