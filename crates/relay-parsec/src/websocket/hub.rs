//! Distributes one session's items to many local subscriptions.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use relay_proto::parsec::Position;
use relay_proto::parsec::session::{Config, End, EndKind, From, Item, LossReason, Session};
use relay_state::sequences::{Frame, GapCause};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::{Error, ErrorKind, Event, Start};

/// Size limit of one subscriber's queue, in bytes. A Parsec server accepts envelopes of at most 64 KiB, but other
/// servers may allow more.
const MOST_BYTES: usize = 16 << 20;
/// How long the connection waits for a full queue before it drops envelopes. A subscriber that takes a queue's length
/// of them within this time is waited for again: a replay or a burst brings more than a queue holds.
const PATIENCE: Duration = Duration::from_secs(1);

/// State shared by the connection's task and the subscriptions.
pub(super) struct Hub {
    state: Mutex<State>,
    pub(super) news: Notify,
    pub(super) config: Config,
    queue: usize,
    room: Arc<Notify>,
}

#[derive(Default)]
struct State {
    channels: BTreeMap<String, Channel>,
    /// Whether a local subscription was added or removed since the last update of the session. It saves a look at all
    /// channels with each frame.
    changed: bool,
    restart: Option<String>,
    closed: bool,
    /// Whether the session is over for good.
    over: Option<End>,
}

#[derive(Default)]
struct Channel {
    locals: Vec<Arc<Local>>,
    /// Whether the session knows the channel.
    known: bool,
    /// Whether the local subscriptions have been told that the channel is open.
    open: bool,
}

/// One local subscription.
pub(super) struct Local {
    channel: String,
    start: Start,
    most: usize,
    queue: Mutex<Queue>,
    /// Tells the connection that there may be room in the queue.
    room: Arc<Notify>,
}

#[derive(Default)]
struct Queue {
    events: VecDeque<Event>,
    waker: Option<Waker>,
    /// Everything up to here was queued, or counted as dropped.
    position: Option<Position>,
    /// Whether a connection was announced to it at least once.
    attached: bool,
    /// The number of envelopes dropped since the queue was full.
    dropped: u64,
    /// Bytes of the envelopes in the queue.
    bytes: usize,
    /// While the connection waits for room: since when, and how many events were taken since.
    pressed: Option<(Instant, usize)>,
    closed: bool,
}

