//! Servers that answer and bring nothing new, and the time without progress.

use super::*;

const X: &str = "event: control\ndata: {\"streamNextOffset\":\"x\",\"upToDate\":true}\n\n";

/// A reader at "x" of a JSON stream.
fn patient(mode: LiveMode, retry_for: Duration) -> Reader {
    let config = ReaderConfig::default().mode(mode).batch_bytes(64).retry_for(Some(retry_for));
    Reader::new(config, Checkpoint::at(Offset::new("x").unwrap()), 5).known(true)
}

/// Answers every request until the reader ends. `step` feeds one attempt and returns the time after it.
/// Returns the end, its time, and the times of the requests.
fn run(
    reader: &mut Reader,
    mut step: impl FnMut(&mut Reader, &str, Duration) -> Duration,
) -> (ReaderStop, Duration, Vec<Duration>) {
    let (mut now, mut asked) = (ZERO, vec![]);
    for _ in 0..5000 {
        match reader.poll(now) {
            ReaderWant::Ask(ask) => {
                asked.push(now);
                now = step(reader, &ask.query, now);
            }
            ReaderWant::Answer(until) | ReaderWant::Bytes(until) => {
                now = until;
                reader.handle_timeout(now);
            }
            ReaderWant::Wait(until) => now = until,
            ReaderWant::Stop(stop) => return (stop, now, asked),
            _ => {}
        }
    }
    panic!("no end after {now:?} and {} requests", asked.len());
}

#[test]
fn a_good_control_event_does_not_forgive_a_malformed_one() {
    let moving = "event: control\ndata: {\"streamNextOffset\":\"x\",\"streamCursor\":\"CURSOR\"}\n\n";
    let bad_control = "event: control\ndata: {bad\n\n";
    let bad_data = "event: data\ndata: [1,\n\n";
    let back = "event: control\ndata: {\"streamNextOffset\":\"a\"}\n\n";
    for mode in [LiveMode::Sse, LiveMode::Auto] {
        for first in [X, moving] {
            for bad in [bad_control, bad_data, back] {
                let mut reader = patient(mode, Duration::from_secs(60));
                let mut requests = 0;
                let (stop, ..) = run(&mut reader, |reader, query, now| {
                    if query.contains("live=") {
                        requests += 1;
                        reader.handle_answer(&events(), now);
                        reader
                            .handle_bytes(first.replace("CURSOR", &requests.to_string()).into(), now + ms(5));
                        reader.handle_bytes(bad.into(), now + ms(1500));
                    } else {
                        reader.handle_answer(&json("x", true), now);
                        reader.handle_bytes("[]".into(), now);
                        reader.handle_end(None, now);
                    }
                    now + ms(1500)
                });
                assert!(matches!(stop, ReaderStop::Malformed { .. }), "{first} {bad}: {stop:?}");
                assert_eq!(requests, 2, "{mode:?} {first} {bad}");
            }
        }
    }
}

#[test]
fn an_empty_poll_does_not_forgive_a_malformed_answer_and_another_offset_does() {
    for (next, ends_after) in [("x", Some(3)), ("y", None)] {
        let mut reader = reader(LiveMode::LongPoll, "x");
        let (mut now, mut requests) = (ZERO, 0);
        let mut at = "x";
        let stop = loop {
            match reader.poll(now) {
                ReaderWant::Ask(_) => {
                    requests += 1;
                    now += ms(300);
                    if requests == 4 {
                        break None;
                    }
                    if requests % 2 == 1 {
                        reader.handle_answer(&answer(200, &[]), now);
                    } else {
                        at = next;
                        reader.handle_answer(&answer(204, &[("Stream-Next-Offset", at)]), now);
                    }
                }
                ReaderWant::Wait(until) => now = until,
                ReaderWant::Stop(stop) => break Some(stop),
                _ => {}
            }
        };
        match ends_after {
            Some(most) => {
                assert!(matches!(stop, Some(ReaderStop::Malformed { .. })), "{stop:?}");
                assert_eq!(requests, most);
            }
            None => assert_eq!((stop, at), (None, "y")),
        }
    }
}

