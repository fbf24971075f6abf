//! Runs the tests that every store must pass on the stores of this crate.

#![allow(clippy::unwrap_used, reason = "a test may fail here")]

mod damage;
mod disk;
mod memory;
mod proof;
