//! The parts of a stream: lines, the block they add up to, and the text taken from them.

use alloc::borrow::Cow;
use alloc::string::String;
use core::mem;
use core::time::Duration;

use bytes::{Bytes, BytesMut};
use bytestring::ByteString;
use memchr::{memchr, memchr2};

use super::limits::{Limit, Limits};
use super::span::Span;

/// The fields that the lines of an unfinished block have set so far. Before the first line it is
/// `Block::default()`.
#[derive(Default, Clone, Copy)]
pub(super) struct Block {
    pub(super) extent: Extent,
    /// In the chunk when it is one line that still lies there, else outside, with the place where it begins there.
    pub(super) data: Span,
    pub(super) kind: Span,
    pub(super) id: Span,
}

/// Where the lines of a block are. Comments do not count.
///
/// `repr(u8)` keeps the tag in a byte of its own: without it the tag is worked out from [`Limit`] for every line, which
/// costs 4 % more instructions per event.
#[derive(Default, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Extent {
    /// There was none yet.
    #[default]
    Empty,
    /// All of them lie in the chunk, and what they set is in one piece.
    InChunk,
    /// Some of them, or some data, had to be copied out of a chunk.
    Scattered,
    /// One of them went over a limit. The data is dropped, short lines still count.
    Over(Limit),
}

impl Extent {
    /// The extent after one more line in the chunk.
    #[inline(always)]
    pub(super) fn with_line(self) -> Self {
        if self == Self::Empty { Self::InChunk } else { self }
    }

    /// The extent after a line, or a part of the block, was copied out of its chunk.
    #[inline]
    pub(super) fn with_copy(self) -> Self {
        if let Self::Over(_) = self { self } else { Self::Scattered }
    }
}

impl Block {
    #[inline(always)]
    pub(super) fn is_empty(&self) -> bool {
        self.extent == Extent::Empty
    }

    /// The block is too large: its data is dropped. The first limit that it exceeded is reported.
    #[cold]
    pub(super) fn go_over(&mut self, limit: Limit, joined: &mut BytesMut) {
        if !matches!(self.extent, Extent::Over(_)) {
            self.extent = Extent::Over(limit);
        }
        self.data = Span::NONE;
        *joined = BytesMut::new();
    }

    /// The effect of a line, by the rules of the fields. Its value begins at position `value`; data is joined in
    /// `joined`.
    #[inline(always)]
    pub(super) fn effect(
        &self,
        field: Field,
        line: &[u8],
        value: usize,
        joined: &BytesMut,
        limits: &Limits,
    ) -> Effect {
        let length = line.len() - value;
        match field {
            Field::Data if matches!(self.extent, Extent::Over(_)) => Effect::Nothing,
            Field::Data if !self.data.is_some() => {
                if length > limits.data {
                    Effect::Over(Limit::Data)
                } else {
                    Effect::FirstData
                }
            }
            Field::Data => {
                let data = self.data;
                let before = if data.is_outside() { joined.len() - data.end() } else { data.len() };
                if before + 1 + length > limits.data { Effect::Over(Limit::Data) } else { Effect::MoreData }
            }
            Field::Event if length > limits.kind => Effect::Over(Limit::Type),
            Field::Event => Effect::Kind,
            Field::Id if length > limits.id => Effect::Over(Limit::Id),
            // The standard ignores an id with a NUL.
            Field::Id if memchr(0, &line[value..]).is_some() => Effect::Nothing,
            Field::Id => Effect::Id,
            Field::Retry => retry(&line[value..]),
            Field::Comment => Effect::Comment,
            Field::Unknown => Effect::Nothing,
        }
    }
}

#[cold]
fn retry(value: &[u8]) -> Effect {
    parse_retry(value).map_or(Effect::Nothing, Effect::Retry)
}

/// The effect of a line on its block.
pub(super) enum Effect {
    Nothing,
    /// Its value is the data.
    FirstData,
    /// Its value is appended to the data.
    MoreData,
    Kind,
    Id,
    /// It is yielded at once.
    Retry(Duration),
    /// It is yielded at once, and is no part of the block.
    Comment,
    Over(Limit),
}

/// Where the next line begins.
#[derive(Default, Clone, Copy, PartialEq, Eq)]
pub(super) enum Start {
    /// In the chunk.
    InChunk,
    /// In the chunk, as the first of the stream: there may be a BOM before it.
    #[default]
    OfStream,
    /// In the chunk, perhaps after an LF that belongs to the CR at the end of the previous chunk.
    AfterReturn,
    /// In a chunk before this one; that part is held.
    Held(Number),
    /// The same, but that part went over the limit: bytes are dropped until the line ends.
    Dropped,
    /// Chunks of a few bytes were held, and there is a line end among them.
    InCrumbs(Number),
    /// The same, and the held bytes are the data line of a plain event: it is read with the next chunk.
    PutOff,
}

