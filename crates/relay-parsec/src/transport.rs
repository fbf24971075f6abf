//! The trait of transports.

use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use futures_util::future::{BoxFuture, FutureExt};
use relay_proto::parsec::{DecodeError, Envelope, Position, PresenceEntry};
use relay_state::sequences::{Follow, Frame, Restart};

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

    /// Sends an envelope once. The client does the retries.
    fn publish<'a>(
        &'a self,
        channel: &'a str,
        envelope: Bytes,
    ) -> BoxFuture<'a, Result<Receipt, PublishFailure>>;

    /// Opens a channel's feed, which reconnects by itself.
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

    /// The subscribers of a channel.
    fn presence<'a>(&'a self, channel: &'a str) -> BoxFuture<'a, Result<Presence, Error>> {
        let _ = channel;
        std::future::ready(Err(self.not_implemented("presence"))).boxed()
    }

    /// The error for a call that the transport does not support.
    fn not_implemented(&self, call: &'static str) -> Error {
        Error::NotImplemented { transport: self.name(), call }
    }
}

/// The start of a feed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Start {
    /// Begin with what is published from now on.
    Latest,
    /// Begin with the oldest retained envelope.
    Oldest,
    /// Begin after a position.
    After(Position),
}

/// The frames of a channel, across reconnects.
///
/// It ends with [`Event::Ended`], or just ends when it was closed. After [`Event::Waiting`],
/// [`resume`](Self::resume) sets where it continues.
pub trait Feed: Stream<Item = Event> + Send + Unpin {
    /// The next connection continues after this position; `None` starts again. Called after each
    /// [`Event::Waiting`].
    fn resume(&mut self, after: Option<&Position>);

    /// Closes the connection because something is missing; an [`Event::Waiting`] follows.
    fn restart(&mut self, reason: &str);

    /// Reports progress of the connection: the next delay is a first delay again.
    fn progress(&mut self) {}

    /// Hands the next envelope to the fold, if it is the next event and has come already; with what the fold says to
    /// it. After `None`, poll. For feeds of many envelopes: one that does nothing here works as well.
    fn next_into(&mut self, follow: &mut Follow) -> Option<Result<bool, Restart>> {
        let _ = follow;
        None
    }
}

/// An event of a feed.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// A connection has begun; its first frame is [`Frame::Connected`].
    Opened,
    /// A frame.
    Frame(Frame),
    /// There is no connection; the feed will reconnect.
    Waiting {
        /// Why the last connection, or the last attempt to connect, ended.
        reason: String,
        /// The delay before the next attempt.
        delay: Duration,
    },
    /// The feed has ended.
    Ended(Error),
}

/// The receipt of an accepted envelope.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Receipt {
    /// The envelope's position, if the server sends it.
    pub position: Option<Position>,
    /// The server had accepted it before: an earlier response was lost.
    pub duplicate: bool,
}

impl Receipt {
    /// A receipt with a position.
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
    /// It may have been accepted already, or a retry may succeed.
    Unavailable {
        /// The error.
        error: Error,
        /// The earliest time of the next attempt.
        retry_after: Option<Duration>,
    },
}

/// An envelope of a history.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct HistoryItem {
    /// The envelope's position.
    pub position: Option<Position>,
    /// The envelope, or why it cannot be decoded.
    pub envelope: Result<Envelope, DecodeError>,
    /// Its bytes.
    pub bytes: usize,
}

impl HistoryItem {
    /// Decodes an envelope, by the same rules as a subscription does.
    pub fn decode(position: Option<Position>, envelope: Bytes) -> Self {
        let bytes = envelope.len();
        let envelope = Envelope::decode(envelope).and_then(|envelope| envelope.usable().map(|()| envelope));
        Self { position, bytes, envelope }
    }
}

/// The subscribers of a channel.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Presence {
    /// The number of subscribers.
    pub subscribers: u64,
    /// The subscribers, if the server lists them; otherwise empty.
    pub entries: Vec<PresenceEntry>,
    /// Whether the server lists the subscribers, and not only counts them.
    pub named: bool,
}

impl Presence {
    /// A list of subscribers.
    pub fn named(entries: Vec<PresenceEntry>) -> Self {
        Self { subscribers: entries.len() as u64, entries, named: true }
    }

    /// A count without a list.
    pub fn count(subscribers: u64) -> Self {
        Self { subscribers, entries: Vec::new(), named: false }
    }
}
