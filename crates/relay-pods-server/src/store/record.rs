//! One event of the log, encoded once.

use std::cmp::Ordering;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use relay_proto::pods::{EventHash, Filter, Pod, PodKey};
use relay_proto::time::Timestamp;

use crate::cursor::LogIdentity;

/// What happened to a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Change {
    /// It appeared.
    Added,
    /// It changed.
    Modified,
    /// It is gone.
    Deleted,
}

impl Change {
    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
        }
    }
}

/// One event, in the bytes that every subscriber is sent.
///
/// The whole SSE frame of an unfiltered stream is one buffer. From its `hash` field on it is the same for everyone, so
/// that filtered streams and history pages send that slice behind a head of their own.
pub struct Record {
    sequence: u64,
    appended_at: i64,
    change: Change,
    synthetic: bool,
    key: PodKey,
    labels: Labels,
    /// The labels before this event, where they differ.
    previous_labels: Option<Labels>,
    frame: Bytes,
    hash: Range<u32>,
    previous: Range<u32>,
    shared: u32,
    pod: u32,
}

/// What a record is made of.
pub(crate) struct Draft<'a> {
    pub(crate) change: Change,
    pub(crate) synthetic: bool,
    pub(crate) key: &'a PodKey,
    pub(crate) labels: Labels,
    pub(crate) previous_labels: Option<Labels>,
    pub(crate) pod_json: &'a [u8],
    pub(crate) timestamp: &'a Timestamp,
    pub(crate) appended_at: i64,
}

impl Record {
    /// Bytes that a record is counted with beside its frame.
    pub(crate) const OVERHEAD: u64 = 256;
    /// `}` and the blank line.
    const TAIL: usize = 3;

    /// Encodes an event and gives it its hash.
    pub(crate) fn new(identity: &LogIdentity, sequence: u64, previous: &EventHash, draft: Draft<'_>) -> Self {
        let timestamp =
            serde_json::to_string(draft.timestamp.as_str()).expect("text is always representable as JSON");
        let synthetic = if draft.synthetic { "\"synthetic\":true," } else { "" };
        let fields = format!("\"sequence\":{sequence},\"timestamp\":{timestamp},{synthetic}\"pod\":");
        let kind = draft.change.as_str();
        let event = [kind.as_bytes(), b"{", fields.as_bytes(), draft.pod_json, b"}"].concat();
        let hash = identity.mint(previous.as_str(), sequence, &event);

        let head = format!("event: pod\nid: {hash}\ndata: {{\"type\":\"{kind}\",\"previous_hash\":\"");
        let between = "\",";
        let hash_field = format!("\"hash\":\"{hash}\",");
        let shared = head.len() + previous.as_str().len() + between.len();
        let pod = shared + hash_field.len() + fields.len();
        let mut frame = BytesMut::with_capacity(pod + draft.pod_json.len() + Self::TAIL);
        for part in [&head, previous.as_str(), between, &hash_field, &fields] {
            frame.put_slice(part.as_bytes());
        }
        frame.put_slice(draft.pod_json);
        frame.put_slice(b"}\n\n");
        let at = |start: usize, len: usize| {
            u32::try_from(start).expect("an event is smaller than 4 GiB")..(start + len) as u32
        };
        Self {
            sequence,
            appended_at: draft.appended_at,
            change: draft.change,
            synthetic: draft.synthetic,
            key: draft.key.clone(),
            labels: draft.labels,
            previous_labels: draft.previous_labels,
            hash: at("event: pod\nid: ".len(), hash.as_str().len()),
            previous: at(head.len(), previous.as_str().len()),
            shared: at(shared, 0).start,
            pod: at(pod, 0).start,
            frame: frame.freeze(),
        }
    }

    /// Its number in the log.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Its position.
    pub fn hash(&self) -> EventHash {
        EventHash::new(self.hash_str()).expect("taken from a hash")
    }

    /// When the log took it, in milliseconds since 1970.
    pub fn appended_at(&self) -> i64 {
        self.appended_at
    }

    /// What happened, seen without a filter.
    pub fn change(&self) -> Change {
        self.change
    }

    /// Whether it is a difference found by a relist, rather than a change that was watched.
    pub fn synthetic(&self) -> bool {
        self.synthetic
    }

    /// The pod.
    pub fn key(&self) -> &PodKey {
        &self.key
    }

    /// The SSE frame of an unfiltered stream.
    pub fn frame(&self) -> &Bytes {
        &self.frame
    }

    /// Bytes it is counted with: its frame and an estimate of what is kept beside it.
    pub fn size(&self) -> u64 {
        self.frame.len() as u64 + Self::OVERHEAD
    }

    pub(crate) fn hash_str(&self) -> &str {
        self.text(&self.hash)
    }

    pub(crate) fn previous_hash_str(&self) -> &str {
        self.text(&self.previous)
    }

    pub(crate) fn labels(&self) -> &Labels {
        &self.labels
    }

    /// The fields of the event's JSON object that are the same for everyone, from `"hash"` to the closing brace.
    pub(crate) fn shared_fields(&self) -> &[u8] {
        &self.frame[self.shared as usize..self.frame.len() - 2]
    }

