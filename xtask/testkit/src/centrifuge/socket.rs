//! One WebSocket of the server.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::{SinkExt, StreamExt};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role};

use super::{Connection, Shared};
use crate::peer::Request;

/// The number of frames that may wait for one connection.
const QUEUE: usize = 64;

/// Accepts the WebSocket, and serves it until either side ends it.
pub(super) async fn run(mut socket: TcpStream, request: &Request, shared: &Shared) {
    let Some(key) = request.header("sec-websocket-key") else { return };
    let head = format!(
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\n\
         sec-websocket-accept: {}\r\n\r\n",
        derive_accept_key(key.as_bytes())
    );
    if socket.write_all(head.as_bytes()).await.is_err() {
        return;
    }
    let (out, mut outgoing) = mpsc::channel(QUEUE);
    let id = {
        let mut state = shared.state();
        state.next_connection += 1;
        let id = state.next_connection;
        state.connections.insert(id, Connection { out, channels: Default::default() });
        id
    };
    shared.journal.send_modify(|journal| journal.opened += 1);
    let mut socket = WebSocketStream::from_raw_socket(socket, Role::Server, None).await;
    let mut greeted = false;
    loop {
        tokio::select! {
            frames = outgoing.recv() => {
                // The connection is cut without a close frame.
                let Some(frames) = frames else { break };
                let mut failed = false;
                for frame in frames {
                    let last = matches!(frame, Message::Close(_));
                    failed |= socket.send(frame).await.is_err() || last;
                }
                if failed {
                    // The rest of the client's data is read, so that the end does not become a reset.
                    while let Some(Ok(_)) = socket.next().await {}
                    break;
                }
            }
            frame = socket.next() => match frame {
                Some(Ok(Message::Text(text))) => {
                    for line in text.lines() {
                        let answer = match shared.command(id, line, &mut greeted) {
                            Ok(None) => continue,
                            Ok(Some(line)) => Message::text(line),
                            Err(code) => close(Some(code), "bad request"),
                        };
                        if socket.send(answer).await.is_err() {
                            break;
                        }
                    }
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => break,
            },
        }
    }
    shared.state().connections.remove(&id);
    shared.journal.send_modify(|journal| journal.over += 1);
}

pub(super) fn close(code: Option<u16>, reason: &str) -> Message {
    Message::Close(code.map(|code| CloseFrame { code: code.into(), reason: reason.into() }))
}

pub(super) fn from_base64(text: &str) -> Option<Vec<u8>> {
    STANDARD.decode(text).ok()
}
