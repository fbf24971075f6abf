//! The shared log: one writer, the fold of what was written, and the news that there is more.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use imbl::OrdMap;
use relay_proto::pods::{EventHash, Pod, PodKey};
use relay_proto::time::Timestamp;
use tokio::sync::watch;

use crate::clock::Clock;
use crate::store::{Change, Draft, Labels, Page, Record, Resolved, Store, StoreError, resolve};

/// Events per call of [`Store::append`], so that readers never wait long for the store.
const BATCH: usize = 512;

/// A store, the fold of its events, and who waits for more.
///
/// ```text
///   Publisher --(writer lock)--> Draft -> Record -> Store::append -> View swapped -> head announced
///                                                        |                |                |
///                                          streams read from here   /pods reads here   wakes streams
/// ```
/// The view is replaced as a whole after the store has taken the events, so that pods and position always agree.
pub(crate) struct Log {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) clock: Clock,
    writer: Mutex<()>,
    view: RwLock<Arc<View>>,
    head: watch::Sender<u64>,
    source: watch::Sender<SourceStatus>,
    unreadable: AtomicU64,
    store_failed: AtomicBool,
}

/// The pods at one position of the log.
#[derive(Clone)]
pub(crate) struct View {
    pub(crate) pods: OrdMap<PodKey, Entry>,
    pub(crate) sequence: u64,
    pub(crate) hash: EventHash,
    /// When the newest event was taken, in milliseconds since 1970.
    pub(crate) last_event: Option<i64>,
}

/// One pod of a view. The text is a slice of its event's frame.
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

/// How the source is doing.
#[derive(Debug, Clone)]
pub(crate) struct SourceStatus {
    /// Whether a whole list was ever taken in.
    pub(crate) synced: bool,
    /// Since when the source is not being followed; `None` while it is.
    pub(crate) stale_since: Option<Timestamp>,
    /// Why it is not, or which part is missing; `None` while all of it is.
    pub(crate) reason: Option<Arc<str>>,
}

/// What a source says about how it is being followed.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Following<'a> {
    Live,
    /// Live but for a part that cannot be had, for this reason.
    #[cfg_attr(not(feature = "kube"), allow(dead_code, reason = "other sources are one part"))]
    LiveWithout(&'a str),
    /// Not, for this reason.
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

    /// Whether both sides say who they are, and are not the same.
    fn replaces(&self, held: &Entry) -> bool {
        matches!((&self.uid, &held.uid), (Some(new), Some(old)) if new != old)
    }
}

impl Log {
    /// Opens the log over a store, folding what the store holds.
    pub(crate) fn open(store: Arc<dyn Store>, clock: Clock) -> Result<Self, StoreError> {
        let bounds = store.bounds();
        let mut view =
            View { pods: OrdMap::new(), sequence: bounds.base, hash: bounds.base_hash, last_event: None };
        // What was trimmed is missing from this fold; the first relist adds it again.
        while let Page::Records(records) = store.read(view.sequence, BATCH)? {
            if records.is_empty() {
                break;
            }
            records.iter().for_each(|record| view.apply_stored(record));
        }
        let stale_since = Some(clock.timestamp());
        Ok(Self {
            head: watch::Sender::new(view.sequence),
            source: watch::Sender::new(SourceStatus { synced: false, stale_since, reason: None }),
            view: RwLock::new(Arc::new(view)),
            writer: Mutex::new(()),
            store_failed: AtomicBool::new(false),
            unreadable: AtomicU64::new(0),
            store,
            clock,
        })
    }

    /// The pods and their position, right now.
    pub(crate) fn view(&self) -> Arc<View> {
        self.view.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Announces the newest sequence.
    pub(crate) fn watch_head(&self) -> watch::Receiver<u64> {
        self.head.subscribe()
    }

    /// The newest sequence of which subscribers know.
    pub(crate) fn head(&self) -> u64 {
        *self.head.borrow()
    }

    pub(crate) fn source(&self) -> SourceStatus {
        self.source.borrow().clone()
    }

    /// Whether the store took what it was last given.
    pub(crate) fn store_works(&self) -> bool {
        !self.store_failed.load(Ordering::Relaxed)
    }

    /// Waits until a whole list was ever taken in, or the time is over.
    pub(crate) async fn synced_within(&self, limit: Duration) -> bool {
        let mut source = self.source.subscribe();
        let synced = tokio::time::timeout(limit, source.wait_for(|status| status.synced)).await;
        matches!(synced, Ok(Ok(_)))
    }

    /// Looks a cursor up; one that is still to come is waited for. [`Resolved::Ahead`] when the wait was in vain.
    pub(crate) async fn resolve_within(&self, cursor: &str, limit: Duration) -> Result<Resolved, StoreError> {
        let found = resolve(&*self.store, cursor)?;
        let sequence = match found {
            Resolved::Ahead(sequence) => sequence,
            Resolved::At(sequence) if sequence > self.head() => sequence,
            other => return Ok(other),
        };
        let mut head = self.watch_head();
        let reached = tokio::time::timeout(limit, head.wait_for(|head| *head >= sequence)).await;
        if matches!(reached, Ok(Ok(_))) { resolve(&*self.store, cursor) } else { Ok(found) }
    }

    /// A whole list was taken in. Says nothing about being followed.
    pub(crate) fn set_synced(&self) {
        self.source.send_modify(|status| status.synced = true);
    }

    /// How the source is being followed. Says whether that has another reason than before, which is cut to 500 characters.
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

    /// How many there were.
    pub(crate) fn unreadable(&self) -> u64 {
        self.unreadable.load(Ordering::Relaxed)
    }

    /// Starts writing. There is one writer at a time.
    pub(crate) fn write(&self) -> Writer<'_> {
        let turn = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        Writer { view: (*self.view()).clone(), log: self, pending: Vec::new(), _turn: turn }
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log")
            .field("store", &self.store.kind())
            .field("head", &self.head())
            .finish_non_exhaustive()
    }
}

