//! Response heads.

use alloc::string::{String, ToString};
use core::time::Duration;

use super::Offset;
use crate::http::{ResponseHead, is_html};

/// The parts of a response head that the protocol uses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    status: u16,
    next_offset: Option<Offset>,
    up_to_date: bool,
    closed: bool,
    cursor: Option<String>,
    content_type: Option<String>,
    content_encoding: Option<String>,
    etag: Option<String>,
    epoch: Option<u64>,
    seq: Option<u64>,
    expected: Option<u64>,
    received: Option<u64>,
    ttl: Option<u64>,
    expires_at: Option<String>,
    base64: bool,
    retry_after: Option<Duration>,
}

/// The reason of a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// 404: the stream does not exist.
    NotFound,
    /// 410: the stream was deleted and has forks, or the offset is no longer retained.
    Gone,
    /// 401, or 403 without an epoch.
    Unauthorised,
    /// 403 with the epoch of a newer producer.
    Fenced {
        /// The epoch that the server knows.
        epoch: u64,
    },
    /// 409, and the stream is closed.
    Closed,
    /// 409, and the producer's number is not the next one.
    Gap {
        /// The number that the server expects.
        expected: u64,
    },
    /// Any other 409: content type, writer sequence, or a stream that exists with another configuration.
    Conflict,
    /// 413.
    TooLarge,
    /// 429, and 5xx except 501 and 505: a retry may succeed.
    Busy,
    /// Anything else, which is final.
    Other,
}

impl Answer {
    /// An answer without headers.
    pub fn new(status: u16) -> Self {
        Self { status, ..Self::default() }
    }

    /// Takes all headers of an answer. `unix_time` is the time since 1970 on the caller's clock, for a `Retry-After`
    /// that is a date in an answer without one.
    pub fn from_headers<'h>(
        status: u16,
        headers: impl Iterator<Item = (&'h str, &'h [u8])>,
        unix_time: Duration,
    ) -> Self {
        let mut head = ResponseHead::new(status, "").unix_time(unix_time);
        let mut answer = Self::new(status);
        for (name, value) in headers {
            if matches!(name.len(), 4 | 11) {
                // `Date` and `Retry-After`.
                head = head.header(name, value);
            }
            answer = answer.header(name, value);
        }
        answer.retry_after = head.retry_after();
        answer
    }

    /// Adds a header. Names are compared without case, and invalid values are ignored. `Retry-After` is accepted in
    /// seconds only: see [`from_headers`](Self::from_headers).
    #[must_use]
    pub fn header(mut self, name: &str, value: &[u8]) -> Self {
        // Only names with the length of one of the names below are compared.
        let mut lower = [0; 24];
        let Some(lower) = lower.get_mut(..name.len()) else { return self };
        lower.copy_from_slice(name.as_bytes());
        lower.make_ascii_lowercase();
        let Ok(text) = core::str::from_utf8(value) else { return self };
        let text = text.trim_matches([' ', '\t']);
        let number = || text.parse::<u64>().ok().filter(|_| !text.starts_with('+'));
        let truth = text.eq_ignore_ascii_case("true");
        let words = || Some(text.to_string()).filter(|text| !text.is_empty());
        match &*lower {
            b"stream-next-offset" => self.next_offset = Offset::new(text).ok(),
            b"stream-up-to-date" => self.up_to_date = truth,
            b"stream-closed" => self.closed = truth,
            b"stream-cursor" => self.cursor = words(),
            b"content-type" => self.content_type = words(),
            b"content-encoding" => {
                self.content_encoding = words().filter(|coding| !coding.eq_ignore_ascii_case("identity"));
            }
            b"etag" => self.etag = words(),
            b"producer-epoch" => self.epoch = number(),
            b"producer-seq" => self.seq = number(),
            b"producer-expected-seq" => self.expected = number(),
            b"producer-received-seq" => self.received = number(),
            b"stream-ttl" => self.ttl = number(),
            b"stream-expires-at" => self.expires_at = words(),
            b"stream-sse-data-encoding" => self.base64 = text.eq_ignore_ascii_case("base64"),
            b"retry-after" => self.retry_after = number().map(Duration::from_secs),
            _ => {}
        }
        self
    }

    /// The status.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// The start of the next read: `Stream-Next-Offset`.
    pub fn next_offset(&self) -> Option<&Offset> {
        self.next_offset.as_ref()
    }

    /// Whether the response has everything that existed at the time. More may come.
    pub fn up_to_date(&self) -> bool {
        self.up_to_date
    }

    /// Whether the stream ends at [`next_offset`](Self::next_offset).
    pub fn closed(&self) -> bool {
        self.closed
    }

    /// The cursor that the next live read must send back.
    pub fn cursor(&self) -> Option<&str> {
        self.cursor.as_deref()
    }

    /// The media type with its parameters.
    pub fn content_type(&self) -> Option<&str> {
        self.content_type.as_deref()
    }

    /// The coding of the body, unless it is `identity`.
    pub fn content_encoding(&self) -> Option<&str> {
        self.content_encoding.as_deref()
    }

    /// The value for `If-None-Match`.
    pub fn etag(&self) -> Option<&str> {
        self.etag.as_deref()
    }

    /// The newest epoch of this producer that the server knows.
    pub fn epoch(&self) -> Option<u64> {
        self.epoch
    }

    /// The highest accepted number of this producer.
    pub fn seq(&self) -> Option<u64> {
        self.seq
    }

    /// Seconds until the stream is deleted without use.
    pub fn ttl(&self) -> Option<u64> {
        self.ttl
    }

    /// When the stream is deleted, as the server writes it.
    pub fn expires_at(&self) -> Option<&str> {
        self.expires_at.as_deref()
    }

    /// Whether the data of an event stream is in base64.
    pub fn is_base64(&self) -> bool {
        self.base64
    }

    /// The least time to wait before the next attempt.
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// Whether the status is 2xx.
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// Whether this is a web page, as sent by a portal or proxy with status 200: HTML, without headers of the
    /// protocol.
    pub fn is_page(&self) -> bool {
        self.is_success() && self.is_foreign_html()
    }

    /// Whether this is HTML without headers of the protocol, whatever its status. Servers of Durable Streams do not
    /// send that.
    pub fn is_foreign_html(&self) -> bool {
        let html = self.content_type.as_deref().is_some_and(|kind| is_html(kind.as_bytes()));
        let said = self.next_offset.is_some() || self.epoch.is_some() || self.up_to_date || self.closed;
        html && !said
    }

    /// Whether an append with this response was accepted: 200, 201 or 204, and not a web page.
    pub fn is_taken(&self) -> bool {
        matches!(self.status, 200 | 201 | 204) && !self.is_page()
    }

    /// Why the request was refused; `None` for 2xx and 304.
    pub fn refusal(&self) -> Option<Refusal> {
        Some(match self.status {
            200..=299 | 304 => return None,
            404 => Refusal::NotFound,
            410 => Refusal::Gone,
            401 => Refusal::Unauthorised,
            403 => match self.epoch {
                Some(epoch) => Refusal::Fenced { epoch },
                None => Refusal::Unauthorised,
            },
            // In the order in which servers check.
            409 if self.closed => Refusal::Closed,
            409 => match self.expected {
                Some(expected) => Refusal::Gap { expected },
                None => Refusal::Conflict,
            },
            413 => Refusal::TooLarge,
            501 | 505 => Refusal::Other,
            429 | 500..=599 => Refusal::Busy,
            _ => Refusal::Other,
        })
    }
}

