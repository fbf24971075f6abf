//! Publishing, for a client and the handlers of its subscriptions: numbering and sending.

use std::collections::HashMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use relay_proto::error::chain;
use relay_proto::parsec::{Envelope, PayloadRef, Position, Producer, Validation, Validator};
use relay_proto::retry::Backoff;
use relay_state::sequences::SequenceTracker;
use tokio::sync::OnceCell;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::{
    Error, HistoryItem, HistoryOptions, Outgoing, Presence, PublishFailure, Receipt, SequenceSnapshotter,
    SnapshotError, Transport,
};

/// One producer's sequence counts on one transport.
pub(crate) struct Publisher {
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) producer: Producer,
    pub(crate) tracker: SequenceTracker,
    pub(crate) snapshotter: Option<Arc<dyn SequenceSnapshotter>>,
    pub(crate) validator: Validator,
    pub(crate) publish_timeout: Duration,
    pub(crate) base: Duration,
    pub(crate) cap: Duration,
    pub(crate) connected: OnceCell<()>,
    /// A lock per channel: publishes to one channel are sequential.
    pub(crate) turns: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
    pub(crate) cancel: CancellationToken,
    /// Set before the token is cancelled, and read without a lock.
    pub(crate) closed: Arc<AtomicBool>,
    pub(crate) tasks: TaskTracker,
}

/// A published envelope.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Sent {
    /// The envelope.
    pub envelope: Envelope,
    /// Its position, if the server sends it.
    pub position: Option<Position>,
    /// Whether the server had accepted it before, so that a response was lost.
    pub duplicate: bool,
}

impl Publisher {
    pub(crate) async fn connect(&self) -> Result<(), Error> {
        if self.cancel.is_cancelled() {
            return Err(Error::Closed);
        }
        self.connected.get_or_try_init(|| self.transport.connect()).await?;
        Ok(())
    }

    pub(crate) async fn history(
        &self,
        channel: &str,
        options: &HistoryOptions,
    ) -> Result<Vec<HistoryItem>, Error> {
        self.connect().await?;
        self.transport.history(channel, options).await
    }

    pub(crate) async fn presence(&self, channel: &str) -> Result<Presence, Error> {
        self.connect().await?;
        self.transport.presence(channel).await
    }

    pub(crate) async fn publish(&self, channel: &str, outgoing: Outgoing) -> Result<Sent, Error> {
        self.connect().await?;
        if self.producer.id().is_empty() {
            return Err(Error::Usage("a client that publishes needs a producer id".into()));
        }
        check_channel(channel)?;
        let turn = self.turn(channel);
        let cancel = &self.cancel;
        let result = tokio::select! {
            biased;
            () = cancel.cancelled() => Err(Error::Closed),
            result = async {
                let _turn = turn.lock().await;
                self.publish_in_turn(channel, outgoing).await
            } => result,
        };
        drop(turn);
        self.forget_turn(channel);
        result
    }

    async fn publish_in_turn(&self, channel: &str, outgoing: Outgoing) -> Result<Sent, Error> {
        let Outgoing { aspect, payload, schema_ref, causation } = outgoing;
        match self.validator.check(channel, &aspect, payload.as_ref().map(PayloadRef::from)) {
            Validation::Rejected(rejection) => return Err(Error::Rejected(rejection)),
            Validation::Warned(why) => {
                tracing::warn!(channel, aspect, reason = why.reason(), "published although it does not fit");
            }
            _ => {}
        }
        let mut number = Reserved::next(&self.tracker, channel)?;
        let envelope = Envelope::new(channel, aspect, self.producer.clone())
            .with_sequence(number.sequence)
            .with_produced_at_millis(now_millis())
            .with_schema_ref(schema_ref)
            .with_causation(causation)
            .with_payload(payload);
        let bytes = Bytes::from(envelope.encode()?);
        self.save().await?;
        // From here on the server may have seen the sequence, even if this call is dropped.
        number.spent = true;
        match self.hand_over(channel, &bytes, number.sequence).await {
            Ok(receipt) => Ok(Sent { envelope, position: receipt.position, duplicate: receipt.duplicate }),
            Err((error, false)) => Err(error),
            Err((error, true)) => {
                number.spent = false;
                drop(number);
                self.save().await?;
                Err(error)
            }
        }
    }

