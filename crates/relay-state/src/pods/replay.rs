//! The replay phases: from a seed through the history to live events, and back after gaps and drops.

use std::collections::VecDeque;
use std::fmt;

use relay_proto::pods::{Epoch, EventHash, Gap, Heartbeat, Message, PodEvent, PodList, SourceState};
use relay_proto::setters;
use serde::Serialize;

use crate::pods::rules::{Rule, rule};
use crate::pods::{Change, Continuity, PodCache, Pods, Verdict};

mod conflate;

pub use conflate::Conflation;

/// Folds lists, messages and ends of connections into [`Snapshot`]s with a phase and an acknowledgement.
///
/// ```text
///            seed                    catchup_complete                seed
/// [CurrentSeed] --> connect --> [Backfill]* --> [CatchupComplete] --> [CurrentSeed] --> [Live]*
///                                 |  ^   \                                             /  |  ^
///                             gap |  | seed `--------------- drop --------------------'   |  | seed
///                                 v  |                        | seed                  gap v  |
///                             [GapReseed]                     v                        [GapReseed]
///                                                      [ReconnectReseed] --> connect --> [Backfill]* ...
/// ```
///
/// A sans-IO machine. **After any input, call [`Replay::poll`] until it asks for an input**, and give it that one:
///
/// | [`Step`] | the driver |
/// |---|---|
/// | `Snapshot` | hands it to the caller; polls again when the caller has processed it |
/// | `Seed` | reads `/pods`, calls [`Replay::handle_seed`]; in the meantime reads the socket into a bounded buffer |
/// | `Message` | connects from [`Replay::resume`] when it is not connected; gives the next message to [`Replay::handle_message`], or the end, after all that was decoded, to [`Replay::handle_dropped`] |
/// | `Reconnect` | drops the connection and what was decoded of it; polls again |
#[derive(Debug, Clone)]
pub struct Replay {
    options: ReplayOptions,
    continuity: Continuity,
    cache: PodCache,
    state: State,
    ready: VecDeque<Snapshot>,
    pending: Option<Pending>,
    /// The driver is to drop its connection.
    reconnect: Option<String>,
    acks: Acks,
    source_stale: bool,
    /// Backfill events were applied since the last seed.
    historic: bool,
    /// [`ReplayMode::State`]: why the connection dropped last, until something follows.
    last_drop: Option<String>,
}

/// The state, named by the input that it waits for.
#[derive(Debug, Clone)]
enum State {
    /// The list before the first connect.
    FirstSeed,
    /// Messages.
    Messages(Flow),
    /// The list after `catchup_complete`.
    CaughtUpSeed { dropped: Option<String> },
    /// The list after a gap.
    GapSeed { gap: Gap, back_to: Flow, dropped: Option<String> },
    /// The list after a drop; no connection is open.
    DropSeed { cause: String },
}

/// Which messages are read: those up to `catchup_complete`, or those after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    Backfill,
    Live,
}

impl Flow {
    fn phase(self) -> Phase {
        match self {
            Self::Backfill => Phase::Backfill,
            Self::Live => Phase::Live,
        }
    }
}

/// A message before which events were lost: it is applied after the reseed.
#[derive(Debug, Clone)]
struct Pending {
    message: Box<Message>,
    /// The connection ended after the message: handled once the message is applied.
    ended: Option<String>,
}

/// The acks of processed snapshots, and of the snapshot that the caller is processing.
#[derive(Debug, Clone, Default)]
struct Acks {
    in_hand: Option<EventHash>,
    done: Option<EventHash>,
}

impl Acks {
    /// The caller gets a snapshot with this ack.
    fn hand_over(&mut self, ack: Option<&EventHash>) {
        self.in_hand = ack.cloned();
    }

    /// The caller has processed its snapshot.
    fn finish(&mut self) {
        if let Some(ack) = self.in_hand.take() {
            self.done = Some(ack);
        }
    }
}

/// The form of the snapshots of a [`Replay`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum ReplayMode {
    /// All six phases, with acknowledgements.
    #[default]
    Phases,
    /// The plain state: a snapshot per seed and per applied event. The stream starts from the first seed, continues
    /// after a drop without a reseed unless there is a gap, and acknowledges nothing.
    State,
}

