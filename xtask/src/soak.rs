//! `cargo xtask soak`: relays and clients under random faults, for a given time.

use anyhow::Result;

use crate::workspace::{cargo, check, target_directory};

/// The text of `cargo xtask soak --help`.
pub(crate) const DETAILS: &str = "\
Eight followers (replay or plain state, filtered or not, conflated or not) follow real relays of a simulated cluster
through links that fail, while relays restart and followers are killed. Every event and acknowledgement is checked against
the log; after each round all must have arrived. Prints each minute what happened, and fails when something is lost
unannounced or repeated, when a kind of fault never happened, or when memory, sockets or tasks grow. The first tenth of
the time is for logs on simulated disks, which fail, are killed and lose their power at any operation.
  --for 10m     how long: 90s, 10m, 24h; a round is always finished
  --seed N      the faults of another run again; without one a new seed is taken, and printed
`soak autoconfig` runs `relay autoconfig serve` and `watch` as two processes, while the file changes, connections are cut
and either is killed: after each round both agree, and no version has gone back. Takes the same options.
`soak bus` runs `relay bus serve`, on memory and, where nats-server is on the PATH, on JetStream, while objects come and go,
an API server, NATS and subscribers are cut off, and the bus and NATS are killed: a ledger says what each subscription must
have got, and what it must not. Takes the same options.
A short run is part of `cargo xtask test`.";

/// The soak is a separate crate: it depends on client and server, and this program should build without them.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    let mut command = cargo();
    command.args(["run", "--quiet", "--locked", "--package=relay-soak", "--"]);
    let arguments = match arguments.split_first() {
        Some((first, rest)) if first == "autoconfig" || first == "bus" => {
            check(cargo().args(["build", "--quiet", "--locked", "--package=relay-cli", "--bin=relay"]))?;
            command.arg(first).arg(target_directory()?.join("debug/relay"));
            rest
        }
        _ => arguments,
    };
    check(command.args(arguments))
}
