//! The log's handle, and its queue of appends.

use std::cell::Cell;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::{
    Batch, Bounds, Checkpoint, Entry, Error, Identity, Join, Joined, Limit, LogName, Page, Parts, Positions,
    Retention, StoredLog, Work,
};

/// A log: entries with positions, from the oldest that is kept to the head. Cheap to clone.
///
/// ```text
///   append --> queue --(all that waits is one group)--> StoredLog::append --> head moves --> wait returns
///                 |                                           |
///     bounded: when it is full,                     one group at a time; each append returns when
///     appends wait                                  its batch is as durable as the store guarantees
/// ```
#[derive(Clone)]
pub struct Log {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    name: LogName,
    stored: Arc<dyn StoredLog>,
    /// A permit for each byte in the queue.
    room: Arc<Semaphore>,
    queue: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
    waiting: Vec<(Batch, Caller)>,
    /// Whether a group is being written.
    writing: bool,
}

impl Log {
    /// Size limit of the queue of one log: 16 MiB. A larger batch waits until the queue is empty.
    pub const QUEUE_BYTES: usize = 16 << 20;
    /// Overhead of an entry in the queue, in bytes.
    const QUEUED: usize = 64;

    pub(crate) fn new(name: LogName, stored: Arc<dyn StoredLog>) -> Self {
        let room = Arc::new(Semaphore::new(Self::QUEUE_BYTES));
        Self { inner: Arc::new(Inner { name, stored, room, queue: Mutex::default() }) }
    }

    pub(crate) fn downgrade(&self) -> Weak<Inner> {
        Arc::downgrade(&self.inner)
    }

    pub(crate) fn upgrade(inner: &Weak<Inner>) -> Option<Self> {
        inner.upgrade().map(|inner| Self { inner })
    }

    /// Its name in the store.
    pub fn name(&self) -> &LogName {
        &self.inner.name
    }

    /// Epoch and key.
    pub fn identity(&self) -> Identity {
        self.inner.stored.identity()
    }

    /// The position after which entries belong to this epoch. It is 0 except for a log with a new epoch after a
    /// possible loss, and for a fork: readers may have seen other entries before it.
    pub fn epoch_base(&self) -> u64 {
        self.inner.stored.epoch_base()
    }

    /// The bytes that were given when the log was created.
    pub fn about(&self) -> Bytes {
        self.inner.stored.about()
    }

    /// Appends a batch: all of it or nothing. Returns when the entries are as durable as the store guarantees; they
    /// can be read from then on, and not before.
    ///
    /// Appends of many tasks share the work: batches that arrive while a group is being written form the next
    /// group. A caller's batches keep the order of its calls, if it begins one when the former is queued (an append
    /// that was polled once is queued unless the queue is full). When the future is dropped after that, the batch
    /// is still appended.
    ///
    /// # Errors
    /// [`Error::NotAtHead`], [`Error::BadBatch`] and [`Error::Io`] leave the log as it was, and later appends may
    /// succeed. [`Error::Closed`] is final. After an error, nothing of the batch is ever announced within this epoch.
    pub async fn append(&self, batch: impl Into<Batch>) -> Result<Positions, Error> {
        let batch = batch.into();
        batch.check()?;
        let cost = (batch.bytes() + batch.entries().len() * Self::QUEUED).min(Self::QUEUE_BYTES);
        let cost = u32::try_from(cost).unwrap_or(u32::MAX);
        let room = self.inner.room.clone();
        let Ok(room) = room.acquire_many_owned(cost).await else { return Err(lost()) };
        match self.inner.clone().begin(batch, room) {
            Work::Ready(result) => result,
            Work::Later(answer) => answer.await,
        }
    }

    /// The entries after a position, oldest first: at least one if there is one, and at most what the limit allows.
    ///
    /// # Errors
    /// When they cannot be read, or are damaged: there is never a hole in what is returned.
    pub async fn read(&self, after: u64, limit: Limit) -> Result<Page, Error> {
        self.begin_read(after, limit).done().await
    }

