//! The next action for a channel or subscription, as a pure function of the known state.
//!
//! ```text
//!   channel       it is gone, of another bus, or has another UID
//!                                       ---> provisioned: unprovision, once none of its subscriptions is subscribed
//!                 it is ours            ---> arguments are missing: refuse
//!                                            new, its spec or parameters changed, or the last
//!                                            call failed: provision
//!   subscription  it is gone, has another UID or channel, or its channel is going away
//!                                       ---> subscribed: unsubscribe
//!                 its channel is provisioned
//!                                       ---> arguments are missing: refuse
//!                                            new, changed or requeued, or the last call failed:
//!                                            subscribe
//!                 its channel is not provisioned (yet)
//!                                       ---> wait
//! ```

use std::collections::BTreeSet;
use std::sync::Arc;

use bytestring::ByteString;
use relay_proto::bus::{
    BusReference, ChannelReference, ChannelSpec, ResolvedParameters, SubscriptionReference, SubscriptionSpec,
};

use super::monitor::Monitor;
use super::record::{Attempt, Need, Record, Refusal, Spec, Wanted};

impl Monitor {
    /// Whether the channel's object asks this bus to provision it.
    pub(super) fn is_ours(&self, channel: &ChannelReference, wanted: &Wanted<ChannelSpec>) -> bool {
        let Some(bus) = &self.settings.bus else { return true };
        match (&wanted.spec.bus, &wanted.spec.cluster_bus) {
            (Some(name), None) => BusReference::new(name.clone(), channel.namespace()) == *bus,
            (None, Some(name)) => BusReference::cluster(name.clone()) == *bus,
            _ => false,
        }
    }

    /// Whether it is going away. A deletion timestamp counts only with a finalizer; without one, the deletion
    /// itself will be seen.
    fn goes<S>(&self, wanted: &Wanted<S>) -> bool {
        self.settings.finalizer.is_some() && wanted.metadata.deleting
    }

    /// Whether it is being deleted and waits for our finalizer, possibly from before a restart.
    fn owes_undoing<S>(&self, record: &Record<S>) -> bool {
        let open = |wanted: &&Wanted<S>| record.undone.as_ref() != Some(&wanted.metadata.uid);
        let wanted = record.wanted.as_ref().filter(open);
        wanted.is_some_and(|wanted| self.goes(wanted) && self.has_finalizer(wanted))
    }

    /// Finds, at the start, subscriptions that wait for our finalizer and whose channel is gone. Their bus is not
    /// known any more, and nobody else would ever release them. Later there is no such subscription of ours, because
    /// a channel is undone after its subscriptions; that of another bus can be seen for a moment, and is left to it.
    pub(super) fn find_orphans(&mut self, undecoded: &BTreeSet<ChannelReference>) {
        let is_orphaned = |(key, record): &(&SubscriptionReference, &Record<SubscriptionSpec>)| {
            let Some(wanted) = record.wanted.as_ref().filter(|_| self.owes_undoing(record)) else {
                return false;
            };
            let channel = ChannelReference::new(wanted.spec.channel.clone(), key.namespace());
            !self.channels.contains_key(&channel) && !undecoded.contains(&channel)
        };
        let orphans: Vec<_> =
            self.subscriptions.iter().filter(is_orphaned).map(|(key, _)| key.clone()).collect();
        for key in orphans {
            self.subscriptions.get_mut(&key).into_iter().for_each(|record| record.orphaned = true);
        }
    }

    pub(super) fn has_finalizer<S>(&self, wanted: &Wanted<S>) -> bool {
        let ours = self.settings.finalizer.as_deref();
        ours.is_some_and(|ours| wanted.metadata.finalizers.iter().any(|finalizer| &**finalizer == ours))
    }

    /// Whether the channel is provisioned and stays so.
    pub(super) fn channel_stands(&self, channel: &ChannelReference) -> bool {
        let Some(record) = self.channels.get(channel) else { return false };
        let undoing = record.running.as_ref().is_some_and(|running| running.undo);
        !undoing
            && record.stands().is_some()
            && record
                .wanted
                .as_ref()
                .is_some_and(|wanted| self.is_ours(channel, wanted) && !self.goes(wanted))
    }

    pub(super) fn need_of_channel(&self, channel: &ChannelReference) -> Need<ChannelSpec> {
        let Some(record) = self.channels.get(channel) else { return Need::Nothing };
        let ours = record.wanted.as_ref().filter(|wanted| self.is_ours(channel, wanted));
        let target = ours.filter(|wanted| !self.goes(wanted));
        if let Some(target) = target
            && record.done.as_ref().is_none_or(|done| done.uid == target.metadata.uid)
        {
            return self.need_of_target(record, target);
        }
        let leftover = ours.filter(|_| self.owes_undoing(record));
        let undo = match (&record.done, leftover) {
            (Some(done), _) => Some((done.uid.clone(), done.spec.clone())),
            (None, Some(wanted)) => Some((wanted.metadata.uid.clone(), wanted.spec.clone())),
            (None, None) => None,
        };
        match undo {
            Some(_) if self.is_in_use(channel) => Need::Wait,
            Some((uid, spec)) => Need::Call(undo_of(uid, spec)),
            None => self.release(record),
        }
    }

