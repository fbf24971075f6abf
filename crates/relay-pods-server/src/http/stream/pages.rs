//! Reading pages of the log for a stream, some of them ahead.

use std::vec;

use futures_util::future::BoxFuture;
use futures_util::{FutureExt as _, TryFutureExt as _};
use relay_log::{Entry, Error, Joined, Limit, Page, Parts, Work};
use tokio::sync::OwnedSemaphorePermit;

use crate::store::{Events, StoreError};

/// Entries of a page, at most.
const ENTRIES: usize = 1024;
/// Bytes of a page, at most, unless one entry has more. Not small, because each page of a disk is a switch to another
/// thread and back, and each piece of a stream costs system calls. Not large, because a page should still be in the
/// processor's cache when it is sent.
pub(super) const BYTES: usize = 512 << 10;
/// Pages of frames that may be read before they are needed, so that the thread that reads them need not be woken for
/// each.
const AHEAD: usize = 8;
/// Events from which on a page is read as frames.
const MANY: u64 = 8;

/// The pages of one stream.
///
/// ```text
///   page    | looked at |  left  |
///   ahead                        |  the next page: being read, or waiting  |
/// ```
/// Pages are read ahead only where reading takes a while, a few at most. A page of many events for a stream that sees
/// all of them is read as frames: another thread puts them together, page after page, while this one sends.
#[derive(Default)]
pub(super) struct Pages {
    page: vec::IntoIter<Entry>,
    frames: Option<Parts>,
    ahead: Option<Ahead>,
}

/// What was read.
pub(super) enum Sheet {
    Entries(Vec<Entry>),
    Frames(Parts),
    /// The entry after the position is no longer kept.
    Gone,
}

/// A page on its way; and those behind it, as it says itself.
struct Ahead {
    after: u64,
    reading: BoxFuture<'static, Result<Sheet, Error>>,
    /// Nothing for a page that is waited for.
    turn: Option<OwnedSemaphorePermit>,
}

impl Pages {
    /// Begins with a page that was read already. False when the entry after its position is no longer kept.
    pub(super) fn show(&mut self, first: Sheet) -> bool {
        match first {
            Sheet::Entries(entries) => self.page = entries.into_iter(),
            Sheet::Frames(frames) => self.frames = Some(frames).filter(|frames| frames.entries > 0),
            Sheet::Gone => return false,
        }
        true
    }

    /// Whether all of the page was looked at.
    pub(super) fn used_up(&self) -> bool {
        self.page.as_slice().is_empty() && self.frames.is_none()
    }

    /// The entries of the page that were not looked at yet, oldest first; none of a page of frames.
    pub(super) fn left(&self) -> &[Entry] {
        self.page.as_slice()
    }

    /// Removes the first entries of the page.
    pub(super) fn looked_at(&mut self, entries: usize) {
        self.page.by_ref().take(entries).for_each(drop);
    }

    /// The page, when it is one of frames. It is used up then.
    pub(super) fn take_frames(&mut self) -> Option<Parts> {
        self.frames.take()
    }

    /// Reads the page after a position, once the former is used up. It has no entry beyond `until`, and is empty there
    /// and at the head. `all` says that frames may be read. False when the entry after the position is no longer kept.
    /// Dropping the future loses nothing.
    pub(super) async fn turn(
        &mut self,
        events: &Events,
        after: u64,
        until: u64,
        all: bool,
    ) -> Result<bool, StoreError> {
        if after >= until {
            return Ok(true);
        }
        let begun = match self.ahead.take().filter(|ahead| ahead.after == after) {
            Some(ahead) => Err(ahead),
            None => {
                // With fewer left there is probably nothing to read ahead.
                let much = until.min(events.head()).saturating_sub(after) > ENTRIES as u64;
                let turn = much.then(|| events.turn_ahead()).flatten();
                let pages = if turn.is_some() { AHEAD } else { 1 };
                match begin(events, after, until, all, pages) {
                    Work::Ready(page) => Ok((page, turn)),
                    Work::Later(reading) => Err(Ahead { after, reading, turn }),
                }
            }
        };
        let (page, turn, waited) = match begun {
            Ok((page, turn)) => (page, turn, false),
            Err(due) => {
                // Stored here because the future may be dropped at the next await.
                let page = (&mut self.ahead.insert(due).reading).await;
                (page, self.ahead.take().and_then(|ahead| ahead.turn), true)
            }
        };
        let there = self.show(page?);
        let Some(after) = self.last() else { return Ok(there) };
        if let Some(next) = self.frames.as_mut().and_then(|frames| frames.next.take()) {
            let reading = next.read().map_ok(Sheet::of_frames).boxed();
            self.ahead = Some(Ahead { after, reading, turn });
        } else if waited
            && after < until.min(events.head())
            && let Some(turn) = turn.or_else(|| events.turn_ahead())
            && let Work::Later(reading) = begin(events, after, until, all, AHEAD)
        {
            self.ahead = Some(Ahead { after, reading, turn: Some(turn) });
        }
        Ok(there)
    }

