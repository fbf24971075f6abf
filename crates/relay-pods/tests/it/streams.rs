//! Conversations with a scripted relay.

use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use relay_pods::{Client, EventHash, Freshness, Phase, Pod, PodEventItem};
use relay_testkit::{Clock, Conversation, Gate, Peer, RelayScript, Reply, pods_reply, within};
use serde_json::json;

use super::{client, end, lines, next, options, show};

fn pod(name: &str) -> Pod {
    Conversation::sample_pod(name)
}

fn talk() -> Conversation {
    Conversation::new("e")
}

fn hash(text: &str) -> Option<EventHash> {
    Some(EventHash::new(text).unwrap())
}

#[tokio::test]
async fn all_six_phases_in_their_order_and_the_list_before_the_connect() {
    let web = pod("web");
    let script = RelayScript::new("e")
        .seed(2, [&web])
        .stream(talk().connected_to(1, 2).pod("ADDED", &web).catchup_complete().pod("MODIFIED", &web).cut())
        .seed(2, [&web])
        .seed(4, [&web])
        .stream(
            talk()
                .connected(3)
                .pod("MODIFIED", &web)
                .catchup_complete()
                .gap("slow-consumer", 9)
                .pod("DELETED", &web)
                .silence(),
        )
        .seed(4, [&web])
        .seed(9, [&web]);
    let peer = Peer::start(script).await;
    let mut stream = client(&peer.url()).stream_pod_state_with_replay(options().since(hash("e.1")));
    assert_eq!(
        lines(&mut stream, 10).await,
        [
            "CurrentSeed",
            "Backfill ADDED e.2 ack=e.2",
            "CatchupComplete ack=e.2",
            "CurrentSeed",
            "Live MODIFIED e.3 ack=e.3",
            "ReconnectReseed",
            "Backfill MODIFIED e.4 ack=e.4",
            "CatchupComplete ack=e.4",
            "CurrentSeed",
            "GapReseed slow-consumer",
        ]
    );
    let last = next(&mut stream).await;
    assert_eq!((show(&last).as_str(), last.pods.len()), ("Live DELETED e.10 ack=e.10", 0));
    let asked: Vec<String> = peer.requests().iter().map(|r| r.target().to_owned()).collect();
    assert_eq!(
        asked,
        [
            "/pods",
            "/events/stream?since_hash=e.1",
            "/pods?at_least=e.2",
            "/pods?at_least=e.3",
            "/events/stream?since_hash=e.3",
            "/pods?at_least=e.4",
            "/pods?at_least=e.9",
        ]
    );
}

