//! The testkit from outside: raw sockets with the scripted peer and the fault link.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod link;
mod peer;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A connection that has requested `path`.
async fn ask(addr: std::net::SocketAddr, path: &str) -> TcpStream {
    let mut socket = TcpStream::connect(addr).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\nX-Relay-Token: secret\r\n\r\n");
    socket.write_all(request.as_bytes()).await.unwrap();
    socket
}

/// The bytes up to the end, and whether the end was a proper one.
async fn rest(socket: &mut TcpStream) -> (String, bool) {
    let mut bytes = Vec::new();
    let clean = socket.read_to_end(&mut bytes).await.is_ok();
    (String::from_utf8(bytes).unwrap(), clean)
}
