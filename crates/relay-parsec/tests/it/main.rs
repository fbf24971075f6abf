//! The client over its transports.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

mod behaviours;
mod memory;
mod minimal;
mod publishing;
#[cfg(feature = "websocket")]
mod seen;
#[cfg(feature = "websocket")]
mod socket_peer;
#[cfg(feature = "websocket")]
mod sse_peer;
#[cfg(feature = "websocket")]
mod suite;
mod traps;
#[cfg(feature = "websocket")]
mod wire;
#[cfg(feature = "websocket")]
mod worlds;
