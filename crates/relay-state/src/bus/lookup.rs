//! Queries for provisioned channels and subscribed subscriptions.

use std::sync::Arc;

use relay_proto::bus::{ChannelReference, ChannelSpec, SubscriptionReference, SubscriptionSpec};

use super::monitor::Monitor;

impl Monitor {
    /// The spec with which the channel is provisioned; `None` when it is not.
    pub fn channel(&self, channel: &ChannelReference) -> Option<Arc<ChannelSpec>> {
        self.channel_stands(channel)
            .then(|| self.channels.get(channel)?.stands().map(|done| done.spec.clone()))?
    }

    /// The spec with which the subscription is subscribed; `None` when it is not.
    pub fn subscription(&self, subscription: &SubscriptionReference) -> Option<Arc<SubscriptionSpec>> {
        self.subscriptions.get(subscription)?.stands().map(|done| done.spec.clone())
    }

    /// The subscriptions of a channel that are subscribed, by name; `None` when the channel is not provisioned, which
    /// is not the same as an empty list.
    pub fn subscriptions(
        &self,
        channel: &ChannelReference,
    ) -> Option<Vec<(SubscriptionReference, Arc<SubscriptionSpec>)>> {
        if !self.channel_stands(channel) {
            return None;
        }
        let keys = self.by_channel.get(channel).into_iter().flatten();
        let subscribed = keys.filter_map(|key| {
            let done = self.subscriptions.get(key)?.stands()?;
            (*done.spec.channel == *channel.name()).then(|| (key.clone(), done.spec.clone()))
        });
        Some(subscribed.collect())
    }

    /// Whether the channel belongs to this bus, by its object.
    pub fn wants_channel(&self, channel: &ChannelReference) -> bool {
        let wanted = self.channels.get(channel).and_then(|record| record.wanted.as_ref());
        wanted.is_some_and(|wanted| self.is_ours(channel, wanted))
    }

    /// Whether this subscription to this channel exists, and the channel belongs to this bus.
    pub fn wants_subscription(
        &self,
        subscription: &SubscriptionReference,
        channel: &ChannelReference,
    ) -> bool {
        let wanted = self.subscriptions.get(subscription).and_then(|record| record.wanted.as_ref());
        wanted.is_some_and(|wanted| *wanted.spec.channel == *channel.name()) && self.wants_channel(channel)
    }

    /// How many channels are provisioned and how many subscriptions are subscribed.
    pub fn counts(&self) -> (usize, usize) {
        let channels = self.channels.keys().filter(|channel| self.channel_stands(channel)).count();
        let subscriptions = self.subscriptions.values().filter(|record| record.stands().is_some()).count();
        (channels, subscriptions)
    }

    /// Whether all lists have been complete once.
    pub fn is_synced(&self) -> bool {
        self.synced
    }

    /// Calls in progress.
    pub fn calls_under_way(&self) -> usize {
        self.calls
    }
}
