//! A bus on NATS JetStream: messages answered with 202 are stored, and are delivered to every subscription at least
//! once.

mod connect;
mod names;
mod outbox;
mod positions;
mod removals;
mod worker;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_nats::Client;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, FromConsumer as _, pull};
use async_nats::jetstream::context::{CreateStreamErrorKind, DeleteStreamErrorKind};
use async_nats::jetstream::stream::{
    Config as StreamConfig, ConsumerError, ConsumerErrorKind, DiscardPolicy, RetentionPolicy, StorageType,
};
use async_nats::jetstream::{Context, ErrorCode};
use futures_util::StreamExt as _;
use relay_proto::bus::{
    BusReference, BusSpec, ChannelReference, ChannelSpec, Message, ResolvedParameters, SubscriptionReference,
    SubscriptionSpec,
};
use relay_proto::retry::{Backoff, Jitter};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub use self::connect::{JetStreamError, NatsOptions};
use self::connect::{Link, PATIENCE, connect};
use self::outbox::{Outbox, Unstored};
use self::removals::{REPORTS, Removals};
use self::worker::{ACK_WAIT, work};
use super::delivery::{Channels, Target};
use super::drops::TELL;
use super::{Engine, EngineOptions, Outbound, lock};
use crate::dispatcher::MessageDispatcher;
use crate::events::Event;
use crate::handler::{HandlerError, MonitorHandler};
use crate::metrics::Metrics;
use crate::monitor::Monitor;
use crate::receiver::{Receive, ReceiveError};

/// A bus whose messages are kept by a NATS server with JetStream, 2.9 or later. A stream for each channel, a durable
/// consumer for each subscription. **Each message that was answered with 202 reaches each subscription at least once**,
/// whatever ends in between, as long as the server keeps its files; a message may come twice, and in another order
/// unless there is one call at a time.
///
/// While NATS is away messages are refused with 503, and calls of the monitor fail; both begin again by themselves.
/// Cheap to clone.
#[derive(Clone)]
pub struct JetStreamEngine(Arc<Inner>);

struct Inner {
    out: Outbound,
    client: Client,
    context: Context,
    outbox: Outbox,
    removals: Removals,
    link: watch::Receiver<Link>,
    ready: AtomicBool,
    /// The first connection was waited for.
    began: AtomicBool,
    state: Mutex<State>,
    /// Wakes the task that requests subscribing again.
    lost: Notify,
    held: AtomicU64,
    idle: Notify,
    /// Cancels deliveries in progress.
    cut: CancellationToken,
}

#[derive(Default)]
struct State {
    channels: BTreeSet<ChannelReference>,
    routes: BTreeMap<SubscriptionReference, Working>,
    /// Channels and subscriptions without a stream or consumer in NATS: until they have one, a message for the
    /// channel would miss a subscription.
    missing_channels: BTreeSet<ChannelReference>,
    missing: BTreeMap<SubscriptionReference, ChannelReference>,
    /// Subscriptions of this process. If the consumer of one is created again, it begins with all stored messages.
    known: BTreeSet<SubscriptionReference>,
    /// Subscriptions that have to subscribe again.
    lost: BTreeSet<SubscriptionReference>,
    /// The number of losses of the connection that were taken into account.
    losses: u64,
}

/// Time limit of the first connection, before calls fail.
const FIRST_CONNECTION: Duration = Duration::from_secs(1);

/// A consumer and its worker.
type Working = (Arc<Route>, JoinHandle<()>);

/// A consumer in NATS.
struct Held {
    config: pull::Config,
    /// The sequence in the stream of the last message that it was given.
    delivered: u64,
}

/// One subscription and its consumer.
struct Route {
    target: Target,
    stream: String,
    durable: String,
    /// Limits the messages that wait for the sending of their reply.
    room: Arc<Semaphore>,
    /// Cancelled when the worker must take no more messages.
    stop: CancellationToken,
    /// Cancelled when deliveries in progress must end, too.
    gone: CancellationToken,
}

