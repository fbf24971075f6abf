//! Chunks of a few bytes, which cost less to copy than to refer to.
//!
//! They gather in the buffer of the unfinished line. When it holds a line end, it is read: as a short plain event,
//! which is copied out, or like any other chunk.

use core::mem;

use super::{DATA, Decoder};
use crate::sse::block::{Number, Start, find_line_end, give, put};
use crate::sse::frame::{Event, Frame, Text};
use crate::sse::span::Span;

/// Chunks up to this size, in bytes, are crumbs.
const CRUMB: usize = 64;

/// A longer line is not gathered: reading it again for a few more bytes would cost too much.
const LONG: usize = 1024;

impl Decoder {
    /// Takes a chunk by copying it, if it is a crumb and all input before it is read. A `shared` chunk that does
    /// not continue a line is not copied.
    pub(super) fn feed_crumb(&mut self, crumb: &[u8], shared: bool) -> bool {
        if crumb.len() > CRUMB || matches!(self.start, Start::AfterReturn | Start::Dropped) {
            return false;
        }
        let Some(last) = crumb.len().checked_sub(1) else { return true };
        let end = find_line_end(crumb, 0);
        let begins = matches!(self.start, Start::InChunk | Start::OfStream);
        if end.is_none() && self.start != Start::PutOff {
            self.hold_line(crumb);
        } else if (shared && begins) || self.line.len() > LONG {
            return false;
        } else {
            put(&mut self.line, crumb);
            let number = self.start.number();
            // Between the two line ends of a plain event there is nothing to yield: wait for the second.
            let plain = end == Some(last)
                && self.block.is_empty()
                && number == Number::Later
                && self.line.ends_with(b"\n")
                && self.line.starts_with(DATA)
                && find_line_end(&self.line, 0) == Some(self.line.len() - 1);
            self.start = if plain { Start::PutOff } else { Start::InCrumbs(number) };
        }
        self.block_before += crumb.len() as u64;
        true
    }

    /// The next frame, when the crumbs hold a line end.
    #[inline(never)]
    pub(super) fn crumb_frame(&mut self, number: Number) -> Option<Frame> {
        if let Some(event) = self.crumb_event(number) {
            return Some(Frame::Event(event));
        }
        self.gather_crumbs();
        self.any_frame()
    }

    /// Makes the crumbs a chunk.
    pub(super) fn gather_crumbs(&mut self) {
        self.start = match self.start.number() {
            Number::First => Start::OfStream,
            Number::Later => Start::InChunk,
        };
        self.block_before -= self.line.len() as u64;
        self.chunk = give(&mut self.line);
        // The rest of the chunk is copied elsewhere, so that its memory is free once it is read.
        mem::swap(&mut self.line, &mut self.scratch);
    }

    /// What [`Decoder::plain_event`] finds in a chunk, if it is short.
    #[inline]
    fn crumb_event(&mut self, number: Number) -> Option<Event> {
        let line = &self.line[..];
        if !self.block.is_empty() || number == Number::First || !line.starts_with(DATA) {
            return None;
        }
        let end = find_line_end(line, DATA.len())?;
        let next = end + 2;
        if line.get(end..next)? != b"\n\n" || end > self.limits.line || end - DATA.len() > self.limits.data {
            return None;
        }
        let text = Text::small(&line[DATA.len()..end])?;

        let rest = line.len() - next;
        self.line.copy_within(next.., 0);
        self.line.truncate(rest);
        self.start = match find_line_end(&self.line, 0) {
            Some(_) => Start::InCrumbs(Number::Later),
            None if rest > 0 => Start::Held(Number::Later),
            None => Start::InChunk,
        };
        self.block_before = rest as u64;
        let data = Span::new(0, end - DATA.len());
        Some(Event { text, data, kind: Span::NONE, id: Span::NONE, inherited: self.inherited_id() })
    }
}
