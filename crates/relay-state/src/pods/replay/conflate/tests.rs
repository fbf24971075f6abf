use std::collections::BTreeMap;

use proptest::prelude::*;
use relay_proto::pods::{
    EventType, ListDecoder, ListFormat, ListLimits, Message, PodBuilder, PodKey, PodList,
};
use serde_json::{Value, json};

use super::*;
use crate::pods::{ChangeKind, Phase, PodCache, ReplayMode, ReplayOptions, Step};

/// `a1x` is pod `a` with uid `1` and phase `x`.
fn pod(word: &str) -> Pod {
    let (name, rest) = word.split_at(1);
    PodBuilder::new("ns", name).uid(Some(&rest[..1])).phase(Some(&rest[1..])).build()
}

fn event(kind: EventType, n: usize, pod: Pod) -> PodEvent {
    PodEvent::new(kind, EventHash::new(&format!("h{n}")).unwrap(), None, pod)
}

fn snapshot(phase: Phase, event: Option<PodEvent>, changed: Vec<Change>) -> Snapshot {
    let ack = event.as_ref().map(|event| event.hash.clone());
    let fold = Replay::new(ReplayOptions::default());
    Snapshot { event, changed, ack, ..fold.snapshot(phase, phase) }
}

fn show(changes: &[Change]) -> String {
    let word = |pod: &Option<Pod>| {
        pod.as_ref().map_or(String::new(), |p| {
            format!("{}{}{}", p.name(), p.uid().unwrap_or_default(), p.phase().unwrap_or_default())
        })
    };
    let shown = changes.iter().map(|c| match c.kind {
        ChangeKind::Added => format!("+{}", word(&c.after)),
        ChangeKind::Modified => format!("{}~{}", word(&c.before), word(&c.after)),
        ChangeKind::Removed => format!("-{}", word(&c.before)),
    });
    shown.collect::<Vec<_>>().join(" ")
}

#[test]
fn changes_add_up() {
    #[rustfmt::skip]
    let cases = [
        // before       events                 net change
        ("",            "+a1x +b1x",           "+a1x +b1x"),
        ("",            "+b1x +a1x",           "+a1x +b1x"),
        ("",            "+a1x -a1x",           ""),
        ("",            "+a1x ~a1y",           "+a1y"),
        ("",            "+a1x ~a1y -a1y +a2z", "+a2z"),
        ("",            "+a1x +a2x",           "+a2x"),
        ("a1x",         "~a1y ~a1z",           "a1x~a1z"),
        ("a1x",         "~a1y ~a1x",           ""),
        ("a1x",         "~a1y -a1y",           "-a1x"),
        ("a1x",         "-a1x +a1x",           ""),
        ("a1x",         "-a1x +a1y",           "a1x~a1y"),
        ("a1x",         "-a1x +a2x",           "-a1x +a2x"),
        ("a1x",         "~a2x ~a2y",           "-a1x +a2y"),
        ("a1x",         "~a2x -a2x",           "-a1x"),
        ("a1x",         "~a2x ~a1x",           ""),
        ("a1x",         "~a2x ~a1y",           "a1x~a1y"),
        ("a1x b1x",     "-b1x ~a1y +c1x",      "a1x~a1y -b1x +c1x"),
        ("a1x",         "-b1x -b1x",           ""),
    ];
    for (before, events, expected) in cases {
        let mut cache = PodCache::new();
        for word in before.split_whitespace() {
            cache.apply(&event(EventType::Added, 0, pod(word)), None);
        }
        let mut conflation: Option<Conflation> = None;
        for (n, word) in events.split_whitespace().enumerate() {
            let kind = match &word[..1] {
                "+" => EventType::Added,
                "~" => EventType::Modified,
                _ => EventType::Deleted,
            };
            let event = event(kind, n, pod(&word[1..]));
            let changed = cache.apply_as_it_stands(&event).changes;
            let next = snapshot(Phase::Live, Some(event), changed);
            match &mut conflation {
                None => conflation = Some(Conflation::new(next)),
                Some(conflation) => conflation.push(next).unwrap(),
            }
        }
        let merged = conflation.unwrap().finish();
        assert_eq!(show(&merged.changed), expected, "{before:?}, then {events}");
    }
}

