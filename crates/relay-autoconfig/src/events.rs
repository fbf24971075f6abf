//! The driver of connection, session, clock and cache.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::Stream;
use futures_util::future::BoxFuture;
use http::{Request, header};
use http_body_util::Full;
use relay_proto::error::chain;
use relay_proto::eventsource::{Attempt, Cause, Ended, Item, Refused, Stop};
use relay_proto::secret::same_in_constant_time;
use relay_proto::sse::Frame;
use relay_state::environments::{
    Environments, Event, Next, Now, Session, State, Status, StatusError, decode_saved, encode_saved,
};
use relay_transport::{EventStream, HttpClient, Secret, TokenSource};
use tokio::time::{Instant, Sleep};

use crate::builder::{Builder, ConfigError, Unauthorized};
use crate::cache::Cache;
use crate::service::{service, shown};

/// How often the wall clock is read while keys may expire: it may be set, and a machine may have slept.
const CLOCK_CHECK: Duration = Duration::from_millis(80);
/// Keys remembered as refused, so that each is tried at once no more than once.
const REFUSED_KEYS: usize = 16;

/// Why a stream has ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum End {
    /// The caller has closed it.
    #[error("closed")]
    Closed,
    /// The service answered 204: it wants no more attempts.
    #[error("the service has nothing more to say (204)")]
    NoContent,
    /// The service answered 401 or 403, which is final by [`Builder::unauthorized`].
    #[error("not authorised: the service answered with status {0}")]
    Unauthorized(u16),
    /// No request can be made, for this reason.
    #[error("no request can be made: {0}")]
    Request(String),
}

/// Changes as a stream: connects, reconnects, and ends only for a reason in [`End`].
///
/// **Nothing happens unless it is polled.** Keys that expired between polls are the first events of the next one.
/// Dropping it closes the connection. Polling is cancel-safe.
pub struct Events {
    stream: EventStream,
    session: Session,
    key: TokenSource,
    /// The key of the last attempt.
    sent: Arc<Mutex<Option<Secret>>>,
    refused: Vec<Secret>,
    /// A 401 or 403, while the key source is called for a new key.
    second_look: Option<(Ended, u16, BoxFuture<'static, Option<Secret>>)>,
    unauthorized: Arc<dyn Fn(u16) -> Unauthorized + Send + Sync>,
    cache: Option<Box<dyn Cache>>,
    /// The service of the cache.
    service: String,
    wall_clock: Arc<dyn Fn() -> u64 + Send + Sync>,
    origin: Instant,
    timer: Pin<Box<Sleep>>,
    timer_set: bool,
    started: bool,
    end: Option<End>,
}

impl Builder {
    /// The stream of events. Nothing is sent before it is polled.
    ///
    /// # Errors
    /// The settings cannot be used.
    pub fn events(self) -> Result<Events, ConfigError> {
        Events::new(self)
    }
}

impl Events {
    pub(crate) fn new(mut builder: Builder) -> Result<Self, ConfigError> {
        let url = builder.stream_url()?;
        let key = builder.checked_key()?;
        let http = match builder.http.take() {
            Some(http) => http,
            None => HttpClient::builder()
                .compressed_streams(true)
                .build()
                .map_err(|source| ConfigError::Http { source })?,
        };
        let sent = Arc::new(Mutex::new(None));
        let stream = EventStream::new(http, builder.config(), request(url, key.clone(), sent.clone()));
        Ok(Self {
            stream,
            session: Session::new(builder.environments()),
            key,
            sent,
            refused: Vec::new(),
            second_look: None,
            unauthorized: builder.unauthorized,
            service: service(&builder.url).to_owned(),
            cache: builder.cache,
            wall_clock: builder.wall_clock,
            origin: Instant::now(),
            timer: Box::pin(tokio::time::sleep(Duration::ZERO)),
            timer_set: false,
            started: false,
            end: None,
        })
    }

    /// The status, including changes whose events were not taken yet.
    pub fn status(&self) -> &Status {
        self.session.status()
    }

    /// The environments.
    pub fn environments(&self) -> &Environments {
        self.session.environments()
    }

    /// Why it has ended, if it has.
    pub fn end(&self) -> Option<&End> {
        self.end.as_ref()
    }

    /// Ends the stream: no further request is sent, and the last event says `off`.
    pub fn close(&mut self) {
        if self.end.is_none() {
            self.finish(End::Closed, None);
        }
    }

    /// The next event; `None` at the end.
    pub async fn next(&mut self) -> Option<Event> {
        std::future::poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }

    fn now(&self) -> Now {
        Now::new((self.wall_clock)(), self.origin.elapsed())
    }

    fn finish(&mut self, end: End, error: Option<StatusError>) {
        self.stream.close();
        self.second_look = None;
        self.end = Some(end);
        self.session.handle_stopped(error);
    }

