//! The order of checks from frames to items.

use std::collections::{BTreeSet, VecDeque};
use std::ops::Range;

use bytes::Bytes;
use bytestring::ByteString;
use relay_proto::parsec::{
    DecodeError, Draft, Envelope, GapReason, PayloadRef, Position, Validation, Validator, ValidatorMode,
};

use super::detector::{ProducerMarks, Sighting};
use super::item::{Delivered, Gap, GapCause, Item};

/// The frames of a transport, in order.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Frame {
    /// The first frame of each connection.
    Connected {
        /// Frames after this position follow; `None` from a server without positions.
        resumes_after: Option<Position>,
    },
    /// A published message.
    Envelope {
        /// Its position; `None` when the server does not send it.
        position: Option<Position>,
        /// Its bytes.
        envelope: Bytes,
    },
    /// The same, as a part of what is known to be text.
    Text {
        /// Its position; `None` when the server does not send it.
        position: Option<Position>,
        /// The text, such as that of an event.
        text: ByteString,
        /// The bytes of the envelope within it.
        part: Range<usize>,
    },
    /// A published message that is too large to be read.
    Oversized {
        /// Its position; `None` when the server does not send it.
        position: Option<Position>,
        /// Its size, in bytes.
        size: u64,
        /// The limit, in bytes.
        limit: u64,
    },
    /// The server does not have everything after the requested position, or the transport lost it.
    Gap {
        /// The reason.
        cause: GapCause,
        /// The number of lost envelopes; `None` when unknown.
        missed: Option<u64>,
        /// Frames after this position follow.
        resumes_after: Position,
    },
    /// Everything up to this position was sent.
    Heartbeat {
        /// The position.
        position: Position,
    },
    /// The transport's bounded queue was full, and dropped frames.
    Lag {
        /// The number of dropped frames.
        dropped: u64,
        /// Frames after this position follow.
        resumes_after: Option<Position>,
    },
}

/// Options of a subscription.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct FollowOptions {
    /// Aspects to return; empty for all. Default: all.
    pub aspects: BTreeSet<String>,
    /// Envelopes with a sequence up to this are recorded, but not returned. Default: 0, none.
    pub from_sequence: i64,
    /// The position to continue after. Default: chosen by the server.
    pub after: Option<Position>,
    /// Checks payloads. Default: off.
    pub validator: Validator,
    /// Producers whose marks are kept, about 100 bytes each. Default 100,000.
    pub max_producers: usize,
}

impl Default for FollowOptions {
    fn default() -> Self {
        Self {
            aspects: BTreeSet::new(),
            from_sequence: 0,
            after: None,
            validator: Validator::default(),
            max_producers: 100_000,
        }
    }
}

/// There is a hole: drop the connection and resume from [`Follow::position`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
#[non_exhaustive]
pub struct Restart {
    /// The reason.
    pub reason: String,
}

/// A subscription's fold over the frames of all its connections.
///
/// ```text
///         handle_open          Connected, as requested        Envelope, Gap, Heartbeat
///   Closed ------------> Fresh -------------------------> Live ----+
///                          |                               ^  ^----+
///                          | Connected elsewhere           | Gap; without one, the fold reports a gap itself
///                          +-----------------> Owed -------+
/// ```
///
/// A skipped offset asks for another connection, once: found again after the same position it is a gap. Marks of
/// producers stay over connections, gaps and epochs.
#[derive(Debug)]
pub struct Follow {
    channel: String,
    options: FollowOptions,
    phase: Phase,
    /// After the last item that counts.
    last: Option<Position>,
    /// The position after which a hole was found before.
    hole_at: Option<Option<Position>>,
    /// The last frame was a gap up to here.
    gap_to: Option<Position>,
    resumed: bool,
    marks: ProducerMarks,
    items: VecDeque<Item>,
}

#[derive(Debug, Clone, PartialEq)]
enum Phase {
    Closed,
    /// No frame has come.
    Fresh,
    /// The server continued from another position than requested, and must send a gap.
    Owed(Position),
    Live,
}

impl Follow {
    /// A fold without frames.
    pub fn new(channel: &str, options: FollowOptions) -> Self {
        Self {
            channel: channel.to_owned(),
            phase: Phase::Closed,
            last: options.after.clone(),
            hole_at: None,
            gap_to: None,
            resumed: options.after.is_some(),
            marks: ProducerMarks::new(options.max_producers),
            items: VecDeque::new(),
            options,
        }
    }

