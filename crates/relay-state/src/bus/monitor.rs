//! The monitor: a queue of keys, and the next action for each.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytestring::ByteString;
use relay_proto::bus::{
    Channel, ChannelReference, ChannelSpec, GenericBus, Kind, Object, Subscription, SubscriptionReference,
    SubscriptionSpec,
};

use super::action::{Action, Call, Job, Key, Note, Now, Settings};
use super::limits::{Bucket, backoff};
use super::record::{Attempt, Bus, Done, Failed, Need, Record, Spec, same_bus};

/// Decides what to call: see the [module](super).
///
/// **After every input, call [`poll`](Self::poll) until it returns `None`, and again at
/// [`poll_timeout`](Self::poll_timeout).**
///
/// ```text
///   handle_list of each kind ──> Synced ──> the bus is called once ──> calls; Settled once all were called
///   handle_applied, handle_deleted, handle_called, requeue_subscription ──> the key, and keys that depend on it,
///                                                                           are looked at again
///   a failure ──> the key waits: 5 ms, doubling up to 1000 s; all keys together: 10 a second after the first 100
/// ```
#[derive(Debug)]
pub struct Monitor {
    pub(super) settings: Settings,
    pub(super) bus: Bus,
    pub(super) channels: BTreeMap<ChannelReference, Record<ChannelSpec>>,
    pub(super) subscriptions: BTreeMap<SubscriptionReference, Record<SubscriptionSpec>>,
    /// Subscriptions by channel: the one that each names, and the one that it is subscribed to.
    pub(super) by_channel: BTreeMap<ChannelReference, BTreeSet<SubscriptionReference>>,
    listed: [bool; 2],
    /// Channels of the first list that could not be decoded.
    undecoded: BTreeSet<ChannelReference>,
    pub(super) synced: bool,
    over: bool,
    stopping: bool,
    queue: VecDeque<Key>,
    /// Failed keys by the time of their retry.
    timers: BTreeSet<(Duration, Key)>,
    pub(super) writes: VecDeque<Key>,
    pub(super) write_timers: BTreeSet<(Duration, Key)>,
    pub(super) writes_running: usize,
    pub(super) bucket: Bucket,
    pub(super) calls: usize,
    pub(super) out: VecDeque<Action>,
    pub(super) notes: usize,
    pub(super) notes_dropped: u64,
    /// Listed keys that were not called yet; `None` when `Settled` is not wanted.
    pub(super) unsettled: Option<BTreeSet<Key>>,
    seeds: u64,
}

impl Monitor {
    /// A monitor without objects.
    pub fn new(settings: Settings) -> Self {
        Self {
            seeds: settings.seed,
            settings,
            bus: Bus::default(),
            channels: BTreeMap::new(),
            subscriptions: BTreeMap::new(),
            by_channel: BTreeMap::new(),
            listed: [false; 2],
            undecoded: BTreeSet::new(),
            synced: false,
            over: false,
            stopping: false,
            queue: VecDeque::new(),
            timers: BTreeSet::new(),
            writes: VecDeque::new(),
            write_timers: BTreeSet::new(),
            writes_running: 0,
            bucket: Bucket::new(),
            calls: 0,
            out: VecDeque::new(),
            notes: 0,
            notes_dropped: 0,
            unsettled: None,
        }
    }

    /// All objects of a kind. Other objects are gone, except those in `kept`: names and namespaces of objects that
    /// exist but could not be decoded.
    pub fn handle_list(&mut self, kind: Kind, objects: Vec<Object>, kept: &[(&str, &str)], now: Now) {
        let there = |object: &Object| (object.metadata().name.clone(), object.metadata().namespace.clone());
        let mut named: BTreeSet<(ByteString, ByteString)> = objects.iter().map(there).collect();
        named.extend(kept.iter().map(|(name, namespace)| ((*name).into(), (*namespace).into())));
        match kind {
            Kind::Bus | Kind::ClusterBus => self.bus.listed = true,
            Kind::Channel => {
                let is_gone =
                    |key: &&ChannelReference| !named.contains(&(key.name().into(), key.namespace().into()));
                let gone: Vec<_> = self.channels.keys().filter(is_gone).cloned().collect();
                gone.into_iter().for_each(|key| self.lose_channel(&key));
                self.listed[0] = true;
                if !self.synced {
                    let channel = |(name, namespace): &(&str, &str)| ChannelReference::new(*name, *namespace);
                    self.undecoded = kept.iter().map(channel).collect();
                }
            }
            Kind::Subscription => {
                let is_gone = |key: &&SubscriptionReference| {
                    !named.contains(&(key.name().into(), key.namespace().into()))
                };
                let gone: Vec<_> = self.subscriptions.keys().filter(is_gone).cloned().collect();
                gone.into_iter().for_each(|key| self.lose_subscription(&key));
                self.listed[1] = true;
            }
        }
        for object in objects {
            self.handle_applied(object, now);
        }
        self.sync();
    }

