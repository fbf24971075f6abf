//! A bus in memory: a queue for each subscription, without delivery guarantees.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use relay_proto::bus::{
    BusReference, BusSpec, ChannelReference, ChannelSpec, Message, ResolvedParameters, SubscriptionReference,
    SubscriptionSpec,
};
use tokio::sync::{Notify, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::delivery::{Channels, Delivery, Step, Target};
use super::drops::TELL;
use super::{Engine, EngineOptions, Outbound, lock};
use crate::dispatcher::MessageDispatcher;
use crate::events::{DropReason, Event};
use crate::handler::{HandlerError, MonitorHandler};
use crate::metrics::Metrics;
use crate::monitor::Monitor;
use crate::receiver::{Receive, ReceiveError};

/// A bus whose messages wait in memory. **It does not guarantee delivery**: a full queue drops the new message for
/// its subscription, and queued messages are lost when the process ends. Both are reported.
///
/// It is a [`MonitorHandler`] and a [`Receive`]. Cheap to clone.
#[derive(Clone)]
pub struct MemoryEngine(Arc<Inner>);

struct Inner {
    out: Outbound,
    ready: AtomicBool,
    channels: RwLock<BTreeMap<ChannelReference, Arc<Routes>>>,
    routes: Mutex<BTreeMap<SubscriptionReference, Arc<Route>>>,
    /// Messages queued or in progress.
    held: AtomicU64,
    idle: Notify,
}

type Routes = RwLock<Vec<Arc<Route>>>;

/// One subscription and its queue.
struct Route {
    target: Target,
    lanes: Mutex<Lanes>,
    /// The tasks that deliver: at most as many as concurrent calls are allowed, and none while there are no messages.
    tasks: TaskTracker,
    /// Messages queued or in progress, and their bytes.
    held: AtomicUsize,
    bytes: AtomicUsize,
    stop: CancellationToken,
}

/// Messages that wait for a slot, and slots that wait for a message: never both.
struct Lanes {
    waiting: VecDeque<Queued>,
    /// Messages whose delay between two attempts is over. They go first.
    resuming: VecDeque<oneshot::Sender<()>>,
    /// The number of free slots.
    free: usize,
    closed: bool,
}

/// A message and its share of the limits.
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
        self.inner.out.metrics.queued.fetch_sub(1, Ordering::Relaxed);
        if self.inner.held.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.inner.idle.notify_waiters();
        }
    }
}

impl MemoryEngine {
    /// An engine without channels. `tell` is called for every event of messages, and must not block.
    pub fn new(
        dispatcher: MessageDispatcher,
        options: EngineOptions,
        metrics: Arc<Metrics>,
        tell: impl Fn(&Event) + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(Inner {
            out: Outbound { dispatcher, options, metrics, tell: Box::new(tell) },
            ready: AtomicBool::new(false),
            channels: RwLock::default(),
            routes: Mutex::default(),
            held: AtomicU64::new(0),
            idle: Notify::new(),
        }))
    }
}

impl Engine for MemoryEngine {
    fn set_ready(&self) {
        self.0.ready.store(true, Ordering::Release);
    }

    async fn attend(&self, _: &Monitor<Self>) {
        loop {
            tokio::time::sleep(TELL).await;
            self.0.flush_drops(false);
        }
    }

    async fn drain(&self, patience: Duration) -> u64 {
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
        self.0.flush_drops(true);
        let count = self.0.held.load(Ordering::Acquire);
        let routes = std::mem::take(&mut *lock(&self.0.routes));
        for route in routes.into_values() {
            route.end().await;
        }
        if count > 0 {
            (self.0.out.tell)(&Event::Unsent { count });
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
        (self.out.tell)(&Event::Received { channel: channel.clone() });
        for route in &*routes.read().unwrap_or_else(PoisonError::into_inner) {
            self.queue(route, message);
        }
        Ok(())
    }

    fn queue(self: &Arc<Self>, route: &Arc<Route>, message: &Message) {
        let size = message.size();
        let bytes = route.bytes.fetch_add(size, Ordering::AcqRel);
        let held = route.held.fetch_add(1, Ordering::AcqRel);
        self.out.metrics.queued.fetch_add(1, Ordering::Relaxed);
        self.held.fetch_add(1, Ordering::AcqRel);
        // Released on drop, whatever the outcome of the message.
        let place = Place { inner: self.clone(), route: route.clone(), size };
        let fits = (bytes + size <= self.out.options.queue_bytes || bytes == 0) && held < self.room();
        if !fits {
            drop(place);
            return route.target.dropped(&self.out, DropReason::QueueFull);
        }
        let queued = Queued { message: message.clone(), _place: place };
        let mut lanes = lock(&route.lanes);
        // Messages for a removed subscription are dropped silently.
        if lanes.closed {
            return;
        }
        if lanes.free == 0 {
            return lanes.waiting.push_back(queued);
        }
        lanes.free -= 1;
        drop(lanes);
        start(self, route, queued);
    }

    fn flush_drops(&self, all: bool) {
        let routes: Vec<_> = lock(&self.routes).values().cloned().collect();
        routes.iter().for_each(|route| route.target.flush_drops(&self.out, all));
    }

    /// Limit of messages of a subscription, queued and in progress.
    fn room(&self) -> usize {
        self.out.options.queue.saturating_add(self.out.options.in_flight.max(1))
    }
}

impl Channels for Arc<Inner> {
    fn has(&self, channel: &ChannelReference) -> bool {
        self.routes_of(channel).is_some()
    }

