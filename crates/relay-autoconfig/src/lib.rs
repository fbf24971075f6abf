//! Follows an auto-configuration stream: which environments a proxy serves, and which keys they accept.
//!
//! [`StreamManager`] keeps the stream going and calls a [`MessageHandler`]; [`Events`] is the same as a `Stream`, for
//! who would rather ask than be called. What a message means is decided in `relay_state::environments`, when to
//! connect again in `relay_proto::eventsource`; this crate joins them, and keeps the last good configuration in a
//! [`Cache`] if it is given one.
//!
//! - Calls come one after another; while one takes its time, nothing is read, and so the service is slowed down.
//! - An error is never the end, but for what [`Builder::unauthorized`] says about 401 and 403, an answer of 204, and a
//!   request that cannot be made. Whatever ends says so: [`Status::state`] is `Off`, and [`End`] says why.
//! - `connected`, `configured` and `state` are three signals of one [`Status`].
//!
//! **What it does not do:** it serves no one, resolves no key, and knows nothing of the data of an environment.
//!
//! ```no_run
//! use std::sync::Arc;
//! use relay_autoconfig::{Environment, EnvironmentId, Expired, Gone, MessageHandler, ReceivedAll, StreamManager,
//! Updated};
//!
//! struct Printer;
//!
//! impl MessageHandler for Printer {
//!     async fn add_environment(&mut self, environment: Arc<Environment>) {
//!         println!("{} accepts {} SDK keys", environment.id, environment.sdk_keys.len());
//!     }
//!     async fn update_environment(&mut self, update: Updated) {
//!         println!("{}: {:?}", update.environment.id, update.changed);
//!     }
//!     async fn received_all_environments(&mut self, all: ReceivedAll) {
//!         println!("{} environments", all.environments);
//!     }
//!     async fn delete_environment(&mut self, gone: Gone<EnvironmentId>) {
//!         println!("{} is gone", gone.id);
//!     }
//!     async fn key_expired(&mut self, expired: Expired) {
//!         println!("{}: {} is not accepted any more", expired.id, expired.key.masked());
//!     }
//! }
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let manager = StreamManager::builder("http://127.0.0.1:8081").key("my-key").build(Printer)?;
//! manager.start().await?;
//! // ...
//! manager.close().await;
//! # Ok(())
//! # }
//! ```

mod builder;
mod cache;
mod events;
mod handler;
mod manager;
mod service;

pub use builder::{Builder, ConfigError, Unauthorized};
pub use cache::{Cache, FileCache};
pub use events::{End, Events};
pub use handler::MessageHandler;
pub use manager::StreamManager;

pub use relay_proto::autoconfig::{AutoConfigKey, EnvironmentId, FilterId, MobileKey, SdkKey};
pub use relay_state::environments::{
    AcceptedKey, By, Environment, ErrorKind, Event, Expired, ExpiredKey, Filter, Gone, Held, KeyKind, Origin,
    ReceivedAll, Refused, RefusedIn, State, Status, StatusError, Updated,
};
pub use relay_transport::{HttpClient, TokenSource};
