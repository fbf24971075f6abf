//! Snapshot streams: the driver of the replay fold.

use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_util::Stream;
use futures_util::stream::{BoxStream, unfold};
use relay_proto::error::chain;
use relay_proto::pods::{EventHash, Message};
use relay_proto::retry::Backoff;
use relay_state::pods::{Conflation, Replay, ReplayMode, ReplayOptions, SeedVerdict, Snapshot, Step};

use crate::calls::Client;
use crate::error::Error;
use crate::messages::{Incoming, RawMessage, ResumingMessages};
use crate::request::StreamOptions;
use crate::status::{Freshness, StreamHandle};

/// Upper bound of a relay's Retry-After for a list, before up to a quarter is added.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(3600);

/// Snapshots of the pods: a `Stream` that reconnects, resumes and reseeds by itself.
///
/// It runs while it is polled, holds no more than the pods and one bounded read-ahead buffer, and closes its
/// connection when dropped. Errors are final; retryable failures are retried.
pub struct SnapshotStream {
    stream: BoxStream<'static, Result<Snapshot, Error>>,
    handle: StreamHandle,
}

impl Client {
    /// Snapshots of the pods: the first at once, then one after each change and each gap.
    pub fn stream_pod_state(&self, options: StreamOptions) -> SnapshotStream {
        SnapshotStream::new(self, options, ReplayMode::State)
    }

    /// Snapshots in six phases, each with the position that may be persisted after it was processed.
    pub fn stream_pod_state_with_replay(&self, options: StreamOptions) -> SnapshotStream {
        SnapshotStream::new(self, options, ReplayMode::Phases)
    }
}

impl SnapshotStream {
    pub(crate) fn new(client: &Client, options: StreamOptions, mode: ReplayMode) -> Self {
        let driver = Driver::new(client, options, mode);
        let handle = driver.handle.clone();
        let stream = unfold(Some(driver), |driver| async move {
            let mut driver = driver?;
            match driver.next().await {
                Ok(snapshot) => Some((Ok(snapshot), Some(driver))),
                Err(error) => {
                    driver.handle.stale(&chain(&error).to_string());
                    Some((Err(error), None))
                }
            }
        });
        Self { stream: Box::pin(stream), handle }
    }

    /// A handle to observe the stream, for example from another task.
    pub fn handle(&self) -> StreamHandle {
        self.handle.clone()
    }
}

impl Stream for SnapshotStream {
    type Item = Result<Snapshot, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.stream.as_mut().poll_next(cx)
    }
}

impl fmt::Debug for SnapshotStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SnapshotStream").field("handle", &self.handle).finish_non_exhaustive()
    }
}

struct Driver {
    client: Client,
    options: StreamOptions,
    fold: Replay,
    messages: ResumingMessages,
    ahead: ReadAhead,
    backoff: Backoff,
    handle: StreamHandle,
}

/// Messages read while a list was fetched. After the end of the connection no more are read.
#[derive(Default)]
struct ReadAhead {
    items: VecDeque<Result<Incoming, Error>>,
    bytes: usize,
    most: usize,
}

impl Driver {
    fn new(client: &Client, options: StreamOptions, mode: ReplayMode) -> Self {
        let fold = ReplayOptions::default()
            .mode(mode)
            .since(options.since.clone())
            .narrowed(!options.filter.is_empty() || client.has_token())
            .apply_backfill(options.apply_backfill_to_current_state_cache)
            .yield_bookmarks(options.yield_bookmarks);
        let messages = ResumingMessages::new(client, &options);
        Self {
            backoff: messages.backoff(),
            messages,
            client: client.clone(),
            options,
            fold: Replay::new(fold),
            ahead: ReadAhead::default(),
            handle: StreamHandle::default(),
        }
    }

    async fn next(&mut self) -> Result<Snapshot, Error> {
        loop {
            let mut step = self.fold.poll();
            if self.options.conflate
                && let Step::Snapshot(first) = step
            {
                step = Step::Snapshot(Box::new(self.conflate(*first).await));
            }
            self.publish(&step);
            match step {
                Step::Snapshot(snapshot) => return Ok(*snapshot),
                Step::Reconnect(cause) => self.drop_connection(&cause),
                Step::Seed { at_least } => self.seed(at_least.as_ref()).await?,
                Step::Message => self.message().await?,
                _ => {}
            }
        }
    }

