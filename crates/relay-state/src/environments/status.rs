//! The status of a client.

use std::time::Duration;

use serde_json::{Value, json};

/// The status of a client.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Status {
    /// The state.
    pub state: State,
    /// Whether a stream is open.
    pub connected: bool,
    /// Whether a complete configuration has come once, from the service or a cache. Stays true.
    pub configured: bool,
    /// The last error, kept after recovery.
    pub error: Option<StatusError>,
    /// The delay until the next attempt, if there is one.
    pub retry: Option<Duration>,
}

/// The state of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum State {
    /// No event has been understood yet.
    #[default]
    Initializing,
    /// An event was understood on this connection.
    Valid,
    /// The connection failed after an event was understood.
    Interrupted,
    /// The client has ended.
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

/// An error, without secrets.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct StatusError {
    /// Its kind.
    pub kind: ErrorKind,
    /// The status of the response, if that was the error.
    pub status: Option<u16>,
    /// The message, on one line.
    pub message: String,
}

impl StatusError {
    /// An error of this kind, with the status of the response if that was the error.
    pub fn new(kind: ErrorKind, status: Option<u16>, message: impl Into<String>) -> Self {
        Self { kind, status, message: message.into() }
    }

    /// An error of a connection.
    pub fn network(message: impl Into<String>) -> Self {
        Self { kind: ErrorKind::Network, status: None, message: message.into() }
    }

    /// An error of a response with this status.
    pub fn response(status: u16, message: impl Into<String>) -> Self {
        Self { kind: ErrorKind::Response, status: Some(status), message: message.into() }
    }

    /// An error of the received data.
    pub fn data(message: impl Into<String>) -> Self {
        Self { kind: ErrorKind::Data, status: None, message: message.into() }
    }
}

/// A kind of error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The connection could not be made, or ended.
    Network,
    /// The response was not a stream.
    Response,
    /// The received data is invalid.
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
