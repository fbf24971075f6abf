//! Drives the monitor of `relay-state`: objects from a cluster or a file go in, calls and writes come out.

use std::collections::BTreeMap;
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::FutureExt as _;
use futures_util::stream::{self, BoxStream, StreamExt};
use relay_kube::{Access, KubeClient, Kubeconfig};
use relay_proto::bus::{
    BusReference, ChannelReference, ChannelSpec, Kind, Manifest, SubscriptionReference, SubscriptionSpec,
};
use relay_state::bus::{Action, Handlers, Job, Key, Monitor as Machine, Now, Settings, Written};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::file::{FileSource, lists};
use crate::handler::{HandlerError, MonitorHandler};
use crate::kube::{Input, Writer, follow};

/// The component that a monitor belongs to. Its name is in the reporter of events and in the finalizer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Component {
    /// Receives messages and sends them to subscribers.
    Dispatcher,
    /// Makes and removes the resources of channels.
    Provisioner,
}

impl Component {
    /// `dispatcher` or `provisioner`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Dispatcher => "dispatcher",
            Self::Provisioner => "provisioner",
        }
    }
}

impl fmt::Display for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A report of a monitor.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Report {
    /// All lists are complete.
    Synced {
        /// Number of channels in the lists, including those of other buses.
        channels: usize,
        /// Number of subscriptions in the lists, including those of other buses.
        subscriptions: usize,
    },
    /// Every listed object has been handled once.
    Ready {
        /// Provisioned channels.
        channels: usize,
        /// Subscriptions that are subscribed.
        subscriptions: usize,
    },
    /// The new content of a changed file is in use.
    Reloaded {
        /// Provisioned channels.
        channels: usize,
        /// Subscriptions that are subscribed.
        subscriptions: usize,
    },
    /// A changed file cannot be used; the last valid content stays in use.
    ReloadFailed {
        /// Object and rule.
        error: String,
    },
    /// A call ended.
    Called {
        /// The call.
        job: Job,
        /// How it failed.
        error: Option<String>,
    },
    /// Arguments are missing, so there is no call.
    MissingArguments {
        /// The channel or subscription.
        key: Key,
        /// Names of the missing arguments, sorted.
        missing: Vec<String>,
    },
    /// Objects of a kind are not followed, or their list has not come. It is tried again.
    Interrupted {
        /// The kind.
        kind: Kind,
        /// Why; it differs from the last reason of this kind.
        reason: String,
    },
    /// Whether changes are received.
    Following {
        /// Whether changes of all kinds are received.
        live: bool,
    },
}

type Tell = Arc<dyn Fn(&Report) + Send + Sync>;

/// Settings of a [`Monitor`]; [`handler`](Self::handler) makes it.
#[derive(Clone)]
pub struct MonitorBuilder {
    component: Component,
    master_url: Option<String>,
    kubeconfig: Option<PathBuf>,
    file: Option<PathBuf>,
    writes: bool,
    finalizer: bool,
    handlers: Handlers,
    tell: Tell,
}

impl fmt::Debug for MonitorBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MonitorBuilder").field("component", &self.component).finish_non_exhaustive()
    }
}

impl MonitorBuilder {
    /// The API server's URL, in the place of the kubeconfig's. Default: the kubeconfig's.
    #[must_use]
    pub fn master_url(mut self, url: Option<String>) -> Self {
        self.master_url = url;
        self
    }

    /// The kubeconfig. Default: that of the environment or the home directory, else the pod's service account.
    #[must_use]
    pub fn kubeconfig(mut self, path: Option<PathBuf>) -> Self {
        self.kubeconfig = path;
        self
    }

    /// Objects from a file, in the place of a cluster.
    #[must_use]
    pub fn file(mut self, path: Option<PathBuf>) -> Self {
        self.file = path;
        self
    }

