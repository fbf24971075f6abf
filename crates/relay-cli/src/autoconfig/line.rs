//! Events as lines for people.

use relay_autoconfig::{AcceptedKey, Environment, Event, Origin, RefusedIn, Status};
use relay_proto::time::Timestamp;

use crate::output::counted;

/// A line that begins with the event's name and the id.
pub(super) fn text(event: &Event) -> String {
    let id = event.id().unwrap_or_default();
    let details = match event {
        Event::Status(status) => status_text(status),
        Event::Added(environment) => environment_text(environment),
        Event::Updated(update) => {
            // What is new comes before everything that is not.
            let mut text = match update.changed.as_slice() {
                [] => "only the version is new   ".into(),
                changed => format!("changed: {}   ", changed.join(", ")),
            };
            for (what, keys) in [("accepted", &update.accepted), ("revoked", &update.revoked)] {
                if !keys.is_empty() {
                    text += &format!("{what}: {}   ", keys.join(", "));
                }
            }
            text + &environment_text(&update.environment)
        }
        Event::Deleted(gone) => gone_text(gone.version, gone.by.as_str()),
        Event::FilterDeleted(gone) => gone_text(gone.version, gone.by.as_str()),
        Event::KeyExpired(expired) => {
            let name = expired.name.as_deref().map_or(String::new(), |name| format!(" ({name})"));
            format!(
                "{} key {}{name} is not accepted any more, its time was {}",
                expired.key.kind().as_str(),
                expired.key.masked(),
                time(expired.expires_ms)
            )
        }
        Event::FilterAdded(filter) | Event::FilterUpdated(filter) => {
            format!("v{}   {} of project {}", filter.version, filter.key, filter.proj_key)
        }
        Event::Refused(refused) => {
            let came_in = if refused.came_in == RefusedIn::Put { "put" } else { "patch" };
            format!("v{} in a {came_in}: {} ({})", refused.version, refused.reason, refused.reason.as_str())
        }
        Event::ReceivedAll(all) => {
            let mut text = format!(
                "{}, {}",
                counted(all.environments as u64, "environment"),
                counted(all.filters as u64, "filter")
            );
            if !all.refused.is_empty() {
                let ids: Vec<_> = all.refused.iter().map(|id| id.as_str()).collect();
                text += &format!(", {} refused: {}", ids.len(), ids.join(", "));
            }
            text + if all.origin == Origin::Cache { ", from the cache" } else { "" }
        }
        Event::Held(held) => {
            format!(
                "a put without environments would delete {}; it waits {} ms",
                held.environments, held.hold_ms
            )
        }
        _ => String::new(),
    };
    let line = format!("{:<13} {id:<24} {details}", event.name());
    line.trim_end().to_owned()
}

fn status_text(status: &Status) -> String {
    let mut text = status.state.as_str().to_owned();
    if status.connected {
        text += ", connected";
    }
    if status.configured {
        text += ", configured";
    }
    if let Some(retry) = status.retry {
        text += &format!(", next attempt in {retry:.1?}");
    }
    if let Some(error) = &status.error {
        let status = error.status.map_or(String::new(), |status| format!(" {status}"));
        text += &format!("   last error ({}{status}): {}", error.kind.as_str(), error.message);
    }
    text
}

fn environment_text(environment: &Environment) -> String {
    let sdk: Vec<_> = environment.sdk_keys.iter().map(|key| key_text(key, key.key.masked())).collect();
    let mobile: Vec<_> = environment.mobile_keys.iter().map(|key| key_text(key, key.key.masked())).collect();
    let mut text = format!(
        "v{}   {} {} ({}/{})   sdk {}",
        environment.version,
        environment.proj_name,
        environment.env_name,
        environment.proj_key,
        environment.env_key,
        sdk.join(" ")
    );
    if !mobile.is_empty() {
        text += &format!("   mobile {}", mobile.join(" "));
    }
    if environment.default_ttl_minutes != 0 {
        text += &format!("   TTL {} min", environment.default_ttl_minutes);
    }
    if environment.secure_mode {
        text += "   secure mode";
    }
    if environment.dropped_keys > 0 {
        text += &format!("   {} keys with views are left out", environment.dropped_keys);
    }
    text
}

fn key_text<K>(key: &AcceptedKey<K>, masked: String) -> String {
    let name = key.name.as_ref().map_or(String::new(), |name| format!("{name}="));
    let until = key.expires_ms.map_or(String::new(), |end| format!(" (until {})", time(end)));
    format!("{name}{masked}{until}")
}

/// A point in time. Beyond the range of dates, the number of its milliseconds.
fn time(unix_ms: u64) -> String {
    i64::try_from(unix_ms)
        .map_or_else(|_| unix_ms.to_string(), |ms| Timestamp::from_unix_millis(ms).as_str().to_owned())
}

fn gone_text(version: Option<i64>, by: &str) -> String {
    version.map_or_else(|| format!("missing in a {by}"), |version| format!("v{version}"))
}