    /// The position to resume from: after all items, including those not taken yet.
    pub fn position(&self) -> Option<&Position> {
        self.last.as_ref()
    }

    /// The highest sequence seen of a producer; 0 for none.
    pub fn high_water(&self, producer: &str) -> i64 {
        self.marks.high_water(producer)
    }

    /// Whether there is no next item.
    pub fn is_drained(&self) -> bool {
        self.items.is_empty()
    }

    /// The next item, if there is one. Take all of them before the next frame, because they are queued.
    pub fn next_item(&mut self) -> Option<Item> {
        self.items.pop_front()
    }

    /// Another connection begins.
    pub fn handle_open(&mut self) {
        self.phase = Phase::Fresh;
        self.gap_to = None;
    }

    /// Handles a frame. Returns whether it was new, so that the connection made progress.
    ///
    /// # Errors
    /// [`Restart`]: the frame does not count, and the connection should be dropped.
    pub fn handle_frame(&mut self, frame: Frame) -> Result<bool, Restart> {
        if let Frame::Connected { resumes_after } = frame {
            self.connected(resumes_after);
            return Ok(false);
        }
        match std::mem::replace(&mut self.phase, Phase::Live) {
            Phase::Live => {}
            Phase::Closed | Phase::Fresh => {
                if let Err(restart) = self.first_time("the first frame was not connected") {
                    self.phase = Phase::Fresh;
                    return Err(restart);
                }
                self.subscribed(self.last.clone());
                // With a position the checks below show what is missing.
                if self.last.is_some()
                    && matches!(
                        frame,
                        Frame::Envelope { position: None, .. } | Frame::Text { position: None, .. }
                    )
                {
                    self.gap(GapCause::Hole, None, self.last.clone());
                }
            }
            Phase::Owed(after) if !matches!(frame, Frame::Gap { .. }) => self.say_owed_gap(&after),
            Phase::Owed(_) => {}
        }
        let gap_to = self.gap_to.take();
        match frame {
            Frame::Connected { .. } => Ok(false),
            Frame::Gap { cause, missed, resumes_after } => {
                // A repeated gap counts once.
                if gap_to.as_ref() != Some(&resumes_after) {
                    // Events that the transport lost before it are part of it, because the server does not know of
                    // them.
                    let last = self.last.as_ref().filter(|last| last.same_epoch(&resumes_after));
                    let jumped = last.and_then(|last| resumes_after.offset().checked_sub(last.offset()));
                    let missed = missed.map(|missed| jumped.map_or(missed, |jumped| missed.max(jumped)));
                    self.last = Some(resumes_after.clone());
                    self.gap(cause, missed, Some(resumes_after.clone()));
                }
                self.gap_to = Some(resumes_after);
                Ok(true)
            }
            Frame::Lag { dropped, resumes_after } => {
                if resumes_after.is_some() {
                    self.last = resumes_after.clone();
                }
                self.items.push_back(Item::Lag { dropped, position: resumes_after });
                Ok(true)
            }
            Frame::Heartbeat { position } => {
                self.gap_to = gap_to;
                self.heartbeat(position)
            }
            Frame::Envelope { position, envelope } => {
                if !self.step(position.as_ref())? {
                    return Ok(false);
                }
                let size = envelope.len();
                self.decoded(position.is_some(), size, Envelope::decode(envelope));
                Ok(true)
            }
            Frame::Text { position, text, part } => {
                if !self.step(position.as_ref())? {
                    return Ok(false);
                }
                let size = part.len();
                self.decoded(position.is_some(), size, Envelope::decode_part(&text, part));
                Ok(true)
            }
            Frame::Oversized { position, size, limit } => {
                if !self.step(position.as_ref())? {
                    return Ok(false);
                }
                let error = DecodeError::TooLarge { size, limit };
                self.items.push_back(Item::Undecodable { position, bytes: size, error });
                Ok(true)
            }
        }
    }

    /// As [`handle_frame`](Self::handle_frame) of a [`Frame::Text`] at this offset of the epoch of `near`. Nearly every
    /// frame is one, and comes right after the one before it: that one is not moved, and its text is not even cloned
    /// unless it becomes an envelope.
    ///
    /// # Errors
    /// As there.
    #[inline(always)]
    pub fn handle_next(
        &mut self,
        near: &Position,
        offset: u64,
        text: &ByteString,
        part: Range<usize>,
    ) -> Result<bool, Restart> {
        let live = matches!(self.phase, Phase::Live) && self.gap_to.is_none();
        if !live || !self.last.as_mut().is_some_and(|last| last.step_to(near, offset)) {
            return self.handle_frame(Frame::Text {
                position: Some(near.at(offset)),
                text: text.clone(),
                part,
            });
        }
        match Draft::of_part(text, part.clone()) {
            Some(draft) => self.envelope(true, part.len(), draft),
            None => self.decoded(true, part.len(), Envelope::decode_part(text, part)),
        }
        Ok(true)
    }

