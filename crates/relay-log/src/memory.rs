//! Logs in memory.

use std::collections::{BTreeMap, VecDeque, btree_map};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak};

use bytes::{Bytes, BytesMut};

use crate::buffers::Buffers;
use crate::head::Head;
use crate::{
    Batch, Bounds, Checkpoint, Entry, Error, Identity, Join, Joined, Limit, LogName, LogOptions, Page, Parts,
    Positions, Retention, Store, StoredLog, Work,
};

/// Keeps logs in memory: nothing survives the process, and every call answers at once.
///
/// A log that has no entries takes a few hundred bytes.
#[derive(Default)]
pub struct MemoryStore {
    logs: Mutex<BTreeMap<LogName, Arc<MemoryLog>>>,
    buffers: Arc<Buffers>,
}

impl MemoryStore {
    /// A store without logs.
    pub fn new() -> Self {
        Self::default()
    }

    fn logs(&self) -> MutexGuard<'_, BTreeMap<LogName, Arc<MemoryLog>>> {
        self.logs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self, name: &LogName, log: Arc<MemoryLog>) -> Result<Arc<dyn StoredLog>, Error> {
        match self.logs().entry(name.clone()) {
            btree_map::Entry::Occupied(_) => Err(Error::Exists { name: name.clone() }),
            btree_map::Entry::Vacant(place) => Ok(place.insert(log).clone()),
        }
    }

    fn log(&self, options: LogOptions, kept: Kept) -> Arc<MemoryLog> {
        MemoryLog::new(options, kept, self.buffers.clone())
    }

    fn find(&self, name: &LogName) -> Result<Arc<MemoryLog>, Error> {
        self.logs().get(name).cloned().ok_or_else(|| Error::NotFound { name: name.clone() })
    }
}

impl Store for MemoryStore {
    fn kind(&self) -> &'static str {
        "memory"
    }

    fn outlives_process(&self) -> bool {
        false
    }

    fn create(&self, name: &LogName, options: LogOptions) -> Work<Result<Arc<dyn StoredLog>, Error>> {
        let base = options.begins_after;
        let kept = Kept { base, held_base: base, ..Kept::default() };
        Work::Ready(self.begin(name, self.log(options, kept)))
    }

    fn open(&self, name: &LogName) -> Work<Result<Arc<dyn StoredLog>, Error>> {
        Work::Ready(self.find(name).map(|log| log as Arc<dyn StoredLog>))
    }

    fn delete(&self, name: &LogName) -> Work<Result<(), Error>> {
        let removed = self.logs().remove(name);
        Work::Ready(match removed {
            Some(log) => {
                log.end("it was deleted");
                Ok(())
            }
            None => Err(Error::NotFound { name: name.clone() }),
        })
    }

    fn fork(
        &self,
        source: &LogName,
        at: u64,
        name: &LogName,
        options: LogOptions,
    ) -> Work<Result<Arc<dyn StoredLog>, Error>> {
        let forked = self.find(source).and_then(|source| source.kept().up_to(at));
        Work::Ready(forked.and_then(|kept| self.begin(name, self.log(options, kept))))
    }

    fn names(&self) -> Work<Result<Vec<LogName>, Error>> {
        Work::Ready(Ok(self.logs().keys().cloned().collect()))
    }

    fn close(&self) -> Work<Result<(), Error>> {
        self.logs().values().for_each(|log| log.end("its store was closed"));
        Work::Ready(Ok(()))
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore").field("logs", &self.logs().len()).finish()
    }
}

struct MemoryLog {
    this: Weak<MemoryLog>,
    buffers: Arc<Buffers>,
    identity: Identity,
    about: Bytes,
    epoch_base: u64,
    kept: RwLock<Kept>,
    head: Head,
}

