//! Two producers that are killed and started again, with a slow and simple server that is also restarted: answers are
//! lost, requests come late and in any order, and one producer may take over the other's name.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::ToString;
use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

use proptest::prelude::*;

use super::*;

/// A server as the protocol describes it. A restart loses its connections and nothing else.
#[derive(Default)]
struct Server {
    /// The epoch and the last number of each name.
    producers: BTreeMap<&'static str, (u64, Option<u64>)>,
    log: Vec<u8>,
    largest: usize,
}

impl Server {
    fn post(&mut self, name: &'static str, attempt: &Attempt) -> Answer {
        let (epoch, last) = self.producers.get(name).copied().unwrap_or((attempt.epoch, None));
        let known = |answer: Answer| answer.header("Producer-Epoch", epoch.to_string().as_bytes());
        if attempt.epoch < epoch {
            return known(Answer::new(403));
        }
        let last = if attempt.epoch > epoch { None } else { last };
        let next = last.map_or(0, |last| last + 1);
        match attempt.seq {
            seq if attempt.epoch > epoch && seq != 0 => return Answer::new(400),
            seq if seq < next => {
                return known(Answer::new(204)).header("Producer-Seq", (next - 1).to_string().as_bytes());
            }
            seq if seq > next => return gap(next),
            _ if attempt.body.len() > self.largest => return Answer::new(413),
            _ => {}
        }
        self.producers.insert(name, (attempt.epoch, Some(attempt.seq)));
        self.log.extend_from_slice(&attempt.body);
        ok(&self.log.len().to_string())
    }
}

/// A program that can read its input again after a restart, and a state that survives the restart.
struct Program {
    name: &'static str,
    /// Its messages, one byte each.
    input: Range<u8>,
    config: ProducerConfig,
    producer: Producer,
    stored: Option<ProducerState>,
    /// The number of messages that were given to the producer in this run.
    fed: u64,
    /// The number of messages that were acknowledged to any run.
    acknowledged: u64,
    /// The time of the last failed attempt in this run.
    failed: Option<Duration>,
    stopped: Option<Refused>,
    life: u32,
}

impl Program {
    fn new(name: &'static str, input: Range<u8>, config: ProducerConfig) -> Self {
        let producer = Producer::new(config.clone(), 1);
        Self {
            name,
            input,
            config,
            producer,
            stored: None,
            fed: 0,
            acknowledged: 0,
            failed: None,
            stopped: None,
            life: 0,
        }
    }

    fn message(&self, mark: u64) -> u8 {
        self.input.start + u8::try_from(mark).unwrap()
    }

    /// The program is killed, and started again with the same input.
    fn begin_again(&mut self, now: Duration) {
        self.life += 1;
        self.failed = None;
        let seed = u64::from(self.life);
        let Some(state) = self.stored.clone() else {
            (self.producer, self.fed) = (Producer::new(self.config.clone(), seed), 0);
            return;
        };
        self.producer = Producer::resume(self.config.clone(), &state, seed);
        self.fed = state.acknowledged;
        for bounds in &state.in_flight {
            assert_eq!(bounds.first, self.fed, "bounds follow each other");
            let messages: Vec<_> =
                (bounds.first..bounds.last).map(|at| ([self.message(at)], at + 1)).collect();
            self.producer.push_batch(messages.iter().map(|(message, mark)| (&message[..], *mark)), now);
            self.fed = bounds.last;
        }
    }

    fn feed(&mut self, most: u64, now: Duration) {
        let end = self.input.len() as u64;
        for _ in 0..most {
            if self.fed < end && self.stopped.is_none() {
                self.producer.push(&[self.message(self.fed)], self.fed + 1, now);
                self.fed += 1;
            }
        }
        if self.fed == end {
            self.producer.flush();
        }
    }

    fn is_done(&self) -> bool {
        self.stopped.is_some() || (self.fed == self.input.len() as u64 && self.producer.is_idle())
    }
}

/// A request that was sent in one of a program's runs.
struct Request {
    program: usize,
    life: u32,
    attempt: Attempt,
}

struct World {
    server: Server,
    programs: Vec<Program>,
    now: Duration,
    on_the_way: Vec<Request>,
    /// Requests that their sender has given up, but that may still arrive.
    late: Vec<Request>,
    answers: Vec<(Request, Answer)>,
}

