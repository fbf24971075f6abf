//! `relay autoconfig watch`.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args as ClapArgs, ValueEnum};
use relay_autoconfig::{Builder, End, Events, FileCache, StreamManager, Unauthorized};

use relay_state::files::FileError;

use super::line;
use crate::args::{PrintLines, Transport, Until, duration, in_environment, positive_duration, size, whole};
use crate::exit::{Exit, Usage};
use crate::follow::Ending;
use crate::output::Output;

/// What an answer of 401 or 403 does
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum UnauthorizedArg {
    /// It is over: exit code 4
    Stop,
    /// Try again, after the long delays
    Retry,
}

#[derive(Debug, ClapArgs)]
pub(super) struct WatchArgs {
    /// Base URL of the service; its path and query are kept
    #[arg(long, env = "RELAY_AUTOCONFIG_URL", default_value = "http://127.0.0.1:8081", value_name = "URL")]
    url: String,
    #[command(flatten)]
    key: KeyArgs,
    /// Version of the protocol to ask for; 1: without filters
    #[arg(long, default_value_t = 2, value_name = "N", value_parser = whole::<u32>(1..=u32::MAX.into()))]
    protocol_version: u32,
    /// What an answer of 401 or 403 does, whenever it comes
    #[arg(long, default_value = "stop", value_name = "WHAT")]
    unauthorized: UnauthorizedArg,
    /// Ceiling of the first delay before a reconnect; it doubles with each attempt
    #[arg(long, env = "RELAY_RECONNECT_BASE", default_value = "1s", value_name = "DURATION", value_parser = duration)]
    reconnect_base: Duration,
    /// Ceiling of every delay before a reconnect
    #[arg(long, env = "RELAY_RECONNECT_CAP", default_value = "30s", value_name = "DURATION", value_parser = duration)]
    reconnect_cap: Duration,
    /// Ceiling of the first delay after an answer that a retry is unlikely to change: most of 4xx
    #[arg(long, default_value = "5m", value_name = "DURATION", value_parser = duration)]
    long_base: Duration,
    /// Ceiling of every such delay
    #[arg(long, default_value = "1h", value_name = "DURATION", value_parser = duration)]
    long_cap: Duration,
    /// Longest silence; any byte counts
    #[arg(long, default_value = "5m", value_name = "DURATION", value_parser = positive_duration)]
    idle_timeout: Duration,
    /// Accept an answer of 200 with any content type
    #[arg(long)]
    lenient_mime: bool,
    /// Largest event
    #[arg(long, default_value = "64MiB", value_name = "SIZE", value_parser = size)]
    max_event: u64,
    /// Keep the last good configuration in this file, and begin with it. It holds keys (mode 0600)
    #[arg(long, value_name = "FILE")]
    cache_file: Option<PathBuf>,
    /// Hold back a put that would delete all environments for this time; 0: never
    #[arg(long, default_value = "0s", value_name = "DURATION", value_parser = duration)]
    hold_empty: Duration,
    #[command(flatten)]
    until: Until,
    #[command(flatten)]
    print: PrintLines,
    #[command(flatten)]
    transport: Transport,
}

/// The auto-configuration key
#[derive(Debug, Clone, ClapArgs)]
pub(super) struct KeyArgs {
    /// Auto-configuration key [env: RELAY_AUTOCONFIG_KEY, unless a key flag is given]
    #[arg(long, value_name = "KEY", conflicts_with = "key_file", allow_hyphen_values = true)]
    key: Option<String>,
    /// File with the key, read again at each attempt [env: RELAY_AUTOCONFIG_KEY_FILE, unless a key flag is given]
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
}

/// The source of a key.
pub(super) enum Key {
    Text(String),
    File(PathBuf),
}

impl KeyArgs {
    /// Flags take precedence over the environment, and there is at most one source in each.
    pub(super) fn get(&self) -> Result<Option<Key>, Usage> {
        let (key, file) = match (&self.key, &self.key_file) {
            (None, None) => (
                in_environment("RELAY_AUTOCONFIG_KEY"),
                in_environment("RELAY_AUTOCONFIG_KEY_FILE").map(PathBuf::from),
            ),
            (key, file) => (key.clone(), file.clone()),
        };
        match (key, file) {
            (Some(_), Some(_)) => {
                Err(Usage("RELAY_AUTOCONFIG_KEY and RELAY_AUTOCONFIG_KEY_FILE exclude each other".into()))
            }
            (Some(key), None) if key.is_empty() => Err(Usage("--key is empty".into())),
            (Some(key), None) => Ok(Some(Key::Text(key))),
            (None, Some(file)) => Ok(Some(Key::File(file))),
            (None, None) => Ok(None),
        }
    }
}

