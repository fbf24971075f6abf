//! The events of the log: a log of `relay-log`, decoded.

mod checkpoint;
mod record;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use relay_log::{Batch, Join, Limit, LogName, LogOptions, Logs, Recovery, Retention, Store, Work};
use relay_proto::error::chain;
use relay_proto::pods::EventHash;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::cursor::LogIdentity;

pub(crate) use checkpoint::{Encoder, Fold};
pub use record::{Change, Record};
pub(crate) use record::{Draft, Labels, Seen};

/// The default of [`Builder::retention`](crate::Builder::retention): 100,000 events, 256 MiB of encoded events, 24
/// hours.
pub const DEFAULT_RETENTION: Retention =
    Retention::UNBOUNDED.entries(100_000).bytes(256 << 20).age(Duration::from_secs(24 * 3600));

/// The log's name in its store.
pub(crate) fn log_name() -> LogName {
    LogName::new("pods").expect("a plain word is a name")
}

/// The events of a log, oldest first. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Events {
    store: Arc<dyn Store>,
    log: relay_log::Log,
    identity: LogIdentity,
    /// Sequence and hash of the newest event whose append has returned.
    last: Arc<Mutex<(u64, EventHash)>>,
    /// One permit for each stream that may read ahead. A stream without a permit reads its page when it needs it.
    pub(crate) ahead: Arc<Semaphore>,
}

/// The result of a read.
#[derive(Debug)]
pub(crate) enum Page {
    /// The events, oldest first; empty at the head.
    Records(Vec<Record>),
    /// The event after the asked position is no longer kept.
    Gone,
}

/// The extent of a log.
#[derive(Debug, Clone)]
pub(crate) struct Bounds {
    /// Sequence of the position before the oldest kept event: the oldest cursor that still resumes without a hole.
    pub(crate) base: u64,
    /// Hash of that position.
    pub(crate) base_hash: EventHash,
    /// Hash of the oldest kept event.
    pub(crate) oldest_hash: Option<EventHash>,
    /// Sequence of the newest event, 0 in a new log.
    pub(crate) head: u64,
    /// Its hash, genesis in a new log.
    pub(crate) head_hash: EventHash,
    /// Number of kept events.
    pub(crate) events: u64,
    /// Their size as counted for the retention, in bytes.
    pub(crate) bytes: u64,
}

impl Events {
    /// Streams that may read ahead at the same time, so that their memory does not grow with the number of streams.
    const READ_AHEAD: usize = 8;

    /// Opens the log in a store, or creates it.
    pub(crate) async fn open(
        store: Arc<dyn Store>,
        retention: Retention,
        identity: Option<&LogIdentity>,
    ) -> Result<Self, StoreError> {
        let name = log_name();
        let mut options = LogOptions::default().retention(retention);
        options.identity = identity.map(LogIdentity::kept);
        let logs = Logs::shared(store.clone());
        let log = match logs.open(&name).await {
            Err(relay_log::Error::NotFound { .. }) => {
                if store.outlives_process() {
                    tracing::info!("the store has no log of pods: a new one begins, with a new epoch");
                }
                logs.open_or_create(&name, options).await?
            }
            opened => opened?,
        };
        log.set_retention(retention);
        let identity = LogIdentity::of(&log.identity());
        // Hashes of a former epoch are not valid in this one.
        log.trim(log.epoch_base()).await?;
        let genesis = identity.base(log.epoch_base());
        let last = Arc::new(Mutex::new((log.epoch_base(), genesis)));
        Ok(Self { store, log, identity, last, ahead: Arc::new(Semaphore::new(Self::READ_AHEAD)) })
    }

    async fn records(&self, after: u64) -> Result<Vec<Record>, StoreError> {
        match self.read(after, 1).await? {
            Page::Records(records) => Ok(records),
            Page::Gone => Ok(Vec::new()),
        }
    }

