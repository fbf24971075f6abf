//! Reading pages of the log for a stream; with a slow store the next page is read ahead.

use std::vec;

use futures_util::future::BoxFuture;
use relay_log::{Entry, Page, Work};
use tokio::sync::OwnedSemaphorePermit;

use crate::store::{Events, StoreError};

/// Entries of a page, at most.
const ENTRIES: u64 = 1024;
/// Bytes of a page, at most, unless one entry has more. Not small, because each page of a disk is a switch to another
/// thread and back, and each piece of a stream costs system calls. Not large, because a page should still be in the
/// processor's cache when it is sent.
pub(super) const BYTES: usize = 512 << 10;

/// The pages of one stream.
///
/// ```text
///   page    | looked at |  left  |
///   ahead                        |  the next page: being read, or waiting  |
/// ```
/// At most one page is read ahead, and only if the store does not answer at once.
#[derive(Default)]
pub(super) struct Pages {
    page: vec::IntoIter<Entry>,
    ahead: Option<Ahead>,
}

/// A page that is being read.
struct Ahead {
    after: u64,
    reading: BoxFuture<'static, Result<Page, relay_log::Error>>,
    /// `None` for a page that the stream waits for.
    _turn: Option<OwnedSemaphorePermit>,
}

impl Pages {
    /// Begins with a page that has already been read.
    pub(super) fn of(first: Vec<Entry>) -> Self {
        Self { page: first.into_iter(), ahead: None }
    }

    /// The remaining entries of the page, oldest first.
    pub(super) fn left(&self) -> &[Entry] {
        self.page.as_slice()
    }

    /// Removes the first entries of the page.
    pub(super) fn looked_at(&mut self, entries: usize) {
        self.page.by_ref().take(entries).for_each(drop);
    }

    /// Reads the page after a position, once the previous page is used up. The new page ends at `until`, and is empty
    /// there and at the head. False when the entry after the position is no longer retained. Dropping the future loses
    /// nothing.
    pub(super) async fn turn(&mut self, events: &Events, after: u64, until: u64) -> Result<bool, StoreError> {
        if after >= until {
            return Ok(true);
        }
        let due = match self.ahead.take().filter(|ahead| ahead.after == after) {
            Some(ahead) => ahead,
            None => match begin(events, after, until) {
                Work::Ready(page) => return Ok(self.show(page?)),
                Work::Later(reading) => Ahead { after, reading, _turn: None },
            },
        };
        // Stored here because the future may be dropped at the next await.
        let page = (&mut self.ahead.insert(due).reading).await;
        self.ahead = None;
        let there = self.show(page?);
        if let Some(last) = self.left().last().map(|last| last.position)
            && last < until.min(events.head())
            && let Ok(turn) = events.ahead.clone().try_acquire_owned()
            && let Work::Later(reading) = begin(events, last, until)
        {
            self.ahead = Some(Ahead { after: last, reading, _turn: Some(turn) });
        }
        Ok(there)
    }

    fn show(&mut self, page: Page) -> bool {
        let Page::Entries(entries) = page else { return false };
        self.page = entries.into_iter();
        true
    }
}

