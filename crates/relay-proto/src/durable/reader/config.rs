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
    /// What follows once everything there is was read. Default [`LiveMode::Auto`].
    pub mode: LiveMode,
    /// Largest piece given out, in bytes, but for a single message that is larger; as much is held at most. Default 1
    /// MiB.
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
    /// Ceiling of every delay, but for what the server asks. Default 10 s.
    pub retry_cap: Duration,
    /// Longest time without progress while attempts fail; `None`, the default, is for ever.
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

/// What follows once everything there is was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum LiveMode {
    /// The end.
    Off,
    /// Events for JSON streams, long-polls for others and where events do not work.
    #[default]
    Auto,
    /// Long-polls from the first request on.
    LongPoll,
    /// Events from the first request on. In text, CR and CRLF may become LF on the way.
    Sse,
}

/// How new data is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Live {
    /// One answer per request.
    LongPoll,
    /// A stream of events.
    Sse,
}

/// A request to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// HEAD instead of GET.
    pub head: bool,
    /// The query, encoded, its keys in order. Empty for none.
    pub query: String,
    /// Whether the answer may take its time.
    pub live: Option<Live>,
    /// Longest time to the answer's head.
    pub wait: Duration,
}

/// The next action of a reader's driver.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReaderWant {
    /// Drop the connection, if there is one, and send this; then hand in the answer or the failure.
    Ask(Ask),
    /// The answer's head, until then; afterwards `handle_timeout`.
    Answer(Duration),
    /// Bytes or the end of the body, until then; afterwards `handle_timeout`.
    Bytes(Duration),
    /// Drop the connection, and poll again at that time.
    Wait(Duration),
    /// This is for the caller.
    Piece(Piece),
    /// An attempt failed, and another will follow: for information only.
    Retry(Retry),
    /// Nothing more comes.
    Stop(ReaderStop),
}

/// Why and when there will be another attempt.
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
    /// The data; may be empty in the last piece and when it is news that the reader is up to date.
    pub content: Content,
    /// The checkpoint after this piece.
    pub checkpoint: Checkpoint,
    /// The checkpoint's offset covers all of it. Otherwise the piece is a part of an answer that is longer than
    /// [`ReaderConfig::batch_bytes`], and counted in [`Checkpoint::skip`].
    pub whole: bool,
    /// Everything that existed at the time was given out.
    pub up_to_date: bool,
    /// The stream ends here.
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
    /// Messages, or bytes: what [`Checkpoint::skip`] counts.
    pub fn units(&self) -> u64 {
        match self {
            Self::Messages(messages) => messages.len() as u64,
            Self::Bytes(bytes) => bytes.len() as u64,
        }
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.units() == 0
    }
}

/// A regular end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The stream is closed, and was read to its end.
    Closed,
    /// Everything there was is read ([`LiveMode::Off`]).
    UpToDate,
}

/// How reading ended.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReaderStop {
    /// As it should.
    End(End),
    /// The server does not give it.
    Refused {
        /// Why.
        refusal: Refusal,
        /// The status.
        status: u16,
        /// What was asked for.
        offset: Offset,
    },
    /// The response was malformed, twice from one offset.
    Malformed {
        /// What was asked for.
        offset: Offset,
        /// What is wrong with the answer.
        what: String,
    },
    /// A message or event is longer than [`ReaderConfig::max_message`].
    TooLarge {
        /// What was asked for.
        offset: Offset,
        /// The limit, in bytes.
        limit: usize,
    },
    /// Five quick answers in a row moved neither the offset nor the cursor.
    NoProgress {
        /// What was asked for.
        offset: Offset,
    },
    /// [`ReaderConfig::retry_for`] is over.
    OutOfTime {
        /// The last failure.
        cause: String,
    },
    /// It had ended before.
    Over,
}
