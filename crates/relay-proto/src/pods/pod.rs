//! The pod itself: opaque, cheap to clone, read tolerantly and written in one shape.

use std::fmt;
use std::sync::Arc;

use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::kubernetes;

/// A pod as a relay describes it. Cheap to clone (one reference count); accessors only, so that its representation
/// may change.
///
/// `Serialize` writes the flat shape of `docs/protocol.md` with every field present; `Deserialize` also takes
/// `camelCase` names and whole Kubernetes objects (`metadata` / `spec` / `status`).
#[derive(Clone, PartialEq, Eq)]
pub struct Pod(Arc<Fields>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Fields {
    key: PodKey,
    uid: Option<Box<str>>,
    resource_version: Option<Box<str>>,
    labels: Vec<(Box<str>, Box<str>)>,
    annotations: Vec<(Box<str>, Box<str>)>,
    phase: Option<Box<str>>,
    ready: bool,
    node_name: Option<Box<str>>,
    pod_ip: Option<Box<str>>,
    host_ip: Option<Box<str>>,
    created_at: Option<Timestamp>,
    started_at: Option<Timestamp>,
    deleted_at: Option<Timestamp>,
    reason: Option<Box<str>>,
    message: Option<Box<str>>,
    owner: Option<Owner>,
    containers: Vec<Container>,
}

impl Pod {
    /// Reads a pod from JSON, flat or as a Kubernetes object.
    ///
    /// # Errors
    /// When the text is not JSON, a known field has the wrong type, or namespace or name is missing.
    pub fn from_json(json: &str) -> Result<Self, InvalidPod> {
        serde_json::from_str(json).map_err(|source| InvalidPod { source })
    }

    /// Namespace and name.
    pub fn key(&self) -> &PodKey {
        &self.0.key
    }

    /// The namespace.
    pub fn namespace(&self) -> &str {
        self.0.key.namespace()
    }

    /// The name, unique within the namespace at one time.
    pub fn name(&self) -> &str {
        self.0.key.name()
    }

    /// Kubernetes' unique id: tells a pod from its successor of the same name.
    pub fn uid(&self) -> Option<&str> {
        self.0.uid.as_deref()
    }

    /// Kubernetes' opaque version.
    pub fn resource_version(&self) -> Option<&str> {
        self.0.resource_version.as_deref()
    }

    /// The value of one label.
    pub fn label(&self, key: &str) -> Option<&str> {
        look_up(&self.0.labels, key)
    }

    /// All labels, sorted by key.
    pub fn labels(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        self.0.labels.iter().map(|(k, v)| (&**k, &**v))
    }

    /// The value of one annotation. A relay publishes only annotations on its allow-list.
    pub fn annotation(&self, key: &str) -> Option<&str> {
        look_up(&self.0.annotations, key)
    }

    /// All published annotations, sorted by key.
    pub fn annotations(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        self.0.annotations.iter().map(|(k, v)| (&**k, &**v))
    }

    /// `Pending`, `Running`, `Succeeded`, `Failed` or `Unknown`.
    pub fn phase(&self) -> Option<&str> {
        self.0.phase.as_deref()
    }

    /// Whether the pod's `Ready` condition holds; false when unknown.
    pub fn ready(&self) -> bool {
        self.0.ready
    }

    /// The node it was scheduled to.
    pub fn node_name(&self) -> Option<&str> {
        self.0.node_name.as_deref()
    }

    /// The pod's address.
    pub fn pod_ip(&self) -> Option<&str> {
        self.0.pod_ip.as_deref()
    }

    /// The node's address.
    pub fn host_ip(&self) -> Option<&str> {
        self.0.host_ip.as_deref()
    }

    /// When the object was created.
    pub fn created_at(&self) -> Option<&Timestamp> {
        self.0.created_at.as_ref()
    }

    /// When the kubelet took the pod.
    pub fn started_at(&self) -> Option<&Timestamp> {
        self.0.started_at.as_ref()
    }

    /// When deletion was asked for; a pod with this set still exists.
    pub fn deleted_at(&self) -> Option<&Timestamp> {
        self.0.deleted_at.as_ref()
    }

    /// A short machine-readable reason of the phase, such as `Evicted`.
    pub fn reason(&self) -> Option<&str> {
        self.0.reason.as_deref()
    }

    /// A human-readable message of the phase.
    pub fn message(&self) -> Option<&str> {
        self.0.message.as_deref()
    }

    /// The controlling owner.
    pub fn owner(&self) -> Option<&Owner> {
        self.0.owner.as_ref()
    }

    /// The containers, in the order of the pod's specification.
    pub fn containers(&self) -> &[Container] {
        &self.0.containers
    }

    /// A builder that begins with this pod's fields.
    pub fn to_builder(&self) -> PodBuilder {
        PodBuilder((*self.0).clone())
    }
}

impl fmt::Debug for Pod {
    /// Names the pod and its version; the rest may hold what does not belong into logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pod({} {:?})", self.0.key, self.0.resource_version.as_deref().unwrap_or(""))
    }
}