impl JetStreamEngine {
    /// An engine without channels. NATS may be unavailable. `tell` is called for every event of messages, and must
    /// not block.
    ///
    /// # Errors
    /// [`JetStreamError`]: errors that a retry cannot correct.
    pub async fn connect(
        nats: &NatsOptions,
        dispatcher: MessageDispatcher,
        options: EngineOptions,
        metrics: Arc<Metrics>,
        tell: impl Fn(&Event) + Send + Sync + 'static,
    ) -> Result<Self, JetStreamError> {
        let (client, link) = connect(nats).await?;
        let mut context = async_nats::jetstream::new(client.clone());
        context.set_timeout(PATIENCE);
        Ok(Self(Arc::new(Inner {
            out: Outbound { dispatcher, options, metrics, tell: Box::new(tell) },
            outbox: Outbox::new(client.clone()),
            client,
            context,
            removals: Removals::default(),
            link,
            ready: AtomicBool::new(false),
            began: AtomicBool::new(false),
            state: Mutex::default(),
            lost: Notify::new(),
            held: AtomicU64::new(0),
            idle: Notify::new(),
            cut: CancellationToken::new(),
        })))
    }
}

impl std::fmt::Debug for JetStreamEngine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JetStreamEngine").field("options", &self.0.out.options).finish_non_exhaustive()
    }
}

impl Engine for JetStreamEngine {
    fn set_ready(&self) {
        self.0.ready.store(true, Ordering::Release);
    }

    fn is_available(&self) -> bool {
        self.0.is_up()
    }

    async fn attend(&self, monitor: &Monitor<Self>) {
        let inner = &self.0;
        let mut link = inner.link.clone();
        let requeue_lost = || {
            for subscription in std::mem::take(&mut lock(&inner.state).lost) {
                monitor.requeue_subscription(&subscription);
            }
        };
        // Without reports a deleted stream is created again later.
        let mut reports = inner.client.subscribe(REPORTS).await.ok();
        loop {
            let report = async {
                match &mut reports {
                    Some(reports) => reports.next().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                report = report => match report {
                    Some(report) => inner.removals.report(&report.payload),
                    // The connection is closed for good.
                    None => reports = None,
                },
                changed = link.changed() => {
                    if changed.is_err() {
                        return std::future::pending().await;
                    }
                    let link = *link.borrow_and_update();
                    if link.up {
                        // Calls that failed while NATS was unavailable are repeated at once.
                        monitor.retry_now();
                        lock(&inner.state).take_into_account(link);
                        requeue_lost();
                    }
                }
                () = inner.lost.notified() => requeue_lost(),
                () = tokio::time::sleep(TELL) => {
                    inner.flush_drops(false);
                    inner.forget_unwanted(monitor);
                }
            }
        }
    }

    async fn drain(&self, patience: Duration) -> u64 {
        let inner = &self.0;
        let workers: Vec<_> = std::mem::take(&mut lock(&inner.state).routes).into_values().collect();
        workers.iter().for_each(|(route, _)| route.stop.cancel());
        let all_sent = async {
            loop {
                let idle = inner.idle.notified();
                if inner.held.load(Ordering::Acquire) == 0 {
                    return;
                }
                idle.await;
            }
        };
        let _ = tokio::time::timeout(patience, all_sent).await;
        let left = inner.held.load(Ordering::Acquire);
        inner.cut.cancel();
        for (route, worker) in workers {
            let _ = worker.await;
            route.target.flush_drops(&inner.out, true);
        }
        if left > 0 {
            tracing::info!(left, "messages under way are left to the next start");
        }
        // The last acks. They are lost at worst, and the messages come again.
        let _ = tokio::time::timeout(Duration::from_millis(500), inner.outbox.flush()).await;
        0
    }
}

impl Receive for JetStreamEngine {
    async fn receive(&self, channel: &ChannelReference, message: Message) -> Result<(), ReceiveError> {
        self.0.publish(channel, &message).await
    }

    fn check(&self, channel: &ChannelReference) -> Result<(), ReceiveError> {
        if !self.0.ready.load(Ordering::Acquire) {
            return Err(ReceiveError::NotReady);
        }
        self.0.check(channel).map(drop)
    }
}

impl Channels for Arc<Inner> {
    fn has(&self, channel: &ChannelReference) -> bool {
        lock(&self.state).channels.contains(channel)
    }

