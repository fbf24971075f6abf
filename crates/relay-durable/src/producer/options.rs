//! Options of a producer.

use std::error::Error as StdError;
use std::fmt;

use relay_proto::durable::{Event, MAX_NUMBER, ProducerConfig, ProducerState};

use crate::Error;
use crate::client::check_retries;

/// A notice of a producer: see [`ProducerOptions::on_notice`].
pub type Notice = Event;

pub(super) type OnNotice = Box<dyn FnMut(&Notice) + Send>;

/// Stores the state from which a producer can continue in another process.
pub trait StateStore: Send {
    /// Stores the state: before anything that it does not cover is sent, and at the end.
    ///
    /// # Errors
    /// When it cannot be stored. The producer then ends without sending.
    fn save(&mut self, state: &ProducerState) -> Result<(), Box<dyn StdError + Send + Sync>>;
}

/// Options of a producer.
#[non_exhaustive]
pub struct ProducerOptions {
    pub(super) id: String,
    pub(super) config: ProducerConfig,
    pub(super) content_type: Option<String>,
    pub(super) resume: Option<ProducerState>,
    pub(super) store: Option<Box<dyn StateStore>>,
    pub(super) on_notice: Option<OnNotice>,
    pub(super) messages_before: u64,
}

impl ProducerOptions {
    /// A producer of that name. No other producer may use the name with the same epoch.
    pub fn new(id: impl Into<String>) -> Self {
        Self {
            id: id.into(),
            config: ProducerConfig::default(),
            content_type: None,
            resume: None,
            store: None,
            on_notice: None,
            messages_before: 0,
        }
    }

    /// Epoch, claiming, batches, limits, retries. Its setting for JSON is replaced by the stream's type.
    #[must_use]
    pub fn config(mut self, config: ProducerConfig) -> Self {
        self.config = config;
        self
    }

    /// The stream's type. Default: asked of the server.
    #[must_use]
    pub fn content_type(mut self, kind: impl Into<String>) -> Self {
        self.content_type = Some(kind.into());
        self
    }

    /// Continues an earlier producer of this name. Its batches in flight are to be handed in first, with
    /// [`IdempotentProducer::append_batch`](crate::IdempotentProducer::append_batch).
    #[must_use]
    pub fn resume(mut self, state: ProducerState) -> Self {
        self.resume = Some(state);
        self
    }

    /// Keeps the state there.
    #[must_use]
    pub fn store(mut self, store: Box<dyn StateStore>) -> Self {
        self.store = Some(store);
        self
    }

    /// A function that is called for every acknowledged batch and every retry. It must not block for long.
    #[must_use]
    pub fn on_notice(mut self, told: impl FnMut(&Notice) + Send + 'static) -> Self {
        self.on_notice = Some(Box::new(told));
        self
    }

    /// Number of messages before those of this producer, for the message number in errors.
    #[must_use]
    pub fn messages_before(mut self, count: u64) -> Self {
        self.messages_before = count;
        self
    }
}

impl ProducerOptions {
    /// Checks the name and the settings, without I/O. So does
    /// [`IdempotentProducer::start`](crate::IdempotentProducer::start).
    ///
    /// # Errors
    /// [`ErrorKind::Usage`](crate::ErrorKind::Usage) naming the field that is wrong, and the rule.
    pub fn check(&self) -> Result<(), Error> {
        check(&self.id, &self.config)
    }
}

impl fmt::Debug for ProducerOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProducerOptions")
            .field("id", &self.id)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

/// Checks options.
pub(super) fn check(id: &str, config: &ProducerConfig) -> Result<(), Error> {
    let fine = |c: char| c.is_ascii_graphic() || c == ' ';
    if id.is_empty() || id.trim() != id || !id.chars().all(fine) {
        let rule = "one or more visible ASCII characters, with blanks only between them";
        return Err(Error::usage(format!("producer id {id:?}: {rule}")));
    }
    let fields = [
        ("epoch", config.epoch <= MAX_NUMBER, "at most 2^53-1"),
        ("max_batch_bytes", config.max_batch_bytes > 0, "above 0"),
        ("max_batch_items", config.max_batch_items > 0, "above 0"),
        ("in_flight", (1..=32).contains(&config.in_flight), "1 to 32"),
        ("max_buffer", config.max_buffer > 0, "above 0"),
    ];
    check_retries(config.retry_base, config.retry_cap, config.retry_for)?;
    match fields.iter().find(|(_, fine, _)| !fine) {
        Some((name, _, rule)) => Err(Error::usage(format!("{name}: {rule}"))),
        None => Ok(()),
    }
}
