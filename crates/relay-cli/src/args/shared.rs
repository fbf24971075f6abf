//! Flags of several commands: filters, output, limits, reconnecting.

use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args as ClapArgs, ValueEnum};
use relay_pods::{Filter, StreamOptions};

use relay_proto::time::Timestamp;

use super::value::{duration, positive_duration, time, whole};
use crate::clock::now;
use crate::exit::Usage;

/// The heading of the flags that select events.
pub(super) const EVENTS: &str = "Which events";

/// A point in time to begin at
#[derive(Debug, Clone, Default, ClapArgs)]
pub(crate) struct Since {
    /// Only events of the last 5m, 2h and so on, by the clock of this machine
    #[arg(
        long,
        value_name = "DURATION",
        value_parser = duration,
        conflicts_with_all = ["since_time", "since_hash"],
        help_heading = EVENTS
    )]
    since: Option<Duration>,
    /// Only events that the relay took at this time or later, such as 2026-11-21T09:00:00Z
    #[arg(long, value_name = "RFC3339", value_parser = time, conflicts_with = "since_hash", help_heading = EVENTS)]
    since_time: Option<Timestamp>,
}

impl Since {
    /// The point in time. A duration is counted back from now.
    pub(crate) fn time(&self) -> Option<Timestamp> {
        self.since.map(|since| before(now(), since)).or_else(|| self.since_time.clone())
    }
}

/// A duration before a time in milliseconds, but never before 1970.
fn before(now: i64, since: Duration) -> Timestamp {
    let since = i64::try_from(since.as_millis()).unwrap_or(i64::MAX);
    Timestamp::from_unix_millis(now.saturating_sub(since).max(0))
}

/// Which pods
#[derive(Debug, Clone, Default, ClapArgs)]
#[command(next_help_heading = "Which pods")]
pub(crate) struct Which {
    /// Only pods of this namespace; repeat for alternatives
    #[arg(
        long = "namespace",
        short = 'n',
        env = "RELAY_NAMESPACE",
        value_delimiter = ',',
        value_name = "NAMESPACE"
    )]
    namespaces: Vec<String>,
    /// Pods of all namespaces, also when RELAY_NAMESPACE names one; not together with --namespace
    #[arg(long = "all-namespaces", short = 'A')]
    all_namespaces: bool,
    /// Only pods with these labels, such as app=web, tier!=db, 'run in (a,b)', KEY or !KEY; commas and repeats mean
    /// "and"
    #[arg(
        long = "label",
        visible_alias = "selector",
        short = 'l',
        env = "RELAY_LABEL",
        value_name = "SELECTOR",
        allow_hyphen_values = true
    )]
    labels: Vec<String>,
}

impl Which {
    pub(crate) fn filter(&self) -> anyhow::Result<Filter> {
        let wrong = |error: relay_proto::pods::InvalidParameter| Usage(error.to_string());
        let mut filter = Filter::new();
        for namespace in self.namespaces() {
            filter = filter.namespace(namespace).map_err(wrong)?;
        }
        for label in self.labels.iter().filter(|l| !l.is_empty()) {
            filter = filter.label(label).map_err(wrong)?;
        }
        Ok(filter)
    }

    /// The message that no pod matches these flags.
    pub(crate) fn nothing(&self) -> String {
        let asked = self.asked();
        if asked.is_empty() { "the relay has no pods".into() } else { format!("no pods match{asked}") }
    }

    /// The flags, each after a space.
    pub(crate) fn asked(&self) -> String {
        let namespaces = self.namespaces().map(|namespace| format!(" -n {namespace}"));
        let labels = self.labels.iter().filter(|label| !label.is_empty()).map(|label| format!(" -l {label}"));
        namespaces.chain(labels).collect()
    }

    fn namespaces(&self) -> impl Iterator<Item = &String> {
        self.namespaces.iter().filter(|namespace| !namespace.is_empty() && !self.all_namespaces)
    }

