//! One event of the log, encoded once.

use std::cmp::Ordering;
use std::fmt;
use std::ops::Range;

use bytes::{BufMut, Bytes, BytesMut};
use relay_log::Entry;
use relay_proto::pods::{EventHash, Filter, Pod, PodKey};
use relay_proto::time::Timestamp;

use super::StoreError;
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

/// One event, in the bytes that the log stores and every subscriber gets. Cheap to clone.
///
/// ```text
///   4 bytes   version, change, flags, 0
///   10 x 4    lengths and places, little-endian
///   n bytes   namespace, name, labels, and the labels before if they differ
///   frame     the whole SSE frame of an unfiltered stream; from its field `hash` on it is the same for everyone,
///             so filtered streams and history pages send that part of it after a head of their own
/// ```
#[derive(Clone)]
pub struct Record {
    sequence: u64,
    appended_at: i64,
    change: Change,
    flags: u8,
    /// All bytes; the ranges refer to it.
    body: Bytes,
    namespace: Range<u32>,
    name: Range<u32>,
    labels: Range<u32>,
    previous_labels: Range<u32>,
    frame: u32,
    hash: Range<u32>,
    previous: Range<u32>,
    shared: u32,
    pod: u32,
}

/// The content of a new record.
pub(crate) struct Draft<'a> {
    pub(crate) change: Change,
    pub(crate) synthetic: bool,
    pub(crate) key: &'a PodKey,
    pub(crate) labels: Labels,
    /// The labels before this event, if they differ.
    pub(crate) previous_labels: Option<Labels>,
    pub(crate) pod_json: &'a [u8],
    pub(crate) timestamp: &'a Timestamp,
    pub(crate) appended_at: i64,
}

const VERSION: u8 = 1;
/// Flags.
const SYNTHETIC: u8 = 1;
const RELABELLED: u8 = 2;
/// Bytes before the namespace.
const HEAD: usize = 44;

