//! Frames: the output of a decoder.

use alloc::string::String;
use alloc::sync::Arc;
use core::fmt;
use core::ops::Range;
use core::time::Duration;

use bytes::Bytes;
use bytestring::ByteString;

use super::limits::Limit;
use super::span::Span;

/// One frame of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Frame {
    /// A block with data, ended by a blank line.
    Event(Event),
    /// A line that starts with a colon; yielded when the line ends, without waiting for its block.
    Comment(Comment),
    /// A valid `retry` line: the new reconnection time. Yielded when the line ends, without waiting for its block.
    ///
    /// The value is the server's, from zero up to `u64::MAX` milliseconds: clamp it before adding it to a clock. Values
    /// that do not fit are ignored like any other malformed `retry`.
    Retry(Duration),
    /// A block that went over one of the [`Limits`](super::Limits), reported when its blank line came.
    Oversized(Oversized),
}

/// An event: its type, its data and the last event id in force when it was dispatched.
///
/// Cloning copies no text. The text is a view into the chunk the event came in, or into a buffer shared with a few
/// neighbouring events; callers that keep a few events for long should copy them, so that the memory can be freed.
///
/// `Debug` shows the size of the data, never the data.
#[derive(Clone)]
pub struct Event {
    pub(super) text: Text,
    pub(super) data: Span,
    /// Empty when the block named no type.
    pub(super) kind: Span,
    /// Counts when `inherited` is `None`.
    pub(super) id: Span,
    /// The id an earlier block has set, when this one sets none.
    pub(super) inherited: Option<Arc<String>>,
}

/// The text of an event: a view of all its parts, or a copy in place of short data.
#[derive(Clone)]
pub(super) enum Text {
    Shared(ByteString),
    /// Valid UTF-8: `small` has checked it.
    Small {
        length: u8,
        bytes: [u8; SMALL],
    },
}

/// The number of bytes that fit, with a length, in the size of the other variant.
const SMALL: usize = 22;

impl Text {
    /// `None` when it is too long or not UTF-8.
    #[inline]
    pub(super) fn small(text: &[u8]) -> Option<Self> {
        let mut bytes = [0; SMALL];
        bytes.get_mut(..text.len())?.copy_from_slice(text);
        core::str::from_utf8(text).ok()?;
        Some(Self::Small { length: text.len() as u8, bytes })
    }

    #[inline]
    fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Shared(text) => text.as_bytes(),
            Self::Small { length, bytes } => &bytes[..usize::from(*length)],
        }
    }

    #[inline]
    fn as_str(&self) -> &str {
        match self {
            Self::Shared(text) => text,
            Self::Small { length, bytes } => {
                core::str::from_utf8(&bytes[..usize::from(*length)]).unwrap_or_default()
            }
        }
    }
}

impl Event {
    /// The event type: the last `event` field of the block, or `message` when there was none or it was empty.
    pub fn kind(&self) -> &str {
        if self.kind.len() == 0 { "message" } else { &self.text.as_str()[self.kind.range()] }
    }

    /// Whether [`kind`](Self::kind) is this one: cheaper than a comparison of texts.
    #[inline]
    pub fn is(&self, kind: &str) -> bool {
        let bytes = self.text.as_bytes();
        match self.kind.len() {
            0 => kind == "message",
            length => length == kind.len() && bytes.get(self.kind.range()) == Some(kind.as_bytes()),
        }
    }

    /// The `data` lines joined with LF, without a final LF. May be empty.
    pub fn data(&self) -> &str {
        &self.text.as_str()[self.data.range()]
    }

    /// The same as [`data`](Self::data), as bytes that share the event's memory. Always valid UTF-8.
    ///
    /// Data of up to 22 bytes that came in chunks of a few bytes each is part of the event itself and is copied.
    pub fn data_bytes(&self) -> Bytes {
        match &self.text {
            Text::Shared(text) => text.as_bytes().slice(self.data.range()),
            Text::Small { .. } => Bytes::copy_from_slice(self.data().as_bytes()),
        }
    }

    /// The data of an event that is needed no longer, as a part of a text that changes hands.
    #[inline]
    pub fn into_data(self) -> (ByteString, Range<usize>) {
        match self.text {
            Text::Shared(text) => (text, self.data.range()),
            Text::Small { .. } => {
                let data = ByteString::from(self.data());
                let all = 0..data.len();
                (data, all)
            }
        }
    }

    /// The last event id as of this event: set by its own block or by an earlier one. Empty when there is none.
    pub fn last_event_id(&self) -> &str {
        match &self.inherited {
            Some(id) => id,
            None if self.id.len() == 0 => "",
            None => &self.text.as_str()[self.id.range()],
        }
    }
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Event")
            .field("kind", &self.kind())
            .field("last_event_id", &self.last_event_id())
            .field("data_bytes", &self.data.len())
            .finish()
    }
}

impl PartialEq for Event {
    fn eq(&self, other: &Self) -> bool {
        self.data() == other.data()
            && self.kind() == other.kind()
            && self.last_event_id() == other.last_event_id()
    }
}

impl Eq for Event {}

/// A comment line.
#[derive(Clone, PartialEq, Eq)]
pub struct Comment(pub(super) ByteString);

impl Comment {
    /// Everything after the colon, as it came: a space after the colon is part of it.
    pub fn text(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Comment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Comment").field("bytes", &self.0.len()).finish()
    }
}

/// A block that was skipped because it went over a limit.
///
/// Lines of the block that are within the limits were still honoured: its `id` counts as for any block, its `event`
/// names the type, its comments and `retry` lines were yielded. Its data is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Oversized {
    pub(super) limit: Limit,
    pub(super) size: u64,
    pub(super) kind: String,
    pub(super) last_event_id: String,
}

impl Oversized {
    /// The first limit that the block went over.
    pub fn limit(&self) -> Limit {
        self.limit
    }

    /// Size of the block in bytes as received, with its line ends, without the blank line that ended it.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The event type, as [`Event::kind`].
    pub fn kind(&self) -> &str {
        if self.kind.is_empty() { "message" } else { &self.kind }
    }

    /// The last event id as of this block, as [`Event::last_event_id`].
    pub fn last_event_id(&self) -> &str {
        &self.last_event_id
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With two more words, each event would take another cache line.
    #[test]
    fn an_event_fits_in_a_cache_line() {
        assert_eq!(size_of::<Event>(), 64);
    }

    #[test]
    fn an_event_is_of_its_kind() {
        let stream = "data: x\n\nevent: a\ndata: x\n\nevent: \ndata: x\n\nevent: message\ndata:\n\n";
        for cut in [1, stream.len()] {
            let mut decoder = crate::sse::Decoder::default();
            let mut kinds = Vec::new();
            for bytes in stream.as_bytes().chunks(cut) {
                decoder.feed(bytes.to_vec());
                while let Some(Frame::Event(event)) = decoder.next_frame() {
                    for kind in ["message", "a", "", "aa", "messages"] {
                        assert_eq!(event.is(kind), event.kind() == kind, "{event:?} {kind}");
                    }
                    kinds.push(String::from(event.kind()));
                }
            }
            assert_eq!(kinds, ["message", "a", "message", "message"]);
        }
    }

    #[test]
    fn small_texts_are_small_and_utf_8() {
        assert_eq!(Text::small("22 bytes are not large".as_bytes()).unwrap().as_str().len(), 22);
        assert!(Text::small("23 bytes are too large.".as_bytes()).is_none());
        assert!(Text::small(b"\xff").is_none());
        assert_eq!(Text::small(b"").unwrap().as_str(), "");
    }
}