    pub(crate) fn has_labels(&self) -> bool {
        self.labels.iter().any(|label| !label.is_empty())
    }

    /// The only namespace, if there is exactly one.
    pub(crate) fn only_namespace(&self) -> Option<&str> {
        let mut namespaces = self.namespaces();
        namespaces.next().filter(|_| namespaces.next().is_none()).map(String::as_str)
    }
}

/// How to print
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Lines for people, as wide as the terminal
    Table,
    /// A table with more columns
    Wide,
    /// One JSON object per line
    Json,
    /// One YAML document per object
    Yaml,
    /// Names only, one per line, as other commands take them
    Name,
}

/// The formats for commands whose output has no names.
fn without_names() -> impl TypedValueParser<Value = Format> {
    PossibleValuesParser::new(["table", "wide", "json", "yaml"])
        .try_map(|name| <Format as ValueEnum>::from_str(&name, false))
}

/// How lists of named things are printed.
#[derive(Debug, Clone, Copy, Default, ClapArgs)]
#[command(next_help_heading = "Output")]
pub(crate) struct Print {
    /// Format. Default: table on a terminal, json otherwise
    #[arg(short = 'o', long = "output", env = "RELAY_OUTPUT", value_name = "FORMAT")]
    pub(crate) output: Option<Format>,
    /// Tables without headings
    #[arg(long)]
    pub(crate) no_headers: bool,
    /// Tables with points in time instead of ages
    #[arg(long)]
    pub(crate) timestamps: bool,
}

/// How lines about things without a name are printed.
#[derive(Debug, Clone, Copy, ClapArgs)]
#[command(next_help_heading = "Output")]
pub(crate) struct PrintLines {
    /// Format. Default: table on a terminal, json otherwise
    #[arg(short = 'o', long = "output", env = "RELAY_OUTPUT", value_name = "FORMAT", value_parser = without_names())]
    output: Option<Format>,
    /// Tables without headings
    #[arg(long)]
    no_headers: bool,
    /// Tables with the time of each line
    #[arg(long)]
    timestamps: bool,
}

impl From<PrintLines> for Print {
    fn from(lines: PrintLines) -> Self {
        let PrintLines { output, no_headers, timestamps } = lines;
        Self { output, no_headers, timestamps }
    }
}

/// When to end
#[derive(Debug, Clone, Copy, ClapArgs)]
#[command(next_help_heading = "When to end")]
pub(crate) struct Until {
    /// End after so many lines
    #[arg(long, env = "RELAY_MAX", value_name = "N", value_parser = whole::<u64>(0..))]
    pub(crate) max: Option<u64>,
    /// End after this time
    #[arg(long = "for", env = "RELAY_FOR", value_name = "DURATION", value_parser = positive_duration)]
    pub(crate) time: Option<Duration>,
}

/// How a stream reconnects
#[derive(Debug, Clone, ClapArgs)]
#[command(next_help_heading = "Reconnecting")]
pub(crate) struct Reconnect {
    /// Ceiling of the first delay before a reconnect; it doubles with each attempt
    #[arg(long, env = "RELAY_RECONNECT_BASE", default_value = "800ms", value_name = "DURATION", value_parser = duration)]
    reconnect_base: Duration,
    /// Ceiling of every delay before a reconnect
    #[arg(long, env = "RELAY_RECONNECT_CAP", default_value = "30s", value_name = "DURATION", value_parser = duration)]
    reconnect_cap: Duration,
}

impl Reconnect {
    /// Base and cap.
    pub(crate) fn delays(&self) -> (Duration, Duration) {
        (self.reconnect_base, self.reconnect_cap)
    }

    pub(crate) fn options(&self, filter: Filter) -> StreamOptions {
        StreamOptions::new()
            .filter(filter)
            .reconnect_base(self.reconnect_base)
            .reconnect_cap(self.reconnect_cap)
    }
}
