//! Decoding envelopes, tolerantly.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use bytestring::ByteString;

use super::envelope::{
    Causation, Envelope, EnvelopeError, Kind, NO_TIME, Part, Producer, ProducerKind, Rare,
};
use super::payload::explain;
use super::{NotJson, PayloadRef, instant};
use crate::json::{Scan, Scanner, Text, Unusual};

/// Why a text is not an envelope. It names the member or the place, and quotes nothing of the payload.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// Not UTF-8.
    #[error("not UTF-8 from byte {0} on")]
    NotUtf8(usize),
    /// Not JSON.
    #[error(transparent)]
    NotJson(NotJson),
    /// JSON, but not an object.
    #[error("not a JSON object")]
    NotAnObject,
    /// A member has the wrong type.
    #[error("{field} is not {expected}")]
    Type {
        /// The member; within an object, after the object's name and a dot.
        field: &'static str,
        /// The expected type.
        expected: &'static str,
    },
    /// `produced_at` is a text, but not a time.
    #[error("produced_at {0:?} is not an RFC 3339 time")]
    ProducedAt(String),
    /// A required member is missing or empty, or a sequence is not above 0.
    #[error(transparent)]
    Missing(EnvelopeError),
    /// The envelope is larger than a reader accepts.
    #[error("{size} bytes are more than the {limit} that are read")]
    TooLarge {
        /// The size of the envelope, in bytes.
        size: u64,
        /// The limit, in bytes.
        limit: u64,
    },
}

impl DecodeError {
    /// The name of the member as on the wire; `None` when the whole text is wrong.
    pub fn field(&self) -> Option<&'static str> {
        match self {
            Self::Type { field, .. } => Some(field),
            Self::ProducedAt(_) => Some("produced_at"),
            Self::Missing(error) => error.field(),
            _ => None,
        }
    }
}

/// Why a member's value was refused. The scanner itself knows no reasons.
type Wrong = Option<DecodeError>;

impl Envelope {
    /// Reads an envelope. Unknown members, an unknown producer kind, missing members and any size are accepted. A
    /// member that is null counts as missing, and of a repeated member the last one counts. An envelope in the form
    /// that publishers write shares the memory of the bytes; of any other form the parts are copied.
    ///
    /// # Errors
    /// When it is no JSON object, or a known member has another type.
    pub fn decode(bytes: impl Into<bytes::Bytes>) -> Result<Self, DecodeError> {
        let text = ByteString::try_from(bytes.into()).map_err(|_| DecodeError::NotUtf8(0))?;
        match plain(&text, 0) {
            Ok(plain) => Ok(plain.of(text)),
            Err(Unusual) => unusual(&text),
        }
    }

    /// Like [`decode`](Self::decode), for a part of a text, such as the data of an event. It shares the memory of the
    /// whole text.
    ///
    /// # Errors
    /// As [`decode`](Self::decode). A range outside of the text is no JSON.
    pub fn decode_part(text: &ByteString, part: Range<usize>) -> Result<Self, DecodeError> {
        match Draft::of_part(text, part.clone()) {
            Some(draft) => Ok(draft.into_envelope()),
            None => unusual(text.get(part).unwrap_or_default()),
        }
    }

    /// Checks what a subscriber needs beyond [`decode`](Self::decode): an aspect, a producer's id and a sequence above
    /// 0.
    ///
    /// # Errors
    /// [`DecodeError::Missing`], the first that is missing.
    #[inline(always)]
    pub fn usable(&self) -> Result<(), DecodeError> {
        usable(self.aspect.is_empty(), self.producer_id.is_empty(), self.sequence)
    }
}

#[inline(always)]
fn usable(no_aspect: bool, no_producer: bool, sequence: i64) -> Result<(), DecodeError> {
    let missing = if no_aspect {
        EnvelopeError::AspectRequired
    } else if no_producer {
        EnvelopeError::ProducerRequired
    } else if sequence <= 0 {
        EnvelopeError::SequenceNonPositive(sequence)
    } else {
        return Ok(());
    };
    Err(DecodeError::Missing(missing))
}

/// An envelope that is read, but not made: its text is still borrowed, and the members are places in it.
///
/// For readers who check each of very many envelopes before they keep it. An envelope is 96 bytes, which are written
/// one by one and would be moved together right after that: the processor then waits, about 5 ns for every move. The
/// members of a draft stay in registers, and the envelope is made once, in its last place.
pub struct Draft<'a> {
    text: &'a ByteString,
    plain: Plain,
}

