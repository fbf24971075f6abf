//! Takes the messages of one subscription from its consumer, as many as there are free slots.
//!
//! ```text
//!   free slots ──> a request for so many messages ──> message: a slot, a try ──> ack after the reply went through
//!                                                                          └──> failed: nak with a delay
//!   during a try the server gets a sign of life every 1.5 s; 5 s without one (after a kill), and it sends again
//! ```

use std::sync::Arc;
use std::time::Duration;

use async_nats::{StatusCode, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt as _;
use serde_json::json;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};

use super::connect::PATIENCE;
use super::{Inner, Route, names};
use crate::engine::delivery::{Delivery, Step};

/// How long the server waits for an ack before it sends a message again.
pub(super) const ACK_WAIT: Duration = Duration::from_secs(5);
/// Interval at which a running attempt is reported to the server.
const PROGRESS: Duration = Duration::from_millis(1500);
/// Time limit of a request for messages.
const OPEN: Duration = Duration::from_secs(10);
/// How long to wait for more free slots after the first one.
const GATHER: Duration = Duration::from_millis(2);
/// Delay after a refused request.
const PAUSE: Duration = Duration::from_millis(500);

/// Why a worker has ended.
enum End {
    /// The connection is closed for good.
    Closed,
    /// The consumer is gone.
    Vanished,
}

/// Works until the route is stopped, or its consumer vanishes.
pub(super) async fn work(inner: Arc<Inner>, route: Arc<Route>) {
    let mut calls = JoinSet::new();
    let taken = tokio::select! {
        () = route.stop.cancelled() => None,
        end = take(&inner, &route, &mut calls) => Some(end),
    };
    if let Some(End::Vanished) = taken {
        tracing::warn!(subscription = %route.target.subscription, "its consumer is gone, and made again");
        inner.vanished(&route);
    }
    // Deliveries in progress are completed, unless the subscription is gone.
    tokio::select! {
        () = route.gone.cancelled() => calls.shutdown().await,
        () = async { while calls.join_next().await.is_some() {} } => {}
    }
}

async fn take(inner: &Arc<Inner>, route: &Arc<Route>, calls: &mut JoinSet<()>) -> End {
    let in_flight = inner.out.options.in_flight.max(1);
    let slots = Arc::new(Semaphore::new(in_flight));
    let inbox = inner.client.new_inbox();
    let mut up = inner.up.clone();
    let mut messages = loop {
        match inner.client.subscribe(inbox.clone()).await {
            Ok(messages) => break messages,
            Err(_) if up.has_changed().is_err() => return End::Closed,
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    };
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else { return End::Closed };
        let mut free = vec![slot];
        // A request for one message costs as much as the message, so under load the worker waits for several slots.
        let some = slots.clone().acquire_many_owned((in_flight / 4) as u32);
        if let Ok(Ok(mut some)) = timeout(GATHER, some).await {
            free.extend(std::iter::from_fn(|| some.split(1)));
        }
        while let Ok(slot) = slots.clone().try_acquire_owned() {
            free.push(slot);
        }
        while calls.try_join_next().is_some() {}
        if up.wait_for(|up| *up).await.is_err() {
            return End::Closed;
        }
        let request = json!({"batch": free.len(), "expires": OPEN.as_nanos() as u64});
        let ask = inner.client.publish_with_reply(
            format!("$JS.API.CONSUMER.MSG.NEXT.{}.{}", route.stream, route.durable),
            inbox.clone(),
            request.to_string().into(),
        );
        if ask.await.is_err() {
            tokio::time::sleep(PAUSE).await;
            continue;
        }
        if let Some(end) = fill(inner, route, &mut messages, &mut up, free, calls).await {
            return end;
        }
    }
}

