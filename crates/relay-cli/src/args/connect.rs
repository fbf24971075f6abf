//! Flags for the connection to a relay.

use clap::Args as ClapArgs;
use relay_pods::Client;
use relay_transport::Outer;

use super::peer::{KubeFlags, Peer, System, TakesKubeFlags};

/// The Pod Event Relay.
#[derive(Debug, Clone)]
pub(crate) struct Pods;

impl System for Pods {
    const URL_HELP: &'static str = "Base URL of the relay; may carry a path prefix. Default: http://127.0.0.1:8080 \
                                    [env: RELAY_URL, unless --kube-service is given]";
    const URL: &'static str = "http://127.0.0.1:8080";
    const URL_VARIABLE: &'static str = "RELAY_URL";
    const SERVICE_HELP: &'static str = "Reach the relay through the service proxy of an API server: \
                                        NAMESPACE/NAME:PORT, or NAMESPACE/https:NAME:PORT [env: \
                                        RELAY_KUBE_SERVICE, unless --url is given]";
    const SERVICE_VARIABLE: &'static str = "RELAY_KUBE_SERVICE";
}

/// How to reach a relay
#[derive(Debug, Clone, ClapArgs)]
pub(crate) struct Connect {
    #[command(flatten)]
    peer: Peer<Pods>,
    /// Name of this consumer in the relay's metrics and logs: 1 to 128 visible ASCII characters
    #[arg(
        long,
        env = "RELAY_CLIENT_ID",
        value_name = "NAME",
        hide_short_help = true,
        help_heading = "Connection"
    )]
    client_id: Option<String>,
}

impl TakesKubeFlags for Connect {
    fn fall_back_to(&mut self, before: KubeFlags) {
        self.peer.fall_back_to(before);
    }
}

impl Connect {
    pub(crate) async fn client(&self) -> anyhow::Result<Client> {
        let route = self.peer.route().await?;
        let mut builder = Client::builder(route.url.as_str());
        if let Some(token) = route.token {
            builder = builder.token_source(token);
        }
        if let Some(id) = &self.client_id {
            builder = builder.client_id(id.as_str());
        }
        builder = match route.outer {
            Outer::None => builder,
            Outer::Bearer(token) => builder.outer_token_source(token),
            Outer::Header(header) => builder.outer_authorization_source(header),
            _ => builder.behind_proxy(),
        };
        Ok(builder.http(route.http.build()?).build()?)
    }
}
