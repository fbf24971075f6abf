//! Events in memory.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use relay_proto::pods::EventHash;

use super::{Bounds, Page, Record, Store, StoreError};
use crate::clock::millis;
use crate::cursor::LogIdentity;

/// How much of the log is kept: whichever bound is reached first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Retention {
    /// Events. Default 100,000.
    pub events: u64,
    /// Bytes of encoded events, each counted with 256 bytes on top for what is kept beside it. Default 256 MiB.
    pub bytes: u64,
    /// Age since the log took the event. Default 24 hours.
    pub age: Duration,
}

impl Default for Retention {
    fn default() -> Self {
        Self { events: 100_000, bytes: 256 << 20, age: Duration::from_secs(24 * 3600) }
    }
}

impl Retention {
    /// Sets the number of events.
    #[must_use]
    pub fn events(mut self, events: u64) -> Self {
        self.events = events;
        self
    }

    /// Sets the bytes.
    #[must_use]
    pub fn bytes(mut self, bytes: u64) -> Self {
        self.bytes = bytes;
        self
    }

    /// Sets the age.
    #[must_use]
    pub fn age(mut self, age: Duration) -> Self {
        self.age = age;
        self
    }
}

/// A log in memory: a new one is a new epoch, and nothing survives the process.
#[derive(Debug)]
pub struct MemoryStore {
    identity: LogIdentity,
    retention: Retention,
    kept: RwLock<Kept>,
}

#[derive(Debug)]
struct Kept {
    base: u64,
    base_hash: EventHash,
    records: VecDeque<Arc<Record>>,
    bytes: u64,
}

impl MemoryStore {
    /// An empty log with a random identity.
    pub fn new(retention: Retention) -> Self {
        Self::with_identity(retention, LogIdentity::random())
    }

    /// An empty log with a given identity: for tests that need exact bytes.
    pub fn with_identity(retention: Retention, identity: LogIdentity) -> Self {
        let base_hash = identity.genesis();
        let kept = Kept { base: 0, base_hash, records: VecDeque::new(), bytes: 0 };
        Self { identity, retention, kept: RwLock::new(kept) }
    }

    // A panic while the lock was held cannot leave it torn: nothing that can panic stands between two changes.
    fn kept(&self) -> RwLockReadGuard<'_, Kept> {
        self.kept.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn kept_mut(&self) -> RwLockWriteGuard<'_, Kept> {
        self.kept.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store for MemoryStore {
    fn kind(&self) -> &'static str {
        "memory"
    }

    fn identity(&self) -> &LogIdentity {
        &self.identity
    }

    fn append(&self, records: Vec<Arc<Record>>) -> Result<(), StoreError> {
        let mut dropped = Vec::new();
        let mut kept = self.kept_mut();
        let head = kept.head();
        for (expected, record) in (head + 1..).zip(&records) {
            if record.sequence() != expected {
                return Err(StoreError::NotContiguous { head, found: record.sequence() });
            }
        }
        for record in records {
            kept.bytes += record.size();
            kept.records.push_back(record);
            while kept.records.len() as u64 > self.retention.events || kept.bytes > self.retention.bytes {
                dropped.extend(kept.drop_oldest());
            }
        }
        drop(kept);
        // Freed only here, where no reader waits for it.
        drop(dropped);
        Ok(())
    }

    fn read(&self, after: u64, max: usize) -> Result<Page, StoreError> {
        let kept = self.kept();
        let Some(skip) = after.checked_sub(kept.base) else { return Ok(Page::Gone) };
        let skip = usize::try_from(skip).unwrap_or(usize::MAX).min(kept.records.len());
        let end = skip.saturating_add(max).min(kept.records.len());
        Ok(Page::Records(kept.records.range(skip..end).cloned().collect()))
    }

    fn bounds(&self) -> Bounds {
        let kept = self.kept();
        Bounds {
            base: kept.base,
            base_hash: kept.base_hash.clone(),
            oldest_hash: kept.records.front().map(|record| record.hash()),
            head: kept.head(),
            head_hash: kept.records.back().map_or_else(|| kept.base_hash.clone(), |record| record.hash()),
            events: kept.records.len() as u64,
            bytes: kept.bytes,
        }
    }

    fn expire(&self, now_millis: i64) {
        let oldest = now_millis.saturating_sub(millis(self.retention.age));
        let mut dropped = Vec::new();
        let mut kept = self.kept_mut();
        while kept.records.front().is_some_and(|record| record.appended_at() < oldest) {
            dropped.extend(kept.drop_oldest());
        }
        drop(kept);
        drop(dropped);
    }

    fn clear(&self) {
        let mut kept = self.kept_mut();
        while kept.drop_oldest().is_some() {}
    }
}

impl Kept {
    fn head(&self) -> u64 {
        self.base + self.records.len() as u64
    }