/// Starts an attempt for each message until there are no free slots, or no more messages.
async fn fill(
    inner: &Arc<Inner>,
    route: &Arc<Route>,
    messages: &mut Subscriber,
    up: &mut watch::Receiver<bool>,
    mut free: Vec<OwnedSemaphorePermit>,
    calls: &mut JoinSet<()>,
) -> Option<End> {
    let until = Instant::now() + OPEN + PATIENCE;
    while let Some(slot) = free.pop() {
        let message = tokio::select! {
            message = timeout_at(until, messages.next()) => message,
            // A request does not outlive its connection.
            Ok(_) = up.wait_for(|up| !up) => return None,
        };
        let Ok(message) = message else { return None };
        let Some(message) = message else { return Some(End::Closed) };
        match message.status.unwrap_or(StatusCode::OK) {
            StatusCode::OK => {
                calls.spawn(deliver(inner.clone(), route.clone(), message, slot));
            }
            StatusCode::NO_RESPONDERS => return judge(inner, route).await,
            status if status.as_u16() == 409 => {
                let deleted = message.description.is_some_and(|text| text.contains("Deleted"));
                return if deleted { Some(End::Vanished) } else { judge(inner, route).await };
            }
            StatusCode::IDLE_HEARTBEAT => free.push(slot),
            // No message arrived in time, or there is none.
            _ => return None,
        }
    }
    None
}

/// Whether the consumer still exists after a refused request.
async fn judge(inner: &Inner, route: &Route) -> Option<End> {
    match inner.has_consumer(route).await {
        Ok(false) => Some(End::Vanished),
        _ => {
            tokio::time::sleep(PAUSE).await;
            None
        }
    }
}

/// Sends a message once, and its reply until it succeeds.
async fn deliver(
    inner: Arc<Inner>,
    route: Arc<Route>,
    message: async_nats::Message,
    slot: OwnedSemaphorePermit,
) {
    inner.hold();
    let _held = Held(&inner);
    let Some(reply) = message.reply.clone() else { return };
    let answer = |text: Bytes| async {
        // If this is lost, the server sends the message again.
        let _ = inner.client.publish(reply.clone(), text).await;
    };
    // `$JS.ACK.STREAM.CONSUMER.DELIVERED...`, or with domain and account before the stream.
    let words: Vec<&str> = reply.split('.').collect();
    let delivered =
        words.get(if words.len() >= 11 { 6 } else { 4 }).and_then(|word| word.parse::<u32>().ok());
    let before = delivered.unwrap_or(1).saturating_sub(1);
    let rules = &inner.out.dispatcher.options().rules;
    let payload = names::message(message.headers.as_ref(), message.payload.clone(), rules);
    let mut delivery = Delivery::new(&inner.out, &inner, &route.target, &payload, before);
    let work = async {
        let mut slot = Some(slot);
        let mut room = None;
        loop {
            let failure = match delivery.step().await {
                Step::Next => continue,
                Step::Done => return Bytes::from_static(b"+ACK"),
                Step::Again(delay) if !delivery.is_replying() => {
                    return format!("-NAK {{\"delay\":{}}}", delay.as_nanos()).into();
                }
                Step::Again(delay) => {
                    // The subscriber has the message: only the reply is retried. It gives its slot back if `room` has a
                    // place for it.
                    if inner.out.options.in_flight > 1 && room.is_none() {
                        room = route.room.clone().try_acquire_owned().ok();
                        slot = slot.filter(|_| room.is_none());
                    }
                    tokio::time::sleep(delay).await;
                    continue;
                }
                Step::GivenUp(failure) => failure,
            };
            let mut tries = 1;
            let mut delays = inner.delays();
            while !delivery.bury(&failure, tries).await {
                if inner.out.options.in_flight > 1 && room.is_none() {
                    room = route.room.clone().try_acquire_owned().ok();
                    slot = slot.filter(|_| room.is_none());
                }
                tokio::time::sleep(delays.next_delay()).await;
                tries += 1;
            }
            return Bytes::from_static(b"+ACK");
        }
    };
    let keep = async {
        loop {
            tokio::time::sleep(PROGRESS).await;
            answer(Bytes::from_static(b"+WPI")).await;
        }
    };
    let said = tokio::select! {
        said = work => said,
        () = keep => return,
        // Not finished in time: the server sends the message again to the next worker.
        () = inner.cut.cancelled() => return,
    };
    answer(said).await;
}

/// A message that is held in this process.
struct Held<'i>(&'i Inner);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.release();
    }
}
