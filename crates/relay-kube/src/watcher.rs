//! All objects of a type, or those of one namespace, followed by list and watch.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt};
use relay_proto::error::chain;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use self::machine::{FailureCause, Machine, Step};
use crate::client::{ANSWER, KubeClient, ListQuery, Object, WatchBody};
use crate::error::{Error, Status, WireStatus};
use crate::resource::{ObjectMeta, Resource};

mod machine;

/// Objects per page of a list: a few MiB of JSON at a time instead of a whole cluster's.
const PAGE: u32 = 500;

/// The time after which the API server ends a watch, in seconds. After each end the version is checked.
const WATCH_SECONDS: u32 = 240;

/// Longest time without bytes on an open watch. Bookmarks come every minute, so two were lost then.
const SILENCE: Duration = Duration::from_secs(150);

/// A change of the followed objects.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Event<T> {
    /// All objects that exist. Objects that are in neither list are gone.
    ///
    /// The list may be old: [`Event::Live`] follows once it is up to date.
    #[non_exhaustive]
    Listed {
        /// Each of them has a value.
        objects: Vec<Object<T>>,
        /// Objects that exist but could not be decoded, or were listed in an older version than known before: their
        /// former state still counts.
        kept: Vec<ObjectMeta>,
    },
    /// An object was added or modified; it has a value.
    Applied(Object<T>),
    /// An object was deleted. The value is its last state, `None` when it cannot be decoded.
    Deleted(Object<T>),
    /// Some objects or events could not be decoded. The former state of those objects still counts, until they can
    /// be decoded; an object without a name is lost.
    #[non_exhaustive]
    Unreadable {
        /// How many; never 0.
        count: u64,
    },
    /// The events so far are up to date, and changes will follow.
    Live,
    /// Changes are not received at the moment. The watcher retries for ever; [`Event::Live`] follows on success.
    Interrupted(Interruption),
}

/// Why changes are not received.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Interruption {
    /// The failure, on one line, without any part of a body.
    pub reason: String,
    /// The HTTP status code, when the API server refused.
    pub code: Option<u16>,
}

/// Follows all objects of a type by list and watch, for as long as the caller asks for events.
///
/// It survives expired versions, versions that went back, silence, refusals with or without a delay, responses that
/// cannot be decoded, and expired pages: see the diagram of its machine and `docs/reliability.md`.
///
/// It keeps the name, UID and version of every object, about 150 bytes each, and no object: an older version never
/// replaces a newer one of the same UID. Only a list of a cluster whose versions went back may do that.
pub struct Watcher<T> {
    client: KubeClient,
    resource: Resource,
    namespace: Option<String>,
    query: ListQuery,
    machine: Machine,
    /// The origin of the machine's time.
    epoch: Instant,
    open: Option<Open>,
    /// Events to be handed out; a few at most.
    ready: VecDeque<Event<T>>,
    known: HashMap<(String, String), Known>,
    /// The version of the newest list or event, to recognise a cluster whose versions went back.
    newest: Option<u64>,
}

/// An open watch.
struct Open {
    body: WatchBody,
    /// The time at which a silent watch counts as accepted; `None` once it is.
    refusal: Option<Instant>,
    /// The time at which it has been silent for too long.
    silence: Instant,
}

struct Known {
    uid: String,
    order: Option<u64>,
}

