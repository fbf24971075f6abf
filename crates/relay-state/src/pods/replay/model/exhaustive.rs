//! Runs every short life: all interleavings of a few events with a limited number of faults.
//!
//! A breadth-first search over the states of [`World`] that visits each state once, so the first life that breaks a
//! property is a shortest one. From every state the fold must also come to rest when nothing else happens.

use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasherDefault;

use super::*;

/// The scope of a search.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan {
    pub(super) mode: ReplayMode,
    pub(super) filtered: bool,
    /// Whether history is folded into the pods, and bookmarks are yielded.
    pub(super) extras: bool,
    /// The sequence of the cursor at the start.
    pub(super) cursor: Option<u16>,
    /// Whether the relay leaves out previous hashes.
    pub(super) lean: bool,
    pub(super) events: &'static [&'static [Op]],
    pub(super) faults: u8,
    /// The faults that may happen.
    pub(super) only: &'static [Fault],
    /// The number of heartbeats that may come while more messages are waiting.
    pub(super) beats: u8,
}

impl Plan {
    pub(super) fn world(&self) -> World {
        let since = self.cursor.map(|at| EventHash::new(&At::new(0, at).hash()).expect("a hash"));
        let options = ReplayOptions::default().mode(self.mode).since(since);
        World::new(options.apply_backfill(self.extras).yield_bookmarks(self.extras), self.filtered, self.lean)
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.mode == ReplayMode::State { "plain" } else { "replay" };
        let narrowed = if self.filtered { "filtered" } else { "whole" };
        let extras = if self.extras { ", history and bookmarks shown" } else { "" };
        let lean = if self.lean { " without previous hashes" } else { "" };
        let cursor = self.cursor.map_or(String::new(), |at| format!(", from {at}"));
        write!(f, "{kind} {narrowed}{lean}{extras}{cursor}")
    }
}

/// A state, and what may still happen.
#[derive(Clone)]
struct Place {
    world: World,
    events: &'static [Op],
    faults: u8,
    only: &'static [Fault],
    beats: u8,
}

impl Place {
    fn fingerprint(&self) -> u64 {
        let mut h = Mixer::default();
        (self.world.fingerprint(), self.events, self.faults, self.beats).hash(&mut h);
        h.finish()
    }

    /// The possible moves other than the driver's next step.
    fn moves(&self) -> Vec<Move> {
        let mut moves = Vec::new();
        let (world, relay) = (&self.world, &self.world.relay);
        if let Some(op) = self.events.first().filter(|op| relay.fits(**op)) {
            moves.push(Move::Append(*op));
        }
        let cut = relay.stream.as_ref().is_some_and(|s| s.cut);
        if cut && world.due() == Due::Seed {
            moves.push(Move::EndSeen);
        }
        let has_more = || relay.clone().say().is_some() && relay.clone().heartbeat().is_some();
        if self.beats > 0 && world.due() == Due::Message && has_more() {
            moves.push(Move::Beat);
        }
        if self.faults > 0 {
            let faults = world.possible_faults().into_iter().filter(|fault| self.only.contains(fault));
            moves.extend(faults.map(Move::Fault));
        }
        moves
    }

    fn step(&mut self, step: Move) -> Verdict<bool> {
        match step {
            Move::Append(_) => self.events = &self.events[1..],
            Move::Beat => self.beats -= 1,
            Move::Fault(_) => self.faults -= 1,
            Move::Go | Move::EndSeen => {}
        }
        self.world.step(step)
    }
}

struct Node {
    parent: u32,
    step: Move,
    /// The next state when nothing else happens.
    quiet: u32,
}

const NONE: u32 = u32::MAX;

/// The result of a search.
pub(super) struct Found {
    states: usize,
    steps: u64,
    /// The maximum number of steps that the driver makes until it rests, when nothing else happens.
    to_rest: u32,
    pub(super) broken: Option<Counterexample>,
}

