//! Slow consumers that asked for conflation get several events in one snapshot.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use futures_util::Stream;
use relay_pods::{Client, Phase, Pod, Snapshot, StreamOptions};
use relay_pods_server::{Config, Handle, Scope, Server};
use relay_testkit::{Conversation, Gate, Oracle, Peer, RelayScript, within};

use super::{client, lines, next, options};

fn pod(name: &str, version: u64) -> Pod {
    Conversation::sample_pod(name).to_builder().resource_version(Some(&version.to_string())).build()
}

fn conflating() -> StreamOptions {
    options().conflate(true)
}

fn sequences(snapshot: &Snapshot) -> Vec<u64> {
    snapshot.events().filter_map(|event| event.sequence).collect()
}

/// Events of one pod, sent at once.
fn burst(mut talk: Conversation, events: u64) -> Conversation {
    for n in 0..events {
        talk = talk.pod("MODIFIED", &pod("web", n));
    }
    talk
}

async fn serve() -> (Handle, Client) {
    // No time limit may end a connection in these tests.
    let hour = Duration::from_secs(3600);
    let config = Config::default().heartbeat(hour).stall_timeout(hour);
    let server = Server::builder(config).bind("127.0.0.1:0").await.unwrap();
    let handle = server.handle();
    tokio::spawn(server.run(std::future::pending()));
    handle.publisher().relist(Scope::All, vec![pod("web-0", 1)]).await.unwrap();
    let client = Client::builder(format!("http://{}", handle.local_addr())).build().unwrap();
    (handle, client)
}

/// Appends events of seven pods that come, change and go.
async fn append(server: &Handle, events: u64) {
    let publisher = server.publisher();
    let head = publisher.head();
    for n in head..head + events {
        let pod = pod(&format!("web-{}", n % 7), n + 10);
        if n / 7 % 3 == 2 {
            publisher.delete(pod).await.unwrap();
        } else {
            publisher.upsert(pod).await.unwrap();
        }
    }
}

