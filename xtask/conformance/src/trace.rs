//! Requests and snapshots as lines of text: expected from the file, and observed in a run.

use std::fmt::Write as _;

use relay_proto::pods::{EventHash, Pod};
use relay_state::pods::{Change, ChangeKind, Snapshot};
use serde_json::Value;

use crate::conversation::{Conversation, Expect, ExpectPod, Finally, Step};

/// How a conversation is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Runner {
    /// With the machines alone, so that the time of reading each line is known.
    Pure,
    /// Through HTTP, so that the client's freshness is known.
    Http,
}

/// The lines of one run, and those of the conversation.
pub(crate) struct Trace<'c> {
    conversation: &'c Conversation,
    lines: Vec<String>,
    /// Counts that identify the line of the conversation to which the next observation belongs.
    lists: usize,
    outputs: usize,
}

/// The status of the client at a snapshot.
pub(crate) struct StreamStatus {
    pub(crate) acknowledged: Option<EventHash>,
    /// `None` if this runner does not know it.
    pub(crate) freshness: Option<&'static str>,
}

impl<'c> Trace<'c> {
    pub(crate) fn new(conversation: &'c Conversation) -> Self {
        Self { conversation, lines: Vec::new(), lists: 0, outputs: 0 }
    }

    /// The client asks for a list.
    pub(crate) fn asks_list(&mut self, at_least: Option<&str>) {
        let lists = self.conversation.lines.iter().filter_map(|line| match &line.step {
            Step::List(list) => Some(list),
            _ => None,
        });
        let compared = lists.into_iter().nth(self.lists).is_some_and(|list| list.at_least.is_some());
        self.lists += 1;
        self.lines.push(list_line(compared.then_some(at_least)));
    }

    /// The client asks for the stream.
    pub(crate) fn connects(&mut self, since: Option<&str>, start: Option<&str>) {
        self.lines.push(connect_line(since, start));
    }

    /// The caller gets a snapshot.
    pub(crate) fn shows(&mut self, snapshot: &Snapshot, status: &StreamStatus) {
        let mut expects = self.conversation.lines.iter().filter_map(|line| match &line.step {
            Step::Expect(expect) => Some(&**expect),
            _ => None,
        });
        let pods = expects.clone().take(self.outputs + 1).filter_map(|expect| expect.pods.as_ref()).last();
        let expect = expects.nth(self.outputs);
        self.outputs += 1;
        self.lines.push(observed(snapshot, status, expect, pods.map(Vec::as_slice)));
    }

    /// Something that no conversation expects.
    pub(crate) fn surprise(&mut self, what: &str) {
        self.lines.push(format!("!! {what}"));
    }

    /// The relay has gone.
    pub(crate) fn ends(&mut self, acknowledged: Option<&EventHash>, counts: &Value) {
        let Some(finally) = &self.conversation.finally else { return };
        let count = |name: &str| counts.get(name).and_then(Value::as_u64);
        let counts = finally.counts.keys().map(|name| (name.as_str(), count(name)));
        let acknowledged = finally.acknowledged.is_some().then(|| acknowledged.map(EventHash::as_str));
        self.lines.push(finally_line(acknowledged, counts));
    }

    /// The relay says something, or ends the connection.
    pub(crate) fn reads(&mut self, number: usize) {
        self.lines.push(stream_line(number));
    }

    /// Whether the run matches the conversation; if not, how it differs.
    pub(crate) fn verdict(self, runner: Runner) -> Result<(), String> {
        let expected = expected(self.conversation, runner);
        let same = expected.iter().map(|(_, line)| line).eq(&self.lines);
        if same { Ok(()) } else { Err(difference(&expected, &self.lines)) }
    }
}

/// What the conversation expects, with the line of each.
fn expected(conversation: &Conversation, runner: Runner) -> Vec<(usize, String)> {
    let mut pods: &[ExpectPod] = &[];
    let mut lines = Vec::new();
    for line in &conversation.lines {
        let text = match &line.step {
            Step::List(list) => list_line(list.at_least.as_ref().map(Option::as_deref)),
            Step::Connect(connect) => connect_line(connect.since.as_deref(), connect.start.as_deref()),
            Step::Expect(expect) => {
                pods = expect.pods.as_deref().unwrap_or(pods);
                wanted(expect, pods, runner)
            }
            Step::Bytes(_) | Step::Time(_) | Step::Cut | Step::ClientEnds if runner == Runner::Pure => {
                stream_line(line.number)
            }
            Step::Bytes(_) | Step::Time(_) | Step::Cut | Step::ClientEnds => continue,
        };
        lines.push((line.number, text));
    }
    if let Some(Finally { acknowledged, counts }) = &conversation.finally {
        let counts = counts.iter().map(|(name, count)| (name.as_str(), Some(*count)));
        let last = lines.last().map_or(0, |(number, _)| number + 1);
        lines.push((last, finally_line(acknowledged.as_ref().map(Option::as_deref), counts)));
    }
    lines
}

