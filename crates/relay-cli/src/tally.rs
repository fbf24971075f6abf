//! Counts of a set of pods.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use relay_pods::{Change, Pod, Pods};
use serde_json::{Map, Value, json};

use crate::args::label_key;

/// The value by which pods are counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum GroupBy {
    Namespace,
    Node,
    /// The text that is printed under STATUS.
    Status,
    /// The value of the label with this key.
    Label(String),
}

impl GroupBy {
    /// Reads `namespace`, `node`, `status`, or the key of a label; `label:node` is the label with that key.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        match text {
            "namespace" => Ok(Self::Namespace),
            "node" => Ok(Self::Node),
            "status" => Ok(Self::Status),
            key => label_key(key.strip_prefix("label:").unwrap_or(key))
                .map(Self::Label)
                .map_err(|rule| format!("namespace, node, status or the key of a label: {rule}")),
        }
    }

    /// The name in the output.
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Namespace => "namespace",
            Self::Node => "node",
            Self::Status => "status",
            Self::Label(key) => key,
        }
    }

    fn group(&self, pod: &Pod) -> Option<String> {
        match self {
            Self::Namespace => Some(pod.namespace().into()),
            Self::Node => pod.node_name().map(Into::into),
            Self::Status => Some(pod.printed().status),
            Self::Label(key) => pod.label(key).map(Into::into),
        }
    }

    /// The groups in the order of their names; pods without a group come last.
    pub(crate) fn groups(&self, pods: &[Pod]) -> Vec<(Option<String>, Tally)> {
        let mut groups: BTreeMap<(bool, Option<String>), Vec<&Pod>> = BTreeMap::new();
        for pod in pods {
            let group = self.group(pod);
            groups.entry((group.is_none(), group)).or_default().push(pod);
        }
        groups.into_iter().map(|((_, group), pods)| (group, pods.into_iter().collect())).collect()
    }
}

/// The pods of a group; none for those that have no such field or label.
pub(crate) type Members<'a> = (Option<String>, Vec<&'a Pod>);

impl GroupBy {
    /// The groups that changes touched, in the same order, with the pods that are in them now.
    pub(crate) fn touched<'a>(&self, changes: &[Change], pods: &'a Pods) -> Vec<Members<'a>> {
        let touching = changes.iter().flat_map(|change| change.before.iter().chain(&change.after));
        let touched: BTreeSet<(bool, Option<String>)> = touching
            .map(|pod| {
                let group = self.group(pod);
                (group.is_none(), group)
            })
            .collect();
        let mut groups: Vec<Members<'_>> =
            touched.into_iter().map(|(_, group)| (group, Vec::new())).collect();
        // A list knows its labels; for the rest, one look at every pod does for all groups.
        let by_label = match self {
            Self::Label(key) if groups.iter().all(|(group, _)| group.is_some()) => Some(key),
            _ => None,
        };
        if let Some(key) = by_label {
            for (group, members) in &mut groups {
                members.extend(group.iter().flat_map(|value| pods.group(key, value).iter()));
            }
        } else if !groups.is_empty() {
            let index: HashMap<Option<String>, usize> =
                groups.iter().enumerate().map(|(index, (group, _))| (group.clone(), index)).collect();
            for pod in pods.iter() {
                if let Some(index) = index.get(&self.group(pod)) {
                    groups[*index].1.push(pod);
                }
            }
        }
        groups
    }
}

/// Counts of a set of pods.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) pods: usize,
    /// The number of pods whose `Ready` condition is true, as the relay reports it.
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
