//! What is asked once.

use clap::{Args as ClapArgs, ValueEnum};
use relay_pods::EventHash;

use super::value::hash;
use super::{Connect, Print, PrintLines, Since, Until, Which};

#[derive(Debug, ClapArgs)]
pub(crate) struct PodsArgs {
    #[command(flatten)]
    pub(crate) connect: Connect,
    #[command(flatten)]
    pub(crate) which: Which,
    #[command(flatten)]
    pub(crate) print: Print,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct PodArgs {
    /// The pod: NAMESPACE/NAME, or NAMESPACE NAME, or NAME with --namespace
    #[arg(required = true, num_args = 1..=2, value_name = "POD")]
    pub(crate) pod: Vec<String>,
    #[command(flatten)]
    pub(crate) connect: Connect,
    /// Namespace of the pod
    #[arg(long, short = 'n', env = "RELAY_NAMESPACE", value_name = "NAMESPACE")]
    pub(crate) namespace: Option<String>,
    #[command(flatten)]
    pub(crate) print: Print,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct EventsArgs {
    /// Only the history of this pod, NAMESPACE/NAME, also after its deletion
    #[arg(long, value_name = "POD")]
    pub(crate) pod: Option<String>,
    #[command(flatten)]
    pub(crate) connect: Connect,
    #[command(flatten)]
    pub(crate) which: Which,
    /// Only events after this position
    #[arg(long, env = "RELAY_SINCE_HASH", value_name = "HASH", value_parser = hash, allow_hyphen_values = true)]
    pub(crate) since_hash: Option<EventHash>,
    #[command(flatten)]
    pub(crate) since: Since,
    /// Only events before this position
    #[arg(long, value_name = "HASH", value_parser = hash, allow_hyphen_values = true)]
    pub(crate) before_hash: Option<EventHash>,
    /// Which end to begin at
    #[arg(long, default_value = "oldest", value_name = "ORDER")]
    pub(crate) order: OrderArg,
    /// Events per request, 1 to 1000
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) limit: Option<u32>,
    /// Only events of this type, ADDED, MODIFIED or DELETED; repeat for alternatives
    #[arg(long = "type", value_name = "TYPE")]
    pub(crate) types: Vec<String>,
    #[command(flatten)]
    pub(crate) until: Until,
    #[command(flatten)]
    pub(crate) print: Print,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum OrderArg {
    /// Oldest events first
    Oldest,
    /// Newest events first
    Newest,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct SessionArgs {
    #[command(flatten)]
    pub(crate) connect: Connect,
    #[command(flatten)]
    pub(crate) print: PrintLines,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct HealthArgs {
    #[command(flatten)]
    pub(crate) connect: Connect,
    #[command(flatten)]
    pub(crate) print: PrintLines,
}