/// Options of a [`Replay`].
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct ReplayOptions {
    /// Default: all six phases.
    pub mode: ReplayMode,
    /// Where to resume: the last acknowledged position. Default: none, everything retained is replayed. Ignored by
    /// [`ReplayMode::State`].
    pub since: Option<EventHash>,
    /// The consumer gave a filter or a token: see [`Continuity::new`]. Default: false.
    pub narrowed: bool,
    /// Whether Backfill events are applied to the snapshot's pods, which then show history. Default: false.
    pub apply_backfill: bool,
    /// Whether heartbeats that move the position are yielded, as Live snapshots without an event. Default: false.
    pub yield_bookmarks: bool,
}

setters! { ReplayOptions {
    /// Sets the mode.
    mode: ReplayMode,
    /// Sets where to resume.
    since: Option<EventHash>,
    /// Says that the consumer gave a filter or a token.
    narrowed: bool,
    /// Sets whether Backfill events are applied.
    apply_backfill: bool,
    /// Sets whether bookmarks are yielded.
    yield_bookmarks: bool,
} }

/// The phase of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub enum Phase {
    /// The pods of a fresh list.
    CurrentSeed,
    /// A replayed event.
    Backfill,
    /// The replay is over.
    CatchupComplete,
    /// A live event.
    Live,
    /// Events were lost; the pods are those of a fresh list.
    GapReseed,
    /// The connection dropped; the pods are those of a fresh list.
    ReconnectReseed,
}

impl Phase {
    /// Every phase.
    pub const ALL: [Self; 6] = [
        Self::CurrentSeed,
        Self::Backfill,
        Self::CatchupComplete,
        Self::Live,
        Self::GapReseed,
        Self::ReconnectReseed,
    ];

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::CurrentSeed => "CurrentSeed",
            Self::Backfill => "Backfill",
            Self::CatchupComplete => "CatchupComplete",
            Self::Live => "Live",
            Self::GapReseed => "GapReseed",
            Self::ReconnectReseed => "ReconnectReseed",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The pods at one moment, and the reason for the snapshot.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Snapshot {
    /// The phase.
    pub phase: Phase,
    /// The phase that events after this snapshot belong to: Backfill or Live.
    pub goes_on: Phase,
    /// The pods.
    pub pods: Pods,
    /// Changes of `pods` since the previous snapshot.
    pub changed: Vec<Change>,
    /// The event, in Backfill and Live; the last one when it is conflated. `None` in Live for a bookmark.
    pub event: Option<PodEvent>,
    /// In a conflated snapshot: further events before `event`, oldest first. [`Snapshot::events`] has them all.
    pub earlier: Vec<PodEvent>,
    /// With GapReseed: what was lost and why.
    pub gap: Option<Gap>,
    /// With ReconnectReseed: why the connection dropped.
    pub cause: Option<String>,
    /// The position that may be saved once this snapshot was processed.
    pub ack: Option<EventHash>,
    /// The pods show history, not the present (see [`ReplayOptions::apply_backfill`]).
    pub historic: bool,
}

impl Snapshot {
    /// Whether the pods show the present and events are followed from here on: a live event, or a list that was read
    /// while following.
    pub fn is_live(&self) -> bool {
        self.goes_on == Phase::Live && self.phase != Phase::CatchupComplete
    }
}

/// The next step for the driver of a [`Replay`].
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Step {
    /// Hand this to the caller.
    Snapshot(Box<Snapshot>),
    /// Read `/pods`, reflecting at least this position.
    Seed {
        /// The position, when there is one.
        at_least: Option<EventHash>,
    },
    /// Give the next message of the stream.
    Message,
    /// Drop the connection for this reason.
    Reconnect(String),
}

/// The verdict on a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SeedVerdict {
    /// It was accepted.
    Taken,
    /// It is older than the stream: read the list again after a delay.
    TooOld,
}

/// An input that [`Replay::poll`] did not ask for. The fold is as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{input} came when {awaited} was due")]
pub struct UnexpectedInput {
    input: &'static str,
    awaited: &'static str,
}

