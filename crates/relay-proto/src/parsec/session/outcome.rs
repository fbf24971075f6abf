//! Inputs and outputs of the machine.

use std::time::Duration;

use bytes::Bytes;

use crate::parsec::{GapReason, Position};

/// The start of a subscription.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum From {
    /// With what is published from now on.
    #[default]
    Latest,
    /// With the oldest that is retained.
    Oldest,
    /// After a position.
    After(Position),
}

/// What the driver has to do next.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Action {
    /// Drop the connection if there is one, and wait for a command.
    Idle,
    /// Drop the connection if there is one, begin another, poll again.
    Connect,
    /// Send this text frame and poll again.
    Send(String),
    /// Wait until then for the connection to open, for a frame or for its end.
    Receive(Option<Duration>),
    /// Drop the connection and poll again at this time.
    Wait(Duration),
    /// Hand this on and poll again.
    Item(Item),
    /// Look up the token again and give it to [`Session::handle_token`](super::Session::handle_token).
    Token,
    /// Drop the connection: it is over, for this reason.
    Stop(End),
}

/// What happened.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Item {
    /// A channel's subscription is open. Its gap and its publications follow.
    Subscribed {
        /// The channel.
        channel: String,
        /// What follows this position comes; `None` when the server keeps none.
        resumes_after: Option<Position>,
    },
    /// Publications of a channel are lost.
    Gap {
        /// The channel.
        channel: String,
        /// Why.
        reason: LossReason,
        /// How many; `None` when that is not known.
        missed: Option<u64>,
        /// What follows this position comes.
        resumes_after: Position,
    },
    /// A publication, in order, without a hole to the one before.
    Publication {
        /// The channel.
        channel: String,
        /// Where it stands; `None` when the server keeps no positions.
        position: Option<Position>,
        /// Its bytes.
        data: Bytes,
    },
    /// A channel's subscription was not opened; it is tried again.
    Refused {
        /// The channel.
        channel: String,
        /// Why, in words.
        reason: String,
        /// When it is tried again.
        retry_at: Duration,
    },
    /// A channel's subscription is over.
    Ended {
        /// The channel.
        channel: String,
        /// Why.
        end: End,
    },
    /// The connection is gone; there will be another.
    Lost {
        /// Why, in words.
        reason: String,
        /// When.
        retry_at: Duration,
    },
}

/// Why publications are lost.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum LossReason {
    /// The server says, or its answer shows.
    Server(GapReason),
    /// An offset was jumped over, and was again after another connection.
    Hole,
}

/// Why something is over.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
#[non_exhaustive]
pub struct End {
    /// Of which kind it is.
    pub kind: EndKind,
    /// The server's code, if it gave one.
    pub code: Option<u32>,
    /// In words, with the code.
    pub reason: String,
}

/// Kinds of ends, as callers tell them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EndKind {
    /// The credential is not good enough.
    Denied,
    /// There is no such thing.
    NotFound,
    /// Anything else.
    Failed,
}

impl End {
    pub(super) fn new(kind: EndKind, code: impl Into<Option<u32>>, reason: impl Into<String>) -> Self {
        Self { kind, code: code.into(), reason: reason.into() }
    }
}
