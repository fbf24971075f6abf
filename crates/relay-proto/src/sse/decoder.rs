//! The decoder: bytes to frames.

use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::mem;
use core::time::Duration;

use bytes::{Bytes, BytesMut};
use bytestring::ByteString;

use super::block::{
    Block, Effect, Extent, KEEP, Number, Start, append, checked, find_far_line_end, find_line_end, give,
    join, next_line, parse_line, put, put_line, replaced, starts_in_two, text, value,
};
use super::frame::{Comment, Event, Frame, Oversized, Text};
use super::limits::{Limit, Limits};
use super::span::Span;

mod crumbs;
mod series;

use series::Checked;
pub use series::{Numbered, Series};

/// Decodes one event stream, and the streams that continue it after a reconnect.
///
/// **After every [`feed`](Self::feed), call [`next_frame`](Self::next_frame) until it returns `None`.** Feeding
/// more before that is allowed; it only takes more memory.
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
    /// Where the next line begins.
    start: Start,
    /// Held bytes of a line; `start` says which.
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
    /// The same for events that have no id of their own.
    shared: Arc<String>,
    sharing: Sharing,
    /// Room for slices that were fed.
    scratch: BytesMut,
    /// The text of a chunk that consists of events of a series.
    checked: Checked,
    /// Size of the last text that was given away with its buffer.
    last_huge: usize,
}

enum Input {
    Chunk(Bytes),
    End,
}

/// Whether the id that events without one of their own share is the last event id.
#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum Sharing {
    #[default]
    UpToDate,
    /// It is brought up to date when the first such event comes.
    Behind,
}

/// Why reading the lines of a chunk stopped.
enum LinesEnd {
    /// All of them are read.
    More,
    /// The last one ends in a chunk to come.
    LineCut,
    /// A line takes the block over a limit.
    Over(Limit),
    /// A blank line at this position ends a block that is not wholly in the chunk.
    BlockEnd(usize),
    Event(Event),
    Comment(Comment),
    Retry(Duration),
}

/// Larger chunks are read in pieces, so that positions fit in 32 bits.
const LARGEST_CHUNK: usize = 1 << 30;