impl<T: DeserializeOwned + Send + 'static> Watcher<T> {
    /// Follows all objects of the type, in all namespaces.
    pub fn new(client: KubeClient, resource: Resource) -> Self {
        let seed = getrandom::u64().unwrap_or_else(|_| {
            // Without random numbers the delays of several relays are equal, which is better than not to start.
            resource.plural().len() as u64
        });
        Self {
            client,
            resource,
            namespace: None,
            query: ListQuery::new(),
            machine: Machine::new(seed),
            epoch: Instant::now(),
            open: None,
            ready: VecDeque::new(),
            known: HashMap::new(),
            newest: None,
        }
    }

    /// Only the objects of this namespace. Default, and for an empty name: all.
    #[must_use]
    pub fn namespace(mut self, namespace: impl Into<String>) -> Self {
        self.namespace = Some(namespace.into()).filter(|name| !name.is_empty());
        self
    }

    /// Only objects that these selectors select. A limit and a token are ignored. Default: all.
    #[must_use]
    pub fn select(mut self, query: ListQuery) -> Self {
        self.query = query;
        self
    }

    /// The events as a stream, which never ends. Polling it is cancel-safe.
    pub fn into_stream(self) -> BoxStream<'static, Event<T>> {
        stream::unfold(self, |mut watcher| async move { Some((watcher.next().await, watcher)) }).boxed()
    }

    /// The next event. It is not cancel-safe: a request in progress is lost and made again without its delay. In a
    /// `select!`, use [`into_stream`](Self::into_stream).
    pub async fn next(&mut self) -> Event<T> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return event;
            }
            if let Some(mut open) = self.open.take() {
                if self.read(&mut open).await {
                    self.open = Some(open);
                }
                continue;
            }
            sleep_until(self.epoch + self.machine.due()).await;
            let version = self.machine.version().to_owned();
            match self.machine.step() {
                Step::List { pages } => self.list(pages).await,
                Step::Watch => self.watch(&version).await,
                Step::Check => self.check(&version).await,
            }
        }
    }

    fn now(&self) -> Duration {
        self.epoch.elapsed()
    }

    /// Reads all objects, page by page, and hands them over at once.
    async fn list(&mut self, pages: bool) {
        let (mut objects, mut first) = (Vec::new(), None);
        let mut query = if pages { self.query.clone().limit(PAGE) } else { self.query.clone() };
        let mut token: Option<String> = None;
        loop {
            let page = self.client.list(&self.resource, self.namespace.as_deref(), &query).await;
            let page = match page {
                Ok(page) => page,
                Err(Error::Refused { status, retry_after, .. }) if status.is_expired() && token.is_some() => {
                    tracing::debug!(resource = %self.resource, "a list's next page is gone; listing without pages");
                    return self.machine.page_is_gone(retry_after, self.now());
                }
                Err(error) => return self.failed(&error),
            };
            objects.extend(page.objects);
            let version = first.get_or_insert(page.resource_version);
            match page.next {
                // A token that is its own successor would be followed for ever.
                Some(next) if token.as_ref() == Some(&next) => {
                    return self.machine.page_is_gone(None, self.now());
                }
                Some(next) => {
                    query = query.after(&next);
                    token = Some(next);
                }
                None if version.is_empty() => {
                    let what = "the answer has no version to watch from".to_owned();
                    return self.failed(&Error::Answer { doing: "list", what });
                }
                None => break,
            }
        }
        let version = first.unwrap_or_default();
        self.take_list(objects, &version);
        self.machine.listed(&version);
        if self.machine.is_stumbling() {
            return;
        }
        self.ready.push_back(Event::Live);
    }

    fn take_list(&mut self, all: Vec<Object<T>>, version: &str) {
        let order = version.parse().ok();
        // A list is never older than an event seen before, unless the cluster's versions went back.
        let went_back = order.zip(self.newest).is_some_and(|(list, newest)| list < newest);
        self.newest = order;
        let before = std::mem::take(&mut self.known);
        let (mut objects, mut kept) = (Vec::with_capacity(all.len()), Vec::new());
        let mut count = 0;
        for object in all {
            let key = key(&object.meta);
            let held = before.get(&key).filter(|held| !went_back && held.is_newer_than(&object.meta));
            let known = match held {
                Some(held) => Known { uid: held.uid.clone(), order: held.order },
                None => Known::of(&object.meta),
            };
            count += u64::from(object.value.is_none());
            if object.meta.name.is_empty() {
                continue;
            }
            self.known.insert(key, known);
            if held.is_some() || object.value.is_none() {
                kept.push(object.meta);
            } else {
                objects.push(object);
            }
        }
        self.cannot_read(count);
        self.ready.push_back(Event::Listed { objects, kept });
    }

    async fn watch(&mut self, version: &str) {
        let opening =
            self.client.watch(&self.resource, self.namespace.as_deref(), version, WATCH_SECONDS, &self.query);
        match opening.await {
            Ok(body) => {
                self.machine.opened(self.now());
                let now = Instant::now();
                let refusal = Some(now + self.machine.refusal_time());
                self.open = Some(Open { body, refusal, silence: now + SILENCE });
            }
            Err(error) => {
                self.machine.opened(self.now());
                match &error {
                    Error::Refused { status, .. } if status.is_expired() => self.expired(status),
                    _ => self.failed(&error),
                }
            }
        }
    }

    async fn check(&mut self, version: &str) {
        let checked = self.client.check(&self.resource, self.namespace.as_deref(), version);
        match timeout(ANSWER * 2, checked)
            .await
            .unwrap_or(Err(Error::Late { doing: "check", after: ANSWER * 2 }))
        {
            Ok(()) => self.machine.known(),
            Err(Error::Refused { status, .. }) if status.is_ahead() || status.is_expired() => {
                tracing::warn!(version, "the cluster does not know this version; listing again");
                self.machine.expired(self.now());
            }
            Err(error) => self.failed(&error),
        }
    }

    /// Reads one event of a watch. Returns whether the watch continues.
    async fn read(&mut self, open: &mut Open) -> bool {
        let until = open.refusal.unwrap_or(open.silence);
        match timeout_at(until, open.body.next_line()).await {
            Ok(Ok(Some(line))) => {
                open.silence = Instant::now() + SILENCE;
                self.take_line(&line, open)
            }
            Ok(Ok(None)) => {
                self.ended();
                false
            }
            Ok(Err(error)) => {
                self.failed(&error);
                false
            }
            Err(_) if open.refusal.take().is_some() => {
                self.machine.accepted();
                self.ready.push_back(Event::Live);
                true
            }
            Err(_) => {
                tracing::debug!(resource = %self.resource, "a watch is silent; checking its version");
                self.ended();
                false
            }
        }
    }

    fn take_line(&mut self, line: &Bytes, open: &mut Open) -> bool {
        let Ok(Line { kind, object }) = serde_json::from_slice::<Line<'_>>(line) else {
            self.cannot_read(1);
            let what = format!("a line of {} bytes is no event", line.len());
            self.failed(&Error::Answer { doing: "watch", what });
            return false;
        };
        if kind == "ERROR" {
            let (status, retry_after) = match WireStatus::read(object.get().as_bytes()) {
                Some(status) => status.told(500),
                None => (Status::new(500, "", ""), None),
            };
            if status.is_expired() {
                self.expired(&status);
            } else {
                self.failed(&Error::Refused { doing: "watch", status: Box::new(status), retry_after });
            }
            return false;
        }
        let meta = ObjectMeta::of(object);
        let version = meta.resource_version.clone();
        if let Some(event) = self.event(&kind, meta, object) {
            self.ready.push_back(event);
        }
        self.newest = self.newest.max(version.parse().ok());
        // Before its event: the list or watch before it was up to date.
        if self.machine.brought(&version) && open.refusal.take().is_some() {
            self.ready.push_front(Event::Live);
        }
        true
    }

    /// Decodes an event.
    fn event(&mut self, kind: &str, meta: ObjectMeta, object: &RawValue) -> Option<Event<T>> {
        let deleted = match kind {
            "ADDED" | "MODIFIED" => false,
            "DELETED" => true,
            "BOOKMARK" => return None,
            _ => {
                self.cannot_read(1);
                return None;
            }
        };
        let object: Object<T> = serde_json::from_str(object.get()).unwrap_or(Object { meta, value: None });
        self.cannot_read(u64::from(object.value.is_none()));
        if object.meta.name.is_empty() {
            return None;
        }
        let key = key(&object.meta);
        if deleted {
            // A deletion counts whatever its version: an object with this UID never comes back.
            let other = |held: &mut Known| !object.meta.uid.is_empty() && held.uid != object.meta.uid;
            if !self.known.get_mut(&key).is_some_and(other) {
                self.known.remove(&key);
            }
            return Some(Event::Deleted(object));
        }
        if object.value.is_none() || self.known.get(&key).is_some_and(|held| held.is_newer_than(&object.meta))
        {
            return None;
        }
        self.known.insert(key, Known::of(&object.meta));
        Some(Event::Applied(object))
    }

    fn cannot_read(&mut self, count: u64) {
        if count > 0 {
            self.ready.push_back(Event::Unreadable { count });
        }
    }

    fn ended(&mut self) {
        let before = self.machine.is_stumbling();
        self.machine.ended(self.now());
        if self.machine.is_stumbling() && !before {
            let reason = "watch: it ends as soon as it is opened, again and again".to_owned();
            self.ready.push_back(Event::Interrupted(Interruption { reason, code: None }));
        }
    }

    /// The version has expired: reported only if that happens repeatedly.
    fn expired(&mut self, status: &Status) {
        let before = self.machine.is_stumbling();
        self.machine.expired(self.now());
        if self.machine.is_stumbling() && !before {
            let reason =
                format!("watch: the version of a new list has expired at once, again and again: {status}");
            self.ready.push_back(Event::Interrupted(Interruption { reason, code: Some(status.code) }));
        }
    }

    fn failed(&mut self, error: &Error) {
        let (retry_after, code) = match error {
            Error::Refused { status, retry_after, .. } => (*retry_after, Some(status.code)),
            _ => (None, None),
        };
        self.machine.failed(cause(error), retry_after, self.now());
        self.ready.push_back(Event::Interrupted(Interruption { reason: chain(error).to_string(), code }));
    }
}

