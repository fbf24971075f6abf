//! Messages of a stream's connections, decoded.

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::Stream;
use futures_util::future::BoxFuture;
use http::Request;
use http_body_util::Full;
use relay_proto::error::chain;
use relay_proto::eventsource::{Attempt, Cause, Config, Ended, Item, Refused, ServerRetry, Stop};
use relay_proto::pods::{Connected, EventHash, Message, PROTOCOL, Undecodable};
use relay_proto::problem::Problem;
use relay_proto::retry::Backoff;
use relay_proto::sse::{Event, Frame, Limits};
use relay_transport::{EventStream, Secret};

use crate::calls::Client;
use crate::error::{AnswerError, Error};
use crate::request::{StreamOptions, display_url};
use crate::session::{SessionMode, SessionSource};
use crate::tickets::RelaySessions;

/// Bounds of a relay's `retry`.
const RETRY_BOUNDS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(30));
/// Missed heartbeats after which a connection counts as dead, and the shortest time for it.
const MISSED_HEARTBEATS: f64 = 3.0;
/// The time limit before the relay has sent its heartbeat interval.
const MAX_SILENCE: Duration = Duration::from_secs(45);
const MIN_IDLE: Duration = Duration::from_secs(1);

/// An item of [`ResumingMessages`].
#[derive(Debug)]
pub(crate) enum Incoming {
    /// A connection is open.
    Opened,
    /// A message.
    Message(RawMessage),
    /// It ended, or an attempt failed; the next poll makes another.
    Ended { opened: bool, cause: String, delay: Duration, error: Box<Error> },
}

/// One stream over as many connections as it takes. Nothing happens unless it is polled, and polling is
/// cancel-safe.
pub(crate) struct ResumingMessages {
    stream: EventStream,
    url: String,
    shared: Arc<Shared>,
    open: bool,
    idle: Duration,
    base: Duration,
    /// The base before a `retry` line whose block may turn out to be `closing`.
    base_before_retry: Option<(Duration, Duration)>,
    closing: bool,
    /// Whether another connection follows the one that ended.
    resumes: bool,
}

/// State shared with the attempts: inputs of the next one, and results of the last.
#[derive(Debug, Default)]
struct Shared(Mutex<Attempting>);

#[derive(Debug, Default)]
struct Attempting {
    resume: Option<EventHash>,
    refusal: Option<Error>,
}

