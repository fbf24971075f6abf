//! The format of the entries of a stream's log.

use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

/// One append, or a close: its data and its changes of state in one entry, so that both are stored or neither is.
/// An entry with nothing set records a use of the stream.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Head {
    /// Messages of a JSON stream.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) messages: u64,
    /// Name, epoch and number of the producer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) producer: Option<(String, u64, u64)>,
    /// The writer's sequence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) seq: Option<String>,
    /// The stream is closed by this record.
    #[serde(default, skip_serializing_if = "core::ops::Not::not")]
    pub(crate) close: bool,
    /// The stream is deleted, but has forks.
    #[serde(default, skip_serializing_if = "core::ops::Not::not")]
    pub(crate) deleted: bool,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// The entry: length of the head, head, data. Data of a JSON stream is its messages with commas between them.
pub(crate) fn encode(head: &Head, data: &[u8]) -> Bytes {
    let head = serde_json::to_vec(head).unwrap_or_default();
    let mut entry = BytesMut::with_capacity(4 + head.len() + data.len());
    entry.put_u32(u32::try_from(head.len()).unwrap_or(u32::MAX));
    entry.extend_from_slice(&head);
    entry.extend_from_slice(data);
    entry.freeze()
}

/// Decodes an entry; `None` when it is malformed.
pub(crate) fn decode(entry: &Bytes) -> Option<(Head, Bytes)> {
    let length = u32::from_be_bytes(entry.get(..4)?.try_into().ok()?) as usize;
    let end = 4usize.checked_add(length)?;
    let head = serde_json::from_slice(entry.get(4..end)?).ok()?;
    Some((head, entry.slice(end..)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_there_and_back() {
        let head = Head { messages: 2, producer: Some(("p".into(), 1, 7)), close: true, ..Head::default() };
        let entry = encode(&head, b"1,2");
        assert_eq!(decode(&entry), Some((head, "1,2".into())));
        assert_eq!(decode(&encode(&Head::default(), b"")), Some((Head::default(), Bytes::new())));
        for bad in [&b""[..], b"\0\0\0", b"\0\0\0\x09{}", b"\xff\xff\xff\xff{}", b"\0\0\0\x02{x"] {
            assert_eq!(decode(&Bytes::copy_from_slice(bad)), None, "{bad:?}");
        }
    }
}
