//! Limits of a decoder.

use core::fmt;

/// How much of one block a decoder holds. All sizes are bytes as received, before U+FFFD replaces what is not UTF-8
/// (which can make invalid text up to three times as long).
///
/// Memory: a decoder holds at most one unfinished line and the data, type and id of one unfinished block, so with the
/// buffers' growth by doubling no more than `2 * (line + data) + id + kind`, and only while a block is that large:
/// typically a few KiB. Larger limits than 1 GiB, for the id and the type 64 MiB, count as those.
///
/// ```
/// use relay_proto::sse::{Decoder, Limits};
/// let decoder = Decoder::new(Limits::default().data(1 << 20).line(1 << 20));
/// # let _ = decoder;
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// One line, field name included, line end excluded. Default 16 MiB. Costs that much while such a line is
    /// incomplete.
    pub line: usize,
    /// The data of one event, its lines joined. Default 16 MiB. Costs that much while such a block is incomplete.
    pub data: usize,
    /// The value of an `id` field. Default 4 KiB. Costs that much for as long as the id stays in force, twice if events
    /// without an id of their own follow.
    pub id: usize,
    /// The value of an `event` field. Default 1 KiB. Costs that much while the block is incomplete.
    pub kind: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { line: 16 << 20, data: 16 << 20, id: 4 << 10, kind: 1 << 10 }
    }
}

impl Limits {
    /// With these bounds, positions within an event fit in 32 bits, even if all of it is replaced by U+FFFD.
    pub(super) fn bounded(self) -> Self {
        let (large, small) = (1 << 30, 1 << 26);
        Self {
            line: self.line.min(large),
            data: self.data.min(large),
            id: self.id.min(small),
            kind: self.kind.min(small),
        }
    }

    /// Sets [`line`](Self::line), in bytes.
    #[must_use]
    pub fn line(mut self, bytes: usize) -> Self {
        self.line = bytes;
        self
    }

    /// Sets [`data`](Self::data), in bytes.
    #[must_use]
    pub fn data(mut self, bytes: usize) -> Self {
        self.data = bytes;
        self
    }

    /// Sets [`id`](Self::id), in bytes.
    #[must_use]
    pub fn id(mut self, bytes: usize) -> Self {
        self.id = bytes;
        self
    }

    /// Sets [`kind`](Self::kind), in bytes.
    #[must_use]
    pub fn kind(mut self, bytes: usize) -> Self {
        self.kind = bytes;
        self
    }
}

/// Names one of the [`Limits`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Limit {
    /// [`Limits::line`].
    Line,
    /// [`Limits::data`].
    Data,
    /// [`Limits::id`].
    Id,
    /// [`Limits::kind`].
    Type,
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Line => "line",
            Self::Data => "data",
            Self::Id => "id",
            Self::Type => "type",
        })
    }
}
