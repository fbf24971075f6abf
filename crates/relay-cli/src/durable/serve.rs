//! `relay durable serve`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args as ClapArgs;
use relay_durable_server::{Config, Server};

use super::notes::note;
use super::out::size;
use crate::args::{positive_duration, size as parse_size};
use crate::exit::{Exit, signalled};
use crate::serve::warn_of_open;

#[derive(Debug, ClapArgs)]
pub(super) struct ServeArgs {
    /// Address to listen on; port 0 takes a free one. The server has no access control: whoever can connect can read,
    /// write and delete
    #[arg(long, env = "RELAY_DURABLE_LISTEN", default_value = "127.0.0.1:4437", value_name = "ADDRESS")]
    listen: SocketAddr,
    /// Directory that keeps the streams. Default: none, they are kept in memory
    #[arg(long, env = "RELAY_DURABLE_DIR", value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Largest body of a request
    #[arg(long, default_value = "64MiB", value_name = "SIZE", value_parser = parse_size)]
    max_body: u64,
    /// How long a long-poll waits
    #[arg(long, default_value = "30s", value_name = "DURATION", value_parser = positive_duration)]
    poll_wait: Duration,
}

pub(super) async fn serve(args: ServeArgs) -> anyhow::Result<Exit> {
    let config = Config::default()
        .dir(args.dir)
        .max_body(size("--max-body", args.max_body)?)
        .poll_wait(args.poll_wait);
    let server = Server::bind(args.listen, config)
        .await
        .with_context(|| format!("cannot serve on {}", args.listen))?;
    warn_of_open(server.local_addr(), "there is no access control:", "read, write and delete at");
    // A program that has read the line may stop the server at once.
    let signalled = signalled();
    note(&format!("listening on http://{}", server.local_addr()));
    let stop = server.stop_token();
    let running = server.run();
    tokio::pin!(running);
    let exit = tokio::select! {
        () = &mut running => Exit::Done,
        exit = signalled => {
            stop.cancel();
            running.await;
            exit
        }
    };
    // SIGTERM is the normal way to end a server, so the result is success.
    Ok(if matches!(exit, Exit::Terminated) { Exit::Done } else { exit })
}
