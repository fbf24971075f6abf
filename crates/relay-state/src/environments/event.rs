//! Events: changes, in the order in which to act on them.

use std::sync::Arc;

use relay_proto::autoconfig::{EnvironmentId, FilterId, MobileKey, Refusal, SdkKey};
use serde_json::{Map, Value, json};

use super::environment::{AcceptedKey, Environment, Filter, KeyKind};
use super::status::Status;

/// A change for a client to act on.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The client's status changed: see [`Session`](super::Session).
    Status(Status),
    /// A new environment.
    Added(Arc<Environment>),
    /// An environment in a newer version.
    Updated(Updated),
    /// An environment is gone.
    Deleted(Gone<EnvironmentId>),
    /// A key has expired: disconnect its users, and refuse it from now on.
    KeyExpired(Expired),
    /// A new filter.
    FilterAdded(Arc<Filter>),
    /// A filter in a newer version.
    FilterUpdated(Arc<Filter>),
    /// A filter is gone.
    FilterDeleted(Gone<FilterId>),
    /// An environment was refused; its former state stays.
    Refused(Refused),
    /// A put is complete: all of its changes were given before.
    ReceivedAll(ReceivedAll),
    /// A put without environments is held back.
    Held(Held),
}

/// An environment in a newer version.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Updated {
    /// The new state.
    pub environment: Arc<Environment>,
    /// Names of its fields that changed, apart from keys that expired in between. Empty: only the version changed,
    /// and nothing needs to be rebuilt.
    pub changed: Vec<&'static str>,
    /// Masked keys that were not accepted before.
    pub accepted: Arc<[String]>,
    /// Masked keys that are no longer accepted, from now on.
    pub revoked: Arc<[String]>,
}

/// An environment or a filter is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Gone<I> {
    /// The environment or filter.
    pub id: I,
    /// The version of the deletion; `None` when it was missing in a put.
    pub version: Option<i64>,
    /// The message that removed it.
    pub by: By,
}

/// The message that removed an environment or filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum By {
    /// A `delete` event.
    Delete,
    /// A put in which it is missing.
    Put,
}

impl By {
    /// `delete` or `put`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Delete => "delete",
            Self::Put => "put",
        }
    }
}

/// A key has expired.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Expired {
    /// Its environment.
    pub id: EnvironmentId,
    /// The key.
    pub key: ExpiredKey,
    /// Its name, if the service gives keys names.
    pub name: Option<Box<str>>,
    /// The last millisecond since 1970 at which it was accepted.
    pub expires_ms: u64,
}

/// A key of either kind.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ExpiredKey {
    /// A key of server-side programs.
    Sdk(SdkKey),
    /// A key of mobile programs.
    Mobile(MobileKey),
}

impl ExpiredKey {
    /// The kind of programs that used it.
    pub fn kind(&self) -> KeyKind {
        match self {
            Self::Sdk(_) => KeyKind::Sdk,
            Self::Mobile(_) => KeyKind::Mobile,
        }
    }

    /// Its masked form.
    pub fn masked(&self) -> String {
        match self {
            Self::Sdk(key) => key.masked(),
            Self::Mobile(key) => key.masked(),
        }
    }
}

/// An environment that was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Refused {
    /// Its id.
    pub id: EnvironmentId,
    /// The refused version.
    pub version: i64,
    /// Why.
    pub reason: Refusal,
    /// The message that contained the environment.
    pub came_in: RefusedIn,
}

/// The message that contained a refused environment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RefusedIn {
    /// A put.
    Put,
    /// A patch.
    Patch,
}

/// A put is complete.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReceivedAll {
    /// How many environments are known now.
    pub environments: usize,
    /// How many filters are known now.
    pub filters: usize,
    /// Ids of the environments of this put that were refused, in order.
    pub refused: Vec<EnvironmentId>,
    /// Its source.
    pub origin: Origin,
}

/// The source of a configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Origin {
    /// The service.
    Stream,
    /// The cache of an earlier run.
    Cache,
}

/// A put without environments is held back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Held {
    /// How many environments would be removed.
    pub environments: usize,
    /// The delay, in milliseconds.
    pub hold_ms: u64,
}

