//! What a bus tells of its work. Payloads and header values are never in it.

use relay_proto::bus::{ChannelReference, SubscriptionReference};

/// Something that happened to messages.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A message was taken for a channel.
    Received {
        /// The channel.
        channel: ChannelReference,
    },
    /// A message reached a subscriber, and its answer what it was for.
    Delivered {
        /// The channel.
        channel: ChannelReference,
        /// The subscription.
        subscription: SubscriptionReference,
    },
    /// A try failed.
    DispatchFailed {
        /// The channel.
        channel: ChannelReference,
        /// The subscription.
        subscription: SubscriptionReference,
        /// The URL, without user information; what the subscription says where that leads nowhere.
        destination: String,
        /// Why, on one line.
        error: String,
        /// How many tries there were.
        tries: u32,
        /// Whether it was the last.
        last: bool,
    },
    /// Messages were dropped since this was last told.
    Dropped {
        /// The channel.
        channel: ChannelReference,
        /// The subscription.
        subscription: SubscriptionReference,
        /// Why.
        reason: DropReason,
        /// How many.
        count: u64,
    },
    /// At the end so many messages were still waiting, and are lost.
    Unsent {
        /// How many.
        count: u64,
    },
}

/// Why a message is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum DropReason {
    /// Too many messages, or bytes, wait for the subscription.
    QueueFull,
    /// The subscription has neither a subscriber nor a destination of replies.
    NoDestination,
    /// CloudEvents are required, and the reply is none.
    NotACloudEvent,
}

impl DropReason {
    pub(crate) const ALL: [Self; 3] = [Self::QueueFull, Self::NoDestination, Self::NotACloudEvent];

    /// `queue-full`, `no-destination` or `not-a-cloudevent`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::QueueFull => "queue-full",
            Self::NoDestination => "no-destination",
            Self::NotACloudEvent => "not-a-cloudevent",
        }
    }
}
