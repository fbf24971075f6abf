//! Task runner of the relay workspace.
fn main() {}
