//! The state of a stream, folded from its records, and the rules for producers.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::record::Head;

/// A stream's configuration: stays with its log.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct About {
    pub(crate) content_type: String,
    pub(crate) ttl: Option<u64>,
    pub(crate) expires_at: Option<String>,
    /// Whether the stream was created closed.
    pub(crate) born_closed: bool,
    pub(crate) fork: Option<Fork>,
    /// When the stream was created, in milliseconds since 1970.
    #[serde(default)]
    pub(crate) created: i64,
    /// It was created with data, or with a part of a record of its source: without that record its creation is
    /// incomplete.
    #[serde(default)]
    pub(crate) with_data: bool,
}

/// The source of a fork.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Fork {
    pub(crate) from: String,
    /// The requested offset.
    pub(crate) offset: Option<String>,
    pub(crate) sub_offset: Option<u64>,
    /// Entries of the log that are the source's.
    pub(crate) shared: u64,
}

impl About {
    pub(crate) fn is_json(&self) -> bool {
        relay_proto::durable::is_json(&self.content_type)
    }

    /// Entries of the log that are the source's.
    pub(crate) fn shared(&self) -> u64 {
        self.fork.as_ref().map_or(0, |fork| fork.shared)
    }

    /// Interval at which uses of a stream are recorded, in milliseconds: after a restart, its time to live may be
    /// longer by this much. A tenth of it, between a second and a minute.
    pub(crate) fn grain(&self) -> Option<i64> {
        let tenth = i64::try_from(self.ttl?).unwrap_or(i64::MAX).saturating_mul(100);
        Some(tenth.clamp(1000, 60_000))
    }
}

/// A position between two records: entries and bytes of data before it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Position {
    pub(crate) entry: u64,
    pub(crate) bytes: u64,
}

impl Position {
    /// The offset on the wire, which sorts like the position.
    pub(crate) fn offset(self) -> String {
        format!("{:016}_{:016}", self.entry, self.bytes)
    }

    /// Parses an [`offset`](Self::offset).
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (entry, bytes) = text.split_once('_')?;
        let number = |text: &str| {
            let digits = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_digit());
            text.parse().ok().filter(|_| digits)
        };
        Some(Self { entry: number(entry)?, bytes: number(bytes)? })
    }
}

/// The state of a stream.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Fold {
    /// The newest record in it.
    pub(crate) at: u64,
    /// The last recorded use of the stream, in milliseconds since 1970.
    pub(crate) used: i64,
    /// The position after the last record with data.
    pub(crate) tail: Position,
    pub(crate) closed: bool,
    pub(crate) deleted: bool,
    pub(crate) seq: Option<String>,
    producers: HashMap<String, (u64, u64)>,
    closed_by: Option<(String, u64, u64)>,
}

/// The verdict on a producer's append.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Accept,
    /// It was appended before; the highest number so far.
    Duplicate {
        last: u64,
    },
    /// A newer epoch is known.
    Stale {
        epoch: u64,
    },
    /// The append begins a new epoch with a number other than 0.
    NotZero,
    Gap {
        expected: u64,
    },
}

impl Fold {
    /// A stream without records.
    pub(crate) fn new(about: &About) -> Self {
        Self { closed: about.born_closed, used: about.created, ..Self::default() }
    }

    /// Encodes a checkpoint.
    pub(crate) fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Decodes a checkpoint; `None` when it is malformed.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }

    /// Applies the record at `entry`, of that time. Of records shared with a source only the data counts.
    pub(crate) fn apply(&mut self, entry: u64, time: i64, head: &Head, data: u64, shared: bool) {
        self.at = entry;
        if data > 0 {
            self.tail = Position { entry, bytes: self.tail.bytes + data };
        }
        if shared {
            return;
        }
        self.used = self.used.max(time);
        self.closed |= head.close;
        self.deleted |= head.deleted;
        if head.seq.is_some() {
            self.seq.clone_from(&head.seq);
        }
        if let Some((id, epoch, seq)) = &head.producer {
            self.producers.insert(id.clone(), (*epoch, *seq));
            if head.close {
                self.closed_by.clone_from(&head.producer);
            }
        }
    }

    /// Whether a producer may append under this number.
    pub(crate) fn judge(&self, id: &str, epoch: u64, seq: u64) -> Verdict {
        match self.producers.get(id) {
            Some((known, _)) if epoch < *known => Verdict::Stale { epoch: *known },
            Some((known, last)) if epoch == *known => match seq {
                seq if seq <= *last => Verdict::Duplicate { last: *last },
                seq if seq == last + 1 => Verdict::Accept,
                _ => Verdict::Gap { expected: last + 1 },
            },
            Some(_) if seq != 0 => Verdict::NotZero,
            None if seq != 0 => Verdict::Gap { expected: 0 },
            _ => Verdict::Accept,
        }
    }

    /// Whether this append closed the stream.
    pub(crate) fn was_closed_by(&self, id: &str, epoch: u64, seq: u64) -> bool {
        self.closed_by.as_ref().is_some_and(|(by, at, number)| by == id && (*at, *number) == (epoch, seq))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_sort_like_positions() {
        let positions =
            [(0, 0), (1, 5), (2, 5), (10, 90), (11, 1000)].map(|(entry, bytes)| Position { entry, bytes });
        let offsets = positions.map(Position::offset);
        assert!(offsets.is_sorted());
        assert_eq!(offsets.map(|offset| Position::parse(&offset).unwrap()), positions);
        for bad in ["", "0", "0_0", "0000000000000001", "+000000000000001_0000000000000000", "-1", "a_b"] {
            assert_eq!(Position::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn producers_by_the_table() {
        let mut fold = Fold::default();
        assert_eq!(fold.judge("p", 0, 1), Verdict::Gap { expected: 0 });
        assert_eq!(fold.judge("p", 3, 0), Verdict::Accept);
        for seq in 0..=2 {
            fold.apply(
                seq + 1,
                5,
                &Head { producer: Some(("p".into(), 3, seq)), ..Head::default() },
                1,
                false,
            );
        }
        for (epoch, seq, verdict) in [
            (3, 0, Verdict::Duplicate { last: 2 }),
            (3, 2, Verdict::Duplicate { last: 2 }),
            (3, 3, Verdict::Accept),
            (3, 5, Verdict::Gap { expected: 3 }),
            (2, 9, Verdict::Stale { epoch: 3 }),
            (4, 0, Verdict::Accept),
            (4, 1, Verdict::NotZero),
        ] {
            assert_eq!(fold.judge("p", epoch, seq), verdict, "{epoch} {seq}");
        }
        assert_eq!(Fold::decode(&fold.encode()), Some(fold), "a checkpoint is all of it");
        let mut fork = Fold::default();
        fork.apply(
            1,
            5,
            &Head { producer: Some(("p".into(), 3, 2)), close: true, ..Head::default() },
            4,
            true,
        );
        assert_eq!((fork.tail, fork.closed), (Position { entry: 1, bytes: 4 }, false));
        assert_eq!(fork.judge("p", 0, 0), Verdict::Accept);
    }

    #[test]
    fn uses_are_written_down_as_often_as_the_time_to_live_wants() {
        for (ttl, grain) in
            [(None, None), (Some(1), Some(1000)), (Some(60), Some(6000)), (Some(u64::MAX), Some(60_000))]
        {
            assert_eq!(About { ttl, ..About::default() }.grain(), grain);
        }
    }
}