impl<'a> Draft<'a> {
    /// Reads a part of a text. `None` when it does not have the form that publishers write, whether it is an envelope
    /// or not: [`Envelope::decode_part`] then says which.
    #[inline(always)]
    pub fn of_part(text: &'a ByteString, part: Range<usize>) -> Option<Self> {
        let written = text.get(part.clone()).unwrap_or_default();
        plain(written, part.start).ok().map(|plain| Self { text, plain })
    }

    /// As [`Envelope::usable`].
    ///
    /// # Errors
    /// As there.
    #[inline(always)]
    pub fn usable(&self) -> Result<(), DecodeError> {
        usable(self.plain.aspect.is_empty(), self.plain.producer_id.is_empty(), self.plain.sequence)
    }

    /// As [`Envelope::sequence`].
    #[inline(always)]
    pub fn sequence(&self) -> i64 {
        self.plain.sequence
    }

    /// The producer's id.
    #[inline(always)]
    pub fn producer_id(&self) -> &'a str {
        self.plain.producer_id.of(self.text)
    }

    /// As [`Envelope::aspect`].
    #[inline(always)]
    pub fn aspect(&self) -> &'a str {
        self.plain.aspect.of(self.text)
    }

    /// As [`Envelope::payload`].
    #[inline(always)]
    pub fn payload(&self) -> Option<PayloadRef<'a>> {
        (!self.plain.payload.is_empty()).then(|| PayloadRef(self.plain.payload.of(self.text)))
    }

    /// The envelope, which shares the memory of the whole text.
    #[inline(always)]
    pub fn into_envelope(self) -> Envelope {
        self.plain.of(self.text.clone())
    }
}

impl fmt::Debug for Draft<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Draft")
            .field("producer", &self.producer_id())
            .field("sequence", &self.sequence())
            .field("payload", &self.payload())
            .finish_non_exhaustive()
    }
}

/// The places of an envelope's members in its text.
struct Plain {
    channel: Part,
    sequence: i64,
    producer_id: Part,
    producer_kind: Kind,
    aspect: Part,
    payload: Part,
    produced_at: i64,
    rare: Option<PlainRare>,
}

#[derive(Default)]
struct PlainRare {
    schema_ref: Part,
    parent_channel: Part,
    parent_sequence: i64,
    /// Counts for [`Kind::Other`].
    kind: Part,
}

impl Plain {
    /// Makes the envelope, which takes ownership of the text.
    #[inline(always)]
    fn of(self, text: ByteString) -> Envelope {
        let rare = self.rare.and_then(|rare| rare.of(&text, self.producer_kind));
        Envelope {
            text,
            channel: self.channel,
            aspect: self.aspect,
            producer_id: self.producer_id,
            payload: self.payload,
            sequence: self.sequence,
            produced_at: self.produced_at,
            rare,
            kind: self.producer_kind,
        }
    }
}

impl PlainRare {
    /// The rare members as parts of the text; `None` when all of them are empty.
    #[cold]
    fn of(self, text: &ByteString, kind: Kind) -> Option<Box<Rare>> {
        let share = |part: Part| text.slice_ref(part.of(text));
        let (schema_ref, parent_channel) = (share(self.schema_ref), share(self.parent_channel));
        let causation = Causation { parent_channel, parent_sequence: self.parent_sequence };
        let kind = match kind {
            Kind::Other => ProducerKind::from_name(self.kind.of(text)),
            _ => ProducerKind::default(),
        };
        Rare { schema_ref, causation, kind }.boxed()
    }
}

/// Reads an envelope in the form that publishers write: members in a fixed order, no blanks between them, texts without
/// escapes. Everything else, valid or not, is left to [`read`]. `written` begins at `start` of the text.
///
/// A subscription spends most of its time here, so names are compared together with their quotes, and no byte is read
/// twice.
#[inline(always)]
fn plain(written: &str, start: usize) -> Scan<Plain> {
    let mut scanner = Scanner::new(written)?;
    // So that every place in the text is one of 32 bits.
    let start = u32::try_from(start + written.len()).map_err(|_| Unusual)? - written.len() as u32;
    scanner.need(b"{\"channel\":\"")?;
    let channel = words(&mut scanner, start)?;
    scanner.need(b",\"sequence\":")?;
    let sequence = whole(&mut scanner)?;
    scanner.need(b",\"producer\":{\"id\":\"")?;
    let producer_id = words(&mut scanner, start)?;
    let mut rare = None;
    let producer_kind = if scanner.literal(b",\"kind\":\"service\"},\"aspect\":\"") {
        Kind::Service
    } else {
        let kind = scanner.aside(|scanner| other_kind(scanner, start, &mut rare))?;
        scanner.need(b"},\"aspect\":\"")?;
        kind
    };
    let aspect = words(&mut scanner, start)?;
    let mut payload = Part::default();
    if !scanner.literal(b",\"payload\":") {
        scanner.aside(|scanner| references(scanner, start, &mut rare))?;
        if scanner.literal(b",\"payload\":") {
            payload = value(&mut scanner, start)?;
        }
    } else {
        payload = value(&mut scanner, start)?;
    }
    scanner.need(b",\"produced_at\":\"")?;
    let produced_at = match scanner.take(instant::as_written) {
        Some(millis) => {
            scanner.need(b"\"")?;
            millis
        }
        None => scanner.aside(other_time)?,
    };
    scanner.need(b"}")?;
    scanner.end()?;
    Ok(Plain { channel, sequence, producer_id, producer_kind, aspect, payload, produced_at, rare })
}

