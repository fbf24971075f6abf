//! How to reach a relay.

use std::path::PathBuf;

use clap::Args as ClapArgs;
use relay_kube::{Given, Kubeconfig};
use relay_pods::{Client, TokenSource};

use super::transport::Transport;
use crate::exit::Usage;
use crate::service_proxy::{self, KubeService};

/// How to reach a relay
#[derive(Debug, Clone, ClapArgs)]
#[command(next_help_heading = "Connection")]
pub(crate) struct Connect {
    /// Base URL of the relay; may carry a path prefix. Default: http://127.0.0.1:8080 [env: RELAY_URL, unless
    /// --kube-service is given]
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// Token of the relay [env: RELAY_TOKEN, unless a token flag is given]
    #[arg(long, value_name = "TOKEN", conflicts_with = "token_file")]
    token: Option<String>,
    /// File with the token of the relay; read again when it changes [env: RELAY_TOKEN_FILE, unless a token flag is
    /// given]
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
    #[command(flatten)]
    transport: Transport,
    #[command(flatten)]
    kube: KubeFlags,
}

/// How to reach a relay through a Kubernetes API server
#[derive(Debug, Clone, Default, ClapArgs)]
#[command(next_help_heading = "Through a Kubernetes API server")]
pub(crate) struct KubeFlags {
    /// Reach the relay through the service proxy of an API server: NAMESPACE/NAME:PORT, or NAMESPACE/https:NAME:PORT
    /// [env: RELAY_KUBE_SERVICE, unless --url is given]
    #[arg(long, value_name = "SERVICE")]
    kube_service: Option<String>,
    /// Context of the kubeconfig. Default: the current one [env: RELAY_KUBE_CONTEXT]
    #[arg(long, value_name = "CONTEXT")]
    kube_context: Option<String>,
    /// Kubeconfig file. Default: RELAY_KUBECONFIG, else KUBECONFIG, which may list several, else ~/.kube/config
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
}

impl KubeFlags {
    /// The first flag that was given.
    pub(crate) fn given(&self) -> Option<&'static str> {
        [
            ("--kube-service", self.kube_service.is_some()),
            ("--kube-context", self.kube_context.is_some()),
            ("--kubeconfig", self.kubeconfig.is_some()),
        ]
        .into_iter()
        .find_map(|(name, given)| given.then_some(name))
    }
}

/// Where the relay is.
enum Place {
    Url(String),
    Service { service: KubeService, context: Option<String>, kubeconfig: Option<PathBuf> },
}

/// An empty variable counts as none.
pub(crate) fn in_environment(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

impl Connect {
    /// Takes what was given before the name of the command, unless it was given again after it.
    pub(crate) fn fall_back_to(&mut self, before: KubeFlags) {
        let kube = std::mem::take(&mut self.kube);
        self.kube = KubeFlags {
            kube_service: kube.kube_service.or(before.kube_service),
            kube_context: kube.kube_context.or(before.kube_context),
            kubeconfig: kube.kubeconfig.or(before.kubeconfig),
        };
    }

    pub(crate) async fn client(&self) -> anyhow::Result<Client> {
        let place = self.place()?;
        let mut http = self.transport.http();
        let mut builder = match &place {
            Place::Url(url) => Client::builder(url.as_str()),
            Place::Service { service, context, kubeconfig } => {
                let access = Kubeconfig::load(kubeconfig.as_deref())?.access(context.as_deref())?;
                let builder = Client::builder(service.url(&access.server()?.to_string()));
                let given = Given {
                    ca_file: self.transport.ca_file.is_some(),
                    identity: self.transport.client_cert.is_some(),
                    credential: self.proxy_token.is_some(),
                };
                let any = self.transport.insecure_accept_any_certificate;
                let (with_access, builder) = service_proxy::apply(access, given, any, http, builder).await?;
                http = with_access;
                builder
            }
        };
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
        Ok(builder.http(http.build()?).build()?)
    }

    /// Flags beat the environment; what excludes each other is an error.
    fn place(&self) -> anyhow::Result<Place> {
        let (url, kube) = (&self.url, &self.kube);
        if let (Some(_), Some(flag)) = (url, kube.given()) {
            return Err(Usage(format!("--url and {flag} exclude each other")).into());
        }
        if let Some(url) = url {
            return Ok(Place::Url(url.clone()));
        }
        let in_environment = (in_environment("RELAY_URL"), in_environment("RELAY_KUBE_SERVICE"));
        let service = match (&kube.kube_service, in_environment) {
            (Some(service), _) => service.clone(),
            (None, (Some(_), Some(_))) => {
                return Err(Usage("RELAY_URL and RELAY_KUBE_SERVICE exclude each other".into()).into());
            }
            (None, (None, Some(service))) => service,
            (None, (url, None)) => {
                if let Some(flag) = kube.given() {
                    return Err(Usage(format!("{flag} needs --kube-service NAMESPACE/NAME:PORT")).into());
                }
                return Ok(Place::Url(url.unwrap_or_else(|| "http://127.0.0.1:8080".into())));
            }
        };
        Ok(Place::Service {
            service: KubeService::parse(&service)?,
            context: kube.kube_context.clone().or_else(|| self::in_environment("RELAY_KUBE_CONTEXT")),
            kubeconfig: kube.kubeconfig.clone(),
        })
    }
}