/// Begins to read a page, as streams read them.
pub(super) fn begin(events: &Events, after: u64, until: u64) -> Work<Result<Page, relay_log::Error>> {
    let entries = until.saturating_sub(after).min(ENTRIES);
    events.begin_read(after, usize::try_from(entries).unwrap_or(usize::MAX), BYTES)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures_util::FutureExt;
    use relay_log::{Batch, DiskOptions, DiskStore, Fsync, Retention};

    use super::*;

    const BODY: usize = 1000;

    /// A log on disk, with nothing cached in memory.
    async fn events(dir: &tempfile::TempDir, entries: u64) -> Events {
        let options = DiskOptions::default().fsync(Fsync::Never).segment_bytes(1 << 20).cache_bytes(0);
        let store = Arc::new(DiskStore::open(dir.path(), options).unwrap());
        let events = Events::open(store, Retention::default(), None).await.unwrap();
        let bodies = (1..=entries).map(|at| [&at.to_le_bytes()[..], &[7; BODY - 8]].concat());
        events.log().append(Batch::new(bodies)).await.unwrap();
        events.taken(entries, events.identity().genesis());
        events
    }

    /// Reads pages until one is empty, and looks at each page in two parts. Returns true if the end of the log was
    /// reached.
    async fn read(pages: &mut Pages, events: &Events, until: u64, seen: &mut Vec<u64>) -> bool {
        loop {
            let after = *seen.last().unwrap();
            // A turn that is dropped half-way loses nothing.
            let _ = pages.turn(events, after, until).now_or_never();
            if pages.left().is_empty() && !pages.turn(events, after, until).await.unwrap() {
                return false;
            }
            let bytes: usize = pages.left().iter().map(|entry| entry.body.len()).sum();
            assert!(bytes <= BYTES && pages.left().len() as u64 <= ENTRIES);
            if pages.left().is_empty() {
                return true;
            }
            for part in [pages.left().len() / 3, usize::MAX] {
                let part = part.min(pages.left().len());
                for entry in &pages.left()[..part] {
                    assert_eq!(entry.body[..8], entry.position.to_le_bytes());
                    seen.push(entry.position);
                }
                pages.looked_at(part);
            }
        }
    }

    #[tokio::test]
    async fn every_entry_comes_once_read_ahead_or_not() {
        let dir = tempfile::tempdir().unwrap();
        let events = events(&dir, 3000).await;
        for until in [1, 2999, 3000, u64::MAX] {
            let mut pages = Pages::default();
            let mut seen = vec![0];
            assert!(read(&mut pages, &events, until, &mut seen).await);
            assert!(seen.iter().copied().eq(0..=until.min(3000)), "{until}: {seen:?}");
            assert!(pages.ahead.is_none(), "nothing is asked for beyond {until}");
        }
        let every = events.ahead.available_permits();
        let mut pages = Pages::default();
        assert!(pages.turn(&events, 0, u64::MAX).await.unwrap());
        assert!(pages.ahead.is_some());
        assert_eq!(events.ahead.available_permits(), every - 1);
        drop(pages);
        assert_eq!(events.ahead.available_permits(), every);
        // Other readers have taken all the permits to read ahead.
        let _turns = events.ahead.clone().acquire_many_owned(every as u32).await.unwrap();
        let (mut pages, mut seen) = (Pages::default(), vec![0]);
        assert!(read(&mut pages, &events, u64::MAX, &mut seen).await);
        assert!(seen.iter().copied().eq(0..=3000) && pages.ahead.is_none());
    }

    #[tokio::test]
    async fn what_was_read_ahead_is_shown_though_it_is_trimmed_and_then_it_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let events = events(&dir, 3000).await;
        let (mut pages, mut seen) = (Pages::default(), vec![0]);
        assert!(pages.turn(&events, 0, u64::MAX).await.unwrap());
        let first = pages.left().last().unwrap().position;
        // The next page was being read before the trim. It is then delivered whole, or not at all, and never replaced
        // by another page.
        events.log().trim(3000).await.unwrap();
        pages.looked_at(usize::MAX);
        seen.extend(1..=first);
        assert!(!read(&mut pages, &events, u64::MAX, &mut seen).await);
        assert!(seen.iter().copied().eq(0..=*seen.last().unwrap()));
        // After the new base there is nothing, and the page that was read ahead for another position is not used.
        assert!(pages.turn(&events, 3000, u64::MAX).await.unwrap());
        assert!(pages.left().is_empty());
    }

    #[tokio::test]
    async fn a_page_read_ahead_is_used_for_its_position_and_for_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let events = events(&dir, 3000).await;
        let mut read = Vec::new();
        for _ in 0..2 {
            let page = begin(&events, 1000, u64::MAX).done().await.unwrap();
            let reading = std::future::ready(Ok(page)).boxed();
            read.push(Pages { ahead: Some(Ahead { after: 1000, reading, _turn: None }), ..Pages::default() });
        }
        // After the trim, only the pages that were read ahead are left.
        events.log().trim(3000).await.unwrap();
        assert!(read[0].turn(&events, 1000, u64::MAX).await.unwrap());
        assert_eq!(read[0].left()[0].position, 1001);
        assert!(!read[1].turn(&events, 1001, u64::MAX).await.unwrap(), "that page begins elsewhere");
    }
}
