//! Bytes to frames.

use alloc::borrow::Cow;
use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::mem;
use core::ops::Range;
use core::time::Duration;

use bytes::{Bytes, BytesMut};
use bytestring::ByteString;
use memchr::memchr2;

use super::frame::{Comment, Event, EventId, Frame, Limit, Limits, Oversized};

/// Decodes one event stream, and the streams that continue it after a reconnect.
///
/// **After every [`feed`](Self::feed), call [`next_frame`](Self::next_frame) until it returns `None`.** Feeding more
/// before that is allowed and changes nothing but the memory held.
///
/// How the input is cut into chunks never changes the frames. Lines end at LF, CRLF or CR; a CR that is the last byte
/// of a chunk ends its line at once, and an LF that opens the next chunk belongs to it.
///
/// ```text
///            line                 blank line
///   feed -> [ data ] -> block ------------------> Event      (has data)
///           [ event ]         \-----------------> nothing    (no data; its id counts)
///           [ id ]             \----------------> Oversized  (a limit was passed)
///           [ retry ] -> Retry
///           [ : ] ----> Comment                   finish: an unfinished block is dropped
/// ```
#[derive(Default)]
pub struct Decoder {
    limits: Limits,

    /// The chunk being read; empty when all input was consumed. Ranges below are positions in it.
    chunk: Bytes,
    pos: usize,
    /// Input that was fed before the chunk was drained.
    queue: VecDeque<Input>,
    /// The last line ended with a CR at the end of its chunk: an LF that comes next is part of that line end.
    skip_lf: bool,
    /// A line has ended since the stream began; before that a BOM may come.
    past_first_line: bool,

    /// The start of a line whose end is in a chunk to come.
    line: BytesMut,
    /// That line went over the limit; its bytes are dropped until it ends.
    line_over: bool,

    /// The block has a line that is not a comment.
    touched: bool,
    over: Option<Limit>,
    data: Data,
    kind: Value,
    id: Value,
    /// Data put together from more than one line or chunk, valid when `data` is `Joined`.
    joined: BytesMut,
    kind_held: Vec<u8>,
    id_held: Vec<u8>,
    /// Bytes of the block in chunks before this one, and where it goes on in this one.
    block_before: u64,
    block_pos: usize,

    /// The last event id string of the standard: what the dispatched blocks have set.
    committed: String,
    /// The same in a form that events share, made when the first event without an id of its own needs it.
    committed_shared: Option<ByteString>,
    /// Room for slices that were fed, and for shared ids.
    scratch: BytesMut,
}

enum Input {
    Chunk(Bytes),
    End,
}

#[derive(Default)]
enum Data {
    #[default]
    None,
    /// One line, still in the chunk.
    Chunk(Range<usize>),
    /// In `joined`, from this position on.
    Joined(usize),
}

#[derive(Default, Clone)]
enum Value {
    #[default]
    None,
    Chunk(Range<usize>),
    /// In the buffer of that field.
    Held,
}

/// Smallest allocation for text that is put together; many small events share one.
const ARENA: usize = 8 << 10;

/// Text longer than this is given away with its buffer: one huge event leaves nothing behind.
const KEEP: usize = 256 << 10;

const BOM: &[u8] = b"\xef\xbb\xbf";

