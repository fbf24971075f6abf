//! A subscription with handlers.

use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, PoisonError};

use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt};
use relay_proto::error::chain;
use relay_proto::parsec::{Causation, Envelope, Position};
use relay_state::sequences::{Delivered, Gap, Item};
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use crate::items::Shared;
use crate::publisher::Publisher;
use crate::{Error, HistoryItem, HistoryOptions, Items, Outgoing, Presence, Sent, SubscriptionState};

type Handler<T> = Box<dyn FnMut(T) -> BoxFuture<'static, ()> + Send>;

/// A subscription that has not started: give it handlers and [`start`](Self::start) it, or use it as
/// [`items`](Self::items). Nothing is read before that, so nothing is lost.
pub struct Subscriber {
    publisher: Arc<Publisher>,
    items: Items,
    shared: Arc<Shared>,
    handlers: Handlers,
}

#[derive(Default)]
struct Handlers {
    /// Handlers of envelopes, in the order in which they were added; each is for one aspect, or for all.
    envelopes: Vec<(Option<String>, Handler<Handled>)>,
    gaps: Vec<Handler<(Gap, Subscription)>>,
    items: Vec<Handler<Item>>,
}

/// An envelope that is being handled.
#[derive(Debug, Clone)]
pub struct Handled {
    delivered: Arc<Delivered>,
    subscription: Subscription,
}

/// A handle to a running subscription. Cheap to clone; dropping it changes nothing.
#[derive(Clone)]
pub struct Subscription {
    publisher: Arc<Publisher>,
    shared: Arc<Shared>,
}

impl Subscriber {
    pub(crate) fn new(publisher: Arc<Publisher>, items: Items, shared: Arc<Shared>) -> Self {
        Self { publisher, items, shared, handlers: Handlers::default() }
    }

    /// The subscription as a stream, without handlers.
    pub fn items(self) -> Items {
        self.items
    }

    /// Adds a handler that is called with every envelope.
    #[must_use]
    pub fn on_envelope<F, R>(mut self, mut handler: F) -> Self
    where
        F: FnMut(Handled) -> R + Send + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        self.handlers.envelopes.push((None, Box::new(move |handled| handler(handled).boxed())));
        self
    }

    /// Adds a handler that is called with every envelope of an aspect.
    #[must_use]
    pub fn on_aspect<F, R>(mut self, aspect: impl Into<String>, mut handler: F) -> Self
    where
        F: FnMut(Handled) -> R + Send + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        let aspect = Some(aspect.into());
        self.handlers.envelopes.push((aspect, Box::new(move |handled| handler(handled).boxed())));
        self
    }

    /// Adds a handler that is called with the payload of every envelope of an aspect: read as a type, or the error.
    #[must_use]
    pub fn on_aspect_typed<T, F, R>(self, aspect: impl Into<String>, mut handler: F) -> Self
    where
        T: DeserializeOwned,
        F: FnMut(Result<T, serde_json::Error>, Handled) -> R + Send + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        self.on_aspect(aspect, move |handled| {
            let text = handled.envelope().payload().map_or("null", |payload| payload.as_str());
            handler(serde_json::from_str(text), handled)
        })
    }

    /// Adds a handler that is called with every gap, before the envelope that revealed it.
    #[must_use]
    pub fn on_gap<F, R>(mut self, mut handler: F) -> Self
    where
        F: FnMut(Gap, Subscription) -> R + Send + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        self.handlers.gaps.push(Box::new(move |(gap, subscription)| handler(gap, subscription).boxed()));
        self
    }

    /// Adds a handler that is called with every item, before the handlers of envelopes and gaps. It also gets
    /// duplicates and what cannot be read.
    #[must_use]
    pub fn on_item<F, R>(mut self, mut handler: F) -> Self
    where
        F: FnMut(Item) -> R + Send + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        self.handlers.items.push(Box::new(move |item| handler(item).boxed()));
        self
    }

    /// Starts to call the handlers, one after another on one task. A slow handler delays its own subscription only. A
    /// panic of a handler is logged, and the others continue.
    pub fn start(self) -> Subscription {
        let subscription = Subscription { publisher: self.publisher.clone(), shared: self.shared };
        let run = run(self.items, self.handlers, subscription.clone());
        self.publisher.tasks.spawn(run);
        subscription
    }
}

