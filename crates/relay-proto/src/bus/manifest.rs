//! A file of objects.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{API_VERSION, BusReference, Channel, GenericBus, Kind, Object, Subscription, is_dns_label};

/// The checked objects of a file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Manifest {
    /// Buses of both kinds.
    pub buses: Vec<GenericBus>,
    /// Channels.
    pub channels: Vec<Channel>,
    /// Subscriptions.
    pub subscriptions: Vec<Subscription>,
}

/// Kubernetes' limit of an object's annotations, in bytes.
const MAX_ANNOTATIONS: usize = 256 << 10;

impl Manifest {
    /// Reads the documents of a file: objects, arrays of objects, and lists with `items`, as `kubectl apply` takes
    /// them. An object without a namespace is in `default`.
    ///
    /// # Errors
    /// With the first object that breaks a rule. Then the whole file is refused.
    pub fn from_documents(documents: impl IntoIterator<Item = Value>) -> Result<Self, InvalidManifest> {
        let mut manifest = Self::default();
        let mut seen = BTreeSet::new();
        let mut pending: Vec<Value> = documents.into_iter().collect();
        pending.reverse();
        while let Some(document) = pending.pop() {
            match document {
                Value::Null => {}
                Value::Array(items) => pending.extend(items.into_iter().rev()),
                Value::Object(mut object) if object.get("items").is_some_and(Value::is_array) => {
                    pending.extend(object.remove("items"));
                }
                object => manifest.add(object, &mut seen)?,
            }
        }
        let with_bus = !manifest.buses.is_empty();
        for channel in manifest.channels.iter().filter(|_| with_bus) {
            let rule = match (&channel.spec.bus, &channel.spec.cluster_bus) {
                (Some(_), Some(_)) => "it names both a bus and a clusterBus",
                (None, None) => "it names neither a bus nor a clusterBus",
                _ => continue,
            };
            return Err(InvalidManifest::new(format!("Channel {}", channel.reference()), rule));
        }
        Ok(manifest)
    }

    fn add(&mut self, mut object: Value, seen: &mut BTreeSet<String>) -> Result<(), InvalidManifest> {
        let text = |value: &Value| value.as_str().unwrap_or_default().chars().take(80).collect::<String>();
        let (version, kind) = (text(&object["apiVersion"]), text(&object["kind"]));
        let name = text(&object["metadata"]["name"]);
        let shown = format!("{} {name:?}", if kind.is_empty() { "object" } else { &kind });
        let broken = |rule: &str| InvalidManifest::new(shown.clone(), rule);
        if !object.is_object() {
            return Err(broken("it is no object"));
        }
        let kind = Kind::parse(&kind).filter(|_| version == API_VERSION).ok_or_else(|| {
            broken(&format!(
                "its kind is not known: Bus, ClusterBus, Channel or Subscription of {API_VERSION}"
            ))
        })?;
        if !object["metadata"].is_object() {
            return Err(broken("it has no metadata"));
        }
        if kind.is_namespaced() && object["metadata"]["namespace"].as_str().is_none_or(str::is_empty) {
            if !matches!(object["metadata"]["namespace"], Value::Null | Value::String(_)) {
                return Err(broken("metadata.namespace must be a text"));
            }
            object["metadata"]["namespace"] = "default".into();
        }
        let read = Object::from_value(kind, &object).map_err(|_| broken("it has no name"))?;
        let metadata = read.metadata();
        let named = if kind.is_namespaced() {
            format!("{} {}/{}", kind.as_str(), metadata.namespace, metadata.name)
        } else {
            format!("{} {}", kind.as_str(), metadata.name)
        };
        if !is_dns_label(&metadata.name) {
            return Err(broken("metadata.name must be a DNS-1123 label"));
        }
        if kind.is_namespaced() && !is_dns_label(&metadata.namespace) {
            return Err(broken("metadata.namespace must be a DNS-1123 label"));
        }
        let annotations = object["metadata"]["annotations"].as_object();
        let size: usize =
            annotations.into_iter().flatten().map(|(key, value)| key.len() + value.to_string().len()).sum();
        let broken = |rule: &str| InvalidManifest::new(named.clone(), rule);
        if size > MAX_ANNOTATIONS {
            return Err(broken(&format!("its annotations are over {MAX_ANNOTATIONS} bytes")));
        }
        if let Some(problem) = read.problem() {
            return Err(broken(problem));
        }
        if !seen.insert(named.clone()) {
            return Err(broken("there are two objects of this name"));
        }
        match read {
            Object::Bus(bus) => self.buses.push(bus),
            Object::Channel(channel) => self.channels.push(channel),
            Object::Subscription(subscription) if subscription.spec.channel.is_empty() => {
                return Err(broken("it has no spec.channel"));
            }
            Object::Subscription(subscription) => self.subscriptions.push(subscription),
        }
        Ok(())
    }

