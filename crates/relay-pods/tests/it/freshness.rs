//! Freshness is correct whenever it is read, and statistics say what happened.

use std::time::Duration;

use relay_pods::{Freshness, Phase, Pod, StreamHandle};
use relay_testkit::{Clock, Conversation, Gate, Peer, RelayScript, Reply, pods_reply, within};
use serde_json::json;

use super::{client, lines, next, options};

const STEP: Duration = Duration::from_millis(250);

fn talk() -> Conversation {
    Conversation::new("e").connected(1).catchup_complete()
}

fn pod(name: &str) -> Pod {
    Conversation::sample_pod(name)
}

/// The reason for being stale, if the stream is stale.
fn stale(handle: &StreamHandle) -> Option<String> {
    match handle.freshness() {
        Freshness::Stale { why, .. } => Some(why),
        _ => None,
    }
}

#[tokio::test]
async fn a_stream_that_nobody_polls_is_live_only_as_long_as_its_relay_may_be_silent() {
    let gate = Gate::new();
    let script = RelayScript::new("e")
        .seed(1, [&pod("a")])
        .stream(talk().hold(&gate).pod("MODIFIED", &pod("a")).silence())
        .seed(1, [&pod("a")]);
    let peer = Peer::start(script).await;
    let clock = Clock::freeze();
    let mut stream = client(&peer.url()).stream_pod_state_with_replay(options());
    lines(&mut stream, 3).await;
    let handle = stream.handle();
    assert_eq!(handle.freshness(), Freshness::Live);
    clock.advance(Duration::from_secs(44)).await;
    assert_eq!(handle.freshness(), Freshness::Live);
    clock.advance(Duration::from_secs(2)).await;
    assert_eq!(stale(&handle).as_deref(), Some("nothing was read for 45s"));
    clock.advance(Duration::from_secs(3600)).await;
    assert_eq!(stale(&handle).as_deref(), Some("nothing was read for 45s"));
    // The consumer was busy and the relay was not gone: the next bytes make the stream live again.
    gate.open();
    assert_eq!(next(&mut stream).await.phase, Phase::Live);
    assert_eq!(handle.freshness(), Freshness::Live);
}

#[tokio::test]
async fn a_silent_stream_that_is_polled_is_stale_from_its_deadline_until_the_next_connection() {
    let script = RelayScript::new("e")
        .seed(1, [])
        .stream(talk().silence())
        .seed(1, [])
        .seed(1, [])
        .stream(talk().pod("ADDED", &pod("a")).silence())
        .seed(1, []);
    let peer = Peer::start(script).await;
    let clock = Clock::freeze();
    let mut stream = client(&peer.url()).stream_pod_state_with_replay(options());
    lines(&mut stream, 3).await;
    let handle = stream.handle();
    let reading = tokio::spawn(async move {
        loop {
            if next(&mut stream).await.phase == Phase::Live {
                break stream;
            }
        }
    });
    clock.advance(Duration::from_secs(44)).await;
    assert_eq!(handle.freshness(), Freshness::Live);
    clock.advance(Duration::from_secs(2)).await;
    assert!(stale(&handle).is_some_and(|why| why.contains("45s")), "{:?}", handle.freshness());
    let stream = clock.run(STEP, reading).await.unwrap();
    assert_eq!(handle.freshness(), Freshness::Live);
    drop(stream);
    assert_eq!(stale(&handle).as_deref(), Some("the stream was dropped"));
}