    /// The pod alone, sharing the frame's memory.
    pub(crate) fn pod_json(&self) -> Bytes {
        self.frame.slice(self.pod as usize..self.frame.len() - Self::TAIL)
    }

    /// What a stream with this filter sees of the event: the rule of Kubernetes' watch. A pod whose labels enter the
    /// filter is added, one whose labels leave it is deleted; `None` when the filter sees nothing.
    pub(crate) fn seen_through(&self, filter: &Filter) -> Option<Seen> {
        if !filter.matches_namespace(self.key.namespace()) {
            return None;
        }
        if filter.labels().is_empty() {
            return Some(Seen { change: self.change, left_filter: false });
        }
        let after = filter.matches_labels(|key| self.labels.get(key));
        let before = self.previous_labels.as_ref().map_or(after, |l| filter.matches_labels(|key| l.get(key)));
        let (change, left_filter) = match (self.change, before, after) {
            (Change::Added, _, true) | (Change::Modified, false, true) => (Change::Added, false),
            (Change::Modified, true, true) => (Change::Modified, false),
            (Change::Modified, true, false) => (Change::Deleted, true),
            (Change::Deleted, true, _) => (Change::Deleted, false),
            (Change::Added, _, false) | (Change::Modified, false, false) | (Change::Deleted, false, _) => {
                return None;
            }
        };
        Some(Seen { change, left_filter })
    }

    /// Appends the frame of a filtered stream; `sent` counts the messages of the connection, this one included.
    pub(crate) fn write_filtered(&self, out: &mut BytesMut, seen: Seen, sent: u64) {
        let left = if seen.left_filter { "\"left_filter\":true," } else { "" };
        let (kind, hash) = (seen.change.as_str(), self.hash_str());
        let head =
            format!("event: pod\nid: {hash}\ndata: {{\"sent\":{sent},\"type\":\"{kind}\",{left}\ndata: ");
        out.put_slice(head.as_bytes());
        out.put_slice(&self.frame[self.shared as usize..]);
    }

    /// Appends the event as an object of a history page.
    pub(crate) fn write_object(&self, out: &mut Vec<u8>, seen: Seen, with_previous: bool) {
        out.extend_from_slice(b"{\"type\":\"");
        out.extend_from_slice(seen.change.as_str().as_bytes());
        out.extend_from_slice(b"\",");
        if with_previous {
            out.extend_from_slice(b"\"previous_hash\":\"");
            out.extend_from_slice(self.previous_hash_str().as_bytes());
            out.extend_from_slice(b"\",");
        }
        if seen.left_filter {
            out.extend_from_slice(b"\"left_filter\":true,");
        }
        out.extend_from_slice(self.shared_fields());
    }

    fn text(&self, range: &Range<u32>) -> &str {
        std::str::from_utf8(&self.frame[range.start as usize..range.end as usize]).expect("hashes are ASCII")
    }
}

impl fmt::Debug for Record {
    /// Names the event; the pod may hold what does not belong into logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Record({} {} {})", self.sequence, self.change.as_str(), self.key)
    }
}

/// An event as one filter sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) change: Change,
    pub(crate) left_filter: bool,
}

/// A pod's labels, sorted by key; shared between the events of a pod for as long as they stay the same.
///
/// One allocation: the text of each key and value behind its length. There are few, so that a walk finds one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Labels(Arc<[u8]>);

impl Labels {
    pub(crate) fn of(pod: &Pod) -> Self {
        let mut packed = Vec::new();
        for text in pod.labels().flat_map(|(key, value)| [key, value]) {
            let len = u32::try_from(text.len()).expect("a pod is smaller than 4 GiB");
            packed.extend_from_slice(&len.to_le_bytes());
            packed.extend_from_slice(text.as_bytes());
        }
        Self(packed.into())
    }

    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        let mut rest = &*self.0;
        loop {
            let (found, after) = unpack(rest)?;
            let (value, after) = unpack(after)?;
            match found.cmp(key.as_bytes()) {
                Ordering::Less => rest = after,
                Ordering::Equal => return std::str::from_utf8(value).ok(),
                Ordering::Greater => return None,
            }
        }
    }
}

/// A text behind its length, and what follows.
fn unpack(packed: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = packed.split_first_chunk()?;
    rest.split_at_checked(u32::from_le_bytes(*len) as usize)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use relay_proto::pods::PodBuilder;

    use super::*;

    proptest! {
        #[test]
        fn packed_labels_are_a_map(
            labels in prop::collection::btree_map("[a-d]{0,3}\\PC?", "\\PC{0,70}", 0..8),
            others in prop::collection::vec("[a-d]{0,3}", 8),
        ) {
            let of = |labels: &BTreeMap<String, String>| {
                let pod = PodBuilder::new("prod", "a");
                Labels::of(&labels.iter().fold(pod, |pod, (key, value)| pod.label(key, value)).build())
            };
            let packed = of(&labels);
            for key in labels.keys().chain(&others) {
                prop_assert_eq!(packed.get(key), labels.get(key).map(String::as_str));
            }
            for key in labels.keys() {
                let mut fewer = labels.clone();
                fewer.remove(key);
                prop_assert!(of(&fewer) != packed);
            }
        }
    }
}
