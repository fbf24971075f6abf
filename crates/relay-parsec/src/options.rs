//! Options of publishes, subscriptions and histories.

use relay_proto::parsec::{Causation, Payload, Position};

/// An envelope to publish.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Outgoing {
    /// Its aspect.
    pub aspect: String,
    /// Its payload, if it has one.
    pub payload: Option<Payload>,
    /// A reference to the payload's schema; empty for none.
    pub schema_ref: String,
    /// The envelope that caused it.
    pub causation: Causation,
}

impl Outgoing {
    /// An envelope of an aspect, without anything else.
    pub fn new(aspect: impl Into<String>) -> Self {
        Self {
            aspect: aspect.into(),
            payload: None,
            schema_ref: String::new(),
            causation: Causation::default(),
        }
    }

    /// Sets the payload.
    #[must_use]
    pub fn payload(mut self, payload: impl Into<Option<Payload>>) -> Self {
        self.payload = payload.into();
        self
    }

    /// Sets the reference to a schema.
    #[must_use]
    pub fn schema_ref(mut self, schema_ref: impl Into<String>) -> Self {
        self.schema_ref = schema_ref.into();
        self
    }

    /// Sets the envelope that caused it.
    #[must_use]
    pub fn causation(mut self, causation: Causation) -> Self {
        self.causation = causation;
        self
    }
}

/// Options of a subscription. By default it receives every aspect, from now on.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct SubscribeOptions {
    /// The aspects to receive; empty for all.
    pub aspects: Vec<String>,
    /// Begin with the oldest retained envelope, and receive those with a greater sequence than this, of any producer.
    pub from_sequence: Option<i64>,
    /// Begin with the oldest retained envelope.
    pub from_start: bool,
    /// Begin after this position: takes precedence over the two above.
    pub after: Option<Position>,
}

impl SubscribeOptions {
    /// Adds an aspect.
    #[must_use]
    pub fn aspect(mut self, aspect: impl Into<String>) -> Self {
        self.aspects.push(aspect.into());
        self
    }

    /// Sets the sequence to begin after.
    #[must_use]
    pub fn from_sequence(mut self, sequence: i64) -> Self {
        self.from_sequence = Some(sequence);
        self
    }

    /// Sets whether to begin with the oldest.
    #[must_use]
    pub fn from_start(mut self, from_start: bool) -> Self {
        self.from_start = from_start;
        self
    }

    /// Sets the position to begin after.
    #[must_use]
    pub fn after(mut self, position: impl Into<Option<Position>>) -> Self {
        self.after = position.into();
        self
    }
}

/// The requested part of a history. By default the newest hundred.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct HistoryOptions {
    /// The maximum number of envelopes: the newest that match. 1 to 1,000.
    pub limit: Option<u32>,
    /// Only sequences above this.
    pub since: Option<i64>,
    /// Only sequences up to this.
    pub until: Option<i64>,
    /// Only envelopes of this producer.
    pub producer: Option<String>,
}

impl HistoryOptions {
    /// Sets the maximum number of envelopes.
    #[must_use]
    pub fn limit(mut self, limit: u32) -> Self {
        self.limit = Some(limit);
        self
    }

    /// Sets the sequence to begin after; 0 for none.
    #[must_use]
    pub fn since(mut self, sequence: i64) -> Self {
        self.since = Some(sequence);
        self
    }

    /// Sets the last sequence; 0 for none.
    #[must_use]
    pub fn until(mut self, sequence: i64) -> Self {
        self.until = Some(sequence);
        self
    }

    /// Sets the producer.
    #[must_use]
    pub fn producer(mut self, producer: impl Into<String>) -> Self {
        self.producer = Some(producer.into());
        self
    }

    /// Whether the options include a sequence of a producer.
    pub(crate) fn takes(&self, producer: &str, sequence: i64) -> bool {
        let bound = |bound: Option<i64>| bound.filter(|bound| *bound != 0);
        bound(self.since).is_none_or(|since| sequence > since)
            && bound(self.until).is_none_or(|until| sequence <= until)
            && self.producer.as_ref().is_none_or(|wanted| wanted == producer)
    }
}
