//! The four kinds of objects: Bus, ClusterBus, Channel, Subscription.

use std::sync::Arc;

use bytestring::ByteString;
use serde_json::Value;

use super::{Argument, BusReference, ChannelReference, Conditions, Parameter, SubscriptionReference};

/// The API group.
pub const GROUP: &str = "channels.knative.dev";
/// Its version.
pub const VERSION: &str = "v1alpha1";
/// Both, as in `apiVersion`.
pub const API_VERSION: &str = "channels.knative.dev/v1alpha1";

/// The kinds of objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// A bus for the channels of its namespace.
    Bus,
    /// A bus for the channels of all namespaces.
    ClusterBus,
    /// A channel.
    Channel,
    /// A subscription to a channel.
    Subscription,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 4] = [Self::Bus, Self::ClusterBus, Self::Channel, Self::Subscription];

    /// The name, as in `kind`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bus => "Bus",
            Self::ClusterBus => "ClusterBus",
            Self::Channel => "Channel",
            Self::Subscription => "Subscription",
        }
    }

    /// The name in paths.
    pub fn plural(self) -> &'static str {
        match self {
            Self::Bus => "buses",
            Self::ClusterBus => "clusterbuses",
            Self::Channel => "channels",
            Self::Subscription => "subscriptions",
        }
    }

    /// Whether objects of the kind are in a namespace.
    pub fn is_namespaced(self) -> bool {
        self != Self::ClusterBus
    }

    /// The kind of this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }
}

/// Metadata of every object, without labels and annotations.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Metadata {
    /// The namespace; empty for a ClusterBus.
    pub namespace: ByteString,
    /// The name.
    pub name: ByteString,
    /// The UID: a new object of the same name has another. Empty in files.
    pub uid: ByteString,
    /// The version; empty in files.
    pub resource_version: ByteString,
    /// Whether it has a `deletionTimestamp`.
    pub deleting: bool,
    /// Its finalizers.
    pub finalizers: Vec<ByteString>,
}

/// A channel object.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Channel {
    /// Name, namespace, identity.
    pub metadata: Metadata,
    /// What it asks for.
    pub spec: Arc<ChannelSpec>,
    /// The conditions in its status.
    pub conditions: Conditions,
}

/// The spec of a channel.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ChannelSpec {
    /// Its Bus, in the same namespace.
    pub bus: Option<ByteString>,
    /// Its ClusterBus.
    pub cluster_bus: Option<ByteString>,
    /// Values for the parameters that the bus declares for channels.
    pub arguments: Vec<Argument>,
    /// The rule that the spec breaks, if it does; what could be read of it is above.
    pub problem: Option<String>,
    text: Box<str>,
}

/// A subscription object.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Subscription {
    /// Name, namespace, identity.
    pub metadata: Metadata,
    /// What it asks for.
    pub spec: Arc<SubscriptionSpec>,
    /// The conditions in its status.
    pub conditions: Conditions,
}

/// The spec of a subscription.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SubscriptionSpec {
    /// The channel, in the subscription's namespace.
    pub channel: ByteString,
    /// The destination of messages; without one they go to `reply_to`.
    pub subscriber: Option<String>,
    /// The destination of the subscriber's replies.
    pub reply_to: Option<String>,
    /// Values for the parameters that the bus declares for subscriptions.
    pub arguments: Vec<Argument>,
    /// The rule that the spec breaks, if it does; what could be read of it is above.
    pub problem: Option<String>,
    text: Box<str>,
}

/// The spec of a bus.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BusSpec {
    /// Parameters of channels.
    pub channel_parameters: Vec<Parameter>,
    /// Parameters of subscriptions.
    pub subscription_parameters: Vec<Parameter>,
    /// The rule that the spec breaks, if it does; what could be read of it is above.
    pub problem: Option<String>,
    text: Box<str>,
}

macro_rules! text {
    ($($kind:ident)*) => { $(impl $kind {
        /// The spec as it is in the object, as JSON with sorted keys. Two specs are equal when their texts are.
        pub fn text(&self) -> &str {
            &self.text
        }

        /// The spec as it is in the object.
        pub fn as_value(&self) -> Value {
            serde_json::from_str(&self.text).unwrap_or_default()
        }
    })* };
}

