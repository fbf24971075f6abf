//! Counts what a connection holds. A program of its own, since it has an allocator of its own.
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
use relay_proto::sse::Frame;
use relay_transport::{EventStream, HttpClient};

/// A server that greets each connection, and sends it events when it is told to.
struct Server {
    addr: SocketAddr,
    /// Events for each connection.
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

/// Reads up to the end of that many events, and until there is nothing more.
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
    // hyper's task goes when it is next run.
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
    // The first one pays for what all share.
    open();
    let fresh = measure(|| (0..CONNECTIONS).for_each(|_| open()));
    let each = fresh.bytes_current / CONNECTIONS;
    assert!((1..=6 << 10).contains(&each), "{each} bytes for a fresh connection");

    let size = 1000;
    let event = format!("event: pod\nid: 1\ndata: {}\n\n", "x".repeat(size));
    let chunk = format!("{:x}\r\n{event}\r\n", event.len());
    let traffic = measure(|| {
        for _ in 0..10 {
            // Freed by another thread.
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
