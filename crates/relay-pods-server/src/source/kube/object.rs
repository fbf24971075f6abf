//! A pod as the API server sends it, read by relay's own tolerant reader.

use std::borrow::Cow;

use kube::core::{NamespaceResourceScope, ObjectMeta, Resource};
use relay_proto::pods::Pod;
use serde::{Deserialize, Deserializer, de};

/// One item of a list or event of a watch.
///
/// Reading it never fails for what is inside: an object that is no pod must not stop a watch that would meet it again
/// on every attempt.
#[derive(Debug, Clone)]
pub(super) struct PodObject {
    /// The version alone; kube asks for the type.
    metadata: ObjectMeta,
    pod: Option<Pod>,
}

impl PodObject {
    /// The version of the cluster in which the object became what it is.
    pub(super) fn resource_version(&self) -> Option<String> {
        self.metadata.resource_version.clone()
    }

    /// The pod, unless it could not be read.
    pub(super) fn into_pod(self) -> Option<Pod> {
        self.pod
    }
}

impl<'de> Deserialize<'de> for PodObject {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let object = serde_json::Value::deserialize(deserializer)?;
        let metadata = object.get("metadata").ok_or_else(|| de::Error::missing_field("metadata"))?;
        let text = |field: &str| metadata.get(field).and_then(serde_json::Value::as_str).map(str::to_owned);
        let resource_version = text("resourceVersion");
        let name = text("name").unwrap_or_default();
        let pod = Pod::deserialize(&object)
            .inspect_err(
                |error| tracing::warn!(name, %error, "skipping an object of the API server that is no pod"),
            )
            .ok();
        Ok(Self { metadata: ObjectMeta { resource_version, ..ObjectMeta::default() }, pod })
    }
}

impl Resource for PodObject {
    type DynamicType = ();
    type Scope = NamespaceResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        "Pod".into()
    }

    fn group((): &()) -> Cow<'_, str> {
        "".into()
    }

    fn version((): &()) -> Cow<'_, str> {
        "v1".into()
    }

    fn plural((): &()) -> Cow<'_, str> {
        "pods".into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}
