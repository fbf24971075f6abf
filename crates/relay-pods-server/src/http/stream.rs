//! One subscriber: its position in the log, and the messages that it gets.

mod pages;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use relay_log::{Entry, Parts};
use relay_proto::pods::{ClosingReason, Epoch, EventHash, Filter, GapReason, PROTOCOL, Position};
use relay_proto::sse::Encoder;
use relay_proto::time::Timestamp;
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::Instant;

use super::Relay;
use crate::auth::Principal;
use crate::store::{Bounds, Events, Record, StoreError};
use pages::Pages;
use relay_transport::server::{Cut, seconds};

/// Bytes after which a piece of the stream is handed to the connection. It is the size of a page, so that a stream
/// whose client does not read holds one piece and no rest of a page.
const PIECE: usize = pages::BYTES;
/// Bytes that are worth handing over while the next page is being read.
const WORTH: usize = 32 << 10;
/// Events looked at, none of which passed the filter, before others get a turn.
const SCAN: usize = 2048;

/// A stream from its first byte to its last.
///
/// ```text
///   connected -> [gap] -> Replay until the head at the connect -> Replay until the head at that moment
///                  |                                                          |
///                  +--- already at the head: -------------------> catchup_complete -> Live
/// ```
/// At any time: `gap` when the position fell off the log, `heartbeat` after silence, `closing` at the end. Nothing is
/// queued: the next piece is made when the connection can take it.
pub(crate) struct Subscriber {
    relay: Arc<Relay>,
    principal: Principal,
    filter: Filter,
    narrowed: bool,
    /// Everything up to here is sent, or does not pass the filter.
    sequence: u64,
    hash: EventHash,
    /// `connected` and perhaps a gap; also what was written before a wait for the store.
    opening: BytesMut,
    /// The pages read from the log. The first page is read together with the bounds in the opening, so that a trim
    /// cannot come in between.
    pages: Pages,
    phase: Phase,
    /// Pod and gap messages sent.
    sent: u64,
    /// Pod messages sent.
    pods: u64,
    head: watch::Receiver<u64>,
    control: watch::Receiver<Control>,
    cuts_before: u64,
    rebalances_before: u64,
    last_message: Instant,
    ends_at: Option<Instant>,
    /// The log cannot be read any further: the stream is cut behind what is written.
    broken: bool,
    ended: bool,
    _slot: Slot,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Before the head that was sampled at the connect; `second`: before the head that was sampled when the first was
    /// reached.
    Replay { target: u64, second: bool },
    /// `catchup_complete` was sent.
    Live,
}

/// Instructions for all streams.
#[derive(Debug, Clone, Default)]
pub(crate) struct Control {
    /// Send `closing` with this reason, and end.
    pub(crate) closing: Option<ClosingReason>,
    /// Increases when all open streams are to be cut without a message.
    pub(crate) cuts: u64,
    /// Increases when all open streams are to send `closing` with reason `rebalance`.
    pub(crate) rebalances: u64,
    /// Stop reading the log.
    pub(crate) paused: bool,
}

/// A place among the limited number of streams.
pub(crate) struct Slot {
    relay: Arc<Relay>,
    consumer: String,
}

impl Slot {
    /// Takes a place, if one is free.
    pub(crate) fn take(relay: &Arc<Relay>, client_id: Option<&str>) -> Option<Self> {
        let max = relay.config.max_streams as u64;
        let room = |open| if open < max { Some(open + 1) } else { None };
        relay.subscribers.fetch_update(Ordering::AcqRel, Ordering::Acquire, room).ok()?;
        Some(Self { consumer: relay.metrics.consumer_opened(client_id), relay: relay.clone() })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.relay.subscribers.fetch_sub(1, Ordering::AcqRel);
        self.relay.metrics.consumer_closed(&self.consumer);
    }
}

/// The start of a stream.
#[derive(Debug, Clone)]
pub(crate) enum Start {
    /// At the oldest retained event.
    Oldest,
    /// At the head: nothing is replayed.
    Latest,
    /// After this position.
    After(EventHash, u64),
    /// At the oldest retained event, because the cursor cannot be used.
    Gap {
        reason: GapReason,
        /// The cursor as it was received; `None` when the request named a time.
        requested: Option<String>,
        /// The cursor's sequence, if it is one of ours.
        sequence: Option<u64>,
    },
}

