//! Inputs and outputs of the machine.

use std::time::Duration;

use bytes::Bytes;

use crate::parsec::{GapReason, Position};

/// The start of a subscription.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum From {
    /// Begin with what is published from now on.
    #[default]
    Latest,
    /// Begin with the oldest retained publication.
    Oldest,
    /// Begin after a position.
    After(Position),
}

/// What the driver has to do next.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Action {
    /// Drop the connection if there is one, and wait for a command.
    Idle,
    /// Drop the connection if there is one, open another, and poll again.
    Connect,
    /// Send this text frame and poll again.
    Send(String),
    /// Wait until then for the connection to open, for a frame or for its end.
    Receive(Option<Duration>),
    /// Drop the connection and poll again at this time.
    Wait(Duration),
    /// Hand this to the caller and poll again.
    Item(Item),
    /// Fetch the token again and pass it to [`Session::handle_token`](super::Session::handle_token).
    Token,
    /// Drop the connection: the session is over, for this reason.
    Stop(End),
}

/// An event of a session.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Item {
    /// A channel's subscription is open. Its gap and its publications follow.
    Subscribed {
        /// The channel.
        channel: String,
        /// Publications after this position follow; `None` when the server has no positions.
        resumes_after: Option<Position>,
    },
    /// Publications of a channel are lost.
    Gap {
        /// The channel.
        channel: String,
        /// The reason.
        reason: LossReason,
        /// The number of lost publications; `None` when unknown.
        missed: Option<u64>,
        /// Publications after this position follow.
        resumes_after: Position,
    },
    /// A publication. Publications come in order and without holes.
    Publication {
        /// The channel.
        channel: String,
        /// Its position; `None` when the server has no positions.
        position: Option<Position>,
        /// Its bytes.
        data: Bytes,
    },
    /// Opening a channel's subscription failed; it is retried.
    Refused {
        /// The channel.
        channel: String,
        /// The reason.
        reason: String,
        /// The time of the next attempt.
        retry_at: Duration,
    },
    /// A channel's subscription is over.
    Ended {
        /// The channel.
        channel: String,
        /// The reason.
        end: End,
    },
    /// The connection was lost; a reconnect follows.
    Lost {
        /// The reason.
        reason: String,
        /// The time of the next attempt.
        retry_at: Duration,
    },
}

/// Why publications are lost.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum LossReason {
    /// The server says so, or its reply shows it.
    Server(GapReason),
    /// An offset was skipped, also after a reconnect.
    Hole,
}

/// Why a subscription or session is over.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
#[non_exhaustive]
pub struct End {
    /// Its kind.
    pub kind: EndKind,
    /// The server's code, if it gave one.
    pub code: Option<u32>,
    /// A text, with the code.
    pub reason: String,
}

/// Kinds of ends, for callers that distinguish them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EndKind {
    /// The credential is missing, invalid or without the necessary rights.
    Denied,
    /// The requested channel does not exist.
    NotFound,
    /// Anything else.
    Failed,
}

impl End {
    pub(super) fn new(kind: EndKind, code: impl Into<Option<u32>>, reason: impl Into<String>) -> Self {
        Self { kind, code: code.into(), reason: reason.into() }
    }
}
