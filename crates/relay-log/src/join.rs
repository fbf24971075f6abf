//! Reading the same part of many entries, put together.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::buffers::{Buffer, Buffers};
use crate::{Entry, Error, Limit, Page};

/// Chooses the part of a body: where it begins and ends. Nothing for a body that has no such part.
pub type Part = fn(&[u8]) -> Option<Range<usize>>;

/// What to read and put together.
#[derive(Debug, Clone, Copy)]
pub struct Join {
    /// The position after which entries are read.
    pub after: u64,
    /// The last position that is read.
    pub until: u64,
    /// What one page may have, counting whole bodies.
    pub limit: Limit,
    /// Pages that may be read one after another before anybody takes them, at least one. Pages behind the first are
    /// read on one of tokio's blocking threads.
    pub pages: usize,
    /// The part of each body.
    pub part: Part,
}

/// The result of a read that puts parts of entries together.
#[derive(Debug)]
#[non_exhaustive]
pub enum Joined {
    /// Parts of the entries that follow the position. None at the head, and beyond it.
    Parts(Parts),
    /// The entry after the requested position is gone. Entries continue after [`Bounds::base`](crate::Bounds::base).
    Gone,
}

/// One part of each of some entries without a hole, oldest first.
#[derive(Debug, Default)]
pub struct Parts {
    /// The parts, one behind the other.
    pub bytes: Bytes,
    /// Number of entries.
    pub entries: usize,
    /// The last entry, whole. An entry without such a part ends the page before it; if there is none before it, it is
    /// alone, with no bytes.
    pub last: Option<Entry>,
    /// The page after this one, when it is being read already.
    pub next: Option<Next>,
}

/// Where to tell of a page that was read.
pub(crate) type Tell = oneshot::Sender<Result<Joined, Error>>;

/// A page that is being read. Nothing is read behind it once this is dropped.
pub struct Next(oneshot::Receiver<Result<Joined, Error>>);

impl Next {
    pub(crate) fn new() -> (Tell, Self) {
        let (tell, told) = oneshot::channel();
        (tell, Self(told))
    }

    /// Waits for it.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn read(self) -> Result<Joined, Error> {
        self.0.await.unwrap_or_else(|_| Err(Error::Closed { why: "its work broke off".into() }))
    }
}

impl fmt::Debug for Next {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Next(..)")
    }
}

impl Join {
    /// The limit of one page.
    pub(crate) fn page(&self) -> Limit {
        let most = usize::try_from(self.until.saturating_sub(self.after)).unwrap_or(usize::MAX);
        Limit { entries: self.limit.entries.min(most), ..self.limit }
    }

    /// Whether nothing is asked for.
    pub(crate) fn is_empty(&self) -> bool {
        self.after >= self.until
    }

    /// Moves on behind a page, and returns where to tell of the page after it. Nothing when no page is to be read
    /// after it.
    pub(crate) fn turn(&mut self, joined: &mut Result<Joined, Error>, head: u64) -> Option<Tell> {
        let Ok(Joined::Parts(parts)) = joined else { return None };
        let last = parts.last.as_ref().filter(|_| !parts.bytes.is_empty())?;
        self.after = last.position;
        self.pages = self.pages.saturating_sub(1);
        (self.pages > 0 && self.after < self.until.min(head)).then(|| {
            let (tell, next) = Next::new();
            parts.next = Some(next);
            tell
        })
    }

    /// Reads page after page, as many as may wait, until nobody waits for one any more. To sleep and be woken for each
    /// of them takes as long as reading it.
    pub(crate) fn read_on(
        mut self,
        mut tell: Tell,
        head: impl Fn() -> u64,
        read: impl Fn(&Self) -> Result<Joined, Error>,
    ) {
        loop {
            let mut joined = read(&self);
            let following = self.turn(&mut joined, head());
            let (Ok(()), Some(next)) = (tell.send(joined), following) else { return };
            tell = next;
        }
    }
}

impl Joined {
    /// Puts parts of a page together.
    pub(crate) fn of(page: &Page, part: Part, buffers: &Arc<Buffers>) -> Self {
        match page {
            Page::Entries(entries) => Self::Parts(Parts::of(entries.iter(), part, buffers)),
            Page::Gone => Self::Gone,
        }
    }
}

impl Parts {
    /// Puts parts of these entries together, in memory from the pool.
    pub(crate) fn of<'a>(
        entries: impl Iterator<Item = &'a Entry> + Clone,
        part: Part,
        buffers: &Arc<Buffers>,
    ) -> Self {
        let mut room = buffers.take(entries.clone().map(|entry| entry.body.len()).sum());
        let (mut choice, mut filled, mut last) = (Choice::new(part), 0, None);
        for entry in entries {
            let Some(range) = choice.next(&entry.body) else { break };
            let (from, to) = (&entry.body[range.clone()], filled..filled + range.len());
            room.as_mut()[to].copy_from_slice(from);
            filled += range.len();
            last = Some(entry);
        }
        Self::new(room, filled, choice.entries, last.cloned())
    }

    pub(crate) fn new(mut room: Buffer, filled: usize, entries: usize, last: Option<Entry>) -> Self {
        room.truncate(filled);
        Self { bytes: Bytes::from_owner(room), entries, last, next: None }
    }
}

/// Chooses the parts of entries, one after another.
pub(crate) struct Choice {
    part: Part,
    pub(crate) entries: usize,
    ended: bool,
}

impl Choice {
    pub(crate) fn new(part: Part) -> Self {
        Self { part, entries: 0, ended: false }
    }

    /// The part of the next entry, unless the page ends before it.
    pub(crate) fn next(&mut self, body: &[u8]) -> Option<Range<usize>> {
        if self.ended {
            return None;
        }
        let found = (self.part)(body).filter(|range| range.start <= range.end && range.end <= body.len());
        self.ended = found.is_none();
        if self.ended && self.entries > 0 {
            return None;
        }
        self.entries += 1;
        Some(found.unwrap_or_default())
    }
}
