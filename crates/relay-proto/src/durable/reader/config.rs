//! Inputs and outputs of a reader.

use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

use bytes::Bytes;

use crate::durable::{Checkpoint, Offset, Refusal};
use crate::setters;

/// Settings of a reader.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ReaderConfig {
    /// What to do at the end of the existing data. Default [`LiveMode::Auto`].
    pub mode: LiveMode,
    /// Size limit of a returned piece, in bytes, except for a single larger message; no more than this is held. Default
    /// 1 MiB.
    pub batch_bytes: usize,
    /// Longest JSON message and longest event, in bytes. Default 64 MiB.
    pub max_message: usize,
    /// Time limit of a response head, and between two reads of a body. Default 30 s.
    pub timeout: Duration,
    /// Additional time for a long-poll. Default 30 s.
    pub poll_wait: Duration,
    /// Additional time without bytes on a stream of events. Default 60 s.
    pub events_wait: Duration,
    /// Ceiling of the first delay before a retry. Default 100 ms.
    pub retry_base: Duration,
    /// Ceiling of every delay, except for delays that the server requests. Default 10 s.
    pub retry_cap: Duration,
    /// Longest time without progress, since the start or the last progress; an attempt under way is cut, too. Waiting
    /// at the tail is not without progress. `None`, the default, is for ever.
    pub retry_for: Option<Duration>,
}

impl Default for ReaderConfig {
    fn default() -> Self {
        Self {
            mode: LiveMode::default(),
            batch_bytes: 1 << 20,
            max_message: 64 << 20,
            timeout: Duration::from_secs(30),
            poll_wait: Duration::from_secs(30),
            events_wait: Duration::from_secs(60),
            retry_base: Duration::from_millis(100),
            retry_cap: Duration::from_secs(10),
            retry_for: None,
        }
    }
}

setters! { ReaderConfig {
    mode: LiveMode,
    batch_bytes: usize,
    max_message: usize,
    timeout: Duration,
    poll_wait: Duration,
    events_wait: Duration,
    retry_base: Duration,
    retry_cap: Duration,
    retry_for: Option<Duration>,
} }

/// What to do at the end of the existing data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum LiveMode {
    /// End.
    Off,
    /// Use events for JSON streams; use long-polls for others, and where events do not work.
    #[default]
    Auto,
    /// Use long-polls from the first request on.
    LongPoll,
    /// Use events from the first request on. In text, CR and CRLF may become LF on the way.
    Sse,
}

/// How to wait for new data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Live {
    /// One response per request.
    LongPoll,
    /// A stream of events.
    Sse,
}

/// A request to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// Whether to send HEAD instead of GET.
    pub head: bool,
    /// The query, encoded, its keys in order. Empty for none.
    pub query: String,
    /// Whether the response may be delayed.
    pub live: Option<Live>,
    /// Time limit for the head of the response.
    pub wait: Duration,
}

/// The next action of a reader's driver.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReaderWant {
    /// Drop the connection, if there is one, and send this; then pass the response or the failure to the reader.
    Ask(Ask),
    /// Wait for the response's head until then; afterwards call `handle_timeout`.
    Answer(Duration),
    /// Wait for bytes or the end of the body until then; afterwards call `handle_timeout`.
    Bytes(Duration),
    /// Drop the connection, and poll again at that time.
    Wait(Duration),
    /// Data for the caller.
    Piece(Piece),
    /// An attempt failed, and another will follow: for information only.
    Retry(Retry),
    /// The reader has ended.
    Stop(ReaderStop),
}

/// The reason and the time of another attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retry {
    /// What went wrong.
    pub cause: String,
    /// Time to the next attempt.
    pub delay: Duration,
}

/// Data, and the checkpoint after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// The data; may be empty in the last piece, and in one that only reports that the reader is up to date.
    pub content: Content,
    /// The checkpoint after this piece.
    pub checkpoint: Checkpoint,
    /// Whether the checkpoint's offset covers all of it. Otherwise the piece is a part of a response that is longer
    /// than [`ReaderConfig::batch_bytes`], and counted in [`Checkpoint::skip`].
    pub whole: bool,
    /// Whether all data that existed at the time was returned.
    pub up_to_date: bool,
    /// Whether the stream ends here.
    pub closed: bool,
}

/// Data of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// The texts of JSON messages.
    Messages(Vec<Bytes>),
    /// Bytes.
    Bytes(Bytes),
}

impl Content {
    /// The number of messages, or of bytes: the unit of [`Checkpoint::skip`].
    pub fn units(&self) -> u64 {
        match self {
            Self::Messages(messages) => messages.len() as u64,
            Self::Bytes(bytes) => bytes.len() as u64,
        }
    }

    /// Whether it is empty.
    pub fn is_empty(&self) -> bool {
        self.units() == 0
    }
}

/// A regular end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The stream is closed, and was read to its end.
    Closed,
    /// All existing data was read ([`LiveMode::Off`]).
    UpToDate,
}

/// How reading ended.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReaderStop {
    /// A regular end.
    End(End),
    /// The server refused.
    Refused {
        /// The reason.
        refusal: Refusal,
        /// The status.
        status: u16,
        /// The request.
        offset: Offset,
    },
    /// The response was malformed, twice from the same offset.
    Malformed {
        /// The request.
        offset: Offset,
        /// What is wrong with the response.
        what: String,
    },
    /// A message or event is longer than [`ReaderConfig::max_message`].
    TooLarge {
        /// The request.
        offset: Offset,
        /// The limit, in bytes.
        limit: usize,
    },
    /// Five quick responses in a row moved neither the offset nor the cursor.
    NoProgress {
        /// The request.
        offset: Offset,
    },
    /// [`ReaderConfig::retry_for`] has passed.
    OutOfTime {
        /// The last failure.
        cause: String,
    },
    /// The reader had ended before.
    Over,
}