impl Replay {
    /// A fold at its start.
    pub fn new(options: ReplayOptions) -> Self {
        let since = if options.mode == ReplayMode::State { None } else { options.since.clone() };
        Self {
            continuity: Continuity::new(since, options.narrowed),
            options,
            cache: PodCache::new(),
            state: State::FirstSeed,
            ready: VecDeque::new(),
            pending: None,
            reconnect: None,
            acks: Acks::default(),
            source_stale: false,
            historic: false,
            last_drop: None,
        }
    }

    /// Where the next connect starts: its `since_hash`.
    pub fn resume(&self) -> Option<&EventHash> {
        self.continuity.resume()
    }

    /// The position that may be saved now: the ack of the last snapshot that the caller has processed, or a
    /// bookmark after it.
    pub fn acknowledged(&self) -> Option<&EventHash> {
        self.acks.done.as_ref()
    }

    /// Whether the relay's last heartbeat said that its source is away.
    pub fn source_is_stale(&self) -> bool {
        self.source_stale
    }

    /// Whether the present connection has said `connected`.
    pub fn is_connected(&self) -> bool {
        self.continuity.is_open()
    }

    /// The order of checks, with its counts.
    pub fn continuity(&self) -> &Continuity {
        &self.continuity
    }

    /// The cache, with its counts.
    pub fn cache(&self) -> &PodCache {
        &self.cache
    }

    /// The caller has processed its snapshot. Polling for the next one implies this.
    pub fn finish(&mut self) {
        self.acks.finish();
    }

    /// The next step. A snapshot is returned once, any other step until its input comes.
    pub fn poll(&mut self) -> Step {
        self.finish();
        loop {
            if let Some(snapshot) = self.ready.pop_front() {
                self.acks.hand_over(snapshot.ack.as_ref());
                let after_caller = rule(Rule::AckAfterCaller);
                if !after_caller {
                    self.finish();
                }
                return Step::Snapshot(Box::new(snapshot));
            }
            if let Some(cause) = self.reconnect.take() {
                return Step::Reconnect(cause);
            }
            match self.pending.take() {
                Some(Pending { message, ended }) if self.reads_messages() => {
                    self.fold(*message);
                    if let Some(cause) = ended {
                        self.handle_dropped(&cause);
                    }
                }
                pending => {
                    self.pending = pending;
                    break;
                }
            }
        }
        let last = || self.continuity.last_hash().filter(|_| rule(Rule::AtLeast)).cloned();
        match &self.state {
            State::FirstSeed => Step::Seed { at_least: None },
            State::Messages(_) => Step::Message,
            State::GapSeed { .. } => {
                let of_pending = || match self.pending.as_ref().map(|pending| &*pending.message) {
                    Some(Message::Pod(event)) => Some(event.hash.clone()),
                    _ => None,
                };
                // After a message without an id not even its position is known: at least it is not before the last
                // one.
                let resume = || self.resume().filter(|_| rule(Rule::AtLeast)).cloned();
                Step::Seed { at_least: last().or_else(of_pending).or_else(resume) }
            }
            State::CaughtUpSeed { .. } | State::DropSeed { .. } => Step::Seed { at_least: last() },
        }
    }

