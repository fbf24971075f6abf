//! Decoding envelopes, tolerantly.

use std::borrow::Cow;
use std::ops::Range;

use bytestring::ByteString;

use super::envelope::{Causation, Envelope, EnvelopeError, Part, Producer, ProducerKind};
use super::payload::{Payload, explain};
use super::{NotJson, instant};
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
    /// member that is null counts as missing, and of a repeated member the last one counts. The envelope shares the
    /// memory of the bytes.
    ///
    /// # Errors
    /// When it is no JSON object, or a known member has another type.
    pub fn decode(bytes: impl Into<bytes::Bytes>) -> Result<Self, DecodeError> {
        let text = ByteString::try_from(bytes.into()).map_err(|_| DecodeError::NotUtf8(0))?;
        let all = 0..text.len();
        Self::decode_part(text, all)
    }

    /// Like [`decode`](Self::decode), for a part of a text, such as the data of an event.
    ///
    /// # Errors
    /// As [`decode`](Self::decode). A range outside of the text is no JSON.
    pub fn decode_part(text: ByteString, part: Range<usize>) -> Result<Self, DecodeError> {
        let written = text.get(part.clone()).unwrap_or_default();
        if let Ok(plain) = plain(written, part.start) {
            return Ok(plain.of(text));
        }
        let written = text.slice_ref(written);
        let mut wrong = None;
        match read(&written, &mut wrong) {
            Ok(envelope) => wrong.map_or(Ok(envelope), Err),
            Err(Unusual) => Err(match serde_json::from_str::<serde::de::IgnoredAny>(&written) {
                Ok(_) if !written.trim_start().starts_with('{') => DecodeError::NotAnObject,
                _ => DecodeError::NotJson(explain(&written)),
            }),
        }
    }

    /// Checks what a subscriber needs beyond [`decode`](Self::decode): an aspect, a producer's id and a sequence above
    /// 0.
    ///
    /// # Errors
    /// [`DecodeError::Missing`], the first that is missing.
    pub fn usable(&self) -> Result<(), DecodeError> {
        let missing = if self.aspect().is_empty() {
            EnvelopeError::AspectRequired
        } else if self.producer().id().is_empty() {
            EnvelopeError::ProducerRequired
        } else if self.sequence <= 0 {
            EnvelopeError::SequenceNonPositive(self.sequence)
        } else {
            return Ok(());
        };
        Err(DecodeError::Missing(missing))
    }
}

/// The places of an envelope's members in its text.
struct Plain {
    channel: Part,
    sequence: i64,
    producer_id: Part,
    producer_kind: ProducerKind,
    aspect: Part,
    schema_ref: Part,
    parent_channel: Part,
    parent_sequence: i64,
    payload: Option<Part>,
    produced_at: Option<i64>,
}

impl Plain {
    /// Makes the envelope, which takes ownership of the text.
    fn of(self, text: ByteString) -> Envelope {
        let payload = self.payload.map(|payload| Payload(text.slice_ref(payload.of(&text))));
        let mut envelope = Envelope::of_text(text).with_payload(payload);
        (envelope.channel, envelope.aspect) = (self.channel, self.aspect);
        (envelope.producer_id, envelope.producer_kind) = (self.producer_id, self.producer_kind);
        (envelope.sequence, envelope.produced_at) = (self.sequence, self.produced_at);
        let (schema_ref, parent) = (self.schema_ref, self.parent_channel);
        if !schema_ref.is_empty() || !parent.is_empty() || self.parent_sequence != 0 {
            let share = |part: Part| envelope.text.slice_ref(part.of(&envelope.text));
            let (schema_ref, parent_channel) = (share(schema_ref), share(parent));
            envelope
                .set_rare(schema_ref, Causation { parent_channel, parent_sequence: self.parent_sequence });
        }
        envelope
    }
}

/// Reads an envelope in the form that publishers write: members in a fixed order, no blanks between them, texts without
/// escapes. Everything else, valid or not, is left to [`read`]. `written` begins at `start` of the text.
fn plain(written: &str, start: usize) -> Scan<Plain> {
    let mut scanner = Scanner::new(written)?;
    let words = |scanner: &mut Scanner<'_>| -> Scan<Part> {
        let text = scanner.string()?;
        let length = text.plain(written)?.len();
        Ok(Part::new(start + text.start as usize, length))
    };
    scanner.need(b"{\"channel\":")?;
    let channel = words(&mut scanner)?;
    scanner.need(b",\"sequence\":")?;
    let sequence = whole(&mut scanner)?;
    scanner.need(b",\"producer\":{\"id\":")?;
    let producer_id = words(&mut scanner)?;
    let mut kind = "";
    if scanner.literal(b",\"kind\":") {
        kind = scanner.string()?.plain(written)?;
    }
    scanner.need(b"},\"aspect\":")?;
    let aspect = words(&mut scanner)?;
    let (mut schema_ref, mut parent_channel, mut parent_sequence) = (Part::default(), Part::default(), 0);
    if scanner.literal(b",\"schema_ref\":") {
        schema_ref = words(&mut scanner)?;
    }
    if scanner.literal(b",\"causation\":{\"parent_channel\":") {
        parent_channel = words(&mut scanner)?;
        scanner.need(b",\"parent_sequence\":")?;
        parent_sequence = whole(&mut scanner)?;
        scanner.need(b"}")?;
    }
    let mut payload = None;
    if scanner.literal(b",\"payload\":") {
        scanner.peek()?;
        let at = scanner.at();
        scanner.skip()?;
        payload = Some(Part::new(start + at, scanner.at() - at));
    }
    scanner.need(b",\"produced_at\":")?;
    let produced_at = match scanner.string()?.plain(written)? {
        "" => None,
        time => Some(instant::parse(time).ok_or(Unusual)?),
    };
    scanner.need(b"}")?;
    scanner.end()?;
    let producer_kind = ProducerKind::from_name(kind);
    Ok(Plain {
        channel,
        sequence,
        producer_id,
        producer_kind,
        aspect,
        schema_ref,
        parent_channel,
        parent_sequence,
        payload,
        produced_at,
    })
}

