//! The state behind an auto-configuration stream: environments, filters, and accepted keys with their expiry.
//!
//! [`Environments`] is the fold: it takes a message and the time and returns the changes. [`Session`] adds the
//! client's own [`Status`] between the changes. Both have neither clock nor connection: time is an argument
//! ([`Now`]), and [`Environments::next_deadline`] is the time of the next call without a message.
//!
//! | | not seen | version not above the last | newer, live | newer, deleted |
//! |---|---|---|---|---|
//! | put, patch | added | nothing | updated | added |
//! | delete | nothing, the version is kept | nothing | deleted, the version is kept | nothing, the version is kept |
//! | missing in a put | nothing | | deleted and forgotten | forgotten |
//!
//! Only the version decides, never the content. An invalid environment ([`relay_proto::autoconfig::Refusal`]) is
//! refused before its version counts, so that a corrected one of the same version is accepted later. Filters follow
//! the same table.
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
