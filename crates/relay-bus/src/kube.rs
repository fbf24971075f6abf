//! The cluster: three lists and watches, and writes.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::stream::{self, BoxStream, StreamExt};
use relay_kube::{Error, KubeClient, Resource, Watcher};
use relay_proto::bus::{API_VERSION, BusReference, GROUP, Kind, Object, VERSION};
use relay_proto::time::Timestamp;
use relay_state::bus::{Key, Note, Patch, Write, Written};
use serde_json::{Value, json};

/// An input from a cluster or file.
#[derive(Debug)]
pub(crate) enum Input {
    /// All objects of a kind; `kept` are names and namespaces of those that could not be read.
    List {
        kind: Kind,
        objects: Vec<Object>,
        kept: Vec<(String, String)>,
    },
    Applied(Object),
    Deleted {
        kind: Kind,
        name: String,
        namespace: String,
    },
    /// The file changed; its lists came before this.
    Changed,
    /// The file changed and cannot be used.
    Refused(String),
    /// Whether changes of this kind are received; if not, the reason.
    State(Kind, Option<String>),
}

fn resource(kind: Kind) -> Resource {
    Resource::new(GROUP, VERSION, kind.plural())
}

/// Follows a bus, its channels and subscriptions. For a Bus only its own namespace is watched.
pub(crate) fn follow(client: &KubeClient, bus: &BusReference) -> BoxStream<'static, Vec<Input>> {
    let of_bus = if bus.is_namespaced() { Kind::Bus } else { Kind::ClusterBus };
    let watches = [of_bus, Kind::Channel, Kind::Subscription].map(|kind| {
        let watcher: Watcher<Value> = Watcher::new(client.clone(), resource(kind));
        let watcher = watcher.namespace(bus.namespace());
        watcher.into_stream().map(move |event| inputs(kind, event)).boxed()
    });
    stream::select_all(watches).boxed()
}

fn inputs(kind: Kind, event: relay_kube::Event<Value>) -> Vec<Input> {
    use relay_kube::Event;
    let read = |object: &relay_kube::Object<Value>| {
        object.value.as_ref().and_then(|value| Object::from_value(kind, value).ok())
    };
    match event {
        Event::Listed { objects, kept, .. } => {
            let kept = kept.into_iter().map(|meta| (meta.name, meta.namespace)).collect();
            vec![Input::List { kind, objects: objects.iter().filter_map(read).collect(), kept }]
        }
        Event::Applied(object) => read(&object).map(Input::Applied).into_iter().collect(),
        Event::Deleted(object) => {
            vec![Input::Deleted { kind, name: object.meta.name, namespace: object.meta.namespace }]
        }
        Event::Live => vec![Input::State(kind, None)],
        Event::Interrupted(interruption) => vec![Input::State(kind, Some(interruption.reason))],
        _ => Vec::new(),
    }
}

/// Writes to the objects of a cluster.
#[derive(Debug, Clone)]
pub(crate) struct Writer {
    client: KubeClient,
    /// The reporter of events: `BUS-COMPONENT`.
    reporter: String,
    /// Kinds without a status subresource: channels, subscriptions.
    plain: Arc<[AtomicBool; 2]>,
    failing: Arc<Mutex<Failing>>,
    notes_failing: Arc<AtomicBool>,
}

/// Objects whose last write failed: each kind of failure is logged once, until all writes succeed again.
#[derive(Debug, Default)]
struct Failing {
    objects: BTreeSet<Key>,
    told: BTreeSet<Option<u16>>,
}

impl Failing {
    /// Whether this failure should be logged.
    fn failed(&mut self, object: &Key, code: Option<u16>) -> bool {
        self.objects.insert(object.clone());
        self.told.insert(code)
    }

    /// Notes that the object was written or is gone. Returns whether it was the last one with a failed write.
    fn settled(&mut self, object: &Key) -> bool {
        let last = self.objects.remove(object) && self.objects.is_empty();
        if last {
            self.told.clear();
        }
        last
    }
}

impl Writer {
    pub(crate) fn new(client: KubeClient, reporter: String) -> Self {
        let (plain, failing, notes_failing) = Default::default();
        Self { client, reporter, plain, failing, notes_failing }
    }

