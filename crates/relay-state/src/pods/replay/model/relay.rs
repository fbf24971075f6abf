//! A small relay: logs, one stream, lists. It follows `docs/protocol.md`, apart from the faults that a test requests.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};

use relay_proto::pods::{EventHash, ListDecoder, ListFormat, ListLimits, Message, PodList};
use serde_json::{Value, json};

/// A position: epoch, sequence, and how often the event there was rewritten. The order is that of these fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct At {
    pub(super) epoch: u16,
    pub(super) sequence: u16,
    pub(super) rewritten: u16,
}

/// The epoch of a list that belongs to no log of this relay.
pub(super) const FOREIGN: u16 = 99;

impl At {
    pub(super) fn new(epoch: u16, sequence: u16) -> Self {
        Self { epoch, sequence, rewritten: 0 }
    }

    pub(super) fn hash(self) -> String {
        format!("{}.{}{}", self.epoch, self.sequence, "x".repeat(self.rewritten.into()))
    }

    pub(super) fn parse(hash: &EventHash) -> Self {
        let (epoch, rest) = hash.as_str().split_once('.').expect("a hash of the model");
        let sequence = rest.trim_end_matches('x');
        Self {
            epoch: epoch.parse().expect("an epoch"),
            sequence: sequence.parse().expect("a sequence"),
            rewritten: (rest.len() - sequence.len()) as u16,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    Added,
    Modified,
    Deleted,
}

/// A change reported by the source of the pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Op {
    /// The pod appears or changes.
    Upsert(u8),
    Delete(u8),
    /// The pod's labels change, so that it leaves the filter or enters it.
    Relabel(u8),
}

/// Pods with a lower number pass the filter when they appear.
const VISIBLE: u8 = 2;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Pod {
    uid: u16,
    version: u16,
    visible: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Event {
    kind: Kind,
    name: u8,
    pod: Pod,
    was_visible: bool,
    rewritten: u16,
    /// Set when its frame can never be read; the value is whether the frame has an id.
    spoilt: Option<bool>,
    /// Whether it is never sent.
    withheld: bool,
}

impl Event {
    /// How a stream shows the event, if it does: the kind, and whether the pod left the filter.
    fn shown(&self, filtered: bool) -> Option<(Kind, bool)> {
        match (filtered, self.was_visible, self.pod.visible) {
            (true, false, false) => None,
            (true, false, true) if self.kind == Kind::Modified => Some((Kind::Added, false)),
            (true, false, _) if self.kind == Kind::Deleted => None,
            (true, true, false) if self.kind != Kind::Deleted => Some((Kind::Deleted, true)),
            _ => Some((self.kind, false)),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
struct Log {
    events: Vec<Event>,
    /// The sequence of the last dropped event.
    trimmed: u16,
}

impl Log {
    fn head(&self) -> u16 {
        self.events.len() as u16
    }

    fn event(&self, sequence: u16) -> Option<&Event> {
        self.events.get(usize::from(sequence).checked_sub(1)?)
    }

    fn at(&self, epoch: u16, sequence: u16) -> At {
        At { epoch, sequence, rewritten: self.event(sequence).map_or(0, |event| event.rewritten) }
    }

    /// The pods after the event with this sequence.
    fn fold(&self, sequence: u16) -> BTreeMap<u8, Pod> {
        let mut pods = BTreeMap::new();
        for event in &self.events[..sequence.into()] {
            match event.kind {
                Kind::Deleted => drop(pods.remove(&event.name)),
                _ => drop(pods.insert(event.name, event.pod)),
            }
        }
        pods
    }
}

/// The reason of a relay's `gap`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Lost {
    Unknown,
    Expired,
    Slow,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Stream {
    epoch: u16,
    at: u16,
    pub(super) said_connected: bool,
    gap: Option<Lost>,
    pub(super) caught_up: bool,
    sent: u16,
    /// Whether nothing was sent since the last heartbeat.
    beaten: bool,
    /// A message that is sent again before anything else.
    again: Option<Said>,
    /// Whether the connection has ended; the client may not know yet.
    pub(super) cut: bool,
    /// The head of the log when the stream began.
    head: u16,
    /// The last sequence that the answering replica knows, until its first heartbeat.
    knows: Option<u16>,
}

/// A message of the relay, not encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Said {
    Connected {
        after: At,
        filtered: bool,
    },
    Gap {
        lost: Lost,
        at: At,
        sent: Option<u16>,
    },
    Pod {
        kind: Kind,
        left: bool,
        name: u8,
        uid: u16,
        version: u16,
        at: At,
        previous: Option<At>,
        sent: Option<u16>,
    },
    CaughtUp {
        at: At,
        sent: Option<u16>,
    },
    Heartbeat {
        at: At,
        sent: Option<u16>,
        catching_up: bool,
    },
    Closing,
    /// An event of this name that cannot be read.
    Spoilt {
        name: &'static str,
        id: Option<At>,
    },
}

thread_local! {
    static MESSAGES: RefCell<HashMap<Said, Message>> = RefCell::default();
    static LISTS: RefCell<HashMap<(At, Shown), PodList>> = RefCell::default();
}

/// Pods as a client shows them: name, uid, version.
pub(super) type Shown = Vec<(String, String, String)>;

impl Said {
    /// The message as a client decodes it.
    pub(super) fn message(self) -> Message {
        MESSAGES.with_borrow_mut(|messages| messages.entry(self).or_insert_with(|| self.decode()).clone())
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Connected { .. } => "connected",
            Self::Gap { .. } => "gap",
            Self::Pod { .. } => "pod",
            Self::CaughtUp { .. } => "catchup_complete",
            Self::Heartbeat { .. } => "heartbeat",
            Self::Closing => "closing",
            Self::Spoilt { name, .. } => name,
        }
    }

    fn decode(self) -> Message {
        let position = |at: At| json!({"hash": at.hash(), "sequence": at.sequence});
        let mut id = String::new();
        let mut data = match self {
            Self::Connected { after, filtered } => {
                json!({"epoch": after.epoch.to_string(), "resumes_after": position(after), "filtered": filtered})
            }
            Self::Gap { at, .. }
            | Self::Pod { at, .. }
            | Self::CaughtUp { at, .. }
            | Self::Heartbeat { at, .. } => position(at),
            Self::Closing => json!({"reason": "shutdown"}),
            Self::Spoilt { name, id } => {
                return Message::decode(name, &id.map_or(String::new(), At::hash), "{");
            }
        };
        match self {
            Self::Gap { lost, at, sent } => {
                let reason = match lost {
                    Lost::Unknown => "cursor-unknown",
                    Lost::Expired => "cursor-expired",
                    Lost::Slow => "slow-consumer",
                };
                data["reason"] = json!(reason);
                data["epoch"] = json!(at.epoch.to_string());
                data["sent"] = json!(sent);
            }
            Self::Pod { kind, left, name, uid, version, at, previous, sent } => {
                id = at.hash();
                data["type"] = json!(format!("{kind:?}"));
                data["pod"] = pod(&format!("p{name}"), &uid.to_string(), &version.to_string());
                data["left_filter"] = json!(left);
                data["previous_hash"] = json!(previous.map(At::hash));
                data["sent"] = json!(sent);
            }
            Self::CaughtUp { sent, .. } => data["sent"] = json!(sent),
            Self::Heartbeat { sent, catching_up, .. } => {
                data["catching_up"] = json!(catching_up);
                data["sent"] = json!(sent);
            }
            Self::Connected { .. } | Self::Closing | Self::Spoilt { .. } => {}
        }
        Message::decode(self.name(), &id, &data.to_string())
    }
}

fn pod(name: &str, uid: &str, version: &str) -> Value {
    json!({"namespace": "ns", "name": name, "uid": uid, "resource_version": version})
}

/// A sequence of logs, and at most one stream.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Relay {
    filtered: bool,
    /// Whether `previous_hash` is left out.
    lean: bool,
    logs: Vec<Log>,
    pub(super) stream: Option<Stream>,
    version: u16,
}

/// How a stream may begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Start {
    Right,
    /// One event before the cursor.
    Early,
    /// At a replica that lags by one event.
    Behind,
    /// Elsewhere than at the cursor, without a `gap`.
    Unsaid,
}

impl Relay {
    /// A relay whose log holds one event.
    pub(super) fn new(filtered: bool, lean: bool) -> Self {
        let mut relay = Self { filtered, lean, logs: vec![Log::default()], stream: None, version: 0 };
        relay.append(Op::Upsert(0));
        relay
    }

