//! The envelope, its rules and its text.

use std::fmt;

use bytestring::ByteString;

use super::{Payload, PayloadRef, instant};
use crate::json::Text;

/// The most bytes of an encoded envelope.
pub const MAX_ENVELOPE_BYTES: usize = 65_536;

/// One message of a channel, with its producer, sequence, aspect and payload.
///
/// A decoded one shares the memory of the text it was read from. `Debug` shows the payload's size, never its content.
// In this order, so that the kind is last: its unused values mark the variants of the types around an envelope, and a
// mark is often written alone. What is moved with them is then cut into the same pieces of 16 bytes wherever it goes,
// and the processor need not wait for a piece that was written as parts of two others.
#[derive(Clone)]
#[repr(C)]
pub struct Envelope {
    /// The text that contains channel, aspect, producer id and payload. The struct is small because envelopes are
    /// moved often.
    pub(super) text: ByteString,
    pub(super) channel: Part,
    pub(super) aspect: Part,
    pub(super) producer_id: Part,
    /// Empty when there is none: no JSON value is an empty text.
    pub(super) payload: Part,
    pub(super) sequence: i64,
    /// [`NO_TIME`] when it is missing.
    pub(super) produced_at: i64,
    /// `None` when all of it is empty.
    pub(super) rare: Option<Box<Rare>>,
    pub(super) kind: Kind,
}

/// In the place of a time that is missing.
pub(super) const NO_TIME: i64 = i64::MIN;

/// A producer kind without its text. What this version does not know is in [`Rare`].
///
/// A word and not a byte: seven bytes of padding would be copied in two parts that overlap, and with every move of an
/// envelope the processor would wait for the first part, about 10 ns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub(super) enum Kind {
    User,
    Agent,
    Service,
    Other,
}

/// A range of a text.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Part {
    start: u32,
    end: u32,
}

impl Part {
    /// The range that begins at `start` and has this length. In a text of more than 4 GiB there is no such range.
    #[inline]
    pub(super) fn new(start: usize, length: usize) -> Self {
        match (u32::try_from(start), u32::try_from(start + length)) {
            (Ok(start), Ok(end)) => Self { start, end },
            _ => Self::default(),
        }
    }

    /// A text of a part that begins at `start`, where all of it has such places.
    #[inline]
    pub(super) fn of_text(text: Text, start: u32) -> Self {
        Self { start: start + text.start, end: start + text.end }
    }

    #[inline]
    pub(super) fn is_empty(self) -> bool {
        self.start == self.end
    }

    #[inline]
    pub(super) fn of(self, text: &str) -> &str {
        text.get(self.start as usize..self.end as usize).unwrap_or_default()
    }
}

/// Rarely used members: in a separate allocation, because envelopes are moved often.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Rare {
    pub(super) schema_ref: ByteString,
    pub(super) causation: Causation,
    /// Counts for [`Kind::Other`].
    pub(super) kind: ProducerKind,
}

/// What is rare, of envelopes without any of it.
static NOTHING: Rare = Rare {
    schema_ref: ByteString::from_static(""),
    causation: Causation { parent_channel: ByteString::from_static(""), parent_sequence: 0 },
    kind: ProducerKind::Service,
};

impl Rare {
    /// `None` when all of it is empty.
    pub(super) fn boxed(self) -> Option<Box<Self>> {
        (self != NOTHING).then(|| Box::new(self))
    }
}

