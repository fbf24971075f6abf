//! A table of every state with every input, and properties of random runs.

use proptest::prelude::*;

use super::*;

const START: Duration = Duration::from_secs(1000);

fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

/// A machine in a state, and the time.
fn state(name: &str) -> (Machine, Duration) {
    let mut machine = Machine::new(7);
    machine.due = START;
    let opened = |machine: &mut Machine, lived: f64| {
        machine.listed("10");
        machine.opened(START);
        START + seconds(lived)
    };
    let now = match name {
        "list" => START,
        "whole list" => {
            machine.step = Step::List { pages: false };
            START
        }
        "watch" => opened(&mut machine, 0.1),
        "watch that brought" => {
            let now = opened(&mut machine, 0.1);
            machine.brought("11");
            now
        }
        "watch of 2 s" => opened(&mut machine, 2.0),
        "watch of a minute" => opened(&mut machine, 60.0),
        "check" => {
            let now = opened(&mut machine, 2.0);
            machine.ended(now);
            now
        }
        "check after a delay" => {
            let now = opened(&mut machine, 0.1);
            machine.ended(now);
            machine.due()
        }
        other => unreachable!("{other}"),
    };
    (machine, now)
}

fn step(machine: &Machine) -> &'static str {
    match machine.step() {
        Step::List { pages: true } => "list",
        Step::List { pages: false } => "whole list",
        Step::Watch => "watch",
        Step::Check => "check",
    }
}

/// The next step and its time: at once, after a first or second delay, or after the requested delay.
fn next(machine: &Machine, now: Duration) -> String {
    let wait = machine.due().saturating_sub(now);
    let when = if wait.is_zero() {
        "now"
    } else if wait <= BASE * 2 {
        assert!(wait >= BASE / 2, "{wait:?}");
        "soon"
    } else {
        assert!((20.0..=25.0).contains(&wait.as_secs_f64()), "{wait:?}");
        "later"
    };
    format!("{} {when}", step(machine))
}

#[test]
fn every_state_and_every_input() {
    let states = [
        "list",
        "whole list",
        "watch",
        "watch that brought",
        "watch of 2 s",
        "watch of a minute",
        "check",
        "check after a delay",
    ];
    let later = Some(seconds(20.0));
    type Input = (&'static str, fn(&mut Machine, Option<Duration>, Duration), [&'static str; 8]);
    let table: [Input; 7] = [
        ("listed", |m, _, _| m.listed("10"), ["watch now"; 8]),
        ("known", |m, _, _| m.known(), ["watch now"; 8]),
        (
            "ended",
            |m, _, now| m.ended(now),
            // Only a watch can end; in the other states this means a watch that was opened long ago.
            [
                "check now",
                "check now",
                "check soon",
                "check soon",
                "check now",
                "check now",
                "check now",
                "check soon",
            ],
        ),
        (
            "expired",
            |m, _, now| m.expired(now),
            [
                "list soon",
                "list soon",
                "list soon",
                "list soon",
                "list soon",
                "list soon",
                "list soon",
                "list now",
            ],
        ),
        ("page is gone", |m, _, now| m.page_is_gone(None, now), ["whole list soon"; 8]),
        (
            "failed",
            |m, _, now| m.failed(FailureCause::Version, None, now),
            [
                "list soon",
                "list soon",
                "check soon",
                "check soon",
                "check soon",
                "check soon",
                "check soon",
                "check soon",
            ],
        ),
        (
            "failed, and asks for time",
            |m, later, now| m.failed(FailureCause::Other, later, now),
            [
                "list later",
                "list later",
                "check later",
                "check later",
                "check later",
                "check later",
                "check later",
                "check later",
            ],
        ),
    ];
    for (input, apply, expected) in table {
        for (name, expected) in states.into_iter().zip(expected) {
            let (mut machine, now) = state(name);
            apply(&mut machine, later, now);
            assert_eq!(next(&machine, now), expected, "{name} + {input}");
        }
    }
}

#[test]
fn a_failure_at_one_version_is_repeated_twice_and_progress_forgives() {
    let (mut machine, now) = state("watch");
    for expected in ["check", "check", "list"] {
        machine.step = Step::Watch;
        machine.opened(now);
        machine.failed(FailureCause::Version, None, now);
        assert_eq!(step(&machine), expected);
    }
    let (mut machine, now) = state("watch");
    for version in 11..30 {
        machine.step = Step::Watch;
        machine.opened(now);
        assert!(machine.brought(&version.to_string()));
        machine.failed(FailureCause::Version, None, now);
        assert_eq!((step(&machine), machine.version()), ("check", version.to_string().as_str()));
    }
    // A network failure is no reason to give a version up.
    for _ in 0..30 {
        machine.failed(FailureCause::Other, None, now);
        assert_eq!(step(&machine), "check");
    }
}

#[test]
fn positions_do_not_go_back_and_are_kept_where_nothing_is_said() {
    let (mut machine, _) = state("watch");
    for (event, expected) in
        [("12", "12"), ("11", "12"), ("", "12"), ("13", "13"), ("opaque", "opaque"), ("14", "14")]
    {
        machine.brought(event);
        assert_eq!(machine.version(), expected, "{event}");
    }
    // With a list they do.
    machine.listed("3");
    assert_eq!(machine.version(), "3");
}

