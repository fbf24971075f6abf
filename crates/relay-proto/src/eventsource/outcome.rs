//! Outputs of the machine, with their reasons.

use alloc::string::String;
use core::fmt;
use core::time::Duration;

use bytes::Bytes;

use crate::http::Redirect;
use crate::sse::Frame;

/// What the driver has to do next.
///
/// Times are on the driver's clock, the one whose readings are passed in. `None` means for ever.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Action {
    /// Drop the connection if there is one, begin a new attempt, poll again.
    Connect(Attempt),
    /// Wait for the attempt's response head until then: `handle_response`, `handle_end`, `handle_refused` or
    /// `handle_timeout`.
    Response(Option<Duration>),
    /// Read the body until then: `handle_bytes`, `handle_end` or `handle_timeout`. Check for bytes before the
    /// clock.
    Bytes(Option<Duration>),
    /// Drop the connection and poll again at this time.
    Wait(Duration),
    /// Hand this to the caller and poll again.
    Item(Item),
    /// Drop the connection: the stream has ended. Every later poll returns the same.
    Stop(Stop),
}

/// Something for the caller.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Item {
    /// The response is a stream.
    Opened,
    /// A frame of the stream.
    Frame(Frame),
    /// The connection, or the attempt at one, has ended; there will be another.
    Ended(Ended),
}

/// One attempt to connect: what its request must have beside the caller's own headers.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Attempt {
    pub(super) number: u32,
    pub(super) fresh_credentials: bool,
    pub(super) redirect: Option<Redirect>,
    pub(super) last_event_id: String,
}

impl Attempt {
    /// Counts from 1 since the last progress. A redirect does not count.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// The last response was 401: the present credentials were refused.
    pub fn fresh_credentials(&self) -> bool {
        self.fresh_credentials
    }

    /// The target of the request after a redirect.
    pub fn redirect(&self) -> Option<&Redirect> {
        self.redirect.as_ref()
    }

    /// The id to resume from, empty when there is none or when it is not to be sent.
    pub fn last_event_id(&self) -> &str {
        &self.last_event_id
    }

    /// The headers that make the request one for an event stream, as names in lower case and values.
    ///
    /// An id with control characters cannot be sent in a header and is left out.
    pub fn headers(&self) -> impl Iterator<Item = (&'static str, &[u8])> {
        let id = self.last_event_id.as_bytes();
        let sendable =
            !id.is_empty() && id.iter().all(|&byte| byte == b'\t' || (byte >= b' ' && byte != 0x7f));
        [("accept", &b"text/event-stream"[..]), ("cache-control", b"no-cache")]
            .into_iter()
            .chain(sendable.then_some(("last-event-id", id)))
    }
}

/// How a connection ended, as the driver saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum End {
    /// The body, or the connection before a head, ended in an orderly way.
    Eof,
    /// It broke, or could not be made: the message of the operating system or library, on one line.
    Io(String),
    /// It could not be made in the time that the driver allows.
    ConnectTimeout,
}

/// The driver's reason for not sending a request, for example that credentials were not available.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Refused {
    pub(super) reason: String,
    pub(super) status: Option<u16>,
    pub(super) retry: Retry,
}

/// Whether another attempt may succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Retry {
    /// No.
    Never,
    /// Yes, after the usual backoff.
    Backoff,
    /// Yes, but not before this time has passed.
    After(Duration),
}

impl Refused {
    /// With a reason, on one line and without secrets.
    pub fn new(reason: impl Into<String>, retry: Retry) -> Self {
        Self { reason: reason.into(), status: None, retry }
    }

    /// Another attempt would fail as well.
    pub fn permanent(reason: impl Into<String>) -> Self {
        Self::new(reason, Retry::Never)
    }

    /// Worth trying again.
    pub fn retry(reason: impl Into<String>) -> Self {
        Self::new(reason, Retry::Backoff)
    }

    /// Worth trying again, after `delay`.
    pub fn retry_after(reason: impl Into<String>, delay: Duration) -> Self {
        Self::new(reason, Retry::After(delay))
    }

    /// Adds the status of the answer that was the reason.
    #[must_use]
    pub fn with_status(mut self, status: u16) -> Self {
        self.status = Some(status);
        self
    }

    /// The reason.
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// The status of the answer that was the reason, if there was one.
    pub fn status(&self) -> Option<u16> {
        self.status
    }

