//! Errors that senders can make: each gets an answer with its own code, and other senders do not notice.

use relay_bus::{EngineOptions, ReceiverOptions};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::{ACCEPTED, Bus, PATIENCE, next, object, subscriber};

async fn small() -> Bus {
    let options = ReceiverOptions::default().max_payload(10);
    Bus::start(&object("Channel", "c", ""), EngineOptions::default(), options).await
}

/// Sends the bytes and closes the sending side. Returns the whole answer.
async fn half_closed(bus: &Bus, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(bus.address).await.unwrap();
    stream.write_all(request).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    tokio::time::timeout(PATIENCE, stream.read_to_string(&mut answer)).await.expect("an end").unwrap();
    answer
}

#[tokio::test]
async fn rule_1_a_host_that_names_no_channel_is_400_bad_host() {
    let bus = small().await;
    for (host, status) in [
        ("", 400),
        ("host:\r\n", 400),
        ("host: c\r\n", 400),
        ("host: localhost:8080\r\n", 400),
        ("host: 127.0.0.1\r\n", 400),
        ("host: [::1]:80\r\n", 400),
        ("host: u@c.ns\r\n", 400),
        ("host: c d.ns\r\n", 400),
        ("host: c_d.ns\r\n", 400),
        ("host: -c.ns\r\n", 400),
        ("host: c.ns\r\nhost: d.ns\r\n", 400),
        ("host: C.Ns.:8080\r\n", 202),
    ] {
        let (got, text) = bus.ask(&format!("POST / HTTP/1.1\r\n{host}content-length: 0\r\n\r\n")).await;
        assert_eq!(got, status, "{host}\n{text}");
        assert_eq!(status == 400, text.contains("\"code\":\"bad-host\""), "{host}\n{text}");
    }
    // The checks of path and method come first, and a target with a host needs no Host header.
    for (request, status) in [
        ("POST /x HTTP/1.1\r\n\r\n", 404),
        ("GET / HTTP/1.1\r\n\r\n", 405),
        ("POST http://c.ns/ HTTP/1.1\r\ncontent-length: 0\r\n\r\n", 202),
        ("POST http://c/ HTTP/1.1\r\nhost: c.ns\r\ncontent-length: 0\r\n\r\n", 400),
    ] {
        assert_eq!(bus.ask(request).await.0, status, "{request}");
    }
}

#[tokio::test]
async fn rule_2_a_body_that_ends_early_is_400_and_never_a_message() {
    let (to, mut requests) = subscriber(ACCEPTED).await;
    let spec = format!("channel: c, subscriber: \"{to}\"");
    let bus = Bus::of(&(object("Channel", "c", "") + &object("Subscription", "s", &spec))).await;
    for body in [
        &b"content-length: 10\r\n\r\nabc"[..],
        b"content-length: 10\r\n\r\n",
        b"transfer-encoding: chunked\r\n\r\n5\r\nab",
        b"transfer-encoding: chunked\r\n\r\n2\r\nab\r\n",
        b"transfer-encoding: chunked\r\n\r\n",
    ] {
        let request = [b"POST / HTTP/1.1\r\nhost: c.ns\r\n", body].concat();
        let answer = half_closed(&bus, &request).await;
        assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("bad-body"), "{answer}");
    }
    // A sender that closes its side after a whole request gets an answer, whether the body came in one piece or in
    // several.
    for body in
        ["content-length: 2\r\n\r\nok", "transfer-encoding: chunked\r\n\r\n1\r\no\r\n1\r\nk\r\n0\r\n\r\n"]
    {
        let request = format!("POST / HTTP/1.1\r\nhost: c.ns\r\n{body}");
        let answer = half_closed(&bus, request.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 202 "), "{answer}");
        assert!(next(&mut requests).await.ends_with("\r\n\r\nok"), "only whole ones are messages");
    }
}

#[tokio::test]
async fn rule_2_sizes_and_encodings_are_judged_before_a_byte_of_the_body() {
    let bus = small().await;
    for (head, status) in [
        ("expect: 100-continue\r\ncontent-length: 11\r\n", 413),
        ("content-length: 99999999999\r\n", 413),
        ("content-encoding: gzip\r\ncontent-length: 99\r\n", 415),
        ("content-encoding: identity\r\ncontent-encoding: br\r\ncontent-length: 3\r\n", 415),
    ] {
        let (got, text) = bus.ask(&format!("POST / HTTP/1.1\r\nhost: c.ns\r\n{head}\r\n")).await;
        assert_eq!(got, status, "{head}\n{text}");
        assert!(!text.contains("100 Continue"), "{text}");
    }
    let (status, _) = bus.post("c.ns", "content-encoding: Identity\r\n", "0123456789").await;
    assert_eq!(status, 202, "as large as may be");
}

#[tokio::test]
async fn a_head_over_64_kib_is_431() {
    let bus = small().await;
    let (status, text) = bus.post("c.ns", &format!("x: {}\r\n", "y".repeat(66_000)), "").await;
    assert_eq!(status, 431, "{text}");
    let (status, _) = bus.post("c.ns", &format!("x: {}\r\n", "y".repeat(60_000)), "").await;
    assert_eq!(status, 202);
}

#[tokio::test]
async fn a_thousand_silent_connections_do_not_keep_a_message_out() {
    let bus = small().await;
    let mut silent = Vec::new();
    for at in 0..1000 {
        let mut stream = TcpStream::connect(bus.address).await.unwrap();
        if at % 2 == 0 {
            stream.write_all(b"POST / HTTP/1.1\r\nhost: c.ns\r\ncontent-length: 5\r\n\r\nab").await.unwrap();
        }
        silent.push(stream);
    }
    assert_eq!(bus.post("c.ns", "", "hi").await.0, 202);
    drop(silent);
    assert_eq!(bus.post("c.ns", "", "hi").await.0, 202);
}

#[tokio::test]
async fn http_2_is_spoken_to_who_begins_with_it() {
    let (to, mut requests) = subscriber(ACCEPTED).await;
    let spec = format!("channel: c, subscriber: \"{to}\"");
    let bus = Bus::of(&(object("Channel", "c", "") + &object("Subscription", "s", &spec))).await;
    for (host, status) in [("c.ns", 202), ("d.ns", 404), ("c", 400)] {
        let client = relay_transport::HttpClient::builder().http2_only(true).no_proxy();
        let client = client.resolve(host, [bus.address.ip()]).request_timeout(PATIENCE).build().unwrap();
        let request = http::Request::post(format!("http://{host}:{}/", bus.address.port()))
            .header("ce-id", "7")
            .body(http_body_util::Full::new(bytes::Bytes::from_static(b"two")));
        let answer = client.send(request.unwrap()).await.unwrap();
        assert_eq!((answer.status().as_u16(), answer.version()), (status, http::Version::HTTP_2), "{host}");
    }
    let request = next(&mut requests).await;
    assert!(request.contains("ce-id: 7") && request.ends_with("\r\n\r\ntwo"), "{request}");
}
