//! Environments and filters.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use relay_proto::autoconfig::{
    EnvironmentId, EnvironmentRep, FilterId, FilterRep, KeyEntry, MobileKey, SdkKey,
};

use super::rules::{Rule, rule};

/// An environment with the keys that it accepts.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Environment {
    /// Its id.
    pub id: EnvironmentId,
    /// Its name for programs.
    pub env_key: Box<str>,
    /// Its name for people.
    pub env_name: Box<str>,
    /// Its project's name for programs.
    pub proj_key: Box<str>,
    /// Its project's name for people.
    pub proj_name: Box<str>,
    /// Accepted SDK keys, the primary one first, then in the order of the service. Never empty.
    pub sdk_keys: Vec<AcceptedKey<SdkKey>>,
    /// Accepted mobile keys, in the same order; may be empty.
    pub mobile_keys: Vec<AcceptedKey<MobileKey>>,
    /// How long programs may cache, in minutes; 0 for unset.
    pub default_ttl_minutes: i64,
    /// Whether client-side programs must show a hash of their user.
    pub secure_mode: bool,
    /// The version of all this.
    pub version: i64,
    /// Number of keys that are valid for a part of the environment only, and so are not accepted.
    pub dropped_keys: usize,
}

/// A key that is accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct AcceptedKey<K> {
    /// Its name; `None` when the service gives keys without names.
    pub name: Option<Box<str>>,
    /// The key.
    pub key: K,
    /// Whether it is the primary key, which does not expire.
    pub primary: bool,
    /// The last millisecond since 1970 at which it is accepted; `None` for ever.
    pub expires_ms: Option<u64>,
}

/// The kind of programs that use a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum KeyKind {
    /// Server-side ones.
    Sdk,
    /// Mobile ones.
    Mobile,
}

impl KeyKind {
    /// `sdk` or `mobile`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sdk => "sdk",
            Self::Mobile => "mobile",
        }
    }
}

/// A filter.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Filter {
    /// Its id.
    pub id: FilterId,
    /// The project it belongs to.
    pub proj_key: Box<str>,
    /// Its name.
    pub key: Box<str>,
    /// The version of all this.
    pub version: i64,
}

impl Filter {
    pub(super) fn new(id: FilterId, rep: &FilterRep<'_>) -> Self {
        Self { id, proj_key: (*rep.proj_key).into(), key: (*rep.key).into(), version: rep.version }
    }
}

impl Environment {
    /// Makes an environment from a checked wire form; expired keys are left out.
    pub(super) fn new(id: EnvironmentId, rep: &EnvironmentRep<'_>, now_ms: u64) -> Self {
        let mut dropped_keys = 0;
        let primary = rep.sdk_key.value.reveal();
        let (mut sdk_keys, alone) = if rep.sdk_keys.is_empty() {
            (vec![accepted(None, primary, true, None)], false)
        } else {
            (listed(&rep.sdk_keys, primary, now_ms, &mut dropped_keys), rule(Rule::ListAlone))
        };
        let expiring = &rep.sdk_key.expiring;
        let over = expiring.timestamp <= now_ms && rule(Rule::PastIsOver);
        let is_primary = expiring.value == rep.sdk_key.value && rule(Rule::PrimaryStays);
        if !(alone || expiring.value.is_empty() || over || is_primary) {
            sdk_keys.push(accepted(None, expiring.value.reveal(), false, Some(expiring.timestamp)));
        }
        let primary = rep.mob_key.reveal();
        let mut mobile_keys = if !rep.mobile_keys.is_empty() {
            listed(&rep.mobile_keys, primary, now_ms, &mut dropped_keys)
        } else if primary.is_empty() {
            Vec::new()
        } else {
            vec![accepted(None, primary, true, None)]
        };
        mobile_keys.shrink_to_fit();
        Self {
            id,
            env_key: (*rep.env_key).into(),
            env_name: (*rep.env_name).into(),
            proj_key: (*rep.proj_key).into(),
            proj_name: (*rep.proj_name).into(),
            sdk_keys,
            mobile_keys,
            default_ttl_minutes: rep.default_ttl,
            secure_mode: rep.secure_mode,
            version: rep.version,
            dropped_keys,
        }
    }