impl Start {
    /// Attempts to read the first events with the bounds unchanged, in case a trim comes in between.
    const TRIES: usize = 16;

    /// The start as it is right now: a cursor may have expired since it was looked up. The page is the first to be
    /// sent; empty when there is none, or it has to be read again. `all` as for [`Pages::turn`].
    async fn settle(self, events: &Events, all: bool) -> Result<(Self, Bounds, Pages), StoreError> {
        let mut tries = Self::TRIES;
        loop {
            tries -= 1;
            let bounds = events.bounds().await?;
            let start = match &self {
                Self::After(hash, sequence) if *sequence < bounds.base => Self::Gap {
                    reason: GapReason::CursorExpired,
                    requested: Some(hash.as_str().to_owned()),
                    sequence: Some(*sequence),
                },
                _ => self.clone(),
            };
            let (sequence, _) = start.position(&bounds);
            let mut pages = Pages::default();
            if sequence >= bounds.head {
                return Ok((start, bounds, pages));
            }
            let first = pages::begin(events, sequence, bounds.head, all, 1).done().await?;
            if pages.show(first) || tries == 0 {
                return Ok((start, bounds, pages));
            }
        }
    }

    fn position(&self, bounds: &Bounds) -> (u64, EventHash) {
        match self {
            Self::Oldest | Self::Gap { .. } => (bounds.base, bounds.base_hash.clone()),
            Self::Latest => (bounds.head, bounds.head_hash.clone()),
            Self::After(hash, sequence) => (*sequence, hash.clone()),
        }
    }
}

/// The parameters of a request for a stream.
pub(crate) struct Order {
    pub(crate) principal: Principal,
    pub(crate) client_id: Option<String>,
    /// Already narrowed to what the credential may see.
    pub(crate) filter: Filter,
    pub(crate) start: Start,
    pub(crate) slot: Slot,
}

#[derive(Serialize)]
struct Connected<'a> {
    protocol: u32,
    client_id: Option<&'a str>,
    epoch: &'a Epoch,
    head: Position,
    resumes_after: Position,
    filtered: bool,
    namespaces: Vec<&'a str>,
    heartbeat_seconds: serde_json::Number,
}

#[derive(Serialize)]
struct Gap<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    sent: Option<u64>,
    reason: &'a GapReason,
    epoch: &'a Epoch,
    requested_hash: Option<&'a str>,
    oldest_hash: Option<&'a EventHash>,
    missed: Option<u64>,
    hash: &'a EventHash,
    sequence: u64,
}

#[derive(Serialize)]
struct CatchupComplete<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    sent: Option<u64>,
    hash: &'a EventHash,
    sequence: u64,
    replayed: u64,
}

#[derive(Serialize)]
struct Heartbeat<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    sent: Option<u64>,
    hash: &'a EventHash,
    sequence: u64,
    catching_up: bool,
    time: Timestamp,
    source: &'static str,
    stale_since: Option<Timestamp>,
}

#[derive(Serialize)]
struct Closing<'a> {
    reason: &'a ClosingReason,
}

/// The result of a look at the log.
enum Found {
    Messages(Bytes),
    /// Only events that do not pass the filter.
    Nothing,
    AtHead,
}

impl Subscriber {
    pub(crate) async fn new(relay: Arc<Relay>, order: Order) -> Result<Self, StoreError> {
        let Order { principal, client_id, filter, start, slot } = order;
        let head = relay.log.watch_head();
        let control = relay.control.subscribe();
        let Control { cuts, rebalances, .. } = control.borrow().clone();
        let narrowed = !filter.is_empty() || principal.rights.limited();
        let (start, bounds, pages) = start.settle(&relay.log.events, !narrowed).await?;
        let (sequence, hash) = start.position(&bounds);
        let now = Instant::now();
        let mut subscriber = Self {
            phase: Phase::Replay { target: bounds.head, second: sequence >= bounds.head },
            cuts_before: cuts,
            rebalances_before: rebalances,
            ends_at: lifetime(relay.config.stream_lifetime).and_then(|lifetime| now.checked_add(lifetime)),
            opening: BytesMut::new(),
            pages,
            sent: 0,
            pods: 0,
            last_message: now,
            broken: false,
            ended: false,
            _slot: slot,
            head,
            control,
            narrowed,
            filter,
            principal,
            sequence,
            hash,
            relay,
        };
        let mut opening = BytesMut::new();
        subscriber.write_connected(&mut opening, client_id.as_deref(), &bounds);
        if let Start::Gap { reason, requested, sequence } = start {
            subscriber.write_gap(&mut opening, reason, requested.as_deref(), sequence, &bounds);
        }
        subscriber.opening = opening;
        Ok(subscriber)
    }