/// Reads a text behind its first quote.
#[inline(always)]
fn words(scanner: &mut Scanner<'_>, start: u32) -> Scan<Part> {
    scanner.plain_rest_of_string().map(|text| Part::of_text(text, start))
}

#[inline(always)]
fn whole(scanner: &mut Scanner<'_>) -> Scan<i64> {
    i64::try_from(scanner.count()?).map_err(|_| Unusual)
}

#[inline(always)]
fn value(scanner: &mut Scanner<'_>, start: u32) -> Scan<Part> {
    if scanner.literal(b"\"") {
        let Text { start: from, end, .. } = scanner.near_rest_of_string()?;
        return Ok(Part::of_text(Text { start: from - 1, end: end + 1, escaped: false }, start));
    }
    scanner.aside(|scanner| {
        scanner.peek()?;
        let from = scanner.at() as u32;
        scanner.skip()?;
        Ok(Part::of_text(Text { start: from, end: scanner.at() as u32, escaped: false }, start))
    })
}

/// Reads a producer kind other than the most frequent one, or none.
fn other_kind(scanner: &mut Scanner<'_>, start: u32, rare: &mut Option<PlainRare>) -> Scan<Kind> {
    let mut kind = Text::default();
    if scanner.literal(b",\"kind\":\"") {
        kind = scanner.plain_rest_of_string()?;
    }
    Ok(match kind.of(scanner.text()) {
        "user" => Kind::User,
        "agent" => Kind::Agent,
        "service" => Kind::Service,
        _ => {
            rare.get_or_insert_default().kind = Part::of_text(kind, start);
            Kind::Other
        }
    })
}

/// Reads the rare members between the aspect and the payload.
fn references(scanner: &mut Scanner<'_>, start: u32, rare: &mut Option<PlainRare>) -> Scan<()> {
    if scanner.literal(b",\"schema_ref\":\"") {
        rare.get_or_insert_default().schema_ref = words(scanner, start)?;
    }
    if scanner.literal(b",\"causation\":{\"parent_channel\":\"") {
        let rare = rare.get_or_insert_default();
        rare.parent_channel = words(scanner, start)?;
        scanner.need(b",\"parent_sequence\":")?;
        rare.parent_sequence = whole(scanner)?;
        scanner.need(b"}")?;
    }
    Ok(())
}

/// Reads a time in another form, or an empty one, behind its first quote.
#[cold]
fn other_time(scanner: &mut Scanner<'_>) -> Scan<i64> {
    let text = scanner.plain_rest_of_string()?.of(scanner.text());
    if text.is_empty() { Ok(NO_TIME) } else { instant::parse(text).ok_or(Unusual) }
}

/// Reads an envelope in any other form, which may be valid or not.
#[cold]
fn unusual(written: &str) -> Result<Envelope, DecodeError> {
    let mut wrong = None;
    match read(written, &mut wrong) {
        Ok(envelope) => wrong.map_or(Ok(envelope), Err),
        Err(Unusual) => Err(match serde_json::from_str::<serde::de::IgnoredAny>(written) {
            Ok(_) if !written.trim_start().starts_with('{') => DecodeError::NotAnObject,
            _ => DecodeError::NotJson(explain(written)),
        }),
    }
}