text! { BusSpec ChannelSpec SubscriptionSpec }

/// A bus of either kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GenericBus {
    /// A Bus.
    Bus {
        /// Name, namespace, identity.
        metadata: Metadata,
        /// What it declares.
        spec: Arc<BusSpec>,
    },
    /// A ClusterBus.
    ClusterBus {
        /// Name and identity.
        metadata: Metadata,
        /// What it declares.
        spec: Arc<BusSpec>,
    },
}

impl GenericBus {
    /// What it declares.
    pub fn spec(&self) -> &Arc<BusSpec> {
        match self {
            Self::Bus { spec, .. } | Self::ClusterBus { spec, .. } => spec,
        }
    }

    /// Name, namespace, identity.
    pub fn metadata(&self) -> &Metadata {
        match self {
            Self::Bus { metadata, .. } | Self::ClusterBus { metadata, .. } => metadata,
        }
    }

    /// Its name.
    pub fn reference(&self) -> BusReference {
        match self {
            Self::Bus { metadata, .. } => {
                BusReference::new(metadata.name.clone(), metadata.namespace.clone())
            }
            Self::ClusterBus { metadata, .. } => BusReference::cluster(metadata.name.clone()),
        }
    }

    /// Whether this channel belongs to this bus.
    pub fn backs_channel(&self, channel: &Channel) -> bool {
        channel.is_backed_by(&self.reference())
    }
}

impl Channel {
    /// Its name.
    pub fn reference(&self) -> ChannelReference {
        ChannelReference::new(self.metadata.name.clone(), self.metadata.namespace.clone())
    }

    /// The bus that it names; `None` when it names both kinds, or none.
    pub fn bus(&self) -> Option<BusReference> {
        match (&self.spec.bus, &self.spec.cluster_bus) {
            (Some(bus), None) => Some(BusReference::new(bus.clone(), self.metadata.namespace.clone())),
            (None, Some(bus)) => Some(BusReference::cluster(bus.clone())),
            _ => None,
        }
    }

    /// Whether it is a channel of this bus.
    pub fn is_backed_by(&self, bus: &BusReference) -> bool {
        self.bus().as_ref() == Some(bus)
    }
}

impl Subscription {
    /// Its name.
    pub fn reference(&self) -> SubscriptionReference {
        SubscriptionReference::new(self.metadata.name.clone(), self.metadata.namespace.clone())
    }

    /// Its channel's name.
    pub fn channel(&self) -> ChannelReference {
        ChannelReference::new(self.spec.channel.clone(), self.metadata.namespace.clone())
    }
}

/// One object of any kind.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Object {
    /// A Bus or ClusterBus.
    Bus(GenericBus),
    /// A channel.
    Channel(Channel),
    /// A subscription.
    Subscription(Subscription),
}

impl Object {
    /// Reads an object of a known kind. If its spec breaks a rule, its `problem` says so.
    ///
    /// # Errors
    /// When it has no name.
    pub fn from_value(kind: Kind, object: &Value) -> Result<Self, InvalidObject> {
        let metadata = Metadata::of(object, kind)?;
        let spec = &object["spec"];
        let text = spec.to_string().into_boxed_str();
        Ok(match kind {
            Kind::Bus => Self::Bus(GenericBus::Bus { metadata, spec: Arc::new(BusSpec::of(spec, text)) }),
            Kind::ClusterBus => {
                Self::Bus(GenericBus::ClusterBus { metadata, spec: Arc::new(BusSpec::of(spec, text)) })
            }
            Kind::Channel => Self::Channel(Channel {
                metadata,
                spec: Arc::new(ChannelSpec::of(spec, text)),
                conditions: Conditions::of(object),
            }),
            Kind::Subscription => Self::Subscription(Subscription {
                metadata,
                spec: Arc::new(SubscriptionSpec::of(spec, text)),
                conditions: Conditions::of(object),
            }),
        })
    }

    /// Name, namespace, identity.
    pub fn metadata(&self) -> &Metadata {
        match self {
            Self::Bus(bus) => bus.metadata(),
            Self::Channel(channel) => &channel.metadata,
            Self::Subscription(subscription) => &subscription.metadata,
        }
    }

