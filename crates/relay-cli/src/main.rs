//! The command line of relay.
fn main() {}
