//! The pod cache: a fold of seeds and events into the current set of pods.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use relay_proto::pods::{Epoch, EventType, Pod, PodEvent, PodKey, PodList};
use serde::Serialize;

/// The current pods, folded from a seed and the events after it.
///
/// Rules (`docs/protocol.md`, "Cache"): events at or below the seed's position are already inside; with sequences
/// the order of arrival decides; without them versions, uids and tombstones do. An odd event (a deletion of an absent
/// pod, an addition of a present one) is applied by its meaning and counted, never an error.
///
/// Usable alone: feed it [`PodCache::seed`] and [`PodCache::apply`].
#[derive(Debug, Clone, Default)]
pub struct PodCache {
    pods: Pods,
    seeded_at: Option<(Option<Epoch>, u64)>,
    tombstones: Tombstones,
    counts: CacheCounts,
}

impl PodCache {
    /// An empty cache.
    pub fn new() -> Self {
        Self::default()
    }

    /// The pods as they are now. O(1); the result never changes.
    pub fn pods(&self) -> Pods {
        self.pods.clone()
    }

    /// How often which rule was used.
    pub fn counts(&self) -> &CacheCounts {
        &self.counts
    }

    /// Replaces the whole content, and tells what changed, in the order of the keys.
    pub fn seed(&mut self, list: &PodList) -> Vec<Change> {
        let next: imbl::OrdMap<PodKey, Pod> =
            list.pods.iter().map(|pod| (pod.key().clone(), pod.clone())).collect();
        self.seeded_at = list.sequence.map(|sequence| (list.epoch.clone(), sequence));
        self.tombstones = Tombstones::default();
        let changes = changes_between(&self.pods.0, &next);
        self.pods = Pods(next);
        changes
    }

    /// Applies one event of a stream whose epoch is `epoch`. Without an epoch its sequence says nothing: whether the seed
    /// is of the same log is not known.
    pub fn apply(&mut self, event: &PodEvent, epoch: Option<&Epoch>) -> Applied {
        let sequence = event.sequence.filter(|_| epoch.is_some());
        let inside = sequence
            .zip(self.seeded_at.as_ref())
            .is_some_and(|(sequence, (seed_epoch, at))| seed_epoch.as_ref() == epoch && sequence <= *at);
        if inside {
            self.counts.superseded += 1;
            return Applied::none(Outcome::Superseded);
        }
        if sequence.is_none()
            && let Some(outcome) = self.judge_without_sequence(event)
        {
            return Applied::none(outcome);
        }
        let applied = self.apply_as_it_stands(event);
        if sequence.is_none() {
            self.remember_deletion(event);
        }
        applied
    }

    /// Applies an event of the past by its type alone: no comparison of positions, versions or uids.
    pub fn apply_as_it_stands(&mut self, event: &PodEvent) -> Applied {
        let key = event.pod.key();
        let held = self.pods.0.get(key).cloned();
        match &event.kind {
            EventType::Other(_) => {
                self.counts.unknown_types += 1;
                Applied::none(Outcome::UnknownType)
            }
            EventType::Deleted => match held {
                Some(before) => {
                    self.pods.0.remove(key);
                    Applied::new(vec![Change::removed(before)])
                }
                None => {
                    self.counts.odd += 1;
                    Applied::new(Vec::new())
                }
            },
            EventType::Added | EventType::Modified | _ => {
                if (event.kind == EventType::Added) == held.is_some() {
                    self.counts.odd += 1;
                }
                self.pods.0.insert(key.clone(), event.pod.clone());
                Applied::new(match held {
                    Some(before) if differ(before.uid(), event.pod.uid()) => {
                        self.counts.replaced += 1;
                        vec![Change::removed(before), Change::added(event.pod.clone())]
                    }
                    Some(before) => vec![Change::modified(before, event.pod.clone())],
                    None => vec![Change::added(event.pod.clone())],
                })
            }
        }
    }

