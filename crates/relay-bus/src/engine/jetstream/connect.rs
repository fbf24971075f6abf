//! The connection to NATS: reconnects for ever, and reports whether it is connected.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use async_nats::{Client, ConnectOptions, Event as NatsEvent, ServerAddr};
use relay_proto::retry::{Backoff, Jitter};
use tokio::sync::watch;

/// Time limit of a response from NATS.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// Interval of pings; a server that misses two counts as unavailable.
const PING: Duration = Duration::from_secs(2);
/// Delays between attempts to connect, the first and the longest.
const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(2);

/// The address of NATS, and credentials: `NatsOptions::default()` and setters named like the fields. The URL may
/// hold credentials, and is not shown.
#[derive(Clone)]
#[non_exhaustive]
pub struct NatsOptions {
    /// The server, `nats://` or `tls://`. Default `nats://127.0.0.1:4222`.
    pub url: String,
    /// A credentials file. Default none.
    pub credentials: Option<PathBuf>,
}

impl Default for NatsOptions {
    fn default() -> Self {
        Self { url: "nats://127.0.0.1:4222".into(), credentials: None }
    }
}

impl NatsOptions {
    /// Sets the server.
    #[must_use]
    pub fn url(mut self, url: impl Into<String>) -> Self {
        self.url = url.into();
        self
    }

    /// Sets the credentials file.
    #[must_use]
    pub fn credentials(mut self, file: Option<PathBuf>) -> Self {
        self.credentials = file;
        self
    }
}

/// Without the URL.
impl fmt::Debug for NatsOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NatsOptions").field("credentials", &self.credentials).finish_non_exhaustive()
    }
}

/// Why no connection is possible. An unavailable server is not an error.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JetStreamError {
    /// The URL is not that of a NATS server.
    #[error("the URL of NATS cannot be used: nats://HOST:PORT or tls://HOST:PORT")]
    Url,
    /// The credentials file cannot be used.
    #[error("the NATS credentials {}", path.display())]
    Credentials {
        /// The file.
        path: PathBuf,
        /// How.
        source: std::io::Error,
    },
    /// The connection cannot be set up.
    #[error("the connection to NATS cannot be set up")]
    Setup {
        /// How.
        source: async_nats::ConnectError,
    },
}

/// The state of the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Link {
    pub(super) up: bool,
    /// How often it was lost so far.
    pub(super) losses: u64,
}

/// Connects now or later; the second part is the state of the connection.
pub(super) async fn connect(
    options: &NatsOptions,
) -> Result<(Client, watch::Receiver<Link>), JetStreamError> {
    let scheme = options.url.split_once("://").map(|(scheme, _)| scheme);
    let address: ServerAddr = options.url.parse().map_err(|_| JetStreamError::Url)?;
    if !matches!(scheme, Some("nats" | "tls")) || address.host().is_empty() {
        return Err(JetStreamError::Url);
    }
    let link = watch::Sender::new(Link::default());
    let seen = link.subscribe();
    let seed = getrandom::u64().unwrap_or_default();
    let mut connect = ConnectOptions::new()
        .name("relay bus")
        .retry_on_initial_connect()
        .max_reconnects(None)
        .ping_interval(PING)
        .connection_timeout(PATIENCE)
        .request_timeout(Some(PATIENCE))
        .reconnect_delay_callback(move |tries| {
            let mut backoff = Backoff::new(FIRST, LONGEST, seed ^ tries as u64).jitter(Jitter::Quarter);
            for _ in 1..tries.min(8) {
                let _ = backoff.next_delay();
            }
            backoff.next_delay()
        })
        .event_callback(move |event| {
            tell(&event, &link);
            std::future::ready(())
        });
    if let Some(path) = &options.credentials {
        let unusable = |source| JetStreamError::Credentials { path: path.clone(), source };
        connect = connect.credentials_file(path).await.map_err(unusable)?;
    }
    let client = connect.connect(address).await.map_err(|source| JetStreamError::Setup { source })?;
    Ok((client, seen))
}

/// Reports a change once.
fn tell(event: &NatsEvent, link: &watch::Sender<Link>) {
    let changes = |to: bool| {
        link.send_if_modified(|link| {
            let changed = link.up != to;
            link.losses += u64::from(changed && !to);
            link.up = to;
            changed
        })
    };
    match event {
        NatsEvent::Connected if changes(true) => tracing::info!("connected to NATS"),
        NatsEvent::Disconnected if changes(false) => {
            tracing::warn!("the connection to NATS is gone; messages are refused until it is back");
        }
        NatsEvent::Closed => {
            changes(false);
        }
        NatsEvent::ServerError(error) => tracing::warn!(%error, "NATS refuses"),
        NatsEvent::ClientError(error) => tracing::debug!(%error, "NATS is not reached"),
        _ => {}
    }
}
