//! The suite's names for errors.

use relay_durable::{Error, ErrorKind};
use serde_json::{Value, json};

/// An error in the suite's words.
#[derive(Debug)]
pub(crate) struct Failure {
    code: &'static str,
    status: Option<u16>,
    message: String,
}

impl Failure {
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self { code: "INVALID_ARGUMENT", status: None, message: message.into() }
    }

    pub(crate) fn with_status(mut self, status: u16) -> Self {
        self.status = Some(status);
        self
    }

    pub(crate) fn parse(url: &str, what: &str) -> Self {
        Self { code: "PARSE_ERROR", status: None, message: format!("{url}: {what}") }
    }

    /// No attempt succeeded within the time.
    pub(crate) fn lost(url: &str, cause: &str) -> Self {
        let status = status_in(cause);
        let code = if status.is_some() { "UNEXPECTED_STATUS" } else { "NETWORK_ERROR" };
        Self { code, status, message: format!("{url}: no success in time: {cause}") }
    }

    pub(crate) fn unsupported(what: &str) -> Self {
        Self { code: "NOT_SUPPORTED", status: None, message: format!("{what} is not known here") }
    }

    pub(crate) fn line(&self, command: &Value) -> Value {
        let mut line = json!({
            "type": "error", "success": false, "commandType": command, "errorCode": self.code, "message": self.message,
        });
        if let Some(status) = self.status {
            line["status"] = json!(status);
        }
        line
    }
}

/// The last status in a message.
fn status_in(message: &str) -> Option<u16> {
    let (_, behind) = message.rsplit_once("status ")?;
    behind.get(..3)?.parse().ok()
}

impl From<&Error> for Failure {
    fn from(error: &Error) -> Self {
        let message = error.to_string();
        // If several attempts failed, the last cause has the status.
        let status = error.status().or_else(|| status_in(&message));
        let code = match error.kind() {
            ErrorKind::NotFound | ErrorKind::Gone => "NOT_FOUND",
            ErrorKind::Exists | ErrorKind::ContentType | ErrorKind::Gap | ErrorKind::UsedBefore => "CONFLICT",
            ErrorKind::Closed => "STREAM_CLOSED",
            ErrorKind::SequenceConflict => "SEQUENCE_CONFLICT",
            ErrorKind::Malformed => "PARSE_ERROR",
            ErrorKind::Usage => "INVALID_ARGUMENT",
            ErrorKind::Refused if status == Some(400) => "INVALID_OFFSET",
            ErrorKind::TimedOut if status.is_none() => "NETWORK_ERROR",
            ErrorKind::OutcomeUnknown if status.is_none() => "NETWORK_ERROR",
            ErrorKind::NoProgress | ErrorKind::Local => "INTERNAL_ERROR",
            _ => "UNEXPECTED_STATUS",
        };
        Self { code, status, message }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::from(&error)
    }
}

impl From<std::sync::Arc<Error>> for Failure {
    fn from(error: std::sync::Arc<Error>) -> Self {
        Self::from(&*error)
    }
}
