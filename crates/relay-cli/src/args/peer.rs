//! Flags for a command's server: its address, a proxy in front of it, and credentials for both.

use std::marker::PhantomData;
use std::path::PathBuf;

use clap::Args as ClapArgs;
use relay_kube::{CallerSettings, Kubeconfig};
use relay_proto::http::without_userinfo;
use relay_transport::{BaseUrl, HttpClientBuilder, Outer, TokenSource};

use super::transport::Transport;
use crate::exit::Usage;
use crate::service_proxy::{self, KubeService};

/// The differences between the systems.
pub(crate) trait System: std::fmt::Debug + Clone + Send + Sync + 'static {
    /// The text for `--url` in `--help`.
    const URL_HELP: &'static str;
    /// The URL of the server by default.
    const URL: &'static str;
    /// The variable with the URL.
    const URL_VARIABLE: &'static str;
    /// The text for `--kube-service` in `--help`.
    const SERVICE_HELP: &'static str;
    /// The variable with the service.
    const SERVICE_VARIABLE: &'static str;
}

/// How to reach a server of a system
#[derive(Debug, Clone, ClapArgs)]
#[command(next_help_heading = "Connection")]
pub(crate) struct Peer<S: System> {
    #[arg(long, value_name = "URL", help = S::URL_HELP)]
    url: Option<String>,
    /// File with the token; read again when it changes [env: RELAY_TOKEN_FILE, unless a token flag is given]
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Token of the server [env: RELAY_TOKEN, unless a token flag is given]
    #[arg(long, value_name = "TOKEN", conflicts_with = "token_file", hide_short_help = true)]
    token: Option<String>,
    /// Credential of a proxy in front of the server: sent as Authorization, and the server's token as X-Relay-Token
    #[arg(
        long,
        env = "RELAY_PROXY_TOKEN",
        hide_env_values = true,
        value_name = "TOKEN",
        hide_short_help = true
    )]
    proxy_token: Option<String>,
    #[arg(
        long,
        value_name = "SERVICE",
        help = S::SERVICE_HELP,
        hide_short_help = true,
        help_heading = "Through a Kubernetes API server"
    )]
    kube_service: Option<String>,
    #[command(flatten)]
    kubeconfig: KubeContext,
    #[command(flatten)]
    pub(crate) transport: Transport,
    #[arg(skip)]
    system: PhantomData<S>,
}

/// Which API server, and as whom
#[derive(Debug, Clone, Default, ClapArgs)]
#[command(next_help_heading = "Through a Kubernetes API server")]
pub(crate) struct KubeContext {
    /// Context of the kubeconfig. Default: the current one [env: RELAY_KUBE_CONTEXT]
    #[arg(long, value_name = "CONTEXT", hide_short_help = true)]
    kube_context: Option<String>,
    /// Kubeconfig file. Default: RELAY_KUBECONFIG, else KUBECONFIG, which may list several, else ~/.kube/config
    #[arg(long, value_name = "FILE", hide_short_help = true)]
    kubeconfig: Option<PathBuf>,
}

/// The same flags before the name of the command, as kubectl takes them
#[derive(Debug, Clone, Default, ClapArgs)]
#[command(next_help_heading = "Through a Kubernetes API server")]
pub(crate) struct KubeFlags {
    /// Reach the server through the service proxy of an API server: NAMESPACE/NAME:PORT, or NAMESPACE/https:NAME:PORT
    #[arg(long, value_name = "SERVICE", hide_short_help = true)]
    kube_service: Option<String>,
    #[command(flatten)]
    context: KubeContext,
}

impl KubeFlags {
    /// The first flag that was given.
    pub(crate) fn given(&self) -> Option<&'static str> {
        given(self.kube_service.as_ref(), &self.context)
    }
}

fn given(service: Option<&String>, context: &KubeContext) -> Option<&'static str> {
    [
        ("--kube-service", service.is_some()),
        ("--kube-context", context.kube_context.is_some()),
        ("--kubeconfig", context.kubeconfig.is_some()),
    ]
    .into_iter()
    .find_map(|(name, given)| given.then_some(name))
}

/// A command with a server of any system, which can be given before the name of the command.
pub(crate) trait TakesKubeFlags {
    /// Uses the flags before the name of the command, unless they were given again after it.
    fn fall_back_to(&mut self, before: KubeFlags);
}