/// Which line of the stream a held one is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Number {
    First,
    Later,
}

impl Start {
    /// Whether the held bytes belong to the first line of the stream or to another.
    #[inline]
    pub(super) fn number(self) -> Number {
        match self {
            Self::OfStream => Number::First,
            Self::Held(number) | Self::InCrumbs(number) => number,
            Self::InChunk | Self::AfterReturn | Self::Dropped | Self::PutOff => Number::Later,
        }
    }
}

/// The position of the next line when the line before it ends with an LF or CR at `end`. `None` when that is the CR
/// that ends the chunk.
#[inline(always)]
pub(super) fn next_line(chunk: &[u8], end: usize) -> Option<usize> {
    let next = end + 1;
    if chunk[end] != b'\r' {
        return Some(next);
    }
    chunk.get(next).map(|byte| if *byte == b'\n' { next + 1 } else { next })
}

/// The position of the LF or CR that ends the line which begins at `start`.
#[inline(always)]
pub(super) fn find_line_end(chunk: &[u8], start: usize) -> Option<usize> {
    // Short lines are common, and for them checking two words here is faster than a call of memchr.
    let rest = chunk.get(start..)?;
    let Some(&first) = rest.first_chunk() else {
        return line_end_in_less(rest).map(|at| start + at);
    };
    if let Some(at) = line_end_in(first) {
        return Some(start + at);
    }
    let skip = rest.len().min(16) - 8;
    if let Some(&second) = rest[skip..].first_chunk()
        && let Some(at) = line_end_in(second)
    {
        return Some(start + skip + at);
    }
    if rest.len() <= 16 {
        return None;
    }
    memchr2(b'\n', b'\r', &rest[16..]).map(|at| start + 16 + at)
}

/// The same, without the check for short lines.
#[inline]
pub(super) fn find_far_line_end(chunk: &[u8], start: usize) -> Option<usize> {
    memchr2(b'\n', b'\r', chunk.get(start..)?).map(|at| start + at)
}

/// The same in less than a word.
fn line_end_in_less(rest: &[u8]) -> Option<usize> {
    let (Some(&head), Some(&tail)) = (rest.first_chunk::<4>(), rest.last_chunk::<4>()) else {
        return rest.iter().position(|byte| matches!(byte, b'\n' | b'\r'));
    };
    let tail = u64::from(u32::from_le_bytes(tail)) << ((rest.len() - 4) * 8);
    line_end_in((u64::from(u32::from_le_bytes(head)) | tail).to_le_bytes())
}

/// The same in one word. A byte is found when it differs in nothing from the one looked for: subtracting one from the
/// difference borrows from its top bit, and only bytes above one that was found can be taken for one wrongly.
#[inline(always)]
fn line_end_in(bytes: [u8; 8]) -> Option<usize> {
    let word = u64::from_le_bytes(bytes);
    let zeros = |word: u64| word.wrapping_sub(ONES) & !word & (ONES << 7);
    let found = zeros(word ^ LINE_FEEDS) | zeros(word ^ RETURNS);
    (found != 0).then(|| (found.trailing_zeros() / 8) as usize)
}

const ONES: u64 = 0x0101_0101_0101_0101;
const LINE_FEEDS: u64 = ONES * b'\n' as u64;
const RETURNS: u64 = ONES * b'\r' as u64;

/// What a line sets.
pub(super) enum Field {
    Data,
    Event,
    Id,
    Retry,
    Comment,
    Unknown,
}

/// The field that a line sets, and where its value begins. The line is not empty.
#[inline(always)]
pub(super) fn parse_line(line: &[u8]) -> (Field, usize) {
    if line.starts_with(b"data: ") {
        return (Field::Data, 6);
    }
    if line.starts_with(b"event: ") {
        return (Field::Event, 7);
    }
    if line.starts_with(b"id: ") {
        return (Field::Id, 4);
    }
    let (field, name) = match line {
        [b'd', b'a', b't', b'a', ..] => (Field::Data, 4),
        [b'i', b'd', ..] => (Field::Id, 2),
        [b'e', b'v', b'e', b'n', b't', ..] => (Field::Event, 5),
        [b':', ..] => return (Field::Comment, 1),
        [b'r', b'e', b't', b'r', b'y', ..] => (Field::Retry, 5),
        _ => return (Field::Unknown, line.len()),
    };
    match &line[name..] {
        [b':', b' ', ..] => (field, name + 2),
        [b':', ..] => (field, name + 1),
        [] => (field, name),
        _ => (Field::Unknown, line.len()),
    }
}

