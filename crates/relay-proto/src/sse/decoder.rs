//! Bytes to frames.

use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::mem;

use bytes::{Bytes, BytesMut};
use bytestring::ByteString;
use memchr::memchr2;

use super::block::{Block, Field, KEEP, Span, give, parse_line, parse_retry, put, starts_in_two, text};
use super::frame::{Comment, Event, Frame, Limit, Limits, Oversized};

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

    /// The chunk being read; empty when all input was consumed. Spans of the block are positions in it.
    chunk: Bytes,
    pos: usize,
    /// Input that was fed before the chunk was drained.
    queue: VecDeque<Input>,
    /// The next line needs more than a look into the chunk: one of the four fields below says so.
    carry: Carry,
    /// The start of a line whose end is in a chunk to come.
    line: BytesMut,

    block: Block,
    /// Data put together from more than one line or chunk.
    joined: BytesMut,
    kind_held: Vec<u8>,
    id_held: Vec<u8>,
    /// Bytes of the block in chunks before this one, and where it goes on in this one.
    block_before: u64,
    block_pos: usize,

    /// The last event id string of the standard: what the dispatched blocks have set.
    committed: String,
    /// The same for events that have no id of their own, brought up to date when the first of them comes.
    shared: Arc<String>,
    shared_is_old: bool,
    /// Room for slices that were fed.
    scratch: BytesMut,
}

enum Input {
    Chunk(Bytes),
    End,
}

/// What a line has to take over from before it.
#[derive(Clone, Copy)]
struct Carry {
    /// Any of the others: the one thing to look at.
    any: bool,
    /// The last line ended with a CR at the end of its chunk: an LF that comes next is part of that line end.
    skip_lf: bool,
    /// This is the first line of the stream; a BOM may come.
    first_line: bool,
    /// The line has begun in an earlier chunk, its start is held.
    line: bool,
    /// That line went over the limit; its bytes are dropped until it ends.
    line_over: bool,
}

impl Default for Carry {
    fn default() -> Self {
        Self { any: true, skip_lf: false, first_line: true, line: false, line_over: false }
    }
}

/// Larger chunks are read in pieces, so that positions fit in 32 bits.
const LARGEST_CHUNK: usize = 1 << 30;

const BOM: &[u8] = b"\xef\xbb\xbf";

impl Decoder {
    /// A decoder with these limits. `Decoder::default()` has the default [`Limits`].
    pub fn new(limits: Limits) -> Self {
        let limits = limits.bounded();
        Self { limits, ..Self::default() }
    }

    /// Starts with this last event id, as after a reconnect that sent it.
    #[must_use]
    pub fn with_last_event_id(mut self, id: impl Into<String>) -> Self {
        self.committed = id.into();
        self.shared_is_old = true;
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
        let mut chunk = chunk.into();
        while chunk.len() > LARGEST_CHUNK {
            self.queue.push_back(Input::Chunk(chunk.split_to(LARGEST_CHUNK)));
        }
        if self.is_drained() {
            self.chunk = chunk;
        } else {
            self.queue.push_back(Input::Chunk(chunk));
        }
    }

