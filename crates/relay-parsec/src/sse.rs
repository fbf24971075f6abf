//! The HTTP transport: envelopes by POST, streams by Server-Sent Events.

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use futures_util::future::{BoxFuture, FutureExt};
use http::{HeaderValue, Method};
use relay_proto::eventsource::{Config, Ended, Item, Refused, ServerRetry, Stop};
use relay_proto::parsec::{
    ClosingReason, HistoryPage, LegacyFrame, Position, PresenceList, Published, StreamFrame,
};
use relay_proto::problem::Problem;
use relay_proto::sse::{self, Limits, Series};
use relay_state::sequences::{Follow, Frame, GapCause, Restart};
use relay_transport::EventStream;

use crate::endpoint::unreadable;
use crate::{
    Endpoint, Error, ErrorKind, Event, Feed, HistoryItem, HistoryOptions, Presence, PublishFailure, Receipt,
    Start, Transport,
};

/// Carries envelopes to and from a Parsec server of ours over HTTP, and reads streams of upstream's servers.
///
/// A subscriber that does not read stalls its own connection; nothing is queued for it.
#[derive(Debug, Clone)]
pub struct SseTransport {
    endpoint: Endpoint,
    config: SseConfig,
}

/// Settings of an [`SseTransport`].
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SseConfig {
    /// Ceiling of the first delay before a reconnect. Default 0.8 s.
    pub base: Duration,
    /// Ceiling of every delay. Default 30 s.
    pub cap: Duration,
    /// Size limit of an event, in bytes. A larger one is reported and skipped. Default 1 MiB.
    pub max_event_bytes: usize,
}

impl Default for SseConfig {
    fn default() -> Self {
        Self { base: Duration::from_millis(800), cap: Duration::from_secs(30), max_event_bytes: 1 << 20 }
    }
}

impl SseConfig {
    /// Sets the ceilings of the first and of every delay.
    #[must_use]
    pub fn backoff(mut self, base: Duration, cap: Duration) -> Self {
        (self.base, self.cap) = (base, cap);
        self
    }

    /// Sets the size limit of an event.
    #[must_use]
    pub fn max_event_bytes(mut self, bytes: usize) -> Self {
        self.max_event_bytes = bytes;
        self
    }
}

impl SseTransport {
    /// A transport to a server.
    pub fn new(endpoint: Endpoint, config: SseConfig) -> Self {
        Self { endpoint, config }
    }
}

impl Transport for SseTransport {
    fn name(&self) -> &'static str {
        "sse"
    }

    fn publish<'a>(
        &'a self,
        channel: &'a str,
        envelope: Bytes,
    ) -> BoxFuture<'a, Result<Receipt, PublishFailure>> {
        async move {
            let what = format!("publish to {channel}");
            let body = self.endpoint.post(&what, "parsec/publish", &[("channel", channel)], envelope).await?;
            // Another response than a receipt, such as a page of a proxy, says nothing about the envelope.
            let published: Published = serde_json::from_slice(&body).map_err(|error| {
                PublishFailure::Unavailable { error: unreadable(&what, "receipt", &error), retry_after: None }
            })?;
            Ok(Receipt::new(published.position, published.duplicate))
        }
        .boxed()
    }

    fn subscribe<'a>(
        &'a self,
        channel: &'a str,
        start: Start,
    ) -> BoxFuture<'a, Result<Box<dyn Feed>, Error>> {
        let feed = SseFeed::new(self, channel, start);
        std::future::ready(Ok(Box::new(feed) as Box<dyn Feed>)).boxed()
    }

    fn history<'a>(
        &'a self,
        channel: &'a str,
        options: &'a HistoryOptions,
    ) -> BoxFuture<'a, Result<Vec<HistoryItem>, Error>> {
        async move {
            let number = |number: Option<i64>| number.map(|number| number.to_string());
            let (since, until) = (number(options.since), number(options.until));
            let limit = options.limit.map(|limit| limit.to_string());
            let mut query = vec![("channel", channel)];
            query.extend(limit.as_deref().map(|limit| ("limit", limit)));
            query.extend(since.as_deref().map(|since| ("since", since)));
            query.extend(until.as_deref().map(|until| ("until", until)));
            query.extend(options.producer.as_deref().map(|producer| ("producer", producer)));
            let what = format!("history of {channel}");
            let body = self.endpoint.get(&what, "parsec/history", &query).await?;
            let page: HistoryPage =
                serde_json::from_slice(&body).map_err(|error| unreadable(&what, "history", &error))?;
            let item = |entry: relay_proto::parsec::HistoryEntry| {
                let text: Box<str> = entry.envelope.into();
                HistoryItem::decode(entry.position, String::from(text).into())
            };
            Ok(page.envelopes.into_iter().map(item).collect())
        }
        .boxed()
    }

    fn presence<'a>(&'a self, channel: &'a str) -> BoxFuture<'a, Result<Presence, Error>> {
        async move {
            let what = format!("presence of {channel}");
            let body = self.endpoint.get(&what, "parsec/presence", &[("channel", channel)]).await?;
            let list: PresenceList = serde_json::from_slice(&body)
                .map_err(|error| unreadable(&what, "list of subscribers", &error))?;
            Ok(Presence::named(list.entries))
        }
        .boxed()
    }
}