async fn run(mut items: Items, mut handlers: Handlers, subscription: Subscription) {
    let channel = subscription.channel().to_owned();
    while let Some(item) = items.next().await {
        let item = match item {
            Ok(item) => item,
            Err(error) => {
                tracing::error!(channel, error = %chain(&error), "the subscription has ended");
                break;
            }
        };
        for handler in &mut handlers.items {
            call(&channel, handler, item.clone()).await;
        }
        match item {
            Item::Envelope(delivered) => {
                let delivered = Arc::new(delivered);
                subscription.handed_over(&delivered.envelope);
                for (aspect, handler) in &mut handlers.envelopes {
                    if aspect.as_ref().is_none_or(|aspect| aspect == delivered.envelope.aspect()) {
                        let handled =
                            Handled { delivered: delivered.clone(), subscription: subscription.clone() };
                        call(&channel, handler, handled).await;
                    }
                }
            }
            Item::Gap(gap) => {
                for handler in &mut handlers.gaps {
                    call(&channel, handler, (gap.clone(), subscription.clone())).await;
                }
            }
            _ => {}
        }
    }
}

async fn call<T>(channel: &str, handler: &mut Handler<T>, value: T) {
    // A handler that panicked is called again with the next value.
    let called = AssertUnwindSafe(async { handler(value).await }).catch_unwind().await;
    if called.is_err() {
        tracing::error!(channel, "a handler panicked");
    }
}

impl Handled {
    /// The envelope.
    pub fn envelope(&self) -> &Envelope {
        &self.delivered.envelope
    }

    /// Its position; `None` when the server has no positions.
    pub fn position(&self) -> Option<&Position> {
        self.delivered.position.as_ref()
    }

    /// The envelope with its position and other data of the delivery.
    pub fn delivered(&self) -> &Delivered {
        &self.delivered
    }

    /// The subscription that received it.
    pub fn subscription(&self) -> &Subscription {
        &self.subscription
    }

    /// Publishes an envelope to the same channel, which names this one as its cause.
    ///
    /// # Errors
    /// Those of [`Client::publish`](crate::Client::publish).
    pub async fn publish_derived(&self, outgoing: Outgoing) -> Result<Sent, Error> {
        let envelope = self.envelope();
        let parent = Causation::new(self.subscription.channel(), envelope.sequence());
        self.subscription.publisher.publish(self.subscription.channel(), outgoing.causation(parent)).await
    }
}

impl Subscription {
    /// The channel.
    pub fn channel(&self) -> &str {
        &self.shared.channel
    }

    /// A receiver of the subscription's state: what it waits for.
    pub fn state(&self) -> watch::Receiver<SubscriptionState> {
        self.shared.state.subscribe()
    }

    /// Publishes an envelope to the same channel, which names the last delivered one as its cause: within a handler,
    /// the one being handled.
    ///
    /// # Errors
    /// Those of [`Client::publish`](crate::Client::publish).
    pub async fn publish_derived(&self, outgoing: Outgoing) -> Result<Sent, Error> {
        let last = self.shared.last.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let parent =
            last.map_or_else(Causation::default, |(channel, sequence)| Causation::new(channel, sequence));
        self.publisher.publish(self.channel(), outgoing.causation(parent)).await
    }

    /// A part of the channel's history, oldest first.
    ///
    /// # Errors
    /// The transport's errors.
    pub async fn history(&self, options: &HistoryOptions) -> Result<Vec<HistoryItem>, Error> {
        self.publisher.history(self.channel(), options).await
    }

    /// The subscribers of the channel.
    ///
    /// # Errors
    /// The transport's errors.
    pub async fn presence(&self) -> Result<Presence, Error> {
        self.publisher.presence(self.channel()).await
    }

    /// Ends the subscription: no handler is called after the current one. May be called within a handler.
    pub fn unsubscribe(&self) {
        self.shared.unsubscribe();
    }

    /// Waits until the subscription has ended, for whatever reason.
    pub async fn ended(&self) {
        let mut state = self.state();
        // The sender lives as long as this handle.
        let _ = state.wait_for(|state| *state == SubscriptionState::Ended).await;
    }

    fn handed_over(&self, envelope: &Envelope) {
        let mut last = self.shared.last.lock().unwrap_or_else(PoisonError::into_inner);
        *last = Some((self.channel().to_owned(), envelope.sequence()));
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription").field("channel", &self.shared.channel).finish_non_exhaustive()
    }
}

impl fmt::Debug for Subscriber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscriber").field("items", &self.items).finish_non_exhaustive()
    }
}
