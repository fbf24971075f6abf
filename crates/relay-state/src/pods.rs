//! The state of a Pod Event Relay's client: the checks of messages, the replay phases, the set of pods.
//!
//! A driver feeds [`Replay`] lists, messages and ends of connections, and does what [`Replay::poll`] asks for;
//! `relay-pods` is such a driver. [`Continuity`] holds the order of checks, [`PodCache`] the rules by which events
//! change the set of pods, and a [`CursorStore`] the acknowledged position between runs.

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
    Conflation, Phase, Replay, ReplayMode, ReplayOptions, SeedVerdict, Snapshot, Step, UnexpectedInput,
};
