//! Session tickets and the health document.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Epoch, Position};
use crate::time::Timestamp;

/// A single-use ticket for one stream. Its id is a secret: `Debug` does not print it.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Session {
    /// The ticket, to be sent as the `session_id` of one stream.
    #[serde(alias = "sessionId", alias = "session", alias = "id")]
    pub session_id: String,
    /// When it stops being valid.
    #[serde(default, alias = "expiresAt")]
    pub expires_at: Option<Timestamp>,
    /// The same as seconds from now, for clients whose clock is off.
    #[serde(default, alias = "expiresInSeconds", serialize_with = "seconds")]
    pub expires_in_seconds: Option<f64>,
}

/// Whole seconds are written without a point.
fn seconds<S: serde::Serializer>(seconds: &Option<f64>, serializer: S) -> Result<S::Ok, S::Error> {
    match seconds {
        Some(whole) if whole.fract() == 0.0 && (0.0..=1e15).contains(whole) => {
            serializer.serialize_u64(*whole as u64)
        }
        other => other.serialize(serializer),
    }
}

impl Session {
    /// Reads a ticket.
    ///
    /// # Errors
    /// When it is malformed or has no id.
    pub fn from_json(json: &[u8]) -> Result<Self, InvalidSession> {
        // Without the source, whose text may quote the ticket.
        serde_json::from_slice::<Self>(json)
            .ok()
            .filter(|session| !session.session_id.is_empty())
            .ok_or(InvalidSession(()))
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("session_id", &"***")
            .field("expires_at", &self.expires_at)
            .finish_non_exhaustive()
    }
}

/// A response without a session id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the answer holds no session id")]
pub struct InvalidSession(());

/// The health document of a relay. Every field may be missing on a foreign relay; [`Health::raw`] has all of it.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Health {
    /// `ok` or `degraded`.
    pub status: Option<String>,
    /// The log's epoch.
    pub epoch: Option<Epoch>,
    /// The newest position.
    pub head: Option<Position>,
    /// Open streams.
    pub subscribers: Option<u64>,
    /// The whole document.
    pub raw: serde_json::Value,
}

impl Health {
    /// Reads a health document; a body that is not JSON gives an empty one.
    pub fn from_body(body: &[u8]) -> Self {
        #[derive(Deserialize, Default)]
        struct Known {
            status: Option<String>,
            epoch: Option<Epoch>,
            head: Option<Position>,
            subscribers: Option<u64>,
        }
        let raw: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
        let Known { status, epoch, head, subscribers } = Known::deserialize(&raw).unwrap_or_default();
        Self { status, epoch, head, subscribers, raw }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_is_known_by_four_names_and_never_printed() {
        for name in ["session_id", "sessionId", "session", "id"] {
            let session =
                Session::from_json(format!(r#"{{"{name}":"s3cret","expiresInSeconds":30}}"#).as_bytes())
                    .unwrap();
            assert_eq!((session.session_id.as_str(), session.expires_in_seconds), ("s3cret", Some(30.0)));
            assert!(!format!("{session:?}").contains("s3cret"));
            assert!(serde_json::to_string(&session).unwrap().ends_with("\"expires_in_seconds\":30}"));
        }
        for bad in ["", "{}", r#"{"session_id":""}"#, r#"{"session_id":5}"#] {
            assert!(Session::from_json(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn health_is_read_as_far_as_it_is_known() {
        let health = Health::from_body(
            br#"{"status":"ok","epoch":"e","head":{"hash":"h","sequence":3},"subscribers":2,"more":1}"#,
        );
        assert_eq!((health.status.as_deref(), health.head.unwrap().sequence), (Some("ok"), Some(3)));
        assert_eq!(health.raw["more"], 1);
        assert_eq!(Health::from_body(b"OK").status, None);
    }
}
