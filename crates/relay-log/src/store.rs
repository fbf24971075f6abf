//! The traits of a store, for new media.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;

use crate::{
    Batch, Bounds, Checkpoint, Error, Identity, Join, Joined, Limit, LogName, Page, Positions, Retention,
};

/// The answer of a store: at once, or later.
///
/// Work that may wait for a medium belongs into `Later`, and must not block the polling thread.
pub enum Work<T> {
    /// It is done.
    Ready(T),
    /// It takes time. Started work is completed even if its future is dropped.
    Later(BoxFuture<'static, T>),
}

impl<T> Work<T> {
    /// Waits for it.
    pub async fn done(self) -> T {
        match self {
            Self::Ready(value) => value,
            Self::Later(future) => future.await,
        }
    }
}

impl<T> fmt::Debug for Work<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if matches!(self, Self::Ready(_)) { "Ready(..)" } else { "Later(..)" })
    }
}

/// Options of a new log.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct LogOptions {
    /// The retention. Default: everything.
    pub retention: Retention,
    /// Opaque bytes that stay with the log for its life, such as its configuration; at most 64 KiB. Default: none.
    pub about: Bytes,
    /// Epoch and key. Default: random ones.
    pub identity: Option<Identity>,
    /// The position after which the log begins, for one that continues another. Default 0.
    pub begins_after: u64,
}

impl LogOptions {
    /// Bytes that `about` may have.
    pub const MAX_ABOUT: usize = 64 << 10;

    /// Sets how much can be read.
    #[must_use]
    pub fn retention(mut self, retention: Retention) -> Self {
        self.retention = retention;
        self
    }

    /// Sets the bytes that stay with the log.
    #[must_use]
    pub fn about(mut self, about: impl Into<Bytes>) -> Self {
        self.about = about.into();
        self
    }

    /// Sets epoch and key.
    #[must_use]
    pub fn identity(mut self, identity: Identity) -> Self {
        self.identity = Some(identity);
        self
    }

    /// Sets the position after which the log begins.
    #[must_use]
    pub fn begins_after(mut self, position: u64) -> Self {
        self.begins_after = position;
        self
    }

    /// Checks the options.
    ///
    /// # Errors
    /// [`Error::BadBatch`] when `about` is too long.
    pub fn check(&self) -> Result<(), Error> {
        if self.about.len() <= Self::MAX_ABOUT {
            return Ok(());
        }
        let what = format!("a description of {} bytes", self.about.len());
        Err(Error::BadBatch { what, rule: format!("it has at most {}", Self::MAX_ABOUT) })
    }
}

/// Keeps logs by their names. Applications use it through [`Logs`](crate::Logs). A store for a new medium implements
/// it, and passes the tests of the module `suite` (behind the feature of that name).
///
/// Several processes may share one medium, if the medium supports it: callers do not assume that they are alone, only
/// that [`StoredLog::append`] is all-or-none.
pub trait Store: fmt::Debug + Send + Sync + 'static {
    /// A short name for people and metrics, such as `memory`.
    fn kind(&self) -> &'static str;

    /// Whether its content outlives the process.
    fn outlives_process(&self) -> bool;

    /// The directory it is in, if it is in one: errors name files there.
    fn directory(&self) -> Option<&Path> {
        None
    }

    /// Creates a log. It exists once this is done, with the store's durability.
    fn create(&self, name: &LogName, options: LogOptions) -> Work<Result<Arc<dyn StoredLog>, Error>>;

    /// Opens a log. All handles of one log share one state.
    fn open(&self, name: &LogName) -> Work<Result<Arc<dyn StoredLog>, Error>>;

    /// Removes a log with everything in it; handles of it are closed. A log of this name created later is another one.
    fn delete(&self, name: &LogName) -> Work<Result<(), Error>>;

    /// Creates a log with the entries of another one up to position `at`, at the same positions and with the same
    /// times. From there on the two are independent: the new log's epoch is new unless the options give one, and it has
    /// no checkpoint. [`Error::OutOfBounds`] unless the entries up to `at` can be read.
    fn fork(
        &self,
        source: &LogName,
        at: u64,
        name: &LogName,
        options: LogOptions,
    ) -> Work<Result<Arc<dyn StoredLog>, Error>>;

    /// The names of all logs, sorted.
    fn names(&self) -> Work<Result<Vec<LogName>, Error>>;

    /// Closes the store in an orderly way: appended entries are made as durable as possible, and all logs are closed.
    fn close(&self) -> Work<Result<(), Error>>;
}

/// One log, as its store keeps it.
///
/// Each [`Logs`](crate::Logs) appends one group of batches after another. When several of them share one log, the store
/// serialises their groups.
pub trait StoredLog: fmt::Debug + Send + Sync + 'static {
    /// Epoch and key.
    fn identity(&self) -> Identity;

    /// The position after which entries belong to this epoch: 0 except for a fork and for a log that lost its tail
    /// once.
    fn epoch_base(&self) -> u64;

    /// The bytes that were given when it was created.
    fn about(&self) -> Bytes;

    /// Appends a group of batches, in order: each of them as a whole, or not at all. A refused batch does not
    /// affect the next ones. Done when accepted batches are as durable as the store guarantees; only then can they
    /// be read.
    fn append(&self, group: Vec<Batch>) -> Work<Vec<Result<Positions, Error>>>;

    /// The entries after a position.
    fn read(&self, after: u64, limit: Limit) -> Work<Result<Page, Error>>;

    /// The same part of each of the entries after a position. It is asked for one entry at least.
    ///
    /// This one reads a page and copies from it; a store may copy from where it has the entries, and read on while
    /// the page is worked on.
    fn join(&self, join: Join) -> Work<Result<Joined, Error>> {
        let joined = move |page: Page| Joined::of(&page, join.part, &Arc::default());
        match self.read(join.after, join.page()) {
            Work::Ready(page) => Work::Ready(page.map(joined)),
            Work::Later(page) => Work::Later(Box::pin(async move { page.await.map(joined) })),
        }
    }

    /// Like [`Self::read`], and also entries that were trimmed but are still there because the checkpoint needs them.
    /// [`Page::Gone`] only when the entry is really gone.
    fn read_held(&self, after: u64, limit: Limit) -> Work<Result<Page, Error>>;

    /// What can be read right now.
    fn bounds(&self) -> Bounds;

    /// The position before the oldest entry that [`Self::read_held`] finds.
    fn held_base(&self) -> u64;

    /// Whether it is closed, and why.
    fn closed(&self) -> Option<Error>;

    /// Done as soon as the head is beyond `after`, or the log is closed.
    fn wait(&self, after: u64) -> Work<Result<u64, Error>>;

    /// Makes `to` the base, unless the base is already higher.
    fn trim(&self, to: u64) -> Work<Result<(), Error>>;

    /// Drops the entries that are too old at `now`, in milliseconds since 1970.
    fn expire(&self, now: i64) -> Work<Result<(), Error>>;

    /// Changes how much can be read, from the next append on. It does not survive a reopening.
    fn set_retention(&self, retention: Retention);

    /// Keeps a checkpoint in place of the former one. Entries after it are held from then on.
    fn save_checkpoint(&self, checkpoint: Checkpoint) -> Work<Result<(), Error>>;

    /// The newest checkpoint.
    fn checkpoint(&self) -> Work<Result<Option<Checkpoint>, Error>>;
}