impl View {
    fn advance(&mut self, record: &Record) {
        self.sequence = record.sequence();
        self.hash = record.hash();
        self.last_event = Some(record.appended_at());
    }

    fn apply_stored(&mut self, record: &Record) {
        if record.change() == Change::Deleted {
            self.pods.remove(record.key());
        } else {
            let json = record.pod_json();
            let pod = std::str::from_utf8(&json).ok().and_then(|json| Pod::from_json(json).ok());
            let uid = pod.and_then(|pod| pod.uid().map(Into::into));
            self.pods.insert(record.key().clone(), Entry { uid, labels: record.labels().clone(), json });
        }
        self.advance(record);
    }
}

/// The log's one writer, with the fold as it will be once everything pending is taken.
pub(crate) struct Writer<'a> {
    log: &'a Log,
    view: View,
    pending: Vec<Arc<Record>>,
    _turn: MutexGuard<'a, ()>,
}

/// How events of one call are stamped.
#[derive(Clone, Copy)]
pub(crate) struct Stamp<'a> {
    /// The source's own time; the log's clock when absent.
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
    /// Brings one pod to a state: nothing when it has it already.
    pub(crate) fn put(
        &mut self,
        pod: Incoming,
        stamp: Stamp<'_>,
        tally: &mut Tally,
    ) -> Result<(), StoreError> {
        // The key that is there already is shared by all events of the pod.
        let (held_key, held) = match self.view.pods.get_key_value(&pod.key) {
            Some((_, held)) if pod.replaces(held) => {
                self.remove(&pod.key, None, stamp, tally)?;
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
        let record = self.append(change, &key, labels.clone(), previous_labels, &json, stamp)?;
        self.view.pods.insert(key, Entry { uid, labels, json: record.pod_json() });
        Ok(())
    }

    /// Removes one pod; its last state is the source's, or what the log has.
    pub(crate) fn remove(
        &mut self,
        key: &PodKey,
        last: Option<Incoming>,
        stamp: Stamp<'_>,
        tally: &mut Tally,
    ) -> Result<(), StoreError> {
        let Some((key, held)) = self.view.pods.get_key_value(key) else { return Ok(()) };
        let (key, held) = (key.clone(), held.clone());
        let (labels, previous_labels, json) = match last {
            // News of a predecessor, whose end is in the log already.
            Some(last) if last.replaces(&held) => return Ok(()),
            Some(last) if last.labels != held.labels => {
                (last.labels, Some(held.labels), Bytes::from(last.json))
            }
            Some(last) => (held.labels, None, Bytes::from(last.json)),
            None => (held.labels, None, held.json),
        };
        tally.deleted += 1;
        self.append(Change::Deleted, &key, labels, previous_labels, &json, stamp)?;
        self.view.pods.remove(&key);
        Ok(())
    }

    /// Whether this pod is there, and of this UID where both are known.
    pub(crate) fn has(&self, key: &PodKey, uid: Option<&str>) -> bool {
        let held = self.view.pods.get(key);
        held.is_some_and(|held| held.uid.as_deref().zip(uid).is_none_or(|(held, uid)| held == uid))
    }

    /// Brings every pod in scope to what a list says.
    pub(crate) fn replace(
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
            self.remove(&key, None, stamp, tally)?;
        }
        while let Some((_, pod)) = listed.pop_first() {
            self.put(pod, stamp, tally)?;
        }
        Ok(())
    }

    /// Hands what is pending to the store and shows it to everyone.
    pub(crate) fn finish(mut self) -> Result<(), StoreError> {
        self.flush()
    }

    fn append(
        &mut self,
        change: Change,
        key: &PodKey,
        labels: Labels,
        previous_labels: Option<Labels>,
        pod_json: &[u8],
        stamp: Stamp<'_>,
    ) -> Result<Arc<Record>, StoreError> {
        if self.pending.len() >= BATCH {
            self.flush()?;
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
        let identity = self.log.store.identity();
        let record = Arc::new(Record::new(identity, self.view.sequence + 1, &self.view.hash, draft));
        self.view.advance(&record);
        self.pending.push(record.clone());
        Ok(record)
    }

    fn flush(&mut self) -> Result<(), StoreError> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let taken = self.log.store.append(std::mem::take(&mut self.pending));
        self.log.store_failed.store(taken.is_err(), Ordering::Relaxed);
        taken?;
        self.log.store.expire(self.log.clock.unix_millis());
        *self.log.view.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(self.view.clone());
        self.log.head.send_replace(self.view.sequence);
        Ok(())
    }
}
