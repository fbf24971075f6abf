use super::*;
use relay_proto::pods::{EventHash, PodBuilder, PodKey};
use relay_proto::time::Timestamp;

/// A pod from `name:uid:version:created`, with `-` for a missing part.
fn pod(text: &str) -> Pod {
    let mut parts = text.split(':').map(|part| (part != "-").then_some(part));
    let mut next = || parts.next().flatten();
    let mut builder = PodBuilder::new("ns", next().unwrap());
    builder = builder.uid(next()).resource_version(next());
    builder.created_at(next().map(|s| Timestamp::from_unix_millis(s.parse().unwrap()))).build()
}

fn event(kind: &str, text: &str, sequence: Option<u64>) -> PodEvent {
    let left = kind.strip_suffix("-left");
    let hash = EventHash::new("h").unwrap();
    let mut event = PodEvent::new(EventType::parse(left.unwrap_or(kind)), hash, sequence, pod(text));
    event.left_filter = left.is_some();
    event
}

fn list(pods: &[&str], position: Option<(&str, u64)>) -> PodList {
    let mut list = PodList::default();
    list.pods = pods.iter().map(|text| pod(text)).collect();
    list.epoch = position.map(|(epoch, _)| Epoch::new(epoch));
    list.sequence = position.map(|(_, sequence)| sequence);
    list
}

fn show(changes: &[Change]) -> String {
    let one = |change: &Change| {
        let sign = match change.kind {
            ChangeKind::Added => '+',
            ChangeKind::Modified => '~',
            ChangeKind::Removed => '-',
        };
        let pod = change.after.as_ref().or(change.before.as_ref()).unwrap();
        format!("{sign}{}:{}", pod.name(), pod.uid().unwrap_or("-"))
    };
    changes.iter().map(one).collect::<Vec<_>>().join(" ")
}

