//! The server from outside: bytes over a socket.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod access;
mod directory;
mod limits;
mod publish;
mod queries;
mod raw;
mod streams;
mod wire;