    async fn hand_over(&self, channel: &ChannelReference, message: &Message) -> Result<(), ReceiveError> {
        self.accept(channel, message)
    }
}

impl Route {
    /// The next message for a slot that has finished one. `None` when the slot became free, or went to a retry.
    fn next(&self) -> Option<Queued> {
        let mut lanes = lock(&self.lanes);
        while let Some(resuming) = lanes.resuming.pop_front() {
            if resuming.send(()).is_ok() {
                return None;
            }
        }
        let next = lanes.waiting.pop_front();
        lanes.free += usize::from(next.is_none());
        next
    }

    /// Waits for a slot.
    async fn slot(&self) {
        let (free, freed) = oneshot::channel();
        {
            let mut lanes = lock(&self.lanes);
            if lanes.free > 0 {
                lanes.free -= 1;
                return;
            }
            lanes.resuming.push_back(free);
        }
        // This fails only when the route ends, and this task ends with it.
        let _ = freed.await;
    }

    /// Ends deliveries in progress, and drops queued messages. Nothing is sent after that.
    async fn end(&self) {
        self.stop.cancel();
        let waiting = {
            let mut lanes = lock(&self.lanes);
            lanes.closed = true;
            std::mem::take(&mut lanes.waiting)
        };
        drop(waiting);
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// Starts a task that delivers this message and then the queued ones; the slot was reserved by the caller.
fn start(inner: &Arc<Inner>, route: &Arc<Route>, first: Queued) {
    route.tasks.spawn(work(inner.clone(), route.clone(), first));
}

/// Delivers one message after the other, until the queue is empty.
async fn work(inner: Arc<Inner>, route: Arc<Route>, first: Queued) {
    let all = async {
        let mut next = Some(first);
        while let Some(queued) = next {
            deliver(&inner, &route, queued).await;
            next = route.next();
        }
    };
    tokio::select! {
        biased;
        () = route.stop.cancelled() => {}
        () = all => {}
    }
}

/// Delivers a message, or gives it up. Between attempts its slot is free for others, unless the order must be kept.
async fn deliver(inner: &Arc<Inner>, route: &Arc<Route>, queued: Queued) {
    let mut delivery = Delivery::new(&inner.out, inner, &route.target, &queued.message, 0);
    loop {
        match delivery.step().await {
            Step::Next => {}
            Step::Done => return,
            Step::Again(delay) if inner.out.options.in_flight > 1 => {
                if let Some(other) = route.next() {
                    start(inner, route, other);
                }
                tokio::time::sleep(delay).await;
                route.slot().await;
            }
            Step::Again(delay) => tokio::time::sleep(delay).await,
            Step::GivenUp(failure) => {
                delivery.bury(&failure, 1).await;
                return;
            }
        }
    }
}

impl MonitorHandler for MemoryEngine {
    async fn bus(&self, _: &BusReference, _: &BusSpec) -> Result<(), HandlerError> {
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
        self.0.out.metrics.channels.store(channels.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    async fn unprovision(&self, channel: &ChannelReference) -> Result<(), HandlerError> {
        let mut channels = self.0.channels.write().unwrap_or_else(PoisonError::into_inner);
        channels.remove(channel);
        self.0.out.metrics.channels.store(channels.len() as u64, Ordering::Relaxed);
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
        if let Some(route) = routes.get(subscription).filter(|route| route.target.channel == *channel) {
            route.target.set_spec(spec);
            return Ok(());
        }
        let Some(of_channel) = self.0.routes_of(channel) else {
            return Err(HandlerError::failed(format!("unknown channel {channel}")));
        };
        let route = Arc::new(Route {
            target: Target::new(channel, subscription, spec),
            lanes: Mutex::new(Lanes {
                waiting: VecDeque::new(),
                resuming: VecDeque::new(),
                free: self.0.out.options.in_flight.max(1),
                closed: false,
            }),
            tasks: TaskTracker::new(),
            held: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            stop: CancellationToken::new(),
        });
        of_channel.write().unwrap_or_else(PoisonError::into_inner).push(route.clone());
        routes.insert(subscription.clone(), route);
        self.0.out.metrics.subscriptions.store(routes.len() as u64, Ordering::Relaxed);
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
            self.0.out.metrics.subscriptions.store(routes.len() as u64, Ordering::Relaxed);
            removed
        };
        let Some(route) = removed else { return Ok(()) };
        if let Some(routes) = self.0.routes_of(&route.target.channel) {
            let mut routes = routes.write().unwrap_or_else(PoisonError::into_inner);
            routes.retain(|other| other.target.subscription != *subscription);
        }
        let count = route.held.load(Ordering::Acquire);
        route.end().await;
        route.target.flush_drops(&self.0.out, true);
        if count > 0 {
            tracing::warn!(%subscription, count, "messages of a subscription that went are lost");
        }
        Ok(())
    }
}

impl std::fmt::Debug for MemoryEngine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryEngine").field("options", &self.0.out.options).finish_non_exhaustive()
    }
}