    /// Without sequences: whether the event is not to be applied, and why.
    fn judge_without_sequence(&mut self, event: &PodEvent) -> Option<Outcome> {
        let pod = &event.pod;
        let deleted = event.kind == EventType::Deleted;
        if let Some(uid) = pod.uid()
            && self.tombstones.covers(uid, version(pod))
        {
            self.counts.late += 1;
            return Some(Outcome::Late);
        }
        let held = self.pods.0.get(pod.key())?;
        if differ(held.uid(), pod.uid()) {
            let created = |p: &Pod| p.created_at().and_then(|at| at.unix_millis());
            let older = created(held).zip(created(pod)).is_some_and(|(held, new)| new < held);
            if deleted || older {
                self.counts.late += 1;
                return Some(Outcome::Late);
            }
            return None;
        }
        if held.uid().is_some() && held.uid() == pod.uid() {
            let (held, new) = version(held).zip(version(pod))?;
            let stale = if deleted { new < held } else { new <= held };
            if stale {
                self.counts.stale_versions += 1;
                return Some(Outcome::StaleVersion);
            }
        }
        None
    }

    fn remember_deletion(&mut self, event: &PodEvent) {
        if event.kind == EventType::Deleted
            && !event.left_filter
            && let Some(uid) = event.pod.uid()
        {
            self.tombstones.insert(uid, version(&event.pod));
        }
    }
}

/// Both sides have a uid, and they are not the same.
fn differ(held: Option<&str>, new: Option<&str>) -> bool {
    held.zip(new).is_some_and(|(held, new)| held != new)
}

/// The resource version, when it is a decimal number. (In general it is opaque.)
fn version(pod: &Pod) -> Option<u128> {
    let text = pod.resource_version()?;
    if text.bytes().all(|b| b.is_ascii_digit()) { text.parse().ok() } else { None }
}

fn changes_between(before: &imbl::OrdMap<PodKey, Pod>, after: &imbl::OrdMap<PodKey, Pod>) -> Vec<Change> {
    use imbl::ordmap::DiffItem;
    let mut changes = Vec::new();
    for item in before.diff(after) {
        match item {
            DiffItem::Add(_, pod) => changes.push(Change::added(pod.clone())),
            DiffItem::Remove(_, pod) => changes.push(Change::removed(pod.clone())),
            DiffItem::Update { old: (_, old), new: (_, new) } => {
                if differ(old.uid(), new.uid()) {
                    changes.push(Change::removed(old.clone()));
                    changes.push(Change::added(new.clone()));
                } else {
                    changes.push(Change::modified(old.clone(), new.clone()));
                }
            }
        }
    }
    changes
}

/// Deleted pods of relays without sequences: (uid, version), the newest 65,536 since the last seed.
#[derive(Debug, Clone, Default)]
struct Tombstones {
    versions: HashMap<Arc<str>, Option<u128>>,
    order: VecDeque<Arc<str>>,
}

impl Tombstones {
    const LIMIT: usize = 65_536;

    fn insert(&mut self, uid: &str, version: Option<u128>) {
        let uid: Arc<str> = uid.into();
        if self.versions.insert(uid.clone(), version).is_none() {
            self.order.push_back(uid);
        }
        if self.order.len() > Self::LIMIT
            && let Some(oldest) = self.order.pop_front()
        {
            self.versions.remove(&oldest);
        }
    }

    /// Whether an event of that uid is late: not provably newer than the deletion.
    fn covers(&self, uid: &str, version: Option<u128>) -> bool {
        self.versions.get(uid).is_some_and(|deleted| match (deleted, version) {
            (Some(deleted), Some(version)) => version <= *deleted,
            _ => true,
        })
    }
}

/// An immutable set of pods, ordered by namespace and name. Cloning is O(1); keep as many as you like.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pods(imbl::OrdMap<PodKey, Pod>);

impl Pods {
    /// Number of pods.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// One pod by its key.
    pub fn get(&self, key: &PodKey) -> Option<&Pod> {
        self.0.get(key)
    }

    /// All pods, by namespace and name.
    pub fn iter(&self) -> impl Iterator<Item = &Pod> {
        self.0.values()
    }