    /// An object is new or changed.
    pub fn handle_applied(&mut self, object: Object, _now: Now) {
        match object {
            Object::Bus(bus) => self.see_bus(&bus),
            Object::Channel(channel) => self.see_channel(channel),
            Object::Subscription(subscription) => self.see_subscription(subscription),
            _ => {}
        }
    }

    /// An object is gone. The spec of a deleted bus remains in use.
    pub fn handle_deleted(&mut self, kind: Kind, name: &str, namespace: &str, _now: Now) {
        match kind {
            Kind::Bus | Kind::ClusterBus => {}
            Kind::Channel => self.lose_channel(&ChannelReference::new(name, namespace)),
            Kind::Subscription => self.lose_subscription(&SubscriptionReference::new(name, namespace)),
        }
    }

    /// A call ended.
    pub fn handle_called(&mut self, key: &Key, result: Result<(), String>, now: Now) {
        self.calls = self.calls.saturating_sub(1);
        match key {
            Key::Bus => self.bus_called(result, now),
            Key::Channel(channel) => {
                let Some(record) = self.channels.get_mut(channel) else { return };
                let Some(attempt) = record.running.take() else { return };
                let seed = next_seed(&mut self.seeds);
                let due = ended(record, &attempt, &result, seed, &mut self.bucket, now);
                self.tell(key, &attempt, &result);
                self.called(key, due);
                self.wake_subscriptions(channel);
            }
            Key::Subscription(subscription) => {
                let Some(record) = self.subscriptions.get_mut(subscription) else { return };
                let Some(attempt) = record.running.take() else { return };
                let seed = next_seed(&mut self.seeds);
                let due = ended(record, &attempt, &result, seed, &mut self.bucket, now);
                self.tell(key, &attempt, &result);
                self.called(key, due);
                let channel = ChannelReference::new(attempt.spec.channel.clone(), subscription.namespace());
                self.wake(Key::Channel(channel.clone()));
                self.index(subscription, &channel);
            }
        }
    }

    /// A call turned out not to be handled: it is not made again, and counts as done.
    pub fn handle_not_set(&mut self, job: &Job, now: Now) {
        let handlers = &mut self.settings.handlers;
        match job.call {
            Call::Bus { .. } => handlers.bus = false,
            Call::Provision { .. } => handlers.provision = false,
            Call::Unprovision { .. } => handlers.unprovision = false,
            Call::Subscribe { .. } => handlers.subscribe = false,
            Call::Unsubscribe { .. } => handlers.unsubscribe = false,
        }
        self.handle_called(&job.key, Ok(()), now);
    }

    /// Calls subscribe once more, although nothing changed.
    pub fn requeue_subscription(&mut self, subscription: &SubscriptionReference) {
        if let Some(record) = self.subscriptions.get_mut(subscription) {
            record.forced = true;
            record.failed = None;
            self.wake(Key::Subscription(subscription.clone()));
        }
    }

    /// Retries failed keys at once, because the cause is gone.
    pub fn retry_now(&mut self) {
        for (_, key) in std::mem::take(&mut self.timers) {
            match &key {
                Key::Bus => self.bus.failed = None,
                Key::Channel(channel) => {
                    self.channels.get_mut(channel).into_iter().for_each(|record| record.failed = None);
                }
                Key::Subscription(key) => {
                    self.subscriptions.get_mut(key).into_iter().for_each(|record| record.failed = None);
                }
            }
            self.wake(key);
        }
    }

