//! A bus from outside: senders and subscribers on real sockets, objects in a file or on a fake API server.
#![allow(clippy::unwrap_used, reason = "a helper that fails fails its test")]

mod harness;

/// The example is included here, so that it is run and not only compiled.
#[path = "../../examples/bus_own.rs"]
#[allow(dead_code, reason = "its main reads arguments and waits for Ctrl-C")]
mod bus_own;

mod bad_requests;
mod bad_subscribers;
mod bus;
mod cluster;
mod example;
mod of_2018;
mod slots;
mod unsubscribed;