    async fn hand_over(&self, channel: &ChannelReference, message: &Message) -> Result<(), ReceiveError> {
        self.publish(channel, message).await
    }
}

impl Inner {
    fn link(&self) -> Link {
        *self.link.borrow()
    }

    fn is_up(&self) -> bool {
        self.link().up
    }

    /// Whether a message of a channel can be taken over the present connection.
    fn check(&self, channel: &ChannelReference) -> Result<Link, ReceiveError> {
        let unavailable = |why: &str| Err(ReceiveError::StoreUnavailable(why.to_owned()));
        let link = self.link();
        if !link.up {
            return unavailable("NATS is not reached");
        }
        let mut state = lock(&self.state);
        state.take_into_account(link);
        if state.missing_channels.contains(channel)
            || state.missing.values().any(|missing| missing == channel)
        {
            return unavailable("the channel's stream or consumers are not there yet, or not checked");
        }
        if state.channels.contains(channel) { Ok(link) } else { Err(ReceiveError::UnknownChannel) }
    }

    /// Stores a message.
    async fn publish(
        self: &Arc<Self>,
        channel: &ChannelReference,
        message: &Message,
    ) -> Result<(), ReceiveError> {
        let link = self.check(channel)?;
        let (subject, headers) = (names::subject(channel), names::headers(message));
        match self.outbox.store(subject.into(), headers, message.payload.clone()).await {
            // NATS may have been restarted before it stored the message, and the consumers were not checked since.
            Ok(()) if self.link().losses != link.losses => {
                Err(ReceiveError::StoreUnavailable("the connection to NATS was lost meanwhile".into()))
            }
            Ok(()) => {
                (self.out.tell)(&Event::Received { channel: channel.clone() });
                Ok(())
            }
            Err(error @ Unstored::TooLarge(_)) => Err(ReceiveError::TooLarge(error.to_string())),
            Err(error) => {
                if error == Unstored::NoStream {
                    self.heal(channel);
                }
                Err(ReceiveError::StoreUnavailable(error.to_string()))
            }
        }
    }

    /// Creates a deleted stream again, and has its subscriptions subscribe again.
    fn heal(self: &Arc<Self>, channel: &ChannelReference) {
        if !self.is_up() || !lock(&self.state).missing_channels.insert(channel.clone()) {
            return;
        }
        tracing::warn!(%channel, "its stream is gone, and made again");
        let (inner, channel) = (self.clone(), channel.clone());
        tokio::spawn(async move {
            // Other callers report the error. Here it is dropped: the next message tries again.
            let _ = inner.remake_stream(&channel).await;
            lock(&inner.state).missing_channels.remove(&channel);
        });
    }

    /// Creates a stream again. It has no consumers: all subscriptions of the channel have to subscribe again before a
    /// message is accepted.
    async fn remake_stream(&self, channel: &ChannelReference) -> Result<(), HandlerError> {
        {
            let mut state = lock(&self.state);
            let routes: Vec<_> = state.routes.values().map(|(route, _)| route.clone()).collect();
            for route in routes.iter().filter(|route| route.target.channel == *channel) {
                state.lose(route);
            }
        }
        self.removals.gone(names::stream(channel));
        self.lost.notify_one();
        self.make_stream(channel).await
    }

    fn vanished(&self, route: &Route) {
        self.removals.gone(names::consumer(&route.stream, &route.durable));
        lock(&self.state).lose(route);
        self.lost.notify_one();
    }

