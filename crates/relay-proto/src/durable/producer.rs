//! The state machine of an idempotent producer.

use alloc::collections::VecDeque;
use alloc::string::{String, ToString};
use core::time::Duration;

use bytes::Bytes;

use super::{Answer, Refusal};
use crate::retry::Backoff;

mod config;
mod parcel;

pub use config::{
    Acknowledged, Attempt, Bounds, Event, ProducerConfig, ProducerState, ProducerStop, ProducerWant, Refused,
};

use parcel::{Parcel, Stage};

/// An idempotent producer: batches with a number each, sent until they are acknowledged, in order.
///
/// ```text
///  push ─▶ open ──full, linger, flush──▶ ready ──Send──▶ out ──200, 204──▶ acknowledged, in order
///                                          ▲              │
///                          pause ──────────┼── 5xx, 429, lost
///                          earlier done ───┼── gap, while an earlier one is out
///                          halved ─────────┼── 413 for several messages
///                          claimed ────────┴── 403 or used before, at the start only
///                                                         └── anything else: stop, nothing after it is sent
/// ```
///
/// A batch keeps its number, epoch and bytes in all attempts. **The [`state`](Self::state) must be stored before an
/// attempt that is [`first`](Attempt::first) is sent**, if the producer is to survive its process.
#[derive(Debug)]
pub struct Producer {
    config: ProducerConfig,
    epoch: u64,
    /// Number of the next batch that is sealed.
    next_seq: u64,
    /// The caller's mark after the acknowledged messages.
    acknowledged: u64,
    messages_done: u64,
    /// Batches that are not acknowledged, in the order of their numbers.
    parcels: VecDeque<Parcel>,
    open: Option<(Parcel, Duration)>,
    /// Bytes in all parcels, with the overhead of each message.
    load: usize,
    events: VecDeque<Event>,
    backoff: Backoff,
    pause: Option<Duration>,
    /// Since when nothing is acknowledged, although something was sent.
    waiting_since: Option<Duration>,
    last_sent: Duration,
    last_cause: String,
    claimable: bool,
    /// Whether a batch was acknowledged in this epoch by this process.
    proven: bool,
    flushing: bool,
    close: Close,
    ticket: u64,
    stop: Option<ProducerStop>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Close {
    Open,
    Wanted { attempts: u32 },
    Out { ticket: u64, attempts: u32 },
    Done,
}

/// Largest epoch and number: what every JSON reader can hold.
pub const MAX_NUMBER: u64 = (1 << 53) - 1;
/// Overhead of a message, in bytes.
const OVERHEAD: usize = 32;
/// The last attempt has at least this time, although the time for attempts ends earlier.
const GRACE: Duration = Duration::from_millis(500);

impl Producer {
    /// A new producer. The same `seed` gives the same delays.
    pub fn new(config: ProducerConfig, seed: u64) -> Self {
        let epoch = config.epoch;
        Self {
            backoff: Backoff::new(config.retry_base, config.retry_cap, seed),
            claimable: config.auto_claim,
            config,
            epoch,
            next_seq: 0,
            acknowledged: 0,
            messages_done: 0,
            parcels: VecDeque::new(),
            open: None,
            load: 0,
            events: VecDeque::new(),
            pause: None,
            waiting_since: None,
            last_sent: Duration::ZERO,
            last_cause: String::new(),
            proven: false,
            flushing: false,
            close: Close::Open,
            ticket: 0,
            stop: None,
        }
    }

    /// A producer that continues from a [`state`](Self::state). Hand in the batches that were in flight with
    /// [`push_batch`](Self::push_batch), before anything else.
    pub fn resume(config: ProducerConfig, state: &ProducerState, seed: u64) -> Self {
        let mut producer = Self::new(config, seed);
        producer.epoch = state.epoch;
        producer.next_seq = state.in_flight.first().map_or(state.next_seq, |bounds| bounds.seq);
        producer.acknowledged = state.acknowledged;
        // Once a batch of this epoch is acknowledged, the epoch is ours; a later refusal means that a newer producer
        // took over.
        producer.claimable &= producer.next_seq == 0;
        producer
    }

    /// The producer's epoch.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The state from which another process can continue, including the attempts polled so far.
    pub fn state(&self) -> ProducerState {
        let in_flight: alloc::vec::Vec<_> = self
            .parcels
            .iter()
            .take_while(|parcel| parcel.known || parcel.attempts > 0)
            .map(Parcel::bounds)
            .collect();
        let first_unused = self.parcels.get(in_flight.len()).map_or(self.next_seq, |parcel| parcel.seq);
        ProducerState {
            epoch: self.epoch,
            next_seq: first_unused,
            acknowledged: self.acknowledged,
            in_flight,
        }
    }

