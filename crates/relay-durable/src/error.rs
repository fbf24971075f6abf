//! Errors and their kinds.

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use relay_proto::durable::{Answer, Refusal};

/// Why an operation failed. Names the stream's URL, without its query.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    status: Option<u16>,
    url: String,
    what: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// What kind of failure it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// 404.
    NotFound,
    /// 410: deleted, or the offset is no longer retained.
    Gone,
    /// 401, or 403 that is not about an epoch.
    NotAuthorised,
    /// 409 to a create or a fork: there is a stream of that name with another configuration.
    Exists,
    /// The stream is closed.
    Closed,
    /// The writer sequence does not grow.
    SequenceConflict,
    /// The stream has another content type.
    ContentType,
    /// The producer's number is not the one that the server expects, which cannot be corrected.
    Gap,
    /// A newer producer has the name; or a lease is over.
    Fenced,
    /// The name and epoch of the producer were used before.
    UsedBefore,
    /// Another worker has the subscription's work.
    Claimed,
    /// The subscription has no work.
    NoWork,
    /// 413.
    TooLarge,
    /// It is unknown whether the append was accepted.
    OutcomeUnknown,
    /// Responses make no progress.
    NoProgress,
    /// A response is malformed.
    Malformed,
    /// The time for retries is over.
    TimedOut,
    /// The server refused in another way: see [`Error::status`].
    Refused,
    /// A mistake of the caller.
    Usage,
    /// The state could not be stored, or a token was not available.
    Local,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, url: &str, what: impl Into<String>) -> Self {
        Self { kind, status: None, url: url.to_owned(), what: what.into(), source: None }
    }

    pub(crate) fn usage(what: impl Into<String>) -> Self {
        Self::new(ErrorKind::Usage, "", what)
    }

    pub(crate) fn with_status(mut self, status: u16) -> Self {
        self.status = Some(status);
        self
    }

    pub(crate) fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    pub(crate) fn out_of_time(url: &str, limit: Option<Duration>, cause: &str) -> Self {
        let limit = limit.map_or_else(String::new, |limit| format!(" within {limit:?}"));
        Self::new(ErrorKind::TimedOut, url, format!("no success{limit}: {cause}"))
    }

    /// The error of a final refusal. `words` is the beginning of the body.
    pub(crate) fn refused(url: &str, refusal: Refusal, answer: &Answer, words: &str) -> Self {
        let status = answer.status();
        let tail = answer.next_offset().map_or_else(String::new, |offset| format!(" at offset {offset}"));
        let (kind, what) = match refusal {
            Refusal::NotFound if answer.is_foreign_html() => {
                (ErrorKind::NotFound, "not found: answered with an HTML page".to_owned())
            }
            Refusal::NotFound => (ErrorKind::NotFound, "not found".to_owned()),
            Refusal::Gone => (ErrorKind::Gone, "gone".to_owned()),
            Refusal::Unauthorised => (ErrorKind::NotAuthorised, format!("not authorised ({status})")),
            Refusal::Fenced { epoch } => {
                (ErrorKind::Fenced, format!("fenced: the server knows epoch {epoch}"))
            }
            Refusal::Closed => (ErrorKind::Closed, format!("the stream is closed{tail}")),
            Refusal::Gap { expected } => (ErrorKind::Gap, format!("sequence gap: expected {expected}")),
            Refusal::Conflict => (ErrorKind::Refused, with_words("conflict (409)".into(), words)),
            Refusal::TooLarge => (ErrorKind::TooLarge, "too large".to_owned()),
            _ => (ErrorKind::Refused, with_words(format!("status {status}"), words)),
        };
        Self::new(kind, url, what).with_status(status)
    }

    /// What kind of failure it was.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The status of the response, if there was one.
    pub fn status(&self) -> Option<u16> {
        self.status
    }

    /// The stream's URL without its query; empty when the mistake was made before there was one.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Whether the same may succeed later without a change by the caller.
    pub fn retryable(&self) -> bool {
        matches!(self.kind, ErrorKind::TimedOut | ErrorKind::NoProgress | ErrorKind::Malformed)
    }
}

fn with_words(what: String, words: &str) -> String {
    if words.is_empty() { what } else { format!("{what}: {words}") }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.url.is_empty() { f.write_str(&self.what) } else { write!(f, "{}: {}", self.url, self.what) }
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}

/// The beginning of a body as one line: 200 characters, no control characters.
pub(crate) fn one_line(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let words: Vec<&str> =
        text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|w| !w.is_empty()).collect();
    words.join(" ").chars().take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_become_one_line() {
        assert_eq!(one_line(b" a\r\n\x1b[31mb\tc\0d "), "a [31mb c d");
        assert_eq!(one_line("é".repeat(300).as_bytes()).chars().count(), 200);
    }
}