impl Hub {
    pub(super) fn new(config: Config, queue: usize) -> Self {
        Self { state: Mutex::default(), news: Notify::new(), config, queue, room: Arc::default() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn join(&self, channel: &str, start: Start) -> Result<Arc<Local>, Error> {
        let mut state = self.lock();
        if state.closed {
            return Err(Error::Closed);
        }
        if let Some(end) = &state.over {
            return Err(ended(end));
        }
        let queue = Queue {
            position: if let Start::After(position) = &start { Some(position.clone()) } else { None },
            ..Queue::default()
        };
        let local = Arc::new(Local {
            channel: channel.to_owned(),
            start,
            most: self.queue,
            queue: Mutex::new(queue),
            room: self.room.clone(),
        });
        state.channels.entry(channel.to_owned()).or_default().locals.push(local.clone());
        state.changed = true;
        drop(state);
        self.news.notify_one();
        Ok(local)
    }

    pub(super) fn leave(&self, local: &Arc<Local>) {
        let mut state = self.lock();
        if let Some(channel) = state.channels.get_mut(&local.channel) {
            channel.locals.retain(|other| !Arc::ptr_eq(other, local));
        }
        state.changed = true;
        drop(state);
        self.news.notify_one();
        self.room.notify_one();
    }

    pub(super) fn restart(&self, reason: &str) {
        self.lock().restart = Some(reason.to_owned());
        self.news.notify_one();
    }

    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        for channel in std::mem::take(&mut state.channels).into_values() {
            channel.locals.iter().for_each(|local| local.close());
        }
        drop(state);
        self.news.notify_one();
    }

    /// Opens and closes the session's channels according to the local subscriptions. False at the end.
    pub(super) fn reconcile(&self, session: &mut Session, now: Duration) -> bool {
        let mut state = self.lock();
        if state.closed {
            return false;
        }
        if let Some(reason) = state.restart.take() {
            session.restart(reason, now);
        }
        if !std::mem::take(&mut state.changed) {
            return true;
        }
        state.channels.retain(|name, channel| {
            if channel.locals.is_empty() {
                session.unsubscribe(name);
                return false;
            }
            let fresh = channel.locals.iter().filter(|local| !local.lock().attached);
            if channel.known {
                for local in fresh {
                    match &local.start {
                        // The subscription begins with the next envelope.
                        Start::Latest if channel.open => {
                            local.attach(session.position(name).cloned());
                        }
                        Start::Latest => {}
                        start => {
                            local.lock().attached = true;
                            session.subscribe(name, from(start));
                        }
                    }
                }
            } else {
                channel.known = true;
                let oldest = fresh.map(|local| &local.start).min_by_key(|start| match start {
                    Start::Oldest => (0, 0),
                    Start::After(position) => (1, position.offset()),
                    Start::Latest => (2, 0),
                });
                session.subscribe(name, oldest.map_or(From::Latest, from));
            }
            true
        });
        true
    }

    /// Waits until the subscribers of an item have room for it, or have taken too little for too long.
    pub(super) async fn wait_for_room(&self, item: &Item) {
        let Item::Publication { channel, .. } = item else { return };
        loop {
            let room = self.room.notified();
            let until = {
                let state = self.lock();
                let locals =
                    state.channels.get(channel).map(|channel| &channel.locals[..]).unwrap_or_default();
                locals.iter().filter_map(|local| local.is_waited_for()).max()
            };
            let Some(until) = until else { return };
            let _ = tokio::time::timeout_at(until, room).await;
        }
    }

    /// Distributes an item of the session.
    pub(super) fn dispatch(&self, item: Item, now: Duration) {
        let mut state = self.lock();
        match item {
            Item::Subscribed { channel, resumes_after } => {
                state.set_open(&channel, true);
                state.each(&channel, |local| local.attach(resumes_after.clone()));
            }
            Item::Gap { channel, reason, missed, resumes_after } => {
                let cause = match reason {
                    LossReason::Server(reason) => GapCause::Server(reason),
                    _ => GapCause::Hole,
                };
                state.each(&channel, |local| local.gap(&cause, missed, &resumes_after));
            }
            Item::Publication { channel, position, data } => state.each(&channel, |local| {
                local.publication(position.as_ref(), &data);
            }),
            Item::Refused { channel, reason, retry_at } => {
                state.set_open(&channel, false);
                state.each(&channel, |local| {
                    let delay = retry_at.saturating_sub(now);
                    local.push(Event::Waiting { reason: reason.clone(), delay });
                });
            }
            Item::Lost { reason, retry_at } => {
                let delay = retry_at.saturating_sub(now);
                for channel in state.channels.values_mut() {
                    channel.open = false;
                    for local in &channel.locals {
                        local.push(Event::Waiting { reason: reason.clone(), delay });
                    }
                }
            }
            Item::Ended { channel, end } => {
                if let Some(channel) = state.channels.remove(&channel) {
                    channel.locals.iter().for_each(|local| local.push(Event::Ended(ended(&end))));
                }
            }
            _ => {}
        }
    }

    /// The session is over for good.
    pub(super) fn stop(&self, end: End) {
        let mut state = self.lock();
        for channel in std::mem::take(&mut state.channels).into_values() {
            channel.locals.iter().for_each(|local| local.push(Event::Ended(ended(&end))));
        }
        state.over = Some(end);
    }
}

impl State {
    fn set_open(&mut self, channel: &str, open: bool) {
        if let Some(channel) = self.channels.get_mut(channel) {
            channel.open = open;
        }
    }

    fn each(&mut self, channel: &str, tell: impl Fn(&Local)) {
        if let Some(channel) = self.channels.get(channel) {
            channel.locals.iter().for_each(|local| tell(local));
        }
    }
}

impl Queue {
    fn is_full(&self, most: usize) -> bool {
        self.events.len() >= most || self.bytes > MOST_BYTES
    }

    /// Reports dropped envelopes before the next event, which would otherwise follow a hole.
    fn say_lag(&mut self) {
        if self.dropped > 0 {
            let (dropped, resumes_after) = (std::mem::take(&mut self.dropped), self.position.clone());
            self.events.push_back(Event::Frame(Frame::Lag { dropped, resumes_after }));
        }
    }
}

impl Local {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Announces a connection. Envelopes that the subscriber already has are not sent again.
    fn attach(&self, resumes_after: Option<Position>) {
        let mut queue = self.lock();
        queue.say_lag();
        queue.attached = true;
        let after = match (&queue.position, resumes_after) {
            (Some(own), Some(after)) if own.same_epoch(&after) && after.offset() <= own.offset() => {
                Some(own.clone())
            }
            (own, after) => {
                if own.is_none() {
                    queue.position.clone_from(&after);
                }
                after
            }
        };
        self.add(&mut queue, Event::Opened);
        self.add(&mut queue, Event::Frame(Frame::Connected { resumes_after: after }));
    }

