//! The `kube` source: the pods of a Kubernetes cluster.
//!
//! [`watch`] follows one scope (all namespaces, or one of them) by list and watch; this file folds the scopes into the
//! one log. The relay drives list and watch itself and not through `kube::runtime`, because it has to know two things
//! that a watcher there does not tell: that a watch was accepted again after a failure (a quiet cluster is live, not
//! stale), and that the versions of the cluster went back.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use futures_util::future::join_all;
use kube::api::Api;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use relay_proto::pods::{Filter, Pod, PodKey};
use tokio::sync::mpsc;

use super::{Publisher, Scope, Source, SourceError};
use crate::{BoxFuture, CancellationToken};
use watch::{Change, Watch};

mod object;
#[cfg(test)]
mod tests;
mod watch;

/// How many changes the watches may be ahead of the log; beyond that the API server has to wait.
const AHEAD: usize = 64;

/// How long a connection to the API server may take to be made.
const CONNECT: Duration = Duration::from_secs(10);

/// Follows the pods of a Kubernetes cluster by list and watch.
///
/// It needs the right to `list` and `watch` pods, in the cluster or in each of its namespaces. While the API server is
/// out of reach the log is stale and the source tries again for ever, after 0.4 s at first and 30 s at most. What it
/// missed arrives as the events themselves where the API server still has them, else as the difference of a new list.
#[derive(Debug, Clone, Default)]
pub struct KubeSource {
    kubeconfig: Option<PathBuf>,
    namespaces: BTreeSet<String>,
}

impl KubeSource {
    /// All namespaces of the cluster that the environment names: the kubeconfig of `KUBECONFIG` or of the home
    /// directory, else the service account of the pod this runs in.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the cluster and user of a kubeconfig file's current context. Default: see [`Self::new`].
    #[must_use]
    pub fn kubeconfig(mut self, kubeconfig: impl Into<PathBuf>) -> Self {
        self.kubeconfig = Some(kubeconfig.into());
        self
    }

    /// Watches these namespaces only, each with a list and a watch of its own. Default: none, which watches all.
    #[must_use]
    pub fn namespaces(mut self, namespaces: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.namespaces = namespaces.into_iter().map(Into::into).collect();
        self
    }

    /// Whether the source can begin: the namespaces are well-formed, and the kubeconfig and what it names can be read.
    /// Connects to nothing. A run finds the same, but only after its server listens.
    ///
    /// # Errors
    /// What [`Source::run`] would end with at once.
    pub async fn check(&self) -> Result<(), SourceError> {
        self.client().await.map(drop)
    }

    async fn client(&self) -> Result<Client, SourceError> {
        for namespace in &self.namespaces {
            let checked = Filter::new().namespace(namespace);
            checked.map_err(|error| SourceError::setup("cannot watch a namespace", error))?;
        }
        let mut config = match &self.kubeconfig {
            Some(path) => {
                let what = format!("cannot use the kubeconfig {}", path.display());
                let file = Kubeconfig::read_from(path).map_err(|error| SourceError::setup(&what, error))?;
                let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await;
                config.map_err(|error| SourceError::setup(what, error))?
            }
            None => Config::infer()
                .await
                .map_err(|error| SourceError::setup("no cluster to connect to", error))?,
        };
        config.connect_timeout = Some(CONNECT);
        // The watches have their own way to try again, and tell the log meanwhile that it is stale.
        config.default_retry = false;
        Client::try_from(config)
            .map_err(|error| SourceError::setup("cannot set up the cluster's client", error))
    }

    async fn follow(self, publisher: Publisher, stop: CancellationToken) -> Result<(), SourceError> {
        let client = self.client().await?;
        let mut apis: Vec<_> =
            self.namespaces.iter().map(|name| Api::namespaced(client.clone(), name)).collect();
        if apis.is_empty() {
            apis.push(Api::all(client));
        }
        let (sender, mut changes) = mpsc::channel(AHEAD);
        let mut fold = Fold::new(publisher, self.namespaces.into_iter().collect());
        let watches =
            apis.into_iter().enumerate().map(|(scope, api)| Watch::new(api, scope, sender.clone()).run());
        let folding = async {
            while let Some((scope, change)) = changes.recv().await {
                fold.take(scope, change)?;
            }
            Ok(())
        };
        tokio::select! {
            () = stop.cancelled() => Ok(()),
            end = folding => end,
            // Not before the other end of the channel is gone.
            _ = join_all(watches) => Ok(()),
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
        Box::pin(self.follow(publisher, stop))
    }
}

/// Folds what happens in the scopes into the log.
struct Fold {
    publisher: Publisher,
    /// One per scope; empty when the only scope is the whole cluster.
    namespaces: Vec<String>,
    /// The pods of each scope that was listed, until all were: the log is not synced by a part of the cluster.
    starting: Option<Vec<Option<BTreeMap<PodKey, Pod>>>>,
    /// Why the scope is not being followed at the moment.
    down: Vec<Option<String>>,
}

impl Fold {
    fn new(publisher: Publisher, namespaces: Vec<String>) -> Self {
        let scopes = namespaces.len().max(1);
        Self { publisher, namespaces, starting: Some(vec![None; scopes]), down: vec![None; scopes] }
    }

    fn take(&mut self, scope: usize, change: Change) -> Result<(), SourceError> {
        match change {
            Change::Listed(pods) => self.listed(scope, pods)?,
            Change::Applied(pod) => match &mut self.starting {
                None => self.publisher.upsert(pod)?,
                Some(starting) => {
                    starting[scope].get_or_insert_default().insert(pod.key().clone(), pod);
                }
            },
            Change::Deleted(pod) => match &mut self.starting {
                None => self.publisher.delete(pod)?,
                Some(starting) => {
                    starting[scope].get_or_insert_default().remove(pod.key());
                }
            },
            Change::Up => {
                self.down[scope] = None;
                if self.starting.is_none() {
                    self.report();
                }
            }
            Change::Down(why) => {
                let place =
                    self.namespaces.get(scope).map_or_else(String::new, |name| format!("namespace {name}: "));
                tracing::debug!(place, why, "a watch is lost");
                self.down[scope] = Some(format!("{place}{why}"));
                self.report();
            }
        }
        Ok(())
    }

    fn listed(&mut self, scope: usize, pods: Vec<Pod>) -> Result<(), SourceError> {
        self.down[scope] = None;
        let (whole, pods) = match self.starting.take() {
            Some(mut starting) => {
                starting[scope] = Some(pods.into_iter().map(|pod| (pod.key().clone(), pod)).collect());
                if starting.iter().any(Option::is_none) {
                    self.starting = Some(starting);
                    return Ok(());
                }
                // Also drops what an older log has of namespaces that are not watched any more.
                (Scope::All, starting.into_iter().flatten().flat_map(BTreeMap::into_values).collect())
            }
            None => match self.namespaces.get(scope) {
                Some(namespace) => (Scope::Namespaces([namespace.clone()].into()), pods),
                None => (Scope::All, pods),
            },
        };
        self.publisher.relist(whole, pods)?;
        self.report();
        Ok(())
    }

    /// The log is live when every scope is.
    fn report(&self) {
        match self.down.iter().flatten().next() {
            Some(why) => self.publisher.stale(why),
            None => self.publisher.live(),
        }
    }
}