impl World {
    /// Polls a program until it needs something from outside. Returns the time until which it waits.
    fn drain(&mut self, at: usize) -> Option<Duration> {
        let program = &mut self.programs[at];
        for _ in 0..1_000 {
            match program.producer.poll(self.now) {
                ProducerWant::Send(attempt) => {
                    assert!(
                        program.failed.is_none_or(|failed| failed < self.now),
                        "no delay behind a failure"
                    );
                    if attempt.first {
                        program.stored = Some(program.producer.state());
                    }
                    let life = program.life;
                    self.on_the_way.push(Request { program: at, life, attempt });
                }
                ProducerWant::Event(Event::Acknowledged(batch)) => {
                    // After a restart, a program may get an acknowledgement again that the run before did not get.
                    assert!(batch.mark > program.acknowledged || program.life > 0, "in order");
                    program.acknowledged = program.acknowledged.max(batch.mark);
                    let written: BTreeSet<u8> = self.server.log.iter().copied().collect();
                    assert!((0..batch.mark).all(|mark| written.contains(&program.message(mark))), "written");
                }
                ProducerWant::Event(_) => {}
                ProducerWant::Stop(stop) => {
                    program.stored = Some(program.producer.state());
                    program.stopped = Some(stop.refused);
                    return None;
                }
                ProducerWant::Wait(until) => {
                    assert!(until > self.now, "a deadline that is over is no deadline");
                    return Some(until);
                }
                ProducerWant::Idle => return None,
            }
        }
        panic!("a busy loop");
    }

    fn failed(&mut self, request: &Request, sent: bool) {
        let program = &mut self.programs[request.program];
        if program.life == request.life && program.stopped.is_none() {
            program.producer.handle_failure(request.attempt.ticket, "lost", sent, self.now);
            program.failed = Some(self.now);
        }
    }

    fn answered(&mut self, request: &Request, answer: &Answer) {
        let program = &mut self.programs[request.program];
        if program.life == request.life {
            program.producer.handle_answer(request.attempt.ticket, answer, self.now);
            if answer.status() >= 500 {
                program.failed = Some(self.now);
            }
        }
    }

    fn post(&mut self, request: &Request) -> Answer {
        self.server.post(self.programs[request.program].name, &request.attempt)
    }

    /// One step: `what` chooses the kind, and `which` the program, request or answer.
    fn happens(&mut self, what: u8, which: usize) -> bool {
        let pick = |length: usize| which % length.max(1);
        match what {
            // A program is killed. Its requests may still arrive.
            0 => {
                let at = pick(self.programs.len());
                if self.programs[at].stopped.is_some() {
                    return false;
                }
                let (gone, kept) =
                    core::mem::take(&mut self.on_the_way).into_iter().partition(|r| r.program == at);
                self.on_the_way = kept;
                self.late.extend::<Vec<_>>(gone);
                self.programs[at].begin_again(self.now);
                true
            }
            // The server is restarted: all requests without an answer fail.
            1 => {
                for (at, request) in core::mem::take(&mut self.on_the_way).into_iter().enumerate() {
                    if (which >> (at % 8)) & 1 == 1 {
                        self.post(&request);
                    }
                    self.failed(&request, true);
                }
                for (request, _) in core::mem::take(&mut self.answers) {
                    self.failed(&request, true);
                }
                true
            }
            // A late request arrives.
            2 if !self.late.is_empty() => {
                let request = self.late.remove(pick(self.late.len()));
                self.post(&request);
                true
            }
            // An answer arrives.
            3 | 4 if !self.answers.is_empty() => {
                let (request, answer) = self.answers.remove(pick(self.answers.len()));
                self.answered(&request, &answer);
                true
            }
            _ if !self.on_the_way.is_empty() => {
                let request = self.on_the_way.remove(pick(self.on_the_way.len()));
                match what {
                    5 => self.failed(&request, false),
                    6 => {
                        self.failed(&request, true);
                        self.late.push(request);
                    }
                    7 => {
                        self.post(&request);
                        self.failed(&request, true);
                    }
                    8 => self.answered(&request, &Answer::new(503)),
                    9 => {
                        self.post(&request);
                        self.answered(&request, &Answer::new(500));
                    }
                    10 | 11 => {
                        let answer = self.post(&request);
                        self.answers.push((request, answer));
                    }
                    _ => {
                        let answer = self.post(&request);
                        self.answered(&request, &answer);
                    }
                }
                true
            }
            _ if !self.answers.is_empty() => self.happens(3, which),
            _ => false,
        }
    }