/// Reads an envelope in any form, and notes the first error.
fn read(text: &str, wrong: &mut Wrong) -> Scan<Envelope> {
    let mut scanner = Scanner::new(text)?;
    let (mut channel, mut aspect, mut schema_ref) = (Cow::default(), Cow::default(), Cow::default());
    let (mut id, mut kind, mut parent_channel) = (Cow::default(), Cow::default(), Cow::default());
    let (mut sequence, mut produced_at, mut payload, mut parent_sequence) = (0, None, "", 0);
    scanner.object(|scanner, key| match &*name(text, key)? {
        "channel" => member(scanner, text, "channel", &mut channel, wrong),
        "aspect" => member(scanner, text, "aspect", &mut aspect, wrong),
        "schema_ref" => member(scanner, text, "schema_ref", &mut schema_ref, wrong),
        "sequence" => integer(scanner, "sequence", &mut sequence, wrong),
        "produced_at" => {
            let mut written = Cow::default();
            member(scanner, text, "produced_at", &mut written, wrong)?;
            produced_at = instant::parse(&written);
            if produced_at.is_none() && !written.is_empty() {
                let start: String = written.chars().take(40).collect();
                wrong.get_or_insert(DecodeError::ProducedAt(start));
            }
            Ok(())
        }
        "producer" => object(scanner, "producer", wrong, |scanner, key, wrong| match &*name(text, key)? {
            "id" => member(scanner, text, "producer.id", &mut id, wrong),
            "kind" => member(scanner, text, "producer.kind", &mut kind, wrong),
            _ => scanner.skip(),
        }),
        "causation" => {
            (parent_channel, parent_sequence) = (Cow::default(), 0);
            object(scanner, "causation", wrong, |scanner, key, wrong| match &*name(text, key)? {
                "parent_channel" => {
                    member(scanner, text, "causation.parent_channel", &mut parent_channel, wrong)
                }
                "parent_sequence" => {
                    integer(scanner, "causation.parent_sequence", &mut parent_sequence, wrong)
                }
                _ => scanner.skip(),
            })
        }
        "payload" => {
            scanner.peek()?;
            let start = scanner.at();
            scanner.skip()?;
            payload = &text[start..scanner.at()];
            Ok(())
        }
        _ => scanner.skip(),
    })?;
    scanner.end()?;
    let producer = Producer::new(&*id, ProducerKind::from_name(&kind));
    let mut envelope = Envelope::of_parts(&channel, &aspect, producer, payload);
    (envelope.sequence, envelope.produced_at) = (sequence, produced_at.unwrap_or(NO_TIME));
    envelope.change_rare(|rare| {
        rare.schema_ref = (&*schema_ref).into();
        rare.causation = Causation::new(&*parent_channel, parent_sequence);
    });
    Ok(envelope)
}

/// The text of a key or of a value.
fn name(text: &str, key: Text) -> Scan<Cow<'_, str>> {
    if key.escaped { unescape(text, key).map(Cow::Owned) } else { Ok(Cow::Borrowed(key.of(text))) }
}

fn unescape(text: &str, string: Text) -> Scan<String> {
    let quoted = &text[string.start as usize - 1..string.end as usize + 1];
    serde_json::from_str(quoted).map_err(|_| Unusual)
}

/// Reads a text, or null for none.
fn member<'a>(
    scanner: &mut Scanner<'_>,
    text: &'a str,
    field: &'static str,
    into: &mut Cow<'a, str>,
    wrong: &mut Wrong,
) -> Scan<()> {
    match scanner.peek()? {
        b'"' => {
            *into = name(text, scanner.string()?)?;
            Ok(())
        }
        other => miss(scanner, other, field, "a text", wrong),
    }
}

/// Reads a whole number of 64 bits, or null for none.
fn integer(scanner: &mut Scanner<'_>, field: &'static str, into: &mut i64, wrong: &mut Wrong) -> Scan<()> {
    match scanner.peek()? {
        b'-' | b'0'..=b'9' => {
            match scanner.number()?.parse() {
                Ok(number) => *into = number,
                Err(_) => {
                    wrong.get_or_insert(DecodeError::Type { field, expected: "a whole number below 2^63" });
                }
            }
            Ok(())
        }
        other => miss(scanner, other, field, "a whole number below 2^63", wrong),
    }
}

fn object(
    scanner: &mut Scanner<'_>,
    field: &'static str,
    wrong: &mut Wrong,
    mut read: impl FnMut(&mut Scanner<'_>, Text, &mut Wrong) -> Scan<()>,
) -> Scan<()> {
    match scanner.peek()? {
        b'{' => scanner.object(|scanner, key| read(scanner, key, wrong)),
        other => miss(scanner, other, field, "an object", wrong),
    }
}

/// Skips a value of the wrong type, and notes the error; null counts as absent.
fn miss(
    scanner: &mut Scanner<'_>,
    first: u8,
    field: &'static str,
    expected: &'static str,
    wrong: &mut Wrong,
) -> Scan<()> {
    if first != b'n' {
        wrong.get_or_insert(DecodeError::Type { field, expected });
    }
    scanner.skip()
}

#[cfg(test)]
mod tests;
