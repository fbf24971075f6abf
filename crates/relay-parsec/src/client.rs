//! The client: publishing and subscribing.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use relay_proto::error::chain;
use relay_proto::parsec::{Envelope, Position, Producer, Validation, Validator};
use relay_proto::retry::Backoff;
use relay_state::sequences::{Follow, FollowOptions, SequenceTracker};
use tokio::sync::OnceCell;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::items::{Items, Shared};
use crate::subscription::Subscriber;
use crate::{
    Error, HistoryItem, HistoryOptions, Outgoing, Presence, PublishFailure, Receipt, SequenceSnapshotter,
    SnapshotError, Start, SubscribeOptions, Transport,
};

/// A client of one transport, under one producer id. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    transport: Arc<dyn Transport>,
    producer: Producer,
    tracker: SequenceTracker,
    snapshotter: Option<Arc<dyn SequenceSnapshotter>>,
    validator: Validator,
    publish_timeout: Duration,
    base: Duration,
    cap: Duration,
    connected: OnceCell<()>,
    /// One at a time per channel.
    turns: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
    cancel: CancellationToken,
    tasks: TaskTracker,
}

/// Options of a [`Client`].
pub struct ClientBuilder {
    transport: Arc<dyn Transport>,
    producer: Option<Producer>,
    tracker: SequenceTracker,
    snapshotter: Option<Arc<dyn SequenceSnapshotter>>,
    validator: Validator,
    publish_timeout: Duration,
    base: Duration,
    cap: Duration,
}

/// A published envelope.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Sent {
    /// The envelope.
    pub envelope: Envelope,
    /// Its position, if the server sends it.
    pub position: Option<Position>,
    /// Whether the server had accepted it before, so that a response was lost.
    pub duplicate: bool,
}

impl Client {
    /// Begins a client over a transport.
    pub fn builder(transport: impl Transport) -> ClientBuilder {
        Self::builder_boxed(Box::new(transport))
    }

    /// Begins a client over a transport that was chosen at run time.
    pub fn builder_boxed(transport: Box<dyn Transport>) -> ClientBuilder {
        ClientBuilder {
            transport: transport.into(),
            producer: None,
            tracker: SequenceTracker::new(),
            snapshotter: None,
            validator: Validator::default(),
            publish_timeout: Duration::from_secs(30),
            base: Duration::from_millis(800),
            cap: Duration::from_secs(30),
        }
    }

    /// Connects the transport. Other methods do this too, if necessary.
    ///
    /// # Errors
    /// What the transport says; [`Error::Closed`].
    pub async fn connect(&self) -> Result<(), Error> {
        self.check_open()?;
        self.inner.connected.get_or_try_init(|| self.inner.transport.connect()).await?;
        Ok(())
    }

    /// Ends all subscriptions, waits for their handlers to end, and closes the transport. Final: later calls are
    /// [`Error::Closed`]. Within a handler, spawn it instead of waiting for it.
    pub async fn close(&self) {
        self.inner.cancel.cancel();
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
        self.inner.transport.close().await;
    }

    /// Tasks that run for subscriptions with handlers.
    pub fn tasks(&self) -> usize {
        self.inner.tasks.len()
    }

    /// The producer it publishes as.
    pub fn producer(&self) -> &Producer {
        &self.inner.producer
    }

    /// Publishes an envelope: numbers it, checks it, stores the number, sends it, and retries with the same bytes
    /// while the outcome is unknown. Publishes of one channel are sequential.
    ///
    /// # Errors
    /// [`Error::Rejected`], [`Error::Envelope`] and a refusal at the first try spend no number; every other does.
    pub async fn publish(&self, channel: &str, outgoing: Outgoing) -> Result<Sent, Error> {
        self.connect().await?;
        if self.inner.producer.id().is_empty() {
            return Err(Error::Usage("a client that publishes needs a producer id".into()));
        }
        check_channel(channel)?;
        let turn = self.turn(channel);
        let cancel = &self.inner.cancel;
        let result = tokio::select! {
            biased;
            () = cancel.cancelled() => Err(Error::Closed),
            result = async {
                let _turn = turn.lock().await;
                self.publish_in_turn(channel, outgoing).await
            } => result,
        };
        drop(turn);
        self.forget_turn(channel);
        result
    }

    async fn publish_in_turn(&self, channel: &str, outgoing: Outgoing) -> Result<Sent, Error> {
        let inner = &self.inner;
        let Outgoing { aspect, payload, schema_ref, causation } = outgoing;
        match inner.validator.check(channel, &aspect, payload.as_ref()) {
            Validation::Rejected(rejection) => return Err(Error::Rejected(rejection)),
            Validation::Warned(why) => {
                tracing::warn!(channel, aspect, reason = why.reason(), "published although it does not fit");
            }
            _ => {}
        }
        let mut number = Reserved::next(&inner.tracker, channel);
        let envelope = Envelope::new(channel, aspect, inner.producer.clone())
            .with_sequence(number.sequence)
            .with_produced_at_millis(now_millis())
            .with_schema_ref(schema_ref)
            .with_causation(causation)
            .with_payload(payload);
        let bytes = Bytes::from(envelope.encode()?);
        self.save().await?;
        // From now on the number may have been seen, whatever happens to this call.
        number.spent = true;
        match self.hand_over(channel, &bytes, number.sequence).await {
            Ok(receipt) => Ok(Sent { envelope, position: receipt.position, duplicate: receipt.duplicate }),
            Err((error, false)) => Err(error),
            Err((error, true)) => {
                number.spent = false;
                drop(number);
                self.save().await?;
                Err(error)
            }
        }
    }

