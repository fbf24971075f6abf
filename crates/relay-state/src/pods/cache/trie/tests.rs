use super::*;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

/// An entry with a given hash.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Item {
    key: u16,
    hash: u64,
    value: u8,
}

impl Entry for Item {
    type Key = u16;

    fn key(&self) -> &u16 {
        &self.key
    }

    fn hash(&self) -> u64 {
        self.hash
    }
}

/// From a good hash to a constant one: the first digit in which two hashes differ decides the shape.
const HASHES: [fn(u16) -> u64; 6] = [
    |key| u64::from(key).wrapping_mul(0x9e37_79b9_7f4a_7c15),
    |key| u64::from(key) << 48,
    |key| u64::from(key),
    |key| u64::from(key % 5) << 31,
    |key| u64::from(key % 2),
    |_| 0,
];

type Model = BTreeMap<u16, Item>;

impl Trie<Item> {
    fn content(&self) -> BTreeSet<Item> {
        let entries: Vec<Item> = self.iter().cloned().collect();
        let content: BTreeSet<Item> = entries.iter().cloned().collect();
        assert_eq!(content.len(), entries.len(), "no entry twice");
        content
    }

    /// The nodes with the digits on the way to them, and the entries of equal hashes in order.
    fn shape(&self) -> Vec<String> {
        let mut shape = Vec::new();
        self.root.shape(0, "", &mut shape);
        shape
    }
}

impl Slot<Item> {
    fn shape(&self, depth: u32, path: &str, shape: &mut Vec<String>) {
        match self {
            Slot::Leaf(item) => shape.push(format!("{path} {item:?}")),
            Slot::Node(_) if depth >= u64::BITS => {
                let same: BTreeSet<&Item> = Iter::over(slice::from_ref(self)).collect();
                shape.push(format!("{path} {same:?}"));
            }
            Slot::Node(node) => {
                assert_eq!(node.values.count_ones() as usize, node.slots.len());
                for (at, slot) in node.slots.iter().enumerate() {
                    slot.shape(depth + BITS, &format!("{path}.{:b}:{at}", node.values), shape);
                }
            }
        }
    }
}

#[derive(Debug, Clone)]
enum Do {
    Insert(u16, u8),
    Remove(u16),
    Change(u16, u8),
    Keep,
}

fn history() -> impl Strategy<Value = Vec<Do>> {
    let key = || prop_oneof![0..12u16, 0..400u16];
    let one = prop_oneof![
        4 => (key(), 0..3u8).prop_map(|(key, value)| Do::Insert(key, value)),
        3 => key().prop_map(Do::Remove),
        1 => (key(), 0..3u8).prop_map(|(key, value)| Do::Change(key, value)),
        1 => Just(Do::Keep),
    ];
    proptest::collection::vec(one, 0..300)
}

fn content(model: &Model) -> BTreeSet<Item> {
    model.values().cloned().collect()
}

type Differences = BTreeSet<(Option<Item>, Option<Item>)>;

fn slow_diff(before: &Model, after: &Model) -> Differences {
    let keys = before.keys().chain(after.keys());
    let pairs = keys.map(|key| (before.get(key).cloned(), after.get(key).cloned()));
    pairs.filter(|(before, after)| before != after).collect()
}

fn diff_of(before: &Trie<Item>, after: &Trie<Item>) -> Differences {
    let mut found = Vec::new();
    after.diff(before, &mut |before, after| found.push((before.cloned(), after.cloned())));
    let set: Differences = found.iter().cloned().collect();
    assert_eq!(set.len(), found.len(), "no difference twice");
    set
}