#[test]
fn an_answer_that_never_moves_ends_with_the_time_however_slow_it_is() {
    for mode in [LiveMode::Off, LiveMode::LongPoll] {
        // The cursor moves in every second case, and there the answer may be quick.
        for (takes, cursor) in [(200, false), (200, true), (5, true)] {
            let mut reader = patient(mode, Duration::from_secs(3));
            let mut count = 0_u32;
            let (stop, end, asked) = run(&mut reader, |reader, _, now| {
                count += 1;
                let now = now + ms(takes);
                let mut same = answer(200, &[("Stream-Next-Offset", "x"), ("Content-Type", "text/plain")]);
                if cursor {
                    same = same.header("Stream-Cursor", count.to_string().as_bytes());
                }
                reader.handle_answer(&same, now);
                reader.handle_bytes("the same".into(), now);
                reader.handle_end(None, now);
                now
            });
            assert!(matches!(&stop, ReaderStop::OutOfTime { cause } if cause.contains("offset")), "{stop:?}");
            assert!((ms(3000)..ms(3600)).contains(&end), "{mode:?} {takes} {cursor}: {end:?}");
            assert!(asked.len() < 14, "the delays grow: {asked:?}");
        }
    }
}

#[test]
fn the_time_without_progress_cuts_an_attempt() {
    // Silence, an early end of the head, and a body that stands still at the same place.
    for kind in ["silent", "stalls"] {
        for timeout in [2, 5, 30] {
            let config = ReaderConfig::default()
                .mode(LiveMode::Off)
                .timeout(Duration::from_secs(timeout))
                .retry_for(Some(Duration::from_secs(3)));
            let mut reader = Reader::new(config, Checkpoint::at(Offset::START), 5);
            let (stop, end, _) = run(&mut reader, |reader, _, now| {
                if kind == "stalls" {
                    reader.handle_answer(&answer(200, &[("Stream-Next-Offset", "y")]), now);
                    reader.handle_bytes("abc".into(), now);
                }
                now
            });
            assert_eq!(stop, ReaderStop::OutOfTime { cause: "nothing came in time".into() });
            assert!((ms(3000)..ms(3501)).contains(&end), "{kind} {timeout}: {end:?}");
        }
    }
}

#[test]
fn the_time_counts_from_the_last_progress_and_not_while_the_caller_is_busy() {
    let mut reader = patient(LiveMode::Off, Duration::from_secs(3));
    query(&mut reader, ZERO);
    let mut now = ms(2900);
    reader.handle_answer(&json("y", false), now);
    reader.handle_bytes("[1]".into(), now);
    reader.handle_end(None, now);
    assert!(matches!(reader.poll(now), ReaderWant::Piece(_)));
    // The caller needs a minute for the piece.
    now += Duration::from_secs(60);
    assert_eq!(query(&mut reader, now), "offset=y");
    assert_eq!(reader.poll(now), ReaderWant::Answer(now + ms(3000)));
}

#[test]
fn a_tail_that_waits_is_not_without_progress() {
    let mut reader = patient(LiveMode::LongPoll, Duration::from_secs(3));
    let mut now = ZERO;
    for round in 0..20 {
        next_query(&mut reader, &mut now);
        let ReaderWant::Answer(until) = reader.poll(now) else { panic!() };
        assert!(until > now + Duration::from_secs(32), "the server may take 30 s, {round}");
        now += Duration::from_secs(25);
        if round % 3 == 2 {
            // One failure in between.
            reader.handle_end(Some("reset"), now);
        } else {
            reader.handle_answer(&answer(204, &[("Stream-Next-Offset", "x")]), now);
        }
    }
    let mut reader = patient(LiveMode::Sse, Duration::from_secs(3));
    for _ in 0..20 {
        next_query(&mut reader, &mut now);
        reader.handle_answer(&events(), now);
        now += Duration::from_secs(60);
        reader.handle_end(Some("reset"), now);
    }
}

