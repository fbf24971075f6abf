//! Counts dropped messages, and reports them at most once a second.

use std::sync::Mutex;
use std::time::Duration;

use relay_proto::bus::{ChannelReference, SubscriptionReference};
use tokio::time::Instant;

use super::{Outbound, lock};
use crate::events::{DropReason, Event};

/// Interval of reports, per subscription and reason.
pub(super) const TELL: Duration = Duration::from_secs(1);

/// Unreported drops of one subscription, and the time of the last report, by reason.
#[derive(Debug, Default)]
pub(super) struct Drops(Mutex<[(u64, Option<Instant>); 3]>);

impl Drops {
    /// One more.
    pub(super) fn count(
        &self,
        out: &Outbound,
        reason: DropReason,
        of: (&ChannelReference, &SubscriptionReference),
    ) {
        out.metrics.dropped(reason);
        lock(&self.0)[reason as usize].0 += 1;
        self.flush(out, of, false);
    }

    /// Reports the drops that are due, or all.
    pub(super) fn flush(
        &self,
        out: &Outbound,
        (channel, subscription): (&ChannelReference, &SubscriptionReference),
        all: bool,
    ) {
        let mut drops = lock(&self.0);
        for reason in DropReason::ALL {
            let (count, told) = &mut drops[reason as usize];
            if *count == 0 || !all && told.is_some_and(|told| told.elapsed() < TELL) {
                continue;
            }
            let count = std::mem::take(count);
            *told = Some(Instant::now());
            let (channel, subscription) = (channel.clone(), subscription.clone());
            (out.tell)(&Event::Dropped { channel, subscription, reason, count });
        }
    }
}
