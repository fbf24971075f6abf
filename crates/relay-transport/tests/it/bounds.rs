//! Peers that send too much, and callers that read too little.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use relay_proto::sse::Limits;
use relay_testkit::{Reply, Script};

use crate::*;

/// A server on a separate thread that writes a head, and then the same bytes for as long as they are accepted. It
/// counts the accepted bytes, and reports when none was accepted for half a second.
struct Flood {
    addr: SocketAddr,
    taken: Arc<AtomicU64>,
    stuck: tokio::sync::mpsc::UnboundedReceiver<u64>,
    ended: tokio::sync::mpsc::UnboundedReceiver<()>,
}

fn flood(head: &'static str, again: &str) -> Flood {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let taken = Arc::new(AtomicU64::new(0));
    let (say_stuck, stuck) = tokio::sync::mpsc::unbounded_channel();
    let (say_ended, ended) = tokio::sync::mpsc::unbounded_channel();
    let (count, chunk) = (taken.clone(), again.repeat(64 * 1024 / again.len()));
    std::thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        let _ = socket.read(&mut [0; 4096]);
        socket.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
        let mut bytes = head.as_bytes();
        loop {
            match socket.write(bytes) {
                Ok(n) => {
                    count.fetch_add(n as u64, Ordering::Relaxed);
                    bytes = &bytes[n..];
                    if bytes.is_empty() {
                        bytes = chunk.as_bytes();
                    }
                }
                Err(error)
                    if matches!(
                        error.kind(),
                        std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
                    ) =>
                {
                    if say_stuck.send(count.load(Ordering::Relaxed)).is_err() {
                        return;
                    }
                }
                Err(_) => {
                    let _ = say_ended.send(());
                    return;
                }
            }
        }
    });
    Flood { addr, taken, stuck, ended }
}

impl Flood {
    fn follow(&self, config: Config) -> EventStream {
        EventStream::get(http(), config, &format!("http://{}/events", self.addr)).unwrap()
    }
}

const STREAM: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n";

/// The highest number of bytes in one read of a stream.
const ONE_READ: u64 = 128 << 10;

/// The highest number of bytes in two sockets and one read.
const IN_FLIGHT: u64 = 16 << 20;

#[tokio::test]
async fn a_head_without_end() {
    let mut peer = flood("HTTP/1.1 200 OK\r\n", "x-more: and more\r\n");
    let line = told(&mut peer.follow(Config::default())).await;
    assert!(line.starts_with("failed(exchange with"), "{line}");
    within("the connection to be closed", peer.ended.recv()).await;
    assert!(peer.taken.load(Ordering::Relaxed) <= IN_FLIGHT);

    let mut peer = flood("HTTP/1.1 200 ", "very ok ");
    let line = told(&mut peer.follow(Config::default())).await;
    assert!(line.starts_with("failed(exchange with"), "{line}");
    within("the connection to be closed", peer.ended.recv()).await;
}

#[tokio::test]
async fn a_line_and_an_event_without_end() {
    for again in ["x", "data: x\n", "id: 1\nunknown\n", ": no end to this"] {
        let mut peer = flood(STREAM, again);
        let limits = Limits::default().line(10_000_usize).data(10_000_usize);
        let mut stream = peer.follow(Config::default().limits(limits).max_block_bytes(5_000_000_u64));
        assert_eq!(told(&mut stream).await, "opened");
        let line = told(&mut stream).await;
        assert!(line.starts_with("ended(an event did not end within 5"), "{line}");
        // The limit, plus at most one read.
        assert!((5_000_000..=5_000_000 + ONE_READ).contains(&stream.bytes_read()), "{}", stream.bytes_read());
        within("the connection to be closed", peer.ended.recv()).await;
        assert!(peer.taken.load(Ordering::Relaxed) <= 5_000_000 + IN_FLIGHT);
    }
}

#[tokio::test]
async fn a_caller_that_does_not_poll_stops_the_server() {
    let mut peer = flood(STREAM, &format!("data:{}\n\n", "x".repeat(993)));
    let mut stream = peer.follow(Config::default());
    told_next(&mut stream, 100).await;
    let read = stream.bytes_read();
    let taken = within("the server to be stuck", peer.stuck.recv()).await.unwrap();
    assert!(taken - read <= IN_FLIGHT, "{taken} bytes taken for {read} read");
    assert_eq!(stream.bytes_read(), read, "nothing is read ahead");
    // The stream continues where it stopped.
    within("what was in flight and more", async {
        while stream.bytes_read() < taken + IN_FLIGHT {
            assert!(matches!(stream.next().await, Some(Ok(Item::Frame(Frame::Event(event)))) if event.data().len() == 993));
        }
    })
    .await;
}

#[tokio::test]
async fn garbage_is_nothing_and_what_follows_it_counts() {
    let bytes = (0..200_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13).to_le_bytes()[0]);
    let garbage: Vec<u8> = bytes.filter(|byte| !b"\r\n".contains(byte)).collect();
    let lines: Vec<u8> = garbage.chunks(97).collect::<Vec<_>>().join(&b'\n');
    for body in [garbage, lines] {
        let body = [&body[..], b"\n\nid: 7\ndata: good\n\n"].concat();
        let peer = Peer::start(Script::new().on("/events", Reply::sse().send(body).silence())).await;
        let mut stream = follow(&peer, Config::default());
        assert_eq!(told(&mut stream).await, "opened");
        let mut line = told(&mut stream).await;
        while line.starts_with("comment(") {
            line = told(&mut stream).await;
        }
        assert_eq!(line, "event(good)");
        assert_eq!(stream.last_event_id(), "7");
    }
}