/// Digits only, and a number of milliseconds that fits: anything else is no `retry` at all.
fn parse_retry(value: &[u8]) -> Option<Duration> {
    if value.is_empty() {
        return None;
    }
    let mut millis: u64 = 0;
    for byte in value {
        if !byte.is_ascii_digit() {
            return None;
        }
        millis = millis.checked_mul(10)?.checked_add(u64::from(byte - b'0'))?;
    }
    Some(Duration::from_millis(millis))
}

/// Text as it is when it is UTF-8, else a copy with U+FFFD for what is not.
pub(super) fn text(bytes: Bytes) -> ByteString {
    match String::from_utf8_lossy(&bytes) {
        Cow::Owned(replaced) => ByteString::from(replaced),
        Cow::Borrowed(_) => ByteString::try_from(bytes).unwrap_or_default(),
    }
}

/// Appends the bytes of a field, wherever they are, and says where they are now.
pub(super) fn append(joined: &mut BytesMut, chunk: &[u8], span: Span, held: &[u8]) -> Span {
    if !span.is_some() {
        return span;
    }
    let start = joined.len();
    put(joined, value(chunk, span, held));
    Span::new(start, joined.len())
}

/// The bytes of a field, wherever they are.
#[inline]
pub(super) fn value<'a>(chunk: &'a [u8], span: Span, held: &'a [u8]) -> &'a [u8] {
    if span.is_outside() { held } else { &chunk[span.range()] }
}

/// The text of the parts with U+FFFD for what is not UTF-8, and where each is in it.
#[cold]
pub(super) fn replaced(bytes: &[u8], data: Span, kind: Span, id: Span) -> (ByteString, Span, Span, Span) {
    let mut text = String::new();
    let mut push = |span: Span| {
        let start = text.len();
        text.push_str(&String::from_utf8_lossy(&bytes[span.range()]));
        Span::new(start, text.len())
    };
    let (data, kind, id) = (push(data), push(kind), push(id));
    (ByteString::from(text), data, kind, id)
}

/// Text if it is UTF-8, else the bytes again.
#[inline]
pub(super) fn checked(bytes: Bytes) -> Result<ByteString, Bytes> {
    // The conversion consumes bytes that it refuses. Checking a short text twice is faster than a reference count.
    if bytes.len() <= 256 {
        if core::str::from_utf8(&bytes).is_err() {
            return Err(bytes);
        }
        return Ok(ByteString::try_from(bytes).unwrap_or_default());
    }
    ByteString::try_from(bytes.clone()).map_err(|_| bytes)
}

/// Smallest allocation for text that is put together; many small texts share one.
const ARENA: usize = 8 << 10;

/// Longer text is handed out with its buffer, so that one huge event leaves no memory behind.
pub(super) const KEEP: usize = 256 << 10;

/// Appends, taking room for many small texts at a time.
#[inline]
pub(super) fn put(buffer: &mut BytesMut, bytes: &[u8]) {
    if buffer.capacity() - buffer.len() < bytes.len() {
        make_room(buffer, bytes.len());
    }
    buffer.extend_from_slice(bytes);
}

/// Appends an LF and the value, which `line` ends with from that position on: the byte before it comes along and turns
/// into the LF, so that there is one copy and not two.
#[inline]
pub(super) fn put_line(buffer: &mut BytesMut, line: &[u8], value: usize) {
    let at = buffer.len();
    put(buffer, &line[value - 1..]);
    buffer[at] = b'\n';
}

/// Brings data, which there is, out of the chunk into `joined`.
#[inline]
pub(super) fn join(data: Span, chunk: &[u8], joined: &mut BytesMut) -> Span {
    if data.is_outside() {
        return data;
    }
    put(joined, &chunk[data.range()]);
    Span::outside(0)
}

#[cold]
fn make_room(buffer: &mut BytesMut, length: usize) {
    // Reserves the same size whatever part is in use, so that the same memory is found again.
    buffer.reserve(length.max(ARENA.saturating_sub(buffer.len())));
}

/// The joined text, to be shared by a frame. The free space after it stays in the buffer.
#[inline]
pub(super) fn give(buffer: &mut BytesMut) -> Bytes {
    if buffer.len() > KEEP { mem::take(buffer).freeze() } else { buffer.split().freeze() }
}

/// Whether `head` followed by `tail` starts with `prefix`.
pub(super) fn starts_in_two(head: &[u8], tail: &[u8], prefix: &[u8]) -> bool {
    match head.get(..prefix.len()) {
        Some(head) => head == prefix,
        None => prefix.strip_prefix(head).is_some_and(|rest| tail.starts_with(rest)),
    }
}
