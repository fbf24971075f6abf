//! Makes pods and their JSON.

use std::fmt;

use serde::{Serialize, Serializer};

use super::PodKey;
use super::pod::{Container, Owner, Pod};
use super::status::{self, Printed};
use crate::time::Timestamp;

/// Builds a [`Pod`] field by field: for servers and tests.
#[derive(Clone)]
pub struct PodBuilder(pub(super) Fields);

#[derive(Clone)]
pub(super) struct Fields {
    pub(super) key: PodKey,
    pub(super) uid: Option<Box<str>>,
    pub(super) resource_version: Option<Box<str>>,
    pub(super) labels: Vec<(Box<str>, Box<str>)>,
    pub(super) annotations: Vec<(Box<str>, Box<str>)>,
    pub(super) phase: Option<Box<str>>,
    pub(super) ready: bool,
    pub(super) node_name: Option<Box<str>>,
    pub(super) pod_ip: Option<Box<str>>,
    pub(super) host_ip: Option<Box<str>>,
    pub(super) created_at: Option<Timestamp>,
    pub(super) started_at: Option<Timestamp>,
    pub(super) deleted_at: Option<Timestamp>,
    pub(super) reason: Option<Box<str>>,
    pub(super) message: Option<Box<str>>,
    pub(super) owner: Option<Owner>,
    pub(super) containers: Vec<Container>,
    /// What is printed, unless the fields above tell.
    pub(super) printed: Option<Printed>,
}

macro_rules! optional_text {
    ($($(#[$doc:meta])* $field:ident)*) => { $(
        $(#[$doc])*
        #[must_use]
        pub fn $field(mut self, value: Option<&str>) -> Self {
            self.0.$field = value.map(Into::into);
            self.told_by_fields(stringify!($field))
        }
    )* };
}

macro_rules! optional_time {
    ($($(#[$doc:meta])* $field:ident)*) => { $(
        $(#[$doc])*
        #[must_use]
        pub fn $field(mut self, value: Option<Timestamp>) -> Self {
            self.0.$field = value;
            self.told_by_fields(stringify!($field))
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
            printed: None,
        })
    }

    /// The finished pod. Its JSON is written here, once.
    ///
    /// # Panics
    /// When its JSON is 4 GiB or more.
    pub fn build(self) -> Pod {
        self.try_build().expect("a pod of 4 GiB does not fit a message")
    }

    /// `None` when the JSON is 4 GiB or more.
    pub(super) fn try_build(self) -> Option<Pod> {
        let json = serde_json::to_string(&self.0.flat()).expect("a pod is always representable as JSON");
        Pod::built(self.0.key, &json)
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

    /// Sets whether the pod is ready. One with a deletion time is not, whatever is set here.
    #[must_use]
    pub fn ready(mut self, ready: bool) -> Self {
        self.0.ready = ready;
        self.told_by_fields("ready")
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
        self.told_by_fields("containers")
    }

    /// What the fields tell of how the pod is printed.
    pub(super) fn flat_status(&self) -> status::Flat<'_> {
        let pod = &self.0;
        status::Flat {
            phase: pod.phase.as_deref(),
            reason: pod.reason.as_deref(),
            ready: pod.ready && pod.deleted_at.is_none(),
            deleting: pod.deleted_at.is_some(),
            containers: &pod.containers,
        }
    }

    /// Sets what is printed, where the other fields would tell otherwise.
    pub(super) fn printed(mut self, printed: Option<Printed>) -> Self {
        self.0.printed = printed;
        self
    }

    /// After a change of what is printed, the fields alone tell it.
    fn told_by_fields(mut self, changed: &str) -> Self {
        if matches!(changed, "phase" | "reason" | "ready" | "deleted_at" | "containers") {
            self.0.printed = None;
        }
        self
    }
}

fn insert(pairs: &mut Vec<(Box<str>, Box<str>)>, key: &str, value: &str) {
    match pairs.binary_search_by(|(k, _)| (**k).cmp(key)) {
        Ok(at) => pairs[at].1 = value.into(),
        Err(at) => pairs.insert(at, (key.into(), value.into())),
    }
}

impl fmt::Debug for PodBuilder {
    /// Names the pod; the rest may hold what does not belong into logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PodBuilder({})", self.0.key)
    }
}

impl Fields {
    fn flat(
        &self,
    ) -> Flat<'_, impl Iterator<Item = (&str, &str)> + Clone, impl Iterator<Item = (&str, &str)> + Clone>
    {
        fn pairs(pairs: &[(Box<str>, Box<str>)]) -> impl Iterator<Item = (&str, &str)> + Clone {
            pairs.iter().map(|(key, value)| (&**key, &**value))
        }
        Flat {
            namespace: self.key.namespace(),
            name: self.key.name(),
            uid: self.uid.as_deref(),
            resource_version: self.resource_version.as_deref(),
            labels: pairs(&self.labels),
            annotations: pairs(&self.annotations),
            phase: self.phase.as_deref(),
            ready: self.ready && self.deleted_at.is_none(),
            node_name: self.node_name.as_deref(),
            pod_ip: self.pod_ip.as_deref(),
            host_ip: self.host_ip.as_deref(),
            created_at: self.created_at.as_ref().map(Timestamp::as_str),
            started_at: self.started_at.as_ref().map(Timestamp::as_str),
            deleted_at: self.deleted_at.as_ref().map(Timestamp::as_str),
            reason: self.reason.as_deref(),
            message: self.message.as_deref(),
            owner: self.owner.as_ref(),
            containers: &self.containers,
            printed: self.printed.as_ref(),
        }
    }
}

/// The flat shape, with every field present but the last: what a pod is written as.
#[derive(Serialize)]
pub(super) struct Flat<
    'a,
    L: Iterator<Item = (&'a str, &'a str)> + Clone,
    A: Iterator<Item = (&'a str, &'a str)> + Clone,
> {
    pub(super) namespace: &'a str,
    pub(super) name: &'a str,
    pub(super) uid: Option<&'a str>,
    pub(super) resource_version: Option<&'a str>,
    #[serde(serialize_with = "map")]
    pub(super) labels: L,
    #[serde(serialize_with = "map")]
    pub(super) annotations: A,
    pub(super) phase: Option<&'a str>,
    pub(super) ready: bool,
    pub(super) node_name: Option<&'a str>,
    pub(super) pod_ip: Option<&'a str>,
    pub(super) host_ip: Option<&'a str>,
    pub(super) created_at: Option<&'a str>,
    pub(super) started_at: Option<&'a str>,
    pub(super) deleted_at: Option<&'a str>,
    pub(super) reason: Option<&'a str>,
    pub(super) message: Option<&'a str>,
    pub(super) owner: Option<&'a Owner>,
    pub(super) containers: &'a [Container],
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) printed: Option<&'a Printed>,
}

fn map<'a, S: Serializer>(
    pairs: &(impl Iterator<Item = (&'a str, &'a str)> + Clone),
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_map(pairs.clone())
}
