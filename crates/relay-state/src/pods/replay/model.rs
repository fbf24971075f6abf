//! Tests the fold with a model of a relay and with faults.
//!
//! [`World`] consists of a relay, the real [`Replay`] with a driver, a caller that persists what it acknowledges, and
//! an observer that sees both sides. A *life* is a sequence of steps of such a world. `random` runs long random lives,
//! `exhaustive` runs all short ones, and `table` shows for each rule what goes wrong without it.
//!
//! Checked at every step ([`Property`]): each event is handed over in order, once, and after everything before it was
//! handed over or announced as lost. An acknowledgement covers only such events. The pods are those of the position in
//! the snapshot. Phases follow each other in a permitted order. Positions move back only with a gap. Gaps have a
//! reason. At rest: everything was handed over or announced, and pods, phase and acknowledgement are those of the
//! relay's head.

mod checks;
mod exhaustive;
mod random;
mod relay;
mod table;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};

use super::*;
use crate::pods::rules::{Rule, rule};
use relay::{At, FOREIGN, Op, Relay, Said, Shown, Start};
use relay_proto::pods::GapReason;

/// The faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Fault {
    /// The next message is lost in transit.
    MessageLost,
    MessageRepeated,
    /// The next message cannot be read. If it is an event, it can never be read.
    MessageSpoilt,
    /// An event that can never be read, and has no id.
    MessageSpoiltWithoutId,
    /// The relay never sends the next event.
    EventWithheld,
    /// The relay replaces the event at its head by another, with the same epoch and sequence.
    Rewritten,
    /// The replay starts before the cursor.
    StartsEarly,
    /// The replica that answers lags behind the cursor.
    ReplicaLags,
    /// The relay starts elsewhere than at the cursor and sends no `gap`.
    GapUnsaid,
    Cut,
    /// The relay sends `closing`, and the connection ends.
    Closing,
    /// The client's process is killed and starts again with what it has persisted.
    Restart,
    /// The relay drops everything retained.
    Trim,
    /// The relay restarts with a new log; messages in transit are lost.
    NewEpoch,
    /// The relay restarts with a new log, but messages in transit arrive.
    NewEpochLater,
    /// The client gets a list from before the last event.
    LaggingSeed,
    /// The client gets a list of a log that no stream belongs to.
    ForeignSeed,
}

impl Fault {
    const ALL: [Self; 17] = [
        Self::MessageLost,
        Self::MessageRepeated,
        Self::MessageSpoilt,
        Self::MessageSpoiltWithoutId,
        Self::EventWithheld,
        Self::Rewritten,
        Self::StartsEarly,
        Self::ReplicaLags,
        Self::GapUnsaid,
        Self::Cut,
        Self::Closing,
        Self::Restart,
        Self::Trim,
        Self::NewEpoch,
        Self::NewEpochLater,
        Self::LaggingSeed,
        Self::ForeignSeed,
    ];

    /// Faults that a gap may have as its reason.
    const REASONS: [Self; 6] = [
        Self::GapUnsaid,
        Self::MessageLost,
        Self::MessageSpoilt,
        Self::MessageSpoiltWithoutId,
        Self::Rewritten,
        Self::Trim,
    ];
}

/// One step of a life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Move {
    /// The driver makes the step that the fold asks for.
    Go,
    Append(Op),
    /// The relay sends a heartbeat although more messages are waiting.
    Beat,
    /// The driver notices the end of the connection while it waits for a list.
    EndSeen,
    Fault(Fault),
}

/// The properties that must hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Property {
    Phases,
    NothingLost,
    NothingTwice,
    AckIsProcessed,
    PodsAreTheRelays,
    PositionsMoveOn,
    GapsHaveAReason,
    ListsAreFresh,
    ComesToRest,
    AsksInTurn,
}

#[derive(Debug, Clone)]
struct Broken {
    property: Property,
    detail: String,
}

type Verdict<T = ()> = Result<T, Broken>;

fn broken<T>(property: Property, detail: impl Into<String>) -> Verdict<T> {
    Err(Broken { property, detail: detail.into() })
}

