//! One stream for many readers.

use std::collections::HashMap;
use std::fmt;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use futures_util::StreamExt;
use relay_state::pods::{Change, Pods, Snapshot};
use tokio::sync::watch;

use crate::error::Error;
use crate::state::SnapshotStream;
use crate::status::{Freshness, Statistics, StreamHandle};

/// A cloneable view of a running stream: the latest snapshot, and waiting for the next one, for a condition, or for one
/// group of pods.
///
/// A task reads the stream for all readers and ends, closing the connection, when the last of them is dropped.
/// Readers never slow it down: each sees the latest snapshot, not every one. A published snapshot counts as
/// processed, so that [`PodWatch::acknowledgement`] moves at once: programs that must act on every event read the
/// [`SnapshotStream`] itself.
///
/// ```no_run
/// # async fn run(client: relay_pods::Client) -> Result<(), relay_pods::Error> {
/// use relay_pods::StreamOptions;
///
/// let pods = client.stream_pod_state(StreamOptions::new()).watch();
/// let mut deployment = pods.group("run", "d-17");
/// while let Ok(()) = deployment.changed().await {
///     println!("{} of d-17 are ready", deployment.pods().iter().filter(|pod| pod.ready()).count());
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct PodWatch {
    shared: Arc<Shared>,
    latest: watch::Receiver<Latest>,
    /// Whether the latest snapshot is up to date, by the messages so far.
    live: watch::Receiver<bool>,
}

/// Ends the task when the last reader is gone.
struct Shared {
    groups: Mutex<Groups>,
    handle: StreamHandle,
    task: tokio::task::AbortHandle,
}

#[derive(Clone, Default)]
struct Latest {
    snapshot: Option<Arc<Snapshot>>,
    ended: Option<Arc<Error>>,
}

/// Wakes the watchers of a group: by label key, then by value. Only watched groups have an entry.
type Groups = HashMap<String, HashMap<String, watch::Sender<u64>>>;

impl SnapshotStream {
    /// Reads the stream in a task of the current tokio runtime, for many readers.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn watch(self) -> PodWatch {
        let handle = self.handle();
        let (sender, latest) = watch::channel(Latest::default());
        let (live_sender, live) = watch::channel(false);
        let shared = Arc::new_cyclic(|shared: &Weak<Shared>| {
            let task = tokio::spawn(publish(self, sender, live_sender, shared.clone())).abort_handle();
            Shared { groups: Mutex::default(), handle: handle.clone(), task }
        });
        PodWatch { shared, latest, live }
    }
}

async fn publish(
    mut stream: SnapshotStream,
    latest: watch::Sender<Latest>,
    live: watch::Sender<bool>,
    shared: Weak<Shared>,
) {
    let handle = stream.handle();
    let tell_freshness = || {
        let now = handle.freshness() == Freshness::Live;
        live.send_if_modified(|live| std::mem::replace(live, now) != now);
    };
    loop {
        let item = poll_fn(|cx| {
            let item = stream.poll_next_unpin(cx);
            // Not every change comes with a snapshot. If it does, it is published after the snapshot, because the
            // pods before are not live.
            if item.is_pending() {
                tell_freshness();
            }
            item
        });
        let Some(item) = item.await else { break };
        match item {
            Ok(snapshot) => {
                let snapshot = Arc::new(snapshot);
                latest.send_modify(|latest| latest.snapshot = Some(snapshot.clone()));
                tell_freshness();
                if let Some(shared) = shared.upgrade() {
                    shared.wake(&snapshot.changed);
                    shared.handle.finish();
                }
            }
            Err(error) => latest.send_modify(|latest| latest.ended = Some(Arc::new(error))),
        }
    }
    // First this sender, then those of the groups, so that later watchers of a group see the end.
    drop(latest);
    if let Some(shared) = shared.upgrade() {
        shared.with_groups(HashMap::clear);
    }
}