    /// Whether another attempt may succeed.
    pub fn retry_hint(&self) -> Retry {
        self.retry
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl core::error::Error for Refused {}

/// The end of a connection that will be followed by another.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Ended {
    /// Whether the connection had been open ([`Item::Opened`] was handed out), or only attempted.
    pub opened: bool,
    /// Why it ended.
    pub cause: Cause,
    /// When the next attempt begins, on the driver's clock.
    pub retry_at: Duration,
    /// Which attempt since the last progress has ended.
    pub attempt: u32,
    /// The start of the body of an error response, else empty. It may hold secrets: do not log it.
    pub body: Bytes,
}

impl Ended {
    /// The status of the answer, when the answer was the cause.
    pub fn status(&self) -> Option<u16> {
        match &self.cause {
            Cause::Status(status) => Some(*status),
            Cause::Refused(refused) => refused.status,
            _ => None,
        }
    }
}

/// Why a connection or an attempt ended. Displays as one short line without secrets.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cause {
    /// The server ended the stream, or closed the connection before a response head.
    Eof,
    /// The connection broke or could not be made.
    Io(String),
    /// The connection was not made in time.
    ConnectTimeout,
    /// No response head came in time.
    ResponseTimeout,
    /// No byte came for this long.
    Idle(Duration),
    /// The server answered with a status that is worth another attempt.
    Status(u16),
    /// The server answered 200, but not with an event stream: its content type, empty when there was none.
    ContentType(String),
    /// The response is an event stream in a content coding that the driver does not decode, such as `gzip`.
    ContentEncoding(String),
    /// A redirect without a `Location`.
    RedirectWithoutLocation(u16),
    /// A redirect to something that is not an `http` or `https` URL.
    RedirectNowhere(u16),
    /// More redirects in a row than [`Config::max_redirects`](super::Config::max_redirects); the status of the last.
    TooManyRedirects(u16),
    /// An event larger than the limit, of which this many bytes had come.
    EndlessEvent(u64),
    /// The driver could not prepare the request.
    Refused(Refused),
    /// The caller asked for a new connection and gave this reason.
    Restarted(String),
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Eof => f.write_str("the server ended the connection"),
            Self::Io(text) => f.write_str(text),
            Self::ConnectTimeout => f.write_str("no connection in time"),
            Self::ResponseTimeout => f.write_str("no response in time"),
            Self::Idle(time) => write!(f, "nothing received for {time:?}"),
            Self::Status(status) => write!(f, "answered with status {status}"),
            Self::ContentType(kind) if kind.is_empty() => f.write_str("answered without a content type"),
            Self::ContentType(kind) => match known(kind.split(';').next().unwrap_or_default(), KINDS) {
                Some(kind) => write!(f, "answered with content type {kind:?}, not text/event-stream"),
                None => f.write_str("answered with another content type than text/event-stream"),
            },
            Self::ContentEncoding(coding) => match known(coding, CODINGS) {
                Some(coding) => write!(f, "answered in content coding {coding:?}"),
                None => f.write_str("answered in a content coding that was not asked for"),
            },
            Self::RedirectWithoutLocation(status) => write!(f, "redirected ({status}) without a Location"),
            Self::RedirectNowhere(status) => {
                write!(f, "redirected ({status}) to something that is not an http URL")
            }
            Self::TooManyRedirects(_) => f.write_str("too many redirects in a row"),
            Self::EndlessEvent(bytes) => write!(f, "an event did not end within {bytes} bytes"),
            Self::Refused(refused) => write!(f, "{refused}"),
            Self::Restarted(reason) => write!(f, "restarted: {reason}"),
        }
    }
}

/// Content types that an error may quote. Any other value could hold a secret that the server echoes.
const KINDS: &[&str] = &[
    "text/html",
    "text/plain",
    "text/xml",
    "application/json",
    "application/octet-stream",
    "application/problem+json",
    "application/x-ndjson",
    "application/xml",
];
const CODINGS: &[&str] = &["br", "compress", "deflate", "gzip", "x-gzip", "zstd"];

fn known(value: &str, names: &[&'static str]) -> Option<&'static str> {
    names.iter().copied().find(|name| name.eq_ignore_ascii_case(value.trim_matches([' ', '\t'])))
}

/// The end of a stream, for good.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stop {
    /// The caller closed it.
    Closed,
    /// The server answered 204: it wants no more attempts.
    NoContent,
    /// The server answered with a status that no attempt will change.
    Status {
        /// The status.
        status: u16,
        /// The start of the error body. It may hold secrets: do not log it.
        body: Bytes,
    },
    /// The driver could not prepare the request, and never will.
    Refused(Refused),
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str("closed by the caller"),
            Self::NoContent => f.write_str("the server has nothing more to say (204)"),
            Self::Status { status, .. } => write!(f, "refused with status {status}"),
            Self::Refused(refused) => write!(f, "{refused}"),
        }
    }
}

impl core::error::Error for Stop {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            Self::Refused(refused) => Some(refused),
            _ => None,
        }
    }
}