    /// Reads the cache. An unusable one is not changed.
    fn restore(&mut self) {
        let Some(mut cache) = self.cache.take() else { return };
        let now = self.now();
        let loaded = cache.load().and_then(|text| {
            let Some(text) = text else { return Ok(()) };
            let (url, content) = decode_saved(&text)?;
            if url != self.service {
                return Err(format!("it belongs to another service, {}", shown(&url)).into());
            }
            self.session.restore(content, now);
            Ok(())
        });
        match loaded {
            Ok(()) => self.cache = Some(cache),
            Err(error) => {
                let why = chain(error.as_ref());
                tracing::warn!("{} cannot be used and is left as it is: {why}", cache.name());
            }
        }
    }

    /// Stores changes before their events are handed out.
    fn save(&mut self) {
        if self.session.take_unsaved()
            && let Some(cache) = &mut self.cache
            && let Err(error) = cache.store(&encode_saved(self.session.environments(), &self.service))
        {
            tracing::warn!("{} is not up to date: {}", cache.name(), chain(error.as_ref()));
        }
    }

    fn handle_item(&mut self, item: Item) {
        match item {
            Item::Opened => self.session.handle_opened(),
            Item::Frame(frame) => self.handle_frame(&frame),
            Item::Ended(ended) => self.handle_ended(ended),
            _ => {}
        }
    }

    fn handle_frame(&mut self, frame: &Frame) {
        let next = match frame {
            Frame::Event(event) => {
                let (kind, bytes) = (event.kind(), event.data().len());
                match kind {
                    "put" | "patch" | "delete" => tracing::debug!(event = kind, bytes, "received"),
                    "reconnect" => tracing::info!("the service asks to connect again"),
                    _ => {
                        let kind: String = kind.chars().take(40).collect();
                        tracing::warn!(event = ?kind, bytes, "an event of an unknown kind is ignored");
                    }
                }
                let now = self.now();
                self.session.handle_event(kind, event.data(), now)
            }
            Frame::Oversized(over) => self
                .session
                .handle_oversized(format!("an event has a {} that is over the limit", over.limit())),
            _ => return,
        };
        if next == Next::Read {
            self.stream.progress();
        } else {
            self.stream.restart("for what was received");
        }
    }

    fn handle_ended(&mut self, ended: Ended) {
        if let Some(status @ (401 | 403)) = ended.status() {
            let key = self.key.clone();
            let token = async move { key.fresh_token().await.ok() };
            self.second_look = Some((ended, status, Box::pin(token)));
            return;
        }
        let delay = ended.retry_at.saturating_sub(self.stream.now());
        self.refused.clear();
        let error = self.without_key(error_of(&ended.cause));
        self.session.handle_ended(error, delay);
        self.warn();
    }

    /// Handles a refused key, and compares it with the source's present key.
    fn handle_unauthorized(&mut self, ended: &Ended, status: u16, fresh: Option<Secret>) {
        let error = error_of(&ended.cause);
        if let Some(sent) = self.sent.lock().unwrap_or_else(PoisonError::into_inner).take()
            && self.refused.len() < REFUSED_KEYS
        {
            self.refused.push(sent);
        }
        let same =
            |a: &Secret, b: &Secret| same_in_constant_time(a.expose().as_bytes(), b.expose().as_bytes());
        let other = fresh.is_some_and(|fresh| !self.refused.iter().any(|refused| same(refused, &fresh)));
        if other && self.refused.len() < REFUSED_KEYS {
            self.stream.retry_now();
            self.session.handle_ended(error, Duration::ZERO);
        } else if (self.unauthorized)(status) == Unauthorized::Stop {
            self.finish(End::Unauthorized(status), Some(error));
        } else {
            let delay = ended.retry_at.saturating_sub(self.stream.now());
            self.session.handle_ended(error, delay);
        }
        self.warn();
    }

    fn handle_stop(&mut self, stop: Stop) {
        match stop {
            Stop::NoContent => {
                let error = StatusError::response(204, End::NoContent.to_string());
                self.finish(End::NoContent, Some(error));
            }
            Stop::Status { status, .. } => {
                let error = error_of(&Cause::Status(status));
                self.finish(End::Unauthorized(status), Some(error));
            }
            Stop::Closed => self.finish(End::Closed, None),
            Stop::Refused(refused) => {
                let error = StatusError::network(refused.to_string());
                self.finish(End::Request(refused.to_string()), Some(error));
            }
            _ => self.finish(End::Request(stop.to_string()), Some(StatusError::network(stop.to_string()))),
        }
    }

    /// Removes the key from an error: after a redirect, a URL may contain it.
    fn without_key(&self, mut error: StatusError) -> StatusError {
        let sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(key) = &*sent
            && key.expose().len() > 3
        {
            error.message = error.message.replace(key.expose(), "***");
        }
        error
    }