    fn connected(&mut self, resumes_after: Option<Position>) {
        self.subscribed(resumes_after.clone());
        self.phase = match (resumes_after, &self.last) {
            (Some(after), Some(last)) if after != *last => Phase::Owed(after),
            (Some(after), None) => {
                self.last = Some(after);
                Phase::Live
            }
            _ => Phase::Live,
        };
    }

    fn subscribed(&mut self, position: Option<Position>) {
        let resumed = std::mem::replace(&mut self.resumed, true);
        self.items.push_back(Item::Subscribed { position, resumed });
    }

    /// The server continued from another position without a gap.
    fn say_owed_gap(&mut self, after: &Position) {
        let Some(last) = self.last.clone() else { return };
        if !last.same_epoch(after) {
            self.last = Some(after.clone());
            self.gap(GapCause::Server(GapReason::EpochChanged), None, Some(after.clone()));
        } else if after.offset() > last.offset() {
            self.last = Some(after.clone());
            self.gap(GapCause::Hole, Some(after.offset() - last.offset()), Some(after.clone()));
        } else {
            // It is an earlier position: repeated envelopes are dropped, and nothing is missing.
            self.gap(GapCause::Hole, None, Some(last));
        }
    }

    fn heartbeat(&mut self, position: Position) -> Result<bool, Restart> {
        let Some(last) = self.last.clone() else { return Ok(false) };
        let ahead = position.offset().checked_sub(last.offset()).filter(|ahead| *ahead > 0);
        if last.same_epoch(&position) && ahead.is_none() {
            return Ok(false);
        }
        self.first_time("a heartbeat was ahead of what had come")?;
        self.jump(&last, position, ahead);
        Ok(true)
    }

    /// Whether this position is new. Without positions everything is new.
    #[inline]
    fn step(&mut self, position: Option<&Position>) -> Result<bool, Restart> {
        if let (Some(position), Some(last)) = (position, &mut self.last)
            && last.is_next(position)
        {
            last.go_to(position);
            return Ok(true);
        }
        self.other_step(position)
    }

    fn other_step(&mut self, position: Option<&Position>) -> Result<bool, Restart> {
        let (Some(position), Some(last)) = (position, &self.last) else {
            if let Some(position) = position {
                self.last = Some(position.clone());
            }
            return Ok(true);
        };
        let same = last.same_epoch(position);
        if same && position.offset() <= last.offset() {
            return Ok(false);
        }
        if !same || position.offset() > last.offset() + 1 {
            let last = last.clone();
            self.first_time("an offset was jumped over")?;
            let before = position.at(position.offset().saturating_sub(1));
            let missed = before.offset().checked_sub(last.offset());
            self.jump(&last, before, missed);
        }
        match &mut self.last {
            Some(last) => last.go_to(position),
            none => *none = Some(position.clone()),
        }
        Ok(true)
    }

    /// Asks for another connection at the first hole after a position.
    fn first_time(&mut self, what: &str) -> Result<(), Restart> {
        if self.hole_at.as_ref() == Some(&self.last) {
            return Ok(());
        }
        self.hole_at = Some(self.last.clone());
        let after = self.last.as_ref().map_or(String::new(), |last| format!(" after {last}"));
        Err(Restart { reason: format!("{what}{after}") })
    }

    fn jump(&mut self, last: &Position, to: Position, missed: Option<u64>) {
        self.last = Some(to.clone());
        if last.same_epoch(&to) {
            self.gap(GapCause::Hole, missed, Some(to));
        } else {
            self.gap(GapCause::Server(GapReason::EpochChanged), None, Some(to));
        }
    }

    fn gap(&mut self, cause: GapCause, missing: Option<u64>, position: Option<Position>) {
        let gap = Gap { producer: None, missing, from: None, to: None, cause, position };
        self.items.push_back(Item::Gap(gap));
    }

    /// An envelope, or why it cannot be decoded. If it has a position, that is the last one.
    #[inline(never)]
    fn decoded(&mut self, positioned: bool, size: usize, decoded: Result<Envelope, DecodeError>) {
        match decoded {
            Ok(envelope) => self.envelope(positioned, size, envelope),
            Err(error) => self.undecodable(positioned, size, error),
        }
    }