static USER: ProducerKind = ProducerKind::User;
static AGENT: ProducerKind = ProducerKind::Agent;
static SERVICE: ProducerKind = ProducerKind::Service;

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
        Self::of_parts(channel.as_ref(), aspect.as_ref(), producer, "")
    }

    /// One whose parts are copied into a text of its own. An empty payload is none.
    pub(super) fn of_parts(channel: &str, aspect: &str, producer: Producer, payload: &str) -> Self {
        let Producer { id, kind } = producer;
        let mut text = String::with_capacity(channel.len() + aspect.len() + id.len() + payload.len());
        let mut add = |part: &str| {
            text.push_str(part);
            Part::new(text.len() - part.len(), part.len())
        };
        let (channel, aspect, producer_id, payload) = (add(channel), add(aspect), add(&id), add(payload));
        let mut envelope = Self::of_text(text.into());
        (envelope.channel, envelope.aspect) = (channel, aspect);
        (envelope.producer_id, envelope.payload) = (producer_id, payload);
        envelope.set_kind(kind);
        envelope
    }

    /// An envelope without content, whose parts will be ranges of this text.
    #[inline(always)]
    pub(super) fn of_text(text: ByteString) -> Self {
        Self {
            text,
            channel: Part::default(),
            aspect: Part::default(),
            producer_id: Part::default(),
            payload: Part::default(),
            sequence: 0,
            produced_at: NO_TIME,
            rare: None,
            kind: Kind::Service,
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
        self.produced_at = millis.max(NO_TIME + 1);
        self
    }

    /// Sets the reference to a schema, which nothing here resolves; empty for none.
    #[must_use]
    pub fn with_schema_ref(mut self, schema_ref: impl Into<ByteString>) -> Self {
        let schema_ref = schema_ref.into();
        self.change_rare(|rare| rare.schema_ref = schema_ref);
        self
    }

    /// Sets the parent.
    #[must_use]
    pub fn with_causation(mut self, causation: Causation) -> Self {
        self.change_rare(|rare| rare.causation = causation);
        self
    }

    pub(super) fn change_rare(&mut self, change: impl FnOnce(&mut Rare)) {
        let mut rare = self.rare.take().map(|rare| *rare).unwrap_or_default();
        change(&mut rare);
        self.rare = rare.boxed();
    }

    pub(super) fn set_kind(&mut self, kind: ProducerKind) {
        self.kind = match kind {
            ProducerKind::User => Kind::User,
            ProducerKind::Agent => Kind::Agent,
            ProducerKind::Service => Kind::Service,
            ProducerKind::Other(_) => {
                self.change_rare(|rare| rare.kind = kind);
                Kind::Other
            }
        };
    }

    /// Sets the payload.
    #[must_use]
    pub fn with_payload(mut self, payload: impl Into<Option<Payload>>) -> Self {
        let payload = payload.into();
        let payload = payload.as_ref().map_or("", Payload::as_str);
        let parts = (self.channel(), self.aspect(), self.producer().id());
        let producer = Producer::new(parts.2, ProducerKind::default());
        let Self { text, channel, aspect, producer_id, payload, .. } =
            Self::of_parts(parts.0, parts.1, producer, payload);
        (self.text, self.channel, self.aspect) = (text, channel, aspect);
        (self.producer_id, self.payload) = (producer_id, payload);
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
        (self.produced_at != NO_TIME).then_some(self.produced_at)
    }

    /// The time at which it was produced: RFC 3339, UTC, with milliseconds.
    pub fn produced_at_text(&self) -> Option<String> {
        self.produced_at_millis().map(|millis| {
            let mut text = String::with_capacity(24);
            instant::write(millis, &mut text);
            text
        })
    }

    /// The producer.
    #[inline(always)]
    pub fn producer(&self) -> ProducerRef<'_> {
        let kind = match self.kind {
            Kind::User => &USER,
            Kind::Agent => &AGENT,
            Kind::Service => &SERVICE,
            Kind::Other => &self.rare().kind,
        };
        ProducerRef { id: self.producer_id.of(&self.text), kind }
    }

    /// The aspect, by which subscribers filter.
    pub fn aspect(&self) -> &str {
        self.aspect.of(&self.text)
    }

    /// A reference to a schema; empty for none.
    pub fn schema_ref(&self) -> &str {
        &self.rare().schema_ref
    }

    /// The envelope that caused it.
    pub fn causation(&self) -> &Causation {
        &self.rare().causation
    }

    #[inline]
    fn rare(&self) -> &Rare {
        self.rare.as_deref().unwrap_or(&NOTHING)
    }

    /// The payload. `null` is a payload; `None` means that there is none.
    pub fn payload(&self) -> Option<PayloadRef<'_>> {
        (!self.payload.is_empty()).then(|| PayloadRef(self.payload.of(&self.text)))
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
        } else if let ProducerKind::Other(kind) = self.producer().kind {
            Err(EnvelopeError::ProducerKindUnknown(kind.clone()))
        } else if self.sequence <= 0 {
            Err(EnvelopeError::SequenceNonPositive(self.sequence))
        } else if self.produced_at == NO_TIME {
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
        let payload = self.payload.of(&self.text);
        let mut out = String::with_capacity(payload.len() + 200);
        out.push_str("{\"channel\":");
        string(&mut out, self.channel());
        out.push_str(",\"sequence\":");
        number(&mut out, self.sequence);
        out.push_str(",\"producer\":{\"id\":");
        let producer = self.producer();
        string(&mut out, producer.id);
        if !producer.kind.as_str().is_empty() {
            out.push_str(",\"kind\":");
            string(&mut out, producer.kind.as_str());
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
        match self.produced_at_millis() {
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
            && self.payload() == other.payload()
            && self.rare() == other.rare()
    }
}

impl Eq for Envelope {}

impl fmt::Debug for Envelope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Envelope")
            .field("channel", &self.channel())
            .field("sequence", &self.sequence)
            .field("produced_at", &self.produced_at_millis())
            .field("producer", &self.producer())
            .field("aspect", &self.aspect())
            .field("schema_ref", &self.schema_ref())
            .field("causation", self.causation())
            .field("payload", &self.payload())
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