/// Each row has events on a cache that holds `a:u1:5:100`, and the outcome and changes of the last event.
#[test]
fn rules_without_sequences() {
    use Outcome::{Applied, Late, StaleVersion, UnknownType};
    type Row = (&'static str, &'static [(&'static str, &'static str)], Outcome, &'static str);
    #[rustfmt::skip]
    let rows: &[Row] = &[
        ("newer version applies",                 &[("MODIFIED", "a:u1:6")], Applied, "~a:u1"),
        ("equal version is stale",                &[("MODIFIED", "a:u1:5")], StaleVersion, ""),
        ("older version is stale",                &[("ADDED", "a:u1:4")], StaleVersion, ""),
        ("versions compare as numbers",           &[("MODIFIED", "a:u1:10")], Applied, "~a:u1"),
        ("opaque versions do not compare",        &[("MODIFIED", "a:u1:x4")], Applied, "~a:u1"),
        ("deletion of equal version applies",     &[("DELETED", "a:u1:5")], Applied, "-a:u1"),
        ("deletion of older version is stale",    &[("DELETED", "a:u1:4")], StaleVersion, ""),
        ("other uid, later creation, replaces",   &[("ADDED", "a:u2:1:200")], Applied, "-a:u1 +a:u2"),
        ("other uid, unknown creation, replaces", &[("MODIFIED", "a:u2:1")], Applied, "-a:u1 +a:u2"),
        ("other uid, earlier creation, is late",  &[("ADDED", "a:u0:9:50")], Late, ""),
        ("deletion of another uid is late",       &[("DELETED", "a:u0:9")], Late, ""),
        ("no uid on one side: same pod",          &[("MODIFIED", "a:-:1")], Applied, "~a:-"),
        ("a deleted uid does not come back",      &[("DELETED", "a:u1:6"), ("MODIFIED", "a:u1:6")], Late, ""),
        ("unless its version is newer",           &[("DELETED", "a:u1:6"), ("MODIFIED", "a:u1:7")], Applied, "+a:u1"),
        ("tombstone without version holds",       &[("DELETED", "a:u1:-"), ("ADDED", "a:u1:9")], Late, ""),
        ("left_filter leaves no tombstone",       &[("DELETED-left", "a:u1:6"), ("ADDED", "a:u1:6")], Applied, "+a:u1"),
        ("successor after deletion",              &[("DELETED", "a:u1:6"), ("ADDED", "a:u2:7")], Applied, "+a:u2"),
        ("unknown type is not applied",           &[("RENAMED", "a:u1:9")], UnknownType, ""),
        ("deletion of an absent pod is a no-op",  &[("DELETED", "b:u9:1")], Applied, ""),
        ("modification of an absent pod adds",    &[("MODIFIED", "b:u9:1")], Applied, "+b:u9"),
    ];
    for (name, events, outcome, changes) in rows {
        let mut cache = PodCache::new();
        cache.seed(&list(&["a:u1:5:100"], None));
        let applied =
            events.iter().map(|(kind, text)| cache.apply(&event(kind, text, None), None)).last().unwrap();
        assert_eq!((applied.outcome, show(&applied.changes).as_str()), (*outcome, *changes), "{name}");
    }
}

#[test]
fn with_sequences_the_order_of_arrival_decides() {
    #[rustfmt::skip]
    let rows: &[(&str, &str, u64, Outcome, &str)] = &[
        ("MODIFIED", "a:u1:4", 11, Outcome::Applied, "~a:u1"),
        ("MODIFIED", "a:u1:6", 10, Outcome::Superseded, ""),
        ("DELETED",  "a:u1:6", 3,  Outcome::Superseded, ""),
        ("ADDED",    "a:u0:1:50", 11, Outcome::Applied, "-a:u1 +a:u0"),
        ("DELETED",  "a:u0:1", 11, Outcome::Applied, "-a:u1"),
    ];
    let epoch = Epoch::new("e");
    for (kind, text, sequence, outcome, changes) in rows {
        let mut cache = PodCache::new();
        cache.seed(&list(&["a:u1:5:100"], Some(("e", 10))));
        let applied = cache.apply(&event(kind, text, Some(*sequence)), Some(&epoch));
        assert_eq!(
            (applied.outcome, show(&applied.changes).as_str()),
            (*outcome, *changes),
            "{kind} {text} {sequence}"
        );
    }
    let mut cache = PodCache::new();
    cache.seed(&list(&["a:u1:5"], Some(("e", 10))));
    let other = cache.apply(&event("MODIFIED", "a:u1:6", Some(3)), Some(&Epoch::new("f")));
    assert_eq!(other.outcome, Outcome::Applied, "a sequence of another epoch says nothing");
}

#[test]
fn history_is_applied_as_it_stands() {
    let mut cache = PodCache::new();
    cache.seed(&list(&["a:u1:5:100"], Some(("e", 10))));
    let applied = cache.apply_as_it_stands(&event("MODIFIED", "a:u0:1:50", Some(2)));
    assert_eq!(show(&applied.changes), "-a:u1 +a:u0");
    assert_eq!(cache.counts().superseded, 0);
}

#[test]
fn a_seed_replaces_everything_and_tells_the_difference() {
    let mut cache = PodCache::new();
    assert_eq!(show(&cache.seed(&list(&["b:1:1", "a:1:1", "c:1:1", "d:1:1"], None))), "+a:1 +b:1 +c:1 +d:1");
    let kept = cache.pods();
    let changes = cache.seed(&list(&["a:1:1", "b:1:2", "d:2:1", "e:1:1"], None));
    assert_eq!(show(&changes), "~b:1 -c:1 -d:1 +d:2 +e:1");
    assert_eq!((kept.len(), cache.pods().len()), (4, 4));
    assert!(kept.get(&PodKey::new("ns", "c")).is_some(), "a snapshot never changes");
}

#[test]
fn tombstones_are_bounded() {
    let mut cache = PodCache::new();
    for n in 0..Tombstones::LIMIT + 10 {
        cache.apply(&event("DELETED", &format!("p:u{n}:1"), None), None);
    }
    assert_eq!(cache.tombstones.versions.len(), Tombstones::LIMIT);
    assert!(!cache.tombstones.covers("u0", Some(1)), "the oldest went first");
    assert!(cache.tombstones.covers("u10", Some(1)));
}
