//! A bus in memory: a queue for each subscription, and no promise.

mod delivery;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use relay_proto::bus::{
    BusReference, ChannelReference, ChannelSpec, Message, ResolvedParameters, SubscriptionReference,
    SubscriptionSpec, check_cloudevent,
};
use relay_proto::setters;
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::dispatcher::MessageDispatcher;
use crate::events::{DropReason, Event};
use crate::handler::{HandlerError, MonitorHandler};
use crate::metrics::Metrics;
use crate::receiver::{Receive, ReceiveError};

/// Settings of a [`MemoryEngine`]: `EngineOptions::default()` and setters named like the fields.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct EngineOptions {
    /// Calls at a time, for each subscription. Default 64; 1 keeps the order.
    pub in_flight: usize,
    /// Messages that wait, for each subscription. Default 1,024.
    pub queue: usize,
    /// Bytes of messages that wait or are under way, for each subscription. Default 64 MiB.
    pub queue_bytes: usize,
    /// Tries for each message and subscription. Default 1; 0 is no limit.
    pub max_deliver: u32,
    /// The delay before the second try; it doubles up to a minute. Default 1 s.
    pub retry_delay: Duration,
    /// Where messages go that were given up. Default nowhere: that is told.
    pub dead_letter: Option<String>,
    /// Whether replies that are no CloudEvents are dropped. Default no.
    pub require_cloudevents: bool,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            in_flight: 64,
            queue: 1024,
            queue_bytes: 64 << 20,
            max_deliver: 1,
            retry_delay: Duration::from_secs(1),
            dead_letter: None,
            require_cloudevents: false,
        }
    }
}

setters! { EngineOptions {
    /// Sets the calls at a time.
    in_flight: usize,
    /// Sets the messages that wait.
    queue: usize,
    /// Sets the bytes that are held.
    queue_bytes: usize,
    /// Sets the tries.
    max_deliver: u32,
    /// Sets the delay before the second try.
    retry_delay: Duration,
    /// Sets where messages go that were given up.
    dead_letter: Option<String>,
    /// Sets whether replies must be CloudEvents.
    require_cloudevents: bool,
} }

/// Dropped messages are told at most so often for each subscription and reason.
const TELL: Duration = Duration::from_secs(1);

/// A bus whose messages wait in memory. **It promises no delivery**: a queue that is full drops the new message for
/// that one subscription, and what waits when the process ends is lost. Both are told.
///
/// It is a [`MonitorHandler`], which says what there is, and a [`Receive`], which says what comes. Cheap to clone.
#[derive(Clone)]
pub struct MemoryEngine(Arc<Inner>);

pub(crate) struct Inner {
    dispatcher: MessageDispatcher,
    options: EngineOptions,
    metrics: Arc<Metrics>,
    tell: Box<dyn Fn(&Event) + Send + Sync>,
    ready: AtomicBool,
    channels: RwLock<BTreeMap<ChannelReference, Arc<Routes>>>,
    routes: Mutex<BTreeMap<SubscriptionReference, Working>>,
    /// Messages that wait or are under way.
    held: AtomicU64,
    idle: Notify,
}

type Routes = RwLock<Vec<Arc<Route>>>;
/// A queue and what empties it.
type Working = (Arc<Route>, JoinHandle<()>);

/// One subscription and its queue.
pub(crate) struct Route {
    channel: ChannelReference,
    subscription: SubscriptionReference,
    spec: Mutex<Arc<SubscriptionSpec>>,
    queue: mpsc::Sender<Queued>,
    /// Messages, and their bytes, that wait or are under way.
    held: AtomicUsize,
    bytes: AtomicUsize,
    drops: Mutex<[(u64, Option<Instant>); 3]>,
    stop: CancellationToken,
}

/// A message with its place among those that are held.
struct Queued {
    message: Message,
    _place: Place,
}

struct Place {
    inner: Arc<Inner>,
    route: Arc<Route>,
    size: usize,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.route.held.fetch_sub(1, Ordering::AcqRel);
        self.route.bytes.fetch_sub(self.size, Ordering::AcqRel);
        self.inner.metrics.queued.fetch_sub(1, Ordering::Relaxed);
        if self.inner.held.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.inner.idle.notify_waiters();
        }
    }
}

