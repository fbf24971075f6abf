//! Sources of pods, and the publisher that appends their changes to the log.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use relay_proto::pods::{Pod, PodKey};
use relay_proto::time::Timestamp;
use tokio_util::sync::CancellationToken;

use crate::log::{Following, Incoming, Log, Stamp, Tally};
use crate::store::StoreError;

#[cfg(feature = "kube")]
mod kube;
mod sim;

#[cfg(feature = "kube")]
pub use kube::KubeSource;
pub use sim::SimSource;

/// Watches something that has pods and reports them to a [`Publisher`].
///
/// ```
/// use relay_proto::pods::PodBuilder;
/// use relay_pods_server::{BoxFuture, CancellationToken, Publisher, Scope, Source, SourceError};
///
/// /// One pod that never changes.
/// struct Rock;
///
/// impl Source for Rock {
///     fn kind(&self) -> &'static str {
///         "rock"
///     }
///
///     fn run(self: Box<Self>, publisher: Publisher, stop: CancellationToken) -> BoxFuture<'static, Result<(),
///     SourceError>> { Box::pin(async move {
///             publisher.relist(Scope::All, vec![PodBuilder::new("prod", "rock").build()]).await?;
///             stop.cancelled().await;
///             Ok(())
///         })
///     }
/// }
/// ```
pub trait Source: Send {
    /// A short name for `/health`, such as `sim` or `kube`.
    fn kind(&self) -> &'static str;

    /// Follows the source until `stop` is cancelled: first a [`Publisher::relist`], then changes.
    ///
    /// A source that is unavailable for a while calls [`Publisher::stale`], retries, and relists once it is
    /// available. A run that ends before `stop` leaves the log stale.
    ///
    /// # Errors
    /// Only errors that a retry cannot correct, such as an unreadable configuration: they end the server.
    fn run(
        self: Box<Self>,
        publisher: Publisher,
        stop: CancellationToken,
    ) -> BoxFuture<'static, Result<(), SourceError>>;
}

/// The only writer of the log: appends the changes of a source. Cheap to clone; calls of several clones take turns.
///
/// Calls return once the store has taken the events (but see [`Self::ahead`]); no call blocks. Annotations that are
/// not on the server's allow-list are removed here, before anything is compared or kept.
#[derive(Clone)]
pub struct Publisher {
    log: Arc<Log>,
    annotations: Arc<BTreeSet<String>>,
    ahead: bool,
}

impl Publisher {
    pub(crate) fn new(log: Arc<Log>, annotations: impl IntoIterator<Item = String>) -> Self {
        Self { log, annotations: Arc::new(annotations.into_iter().collect()), ahead: false }
    }

    /// A publisher whose calls return as soon as there is room for their events in the queue before the store,
    /// without waiting until it has taken them: for sources, so that many events share one write. Subscribers get
    /// events only once the store has them. When the store fails, for example because its disk is full, queued
    /// events are retried until they are stored.
    #[must_use]
    pub fn ahead(&self) -> Self {
        Self { ahead: true, ..self.clone() }
    }

    /// Applies a complete list: its differences to the log are appended as synthetic events. Marks the source
    /// synced and live.
    ///
    /// Pods of the scope that the list lacks are deleted, in the order of their keys; then those that it has are added
    /// or modified, in the order of their keys. A pod with another UID is deleted and added. Of two pods with one key
    /// the later counts; pods outside of the scope are ignored.
    ///
    /// # Errors
    /// When the store does not take the events; the log is then as the store has it, and the list may be given
    /// again.
    pub async fn relist(&self, scope: Scope, pods: Vec<Pod>) -> Result<Relisted, StoreError> {
        self.relist_stamped(scope, pods, None).await
    }

    /// [`Self::relist`] with a time of the source's own as the events' timestamp.
    ///
    /// # Errors
    /// Those of [`Self::relist`].
    pub async fn relist_at(
        &self,
        scope: Scope,
        pods: Vec<Pod>,
        at: &Timestamp,
    ) -> Result<Relisted, StoreError> {
        self.relist_stamped(scope, pods, Some(at)).await
    }

    /// Appends ADDED or MODIFIED, by what the log has: nothing for a pod that is the same, DELETED and ADDED for one
    /// with another UID.
    ///
    /// # Errors
    /// When the store does not take the events.
    pub async fn upsert(&self, pod: Pod) -> Result<(), StoreError> {
        self.upsert_stamped(pod, None).await
    }

    /// [`Self::upsert`] with a time of the source's own as the event's timestamp.
    ///
    /// # Errors
    /// Those of [`Self::upsert`].
    pub async fn upsert_at(&self, pod: Pod, at: &Timestamp) -> Result<(), StoreError> {
        self.upsert_stamped(pod, Some(at)).await
    }

    /// Appends DELETED with the pod's last state: nothing when the log does not have the pod, or has one of another
    /// UID.
    ///
    /// # Errors
    /// When the store does not take the event.
    pub async fn delete(&self, pod: Pod) -> Result<(), StoreError> {
        self.delete_stamped(pod, None).await
    }

    /// [`Self::delete`] with a time of the source's own as the event's timestamp.
    ///
    /// # Errors
    /// Those of [`Self::delete`].
    pub async fn delete_at(&self, pod: Pod, at: &Timestamp) -> Result<(), StoreError> {
        self.delete_stamped(pod, Some(at)).await
    }

    /// Reports that the source is followed again and nothing was missed: after [`Self::stale`], when a watch was
    /// resumed without a new list. A source becomes synced by a relist only.
    pub fn live(&self) {
        self.follow(Following::Live);
    }

