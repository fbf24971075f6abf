//! How to reach a stream.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args as ClapArgs;
use relay_durable::{Client, DurableStream, TokenSource};

use super::notes::Notes;
use crate::args::{Transport, in_environment, positive_duration};
use crate::exit::Usage;

/// How to reach a stream
#[derive(Debug, Clone, ClapArgs)]
pub(super) struct Reach {
    /// Base URL of the streams that are given as a path
    #[arg(long, env = "RELAY_DURABLE_URL", default_value = "http://127.0.0.1:4437", value_name = "URL")]
    url: String,
    /// Token, sent as a bearer token with every request [env: RELAY_TOKEN, unless a token flag is given]
    #[arg(long, value_name = "TOKEN", conflicts_with = "token_file")]
    token: Option<String>,
    /// File with the token; read again when it changes, and after a 401 [env: RELAY_TOKEN_FILE, unless a token flag is
    /// given]
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Header for every request, 'Name: value'; repeat for more
    #[arg(long = "header", value_name = "HEADER")]
    headers: Vec<String>,
    /// Longest time to the head of an answer, and between two reads of a body; a live read adds the server's wait
    #[arg(long, default_value = "30s", value_name = "DURATION", value_parser = positive_duration)]
    timeout: Duration,
    /// Ceiling of the first delay before a retry; it doubles with each
    #[arg(long, default_value = "100ms", value_name = "DURATION", value_parser = positive_duration)]
    retry_base: Duration,
    /// Ceiling of every delay, but for what the server asks
    #[arg(long, default_value = "10s", value_name = "DURATION", value_parser = positive_duration)]
    retry_cap: Duration,
    /// Longest time without progress; exit code 5 when it has run out. Default: 30s, without end for tail and produce
    #[arg(long, value_name = "DURATION", value_parser = positive_duration)]
    retry_for: Option<Duration>,
    #[command(flatten)]
    transport: Transport,
}

/// How long a command goes on without success unless it is told.
const PATIENCE: Duration = Duration::from_secs(30);
/// Idle connections are given up before the usual server does.
const IDLE: Duration = Duration::from_secs(4);

impl Reach {
    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }

    pub(super) fn retry(&self) -> (Duration, Duration) {
        // A base above the cap means the cap.
        (self.retry_base.min(self.retry_cap), self.retry_cap)
    }

    /// For commands that end by themselves.
    pub(super) fn patience(&self) -> Option<Duration> {
        Some(self.retry_for.unwrap_or(PATIENCE))
    }

    /// For commands that go on.
    pub(super) fn endless(&self) -> Option<Duration> {
        self.retry_for
    }

    pub(super) fn client(&self, retry_for: Option<Duration>, notes: &Notes) -> anyhow::Result<Client> {
        let mut transport = self.transport.clone();
        // Whoever waits for an answer does not wait longer for a connection.
        transport.connect_timeout = transport.connect_timeout.min(self.timeout);
        let http = transport.http().idle_timeout(IDLE).build()?;
        let (base, cap) = self.retry();
        let notes = notes.clone();
        let mut builder = Client::builder(&self.url)
            .http(http)
            .timeout(self.timeout)
            .retry_base(base)
            .retry_cap(cap)
            .retry_for(retry_for)
            .on_retry(move |retry| notes.retry(retry));
        let (token, file) = match (&self.token, &self.token_file) {
            (None, None) => match in_environment("RELAY_TOKEN") {
                Some(token) => (Some(token), None),
                None => (None, in_environment("RELAY_TOKEN_FILE").map(PathBuf::from)),
            },
            given => (given.0.clone(), given.1.clone()),
        };
        if let Some(token) = token.filter(|token| !token.is_empty()) {
            builder = builder.token(TokenSource::fixed(token));
        }
        if let Some(file) = file {
            builder = builder.token(TokenSource::file(file));
        }
        for header in &self.headers {
            let (name, value) = header
                .split_once(':')
                .ok_or_else(|| Usage("--header: 'Name: value', with a colon".into()))?;
            builder = builder.header(name.trim(), value.trim());
        }
        Ok(builder.build()?)
    }

    pub(super) fn stream(
        &self,
        stream: &str,
        retry_for: Option<Duration>,
        notes: &Notes,
    ) -> anyhow::Result<DurableStream> {
        Ok(self.client(retry_for, notes)?.stream(stream)?)
    }
}
