use alloc::vec;
use alloc::vec::Vec;

use super::*;

mod lives;
mod model;

const ZERO: Duration = Duration::ZERO;

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn producer(in_flight: usize) -> Producer {
    Producer::new(ProducerConfig::default().in_flight(in_flight).max_batch_items(1), 1)
}

fn sent(producer: &mut Producer, now: &mut Duration) -> Attempt {
    loop {
        match producer.poll(*now) {
            ProducerWant::Send(attempt) => return attempt,
            ProducerWant::Wait(until) => *now = until,
            ProducerWant::Event(_) => {}
            other => panic!("nothing to send: {other:?}"),
        }
    }
}

fn ok(next: &str) -> Answer {
    Answer::new(200).header("Stream-Next-Offset", next.as_bytes())
}

fn gap(expected: u64) -> Answer {
    Answer::new(409).header("Producer-Expected-Seq", expected.to_string().as_bytes())
}

fn refused(producer: &mut Producer, now: Duration) -> Refused {
    loop {
        match producer.poll(now) {
            ProducerWant::Stop(stop) => return stop.refused,
            ProducerWant::Event(_) => {}
            other => panic!("not at its end: {other:?}"),
        }
    }
}

fn acknowledged(producer: &mut Producer, now: Duration) -> Vec<(u64, u64, bool, u32)> {
    let mut all = vec![];
    while let ProducerWant::Event(event) = producer.poll(now) {
        if let Event::Acknowledged(batch) = event {
            all.push((batch.seq, batch.mark, batch.duplicate, batch.attempts));
        }
    }
    all
}

#[test]
fn batches_are_filled_and_linger() {
    let config = ProducerConfig::default().json(true).max_batch_bytes(9).linger(ms(5));
    let mut producer = Producer::new(config, 1);
    for (at, message) in ["1", "22", "333", "4444444444"].iter().enumerate() {
        producer.push(message.as_bytes(), at as u64 + 1, ZERO);
    }
    let mut now = ZERO;
    let attempt = sent(&mut producer, &mut now);
    assert_eq!((attempt.body, attempt.seq, attempt.first), ("[1,22]".into(), 0, true));
    assert_eq!(producer.state().in_flight, [Bounds { seq: 0, first: 0, last: 2 }]);
    assert_eq!(producer.poll(now), ProducerWant::Idle, "one at a time");
    producer.handle_answer(attempt.ticket, &ok("a"), now);
    assert_eq!(producer.state().in_flight.len(), 0);
    producer.push(b"5", 5, now);
    let attempt = sent_after(&mut producer, &mut now, attempt.ticket);
    assert_eq!(attempt.body, "[333]");
}

/// The next attempt that is not the attempt with this ticket.
fn sent_after(producer: &mut Producer, now: &mut Duration, before: u64) -> Attempt {
    let mut attempt = sent(producer, now);
    while attempt.ticket == before {
        attempt = sent(producer, now);
    }
    attempt
}

#[test]
fn a_lost_answer_is_asked_for_again_with_the_same_bytes() {
    let mut producer = producer(1);
    producer.push(b"x", 7, ZERO);
    let mut now = ZERO;
    let first = sent(&mut producer, &mut now);
    producer.handle_failure(first.ticket, "reset", true, now);
    let second = sent(&mut producer, &mut now);
    assert!(now > ZERO && !second.first);
    assert_eq!((second.seq, &second.body, second.epoch), (first.seq, &first.body, first.epoch));
    producer.handle_answer(second.ticket, &Answer::new(204), now);
    assert_eq!(acknowledged(&mut producer, now), [(0, 7, true, 2)]);
    assert_eq!(producer.state(), ProducerState { epoch: 0, next_seq: 1, acknowledged: 7, in_flight: vec![] });
}

#[test]
fn a_first_duplicate_was_somebody_elses() {
    let mut producer = producer(1);
    producer.push(b"x", 1, ZERO);
    let mut now = ZERO;
    let attempt = sent(&mut producer, &mut now);
    // Nothing was sent, so this does not count as an attempt.
    producer.handle_failure(attempt.ticket, "refused", false, now);
    let attempt = sent(&mut producer, &mut now);
    assert!(attempt.first);
    producer.handle_answer(attempt.ticket, &Answer::new(204), now);
    assert_eq!(refused(&mut producer, now), Refused::UsedBefore { seq: 0 });
    assert_eq!(producer.state().in_flight, []);
}

