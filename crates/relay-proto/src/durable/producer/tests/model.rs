//! The producer with a slow and simple server: answers are lost, requests come late and in any order.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use proptest::prelude::*;

use super::*;

/// A server as the protocol describes it, with the requests of one producer.
#[derive(Default)]
struct Server {
    epoch: u64,
    last: Option<u64>,
    log: Vec<u8>,
    largest: usize,
}

impl Server {
    fn post(&mut self, attempt: &Attempt) -> Answer {
        if attempt.epoch < self.epoch {
            return Answer::new(403).header("Producer-Epoch", self.epoch.to_string().as_bytes());
        }
        if attempt.epoch > self.epoch {
            if attempt.seq != 0 {
                return Answer::new(400);
            }
            (self.epoch, self.last) = (attempt.epoch, None);
        }
        let next = self.last.map_or(0, |last| last + 1);
        if attempt.seq < next {
            let answer = Answer::new(204).header("Producer-Epoch", self.epoch.to_string().as_bytes());
            return answer.header("Producer-Seq", (next - 1).to_string().as_bytes());
        }
        if attempt.seq > next {
            return gap(next);
        }
        if attempt.body.len() > self.largest {
            return Answer::new(413);
        }
        self.last = Some(attempt.seq);
        self.log.extend_from_slice(&attempt.body);
        ok(&self.log.len().to_string())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn each_message_once_and_in_order(
        messages in 1usize..40,
        in_flight in 1usize..6,
        items in 1usize..5,
        largest in 1usize..6,
        used_before in any::<bool>(),
        largest_batch in 1usize..5,
        owned in any::<bool>(),
        faults in proptest::collection::vec(0u8..12, 1..80),
    ) {
        let config = ProducerConfig::default().in_flight(in_flight).max_batch_items(items).auto_claim(used_before)
            // From a limit of 2 on, a message of one byte fits in half a batch, and messages are combined.
            .max_batch_bytes(largest_batch);
        let mut producer = Producer::new(config, 1);
        let mut server = Server { largest, ..Server::default() };
        if used_before {
            (server.epoch, server.last) = (0, Some(2));
        }
        for n in 0..messages {
            match owned && n % 2 == 0 {
                true => producer.push_owned(Bytes::copy_from_slice(&[n as u8]), n as u64 + 1, ZERO),
                false => producer.push(&[n as u8], n as u64 + 1, ZERO),
            }
        }
        producer.flush();
        let mut now = ZERO;
        let mut faults = faults.into_iter().chain(core::iter::repeat(11));
        // Requests in transit, and those that their sender has given up but that may still arrive.
        let mut on_the_way: BTreeMap<u64, Attempt> = BTreeMap::new();
        let mut late: Vec<Attempt> = Vec::new();
        let mut answers: Vec<(u64, Answer)> = Vec::new();
        let mut done = 0;
        let mut idle = 0;
        for _ in 0..5_000 {
            match producer.poll(now) {
                ProducerWant::Send(attempt) => {
                    idle = 0;
                    on_the_way.insert(attempt.ticket, attempt);
                }
                ProducerWant::Event(Event::Acknowledged(batch)) => {
                    prop_assert!(batch.mark > done, "in order");
                    done = batch.mark;
                    prop_assert!(server.log.len() as u64 >= done, "acknowledged means written");
                }
                ProducerWant::Event(_) => {}
                ProducerWant::Stop(stop) => prop_assert!(false, "stopped: {stop:?}"),
                want @ (ProducerWant::Wait(_) | ProducerWant::Idle) => {
                    if producer.is_idle() {
                        break;
                    }
                    let fault = faults.next().unwrap_or(11);
                    if fault == 10 && !answers.is_empty() {
                        let (ticket, answer) = answers.remove(0);
                        producer.handle_answer(ticket, &answer, now);
                        continue;
                    }
                    let ticket = if fault % 2 == 0 { on_the_way.keys().next() } else { on_the_way.keys().next_back() };
                    if let Some(attempt) = ticket.copied().and_then(|ticket| on_the_way.remove(&ticket)) {
                        let ticket = attempt.ticket;
                        match fault {
                            0 | 1 => producer.handle_failure(ticket, "refused", false, now),
                            2 => { late.push(attempt); producer.handle_failure(ticket, "lost", true, now); }
                            3 | 4 => { server.post(&attempt); producer.handle_failure(ticket, "cut", true, now); }
                            5 => producer.handle_answer(ticket, &Answer::new(503), now),
                            6 => { server.post(&attempt); producer.handle_answer(ticket, &Answer::new(500), now); }
                            8 | 9 => { let answer = server.post(&attempt); answers.push((ticket, answer)); }
                            _ => { let answer = server.post(&attempt); producer.handle_answer(ticket, &answer, now); }
                        }
                        if fault == 7 && !late.is_empty() {
                            server.post(&late.remove(0));
                        }
                    } else if !answers.is_empty() {
                        // Answers may overtake each other.
                        let (ticket, answer) = answers.remove(usize::from(fault) % answers.len());
                        producer.handle_answer(ticket, &answer, now);
                    } else if let ProducerWant::Wait(until) = want {
                        prop_assert!(until > now, "no busy loop");
                        now = until;
                    } else {
                        idle += 1;
                        prop_assert!(idle < 3, "waits for what never comes");
                    }
                }
            }
        }
        prop_assert!(producer.is_idle(), "delivered");
        for attempt in &late {
            server.post(attempt);
        }
        let expected: Vec<u8> = (0..messages).map(|n| n as u8).collect();
        prop_assert_eq!(server.log, expected);
    }
}