    /// Begins a read at once: it makes progress even before the result is awaited, so that the next page can be read
    /// while this one is being processed. Otherwise like [`Self::read`].
    pub fn begin_read(&self, after: u64, limit: Limit) -> Work<Result<Page, Error>> {
        self.inner.stored.read(after, limit)
    }

    /// Begins to read one part of each of the entries after a position, all parts one behind the other: for entries
    /// that are sent on as they are. It costs less than a page.
    pub fn begin_join(&self, join: Join) -> Work<Result<Joined, Error>> {
        match join.is_empty() {
            true => Work::Ready(Ok(Joined::Parts(Parts::default()))),
            false => self.inner.stored.join(join),
        }
    }

    /// What can be read right now.
    pub fn bounds(&self) -> Bounds {
        self.inner.stored.bounds()
    }

    /// Waits until the head is beyond `after`, and returns it.
    ///
    /// # Errors
    /// [`Error::Closed`] when there will be no more.
    pub async fn wait(&self, after: u64) -> Result<u64, Error> {
        self.inner.stored.wait(after).done().await
    }

    /// Whether the log is closed, and why: it was deleted, its store was closed, or its medium can no longer be
    /// trusted.
    pub fn closed(&self) -> Option<Error> {
        self.inner.stored.closed()
    }

    /// Drops the entries up to and including a position. One that is below the base changes nothing.
    ///
    /// # Errors
    /// [`Error::OutOfBounds`] beyond the head, or when the medium fails.
    pub async fn trim(&self, to: u64) -> Result<(), Error> {
        self.inner.stored.trim(to).done().await
    }

    /// Drops entries that are too old at `now`, in milliseconds since 1970.
    ///
    /// # Errors
    /// When the medium fails.
    pub async fn expire(&self, now: i64) -> Result<(), Error> {
        self.inner.stored.expire(now).done().await
    }

    /// Changes the retention, from the next append or [`Self::expire`] on. It is not stored: set it again after
    /// opening the log.
    pub fn set_retention(&self, retention: Retention) {
        self.inner.stored.set_retention(retention);
    }

    /// Stores a state derived from the entries up to a position, replacing the former checkpoint.
    ///
    /// Entries after the checkpoint are then kept even when they are trimmed, but only [`Self::recover`] returns
    /// them: checkpoint and kept entries are always complete. So make new checkpoints as the log grows; each costs
    /// the time of writing its body.
    ///
    /// # Errors
    /// [`Error::OutOfBounds`] unless the position lies between the former checkpoint and the head, or when the medium
    /// fails; the former checkpoint is then still there.
    pub async fn save_checkpoint(&self, checkpoint: Checkpoint) -> Result<(), Error> {
        self.inner.stored.save_checkpoint(checkpoint).done().await
    }

    /// The newest checkpoint, and the entries after it.
    ///
    /// # Errors
    /// When the checkpoint cannot be read.
    pub async fn recover(&self) -> Result<Recovery, Error> {
        let checkpoint = self.inner.stored.checkpoint().done().await?;
        let after = checkpoint.as_ref().map_or_else(|| self.inner.stored.held_base(), |kept| kept.position);
        Ok(Recovery { log: self.clone(), checkpoint, after })
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log").field("name", &self.inner.name).field("bounds", &self.bounds()).finish()
    }
}

/// The content of a log at its opening: the newest checkpoint and the entries after it.
#[derive(Debug)]
pub struct Recovery {
    log: Log,
    checkpoint: Option<Checkpoint>,
    after: u64,
}

impl Recovery {
    /// The newest checkpoint, if one was ever made.
    pub fn checkpoint(&self) -> Option<&Checkpoint> {
        self.checkpoint.as_ref()
    }

    /// The position after which [`Self::next`] continues. At first that of the checkpoint; without a checkpoint it is
    /// the lowest position: if that is not 0, the first entries are lost.
    pub fn position(&self) -> u64 {
        self.after
    }