#[test]
fn a_first_duplicate_is_written_for_who_says_so() {
    let mut producer = Producer::new(ProducerConfig::default().accept_duplicates(true), 1);
    producer.push(b"x", 1, ZERO);
    let mut now = ZERO;
    let attempt = sent(&mut producer, &mut now);
    producer.handle_answer(attempt.ticket, &Answer::new(204).header("Producer-Seq", b"7"), now);
    assert_eq!(acknowledged(&mut producer, now), [(0, 1, true, 1)]);
}

#[test]
fn a_restart_goes_on_one_epoch_higher_with_number_0() {
    let mut producer = producer(1);
    producer.push(b"x", 1, ZERO);
    let mut now = ZERO;
    let attempt = sent(&mut producer, &mut now);
    assert!(!producer.restart(), "something is on its way");
    producer.handle_answer(attempt.ticket, &ok("a"), now);
    assert!(producer.restart());
    producer.push(b"y", 2, now);
    let attempt = sent(&mut producer, &mut now);
    assert_eq!((attempt.epoch, attempt.seq, attempt.first), (1, 0, true));
    assert_eq!(producer.state().in_flight, [Bounds { seq: 0, first: 1, last: 2 }]);
    producer.handle_answer(attempt.ticket, &ok("b"), now);
    producer.close();
    assert!(!producer.restart(), "it is being closed");
}

#[test]
fn a_page_is_no_answer() {
    let mut producer = producer(1);
    producer.push(b"x", 1, ZERO);
    producer.close();
    let mut now = ZERO;
    let page = || Answer::new(200).header("Content-Type", b"Text/HTML; charset=utf-8");
    let first = sent(&mut producer, &mut now);
    producer.handle_answer(first.ticket, &page(), now);
    let second = sent(&mut producer, &mut now);
    assert_eq!((second.seq, &second.body), (first.seq, &first.body));
    producer.handle_answer(second.ticket, &ok("a"), now);
    let close = sent(&mut producer, &mut now);
    producer.handle_answer(close.ticket, &page(), now);
    let close = sent(&mut producer, &mut now);
    assert!(close.close && !close.first);
}

#[test]
fn claims_at_the_start_only() {
    for answer in
        [Answer::new(403).header("Producer-Epoch", b"4"), Answer::new(204).header("Producer-Epoch", b"4")]
    {
        let mut producer = Producer::new(ProducerConfig::default().auto_claim(true).epoch(4), 1);
        producer.push(b"x", 1, ZERO);
        let mut now = ZERO;
        let attempt = sent(&mut producer, &mut now);
        producer.handle_answer(attempt.ticket, &answer, now);
        let attempt = sent(&mut producer, &mut now);
        assert_eq!((attempt.epoch, attempt.seq, attempt.first), (5, 0, true));
        producer.handle_answer(attempt.ticket, &ok("a"), now);
        producer.push(b"y", 2, now);
        let attempt = sent(&mut producer, &mut now);
        producer.handle_answer(attempt.ticket, &Answer::new(403).header("Producer-Epoch", b"9"), now);
        assert_eq!(refused(&mut producer, now), Refused::Fenced { epoch: 9 });
    }
    // A later run that continues with batches of its own, acknowledged or sent before, does not claim the name.
    let bounds = Bounds { seq: 0, first: 0, last: 1 };
    for (next_seq, acknowledged, in_flight) in [(1, 1, vec![]), (1, 0, vec![bounds])] {
        let state = ProducerState { epoch: 4, next_seq, acknowledged, in_flight };
        let mut producer = Producer::resume(ProducerConfig::default().auto_claim(true), &state, 1);
        for _ in &state.in_flight {
            producer.push_batch([(&b"x"[..], 1)].into_iter(), ZERO);
        }
        producer.push(b"y", 2, ZERO);
        let mut now = ZERO;
        let attempt = sent(&mut producer, &mut now);
        producer.handle_answer(attempt.ticket, &Answer::new(403).header("Producer-Epoch", b"9"), now);
        assert_eq!(refused(&mut producer, now), Refused::Fenced { epoch: 9 });
    }
}

#[test]
fn a_gap_waits_for_what_is_out_and_is_final_otherwise() {
    let mut producer = producer(5);
    let mut now = ZERO;
    producer.push(b"0", 1, ZERO);
    let first = sent(&mut producer, &mut now);
    producer.handle_answer(first.ticket, &ok("a"), now);
    for mark in 2..=3 {
        producer.push(b"x", mark, now);
    }
    let (one, two) = (sent(&mut producer, &mut now), sent(&mut producer, &mut now));
    assert_eq!((one.seq, two.seq), (1, 2));
    producer.handle_answer(two.ticket, &gap(1), now);
    assert_eq!(acknowledged(&mut producer, now), [], "taken before");
    producer.handle_failure(one.ticket, "reset", true, now);
    let one = sent(&mut producer, &mut now);
    assert_eq!(one.seq, 1);
    producer.handle_answer(one.ticket, &ok("b"), now);
    let two = sent(&mut producer, &mut now);
    assert_eq!(two.seq, 2);
    // The server has lost its state.
    producer.handle_answer(two.ticket, &gap(0), now);
    assert_eq!(refused(&mut producer, now), Refused::Gap { expected: 0, seq: 2 });
    assert_eq!(producer.state().acknowledged, 2);
}

