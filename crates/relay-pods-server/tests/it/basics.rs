//! Methods, paths, sizes, times, health and metrics.

use std::time::Duration;

use relay_pods_server::{Config, DEFAULT_RETENTION, Scope};
use serde_json::json;
use tokio::io::AsyncWriteExt;

use crate::raw::{End, Rig, pod};

#[tokio::test]
async fn paths_and_methods_that_are_not_served_say_so() {
    let rig = Rig::start(Config::default()).await;
    for path in ["/nothing", "/pods/", "/pods/a", "/events/", "/Pods", "//pods"] {
        let answer = rig.get(path).await;
        assert_eq!(answer.status(), 404, "{path}");
        answer.problem("not-found");
    }
    for (method, path, allow) in [
        ("POST", "/pods", "GET, HEAD"),
        ("DELETE", "/pods/a/b", "GET, HEAD"),
        ("PUT", "/events", "GET, HEAD"),
        ("POST", "/health", "GET, HEAD"),
        ("OPTIONS", "/metrics", "GET, HEAD"),
        ("POST", "/events/stream", "GET"),
        ("GET", "/auth/session", "POST"),
        ("PURGE", "/readyz", "GET, HEAD"),
    ] {
        let answer =
            rig.ask(&format!("{method} {path} HTTP/1.1\r\nhost: r\r\ncontent-length: 0\r\n\r\n")).await;
        assert_eq!((answer.status(), answer.field("allow")), (405, Some(allow)), "{method} {path}");
        answer.problem("method-not-allowed");
    }
}

#[tokio::test]
async fn head_is_get_without_its_body() {
    let rig = Rig::start(Config::default()).await;
    rig.publisher.upsert(pod("prod", "web", 1, &[])).await.unwrap();
    let mut peer = rig.connect().await;
    for path in
        ["/pods/prod/web", "/health", "/events", "/metrics", "/livez", "/readyz", "/pods", "/pods/prod/none"]
    {
        peer.send(format!("HEAD {path} HTTP/1.1\r\nhost: r\r\n\r\n").as_bytes()).await;
        let head = peer.head().await;
        let got = rig.get(path).await;
        assert_eq!(head[..15], got.head[..15], "{path}");
        assert!(
            head.contains(&format!("content-type: {}\r\n", got.field("content-type").unwrap())),
            "{head}"
        );
    }
    // The next head came directly after each head, so the answers to HEAD have no body.
    for (path, allow) in [("/events/stream", "GET"), ("/auth/session", "POST")] {
        peer.send(format!("HEAD {path} HTTP/1.1\r\nhost: r\r\n\r\n").as_bytes()).await;
        let head = peer.head().await;
        assert!(head.starts_with("HTTP/1.1 405 ") && head.contains(&format!("allow: {allow}\r\n")), "{head}");
    }
}

#[tokio::test]
async fn http_1_0_is_understood_and_the_connection_then_closed() {
    let rig = Rig::start(Config::default()).await;
    let mut peer = rig.connect().await;
    peer.send(b"GET /livez HTTP/1.0\r\n\r\n").await;
    let answer = String::from_utf8(peer.rest().await).unwrap();
    assert!(answer.starts_with("HTTP/1.0 200 OK\r\n") && answer.ends_with("\r\n\r\nok\n"), "{answer}");
    assert!(answer.contains("\r\ncontent-length: 3\r\n"), "{answer}");
}

