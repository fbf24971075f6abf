//! Sequences of enveloped channels: counted by publishers, checked by subscribers.
//!
//! [`SequenceTracker`] gives a publisher its next number per channel. [`GapDetector`] remembers the highest
//! sequence that a subscriber has seen, per channel and producer. [`Follow`] is the whole order of checks between a
//! transport's frames and a subscriber's items: positions first, so that a resume is exact, then sequences, and the
//! subscriber's own filters last, so that a filtered envelope is never taken for a lost one.
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
