use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use super::*;

mod table;

const ZERO: Duration = Duration::ZERO;

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn reader(mode: LiveMode, from: &str) -> Reader {
    let config = ReaderConfig::default().mode(mode).batch_bytes(8);
    Reader::new(config, Checkpoint::at(Offset::new(from).unwrap()), 1)
}

fn answer(status: u16, headers: &[(&str, &str)]) -> Answer {
    headers.iter().fold(Answer::new(status), |answer, (name, value)| answer.header(name, value.as_bytes()))
}

fn json(next: &str, up_to_date: bool) -> Answer {
    let answer = answer(200, &[("Stream-Next-Offset", next), ("Content-Type", "application/json")]);
    if up_to_date { answer.header("Stream-Up-To-Date", b"true") } else { answer }
}

fn events() -> Answer {
    answer(200, &[("Content-Type", "text/event-stream")])
}

/// Polls until the reader needs something from outside. Returns the data that it gave out on the way as short texts.
fn drain(reader: &mut Reader, now: Duration) -> (Vec<String>, ReaderWant) {
    let mut given = vec![];
    loop {
        match reader.poll(now) {
            ReaderWant::Piece(piece) => {
                let mut text: Vec<u8> = match &piece.content {
                    Content::Messages(messages) => messages.join(&b"|"[..]),
                    Content::Bytes(bytes) => bytes.to_vec(),
                };
                if piece.whole {
                    text.extend(format!("@{}", piece.checkpoint.offset).bytes());
                }
                if piece.up_to_date {
                    text.push(b'!');
                }
                given.push(String::from_utf8(text).unwrap());
            }
            ReaderWant::Retry(retry) => given.push(format!("retry: {}", retry.cause)),
            want => return (given, want),
        }
    }
}

fn query(reader: &mut Reader, now: Duration) -> String {
    match drain(reader, now) {
        (given, ReaderWant::Ask(ask)) if given.is_empty() => {
            if ask.head {
                "HEAD".into()
            } else {
                ask.query
            }
        }
        other => panic!("not a request: {other:?}"),
    }
}

/// The query of the next request, which is made after a pause or at once.
fn next_query(reader: &mut Reader, now: &mut Duration) -> String {
    loop {
        match drain(reader, *now) {
            (_, ReaderWant::Wait(until)) => *now = until,
            (_, ReaderWant::Ask(ask)) => return ask.query,
            other => panic!("not a request: {other:?}"),
        }
    }
}

fn stopped(reader: &mut Reader, now: Duration) -> ReaderStop {
    match drain(reader, now) {
        (_, ReaderWant::Stop(stop)) => stop,
        other => panic!("not at its end: {other:?}"),
    }
}

#[test]
fn catches_up_and_then_follows_by_events() {
    let mut reader = reader(LiveMode::Auto, "-1");
    assert_eq!(query(&mut reader, ZERO), "offset=-1");
    reader.handle_answer(&json("a+1", false), ZERO);
    reader.handle_bytes("[1,2".into(), ZERO);
    reader.handle_bytes("2]".into(), ZERO);
    reader.handle_end(None, ZERO);
    let (given, _) = (drain(&mut reader, ZERO).0, ());
    assert_eq!(given, ["1|22@a+1"]);
    reader.handle_answer(&json("a2", true), ZERO);
    reader.handle_bytes("[3]".into(), ZERO);
    reader.handle_end(None, ZERO);
    let (given, want) = drain(&mut reader, ZERO);
    assert_eq!(given, ["3@a2!"]);
    let ReaderWant::Ask(ask) = want else { panic!("{want:?}") };
    assert_eq!((ask.query.as_str(), ask.live), ("live=sse&offset=a2", Some(Live::Sse)));
    reader.handle_answer(&events(), ZERO);
    // Two data events before one control event are given out together. Data without a control event is dropped when the
    // connection ends.
    reader.handle_bytes("event: data\ndata: [4]\n\nevent: data\ndata: [5]\n\n".into(), ms(5));
    assert!(drain(&mut reader, ms(5)).0.is_empty());
    let control = "event: control\ndata: {\"streamNextOffset\":\"a3\",\"streamCursor\":\"7&\"}\n\n";
    reader.handle_bytes(control.into(), ms(6));
    reader.handle_bytes("event: news\ndata: x\n\nevent: data\ndata: [6]\n\n".into(), ms(7));
    assert_eq!(drain(&mut reader, ms(7)).0, ["4|5@a3"]);
    reader.handle_end(Some("reset"), ms(8));
    let mut now = ms(8);
    assert_eq!(next_query(&mut reader, &mut now), "cursor=7%26&live=sse&offset=a3");
    reader.handle_answer(&events(), now);
    let end = "event: data\ndata: [6]\n\nevent: control\ndata: {\"streamNextOffset\":\"a4\",\"streamClosed\":true}\n\n";
    reader.handle_bytes(end.into(), now);
    let (given, want) = drain(&mut reader, now);
    assert_eq!((given, want), (vec!["6@a4!".into()], ReaderWant::Stop(ReaderStop::End(End::Closed))));
}

