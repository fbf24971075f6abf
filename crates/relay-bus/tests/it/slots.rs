//! Slots of the memory engine: a message that waits between two attempts holds no slot, and no slot is lost.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::time::Duration;

use relay_bus::{EngineOptions, Event, ReceiverOptions};
use relay_testkit::{Peer, Reply, Script};

use crate::harness::{Bus, object};

async fn bus(peer: &Peer, options: EngineOptions) -> Bus {
    let spec = format!("channel: c, subscriber: \"{}/p\"", peer.url());
    let objects = object("Channel", "c", "") + &object("Subscription", "s", &spec);
    Bus::start(&objects, options, ReceiverOptions::default()).await
}

#[tokio::test]
async fn a_message_between_two_attempts_leaves_its_slot_to_others_unless_order_is_kept() {
    for (in_flight, passes) in [(2, true), (1, false)] {
        let fails = |request: &relay_testkit::Request| match &request.body()[..] {
            b"fails" => Reply::empty(500),
            _ => Reply::empty(202),
        };
        let peer = Peer::start(Script::new().answer("/p", fails)).await;
        let options = EngineOptions::default()
            .in_flight(in_flight)
            .max_deliver(0)
            .retry_delay(Duration::from_secs(600));
        let mut bus = bus(&peer, options).await;
        for _ in 0..in_flight {
            assert_eq!(bus.post("c.ns", "", "fails").await.0, 202);
            bus.event(|event| matches!(event, Event::DispatchFailed { .. })).await;
        }
        assert_eq!(bus.post("c.ns", "", "works").await.0, 202);
        if passes {
            bus.event(|event| matches!(event, Event::Delivered { .. })).await;
        }
        assert_eq!(peer.requests().len(), in_flight + usize::from(passes));
    }
}

#[tokio::test]
async fn messages_that_fail_once_are_all_delivered_through_few_slots() {
    for in_flight in [1, 2, 7] {
        let seen = Mutex::new(BTreeSet::new());
        let once = move |request: &relay_testkit::Request| {
            let first = seen.lock().unwrap().insert(request.body().clone());
            Reply::empty(if first { 503 } else { 202 })
        };
        let peer = Peer::start(Script::new().answer("/p", once)).await;
        let options = EngineOptions::default()
            .in_flight(in_flight)
            .max_deliver(0)
            .retry_delay(Duration::from_millis(3));
        let mut bus = bus(&peer, options).await;
        for number in 0..40 {
            assert_eq!(bus.post("c.ns", "", &format!("m{number}")).await.0, 202);
        }
        for _ in 0..40 {
            bus.event(|event| matches!(event, Event::Delivered { .. })).await;
        }
        let bodies: Vec<_> = peer.requests().iter().map(|request| request.body().clone()).collect();
        assert_eq!(bodies.len(), 80, "each is tried twice");
        if in_flight == 1 {
            let ordered = (0..40).flat_map(|number| [format!("m{number}"), format!("m{number}")]);
            assert!(
                bodies.iter().eq(ordered.collect::<Vec<_>>().iter().map(|body| body.as_bytes())),
                "{bodies:?}"
            );
        }
    }
}
