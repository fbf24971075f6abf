//! The `kube` source: the pods of a Kubernetes cluster.
//!
//! [`relay_kube`] follows each scope (all namespaces, or one of them) by list and watch; this file folds the scopes
//! into the one log.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use futures_util::stream::{StreamExt, select_all};
use relay_kube::{
    Access, Event, Interruption, KubeClient, Kubeconfig, Object, ObjectMeta, Resource, Watcher,
};
use relay_proto::pods::{Filter, Pod, PodKey};
use tokio::sync::OnceCell;

use super::{Following, Publisher, Source, SourceError};
use crate::{BoxFuture, CancellationToken};

#[cfg(test)]
mod tests;

/// Follows the pods of a Kubernetes cluster by list and watch.
///
/// It needs the right to `list` and `watch` pods, in the cluster or in each of its namespaces. While the API server
/// is unreachable the log is stale, and the source retries for ever, after 0.4 s at first and 30 s at most, or up
/// to five minutes if the API server asks for more time. Missed changes come as the events themselves if the API
/// server still has them, else as the difference to a new list.
///
/// If one of several namespaces may not be listed from the start, it is left out and reported as missing; it is
/// added once that is allowed.
#[derive(Debug, Clone, Default)]
pub struct KubeSource {
    kubeconfig: Option<PathBuf>,
    namespaces: BTreeSet<String>,
    /// Made once, as a credential plugin may be run for it.
    client: Arc<OnceCell<KubeClient>>,
}

impl KubeSource {
    /// All namespaces of the cluster of the environment: the kubeconfig of `KUBECONFIG` or of the home directory,
    /// else the service account of the pod this runs in.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the cluster and user of a kubeconfig file's current context. Default: see [`Self::new`].
    #[must_use]
    pub fn kubeconfig(mut self, kubeconfig: impl Into<PathBuf>) -> Self {
        self.kubeconfig = Some(kubeconfig.into());
        self.client = Arc::default();
        self
    }

    /// Watches these namespaces only, each with a list and a watch of its own. Default: none, which watches all.
    #[must_use]
    pub fn namespaces(mut self, namespaces: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.namespaces = namespaces.into_iter().map(Into::into).collect();
        self
    }

    /// Checks the namespaces, and that the kubeconfig and its files can be read. It makes no connection, but runs a
    /// credential plugin. A run makes the same checks, but only after its server listens.
    ///
    /// # Errors
    /// The errors that would end [`Source::run`] at once.
    pub async fn check(&self) -> Result<(), SourceError> {
        self.client().await.map(drop)
    }

    async fn client(&self) -> Result<KubeClient, SourceError> {
        for namespace in &self.namespaces {
            let checked = Filter::new().namespace(namespace);
            checked.map_err(|error| SourceError::setup("cannot watch a namespace", error))?;
        }
        let connect = || async {
            let access = match &self.kubeconfig {
                Some(path) => Kubeconfig::load(Some(path))?.access(None)?,
                None => Access::infer()?,
            };
            KubeClient::connect(access).await
        };
        let client = self.client.get_or_try_init(connect).await;
        client
            .cloned()
            .map_err(|error: relay_kube::Error| SourceError::setup("cannot reach a cluster", error))
    }

    async fn follow(self, publisher: Publisher, stop: CancellationToken) -> Result<(), SourceError> {
        let client = self.client().await?;
        let mut fold = Fold::new(publisher, self.namespaces.into_iter().collect());
        let watchers = fold.scopes.iter().enumerate().map(|(scope, Scope { namespace, .. })| {
            let watcher = Watcher::new(client.clone(), Resource::new("", "v1", "pods"));
            watcher.namespace(namespace).into_stream().map(move |event| (scope, event))
        });
        let mut events = select_all(watchers);
        let folding = async {
            while let Some((scope, event)) = events.next().await {
                fold.take(scope, event).await?;
            }
            Ok(())
        };
        tokio::select! {
            () = stop.cancelled() => Ok(()),
            end = folding => end,
        }
    }
}

impl Source for KubeSource {
    fn kind(&self) -> &'static str {
        "kube"
    }

    fn run(
        self: Box<Self>,
        publisher: Publisher,
        stop: CancellationToken,
    ) -> BoxFuture<'static, Result<(), SourceError>> {
        Box::pin(self.follow(publisher.ahead(), stop))
    }
}

/// Folds the events of all scopes into the log.
struct Fold {
    publisher: Publisher,
    scopes: Vec<Scope>,
    /// Whether the log has no list yet: a part of the cluster does not make it synced.
    starting: bool,
}

/// A namespace, or the whole cluster.
struct Scope {
    /// Empty for the whole cluster.
    namespace: String,
    state: State,
    listed: bool,
    /// Pods that were listed before the other scopes were; empty afterwards.
    held: BTreeMap<PodKey, Pod>,
    /// Unreadable pods of a first list, which an older log may have.
    kept: BTreeSet<PodKey>,
}

/// How a scope is followed.
enum State {
    /// Not followed yet.
    Starting,
    Live,
    Interrupted(Interruption),
}