struct SseFeed {
    stream: EventStream,
    what: String,
    /// The position after which the next connection continues.
    resume: Arc<Mutex<Option<Position>>>,
    max_event_bytes: u64,
    /// Of the last envelope. The position of the next one shares its memory.
    near: Option<Near>,
    /// Whether nothing has arrived over this connection yet.
    fresh: bool,
    /// An event that has not been returned yet.
    queued: Option<Event>,
    /// A frame that [`Feed::next_into`] left to polling.
    looked_at: Option<sse::Frame>,
    over: bool,
}

/// A position, and what all envelopes of its epoch have in common.
struct Near {
    position: Position,
    series: Option<Series>,
}

impl SseFeed {
    fn new(transport: &SseTransport, channel: &str, start: Start) -> Self {
        let limits =
            Limits::default().line(transport.config.max_event_bytes).data(transport.config.max_event_bytes);
        let config = Config::default()
            .base(transport.config.base)
            .cap(transport.config.cap)
            .limits(limits)
            .healthy_after(None)
            .use_last_event_id(false)
            .server_retry(ServerRetry::Once);
        let oldest = start == Start::Oldest;
        let resume = match start {
            Start::After(position) => Some(position),
            Start::Latest | Start::Oldest => None,
        };
        let resume = Arc::new(Mutex::new(resume));
        let (endpoint, name, place) = (transport.endpoint.clone(), channel.to_owned(), resume.clone());
        let prepare = move |_: &relay_proto::eventsource::Attempt| {
            let (endpoint, name) = (endpoint.clone(), name.clone());
            let after = place.lock().unwrap_or_else(PoisonError::into_inner).clone();
            async move {
                let mut query = vec![("channel", name.as_str())];
                if oldest && after.is_none() {
                    query.push(("start", "oldest"));
                }
                query.extend(endpoint.client_id.as_deref().map(|id| ("client_id", id)));
                query.extend(endpoint.conn_info.as_deref().map(|info| ("conn_info", info)));
                let request = endpoint.request(Method::GET, "parsec/stream", &query, Bytes::new()).await;
                let mut request = request.map_err(|error| refused(&error))?;
                if let Some(id) = after.and_then(|after| HeaderValue::from_str(&after.to_string()).ok()) {
                    request.headers_mut().insert("last-event-id", id);
                }
                Ok(request)
            }
            .boxed()
        };
        Self {
            stream: EventStream::new(transport.endpoint.http.clone(), config, prepare),
            what: format!("subscribe to {channel}"),
            resume,
            max_event_bytes: transport.config.max_event_bytes as u64,
            near: None,
            fresh: true,
            queued: None,
            looked_at: None,
            over: false,
        }
    }