    /// Whether conditions and events are written into the cluster. Default no.
    #[must_use]
    pub fn writes(mut self, writes: bool) -> Self {
        self.writes = writes;
        self
    }

    /// Whether channels and subscriptions get a finalizer. Default no.
    #[must_use]
    pub fn finalizer(mut self, finalizer: bool) -> Self {
        self.finalizer = finalizer;
        self
    }

    /// Which calls are handled. Others are not made, reported or written, and count as done. Default all; a call
    /// that the handler has [not set](HandlerError::NotSet) is found by calling it once.
    #[must_use]
    pub fn handlers(mut self, handlers: Handlers) -> Self {
        self.handlers = handlers;
        self
    }

    /// A function that gets all reports, in order; it must not block.
    #[must_use]
    pub fn report(mut self, tell: impl Fn(&Report) + Send + Sync + 'static) -> Self {
        self.tell = Arc::new(tell);
        self
    }

    /// Makes the monitor with this handler.
    pub fn handler<H: MonitorHandler>(self, handler: H) -> Monitor<H> {
        Monitor(Arc::new(Shared {
            config: self,
            handler,
            machine: Mutex::new(None),
            wake: Notify::new(),
            synced: watch::Sender::new(false),
            begin: Instant::now(),
        }))
    }
}

/// Follows the objects of a bus and calls a handler. Cheap to clone.
#[derive(Debug)]
pub struct Monitor<H>(Arc<Shared<H>>);

#[derive(Debug)]
struct Shared<H> {
    config: MonitorBuilder,
    handler: H,
    machine: Mutex<Option<Machine>>,
    wake: Notify,
    synced: watch::Sender<bool>,
    begin: Instant,
}

impl<H> Clone for Monitor<H> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl Monitor<()> {
    /// Settings for a monitor.
    pub fn builder(component: Component) -> MonitorBuilder {
        MonitorBuilder {
            component,
            master_url: None,
            kubeconfig: None,
            file: None,
            writes: false,
            finalizer: false,
            handlers: Handlers::default(),
            tell: Arc::new(|_| ()),
        }
    }
}

/// Time limit of the last writes at the end.
const LAST_WRITES: Duration = Duration::from_secs(5);
/// Limit of concurrent events; more are dropped.
const NOTES: usize = 64;

impl<H: MonitorHandler> Monitor<H> {
    /// The spec of a provisioned channel. Mind the order: name, namespace.
    pub fn channel(&self, name: &str, namespace: &str) -> Option<Arc<ChannelSpec>> {
        self.machine().as_ref()?.channel(&ChannelReference::new(name, namespace))
    }

    /// The spec of a subscription that is subscribed. Mind the order: name, namespace.
    pub fn subscription(&self, name: &str, namespace: &str) -> Option<Arc<SubscriptionSpec>> {
        self.machine().as_ref()?.subscription(&SubscriptionReference::new(name, namespace))
    }

    /// The subscriptions of a channel: `None` when the channel is not provisioned, an empty list when it has none.
    /// Mind the order: name, namespace.
    pub fn subscriptions(&self, channel: &str, namespace: &str) -> Option<Vec<Arc<SubscriptionSpec>>> {
        let list = self.machine().as_ref()?.subscriptions(&ChannelReference::new(channel, namespace))?;
        Some(list.into_iter().map(|(_, spec)| spec).collect())
    }

    /// Subscribes once more, although nothing changed.
    pub fn requeue_subscription(&self, subscription: &SubscriptionReference) {
        if let Some(machine) = self.machine().as_mut() {
            machine.requeue_subscription(subscription);
        }
        self.0.wake.notify_one();
    }

    /// Whether objects request this channel, provisioned or not.
    pub fn wants_channel(&self, channel: &ChannelReference) -> bool {
        self.machine().as_ref().is_some_and(|machine| machine.wants_channel(channel))
    }