/// Which phases may come next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Stage {
    FirstSeed,
    Backfill,
    CaughtUpSeed,
    Live,
}

/// The input that the fold waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Due {
    Output,
    Seed,
    Message,
}

/// How often each thing happened.
type Counts = BTreeMap<String, u64>;

thread_local! {
    static COUNTS: RefCell<Counts> = RefCell::default();
}

#[derive(Clone)]
struct World {
    options: ReplayOptions,
    relay: Relay,
    client: Replay,
    persisted: Option<EventHash>,
    /// Events handed over that the caller has finished.
    processed: BTreeSet<At>,
    in_hand: Option<At>,
    /// Events handed over since the client's last start. They must not come again, unless a gap goes back before them.
    handed: BTreeSet<At>,
    /// Everything up to here was announced as lost, or is before the first cursor.
    covered: At,
    /// The same, as far as the client knows it since its last start.
    known: At,
    /// A gap without a position: it ends at the next position.
    unplaced_gap: bool,
    /// A message with neither content nor id was delivered.
    nameless: bool,
    /// The start of a connection at the requested position: from it the client knows the sequence of its cursor.
    told: Option<At>,
    /// A gap was seen since the last acknowledgement.
    gapped: bool,
    /// The position of the last list.
    seed: Option<At>,
    stage: Stage,
    /// A connection was open since the last drop was reported.
    opened: bool,
    /// Events were applied as history since the last list.
    historic: bool,
    shown: Shown,
    /// How often messages after a position were affected by a fault.
    tampered: BTreeMap<Option<At>, u8>,
    happened: BTreeSet<Fault>,
    trace: Option<Vec<String>>,
}

impl World {
    fn new(options: ReplayOptions, filtered: bool, lean: bool) -> Self {
        let options = options.narrowed(filtered);
        Self {
            client: Replay::new(options.clone()),
            persisted: options.since.clone(),
            relay: Relay::new(filtered, lean),
            processed: BTreeSet::new(),
            in_hand: None,
            handed: BTreeSet::new(),
            covered: options.since.as_ref().map_or(At::new(0, 0), At::parse),
            known: At::new(0, 0),
            unplaced_gap: false,
            nameless: false,
            told: None,
            gapped: false,
            seed: None,
            stage: Stage::FirstSeed,
            opened: false,
            historic: false,
            shown: Shown::new(),
            options,
            tampered: BTreeMap::new(),
            happened: BTreeSet::new(),
            trace: None,
        }
    }

    fn is_plain(&self) -> bool {
        self.options.mode == ReplayMode::State
    }

    fn due(&self) -> Due {
        let messages = self.client.reads_messages();
        if self.client.has_output() {
            Due::Output
        } else if messages {
            Due::Message
        } else {
            Due::Seed
        }
    }

