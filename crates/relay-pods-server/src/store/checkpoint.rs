//! Checkpoints: the pods at a position, as bytes.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use relay_proto::pods::{EventHash, PodKey};

use super::Labels;

const VERSION: u8 = 1;

/// The pods at one position of a log, in the order of their keys.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Fold {
    pub(crate) hash: EventHash,
    /// When the newest event was taken, in milliseconds since 1970.
    pub(crate) last_event: Option<i64>,
    pub(crate) pods: Vec<StoredPod>,
}

/// One pod of a fold.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct StoredPod {
    pub(crate) key: PodKey,
    pub(crate) uid: Option<Box<str>>,
    pub(crate) labels: Labels,
    pub(crate) json: Bytes,
}

/// Bytes after their length; absent bytes differ from empty ones.
fn put(out: &mut BytesMut, bytes: Option<&[u8]>) {
    match bytes {
        Some(bytes) => {
            out.put_u32_le(u32::try_from(bytes.len()).expect("a pod is smaller than 4 GiB"));
            out.put_slice(bytes);
        }
        None => out.put_u32_le(u32::MAX),
    }
}

fn take(from: &mut Bytes) -> Option<Option<Bytes>> {
    let len = from.try_get_u32_le().ok()?;
    if len == u32::MAX {
        return Some(None);
    }
    let len = usize::try_from(len).ok()?;
    (len <= from.len()).then(|| Some(from.split_to(len)))
}

fn text(bytes: &Bytes) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}

/// Encodes the pods of a fold, one after another.
pub(crate) struct Encoder(BytesMut);

impl Encoder {
    pub(crate) fn new(hash: &EventHash, last_event: Option<i64>, pods: usize) -> Self {
        let mut out = BytesMut::new();
        out.put_u8(VERSION);
        put(&mut out, Some(hash.as_str().as_bytes()));
        out.put_u8(last_event.is_some().into());
        out.put_i64_le(last_event.unwrap_or_default());
        out.put_u64_le(pods as u64);
        Self(out)
    }

    pub(crate) fn pod(&mut self, key: &PodKey, uid: Option<&str>, labels: &Labels, json: &[u8]) {
        put(&mut self.0, Some(key.namespace().as_bytes()));
        put(&mut self.0, Some(key.name().as_bytes()));
        put(&mut self.0, uid.map(str::as_bytes));
        put(&mut self.0, Some(&labels.0));
        put(&mut self.0, Some(json));
    }

    pub(crate) fn finish(self) -> Bytes {
        self.0.freeze()
    }
}

impl Fold {
    /// Decodes a fold; the pods share its memory. `None` when it is malformed.
    pub(crate) fn decode(mut from: Bytes) -> Option<Self> {
        if from.try_get_u8().ok()? != VERSION {
            return None;
        }
        let hash = EventHash::new(text(&take(&mut from)??)?).ok()?;
        let known = from.try_get_u8().ok()? != 0;
        let last_event = from.try_get_i64_le().ok().map(|at| known.then_some(at))?;
        let count = from.try_get_u64_le().ok()?;
        let mut pods = Vec::new();
        for _ in 0..count {
            let (namespace, name) = (take(&mut from)??, take(&mut from)??);
            let key = PodKey::new(text(&namespace)?, text(&name)?);
            let uid = match take(&mut from)? {
                Some(uid) => Some(text(&uid)?.into()),
                None => None,
            };
            let (labels, json) = (Labels(take(&mut from)??), take(&mut from)??);
            pods.push(StoredPod { key, uid, labels, json });
        }
        from.is_empty().then_some(Self { hash, last_event, pods })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use relay_proto::pods::PodBuilder;

    #[test]
    fn a_fold_is_read_as_it_was_written() {
        let labels = Labels::of(&PodBuilder::new("a", "b").label("app", "web").build());
        let hash = EventHash::new("e.1.d.s").unwrap();
        for last_event in [None, Some(-5), Some(i64::MAX)] {
            let mut encoder = Encoder::new(&hash, last_event, 2);
            let (first, second) = (PodKey::new("prod", "a"), PodKey::new("prod", "ü"));
            encoder.pod(&first, Some("uid"), &labels, b"{}");
            encoder.pod(&second, None, &Labels(Bytes::new()), b"");
            let bytes = encoder.finish();
            let fold = Fold::decode(bytes.clone()).unwrap();
            assert_eq!((&fold.hash, fold.last_event, fold.pods.len()), (&hash, last_event, 2));
            assert_eq!((&fold.pods[0].key, fold.pods[0].uid.as_deref()), (&first, Some("uid")));
            assert_eq!((fold.pods[0].labels.get("app"), &fold.pods[0].json[..]), (Some("web"), &b"{}"[..]));
            assert_eq!((&fold.pods[1].key, &fold.pods[1].uid), (&second, &None));
            for len in 0..bytes.len() {
                assert_eq!(Fold::decode(bytes.slice(..len)), None, "cut at {len}");
            }
        }
    }
}