    fn epoch(&self) -> u16 {
        self.logs.len() as u16 - 1
    }

    fn log(&self) -> &Log {
        self.logs.last().expect("there is always a log")
    }

    fn log_mut(&mut self) -> &mut Log {
        self.logs.last_mut().expect("there is always a log")
    }

    /// The position of the last event.
    pub(super) fn head(&self) -> At {
        self.log().at(self.epoch(), self.log().head())
    }

    /// The position before the oldest retained event.
    pub(super) fn oldest(&self) -> At {
        self.log().at(self.epoch(), self.log().trimmed)
    }

    /// The part of the state that still matters when older logs are over: to distinguish states.
    pub(super) fn since(&self, epoch: u16) -> impl std::hash::Hash + '_ {
        let from = usize::from(epoch).min(self.logs.len());
        let old = self.stream.as_ref().map(|s| &self.logs[usize::from(s.epoch)]);
        (self.logs.len(), &self.logs[from..], old, self.stream.as_ref(), self.version)
    }

    /// Whether the operation is possible now.
    pub(super) fn fits(&self, op: Op) -> bool {
        let pods = self.log().fold(self.log().head());
        match op {
            Op::Upsert(_) => true,
            Op::Delete(name) | Op::Relabel(name) => pods.contains_key(&name),
        }
    }

