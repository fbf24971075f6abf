//! Encoding the data of messages, for services. The data contains keys.

use std::borrow::Cow;
use std::fmt::Write as _;

use super::environment::{EnvironmentRep, FilterRep, KeyEntry};
use super::message::Path;

/// Appends the data of a `put` of everything, on one line. Give each id once; `filters` is left out when `None`, for
/// clients that do not know them.
pub fn write_put<'a>(
    out: &mut String,
    environments: impl IntoIterator<Item = (&'a str, &'a EnvironmentRep<'a>)>,
    filters: Option<&mut dyn Iterator<Item = (&'a str, &'a FilterRep<'a>)>>,
) {
    out.push_str(r#"{"path":"/","data":{"environments":{"#);
    for (index, (id, environment)) in environments.into_iter().enumerate() {
        write_name(out, index > 0, id);
        write_environment(out, environment);
    }
    out.push('}');
    if let Some(filters) = filters {
        out.push_str(r#","filters":{"#);
        for (index, (id, filter)) in filters.enumerate() {
            write_name(out, index > 0, id);
            write_filter(out, filter);
        }
        out.push('}');
    }
    out.push_str("}}");
}

/// Appends the data of a `patch`, with `write` for what it is now: [`write_environment`] or [`write_filter`].
pub fn write_patch(out: &mut String, path: &Path<'_>, write: impl FnOnce(&mut String)) {
    out.push_str(r#"{"path":"#);
    write_path(out, path);
    out.push_str(r#","data":"#);
    write(out);
    out.push('}');
}

/// Appends the data of a `delete`.
pub fn write_delete(out: &mut String, path: &Path<'_>, version: i64) {
    out.push_str(r#"{"path":"#);
    write_path(out, path);
    let _ = write!(out, r#","version":{version}}}"#);
}

/// Appends an environment: all fields, the lists of keys only when they have any.
pub fn write_environment(out: &mut String, environment: &EnvironmentRep<'_>) {
    let EnvironmentRep { env_id, env_key, env_name, proj_key, proj_name, mob_key, sdk_key, .. } = environment;
    let fields = [
        ("envID", env_id.as_ref()),
        ("envKey", env_key),
        ("envName", env_name),
        ("mobKey", mob_key.reveal()),
        ("projKey", proj_key),
        ("projName", proj_name),
    ];
    out.push('{');
    for (name, text) in fields {
        let _ = write!(out, r#""{name}":"#);
        write_string(out, text);
        out.push(',');
    }
    out.push_str(r#""sdkKey":{"value":"#);
    write_string(out, sdk_key.value.reveal());
    if !sdk_key.expiring.value.is_empty() {
        out.push_str(r#","expiring":{"value":"#);
        write_string(out, sdk_key.expiring.value.reveal());
        let _ = write!(out, r#","timestamp":{}}}"#, sdk_key.expiring.timestamp);
    }
    let EnvironmentRep { default_ttl, secure_mode, version, .. } = environment;
    let _ = write!(out, r#"}},"defaultTtl":{default_ttl},"secureMode":{secure_mode},"version":{version}"#);
    for (name, entries) in [("sdkKeys", &environment.sdk_keys), ("mobileKeys", &environment.mobile_keys)] {
        if !entries.is_empty() {
            let _ = write!(out, r#","{name}":["#);
            for (index, entry) in entries.iter().enumerate() {
                write_entry(out, index > 0, entry);
            }
            out.push(']');
        }
    }
    out.push('}');
}

fn write_entry(out: &mut String, comma: bool, entry: &KeyEntry<'_>) {
    out.push_str(if comma { r#",{"key":"# } else { r#"{"key":"# });
    write_string(out, &entry.name);
    out.push_str(r#","value":"#);
    write_string(out, entry.value.reveal());
    if let Some(expiry) = entry.expiry {
        let _ = write!(out, r#","expiry":{expiry}"#);
    }
    let _ = write!(out, r#","hasViews":{}}}"#, entry.has_views);
}

/// Appends a filter.
pub fn write_filter(out: &mut String, filter: &FilterRep<'_>) {
    out.push_str(r#"{"projKey":"#);
    write_string(out, &filter.proj_key);
    out.push_str(r#","key":"#);
    write_string(out, &filter.key);
    let _ = write!(out, r#","version":{}}}"#, filter.version);
}

fn write_name(out: &mut String, comma: bool, name: &str) {
    if comma {
        out.push(',');
    }
    write_string(out, name);
    out.push(':');
}

fn write_path(out: &mut String, path: &Path<'_>) {
    write_string(
        out,
        &match path {
            Path::All => Cow::Borrowed("/"),
            Path::Environment(id) => Cow::Owned(format!("/environments/{id}")),
            Path::Filter(id) => Cow::Owned(format!("/filters/{id}")),
            Path::Other => Cow::Borrowed(""),
        },
    );
}

fn write_string(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{0}'..='\u{1f}' => {
                let _ = write!(out, "\\u{:04x}", c as u32);
            }
            _ => out.push(c),
        }
    }
    out.push('"');
}