    /// The rule that its spec breaks.
    pub fn problem(&self) -> Option<&str> {
        match self {
            Self::Bus(bus) => bus.spec().problem.as_deref(),
            Self::Channel(channel) => channel.spec.problem.as_deref(),
            Self::Subscription(subscription) => subscription.spec.problem.as_deref(),
        }
    }
}

/// An object without a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a {} without a name", kind.as_str())]
#[non_exhaustive]
pub struct InvalidObject {
    /// Of what kind it is.
    pub kind: Kind,
}

impl Metadata {
    fn of(object: &Value, kind: Kind) -> Result<Self, InvalidObject> {
        let metadata = &object["metadata"];
        let text = |name: &str| ByteString::from(metadata[name].as_str().unwrap_or_default());
        let name = text("name");
        if name.is_empty() {
            return Err(InvalidObject { kind });
        }
        let finalizers = metadata["finalizers"].as_array().into_iter().flatten();
        Ok(Self {
            namespace: if kind.is_namespaced() { text("namespace") } else { ByteString::new() },
            name,
            uid: text("uid"),
            resource_version: text("resourceVersion"),
            deleting: metadata["deletionTimestamp"].is_string(),
            finalizers: finalizers.filter_map(Value::as_str).map(ByteString::from).collect(),
        })
    }
}

/// Reads the fields of a spec, and keeps the first broken rule.
struct Fields<'v> {
    spec: &'v Value,
    problem: Option<String>,
}

impl<'v> Fields<'v> {
    fn of(spec: &'v Value) -> Self {
        let odd = !(spec.is_object() || spec.is_null());
        Self { spec, problem: odd.then(|| "spec must be an object".to_owned()) }
    }

    fn broken(&mut self, rule: String) {
        self.problem.get_or_insert(rule);
    }

    /// A text; an empty one counts as absent.
    fn text(&mut self, name: &str) -> Option<&'v str> {
        match &self.spec[name] {
            Value::Null => None,
            Value::String(text) => Some(text.as_str()).filter(|text| !text.is_empty()),
            _ => {
                self.broken(format!("spec.{name} must be a text"));
                None
            }
        }
    }

    fn name(&mut self, name: &str) -> Option<ByteString> {
        let text = self.text(name)?;
        if !super::is_dns_label(text) {
            self.broken(format!("spec.{name} must be a DNS-1123 label"));
        }
        Some(text.into())
    }

    fn list<T: serde::de::DeserializeOwned>(&mut self, list: &Value, path: &str, what: &str) -> Vec<T> {
        match list {
            Value::Null => Vec::new(),
            Value::Array(items) => {
                let read: Result<Vec<T>, _> = items.iter().map(T::deserialize).collect();
                read.unwrap_or_else(|_| {
                    self.broken(format!("{path} must be a list of {what}, all texts"));
                    Vec::new()
                })
            }
            _ => {
                self.broken(format!("{path} must be a list"));
                Vec::new()
            }
        }
    }

    fn arguments(&mut self) -> Vec<Argument> {
        let spec = self.spec;
        self.list(&spec["arguments"], "spec.arguments", "{name, value}")
    }

    fn parameters(&mut self, of: &str) -> Vec<Parameter> {
        let spec = self.spec;
        let path = format!("spec.parameters.{of}");
        let list: Vec<Parameter> = self.list(&spec["parameters"][of], &path, "{name, description, default}");
        let mut seen = std::collections::BTreeSet::new();
        for Parameter { name, .. } in &list {
            let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
            if !(1..=253).contains(&name.len()) || !name.bytes().all(legal) {
                let name: String = name.chars().take(60).collect();
                self.broken(format!("{path} has the name {name:?}: 1 to 253 of A-Z a-z 0-9 - . _"));
            }
            if !seen.insert(name) {
                self.broken(format!("{path} has {name:?} twice"));
            }
        }
        list
    }
}

