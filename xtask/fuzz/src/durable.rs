//! Properties of the machines of durable streams and of the array splitter: functions that panic on a violation.

use std::collections::VecDeque;
use std::time::Duration;

use relay_proto::durable::{
    Answer, ArraySplitter, Checkpoint, Event, LiveMode, Offset, Producer, ProducerConfig, ProducerWant, Reader,
    ReaderConfig, ReaderWant,
};

/// An array has the same messages and the same errors, however it is cut.
pub fn array_split(input: &[u8]) {
    let Some((&size, text)) = input.split_first() else { return };
    let whole = split(text, text.len().max(1));
    assert_eq!(split(text, usize::from(size).max(1)), whole);
    assert_eq!(split(text, 1), whole);
}

fn split(text: &[u8], size: usize) -> (Vec<Vec<u8>>, bool) {
    let mut splitter = ArraySplitter::new(64);
    let mut messages = Vec::new();
    for chunk in text.chunks(size) {
        splitter.feed(chunk.to_vec());
        loop {
            match splitter.next_message() {
                Ok(Some(message)) => {
                    assert!(message.len() <= 64 && !message.is_empty());
                    messages.push(message.to_vec());
                }
                Ok(None) => break,
                Err(_) => return (messages, false),
            }
        }
    }
    (messages, splitter.finish().is_ok())
}

/// A run of a reader: it always waits for input or for a future time, pieces never go back, and it wants nothing more
/// after its end.
///
/// Input: a byte of settings, then one byte per step, some followed by arguments.
pub fn reader_life(input: &[u8]) {
    let Some((&settings, mut happenings)) = input.split_first() else { return };
    let mode = [LiveMode::Off, LiveMode::Auto, LiveMode::LongPoll, LiveMode::Sse][usize::from(settings & 3)];
    let config = ReaderConfig::default().mode(mode).batch_bytes(16).max_message(64);
    let from = if settings & 4 == 0 { Offset::START } else { Offset::NOW };
    let mut reader = Reader::new(config, Checkpoint::at(from), settings.into());
    let mut now = Duration::ZERO;
    let mut ended = false;
    loop {
        let mut deadline = None;
        // Requests and reports always come to an end.
        for step in 0.. {
            assert!(step < 10_000, "a busy loop");
            match reader.poll(now) {
                ReaderWant::Ask(ask) => assert!(!ended && !ask.query.contains(' ')),
                ReaderWant::Piece(piece) => {
                    assert!(!ended);
                    assert!(piece.whole || piece.checkpoint.skip > 0);
                }
                ReaderWant::Retry(_) => assert!(!ended),
                ReaderWant::Answer(until) | ReaderWant::Bytes(until) => {
                    deadline = Some(until);
                    break;
                }
                ReaderWant::Wait(until) => {
                    assert!(until > now, "a wait that is over");
                    deadline = Some(until);
                    break;
                }
                _ => {
                    ended = true;
                    break;
                }
            }
        }
        let Some((&happening, rest)) = happenings.split_first() else { return };
        let size = rest.len().min(usize::from(happening >> 4));
        let (argument, rest) = rest.split_at(size);
        happenings = rest;
        let offset = format!("{:02}", argument.first().copied().unwrap_or(0));
        let said = |status| Answer::new(status).header("stream-next-offset", offset.as_bytes());
        let json = |answer: Answer| answer.header("content-type", b"application/json");
        match happening & 15 {
            0 => reader.handle_answer(&json(said(200)), now),
            1 => reader.handle_answer(&json(said(200)).header("stream-up-to-date", b"true"), now),
            2 => reader.handle_answer(&said(200).header("stream-cursor", argument), now),
            3 => reader.handle_answer(&said(204).header("stream-closed", argument), now),
            4 => reader.handle_answer(&Answer::new(200).header("content-type", b"text/event-stream"), now),
            5 => {
                let status = argument.iter().fold(100, |sum: u16, byte| sum.wrapping_add((*byte).into()));
                reader.handle_answer(&Answer::new(status).header("retry-after", argument), now);
            }
            6 | 7 => reader.handle_bytes(argument.to_vec().into(), now),
            8 => reader.handle_bytes(b"[1,\"two\",{}".to_vec().into(), now),
            9 => reader.handle_bytes(b"event: data\ndata:[1,2]\n\n".to_vec().into(), now),
            10 => {
                let event = format!("event: control\ndata:{{\"streamNextOffset\":\"{offset}\"}}\n\n");
                reader.handle_bytes(event.into_bytes().into(), now);
            }
            11 => reader.handle_end(None, now),
            12 => reader.handle_end(Some("cut"), now),
            13 => reader.handle_failure("refused", now),
            _ => {
                now = now.max(deadline.unwrap_or(now));
                reader.handle_timeout(now);
            }
        }
    }
}

