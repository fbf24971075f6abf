//! Tests of relay-state from outside.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[cfg(feature = "files")]
mod kills;
