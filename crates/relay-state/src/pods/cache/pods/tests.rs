use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use relay_proto::pods::{EventHash, EventType, PodBuilder, PodEvent, PodList};

use super::super::hash::HASH_MASK;
use super::*;
use crate::pods::{ChangeKind, PodCache};

/// Sets the mask of hashes until it is dropped.
struct Masked;

impl Masked {
    fn with(mask: u64) -> Self {
        HASH_MASK.set(mask);
        Self
    }
}

impl Drop for Masked {
    fn drop(&mut self) {
        HASH_MASK.set(u64::MAX);
    }
}

/// All bits; the first bits; the last bits, so that hashes differ only at the deepest node; one bit in the middle;
/// none.
const MASKS: [u64; 5] = [u64::MAX, 0xf << 60, 0x3, 1 << 32, 0];

fn labelled(name: &str, version: u64, labels: &[(&str, String)]) -> Pod {
    let version = version.to_string();
    let labels = labels.iter().map(|(key, value)| (*key, value.as_str()));
    PodBuilder::new("ns", name).resource_version(Some(&version)).labels(labels).build()
}

#[derive(Debug, Clone)]
enum Do {
    /// A pod, with the values of `app` (0: none) and `run`.
    Put(u8, u8, u8),
    Remove(u8),
    Keep,
    /// A list of such pods.
    Seed(Vec<(u8, u8, u8)>),
}

fn history() -> impl Strategy<Value = Vec<Do>> {
    let pod = || (0..20u8, 0..4u8, 0..3u8);
    let one = prop_oneof![
        8 => pod().prop_map(|(name, app, run)| Do::Put(name, app, run)),
        4 => (0..20u8).prop_map(Do::Remove),
        1 => Just(Do::Keep),
        1 => proptest::collection::vec(pod(), 0..20).prop_map(Do::Seed),
    ];
    proptest::collection::vec(one, 0..60)
}

fn build((name, app, run): (u8, u8, u8), version: u64) -> Pod {
    let mut labels = vec![("run", format!("r{run}")), ("pod", format!("p{name}"))];
    if app > 0 {
        labels.push(("app", format!("a{app}")));
    }
    labelled(&format!("p{name}"), version, &labels)
}

type Model = BTreeMap<PodKey, Pod>;

fn slow_groups<'a>(model: &'a Model, key: &str) -> BTreeMap<&'a str, Vec<&'a Pod>> {
    let mut groups: BTreeMap<&str, Vec<&Pod>> = BTreeMap::new();
    for pod in model.values() {
        if let Some(value) = pod.label(key) {
            groups.entry(value).or_default().push(pod);
        }
    }
    groups
}

fn slow_diff(before: &Model, after: &Model) -> Vec<(PodKey, ChangeKind)> {
    let keys: BTreeSet<&PodKey> = before.keys().chain(after.keys()).collect();
    let kind = |key: &PodKey| match (before.get(key), after.get(key)) {
        (None, _) => Some(ChangeKind::Added),
        (_, None) => Some(ChangeKind::Removed),
        (old, new) => (old != new).then_some(ChangeKind::Modified),
    };
    keys.into_iter().filter_map(|key| Some((key.clone(), kind(key)?))).collect()
}

fn check(pods: &Pods, model: &Model) {
    assert_eq!(pods.len(), model.len());
    assert_eq!(pods.is_empty(), model.is_empty());
    assert!(pods.sorted().into_iter().eq(model.values()));
    assert_eq!(pods.iter().count(), model.len());
    for key in ["app", "run", "pod", "absent"] {
        let (groups, expected) = (pods.group_by_label(key), slow_groups(model, key));
        assert_eq!((groups.len(), groups.is_empty()), (expected.len(), expected.is_empty()), "{key}");
        let sorted: Vec<_> =
            groups.sorted().into_iter().map(|(value, group)| (value, group.sorted())).collect();
        assert_eq!(sorted, expected.into_iter().collect::<Vec<_>>(), "{key}");
    }
    for value in ["a1", "a2", "a3", "gone"] {
        let group = pods.group("app", value);
        assert_eq!((group.len(), group.is_empty()), (group.iter().count(), group.iter().next().is_none()));
        for name in 0..20 {
            let key = PodKey::new("ns", &format!("p{name}"));
            let expected = model.get(&key).is_some_and(|pod| pod.label("app") == Some(value));
            assert_eq!(group.contains(&key), expected);
        }
    }
}

