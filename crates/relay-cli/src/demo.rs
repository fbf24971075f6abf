//! `relay demo`: a relay with a simulated cluster, and the public client that follows it.
//!
//! For people it prints few lines, a heading for each phase, and at the end a verdict computed from the sequences
//! of the received events. For programs it prints the output of `relay replay`.

mod lesson;
mod pace;
mod verdict;

use std::time::Duration;

use relay_pods::{Client, Filter, StreamOptions};
use relay_pods_server::{Config, Handle, Server, SimSource};

use crate::args::{DemoArgs, Until};
use crate::cursor::Cursor;
use crate::exit::{Exit, signalled};
use crate::follow::{Ending, Printing, follow_replay};
use crate::output::Output;
use crate::rows::Changes;

/// The number of pods of the demo's cluster.
const PODS: usize = 24;

/// The speed of the demo.
struct Tempo {
    /// Events per second.
    rate: f64,
    /// The connection is cut after this time, and a gap is forced after the same time again.
    trouble_after: Duration,
    /// The approximate time before the client reconnects.
    reconnect: Duration,
}

const FOR_PROGRAMS: Tempo =
    Tempo { rate: 8.0, trouble_after: Duration::from_millis(1500), reconnect: Duration::from_millis(200) };
/// Each event can be read, and one or two occur while the connection is gone.
const FOR_PEOPLE: Tempo =
    Tempo { rate: 3.0, trouble_after: Duration::from_secs(2), reconnect: Duration::from_millis(600) };

pub(crate) async fn run(args: DemoArgs) -> anyhow::Result<Exit> {
    let out = Output::in_format(args.show.output);
    let until = Until { max: None, time: args.show.time };
    // Signals are caught before the first line.
    let ending = Ending::new(until);
    let tempo = if out.is_table() { FOR_PEOPLE } else { FOR_PROGRAMS };
    let server = Server::builder(Config::default().heartbeat(Duration::from_secs(1)))
        .source(SimSource::default().seed(args.sim_seed).pods(PODS).rate(tempo.rate))
        .bind("127.0.0.1:0")
        .await?;
    let (handle, address) = (server.handle(), server.local_addr());
    let serving = tokio::spawn(server.run(std::future::pending()));
    let client = Client::builder(format!("http://{address}")).client_id("demo").build()?;
    let options = StreamOptions::new().filter(Filter::new()).reconnect_base(tempo.reconnect);
    let trouble = tokio::spawn(make_trouble(handle.clone(), tempo.trouble_after));
    let exit = if out.is_table() {
        lesson::teach(&client, options, address, out, ending).await
    } else {
        let signalled = signalled();
        let printing =
            Printing { out, changes: Changes::default(), pods: args.pods, exit_after: None, until };
        let cursor = Cursor::open(None, &Filter::new())?;
        tokio::select! {
            exit = follow_replay(&client, options, cursor, printing) => exit,
            exit = signalled => Ok(exit),
        }
    };
    trouble.abort();
    handle.shutdown();
    serving.await??;
    exit
}

/// Cuts every stream, and then makes them fall off the log.
async fn make_trouble(server: Handle, after: Duration) {
    tokio::time::sleep(after).await;
    server.cut_streams();
    tokio::time::sleep(after).await;
    server.force_gap(Duration::from_secs(10)).await;
}
