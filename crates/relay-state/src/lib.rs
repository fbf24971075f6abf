//! Pure folds over relay events: the pod cache, the order of checks, the replay phases, and cursor stores.
//!
//! **What it does not do:** no I/O (cursor files excepted, behind the feature `files`), no clock, no async, no
//! threads. A driver feeds it lists, messages and ends of connections, and does what [`Replay::poll`] asks for;
//! `relay-pods` is such a driver.
//!
//! ```
//! use relay_proto::pods::{ListDecoder, ListFormat, ListLimits, Message};
//! use relay_state::{Phase, Replay, ReplayOptions, Step};
//!
//! let mut seed = ListDecoder::new(ListFormat::Json, ListLimits::default());
//! seed.feed(br#"{"pods":[{"namespace":"prod","name":"web-1"}],"hash":"h1","sequence":1,"epoch":"e"}"#)?;
//!
//! let mut replay = Replay::new(ReplayOptions::default());
//! assert!(matches!(replay.poll(), Step::Seed { at_least: None }));
//! replay.handle_seed(seed.finish()?)?;
//! let Step::Snapshot(snapshot) = replay.poll() else { panic!() };
//! assert_eq!((snapshot.phase, snapshot.pods.len()), (Phase::CurrentSeed, 1));
//!
//! assert!(matches!(replay.poll(), Step::Message));
//! replay.handle_message(Message::decode("connected", "", r#"{"epoch":"e","filtered":false}"#))?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod cache;
mod continuity;
mod cursor;
mod replay;
mod rules;
#[cfg(test)]
mod script;

pub use cache::{Applied, CacheCounts, Change, ChangeKind, Group, Groups, Outcome, PodCache, Pods};
pub use continuity::{Continuity, ContinuityCounts, HoleCause, Ignored, Verdict};
#[cfg(feature = "files")]
pub use cursor::FileCursorStore;
pub use cursor::{CursorError, CursorStore, MemoryCursorStore};
pub use replay::{
    Conflation, OutOfTurn, Phase, Replay, ReplayMode, ReplayOptions, SeedVerdict, Snapshot, Step,
};