#[tokio::test]
async fn a_head_over_64_kib_is_refused_in_every_shape() {
    let rig = Rig::start(Config::default()).await;
    let fields = |bytes: usize| format!("GET /livez HTTP/1.1\r\nhost: r\r\nx: {}\r\n\r\n", "y".repeat(bytes));
    let target = |bytes: usize| format!("GET /livez?{} HTTP/1.1\r\nhost: r\r\n\r\n", "y".repeat(bytes));
    assert_eq!(rig.ask(&fields(65_400)).await.status(), 200);
    assert_eq!(rig.ask(&target(65_400)).await.status(), 200);
    for request in [
        fields(65_600),
        fields(70_000),
        fields(200_000),
        fields(3_000_000),
        target(65_600),
        target(70_000),
        target(200_000),
    ] {
        let mut peer = rig.connect().await;
        // The answer may come while the request is still being sent.
        let (mut read, mut write) = peer.stream.split();
        let send = async { write.write_all(request.as_bytes()).await.is_ok() };
        let mut answer = Vec::new();
        let receive = tokio::io::AsyncReadExt::read_to_end(&mut read, &mut answer);
        let (_, received) = tokio::join!(send, receive);
        let answer = String::from_utf8(answer).unwrap();
        assert!(received.is_ok() || !answer.is_empty());
        assert!(answer.starts_with("HTTP/1.1 431 "), "{} bytes: {answer}", request.len());
        assert!(
            answer.contains("\r\nconnection: close\r\n")
                && answer.contains("urn:relay:problem:head-too-large")
        );
    }
}

#[tokio::test]
async fn what_is_not_http_is_a_problem_too() {
    let rig = Rig::start(Config::default()).await;
    for request in [
        "hello\r\n\r\n",
        "GET /pods HTTP/9.9\r\n\r\n",
        "GET /pods HTTP/1.1\r\nno colon\r\n\r\n",
        "G\0T / HTTP/1.1\r\n\r\n",
    ] {
        let answer = rig.ask(request).await;
        assert_eq!(answer.status(), 400, "{request:?}");
        answer.problem("bad-parameter");
    }
}

#[tokio::test]
async fn a_body_over_64_kib_is_refused_and_drained() {
    let rig = Rig::start(Config::default()).await;
    let fine = format!("{{\"x\":\"{}\"}}", "y".repeat(65_536 - 8));
    let post =
        |length: usize| format!("POST /auth/session HTTP/1.1\r\nhost: r\r\ncontent-length: {length}\r\n");
    assert_eq!(rig.ask(&format!("{}\r\n{fine}", post(fine.len()))).await.status(), 201);
    for (head, body) in [
        (format!("{}\r\n", post(65_537)), "y".repeat(65_537)),
        (format!("{}x-relay-token: any\r\n\r\n", post(4_000_000)), "y".repeat(4_000_000)),
        (
            "POST /auth/session HTTP/1.1\r\nhost: r\r\ntransfer-encoding: chunked\r\n\r\n".to_owned(),
            format!("11000\r\n{}\r\n0\r\n\r\n", "y".repeat(0x11000)),
        ),
    ] {
        let mut peer = rig.connect().await;
        peer.send(head.as_bytes()).await;
        // The server reads the whole body, so that the answer is not lost.
        peer.send(body.as_bytes()).await;
        let answer = peer.answer().await;
        assert_eq!((answer.status(), answer.field("connection")), (413, Some("close")));
        answer.problem("body-too-large");
        assert_eq!(peer.rest().await, b"");
    }
    // A client that waits for `100 Continue` gets the refusal instead.
    let mut peer = rig.connect().await;
    peer.send(format!("{}expect: 100-continue\r\n\r\n", post(100_000)).as_bytes()).await;
    assert_eq!(peer.answer().await.status(), 413);
}

#[tokio::test]
async fn requests_of_one_connection_follow_each_other() {
    let rig = Rig::start(Config::default()).await;
    let mut peer = rig.connect().await;
    peer.send(b"GET /livez HTTP/1.1\r\nhost: r\r\n\r\nGET /pods HTTP/1.1\r\nhost: r\r\n\r\nGET /x HTTP/1.1\r\nhost: r\r\n\r\n").await;
    let mut statuses = Vec::new();
    for _ in 0..3 {
        statuses.push(peer.answer().await.status());
    }
    assert_eq!(statuses, [200, 200, 404]);
}

