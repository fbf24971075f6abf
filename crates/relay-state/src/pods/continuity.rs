//! The order of checks: whether a message continues what came before it.

use relay_proto::pods::{
    CatchupComplete, Connected, Epoch, EventHash, Gap, GapReason, Heartbeat, Message, PodEvent, Position,
    Undecodable,
};
use serde::Serialize;

use crate::pods::rules::{Rule, rule};

/// Checks every message of a stream, across connections, before the caller gets it.
///
/// It keeps the *resume position* (where the next connect starts) and the last position that was handed over, and
/// gives a [`Verdict`] on each message. The rules, in this order; each finds a loss that no other rule finds:
///
/// 1. The first message of a connection is `connected`, and there is one only.
/// 2. `resumes_after` other than where we wanted to resume is followed directly by a `gap`.
/// 3. A new epoch without a `gap` is a gap.
/// 4. On filtered streams `sent` counts without a hole.
/// 5. An event that is not above the last position is a duplicate; the last sequence under another hash is a
///    rewritten log.
/// 6. On unfiltered streams sequences and previous hashes link up, and no bookmark runs ahead of them.
/// 7. A heartbeat that is not `catching_up` counts as a `catchup_complete`, in case that was lost.
///
/// After a hole the connection is first dropped and resumed. If the hole is found again at the same position, it is
/// a gap.
#[derive(Debug, Clone, Default)]
pub struct Continuity {
    narrowed: bool,
    resume: Option<EventHash>,
    last: Last,
    epoch: Option<Epoch>,
    /// The position of a hole for which the stream was resumed.
    healing: Option<Last>,
    /// The position of the list after a gap without a position: the next position shows whether the list was new
    /// enough.
    listed: Option<(Epoch, u64)>,
    link: Link,
    counts: ContinuityCounts,
}

/// The last position handed over. The hash may be known without the sequence (restored from a file) and, after a gap
/// that the client found, the sequence without the hash.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[cfg_attr(test, derive(Hash))]
struct Last {
    hash: Option<EventHash>,
    sequence: Option<u64>,
}

impl Last {
    /// The same position, as far as both are known.
    fn is_at(&self, other: &Self) -> bool {
        match (&self.hash, &other.hash) {
            (Some(hash), Some(other)) => hash == other,
            _ => self == other,
        }
    }
}

/// What is known of the present connection.
#[derive(Debug, Clone, Default)]
struct Link {
    /// `connected` came, or its absence was reported as a gap.
    open: bool,
    /// The next message is the first after `connected`.
    fresh: bool,
    gap_is_due: bool,
    epoch: Option<Epoch>,
    resumes_after: Option<Position>,
    filtered: bool,
    /// The relay said that the stream is not filtered, so each event names the one before.
    contiguous: bool,
    sent: u64,
    caught_up: bool,
    delivered: bool,
}

/// What to do with a message.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Verdict {
    /// Hand it over; positions have moved.
    Accept,
    /// Handle it as a `catchup_complete`.
    AcceptAsCatchup(CatchupComplete),
    /// Ignore it.
    Ignore(Ignored),
    /// Something is missing before it: drop the connection, discard what was decoded, resume.
    Hole(HoleCause),
    /// The message itself means that events were lost: the relay's own `gap`, or a message that cannot be read.
    Gap(Gap),
    /// Events were lost before it: report the gap, then check the same message again.
    GapBefore(Gap),
}

/// Why a message was ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Ignored {
    /// Its position was handed over before.
    Duplicate,
    /// A second `catchup_complete` of one connection.
    SecondCatchup,
    /// An SSE event that this version does not know.
    Unknown,
}

/// How a hole was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum HoleCause {
    /// The first message was not `connected`.
    NotConnected,
    /// A second `connected` on one connection.
    SecondConnected,
    /// The relay resumed elsewhere without a `gap`.
    UnannouncedGap,
    /// `sent` is not one more than before.
    SentCount,
    /// The sequence jumped.
    SequenceJump,
    /// `previous_hash` is not the last hash.
    PreviousHash,
    /// A heartbeat or `catchup_complete` is ahead of the last event.
    BookmarkAhead,
}

impl std::fmt::Display for HoleCause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::NotConnected => "the first message was not connected",
            Self::SecondConnected => "a second connected on one connection",
            Self::UnannouncedGap => "the relay resumed elsewhere without a gap",
            Self::SentCount => "the relay's count of messages jumped",
            Self::SequenceJump => "the sequence jumped",
            Self::PreviousHash => "an event follows a position that was not seen",
            Self::BookmarkAhead => "a bookmark is ahead of the last event",
        })
    }
}