#[test]
fn three_short_lives_are_a_stumble_and_only_a_longer_one_ends_it() {
    let short = |machine: &mut Machine, now| {
        machine.listed("10");
        machine.opened(now);
        machine.expired(now + seconds(0.7));
    };
    let (mut machine, now) = state("watch");
    for expected in [false, false, true, true] {
        assert_eq!(machine.refusal_time(), if machine.is_stumbling() { SHORT } else { REFUSAL });
        machine.listed("10");
        machine.opened(now);
        // The fourth time, neither half a second of silence nor an event counts as accepted.
        if !machine.is_stumbling() {
            machine.accepted();
        }
        machine.expired(now + seconds(0.7));
        assert_eq!(machine.is_stumbling(), expected);
    }
    machine.listed("10");
    machine.opened(now);
    assert!(!machine.brought("11"), "an event is not enough");
    machine.accepted();
    assert!(machine.brought("12") && !machine.is_stumbling(), "a second of silence is");

    let (mut machine, now) = state("watch");
    for _ in 0..3 {
        short(&mut machine, now);
    }
    machine.listed("10");
    machine.opened(now);
    machine.ended(now + SHORT);
    assert!(!machine.is_stumbling(), "and so is a second of life");
    for _ in 0..5 {
        machine.known();
        machine.opened(now);
        machine.brought("11");
        machine.ended(now);
        assert!(!machine.is_stumbling(), "a short watch that brings something is progress");
    }
}

#[test]
fn a_life_longer_than_the_last_delay_makes_the_next_a_first_one() {
    let (mut machine, mut now) = state("check");
    for _ in 0..4 {
        machine.failed(FailureCause::Other, None, now);
        now = machine.due();
    }
    let last = machine.delay;
    assert!(last > seconds(3.0));
    machine.known();
    machine.opened(now);
    machine.ended(now + last - seconds(0.1));
    machine.failed(FailureCause::Other, None, now);
    assert!(machine.due() - now > last, "not long enough");
    machine.known();
    machine.opened(now);
    machine.failed(FailureCause::Other, None, now + machine.delay);
    assert!(machine.delay <= BASE, "{:?}", machine.delay);
    // A full list is expensive: after an expired version only a watch of half a minute resets the delays.
    for (lived, forgiven) in [(29.0, false), (31.0, true)] {
        for _ in 0..8 {
            machine.failed(FailureCause::Other, None, now);
        }
        machine.listed("10");
        machine.opened(now);
        machine.expired(now + seconds(lived));
        assert_eq!(machine.delay <= BASE, forgiven, "{lived}");
    }
}

#[derive(Debug, Clone)]
enum Input {
    Fail(bool, Option<u64>),
    Gone,
    Expire,
    EndAtOnce,
    Bring,
}

fn input() -> impl Strategy<Value = Input> {
    prop_oneof![
        (any::<bool>(), prop::option::of(0..2000_u64))
            .prop_map(|(version, after)| Input::Fail(version, after)),
        Just(Input::Gone),
        Just(Input::Expire),
        Just(Input::EndAtOnce),
        Just(Input::Bring),
    ]
}

proptest! {
    /// A cluster on which every watch ends at once: every request that does not follow a success has a delay, which
    /// grows and is at least as long as requested, within bounds. The one exception is a list after a check that had
    /// its delay.
    #[test]
    fn no_request_without_a_growing_delay(seed in any::<u64>(), inputs in prop::collection::vec(input(), 1..60)) {
        let mut machine = Machine::new(seed);
        let (mut now, mut waits, mut here, mut version) = (START, 0_u32, 0, 10_u64);
        // Whether the next request has had its delay.
        let mut delayed = false;
        machine.due = now;
        for input in inputs {
            now = now.max(machine.due());
            // A success leads to the next step without a delay.
            let fails_here = matches!(input, Input::Fail(..));
            match machine.step() {
                Step::List { .. } if !fails_here && !matches!(input, Input::Gone) => {
                    version += 1;
                    machine.listed(&version.to_string());
                    prop_assert!(machine.due() <= now);
                    here = 0;
                }
                Step::Check if !fails_here && !matches!(input, Input::Expire) => {
                    machine.known();
                    prop_assert!(machine.due() <= now);
                }
                _ => {}
            }
            if machine.step() == Step::Watch {
                machine.opened(now);
            }
            let (before, mut floor) = (machine.step(), Duration::ZERO);
            match input {
                Input::Fail(blamed, after) => {
                    let after = after.map(Duration::from_secs);
                    floor = after.unwrap_or_default().min(LONGEST_WAIT);
                    machine.failed(if blamed { FailureCause::Version } else { FailureCause::Other }, after, now);
                    here += u32::from(blamed && !matches!(before, Step::List { .. }));
                }
                Input::Gone if matches!(before, Step::List { .. }) => machine.page_is_gone(None, now),
                Input::Expire | Input::Gone => machine.expired(now),
                Input::EndAtOnce => {
                    machine.ended(now);
                    here += 1;
                }
                Input::Bring => {
                    version += 1;
                    machine.brought(&version.to_string());
                    machine.ended(now);
                    here = 0;
                }
            }
            let wait = machine.due() - now;
            if delayed && before == Step::Check && matches!(input, Input::Expire | Input::Gone) {
                prop_assert!(wait.is_zero() && matches!(machine.step(), Step::List { .. }), "{:?}", wait);
                (delayed, here) = (false, 0);
                continue;
            }
            delayed = true;
            waits += 1;
            let least = (BASE / 2).saturating_mul(1 << (waits - 1).min(10)).min(CAP / 2);
            prop_assert!(wait >= least.max(floor), "{:?} after {} failures", wait, waits);
            prop_assert!(wait <= CAP.max(floor + floor / 4), "{:?}", wait);
            if matches!(machine.step(), Step::List { .. }) {
                here = 0;
            }
            prop_assert!(here < ENOUGH, "tried {} times at one version", here);
        }
    }
}