    /// Bytes held, with the overhead of each message.
    pub fn load(&self) -> usize {
        self.load
    }

    /// Whether a message of this size may be pushed within [`ProducerConfig::max_buffer`]. One message is always
    /// allowed when the producer holds nothing.
    pub fn has_room(&self, bytes: usize) -> bool {
        self.load == 0 || self.load + bytes + OVERHEAD <= self.config.max_buffer
    }

    /// Whether everything pushed is acknowledged.
    pub fn is_idle(&self) -> bool {
        self.parcels.is_empty() && self.open.is_none()
    }

    /// Adds a message: for a JSON stream the text of one JSON value. `mark` is the caller's position after it.
    pub fn push(&mut self, message: &[u8], mark: u64, now: Duration) {
        let json = self.config.json;
        if self.open.as_ref().is_some_and(|(parcel, _)| self.is_full(parcel, message.len())) {
            self.seal();
        }
        let from = self.mark();
        let (mut parcel, since) = self.open.take().unwrap_or_else(|| (Parcel::new(json, from), now));
        parcel.push(message, mark, json);
        self.load += message.len() + OVERHEAD;
        let full = self.is_full(&parcel, 1);
        self.open = Some((parcel, since));
        if full {
            self.seal();
        }
    }

    /// Like [`push`](Self::push), for a message in its own memory. A message that fills more than half a batch becomes
    /// a batch of its own, and is not copied unless the stream takes JSON.
    pub fn push_owned(&mut self, message: Bytes, mark: u64, now: Duration) {
        if self.config.json || message.len() <= self.config.max_batch_bytes / 2 {
            return self.push(&message, mark, now);
        }
        self.seal();
        self.load += message.len() + OVERHEAD;
        let mut parcel = Parcel::whole(message, mark, self.mark());
        parcel.seq = self.next_seq;
        self.next_seq += 1;
        self.parcels.push_back(parcel);
    }

    /// Whether a batch has no room for this many more bytes.
    fn is_full(&self, parcel: &Parcel, bytes: usize) -> bool {
        parcel.size(self.config.json) + bytes > self.config.max_batch_bytes
            || parcel.len() >= self.config.max_batch_items
    }

