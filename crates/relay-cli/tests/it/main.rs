//! The `relay` binary from outside: child processes, raw sockets, scripted peers and broken links, all on loopback.
//! What is expected is what `docs/protocol.md` and `relay --help` promise.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

mod advice;
mod process;
mod small_disk;
mod terminal;
mod wire;

mod autoconfig_answers;
mod autoconfig_disk;
mod autoconfig_serve;
mod autoconfig_watch;
mod bus;
mod bus_cluster;
mod bus_delivery;
mod bus_refusals;
mod cursor_file;
mod demo;
mod disk;
mod docs;
mod durable;
mod durable_edges;
mod durable_kills;
#[cfg(target_os = "linux")]
mod durable_memory;
mod durable_serve;
mod examples;
mod faults;
mod first_tries;
mod follow;
mod golang;
mod habits;
mod kube;
mod log;
mod parsec;
mod parsec_bounds;
mod parsec_files;
mod parsec_rows;
mod parsec_strangers;
mod peers;
mod queries;
mod rows;
mod rows_of_groups;
mod secrets;
mod serve_kube;
mod since;
mod sse;
mod tables;
mod wait;
mod wire_lists;
mod wire_streams;
mod wire_tokens;