    /// Whether objects request this subscription to this channel, subscribed or not.
    pub fn wants_subscription(
        &self,
        subscription: &SubscriptionReference,
        channel: &ChannelReference,
    ) -> bool {
        self.machine().as_ref().is_some_and(|machine| machine.wants_subscription(subscription, channel))
    }

    /// Retries failed calls at once, because the cause is gone.
    pub fn retry_now(&self) {
        if let Some(machine) = self.machine().as_mut() {
            machine.retry_now();
        }
        self.0.wake.notify_one();
    }

    /// Waits until all lists are complete.
    ///
    /// # Errors
    /// When `stop` comes first.
    pub async fn wait_for_cache_sync(&self, stop: CancellationToken) -> Result<(), MonitorError> {
        let mut synced = self.0.synced.subscribe();
        tokio::select! {
            Ok(_) = synced.wait_for(|synced| *synced) => Ok(()),
            () = stop.cancelled() => Err(MonitorError::NotSynced),
        }
    }

    /// Follows the objects of the bus until `stop`, with at most `concurrency` calls at a time. Returns when the calls
    /// in progress have ended. A `bus` of `None`, for a file without a bus, means every channel.
    ///
    /// # Errors
    /// When the set-up fails, the file cannot be used, or the bus does not exist once all lists are complete. An
    /// unavailable or refusing API server is no error: requests are retried for ever.
    pub async fn run(
        &self,
        bus: impl Into<Option<&BusReference>>,
        concurrency: usize,
        stop: CancellationToken,
    ) -> Result<(), MonitorError> {
        let bus = bus.into().cloned();
        let config = &self.0.config;
        let (source, writer) = self.source(bus.as_ref()).await?;
        let finalizer = format!("channels.knative.dev/relay-{}", config.component);
        let settings = Settings::new(bus.clone())
            .writes(config.writes && writer.is_some())
            .finalizer((config.finalizer && writer.is_some()).then_some(finalizer))
            .handlers(config.handlers)
            .concurrency(concurrency)
            .seed(getrandom::u64().unwrap_or_default());
        *self.machine() = Some(Machine::new(settings));
        let mut work = Work {
            monitor: self,
            writer,
            ready: false,
            down: BTreeMap::new(),
            live: None,
            calls: JoinSet::new(),
            writes: JoinSet::new(),
            notes: JoinSet::new(),
        };
        work.run(source, &stop)
            .await
            .map_err(|NoBus| MonitorError::NoBus { bus: bus.unwrap_or_else(|| BusReference::cluster("")) })
    }

    async fn source(
        &self,
        bus: Option<&BusReference>,
    ) -> Result<(BoxStream<'static, Vec<Input>>, Option<Writer>), MonitorError> {
        let config = &self.0.config;
        if let Some(path) = &config.file {
            let mut file = FileSource::new(path);
            let first = file.read().await.map_err(|error| MonitorError::File { error })?;
            return Ok((from_file(file, first), None));
        }
        let bus = bus.ok_or(MonitorError::File { error: "a cluster needs a bus".into() })?;
        let client = KubeClient::connect(access(config)?).await?;
        let reporter = format!("{}-{}", bus.name(), config.component);
        Ok((follow(&client, bus), Some(Writer::new(client, reporter))))
    }

    fn machine(&self) -> MutexGuard<'_, Option<Machine>> {
        self.0.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Now {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now { since_start: self.0.begin.elapsed(), unix_seconds: unix.as_secs() as i64 }
    }
}

/// The objects of a file, to choose a bus among them.
///
/// # Errors
/// [`MonitorError::File`].
pub(crate) async fn read_manifest(path: &Path) -> Result<Manifest, MonitorError> {
    FileSource::new(path).read().await.map_err(|error| MonitorError::File { error })
}

impl MonitorBuilder {
    /// Reads the objects of a file without a monitor, to choose a bus among them.
    ///
    /// # Errors
    /// [`MonitorError::File`].
    pub async fn read_file(path: &Path) -> Result<Manifest, MonitorError> {
        read_manifest(path).await
    }
}

