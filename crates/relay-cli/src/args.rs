//! Flags and their environment variables.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use relay_client::{Client, EventHash, Filter, HttpClient, StreamOptions, TokenSource};

use crate::exit::Usage;

/// Follow the pods of a Kubernetes cluster through a relay, or be the relay.
///
/// Flags that say [env: ..] can also be set in the environment.
/// Durations are written 500ms, 10s, 5m, 24h; sizes 64KiB, 256MiB. JSON comes as one object per line.
///
/// Exit codes: 0 done, 1 failed, 2 wrong usage, 3 not found, 4 not authorised, 130 after Ctrl-C, 143 when a client is
/// ended by SIGTERM (a server ends with 0).
#[derive(Debug, Parser)]
#[command(name = "relay", version, max_term_width = 100)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// See it work: a relay with a simulated cluster, and a client that follows it through a cut and a gap
    Demo(DemoArgs),
    /// Run a relay
    Serve(Box<ServeArgs>),
    /// List the current pods
    Pods(PodsArgs),
    /// Show one pod; exit code 3 when there is none
    Pod(PodArgs),
    /// Page through the history
    Events(EventsArgs),
    /// Print the raw messages of one connection
    Stream(StreamArgs),
    /// Follow the pods: a line per list and per change
    State(StateArgs),
    /// Follow the pods through the six phases, resumable with --cursor-file
    Replay(ReplayArgs),
    /// Ask for a session ticket and print it
    Session(SessionArgs),
    /// Print the health document; exit code 1 when the relay is not well
    Health(HealthArgs),
}

/// How to reach a relay
#[derive(Debug, Clone, ClapArgs)]
pub(crate) struct Connect {
    /// Base URL of the relay; may carry a path prefix
    #[arg(long, env = "RELAY_URL", default_value = "http://127.0.0.1:8080", value_name = "URL")]
    url: String,
    /// Token of the relay [env: RELAY_TOKEN, unless a token flag is given]
    #[arg(long, value_name = "TOKEN", conflicts_with = "token_file")]
    token: Option<String>,
    /// File with the token of the relay; read again when it changes [env: RELAY_TOKEN_FILE, unless a token flag is given]
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Name of this consumer in the relay's metrics and logs: 1 to 128 visible ASCII characters
    #[arg(long, env = "RELAY_CLIENT_ID", value_name = "NAME")]
    client_id: Option<String>,
    /// Credential of a proxy in front of the relay: sent as Authorization, and the relay's token as X-Relay-Token
    #[arg(
        long,
        env = "RELAY_PROXY_TOKEN",
        hide_env_values = true,
        value_name = "TOKEN",
        help_heading = "Transport"
    )]
    proxy_token: Option<String>,
    /// PEM file with certificates to trust beside the system's; read again when it changes
    #[arg(long, env = "RELAY_CA_FILE", value_name = "FILE", help_heading = "Transport")]
    ca_file: Option<PathBuf>,
    /// PEM file with a client certificate; read again when it changes
    #[arg(
        long,
        env = "RELAY_CLIENT_CERT",
        value_name = "FILE",
        requires = "client_key",
        help_heading = "Transport"
    )]
    client_cert: Option<PathBuf>,
    /// PEM file with the client certificate's key
    #[arg(
        long,
        env = "RELAY_CLIENT_KEY",
        value_name = "FILE",
        requires = "client_cert",
        help_heading = "Transport"
    )]
    client_key: Option<PathBuf>,
    /// Longest time to connect
    #[arg(
        long,
        env = "RELAY_CONNECT_TIMEOUT",
        default_value = "10s",
        value_name = "DURATION",
        value_parser = positive_duration,
        help_heading = "Transport"
    )]
    connect_timeout: Duration,
    /// Accept any certificate: whoever is on the way can read and change everything
    #[arg(long, help_heading = "Transport")]
    insecure_accept_any_certificate: bool,
}

impl Connect {
    pub(crate) fn client(&self) -> anyhow::Result<Client> {
        let mut builder = Client::builder(&*self.url);
        let in_environment = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let (token, file) = match (&self.token, &self.token_file) {
            (None, None) => match in_environment("RELAY_TOKEN") {
                Some(token) => (Some(token), None),
                None => (None, in_environment("RELAY_TOKEN_FILE").map(PathBuf::from)),
            },
            given => (given.0.clone(), given.1.clone()),
        };
        if let Some(token) = token.filter(|token| !token.is_empty()) {
            builder = builder.token(token);
        }
        if let Some(file) = file {
            builder = builder.token_file(file);
        }
        if let Some(id) = &self.client_id {
            builder = builder.client_id(id.as_str());
        }
        if let Some(token) = self.proxy_token.as_deref().filter(|token| !token.is_empty()) {
            builder = builder.outer_token_source(TokenSource::fixed(token));
        }
        Ok(builder.http(self.http()?).build()?)
    }

