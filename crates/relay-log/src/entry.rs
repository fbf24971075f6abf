//! Batches, entries, pages, and limits.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;

use crate::Error;

/// Entries to append together: all of them, or none.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    entries: Vec<Bytes>,
    bytes: usize,
    at: Option<i64>,
    after: Option<u64>,
}

impl Batch {
    /// Bytes that the entries of one batch may have together: 256 MiB.
    pub const MAX_BYTES: usize = 256 << 20;
    /// Entries that a batch may have.
    pub const MAX_ENTRIES: usize = 1 << 20;

    /// A batch of these entries, in this order.
    pub fn new<T: Into<Bytes>>(entries: impl IntoIterator<Item = T>) -> Self {
        let mut batch = Self::default();
        entries.into_iter().for_each(|entry| batch.push(entry));
        batch
    }

    /// Adds an entry at the end.
    pub fn push(&mut self, entry: impl Into<Bytes>) {
        let entry = entry.into();
        self.bytes += entry.len();
        self.entries.push(entry);
    }

    /// Sets the time of the entries, in milliseconds since 1970; the system's clock when it is not set.
    #[must_use]
    pub fn at(mut self, millis: i64) -> Self {
        self.at = Some(millis);
        self
    }

    /// Appends the batch only if the head of the log is `position`; otherwise [`Error::NotAtHead`]. With this a
    /// writer detects other writers.
    #[must_use]
    pub fn after(mut self, position: u64) -> Self {
        self.after = Some(position);
        self
    }

    /// The entries.
    pub fn entries(&self) -> &[Bytes] {
        &self.entries
    }

    /// The entries, without a copy.
    pub fn into_entries(self) -> Vec<Bytes> {
        self.entries
    }

    /// Bytes of all entries together.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The time of the entries, in milliseconds since 1970: what was set, or now.
    pub fn time(&self) -> i64 {
        self.at.unwrap_or_else(now)
    }

    /// The position that the batch must follow, when it matters.
    pub fn expected_head(&self) -> Option<u64> {
        self.after
    }

    /// Checks that a log may accept the batch.
    ///
    /// # Errors
    /// [`Error::BadBatch`] for no entries, or more than [`Self::MAX_ENTRIES`] or [`Self::MAX_BYTES`].
    pub fn check(&self) -> Result<(), Error> {
        let (what, rule) = if self.entries.is_empty() {
            ("a batch of no entries".into(), "a batch has at least one".into())
        } else if self.entries.len() > Self::MAX_ENTRIES {
            let rule = format!("a batch has at most {}", Self::MAX_ENTRIES);
            (format!("a batch of {} entries", self.entries.len()), rule)
        } else if self.bytes > Self::MAX_BYTES {
            let rule = format!("a batch has at most {}", Self::MAX_BYTES);
            (format!("a batch of {} bytes", self.bytes), rule)
        } else {
            return Ok(());
        };
        Err(Error::BadBatch { what, rule })
    }

    /// Whether it follows this head.
    ///
    /// # Errors
    /// [`Error::NotAtHead`] when it was to follow another position.
    pub fn check_follows(&self, head: u64) -> Result<(), Error> {
        match self.after {
            Some(expected) if expected != head => Err(Error::NotAtHead { expected, head }),
            _ => Ok(()),
        }
    }
}

impl<T: Into<Bytes>> From<Vec<T>> for Batch {
    fn from(entries: Vec<T>) -> Self {
        Self::new(entries)
    }
}

impl From<Bytes> for Batch {
    fn from(entry: Bytes) -> Self {
        Self::new([entry])
    }
}

/// Milliseconds since 1970, by the system's clock.
fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

/// The positions of a batch: contiguous, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(clippy::len_without_is_empty, reason = "a batch has at least one entry")]
pub struct Positions {
    /// Position of its first entry.
    pub first: u64,
    /// Position of its last entry.
    pub last: u64,
}