#[tokio::test]
async fn health_tells_the_source_from_the_store() {
    let rig = Rig::unsynced(Config::default(), DEFAULT_RETENTION).await;
    assert_eq!(rig.get("/livez").await.status(), 200);
    let cold = rig.get("/health").await;
    let genesis = cold.json()["head"]["hash"].clone();
    assert_eq!((cold.status(), cold.field("content-type")), (503, Some("application/json")));
    let expected = json!({
        "status": "degraded",
        "source": { "kind": "embedded", "synced": false, "state": "stale", "stale_since": "2026-11-21T09:00:00Z",
            "reason": null, "last_event_age_ms": null },
        "store": { "kind": "memory", "events": 0, "bytes": 0, "oldest_hash": null },
        "epoch": "fixture-epoch-1", "head": { "hash": genesis, "sequence": 0 }, "subscribers": 0,
    });
    assert_eq!(cold.json(), expected);
    rig.publisher.relist(Scope::All, vec![pod("prod", "a", 1, &[])]).await.unwrap();
    rig.clock.advance(Duration::from_millis(1234));
    let warm = rig.get("/health").await;
    let document = warm.json();
    assert_eq!((warm.status(), &document["status"]), (200, &"ok".into()));
    let source = json!({ "kind": "embedded", "synced": true, "state": "live", "stale_since": null, "reason": null, "last_event_age_ms": 1234 });
    assert_eq!(document["source"], source);
    assert_eq!(document["store"]["oldest_hash"], document["head"]["hash"]);
    assert_eq!((&document["store"]["events"], &document["head"]["sequence"]), (&1.into(), &1.into()));
    // A source without changes is ready, however old its last event is.
    rig.clock.advance(Duration::from_secs(86_000));
    assert_eq!(rig.get("/readyz").await.status(), 200);
    rig.publisher.stale("gone\nfor good");
    let away = rig.get("/health").await;
    let document = away.json();
    assert_eq!(
        (away.status(), &document["status"], &document["source"]["state"]),
        (200, &"degraded".into(), &"stale".into())
    );
    assert_eq!(document["source"]["stale_since"], "2026-11-22T08:53:21.234Z");
    assert_eq!(document["source"]["reason"], "gone for good");
    let probe = rig.get("/readyz").await;
    assert_eq!((probe.status(), probe.field("retry-after")), (503, Some("1")));
    assert_eq!(probe.json()["detail"], "the source is away: gone for good");
    // The reason changes, but the outage began at the same time.
    rig.clock.advance(Duration::from_secs(1));
    rig.publisher.stale("forbidden");
    let document = rig.get("/health").await.json();
    assert_eq!(document["source"]["reason"], "forbidden");
    assert_eq!(document["source"]["stale_since"], "2026-11-22T08:53:21.234Z");
    rig.publisher.live();
    assert_eq!(rig.get("/readyz").await.status(), 200);
    assert_eq!(rig.get("/health").await.json()["source"]["reason"], json!(null));
}

