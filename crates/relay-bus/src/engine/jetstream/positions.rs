//! Consumers that are ahead of their stream.
//!
//! When the last message of a stream is acknowledged, NATS 2.9 empties its file, and writes the last sequence of the
//! stream after that. If NATS is killed in between, the stream begins again with a lower sequence than its consumers
//! have. They would skip its messages until it has caught up with them. Such a consumer is replaced by a new one, which
//! is given everything that is stored.
//!
//! Once messages have come, a stream that went back cannot be told from one that did not. So this is checked before
//! messages are taken: at the start, and after each loss of the connection.

use std::time::Duration;

use async_nats::jetstream::Context;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use relay_proto::bus::SubscriptionReference;

use super::{Held, Inner, is_gone, lock, names, of_consumer};
use crate::handler::HandlerError;

/// How long a guard exists that was not released.
const GUARDED: Duration = Duration::from_secs(300);

/// A consumer for which NATS keeps every stored message while another consumer is replaced.
pub(super) struct Guard {
    context: Context,
    stream: String,
    name: String,
}

impl Guard {
    async fn create(context: &Context, stream: &str) -> Result<Self, HandlerError> {
        let config = pull::Config {
            deliver_policy: DeliverPolicy::All,
            ack_policy: AckPolicy::Explicit,
            inactive_threshold: GUARDED,
            ..pull::Config::default()
        };
        let made = context.create_consumer_on_stream(config, stream).await;
        let name = made.map_err(|error| of_consumer(&error))?.cached_info().name.clone();
        Ok(Self { context: context.clone(), stream: stream.to_owned(), name })
    }

    /// Deletes it. If that fails, NATS does so later.
    pub(super) async fn release(self) {
        let _ = self.context.delete_consumer_from_stream(self.name, self.stream).await;
    }
}

impl Inner {
    /// Whether a consumer was given messages that its stream has not had yet.
    pub(super) async fn is_ahead(&self, stream: &str, consumer: &Held) -> Result<bool, HandlerError> {
        // The stream is asked after the consumer, so that messages that come meanwhile do no harm.
        let info = self.context.get_stream(stream).await;
        let info = info.map_err(|error| {
            HandlerError::failed(format!("the stream: {}", relay_proto::error::chain(&error)))
        })?;
        Ok(info.cached_info().state.last_sequence < consumer.delivered)
    }

    /// Ends the worker of a subscription and deletes its consumer, if that is ahead of its stream. The guard is to be
    /// released once the consumer exists again. `None`: another process was faster.
    pub(super) async fn delete_if_ahead(
        &self,
        subscription: &SubscriptionReference,
        stream: &str,
        durable: &str,
    ) -> Result<Option<Guard>, HandlerError> {
        let guard = Guard::create(&self.context, stream).await?;
        let ahead = match self.consumer(stream, durable).await? {
            Some(consumer) => self.is_ahead(stream, &consumer).await?,
            None => false,
        };
        if !ahead {
            guard.release().await;
            return Ok(None);
        }
        tracing::warn!(%subscription, "its consumer is ahead of the stream, and made again");
        self.end(subscription).await;
        // The new one begins with all stored messages.
        lock(&self.state).known.insert(subscription.clone());
        let name = names::consumer(stream, durable);
        self.removals.gone(name.clone());
        match self.context.delete_consumer_from_stream(durable, stream).await {
            Ok(_) => self.removals.forget(&name, true),
            Err(error) if is_gone(&error) => {}
            Err(error) => return Err(of_consumer(&error)),
        }
        Ok(Some(guard))
    }
}
