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