impl Shared {
    fn with_groups<T>(&self, access: impl FnOnce(&mut Groups) -> T) -> T {
        access(&mut self.groups.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Costs one look-up per change and watched label key, whatever the number of groups and watchers.
    fn wake(&self, changes: &[Change]) {
        self.with_groups(|groups| {
            for (key, values) in groups.iter() {
                for value in changes.iter().flat_map(|change| change.touched_groups(key)) {
                    if let Some(group) = values.get(value) {
                        group.send_modify(|version| *version += 1);
                    }
                }
            }
        });
    }

    /// A watcher is dropped; the last one of a group removes its entry.
    fn leave(&self, key: &str, value: &str, version: Option<watch::Receiver<u64>>) {
        self.with_groups(|groups| {
            // Within the lock, so that of two concurrent drops one is the last.
            drop(version);
            let Some(values) = groups.get_mut(key) else { return };
            if values.get(value).is_some_and(watch::Sender::is_closed) {
                values.remove(value);
            }
            if values.is_empty() {
                groups.remove(key);
            }
        });
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl PodWatch {
    /// The latest snapshot; `None` before the first.
    pub fn latest(&self) -> Option<Arc<Snapshot>> {
        self.latest.borrow().snapshot.clone()
    }

    /// The latest pods; empty before the first snapshot.
    pub fn pods(&self) -> Pods {
        self.latest.borrow().snapshot.as_ref().map(|snapshot| snapshot.pods.clone()).unwrap_or_default()
    }

    /// Waits for a snapshot that this reader has not seen, and returns it.
    ///
    /// # Errors
    /// When the stream has ended.
    pub async fn changed(&mut self) -> Result<Arc<Snapshot>, Arc<Error>> {
        loop {
            let over = self.latest.changed().await.is_err();
            let latest = self.latest.borrow_and_update().clone();
            match latest {
                Latest { ended: Some(error), .. } => return Err(error),
                Latest { snapshot: Some(snapshot), .. } if !over => return Ok(snapshot),
                _ if over => return Err(Arc::new(Error::usage("the stream was stopped"))),
                _ => {}
            }
        }
    }

    /// Waits until the pods are live and meet a condition, and returns them. The present pods count; pods of a
    /// replay, after a drop, or of a relay whose source is unavailable do not.
    ///
    /// # Errors
    /// When the stream has ended.
    pub async fn wait_for(&mut self, mut condition: impl FnMut(&Pods) -> bool) -> Result<Pods, Arc<Error>> {
        loop {
            let live = *self.live.borrow_and_update() && self.freshness() == Freshness::Live;
            if let Some(snapshot) = self.latest()
                && live
                && !snapshot.historic
                && condition(&snapshot.pods)
            {
                return Ok(snapshot.pods.clone());
            }
            let mut live = self.live.clone();
            tokio::select! {
                biased;
                changed = self.changed() => drop(changed?),
                Ok(()) = live.changed() => {}
            }
        }
    }

    /// The pods whose label `key` has this value. Wakes only when one of them was added, changed or removed.
    pub fn group(&self, key: &str, value: &str) -> GroupWatch {
        let version = self.shared.with_groups(|groups| {
            if self.latest.has_changed().is_err() {
                return watch::Sender::new(0).subscribe();
            }
            let values = groups.entry(key.into()).or_default();
            values.entry(value.into()).or_insert_with(|| watch::Sender::new(0)).subscribe()
        });
        GroupWatch { watch: self.clone(), key: key.into(), value: value.into(), version: Some(version) }
    }

    /// Whether the pods are up to date.
    pub fn freshness(&self) -> Freshness {
        self.shared.handle.freshness()
    }

    /// The position that may be saved: that of the latest snapshot.
    pub fn acknowledgement(&self) -> Option<relay_proto::pods::EventHash> {
        self.shared.handle.acknowledgement()
    }

    /// The counts of the stream.
    pub fn statistics(&self) -> Statistics {
        self.shared.handle.statistics()
    }
}

impl fmt::Debug for PodWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PodWatch").field("freshness", &self.freshness()).finish_non_exhaustive()
    }
}

/// One group of pods, of [`PodWatch::group`]. A clone begins with the changes that this one has not seen.
#[derive(Clone)]
pub struct GroupWatch {
    watch: PodWatch,
    key: String,
    value: String,
    /// `None` only during the drop.
    version: Option<watch::Receiver<u64>>,
}

impl GroupWatch {
    /// The pods of the group now, by namespace and name.
    pub fn pods(&self) -> Vec<relay_proto::pods::Pod> {
        let pods = self.watch.pods();
        pods.group(&self.key, &self.value).sorted().into_iter().cloned().collect()
    }

    /// Waits until the group has changed since the last call.
    ///
    /// # Errors
    /// When the stream has ended.
    pub async fn changed(&mut self) -> Result<(), Arc<Error>> {
        if let Some(version) = &mut self.version
            && version.changed().await.is_ok()
        {
            return Ok(());
        }
        let ended = self.watch.latest.borrow().ended.clone();
        Err(ended.unwrap_or_else(|| Arc::new(Error::usage("the stream was stopped"))))
    }
}

impl Drop for GroupWatch {
    fn drop(&mut self) {
        self.watch.shared.leave(&self.key, &self.value, self.version.take());
    }
}

impl fmt::Debug for GroupWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GroupWatch")
            .field("key", &self.key)
            .field("value", &self.value)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Client, StreamOptions};

    #[tokio::test]
    async fn groups_that_nobody_watches_take_no_memory() {
        let client = Client::builder("http://127.0.0.1:1").build().expect("a client");
        let pods = client.stream_pod_state(StreamOptions::new()).watch();
        let sizes =
            || pods.shared.with_groups(|groups| (groups.len(), groups.values().map(HashMap::len).sum()));
        let mut kept = Vec::new();
        for n in 0..1000 {
            let group = pods.group(if n % 2 == 0 { "run" } else { "app" }, &n.to_string());
            if n >= 990 {
                kept.push(group.clone());
            }
        }
        assert_eq!(sizes(), (2, 10));
        kept.retain(|group| group.key == "app");
        assert_eq!(sizes(), (1, 5));
        kept.clear();
        assert_eq!(sizes(), (0, 0));
    }
}
