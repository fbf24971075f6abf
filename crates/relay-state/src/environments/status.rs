//! What a client says about itself.

use std::time::Duration;

use serde_json::{Value, json};

/// How a client fares.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Status {
    /// The sum of it.
    pub state: State,
    /// Whether a stream is open.
    pub connected: bool,
    /// Whether a configuration was complete once, from the service or a cache. Stays true.
    pub configured: bool,
    /// The last error, kept after recovery.
    pub error: Option<StatusError>,
    /// How long until the next attempt, if one is waited for.
    pub retry: Option<Duration>,
}

/// The sum of how a client fares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum State {
    /// Nothing was understood yet.
    #[default]
    Initializing,
    /// Something was understood on this connection.
    Valid,
    /// It failed after that.
    Interrupted,
    /// It is over.
    Off,
}

impl State {
    /// `initializing`, `valid`, `interrupted` or `off`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Initializing => "initializing",
            Self::Valid => "valid",
            Self::Interrupted => "interrupted",
            Self::Off => "off",
        }
    }
}

/// Something that went wrong, in words without secrets.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct StatusError {
    /// What kind of thing.
    pub kind: ErrorKind,
    /// The status of the answer, when that was it.
    pub status: Option<u16>,
    /// What happened, on one line.
    pub message: String,
}

impl StatusError {
    /// Of this kind, with the status of the answer when that was it.
    pub fn new(kind: ErrorKind, status: Option<u16>, message: impl Into<String>) -> Self {
        Self { kind, status, message: message.into() }
    }

    /// Of a connection.
    pub fn network(message: impl Into<String>) -> Self {
        Self { kind: ErrorKind::Network, status: None, message: message.into() }
    }

    /// Of an answer with this status.
    pub fn response(status: u16, message: impl Into<String>) -> Self {
        Self { kind: ErrorKind::Response, status: Some(status), message: message.into() }
    }

    /// Of what was sent.
    pub fn data(message: impl Into<String>) -> Self {
        Self { kind: ErrorKind::Data, status: None, message: message.into() }
    }
}

/// A kind of things that go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The connection could not be made, or ended.
    Network,
    /// The answer was not a stream.
    Response,
    /// What was sent cannot be taken.
    Data,
}

impl ErrorKind {
    /// `network`, `response` or `data`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Network => "network",
            Self::Response => "response",
            Self::Data => "data",
        }
    }
}

impl Status {
    pub(super) fn to_json(&self) -> Value {
        let error = self.error.as_ref().map(
            |error| json!({"kind": error.kind.as_str(), "status": error.status, "message": error.message}),
        );
        json!({
            "state": self.state.as_str(),
            "connected": self.connected,
            "configured": self.configured,
            "error": error,
            "retry_ms": self.retry.map(|retry| u64::try_from(retry.as_millis()).unwrap_or(u64::MAX)),
        })
    }
}
