//! Delivery of one message to one subscription: attempts, replies, dead letters.

use std::future::Future;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use relay_proto::bus::{
    ChannelReference, Destination, Message, SubscriptionReference, SubscriptionSpec, check_cloudevent,
};
use relay_proto::retry::{Backoff, Jitter};

use super::drops::Drops;
use super::{Outbound, lock};
use crate::dispatcher::{Answer, CallError};
use crate::events::{DropReason, Event};
use crate::metrics::{Ended, Metrics};
use crate::receiver::ReceiveError;

/// The longest delay between attempts.
const LONGEST: Duration = Duration::from_secs(60);
/// Characters of an error response that are sent with a dead letter.
const ERROR_DATA: usize = 1024;

/// The parts of a subscription that deliveries need.
pub(super) struct Target {
    pub(super) channel: ChannelReference,
    pub(super) subscription: SubscriptionReference,
    aim: Mutex<Arc<Aim>>,
    pub(super) drops: Drops,
}

/// The spec of a subscription, and its destinations once they are resolved.
struct Aim {
    spec: Arc<SubscriptionSpec>,
    subscriber: OnceLock<Destination>,
    reply_to: OnceLock<Destination>,
}

impl Aim {
    fn new(spec: Arc<SubscriptionSpec>) -> Arc<Self> {
        Arc::new(Self { spec, subscriber: OnceLock::new(), reply_to: OnceLock::new() })
    }
}

impl Target {
    pub(super) fn new(
        channel: &ChannelReference,
        subscription: &SubscriptionReference,
        spec: Arc<SubscriptionSpec>,
    ) -> Self {
        let (channel, subscription) = (channel.clone(), subscription.clone());
        Self { channel, subscription, aim: Mutex::new(Aim::new(spec)), drops: Drops::default() }
    }

    /// Deliveries that begin from now on follow this spec.
    pub(super) fn set_spec(&self, spec: Arc<SubscriptionSpec>) {
        *lock(&self.aim) = Aim::new(spec);
    }

    pub(super) fn dropped(&self, out: &Outbound, reason: DropReason) {
        self.drops.count(out, reason, (&self.channel, &self.subscription));
    }

    pub(super) fn flush_drops(&self, out: &Outbound, all: bool) {
        self.drops.flush(out, (&self.channel, &self.subscription), all);
    }
}

/// The channels of an engine, for messages that go from one to another without leaving the process.
pub(super) trait Channels: Send + Sync {
    fn has(&self, channel: &ChannelReference) -> bool;

    fn hand_over(
        &self,
        channel: &ChannelReference,
        message: &Message,
    ) -> impl Future<Output = Result<(), ReceiveError>> + Send;
}

/// The stage of a delivery.
enum Stage {
    /// To be sent to the subscriber.
    Call,
    /// The subscriber has it; the reply is to be sent.
    Reply(Message),
}

/// The result of an attempt.
pub(super) enum Step {
    /// There is a reply to send.
    Next,
    /// It is delivered, or dropped.
    Done,
    /// It failed, and is retried after this delay.
    Again(Duration),
    /// It failed for good: send it to the dead letters.
    GivenUp(Failure),
}

/// A failure, and its destination.
pub(super) struct Failure {
    to: String,
    error: CallError,
}

/// The attempts of one message.
pub(super) struct Delivery<'d, C> {
    pub(super) out: &'d Outbound,
    pub(super) channels: &'d C,
    pub(super) target: &'d Target,
    pub(super) message: &'d Message,
    stage: Stage,
    tries: u32,
    /// Created when an attempt fails, which is rare.
    backoff: Option<Backoff>,
}

impl<'d, C: Channels> Delivery<'d, C> {
    /// A message with a number of earlier attempts.
    pub(super) fn new(
        out: &'d Outbound,
        channels: &'d C,
        target: &'d Target,
        message: &'d Message,
        tries: u32,
    ) -> Self {
        Self { out, channels, target, message, stage: Stage::Call, tries, backoff: None }
    }

    /// Whether the subscriber has it.
    pub(super) fn is_replying(&self) -> bool {
        matches!(self.stage, Stage::Reply(_))
    }

    /// One attempt. Its end is reported and counted.
    pub(super) async fn step(&mut self) -> Step {
        let aim = lock(&self.target.aim).clone();
        let spec = &*aim.spec;
        if !self.is_replying() && spec.subscriber.is_none() {
            if spec.reply_to.is_none() {
                self.target.dropped(self.out, DropReason::NoDestination);
                return Step::Done;
            }
            self.stage = Stage::Reply(self.message.clone());
        }
        let (message, text, known, counters, prefix) = match &self.stage {
            Stage::Call => {
                let subscriber = spec.subscriber.as_deref().unwrap_or_default();
                let counters = &self.out.metrics.dispatched;
                (self.message, subscriber, &aim.subscriber, counters, "Unable to complete request")
            }
            Stage::Reply(reply) => match &spec.reply_to {
                Some(to) => {
                    let counters = &self.out.metrics.replies;
                    (reply, to.as_str(), &aim.reply_to, counters, "Failed to forward reply")
                }
                // The subscription is gone.
                None => return self.delivered(),
            },
        };
        self.tries = self.tries.saturating_add(1);
        let to = match known.get() {
            Some(to) => Ok(to),
            None => {
                let to = self.out.dispatcher.resolve(text, self.target.subscription.namespace());
                to.map(|to| known.get_or_init(|| to))
            }
        };
        let wants_reply = !self.is_replying() && spec.reply_to.is_some();
        let (sent, to) = match to {
            Ok(to) => (send(self.out, self.channels, message, to, wants_reply).await, Some(to)),
            Err(error) => (Err(error), None),
        };
        let error = match sent {
            Ok(answer) => {
                Metrics::count(counters, Ended::Ok);
                return self.answered(spec, answer);
            }
            Err(error) => error,
        };
        let shown = shown(to, text);
        let limit = self.out.options.max_deliver;
        let last = !error.is_retryable() || limit > 0 && self.tries >= limit;
        Metrics::count(counters, if last { Ended::GivenUp } else { Ended::Failed });
        self.failed(&shown, format!("{prefix}: {}", error.line()), self.tries, last);
        if last {
            return Step::GivenUp(Failure { to: shown, error });
        }
        Step::Again(self.next_delay().max(error.retry_after().unwrap_or_default()))
    }

