//! What is made of the entries of a chunk that was read: a page, or parts put together.

use bytes::Bytes;

use super::buffers::Buffer;
use super::record;
use crate::join::Joining;
use crate::{Entry, Joined, Limit, Page, Part, Parts};

/// What the complete entries of a chunk become.
pub(super) trait Take: Copy + Send + 'static {
    /// What they become.
    type Taken: Send + 'static;

    /// The same of entries from memory.
    fn take_page(self, page: Page) -> Self::Taken;

    /// The entries up to `last` and within the limit, at least one; and the end of their bytes. Or an error and its
    /// place.
    fn take_chunk(
        self,
        chunk: Buffer,
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

    fn take_page(self, page: Page) -> Page {
        page
    }

    fn take_chunk(
        self,
        chunk: Buffer,
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

    fn take_page(self, page: Page) -> Joined {
        Joined::of(&page, self)
    }

    fn take_chunk(
        self,
        chunk: Buffer,
        after: u64,
        last: u64,
        limit: Limit,
    ) -> Result<(Joined, After), (usize, &'static str)> {
        let chunk = chunk.as_ref();
        let mut joining = Joining::new(self, Vec::with_capacity(chunk.len()));
        let mut newest = None;
        let at = record::page(chunk, after, last, limit, |head, body| {
            let taken = joining.add(&chunk[body.clone()]);
            if taken {
                newest = Some((*head, body));
            }
            taken
        })?;
        let last = newest.map(|(head, body)| Entry {
            position: head.position,
            time: head.time,
            body: Bytes::copy_from_slice(&chunk[body]),
        });
        let Joining { bytes, entries, .. } = joining;
        let position = after + 1 + entries as u64;
        Ok((Joined::Parts(Parts { bytes: bytes.into(), entries, last, next: None }), After { position, at }))
    }
}
