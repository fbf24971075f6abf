//! Events of a bus. They contain no payloads or header values.

use relay_proto::bus::{ChannelReference, SubscriptionReference};

/// An event of messages.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A message was accepted for a channel.
    Received {
        /// The channel.
        channel: ChannelReference,
    },
    /// A message was delivered, and its reply, if any, too.
    Delivered {
        /// The channel.
        channel: ChannelReference,
        /// The subscription.
        subscription: SubscriptionReference,
    },
    /// An attempt failed.
    DispatchFailed {
        /// The channel.
        channel: ChannelReference,
        /// The subscription.
        subscription: SubscriptionReference,
        /// The URL without user information, or the text of the subscription if it is not usable.
        destination: String,
        /// Why, on one line.
        error: String,
        /// Number of attempts.
        tries: u32,
        /// Whether it was the last attempt.
        last: bool,
    },
    /// Messages were dropped since the last report.
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
    /// Messages that were still queued at the end, and are lost.
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
