//! Event streams from a server that is written in Go with `github.com/launchdarkly/eventsource`; see
//! `xtask/interop/sse`. `cargo xtask interop sse` builds it and runs these tests.

use std::net::SocketAddr;
use std::process::Stdio;

use http_body_util::{BodyExt, Full};
use relay_proto::eventsource::Cause;
use relay_proto::retry::Jitter;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::*;

/// The server's process. It ends with the test.
struct Server {
    addr: SocketAddr,
    child: Child,
}

impl Server {
    async fn start() -> Self {
        Self::listen("127.0.0.1:0", 0).await
    }

    /// Starts a server whose log has this many events.
    async fn listen(addr: &str, events: usize) -> Self {
        let binary = std::env::var_os("SSE_SERVER").expect("run by `cargo xtask interop sse`");
        let mut command = Command::new(binary);
        command.args([addr, &events.to_string()]).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let first = within("the server's first line", lines.next_line()).await.unwrap();
        Self { addr: first.expect("it ended at once").parse().unwrap(), child }
    }

    /// Kills the process, and starts another one on the same port with a log of this size.
    async fn restart(&mut self, events: usize) {
        self.kill().await;
        *self = Self::listen(&self.addr.to_string(), events).await;
    }

    async fn kill(&mut self) {
        within("the end of the process", self.child.kill()).await.unwrap();
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}/{path}", self.addr)
    }

    fn follow(&self, path: &str) -> EventStream {
        EventStream::get(http(), quick(), &self.url(path)).unwrap()
    }

    async fn ask(&self, method: &str, path: &str) -> String {
        let request = http::Request::builder().method(method).uri(self.url(path));
        let response = http().send(request.body(Full::default()).unwrap()).await.unwrap();
        let (head, body) = response.into_parts();
        let text = String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap();
        assert_eq!(head.status, 200, "{method} {path}: {text}");
        text
    }

    async fn publish(&self, count: usize) {
        self.ask("POST", &format!("publish?count={count}")).await;
    }

    /// The requests for events so far: protocol, last event id, and the encoding of the answer.
    async fn requests(&self) -> Vec<String> {
        self.ask("GET", "requests").await.lines().map(str::to_owned).collect()
    }
}

