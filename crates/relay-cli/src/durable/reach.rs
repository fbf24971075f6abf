//! Flags for the connection to a stream.

use std::time::Duration;

use clap::Args as ClapArgs;
use relay_durable::{Client, DurableStream};

use super::notes::Notes;
use crate::args::{KubeFlags, Peer, System, TakesKubeFlags, positive_duration};
use crate::exit::Usage;

/// Servers of durable streams.
#[derive(Debug, Clone)]
pub(super) struct Streams;

impl System for Streams {
    const URL_HELP: &'static str = "Base URL of the streams that are given as a path. Default: http://127.0.0.1:4437 \
                                    [env: RELAY_DURABLE_URL, unless --kube-service is given]";
    const URL: &'static str = "http://127.0.0.1:4437";
    const URL_VARIABLE: &'static str = "RELAY_DURABLE_URL";
    const SERVICE_HELP: &'static str = "Reach the server through the service proxy of an API server: \
                                        NAMESPACE/NAME:PORT, or NAMESPACE/https:NAME:PORT [env: \
                                        RELAY_DURABLE_KUBE_SERVICE, unless --url is given]";
    const SERVICE_VARIABLE: &'static str = "RELAY_DURABLE_KUBE_SERVICE";
}

/// How to reach a stream
#[derive(Debug, Clone, ClapArgs)]
pub(super) struct Reach {
    #[command(flatten)]
    peer: Peer<Streams>,
    /// Header for every request, 'Name: value'; repeat for more
    #[arg(long = "header", value_name = "HEADER", help_heading = "Connection", hide_short_help = true)]
    headers: Vec<String>,
    /// Longest time to the head of an answer, and between two reads of a body; a live read adds the server's wait
    #[arg(long, default_value = "30s", value_name = "DURATION", value_parser = positive_duration, help_heading = "Retrying", hide_short_help = true)]
    timeout: Duration,
    /// Ceiling of the first delay before a retry; it doubles with each
    #[arg(long, default_value = "100ms", value_name = "DURATION", value_parser = positive_duration, help_heading = "Retrying", hide_short_help = true)]
    retry_base: Duration,
    /// Ceiling of every delay, except one that the server asks for
    #[arg(long, default_value = "10s", value_name = "DURATION", value_parser = positive_duration, help_heading = "Retrying", hide_short_help = true)]
    retry_cap: Duration,
    /// Longest time without progress; it also cuts an attempt under way. Exit code 5 when it has run out. Default: 30s,
    /// without end for tail and produce
    #[arg(long, value_name = "DURATION", value_parser = positive_duration, help_heading = "Retrying", hide_short_help = true)]
    retry_for: Option<Duration>,
}

/// The default time limit of a command without success.
const PATIENCE: Duration = Duration::from_secs(30);
/// Idle connections are closed before a usual server closes them.
const IDLE: Duration = Duration::from_secs(4);
/// A host name may get other addresses in the meantime.
const AGE: Duration = Duration::from_secs(15 * 60);

impl Reach {
    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }

    pub(super) fn retry(&self) -> (Duration, Duration) {
        // A base above the cap counts as the cap.
        (self.retry_base.min(self.retry_cap), self.retry_cap)
    }

    /// The time limit of commands that end by themselves.
    pub(super) fn patience(&self) -> Option<Duration> {
        Some(self.retry_for.unwrap_or(PATIENCE))
    }

    /// The time limit of commands that run until they are stopped.
    pub(super) fn endless(&self) -> Option<Duration> {
        self.retry_for
    }

    pub(super) async fn client(&self, retry_for: Option<Duration>, notes: &Notes) -> anyhow::Result<Client> {
        let route = self.peer.route().await?;
        // The time limit for an answer also limits the time to connect, and so does the one for all attempts.
        let most = self.timeout.min(retry_for.unwrap_or(Duration::MAX));
        let connect_timeout = self.peer.transport.connect_timeout.min(most);
        let http =
            route.http.connect_timeout(connect_timeout).idle_timeout(IDLE).connection_age(AGE).build()?;
        let (base, cap) = self.retry();
        let notes = notes.clone();
        let mut builder = Client::builder(route.url)
            .http(http)
            .outer(route.outer)
            .timeout(self.timeout)
            .retry_base(base)
            .retry_cap(cap)
            .retry_for(retry_for)
            .on_retry(move |retry| notes.retry(retry));
        if let Some(token) = route.token {
            builder = builder.token(token);
        }
        for header in &self.headers {
            let (name, value) = header
                .split_once(':')
                .ok_or_else(|| Usage("--header: 'Name: value', with a colon".into()))?;
            builder = builder.header(name.trim(), value.trim());
        }
        Ok(builder.build()?)
    }

    pub(super) async fn stream(
        &self,
        stream: &str,
        retry_for: Option<Duration>,
        notes: &Notes,
    ) -> anyhow::Result<DurableStream> {
        if stream.contains("://") && self.peer.is_through_api_server() {
            let rule = "with --kube-service, give the path of the stream in that service";
            return Err(Usage(format!("stream {stream:?}: {rule}")).into());
        }
        Ok(self.client(retry_for, notes).await?.stream(stream)?)
    }
}

impl TakesKubeFlags for Reach {
    fn fall_back_to(&mut self, before: KubeFlags) {
        self.peer.fall_back_to(before);
    }
}