    /// Runs until all programs are done. `script` has the faults; after its end nothing fails any more.
    fn run(&mut self, script: &[(u8, u8)]) {
        let mut script = script.iter().map(|(what, which)| (*what, usize::from(*which)));
        for _ in 0..20_000 {
            let mut until = vec![];
            for at in 0..self.programs.len() {
                self.programs[at].feed(1, self.now);
                if self.programs[at].stopped.is_none() {
                    until.extend(self.drain(at));
                }
            }
            if self.programs.iter().all(Program::is_done) {
                return;
            }
            let (what, which) = script.next().unwrap_or((12, 0));
            let feeding = self
                .programs
                .iter()
                .any(|program| program.stopped.is_none() && program.fed < program.input.len() as u64);
            if !self.happens(what, which) && !feeding {
                // Nothing arrives: the programs that are not done wait until the next time.
                match until.iter().min() {
                    Some(until) => self.now = *until,
                    None if what < 3 => {}
                    None => panic!("waits for what never comes"),
                }
            }
        }
        panic!("not delivered");
    }

    /// Delivers the late requests. Then each program's messages must be in the log once and in order, and at least
    /// those that were acknowledged.
    fn check(mut self) {
        while let Some(request) = self.late.pop() {
            self.post(&request);
        }
        for program in &self.programs {
            let written: Vec<u8> =
                self.server.log.iter().copied().filter(|byte| program.input.contains(byte)).collect();
            let expected: Vec<u8> = program.input.clone().take(written.len()).collect();
            assert_eq!(written, expected, "{}, {:?}", program.name, program.stopped);
            assert!(written.len() as u64 >= program.acknowledged, "what was acknowledged is there");
            if program.stopped.is_none() {
                assert_eq!(written.len(), program.input.len(), "all of it is there");
            }
        }
        assert!(self.server.log.len() <= self.programs.iter().map(|program| program.input.len()).sum());
    }
}

fn config(in_flight: usize, items: usize) -> ProducerConfig {
    ProducerConfig::default().in_flight(in_flight).max_batch_items(items)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn two_producers_through_lives_of_theirs_and_of_the_server(
        messages in (1u8..40, 1u8..40),
        in_flight in (1usize..6, 1usize..6),
        items in (1usize..5, 1usize..5),
        largest in 1usize..6,
        claims in any::<bool>(),
        script in proptest::collection::vec((0u8..13, any::<u8>()), 1..120),
    ) {
        let programs = vec![
            Program::new("one", 0..messages.0, config(in_flight.0, items.0).auto_claim(claims)),
            Program::new("other", 100..100 + messages.1, config(in_flight.1, items.1)),
        ];
        let mut server = Server { largest, ..Server::default() };
        if claims {
            server.producers.insert("one", (0, Some(2)));
        }
        let mut world = World { server, programs, now: ZERO, on_the_way: vec![], late: vec![], answers: vec![] };
        world.run(&script);
        let stopped: Vec<_> = world.programs.iter().filter_map(|program| program.stopped.clone()).collect();
        prop_assert_eq!(stopped, vec![]);
        world.check();
    }

    #[test]
    fn a_name_is_taken_over_and_nothing_is_written_by_the_one_that_had_it(
        messages in (1u8..40, 1u8..40),
        in_flight in (1usize..6, 1usize..6),
        items in (1usize..5, 1usize..5),
        claims in any::<(bool, bool)>(),
        script in proptest::collection::vec((0u8..13, any::<u8>()), 1..120),
        before in 0usize..80,
    ) {
        let first = Program::new("one", 0..messages.0, config(in_flight.0, items.0).auto_claim(claims.0));
        let second = config(in_flight.1, items.1);
        let mut world = World {
            server: Server { largest: 9, ..Server::default() },
            programs: vec![first], now: ZERO, on_the_way: vec![], late: vec![], answers: vec![],
        };
        let (early, rest) = script.split_at(before.min(script.len()));
        for (what, which) in early {
            world.programs[0].feed(1, world.now);
            let until = world.drain(0);
            if !world.happens(*what, usize::from(*which)) && let Some(until) = until {
                world.now = until;
            }
        }
        // A program without any acknowledgement may claim the name back, so such cases are left out.
        prop_assume!(!claims.0 || world.programs[0].acknowledged > 0);
        // If a name was used for at most one batch, and a response is lost, that batch looks like the producer's own.
        let used = world.server.producers.get("one").and_then(|(_, last)| *last).unwrap_or(0);
        let second = if claims.1 && used > 0 { second.auto_claim(true) } else { second.epoch(3) };
        world.programs.push(Program::new("one", 100..100 + messages.1, second));
        world.run(rest);
        let epoch = world.programs[1].producer.epoch();
        prop_assert!(world.programs[1].stopped.is_none(), "{:?}", world.programs[1].stopped);
        match &world.programs[0].stopped {
            None => {}
            Some(Refused::Fenced { epoch: found }) => prop_assert_eq!(*found, epoch),
            Some(other) => prop_assert!(false, "{other:?}"),
        }
        world.check();
    }
}
