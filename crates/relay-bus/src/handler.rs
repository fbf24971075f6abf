//! The handler of a monitor.

use std::future::Future;

use relay_proto::bus::{
    BusReference, BusSpec, ChannelReference, ChannelSpec, ResolvedParameters, SubscriptionReference,
    SubscriptionSpec,
};
use relay_state::bus::{Call, Job};

/// The five calls of a [`Monitor`](crate::Monitor). A call that is not implemented counts as not set: it is not
/// made, has no condition or event, and counts as done.
///
/// A failed call is repeated for ever, with growing delays. Calls about one object never overlap.
pub trait MonitorHandler: Send + Sync + 'static {
    /// The bus is new, or its spec changed.
    fn bus(
        &self,
        bus: &BusReference,
        spec: &BusSpec,
    ) -> impl Future<Output = Result<(), HandlerError>> + Send {
        let _ = (bus, spec);
        async { Err(HandlerError::NotSet) }
    }

    /// A channel is new, or its spec or parameters changed.
    fn provision(
        &self,
        channel: &ChannelReference,
        spec: &ChannelSpec,
        parameters: &ResolvedParameters,
    ) -> impl Future<Output = Result<(), HandlerError>> + Send {
        let _ = (channel, spec, parameters);
        async { Err(HandlerError::NotSet) }
    }

    /// A channel is gone. It no longer has subscriptions.
    fn unprovision(
        &self,
        channel: &ChannelReference,
    ) -> impl Future<Output = Result<(), HandlerError>> + Send {
        let _ = channel;
        async { Err(HandlerError::NotSet) }
    }

    /// A subscription is new, or its spec or parameters changed. Its channel is provisioned.
    fn subscribe(
        &self,
        subscription: &SubscriptionReference,
        channel: &ChannelReference,
        spec: &SubscriptionSpec,
        parameters: &ResolvedParameters,
    ) -> impl Future<Output = Result<(), HandlerError>> + Send {
        let _ = (subscription, channel, spec, parameters);
        async { Err(HandlerError::NotSet) }
    }

    /// A subscription is gone.
    fn unsubscribe(
        &self,
        subscription: &SubscriptionReference,
        channel: &ChannelReference,
    ) -> impl Future<Output = Result<(), HandlerError>> + Send {
        let _ = (subscription, channel);
        async { Err(HandlerError::NotSet) }
    }

    /// Dispatches to one of the five calls. Override it only to treat all of them alike.
    fn call(&self, job: &Job) -> impl Future<Output = Result<(), HandlerError>> + Send {
        async move {
            match &job.call {
                Call::Bus { bus, spec } => self.bus(bus, spec).await,
                Call::Provision { channel, spec, parameters, .. } => {
                    self.provision(channel, spec, parameters).await
                }
                Call::Unprovision { channel } => self.unprovision(channel).await,
                Call::Subscribe { subscription, channel, spec, parameters } => {
                    self.subscribe(subscription, channel, spec, parameters).await
                }
                Call::Unsubscribe { subscription, channel } => self.unsubscribe(subscription, channel).await,
                _ => Err(HandlerError::NotSet),
            }
        }
    }
}

/// How a call failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HandlerError {
    /// The call is not implemented.
    #[error("not set")]
    NotSet,
    /// It failed; the text goes into conditions and events.
    #[error("{0}")]
    Failed(String),
}

impl HandlerError {
    /// A failure with this text.
    pub fn failed(text: impl Into<String>) -> Self {
        Self::Failed(text.into())
    }
}
