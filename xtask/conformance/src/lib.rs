//! Plays scripted conversations between a relay and its client (`fixtures/pods`, whose README describes the
//! format), and compares the results with the expectations in the files.
//!
//! Each conversation is played twice. [`play_pure`] feeds the literal bytes to the sans-IO machines, line by line;
//! [`play_http`] has a scripted peer send them over a loopback socket to the public client. Both must make the same
//! requests and yield the same snapshots. [`Report`] plays a whole directory.
//!
//! [`AutoconfigReport`] and [`AutoconfigMessage`] do the same for auto-configuration streams: `fixtures/autoconfig` and
//! `fixtures/autoconfig-wire`.
//!
//! **What it does not do:** it computes no expectations. They are in the files, written from the protocol
//! (`docs/protocol.md`), so the files can test other clients too. It is not part of the product.
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
