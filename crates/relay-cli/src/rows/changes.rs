//! Changes of an event: the difference between a pod before it and after.

use std::collections::{BTreeMap, HashMap};

use relay_pods::{EventType, Phase, Pod, PodEvent, PodKey, Pods, Snapshot};

use crate::output::{Text, Tone, counted};

/// The state of each pod in the last line about it, so that the next line can say what has changed.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    /// Pods of events, which take precedence over the list.
    seen: HashMap<PodKey, Option<Pod>>,
    /// The last list, unless earlier events are being replayed.
    list: Option<Pods>,
}

impl Changes {
    /// The pod before this event, if it is known. Records the event.
    pub(crate) fn before(&mut self, event: &PodEvent) -> Option<Pod> {
        let after = (event.kind != EventType::Deleted).then(|| event.pod.clone());
        let seen = self.seen.insert(event.pod.key().clone(), after);
        seen.unwrap_or_else(|| self.list.as_ref()?.get(event.pod.key()).cloned())
    }

    /// The pod before the event of a snapshot. Records the snapshot.
    pub(crate) fn before_snapshot(&mut self, snapshot: &Snapshot) -> Option<Pod> {
        match &snapshot.event {
            Some(event) if snapshot.phase == Phase::Backfill => self.before(event),
            Some(event) => {
                // The pods of the stream have the state before the event, and are kept anyway.
                let key = event.pod.key();
                let change = snapshot.changed.iter().find(|change| change.key() == key);
                let before = match change {
                    Some(change) => change.before.clone(),
                    None => self.list.as_ref().and_then(|pods| pods.get(key).cloned()),
                };
                self.list = Some(snapshot.pods.clone());
                before
            }
            None => {
                // Unless the stream is live, the events that are replayed next are older than this list.
                self.seen.clear();
                self.list = (snapshot.goes_on == Phase::Live).then(|| snapshot.pods.clone());
                None
            }
        }
    }
}

/// The text of an event: the state of a pod that is new or gone, otherwise the changes.
pub(super) fn what(event: &PodEvent, before: Option<&Pod>) -> Text {
    let pod = &event.pod;
    let mut text = match (&event.kind, before) {
        (EventType::Deleted, Some(before)) if event.left_filter => difference(before, pod),
        (EventType::Deleted, _) if event.left_filter => state(pod),
        (EventType::Deleted, _) => Text::from("was ").joined(&state(pod)),
        (EventType::Added, Some(before)) if before.uid() == pod.uid() => difference(before, pod),
        (EventType::Added, _) | (_, None) => state(pod),
        (_, Some(before)) => difference(before, pod),
    };
    if event.left_filter {
        text.push(Tone::Faint, " (the pod lives on, outside the filter)");
    }
    if event.entered_filter {
        text.push(Tone::Faint, " (the pod was there before, outside the filter)");
    }
    if event.synthetic {
        text.push(Tone::Faint, " (found in a list)");
    }
    text
}

/// `Running 1/2, 3 restarts`.
pub(super) fn state(pod: &Pod) -> Text {
    let printed = pod.printed();
    let mut text = super::status(pod, &printed).plain(format!(" {}/{}", printed.ready, printed.containers));
    if printed.restarts > 0 {
        text.push(Tone::Plain, &format!(", {}", counted(printed.restarts.into(), "restart")));
    }
    text
}

/// All differences, the most important first. Never empty.
fn difference(before: &Pod, after: &Pod) -> Text {
    let mut parts: Vec<Text> = Vec::new();
    if let (Some(old), Some(new)) = (before.uid(), after.uid())
        && old != new
    {
        parts.push(Tone::Warn.text("another pod of this name"));
    }
    let (old, new) = (before.printed(), after.printed());
    let other_status = old.status != new.status;
    if other_status {
        parts.push(Text::from(format!("{} -> ", old.status)).joined(&super::status(after, &new)));
    } else if old.restarts != new.restarts && new.status != "Running" {
        parts.push(super::status(after, &new));
    }
    if old.restarts != new.restarts {
        parts.push(Tone::Warn.text(counted(new.restarts.into(), "restart")));
    }
    if (old.ready, old.containers) != (new.ready, new.containers) {
        let tone = if new.ready == new.containers { Tone::Good } else { Tone::Warn };
        let text = Text::from(format!("ready {}/{} -> ", old.ready, old.containers));
        parts.push(text.and(tone, format!("{}/{}", new.ready, new.containers)));
    } else if before.ready() != after.ready() {
        parts.push(if after.ready() { Tone::Good.text("is ready") } else { Tone::Warn.text("is not ready") });
    }
    pairs("label", before.labels(), after.labels(), &mut parts);
    for (name, old, new) in [
        ("phase", before.phase(), after.phase()),
        ("node", before.node_name(), after.node_name()),
        ("IP", before.pod_ip(), after.pod_ip()),
        ("host IP", before.host_ip(), after.host_ip()),
        ("reason", before.reason(), after.reason()),
        ("message", before.message(), after.message()),
    ] {
        let told = name == "phase" && other_status;
        if old != new && !told {
            parts.push(one(name, old, new));
        }
    }
    for (name, old, new) in [
        ("created", before.created_at(), after.created_at()),
        ("started", before.started_at(), after.started_at()),
        ("deletion", before.deleted_at(), after.deleted_at()),
    ] {
        if old != new {
            parts.push(one(name, old.as_ref().map(|t| t.as_str()), new.as_ref().map(|t| t.as_str())));
        }
    }
    let owner = |pod: &Pod| pod.owner().map(|owner| format!("{}/{}", owner.kind, owner.name));
    if owner(before) != owner(after) {
        parts.push(one("owner", owner(before).as_deref(), owner(after).as_deref()));
    }
    containers(before, after, &mut parts);
    pairs("annotation", before.annotations(), after.annotations(), &mut parts);
    if parts.is_empty() {
        let version = (before.resource_version(), after.resource_version());
        parts.push(if version.0 == version.1 {
            Tone::Faint.text("nothing changed")
        } else {
            Tone::Faint.text("nothing shown: ").joined(&one("version", version.0, version.1))
        });
    }
    let mut text = Text::default();
    for (at, part) in parts.iter().enumerate() {
        if at > 0 {
            text.push(Tone::Plain, ", ");
        }
        text.extend(part);
    }
    text
}

