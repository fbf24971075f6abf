//! Flags for the connection to a server, and for schemas.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args as ClapArgs, ValueEnum};
use relay_parsec::{
    Endpoint, SseConfig, SseTransport, Transport as ParsecTransport, WebSocketConfig, WebSocketTransport,
};
use relay_proto::parsec::{Registry, Validator, ValidatorMode};

use crate::args::{KubeFlags, Peer, Reconnect, System, TakesKubeFlags};
use crate::exit::Usage;

/// Servers of channels.
#[derive(Debug, Clone)]
pub(super) struct Channels;

impl System for Channels {
    const URL_HELP: &'static str = "Base URL of the server; may carry a path prefix. Default: http://127.0.0.1:8080 \
                                    [env: RELAY_URL, unless --kube-service is given]";
    const URL: &'static str = "http://127.0.0.1:8080";
    const URL_VARIABLE: &'static str = "RELAY_URL";
    const SERVICE_HELP: &'static str = "Reach the server through the service proxy of an API server: \
                                        NAMESPACE/NAME:PORT, or NAMESPACE/https:NAME:PORT [env: \
                                        RELAY_KUBE_SERVICE, unless --url is given]";
    const SERVICE_VARIABLE: &'static str = "RELAY_KUBE_SERVICE";
}

/// How to reach a server
#[derive(Debug, Clone, ClapArgs)]
pub(super) struct Reach {
    #[command(flatten)]
    peer: Peer<Channels>,
    /// How envelopes travel
    #[arg(
        long,
        env = "RELAY_PARSEC_TRANSPORT",
        default_value = "sse",
        value_name = "TRANSPORT",
        help_heading = "Connection"
    )]
    transport: Kind,
    #[command(flatten)]
    reconnect: Reconnect,
}

/// How envelopes travel
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Kind {
    /// HTTP and Server-Sent Events: a server of ours
    Sse,
    /// WebSocket and Twirp: a server that embeds centrifuge, as Parsec's own does
    Websocket,
}

/// Who a subscriber is
#[derive(Debug, Clone, Default, ClapArgs)]
pub(super) struct Who {
    /// Name of this client in presence: 1 to 128 visible ASCII characters
    #[arg(long, env = "RELAY_CLIENT_ID", value_name = "NAME")]
    client_id: Option<String>,
    /// More that presence shows of this client, as JSON
    #[arg(long, value_name = "JSON")]
    conn_info: Option<String>,
}

/// With which schemas
#[derive(Debug, Clone, ClapArgs)]
pub(super) struct Schemas {
    /// File with patterns of channels, and the schemas of their aspects' payloads.
    ///
    /// {"patterns":[{"pattern":"public:demo.*","aspects":{"said":{"payload_schema":
    /// {"type":"object","required":["text"],"properties":{"text":{"type":"string"}}}}}}]}, or the list alone. Members
    /// that are not known are refused.
    #[arg(long, value_name = "FILE")]
    pub(super) schemas: Option<PathBuf>,
    /// What to do with a payload that does not fit: off, warn or strict
    #[arg(long, default_value = "off", value_name = "MODE", requires = "schemas")]
    pub(super) validate: ValidatorMode,
}

impl Schemas {
    pub(super) fn registry(&self) -> anyhow::Result<Option<Registry>> {
        self.schemas.as_deref().map(read_registry).transpose()
    }

    pub(super) fn validator(&self) -> anyhow::Result<Validator> {
        Ok(self
            .registry()?
            .map_or_else(Validator::default, |registry| Validator::new(registry, self.validate)))
    }
}

pub(super) fn read_registry(path: &std::path::Path) -> anyhow::Result<Registry> {
    let named = || format!("schemas file {}", path.display());
    let text = std::fs::read(path).with_context(named)?;
    Registry::from_written_json(&text).with_context(named)
}

impl Reach {
    pub(super) fn backoff(&self) -> (Duration, Duration) {
        self.reconnect.delays()
    }

    pub(super) async fn endpoint(&self, who: &Who) -> anyhow::Result<Endpoint> {
        let route = self.peer.route().await?;
        let mut endpoint = Endpoint::builder(route.url).http(route.http.build()?).outer(route.outer);
        if let Some(token) = route.token {
            endpoint = endpoint.token_source(token);
        }
        if let Some(id) = &who.client_id {
            endpoint = endpoint.client_id(id.as_str());
        }
        if let Some(info) = &who.conn_info {
            serde_json::from_str::<serde_json::Value>(info)
                .map_err(|error| Usage(format!("--conn-info is not JSON: {error}")))?;
            endpoint = endpoint.conn_info(info.as_str());
        }
        Ok(endpoint.build()?)
    }

    pub(super) async fn transport(
        &self,
        who: &Who,
        subscribe_tries: u32,
        open: bool,
    ) -> anyhow::Result<Box<dyn ParsecTransport>> {
        let endpoint = self.endpoint(who).await?;
        let (base, cap) = self.backoff();
        match self.transport {
            Kind::Sse if open => Err(Usage("--open is for --transport websocket".into()).into()),
            Kind::Sse => Ok(Box::new(SseTransport::new(endpoint, SseConfig::default().backoff(base, cap)))),
            Kind::Websocket => {
                let config = WebSocketConfig::default()
                    .backoff(base, cap)
                    .subscribe_tries(subscribe_tries)
                    .open_channels(open);
                Ok(Box::new(WebSocketTransport::new(endpoint, config)))
            }
        }
    }
}

impl TakesKubeFlags for Reach {
    fn fall_back_to(&mut self, before: KubeFlags) {
        self.peer.fall_back_to(before);
    }
}
