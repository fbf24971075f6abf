//! Settings of a server.

use std::path::PathBuf;
use std::time::Duration;

use relay_proto::setters;

/// Settings of a [`Server`](crate::Server): `Config::default()` and setters named like the fields.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Config {
    /// Directory of the streams. Default: none, streams are in memory.
    pub dir: Option<PathBuf>,
    /// Largest body of a request, in bytes. Default 64 MiB.
    pub max_body: usize,
    /// How long a long-poll waits. Default 30 s.
    pub poll_wait: Duration,
    /// Age at which a connection with events ends. Default 60 s.
    pub events_age: Duration,
    /// Size limit of data in one response, except for a larger single append. Default 4 MiB.
    pub answer_bytes: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            dir: None,
            max_body: 64 << 20,
            poll_wait: Duration::from_secs(30),
            events_age: Duration::from_secs(60),
            answer_bytes: 4 << 20,
        }
    }
}

setters! { Config {
    dir: Option<PathBuf>,
    max_body: usize,
    poll_wait: Duration,
    events_age: Duration,
    answer_bytes: usize,
} }