impl Decoder {
    /// A decoder with these limits. `Decoder::default()` has the default [`Limits`].
    pub fn new(limits: Limits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// Starts with this last event id, as after a reconnect that sent it.
    #[must_use]
    pub fn with_last_event_id(mut self, id: impl Into<String>) -> Self {
        self.committed = id.into();
        self.committed_shared = None;
        self
    }

    /// The last event id string: what blocks that ended with a blank line have set. Empty when there is none.
    ///
    /// This is the value for the `Last-Event-ID` header of a reconnect. The id of a block that was cut off is not in it.
    pub fn last_event_id(&self) -> &str {
        &self.committed
    }

    /// Bytes held: input not read yet, the unfinished line and the unfinished block.
    pub fn buffered(&self) -> usize {
        let queued: usize = self
            .queue
            .iter()
            .map(|input| match input {
                Input::Chunk(chunk) => chunk.len(),
                Input::End => 0,
            })
            .sum();
        let held = self.joined.len() + self.kind_held.len() + self.id_held.len() + self.line.len();
        (self.chunk.len() - self.pos) + queued + held
    }

    /// Bytes seen of the unfinished block, those that were skipped included, so that a caller can end a stream whose
    /// event never does. Comment lines before the first field do not count.
    pub fn block_bytes(&self) -> u64 {
        self.block_before + (self.pos - self.block_pos) as u64
    }

    /// Takes a chunk of the stream, of any size. The chunk is not copied: frames may refer to it.
    pub fn feed(&mut self, chunk: impl Into<Bytes>) {
        let chunk = chunk.into();
        if self.is_drained() {
            self.chunk = chunk;
        } else {
            self.queue.push_back(Input::Chunk(chunk));
        }
    }

    /// Takes a chunk of the stream, of any size, copying it into a buffer that is reused.
    pub fn feed_slice(&mut self, chunk: &[u8]) {
        put(&mut self.scratch, chunk);
        let chunk = self.scratch.split().freeze();
        self.feed(chunk);
    }

    /// Ends the stream: an unfinished block is dropped, its id does not count.
    ///
    /// The decoder can be fed again, with a new stream: the last event id is kept, a BOM may come again. Frames that
    /// were not pulled yet are still there.
    pub fn finish(&mut self) {
        if self.is_drained() {
            self.reset();
        } else {
            self.queue.push_back(Input::End);
        }
    }

    /// The next frame, or `None` when more input is needed.
    pub fn next_frame(&mut self) -> Option<Frame> {
        loop {
            if self.pos >= self.chunk.len() {
                self.stash();
                if !self.next_input() {
                    return None;
                }
                continue;
            }
            if self.skip_lf {
                self.skip_lf = false;
                if self.chunk[self.pos] == b'\n' {
                    self.pos += 1;
                    if !self.touched {
                        self.block_pos = self.pos;
                    }
                    continue;
                }
            }
            let start = self.pos;
            // Blank lines are every other line of many streams; a look is cheaper than a search.
            let end = if self.chunk[start] == b'\n' {
                start
            } else {
                match memchr2(b'\n', b'\r', &self.chunk[start..]) {
                    Some(at) => start + at,
                    None => {
                        self.stash();
                        continue;
                    }
                }
            };
            self.pos = end + 1;
            if self.chunk[end] == b'\r' {
                match self.chunk.get(end + 1) {
                    Some(b'\n') => self.pos = end + 2,
                    Some(_) => {}
                    None => self.skip_lf = true,
                }
            }
            let frame = if self.line.is_empty() && !self.line_over && self.past_first_line {
                self.end_line(start, end)
            } else {
                self.end_held_line(start, end)
            };
            if frame.is_some() {
                return frame;
            }
        }
    }

    fn is_drained(&self) -> bool {
        self.chunk.is_empty() && self.queue.is_empty()
    }

    fn next_input(&mut self) -> bool {
        match self.queue.pop_front() {
            Some(Input::Chunk(chunk)) => self.chunk = chunk,
            Some(Input::End) => self.reset(),
            None => return false,
        }
        true
    }

    /// Forgets the stream, not the last event id.
    fn reset(&mut self) {
        self.line.clear();
        self.line_over = false;
        self.skip_lf = false;
        self.past_first_line = false;
        self.clear_block();
        self.block_before = 0;
        self.block_pos = self.pos;
    }

    /// Leaves the chunk: what belongs to the unfinished line and block is copied out of it.
    fn stash(&mut self) {
        self.join_data();
        hold(&mut self.kind, &mut self.kind_held, &self.chunk);
        hold(&mut self.id, &mut self.id_held, &self.chunk);

        let rest = &self.chunk[self.pos..];
        if !rest.is_empty() && !self.line_over {
            // Whether a BOM is to be taken off is known when the line has ended.
            let bom = if self.past_first_line { 0 } else { BOM.len() };
            if self.line.len() + rest.len() > self.limits.line.saturating_add(bom) {
                self.line_over = true;
                self.line = BytesMut::new();
                self.go_over(Limit::Line);
            } else {
                put(&mut self.line, rest);
            }
        }
        self.block_before += (self.chunk.len() - self.block_pos) as u64;
        self.block_pos = 0;
        self.chunk = Bytes::new();
        self.pos = 0;
    }

    /// A line that lies in the chunk has ended.
    #[inline]
    fn end_line(&mut self, start: usize, end: usize) -> Option<Frame> {
        if start == end {
            return self.end_block(start);
        }
        let line = &self.chunk[start..end];
        if line.len() > self.limits.line {
            self.go_over(Limit::Line);
            return None;
        }
        let (field, value) = parse_line(line);
        let value = start + value..end;
        match field {
            Field::Data => {
                self.touched = true;
                if self.over.is_none() {
                    self.add_data(value);
                }
            }
            Field::Event => {
                self.touched = true;
                if value.len() > self.limits.kind {
                    self.go_over(Limit::Type);
                } else {
                    self.kind_held.clear();
                    self.kind = Value::Chunk(value);
                }
            }
            Field::Id => {
                self.touched = true;
                if value.len() > self.limits.id {
                    self.go_over(Limit::Id);
                } else if memchr::memchr(0, &self.chunk[value.clone()]).is_none() {
                    self.id_held.clear();
                    self.id = Value::Chunk(value);
                }
            }
            Field::Retry => {
                self.touched = true;
                return parse_retry(&self.chunk[value]).map(Frame::Retry);
            }
            Field::Comment => {
                if !self.touched {
                    self.block_before = 0;
                    self.block_pos = self.pos;
                }
                return Some(Frame::Comment(Comment(text(self.chunk.slice(value)))));
            }
            Field::Unknown => self.touched = true,
        }
        None
    }

    /// A `data` line in the chunk.
    #[inline]
    fn add_data(&mut self, value: Range<usize>) {
        let Some(from) = self.join_data() else {
            if value.len() > self.limits.data {
                self.go_over(Limit::Data);
            } else {
                self.data = Data::Chunk(value);
            }
            return;
        };
        if value.len().saturating_add(self.joined.len() - from + 1) > self.limits.data {
            self.go_over(Limit::Data);
        } else {
            put(&mut self.joined, b"\n");
            put(&mut self.joined, &self.chunk[value]);
        }
    }

    /// Brings the data of the block, if there is any, into `joined`, and says where it begins there.
    #[inline]
    fn join_data(&mut self) -> Option<usize> {
        match &self.data {
            Data::None => None,
            Data::Joined(from) => Some(*from),
            Data::Chunk(range) => {
                put(&mut self.joined, &self.chunk[range.clone()]);
                self.data = Data::Joined(0);
                Some(0)
            }
        }
    }

    /// A line has ended whose start was held, or the first line of a stream.
    #[cold]
    fn end_held_line(&mut self, start: usize, end: usize) -> Option<Frame> {
        let first = !mem::replace(&mut self.past_first_line, true);
        if mem::take(&mut self.line_over) {
            return None;
        }
        if self.line.is_empty() {
            let bom = first && self.chunk[start..end].starts_with(BOM);
            return self.end_line(if bom { start + BOM.len() } else { start }, end);
        }
        let held = self.line.len();
        let rest = &self.chunk[start..end];
        let bom = if first && (self.line.starts_with(BOM) || starts_in_two(&self.line, rest, BOM)) {
            BOM.len()
        } else {
            0
        };
        let length = held + rest.len() - bom;
        if length == 0 {
            self.line.clear();
            return self.end_block(start);
        }
        if length > self.limits.line {
            self.line.clear();
            self.go_over(Limit::Line);
            return None;
        }
        put(&mut self.line, rest);
        let (field, value) = parse_line(&self.line[bom..]);
        let value = bom + value;
        let size = self.line.len() - value;
        if !matches!(field, Field::Comment) {
            self.touched = true;
        }
        let mut frame = None;
        match field {
            Field::Data if self.over.is_some() => {}
            Field::Data => match self.join_data() {
                None if size > self.limits.data => self.go_over(Limit::Data),
                None => {
                    // The line becomes the data as it is: nothing is copied twice.
                    mem::swap(&mut self.line, &mut self.joined);
                    self.data = Data::Joined(value);
                }
                Some(from) if size.saturating_add(self.joined.len() - from + 1) > self.limits.data => {
                    self.go_over(Limit::Data);
                }
                Some(_) => {
                    put(&mut self.joined, b"\n");
                    put(&mut self.joined, &self.line[value..]);
                }
            },
            Field::Event if size > self.limits.kind => self.go_over(Limit::Type),
            Field::Event => {
                self.kind_held.clear();
                self.kind_held.extend_from_slice(&self.line[value..]);
                self.kind = Value::Held;
            }
            Field::Id if size > self.limits.id => self.go_over(Limit::Id),
            Field::Id if self.line[value..].contains(&0) => {}
            Field::Id => {
                self.id_held.clear();
                self.id_held.extend_from_slice(&self.line[value..]);
                self.id = Value::Held;
            }
            Field::Retry => frame = parse_retry(&self.line[value..]).map(Frame::Retry),
            Field::Comment => {
                if !self.touched {
                    self.block_before = 0;
                    self.block_pos = self.pos;
                }
                let line = give(&mut self.line);
                frame = Some(Frame::Comment(Comment(text(line.slice(value..)))));
            }
            Field::Unknown => {}
        }
        self.line.clear();
        if self.line.capacity() > KEEP {
            self.line = BytesMut::new();
        }
        frame
    }

    /// A blank line: dispatches what the block has gathered. `at` is where the blank line begins.
    #[inline]
    fn end_block(&mut self, at: usize) -> Option<Frame> {
        if !self.touched {
            self.block_before = 0;
            self.block_pos = self.pos;
            return None;
        }
        let frame = if self.over.is_some() {
            self.oversized(at)
        } else {
            match (&self.data, &self.kind, &self.id) {
                (Data::None, _, _) => {
                    self.commit_id();
                    None
                }
                (Data::Joined(_), _, _) | (_, Value::Held, _) | (_, _, Value::Held) => {
                    Some(Frame::Event(self.joined_event()))
                }
                (Data::Chunk(data), kind, id) => {
                    let (data, kind, id) = (data.clone(), kind.clone(), id.clone());
                    Some(Frame::Event(self.borrowed_event(data, kind, id)))
                }
            }
        };
        self.clear_block();
        self.block_before = 0;
        self.block_pos = self.pos;
        frame
    }

    /// An event whose parts all lie in the chunk: one view over all of them, checked once.
    #[inline]
    fn borrowed_event(&mut self, data: Range<usize>, kind: Value, id: Value) -> Event {
        let (mut low, mut high) = (data.start, data.end);
        for value in [&kind, &id] {
            if let Value::Chunk(range) = value {
                low = low.min(range.start);
                high = high.max(range.end);
            }
        }
        let Ok(text) = ByteString::try_from(self.chunk.slice(low..high)) else {
            return self.joined_event();
        };
        let within = |range: Range<usize>| range.start - low..range.end - low;
        let id = match id {
            Value::Chunk(range) => {
                let range = within(range);
                self.set_committed(&text[range.clone()]);
                EventId::Own(range)
            }
            _ => EventId::Inherited(self.inherited_id()),
        };
        let kind = match kind {
            Value::Chunk(range) => within(range),
            _ => 0..0,
        };
        Event { data: within(data), text, kind, id }
    }

    /// An event whose parts are gathered in `joined`: data, then type, then id.
    fn joined_event(&mut self) -> Event {
        let start = self.join_data().unwrap_or(0);
        let data = start..self.joined.len();
        match &self.kind {
            Value::None => {}
            Value::Chunk(range) => put(&mut self.joined, &self.chunk[range.clone()]),
            Value::Held => put(&mut self.joined, &self.kind_held),
        }
        let kind = data.end..self.joined.len();
        match &self.id {
            Value::None => {}
            Value::Chunk(range) => put(&mut self.joined, &self.chunk[range.clone()]),
            Value::Held => put(&mut self.joined, &self.id_held),
        }
        let id = kind.end..self.joined.len();
        let own_id = !matches!(self.id, Value::None);
        let bytes = give(&mut self.joined);
        let (text, data, kind, id) = match ByteString::try_from(bytes.clone()) {
            // Valid as a whole does not mean that each part is: a sequence could reach from one into the next.
            Ok(text) if [data.end, kind.end].iter().all(|&at| text.is_char_boundary(at)) => {
                (text, data, kind, id)
            }
            _ => {
                let mut text = String::new();
                let mut push = |range: Range<usize>| {
                    let from = text.len();
                    text.push_str(&String::from_utf8_lossy(&bytes[range]));
                    from..text.len()
                };
                let (data, kind, id) = (push(data), push(kind), push(id));
                (ByteString::from(text), data, kind, id)
            }
        };
        let id = if own_id {
            self.set_committed(&text[id.clone()]);
            EventId::Own(id)
        } else {
            EventId::Inherited(self.inherited_id())
        };
        Event { text, data, kind, id }
    }

    #[cold]
    fn oversized(&mut self, at: usize) -> Option<Frame> {
        let limit = self.over?;
        self.commit_id();
        let size = self.block_before + (at - self.block_pos) as u64;
        let kind = match &self.kind {
            Value::None => String::new(),
            Value::Chunk(range) => String::from_utf8_lossy(&self.chunk[range.clone()]).into_owned(),
            Value::Held => String::from_utf8_lossy(&self.kind_held).into_owned(),
        };
        Some(Frame::Oversized(Oversized { limit, size, kind, last_event_id: self.committed.clone() }))
    }

    /// The block is too large: its data goes, its short lines still count.
    #[cold]
    fn go_over(&mut self, limit: Limit) {
        self.touched = true;
        self.over.get_or_insert(limit);
        self.data = Data::None;
        self.joined = BytesMut::new();
    }

    /// Makes the id of the block, if it has one, the last event id.
    fn commit_id(&mut self) {
        let id = match &self.id {
            Value::None => return,
            Value::Chunk(range) => &self.chunk[range.clone()],
            Value::Held => &self.id_held[..],
        };
        self.committed.clear();
        self.committed.push_str(&String::from_utf8_lossy(id));
        self.committed_shared = None;
    }

    #[inline]
    fn set_committed(&mut self, id: &str) {
        self.committed.clear();
        self.committed.push_str(id);
        self.committed_shared = None;
    }

    #[inline]
    fn inherited_id(&mut self) -> ByteString {
        if self.committed.is_empty() {
            return ByteString::new();
        }
        let (committed, scratch) = (&self.committed, &mut self.scratch);
        self.committed_shared
            .get_or_insert_with(|| {
                put(scratch, committed.as_bytes());
                text(scratch.split().freeze())
            })
            .clone()
    }

    #[inline]
    fn clear_block(&mut self) {
        self.touched = false;
        self.over = None;
        self.data = Data::None;
        self.kind = Value::None;
        self.id = Value::None;
        self.joined.clear();
        self.kind_held.clear();
        self.id_held.clear();
    }
}

impl fmt::Debug for Decoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decoder")
            .field("limits", &self.limits)
            .field("last_event_id", &self.committed)
            .field("buffered", &self.buffered())
            .field("block_bytes", &self.block_bytes())
            .finish_non_exhaustive()
    }
}

