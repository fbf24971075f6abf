//! The shared log: one writer, the fold of its events, and notification of readers.

mod queue;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use imbl::OrdMap;
use relay_log::{Limit, Retention, Store};
use relay_proto::error::chain;
use relay_proto::pods::{EventHash, Pod, PodKey};
use relay_proto::time::Timestamp;
use tokio::sync::{MutexGuard, watch};

use crate::clock::Clock;
use crate::cursor::LogIdentity;
use crate::store::{Change, Draft, Events, Fold, Labels, Record, Resolved, StoreError, resolve};

use queue::Queue;

/// Events per batch of a writer.
const BATCH: usize = 512;

/// The events of a store, their fold, and waiting readers.
///
/// ```text
///   Publisher --(one at a time)--> Draft -> Record -> queue --(everything that waits)--> Events::append
///   Events::append -> View replaced -> head announced
///        |                |                |
///   streams read here   /pods reads here   wakes streams
/// ```
/// The view is replaced as a whole after the store has taken the events, so that pods and position always agree.
/// The queue has a view of its own, with all queued events applied, for the comparison with the next event.
pub(crate) struct Log {
    pub(crate) events: Events,
    pub(crate) clock: Clock,
    /// Held by the present writer.
    turn: tokio::sync::Mutex<()>,
    queue: Queue,
    view: RwLock<Arc<View>>,
    head: watch::Sender<u64>,
    source: watch::Sender<SourceStatus>,
    unreadable: AtomicU64,
    /// Why the store refused the last append.
    not_taken: Mutex<Option<String>>,
    /// Why the store could not be read.
    not_read: OnceLock<String>,
}

/// The pods at one position of the log.
#[derive(Clone)]
pub(crate) struct View {
    pub(crate) pods: OrdMap<PodKey, Entry>,
    pub(crate) sequence: u64,
    pub(crate) hash: EventHash,
    /// When the newest event was stored, in milliseconds since 1970.
    pub(crate) last_event: Option<i64>,
}

/// One pod of a view. The text is a slice of its event.
#[derive(Clone)]
pub(crate) struct Entry {
    pub(crate) uid: Option<Box<str>>,
    pub(crate) labels: Labels,
    pub(crate) json: Bytes,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.json == other.json
    }
}

/// Runs a future that is ready at once, because the store is in memory.
#[cfg(test)]
pub(crate) fn at_once<T>(future: impl Future<Output = T>) -> T {
    // Without a limit for the number of calls in one test.
    let future = tokio::task::unconstrained(future);
    futures_util::FutureExt::now_or_never(future).expect("a store in memory answers at once")
}

/// The status of the source.
#[derive(Debug, Clone)]
pub(crate) struct SourceStatus {
    /// Whether a complete list was ever applied.
    pub(crate) synced: bool,
    /// Since when the source is not followed; `None` while it is.
    pub(crate) stale_since: Option<Timestamp>,
    /// Why it is not followed, or which part is missing; `None` while the whole source is followed.
    pub(crate) reason: Option<Arc<str>>,
}