    fn warn(&self) {
        let status = self.session.status();
        let Some(error) = &status.error else { return };
        match status.retry {
            Some(Duration::ZERO) => tracing::warn!("{}; another key is tried at once", error.message),
            Some(retry) => tracing::warn!("{}; the next attempt is in {retry:.1?}", error.message),
            None => tracing::warn!("{}", error.message),
        }
    }

    /// Sets the timer for the next deadline; ready when it has come.
    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let deadline = self.session.next_deadline();
        let now = self.now();
        let wall = deadline
            .unix_ms
            .map(|due| Duration::from_millis(due.saturating_sub(now.unix_ms)).min(CLOCK_CHECK));
        let steady = deadline.steady.map(|due| due.saturating_sub(now.steady));
        let Some(wait) = wall.into_iter().chain(steady).min() else {
            self.timer_set = false;
            return Poll::Pending;
        };
        let due = deadline.unix_ms.is_some_and(|due| due <= now.unix_ms)
            || deadline.steady.is_some_and(|due| due <= now.steady);
        if due {
            return Poll::Ready(());
        }
        let at = Instant::now() + wait;
        if !self.timer_set || self.timer.deadline() > at || self.timer.is_elapsed() {
            self.timer.as_mut().reset(at);
            self.timer_set = true;
        }
        // A timer that fires early only reads the clock.
        while self.timer.as_mut().poll(cx).is_ready() {
            let now = self.now();
            if deadline.unix_ms.is_some_and(|due| due <= now.unix_ms)
                || deadline.steady.is_some_and(|due| due <= now.steady)
            {
                return Poll::Ready(());
            }
            let at = Instant::now() + CLOCK_CHECK.min(wait.max(Duration::from_millis(1)));
            self.timer.as_mut().reset(at);
        }
        Poll::Pending
    }
}

impl Stream for Events {
    type Item = Event;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        let this = self.get_mut();
        if !std::mem::replace(&mut this.started, true) {
            this.restore();
        }
        loop {
            this.save();
            if let Some(event) = this.session.poll() {
                return Poll::Ready(Some(event));
            }
            if this.end.is_some() {
                return Poll::Ready(None);
            }
            // Expired keys come before later messages.
            if this.poll_deadline(cx).is_ready() {
                let now = this.now();
                this.session.handle_time(now);
                continue;
            }
            if let Some((_, _, token)) = &mut this.second_look {
                let Poll::Ready(fresh) = token.as_mut().poll(cx) else { return Poll::Pending };
                if let Some((ended, status, _)) = this.second_look.take() {
                    this.handle_unauthorized(&ended, status, fresh);
                }
                continue;
            }
            match Pin::new(&mut this.stream).poll_next(cx) {
                Poll::Ready(Some(Ok(item))) => this.handle_item(item),
                Poll::Ready(Some(Err(stop))) => this.handle_stop(stop),
                Poll::Ready(None) => this.finish(End::Closed, None),
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state: State = self.session.status().state;
        f.debug_struct("Events").field("state", &state).field("end", &self.end).finish_non_exhaustive()
    }
}

type Prepared = BoxFuture<'static, Result<Request<Full<bytes::Bytes>>, Refused>>;

/// Makes the request of each attempt, with the source's current key.
fn request(
    url: String,
    key: TokenSource,
    sent: Arc<Mutex<Option<Secret>>>,
) -> impl FnMut(&Attempt) -> Prepared + Send + 'static {
    move |_| {
        let (url, key, sent) = (url.clone(), key.clone(), sent.clone());
        Box::pin(async move {
            let key = key.token().await.map_err(|error| Refused::retry(error.line()))?;
            let authorization = key.header().map_err(|error| Refused::retry(error.line()))?;
            *sent.lock().unwrap_or_else(PoisonError::into_inner) = Some(key);
            Request::get(url)
                .header(header::AUTHORIZATION, authorization)
                .header(header::USER_AGENT, concat!("relay/", env!("CARGO_PKG_VERSION")))
                .body(Full::default())
                .map_err(|_| Refused::permanent("the request cannot be made"))
        })
    }
}

/// An error with nothing of a response but its status: a body may echo the key.
fn error_of(cause: &Cause) -> StatusError {
    match cause {
        Cause::Status(status) => StatusError::response(*status, cause.to_string()),
        Cause::ContentType(_) => {
            StatusError::response(200, "answered with another content type than text/event-stream")
        }
        Cause::ContentEncoding(_) => {
            StatusError::response(200, "answered in a content coding that was not asked for")
        }
        Cause::RedirectWithoutLocation(status)
        | Cause::RedirectNowhere(status)
        | Cause::TooManyRedirects(status) => StatusError::response(*status, cause.to_string()),
        Cause::EndlessEvent(_) => StatusError::data(cause.to_string()),
        other => StatusError::network(other.to_string()),
    }
}
