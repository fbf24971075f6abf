//! What is made of the entries of a chunk that was read: a page, or parts put together.

use std::sync::Arc;

use bytes::Bytes;

use super::record;
use crate::buffers::{Buffer, Buffers};
use crate::join::Choice;
use crate::{Entry, Joined, Limit, Page, Part, Parts};

/// What the complete entries of a chunk become.
pub(super) trait Take: Copy + Send + 'static {
    /// What they become.
    type Taken: Send + 'static;

    /// The same of entries from memory.
    fn take_page(self, page: Page, buffers: &Arc<Buffers>) -> Self::Taken;

    /// The entries up to `last` and within the limit, at least one; and the end of their bytes. Or an error and its
    /// place.
    fn take_chunk(
        self,
        chunk: Buffer,
        buffers: &Arc<Buffers>,
        after: u64,
        last: u64,
        limit: Limit,
    ) -> Result<(Self::Taken, After), (usize, &'static str)>;
}

/// Where entries go on after those that were taken.
#[derive(Debug, Clone, Copy)]
pub(super) struct After {
    pub(super) position: u64,
    /// Where in the chunk.
    pub(super) at: usize,
}

/// Entries that share the memory of their chunk.
#[derive(Debug, Clone, Copy)]
pub(super) struct Whole;

impl Take for Whole {
    type Taken = Page;

    fn take_page(self, page: Page, _buffers: &Arc<Buffers>) -> Page {
        page
    }

    fn take_chunk(
        self,
        chunk: Buffer,
        _buffers: &Arc<Buffers>,
        after: u64,
        last: u64,
        limit: Limit,
    ) -> Result<(Page, After), (usize, &'static str)> {
        let chunk = Bytes::from_owner(chunk);
        let mut entries = Vec::new();
        let at = record::page(&chunk, after, last, limit, |head, body| {
            entries.push(Entry { position: head.position, time: head.time, body: chunk.slice(body) });
            true
        })?;
        let position = after + 1 + entries.len() as u64;
        Ok((Page::Entries(entries), After { position, at }))
    }
}

impl Take for Part {
    type Taken = Joined;

    fn take_page(self, page: Page, buffers: &Arc<Buffers>) -> Joined {
        Joined::of(&page, self, buffers)
    }

    fn take_chunk(
        self,
        chunk: Buffer,
        buffers: &Arc<Buffers>,
        after: u64,
        last: u64,
        limit: Limit,
    ) -> Result<(Joined, After), (usize, &'static str)> {
        let chunk = chunk.as_ref();
        let mut room = buffers.take(chunk.len());
        let (mut choice, mut filled, mut newest) = (Choice::new(self), 0, None);
        let at = record::page(chunk, after, last, limit, |head, body| {
            let Some(part) = choice.next(&chunk[body.clone()]) else { return false };
            let part = &chunk[body.clone()][part];
            room.as_mut()[filled..][..part.len()].copy_from_slice(part);
            filled += part.len();
            newest = Some((*head, body));
            true
        })?;
        let last = newest.map(|(head, body)| Entry {
            position: head.position,
            time: head.time,
            body: Bytes::copy_from_slice(&chunk[body]),
        });
        let position = after + 1 + choice.entries as u64;
        Ok((Joined::Parts(Parts::new(room, filled, choice.entries, last)), After { position, at }))
    }
}