    /// The next bytes; `None` once the stream has ended. Dropping the future loses nothing but the wait.
    pub(crate) async fn next(&mut self) -> Option<Result<Bytes, Cut>> {
        if self.ended {
            return None;
        }
        loop {
            let control = self.control.borrow_and_update().clone();
            let paused = control.paused;
            if self.broken {
                if !self.opening.is_empty() {
                    return Some(Ok(self.opening.split().freeze()));
                }
                // While this waits, the connection sends what it was given, the head of the response included. A cut
                // would drop it.
                tokio::task::yield_now().await;
                self.ended = true;
                return Some(Err(Cut));
            }
            if control.cuts != self.cuts_before {
                self.ended = true;
                return Some(Err(Cut));
            }
            if let Some(reason) = self.closing_reason(control) {
                self.ended = true;
                return Some(Ok(self.closing(&reason)));
            }
            let found = match paused && self.opening.is_empty() {
                true => Found::AtHead,
                false => match self.look().await {
                    Ok(found) => found,
                    Err(error) => {
                        // Health and readiness report it, too. The client reconnects with its cursor.
                        self.relay.log.cannot_read(&error);
                        self.broken = true;
                        continue;
                    }
                },
            };
            match found {
                Found::Messages(bytes) => {
                    self.last_message = Instant::now();
                    self.relay.metrics.stream_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                    return Some(Ok(bytes));
                }
                Found::Nothing if Instant::now() < self.next_heartbeat() => tokio::task::yield_now().await,
                Found::Nothing => return Some(Ok(self.heartbeat())),
                Found::AtHead => {
                    let (beat, end) = (self.next_heartbeat(), self.ends_at);
                    tokio::select! {
                        _ = self.head.changed(), if !paused => {}
                        _ = self.control.changed() => {}
                        () = self.principal.revoked.cancelled() => {}
                        () = until(end) => {}
                        () = tokio::time::sleep_until(beat) => return Some(Ok(self.heartbeat())),
                    }
                }
            }
        }
    }

    /// Reads on in the log until a piece is full, the head is reached or nothing passes for a while.
    /// After an error, what was written before it is in `opening`.
    async fn look(&mut self) -> Result<Found, StoreError> {
        let mut out = std::mem::take(&mut self.opening);
        let found = self.look_on(&mut out).await;
        if found.is_err() {
            self.opening = out;
        }
        found
    }

