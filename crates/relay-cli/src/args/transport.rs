//! Flags for connections: certificates, time limits.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args as ClapArgs;
use relay_transport::{HttpClient, HttpClientBuilder};

use super::value::positive_duration;

/// How connections are made
#[derive(Debug, Clone, ClapArgs)]
pub(crate) struct Transport {
    /// PEM file with certificates to trust beside the system's; read again when it changes
    #[arg(long, env = "RELAY_CA_FILE", value_name = "FILE", help_heading = "Transport")]
    pub(crate) ca_file: Option<PathBuf>,
    /// PEM file with a client certificate; read again when it changes
    #[arg(
        long,
        env = "RELAY_CLIENT_CERT",
        value_name = "FILE",
        requires = "client_key",
        help_heading = "Transport"
    )]
    pub(crate) client_cert: Option<PathBuf>,
    /// PEM file with the client certificate's key
    #[arg(
        long,
        env = "RELAY_CLIENT_KEY",
        value_name = "FILE",
        requires = "client_cert",
        help_heading = "Transport"
    )]
    pub(crate) client_key: Option<PathBuf>,
    /// Longest time to connect
    #[arg(
        long,
        env = "RELAY_CONNECT_TIMEOUT",
        default_value = "10s",
        value_name = "DURATION",
        value_parser = positive_duration,
        help_heading = "Transport"
    )]
    pub(crate) connect_timeout: Duration,
    /// Accept any certificate: anyone on the network path can read and change everything
    #[arg(long, help_heading = "Transport")]
    pub(crate) insecure_accept_any_certificate: bool,
}

impl Transport {
    /// A client whose time limits are still to be set.
    pub(crate) fn http(&self) -> HttpClientBuilder {
        let mut http = HttpClient::builder().connect_timeout(self.connect_timeout);
        if let Some(file) = &self.ca_file {
            http = http.ca_file(file);
        }
        if let (Some(certificate), Some(key)) = (&self.client_cert, &self.client_key) {
            http = http.client_certificate(certificate, key);
        }
        if self.insecure_accept_any_certificate {
            tracing::warn!(
                "any certificate is accepted: anyone on the network path can read and change everything"
            );
            http = http.dangerously_accept_any_certificate();
        }
        http
    }
}