    /// The pods whose label `key` has this value, by namespace and name. Costs one pass over the pods.
    pub fn group<'a>(&'a self, key: &'a str, value: &'a str) -> impl Iterator<Item = &'a Pod> {
        self.iter().filter(move |pod| pod.label(key) == Some(value))
    }

    /// The pods by the value of one label, sorted by value, then by namespace and name. Pods without the label are
    /// left out. Costs one pass over the pods.
    pub fn group_by_label(&self, key: &str) -> BTreeMap<&str, Vec<&Pod>> {
        let mut groups: BTreeMap<&str, Vec<&Pod>> = BTreeMap::new();
        for pod in self.iter() {
            if let Some(value) = pod.label(key) {
                groups.entry(value).or_default().push(pod);
            }
        }
        groups
    }
}

/// What happened to one key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum ChangeKind {
    /// The pod was not there before.
    Added,
    /// The pod was there before, with the same identity.
    Modified,
    /// The pod is gone.
    Removed,
}

/// One change of the set of pods.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Change {
    /// What happened.
    pub kind: ChangeKind,
    /// The pod before, unless it was added.
    pub before: Option<Pod>,
    /// The pod after, unless it was removed.
    pub after: Option<Pod>,
}

impl Change {
    fn added(pod: Pod) -> Self {
        Self { kind: ChangeKind::Added, before: None, after: Some(pod) }
    }

    fn modified(before: Pod, after: Pod) -> Self {
        Self { kind: ChangeKind::Modified, before: Some(before), after: Some(after) }
    }

    fn removed(pod: Pod) -> Self {
        Self { kind: ChangeKind::Removed, before: Some(pod), after: None }
    }

    /// Which pod it is about.
    pub fn key(&self) -> &PodKey {
        let pod = self.after.as_ref().or(self.before.as_ref());
        pod.expect("a change has a pod before or after: its constructors see to it").key()
    }

    /// The groups by label `key` that this change touched: the value before, and the value after when it is another.
    pub fn touched_groups(&self, key: &str) -> impl Iterator<Item = &str> {
        let before = self.before.as_ref().and_then(|pod| pod.label(key));
        let after = self.after.as_ref().and_then(|pod| pod.label(key));
        before.into_iter().chain(after.filter(|value| Some(*value) != before))
    }
}

impl Serialize for Change {
    /// Writes `namespace`, `name` and `change`.
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct;
        let mut out = serializer.serialize_struct("Change", 3)?;
        out.serialize_field("namespace", self.key().namespace())?;
        out.serialize_field("name", self.key().name())?;
        out.serialize_field("change", &self.kind)?;
        out.end()
    }
}

/// What became of one event.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Applied {
    /// Which rule decided.
    pub outcome: Outcome,
    /// What changed: nothing, one change, or a removal and an addition when a pod was replaced under its name.
    pub changes: Vec<Change>,
}

impl Applied {
    fn new(changes: Vec<Change>) -> Self {
        Self { outcome: Outcome::Applied, changes }
    }

    fn none(outcome: Outcome) -> Self {
        Self { outcome, changes: Vec::new() }
    }
}

/// Which rule decided about an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Outcome {
    /// It was applied (a deletion of an absent pod changes nothing).
    Applied,
    /// The last seed already holds it.
    Superseded,
    /// The held pod is as new or newer. Only without sequences.
    StaleVersion,
    /// It is about a former pod of that name. Only without sequences.
    Late,
    /// Its type is not known.
    UnknownType,
}

/// How often which rule was used, since the cache was made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct CacheCounts {
    /// Events that the last seed already held.
    pub superseded: u64,
    /// Events with an older or equal version.
    pub stale_versions: u64,
    /// Events about a former pod of the same name.
    pub late: u64,
    /// Pods replaced by another of the same name.
    pub replaced: u64,
    /// Events applied by their meaning although they did not fit: deletions of absent pods and the like.
    pub odd: u64,
    /// Events of unknown type, not applied.
    pub unknown_types: u64,
}

#[cfg(test)]
mod tests;
