//! Conditions and finalizers: writes and their failures. They never repeat a call of a handler.

use std::time::Duration;

use relay_proto::bus::Object;

use super::action::{Action, Key, Now, Patch, Write, Written};
use super::limits::backoff;
use super::monitor::{Monitor, Records};
use super::record::{Record, Wanted, Writing};

/// The longest delay that a server's request for a pause can cause.
const LONGEST_WISH: Duration = Duration::from_secs(60);

impl Monitor {
    /// A write or a read ended.
    pub fn handle_written(&mut self, key: &Key, written: Written, now: Now) {
        self.writes_running = self.writes_running.saturating_sub(1);
        let finalizer = self.settings.finalizer.clone();
        let seed = self.settings.seed ^ now.since_start.as_nanos() as u64;
        let least = match written {
            Written::Failed => Some(Duration::ZERO),
            Written::Later(after) => Some(after.min(LONGEST_WISH)),
            // After the first conflict the object is read again at once; further conflicts in a row count as failures.
            Written::Conflict => {
                self.writing(key).filter(|writing| writing.retry.is_some()).map(|_| Duration::ZERO)
            }
            _ => None,
        };
        match key {
            Key::Bus => return,
            Key::Channel(_) => {
                let Some(record) = Records::<relay_proto::bus::ChannelSpec>::record(self, key) else {
                    return;
                };
                take_in(record, written, finalizer.as_deref(), seed, now)
            }
            Key::Subscription(_) => {
                let Some(record) = Records::<relay_proto::bus::SubscriptionSpec>::record(self, key) else {
                    return;
                };
                take_in(record, written, finalizer.as_deref(), seed, now)
            }
        };
        if let Some(least) = least {
            let common = self.bucket.take(now.since_start);
            let Some(writing) = self.writing(key) else { return };
            let retry = writing.retry.get_or_insert_with(|| Box::new(backoff(seed)));
            let due = now.since_start + retry.next_delay().max(common).max(least);
            writing.due = due;
            self.write_timers.insert((due, key.clone()));
        } else {
            self.queue_write(key);
        }
        self.wake(key.clone());
    }

    fn writing(&mut self, key: &Key) -> Option<&mut Writing> {
        match key {
            Key::Bus => None,
            Key::Channel(channel) => self.channels.get_mut(channel).map(|record| &mut record.writing),
            Key::Subscription(key) => self.subscriptions.get_mut(key).map(|record| &mut record.writing),
        }
    }

    pub(super) fn queue_write(&mut self, key: &Key) {
        let Some(writing) = self.writing(key) else { return };
        let open = writing.condition.is_some() || writing.finalizer.is_some();
        if open && !writing.running && !std::mem::replace(&mut writing.queued, true) {
            self.writes.push_back(key.clone());
        }
    }

    pub(super) fn next_write(&mut self, now: Now) -> Option<Action> {
        while self.writes_running < self.settings.concurrency {
            let key = self.writes.pop_front()?;
            let finalizer = self.settings.finalizer.clone();
            let patch = match &key {
                Key::Bus => None,
                Key::Channel(channel) => {
                    let record = self.channels.get_mut(channel);
                    record.and_then(|record| patch(record, true, finalizer.as_deref(), now))
                }
                Key::Subscription(subscription) => {
                    let record = self.subscriptions.get_mut(subscription);
                    record.and_then(|record| patch(record, false, finalizer.as_deref(), now))
                }
            };
            if let Some(patch) = patch {
                self.writes_running += 1;
                return Some(Action::Write(Write { key, patch }));
            }
        }
        None
    }

    /// Whether a write is pending or in progress.
    pub fn is_writing(&self) -> bool {
        self.writes_running > 0 || !self.writes.is_empty()
    }
}

/// The next write, from the known state of the object.
fn patch<S>(record: &mut Record<S>, channel: bool, finalizer: Option<&str>, now: Now) -> Option<Patch> {
    let writing = &mut record.writing;
    writing.queued = false;
    if writing.running || writing.due > now.since_start {
        return None;
    }
    let Some(Wanted { metadata, conditions, .. }) = &record.wanted else {
        writing.condition = None;
        writing.finalizer = None;
        return None;
    };
    let resource_version = metadata.resource_version.clone();
    let patch = if writing.read {
        Patch::Read
    } else if let (Some(there), Some(ours)) = (writing.finalizer, finalizer) {
        let mut finalizers = metadata.finalizers.clone();
        finalizers.retain(|finalizer| &**finalizer != ours);
        if there && !metadata.deleting {
            finalizers.push(ours.into());
        }
        if finalizers == metadata.finalizers {
            writing.finalizer = None;
            return patch(record, channel, finalizer, now);
        }
        Patch::Finalizers { resource_version, finalizers }
    } else {
        let condition = writing.condition.as_ref()?;
        let mut conditions = conditions.clone();
        let mut changed = conditions.set(condition, now.unix_seconds);
        if channel {
            changed |= conditions.set_ready(now.unix_seconds);
        }
        if !changed {
            writing.condition = None;
            return None;
        }
        Patch::Conditions { resource_version, conditions: conditions.as_value() }
    };
    writing.running = true;
    Some(patch)
}

/// Records the result of a write, except for the retry time.
fn take_in<S>(record: &mut Record<S>, written: Written, finalizer: Option<&str>, seed: u64, now: Now) {
    let writing = &mut record.writing;
    writing.running = false;
    let object = match written {
        Written::Failed | Written::Later(_) => return,
        Written::Conflict => {
            writing.read = true;
            writing.retry.get_or_insert_with(|| Box::new(backoff(seed)));
            return;
        }
        Written::Gone => None,
        Written::Object(object) => Some(object),
    };
    // A read that succeeds does not say that a write would.
    if !std::mem::take(&mut writing.read) {
        writing.retry = None;
    }
    writing.due = now.since_start;
    let (metadata, conditions) = match object.map(|object| *object) {
        Some(Object::Channel(channel)) => (channel.metadata, channel.conditions),
        Some(Object::Subscription(subscription)) => (subscription.metadata, subscription.conditions),
        _ => {
            // It is gone: no finalizer is needed.
            if let (Some(wanted), Some(ours)) = (&mut record.wanted, finalizer) {
                wanted.metadata.finalizers.retain(|finalizer| &**finalizer != ours);
            }
            (writing.condition, writing.finalizer) = (None, None);
            return;
        }
    };
    let Some(wanted) = record.wanted.as_mut().filter(|wanted| wanted.metadata.uid == metadata.uid) else {
        (writing.condition, writing.finalizer) = (None, None);
        return;
    };
    // The watch may have shown a later version already. The spec is taken from the watch only.
    let order = |version: &str| version.parse::<u64>().ok();
    let later = order(&wanted.metadata.resource_version) > order(&metadata.resource_version);
    if !later {
        wanted.metadata = metadata;
        wanted.conditions = conditions;
    }
}
