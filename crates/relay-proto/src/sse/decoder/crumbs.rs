//! Chunks of a few bytes, which cost less to copy than to refer to.
//!
//! They gather in the buffer of the unfinished line. When that holds a line end there is something to read: either the
//! plain and short event it most likely is, copied out, or a chunk like any other.

use core::mem;

use super::{DATA, Decoder};
use crate::sse::block::{find_line_end, give, put};
use crate::sse::frame::{Event, Frame, Text};
use crate::sse::span::Span;

/// Chunks up to this size, in bytes, are crumbs.
const CRUMB: usize = 64;

/// A line longer than this is not read again for the sake of its last few bytes.
const LONG: usize = 1024;

impl Decoder {
    /// Takes a chunk by copying it, if it is a crumb and all input before it is read. One that is `shared` is left to
    /// be referred to when it does not go on with a line.
    pub(super) fn feed_crumb(&mut self, crumb: &[u8], shared: bool) -> bool {
        if crumb.len() > CRUMB || self.carry.skip_lf || self.carry.line_over {
            return false;
        }
        let Some(last) = crumb.len().checked_sub(1) else { return true };
        let end = find_line_end(crumb, 0);
        if end.is_none() && !self.line_ended {
            self.hold_line(crumb);
        } else if (shared && !self.carry.line) || self.line.len() > LONG {
            return false;
        } else {
            put(&mut self.line, crumb);
            self.crumbs = true;
            self.line_ended = false;
            // Between the two line ends of a plain event nothing can be said: better to wait for the second.
            if end == Some(last)
                && !self.block.touched
                && !self.carry.first_line
                && self.line.ends_with(b"\n")
                && self.line.starts_with(DATA)
                && find_line_end(&self.line, 0) == Some(self.line.len() - 1)
            {
                (self.crumbs, self.line_ended) = (false, true);
                (self.carry.any, self.carry.line) = (true, true);
            }
        }
        self.block_before += crumb.len() as u64;
        true
    }

    /// The next frame, when the crumbs hold a line end.
    #[inline(never)]
    pub(super) fn crumb_frame(&mut self) -> Option<Frame> {
        if let Some(event) = self.crumb_event() {
            return Some(Frame::Event(event));
        }
        self.gather_crumbs();
        self.any_frame()
    }

    /// Makes the crumbs a chunk.
    pub(super) fn gather_crumbs(&mut self) {
        (self.crumbs, self.line_ended) = (false, false);
        self.carry.line = false;
        self.carry.any = self.carry.first_line;
        self.block_before -= self.line.len() as u64;
        self.chunk = give(&mut self.line);
        // What the chunk leaves goes elsewhere, so that its memory is free again when it is read.
        mem::swap(&mut self.line, &mut self.scratch);
    }

    /// What [`Decoder::plain_event`] finds in a chunk, if it is short.
    #[inline]
    fn crumb_event(&mut self) -> Option<Event> {
        let line = &self.line[..];
        if self.block.touched || self.carry.first_line || !line.starts_with(DATA) {
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
        self.carry.line = rest > 0;
        self.carry.any = rest > 0;
        self.crumbs = find_line_end(&self.line, 0).is_some();
        self.block_before = rest as u64;
        let data = Span::new(0, end - DATA.len());
        Some(Event { text, data, kind: Span::NONE, id: Span::NONE, inherited: self.inherited_id() })
    }
}