    async fn make_stream(&self, channel: &ChannelReference) -> Result<(), HandlerError> {
        self.need_nats().await?;
        let stream = names::stream(channel);
        // Another call may have created it again by now.
        if self.removals.is_gone(&stream) && self.context.get_stream(&stream).await.is_err() {
            self.removals.wait(&stream).await;
        }
        let config = StreamConfig {
            name: stream.clone(),
            subjects: vec![names::subject(channel)],
            retention: RetentionPolicy::Interest,
            storage: StorageType::File,
            // A full store refuses new messages and keeps the stored ones.
            discard: DiscardPolicy::New,
            ..StreamConfig::default()
        };
        match self.context.create_stream(config).await {
            Ok(_) => {
                self.removals.made(stream);
                Ok(())
            }
            Err(error) => match error.kind() {
                CreateStreamErrorKind::JetStream(refusal) => Err(refused("the stream", &refusal)),
                _ => Err(HandlerError::failed(format!("the stream: {}", relay_proto::error::chain(&error)))),
            },
        }
    }

    /// Whether the consumer of a route exists.
    async fn has_consumer(&self, route: &Route) -> Result<bool, HandlerError> {
        Ok(self.consumer(&route.stream, &route.durable).await?.is_some())
    }

    async fn consumer(&self, stream: &str, durable: &str) -> Result<Option<Held>, HandlerError> {
        match self.context.get_consumer_from_stream::<pull::Config, _, _>(durable, stream).await {
            Ok(consumer) => {
                let info = consumer.cached_info();
                let config = pull::Config::try_from_consumer_config(info.config.clone());
                let config =
                    config.map_err(|error| HandlerError::failed(format!("the consumer: {error}")))?;
                Ok(Some(Held { config, delivered: info.delivered.stream_sequence }))
            }
            Err(error) if is_gone(&error) => Ok(None),
            Err(error) => Err(of_consumer(&error)),
        }
    }

    async fn make_consumer(
        &self,
        subscription: &SubscriptionReference,
        channel: &ChannelReference,
        stream: &str,
    ) -> Result<(), HandlerError> {
        self.need_nats().await?;
        let durable = names::durable(subscription);
        let name = names::consumer(stream, &durable);
        let max_ack_pending = if self.out.options.in_flight == 1 { 1 } else { -1 };
        let mut held = self.consumer(stream, &durable).await?;
        let mut guard = None;
        if let Some(consumer) = &held
            && self.is_ahead(stream, consumer).await?
        {
            guard = self.delete_if_ahead(subscription, stream, &durable).await?;
            held = self.consumer(stream, &durable).await?;
        }
        let config = match held.map(|held| held.config) {
            Some(held) if held.max_ack_pending == max_ack_pending && held.ack_wait == ACK_WAIT => {
                self.removals.made(name);
                return Ok(());
            }
            // It keeps its position.
            Some(held) => pull::Config { max_ack_pending, ack_wait: ACK_WAIT, ..held },
            None => pull::Config {
                durable_name: Some(durable),
                deliver_policy: if lock(&self.state).known.contains(subscription) {
                    DeliverPolicy::All
                } else {
                    DeliverPolicy::New
                },
                ack_policy: AckPolicy::Explicit,
                ack_wait: ACK_WAIT,
                max_ack_pending,
                ..pull::Config::default()
            },
        };
        self.removals.wait(&name).await;
        let mut made = self.context.create_consumer_on_stream(config.clone(), stream).await.map(drop);
        let no_stream = |error: &ConsumerError| {
            matches!(error.kind(), ConsumerErrorKind::JetStream(refusal)
            if refusal.error_code() == ErrorCode::STREAM_NOT_FOUND)
        };
        if made.as_ref().is_err_and(no_stream) {
            // The channel is provisioned, so its stream was deleted by someone else.
            self.remake_stream(channel).await?;
            made = self.context.create_consumer_on_stream(config, stream).await.map(drop);
        }
        made.map_err(|error| of_consumer(&error))?;
        self.removals.made(name);
        if let Some(guard) = guard {
            guard.release().await;
        }
        Ok(())
    }

    /// Fails at once while NATS is unavailable, after a short wait for the first connection.
    async fn need_nats(&self) -> Result<(), HandlerError> {
        let mut link = self.link.clone();
        if !self.began.load(Ordering::Acquire) {
            let _ = tokio::time::timeout(FIRST_CONNECTION, link.wait_for(|link| link.up)).await;
            self.began.store(true, Ordering::Release);
        }
        if link.borrow().up { Ok(()) } else { Err(HandlerError::failed("NATS is not reached")) }
    }

