//! Received data that has not been returned yet, and how much of it to skip.

use alloc::vec::Vec;
use core::mem;

use bytes::{Bytes, BytesMut};

use super::Content;

/// Messages or bytes that wait for their offset. Bounded: excess data is returned as a separate piece.
#[derive(Debug)]
pub(super) struct Held {
    /// Size limit of a piece, in bytes.
    most: usize,
    /// The number of messages or bytes that were returned before and come again.
    skip: u64,
    messages: Vec<Bytes>,
    bytes: BytesMut,
    /// Total size of the messages, in bytes.
    size: usize,
}

impl Held {
    pub(super) fn new(most: usize) -> Self {
        Self { most: most.max(1), skip: 0, messages: Vec::new(), bytes: BytesMut::new(), size: 0 }
    }

    /// Drops data that was not returned. It is requested again, and the first `skip` units of it were returned before.
    pub(super) fn restart(&mut self, skip: u64) {
        self.messages = Vec::new();
        self.bytes = BytesMut::new();
        (self.size, self.skip) = (0, skip);
    }

    /// The units that are still to be skipped.
    pub(super) fn left_to_skip(&self) -> u64 {
        self.skip
    }

    /// Adds a message. Returns a piece when there is no room for the message.
    pub(super) fn push_message(&mut self, message: Bytes) -> Option<Content> {
        if self.skip > 0 {
            self.skip -= 1;
            return None;
        }
        let full = !self.messages.is_empty() && self.size + message.len() > self.most;
        let piece = full.then(|| self.take()).flatten();
        self.size += message.len();
        self.messages.push(message);
        piece
    }

    /// Adds bytes. Then call [`overflow`](Self::overflow) until it returns `None`.
    pub(super) fn push_bytes(&mut self, bytes: &[u8]) {
        let skipped = usize::try_from(self.skip).unwrap_or(usize::MAX).min(bytes.len());
        self.skip -= skipped as u64;
        self.bytes.extend_from_slice(&bytes[skipped..]);
    }

    /// Returns a full piece, if there is more data than that. The piece does not end within a character.
    pub(super) fn overflow(&mut self) -> Option<Content> {
        if self.bytes.len() <= self.most {
            return None;
        }
        let continues = |byte: u8| byte & 0b1100_0000 == 0b1000_0000;
        let mut end = self.most;
        while end > 1 && self.most - end < 3 && continues(self.bytes[end]) {
            end -= 1;
        }
        if continues(self.bytes[end]) {
            end = self.most;
        }
        Some(Content::Bytes(self.bytes.split_to(end).freeze()))
    }

    /// Takes everything.
    pub(super) fn take(&mut self) -> Option<Content> {
        self.size = 0;
        if !self.messages.is_empty() {
            return Some(Content::Messages(mem::take(&mut self.messages)));
        }
        let bytes = self.bytes.split().freeze();
        (!bytes.is_empty()).then_some(Content::Bytes(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_end_between_characters_and_messages() {
        let mut held = Held::new(4);
        held.restart(2);
        held.push_bytes("xyabcé".as_bytes());
        assert_eq!(held.left_to_skip(), 0);
        assert_eq!(held.overflow(), Some(Content::Bytes("abc".into())));
        assert_eq!(held.overflow(), None);
        assert_eq!(held.take(), Some(Content::Bytes("é".into())));
        held.push_bytes(&[0x80; 9]);
        assert_eq!(held.overflow().unwrap().units(), 4, "no text: cut anywhere");
        held.restart(1);
        for message in ["1", "22", "33"] {
            assert_eq!(held.push_message(message.into()), None);
        }
        assert_eq!(held.push_message("4".into()), Some(Content::Messages(vec!["22".into(), "33".into()])));
        assert_eq!(held.push_message("55555".into()), Some(Content::Messages(vec!["4".into()])));
        assert_eq!(held.take(), Some(Content::Messages(vec!["55555".into()])));
        assert_eq!(held.take(), None);
    }
}
