//! The envelope, its rules and its text.

use std::fmt;

use bytestring::ByteString;

use super::{Payload, instant};

/// The most bytes of an encoded envelope.
pub const MAX_ENVELOPE_BYTES: usize = 65_536;

/// One message of a channel, with its producer, sequence, aspect and payload.
///
/// A decoded one shares the memory of the text it was read from. `Debug` shows the payload's size, never its content.
#[derive(Clone)]
pub struct Envelope {
    /// The text that contains channel, aspect and producer id. The struct is small because envelopes are moved often.
    pub(super) text: ByteString,
    pub(super) channel: Part,
    pub(super) aspect: Part,
    pub(super) producer_id: Part,
    pub(super) producer_kind: ProducerKind,
    pub(super) sequence: i64,
    pub(super) produced_at: Option<i64>,
    pub(super) payload: Option<Payload>,
    /// `None` when both are empty.
    rare: Option<Box<Rare>>,
}

/// A range of a text.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Part {
    start: u32,
    end: u32,
}

impl Part {
    /// The range that begins at `start` and has this length. In a text of more than 4 GiB there is no such range.
    pub(super) fn new(start: usize, length: usize) -> Self {
        match (u32::try_from(start), u32::try_from(start + length)) {
            (Ok(start), Ok(end)) => Self { start, end },
            _ => Self::default(),
        }
    }

    pub(super) fn is_empty(self) -> bool {
        self.start == self.end
    }

    pub(super) fn of(self, text: &str) -> &str {
        text.get(self.start as usize..self.end as usize).unwrap_or_default()
    }
}

/// Rarely used members: in a separate allocation, because envelopes are moved often.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Rare {
    schema_ref: ByteString,
    causation: Causation,
}

/// The causation of envelopes without a parent.
static ROOT: Causation = Causation { parent_channel: ByteString::from_static(""), parent_sequence: 0 };

/// The producer's kind and id.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Producer {
    pub(super) id: ByteString,
    pub(super) kind: ProducerKind,
}

/// The producer of an envelope.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProducerRef<'a> {
    id: &'a str,
    kind: &'a ProducerKind,
}

/// The kind of a producer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum ProducerKind {
    /// A person.
    User,
    /// An autonomous program.
    Agent,
    /// Any other program.
    #[default]
    Service,
    /// An unknown kind, or none: it can be read, but not published.
    Other(Box<str>),
}

/// The envelope that caused this one. Empty for one without a cause ("root").
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Causation {
    /// The channel of the parent; empty when unknown.
    pub parent_channel: ByteString,
    /// The sequence of the parent; 0 when unknown.
    pub parent_sequence: i64,
}

/// Why an envelope cannot be published: the first broken rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EnvelopeError {
    /// The channel is missing.
    #[error("channel is required")]
    ChannelRequired,
    /// The aspect is missing.
    #[error("aspect is required")]
    AspectRequired,
    /// The producer's id is missing.
    #[error("producer.id is required")]
    ProducerRequired,
    /// A producer kind other than user, agent and service.
    #[error("producer.kind {0:?} is not one of user, agent, service")]
    ProducerKindUnknown(Box<str>),
    /// The sequence is 0 or less.
    #[error("sequence {0} is not above 0")]
    SequenceNonPositive(i64),
    /// The time is missing.
    #[error("produced_at is required")]
    ProducedAtZero,
    /// The envelope exceeds the size limit.
    #[error("the envelope of {size} bytes exceeds MaxEnvelopeSize, {limit} bytes")]
    TooLarge {
        /// Its size, in bytes.
        size: usize,
        /// [`MAX_ENVELOPE_BYTES`].
        limit: usize,
    },
}

impl EnvelopeError {
    /// The name of the member as on the wire; `None` when the whole envelope is wrong.
    pub fn field(&self) -> Option<&'static str> {
        match self {
            Self::ChannelRequired => Some("channel"),
            Self::AspectRequired => Some("aspect"),
            Self::ProducerRequired => Some("producer.id"),
            Self::ProducerKindUnknown(_) => Some("producer.kind"),
            Self::SequenceNonPositive(_) => Some("sequence"),
            Self::ProducedAtZero => Some("produced_at"),
            Self::TooLarge { .. } => None,
        }
    }
}

impl ProducerKind {
    /// The name on the wire.
    pub fn as_str(&self) -> &str {
        match self {
            Self::User => "user",
            Self::Agent => "agent",
            Self::Service => "service",
            Self::Other(name) => name,
        }
    }

    /// The kind with this name.
    pub fn from_name(name: &str) -> Self {
        match name {
            "user" => Self::User,
            "agent" => Self::Agent,
            "service" => Self::Service,
            other => Self::Other(other.into()),
        }
    }

    /// Whether envelopes of this kind can be published.
    pub fn is_known(&self) -> bool {
        !matches!(self, Self::Other(_))
    }
}

impl Producer {
    /// A producer of any kind.
    pub fn new(id: impl Into<ByteString>, kind: ProducerKind) -> Self {
        Self { id: id.into(), kind }
    }

