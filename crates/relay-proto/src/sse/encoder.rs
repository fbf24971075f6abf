//! The encoder: events to bytes.

use core::time::Duration;

use bytes::BufMut;
use memchr::{memchr2, memchr3};

/// Appends Server-Sent Events to a buffer: a `Vec<u8>`, a `BytesMut`, anything that is [`BufMut`].
///
/// What a [`Decoder`](super::Decoder) reads back is what was written, with two exceptions that the format forces:
/// line ends in data (CRLF, CR, LF) all come back as LF, and an empty type comes back as `message`.
///
/// The encoder does not choose chunks, flush or count: one call appends whole lines, and nothing when it fails.
///
/// ```
/// use relay_proto::sse::Encoder;
/// let mut out = Vec::new();
/// let mut encoder = Encoder::new(&mut out);
/// encoder.event(Some("pod"), Some("41"), "{}")?;
/// encoder.heartbeat();
/// assert_eq!(out, b"event: pod\nid: 41\ndata: {}\n\n:\n\n");
/// # Ok::<(), relay_proto::sse::EncodeError>(())
/// ```
#[derive(Debug)]
pub struct Encoder<'a, B: ?Sized> {
    out: &'a mut B,
}

/// Why an event cannot be framed. Nothing was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// The id holds CR, LF or NUL; a decoder would cut or ignore it.
    #[error("an event id cannot hold CR, LF or NUL")]
    Id,
    /// The type holds CR, LF or NUL. NUL would survive, but no known reader expects it.
    #[error("an event type cannot hold CR, LF or NUL")]
    Type,
}

impl<'a, B: BufMut + ?Sized> Encoder<'a, B> {
    /// An encoder that appends to `out`.
    pub fn new(out: &'a mut B) -> Self {
        Self { out }
    }

    /// Appends one event with the blank line that dispatches it.
    ///
    /// `kind` of `None` or `""` is the type `message`. `id` of `None` leaves the reader's last event id as it is, `""`
    /// clears it. Each line of `data`, split at LF, CRLF and CR, becomes a `data` line.
    ///
    /// # Errors
    /// [`EncodeError`] when the id or the type holds CR, LF or NUL.
    pub fn event(&mut self, kind: Option<&str>, id: Option<&str>, data: &str) -> Result<(), EncodeError> {
        self.event_parts(kind, id, [data])
    }

    /// Like [`event`](Self::event), with data given in parts that the reader sees joined with LF: each part is at least
    /// one `data` line. No parts at all make empty data.
    ///
    /// # Errors
    /// [`EncodeError`] when the id or the type holds CR, LF or NUL.
    pub fn event_parts<'p>(
        &mut self,
        kind: Option<&str>,
        id: Option<&str>,
        parts: impl IntoIterator<Item = &'p str>,
    ) -> Result<(), EncodeError> {
        if kind.is_some_and(breaks_line) {
            return Err(EncodeError::Type);
        }
        if id.is_some_and(breaks_line) {
            return Err(EncodeError::Id);
        }
        if let Some(kind) = kind.filter(|kind| !kind.is_empty()) {
            self.line(b"event: ", kind.as_bytes());
        }
        if let Some(id) = id {
            self.line(b"id: ", id.as_bytes());
        }
        let mut empty = true;
        for part in parts {
            self.lines(b"data: ", part.as_bytes());
            empty = false;
        }
        if empty {
            self.line(b"data: ", b"");
        }
        self.out.put_u8(b'\n');
        Ok(())
    }

    /// Appends a comment, one line per line of `text`. Readers see everything after the colon: write a leading space if
    /// one is wanted.
    pub fn comment(&mut self, text: &str) {
        self.lines(b":", text.as_bytes());
    }

    /// Appends an empty comment and a blank line: bytes that keep a connection alive and mean nothing.
    pub fn heartbeat(&mut self) {
        self.out.put_slice(b":\n\n");
    }

    /// Appends a `retry` line in whole milliseconds, rounded down, at most `u64::MAX`. Readers obey it when the line
    /// ends; it becomes part of the block of the event that is appended next.
    pub fn retry(&mut self, delay: Duration) {
        let mut digits = [0; 20];
        let mut start = digits.len();
        let mut rest = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        loop {
            start -= 1;
            digits[start] = b'0' + (rest % 10) as u8;
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        self.line(b"retry: ", &digits[start..]);
    }

    fn lines(&mut self, prefix: &[u8], mut text: &[u8]) {
        while let Some(end) = memchr2(b'\n', b'\r', text) {
            self.line(prefix, &text[..end]);
            let width = if text[end..].starts_with(b"\r\n") { 2 } else { 1 };
            text = &text[end + width..];
        }
        self.line(prefix, text);
    }

    fn line(&mut self, prefix: &[u8], value: &[u8]) {
        self.out.put_slice(prefix);
        self.out.put_slice(value);
        self.out.put_u8(b'\n');
    }
}

fn breaks_line(value: &str) -> bool {
    memchr3(b'\r', b'\n', 0, value.as_bytes()).is_some()
}
