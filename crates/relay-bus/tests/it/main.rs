//! A bus from outside: senders and subscribers on real sockets, objects in a file or on a fake API server.

mod bus;
mod cluster;