impl<S: System> TakesKubeFlags for Peer<S> {
    fn fall_back_to(&mut self, before: KubeFlags) {
        let KubeFlags { kube_service, context } = before;
        self.kube_service = self.kube_service.take().or(kube_service);
        let own = &mut self.kubeconfig;
        own.kube_context = own.kube_context.take().or(context.kube_context);
        own.kubeconfig = own.kubeconfig.take().or(context.kubeconfig);
    }
}

/// Everything that is needed to make a client.
pub(crate) struct Route {
    pub(crate) url: String,
    /// The time limits are still to be set.
    pub(crate) http: HttpClientBuilder,
    pub(crate) token: Option<TokenSource>,
    pub(crate) outer: Outer,
}

/// The address of the server.
enum Place {
    Url(String),
    Service { service: KubeService, context: Option<String>, kubeconfig: Option<PathBuf> },
}

/// An empty variable counts as absent.
pub(crate) fn in_environment(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

impl<S: System> Peer<S> {
    /// The route to the server, from the flags, the environment and the kubeconfig.
    pub(crate) async fn route(&self) -> anyhow::Result<Route> {
        let place = self.place()?;
        if let Place::Url(url) = &place {
            let name = if self.url.is_some() { "--url" } else { S::URL_VARIABLE };
            // A query or a user name may hold a secret.
            let shown = without_userinfo(url.split(['?', '#']).next().unwrap_or_default());
            BaseUrl::parse(url).map_err(|error| Usage(format!("{name} {shown:?}: {error}")))?;
        }
        let mut http = self.transport.http();
        let mut outer = Outer::None;
        let url = match &place {
            Place::Url(url) => url.clone(),
            Place::Service { service, context, kubeconfig } => {
                let access = Kubeconfig::load(kubeconfig.as_deref())?.access(context.as_deref())?;
                let url = service.url(&access.server()?.to_string());
                let given = CallerSettings {
                    ca_file: self.transport.ca_file.is_some(),
                    identity: self.transport.client_cert.is_some(),
                    credential: self.proxy_token.is_some(),
                };
                let any = self.transport.insecure_accept_any_certificate;
                (http, outer) = service_proxy::apply(access, given, any, http).await?;
                url
            }
        };
        if let Some(token) = self.proxy_token.as_deref().filter(|token| !token.is_empty()) {
            outer = Outer::Bearer(TokenSource::fixed(token));
        }
        Ok(Route { url, http, token: self.token(), outer })
    }

    /// Whether the route leads through an API server.
    pub(crate) fn is_through_api_server(&self) -> bool {
        matches!(self.place(), Ok(Place::Service { .. }))
    }

    /// Flags take precedence over the environment.
    fn token(&self) -> Option<TokenSource> {
        let (token, file) = match (&self.token, &self.token_file) {
            (None, None) => match in_environment("RELAY_TOKEN") {
                Some(token) => (Some(token), None),
                None => (None, in_environment("RELAY_TOKEN_FILE").map(PathBuf::from)),
            },
            (token, file) => (token.clone(), file.clone()),
        };
        match (token.filter(|token| !token.is_empty()), file) {
            (_, Some(file)) => Some(TokenSource::file(file)),
            (token, None) => token.map(TokenSource::fixed),
        }
    }

    /// Flags take precedence over the environment. Contradicting settings are an error.
    fn place(&self) -> anyhow::Result<Place> {
        let kube = given(self.kube_service.as_ref(), &self.kubeconfig);
        if let (Some(_), Some(flag)) = (&self.url, kube) {
            return Err(Usage(format!("--url and {flag} exclude each other")).into());
        }
        if let Some(url) = &self.url {
            return Ok(Place::Url(url.clone()));
        }
        let in_environment = (in_environment(S::URL_VARIABLE), in_environment(S::SERVICE_VARIABLE));
        let service = match (&self.kube_service, in_environment) {
            (Some(service), _) => service.clone(),
            (None, (Some(_), Some(_))) => {
                let (url, service) = (S::URL_VARIABLE, S::SERVICE_VARIABLE);
                return Err(Usage(format!("{url} and {service} exclude each other")).into());
            }
            (None, (None, Some(service))) => service,
            (None, (url, None)) => {
                if let Some(flag) = kube {
                    return Err(Usage(format!("{flag} needs --kube-service NAMESPACE/NAME:PORT")).into());
                }
                return Ok(Place::Url(url.unwrap_or_else(|| S::URL.into())));
            }
        };
        let context = self.kubeconfig.kube_context.clone();
        Ok(Place::Service {
            service: KubeService::parse(&service)?,
            context: context.or_else(|| self::in_environment("RELAY_KUBE_CONTEXT")),
            kubeconfig: self.kubeconfig.kubeconfig.clone(),
        })
    }
}