#[test]
fn nothing_is_merged_over_a_boundary() {
    let live = |n| snapshot(Phase::Live, Some(event(EventType::Added, n, pod("a1x"))), vec![]);
    let replayed = |n| Snapshot { goes_on: Phase::Backfill, phase: Phase::Backfill, ..live(n) };
    let gap = relay_proto::pods::Gap::new(relay_proto::pods::GapReason::Hole, None, None);
    let others = [
        ("a bookmark", Snapshot { event: None, ..live(2) }),
        ("another phase", replayed(2)),
        ("a list", snapshot(Phase::CurrentSeed, None, vec![])),
        ("the end of the replay", snapshot(Phase::CatchupComplete, None, vec![])),
        ("a gap", Snapshot { gap: Some(gap.clone()), ..snapshot(Phase::GapReseed, None, vec![]) }),
        ("a gap with an event", Snapshot { gap: Some(gap), ..live(2) }),
        ("a drop", snapshot(Phase::ReconnectReseed, None, vec![])),
        ("a drop with an event", Snapshot { cause: Some("eof".into()), ..live(2) }),
        ("history", Snapshot { historic: true, ..live(2) }),
        ("another way on", Snapshot { goes_on: Phase::Backfill, ..live(2) }),
    ];
    for (what, other) in others {
        let mut after_live = Conflation::new(live(1));
        assert_eq!(after_live.push(other.clone()).unwrap_err().phase, other.phase, "{what} after an event");
        assert_eq!(after_live.finish(), live(1), "{what}: as it was");
        let mut before_live = Conflation::new(other.clone());
        assert!(before_live.push(live(3)).is_err(), "an event after {what}");
        assert_eq!(before_live.finish(), other, "{what}: as it was");
    }
    for two in [[live(1), live(2)], [replayed(1), replayed(2)]] {
        let [first, second] = two;
        let mut both = Conflation::new(first);
        both.push(second).unwrap();
        assert_eq!((both.events(), both.ack().map(EventHash::as_str)), (2, Some("h2")));
        let merged = both.finish();
        assert_eq!(merged.events().map(|e| e.hash.as_str()).collect::<Vec<_>>(), ["h1", "h2"]);
    }
}

#[test]
fn conflated_snapshots_are_conflated_again() {
    let live = |n| snapshot(Phase::Live, Some(event(EventType::Added, n, pod("a1x"))), vec![]);
    let pair = |n| {
        let mut pair = Conflation::new(live(n));
        pair.push(live(n + 1)).unwrap();
        pair.finish()
    };
    let mut four = Conflation::new(pair(1));
    four.push(pair(3)).unwrap();
    assert_eq!(four.events(), 4);
    let hashes: Vec<String> = four.finish().events().map(|e| e.hash.to_string()).collect();
    assert_eq!(hashes, ["h1", "h2", "h3", "h4"]);
}

