//! Reports of calls, and of calls that are not made: conditions, events, missing arguments.

use relay_proto::bus::{Condition, Kind};

use super::action::{Action, Key, Note};
use super::monitor::{Monitor, Records};
use super::record::{Attempt, Refusal, Spec};

/// Limit of events waiting to be sent.
const NOTES: usize = 1024;

/// Messages of the conditions after a success.
const PROVISIONED: &str = "Channel provisioned successfully";
const SUBSCRIBED: &str = "Subscription dispatcher successfully created";

impl Monitor {
    /// Makes no call; reports this once per change, as an action, an event and a condition.
    pub(super) fn refuse<S: Spec + 'static>(&mut self, key: &Key, refusal: &Refusal)
    where
        Self: Records<S>,
    {
        let bus = self.bus.spec_in_force();
        let (writes, handled) = (self.settings.writes, self.settings.handlers);
        let Some(record) = self.record(key) else { return };
        let Some(wanted) = &record.wanted else { return };
        let now = (wanted.metadata.uid.clone(), wanted.spec.clone(), bus);
        let told = record.refused.as_ref().is_some_and(|told| {
            told.0 == now.0 && told.1.text() == now.1.text() && told.2.text() == now.2.text()
        });
        if told {
            return;
        }
        let uid = now.0.clone();
        record.refused = Some(now);
        record.failed = None;
        let (kind, r#type, handled) = match key {
            Key::Channel(_) => (Kind::Channel, "Provisioned", handled.provision),
            _ => (Kind::Subscription, "Dispatching", handled.subscribe),
        };
        let (reason, message) = match refusal {
            Refusal::Missing(missing) => ("MissingArguments", missing.to_string()),
            Refusal::Problem(problem) => ("InvalidSpec", problem.clone()),
        };
        if writes && handled {
            record.writing.condition = Some(Condition::new(r#type, false, reason, message.clone()));
            let (name, namespace) = (wanted.metadata.name.clone(), wanted.metadata.namespace.clone());
            self.note(Note { kind, namespace, name, uid, warning: true, reason, message });
            self.queue_write(key);
        }
        if let (Refusal::Missing(missing), true) = (refusal, handled) {
            self.out.push_back(Action::MissingArguments { key: key.clone(), missing: missing.names.clone() });
        }
    }

    /// The object is again as it was at its last successful call, so there is no call that would say so: its
    /// condition does not stay that of the refusal.
    pub(super) fn restore<S: Spec + 'static>(&mut self, key: &Key)
    where
        Self: Records<S>,
    {
        let (writes, handled) = (self.settings.writes, self.settings.handlers);
        let (handled, r#type, said) = match key {
            Key::Channel(_) => (handled.provision, "Provisioned", PROVISIONED),
            _ => (handled.subscribe, "Dispatching", SUBSCRIBED),
        };
        let Some(record) = self.record(key).filter(|_| writes && handled) else { return };
        record.writing.condition = Some(Condition::new(r#type, true, "Synced", said));
        self.queue_write(key);
    }

    /// Condition and event of a call that ended.
    pub(super) fn tell<S: Spec + 'static>(
        &mut self,
        key: &Key,
        attempt: &Attempt<S>,
        result: &Result<(), String>,
    ) where
        Self: Records<S>,
    {
        let handled = self.settings.handlers;
        let channel = matches!(key, Key::Channel(_));
        let (handled, good, bad, r#type, said) = match (channel, attempt.undo) {
            (true, false) => (
                handled.provision,
                "Channel provisioned successfully",
                "Error provisioning channel",
                "Provisioned",
                PROVISIONED,
            ),
            (true, true) => (
                handled.unprovision,
                "Channel unprovisioned successfully",
                "Error unprovisioning channel",
                "",
                "",
            ),
            (false, false) => {
                (handled.subscribe, "Subscribed successfully", "Error subscribing", "Dispatching", SUBSCRIBED)
            }
            (false, true) => {
                (handled.unsubscribe, "Unsubscribed successfully", "Error unsubscribing", "", "")
            }
        };
        if !handled || !self.settings.writes {
            return;
        }
        let reason = if result.is_ok() { "Synced" } else { "ErrResourceSync" };
        let message = result.as_ref().map_or_else(|error| format!("{bad}: {error}"), |()| good.to_owned());
        let (name, namespace) = match key {
            Key::Channel(channel) => (channel.name(), channel.namespace()),
            Key::Subscription(subscription) => (subscription.name(), subscription.namespace()),
            Key::Bus => return,
        };
        let (name, namespace) = (name.into(), namespace.into());
        let kind = if channel { Kind::Channel } else { Kind::Subscription };
        let uid = attempt.uid.clone();
        self.note(Note {
            kind,
            namespace,
            name,
            uid: uid.clone(),
            warning: result.is_err(),
            reason,
            message,
        });
        if attempt.undo {
            return;
        }
        let said = result.as_ref().map_or_else(Clone::clone, |()| said.to_owned());
        let Some(record) = self.record(key) else { return };
        // There is no condition to write for an object that is gone.
        if record.wanted.as_ref().is_some_and(|wanted| wanted.metadata.uid == uid) {
            record.writing.condition = Some(Condition::new(r#type, result.is_ok(), reason, said));
            self.queue_write(key);
        }
    }

    pub(super) fn note(&mut self, note: Note) {
        if self.notes >= NOTES {
            self.notes_dropped += 1;
            return;
        }
        self.notes += 1;
        self.out.push_back(Action::Note(note));
    }
}
