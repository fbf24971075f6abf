//! The stream: replay, live, gaps, filters.

use std::time::Duration;

use relay_pods_server::{Config, DEFAULT_RETENTION, Retention};
use serde_json::{Value, json};

use crate::raw::{NOW, Rig, parse, pod};

fn kinds(messages: &[(String, Value)]) -> Vec<String> {
    messages
        .iter()
        .map(|(event, data)| match event.as_str() {
            "pod" => format!("{} {}", data["type"].as_str().unwrap(), data["pod"]["name"].as_str().unwrap()),
            other => other.to_owned(),
        })
        .collect()
}

/// Three events: web-1 added, web-2 added, web-1 modified.
async fn three_events(config: Config, retention: Retention) -> Rig {
    let rig = Rig::with_retention(config, retention).await;
    rig.publisher.upsert(pod("prod", "web-1", 1, &["app=web"])).await.unwrap();
    rig.publisher.upsert(pod("dev", "web-2", 2, &["app=web"])).await.unwrap();
    rig.publisher.upsert(pod("prod", "web-1", 3, &["app=web"])).await.unwrap();
    rig
}

async fn hashes(rig: &Rig) -> Vec<String> {
    let page = rig.get("/events").await.json();
    page["events"].as_array().unwrap().iter().map(|e| e["hash"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn without_a_cursor_everything_retained_comes_first() {
    let rig = three_events(Config::default(), DEFAULT_RETENTION).await;
    let mut stream = rig.stream("/events/stream?client_id=me").await;
    for field in ["content-type: text/event-stream", "cache-control: no-store", "x-accel-buffering: no"] {
        assert!(stream.head.contains(&format!("\r\n{field}\r\n")), "{}", stream.head);
    }
    let connected = stream.expect("connected").await;
    let hashes = hashes(&rig).await;
    assert_eq!(connected["protocol"], 1);
    assert_eq!(connected["client_id"], "me");
    assert_eq!(connected["epoch"], "fixture-epoch-1");
    assert_eq!(connected["head"], json!({ "hash": hashes[2], "sequence": 3 }));
    assert_eq!(connected["resumes_after"]["sequence"], 0);
    assert_eq!((&connected["filtered"], &connected["namespaces"]), (&false.into(), &json!([])));
    assert_eq!(connected["heartbeat_seconds"], 15);
    let mut previous = connected["resumes_after"]["hash"].clone();
    for (at, hash) in hashes.iter().enumerate() {
        let block = stream.block().await.unwrap();
        assert!(block.contains(&format!("\nid: {hash}\n")), "{block}");
        let (event, data) = parse(&block);
        assert_eq!((event.as_str(), &data["sequence"]), ("pod", &json!(at + 1)));
        assert_eq!((&data["hash"], &data["previous_hash"]), (&json!(hash), &previous));
        assert!(data.get("sent").is_none() && data.get("left_filter").is_none());
        assert!(data.get("entered_filter").is_none());
        assert_eq!(data["timestamp"], "2026-11-21T09:00:00Z");
        previous = data["hash"].clone();
    }
    let complete = stream.expect("catchup_complete").await;
    assert_eq!(complete, json!({ "hash": hashes[2], "sequence": 3, "replayed": 3 }));
    rig.publisher.delete(pod("dev", "web-2", 4, &["app=web"])).await.unwrap();
    let live = stream.expect("pod").await;
    assert_eq!((&live["type"], &live["previous_hash"]), (&"DELETED".into(), &json!(hashes[2])));
    assert_eq!(live["pod"]["resource_version"], "4", "the last state");
}

#[tokio::test]
async fn a_cursor_resumes_exactly_after_itself() {
    let rig = three_events(Config::default(), DEFAULT_RETENTION).await;
    let hashes = hashes(&rig).await;
    let genesis = rig.get("/events").await.json()["events"][0]["previous_hash"].as_str().unwrap().to_owned();
    let cursors = [genesis, hashes[0].clone(), hashes[1].clone(), hashes[2].clone()];
    for (at, cursor) in cursors.iter().enumerate() {
        let by_query = (format!("/events/stream?since_hash={cursor}&start=latest"), String::new());
        let by_header = ("/events/stream?since_hash=".to_owned(), format!("last-event-id: {cursor}\r\n"));
        let both = (format!("/events/stream?since_hash={cursor}"), "last-event-id: other\r\n".to_owned());
        for (target, fields) in [by_query, by_header, both] {
            let mut stream = rig.stream_with(&target, &fields).await;
            let messages = stream.until("catchup_complete").await;
            assert_eq!(messages[0].1["resumes_after"], json!({ "hash": cursor, "sequence": at }));
            let sequences: Vec<_> = messages[1..].iter().map(|m| m.1["sequence"].as_u64().unwrap()).collect();
            let expected: Vec<_> = (at as u64 + 1..=3).chain([3]).collect();
            assert_eq!(sequences, expected, "{target} {fields}");
            assert_eq!(messages.last().unwrap().1["replayed"], 3 - at);
        }
    }
}

#[tokio::test]
async fn start_latest_skips_the_replay() {
    let rig = three_events(Config::default(), DEFAULT_RETENTION).await;
    for fields in ["", "last-event-id: \r\n"] {
        let mut stream = rig.stream_with("/events/stream?start=latest", fields).await;
        let connected = stream.expect("connected").await;
        assert_eq!(connected["resumes_after"], connected["head"]);
        let complete = stream.expect("catchup_complete").await;
        assert_eq!((&complete["sequence"], &complete["replayed"]), (&3.into(), &0.into()));
    }
}

#[tokio::test]
async fn unknown_and_expired_cursors_get_a_gap_and_then_what_is_retained() {
    let rig = three_events(Config::default(), DEFAULT_RETENTION.entries(2)).await;
    let old = Rig::start(Config::default()).await;
    let genesis = old.get("/pods").await.json()["hash"].as_str().unwrap().to_owned();
    rig.publisher.upsert(pod("prod", "web-3", 4, &["app=web"])).await.unwrap();
    let kept = hashes(&rig).await;
    let page = rig.get("/events").await.json();
    let base = page["events"][0]["previous_hash"].as_str().unwrap().to_owned();
    for (cursor, reason, missed) in [
        (genesis.as_str(), "cursor-expired", json!(2)),
        ("nonsense", "cursor-unknown", json!(null)),
        ("fixture-.1.x.y", "cursor-unknown", json!(null)),
    ] {
        let mut stream = rig.stream(&format!("/events/stream?since_hash={cursor}")).await;
        let connected = stream.expect("connected").await;
        let position = json!({ "hash": base, "sequence": 2 });
        assert_eq!(connected["resumes_after"], position, "{reason}");
        let gap = stream.expect("gap").await;
        let expected = json!({
            "reason": reason, "epoch": "fixture-epoch-1", "requested_hash": cursor, "oldest_hash": kept[0],
            "missed": missed, "hash": base, "sequence": 2,
        });
        assert_eq!(gap, expected);
        let rest = stream.until("catchup_complete").await;
        assert_eq!(kinds(&rest), ["MODIFIED web-1", "ADDED web-3", "catchup_complete"]);
        assert_eq!(rest[0].1["previous_hash"], base.as_str());
        assert_eq!(rest[2].1["replayed"], 2);
    }
    // The position before the oldest event is not expired, because all events after it are there.
    let mut stream = rig.stream(&format!("/events/stream?since_hash={base}")).await;
    assert_eq!(kinds(&stream.until("catchup_complete").await)[1], "MODIFIED web-1");
    // A cursor that is not a hash is not an error either.
    let mut stream = rig.stream(&format!("/events/stream?since_hash={}%0D%0A", "x".repeat(300))).await;
    stream.expect("connected").await;
    let gap = stream.expect("gap").await;
    assert_eq!((&gap["reason"], &gap["requested_hash"]), (&"cursor-unknown".into(), &json!("x".repeat(256))));
}

#[tokio::test]
async fn a_gap_over_an_empty_log_is_caught_up_at_once() {
    let rig = three_events(Config::default(), DEFAULT_RETENTION).await;
    let hashes = hashes(&rig).await;
    rig.handle.trim_to_head().await.unwrap();
    let mut stream = rig.stream(&format!("/events/stream?since_hash={}&namespace=prod", hashes[0])).await;
    let connected = stream.expect("connected").await;
    assert_eq!(connected["resumes_after"], connected["head"]);
    let gap = stream.expect("gap").await;
    assert_eq!((&gap["oldest_hash"], &gap["missed"], &gap["sent"]), (&json!(null), &json!(null), &json!(1)));
    let complete = stream.expect("catchup_complete").await;
    assert_eq!(complete, json!({ "sent": 1, "hash": hashes[2], "sequence": 3, "replayed": 0 }));
}

#[tokio::test]
async fn a_cursor_that_is_still_to_come_is_waited_for() {
    let rig = Rig::start(Config::default().wait(Duration::from_millis(30))).await;
    let ahead = three_events(Config::default(), DEFAULT_RETENTION).await;
    let first = hashes(&ahead).await[0].clone();
    for target in [format!("/events/stream?since_hash={first}"), format!("/events?since_hash={first}")] {
        let refused = rig.get(&target).await;
        assert_eq!((refused.status(), refused.field("retry-after")), (503, Some("1")), "{target}");
        refused.problem("not-ready");
    }
    rig.publisher.upsert(pod("prod", "web-1", 1, &["app=web"])).await.unwrap();
    let mut stream = rig.stream(&format!("/events/stream?since_hash={first}")).await;
    assert_eq!(kinds(&stream.until("catchup_complete").await), ["connected", "catchup_complete"]);
}

#[tokio::test]
async fn a_filter_follows_the_watch_rule_and_counts() {
    let rig = Rig::start(Config::default()).await;
    let put = async |name: &str, version, labels: &[&str]| {
        rig.publisher.upsert(pod("prod", name, version, labels)).await.unwrap();
    };
    put("in", 1, &["app=web"]).await;
    put("out", 2, &["app=db"]).await;
    put("in", 3, &["app=web", "x=1"]).await;
    put("in", 4, &["app=db"]).await;
    put("in", 5, &["app=db", "x=1"]).await;
    put("out", 6, &["app=web"]).await;
    rig.publisher.delete(pod("prod", "in", 7, &["app=web"])).await.unwrap();
    rig.publisher.delete(pod("prod", "out", 8, &["app=other"])).await.unwrap();
    let mut stream = rig.stream("/events/stream?label=app=web&namespace=prod").await;
    let messages = stream.until("catchup_complete").await;
    let connected = &messages[0].1;
    assert_eq!((&connected["filtered"], &connected["namespaces"]), (&true.into(), &json!(["prod"])));
    let expected = [
        "connected",
        "ADDED in",
        "MODIFIED in",
        "DELETED in",
        "ADDED out",
        "DELETED out",
        "catchup_complete",
    ];
    assert_eq!(kinds(&messages), expected);
    for (at, (event, data)) in messages.iter().enumerate().skip(1) {
        let sent = if event == "pod" { at } else { at - 1 };
        assert_eq!(data["sent"], sent, "{data}");
        assert!(data.get("previous_hash").is_none());
        let left = (event == "pod" && data["sequence"] == 4).then(|| true.into());
        assert_eq!(data.get("left_filter"), left.as_ref(), "{data}");
        // "out" existed before, and its labels now match the filter; "in" is a new pod.
        let entered = (event == "pod" && data["sequence"] == 6).then(|| true.into());
        assert_eq!(data.get("entered_filter"), entered.as_ref(), "{data}");
    }
    assert_eq!(messages[6].1["replayed"], 5);
    assert_eq!(messages[6].1["sequence"], 8, "the position moves past what is filtered out");
    let page = rig.get("/events?label=app=web").await.json();
    let shown: Vec<_> = page["events"].as_array().unwrap().iter().map(|e| e["type"].clone()).collect();
    assert_eq!(json!(shown), json!(["ADDED", "MODIFIED", "DELETED", "ADDED", "DELETED"]));
    assert_eq!(page["events"][2]["left_filter"], true);
    let entered: Vec<_> =
        page["events"].as_array().unwrap().iter().map(|e| e["entered_filter"] == true).collect();
    assert_eq!(entered, [false, false, false, true, false]);
    assert!(page["events"][0].get("previous_hash").is_none());
}

#[tokio::test]
async fn json_of_a_filtered_event_stands_on_two_lines() {
    let rig = three_events(Config::default(), DEFAULT_RETENTION).await;
    let mut stream = rig.stream("/events/stream?namespace=dev").await;
    stream.expect("connected").await;
    let block = stream.block().await.unwrap();
    let lines: Vec<_> = block.lines().collect();
    assert_eq!(lines[2], "data: {\"sent\":1,\"type\":\"ADDED\",");
    assert!(lines[3].starts_with("data: \"hash\":\"fixture-.2."), "{block}");
}

#[tokio::test]
async fn heartbeats_are_bookmarks_and_tell_of_the_source() {
    let rig = three_events(Config::default().heartbeat(Duration::from_millis(15)), DEFAULT_RETENTION).await;
    let mut stream = rig.stream("/events/stream?namespace=dev").await;
    let messages = stream.until("heartbeat").await;
    assert_eq!(messages[0].1["heartbeat_seconds"], 0.015);
    let hash = hashes(&rig).await[2].clone();
    let expected = json!({
        "sent": 1, "hash": hash, "sequence": 3, "catching_up": false, "time": "2026-11-21T09:00:00Z",
        "source": "live", "stale_since": null,
    });
    assert_eq!(messages.last().unwrap().1, expected);
    rig.clock.advance(Duration::from_secs(60));
    rig.publisher.stale("for the test");
    rig.publisher.upsert(pod("prod", "unseen", 1, &[])).await.unwrap();
    let stale = loop {
        let beat = stream.expect("heartbeat").await;
        if beat["source"] == "stale" && beat["sequence"] == 4 {
            break beat;
        }
    };
    assert_eq!((&stale["stale_since"], &stale["sent"]), (&"2026-11-21T09:01:00Z".into(), &1.into()));
    rig.publisher.live();
    while stream.expect("heartbeat").await["source"] != "live" {}
    assert!(rig.clock.unix_millis() > NOW);
}

#[tokio::test]
async fn who_falls_off_the_log_is_told_and_goes_on() {
    let rig = three_events(Config::default(), DEFAULT_RETENTION).await;
    let mut all = rig.stream("/events/stream").await;
    let mut some = rig.stream("/events/stream?namespace=prod").await;
    all.until("catchup_complete").await;
    some.until("catchup_complete").await;
    // `force_gap` holds the streams back before it waits for the event.
    let (forced, ()) = tokio::join!(rig.handle.force_gap(Duration::from_secs(20)), async {
        rig.publisher.upsert(pod("prod", "lost", 9, &[])).await.unwrap();
    });
    assert!(forced);
    let gap = all.expect("gap").await;
    assert_eq!((&gap["reason"], &gap["missed"]), (&"slow-consumer".into(), &1.into()));
    assert_eq!((&gap["oldest_hash"], &gap["sequence"]), (&json!(null), &4.into()));
    let gap = some.expect("gap").await;
    assert_eq!((&gap["missed"], &gap["sent"]), (&json!(null), &3.into()));
    rig.publisher.upsert(pod("prod", "next", 10, &[])).await.unwrap();
    assert_eq!(all.expect("pod").await["pod"]["name"], "next");
    assert_eq!(some.expect("pod").await["sent"], 4);
    assert!(!rig.handle.force_gap(Duration::from_millis(10)).await, "nothing was appended");
}
