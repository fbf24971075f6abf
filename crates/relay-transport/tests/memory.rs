//! Counts the memory of a connection. This is a separate program, because it has its own allocator.
#![allow(clippy::unwrap_used, reason = "a helper that fails fails its test")]

use std::future::poll_fn;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::pin::Pin;
use std::sync::mpsc;
use std::task::Poll;

use allocation_counter::{measure, opt_out};
use futures_util::{Stream, StreamExt};
use relay_proto::eventsource::{Config, Item};
use relay_proto::sse::{Frame, Limits};
use relay_transport::{EventStream, HttpClient};

/// A server that sends one event on each connection, and more events on request.
struct Server {
    addr: SocketAddr,
    /// Events to be sent on each connection.
    burst: mpsc::Sender<String>,
}

fn serve(connections: usize) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let (burst, bursts) = mpsc::channel::<String>();
    std::thread::spawn(move || {
        let mut sockets = Vec::new();
        while sockets.len() < connections {
            let (mut socket, _) = listener.accept().unwrap();
            let request = BufReader::new(socket.try_clone().unwrap());
            let _ = request.lines().map_while(Result::ok).find(String::is_empty);
            let head =
                "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
            write!(socket, "{head}d\r\ndata: hello\n\n\r\n").unwrap();
            sockets.push(socket);
        }
        for event in bursts {
            for socket in &mut sockets {
                socket.write_all(event.as_bytes()).unwrap();
            }
        }
    });
    Server { addr, burst }
}

/// Reads until this many events have ended, and until nothing more can be read.
async fn read(stream: &mut EventStream, events: usize) {
    let mut seen = 0;
    while seen < events {
        if let Item::Frame(Frame::Event(_)) = stream.next().await.unwrap().unwrap() {
            seen += 1;
        }
    }
    poll_fn(|cx| {
        assert!(Pin::new(&mut *stream).poll_next(cx).is_pending(), "more than was sent");
        Poll::Ready(())
    })
    .await;
    // hyper's task ends when it runs next.
    tokio::task::yield_now().await;
}

const CONNECTIONS: i64 = 20;

#[test]
fn an_idle_connection_holds_little() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let server = serve(1 + CONNECTIONS as usize);
    let http = HttpClient::builder().no_proxy().build().unwrap();
    let mut streams = Vec::new();
    let mut open = || {
        let url = format!("http://{}/events", server.addr);
        let mut stream = EventStream::get(http.clone(), Config::default(), &url).unwrap();
        runtime.block_on(read(&mut stream, 1));
        streams.push(stream);
    };
    // The first connection allocates the parts that all of them share.
    open();
    let fresh = measure(|| (0..CONNECTIONS).for_each(|_| open()));
    let each = fresh.bytes_current / CONNECTIONS;
    assert!((1..=6 << 10).contains(&each), "{each} bytes for a fresh connection");

    let size = 1000;
    let event = format!("event: pod\nid: 1\ndata: {}\n\n", "x".repeat(size));
    let chunk = format!("{:x}\r\n{event}\r\n", event.len());
    let traffic = measure(|| {
        for _ in 0..10 {
            // Another thread frees this memory, so it is not counted.
            opt_out(|| server.burst.send(chunk.repeat(100)).unwrap());
            for stream in &mut streams {
                runtime.block_on(read(stream, 100));
            }
        }
    });
    let each = each + traffic.bytes_current / CONNECTIONS;
    assert!((1..=8 << 10).contains(&each), "{each} bytes for a connection after 1 MB");
    assert!(streams.iter().all(|stream| stream.bytes_read() > 1_000_000));
}

/// The address of a server that answers the request of each connection with these bytes, and then sends the other bytes
/// for as long as they are accepted.
fn flood(start: Vec<u8>, again: Vec<u8>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut socket in listener.incoming().map_while(Result::ok) {
            let request = BufReader::new(socket.try_clone().unwrap());
            let _ = request.lines().map_while(Result::ok).find(String::is_empty);
            let mut end = socket.write_all(&start);
            while end.is_ok() && !again.is_empty() {
                end = socket.write_all(&again);
            }
        }
    });
    addr
}

/// The head of an answer with this status and these headers, without a body.
fn answer(status: &str, headers: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status}\r\n{headers}\r\n").into_bytes()
}

/// Random bytes, the same for the same seed.
fn garbage(mut seed: u32, size: usize) -> Vec<u8> {
    let mut next = || {
        seed ^= seed << 13;
        seed ^= seed >> 17;
        seed ^= seed << 5;
        seed.to_le_bytes()[0]
    };
    (0..size).map(|_| next()).collect()
}

