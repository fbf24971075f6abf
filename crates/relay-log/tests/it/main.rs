//! The stores of this crate, put to the test that every store passes.

#![allow(clippy::unwrap_used, reason = "a test may fail here")]

mod damage;
mod disk;
mod memory;
mod proof;