    /// The delay after a failed attempt.
    fn next_delay(&mut self) -> Duration {
        let (first, tries) = (self.out.options.retry_delay, self.tries);
        let backoff = self.backoff.get_or_insert_with(|| {
            let seed = getrandom::u64().unwrap_or_default();
            let mut backoff = Backoff::new(first, LONGEST, seed).jitter(Jitter::Quarter);
            for _ in 1..tries.min(33) {
                let _ = backoff.next_delay();
            }
            backoff
        });
        backoff.next_delay()
    }

    fn answered(&mut self, spec: &SubscriptionSpec, answer: Answer) -> Step {
        let wanted = !self.is_replying() && spec.reply_to.is_some();
        match self.out.dispatcher.reply_of(self.message, answer).filter(|_| wanted) {
            Some(reply) if self.out.is_taken(&reply) => {
                self.stage = Stage::Reply(reply);
                self.tries = 0;
                self.backoff = None;
                Step::Next
            }
            Some(_) => {
                self.target.dropped(self.out, DropReason::NotACloudEvent);
                self.delivered()
            }
            None => self.delivered(),
        }
    }

    fn delivered(&self) -> Step {
        let (channel, subscription) = (self.target.channel.clone(), self.target.subscription.clone());
        (self.out.tell)(&Event::Delivered { channel, subscription });
        Step::Done
    }

    fn failed(&self, destination: &str, error: String, tries: u32, last: bool) {
        (self.out.tell)(&Event::DispatchFailed {
            channel: self.target.channel.clone(),
            subscription: self.target.subscription.clone(),
            destination: destination.to_owned(),
            error,
            tries,
            last,
        });
    }

    /// Sends an undeliverable message to the dead letters; true on success, or when there is no such destination.
    pub(super) async fn bury(&self, failure: &Failure, tries: u32) -> bool {
        let Some(dead_letter) = &self.out.options.dead_letter else { return true };
        let mut letter = self.message.clone();
        letter.headers.insert("ce-knativeerrordest", failure.to.clone());
        let (code, body) = match &failure.error {
            CallError::Status { status, body, .. } => (*status, &body[..]),
            _ => (0, &[][..]),
        };
        letter.headers.insert("ce-knativeerrorcode", code.to_string());
        if !body.is_empty() {
            let mut data = STANDARD.encode(body);
            data.truncate(ERROR_DATA);
            letter.headers.insert("ce-knativeerrordata", data);
        }
        let to = self.out.dispatcher.resolve(dead_letter, self.target.subscription.namespace());
        let destination = shown(to.as_ref().ok(), dead_letter);
        let sent = match to {
            Ok(to) => send(self.out, self.channels, &letter, &to, false).await,
            Err(error) => Err(error),
        };
        match sent {
            Ok(_) => true,
            Err(error) => {
                let error = format!("Unable to deliver dead letter: {}", error.line());
                self.failed(&destination, error, tries, true);
                false
            }
        }
    }
}

fn shown(to: Option<&Destination>, text: &str) -> String {
    match to {
        Some(to) => to.url().to_owned(),
        None => text.rsplit('@').next().unwrap_or_default().to_owned(),
    }
}

/// Sends to a channel of this bus inside the process, to other destinations by HTTP.
async fn send<C: Channels>(
    out: &Outbound,
    channels: &C,
    message: &Message,
    to: &Destination,
    wants_reply: bool,
) -> Result<Answer, CallError> {
    let channel = to.channel(&out.dispatcher.options().cluster_domain);
    let Some(channel) = channel.filter(|channel| channels.has(channel)) else {
        return out.dispatcher.call(message, to, wants_reply).await;
    };
    let refused = |status| CallError::Status { status, retry_after: None, body: bytes::Bytes::new() };
    if out.options.require_cloudevents && check_cloudevent(message).is_err() {
        return Err(refused(400));
    }
    match channels.hand_over(&channel, message).await {
        Ok(()) => Ok(Answer::default()),
        Err(ReceiveError::UnknownChannel) => Err(refused(404)),
        Err(ReceiveError::TooLarge(_)) => Err(refused(413)),
        Err(ReceiveError::Failed(_)) => Err(refused(500)),
        Err(_) => Err(refused(503)),
    }
}