proptest! {
    /// Versions that are kept stay as they were, and every pair of them differs as their models do.
    #[test]
    fn every_version_is_what_a_map_would_be(history in history(), which in 0..HASHES.len()) {
        let hash = HASHES[which];
        let mut trie = Trie::default();
        let mut model = Model::new();
        let mut versions: Vec<(Trie<Item>, Model)> = vec![(trie.clone(), model.clone())];
        for step in history {
            match step {
                Do::Insert(key, value) => {
                    let item = Item { key, hash: hash(key), value };
                    prop_assert_eq!(trie.insert(hash(key), item.clone()), model.insert(key, item));
                }
                Do::Remove(key) => prop_assert_eq!(trie.remove(hash(key), &key), model.remove(&key)),
                Do::Change(key, value) => {
                    let (held, expected) = (trie.get_mut(hash(key), &key), model.get_mut(&key));
                    prop_assert_eq!(held.is_some(), expected.is_some());
                    if let Some((held, expected)) = held.zip(expected) {
                        (held.value, expected.value) = (value, value);
                    }
                }
                Do::Keep => versions.push((trie.clone(), model.clone())),
            }
            prop_assert_eq!(trie.is_empty(), model.is_empty());
        }
        versions.push((trie, model));
        for (trie, model) in &versions {
            prop_assert_eq!(trie.content(), content(model));
            for key in 0..400 {
                prop_assert_eq!(trie.get(hash(key), &key), model.get(&key));
            }
            let mut straight = Trie::default();
            for item in model.values().rev() {
                straight.insert(item.hash, item.clone());
            }
            prop_assert_eq!(trie.shape(), straight.shape(), "the shape follows from the content");
        }
        for (before, old) in versions.iter().take(4) {
            for (after, new) in versions.iter().rev().take(4) {
                prop_assert_eq!(diff_of(before, after), slow_diff(old, new));
            }
        }
    }
}

/// Collects the nodes of a version, to find the shared ones.
fn nodes(slot: &Slot<Item>, found: &mut BTreeSet<*const ()>) {
    if let Slot::Node(node) = slot {
        found.insert(Arc::as_ptr(node).cast());
        node.slots.iter().for_each(|slot| nodes(slot, found));
    }
}

#[test]
fn a_change_copies_one_path_when_shared_and_nothing_when_not() {
    let hash = HASHES[0];
    let item = |key, value| Item { key, hash: hash(key), value };
    let all = |trie: &Trie<Item>| {
        let mut found = BTreeSet::new();
        nodes(&trie.root, &mut found);
        found
    };
    let mut trie = Trie::default();
    for key in 0..5000 {
        trie.insert(hash(key), item(key, 0));
    }
    let before = all(&trie);
    assert!(before.len() > 1000);
    trie.insert(hash(7), item(7, 1));
    assert_eq!(all(&trie), before, "in place");
    let kept = trie.clone();
    trie.insert(hash(7), item(7, 2));
    let copied = all(&trie).difference(&before).count();
    assert!((2..=9).contains(&copied), "{copied} nodes copied");
    assert_eq!(all(&kept), before);
    let copies = all(&trie);
    trie.insert(hash(7), item(7, 3));
    assert_eq!(all(&trie), copies, "the path is our own now");
    assert_eq!(trie.remove(hash(9999), &9999), None);
    assert_eq!(all(&trie), copies, "nothing to remove, nothing to copy");
    assert_eq!((kept.get(hash(7), &7).unwrap().value, trie.get(hash(7), &7).unwrap().value), (1, 3));
}

/// A diff compares only the entries that it visits: it skips shared subtrees.
#[test]
fn a_diff_costs_what_differs() {
    use std::cell::Cell;

    thread_local!(static COMPARED: Cell<usize> = const { Cell::new(0) });
    #[derive(Clone)]
    struct Counted(u16, u8);
    impl PartialEq for Counted {
        fn eq(&self, other: &Self) -> bool {
            COMPARED.set(COMPARED.get() + 1);
            self.1 == other.1
        }
    }
    impl Entry for Counted {
        type Key = u16;
        fn key(&self) -> &u16 {
            &self.0
        }
        fn hash(&self) -> u64 {
            HASHES[0](self.0)
        }
    }
    let mut trie = Trie::default();
    for key in 0..20_000 {
        trie.insert(HASHES[0](key), Counted(key, 0));
    }
    let before = trie.clone();
    for key in [3, 4000] {
        trie.insert(HASHES[0](key), Counted(key, 1));
    }
    let mut changed = 0;
    trie.diff(&before, &mut |_, _| changed += 1);
    assert_eq!(changed, 2);
    assert!(COMPARED.get() < 50, "{} of 20,000 entries compared", COMPARED.get());
}

#[test]
fn a_set_of_one_has_no_node() {
    let item = |key| Item { key, hash: 0, value: 0 };
    let mut trie = Trie::of(item(1));
    trie.insert(0, item(2));
    trie.insert(0, item(3));
    for key in [1, 3] {
        assert!(matches!(trie.root, Slot::Node(_)));
        trie.remove(0, &key);
    }
    assert!(matches!(&trie.root, Slot::Leaf(item) if item.key == 2));
    assert_eq!(size_of::<Slot<u64>>(), 16);
}
