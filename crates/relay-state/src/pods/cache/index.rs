//! The index of pods by label: updated with every change, and part of every snapshot.

use std::sync::Arc;

use super::hash::hash_of;
use super::trie::{Entry, Trie};

/// Groups of pods by label key and value.
///
/// A group holds the hashes of its pods' keys: they are found by hash in the set of pods. So an event that changes
/// no label costs the index nothing, and a copied node of a group has no pod to count a reference to. Pods with
/// equal hashes are distinguished by their labels.
#[derive(Clone, Default)]
pub(super) struct LabelIndex(Trie<Label>);

/// One label key.
#[derive(Clone)]
pub(super) struct Label {
    key: Arc<str>,
    values: Trie<Value>,
    len: usize,
}

/// One value of a label: a group.
#[derive(Clone)]
pub(super) struct Value {
    text: Arc<str>,
    hashes: Trie<u64>,
    /// Pods, not hashes.
    len: usize,
}

impl LabelIndex {
    pub(super) fn get(&self, key: &str) -> Option<&Label> {
        self.0.get(hash_of(key), key)
    }

    /// A pod of this hash has joined a group.
    pub(super) fn insert(&mut self, key: &str, value: &str, hash: u64) {
        let (key_hash, value_hash) = (hash_of(key), hash_of(value));
        let new = || Value { text: value.into(), hashes: Trie::of(hash), len: 1 };
        let Some(label) = self.0.get_mut(key_hash, key) else {
            self.0.insert(key_hash, Label { key: key.into(), values: Trie::of(new()), len: 1 });
            return;
        };
        match label.values.get_mut(value_hash, value) {
            Some(group) => {
                group.hashes.insert(hash, hash);
                group.len += 1;
            }
            None => {
                label.values.insert(value_hash, new());
                label.len += 1;
            }
        }
    }

    /// A pod of this hash has left its group; returns whether it was the last of this hash there.
    pub(super) fn remove(&mut self, key: &str, value: &str, hash: u64, last: bool) {
        let (key_hash, value_hash) = (hash_of(key), hash_of(value));
        let Some(label) = self.0.get_mut(key_hash, key) else { return };
        let Some(group) = label.values.get_mut(value_hash, value) else { return };
        group.len -= 1;
        if group.len > 0 {
            if last {
                group.hashes.remove(hash, &hash);
            }
            return;
        }
        label.values.remove(value_hash, value);
        label.len -= 1;
        if label.len == 0 {
            self.0.remove(key_hash, key);
        }
    }
}

impl Label {
    pub(super) fn key(&self) -> &str {
        &self.key
    }

    /// Number of values.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn get(&self, value: &str) -> Option<&Value> {
        self.values.get(hash_of(value), value)
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &Value> {
        self.values.iter()
    }
}

impl Value {
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// Number of pods.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The hashes of the keys of the pods, each once.
    pub(super) fn hashes(&self) -> impl Iterator<Item = u64> {
        self.hashes.iter().copied()
    }
}

impl Entry for Label {
    type Key = str;

    fn key(&self) -> &str {
        &self.key
    }

    fn hash(&self) -> u64 {
        hash_of(self.key())
    }
}

impl Entry for Value {
    type Key = str;

    fn key(&self) -> &str {
        &self.text
    }

    fn hash(&self) -> u64 {
        hash_of(self.text())
    }
}

impl Entry for u64 {
    type Key = u64;

    fn key(&self) -> &u64 {
        self
    }

    fn hash(&self) -> u64 {
        *self
    }
}