fn access(config: &MonitorBuilder) -> Result<Access, MonitorError> {
    let access = match (&config.kubeconfig, &config.master_url) {
        (Some(path), _) => Kubeconfig::load(Some(path))?.access(None)?,
        (None, Some(url)) => return Ok(Access::anonymous(url)),
        (None, None) => Access::infer()?,
    };
    Ok(match &config.master_url {
        Some(url) => access.at(url),
        None => access,
    })
}

fn from_file(file: FileSource, first: Manifest) -> BoxStream<'static, Vec<Input>> {
    let mut begin = lists(first);
    begin.pop();
    let changes = stream::unfold(file, |mut file| async move {
        let changed = file.changed().await;
        let absent = (!file.is_there()).then(|| "the file is not there".to_owned());
        let mut inputs = match changed {
            Ok(manifest) => lists(manifest),
            Err(error) => vec![Input::Refused(error)],
        };
        inputs.push(Input::State(Kind::Bus, absent));
        Some((inputs, file))
    });
    stream::iter([begin, vec![Input::State(Kind::Bus, None)]]).chain(changes).boxed()
}

/// The bus is not in the list.
struct NoBus;

/// A run, with its calls in progress.
struct Work<'m, H> {
    monitor: &'m Monitor<H>,
    writer: Option<Writer>,
    ready: bool,
    /// Kinds whose changes are not received, and why.
    down: BTreeMap<Kind, String>,
    live: Option<bool>,
    calls: JoinSet<(Job, Result<(), HandlerError>)>,
    writes: JoinSet<(Key, Written)>,
    notes: JoinSet<()>,
}