fn stream_line(number: usize) -> String {
    format!("stream, line {number}")
}

fn list_line(at_least: Option<Option<&str>>) -> String {
    match at_least {
        None => "GET /pods".into(),
        Some(at_least) => format!("GET /pods at_least={}", at_least.unwrap_or("none")),
    }
}

fn connect_line(since: Option<&str>, start: Option<&str>) -> String {
    let mut line = format!("GET /events/stream since_hash={}", since.unwrap_or("none"));
    if let Some(start) = start {
        let _ = write!(line, " start={start}");
    }
    line
}

fn finally_line<'a>(
    acknowledged: Option<Option<&str>>,
    counts: impl Iterator<Item = (&'a str, Option<u64>)>,
) -> String {
    let mut line = "finally".to_owned();
    if let Some(acknowledged) = acknowledged {
        let _ = write!(line, " acknowledged={}", acknowledged.unwrap_or("none"));
    }
    for (name, count) in counts {
        let _ = write!(line, " {name}={}", count.map_or("unknown".into(), |count| count.to_string()));
    }
    line
}

/// One output as a text; fields that are not compared are `None`.
struct Output<'a> {
    phase: &'a str,
    event: Option<&'a str>,
    kind: Option<&'a str>,
    ack: Option<&'a str>,
    gap: Option<(&'a str, Option<&'a str>, Option<u64>)>,
    cause: Option<&'a str>,
    changed: Vec<String>,
    pods: Vec<String>,
    historic: bool,
    acknowledged: Option<Option<&'a str>>,
    freshness: Option<&'a str>,
}

impl Output<'_> {
    fn line(&self) -> String {
        let mut line = self.phase.to_owned();
        let mut say = |name: &str, value: Option<&str>| {
            if let Some(value) = value {
                let _ = write!(line, " {name}={value}");
            }
        };
        say("event", self.event);
        say("kind", self.kind);
        say("ack", self.ack);
        if let Some((reason, hash, sequence)) = self.gap {
            let sequence = sequence.map_or("none".into(), |sequence| sequence.to_string());
            say("gap", Some(&format!("{reason}@{}/{sequence}", hash.unwrap_or("none"))));
        }
        say("cause", self.cause);
        if !self.changed.is_empty() {
            say("changed", Some(&format!("[{}]", self.changed.join(", "))));
        }
        say("pods", Some(&format!("[{}]", self.pods.join(", "))));
        say("historic", self.historic.then_some("true"));
        say("acknowledged", self.acknowledged.map(|hash| hash.unwrap_or("none")));
        say("freshness", self.freshness);
        line
    }
}

fn wanted(expect: &Expect, pods: &[ExpectPod], runner: Runner) -> String {
    let mut pods: Vec<String> = pods
        .iter()
        .map(|pod| match pod {
            ExpectPod::Short(text) => text.clone(),
            ExpectPod::Fields(fields) => Value::Object(fields.clone()).to_string(),
        })
        .collect();
    pods.sort();
    Output {
        phase: &expect.phase,
        event: expect.event.as_deref(),
        kind: expect.kind.as_deref(),
        ack: expect.ack.as_deref(),
        gap: expect.gap.as_ref().map(|gap| (gap.reason.as_str(), gap.hash.as_deref(), gap.sequence)),
        cause: expect.cause.as_deref(),
        changed: expect.changed.clone(),
        pods,
        historic: expect.historic,
        acknowledged: expect.acknowledged.as_ref().map(Option::as_deref),
        freshness: expect.freshness.as_deref().filter(|_| runner == Runner::Http),
    }
    .line()
}

fn observed(
    snapshot: &Snapshot,
    status: &StreamStatus,
    expect: Option<&Expect>,
    pods: Option<&[ExpectPod]>,
) -> String {
    let event = snapshot.event.as_ref();
    let mut shown: Vec<String> =
        snapshot.pods.iter().map(|pod| show_pod(pod, pods.unwrap_or_default())).collect();
    shown.sort();
    Output {
        phase: snapshot.phase.as_str(),
        event: event.map(|event| event.hash.as_str()),
        kind: event.filter(|_| expect.is_some_and(|e| e.kind.is_some())).map(|event| event.kind.as_str()),
        ack: snapshot.ack.as_ref().map(EventHash::as_str),
        gap: snapshot
            .gap
            .as_ref()
            .map(|gap| (gap.reason.as_str(), gap.hash.as_ref().map(EventHash::as_str), gap.sequence)),
        cause: snapshot.cause.as_deref().map(cause_class),
        changed: show_changes(&snapshot.changed),
        pods: shown,
        historic: snapshot.historic,
        acknowledged: expect
            .and_then(|expect| expect.acknowledged.as_ref())
            .map(|_| status.acknowledged.as_ref().map(EventHash::as_str)),
        freshness: expect.and_then(|expect| expect.freshness.as_ref()).and(status.freshness),
    }
    .line()
}