#[test]
fn too_large_a_batch_is_halved_and_too_large_a_message_is_named() {
    let mut producer = Producer::new(ProducerConfig::default().json(true), 1);
    for (at, message) in ["1", "2", "3"].iter().enumerate() {
        producer.push(message.as_bytes(), at as u64 + 1, ZERO);
    }
    producer.flush();
    let mut now = ZERO;
    let mut bodies = vec![];
    loop {
        let attempt = sent(&mut producer, &mut now);
        bodies.push((attempt.seq, String::from_utf8(attempt.body.to_vec()).unwrap()));
        if attempt.body.len() > 3 || attempt.body == "[3]" {
            producer.handle_answer(attempt.ticket, &Answer::new(413), now);
        } else {
            producer.handle_answer(attempt.ticket, &ok("a"), now);
        }
        if attempt.body == "[3]" {
            break;
        }
    }
    let expected = [(0, "[1,2,3]"), (0, "[1]"), (1, "[2,3]"), (1, "[2]"), (2, "[3]")];
    assert_eq!(bodies, expected.map(|(seq, body)| (seq, body.into())));
    assert_eq!(refused(&mut producer, now), Refused::TooLarge { message: 3, bytes: 1 });
}

#[test]
fn closes_with_the_next_number_and_again() {
    let mut producer = producer(1);
    producer.push(b"x", 1, ZERO);
    producer.close();
    let mut now = ZERO;
    let attempt = sent(&mut producer, &mut now);
    producer.handle_answer(attempt.ticket, &ok("a"), now);
    let close = sent(&mut producer, &mut now);
    assert_eq!((close.seq, close.close, close.body.len()), (1, true, 0));
    producer.handle_failure(close.ticket, "reset", true, now);
    let close = sent(&mut producer, &mut now);
    assert_eq!((close.seq, close.close), (1, true));
    producer.handle_answer(close.ticket, &Answer::new(204).header("Stream-Next-Offset", b"z"), now);
    let ProducerWant::Event(Event::Closed { offset }) = producer.poll(now) else { panic!("not closed") };
    assert_eq!(offset.unwrap().as_str(), "z");
    assert!(producer.is_closed());
    assert_eq!(producer.poll(now), ProducerWant::Idle);
}

#[test]
fn what_was_in_flight_goes_out_again_as_it_was() {
    let state = ProducerState {
        epoch: 3,
        next_seq: 6,
        acknowledged: 10,
        in_flight: vec![Bounds { seq: 5, first: 10, last: 14 }],
    };
    let config = ProducerConfig::default().auto_claim(true);
    let mut producer = Producer::resume(config, &state, 1);
    producer.push_batch([(&b"ab"[..], 12), (b"cd", 14)].into_iter(), ZERO);
    producer.push(b"ef", 16, ZERO);
    assert_eq!(producer.state(), state);
    let mut now = ZERO;
    let attempt = sent(&mut producer, &mut now);
    assert_eq!((attempt.epoch, attempt.seq, attempt.body), (3, 5, "abcd".into()));
    producer.handle_answer(attempt.ticket, &Answer::new(204), now);
    assert_eq!(acknowledged(&mut producer, now), [(5, 14, true, 1)]);
    let attempt = sent(&mut producer, &mut now);
    assert_eq!((attempt.seq, attempt.body), (6, "ef".into()));
    producer.handle_answer(attempt.ticket, &Answer::new(403).header("Producer-Epoch", b"4"), now);
    assert_eq!(refused(&mut producer, now), Refused::Fenced { epoch: 4 });
}

#[test]
fn every_other_refusal_is_final() {
    let closed = Answer::new(409).header("Stream-Closed", b"true").header("Stream-Next-Offset", b"e");
    for answer in [400, 401, 403, 404, 405, 409, 410, 501, 302].map(Answer::new).into_iter().chain([closed]) {
        let mut producer = producer(1);
        producer.push(b"x", 1, ZERO);
        let mut now = ZERO;
        let attempt = sent(&mut producer, &mut now);
        producer.handle_answer(attempt.ticket, &answer, now);
        let stop = refused(&mut producer, now);
        assert!(matches!(stop, Refused::Refusal { status, .. } if status == answer.status()), "{stop:?}");
        // An answer that comes too late changes nothing.
        producer.handle_answer(attempt.ticket, &ok("a"), now);
        assert_eq!(refused(&mut producer, now), stop);
    }
}

