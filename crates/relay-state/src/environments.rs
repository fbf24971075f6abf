//! Which environments there are, and which keys they accept: the state behind an auto-configuration stream.
//!
//! [`Environments`] is the fold: a message and the time go in, what has changed comes out. [`Session`] adds what a
//! client says about itself, its [`Status`], in the right place between the changes. Both have neither clock nor
//! connection: time is an argument ([`Now`]), and [`Environments::next_deadline`] says when to come back without a
//! message.
//!
//! | | not seen | version not above the last | newer, live | newer, deleted |
//! |---|---|---|---|---|
//! | put, patch | added | nothing | updated | added |
//! | delete | nothing, the version is kept | nothing | deleted, the version is kept | nothing, the version is kept |
//! | missing in a put | nothing | | deleted and forgotten | forgotten |
//!
//! The content never decides, only the version does; and an environment that cannot be taken
//! ([`relay_proto::autoconfig::Refusal`]) is refused before its version is looked at, so that the same version,
//! mended, is taken later. Filters follow the same table.
//!
//! ```
//! use relay_state::environments::{Environments, Event, Now};
//! use relay_proto::autoconfig::Message;
//!
//! let put = r#"{"path":"/","data":{"environments":{"e1":{"envID":"e1","version":1,
//!     "sdkKey":{"value":"sdk-2","expiring":{"value":"sdk-1","timestamp":5000}}}}}}"#;
//! let mut environments = Environments::default();
//! let applied = environments.apply(Message::decode("put", put)?, Now::at(1000));
//! assert!(matches!(applied.events[0], Event::Added(_)));
//! assert!(matches!(applied.events[1], Event::ReceivedAll(_)));
//!
//! // The old key is accepted to the last millisecond of its time, and not one longer.
//! assert_eq!(environments.next_deadline().unix_ms, Some(5001));
//! assert!(environments.handle_time(Now::at(5000)).is_empty());
//! assert!(matches!(environments.handle_time(Now::at(5001))[..], [Event::KeyExpired(_)]));
//! # Ok::<(), relay_proto::autoconfig::DecodeError>(())
//! ```

mod environment;
mod event;
#[cfg(test)]
mod model;
mod records;
mod reducer;
mod rules;
mod saved;
mod session;
mod status;
#[cfg(test)]
mod tests;

pub use environment::{AcceptedKey, Environment, Filter, KeyKind};
pub use event::{
    By, Event, Expired, ExpiredKey, Gone, Held, Origin, ReceivedAll, Refused, RefusedIn, Updated,
};
pub use reducer::{Applied, Deadline, Environments, Now, Outcome};
pub use saved::{SavedError, decode_saved, encode_saved};
pub use session::{Next, Session};
pub use status::{ErrorKind, State, Status, StatusError};