    /// The next entries; empty at the head.
    ///
    /// # Errors
    /// When they cannot be read.
    pub async fn next(&mut self, limit: Limit) -> Result<Vec<Entry>, Error> {
        match self.log.inner.stored.read_held(self.after, limit).done().await? {
            Page::Entries(entries) => {
                self.after = entries.last().map_or(self.after, |entry| entry.position);
                Ok(entries)
            }
            Page::Gone => {
                let (from, to) = (self.log.inner.stored.held_base(), self.log.bounds().head);
                Err(Error::OutOfBounds { position: self.after, from, to })
            }
        }
    }
}

impl Inner {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes a batch at once if no group is being written, or leaves it to the current writer.
    fn begin(self: Arc<Self>, batch: Batch, room: OwnedSemaphorePermit) -> Work<Result<Positions, Error>> {
        let mut queue = self.queue();
        if queue.writing {
            let (answer, told) = oneshot::channel();
            queue.waiting.push((batch, Caller { answer, _room: room }));
            drop(queue);
            return Work::Later(Box::pin(async move { told.await.unwrap_or_else(|_| Err(lost())) }));
        }
        queue.writing = true;
        drop(queue);
        let turn = Turn { log: self, held: Cell::new(true) };
        match turn.log.stored.append(vec![batch]) {
            Work::Ready(results) => {
                turn.go_on();
                Work::Ready(results.into_iter().next().unwrap_or_else(|| Err(lost())))
            }
            Work::Later(writing) => {
                let (answer, told) = oneshot::channel();
                tokio::spawn(async move {
                    let result = writing.await.into_iter().next().unwrap_or_else(|| Err(lost()));
                    drop(room);
                    let _ = answer.send(result);
                    turn.write_on().await;
                });
                Work::Later(Box::pin(async move { told.await.unwrap_or_else(|_| Err(lost())) }))
            }
        }
    }
}

/// The right to write, held by one at a time.
struct Turn {
    log: Arc<Inner>,
    /// False once the turn has been given back.
    held: Cell<bool>,
}

impl Turn {
    /// Writes the queue as long as the store answers at once; then a task takes over.
    fn go_on(self) {
        while let Some((group, callers)) = self.next_group() {
            match self.log.stored.append(group) {
                Work::Ready(results) => tell(callers, results),
                Work::Later(writing) => {
                    tokio::spawn(async move {
                        tell(callers, writing.await);
                        self.write_on().await;
                    });
                    return;
                }
            }
        }
    }

    async fn write_on(self) {
        while let Some((group, callers)) = self.next_group() {
            let results = self.log.stored.append(group).done().await;
            tell(callers, results);
        }
    }

    /// The next group; or, if the queue is empty, ends the turn.
    fn next_group(&self) -> Option<(Vec<Batch>, Vec<Caller>)> {
        let mut queue = self.log.queue();
        if queue.waiting.is_empty() {
            queue.writing = false;
            self.held.set(false);
            return None;
        }
        let waiting = std::mem::take(&mut queue.waiting);
        drop(queue);
        Some(waiting.into_iter().unzip())
    }
}

impl Drop for Turn {
    /// After a panic of the store, or the end of the runtime, callers must not wait for ever.
    fn drop(&mut self) {
        if self.held.get() {
            let mut queue = self.log.queue();
            queue.waiting.clear();
            queue.writing = false;
        }
    }
}

struct Caller {
    answer: oneshot::Sender<Result<Positions, Error>>,
    _room: OwnedSemaphorePermit,
}

/// Sends the results to the callers. A caller may be gone.
fn tell(callers: Vec<Caller>, results: Vec<Result<Positions, Error>>) {
    for (caller, result) in callers.into_iter().zip(results) {
        let _ = caller.answer.send(result);
    }
}

fn lost() -> Error {
    Error::Closed { why: "its writer ended before it was done".into() }
}
