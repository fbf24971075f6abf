//! All streams of a server.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use relay_log::{Batch, Error, Limit, Log, LogName, LogOptions, Logs, Page};
use relay_proto::time::Timestamp;
use tokio::sync::watch;

use crate::fold::{About, Fold, Position};
use crate::record::{Head, decode, encode};

/// The streams, by their paths.
#[derive(Debug)]
pub(crate) struct Streams {
    logs: Logs,
    map: Mutex<HashMap<String, Arc<Stream>>>,
    /// Forks of each stream that are there.
    forks: Mutex<HashMap<String, u64>>,
    /// One after the other: creating, forking and deleting.
    pub(crate) changing: tokio::sync::Mutex<()>,
}

/// One stream.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) path: String,
    pub(crate) about: About,
    log: Log,
    state: Mutex<Fold>,
    /// When it was used last, in milliseconds since 1970.
    used: Mutex<i64>,
    /// Writers come one after the other.
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

impl Stream {
    fn new(path: &str, about: About, log: Log, fold: Fold) -> Self {
        Self {
            path: path.to_owned(),
            about,
            log,
            state: Mutex::new(fold),
            used: Mutex::new(now()),
            writing: tokio::sync::Mutex::new(()),
            changed: watch::Sender::new(0),
        }
    }