    fn note(&mut self, line: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            trace.push(line());
        }
    }

    /// Counts for all runs on this thread; the repetition of a run is not counted.
    fn count(&self, what: &str) {
        if self.trace.is_none() {
            COUNTS.with_borrow_mut(|counts| match counts.get_mut(what) {
                Some(count) => *count += 1,
                None => drop(counts.insert(what.to_owned(), 1)),
            });
        }
    }

    /// Makes one step. False when nothing is left to do.
    fn step(&mut self, step: Move) -> Verdict<bool> {
        self.note(|| format!("{step:?}"));
        match step {
            Move::Go => return self.go(None),
            Move::Append(op) => self.relay.append(op),
            Move::Beat => {
                if let Some(said) = self.relay.heartbeat() {
                    self.poll()?;
                    self.deliver(said)?;
                }
            }
            Move::EndSeen => {
                self.relay.stream = None;
                self.client.handle_dropped("seen");
            }
            Move::Fault(fault) => {
                return self.fault(fault);
            }
        }
        Ok(true)
    }

    /// The faults that are possible in this state.
    fn possible_faults(&self) -> Vec<Fault> {
        use Fault::*;
        let due = self.due();
        let open = self.relay.stream.as_ref().filter(|s| !s.cut);
        let mut faults = vec![Restart, NewEpoch];
        if open.is_some() {
            faults.extend([Cut, NewEpochLater]);
        }
        if self.relay.oldest() < self.relay.head() {
            faults.push(Trim);
        }
        if due == Due::Seed {
            faults.push(ForeignSeed);
            faults.extend(self.lagging_list().map(|_| LaggingSeed));
        }
        if due != Due::Message {
            return faults;
        }
        if self.relay.stream.is_none() {
            let starts = self.relay.wrong_starts(self.client.resume()).iter();
            faults.extend(starts.map(|start| match start {
                Start::Behind => ReplicaLags,
                Start::Unsaid => GapUnsaid,
                Start::Early | Start::Right => StartsEarly,
            }));
        }
        if open.is_some_and(|s| s.said_connected) {
            faults.push(Closing);
        }
        let last = self.place();
        if self.relay.is_at_head() && last == Some(self.relay.head()) {
            faults.push(Rewritten);
        }
        match open.and_then(|_| self.relay.clone().say()) {
            Some(Said::Pod { .. }) => faults.extend([
                MessageLost,
                MessageRepeated,
                MessageSpoilt,
                MessageSpoiltWithoutId,
                EventWithheld,
            ]),
            Some(Said::Spoilt { .. }) => faults.extend([MessageLost, MessageRepeated]),
            Some(_) => faults.extend([MessageLost, MessageRepeated, MessageSpoilt]),
            None => {}
        }
        faults
    }

    /// The position of a list that lags, if a relay may answer with it. A relay that does not know `at_least` may. But
    /// a client that knows only the hash of a position, as after a message that cannot be read, has to rely on
    /// `at_least`.
    fn lagging_list(&self) -> Option<At> {
        let head = self.relay.head();
        let at = At::new(head.epoch, head.sequence.checked_sub(1)?);
        let Step::Seed { at_least } = self.client.clone().poll() else { return None };
        let asked = at_least.as_ref().map(At::parse);
        let sequence_is_known = self.client.continuity().last_sequence().is_some() || asked == self.told;
        let told = asked.filter(|at| self.relay.is_spoilt(*at) || !sequence_is_known);
        told.is_none_or(|told| told.epoch != at.epoch || told.sequence <= at.sequence).then_some(at)
    }

    fn fault(&mut self, fault: Fault) -> Verdict<bool> {
        self.count(&format!("{fault:?}"));
        if Fault::REASONS.contains(&fault) {
            self.happened.insert(fault);
        }
        match fault {
            Fault::Cut => self.cut(),
            Fault::Closing => {
                self.poll()?;
                self.deliver(Said::Closing)?;
                self.cut();
            }
            Fault::Restart => {
                self.relay.stream = None;
                self.client = Replay::new(self.options.clone().since(self.persisted.clone()));
                self.in_hand = None;
                self.handed.clear();
                self.known = self.persisted.as_ref().map_or(At::new(0, 0), At::parse);
                (self.stage, self.opened, self.historic) = (Stage::FirstSeed, false, false);
                self.shown.clear();
                if self.is_plain() {
                    self.persisted = None;
                }
            }
            Fault::Trim => drop(self.relay.trim()),
            Fault::NewEpoch => self.relay.new_epoch(false),
            Fault::NewEpochLater => self.relay.new_epoch(true),
            Fault::Rewritten => {
                self.tampered_at([self.place()]);
                self.relay.rewrite_head();
            }
            other => return self.go(Some(other)),
        }
        Ok(true)
    }

    fn cut(&mut self) {
        if let Some(stream) = &mut self.relay.stream {
            stream.cut = true;
        }
    }

    /// Polls the fold. For the fold this means that the caller has processed the last snapshot.
    fn poll(&mut self) -> Verdict<Step> {
        let step = self.client.poll();
        self.processed.extend(self.in_hand.take());
        let acknowledged = self.client.acknowledged().cloned();
        if acknowledged.is_some() && acknowledged != self.persisted {
            let at = acknowledged.as_ref().map(At::parse).expect("it is some");
            self.acknowledge(at)?;
            self.persisted = acknowledged;
        }
        Ok(step)
    }

    /// Makes one step that the fold asks for.
    fn go(&mut self, fault: Option<Fault>) -> Verdict<bool> {
        match self.poll()? {
            Step::Snapshot(snapshot) => self.see(&snapshot)?,
            Step::Reconnect(cause) => {
                self.note(|| format!("  drops the connection: {cause}"));
                if rule(Rule::DiscardAfterHole) {
                    self.relay.stream = None;
                }
            }
            Step::Seed { at_least } => self.give_list(at_least, fault)?,
            Step::Message => return self.give_message(fault),
        }
        Ok(true)
    }

    fn give_list(&mut self, at_least: Option<EventHash>, fault: Option<Fault>) -> Verdict {
        let at = match fault {
            Some(Fault::LaggingSeed) => self.lagging_list().unwrap_or(self.relay.head()),
            Some(Fault::ForeignSeed) => At::new(FOREIGN, 7),
            _ => self.relay.head(),
        };
        self.note(|| format!("  list {} (at least {at_least:?})", at.hash()));
        let first = matches!(self.client.state, State::FirstSeed);
        let last = self.place();
        match self.client.handle_seed(self.relay.list(at)) {
            Err(error) => return broken(Property::AsksInTurn, error.to_string()),
            Ok(SeedVerdict::TooOld) => self.count("list refused"),
            Ok(SeedVerdict::Taken) => {
                let older = last.filter(|last| at.epoch == last.epoch && at.sequence < last.sequence);
                if let Some(last) = older.filter(|_| !first) {
                    return broken(
                        Property::ListsAreFresh,
                        format!("list {} was taken at {}", at.hash(), last.hash()),
                    );
                }
                self.seed = Some(at);
                self.historic = false;
            }
        }
        Ok(())
    }

    fn give_message(&mut self, fault: Option<Fault>) -> Verdict<bool> {
        if self.relay.stream.is_none() {
            self.connect(match fault {
                Some(Fault::StartsEarly) => Start::Early,
                Some(Fault::ReplicaLags) => Start::Behind,
                Some(Fault::GapUnsaid) => Start::Unsaid,
                _ => Start::Right,
            })?;
            return Ok(true);
        }
        let Some(said) = self.relay.say() else {
            if self.relay.stream.as_ref().is_some_and(|s| s.cut) {
                self.note(|| "  the connection ends".into());
                self.relay.stream = None;
                self.client.handle_dropped("cut");
                return Ok(true);
            }
            let Some(beat) = self.relay.heartbeat() else { return self.rest() };
            self.count("heartbeat");
            self.deliver(beat)?;
            return Ok(true);
        };
        let before = self.place();
        match (fault, said) {
            (Some(Fault::MessageLost), _) => self.note(|| format!("  lost: {said:?}")),
            (Some(Fault::MessageRepeated), _) => {
                self.relay.repeat(said);
                self.deliver(said)?;
            }
            (Some(Fault::EventWithheld), Said::Pod { at, .. }) => self.relay.withhold(at),
            (Some(Fault::MessageSpoilt | Fault::MessageSpoiltWithoutId), Said::Pod { at, .. }) => {
                let has_id = fault == Some(Fault::MessageSpoilt);
                self.relay.spoil(at, has_id);
                self.deliver(Said::Spoilt { name: "pod", id: has_id.then_some(at) })?;
            }
            (Some(Fault::MessageSpoilt), _) => self.deliver(Said::Spoilt { name: said.name(), id: None })?,
            _ => self.deliver(said)?,
        }
        if fault.is_some() {
            // The loss shows at the first position, or at the second, when a later message has moved the position.
            self.tampered_at([before, self.place()]);
        }
        Ok(true)
    }

    /// The last position, if its hash is known.
    fn place(&self) -> Option<At> {
        self.client.continuity().last_hash().map(At::parse)
    }

    fn tampered_at<const N: usize>(&mut self, places: [Option<At>; N]) {
        for place in BTreeSet::from(places) {
            *self.tampered.entry(place).or_default() += 1;
        }
    }

    fn connect(&mut self, start: Start) -> Verdict {
        let resume = self.client.resume().cloned();
        self.note(|| format!("  connects from {resume:?}"));
        match &resume {
            // A consumer without a cursor begins with the oldest retained event.
            None => self.cover(self.relay.oldest()),
            Some(resume) if At::parse(resume).epoch != FOREIGN => {
                self.complete_up_to(At::parse(resume), None, "resumed from")?
            }
            Some(_) => {}
        }
        if start != Start::Right {
            self.tampered_at([self.place()]);
        }
        self.relay.connect(resume.as_ref(), start);
        Ok(())
    }

    fn deliver(&mut self, said: Said) -> Verdict {
        self.note(|| format!("  delivers {said:?}"));
        if let Said::Connected { after, .. } = said
            && self.client.resume().map(At::parse) == Some(after)
        {
            self.told = Some(after);
        }
        self.nameless |= matches!(said, Said::Spoilt { id: None, .. });
        let place = |client: &Replay| {
            let c = client.continuity();
            (c.epoch().cloned(), c.last_sequence(), c.counts().gaps)
        };
        let before = place(&self.client);
        if let Err(error) = self.client.handle_message(said.message()) {
            return broken(Property::AsksInTurn, error.to_string());
        }
        let after = place(&self.client);
        let back = before.1.zip(after.1).is_some_and(|(before, after)| after < before);
        if back && before.0 == after.0 && before.2 == after.2 {
            return broken(Property::PositionsMoveOn, format!("from {:?} to {:?}", before.1, after.1));
        }
        self.opened |= self.client.is_connected();
        Ok(())
    }

    /// A hash of the state: states that may continue differently have different hashes.
    fn fingerprint(&self) -> u64 {
        let mut h = Mixer::default();
        self.relay.since(self.covered.epoch).hash(&mut h);
        let relevant = self.processed.range(self.covered..);
        relevant.for_each(|at| at.hash(&mut h));
        (&self.persisted, self.in_hand, &self.handed, self.covered, self.known).hash(&mut h);
        (
            self.unplaced_gap,
            self.nameless,
            self.told,
            self.gapped,
            self.seed,
            self.stage,
            self.opened,
            self.historic,
        )
            .hash(&mut h);
        (&self.shown, &self.tampered, &self.happened).hash(&mut h);
        let c = &self.client;
        c.continuity.state().hash(&mut h);
        match &c.state {
            State::FirstSeed => 0.hash(&mut h),
            State::Messages(Flow::Backfill) => 1.hash(&mut h),
            State::CaughtUpSeed { dropped } => (2, dropped.is_some()).hash(&mut h),
            State::Messages(Flow::Live) => 3.hash(&mut h),
            State::GapSeed { gap, back_to, dropped } => {
                (4, gap.reason.as_str(), &gap.hash, gap.sequence, &gap.epoch).hash(&mut h);
                (*back_to == Flow::Live, dropped.is_some()).hash(&mut h);
            }
            State::DropSeed { .. } => 5.hash(&mut h),
        }
        for s in &c.ready {
            (s.phase, s.goes_on, s.event.as_ref().map(|e| &e.hash), &s.ack, s.historic).hash(&mut h);
        }
        if let Some(Pending { message, ended }) = &c.pending {
            (format!("{message:?}"), ended.is_some()).hash(&mut h);
        }
        (c.reconnect.is_some(), &c.acks.in_hand, &c.acks.done).hash(&mut h);
        (c.historic, c.last_drop.is_some()).hash(&mut h);
        for pod in c.cache.pods().sorted() {
            (pod.name(), pod.uid(), pod.resource_version()).hash(&mut h);
        }
        h.finish()
    }
}

/// The standard hasher would take half of the time in a build without optimisation.
#[derive(Default)]
struct Mixer(u64);

impl Hasher for Mixer {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u8(&mut self, n: u8) {
        self.write_u64(n as u64);
    }

    fn write_u16(&mut self, n: u16) {
        self.write_u64(n as u64);
    }

    fn write_usize(&mut self, n: usize) {
        self.write_u64(n as u64);
    }

    fn write_u64(&mut self, n: u64) {
        let product = (self.0 ^ n ^ 0x9e37_79b9_7f4a_7c15) as u128 * 0xd133_3d55_a6b9_38a5;
        self.0 = (product >> 64) as u64 ^ product as u64;
    }
}
