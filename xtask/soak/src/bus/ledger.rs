//! The messages that each subscription must get, and those that it must not get.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, ensure};

use super::wire::Subscribers;

/// The guarantee for a message that was answered with 202.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Promise {
    /// It reaches every subscription, or a line reports its loss; unless the bus was killed in between.
    Told,
    /// It reaches every subscription at least once.
    Delivered,
}

/// Messages, and the subscriptions that existed during a whole round.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// The channel of each message that was sent, whatever the answer was.
    sent: BTreeMap<String, String>,
    /// Messages of this round that were answered with 202, by channel.
    accepted: BTreeMap<String, BTreeSet<String>>,
    /// Subscriptions that existed when the round began and still exist, with their channels.
    steady: BTreeMap<String, String>,
    /// For each subscription, the lines of this round that report a lost message.
    told: BTreeMap<String, u64>,
    killed: bool,
    accepted_ever: u64,
}

impl Ledger {
    /// A round begins; everybody agrees on these subscriptions.
    pub(super) fn begin(&mut self, subscriptions: &BTreeMap<String, String>) {
        (self.accepted, self.told, self.killed) = (BTreeMap::new(), BTreeMap::new(), false);
        self.steady.clone_from(subscriptions);
    }

    pub(super) fn sent(&mut self, message: &str, channel: &str, status: Option<u16>) {
        self.sent.insert(message.to_owned(), channel.to_owned());
        if status == Some(202) {
            self.accepted_ever += 1;
            self.accepted.entry(channel.to_owned()).or_default().insert(message.to_owned());
        }
    }

    /// Messages that were ever answered with 202.
    pub(super) fn accepted_ever(&self) -> u64 {
        self.accepted_ever
    }

    /// A subscription was removed: from now on it need not get anything.
    pub(super) fn removed(&mut self, subscription: &str) {
        self.steady.remove(subscription);
    }

    pub(super) fn killed(&mut self) {
        self.killed = true;
    }

    /// The bus has reported that this many messages are lost for a subscription.
    pub(super) fn told(&mut self, subscription: &str, count: u64) {
        *self.told.entry(subscription.to_owned()).or_default() += count;
    }

    /// Checks that everything that must arrive has arrived.
    pub(super) fn settled(&self, promise: Promise, subscribers: &Subscribers) -> Result<()> {
        if promise == Promise::Told && self.killed {
            return Ok(());
        }
        let got = subscribers.got();
        for (subscription, channel) in &self.steady {
            let Some(owed) = self.accepted.get(channel) else { continue };
            let missing: Vec<_> = owed
                .iter()
                .filter(|message| !got.get(subscription).is_some_and(|got| got.contains_key(*message)))
                .collect();
            let told = match promise {
                Promise::Told => self.told.get(subscription).copied().unwrap_or(0),
                Promise::Delivered => 0,
            };
            ensure!(
                missing.len() as u64 <= told,
                "{subscription} did not get {} of {} messages of {channel}, {told} were told of: {:?}",
                missing.len(),
                owed.len(),
                &missing[..missing.len().min(5)]
            );
        }
        Ok(())
    }

    /// Checks that nobody got a message of another channel, or one that was never sent.
    pub(super) fn nothing_strange(
        &self,
        channel_of: impl Fn(&str) -> String,
        subscribers: &Subscribers,
    ) -> Result<()> {
        for (subscription, got) in &*subscribers.got() {
            let channel = channel_of(subscription);
            for message in got.keys() {
                let sent = self.sent.get(message);
                ensure!(
                    sent == Some(&channel),
                    "{subscription} of {channel} was sent {message:?}, which is of {sent:?}"
                );
            }
        }
        Ok(())
    }
}
