//! The status of a running stream: freshness, acknowledgement, statistics.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use relay_proto::pods::{Epoch, EventHash, Message, PodList};
use relay_state::pods::{Continuity, Step};
use serde::Serialize;
use tokio::time::Instant;

/// Whether the pods of a stream are up to date. It can become stale again.
///
/// It is computed when it is read. A stream without bytes for the idle limit (three heartbeats, or 45 s until the
/// relay has sent its interval) is stale, also when it is not polled, and fresh again with the next bytes.
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
    /// The pods may be out of date.
    Stale {
        /// Since when.
        since: SystemTime,
        /// Why: the connection dropped, events were lost, the list cannot be read, the relay's source is away, nothing
        /// was read for too long, the stream was dropped.
        why: String,
    },
}

/// Counts of a stream since it began, over all its connections.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Statistics {
    /// Connections that were opened.
    pub connections: u64,
    /// Connections that were opened after the first.
    pub reconnects: u64,
    /// Bytes received on the stream, heads and lists not counted.
    pub bytes: u64,
    /// Bytes held in the read-ahead buffer now.
    pub buffered: u64,
    /// The most bytes that were ever held in the read-ahead buffer.
    pub buffered_max: u64,
    /// The newest known position of the relay's log, as a sequence: from `connected`, events, heartbeats and lists.
    /// `None` before the first of them, and from a relay that gives no sequences.
    pub head: Option<u64>,
    /// Events of the log that the consumer has not processed: head minus acknowledged. Events that a gap announced
    /// as lost do not count; on a filtered stream, events outside the filter count until the next heartbeat. `None`
    /// where one of the two is not known.
    pub lag: Option<u64>,
    /// Messages that were handed over before, and dropped.
    pub duplicates: u64,
    /// Holes found, each followed by a resume or reported as a gap.
    pub holes: u64,
    /// Gaps reported, the relay's and our own.
    pub gaps: u64,
    /// Messages that could not be read.
    pub undecodable: u64,
    /// SSE events of unknown name.
    pub unknown: u64,
    /// Events that a list already contained: handed over, not applied.
    pub superseded: u64,
    /// Events not applied because the held pod is as new. Only from a relay without sequences.
    pub stale_versions: u64,
    /// Events not applied because they are about a former pod of that name. Only from a relay without sequences.
    pub late: u64,
    /// Pods that an event replaced by another of the same name.
    pub replaced: u64,
    /// Inconsistent events that were applied, such as the deletion of an absent pod.
    pub odd: u64,
    /// Events of unknown type, not applied.
    pub unknown_types: u64,
}

/// A time in which a stream cannot reach its relay, or cannot read its list.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Outage {
    /// Since when.
    pub since: SystemTime,
    /// Why, as of the last attempt.
    pub why: String,
    /// When the next attempt begins.
    pub next_try: SystemTime,
}

/// A view of a running stream: where it may resume, how fresh it is, what it has counted. Cheap to clone; stays
/// readable when the stream is gone.
#[derive(Debug, Clone, Default)]
pub struct StreamHandle(Arc<Mutex<Status>>);

#[derive(Debug, Default)]
pub(crate) struct Status {
    acknowledgement: Option<EventHash>,
    /// The ack of the snapshot that the consumer is processing.
    in_hand: Option<EventHash>,
    freshness: Freshness,
    last_read: Option<LastRead>,
    outage: Option<Outage>,
    log: LogPosition,
    pub(crate) statistics: Statistics,
}

/// The time of the last read, and the idle limit.
#[derive(Debug, Clone, Copy)]
struct LastRead {
    at: Instant,
    since: SystemTime,
    limit: Duration,
}

impl StreamHandle {
    /// The position that may be saved now: that of the last snapshot that the consumer has processed (by polling
    /// for the next), or of a bookmark after it.
    pub fn acknowledgement(&self) -> Option<EventHash> {
        self.with(|status| status.acknowledgement.clone())
    }

    /// Reports that the consumer has processed its snapshot. Polling for the next one implies this.
    pub fn finish(&self) {
        self.with(|status| {
            if let Some(ack) = status.in_hand.take() {
                status.acknowledgement = Some(ack);
            }
            status.log.finish();
        });
    }

    /// Whether the pods are up to date now.
    pub fn freshness(&self) -> Freshness {
        self.with(|status| status.freshness())
    }

    /// The current outage, if there is one.
    pub fn outage(&self) -> Option<Outage> {
        self.with(|status| status.outage.clone())
    }

