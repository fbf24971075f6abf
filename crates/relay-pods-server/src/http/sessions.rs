//! Tickets, and the streams they open.

use std::sync::Arc;

use futures_util::stream;
use http::header::CONNECTION;
use http::request::Parts;
use http::{HeaderValue, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use relay_proto::pods::{EventHash, GapReason};
use relay_proto::problem::{Problem, ProblemCode};
use relay_proto::time::Timestamp;
use serde::Serialize;

use super::params::{Query, check_client_id};
use super::stream::{Order, Slot, Start, Subscriber};
use super::{Relay, credential, not_ready};
use crate::auth::Ticket;
use crate::store::{Moment, Resolved, moment};
use relay_transport::server::{self, Body, Refusal, refuse};

#[derive(Serialize)]
struct Created {
    session_id: String,
    expires_at: Timestamp,
    expires_in_seconds: serde_json::Number,
}

/// `POST /auth/session`. A credential in a header takes precedence over one in the body, which is then not read.
pub(crate) fn create(relay: &Relay, head: &Parts, body: &[u8]) -> Result<Response<Body>, Refusal> {
    let query = Query::parse(head.uri.query());
    let in_query = query.client_id()?.map(str::to_owned);
    let (principal, client_id) = match credential(&head.headers) {
        Some(token) => (relay.principal_of(Some(token))?, in_query),
        None => {
            let Credentials { token, client_id } = Credentials::parse(body)?;
            let principal = relay.principal_of(token.as_deref().map(str::as_bytes))?;
            (principal, client_id.or(in_query))
        }
    };
    let (session_id, expires_at) = relay.sessions.mint(principal, client_id);
    relay.metrics.sessions_minted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let expires_in_seconds = server::seconds(relay.sessions.ttl());
    Ok(server::json(StatusCode::CREATED, &Created { session_id, expires_at, expires_in_seconds }))
}

/// The body of a request for a ticket.
#[derive(Default)]
struct Credentials {
    token: Option<String>,
    client_id: Option<String>,
}

impl Credentials {
    fn parse(body: &[u8]) -> Result<Self, Refusal> {
        if body.trim_ascii().is_empty() {
            return Ok(Self::default());
        }
        // Without the parser's message, which may quote the token.
        let document: serde_json::Value =
            serde_json::from_slice(body).map_err(|_| refuse("body: it is not JSON"))?;
        let serde_json::Value::Object(mut fields) = document else {
            return Err(refuse("body: it is a JSON object with token and client_id"));
        };
        let mut text = |name: &str| match fields.remove(name) {
            None | Some(serde_json::Value::Null) => Ok(None),
            Some(serde_json::Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(refuse(&format!("{name}: it is a JSON string"))),
        };
        let (token, client_id) = (text("token")?, text("client_id")?);
        client_id.as_deref().map(check_client_id).transpose()?;
        Ok(Self { token: token.filter(|token| !token.is_empty()), client_id })
    }
}

/// `GET /events/stream`. Everything that can be refused is refused before the ticket is used up.
pub(crate) async fn open_stream(
    relay: &Arc<Relay>,
    head: &Parts,
    query: &Query,
) -> Result<Response<Body>, Refusal> {
    let by_header = match query.all("session_id").any(|id| !id.is_empty()) {
        true => None,
        false => Some(relay.authenticate(&head.headers)?),
    };
    let session_id = query.optional("session_id")?;
    let asked_id = query.client_id()?;
    let filter = query.filter()?;
    let latest = query.start_latest()?;
    let since = query.optional("since_hash")?.map(str::to_owned);
    let time = query.since_time()?;
    let ticket = session_id.map(|id| relay.sessions.look_up(id, asked_id)).transpose()?;
    let principal = match (&ticket, by_header) {
        (Some(ticket), _) => ticket.principal().clone(),
        (None, Some(principal)) => principal,
        (None, None) => relay.authenticate(&head.headers)?,
    };
    let filter = principal.rights.narrow(filter)?;
    let client_id = asked_id.or(ticket.as_ref().and_then(Ticket::client_id)).map(str::to_owned);

    let last_event_id = || {
        let id = head.headers.get("last-event-id")?.as_bytes();
        (!id.is_empty()).then(|| String::from_utf8_lossy(id).into_owned())
    };
    // A browser reconnects with the same URL and the last id, which is its newer position.
    let start = match (since.or_else(last_event_id), time) {
        (Some(cursor), _) => start_after(relay, cursor).await?,
        (None, Some(time)) => start_at(relay, time).await?,
        (None, None) if latest => Start::Latest,
        (None, None) => Start::Oldest,
    };
    let slot = Slot::take(relay, client_id.as_deref()).ok_or_else(|| {
        let detail = format!("at most {} streams are open at a time", relay.config.max_streams);
        Box::new(Problem::new(ProblemCode::TOO_MANY_STREAMS, detail))
    })?;
    ticket.map_or(Ok(()), |ticket| relay.sessions.redeem(ticket))?;
    relay.metrics.streams_opened.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    tracing::info!(
        client_id = client_id.as_deref(),
        subject = principal.subject.as_deref(),
        filter = %filter,
        "a stream opens"
    );
    let order = Order { principal, client_id, filter, start, slot };
    let subscriber = Subscriber::new(relay.clone(), order).await.map_err(|error| relay.unreadable(&error))?;
    let pieces = stream::unfold(subscriber, |mut subscriber| async {
        let piece = subscriber.next().await?;
        Some((piece.map(Frame::data), subscriber))
    });
    let body = StreamBody::new(pieces).boxed_unsync();
    let mut response = server::with_body(StatusCode::OK, "text/event-stream", body);
    response.headers_mut().insert("x-accel-buffering", HeaderValue::from_static("no"));
    // Some clients see the end of the stream only by the end of the connection.
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    Ok(response)
}

async fn start_at(relay: &Relay, time: i64) -> Result<Start, Refusal> {
    match moment(&relay.log.events, time, relay.log.clock.unix_millis()).await {
        Ok(Moment::After(sequence, hash)) => Ok(Start::After(hash, sequence)),
        Ok(Moment::Expired) => {
            Ok(Start::Gap { reason: GapReason::CursorExpired, requested: None, sequence: None })
        }
        Err(error) => Err(relay.unreadable(&error)),
    }
}

async fn start_after(relay: &Relay, cursor: String) -> Result<Start, Refusal> {
    let gap = |reason, sequence, cursor: &str| Start::Gap {
        reason,
        // Longer than any hash: enough to recognise it by.
        requested: Some(cursor.chars().take(EventHash::MAX_LEN).collect()),
        sequence,
    };
    match relay.log.resolve_within(&cursor, relay.config.wait).await {
        Ok(Resolved::At(sequence)) => {
            let hash = EventHash::new(&cursor).map_err(|_| refuse("since_hash: it is not a hash"))?;
            Ok(Start::After(hash, sequence))
        }
        Ok(Resolved::Expired(sequence)) => Ok(gap(GapReason::CursorExpired, Some(sequence), &cursor)),
        Ok(Resolved::Unknown) => Ok(gap(GapReason::CursorUnknown, None, &cursor)),
        Ok(Resolved::Ahead(_)) => Err(not_ready("since_hash: the relay has not reached that position yet")),
        Err(error) => Err(relay.unreadable(&error)),
    }
}
