//! The fold against a small model of a relay, with faults: what was handed over, announced and acknowledged is compared
//! with the model's log.
//!
//! Checked at every output: an event is handed over after everything before it was handed over or announced lost by a
//! gap; an acknowledgement covers nothing that was not. After the faults end: everything was handed over or announced,
//! and the pods are the relay's.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::*;
use relay_proto::pods::{ListDecoder, ListFormat, ListLimits, Undecodable};

/// Decides what happens next: by a seed, or by a list of decisions to try all of them.
pub(super) trait Choices {
    /// A number below `n`.
    fn choose(&mut self, n: usize) -> usize;
}

/// splitmix64.
pub(super) struct Seeded(pub(super) u64);

impl Choices for Seeded {
    fn choose(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % n as u64) as usize
    }
}

/// What can go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fault {
    MessageLost,
    MessageRepeated,
    MessageUndecodable,
    Cut,
    ClientRestart,
    Trim,
    NewEpoch,
    LaggingSeed,
    ForeignSeed,
}

impl Fault {
    pub(super) const ALL: [Self; 9] = [
        Self::MessageLost,
        Self::MessageRepeated,
        Self::MessageUndecodable,
        Self::Cut,
        Self::ClientRestart,
        Self::Trim,
        Self::NewEpoch,
        Self::LaggingSeed,
        Self::ForeignSeed,
    ];
}

#[derive(Debug, Clone)]
struct Logged {
    kind: &'static str,
    pod: usize,
    version: u64,
}

/// A relay: one log after another, and at most one stream.
#[derive(Debug, Clone)]
struct Relay {
    epoch: u64,
    log: Vec<Logged>,
    /// Sequence of the last event that is gone.
    trimmed: u64,
    pods: BTreeMap<usize, u64>,
    version: u64,
    stream: Option<Stream>,
}

#[derive(Debug, Clone)]
struct Stream {
    at: u64,
    said_connected: bool,
    gap: Option<&'static str>,
    caught_up: bool,
    sent: u64,
}

/// Pods 0 and 1 pass the filter of a filtered stream, 2 does not.
const PODS: usize = 3;

impl Relay {
    fn new() -> Self {
        let mut relay =
            Self { epoch: 0, log: Vec::new(), trimmed: 0, pods: BTreeMap::new(), version: 0, stream: None };
        relay.append(0);
        relay
    }

    fn head(&self) -> u64 {
        self.log.len() as u64
    }

    fn append(&mut self, choice: usize) {
        self.version += 1;
        let (pod, delete) = (choice % PODS, choice / PODS == 1);
        let kind = match (self.pods.contains_key(&pod), delete) {
            (true, true) => "DELETED",
            (true, false) => "MODIFIED",
            (false, _) => "ADDED",
        };
        if kind == "DELETED" {
            self.pods.remove(&pod);
        } else {
            self.pods.insert(pod, self.version);
        }
        self.log.push(Logged { kind, pod, version: self.version });
    }

    fn new_epoch(&mut self) {
        self.epoch += 1;
        self.stream = None;
        self.trimmed = 0;
        self.log = self
            .pods
            .iter()
            .map(|(pod, version)| Logged { kind: "ADDED", pod: *pod, version: *version })
            .collect();
    }

    fn hash(&self, sequence: u64) -> String {
        format!("{}.{sequence}", self.epoch)
    }

    fn position(&self, sequence: u64) -> Value {
        json!({"hash": self.hash(sequence), "sequence": sequence})
    }

    fn connect(&mut self, since: Option<&EventHash>) {
        let sequence = since.map(|hash| hash.as_str().split_once('.').expect("a hash of the model"));
        let (at, gap) = match sequence {
            None => (self.trimmed, None),
            Some((epoch, _)) if epoch != self.epoch.to_string() => (self.trimmed, Some("cursor-unknown")),
            Some((_, sequence)) => match sequence.parse::<u64>().expect("a sequence") {
                sequence if sequence < self.trimmed => (self.trimmed, Some("cursor-expired")),
                sequence => (sequence, None),
            },
        };
        self.stream = Some(Stream { at, said_connected: false, gap, caught_up: false, sent: 0 });
    }