fn whole(scanner: &mut Scanner<'_>) -> Scan<i64> {
    i64::try_from(scanner.count()?).map_err(|_| Unusual)
}

/// Reads an envelope in any form, and notes the first error.
fn read(text: &ByteString, wrong: &mut Wrong) -> Scan<Envelope> {
    let mut scanner = Scanner::new(text)?;
    let mut producer = Producer { id: ByteString::new(), kind: ProducerKind::Other("".into()) };
    let (mut channel, mut aspect, mut schema_ref) = (ByteString::new(), ByteString::new(), ByteString::new());
    let (mut sequence, mut produced_at, mut payload) = (0, None, None);
    let mut causation = Causation::default();
    scanner.object(|scanner, key| match &*name(text, key)? {
        "channel" => member(scanner, text, "channel", &mut channel, wrong),
        "aspect" => member(scanner, text, "aspect", &mut aspect, wrong),
        "schema_ref" => member(scanner, text, "schema_ref", &mut schema_ref, wrong),
        "sequence" => integer(scanner, "sequence", &mut sequence, wrong),
        "produced_at" => {
            let mut written = ByteString::new();
            member(scanner, text, "produced_at", &mut written, wrong)?;
            produced_at = instant::parse(&written);
            if produced_at.is_none() && !written.is_empty() {
                let start: String = written.chars().take(40).collect();
                wrong.get_or_insert(DecodeError::ProducedAt(start));
            }
            Ok(())
        }
        "producer" => object(scanner, "producer", wrong, |scanner, key, wrong| match &*name(text, key)? {
            "id" => member(scanner, text, "producer.id", &mut producer.id, wrong),
            "kind" => {
                let mut kind = ByteString::new();
                member(scanner, text, "producer.kind", &mut kind, wrong)?;
                producer.kind = ProducerKind::from_name(&kind);
                Ok(())
            }
            _ => scanner.skip(),
        }),
        "causation" => {
            causation = Causation::default();
            object(scanner, "causation", wrong, |scanner, key, wrong| match &*name(text, key)? {
                "parent_channel" => {
                    let into = &mut causation.parent_channel;
                    member(scanner, text, "causation.parent_channel", into, wrong)
                }
                "parent_sequence" => {
                    integer(scanner, "causation.parent_sequence", &mut causation.parent_sequence, wrong)
                }
                _ => scanner.skip(),
            })
        }
        "payload" => {
            scanner.peek()?;
            let start = scanner.at();
            scanner.skip()?;
            payload = Some(Payload(slice(text, start, scanner.at())));
            Ok(())
        }
        _ => scanner.skip(),
    })?;
    scanner.end()?;
    let mut envelope = Envelope::new(&channel, &aspect, producer).with_payload(payload);
    (envelope.sequence, envelope.produced_at) = (sequence, produced_at);
    envelope.set_rare(schema_ref, causation);
    Ok(envelope)
}

/// The text of a key.
fn name<'a>(text: &'a str, key: Text) -> Scan<Cow<'a, str>> {
    if key.escaped { unescape(text, key).map(Cow::Owned) } else { Ok(Cow::Borrowed(key.of(text))) }
}

fn unescape(text: &str, string: Text) -> Scan<String> {
    let quoted = &text[string.start as usize - 1..string.end as usize + 1];
    serde_json::from_str(quoted).map_err(|_| Unusual)
}

fn slice(text: &ByteString, start: usize, end: usize) -> ByteString {
    text.slice_ref(&text[start..end])
}

/// Reads a text, or null for none.
fn member(
    scanner: &mut Scanner<'_>,
    text: &ByteString,
    field: &'static str,
    into: &mut ByteString,
    wrong: &mut Wrong,
) -> Scan<()> {
    match scanner.peek()? {
        b'"' => {
            let string = scanner.string()?;
            *into = if string.escaped {
                unescape(text, string)?.into()
            } else {
                slice(text, string.start as usize, string.end as usize)
            };
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