    pub(super) fn append(&mut self, op: Op) {
        self.version += 1;
        let version = self.version;
        let pods = self.log().fold(self.log().head());
        let (Op::Upsert(name) | Op::Delete(name) | Op::Relabel(name)) = op;
        let held = pods.get(&name).copied();
        let new = Pod { uid: version, version, visible: name < VISIBLE };
        let (kind, pod) = match (op, held) {
            (Op::Upsert(_), None) => (Kind::Added, new),
            (Op::Upsert(_), Some(held)) => (Kind::Modified, Pod { version, ..held }),
            (Op::Relabel(_), Some(held)) => (Kind::Modified, Pod { version, visible: !held.visible, ..held }),
            (_, held) => (Kind::Deleted, held.unwrap_or(new)),
        };
        let was_visible = held.is_some_and(|pod| pod.visible);
        let event = Event { kind, name, pod, was_visible, rewritten: 0, spoilt: None, withheld: false };
        self.log_mut().events.push(event);
    }

    /// Restarts with a new log that begins with the current pods. Messages in transit may still arrive.
    pub(super) fn new_epoch(&mut self, on_its_way_arrives: bool) {
        let pods = self.log().fold(self.log().head());
        let events = pods.into_iter().map(|(name, pod)| Event {
            kind: Kind::Added,
            name,
            pod,
            was_visible: false,
            rewritten: 0,
            spoilt: None,
            withheld: false,
        });
        let log = Log { events: events.collect(), trimmed: 0 };
        self.logs.push(log);
        if let Some(stream) = self.stream.as_mut().filter(|_| !on_its_way_arrives) {
            stream.cut = true;
        }
    }

    /// Drops everything retained.
    pub(super) fn trim(&mut self) -> bool {
        let head = self.log().head();
        std::mem::replace(&mut self.log_mut().trimmed, head) < head
    }

    /// Replaces the last event by another with its sequence; the stream continues after the new one.
    pub(super) fn rewrite_head(&mut self) {
        self.version += 1;
        let (version, head) = (self.version, self.log().head());
        if let Some(event) = self.log_mut().events.last_mut() {
            event.rewritten += 1;
            event.pod.version = version;
        }
        if let Some(stream) = &mut self.stream {
            stream.at = head - 1;
            stream.beaten = false;
        }
    }

    /// Whether the stream has sent everything, so that the event at the head can be rewritten.
    pub(super) fn is_at_head(&self) -> bool {
        let (log, epoch) = (self.log(), self.epoch());
        let at_head = |s: &Stream| s.epoch == epoch && s.at == log.head() && s.gap.is_none() && !s.cut;
        log.head() > log.trimmed && self.stream.as_ref().is_some_and(at_head)
    }

