//! `cargo xtask bench NAME`: builds the benchmark workspace and runs it.

use std::path::PathBuf;

mod table;

use anyhow::{Result, bail};

use crate::workspace::{cargo, check, root, target_directory};
use crate::{interop, npm};

/// The text of `cargo xtask bench --help`.
pub(crate) const DETAILS: &str = "\
`bench sse` compares the event stream decoder with other crates, after a check that all see the same events; it prints
a table of throughput per CPU second and, where valgrind is installed, of instructions per event.
`bench client` compares clients over loopback, each in a process of its own, with hyper reading the body and throwing it
away: CPU time per event, events per second, peak memory, and memory per idle connection, fresh and after traffic.
  --quick        under a minute, less exact
  --only WORK    only works whose name contains WORK
  --json FILE    one object per line: bench, work, impl, unit, value, runs
`bench state` compares the set of pods with kube-rs' reflector store and a hash map of `Arc`s: rate of decoding and
applying, the same with a snapshot per event, look-ups of a group, memory per pod; 1,000 to 1,000,000 pods (with --quick
up to 100,000; --only takes a number of pods, or `seed`). Then it seeds 100,000 pods through HTTP and shows the peak of
memory. The largest size needs 12 GB of memory.
`bench log` compares the log with fjall, redb and SQLite as logs: appends by size of a batch and by policy, replay,
opening, a writer that is killed, a byte that is flipped; then a relay's replay of a million events to one client, from
memory and from disk, with hyper sending as many bytes. Takes --quick, --json and --only log|peers|kill|flip|serve.
`bench table` lists 100,000 pods of a simulated cluster as a table and as JSON, each into a file, in turns; it fails when
the table takes over 1.2 times as long. Takes --quick.
`bench autoconfig` measures auto-configuration streams next to their bars: a put and a patch, memory, the next deadline,
changes to 200 subscribers, a close in every state. Takes --quick and --json.
`bench bus` sends through the memory engine beside a bare hyper proxy, counts what a silent subscriber costs the others,
follows 5,000 channels of an API server, weighs an idle channel, and, where nats-server is on the PATH, kills the JetStream
engine and compares it with async-nats alone. It fails when one of its bars is missed. Takes --quick, --json and --only
flow|silent|cluster|idle|stored.
`bench parsec` sends a million envelopes through memory and through a server over SSE beside a bare stream, decodes beside
serde_json, counts bytes per idle subscription, and times publish to handler over a WebSocket beside centrifuge-client,
against a server in Go (1.26). It fails when one of its bars is missed.
`bench durable` measures the client of durable streams beside bare requests over hyper and the protocol's TypeScript client
(npm 0.2.7, where Node.js is there): appends one by one, producers of 100 bytes and of 1 MiB, JSON, bytes, delivery by
events and long-polls; on our server, and on that of the crate durable-streams 0.1.5. It fails when a bar is missed.
The peers are fetched and built the first time; they are no part of the product.";

/// The benchmark interprets all arguments after its name.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    if arguments.first().is_none_or(|name| name.starts_with('-')) {
        bail!(
            "which benchmark? `cargo xtask bench sse|state|client|log|table|autoconfig|bus|parsec|durable [--quick] [--only WORK] [--json FILE]`"
        );
    }
    if arguments.first().is_some_and(|name| name == "table") {
        return table::run(arguments.iter().any(|argument| argument == "--quick"));
    }
    let manifest = root().join("xtask/bench/Cargo.toml");
    let (manifest, toolchain) = match arguments.first().map(String::as_str) {
        // A separate workspace, because it is built from C in part. One of its dependencies asks rustup for a toolchain
        // by number.
        Some("log") => (root().join("xtask/bench/log/Cargo.toml"), "stable"),
        Some("autoconfig") => (root().join("xtask/bench/autoconfig/Cargo.toml"), ""),
        Some("bus") => (root().join("xtask/bench/bus/Cargo.toml"), ""),
        // A separate workspace, so that the other client's TLS and protobuf are in no other benchmark.
        Some("parsec") => (root().join("xtask/bench/parsec/Cargo.toml"), ""),
        Some("durable") => (root().join("xtask/bench/durable/Cargo.toml"), ""),
        _ => (manifest, ""),
    };
    let toolchain = std::env::var_os("RUSTUP_TOOLCHAIN").unwrap_or_else(|| toolchain.into());
    let peers = match arguments.first().map(String::as_str) {
        Some("parsec") if wants(arguments, "latency") => vec![("RELAY_BENCH_PEER", interop::parsec_peer()?)],
        Some("durable") => durable_peers()?,
        _ => vec![],
    };
    let environment = (!toolchain.is_empty()).then_some(("RUSTUP_TOOLCHAIN", toolchain));
    check(
        cargo()
            .envs(environment)
            .envs(peers)
            // The directory of the caller, to which the file names in the arguments are relative.
            .current_dir(std::env::current_dir()?)
            .args(["run", "--quiet", "--release", "--locked", "--manifest-path"])
            .arg(manifest)
            .arg("--")
            .args(arguments),
    )
}

/// The TypeScript client and the other server of durable streams. Those that cannot be installed are left out.
fn durable_peers() -> Result<Vec<(&'static str, PathBuf)>> {
    let folder = target_directory()?.join("bench");
    let mut peers = Vec::new();
    let node = folder.join("durable-npm");
    let files = ["package.json", "package-lock.json", "peer.mjs"];
    match npm::install(&root().join("xtask/bench/durable/node"), &node, &files) {
        Ok(()) => peers.push(("RELAY_BENCH_DURABLE_NODE", node)),
        Err(error) => println!("left out, the TypeScript client: {error:#}"),
    }
    let crates = folder.join("durable-streams");
    let program = crates.join("bin/durable-streams-server");
    if !program.is_file() {
        let mut install = cargo();
        install.args(["install", "--locked", "durable-streams", "--version", "0.1.5", "--root"]).arg(&crates);
        // The build files go next to ours, and not to a folder that is thrown away each time.
        install.arg("--target-dir").arg(folder.join("durable-streams-build"));
        // One of its dependencies asks rustup for a toolchain by number.
        if std::env::var_os("RUSTUP_TOOLCHAIN").is_none() {
            install.env("RUSTUP_TOOLCHAIN", "stable");
        }
        if let Err(error) = check(&mut install) {
            println!("left out, the server of the crate durable-streams: {error:#}");
        }
    }
    if program.is_file() {
        peers.push(("RELAY_BENCH_DURABLE_SERVER", program));
    }
    Ok(peers)
}

/// Whether a work with this name runs. All works do, unless one is named.
fn wants(arguments: &[String], work: &str) -> bool {
    let only = arguments.iter().skip_while(|argument| *argument != "--only").nth(1);
    only.is_none_or(|only| work.contains(only.as_str()))
}
