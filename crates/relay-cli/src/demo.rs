//! `relay demo`: a relay with a simulated cluster, and the public client that follows it.

use std::time::Duration;

use relay_pods::{Client, Filter, StreamOptions};
use relay_pods_server::{Config, Handle, Server, SimSource};

use crate::args::{DemoArgs, Until};
use crate::cursor::Cursor;
use crate::exit::{Exit, signalled};
use crate::follow::{Printing, follow_replay};
use crate::output::Output;
use crate::rows::Changes;

/// Pods of the demo's cluster, and events per second.
const PODS: usize = 24;
const RATE: f64 = 8.0;
/// When the connection is cut, and how long after that a gap is forced.
const CUT_AFTER: Duration = Duration::from_millis(1500);
const GAP_AFTER: Duration = Duration::from_millis(1500);

pub(crate) async fn run(args: DemoArgs) -> anyhow::Result<Exit> {
    let server = Server::builder(Config::default().heartbeat(Duration::from_secs(1)))
        .source(SimSource::default().seed(args.sim_seed).pods(PODS).rate(RATE))
        .bind("127.0.0.1:0")
        .await?;
    let (handle, address) = (server.handle(), server.local_addr());
    let serving = tokio::spawn(server.run(std::future::pending()));
    // Caught before the first line: the follower catches them only once it runs.
    let signalled = signalled();
    let mut out = Output::in_format(args.output);
    for line in [
        format!("A relay with a simulated cluster of {PODS} pods is at http://{address}"),
        format!("(in another terminal: relay pods --url http://{address})"),
        "The server will cut the connection once and lose events once: watch what the client makes of it."
            .into(),
        String::new(),
    ] {
        out.heading(line)?;
    }
    let trouble = tokio::spawn(make_trouble(handle.clone()));
    let client = Client::builder(format!("http://{address}")).client_id("demo").build()?;
    let options = StreamOptions::new().filter(Filter::new()).reconnect_base(Duration::from_millis(200));
    let until = Until { max: None, time: args.time };
    let printing = Printing { out, changes: Changes::default(), pods: args.pods, exit_after: None, until };
    let cursor = Cursor::open(None, &Filter::new())?;
    let exit = tokio::select! {
        exit = follow_replay(&client, options, cursor, printing) => exit,
        exit = signalled => Ok(exit),
    };
    trouble.abort();
    handle.shutdown();
    serving.await??;
    exit
}

/// Cuts every stream, and then makes them fall off the log.
async fn make_trouble(server: Handle) {
    tokio::time::sleep(CUT_AFTER).await;
    server.cut_streams();
    tokio::time::sleep(GAP_AFTER).await;
    server.force_gap(Duration::from_secs(10)).await;
}