/// How often each rule was applied, since the stream began.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ContinuityCounts {
    /// Messages whose position was handed over before.
    pub duplicates: u64,
    /// Holes found, each followed by a resume or reported as a gap.
    pub holes: u64,
    /// Gaps reported, the relay's and our own.
    pub gaps: u64,
    /// Messages that could not be read.
    pub undecodable: u64,
    /// SSE events of unknown name.
    pub unknown: u64,
}

impl Continuity {
    /// A new stream. `narrowed`: the consumer gave a filter or a token, so that a relay that does not say whether
    /// the stream is filtered is taken to filter it.
    pub fn new(resume: Option<EventHash>, narrowed: bool) -> Self {
        let last = Last { hash: resume.clone(), sequence: None };
        Self { narrowed, resume, last, ..Self::default() }
    }

    /// Where the next connect starts: its `since_hash`.
    pub fn resume(&self) -> Option<&EventHash> {
        self.resume.as_ref()
    }

    /// The epoch of the stream, once known.
    pub fn epoch(&self) -> Option<&Epoch> {
        self.epoch.as_ref()
    }

    /// The hash of the last position; `None` at the start, and where only its sequence is known.
    pub fn last_hash(&self) -> Option<&EventHash> {
        self.last.hash.as_ref()
    }

    /// The sequence of the last position, where known.
    pub fn last_sequence(&self) -> Option<u64> {
        self.last.sequence
    }

    /// Whether the present connection has said `connected`: its end is a drop, not a failed attempt.
    pub fn is_open(&self) -> bool {
        self.link.open
    }

    /// Whether the replay of the present connection is over.
    pub fn is_caught_up(&self) -> bool {
        self.link.caught_up
    }

    /// Whether the present connection made progress: it delivered a new event or reached the end of the replay.
    pub fn has_progress(&self) -> bool {
        self.link.delivered || self.link.caught_up
    }

    /// How often each rule was applied.
    pub fn counts(&self) -> &ContinuityCounts {
        &self.counts
    }

    /// Continues from a list instead of a message.
    pub fn restart_from(&mut self, hash: Option<EventHash>, sequence: Option<u64>, epoch: Option<Epoch>) {
        self.resume = hash.clone();
        self.last = Last { hash, sequence };
        self.epoch = epoch;
    }

    /// A list was taken after a gap.
    pub fn handle_gap_list(&mut self, sequence: Option<u64>, epoch: Option<&Epoch>) {
        if self.last == Last::default() && rule(Rule::ListReachesGap) {
            self.listed = epoch.cloned().zip(sequence);
        }
    }

    /// The connection ended. Returns whether it had been open.
    pub fn handle_dropped(&mut self) -> bool {
        std::mem::take(&mut self.link).open
    }