impl Shared {
    fn with<T>(&self, access: impl FnOnce(&mut Attempting) -> T) -> T {
        access(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl ResumingMessages {
    pub(crate) fn new(client: &Client, options: &StreamOptions) -> Self {
        let shared = Arc::new(Shared::default());
        let sessions: Option<Arc<dyn SessionSource>> = match client.sessions() {
            SessionMode::Source(source) => Some(source.clone()),
            SessionMode::Always => Some(Arc::new(RelaySessions::new(client.clone()))),
            SessionMode::Auto if client.has_token() => Some(Arc::new(RelaySessions::new(client.clone()))),
            SessionMode::Auto | SessionMode::Off => None,
        };
        // A line holds one field: as much as the data, and its name.
        let limits =
            Limits::default().data(options.max_event_bytes).line(options.max_event_bytes.saturating_add(64));
        let config = Config::default()
            .base(options.reconnect_base)
            .cap(options.reconnect_cap)
            .server_retry(ServerRetry::Ignore)
            .healthy_after(None)
            .idle(Some(MAX_SILENCE))
            .credentials_can_refresh(sessions.is_some() || client.credentials_can_refresh())
            .use_last_event_id(false)
            .limits(limits);
        let url = display_url(&client.requests().stream(options, None, None));
        let prepare = prepare(client.clone(), options.clone(), sessions, shared.clone());
        Self {
            stream: EventStream::new(client.http().clone(), config, prepare),
            url,
            shared,
            open: false,
            idle: MAX_SILENCE,
            base: options.reconnect_base,
            base_before_retry: None,
            closing: false,
            resumes: true,
        }
    }

    /// For one connection only: there is no other attempt after its end, so the log does not announce one.
    fn once(mut self) -> Self {
        self.resumes = false;
        self
    }

    /// Sets the resume position of the next attempt.
    pub(crate) fn resume_from(&self, hash: Option<&EventHash>) {
        self.shared.with(|shared| shared.resume = hash.cloned());
    }

    /// Whether a connection is open, so that polling does not connect.
    pub(crate) fn is_open(&self) -> bool {
        self.open
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// A backoff with the settings of this stream, for other requests.
    pub(crate) fn backoff(&self) -> Backoff {
        self.stream.backoff()
    }

    /// The idle limit.
    pub(crate) fn idle(&self) -> Duration {
        self.idle
    }

    pub(crate) fn bytes_read(&self) -> u64 {
        self.stream.bytes_read()
    }

    /// The connection made progress: resets the backoff.
    pub(crate) fn progress(&mut self) {
        self.stream.progress();
    }

    /// Drops the connection; another follows after the backoff.
    pub(crate) fn restart(&mut self, cause: &str) {
        self.stream.restart(cause);
        self.open = false;
    }

    /// Takes the idle limit from the relay's heartbeat, and logs a protocol version newer than ours.
    fn introduced(&mut self, connected: &Connected) {
        if connected.protocol > PROTOCOL {
            tracing::warn!(
                url = self.url,
                protocol = connected.protocol,
                "the relay speaks a newer protocol than this program, which goes on as well as it can: take a newer \
                 version of it"
            );
        }
        let Some(seconds) = connected.heartbeat_seconds.filter(|s| s.is_finite() && *s > 0.0) else { return };
        let idle = Duration::try_from_secs_f64(seconds * MISSED_HEARTBEATS).unwrap_or(Duration::MAX);
        self.idle = idle.clamp(MIN_IDLE, Duration::from_secs(3600));
        self.stream.set_idle(Some(self.idle));
    }

    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Incoming, Error>> {
        loop {
            if let Some(message) = self.next_message() {
                return Poll::Ready(Ok(Incoming::Message(message)));
            }
            let item = match ready!(Pin::new(&mut self.stream).poll_next(cx)) {
                Some(Ok(item)) => item,
                Some(Err(stop)) => return Poll::Ready(Err(self.stopped(stop))),
                None => return Poll::Ready(Err(self.stopped(Stop::Closed))),
            };
            match item {
                Item::Opened => {
                    self.open = true;
                    return Poll::Ready(Ok(Incoming::Opened));
                }
                Item::Ended(ended) => return Poll::Ready(Ok(self.ended(&ended))),
                Item::Frame(frame) => {
                    if let Some(message) = self.message(frame) {
                        return Poll::Ready(Ok(Incoming::Message(message)));
                    }
                }
                _ => {}
            }
        }
    }

    /// The next message, if it has been received.
    #[inline]
    fn next_message(&mut self) -> Option<RawMessage> {
        loop {
            let frame = self.stream.next_frame()?;
            if let Some(message) = self.message(frame) {
                return Some(message);
            }
        }
    }

    /// The message of a frame, if it is one.
    #[inline]
    fn message(&mut self, frame: Frame) -> Option<RawMessage> {
        match frame {
            Frame::Event(event) => {
                let kind = event.kind();
                let (introduces, closing) = (kind == "connected", kind == "closing");
                if closing || self.closing || self.base_before_retry.is_some() {
                    self.settle_retry(closing);
                }
                let message = RawMessage { event: Some(event), message: OnceLock::new() };
                if introduces && let Message::Connected(connected) = message.message() {
                    self.introduced(connected);
                }
                Some(message)
            }
            Frame::Oversized(block) => {
                self.settle_retry(false);
                let limit = format!("the {} size", block.limit());
                let (kind, id) = (block.kind(), block.last_event_id());
                let message = Undecodable::oversized(kind, id, block.size(), &limit);
                let message = OnceLock::from(Box::new(Message::Undecodable(message)));
                Some(RawMessage { event: None, message })
            }
            Frame::Retry(delay) => {
                self.retry(delay);
                None
            }
            _ => None,
        }
    }

    /// A `retry` line is the new base, unless its block turns out to be `closing`: then it counts once.
    fn retry(&mut self, delay: Duration) {
        let delay = delay.clamp(RETRY_BOUNDS.0, RETRY_BOUNDS.1);
        let before = self.base_before_retry.map_or(self.base, |(before, _)| before);
        self.base_before_retry = Some((before, delay));
        self.set_base(delay);
    }

    fn settle_retry(&mut self, closing: bool) {
        self.closing = closing;
        if let Some((before, delay)) = self.base_before_retry.take()
            && closing
        {
            self.set_base(before);
            self.stream.delay_once(delay);
        }
    }

    fn set_base(&mut self, base: Duration) {
        self.base = base;
        self.stream.set_base(base);
    }

    fn ended(&mut self, ended: &Ended) -> Incoming {
        self.open = false;
        self.base_before_retry = None;
        let closing = std::mem::take(&mut self.closing);
        let delay = ended.retry_at.saturating_sub(self.stream.now());
        let cause = match &ended.cause {
            Cause::Status(status) => Problem::from_body(*status, &ended.body).to_string(),
            Cause::Eof if closing => "the relay is closing the connection".into(),
            Cause::Restarted(reason) => reason.clone(),
            other => other.to_string(),
        };
        let (url, why, seconds) = (self.url.as_str(), cause.as_str(), delay.as_secs_f64());
        match (self.resumes, closing) {
            (true, true) => {
                tracing::info!(target: crate::RETRY_TARGET, url, delay = seconds, cause = why, "connecting again");
            }
            (true, false) => {
                let attempt = ended.attempt;
                tracing::warn!(target: crate::RETRY_TARGET, url, delay = seconds, attempt, cause = why, "connecting again");
            }
            (false, true) => tracing::info!(url, cause = why, "the stream ends with its connection"),
            (false, false) if ended.opened => {
                tracing::warn!(url, cause = why, "the stream ends with its connection");
            }
            // The caller gets this as an error.
            (false, false) => {}
        }
        let url = self.url.clone();
        let refusal = self.shared.with(|shared| shared.refusal.take());
        let error = match (&ended.cause, refusal) {
            (Cause::Status(status), _) => {
                let problem = Box::new(Problem::from_body(*status, &ended.body));
                Error::Refused { url, problem, retry_after: None }
            }
            (Cause::ContentType(_), _) => {
                Error::Answer { url, source: AnswerError::Unexpected(cause.clone()) }
            }
            (Cause::Refused(_), Some(refusal)) => refusal,
            _ => Error::Transport { url, source: cause.clone().into() },
        };
        Incoming::Ended { opened: ended.opened, cause, delay, error: Box::new(error) }
    }

    fn stopped(&mut self, stop: Stop) -> Error {
        self.open = false;
        match (self.shared.with(|shared| shared.refusal.take()), &stop) {
            (Some(refusal), Stop::Refused(_)) => refusal,
            _ => Error::from_stop(&self.url, stop),
        }
    }
}

impl fmt::Debug for ResumingMessages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResumingMessages")
            .field("url", &self.url)
            .field("open", &self.open)
            .finish_non_exhaustive()
    }
}

type Prepared = BoxFuture<'static, Result<Request<Full<bytes::Bytes>>, Refused>>;

/// Makes each attempt's request, with the current resume position and a fresh ticket.
fn prepare(
    client: Client,
    options: StreamOptions,
    sessions: Option<Arc<dyn SessionSource>>,
    shared: Arc<Shared>,
) -> impl FnMut(&Attempt) -> Prepared + Send + 'static {
    move |attempt| {
        // A redirect is a part of the same attempt.
        let refused = attempt.fresh_credentials() && attempt.redirect().is_none();
        let (client, options, sessions, shared) =
            (client.clone(), options.clone(), sessions.clone(), shared.clone());
        Box::pin(async move {
            let made = request(&client, &options, sessions.as_deref(), &shared, refused).await;
            made.map_err(|error| {
                let why = chain(&error).to_string();
                let refused = match (error.is_retryable(), error.retry_after()) {
                    (false, _) => Refused::permanent(why),
                    (true, None) => Refused::retry(why),
                    (true, Some(delay)) => Refused::retry_after(why, delay),
                };
                let refused = error.status().into_iter().fold(refused, Refused::with_status);
                shared.with(|shared| shared.refusal = Some(error));
                refused
            })
        })
    }
}

async fn request(
    client: &Client,
    options: &StreamOptions,
    sessions: Option<&dyn SessionSource>,
    shared: &Shared,
    refused: bool,
) -> Result<Request<Full<bytes::Bytes>>, Error> {
    // With a ticket, the token is not sent.
    let credentials = client.credentials(refused, sessions.is_none()).await?;
    let ticket: Option<Secret> = match sessions {
        Some(source) => Some(source.session().await?),
        None => None,
    };
    let resume = shared.with(|shared| shared.resume.clone());
    let mut request = client.requests().stream(options, resume.as_ref(), ticket.as_ref());
    credentials.apply(&mut request)?;
    Ok(request)
}

/// One message as received, decoded on demand.
///
/// It is decoded once, on the first use: programs that only forward messages do not pay for it.
#[derive(Debug, Clone)]
pub struct RawMessage {
    /// `None` when it was over the size limit; then the message says so.
    event: Option<Event>,
    message: OnceLock<Box<Message>>,
}

impl RawMessage {
    /// The decoded message.
    pub fn message(&self) -> &Message {
        self.message.get_or_init(|| Box::new(self.decode()))
    }

