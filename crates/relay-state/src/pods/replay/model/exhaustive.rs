//! Every short life: all interleavings of a few events with up to so many faults.
//!
//! A breadth-first search over the states of [`World`], each looked at once, so that the first life that breaks a
//! property is a shortest one. From every state the fold is also left alone: it has to come to rest.

use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasherDefault;

use super::*;

/// What a search looks at.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan {
    pub(super) mode: ReplayMode,
    pub(super) filtered: bool,
    /// With history folded into the pods, and bookmarks yielded.
    pub(super) extras: bool,
    /// Starts with a cursor of this sequence.
    pub(super) cursor: Option<u16>,
    /// The relay leaves out previous hashes.
    pub(super) lean: bool,
    pub(super) events: &'static [&'static [Op]],
    pub(super) faults: u8,
    /// The faults to look at.
    pub(super) only: &'static [Fault],
    /// Heartbeats before the relay has said everything.
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

/// A state, and what may still happen in it.
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

    /// What may happen beside the driver's next step.
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
    /// What it becomes when nothing more happens to it.
    quiet: u32,
}

const NONE: u32 = u32::MAX;

/// What a search found.
pub(super) struct Found {
    states: usize,
    steps: u64,
    /// Most steps of the driver from a state that is left alone until it rests.
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
    /// The life in all detail.
    fn tell(&self) -> String {
        let mut world = self.plan.world();
        world.trace = Some(Vec::new());
        let Broken { property, detail } = live(&mut world, &self.life).err().unwrap_or(self.broken.clone());
        let trace = world.trace.unwrap_or_default().join("\n  ");
        format!("{property:?}: {detail}\n  {}, events {:?}\n  {trace}", self.plan, self.events)
    }

    /// The life in short: what happened beside the driver's steps, and after how many of them.
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

/// Makes these steps, and then lets the fold alone until it rests.
pub(super) fn live(world: &mut World, life: &[Move]) -> Verdict {
    const LONGEST: usize = 200;
    for step in life.iter().copied().chain(std::iter::repeat_n(Move::Go, LONGEST)) {
        if !world.step(step)? {
            return Ok(());
        }
    }
    broken(Property::ComesToRest, "it goes round for ever")
}

/// Looks at every life of a plan, or up to the first that breaks a property.
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

/// Follows every state that is left alone: the longest way to rest, and a state that never does.
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

/// After a message that cannot be read only previous hashes tell whether the next one follows it.
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

/// Every kind of stream.
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

/// Looks at every life, shows what happened, and that nothing was left out.
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

/// With one pair of events each. `cargo test -p relay-state --features pods two_faults -- --include-ignored` looks at
/// all pairs, and at the streams that have a cursor, yield bookmarks, show history or have no previous hashes.
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
