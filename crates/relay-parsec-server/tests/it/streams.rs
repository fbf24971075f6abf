//! The content of a stream, from its first block to its last.

use std::time::{Duration, Instant};

use relay_parsec_server::ServerConfig;
use serde_json::json;
use tokio::io::AsyncReadExt;

use crate::raw::{CHANNEL, Rig, envelope_of};

#[tokio::test]
async fn connected_comes_first_and_at_once() {
    let rig = Rig::with(ServerConfig::default().heartbeat(Duration::from_millis(1500))).await;
    let head = rig.say("p", 1).await;
    let mut stream = rig.stream(&format!("{CHANNEL}&client_id=me")).await;
    let (id, connected) = stream.event("connected").await;
    let epoch = head.rsplit_once('.').unwrap().0;
    assert_eq!(id, None);
    assert_eq!(
        connected,
        json!({"protocol": 1, "channel": CHANNEL, "epoch": epoch, "head": 1, "resumes_after": head, "client_id": "me",
               "heartbeat_seconds": 1.5})
    );
    let next = rig.say("p", 2).await;
    let (id, envelope) = stream.event("envelope").await;
    assert_eq!((id, &envelope["sequence"]), (Some(next.clone()), &json!(2)));
    let (id, beat) = stream.event("heartbeat").await;
    assert_eq!((id, &beat["position"]), (None, &json!(next)));
    assert!(beat["time"].as_str().unwrap().ends_with('Z'));
}

#[tokio::test]
async fn where_a_stream_begins() {
    let rig = Rig::with(ServerConfig::default().retain_events(3_u64)).await;
    let mut last = String::new();
    for sequence in 1..=5 {
        last = rig.say("p", sequence).await;
    }
    let epoch = last.rsplit_once('.').unwrap().0.to_owned();
    let at = |offset: u64| format!("{epoch}.{offset}");
    // The query, `Last-Event-ID`, the offset at which the stream resumes, the gap's reason and count, and the first
    // sequence.
    for (query, id, after, gap, first) in [
        ("", "", 5, None, None),
        ("&start=latest", "", 5, None, None),
        ("&start=oldest", "", 2, None, Some(3)),
        (&*format!("&after={}", at(5)), "", 5, None, None),
        (&*format!("&after={}", at(2)), "", 2, None, Some(3)),
        (&*format!("&after={}", at(4)), "", 4, None, Some(5)),
        (&*format!("&after={}", at(1)), "", 2, Some(("trimmed", json!(1))), Some(3)),
        (&*format!("&after={}", at(0)), "", 2, Some(("trimmed", json!(2))), Some(3)),
        (&*format!("&after={}", at(6)), "", 2, Some(("unknown-position", json!(null))), Some(3)),
        ("&after=other.4", "", 2, Some(("epoch-changed", json!(null))), Some(3)),
        ("&after=nonsense", "", 2, Some(("unknown-position", json!(null))), Some(3)),
        ("&after=a.b.c.1x", "", 2, Some(("unknown-position", json!(null))), Some(3)),
        // The header takes precedence over the parameter, and the parameter over the start.
        ("&after=other.4&start=oldest", &*at(4), 4, None, Some(5)),
        (&*format!("&after={}&start=oldest", at(4)), "", 4, None, Some(5)),
    ] {
        let headers = [("last-event-id", id)];
        let headers = if id.is_empty() { &[][..] } else { &headers };
        let mut stream = rig.stream_with(&format!("{CHANNEL}{query}"), headers).await;
        let (_, connected) = stream.event("connected").await;
        assert_eq!(
            (&connected["resumes_after"], &connected["head"]),
            (&json!(at(after)), &json!(5)),
            "{query}"
        );
        if let Some((reason, missed)) = gap {
            let (id, said) = stream.event("gap").await;
            let requested = query.strip_prefix("&after=").unwrap();
            assert_eq!(
                said,
                json!({"reason": reason, "requested": requested, "resumes_after": at(after), "missed": missed}),
                "{query}"
            );
            assert_eq!(id, Some(at(after)));
        }
        if let Some(first) = first {
            for sequence in first..=5 {
                let (id, envelope) = stream.event("envelope").await;
                assert_eq!((id, &envelope["sequence"]), (Some(at(sequence)), &json!(sequence)), "{query}");
            }
        }
    }
}