#[test]
fn the_buffer_is_bounded() {
    let config = ProducerConfig::default().max_buffer(100);
    let mut producer = Producer::new(config, 1);
    assert!(producer.has_room(1000), "one message always");
    producer.push(&[0; 40], 1, ZERO);
    assert!(!producer.has_room(40));
    producer.flush();
    let mut now = ZERO;
    let attempt = sent(&mut producer, &mut now);
    producer.handle_answer(attempt.ticket, &ok("a"), now);
    assert_eq!(producer.load(), 0);
    assert!(producer.is_idle());
}

#[test]
fn the_time_without_an_acknowledgement_cuts_an_attempt() {
    let config = ProducerConfig::default().max_batch_items(1).retry_for(Some(ms(3000)));
    let mut producer = Producer::new(config, 1);
    // A pause of the input does not count.
    assert_eq!(producer.poll(ms(60_000)), ProducerWant::Idle);
    producer.push(b"x", 1, ms(60_000));
    producer.push(b"y", 2, ms(60_000));
    let mut now = ms(60_000);
    let attempt = sent(&mut producer, &mut now);
    assert_eq!(producer.poll(now), ProducerWant::Wait(ms(63_000)));
    // An acknowledgement is progress.
    now = ms(62_900);
    producer.handle_answer(attempt.ticket, &ok("a"), now);
    let attempt = sent(&mut producer, &mut now);
    assert_eq!(producer.poll(now), ProducerWant::Wait(ms(65_900)));
    // A failure is none: the time goes on, and the next attempt is cut.
    now = ms(64_900);
    producer.handle_failure(attempt.ticket, "status 503", true, now);
    sent(&mut producer, &mut now);
    let ProducerWant::Wait(until) = producer.poll(now) else { panic!("no deadline") };
    assert_eq!(until, ms(65_900));
    assert_eq!(refused(&mut producer, until), Refused::OutOfTime { cause: "status 503".into() });
}

#[test]
fn a_last_attempt_has_half_a_second_and_a_close_is_cut_too() {
    let config = ProducerConfig::default().retry_base(ms(9000)).retry_for(Some(ms(100)));
    let mut producer = Producer::new(config, 1);
    producer.close();
    let mut now = ZERO;
    let attempt = sent(&mut producer, &mut now);
    producer.handle_failure(attempt.ticket, "reset", true, now);
    sent(&mut producer, &mut now);
    assert!(now <= ms(100), "{now:?}");
    assert_eq!(producer.poll(now), ProducerWant::Wait(now + ms(500)));
    assert!(matches!(refused(&mut producer, now + ms(500)), Refused::OutOfTime { .. }));
}

#[test]
fn there_is_no_epoch_after_the_last_one() {
    for answer in [
        Answer::new(403).header("Producer-Epoch", MAX_NUMBER.to_string().as_bytes()),
        Answer::new(204).header("Producer-Epoch", MAX_NUMBER.to_string().as_bytes()),
    ] {
        let mut producer = Producer::new(ProducerConfig::default().auto_claim(true), 1);
        producer.push(b"x", 1, ZERO);
        let mut now = ZERO;
        let attempt = sent(&mut producer, &mut now);
        producer.handle_answer(attempt.ticket, &answer, now);
        let refused = refused(&mut producer, now);
        let end = [Refused::Fenced { epoch: MAX_NUMBER }, Refused::UsedBefore { seq: 0 }];
        assert!(end.contains(&refused), "{refused:?}");
        assert_eq!(producer.epoch(), 0);
    }
}

#[test]
fn an_acknowledgement_is_progress_for_the_batches_behind_it() {
    let config = ProducerConfig::default().max_batch_items(1).in_flight(2).retry_for(Some(ms(3000)));
    let mut producer = Producer::new(config, 1);
    let mut now = ZERO;
    for mark in 1..=3 {
        producer.push(b"x", mark, now);
    }
    // The first one finds out about the epoch; then two are under way.
    let first = sent(&mut producer, &mut now);
    producer.handle_answer(first.ticket, &ok("a"), now);
    let second = sent(&mut producer, &mut now);
    sent(&mut producer, &mut now);
    now += ms(2900);
    producer.handle_answer(second.ticket, &ok("b"), now);
    acknowledged(&mut producer, now);
    assert_eq!(producer.poll(now), ProducerWant::Wait(now + ms(3000)));
}
