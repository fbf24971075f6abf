//! Counts of a set of pods.

use std::collections::BTreeMap;

use relay_pods::Pod;
use serde_json::{Map, Value, json};

/// Counts of a set of pods.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) pods: usize,
    /// Pods whose `Ready` condition holds, as the relay tells it.
    pub(crate) ready: usize,
    /// Pods by their phase; a pod without one counts as `Unknown`.
    pub(crate) phases: BTreeMap<String, usize>,
    /// Restarts of all containers.
    pub(crate) restarts: u64,
}

impl Tally {
    pub(crate) fn in_phase(&self, phase: &str) -> usize {
        self.phases.get(phase).copied().unwrap_or(0)
    }

    pub(crate) fn json(&self) -> Map<String, Value> {
        let counts =
            json!({"pods": self.pods, "ready": self.ready, "phases": self.phases, "restarts": self.restarts});
        if let Value::Object(counts) = counts { counts } else { Map::new() }
    }

    /// `Pending 1, Running 3`.
    pub(crate) fn phases_text(&self) -> String {
        let parts: Vec<_> = self.phases.iter().map(|(phase, count)| format!("{phase} {count}")).collect();
        parts.join(", ")
    }
}

impl<'a> FromIterator<&'a Pod> for Tally {
    fn from_iter<I: IntoIterator<Item = &'a Pod>>(pods: I) -> Self {
        pods.into_iter().fold(Self::default(), |mut tally, pod| {
            tally.pods += 1;
            tally.ready += usize::from(pod.ready());
            match tally.phases.get_mut(pod.phase().unwrap_or("Unknown")) {
                Some(count) => *count += 1,
                None => {
                    tally.phases.insert(pod.phase().unwrap_or("Unknown").into(), 1);
                }
            }
            tally.restarts += u64::from(pod.restarts());
            tally
        })
    }
}