    /// Takes the list that [`Step::Seed`] asked for.
    ///
    /// # Errors
    /// When no list was asked for.
    pub fn handle_seed(&mut self, list: PodList) -> Result<SeedVerdict, UnexpectedInput> {
        if self.has_output() || self.reads_messages() {
            return Err(UnexpectedInput { input: "a seed", awaited: "a message, or a call of poll" });
        }
        let stream_epoch = self.continuity.epoch();
        let other_epoch = stream_epoch.zip(list.epoch.as_ref()).is_some_and(|(stream, seed)| stream != seed);
        let same_epoch = stream_epoch.is_some() && stream_epoch == list.epoch.as_ref();
        let behind =
            list.sequence.zip(self.continuity.last_sequence()).is_some_and(|(seed, stream)| seed < stream);
        if behind && same_epoch && rule(Rule::OlderList) {
            return Ok(SeedVerdict::TooOld);
        }
        let changed = self.cache.seed(&list);
        self.historic = false;
        match std::mem::replace(&mut self.state, State::Messages(Flow::Backfill)) {
            State::FirstSeed => {
                let goes_on = if self.options.mode == ReplayMode::State {
                    self.restart_from(&list);
                    self.state = State::Messages(Flow::Live);
                    Phase::Live
                } else {
                    Phase::Backfill
                };
                self.push(Snapshot { changed, ..self.snapshot(Phase::CurrentSeed, goes_on) });
            }
            State::CaughtUpSeed { dropped } => {
                self.state = State::Messages(Flow::Live);
                self.push(Snapshot { changed, ..self.snapshot(Phase::CurrentSeed, Phase::Live) });
                self.after_seed(&list, other_epoch, dropped);
            }
            State::GapSeed { gap, back_to, dropped } => {
                self.continuity.handle_gap_list(list.sequence, list.epoch.as_ref());
                self.state = State::Messages(back_to);
                let cause = self.last_drop.take();
                self.push(Snapshot {
                    changed,
                    gap: Some(gap),
                    cause,
                    ..self.snapshot(Phase::GapReseed, back_to.phase())
                });
                // In Backfill, the list after the catch-up corrects the pods.
                self.after_seed(&list, other_epoch && back_to == Flow::Live, dropped);
            }
            State::DropSeed { cause } => {
                self.push(Snapshot {
                    changed,
                    cause: Some(cause),
                    ..self.snapshot(Phase::ReconnectReseed, Phase::Backfill)
                });
            }
            State::Messages(_) => {}
        }
        Ok(SeedVerdict::Taken)
    }

    /// Takes the next message that [`Step::Message`] asked for.
    ///
    /// # Errors
    /// When no message was asked for.
    pub fn handle_message(&mut self, message: Message) -> Result<(), UnexpectedInput> {
        if self.has_output() || !self.reads_messages() {
            return Err(UnexpectedInput { input: "a message", awaited: "a seed, or a call of poll" });
        }
        self.fold(message);
        Ok(())
    }

    /// The connection ended, or an attempt failed. Call it after all decoded messages were handed in. Without an
    /// open connection this changes nothing.
    pub fn handle_dropped(&mut self, cause: &str) {
        if let Some(pending) = self.pending.as_mut().filter(|_| rule(Rule::EndWaitsForPending)) {
            pending.ended.get_or_insert_with(|| cause.into());
        } else if self.continuity.handle_dropped() {
            self.drop_connection(cause);
        }
    }

    /// Handles a drop, or keeps it until the seed is read.
    fn drop_connection(&mut self, cause: &str) {
        match &mut self.state {
            State::Messages(_) if self.options.mode == ReplayMode::State => {
                self.last_drop = Some(cause.into());
            }
            State::Messages(_) => self.state = State::DropSeed { cause: cause.into() },
            State::CaughtUpSeed { dropped } | State::GapSeed { dropped, .. }
                if rule(Rule::EndWaitsForList) =>
            {
                *dropped = Some(cause.into());
            }
            State::FirstSeed
            | State::CaughtUpSeed { .. }
            | State::GapSeed { .. }
            | State::DropSeed { .. } => {}
        }
    }

    /// After a seed that was read with an open stream: handles a drop during the read, or a seed of another log.
    fn after_seed(&mut self, list: &PodList, other_epoch: bool, dropped: Option<String>) {
        if let Some(cause) = dropped {
            return self.drop_connection(&cause);
        }
        if other_epoch && rule(Rule::OtherEpochList) {
            let cause = "the list is of another epoch than the stream".to_owned();
            // The pending message is sent again after the resume.
            if rule(Rule::PendingIsDiscarded) {
                self.pending = None;
            }
            self.continuity.handle_dropped();
            if self.options.mode == ReplayMode::State && rule(Rule::PlainGoesOnFromList) {
                self.restart_from(list);
            }
            self.drop_connection(&cause);
            self.reconnect = Some(cause);
        }
    }

    fn restart_from(&mut self, list: &PodList) {
        self.continuity.restart_from(list.hash.clone(), list.sequence, list.epoch.clone());
    }

