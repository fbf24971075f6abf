//! One connection, many readers.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use futures_util::StreamExt;
use relay_state::{Change, Pods, Snapshot};
use tokio::sync::watch;

use crate::state::SnapshotStream;
use crate::status::StreamHandle;
use crate::{Error, Freshness, Statistics};

/// A cloneable view of a running stream: the latest snapshot, and waiting for the next one, for a condition, or for one
/// group of pods.
///
/// A task reads the stream for all readers and ends, closing the connection, when the last of them is dropped. Readers
/// never slow it down: each sees the latest snapshot, not every one. What is shown counts as processed, so that
/// [`PodWatch::acknowledgement`] follows at once: who must act on every event reads the [`SnapshotStream`] itself.
///
/// ```no_run
/// # async fn run(client: relay_client::Client) -> Result<(), relay_client::Error> {
/// use relay_client::StreamOptions;
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

/// Wakes the watchers of a group: by label key, then by value.
type Groups = HashMap<String, HashMap<String, watch::Sender<u64>>>;

impl SnapshotStream {
    /// Reads the stream in a task of the current tokio runtime, for many readers.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn watch(self) -> PodWatch {
        let handle = self.handle();
        let (sender, latest) = watch::channel(Latest::default());
        let shared = Arc::new_cyclic(|shared: &Weak<Shared>| {
            let task = tokio::spawn(publish(self, sender, shared.clone())).abort_handle();
            Shared { groups: Mutex::default(), handle: handle.clone(), task }
        });
        PodWatch { shared, latest }
    }
}

async fn publish(mut stream: SnapshotStream, latest: watch::Sender<Latest>, shared: Weak<Shared>) {
    while let Some(item) = stream.next().await {
        match item {
            Ok(snapshot) => {
                let snapshot = Arc::new(snapshot);
                latest.send_modify(|latest| latest.snapshot = Some(snapshot.clone()));
                if let Some(shared) = shared.upgrade() {
                    shared.wake(&snapshot.changed);
                    shared.handle.finish();
                }
            }
            Err(error) => latest.send_modify(|latest| latest.ended = Some(Arc::new(error))),
        }
    }
    // First this end, then those of the groups: whoever watches a group later sees that it is over.
    drop(latest);
    if let Some(shared) = shared.upgrade() {
        shared.with_groups(HashMap::clear);
    }
}

impl Shared {
    fn with_groups<T>(&self, access: impl FnOnce(&mut Groups) -> T) -> T {
        access(&mut self.groups.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Costs as much as there are changes, times the label keys that anybody watches.
    fn wake(&self, changes: &[Change]) {
        self.with_groups(|groups| {
            for (key, values) in groups.iter_mut() {
                for value in changes.iter().flat_map(|change| change.touched_groups(key)) {
                    let Some(group) = values.get(value) else { continue };
                    if group.is_closed() {
                        values.remove(value);
                    } else {
                        group.send_modify(|version| *version += 1);
                    }
                }
            }
            groups.retain(|_, values| !values.is_empty());
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

    /// Waits for a snapshot that this reader has not seen, and gives it.
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

    /// Waits until the pods fulfil a condition, and gives them. What they are now counts.
    ///
    /// # Errors
    /// When the stream has ended.
    pub async fn wait_for(&mut self, mut condition: impl FnMut(&Pods) -> bool) -> Result<Pods, Arc<Error>> {
        loop {
            if let Some(snapshot) = self.latest()
                && !snapshot.historic
                && condition(&snapshot.pods)
            {
                return Ok(snapshot.pods.clone());
            }
            self.changed().await?;
        }
    }

    /// The pods whose label `key` has this value. Wakes only when one of them changed, came or went.
    pub fn group(&self, key: &str, value: &str) -> GroupWatch {
        let version = self.shared.with_groups(|groups| {
            if self.latest.has_changed().is_err() {
                return watch::Sender::new(0).subscribe();
            }
            let values = groups.entry(key.into()).or_default();
            values.entry(value.into()).or_insert_with(|| watch::Sender::new(0)).subscribe()
        });
        GroupWatch { watch: self.clone(), key: key.into(), value: value.into(), version }
    }

    /// How far the pods show the present.
    pub fn freshness(&self) -> Freshness {
        self.shared.handle.freshness()
    }

    /// What may be persisted: the position of what is shown.
    pub fn acknowledgement(&self) -> Option<relay_proto::pods::EventHash> {
        self.shared.handle.acknowledgement()
    }

    /// What the stream has counted.
    pub fn statistics(&self) -> Statistics {
        self.shared.handle.statistics()
    }
}

impl fmt::Debug for PodWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PodWatch").field("freshness", &self.freshness()).finish_non_exhaustive()
    }
}

/// One group of pods, of [`PodWatch::group`].
#[derive(Clone)]
pub struct GroupWatch {
    watch: PodWatch,
    key: String,
    value: String,
    version: watch::Receiver<u64>,
}

impl GroupWatch {
    /// The pods of the group now, by namespace and name.
    pub fn pods(&self) -> Vec<relay_proto::pods::Pod> {
        let pods = self.watch.pods();
        pods.group(&self.key, &self.value).cloned().collect()
    }

    /// Waits until the group has changed since the last call.
    ///
    /// # Errors
    /// When the stream has ended.
    pub async fn changed(&mut self) -> Result<(), Arc<Error>> {
        if self.version.changed().await.is_ok() {
            return Ok(());
        }
        let ended = self.watch.latest.borrow().ended.clone();
        Err(ended.unwrap_or_else(|| Arc::new(Error::usage("the stream was stopped"))))
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