    fn http(&self) -> anyhow::Result<HttpClient> {
        let mut http = HttpClient::builder().connect_timeout(self.connect_timeout);
        if let Some(file) = &self.ca_file {
            http = http.ca_file(file);
        }
        if let (Some(certificate), Some(key)) = (&self.client_cert, &self.client_key) {
            http = http.client_certificate(certificate, key);
        }
        if self.insecure_accept_any_certificate {
            tracing::warn!(
                "any certificate is accepted: whoever is on the way can read and change everything"
            );
            http = http.dangerously_accept_any_certificate();
        }
        Ok(http.build()?)
    }
}

/// Which pods
#[derive(Debug, Clone, Default, ClapArgs)]
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
    /// Only pods with this label, KEY=VALUE or KEY; repeat for conditions that must all hold
    #[arg(long = "label", short = 'l', env = "RELAY_LABEL", value_delimiter = ',', value_name = "LABEL")]
    labels: Vec<String>,
}

impl Which {
    pub(crate) fn filter(&self) -> anyhow::Result<Filter> {
        let wrong = |error: relay_proto::pods::InvalidParameter| Usage(error.to_string());
        let mut filter = Filter::new();
        for namespace in self.namespaces.iter().filter(|n| !n.is_empty()) {
            filter = filter.namespace(namespace).map_err(wrong)?;
        }
        for label in self.labels.iter().filter(|l| !l.is_empty()) {
            filter = filter.label(label).map_err(wrong)?;
        }
        Ok(filter)
    }

    /// The only namespace, for naming one pod.
    pub(crate) fn only_namespace(&self) -> Option<&str> {
        if let [namespace] = self.namespaces.as_slice() { Some(namespace) } else { None }
    }
}

/// How to print
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Lines for people
    Table,
    /// One JSON object per line
    Json,
}

#[derive(Debug, Clone, Copy, ClapArgs)]
pub(crate) struct Print {
    /// Output; default: table on a terminal, json otherwise
    #[arg(short = 'o', long = "output", env = "RELAY_OUTPUT", value_name = "FORMAT")]
    pub(crate) output: Option<Format>,
}

/// When to end
#[derive(Debug, Clone, Copy, ClapArgs)]
pub(crate) struct Until {
    /// End after so many lines
    #[arg(long, env = "RELAY_MAX", value_name = "N")]
    pub(crate) max: Option<u64>,
    /// End after this time
    #[arg(long = "for", env = "RELAY_FOR", value_name = "DURATION", value_parser = duration)]
    pub(crate) time: Option<Duration>,
}

/// How a stream reconnects
#[derive(Debug, Clone, ClapArgs)]
pub(crate) struct Reconnect {
    /// Ceiling of the first delay before a reconnect; it doubles with each attempt
    #[arg(long, env = "RELAY_RECONNECT_BASE", default_value = "800ms", value_name = "DURATION", value_parser = duration)]
    reconnect_base: Duration,
    /// Ceiling of every delay before a reconnect
    #[arg(long, env = "RELAY_RECONNECT_CAP", default_value = "30s", value_name = "DURATION", value_parser = duration)]
    reconnect_cap: Duration,
}

