//! Requests, answers and reconnects.

use super::*;

#[tokio::test]
async fn the_request() {
    documented("request: GET with Accept and Cache-Control, no Last-Event-Id");
    let mut harness = Harness::start().await;
    let peer = Peer::start(Script::new().on("/path", body("data: x\n\n"))).await;
    let mut stream = harness.follow(&format!("{}/path?q=1", peer.url()), json!({})).await;
    stream.expect_events(&[("message", "x", "")]).await;
    stream.end().await;
    let request = peer.request(0).await;
    assert_eq!((request.method(), request.target()), ("GET", "/path?q=1"));
    assert_eq!(request.header("accept"), Some("text/event-stream"));
    assert_eq!(request.header("cache-control"), Some("no-cache"));
    assert_eq!(request.header("last-event-id"), None);
    peer.closed(0).await;
}

#[tokio::test]
async fn what_the_caller_adds() {
    let mut harness = Harness::start().await;
    for (case, options, expected) in [
        (
            "custom headers",
            json!({"headers": {"header-name-1": "value-1", "header-name-2": "value-2"}}),
            json!({"method": "GET", "body": "", "header-name-1": "value-1", "header-name-2": "value-2"}),
        ),
        (
            "POST with a body",
            json!({"method": "POST", "body": r#"{"hello": "world"}"#, "headers": {"content-type": "application/json; charset=utf-8"}}),
            json!({"method": "POST", "body": r#"{"hello": "world"}"#, "content-type": "application/json; charset=utf-8"}),
        ),
        (
            "REPORT with a body",
            json!({"method": "REPORT", "body": r#"{"hello": "world"}"#, "headers": {"content-type": "application/json; charset=utf-8"}}),
            json!({"method": "REPORT", "body": r#"{"hello": "world"}"#, "content-type": "application/json; charset=utf-8"}),
        ),
        (
            "initial Last-Event-Id",
            json!({"lastEventId": "abc"}),
            json!({"method": "GET", "body": "", "last-event-id": "abc"}),
        ),
    ] {
        documented(case);
        let peer = Peer::start(Script::new().on("/", body("data: x\n\n"))).await;
        let mut stream = harness.follow(&peer.url(), options).await;
        stream.event().await;
        stream.end().await;
        let request = peer.request(0).await;
        for (name, value) in expected.as_object().unwrap() {
            let seen = match name.as_str() {
                "method" => request.method(),
                "body" => std::str::from_utf8(request.body()).unwrap(),
                name => request.header(name).unwrap_or_default(),
            };
            assert_eq!(seen, value.as_str().unwrap(), "{case}: {name}");
        }
    }
}

#[tokio::test]
async fn no_content_is_the_end() {
    documented("204 stops reconnecting");
    let mut harness = Harness::start().await;
    let peer = Peer::start(Script::new().always("/", Reply::empty(204))).await;
    let stream = harness.follow(&peer.url(), json!({"initialDelayMs": 0})).await;
    peer.played(0).await;
    // Another stream is followed meanwhile, which takes longer than a reconnect without delay would.
    drop(stream);
    for _ in 0..20 {
        let other = Peer::start(Script::new().on("/", body("data: x\n\n"))).await;
        let mut stream = harness.follow(&other.url(), json!({"initialDelayMs": 0})).await;
        stream.expect_events(&[("message", "x", "")]).await;
        stream.end().await;
    }
    assert_eq!(peer.connections(), 1);
    assert_eq!(harness.ask("DELETE", "/streams/1", &Value::Null).await.0, 204);
}

#[tokio::test]
async fn redirects() {
    let mut harness = Harness::start().await;
    for status in [301, 307] {
        documented(&format!("{status} is followed"));
        let script =
            Script::new().on("/", Reply::redirect(status, "/there")).on("/there", body("data: x\n\n"));
        let peer = Peer::start(script).await;
        let mut stream = harness.follow(&peer.url(), json!({})).await;
        stream.expect_events(&[("message", "x", "")]).await;
        stream.end().await;

        for (what, reply) in [("an empty", Reply::redirect(status, "")), ("a missing", Reply::empty(status))]
        {
            documented(&format!("{status} with {what} Location"));
            // The client reports an error and makes another attempt, without a loop.
            let peer = Peer::start(Script::new().on("/", reply).on("/", body("data: x\n\n"))).await;
            let mut stream = harness.follow(&peer.url(), json!({"initialDelayMs": 0})).await;
            assert!(stream.expect_error().await.contains("without a Location"));
            stream.expect_events(&[("message", "x", "")]).await;
            stream.end().await;
            assert_eq!(peer.requests().len(), 2);
        }
    }
}

/// The `Last-Event-Id` of each connection's request, for streams that end or are cut one after the other.
async fn last_ids(case: &str, bodies: &[(&'static str, usize)]) -> Vec<Option<String>> {
    documented(case);
    let mut harness = Harness::start().await;
    let script = bodies.iter().enumerate().fold(Script::new(), |script, (index, (text, _))| {
        let reply = Reply::sse().chunked().send(*text);
        script.on("/", if index + 1 == bodies.len() { reply.silence() } else { reply.cut() })
    });
    let peer = Peer::start(script).await;
    let mut stream = harness.follow(&peer.url(), json!({"initialDelayMs": 0})).await;
    for (_, events) in bodies {
        for _ in 0..*events {
            stream.event().await;
        }
    }
    stream.end().await;
    peer.requests().iter().map(|request| request.header("last-event-id").map(str::to_owned)).collect()
}

#[tokio::test]
async fn last_event_ids() {
    let some = |text: &str| Some(text.to_owned());
    let seen =
        last_ids("Last-Event-Id is sent on reconnect", &[("id: abc\ndata: 1\n\n", 1), ("data: 2\n\n", 1)]);
    assert_eq!(seen.await, [None, some("abc")]);
    let seen = last_ids(
        "Last-Event-Id is kept when later events have none",
        &[("id: abc\ndata: 1\n\ndata: 2\n\n", 2), ("data: 3\n\n", 1), ("data: 4\n\n", 1)],
    );
    assert_eq!(seen.await, [None, some("abc"), some("abc")]);
    let seen = last_ids(
        "Last-Event-Id is absent after the id was emptied",
        &[("id: abc\ndata: 1\n\nid:\ndata: 2\n\n", 2), ("data: 3\n\n", 1)],
    );
    assert_eq!(seen.await, [None, None]);
    let seen = last_ids(
        "partial event is discarded",
        &[("id: abc\ndata: 1\n\nid: def\ndata: never", 1), ("data: 2\n\n", 1)],
    );
    assert_eq!(seen.await, [None, some("abc")]);
    let seen =
        last_ids("events come on the new connection", &[("data: 1\n\n", 1), ("data: 2\n\ndata: 3\n\n", 2)]);
    assert_eq!(seen.await, [None, None]);
}

#[tokio::test]
async fn restart() {
    documented("restart command");
    let mut harness = Harness::start().await;
    let peer = Peer::start(Script::new().on("/", body("data: 1\n\n")).on("/", body("data: 2\n\n"))).await;
    let mut stream = harness.follow(&peer.url(), json!({"initialDelayMs": 0})).await;
    stream.expect_events(&[("message", "1", "")]).await;
    assert_eq!(stream.order(json!({"command": "restart"})).await, 202);
    stream.expect_events(&[("message", "2", "")]).await;
    peer.closed(0).await;
    stream.end().await;
}

#[tokio::test]
async fn bodies_are_sent_again() {
    documented("body is sent again on reconnect");
    let mut harness = Harness::start().await;
    let script =
        Script::new().on("/", Reply::sse().chunked().send("data: 1\n\n").cut()).on("/", body("data: 2\n\n"));
    let peer = Peer::start(script).await;
    let options = json!({"initialDelayMs": 0, "method": "REPORT", "body": "what I want"});
    let mut stream = harness.follow(&peer.url(), options).await;
    stream.expect_events(&[("message", "1", ""), ("message", "2", "")]).await;
    stream.end().await;
    for request in peer.requests() {
        assert_eq!((request.method(), &request.body()[..]), ("REPORT", &b"what I want"[..]));
    }
    assert_eq!(peer.requests().len(), 2);
}

#[tokio::test]
async fn read_timeout() {
    documented("read timeout");
    let mut harness = Harness::start().await;
    let peer = Peer::start(Script::new().on("/", body("data: 1\n\n")).on("/", body("data: 2\n\n"))).await;
    let mut stream = harness.follow(&peer.url(), json!({"initialDelayMs": 0, "readTimeoutMs": 500})).await;
    stream.expect_events(&[("message", "1", "")]).await;
    assert_eq!(stream.expect_error().await, "nothing received for 500ms");
    stream.expect_events(&[("message", "2", "")]).await;
    stream.end().await;
}
