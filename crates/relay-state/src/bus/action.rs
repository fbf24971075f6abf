//! Inputs and outputs of the monitor.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytestring::ByteString;
use relay_proto::bus::{
    BusReference, BusSpec, ChannelReference, ChannelSpec, Kind, Object, ResolvedParameters,
    SubscriptionReference, SubscriptionSpec,
};
use serde_json::Value;

/// The time, for delays and for timestamps in objects.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Now {
    /// Time since a fixed point, by a clock that never goes back.
    pub since_start: Duration,
    /// Seconds since 1970-01-01T00:00:00Z, by the wall clock.
    pub unix_seconds: i64,
}

/// Settings of a [`Monitor`](super::Monitor).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Settings {
    /// The bus whose channels it handles; `None`: every channel, and the handler `bus` is not called.
    pub bus: Option<BusReference>,
    /// Which calls are handled. Others are not made and count as done. Default all.
    pub handlers: Handlers,
    /// Whether conditions and events are written. Default no.
    pub writes: bool,
    /// A finalizer for provisioned channels and subscriptions. Default none.
    pub finalizer: Option<String>,
    /// Limit of concurrent calls, and of concurrent writes. Default 4; at least 1.
    pub concurrency: usize,
    /// Seed of the jitter of delays.
    pub seed: u64,
}

impl Settings {
    /// The defaults for a bus.
    pub fn new(bus: Option<BusReference>) -> Self {
        Self { bus, handlers: Handlers::default(), writes: false, finalizer: None, concurrency: 4, seed: 0 }
    }

    /// Sets the calls that are handled.
    #[must_use]
    pub fn handlers(mut self, handlers: Handlers) -> Self {
        self.handlers = handlers;
        self
    }

    /// Sets whether conditions and events are written.
    #[must_use]
    pub fn writes(mut self, writes: bool) -> Self {
        self.writes = writes;
        self
    }

    /// Sets the finalizer.
    #[must_use]
    pub fn finalizer(mut self, finalizer: Option<String>) -> Self {
        self.finalizer = finalizer;
        self
    }

    /// Sets the limit of concurrent calls.
    #[must_use]
    pub fn concurrency(mut self, concurrency: usize) -> Self {
        self.concurrency = concurrency.max(1);
        self
    }

    /// Sets the seed.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }
}

/// Which calls are handled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "five independent calls")]
pub struct Handlers {
    /// The bus itself.
    pub bus: bool,
    /// A channel that is new or changed.
    pub provision: bool,
    /// A channel that is gone.
    pub unprovision: bool,
    /// A subscription that is new or changed.
    pub subscribe: bool,
    /// A subscription that is gone.
    pub unsubscribe: bool,
}

impl Default for Handlers {
    fn default() -> Self {
        Self { bus: true, provision: true, unprovision: true, subscribe: true, unsubscribe: true }
    }
}

/// The object of an action. Each object has one action at a time.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Key {
    /// The bus.
    Bus,
    /// A channel.
    Channel(ChannelReference),
    /// A subscription.
    Subscription(SubscriptionReference),
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bus => f.write_str("bus"),
            Self::Channel(channel) => write!(f, "channel {channel}"),
            Self::Subscription(subscription) => write!(f, "subscription {subscription}"),
        }
    }
}

/// A call of a handler.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Call {
    /// The bus is new or its spec changed.
    Bus {
        /// The bus.
        bus: BusReference,
        /// Its spec.
        spec: Arc<BusSpec>,
    },
    /// A channel is new, or its spec or parameters changed.
    Provision {
        /// The channel.
        channel: ChannelReference,
        /// Its bus, if there is one.
        bus: Option<BusReference>,
        /// Its spec.
        spec: Arc<ChannelSpec>,
        /// Its parameters with their values.
        parameters: Arc<ResolvedParameters>,
    },
    /// A channel is gone.
    Unprovision {
        /// The channel.
        channel: ChannelReference,
    },
    /// A subscription is new, or its spec or parameters changed.
    Subscribe {
        /// The subscription.
        subscription: SubscriptionReference,
        /// Its channel.
        channel: ChannelReference,
        /// Its spec.
        spec: Arc<SubscriptionSpec>,
        /// Its parameters with their values.
        parameters: Arc<ResolvedParameters>,
    },
    /// A subscription is gone.
    Unsubscribe {
        /// The subscription.
        subscription: SubscriptionReference,
        /// The channel it was subscribed to.
        channel: ChannelReference,
    },
}

impl Call {
    /// `bus`, `provision`, `unprovision`, `subscribe` or `unsubscribe`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Bus { .. } => "bus",
            Self::Provision { .. } => "provision",
            Self::Unprovision { .. } => "unprovision",
            Self::Subscribe { .. } => "subscribe",
            Self::Unsubscribe { .. } => "unsubscribe",
        }
    }
}

/// A call to make. Report its result to [`Monitor::handle_called`](super::Monitor::handle_called).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Job {
    /// The object.
    pub key: Key,
    /// What to call.
    pub call: Call,
    /// 1, 2, .. since the last success of this call for this object.
    pub attempt: u32,
}

/// A Kubernetes event about an object.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Note {
    /// The object's kind.
    pub kind: Kind,
    /// Its namespace; empty for a ClusterBus.
    pub namespace: ByteString,
    /// Its name.
    pub name: ByteString,
    /// Its UID.
    pub uid: ByteString,
    /// Whether it is a warning.
    pub warning: bool,
    /// One word.
    pub reason: &'static str,
    /// A sentence.
    pub message: String,
}

/// A request about an object. Report its result to [`Monitor::handle_written`](super::Monitor::handle_written).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Write {
    /// The object.
    pub key: Key,
    /// The request.
    pub patch: Patch,
}

/// A request about an object.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Patch {
    /// Write `status.conditions`, if the object still has this version.
    Conditions {
        /// The version.
        resource_version: ByteString,
        /// The whole list.
        conditions: Value,
    },
    /// Write `metadata.finalizers`, if the object still has this version.
    Finalizers {
        /// The version.
        resource_version: ByteString,
        /// The whole list.
        finalizers: Vec<ByteString>,
    },
    /// Read the object, because its known version is old.
    Read,
}

/// How a [`Write`] ended.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Written {
    /// The current object.
    Object(Box<Object>),
    /// The object has another version.
    Conflict,
    /// The object does not exist.
    Gone,
    /// It failed.
    Failed,
    /// It failed, and the server asked for a delay before the next attempt.
    Later(Duration),
}

/// An action for the driver.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Action {
    /// All lists are complete. Given once, before the first call.
    Synced {
        /// Number of channels, including those of other buses.
        channels: usize,
        /// Number of subscriptions, including those of other buses.
        subscriptions: usize,
    },
    /// All lists are complete and the bus is not in them. Given once, as the last action.
    NoBus,
    /// Every listed object has been called once.
    Settled {
        /// Provisioned channels.
        channels: usize,
        /// Subscriptions that are subscribed.
        subscriptions: usize,
    },
    /// Call a handler.
    Call(Job),
    /// Arguments are missing, so there is no call.
    MissingArguments {
        /// The channel or subscription.
        key: Key,
        /// The names, sorted.
        missing: Vec<String>,
    },
    /// Write to an object, or read it.
    Write(Write),
    /// Send an event.
    Note(Note),
    /// Events that were dropped because too many were waiting.
    NotesDropped(u64),
}
