//! What makes a bus of receiver, dispatcher and monitor: an engine.

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

/// What keeps messages between the receiver and the subscribers: a [`MonitorHandler`], which is told what there is, and
/// a [`Receive`], which is handed what comes.
pub trait Engine: MonitorHandler + Receive + Clone {
    /// From now on messages are taken; before that they are refused as `not-ready`.
    fn set_ready(&self);

    /// Whether what keeps the messages is there.
    fn is_available(&self) -> bool {
        true
    }

    /// What goes on beside requests and calls, for as long as the bus runs: tells of dropped messages that were not
    /// told of yet, and has the monitor call again what came to need it.
    fn attend(&self, monitor: &Monitor<Self>) -> impl Future<Output = ()> + Send;

    /// Lets what is under way, and what waits in memory, be sent for at most this long; then ends everything. What is
    /// lost is told, and counted.
    fn drain(&self, patience: Duration) -> impl Future<Output = u64> + Send;
}

/// Settings of an engine: `EngineOptions::default()` and setters named like the fields.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct EngineOptions {
    /// Calls at a time, for each subscription. Default 64; 1 keeps the order.
    pub in_flight: usize,
    /// Messages that wait in memory, for each subscription. Default 1,024. Where a store keeps the messages, those are
    /// only the ones whose subscriber was reached, and whose reply was not.
    pub queue: usize,
    /// Bytes of messages that wait in memory or are under way, for each subscription. Default 64 MiB.
    pub queue_bytes: usize,
    /// Tries for each message and subscription. Default 1; 0 is no limit, which only a store should have.
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

/// What every engine sends with.
struct Outbound {
    dispatcher: MessageDispatcher,
    options: EngineOptions,
    metrics: Arc<Metrics>,
    tell: Box<dyn Fn(&Event) + Send + Sync>,
}

impl Outbound {
    /// Whether a reply may go on.
    fn is_taken(&self, reply: &Message) -> bool {
        !self.options.require_cloudevents || check_cloudevent(reply).is_ok()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
