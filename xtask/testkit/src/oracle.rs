//! Expected results, computed in a slow and simple way.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use relay_proto::pods::{EventType, Pod, PodEvent, PodKey};

/// The pods after a list of events: a map, and one rule per event type. It knows no versions, positions or filters, and
/// trusts the order of the events.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Oracle {
    pods: BTreeMap<PodKey, Pod>,
}

impl Oracle {
    /// The pods after `events`, starting with none.
    pub fn fold<'a>(events: impl IntoIterator<Item = &'a PodEvent>) -> Self {
        let mut oracle = Self::default();
        for event in events {
            oracle.apply(event);
        }
        oracle
    }

    /// Begins with a list.
    pub fn seeded(pods: impl IntoIterator<Item = Pod>) -> Self {
        Self { pods: pods.into_iter().map(|pod| (pod.key().clone(), pod)).collect() }
    }

    /// Takes one event.
    pub fn apply(&mut self, event: &PodEvent) {
        match event.kind {
            EventType::Added | EventType::Modified => self.put(event.pod.clone()),
            EventType::Deleted => self.remove(event.pod.key()),
            _ => {}
        }
    }

    /// Adds a pod, or replaces the pod with its name.
    pub fn put(&mut self, pod: Pod) {
        self.pods.insert(pod.key().clone(), pod);
    }

    /// Removes the pod with this name.
    pub fn remove(&mut self, key: &PodKey) {
        self.pods.remove(key);
    }

    /// The pods, sorted by namespace and name.
    pub fn pods(&self) -> impl ExactSizeIterator<Item = &Pod> {
        self.pods.values()
    }

    /// Compares with pods from elsewhere, in any order.
    ///
    /// # Panics
    /// When a pod is missing, unexpected, duplicated or different; the message names up to ten of them.
    pub fn assert_same<'a>(&self, pods: impl IntoIterator<Item = &'a Pod>) {
        let mut left: BTreeMap<&PodKey, &Pod> = self.pods.iter().collect();
        let mut wrong = Vec::new();
        for pod in pods {
            match left.remove(pod.key()) {
                Some(expected) if expected == pod => {}
                Some(expected) => wrong.push(format!("different: have {pod:?}, expected {expected:?}")),
                None => wrong.push(format!("not expected, or twice: {pod:?}")),
            }
        }
        wrong.extend(left.values().map(|pod| format!("missing: {pod:?}")));
        let shown = wrong.iter().take(10).cloned().collect::<Vec<_>>().join("\n  ");
        assert!(wrong.is_empty(), "{} of {} pods are wrong:\n  {shown}", wrong.len(), self.pods.len());
    }
}

/// The events of a log that a client saw, compared by hash. `Display` summarises it with examples.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Audit {
    /// Events of the log that were never seen, in the log's order.
    pub missing: Vec<String>,
    /// Seen events that the log does not have.
    pub unknown: Vec<String>,
    /// The number of repetitions of events that were seen more than once.
    pub repeated: usize,
    /// Events seen for the first time after a later one of the log.
    pub late: Vec<String>,
}

impl Audit {
    /// Whether every event was seen once, in order.
    pub fn is_exact(&self) -> bool {
        self.is_complete() && self.repeated == 0
    }

    /// Whether every event was seen in order; repeats are allowed.
    pub fn is_complete(&self) -> bool {
        self.missing.is_empty() && self.unknown.is_empty() && self.late.is_empty()
    }
}

impl fmt::Display for Audit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (what, hashes) in [("missing", &self.missing), ("unknown", &self.unknown), ("late", &self.late)] {
            write!(f, "{} {what}", hashes.len())?;
            if let Some(first) = hashes.first() {
                write!(f, " (first {first})")?;
            }
            f.write_str(", ")?;
        }
        write!(f, "{} repeated", self.repeated)
    }
}