    /// Connects a client.
    pub(super) fn connect(&mut self, since: Option<&EventHash>, start: Start) {
        let (log, epoch) = (self.log(), self.epoch());
        let (mut at, mut gap) = self.start(since);
        let mut head = log.head();
        let mut knows = None;
        match start {
            Start::Right => {}
            Start::Early => at -= 1,
            Start::Behind => {
                at -= 1;
                (head, knows) = (at, Some(at));
            }
            Start::Unsaid => gap = None,
        }
        self.stream = Some(Stream {
            epoch,
            at,
            said_connected: false,
            gap,
            caught_up: false,
            sent: 0,
            beaten: false,
            again: None,
            cut: false,
            head,
            knows,
        });
    }

    /// The start of a stream, and the reason if it is not at the cursor.
    fn start(&self, since: Option<&EventHash>) -> (u16, Option<Lost>) {
        let (log, epoch) = (self.log(), self.epoch());
        match since.map(At::parse) {
            None => (log.trimmed, None),
            Some(at) if at.epoch != epoch || log.at(epoch, at.sequence.min(log.head())) != at => {
                (log.trimmed, Some(Lost::Unknown))
            }
            Some(at) if at.sequence < log.trimmed => (log.trimmed, Some(Lost::Expired)),
            Some(at) => (at.sequence, None),
        }
    }

