//! The trait of transports.

use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use futures_util::future::{BoxFuture, FutureExt};
use relay_proto::parsec::{DecodeError, Envelope, Position, PresenceEntry};
use relay_state::sequences::Frame;

use crate::{Error, HistoryOptions};

/// Carries envelopes without decoding them. Your own transport needs [`publish`](Self::publish) and
/// [`subscribe`](Self::subscribe); the other calls default to [`Error::NotImplemented`].
pub trait Transport: Send + Sync + 'static {
    /// Its name in errors.
    fn name(&self) -> &'static str;

    /// Prepares the transport. Called once before anything else; subscriptions connect on their own.
    fn connect(&self) -> BoxFuture<'_, Result<(), Error>> {
        std::future::ready(Ok(())).boxed()
    }

    /// Closes all connections; later calls fail.
    fn close(&self) -> BoxFuture<'_, ()> {
        std::future::ready(()).boxed()
    }

    /// Sends an envelope once. The client makes retries.
    fn publish<'a>(
        &'a self,
        channel: &'a str,
        envelope: Bytes,
    ) -> BoxFuture<'a, Result<Receipt, PublishFailure>>;

    /// Opens a channel's feed, over as many connections as it takes.
    fn subscribe<'a>(&'a self, channel: &'a str, start: Start)
    -> BoxFuture<'a, Result<Box<dyn Feed>, Error>>;

    /// A part of a channel's history, oldest first.
    fn history<'a>(
        &'a self,
        channel: &'a str,
        options: &'a HistoryOptions,
    ) -> BoxFuture<'a, Result<Vec<HistoryItem>, Error>> {
        let _ = (channel, options);
        std::future::ready(Err(self.not_implemented("history"))).boxed()
    }

    /// Who listens to a channel.
    fn presence<'a>(&'a self, channel: &'a str) -> BoxFuture<'a, Result<Presence, Error>> {
        let _ = channel;
        std::future::ready(Err(self.not_implemented("presence"))).boxed()
    }

    /// The error for a call that it does not have.
    fn not_implemented(&self, call: &'static str) -> Error {
        Error::NotImplemented { transport: self.name(), call }
    }
}

/// The start of a feed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Start {
    /// With what is published from now on.
    Latest,
    /// With the oldest that is retained.
    Oldest,
    /// After a position.
    After(Position),
}

/// The frames of a channel, over as many connections as it takes.
///
/// It ends with [`Event::Ended`], or just ends when it was closed. After [`Event::Waiting`],
/// [`resume`](Self::resume) sets where it continues.
pub trait Feed: Stream<Item = Event> + Send + Unpin {
    /// The next connection continues after this position; `None` starts again. Called after each
    /// [`Event::Waiting`].
    fn resume(&mut self, after: Option<&Position>);

    /// Drops the connection, because something is missing; an [`Event::Waiting`] follows.
    fn restart(&mut self, reason: &str);

    /// The connection made progress: the next delay is a first delay again.
    fn progress(&mut self) {}
}

/// An event of a feed.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// A connection has begun; its first frame is [`Frame::Connected`].
    Opened,
    /// A frame.
    Frame(Frame),
    /// There is no connection; there will be another.
    Waiting {
        /// Why the last one, or the attempt at one, has ended.
        reason: String,
        /// The delay before the next attempt.
        delay: Duration,
    },
    /// It is over.
    Ended(Error),
}

/// The receipt of an accepted envelope.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Receipt {
    /// Where it stands, if that is said.
    pub position: Option<Position>,
    /// It had been taken before: an answer was lost.
    pub duplicate: bool,
}

impl Receipt {
    /// Of a position.
    pub fn new(position: impl Into<Option<Position>>, duplicate: bool) -> Self {
        Self { position: position.into(), duplicate }
    }
}

/// Why an envelope was not accepted, or may not have been.
#[derive(Debug)]
#[non_exhaustive]
pub enum PublishFailure {
    /// It was refused for good.
    Refused(Error),
    /// It may have been accepted, or may be on a retry.
    Unavailable {
        /// What happened.
        error: Error,
        /// Not to be tried again before this time.
        retry_after: Option<Duration>,
    },
}

/// An envelope of a history.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct HistoryItem {
    /// Where it stands.
    pub position: Option<Position>,
    /// The envelope, or why it is none.
    pub envelope: Result<Envelope, DecodeError>,
    /// Its bytes.
    pub bytes: usize,
}

impl HistoryItem {
    /// Reads an envelope, by the same rules as a subscription does.
    pub fn decode(position: Option<Position>, envelope: Bytes) -> Self {
        let bytes = envelope.len();
        let envelope = Envelope::decode(envelope).and_then(|envelope| envelope.usable().map(|()| envelope));
        Self { position, bytes, envelope }
    }
}

/// Who listens.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Presence {
    /// How many.
    pub subscribers: u64,
    /// Each of them, where the server says; else empty.
    pub entries: Vec<PresenceEntry>,
    /// Whether the server says who they are, and not only how many.
    pub named: bool,
}

impl Presence {
    /// A list of those who listen.
    pub fn named(entries: Vec<PresenceEntry>) -> Self {
        Self { subscribers: entries.len() as u64, entries, named: true }
    }

    /// A count without entries.
    pub fn count(subscribers: u64) -> Self {
        Self { subscribers, entries: Vec::new(), named: false }
    }
}
