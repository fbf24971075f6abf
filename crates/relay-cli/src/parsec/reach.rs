//! How to reach a server, and with which schemas.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args as ClapArgs, ValueEnum};
use relay_parsec::{
    Endpoint, SseConfig, SseTransport, Transport as ParsecTransport, WebSocketConfig, WebSocketTransport,
};
use relay_proto::parsec::{Registry, Validator, ValidatorMode};
use relay_transport::TokenSource;

use crate::args::{Transport, duration, in_environment};
use crate::exit::Usage;

/// How to reach a server
#[derive(Debug, Clone, ClapArgs)]
pub(super) struct Reach {
    /// Base URL of the server; may carry a path prefix
    #[arg(long, env = "RELAY_URL", default_value = "http://127.0.0.1:8080", value_name = "URL")]
    url: String,
    /// Token of the server [env: RELAY_TOKEN, unless a token flag is given]
    #[arg(long, value_name = "TOKEN", conflicts_with = "token_file")]
    token: Option<String>,
    /// File with the token; read again when it changes [env: RELAY_TOKEN_FILE, unless a token flag is given]
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Credential of a proxy in front of the server: sent as Authorization, and the server's token as X-Relay-Token
    #[arg(
        long,
        env = "RELAY_PROXY_TOKEN",
        hide_env_values = true,
        value_name = "TOKEN",
        help_heading = "Transport"
    )]
    proxy_token: Option<String>,
    /// How envelopes travel
    #[arg(long, env = "RELAY_PARSEC_TRANSPORT", default_value = "sse", value_name = "TRANSPORT")]
    transport: Kind,
    /// Ceiling of the first delay before a retry; it doubles with each attempt
    #[arg(long, env = "RELAY_RECONNECT_BASE", default_value = "800ms", value_name = "DURATION", value_parser = duration)]
    reconnect_base: Duration,
    /// Ceiling of every delay before a retry
    #[arg(long, env = "RELAY_RECONNECT_CAP", default_value = "30s", value_name = "DURATION", value_parser = duration)]
    reconnect_cap: Duration,
    #[command(flatten)]
    connection: Transport,
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
    /// What presence calls this client: 1 to 128 visible ASCII characters
    #[arg(long, env = "RELAY_CLIENT_ID", value_name = "NAME")]
    client_id: Option<String>,
    /// What else presence says of it
    #[arg(long, value_name = "JSON")]
    conn_info: Option<String>,
}

/// With which schemas
#[derive(Debug, Clone, ClapArgs)]
pub(super) struct Schemas {
    /// File with patterns: {"patterns":[..]} or a list
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
    Registry::from_json(&text).with_context(named)
}

impl Reach {
    pub(super) fn backoff(&self) -> (Duration, Duration) {
        (self.reconnect_base, self.reconnect_cap)
    }

    pub(super) fn endpoint(&self, who: &Who) -> anyhow::Result<Endpoint> {
        let mut endpoint = Endpoint::builder(self.url.as_str()).http(self.connection.http().build()?);
        let (token, file) = match (&self.token, &self.token_file) {
            (None, None) => match in_environment("RELAY_TOKEN") {
                Some(token) => (Some(token), None),
                None => (None, in_environment("RELAY_TOKEN_FILE").map(PathBuf::from)),
            },
            given => (given.0.clone(), given.1.clone()),
        };
        if let Some(token) = token.filter(|token| !token.is_empty()) {
            endpoint = endpoint.token_source(TokenSource::fixed(token));
        }
        if let Some(file) = file {
            endpoint = endpoint.token_source(TokenSource::file(file));
        }
        if let Some(token) = self.proxy_token.as_deref().filter(|token| !token.is_empty()) {
            endpoint = endpoint.outer_token_source(TokenSource::fixed(token));
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

    pub(super) fn transport(
        &self,
        who: &Who,
        subscribe_tries: u32,
        open: bool,
    ) -> anyhow::Result<Box<dyn ParsecTransport>> {
        let endpoint = self.endpoint(who)?;
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