/// An action of a relay.
#[derive(Debug, Clone)]
enum Op {
    Pod(&'static str, u8, u8, u8),
    Catchup,
    Heartbeat,
    /// Events are lost, and so is a pod.
    Gap(u8),
    Drop,
}

fn op() -> impl Strategy<Value = Op> {
    let kind = prop_oneof![1 => Just("ADDED"), 3 => Just("MODIFIED"), 1 => Just("DELETED")];
    prop_oneof![
        20 => (kind, 0..3u8, 0..2u8, 0..3u8).prop_map(|(kind, name, uid, phase)| Op::Pod(kind, name, uid, phase)),
        3 => Just(Op::Catchup),
        1 => Just(Op::Heartbeat),
        1 => (0..3u8).prop_map(Op::Gap),
        1 => Just(Op::Drop),
    ]
}

/// A relay that does one action after the other, and its pods.
#[derive(Default)]
struct Relay {
    pods: BTreeMap<String, Value>,
    head: u64,
    connected: bool,
    /// Whether a heartbeat has moved the acknowledgement since the last event.
    bookmarked: bool,
}

impl Relay {
    fn list(&self) -> PodList {
        let pods: Vec<&Value> = self.pods.values().collect();
        let list =
            json!({"pods": pods, "hash": format!("h{}", self.head), "sequence": self.head, "epoch": "e"});
        let mut decoder = ListDecoder::new(ListFormat::Json, ListLimits::default());
        decoder.feed(list.to_string().as_bytes()).unwrap();
        decoder.finish().unwrap()
    }

    fn say(&mut self, op: &Op) -> Option<Message> {
        self.bookmarked = matches!(op, Op::Heartbeat);
        let position = |n: u64| json!({"hash": format!("h{n}"), "sequence": n});
        let (name, mut data) = match op {
            Op::Pod(kind, name, uid, phase) => {
                let name = format!("p{name}");
                let pod = json!({"namespace": "ns", "name": name, "uid": uid.to_string(), "phase": phase.to_string()});
                match *kind {
                    "DELETED" => self.pods.remove(&name),
                    _ => self.pods.insert(name, pod.clone()),
                };
                self.head += 1;
                let previous = format!("h{}", self.head - 1);
                ("pod", json!({"type": kind, "pod": pod, "previous_hash": previous}))
            }
            Op::Catchup => ("catchup_complete", json!({})),
            Op::Heartbeat => ("heartbeat", json!({"catching_up": true})),
            Op::Gap(name) => {
                self.pods.remove(&format!("p{name}"));
                self.head += 2;
                ("gap", json!({"reason": "slow-consumer", "epoch": "e"}))
            }
            Op::Drop => {
                self.connected = false;
                return None;
            }
        };
        data.as_object_mut().unwrap().extend(position(self.head).as_object().unwrap().clone());
        let id = format!("h{}", self.head);
        Some(Message::decode(name, &id, &data.to_string()))
    }

