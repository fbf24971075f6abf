//! The handler of changes.

use std::sync::Arc;

use relay_proto::autoconfig::{EnvironmentId, FilterId};
use relay_state::environments::{
    Environment, Event, Expired, Filter, Gone, Held, ReceivedAll, Refused, Status, Updated,
};

/// Receives changes, one call after another, in the order in which to act on them. Nothing is read during a call.
/// Do not block a thread in it.
///
/// The calls of one put are: adds and updates, deletes, the same for filters, refusals, and
/// [`received_all_environments`](Self::received_all_environments).
pub trait MessageHandler: Send + 'static {
    /// A new environment, from a put or a patch.
    fn add_environment(&mut self, environment: Arc<Environment>) -> impl Future<Output = ()> + Send;

    /// An environment in a newer version, from a put or a patch. Keys in `revoked` are not accepted from now on.
    fn update_environment(&mut self, update: Updated) -> impl Future<Output = ()> + Send;

    /// A put is complete, after the calls for its adds, updates and deletes. After the first one the program knows
    /// all environments.
    fn received_all_environments(&mut self, all: ReceivedAll) -> impl Future<Output = ()> + Send;

    /// An environment is gone: deleted, or missing in a put.
    fn delete_environment(&mut self, gone: Gone<EnvironmentId>) -> impl Future<Output = ()> + Send;

    /// A key has expired: disconnect its users, and refuse it from now on.
    fn key_expired(&mut self, expired: Expired) -> impl Future<Output = ()> + Send;

    /// A new filter. Default: nothing.
    fn add_filter(&mut self, filter: Arc<Filter>) -> impl Future<Output = ()> + Send {
        drop(filter);
        async {}
    }

    /// A filter in a newer version. Default: nothing.
    fn update_filter(&mut self, filter: Arc<Filter>) -> impl Future<Output = ()> + Send {
        drop(filter);
        async {}
    }

    /// A filter is gone. Default: nothing.
    fn delete_filter(&mut self, gone: Gone<FilterId>) -> impl Future<Output = ()> + Send {
        drop(gone);
        async {}
    }

    /// An environment was refused; its former state stays. Default: nothing.
    fn refused(&mut self, refused: Refused) -> impl Future<Output = ()> + Send {
        drop(refused);
        async {}
    }

    /// A put without environments is held back. Default: nothing.
    fn held(&mut self, held: Held) -> impl Future<Output = ()> + Send {
        let _ = held;
        async {}
    }

    /// The client's status has changed. Default: nothing.
    fn status_changed(&mut self, status: Status) -> impl Future<Output = ()> + Send {
        drop(status);
        async {}
    }
}

/// Makes the call that an event asks for.
pub(crate) async fn call<H: MessageHandler>(handler: &mut H, event: Event) {
    match event {
        Event::Status(status) => handler.status_changed(status).await,
        Event::Added(environment) => handler.add_environment(environment).await,
        Event::Updated(update) => handler.update_environment(update).await,
        Event::Deleted(gone) => handler.delete_environment(gone).await,
        Event::KeyExpired(expired) => handler.key_expired(expired).await,
        Event::FilterAdded(filter) => handler.add_filter(filter).await,
        Event::FilterUpdated(filter) => handler.update_filter(filter).await,
        Event::FilterDeleted(gone) => handler.delete_filter(gone).await,
        Event::Refused(refused) => handler.refused(refused).await,
        Event::ReceivedAll(all) => handler.received_all_environments(all).await,
        Event::Held(held) => handler.held(held).await,
        event => tracing::debug!(event = event.name(), "nobody is called"),
    }
}