impl Positions {
    /// How many there are.
    pub fn len(&self) -> u64 {
        self.last - self.first + 1
    }
}

/// An entry of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its position. The first entry of a log has 1, and each the one before plus one.
    pub position: u64,
    /// When it was appended, in milliseconds since 1970, as its batch said.
    pub time: i64,
    /// The appended bytes.
    pub body: Bytes,
}

impl Entry {
    /// Overhead of an entry in its counted size, in bytes.
    pub const OVERHEAD: u64 = 64;

    /// Its counted size, in bytes.
    pub fn size(&self) -> u64 {
        self.body.len() as u64 + Self::OVERHEAD
    }
}

/// The result of a read.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Page {
    /// The entries that follow the position, oldest first, without a hole. Empty at the head, and beyond it.
    Entries(Vec<Entry>),
    /// The entry after the requested position is gone. Entries continue after [`Bounds::base`].
    Gone,
}

/// How much one read may return. At least one entry is returned when there is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// Entries. Default 512.
    pub entries: usize,
    /// Bytes of the bodies. Default 1 MiB.
    pub bytes: usize,
}

impl Limit {
    /// At most this many entries, and 1 MiB.
    pub fn entries(entries: usize) -> Self {
        Self { entries, ..Self::default() }
    }

    /// The same with at most this many bytes of bodies.
    #[must_use]
    pub fn bytes(mut self, bytes: usize) -> Self {
        self.bytes = bytes;
        self
    }
}

impl Default for Limit {
    fn default() -> Self {
        Self { entries: 512, bytes: 1 << 20 }
    }
}

/// The extent of a log, at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Bounds {
    /// The position before the oldest entry that can be read: the lowest position from which entries can be read
    /// without a hole.
    pub base: u64,
    /// Position of the newest entry; 0 in a new log.
    pub head: u64,
    /// Bytes that the entries are counted with: [`Entry::size`] of each.
    pub bytes: u64,
}

impl Bounds {
    /// The extent of a log whose entries follow `base`, up to `head`.
    pub fn new(base: u64, head: u64, bytes: u64) -> Self {
        Self { base, head, bytes }
    }

    /// How many entries can be read.
    pub fn entries(&self) -> u64 {
        self.head - self.base
    }
}

/// Limits of a log: the first that is reached counts. By default nothing is dropped.
///
/// Count and bytes are checked with each append, even if the newest entry has to be dropped; age is checked with each
/// append and by [`Log::expire`](crate::Log::expire).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Retention {
    /// Entries. Default: any number.
    pub entries: u64,
    /// Bytes, as [`Entry::size`] counts them. Default: any number.
    pub bytes: u64,
    /// Age by the entries' times. Default: any.
    pub age: Duration,
}

impl Retention {
    /// No bounds, which is also the default.
    pub const UNBOUNDED: Self = Self { entries: u64::MAX, bytes: u64::MAX, age: Duration::MAX };

    /// Sets the number of entries.
    #[must_use]
    pub const fn entries(mut self, entries: u64) -> Self {
        self.entries = entries;
        self
    }

    /// Sets the bytes.
    #[must_use]
    pub const fn bytes(mut self, bytes: u64) -> Self {
        self.bytes = bytes;
        self
    }

    /// Sets the age.
    #[must_use]
    pub const fn age(mut self, age: Duration) -> Self {
        self.age = age;
        self
    }

    /// The time before which entries are too old at `now`, both in milliseconds since 1970.
    pub fn oldest_time(&self, now: i64) -> i64 {
        now.saturating_sub(i64::try_from(self.age.as_millis()).unwrap_or(i64::MAX))
    }
}

impl Default for Retention {
    fn default() -> Self {
        Self::UNBOUNDED
    }
}

/// A state derived from the entries up to a position, stored with the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// The position it reflects.
    pub position: u64,
    /// The owner's encoded state.
    pub body: Bytes,
}
