//! The HTTP service: one path, one method, one stream.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::{Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;
use relay_proto::autoconfig::{STREAM_PATH, VERSION_PARAMETER};
use relay_proto::problem::{Problem, ProblemCode};
use relay_transport::server::{
    Body, Cut, Query, Refusal, Service, check_head, method_not_allowed, problem, with_body,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::access::Access;
use crate::hub::{Cursor, Hub};

/// State shared by all requests.
pub(crate) struct Subscriptions {
    pub(crate) hub: Arc<Hub>,
    pub(crate) access: Access,
    pub(crate) heartbeat: Duration,
    /// Counts: each cut ends the streams that are open.
    pub(crate) cuts: watch::Sender<u64>,
    pub(crate) stop: CancellationToken,
    pub(crate) open: AtomicU64,
}

impl Service for Subscriptions {
    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Result<Response<Body>, Cut> {
        let (head, _) = request.into_parts();
        let answer = self.subscribe(&head);
        let response = answer.unwrap_or_else(|refusal| problem(&refusal));
        // Neither the query nor a header is logged: both may hold a key.
        tracing::debug!(method = %head.method, status = response.status().as_u16(), "answered");
        Ok(response)
    }
}

impl Subscriptions {
    fn subscribe(self: &Arc<Self>, head: &http::request::Parts) -> Result<Response<Body>, Refusal> {
        check_head(head)?;
        if head.uri.path() != STREAM_PATH {
            return Err(Box::new(Problem::new(
                ProblemCode::NOT_FOUND,
                format!("only {STREAM_PATH} is served"),
            )));
        }
        if head.method != Method::GET {
            return Ok(method_not_allowed("GET"));
        }
        if !self.access.accepts(head.headers.get(AUTHORIZATION).map(|value| value.as_bytes())) {
            return Err(Box::new(Problem::new(
                ProblemCode::UNAUTHENTICATED,
                "the key is missing or not accepted",
            )));
        }
        let query = Query::parse(head.uri.query());
        let has_filters = query.all(VERSION_PARAMETER).last().is_some_and(has_filters);
        let cursor = Cursor::new(self.hub.clone(), has_filters);
        let frames = frames(self.clone(), cursor);
        Ok(with_body(StatusCode::OK, "text/event-stream", StreamBody::new(frames).boxed_unsync()))
    }
}

/// Whether a version of the protocol has filters: those of 2 or more. A number may be as long as it likes.
fn has_filters(version: &str) -> bool {
    let digits = version.trim_start_matches('0');
    version.bytes().all(|byte| byte.is_ascii_digit()) && (digits.len() > 1 || digits > "1")
}

/// The events of one subscriber, made when it can take them: there is no queue.
fn frames(
    shared: Arc<Subscriptions>,
    cursor: Cursor,
) -> impl futures_util::Stream<Item = Result<Frame<Bytes>, Cut>> + Send {
    shared.open.fetch_add(1, Ordering::AcqRel);
    let subscriber = Subscriber {
        head: shared.hub.watch(),
        cuts: shared.cuts.subscribe(),
        _open: Open(shared.clone()),
        shared,
        cursor,
    };
    futures_util::stream::unfold(subscriber, |mut subscriber| async move {
        let frame = subscriber.next().await?;
        Some((frame.map(Frame::data), subscriber))
    })
}

struct Subscriber {
    shared: Arc<Subscriptions>,
    cursor: Cursor,
    head: watch::Receiver<u64>,
    cuts: watch::Receiver<u64>,
    _open: Open,
}

/// Counts an open stream while it lives.
struct Open(Arc<Subscriptions>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Subscriber {
    async fn next(&mut self) -> Option<Result<Bytes, Cut>> {
        loop {
            if self.shared.stop.is_cancelled() {
                return None;
            }
            if self.cuts.has_changed().unwrap_or(false) {
                return Some(Err(Cut));
            }
            // Marked as seen before the check, so that a change in between wakes the task.
            self.head.borrow_and_update();
            if let Some(frame) = self.cursor.next() {
                return Some(Ok(frame));
            }
            tokio::select! {
                () = self.shared.stop.cancelled() => {}
                _ = self.cuts.changed() => return Some(Err(Cut)),
                _ = self.head.changed() => {}
                () = tokio::time::sleep(self.shared.heartbeat) => return Some(Ok(Bytes::from_static(b":\n\n"))),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn filters_come_from_version_2_on() {
        let has = ["2", "10", "02", "99999999999999999999"];
        let has_not = ["", "0", "1", "001", "-2", "2.0", "two"];
        assert!(has.iter().all(|version| super::has_filters(version)));
        assert!(!has_not.iter().any(|version| super::has_filters(version)));
    }
}
