//! Settings of a server.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use relay_proto::setters;

/// Settings of a [`Server`](crate::Server); the log's bounds belong to its store ([`Retention`](crate::Retention)).
///
/// ```
/// use std::time::Duration;
/// let config = relay_pods_server::Config::default().heartbeat(Duration::from_secs(5)).max_streams(200);
/// assert_eq!(config.session_ttl, Duration::from_secs(30));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Config {
    /// File with one `TOKEN SUBJECT NAMESPACES` per line. Default none: everything is open to everyone who can connect.
    /// Read again every second; see `docs/protocol.md`, "Credentials", for its rules.
    pub tokens_file: Option<PathBuf>,
    /// How long a session ticket is valid. Default 30 s.
    pub session_ttl: Duration,
    /// Time without a message after which a heartbeat is sent. Default 15 s; clamped to 10 ms to a day.
    pub heartbeat: Duration,
    /// Open streams in all; the next one is refused with 429. Default 1,024. A stream that cannot be written to holds
    /// up to 150 KiB.
    pub max_streams: usize,
    /// Open connections in all, streams included. Default 8,192. At the limit, connections that are idle or have
    /// sent nothing yet are closed first, oldest first.
    pub max_connections: usize,
    /// Age at which a stream is closed (reason `lifetime`), plus up to 10 % so that not all come back at once. Default
    /// 1 h; zero is for ever.
    pub stream_lifetime: Duration,
    /// A connection that takes no byte for this long while there is something to send is cut. Default 30 s.
    pub stall_timeout: Duration,
    /// Keys of the annotations that are published. Default none: annotations may hold secrets.
    pub annotations: BTreeSet<String>,
    /// How long a shutdown waits for answers and streams to end before it cuts them. Default 5 s.
    pub drain: Duration,
    /// Width of the window over which closed streams come back: the `retry` of `closing` is spread evenly between 100
    /// ms and 100 ms plus this. Default 2 s; more than 29.9 s is cut to that.
    pub reconnect_spread: Duration,
    /// Longest wait for a position that is still to come, or for the first sync. Default 5 s.
    pub wait: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            tokens_file: None,
            session_ttl: Duration::from_secs(30),
            heartbeat: Duration::from_secs(15),
            max_streams: 1024,
            max_connections: 8192,
            stream_lifetime: Duration::from_secs(3600),
            stall_timeout: Duration::from_secs(30),
            annotations: BTreeSet::new(),
            drain: Duration::from_secs(5),
            reconnect_spread: Duration::from_secs(2),
            wait: Duration::from_secs(5),
        }
    }
}

impl Config {
    /// The heartbeat in force.
    pub(crate) fn beat(&self) -> Duration {
        self.heartbeat.clamp(Duration::from_millis(10), Duration::from_secs(24 * 3600))
    }
}

setters! { Config {
    /// Sets the tokens file.
    tokens_file: Option<PathBuf>,
    /// Sets the validity of sessions.
    session_ttl: Duration,
    /// Sets the heartbeat.
    heartbeat: Duration,
    /// Sets the number of streams.
    max_streams: usize,
    /// Sets the number of connections.
    max_connections: usize,
    /// Sets the age of streams.
    stream_lifetime: Duration,
    /// Sets the time limit for a connection that takes no bytes.
    stall_timeout: Duration,
    /// Sets the published annotations.
    annotations: BTreeSet<String>,
    /// Sets the time limit of a shutdown.
    drain: Duration,
    /// Sets the spread of reconnects.
    reconnect_spread: Duration,
    /// Sets the longest wait for a position.
    wait: Duration,
} }
