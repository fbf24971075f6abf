//! The server on loopback: each rule with requests as bytes, restarts, and the client of this workspace.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

mod kept;
mod live;
mod protocol;
mod raw;
mod with_client;