    /// The names of the buses.
    pub fn bus_references(&self) -> Vec<BusReference> {
        self.buses.iter().map(GenericBus::reference).collect()
    }
}

/// A file that breaks a rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{object}: {rule}")]
#[non_exhaustive]
pub struct InvalidManifest {
    /// Kind and name of the object.
    pub object: String,
    /// What it breaks.
    pub rule: String,
}

impl InvalidManifest {
    fn new(object: String, rule: impl Into<String>) -> Self {
        Self { object, rule: rule.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn object(kind: &str, name: &str, spec: Value) -> Value {
        json!({"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": name}, "spec": spec})
    }

    #[test]
    fn objects_come_alone_in_arrays_and_in_lists() {
        let list = json!({"apiVersion": "v1", "kind": "List", "items": [object("Channel", "c", json!({"bus": "b"}))]});
        let array = json!([object("Bus", "b", json!({})), object("ClusterBus", "b", json!({}))]);
        let alone = object("Subscription", "s", json!({"channel": "c"}));
        let manifest = Manifest::from_documents([list, Value::Null, array, alone]).unwrap();
        assert_eq!(manifest.channels[0].reference().to_string(), "default/c");
        let buses: Vec<_> = manifest.bus_references().iter().map(ToString::to_string).collect();
        assert_eq!(buses, ["default/b", "b"]);
        assert_eq!(manifest.subscriptions[0].channel().to_string(), "default/c");
    }

    #[test]
    fn a_file_that_breaks_a_rule_is_refused_with_object_and_rule() {
        let bus = || object("Bus", "b", json!({}));
        let mut heavy = object("Channel", "c", json!({"bus": "b"}));
        heavy["metadata"]["annotations"] = json!({"a": "x".repeat(1 << 20)});
        let mut other = object("Channel", "c", json!({"bus": "b"}));
        other["apiVersion"] = "v1".into();
        for (documents, object, rule) in [
            (vec![object("Pod", "p", json!({}))], "Pod \"p\"", "kind is not known"),
            (vec![other], "Channel \"c\"", "kind is not known"),
            (vec![json!(5)], "object", "no object"),
            (vec![bus(), bus()], "Bus default/b", "two objects"),
            (vec![bus(), object("Channel", "c", json!({}))], "Channel default/c", "neither"),
            (
                vec![bus(), object("Channel", "c", json!({"bus": "b", "clusterBus": "b"}))],
                "Channel default/c",
                "both",
            ),
            (vec![object("Subscription", "s", json!({}))], "Subscription default/s", "no spec.channel"),
            (vec![object("Channel", "C_", json!({}))], "Channel \"C_\"", "DNS-1123"),
            (vec![object("Channel", "", json!({}))], "Channel", "no name"),
            (vec![heavy], "Channel default/c", "annotations"),
            (
                vec![object("Channel", "c", json!({"bus": "b", "arguments": [{"name": "a", "value": 1}]}))],
                "Channel default/c",
                "spec.arguments",
            ),
        ] {
            let error = Manifest::from_documents(documents).unwrap_err();
            assert!(error.object.starts_with(object) && error.rule.contains(rule), "{error}");
        }
        let without_bus = [object("Channel", "c", json!({}))];
        assert_eq!(Manifest::from_documents(without_bus).unwrap().channels.len(), 1);
    }
}
