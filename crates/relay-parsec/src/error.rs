//! Errors, by what can be done about them.

use relay_proto::parsec::{EnvelopeError, Rejection};
use relay_proto::problem::Problem;

use crate::SnapshotError;

/// Why a call, or a subscription, failed. Holds no token, no payload and no query string.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The client was closed.
    #[error("the client is closed")]
    Closed,
    /// The call is invalid.
    #[error("{0}")]
    Usage(String),
    /// The envelope breaks a rule. Nothing was sent, and no sequence was spent.
    #[error(transparent)]
    Envelope(#[from] EnvelopeError),
    /// The validator rejects the payload. Nothing was sent, and no sequence was spent.
    #[error("{}", .0.reason())]
    Rejected(Rejection),
    /// The transport cannot do this.
    #[error("not implemented: {call} over {transport}")]
    NotImplemented {
        /// The transport's name.
        transport: &'static str,
        /// The call.
        call: &'static str,
    },
    /// The server refused.
    #[error("{what}: {problem}")]
    Refused {
        /// The call.
        what: String,
        /// The server's answer.
        problem: Box<Problem>,
    },
    /// The sequence was used before: by another process with this producer id, or by this one, which has lost its
    /// counts.
    #[error(
        "sequence {sequence} of producer {producer:?} in channel {channel} is not above the last one taken{}: use another \
         producer id, or go on above that number",
        .last.map_or(String::new(), |last| format!(", {last}"))
    )]
    SequenceConflict {
        /// The channel.
        channel: String,
        /// The producer's id.
        producer: String,
        /// The sequence that was refused.
        sequence: i64,
        /// The last sequence that the server accepted, if it says so.
        last: Option<i64>,
    },
    /// All sequences of this producer in the channel were used. Nothing was sent.
    #[error("the sequences of channel {channel} are used up: the last one is 9223372036854775807")]
    UsedUp {
        /// The channel.
        channel: String,
    },
    /// The envelope was sent, but it is unknown whether the server accepted it. Its sequence stays used.
    #[error("whether sequence {sequence} in channel {channel} was taken is not known")]
    OutcomeUnknown {
        /// The channel.
        channel: String,
        /// The sequence.
        sequence: i64,
        /// The last error.
        #[source]
        source: Box<Error>,
    },
    /// The server was not reached by any attempt, so the envelope was never sent. No sequence was spent.
    #[error("not published: no connection for channel {channel} within {patience:?}")]
    NotSent {
        /// The channel.
        channel: String,
        /// How long it was tried.
        patience: std::time::Duration,
        /// What happened last.
        #[source]
        source: Box<Error>,
    },
    /// The server ended the subscription for good.
    #[error("{reason}")]
    Ended {
        /// Its kind.
        kind: ErrorKind,
        /// Its text, with the server's code.
        reason: String,
    },
    /// The server cannot be reached, or violates the protocol.
    #[error(transparent)]
    Transport(#[from] relay_transport::Error),
    /// The response is not of the expected form.
    #[error("{what}: {reason}")]
    Answer {
        /// The call.
        what: String,
        /// What is wrong with the response.
        reason: String,
    },
    /// The sequences cannot be stored. Nothing was sent.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
}

/// Kinds of errors, for callers that distinguish them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The credential is missing, invalid or without the necessary rights.
    Denied,
    /// The requested object does not exist.
    NotFound,
    /// The server has ended the stream for good.
    Finished,
    /// Anything else.
    Failed,
}

impl Error {
    /// Whether the request was certainly not sent, because no connection could be made.
    pub(crate) fn is_before_sending(&self) -> bool {
        matches!(self, Self::Transport(relay_transport::Error::Connect { .. }))
    }

    /// Whether a refused request certainly had no effect: it was not made, or the server refused it. Other answers, of
    /// a gateway for example, do not say that.
    pub(crate) fn is_definite(&self) -> bool {
        match self {
            Self::Refused { problem, .. } => (400..500).contains(&problem.status),
            _ => true,
        }
    }

    /// The kind of the error.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Refused { problem, .. } => match problem.status {
                401 | 403 => ErrorKind::Denied,
                404 => ErrorKind::NotFound,
                _ => ErrorKind::Failed,
            },
            Self::Ended { kind, .. } => *kind,
            Self::OutcomeUnknown { source, .. } | Self::NotSent { source, .. } => source.kind(),
            _ => ErrorKind::Failed,
        }
    }

    /// The code of the error: the server's if it sent one, otherwise one of ours.
    pub fn code(&self) -> &str {
        match self {
            Self::Envelope(EnvelopeError::TooLarge { .. }) => "envelope-too-large",
            Self::Envelope(_) => "bad-envelope",
            Self::Rejected(rejection) => rejection.code(),
            Self::Refused { problem, .. } => problem.code.as_deref().unwrap_or("refused"),
            Self::SequenceConflict { .. } => "sequence-conflict",
            Self::UsedUp { .. } => "sequences-used-up",
            Self::NotImplemented { .. } => "not-implemented",
            Self::OutcomeUnknown { .. } => "outcome-unknown",
            Self::NotSent { .. } => "not-sent",
            Self::Snapshot(_) => "snapshot",
            Self::Closed => "closed",
            Self::Usage(_) => "usage",
            Self::Ended { .. } => "ended",
            Self::Transport(_) => "transport",
            Self::Answer { .. } => "bad-answer",
        }
    }
}
