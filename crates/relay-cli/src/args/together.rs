//! Flags that contradict each other on one command line. Environment variables are defaults, and contradict nothing.

use clap::ArgMatches;
use clap::parser::ValueSource;

use super::SourceArg;
use crate::exit::Usage;

/// Flags of `serve` that only one source uses, with the word for that source.
const OF_SOURCE: [(&str, &str, SourceArg, &str); 6] = [
    ("kubeconfig", "--kubeconfig", SourceArg::Kube, "kube"),
    ("watch_namespaces", "--watch-namespace", SourceArg::Kube, "kube"),
    ("sim_seed", "--sim-seed", SourceArg::Sim, "sim"),
    ("sim_clock", "--sim-clock", SourceArg::Sim, "sim"),
    ("sim_pods", "--sim-pods", SourceArg::Sim, "sim"),
    ("sim_rate", "--sim-rate", SourceArg::Sim, "sim"),
];

/// Refuses them, whatever their order.
pub(super) fn check(matches: &ArgMatches) -> Result<(), Usage> {
    let Some((name, matches)) = matches.subcommand() else { return Ok(()) };
    if is_given(matches, "all_namespaces") && is_given(matches, "namespaces") {
        return Err(Usage("--all-namespaces cannot be used with --namespace: give one of them".into()));
    }
    if name == "serve" {
        check_source(matches)?;
    }
    check(matches)
}

/// A flag of the other source would be ignored, and the relay would not serve what was meant.
fn check_source(matches: &ArgMatches) -> Result<(), Usage> {
    // Another command is called so too.
    let Ok(Some(source)) = matches.try_get_one::<SourceArg>("source") else { return Ok(()) };
    for (id, flag, needed, name) in OF_SOURCE {
        if needed != *source && is_given(matches, id) {
            let has = if *source == SourceArg::Kube { "kube" } else { "sim" };
            return Err(Usage(format!("{flag} needs --source {name}, and the source is {has}")));
        }
    }
    Ok(())
}

/// Whether a flag stands on the command line.
fn is_given(matches: &ArgMatches, id: &str) -> bool {
    let is_known = matches.try_contains_id(id).is_ok_and(|is_there| is_there);
    is_known && matches.value_source(id) == Some(ValueSource::CommandLine)
}
