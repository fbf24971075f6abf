//! Detects when every listed object has been called once.

use std::collections::BTreeSet;

use relay_proto::bus::{ChannelReference, SubscriptionReference};

use super::action::{Action, Key};
use super::monitor::Monitor;
use super::record::Need;

impl Monitor {
    /// Removes the key from the set of keys to be called.
    pub(super) fn check_settled(&mut self, key: &Key) {
        let Some(unsettled) = &self.unsettled else { return };
        let settled = unsettled.contains(key) && self.is_settled(key);
        if let Some(unsettled) = self.unsettled.as_mut().filter(|_| settled) {
            unsettled.remove(key);
        }
        if self.unsettled.as_ref().is_some_and(BTreeSet::is_empty) {
            self.unsettled = None;
            let (channels, subscriptions) = self.counts();
            self.out.push_back(Action::Settled { channels, subscriptions });
        }
    }

    fn is_settled(&self, key: &Key) -> bool {
        match key {
            Key::Bus => self.bus.running.is_none() && (self.bus.attempted || self.bus.need().is_none()),
            Key::Channel(channel) => {
                let Some(record) = self.channels.get(channel) else { return true };
                let stuck = |key: &SubscriptionReference| {
                    self.subscriptions
                        .get(key)
                        .is_some_and(|record| record.attempted && record.running.is_none())
                };
                record.running.is_none()
                    && match self.need_of_channel(channel) {
                        Need::Nothing | Need::Refuse(_) => true,
                        Need::Call(_) => record.attempted,
                        Need::Finalizer(_) => false,
                        Need::Wait => self.by_channel.get(channel).is_none_or(|keys| keys.iter().any(stuck)),
                    }
            }
            Key::Subscription(subscription) => {
                let Some(record) = self.subscriptions.get(subscription) else { return true };
                record.running.is_none()
                    && match self.need_of_subscription(subscription) {
                        Need::Nothing | Need::Refuse(_) => true,
                        Need::Call(_) => record.attempted,
                        Need::Finalizer(_) => false,
                        Need::Wait => {
                            let wanted = record.wanted.as_ref();
                            wanted.is_none_or(|wanted| {
                                let channel = ChannelReference::new(
                                    wanted.spec.channel.clone(),
                                    subscription.namespace(),
                                );
                                self.is_settled(&Key::Channel(channel))
                            })
                        }
                    }
            }
        }
    }
}
