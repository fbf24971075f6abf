//! The parts of a stream: lines, the block they add up to, and the text taken from them.

use alloc::borrow::Cow;
use alloc::string::String;
use core::mem;
use core::ops::Range;
use core::time::Duration;

use bytes::{Bytes, BytesMut};
use bytestring::ByteString;

use super::frame::Limit;

/// What the lines of an unfinished block have set so far. Untouched, it is `Block::default()`.
#[derive(Default, Clone, Copy)]
pub(super) struct Block {
    /// There was a line that is not a comment.
    pub(super) touched: bool,
    pub(super) over: Option<Limit>,
    /// In the chunk when it is one line that still lies there, else outside, with the place where it begins there.
    pub(super) data: Span,
    pub(super) kind: Span,
    pub(super) id: Span,
}

impl Block {
    /// The block is too large: its data goes, its short lines still count.
    #[cold]
    pub(super) fn go_over(&mut self, limit: Limit, joined: &mut BytesMut) {
        self.touched = true;
        self.over.get_or_insert(limit);
        self.data = Span::NONE;
        *joined = BytesMut::new();
    }

    /// Brings the data, which there is, out of the chunk into `joined`, and says where it begins there.
    #[inline]
    pub(super) fn join_data(&mut self, chunk: &[u8], joined: &mut BytesMut) -> usize {
        if !self.data.is_outside() {
            put(joined, &chunk[self.data.range()]);
            self.data = Span::outside(0);
        }
        self.data.end()
    }
}

/// Where the value of a field is: nowhere, at a range of positions in the chunk, or outside of it, copied to a buffer
/// of that field. One machine word, since a few of them are moved with every event.
#[derive(Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span(u64);

impl Span {
    /// Not set. No value begins at the first byte of a line, so this is no place in a chunk.
    pub(super) const NONE: Self = Self(0);

    #[inline]
    pub(super) fn new(start: usize, end: usize) -> Self {
        Self((start as u64) << 32 | end as u64)
    }

    /// Outside, from that position on.
    #[inline]
    pub(super) fn outside(start: usize) -> Self {
        Self(u64::from(u32::MAX) << 32 | start as u64)
    }

    #[inline]
    pub(super) fn is_some(self) -> bool {
        self != Self::NONE
    }

    #[inline]
    pub(super) fn is_outside(self) -> bool {
        self.start() == u32::MAX as usize
    }

    #[inline]
    pub(super) fn start(self) -> usize {
        (self.0 >> 32) as usize
    }

    #[inline]
    pub(super) fn end(self) -> usize {
        self.0 as u32 as usize
    }

    #[inline]
    pub(super) fn range(self) -> Range<usize> {
        self.start()..self.end()
    }

    #[inline]
    pub(super) fn len(self) -> usize {
        self.end() - self.start()
    }

    /// The same place, seen from `origin`.
    #[inline]
    pub(super) fn after(self, origin: usize) -> Self {
        Self::new(self.start() - origin, self.end() - origin)
    }
}

/// What a line sets.
pub(super) enum Field {
    Data,
    Event,
    Id,
    Retry,
    Comment,
    Unknown,
}

/// The field a line sets, and where its value begins. The line is not empty.
#[inline(always)]
pub(super) fn parse_line(line: &[u8]) -> (Field, usize) {
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
pub(super) fn parse_retry(value: &[u8]) -> Option<Duration> {
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

/// Smallest allocation for text that is put together; many small texts share one.
const ARENA: usize = 8 << 10;

/// Text longer than this is given away with its buffer: one huge event leaves nothing behind.
pub(super) const KEEP: usize = 256 << 10;

/// Appends, taking room for many small texts at a time.
#[inline]
pub(super) fn put(buffer: &mut BytesMut, bytes: &[u8]) {
    if buffer.capacity() - buffer.len() < bytes.len() {
        make_room(buffer, bytes.len());
    }
    buffer.extend_from_slice(bytes);
}

#[cold]
fn make_room(buffer: &mut BytesMut, length: usize) {
    buffer.reserve(length.max(ARENA));
}

/// The text that was put together, to be shared by a frame. The room behind it stays.
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
