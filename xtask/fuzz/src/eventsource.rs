//! Properties of the connection machine, for any input: functions that panic on a violation.

use std::time::Duration;

use relay_proto::eventsource::{Action, Config, End, Machine, Refused, ServerRetry, State};
use relay_proto::http::ResponseHead;
use relay_proto::sse::Limits;

/// A run of a machine: it always waits for input or for a time, never wants two connections without a wait or a
/// redirect between them, holds little memory, and gives the same result for the same input.
///
/// Input: eight bytes of settings, then one byte per step, some followed by arguments.
pub fn life(input: &[u8]) {
    let Some((settings, happenings)) = input.split_first_chunk() else { return };
    assert_eq!(run(*settings, happenings), run(*settings, happenings), "the same again");
}

/// Plays the run and returns a digest of its results.
fn run(settings: [u8; 8], mut happenings: &[u8]) -> Vec<(State, Option<Duration>, usize)> {
    let config = config(settings);
    let redirects = config.max_redirects as usize;
    let problem_bytes = config.max_problem_bytes;
    let mut machine = Machine::new(config, u64::from_le_bytes(settings));
    let mut now = Duration::ZERO;
    let mut diary = Vec::new();
    // The number of immediate attempts since the last wait or open stream.
    let mut hurried = 0;
    while let Some((&happening, rest)) = happenings.split_first() {
        happenings = rest;
        let size = rest.len().min(usize::from(happening >> 4));
        let argument = &rest[..size];
        let deadline = diary.last().and_then(|(_, until, _): &(_, Option<Duration>, _)| *until);
        match happening & 15 {
            0 => machine.handle_response(head(200, b"text/event-stream"), now),
            1 => {
                let status = argument
                    .iter()
                    .fold(0_u16, |status, &byte| status.wrapping_mul(7).wrapping_add(byte.into()));
                let head =
                    head(status % 700, argument).header("location", argument).header("retry-after", argument);
                machine.handle_response(head.unix_time(now), now);
            }
            2 => machine.handle_response(head(302, b"").header("location", b"/elsewhere"), now),
            3 => machine.handle_response(head(401, b""), now),
            4 | 5 => {
                machine.handle_bytes(argument.to_vec(), now);
                happenings = &rest[size..];
            }
            6 => machine.handle_bytes(&b"id: 7\nretry: 0\ndata: x\n\n"[..], now),
            7 => machine.handle_end(End::Eof, now),
            8 => machine.handle_end(End::Io("broken".into()), now),
            9 => machine.handle_refused(Refused::retry_after("no", Duration::from_secs(size as u64)), now),
            10 => machine.restart("why not", now),
            11 => machine.progress(),
            12 => machine.delay_once(Duration::from_millis(size as u64)),
            13 => now += Duration::from_secs(1 << size.min(12)),
            14 if size == 15 => machine.close(),
            _ => {
                // Every driver does this sooner or later.
                now = now.max(deadline.unwrap_or(now));
                machine.handle_timeout(now);
            }
        }
        let (connects, items, want) = drain(&mut machine, now);
        assert!(connects <= 1, "{connects} attempts at once");
        hurried += connects;
        let until = match &want {
            Action::Wait(until) => {
                assert!(*until > now, "a wait is ahead");
                hurried = 0;
                Some(*until)
            }
            Action::Response(until) | Action::Bytes(until) => *until,
            _ => None,
        };
        if machine.state() == State::Bytes {
            hurried = 0;
        }
        assert!(hurried <= 2 * (redirects + 1), "{hurried} attempts without a wait");
        assert!(machine.buffered() <= 1024 + problem_bytes, "{} bytes held", machine.buffered());
        diary.push((machine.state(), until, items));
    }
    diary
}

/// Polls until the machine waits. Returns the number of attempts and items on the way, and what it waits for.
fn drain(machine: &mut Machine, now: Duration) -> (usize, usize, Action) {
    let (mut connects, mut items) = (0, 0);
    for _ in 0..10_000 {
        match machine.poll(now) {
            Action::Connect(_) => connects += 1,
            Action::Item(_) => items += 1,
            want => return (connects, items, want),
        }
    }
    panic!("busy: {machine:?}");
}

fn head<'h>(status: u16, content_type: &'h [u8]) -> ResponseHead<'h> {
    ResponseHead::new(status, "http://relay.test/events").header("content-type", content_type)
}

fn config(settings: [u8; 8]) -> Config {
    let millis = |byte: u8| Duration::from_millis(u64::from(byte) * u64::from(byte));
    let [base, cap, idle, response, switches, block, problem, limit] = settings;
    let limits =
        Limits::default().line(usize::from(limit)).data(usize::from(limit)).id(16_usize).kind(16_usize);
    Config::default()
        .base(millis(base))
        .cap(millis(cap))
        .idle((idle > 0).then(|| millis(idle)))
        .response_timeout((response > 0).then(|| millis(response)))
        .credentials_can_refresh(switches & 1 != 0)
        .lenient_mime(switches & 2 != 0)
        .use_last_event_id(switches & 4 != 0)
        .server_retry(if switches & 8 != 0 { ServerRetry::Once } else { ServerRetry::Base })
        .max_redirects(u32::from(switches >> 5))
        .max_block_bytes(u64::from(block))
        .max_problem_bytes(usize::from(problem))
        .limits(limits)
}
