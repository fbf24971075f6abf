//! Channel buses: messages are received for a channel and sent to all of its subscribers.
//!
//! * [`MessageReceiver`] takes messages by HTTP and hands them to a [`Receive`].
//! * [`MessageDispatcher`] sends a message to a destination, and its answer on to another.
//! * [`Monitor`] follows the objects that say which channels and subscriptions there are, in a cluster or in a file,
//!   and calls a [`MonitorHandler`]: provision, unprovision, subscribe, unsubscribe.
//! * An [`Engine`] is a bus made of the three: [`MemoryEngine`], queues in memory, no promise of delivery, it says what
//!   it drops; with the feature `jetstream` a `JetStreamEngine`, which keeps messages in NATS until they are delivered.
//!
//! The model is the package `pkg/buses` of Knative eventing, 2018; `docs/buses.md` has its rules, and where ours
//! differ. What it deliberately does not do: TLS on the receiving side (put a proxy in front), the controllers that
//! make Services and Deployments, webhooks. It does not print and does not read flags.
//!
//! A bus of your own is a receiver with a function:
//!
//! ```
//! use relay_bus::{
//!     CancellationToken, ChannelReference, HttpServer, Message, MessageReceiver, Receive, ReceiveError,
//!     ReceiverOptions, Settings,
//! };
//!
//! struct Counted(std::sync::atomic::AtomicU64);
//!
//! impl Receive for Counted {
//!     async fn receive(&self, channel: &ChannelReference, message: Message) -> Result<(), ReceiveError> {
//!         if channel.name() != "orders" {
//!             return Err(ReceiveError::UnknownChannel);
//!         }
//!         self.0.fetch_add(message.payload.len() as u64, std::sync::atomic::Ordering::Relaxed);
//!         Ok(())
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> std::io::Result<()> {
//! let receiver = MessageReceiver::new(Counted(Default::default()), ReceiverOptions::default());
//! let server = HttpServer::bind("127.0.0.1:0", Settings::default()).await?;
//! let stop = CancellationToken::new();
//! # stop.cancel();
//! receiver.run(server, stop).await;
//! # Ok(()) }
//! ```

mod dispatcher;
mod engine;
mod events;
mod file;
mod handler;
mod kube;
mod metrics;
mod monitor;
mod receiver;

pub use dispatcher::{
    Answer, CallError, DispatchDefaults, DispatchError, DispatcherOptions, MessageDispatcher,
};
pub use engine::{Engine, EngineOptions, MemoryEngine};
#[cfg(feature = "jetstream")]
pub use engine::{JetStreamEngine, JetStreamError, NatsOptions};
pub use events::{DropReason, Event};
pub use handler::{HandlerError, MonitorHandler};
pub use metrics::Metrics;
pub use monitor::{Component, Monitor, MonitorBuilder, MonitorError, Report};
pub use receiver::{MessageReceiver, Receive, ReceiveError, ReceiverOptions};

pub use relay_proto::bus::{
    BusReference, ChannelReference, ChannelSpec, GenericBus, HeaderRules, Headers, Message,
    ResolvedParameters, SubscriptionReference, SubscriptionSpec,
};
pub use relay_state::bus::{Call, Handlers, Job};
pub use relay_transport::server::{HttpServer, Settings};
pub use tokio_util::sync::CancellationToken;
