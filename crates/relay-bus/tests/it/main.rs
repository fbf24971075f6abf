//! A bus from outside: senders and subscribers on real sockets, objects in a file or on a fake API server.
#![allow(clippy::unwrap_used, reason = "a helper that fails fails its test")]

mod harness;

mod bad_requests;
mod bad_subscribers;
mod bus;
mod cluster;
