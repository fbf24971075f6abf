//! The set of pods that snapshots share, and its groups by label.

use std::fmt;
use std::hint::black_box;

use relay_proto::pods::{Pod, PodKey};

use super::change::Change;
use super::hash::hash_of;
use super::index::{Label, LabelIndex, Value};
use super::trie::{Entry, Trie};

/// An immutable set of pods, with an index of their labels. Cloning is O(1), and versions share equal parts, so
/// keeping many is cheap.
///
/// The order of iteration is undefined and differs between processes; `sorted` is by namespace and name.
///
/// ```
/// use relay_proto::pods::{PodBuilder, PodKey, PodList};
/// use relay_state::pods::PodCache;
///
/// let mut list = PodList::default();
/// list.pods = vec![
///     PodBuilder::new("prod", "web-1").label("app", "web").ready(true).build(),
///     PodBuilder::new("prod", "web-2").label("app", "web").build(),
///     PodBuilder::new("prod", "db-0").label("app", "db").build(),
/// ];
/// let mut cache = PodCache::new();
/// cache.seed(&list);
///
/// let pods = cache.pods();
/// assert!(pods.get(&PodKey::new("prod", "db-0")).is_some());
/// let web = pods.group("app", "web");
/// assert_eq!((web.len(), web.iter().filter(|pod| pod.ready()).count()), (2, 1));
/// for (value, group) in pods.group_by_label("app").sorted() {
///     assert_eq!(group.len(), if value == "db" { 1 } else { 2 });
/// }
/// ```
#[derive(Clone, Default)]
pub struct Pods {
    by_key: Trie<Pod>,
    labels: LabelIndex,
    len: usize,
}

impl Entry for Pod {
    type Key = PodKey;

    fn key(&self) -> &PodKey {
        self.key()
    }

    fn hash(&self) -> u64 {
        hash_of(self.key())
    }

    fn touch(&self) {
        black_box(self.is_shared());
    }

    fn warm(&self) {
        black_box((self.name().as_bytes().first(), self.labels().next()));
        black_box(self.uid().and_then(|uid| uid.as_bytes().first()));
    }
}

impl Pods {
    /// Number of pods.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// One pod by its key. The cost does not depend on the number of pods, apart from processor caches.
    pub fn get(&self, key: &PodKey) -> Option<&Pod> {
        self.by_key.get(hash_of(key), key)
    }

    /// All pods, in no useful order.
    pub fn iter(&self) -> impl Iterator<Item = &Pod> {
        self.by_key.iter()
    }

    /// All pods, by namespace and name. Costs a sort.
    pub fn sorted(&self) -> Vec<&Pod> {
        sorted(self.iter())
    }

    /// The pods whose label `key` has this value; an empty group when there is none. One look-up.
    pub fn group(&self, key: &str, value: &str) -> Group<'_> {
        self.group_by_label(key).get(value)
    }

    /// The pods by the value of one label. Pods without the label are left out. A look-up.
    pub fn group_by_label(&self, key: &str) -> Groups<'_> {
        Groups { pods: self, label: self.labels.get(key) }
    }

    /// What changed since another snapshot, by namespace and name. A pod that was replaced by another of its name is
    /// two changes: a removal, then an addition.
    ///
    /// For snapshots of one history this costs as much as there are changes, however many pods there are. Any two can
    /// be compared.
    pub fn diff(&self, older: &Self) -> Vec<Change> {
        let mut changes = Vec::new();
        self.by_key.diff(&older.by_key, &mut |before, after| {
            changes.extend(Change::between(before.cloned(), after.cloned()));
        });
        // Stable: a removal stays before the addition of its key.
        changes.sort_by(|a, b| a.key().cmp(b.key()));
        changes
    }

    /// Inserts a pod, and returns the former one of its key.
    pub(super) fn insert(&mut self, pod: &Pod) -> Option<Pod> {
        self.insert_hashed(hash_of(pod.key()), pod)
    }

    fn insert_hashed(&mut self, hash: u64, pod: &Pod) -> Option<Pod> {
        let former = self.by_key.insert(hash, pod.clone());
        self.len += usize::from(former.is_none());
        self.move_in_groups(hash, former.as_ref(), Some(pod));
        former
    }

    /// Removes a pod.
    pub(super) fn remove(&mut self, key: &PodKey) -> Option<Pod> {
        let hash = hash_of(key);
        let former = self.by_key.remove(hash, key)?;
        self.len -= 1;
        self.move_in_groups(hash, Some(&former), None);
        Some(former)
    }

    /// Replaces all pods; of two with one key the last counts. Equal pods stay shared with older versions.
    pub(super) fn replace(&mut self, pods: &[Pod]) {
        let mut next: Vec<(u64, &Pod)> = pods.iter().map(|pod| (hash_of(pod.key()), pod)).collect();
        // In the order of the trie, so that successive changes are near each other in memory.
        next.sort_by_key(|(hash, _)| *hash);
        let was_empty = self.is_empty();
        for &(hash, pod) in &next {
            if self.by_key.get(hash, pod.key()) != Some(pod) {
                self.insert_hashed(hash, pod);
            }
        }
        if was_empty {
            return;
        }
        let listed = |pod: &Pod| {
            let hash = hash_of(pod.key());
            let from = next.partition_point(|(other, _)| *other < hash);
            let mut same = next[from..].iter().take_while(|(other, _)| *other == hash);
            same.any(|(_, other)| other.key() == pod.key())
        };
        let gone: Vec<PodKey> = self.iter().filter(|pod| !listed(pod)).map(|pod| pod.key().clone()).collect();
        for key in &gone {
            self.remove(key);
        }
    }

    /// Updates the index for a changed pod.
    fn move_in_groups(&mut self, hash: u64, before: Option<&Pod>, after: Option<&Pod>) {
        if let Some((before, after)) = before.zip(after)
            && before.same_labels(after)
        {
            return;
        }
        let has = |pod: Option<&Pod>, key, value| pod.is_some_and(|pod| pod.label(key) == Some(value));
        for (key, value) in before.into_iter().flat_map(Pod::labels) {
            if !has(after, key, value) {
                let same_hash = |pod: &Pod| has(Some(pod), key, value) && Entry::hash(pod) == hash;
                let last = !self.by_key.near(hash).any(same_hash);
                self.labels.remove(key, value, hash, last);
            }
        }
        for (key, value) in after.into_iter().flat_map(Pod::labels) {
            if !has(before, key, value) {
                self.labels.insert(key, value, hash);
            }
        }
    }
}

