//! Random runs: whatever the input is, the machine waits for something, and says until when.

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Step {
    Response(u16, Option<&'static [u8]>, Option<&'static [u8]>, Option<&'static [u8]>),
    Bytes(Vec<u8>),
    End(bool),
    Refused(Option<u64>),
    /// Advances to the deadline of the machine.
    Deadline,
    Later(u64),
    Progress,
    Restart,
    DelayOnce(u64),
    Close,
}

fn step() -> impl Strategy<Value = Step> {
    let status = prop_oneof![
        4 => Just(200_u16),
        1 => prop::sample::select(vec![204, 301, 302, 303, 307, 308, 400, 401, 403, 404, 408, 425, 429, 500, 503]),
        1 => 0_u16..1000,
    ];
    let kind = prop::option::weighted(
        0.9,
        prop::sample::select(vec![&b"text/event-stream"[..], b"text/html", b"TEXT/EVENT-STREAM;x"]),
    );
    let after = prop::option::of(prop::sample::select(vec![&b"0"[..], b"3", b"99999999999999", b"x\xff"]));
    let location =
        prop::option::of(prop::sample::select(vec![&b"/a"[..], b"//h", b"", b"\xff", b"http://["]));
    let text = prop::collection::vec(
        prop::sample::select(vec![
            &b"data: x"[..],
            b"\n",
            b"\r",
            b"id: 1",
            b"retry: 0",
            b":",
            b"retry: 99999999999",
            b"\xff",
        ]),
        0..12,
    );
    prop_oneof![
        4 => (status, kind, after, location).prop_map(|(s, k, a, l)| Step::Response(s, k, a, l)),
        4 => text.prop_map(|parts| Step::Bytes(parts.concat())),
        1 => any::<bool>().prop_map(Step::End),
        1 => prop::option::of(0_u64..100_000).prop_map(Step::Refused),
        4 => Just(Step::Deadline),
        2 => (0_u64..100_000).prop_map(Step::Later),
        1 => Just(Step::Progress),
        1 => Just(Step::Restart),
        1 => any::<u64>().prop_map(Step::DelayOnce),
        1 => prop::bool::weighted(0.1).prop_map(|close| if close { Step::Close } else { Step::Deadline }),
    ]
}

fn config() -> impl Strategy<Value = Config> {
    let durations =
        || prop::sample::select(vec![Duration::ZERO, Duration::from_millis(1), seconds(1), Duration::MAX]);
    let base = (durations(), durations(), 0_u32..4, durations(), any::<bool>());
    (base, prop::option::of(durations()), prop::option::of(durations()), 0_u64..200, 0_usize..20).prop_map(
        |((base, cap, factor, floor, refresh), idle, response, block, problem)| {
            Config::default()
                .base(base)
                .cap(cap)
                .factor(factor)
                .floor(floor.min(seconds(1)))
                .idle(idle)
                .response_timeout(response)
                .max_block_bytes(block)
                .max_problem_bytes(problem)
                .credentials_can_refresh(refresh)
        },
    )
}

/// Plays a run and records it, and checks at every step the rules that must always hold.
fn live(config: &Config, seed: u64, steps: &[Step]) -> Vec<String> {
    let mut machine = Machine::new(config.clone(), seed);
    let mut now = Duration::ZERO;
    let mut diary = Vec::new();
    let mut until = None;
    let mut connects_in_a_row = 0;
    for step in steps {
        match step {
            Step::Response(status, kind, after, location) => {
                let mut head = ResponseHead::new(*status, URL).unix_time(now);
                let fields = [("content-type", kind), ("retry-after", after), ("location", location)];
                for (name, value) in fields.iter().filter_map(|(name, value)| Some((name, (**value)?))) {
                    head = head.header(name, value);
                }
                machine.handle_response(head, now);
            }
            Step::Bytes(bytes) => machine.handle_bytes(bytes.clone(), now),
            Step::End(true) => machine.handle_end(End::Eof, now),
            Step::End(false) => machine.handle_end(End::Io("broken".into()), now),
            Step::Refused(None) => machine.handle_refused(Refused::retry("no"), now),
            Step::Refused(Some(millis)) => {
                machine.handle_refused(Refused::retry_after("no", Duration::from_millis(*millis)), now)
            }
            Step::Deadline => {
                if let Some(until) = until.filter(|until| *until < Duration::MAX / 2) {
                    now = now.max(until);
                    machine.handle_timeout(now);
                }
            }
            Step::Later(millis) => now += Duration::from_millis(*millis),
            Step::Progress => machine.progress(),
            Step::Restart => machine.restart("why not", now),
            Step::DelayOnce(nanos) => machine.delay_once(Duration::from_nanos(*nanos)),
            Step::Close => machine.close(),
        }
        let (passed, waits) = drain(&mut machine, now);
        let connects = passed.iter().filter(|want| matches!(want, Action::Connect(_))).count();
        assert!(connects <= 1, "one attempt at a time: {passed:?}");
        // Without a wait there are only redirects and one 401, which may be followed by redirects again.
        connects_in_a_row += connects;
        assert!(connects_in_a_row <= 2 * (1 + config.max_redirects as usize), "{diary:?}");
        match &waits {
            Action::Wait(time) => {
                assert!(*time > now, "a wait is ahead");
                connects_in_a_row = 0;
                until = Some(*time);
            }
            Action::Response(time) | Action::Bytes(time) => {
                until = *time;
                if matches!(step, Step::Deadline) && time.is_some_and(|time| time <= now) {
                    // Only a limit of zero can have passed when it begins; handling it must lead to another state.
                    machine.handle_timeout(now);
                    let (_, next) = drain(&mut machine, now);
                    assert_ne!(word(&next), word(&waits), "stuck at its own deadline");
                    until = None;
                }
            }
            Action::Stop(stop) => {
                assert_eq!(machine.poll(now + seconds(1)).stop(), Some(stop), "final");
                until = None;
            }
            other => panic!("{other:?}"),
        }
        if matches!(machine.state(), State::Bytes) {
            connects_in_a_row = 0;
        }
        assert!(machine.buffered() <= 1024 + config.max_problem_bytes, "{} bytes", machine.buffered());
        diary.push(passed.iter().chain([&waits]).map(word).collect::<Vec<_>>().join(" "));
    }
    diary
}

impl Action {
    fn stop(&self) -> Option<&Stop> {
        match self {
            Action::Stop(stop) => Some(stop),
            _ => None,
        }
    }
}

proptest! {
    #[test]
    fn any_life_waits_or_ends(config in config(), seed: u64, steps in prop::collection::vec(step(), 0..80)) {
        let first = live(&config, seed, &steps);
        prop_assert_eq!(first, live(&config, seed, &steps), "the same again");
    }

    #[test]
    fn delays_stay_within_their_bounds(
        base in 0_u64..100_000, cap in 0_u64..1_000_000, factor in 0_u32..10, floor in 0_u64..1000, seed: u64,
    ) {
        let [base, cap, floor] = [base, cap, floor].map(Duration::from_millis);
        for jitter in [Jitter::Full, Jitter::Half, Jitter::None] {
            let mut backoff = Backoff::new(base, cap, seed).factor(factor).floor(floor).jitter(jitter);
            let floor = floor.max(Duration::from_millis(1));
            // A simple calculation of the ceiling.
            let mut ceiling = base.max(floor).min(cap);
            for _ in 0..40 {
                prop_assert_eq!(backoff.ceiling(), ceiling);
                let delay = backoff.next_delay();
                prop_assert!(delay >= floor && delay <= ceiling.max(floor));
                ceiling = (ceiling * factor.max(1)).min(cap);
            }
            backoff.reset();
            prop_assert_eq!(backoff.ceiling(), base.max(floor).min(cap));
        }
    }
}