/// Whether a stream of this type has JSON messages. Parameters and case are ignored.
pub fn is_json(content_type: &str) -> bool {
    essence(content_type).eq_ignore_ascii_case("application/json")
}

/// A media type without its parameters.
pub(super) fn essence(content_type: &str) -> &str {
    content_type.split(';').next().unwrap_or_default().trim_matches([' ', '\t'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_by_its_signs() {
        let plain = |status| Answer::new(status).refusal();
        for (status, refusal) in [
            (200, None),
            (201, None),
            (204, None),
            (304, None),
            (400, Some(Refusal::Other)),
            (401, Some(Refusal::Unauthorised)),
            (403, Some(Refusal::Unauthorised)),
            (404, Some(Refusal::NotFound)),
            (405, Some(Refusal::Other)),
            (409, Some(Refusal::Conflict)),
            (410, Some(Refusal::Gone)),
            (413, Some(Refusal::TooLarge)),
            (429, Some(Refusal::Busy)),
            (500, Some(Refusal::Busy)),
            (501, Some(Refusal::Other)),
            (503, Some(Refusal::Busy)),
            (505, Some(Refusal::Other)),
            (302, Some(Refusal::Other)),
        ] {
            assert_eq!(plain(status), refusal, "{status}");
        }
        let gap =
            Answer::new(409).header("producer-expected-seq", b"3").header("Producer-Received-Seq", b"5");
        assert_eq!(gap.refusal(), Some(Refusal::Gap { expected: 3 }));
        assert_eq!(gap.header("Stream-Closed", b"TRUE").refusal(), Some(Refusal::Closed));
        let fenced = Answer::new(403).header("Producer-Epoch", b"4");
        assert_eq!(fenced.refusal(), Some(Refusal::Fenced { epoch: 4 }));
        assert_eq!(Answer::new(409).header("Stream-Closed", b"yes").refusal(), Some(Refusal::Conflict));
    }

    #[test]
    fn types_and_times() {
        for (text, json) in [
            ("application/json", true),
            ("Application/JSON ; charset=utf-8", true),
            ("application/jsonl", false),
        ] {
            assert_eq!(is_json(text), json, "{text}");
        }
        let headers = [("Retry-After", &b"Sat, 21 Nov 2026 13:02:00 GMT"[..])];
        let at = Duration::from_secs(1_795_266_000);
        let answer = Answer::from_headers(503, headers.into_iter(), at);
        assert_eq!(answer.retry_after(), Some(Duration::from_secs(120)));
        assert_eq!(Answer::new(200).header("Stream-Next-Offset", b"").next_offset(), None);
    }
}