#[test]
fn what_was_given_out_before_a_cut_is_skipped() {
    let mut reader = reader(LiveMode::Off, "x");
    query(&mut reader, ZERO);
    reader.handle_answer(&answer(200, &[("Stream-Next-Offset", "y")]), ZERO);
    reader.handle_bytes("0123456789abc".into(), ZERO);
    assert_eq!(drain(&mut reader, ZERO).0, ["01234567"]);
    assert_eq!(reader.position().skip, 8);
    reader.handle_end(Some("cut"), ZERO);
    let mut now = ZERO;
    assert_eq!(next_query(&mut reader, &mut now), "offset=x");
    // This answer is shorter than the data that was given out: the rest is skipped in the next answer.
    reader.handle_answer(&answer(200, &[("Stream-Next-Offset", "x5")]), now);
    reader.handle_bytes("01234".into(), now);
    reader.handle_end(None, now);
    assert_eq!(query(&mut reader, now), "offset=x5");
    assert_eq!(reader.position().skip, 3);
    let last = answer(200, &[("Stream-Next-Offset", "y"), ("Stream-Closed", "true")]);
    reader.handle_answer(&last, now);
    reader.handle_bytes("56789abc".into(), now);
    reader.handle_end(None, now);
    let (given, want) = drain(&mut reader, now);
    assert_eq!(given, ["89abc@y!"]);
    assert_eq!(want, ReaderWant::Stop(ReaderStop::End(End::Closed)));
    assert_eq!(reader.poll(now), ReaderWant::Stop(ReaderStop::Over));
}

#[test]
fn an_endless_cached_answer_ends() {
    let mut reader = reader(LiveMode::LongPoll, "x");
    let mut now = ZERO;
    for round in 0..5 {
        assert_eq!(next_query(&mut reader, &mut now), "live=long-poll&offset=x", "{round}");
        reader.handle_answer(&answer(200, &[("Stream-Next-Offset", "x")]), now + ms(1));
        reader.handle_bytes("again".into(), now + ms(1));
        reader.handle_end(None, now + ms(1));
        now += ms(1);
    }
    assert_eq!(stopped(&mut reader, now), ReaderStop::NoProgress { offset: Offset::new("x").unwrap() });
}

#[test]
fn a_quiet_stream_is_asked_once_per_answer() {
    let mut reader = reader(LiveMode::LongPoll, "x");
    let mut now = ZERO;
    for _ in 0..50 {
        next_query(&mut reader, &mut now);
        now += Duration::from_secs(30);
        reader
            .handle_answer(&answer(204, &[("Stream-Next-Offset", "x"), ("Stream-Up-To-Date", "true")]), now);
        let before = now;
        let (_, want) = drain(&mut reader, now);
        let ReaderWant::Wait(until) = want else { panic!("{want:?}") };
        assert!(until <= before + ms(100));
    }
}

#[test]
fn malformed_twice_from_one_offset() {
    for body in ["[1", "{}", "<html>", "[1}"] {
        let mut reader = reader(LiveMode::Off, "x");
        let mut now = ZERO;
        for _ in 0..2 {
            assert_eq!(next_query(&mut reader, &mut now), "offset=x");
            reader.handle_answer(&json("y", true), now);
            reader.handle_bytes(body.into(), now);
            reader.handle_end(None, now);
        }
        let stop = stopped(&mut reader, now);
        assert!(
            matches!(&stop, ReaderStop::Malformed { offset, .. } if offset.as_str() == "x"),
            "{body}: {stop:?}"
        );
    }
    let next = ("Stream-Next-Offset", "y");
    for bad in [
        answer(200, &[]),
        answer(204, &[]),
        answer(204, &[next, ("Stream-Up-To-Date", "true")]),
        answer(206, &[next]),
    ] {
        let mut reader = reader(LiveMode::Off, "x");
        let mut now = ZERO;
        for _ in 0..2 {
            next_query(&mut reader, &mut now);
            reader.handle_answer(&bad, now);
        }
        assert!(matches!(stopped(&mut reader, now), ReaderStop::Malformed { .. }), "{bad:?}");
    }
}