/// The net change of a snapshot must lead from the earlier pods to the snapshot's pods.
fn apply_changes(before: &mut Oracle, snapshot: &Snapshot) {
    for change in &snapshot.changed {
        match &change.after {
            Some(pod) => before.put(pod.clone()),
            None => before.remove(change.key()),
        }
    }
    before.assert_same(snapshot.pods.iter());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_consumer_gets_fewer_snapshots_and_every_event() {
    const EVENTS: u64 = 3000;
    let (server, client) = serve().await;
    for replay in [true, false] {
        let options = conflating().conflate_most(100);
        let mut stream = if replay {
            client.stream_pod_state_with_replay(options)
        } else {
            client.stream_pod_state(options)
        };
        let handle = stream.handle();
        let mut shown = Oracle::default();
        let mut oracle = loop {
            let snapshot = next(&mut stream).await;
            apply_changes(&mut shown, &snapshot);
            if snapshot.is_live() {
                break Oracle::seeded(snapshot.pods.iter().cloned());
            }
        };
        let start = server.publisher().head();
        let (mut seen, mut snapshots, mut largest) = (start, 0, 0);
        while seen < start + EVENTS {
            if server.publisher().head() < start + EVENTS {
                // The consumer is slow: more events arrive before each poll.
                append(&server, EVENTS / 10).await;
            }
            let finished = handle.acknowledgement();
            let snapshot = next(&mut stream).await;
            assert_eq!((snapshot.phase, &snapshot.gap), (Phase::Live, &None));
            let covered = sequences(&snapshot);
            if replay {
                assert_eq!(covered, (seen + 1..=seen + covered.len() as u64).collect::<Vec<_>>());
                assert_eq!(snapshot.ack, snapshot.event.as_ref().map(|event| event.hash.clone()));
                let in_hand = handle.acknowledgement();
                assert!(snapshot.events().all(|event| Some(&event.hash) != in_hand.as_ref()), "not finished");
            } else {
                assert!(covered.is_sorted() && covered[0] > seen && snapshot.ack.is_none());
            }
            snapshot.events().for_each(|event| oracle.apply(event));
            oracle.assert_same(snapshot.pods.iter());
            apply_changes(&mut shown, &snapshot);
            handle.finish();
            assert!(!replay || handle.acknowledgement() == snapshot.ack && finished != snapshot.ack);
            seen = covered[covered.len() - 1];
            (snapshots, largest) = (snapshots + 1, largest.max(covered.len()));
        }
        assert!(snapshots < EVENTS / 3, "{snapshots} snapshots of {EVENTS} events");
        assert!(largest > 10 && largest <= 100, "{largest} events in one");
        oracle.assert_same(&client.pods(&Default::default()).await.unwrap().pods);
        let statistics = handle.statistics();
        assert_eq!((statistics.gaps, statistics.holes, statistics.lag), (0, 0, Some(0)));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gap_of_a_real_relay_is_never_merged_over() {
    let (server, client) = serve().await;
    let mut stream = client.stream_pod_state_with_replay(conflating());
    while !next(&mut stream).await.is_live() {}
    let start = server.publisher().head();
    append(&server, 500).await;
    let losing = {
        let server = server.clone();
        tokio::spawn(async move { server.force_gap(Duration::from_secs(60)).await })
    };
    within("a loss", async {
        while !losing.is_finished() {
            append(&server, 1).await;
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(losing.await.unwrap());
    append(&server, 500).await;
    let head = server.publisher().head();
    let (mut seen, mut gaps, mut snapshots) = (start, 0, 0);
    while seen < head {
        let snapshot = next(&mut stream).await;
        if let Some(gap) = &snapshot.gap {
            assert_eq!((snapshot.phase, snapshot.events().count()), (Phase::GapReseed, 0));
            assert!(gap.sequence.unwrap() > seen, "{gap:?} after {seen}");
            (seen, gaps) = (gap.sequence.unwrap(), gaps + 1);
            continue;
        }
        let covered = sequences(&snapshot);
        assert_eq!(covered, (seen + 1..=seen + covered.len() as u64).collect::<Vec<_>>());
        (seen, snapshots) = (seen + covered.len() as u64, snapshots + 1);
    }
    assert!(gaps == 1 && snapshots < 500, "{gaps} gaps, {snapshots} snapshots");
}

#[tokio::test]
async fn what_is_no_event_stays_by_itself_and_in_its_place() {
    let talk = Conversation::new("e").connected_to(1, 4);
    let talk = burst(talk, 3).catchup_complete();
    let talk = burst(burst(talk, 4).heartbeat().gap("slow-consumer", 20), 5);
    let bad = b"event: pod\nid: e.26\ndata: {\n\n".to_vec();
    let script = RelayScript::new("e")
        .seed(1, [])
        .stream(burst(talk.bytes(bad).lose(1), 2).cut())
        .seed(4, [])
        .seed(20, [])
        .seed(26, [])
        .seed(28, [])
        .stream(burst(Conversation::new("e").connected(28), 2).catchup_complete().silence())
        .seed(30, []);
    let peer = Peer::start(script).await;
    let options = conflating().yield_bookmarks(true);
    let mut stream = client(&peer.url()).stream_pod_state_with_replay(options);
    let mut told: Vec<String> = Vec::new();
    while told.last().is_none_or(|last| last != "CatchupComplete [] ack=e.30") {
        let snapshot = next(&mut stream).await;
        if told.len() == 1 {
            // The consumer waits until everything has arrived.
            within("the whole stream", peer.played(1)).await;
        }
        let line = match &snapshot.gap {
            Some(gap) => gap.reason.as_str().to_owned(),
            None => format!(
                "{} {:?} ack={}",
                snapshot.phase,
                sequences(&snapshot),
                snapshot.ack.as_ref().map_or("-", |ack| ack.as_str())
            ),
        };
        told.push(line);
    }
    // However many events had arrived each time, the boundaries are at the same places, with the same events between
    // them.
    let mut parts: Vec<String> = Vec::new();
    for line in &told {
        let (place, rest) = line.split_once(" [").unwrap_or((line, "]"));
        let (events, _) = rest.split_once(']').unwrap();
        match parts.last_mut().filter(|last| !events.is_empty() && last.starts_with(place)) {
            Some(last) => *last += &format!(", {events}"),
            None if events.is_empty() => parts.push(line.clone()),
            None => parts.push(format!("{place} {events}")),
        }
    }
    assert_eq!(
        parts,
        [
            "CurrentSeed [] ack=-",
            "Backfill 2, 3, 4",
            "CatchupComplete [] ack=e.4",
            "CurrentSeed [] ack=-",
            "Live 5, 6, 7, 8",
            "slow-consumer",
            "Live 21, 22, 23, 24, 25",
            "undecodable",
            "Live 27, 28",
            "ReconnectReseed [] ack=-",
            "Backfill 29, 30",
            "CatchupComplete [] ack=e.30",
        ]
    );
    assert!(told.len() < 18, "something was merged: {told:?}");
    stream.handle().finish();
    assert_eq!(stream.handle().acknowledgement().unwrap().as_str(), "e.30");
}

#[tokio::test]
async fn a_drop_that_a_plain_state_does_not_show_is_a_boundary_too() {
    let script = RelayScript::new("e")
        .seed(1, [])
        .stream(burst(Conversation::new("e").connected(1).catchup_complete(), 5).cut())
        .stream(burst(Conversation::new("e").connected(6).catchup_complete(), 5).silence());
    let peer = Peer::start(script).await;
    let mut stream = client(&peer.url()).stream_pod_state(conflating());
    next(&mut stream).await;
    let mut merged: Vec<Vec<u64>> = Vec::new();
    while merged.last().is_none_or(|last| !last.contains(&11)) {
        merged.push(sequences(&next(&mut stream).await));
        // From here on, the rest of the first connection has arrived, including its end.
        within("the first connection", peer.played(1)).await;
    }
    assert_eq!(merged.concat(), (2..=11).collect::<Vec<u64>>());
    assert!(merged.iter().all(|events| !(events.contains(&6) && events.contains(&7))), "{merged:?}");
    assert!(merged.len() < 10, "{merged:?}");
}

#[tokio::test]
async fn it_is_off_unless_asked_for_and_bounded_when_it_is() {
    for (options, expected) in [
        (options(), [1, 1, 1, 1]),
        (conflating().conflate_most(1), [1, 1, 1, 1]),
        (conflating().conflate_most(0), [1, 1, 1, 1]),
        (conflating().conflate_most(7), [7, 7, 7, 7]),
        // With a limit in bytes, the event that reaches the limit is the last one.
        (conflating().read_ahead_bytes(1), [2, 2, 2, 2]),
    ] {
        let talk = burst(Conversation::new("e").connected(1).catchup_complete(), 40).silence();
        let peer = Peer::start(RelayScript::new("e").seed(1, []).stream(talk).seed(1, [])).await;
        let mut stream = client(&peer.url()).stream_pod_state_with_replay(options);
        // Reads the list, so that the stream is open; then everything arrives.
        lines(&mut stream, 2).await;
        within("the burst", peer.played(1)).await;
        lines(&mut stream, 1).await;
        let mut counts = [0; 4];
        for count in &mut counts {
            *count = next(&mut stream).await.events().count();
        }
        assert_eq!(counts, expected);
    }
}

#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[tokio::test]
async fn a_consumer_that_is_busy_is_not_woken() {
    let gate = Gate::new();
    let talk = burst(Conversation::new("e").connected(1).catchup_complete(), 10).hold(&gate);
    let script = RelayScript::new("e").seed(1, []).stream(burst(talk, 10).silence()).seed(1, []);
    let peer = Peer::start(script).await;
    let mut stream = client(&peer.url()).stream_pod_state_with_replay(conflating());
    let mut seen = 0;
    while seen < 10 {
        seen += next(&mut stream).await.events().count();
    }
    // The last event came from a poll that looked for more events and found none.
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(woken.clone());
    let poll = |stream: &mut relay_pods::SnapshotStream| {
        Pin::new(stream).poll_next(&mut Context::from_waker(&waker))
    };
    let count = |woken: &Woken| woken.0.load(Ordering::SeqCst);
    assert!(poll(&mut stream).is_pending());
    gate.open();
    within("a wake-up", async {
        while count(&woken) == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let mut polls = 0;
    while seen < 20 {
        polls += 1;
        assert!(polls < 40, "it spins");
        match poll(&mut stream) {
            Poll::Ready(snapshot) => seen += snapshot.unwrap().unwrap().events().count(),
            Poll::Pending => {
                let before = count(&woken);
                within("a wake-up", async {
                    while count(&woken) == before {
                        tokio::task::yield_now().await;
                    }
                })
                .await;
            }
        }
    }
    // Everything has arrived and nobody polls, so nobody is woken.
    let before = count(&woken);
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!(count(&woken), before);
}
