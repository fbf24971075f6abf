//! All streams of a server.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use relay_log::{Batch, Checkpoint, Error, Limit, Log, LogName, LogOptions, Logs, Page};
use relay_proto::time::Timestamp;
use tokio::sync::watch;

use crate::fold::{About, Fold, Position};
use crate::record::{Head, decode, encode};

/// The streams, by their paths.
#[derive(Debug)]
pub(crate) struct Streams {
    logs: Logs,
    /// Whether the logs outlive the process.
    kept: bool,
    map: Mutex<HashMap<String, Arc<Stream>>>,
    /// Number of existing forks of each stream.
    forks: Mutex<HashMap<String, u64>>,
    /// Serialises creating, forking and deleting.
    pub(crate) changing: tokio::sync::Mutex<()>,
}

/// One stream.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) path: String,
    pub(crate) about: About,
    log: Log,
    state: Mutex<Fold>,
    /// Its last use, in milliseconds since 1970.
    used: Mutex<i64>,
    /// Whether the log outlives the process.
    kept: bool,
    /// Bytes of records since the last checkpoint.
    since: AtomicU64,
    /// Whether a use is being recorded.
    noting: AtomicBool,
    /// Serialises writers.
    pub(crate) writing: tokio::sync::Mutex<()>,
    /// Changes with every record, and when the stream is gone.
    changed: watch::Sender<u64>,
}

/// Data of a stream from a position on.
#[derive(Debug, Default)]
pub(crate) struct Part {
    /// The data of each record.
    pub(crate) data: Vec<Bytes>,
    pub(crate) next: Position,
}

pub(crate) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Approximate limit of the records read on the first request for a stream, in bytes.
const CHECKPOINT_AFTER: u64 = 2 << 20;
/// Overhead of a record in this count, in bytes.
const RECORD: u64 = 256;

impl Stream {
    fn new(path: &str, about: About, log: Log, fold: Fold, kept: bool) -> Self {
        // The recorded use is older than the last one, but by no more than this.
        let used = if kept { fold.used.saturating_add(about.grain().unwrap_or(0)).min(now()) } else { now() };
        Self {
            path: path.to_owned(),
            about,
            log,
            state: Mutex::new(fold),
            used: Mutex::new(used),
            kept,
            since: AtomicU64::new(0),
            noting: AtomicBool::new(false),
            writing: tokio::sync::Mutex::new(()),
            changed: watch::Sender::new(0),
        }
    }

    /// Folds the log: its newest checkpoint, and the records after it.
    async fn fold(path: &str, about: About, log: Log, kept: bool) -> Result<Self, Error> {
        let mut recovery = log.recover().await?;
        let mut fold = match recovery.checkpoint() {
            None => Fold::new(&about),
            Some(checkpoint) => {
                let fold = Fold::decode(&checkpoint.body).filter(|fold| fold.at == checkpoint.position);
                fold.ok_or_else(|| Error::Closed { why: format!("the checkpoint of {path} makes no sense") })?
            }
        };
        let mut read = 0;
        loop {
            let entries = recovery.next(Limit::default()).await?;
            if entries.is_empty() {
                break;
            }
            for entry in entries {
                read += entry.body.len() as u64 + RECORD;
                match decode(&entry.body) {
                    Some((head, data)) => {
                        let shared = entry.position <= about.shared();
                        fold.apply(entry.position, entry.time, &head, data.len() as u64, shared);
                    }
                    None => {
                        let why = format!("record {} of {path} makes no sense", entry.position);
                        return Err(Error::Closed { why });
                    }
                }
            }
        }
        let stream = Self::new(path, about, log, fold, kept);
        stream.grown(read).await;
        Ok(stream)
    }

