//! Plays scripted conversations between a relay and its client, and compares what came of them with what the
//! conversation says: `fixtures/pods`, whose README describes the format.
//!
//! Each conversation is played twice. [`play_pure`] gives the literal bytes to the sans-IO machines, line by line;
//! [`play_http`] has a scripted peer say them over a loopback socket to the public client. Both must ask the same
//! questions and show the same snapshots. [`Report`] plays a whole directory.
//!
//! [`AutoconfigReport`] and [`AutoconfigMessage`] do the same for auto-configuration streams: `fixtures/autoconfig` and
//! `fixtures/autoconfig-wire`.
//!
//! **What it does not do:** it computes no expectation. What is expected is written down in the files, from the
//! protocol (`docs/protocol.md`), and another client may be held to the same files. It is no part of the product.
//!
//! ```
//! use relay_conformance::{Conversation, play_http, play_pure};
//!
//! let text = r#"
//! {"name":"hello","about":"the first list is shown at once","mode":"replay"}
//! {"list":{"pods":[{"namespace":"prod","name":"web-1"}],"hash":"h5","sequence":5,"epoch":"e"}}
//! {"expect":{"phase":"CurrentSeed","pods":["prod/web-1"],"changed":["added prod/web-1"]}}
//! "#;
//! let hello = Conversation::parse("hello", text.trim_start())?;
//! assert_eq!((play_pure(&hello), play_http(&hello)), (Ok(()), Ok(())));
//! # Ok::<(), relay_conformance::Mistake>(())
//! ```

mod autoconfig;
mod conversation;
mod http;
mod pure;
mod suite;
mod trace;

pub use autoconfig::{AutoconfigMessage, AutoconfigMistake, AutoconfigReport};
pub use conversation::{Conversation, Mistake};
pub use http::play_http;
pub use pure::play_pure;
pub use suite::Report;
