//! Valid forms of answers on the wire, and ways in which they can break off.

use std::io::{Read, Write};
use std::net::TcpListener;

use crate::*;

/// The URL of a server that answers the first request with these bytes, in writes of this size, then closes the
/// connection, and answers the next request with 204.
fn answering(bytes: String, size: usize) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/events", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for answer in [bytes.as_bytes(), b"HTTP/1.1 204 No Content\r\n\r\n"] {
            let (mut socket, _) = listener.accept().unwrap();
            socket.set_nodelay(true).unwrap();
            let _ = socket.read(&mut [0; 4096]);
            for piece in answer.chunks(size) {
                let _ = socket.write_all(piece);
            }
            // Closing a socket with unread bytes would discard the bytes that were sent.
            let _ = socket.shutdown(std::net::Shutdown::Write);
            let _ = socket.read_to_end(&mut Vec::new());
        }
    });
    url
}

const EOF: &str = "ended(the server ended the connection)";
const CHUNKED: &str = "transfer-encoding: chunked\r\n";

/// Heads (without the last empty line), bodies, and the expected results.
#[tokio::test]
async fn framings_in_any_pieces() {
    let early = "HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\nHTTP/1.1 200 OK\r\n";
    let ok = "HTTP/1.1 200 OK\r\n";
    let short = "ended(error reading a body from connection: the body is not complete)";
    let odd = "ended(error reading a body from connection: a chunk has no size)";
    for (start, header, body, told) in [
        (ok, "", "data: a\n\ndata: b\n\ndata: c", &["event(a)", "event(b)", EOF][..]),
        (ok, "content-length: 18\r\n", "data: a\n\ndata: b\n\ndata: c\n\n", &["event(a)", "event(b)", EOF]),
        (ok, "content-length: 20\r\n", "data: a\n\ndata: b\n\n", &["event(a)", "event(b)", short]),
        (ok, CHUNKED, "9\r\ndata: a\n\n\r\n9\r\ndata: b\n\n\r\n0\r\n\r\n", &["event(a)", "event(b)", EOF]),
        (ok, CHUNKED, "6;x\r\ndata: \r\n3\r\na\n\n\r\n0\r\nx: y\r\n\r\n", &["event(a)", EOF]),
        (ok, CHUNKED, "9\r\ndata: a\n\n\r\n", &["event(a)", short]),
        (ok, CHUNKED, "9\r\ndata: a\n\n\r\nwhat?\r\n", &["event(a)", odd]),
        (early, CHUNKED, "9\r\ndata: a\n\n\r\n0\r\n\r\n", &["event(a)", EOF]),
        ("HTTP/1.0 200 OK\r\n", "", "data: a\n\n", &["event(a)", EOF]),
    ] {
        for size in [1, 3, 10_000] {
            let answer = format!("{start}content-type: text/event-stream\r\n{header}\r\n{body}");
            let url = answering(answer.clone(), size);
            let mut stream = EventStream::get(http(), quick(), &url).unwrap();
            let mut lines = told_next(&mut stream, 2 + told.len()).await;
            assert_eq!(lines.remove(0), "opened", "{answer}");
            assert_eq!(lines.pop().unwrap(), "stop(the server has nothing more to say (204))", "{answer}");
            assert_eq!(lines, told, "{answer} in pieces of {size}");
        }
    }
}
