//! Takes the messages of one subscription from its consumer, as many as there are free slots.
//!
//! ```text
//!   free slots ──> a request for so many messages ──> message: a slot, a try ──> ack after the reply went through
//!   (further ones follow while earlier ones run)             └──> failed: nak with a delay
//!   during a try the server gets a sign of life every 1.5 s; 5 s without one (after a kill), and it sends again
//! ```
//!
//! All tries of a subscription run in one task: that costs a message less than a task of its own. A place, the future
//! that makes the tries of a message, is large, and is used for one message after another while they come.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use async_nats::{StatusCode, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use serde_json::json;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep_until};

use super::connect::PATIENCE;
use super::{Inner, Route, names};
use crate::engine::delivery::{Delivery, Step};
use crate::engine::lock;

/// How long the server waits for an ack before it sends a message again.
pub(super) const ACK_WAIT: Duration = Duration::from_secs(5);
/// Interval at which a running attempt is reported to the server.
const PROGRESS: Duration = Duration::from_millis(1500);
/// Time limit of a request for messages.
const OPEN: Duration = Duration::from_secs(10);
/// How long to wait for more free slots after the first one, while no request is open.
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

/// The places for tries under way.
struct Slots {
    free: AtomicUsize,
    freed: Notify,
}

impl Slots {
    fn new(count: usize) -> Arc<Self> {
        Arc::new(Self { free: AtomicUsize::new(count), freed: Notify::new() })
    }

    fn free(&self) -> usize {
        self.free.load(Ordering::Acquire)
    }

    /// Takes a free one. The caller is the only one that takes.
    fn take(self: &Arc<Self>) -> Slot {
        self.free.fetch_sub(1, Ordering::AcqRel);
        Slot(self.clone())
    }
}

struct Slot(Arc<Slots>);

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.free.fetch_add(1, Ordering::AcqRel);
        self.0.freed.notify_one();
    }
}

/// The places that wait for a message; `None` once there are no more messages.
struct Idle(Mutex<Option<Vec<oneshot::Sender<Begun>>>>);

/// A message, and the slot that it has taken.
type Begun = (async_nats::Message, Slot);

impl Idle {
    /// Gives the message to a place that waits. Hands it back when there is none.
    fn give(&self, mut begun: Begun) -> Option<Begun> {
        loop {
            let Some(place) = lock(&self.0).as_mut().and_then(Vec::pop) else { return Some(begun) };
            // A place that has ended does not take it.
            begun = place.send(begun).err()?;
        }
    }

    /// The next message of a place, unless it has to end.
    async fn next(&self) -> Option<Begun> {
        let (give, given) = oneshot::channel();
        lock(&self.0).as_mut()?.push(give);
        given.await.ok()
    }

    /// Ends the places that wait: nothing has come for long.
    fn dismiss(&self) {
        lock(&self.0).iter_mut().for_each(Vec::clear);
    }

    /// Ends the places that wait, and each of the others after its message.
    fn close(&self) {
        *lock(&self.0) = None;
    }
}

/// Works until the route is stopped, or its consumer vanishes.
pub(super) async fn work(inner: Arc<Inner>, route: Arc<Route>) {
    let idle = Idle(Mutex::new(Some(Vec::new())));
    let place = async |first: Begun| {
        let mut next = Some(first);
        while let Some((message, slot)) = next {
            deliver(&inner, &route, message, slot).await;
            next = idle.next().await;
        }
    };
    let places = Mutex::new(FuturesUnordered::new());
    let begin = |message, slot| {
        if let Some(begun) = idle.give((message, slot)) {
            lock(&places).push(place(begun));
        }
    };
    let all_ended = || {
        poll_fn(|cx| {
            let mut places = lock(&places);
            while let Poll::Ready(ended) = places.poll_next_unpin(cx) {
                if ended.is_none() {
                    return Poll::Ready(());
                }
            }
            Poll::Pending
        })
    };
    let drive = poll_fn(|cx| {
        // There may be more of them later.
        let _ = pin!(all_ended()).poll(cx);
        Poll::<Infallible>::Pending
    });
    let taken = tokio::select! {
        biased;
        () = route.stop.cancelled() => None,
        // Before the tries, so that a new one begins in the same turn.
        end = take(&inner, &route, &idle, begin) => Some(end),
        never = drive => match never {},
    };
    idle.close();
    if let Some(End::Vanished) = taken {
        tracing::warn!(subscription = %route.target.subscription, "its consumer is gone, and made again");
        inner.vanished(&route);
    }
    // Deliveries in progress are completed, unless the subscription is gone.
    tokio::select! {
        () = route.gone.cancelled() => {}
        () = all_ended() => {}
    }
}

