//! The generator compared with slow models, and the source with a log.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::prelude::*;
use relay_proto::pods::{Pod, PodKey};
use relay_proto::time::Timestamp;

use super::cluster::{Change, ChangeKind, Cluster};
use super::*;
use crate::clock::Clock;
use crate::log::Log;
use crate::log::at_once;
use crate::store::{DEFAULT_RETENTION, Page, Record};

type Fold = BTreeMap<PodKey, Pod>;

fn fold_of(cluster: &Cluster) -> Fold {
    cluster.pods().map(|pod| (pod.key().clone(), pod.clone())).collect()
}

fn apply(fold: &mut Fold, change: &Change) {
    let key = change.pod.key().clone();
    match change.kind {
        ChangeKind::Upsert => fold.insert(key, change.pod.clone()),
        ChangeKind::Delete => fold.remove(&key),
    };
}

fn steps(cluster: &mut Cluster, count: usize) -> Vec<Change> {
    (0..count).map(|_| cluster.step().expect("a cluster with pods is never done")).collect()
}

fn version(pod: &Pod) -> u64 {
    pod.resource_version().unwrap().parse().unwrap()
}

fn labels(pod: &Pod) -> Vec<(String, String)> {
    pod.labels().map(|(name, value)| (name.into(), value.into())).collect()
}

/// Checks the rules that hold for any run: compares every event with the one before and with the fold.
fn check_run(start: Fold, changes: &[Change], last_version: u64) -> Fold {
    let mut fold = start;
    let mut uids: BTreeSet<String> = fold.values().map(|pod| pod.uid().unwrap().to_owned()).collect();
    assert_eq!(uids.len(), fold.len(), "a uid is one pod's");
    let (mut last, mut time, mut since_label) = (last_version, i64::MIN, 0);
    for change in changes {
        let pod = &change.pod;
        assert!(version(pod) > last, "versions grow");
        last = version(pod);
        let now = change.at.unix_millis().unwrap();
        assert!(now > time, "time grows");
        time = now;
        since_label += 1;
        match (fold.get(pod.key()), change.kind) {
            (None, ChangeKind::Upsert) => {
                assert!(uids.insert(pod.uid().unwrap().into()), "a new pod has a new uid");
                assert_eq!((pod.phase(), pod.ready(), pod.node_name()), (Some("Pending"), false, None));
                assert_eq!(pod.created_at().as_ref(), Some(&change.at));
            }
            (None, ChangeKind::Delete) => panic!("{pod:?} was never there"),
            (Some(before), kind) => {
                assert_eq!((before.uid(), before.created_at()), (pod.uid(), pod.created_at()));
                assert_eq!(before.label("run"), pod.label("run"));
                assert!(pod.ready() <= pod.containers().iter().all(|container| container.ready));
                if kind == ChangeKind::Delete {
                    assert!(before.deleted_at().is_some(), "deletion is announced: {pod:?}");
                    let unassigned = before.node_name().is_none();
                    assert!(unassigned || before.containers()[0].state.as_deref() == Some("terminated"));
                } else if labels(before) != labels(pod) {
                    since_label = 0;
                }
            }
        }
        assert!(since_label < 50, "labels change within 50 events");
        apply(&mut fold, change);
    }
    fold
}

fn check_adoption(seed: u64, target: usize, before: usize) {
    let mut cluster = Cluster::new(seed, target, 0, None);
    steps(&mut cluster, before);
    let reread = |pod| Pod::from_json(&serde_json::to_string(pod).unwrap()).unwrap();
    let mut pods: Vec<Pod> = cluster.pods().map(reread).collect();
    pods.reverse();
    let mut adopted = Cluster::adopt(seed, target, pods, (target + before) as u64);
    assert_eq!(fold_of(&adopted), fold_of(&cluster));
    for step in 0..200 {
        assert_eq!(adopted.step(), cluster.step(), "they part at step {step}");
    }
}