/// One line of [`Server::requests`].
fn request(protocol: &str, id: &str, coding: &str) -> String {
    format!(r#"{{"protocol":"{protocol}","last_event_id":"{id}","coding":"{coding}"}}"#)
}

/// Type and data of event `n`. The server uses the same rule.
fn event(n: usize) -> (&'static str, String) {
    let data = match n % 5 {
        0 => format!("first of {n}\n\nthird: after an empty one\n"),
        1 => String::new(),
        2 => format!(" a space before {n} … and more than ASCII ✓"),
        3 => format!("{n} ").repeat(200),
        _ => format!(r#"{{"n":{n}}}"#),
    };
    (["message", "put", "patch"][n % 3], data)
}

/// What else happened between the first and the last event of [`events`].
#[derive(Default)]
struct Between {
    opened: usize,
    ended: Vec<String>,
}

/// Reads up to the event `last`. Each event from `first` on must come once, in order, and unchanged.
async fn events(stream: &mut EventStream, first: usize, last: usize) -> Between {
    within("the last event", read(stream, first, last)).await
}

async fn read(stream: &mut EventStream, first: usize, last: usize) -> Between {
    let (mut next, mut between) = (first, Between::default());
    while next <= last {
        match stream.next().await {
            Some(Ok(Item::Frame(Frame::Event(got)))) => {
                let (kind, data) = event(next);
                assert_eq!(
                    (got.last_event_id(), got.kind(), got.data()),
                    (&*next.to_string(), kind, &*data),
                    "event {next}"
                );
                next += 1;
            }
            Some(Ok(Item::Opened)) => between.opened += 1,
            Some(Ok(Item::Ended(ended))) => between.ended.push(ended.cause.to_string()),
            other => panic!("instead of event {next}: {other:?}"),
        }
    }
    assert_eq!(stream.last_event_id(), last.to_string());
    between
}

#[tokio::test]
#[ignore = "run by `cargo xtask interop sse`"]
async fn events_come_as_they_are_published() {
    let server = Server::start().await;
    let mut stream = server.follow("events");
    assert_eq!(told(&mut stream).await, "opened");
    for round in 0..10 {
        server.publish(10).await;
        let between = events(&mut stream, round * 10 + 1, round * 10 + 10).await;
        assert_eq!(between.opened, 0, "one connection for all");
    }
    assert_eq!(server.requests().await, [request("HTTP/1.1", "", "")]);
}

#[tokio::test]
#[ignore = "run by `cargo xtask interop sse`"]
async fn comments_are_seen_and_keep_a_connection() {
    let server = Server::start().await;
    let idle = Duration::from_secs(1);
    let mut stream = EventStream::get(http(), quick().idle(Some(idle)), &server.url("events")).unwrap();
    assert_eq!(told(&mut stream).await, "opened");
    for _ in 0..5 {
        server.ask("POST", "comment?text=still%20here").await;
        assert_eq!(told(&mut stream).await, "comment(still here)");
    }
    server.publish(1).await;
    events(&mut stream, 1, 1).await;
    // Without comments, silence ends the connection, and the missed events are replayed.
    assert_eq!(told(&mut stream).await, "ended(nothing received for 1s)");
    server.publish(2).await;
    assert_eq!(events(&mut stream, 2, 3).await.opened, 1);
    assert_eq!(server.requests().await, [request("HTTP/1.1", "", ""), request("HTTP/1.1", "1", "")]);
}

#[tokio::test]
#[ignore = "run by `cargo xtask interop sse`"]
async fn a_late_client_gets_everything_and_one_with_an_id_the_rest() {
    let server = Server::listen("127.0.0.1:0", 300).await;
    events(&mut server.follow("events"), 1, 300).await;
    let config = quick().last_event_id("290");
    let mut stream = EventStream::get(http(), config, &server.url("events")).unwrap();
    events(&mut stream, 291, 300).await;
    server.publish(1).await;
    events(&mut stream, 301, 301).await;
    assert_eq!(server.requests().await, [request("HTTP/1.1", "", ""), request("HTTP/1.1", "290", "")]);
}

#[tokio::test]
#[ignore = "run by `cargo xtask interop sse`"]
async fn what_is_published_while_nobody_is_connected_is_replayed() {
    let server = Server::start().await;
    let mut stream = server.follow("events");
    assert_eq!(told(&mut stream).await, "opened");
    for round in 0..5 {
        server.publish(5).await;
        events(&mut stream, round * 10 + 1, round * 10 + 5).await;
        server.ask("POST", "close").await;
        assert_eq!(told(&mut stream).await, "ended(the server ended the connection)");
        // The next connection is made when the stream is polled.
        server.publish(5).await;
        assert_eq!(told(&mut stream).await, "opened");
        events(&mut stream, round * 10 + 6, round * 10 + 10).await;
    }
    let ids: Vec<_> = ["", "5", "15", "25", "35", "45"].map(|id| request("HTTP/1.1", id, "")).into();
    assert_eq!(server.requests().await, ids);
}

#[tokio::test]
#[ignore = "run by `cargo xtask interop sse`"]
async fn connections_that_live_20_ms_lose_and_repeat_nothing() {
    let server = Server::listen("127.0.0.1:0", 1000).await;
    let mut stream = server.follow("hurried");
    let (between, ()) = tokio::join!(events(&mut stream, 1, 2000), server.publish(1000));
    // A connection carries at most one event in 0.1 ms, so there must be several.
    assert!(between.opened >= 9, "{}", between.opened);
    assert!(between.ended.iter().all(|end| end == "the server ended the connection"), "{:?}", between.ended);
    let ids: Vec<_> = server.requests().await;
    assert_eq!(ids.len(), between.opened);
}

#[tokio::test]
#[ignore = "run by `cargo xtask interop sse`"]
async fn a_server_that_is_killed_and_started_again_is_resumed() {
    // This is more than the sockets can hold.
    let all = 40_000;
    let mut server = Server::listen("127.0.0.1:0", all).await;
    let mut stream = server.follow("events");
    assert_eq!(events(&mut stream, 1, 10).await.opened, 1);
    // The rest is in transit: some of it arrives, and the last event only in part.
    server.kill().await;
    let mut next = 11;
    let end = loop {
        match within("the end", stream.next()).await {
            Some(Ok(Item::Frame(Frame::Event(got)))) => {
                assert_eq!(got.data(), event(next).1);
                next += 1;
            }
            Some(Ok(Item::Ended(ended))) => break ended.cause,
            other => panic!("{other:?}"),
        }
    };
    assert!(matches!(end, Cause::Io(_)), "{end}");
    assert!(next < all, "all of it had arrived");
    for _ in 0..3 {
        let line = told(&mut stream).await;
        assert!(line.contains("refused"), "{line}");
    }
    server.restart(all + 5).await;
    let between = events(&mut stream, next, all + 5).await;
    assert_eq!(between.opened, 1);
    assert_eq!(server.requests().await, [request("HTTP/1.1", &(next - 1).to_string(), "")]);
    // Restarts the server once more while the stream is quiet.
    server.restart(all + 6).await;
    events(&mut stream, all + 6, all + 6).await;
}

#[tokio::test]
#[ignore = "run by `cargo xtask interop sse`"]
async fn a_server_that_shuts_down_in_order_ends_the_stream_cleanly() {
    let mut server = Server::listen("127.0.0.1:0", 3).await;
    let mut stream = server.follow("events");
    events(&mut stream, 1, 3).await;
    server.ask("POST", "exit").await;
    assert_eq!(told(&mut stream).await, "ended(the server ended the connection)");
    let status = within("the end of the process", server.child.wait()).await.unwrap();
    assert!(status.success(), "{status}");
    assert!(told(&mut stream).await.contains("refused"));
    server.restart(4).await;
    events(&mut stream, 4, 4).await;
}

#[tokio::test]
#[ignore = "run by `cargo xtask interop sse`"]
async fn its_retry_is_the_delay_from_then_on() {
    let server = Server::start().await;
    let config = Config::default().jitter(Jitter::None);
    let mut stream = EventStream::get(http(), config, &server.url("events")).unwrap();
    assert_eq!(told(&mut stream).await, "opened");
    // The server has no function for `retry:`, but it writes comments unchanged.
    server.ask("POST", "comment?text=calm%20down%0Aretry:%20350").await;
    assert_eq!(told_next(&mut stream, 2).await, ["comment(calm down)", "retry(350)"]);
    let delay = Duration::from_millis(350);
    for round in 0..2 {
        server.publish(1).await;
        events(&mut stream, round + 1, round + 1).await;
        stream.progress();
        server.ask("POST", "close").await;
        let before = stream.now();
        let Some(Ok(Item::Ended(ended))) = within("the end", stream.next()).await else { panic!("no end") };
        assert!((before + delay..=stream.now() + delay).contains(&ended.retry_at), "{ended:?}");
        assert_eq!(told(&mut stream).await, "opened");
        assert!(stream.now() >= ended.retry_at, "it came too early");
    }
}

#[tokio::test]
#[ignore = "run by `cargo xtask interop sse`"]
async fn gzip_is_taken_off_and_only_asked_for_when_wanted() {
    let mut server = Server::listen("127.0.0.1:0", 500).await;
    let packed = HttpClient::builder().compressed_streams(true).build().unwrap();
    let mut stream = EventStream::get(packed, quick(), &server.url("events")).unwrap();
    events(&mut stream, 1, 500).await;
    for round in 0..5 {
        // The server flushes each event, so no event waits for the next one.
        server.publish(1).await;
        events(&mut stream, 501 + round, 501 + round).await;
    }
    server.ask("POST", "comment?text=packed").await;
    assert_eq!(told(&mut stream).await, "comment(packed)");
    server.ask("POST", "close").await;
    assert_eq!(told(&mut stream).await, "ended(the server ended the connection)");
    assert_eq!(told(&mut stream).await, "opened");
    let packed = [request("HTTP/1.1", "", "gzip"), request("HTTP/1.1", "505", "gzip")];
    assert_eq!(server.requests().await, packed);
    // The connection is cut in the middle of the compressed data.
    server.restart(1000).await;
    let between = events(&mut stream, 506, 520).await;
    assert_eq!(between.opened, 1);
    server.restart(2000).await;
    events(&mut stream, 521, 2000).await;
    assert!(server.requests().await.iter().all(|line| line.contains(r#""coding":"gzip""#)));
    events(&mut server.follow("events"), 1, 2000).await;
    assert_eq!(server.requests().await.last().unwrap(), &request("HTTP/1.1", "", ""));
}

#[tokio::test]
#[ignore = "run by `cargo xtask interop sse`"]
async fn the_same_over_http2() {
    let mut server = Server::listen("127.0.0.1:0", 500).await;
    let http2 = HttpClient::builder().http2_only(true).compressed_streams(true).build().unwrap();
    let mut stream = EventStream::get(http2.clone(), quick(), &server.url("hurried")).unwrap();
    let between = events(&mut stream, 1, 500).await;
    assert!(between.opened >= 2, "{}", between.opened);
    drop(stream);
    let mut stream = EventStream::get(http2, quick(), &server.url("events")).unwrap();
    events(&mut stream, 1, 10).await;
    server.restart(600).await;
    events(&mut stream, 11, 600).await;
    server.publish(5).await;
    events(&mut stream, 601, 605).await;
    let requests = server.requests().await;
    assert!(requests.iter().all(|line| line.contains("HTTP/2.0") && line.contains("gzip")), "{requests:?}");
}

#[tokio::test]
#[ignore = "run by `cargo xtask interop sse`"]
async fn a_client_that_falls_behind_is_dropped_by_the_server_and_catches_up() {
    let server = Server::start().await;
    let mut stream = server.follow("events");
    assert_eq!(told(&mut stream).await, "opened");
    // Nobody reads: when the sockets are full and 128 more events wait, the server ends the stream.
    let (mut published, batch) = (0, 20_000);
    while published < 60_000 {
        server.publish(batch).await;
        published += batch;
    }
    let between = events(&mut stream, 1, published).await;
    assert!(between.opened >= 1, "it kept up after all");
}
