//! The state of a bus, of a channel and of a subscription, and the actions they may need.

use std::sync::Arc;
use std::time::Duration;

use bytestring::ByteString;
use relay_proto::bus::{
    Argument, BusSpec, ChannelSpec, Condition, Conditions, Metadata, MissingArguments, Parameter,
    ResolvedParameters, SubscriptionSpec,
};
use relay_proto::retry::Backoff;

use super::action::Handlers;

/// A spec that a bus can be called for.
pub(super) trait Spec {
    fn text(&self) -> &str;
    fn arguments(&self) -> &[Argument];
    fn problem(&self) -> Option<&str>;
    fn parameters(bus: &BusSpec) -> &[Parameter];
    /// Whether one of its calls is handled: only then a finalizer is needed.
    fn is_handled(handlers: Handlers) -> bool;
}

impl Spec for ChannelSpec {
    fn text(&self) -> &str {
        self.text()
    }
    fn arguments(&self) -> &[Argument] {
        &self.arguments
    }
    fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }
    fn parameters(bus: &BusSpec) -> &[Parameter] {
        &bus.channel_parameters
    }
    fn is_handled(handlers: Handlers) -> bool {
        handlers.provision || handlers.unprovision
    }
}

impl Spec for SubscriptionSpec {
    fn text(&self) -> &str {
        self.text()
    }
    fn arguments(&self) -> &[Argument] {
        &self.arguments
    }
    fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }
    fn parameters(bus: &BusSpec) -> &[Parameter] {
        &bus.subscription_parameters
    }
    fn is_handled(handlers: Handlers) -> bool {
        handlers.subscribe || handlers.unsubscribe
    }
}

/// One channel or subscription.
#[derive(Debug)]
pub(super) struct Record<S> {
    /// The last object; `None` when it does not exist.
    pub(super) wanted: Option<Wanted<S>>,
    /// The last successful call, until its opposite succeeds.
    pub(super) done: Option<Done<S>>,
    pub(super) running: Option<Attempt<S>>,
    /// The last attempt, if it failed.
    pub(super) failed: Option<Failed<S>>,
    pub(super) retry: Option<Box<Backoff>>,
    /// Attempts of the call and of its opposite since the last success of each, and the UID they count for.
    pub(super) attempts: [u32; 2],
    pub(super) counted: ByteString,
    /// Call it although nothing changed.
    pub(super) forced: bool,
    /// The running call is a forced one: if it fails, so is its retry.
    pub(super) forced_now: bool,
    /// It waits in the queue.
    pub(super) queued: bool,
    /// Whether a call has ended since `settle` was requested.
    pub(super) attempted: bool,
    /// The last refusal without a call, with the specs of that time.
    pub(super) refused: Option<(ByteString, Arc<S>, Arc<BusSpec>)>,
    /// Whether our finalizer is set, or being added.
    pub(super) held: bool,
    /// The UID for which the opposite call has succeeded during a deletion.
    pub(super) undone: Option<ByteString>,
    /// At the start it waited for our finalizer, and its channel did not exist any more.
    pub(super) orphaned: bool,
    pub(super) writing: Writing,
}

impl<S> Default for Record<S> {
    fn default() -> Self {
        Self {
            wanted: None,
            done: None,
            running: None,
            failed: None,
            retry: None,
            attempts: [0; 2],
            counted: ByteString::new(),
            forced: false,
            forced_now: false,
            queued: false,
            attempted: false,
            refused: None,
            held: false,
            undone: None,
            orphaned: false,
            writing: Writing::default(),
        }
    }
}

#[derive(Debug, Clone)]
pub(super) struct Wanted<S> {
    pub(super) metadata: Metadata,
    pub(super) spec: Arc<S>,
    pub(super) conditions: Conditions,
}

#[derive(Debug, Clone)]
pub(super) struct Done<S> {
    pub(super) uid: ByteString,
    pub(super) spec: Arc<S>,
    pub(super) parameters: Arc<ResolvedParameters>,
    /// The opposite call was started and has not succeeded.
    pub(super) torn: bool,
    /// A later call of the same kind failed: what the handler has now is not known, so that this one is made again
    /// even if its spec returns.
    pub(super) shaken: bool,
}

/// One attempt of a call or of its opposite.
#[derive(Debug, Clone)]
pub(super) struct Attempt<S> {
    pub(super) undo: bool,
    pub(super) uid: ByteString,
    pub(super) spec: Arc<S>,
    pub(super) parameters: Arc<ResolvedParameters>,
}