pub(super) async fn run(args: WatchArgs) -> anyhow::Result<Exit> {
    let ending = Ending::new(args.until);
    let events = args.builder()?.events().map_err(usage)?;
    follow(events, Output::new(args.print), ending).await
}

impl WatchArgs {
    fn builder(&self) -> anyhow::Result<Builder> {
        let policy = match self.unauthorized {
            UnauthorizedArg::Stop => Unauthorized::Stop,
            UnauthorizedArg::Retry => Unauthorized::Retry,
        };
        let mut builder = StreamManager::builder(self.url.as_str())
            .protocol_version(self.protocol_version)
            .unauthorized(move |_| policy)
            .reconnect(self.reconnect_base, self.reconnect_cap)
            .long_reconnect(self.long_base, self.long_cap)
            .idle_timeout(self.idle_timeout)
            .lenient_mime(self.lenient_mime)
            .max_event(usize::try_from(self.max_event).unwrap_or(usize::MAX))
            .hold_empty(self.hold_empty);
        builder = match self.key.get()? {
            Some(Key::Text(key)) => builder.key(key),
            Some(Key::File(file)) => builder.key_file(file),
            None => return Err(Usage("give the key with --key or --key-file".into()).into()),
        };
        if let Some(file) = &self.cache_file {
            let Some(mut cache) = cache(file)? else { return self.connected(builder) };
            if let Some(other) = cache.other_service(&self.url) {
                let (file, url) = (file.display(), self.url.split('?').next().unwrap_or_default());
                let queries = if other == url.trim_end_matches('/') { ": their queries differ" } else { "" };
                return Err(
                    Usage(format!("cache file {file} belongs to {other}, not to {url}{queries}")).into()
                );
            }
            builder = builder.cache(cache);
        }
        self.connected(builder)
    }

    fn connected(&self, builder: Builder) -> anyhow::Result<Builder> {
        Ok(builder.http(self.transport.http().compressed_streams(true).build()?))
    }
}

/// The cache; `None`, with a warning, if it cannot be read at all. On a full or read-only disk it is read nevertheless,
/// because it may be needed most then.
fn cache(file: &Path) -> anyhow::Result<Option<FileCache>> {
    match FileCache::open(file) {
        Ok(cache) => Ok(Some(cache)),
        Err(error @ FileError::Io { action: "read", .. }) => {
            tracing::warn!("{}; it is left as it is, and nothing is kept", relay_proto::error::chain(&error));
            Ok(None)
        }
        Err(error @ FileError::Io { .. }) if takes_nothing(&error) => {
            tracing::warn!("{}; it is read, and not kept up to date", relay_proto::error::chain(&error));
            Ok(Some(FileCache::read_only(file)))
        }
        Err(error) => Err(error.into()),
    }
}

/// Whether the disk is full or read-only.
fn takes_nothing(error: &FileError) -> bool {
    let FileError::Io { source, .. } = error else { return false };
    matches!(source.kind(), ErrorKind::StorageFull | ErrorKind::ReadOnlyFilesystem | ErrorKind::QuotaExceeded)
}

fn usage(error: relay_autoconfig::ConfigError) -> anyhow::Error {
    Usage(relay_proto::error::chain(&error).to_string()).into()
}

/// Prints changes until the end.
pub(super) async fn follow(mut events: Events, mut out: Output, mut ending: Ending) -> anyhow::Result<Exit> {
    while !ending.reached(&out) {
        let event = tokio::select! {
            biased;
            exit = ending.wait() => return Ok(exit),
            event = events.next() => event,
        };
        let Some(event) = event else { break };
        // Its end may be what matters: when a key expires, why an attempt failed.
        out.answer(|| event.to_json(), || line::text(&event))?;
    }
    match events.end() {
        None | Some(End::Closed | End::NoContent) => Ok(Exit::Done),
        Some(end) => Err(end.clone().into()),
    }
}
