//! A transport within a process.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use futures_util::Stream;
use futures_util::future::{BoxFuture, FutureExt};
use relay_proto::parsec::{Envelope, GapReason, Position, PresenceEntry};
use relay_state::sequences::{Frame, GapCause};

use crate::{
    Error, Event, Feed, HistoryItem, HistoryOptions, Presence, PublishFailure, Receipt, Start, Transport,
};

/// Channels within this process: for tests, and for programs that are their own server. Clones share the channels.
///
/// A channel retains its newest envelopes, by default 1,000 and 16 MiB of them. A subscriber that is further behind
/// than a queue holds, by default 64, loses the oldest of them: a [`Frame::Lag`] counts them.
#[derive(Clone)]
pub struct MemoryTransport {
    shared: Arc<Mutex<Channels>>,
    queue: usize,
    retain: usize,
    retain_bytes: usize,
}

#[derive(Default)]
struct Channels {
    closed: bool,
    clients: u64,
    channels: HashMap<String, Channel>,
}

struct Channel {
    /// Position 0 of its epoch.
    genesis: Position,
    head: u64,
    log: VecDeque<Bytes>,
    bytes: usize,
    subscribers: HashMap<u64, Option<Waker>>,
}

impl Channel {
    fn base(&self) -> u64 {
        self.head - self.log.len() as u64
    }

    fn get(&self, offset: u64) -> Option<Bytes> {
        let at = offset.checked_sub(self.base() + 1)?;
        self.log.get(usize::try_from(at).ok()?).cloned()
    }
}

impl Default for MemoryTransport {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryTransport {
    /// A transport without channels.
    pub fn new() -> Self {
        Self { shared: Arc::default(), queue: 64, retain: 1000, retain_bytes: 16 << 20 }
    }

    /// Sets how far a subscriber may be behind, in envelopes; at least 1. Default 64.
    #[must_use]
    pub fn queue(mut self, envelopes: usize) -> Self {
        self.queue = envelopes.max(1);
        self
    }

    /// Sets how many envelopes, and bytes of them, a channel keeps. Default 1,000 and 16 MiB.
    #[must_use]
    pub fn retain(mut self, envelopes: usize, bytes: usize) -> Self {
        (self.retain, self.retain_bytes) = (envelopes, bytes);
        self
    }

    fn lock(&self) -> MutexGuard<'_, Channels> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Channels {
    fn open(&mut self, name: &str) -> &mut Channel {
        self.channels.entry(name.to_owned()).or_insert_with(|| Channel {
            genesis: Position::new(format!("m{:016x}", crate::publisher::random_seed()), 0),
            head: 0,
            log: VecDeque::new(),
            bytes: 0,
            subscribers: HashMap::new(),
        })
    }
}

impl Transport for MemoryTransport {
    fn name(&self) -> &'static str {
        "memory"
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        let mut channels = self.lock();
        channels.closed = true;
        let wakers = channels.channels.values_mut().flat_map(|channel| channel.subscribers.values_mut());
        let wakers: Vec<Waker> = wakers.filter_map(Option::take).collect();
        drop(channels);
        wakers.into_iter().for_each(Waker::wake);
        std::future::ready(()).boxed()
    }

    fn publish<'a>(
        &'a self,
        name: &'a str,
        envelope: Bytes,
    ) -> BoxFuture<'a, Result<Receipt, PublishFailure>> {
        let mut channels = self.lock();
        if channels.closed {
            return std::future::ready(Err(PublishFailure::Refused(Error::Closed))).boxed();
        }
        let (retain, retain_bytes) = (self.retain.max(self.queue), self.retain_bytes);
        let channel = channels.open(name);
        channel.head += 1;
        channel.bytes += envelope.len();
        channel.log.push_back(envelope);
        while channel.log.len() > retain || (channel.bytes > retain_bytes && channel.log.len() > 1) {
            channel.bytes -= channel.log.pop_front().map_or(0, |oldest| oldest.len());
        }
        let position = channel.genesis.at(channel.head);
        let wakers: Vec<Waker> = channel.subscribers.values_mut().filter_map(Option::take).collect();
        drop(channels);
        wakers.into_iter().for_each(Waker::wake);
        std::future::ready(Ok(Receipt::new(position, false))).boxed()
    }

    fn subscribe<'a>(&'a self, name: &'a str, start: Start) -> BoxFuture<'a, Result<Box<dyn Feed>, Error>> {
        let mut channels = self.lock();
        if channels.closed {
            return std::future::ready(Err(Error::Closed)).boxed();
        }
        channels.clients += 1;
        let client = channels.clients;
        let channel = channels.open(name);
        channel.subscribers.insert(client, None);
        let (history, asked) = (channel.head, matches!(start, Start::After(_)));
        // The subscription receives what is published from now on, even before its feed is read.
        let start = match start {
            Start::Latest => Start::After(channel.genesis.at(channel.head)),
            other => other,
        };
        let feed = MemoryFeed {
            transport: self.clone(),
            channel: name.to_owned(),
            client,
            start,
            history,
            asked,
            queued: VecDeque::new(),
            place: None,
        };
        std::future::ready(Ok(Box::new(feed) as Box<dyn Feed>)).boxed()
    }

    fn history<'a>(
        &'a self,
        name: &'a str,
        options: &'a HistoryOptions,
    ) -> BoxFuture<'a, Result<Vec<HistoryItem>, Error>> {
        let channels = self.lock();
        let mut items = Vec::new();
        if let Some(channel) = channels.channels.get(name) {
            let limit = options.limit.unwrap_or(u32::MAX) as usize;
            for (back, bytes) in channel.log.iter().rev().enumerate() {
                if items.len() == limit {
                    break;
                }
                let takes =
                    |envelope: &Envelope| options.takes(envelope.producer().id(), envelope.sequence());
                let item =
                    HistoryItem::decode(Some(channel.genesis.at(channel.head - back as u64)), bytes.clone());
                if item.envelope.as_ref().is_ok_and(takes) {
                    items.push(item);
                }
            }
        }
        items.reverse();
        std::future::ready(Ok(items)).boxed()
    }

    fn presence<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Presence, Error>> {
        let channels = self.lock();
        let mut clients: Vec<u64> = channels
            .channels
            .get(name)
            .map_or(Vec::new(), |channel| channel.subscribers.keys().copied().collect());
        clients.sort_unstable();
        let entry = |client: &u64| PresenceEntry::new("anonymous", &client.to_string(), None);
        std::future::ready(Ok(Presence::named(clients.iter().map(entry).collect()))).boxed()
    }
}