    /// A person.
    pub fn user(id: impl Into<ByteString>) -> Self {
        Self::new(id, ProducerKind::User)
    }

    /// An autonomous program.
    pub fn agent(id: impl Into<ByteString>) -> Self {
        Self::new(id, ProducerKind::Agent)
    }

    /// Any other program.
    pub fn service(id: impl Into<ByteString>) -> Self {
        Self::new(id, ProducerKind::Service)
    }

    /// Its id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Its kind.
    pub fn kind(&self) -> &ProducerKind {
        &self.kind
    }
}

impl<'a> ProducerRef<'a> {
    /// Its id.
    pub fn id(self) -> &'a str {
        self.id
    }

    /// Its kind.
    pub fn kind(self) -> &'a ProducerKind {
        self.kind
    }
}

impl Causation {
    /// A parent in another or the same channel.
    pub fn new(parent_channel: impl Into<ByteString>, parent_sequence: i64) -> Self {
        Self { parent_channel: parent_channel.into(), parent_sequence }
    }

    /// Whether there is no parent.
    pub fn is_root(&self) -> bool {
        self.parent_channel.is_empty() && self.parent_sequence == 0
    }
}

impl Envelope {
    /// An envelope without sequence, time and payload.
    pub fn new(channel: impl AsRef<str>, aspect: impl AsRef<str>, producer: Producer) -> Self {
        let (channel, aspect, Producer { id, kind }) = (channel.as_ref(), aspect.as_ref(), producer);
        let mut text = String::with_capacity(channel.len() + aspect.len() + id.len());
        let mut add = |part: &str| {
            text.push_str(part);
            Part::new(text.len() - part.len(), part.len())
        };
        let (channel, aspect, producer_id) = (add(channel), add(aspect), add(&id));
        Self { channel, aspect, producer_id, producer_kind: kind, ..Self::of_text(text.into()) }
    }

    /// An envelope without content, whose parts will be ranges of this text.
    pub(super) fn of_text(text: ByteString) -> Self {
        Self {
            text,
            channel: Part::default(),
            aspect: Part::default(),
            producer_id: Part::default(),
            producer_kind: ProducerKind::default(),
            sequence: 0,
            produced_at: None,
            payload: None,
            rare: None,
        }
    }

    /// Sets the sequence, from 1.
    #[must_use]
    pub fn with_sequence(mut self, sequence: i64) -> Self {
        self.sequence = sequence;
        self
    }

    /// Sets the time, in milliseconds since 1970.
    #[must_use]
    pub fn with_produced_at_millis(mut self, millis: i64) -> Self {
        self.produced_at = Some(millis);
        self
    }

    /// Sets the reference to a schema, which nothing here resolves; empty for none.
    #[must_use]
    pub fn with_schema_ref(mut self, schema_ref: impl Into<ByteString>) -> Self {
        let causation = self.rare.take().map_or_else(Causation::default, |rare| rare.causation);
        self.set_rare(schema_ref.into(), causation);
        self
    }

    /// Sets the parent.
    #[must_use]
    pub fn with_causation(mut self, causation: Causation) -> Self {
        let schema_ref = self.rare.take().map_or_else(ByteString::new, |rare| rare.schema_ref);
        self.set_rare(schema_ref, causation);
        self
    }

    pub(super) fn set_rare(&mut self, schema_ref: ByteString, causation: Causation) {
        let empty = schema_ref.is_empty() && causation.is_root();
        self.rare = if empty { None } else { Some(Box::new(Rare { schema_ref, causation })) };
    }

    /// Sets the payload.
    #[must_use]
    pub fn with_payload(mut self, payload: impl Into<Option<Payload>>) -> Self {
        self.payload = payload.into();
        self
    }

    /// The channel it names.
    pub fn channel(&self) -> &str {
        self.channel.of(&self.text)
    }

    /// Its number among the envelopes of its producer in its channel, from 1. 0 when it is missing.
    pub fn sequence(&self) -> i64 {
        self.sequence
    }

    /// The time at which it was produced, in milliseconds since 1970; `None` when it is missing.
    pub fn produced_at_millis(&self) -> Option<i64> {
        self.produced_at
    }

    /// The time at which it was produced: RFC 3339, UTC, with milliseconds.
    pub fn produced_at_text(&self) -> Option<String> {
        self.produced_at.map(|millis| {
            let mut text = String::with_capacity(24);
            instant::write(millis, &mut text);
            text
        })
    }