    /// The state that determines further verdicts: everything but the counts.
    #[cfg(test)]
    pub(crate) fn state(&self) -> impl std::hash::Hash + '_ {
        let link = &self.link;
        let flags = [link.open, link.fresh, link.gap_is_due, link.filtered, link.contiguous, link.caught_up];
        let start = link.resumes_after.as_ref().map(|p| (&p.hash, p.sequence));
        let link = (flags, link.sent, link.delivered, &link.epoch, start);
        (&self.resume, &self.last, &self.epoch, &self.healing, &self.listed, link)
    }

    /// Checks the next message, and moves the positions past it when it is accepted.
    pub fn check(&mut self, message: &Message) -> Verdict {
        match message {
            Message::Unknown { .. } => {
                self.counts.unknown += 1;
                return Verdict::Ignore(Ignored::Unknown);
            }
            Message::Closing(_) => return Verdict::Accept,
            _ => {}
        }
        let verdict = self.check_link(message).or_else(|| self.check_list(message));
        if let Some(verdict) = verdict.or_else(|| self.check_sent(message)) {
            return verdict;
        }
        match message {
            Message::Connected(connected) => {
                self.open(connected);
                Verdict::Accept
            }
            Message::Pod(event) => self.check_pod(message, event),
            Message::CatchupComplete(_) if self.link.caught_up && rule(Rule::OneCatchup) => {
                Verdict::Ignore(Ignored::SecondCatchup)
            }
            Message::CatchupComplete(CatchupComplete { hash, sequence, .. }) => {
                self.check_bookmark(message, hash.as_ref(), *sequence).unwrap_or_else(|| {
                    self.link.caught_up = true;
                    Verdict::Accept
                })
            }
            Message::Heartbeat(beat) => {
                self.check_bookmark(message, beat.hash.as_ref(), beat.sequence).unwrap_or_else(|| {
                    let catching_up = beat.catching_up && rule(Rule::CatchingUp);
                    if !self.link.caught_up && !catching_up && rule(Rule::LostCatchup) {
                        self.lost_catchup(beat)
                    } else {
                        Verdict::Accept
                    }
                })
            }
            Message::Gap(gap) => self.take_gap(gap),
            Message::Undecodable(message) => self.take_undecodable(message),
            Message::Closing(_) | Message::Unknown { .. } | _ => Verdict::Accept,
        }
    }

    /// Rules 1 to 3: the beginning of a connection. `None`: no objection.
    fn check_link(&mut self, message: &Message) -> Option<Verdict> {
        match (self.link.open, matches!(message, Message::Connected(_))) {
            (false, true) => return None,
            (false, false) if rule(Rule::ConnectedFirst) => {
                return Some(self.hole(HoleCause::NotConnected, message));
            }
            (true, true) if rule(Rule::ConnectedOnce) => {
                return Some(self.hole(HoleCause::SecondConnected, message));
            }
            _ => {}
        }
        if !self.link.fresh {
            return None;
        }
        let is_gap = matches!(message, Message::Gap(_));
        if self.link.gap_is_due && !is_gap {
            return Some(self.hole(HoleCause::UnannouncedGap, message));
        }
        self.link.fresh = false;
        self.link.gap_is_due = false;
        let new = self.link.epoch.is_some() && self.link.epoch != self.epoch;
        let changed = new && self.epoch.is_some();
        // A gap sets the epoch once it is accepted.
        if new && !(changed && is_gap) {
            self.epoch.clone_from(&self.link.epoch);
        }
        if changed && !is_gap && rule(Rule::EpochChange) {
            let position = self.link.resumes_after.clone();
            let (hash, sequence) = position.map_or((None, None), |p| (Some(p.hash), p.sequence));
            return Some(Verdict::GapBefore(self.own_gap(GapReason::EpochChanged, hash, sequence)));
        }
        None
    }

    /// After an unreadable message without an id, the following list may be older than the message. `None`: it is
    /// not, or this is unknown.
    fn check_list(&mut self, message: &Message) -> Option<Verdict> {
        let (epoch, listed) = self.listed.as_ref()?;
        let (hash, reached) = match message {
            Message::Pod(event) => (&event.previous_hash, event.sequence.map(|s| s.saturating_sub(1))),
            Message::CatchupComplete(catchup) => (&catchup.hash, catchup.sequence),
            Message::Heartbeat(beat) => (&beat.hash, beat.sequence),
            _ => return None,
        };
        if self.link.epoch.as_ref() != Some(epoch) || reached? <= *listed {
            return None;
        }
        Some(Verdict::GapBefore(self.own_gap(GapReason::Undecodable, hash.clone(), reached)))
    }

    /// Rule 4, and the count itself. `None`: no objection.
    fn check_sent(&mut self, message: &Message) -> Option<Verdict> {
        let (sent, counts) = match message {
            Message::Pod(event) => (event.sent, true),
            Message::Gap(gap) => (gap.sent, true),
            Message::CatchupComplete(catchup) => (catchup.sent, false),
            Message::Heartbeat(beat) => (beat.sent, false),
            // An unreadable message was a pod or a gap, unless its name says otherwise.
            Message::Undecodable(m) => {
                let counts = !matches!(&*m.event, "connected" | "catchup_complete" | "heartbeat" | "closing");
                (None, counts && rule(Rule::UnreadableCounts))
            }
            _ => return None,
        };
        let expected = self.link.sent + u64::from(counts);
        let judged = rule(if counts { Rule::SentOfEvents } else { Rule::SentOfBookmarks });
        if judged && self.link.filtered && sent.is_some_and(|sent| sent != expected) {
            return Some(self.hole(HoleCause::SentCount, message));
        }
        self.link.sent = expected;
        None
    }

    /// Rules 5 and 6 for an event.
    fn check_pod(&mut self, message: &Message, event: &PodEvent) -> Verdict {
        let same_hash = self.last.hash.as_ref() == Some(&event.hash);
        let duplicate = match self.last.sequence.zip(event.sequence) {
            Some((last, sequence))
                if sequence == last && !same_hash && self.last.hash.is_some() && rule(Rule::Rewind) =>
            {
                self.uncount(message);
                let gap = self.own_gap(
                    GapReason::Rewind,
                    event.previous_hash.clone(),
                    Some(last.saturating_sub(1)),
                );
                return Verdict::GapBefore(gap);
            }
            Some((last, sequence)) => sequence <= last,
            None => same_hash,
        };
        if duplicate && rule(Rule::Duplicates) {
            self.counts.duplicates += 1;
            return Verdict::Ignore(Ignored::Duplicate);
        }
        if self.link.contiguous {
            let jump =
                self.last.sequence.zip(event.sequence).is_some_and(|(last, sequence)| sequence != last + 1);
            let elsewhere = self
                .last
                .hash
                .as_ref()
                .zip(event.previous_hash.as_ref())
                .is_some_and(|(last, previous)| previous != last);
            let (jump, elsewhere) = (jump && rule(Rule::SequenceJump), elsewhere && rule(Rule::PreviousHash));
            if jump || elsewhere {
                let cause = if jump { HoleCause::SequenceJump } else { HoleCause::PreviousHash };
                return self.hole(cause, message);
            }
        }
        self.link.delivered = true;
        self.place_at(Some(event.hash.clone()), event.sequence);
        Verdict::Accept
    }

    /// Rules 5 and 6 for a bookmark. `None`: accepted, with the position moved if it is newer.
    fn check_bookmark(
        &mut self,
        message: &Message,
        hash: Option<&EventHash>,
        sequence: Option<u64>,
    ) -> Option<Verdict> {
        let hash = hash?;
        match self.last.sequence.zip(sequence) {
            Some((last, sequence))
                if sequence > last && self.link.contiguous && rule(Rule::BookmarkAhead) =>
            {
                return Some(self.hole(HoleCause::BookmarkAhead, message));
            }
            Some((last, sequence))
                if sequence == last
                    && self.last.hash.as_ref().is_some_and(|held| held != hash)
                    && rule(Rule::RewindOfBookmark) =>
            {
                let gap = self.own_gap(GapReason::Rewind, Some(hash.clone()), Some(sequence));
                return Some(Verdict::GapBefore(gap));
            }
            Some((last, sequence)) if sequence < last && rule(Rule::BookmarksMoveOn) => return None,
            // After a message that could not be read its hash alone is known.
            None if sequence.is_some()
                && self.link.contiguous
                && self.last.hash.as_ref().is_some_and(|held| held != hash)
                && rule(Rule::BookmarkElsewhere) =>
            {
                return Some(self.hole(HoleCause::BookmarkAhead, message));
            }
            _ => {}
        }
        self.place_at(Some(hash.clone()), sequence);
        None
    }

    /// Rule 7.
    fn lost_catchup(&mut self, beat: &Heartbeat) -> Verdict {
        self.link.caught_up = true;
        let Message::CatchupComplete(mut catchup) = Message::decode("catchup_complete", "", "{}") else {
            return Verdict::Accept;
        };
        catchup.hash.clone_from(&beat.hash);
        catchup.sequence = beat.sequence;
        catchup.sent = beat.sent;
        Verdict::AcceptAsCatchup(catchup)
    }

    fn open(&mut self, connected: &Connected) {
        self.link = Link {
            open: true,
            fresh: true,
            gap_is_due: false,
            epoch: connected.epoch.clone(),
            resumes_after: connected.resumes_after.clone(),
            filtered: connected.filtered.unwrap_or(self.narrowed),
            contiguous: !connected.filtered.unwrap_or(self.narrowed),
            sent: 0,
            caught_up: false,
            delivered: false,
        };
        if connected.epoch.is_none() {
            // It is unknown whether this is the log of the last connection, so sequences cannot be compared.
            self.last.sequence = None;
        }
        let Some(start) = &connected.resumes_after else { return };
        let Some(wanted) = &self.resume else {
            if rule(Rule::StartIsResume) {
                self.epoch.clone_from(&connected.epoch);
                self.place_at(Some(start.hash.clone()), start.sequence);
            }
            return;
        };
        let other_epoch =
            self.epoch.as_ref().zip(connected.epoch.as_ref()).is_some_and(|(ours, theirs)| ours != theirs);
        if other_epoch {
            let judged_later = rule(Rule::EpochAfterConnected);
            if !judged_later {
                self.epoch.clone_from(&connected.epoch);
            }
            return;
        }
        match self.last.sequence {
            Some(last) => {
                let above = start.sequence.is_some_and(|sequence| sequence > last);
                self.link.gap_is_due = above && rule(Rule::GapIsDueAbove);
            }
            None if start.hash != *wanted => self.link.gap_is_due = rule(Rule::GapIsDueElsewhere),
            None => {
                if rule(Rule::StartTellsSequence) {
                    self.last.sequence = start.sequence;
                    self.epoch.clone_from(&connected.epoch);
                }
            }
        }
    }

    fn take_gap(&mut self, gap: &Gap) -> Verdict {
        self.counts.gaps += 1;
        if let Some(epoch) = gap.epoch.as_ref().or(self.link.epoch.as_ref())
            && rule(Rule::GapSetsEpoch)
        {
            self.epoch = Some(epoch.clone());
        }
        if rule(Rule::GapSetsPosition) {
            self.place_at(gap.hash.clone(), gap.sequence);
        }
        Verdict::Gap(gap.clone())
    }

    fn take_undecodable(&mut self, message: &Undecodable) -> Verdict {
        self.counts.undecodable += 1;
        if rule(Rule::UnreadableIsGap) {
            let hash = message.hash.clone().filter(|_| rule(Rule::UnreadableMovesOn));
            Verdict::Gap(self.own_gap(message.gap_reason(), hash, None))
        } else {
            Verdict::Ignore(Ignored::Unknown)
        }
    }

    /// A hole was found at `message`: resume, or report a gap if a resume did not help.
    fn hole(&mut self, cause: HoleCause, message: &Message) -> Verdict {
        self.counts.holes += 1;
        let again = self.healing.as_ref().is_some_and(|healing| {
            let elsewhere = !healing.is_at(&self.last) && rule(Rule::HealEachPlace);
            !elsewhere && rule(Rule::HealOnce)
        });
        if !again && rule(Rule::HealFirst) {
            self.healing = Some(self.last.clone());
            return Verdict::Hole(cause);
        }
        self.healing = None;
        // A `connected` is checked again as the first message of its connection; otherwise the connection goes on.
        self.link.open = !matches!(message, Message::Connected(_));
        self.link.fresh = false;
        self.link.gap_is_due = false;
        if self.link.epoch.is_some() {
            self.epoch.clone_from(&self.link.epoch);
        }
        let before = |sequence: Option<u64>| {
            sequence.map(|s| if rule(Rule::GapEndsBefore) { s.saturating_sub(1) } else { s })
        };
        let (hash, sequence, sent) = match message {
            Message::Connected(connected) => {
                let start = connected.resumes_after.clone();
                start.map_or((None, None, None), |p| (Some(p.hash), p.sequence, None))
            }
            Message::Pod(event) => (event.previous_hash.clone(), before(event.sequence), before(event.sent)),
            Message::Gap(gap) => (gap.hash.clone(), gap.sequence, before(gap.sent)),
            Message::CatchupComplete(catchup) => (catchup.hash.clone(), catchup.sequence, catchup.sent),
            Message::Heartbeat(beat) => (beat.hash.clone(), beat.sequence, beat.sent),
            _ => (self.last.hash.clone(), self.last.sequence, None),
        };
        if let Some(sent) = sent.filter(|_| rule(Rule::CountIsTheRelays)) {
            self.link.sent = sent;
        }
        if cause == HoleCause::NotConnected && !matches!(message, Message::Connected(_)) {
            self.link.filtered = self.narrowed;
            self.link.contiguous = !self.narrowed;
        }
        Verdict::GapBefore(self.own_gap(GapReason::Hole, hash, sequence))
    }

    /// A gap found by the client: sets the last position to it.
    fn own_gap(&mut self, reason: GapReason, hash: Option<EventHash>, sequence: Option<u64>) -> Gap {
        self.counts.gaps += 1;
        let mut gap = Gap::new(reason, hash.clone(), sequence);
        gap.epoch.clone_from(&self.epoch);
        self.place_at(hash, sequence);
        gap
    }

    /// Uncounts a message that will be checked again.
    fn uncount(&mut self, message: &Message) {
        if matches!(message, Message::Pod(_) | Message::Gap(_)) {
            self.link.sent = self.link.sent.saturating_sub(1);
        }
    }

    /// Sets the last position, and the resume position if the hash is known.
    fn place_at(&mut self, hash: Option<EventHash>, sequence: Option<u64>) {
        if hash.is_some() {
            self.resume.clone_from(&hash);
        }
        self.last = Last { hash, sequence };
        self.listed = None;
    }
}

#[cfg(test)]
mod tests;
