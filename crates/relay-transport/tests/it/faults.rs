//! A correct server behind a network with faults.

use relay_testkit::{Clock, FaultLink, Faults, Reply, Script};

use crate::*;

const EVENTS: usize = 400;

/// A server whose stream continues after the last event id, up to the last event.
fn script() -> Script {
    Script::new().answer("/events", |request| {
        let from = request.header("last-event-id").map_or(0, |id| id.parse().unwrap());
        let events: String = (from + 1..=EVENTS).map(|n| format!("id: {n}\ndata: {n}\n\n")).collect();
        if from == EVENTS { Reply::empty(204) } else { Reply::sse().chunked().send(events).silence() }
    })
}

/// The events in order, up to the last one, and the number of connections.
async fn all(stream: &mut EventStream) -> (Vec<String>, usize) {
    let (mut events, mut connections) = (Vec::new(), 0);
    while events.len() < EVENTS {
        match stream.next().await.unwrap() {
            Ok(Item::Frame(Frame::Event(event))) => events.push(event.data().to_owned()),
            Ok(Item::Opened) => connections += 1,
            Ok(_) => {}
            Err(stop) => panic!("{stop}"),
        }
    }
    (events, connections)
}

async fn check(faults: Faults, seed: u64) -> (usize, relay_testkit::Counters, Duration) {
    let peer = Peer::start(script()).await;
    let link = FaultLink::start(peer.addr(), seed, faults).await;
    let clock = Clock::freeze();
    let mut stream = EventStream::get(http(), Config::default(), &format!("{}/events", link.url())).unwrap();
    let (events, connections) = clock.run(Duration::from_secs(1), all(&mut stream)).await;
    let expected: Vec<_> = (1..=EVENTS).map(|n| n.to_string()).collect();
    assert_eq!(events, expected, "each once, in order");
    (connections, link.counters(), clock.elapsed())
}

#[tokio::test]
async fn cuts_everywhere() {
    for seed in 0..5 {
        let (connections, counters, _) = check(Faults::none().cut_every(20), seed).await;
        assert!(counters.cuts >= 15, "{counters:?}");
        assert!(connections >= 15);
    }
    // Cuts also come inside heads, and some with an RST, which may take unread bytes with it.
    let (_, counters, _) = check(Faults::none().cut_bytes(2000).reset().refuse_one_in(3), 1).await;
    assert!(counters.cuts >= 4 && counters.refused >= 1, "{counters:?}");
}

#[tokio::test]
async fn a_peer_that_hangs_again_and_again() {
    let (connections, _, elapsed) = check(Faults::none().hang_every(50), 2).await;
    assert!((7..=9).contains(&connections), "{connections}");
    assert!(elapsed >= Duration::from_secs(7 * 45), "{elapsed:?}");
}

#[tokio::test]
async fn slow_in_pieces_and_with_spikes() {
    // Neither latency spikes of 30 s nor slow bytes cause a reconnect.
    let (connections, _, elapsed) = check(Faults::none().stall(100, Duration::from_secs(30)), 3).await;
    assert_eq!(connections, 1);
    assert!(elapsed >= Duration::from_secs(90), "{elapsed:?}");
    let (connections, _, elapsed) = check(Faults::none().split(3).slow(200), 4).await;
    assert_eq!(connections, 1);
    assert!(elapsed >= Duration::from_secs(20), "{elapsed:?}");
}
