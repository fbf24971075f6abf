//! One message on its way to one subscription: tries, delays, the reply, the end.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use relay_proto::bus::{Destination, Message, SubscriptionSpec};
use relay_proto::retry::{Backoff, Jitter};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{Inner, Queued, Route, lock};
use crate::dispatcher::{Answer, CallError};
use crate::events::{DropReason, Event};
use crate::metrics::{Ended, Metrics};

/// The longest delay between tries.
const LONGEST: std::time::Duration = std::time::Duration::from_secs(60);
/// Characters of an error's body that go to the dead letters.
const ERROR_DATA: usize = 1024;

/// Where a message stands.
enum Stage {
    /// It is to reach the subscriber.
    Call,
    /// The subscriber has it; this is to reach the destination of replies.
    Reply(Message),
}

/// Delivers a message, or gives it up. Between tries the slot is free for others, unless order is to be kept.
pub(super) async fn deliver(
    inner: Arc<Inner>,
    route: Arc<Route>,
    queued: Queued,
    slot: OwnedSemaphorePermit,
    slots: Arc<Semaphore>,
) {
    let mut slot = Some(slot);
    let mut stage = Stage::Call;
    let mut tries = 0;
    let seed = getrandom::u64().unwrap_or_default();
    let mut backoff = Backoff::new(inner.options.retry_delay, LONGEST, seed).jitter(Jitter::Quarter);
    loop {
        let spec = lock(&route.spec).clone();
        tries += 1;
        let (result, to) = match &stage {
            Stage::Call => match &spec.subscriber {
                None if spec.reply_to.is_none() => {
                    return inner.dropped(&route, DropReason::NoDestination);
                }
                None => {
                    stage = Stage::Reply(queued.message.clone());
                    tries = 0;
                    continue;
                }
                Some(subscriber) => {
                    let to = inner.dispatcher.resolve(subscriber, route.subscription.namespace());
                    let shown = shown(&to, subscriber);
                    (inner.send(&queued.message, to, spec.reply_to.is_some()).await, shown)
                }
            },
            Stage::Reply(reply) => {
                let Some(reply_to) = &spec.reply_to else { return };
                let to = inner.dispatcher.resolve(reply_to, route.subscription.namespace());
                let shown = shown(&to, reply_to);
                (inner.send(reply, to, false).await, shown)
            }
        };
        let counters = match &stage {
            Stage::Call => &inner.metrics.dispatched,
            Stage::Reply(_) => &inner.metrics.replies,
        };
        let error = match result {
            Ok(answer) => {
                Metrics::count(counters, Ended::Ok);
                match inner.next(&route, &queued.message, &stage, &spec, answer) {
                    Some(reply) => {
                        stage = Stage::Reply(reply);
                        (tries, slot) = (0, slot);
                        backoff.reset();
                        continue;
                    }
                    None => {
                        let (channel, subscription) = (route.channel.clone(), route.subscription.clone());
                        return (inner.tell)(&Event::Delivered { channel, subscription });
                    }
                }
            }
            Err(error) => error,
        };
        let limit = inner.options.max_deliver;
        let last = !error.is_retryable() || limit > 0 && tries >= limit;
        Metrics::count(counters, if last { Ended::GivenUp } else { Ended::Failed });
        let prefix = match &stage {
            Stage::Call => "Unable to complete request",
            Stage::Reply(_) => "Failed to forward reply",
        };
        (inner.tell)(&Event::DispatchFailed {
            channel: route.channel.clone(),
            subscription: route.subscription.clone(),
            destination: to.clone(),
            error: format!("{prefix}: {}", error.line()),
            tries,
            last,
        });
        if last {
            return inner.bury(&route, &queued.message, &to, &error).await;
        }
        let delay = backoff.next_delay().max(error.retry_after().unwrap_or_default());
        if inner.options.in_flight > 1 {
            slot = None;
        }
        tokio::time::sleep(delay).await;
        if slot.is_none() {
            slot = slots.clone().acquire_owned().await.ok();
        }
    }
}

fn shown(to: &Result<Destination, CallError>, text: &str) -> String {
    match to {
        Ok(to) => to.url().to_owned(),
        Err(_) => text.rsplit('@').next().unwrap_or_default().to_owned(),
    }
}

impl Inner {
    /// To a channel of this bus by its queues, to anything else by HTTP.
    async fn send(
        self: &Arc<Self>,
        message: &Message,
        to: Result<Destination, CallError>,
        wants_reply: bool,
    ) -> Result<Answer, CallError> {
        let to = to?;
        let channel = to.channel(&self.dispatcher.options().cluster_domain);
        if let Some(channel) = channel.filter(|channel| self.routes_of(channel).is_some()) {
            if !self.is_taken(message) {
                return Err(CallError::Status { status: 400, retry_after: None, body: bytes::Bytes::new() });
            }
            if self.accept(&channel, message).is_ok() {
                return Ok(Answer::default());
            }
        }
        self.dispatcher.call(message, &to, wants_reply).await
    }

    /// The reply that is still to be sent.
    fn next(
        &self,
        route: &Route,
        original: &Message,
        stage: &Stage,
        spec: &SubscriptionSpec,
        answer: Answer,
    ) -> Option<Message> {
        if !matches!(stage, Stage::Call) || spec.reply_to.is_none() {
            return None;
        }
        let reply = self.dispatcher.reply_of(original, answer)?;
        if self.is_taken(&reply) {
            return Some(reply);
        }
        self.dropped(route, DropReason::NotACloudEvent);
        None
    }

    /// Sends a message that was given up to the dead letters, once.
    async fn bury(self: &Arc<Self>, route: &Route, message: &Message, to: &str, error: &CallError) {
        let Some(dead_letter) = &self.options.dead_letter else { return };
        let mut letter = message.clone();
        letter.headers.insert("ce-knativeerrordest", to.to_owned());
        if let CallError::Status { status, body, .. } = error {
            letter.headers.insert("ce-knativeerrorcode", status.to_string());
            if !body.is_empty() {
                letter.headers.insert("ce-knativeerrordata", STANDARD.encode(start_of(body)));
            }
        } else {
            letter.headers.insert("ce-knativeerrorcode", "0");
        }
        let to = self.dispatcher.resolve(dead_letter, route.subscription.namespace());
        let destination = shown(&to, dead_letter);
        if let Err(error) = self.send(&letter, to, false).await {
            (self.tell)(&Event::DispatchFailed {
                channel: route.channel.clone(),
                subscription: route.subscription.clone(),
                destination,
                error: format!("Unable to deliver dead letter: {}", error.line()),
                tries: 1,
                last: true,
            });
        }
    }
}

/// The first characters of a body; of one that is no text, the first bytes.
fn start_of(body: &[u8]) -> &[u8] {
    match std::str::from_utf8(body) {
        Ok(text) => {
            let end = text.char_indices().nth(ERROR_DATA).map_or(text.len(), |(at, _)| at);
            &body[..end]
        }
        Err(_) => &body[..body.len().min(ERROR_DATA)],
    }
}