enum Field {
    Data,
    Event,
    Id,
    Retry,
    Comment,
    Unknown,
}

/// The field a line sets, and where its value begins.
#[inline]
fn parse_line(line: &[u8]) -> (Field, usize) {
    let (field, name) = match line {
        [b'd', b'a', b't', b'a', ..] => (Field::Data, 4),
        [b'i', b'd', ..] => (Field::Id, 2),
        [b'e', b'v', b'e', b'n', b't', ..] => (Field::Event, 5),
        [b':', ..] => return (Field::Comment, 1),
        [b'r', b'e', b't', b'r', b'y', ..] => (Field::Retry, 5),
        _ => return (Field::Unknown, line.len()),
    };
    match line.get(name..) {
        Some([b':', b' ', ..]) => (field, name + 2),
        Some([b':', ..]) => (field, name + 1),
        Some([]) => (field, name),
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
fn text(bytes: Bytes) -> ByteString {
    match String::from_utf8_lossy(&bytes) {
        Cow::Owned(replaced) => ByteString::from(replaced),
        Cow::Borrowed(_) => ByteString::try_from(bytes).unwrap_or_default(),
    }
}

/// Appends, taking room for many small texts at a time.
#[inline]
fn put(buffer: &mut BytesMut, bytes: &[u8]) {
    if buffer.capacity() - buffer.len() < bytes.len() {
        buffer.reserve(bytes.len().max(ARENA));
    }
    buffer.extend_from_slice(bytes);
}

/// The text that was put together, to be shared by a frame. The room behind it stays.
#[inline]
fn give(buffer: &mut BytesMut) -> Bytes {
    if buffer.len() > KEEP { mem::take(buffer).freeze() } else { buffer.split().freeze() }
}

/// Copies a value out of the chunk that is about to go.
fn hold(value: &mut Value, held: &mut Vec<u8>, chunk: &[u8]) {
    if let Value::Chunk(range) = value {
        held.clear();
        held.extend_from_slice(&chunk[range.clone()]);
        *value = Value::Held;
    }
}

/// Whether `head` followed by `tail` starts with `prefix`, when `head` alone is too short to tell.
fn starts_in_two(head: &[u8], tail: &[u8], prefix: &[u8]) -> bool {
    head.len() < prefix.len() && prefix.starts_with(head) && tail.starts_with(&prefix[head.len()..])
}