/// A source's own report of how it is followed.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Following<'a> {
    Live,
    /// Live, without a part that is not available for this reason.
    #[cfg_attr(not(feature = "kube"), allow(dead_code, reason = "other sources are one part"))]
    LiveWithout(&'a str),
    /// Not followed, for this reason.
    Away(&'a str),
}

impl SourceStatus {
    /// Whether the log reflects the source right now.
    pub(crate) fn ready(&self) -> bool {
        self.synced && self.stale_since.is_none()
    }
}

/// A pod as a source describes it, ready to be compared and logged.
pub(crate) struct Incoming {
    key: PodKey,
    uid: Option<Box<str>>,
    labels: Labels,
    json: Vec<u8>,
}

impl Incoming {
    pub(crate) fn new(pod: &Pod) -> Self {
        Self {
            key: pod.key().clone(),
            uid: pod.uid().map(Into::into),
            labels: Labels::of(pod),
            json: pod.to_json().into_owned().into_bytes(),
        }
    }

    /// Whether both sides have a UID and the two differ.
    fn replaces(&self, held: &Entry) -> bool {
        matches!((&self.uid, &held.uid), (Some(new), Some(old)) if new != old)
    }
}

impl Log {
    /// Opens the log in a store, from its newest checkpoint and the events after it.
    pub(crate) async fn open(
        store: Arc<dyn Store>,
        retention: Retention,
        identity: Option<&LogIdentity>,
        clock: Clock,
    ) -> Result<Self, StoreError> {
        let events = Events::open(store, retention, identity).await?;
        let mut recovery = events.recover().await?;
        let mut view = View::new(&events);
        if let Some(checkpoint) = recovery.checkpoint() {
            let fold = Fold::decode(checkpoint.body.clone());
            let fold = fold.ok_or_else(|| StoreError::Fold {
                problem: format!("the checkpoint at {} makes no sense", checkpoint.position),
            })?;
            view.begin(fold, checkpoint.position);
        } else if recovery.position() > 0 && events.outlives_process() {
            let problem = format!("there is no checkpoint, and the log begins after {}", recovery.position());
            return Err(StoreError::Fold { problem });
        } else {
            // Without a checkpoint, trimmed pods are missing from this fold; the first relist adds them again.
            view.sequence = recovery.position();
        }
        loop {
            let entries = recovery.next(Limit::default()).await?;
            if entries.is_empty() {
                break;
            }
            for entry in &entries {
                view.apply_stored(&Record::decode(entry)?);
            }
        }
        if view.sequence == events.log().epoch_base() {
            // Positions of the former epoch are not valid in this one.
            view.hash = events.identity().base(view.sequence);
        }
        events.taken(view.sequence, view.hash.clone());
        let stale_since = Some(clock.timestamp());
        let log = Self {
            head: watch::Sender::new(view.sequence),
            source: watch::Sender::new(SourceStatus { synced: false, stale_since, reason: None }),
            queue: Queue::new(view.clone()),
            view: RwLock::new(Arc::new(view)),
            turn: tokio::sync::Mutex::default(),
            not_taken: Mutex::default(),
            not_read: OnceLock::new(),
            unreadable: AtomicU64::new(0),
            events,
            clock,
        };
        log.begin_checkpoints().await?;
        Ok(log)
    }

    /// A log in memory, for tests.
    #[cfg(test)]
    pub(crate) fn in_memory(retention: Retention, clock: Clock) -> Arc<Self> {
        Self::over(Arc::new(relay_log::MemoryStore::new()), retention, clock)
    }

    /// A log over a store in memory, which answers at once: for tests.
    #[cfg(test)]
    pub(crate) fn over(store: Arc<dyn Store>, retention: Retention, clock: Clock) -> Arc<Self> {
        Arc::new(at_once(Self::open(store, retention, None, clock)).expect("memory does not fail"))
    }

    /// The pods and their position, right now.
    pub(crate) fn view(&self) -> Arc<View> {
        self.view.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Announces the newest sequence.
    pub(crate) fn watch_head(&self) -> watch::Receiver<u64> {
        self.head.subscribe()
    }

    /// The newest sequence that subscribers may read.
    pub(crate) fn head(&self) -> u64 {
        *self.head.borrow()
    }

    pub(crate) fn source(&self) -> SourceStatus {
        self.source.borrow().clone()
    }

    /// The failure of the store, if there is one, without the directory that it is in.
    pub(crate) fn store_problem(&self) -> Option<String> {
        let not_taken = self.not_taken.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let closed = || self.events.log().closed().map(|why| self.events.told(&why));
        not_taken.or_else(|| self.not_read.get().cloned()).or_else(closed)
    }

    pub(crate) fn set_not_taken(&self, problem: Option<&StoreError>) {
        let text = problem.map(|error| self.events.told(error));
        *self.not_taken.lock().unwrap_or_else(PoisonError::into_inner) = text;
    }

    /// Records that the store cannot be read: it is damaged until an operator repairs it.
    pub(crate) fn cannot_read(&self, error: &StoreError) {
        tracing::error!(error = %chain(error), "the log cannot be read");
        let _ = self.not_read.set(self.events.told(error));
    }

    /// Waits for the first complete list, up to `limit`.
    pub(crate) async fn synced_within(&self, limit: Duration) -> bool {
        let mut source = self.source.subscribe();
        let synced = tokio::time::timeout(limit, source.wait_for(|status| status.synced)).await;
        matches!(synced, Ok(Ok(_)))
    }

    /// Looks a cursor up, and waits for a future position. [`Resolved::Ahead`] when it was not reached in time.
    pub(crate) async fn resolve_within(&self, cursor: &str, limit: Duration) -> Result<Resolved, StoreError> {
        let found = resolve(&self.events, cursor).await?;
        let sequence = match found {
            Resolved::Ahead(sequence) => sequence,
            Resolved::At(sequence) if sequence > self.head() => sequence,
            other => return Ok(other),
        };
        let mut head = self.watch_head();
        let reached = {
            let reached = tokio::time::timeout(limit, head.wait_for(|head| *head >= sequence)).await;
            matches!(reached, Ok(Ok(_)))
        };
        if reached { resolve(&self.events, cursor).await } else { Ok(found) }
    }

    /// Marks the source as synced. This does not make it live.
    pub(crate) fn set_synced(&self) {
        self.source.send_modify(|status| status.synced = true);
    }

    /// Sets how the source is followed. Returns whether the reason, cut to 500 characters, has changed.
    pub(crate) fn set_following(&self, following: Following<'_>) -> bool {
        let clean = |why: &str| -> Arc<str> {
            let why: String = why.chars().map(|c| if c.is_control() { ' ' } else { c }).take(500).collect();
            why.into()
        };
        let (live, reason) = match following {
            Following::Live => (true, None),
            Following::LiveWithout(why) => (true, Some(clean(why))),
            Following::Away(why) => (false, Some(clean(why))),
        };
        let now = self.clock.timestamp();
        let mut changed = false;
        self.source.send_if_modified(|status| {
            changed = status.reason != reason;
            if !changed && status.stale_since.is_none() == live {
                return false;
            }
            status.reason = reason;
            status.stale_since = match (live, status.stale_since.take()) {
                (true, _) => None,
                (false, since) => since.or(Some(now)),
            };
            true
        });
        changed
    }

    /// Counts objects and events of the source that could not be read.
    pub(crate) fn count_unreadable(&self, count: u64) {
        self.unreadable.fetch_add(count, Ordering::Relaxed);
    }

    /// Number of unreadable objects and events.
    pub(crate) fn unreadable(&self) -> u64 {
        self.unreadable.load(Ordering::Relaxed)
    }

    /// Starts writing. There is one writer at a time. A writer that is `ahead` does not wait for the store.
    pub(crate) async fn write(self: &Arc<Self>, ahead: bool) -> Writer<'_> {
        let turn = self.turn.lock().await;
        Writer { view: self.queue.view(), log: self, ahead, fresh: Vec::new(), _turn: turn }
    }

    fn show(&self, view: View) {
        let sequence = view.sequence;
        *self.view.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(view);
        self.head.send_replace(sequence);
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log")
            .field("store", &self.events.kind())
            .field("head", &self.head())
            .finish_non_exhaustive()
    }
}

impl View {
    fn new(events: &Events) -> Self {
        Self { pods: OrdMap::new(), sequence: 0, hash: events.identity().base(0), last_event: None }
    }

    fn begin(&mut self, fold: Fold, sequence: u64) {
        (self.sequence, self.hash, self.last_event) = (sequence, fold.hash, fold.last_event);
        let pods = fold.pods.into_iter();
        self.pods = pods
            .map(|kept| (kept.key, Entry { uid: kept.uid, labels: kept.labels, json: kept.json }))
            .collect();
    }

    fn advance(&mut self, record: &Record) {
        self.sequence = record.sequence();
        self.hash = record.hash();
        self.last_event = Some(record.appended_at());
    }

    fn apply_stored(&mut self, record: &Record) {
        if record.change() == Change::Deleted {
            self.pods.remove(&record.key());
        } else {
            let json = record.pod_json();
            let pod = std::str::from_utf8(&json).ok().and_then(|json| Pod::from_json(json).ok());
            let uid = pod.and_then(|pod| pod.uid().map(Into::into));
            self.pods.insert(record.key(), Entry { uid, labels: record.labels(), json });
        }
        self.advance(record);
    }
}

/// The log's only writer, with the fold after all queued events.
pub(crate) struct Writer<'a> {
    log: &'a Arc<Log>,
    view: View,
    ahead: bool,
    fresh: Vec<Record>,
    _turn: MutexGuard<'a, ()>,
}

