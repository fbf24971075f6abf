//! Slow consumers: bounded memory, and after that all events or a gap.

use std::time::Duration;

use futures_util::StreamExt;
use relay_pods::{Client, Phase, StreamOptions};
use relay_pods_server::{Config, DEFAULT_RETENTION, Handle, Server};
use relay_testkit::{Conversation, Gate, Peer, RelayScript, within};

use super::{lines, next, options};

const EVENTS: u64 = 100_000;
/// The number of bytes that a stalled client may have received beyond those that it handed over: the last chunk.
const BOUND: u64 = 1 << 20;

async fn relay(retain: u64) -> (Handle, Client) {
    // No time limit may end a connection on a busy machine.
    let hour = Duration::from_secs(3600);
    let server = Server::builder(Config::default().stall_timeout(hour).heartbeat(hour))
        .retention(DEFAULT_RETENTION.entries(retain))
        .bind("127.0.0.1:0")
        .await
        .unwrap();
    let handle = server.handle();
    tokio::spawn(server.run(std::future::pending()));
    let publisher = handle.publisher();
    publisher.relist(relay_pods_server::Scope::All, vec![Conversation::sample_pod("web-0")]).await.unwrap();
    let client = Client::builder(format!("http://{}", handle.local_addr())).build().unwrap();
    (handle, client)
}

/// Appends events of one pod in a separate task: the log does not wait for subscribers.
async fn append(handle: &Handle, events: u64) {
    let publisher = handle.publisher();
    tokio::spawn(async move {
        let head = publisher.head();
        for n in head..head + events {
            let pod = Conversation::sample_pod("web-0")
                .to_builder()
                .resource_version(Some(&format!("{}", n + 1000)));
            publisher.upsert(pod.build()).await.unwrap();
        }
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_stalled_for_100_000_events_stays_small_and_then_catches_up() {
    let (server, client) = relay(EVENTS + 10).await;
    let mut stream = client.stream_pod_state_with_replay(StreamOptions::new());
    while !next(&mut stream).await.is_live() {}
    append(&server, 1).await;
    assert_eq!(next(&mut stream).await.phase, Phase::Live);
    let before = stream.handle().statistics().bytes;
    append(&server, EVENTS).await;
    // Reads one more, so that the stream was polled when everything could be read.
    next(&mut stream).await;
    let statistics = stream.handle().statistics();
    let taken = statistics.bytes - before;
    assert!(taken < BOUND, "{taken} bytes taken in while nobody asked");
    for n in 2..=EVENTS {
        let snapshot = next(&mut stream).await;
        assert_eq!(snapshot.event.expect("an event").sequence, Some(n + 2), "in order, none missing");
    }
    let statistics = stream.handle().statistics();
    assert_eq!((statistics.gaps, statistics.holes, statistics.buffered_max), (0, 0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_that_falls_off_the_log_is_told_and_goes_on() {
    let (server, client) = relay(1000).await;
    let mut stream = client.stream_pod_state_with_replay(StreamOptions::new());
    while !next(&mut stream).await.is_live() {}
    append(&server, EVENTS).await;
    let gap = loop {
        let snapshot = next(&mut stream).await;
        if let Some(gap) = snapshot.gap {
            assert_eq!(snapshot.phase, Phase::GapReseed);
            break gap;
        }
    };
    assert_eq!(gap.reason.as_str(), "slow-consumer");
    assert!(gap.missed.unwrap() > EVENTS / 2, "{:?}", gap.missed);
    let mut last = gap.sequence.unwrap();
    while last < EVENTS + 1 {
        let event = next(&mut stream).await.event.expect("an event");
        assert_eq!(event.sequence, Some(last + 1));
        last += 1;
    }
}

#[tokio::test]
async fn while_a_list_is_slow_the_socket_is_read_into_a_bounded_buffer() {
    let web = Conversation::sample_pod("web");
    let gate = Gate::new();
    let mut flood = Conversation::new("e").connected(1).catchup_complete();
    for _ in 0..2000 {
        flood = flood.pod("MODIFIED", &web);
    }
    let script = RelayScript::new("e")
        .seed(1, [&web])
        .stream(flood.silence())
        .on("/pods", relay_testkit::Reply::raw().hold(&gate).cut())
        .seed(1, [&web]);
    let peer = Peer::start(script).await;
    let bound = 64 << 10;
    let client = Client::builder(peer.url()).build().unwrap();
    let mut stream = client.stream_pod_state_with_replay(options().read_ahead_bytes(bound));
    lines(&mut stream, 2).await;
    let handle = stream.handle();
    let rest = tokio::spawn(async move { lines(&mut stream, 2001).await });
    within("a full buffer", async {
        while handle.statistics().buffered < bound as u64 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
    gate.open();
    let seen = within("everything", rest).await.unwrap();
    assert_eq!(seen.last().unwrap(), "Live MODIFIED e.2001 ack=e.2001");
    let most = handle.statistics().buffered_max;
    assert!(most < 2 * bound as u64, "{most} bytes were held");
}

#[tokio::test]
async fn an_endless_line_does_not_grow_the_client() {
    let web = Conversation::sample_pod("web");
    let chunk = vec![b'x'; 1 << 20];
    let mut endless =
        Conversation::new("e").connected(1).catchup_complete().bytes("event: pod\nid: e.2\ndata: ");
    for _ in 0..70 {
        endless = endless.bytes(chunk.clone());
    }
    let script = RelayScript::new("e")
        .seed(1, [&web])
        .stream(endless.silence())
        .seed(1, [&web])
        .seed(1, [&web])
        .stream(Conversation::new("e").connected(1).catchup_complete().pod("MODIFIED", &web).silence())
        .seed(1, [&web]);
    let peer = Peer::start(script).await;
    let mut stream = super::client(&peer.url()).stream_pod_state_with_replay(options());
    lines(&mut stream, 3).await;
    let dropped = next(&mut stream).await;
    assert_eq!(dropped.phase, Phase::ReconnectReseed);
    assert!(dropped.cause.unwrap().contains("did not end"));
    assert_eq!(lines(&mut stream, 3).await.last().unwrap(), "Live MODIFIED e.2 ack=e.2");
    assert!(stream.next().now_or_never_is_pending());
}

trait NowOrNever {
    fn now_or_never_is_pending(self) -> bool;
}

impl<F: Future> NowOrNever for F {
    fn now_or_never_is_pending(self) -> bool {
        futures_util::FutureExt::now_or_never(self).is_none()
    }
}