#[tokio::test]
async fn every_subscriber_is_told_when_the_server_ends() {
    let rig = Rig::start().await;
    let mut streams = Vec::new();
    for _ in 0..3 {
        let mut stream = rig.stream(CHANNEL).await;
        stream.event("connected").await;
        streams.push(stream);
    }
    rig.stop.cancel();
    for mut stream in streams {
        let block = stream.block().await.unwrap();
        let retry = block.lines().find_map(|line| line.strip_prefix("retry: ")).unwrap();
        assert!((100..=2100).contains(&retry.parse::<u64>().unwrap()), "{block}");
        assert!(block.ends_with("event: closing\ndata: {\"reason\":\"shutdown\"}\n\n"), "{block}");
        assert_eq!(stream.block().await, None);
    }
    rig.end().await;
}

#[tokio::test]
async fn a_stream_has_its_lifetime() {
    let rig = Rig::with(ServerConfig::default().stream_lifetime(Duration::from_millis(300))).await;
    let begun = Instant::now();
    let mut stream = rig.stream(CHANNEL).await;
    stream.event("connected").await;
    assert_eq!(stream.event("closing").await.1, json!({"reason": "lifetime"}));
    assert!(begun.elapsed() >= Duration::from_millis(300));
    assert_eq!(stream.block().await, None);
}

/// A subscriber that does not read falls off the retained log, gets a gap, and delays nobody.
#[tokio::test]
async fn a_slow_subscriber_is_told_and_delays_nobody() {
    let rig = Rig::with(ServerConfig::default().retain_events(20_u64)).await;
    let mut slow = rig.stream(CHANNEL).await;
    slow.event("connected").await;
    let mut quick = rig.stream(CHANNEL).await;
    quick.event("connected").await;
    let payload = format!("\"{}\"", "x".repeat(60_000));
    const COUNT: i64 = 400;
    for sequence in 1..=COUNT {
        let answer = rig.publish(&envelope_of(CHANNEL, "p", sequence, &payload)).await;
        assert_eq!(answer.status(), 200);
        assert_eq!(quick.event("envelope").await.1["sequence"], sequence);
    }
    let (mut next, mut gaps) = (1, 0);
    while next <= COUNT {
        let block = slow.block().await.unwrap();
        let data = block.lines().find_map(|line| line.strip_prefix("data: ")).unwrap();
        let data: serde_json::Value = serde_json::from_str(data).unwrap();
        if block.starts_with("event: gap\n") {
            assert_eq!((&data["reason"], &data["requested"]), (&json!("slow-consumer"), &json!(null)));
            let missed = data["missed"].as_i64().unwrap();
            assert!(missed > 0);
            next += missed;
            assert!(data["resumes_after"].as_str().unwrap().ends_with(&format!(".{}", next - 1)), "{data}");
            gaps += 1;
        } else {
            assert_eq!(data["sequence"], next, "what is missing was said");
            next += 1;
        }
    }
    assert!(gaps > 0, "the sockets hold less than 24 MB");
}

/// A subscriber that disconnects is noticed, and removed from the list.
#[tokio::test]
async fn who_hangs_up_is_gone() {
    let rig = Rig::with(ServerConfig::default().heartbeat(Duration::from_millis(100))).await;
    let mut stream = rig.stream(CHANNEL).await;
    stream.event("connected").await;
    let presence = format!("/parsec/presence?channel={CHANNEL}");
    assert_eq!(rig.get(&presence).await.json()["subscribers"], 1);
    let mut socket = stream.stall();
    let mut some = [0; 16];
    let _ = socket.read(&mut some).await;
    drop(socket);
    rig.until(&presence, |list| list["subscribers"] == 0).await;
}
