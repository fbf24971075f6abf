//! Flags of the commands that make a single request.

use clap::{Args as ClapArgs, ValueEnum};
use relay_pods::EventHash;

use super::shared::EVENTS;
use super::value::{hash, whole};
use super::{Connect, Print, PrintLines, Since, Until, Which};
use crate::tally::GroupBy;

#[derive(Debug, ClapArgs)]
pub(crate) struct PodsArgs {
    #[command(flatten)]
    pub(crate) which: Which,
    /// Only pods that are not ready. Those that have succeeded are not among them, those being deleted are
    #[arg(long, help_heading = "Which pods")]
    pub(crate) not_ready: bool,
    /// A line per group with its counts instead. By namespace, node, status, or the key of a label (label:node is the
    /// label of that name)
    #[arg(long, value_name = "WHAT", value_parser = GroupBy::parse, help_heading = "Output")]
    pub(crate) group_by: Option<GroupBy>,
    #[command(flatten)]
    pub(crate) print: Print,
    #[command(flatten)]
    pub(crate) connect: Connect,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct PodArgs {
    /// Pods: NAMESPACE/NAME, or NAME with --namespace; also NAMESPACE NAME for one
    #[arg(required = true, num_args = 1.., value_name = "POD")]
    pub(crate) pods: Vec<String>,
    /// Namespace of pods that are given by their name alone
    #[arg(long, short = 'n', env = "RELAY_NAMESPACE", value_name = "NAMESPACE")]
    pub(crate) namespace: Option<String>,
    #[command(flatten)]
    pub(crate) connect: Connect,
    #[command(flatten)]
    pub(crate) print: Print,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct EventsArgs {
    /// Only the history of this pod, NAMESPACE/NAME, also after its deletion
    #[arg(long, value_name = "POD", help_heading = EVENTS)]
    pub(crate) pod: Option<String>,
    /// Only events of this type, ADDED, MODIFIED or DELETED; repeat for alternatives
    #[arg(long = "type", value_name = "TYPE", help_heading = EVENTS)]
    pub(crate) types: Vec<String>,
    #[command(flatten)]
    pub(crate) since: Since,
    /// Which end to begin at
    #[arg(long, default_value = "oldest", value_name = "ORDER", help_heading = EVENTS)]
    pub(crate) order: OrderArg,
    /// Only events after this position
    #[arg(long, env = "RELAY_SINCE_HASH", value_name = "HASH", value_parser = hash, allow_hyphen_values = true, help_heading = EVENTS)]
    pub(crate) since_hash: Option<EventHash>,
    /// Only events before this position
    #[arg(long, value_name = "HASH", value_parser = hash, allow_hyphen_values = true, help_heading = EVENTS)]
    pub(crate) before_hash: Option<EventHash>,
    /// Events per request, 1 to 1000
    #[arg(long, value_name = "N", value_parser = whole::<u32>(1..=1000), help_heading = EVENTS)]
    pub(crate) limit: Option<u32>,
    #[command(flatten)]
    pub(crate) which: Which,
    #[command(flatten)]
    pub(crate) connect: Connect,
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