    /// The state at this moment.
    pub(crate) fn state(&self) -> MutexGuard<'_, Fold> {
        held(&self.state)
    }

    /// Tells of every change from now on.
    pub(crate) fn watch(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// It was read or written.
    pub(crate) fn touch(&self) {
        *held(&self.used) = now();
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

    /// Its time is over, and nobody has deleted it yet.
    fn is_over(&self) -> bool {
        self.expired() && !self.state().deleted
    }

    /// Keeps a record; its effect can be seen once this is done. The caller holds [`writing`](Self::writing).
    pub(crate) async fn append(&self, head: &Head, data: &[u8]) -> Result<(), Error> {
        let positions = self.log.append(Batch::new([encode(head, data)]).at(now())).await?;
        self.state().apply(positions.last, head, data.len() as u64, false);
        self.changed.send_modify(|version| *version += 1);
        Ok(())
    }

    /// The position behind the first record with data after a position.
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

    /// Whole records from a position on: at least one if there is one, else as many as fit.
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
    /// The streams of a store. What their logs hold is read when they are first asked for.
    pub(crate) async fn open(logs: Logs) -> Result<Self, Error> {
        let mut forks = HashMap::new();
        for name in logs.names().await? {
            let about = about(&logs.open(&name).await?);
            if let Some(fork) = about.fork {
                *forks.entry(fork.from).or_insert(0) += 1;
            }
        }
        Ok(Self {
            logs,
            map: Mutex::default(),
            forks: Mutex::new(forks),
            changing: tokio::sync::Mutex::new(()),
        })
    }

    /// The stream of a path, unless it was never made, is deleted, or has ended to be. One that is deleted but for its
    /// forks is there.
    pub(crate) async fn get(&self, path: &str) -> Result<Option<Arc<Stream>>, Error> {
        let stream = self.known(path).await?;
        if stream.as_ref().is_some_and(|stream| stream.is_over()) {
            let _changing = self.changing.lock().await;
            return self.get_unlocked(path).await;
        }
        Ok(stream)
    }

    /// As [`get`](Self::get), for who holds [`changing`](Self::changing).
    pub(crate) async fn get_unlocked(&self, path: &str) -> Result<Option<Arc<Stream>>, Error> {
        let stream = self.known(path).await?;
        if let Some(stream) = stream.as_ref().filter(|stream| stream.is_over()) {
            self.remove(stream).await?;
            return self.known(path).await;
        }
        Ok(stream)
    }

    async fn known(&self, path: &str) -> Result<Option<Arc<Stream>>, Error> {
        let known = held(&self.map).get(path).cloned();
        match known {
            Some(stream) => Ok(Some(stream)),
            None => self.load(path).await,
        }
    }

    async fn load(&self, path: &str) -> Result<Option<Arc<Stream>>, Error> {
        let Ok(name) = LogName::new(path) else { return Ok(None) };
        let log = match self.logs.open(&name).await {
            Ok(log) => log,
            Err(Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let about = about(&log);
        let shared = about.fork.as_ref().map_or(0, |fork| fork.shared);
        let mut fold = Fold::new(about.born_closed);
        let mut recovery = log.recover().await?;
        loop {
            let entries = recovery.next(Limit::default()).await?;
            if entries.is_empty() {
                break;
            }
            for entry in entries {
                if let Some((head, data)) = decode(&entry.body) {
                    fold.apply(entry.position, &head, data.len() as u64, entry.position <= shared);
                }
            }
        }
        let stream = Arc::new(Stream::new(path, about, log, fold));
        // Somebody may have been faster: theirs is the one.
        Ok(Some(held(&self.map).entry(path.to_owned()).or_insert(stream).clone()))
    }

    /// Makes a stream with its first data. The caller holds [`changing`](Self::changing).
    pub(crate) async fn create(
        &self,
        path: &str,
        about: About,
        head: Head,
        data: &[u8],
    ) -> Result<Arc<Stream>, Error> {
        let options = LogOptions::default().about(serde_json::to_vec(&about).unwrap_or_default());
        let log = self.logs.create(&LogName::new(path)?, options).await?;
        let fold = Fold::new(about.born_closed);
        let stream = Arc::new(Stream::new(path, about, log, fold));
        if !data.is_empty() {
            stream.append(&head, data).await?;
        }
        held(&self.map).insert(path.to_owned(), stream.clone());
        Ok(stream)
    }

    /// Makes a stream that begins as another one: its first `shared` entries, then `rest` as its own first data. The
    /// caller holds [`changing`](Self::changing).
    pub(crate) async fn fork(
        &self,
        source: &Stream,
        path: &str,
        about: About,
        rest: Option<(Head, Bytes)>,
    ) -> Result<Arc<Stream>, Error> {
        let shared = about.fork.as_ref().map_or(0, |fork| fork.shared);
        let options = LogOptions::default().about(serde_json::to_vec(&about).unwrap_or_default());
        self.logs.fork(&LogName::new(&source.path)?, shared, &LogName::new(path)?, options).await?;
        *held(&self.forks).entry(source.path.clone()).or_insert(0) += 1;
        let Some(stream) = self.load(path).await? else {
            return Err(Error::NotFound { name: LogName::new(path)? });
        };
        if let Some((head, data)) = rest {
            stream.append(&head, &data).await?;
        }
        Ok(stream)
    }

    /// Deletes a stream, but for its forks. The caller holds [`changing`](Self::changing).
    pub(crate) async fn remove(&self, stream: &Stream) -> Result<(), Error> {
        if held(&self.forks).get(&stream.path).is_some_and(|forks| *forks > 0) {
            let _writing = stream.writing.lock().await;
            return stream.append(&Head { deleted: true, ..Head::default() }, b"").await;
        }
        let mut stream_path = stream.path.clone();
        let mut fork = stream.about.fork.clone();
        loop {
            let gone = held(&self.map).remove(&stream_path);
            self.logs.delete(&LogName::new(&stream_path)?).await?;
            if let Some(gone) = gone {
                gone.state().deleted = true;
                gone.changed.send_modify(|version| *version += 1);
            }
            // A source that waited for its last fork goes with it.
            let Some(source) = fork.map(|fork| fork.from) else { return Ok(()) };
            let left = {
                let mut forks = held(&self.forks);
                let left = forks.get(&source).copied().unwrap_or(0).saturating_sub(1);
                forks.insert(source.clone(), left);
                left
            };
            let known = held(&self.map).get(&source).cloned();
            let source = match known {
                Some(source) => Some(source),
                None => self.load(&source).await?,
            };
            match source.filter(|source| left == 0 && source.state().deleted) {
                Some(source) => (stream_path, fork) = (source.path.clone(), source.about.fork.clone()),
                None => return Ok(()),
            }
        }
    }

    /// Ends in order.
    pub(crate) async fn close(&self) -> Result<(), Error> {
        self.logs.close().await
    }
}

fn about(log: &Log) -> About {
    serde_json::from_slice(&log.about()).unwrap_or_default()
}