    /// Adds a batch that was in flight in an earlier process, with its messages. It keeps its number and its bounds.
    pub fn push_batch<'m>(&mut self, messages: impl Iterator<Item = (&'m [u8], u64)>, now: Duration) {
        let from = self.mark();
        let mut parcel = Parcel::new(self.config.json, from);
        for (message, mark) in messages {
            parcel.push(message, mark, self.config.json);
            self.load += message.len() + OVERHEAD;
        }
        parcel.known = true;
        self.open = Some((parcel, now));
        self.seal();
    }

    /// The mark after everything pushed.
    fn mark(&self) -> u64 {
        let last = self.open.as_ref().map(|(parcel, _)| parcel).or(self.parcels.back());
        last.map_or(self.acknowledged, Parcel::last_mark)
    }

    fn seal(&mut self) {
        if let Some((mut parcel, _)) = self.open.take() {
            parcel.seal(self.next_seq, self.config.json);
            self.next_seq += 1;
            self.parcels.push_back(parcel);
        }
    }

    /// Sends all messages without waiting for more. [`ProducerWant::Idle`] follows once all of it is acknowledged.
    pub fn flush(&mut self) {
        self.flushing = true;
    }

    /// Continues in the next epoch, with number 0, if everything is acknowledged and no close is in progress; otherwise
    /// `false`.
    pub fn restart(&mut self) -> bool {
        let may = self.is_idle() && self.close == Close::Open && self.stop.is_none();
        if may {
            self.epoch += 1;
            self.next_seq = 0;
            // Nothing is known about the new epoch.
            self.proven = false;
        }
        may
    }

    /// Closes the stream with the next number, once everything is acknowledged.
    pub fn close(&mut self) {
        if self.close == Close::Open {
            self.close = Close::Wanted { attempts: 0 };
            self.flushing = true;
        }
    }

    /// The next action.
    pub fn poll(&mut self, now: Duration) -> ProducerWant {
        if let Some(event) = self.events.pop_front() {
            return ProducerWant::Event(event);
        }
        if let Some(stop) = &self.stop {
            return ProducerWant::Stop(stop.clone());
        }
        if let Some(until) = self.pause {
            if now < until {
                return ProducerWant::Wait(until);
            }
            self.pause = None;
        }
        self.halve();
        // Before the first acknowledgement nothing is known about the epoch: one batch finds out.
        let window = if self.proven { self.config.in_flight.max(1) } else { 1 };
        let mut linger = None;
        if self.parcels.len() < window
            && let Some((_, since)) = &self.open
        {
            let due = since.saturating_add(self.config.linger);
            if self.flushing || due <= now {
                self.seal();
            } else {
                linger = Some(due);
            }
        }
        // No batch is sent after one that is to be halved.
        let halving = self.parcels.iter().position(|parcel| parcel.halve);
        for at in 0..self.parcels.len().min(window).min(halving.unwrap_or(usize::MAX)) {
            if self.parcels[at].stage == Stage::Ready {
                return ProducerWant::Send(self.send(at, now));
            }
        }
        if self.is_idle() {
            self.flushing = self.close != Close::Open;
            if let Close::Wanted { attempts } = self.close {
                self.ticket += 1;
                self.note_sent(now);
                self.close = Close::Out { ticket: self.ticket, attempts: attempts + 1 };
                return ProducerWant::Send(Attempt {
                    ticket: self.ticket,
                    epoch: self.epoch,
                    seq: self.next_seq,
                    body: Bytes::new(),
                    close: true,
                    first: attempts == 0,
                });
            }
        }
        let deadline = self.deadline();
        if deadline.is_some_and(|deadline| deadline <= now) {
            let cause = match self.last_cause.as_str() {
                "" => "nothing came in time".to_string(),
                cause => cause.to_string(),
            };
            self.end(Refused::OutOfTime { cause });
            return self.poll(now);
        }
        match linger.into_iter().chain(deadline).min() {
            Some(due) => ProducerWant::Wait(due),
            None => ProducerWant::Idle,
        }
    }

    /// When the attempts under way are given up.
    fn deadline(&self) -> Option<Duration> {
        let end = self.waiting_since?.saturating_add(self.config.retry_for?);
        let out = matches!(self.close, Close::Out { .. })
            || self.parcels.iter().any(|parcel| matches!(parcel.stage, Stage::Out(_)));
        out.then(|| end.max(self.last_sent.saturating_add(GRACE)))
    }

    fn note_sent(&mut self, now: Duration) {
        self.waiting_since.get_or_insert(now);
        self.last_sent = now;
    }

    fn send(&mut self, at: usize, now: Duration) -> Attempt {
        self.ticket += 1;
        self.note_sent(now);
        let parcel = &mut self.parcels[at];
        let first = parcel.attempts == 0;
        parcel.attempts += 1;
        parcel.stage = Stage::Out(self.ticket);
        parcel.alone = at == 0;
        Attempt {
            ticket: self.ticket,
            epoch: self.epoch,
            seq: parcel.seq,
            body: parcel.body(),
            close: false,
            first,
        }
    }

    /// The response to an attempt. A response to an outdated attempt is ignored.
    pub fn handle_answer(&mut self, ticket: u64, answer: &Answer, now: Duration) {
        if self.stop.is_some() {
            return;
        }
        if matches!(self.close, Close::Out { ticket: of_close, .. } if of_close == ticket) {
            return self.close_answered(answer, now);
        }
        let Some(at) = self.parcels.iter().position(|parcel| parcel.stage == Stage::Out(ticket)) else {
            return;
        };
        match answer.refusal() {
            None if answer.is_taken() => {
                let duplicate = answer.status() == 204;
                // The server has accepted more under this name than we ever sent.
                let ours = self.parcels.iter().rfind(|parcel| parcel.attempts > 0 || parcel.known);
                let foreign = answer.seq() > ours.map(|parcel| parcel.seq);
                let parcel = &self.parcels[at];
                if duplicate && (foreign || (parcel.attempts == 1 && !parcel.known)) {
                    let epoch = answer.epoch().unwrap_or(self.epoch).max(self.epoch);
                    if self.may_claim(epoch) {
                        return self.claim(epoch);
                    }
                    if !self.config.accept_duplicates {
                        let parcel = &mut self.parcels[at];
                        let seq = parcel.seq;
                        parcel.unsent();
                        return self.end(Refused::UsedBefore { seq });
                    }
                }
                self.parcels[at].stage =
                    Stage::Acknowledged { offset: answer.next_offset().cloned(), duplicate };
                self.acknowledge();
                self.recovered(now);
            }
            refusal if refusal == Some(Refusal::Busy) || answer.is_page() => {
                self.parcels[at].ambiguous = true;
                self.parcels[at].stage = Stage::Ready;
                self.failed(&cause_of(answer), answer.retry_after(), now);
            }
            Some(Refusal::Fenced { epoch }) => {
                // A batch of an earlier process may have been accepted before a newer producer took over, so it is not
                // sent again under another epoch.
                if self.may_claim(epoch) && !self.parcels[at].known {
                    return self.claim(epoch);
                }
                self.refuse(at, Refused::Fenced { epoch });
            }
            Some(Refusal::Gap { expected }) => {
                // An earlier batch is still in flight: this one waits for it.
                let parcel = &mut self.parcels[at];
                let seq = parcel.seq;
                if expected < seq && at > 0 {
                    parcel.stage = Stage::Behind;
                } else if expected < seq && !parcel.alone {
                    // It was in flight together with the earlier ones, and this response is older than theirs.
                    parcel.stage = Stage::Ready;
                } else {
                    self.refuse(at, Refused::Gap { expected, seq });
                }
            }
            Some(Refusal::TooLarge) if self.parcels[at].len() > 1 => {
                self.parcels[at].stage = Stage::Behind;
                self.parcels[at].halve = true;
            }
            Some(Refusal::TooLarge) => {
                let bytes = self.parcels[at].payload();
                let before: u64 = self.parcels.iter().take(at).map(|parcel| parcel.len() as u64).sum();
                self.refuse(at, Refused::TooLarge { message: self.messages_done + before + 1, bytes });
            }
            refusal => {
                let refusal = refusal.unwrap_or(Refusal::Other);
                self.refuse(
                    at,
                    Refused::Refusal {
                        refusal,
                        status: answer.status(),
                        offset: answer.next_offset().cloned(),
                    },
                );
            }
        }
    }

    /// No response came. `sent` tells whether a byte of the request may have reached the server.
    pub fn handle_failure(&mut self, ticket: u64, cause: &str, sent: bool, now: Duration) {
        if self.stop.is_some() {
            return;
        }
        if let Close::Out { ticket: of_close, attempts } = self.close
            && of_close == ticket
        {
            self.close = Close::Wanted { attempts };
            return self.failed(cause, None, now);
        }
        let Some(parcel) = self.parcels.iter_mut().find(|parcel| parcel.stage == Stage::Out(ticket)) else {
            return;
        };
        parcel.stage = Stage::Ready;
        if sent {
            parcel.ambiguous = true;
        } else {
            parcel.attempts -= 1;
        }
        self.failed(cause, None, now);
    }

    /// Halves a batch that is too large, once no later batch is in flight.
    fn halve(&mut self) {
        let Some(at) = self.parcels.iter().position(|parcel| parcel.halve) else { return };
        if self.parcels.iter().any(|parcel| matches!(parcel.stage, Stage::Out(_))) {
            return;
        }
        let late = self.parcels.iter().skip(at + 1).any(|parcel| parcel.ambiguous || parcel.known);
        if late && at > 0 {
            return;
        }
        let second = self.parcels[at].split(self.config.json);
        self.parcels.insert(at + 1, second);
        if late {
            // A delayed attempt might arrive under a number that now belongs to another batch. A new epoch prevents
            // that: no batch of the old epoch from here on was accepted.
            self.epoch += 1;
            self.proven = false;
            self.renumber(0, 0);
        } else {
            let seq = self.parcels[at].seq;
            self.renumber(at, seq);
        }
    }

    fn renumber(&mut self, from: usize, mut seq: u64) {
        for parcel in self.parcels.iter_mut().skip(from) {
            parcel.seq = seq;
            parcel.unsent();
            parcel.stage = Stage::Ready;
            parcel.halve = false;
            seq += 1;
        }
        self.next_seq = seq;
    }

    /// Whether the name can be taken over from the producer with this epoch. There is no epoch after the last one.
    fn may_claim(&self, epoch: u64) -> bool {
        self.claimable && epoch >= self.epoch && epoch < MAX_NUMBER
    }

    /// Takes the name over from another producer.
    fn claim(&mut self, epoch: u64) {
        self.claimable = false;
        self.epoch = epoch + 1;
        self.renumber(0, 0);
        self.events.push_back(Event::Claimed { epoch: self.epoch });
    }

    fn acknowledge(&mut self) {
        while let Some(parcel) = self.parcels.front()
            && let Stage::Acknowledged { offset, duplicate } = &parcel.stage
        {
            let (payload, messages) = (parcel.payload(), parcel.len());
            self.events.push_back(Event::Acknowledged(Acknowledged {
                epoch: self.epoch,
                seq: parcel.seq,
                messages: messages as u64,
                bytes: payload,
                offset: offset.clone(),
                duplicate: *duplicate,
                attempts: parcel.attempts,
                mark: parcel.last_mark(),
            }));
            self.acknowledged = parcel.last_mark();
            self.messages_done += messages as u64;
            self.load -= payload as usize + messages * OVERHEAD;
            self.proven = true;
            self.claimable = false;
            self.parcels.pop_front();
            // The batch that waited for this one may be sent.
            if let Some(next) = self.parcels.front_mut()
                && next.stage == Stage::Behind
                && !next.halve
            {
                next.stage = Stage::Ready;
            }
        }
    }

    fn close_answered(&mut self, answer: &Answer, now: Duration) {
        let Close::Out { attempts, .. } = self.close else { return };
        match answer.refusal() {
            None if answer.is_taken() => {
                self.close = Close::Done;
                self.recovered(now);
                self.events.push_back(Event::Closed { offset: answer.next_offset().cloned() });
            }
            refusal if refusal == Some(Refusal::Busy) || answer.is_page() => {
                self.close = Close::Wanted { attempts };
                self.failed(&cause_of(answer), answer.retry_after(), now);
            }
            Some(Refusal::Fenced { epoch }) if self.may_claim(epoch) => {
                self.close = Close::Wanted { attempts: 0 };
                self.claim(epoch);
            }
            Some(Refusal::Fenced { epoch }) => self.end(Refused::Fenced { epoch }),
            Some(Refusal::Gap { expected }) => self.end(Refused::Gap { expected, seq: self.next_seq }),
            refusal => self.end(Refused::Refusal {
                refusal: refusal.unwrap_or(Refusal::Other),
                status: answer.status(),
                offset: answer.next_offset().cloned(),
            }),
        }
    }

    fn recovered(&mut self, now: Duration) {
        self.waiting_since = self.parcels.iter().any(|parcel| parcel.attempts > 0).then_some(now);
        self.last_cause = String::new();
        self.backoff.reset();
    }

    fn failed(&mut self, cause: &str, floor: Option<Duration>, now: Duration) {
        let since = *self.waiting_since.get_or_insert(now);
        let mut delay = self.backoff.next_delay();
        if let Some(floor) = floor {
            delay = delay.max(self.backoff.spread(floor));
        }
        self.last_cause = cause.to_string();
        if let Some(limit) = self.config.retry_for {
            let left = (since + limit).saturating_sub(now);
            if left.is_zero() || floor.is_some_and(|floor| floor > left) {
                return self.end(Refused::OutOfTime { cause: cause.to_string() });
            }
            delay = delay.min(left.max(floor.unwrap_or_default()));
        }
        let until = now.saturating_add(delay);
        self.pause = Some(self.pause.map_or(until, |pause| pause.max(until)));
        self.events.push_back(Event::Retry { cause: cause.to_string(), delay });
    }

    /// A batch was refused for good. If none of its attempts can have been accepted, it is no longer in flight.
    fn refuse(&mut self, at: usize, refused: Refused) {
        let parcel = &mut self.parcels[at];
        if !parcel.ambiguous && !parcel.known {
            parcel.unsent();
        }
        self.end(refused);
    }

    fn end(&mut self, refused: Refused) {
        self.stop = Some(ProducerStop { refused, epoch: self.epoch, acknowledged: self.acknowledged });
    }

    /// Whether the stream was closed by an attempt of this producer.
    pub fn is_closed(&self) -> bool {
        self.close == Close::Done
    }
}

/// The reason for another attempt after this response.
fn cause_of(answer: &Answer) -> String {
    let page = if answer.is_page() { ", an HTML page" } else { "" };
    alloc::format!("status {}{page}", answer.status())
}

impl Parcel {
    fn bounds(&self) -> Bounds {
        Bounds { seq: self.seq, first: self.first_mark(), last: self.last_mark() }
    }
}

#[cfg(test)]
mod tests;