#[test]
fn adopting_between_two_roll_outs_of_one_deployment() {
    check_adoption(5_306_570_383_063_650_246, 12, 378);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Events are complete, the number of pods stays near the target, and every event follows the rules.
    #[test]
    fn any_cluster_keeps_the_rules(seed: u64, target in 1_usize..150, head in 0_u64..1000) {
        let mut cluster = Cluster::new(seed, target, head, None);
        let start = fold_of(&cluster);
        prop_assert_eq!(start.len(), target);
        let newest = start.values().map(version).max().unwrap();
        prop_assert_eq!(newest - 800_000, head + target as u64);
        let mut fold = start.clone();
        let changes: Vec<Change> = (0..600).map(|_| {
            let change = cluster.step().unwrap();
            apply(&mut fold, &change);
            let room = 12 + target / 8;
            assert!(fold.len() <= target + room && fold.len() + room >= target, "{} pods of {target}", fold.len());
            change
        }).collect();
        let end = check_run(start, &changes, newest);
        prop_assert_eq!(&end, &fold_of(&cluster));
        prop_assert_eq!(cluster.now(), changes.last().unwrap().at.clone());
    }

    /// The pods of the log are the only state: a generator that starts from them continues in the same way.
    #[test]
    fn an_adopted_cluster_goes_on_as_if_nothing_had_happened(seed: u64, target in 1_usize..80, before in 0_usize..400) {
        check_adoption(seed, target, before);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// Whatever pods a log has, the cluster takes them over, follows the rules, and ends up near its own number of
    /// pods.
    #[test]
    fn any_pods_can_be_adopted(seed: u64, target in 0_usize..40, other in 0_usize..80, cut in 0_usize..40) {
        let mut stranger = Cluster::new(seed ^ 1, other, 0, None);
        for _ in 0..cut {
            stranger.step();
        }
        let mut pods: Vec<Pod> = stranger.pods().cloned().collect();
        pods.push(relay_proto::pods::PodBuilder::new("prod", "bare").uid(Some("bare")).build());
        let odd = relay_proto::pods::PodBuilder::new("prod", "odd").uid(Some("odd")).resource_version(Some("18446744073709551615"));
        pods.push(odd.phase(Some("Failed")).node_name(Some("node-1")).label("run", "d-1").build());
        let start: Fold = pods.iter().map(|pod| (pod.key().clone(), pod.clone())).collect();
        let mut cluster = Cluster::adopt(seed, target, pods, (other + cut) as u64);
        prop_assert_eq!(fold_of(&cluster), start.clone());
        let mut fold = start;
        for _ in 0..4000 {
            match cluster.step() {
                Some(change) => apply(&mut fold, &change),
                None => assert!(target == 0 && fold.is_empty()),
            }
        }
        prop_assert_eq!(&fold, &fold_of(&cluster));
        prop_assert!(fold.keys().all(|key| key.name() != "bare" && key.name() != "odd"));
        let room = 12 + target / 8;
        prop_assert!(fold.len() <= target + room && fold.len() + room >= target);
    }
}

#[test]
fn the_same_seed_is_the_same_cluster() {
    let run = |seed, target| {
        let mut cluster = Cluster::new(seed, target, 0, None);
        (fold_of(&cluster), steps(&mut cluster, 3000))
    };
    assert!(run(7, 60) == run(7, 60));
    let (pods, changes) = run(7, 60);
    let (others, other_changes) = run(8, 60);
    assert!(pods != others && changes != other_changes);
    // Fixes the sequence: users of a seed see every change of the generator.
    let digest = changes.iter().fold(0_u64, |sum, change| {
        let text = serde_json::to_string(&change.pod).unwrap() + change.at.as_str();
        text.bytes().fold(sum, |sum, byte| plan::mix(sum ^ u64::from(byte)))
    });
    assert_eq!(format!("{digest:016x}"), "c7d39acac2294bde");
}

#[test]
fn everything_that_is_promised_happens() {
    let mut cluster = Cluster::new(7, 60, 0, None);
    let mut fold = fold_of(&cluster);
    let start = fold.clone();
    let mut usual: BTreeMap<&str, usize> = BTreeMap::new();
    start.values().for_each(|pod| *usual.entry(pod.label("run").unwrap()).or_default() += 1);
    let mut seen = BTreeSet::new();
    for change in steps(&mut cluster, 3000) {
        let pod = &change.pod;
        let before = fold.get(pod.key());
        let mut saw = |what: &str, condition: bool| {
            if condition {
                seen.insert(what.to_owned());
            }
        };
        let container = &pod.containers()[0];
        saw("back-off", container.reason.as_deref() == Some("CrashLoopBackOff"));
        saw("restarts", container.restart_count > 1);
        saw("exit code", container.exit_code == Some(1));
        if let Some(before) = before {
            let started_with = |pod: &Pod| start.contains_key(pod.key());
            saw("ready lost", before.ready() && !pod.ready() && pod.deleted_at().is_none());
            saw("ready won", !before.ready() && pod.ready());
            saw("scheduled", before.node_name().is_none() && pod.node_name().is_some());
            saw("old pod deleted", started_with(pod) && change.kind == ChangeKind::Delete);
            for name in ["app", "track", "traffic"] {
                saw(&format!("{name} label"), before.label(name) != pod.label(name));
            }
            saw(
                "left app=worker",
                before.label("app") == Some("worker") && pod.label("app") != Some("worker"),
            );
            saw(
                "entered app=worker",
                before.label("app") != Some("worker") && pod.label("app") == Some("worker"),
            );
        }
        apply(&mut fold, &change);
        let mut templates: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        let mut sizes: BTreeMap<&str, usize> = BTreeMap::new();
        for pod in fold.values().filter(|pod| pod.deleted_at().is_none()) {
            let run = pod.label("run").unwrap();
            templates.entry(run).or_default().insert(pod.label("pod-template-hash").unwrap());
            *sizes.entry(run).or_default() += 1;
        }
        saw("roll-out", templates.values().any(|hashes| hashes.len() > 1));
        let drained = |node: &str| fold.values().filter(|pod| pod.node_name() == Some(node)).count() < 3;
        saw("drained node", (1..=4).any(|n| drained(&format!("node-{n}"))));
        saw("scaled up", sizes.iter().any(|(run, size)| *size > usual[*run] + 1));
        saw("scaled down", sizes.iter().any(|(run, size)| *size + 1 < usual[*run]));
    }
    let expected = [
        "app label",
        "back-off",
        "drained node",
        "entered app=worker",
        "exit code",
        "left app=worker",
        "old pod deleted",
        "ready lost",
        "ready won",
        "restarts",
        "roll-out",
        "scaled down",
        "scaled up",
        "scheduled",
        "track label",
        "traffic label",
    ];
    assert_eq!(seen.iter().map(String::as_str).collect::<Vec<_>>(), expected);
}

#[test]
fn pods_look_like_pods() {
    let cluster = Cluster::new(7, 60, 0, None);
    let namespaces: BTreeSet<&str> = cluster.pods().map(Pod::namespace).collect();
    assert_eq!(namespaces, BTreeSet::from(["batch", "default", "prod", "staging"]));
    assert!(cluster.pods().any(|pod| pod.label("run") == Some("d-17")));
    assert!(cluster.pods().any(|pod| pod.namespace() == "prod" && pod.label("app") == Some("worker")));
    for pod in cluster.pods() {
        for label in ["app", "run", "pod-template-hash", "tier", "track", "traffic"] {
            assert!(pod.label(label).is_some_and(|value| !value.is_empty()), "{pod:?} {label}");
        }
        let owner = pod.owner().unwrap();
        assert!(owner.kind == "ReplicaSet" && pod.name().starts_with(&format!("{}-", owner.name)));
        assert!(pod.node_name().is_some() && pod.pod_ip().is_some() && pod.host_ip().is_some());
        assert!(pod.ready() && pod.phase() == Some("Running") && pod.deleted_at().is_none());
        let millis = |time: Option<Timestamp>| time.and_then(|time| time.unix_millis()).unwrap();
        assert!(millis(pod.created_at()) < millis(pod.started_at()));
        assert!(millis(pod.started_at()) < millis(Some(cluster.now())));
        assert_eq!(pod.uid().unwrap().split('-').map(str::len).collect::<Vec<_>>(), [8, 4, 4, 4, 12]);
        assert!(
            pod.containers()
                .iter()
                .all(|c| c.ready && c.image.is_some() && c.state.as_deref() == Some("running"))
        );
    }
}

#[test]
fn the_smallest_clusters_change_labels_too() {
    for seed in 0..50 {
        for target in [1, 2, 3] {
            let mut cluster = Cluster::new(seed, target, seed % 50, None);
            let start = fold_of(&cluster);
            let newest = start.values().map(version).max().unwrap();
            let changes = steps(&mut cluster, 400);
            check_run(start, &changes, newest);
        }
    }
}

#[test]
fn no_pods_are_no_events() {
    let mut none = Cluster::new(1, 0, 9, None);
    assert_eq!(none.pods().len(), 0);
    assert_eq!((none.step(), none.step()), (None, None));
    let mut one = Cluster::new(1, 1, 0, None);
    assert_eq!(one.pods().len(), 1);
    steps(&mut one, 2000);
}

#[test]
fn rates_that_are_none_are_quiet() {
    for rate in [f64::NAN, f64::INFINITY, -1.0, 0.0] {
        assert_eq!(SimSource::default().rate(rate), SimSource::default().rate(0.0));
    }
}

fn log() -> Arc<Log> {
    Log::in_memory(DEFAULT_RETENTION, Clock::manual(0))
}

fn records(log: &Log) -> Vec<Record> {
    let mut all: Vec<Record> = Vec::new();
    loop {
        let after = all.last().map_or(0, Record::sequence);
        let Page::Records(records) = at_once(log.events.read(after, 10_000)).unwrap() else {
            panic!("trimmed")
        };
        if records.is_empty() {
            return all;
        }
        all.extend(records);
    }
}

/// Runs a source with a log for some virtual time.
async fn run(log: &Arc<Log>, source: SimSource, time: Duration) {
    let stop = CancellationToken::new();
    let running = tokio::spawn(Box::new(source).run(Publisher::new(log.clone(), []), stop.clone()));
    tokio::time::sleep(time).await;
    stop.cancel();
    running.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_rate_is_kept_and_a_restart_goes_on() {
    let sim = SimSource::default().seed(7).pods(40);
    let log = log();
    run(&log, sim.clone().rate(0.0), Duration::from_secs(60)).await;
    assert_eq!(log.head(), 40, "quiet after the start");
    assert!(log.source().ready());

    run(&log, sim.clone().rate(5000.0), Duration::from_millis(1005)).await;
    let made = log.head() - 40;
    assert!((4900..=5100).contains(&made), "{made} events in a second");

    let head = log.head();
    run(&log, sim.clone().rate(0.0), Duration::from_secs(60)).await;
    assert_eq!(log.head(), head, "a quiet restart appends nothing");

    run(&log, sim.clone().rate(0.5), Duration::from_millis(20_100)).await;
    assert_eq!(log.head(), head + 10);

    run(&log, sim.clone().rate(1000.0).events(77), Duration::from_secs(60)).await;
    assert_eq!(log.head(), head + 87, "quiet after so many events");

    // The events are the same as in one run.
    let mut cluster = Cluster::new(7, 40, 0, None);
    let expected = steps(&mut cluster, usize::try_from(log.head()).unwrap() - 40);
    let records = records(&log);
    for (record, change) in records[40..].iter().zip(&expected) {
        let pod: Pod = serde_json::from_slice(&record.pod_json()).unwrap();
        assert_eq!(pod, change.pod);
    }
    assert_eq!(records.len() - 40, expected.len());
}

#[test]
fn only_times_come_from_the_clock() {
    let now = 1_795_000_000_000;
    let mut virtual_time = Cluster::new(7, 40, 0, None);
    let mut real_time = Cluster::new(7, 40, 0, Some(now));
    let timeless = |pod: &Pod| pod.to_builder().created_at(None).started_at(None).deleted_at(None).build();
    for (one, other) in virtual_time.pods().zip(real_time.pods()) {
        assert_eq!(timeless(one), timeless(other));
        let created = other.created_at().and_then(|time| time.unix_millis()).unwrap();
        assert!((now - 31 * 86_400_000..now).contains(&created), "within a month before");
    }
    for step in 1..500 {
        real_time.tell_time(Some(now + step));
        let (one, other) = (virtual_time.step().unwrap(), real_time.step().unwrap());
        assert_eq!((one.kind, timeless(&one.pod)), (other.kind, timeless(&other.pod)));
        assert_eq!(other.at, Timestamp::from_unix_millis(now + step));
    }
}
