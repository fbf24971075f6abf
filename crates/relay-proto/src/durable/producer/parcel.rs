//! A batch in flight.

use alloc::vec::Vec;

use bytes::{Bytes, BytesMut};

use crate::durable::Offset;

/// Messages that are sent together.
#[derive(Debug)]
pub(super) struct Parcel {
    pub(super) seq: u64,
    pub(super) stage: Stage,
    pub(super) attempts: u32,
    /// Whether it was in flight in an earlier process.
    pub(super) known: bool,
    /// Whether an attempt may have been accepted, or may still be.
    pub(super) ambiguous: bool,
    /// Whether all earlier batches were acknowledged when it was last sent.
    pub(super) alone: bool,
    /// Whether the server requires a smaller batch.
    pub(super) halve: bool,
    building: BytesMut,
    body: Bytes,
    /// The end of each message in the body, and the caller's mark after it.
    ends: Vec<(u32, u64)>,
    from: u64,
    payload: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Stage {
    Ready,
    Out(u64),
    /// Waits until all earlier batches are acknowledged.
    Behind,
    Acknowledged {
        offset: Option<Offset>,
        duplicate: bool,
    },
}

impl Parcel {
    /// An empty batch that begins after the mark `from`.
    pub(super) fn new(json: bool, from: u64) -> Self {
        let mut building = BytesMut::new();
        if json {
            building.extend_from_slice(b"[");
        }
        Self {
            seq: 0,
            stage: Stage::Ready,
            attempts: 0,
            known: false,
            ambiguous: false,
            alone: false,
            halve: false,
            building,
            body: Bytes::new(),
            ends: Vec::new(),
            from,
            payload: 0,
        }
    }

    /// A sealed batch of one message, whose memory is the body.
    pub(super) fn whole(message: Bytes, mark: u64, from: u64) -> Self {
        let length = message.len();
        let ends = alloc::vec![(u32::try_from(length).unwrap_or(u32::MAX), mark)];
        Self { body: message, ends, payload: length as u64, ..Self::new(false, from) }
    }

    pub(super) fn push(&mut self, message: &[u8], mark: u64, json: bool) {
        if json && !self.ends.is_empty() {
            self.building.extend_from_slice(b",");
        }
        self.building.extend_from_slice(message);
        self.payload += message.len() as u64;
        self.ends.push((u32::try_from(self.building.len()).unwrap_or(u32::MAX), mark));
    }

    /// The size of the sealed body with one more message, not counting that message.
    pub(super) fn size(&self, json: bool) -> usize {
        self.building.len() + if json { 2 } else { 0 }
    }

    /// Bytes of the messages.
    pub(super) fn payload(&self) -> u64 {
        self.payload
    }

    /// Messages.
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(super) fn first_mark(&self) -> u64 {
        self.from
    }

    pub(super) fn last_mark(&self) -> u64 {
        self.ends.last().map_or(self.from, |(_, mark)| *mark)
    }

    pub(super) fn seal(&mut self, seq: u64, json: bool) {
        self.seq = seq;
        if json {
            self.building.extend_from_slice(b"]");
        }
        self.body = core::mem::take(&mut self.building).freeze();
    }

    pub(super) fn body(&self) -> Bytes {
        self.body.clone()
    }

    /// Resets the attempts: nothing was sent under the present number.
    pub(super) fn unsent(&mut self) {
        self.attempts = 0;
        self.ambiguous = false;
        self.known = false;
    }

    /// Keeps the first half of the messages, and returns the second. Both are sealed.
    pub(super) fn split(&mut self, json: bool) -> Self {
        let middle = self.ends.len() / 2;
        let (_, mark) = self.ends[middle - 1];
        let (mut first, mut second) = (Self::new(json, self.from), Self::new(json, mark));
        let mut start = usize::from(json);
        for (index, (end, mark)) in self.ends.iter().enumerate() {
            let message = &self.body[start..*end as usize];
            let half = if index < middle { &mut first } else { &mut second };
            half.push(message, *mark, json);
            start = *end as usize + usize::from(json);
        }
        first.seal(self.seq, json);
        second.seal(self.seq, json);
        *self = first;
        second
    }
}
