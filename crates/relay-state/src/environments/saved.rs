//! The state as text, for a cache file. It contains keys.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use relay_proto::autoconfig::{
    EnvironmentRep, Expiring, FilterRep, KeyEntry, KeyText, PutContent, write_environment, write_filter,
};
use serde_json::value::RawValue;

use super::environment::{AcceptedKey, Environment};
use super::reducer::Environments;

/// The format and its version.
const FORMAT: &str = "relay auto-configuration 1";

/// The whole state, for [`decode_saved`]; `source` names its service.
pub fn encode_saved(environments: &Environments, source: &str) -> String {
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let mut out =
        format!("{{\"format\":{},\n\"source\":{},\n\"environments\":{{", quoted(FORMAT), quoted(source));
    let mut known: Vec<_> = environments.environments().collect();
    known.sort_by(|a, b| a.id.cmp(&b.id));
    for (index, environment) in known.into_iter().enumerate() {
        out.push_str(if index > 0 { ",\n" } else { "\n" });
        out.push_str(&quoted(environment.id.as_str()));
        out.push(':');
        write_environment(&mut out, &rep_of(environment));
    }
    out.push_str("},\n\"filters\":{");
    let mut known: Vec<_> = environments.filters().collect();
    known.sort_by(|a, b| a.id.cmp(&b.id));
    for (index, filter) in known.into_iter().enumerate() {
        out.push_str(if index > 0 { ",\n" } else { "\n" });
        out.push_str(&quoted(filter.id.as_str()));
        out.push(':');
        let mut rep = FilterRep::default();
        (rep.proj_key, rep.key, rep.version) =
            ((*filter.proj_key).into(), (*filter.key).into(), filter.version);
        write_filter(&mut out, &rep);
    }
    out.push_str("}}\n");
    out
}

/// Reads the text of [`encode_saved`]: the source and the state.
///
/// # Errors
/// When the text has another format or is damaged.
pub fn decode_saved(text: &str) -> Result<(String, PutContent<'_>), SavedError> {
    let fields: BTreeMap<Cow<'_, str>, &RawValue> =
        serde_json::from_str(text).map_err(|_| SavedError("it is not JSON"))?;
    let string = |name| fields.get(name).and_then(|value| serde_json::from_str::<String>(value.get()).ok());
    if string("format").as_deref() != Some(FORMAT) {
        return Err(SavedError("it is not a saved auto-configuration of a known format"));
    }
    let source = string("source").ok_or(SavedError("it does not say where it came from"))?;
    if ["environments", "filters"].into_iter().any(|name| !fields.contains_key(name)) {
        return Err(SavedError("it has no environments or no filters"));
    }
    let content =
        PutContent::decode(text).map_err(|_| SavedError("its environments or filters are damaged"))?;
    Ok((source, content))
}

/// A text is not what [`encode_saved`] wrote. Displays as the reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SavedError(&'static str);

impl fmt::Display for SavedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for SavedError {}

/// An environment in its wire form: when read again, it accepts the same keys.
fn rep_of(environment: &Environment) -> EnvironmentRep<'_> {
    let mut rep = EnvironmentRep::default();
    rep.env_id = Cow::Borrowed(environment.id.as_str());
    rep.env_key = Cow::Borrowed(&environment.env_key);
    rep.env_name = Cow::Borrowed(&environment.env_name);
    rep.proj_key = Cow::Borrowed(&environment.proj_key);
    rep.proj_name = Cow::Borrowed(&environment.proj_name);
    rep.default_ttl = environment.default_ttl_minutes;
    rep.secure_mode = environment.secure_mode;
    rep.version = environment.version;
    for key in &environment.sdk_keys {
        let value = KeyText::new(key.key.reveal());
        if key.primary {
            rep.sdk_key.value = value.clone();
        }
        match (&key.name, key.expires_ms) {
            (Some(_), _) => rep.sdk_keys.push(entry(key, value)),
            (None, Some(timestamp)) => rep.sdk_key.expiring = expiring(value, timestamp),
            (None, None) => {}
        }
    }
    for key in &environment.mobile_keys {
        let value = KeyText::new(key.key.reveal());
        if key.primary {
            rep.mob_key = value.clone();
        }
        if key.name.is_some() {
            rep.mobile_keys.push(entry(key, value));
        }
    }
    // Dropped keys are only counted: their placeholders cannot be keys, as they are not valid in a header.
    let list = if rep.sdk_keys.is_empty() { &mut rep.mobile_keys } else { &mut rep.sdk_keys };
    if !list.is_empty() {
        list.extend((0..environment.dropped_keys).map(|number| {
            let mut entry = KeyEntry::default();
            entry.value = KeyText::new(format!("\u{0}{number}"));
            entry.has_views = true;
            entry
        }));
    }
    rep
}

fn entry<'a, K>(key: &'a AcceptedKey<K>, value: KeyText<'a>) -> KeyEntry<'a> {
    let mut entry = KeyEntry::default();
    entry.name = Cow::Borrowed(key.name.as_deref().unwrap_or_default());
    (entry.value, entry.expiry) = (value, key.expires_ms);
    entry
}

fn expiring(value: KeyText<'_>, timestamp: u64) -> Expiring<'_> {
    let mut expiring = Expiring::default();
    (expiring.value, expiring.timestamp) = (value, timestamp);
    expiring
}