    /// From a decoded envelope to items: check the sequence, validate, filter.
    #[inline(always)]
    fn envelope(&mut self, positioned: bool, size: usize, envelope: impl Readable) {
        if let Err(error) = envelope.usable() {
            return self.undecodable(positioned, size, error);
        }
        let sequence = envelope.sequence();
        let wanted = sequence > self.options.from_sequence;
        match self.marks.observe(envelope.producer_id(), sequence) {
            Sighting::First | Sighting::Next => {}
            Sighting::Gap { missing, after } => {
                if wanted {
                    self.sequence_gap(positioned, envelope.producer_id(), sequence, missing, after);
                }
            }
            Sighting::Duplicate { high_water } => {
                if wanted {
                    let producer = envelope.producer_id().to_owned();
                    let position = self.place(positioned);
                    self.items.push_back(Item::Duplicate { producer, sequence, high_water, position });
                }
                return;
            }
        }
        if !wanted {
            return;
        }
        let mut warning = None;
        if self.options.validator.mode() != ValidatorMode::Off {
            match self.options.validator.check(&self.channel, envelope.aspect(), envelope.payload()) {
                Validation::Warned(why) => warning = Some(Box::new(why)),
                Validation::Rejected(rejection) => {
                    let (position, rejection) = (self.place(positioned), Box::new(rejection));
                    let (producer, aspect) =
                        (envelope.producer_id().to_owned(), envelope.aspect().to_owned());
                    self.items.push_back(Item::Rejected { position, producer, sequence, aspect, rejection });
                    return;
                }
                _ => {}
            }
        }
        if self.options.aspects.is_empty() || self.options.aspects.contains(envelope.aspect()) {
            let position = self.place(positioned);
            let envelope = envelope.into_envelope();
            self.items.push_back(Item::Envelope(Delivered { position, warning, envelope }));
        }
    }

    /// The last position, for an item that has one.
    #[inline]
    fn place(&self, positioned: bool) -> Option<Position> {
        if positioned { self.last.clone() } else { None }
    }

    #[cold]
    fn undecodable(&mut self, positioned: bool, size: usize, error: DecodeError) {
        let position = self.place(positioned);
        self.items.push_back(Item::Undecodable { position, bytes: size as u64, error });
    }

    #[cold]
    fn sequence_gap(&mut self, positioned: bool, producer: &str, sequence: i64, missing: u64, after: i64) {
        let position = self.place(positioned);
        self.items.push_back(Item::Gap(Gap {
            producer: Some(producer.to_owned()),
            missing: Some(missing),
            from: Some(after.saturating_add(1)),
            to: Some(sequence - 1),
            cause: GapCause::Sequence,
            position: position.map(|position| position.at(position.offset().saturating_sub(1))),
        }));
    }
}

/// What the checks read of an envelope, made or not.
trait Readable {
    fn usable(&self) -> Result<(), DecodeError>;
    fn sequence(&self) -> i64;
    fn producer_id(&self) -> &str;
    fn aspect(&self) -> &str;
    fn payload(&self) -> Option<PayloadRef<'_>>;
    fn into_envelope(self) -> Envelope;
}

impl Readable for Envelope {
    fn usable(&self) -> Result<(), DecodeError> {
        self.usable()
    }

    fn sequence(&self) -> i64 {
        self.sequence()
    }

    fn producer_id(&self) -> &str {
        self.producer().id()
    }

    fn aspect(&self) -> &str {
        self.aspect()
    }

    fn payload(&self) -> Option<PayloadRef<'_>> {
        self.payload()
    }

    fn into_envelope(self) -> Envelope {
        self
    }
}

impl Readable for Draft<'_> {
    #[inline(always)]
    fn usable(&self) -> Result<(), DecodeError> {
        self.usable()
    }

    #[inline(always)]
    fn sequence(&self) -> i64 {
        self.sequence()
    }

    #[inline(always)]
    fn producer_id(&self) -> &str {
        self.producer_id()
    }

    #[inline(always)]
    fn aspect(&self) -> &str {
        self.aspect()
    }

    #[inline(always)]
    fn payload(&self) -> Option<PayloadRef<'_>> {
        self.payload()
    }

    #[inline(always)]
    fn into_envelope(self) -> Envelope {
        self.into_envelope()
    }
}

#[cfg(test)]
mod tests;