/// Reads until this many bytes of the body have arrived, or the connection has ended. Returns the cause of the end.
async fn drain(stream: &mut EventStream, most: u64) -> String {
    while stream.bytes_read() < most {
        match stream.next().await {
            Some(Ok(Item::Ended(ended))) => return ended.cause.to_string(),
            Some(Ok(_)) => {}
            other => return format!("{other:?}"),
        }
    }
    "still open".to_owned()
}

/// 64 MiB of one event as gzip, which is 64 KiB on the wire.
fn bomb() -> Vec<u8> {
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    packed.write_all(b"data: ").unwrap();
    for _ in 0..64 {
        packed.write_all(&vec![b'x'; 1 << 20]).unwrap();
    }
    packed.finish().unwrap()
}

const MIB: u64 = 1 << 20;
const EVENTS: &str = "content-type: text/event-stream\r\n";

/// The highest amount of memory that a stream holds with each of these peers, including its client and the pool. Lines
/// and events are limited to 1 MiB.
#[test]
fn bad_input_holds_little() {
    let chunked = answer("200 OK", &format!("{EVENTS}transfer-encoding: chunked\r\n"));
    let packed = answer("200 OK", &format!("{EVENTS}content-encoding: gzip\r\n"));
    let (ok, html) = (answer("200 OK", EVENTS), answer("200 OK", "content-type: text/html\r\n"));
    let redirect = answer("302 Found", "location: /events\r\ncontent-length: 0\r\n");
    let (head, page) = (b"x-more: and more\r\n".repeat(99), b"<p>".repeat(999));
    let tunnel = b"HTTP/1.1 200 OK\r\n".to_vec();
    // The limits: for a head and the start of an error body; for one read of a fast body; for one event.
    let (few, some, event) = (192 << 10, MIB / 2, 3 * MIB);
    for (what, start, again, end, most) in [
        ("a head without end", &b"HTTP/1.1 200 OK\r\n"[..], head.clone(), "head is too large", few),
        ("a status line without end", b"HTTP/1.1 200 ", b"very ok ".repeat(99), "head is too large", few),
        ("no HTTP", b"SSH-2.0-\r\n", garbage(1, 4096), "invalid HTTP version", few),
        ("HTML without end", &html, page.clone(), "answered with content type \"text/html\"", few),
        ("an error without end", &answer("502 Bad", ""), page, "answered with status 502", few),
        ("redirects without end", &redirect, Vec::new(), "too many redirects", few),
        ("garbage", &ok, garbage(2, 1 << 16), "still open", some),
        ("garbage for chunks", &chunked, garbage(3, 4096), "the size of a chunk is not clear", few),
        ("a chunk size without end", &chunked, b"0".repeat(999), "the size of a chunk is too large", few),
        ("a line without end", &ok, b"data: xxxxxxxx".repeat(999), "an event did not end", event),
        ("an event without end", &ok, b"data: xxxxxxxx\n".repeat(999), "an event did not end", event),
        ("comments without end", &ok, b": xxxxxxxx\n".repeat(999), "still open", some),
        ("a bomb", &[&packed[..], &bomb()].concat(), Vec::new(), "an event did not end", event),
        ("garbage for gzip", &packed, garbage(4, 4096), "invalid gzip header", few),
        ("garbage for TLS", b"", garbage(5, 4096), "cannot connect to https://", few),
        ("a proxy that rambles", &tunnel, head, "tunnel error", few),
    ] {
        let addr = flood(start.to_vec(), again);
        let (proxy, url) = match what {
            "garbage for TLS" => (None, format!("https://{addr}/events")),
            "a proxy that rambles" => {
                (Some(format!("http://{addr}")), "https://relay.test/events".to_owned())
            }
            _ => (None, format!("http://{addr}/events")),
        };
        let limits = Limits::default().line(1_usize << 20).data(1_usize << 20);
        let config = Config::default().max_block_bytes(32 * MIB).limits(limits);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut told = String::new();
        let used = measure(|| {
            let http = HttpClient::builder().system_roots(false).compressed_streams(true);
            let http = match proxy {
                None => http.no_proxy(),
                Some(url) => http.proxy(url, ""),
            };
            let mut stream = EventStream::get(http.build().unwrap(), config, &url).unwrap();
            told = runtime.block_on(drain(&mut stream, 40 * MIB));
        });
        assert!(told.contains(end), "{what}: {told}");
        assert!((1..=most).contains(&used.bytes_max), "{what}: {} bytes", used.bytes_max);
    }
}
