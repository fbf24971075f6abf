//! Engines: they make a bus of receiver, dispatcher and monitor.

mod delivery;
mod drops;
#[cfg(feature = "jetstream")]
mod jetstream;
mod memory;

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use relay_proto::bus::{Message, check_cloudevent};
use relay_proto::setters;

use crate::dispatcher::MessageDispatcher;
use crate::events::Event;
use crate::handler::MonitorHandler;
use crate::metrics::Metrics;
use crate::monitor::Monitor;
use crate::receiver::Receive;

#[cfg(feature = "jetstream")]
pub use jetstream::{JetStreamEngine, JetStreamError, NatsOptions};
pub use memory::MemoryEngine;

/// Keeps messages between the receiver and the subscribers. It is a [`MonitorHandler`], for channels and
/// subscriptions, and a [`Receive`], for messages.
pub trait Engine: MonitorHandler + Receive + Clone {
    /// Accepts messages from now on; before that they are refused as `not-ready`.
    fn set_ready(&self);

    /// Whether the store of messages is available.
    fn is_available(&self) -> bool {
        true
    }

    /// Background work while the bus runs: reports dropped messages, and requests repeated calls from the monitor.
    fn attend(&self, monitor: &Monitor<Self>) -> impl Future<Output = ()> + Send;

    /// Sends messages in progress and in memory for at most this long; then ends everything. Lost messages are
    /// reported and counted.
    fn drain(&self, patience: Duration) -> impl Future<Output = u64> + Send;
}

/// Settings of an engine: `EngineOptions::default()` and setters named like the fields.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct EngineOptions {
    /// Concurrent calls per subscription. Default 64; 1 keeps the order.
    pub in_flight: usize,
    /// Messages in memory per subscription. Default 1,024. With a store of messages these are only messages whose
    /// reply is still to be sent.
    pub queue: usize,
    /// Bytes of messages in memory or in progress, per subscription. Default 64 MiB.
    pub queue_bytes: usize,
    /// Attempts per message and subscription. Default 1; 0 is no limit, for engines with a store only.
    pub max_deliver: u32,
    /// The delay before the second attempt; it doubles up to a minute. Default 1 s.
    pub retry_delay: Duration,
    /// The destination of undeliverable messages. Default none: they are dropped and reported.
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
    /// Sets the number of concurrent calls.
    in_flight: usize,
    /// Sets the number of messages in memory.
    queue: usize,
    /// Sets the bytes of messages in memory.
    queue_bytes: usize,
    /// Sets the number of attempts.
    max_deliver: u32,
    /// Sets the delay before the second attempt.
    retry_delay: Duration,
    /// Sets the destination of undeliverable messages.
    dead_letter: Option<String>,
    /// Sets whether replies must be CloudEvents.
    require_cloudevents: bool,
} }

/// The sending part of every engine.
struct Outbound {
    dispatcher: MessageDispatcher,
    options: EngineOptions,
    metrics: Arc<Metrics>,
    tell: Box<dyn Fn(&Event) + Send + Sync>,
}

impl Outbound {
    /// Whether a reply may be sent.
    fn is_taken(&self, reply: &Message) -> bool {
        !self.options.require_cloudevents || check_cloudevent(reply).is_ok()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
