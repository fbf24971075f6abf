//! Scripts with raw sockets.

use std::time::Duration;

use relay_testkit::{Clock, Gate, Opening, Peer, Reply, ReservedPort, Script, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{ask, rest};

#[tokio::test]
async fn requests_are_recorded_byte_for_byte() {
    let peer = Peer::start(Script::new().always("/a", Reply::empty(204))).await;
    let mut socket = TcpStream::connect(peer.addr()).await.unwrap();
    let head = "POST /a?since_hash=e1.7%2F8&label=app%3Dweb&label=x+y HTTP/1.1\r\nHost: h\r\ncontent-length: 5\r\n\r\n";
    for part in [&head[..9], &head[9..], "hel", "lo"] {
        socket.write_all(part.as_bytes()).await.unwrap();
    }
    let request = peer.request(0).await;
    assert_eq!(request.head(), head.as_bytes());
    assert_eq!((request.method(), request.path(), &request.body()[..]), ("POST", "/a", &b"hello"[..]));
    assert_eq!((request.header("HOST"), request.header("accept")), (Some("h"), None));
    assert_eq!(request.query("since_hash").as_deref(), Some("e1.7/8"));
    assert_eq!(request.query_all("label"), ["app=web", "x y"]);
    assert_eq!(request.query("missing"), None);
}

#[tokio::test]
async fn replies_of_a_path_come_in_order_and_then_the_standing_one() {
    let script = Script::new()
        .on("/a", Reply::new(200, "text/plain", "one"))
        .on("/b", Reply::new(200, "text/plain", "other"))
        .on("/a", Reply::new(200, "text/plain", "two"))
        .answer("/a", |request| Reply::new(200, "text/plain", request.query("n").unwrap_or_default()).cut());
    let peer = Peer::start(script).await;
    assert_eq!(peer.unused(), 3);
    // All requests are on one connection.
    let mut socket = ask(peer.addr(), "/a").await;
    for target in ["/a", "/b", "/none", "/a?n=standing"] {
        socket.write_all(format!("GET {target} HTTP/1.1\r\n\r\n").as_bytes()).await.unwrap();
    }
    let (text, clean) = rest(&mut socket).await;
    let bodies: Vec<&str> =
        text.split("\r\n\r\n").skip(1).map(|part| part.split("HTTP").next().unwrap()).collect();
    assert_eq!(bodies, ["one", "two", "other", "nothing is scripted for this path", "standing"]);
    assert!(clean);
    assert_eq!((peer.unused(), peer.connections(), peer.requests().len()), (0, 1, 5));
    assert_eq!(peer.unscripted().iter().map(|r| r.path().to_owned()).collect::<Vec<_>>(), ["/none"]);

    peer.on("/b", Reply::new(200, "text/plain", "added later").cut());
    assert!(rest(&mut ask(peer.addr(), "/b").await).await.0.ends_with("added later"));
    assert_eq!(peer.request_to("/b", 1).await.header("x-relay-token"), Some("secret"));
}

#[tokio::test]
async fn chunks_arrive_one_by_one() {
    let sent = ["data: 1\n", "\n", "da", "ta: 2\n\n"];
    let gates: Vec<Gate> = sent.iter().map(|_| Gate::new()).collect();
    let mut reply = Reply::raw();
    for (chunk, gate) in sent.iter().zip(&gates) {
        reply = reply.hold(gate).send(*chunk);
    }
    let peer = Peer::start(Script::new().on("/s", reply)).await;
    let mut socket = ask(peer.addr(), "/s").await;
    for (chunk, gate) in sent.iter().zip(&gates) {
        gate.reached().await;
        gate.open();
        let mut buffer = [0; 100];
        let read = within("a chunk", socket.read(&mut buffer)).await.unwrap();
        assert_eq!(&buffer[..read], chunk.as_bytes());
    }
    assert_eq!(rest(&mut socket).await, (String::new(), true));
}

#[tokio::test]
async fn a_reader_of_the_same_runtime_mostly_sees_the_chunks_as_sent() {
    let peer = Peer::start(Script::new().on("/s", Reply::raw().send_in(1, "x".repeat(200)))).await;
    let mut socket = ask(peer.addr(), "/s").await;
    let (mut reads, mut buffer) = (0, [0; 200]);
    while socket.read(&mut buffer).await.unwrap() > 0 {
        reads += 1;
    }
    assert!(reads > 100, "200 writes came as {reads} reads");
}

#[tokio::test]
async fn every_way_to_end_a_connection() {
    let script = Script::new()
        .opening(Opening::Reset)
        .opening(Opening::Close)
        .opening(Opening::Serve)
        .on("/s", Reply::sse().send("data: 1\n\nda").cut().send("ta: never\n\n"))
        .on("/s", Reply::sse().send("data: 1\n\nda").reset())
        .on("/s", Reply::sse().send("data: 1\n\nda").silence());
    let peer = Peer::start(script).await;

    for clean in [false, true] {
        let mut socket = TcpStream::connect(peer.addr()).await.unwrap();
        assert_eq!(rest(&mut socket).await, (String::new(), clean), "an opening that serves nothing");
    }
    assert_eq!(peer.requests().len(), 0);

    let (text, clean) = rest(&mut ask(peer.addr(), "/s").await).await;
    assert!(text.ends_with("data: 1\n\nda") && clean, "{text}");
    peer.played(0).await;

    let (_, clean) = rest(&mut ask(peer.addr(), "/s").await).await;
    assert!(!clean, "a reset");

    let mut socket = ask(peer.addr(), "/s").await;
    peer.played(2).await;
    let mut seen = Vec::new();
    while !seen.ends_with(b"\n\nda") {
        socket.read_buf(&mut seen).await.unwrap();
    }
    let clock = Clock::freeze();
    let read = tokio::time::timeout(Duration::from_secs(3600), socket.read_u8());
    assert!(clock.run(Duration::from_secs(600), read).await.is_err(), "silence for an hour");
    drop(clock);
    drop(socket);
    peer.closed(2).await;
}

#[tokio::test]
async fn a_client_that_leaves_is_seen() {
    let gate = Gate::new();
    let script = Script::new()
        .on("/a", Reply::sse().send("data: 1\n\n").hold(&gate))
        .on("/b", Reply::new(200, "text/plain", "x"));
    let peer = Peer::start(script).await;
    for path in ["/a", "/b"] {
        drop(ask(peer.addr(), path).await);
    }
    peer.closed(0).await;
    peer.closed(1).await;
}

#[tokio::test]
async fn delays_run_on_virtual_time() {
    let day = Duration::from_secs(86_400);
    let peer = Peer::start(Script::new().on("/s", Reply::sse().send("early").delay(day).send("late"))).await;
    let clock = Clock::freeze();
    let mut socket = ask(peer.addr(), "/s").await;
    let mut seen = Vec::new();
    while !seen.ends_with(b"early") {
        socket.read_buf(&mut seen).await.unwrap();
    }
    clock.advance(day / 2).await;
    assert!(socket.try_read(&mut [0; 9]).is_err(), "half a day is too early");
    let (text, _) = clock.run(day / 8, rest(&mut socket)).await;
    assert_eq!((text.as_str(), clock.elapsed() >= day), ("late", true));
}

#[tokio::test]
async fn a_peer_comes_back_on_its_port() {
    let port = ReservedPort::reserve();
    let addr = port.addr();
    let peer = Peer::start_at(addr, Script::new().on("/a", Reply::sse().silence())).await;
    let mut socket = ask(addr, "/a").await;
    peer.played(0).await;
    drop(peer);
    rest(&mut socket).await;
    assert!(TcpStream::connect(addr).await.is_err(), "nobody listens");
    let back = Peer::start_at(addr, Script::new().on("/a", Reply::new(200, "a/b", "back").cut())).await;
    assert!(rest(&mut ask(addr, "/a").await).await.0.ends_with("back"));
    assert_eq!(back.url(), format!("http://{addr}"));
}
