//! Flags of `relay serve` and `relay demo`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args as ClapArgs, ValueEnum};

use super::Format;
use super::value::{duration, positive_duration, rate, size, whole};

/// What every demo has in common
#[derive(Debug, Clone, Copy, ClapArgs)]
pub(crate) struct Show {
    /// End after this time; default: run until Ctrl-C
    #[arg(long = "for", env = "RELAY_FOR", value_name = "DURATION", value_parser = duration)]
    pub(crate) time: Option<Duration>,
    /// Output: table (lines for people) or json (what the commands for programs print)
    #[arg(
        short = 'o',
        long = "output",
        env = "RELAY_OUTPUT",
        default_value = "table",
        value_name = "FORMAT"
    )]
    pub(crate) output: Format,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct DemoArgs {
    #[command(flatten)]
    pub(crate) show: Show,
    /// Add all pods to each JSON line
    #[arg(long)]
    pub(crate) pods: bool,
    /// Seed of the simulated cluster
    #[arg(long, env = "RELAY_SIM_SEED", default_value_t = 1, value_name = "N", value_parser = whole::<u64>(0..))]
    pub(crate) sim_seed: u64,
}

/// Where a relay's pods come from
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum SourceArg {
    /// A simulated cluster: the same seed gives the same cluster and order of events
    Sim,
    /// A Kubernetes API server
    Kube,
}

/// Where the times of a simulated cluster come from
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ClockArg {
    /// The clock of this machine: ages and --since mean what they say
    Real,
    /// The seed: the same seed gives the same times
    Seed,
}

/// Where a relay's events are kept
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum StoreArg {
    /// In memory: lost at each restart, which begins a new epoch
    Memory,
    /// In the data directory: a restart goes on where the last run ended
    Disk,
}

