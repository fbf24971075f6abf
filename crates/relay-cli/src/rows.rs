//! Printing pods, events, snapshots and groups: columns and cells for people, objects for programs.

mod age;
mod changes;

use relay_pods::{EventType, Pod, PodEvent, Snapshot};
use relay_proto::pods::Printed;
use relay_proto::time::Timestamp;
use serde_json::{Value, json};

use crate::output::{Column, Row, Text, Tone, counted, time_now, to_value};
use crate::tally::Tally;

pub(crate) use changes::Changes;

/// The columns of `relay pods`.
pub(crate) const PODS: &[Column] = &[
    Column::name("NAMESPACE").dispensable(2),
    Column::name("NAME"),
    Column::new("READY").dispensable(1),
    Column::new("STATUS"),
    Column::new("RESTARTS").dispensable(3),
    Column::new("AGE").untimed().dispensable(4),
    Column::new("CREATED").timed().dispensable(4),
    Column::new("IP").wide().dispensable(6),
    Column::name("NODE").wide().dispensable(5),
];

/// The cells of [`PODS`].
pub(crate) fn pod_cells(pod: &Pod, now: i64) -> Vec<Text> {
    let created = pod.created_at();
    let millis = created.as_ref().and_then(Timestamp::unix_millis);
    let printed = pod.printed();
    vec![
        pod.namespace().into(),
        pod.name().into(),
        ready(pod, &printed),
        status(pod, &printed),
        restarts(&printed, now).into(),
        millis.map_or("<unknown>".into(), |millis| age::written(now - millis)).into(),
        created.as_ref().map_or("<unknown>", |time| time.as_str()).into(),
        pod.pod_ip().unwrap_or("<none>").into(),
        pod.node_name().unwrap_or("<none>").into(),
    ]
}

/// The text of `-o name`, which commands about one pod take as an argument.
pub(crate) fn pod_name(pod: &Pod) -> String {
    pod.key().to_string()
}

/// `1/2`.
fn ready(pod: &Pod, printed: &Printed) -> Text {
    let over = matches!(pod.phase(), Some("Succeeded" | "Failed"));
    let tone = if printed.ready == printed.containers || over { Tone::Plain } else { Tone::Warn };
    tone.text(format!("{}/{}", printed.ready, printed.containers))
}

/// `3 (5m ago)`.
fn restarts(printed: &Printed, now: i64) -> String {
    let last = printed.last_restart.as_ref().and_then(Timestamp::unix_millis);
    match last {
        Some(last) => format!("{} ({} ago)", printed.restarts, age::written(now - last)),
        None => printed.restarts.to_string(),
    }
}

fn status(pod: &Pod, printed: &Printed) -> Text {
    let tone = match printed.status.as_str() {
        "Running" if pod.ready() => Tone::Good,
        "Running" | "Pending" | "Terminating" | "ContainerCreating" | "PodInitializing"
        | "SchedulingGated" => Tone::Warn,
        "Completed" | "Succeeded" => Tone::Faint,
        word if word.starts_with("Init:") && word[5..].starts_with(|c: char| c.is_ascii_digit()) => {
            Tone::Warn
        }
        _ => Tone::Bad,
    };
    tone.text(&printed.status)
}

/// The time of the event of a snapshot, or the time when a list was read.
pub(crate) fn time(snapshot: &Snapshot) -> Text {
    let time = snapshot.event.as_ref().and_then(|event| event.timestamp.as_ref());
    time.map_or_else(time_now, |time| time.as_str().into())
}

/// The columns of an event, which come after those of its snapshot.
const EVENT: [Column; 6] = [
    Column::new("TIME").timed().least(24).dispensable(2),
    Column::new("SEQUENCE").right().dispensable(3),
    Column::new("EVENT").least(8),
    Column::name("POD").least(36),
    // Before the sentences: their widths differ, and nothing could stand below a heading after them.
    Column::new("HASH").wide().least(56).spare(),
    Column::sentence("WHAT CHANGED"),
];

/// The columns of `relay events`.
pub(crate) const EVENTS: &[Column] = &EVENT;