#[test]
fn each_attempt_that_brings_more_resets_the_delay() {
    let body: Vec<u8> = (0..400).map(|n| b'a' + (n % 26) as u8).collect();
    let mut reader = patient(LiveMode::Off, Duration::from_secs(3));
    let (mut given, mut most) = (0, 0);
    let (mut now, mut attempt) = (ZERO, 0_usize);
    let stop = loop {
        match reader.poll(now) {
            ReaderWant::Ask(_) => {
                attempt += 1;
                reader.handle_answer(
                    &answer(
                        200,
                        &[
                            ("Stream-Next-Offset", "y"),
                            ("Stream-Closed", "true"),
                            ("Content-Type", "text/plain"),
                        ],
                    ),
                    now,
                );
                let end = body.len().min(attempt * 10);
                reader.handle_bytes(Bytes::copy_from_slice(&body[..end]), now);
                reader.handle_end((end < body.len()).then_some("cut"), now);
            }
            ReaderWant::Piece(piece) => given += piece.content.units(),
            ReaderWant::Retry(retry) => most = most.max(retry.delay.as_millis()),
            ReaderWant::Wait(until) => now = until,
            ReaderWant::Stop(stop) => break stop,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!((stop, given, attempt), (ReaderStop::End(End::Closed), 400, 40));
    assert!(most <= 100, "{most} ms");
}

#[test]
fn events_are_as_quick_as_their_request_not_as_their_head() {
    let mut reader = patient(LiveMode::Sse, Duration::from_secs(3600));
    let mut now = ZERO;
    for _ in 0..20 {
        assert_eq!(next_query(&mut reader, &mut now), "live=sse&offset=x");
        now += ms(500);
        reader.handle_answer(&events(), now);
        reader.handle_bytes(X.into(), now);
        reader.handle_end(None, now);
    }
    // Quick ones still end the reader.
    let (stop, _, asked) = run(&mut reader, |reader, _, now| {
        reader.handle_answer(&events(), now);
        reader.handle_bytes(X.into(), now);
        reader.handle_end(None, now);
        now
    });
    assert!(matches!(stop, ReaderStop::NoProgress { .. }), "{stop:?}");
    assert_eq!(asked.len(), 5);
}

#[test]
fn event_connections_that_die_before_a_head_lead_to_long_polls() {
    let mut reader = reader(LiveMode::Auto, "-1");
    query(&mut reader, ZERO);
    reader.handle_answer(&json("y", true), ZERO);
    reader.handle_end(None, ZERO);
    let mut now = ZERO;
    // Refused connections say nothing about events.
    for _ in 0..5 {
        assert_eq!(next_query(&mut reader, &mut now), "live=sse&offset=y");
        reader.handle_failure("refused", now);
    }
    for _ in 0..3 {
        assert_eq!(next_query(&mut reader, &mut now), "live=sse&offset=y");
        now += ms(200);
        reader.handle_end(Some("closed before a response"), now);
    }
    assert_eq!(next_query(&mut reader, &mut now), "live=long-poll&offset=y");
    reader.handle_end(Some("closed before a response"), now);
    assert_eq!(next_query(&mut reader, &mut now), "live=long-poll&offset=y");
}

#[test]
fn what_comes_again_slowly_is_no_standstill() {
    let last = answer(
        200,
        &[("Stream-Next-Offset", "y"), ("Stream-Closed", "true"), ("Content-Type", "text/plain")],
    );
    let mut reader = patient(LiveMode::Off, Duration::from_secs(3));
    let (mut now, mut attempt, mut given) = (ZERO, 0, 0);
    let stop = loop {
        match reader.poll(now) {
            ReaderWant::Ask(_) => {
                attempt += 1;
                reader.handle_answer(&last, now);
            }
            ReaderWant::Bytes(until) => {
                // A byte per second: the second attempt needs longer than the limit until it brings something new.
                now += Duration::from_secs(1);
                assert!(now < until, "{now:?} {until:?}");
                reader.handle_bytes("x".into(), now);
                given += 1;
                if given == 10 {
                    reader.handle_end(Some("cut"), now);
                } else if given == 30 {
                    reader.handle_end(None, now);
                }
            }
            ReaderWant::Wait(until) => now = until,
            ReaderWant::Stop(stop) => break stop,
            _ => {}
        }
    };
    assert_eq!((stop, attempt), (ReaderStop::End(End::Closed), 2));
}