impl Record {
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
        let before = draft.previous_labels.as_ref().map_or(&[][..], |labels| &labels.0);
        let flags =
            u8::from(draft.synthetic) * SYNTHETIC + u8::from(draft.previous_labels.is_some()) * RELABELLED;
        let (namespace, name) = (draft.key.namespace().as_bytes(), draft.key.name().as_bytes());
        let parts = [namespace, name, &draft.labels.0, before];
        let frame_at = HEAD + parts.iter().map(|part| part.len()).sum::<usize>();
        let places = [
            namespace.len(),
            name.len(),
            draft.labels.0.len(),
            before.len(),
            "event: pod\nid: ".len(),
            hash.as_str().len(),
            head.len(),
            previous.as_str().len(),
            shared,
            pod,
        ];
        let mut body = BytesMut::with_capacity(frame_at + pod + draft.pod_json.len() + Self::TAIL);
        body.put_slice(&[VERSION, draft.change as u8, flags, 0]);
        for place in places {
            body.put_u32_le(u32::try_from(place).expect("an event is smaller than 4 GiB"));
        }
        for part in parts {
            body.put_slice(part);
        }
        for part in [&head, previous.as_str(), between, &hash_field, &fields] {
            body.put_slice(part.as_bytes());
        }
        body.put_slice(draft.pod_json);
        body.put_slice(b"}\n\n");
        Self::parse(sequence, draft.appended_at, body.freeze()).expect("it is what was just put together")
    }

    /// Decodes an event from the log.
    ///
    /// # Errors
    /// When the bytes are not an event.
    pub fn decode(entry: &Entry) -> Result<Self, StoreError> {
        let parsed = Self::parse(entry.position, entry.time, entry.body.clone());
        parsed.ok_or(StoreError::Undecodable { sequence: entry.position })
    }

    fn parse(sequence: u64, appended_at: i64, body: Bytes) -> Option<Self> {
        let head: &[u8; HEAD] = body.first_chunk()?;
        let change = match head[..2] {
            [VERSION, 0] => Change::Added,
            [VERSION, 1] => Change::Modified,
            [VERSION, 2] => Change::Deleted,
            _ => return None,
        };
        let flags = head[2];
        let mut places = [0_u32; 10];
        for (place, bytes) in places.iter_mut().zip(head[4..].chunks_exact(4)) {
            *place = u32::from_le_bytes(bytes.try_into().ok()?);
        }
        let [namespace, name, labels, before, hash, hash_len, previous, previous_len, shared, pod] = places;
        let mut at = HEAD as u32;
        let mut next = |len: u32| {
            let range = at..at.checked_add(len)?;
            at = range.end;
            Some(range)
        };
        let (namespace, name, labels, before) = (next(namespace)?, next(name)?, next(labels)?, next(before)?);
        let frame = before.end;
        let within = |at: u32, len: u32| {
            let start = frame.checked_add(at)?;
            Some(start..start.checked_add(len)?)
        };
        let record = Self {
            sequence,
            appended_at,
            change,
            flags,
            namespace,
            name,
            labels,
            previous_labels: before,
            frame,
            hash: within(hash, hash_len)?,
            previous: within(previous, previous_len)?,
            shared: within(shared, 0)?.start,
            pod: within(pod, 0)?.start,
            body,
        };
        let text = |range: &Range<u32>| {
            let bytes = record.body.get(range.start as usize..range.end as usize)?;
            std::str::from_utf8(bytes).ok()
        };
        // All properties that later code relies on.
        text(&record.namespace)?;
        text(&record.name)?;
        EventHash::new(text(&record.hash)?).ok()?;
        EventHash::new(text(&record.previous)?).ok()?;
        let end = record.body.len().checked_sub(Self::TAIL)?;
        (record.shared as usize <= end && record.pod as usize <= end && record.shared <= record.pod)
            .then_some(record)
    }

    /// The bytes that the log keeps.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// Its number in the log.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Its position.
    pub fn hash(&self) -> EventHash {
        EventHash::new(self.hash_str()).expect("taken from a hash")
    }

    /// The time of its append, in milliseconds since 1970.
    pub fn appended_at(&self) -> i64 {
        self.appended_at
    }

    /// The change, without a filter.
    pub fn change(&self) -> Change {
        self.change
    }

    /// Whether it is a difference found by a relist, and not a watched change.
    pub fn synthetic(&self) -> bool {
        self.flags & SYNTHETIC != 0
    }

    /// The pod.
    pub fn key(&self) -> PodKey {
        PodKey::new(self.namespace(), self.name())
    }

    /// The pod's namespace.
    pub fn namespace(&self) -> &str {
        self.text(&self.namespace)
    }

    /// The pod's name.
    pub fn name(&self) -> &str {
        self.text(&self.name)
    }

    /// Where in the bytes of an event the frame of an unfiltered stream stands, without decoding the rest.
    pub(crate) fn frame_in(body: &[u8]) -> Option<Range<usize>> {
        let head: &[u8; HEAD] = body.first_chunk()?;
        let mut at = HEAD;
        for place in head[4..20].chunks_exact(4) {
            at = at.checked_add(u32::from_le_bytes(place.try_into().ok()?) as usize)?;
        }
        let frame = body.get(at..)?;
        (head[0] == VERSION && frame.ends_with(b"}\n\n")).then_some(at..body.len())
    }

    /// That frame.
    pub(crate) fn frame_of(entry: &Entry) -> Result<&[u8], StoreError> {
        let frame = Self::frame_in(&entry.body).and_then(|range| entry.body.get(range));
        frame.ok_or(StoreError::Undecodable { sequence: entry.position })
    }

    /// The SSE frame of an unfiltered stream.
    pub fn frame(&self) -> Bytes {
        self.body.slice(self.frame as usize..)
    }

    pub(crate) fn hash_str(&self) -> &str {
        self.text(&self.hash)
    }

    /// The position before it.
    pub(crate) fn previous_hash(&self) -> EventHash {
        EventHash::new(self.previous_hash_str()).expect("taken from a hash")
    }

    fn previous_hash_str(&self) -> &str {
        self.text(&self.previous)
    }

    pub(crate) fn labels(&self) -> Labels {
        Labels(self.body.slice(self.labels.start as usize..self.labels.end as usize))
    }

    pub(crate) fn previous_labels(&self) -> Option<Labels> {
        let range = self.previous_labels.start as usize..self.previous_labels.end as usize;
        (self.flags & RELABELLED != 0).then(|| Labels(self.body.slice(range)))
    }

    /// The fields of the event's JSON object that are the same for everyone, from `"hash"` to the closing brace.
    pub(crate) fn shared_fields(&self) -> &[u8] {
        &self.body[self.shared as usize..self.body.len() - 2]
    }

    /// The pod alone, sharing the event's memory.
    pub(crate) fn pod_json(&self) -> Bytes {
        self.body.slice(self.pod as usize..self.body.len() - Self::TAIL)
    }

    /// The event for a stream with this filter, by the rule of Kubernetes' watch: a pod whose labels enter the
    /// filter is added, one whose labels leave it is deleted; `None` when the event is not sent.
    pub(crate) fn seen_through(&self, filter: &Filter) -> Option<Seen> {
        if !filter.matches_namespace(self.namespace()) {
            return None;
        }
        if filter.labels().is_empty() {
            return Some(Seen { change: self.change, crossing: Crossing::None });
        }
        let labels = self.labels();
        let after = filter.matches_labels(|key| labels.get(key));
        let before = self.previous_labels().map_or(after, |l| filter.matches_labels(|key| l.get(key)));
        let (change, crossing) = match (self.change, before, after) {
            (Change::Added, _, true) => (Change::Added, Crossing::None),
            (Change::Modified, false, true) => (Change::Added, Crossing::Entered),
            (Change::Modified, true, true) => (Change::Modified, Crossing::None),
            (Change::Modified, true, false) => (Change::Deleted, Crossing::Left),
            (Change::Deleted, true, _) => (Change::Deleted, Crossing::None),
            (Change::Added, _, false) | (Change::Modified, false, false) | (Change::Deleted, false, _) => {
                return None;
            }
        };
        Some(Seen { change, crossing })
    }

    /// Appends the frame of a filtered stream; `sent` counts the messages of the connection, this one included.
    pub(crate) fn write_filtered(&self, out: &mut BytesMut, seen: Seen, sent: u64) {
        let crossing = seen.crossing.field();
        let (kind, hash) = (seen.change.as_str(), self.hash_str());
        let head =
            format!("event: pod\nid: {hash}\ndata: {{\"sent\":{sent},\"type\":\"{kind}\",{crossing}\ndata: ");
        out.put_slice(head.as_bytes());
        out.put_slice(&self.body[self.shared as usize..]);
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
        out.extend_from_slice(seen.crossing.field().as_bytes());
        out.extend_from_slice(self.shared_fields());
    }

    fn text(&self, range: &Range<u32>) -> &str {
        std::str::from_utf8(&self.body[range.start as usize..range.end as usize]).expect("it was checked")
    }
}