impl Reconnect {
    pub(crate) fn options(&self, filter: Filter) -> StreamOptions {
        StreamOptions::new()
            .filter(filter)
            .reconnect_base(self.reconnect_base)
            .reconnect_cap(self.reconnect_cap)
    }
}

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
    #[arg(long, env = "RELAY_SINCE_HASH", value_name = "HASH", value_parser = hash)]
    pub(crate) since_hash: Option<EventHash>,
    /// Only events before this position
    #[arg(long, value_name = "HASH", value_parser = hash)]
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
pub(crate) struct StreamArgs {
    #[command(flatten)]
    pub(crate) connect: Connect,
    #[command(flatten)]
    pub(crate) which: Which,
    /// Begin after this position; default: with everything that is retained
    #[arg(long, env = "RELAY_SINCE_HASH", value_name = "HASH", value_parser = hash)]
    pub(crate) since_hash: Option<EventHash>,
    /// Without a cursor: begin with what is new
    #[arg(long)]
    pub(crate) latest: bool,
    #[command(flatten)]
    pub(crate) reconnect: Reconnect,
    #[command(flatten)]
    pub(crate) until: Until,
    #[command(flatten)]
    pub(crate) print: Print,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct StateArgs {
    #[command(flatten)]
    pub(crate) connect: Connect,
    #[command(flatten)]
    pub(crate) which: Which,
    /// Add all pods to each line
    #[arg(long)]
    pub(crate) pods: bool,
    #[command(flatten)]
    pub(crate) reconnect: Reconnect,
    #[command(flatten)]
    pub(crate) until: Until,
    #[command(flatten)]
    pub(crate) print: Print,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct ReplayArgs {
    #[command(flatten)]
    pub(crate) connect: Connect,
    #[command(flatten)]
    pub(crate) which: Which,
    /// Begin after this position; default: with everything that is retained
    #[arg(long, env = "RELAY_SINCE_HASH", value_name = "HASH", value_parser = hash)]
    pub(crate) since_hash: Option<EventHash>,
    /// Keep the acknowledged position in this file and resume from it; belongs to one filter
    #[arg(long, env = "RELAY_CURSOR_FILE", value_name = "FILE")]
    pub(crate) cursor_file: Option<PathBuf>,
    /// End when this phase is reached: CurrentSeed, Backfill, CatchupComplete, Live, GapReseed or ReconnectReseed
    #[arg(long, value_name = "PHASE", value_parser = phase)]
    pub(crate) exit_after_phase: Option<relay_client::Phase>,
    /// Add all pods to each line
    #[arg(long)]
    pub(crate) pods: bool,
    /// Apply replayed events to the pods, which then show history
    #[arg(long)]
    pub(crate) apply_backfill: bool,
    #[command(flatten)]
    pub(crate) reconnect: Reconnect,
    #[command(flatten)]
    pub(crate) until: Until,
    #[command(flatten)]
    pub(crate) print: Print,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct SessionArgs {
    #[command(flatten)]
    pub(crate) connect: Connect,
    #[command(flatten)]
    pub(crate) print: Print,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct HealthArgs {
    #[command(flatten)]
    pub(crate) connect: Connect,
    #[command(flatten)]
    pub(crate) print: Print,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct DemoArgs {
    /// End after this time; default: run until Ctrl-C
    #[arg(long = "for", env = "RELAY_FOR", value_name = "DURATION", value_parser = duration)]
    pub(crate) time: Option<Duration>,
    /// Output: table (lines for people) or json (the lines of `relay replay`)
    #[arg(
        short = 'o',
        long = "output",
        env = "RELAY_OUTPUT",
        default_value = "table",
        value_name = "FORMAT"
    )]
    pub(crate) output: Format,
    /// Add all pods to each JSON line
    #[arg(long)]
    pub(crate) pods: bool,
    /// Seed of the simulated cluster
    #[arg(long, env = "RELAY_SIM_SEED", default_value_t = 1, value_name = "N")]
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

#[derive(Debug, ClapArgs)]
pub(crate) struct ServeArgs {
    /// Address to listen on; port 0 takes a free one
    #[arg(long, env = "RELAY_LISTEN", default_value = "127.0.0.1:8080", value_name = "ADDRESS")]
    pub(crate) listen: SocketAddr,
    /// Where the pods come from
    #[arg(long, env = "RELAY_SOURCE", default_value = "sim", value_name = "SOURCE")]
    pub(crate) source: SourceArg,
    /// Seed of the simulated cluster
    #[arg(
        long,
        env = "RELAY_SIM_SEED",
        default_value_t = 1,
        value_name = "N",
        help_heading = "Simulated cluster"
    )]
    pub(crate) sim_seed: u64,
    /// Pods at the start
    #[arg(
        long,
        env = "RELAY_SIM_PODS",
        default_value_t = 60,
        value_name = "N",
        help_heading = "Simulated cluster"
    )]
    pub(crate) sim_pods: usize,
    /// Events per second; 0: quiet after the start
    #[arg(long, env = "RELAY_SIM_RATE", default_value_t = 5.0, value_name = "RATE", value_parser = rate, help_heading = "Simulated cluster")]
    pub(crate) sim_rate: f64,
    /// Kubeconfig file; default: KUBECONFIG, ~/.kube/config, or the pod's service account
    #[arg(long, env = "RELAY_KUBECONFIG", value_name = "FILE", help_heading = "Kubernetes")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Watch only this namespace; repeat for more. Default: all
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
    /// Events to retain at most
    #[arg(
        long,
        env = "RELAY_RETAIN_EVENTS",
        default_value_t = 100_000,
        value_name = "N",
        help_heading = "Limits"
    )]
    pub(crate) retain_events: u64,
    /// Bytes of events to retain at most
    #[arg(long, env = "RELAY_RETAIN_BYTES", default_value = "256MiB", value_name = "SIZE", value_parser = size, help_heading = "Limits")]
    pub(crate) retain_bytes: u64,
    /// Age of events to retain at most
    #[arg(long, env = "RELAY_RETAIN_AGE", default_value = "24h", value_name = "DURATION", value_parser = duration, help_heading = "Limits")]
    pub(crate) retain_age: Duration,
    /// Streams at most, in all
    #[arg(
        long,
        env = "RELAY_MAX_STREAMS",
        default_value_t = 1024,
        value_name = "N",
        help_heading = "Limits"
    )]
    pub(crate) max_streams: usize,
    /// Age at which a stream is closed, plus up to a tenth; 0: never
    #[arg(long, env = "RELAY_STREAM_LIFETIME", default_value = "1h", value_name = "DURATION", value_parser = duration, help_heading = "Limits")]
    pub(crate) stream_lifetime: Duration,
    /// Silence after which a stream is sent a heartbeat
    #[arg(long, env = "RELAY_HEARTBEAT", default_value = "15s", value_name = "DURATION", value_parser = positive_duration, help_heading = "Limits")]
    pub(crate) heartbeat: Duration,
    /// File with a line TOKEN SUBJECT NAMESPACES per token; default: no authentication
    #[arg(long, env = "RELAY_TOKENS_FILE", value_name = "FILE", help_heading = "Authentication")]
    pub(crate) tokens_file: Option<PathBuf>,
    /// Time for which a session ticket is valid
    #[arg(long, env = "RELAY_SESSION_TTL", default_value = "30s", value_name = "DURATION", value_parser = positive_duration, help_heading = "Authentication")]
    pub(crate) session_ttl: Duration,
}

