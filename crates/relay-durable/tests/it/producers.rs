//! The producer, with a server that follows the rules and fails on command.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use relay_durable::{
    ErrorKind, IdempotentProducer, ProducerConfig, ProducerOptions, ProducerState, StateStore,
};
use relay_testkit::{Gate, Peer, Reply, Request, Script};

use crate::*;

/// What a server does with the requests of one producer.
#[derive(Default)]
struct Kept {
    epoch: u64,
    expected: u64,
    log: String,
    closed: bool,
    /// What goes wrong with the next requests.
    faults: VecDeque<Fault>,
}

#[derive(Clone)]
enum Fault {
    None,
    /// Answers with this, and does not accept the batch.
    Say(Reply),
    /// Accepts the batch, and loses the answer.
    Lose,
    /// Accepts the batch, and answers once the gate is open.
    Hold(Gate),
}

impl Kept {
    fn take(&mut self, request: &Request) -> Reply {
        let fault = self.faults.pop_front();
        if let Some(Fault::Say(reply)) = fault {
            return reply;
        }
        let answer = self.rules(request);
        match fault {
            Some(Fault::Lose) => Reply::raw().cut(),
            // Only an accepted batch is held; no part of the answer is sent before the gate opens.
            Some(Fault::Hold(gate)) => {
                let head = format!(
                    "HTTP/1.1 200 OK\r\nstream-next-offset: o{}\r\ncontent-length: 0\r\n\r\n",
                    self.log.len()
                );
                Reply::raw().hold(&gate).send(head)
            }
            _ => answer,
        }
    }

    fn rules(&mut self, request: &Request) -> Reply {
        let number = |name| request.header(name).unwrap().parse::<u64>().unwrap();
        let (epoch, seq) = (number("producer-epoch"), number("producer-seq"));
        if epoch < self.epoch {
            return Reply::empty(403).header("Producer-Epoch", &self.epoch.to_string());
        }
        if epoch > self.epoch {
            (self.epoch, self.expected) = (epoch, 0);
        }
        if seq < self.expected {
            return Reply::empty(204)
                .header("Producer-Epoch", &self.epoch.to_string())
                .header("Producer-Seq", &(self.expected - 1).to_string());
        }
        if seq > self.expected {
            return Reply::empty(409)
                .header("Producer-Expected-Seq", &self.expected.to_string())
                .header("Producer-Received-Seq", &seq.to_string());
        }
        self.expected += 1;
        self.log += std::str::from_utf8(request.body()).unwrap();
        self.closed |= request.header("stream-closed") == Some("true");
        Reply::empty(200).header("Stream-Next-Offset", &format!("o{}", self.log.len()))
    }
}

async fn server(kept: Kept) -> (Peer, Arc<Mutex<Kept>>) {
    let kept = Arc::new(Mutex::new(kept));
    let shared = kept.clone();
    let peer =
        Peer::start(Script::new().answer("/s", move |request| shared.lock().unwrap().take(request))).await;
    (peer, kept)
}

fn config() -> ProducerConfig {
    ProducerConfig::default()
        .max_batch_items(1)
        .linger(Duration::ZERO)
        .retry_base(Duration::from_millis(1))
        .retry_cap(Duration::from_millis(5))
        .retry_for(Some(Duration::from_secs(10)))
}

async fn start(peer: &Peer, config: ProducerConfig) -> IdempotentProducer {
    let options = ProducerOptions::new("me").config(config).content_type("text/plain");
    IdempotentProducer::start(&stream(peer), options).await.unwrap()
}

/// Twelve messages through one fault: every receipt comes, and all messages are there once, in order.
#[tokio::test]
async fn every_fault_is_survived_exactly() {
    let busy = |status| Fault::Say(Reply::empty(status));
    for in_flight in [1, 5] {
        for fault in [
            busy(503),
            busy(500),
            Fault::Say(Reply::empty(429).header("Retry-After", "0")),
            Fault::Say(Reply::raw().cut()),
            Fault::Say(Reply::raw().reset()),
            Fault::Say(Reply::new(200, "text/html", "<html>")),
            Fault::Lose,
        ] {
            for at in [0, 3] {
                let mut faults: VecDeque<Fault> = std::iter::repeat_n(Fault::None, at).collect();
                faults.push_back(fault.clone());
                let (peer, kept) = server(Kept { faults, ..Kept::default() }).await;
                let producer = start(&peer, config().in_flight(in_flight)).await;
                let receipts: Vec<_> = (0..12).map(|n| producer.append(format!("{n},"))).collect();
                producer.flush().await.unwrap();
                for (number, receipt) in receipts.into_iter().enumerate() {
                    assert_eq!(receipt.await.unwrap().seq, number as u64);
                }
                assert_eq!(kept.lock().unwrap().log, (0..12).map(|n| format!("{n},")).collect::<String>());
            }
        }
    }
}