    fn drop_connection(&mut self, cause: &str) {
        self.messages.restart(cause);
        self.ahead = ReadAhead { most: self.ahead.most, ..ReadAhead::default() };
        self.handle.stale(cause);
    }

    /// Gives the fold the next message, or the end of the connection.
    async fn message(&mut self) -> Result<(), Error> {
        let incoming = match self.ahead.pop() {
            Some(incoming) => incoming?,
            None => {
                self.messages.resume_from(self.fold.resume());
                poll_fn(|cx| self.poll_connection(cx)).await?
            }
        };
        match incoming {
            Incoming::Opened => {
                self.handle.answered();
                self.handle.with(|status| status.statistics.connections += 1);
            }
            // In order: the messages before it have been handed over.
            Incoming::Ended { cause, delay, .. } => {
                self.handle.failed(&cause, delay);
                self.handle.stale(&cause);
                self.fold.handle_dropped(&cause);
            }
            Incoming::Message(message) => self.fold_message(message.into_message()),
        }
        Ok(())
    }

    /// Adds available events to a snapshot: decoded ones, and those that can be read without waiting. Other
    /// messages and the end of the connection are left for the next poll.
    ///
    /// The runtime, and on HTTP/2 a task of the HTTP client, have to run to find more bytes. So this yields to them
    /// as long as that gives more events.
    async fn conflate(&mut self, snapshot: Snapshot) -> Snapshot {
        let mut conflation = Conflation::new(snapshot);
        let (mut bytes, mut brought) = (0, false);
        while conflation.is_open()
            && self.fold.wants_message()
            && conflation.events() < self.options.conflate_most
            && bytes < self.options.read_ahead_bytes
        {
            let incoming = match self.ahead.pop() {
                Some(incoming) => incoming,
                None if !self.messages.is_open() => break,
                None => match self.ready_now() {
                    Poll::Ready(incoming) => incoming,
                    Poll::Pending if std::mem::take(&mut brought) => {
                        tokio::task::yield_now().await;
                        continue;
                    }
                    Poll::Pending => break,
                },
            };
            match incoming {
                Ok(Incoming::Message(message)) if matches!(message.message(), Message::Pod(_)) => {
                    (bytes, brought) = (bytes + message.size(), true);
                    self.fold_message(message.into_message());
                    self.fold.conflate(&mut conflation);
                }
                other => {
                    self.ahead.put_back(other);
                    break;
                }
            }
        }
        conflation.finish()
    }

    /// Reads without waiting, and without registering a waker: the poll for the next snapshot does that.
    fn ready_now(&mut self) -> Poll<Result<Incoming, Error>> {
        self.poll_connection(&mut Context::from_waker(Waker::noop()))
    }

    /// Polls the connection, and records that bytes were read.
    fn poll_connection(&mut self, cx: &mut Context<'_>) -> Poll<Result<Incoming, Error>> {
        let before = self.messages.bytes_read();
        let incoming = self.messages.poll_next(cx);
        if self.messages.bytes_read() != before || matches!(incoming, Poll::Ready(Ok(Incoming::Opened))) {
            self.handle.record_read(self.messages.idle());
        }
        incoming
    }

    fn fold_message(&mut self, message: Message) {
        if let Message::Undecodable(message) = &message {
            tracing::warn!(url = self.messages.url(), "{message}");
        }
        self.handle.record_message(&message);
        if self.fold.handle_message(message).is_err() {
            // The fold has just asked for a message, so it cannot refuse one.
            tracing::error!("a message came out of turn");
        }
        if self.fold.continuity().has_progress() {
            self.messages.progress();
        }
    }

