//! How to reach a relay.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args as ClapArgs;
use relay_client::{Client, HttpClient, TokenSource};

use super::value::positive_duration;

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
