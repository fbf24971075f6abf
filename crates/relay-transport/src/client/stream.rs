//! Event streams: the driver of the connection machine.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use futures_util::future::BoxFuture;
use futures_util::task::AtomicWaker;
use http::Request;
use http_body_util::Full;
use relay_proto::eventsource::{Action, Attempt, Config, Item, Machine, Refused, State, Stop};
use relay_proto::retry::Backoff;
use relay_proto::sse::{Frame, Numbered, Series};
use tokio::sync::watch;
use tokio::time::{Instant, Sleep};

use self::connection::{Connection, Input};
use crate::{Error, HttpClient};

mod body;
mod connection;

type Prepare = Box<dyn FnMut(&Attempt) -> BoxFuture<'static, Result<Request<Full<Bytes>>, Refused>> + Send>;

/// An event stream over as many connections as it takes: a `Stream` of [`Item`]s.
///
/// It yields at most one error, a [`Stop`], as its last item; after [`close`](Self::close) it ends without an error.
/// The end of a connection that is followed by another attempt is an [`Item::Ended`].
///
/// **Nothing happens unless it is polled**: it reads ahead no more than one read of the socket, so a slow caller
/// slows the server down. Dropping it, or closing it, closes the connection. Polling is cancel-safe.
pub struct EventStream {
    machine: Machine,
    connection: Connection,
    timer: Timer,
    http: HttpClient,
    prepare: Prepare,
    shared: Arc<Shared>,
    /// The state that watchers have seen.
    told: State,
    bytes_read: u64,
    done: bool,
}

impl EventStream {
    /// A stream whose requests are made by `prepare`, once per attempt and redirect: URL, method, headers, body and
    /// fresh credentials. The stream adds the headers of an event stream (`Accept`, `Cache-Control`,
    /// `Last-Event-ID`) and applies a redirect; headers that may hold a secret are not sent to another origin.
    ///
    /// Nothing is sent before the first poll, which must be within a tokio runtime.
    pub fn new<F>(http: HttpClient, config: Config, prepare: F) -> Self
    where
        F: FnMut(&Attempt) -> BoxFuture<'static, Result<Request<Full<Bytes>>, Refused>> + Send + 'static,
    {
        Self {
            machine: Machine::new(config, random_seed()),
            connection: Connection::none(),
            timer: Timer::new(),
            http,
            prepare: Box::new(prepare),
            shared: Arc::new(Shared::default()),
            told: State::Connect,
            bytes_read: 0,
            done: false,
        }
    }

    /// A stream of plain GET requests for one URL.
    ///
    /// # Errors
    /// [`Error::Url`] when that is not an absolute URL.
    pub fn get(http: HttpClient, config: Config, url: &str) -> Result<Self, Error> {
        let request = Request::get(url)
            .body(Full::default())
            .map_err(|_| Error::Url { reason: "it does not parse" })?;
        Ok(Self::new(http, config, move |_| Box::pin(std::future::ready(Ok(request.clone())))))
    }

    /// The state of the connection.
    pub fn state(&self) -> State {
        self.machine.state()
    }

    /// The last event id committed so far.
    pub fn last_event_id(&self) -> &str {
        self.machine.last_event_id()
    }

    /// Bytes of bodies received so far, over all connections.
    pub fn bytes_read(&self) -> u64 {
        self.bytes_read
    }

    /// Time on the clock of [`Ended::retry_at`](relay_proto::eventsource::Ended::retry_at).
    pub fn now(&self) -> Duration {
        self.timer.now()
    }

    /// A backoff with the settings of this stream, for other requests to the same server.
    pub fn backoff(&self) -> Backoff {
        self.machine.config().backoff(random_seed())
    }

    /// A handle to command and watch the stream from elsewhere.
    pub fn handle(&self) -> Handle {
        Handle(self.shared.clone())
    }

    /// The connection did useful work: the next delay is a first delay again.
    pub fn progress(&mut self) {
        self.machine.progress();
    }

    /// Drops the connection; another follows after the backoff.
    pub fn restart(&mut self, reason: impl Into<String>) {
        self.machine.restart(reason, self.timer.now());
    }

    /// The next reconnect comes after this delay; later ones as usual.
    pub fn delay_once(&mut self, delay: Duration) {
        self.machine.delay_once(delay);
    }

    /// Ends a wait for the next attempt: see [`Machine::retry_now`].
    pub fn retry_now(&mut self) {
        self.machine.retry_now();
    }

    /// The base of the backoff from now on: see [`Machine::set_base`].
    pub fn set_base(&mut self, base: Duration) {
        self.machine.set_base(base);
    }

    /// The longest silence from now on: see [`Config::idle`].
    pub fn set_idle(&mut self, idle: Option<Duration>) {
        self.machine.set_idle(idle);
    }

    /// The item that polling would yield at once, if that is a frame: for callers that take many in a row. After
    /// `None`, poll.
    // Moving a frame once more costs as much as finding it.
    #[inline(always)]
    pub fn next_frame(&mut self) -> Option<Frame> {
        // A frame that is already decoded needs no clock, socket or watchers.
        if self.shared.has_command.load(Ordering::Acquire) { None } else { self.machine.next_frame() }
    }