/// When events are made to survive a power loss; all survive the end of the process
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum FsyncArg {
    /// Before they are sent: nothing that was sent is ever lost
    Always,
    /// At most the interval later; after a power loss the log is in a new epoch
    Interval,
    /// When the operating system decides; after a power loss the log is in a new epoch
    Never,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct ServeArgs {
    /// Address to listen on; port 0 takes a free one
    #[arg(long, env = "RELAY_LISTEN", default_value = "127.0.0.1:8080", value_name = "ADDRESS")]
    pub(crate) listen: SocketAddr,
    /// Where the pods come from; flags of the other source are refused
    #[arg(long, env = "RELAY_SOURCE", default_value = "sim", value_name = "SOURCE")]
    pub(crate) source: SourceArg,
    /// Seed of the simulated cluster; default: 1, with the times of the clock instead of those of the seed
    #[arg(long, env = "RELAY_SIM_SEED", value_name = "N", value_parser = whole::<u64>(0..), help_heading = "Simulated cluster")]
    pub(crate) sim_seed: Option<u64>,
    /// Where its times come from. Default: seed where --sim-seed is given, else real
    #[arg(long, env = "RELAY_SIM_CLOCK", value_name = "CLOCK", help_heading = "Simulated cluster")]
    pub(crate) sim_clock: Option<ClockArg>,
    /// Pods at the start
    #[arg(
        long,
        env = "RELAY_SIM_PODS",
        default_value_t = 60,
        value_name = "N", value_parser = whole::<usize>(0..),
        help_heading = "Simulated cluster"
    )]
    pub(crate) sim_pods: usize,
    /// Events per second; 0: no events after the start
    #[arg(long, env = "RELAY_SIM_RATE", default_value_t = 5.0, value_name = "RATE", value_parser = rate, help_heading = "Simulated cluster")]
    pub(crate) sim_rate: f64,
    /// Kubeconfig file, with --source kube. Default: RELAY_KUBECONFIG, else KUBECONFIG, which may list several, else
    /// ~/.kube/config, else the pod's service account
    #[arg(long, value_name = "FILE", help_heading = "Kubernetes")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Watch only this namespace, with --source kube; repeat for more. Default: all
    #[arg(
        long = "watch-namespace",
        env = "RELAY_WATCH_NAMESPACE",
        value_delimiter = ',',
        value_name = "NAMESPACE",
        help_heading = "Kubernetes"
    )]
    pub(crate) watch_namespaces: Vec<String>,
    /// Publish the annotation with this key; repeat for more. Default: none, as annotations may hold secrets
    #[arg(
        long = "publish-annotation",
        env = "RELAY_PUBLISH_ANNOTATION",
        value_delimiter = ',',
        value_name = "KEY",
        help_heading = "Kubernetes"
    )]
    pub(crate) publish_annotations: Vec<String>,
    /// Where the events are kept. Default: on the disk with --data-dir, else in memory
    #[arg(long, env = "RELAY_STORE", value_name = "STORE", help_heading = "Store")]
    pub(crate) store: Option<StoreArg>,
    /// Directory of the disk store, made when it is not there; only its owner may look inside
    #[arg(
        long,
        env = "RELAY_DATA_DIR",
        required_if_eq("store", "disk"),
        value_name = "DIR",
        help_heading = "Store"
    )]
    pub(crate) data_dir: Option<PathBuf>,
    /// When events are synced to the disk
    #[arg(long, env = "RELAY_FSYNC", default_value = "always", value_name = "WHEN", help_heading = "Store")]
    pub(crate) fsync: FsyncArg,
    /// Time between two syncs of --fsync interval
    #[arg(long, env = "RELAY_FSYNC_INTERVAL", default_value = "10ms", value_name = "DURATION", value_parser = positive_duration, help_heading = "Store")]
    pub(crate) fsync_interval: Duration,
    /// Events that are retained at most
    #[arg(
        long,
        env = "RELAY_RETAIN_EVENTS",
        default_value_t = 100_000,
        value_name = "N", value_parser = whole::<u64>(0..),
        help_heading = "Limits"
    )]
    pub(crate) retain_events: u64,
    /// Bytes of events that are retained at most
    #[arg(long, env = "RELAY_RETAIN_BYTES", default_value = "256MiB", value_name = "SIZE", value_parser = size, help_heading = "Limits")]
    pub(crate) retain_bytes: u64,
    /// Age up to which events are retained
    #[arg(long, env = "RELAY_RETAIN_AGE", default_value = "24h", value_name = "DURATION", value_parser = duration, help_heading = "Limits")]
    pub(crate) retain_age: Duration,
    /// Streams at most, in all
    #[arg(
        long,
        env = "RELAY_MAX_STREAMS",
        default_value_t = 1024,
        value_name = "N", value_parser = whole::<usize>(0..),
        help_heading = "Limits"
    )]
    pub(crate) max_streams: usize,
    /// Age at which a stream is closed, plus up to a tenth; 0: never
    #[arg(long, env = "RELAY_STREAM_LIFETIME", default_value = "1h", value_name = "DURATION", value_parser = duration, help_heading = "Limits")]
    pub(crate) stream_lifetime: Duration,
    /// Silence after which a stream is sent a heartbeat
    #[arg(long, env = "RELAY_HEARTBEAT", default_value = "15s", value_name = "DURATION", value_parser = positive_duration, help_heading = "Limits")]
    pub(crate) heartbeat: Duration,
    /// File with a line TOKEN SUBJECT NAMESPACES per token, NAMESPACES being * for all or names with commas, such as
    /// prod,staging. Default: no authentication
    #[arg(long, env = "RELAY_TOKENS_FILE", value_name = "FILE", help_heading = "Authentication")]
    pub(crate) tokens_file: Option<PathBuf>,
    /// Time for which a session ticket is valid
    #[arg(long, env = "RELAY_SESSION_TTL", default_value = "30s", value_name = "DURATION", value_parser = positive_duration, help_heading = "Authentication")]
    pub(crate) session_ttl: Duration,
}
