//! Flags of the commands that follow a stream.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args as ClapArgs;
use relay_pods::EventHash;

use super::shared::EVENTS;
use super::value::{duration, hash, phase};
use super::{Connect, PrintLines, Reconnect, Since, Until, Which};
use crate::tally::GroupBy;
use crate::wait::Condition;

/// The default time limit of `wait`.
pub(crate) const DEFAULT_WAIT: Duration = Duration::from_secs(30);

#[derive(Debug, ClapArgs)]
pub(crate) struct StreamArgs {
    /// Begin after this position; default: with everything that is retained
    #[arg(long, env = "RELAY_SINCE_HASH", value_name = "HASH", value_parser = hash, allow_hyphen_values = true, help_heading = EVENTS)]
    pub(crate) since_hash: Option<EventHash>,
    /// Without a cursor: begin with what is new
    #[arg(long, help_heading = EVENTS)]
    pub(crate) latest: bool,
    #[command(flatten)]
    pub(crate) which: Which,
    #[command(flatten)]
    pub(crate) connect: Connect,
    #[command(flatten)]
    pub(crate) reconnect: Reconnect,
    #[command(flatten)]
    pub(crate) until: Until,
    #[command(flatten)]
    pub(crate) print: PrintLines,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct StateArgs {
    /// A line per group of pods that changed instead; at first, every group. By namespace, node, status, or the key of
    /// a label (label:node is the label of that name)
    #[arg(long, env = "RELAY_GROUP_BY", value_name = "WHAT", value_parser = GroupBy::parse, help_heading = "Output")]
    pub(crate) group_by: Option<GroupBy>,
    /// Add all pods to each line
    #[arg(long, help_heading = "Output")]
    pub(crate) pods: bool,
    #[command(flatten)]
    pub(crate) which: Which,
    #[command(flatten)]
    pub(crate) connect: Connect,
    #[command(flatten)]
    pub(crate) reconnect: Reconnect,
    #[command(flatten)]
    pub(crate) until: Until,
    #[command(flatten)]
    pub(crate) print: PrintLines,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct WaitArgs {
    /// Wait for these pods, NAMESPACE/NAME, or NAME with one --namespace; default: all that match
    #[arg(value_name = "POD")]
    pub(crate) pods: Vec<String>,
    /// What to wait for; repeat for conditions that must all hold at once.
    ///
    /// ready: there are pods, and all of them are ready (also condition=Ready). ready=N: at least N of them are.
    /// condition=Ready=false: there are pods, and none is ready. count=N: exactly N pods match. delete or deleted: no
    /// pod matches (any more). phase=PHASE: there are pods, and all of them are in that phase: Pending, Running,
    /// Succeeded, Failed or Unknown.
    #[arg(long = "for", value_name = "CONDITION", required = true, value_parser = Condition::parse)]
    pub(crate) conditions: Vec<Condition>,
    /// Longest time to wait, connecting included; exit code 5 when it is over.
    ///
    /// 0: judge the first live state, and do not wait for another; a relay that gives none within 30s counts as a
    /// timeout.
    #[arg(
        long,
        env = "RELAY_TIMEOUT",
        default_value = "30s",
        value_name = "DURATION",
        value_parser = duration
    )]
    pub(crate) timeout: Duration,
    #[command(flatten)]
    pub(crate) which: Which,
    #[command(flatten)]
    pub(crate) connect: Connect,
    #[command(flatten)]
    pub(crate) reconnect: Reconnect,
    #[command(flatten)]
    pub(crate) print: PrintLines,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct ReplayArgs {
    /// Begin after this position; default: with everything that is retained
    #[arg(long, env = "RELAY_SINCE_HASH", value_name = "HASH", value_parser = hash, allow_hyphen_values = true, help_heading = EVENTS)]
    pub(crate) since_hash: Option<EventHash>,
    #[command(flatten)]
    pub(crate) since: Since,
    /// Keep the acknowledged position in this file and resume from it; belongs to one filter
    #[arg(long, env = "RELAY_CURSOR_FILE", value_name = "FILE", help_heading = EVENTS)]
    pub(crate) cursor_file: Option<PathBuf>,
    /// End when this phase is reached: CurrentSeed, Backfill, CatchupComplete, Live, GapReseed or ReconnectReseed
    #[arg(long, value_name = "PHASE", value_parser = phase, help_heading = "When to end")]
    pub(crate) exit_after_phase: Option<relay_pods::Phase>,
    /// Add all pods to each line
    #[arg(long, help_heading = "Output")]
    pub(crate) pods: bool,
    /// Apply replayed events to the pods, which then show history
    #[arg(long, help_heading = "Output")]
    pub(crate) apply_backfill: bool,
    #[command(flatten)]
    pub(crate) which: Which,
    #[command(flatten)]
    pub(crate) connect: Connect,
    #[command(flatten)]
    pub(crate) reconnect: Reconnect,
    #[command(flatten)]
    pub(crate) until: Until,
    #[command(flatten)]
    pub(crate) print: PrintLines,
}