/// The columns of `relay stream`.
pub(crate) const MESSAGES: &[Column] =
    &[Column::new("EVENT").least(16), Column::new("ID").least(36).dispensable(1), Column::sentence("DATA")];

/// The columns of `relay state`.
pub(crate) const STATE: &[Column] = &[
    EVENT[0],
    Column::new("PODS").right().least(5).dispensable(4),
    EVENT[1],
    EVENT[2],
    EVENT[3],
    EVENT[4],
    EVENT[5],
];

/// The columns of `relay replay`.
pub(crate) const REPLAY: &[Column] = &[
    EVENT[0],
    Column::new("PHASE").least(15).dispensable(1),
    Column::new("PODS").right().least(5).dispensable(4),
    EVENT[1],
    EVENT[2],
    EVENT[3],
    EVENT[4],
    EVENT[5],
];

/// The cells of [`EVENTS`].
pub(crate) fn event_cells(event: &PodEvent, before: Option<&Pod>) -> Vec<Text> {
    let (word, tone) = match &event.kind {
        EventType::Deleted if event.left_filter => ("LEFT", Tone::Warn),
        EventType::Added if event.entered_filter => ("ENTERED", Tone::Good),
        EventType::Added => ("ADDED", Tone::Good),
        EventType::Deleted => ("DELETED", Tone::Bad),
        other => (other.as_str(), Tone::Plain),
    };
    vec![
        event.timestamp.as_ref().map_or("", |time| time.as_str()).into(),
        event.sequence.map_or(String::new(), |sequence| format!("#{sequence}")).into(),
        tone.text(word),
        pod_name(&event.pod).into(),
        event.hash.as_str().into(),
        changes::what(event, before),
    ]
}

pub(crate) fn event_json(event: &PodEvent) -> Value {
    let mut value = to_value(event);
    if let Value::Object(fields) = &mut value {
        // The links between positions matter only to the client.
        fields.remove("previous_hash");
    }
    value
}

/// The fields of `state`; `replay` adds others.
pub(crate) fn snapshot_json(snapshot: &Snapshot, with_pods: bool, with_phase: bool) -> Value {
    let mut line = serde_json::Map::new();
    if with_phase {
        line.insert("phase".into(), json!(snapshot.phase.as_str()));
        line.insert("ack".into(), to_value(&snapshot.ack));
    }
    line.insert("pods".into(), json!(snapshot.pods.len()));
    line.insert("event".into(), snapshot.event.as_ref().map_or(Value::Null, event_json));
    line.insert("gap".into(), to_value(&snapshot.gap));
    line.insert("cause".into(), to_value(&snapshot.cause));
    line.insert("changed".into(), to_value(&snapshot.changed));
    if with_pods {
        line.insert("pod_set".into(), snapshot.pods.sorted().into_iter().map(to_value).collect());
    }
    Value::Object(line)
}

/// The row of [`REPLAY`], or without the phase that of [`STATE`]. With `wide`, it has the position that may be saved.
pub(crate) fn snapshot_row(snapshot: &Snapshot, before: Option<&Pod>, with_phase: bool, wide: bool) -> Row {
    let count = snapshot.pods.len().to_string().into();
    let phase = Some(Tone::Strong.text(snapshot.phase.as_str())).filter(|_| with_phase);
    let Some(event) = &snapshot.event else {
        let first = [time_now()].into_iter().chain(phase).chain([count]).collect();
        let mut text = list_read(snapshot);
        if let Some(ack) = snapshot.ack.as_ref().filter(|_| wide) {
            text.push(Tone::Faint, &format!("position {}", ack.as_str()));
        }
        return Row::Sentence { first, text };
    };
    let mut cells = event_cells(event, before);
    cells.insert(1, count);
    if let Some(phase) = phase {
        cells.insert(1, phase);
    }
    Row::Cells(cells)
}

/// The cells of [`STATE`] for a pod of the first list.
pub(crate) fn listed_cells(pod: &Pod) -> Vec<Text> {
    let word = Tone::Faint.text("LISTED");
    let empty = Text::default;
    vec![time_now(), empty(), empty(), word, pod_name(pod).into(), empty(), changes::state(pod)]
}