/// ```text
///            held_base            base                    head
///   gone ........|  trimmed, held  |  entries that are read |
///                                   \__ `bytes` counts these
/// ```
#[derive(Default)]
struct Kept {
    held_base: u64,
    entries: VecDeque<Entry>,
    base: u64,
    bytes: u64,
    retention: Retention,
    checkpoint: Option<Checkpoint>,
    pack: Pack,
}

/// Copies small bodies into shared blocks, in the order of the log. A reader then goes through memory in that order,
/// which is faster than a cache miss for each entry.
#[derive(Default)]
struct Pack {
    free: BytesMut,
}

impl Pack {
    /// Bytes of a body that is copied, at most.
    const SMALL: usize = 16 << 10;
    /// Bytes of a block. A block stays in memory until the last of its entries is dropped.
    const TOGETHER: usize = 64 << 10;

    /// Copies a small body into the block and returns the copy. `held` is how many bytes the log has: a small log gets
    /// small blocks.
    fn add(&mut self, body: Bytes, held: u64) -> Bytes {
        if body.len() > Self::SMALL {
            return body;
        }
        if self.free.capacity() < body.len() {
            let room = usize::try_from(held).unwrap_or(usize::MAX).min(Self::TOGETHER);
            self.free = BytesMut::with_capacity(room.max(body.len()));
        }
        self.free.extend_from_slice(&body);
        self.free.split().freeze()
    }
}

impl MemoryLog {
    fn new(options: LogOptions, mut kept: Kept, buffers: Arc<Buffers>) -> Arc<Self> {
        kept.retention = options.retention;
        let head = Head::new(kept.head());
        let identity = options.identity.unwrap_or_else(Identity::random);
        let epoch_base = kept.head();
        Arc::new_cyclic(|this| Self {
            this: this.clone(),
            buffers,
            identity,
            about: options.about,
            epoch_base,
            kept: RwLock::new(kept),
            head,
        })
    }

    // Nothing can panic between two changes of the state, so it is consistent even after a panic under the lock.
    fn kept(&self) -> RwLockReadGuard<'_, Kept> {
        self.kept.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn kept_mut(&self) -> RwLockWriteGuard<'_, Kept> {
        self.kept.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self, why: &str) {
        // Taken so that no append is in progress when the log is closed.
        let _kept = self.kept_mut();
        self.head.close(&Error::Closed { why: why.into() });
    }

    /// Changes the content, and frees dropped entries outside of the lock.
    fn change<T>(
        &self,
        change: impl FnOnce(&mut Kept, &mut Vec<Entry>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let mut dropped = Vec::new();
        let mut kept = self.kept_mut();
        if let Some(why) = self.head.closed() {
            return Err(why);
        }
        let result = change(&mut kept, &mut dropped);
        drop(kept);
        drop(dropped);
        result
    }

    /// What can be read after a position; nothing when the entry after it is gone.
    fn readable(&self, after: u64, held: bool) -> Result<Option<RwLockReadGuard<'_, Kept>>, Error> {
        let kept = self.kept();
        match self.head.closed() {
            Some(why) => Err(why),
            None if after < if held { kept.held_base } else { kept.base } => Ok(None),
            None => Ok(Some(kept)),
        }
    }

    fn page(&self, after: u64, limit: Limit, held: bool) -> Result<Page, Error> {
        let page = |kept: RwLockReadGuard<'_, Kept>| kept.entries(after, limit).cloned().collect();
        Ok(self.readable(after, held)?.map_or(Page::Gone, |kept| Page::Entries(page(kept))))
    }

    /// Copies under the lock, for which appends wait. Without it, each entry of the page would be shared and given
    /// back, and that takes longer.
    fn join_now(&self, join: &Join) -> Result<Joined, Error> {
        let Some(kept) = self.readable(join.after, false)? else { return Ok(Joined::Gone) };
        Ok(Joined::Parts(Parts::of(kept.entries(join.after, join.page()), join.part, &self.buffers)))
    }
}