    /// The state at this moment.
    pub(crate) fn state(&self) -> MutexGuard<'_, Fold> {
        held(&self.state)
    }

    /// Notifies of every change from now on.
    pub(crate) fn watch(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Records a read or write. With a time to live it is stored from time to time, so that it counts after a
    /// restart.
    pub(crate) fn touch(self: &Arc<Self>) {
        let now = now();
        *held(&self.used) = now;
        let Some(grain) = self.about.grain().filter(|_| self.kept) else { return };
        let due = move |stream: &Self| now.saturating_sub(stream.state().used) >= grain;
        if due(self) && !self.noting.swap(true, Ordering::AcqRel) {
            let stream = self.clone();
            tokio::spawn(async move {
                let writing = stream.writing.lock().await;
                // An append in between records it too.
                if due(&stream) && !stream.state().deleted {
                    // If it cannot be stored now, the next use retries.
                    let _ = stream.append(Head::default(), Bytes::new()).await;
                }
                drop(writing);
                stream.noting.store(false, Ordering::Release);
            });
        }
    }

    fn expired(&self) -> bool {
        let now = now();
        let by_ttl = self.about.ttl.is_some_and(|ttl| {
            let millis = i64::try_from(ttl).unwrap_or(i64::MAX).saturating_mul(1000);
            held(&self.used).saturating_add(millis) <= now
        });
        let at = self.about.expires_at.as_deref().and_then(|at| Timestamp::new(at).unix_millis());
        by_ttl || at.is_some_and(|at| at <= now)
    }

    /// Whether it has expired, and was not deleted yet.
    fn is_over(&self) -> bool {
        self.expired() && !self.state().deleted
    }

    /// Stores a record; its effect is visible once this is done. The caller holds [`writing`](Self::writing).
    pub(crate) async fn append(&self, head: Head, data: Bytes) -> Result<(), Error> {
        self.append_all(&[(head, data)]).await
    }

    /// Stores records, all of them or none.
    async fn append_all(&self, records: &[(Head, Bytes)]) -> Result<(), Error> {
        let time = now();
        let entries = records.iter().map(|(head, data)| encode(head, data));
        let positions = self.log.append(Batch::new(entries).at(time)).await?;
        let mut bytes = 0;
        {
            let mut state = self.state();
            for (entry, (head, data)) in (positions.first..).zip(records) {
                state.apply(entry, time, head, data.len() as u64, false);
                bytes += data.len() as u64 + RECORD;
            }
        }
        self.changed.send_modify(|version| *version += 1);
        self.grown(bytes).await;
        Ok(())
    }

    /// Makes a checkpoint after enough records, so that a restart need not read the whole log.
    async fn grown(&self, bytes: u64) {
        let since = self.since.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if self.kept && since >= CHECKPOINT_AFTER {
            self.since.store(0, Ordering::Relaxed);
            let (position, body) = {
                let state = self.state();
                (state.at, state.encode().into())
            };
            // Without it, the next start only reads more.
            let _ = self.log.save_checkpoint(Checkpoint { position, body }).await;
        }
    }

    /// The position after the first record with data after a position.
    pub(crate) async fn after(&self, from: Position) -> Result<Position, Error> {
        let mut at = from;
        loop {
            let Page::Entries(entries) = self.log.read(at.entry, Limit::entries(1)).await? else {
                return Ok(at);
            };
            let Some(entry) = entries.first() else { return Ok(at) };
            at.entry = entry.position;
            let data = decode(&entry.body).map_or(0, |(_, data)| data.len() as u64);
            at.bytes += data;
            if data > 0 {
                return Ok(at);
            }
        }
    }

    /// Whole records from a position on: as many as fit, and at least one if there is one.
    pub(crate) async fn read(&self, from: Position, most: usize) -> Result<Part, Error> {
        let tail = self.state().tail;
        let mut part = Part { data: Vec::new(), next: from };
        let mut left = most;
        while part.next.entry < tail.entry && left > 0 {
            let limit = Limit::entries(4096).bytes(left);
            let Page::Entries(entries) = self.log.read(part.next.entry, limit).await? else { break };
            if entries.is_empty() {
                break;
            }
            for entry in entries {
                if entry.position > tail.entry {
                    break;
                }
                part.next.entry = entry.position;
                let Some((_, data)) = decode(&entry.body).filter(|(_, data)| !data.is_empty()) else {
                    continue;
                };
                part.next.bytes += data.len() as u64;
                left = left.saturating_sub(data.len());
                part.data.push(data);
            }
        }
        Ok(part)
    }
}

impl Streams {
    /// The streams of a store. Their logs are read on their first request.
    pub(crate) async fn open(logs: Logs) -> Result<Self, Error> {
        let mut forks = HashMap::new();
        for name in logs.names().await? {
            let about = about(&logs.open(&name).await?);
            if let Some(fork) = about.fork {
                *forks.entry(fork.from).or_insert(0) += 1;
            }
        }
        Ok(Self {
            kept: logs.store().outlives_process(),
            logs,
            map: Mutex::default(),
            forks: Mutex::new(forks),
            changing: tokio::sync::Mutex::new(()),
        })
    }

    /// The stream of a path, unless it does not exist, is deleted, or has expired. A deleted stream with forks
    /// still exists.
    pub(crate) async fn get(&self, path: &str) -> Result<Option<Arc<Stream>>, Error> {
        let stream = self.known(path).await?;
        if stream.as_ref().is_some_and(|stream| stream.is_over()) {
            let _changing = self.changing.lock().await;
            return self.get_unlocked(path).await;
        }
        Ok(stream)
    }

    /// As [`get`](Self::get), for callers that hold [`changing`](Self::changing).
    pub(crate) async fn get_unlocked(&self, path: &str) -> Result<Option<Arc<Stream>>, Error> {
        let stream = self.known(path).await?;
        if let Some(stream) = stream.as_ref().filter(|stream| stream.is_over()) {
            self.remove(stream).await?;
            return self.known(path).await;
        }
        Ok(stream)
    }

