//! Sequences of enveloped channels: counted by who publishes, checked by who subscribes.
//!
//! [`SequenceTracker`] gives a publisher its next number per channel. [`GapDetector`] remembers, per channel and
//! producer, how far a subscriber has seen. [`Follow`] is the whole order of checks between a transport's frames and
//! what a subscriber is handed: positions first, so that a drop resumes exactly, sequences after that, and the
//! subscriber's own wishes last, so that what it does not want is never taken for lost.
//!
//! ```
//! use relay_proto::parsec::Position;
//! use relay_state::sequences::{Follow, FollowOptions, Frame, Item};
//!
//! let mut follow = Follow::new("public:a.b", FollowOptions::default());
//! follow.handle_open();
//! follow.handle_frame(Frame::Connected { resumes_after: Some(Position::new("e", 0)) })?;
//! let said = r#"{"aspect":"said","producer":{"id":"me"},"sequence":7}"#;
//! follow.handle_frame(Frame::Envelope { position: Some(Position::new("e", 1)), envelope: said.into() })?;
//! assert!(matches!(follow.next_item(), Some(Item::Subscribed { resumed: false, .. })));
//! assert!(matches!(follow.next_item(), Some(Item::Envelope(delivered)) if delivered.envelope.sequence() == 7));
//! assert_eq!(follow.position().unwrap().to_string(), "e.1");
//! # Ok::<(), relay_state::sequences::Restart>(())
//! ```

mod detector;
mod follow;
mod item;
mod tracker;

pub use detector::{GapDetector, ProducerMarks, Sighting};
pub use follow::{Follow, FollowOptions, Frame, Restart};
pub use item::{Delivered, Gap, GapCause, Item};
pub use tracker::SequenceTracker;
