//! Changes of the set of pods.

use relay_proto::pods::{Pod, PodKey};
use serde::Serialize;

/// The kind of change of one key.
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
    /// The kind of change.
    pub kind: ChangeKind,
    /// The pod before, unless it was added.
    pub before: Option<Pod>,
    /// The pod after, unless it was removed.
    pub after: Option<Pod>,
}

impl Change {
    /// The changes of one key: none when there is no pod on either side, one change, or a removal and an addition
    /// when another pod took the name. Two equal pods are a modification.
    pub fn between(before: Option<Pod>, after: Option<Pod>) -> impl Iterator<Item = Self> {
        let change = |kind, before, after| Some(Self { kind, before, after });
        let changes = match (before, after) {
            (None, None) => [None, None],
            (None, after) => [change(ChangeKind::Added, None, after), None],
            (before, None) => [change(ChangeKind::Removed, before, None), None],
            (Some(before), Some(after)) if differ(before.uid(), after.uid()) => [
                change(ChangeKind::Removed, Some(before), None),
                change(ChangeKind::Added, None, Some(after)),
            ],
            (before, after) => [change(ChangeKind::Modified, before, after), None],
        };
        changes.into_iter().flatten()
    }

    /// The key of the pod.
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

    /// Every group that this change touched, as (label key, value): those of the pod before, then those that it
    /// joined. Any change of a pod touches all of its groups.
    pub fn touched(&self) -> impl Iterator<Item = (&str, &str)> {
        let was = |key, value| self.before.as_ref().is_some_and(|pod| pod.label(key) == Some(value));
        let joined = self.after.iter().flat_map(Pod::labels).filter(move |(key, value)| !was(key, value));
        self.before.iter().flat_map(Pod::labels).chain(joined)
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

/// Whether both sides have a UID and the two differ.
pub(super) fn differ(held: Option<&str>, new: Option<&str>) -> bool {
    held.zip(new).is_some_and(|(held, new)| held != new)
}