#[tokio::test]
async fn what_no_retry_mends_ends_it_for_every_receipt() {
    let say = |reply: Reply| Kept { faults: [Fault::Say(reply)].into(), ..Kept::default() };
    let gap = |expected: &str| Reply::empty(409).header("Producer-Expected-Seq", expected);
    let rows = [
        (say(Reply::empty(404)), ErrorKind::NotFound, "not found"),
        (say(Reply::empty(401)), ErrorKind::NotAuthorised, "not authorised"),
        (say(Reply::empty(403)), ErrorKind::NotAuthorised, "not authorised"),
        (Kept { epoch: 7, ..Kept::default() }, ErrorKind::Fenced, "me has epoch 0, the server knows epoch 7"),
        (Kept { expected: 3, ..Kept::default() }, ErrorKind::UsedBefore, "me with epoch 0 was used before"),
        (say(gap("5")), ErrorKind::Gap, "expected 5, sent 0"),
        (
            say(Reply::empty(409).header("Stream-Closed", "true").header("Stream-Next-Offset", "e")),
            ErrorKind::Closed,
            "offset e",
        ),
        (say(Reply::empty(409)), ErrorKind::ContentType, "text/plain"),
        (say(Reply::empty(413)), ErrorKind::TooLarge, "message 1 has 1 bytes"),
        (say(Reply::new(400, "text/plain", "bad\nwords")), ErrorKind::Refused, "400: bad words"),
    ];
    for (kept, kind, words) in rows {
        let (peer, kept) = server(kept).await;
        let producer = start(&peer, config()).await;
        let (first, second) = (producer.append("a"), producer.append("b"));
        let error = producer.flush().await.unwrap_err();
        assert!(error.kind() == kind && error.to_string().contains(words), "{error}");
        assert_eq!(error.url(), stream(&peer).url());
        for receipt in [first, second, producer.append("c")] {
            assert_eq!(receipt.await.unwrap_err().kind(), kind);
        }
        assert_eq!(producer.close().await.unwrap_err().kind(), kind);
        assert_eq!((peer.requests().len(), kept.lock().unwrap().log.as_str()), (1, ""), "{kind:?}");
    }
}

/// The stream was deleted and created again: the server expects the first number.
#[tokio::test]
async fn a_server_that_has_lost_its_state() {
    let (peer, kept) = server(Kept::default()).await;
    let producer = start(&peer, config()).await;
    producer.append("a").await.unwrap();
    *kept.lock().unwrap() = Kept::default();
    let error = producer.append("b").await.unwrap_err();
    assert!(error.kind() == ErrorKind::Gap && error.to_string().contains("expected 0, sent 1"), "{error}");
    assert_eq!(kept.lock().unwrap().log, "");
}

