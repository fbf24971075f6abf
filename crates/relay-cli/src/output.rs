//! Lines on standard output: JSON objects, or text for people.

use std::io::{self, IsTerminal, Write};

use relay_pods::{Pod, PodEvent, Snapshot};
use serde::Serialize;
use serde_json::{Value, json};

use crate::args::{Format, Print};
use crate::tally::Tally;

/// Standard output, a line at a time, flushed after each.
#[derive(Debug)]
pub(crate) struct Output {
    format: Format,
    pub(crate) lines: u64,
}

impl Output {
    pub(crate) fn new(print: Print) -> Self {
        let default = if io::stdout().is_terminal() { Format::Table } else { Format::Json };
        Self::in_format(print.output.unwrap_or(default))
    }

    pub(crate) fn in_format(format: Format) -> Self {
        Self { format, lines: 0 }
    }

    pub(crate) fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// Prints one line: the JSON, or the text.
    ///
    /// # Errors
    /// When nobody reads the output any more.
    pub(crate) fn line(
        &mut self,
        json: impl FnOnce() -> Value,
        text: impl FnOnce() -> String,
    ) -> anyhow::Result<()> {
        let line = if self.is_json() { json().to_string() } else { text() };
        self.lines += 1;
        let mut out = io::stdout().lock();
        writeln!(out, "{line}").and_then(|()| out.flush())?;
        Ok(())
    }

    /// Prints a line for people only.
    ///
    /// # Errors
    /// When nobody reads the output any more.
    pub(crate) fn heading(&mut self, text: &str) -> anyhow::Result<()> {
        if !self.is_json() {
            writeln!(io::stdout().lock(), "{text}")?;
        }
        Ok(())
    }
}

pub(crate) const POD_HEADING: &str =
    "NAMESPACE        NAME                                      STATUS     READY  RESTARTS  NODE";

pub(crate) fn pod_row(pod: &Pod) -> String {
    let printed = pod.printed();
    format!(
        "{:<16} {:<41} {:<10} {:<6} {:<9} {}",
        pod.namespace(),
        pod.name(),
        printed.status,
        format!("{}/{}", printed.ready, printed.containers),
        printed.restarts,
        pod.node_name().unwrap_or("-")
    )
}

pub(crate) fn event_json(event: &PodEvent) -> Value {
    let mut value = to_value(event);
    if let Value::Object(fields) = &mut value {
        // How positions link up is the client's business.
        fields.remove("previous_hash");
    }
    value
}

pub(crate) fn event_text(event: &PodEvent) -> String {
    let pod = &event.pod;
    let sequence = event.sequence.map_or("-".into(), |s| s.to_string());
    let synthetic = if event.synthetic { " (synthetic)" } else { "" };
    let ready = if pod.ready() { "ready" } else { "not ready" };
    let key = format!("{}/{}", pod.namespace(), pod.name());
    format!(
        "#{sequence:<7} {:<8} {key:<50} {}, {ready}{synthetic}",
        event.kind.as_str(),
        pod.phase().unwrap_or("-")
    )
}

/// The fields of `state`; `replay` adds its own.
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

pub(crate) fn snapshot_text(snapshot: &Snapshot) -> String {
    let mut text = format!("{:<15} {:>6} pods", snapshot.phase.as_str(), snapshot.pods.len());
    if let Some(gap) = &snapshot.gap {
        let missed = gap.missed.map_or("an unknown number of".into(), |n| n.to_string());
        text += &format!("   gap: {}, {missed} events lost; read the list again", gap.reason.as_str());
    }
    if let Some(cause) = &snapshot.cause {
        text += &format!("   the connection dropped ({cause}); read the list again");
    }
    if let Some(event) = &snapshot.event {
        text += &format!("   {}", event_text(event));
    }
    text
}

/// The fields of `state --group-by`.
pub(crate) fn group_json(label: &str, group: &str, tally: &Tally, pods: Option<Value>) -> Value {
    let mut line = tally.json();
    line.insert("label".into(), label.into());
    line.insert("group".into(), group.into());
    line.extend(pods.map(|pods| ("pod_set".to_owned(), pods)));
    Value::Object(line)
}

pub(crate) fn group_text(label: &str, group: &str, tally: &Tally) -> String {
    let name = format!("{label}={group}");
    let (pods, ready, restarts) = (tally.pods, tally.ready, tally.restarts);
    let text =
        format!("{name:<40} {ready:>4} of {pods:>4} ready {restarts:>5} restarts   {}", tally.phases_text());
    text.trim_end().to_owned()
}

/// Everything we print has string keys and no failing parts.
pub(crate) fn to_value(thing: impl Serialize) -> Value {
    serde_json::to_value(thing).unwrap_or(Value::Null)
}