fn hash(text: &str) -> Result<EventHash, String> {
    EventHash::new(text).map_err(|error| error.to_string())
}

fn phase(text: &str) -> Result<relay_client::Phase, String> {
    let phases = relay_client::Phase::ALL;
    phases.into_iter().find(|phase| phase.as_str().eq_ignore_ascii_case(text)).ok_or_else(|| {
        let names: Vec<_> = phases.iter().map(|phase| phase.as_str()).collect();
        format!("one of {}", names.join(", "))
    })
}

fn rate(text: &str) -> Result<f64, String> {
    let rate: f64 = text.parse().map_err(|_| "a number of events per second".to_owned())?;
    if rate.is_finite() && (0.0..=1e6).contains(&rate) {
        Ok(rate)
    } else {
        Err("0 to 1000000 events per second".into())
    }
}

/// `500ms`, `10s`, `5m`, `24h`, `1d`; a bare `0`.
fn duration(text: &str) -> Result<Duration, String> {
    let rule = || "a duration is a number and ms, s, m, h or d, such as 500ms or 24h".to_owned();
    let (number, unit) = number_and_unit(text).ok_or_else(rule)?;
    let seconds = match unit {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        "d" => 86400.0,
        "" if number == 0.0 => 1.0,
        _ => return Err(rule()),
    };
    Duration::try_from_secs_f64(number * seconds).map_err(|_| rule())
}

fn positive_duration(text: &str) -> Result<Duration, String> {
    duration(text).and_then(|d| if d.is_zero() { Err("a duration above 0".into()) } else { Ok(d) })
}

/// `1024`, `64KiB`, `256MiB`, `2GiB`.
fn size(text: &str) -> Result<u64, String> {
    let rule = || "a size is a number of bytes, or a number and KiB, MiB or GiB, such as 256MiB".to_owned();
    let (number, unit) = number_and_unit(text).ok_or_else(rule)?;
    let factor: u32 = match unit {
        "" | "B" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        _ => return Err(rule()),
    };
    let bytes = number * f64::from(1u32 << factor);
    if bytes.fract() == 0.0 && bytes < 1e18 { Ok(bytes as u64) } else { Err(rule()) }
}

fn number_and_unit(text: &str) -> Option<(f64, &str)> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.').len();
    let number: f64 = text[..digits].parse().ok()?;
    Some((number, &text[digits..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_flags_are_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn durations_and_sizes_are_written_as_documented() {
        for (text, millis) in
            [("500ms", 500), ("10s", 10_000), ("5m", 300_000), ("24h", 86_400_000), ("0", 0), ("1.5s", 1500)]
        {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for bad in ["", "10", "s", "10 s", "-1s", "1w", "1e9999s", ".s", "99999999999999999999999h"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
        for (text, bytes) in [
            ("0", 0),
            ("1024", 1024),
            ("64KiB", 65_536),
            ("256MiB", 1 << 28),
            ("2GiB", 1 << 31),
            ("1.5KiB", 1536),
        ] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for bad in ["", "MiB", "1MB", "-1", "1.5", "1e5"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }
}
