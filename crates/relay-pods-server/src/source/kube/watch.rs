//! One scope of a cluster, all namespaces or one of them, followed by list and watch.

use std::pin::pin;
use std::time::Duration;

use futures_util::StreamExt;
use kube::api::{Api, ListParams, VersionMatch, WatchEvent, WatchParams};
use kube::core::Status;
use relay_proto::pods::Pod;
use relay_proto::retry::{Backoff, Jitter};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

use super::object::PodObject;

/// Pods per page of a list: a few MiB of JSON at a time instead of a whole cluster's.
const PAGE: u32 = 500;

/// When the API server is to end a watch by itself, in seconds. Each end leads to a check of the version.
const WATCH_SECONDS: u32 = 240;

/// How long an open watch may be silent. Bookmarks come every minute, so this is two of them lost.
const SILENCE: Duration = Duration::from_secs(150);

/// How long a watch has to bring its refusal: an expired version is an event, not an error status.
const REFUSAL: Duration = Duration::from_millis(500);

/// How long one page of a list, the head of a watch or the check of a version may take.
const ANSWER: Duration = Duration::from_secs(60);

/// A watch that ends sooner than this and brought nothing is not opened again at once.
const TOO_SHORT: Duration = Duration::from_secs(1);

/// The first delay after a failure, and the longest.
const BASE: Duration = Duration::from_millis(800);
const CAP: Duration = Duration::from_secs(30);

/// What happens in a scope, in order.
#[derive(Debug, PartialEq)]
pub(super) enum Change {
    /// All pods of the scope; those missing are gone.
    Listed(Vec<Pod>),
    /// A pod was added or modified.
    Applied(Pod),
    /// A pod was deleted; this is how it looked last.
    Deleted(Pod),
    /// The watch is open: what was sent before is up to date.
    Up,
    /// The watch is lost, for this reason; it will be tried again.
    Down(String),
}

/// Follows one scope for as long as somebody listens.
///
/// ```text
///             version expired              version went back
///          +------------------- Watch <-+ +-------------------+
///          v                   ^   |    | |                   |
/// start -> List ---------------+   +----+-+-> Check ----------+-> (back to List)
///                                       |       |
///                                       +-------+ version known
/// ```
/// A failure in any step is reported as [`Change::Down`] and, after a while, followed by Check, or by List when there
/// is no version yet.
pub(super) struct Watch {
    api: Api<PodObject>,
    scope: usize,
    changes: mpsc::Sender<(usize, Change)>,
    /// Everything up to this version of the cluster was sent.
    version: Option<String>,
    backoff: Backoff,
}

/// The step to take.
enum Next {
    List,
    Watch,
    Check,
}

/// Why a step ended before its time.
enum Interrupt {
    /// Nobody listens any more.
    Closed,
    /// To be reported and tried again.
    Failed(String),
}

impl Watch {
    /// Sends what happens, with the number of the scope, to `changes`; its capacity bounds how far the watch runs ahead.
    pub(super) fn new(api: Api<PodObject>, scope: usize, changes: mpsc::Sender<(usize, Change)>) -> Self {
        // Without random numbers the delays of several relays are the same, which is no reason not to start.
        let seed = getrandom::u64().unwrap_or(scope as u64);
        let backoff = Backoff::new(BASE, CAP, seed).jitter(Jitter::Half);
        Self { api, scope, changes, version: None, backoff }
    }

    /// Lists and watches until the receiver of the changes is gone.
    pub(super) async fn run(mut self) {
        let mut next = Next::List;
        loop {
            let step = match next {
                Next::List => self.list().await,
                Next::Watch => self.watch().await,
                Next::Check => self.check().await,
            };
            next = match step {
                Ok(next) => next,
                Err(Interrupt::Closed) => return,
                Err(Interrupt::Failed(reason)) => {
                    if self.send(Change::Down(reason)).await.is_err() {
                        return;
                    }
                    sleep(self.backoff.next_delay()).await;
                    if self.version.is_some() { Next::Check } else { Next::List }
                }
            };
        }
    }

