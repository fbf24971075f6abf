//! Where the log's events are kept.

mod memory;
mod record;

use relay_proto::pods::EventHash;
use std::sync::Arc;

use crate::cursor::LogIdentity;

pub use memory::{MemoryStore, Retention};
pub use record::{Change, Record};
pub(crate) use record::{Draft, Labels, Seen};

/// Keeps the events of one log, oldest first, and drops old ones by its own rule.
///
/// Sequences are contiguous: the event after position `n` is number `n + 1`. A store has one writer and many readers;
/// none of its methods may block for long. What [`Self::append`] accepted counts as taken and is sent to subscribers,
/// so a store that promises to survive a kill of the process returns only when that holds. A store that finds, when it
/// is opened, that it lost its tail takes a new [`LogIdentity`].
pub trait Store: Send + Sync + 'static {
    /// A short name for `/health`, such as `memory`.
    fn kind(&self) -> &'static str;

    /// The log's epoch and key.
    fn identity(&self) -> &LogIdentity;

    /// Takes events at the end: all of them or none. May drop old ones.
    ///
    /// # Errors
    /// When the events do not follow the head, or cannot be kept.
    fn append(&self, records: Vec<Arc<Record>>) -> Result<(), StoreError>;

    /// At most `max` events after position `after`; [`Page::Gone`] when the first of them is no longer kept.
    ///
    /// # Errors
    /// When the events cannot be read.
    fn read(&self, after: u64, max: usize) -> Result<Page, StoreError>;

    /// What is kept right now.
    fn bounds(&self) -> Bounds;

    /// Drops what is too old at the given time, in milliseconds since 1970.
    fn expire(&self, now_millis: i64);

    /// Drops every event, keeping the positions: for demonstrations and tests of what clients do then.
    fn clear(&self);
}

/// What a read found.
#[derive(Debug)]
#[non_exhaustive]
pub enum Page {
    /// The events, oldest first; empty at the head.
    Records(Vec<Arc<Record>>),
    /// The event after the asked position is no longer kept.
    Gone,
}

/// The extent of a log.
#[derive(Debug, Clone)]
pub struct Bounds {
    /// Sequence of the position before the oldest kept event: the oldest cursor that still resumes without a hole.
    pub base: u64,
    /// Hash of that position.
    pub base_hash: EventHash,
    /// Hash of the oldest kept event.
    pub oldest_hash: Option<EventHash>,
    /// Sequence of the newest event, 0 in a new log.
    pub head: u64,
    /// Its hash, genesis in a new log.
    pub head_hash: EventHash,
    /// Number of kept events.
    pub events: u64,
    /// Bytes they are counted with.
    pub bytes: u64,
}

/// What a cursor turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Resolved {
    /// A position from which the log can be read on.
    At(u64),
    /// A former position; the event after it is gone.
    Expired(u64),
    /// A position of this epoch that is still to come.
    Ahead(u64),
    /// Not a position of this log.
    Unknown,
}

/// Looks a cursor up, in constant time.
pub(crate) fn resolve(store: &dyn Store, cursor: &str) -> Result<Resolved, StoreError> {
    let Some(sequence) = store.identity().recognise(cursor) else { return Ok(Resolved::Unknown) };
    let bounds = store.bounds();
    if sequence > bounds.head {
        return Ok(Resolved::Ahead(sequence));
    }
    let kept = if sequence == bounds.base {
        Some(bounds.base_hash)
    } else if sequence == bounds.head {
        Some(bounds.head_hash)
    } else if sequence < bounds.base {
        None
    } else {
        match store.read(sequence - 1, 1)? {
            Page::Records(records) => records.first().map(|record| record.hash()),
            // Trimmed between the two looks.
            Page::Gone => None,
        }
    };
    // The seal says that this log made the hash; it may still have been made for a tail that was never taken.
    Ok(match kept {
        Some(hash) if hash.as_str() == cursor => Resolved::At(sequence),
        Some(_) => Resolved::Unknown,
        None => Resolved::Expired(sequence),
    })
}

/// Why a store cannot do its work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The events do not continue the log.
    #[error("event {found} does not follow {head}, the head of the log")]
    NotContiguous {
        /// The head's sequence.
        head: u64,
        /// The sequence of the event that was handed over.
        found: u64,
    },
    /// The medium failed.
    #[error("the store failed")]
    Io {
        /// What happened.
        #[from]
        source: std::io::Error,
    },
}
