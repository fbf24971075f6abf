//! The server on loopback: rule by rule with requests as bytes, over new starts, and with the client of this workspace.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

mod kept;
mod live;
mod protocol;
mod raw;
mod with_client;