impl Scope {
    fn new(namespace: String) -> Self {
        let (held, kept) = (BTreeMap::new(), BTreeSet::new());
        Self { namespace, state: State::Starting, listed: false, held, kept }
    }

    fn has(&self, key: &PodKey) -> bool {
        self.namespace.is_empty() || self.namespace == key.namespace()
    }

    /// Why it is not followed, with its name.
    fn interruption(&self) -> Option<String> {
        match &self.state {
            State::Interrupted(interruption) if self.namespace.is_empty() => {
                Some(interruption.reason.clone())
            }
            State::Interrupted(interruption) => {
                Some(format!("namespace {}: {}", self.namespace, interruption.reason))
            }
            State::Starting | State::Live => None,
        }
    }

    /// Whether it has been forbidden from the start.
    fn is_forbidden(&self) -> bool {
        !self.listed
            && matches!(&self.state, State::Interrupted(interruption) if interruption.code == Some(403))
    }
}

impl Fold {
    fn new(publisher: Publisher, namespaces: Vec<String>) -> Self {
        let all = namespaces.is_empty().then(String::new);
        let scopes = namespaces.into_iter().chain(all).map(Scope::new).collect();
        Self { publisher, scopes, starting: true }
    }

    async fn take(&mut self, at: usize, event: Event<Pod>) -> Result<(), SourceError> {
        let scope = &mut self.scopes[at];
        match event {
            Event::Listed { objects, kept, .. } => {
                let pods = objects.into_iter().filter_map(|object| object.value);
                let kept = kept.iter().filter_map(key).collect();
                scope.listed = true;
                if self.starting {
                    scope.held = pods.map(|pod| (pod.key().clone(), pod)).collect();
                    scope.kept = kept;
                    self.begin().await?;
                } else {
                    self.publisher
                        .relist_where(|key| scope.has(key) && !kept.contains(key), pods.collect())
                        .await?;
                }
            }
            Event::Applied(Object { value: Some(pod), .. }) if self.starting => {
                scope.held.insert(pod.key().clone(), pod);
            }
            Event::Applied(Object { value: Some(pod), .. }) => self.publisher.upsert(pod).await?,
            Event::Deleted(object) if self.starting => {
                if let Some(key) = key(&object.meta) {
                    scope.held.remove(&key);
                }
            }
            Event::Deleted(Object { value: Some(pod), .. }) => self.publisher.delete(pod).await?,
            Event::Deleted(Object { meta, .. }) => {
                if let Some(key) = key(&meta) {
                    self.publisher
                        .delete_named(&key, Some(meta.uid.as_str()).filter(|uid| !uid.is_empty()))
                        .await?;
                }
            }
            Event::Unreadable { count, .. } => self.publisher.unreadable(count),
            Event::Live => {
                scope.state = State::Live;
                self.report();
            }
            Event::Interrupted(interruption) => {
                scope.state = State::Interrupted(interruption);
                self.begin().await?;
                self.report();
            }
            _ => {}
        }
        Ok(())
    }

    /// Gives the log its first list, once every scope was listed or is forbidden, but not all are forbidden.
    async fn begin(&mut self) -> Result<(), SourceError> {
        let decided = self.scopes.iter().all(|scope| scope.listed || scope.is_forbidden());
        if !self.starting || !decided || self.scopes.iter().all(Scope::is_forbidden) {
            return Ok(());
        }
        self.starting = false;
        let mut pods = Vec::new();
        for scope in &mut self.scopes {
            pods.extend(std::mem::take(&mut scope.held).into_values());
        }
        // Also removes pods of an older log in namespaces that are no longer watched.
        let stays = |key: &PodKey| {
            self.scopes
                .iter()
                .any(|scope| scope.kept.contains(key) || (scope.is_forbidden() && scope.has(key)))
        };
        self.publisher.relist_where(|key| !stays(key), pods).await?;
        Ok(())
    }

    /// The log is live when every scope is, apart from forbidden ones.
    fn report(&self) {
        let (forbidden, others): (Vec<_>, Vec<_>) = self
            .scopes
            .iter()
            .filter(|scope| scope.interruption().is_some())
            .partition(|scope| scope.is_forbidden());
        let first = |scopes: &[&Scope]| scopes.first().and_then(|scope| scope.interruption());
        let alone = forbidden.len() == self.scopes.len();
        match (first(&others), first(&forbidden)) {
            (Some(why), _) => self.publisher.follow(Following::Away(&why)),
            (None, Some(why)) if alone => self.publisher.follow(Following::Away(&why)),
            _ if self.starting || self.scopes.iter().any(|scope| matches!(scope.state, State::Starting)) => {}
            (None, Some(_)) => {
                let missing: Vec<_> = forbidden.iter().filter_map(|scope| scope.interruption()).collect();
                self.publisher.follow(Following::LiveWithout(&missing.join("; ")));
            }
            (None, None) => self.publisher.follow(Following::Live),
        }
    }
}

/// `None` when it is not that of a pod.
fn key(meta: &ObjectMeta) -> Option<PodKey> {
    let ObjectMeta { namespace, name, .. } = meta;
    (!namespace.is_empty() && !name.is_empty()).then(|| PodKey::new(namespace, name))
}
