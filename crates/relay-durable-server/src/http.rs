//! Requests, by method.

use std::sync::Arc;
use std::time::Instant;

use futures_util::FutureExt as _;
use http::request::Parts;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use relay_transport::server::{Body, Cut, Query, Service, Unread, full, read_body};

use crate::answer::{for_browsers, joined, plain, refuse, set, tail};
use crate::events;
use crate::fold::Position;
use crate::handler::{Handler, Refused, broken, no};
use crate::streams::{Part, Stream, now};

/// Cursors count intervals of this length since then.
const CURSOR_SECONDS: i64 = 20;
const CURSOR_START: i64 = 1_728_432_000;

impl Service for Handler {
    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Result<Response<Body>, Cut> {
        let (head, body) = request.into_parts();
        let method = head.method.clone();
        let answered = match method {
            Method::OPTIONS => Ok(plain(StatusCode::NO_CONTENT, "")),
            _ if is_reserved(head.uri.path()) => Err(no(404, "nothing is here")),
            Method::PUT | Method::POST => match read_body(body, self.config.max_body).await {
                Ok(body) if method == Method::PUT => self.put(&head, body).boxed().await,
                Ok(body) => self.post(&head, body).boxed().await,
                Err(Unread::Gone(cut)) => return Err(cut),
                Err(Unread::Refused(problem)) => {
                    let mut answer =
                        refuse(413, problem.detail.as_deref().unwrap_or("the body is too large"));
                    set(&mut answer, "connection", "close");
                    Err(Box::new(answer))
                }
            },
            Method::GET => self.clone().get(&head).boxed().await,
            Method::HEAD => self.head(&head).await,
            Method::DELETE => self.delete(&head).await,
            _ => {
                let mut answer = refuse(405, "GET, HEAD, POST, PUT, DELETE, OPTIONS");
                set(&mut answer, "allow", "GET, HEAD, POST, PUT, DELETE, OPTIONS");
                Ok(answer)
            }
        };
        let mut answer = answered.unwrap_or_else(|refused| *refused);
        for_browsers(&mut answer);
        Ok(answer)
    }
}

/// How long a cache may keep a catch-up read; its 304 says the same, because a cache takes over what it says.
const CACHEABLE: &str = "public, max-age=60, stale-while-revalidate=300";

/// The path of the control API below the root of the streams.
fn is_reserved(path: &str) -> bool {
    path.trim_start_matches('/').split('/').next() == Some("__ds")
}

impl Handler {
    async fn head(&self, head: &Parts) -> Result<Response<Body>, Refused> {
        let stream = self.stream(head).await?;
        let mut answer = full(StatusCode::OK, "text/plain", "");
        answer.headers_mut().remove(header::CONTENT_TYPE);
        set(&mut answer, "content-type", &stream.about.content_type);
        tail(&mut answer, &stream.state());
        if let Some(ttl) = stream.about.ttl {
            set(&mut answer, "stream-ttl", &ttl.to_string());
        }
        if let Some(at) = &stream.about.expires_at {
            set(&mut answer, "stream-expires-at", at);
        }
        set(&mut answer, "cache-control", "no-store");
        Ok(answer)
    }

    async fn delete(&self, head: &Parts) -> Result<Response<Body>, Refused> {
        let stream = self.stream(head).await?;
        let _changing = self.streams.changing.lock().await;
        if stream.state().deleted {
            return Err(no(410, "the stream is deleted"));
        }
        self.streams.remove(&stream).await.map_err(broken)?;
        Ok(plain(StatusCode::NO_CONTENT, ""))
    }

    async fn get(self: Arc<Self>, head: &Parts) -> Result<Response<Body>, Refused> {
        let stream = self.stream(head).await?;
        let query = Query::parse(head.uri.query());
        let single = |name| {
            query
                .single(name)
                .map_err(|problem| no(400, problem.detail.as_deref().unwrap_or("the query is wrong")))
        };
        let (asked, live, cursor) = (single("offset")?, single("live")?, single("cursor")?);
        if live.is_some() && asked.is_none() {
            return Err(no(400, "a live read needs an offset"));
        }
        let is_now = asked == Some("now");
        let from = match asked {
            None | Some("-1") => Position::default(),
            Some("now") => stream.state().tail,
            Some(text) => Position::parse(text).ok_or_else(|| no(400, "the offset is not one"))?,
        };
        stream.touch();
        let cursor = next_cursor(cursor);
        match live {
            None => self.catch_up(&head.headers, &stream, from, is_now).await,
            Some("long-poll") => self.long_poll(&stream, from, &cursor).await,
            Some("sse") => Ok(events::answer(self, stream, from, cursor)),
            Some(_) => Err(no(400, "live is long-poll or sse")),
        }
    }