/// How the line of data in a plain block begins.
const DATA: &[u8; 6] = b"data: ";

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
        self.sharing = Sharing::Behind;
        self
    }

    /// The last event id string: what blocks that ended with a blank line have set. Empty when there is none.
    ///
    /// This is the value for the `Last-Event-ID` header of a reconnect. The id of a block that was cut off is not in
    /// it.
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
    ///
    /// This is for chunks that come as [`Bytes`], or as a `Vec` that can be given away. Callers that read into a
    /// buffer they reuse call [`feed_slice`](Self::feed_slice).
    #[inline]
    pub fn feed(&mut self, chunk: impl Into<Bytes>) {
        self.feed_chunk(chunk.into());
    }

    fn feed_chunk(&mut self, mut chunk: Bytes) {
        if self.is_drained() && self.feed_crumb(&chunk, true) {
            return;
        }
        if self.start == Start::PutOff {
            self.gather_crumbs();
        }
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
        if self.is_drained() && self.feed_crumb(chunk, false) {
            return;
        }
        put(&mut self.scratch, chunk);
        let chunk = give(&mut self.scratch);
        self.feed_chunk(chunk);
    }

    /// Frees memory that is kept for reuse; an unfinished block stays. For callers that wait for input on many
    /// streams; while input comes, the memory would only be allocated again.
    pub fn release_memory(&mut self) {
        for buffer in [&mut self.line, &mut self.joined, &mut self.scratch] {
            if buffer.is_empty() {
                *buffer = BytesMut::new();
            }
        }
        if self.queue.is_empty() {
            self.queue = VecDeque::new();
        }
        self.checked = Checked::default();
    }

    /// Ends the stream: an unfinished block is dropped, and its id does not count.
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
    #[inline]
    pub fn next_frame(&mut self) -> Option<Frame> {
        match self.plain_event() {
            Some(event) => Some(Frame::Event(event)),
            None if self.is_drained() => None,
            None => match self.start {
                Start::InCrumbs(number) => self.crumb_frame(number),
                _ => self.any_frame(),
            },
        }
    }

    /// The block that most streams consist of: one line of data and a blank line, in the chunk, with nothing before it.
    /// Small enough to be part of its caller.
    #[inline]
    fn plain_event(&mut self) -> Option<Event> {
        if self.start != Start::InChunk || !self.block.is_empty() {
            return None;
        }
        let chunk = &self.chunk[..];
        let start = self.pos + DATA.len();
        if chunk.get(self.pos..start)? != DATA {
            return None;
        }
        let end = find_line_end(chunk, start)?;
        let blank = chunk.get(end..end + 2)? == b"\n\n";
        if !blank || end - self.pos > self.limits.line || end - start > self.limits.data {
            return None;
        }
        let text = ByteString::try_from(self.chunk.slice(start..end)).ok()?;
        self.pos = end + 2;
        self.start_block(self.pos);
        let (data, text) = (Span::new(0, text.len()), Text::Shared(text));
        Some(Event { text, data, kind: Span::NONE, id: Span::NONE, inherited: self.inherited_id() })
    }

    /// The next frame of any kind.
    #[inline(never)]
    fn any_frame(&mut self) -> Option<Frame> {
        loop {
            if self.pos == self.chunk.len() {
                if !self.next_input() {
                    return None;
                }
            } else if self.start != Start::InChunk {
                if let Some(frame) = self.carried_line() {
                    return Some(frame);
                }
            } else {
                match self.lines() {
                    LinesEnd::More => {}
                    LinesEnd::LineCut => self.leave_chunk(),
                    LinesEnd::Over(limit) => self.block.go_over(limit, &mut self.joined),
                    LinesEnd::BlockEnd(start) => {
                        if let Some(frame) = self.end_block(start) {
                            return Some(frame);
                        }
                    }
                    LinesEnd::Event(event) => return Some(Frame::Event(event)),
                    LinesEnd::Comment(comment) => return Some(Frame::Comment(comment)),
                    LinesEnd::Retry(delay) => return Some(Frame::Retry(delay)),
                }
            }
        }
    }

    #[inline]
    fn is_drained(&self) -> bool {
        self.chunk.is_empty() && !matches!(self.start, Start::InCrumbs(_)) && self.queue.is_empty()
    }

    /// Goes on to the next chunk of the queue.
    fn next_input(&mut self) -> bool {
        if !self.chunk.is_empty() {
            self.leave_chunk();
        }
        if self.queue.is_empty() {
            return false;
        }
        match self.queue.pop_front() {
            Some(Input::Chunk(chunk)) => self.chunk = chunk,
            Some(Input::End) => self.reset(),
            None => return false,
        }
        true
    }

    /// Resets everything but the last event id.
    fn reset(&mut self) {
        self.start = Start::OfStream;
        self.line.clear();
        self.clear_block();
        self.start_block(self.pos);
    }

    /// Copies the unfinished line and block out of the chunk, and frees the chunk.
    fn leave_chunk(&mut self) {
        if !self.block.is_empty() {
            let Block { extent, data, kind, id } = &mut self.block;
            *extent = extent.with_copy();
            for (value, held) in [(kind, &mut self.kind_held), (id, &mut self.id_held)] {
                if value.is_inside() {
                    held.clear();
                    held.extend_from_slice(&self.chunk[value.range()]);
                    *value = Span::outside(0);
                }
            }
            if data.is_some() {
                *data = join(*data, &self.chunk, &mut self.joined);
            }
        }
        // Its text would keep the memory of the chunk.
        self.checked = Checked::default();
        let chunk = mem::take(&mut self.chunk);
        self.hold_line(&chunk[self.pos..]);
        self.block_before += (chunk.len() - self.block_pos) as u64;
        self.block_pos = 0;
        self.pos = 0;
    }

    /// Keeps the part of a line that a chunk ends with.
    #[inline]
    fn hold_line(&mut self, part: &[u8]) {
        if part.is_empty() || self.start == Start::Dropped {
            return;
        }
        let number = self.start.number();
        // A BOM is removed when the line has ended.
        let bom = if number == Number::First { BOM.len() } else { 0 };
        if self.line.len() + part.len() > self.limits.line + bom {
            self.start = Start::Dropped;
            self.line = BytesMut::new();
            self.block.go_over(Limit::Line, &mut self.joined);
        } else {
            self.start = Start::Held(number);
            // A sender of one huge line will send another: memory for it is allocated at once instead of by
            // doubling.
            if self.line.len() > KEEP / 8 && self.line.capacity() - self.line.len() < part.len() {
                self.line.reserve(self.last_huge.saturating_sub(self.line.len()).max(part.len()));
            }
            put(&mut self.line, part);
        }
    }

    /// Reads lines that lie in the chunk, up to one that yields a frame.
    #[inline(always)]
    fn lines(&mut self) -> LinesEnd {
        let chunk = &self.chunk[..];
        // Kept in registers while the lines of a block are read; written back on every exit but the shortest one.
        let mut block = self.block;
        let mut at = self.pos;
        let mut long = false;
        let out = loop {
            let start = at;
            // Many lines are blank; comparing one byte is cheaper than a search.
            let end = match chunk.get(at) {
                Some(b'\n') => at,
                // A line after a long one is likely to be long.
                Some(_) => match if long { find_far_line_end(chunk, at) } else { find_line_end(chunk, at) } {
                    Some(end) => end,
                    None => break LinesEnd::LineCut,
                },
                None => break LinesEnd::More,
            };
            at = next_line(chunk, end).unwrap_or_else(|| {
                self.start = Start::AfterReturn;
                end + 1
            });
            if start == end {
                if block.is_empty() {
                    (self.block_before, self.block_pos) = (0, at);
                    continue;
                }
                if block.extent != Extent::InChunk || !block.data.is_some() {
                    break LinesEnd::BlockEnd(start);
                }
                // One view over all parts of the event, checked once.
                let Block { data, kind, id, .. } = block;
                let (mut low, mut high) = (data.start(), data.end());
                for value in [kind, id] {
                    if value.is_some() {
                        (low, high) = (low.min(value.start()), high.max(value.end()));
                    }
                }
                let Ok(text) = ByteString::try_from(self.chunk.slice(low..high)) else {
                    break LinesEnd::BlockEnd(start);
                };
                if !self.block.is_empty() {
                    self.block = Block::default();
                }
                self.pos = at;
                (self.block_before, self.block_pos) = (0, at);
                let has_id = id.is_some();
                let (data, kind, id) = (data.after(low), kind.after(low), id.after(low));
                let inherited = self.settle_id(has_id.then(|| &text[id.range()]));
                return LinesEnd::Event(Event { text: Text::Shared(text), data, kind, id, inherited });
            }
            let line = &chunk[start..end];
            long = line.len() > 16;
            if line.len() > self.limits.line {
                break LinesEnd::Over(Limit::Line);
            }
            let (field, value) = parse_line(line);
            let effect = block.effect(field, line, value, &self.joined, &self.limits);
            let value = Span::new(start + value, end);
            match effect {
                Effect::Nothing => {}
                Effect::FirstData => block.data = value,
                Effect::MoreData => {
                    block.data = join(block.data, chunk, &mut self.joined);
                    block.extent = Extent::Scattered;
                    put_line(&mut self.joined, &chunk[..end], value.start());
                }
                Effect::Kind => block.kind = value,
                Effect::Id => block.id = value,
                Effect::Retry(delay) => {
                    block.extent = block.extent.with_line();
                    break LinesEnd::Retry(delay);
                }
                Effect::Comment => {
                    if block.is_empty() {
                        (self.block_before, self.block_pos) = (0, at);
                    }
                    break LinesEnd::Comment(Comment(text(self.chunk.slice(value.range()))));
                }
                Effect::Over(limit) => break LinesEnd::Over(limit),
            }
            block.extent = block.extent.with_line();
        };
        self.block = block;
        self.pos = at;
        out
    }

    /// Reads the rest of a line from an earlier chunk, the first line of a stream, or an LF that belongs to a CR.
    #[inline(never)]
    fn carried_line(&mut self) -> Option<Frame> {
        if self.start == Start::AfterReturn {
            self.start = Start::InChunk;
            if self.chunk[self.pos] == b'\n' {
                self.pos += 1;
                if self.block.is_empty() {
                    self.start_block(self.pos);
                }
            }
            return None;
        }
        let start = self.pos;
        let Some(end) = find_line_end(&self.chunk, start) else {
            self.leave_chunk();
            return None;
        };
        if self.start == Start::OfStream {
            let bom = self.chunk[start..].starts_with(BOM);
            self.pos += if bom { BOM.len() } else { 0 };
            self.start = Start::InChunk;
            return None;
        }
        let begun = self.start;
        (self.pos, self.start) = match next_line(&self.chunk, end) {
            Some(next) => (next, Start::InChunk),
            None => (end + 1, Start::AfterReturn),
        };
        // The dropped line has ended.
        let Start::Held(number) = begun else { return None };
        let rest = &self.chunk[start..end];
        let bom = number == Number::First && starts_in_two(&self.line, rest, BOM);
        let bom = if bom { BOM.len() } else { 0 };
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

    /// A line that came in several chunks has ended; it is in `line`, after a BOM of that many bytes.
    fn held_line(&mut self, bom: usize) -> Option<Frame> {
        let (field, value) = parse_line(&self.line[bom..]);
        let value = bom + value;
        let (block, joined) = (&mut self.block, &mut self.joined);
        let effect = block.effect(field, &self.line, value, joined, &self.limits);
        if !matches!(effect, Effect::Comment) {
            block.extent = block.extent.with_copy();
        }
        let mut frame = None;
        match effect {
            Effect::Nothing => {}
            Effect::FirstData => {
                // The line becomes the data as it is: nothing is copied twice.
                mem::swap(&mut self.line, joined);
                block.data = Span::outside(value);
            }
            Effect::MoreData => {
                block.data = join(block.data, &self.chunk, joined);
                put_line(joined, &self.line, value);
            }
            Effect::Kind => {
                self.kind_held.clear();
                self.kind_held.extend_from_slice(&self.line[value..]);
                block.kind = Span::outside(0);
            }
            Effect::Id => {
                self.id_held.clear();
                self.id_held.extend_from_slice(&self.line[value..]);
                block.id = Span::outside(0);
            }
            Effect::Retry(delay) => frame = Some(Frame::Retry(delay)),
            Effect::Comment => {
                if block.is_empty() {
                    self.start_block(self.pos);
                }
                let line = give(&mut self.line);
                frame = Some(Frame::Comment(Comment(text(line.slice(value..)))));
            }
            Effect::Over(limit) => block.go_over(limit, joined),
        }
        self.line.clear();
        if self.line.capacity() > KEEP {
            self.line = BytesMut::new();
        }
        frame
    }

    /// Handles a blank line at `at`: dispatches the block.
    #[inline(never)]
    fn end_block(&mut self, at: usize) -> Option<Frame> {
        let frame = if let Extent::Over(limit) = self.block.extent {
            Some(Frame::Oversized(self.oversized(limit, at)))
        } else if self.block.data.is_some() {
            Some(Frame::Event(self.joined_event()))
        } else {
            self.commit_id();
            None
        };
        self.clear_block();
        self.start_block(self.pos);
        frame
    }

    /// An event whose parts are gathered in `joined`: data, then type, then id.
    fn joined_event(&mut self) -> Event {
        let joined = &mut self.joined;
        let Block { data, kind, id, .. } = self.block;
        let has_id = id.is_some();
        let start = join(data, &self.chunk, joined).end();
        let data = Span::new(start, joined.len());
        let kind = append(joined, &self.chunk, kind, &self.kind_held);
        let id = append(joined, &self.chunk, id, &self.id_held);
        if joined.len() > KEEP {
            self.last_huge = joined.len();
        }
        let whole = |span: Span, text: &str| text.is_char_boundary(span.start());
        let (text, data, kind, id) = match checked(give(joined)) {
            // Valid as a whole does not mean that each part is: a sequence could reach from one into the next.
            Ok(text) if whole(kind, &text) && whole(id, &text) => (text, data, kind, id),
            Ok(text) => replaced(text.as_bytes(), data, kind, id),
            Err(bytes) => replaced(&bytes, data, kind, id),
        };
        let inherited = self.settle_id(has_id.then(|| &text[id.range()]));
        Event { text: Text::Shared(text), data, kind, id, inherited }
    }

    #[cold]
    fn oversized(&mut self, limit: Limit, at: usize) -> Oversized {
        self.commit_id();
        let size = self.block_before + (at - self.block_pos) as u64;
        let kind = String::from_utf8_lossy(value(&self.chunk, self.block.kind, &self.kind_held)).into_owned();
        Oversized { limit, size, kind, last_event_id: self.committed.clone() }
    }

    /// Makes the id of the block, if it has one, the last event id.
    fn commit_id(&mut self) {
        if self.block.id.is_some() {
            let id = String::from_utf8_lossy(value(&self.chunk, self.block.id, &self.id_held));
            self.committed.clear();
            self.committed.push_str(&id);
            self.sharing = Sharing::Behind;
        }
    }

    /// Makes the id of an event the last event id, or returns the last event id for an event without an id.
    #[inline(always)]
    fn settle_id(&mut self, id: Option<&str>) -> Option<Arc<String>> {
        if let Some(id) = id {
            self.committed.clear();
            self.committed.push_str(id);
            self.sharing = Sharing::Behind;
            None
        } else {
            self.inherited_id()
        }
    }

    /// The last event id for an event that sets none; `None` when it is empty.
    #[inline]
    fn inherited_id(&mut self) -> Option<Arc<String>> {
        if self.committed.is_empty() { None } else { Some(self.shared_id()) }
    }

    fn shared_id(&mut self) -> Arc<String> {
        if self.sharing == Sharing::Behind {
            self.sharing = Sharing::UpToDate;
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
