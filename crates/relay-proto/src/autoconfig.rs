//! The messages of an auto-configuration stream: which environments a proxy serves, and with which keys.
//!
//! [`Message::decode`] takes the name and the data of an event. Data is read by these rules: one JSON value and
//! nothing after it; names of fields in any ASCII case, the last of two counts; null is nothing; unknown fields are
//! ignored; lone surrogates are U+FFFD; a wrong type anywhere is an error, and nothing of the event counts. Whether
//! a decoded environment is valid is checked separately, by [`EnvironmentRep::judge`].
//!
//! **What it does not do:** versions, the differences of a put, and the expiry of keys are state, and so in
//! `relay-state`.
//!
//! ```
//! use relay_proto::autoconfig::{Message, Path};
//!
//! let text = r#"{"path":"/environments/e","data":{"envID":"e","sdkKey":{"value":"sdk-0123456789ab"},"version":12}}"#;
//! let Message::Patch(patch) = Message::decode("patch", text)? else { panic!("not a patch") };
//! assert_eq!(patch.path, Path::Environment("e".into()));
//! let environment = patch.environment.unwrap();
//! assert_eq!(environment.version, 12);
//! assert_eq!(environment.judge("e"), Ok(()));
//! assert_eq!(environment.sdk_key.value.masked(), "***89ab");
//! assert!(!format!("{environment:?}").contains("0123"));
//! # Ok::<(), relay_proto::autoconfig::DecodeError>(())
//! ```
//!
//! For services, [`write_put`], [`write_patch`] and [`write_delete`] make the data of events.

mod encode;
mod environment;
mod id;
mod key;
mod message;
#[cfg(test)]
mod tests;

pub use encode::{write_delete, write_environment, write_filter, write_patch, write_put};
pub use environment::{EnvironmentRep, Expiring, FilterRep, KeyEntry, Refusal, SdkKeyRep};
pub use id::{EnvironmentId, FilterId};
pub use key::{AutoConfigKey, KeyText, MobileKey, SdkKey};
pub use message::{DecodeError, Delete, Message, Patch, Path, Put, PutContent};

/// Path of the stream below the service's URL.
pub const STREAM_PATH: &str = "/relay_auto_config";
/// Name of the query parameter for the version of the protocol, which is sent when above 1.
pub const VERSION_PARAMETER: &str = "rpacProtocolVersion";
/// The version of the protocol that has filters.
pub const PROTOCOL_VERSION: u32 = 2;