    /// The next message of the stream, if there is one now, and the sequence of the event in it.
    fn say(&mut self, filtered: bool) -> Option<(Message, Option<u64>)> {
        let mut stream = self.stream.take()?;
        let said = self.say_on(&mut stream, filtered);
        self.stream = Some(stream);
        said
    }

    fn say_on(&self, stream: &mut Stream, filtered: bool) -> Option<(Message, Option<u64>)> {
        let message = |event: &str, id: &str, data: Value| Message::decode(event, id, &data.to_string());
        let epoch = self.epoch.to_string();
        if !stream.said_connected {
            stream.said_connected = true;
            let data =
                json!({"epoch": epoch, "resumes_after": self.position(stream.at), "filtered": filtered});
            return Some((message("connected", "", data), None));
        }
        if stream.at < self.trimmed {
            (stream.at, stream.gap) = (self.trimmed, Some("slow-consumer"));
        }
        if let Some(reason) = stream.gap.take() {
            stream.sent += 1;
            let sent = filtered.then_some(stream.sent);
            let mut data = self.position(stream.at);
            data["reason"] = json!(reason);
            data["epoch"] = json!(epoch);
            data["sent"] = json!(sent);
            return Some((message("gap", "", data), None));
        }
        while stream.at < self.head() {
            let event = &self.log[stream.at as usize];
            stream.at += 1;
            if filtered && event.pod == 2 {
                continue;
            }
            stream.sent += 1;
            let hash = self.hash(stream.at);
            let mut data = json!({"type": event.kind, "hash": hash, "sequence": stream.at, "pod": pod(event.pod, event.version)});
            if filtered {
                data["sent"] = json!(stream.sent);
            } else {
                data["previous_hash"] = json!(self.hash(stream.at - 1));
            }
            return Some((message("pod", &hash, data), Some(stream.at)));
        }
        let mut data = self.position(stream.at);
        if filtered {
            data["sent"] = json!(stream.sent);
        }
        if !stream.caught_up {
            stream.caught_up = true;
            return Some((message("catchup_complete", "", data), None));
        }
        None
    }

    fn heartbeat(&self, filtered: bool) -> Option<Message> {
        let stream =
            self.stream.as_ref().filter(|s| s.said_connected && s.gap.is_none() && s.at >= self.trimmed)?;
        let mut data = self.position(stream.at);
        data["catching_up"] = json!(!stream.caught_up);
        if filtered {
            data["sent"] = json!(stream.sent);
        }
        Some(Message::decode("heartbeat", "", &data.to_string()))
    }

    fn list(&self, filtered: bool) -> PodList {
        let pods: Vec<Value> = self
            .pods
            .iter()
            .filter(|(n, _)| !filtered || **n != 2)
            .map(|(n, version)| pod(*n, *version))
            .collect();
        let mut data = self.position(self.head());
        data["epoch"] = json!(self.epoch.to_string());
        data["pods"] = json!(pods);
        let mut decoder = ListDecoder::new(ListFormat::Json, ListLimits::default());
        decoder.feed(data.to_string().as_bytes()).expect("a list");
        decoder.finish().expect("a list")
    }
}

fn pod(n: usize, version: u64) -> Value {
    json!({"namespace": "ns", "name": format!("p{n}"), "uid": format!("u{n}"), "resource_version": version.to_string()})
}

/// A relay, a client, and what is known of both.
pub(super) struct World<C> {
    choices: C,
    options: ReplayOptions,
    filtered: bool,
    relay: Relay,
    /// Earlier states of the relay, for lists of a replica that lags or was replaced.
    past: Vec<Relay>,
    client: Replay,
    persisted: Option<EventHash>,
    /// Handed over: epoch and sequence.
    handed: BTreeSet<(u64, u64)>,
    /// Announced lost, or before the first cursor: everything up to this sequence of an epoch.
    covered: BTreeMap<u64, u64>,
    /// Which events of an epoch a consumer was to see.
    matching: BTreeMap<u64, BTreeSet<u64>>,
    pub(super) faults: BTreeMap<Fault, u64>,
    pub(super) trace: Vec<String>,
}