/// A life that breaks a property.
pub(super) struct Counterexample {
    plan: Plan,
    pub(super) broken: Broken,
    life: Vec<Move>,
    events: &'static [Op],
}

impl Counterexample {
    /// The life with all details.
    fn tell(&self) -> String {
        let mut world = self.plan.world();
        world.trace = Some(Vec::new());
        let Broken { property, detail } = live(&mut world, &self.life).err().unwrap_or(self.broken.clone());
        let trace = world.trace.unwrap_or_default().join("\n  ");
        format!("{property:?}: {detail}\n  {}, events {:?}\n  {trace}", self.plan, self.events)
    }

    /// The life in short form: each other move, with the number of driver's steps before it.
    pub(super) fn brief(&self) -> String {
        let mut told = Vec::new();
        let mut steps = 0;
        for step in &self.life {
            match step {
                Move::Go => steps += 1,
                Move::Append(op) => told.push(format!("{steps} {op:?}")),
                Move::Fault(fault) => told.push(format!("{steps} {fault:?}")),
                Move::Beat | Move::EndSeen => told.push(format!("{steps} {step:?}")),
            }
        }
        format!("{}: {}", self.plan, told.join(", "))
    }
}

/// Makes these steps, and then only steps of the driver until it rests.
pub(super) fn live(world: &mut World, life: &[Move]) -> Verdict {
    const LONGEST: usize = 200;
    for step in life.iter().copied().chain(std::iter::repeat_n(Move::Go, LONGEST)) {
        if !world.step(step)? {
            return Ok(());
        }
    }
    broken(Property::ComesToRest, "it goes round for ever")
}

/// Runs the lives of a plan, until the first that breaks a property.
pub(super) fn search(plan: Plan) -> Found {
    let mut nodes: Vec<Node> = Vec::new();
    let mut known: HashMap<u64, u32, BuildHasherDefault<Mixer>> = HashMap::default();
    let mut queue = VecDeque::new();
    let mut steps = 0;
    let mut roots = Vec::new();
    for events in plan.events {
        let place =
            Place { world: plan.world(), events, faults: plan.faults, only: plan.only, beats: plan.beats };
        roots.push(nodes.len());
        known.insert(place.fingerprint(), nodes.len() as u32);
        queue.push_back((nodes.len() as u32, place));
        nodes.push(Node { parent: NONE, step: Move::Go, quiet: NONE });
    }
    let life = |nodes: &[Node], mut at: u32| {
        let mut life = Vec::new();
        while nodes[at as usize].parent != NONE {
            life.push(nodes[at as usize].step);
            at = nodes[at as usize].parent;
        }
        life.reverse();
        (life, plan.events[roots.iter().position(|root| *root == at as usize).unwrap_or(0)])
    };
    while let Some((at, place)) = queue.pop_front() {
        for step in std::iter::once(Move::Go).chain(place.moves()) {
            let mut next = place.clone();
            steps += 1;
            match next.step(step) {
                Ok(true) => {}
                Ok(false) => continue,
                Err(broken) => {
                    let (mut life, events) = life(&nodes, at);
                    life.push(step);
                    let broken = Some(Counterexample { plan, broken, life, events });
                    return Found { states: nodes.len(), steps, to_rest: 0, broken };
                }
            }
            let id = *known.entry(next.fingerprint()).or_insert_with(|| {
                nodes.push(Node { parent: at, step, quiet: NONE });
                queue.push_back((nodes.len() as u32 - 1, next));
                nodes.len() as u32 - 1
            });
            if step == Move::Go {
                nodes[at as usize].quiet = id;
            }
        }
    }
    let (to_rest, restless) = rest(&nodes);
    let broken = restless.map(|at| {
        let (life, events) = life(&nodes, at);
        let broken = Broken { property: Property::ComesToRest, detail: "it goes round for ever".into() };
        Counterexample { plan, broken, life, events }
    });
    Found { states: nodes.len(), steps, to_rest, broken }
}