#[tokio::test]
async fn claims_restarts_and_closes() {
    let (peer, kept) = server(Kept { epoch: 4, ..Kept::default() }).await;
    let producer = start(&peer, config().auto_claim(true)).await;
    assert_eq!(producer.append("a").await.unwrap().epoch, 5);
    let waiting = producer.append("b");
    assert_eq!(producer.restart().await.unwrap(), 6);
    waiting.await.unwrap();
    let outcome = producer.append("c").await.unwrap();
    assert_eq!((outcome.epoch, outcome.seq), (6, 0));
    kept.lock().unwrap().faults.push_back(Fault::Lose);
    assert_eq!(producer.close().await.unwrap(), None, "a duplicate without an offset");
    assert_eq!(producer.close().await.unwrap(), None, "again");
    assert!(kept.lock().unwrap().closed);
    assert_eq!(producer.restart().await.unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(kept.lock().unwrap().log, "abc");
}

#[tokio::test]
async fn the_buffer_is_bounded_and_makes_callers_wait() {
    let gate = Gate::new();
    let (peer, kept) = server(Kept { faults: [Fault::Hold(gate.clone())].into(), ..Kept::default() }).await;
    let producer = start(&peer, config().max_buffer(100)).await;
    let first = producer.try_append("x".repeat(60)).unwrap();
    let error = producer.try_append("y".repeat(60)).unwrap_err();
    assert!(error.kind() == ErrorKind::Usage && error.to_string().contains("full"), "{error}");
    assert_eq!(producer.append("y".repeat(60)).await.unwrap_err().kind(), ErrorKind::Usage);
    {
        let waiting = producer.append_wait("z".repeat(60));
        tokio::pin!(waiting);
        tokio::select! {
            biased;
            _ = &mut waiting => panic!("there is no room"),
            () = gate.reached() => {}
        }
        gate.open();
        waiting.await.unwrap();
    }
    first.await.unwrap();
    producer.detach().await.unwrap();
    assert_eq!(kept.lock().unwrap().log, "x".repeat(60) + &"z".repeat(60));
}

/// A state store in memory, which fails on command.
#[derive(Clone, Default)]
struct Memory(Arc<Mutex<(Option<ProducerState>, bool)>>);

impl StateStore for Memory {
    fn save(&mut self, state: &ProducerState) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let mut kept = self.0.lock().unwrap();
        if kept.1 {
            return Err("the disk is full".into());
        }
        kept.0 = Some(state.clone());
        Ok(())
    }
}

#[tokio::test]
async fn what_was_on_its_way_goes_on_in_another_life() {
    let gate = Gate::new();
    let (peer, kept) = server(Kept { faults: [Fault::Hold(gate.clone())].into(), ..Kept::default() }).await;
    let memory = Memory::default();
    let options = || {
        ProducerOptions::new("me").config(config()).content_type("text/plain").store(Box::new(memory.clone()))
    };
    let producer = IdempotentProducer::start(&stream(&peer), options()).await.unwrap();
    producer.append_marked(b"a", 10).await.unwrap();
    producer.append_marked(b"b", 20).await.unwrap();
    gate.reached().await;
    // The batch is on the server and not acknowledged when the process dies.
    drop(producer);
    let state = memory.0.lock().unwrap().0.clone().unwrap();
    assert_eq!((state.acknowledged, state.in_flight.len()), (0, 1), "stored before it was sent");
    let again = IdempotentProducer::start(&stream(&peer), options().resume(state)).await.unwrap();
    again.append_batch([(&b"a"[..], 10)].into_iter());
    again.append_marked(b"b", 20).await.unwrap();
    again.flush().await.unwrap();
    assert_eq!(kept.lock().unwrap().log, "ab");
    // Nothing is sent if its state could not be stored.
    let sent = peer.requests().len();
    memory.0.lock().unwrap().1 = true;
    let error = again.append("c").await.unwrap_err();
    assert!(error.kind() == ErrorKind::Local, "{error}");
    assert_eq!(peer.requests().len(), sent);
}

#[tokio::test]
async fn options_are_checked_by_name() {
    let (peer, _) = server(Kept::default()).await;
    for (name, config) in [
        ("epoch", config().epoch(1 << 53)),
        ("max_batch_bytes", config().max_batch_bytes(0)),
        ("max_batch_items", config().max_batch_items(0)),
        ("in_flight", config().in_flight(0)),
        ("in_flight", config().in_flight(33)),
        ("max_buffer", config().max_buffer(0)),
        ("retry_base", config().retry_base(Duration::ZERO)),
        ("retry_cap", config().retry_cap(Duration::from_micros(1))),
    ] {
        let options = ProducerOptions::new("me").config(config).content_type("text/plain");
        let error = IdempotentProducer::start(&stream(&peer), options).await.unwrap_err();
        assert!(error.kind() == ErrorKind::Usage && error.to_string().contains(name), "{error}");
    }
    for id in ["", "a\nb", "\u{e4}", "a\tb", " a", "a "] {
        let options = ProducerOptions::new(id).content_type("text/plain");
        assert_eq!(options.check().unwrap_err().kind(), ErrorKind::Usage, "{id:?}");
        let error = IdempotentProducer::start(&stream(&peer), options).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage);
    }
    assert!(ProducerOptions::new("host 7: a/b").check().is_ok());
    assert_eq!(peer.requests().len(), 0);
}