    async fn known(&self, path: &str) -> Result<Option<Arc<Stream>>, Error> {
        let known = {
            let mut map = held(&self.map);
            // It may have been loaded while it was being deleted.
            if map.get(path).is_some_and(|stream| stream.log.closed().is_some()) {
                map.remove(path);
            }
            map.get(path).cloned()
        };
        match known {
            Some(stream) => Ok(Some(stream)),
            None => Ok(self.load(path).await?.map(|stream| self.publish(stream))),
        }
    }

    /// Publishes a stream. If another request was faster, its stream is used.
    fn publish(&self, stream: Stream) -> Arc<Stream> {
        held(&self.map).entry(stream.path.clone()).or_insert_with(|| Arc::new(stream)).clone()
    }

    /// Loads a stream from its log; `None` when its creation is not complete.
    async fn load(&self, path: &str) -> Result<Option<Stream>, Error> {
        let Ok(name) = LogName::new(path) else { return Ok(None) };
        let log = match self.logs.open(&name).await {
            Ok(log) => log,
            Err(Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let about = about(&log);
        if about.with_data && log.bounds().head <= about.shared() {
            return Ok(None);
        }
        Stream::fold(path, about, log, self.kept).await.map(Some)
    }

    /// Creates a stream with its first data. The caller holds [`changing`](Self::changing), and the path is new.
    pub(crate) async fn create(
        &self,
        path: &str,
        about: About,
        first: Option<(Head, Bytes)>,
    ) -> Result<Arc<Stream>, Error> {
        self.make(path, about, first.into_iter().collect(), None).await
    }

    /// Forks a stream: its first `shared` entries, then `rest` as its own first data. The caller holds
    /// [`changing`](Self::changing), and the path is new.
    pub(crate) async fn fork(
        &self,
        source: &Stream,
        path: &str,
        about: About,
        rest: Vec<(Head, Bytes)>,
    ) -> Result<Arc<Stream>, Error> {
        let stream = self.make(path, about, rest, Some(source)).await?;
        *held(&self.forks).entry(source.path.clone()).or_insert(0) += 1;
        Ok(stream)
    }

    /// Creates the log and then its first entries. The stream exists once both are done.
    async fn make(
        &self,
        path: &str,
        mut about: About,
        first: Vec<(Head, Bytes)>,
        source: Option<&Stream>,
    ) -> Result<Arc<Stream>, Error> {
        let name = LogName::new(path)?;
        (about.created, about.with_data) = (now(), !first.is_empty());
        let options = LogOptions::default().about(serde_json::to_vec(&about).unwrap_or_default());
        let begin = async || match source {
            None => self.logs.create(&name, options.clone()).await,
            Some(source) => {
                let from = LogName::new(&source.path)?;
                self.logs.fork(&from, about.shared(), &name, options.clone()).await
            }
        };
        let log = match begin().await {
            // An earlier creation was interrupted by a kill.
            Err(Error::Exists { .. }) if self.load(path).await?.is_none() => {
                self.logs.delete(&name).await?;
                begin().await?
            }
            result => result?,
        };
        let stream = Stream::fold(path, about, log, self.kept).await?;
        if !first.is_empty()
            && let Err(error) = stream.append_all(&first).await
        {
            // A log that cannot be deleted is not a stream either.
            let _ = self.logs.delete(&name).await;
            return Err(error);
        }
        Ok(self.publish(stream))
    }

    /// Deletes a stream; its forks stay. The caller holds [`changing`](Self::changing).
    pub(crate) async fn remove(&self, stream: &Stream) -> Result<(), Error> {
        if held(&self.forks).get(&stream.path).is_some_and(|forks| *forks > 0) {
            let _writing = stream.writing.lock().await;
            return stream.append(Head { deleted: true, ..Head::default() }, Bytes::new()).await;
        }
        let mut stream_path = stream.path.clone();
        let mut fork = stream.about.fork.clone();
        loop {
            let gone = held(&self.map).get(&stream_path).cloned();
            {
                // Prevents writes; waiting writers find that it is gone.
                let _writing = match &gone {
                    Some(gone) => Some(gone.writing.lock().await),
                    None => None,
                };
                self.logs.delete(&LogName::new(&stream_path)?).await?;
                held(&self.map).remove(&stream_path);
                if let Some(gone) = &gone {
                    gone.state().deleted = true;
                    gone.changed.send_modify(|version| *version += 1);
                }
            }
            // A deleted source is removed with its last fork.
            let Some(source) = fork.map(|fork| fork.from) else { return Ok(()) };
            let left = {
                let mut forks = held(&self.forks);
                let left = forks.get(&source).copied().unwrap_or(0).saturating_sub(1);
                forks.insert(source.clone(), left);
                left
            };
            match self.known(&source).await?.filter(|source| left == 0 && source.state().deleted) {
                Some(source) => (stream_path, fork) = (source.path.clone(), source.about.fork.clone()),
                None => return Ok(()),
            }
        }
    }

    /// Closes in order.
    pub(crate) async fn close(&self) -> Result<(), Error> {
        self.logs.close().await
    }
}

fn about(log: &Log) -> About {
    serde_json::from_slice(&log.about()).unwrap_or_default()
}
