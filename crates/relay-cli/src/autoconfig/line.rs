//! Events as lines for people.

use relay_autoconfig::{AcceptedKey, Environment, Event, Origin, RefusedIn, Status};

/// Begins with the event's name and the id.
pub(super) fn text(event: &Event) -> String {
    let id = event.id().unwrap_or_default();
    let details = match event {
        Event::Status(status) => status_text(status),
        Event::Added(environment) => environment_text(environment),
        Event::Updated(update) => {
            let mut text = environment_text(&update.environment);
            if update.changed.is_empty() {
                text += "   only the version is new";
            } else {
                text += &format!("   changed: {}", update.changed.join(", "));
            }
            for (what, keys) in [("accepted", &update.accepted), ("revoked", &update.revoked)] {
                if !keys.is_empty() {
                    text += &format!("   {what}: {}", keys.join(", "));
                }
            }
            text
        }
        Event::Deleted(gone) => gone_text(gone.version, gone.by.as_str()),
        Event::FilterDeleted(gone) => gone_text(gone.version, gone.by.as_str()),
        Event::KeyExpired(expired) => {
            let name = expired.name.as_deref().map_or(String::new(), |name| format!(" ({name})"));
            format!(
                "{} key {}{name} is not accepted any more",
                expired.key.kind().as_str(),
                expired.key.masked()
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
            let mut text = format!("{} environments, {} filters", all.environments, all.filters);
            if !all.refused.is_empty() {
                text += &format!(", {} refused", all.refused.len());
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
        text += &format!("   last error: {}", error.message);
    }
    text
}

fn environment_text(environment: &Environment) -> String {
    let sdk: Vec<_> = environment.sdk_keys.iter().map(|key| key_text(key, key.key.masked())).collect();
    let mobile: Vec<_> = environment.mobile_keys.iter().map(|key| key_text(key, key.key.masked())).collect();
    let mut text = format!(
        "v{}   {} {}   sdk {}",
        environment.version,
        environment.proj_name,
        environment.env_name,
        sdk.join(" ")
    );
    if !mobile.is_empty() {
        text += &format!("   mobile {}", mobile.join(" "));
    }
    text
}

fn key_text<K>(key: &AcceptedKey<K>, masked: String) -> String {
    if key.expires_ms.is_some() { format!("{masked} (expires)") } else { masked }
}

fn gone_text(version: Option<i64>, by: &str) -> String {
    version.map_or_else(|| format!("missing in a {by}"), |version| format!("v{version}"))
}