    /// Reads all pods, page by page, and hands them over at once.
    async fn list(&mut self) -> Result<Next, Interrupt> {
        self.version = None;
        let mut pods = Vec::new();
        let mut params = ListParams::default().limit(PAGE);
        loop {
            let page = answer("list", self.api.list(&params)).await?;
            pods.extend(page.items.into_iter().filter_map(PodObject::into_pod));
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params.continue_token = Some(token),
                None => {
                    // Later pages repeat the version of the first.
                    self.version = page.metadata.resource_version.filter(|version| !version.is_empty());
                    break;
                }
            }
        }
        if self.version.is_none() {
            return Err(Interrupt::Failed("list: the answer has no version to watch from".to_owned()));
        }
        self.send(Change::Listed(pods)).await?;
        Ok(Next::Watch)
    }

    /// Follows the changes after the version until the watch ends.
    async fn watch(&mut self) -> Result<Next, Interrupt> {
        let version = self.version.clone().unwrap_or_default();
        let params = WatchParams::default().timeout(WATCH_SECONDS);
        let started = Instant::now();
        let opened = match timeout(ANSWER, self.api.watch(&params, &version)).await {
            Ok(Ok(events)) => events,
            Ok(Err(kube::Error::Api(status))) => return refused(&status),
            Ok(Err(error)) => return Err(failed("watch", &error)),
            Err(_) => return Err(late("watch")),
        };
        let mut events = pin!(opened);
        let mut up = false;
        loop {
            let event = match timeout(if up { SILENCE } else { REFUSAL }, events.next()).await {
                Ok(Some(Ok(event))) => event,
                Ok(Some(Err(error))) => return Err(failed("watch", &error)),
                Ok(None) => break,
                Err(_) if up => break,
                Err(_) => {
                    up = true;
                    self.send(Change::Up).await?;
                    continue;
                }
            };
            if let WatchEvent::Error(status) = event {
                return refused(&status);
            }
            if !up {
                up = true;
                self.send(Change::Up).await?;
            }
            self.backoff.reset();
            self.take(event).await?;
        }
        if !up && started.elapsed() < TOO_SHORT {
            sleep(self.backoff.next_delay()).await;
        }
        Ok(Next::Check)
    }

    /// Hands over one event and moves on to its version.
    async fn take(&mut self, event: WatchEvent<PodObject>) -> Result<(), Interrupt> {
        let (version, change) = match event {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                (object.resource_version(), object.into_pod().map(Change::Applied))
            }
            WatchEvent::Deleted(object) => {
                (object.resource_version(), object.into_pod().map(Change::Deleted))
            }
            WatchEvent::Bookmark(bookmark) => (Some(bookmark.metadata.resource_version), None),
            WatchEvent::Error(_) => (None, None),
        };
        if let Some(change) = change {
            self.send(change).await?;
        }
        // Only now: what was not handed over must come again.
        if version.is_some() {
            self.version = version;
        }
        Ok(())
    }

    /// Asks whether the cluster still knows the version, before a watch is opened there again.
    ///
    /// When etcd was restored from a backup or emptied, the version lies in the future: a watch from there is accepted
    /// and silent for ever, while a list that must not be older than it is refused.
    async fn check(&mut self) -> Result<Next, Interrupt> {
        let version = self.version.clone().unwrap_or_default();
        let params = ListParams::default().limit(1).at(&version).matching(VersionMatch::NotOlderThan);
        match timeout(ANSWER, self.api.list(&params)).await {
            Ok(Ok(_)) => Ok(Next::Watch),
            Ok(Err(kube::Error::Api(status))) if too_large(&status) || expired(&status) => {
                tracing::warn!(version, "the cluster does not know this version; listing again");
                Ok(Next::List)
            }
            Ok(Err(error)) => Err(failed("check", &error)),
            Err(_) => Err(late("check")),
        }
    }

    async fn send(&self, change: Change) -> Result<(), Interrupt> {
        self.changes.send((self.scope, change)).await.map_err(|_| Interrupt::Closed)
    }
}

/// What follows from a refusal to watch.
fn refused(status: &Status) -> Result<Next, Interrupt> {
    if expired(status) {
        Ok(Next::List)
    } else {
        Err(Interrupt::Failed(format!("watch: {}", describe(status))))
    }
}

/// Bounds the time of a request and words its failure.
async fn answer<T>(what: &str, request: impl Future<Output = kube::Result<T>>) -> Result<T, Interrupt> {
    match timeout(ANSWER, request).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(failed(what, &error)),
        Err(_) => Err(late(what)),
    }
}

fn late(what: &str) -> Interrupt {
    Interrupt::Failed(format!("{what}: no answer within {} s", ANSWER.as_secs()))
}

fn failed(what: &str, error: &kube::Error) -> Interrupt {
    if let kube::Error::Api(status) = error {
        return Interrupt::Failed(format!("{what}: {}", describe(status)));
    }
    // The outer errors say little more than "service error".
    let mut reason = format!("{what}: {error}");
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        let text = inner.to_string();
        if !reason.contains(&text) {
            reason = format!("{reason}: {text}");
        }
        source = inner.source();
    }
    Interrupt::Failed(reason)
}

fn describe(status: &Status) -> String {
    format!("{} {}: {}", status.code, status.reason, status.message)
}

/// The version is older than what the API server keeps.
fn expired(status: &Status) -> bool {
    status.code == 410
}

/// The version is newer than anything the API server knows, also after it waited a few seconds for it.
fn too_large(status: &Status) -> bool {
    status.code == 504 && status.message.contains("Too large resource version")
}