    async fn catch_up(
        &self,
        headers: &HeaderMap,
        stream: &Stream,
        from: Position,
        is_now: bool,
    ) -> Result<Response<Body>, Refused> {
        let part = self.part(stream, from).await?;
        let (mut answer, ended) = data(stream, &part);
        if is_now {
            set(&mut answer, "cache-control", "no-store");
            return Ok(answer);
        }
        let tag =
            format!("\"{}:{}:{}\"", from.offset(), part.next.offset(), if ended { "closed" } else { "open" });
        let matches = headers
            .get_all(header::IF_NONE_MATCH)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .any(|known| {
                matches!(known.trim().trim_start_matches("W/"), "*")
                    || known.trim().trim_start_matches("W/") == tag
            });
        if matches {
            let mut answer = plain(StatusCode::NOT_MODIFIED, "");
            set(&mut answer, "etag", &tag);
            set(&mut answer, "cache-control", CACHEABLE);
            set(&mut answer, "stream-next-offset", &part.next.offset());
            return Ok(answer);
        }
        set(&mut answer, "etag", &tag);
        set(&mut answer, "cache-control", CACHEABLE);
        Ok(answer)
    }

    async fn long_poll(
        &self,
        stream: &Stream,
        from: Position,
        cursor: &str,
    ) -> Result<Response<Body>, Refused> {
        let mut changes = stream.watch();
        let until = tokio::time::Instant::now() + self.config.poll_wait;
        loop {
            changes.borrow_and_update();
            let (tail_now, closed, deleted) = {
                let state = stream.state();
                (state.tail, state.closed, state.deleted)
            };
            if deleted {
                return Err(no(404, "the stream was deleted"));
            }
            if from.entry < tail_now.entry {
                let part = self.part(stream, from).await?;
                let (mut answer, ended) = data(stream, &part);
                set(&mut answer, "cache-control", "no-store");
                if !ended {
                    set(&mut answer, "stream-cursor", cursor);
                }
                return Ok(answer);
            }
            let more = tokio::select! {
                changed = changes.changed(), if !closed => changed.is_ok(),
                () = tokio::time::sleep_until(until), if !closed => false,
                () = self.stop.cancelled(), if !closed => false,
                else => false,
            };
            if more {
                continue;
            }
            let mut answer = plain(StatusCode::NO_CONTENT, "");
            let state = stream.state();
            tail(&mut answer, &state);
            set(&mut answer, "stream-up-to-date", "true");
            if !state.closed {
                set(&mut answer, "stream-cursor", cursor);
            }
            return Ok(answer);
        }
    }
}

/// The response with a part of a stream, and whether the stream ends with it.
fn data(stream: &Stream, part: &Part) -> (Response<Body>, bool) {
    let body = joined(stream.about.is_json(), &part.data);
    let mut answer = full(StatusCode::OK, "text/plain", body);
    set(&mut answer, "content-type", &stream.about.content_type);
    set(&mut answer, "stream-next-offset", &part.next.offset());
    let state = stream.state();
    let at_tail = part.next == state.tail;
    if at_tail {
        set(&mut answer, "stream-up-to-date", "true");
    }
    if at_tail && state.closed {
        set(&mut answer, "stream-closed", "true");
    }
    (answer, at_tail && state.closed)
}

/// The cursor of a response: the present interval, or one after the reader's.
fn next_cursor(asked: Option<&str>) -> String {
    let present = (now() / 1000 - CURSOR_START) / CURSOR_SECONDS;
    match asked.and_then(|cursor| cursor.parse::<i64>().ok()) {
        // This separates readers that share cached responses.
        Some(known) if known >= present => (known + 1 + jitter()).to_string(),
        _ => present.to_string(),
    }
}

/// 0 to 179 intervals, which is an hour at most.
fn jitter() -> i64 {
    use std::hash::{BuildHasher as _, RandomState};
    i64::from((RandomState::new().hash_one(Instant::now()) % 180) as u8)
}