impl StoredLog for MemoryLog {
    fn identity(&self) -> Identity {
        self.identity.clone()
    }

    fn epoch_base(&self) -> u64 {
        self.epoch_base
    }

    fn about(&self) -> Bytes {
        self.about.clone()
    }

    fn append(&self, group: Vec<Batch>) -> Work<Vec<Result<Positions, Error>>> {
        let mut results = Vec::with_capacity(group.len());
        let batches = group.len();
        let all = self.change(|kept, dropped| {
            for batch in group {
                results.push(kept.append(batch, dropped));
            }
            Ok(kept.head())
        });
        match all {
            Ok(head) => self.head.advance(head),
            Err(why) => results.resize(batches, Err(why)),
        }
        Work::Ready(results)
    }

    fn read(&self, after: u64, limit: Limit) -> Work<Result<Page, Error>> {
        Work::Ready(self.page(after, limit, false))
    }

    fn join(&self, mut join: Join) -> Work<Result<Joined, Error>> {
        let mut joined = self.join_now(&join);
        if let Some(tell) = join.turn(&mut joined, self.head.position())
            && let Some(this) = self.this.upgrade()
        {
            // Copied on another thread while this one sends what it has.
            tokio::task::spawn_blocking(move || {
                join.read_on(tell, || this.head.position(), |join| this.join_now(join));
            });
        }
        Work::Ready(joined)
    }

    fn read_held(&self, after: u64, limit: Limit) -> Work<Result<Page, Error>> {
        Work::Ready(self.page(after, limit, true))
    }

    fn bounds(&self) -> Bounds {
        let kept = self.kept();
        Bounds::new(kept.base, kept.head(), kept.bytes)
    }

    fn held_base(&self) -> u64 {
        self.kept().held_base
    }

    fn closed(&self) -> Option<Error> {
        self.head.closed()
    }

    fn wait(&self, after: u64) -> Work<Result<u64, Error>> {
        self.head.wait(after)
    }

    fn trim(&self, to: u64) -> Work<Result<(), Error>> {
        Work::Ready(self.change(|kept, dropped| {
            let (from, head) = (kept.base, kept.head());
            if to > head {
                return Err(Error::OutOfBounds { position: to, from, to: head });
            }
            kept.trim(to, dropped);
            Ok(())
        }))
    }

    fn expire(&self, now: i64) -> Work<Result<(), Error>> {
        Work::Ready(self.change(|kept, dropped| {
            kept.expire(now, dropped);
            Ok(())
        }))
    }

    fn set_retention(&self, retention: Retention) {
        self.kept_mut().retention = retention;
    }

    fn save_checkpoint(&self, checkpoint: Checkpoint) -> Work<Result<(), Error>> {
        Work::Ready(self.change(|kept, dropped| {
            let from = kept.checkpoint.as_ref().map_or(kept.held_base, |former| former.position);
            let to = kept.head();
            if !(from..=to).contains(&checkpoint.position) {
                return Err(Error::OutOfBounds { position: checkpoint.position, from, to });
            }
            kept.checkpoint = Some(checkpoint);
            kept.release(dropped);
            Ok(())
        }))
    }

    fn checkpoint(&self) -> Work<Result<Option<Checkpoint>, Error>> {
        Work::Ready(Ok(self.kept().checkpoint.clone()))
    }
}

impl fmt::Debug for MemoryLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryLog").field("bounds", &self.bounds()).finish_non_exhaustive()
    }
}

impl Kept {
    fn head(&self) -> u64 {
        self.held_base + self.entries.len() as u64
    }

    fn append(&mut self, batch: Batch, dropped: &mut Vec<Entry>) -> Result<Positions, Error> {
        let head = self.head();
        batch.check()?;
        batch.check_follows(head)?;
        let time = batch.time();
        for (position, body) in (head + 1..).zip(batch.into_entries()) {
            let body = self.pack.add(body, self.bytes);
            let entry = Entry { position, time, body };
            self.bytes += entry.size();
            self.entries.push_back(entry);
        }
        self.expire(time, dropped);
        Ok(Positions { first: head + 1, last: self.head() })
    }