    /// Requests [`Action::Settled`] once every known object has been called. The first one comes without a request,
    /// after [`Action::Synced`].
    pub fn settle(&mut self) {
        self.channels.values_mut().for_each(|record| record.attempted = false);
        self.subscriptions.values_mut().for_each(|record| record.attempted = false);
        let channels = self.channels.keys().cloned().map(Key::Channel);
        let keys = channels.chain(self.subscriptions.keys().cloned().map(Key::Subscription));
        self.unsettled = Some(keys.chain([Key::Bus]).collect());
        self.wake_all();
    }

    /// Starts no new calls. Results of calls in progress must still be reported, and their conditions are written.
    pub fn stop(&mut self) {
        self.stopping = true;
    }

    /// The next action.
    pub fn poll(&mut self, now: Now) -> Option<Action> {
        if self.over {
            return self.out.pop_front();
        }
        for key in due(&mut self.timers, now.since_start) {
            self.wake(key);
        }
        for key in due(&mut self.write_timers, now.since_start) {
            self.queue_write(&key);
        }
        loop {
            if let Some(action) = self.out.pop_front() {
                if matches!(action, Action::Note(_)) {
                    self.notes -= 1;
                }
                return Some(action);
            }
            if self.notes_dropped > 0 {
                return Some(Action::NotesDropped(std::mem::take(&mut self.notes_dropped)));
            }
            if let Some(write) = self.next_write(now) {
                return Some(write);
            }
            if !self.synced || self.stopping || self.calls >= self.settings.concurrency {
                return None;
            }
            // The bus is called before everything else, once.
            if !self.bus.attempted && self.settings.bus.is_some() && self.settings.handlers.bus {
                if !self.bus.queued || self.bus.running.is_some() {
                    return None;
                }
                self.queue.retain(|key| *key != Key::Bus);
                self.queue.push_front(Key::Bus);
            }
            let key = self.queue.pop_front()?;
            if let Some(action) = self.look_at(&key, now) {
                return Some(action);
            }
            self.check_settled(&key);
        }
    }

    /// When to poll again without an input; `None`: only after an input.
    pub fn poll_timeout(&self) -> Option<Duration> {
        let calls = self.timers.first().filter(|_| self.synced && !self.stopping).map(|(due, _)| *due);
        let writes = self.write_timers.first().map(|(due, _)| *due);
        calls.into_iter().chain(writes).min()
    }

    fn sync(&mut self) {
        let whole = (self.bus.listed || self.settings.bus.is_none()) && self.listed == [true; 2];
        if self.synced || !whole || self.over {
            return;
        }
        if self.settings.bus.is_some() && self.bus.seen.is_none() {
            self.over = true;
            self.out.push_back(Action::NoBus);
            return;
        }
        self.synced = true;
        let channels = self.channels.values().filter(|record| record.wanted.is_some()).count();
        let subscriptions = self.subscriptions.values().filter(|record| record.wanted.is_some()).count();
        self.out.push_back(Action::Synced { channels, subscriptions });
        let undecoded = std::mem::take(&mut self.undecoded);
        self.find_orphans(&undecoded);
        self.settle();
    }

    fn see_bus(&mut self, bus: &GenericBus) {
        if self.settings.bus.as_ref() != Some(&bus.reference()) {
            return;
        }
        let seen = (bus.metadata().uid.clone(), bus.spec().clone());
        if self.bus.seen.as_ref().is_some_and(|held| same_bus(held, &seen)) {
            return;
        }
        let parameters = |spec: &relay_proto::bus::BusSpec| {
            (spec.channel_parameters.clone(), spec.subscription_parameters.clone())
        };
        let changed = parameters(&self.bus.spec_in_force()) != parameters(&seen.1);
        self.bus.seen = Some(seen);
        self.wake(Key::Bus);
        if changed && self.synced {
            self.wake_all();
        }
    }

    fn see_channel(&mut self, channel: Channel) {
        let key = channel.reference();
        let record = self.channels.entry(key.clone()).or_default();
        if record.see(channel.metadata, channel.spec, channel.conditions) {
            self.wake_subscriptions(&key);
            self.wake(Key::Channel(key));
        }
    }

    fn see_subscription(&mut self, subscription: Subscription) {
        let (key, channel) = (subscription.reference(), subscription.channel());
        let record = self.subscriptions.entry(key.clone()).or_default();
        if record.see(subscription.metadata, subscription.spec, subscription.conditions) {
            self.index(&key, &channel);
            self.wake(Key::Channel(channel));
            self.wake(Key::Subscription(key));
        }
    }

