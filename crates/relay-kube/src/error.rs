//! Errors of requests to an API server.

use std::fmt;
use std::time::Duration;

use relay_proto::error::chain;
use serde::Deserialize;

/// An error of access to a cluster.
///
/// No error holds a part of a body, except the API server's own message about access or versions.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A kubeconfig, or a file that it names, cannot be used. The text names the file, and the user or cluster entry.
    #[error("{what}")]
    Config {
        /// The part that cannot be used, and why.
        what: String,
        /// The cause, if there is one.
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
    /// The named context does not exist, or there is no current context.
    #[error("{what}")]
    Usage {
        /// The requested name, and the existing ones.
        what: String,
    },
    /// The API server could not be reached, or credentials were not available.
    #[error("{doing}")]
    Transport {
        /// The request: `list`, `watch`, ...
        doing: &'static str,
        /// What went wrong.
        source: Box<relay_transport::Error>,
    },
    /// The API server refused.
    #[error("{doing}: {status}")]
    Refused {
        /// The request: `list`, `watch`, ...
        doing: &'static str,
        /// The status that it sent.
        status: Box<Status>,
        /// The delay that the response asks for, in a header or in the body.
        retry_after: Option<Duration>,
    },
    /// The response is not of the expected form. The error describes it and does not quote it.
    #[error("{doing}: {what}")]
    Answer {
        /// The request: `list`, `watch`, ...
        doing: &'static str,
        /// Length, type and the position of the error.
        what: String,
    },
    /// The response ended too early.
    #[error("{doing}: the answer broke off")]
    Cut {
        /// The request: `list`, `watch`, ...
        doing: &'static str,
        /// How.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The response, or a part of it, is over the size limit.
    #[error("{doing}: {what} of more than {limit} bytes")]
    TooLarge {
        /// The request: `list`, `watch`, ...
        doing: &'static str,
        /// What is too large.
        what: &'static str,
        /// Bytes.
        limit: usize,
    },
    /// The response, or the next part of it, did not come in time.
    #[error("{doing}: no answer within {after:?}")]
    Late {
        /// The request: `list`, `watch`, ...
        doing: &'static str,
        /// The time limit.
        after: Duration,
    },
}

impl Error {
    pub(crate) fn config(what: impl Into<String>) -> Self {
        Self::Config { what: what.into(), source: None }
    }

    pub(crate) fn config_with(
        what: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::Config { what: what.into(), source: Some(source.into()) }
    }

    /// The status of a refusal; `None` for everything else.
    pub fn status(&self) -> Option<&Status> {
        match self {
            Self::Refused { status, .. } => Some(status),
            _ => None,
        }
    }

    /// How long the API server asked to be left alone; `None` when it did not.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// The error and its sources on one line, as [`chain`] puts them together.
    pub fn line(&self) -> String {
        chain(self).to_string()
    }
}

/// An API server's refusal: its `Status` object, or the parts known from the HTTP response.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Status {
    /// HTTP status code.
    pub code: u16,
    /// One word, such as `Forbidden` or `Expired`; empty when there is none.
    pub reason: String,
    /// The API server's message, at most 400 characters and without control characters. Kept only for codes whose
    /// messages are about access or versions (401, 403, 404, 409, 410, 429, 503, 504): others may quote an object.
    pub message: String,
}

impl Status {
    pub(crate) fn new(code: u16, reason: &str, message: &str) -> Self {
        let about_access = matches!(code, 401 | 403 | 404 | 409 | 410 | 429 | 503 | 504);
        let plain = |text: &str, most: usize| -> String {
            text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(most).collect()
        };
        let one_word = reason.bytes().all(|byte| byte.is_ascii_alphanumeric());
        Self {
            code,
            reason: if one_word { plain(reason, 60) } else { String::new() },
            message: if about_access { plain(message, 400) } else { String::new() },
        }
    }

    /// Whether the requested version, or the token for a further page, is older than the API server keeps.
    pub fn is_expired(&self) -> bool {
        self.code == 410
    }

    /// Whether the requested version is newer than any that the API server knows, also after waiting for it.
    pub fn is_ahead(&self) -> bool {
        self.code == 504 && self.message.contains("Too large resource version")
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.code)?;
        if !self.reason.is_empty() {
            write!(f, " {}", self.reason)?;
        }
        if !self.message.is_empty() {
            write!(f, ": {}", self.message)?;
        }
        Ok(())
    }
}

/// The `Status` object on the wire.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct WireStatus {
    kind: Option<String>,
    code: Option<u16>,
    reason: Option<String>,
    message: Option<String>,
    details: Option<Details>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Details {
    retry_after_seconds: Option<u64>,
}

impl WireStatus {
    /// Reads a body or the object of an `ERROR` event; `None` when it is no `Status`.
    pub(crate) fn read(json: &[u8]) -> Option<Self> {
        let status: Self = serde_json::from_slice(json).ok()?;
        (status.kind.as_deref() == Some("Status")).then_some(status)
    }

    /// The status, and the delay that it asks for. A missing code is replaced by that of the response.
    pub(crate) fn told(self, code: u16) -> (Status, Option<Duration>) {
        let code = self.code.filter(|&code| code > 0).unwrap_or(code);
        let text = |text: Option<String>| text.unwrap_or_default();
        let after =
            self.details.and_then(|details| details.retry_after_seconds).filter(|&seconds| seconds > 0);
        (Status::new(code, &text(self.reason), &text(self.message)), after.map(Duration::from_secs))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_kept_only_where_they_cannot_quote_an_object() {
        let json = |code: u16| {
            format!(
                r#"{{"kind":"Status","code":{code},"reason":"Word","message":"about\n\u001b[2J a secret"}}"#
            )
        };
        for code in [401, 403, 404, 409, 410, 429, 503, 504] {
            let (status, _) = WireStatus::read(json(code).as_bytes()).unwrap().told(500);
            assert_eq!(status.to_string(), format!("{code} Word: about  [2J a secret"));
        }
        for code in [400, 422, 500, 502] {
            let (status, _) = WireStatus::read(json(code).as_bytes()).unwrap().told(500);
            assert_eq!(status.to_string(), format!("{code} Word"));
        }
        assert_eq!(Status::new(500, "not one word", "").to_string(), "500");
        assert!(WireStatus::read(br#"{"kind":"Pod","code":403}"#).is_none());
    }

    #[test]
    fn a_status_says_how_long_to_stay_away() {
        let read = |json: &str| WireStatus::read(json.as_bytes()).unwrap().told(429);
        let (status, after) = read(r#"{"kind":"Status","details":{"retryAfterSeconds":20}}"#);
        assert_eq!((status.code, after), (429, Some(Duration::from_secs(20))));
        assert_eq!(read(r#"{"kind":"Status","details":{"retryAfterSeconds":0}}"#).1, None);
        assert_eq!(read(r#"{"kind":"Status","details":null}"#).1, None);
    }
}