impl<T> fmt::Debug for Watcher<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watcher")
            .field("resource", &self.resource)
            .field("namespace", &self.namespace)
            .field("machine", &self.machine)
            .finish_non_exhaustive()
    }
}

impl Known {
    fn of(meta: &ObjectMeta) -> Self {
        Self { uid: meta.uid.clone(), order: meta.order() }
    }

    /// Whether the known object is the same one in a later version. Versions that are not numbers cannot be
    /// compared.
    fn is_newer_than(&self, meta: &ObjectMeta) -> bool {
        let same = !self.uid.is_empty() && self.uid == meta.uid;
        same && self.order.zip(meta.order()).is_some_and(|(held, new)| new < held)
    }
}

/// An event on a line.
#[derive(Deserialize)]
struct Line<'a> {
    #[serde(rename = "type")]
    kind: String,
    #[serde(borrow)]
    object: &'a RawValue,
}

fn key(meta: &ObjectMeta) -> (String, String) {
    (meta.namespace.clone(), meta.name.clone())
}

fn cause(error: &Error) -> FailureCause {
    match error {
        Error::Refused { status, .. } if matches!(status.code, 401 | 403 | 429 | 503) => FailureCause::Other,
        Error::Refused { .. } | Error::Answer { .. } | Error::Cut { .. } | Error::TooLarge { .. } => {
            FailureCause::Version
        }
        _ => FailureCause::Other,
    }
}