    /// Forgets missing channels and subscriptions that are no longer wanted.
    fn forget_unwanted(&self, monitor: &Monitor<JetStreamEngine>) {
        let mut state = lock(&self.state);
        state.missing.retain(|subscription, channel| monitor.wants_subscription(subscription, channel));
        state.missing_channels.retain(|channel| monitor.wants_channel(channel));
    }

    fn flush_drops(&self, all: bool) {
        let routes: Vec<_> = lock(&self.state).routes.values().map(|(route, _)| route.clone()).collect();
        routes.iter().for_each(|route| route.target.flush_drops(&self.out, all));
    }

    fn hold(&self) {
        self.held.fetch_add(1, Ordering::AcqRel);
        self.out.metrics.queued.fetch_add(1, Ordering::Relaxed);
    }

    fn release(&self) {
        self.out.metrics.queued.fetch_sub(1, Ordering::Relaxed);
        if self.held.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.idle.notify_waiters();
        }
    }

    fn delays(&self) -> Backoff {
        let seed = getrandom::u64().unwrap_or_default();
        Backoff::new(self.out.options.retry_delay, Duration::from_secs(60), seed).jitter(Jitter::Quarter)
    }

    fn count(&self, state: &State) {
        let metrics = &self.out.metrics;
        metrics.channels.store(state.channels.len() as u64, Ordering::Relaxed);
        metrics.subscriptions.store(state.routes.len() as u64, Ordering::Relaxed);
    }

    /// Ends the worker of a subscription, and its deliveries.
    async fn end(&self, subscription: &SubscriptionReference) {
        let removed = {
            let mut state = lock(&self.state);
            let removed = state.routes.remove(subscription);
            self.count(&state);
            removed
        };
        if let Some((route, worker)) = removed {
            route.stop.cancel();
            route.gone.cancel();
            let _ = worker.await;
            route.target.flush_drops(&self.out, true);
        }
    }
}

impl State {
    /// After a loss of the connection all subscriptions subscribe again, and messages are refused until they have:
    /// NATS may have been restarted, and may have lost the positions of its streams.
    fn take_into_account(&mut self, link: Link) {
        if self.losses == link.losses {
            return;
        }
        self.losses = link.losses;
        for (subscription, (route, _)) in &self.routes {
            self.missing.insert(subscription.clone(), route.target.channel.clone());
            self.lost.insert(subscription.clone());
        }
    }

    /// Notes that the consumer of a route no longer exists.
    fn lose(&mut self, route: &Route) {
        let subscription = route.target.subscription.clone();
        self.missing.insert(subscription.clone(), route.target.channel.clone());
        self.lost.insert(subscription);
        route.stop.cancel();
    }
}

/// Whether the error means that the consumer or its stream does not exist.
fn is_gone(error: &ConsumerError) -> bool {
    matches!(error.kind(), ConsumerErrorKind::JetStream(refusal)
        if matches!(refusal.error_code(), ErrorCode::CONSUMER_NOT_FOUND | ErrorCode::STREAM_NOT_FOUND))
}

fn of_consumer(error: &ConsumerError) -> HandlerError {
    match error.kind() {
        ConsumerErrorKind::JetStream(refusal) => refused("the consumer", &refusal),
        _ => HandlerError::failed(format!("the consumer: {}", relay_proto::error::chain(error))),
    }
}

fn refused(what: &str, error: &async_nats::jetstream::Error) -> HandlerError {
    HandlerError::failed(format!("{what}: {error}"))
}

impl MonitorHandler for JetStreamEngine {
    async fn bus(&self, _: &BusReference, _: &BusSpec) -> Result<(), HandlerError> {
        Ok(())
    }

    async fn provision(
        &self,
        channel: &ChannelReference,
        _: &ChannelSpec,
        _: &ResolvedParameters,
    ) -> Result<(), HandlerError> {
        let made = self.0.make_stream(channel).await;
        let mut state = lock(&self.0.state);
        match &made {
            Ok(()) => {
                state.channels.insert(channel.clone());
                state.missing_channels.remove(channel);
            }
            Err(_) => drop(state.missing_channels.insert(channel.clone())),
        }
        self.0.count(&state);
        made
    }