fn look_up<'a>(pairs: &'a [(Box<str>, Box<str>)], key: &str) -> Option<&'a str> {
    pairs.binary_search_by(|(k, _)| (**k).cmp(key)).ok().map(|at| &*pairs[at].1)
}

/// Namespace and name of a pod, ordered by namespace, then name. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PodKey {
    /// `namespace NUL name`: NUL sorts below every other byte, so the text's order is that of the pair.
    joined: Arc<str>,
    split: u32,
}

impl PodKey {
    /// Joins a namespace and a name. NUL characters, which Kubernetes names cannot have, become U+FFFD.
    pub fn new(namespace: &str, name: &str) -> Self {
        let clean = |part: &str| part.replace('\0', "\u{fffd}");
        let namespace = clean(namespace);
        let split = u32::try_from(namespace.len()).expect("a name of 4 GiB does not fit a message");
        Self { joined: format!("{namespace}\0{}", clean(name)).into(), split }
    }

    /// The namespace.
    pub fn namespace(&self) -> &str {
        &self.joined[..self.split as usize]
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.joined[self.split as usize + 1..]
    }
}

impl fmt::Debug for PodKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PodKey({self})")
    }
}

impl fmt::Display for PodKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace(), self.name())
    }
}

/// A point in time as the relay wrote it, RFC 3339. Kept as text, so that nothing is lost in passing it on.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(Box<str>);

impl Timestamp {
    /// Takes a text as it is; [`Self::unix_millis`] tells whether it is a time.
    pub fn new(text: &str) -> Self {
        Self(text.into())
    }

    /// The RFC 3339 text of a number of milliseconds since 1970-01-01T00:00:00Z, in UTC with millisecond precision
    /// where there are any. Out-of-range values are clamped to the years -9999 to 9999.
    pub fn from_unix_millis(millis: i64) -> Self {
        let time = jiff::Timestamp::from_millisecond(millis).unwrap_or(if millis < 0 {
            jiff::Timestamp::MIN
        } else {
            jiff::Timestamp::MAX
        });
        Self(time.to_string().into())
    }

    /// The text as on the wire.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Milliseconds since 1970-01-01T00:00:00Z; `None` when the text is not RFC 3339.
    pub fn unix_millis(&self) -> Option<i64> {
        self.0.parse::<jiff::Timestamp>().ok().map(|time| time.as_millisecond())
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The object that controls a pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// Its kind, such as `ReplicaSet`.
    pub kind: String,
    /// Its name.
    pub name: String,
}

/// One container of a pod.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Container {
    /// Its name within the pod.
    pub name: String,
    /// The image it runs.
    pub image: Option<String>,
    /// Whether its readiness probe holds.
    pub ready: bool,
    /// How often it was restarted.
    #[serde(alias = "restartCount")]
    pub restart_count: u32,
    /// `waiting`, `running` or `terminated`.
    pub state: Option<String>,
    /// Why it waits or ended, such as `CrashLoopBackOff`.
    pub reason: Option<String>,
    /// Its last exit code.
    #[serde(alias = "exitCode")]
    pub exit_code: Option<i32>,
}

/// Builds a [`Pod`] field by field: for servers and tests.
#[derive(Debug, Clone)]
pub struct PodBuilder(Fields);

