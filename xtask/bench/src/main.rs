//! Compares relay with other crates: `cargo xtask bench NAME`.
//!
//! Every benchmark first checks that all participants do the same work and agree on its result. Then it runs them in
//! interleaved rounds and takes medians, so that other load on the machine affects all of them equally. Only the ratios
//! within one run are meaningful.

use std::process::ExitCode;

mod client;
mod corpora;
mod measure;
mod sse;
mod state;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let result = match arguments.split_first() {
        Some((name, rest)) if name == "sse" => sse::run(rest),
        Some((name, rest)) if name == "sse-once" => sse::once(rest),
        Some((name, rest)) if name == "state" => state::run(rest),
        Some((name, rest)) if name == "state-once" => state::once(rest),
        Some((name, rest)) if name == "state-seed-once" => state::seed_once(rest),
        Some((name, rest)) if name == "client" => client::run(rest),
        Some((name, rest)) if name == "client-once" => client::once(rest),
        Some((name, rest)) if name == "client-idle" => client::idle(rest),
        Some((name, _)) if name == "client-server" => client::serve(),
        _ => Err(anyhow::anyhow!(
            "usage: cargo xtask bench sse|state|client [--quick] [--only WORK] [--json FILE]"
        )),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}