    fn fold(&mut self, message: Message) {
        if let Message::Heartbeat(Heartbeat { source: Some(source), .. }) = &message {
            self.source_stale = *source == SourceState::Stale;
        }
        match self.continuity.check(&message) {
            Verdict::Accept => self.accept(message),
            Verdict::AcceptAsCatchup(_) => self.catch_up(self.continuity.last_hash().cloned()),
            Verdict::Ignore(_) => {}
            Verdict::Gap(gap) => self.await_gap_seed(gap, None),
            Verdict::GapBefore(gap) => {
                self.await_gap_seed(gap, Some(Pending { message: Box::new(message), ended: None }));
            }
            Verdict::Hole(cause) => {
                let cause = format!("hole: {cause}");
                if self.continuity.handle_dropped() {
                    self.drop_connection(&cause);
                }
                self.reconnect = Some(cause);
            }
        }
    }

    fn accept(&mut self, message: Message) {
        match message {
            Message::Pod(event) => self.apply(event),
            Message::CatchupComplete(catchup) => {
                let last = self.continuity.last_hash().cloned();
                self.catch_up(if rule(Rule::CatchupAcksLast) { last } else { catchup.hash });
            }
            Message::Heartbeat(beat) => self.bookmark(&beat),
            _ => {}
        }
    }

    fn apply(&mut self, event: PodEvent) {
        self.last_drop = None;
        let live = matches!(self.state, State::Messages(Flow::Live));
        let epoch: Option<Epoch> = self.continuity.epoch().cloned();
        let changed = if live && rule(Rule::InsideList) {
            self.cache.apply(&event, epoch.as_ref()).changes
        } else if live || self.options.apply_backfill {
            self.historic = !live && rule(Rule::HistoryIsMarked);
            self.cache.apply_as_it_stands(&event).changes
        } else {
            Vec::new()
        };
        if self.options.mode == ReplayMode::State && changed.is_empty() {
            return;
        }
        let phase = if live { Phase::Live } else { Phase::Backfill };
        let ack = Some(event.hash.clone());
        self.push(Snapshot { changed, event: Some(event), ack, ..self.snapshot(phase, phase) });
    }

    /// `ack` is not the message's own position, because that may be below the last event.
    fn catch_up(&mut self, ack: Option<EventHash>) {
        if self.options.mode == ReplayMode::State {
            return;
        }
        self.push(Snapshot { ack, ..self.snapshot(Phase::CatchupComplete, Phase::Live) });
        self.state = State::CaughtUpSeed { dropped: None };
    }

    /// Everything before the heartbeat is processed, because the caller polled for the next step.
    fn bookmark(&mut self, beat: &Heartbeat) {
        let elsewhere = beat.hash.as_ref() != self.continuity.last_hash() && rule(Rule::BookmarkAcksLast);
        let Some(hash) = beat.hash.as_ref().filter(|_| !elsewhere) else { return };
        let moved = self.acks.done.as_ref() != Some(hash);
        if self.options.yield_bookmarks && moved && matches!(self.state, State::Messages(Flow::Live)) {
            self.push(Snapshot { ack: Some(hash.clone()), ..self.snapshot(Phase::Live, Phase::Live) });
        } else {
            self.acks.done = Some(hash.clone());
        }
    }

    fn await_gap_seed(&mut self, gap: Gap, pending: Option<Pending>) {
        let back_to = match self.state {
            State::Messages(flow) => flow,
            _ => Flow::Backfill,
        };
        self.state = State::GapSeed { gap, back_to, dropped: None };
        self.pending = pending;
    }

    /// A snapshot of the current pods, without an event.
    fn snapshot(&self, phase: Phase, goes_on: Phase) -> Snapshot {
        Snapshot {
            phase,
            goes_on,
            pods: self.cache.pods(),
            changed: Vec::new(),
            event: None,
            earlier: Vec::new(),
            gap: None,
            cause: None,
            ack: None,
            historic: self.historic,
        }
    }

    fn reads_messages(&self) -> bool {
        matches!(self.state, State::Messages(_))
    }

    /// Whether [`Replay::poll`] has an output before it needs an input.
    fn has_output(&self) -> bool {
        let foldable = self.pending.is_some() && self.reads_messages();
        !self.ready.is_empty() || self.reconnect.is_some() || foldable
    }

    fn push(&mut self, snapshot: Snapshot) {
        let ack = if self.options.mode == ReplayMode::State { None } else { snapshot.ack.clone() };
        self.ready.push_back(Snapshot { ack, ..snapshot });
    }
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