    fn gap(&self, cause: &GapCause, missed: Option<u64>, resumes_after: &Position) {
        let mut queue = self.lock();
        queue.say_lag();
        let missed = match &queue.position {
            Some(own) if own.same_epoch(resumes_after) && own.offset() == resumes_after.offset() => {
                // The subscriber has everything up to there. But one that asked for the oldest must learn what was lost
                // before.
                if self.start != Start::Oldest || missed.is_none_or(|missed| missed == 0) {
                    return;
                }
                missed
            }
            Some(own) if own.same_epoch(resumes_after) => {
                resumes_after.offset().checked_sub(own.offset()).or(missed)
            }
            _ => missed,
        };
        queue.position = Some(resumes_after.clone());
        let (cause, resumes_after) = (cause.clone(), resumes_after.clone());
        self.add(&mut queue, Event::Frame(Frame::Gap { cause, missed, resumes_after }));
    }

    fn publication(&self, position: Option<&Position>, data: &bytes::Bytes) {
        let mut queue = self.lock();
        if !queue.attached {
            return;
        }
        if let (Some(own), Some(position)) = (&queue.position, position)
            && own.same_epoch(position)
            && position.offset() <= own.offset()
        {
            return;
        }
        if position.is_some() {
            queue.position = position.cloned();
        }
        // Once an envelope was dropped, all are dropped until the queue has been read: this keeps the order, and one
        // count is enough.
        if queue.dropped > 0 || queue.is_full(self.most) {
            queue.dropped += 1;
            return;
        }
        queue.bytes += data.len();
        let (position, envelope) = (position.cloned(), data.clone());
        self.add(&mut queue, Event::Frame(Frame::Envelope { position, envelope }));
    }

    /// Until when the connection waits for room in the queue, if it does.
    fn is_waited_for(&self) -> Option<Instant> {
        let mut queue = self.lock();
        // What is dropped anyway is not waited for.
        if queue.closed || queue.dropped > 0 || !queue.is_full(self.most) {
            return None;
        }
        let (since, _) = *queue.pressed.get_or_insert((Instant::now(), 0));
        Some(since + PATIENCE).filter(|until| *until > Instant::now())
    }

    fn push(&self, event: Event) {
        let mut queue = self.lock();
        queue.say_lag();
        self.add(&mut queue, event);
    }

    /// Adds an event other than an envelope, even to a full queue. There is a limit for readers that never come.
    fn add(&self, queue: &mut Queue, event: Event) {
        if queue.events.len() >= self.most * 2 + 16 {
            let lost = queue.events.drain(..).map(|event| match event {
                Event::Frame(Frame::Envelope { .. }) => 1,
                Event::Frame(Frame::Lag { dropped, .. }) => dropped,
                _ => 0,
            });
            queue.dropped += lost.sum::<u64>();
            queue.bytes = 0;
        }
        queue.events.push_back(event);
        if let Some(waker) = queue.waker.take() {
            waker.wake();
        }
    }

    fn close(&self) {
        let mut queue = self.lock();
        queue.closed = true;
        if let Some(waker) = queue.waker.take() {
            waker.wake();
        }
        self.room.notify_one();
    }

    pub(super) fn poll(&self, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        let mut queue = self.lock();
        if let Some(event) = queue.events.pop_front() {
            if let Event::Frame(Frame::Envelope { envelope, .. }) = &event {
                queue.bytes = queue.bytes.saturating_sub(envelope.len());
            }
            if let Some((_, taken)) = &mut queue.pressed {
                *taken += 1;
                let enough = *taken >= self.most;
                if enough || queue.events.is_empty() {
                    queue.pressed = None;
                }
                self.room.notify_one();
            }
            return Poll::Ready(Some(event));
        }
        if queue.dropped > 0 {
            let dropped = std::mem::take(&mut queue.dropped);
            let resumes_after = queue.position.clone();
            return Poll::Ready(Some(Event::Frame(Frame::Lag { dropped, resumes_after })));
        }
        if queue.closed {
            return Poll::Ready(None);
        }
        queue.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

fn from(start: &Start) -> From {
    match start {
        Start::Latest => From::Latest,
        Start::Oldest => From::Oldest,
        Start::After(position) => From::After(position.clone()),
    }
}

fn ended(end: &End) -> Error {
    let kind = match end.kind {
        EndKind::Denied => ErrorKind::Denied,
        EndKind::NotFound => ErrorKind::NotFound,
        _ => ErrorKind::Failed,
    };
    Error::Ended { kind, reason: end.reason.clone() }
}
