//! Settings of a server.

use std::path::PathBuf;
use std::time::Duration;

use relay_proto::parsec::{Registry, ValidatorMode};
use relay_proto::setters;

/// Settings of a [`ParsecServer`](crate::ParsecServer): `ServerConfig::default()` and setters named like the fields.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ServerConfig {
    /// Envelopes that a channel keeps at most. Default 1,000.
    pub retain_events: u64,
    /// How long a channel keeps an envelope. Default 1 h.
    pub retain_age: Duration,
    /// Bytes that all channels keep together; the channel with the oldest envelope gives first. Default 256 MiB.
    pub retain_bytes: u64,
    /// Channels at most. Default 10,000.
    pub max_channels: usize,
    /// Open streams at most. Default 1,024.
    pub max_streams: usize,
    /// Producers per channel whose sequences are remembered, about 100 bytes each. Default 10,000.
    pub max_producers: usize,
    /// Time without an event after which a heartbeat is sent. Default 15 s.
    pub heartbeat: Duration,
    /// Age at which a stream is closed, plus up to a tenth; zero for never. Default 1 h.
    pub stream_lifetime: Duration,
    /// The tokens file: `TOKEN SUBJECT READ [WRITE]` per line. Default: none, every client may do everything.
    pub tokens_file: Option<PathBuf>,
    /// The patterns that are served, and that envelopes are checked against. Default: none.
    pub registry: Option<Registry>,
    /// How strict that is. Default: off.
    pub validate: ValidatorMode,
    /// A directory in which channels, epochs and taken sequences survive. Default: none, everything is in memory.
    pub data_dir: Option<PathBuf>,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            retain_events: 1000,
            retain_age: Duration::from_secs(3600),
            retain_bytes: 256 << 20,
            max_channels: 10_000,
            max_streams: 1024,
            max_producers: 10_000,
            heartbeat: Duration::from_secs(15),
            stream_lifetime: Duration::from_secs(3600),
            tokens_file: None,
            registry: None,
            validate: ValidatorMode::Off,
            data_dir: None,
        }
    }
}

setters! { ServerConfig {
    retain_events: u64,
    retain_age: Duration,
    retain_bytes: u64,
    max_channels: usize,
    max_streams: usize,
    max_producers: usize,
    heartbeat: Duration,
    stream_lifetime: Duration,
    tokens_file: impl Into<Option<PathBuf>>,
    registry: impl Into<Option<Registry>>,
    validate: ValidatorMode,
    data_dir: impl Into<Option<PathBuf>>,
} }