impl<H: MonitorHandler> Work<'_, H> {
    async fn run(
        &mut self,
        mut source: BoxStream<'static, Vec<Input>>,
        stop: &CancellationToken,
    ) -> Result<(), NoBus> {
        let mut end: Option<Instant> = None;
        loop {
            self.drain()?;
            let due = self.with(|machine, _| machine.poll_timeout());
            let due = due.map(|due| self.monitor.0.begin + due);
            if let Some(end) = end
                && self.calls.is_empty()
                && (self.writes.is_empty() && self.notes.is_empty() || Instant::now() >= end)
            {
                return Ok(());
            }
            let next = [due, end].into_iter().flatten().min();
            tokio::select! {
                () = stop.cancelled(), if end.is_none() => {
                    self.with(|machine, _| machine.stop());
                    end = Some(Instant::now() + LAST_WRITES);
                }
                Some(inputs) = source.next(), if end.is_none() => {
                    inputs.into_iter().for_each(|input| self.take(input));
                }
                Some(Ok((job, result))) = self.calls.join_next() => self.called(job, result),
                Some(Ok((key, written))) = self.writes.join_next() => {
                    self.with(|machine, now| machine.handle_written(&key, written, now));
                }
                Some(_) = self.notes.join_next() => {}
                () = self.monitor.0.wake.notified() => {}
                () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {}
            }
        }
    }

    fn with<T>(&self, act: impl FnOnce(&mut Machine, Now) -> T) -> T {
        let now = self.monitor.now();
        act(self.monitor.machine().as_mut().expect("set before the run"), now)
    }

    fn tell(&self, report: &Report) {
        (self.monitor.0.config.tell)(report);
    }

    /// Performs the actions that the machine requests.
    fn drain(&mut self) -> Result<(), NoBus> {
        while let Some(action) = self.with(Machine::poll) {
            match action {
                Action::NoBus => return Err(NoBus),
                Action::Synced { channels, subscriptions } => {
                    self.monitor.0.synced.send_replace(true);
                    self.tell(&Report::Synced { channels, subscriptions });
                }
                Action::Settled { channels, subscriptions } => {
                    let report = if std::mem::replace(&mut self.ready, true) {
                        Report::Reloaded { channels, subscriptions }
                    } else {
                        Report::Ready { channels, subscriptions }
                    };
                    self.tell(&report);
                }
                Action::MissingArguments { key, missing } => {
                    self.tell(&Report::MissingArguments { key, missing });
                }
                Action::Call(job) => {
                    let monitor = self.monitor.clone();
                    self.calls.spawn(async move {
                        let call = AssertUnwindSafe(monitor.0.handler.call(&job)).catch_unwind().await;
                        let result =
                            call.unwrap_or_else(|_| Err(HandlerError::failed("the handler panicked")));
                        (job, result)
                    });
                }
                Action::Write(write) => {
                    let Some(writer) = self.writer.clone() else { continue };
                    self.writes.spawn(async move { (write.key.clone(), writer.write(write).await) });
                }
                Action::Note(note) => match &self.writer {
                    Some(writer) if self.notes.len() < NOTES => {
                        let writer = writer.clone();
                        self.notes.spawn(async move { writer.note(note).await });
                    }
                    _ => {
                        tracing::debug!(object = &*note.name, "an event is not sent: too many are under way")
                    }
                },
                Action::NotesDropped(count) => tracing::warn!(count, "events are not sent: too many at once"),
                _ => {}
            }
        }
        Ok(())
    }

    fn called(&self, job: Job, result: Result<(), HandlerError>) {
        let key = job.key.clone();
        let error = match result {
            Err(HandlerError::NotSet) => {
                return self.with(|machine, now| machine.handle_not_set(&job, now));
            }
            Err(error) => Some(error.to_string()),
            Ok(()) => None,
        };
        let result = error.clone().map_or(Ok(()), Err);
        self.tell(&Report::Called { job, error });
        self.with(|machine, now| machine.handle_called(&key, result, now));
    }

    fn take(&mut self, input: Input) {
        match input {
            Input::List { kind, objects, kept } => self.with(|machine, now| {
                let kept: Vec<_> =
                    kept.iter().map(|(name, namespace)| (name.as_str(), namespace.as_str())).collect();
                machine.handle_list(kind, objects, &kept, now);
            }),
            Input::Applied(object) => self.with(|machine, now| machine.handle_applied(object, now)),
            Input::Deleted { kind, name, namespace } => {
                self.with(|machine, now| machine.handle_deleted(kind, &name, &namespace, now));
            }
            Input::Changed => self.with(|machine, _| machine.settle()),
            Input::Refused(error) => self.tell(&Report::ReloadFailed { error }),
            Input::State(kind, Some(reason)) => {
                if self.down.get(&kind) != Some(&reason) {
                    tracing::warn!(kind = kind.as_str(), reason, "objects are not followed at the moment");
                    self.down.insert(kind, reason.clone());
                    self.tell(&Report::Interrupted { kind, reason });
                }
                self.following(false);
            }
            Input::State(kind, None) => {
                if self.down.remove(&kind).is_some() {
                    tracing::warn!(kind = kind.as_str(), "objects are followed again");
                }
                if self.down.is_empty() {
                    self.following(true);
                }
            }
        }
    }

    fn following(&mut self, live: bool) {
        if self.live.replace(live) != Some(live) {
            self.tell(&Report::Following { live });
        }
    }
}

/// Why a monitor cannot run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MonitorError {
    /// The access to the cluster is not usable: a kubeconfig, a certificate.
    #[error("the cluster's client")]
    Setup {
        /// How.
        #[from]
        source: relay_kube::Error,
    },
    /// The file cannot be used.
    #[error("{error}")]
    File {
        /// File, object and rule.
        error: String,
    },
    /// All lists are complete and do not contain the bus.
    #[error("there is no bus {bus}")]
    NoBus {
        /// The bus.
        bus: BusReference,
    },
    /// It was stopped before all lists were complete.
    #[error("failed to wait for caches to sync")]
    NotSynced,
}
