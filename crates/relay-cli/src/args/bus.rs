//! Flags of `relay bus`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args as ClapArgs, Subcommand, ValueEnum};
use relay_bus::{BusReference, ChannelReference, HeaderRules};

use super::transport::Transport;
use super::value::{duration, positive_duration, size, whole};
use super::{Format, Print, Show, Until};

#[derive(Debug, ClapArgs)]
pub(crate) struct BusArgs {
    #[command(subcommand)]
    pub(crate) command: BusCommand,
}

impl BusArgs {
    pub(crate) fn is_demo(&self) -> bool {
        matches!(self.command, BusCommand::Demo(_))
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum BusCommand {
    /// Run a bus: take messages for channels, and send each to everyone who is subscribed
    Serve(Box<BusServeArgs>),
    /// Send messages to a channel
    Send(BusSendArgs),
    /// Be a subscriber: print what is posted here
    Receive(BusReceiveArgs),
    /// Follow channels and subscriptions: a line, or a command, for each call of a bus's handlers
    Monitor(BusMonitorArgs),
    /// Print the custom resource definitions, for kubectl apply
    Crds(BusCrdsArgs),
    /// See it work: two channels, four subscriptions, a reply, a subscriber that fails and one that stalls
    Demo(Show),
}

/// Which bus
#[derive(Debug, Clone, ClapArgs)]
pub(crate) struct WhichBus {
    /// Channels and subscriptions from a file, without a cluster; read again when it changes
    #[arg(long, env = "RELAY_BUS_FILE", value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// A Bus; default: BUS_NAMESPACE and BUS_NAME
    #[arg(long, value_name = "NAMESPACE/NAME", value_parser = bus, conflicts_with = "cluster_bus")]
    pub(crate) bus: Option<BusReference>,
    /// A ClusterBus; default: BUS_NAME when BUS_NAMESPACE is empty
    #[arg(long, value_name = "NAME", value_parser = cluster_bus)]
    pub(crate) cluster_bus: Option<BusReference>,
    /// Kubeconfig file; default: KUBECONFIG, ~/.kube/config, or the pod's service account
    #[arg(long, env = "RELAY_KUBECONFIG", value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// URL of the API server, instead of the kubeconfig's
    #[arg(long, value_name = "URL")]
    pub(crate) master: Option<String>,
    /// Handler calls at a time
    #[arg(long, default_value_t = 4, value_name = "N", value_parser = whole::<usize>(1..))]
    pub(crate) concurrency: usize,
    /// Put a finalizer on channels and subscriptions, so that a bus that was down does not miss a deletion
    #[arg(long)]
    pub(crate) finalizer: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum EngineArg {
    /// Queues in memory: no promise of delivery
    Memory,
    /// Streams of a NATS server: what was answered with 202 reaches every subscription at least once
    Jetstream,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum TraceContext {
    /// traceparent and tracestate pass
    Forward,
    /// They do not: the header list of 2018
    Drop,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct BusServeArgs {
    /// What keeps messages
    #[arg(long, default_value = "memory", value_name = "ENGINE")]
    pub(crate) engine: EngineArg,
    #[command(flatten)]
    pub(crate) which: WhichBus,
    /// Address to listen on; port 0 takes a free one
    #[arg(long, env = "RELAY_LISTEN", default_value = "127.0.0.1:8080", value_name = "ADDRESS")]
    pub(crate) listen: SocketAddr,
    /// Output: table (the first line on stdout, the rest on stderr) or json
    #[arg(
        short = 'o',
        long = "output",
        env = "RELAY_OUTPUT",
        default_value = "table",
        value_name = "FORMAT"
    )]
    pub(crate) output: Format,
    /// Bytes of a payload at most
    #[arg(long, default_value = "1MiB", value_name = "SIZE", value_parser = size)]
    pub(crate) max_payload: u64,
    /// Time for one call of a subscriber
    #[arg(long, default_value = "30s", value_name = "DURATION", value_parser = positive_duration)]
    pub(crate) dispatch_timeout: Duration,
    /// Domain of the cluster's services
    #[arg(long, default_value = "cluster.local", value_name = "DOMAIN")]
    pub(crate) cluster_domain: String,
    /// What happens to the trace headers traceparent and tracestate
    #[arg(long, default_value = "forward", value_name = "RULE")]
    pub(crate) trace_context: TraceContext,
    /// Forward this header, too: NAME or PREFIX*; repeat for more
    #[arg(long = "forward-header", value_name = "NAME")]
    pub(crate) forward_headers: Vec<String>,
    /// Accept only CloudEvents
    #[arg(long)]
    pub(crate) require_cloudevents: bool,
    /// Calls at a time per subscription; 1 keeps its order
    #[arg(long, default_value_t = 64, value_name = "N", value_parser = whole::<usize>(1..))]
    pub(crate) in_flight: usize,
    /// Messages waiting per subscription; also at most 64 MiB
    #[arg(long, default_value_t = 1024, value_name = "N", value_parser = whole::<usize>(0..))]
    pub(crate) queue: usize,
    /// Tries per message and subscription; 0: no limit. Default: 1 in memory, 0 with jetstream
    #[arg(long, value_name = "N", value_parser = whole::<u32>(0..=u32::MAX.into()))]
    pub(crate) max_deliver: Option<u32>,
    /// Delay before the second try, doubling to 60s
    #[arg(long, default_value = "1s", value_name = "DURATION", value_parser = duration)]
    pub(crate) retry_delay: Duration,
    /// Destination of messages that were given up
    #[arg(long, value_name = "DESTINATION")]
    pub(crate) dead_letter: Option<String>,
    /// Time for what still waits after SIGTERM
    #[arg(long, default_value = "10s", value_name = "DURATION", value_parser = duration)]
    pub(crate) drain: Duration,
    /// Address for /health, /livez, /readyz and /metrics. Default: none
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) admin_listen: Option<SocketAddr>,
    /// NATS server of the jetstream engine
    #[arg(long, default_value = "nats://127.0.0.1:4222", value_name = "URL")]
    pub(crate) nats: String,
    /// Credentials file for the NATS server
    #[arg(long, value_name = "FILE")]
    pub(crate) nats_creds: Option<PathBuf>,
}

impl BusServeArgs {
    pub(crate) fn rules(&self) -> Result<HeaderRules, crate::exit::Usage> {
        let rules = match self.trace_context {
            TraceContext::Forward => HeaderRules::default(),
            TraceContext::Drop => HeaderRules::y2018(),
        };
        let added = self.forward_headers.iter().try_fold(rules, |rules, header| rules.forward(header));
        added.map_err(|error| crate::exit::Usage(error.to_string()))
    }
}

#[derive(Debug, ClapArgs)]
pub(crate) struct BusSendArgs {
    /// The channel
    #[arg(long, value_name = "NAMESPACE/NAME")]
    pub(crate) channel: ChannelReference,
    /// The bus
    #[arg(long, default_value = "http://127.0.0.1:8080", value_name = "URL")]
    pub(crate) url: String,
    /// A header; repeat for more
    #[arg(long = "header", value_name = "NAME=VALUE", value_parser = pair)]
    pub(crate) headers: Vec<(String, String)>,
    /// Content type of the payload
    #[arg(long, value_name = "TYPE")]
    pub(crate) content_type: Option<String>,
    /// The payload. Default: stdin to its end, where that is no terminal
    #[arg(long, value_name = "TEXT", conflicts_with = "data_file")]
    pub(crate) data: Option<String>,
    /// A file with the payload; - is stdin
    #[arg(long, value_name = "FILE")]
    pub(crate) data_file: Option<PathBuf>,
    /// Send a CloudEvent 1.0 of this type
    #[arg(long, value_name = "TYPE", requires = "ce_source")]
    pub(crate) ce_type: Option<String>,
    /// Its source
    #[arg(long, value_name = "SOURCE", requires = "ce_type")]
    pub(crate) ce_source: Option<String>,
    /// Its id. Default: a random one
    #[arg(long, value_name = "ID", requires = "ce_type")]
    pub(crate) ce_id: Option<String>,
    /// Each line of stdin is a message
    #[arg(long, conflicts_with_all = ["data", "data_file"])]
    pub(crate) lines: bool,
    /// Domain of the cluster's services
    #[arg(long, default_value = "cluster.local", value_name = "DOMAIN")]
    pub(crate) cluster_domain: String,
    #[command(flatten)]
    pub(crate) print: Print,
    #[command(flatten)]
    pub(crate) transport: Transport,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct BusReceiveArgs {
    /// Address to listen on; port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:0", value_name = "ADDRESS")]
    pub(crate) listen: SocketAddr,
    /// Answer with this body
    #[arg(long, value_name = "TEXT")]
    pub(crate) reply: Option<String>,
    /// A header of the answer; repeat for more
    #[arg(long = "reply-header", value_name = "NAME=VALUE", value_parser = pair)]
    pub(crate) reply_headers: Vec<(String, String)>,
    /// Answer with this status. Default: 200 with a reply, else 202
    #[arg(long, value_name = "N", value_parser = whole::<u16>(200..=599))]
    pub(crate) status: Option<u16>,
    /// Answer after this time
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(crate) delay: Option<Duration>,
    #[command(flatten)]
    pub(crate) until: Until,
    #[command(flatten)]
    pub(crate) print: Print,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ComponentArg {
    Dispatcher,
    Provisioner,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum HandlerArg {
    Bus,
    Provision,
    Unprovision,
    Subscribe,
    Unsubscribe,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct BusMonitorArgs {
    #[command(flatten)]
    pub(crate) which: WhichBus,
    /// Name under which conditions, events and finalizers are written
    #[arg(long, default_value = "dispatcher", value_name = "COMPONENT")]
    pub(crate) component: ComponentArg,
    /// The calls that are handled. Default: all
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "CALLS",
        default_value = "bus,provision,unprovision,subscribe,unsubscribe"
    )]
    pub(crate) handlers: Vec<HandlerArg>,
    /// Run this for each call, the line on stdin: exit 0 is success. Only then conditions and events are written
    #[arg(long, value_name = "COMMAND")]
    pub(crate) exec: Option<String>,
    /// Write no conditions, events and finalizers
    #[arg(long)]
    pub(crate) no_status: bool,
    #[command(flatten)]
    pub(crate) until: Until,
    #[command(flatten)]
    pub(crate) print: Print,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct BusCrdsArgs {
    /// Add a ClusterRole with the rights that a bus needs
    #[arg(long)]
    pub(crate) rbac: bool,
    /// Without the status subresource, for clusters where buses of 2018 still run
    #[arg(long)]
    pub(crate) no_status_subresource: bool,
}

fn bus(text: &str) -> Result<BusReference, String> {
    let both: ChannelReference =
        text.parse().map_err(|_| "NAMESPACE/NAME, each a DNS-1123 label".to_owned())?;
    Ok(BusReference::new(both.name().to_owned(), both.namespace().to_owned()))
}

fn cluster_bus(text: &str) -> Result<BusReference, String> {
    if relay_proto::bus::is_dns_label(text) {
        Ok(BusReference::cluster(text.to_owned()))
    } else {
        Err("a name: a DNS-1123 label".into())
    }
}

/// `NAME=VALUE` of a header.
fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("NAME=VALUE")?;
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if name.is_empty() || !name.bytes().all(token) {
        return Err("its name is no header name".into());
    }
    if value.bytes().any(|byte| byte < b' ' && byte != b'\t' || byte == 0x7f) {
        return Err("its value has a control character".into());
    }
    Ok((name.to_ascii_lowercase(), value.to_owned()))
}