impl<S: Spec> Attempt<S> {
    /// Whether another attempt would be the same.
    pub(super) fn is(&self, other: &Self) -> bool {
        self.undo == other.undo
            && self.uid == other.uid
            && self.spec.text() == other.spec.text()
            && self.parameters == other.parameters
    }
}

#[derive(Debug)]
pub(super) struct Failed<S> {
    pub(super) attempt: Attempt<S>,
    pub(super) due: Duration,
}

/// Pending writes to the object.
#[derive(Debug, Default)]
pub(super) struct Writing {
    pub(super) condition: Option<Condition>,
    pub(super) finalizer: Option<bool>,
    /// The known version is old: read the object first.
    pub(super) read: bool,
    pub(super) running: bool,
    pub(super) queued: bool,
    pub(super) retry: Option<Box<Backoff>>,
    pub(super) due: Duration,
}

impl<S: Spec> Record<S> {
    /// Takes the current object; returns whether anything changed that calls depend on.
    pub(super) fn see(&mut self, metadata: Metadata, spec: Arc<S>, conditions: Conditions) -> bool {
        match &mut self.wanted {
            Some(wanted) => {
                let same = wanted.spec.text() == spec.text();
                let changed = !same
                    || wanted.metadata.uid != metadata.uid
                    || wanted.metadata.deleting != metadata.deleting
                    || wanted.metadata.finalizers != metadata.finalizers;
                if wanted.metadata.uid != metadata.uid {
                    self.writing.condition = None;
                    self.writing.finalizer = None;
                    self.held = false;
                    self.orphaned = false;
                }
                if !same {
                    wanted.spec = spec;
                }
                wanted.metadata = metadata;
                wanted.conditions = conditions;
                changed
            }
            None => {
                self.wanted = Some(Wanted { metadata, spec, conditions });
                true
            }
        }
    }

    /// The object is gone.
    pub(super) fn lose(&mut self) -> bool {
        self.writing.condition = None;
        self.writing.finalizer = None;
        self.held = false;
        self.orphaned = false;
        self.wanted.take().is_some()
    }

    /// Whether the record can be removed.
    pub(super) fn is_over(&self) -> bool {
        self.wanted.is_none() && self.done.is_none() && self.running.is_none() && !self.writing.running
    }

    /// The successful call, if it is still valid.
    pub(super) fn stands(&self) -> Option<&Done<S>> {
        let (wanted, done) = (self.wanted.as_ref()?, self.done.as_ref()?);
        (!done.torn && wanted.metadata.uid == done.uid).then_some(done)
    }
}

/// The next action for a channel or subscription.
#[derive(Debug)]
pub(super) enum Need<S> {
    Nothing,
    /// Wait for other calls; they queue this key again.
    Wait,
    /// It breaks a rule: no call.
    Refuse(Refusal),
    Call(Attempt<S>),
    /// First add (true) or remove (false) the finalizer.
    Finalizer(bool),
}

#[derive(Debug)]
pub(super) enum Refusal {
    Missing(MissingArguments),
    Problem(String),
}

/// The bus: its last object, and the spec of the last call.
#[derive(Debug, Default)]
pub(super) struct Bus {
    /// The last object seen: its spec remains in use when the bus is deleted.
    pub(super) seen: Option<(ByteString, Arc<BusSpec>)>,
    pub(super) listed: bool,
    pub(super) done: Option<(ByteString, Arc<BusSpec>)>,
    pub(super) running: Option<(ByteString, Arc<BusSpec>)>,
    pub(super) failed: Option<((ByteString, Arc<BusSpec>), Duration)>,
    pub(super) retry: Option<Box<Backoff>>,
    pub(super) attempts: u32,
    pub(super) attempted: bool,
    pub(super) queued: bool,
}

impl Bus {
    pub(super) fn spec_in_force(&self) -> Arc<BusSpec> {
        self.seen.as_ref().map(|(_, spec)| spec.clone()).unwrap_or_default()
    }

    /// The spec to call with.
    pub(super) fn need(&self) -> Option<(ByteString, Arc<BusSpec>)> {
        let seen = self.seen.as_ref()?;
        let done = self.done.as_ref().is_some_and(|done| same_bus(done, seen));
        (!done).then(|| seen.clone())
    }
}

pub(super) fn same_bus(one: &(ByteString, Arc<BusSpec>), other: &(ByteString, Arc<BusSpec>)) -> bool {
    one.0 == other.0 && one.1.text() == other.1.text()
}
