//! Long random lives: many events, many faults.

use super::*;

/// The generator splitmix64.
struct Seeded(u64);

impl Seeded {
    /// A number below `n`.
    fn choose(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % n as u64) as usize
    }
}

/// Every kind of stream.
const KINDS: [(ReplayMode, bool); 4] = [
    (ReplayMode::Phases, false),
    (ReplayMode::Phases, true),
    (ReplayMode::State, false),
    (ReplayMode::State, true),
];

/// The faults of the network and the clients, with a relay that follows the protocol. (A relay that breaks the protocol
/// cannot always be detected when more than two things go wrong at once.)
const FAULTS: [Fault; 13] = [
    Fault::MessageLost,
    Fault::MessageRepeated,
    Fault::MessageSpoilt,
    Fault::Cut,
    Fault::Closing,
    Fault::Restart,
    Fault::Trim,
    Fault::NewEpoch,
    Fault::NewEpochLater,
    Fault::LaggingSeed,
    Fault::StartsEarly,
    Fault::ReplicaLags,
    Fault::EventWithheld,
];

const OPS: [Op; 8] = [
    Op::Upsert(0),
    Op::Upsert(1),
    Op::Upsert(2),
    Op::Delete(0),
    Op::Delete(1),
    Op::Delete(2),
    Op::Relabel(0),
    Op::Relabel(1),
];

/// Makes steps of events, deliveries and faults, and then steps of the driver until it rests.
fn live(world: &mut World, random: &mut Seeded, steps: usize) -> Verdict {
    for _ in 0..steps {
        let step = match random.choose(20) {
            0..4 => {
                let op = OPS[random.choose(OPS.len())];
                if world.relay.fits(op) { Move::Append(op) } else { Move::Go }
            }
            4 if world.due() == Due::Message => Move::Beat,
            5 if world.relay.stream.as_ref().is_some_and(|s| s.cut) && world.due() == Due::Seed => {
                Move::EndSeen
            }
            6 => {
                let possible = world.possible_faults();
                let faults: Vec<_> = FAULTS.iter().filter(|fault| possible.contains(fault)).collect();
                Move::Fault(*faults[random.choose(faults.len())])
            }
            _ => Move::Go,
        };
        world.step(step)?;
    }
    world.note(|| "quiet".into());
    super::exhaustive::live(world, &[])
}

fn world(seed: u64, mode: ReplayMode, filtered: bool) -> World {
    let extras = seed % 2 == 1;
    let options = ReplayOptions::default().mode(mode).apply_backfill(extras).yield_bookmarks(extras);
    World::new(options, filtered, false)
}

#[test]
fn random_faults_lose_nothing_unannounced() {
    const SEEDS: u64 = 500;
    const STEPS: usize = 150;
    let one: Option<u64> = std::env::var("SEED").ok().map(|seed| seed.parse().expect("a seed"));
    COUNTS.take();
    for seed in one.map_or(0..SEEDS, |seed| seed..seed + 1) {
        for (mode, filtered) in KINDS {
            let mut first = world(seed, mode, filtered);
            if live(&mut first, &mut Seeded(seed), STEPS).is_ok() {
                let counts = first.client.continuity().counts();
                COUNTS.with_borrow_mut(|all| {
                    *all.entry("duplicates".into()).or_default() += counts.duplicates;
                    *all.entry("holes".into()).or_default() += counts.holes;
                });
                continue;
            }
            let mut again = world(seed, mode, filtered);
            again.trace = Some(Vec::new());
            let broken = live(&mut again, &mut Seeded(seed), STEPS);
            let trace = again.trace.unwrap_or_default().join("\n  ");
            panic!(
                "{mode:?}, filtered {filtered}: {broken:?}\n  {trace}\nagain: SEED={seed} cargo test -p relay-state \
                 --features pods random_faults -- --nocapture"
            );
        }
    }
    let counts = COUNTS.take();
    for (what, count) in &counts {
        println!("{what}: {count}");
    }
    let phases = Phase::ALL.map(|phase| phase.to_string());
    let faults = FAULTS.map(|fault| format!("{fault:?}"));
    let others = [
        "duplicates",
        "holes",
        "hole",
        "cursor-expired",
        "cursor-unknown",
        "slow-consumer",
        "undecodable",
        "list refused",
        "deletion in a gap",
        "appeared again",
        "left the filter",
        "heartbeat",
        "bookmark shown",
    ];
    let all = phases.iter().chain(&faults).map(String::as_str).chain(others);
    for what in all.filter(|_| one.is_none()) {
        assert!(counts.get(what).is_some_and(|count| *count > 0), "{what} never happened");
    }
}