type Verdict = Result<(), String>;

impl<C: Choices> World<C> {
    pub(super) fn new(choices: C, mode: ReplayMode, filtered: bool) -> Self {
        let options = ReplayOptions::default().mode(mode).narrowed(filtered);
        let mut world = Self {
            choices,
            client: Replay::new(options.clone()),
            options,
            filtered,
            relay: Relay::new(),
            past: Vec::new(),
            persisted: None,
            handed: BTreeSet::new(),
            covered: BTreeMap::new(),
            matching: BTreeMap::new(),
            faults: BTreeMap::new(),
            trace: Vec::new(),
        };
        world.note_log();
        world
    }

    /// Steps of appends, deliveries and faults, and then quiet until nothing happens any more.
    pub(super) fn run(&mut self, steps: usize) -> Verdict {
        for _ in 0..steps {
            self.step()?;
        }
        self.trace.push("quiet".into());
        for _ in 0..400 {
            if !self.drive(None)? {
                let Some(beat) = self.relay.heartbeat(self.filtered) else { continue };
                self.deliver(beat)?;
                if !self.drive(None)? {
                    return self.settled();
                }
            }
        }
        Err("it does not come to rest".into())
    }

    fn step(&mut self) -> Verdict {
        match self.choices.choose(10) {
            0..=2 => {
                self.past.push(self.relay.clone());
                let choice = self.choices.choose(2 * PODS);
                self.relay.append(choice);
                self.note_log();
                self.trace.push(format!("append {}", self.relay.head()));
                Ok(())
            }
            3..=7 => self.drive(None).map(drop),
            8 => {
                let question = self.question()?;
                match self.relay.heartbeat(self.filtered) {
                    Some(beat) if question == Step::Message => self.deliver(beat),
                    _ => Ok(()),
                }
            }
            _ => {
                let fault = Fault::ALL[self.choices.choose(Fault::ALL.len())];
                self.fault(fault)
            }
        }
    }

    pub(super) fn fault(&mut self, fault: Fault) -> Verdict {
        self.trace.push(format!("{fault:?}"));
        let happened = match fault {
            Fault::Cut => {
                let open = self.relay.stream.take().is_some();
                self.client.handle_dropped("cut");
                open
            }
            Fault::ClientRestart => {
                self.relay.stream = None;
                self.client = Replay::new(self.options.clone().since(self.persisted.clone()));
                true
            }
            Fault::Trim => {
                self.relay.trimmed = self.relay.head();
                true
            }
            Fault::NewEpoch => {
                self.past.push(self.relay.clone());
                self.relay.new_epoch();
                self.note_log();
                self.client.handle_dropped("new epoch");
                true
            }
            other => self.drive(Some(other))?,
        };
        *self.faults.entry(fault).or_default() += u64::from(happened);
        Ok(())
    }

    /// Does what the client asks for, once. With a fault, if it fits; false when nothing was done.
    fn drive(&mut self, fault: Option<Fault>) -> Result<bool, String> {
        match self.client.poll() {
            Step::Snapshot(snapshot) => {
                self.see(&snapshot)?;
                Ok(fault.is_none())
            }
            Step::Reconnect(cause) => {
                self.trace.push(format!("reconnect: {cause}"));
                self.relay.stream = None;
                Ok(fault.is_none())
            }
            Step::Seed { at_least } => {
                let list = match fault {
                    None => self.relay.list(self.filtered),
                    // Where only the hash of the position is known, the client has to trust `at_least`.
                    Some(Fault::LaggingSeed)
                        if at_least.is_some() && self.client.continuity().last_sequence().is_none() =>
                    {
                        return Ok(false);
                    }
                    Some(Fault::LaggingSeed) => match self.past.last() {
                        Some(past) if past.epoch == self.relay.epoch => past.list(self.filtered),
                        _ => return Ok(false),
                    },
                    Some(Fault::ForeignSeed) => {
                        match self.past.iter().rev().find(|p| p.epoch != self.relay.epoch) {
                            Some(past) => past.list(self.filtered),
                            None => return Ok(false),
                        }
                    }
                    Some(_) => return Ok(false),
                };
                self.trace.push(format!("seed {:?} at least {at_least:?}", list.hash));
                self.client.handle_seed(list).map_err(|e| e.to_string())?;
                Ok(true)
            }
            Step::Message => self.give(fault),
        }
    }