    async fn look_on(&mut self, out: &mut BytesMut) -> Result<Found, StoreError> {
        // Marked as seen before the store is read, so that later appends wake the wait.
        self.head.borrow_and_update();
        let mut scanned = 0;
        loop {
            if let Phase::Replay { target, second } = self.phase
                && self.sequence >= target
            {
                let head = self.relay.log.events.head();
                if second || head == self.sequence {
                    self.phase = Phase::Live;
                    self.write_catchup_complete(out);
                } else {
                    self.phase = Phase::Replay { target: head, second: true };
                }
            }
            if out.len() >= PIECE {
                return Ok(Found::Messages(out.split().freeze()));
            }
            if scanned >= SCAN {
                return Ok(if out.is_empty() {
                    Found::Nothing
                } else {
                    Found::Messages(out.split().freeze())
                });
            }
            if self.pages.used_up() {
                if out.len() >= WORTH {
                    return Ok(Found::Messages(out.split().freeze()));
                }
                let until = match self.phase {
                    Phase::Replay { target, .. } => target,
                    Phase::Live => u64::MAX,
                };
                // Stored here because the future may be dropped at the next await.
                self.opening = std::mem::take(out);
                let events = &self.relay.log.events;
                let there = self.pages.turn(events, self.sequence, until, !self.narrowed).await;
                let bounds = match there {
                    Ok(false) => Some(events.bounds().await),
                    _ => None,
                };
                *out = std::mem::take(&mut self.opening);
                there?;
                if let Some(bounds) = bounds {
                    let fell_off_at = self.sequence;
                    self.write_gap(out, GapReason::SlowConsumer, None, Some(fell_off_at), &bounds?);
                    continue;
                }
            }
            // A page that was read while streams are held back may have newer events: it is read again after that.
            if self.control.borrow().paused {
                self.pages = Pages::default();
            }
            // None are left at the head.
            if self.pages.used_up() {
                return Ok(if out.is_empty() {
                    Found::AtHead
                } else {
                    Found::Messages(out.split().freeze())
                });
            }
            if let Some(frames) = self.pages.take_frames() {
                let bytes = self.sends(frames)?;
                if out.is_empty() {
                    return Ok(Found::Messages(bytes));
                }
                out.extend_from_slice(&bytes);
                continue;
            }
            if let (Phase::Live, false, true, [only]) =
                (self.phase, self.narrowed, out.is_empty(), self.pages.left())
            {
                // The usual case of a live stream: the bytes that all subscribers share, not copied.
                let only = Record::decode(only)?;
                self.looked_at(1, 1, &only);
                return Ok(Found::Messages(only.frame()));
            }
            scanned += match self.narrowed {
                true => self.write_filtered(out)?,
                false => self.write_frames(out)?,
            };
        }
    }

    /// Moves on behind a page of frames, and returns them.
    fn sends(&mut self, frames: Parts) -> Result<Bytes, StoreError> {
        let Parts { bytes, entries, last, .. } = frames;
        if let Some(last) = last {
            // The page may have ended at one that has no frame.
            Record::frame_of(&last)?;
            self.looked_at(entries, entries as u64, &Record::decode(&last)?);
        }
        Ok(bytes)
    }

    /// Writes events as the log has them, for a stream that sees all of them, until a piece is full or the page is used
    /// up. Returns how many that were.
    fn write_frames(&mut self, out: &mut BytesMut) -> Result<usize, StoreError> {
        let left = self.pages.left();
        let room = PIECE.saturating_sub(out.len());
        let mut bytes = 0;
        let fits = |entry: &&Entry| {
            let before = bytes;
            bytes += entry.body.len();
            before < room
        };
        let entries = &left[..left.iter().take_while(fits).count()];
        let Some(last) = entries.last() else { return Ok(0) };
        let last = Record::decode(last)?;
        // The frames are located first, so that the memory loads of several events overlap.
        let frames = entries.iter().map(Record::frame_of).collect::<Result<Vec<_>, _>>()?;
        out.reserve(frames.iter().map(|frame| frame.len()).sum());
        frames.iter().for_each(|frame| out.extend_from_slice(frame));
        let count = entries.len();
        self.looked_at(count, count as u64, &last);
        Ok(count)
    }

    /// Writes the events that pass the filter, in the same way.
    fn write_filtered(&mut self, out: &mut BytesMut) -> Result<usize, StoreError> {
        let (mut count, mut seen, mut last) = (0, 0, None);
        for entry in self.pages.left() {
            if out.len() >= PIECE {
                break;
            }
            let record = Record::decode(entry)?;
            if let Some(view) = record.seen_through(&self.filter) {
                seen += 1;
                record.write_filtered(out, view, self.sent + seen);
            }
            count += 1;
            last = Some(record);
        }
        if let Some(last) = last {
            self.looked_at(count, seen, &last);
        }
        Ok(count)
    }

    /// Moves the position to an event, after `events` entries of the page were looked at and `sent` of them were sent.
    fn looked_at(&mut self, events: usize, sent: u64, last: &Record) {
        self.pages.looked_at(events);
        (self.sequence, self.hash) = (last.sequence(), last.hash());
        self.sent += sent;
        self.pods += sent;
        self.relay.metrics.stream_messages.fetch_add(sent, Ordering::Relaxed);
    }

