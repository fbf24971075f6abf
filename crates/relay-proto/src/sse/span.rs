//! The place of a field's value.

use core::ops::Range;

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
    pub(super) fn is_inside(self) -> bool {
        self.is_some() && !self.is_outside()
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

    /// The same place, seen from `origin`; nowhere stays nowhere.
    #[inline]
    pub(super) fn after(self, origin: usize) -> Self {
        if self.is_some() { Self::new(self.start() - origin, self.end() - origin) } else { self }
    }
}