#[tokio::test]
async fn freshness_and_acknowledgement_can_be_read_from_outside() {
    let web = pod("web");
    let gate = Gate::new();
    let first = talk().connected(1).catchup_complete().pod("MODIFIED", &web).hold(&gate).cut();
    let script = RelayScript::new("e").seed(1, [&web]).stream(first).seed(1, [&web]);
    let peer = Peer::start(script).await;
    let mut stream = client(&peer.url()).stream_pod_state_with_replay(options().since(hash("e.1")));
    let handle = stream.handle();
    assert_eq!(handle.freshness(), Freshness::Cold);
    assert_eq!(lines(&mut stream, 3).await, ["CurrentSeed", "CatchupComplete ack=e.1", "CurrentSeed"]);
    assert_eq!(handle.freshness(), Freshness::Live);
    assert_eq!(handle.acknowledgement(), hash("e.1"));
    next(&mut stream).await;
    assert_eq!(handle.acknowledgement(), hash("e.1"), "the consumer has it in hand");
    handle.finish();
    assert_eq!(handle.acknowledgement(), hash("e.2"));
    // The relay becomes unavailable, and so does its list: the stream says that it is stale, and retries.
    peer.on("/pods", Reply::empty(503));
    gate.open();
    let waiting = tokio::spawn(async move { stream.next().await.is_some() });
    within("a failed list", peer.request_to("/pods", 2)).await;
    within("staleness", async {
        while !matches!(handle.freshness(), Freshness::Stale { .. }) {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(handle.acknowledgement(), hash("e.2"));
    waiting.abort();
}

#[tokio::test]
async fn a_ticket_is_minted_before_each_connect_and_the_token_stays_at_home() {
    let script = RelayScript::new("e")
        .sessions()
        .seed(1, [])
        .stream(talk().connected(1).catchup_complete().cut())
        .seed(1, [])
        .seed(1, [])
        .stream(talk().connected(1).catchup_complete().silence())
        .seed(1, []);
    let peer = Peer::start(script).await;
    let client = Client::builder(peer.url()).token("t0ken").client_id("me").build().unwrap();
    let mut stream = client.stream_pod_state_with_replay(options().since(hash("e.1")));
    lines(&mut stream, 6).await;
    for (n, ticket) in [(0, "s-1"), (1, "s-2")] {
        let asked = peer.request_to("/events/stream", n).await;
        assert_eq!(asked.query("session_id").as_deref(), Some(ticket));
        assert_eq!(asked.query("client_id").as_deref(), Some("me"));
        assert_eq!(asked.header("authorization"), None);
        let minted = peer.request_to("/auth/session", n).await;
        assert_eq!((minted.method(), minted.header("authorization")), ("POST", Some("Bearer t0ken")));
    }
}

#[tokio::test]
async fn a_401_is_worth_one_new_ticket_at_once() {
    let script = RelayScript::new("e")
        .sessions()
        .seed(1, [])
        .on("/events/stream", Reply::json(401, &json!({"code": "session-used"})))
        .stream(talk().connected(1).catchup_complete().silence())
        .seed(1, []);
    let peer = Peer::start(script).await;
    let client = Client::builder(peer.url()).token("t").build().unwrap();
    // With the usual delays, the second attempt would come up to 0.8 s of frozen time later.
    let clock = Clock::freeze();
    let mut stream = client.stream_pod_state_with_replay(relay_pods::StreamOptions::new());
    assert_eq!(lines(&mut stream, 3).await, ["CurrentSeed", "CatchupComplete ack=e.1", "CurrentSeed"]);
    assert!(clock.elapsed() < Duration::from_millis(2), "{:?}", clock.elapsed());
    assert_eq!(peer.request_to("/events/stream", 1).await.query("session_id").as_deref(), Some("s-2"));
}

#[tokio::test]
async fn a_first_connect_that_fails_is_not_told_as_a_drop() {
    let script = RelayScript::new("e")
        .seed(1, [])
        .on("/events/stream", Reply::empty(502))
        .on("/events/stream", Reply::new(200, "text/html", "<html>"))
        .stream(talk().cut())
        .stream(talk().connected(1).catchup_complete().silence())
        .seed(1, []);
    let peer = Peer::start(script).await;
    let mut stream = client(&peer.url()).stream_pod_state_with_replay(options());
    assert_eq!(lines(&mut stream, 3).await, ["CurrentSeed", "CatchupComplete ack=e.1", "CurrentSeed"]);
    assert_eq!(peer.requests().iter().filter(|r| r.path() == "/events/stream").count(), 4);
}

#[tokio::test]
async fn a_hole_is_healed_by_resuming() {
    let web = pod("web");
    let script = RelayScript::new("e")
        .seed(1, [&web])
        .stream(
            talk()
                .connected(1)
                .catchup_complete()
                .pod("MODIFIED", &web)
                .lose(1)
                .pod("MODIFIED", &web)
                .silence(),
        )
        .seed(1, [&web])
        .seed(4, [&web])
        .stream(talk().connected(2).pod("MODIFIED", &web).pod("MODIFIED", &web).catchup_complete().silence())
        .seed(4, [&web]);
    let peer = Peer::start(script).await;
    let mut stream = client(&peer.url()).stream_pod_state_with_replay(options().since(hash("e.1")));
    let seen = lines(&mut stream, 8).await;
    assert_eq!(
        seen[3..],
        [
            "Live MODIFIED e.2 ack=e.2",
            "ReconnectReseed",
            "Backfill MODIFIED e.3 ack=e.3",
            "Backfill MODIFIED e.4 ack=e.4",
            "CatchupComplete ack=e.4",
        ]
    );
    assert_eq!(peer.request_to("/events/stream", 1).await.query("since_hash").as_deref(), Some("e.2"));
    assert_eq!((stream.handle().statistics().holes, stream.handle().statistics().gaps), (1, 0));
}

#[tokio::test]
async fn a_hole_for_good_is_a_gap() {
    let web = pod("web");
    let holey = |after| talk().connected(after).catchup_complete().lose(1).pod("MODIFIED", &web).silence();
    let script = RelayScript::new("e")
        .seed(1, [&web])
        .stream(holey(1))
        .seed(1, [&web])
        .seed(3, [&web])
        .stream(holey(1))
        .seed(3, [&web])
        .seed(3, [&web]);
    let peer = Peer::start(script).await;
    let mut stream = client(&peer.url()).stream_pod_state_with_replay(options().since(hash("e.1")));
    let seen = lines(&mut stream, 8).await;
    assert_eq!(
        seen[3..],
        [
            "ReconnectReseed",
            "CatchupComplete ack=e.1",
            "CurrentSeed",
            "GapReseed hole",
            "Live MODIFIED e.3 ack=e.3"
        ]
    );
}

#[tokio::test]
async fn what_cannot_be_read_is_a_gap_and_the_list_is_asked_for_at_its_id() {
    let web = pod("web");
    let big = format!("{{\"type\":\"MODIFIED\",\"pad\":\"{}\"}}", "x".repeat(2 << 20));
    let script = RelayScript::new("e")
        .seed(1, [&web])
        .stream(
            talk()
                .connected(1)
                .catchup_complete()
                .lose(1)
                .bytes("event: pod\nid: e.2\ndata: {\"type\":\"MODI\n\n")
                .pod("MODIFIED", &web)
                .lose(1)
                .bytes(Bytes::from(format!("event: pod\nid: e.4\ndata: {big}\n\n")))
                .pod("MODIFIED", &web)
                .silence(),
        )
        .seed(1, [&web])
        .seed(2, [&web])
        .seed(4, [&web]);
    let peer = Peer::start(script).await;
    let mut stream = client(&peer.url()).stream_pod_state_with_replay(options().since(hash("e.1")));
    let seen = lines(&mut stream, 7).await;
    assert_eq!(
        seen[3..],
        [
            "GapReseed undecodable",
            "Live MODIFIED e.3 ack=e.3",
            "GapReseed too-large",
            "Live MODIFIED e.5 ack=e.5"
        ]
    );
    for (n, id) in [(2, "e.2"), (3, "e.4")] {
        assert_eq!(peer.request_to("/pods", n).await.query("at_least").as_deref(), Some(id));
    }
}

#[tokio::test]
async fn a_list_older_than_the_stream_is_asked_for_again() {
    let (old, new) = (pod("old"), pod("new"));
    let script = RelayScript::new("e")
        .seed(5, [&new])
        .stream(talk().connected(5).catchup_complete().silence())
        .seed(3, [&old])
        .on("/pods", Reply::empty(503))
        .on("/pods", Reply::new(200, "application/x-ndjson", "{\"count\":1}\n"))
        .seed(5, [&new]);
    let peer = Peer::start(script).await;
    let mut stream = client(&peer.url()).stream_pod_state_with_replay(options().since(hash("e.5")));
    lines(&mut stream, 2).await;
    let seed = next(&mut stream).await;
    assert_eq!((seed.phase, seed.pods.iter().next().unwrap().name()), (Phase::CurrentSeed, "new"));
    assert_eq!(peer.requests().iter().filter(|r| r.path() == "/pods").count(), 5);
}

#[tokio::test]
async fn pods_that_a_list_brings_again_are_held_once() {
    let (same, old) = (pod("same"), pod("other"));
    let new = old.to_builder().ready(!old.ready()).build();
    let script = RelayScript::new("e")
        .seed(1, [&same, &old])
        .stream(talk().connected(1).catchup_complete().gap("slow-consumer", 2).silence())
        .seed(2, [&same, &new]);
    let peer = Peer::start(script).await;
    let mut stream = client(&peer.url()).stream_pod_state(options());
    let (seed, reseed) = (next(&mut stream).await, next(&mut stream).await);
    let held = |pod: &Pod| seed.pods.get(pod.key()).unwrap().is_same(reseed.pods.get(pod.key()).unwrap());
    assert!(held(&same), "not a copy");
    assert!(!held(&new), "and not an old state");
    assert_eq!(reseed.pods.get(new.key()), Some(&new));
}

#[tokio::test]
async fn a_list_of_another_epoch_is_shown_and_the_stream_resumed() {
    let web = pod("web");
    let script = RelayScript::new("e")
        .seed(1, [&web])
        .stream(talk().connected(1).catchup_complete().silence())
        .on("/pods", pods_reply("f", 7, []))
        .on("/pods", pods_reply("f", 7, []))
        .stream(Conversation::new("f").connected(7).gap("cursor-unknown", 7).catchup_complete().silence())
        .on("/pods", pods_reply("f", 7, []))
        .on("/pods", pods_reply("f", 7, []));
    let peer = Peer::start(script).await;
    let mut stream = client(&peer.url()).stream_pod_state_with_replay(options().since(hash("e.1")));
    assert_eq!(
        lines(&mut stream, 7).await,
        [
            "CurrentSeed",
            "CatchupComplete ack=e.1",
            "CurrentSeed",
            "ReconnectReseed",
            "GapReseed cursor-unknown",
            "CatchupComplete ack=f.7",
            "CurrentSeed",
        ]
    );
}

#[tokio::test]
async fn the_plain_state_streams_from_its_seed() {
    let (web, api) = (pod("web"), pod("api"));
    let script = RelayScript::new("e")
        .seed(4, [&web])
        .stream(talk().connected(4).catchup_complete().pod("ADDED", &api).cut())
        .stream(talk().connected(5).pod("DELETED", &web).catchup_complete().silence());
    let peer = Peer::start(script).await;
    let mut stream = client(&peer.url()).stream_pod_state(options());
    let sizes = [
        next(&mut stream).await.pods.len(),
        next(&mut stream).await.pods.len(),
        next(&mut stream).await.pods.len(),
    ];
    assert_eq!(sizes, [1, 2, 1]);
    let resumed: Vec<_> = peer
        .requests()
        .iter()
        .filter(|r| r.path() == "/events/stream")
        .map(|r| r.query("since_hash").unwrap())
        .collect();
    assert_eq!(resumed, ["e.4", "e.5"], "from the seed, and no list after the drop");
}

#[tokio::test]
async fn raw_messages_are_those_of_one_connection() {
    let web = pod("web");
    let conversation =
        talk().connected(1).event("news", Some("n1"), &json!({"a": 1})).bytes("event: pod\ndata: {\n\n");
    let script = RelayScript::new("e").stream(conversation.pod("MODIFIED", &web).cut());
    let peer = Peer::start(script).await;
    let messages: Vec<_> = client(&peer.url()).stream(options()).map(Result::unwrap).collect().await;
    let names: Vec<&str> = messages.iter().map(|m| m.event()).collect();
    assert_eq!(names, ["connected", "news", "pod", "pod"]);
    assert_eq!((messages[1].id(), messages[1].data()), ("n1", "{\"a\":1}"));
    assert!(matches!(messages[2].message(), relay_proto::pods::Message::Undecodable(_)));
    assert_eq!(peer.connections(), 1);
}

#[tokio::test]
async fn events_go_on_across_connections() {
    let web = pod("web");
    let script = RelayScript::new("e")
        .stream(talk().connected(1).pod("ADDED", &web).bytes("event: pod\nid: e.3\ndata: ?\n\n").cut())
        .stream(talk().connected(3).pod("MODIFIED", &web).gap("slow-consumer", 9).pod("DELETED", &web).cut())
        .on("/events/stream", Reply::empty(204));
    let peer = Peer::start(script).await;
    let mut stream = client(&peer.url()).stream_pod_events(options().since(hash("e.1")));
    let mut seen = Vec::new();
    let error = loop {
        match within("an item", stream.next()).await.unwrap() {
            Ok(PodEventItem::Event(event)) => seen.push(event.hash.to_string()),
            Ok(PodEventItem::Gap(gap)) => seen.push(gap.reason.as_str().into()),
            Ok(PodEventItem::Undecodable(message)) => seen.push(format!("? {}", message.hash.unwrap())),
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert_eq!(seen, ["e.2", "? e.3", "e.4", "slow-consumer", "e.10"]);
    assert!(matches!(error, relay_pods::Error::Finished { .. }), "{error}");
    assert!(stream.next().await.is_none());
    assert_eq!(peer.request_to("/events/stream", 1).await.query("since_hash").as_deref(), Some("e.3"));
}

#[tokio::test]
async fn dropping_a_stream_closes_its_connection() {
    let script = RelayScript::new("e")
        .seed(1, [])
        .stream(talk().connected(1).catchup_complete().silence())
        .seed(1, []);
    let peer = Peer::start(script).await;
    let mut stream = client(&peer.url()).stream_pod_state_with_replay(options());
    lines(&mut stream, 3).await;
    let connection = 1;
    drop(stream);
    within("the relay notices", peer.closed(connection)).await;
}

#[tokio::test]
async fn the_delay_of_closing_counts_once() {
    let clock = Clock::freeze();
    let closing = talk().connected(1).catchup_complete().closing("shutdown", Duration::from_secs(20)).cut();
    let script = RelayScript::new("e")
        .seed(1, [])
        .stream(closing)
        .seed(1, [])
        .seed(1, [])
        .stream(talk().connected(1).catchup_complete().cut())
        .seed(1, [])
        .seed(1, [])
        .stream(talk().connected(1).catchup_complete().silence())
        .seed(1, []);
    let peer = Peer::start(script).await;
    let mut stream = client(&peer.url()).stream_pod_state_with_replay(options());
    lines(&mut stream, 4).await;
    let before = clock.elapsed();
    let reached = clock.run(Duration::from_millis(100), lines(&mut stream, 3)).await;
    assert_eq!(reached, ["CatchupComplete ack=e.1", "CurrentSeed", "ReconnectReseed"]);
    let waited = clock.elapsed() - before;
    assert!(waited >= Duration::from_secs(20) && waited < Duration::from_secs(25), "{waited:?}");
    let before = clock.elapsed();
    clock.run(Duration::from_millis(100), lines(&mut stream, 2)).await;
    let waited = clock.elapsed() - before;
    assert!(waited < Duration::from_secs(5), "the base is what it was: {waited:?}");
}

#[tokio::test]
async fn a_silent_connection_is_dropped_after_three_heartbeats() {
    let clock = Clock::freeze();
    let script = RelayScript::new("e")
        .seed(1, [])
        .stream(talk().connected(1).catchup_complete().silence())
        .seed(1, [])
        .seed(1, []);
    let peer = Peer::start(script).await;
    let mut stream = client(&peer.url()).stream_pod_state_with_replay(options());
    lines(&mut stream, 3).await;
    let before = clock.elapsed();
    let dropped = clock.run(Duration::from_millis(250), next(&mut stream)).await;
    let waited = clock.elapsed() - before;
    assert_eq!(dropped.phase, Phase::ReconnectReseed);
    assert!(dropped.cause.unwrap().contains("45s"));
    assert!(waited >= Duration::from_secs(45) && waited < Duration::from_secs(60), "{waited:?}");
}

#[tokio::test]
async fn a_list_waits_as_long_as_the_relay_asks_and_a_quarter_more_at_most() {
    for (header, least) in [("20", 20), ("18446744073709551615", 3600), ("Sun, 06 Nov 1994 08:49:57 GMT", 20)]
    {
        let busy =
            Reply::empty(503).header("retry-after", header).header("date", "Sun, 06 Nov 1994 08:49:37 GMT");
        let peer = Peer::start(RelayScript::new("e").on("/pods", busy).seed(1, [])).await;
        let clock = Clock::freeze();
        let client = Client::builder(peer.url()).build().unwrap();
        let mut stream = client.stream_pod_state_with_replay(relay_pods::StreamOptions::new());
        clock.run(Duration::from_secs(1), next(&mut stream)).await;
        let (waited, least) = (clock.elapsed(), Duration::from_secs(least));
        assert!(waited >= least && waited < least * 5 / 4 + Duration::from_secs(2), "{header}: {waited:?}");
    }
}

#[tokio::test]
async fn a_relay_that_refuses_for_good_ends_the_stream() {
    let script = RelayScript::new("e")
        .seed(1, [])
        .on("/events/stream", Reply::json(403, &json!({"code": "forbidden-namespace"})));
    let peer = Peer::start(script).await;
    let error = end(&mut client(&peer.url()).stream_pod_state_with_replay(options())).await;
    assert_eq!(error.status(), Some(403));
    assert!(error.to_string().contains("forbidden-namespace"), "{error}");
}