    /// Retries until the outcome is known. An error tells whether the first attempt was definitely refused.
    async fn hand_over(&self, channel: &str, bytes: &Bytes, sequence: i64) -> Result<Receipt, (Error, bool)> {
        let inner = &self.inner;
        let until = Instant::now() + inner.publish_timeout;
        let mut backoff = Backoff::new(inner.base, inner.cap, random_seed());
        let unknown = |source| {
            let source = Box::new(source);
            (Error::OutcomeUnknown { channel: channel.to_owned(), sequence, source }, false)
        };
        let mut last = None;
        let mut first = true;
        loop {
            let attempt = inner.transport.publish(channel, bytes.clone());
            let failure = match tokio::time::timeout_at(until, attempt).await {
                Ok(Ok(receipt)) => return Ok(receipt),
                Ok(Err(failure)) => failure,
                Err(_) => {
                    let patience = inner.publish_timeout;
                    let slow = || Error::Answer {
                        what: format!("publish to {channel}"),
                        reason: format!("no answer within {patience:?}"),
                    };
                    return Err(unknown(last.unwrap_or_else(slow)));
                }
            };
            let (error, retry_after) = match failure {
                PublishFailure::Refused(error) => {
                    return Err((self.conflict(channel, sequence, error), first));
                }
                PublishFailure::Unavailable { error, retry_after } => (error, retry_after),
            };
            let delay = retry_after.map_or(Duration::ZERO, |least| backoff.spread(least));
            let delay = backoff.next_delay().max(delay);
            if Instant::now() + delay >= until {
                return Err(unknown(error));
            }
            tracing::warn!(channel, sequence, error = %chain(&error), delay_ms = delay.as_millis() as u64, "not published; trying again");
            tokio::time::sleep(delay).await;
            last = Some(error);
            first = false;
        }
    }

    fn conflict(&self, channel: &str, sequence: i64, error: Error) -> Error {
        match error {
            Error::Refused { problem, .. } if problem.code.as_deref() == Some("sequence-conflict") => {
                Error::SequenceConflict {
                    channel: channel.to_owned(),
                    producer: self.inner.producer.id().to_owned(),
                    sequence,
                    last: problem.members.get("last_sequence").and_then(serde_json::Value::as_i64),
                }
            }
            other => other,
        }
    }

    async fn save(&self) -> Result<(), Error> {
        let Some(snapshotter) = self.inner.snapshotter.clone() else { return Ok(()) };
        // Taken within the task, so that the newest numbers are the last to be written.
        let tracker = self.inner.tracker.clone();
        let saving = tokio::task::spawn_blocking(move || {
            static ORDER: Mutex<()> = Mutex::new(());
            let _order = ORDER.lock().unwrap_or_else(PoisonError::into_inner);
            snapshotter.save(&tracker.snapshot())
        });
        match saving.await {
            Ok(saved) => Ok(saved?),
            Err(error) => Err(SnapshotError::new(format!("the snapshotter failed: {error}"), None).into()),
        }
    }

    /// Opens a subscription. Nothing is received before it has handlers or is used as a stream.
    ///
    /// # Errors
    /// [`Error::Closed`], and what the transport says at once; what it meets later comes in the stream.
    pub async fn subscribe(&self, channel: &str, options: SubscribeOptions) -> Result<Subscriber, Error> {
        self.connect().await?;
        check_channel(channel)?;
        let start = match &options.after {
            Some(position) => Start::After(position.clone()),
            None if options.from_start || options.from_sequence.is_some() => Start::Oldest,
            None => Start::Latest,
        };
        let mut follow = FollowOptions::default();
        follow.aspects = options.aspects.into_iter().collect();
        follow.from_sequence = options.from_sequence.filter(|_| options.after.is_none()).unwrap_or(0);
        follow.after = options.after;
        follow.validator = self.inner.validator.clone();
        let feed = self.inner.transport.subscribe(channel, start).await?;
        let shared = Arc::new(Shared {
            channel: channel.to_owned(),
            state: tokio::sync::watch::Sender::default(),
            cancel: self.inner.cancel.child_token(),
            last: Mutex::new(None),
        });
        let items = Items::new(feed, Follow::new(channel, follow), shared.clone());
        Ok(Subscriber::new(self.clone(), items, shared))
    }

