//! What is known of one channel or subscription.

use std::sync::Arc;
use std::time::Duration;

use bytestring::ByteString;
use relay_proto::bus::{
    Argument, BusSpec, ChannelSpec, Condition, Conditions, Metadata, Parameter, ResolvedParameters,
    SubscriptionSpec,
};
use relay_proto::retry::Backoff;

use super::action::Handlers;

/// A spec that a bus can be called for.
pub(super) trait Spec {
    fn text(&self) -> &str;
    fn arguments(&self) -> &[Argument];
    fn problem(&self) -> Option<&str>;
    fn parameters(bus: &BusSpec) -> &[Parameter];
    /// Whether one of its calls is handled: only then there is something to hold a deletion up for.
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
    /// The object as it was last seen; `None` when it is not there.
    pub(super) wanted: Option<Wanted<S>>,
    /// The last call that succeeded, until its opposite does.
    pub(super) done: Option<Done<S>>,
    pub(super) running: Option<Attempt<S>>,
    /// The last try, when it failed.
    pub(super) failed: Option<Failed<S>>,
    pub(super) retry: Option<Box<Backoff>>,
    /// Tries of the call and of its opposite since each last succeeded, and for which identity they count.
    pub(super) attempts: [u32; 2],
    pub(super) counted: ByteString,
    /// It is to be called although nothing changed.
    pub(super) forced: bool,
    /// So is the call that runs: when it fails, the next one is, too.
    pub(super) forced_now: bool,
    /// It waits in the queue.
    pub(super) queued: bool,
    /// A call has ended since everything was last to settle.
    pub(super) attempted: bool,
    /// What was last refused without a call, with the specs it was refused for.
    pub(super) refused: Option<(ByteString, Arc<S>, Arc<BusSpec>)>,
    /// Our finalizer is on it, or being put there.
    pub(super) held: bool,
    /// The identity whose opposite call succeeded because it is being deleted.
    pub(super) undone: Option<ByteString>,
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
    /// Its opposite was begun and did not succeed.
    pub(super) torn: bool,
}

/// One try of a call, or of its opposite.
#[derive(Debug, Clone)]
pub(super) struct Attempt<S> {
    pub(super) undo: bool,
    pub(super) uid: ByteString,
    pub(super) spec: Arc<S>,
    pub(super) parameters: Arc<ResolvedParameters>,
}

impl<S: Spec> Attempt<S> {
    /// Whether a further try would be the same.
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

/// What is to be written to the object.
#[derive(Debug, Default)]
pub(super) struct Writing {
    pub(super) condition: Option<Condition>,
    pub(super) finalizer: Option<bool>,
    /// The version that is known was not the last one.
    pub(super) read: bool,
    pub(super) running: bool,
    pub(super) queued: bool,
    pub(super) retry: Option<Box<Backoff>>,
    pub(super) due: Duration,
}

impl<S: Spec> Record<S> {
    /// Takes the object as it is now. Whether anything that calls depend on changed.
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
        self.wanted.take().is_some()
    }

    /// Nothing is left to remember.
    pub(super) fn is_over(&self) -> bool {
        self.wanted.is_none() && self.done.is_none() && self.running.is_none() && !self.writing.running
    }

    /// It is subscribed or provisioned, and nothing speaks against that.
    pub(super) fn stands(&self) -> Option<&Done<S>> {
        let (wanted, done) = (self.wanted.as_ref()?, self.done.as_ref()?);
        (!done.torn && wanted.metadata.uid == done.uid).then_some(done)
    }
}
