//! Both drivers with the same raw peers.
#![allow(clippy::unwrap_used, reason = "a helper that fails fails its test")]

use std::io::{Read, Write};
use std::net::TcpListener;
use std::ops::ControlFlow;
use std::sync::mpsc;
use std::time::Duration;

use relay_proto::eventsource::{Config, Item, Stop};
use relay_proto::sse::Frame;

/// A server with one answer per connection; the receiver gets the requests. An answer that ends in `~` leaves its
/// connection open.
fn peer(answers: &[&'static str]) -> (String, mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/events?x=1", listener.local_addr().unwrap());
    let (tell, requests) = mpsc::channel();
    let answers = answers.to_vec();
    std::thread::spawn(move || {
        let mut open = Vec::new();
        for answer in answers {
            let (mut socket, _) = listener.accept().unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                socket.read_exact(&mut byte).unwrap();
                head.push(byte[0]);
            }
            tell.send(String::from_utf8(head).unwrap()).unwrap();
            socket.write_all(answer.trim_end_matches('~').as_bytes()).unwrap();
            if answer.ends_with('~') {
                open.push(socket);
            }
        }
    });
    (url, requests)
}

fn word(item: Item) -> String {
    match item {
        Item::Opened => "opened".into(),
        Item::Frame(Frame::Event(event)) => format!("event({})", event.data()),
        Item::Ended(ended) => ended.cause.to_string(),
        other => format!("{other:?}"),
    }
}

fn config() -> Config {
    let millisecond = Duration::from_millis(1);
    Config::default().base(millisecond).floor(millisecond).idle(Duration::from_millis(100))
}

type Follow<'f> = &'f dyn Fn(&str, &mut dyn FnMut(Item)) -> Option<Stop>;

/// Checks the results of both drivers for these answers.
fn check(answers: &[&'static str], expected: &[&str], last_ids: &[Option<&str>]) {
    let run = |name, follow: Follow<'_>| {
        let (url, requests) = peer(answers);
        let mut words = Vec::new();
        let stop = follow(&url, &mut |item| words.push(word(item)));
        words.push(stop.unwrap().to_string());
        assert_eq!(words, expected, "{name}");
        let requests: Vec<_> = requests.try_iter().collect();
        assert_eq!(requests.len(), last_ids.len(), "{name}");
        for (request, id) in requests.iter().zip(last_ids) {
            assert!(request.contains("\r\naccept: text/event-stream\r\n"), "{request}");
            let sent = request.lines().find_map(|line| line.strip_prefix("last-event-id: "));
            assert_eq!(sent, *id, "{name}");
        }
    };
    run("blocking", &|url, each| {
        super::blocking::follow(url, config(), |item| {
            each(item);
            ControlFlow::Continue(())
        })
    });
    run("smol", &|url, each| {
        smol::block_on(super::on_smol::follow(url, config(), |item| {
            each(item);
            ControlFlow::Continue(())
        }))
    });
}

const GONE: &str = "HTTP/1.1 204 No Content\r\n\r\n";

#[test]
fn a_stream_over_several_connections() {
    check(
        &[
            "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\nid: 1\ndata: a\n\nid: 2\ndata: cut",
            "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n\
             5\r\ndata:\r\n4;x=y\r\n b\n\n\r\n0\r\n\r\n~",
            "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: 9\r\n\r\ndata: c\n\n~",
            "HTTP/1.1 503 Busy\r\ncontent-length: 4\r\n\r\nbusy~",
            GONE,
        ],
        &[
            "opened",
            "event(a)",
            "the server ended the connection",
            "opened",
            "event(b)",
            "the server ended the connection",
            "opened",
            "event(c)",
            "the server ended the connection",
            "answered with status 503",
            "the server has nothing more to say (204)",
        ],
        &[None, Some("1"), Some("1"), Some("1"), Some("1")],
    );
}

#[test]
fn silence_garbage_and_redirects() {
    check(
        &[
            "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n:\n~",
            "SSH-2.0\r\n",
            "HTTP/1.1 302 There\r\nlocation: /there\r\n\r\n",
            "HTTP/1.1 404 Not here either\r\n\r\n",
        ],
        &[
            "opened",
            "Frame(Comment(Comment { bytes: 0 }))",
            "nothing received for 100ms",
            "invalid HTTP version",
            "refused with status 404",
        ],
        &[None; 4],
    );
}

#[test]
fn breaking_off_closes_the_connection() {
    for run in [0, 1] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let server = std::thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n").unwrap();
            let mut rest = Vec::new();
            socket.read_to_end(&mut rest)
        });
        let stop = match run {
            0 => super::blocking::follow(&url, config(), |_| ControlFlow::Break(())),
            _ => smol::block_on(super::on_smol::follow(&url, config(), |_| ControlFlow::Break(()))),
        };
        assert_eq!(stop, None);
        assert!(server.join().unwrap().is_ok(), "the server sees the end");
    }
}

#[test]
fn only_plain_http() {
    for run in [0, 1] {
        let each = |_| ControlFlow::Continue(());
        let stop = match run {
            0 => super::blocking::follow("https://relay.test/", config(), each),
            _ => smol::block_on(super::on_smol::follow("https://relay.test/", config(), each)),
        };
        assert_eq!(stop.unwrap().to_string(), "only http:// here");
    }
}