    /// Retries until the outcome is known. An error tells whether the envelope was certainly not accepted.
    async fn hand_over(&self, channel: &str, bytes: &Bytes, sequence: i64) -> Result<Receipt, (Error, bool)> {
        let until = Instant::now() + self.publish_timeout;
        let mut backoff = Backoff::new(self.base, self.cap, random_seed());
        let give_up = |source, is_unsent| {
            let (channel, source) = (channel.to_owned(), Box::new(source));
            let error = match is_unsent {
                true => Error::NotSent { channel, patience: self.publish_timeout, source },
                false => Error::OutcomeUnknown { channel, sequence, source },
            };
            (error, is_unsent)
        };
        let mut last = None;
        // No attempt so far can have reached the server.
        let mut is_unsent = true;
        loop {
            let attempt = self.transport.publish(channel, bytes.clone());
            let failure = match tokio::time::timeout_at(until, attempt).await {
                Ok(Ok(receipt)) => return Ok(receipt),
                Ok(Err(failure)) => failure,
                Err(_) => {
                    let patience = self.publish_timeout;
                    let slow = || Error::Answer {
                        what: format!("publish to {channel}"),
                        reason: format!("no answer within {patience:?}"),
                    };
                    // How far this attempt came is not known.
                    return Err(give_up(last.unwrap_or_else(slow), false));
                }
            };
            let (error, retry_after) = match failure {
                PublishFailure::Refused(error) if error.is_definite() => {
                    return Err((self.conflict(channel, sequence, error), is_unsent));
                }
                PublishFailure::Refused(error) => return Err(give_up(error, false)),
                PublishFailure::Unavailable { error, retry_after } => (error, retry_after),
            };
            is_unsent &= error.is_before_sending();
            let delay = retry_after.map_or(Duration::ZERO, |least| backoff.spread(least));
            let delay = backoff.next_delay().max(delay);
            if Instant::now() + delay >= until {
                return Err(give_up(error, is_unsent));
            }
            let (cause, seconds) = (chain(&error).to_string(), delay.as_secs_f64());
            tracing::warn!(target: crate::RETRY_TARGET, cause, sequence, delay = seconds, "publishing again");
            tokio::time::sleep(delay).await;
            last = Some(error);
        }
    }

    fn conflict(&self, channel: &str, sequence: i64, error: Error) -> Error {
        match error {
            Error::Refused { problem, .. } if problem.code.as_deref() == Some("sequence-conflict") => {
                Error::SequenceConflict {
                    channel: channel.to_owned(),
                    producer: self.producer.id().to_owned(),
                    sequence,
                    last: problem.members.get("last_sequence").and_then(serde_json::Value::as_i64),
                }
            }
            other => other,
        }
    }

    async fn save(&self) -> Result<(), Error> {
        let Some(snapshotter) = self.snapshotter.clone() else { return Ok(()) };
        // Read within the task, so that the newest sequences are written last.
        let tracker = self.tracker.clone();
        let saving = tokio::task::spawn_blocking(move || {
            static ORDER: Mutex<()> = Mutex::new(());
            let _order = ORDER.lock().unwrap_or_else(PoisonError::into_inner);
            snapshotter.save(&tracker.snapshot())
        });
        match saving.await {
            Ok(saved) => Ok(saved?),
            Err(error) => Err(SnapshotError::new(format!("the snapshotter failed: {error}"), None).into()),
        }
    }

    fn turn(&self, channel: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        turns.entry(channel.to_owned()).or_default().clone()
    }

    /// Removes the lock of a channel if no call waits for it; it is created again when needed.
    fn forget_turn(&self, channel: &str) {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        if turns.get(channel).is_some_and(|turn| Arc::strong_count(turn) == 1) {
            turns.remove(channel);
        }
    }
}

/// Checks a channel's name. Further rules are those of the server.
pub(crate) fn check_channel(name: &str) -> Result<(), Error> {
    if name.is_empty() || name.bytes().any(|byte| byte.is_ascii_control()) {
        return Err(Error::Usage("a channel's name is not empty and has no control characters".into()));
    }
    Ok(())
}

/// A sequence that becomes free again unless it was used.
struct Reserved<'a> {
    tracker: &'a SequenceTracker,
    channel: &'a str,
    sequence: i64,
    spent: bool,
}

impl<'a> Reserved<'a> {
    fn next(tracker: &'a SequenceTracker, channel: &'a str) -> Result<Self, Error> {
        let used_up = || Error::UsedUp { channel: channel.to_owned() };
        let sequence = tracker.next(channel).ok_or_else(used_up)?;
        Ok(Self { tracker, channel, sequence, spent: false })
    }
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        if !self.spent {
            self.tracker.give_back(self.channel, self.sequence);
        }
    }
}

fn now_millis() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

pub(crate) fn random_seed() -> u64 {
    // A seed that is not random only makes delays equal.
    getrandom::u64().unwrap_or(0x5eed)
}