/// Follows the driver's steps from every state: the longest way to rest, and a state that never rests.
fn rest(nodes: &[Node]) -> (u32, Option<u32>) {
    const ON_THE_WAY: u32 = u32::MAX;
    let mut ways: Vec<Option<u32>> = vec![None; nodes.len()];
    for start in 0..nodes.len() {
        let mut path = Vec::new();
        let mut at = start;
        let mut way = loop {
            match ways[at] {
                Some(ON_THE_WAY) => return (0, Some(start as u32)),
                Some(way) => break way,
                None => {}
            }
            ways[at] = Some(ON_THE_WAY);
            path.push(at);
            match nodes[at].quiet {
                NONE => break 0,
                next => at = next as usize,
            }
        };
        while let Some(at) = path.pop() {
            way += 1;
            ways[at] = Some(way);
        }
    }
    (ways.into_iter().flatten().max().unwrap_or(0), None)
}

const WHOLE: &[&[Op]] = &[&[Op::Delete(0), Op::Upsert(0)], &[Op::Upsert(0), Op::Upsert(1)]];
const FILTERED: &[&[Op]] = &[&[Op::Relabel(0), Op::Relabel(0)], &[Op::Upsert(2), Op::Delete(0)]];

/// After a message that cannot be read, only previous hashes show whether the next message follows it.
const READABLE: &[Fault] = &[
    Fault::MessageLost,
    Fault::MessageRepeated,
    Fault::EventWithheld,
    Fault::Cut,
    Fault::Restart,
    Fault::Trim,
    Fault::NewEpoch,
    Fault::LaggingSeed,
    Fault::ForeignSeed,
];

/// Plans for every kind of stream.
pub(super) fn plans(faults: u8) -> Vec<Plan> {
    let whole = Plan {
        mode: ReplayMode::Phases,
        filtered: false,
        extras: false,
        cursor: None,
        lean: false,
        events: WHOLE,
        faults,
        only: &Fault::ALL,
        beats: 1,
    };
    let filtered = Plan { filtered: true, events: FILTERED, ..whole };
    vec![
        whole,
        Plan { extras: true, cursor: Some(1), ..whole },
        filtered,
        Plan { extras: true, cursor: Some(0), ..filtered },
        Plan { mode: ReplayMode::State, ..whole },
        Plan { mode: ReplayMode::State, ..filtered },
        Plan { lean: true, only: READABLE, ..whole },
    ]
}

/// Runs every life of a plan, prints the counts, and checks that nothing was left out.
fn check(plan: Plan) {
    COUNTS.take();
    let found = search(plan);
    let counts = COUNTS.take();
    println!(
        "{plan}, {:?}, up to {} faults: {} states, {} steps, at most {} of them to rest",
        plan.events, plan.faults, found.states, found.steps, found.to_rest
    );
    println!("  {counts:?}");
    if let Some(broken) = found.broken {
        panic!("{}", broken.tell());
    }
    if plan.faults > 1 {
        for fault in plan.only {
            assert!(counts.contains_key(&format!("{fault:?}")), "{fault:?} never happened");
        }
    }
}

#[test]
fn one_fault_in_every_kind_of_stream() {
    for plan in plans(1) {
        check(plan);
    }
}

/// Each plan has one pair of events. `cargo test -p relay-state --features pods two_faults -- --include-ignored` runs
/// all pairs, and also the streams that have a cursor, yield bookmarks, show history or have no previous hashes.
macro_rules! two_faults {
    ($($test:ident: $plan:literal with $pair:literal,)*) => { $(
        #[test]
        fn $test() {
            let plan = plans(2)[$plan];
            check(Plan { events: &plan.events[$pair..=$pair], ..plan });
        }
    )* };
}

two_faults! {
    two_faults_replay_whole: 0 with 0,
    two_faults_replay_filtered: 2 with 0,
    two_faults_plain_whole: 4 with 1,
    two_faults_plain_filtered: 5 with 1,
}

#[test]
#[ignore = "minutes"]
fn two_faults_everywhere() {
    for plan in plans(2) {
        check(plan);
    }
}