    /// The position of the last entry of the page.
    fn last(&self) -> Option<u64> {
        let last = self.frames.as_ref().map_or(self.left().last(), |frames| frames.last.as_ref());
        last.map(|last| last.position)
    }
}

impl Sheet {
    fn of_entries(page: Page) -> Self {
        match page {
            Page::Entries(entries) => Self::Entries(entries),
            _ => Self::Gone,
        }
    }

    fn of_frames(joined: Joined) -> Self {
        match joined {
            Joined::Parts(frames) => Self::Frames(frames),
            _ => Self::Gone,
        }
    }
}

/// Begins to read a page, as streams read them; of frames, that many one after another.
pub(super) fn begin(
    events: &Events,
    after: u64,
    until: u64,
    all: bool,
    pages: usize,
) -> Work<Result<Sheet, Error>> {
    if all && until.min(events.head()).saturating_sub(after) >= MANY {
        let limit = Limit::entries(ENTRIES).bytes(BYTES);
        return sheet(events.begin_frames(after, until, limit, pages), Sheet::of_frames);
    }
    let most = usize::try_from(until.saturating_sub(after)).unwrap_or(usize::MAX).min(ENTRIES);
    sheet(events.begin_read(after, most, BYTES), Sheet::of_entries)
}

fn sheet<T: 'static>(work: Work<Result<T, Error>>, of: fn(T) -> Sheet) -> Work<Result<Sheet, Error>> {
    match work {
        Work::Ready(read) => Work::Ready(read.map(of)),
        Work::Later(reading) => Work::Later(reading.map(move |read| read.map(of)).boxed()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures_util::FutureExt;
    use relay_log::{Batch, DiskOptions, DiskStore, Fsync, MemoryStore, Retention, Store};

    use super::*;

    const BODY: usize = 1000;

    /// What a stream finds to be an event's frame.
    fn event(at: u64) -> Vec<u8> {
        let head = [&[1][..], &[0; 43]].concat();
        [&head[..], &at.to_le_bytes(), &[b'.'; BODY - 44 - 8 - 3], b"}\n\n"].concat()
    }

    /// A log on a disk, of which nothing is in memory.
    async fn events(dir: &tempfile::TempDir, entries: u64) -> Events {
        let options = DiskOptions::default().fsync(Fsync::Never).segment_bytes(1 << 20).cache_bytes(0);
        events_in(Arc::new(DiskStore::open(dir.path(), options).unwrap()), entries).await
    }

    async fn events_in(store: Arc<dyn Store>, entries: u64) -> Events {
        let events = Events::open(store, Retention::default(), None).await.unwrap();
        let bodies = (1..=entries).map(event);
        events.log().append(Batch::new(bodies)).await.unwrap();
        events.taken(entries, events.identity().genesis());
        events
    }

    /// Reads on until a page is empty, looking at each in two parts. True when it ended at the end.
    async fn read(pages: &mut Pages, events: &Events, until: u64, all: bool, seen: &mut Vec<u64>) -> bool {
        loop {
            let after = *seen.last().unwrap();
            // What is dropped half-way is not lost.
            let _ = pages.turn(events, after, until, all).now_or_never();
            if pages.used_up() && !pages.turn(events, after, until, all).await.unwrap() {
                return false;
            }
            let bytes: usize = pages.left().iter().map(|entry| entry.body.len()).sum();
            assert!(bytes <= BYTES && pages.left().len() <= ENTRIES);
            if pages.used_up() {
                return true;
            }
            if let Some(frames) = pages.take_frames() {
                assert!(all && pages.used_up() && frames.bytes.len() <= BYTES && frames.entries <= ENTRIES);
                let before = seen.len();
                seen.extend(frames.bytes.chunks(BODY - 44).map(|frame| {
                    assert!(frame.ends_with(b"..}\n\n"));
                    u64::from_le_bytes(*frame.first_chunk().unwrap())
                }));
                assert_eq!(seen.len() - before, frames.entries);
                assert_eq!(frames.last.unwrap().position, *seen.last().unwrap());
                continue;
            }
            for part in [pages.left().len() / 3, usize::MAX] {
                let part = part.min(pages.left().len());
                for entry in &pages.left()[..part] {
                    assert_eq!(entry.body[44..52], entry.position.to_le_bytes());
                    seen.push(entry.position);
                }
                pages.looked_at(part);
            }
        }
    }

    #[tokio::test]
    async fn every_entry_comes_once_read_ahead_or_not() {
        let dir = tempfile::tempdir().unwrap();
        for events in [events(&dir, 3000).await, events_in(Arc::new(MemoryStore::new()), 3000).await] {
            for (until, all) in [1, 7, 8, 9, 1500, 2999, 3000, u64::MAX]
                .into_iter()
                .flat_map(|until| [(until, false), (until, true)])
            {
                let (mut pages, mut seen) = (Pages::default(), vec![0]);
                assert!(read(&mut pages, &events, until, all, &mut seen).await);
                assert!(seen.iter().copied().eq(0..=until.min(3000)), "{until}: {seen:?}");
                assert!(pages.ahead.is_none(), "nothing is asked for beyond {until}");
            }
        }
    }

    #[tokio::test]
    async fn a_stream_that_reads_ahead_has_a_turn_as_long_as_it_does() {
        let dir = tempfile::tempdir().unwrap();
        let disk = events(&dir, 3000).await;
        let memory = events_in(Arc::new(MemoryStore::new()), 3000).await;
        for (events, all) in [(&disk, false), (&disk, true), (&memory, true)] {
            let every = events.ahead.available_permits();
            let mut pages = Pages::default();
            assert!(pages.turn(events, 0, u64::MAX, all).await.unwrap());
            assert!(pages.ahead.is_some() && pages.frames.is_some() == all);
            assert_eq!(events.ahead.available_permits(), every - 1);
            if let Some(first) = pages.take_frames() {
                // One turn is enough for the pages that are read behind it, too.
                let after = first.last.unwrap().position;
                assert!(pages.turn(events, after, u64::MAX, all).await.unwrap());
                assert_eq!(events.ahead.available_permits(), every - 1);
            }
            drop(pages);
            assert_eq!(events.ahead.available_permits(), every);
            // Others have all the turns.
            let _turns = events.ahead.clone().acquire_many_owned(every as u32).await.unwrap();
            let (mut pages, mut seen) = (Pages::default(), vec![0]);
            assert!(read(&mut pages, events, u64::MAX, all, &mut seen).await);
            assert!(seen.iter().copied().eq(0..=3000) && pages.ahead.is_none());
        }
    }

    #[tokio::test]
    async fn what_was_read_ahead_is_shown_though_it_is_trimmed_and_then_it_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let events = events(&dir, 3000).await;
        let (mut pages, mut seen) = (Pages::default(), vec![0]);
        assert!(pages.turn(&events, 0, u64::MAX, false).await.unwrap());
        let first = pages.left().last().unwrap().position;
        // The next page was being read before the trim. It is then delivered whole, or not at all, and never replaced
        // by another page.
        events.log().trim(3000).await.unwrap();
        pages.looked_at(usize::MAX);
        seen.extend(1..=first);
        assert!(!read(&mut pages, &events, u64::MAX, false, &mut seen).await);
        assert!(seen.iter().copied().eq(0..=*seen.last().unwrap()));
        // From the new base on it is the end, and no page of another position is taken for it.
        assert!(pages.turn(&events, 3000, u64::MAX, false).await.unwrap());
        assert!(pages.left().is_empty());
    }

    #[tokio::test]
    async fn a_page_read_ahead_is_used_for_its_position_and_for_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let events = events(&dir, 3000).await;
        let mut read = Vec::new();
        for _ in 0..2 {
            let page = begin(&events, 1000, u64::MAX, false, 1).done().await.unwrap();
            let reading = std::future::ready(Ok(page)).boxed();
            read.push(Pages { ahead: Some(Ahead { after: 1000, reading, turn: None }), ..Pages::default() });
        }
        // After the trim, only the pages that were read ahead are left.
        events.log().trim(3000).await.unwrap();
        assert!(read[0].turn(&events, 1000, u64::MAX, false).await.unwrap());
        assert_eq!(read[0].left()[0].position, 1001);
        assert!(!read[1].turn(&events, 1001, u64::MAX, false).await.unwrap(), "that page begins elsewhere");
    }
}