/// Compares the hashes that a client `saw`, in its order, with those of the `log`, in the log's order.
pub fn audit<L: AsRef<str>, S: AsRef<str>>(
    log: impl IntoIterator<Item = L>,
    saw: impl IntoIterator<Item = S>,
) -> Audit {
    let log: Vec<String> = log.into_iter().map(|hash| hash.as_ref().to_owned()).collect();
    let place: BTreeMap<&str, usize> = log.iter().enumerate().map(|(at, hash)| (hash.as_str(), at)).collect();
    let mut audit = Audit::default();
    let mut seen = BTreeSet::new();
    let mut furthest = None;
    for hash in saw {
        let hash = hash.as_ref();
        match place.get(hash) {
            None => audit.unknown.push(hash.to_owned()),
            Some(at) if !seen.insert(*at) => audit.repeated += 1,
            Some(at) if furthest > Some(*at) => audit.late.push(hash.to_owned()),
            Some(at) => furthest = Some(*at),
        }
    }
    audit.missing =
        log.iter().enumerate().filter(|(at, _)| !seen.contains(at)).map(|(_, hash)| hash.clone()).collect();
    audit
}

#[cfg(test)]
mod tests {
    use super::*;
    use relay_proto::pods::{EventHash, PodBuilder};

    fn pod(name: &str, version: &str) -> Pod {
        PodBuilder::new("prod", name).resource_version(Some(version)).build()
    }

    fn event(kind: EventType, name: &str, version: &str) -> PodEvent {
        PodEvent::new(kind, EventHash::new("h").unwrap(), None, pod(name, version))
    }

    #[test]
    fn events_fold_in_their_order() {
        let events = [
            event(EventType::Added, "a", "1"),
            event(EventType::Added, "b", "2"),
            event(EventType::Modified, "a", "3"),
            event(EventType::Deleted, "b", "4"),
            event(EventType::Deleted, "b", "5"),
            event(EventType::Modified, "c", "6"),
            event(EventType::parse("BOOKMARK"), "d", "7"),
        ];
        let oracle = Oracle::fold(&events);
        assert_eq!(oracle, Oracle::seeded([pod("c", "6"), pod("a", "3")]));
        oracle.assert_same(&[pod("c", "6"), pod("a", "3")]);
        assert_eq!(oracle.pods().map(Pod::name).collect::<Vec<_>>(), ["a", "c"]);
    }

    #[test]
    fn differences_are_named() {
        let oracle = Oracle::seeded([pod("a", "1"), pod("b", "1")]);
        for (held, why) in [
            (vec![pod("a", "1")], "missing: Pod(prod/b"),
            (vec![pod("a", "1"), pod("b", "2")], "different: have Pod(prod/b \"2\")"),
            (vec![pod("a", "1"), pod("b", "1"), pod("c", "1")], "not expected, or twice: Pod(prod/c"),
            (vec![pod("a", "1"), pod("b", "1"), pod("b", "1")], "not expected, or twice: Pod(prod/b"),
        ] {
            let panic = std::panic::catch_unwind(|| oracle.assert_same(&held)).unwrap_err();
            let text = panic.downcast_ref::<String>().unwrap();
            assert!(text.contains(why), "{text}");
        }
    }

    #[test]
    fn an_audit_finds_every_kind_of_fault() {
        let log = ["1", "2", "3", "4"];
        assert!(audit(log, ["1", "2", "3", "4"]).is_exact());
        let repeats = audit(log, ["1", "2", "2", "1", "3", "4"]);
        assert_eq!((repeats.repeated, repeats.is_complete(), repeats.is_exact()), (2, true, false));
        let bad = audit(log, ["1", "3", "2", "x"]);
        assert_eq!(
            (bad.missing.join(""), bad.unknown.join(""), bad.late.join("")),
            ("4".into(), "x".into(), "2".into())
        );
        assert!(!bad.is_complete());
        assert_eq!(bad.to_string(), "1 missing (first 4), 1 unknown (first x), 1 late (first 2), 0 repeated");
    }
}