impl BusSpec {
    fn of(spec: &Value, text: Box<str>) -> Self {
        let mut fields = Fields::of(spec);
        let channel_parameters = fields.parameters("channel");
        let subscription_parameters = fields.parameters("subscription");
        Self { channel_parameters, subscription_parameters, problem: fields.problem, text }
    }
}

impl ChannelSpec {
    fn of(spec: &Value, text: Box<str>) -> Self {
        let mut fields = Fields::of(spec);
        let (bus, cluster_bus) = (fields.name("bus"), fields.name("clusterBus"));
        Self { bus, cluster_bus, arguments: fields.arguments(), problem: fields.problem, text }
    }
}

impl SubscriptionSpec {
    fn of(spec: &Value, text: Box<str>) -> Self {
        let mut fields = Fields::of(spec);
        let channel = fields.name("channel").unwrap_or_default();
        let (subscriber, reply_to) = (fields.text("subscriber"), fields.text("replyTo"));
        let (subscriber, reply_to) = (subscriber.map(Into::into), reply_to.map(Into::into));
        Self { channel, subscriber, reply_to, arguments: fields.arguments(), problem: fields.problem, text }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn channel(object: &Value) -> Channel {
        match Object::from_value(Kind::Channel, object) {
            Ok(Object::Channel(channel)) => channel,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn rule_12_a_channel_is_of_one_bus_or_nobodys() {
        let of = |spec: Value| channel(&json!({"metadata": {"namespace": "ns", "name": "c"}, "spec": spec}));
        let bus = |bus: &str| BusReference::new(bus, "ns");
        assert!(of(json!({"bus": "b"})).is_backed_by(&bus("b")));
        assert!(!of(json!({"bus": "b"})).is_backed_by(&BusReference::new("b", "other")));
        assert!(!of(json!({"bus": "b"})).is_backed_by(&BusReference::cluster("b")));
        assert!(of(json!({"clusterBus": "b"})).is_backed_by(&BusReference::cluster("b")));
        assert!(!of(json!({"clusterBus": "b"})).is_backed_by(&bus("b")));
        for spec in [json!({"bus": "b", "clusterBus": "b"}), json!({}), Value::Null, json!({"bus": ""})] {
            assert_eq!(of(spec).bus(), None);
        }
    }

    #[test]
    fn what_breaks_a_rule_says_so_and_the_rest_is_read() {
        for (spec, rule) in [
            (json!({"bus": "b", "arguments": null}), None),
            (json!({"bus": "b", "arguments": [{"name": "a"}]}), None),
            (json!({"bus": "b", "arguments": [{"name": "a", "value": 5}]}), Some("list of {name, value}")),
            (json!({"bus": "b", "arguments": [null]}), Some("list of {name, value}")),
            (json!({"bus": "b", "arguments": {}}), Some("spec.arguments must be a list")),
            (json!({"bus": "B_"}), Some("spec.bus must be a DNS-1123 label")),
            (json!({"bus": 5}), Some("spec.bus must be a text")),
            (json!([]), Some("spec must be an object")),
        ] {
            let channel = channel(&json!({"metadata": {"name": "c"}, "spec": spec}));
            let problem = channel.spec.problem.as_deref();
            assert!(
                rule.map_or(problem.is_none(), |rule| problem.is_some_and(|text| text.contains(rule))),
                "{problem:?} {rule:?}"
            );
        }
        assert!(Object::from_value(Kind::Bus, &json!({"metadata": {}})).is_err());
    }

    #[test]
    fn the_parameters_of_a_bus() {
        let problem = |channel: Value| {
            let object = json!({"metadata": {"name": "b"}, "spec": {"parameters": {"channel": channel}}});
            Object::from_value(Kind::ClusterBus, &object).unwrap().problem().map(str::to_owned)
        };
        assert_eq!(problem(json!([{"name": "a", "description": "d"}, {"name": "b", "default": ""}])), None);
        assert_eq!(problem(Value::Null), None);
        for bad in [
            json!([{"name": "a"}, {"name": "a"}]),
            json!([{"name": ""}]),
            json!([{"name": "a b"}]),
            json!([{"name": "x".repeat(254)}]),
            json!([{}]),
            json!("a"),
        ] {
            assert!(problem(bad.clone()).is_some(), "{bad}");
        }
    }
}