#[test]
fn an_offset_that_goes_back_is_no_offset() {
    let mut reader = reader(LiveMode::LongPoll, "5");
    let mut now = ZERO;
    next_query(&mut reader, &mut now);
    // The first offset may go back, because the reader may have asked for an offset beyond the end.
    reader.handle_answer(&answer(204, &[("Stream-Next-Offset", "3")]), now);
    for _ in 0..2 {
        assert_eq!(next_query(&mut reader, &mut now), "live=long-poll&offset=3");
        reader.handle_answer(&answer(200, &[("Stream-Next-Offset", "1")]), now);
        reader.handle_bytes("x".into(), now);
        reader.handle_end(None, now);
    }
    assert!(matches!(stopped(&mut reader, now), ReaderStop::Malformed { .. }));
}

#[test]
fn a_server_that_counts_without_padding_does_not_go_back() {
    let mut reader = reader(LiveMode::Off, "-1");
    for (at, offset) in ["9", "10", "100"].into_iter().enumerate() {
        query(&mut reader, ms(at as u64));
        reader.handle_answer(&json(offset, offset == "100"), ms(at as u64));
        reader.handle_bytes("[1]".into(), ms(at as u64));
        reader.handle_end(None, ms(at as u64));
        let ReaderWant::Piece(piece) = reader.poll(ms(at as u64)) else { panic!("no piece") };
        assert_eq!(piece.checkpoint.offset.as_str(), offset);
    }
    assert_eq!(stopped(&mut reader, ms(9)), ReaderStop::End(End::UpToDate));
}

#[test]
fn events_that_do_not_work_are_given_up_for_good() {
    let html = answer(200, &[("Content-Type", "text/html")]);
    for refusal in [answer(400, &[]), answer(405, &[]), answer(501, &[]), html.clone()] {
        let mut reader = reader(LiveMode::Auto, "-1");
        query(&mut reader, ZERO);
        reader.handle_answer(&json("y", true), ZERO);
        reader.handle_bytes("[]".into(), ZERO);
        reader.handle_end(None, ZERO);
        let mut now = ZERO;
        assert_eq!(next_query(&mut reader, &mut now), "live=sse&offset=y");
        reader.handle_answer(&refusal, now);
        assert_eq!(next_query(&mut reader, &mut now), "live=long-poll&offset=y");
    }
    let mut reader = reader(LiveMode::Sse, "y");
    assert_eq!(query(&mut reader, ZERO), "HEAD");
    reader.handle_answer(&json("z", false), ZERO);
    let mut now = ZERO;
    for _ in 0..2 {
        assert_eq!(next_query(&mut reader, &mut now), "live=sse&offset=y");
        reader.handle_answer(&html, now);
    }
    assert!(matches!(stopped(&mut reader, now), ReaderStop::Malformed { .. }));
}

#[test]
fn three_short_connections_lead_to_long_polls() {
    let mut reader = reader(LiveMode::Auto, "-1");
    query(&mut reader, ZERO);
    reader.handle_answer(&json("y", true), ZERO);
    reader.handle_end(None, ZERO);
    let mut now = ZERO;
    for _ in 0..3 {
        assert_eq!(next_query(&mut reader, &mut now), "live=sse&offset=y");
        reader.handle_answer(&events(), now);
        now += ms(200);
        reader.handle_end(None, now);
    }
    assert_eq!(next_query(&mut reader, &mut now), "live=long-poll&offset=y");
}

