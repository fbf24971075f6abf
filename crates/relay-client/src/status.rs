//! What can be seen of a running stream from outside.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use relay_proto::pods::EventHash;
use serde::Serialize;

/// How far the pods of a stream can be trusted to show the present. A level, not a latch: it falls back.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Freshness {
    /// Nothing was read yet.
    #[default]
    Cold,
    /// The history is being replayed.
    Replaying,
    /// Events are followed as they happen.
    Live,
    /// The pods are those of a moment in the past.
    Stale {
        /// Since when.
        since: SystemTime,
        /// Why: the connection dropped, the list cannot be read, the relay's source is away.
        why: String,
    },
}

/// What a stream has counted since it began.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Statistics {
    /// Connections that were opened.
    pub connections: u64,
    /// Bytes received on the stream.
    pub bytes: u64,
    /// Bytes held in the read-ahead buffer now, and the most there ever were.
    pub buffered: u64,
    /// The most bytes that were ever held in the read-ahead buffer.
    pub buffered_max: u64,
    /// Messages that were handed over before.
    pub duplicates: u64,
    /// Holes found.
    pub holes: u64,
    /// Gaps reported.
    pub gaps: u64,
    /// Messages that could not be read.
    pub undecodable: u64,
    /// SSE events of unknown name.
    pub unknown: u64,
    /// Events that a list already held.
    pub superseded: u64,
    /// Events of unknown type.
    pub unknown_types: u64,
}

/// A view of a running stream: where it may resume, how fresh it is, what it has counted. Cheap to clone; stays
/// readable when the stream is gone.
#[derive(Debug, Clone, Default)]
pub struct StreamHandle(Arc<Mutex<Status>>);

#[derive(Debug, Default)]
pub(crate) struct Status {
    pub(crate) acknowledgement: Option<EventHash>,
    /// The ack of the snapshot that the consumer has in hand.
    pub(crate) in_hand: Option<EventHash>,
    pub(crate) freshness: Freshness,
    pub(crate) statistics: Statistics,
}

impl StreamHandle {
    /// What may be persisted now: the position of the last snapshot that the consumer has finished with (by asking for
    /// the next), or of a bookmark after it.
    pub fn acknowledgement(&self) -> Option<EventHash> {
        self.with(|status| status.acknowledgement.clone())
    }

    /// Says that the consumer has finished with the snapshot it has in hand. Asking for the next one says the same.
    pub fn finish(&self) {
        self.with(|status| {
            if let Some(ack) = status.in_hand.take() {
                status.acknowledgement = Some(ack);
            }
        });
    }

    /// How far the pods show the present.
    pub fn freshness(&self) -> Freshness {
        self.with(|status| status.freshness.clone())
    }

    /// What was counted.
    pub fn statistics(&self) -> Statistics {
        self.with(|status| status.statistics.clone())
    }

    pub(crate) fn with<T>(&self, access: impl FnOnce(&mut Status) -> T) -> T {
        access(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Stale since now, or since before with another reason.
    pub(crate) fn stale(&self, why: &str) {
        self.with(|status| {
            let since = match status.freshness {
                Freshness::Cold => return,
                Freshness::Stale { since, .. } => since,
                _ => SystemTime::now(),
            };
            status.freshness = Freshness::Stale { since, why: why.into() };
        });
    }

    pub(crate) fn fresh(&self, freshness: Freshness) {
        self.with(|status| status.freshness = freshness);
    }
}