    /// An attempt has failed; the next one follows after this delay.
    pub(crate) fn failed(&self, why: &str, delay: Duration) {
        let now = SystemTime::now();
        self.with(|status| {
            let since = status.outage.as_ref().map_or(now, |outage| outage.since);
            let next_try = now.checked_add(delay).unwrap_or(now);
            status.outage = Some(Outage { since, why: why.into(), next_try });
        });
    }

    /// The relay answers again.
    pub(crate) fn answered(&self) {
        self.with(|status| status.outage = None);
    }

    /// The counts.
    pub fn statistics(&self) -> Statistics {
        self.with(|status| Statistics {
            reconnects: status.statistics.connections.saturating_sub(1),
            head: status.log.head,
            lag: status.log.lag(),
            ..status.statistics.clone()
        })
    }

    pub(crate) fn with<T>(&self, access: impl FnOnce(&mut Status) -> T) -> T {
        access(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Marks the stream as stale, since now or earlier, with this reason.
    pub(crate) fn stale(&self, why: &str) {
        self.with(|status| {
            let since = match status.freshness() {
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

    /// The stream was read just now; `limit` is the idle limit.
    pub(crate) fn record_read(&self, limit: Duration) {
        let (at, since) = (Instant::now(), SystemTime::now());
        self.with(|status| status.last_read = Some(LastRead { at, since, limit }));
    }

    /// Counts a message, before it is applied.
    pub(crate) fn record_message(&self, message: &Message) {
        self.with(|status| status.log.record_message(message));
    }

    /// Counts a list, before it is applied.
    pub(crate) fn record_list(&self, list: &PodList) {
        self.with(|status| status.log.record_list(list));
    }
}

impl Status {
    /// Takes the state of the fold after a poll, by which the snapshot before is processed.
    pub(crate) fn advance(&mut self, step: &Step, acknowledged: Option<&EventHash>, continuity: &Continuity) {
        if self.acknowledgement.as_ref() != acknowledged {
            self.acknowledgement = acknowledged.cloned();
        }
        self.log.finish();
        self.in_hand = match step {
            Step::Snapshot(snapshot) => {
                let event = snapshot.event.as_ref();
                self.log.hand_over(continuity, event.and_then(|event| event.sequence));
                snapshot.ack.clone()
            }
            Step::Message => {
                // There is no open snapshot: events without a snapshot are processed too.
                self.log.hand_over(continuity, None);
                self.log.finish();
                None
            }
            _ => None,
        };
    }

    pub(crate) fn freshness(&self) -> Freshness {
        match (&self.freshness, self.last_read) {
            (Freshness::Live | Freshness::Replaying, Some(LastRead { at, since, limit }))
                if at.elapsed() >= limit =>
            {
                Freshness::Stale { since, why: format!("nothing was read for {limit:?}") }
            }
            (freshness, _) => freshness.clone(),
        }
    }
}

/// The head of the relay's log, and the consumer's position. Sequences of one epoch.
#[derive(Debug, Default)]
struct LogPosition {
    epoch: Option<Epoch>,
    head: Option<u64>,
    finished: Option<u64>,
    in_hand: Option<u64>,
}

impl LogPosition {
    fn lag(&self) -> Option<u64> {
        Some(self.head?.saturating_sub(self.finished?))
    }

    fn record_message(&mut self, message: &Message) {
        match message {
            Message::Connected(connected) => {
                // Without an epoch it is unknown whether this is the log of the last connection.
                if connected.epoch.is_none() || connected.epoch != self.epoch {
                    *self = Self { epoch: connected.epoch.clone(), ..Self::default() };
                }
                self.reaches(connected.head.as_ref().and_then(|head| head.sequence));
                let start = connected.resumes_after.as_ref().and_then(|start| start.sequence);
                self.finished = self.finished.or(start);
            }
            Message::Pod(event) => self.reaches(event.sequence),
            Message::Gap(gap) => self.reaches(gap.sequence),
            Message::CatchupComplete(catchup) => self.reaches(catchup.sequence),
            Message::Heartbeat(beat) => self.reaches(beat.sequence),
            _ => {}
        }
    }

    fn record_list(&mut self, list: &PodList) {
        if self.head.is_none() {
            self.epoch.clone_from(&list.epoch);
        }
        if self.epoch == list.epoch {
            self.reaches(list.sequence);
        }
    }

    fn reaches(&mut self, sequence: Option<u64>) {
        self.head = self.head.max(sequence);
    }

    /// Sets the position handed over: this sequence, or that of the stream.
    fn hand_over(&mut self, continuity: &Continuity, sequence: Option<u64>) {
        if continuity.epoch() == self.epoch.as_ref() {
            self.in_hand = sequence.or(continuity.last_sequence());
        }
    }

    fn finish(&mut self) {
        self.finished = self.in_hand.take().or(self.finished);
    }
}