    /// A short name for `/health`.
    pub(crate) fn kind(&self) -> &'static str {
        self.store.kind()
    }

    /// An error, for those who need not know where the store's files are.
    pub(crate) fn told(&self, error: &(dyn std::error::Error + 'static)) -> String {
        let text = chain(error).to_string();
        let Some(directory) = self.store.directory().map(|path| path.display().to_string()) else {
            return text;
        };
        text.replace(&format!("{}/", directory.trim_end_matches('/')), "")
            .replace(&directory, "the data directory")
    }

    pub(crate) fn outlives_process(&self) -> bool {
        self.store.outlives_process()
    }

    /// The log's epoch and key.
    pub(crate) fn identity(&self) -> &LogIdentity {
        &self.identity
    }

    /// The log itself.
    pub(crate) fn log(&self) -> &relay_log::Log {
        &self.log
    }

    /// The newest checkpoint and the events after it.
    pub(crate) async fn recover(&self) -> Result<Recovery, StoreError> {
        Ok(self.log.recover().await?)
    }

    /// Appends events: all of them or none.
    pub(crate) async fn append(&self, records: &[Record]) -> Result<(), StoreError> {
        let (Some(first), Some(last)) = (records.first(), records.last()) else { return Ok(()) };
        let bodies = records.iter().map(|record| record.body().clone());
        let batch = Batch::new(bodies).at(last.appended_at()).after(first.sequence() - 1);
        self.log.append(batch).await?;
        self.taken(last.sequence(), last.hash());
        Ok(())
    }

    /// Sets the head: after an append, and when the log was opened.
    pub(crate) fn taken(&self, sequence: u64, hash: EventHash) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = (sequence, hash);
    }

    /// At most `max` events after position `after`; [`Page::Gone`] when the first of them is no longer kept.
    pub(crate) async fn read(&self, after: u64, max: usize) -> Result<Page, StoreError> {
        match self.log.read(after, Limit::entries(max)).await? {
            relay_log::Page::Entries(entries) => {
                Ok(Page::Records(entries.iter().map(Record::decode).collect::<Result<_, _>>()?))
            }
            _ => Ok(Page::Gone),
        }
    }

    /// Starts a read like [`Self::read`], but without decoding, and with a limit in bytes.
    pub(crate) fn begin_read(
        &self,
        after: u64,
        max: usize,
        bytes: usize,
    ) -> Work<Result<relay_log::Page, relay_log::Error>> {
        self.log.begin_read(after, Limit::entries(max).bytes(bytes))
    }

    /// The permission to read ahead, unless too many streams have it.
    pub(crate) fn turn_ahead(&self) -> Option<OwnedSemaphorePermit> {
        self.ahead.clone().try_acquire_owned().ok()
    }

    /// Begins to read the frames of unfiltered streams, up to a position, and so many pages of them.
    pub(crate) fn begin_frames(
        &self,
        after: u64,
        until: u64,
        limit: Limit,
        pages: usize,
    ) -> Work<Result<relay_log::Joined, relay_log::Error>> {
        self.log.begin_join(Join { after, until, limit, pages, part: Record::frame_in })
    }

    /// The extent of the log now.
    pub(crate) async fn bounds(&self) -> Result<Bounds, StoreError> {
        loop {
            let bounds = self.log.bounds();
            let (head, head_hash) = self.last.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let base = bounds.base;
            let (base_hash, oldest_hash) = if base == head {
                (head_hash.clone(), None)
            } else if base > head {
                // Events were stored and already dropped by the retention, before their append returned.
                tokio::task::yield_now().await;
                continue;
            } else {
                match self.records(base).await?.first() {
                    Some(oldest) => (oldest.previous_hash(), Some(oldest.hash())),
                    // The events were dropped between the two reads.
                    None => continue,
                }
            };
            let (events, bytes) = (head - base, bounds.bytes);
            return Ok(Bounds { base, base_hash, oldest_hash, head, head_hash, events, bytes });
        }
    }

    /// The newest stored sequence.
    pub(crate) fn head(&self) -> u64 {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).0
    }

    /// Closes the log in order.
    pub(crate) async fn close(&self) -> Result<(), StoreError> {
        Ok(self.store.close().done().await?)
    }
}

/// The position in a log that belongs to a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Moment {
    /// The position right before the first event stored at that time or later; the head when there is none.
    After(u64, EventHash),
    /// Events stored at that time or later may be gone.
    Expired,
}

/// Finds, by a binary search, the first event that was stored at the time `millis` or later; `now` is the present time.
/// Both are in milliseconds since 1970-01-01T00:00:00Z.
///
/// When events are gone, some of them may be as old as the oldest retained one, to the millisecond: only for a later
/// time is it known that all of its events are retained.
pub(crate) async fn moment(events: &Events, millis: i64, now: i64) -> Result<Moment, StoreError> {
    let bounds = events.bounds().await?;
    let (mut low, mut high, mut hash) = (bounds.base, bounds.head, bounds.head_hash);
    // Whether all events of that time or later are known to be after `low`.
    let mut whole = bounds.base == 0 || (bounds.base == bounds.head && millis > now);
    while low < high {
        let middle = low + (high - low) / 2;
        match events.records(middle).await?.first() {
            Some(record) if record.appended_at() >= millis => {
                (high, hash) = (middle, record.previous_hash());
            }
            Some(_) => (low, whole) = (middle + 1, true),
            // Trimmed since the bounds were read.
            None => (low, whole) = (middle + 1, false),
        }
    }
    let kept = low >= events.log.bounds().base;
    Ok(if whole && kept { Moment::After(low, hash) } else { Moment::Expired })
}

/// The result of looking up a cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Resolved {
    /// A position from which the log can be read on.
    At(u64),
    /// A former position; the event after it is gone.
    Expired(u64),
    /// A future position of this epoch.
    Ahead(u64),
    /// Not a position of this log.
    Unknown,
}

/// Looks a cursor up, without a search.
pub(crate) async fn resolve(events: &Events, cursor: &str) -> Result<Resolved, StoreError> {
    let Some(sequence) = events.identity().recognise(cursor) else { return Ok(Resolved::Unknown) };
    let bounds = events.bounds().await?;
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
        // None when it was trimmed between the two reads.
        events.records(sequence - 1).await?.first().map(Record::hash)
    };
    // The seal shows that this log made the hash, but possibly for events that were never stored.
    Ok(match kept {
        Some(hash) if hash.as_str() == cursor => Resolved::At(sequence),
        Some(_) => Resolved::Unknown,
        None => Resolved::Expired(sequence),
    })
}

/// A failure of the log's store.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// An error of the store.
    #[error(transparent)]
    Log(#[from] relay_log::Error),
    /// The entry at a position is not an event.
    #[error("what the log has at position {sequence} is no event")]
    Undecodable {
        /// The position.
        sequence: u64,
    },
    /// The pods of a log are not known: its checkpoint is missing or cannot be read, and its beginning is gone.
    #[error("the pods of the log are not known: {problem}")]
    Fold {
        /// What is wrong.
        problem: String,
    },
}

impl StoreError {
    /// Whether a retry may succeed.
    pub(crate) fn may_pass(&self) -> bool {
        matches!(self, Self::Log(relay_log::Error::Io { .. }))
    }
}
