//! Reads that wait: long-polls and events, and how a stream's end is seen.

use std::time::{Duration, Instant};

use relay_durable_server::Server;

use crate::raw::{Running, config};

const TEXT: (&str, &str) = ("content-type", "text/plain");
const JSON: (&str, &str) = ("content-type", "application/json");

#[tokio::test]
async fn a8_each_data_event_has_its_control_event() {
    let server = Running::memory().await;
    server.put("/s", &[JSON]).await.expect(201);
    let first = server.post("/s", "application/json", "[1,2]").await.offset();
    let mut events = server.open("GET /s?offset=-1&live=sse", &[], b"").await;
    assert_eq!((events.status, events.headers["content-type"].as_str()), (200, "text/event-stream"));
    assert_eq!(events.data().await, "[1,2]");
    let control = events.control().await;
    assert_eq!((&control["streamNextOffset"], &control["upToDate"]), (&first.into(), &true.into()));
    assert!(control["streamCursor"].is_string() && control["streamClosed"].is_null(), "{control}");
    let second = server.post("/s", "application/json", "{\"a\": 3}").await.offset();
    assert_eq!(events.data().await, "[{\"a\": 3}]");
    assert_eq!(events.control().await["streamNextOffset"], second);
    // The end is reported once, and nothing comes after it.
    server.ask("POST /s", &[("stream-closed", "true")], b"").await.expect(204);
    let control = events.control().await;
    assert_eq!((&control["streamClosed"], &control["streamNextOffset"]), (&true.into(), &second.into()));
    assert!(control["streamCursor"].is_null());
    assert_eq!(events.event().await, None);
    server.end().await;
}

#[tokio::test]
async fn a8_texts_are_lines_and_bytes_are_base64() {
    let server = Running::memory().await;
    server.put("/t", &[TEXT]).await.expect(201);
    server.post("/t", "text/plain", "a\r\nb\rc\n d\u{85}e\u{2028}f").await.expect(204);
    let mut events = server.open("GET /t?offset=-1&live=sse", &[], b"").await;
    assert_eq!(events.data().await, "a\nb\nc\n d\u{85}e\u{2028}f");
    assert!(!events.headers.contains_key("stream-sse-data-encoding"));
    server.put("/b", &[]).await.expect(201);
    let headers = [("content-type", "application/octet-stream")];
    server.ask("POST /b", &headers, &[0, 255, 10, 13]).await.expect(204);
    let mut events = server.open("GET /b?offset=-1&live=sse", &[], b"").await;
    assert_eq!(events.headers["stream-sse-data-encoding"], "base64");
    assert_eq!(events.data().await, "AP8KDQ==");
    server.end().await;
}

#[tokio::test]
async fn a8_from_now_on_the_first_thing_told_is_the_tail_and_connections_end_by_age() {
    let config = config().events_age(Duration::from_millis(300));
    let server = Running::of(Server::bind("127.0.0.1:0", config).await.unwrap());
    server.put("/s", &[TEXT]).await.expect(201);
    let tail = server.post("/s", "text/plain", "old").await.offset();
    let began = Instant::now();
    let mut events = server.open("GET /s?offset=now&live=sse", &[], b"").await;
    assert_eq!(events.control().await["streamNextOffset"], tail);
    server.post("/s", "text/plain", "new").await.expect(204);
    assert_eq!(events.data().await, "new");
    events.control().await;
    assert_eq!(events.event().await, None, "it ends, and the reader comes back");
    assert!(began.elapsed() >= Duration::from_millis(300));
    server.end().await;
}

#[tokio::test]
async fn a9_a_long_poll_waits_at_the_tail_only() {
    let server = Running::memory().await;
    server.put("/s", &[TEXT]).await.expect(201);
    let first = server.post("/s", "text/plain", "one").await.offset();
    let have = server.get("/s?offset=-1&live=long-poll").await.expect(200);
    assert_eq!((have.text(), have.offset()), ("one", first.clone()));
    let cursor = have.header("stream-cursor").to_owned();
    assert!(cursor.parse::<u64>().is_ok(), "{cursor}");
    // Without new data the answer has the tail, and a cursor that is higher than the one of the request.
    let began = Instant::now();
    let target = format!("/s?cursor={cursor}&live=long-poll&offset={first}");
    let nothing = server.get(&target).await.expect(204);
    assert!(began.elapsed() >= Duration::from_millis(150));
    assert_eq!((nothing.offset(), nothing.header("stream-up-to-date")), (first.clone(), "true"));
    let later: u64 = nothing.header("stream-cursor").parse().unwrap();
    assert!(later > cursor.parse().unwrap() && later <= cursor.parse::<u64>().unwrap() + 181, "{later}");
    // A cursor that is older, or not a number, gives the present one.
    let present = server.get(&format!("/s?cursor=5&live=long-poll&offset={first}")).await;
    assert!(present.header("stream-cursor").parse::<u64>().unwrap() > 5);
    server.get(&format!("/s?cursor=x&live=long-poll&offset={first}")).await.expect(204);
    server.end().await;
}

