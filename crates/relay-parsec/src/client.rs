//! The client: publishing and subscribing.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use relay_proto::parsec::{Producer, Validator};
use relay_state::sequences::{Follow, FollowOptions, SequenceTracker};
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::items::{Items, Shared};
use crate::publisher::{Publisher, check_channel};
use crate::subscription::Subscriber;
use crate::{
    Error, HistoryItem, HistoryOptions, Outgoing, Presence, Sent, SequenceSnapshotter, Start,
    SubscribeOptions, Transport,
};

/// A client of one transport, under one producer id. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Publisher>,
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

impl Client {
    /// Builds a client over a transport.
    pub fn builder(transport: impl Transport) -> ClientBuilder {
        Self::builder_boxed(Box::new(transport))
    }

    /// Builds a client over a transport that was chosen at run time.
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
    /// The transport's errors; [`Error::Closed`].
    pub async fn connect(&self) -> Result<(), Error> {
        self.inner.connect().await
    }

    /// Ends all subscriptions, waits for their handlers to end, and closes the transport. This is final: later calls
    /// fail with [`Error::Closed`]. Within a handler, spawn it instead of awaiting it.
    pub async fn close(&self) {
        self.inner.closed.store(true, Ordering::Release);
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
    /// [`Error::Rejected`], [`Error::Envelope`] and a refusal at the first attempt use no sequence; every other error
    /// does.
    pub async fn publish(&self, channel: &str, outgoing: Outgoing) -> Result<Sent, Error> {
        self.inner.publish(channel, outgoing).await
    }

    /// Opens a subscription. Nothing is received before it has handlers or is used as a stream.
    ///
    /// # Errors
    /// [`Error::Closed`], and errors that the transport reports at once; later errors come in the stream.
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
        let closed = self.inner.closed.clone();
        let shared = Arc::new(Shared::new(channel, self.inner.cancel.child_token(), closed));
        let items = Items::new(feed, Follow::new(channel, follow), shared.clone());
        Ok(Subscriber::new(self.inner.clone(), items, shared))
    }

    /// A part of a channel's history, oldest first.
    ///
    /// # Errors
    /// The transport's errors.
    pub async fn history(&self, channel: &str, options: &HistoryOptions) -> Result<Vec<HistoryItem>, Error> {
        self.inner.history(channel, options).await
    }

    /// The subscribers of a channel.
    ///
    /// # Errors
    /// The transport's errors.
    pub async fn presence(&self, channel: &str) -> Result<Presence, Error> {
        self.inner.presence(channel).await
    }
}

impl ClientBuilder {
    /// Sets the producer of envelopes. Needed for publishing only.
    #[must_use]
    pub fn producer(mut self, producer: Producer) -> Self {
        self.producer = Some(producer);
        self
    }

    /// Sets the sequence counts, which several clients may share. Default: its own, from 1.
    #[must_use]
    pub fn sequence_tracker(mut self, tracker: SequenceTracker) -> Self {
        self.tracker = tracker;
        self
    }

    /// Sets where the sequence counts are stored. Default: nowhere.
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

    /// Sets how long publishing an envelope is attempted. Default 30 s.
    #[must_use]
    pub fn publish_timeout(mut self, timeout: Duration) -> Self {
        self.publish_timeout = timeout;
        self
    }

    /// Sets the ceilings of the first delay and of every delay between attempts to publish. Default 0.8 s and 30 s.
    #[must_use]
    pub fn backoff(mut self, base: Duration, cap: Duration) -> Self {
        (self.base, self.cap) = (base, cap);
        self
    }

    /// Builds the client. Reads the stored sequence counts.
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
        let inner = Publisher {
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
            closed: Arc::default(),
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