fn sorted<'a>(pods: impl Iterator<Item = &'a Pod>) -> Vec<&'a Pod> {
    let mut pods: Vec<&Pod> = pods.collect();
    pods.sort_unstable_by_key(|pod| pod.key());
    pods
}

impl PartialEq for Pods {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && self.diff(other).is_empty()
    }
}

impl Eq for Pods {}

impl fmt::Debug for Pods {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.sorted()).finish()
    }
}

/// The pods of one value of a label: [`Pods::group`].
#[derive(Clone, Copy)]
pub struct Group<'a> {
    pods: &'a Pods,
    /// The label's key, and the index entry of the value.
    found: Option<(&'a str, &'a Value)>,
}

impl<'a> Group<'a> {
    /// Number of pods. O(1).
    pub fn len(&self) -> usize {
        self.found.map_or(0, |(_, value)| value.len())
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.found.is_none()
    }

    /// Whether a pod is in the group. A look-up.
    pub fn contains(&self, key: &PodKey) -> bool {
        self.found.is_some_and(|(label, value)| {
            self.pods.get(key).is_some_and(|pod| pod.label(label) == Some(value.text()))
        })
    }

    /// The pods, in no useful order.
    pub fn iter(&self) -> impl Iterator<Item = &'a Pod> + use<'a> {
        let pods = self.pods;
        self.found.into_iter().flat_map(move |(label, value)| {
            let near = value.hashes().flat_map(|hash| pods.by_key.near(hash));
            near.filter(move |pod| pod.label(label) == Some(value.text()))
        })
    }

    /// The pods, by namespace and name. Costs a sort.
    pub fn sorted(&self) -> Vec<&'a Pod> {
        sorted(self.iter())
    }
}

impl fmt::Debug for Group<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.sorted()).finish()
    }
}

/// The pods by the value of one label: [`Pods::group_by_label`].
#[derive(Clone, Copy)]
pub struct Groups<'a> {
    pods: &'a Pods,
    label: Option<&'a Label>,
}

impl<'a> Groups<'a> {
    /// Number of values that occur. O(1).
    pub fn len(&self) -> usize {
        self.label.map_or(0, Label::len)
    }

    /// Whether no pod has the label.
    pub fn is_empty(&self) -> bool {
        self.label.is_none()
    }

    /// The group of one value; empty when no pod has it. A look-up.
    pub fn get(&self, value: &str) -> Group<'a> {
        let found = self.label.and_then(|label| Some((label.key(), label.get(value)?)));
        Group { pods: self.pods, found }
    }

    /// Every value and its group, which is not empty, in no useful order.
    pub fn iter(&self) -> impl Iterator<Item = (&'a str, Group<'a>)> + use<'a> {
        let pods = self.pods;
        self.label.into_iter().flat_map(move |label| {
            label.values().map(move |value| (value.text(), Group { pods, found: Some((label.key(), value)) }))
        })
    }

    /// Every value and its group, by value. Costs a sort.
    pub fn sorted(&self) -> Vec<(&'a str, Group<'a>)> {
        let mut groups: Vec<_> = self.iter().collect();
        groups.sort_unstable_by_key(|(value, _)| *value);
        groups
    }
}

impl fmt::Debug for Groups<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.sorted()).finish()
    }
}

#[cfg(test)]
mod tests;