    /// The position of an envelope, as [`StreamFrame::decode`] reads it.
    fn position(&mut self, event: &sse::Event) -> Option<Position> {
        self.fresh = false;
        let near = self.near.as_ref().map(|near| &near.position);
        let position = Position::parse_near(event.last_event_id(), near).ok();
        if let Some(position) = &position
            && !near.is_some_and(|near| near.same_epoch(position))
        {
            let series = Series::new("envelope", &format!("{}.", position.epoch()));
            self.near = Some(Near { position: position.clone(), series });
        }
        position
    }

    /// The meaning of any other event for the subscription; `None` when it concerns only the connection.
    fn event(&mut self, event: &sse::Event) -> Option<Event> {
        let fresh = std::mem::take(&mut self.fresh);
        let frame = match StreamFrame::decode(event, self.near.as_ref().map(|near| &near.position)) {
            Ok(frame) => frame,
            Err(error) => {
                self.stream.restart(error.to_string());
                return None;
            }
        };
        Some(Event::Frame(match frame {
            StreamFrame::Envelope { position, envelope } => Frame::Envelope { position, envelope },
            StreamFrame::Connected(connected) => {
                self.stream.set_idle(connected.heartbeat().map(|heartbeat| heartbeat.saturating_mul(3)));
                Frame::Connected { resumes_after: Some(connected.resumes_after) }
            }
            StreamFrame::Gap(gap) => {
                let (missed, resumes_after) = (gap.missed, gap.resumes_after);
                Frame::Gap { cause: GapCause::Server(gap.reason), missed, resumes_after }
            }
            StreamFrame::Heartbeat { position } => Frame::Heartbeat { position },
            StreamFrame::Closing(ClosingReason::Deleted) => {
                let reason = format!("{}: the channel was deleted", self.what);
                return Some(self.end(Error::Ended { kind: ErrorKind::NotFound, reason }));
            }
            StreamFrame::Closing(reason) => {
                self.stream.restart(format!("the server closes the stream: {}", reason.as_str()));
                return None;
            }
            StreamFrame::Other { kind } if kind == "message" => {
                let legacy = LegacyFrame::decode(event.data());
                let envelope = legacy.map_or_else(|| event.data_bytes(), |legacy| legacy.envelope);
                let frame = Frame::Envelope { position: None, envelope };
                if fresh {
                    // Such a server does not begin with `connected`.
                    self.queued = Some(Event::Frame(frame));
                    Frame::Connected { resumes_after: None }
                } else {
                    frame
                }
            }
            _ => {
                self.fresh = fresh;
                return None;
            }
        }))
    }

    fn end(&mut self, error: Error) -> Event {
        self.over = true;
        self.looked_at = None;
        self.stream.close();
        Event::Ended(error)
    }

    fn stop(&mut self, stop: Stop) -> Event {
        let what = self.what.clone();
        let error = match stop {
            Stop::Status { status, body } => {
                Error::Refused { what, problem: Box::new(Problem::from_body(status, &body)) }
            }
            Stop::NoContent => Error::Ended {
                kind: ErrorKind::Finished,
                reason: format!("{what}: the server has nothing more to say (204)"),
            },
            other => Error::Answer { what, reason: other.to_string() },
        };
        self.end(error)
    }

    fn waiting(&self, ended: Ended) -> Event {
        let problem = ended.status().filter(|_| !ended.body.is_empty());
        let problem = problem.map(|status| Problem::from_body(status, &ended.body).to_string());
        let reason = problem.unwrap_or_else(|| ended.cause.to_string());
        Event::Waiting { reason, delay: ended.retry_at.saturating_sub(self.stream.now()) }
    }
}