    /// Takes a chunk of the stream, of any size, copying it into a buffer that is reused.
    pub fn feed_slice(&mut self, chunk: &[u8]) {
        put(&mut self.scratch, chunk);
        let chunk = give(&mut self.scratch);
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
            if self.pos == self.chunk.len() {
                if !self.next_input() {
                    return None;
                }
                continue;
            }
            let frame = if self.carry.any { self.carried_line() } else { self.lines() };
            if frame.is_some() {
                return frame;
            }
        }
    }

    fn is_drained(&self) -> bool {
        self.chunk.is_empty() && self.queue.is_empty()
    }

    /// Leaves the chunk, which is read, for the next one.
    fn next_input(&mut self) -> bool {
        if !self.chunk.is_empty() {
            self.leave_chunk();
        }
        match self.queue.pop_front() {
            Some(Input::Chunk(chunk)) => self.chunk = chunk,
            Some(Input::End) => self.reset(),
            None => return false,
        }
        true
    }

    /// Forgets the stream, not the last event id.
    fn reset(&mut self) {
        self.carry = Carry::default();
        self.line.clear();
        self.clear_block();
        self.start_block(self.pos);
    }

    /// Takes what the unfinished line and block need out of the chunk, and lets the chunk go.
    fn leave_chunk(&mut self) {
        if self.block.touched {
            let Block { data, kind, id, .. } = &mut self.block;
            for (value, held) in [(kind, &mut self.kind_held), (id, &mut self.id_held)] {
                if value.is_some() && !value.is_outside() {
                    held.clear();
                    held.extend_from_slice(&self.chunk[value.range()]);
                    *value = Span::outside(0);
                }
            }
            if data.is_some() {
                self.block.join_data(&self.chunk, &mut self.joined);
            }
        }
        let rest = &self.chunk[self.pos..];
        if !rest.is_empty() && !self.carry.line_over {
            self.carry.any = true;
            self.carry.line = true;
            // Whether a BOM is to be taken off is known when the line has ended.
            let bom = if self.carry.first_line { BOM.len() } else { 0 };
            if self.line.len() + rest.len() > self.limits.line + bom {
                self.carry.line_over = true;
                self.line = BytesMut::new();
                self.block.go_over(Limit::Line, &mut self.joined);
            } else {
                put(&mut self.line, rest);
            }
        }
        self.block_before += (self.chunk.len() - self.block_pos) as u64;
        self.block_pos = 0;
        self.chunk = Bytes::new();
        self.pos = 0;
    }

    /// Reads lines that lie in the chunk, up to one that makes a frame or to the end of the chunk.
    #[inline]
    fn lines(&mut self) -> Option<Frame> {
        let chunk = &self.chunk[..];
        // Kept in registers while the lines of a block go by.
        let mut block = if self.block.touched { self.block } else { Block::default() };
        let mut at = self.pos;
        let frame = loop {
            let Some(&first) = chunk.get(at) else { break None };
            // Blank lines are every other line of many streams; a look is cheaper than a search.
            let end = if first == b'\n' {
                at
            } else {
                match memchr2(b'\n', b'\r', &chunk[at..]) {
                    Some(offset) => at + offset,
                    None => {
                        self.block = block;
                        self.pos = at;
                        self.leave_chunk();
                        return None;
                    }
                }
            };
            let start = at;
            at = end + 1;
            if chunk[end] == b'\r' {
                match chunk.get(at) {
                    Some(b'\n') => at += 1,
                    Some(_) => {}
                    None => (self.carry.any, self.carry.skip_lf) = (true, true),
                }
            }
            if start == end {
                self.pos = at;
                if !block.touched {
                    (self.block_before, self.block_pos) = (0, at);
                    continue;
                }
                return self.end_block(block, start);
            }
            let line = &chunk[start..end];
            if line.len() > self.limits.line {
                block.go_over(Limit::Line, &mut self.joined);
                continue;
            }
            let (field, value) = parse_line(line);
            let value = Span::new(start + value, end);
            match field {
                Field::Data => {
                    block.touched = true;
                    if block.over.is_some() {
                    } else if !block.data.is_some() {
                        if value.len() > self.limits.data {
                            block.go_over(Limit::Data, &mut self.joined);
                        } else {
                            block.data = value;
                        }
                    } else {
                        let from = block.join_data(chunk, &mut self.joined);
                        if value.len() + (self.joined.len() - from + 1) > self.limits.data {
                            block.go_over(Limit::Data, &mut self.joined);
                        } else {
                            put(&mut self.joined, b"\n");
                            put(&mut self.joined, &chunk[value.range()]);
                        }
                    }
                }
                Field::Event => {
                    block.touched = true;
                    if value.len() > self.limits.kind {
                        block.go_over(Limit::Type, &mut self.joined);
                    } else {
                        block.kind = value;
                    }
                }
                Field::Id => {
                    block.touched = true;
                    if value.len() > self.limits.id {
                        block.go_over(Limit::Id, &mut self.joined);
                    } else if memchr::memchr(0, &chunk[value.range()]).is_none() {
                        block.id = value;
                    }
                }
                Field::Retry => {
                    block.touched = true;
                    if let Some(delay) = parse_retry(&chunk[value.range()]) {
                        break Some(Frame::Retry(delay));
                    }
                }
                Field::Comment => {
                    if !block.touched {
                        (self.block_before, self.block_pos) = (0, at);
                    }
                    break Some(Frame::Comment(Comment(text(self.chunk.slice(value.range())))));
                }
                Field::Unknown => block.touched = true,
            }
        };
        self.block = block;
        self.pos = at;
        frame
    }

    /// Reads on after a carry: the rest of a line, the first line of a stream, or an LF that belongs to a CR.
    #[inline(never)]
    fn carried_line(&mut self) -> Option<Frame> {
        if mem::take(&mut self.carry.skip_lf) {
            self.carry.any = self.carry.first_line || self.carry.line;
            if self.chunk[self.pos] == b'\n' {
                self.pos += 1;
                if !self.block.touched {
                    self.start_block(self.pos);
                }
            }
            return None;
        }
        let start = self.pos;
        let Some(offset) = memchr2(b'\n', b'\r', &self.chunk[start..]) else {
            self.leave_chunk();
            return None;
        };
        let end = start + offset;
        let Carry { first_line, line, line_over, .. } = self.carry;
        if !line {
            // The first line of the stream, and it lies in the chunk.
            let bom = self.chunk[start..].starts_with(BOM);
            self.pos += if bom { BOM.len() } else { 0 };
            self.carry = Carry { any: false, first_line: false, ..self.carry };
            return None;
        }
        self.carry = Carry { any: false, skip_lf: false, first_line: false, line: false, line_over: false };
        self.pos = end + 1;
        if self.chunk[end] == b'\r' {
            match self.chunk.get(end + 1) {
                Some(b'\n') => self.pos += 1,
                Some(_) => {}
                None => (self.carry.any, self.carry.skip_lf) = (true, true),
            }
        }
        if line_over {
            return None;
        }
        let rest = &self.chunk[start..end];
        let bom = if first_line && starts_in_two(&self.line, rest, BOM) { BOM.len() } else { 0 };
        let length = self.line.len() + rest.len() - bom;
        if length == 0 {
            self.line.clear();
            self.start_block(self.pos);
            return None;
        }
        if length > self.limits.line {
            self.line.clear();
            self.block.go_over(Limit::Line, &mut self.joined);
            return None;
        }
        put(&mut self.line, rest);
        self.held_line(bom)
    }

    /// A line that came in pieces has ended; it is in `line`, after a BOM of that many bytes.
    fn held_line(&mut self, bom: usize) -> Option<Frame> {
        let (field, value) = parse_line(&self.line[bom..]);
        let value = bom + value;
        let size = self.line.len() - value;
        if !matches!(field, Field::Comment) {
            self.block.touched = true;
        }
        let (block, joined) = (&mut self.block, &mut self.joined);
        let mut frame = None;
        match field {
            Field::Data if block.over.is_some() => {}
            Field::Data if !block.data.is_some() => {
                if size > self.limits.data {
                    block.go_over(Limit::Data, joined);
                } else {
                    // The line becomes the data as it is: nothing is copied twice.
                    mem::swap(&mut self.line, joined);
                    block.data = Span::outside(value);
                }
            }
            Field::Data => {
                let from = block.join_data(&self.chunk, joined);
                if size + (joined.len() - from + 1) > self.limits.data {
                    block.go_over(Limit::Data, joined);
                } else {
                    put(joined, b"\n");
                    put(joined, &self.line[value..]);
                }
            }
            Field::Event if size > self.limits.kind => block.go_over(Limit::Type, joined),
            Field::Event => {
                self.kind_held.clear();
                self.kind_held.extend_from_slice(&self.line[value..]);
                block.kind = Span::outside(0);
            }
            Field::Id if size > self.limits.id => block.go_over(Limit::Id, joined),
            Field::Id if self.line[value..].contains(&0) => {}
            Field::Id => {
                self.id_held.clear();
                self.id_held.extend_from_slice(&self.line[value..]);
                block.id = Span::outside(0);
            }
            Field::Retry => frame = parse_retry(&self.line[value..]).map(Frame::Retry),
            Field::Comment => {
                if !block.touched {
                    self.start_block(self.pos);
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

    /// A blank line, which begins at `at`: dispatches what the block has gathered.
    #[inline]
    fn end_block(&mut self, block: Block, at: usize) -> Option<Frame> {
        let frame = if let Some(limit) = block.over {
            Some(Frame::Oversized(self.oversized(&block, limit, at)))
        } else if !block.data.is_some() {
            self.commit_id(block.id);
            None
        } else if block.data.is_outside() || block.kind.is_outside() || block.id.is_outside() {
            Some(Frame::Event(self.joined_event(block)))
        } else if let Some(event) = self.borrowed_event(block) {
            Some(Frame::Event(event))
        } else {
            Some(Frame::Event(self.joined_event(block)))
        };
        if self.block.touched {
            self.clear_block();
        }
        self.start_block(self.pos);
        frame
    }

    /// An event whose parts all lie in the chunk: one view over all of them, checked once. `None` if it is not UTF-8.
    #[inline]
    fn borrowed_event(&mut self, block: Block) -> Option<Event> {
        let Block { data, mut kind, mut id, .. } = block;
        let (mut low, mut high) = (data.start(), data.end());
        for value in [kind, id] {
            if value.is_some() {
                (low, high) = (low.min(value.start()), high.max(value.end()));
            }
        }
        let text = ByteString::try_from(self.chunk.slice(low..high)).ok()?;
        if kind.is_some() {
            kind = kind.after(low);
        }
        let mut inherited = None;
        if id.is_some() {
            id = id.after(low);
            self.set_committed(&text[id.range()]);
        } else if !self.committed.is_empty() {
            inherited = Some(self.inherited_id());
        }
        Some(Event { data: data.after(low), kind, id, text, inherited })
    }

    /// An event whose parts are gathered in `joined`: data, then type, then id.
    #[inline(never)]
    fn joined_event(&mut self, mut block: Block) -> Event {
        let joined = &mut self.joined;
        let start = block.join_data(&self.chunk, joined);
        let data = Span::new(start, joined.len());
        put(joined, value(&self.chunk, block.kind, &self.kind_held));
        let kind = Span::new(data.end(), joined.len());
        put(joined, value(&self.chunk, block.id, &self.id_held));
        let id = Span::new(kind.end(), joined.len());
        let bytes = give(joined);
        let (text, data, kind, id) = match ByteString::try_from(bytes.clone()) {
            // Valid as a whole does not mean that each part is: a sequence could reach from one into the next.
            Ok(text) if text.is_char_boundary(kind.start()) && text.is_char_boundary(id.start()) => {
                (text, data, kind, id)
            }
            _ => replaced(&bytes, data, kind, id),
        };
        let mut inherited = None;
        if block.id.is_some() {
            self.set_committed(&text[id.range()]);
        } else if !self.committed.is_empty() {
            inherited = Some(self.inherited_id());
        }
        Event { text, data, kind, id, inherited }
    }

    #[cold]
    fn oversized(&mut self, block: &Block, limit: Limit, at: usize) -> Oversized {
        self.commit_id(block.id);
        let size = self.block_before + (at - self.block_pos) as u64;
        let kind = String::from_utf8_lossy(value(&self.chunk, block.kind, &self.kind_held)).into_owned();
        Oversized { limit, size, kind, last_event_id: self.committed.clone() }
    }

    /// Makes the id of a block, if it has one, the last event id.
    fn commit_id(&mut self, id: Span) {
        if id.is_some() {
            let id = String::from_utf8_lossy(value(&self.chunk, id, &self.id_held));
            self.committed.clear();
            self.committed.push_str(&id);
            self.shared_is_old = true;
        }
    }

    #[inline]
    fn set_committed(&mut self, id: &str) {
        self.committed.clear();
        self.committed.push_str(id);
        self.shared_is_old = true;
    }

    /// The last event id, for an event that sets none.
    fn inherited_id(&mut self) -> Arc<String> {
        if mem::take(&mut self.shared_is_old) {
            match Arc::get_mut(&mut self.shared) {
                Some(unused) => unused.clone_from(&self.committed),
                None => self.shared = Arc::new(self.committed.clone()),
            }
        }
        Arc::clone(&self.shared)
    }

    fn clear_block(&mut self) {
        self.block = Block::default();
        self.joined.clear();
        self.kind_held.clear();
        self.id_held.clear();
    }

    /// The next block begins at this position of the chunk.
    #[inline]
    fn start_block(&mut self, at: usize) {
        (self.block_before, self.block_pos) = (0, at);
    }
}

/// The bytes of a field, wherever they are.
#[inline]
fn value<'a>(chunk: &'a [u8], span: Span, held: &'a [u8]) -> &'a [u8] {
    if span.is_outside() { held } else { &chunk[span.range()] }
}

/// The text of the parts with U+FFFD for what is not UTF-8, and where each is in it.
#[cold]
fn replaced(bytes: &[u8], data: Span, kind: Span, id: Span) -> (ByteString, Span, Span, Span) {
    let mut text = String::new();
    let mut push = |span: Span| {
        let start = text.len();
        text.push_str(&String::from_utf8_lossy(&bytes[span.range()]));
        Span::new(start, text.len())
    };
    let (data, kind, id) = (push(data), push(kind), push(id));
    (ByteString::from(text), data, kind, id)
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
