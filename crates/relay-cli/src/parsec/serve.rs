//! `relay parsec serve`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args as ClapArgs;
use relay_parsec_server::{ParsecServer, ServerConfig};
use tokio_util::sync::CancellationToken;

use super::reach::Schemas;
use crate::args::{Format, duration, positive_duration, size, whole};
use crate::exit::{Exit, signalled};
use crate::output::Output;
use crate::serve::warn_of_open;

#[derive(Debug, ClapArgs)]
pub(super) struct ServeArgs {
    /// Address to listen on; port 0 takes a free one
    #[arg(long, env = "RELAY_LISTEN", default_value = "127.0.0.1:8080", value_name = "ADDRESS")]
    listen: SocketAddr,
    #[command(flatten)]
    schemas: Schemas,
    /// Directory in which channels and taken sequences survive; default: memory
    #[arg(long, env = "RELAY_DATA_DIR", value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Envelopes that a channel keeps at most
    #[arg(long, env = "RELAY_RETAIN_EVENTS", default_value_t = 1000, value_name = "N", value_parser = whole::<u64>(1..), help_heading = "Limits")]
    retain_events: u64,
    /// How long a channel keeps an envelope
    #[arg(long, env = "RELAY_RETAIN_AGE", default_value = "1h", value_name = "DURATION", value_parser = positive_duration, help_heading = "Limits")]
    retain_age: Duration,
    /// Bytes that all channels keep together
    #[arg(long, env = "RELAY_RETAIN_BYTES", default_value = "256MiB", value_name = "SIZE", value_parser = size, help_heading = "Limits")]
    retain_bytes: u64,
    /// Channels at most
    #[arg(long, env = "RELAY_MAX_CHANNELS", default_value_t = 10_000, value_name = "N", value_parser = whole::<u64>(1..), help_heading = "Limits")]
    max_channels: u64,
    /// Open streams at most
    #[arg(
        long,
        env = "RELAY_MAX_STREAMS",
        default_value_t = 1024,
        value_name = "N", value_parser = whole::<usize>(0..),
        help_heading = "Limits"
    )]
    max_streams: usize,
    /// Silence after which a stream is sent a heartbeat
    #[arg(long, env = "RELAY_HEARTBEAT", default_value = "15s", value_name = "DURATION", value_parser = positive_duration, help_heading = "Limits")]
    heartbeat: Duration,
    /// Age at which a stream is closed, plus up to a tenth; 0: never
    #[arg(long, env = "RELAY_STREAM_LIFETIME", default_value = "1h", value_name = "DURATION", value_parser = duration, help_heading = "Limits")]
    stream_lifetime: Duration,
    /// File with a line TOKEN SUBJECT READ WRITE per token, WRITE may be left out; default: everybody may do everything
    #[arg(long, env = "RELAY_TOKENS_FILE", value_name = "FILE", help_heading = "Authentication")]
    tokens_file: Option<PathBuf>,
}

pub(super) async fn serve(args: ServeArgs) -> anyhow::Result<Exit> {
    let open = args.tokens_file.is_none();
    let config = ServerConfig::default()
        .retain_events(args.retain_events)
        .retain_age(args.retain_age)
        .retain_bytes(args.retain_bytes)
        .max_channels(usize::try_from(args.max_channels).unwrap_or(usize::MAX))
        .max_streams(args.max_streams)
        .heartbeat(args.heartbeat)
        .stream_lifetime(args.stream_lifetime)
        .tokens_file(args.tokens_file)
        .registry(args.schemas.registry()?)
        .validate(args.schemas.validate)
        .data_dir(args.data_dir);
    let server = ParsecServer::bind(args.listen, config)
        .await
        .with_context(|| format!("cannot serve on {}", args.listen))?;
    // A program that has read the line may stop the server at once.
    let signalled = signalled();
    if open {
        warn_of_open(server.local_addr(), "without --tokens-file", "read and publish at");
    }
    let line = format!("relay listening on http://{}", server.local_addr());
    Output::in_format(Format::Table).answer(|| serde_json::Value::Null, || line)?;
    let stop = CancellationToken::new();
    let serving = server.run(stop.clone());
    let ended = async {
        let exit = signalled.await;
        stop.cancel();
        exit
    };
    let ((), exit) = tokio::join!(serving, ended);
    // SIGTERM is the normal way to end a server, so the result is success.
    Ok(if matches!(exit, Exit::Terminated) { Exit::Done } else { exit })
}