/// Unavailable credentials may be available later.
fn refused(error: &Error) -> Refused {
    let text = relay_proto::error::chain(error).to_string();
    match error {
        Error::Transport(transport) if transport.is_retryable() => Refused::retry(text),
        _ => Refused::permanent(text),
    }
}

impl Stream for SseFeed {
    type Item = Event;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        let this = self.get_mut();
        loop {
            if let Some(event) = this.queued.take() {
                return Poll::Ready(Some(event));
            }
            if this.over {
                return Poll::Ready(None);
            }
            let polled = match this.looked_at.take() {
                Some(frame) => Poll::Ready(Some(Ok(Item::Frame(frame)))),
                None => Pin::new(&mut this.stream).poll_next(cx),
            };
            let item = match polled {
                Poll::Ready(Some(Ok(item))) => item,
                Poll::Ready(Some(Err(stop))) => return Poll::Ready(Some(this.stop(stop))),
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending => return Poll::Pending,
            };
            let event = match item {
                Item::Opened => {
                    this.fresh = true;
                    Some(Event::Opened)
                }
                Item::Frame(sse::Frame::Event(event)) if event.is("envelope") => {
                    let position = this.position(&event);
                    let (text, part) = event.into_data();
                    Some(Event::Frame(Frame::Text { position, text, part }))
                }
                Item::Frame(sse::Frame::Event(event)) => this.event(&event),
                Item::Frame(sse::Frame::Oversized(block))
                    if matches!(block.kind(), "envelope" | "message") =>
                {
                    let position = Position::parse(block.last_event_id()).ok();
                    let (size, limit) = (block.size(), this.max_event_bytes);
                    Some(Event::Frame(Frame::Oversized { position, size, limit }))
                }
                Item::Ended(ended) => Some(this.waiting(ended)),
                _ => None,
            };
            if event.is_some() {
                return Poll::Ready(event);
            }
        }
    }
}

impl Feed for SseFeed {
    fn resume(&mut self, after: Option<&Position>) {
        *self.resume.lock().unwrap_or_else(PoisonError::into_inner) = after.cloned();
    }

    fn restart(&mut self, reason: &str) {
        (self.queued, self.looked_at) = (None, None);
        self.stream.restart(reason);
    }

    fn progress(&mut self) {
        self.stream.progress();
    }

    fn next_into(&mut self, follow: &mut Follow) -> Option<Result<bool, Restart>> {
        if self.over || self.queued.is_some() || self.looked_at.is_some() {
            return None;
        }
        // Nearly all frames are envelopes of the same epoch.
        if let Some(Near { position, series: Some(series) }) = &self.near
            && let Some(event) = self.stream.next_in_series(series)
        {
            self.fresh = false;
            let (text, part) = event.part();
            return Some(follow.handle_next(position, event.number(), text, part));
        }
        match self.stream.next_frame() {
            Some(sse::Frame::Event(event)) if event.is("envelope") => {
                let position = self.position(&event);
                let (text, part) = event.into_data();
                Some(follow.handle_frame(Frame::Text { position, text, part }))
            }
            other => {
                self.looked_at = other;
                None
            }
        }
    }
}

impl fmt::Debug for SseFeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SseFeed")
            .field("what", &self.what)
            .field("stream", &self.stream)
            .finish_non_exhaustive()
    }
}

/// The connection machine decides whether the status of a stream's response allows a retry, by the same rule as for
/// publishes.
#[cfg(test)]
mod tests {
    use relay_proto::eventsource::Verdict;

    use crate::endpoint::passing;

    #[test]
    fn streams_and_publishes_agree_on_what_passes() {
        for status in [400, 401, 403, 404, 405, 408, 409, 410, 413, 422, 425, 429, 500, 501, 502, 503, 504] {
            let retried = !matches!(Verdict::of_status(status), Verdict::Stop);
            assert_eq!(passing(status), retried, "{status}");
        }
    }
}