impl Event {
    /// Its name in output.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Status(_) => "status",
            Self::Added(_) => "add",
            Self::Updated(_) => "update",
            Self::Deleted(_) => "delete",
            Self::KeyExpired(_) => "key_expired",
            Self::FilterAdded(_) => "filter_add",
            Self::FilterUpdated(_) => "filter_update",
            Self::FilterDeleted(_) => "filter_delete",
            Self::Refused(_) => "refused",
            Self::ReceivedAll(_) => "received_all",
            Self::Held(_) => "held",
        }
    }

    /// The id of its environment or filter, if it has one.
    pub fn id(&self) -> Option<&str> {
        Some(match self {
            Self::Added(environment) => environment.id.as_str(),
            Self::Updated(update) => update.environment.id.as_str(),
            Self::Deleted(gone) => gone.id.as_str(),
            Self::KeyExpired(expired) => expired.id.as_str(),
            Self::FilterAdded(filter) | Self::FilterUpdated(filter) => filter.id.as_str(),
            Self::FilterDeleted(gone) => gone.id.as_str(),
            Self::Refused(refused) => refused.id.as_str(),
            Self::Status(_) | Self::ReceivedAll(_) | Self::Held(_) => return None,
        })
    }

    /// As an object for logs and other programs, `event` being its name. Keys are in it in their masked form only.
    pub fn to_json(&self) -> Value {
        let mut fields = match self {
            Self::Status(status) => status.to_json(),
            Self::Added(environment) => {
                json!({"id": environment.id.as_str(), "version": environment.version, "env": environment_json(environment)})
            }
            Self::Updated(Updated { environment, changed, accepted, revoked }) => json!({
                "id": environment.id.as_str(),
                "version": environment.version,
                "env": environment_json(environment),
                "changed": changed,
                "accepted": accepted[..],
                "revoked": revoked[..],
            }),
            Self::Deleted(gone) => gone_json(gone.id.as_str(), gone.version, gone.by),
            Self::FilterDeleted(gone) => gone_json(gone.id.as_str(), gone.version, gone.by),
            Self::KeyExpired(expired) => json!({
                "id": expired.id.as_str(),
                "kind": expired.key.kind().as_str(),
                "name": expired.name,
                "key": expired.key.masked(),
                "expires_ms": expired.expires_ms,
            }),
            Self::FilterAdded(filter) | Self::FilterUpdated(filter) => json!({
                "id": filter.id.as_str(),
                "version": filter.version,
                "proj_key": filter.proj_key,
                "key": filter.key,
            }),
            Self::Refused(refused) => json!({
                "id": refused.id.as_str(),
                "version": refused.version,
                "reason": refused.reason.as_str(),
                "in": match refused.came_in { RefusedIn::Put => "put", RefusedIn::Patch => "patch" },
            }),
            Self::ReceivedAll(all) => json!({
                "environments": all.environments,
                "filters": all.filters,
                "refused": all.refused.iter().map(EnvironmentId::as_str).collect::<Vec<_>>(),
                "source": match all.origin { Origin::Stream => "stream", Origin::Cache => "cache" },
            }),
            Self::Held(held) => json!({"environments": held.environments, "hold_ms": held.hold_ms}),
        };
        if let Value::Object(fields) = &mut fields {
            fields.insert("event".into(), self.name().into());
        }
        fields
    }
}

fn gone_json(id: &str, version: Option<i64>, by: By) -> Value {
    json!({"id": id, "version": version, "by": by.as_str()})
}

fn environment_json(environment: &Environment) -> Value {
    json!({
        "env_key": environment.env_key,
        "env_name": environment.env_name,
        "proj_key": environment.proj_key,
        "proj_name": environment.proj_name,
        "sdk_keys": environment.sdk_keys.iter().map(|key| key_json(key, key.key.masked())).collect::<Vec<_>>(),
        "mobile_keys": environment.mobile_keys.iter().map(|key| key_json(key, key.key.masked())).collect::<Vec<_>>(),
        "default_ttl_minutes": environment.default_ttl_minutes,
        "secure_mode": environment.secure_mode,
        "dropped_keys": environment.dropped_keys,
    })
}

fn key_json<K>(key: &AcceptedKey<K>, masked: String) -> Map<String, Value> {
    let mut fields = Map::new();
    fields.insert("name".into(), key.name.as_deref().into());
    fields.insert("key".into(), masked.into());
    fields.insert("primary".into(), key.primary.into());
    fields.insert("expires_ms".into(), key.expires_ms.into());
    fields
}