    fn lose_channel(&mut self, key: &ChannelReference) {
        let Some(record) = self.channels.get_mut(key) else { return };
        if record.lose() {
            self.wake_subscriptions(key);
            self.wake(Key::Channel(key.clone()));
        }
    }

    fn lose_subscription(&mut self, key: &SubscriptionReference) {
        let Some(record) = self.subscriptions.get_mut(key) else { return };
        if record.lose() {
            self.wake(Key::Subscription(key.clone()));
        }
    }

    /// Indexes the subscription under this channel, and removes outdated entries.
    fn index(&mut self, key: &SubscriptionReference, channel: &ChannelReference) {
        self.by_channel.entry(channel.clone()).or_default().insert(key.clone());
        let record = self.subscriptions.get(key);
        let names = |other: &ChannelReference| {
            record.is_some_and(|record| {
                let specs = [
                    record.wanted.as_ref().map(|wanted| &wanted.spec),
                    record.done.as_ref().map(|done| &done.spec),
                    record.running.as_ref().map(|running| &running.spec),
                ];
                specs.into_iter().flatten().any(|spec| *spec.channel == *other.name())
            })
        };
        if !names(channel) {
            if let Some(keys) = self.by_channel.get_mut(channel) {
                keys.remove(key);
            }
            if self.by_channel.get(channel).is_some_and(BTreeSet::is_empty) {
                self.by_channel.remove(channel);
            }
        }
    }

    fn wake_all(&mut self) {
        let channels = self.channels.keys().cloned().map(Key::Channel);
        let keys: Vec<_> =
            channels.chain(self.subscriptions.keys().cloned().map(Key::Subscription)).collect();
        self.wake(Key::Bus);
        keys.into_iter().for_each(|key| self.wake(key));
    }

    fn wake_subscriptions(&mut self, channel: &ChannelReference) {
        let keys: Vec<_> = self.by_channel.get(channel).into_iter().flatten().cloned().collect();
        keys.into_iter().for_each(|key| self.wake(Key::Subscription(key)));
    }

    fn queued(&mut self, key: &Key) -> Option<&mut bool> {
        match key {
            Key::Bus => Some(&mut self.bus.queued),
            Key::Channel(channel) => self.channels.get_mut(channel).map(|record| &mut record.queued),
            Key::Subscription(key) => self.subscriptions.get_mut(key).map(|record| &mut record.queued),
        }
    }

    pub(super) fn wake(&mut self, key: Key) {
        if let Some(queued) = self.queued(&key)
            && !std::mem::replace(queued, true)
        {
            self.queue.push_back(key);
        }
    }

    /// Handles a key from the queue.
    fn look_at(&mut self, key: &Key, now: Now) -> Option<Action> {
        if let Some(queued) = self.queued(key) {
            *queued = false;
        }
        match key {
            Key::Bus => self.look_at_bus(now),
            Key::Channel(channel) => {
                if self.channels.get(channel)?.running.is_some() {
                    return None;
                }
                let need = self.need_of_channel(channel);
                let attempt = self.follow(key, need, now)?;
                let call = if attempt.undo {
                    Call::Unprovision { channel: channel.clone() }
                } else {
                    let (spec, parameters) = (attempt.spec.clone(), attempt.parameters.clone());
                    Call::Provision {
                        channel: channel.clone(),
                        bus: self.settings.bus.clone(),
                        spec,
                        parameters,
                    }
                };
                let record = self.channels.get_mut(channel)?;
                let number = begin(record, attempt);
                // Its subscriptions may have to wait now.
                self.start(key, call, number, now)
            }
            Key::Subscription(subscription) => {
                if self.subscriptions.get(subscription)?.running.is_some() {
                    return None;
                }
                let need = self.need_of_subscription(subscription);
                let attempt = self.follow(key, need, now)?;
                let channel = ChannelReference::new(attempt.spec.channel.clone(), subscription.namespace());
                let subscription = subscription.clone();
                let record = self.subscriptions.get_mut(&subscription)?;
                let call = if attempt.undo {
                    Call::Unsubscribe { subscription, channel }
                } else {
                    let (spec, parameters) = (attempt.spec.clone(), attempt.parameters.clone());
                    Call::Subscribe { subscription, channel, spec, parameters }
                };
                let number = begin(record, attempt);
                self.start(key, call, number, now)
            }
        }
    }