    /// A part of a channel's history, oldest first.
    ///
    /// # Errors
    /// What the transport says.
    pub async fn history(&self, channel: &str, options: &HistoryOptions) -> Result<Vec<HistoryItem>, Error> {
        self.connect().await?;
        self.inner.transport.history(channel, options).await
    }

    /// The subscribers of a channel.
    ///
    /// # Errors
    /// What the transport says.
    pub async fn presence(&self, channel: &str) -> Result<Presence, Error> {
        self.connect().await?;
        self.inner.transport.presence(channel).await
    }

    pub(crate) fn task_tracker(&self) -> &TaskTracker {
        &self.inner.tasks
    }

    fn check_open(&self) -> Result<(), Error> {
        if self.inner.cancel.is_cancelled() { Err(Error::Closed) } else { Ok(()) }
    }

    fn turn(&self, channel: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = self.inner.turns.lock().unwrap_or_else(PoisonError::into_inner);
        turns.entry(channel.to_owned()).or_default().clone()
    }

    /// Nobody waits for it; it is made again when needed.
    fn forget_turn(&self, channel: &str) {
        let mut turns = self.inner.turns.lock().unwrap_or_else(PoisonError::into_inner);
        if turns.get(channel).is_some_and(|turn| Arc::strong_count(turn) == 1) {
            turns.remove(channel);
        }
    }
}

/// Further rules for names are those of the server.
fn check_channel(name: &str) -> Result<(), Error> {
    if name.is_empty() || name.bytes().any(|byte| byte.is_ascii_control()) {
        return Err(Error::Usage("a channel's name is not empty and has no control characters".into()));
    }
    Ok(())
}

/// A number that is given back unless it was spent.
struct Reserved<'a> {
    tracker: &'a SequenceTracker,
    channel: &'a str,
    sequence: i64,
    spent: bool,
}

impl<'a> Reserved<'a> {
    fn next(tracker: &'a SequenceTracker, channel: &'a str) -> Self {
        Self { tracker, channel, sequence: tracker.next(channel), spent: false }
    }
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        if !self.spent {
            self.tracker.give_back(self.channel, self.sequence);
        }
    }
}

impl ClientBuilder {
    /// Sets who publishes. Needed for publishing only.
    #[must_use]
    pub fn producer(mut self, producer: Producer) -> Self {
        self.producer = Some(producer);
        self
    }

    /// Sets the counts to share with others. Default: its own, from 1.
    #[must_use]
    pub fn sequence_tracker(mut self, tracker: SequenceTracker) -> Self {
        self.tracker = tracker;
        self
    }

    /// Sets where the counts are kept. Default: nowhere.
    #[must_use]
    pub fn snapshotter(mut self, snapshotter: impl SequenceSnapshotter) -> Self {
        self.snapshotter = Some(Arc::new(snapshotter));
        self
    }

    /// Sets the validator of payloads, sent and received. Default: none.
    #[must_use]
    pub fn validator(mut self, validator: Validator) -> Self {
        self.validator = validator;
        self
    }

    /// Sets how long a publish is tried. Default 30 s.
    #[must_use]
    pub fn publish_timeout(mut self, timeout: Duration) -> Self {
        self.publish_timeout = timeout;
        self
    }

    /// Sets the ceilings of the first and of every delay between tries to publish. Default 0.8 s and 30 s.
    #[must_use]
    pub fn backoff(mut self, base: Duration, cap: Duration) -> Self {
        (self.base, self.cap) = (base, cap);
        self
    }

    /// The client. Reads what the snapshotter has kept.
    ///
    /// # Errors
    /// [`Error::Usage`] for a producer without an id or of an unknown kind; [`Error::Snapshot`].
    pub fn build(self) -> Result<Client, Error> {
        if let Some(producer) = &self.producer {
            if producer.id().is_empty() {
                return Err(Error::Usage("a producer's id is not empty".into()));
            }
            if !producer.kind().is_known() {
                return Err(Error::Usage(format!(
                    "producer kind {:?} is not one of user, agent, service",
                    producer.kind().as_str()
                )));
            }
        }
        if let Some(snapshotter) = &self.snapshotter {
            self.tracker.restore(snapshotter.load()?);
        }
        let inner = Inner {
            transport: self.transport,
            producer: self.producer.unwrap_or_default(),
            tracker: self.tracker,
            snapshotter: self.snapshotter,
            validator: self.validator,
            publish_timeout: self.publish_timeout,
            base: self.base,
            cap: self.cap,
            connected: OnceCell::new(),
            turns: Mutex::new(HashMap::new()),
            cancel: CancellationToken::new(),
            tasks: TaskTracker::new(),
        };
        Ok(Client { inner: Arc::new(inner) })
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("transport", &self.inner.transport.name())
            .field("producer", &self.inner.producer)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for ClientBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientBuilder")
            .field("transport", &self.transport.name())
            .field("producer", &self.producer)
            .finish_non_exhaustive()
    }
}

fn now_millis() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

pub(crate) fn random_seed() -> u64 {
    // A seed that is not random only makes delays equal.
    getrandom::u64().unwrap_or(0x5eed)
}