impl MemoryEngine {
    /// An engine without channels. `tell` is called for everything that happens to messages, and must not block.
    pub fn new(
        dispatcher: MessageDispatcher,
        options: EngineOptions,
        metrics: Arc<Metrics>,
        tell: impl Fn(&Event) + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(Inner {
            dispatcher,
            options,
            metrics,
            tell: Box::new(tell),
            ready: AtomicBool::new(false),
            channels: RwLock::default(),
            routes: Mutex::default(),
            held: AtomicU64::new(0),
            idle: Notify::new(),
        }))
    }

    /// From now on messages are taken; before that they are refused as `not-ready`.
    pub fn set_ready(&self) {
        self.0.ready.store(true, Ordering::Release);
    }

    /// Tells of dropped messages that were not told of yet, about once a second, for ever.
    pub async fn tell_drops(&self) {
        loop {
            tokio::time::sleep(TELL).await;
            self.0.flush_drops(false);
        }
    }

    /// Lets what waits be sent for at most this long; then ends everything. What is lost is told, and returned.
    pub async fn drain(&self, patience: Duration) -> u64 {
        let all_sent = async {
            loop {
                let idle = self.0.idle.notified();
                if self.0.held.load(Ordering::Acquire) == 0 {
                    return;
                }
                idle.await;
            }
        };
        let _ = tokio::time::timeout(patience, all_sent).await;
        let count = self.0.held.load(Ordering::Acquire);
        let routes = std::mem::take(&mut *lock(&self.0.routes));
        for (route, worker) in routes.into_values() {
            route.stop.cancel();
            let _ = worker.await;
        }
        self.0.flush_drops(true);
        if count > 0 {
            (self.0.tell)(&Event::Unsent { count });
        }
        count
    }
}

impl Receive for MemoryEngine {
    async fn receive(&self, channel: &ChannelReference, message: Message) -> Result<(), ReceiveError> {
        self.0.accept(channel, &message)
    }

    fn check(&self, channel: &ChannelReference) -> Result<(), ReceiveError> {
        if !self.0.ready.load(Ordering::Acquire) {
            return Err(ReceiveError::NotReady);
        }
        if self.0.routes_of(channel).is_none() { Err(ReceiveError::UnknownChannel) } else { Ok(()) }
    }
}

impl Inner {
    fn routes_of(&self, channel: &ChannelReference) -> Option<Arc<Routes>> {
        self.channels.read().unwrap_or_else(PoisonError::into_inner).get(channel).cloned()
    }

    /// Queues a message for each subscription of a channel.
    fn accept(self: &Arc<Self>, channel: &ChannelReference, message: &Message) -> Result<(), ReceiveError> {
        let routes = self.routes_of(channel).ok_or(ReceiveError::UnknownChannel)?;
        (self.tell)(&Event::Received { channel: channel.clone() });
        for route in &*routes.read().unwrap_or_else(PoisonError::into_inner) {
            self.queue(route, message);
        }
        Ok(())
    }

    fn queue(self: &Arc<Self>, route: &Arc<Route>, message: &Message) {
        let size = message.size();
        let bytes = route.bytes.fetch_add(size, Ordering::AcqRel);
        let held = route.held.fetch_add(1, Ordering::AcqRel);
        self.metrics.queued.fetch_add(1, Ordering::Relaxed);
        self.held.fetch_add(1, Ordering::AcqRel);
        // Given back when it is dropped, whatever becomes of the message.
        let place = Place { inner: self.clone(), route: route.clone(), size };
        let fits = (bytes + size <= self.options.queue_bytes || bytes == 0) && held < self.room();
        if !fits || route.queue.try_send(Queued { message: message.clone(), _place: place }).is_err() {
            self.dropped(route, DropReason::QueueFull);
        }
    }

    fn dropped(&self, route: &Route, reason: DropReason) {
        self.metrics.dropped(reason);
        let mut drops = lock(&route.drops);
        drops[reason as usize].0 += 1;
        if drops[reason as usize].1.is_none_or(|told| told.elapsed() >= TELL) {
            self.tell_drop(route, reason, &mut drops[reason as usize]);
        }
    }

    fn tell_drop(&self, route: &Route, reason: DropReason, entry: &mut (u64, Option<Instant>)) {
        let count = std::mem::take(&mut entry.0);
        entry.1 = Some(Instant::now());
        let (channel, subscription) = (route.channel.clone(), route.subscription.clone());
        (self.tell)(&Event::Dropped { channel, subscription, reason, count });
    }