    /// The same for an event of a series: see [`Decoder::next_in_series`](relay_proto::sse::Decoder::next_in_series).
    #[inline(always)]
    pub fn next_in_series(&mut self, series: &Series) -> Option<Numbered<'_>> {
        if self.shared.has_command.load(Ordering::Acquire) {
            None
        } else {
            self.machine.next_in_series(series)
        }
    }

    /// Drops the connection and ends the stream.
    pub fn close(&mut self) {
        self.machine.close();
        self.connection.end(&Stop::Closed);
    }

    /// Carries out commands of handles. The task registers for wake-ups before it checks for commands.
    fn run_commands(&mut self) {
        // A load is cheaper than a swap.
        if !self.shared.has_command.load(Ordering::Acquire)
            || !self.shared.has_command.swap(false, Ordering::AcqRel)
        {
            return;
        }
        let command = self.shared.command.lock().unwrap_or_else(PoisonError::into_inner).take();
        match command {
            Some(Command::Restart(reason)) => self.restart(reason),
            Some(Command::Close) => self.close(),
            None => {}
        }
    }

    /// Publishes the state to watchers when it has changed.
    fn tell_watchers(&mut self) {
        let state = self.machine.state();
        if self.told != state {
            self.told = state;
            self.shared.state.0.send_replace(state);
        }
    }

    /// The next item, when there is no frame.
    #[inline(never)]
    fn poll_input(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Item, Stop>>> {
        // The clock is read once for everything that happens without waiting.
        let mut now = self.timer.now();
        loop {
            self.run_commands();
            let want = self.machine.poll(now);
            self.tell_watchers();
            let until = match want {
                Action::Connect(attempt) => {
                    let request = (self.prepare)(&attempt);
                    self.connection = Connection::open(self.http.clone(), request, attempt);
                    continue;
                }
                Action::Item(item) => {
                    if let Item::Ended(ended) = &item {
                        self.connection.end(&ended.cause);
                    }
                    return Poll::Ready(Some(Ok(item)));
                }
                Action::Stop(stop) => {
                    self.connection.close();
                    let told = std::mem::replace(&mut self.done, true) || stop == Stop::Closed;
                    return Poll::Ready((!told).then_some(Err(stop)));
                }
                // During a delay there is no connection, and so no input.
                Action::Wait(until) => Some(until),
                Action::Response(until) | Action::Bytes(until) => until,
                _ => None,
            };
            match self.connection.poll_input(cx) {
                Poll::Ready(Input::Head(head)) => self.machine.handle_response(head.for_machine(), now),
                Poll::Ready(Input::Bytes(bytes)) => {
                    self.bytes_read += bytes.len() as u64;
                    self.machine.handle_bytes(bytes, now);
                }
                Poll::Ready(Input::End(end)) => self.machine.handle_end(end, now),
                Poll::Ready(Input::Refused(refused)) => self.machine.handle_refused(refused, now),
                Poll::Pending => {
                    self.machine.release_memory();
                    self.shared.waker.register(cx.waker());
                    if !self.shared.has_command.load(Ordering::Acquire) {
                        ready!(self.timer.poll_until(until, cx));
                    }
                    now = self.timer.now();
                    self.machine.handle_timeout(now);
                }
            }
        }
    }
}

impl Stream for EventStream {
    type Item = Result<Item, Stop>;

    #[inline]
    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        match this.next_frame() {
            Some(frame) => Poll::Ready(Some(Ok(Item::Frame(frame)))),
            None => this.poll_input(cx),
        }
    }
}

impl fmt::Debug for EventStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventStream")
            .field("machine", &self.machine)
            .field("bytes_read", &self.bytes_read)
            .finish_non_exhaustive()
    }
}

/// Commands and watches an [`EventStream`] that another task polls. A command wakes that task and is carried out at
/// the next poll.
#[derive(Clone)]
pub struct Handle(Arc<Shared>);

#[derive(Default)]
struct Shared {
    command: Mutex<Option<Command>>,
    /// Whether there is a command: a cheap check for the usual case that there is none.
    has_command: AtomicBool,
    waker: AtomicWaker,
    state: StateWatch,
}

enum Command {
    Restart(String),
    Close,
}

struct StateWatch(watch::Sender<State>);

impl Default for StateWatch {
    fn default() -> Self {
        Self(watch::Sender::new(State::Connect))
    }
}

impl Handle {
    /// As [`EventStream::restart`].
    pub fn restart(&self, reason: impl Into<String>) {
        self.command(|command| {
            if !matches!(command, Some(Command::Close)) {
                *command = Some(Command::Restart(reason.into()));
            }
        });
    }

    /// As [`EventStream::close`].
    pub fn close(&self) {
        self.command(|command| *command = Some(Command::Close));
    }

    /// The state of the connection, and every change of it.
    pub fn watch(&self) -> watch::Receiver<State> {
        self.0.state.0.subscribe()
    }

    fn command(&self, give: impl FnOnce(&mut Option<Command>)) {
        give(&mut self.0.command.lock().unwrap_or_else(PoisonError::into_inner));
        self.0.has_command.store(true, Ordering::Release);
        self.0.waker.wake();
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Handle").field(&*self.0.state.0.borrow()).finish()
    }
}

/// The stream's clock, and one timer on it.
struct Timer {
    origin: Instant,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Timer {
    fn new() -> Self {
        Self { origin: Instant::now(), sleep: None }
    }

    fn now(&self) -> Duration {
        self.origin.elapsed()
    }

    /// Ready when that time has come. Deadlines move with every read, so a timer that is too early is reset only
    /// when it fires.
    fn poll_until(&mut self, until: Option<Duration>, cx: &mut Context<'_>) -> Poll<()> {
        let Some(deadline) = until.and_then(|until| self.origin.checked_add(until)) else {
            return Poll::Pending;
        };
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        if sleep.deadline() > deadline {
            sleep.as_mut().reset(deadline);
        }
        loop {
            ready!(sleep.as_mut().poll(cx));
            if sleep.deadline() >= deadline {
                self.sleep = None;
                return Poll::Ready(());
            }
            sleep.as_mut().reset(deadline);
        }
    }
}

fn random_seed() -> u64 {
    RandomState::new().hash_one(Instant::now())
}