macro_rules! optional_text {
    ($($(#[$doc:meta])* $field:ident)*) => { $(
        $(#[$doc])*
        #[must_use]
        pub fn $field(mut self, value: Option<&str>) -> Self {
            self.0.$field = value.map(Into::into);
            self
        }
    )* };
}

macro_rules! optional_time {
    ($($(#[$doc:meta])* $field:ident)*) => { $(
        $(#[$doc])*
        #[must_use]
        pub fn $field(mut self, value: Option<Timestamp>) -> Self {
            self.0.$field = value;
            self
        }
    )* };
}

impl PodBuilder {
    /// A pod with nothing but its name.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self(Fields {
            key: PodKey::new(namespace, name),
            uid: None,
            resource_version: None,
            labels: Vec::new(),
            annotations: Vec::new(),
            phase: None,
            ready: false,
            node_name: None,
            pod_ip: None,
            host_ip: None,
            created_at: None,
            started_at: None,
            deleted_at: None,
            reason: None,
            message: None,
            owner: None,
            containers: Vec::new(),
        })
    }

    /// The finished pod.
    pub fn build(self) -> Pod {
        Pod(Arc::new(self.0))
    }

    optional_text! {
        /// Sets the unique id.
        uid
        /// Sets the version.
        resource_version
        /// Sets the phase.
        phase
        /// Sets the node.
        node_name
        /// Sets the pod's address.
        pod_ip
        /// Sets the node's address.
        host_ip
        /// Sets the reason of the phase.
        reason
        /// Sets the message of the phase.
        message
    }

    optional_time! {
        /// Sets the creation time.
        created_at
        /// Sets the start time.
        started_at
        /// Sets the deletion time.
        deleted_at
    }

    /// Sets whether the pod is ready.
    #[must_use]
    pub fn ready(mut self, ready: bool) -> Self {
        self.0.ready = ready;
        self
    }

    /// Sets one label, replacing a former value.
    #[must_use]
    pub fn label(mut self, key: &str, value: &str) -> Self {
        insert(&mut self.0.labels, key, value);
        self
    }

    /// Replaces all labels.
    #[must_use]
    pub fn labels<K: AsRef<str>, V: AsRef<str>>(mut self, labels: impl IntoIterator<Item = (K, V)>) -> Self {
        self.0.labels.clear();
        for (key, value) in labels {
            insert(&mut self.0.labels, key.as_ref(), value.as_ref());
        }
        self
    }

    /// Replaces all annotations.
    #[must_use]
    pub fn annotations<K: AsRef<str>, V: AsRef<str>>(
        mut self,
        annotations: impl IntoIterator<Item = (K, V)>,
    ) -> Self {
        self.0.annotations.clear();
        for (key, value) in annotations {
            insert(&mut self.0.annotations, key.as_ref(), value.as_ref());
        }
        self
    }

    /// Keeps only the annotations whose key passes.
    #[must_use]
    pub fn retain_annotations(mut self, keep: impl Fn(&str) -> bool) -> Self {
        self.0.annotations.retain(|(key, _)| keep(key));
        self
    }

    /// Sets the owner.
    #[must_use]
    pub fn owner(mut self, owner: Option<Owner>) -> Self {
        self.0.owner = owner;
        self
    }

    /// Sets the containers.
    #[must_use]
    pub fn containers(mut self, containers: Vec<Container>) -> Self {
        self.0.containers = containers;
        self
    }
}

fn insert(pairs: &mut Vec<(Box<str>, Box<str>)>, key: &str, value: &str) {
    match pairs.binary_search_by(|(k, _)| (**k).cmp(key)) {
        Ok(at) => pairs[at].1 = value.into(),
        Err(at) => pairs.insert(at, (key.into(), value.into())),
    }
}

/// Text that is not a pod.
#[derive(Debug, thiserror::Error)]
#[error("not a pod: {source}")]
pub struct InvalidPod {
    source: serde_json::Error,
}

impl<'de> Deserialize<'de> for Pod {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        kubernetes::WirePod::deserialize(deserializer)?.into_pod().map_err(serde::de::Error::custom)
    }
}

impl Serialize for Pod {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Fields { key, uid, resource_version, labels, annotations, phase, ready, node_name, .. } =
            &*self.0;
        let mut map = serializer.serialize_map(Some(18))?;
        map.serialize_entry("namespace", key.namespace())?;
        map.serialize_entry("name", key.name())?;
        map.serialize_entry("uid", uid)?;
        map.serialize_entry("resource_version", resource_version)?;
        map.serialize_entry("labels", &Pairs(labels))?;
        map.serialize_entry("annotations", &Pairs(annotations))?;
        map.serialize_entry("phase", phase)?;
        map.serialize_entry("ready", ready)?;
        map.serialize_entry("node_name", node_name)?;
        map.serialize_entry("pod_ip", &self.0.pod_ip)?;
        map.serialize_entry("host_ip", &self.0.host_ip)?;
        map.serialize_entry("created_at", &self.0.created_at)?;
        map.serialize_entry("started_at", &self.0.started_at)?;
        map.serialize_entry("deleted_at", &self.0.deleted_at)?;
        map.serialize_entry("reason", &self.0.reason)?;
        map.serialize_entry("message", &self.0.message)?;
        map.serialize_entry("owner", &self.0.owner)?;
        map.serialize_entry("containers", &self.0.containers)?;
        map.end()
    }
}

struct Pairs<'a>(&'a [(Box<str>, Box<str>)]);

impl Serialize for Pairs<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(k, v)| (k, v)))
    }
}