    fn connected(&mut self) -> Message {
        self.connected = true;
        let start = json!({"hash": format!("h{}", self.head), "sequence": self.head});
        let data = json!({"epoch": "e", "filtered": false, "head": start, "resumes_after": start});
        Message::decode("connected", "", &data.to_string())
    }
}

/// The snapshots that the caller of a fold gets. `ready` has the number of things that have arrived before each poll.
fn follow(options: &ReplayOptions, ops: &[Op], ready: Option<&[usize]>) -> Vec<Snapshot> {
    let (mut fold, mut relay, mut seen) = (Replay::new(options.clone()), Relay::default(), Vec::new());
    let mut ops = ops.iter().peekable();
    loop {
        let step = fold.poll();
        if let Some(ack) = seen.last().and_then(|snapshot: &Snapshot| snapshot.ack.as_ref()) {
            assert!(
                fold.acknowledged() == Some(ack) || relay.bookmarked,
                "asking for more acknowledges {ack}"
            );
        }
        match step {
            Step::Snapshot(snapshot) => {
                let most = ready.map_or(1, |ready| ready[seen.len() % ready.len()]);
                let mut conflation = Conflation::new(*snapshot);
                for _ in 1..most {
                    if !(conflation.is_open() && fold.wants_message() && relay.connected) {
                        break;
                    }
                    let Some(next) = ops.next_if(|op| matches!(op, Op::Pod(..))) else { break };
                    fold.handle_message(relay.say(next).unwrap()).unwrap();
                    fold.conflate(&mut conflation);
                }
                let snapshot = conflation.finish();
                let unfinished = snapshot.events().any(|e| fold.acknowledged() == Some(&e.hash));
                assert!(!unfinished, "the caller has not finished with {:?}", fold.acknowledged());
                seen.push(snapshot);
            }
            Step::Seed { .. } => {
                fold.handle_seed(relay.list()).unwrap();
            }
            Step::Message if !relay.connected => fold.handle_message(relay.connected()).unwrap(),
            Step::Message => match ops.next() {
                None => return seen,
                Some(op) => match relay.say(op) {
                    Some(message) => fold.handle_message(message).unwrap(),
                    None => fold.handle_dropped("eof"),
                },
            },
            step => panic!("{step:?}: this relay makes no holes"),
        }
    }
}

/// A slow and simple difference.
fn difference(before: &Snapshot, after: &Snapshot) -> String {
    let mut changes = Vec::new();
    for name in ["p0", "p1", "p2"] {
        let key = PodKey::new("ns", name);
        let pair = (before.pods.get(&key).cloned(), after.pods.get(&key).cloned());
        let change = |kind, before, after| Change { kind, before, after };
        match pair {
            (before, after) if before == after => {}
            (None, after) => changes.push(change(ChangeKind::Added, None, after)),
            (before, None) => changes.push(change(ChangeKind::Removed, before, None)),
            (Some(before), Some(after)) if before.uid() == after.uid() => {
                changes.push(change(ChangeKind::Modified, Some(before), Some(after)));
            }
            (before, after) => {
                changes.push(change(ChangeKind::Removed, before, None));
                changes.push(change(ChangeKind::Added, None, after));
            }
        }
    }
    show(&changes)
}

/// Everything except the pods and the changes, one line per event, or per snapshot without an event.
fn story(seen: &[Snapshot]) -> Vec<String> {
    let mut lines = Vec::new();
    for s in seen {
        let place = format!("{} {} {}", s.phase, s.goes_on, s.historic);
        lines.extend(s.events().map(|e| format!("{place} {}", e.hash)));
        if s.event.is_none() {
            let gap = s.gap.as_ref().map(|gap| gap.reason.as_str());
            lines.push(format!("{place} gap {gap:?} cause {:?} ack {:?}", s.cause, s.ack));
        }
    }
    lines
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn conflated_or_not_the_story_is_the_same(
        ops in prop::collection::vec(op(), 1..60),
        ready in prop::collection::vec(1..8usize, 1..10),
        state in any::<bool>(),
        apply_backfill in any::<bool>(),
    ) {
        let mode = if state { ReplayMode::State } else { ReplayMode::Phases };
        let options = ReplayOptions::default().mode(mode).apply_backfill(apply_backfill);
        let plain = follow(&options, &ops, None);
        let conflated = follow(&options, &ops, Some(&ready));
        prop_assert_eq!(story(&plain), story(&conflated));
        let mut single = plain.iter();
        for (n, merged) in conflated.iter().enumerate() {
            let same = single.nth(merged.events().count().saturating_sub(1)).unwrap();
            prop_assert_eq!((&merged.pods, &merged.ack, &merged.event), (&same.pods, &same.ack, &same.event));
            if merged.earlier.is_empty() {
                prop_assert_eq!(&merged.changed, &same.changed);
            } else {
                prop_assert_eq!(show(&merged.changed), difference(&conflated[n - 1], merged));
            }
        }
        prop_assert!(single.next().is_none());
    }
}

/// Shows that the property above is not empty: with many events ready there are far fewer snapshots.
#[test]
fn plenty_of_events_make_few_snapshots() {
    let mut ops = vec![Op::Catchup];
    ops.extend((0..100).map(|n| Op::Pod("MODIFIED", n % 3, 0, n % 2)));
    for mode in [ReplayMode::State, ReplayMode::Phases] {
        let options = ReplayOptions::default().mode(mode);
        let count = |ready| follow(&options, &ops, ready).iter().filter(|s| s.event.is_some()).count();
        assert_eq!((count(None), count(Some(&[10])), count(Some(&[1000]))), (100, 10, 1), "{mode:?}");
    }
}
