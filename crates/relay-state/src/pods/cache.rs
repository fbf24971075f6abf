//! The pod cache: a fold of seeds and events into the current set of pods.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use relay_proto::pods::{Epoch, EventType, Pod, PodEvent, PodList};
use serde::Serialize;

use change::differ;

mod change;
mod hash;
mod index;
mod pods;
mod trie;

pub use change::{Change, ChangeKind};
pub use pods::{Group, Groups, Pods};

/// The current pods, folded from a seed and the events after it.
///
/// Rules (`docs/client.md`, "Cache"): events at or below the seed's position are already inside; with sequences the
/// order of arrival decides, without them versions, UIDs and tombstones. An inconsistent event (a deletion of an
/// absent pod, an addition of a present one) is applied and counted, and is not an error.
///
/// It can be used alone, by [`PodCache::seed`] and [`PodCache::apply`].
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

    /// The current pods. O(1); the result is immutable.
    pub fn pods(&self) -> Pods {
        self.pods.clone()
    }

    /// How often each rule was applied.
    pub fn counts(&self) -> &CacheCounts {
        &self.counts
    }

    /// Replaces the whole content, and returns the changes in the order of the keys.
    pub fn seed(&mut self, list: &PodList) -> Vec<Change> {
        let before = self.pods();
        self.pods.replace(&list.pods);
        self.seeded_at = list.sequence.map(|sequence| (list.epoch.clone(), sequence));
        self.tombstones = Tombstones::default();
        self.pods.diff(&before)
    }

    /// Applies one event of a stream whose epoch is `epoch`. Without an epoch its sequence is ignored, because the
    /// seed may be of another log.
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

    /// Applies an event of the past by its type alone, without comparing positions, versions or UIDs.
    pub fn apply_as_it_stands(&mut self, event: &PodEvent) -> Applied {
        match &event.kind {
            EventType::Other(_) => {
                self.counts.unknown_types += 1;
                Applied::none(Outcome::UnknownType)
            }
            EventType::Deleted => match self.pods.remove(event.pod.key()) {
                Some(before) => Applied::new(Change::between(Some(before), None)),
                None => {
                    self.counts.odd += 1;
                    Applied::new([])
                }
            },
            EventType::Added | EventType::Modified | _ => {
                let held = self.pods.insert(&event.pod);
                if (event.kind == EventType::Added) == held.is_some() {
                    self.counts.odd += 1;
                }
                if held.as_ref().is_some_and(|held| differ(held.uid(), event.pod.uid())) {
                    self.counts.replaced += 1;
                }
                Applied::new(Change::between(held, Some(event.pod.clone())))
            }
        }
    }

    /// Without sequences: the rule that forbids the event, if there is one.
    fn judge_without_sequence(&mut self, event: &PodEvent) -> Option<Outcome> {
        let pod = &event.pod;
        let deleted = event.kind == EventType::Deleted;
        if let Some(uid) = pod.uid()
            && self.tombstones.covers(uid, version(pod))
        {
            self.counts.late += 1;
            return Some(Outcome::Late);
        }
        let held = self.pods.get(pod.key())?;
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

/// The resource version, when it is a decimal number. (In general it is opaque.)
fn version(pod: &Pod) -> Option<u128> {
    let text = pod.resource_version()?;
    if text.bytes().all(|b| b.is_ascii_digit()) { text.parse().ok() } else { None }
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

    /// Whether an event of that UID is late: not provably newer than the deletion.
    fn covers(&self, uid: &str, version: Option<u128>) -> bool {
        self.versions.get(uid).is_some_and(|deleted| match (deleted, version) {
            (Some(deleted), Some(version)) => version <= *deleted,
            _ => true,
        })
    }
}

/// The result of one event.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Applied {
    /// The rule that decided.
    pub outcome: Outcome,
    /// What changed: nothing, one change, or a removal and an addition when a pod was replaced under its name.
    pub changes: Vec<Change>,
}

impl Applied {
    fn new(changes: impl IntoIterator<Item = Change>) -> Self {
        Self { outcome: Outcome::Applied, changes: changes.into_iter().collect() }
    }

    fn none(outcome: Outcome) -> Self {
        Self { outcome, changes: Vec::new() }
    }
}

/// The rule that decided about an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Outcome {
    /// It was applied (a deletion of an absent pod changes nothing).
    Applied,
    /// The last seed already contains it.
    Superseded,
    /// The held pod is as new or newer. Only without sequences.
    StaleVersion,
    /// It is about a former pod of that name. Only without sequences.
    Late,
    /// Its type is not known.
    UnknownType,
}

/// How often each rule was applied, since the cache was made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct CacheCounts {
    /// Events that the last seed already contained.
    pub superseded: u64,
    /// Events with an older or equal version.
    pub stale_versions: u64,
    /// Events about a former pod of the same name.
    pub late: u64,
    /// Pods replaced by another of the same name.
    pub replaced: u64,
    /// Inconsistent events that were applied, such as deletions of absent pods.
    pub odd: u64,
    /// Events of unknown type, not applied.
    pub unknown_types: u64,
}

#[cfg(test)]
mod tests;