async fn take(inner: &Inner, route: &Route, idle: &Idle, begin: impl Fn(async_nats::Message, Slot)) -> End {
    let in_flight = inner.out.options.in_flight.max(1);
    let slots = Slots::new(in_flight);
    let inbox = inner.client.new_inbox();
    let mut link = inner.link.clone();
    let mut messages = loop {
        match inner.client.subscribe(inbox.clone()).await {
            Ok(messages) => break messages,
            Err(_) if link.has_changed().is_err() => return End::Closed,
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    };
    // A request for one message costs as much as the message, so under load the worker waits for several slots.
    let some = (in_flight / 4).max(1);
    // Messages that open requests may still bring.
    let mut asked = 0_usize;
    // When all of them are certainly over.
    let mut over = pin!(sleep_until(Instant::now()));
    let mut gathered = pin!(sleep_until(Instant::now()));
    let mut gathering = false;
    loop {
        let free = slots.free().saturating_sub(asked);
        gathering &= free > 0 && asked == 0;
        let waited = gathering && gathered.is_elapsed();
        if free >= some || waited {
            gathering = false;
            if link.wait_for(|link| link.up).await.is_err() {
                return End::Closed;
            }
            let request = json!({"batch": free, "expires": OPEN.as_nanos() as u64});
            let ask = inner.client.publish_with_reply(
                format!("$JS.API.CONSUMER.MSG.NEXT.{}.{}", route.stream, route.durable),
                inbox.clone(),
                request.to_string().into(),
            );
            if ask.await.is_err() {
                tokio::time::sleep(PAUSE).await;
                continue;
            }
            asked += free;
            over.as_mut().reset(Instant::now() + OPEN + PATIENCE);
            continue;
        }
        if free > 0 && asked == 0 && !gathering {
            gathering = true;
            gathered.as_mut().reset(Instant::now() + GATHER);
        }
        let came = tokio::select! {
            biased;
            message = next(&mut messages), if slots.free() > 0 => message,
            () = slots.freed.notified() => continue,
            () = &mut gathered, if gathering => continue,
            () = &mut over, if asked > 0 => {
                asked = 0;
                continue;
            }
            // A request does not outlive its connection.
            Ok(_) = link.wait_for(|link| !link.up), if asked > 0 => {
                asked = 0;
                continue;
            }
        };
        match came {
            Came::Message(message) => {
                asked = asked.saturating_sub(1);
                begin(message, slots.take());
            }
            Came::Nothing => {}
            Came::Over { left } => {
                idle.dismiss();
                asked = left.map_or(0, |left| asked.saturating_sub(left));
            }
            Came::Refused => {
                asked = 0;
                if let Some(end) = judge(inner, route).await {
                    return end;
                }
            }
            Came::End(end) => return end,
        }
    }
}

/// What came for a request.
enum Came {
    Message(async_nats::Message),
    Nothing,
    /// It is over, before it brought the last messages, so many.
    Over {
        left: Option<usize>,
    },
    Refused,
    End(End),
}

async fn next(messages: &mut Subscriber) -> Came {
    let Some(message) = messages.next().await else { return Came::End(End::Closed) };
    match message.status.unwrap_or(StatusCode::OK) {
        StatusCode::OK => Came::Message(message),
        StatusCode::IDLE_HEARTBEAT => Came::Nothing,
        StatusCode::NO_RESPONDERS => Came::Refused,
        status if status.as_u16() == 409 => {
            let deleted = message.description.is_some_and(|text| text.contains("Deleted"));
            if deleted { Came::End(End::Vanished) } else { Came::Refused }
        }
        // No message arrived in time, or there is none.
        _ => {
            let left = message.headers.as_ref().and_then(|headers| headers.get("Nats-Pending-Messages"));
            Came::Over { left: left.and_then(|left| left.as_str().parse().ok()) }
        }
    }
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
async fn deliver(inner: &Arc<Inner>, route: &Route, message: async_nats::Message, slot: Slot) {
    inner.hold();
    let _held = Held(inner);
    let Some(reply) = message.reply.clone() else { return };
    // `$JS.ACK.STREAM.CONSUMER.DELIVERED...`, or with domain and account before the stream.
    let at = if reply.split('.').count() >= 11 { 6 } else { 4 };
    let delivered = reply.split('.').nth(at).and_then(|word| word.parse::<u32>().ok());
    let before = delivered.unwrap_or(1).saturating_sub(1);
    let rules = &inner.out.dispatcher.options().rules;
    let payload = names::message(message.headers.as_ref(), message.payload.clone(), rules);
    let mut delivery = Delivery::new(&inner.out, inner, &route.target, &payload, before);
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
            // Not by the outbox, where many could wait for a connection that takes none. If this is lost, the server
            // sends the message again.
            let _ = inner.client.publish(reply.clone(), Bytes::from_static(b"+WPI")).await;
        }
    };
    let said = tokio::select! {
        said = work => said,
        () = keep => return,
        // Not finished in time: the server sends the message again to the next worker.
        () = inner.cut.cancelled() => return,
    };
    inner.outbox.say(reply, said);
}

/// A message that is held in this process.
struct Held<'i>(&'i Inner);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.release();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;

    #[tokio::test]
    async fn a_place_takes_one_message_after_another_until_it_has_to_end() {
        let idle = Idle(Mutex::new(Some(Vec::new())));
        let slots = Slots::new(1);
        let begun = || {
            let (subject, payload) = ("s".into(), Bytes::new());
            let (reply, headers, status, description, length) = (None, None, None, None, 0);
            let message =
                async_nats::Message { subject, reply, payload, headers, status, description, length };
            (message, slots.take())
        };
        drop(idle.give(begun()).expect("no place waits yet"));
        assert_eq!(slots.free(), 1, "what is handed back keeps its slot until it is dropped");

        let mut next = Box::pin(idle.next());
        assert!(next.as_mut().now_or_never().is_none());
        assert!(idle.give(begun()).is_none());
        assert_eq!(slots.free(), 0);
        drop(next.await.expect("a message"));
        assert_eq!(slots.free(), 1);

        let mut gone = Box::pin(idle.next());
        assert!(gone.as_mut().now_or_never().is_none());
        drop(gone);
        assert!(idle.give(begun()).is_some(), "a place that is gone takes nothing");

        let mut dismissed = Box::pin(idle.next());
        assert!(dismissed.as_mut().now_or_never().is_none());
        idle.dismiss();
        assert!(dismissed.await.is_none());
        let mut waiting = Box::pin(idle.next());
        assert!(waiting.as_mut().now_or_never().is_none(), "later ones wait again");
        idle.close();
        assert!(waiting.await.is_none());
        assert!(idle.next().now_or_never().is_some_and(|next| next.is_none()));
        assert!(idle.give(begun()).is_some());
    }
}