    fn give(&mut self, fault: Option<Fault>) -> Result<bool, String> {
        if matches!(fault, Some(Fault::LaggingSeed | Fault::ForeignSeed)) {
            return Ok(false);
        }
        if self.relay.stream.is_none() {
            self.client.handle_dropped("gone");
            if self.question()? != Step::Message {
                return Ok(fault.is_none());
            }
            self.trace.push(format!("connect from {:?}", self.client.resume()));
            self.relay.connect(self.client.resume());
            if self.client.resume().is_none() {
                // Whoever comes without a cursor begins with what is retained.
                self.cover(self.relay.epoch, self.relay.trimmed);
            }
        }
        let Some((message, event)) = self.relay.say(self.filtered) else { return Ok(false) };
        match (fault, event) {
            (Some(Fault::MessageLost), _) => self.trace.push(format!("lost: {}", brief(&message))),
            (Some(Fault::MessageUndecodable), Some(sequence)) => {
                let hash = self.relay.hash(sequence);
                self.deliver(Message::Undecodable(Undecodable::oversized("pod", &hash, 1, "data")))?;
            }
            (Some(Fault::MessageUndecodable), None) => {
                self.deliver(message)?;
                return Ok(false);
            }
            (Some(Fault::MessageRepeated), _) => {
                self.deliver(message.clone())?;
                if self.question()? == Step::Message && self.relay.stream.is_some() {
                    self.deliver(message)?;
                } else {
                    return Ok(false);
                }
            }
            _ => self.deliver(message)?,
        }
        Ok(true)
    }

    fn deliver(&mut self, message: Message) -> Verdict {
        self.trace.push(format!("deliver {}", brief(&message)));
        self.client.handle_message(message).map_err(|e| e.to_string())
    }

    /// Sees what the client has to tell, up to its next question.
    fn question(&mut self) -> Result<Step, String> {
        loop {
            match self.client.poll() {
                Step::Snapshot(snapshot) => self.see(&snapshot)?,
                Step::Reconnect(_) => self.relay.stream = None,
                question => return Ok(question),
            }
        }
    }

    /// The caller sees a snapshot.
    fn see(&mut self, snapshot: &Snapshot) -> Verdict {
        self.trace.push(format!(
            "see {} {:?} ack {:?}",
            snapshot.phase,
            snapshot.event.as_ref().map(|e| &e.hash),
            snapshot.ack
        ));
        if let Some(gap) = &snapshot.gap {
            // A gap without a position covers what is gone of the log that goes on.
            let (epoch, sequence) = match (&gap.hash, gap.sequence) {
                (Some(hash), _) => parse(hash),
                (None, Some(sequence)) => (self.relay.epoch, sequence),
                (None, None) => (self.relay.epoch, self.relay.trimmed),
            };
            self.cover(epoch, sequence);
        }
        if let Some(event) = &snapshot.event {
            let (epoch, sequence) = parse(&event.hash);
            self.complete_up_to(epoch, sequence - 1)
                .map_err(|e| format!("{} handed over: {e}", event.hash))?;
            self.handed.insert((epoch, sequence));
        }
        if let Some(ack) = &snapshot.ack {
            self.persist(ack)?;
        }
        if let Some(ack) = self.client.acknowledged().cloned() {
            self.persist(&ack)?;
        }
        Ok(())
    }