    /// The entries of a page.
    fn entries(&self, after: u64, limit: Limit) -> impl Iterator<Item = &Entry> + Clone {
        let from = usize::try_from(after - self.held_base).unwrap_or(usize::MAX).min(self.entries.len());
        let to = from.saturating_add(limit.entries.max(1)).min(self.entries.len());
        let mut room = limit.bytes;
        let fits = move |entry: &&Entry| {
            let fits = entry.position == after + 1 || entry.body.len() <= room;
            room = room.saturating_sub(entry.body.len());
            fits
        };
        self.entries.range(from..to).take_while(fits)
    }

    fn expire(&mut self, now: i64, dropped: &mut Vec<Entry>) {
        let oldest = self.retention.oldest_time(now);
        let Retention { entries, bytes, .. } = self.retention;
        while self.oldest().is_some_and(|entry| {
            entry.time < oldest || self.head() - self.base > entries || self.bytes > bytes
        }) {
            self.drop_oldest();
        }
        self.release(dropped);
    }

    fn trim(&mut self, to: u64, dropped: &mut Vec<Entry>) {
        while self.base < to {
            self.drop_oldest();
        }
        self.release(dropped);
    }

    /// The oldest entry that can be read.
    fn oldest(&self) -> Option<&Entry> {
        self.entries.get(usize::try_from(self.base - self.held_base).ok()?)
    }

    fn drop_oldest(&mut self) {
        let size = self.oldest().map_or(0, Entry::size);
        self.bytes -= size;
        self.base += 1;
    }

    /// Frees entries that are trimmed and not kept for a checkpoint.
    fn release(&mut self, dropped: &mut Vec<Entry>) {
        let floor = self.checkpoint.as_ref().map_or(self.base, |kept| kept.position.min(self.base));
        let count = usize::try_from(floor.saturating_sub(self.held_base)).unwrap_or(usize::MAX);
        dropped.extend(self.entries.drain(..count.min(self.entries.len())));
        self.held_base = self.held_base.max(floor);
    }

    /// A copy that ends at `at`; the bodies are shared.
    fn up_to(&self, at: u64) -> Result<Self, Error> {
        let (from, to) = (self.base, self.head());
        if !(from..=to).contains(&at) {
            return Err(Error::OutOfBounds { position: at, from, to });
        }
        let skip = usize::try_from(from - self.held_base).unwrap_or(usize::MAX);
        let take = usize::try_from(at - from).unwrap_or(usize::MAX);
        let entries: VecDeque<Entry> = self.entries.iter().skip(skip).take(take).cloned().collect();
        let bytes = entries.iter().map(Entry::size).sum();
        Ok(Self { held_base: from, base: from, entries, bytes, ..Self::default() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_bodies_stand_together_and_a_short_log_takes_little_room() {
        let (mut pack, mut held, mut last) = (Pack::default(), 0, None::<Bytes>);
        let mut behind = 0;
        for at in 0..2000_usize {
            let body = Bytes::from(vec![u8::try_from(at % 251).unwrap(); 1 + at % 300]);
            let kept = pack.add(body.clone(), held);
            assert_eq!(kept, body);
            held += kept.len() as u64 + Entry::OVERHEAD;
            assert!(pack.free.capacity() as u64 <= held.min(Pack::TOGETHER as u64), "{at}");
            behind += usize::from(last.is_some_and(|last| last.as_ptr_range().end == kept.as_ptr()));
            last = Some(kept);
        }
        assert!(behind > 1950, "{behind}");
        let large = Bytes::from(vec![1; Pack::SMALL + 1]);
        assert_eq!(pack.add(large.clone(), held).as_ptr(), large.as_ptr(), "not copied");
    }
}