    /// The producer.
    pub fn producer(&self) -> ProducerRef<'_> {
        ProducerRef { id: self.producer_id.of(&self.text), kind: &self.producer_kind }
    }

    /// The aspect, by which subscribers filter.
    pub fn aspect(&self) -> &str {
        self.aspect.of(&self.text)
    }

    /// A reference to a schema; empty for none.
    pub fn schema_ref(&self) -> &str {
        self.rare.as_ref().map_or("", |rare| &rare.schema_ref)
    }

    /// The envelope that caused it.
    pub fn causation(&self) -> &Causation {
        self.rare.as_ref().map_or(&ROOT, |rare| &rare.causation)
    }

    /// The payload. `null` is a payload; `None` means that there is none.
    pub fn payload(&self) -> Option<&Payload> {
        self.payload.as_ref()
    }

    /// The rules for publishing, in their order: channel, aspect, producer id and kind, sequence, time.
    ///
    /// # Errors
    /// The first broken rule.
    pub fn validate(&self) -> Result<(), EnvelopeError> {
        if self.channel().is_empty() {
            Err(EnvelopeError::ChannelRequired)
        } else if self.aspect().is_empty() {
            Err(EnvelopeError::AspectRequired)
        } else if self.producer().id.is_empty() {
            Err(EnvelopeError::ProducerRequired)
        } else if let ProducerKind::Other(kind) = &self.producer_kind {
            Err(EnvelopeError::ProducerKindUnknown(kind.clone()))
        } else if self.sequence <= 0 {
            Err(EnvelopeError::SequenceNonPositive(self.sequence))
        } else if self.produced_at.is_none() {
            Err(EnvelopeError::ProducedAtZero)
        } else {
            Ok(())
        }
    }

    /// The text to publish.
    ///
    /// # Errors
    /// Those of [`validate`](Self::validate), and [`EnvelopeError::TooLarge`].
    pub fn encode(&self) -> Result<String, EnvelopeError> {
        self.validate()?;
        let text = self.to_json();
        if text.len() > MAX_ENVELOPE_BYTES {
            return Err(EnvelopeError::TooLarge { size: text.len(), limit: MAX_ENVELOPE_BYTES });
        }
        Ok(text)
    }

    /// Writes the known members as one line of JSON, without checks: `produced_at` is null when it is missing, the
    /// payload is unchanged except for blanks, and empty members are left out as on the wire.
    pub fn to_json(&self) -> String {
        let payload = self.payload.as_ref().map_or("", Payload::as_str);
        let mut out = String::with_capacity(payload.len() + 200);
        out.push_str("{\"channel\":");
        string(&mut out, self.channel());
        out.push_str(",\"sequence\":");
        number(&mut out, self.sequence);
        out.push_str(",\"producer\":{\"id\":");
        string(&mut out, self.producer().id);
        if !self.producer_kind.as_str().is_empty() {
            out.push_str(",\"kind\":");
            string(&mut out, self.producer_kind.as_str());
        }
        out.push_str("},\"aspect\":");
        string(&mut out, self.aspect());
        if !self.schema_ref().is_empty() {
            out.push_str(",\"schema_ref\":");
            string(&mut out, self.schema_ref());
        }
        let causation = self.causation();
        if !causation.is_root() {
            out.push_str(",\"causation\":{");
            if !causation.parent_channel.is_empty() {
                out.push_str("\"parent_channel\":");
                string(&mut out, &causation.parent_channel);
            }
            if causation.parent_sequence != 0 {
                if !causation.parent_channel.is_empty() {
                    out.push(',');
                }
                out.push_str("\"parent_sequence\":");
                number(&mut out, causation.parent_sequence);
            }
            out.push('}');
        }
        if !payload.is_empty() {
            out.push_str(",\"payload\":");
            // A text that came over the wire may be on several lines.
            if payload.bytes().any(|byte| matches!(byte, b'\n' | b'\r' | b'\t')) {
                out.push_str(&super::payload::compact(payload));
            } else {
                out.push_str(payload);
            }
        }
        out.push_str(",\"produced_at\":");
        match self.produced_at {
            Some(millis) => {
                out.push('"');
                instant::write(millis, &mut out);
                out.push('"');
            }
            None => out.push_str("null"),
        }
        out.push('}');
        out
    }
}

impl PartialEq for Envelope {
    fn eq(&self, other: &Self) -> bool {
        self.channel() == other.channel()
            && self.sequence == other.sequence
            && self.produced_at == other.produced_at
            && self.producer() == other.producer()
            && self.aspect() == other.aspect()
            && self.payload == other.payload
            && self.rare == other.rare
    }
}

impl Eq for Envelope {}

impl fmt::Debug for Envelope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Envelope")
            .field("channel", &self.channel())
            .field("sequence", &self.sequence)
            .field("produced_at", &self.produced_at)
            .field("producer", &self.producer())
            .field("aspect", &self.aspect())
            .field("schema_ref", &self.schema_ref())
            .field("causation", self.causation())
            .field("payload", &self.payload)
            .finish()
    }
}

impl fmt::Display for ProducerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

fn number(out: &mut String, value: i64) {
    use fmt::Write as _;
    // Writing to a String cannot fail.
    let _ = write!(out, "{value}");
}

/// Appends a JSON string.
fn string(out: &mut String, text: &str) {
    if text.bytes().all(|byte| byte >= b' ' && byte != b'"' && byte != b'\\') {
        out.push('"');
        out.push_str(text);
        out.push('"');
    } else {
        out.push_str(&serde_json::Value::from(text).to_string());
    }
}