    /// Carries out a need, except for a call.
    fn follow<S: Spec + 'static>(&mut self, key: &Key, need: Need<S>, now: Now) -> Option<Attempt<S>>
    where
        Self: Records<S>,
    {
        let attempt = match need {
            Need::Nothing => {
                let record = self.record(key)?;
                if record.is_over() {
                    self.forget(key);
                } else if record.refused.take().is_some() && record.stands().is_some() {
                    self.restore(key);
                }
                return None;
            }
            Need::Wait => return None,
            Need::Finalizer(there) => {
                let record = self.record(key)?;
                record.held = there || record.held;
                record.writing.finalizer = Some(there);
                self.queue_write(key);
                return None;
            }
            Need::Refuse(refusal) => {
                self.refuse(key, &refusal);
                return None;
            }
            Need::Call(attempt) => attempt,
        };
        let record = self.record(key)?;
        record.refused = None;
        if let Some(failed) = &record.failed {
            if failed.attempt.is(&attempt) && failed.due > now.since_start {
                return None;
            }
            record.failed = None;
        }
        Some(attempt)
    }

    fn start(&mut self, key: &Key, call: Call, attempt: u32, now: Now) -> Option<Action> {
        let handled = self.settings.handlers;
        let handled = match call {
            Call::Bus { .. } => handled.bus,
            Call::Provision { .. } => handled.provision,
            Call::Unprovision { .. } => handled.unprovision,
            Call::Subscribe { .. } => handled.subscribe,
            Call::Unsubscribe { .. } => handled.unsubscribe,
        };
        self.calls += 1;
        if !handled {
            self.handle_called(key, Ok(()), now);
            return None;
        }
        Some(Action::Call(Job { key: key.clone(), call, attempt }))
    }

    fn look_at_bus(&mut self, now: Now) -> Option<Action> {
        let bus = self.settings.bus.clone()?;
        if self.bus.running.is_some() {
            return None;
        }
        let need = self.bus.need()?;
        if let Some((failed, due)) = &self.bus.failed {
            if same_bus(failed, &need) && *due > now.since_start {
                return None;
            }
            self.bus.failed = None;
        }
        self.bus.running = Some(need.clone());
        self.bus.attempts += 1;
        self.start(&Key::Bus, Call::Bus { bus, spec: need.1 }, self.bus.attempts, now)
    }

    fn bus_called(&mut self, result: Result<(), String>, now: Now) {
        let Some(called) = self.bus.running.take() else { return };
        self.bus.attempted = true;
        let (warning, message) = match &result {
            Ok(()) => (false, "Bus synched successfully".to_owned()),
            Err(error) => (true, format!("Error syncing Bus: {error}")),
        };
        if self.settings.writes && self.settings.handlers.bus {
            let bus = self.settings.bus.as_ref();
            let (name, namespace) = bus.map_or(("", ""), |bus| (bus.name(), bus.namespace()));
            let kind = if namespace.is_empty() { Kind::ClusterBus } else { Kind::Bus };
            let (name, namespace) = (name.into(), namespace.into());
            let reason = if warning { "ErrResourceSync" } else { "Synced" };
            self.note(Note { kind, namespace, name, uid: called.0.clone(), warning, reason, message });
        }
        match result {
            Ok(()) => {
                self.bus.done = Some(called);
                (self.bus.retry, self.bus.failed, self.bus.attempts) = (None, None, 0);
            }
            Err(_) => {
                let seed = next_seed(&mut self.seeds);
                let retry = self.bus.retry.get_or_insert_with(|| Box::new(backoff(seed)));
                let due = now.since_start + retry.next_delay().max(self.bucket.take(now.since_start));
                self.bus.failed = Some((called, due));
                // What the handler has now is not known: an earlier spec is called again too.
                self.bus.done = None;
                self.timers.insert((due, Key::Bus));
            }
        }
        // It may have changed during the call, and all may be settled now.
        self.wake(Key::Bus);
    }

    /// After a call: queues the key, or sets its retry time.
    fn called(&mut self, key: &Key, due: Option<Duration>) {
        if let Some(due) = due {
            self.timers.insert((due, key.clone()));
        }
        self.wake(key.clone());
    }