#[tokio::test]
async fn a9_who_waits_is_woken_by_data_by_the_end_and_by_deletion() {
    let config = config().poll_wait(Duration::from_secs(50));
    let server = Running::of(Server::bind("127.0.0.1:0", config).await.unwrap());
    let addr = server.addr;
    for (path, wakes, status) in [("/data", "POST", 200), ("/end", "close", 204), ("/gone", "DELETE", 404)] {
        server.put(path, &[TEXT]).await.expect(201);
        let tail = server.post(path, "text/plain", "old").await.offset();
        let waiting = server.get_later(&format!("{path}?live=long-poll&offset={tail}"));
        let waking = async {
            // Gives the long-poll time to wait. If it comes later, it finds the change at once.
            tokio::time::sleep(Duration::from_millis(50)).await;
            match wakes {
                "POST" => server.post(path, "text/plain", "new").await,
                "close" => server.ask(&format!("POST {path}"), &[("stream-closed", "true")], b"").await,
                _ => server.ask(&format!("DELETE {path}"), &[], b"").await,
            }
        };
        let (answer, _) = tokio::join!(waiting, waking);
        assert_eq!(answer.status, status, "{path} at {addr}");
        assert_eq!(answer.header("stream-closed"), if wakes == "close" { "true" } else { "" });
        if wakes == "POST" {
            assert_eq!(answer.text(), "new");
        }
    }
    server.end().await;
}

#[tokio::test]
async fn a10_the_end_is_told_in_every_way_of_reading_and_at_once() {
    let config = config().poll_wait(Duration::from_secs(50));
    let server = Running::of(Server::bind("127.0.0.1:0", config).await.unwrap());
    server.put("/s", &[TEXT]).await.expect(201);
    let headers = [("stream-closed", "true"), TEXT];
    let end = server.ask("POST /s", &headers, b"last").await.expect(204).offset();
    for (offset, body) in [("-1", "last"), (end.as_str(), ""), ("now", "")] {
        let plain = server.get(&format!("/s?offset={offset}")).await.expect(200);
        assert_eq!((plain.text(), plain.header("stream-closed")), (body, "true"), "{offset}");
        let status = if body.is_empty() { 204 } else { 200 };
        let poll = server.get(&format!("/s?live=long-poll&offset={offset}")).await.expect(status);
        assert_eq!((poll.text(), poll.header("stream-closed")), (body, "true"), "{offset}");
        assert_eq!((poll.offset(), poll.header("stream-cursor")), (end.clone(), ""));
        let mut events = server.open(&format!("GET /s?live=sse&offset={offset}"), &[], b"").await;
        if !body.is_empty() {
            assert_eq!(events.data().await, body);
        }
        assert_eq!(events.control().await["streamClosed"], true);
        assert_eq!(events.event().await, None);
    }
    server.end().await;
}

#[tokio::test]
async fn a_server_that_ends_lets_live_readers_end() {
    let config = config().poll_wait(Duration::from_secs(50));
    let server = Running::of(Server::bind("127.0.0.1:0", config).await.unwrap());
    server.put("/s", &[TEXT]).await.expect(201);
    let tail = server.post("/s", "text/plain", "old").await.offset();
    let mut events = server.open(&format!("GET /s?live=sse&offset={tail}"), &[], b"").await;
    assert_eq!(events.control().await["upToDate"], true);
    let waiting = server.get_later(&format!("/s?live=long-poll&offset={tail}"));
    let waiting = tokio::spawn(waiting);
    tokio::time::sleep(Duration::from_millis(50)).await;
    let began = Instant::now();
    server.end().await;
    assert_eq!(events.event().await, None);
    // If the request reached the server, it gets an answer; it may also have come too late.
    if let Ok(answer) = waiting.await {
        assert_eq!(answer.status, 204);
    }
    assert!(began.elapsed() < Duration::from_secs(20));
}