    /// Makes one write or read.
    pub(crate) async fn write(&self, write: Write) -> Written {
        let (kind, name, namespace) = match &write.key {
            Key::Channel(channel) => (Kind::Channel, channel.name(), channel.namespace()),
            Key::Subscription(key) => (Kind::Subscription, key.name(), key.namespace()),
            _ => return Written::Gone,
        };
        let (resource, namespace) = (resource(kind), Some(namespace));
        let result: Result<Value, Error> = match &write.patch {
            Patch::Read => self.client.get(&resource, namespace, name).await,
            Patch::Finalizers { resource_version, finalizers } => {
                let finalizers: Vec<&str> = finalizers.iter().map(|finalizer| &**finalizer).collect();
                let patch =
                    json!({"metadata": {"resourceVersion": &**resource_version, "finalizers": finalizers}});
                self.client.merge_patch(&resource, namespace, name, &patch).await
            }
            Patch::Conditions { resource_version, conditions } => {
                let patch = json!({
                    "metadata": {"resourceVersion": &**resource_version},
                    "status": {"conditions": conditions},
                });
                self.conditions(kind, &resource, namespace, name, &patch).await
            }
            _ => return Written::Gone,
        };
        let is_read = matches!(write.patch, Patch::Read);
        let mut failing = self.failing.lock().unwrap_or_else(PoisonError::into_inner);
        let error = match result {
            Ok(object) => {
                if !is_read && failing.settled(&write.key) {
                    tracing::warn!("objects can be written again");
                }
                return Object::from_value(kind, &object)
                    .map_or(Written::Failed, |object| Written::Object(Box::new(object)));
            }
            Err(error) => error,
        };
        let code = error.status().map(|status| status.code);
        match code {
            Some(404) => {
                failing.settled(&write.key);
                return Written::Gone;
            }
            Some(409) => return Written::Conflict,
            _ => {}
        }
        if failing.failed(&write.key, code) {
            tracing::warn!(object = %write.key, error = error.line(), "an object cannot be written");
        }
        error.retry_after().map_or(Written::Failed, Written::Later)
    }

    async fn conditions(
        &self,
        kind: Kind,
        resource: &Resource,
        namespace: Option<&str>,
        name: &str,
        patch: &Value,
    ) -> Result<Value, Error> {
        let plain = &self.plain[usize::from(kind == Kind::Subscription)];
        if !plain.load(Ordering::Acquire) {
            let written = self.client.merge_patch_status(resource, namespace, name, patch).await;
            if written.as_ref().err().and_then(Error::status).is_none_or(|status| status.code != 404) {
                return written;
            }
            // Either the object or the path does not exist. Reading the object tells which.
            self.client.get::<Value>(resource, namespace, name).await?;
            plain.store(true, Ordering::Release);
        }
        self.client.merge_patch(resource, namespace, name, patch).await
    }

    /// Sends an event. A failure is only logged.
    pub(crate) async fn note(&self, note: Note) {
        let namespace = if note.namespace.is_empty() { "default" } else { &*note.namespace };
        let unix = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let time = Timestamp::from_unix_millis((unix.as_secs() * 1000) as i64);
        let unique = format!("{}.{:016x}", note.name, getrandom::u64().unwrap_or(unix.as_nanos() as u64));
        let object = json!({
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": unique, "namespace": namespace},
            "involvedObject": {
                "apiVersion": API_VERSION,
                "kind": note.kind.as_str(),
                "name": &*note.name,
                "namespace": &*note.namespace,
                "uid": &*note.uid,
            },
            "reason": note.reason,
            "message": note.message.chars().take(1024).collect::<String>(),
            "type": if note.warning { "Warning" } else { "Normal" },
            "source": {"component": self.reporter},
            "reportingComponent": self.reporter,
            "reportingInstance": "",
            "firstTimestamp": time.as_str(),
            "lastTimestamp": time.as_str(),
            "count": 1,
        });
        let sent: Result<Value, Error> =
            self.client.create(&Resource::new("", "v1", "events"), Some(namespace), &object).await;
        match sent {
            Ok(_) => self.notes_failing.store(false, Ordering::Release),
            Err(error) if !self.notes_failing.swap(true, Ordering::AcqRel) => {
                tracing::warn!(error = error.line(), "an event cannot be sent");
            }
            Err(error) => tracing::debug!(error = error.line(), "an event cannot be sent"),
        }
    }
}
