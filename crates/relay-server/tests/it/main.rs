//! The server from outside: bytes over a socket.

mod access;
mod basics;
mod endings;
mod history;
mod lists;
mod raw;
mod sim_faults;
mod sim_follower;
mod streams;
mod wire;
