//! A log as an application holds it, and the queue in front of it.

use std::cell::Cell;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::{
    Batch, Bounds, Checkpoint, Entry, Error, Identity, Limit, LogName, Page, Positions, Retention, StoredLog,
    Work,
};

/// A log: entries with positions, from the oldest that is kept to the head. Cheap to clone.
///
/// ```text
///   append --> queue --(all that waits is one group)--> StoredLog::append --> head moves --> wait returns
///                 |                                           |
///     bounded: who finds it full waits              one group at a time; callers are told when
///                                                   their batch is kept as the store promises
/// ```
#[derive(Clone)]
pub struct Log {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    name: LogName,
    stored: Arc<dyn StoredLog>,
    /// A permit for each byte that may stand in the queue.
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
    /// Bytes that may stand in the queue of one log: 16 MiB. A larger batch waits until the queue is empty.
    pub const QUEUE_BYTES: usize = 16 << 20;
    /// Bytes that one entry takes up in the queue beside its body.
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

    /// What it is called in its store.
    pub fn name(&self) -> &LogName {
        &self.inner.name
    }

    /// Epoch and key.
    pub fn identity(&self) -> Identity {
        self.inner.stored.identity()
    }

    /// The position after which entries belong to this epoch. It is 0 but for a log that had to take a new epoch,
    /// because it may have lost what it announced, and for a fork: what is before that may have been told differently.
    pub fn epoch_base(&self) -> u64 {
        self.inner.stored.epoch_base()
    }

    /// The bytes that were given when the log was created.
    pub fn about(&self) -> Bytes {
        self.inner.stored.about()
    }

    /// Appends a batch: all of it or nothing. Returns when the entries are kept as the store promises; they can be read
    /// from then on, and not before.
    ///
    /// Appends of many tasks share the work: what arrives while one group is being written is the next group. A caller
    /// finds its batches in the order of its calls, if it begins one when the former is queued (an append that was
    /// polled once is queued unless the queue is full). When the future is dropped after that, the batch is appended
    /// all the same.
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
        self.inner.stored.read(after, limit).done().await
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

    /// Whether the log is closed, and why: it was deleted, its store ended, or its medium cannot be trusted any more.
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

    /// Drops what is too old at `now`, in milliseconds since 1970.
    ///
    /// # Errors
    /// When the medium fails.
    pub async fn expire(&self, now: i64) -> Result<(), Error> {
        self.inner.stored.expire(now).done().await
    }

    /// Changes how much can be read, from the next append or [`Self::expire`] on. It is not kept: a log that is opened
    /// again has to be told again.
    pub fn set_retention(&self, retention: Retention) {
        self.inner.stored.set_retention(retention);
    }

    /// Keeps what was derived from the entries up to a position, in place of what was kept so before.
    ///
    /// Entries after the checkpoint are then held even when they are trimmed, though only [`Self::recover`] shows them:
    /// checkpoint and held entries together are always the whole story. Who makes one therefore makes new ones
    /// as the log grows; each takes as long as writing the body does.
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

/// What there is to begin with when a log was opened: the newest checkpoint and the entries after it.
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

    /// The position after which [`Self::next`] goes on. At the beginning that of the checkpoint; without one, the
    /// lowest that there is: when that is not 0, the beginning of the story is lost.
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

    /// Writes a batch at once if nobody is writing, or leaves it to who is.
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
    /// False once it was given back.
    held: Cell<bool>,
}

impl Turn {
    /// Writes what came meanwhile, for as long as the store answers at once; a task of its own does the rest.
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

    /// All that waits; or nobody does, and the turn is given back.
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
    /// A store that panicked, or a runtime that ended, must not leave everybody waiting.
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

/// A caller that is gone does not want to know.
fn tell(callers: Vec<Caller>, results: Vec<Result<Positions, Error>>) {
    for (caller, result) in callers.into_iter().zip(results) {
        let _ = caller.answer.send(result);
    }
}

fn lost() -> Error {
    Error::Closed { why: "its writer ended before it was done".into() }
}
