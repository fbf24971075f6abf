//! Types and names of objects in a cluster, and their URL paths.

use std::fmt;

use relay_transport::BaseUrl;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

/// A type of objects: its group, version and plural name, as in the URLs of the API.
///
/// ```
/// use relay_kube::Resource;
/// let pods = Resource::new("", "v1", "pods");
/// assert_eq!(pods.collection(Some("prod")), "api/v1/namespaces/prod/pods");
/// let channels = Resource::new("channels.knative.dev", "v1alpha1", "channels");
/// assert_eq!(channels.collection(None), "apis/channels.knative.dev/v1alpha1/channels");
/// assert_eq!(
///     channels.object(Some("prod"), "orders"),
///     "apis/channels.knative.dev/v1alpha1/namespaces/prod/channels/orders"
/// );
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Resource {
    group: String,
    version: String,
    plural: String,
}

impl Resource {
    /// The core group is the empty text.
    pub fn new(group: impl Into<String>, version: impl Into<String>, plural: impl Into<String>) -> Self {
        Self { group: group.into(), version: version.into(), plural: plural.into() }
    }

    /// The plural name, such as `pods`.
    pub fn plural(&self) -> &str {
        &self.plural
    }

    /// The path of all objects, or of those in a namespace, below the API server's URL.
    pub fn collection(&self, namespace: Option<&str>) -> String {
        let [group, version, plural] =
            [&self.group, &self.version, &self.plural].map(|s| BaseUrl::segment(s));
        let mut path =
            if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") };
        if let Some(namespace) = namespace {
            path = format!("{path}/namespaces/{}", BaseUrl::segment(namespace));
        }
        format!("{path}/{plural}")
    }

    /// The path of one object, below the API server's URL.
    pub fn object(&self, namespace: Option<&str>, name: &str) -> String {
        format!("{}/{}", self.collection(namespace), BaseUrl::segment(name))
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.plural)?;
        if self.group.is_empty() { Ok(()) } else { write!(f, ".{}", self.group) }
    }
}

/// The metadata that identifies an object. Fields that could not be read are empty.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ObjectMeta {
    /// Its namespace; empty for objects of the whole cluster.
    pub namespace: String,
    /// Its name. Without one the object cannot be identified.
    pub name: String,
    /// Its UID: a new object of the same name has a different one.
    pub uid: String,
    /// The version of the cluster at its last change.
    pub resource_version: String,
}

impl ObjectMeta {
    /// Reads the metadata of an object, each field by itself: one that is not a text counts as absent. Never fails;
    /// a value that is not an object has no name.
    pub(crate) fn of(object: &RawValue) -> Self {
        let read: Result<Named, _> = serde_json::from_str(object.get());
        read.ok().and_then(|named| named.metadata).unwrap_or_default().0
    }

    /// The version as a number if it is one: only numbers can be compared.
    pub(crate) fn order(&self) -> Option<u64> {
        self.resource_version.parse().ok()
    }
}

#[derive(Deserialize)]
struct Named {
    metadata: Option<Meta>,
}

#[derive(Default)]
struct Meta(ObjectMeta);

impl<'de> Deserialize<'de> for Meta {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Fields {
            #[serde(default)]
            namespace: Text,
            #[serde(default)]
            name: Text,
            #[serde(default)]
            uid: Text,
            #[serde(default)]
            resource_version: Text,
        }
        let Fields { namespace, name, uid, resource_version } = Fields::deserialize(deserializer)?;
        Ok(Self(ObjectMeta {
            namespace: namespace.0,
            name: name.0,
            uid: uid.0,
            resource_version: resource_version.0,
        }))
    }
}

/// A text; anything else is the empty text.
#[derive(Default)]
struct Text(String);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = <Box<RawValue>>::deserialize(deserializer)?;
        Ok(Self(serde_json::from_str(raw.get()).unwrap_or_default()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta(json: &str) -> ObjectMeta {
        ObjectMeta::of(serde_json::from_str(json).unwrap())
    }

    #[test]
    fn each_field_is_read_by_itself() {
        let whole = meta(
            r#"{"spec":[1],"metadata":{"managedFields":[{}],"namespace":"n","name":"a","uid":"u","resourceVersion":"7"}}"#,
        );
        assert_eq!((&*whole.namespace, &*whole.name, &*whole.uid), ("n", "a", "u"));
        assert_eq!(whole.order(), Some(7));
        let odd = meta(r#"{"metadata":{"name":"a","uid":null,"namespace":7,"resourceVersion":["7"]}}"#);
        assert_eq!((&*odd.namespace, &*odd.name, &*odd.uid, odd.order()), ("", "a", "", None));
        for none in ["{}", "7", "null", "[]", r#"{"metadata":null}"#, r#"{"metadata":"a"}"#] {
            assert_eq!(meta(none), ObjectMeta::default(), "{none}");
        }
    }

    #[test]
    fn names_cannot_lead_elsewhere() {
        let pods = Resource::new("", "v1", "pods");
        assert_eq!(pods.object(Some("a/b"), ".."), "api/v1/namespaces/a%2Fb/pods/%2E%2E");
    }
}
