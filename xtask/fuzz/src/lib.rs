//! What must hold whatever the input, as plain functions: a fuzz target hands them bytes, and so do the tests.

pub mod autoconfig;
pub mod durable;
pub mod eventsource;
pub mod parsec;
pub mod sse;
