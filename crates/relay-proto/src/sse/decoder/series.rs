//! Events that are alike but for a number and their data.

use alloc::string::String;
use core::fmt;
use core::ops::Range;

use bytestring::ByteString;

use super::{Decoder, Sharing};
use crate::sse::block::{Start, find_far_line_end};
use crate::sse::limits::Limits;

/// What the events of a series have in common: a type, and an id that is a fixed text and a number, such as the name of
/// a log and an offset in it. See [`Decoder::next_in_series`].
///
/// ```
/// use relay_proto::sse::{Decoder, Series};
///
/// let series = Series::new("tick", "clock-").unwrap();
/// let mut decoder = Decoder::default();
/// decoder.feed(": hello\nevent: tick\nid: clock-41\ndata: noon\n\nevent: tick\nid: clock-42\ndata: one\n\n");
/// // The first frame is a comment, which is read in the general way.
/// assert!(decoder.next_in_series(&series).is_none());
/// assert!(decoder.next_frame().is_some());
/// let event = decoder.next_in_series(&series).unwrap();
/// assert_eq!((event.number(), event.data()), (41, "noon"));
/// assert_eq!(decoder.last_event_id(), "clock-41");
/// # assert_eq!(decoder.next_in_series(&series).map(|event| event.number()), Some(42));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Series {
    /// How each block begins: `event: TYPE`, a line end, `id: ` and the fixed text.
    head: String,
    /// Bytes of the fixed text.
    id: usize,
}

/// An event of a [`Series`]. `Debug` shows the size of the data, never the data.
pub struct Numbered<'a> {
    number: u64,
    text: &'a ByteString,
    data: Range<usize>,
}

/// A part of a chunk that is known to be text, which is checked for many events at once.
#[derive(Default)]
pub(super) struct Checked {
    /// Where it begins in the chunk.
    at: usize,
    text: ByteString,
}

/// With so many digits a number fits, whatever they are.
const DIGITS: usize = 19;

/// What is between the id and the data.
const DATA: &[u8; 7] = b"\ndata: ";

impl Series {
    /// A series of events of a type, whose ids begin with a fixed text. `None` when either has a line end or a NUL,
    /// which they cannot have in a stream.
    pub fn new(kind: &str, id: &str) -> Option<Self> {
        if [kind, id].iter().any(|text| text.contains(['\n', '\r', '\0'])) {
            return None;
        }
        let head = ["event: ", kind, "\nid: ", id].concat();
        Some(Self { id: id.len(), head })
    }
}

impl<'a> Numbered<'a> {
    /// The number at the end of its id.
    #[inline]
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Its data.
    pub fn data(&self) -> &'a str {
        &self.text[self.data.clone()]
    }

    /// Its data as a part of a text, which shares the memory of the chunk it came in.
    #[inline]
    pub fn part(&self) -> (&'a ByteString, Range<usize>) {
        (self.text, self.data.clone())
    }
}

impl fmt::Debug for Numbered<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Numbered")
            .field("number", &self.number)
            .field("data_bytes", &self.data().len())
            .finish()
    }
}

impl Decoder {
    /// The next frame, if it is an event of the series, written as [`Encoder`](crate::sse::Encoder) writes it, and its
    /// block lies as a whole in one chunk. Nothing is read otherwise: after `None`, call
    /// [`next_frame`](Self::next_frame), which may return an event of the series all the same.
    ///
    /// For streams that consist of such events. The block is not taken apart into lines and fields: its first bytes are
    /// compared with those of the series, and only the number and the end of the data are looked for.
    #[inline(always)]
    pub fn next_in_series(&mut self, series: &Series) -> Option<Numbered<'_>> {
        if self.start != Start::InChunk || !self.block.is_empty() {
            return None;
        }
        let chunk = &self.chunk[..];
        let digits = self.pos + series.head.len();
        if chunk.get(self.pos..digits)? != series.head.as_bytes() {
            return None;
        }
        let (mut at, mut number) = (digits, 0_u64);
        while let Some(digit @ b'0'..=b'9') = chunk.get(at) {
            if at - digits == DIGITS {
                return None;
            }
            number = number * 10 + u64::from(digit - b'0');
            at += 1;
        }
        // None, or one with a zero before it, is not how a number is written.
        if at == digits || (chunk[digits] == b'0' && at > digits + 1) {
            return None;
        }
        let start = at + DATA.len();
        if chunk.get(at..start)? != DATA {
            return None;
        }
        let end = find_far_line_end(chunk, start)?;
        // A block that is smaller than every limit exceeds none of them.
        let Limits { line, data, id, kind, .. } = self.limits;
        let fits = end - self.pos <= line.min(data) && at - self.pos <= id.min(kind);
        if chunk.get(end..end + 2)? != b"\n\n" || !fits {
            return None;
        }
        let checked = self.checked_text(end)?;
        let (id, data) = (digits - series.id - checked..at - checked, start - checked..end - checked);
        self.pos = end + 2;
        self.start_block(self.pos);
        let text = &self.checked.text;
        self.committed.clear();
        self.committed.push_str(text.get(id).unwrap_or_default());
        self.sharing = Sharing::Behind;
        Some(Numbered { number, text, data })
    }

    /// Where in the chunk the text begins that contains the next block up to `end`; `None` when that is not UTF-8.
    #[inline]
    fn checked_text(&mut self, end: usize) -> Option<usize> {
        // It is forgotten with its chunk.
        if self.pos >= self.checked.at + self.checked.text.len() {
            self.check_text();
        }
        let Checked { at, text } = &self.checked;
        (end <= at + text.len()).then_some(*at)
    }

    /// Checks the rest of the chunk up to the first byte that is not UTF-8.
    #[inline(never)]
    fn check_text(&mut self) {
        let rest = self.chunk.slice(self.pos..);
        let text = ByteString::try_from(rest.clone()).or_else(|error| {
            // What was valid is valid again.
            ByteString::try_from(rest.slice(..error.valid_up_to()))
        });
        self.checked = Checked { at: self.pos, text: text.unwrap_or_default() };
    }
}