    fn flush_drops(&self, all: bool) {
        let routes: Vec<_> = lock(&self.routes).values().map(|(route, _)| route.clone()).collect();
        for route in routes {
            let mut drops = lock(&route.drops);
            for reason in DropReason::ALL {
                let entry = &mut drops[reason as usize];
                if entry.0 > 0 && (all || entry.1.is_none_or(|told| told.elapsed() >= TELL)) {
                    self.tell_drop(&route, reason, entry);
                }
            }
        }
    }
}

/// Takes messages from a queue for as long as there are slots.
async fn work(inner: Arc<Inner>, route: Arc<Route>, mut queue: mpsc::Receiver<Queued>) {
    let slots = Arc::new(Semaphore::new(inner.options.in_flight.max(1)));
    let mut calls = JoinSet::new();
    loop {
        let next = async {
            let slot = slots.clone().acquire_owned().await.ok()?;
            Some((slot, queue.recv().await?))
        };
        let (slot, queued) = tokio::select! {
            () = route.stop.cancelled() => break,
            next = next => match next {
                Some(next) => next,
                None => break,
            },
        };
        calls.spawn(delivery::deliver(inner.clone(), route.clone(), queued, slot, slots.clone()));
        while calls.try_join_next().is_some() {}
    }
    // Nothing is sent to a subscription that is gone.
    calls.shutdown().await;
}

impl MonitorHandler for MemoryEngine {
    async fn bus(&self, _: &BusReference, _: &relay_proto::bus::BusSpec) -> Result<(), HandlerError> {
        Ok(())
    }

    async fn provision(
        &self,
        channel: &ChannelReference,
        _: &ChannelSpec,
        _: &ResolvedParameters,
    ) -> Result<(), HandlerError> {
        let mut channels = self.0.channels.write().unwrap_or_else(PoisonError::into_inner);
        channels.entry(channel.clone()).or_default();
        self.0.metrics.channels.store(channels.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    async fn unprovision(&self, channel: &ChannelReference) -> Result<(), HandlerError> {
        let mut channels = self.0.channels.write().unwrap_or_else(PoisonError::into_inner);
        channels.remove(channel);
        self.0.metrics.channels.store(channels.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    async fn subscribe(
        &self,
        subscription: &SubscriptionReference,
        channel: &ChannelReference,
        spec: &SubscriptionSpec,
        _: &ResolvedParameters,
    ) -> Result<(), HandlerError> {
        let spec = Arc::new(spec.clone());
        let mut routes = lock(&self.0.routes);
        if let Some((route, _)) = routes.get(subscription).filter(|(route, _)| route.channel == *channel) {
            *lock(&route.spec) = spec;
            return Ok(());
        }
        let Some(of_channel) = self.0.routes_of(channel) else {
            return Err(HandlerError::failed(format!("unknown channel {channel}")));
        };
        let (queue, waiting) = mpsc::channel(self.0.room().min(Semaphore::MAX_PERMITS));
        let route = Arc::new(Route {
            channel: channel.clone(),
            subscription: subscription.clone(),
            spec: Mutex::new(spec),
            queue,
            held: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            drops: Mutex::default(),
            stop: CancellationToken::new(),
        });
        let worker = tokio::spawn(work(self.0.clone(), route.clone(), waiting));
        of_channel.write().unwrap_or_else(PoisonError::into_inner).push(route.clone());
        routes.insert(subscription.clone(), (route, worker));
        self.0.metrics.subscriptions.store(routes.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    async fn unsubscribe(
        &self,
        subscription: &SubscriptionReference,
        _: &ChannelReference,
    ) -> Result<(), HandlerError> {
        let removed = {
            let mut routes = lock(&self.0.routes);
            let removed = routes.remove(subscription);
            self.0.metrics.subscriptions.store(routes.len() as u64, Ordering::Relaxed);
            removed
        };
        let Some((route, worker)) = removed else { return Ok(()) };
        if let Some(routes) = self.0.routes_of(&route.channel) {
            let mut routes = routes.write().unwrap_or_else(PoisonError::into_inner);
            routes.retain(|other| other.subscription != *subscription);
        }
        route.stop.cancel();
        let _ = worker.await;
        Ok(())
    }
}

impl std::fmt::Debug for MemoryEngine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryEngine").field("options", &self.0.options).finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Inner {
    /// Messages that a subscription may hold: those that wait, and those under way.
    fn room(&self) -> usize {
        self.options.queue.saturating_add(self.options.in_flight.max(1))
    }

    /// Whether a reply may go on.
    fn is_taken(&self, reply: &Message) -> bool {
        !self.options.require_cloudevents || check_cloudevent(reply).is_ok()
    }
}