    /// Reads lists until one is accepted, and also reads the open connection.
    async fn seed(&mut self, at_least: Option<&EventHash>) -> Result<(), Error> {
        loop {
            let (client, filter) = (self.client.clone(), self.options.filter.clone());
            let list = Box::pin(client.list(&filter, at_least, self.fold.cache().pods(), |_, _| {}));
            let (cause, delay) = match self.reading_ahead(list).await {
                Ok(list) => {
                    self.handle.record_list(&list);
                    match self.fold.handle_seed(list) {
                        Ok(SeedVerdict::TooOld) => ("the list is older than the stream".to_owned(), None),
                        _ => {
                            self.backoff.reset();
                            if self.messages.is_open() {
                                self.handle.answered();
                            }
                            return Ok(());
                        }
                    }
                }
                // Not only what is usually worth another attempt: a proxy in front of a relay may send any of these.
                Err(error) if error.is_retryable() || matches!(error.status(), Some(500..=599)) => {
                    (chain(&error).to_string(), error.retry_after())
                }
                Err(error) => return Err(error),
            };
            self.handle.stale(&cause);
            // The relay's delay is the minimum, within bounds; jitter is added because other clients may have got
            // the same.
            let delay = match delay {
                Some(delay) => self.backoff.spread(delay.min(LONGEST_RETRY_AFTER)),
                None => self.backoff.next_delay(),
            };
            self.handle.failed(&cause, delay);
            let (seconds, cause) = (delay.as_secs_f64(), cause.as_str());
            tracing::warn!(target: crate::RETRY_TARGET, delay = seconds, cause, "asking for the list again");
            self.reading_ahead(tokio::time::sleep(delay)).await;
        }
    }

    async fn reading_ahead<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        loop {
            let may_read = self.messages.is_open() && self.ahead.bytes < self.options.read_ahead_bytes;
            tokio::select! {
                biased;
                done = &mut work => return done,
                incoming = poll_fn(|cx| self.poll_connection(cx)), if may_read => self.ahead.push(incoming),
            }
            self.handle.with(|status| {
                status.statistics.buffered = self.ahead.bytes as u64;
                status.statistics.buffered_max = self.ahead.most as u64;
            });
        }
    }

    /// Publishes the state of the fold to handles.
    fn publish(&self, step: &Step) {
        let (continuity, cache) = (self.fold.continuity().counts(), self.fold.cache().counts());
        self.handle.with(|status| {
            status.advance(step, self.fold.acknowledged(), self.fold.continuity());
            let counts = &mut status.statistics;
            counts.bytes = self.messages.bytes_read();
            counts.buffered = self.ahead.bytes as u64;
            (counts.duplicates, counts.holes, counts.gaps) =
                (continuity.duplicates, continuity.holes, continuity.gaps);
            (counts.undecodable, counts.unknown) = (continuity.undecodable, continuity.unknown);
            (counts.superseded, counts.stale_versions, counts.late) =
                (cache.superseded, cache.stale_versions, cache.late);
            (counts.replaced, counts.odd, counts.unknown_types) =
                (cache.replaced, cache.odd, cache.unknown_types);
        });
        let connected = self.fold.is_connected();
        let caught_up = connected && self.fold.continuity().is_caught_up();
        match step {
            Step::Snapshot(_) if connected && self.fold.source_is_stale() => {
                self.handle.stale("the relay's source is away");
            }
            // The plain state has no phase for the replay after a drop.
            Step::Snapshot(snapshot) if snapshot.is_live() && caught_up => self.handle.fresh(Freshness::Live),
            Step::Snapshot(_) if self.handle.freshness() == Freshness::Cold => {
                self.handle.fresh(Freshness::Replaying)
            }
            Step::Message if !connected => {}
            Step::Message if self.fold.source_is_stale() => self.handle.stale("the relay's source is away"),
            Step::Message if caught_up => self.handle.fresh(Freshness::Live),
            Step::Message => self.handle.fresh(Freshness::Replaying),
            Step::Seed { .. } if connected && self.handle.freshness() == Freshness::Live => {
                self.handle.stale("events were lost; the list is read again");
            }
            _ => {}
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        if !matches!(self.handle.freshness(), Freshness::Stale { .. }) {
            self.handle.stale("the stream was dropped");
        }
    }
}

impl ReadAhead {
    fn push(&mut self, incoming: Result<Incoming, Error>) {
        if let Ok(Incoming::Message(message)) = &incoming {
            self.bytes += message.size();
            self.most = self.most.max(self.bytes);
        }
        self.items.push_back(incoming);
    }

    fn put_back(&mut self, incoming: Result<Incoming, Error>) {
        self.push(incoming);
        self.items.rotate_right(1);
    }

    fn pop(&mut self) -> Option<Result<Incoming, Error>> {
        let incoming = self.items.pop_front();
        if let Some(Ok(Incoming::Message(message))) = &incoming {
            self.bytes -= RawMessage::size(message);
        }
        incoming
    }
}