/// The timestamps of the events of one call.
#[derive(Clone, Copy)]
pub(crate) struct Stamp<'a> {
    /// The source's time; by default the log's clock.
    pub(crate) at: Option<&'a Timestamp>,
    pub(crate) synthetic: bool,
}

/// Counts of events that one call appended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) added: u64,
    pub(crate) modified: u64,
    pub(crate) deleted: u64,
}

impl Writer<'_> {
    /// Appends an event if the pod differs from the log.
    pub(crate) async fn put(
        &mut self,
        pod: Incoming,
        stamp: Stamp<'_>,
        tally: &mut Tally,
    ) -> Result<(), StoreError> {
        // All events of the pod share the present key.
        let (held_key, held) = match self.view.pods.get_key_value(&pod.key) {
            Some((_, held)) if pod.replaces(held) => {
                self.remove(&pod.key, None, stamp, tally).await?;
                (None, None)
            }
            Some((key, held)) => (Some(key.clone()), Some(held.clone())),
            None => (None, None),
        };
        let Incoming { key, uid, labels, json } = pod;
        let key = held_key.unwrap_or(key);
        let (change, labels, previous_labels) = match held {
            None => (Change::Added, labels, None),
            Some(held) if held.json == json => return Ok(()),
            Some(held) if held.labels == labels => (Change::Modified, held.labels, None),
            Some(held) => (Change::Modified, labels, Some(held.labels)),
        };
        match change {
            Change::Added => tally.added += 1,
            _ => tally.modified += 1,
        }
        let record = self.append(change, &key, labels, previous_labels, &json, stamp).await?;
        self.view.pods.insert(key, Entry { uid, labels: record.labels(), json: record.pod_json() });
        Ok(())
    }

    /// Removes one pod; its last state is the source's, or that of the log.
    pub(crate) async fn remove(
        &mut self,
        key: &PodKey,
        last: Option<Incoming>,
        stamp: Stamp<'_>,
        tally: &mut Tally,
    ) -> Result<(), StoreError> {
        let Some((key, held)) = self.view.pods.get_key_value(key) else { return Ok(()) };
        let (key, held) = (key.clone(), held.clone());
        let (labels, previous_labels, json) = match last {
            // This is about a former pod. Its deletion is already in the log.
            Some(last) if last.replaces(&held) => return Ok(()),
            Some(last) if last.labels != held.labels => {
                (last.labels, Some(held.labels), Bytes::from(last.json))
            }
            Some(last) => (held.labels, None, Bytes::from(last.json)),
            None => (held.labels, None, held.json),
        };
        tally.deleted += 1;
        self.append(Change::Deleted, &key, labels, previous_labels, &json, stamp).await?;
        self.view.pods.remove(&key);
        Ok(())
    }

    /// Whether the log has this pod, with this UID if both are known.
    pub(crate) fn has(&self, key: &PodKey, uid: Option<&str>) -> bool {
        let held = self.view.pods.get(key);
        held.is_some_and(|held| held.uid.as_deref().zip(uid).is_none_or(|(held, uid)| held == uid))
    }

    /// Makes all pods in scope equal to a list.
    pub(crate) async fn replace(
        &mut self,
        in_scope: impl Fn(&PodKey) -> bool,
        pods: Vec<Incoming>,
        stamp: Stamp<'_>,
        tally: &mut Tally,
    ) -> Result<(), StoreError> {
        let mut listed: BTreeMap<PodKey, Incoming> =
            pods.into_iter().filter(|pod| in_scope(&pod.key)).map(|pod| (pod.key.clone(), pod)).collect();
        let gone: Vec<PodKey> =
            self.view.pods.keys().filter(|key| in_scope(key) && !listed.contains_key(key)).cloned().collect();
        for key in gone {
            self.remove(&key, None, stamp, tally).await?;
        }
        while let Some((_, pod)) = listed.pop_first() {
            self.put(pod, stamp, tally).await?;
        }
        Ok(())
    }

    /// Queues the rest, and waits until the store has everything, unless the writer is `ahead`.
    pub(crate) async fn finish(mut self) -> Result<(), StoreError> {
        self.hand_over().await
    }

    /// Like [`Self::finish`], but always waits until the store has everything.
    pub(crate) async fn finish_whole(mut self) -> Result<(), StoreError> {
        self.hand_over().await?;
        self.log.taken_up_to(self.view.sequence).await
    }

    async fn append(
        &mut self,
        change: Change,
        key: &PodKey,
        labels: Labels,
        previous_labels: Option<Labels>,
        pod_json: &[u8],
        stamp: Stamp<'_>,
    ) -> Result<Record, StoreError> {
        if self.fresh.len() >= BATCH {
            self.hand_over().await?;
        }
        let now;
        let timestamp = match stamp.at {
            Some(at) => at,
            None => {
                now = self.log.clock.timestamp();
                &now
            }
        };
        let draft = Draft {
            change,
            synthetic: stamp.synthetic,
            key,
            labels,
            previous_labels,
            pod_json,
            timestamp,
            appended_at: self.log.clock.unix_millis(),
        };
        let identity = self.log.events.identity();
        let record = Record::new(identity, self.view.sequence + 1, &self.view.hash, draft);
        self.view.advance(&record);
        self.fresh.push(record.clone());
        Ok(record)
    }

    async fn hand_over(&mut self) -> Result<(), StoreError> {
        if self.fresh.is_empty() {
            return Ok(());
        }
        let fresh = std::mem::take(&mut self.fresh);
        let handed = self.log.enqueue(fresh, &self.view, self.ahead).await;
        if handed.is_err() {
            // Later events are compared with the actual content of the log.
            self.view = self.log.queue.view();
        }
        handed
    }
}