    fn forget(&mut self, key: &Key) {
        match key {
            Key::Bus => {}
            Key::Channel(channel) => drop(self.channels.remove(channel)),
            Key::Subscription(subscription) => {
                self.subscriptions.remove(subscription);
                // It is indexed by the channel that it named last; earlier entries were removed when they ended.
                let filed: Vec<_> = self
                    .by_channel
                    .range(ChannelReference::new("", subscription.namespace())..)
                    .take_while(|(channel, _)| channel.namespace() == subscription.namespace())
                    .filter(|(_, keys)| keys.contains(subscription))
                    .map(|(channel, _)| channel.clone())
                    .collect();
                filed.iter().for_each(|channel| self.index(subscription, channel));
            }
        }
    }
}

/// One of the two maps.
pub(super) trait Records<S> {
    fn record(&mut self, key: &Key) -> Option<&mut Record<S>>;
}

impl Records<ChannelSpec> for Monitor {
    fn record(&mut self, key: &Key) -> Option<&mut Record<ChannelSpec>> {
        let Key::Channel(channel) = key else { return None };
        self.channels.get_mut(channel)
    }
}

impl Records<SubscriptionSpec> for Monitor {
    fn record(&mut self, key: &Key) -> Option<&mut Record<SubscriptionSpec>> {
        let Key::Subscription(subscription) = key else { return None };
        self.subscriptions.get_mut(subscription)
    }
}

/// Counts an attempt.
fn begin<S>(record: &mut Record<S>, attempt: Attempt<S>) -> u32 {
    if record.counted != attempt.uid {
        record.counted = attempt.uid.clone();
        record.attempts = [0; 2];
    }
    if attempt.undo {
        record.done.iter_mut().for_each(|done| done.torn = true);
    }
    record.forced_now = std::mem::take(&mut record.forced) && !attempt.undo;
    let number = &mut record.attempts[usize::from(attempt.undo)];
    *number = number.saturating_add(1);
    let number = *number;
    record.running = Some(attempt);
    number
}

/// Records the result of an attempt; returns the time of the retry after a failure.
fn ended<S: Spec>(
    record: &mut Record<S>,
    attempt: &Attempt<S>,
    result: &Result<(), String>,
    seed: u64,
    bucket: &mut Bucket,
    now: Now,
) -> Option<Duration> {
    record.attempted = true;
    let forced = std::mem::take(&mut record.forced_now);
    if result.is_err() {
        record.forced |= forced;
        record.done.iter_mut().for_each(|done| done.shaken |= !attempt.undo);
        let retry = record.retry.get_or_insert_with(|| Box::new(backoff(seed)));
        let due = now.since_start + retry.next_delay().max(bucket.take(now.since_start));
        let Attempt { undo, uid, spec, parameters } = attempt;
        let (uid, spec, parameters) = (uid.clone(), spec.clone(), parameters.clone());
        record.failed = Some(Failed { attempt: Attempt { undo: *undo, uid, spec, parameters }, due });
        return Some(due);
    }
    record.failed = None;
    record.retry = None;
    record.attempts[usize::from(attempt.undo)] = 0;
    if attempt.undo {
        record.done = None;
        let goes = record.wanted.as_ref().filter(|wanted| wanted.metadata.uid == attempt.uid);
        if goes.is_some_and(|wanted| wanted.metadata.deleting) {
            record.undone = Some(attempt.uid.clone());
            record.held = true;
        }
    } else {
        let (uid, spec, parameters) = (attempt.uid.clone(), attempt.spec.clone(), attempt.parameters.clone());
        record.done = Some(Done { uid, spec, parameters, torn: false, shaken: false });
    }
    None
}

fn next_seed(seeds: &mut u64) -> u64 {
    *seeds = seeds.wrapping_add(0x9e37_79b9_7f4a_7c15);
    *seeds
}

/// Takes the keys that are due.
fn due(timers: &mut BTreeSet<(Duration, Key)>, now: Duration) -> Vec<Key> {
    let mut keys = Vec::new();
    while timers.first().is_some_and(|(due, _)| *due <= now) {
        keys.extend(timers.pop_first().map(|(_, key)| key));
    }
    keys
}