#[tokio::test]
async fn a_trickle_of_bytes_without_a_message_keeps_it_live() {
    let mut trickle = talk();
    for _ in 0..10 {
        trickle = trickle.delay(Duration::from_secs(30)).bytes(":");
    }
    let script = RelayScript::new("e").seed(1, []).stream(trickle.bytes("\n").silence()).seed(1, []);
    let peer = Peer::start(script).await;
    let clock = Clock::freeze();
    let mut stream = client(&peer.url()).stream_pod_state_with_replay(options());
    lines(&mut stream, 3).await;
    let handle = stream.handle();
    let reading = tokio::spawn(async move { next(&mut stream).await });
    let watched = async {
        while clock.elapsed() < Duration::from_secs(300) {
            assert_eq!(handle.freshness(), Freshness::Live, "after {:?}", clock.elapsed());
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    clock.run(STEP, watched).await;
    reading.abort();
}

#[tokio::test]
async fn after_a_gap_it_is_stale_until_the_list_is_there() {
    let gate = Gate::new();
    let list = Reply::raw().hold(&gate);
    let script = RelayScript::new("e")
        .seed(1, [])
        .stream(talk().gap("slow-consumer", 9).silence())
        .seed(1, [])
        .on("/pods", list.cut())
        .on("/pods", pods_reply("e", 9, [&pod("a")]));
    let peer = Peer::start(script).await;
    let mut stream = client(&peer.url()).stream_pod_state_with_replay(options());
    lines(&mut stream, 3).await;
    let handle = stream.handle();
    assert_eq!(handle.freshness(), Freshness::Live);
    let reading = tokio::spawn(async move { (next(&mut stream).await, stream) });
    within("the list is asked for", gate.reached()).await;
    assert_eq!(stale(&handle).as_deref(), Some("events were lost; the list is read again"));
    gate.open();
    let (snapshot, _stream) = within("the list", reading).await.unwrap();
    assert_eq!((snapshot.phase, handle.freshness()), (Phase::GapReseed, Freshness::Live));
}

#[tokio::test]
async fn a_relay_whose_source_is_away_makes_it_stale_until_the_source_is_back() {
    let (away, back) = (Gate::new(), Gate::new());
    let talk = talk().pod("ADDED", &pod("a")).hold(&away).heartbeat_with(json!({"source": "stale"}));
    let talk = talk.hold(&back).heartbeat().pod("MODIFIED", &pod("a")).silence();
    let peer = Peer::start(RelayScript::new("e").seed(1, []).stream(talk).seed(1, [])).await;
    let mut stream = client(&peer.url()).stream_pod_state_with_replay(options());
    lines(&mut stream, 4).await;
    let handle = stream.handle();
    assert_eq!(handle.freshness(), Freshness::Live);
    let reading = tokio::spawn(async move { (next(&mut stream).await, stream) });
    away.open();
    within("staleness", async {
        while stale(&handle).is_none() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(stale(&handle).as_deref(), Some("the relay's source is away"));
    back.open();
    let (snapshot, _stream) = within("an event", reading).await.unwrap();
    assert_eq!((snapshot.phase, handle.freshness()), (Phase::Live, Freshness::Live));
}

#[tokio::test]
async fn the_lag_is_what_the_log_holds_beyond_what_the_consumer_has_finished() {
    let web = pod("web");
    let first = Conversation::new("e").connected_to(2, 5);
    let first = first.pod("MODIFIED", &web).pod("MODIFIED", &web).pod("MODIFIED", &web).catchup_complete();
    let first = first.pod("MODIFIED", &web).pod("MODIFIED", &web).cut();
    let second = Conversation::new("f").connected_to(0, 2).gap("cursor-unknown", 0).pod("ADDED", &web);
    let script = RelayScript::new("e")
        .seed(4, [&web])
        .stream(first)
        .seed(5, [&web])
        .on("/pods", pods_reply("f", 2, [&web]))
        .stream(second.pod("MODIFIED", &web).catchup_complete().silence())
        .on("/pods", pods_reply("f", 2, [&web]))
        .on("/pods", pods_reply("f", 2, [&web]));
    let peer = Peer::start(script).await;
    let since = relay_pods::EventHash::new("e.2").ok();
    let mut stream = client(&peer.url()).stream_pod_state_with_replay(options().since(since));
    let handle = stream.handle();
    let measured = || {
        let statistics = handle.statistics();
        (statistics.head, statistics.lag)
    };
    assert_eq!(measured(), (None, None));
    #[rustfmt::skip]
    let expected = [
        // A list has the head of the log, but not the position of this stream.
        ("CurrentSeed", (Some(4), None)),
        ("Backfill MODIFIED e.3 ack=e.3", (Some(5), Some(3))),
        ("Backfill MODIFIED e.4 ack=e.4", (Some(5), Some(2))),
        ("Backfill MODIFIED e.5 ack=e.5", (Some(5), Some(1))),
        ("CatchupComplete ack=e.5", (Some(5), Some(0))),
        ("CurrentSeed", (Some(5), Some(0))),
        ("Live MODIFIED e.6 ack=e.6", (Some(6), Some(1))),
        ("Live MODIFIED e.7 ack=e.7", (Some(7), Some(1))),
        ("ReconnectReseed", (Some(7), Some(0))),
        // Another log, of which no event was seen; its gap has a position.
        ("GapReseed cursor-unknown", (Some(2), Some(2))),
        ("Backfill ADDED f.1 ack=f.1", (Some(2), Some(2))),
        ("Backfill MODIFIED f.2 ack=f.2", (Some(2), Some(1))),
        ("CatchupComplete ack=f.2", (Some(2), Some(0))),
    ];
    for (line, (head, lag)) in expected {
        assert_eq!(lines(&mut stream, 1).await, [line]);
        assert_eq!(measured(), (head, lag), "{line}");
    }
    handle.finish();
    assert_eq!(measured(), (Some(2), Some(0)));
    let statistics = handle.statistics();
    assert_eq!((statistics.connections, statistics.reconnects, statistics.gaps), (2, 1, 1));
}

#[tokio::test]
async fn a_plain_state_stream_has_a_lag_too() {
    let talk = talk().pod("ADDED", &pod("a")).pod("ADDED", &pod("b")).silence();
    let peer = Peer::start(RelayScript::new("e").seed(1, []).stream(talk)).await;
    let mut stream = client(&peer.url()).stream_pod_state(options());
    lines(&mut stream, 3).await;
    let handle = stream.handle();
    assert_eq!((handle.statistics().head, handle.statistics().lag), (Some(3), Some(1)));
    handle.finish();
    assert_eq!(handle.statistics().lag, Some(0));
    assert_eq!(handle.acknowledgement(), None, "nothing is acknowledged, nevertheless");
}

/// With sequences, the order decides. Events that the list already had, and unexpected ones, are counted.
#[tokio::test]
async fn every_rule_that_was_used_is_counted() {
    let talk = talk()
        .pod("ADDED", &pod("a"))
        .pod_at(2, "ADDED", &pod("a"))
        .pod("ADDED", &pod("a"))
        .pod("DELETED", &pod("gone"))
        .pod("MODIFIED", &pod("a").to_builder().uid(Some("another")).build())
        .pod("MODIFIED", &pod("a").to_builder().uid(Some("another")).resource_version(Some("9")).build())
        .silence();
    let script = RelayScript::new("e").seed(1, []).stream(talk).seed(2, [&pod("a")]);
    let peer = Peer::start(script).await;
    let mut stream = client(&peer.url()).stream_pod_state_with_replay(options());
    lines(&mut stream, 8).await;
    let counted = stream.handle().statistics();
    assert_eq!((counted.duplicates, counted.superseded, counted.odd, counted.replaced), (1, 1, 2, 1));
    assert_eq!((counted.holes, counted.gaps, counted.late, counted.stale_versions), (0, 0, 0, 0));
    assert!(counted.bytes > 1000 && counted.reconnects == 0, "{counted:?}");
}

/// With a relay without sequences, versions and tombstones decide.
#[tokio::test]
async fn what_a_foreign_relay_makes_necessary_is_counted() {
    let event = |kind: &str, hash: &str, pod: &Pod| json!({"type": kind, "hash": hash, "pod": pod});
    let version = |n: &str| pod("a").to_builder().resource_version(Some(n)).build();
    let mut talk = Conversation::new("e")
        .event("connected", None, &json!({"protocol": 1, "filtered": true}))
        .event("catchup_complete", None, &json!({}));
    for (kind, hash, pod) in [
        ("MODIFIED", "h1", version("5")),
        ("MODIFIED", "h2", version("4")),
        ("DELETED", "h3", version("6")),
        ("MODIFIED", "h4", version("5")),
        ("EXPLODED", "h5", version("7")),
    ] {
        talk = talk.event("pod", Some(hash), &event(kind, hash, &pod));
    }
    let list = || Reply::json(200, &json!([version("3")]));
    let script = RelayScript::new("e").on("/pods", list()).stream(talk.silence()).on("/pods", list());
    let peer = Peer::start(script).await;
    let mut stream = client(&peer.url()).stream_pod_state_with_replay(options());
    lines(&mut stream, 8).await;
    let counted = stream.handle().statistics();
    assert_eq!((counted.stale_versions, counted.late, counted.unknown_types), (1, 1, 1));
    assert_eq!((counted.head, counted.lag), (None, None), "there is no sequence to tell it by");
}