struct MemoryFeed {
    transport: MemoryTransport,
    channel: String,
    client: u64,
    start: Start,
    /// The head when the feed was opened. Envelopes up to it are history, which is kept for the reader.
    history: u64,
    /// Whether the start is a position that the caller gave, and not one of this feed.
    asked: bool,
    /// Events that have not been returned yet.
    queued: VecDeque<Event>,
    /// Everything up to this offset was returned.
    place: Option<u64>,
}

impl MemoryFeed {
    fn begin(&mut self, channel: &Channel) {
        let (base, head) = (channel.base(), channel.head);
        let mut gap = None;
        let offset = match &self.start {
            Start::Latest => head,
            Start::Oldest => base,
            Start::After(after) if !after.same_epoch(&channel.genesis) => {
                gap = Some((GapReason::EpochChanged, None));
                base
            }
            Start::After(after) if after.offset() > head => {
                gap = Some((GapReason::UnknownPosition, None));
                base
            }
            Start::After(after) if after.offset() < base && self.asked => {
                gap = Some((GapReason::Trimmed, Some(base - after.offset())));
                base
            }
            Start::After(after) => after.offset(),
        };
        let resumes_after = channel.genesis.at(offset);
        self.queued.push_back(Event::Opened);
        self.queued.push_back(Event::Frame(Frame::Connected { resumes_after: Some(resumes_after.clone()) }));
        if let Some((reason, missed)) = gap {
            let cause = GapCause::Server(reason);
            self.queued.push_back(Event::Frame(Frame::Gap { cause, missed, resumes_after }));
        }
        self.asked = false;
        self.place = Some(offset);
    }
}

impl Stream for MemoryFeed {
    type Item = Event;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        let this = self.get_mut();
        if let Some(event) = this.queued.pop_front() {
            return Poll::Ready(Some(event));
        }
        let transport = this.transport.clone();
        let mut channels = transport.lock();
        if channels.closed {
            return Poll::Ready(None);
        }
        let Some(channel) = channels.channels.get_mut(&this.channel) else { return Poll::Ready(None) };
        let Some(place) = &mut this.place else {
            this.begin(channel);
            return Poll::Ready(this.queued.pop_front());
        };
        // A reader of the history loses only what the channel has dropped; after the history, also what its queue
        // cannot hold.
        let mut reachable = channel.base();
        if *place >= this.history {
            reachable = reachable.max(channel.head.saturating_sub(transport.queue as u64)).max(this.history);
        }
        if *place < reachable {
            let dropped = reachable - *place;
            *place = reachable;
            let resumes_after = Some(channel.genesis.at(reachable));
            return Poll::Ready(Some(Event::Frame(Frame::Lag { dropped, resumes_after })));
        }
        match channel.get(*place + 1) {
            Some(envelope) => {
                *place += 1;
                let position = Some(channel.genesis.at(*place));
                Poll::Ready(Some(Event::Frame(Frame::Envelope { position, envelope })))
            }
            None => {
                channel.subscribers.insert(this.client, Some(cx.waker().clone()));
                Poll::Pending
            }
        }
    }
}

impl Feed for MemoryFeed {
    fn resume(&mut self, after: Option<&Position>) {
        if let Some(after) = after {
            self.start = Start::After(after.clone());
        }
        self.place = None;
    }

    fn restart(&mut self, reason: &str) {
        let delay = std::time::Duration::ZERO;
        self.queued.clear();
        self.queued.push_back(Event::Waiting { reason: reason.to_owned(), delay });
        self.place = None;
    }
}

impl Drop for MemoryFeed {
    fn drop(&mut self) {
        let mut channels = self.transport.lock();
        if let Some(channel) = channels.channels.get_mut(&self.channel) {
            channel.subscribers.remove(&self.client);
        }
    }
}

impl fmt::Debug for MemoryTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryTransport")
            .field("channels", &self.lock().channels.len())
            .finish_non_exhaustive()
    }
}