    fn cover(&mut self, epoch: u64, sequence: u64) {
        let covered = self.covered.entry(epoch).or_default();
        *covered = sequence.max(*covered);
    }

    fn persist(&mut self, ack: &EventHash) -> Verdict {
        let (epoch, sequence) = parse(ack);
        self.complete_up_to(epoch, sequence).map_err(|e| format!("{ack} acknowledged: {e}"))?;
        self.persisted = Some(ack.clone());
        Ok(())
    }

    /// Everything of an epoch up to a sequence was handed over or announced lost.
    fn complete_up_to(&self, epoch: u64, sequence: u64) -> Verdict {
        if self.options.mode == ReplayMode::State {
            // Its first list stands for everything before, and every list for what it holds.
            return Ok(());
        }
        let covered = self.covered.get(&epoch).copied().unwrap_or(0);
        let missing = self
            .matching
            .get(&epoch)
            .into_iter()
            .flatten()
            .find(|s| **s > covered && **s <= sequence && !self.handed.contains(&(epoch, **s)));
        missing.map_or(Ok(()), |s| Err(format!("{epoch}.{s} was neither handed over nor announced lost")))
    }

    fn note_log(&mut self) {
        let events = self.relay.log.iter().enumerate().filter(|(_, e)| !self.filtered || e.pod != 2);
        self.matching.insert(self.relay.epoch, events.map(|(at, _)| at as u64 + 1).collect());
    }

    fn settled(&mut self) -> Verdict {
        self.complete_up_to(self.relay.epoch, self.relay.head())?;
        let expected = self.relay.list(self.filtered);
        let expected: Vec<_> = expected
            .pods
            .iter()
            .map(|p| (p.name().to_owned(), p.resource_version().map(String::from)))
            .collect();
        let pods = self.client.cache().pods();
        let have: Vec<_> = pods
            .sorted()
            .into_iter()
            .map(|p| (p.name().to_owned(), p.resource_version().map(String::from)))
            .collect();
        if have == expected { Ok(()) } else { Err(format!("the pods are {have:?}, not {expected:?}")) }
    }
}

fn parse(hash: &EventHash) -> (u64, u64) {
    let (epoch, sequence) = hash.as_str().split_once('.').expect("a hash of the model");
    (epoch.parse().expect("an epoch"), sequence.parse().expect("a sequence"))
}

fn brief(message: &Message) -> String {
    match message {
        Message::Pod(event) => format!("pod {}", event.hash),
        Message::Connected(c) => format!("connected after {:?}", c.resumes_after.as_ref().map(|p| &p.hash)),
        Message::CatchupComplete(c) => format!("catchup_complete {:?}", c.hash),
        Message::Gap(gap) => format!("gap {} {:?}", gap.reason.as_str(), gap.hash),
        Message::Heartbeat(beat) => format!("heartbeat {:?}", beat.hash),
        Message::Undecodable(m) => format!("undecodable {:?}", m.hash),
        other => format!("{other:?}"),
    }
}

#[test]
fn random_faults_lose_nothing_unannounced() {
    const SEEDS: u64 = 1000;
    let mut faults: BTreeMap<Fault, u64> = BTreeMap::new();
    for seed in 0..SEEDS {
        for (mode, filtered) in [
            (ReplayMode::Phases, false),
            (ReplayMode::Phases, true),
            (ReplayMode::State, false),
            (ReplayMode::State, true),
        ] {
            let mut world = World::new(Seeded(seed), mode, filtered);
            if let Err(error) = world.run(80) {
                let trace = world.trace.join("\n  ");
                panic!("seed {seed}, {mode:?}, filtered {filtered}: {error}\n  {trace}");
            }
            for (fault, count) in world.faults {
                *faults.entry(fault).or_default() += count;
            }
        }
    }
    for fault in Fault::ALL {
        let count = faults.get(&fault).copied().unwrap_or(0);
        println!("{fault:?}: {count}");
        assert!(count > 0, "{fault:?} never happened");
    }
}
