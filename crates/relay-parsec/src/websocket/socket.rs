//! The task that moves frames between a WebSocket and the session.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE};
use http::{HeaderValue, Method, StatusCode};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use relay_proto::error::chain;
use relay_proto::parsec::session::{Action, Session};
use tokio::time::{Instant, Sleep};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::tungstenite::{Error as SocketError, Message};

use super::hub::Hub;
use crate::endpoint::retry_after;
use crate::publisher::random_seed;
use crate::{Endpoint, Error};

type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// Time limit to send a frame.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);

/// Drives the session until the hub is closed.
pub(super) async fn drive(endpoint: Endpoint, hub: Arc<Hub>) {
    let begun = Instant::now();
    let now = || begun.elapsed();
    let mut session = Session::new(hub.config.clone(), random_seed());
    let mut socket: Option<Socket> = None;
    let mut timer = Box::pin(tokio::time::sleep(Duration::ZERO));
    while hub.reconcile(&mut session, now()) {
        match session.poll(now()) {
            Action::Idle => {
                socket = None;
                hub.news.notified().await;
            }
            Action::Connect => {
                socket = None;
                tokio::select! {
                    opened = open(&endpoint) => match opened {
                        Ok((opened, token)) => {
                            socket = Some(opened);
                            session.handle_open(token, now());
                        }
                        Err(Unopened::Refused(status, after)) => session.handle_refused(status, after, now()),
                        Err(Unopened::Failed(reason)) => session.handle_lost(reason, now()),
                    },
                    () = tokio::time::sleep(hub.config.handshake) => session.handle_timeout(now()),
                }
            }
            Action::Send(text) => {
                let Some(open) = &mut socket else { continue };
                match tokio::time::timeout(SEND_TIMEOUT, open.send(Message::text(text))).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => session.handle_lost(chain(&error).to_string(), now()),
                    Err(_) => session.handle_lost("the server takes nothing", now()),
                }
            }
            Action::Receive(until) => {
                let Some(open) = &mut socket else {
                    session.handle_lost("there is no connection", now());
                    continue;
                };
                tokio::select! {
                    biased;
                    frame = open.next() => receive(&mut session, frame, now()),
                    () = hub.news.notified() => {}
                    () = sleep_until(&mut timer, begun, until) => session.handle_timeout(now()),
                }
            }
            Action::Wait(until) => {
                socket = None;
                tokio::select! {
                    () = sleep_until(&mut timer, begun, Some(until)) => {}
                    () = hub.news.notified() => {}
                }
            }
            Action::Item(item) => {
                hub.wait_for_room(&item).await;
                hub.dispatch(item, now());
            }
            Action::Token => session.handle_token(token(&endpoint).await),
            Action::Stop(end) => {
                socket = None;
                hub.stop(end);
                hub.news.notified().await;
            }
            _ => {}
        }
    }
    if let Some(mut socket) = socket {
        // A server that does not answer is not waited for.
        let _ = tokio::time::timeout(Duration::from_secs(1), socket.close(None)).await;
    }
}

/// Deadlines move with every frame. A timer that is too early is not reset at once, but when it fires.
async fn sleep_until(timer: &mut Pin<Box<Sleep>>, begun: Instant, until: Option<Duration>) {
    let Some(at) = until.and_then(|until| begun.checked_add(until)) else {
        return std::future::pending().await;
    };
    if timer.is_elapsed() || timer.deadline() > at {
        timer.as_mut().reset(at);
    }
    timer.as_mut().await;
    while timer.deadline() < at {
        timer.as_mut().reset(at);
        timer.as_mut().await;
    }
}

fn receive(session: &mut Session, frame: Option<Result<Message, SocketError>>, now: Duration) {
    match frame {
        Some(Ok(Message::Text(text))) => session.handle_text(&text, now),
        Some(Ok(Message::Binary(_))) => session.handle_binary(now),
        Some(Ok(Message::Close(frame))) => {
            let code = frame.as_ref().map(|frame| u16::from(frame.code));
            session.handle_close(code, frame.as_ref().map_or("", |frame| &frame.reason), now);
        }
        // Pings of the WebSocket itself are answered by the library.
        Some(Ok(_)) => {}
        Some(Err(error)) => session.handle_lost(chain(&error).to_string(), now),
        None => session.handle_close(None, "", now),
    }
}

/// The token for private channels. Without a token the server refuses them.
async fn token(endpoint: &Endpoint) -> String {
    match endpoint.token().await {
        Ok(token) => token.map_or_else(String::new, |token| token.expose().to_owned()),
        Err(error) => {
            tracing::warn!(error = %chain(&error), "no token");
            String::new()
        }
    }
}

enum Unopened {
    Refused(u16, Option<Duration>),
    Failed(String),
}

impl From<Error> for Unopened {
    fn from(error: Error) -> Self {
        Self::Failed(chain(&error).to_string())
    }
}

/// Opens a WebSocket over the same connections, proxies and certificates as all other requests.
async fn open(endpoint: &Endpoint) -> Result<(Socket, String), Unopened> {
    let key = generate_key();
    let mut request = endpoint.request(Method::GET, "connection/websocket", &[], Bytes::new()).await?;
    let headers = request.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    let value = HeaderValue::from_str(&key).map_err(|_| Unopened::Failed("no key could be made".into()))?;
    headers.insert(SEC_WEBSOCKET_KEY, value);
    let response = endpoint.http.send(request).await.map_err(Error::from)?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        let (head, _) = response.into_parts();
        return Err(Unopened::Refused(head.status.as_u16(), retry_after(&head)));
    }
    let accepted = response.headers().get(SEC_WEBSOCKET_ACCEPT).map(HeaderValue::as_bytes);
    if accepted != Some(derive_accept_key(key.as_bytes()).as_bytes()) {
        return Err(Unopened::Failed("the server did not accept the WebSocket as it should".into()));
    }
    let upgraded = hyper::upgrade::on(response).await;
    let upgraded = upgraded.map_err(|error| Unopened::Failed(chain(&error).to_string()))?;
    let socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Client, None).await;
    Ok((socket, token(endpoint).await))
}