    pub(super) fn need_of_subscription(&self, key: &SubscriptionReference) -> Need<SubscriptionSpec> {
        let Some(record) = self.subscriptions.get(key) else { return Need::Nothing };
        let channel_of =
            |spec: &SubscriptionSpec| ChannelReference::new(spec.channel.clone(), key.namespace());
        let target = record.wanted.as_ref().filter(|wanted| !self.goes(wanted));
        if let Some(done) = &record.done {
            let stays = target.is_some_and(|target| {
                target.metadata.uid == done.uid
                    && target.spec.channel == done.spec.channel
                    && self.channel_stands(&channel_of(&done.spec))
            });
            if !stays {
                return Need::Call(undo_of(done.uid.clone(), done.spec.clone()));
            }
        }
        match target {
            Some(target) if self.channel_stands(&channel_of(&target.spec)) => {
                self.need_of_target(record, target)
            }
            Some(target) if self.is_of_ours(&channel_of(&target.spec)) => Need::Wait,
            Some(_) => self.release(record),
            None => match &record.wanted {
                Some(wanted) if self.owes_undoing(record) => {
                    let channel = channel_of(&wanted.spec);
                    let orphaned = record.orphaned && !self.channels.contains_key(&channel);
                    if orphaned || self.is_of_ours(&channel) {
                        return Need::Call(undo_of(wanted.metadata.uid.clone(), wanted.spec.clone()));
                    }
                    self.release(record)
                }
                _ => self.release(record),
            },
        }
    }

    /// The need of a channel or subscription that exists.
    ///
    /// An object that breaks a rule stays as provisioned earlier, unless its removal has begun: then the removal is
    /// completed.
    fn need_of_target<S: Spec>(&self, record: &Record<S>, target: &Wanted<S>) -> Need<S> {
        match (self.need_of_standing(record, target), &record.done) {
            (Need::Refuse(_), Some(done)) if done.torn => {
                Need::Call(undo_of(done.uid.clone(), done.spec.clone()))
            }
            (need, _) => need,
        }
    }

    fn need_of_standing<S: Spec>(&self, record: &Record<S>, target: &Wanted<S>) -> Need<S> {
        if let Some(problem) = target.spec.problem() {
            return Need::Refuse(Refusal::Problem(problem.to_owned()));
        }
        let declared = self.bus.spec_in_force();
        let parameters = match ResolvedParameters::resolve(S::parameters(&declared), target.spec.arguments())
        {
            Ok(parameters) => parameters,
            Err(missing) => return Need::Refuse(Refusal::Missing(missing)),
        };
        let holds = self.settings.finalizer.is_some() && S::is_handled(self.settings.handlers);
        if holds && !target.metadata.deleting && !self.has_finalizer(target) {
            return Need::Finalizer(true);
        }
        let stands = record.done.as_ref().is_some_and(|done| {
            !done.torn
                && !done.shaken
                && done.spec.text() == target.spec.text()
                && *done.parameters == parameters
        });
        if stands && !record.forced {
            return Need::Nothing;
        }
        Need::Call(Attempt {
            undo: false,
            uid: target.metadata.uid.clone(),
            spec: target.spec.clone(),
            parameters: Arc::new(parameters),
        })
    }

    /// There is nothing more to undo: our finalizer may be removed.
    fn release<S>(&self, record: &Record<S>) -> Need<S> {
        let ours = record.wanted.as_ref().filter(|wanted| self.has_finalizer(wanted));
        if ours.is_some() && record.held { Need::Finalizer(false) } else { Need::Nothing }
    }

    /// Whether a subscription of the channel has to be unsubscribed before the channel may go.
    fn is_in_use(&self, channel: &ChannelReference) -> bool {
        let in_use = |key: &SubscriptionReference| {
            let Some(record) = self.subscriptions.get(key) else { return false };
            let here = |spec: &SubscriptionSpec| spec.channel.as_bytes() == channel.name().as_bytes();
            record.done.as_ref().is_some_and(|done| here(&done.spec))
                || record.running.as_ref().is_some_and(|running| here(&running.spec))
                || self.owes_undoing(record)
                    && record.wanted.as_ref().is_some_and(|wanted| here(&wanted.spec))
        };
        self.by_channel.get(channel).is_some_and(|keys| keys.iter().any(in_use))
    }

    pub(super) fn is_of_ours(&self, channel: &ChannelReference) -> bool {
        let Some(record) = self.channels.get(channel) else { return false };
        record.done.is_some() || record.wanted.as_ref().is_some_and(|wanted| self.is_ours(channel, wanted))
    }
}

fn undo_of<S>(uid: ByteString, spec: Arc<S>) -> Attempt<S> {
    Attempt { undo: true, uid, spec, parameters: Arc::default() }
}