proptest! {
    #[test]
    fn pods_and_their_index_are_what_a_map_would_be(history in history(), mask in 0..MASKS.len()) {
        let _masked = Masked::with(MASKS[mask]);
        let (mut pods, mut model) = (Pods::default(), Model::new());
        let mut versions = vec![(pods.clone(), model.clone())];
        for (version, step) in history.into_iter().enumerate() {
            // Versions repeat now and then, which gives a change without an effect.
            let version = version as u64 / 3;
            match step {
                Do::Put(name, app, run) => {
                    let pod = build((name, app, run), version);
                    prop_assert_eq!(pods.insert(&pod), model.insert(pod.key().clone(), pod));
                }
                Do::Remove(name) => {
                    let key = PodKey::new("ns", &format!("p{name}"));
                    prop_assert_eq!(pods.remove(&key), model.remove(&key));
                }
                Do::Keep => versions.push((pods.clone(), model.clone())),
                Do::Seed(list) => {
                    let list: Vec<Pod> = list.into_iter().map(|pod| build(pod, version)).collect();
                    pods.replace(&list);
                    model = list.into_iter().map(|pod| (pod.key().clone(), pod)).collect();
                }
            }
        }
        versions.push((pods, model));
        for (pods, model) in &versions {
            check(pods, model);
        }
        for (before, old) in versions.iter().take(4) {
            for (after, new) in versions.iter().rev().take(4) {
                let changes: Vec<_> =
                    after.diff(before).iter().map(|change| (change.key().clone(), change.kind)).collect();
                prop_assert_eq!(changes, slow_diff(old, new));
                prop_assert_eq!(before == after, old == new);
            }
        }
    }
}

fn list(pods: Vec<Pod>) -> PodList {
    let mut list = PodList::default();
    list.pods = pods;
    list
}

#[test]
fn a_seed_keeps_the_pods_that_are_equal() {
    let pods = |version| {
        (0..50).map(|n| labelled(&format!("p{n}"), if n == 7 { version } else { 1 }, &[])).collect()
    };
    let mut cache = PodCache::new();
    cache.seed(&list(pods(1)));
    let before = cache.pods();
    assert_eq!(cache.seed(&list(pods(2))).len(), 1);
    let after = cache.pods();
    let kept = before.iter().filter(|pod| {
        // The key is in the same allocation as the pod, so equal addresses mean that the pod is shared.
        after.get(pod.key()).is_some_and(|same| std::ptr::eq(same.key(), pod.key()))
    });
    assert_eq!(kept.count(), 49);
}

#[test]
fn of_two_pods_with_one_key_a_seed_takes_the_last() {
    let mut cache = PodCache::new();
    let twice = || list(vec![labelled("a", 1, &[]), labelled("b", 1, &[]), labelled("a", 2, &[])]);
    assert_eq!(cache.seed(&twice()).len(), 2);
    let changes = cache.seed(&twice());
    let version =
        cache.pods().get(&PodKey::new("ns", "a")).and_then(|pod| pod.resource_version().map(String::from));
    assert_eq!((changes.len(), cache.pods().len(), version.as_deref()), (0, 2, Some("2")));
}

#[test]
fn a_change_tells_which_groups_it_touched() {
    let pod = |name: &str, version: u64, labels: &[(&'static str, &str)]| {
        let labels: Vec<_> = labels.iter().map(|(key, value)| (*key, value.to_string())).collect();
        labelled(name, version, &labels)
    };
    let mut cache = PodCache::new();
    cache.seed(&list(vec![pod("a", 1, &[("app", "web"), ("run", "x")])]));
    #[rustfmt::skip]
    type Row = (&'static str, EventType, &'static [(&'static str, &'static str)], &'static [(&'static str, &'static str)], &'static [&'static str]);
    #[rustfmt::skip]
    let rows: &[Row] = &[
        ("a", EventType::Modified, &[("app", "web"), ("run", "x")], &[("app", "web"), ("run", "x")], &["x"]),
        ("a", EventType::Modified, &[("app", "web"), ("run", "y")], &[("app", "web"), ("run", "x"), ("run", "y")], &["x", "y"]),
        ("a", EventType::Modified, &[("run", "y"), ("zone", "z")],  &[("app", "web"), ("run", "y"), ("zone", "z")], &["y"]),
        ("b", EventType::Added,    &[("app", "db")],                &[("app", "db")], &[]),
        ("b", EventType::Deleted,  &[("app", "db")],                &[("app", "db")], &[]),
        ("a", EventType::Deleted,  &[],                             &[("run", "y"), ("zone", "z")], &["y"]),
    ];
    for (version, (name, kind, labels, touched, of_run)) in rows.iter().enumerate() {
        let hash = EventHash::new("h").unwrap();
        let event = PodEvent::new(kind.clone(), hash, None, pod(name, version as u64 + 2, labels));
        let applied = cache.apply(&event, None);
        let [change] = &applied.changes[..] else { panic!("{version}: {applied:?}") };
        assert_eq!(change.touched().collect::<Vec<_>>(), *touched, "{version}");
        assert_eq!(change.touched_groups("run").collect::<Vec<_>>(), *of_run, "{version}");
    }
    assert!(cache.pods().group_by_label("run").is_empty());
}
