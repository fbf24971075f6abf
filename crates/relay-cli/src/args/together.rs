//! Flags that contradict each other on one command line. Environment variables are defaults, and contradict nothing.

use clap::parser::ValueSource;
use clap::{ArgMatches, ValueEnum as _};

use super::SourceArg;
use crate::exit::Usage;

/// Flags of `serve` that only one source uses.
const OF_SOURCE: [(&str, &str, SourceArg); 6] = [
    ("kubeconfig", "--kubeconfig", SourceArg::Kube),
    ("watch_namespaces", "--watch-namespace", SourceArg::Kube),
    ("sim_seed", "--sim-seed", SourceArg::Sim),
    ("sim_clock", "--sim-clock", SourceArg::Sim),
    ("sim_pods", "--sim-pods", SourceArg::Sim),
    ("sim_rate", "--sim-rate", SourceArg::Sim),
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
    for (id, flag, needed) in OF_SOURCE {
        if needed != *source && is_given(matches, id) {
            let name =
                |source: SourceArg| source.to_possible_value().map(|value| value.get_name().to_owned());
            let (needed, is) = (name(needed).unwrap_or_default(), name(*source).unwrap_or_default());
            return Err(Usage(format!("{flag} needs --source {needed}, and the source is {is}")));
        }
    }
    Ok(())
}

/// Whether a flag stands on the command line.
fn is_given(matches: &ArgMatches, id: &str) -> bool {
    let is_known = matches.try_contains_id(id).is_ok_and(|is_there| is_there);
    is_known && matches.value_source(id) == Some(ValueSource::CommandLine)
}