    /// The wrong starts that are possible with this cursor.
    pub(super) fn wrong_starts(&self, since: Option<&EventHash>) -> &'static [Start] {
        match self.start(since) {
            (_, Some(_)) => &[Start::Unsaid],
            (at, None) if since.is_some() && at > self.log().trimmed => &[Start::Early, Start::Behind],
            _ => &[],
        }
    }

    /// The head of the log when the stream began.
    pub(super) fn head_at_connect(&self) -> Option<At> {
        self.stream.as_ref().map(|s| At::new(s.epoch, s.head))
    }

    /// The next message, if there is one now.
    pub(super) fn say(&mut self) -> Option<Said> {
        if self.stream.as_ref().is_some_and(|s| s.cut) {
            return None;
        }
        let mut stream = self.stream.take()?;
        let at = stream.at;
        let said = self.say_on(&mut stream);
        stream.beaten &= said.is_none() && stream.at == at;
        self.stream = Some(stream);
        said
    }

    fn say_on(&self, stream: &mut Stream) -> Option<Said> {
        if let Some(said) = stream.again.take() {
            return Some(said);
        }
        let (epoch, filtered) = (stream.epoch, self.filtered);
        let log = &self.logs[usize::from(epoch)];
        let at = |sequence| log.at(epoch, sequence);
        let counted = |sent: u16| filtered.then_some(sent);
        if !stream.said_connected {
            stream.said_connected = true;
            return Some(Said::Connected { after: at(stream.at), filtered });
        }
        if stream.at < log.trimmed {
            (stream.at, stream.gap) = (log.trimmed, Some(Lost::Slow));
        }
        if let Some(lost) = stream.gap.take() {
            stream.sent += 1;
            return Some(Said::Gap { lost, at: at(stream.at), sent: counted(stream.sent) });
        }
        while let Some(event) = log.event(stream.at + 1).filter(|_| stream.knows != Some(stream.at)) {
            stream.at += 1;
            let Some((kind, left)) = event.shown(filtered) else { continue };
            stream.sent += 1;
            if event.withheld {
                continue;
            }
            if let Some(has_id) = event.spoilt {
                return Some(Said::Spoilt { name: "pod", id: has_id.then(|| at(stream.at)) });
            }
            return Some(Said::Pod {
                kind,
                left,
                name: event.name,
                uid: event.pod.uid,
                version: event.pod.version,
                at: at(stream.at),
                previous: (!filtered && !self.lean).then(|| at(stream.at - 1)),
                sent: counted(stream.sent),
            });
        }
        if !stream.caught_up {
            stream.caught_up = true;
            return Some(Said::CaughtUp { at: at(stream.at), sent: counted(stream.sent) });
        }
        if epoch != self.epoch() {
            // Messages in transit are over.
            stream.cut = true;
        }
        None
    }

    /// A heartbeat, unless it would contain nothing new.
    pub(super) fn heartbeat(&mut self) -> Option<Said> {
        let (logs, filtered, current) = (&self.logs, self.filtered, self.epoch());
        let stream = self.stream.as_mut()?;
        let log = &logs[usize::from(stream.epoch)];
        let quiet = stream.said_connected && stream.gap.is_none() && stream.again.is_none();
        if !quiet || stream.cut || stream.beaten || stream.at < log.trimmed || stream.epoch != current {
            return None;
        }
        // A replica that lagged catches up here, so its next heartbeat is new.
        stream.beaten = stream.knows.take().is_none();
        let sent = filtered.then_some(stream.sent);
        Some(Said::Heartbeat { at: log.at(stream.epoch, stream.at), sent, catching_up: !stream.caught_up })
    }

    /// Sends a message once more.
    pub(super) fn repeat(&mut self, said: Said) {
        if let Some(stream) = &mut self.stream {
            stream.again = Some(said);
        }
    }

    /// Makes the frame of an event unreadable for ever.
    pub(super) fn spoil(&mut self, at: At, has_id: bool) {
        self.logs[usize::from(at.epoch)].events[usize::from(at.sequence) - 1].spoilt = Some(has_id);
    }

    /// Whether its frame cannot be read.
    pub(super) fn is_spoilt(&self, at: At) -> bool {
        let log = self.logs.get(usize::from(at.epoch));
        log.and_then(|log| log.event(at.sequence)).is_some_and(|event| event.spoilt.is_some())
    }

    /// Whether an event after one position and up to another is never sent.
    pub(super) fn withholds(&self, after: At, up_to: At) -> bool {
        let withheld =
            |at: At| self.logs[usize::from(at.epoch)].event(at.sequence).is_some_and(|e| e.withheld);
        self.events(after, up_to).any(withheld)
    }

    /// Withholds an event for ever, although it is counted.
    pub(super) fn withhold(&mut self, at: At) {
        self.logs[usize::from(at.epoch)].events[usize::from(at.sequence) - 1].withheld = true;
    }

    /// The pods at a position, as a client shows them.
    pub(super) fn pods(&self, at: At) -> Shown {
        if at.epoch == FOREIGN {
            return vec![("foreign".into(), "1".into(), "1".into())];
        }
        let pods = self.logs[usize::from(at.epoch)].fold(at.sequence);
        let shown = pods.into_iter().filter(|(_, pod)| !self.filtered || pod.visible);
        shown.map(|(name, pod)| (format!("p{name}"), pod.uid.to_string(), pod.version.to_string())).collect()
    }

    /// The list that reflects a position.
    pub(super) fn list(&self, at: At) -> PodList {
        let pods = self.pods(at);
        LISTS.with_borrow_mut(|lists| {
            lists.entry((at, pods)).or_insert_with_key(|(at, pods)| {
                let pods: Vec<Value> = pods.iter().map(|(name, uid, version)| pod(name, uid, version)).collect();
                let data = json!({"pods": pods, "hash": at.hash(), "sequence": at.sequence, "epoch": at.epoch.to_string()});
                let mut decoder = ListDecoder::new(ListFormat::Json, ListLimits::default());
                decoder.feed(data.to_string().as_bytes()).expect("a list");
                decoder.finish().expect("a list")
            }).clone()
        })
    }

    /// The events that a consumer gets, after one position and up to another.
    pub(super) fn events(&self, after: At, up_to: At) -> impl Iterator<Item = At> {
        let logs = self.logs.iter().enumerate().skip(after.epoch.into());
        let logs = logs.take_while(move |(epoch, _)| *epoch <= usize::from(up_to.epoch));
        logs.flat_map(move |(epoch, log)| {
            let epoch = epoch as u16;
            let shown = |event: &Event| event.shown(self.filtered).is_some();
            (1..=log.head())
                .filter(move |sequence| log.event(*sequence).is_some_and(shown))
                .filter(move |s| (epoch, *s) > (after.epoch, after.sequence))
                .filter(move |s| (epoch, *s) <= (up_to.epoch, up_to.sequence))
                .map(move |sequence| log.at(epoch, sequence))
        })
    }

    /// Whether an event of the log is a deletion.
    pub(super) fn is_deletion(&self, at: At) -> bool {
        self.logs[usize::from(at.epoch)].event(at.sequence).is_some_and(|event| event.kind == Kind::Deleted)
    }
}
