//! The server from outside: bytes over a socket.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![allow(unreachable_pub, reason = "modules of a binary share their items")]

mod access;
mod basics;
mod endings;
mod history;
mod lists;
mod raw;
mod sim_faults;
mod sim_follower;
mod since_time;
mod stores;
mod streams;
mod wire;