#[tokio::test]
async fn metrics_are_text_with_fixed_names() {
    let rig = Rig::start(Config::default()).await;
    rig.publisher.upsert(pod("prod", "a", 1, &[])).await.unwrap();
    let mut stream = rig.stream("/events/stream?client_id=one&since_hash=nonsense").await;
    stream.until("catchup_complete").await;
    rig.get("/pods/secret-name/x?token=s3cret").await;
    let metrics = rig.get("/metrics").await;
    assert_eq!(metrics.field("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    for line in [
        "relay_log_head_sequence 1",
        "relay_pods 1",
        "relay_streams 1",
        "relay_source_live 1",
        "relay_gaps_total{reason=\"cursor-unknown\"} 1",
        "relay_consumer_streams{client_id=\"one\"} 1",
        "relay_http_requests_total{route=\"pod\",status=\"404\"} 1",
        "relay_stream_messages_total 1",
    ] {
        assert!(metrics.body.lines().any(|l| l == line), "{line}\n{}", metrics.body);
    }
    assert!(!metrics.body.contains("s3cret") && !metrics.body.contains("secret-name"));
    for line in metrics.body.lines().filter(|line| !line.starts_with('#')) {
        assert!(line.rsplit_once(' ').unwrap().1.parse::<f64>().is_ok(), "{line}");
    }
}

#[tokio::test]
async fn a_thousand_silent_connections_leave_the_relay_answering() {
    let rig = Rig::start(Config::default()).await;
    let mut silent = Vec::new();
    for at in 0..1000 {
        // If there are no more file descriptors, the test uses the connections that it has.
        let Ok(mut stream) = tokio::net::TcpStream::connect(rig.handle.local_addr()).await else { break };
        if at % 2 == 0 {
            stream.write_all(b"GET /pods HTT").await.unwrap();
        }
        silent.push(stream);
        if at % 100 == 0 {
            assert_eq!(rig.get("/livez").await.status(), 200);
        }
    }
    silent.truncate(silent.len().saturating_sub(8));
    assert_eq!(rig.get("/health").await.status(), 200);
}

#[tokio::test]
async fn silent_connections_make_room_for_others() {
    let rig = Rig::start(Config::default().max_connections(8)).await;
    let mut silent = Vec::new();
    for _ in 0..300 {
        silent.push(rig.connect().await);
    }
    let mut stream = rig.stream("/events/stream").await;
    for _ in 0..100 {
        silent.push(rig.connect().await);
    }
    assert_eq!(rig.get("/health").await.status(), 200);
    stream.until("catchup_complete").await;
    rig.publisher.upsert(pod("prod", "a", 1, &[])).await.unwrap();
    assert_eq!(stream.expect("pod").await["sequence"], 1, "a stream is never closed to make room");
}

#[tokio::test]
async fn a_client_that_half_closes_with_its_request_gets_its_answer() {
    let ahead = Rig::start(Config::default()).await;
    let mut hashes = Vec::new();
    for version in 1..=2 {
        ahead.publisher.upsert(pod("prod", "web", version, &[])).await.unwrap();
        hashes.push(ahead.get("/pods").await.json()["hash"].as_str().unwrap().to_owned());
    }
    let rig = Rig::start(Config::default()).await;
    // The client closes its side while the server waits for these positions.
    let mut list = rig.connect().await;
    list.send(format!("GET /pods?at_least={} HTTP/1.1\r\nhost: r\r\n\r\n", hashes[0]).as_bytes()).await;
    list.stream.shutdown().await.unwrap();
    let mut stream = rig.connect().await;
    let target = format!("/events/stream?since_hash={}", hashes[1]);
    stream.send(format!("GET {target} HTTP/1.1\r\nhost: r\r\n\r\n").as_bytes()).await;
    stream.stream.shutdown().await.unwrap();
    for _ in 0..10 {
        assert_eq!(rig.get("/livez").await.status(), 200);
    }
    rig.publisher.upsert(pod("prod", "web", 1, &[])).await.unwrap();
    assert_eq!(list.answer().await.json()["hash"], hashes[0]);
    assert_eq!(list.rest().await, b"");
    // A stream to such a client ends as soon as it begins.
    rig.publisher.upsert(pod("prod", "web", 2, &[])).await.unwrap();
    let answer = String::from_utf8(stream.rest().await).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && !answer.contains("event: heartbeat"), "{answer}");
    rig.subscribers_are(0).await;
}

#[tokio::test]
async fn a_client_that_half_closes_its_stream_is_gone() {
    let rig = Rig::start(Config::default()).await;
    let mut stream = rig.stream("/events/stream").await;
    stream.until("catchup_complete").await;
    assert_eq!(rig.handle.subscribers(), 1);
    stream.peer.stream.shutdown().await.unwrap();
    assert_eq!(stream.block().await, Err(End::Cut));
    rig.subscribers_are(0).await;
}