    /// Reports that the source is not followed at the moment: the log does not change, and clients are informed.
    ///
    /// The reason is in `/health` and in a failed `/readyz`, open to everyone: one line, without tokens, bodies or
    /// queries of URLs. The first one and each change of it is logged at WARN, so it should not change with every
    /// attempt.
    pub fn stale(&self, why: &str) {
        self.follow(Following::Away(why));
    }

    /// Sets how the source is followed.
    pub(crate) fn follow(&self, following: Following<'_>) {
        if !self.log.set_following(following) {
            return;
        }
        match following {
            Following::Live => tracing::info!("the source is being followed again"),
            Following::LiveWithout(why) => tracing::warn!(why, "a part of the source is missing"),
            Following::Away(why) => tracing::warn!(why, "the source is away"),
        }
    }

    /// The pods of the log, in the order of their keys.
    pub fn current(&self) -> Vec<Pod> {
        let view = self.log.view();
        view.pods.values().filter_map(|entry| serde_json::from_slice(&entry.json).ok()).collect()
    }

    /// Sequence of the newest event, 0 in a new log.
    pub fn head(&self) -> u64 {
        self.log.head()
    }

    async fn relist_stamped(
        &self,
        scope: Scope,
        pods: Vec<Pod>,
        at: Option<&Timestamp>,
    ) -> Result<Relisted, StoreError> {
        let relisted = self.replace(|key| scope.contains(key), pods, at).await?;
        self.live();
        Ok(relisted)
    }

    /// Applies a list of the pods in scope, and marks the source synced; [`Self::follow`] makes it live.
    #[cfg_attr(
        not(feature = "kube"),
        allow(dead_code, reason = "sources other than kube speak for whole scopes")
    )]
    pub(crate) async fn relist_where(
        &self,
        in_scope: impl Fn(&PodKey) -> bool,
        pods: Vec<Pod>,
    ) -> Result<Relisted, StoreError> {
        self.replace(in_scope, pods, None).await
    }

    /// [`Self::delete`] of a pod whose last state is not known.
    #[cfg_attr(not(feature = "kube"), allow(dead_code, reason = "other sources know what they delete"))]
    pub(crate) async fn delete_named(&self, key: &PodKey, uid: Option<&str>) -> Result<(), StoreError> {
        let mut writer = self.log.write(self.ahead).await;
        if writer.has(key, uid) {
            writer.remove(key, None, Stamp { at: None, synthetic: false }, &mut Tally::default()).await?;
        }
        writer.finish().await
    }

    /// Counts objects and events of the source that could not be read and were left out.
    #[cfg_attr(not(feature = "kube"), allow(dead_code, reason = "other sources are never unreadable"))]
    pub(crate) fn unreadable(&self, count: u64) {
        self.log.count_unreadable(count);
    }

    async fn replace(
        &self,
        in_scope: impl Fn(&PodKey) -> bool,
        pods: Vec<Pod>,
        at: Option<&Timestamp>,
    ) -> Result<Relisted, StoreError> {
        let pods = pods.into_iter().map(|pod| self.incoming(pod)).collect();
        let mut tally = Tally::default();
        let mut writer = self.log.write(self.ahead).await;
        writer.replace(in_scope, pods, Stamp { at, synthetic: true }, &mut tally).await?;
        // Other writers wait here, too: the log is synced once the list is in it.
        writer.finish_whole().await?;
        self.log.set_synced();
        let Tally { added, modified, deleted } = tally;
        tracing::info!(added, modified, deleted, "took in a list of the source");
        Ok(Relisted { added, modified, deleted })
    }

    async fn upsert_stamped(&self, pod: Pod, at: Option<&Timestamp>) -> Result<(), StoreError> {
        let pod = self.incoming(pod);
        let mut writer = self.log.write(self.ahead).await;
        writer.put(pod, Stamp { at, synthetic: false }, &mut Tally::default()).await?;
        writer.finish().await
    }

    async fn delete_stamped(&self, pod: Pod, at: Option<&Timestamp>) -> Result<(), StoreError> {
        let key = pod.key().clone();
        let last = self.incoming(pod);
        let mut writer = self.log.write(self.ahead).await;
        writer.remove(&key, Some(last), Stamp { at, synthetic: false }, &mut Tally::default()).await?;
        writer.finish().await
    }

    fn incoming(&self, pod: Pod) -> Incoming {
        let published = |key: &str| self.annotations.contains(key);
        if pod.annotations().all(|(key, _)| published(key)) {
            return Incoming::new(&pod);
        }
        Incoming::new(&pod.to_builder().retain_annotations(published).build())
    }
}

impl fmt::Debug for Publisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publisher").field("log", &self.log).finish_non_exhaustive()
    }
}

/// The scope of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Scope {
    /// All pods.
    All,
    /// The pods of some namespaces; others are not changed.
    Namespaces(BTreeSet<String>),
}

impl Scope {
    fn contains(&self, key: &PodKey) -> bool {
        match self {
            Self::All => true,
            Self::Namespaces(namespaces) => namespaces.contains(key.namespace()),
        }
    }
}

/// What a list changed: counts of appended events.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Relisted {
    /// ADDED.
    pub added: u64,
    /// MODIFIED.
    pub modified: u64,
    /// DELETED.
    pub deleted: u64,
}

/// Why a source has failed for good.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// The source is configured wrongly, or refuses access: a retry cannot help.
    #[error("{what}")]
    Setup {
        /// The action that failed.
        what: String,
        /// What went wrong.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The log's store failed.
    #[error("the log cannot be written")]
    Store {
        /// What went wrong.
        #[from]
        source: StoreError,
    },
}

impl SourceError {
    /// A permanent failure of the source's set-up.
    pub fn setup(
        what: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::Setup { what: what.into(), source: source.into() }
    }
}