#[test]
fn now_is_resolved_before_events_and_polls() {
    for (mode, live) in [(LiveMode::Sse, "sse"), (LiveMode::LongPoll, "long-poll")] {
        let mut reader = reader(mode, "now");
        assert_eq!(query(&mut reader, ZERO), "HEAD");
        reader.handle_answer(
            &answer(200, &[("Stream-Next-Offset", "t"), ("Content-Type", "text/plain")]),
            ZERO,
        );
        assert_eq!(query(&mut reader, ZERO), format!("live={live}&offset=t"));
    }
    let mut closed = reader(LiveMode::Sse, "now");
    query(&mut closed, ZERO);
    closed.handle_answer(&answer(200, &[("Stream-Next-Offset", "t"), ("Stream-Closed", "true")]), ZERO);
    assert_eq!(drain(&mut closed, ZERO).1, ReaderWant::Stop(ReaderStop::End(End::Closed)));
}

#[test]
fn failures_are_retried_until_the_time_is_over() {
    let config = ReaderConfig::default().mode(LiveMode::Off).retry_for(Some(ms(700)));
    let mut reader = Reader::new(config, Checkpoint::at(Offset::START), 3);
    let mut now = ZERO;
    loop {
        match reader.poll(now) {
            ReaderWant::Ask(_) => reader.handle_failure("refused", now),
            ReaderWant::Wait(until) => now = until,
            ReaderWant::Retry(retry) => assert_eq!(retry.cause, "refused"),
            ReaderWant::Stop(stop) => {
                assert_eq!(stop, ReaderStop::OutOfTime { cause: "refused".into() });
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(now, ms(700));
    // If the requested wait is longer than the time that is left, the reader stops at once.
    let mut reader =
        Reader::new(ReaderConfig::default().retry_for(Some(ms(700))), Checkpoint::at(Offset::START), 3);
    reader.poll(ZERO);
    reader.handle_answer(&answer(503, &[("Retry-After", "3600")]), ZERO);
    assert!(matches!(stopped(&mut reader, ZERO), ReaderStop::OutOfTime { .. }));
}

#[test]
fn silence_is_a_failure_and_a_floor_is_kept() {
    let mut reader = reader(LiveMode::Off, "x");
    query(&mut reader, ZERO);
    let ReaderWant::Answer(until) = reader.poll(ZERO) else { panic!() };
    reader.handle_timeout(until - ms(1));
    assert_eq!(reader.poll(ZERO), ReaderWant::Answer(until));
    reader.handle_timeout(until);
    let mut now = until;
    next_query(&mut reader, &mut now);
    reader.handle_answer(&answer(429, &[("Retry-After", "20")]), now);
    let (_, want) = drain(&mut reader, now);
    assert!(matches!(want, ReaderWant::Wait(until) if until >= now + Duration::from_secs(20)), "{want:?}");
    for (status, refusal) in [(404, Refusal::NotFound), (410, Refusal::Gone), (401, Refusal::Unauthorised)] {
        let mut reader = self::reader(LiveMode::Auto, "x");
        query(&mut reader, ZERO);
        reader.handle_answer(&answer(status, &[]), ZERO);
        let stop = stopped(&mut reader, ZERO);
        assert!(matches!(stop, ReaderStop::Refused { refusal: r, .. } if r == refusal), "{stop:?}");
    }
}

#[test]
fn binary_events_and_long_messages() {
    let mut reader = reader(LiveMode::Sse, "x");
    query(&mut reader, ZERO);
    reader.handle_answer(&answer(200, &[("Content-Type", "application/x")]), ZERO);
    query(&mut reader, ZERO);
    reader.handle_answer(&events().header("stream-sse-data-encoding", b"base64"), ZERO);
    reader.handle_bytes("event: data\ndata: aGVs\ndata: bG8=\n\nevent: control\n".into(), ZERO);
    reader.handle_bytes("data: {\"streamNextOffset\":\"y\",\"upToDate\":true}\n\n".into(), ZERO);
    assert_eq!(drain(&mut reader, ZERO).0, ["hello@y!"]);
    reader.handle_bytes("event: data\ndata: aGVsb\n\n".into(), ZERO);
    assert_eq!(drain(&mut reader, ZERO).0.len(), 1, "told, and asked again");

    let config = ReaderConfig::default().mode(LiveMode::Off).max_message(4);
    let mut reader = Reader::new(config, Checkpoint::at(Offset::START), 1);
    reader.poll(ZERO);
    reader.handle_answer(&json("y", true), ZERO);
    reader.handle_bytes("[\"12345\"]".into(), ZERO);
    assert!(matches!(stopped(&mut reader, ZERO), ReaderStop::TooLarge { limit: 4, .. }));
}

mod standstill;