    /// The decoded message, owned.
    pub fn into_message(mut self) -> Message {
        self.message.take().map_or_else(|| self.decode(), |message| *message)
    }

    fn decode(&self) -> Message {
        Message::decode(self.event(), self.id(), self.data())
    }

    /// The SSE event name.
    pub fn event(&self) -> &str {
        match (&self.event, self.message.get().map(Box::as_ref)) {
            (Some(event), _) => event.kind(),
            (None, Some(Message::Undecodable(message))) => &message.event,
            _ => "message",
        }
    }

    /// The SSE id in force.
    pub fn id(&self) -> &str {
        match (&self.event, self.message.get().map(Box::as_ref)) {
            (Some(event), _) => event.last_event_id(),
            (None, Some(Message::Undecodable(message))) => {
                message.hash.as_ref().map_or("", EventHash::as_str)
            }
            _ => "",
        }
    }

    /// The data; empty when it was over the size limit.
    pub fn data(&self) -> &str {
        self.event.as_ref().map_or("", Event::data)
    }

    /// Upper bound of its memory, in bytes.
    pub(crate) fn size(&self) -> usize {
        // A decoded message holds the text a second time, and its own structure.
        2 * self.data().len() + self.id().len() + size_of::<Self>() + size_of::<Message>()
    }
}

impl Client {
    /// The raw messages of one connection; ends when the connection ends.
    pub fn stream(&self, options: StreamOptions) -> MessageStream {
        MessageStream::new(self, options)
    }
}

/// The raw messages of one connection: a `Stream` that ends when the connection ends.
///
/// A message that cannot be read comes as it is, with [`Message::Undecodable`]; the stream goes on. A failed attempt to
/// connect is an error.
#[derive(Debug)]
pub struct MessageStream {
    messages: ResumingMessages,
    done: bool,
}

impl MessageStream {
    pub(crate) fn new(client: &Client, options: StreamOptions) -> Self {
        let messages = ResumingMessages::new(client, &options).once();
        messages.resume_from(options.since.as_ref());
        Self { messages, done: false }
    }
}

impl Stream for MessageStream {
    type Item = Result<RawMessage, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if self.done {
                return Poll::Ready(None);
            }
            if let Some(message) = self.messages.next_message() {
                return Poll::Ready(Some(Ok(message)));
            }
            match ready!(self.messages.poll_next(cx)) {
                Ok(Incoming::Opened) => {}
                Ok(Incoming::Message(message)) => return Poll::Ready(Some(Ok(message))),
                Ok(Incoming::Ended { opened, error, .. }) => {
                    self.done = true;
                    return Poll::Ready((!opened).then_some(Err(*error)));
                }
                Err(error) => {
                    self.done = true;
                    return Poll::Ready(Some(Err(error)));
                }
            }
        }
    }
}
