//! The stores of this crate, put to the test that every store passes.

mod disk;
mod memory;
mod proof;