    /// The earliest expiry of its keys.
    pub(super) fn first_end(&self) -> Option<u64> {
        let sdk = self.sdk_keys.iter().filter_map(|key| key.expires_ms);
        sdk.chain(self.mobile_keys.iter().filter_map(|key| key.expires_ms)).min()
    }

    /// Names of the fields that differ from `was`, as in the output; without the version.
    pub(super) fn changed_since(&self, was: &Self) -> Vec<&'static str> {
        [
            ("env_key", self.env_key != was.env_key),
            ("env_name", self.env_name != was.env_name),
            ("proj_key", self.proj_key != was.proj_key),
            ("proj_name", self.proj_name != was.proj_name),
            ("sdk_keys", self.sdk_keys != was.sdk_keys),
            ("mobile_keys", self.mobile_keys != was.mobile_keys),
            ("default_ttl_minutes", self.default_ttl_minutes != was.default_ttl_minutes),
            ("secure_mode", self.secure_mode != was.secure_mode),
            ("dropped_keys", self.dropped_keys != was.dropped_keys),
        ]
        .into_iter()
        .filter_map(|(name, differs)| differs.then_some(name))
        .collect()
    }
}

fn accepted<K: for<'a> From<&'a str>>(
    name: Option<&str>,
    key: &str,
    primary: bool,
    expires_ms: Option<u64>,
) -> AcceptedKey<K> {
    AcceptedKey { name: name.map(Into::into), key: K::from(key), primary, expires_ms }
}

/// The accepted keys of a list, the primary one first. Of equal keys the last entry counts, at the place of the
/// first.
fn listed<K: for<'a> From<&'a str>>(
    entries: &[KeyEntry<'_>],
    primary: &str,
    now_ms: u64,
    dropped: &mut usize,
) -> Vec<AcceptedKey<K>> {
    let mut places: HashMap<&str, usize> = HashMap::with_capacity(entries.len());
    let mut distinct: Vec<&KeyEntry<'_>> = Vec::with_capacity(entries.len());
    for entry in entries {
        let place = *places.entry(entry.value.reveal()).or_insert(distinct.len());
        match distinct.get_mut(place) {
            Some(earlier) if rule(Rule::LastEntry) => *earlier = entry,
            Some(_) => {}
            None => distinct.push(entry),
        }
    }
    let mut keys = Vec::with_capacity(distinct.len());
    if let Some(&place) = places.get(primary) {
        let entry = distinct[place];
        let end = if rule(Rule::ListedPrimaryStays) { None } else { entry.expiry };
        if !entry.has_views || rule(Rule::PrimaryViewStays) {
            keys.push(accepted(Some(&entry.name), primary, true, end));
        }
    }
    for entry in distinct.into_iter().filter(|entry| entry.value.reveal() != primary) {
        let over = entry.expiry.is_some_and(|expiry| expiry <= now_ms) && rule(Rule::PastEntryIsOver);
        if entry.has_views && rule(Rule::ViewsAreDropped) {
            *dropped += 1;
        } else if !over {
            keys.push(accepted(Some(&entry.name), entry.value.reveal(), false, entry.expiry));
        }
    }
    keys.shrink_to_fit();
    keys
}

/// The masked keys of `these` that are not in the other.
pub(super) fn masked_difference(these: &Environment, those: &Environment) -> Arc<[String]> {
    let sdk: HashSet<&str> = those.sdk_keys.iter().map(|key| key.key.reveal()).collect();
    let mobile: HashSet<&str> = those.mobile_keys.iter().map(|key| key.key.reveal()).collect();
    let sdk_keys = these.sdk_keys.iter().map(|key| &key.key).filter(|key| !sdk.contains(key.reveal()));
    let mobile_keys =
        these.mobile_keys.iter().map(|key| &key.key).filter(|key| !mobile.contains(key.reveal()));
    sdk_keys.map(SdkKey::masked).chain(mobile_keys.map(MobileKey::masked)).collect()
}