/// Changes by key; the order within one key (a removal before an addition) is kept.
fn show_changes(changes: &[Change]) -> Vec<String> {
    let mut changes: Vec<&Change> = changes.iter().collect();
    changes.sort_by(|a, b| a.key().cmp(b.key()));
    let word = |kind| match kind {
        ChangeKind::Added => "added",
        ChangeKind::Modified => "modified",
        ChangeKind::Removed => "removed",
        _ => "changed",
    };
    changes.iter().map(|change| format!("{} {}", word(change.kind), change.key())).collect()
}

/// A pod in the form in which the conversation expects it.
fn show_pod(pod: &Pod, expected: &[ExpectPod]) -> String {
    let fields = expected.iter().find_map(|expected| match expected {
        ExpectPod::Fields(fields)
            if fields.get("namespace").and_then(Value::as_str) == Some(pod.namespace())
                && fields.get("name").and_then(Value::as_str) == Some(pod.name()) =>
        {
            Some(fields)
        }
        _ => None,
    });
    let Some(fields) = fields else {
        let uid = pod.uid().map(|uid| format!("/{uid}")).unwrap_or_default();
        let version = pod.resource_version().map(|version| format!("@{version}")).unwrap_or_default();
        return format!("{}{uid}{version}", pod.key());
    };
    let whole = serde_json::to_value(pod).unwrap_or_default();
    let named = fields.keys().map(|name| (name.clone(), whole.get(name).cloned().unwrap_or_default()));
    Value::Object(named.collect()).to_string()
}

/// The class of a drop's cause, because its text is for people and may change.
pub(crate) fn cause_class(cause: &str) -> &'static str {
    let classes = [
        ("hole", "hole"),
        ("the list is of another epoch", "epoch"),
        ("the relay is closing", "closing"),
        ("nothing received for", "idle"),
    ];
    classes.iter().find(|(start, _)| cause.starts_with(start)).map_or("ended", |(_, class)| class)
}

/// The lines of both sides. Those that are on one side only are marked.
fn difference(expected: &[(usize, String)], observed: &[String]) -> String {
    // Longest common subsequence. The tables are small.
    let (rows, columns) = (expected.len(), observed.len());
    let mut longest = vec![vec![0_usize; columns + 1]; rows + 1];
    for row in (0..rows).rev() {
        for column in (0..columns).rev() {
            longest[row][column] = if expected[row].1 == observed[column] {
                longest[row + 1][column + 1] + 1
            } else {
                longest[row + 1][column].max(longest[row][column + 1])
            };
        }
    }
    let (mut row, mut column, mut text) = (0, 0, String::new());
    while row < rows || column < columns {
        let same = row < rows && column < columns && expected[row].1 == observed[column];
        if same {
            let _ = writeln!(text, "  {:>4}   {}", expected[row].0, expected[row].1);
            (row, column) = (row + 1, column + 1);
        } else if row < rows && (column == columns || longest[row + 1][column] >= longest[row][column + 1]) {
            let _ = writeln!(text, "  {:>4} - {}", expected[row].0, expected[row].1);
            row += 1;
        } else {
            let _ = writeln!(text, "       + {}", observed[column]);
            column += 1;
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_shows_both_sides_in_place() {
        let expected = [(2, "a".to_owned()), (3, "b".to_owned()), (5, "c".to_owned())];
        let observed = ["a".to_owned(), "x".to_owned(), "c".to_owned(), "d".to_owned()];
        let shown = difference(&expected, &observed);
        assert_eq!(shown, "     2   a\n     3 - b\n       + x\n     5   c\n       + d\n");
    }

    #[test]
    fn causes_fall_into_classes() {
        for (cause, class) in [
            ("hole: the sequence jumped", "hole"),
            ("the list is of another epoch than the stream", "epoch"),
            ("the relay is closing the connection", "closing"),
            ("nothing received for 3s", "idle"),
            ("the server ended the connection", "ended"),
            ("connection reset by peer", "ended"),
        ] {
            assert_eq!(cause_class(cause), class);
        }
    }
}