    async fn unprovision(&self, channel: &ChannelReference) -> Result<(), HandlerError> {
        {
            let mut state = lock(&self.0.state);
            state.channels.remove(channel);
            state.missing_channels.remove(channel);
            self.0.count(&state);
        }
        self.0.need_nats().await?;
        let (stream, removals) = (names::stream(channel), &self.0.removals);
        removals.gone(stream.clone());
        match self.0.context.delete_stream(&stream).await {
            Ok(_) => {
                removals.forget(&stream, true);
                Ok(())
            }
            Err(error) => match error.kind() {
                DeleteStreamErrorKind::JetStream(refusal)
                    if refusal.error_code() == ErrorCode::STREAM_NOT_FOUND =>
                {
                    removals.forget(&stream, false);
                    Ok(())
                }
                DeleteStreamErrorKind::JetStream(refusal) => Err(refused("the stream", &refusal)),
                _ => Err(HandlerError::failed(format!("the stream: {}", relay_proto::error::chain(&error)))),
            },
        }
    }

    async fn subscribe(
        &self,
        subscription: &SubscriptionReference,
        channel: &ChannelReference,
        spec: &SubscriptionSpec,
        _: &ResolvedParameters,
    ) -> Result<(), HandlerError> {
        let inner = &self.0;
        let losses = inner.link().losses;
        let (stream, spec) = (names::stream(channel), Arc::new(spec.clone()));
        let standing = || {
            let route = lock(&inner.state).routes.get(subscription).map(|(route, _)| route.clone());
            route.filter(|route| route.target.channel == *channel && !route.stop.is_cancelled())
        };
        // The worker continues with the new spec; the consumer keeps its position.
        if let Some(route) = standing() {
            route.target.set_spec(spec.clone());
        }
        if let Err(error) = inner.make_consumer(subscription, channel, &stream).await {
            lock(&inner.state).missing.insert(subscription.clone(), channel.clone());
            return Err(error);
        }
        if standing().is_none() {
            inner.end(subscription).await;
            let route = Arc::new(Route {
                target: Target::new(channel, subscription, spec),
                stream,
                durable: names::durable(subscription),
                room: Arc::new(Semaphore::new(inner.out.options.queue.min(Semaphore::MAX_PERMITS))),
                stop: CancellationToken::new(),
                gone: CancellationToken::new(),
            });
            let worker = tokio::spawn(work(inner.clone(), route.clone()));
            lock(&inner.state).routes.insert(subscription.clone(), (route, worker));
        }
        let mut state = lock(&inner.state);
        state.take_into_account(inner.link());
        if state.losses == losses {
            state.missing.remove(subscription);
        } else {
            // Its consumer was looked at before, or partly.
            state.missing.insert(subscription.clone(), channel.clone());
            state.lost.insert(subscription.clone());
            inner.lost.notify_one();
        }
        state.known.insert(subscription.clone());
        inner.count(&state);
        Ok(())
    }

    async fn unsubscribe(
        &self,
        subscription: &SubscriptionReference,
        channel: &ChannelReference,
    ) -> Result<(), HandlerError> {
        let inner = &self.0;
        inner.end(subscription).await;
        {
            let mut state = lock(&inner.state);
            state.missing.remove(subscription);
            state.known.remove(subscription);
            state.lost.remove(subscription);
        }
        inner.need_nats().await?;
        let (stream, durable) = (names::stream(channel), names::durable(subscription));
        let name = names::consumer(&stream, &durable);
        inner.removals.gone(name.clone());
        match inner.context.delete_consumer_from_stream(durable, stream).await {
            Ok(_) => {
                inner.removals.forget(&name, true);
                Ok(())
            }
            Err(error) if is_gone(&error) => {
                inner.removals.forget(&name, false);
                Ok(())
            }
            Err(error) => Err(of_consumer(&error)),
        }
    }
}
