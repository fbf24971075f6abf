//! Cases beyond the public ones, and the service's own interface.

use super::*;

#[tokio::test]
async fn the_service_itself() {
    let mut harness = Harness::start().await;
    let (status, _, text) = harness.ask("GET", "/", &Value::Null).await;
    let answer: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((status, answer["capabilities"].as_array().unwrap().len()), (200, 10));
    for (method, path, body, expected) in [
        ("POST", "/", json!({}), 400),
        ("POST", "/", json!("x"), 400),
        ("POST", "/", json!({"streamUrl": "http://h/", "callbackUrl": "http://h", "method": "NO GOOD"}), 400),
        ("POST", "/streams/7", json!({"command": "restart"}), 404),
        ("DELETE", "/streams/7", Value::Null, 404),
        ("PUT", "/", Value::Null, 404),
    ] {
        assert_eq!(harness.ask(method, path, &body).await.0, expected, "{method} {path}");
    }
    // The service answers although the stream's server does not.
    let silent = Peer::start(Script::new().opening(relay_testkit::Opening::Silence)).await;
    let stream = harness.follow(&silent.url(), json!({})).await;
    assert_eq!(stream.order(json!({"command": "listen", "listen": {"type": "put"}})).await, 202);
    assert_eq!(stream.order(json!({"command": "dance"})).await, 400);
    silent.connection(0).await;
    stream.end().await;

    assert_eq!(harness.ask("DELETE", "/", &Value::Null).await.0, 204);
    let status = within("the service to exit", harness._service.wait()).await.unwrap();
    assert!(status.success());
}

#[tokio::test]
async fn statuses_and_types() {
    let mut harness = Harness::start().await;
    let options = || json!({"initialDelayMs": 0});
    for (reply, error) in [
        (Reply::empty(500), "answered with status 500"),
        (Reply::empty(503), "answered with status 503"),
        (
            Reply::new(200, "text/html", "<html>"),
            "answered with content type \"text/html\", not text/event-stream",
        ),
        (
            Reply::new(200, "x bogus", "data: x\n\n"),
            "answered with another content type than text/event-stream",
        ),
    ] {
        let peer = Peer::start(Script::new().on("/", reply).on("/", body("data: x\n\n"))).await;
        let mut stream = harness.follow(&peer.url(), options()).await;
        assert_eq!(stream.expect_error().await, error);
        stream.expect_events(&[("message", "x", "")]).await;
        stream.end().await;
    }
    for status in [205, 210, 299, 400, 401, 403, 404, 410] {
        let peer = Peer::start(Script::new().always("/", Reply::empty(status))).await;
        let mut stream = harness.follow(&peer.url(), options()).await;
        assert_eq!(stream.expect_error().await, format!("refused with status {status}"));
        stream.end().await;
        assert_eq!(peer.connections(), 1, "{status} is final");
    }
    for kind in ["text/event-stream;", "TEXT/Event-Stream; charset=windows-1252"] {
        let head = format!("HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\n\r\n");
        let reply = Reply::raw().send(head).send("data: ok\u{2026}\n\n").silence();
        let peer = Peer::start(Script::new().on("/", reply)).await;
        let mut stream = harness.follow(&peer.url(), json!({})).await;
        stream.expect_events(&[("message", "ok\u{2026}", "")]).await;
        stream.end().await;
    }
}

#[tokio::test]
async fn redirects_to_another_origin_take_no_secret_along() {
    let mut harness = Harness::start().await;
    let other = Peer::start(Script::new().on("/x", body("data: x\n\n"))).await;
    let peer = Peer::start(Script::new().on("/", Reply::redirect(302, &format!("{}/x", other.url())))).await;
    let options = json!({"headers": {"authorization": "Bearer hunter2", "x-api-key": "hunter2"}});
    let mut stream = harness.follow(&peer.url(), options).await;
    stream.expect_events(&[("message", "x", "")]).await;
    stream.end().await;
    assert_eq!(peer.request(0).await.header("x-api-key"), Some("hunter2"));
    let head = String::from_utf8_lossy(other.request(0).await.head()).into_owned();
    assert!(!head.contains("hunter2"), "{head}");
}

#[tokio::test]
async fn blocks_without_data_and_bytes_that_are_no_text() {
    let mut harness = Harness::start().await;
    let first: &[u8] =
        b"event: only\n\nretry: 1\n\ndata: a\xff\xc3(\n\nid: quiet\n\nid: \xe2\x80\xa6\n\n:\xfe\n";
    let script = Script::new()
        .on("/", Reply::sse().chunked().send(first).cut())
        // The end comes directly after a CR, which has ended the block.
        .on("/", Reply::sse().chunked().send("data: b\r\r").cut())
        .on("/", body("data: c\n\n"));
    let peer = Peer::start(script).await;
    let mut stream = harness.follow(&peer.url(), json!({"initialDelayMs": 0})).await;
    stream.expect_events(&[("message", "a\u{fffd}\u{fffd}(", "")]).await;
    assert_eq!(stream.told().await, json!({"kind": "comment", "comment": "\u{fffd}"}));
    stream.expect_events(&[("message", "b", "\u{2026}"), ("message", "c", "\u{2026}")]).await;
    stream.end().await;
    // The bytes of the header are compared, not its characters.
    let request = peer.request(1).await;
    let wanted = "last-event-id: \u{2026}\r\n".as_bytes();
    assert!(request.head().windows(wanted.len()).any(|window| window == wanted), "{request:?}");
}

#[tokio::test]
async fn an_event_over_the_limit_is_left_out() {
    let mut harness = Harness::start().await;
    let huge = format!("id: big\ndata: {}\n\ndata: after\n\n", "x".repeat(17 << 20));
    let peer = Peer::start(Script::new().on("/", body(huge))).await;
    let mut stream = harness.follow(&peer.url(), json!({})).await;
    stream.expect_events(&[("message", "after", "big")]).await;
    stream.end().await;
}

#[tokio::test]
async fn giving_up_during_a_wait_ends_it() {
    let mut harness = Harness::start().await;
    let peer = Peer::start(Script::new().always("/", Reply::empty(503))).await;
    let mut stream = harness.follow(&peer.url(), json!({"initialDelayMs": 3_600_000})).await;
    assert_eq!(stream.expect_error().await, "answered with status 503");
    stream.end().await;
}
