//! Follows an auto-configuration stream: which environments a proxy serves, and which keys they accept.
//!
//! [`StreamManager`] keeps the stream going and calls a [`MessageHandler`]; [`Events`] is the same as a `Stream`.
//! The meaning of messages is decided in `relay_state::environments`, reconnecting in `relay_proto::eventsource`;
//! this crate joins them, and keeps the last good configuration in a [`Cache`] if there is one.
//!
//! - Calls come one after another. Nothing is read during a call, so a slow handler slows down the stream.
//! - The stream ends only after a 204, a request that cannot be made, and, if [`Builder::unauthorized`] says so, a
//!   401 or 403. Then [`Status::state`] is `Off`, and [`End`] has the reason.
//! - A [`Status`] has three signals: `connected`, `configured` and `state`.
//!
//! **What it does not do:** it serves nothing, looks up no keys, and does not read the data of environments.
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