/// The text of a snapshot that is not about one event.
fn list_read(snapshot: &Snapshot) -> Text {
    let mut text = Text::default();
    if let Some(gap) = &snapshot.gap {
        let missed = match gap.missed {
            Some(1) => "1 event was lost".into(),
            Some(missed) => format!("{missed} events were lost"),
            None => "an unknown number of events was lost".into(),
        };
        text.push(Tone::Bad, &format!("gap ({}): {missed}", gap.reason.as_str()));
    }
    if let Some(cause) = &snapshot.cause {
        let before = if text.is_empty() { "" } else { "; " };
        text.push(Tone::Warn, &format!("{before}the connection dropped ({cause})"));
    }
    if !text.is_empty() {
        text.push(Tone::Plain, "; the list was read again");
    }
    let count = |kind| snapshot.changed.iter().filter(|change| change.kind == kind).count();
    let counts = [
        (count(relay_pods::ChangeKind::Added), "added"),
        (count(relay_pods::ChangeKind::Modified), "modified"),
        (count(relay_pods::ChangeKind::Removed), "removed"),
    ];
    let counts: Vec<_> =
        counts.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}")).collect();
    let is_first = text.is_empty() && count(relay_pods::ChangeKind::Added) == snapshot.pods.len();
    if is_first && counts.len() == 1 {
        text.push(Tone::Plain, &format!("{} listed", counted(snapshot.pods.len() as u64, "pod")));
    } else if !counts.is_empty() {
        let (before, after) = if text.is_empty() { ("", "") } else { (" (", ")") };
        text.push(Tone::Plain, &format!("{before}{}{after}", counts.join(", ")));
    }
    text
}

/// The columns of `relay state --group-by`.
pub(crate) const GROUPS: &[Column] = &[
    EVENT[0],
    Column::name("GROUP").least(36),
    Column::new("READY").least(7),
    Column::new("RESTARTS").right().dispensable(3),
    Column::sentence("PHASES"),
];

/// The group of the pods without the label. No label can have this value.
const NO_GROUP: &str = "(none)";

/// The fields of `state --group-by`.
pub(crate) fn group_json(label: &str, group: Option<&str>, tally: &Tally, pods: Option<Value>) -> Value {
    let mut line = tally.json();
    line.insert("label".into(), label.into());
    line.insert("group".into(), group.unwrap_or(NO_GROUP).into());
    line.extend(pods.map(|pods| ("pod_set".to_owned(), pods)));
    Value::Object(line)
}

/// The cells of [`GROUPS`].
pub(crate) fn group_cells(time: Text, label: &str, group: Option<&str>, tally: &Tally) -> Vec<Text> {
    let tone = match (tally.ready, tally.pods) {
        (_, 0) => Tone::Faint,
        (ready, pods) if ready == pods => Tone::Good,
        (0, _) => Tone::Bad,
        _ => Tone::Warn,
    };
    vec![
        time,
        match group {
            Some(value) => format!("{label}={value}").into(),
            None => Text::from(format!("{label} ")).and(Tone::Faint, NO_GROUP),
        },
        tone.text(format!("{}/{}", tally.ready, tally.pods)),
        tally.restarts.to_string().into(),
        tally.phases_text().into(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restarts_say_how_long_ago_the_last_was() {
        let now = Timestamp::new("2026-11-21T09:00:00Z").unix_millis().unwrap();
        for (count, ended, text) in [
            (3, r#","last_finished_at":"2026-11-21T08:55:00Z""#, "3 (5m ago)"),
            (1, r#","last_finished_at":"2026-11-21T06:30:00Z""#, "1 (150m ago)"),
            (1, r#","lastFinishedAt":"2026-11-14T08:30:00Z""#, "1 (7d ago)"),
            (3, "", "3"),
            (3, r#","last_finished_at":"soon""#, "3"),
            (0, r#","last_finished_at":"2026-11-21T08:55:00Z""#, "0"),
        ] {
            let pod = format!(
                r#"{{"namespace":"a","name":"b","containers":[{{"name":"c","state":"running","restart_count":{count}{ended}}}]}}"#
            );
            let cells = pod_cells(&Pod::from_json(&pod).unwrap(), now);
            assert_eq!(cells[4].as_str(), text, "{pod}");
        }
    }
}
