//! `relay autoconfig serve`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args as ClapArgs;
use relay_autoconfig_server::{Keys, Server, StartError};

use super::watch::{Key, KeyArgs};
use crate::args::{Format, positive_duration};
use crate::exit::{Exit, Usage, signalled};
use crate::output::Output;

#[derive(Debug, ClapArgs)]
pub(super) struct ServeArgs {
    /// What the environments should be: JSON (.json) or YAML (.yaml, .yml), by its name
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Address to listen on; port 0 takes a free one
    #[arg(long, env = "RELAY_AUTOCONFIG_LISTEN", default_value = "127.0.0.1:8081", value_name = "ADDRESS")]
    listen: SocketAddr,
    /// The key that clients must show, or a file of keys, one per line, read again when it changes. Without either
    /// anyone is answered, on a loopback address only
    #[command(flatten)]
    key: KeyArgs,
    /// File with the versions. Default: FILE with .versions appended
    #[arg(long, value_name = "FILE")]
    state_file: Option<PathBuf>,
    /// How often FILE is looked at, by its content
    #[arg(long, default_value = "250ms", value_name = "DURATION", value_parser = positive_duration)]
    poll: Duration,
    /// Silence after which a comment is sent
    #[arg(long, default_value = "3m", value_name = "DURATION", value_parser = positive_duration)]
    heartbeat: Duration,
}

pub(super) async fn run(args: ServeArgs) -> anyhow::Result<Exit> {
    // A program that has read the first line may stop the server at once.
    let signalled = signalled();
    let keys = match args.key.get()? {
        None => Keys::Anyone,
        Some(Key::Text(key)) => Keys::Fixed(key.into()),
        Some(Key::File(file)) => Keys::File(file),
    };
    let mut builder = Server::builder(args.file).keys(keys).poll(args.poll).heartbeat(args.heartbeat);
    if let Some(file) = args.state_file {
        builder = builder.state_file(file);
    }
    let server = builder.bind(args.listen).await.map_err(|error| match error {
        StartError::Format { .. } | StartError::Open { .. } => Usage(error.to_string()).into(),
        error => anyhow::Error::new(error),
    })?;
    let line = format!("relay autoconfig listening on http://{}", server.local_addr());
    Output::in_format(Format::Table).answer(|| serde_json::Value::Null, || line)?;
    let (ended, signal) = tokio::sync::oneshot::channel();
    let shutdown = async {
        let _ = ended.send(signalled.await);
    };
    server.run(shutdown).await;
    // SIGTERM is the normal way to end a server, so the result is success.
    Ok(match signal.await {
        Ok(Exit::Terminated) | Err(_) => Exit::Done,
        Ok(exit) => exit,
    })
}