    fn closing_reason(&self, told: Control) -> Option<ClosingReason> {
        if self.principal.revoked.is_cancelled() {
            Some(ClosingReason::Revoked)
        } else if told.closing.is_some() {
            told.closing
        } else if told.rebalances != self.rebalances_before {
            Some(ClosingReason::Rebalance)
        } else {
            let aged = self.ends_at.is_some_and(|end| Instant::now() >= end);
            aged.then_some(ClosingReason::Lifetime)
        }
    }

    fn next_heartbeat(&self) -> Instant {
        self.last_message + self.relay.config.beat()
    }

    fn sent_if_narrowed(&self) -> Option<u64> {
        self.narrowed.then_some(self.sent)
    }

    fn write_connected(&self, out: &mut BytesMut, client_id: Option<&str>, bounds: &Bounds) {
        let connected = Connected {
            protocol: PROTOCOL,
            client_id,
            epoch: self.relay.log.events.identity().epoch(),
            head: Position::new(bounds.head_hash.clone(), bounds.head),
            resumes_after: Position::new(self.hash.clone(), self.sequence),
            filtered: self.narrowed,
            namespaces: self.filter.namespaces().collect(),
            heartbeat_seconds: seconds(self.relay.config.beat()),
        };
        write(out, "connected", &connected);
    }

    /// Moves to the oldest retained event, and writes a gap.
    fn write_gap(
        &mut self,
        out: &mut BytesMut,
        reason: GapReason,
        requested: Option<&str>,
        sequence: Option<u64>,
        bounds: &Bounds,
    ) {
        self.sent += 1;
        (self.sequence, self.hash) = (bounds.base, bounds.base_hash.clone());
        let missed = sequence.filter(|_| !self.narrowed).map(|sequence| bounds.base.saturating_sub(sequence));
        let gap = Gap {
            sent: self.sent_if_narrowed(),
            reason: &reason,
            epoch: self.relay.log.events.identity().epoch(),
            requested_hash: requested,
            oldest_hash: bounds.oldest_hash.as_ref(),
            missed,
            hash: &self.hash,
            sequence: self.sequence,
        };
        write(out, "gap", &gap);
        self.relay.metrics.gap(reason.as_str());
    }

    fn write_catchup_complete(&self, out: &mut BytesMut) {
        let sent = self.sent_if_narrowed();
        let complete =
            CatchupComplete { sent, hash: &self.hash, sequence: self.sequence, replayed: self.pods };
        write(out, "catchup_complete", &complete);
    }

    fn heartbeat(&mut self) -> Bytes {
        self.last_message = Instant::now();
        let status = self.relay.log.source();
        let heartbeat = Heartbeat {
            sent: self.sent_if_narrowed(),
            hash: &self.hash,
            sequence: self.sequence,
            catching_up: self.phase != Phase::Live,
            time: self.relay.log.clock.timestamp(),
            source: if status.ready() { "live" } else { "stale" },
            stale_since: status.stale_since,
        };
        let mut out = BytesMut::new();
        write(&mut out, "heartbeat", &heartbeat);
        out.freeze()
    }

    fn closing(&mut self, reason: &ClosingReason) -> Bytes {
        let spread = self.relay.config.reconnect_spread.min(Duration::from_millis(29_900));
        // `connected` comes first, whatever follows.
        let mut out = self.opening.split();
        Encoder::new(&mut out).retry(Duration::from_millis(100) + spread.mul_f64(fraction()));
        write(&mut out, "closing", &Closing { reason });
        self.relay.metrics.closing(reason.as_str());
        out.freeze()
    }
}

fn write(out: &mut BytesMut, event: &str, data: &impl Serialize) {
    let data = serde_json::to_string(data).expect("messages have text keys and finite numbers");
    Encoder::new(out).event(Some(event), None, &data).expect("the names of messages are plain words");
}

/// A lifetime with up to 10 % on top; `None` for ever.
fn lifetime(lifetime: Duration) -> Option<Duration> {
    (!lifetime.is_zero()).then(|| lifetime.saturating_add(lifetime.mul_f64(0.1 * fraction())))
}

/// Evenly spread over 0 to 1.
fn fraction() -> f64 {
    let mut bytes = [0; 4];
    getrandom::fill(&mut bytes).expect("the operating system gives random bytes");
    f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX)
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
