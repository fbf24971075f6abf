//! Pure folds over relay events, one module for each system: `pods` is the set of pods behind a Pod Event Relay,
//! `environments` the state of an auto-configuration stream, `sequences` the sequences and gaps of enveloped
//! channels, `bus` the monitor of a channel bus. `files` stores small files that outlive the process: cursors,
//! offsets, sequences, caches.
//!
//! **What it does not do:** no I/O (files excepted, behind the feature `files`), no clock, no async, no threads. A
//! driver passes received messages to a fold, and does what the fold asks for.
//!
//! ```
//! use relay_proto::pods::{ListDecoder, ListFormat, ListLimits, Message};
//! use relay_state::pods::{Phase, Replay, ReplayOptions, Step};
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

#[cfg(feature = "bus")]
pub mod bus;
#[cfg(feature = "autoconfig")]
pub mod environments;
#[cfg(feature = "files")]
pub mod files;
#[cfg(feature = "pods")]
pub mod pods;
#[cfg(any(feature = "autoconfig", feature = "pods"))]
mod rules;
#[cfg(feature = "sequences")]
pub mod sequences;