/// A run of a producer with a server that sends anything: batches are acknowledged in order and once, numbers of an
/// epoch grow by one, nothing is sent after a final failure, and there is never a busy loop.
///
/// Input: a byte of settings, then one byte per step.
pub fn producer_life(input: &[u8]) {
    let Some((&settings, happenings)) = input.split_first() else { return };
    let config = ProducerConfig::default()
        .json(settings & 1 == 1)
        .auto_claim(settings & 2 == 2)
        .in_flight(1 + usize::from(settings >> 2 & 3))
        .max_batch_items(1 + usize::from(settings >> 4 & 3))
        .linger(Duration::from_millis(u64::from(settings >> 6)));
    let mut producer = Producer::new(config, settings.into());
    let (mut now, mut mark, mut acknowledged) = (Duration::ZERO, 0, 0);
    let mut out: VecDeque<u64> = VecDeque::new();
    let mut stopped = false;
    for &happening in happenings {
        let mut deadline = None;
        for step in 0.. {
            assert!(step < 10_000, "a busy loop");
            match producer.poll(now) {
                ProducerWant::Send(attempt) => {
                    assert!(!stopped && (attempt.close || !attempt.body.is_empty()));
                    out.push_back(attempt.ticket);
                }
                ProducerWant::Event(Event::Acknowledged(batch)) => {
                    assert!(batch.mark > acknowledged && batch.mark <= mark, "in order, and only what was given");
                    acknowledged = batch.mark;
                }
                ProducerWant::Event(_) => {}
                ProducerWant::Wait(until) => {
                    assert!(until > now, "a wait that is over");
                    deadline = Some(until);
                    break;
                }
                ProducerWant::Stop(_) => {
                    stopped = true;
                    break;
                }
                _ => break,
            }
        }
        let state = producer.state();
        assert_eq!(state.acknowledged, acknowledged);
        assert!(state.in_flight.windows(2).all(|two| two[0].seq + 1 == two[1].seq && two[0].last == two[1].first));
        let argument = u64::from(happening >> 4);
        let mut ticket = || if argument & 1 == 0 { out.pop_front() } else { out.pop_back() };
        let number = argument.to_string();
        let mut answer = |producer: &mut Producer, answer: Answer| {
            if let Some(ticket) = ticket() {
                producer.handle_answer(ticket, &answer, now);
            }
        };
        match happening & 15 {
            0..=2 => {
                mark += 1;
                producer.push(b"1", mark, now);
            }
            3 | 4 => answer(&mut producer, Answer::new(200)),
            5 => answer(&mut producer, Answer::new(204).header("producer-seq", number.as_bytes())),
            6 => answer(&mut producer, Answer::new(503)),
            7 => answer(&mut producer, Answer::new(413)),
            8 => answer(&mut producer, Answer::new(409).header("producer-expected-seq", number.as_bytes())),
            9 => answer(&mut producer, Answer::new(403).header("producer-epoch", number.as_bytes())),
            10 => answer(&mut producer, Answer::new(409).header("stream-closed", b"true")),
            11 => {
                if let Some(ticket) = ticket() {
                    producer.handle_failure(ticket, "lost", argument & 2 == 0, now);
                }
            }
            12 => producer.flush(),
            13 if argument > 12 => producer.close(),
            13 => {
                producer.restart();
            }
            _ => now = now.max(deadline.unwrap_or(now)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Many short runs, from a generator that needs no dependency.
    #[test]
    fn random_lives() {
        let mut state = 1_u64;
        for length in (0..4_000).map(|at| at % 120) {
            let mut input = Vec::with_capacity(length);
            for _ in 0..length {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                input.push((state >> 33) as u8);
            }
            reader_life(&input);
            producer_life(&input);
            array_split(&input);
            let text: Vec<u8> = input.iter().map(|byte| b"[]{},\"\\ 1a\n:"[usize::from(byte % 12)]).collect();
            array_split(&text);
        }
    }
}