    fn drop_oldest(&mut self) -> Option<Arc<Record>> {
        let record = self.records.pop_front()?;
        self.base = record.sequence();
        self.base_hash = record.hash();
        self.bytes -= record.size();
        Some(record)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use relay_proto::pods::PodBuilder;

    use super::*;
    use crate::clock::Clock;
    use crate::log::Log;
    use crate::source::Publisher;
    use crate::store::{Resolved, resolve};

    fn log(retention: Retention) -> (Arc<Log>, Publisher, Clock) {
        let clock = Clock::manual(0);
        let log = Arc::new(Log::open(Arc::new(MemoryStore::new(retention)), clock.clone()).unwrap());
        (log.clone(), Publisher::new(log, []), clock)
    }

    fn put(publisher: &Publisher, name: &str) {
        publisher.upsert(PodBuilder::new("prod", name).build()).unwrap();
    }

    #[test]
    fn the_oldest_events_go_by_number() {
        let (log, publisher, _) = log(Retention::default().events(3));
        let genesis = log.store.bounds().base_hash;
        for at in 0..10 {
            put(&publisher, &format!("p{at}"));
        }
        let bounds = log.store.bounds();
        assert_eq!((bounds.base, bounds.head, bounds.events), (7, 10, 3));
        assert!(matches!(log.store.read(6, 1), Ok(Page::Gone)));
        let Ok(Page::Records(kept)) = log.store.read(7, 100) else { panic!() };
        assert_eq!(kept.iter().map(|r| r.sequence()).collect::<Vec<_>>(), [8, 9, 10]);
        assert_eq!(Some(kept[0].hash()), bounds.oldest_hash);
        assert_eq!(kept[0].previous_hash_str(), bounds.base_hash.as_str());
        assert_eq!(bounds.bytes, kept.iter().map(|r| r.size()).sum::<u64>());
        let found = |hash: &str| resolve(&*log.store, hash).unwrap();
        assert_eq!(found(genesis.as_str()), Resolved::Expired(0));
        assert_eq!(found(bounds.base_hash.as_str()), Resolved::At(7));
        assert_eq!(found(bounds.head_hash.as_str()), Resolved::At(10));
        assert_eq!(found(kept[1].hash_str()), Resolved::At(9));
        let identity = log.store.identity();
        assert_eq!(found(identity.mint("", 11, b"").as_str()), Resolved::Ahead(11));
        assert_eq!(found(identity.mint("", 9, b"another").as_str()), Resolved::Unknown, "never taken");
        assert_eq!(found(LogIdentity::random().genesis().as_str()), Resolved::Unknown);
    }

    #[test]
    fn the_oldest_events_go_by_size_even_the_last() {
        let (log, publisher, _) = log(Retention::default().bytes(2000));
        for at in 0..10 {
            put(&publisher, &format!("p{at}"));
            assert!(log.store.bounds().bytes <= 2000);
        }
        assert!((1..10).contains(&log.store.bounds().events));
        publisher.upsert(PodBuilder::new("prod", "big").message(Some(&"x".repeat(3000))).build()).unwrap();
        let bounds = log.store.bounds();
        assert_eq!((bounds.events, bounds.bytes, bounds.base, bounds.oldest_hash), (0, 0, 11, None));
        assert_eq!(bounds.base_hash, bounds.head_hash);
        assert_eq!(resolve(&*log.store, bounds.head_hash.as_str()).unwrap(), Resolved::At(11));
        put(&publisher, "next");
        assert_eq!(log.store.bounds().events, 1);
        assert_eq!(log.view().pods.len(), 12, "the pods are all there");
    }

    #[test]
    fn the_oldest_events_go_by_age() {
        let (log, publisher, clock) = log(Retention::default().age(Duration::from_secs(60)));
        put(&publisher, "a");
        clock.advance(Duration::from_secs(40));
        put(&publisher, "b");
        clock.advance(Duration::from_secs(20));
        log.store.expire(clock.unix_millis());
        assert_eq!(log.store.bounds().events, 2, "a minute is not over");
        clock.advance(Duration::from_millis(1));
        log.store.expire(clock.unix_millis());
        assert_eq!(log.store.bounds().base, 1);
        clock.advance(Duration::from_secs(3600));
        put(&publisher, "c");
        assert_eq!(log.store.bounds().base, 2, "appending looks as well");
    }

    #[test]
    fn events_that_do_not_follow_are_refused_whole() {
        let (log, publisher, _) = log(Retention::default());
        put(&publisher, "a");
        let Ok(Page::Records(records)) = log.store.read(0, 1) else { panic!() };
        let error = log.store.append(records).unwrap_err().to_string();
        assert_eq!(error, "event 1 does not follow 1, the head of the log");
        assert_eq!(log.store.bounds().head, 1);
    }

    #[test]
    fn a_log_over_a_store_with_events_begins_with_their_fold() {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new(Retention::default()));
        let first = Arc::new(Log::open(store.clone(), Clock::manual(0)).unwrap());
        let publisher = Publisher::new(first.clone(), []);
        put(&publisher, "a");
        put(&publisher, "b");
        publisher.delete(PodBuilder::new("prod", "a").build()).unwrap();
        let second = Log::open(store, Clock::manual(0)).unwrap();
        assert_eq!((second.head(), second.view().hash.clone()), (3, first.view().hash.clone()));
        assert!(second.view().pods == first.view().pods && second.view().pods.len() == 1);
        assert!(!second.source().synced);
    }
}