/// `name: old -> new`, with `-` for nothing.
fn one(name: &str, old: Option<&str>, new: Option<&str>) -> Text {
    format!("{name}: {} -> {}", old.unwrap_or("-"), new.unwrap_or("-")).into()
}

/// Values that were added, removed or changed.
fn pairs<'a>(
    what: &str,
    before: impl Iterator<Item = (&'a str, &'a str)>,
    after: impl Iterator<Item = (&'a str, &'a str)>,
    parts: &mut Vec<Text>,
) {
    let (before, after): (BTreeMap<_, _>, BTreeMap<_, _>) = (before.collect(), after.collect());
    let keys: std::collections::BTreeSet<_> = before.keys().chain(after.keys()).collect();
    for key in keys {
        let (old, new) = (before.get(key).copied(), after.get(key).copied());
        if old != new {
            parts.push(one(&format!("{what} {key}"), old, new));
        }
    }
}

/// Changes of containers that are not in the counts above.
fn containers(before: &Pod, after: &Pod, parts: &mut Vec<Text>) {
    let by_name = |pod: &Pod| {
        let named = pod.containers().iter().map(|container| (container.name.clone(), container.clone()));
        named.collect::<BTreeMap<_, _>>()
    };
    let (old, new) = (by_name(before), by_name(after));
    for (name, container) in &new {
        let Some(was) = old.get(name) else {
            parts.push(format!("container {name} is new").into());
            continue;
        };
        if was.image != container.image {
            parts.push(one(&format!("image of {name}"), was.image.as_deref(), container.image.as_deref()));
        }
        let state = |container: &relay_proto::pods::Container| {
            let state = container.state.as_deref().unwrap_or("-").to_owned();
            let reason = container.reason.as_deref().map_or(String::new(), |reason| format!(" ({reason})"));
            let code = container.exit_code.map_or(String::new(), |code| format!(" exit code {code}"));
            let signal = container.signal.map_or(String::new(), |signal| format!(" signal {signal}"));
            state + &reason + &code + &signal
        };
        if state(was) != state(container) {
            parts.push(one(name, Some(&state(was)), Some(&state(container))));
        } else if was.last_reason != container.last_reason || was.last_exit_code != container.last_exit_code {
            let last = container.last_reason.as_deref().unwrap_or("-");
            let code = container.last_exit_code.map_or(String::new(), |code| format!(" exit code {code}"));
            parts.push(format!("{name} ended before: {last}{code}").into());
        } else if was != container
            && was.image == container.image
            && was.ready == container.ready
            && was.restart_count == container.restart_count
        {
            parts.push(format!("container {name}").into());
        }
    }
    for name in old.keys().filter(|name| !new.contains_key(*name)) {
        parts.push(format!("container {name} is gone").into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(more: &str) -> Pod {
        Pod::from_json(&format!(r#"{{"namespace":"prod","name":"web"{more}}}"#)).unwrap()
    }

    #[test]
    fn a_line_says_what_changed() {
        let containers = |ready: bool, restarts: u32, state: &str| {
            format!(
                r#","phase":"Running","containers":[{{"name":"app","ready":{ready},"restart_count":{restarts},{state}}},
                {{"name":"proxy","ready":true,"state":"running"}}]"#
            )
        };
        let running = r#""state":"running""#;
        let crashing = r#""state":"waiting","reason":"CrashLoopBackOff""#;
        for (before, after, what) in [
            (containers(false, 0, running), containers(true, 0, running), "ready 1/2 -> 2/2"),
            (containers(false, 2, crashing), containers(false, 3, crashing), "CrashLoopBackOff, 3 restarts"),
            (
                containers(true, 0, running),
                containers(false, 1, crashing),
                "Running -> CrashLoopBackOff, 1 restart, ready 2/2 -> 1/2, app: running -> waiting (CrashLoopBackOff)",
            ),
            (
                r#","labels":{"traffic":"on"}"#.into(),
                r#","labels":{"traffic":"off"}"#.into(),
                "label traffic: on -> off",
            ),
            (String::new(), r#","labels":{"a":"b"}"#.into(), "label a: - -> b"),
            (
                r#","phase":"Pending""#.into(),
                r#","phase":"Running","node_name":"n1""#.into(),
                "Pending -> Running, node: - -> n1",
            ),
            (r#","uid":"a""#.into(), r#","uid":"b""#.into(), "another pod of this name"),
            (
                r#","resource_version":"5""#.into(),
                r#","resource_version":"6""#.into(),
                "nothing shown: version: 5 -> 6",
            ),
            (String::new(), String::new(), "nothing changed"),
            (String::new(), r#","annotations":{"a":"\u001b[2J"}"#.into(), "annotation a: - -> \\x1b[2J"),
            (
                r#","containers":[{"name":"a","image":"x:1"}]"#.into(),
                r#","containers":[{"name":"a","image":"x:2"},{"name":"b"}]"#.into(),
                "ready 0/1 -> 0/2, image of a: x:1 -> x:2, container b is new",
            ),
        ] {
            assert_eq!(difference(&pod(&before), &pod(&after)).as_str(), what, "{before} {after}");
        }
    }
}