impl fmt::Debug for Record {
    /// Shows the event without the pod, which may contain secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Record({} {} {})", self.sequence, self.change.as_str(), self.key())
    }
}

/// An event as one filter sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) change: Change,
    pub(crate) crossing: Crossing,
}

/// Whether a pod entered or left a filter. Such a pod existed before, or still exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Crossing {
    None,
    Entered,
    Left,
}

impl Crossing {
    /// The JSON field for it, with its comma.
    fn field(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Entered => "\"entered_filter\":true,",
            Self::Left => "\"left_filter\":true,",
        }
    }
}

/// A pod's labels, sorted by key: a slice of their event.
///
/// Each key and value follows its length. There are few labels, so they are searched in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Labels(pub(super) Bytes);

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

/// A text after its length, and the rest.
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
        fn an_event_is_read_back_exactly_as_it_was_kept(
            change in prop::sample::select(vec![Change::Added, Change::Modified, Change::Deleted]),
            synthetic: bool,
            name in "[a-z]{1,8}",
            app in "\\PC{0,9}",
            before in prop::option::of("\\PC{0,9}"),
            time in -5_i64..5_000_000_000_000,
            sequence in 1_u64..1 << 40,
        ) {
            let identity = LogIdentity::new("epoch", [3; 32]);
            let labels = |app: &str| Labels::of(&PodBuilder::new("prod", "a").label("app", app).build());
            let pod = PodBuilder::new("prod", &name).label("app", &app).build();
            let json = pod.to_json().into_owned();
            let timestamp = Timestamp::from_unix_millis(1_700_000_000_000);
            let draft = Draft {
                change,
                synthetic,
                key: pod.key(),
                labels: labels(&app),
                previous_labels: before.as_deref().map(labels),
                pod_json: json.as_bytes(),
                timestamp: &timestamp,
                appended_at: time,
            };
            let record = Record::new(&identity, sequence, &identity.genesis(), draft);
            let entry = Entry { position: sequence, time, body: record.body().clone() };
            let read = Record::decode(&entry).unwrap();
            prop_assert_eq!(read.body(), record.body());
            prop_assert_eq!((read.sequence(), read.appended_at()), (sequence, time));
            prop_assert_eq!((read.change(), read.synthetic()), (change, synthetic));
            prop_assert_eq!((read.key(), read.labels()), (pod.key().clone(), labels(&app)));
            prop_assert_eq!(read.previous_labels(), before.as_deref().map(labels));
            prop_assert_eq!((&read.pod_json()[..], read.previous_hash()), (json.as_bytes(), identity.genesis()));
            prop_assert_eq!(identity.recognise(read.hash_str()), Some(sequence));
            let frame = read.frame();
            let whole = frame.starts_with(b"event: pod\nid: ") && frame.ends_with(b"}\n\n");
            prop_assert!(whole);
            // A record that is cut before the end of the pod is refused, or at least causes no panic.
            for len in 0..HEAD.min(entry.body.len()) {
                let cut = Entry { position: sequence, time, body: entry.body.slice(..len) };
                prop_assert!(Record::decode(&cut).is_err());
            }
        }

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
