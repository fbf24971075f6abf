//! `relay bus`: channels and their subscriptions.

mod crds;
mod demo;
mod lines;
mod monitor;
mod receive;
mod send;
mod serve;

use std::pin::pin;
use std::time::Duration;

use relay_bus::{BusReference, CancellationToken, Monitor, MonitorBuilder, MonitorError, MonitorHandler};
use tokio::time::Instant;

use crate::args::{BusArgs, BusCommand, WhichBus};
use crate::exit::{Exit, Usage};
use crate::follow::Ending;
use lines::Lines;

pub(crate) async fn run(args: BusArgs) -> anyhow::Result<Exit> {
    match args.command {
        BusCommand::Serve(args) => served(serve::run(*args).await),
        BusCommand::Send(args) => send::run(args).await,
        BusCommand::Receive(args) => served(receive::run(args).await),
        BusCommand::Monitor(args) => monitor::run(args).await,
        BusCommand::Crds(args) => crds::run(&args),
        BusCommand::Demo(args) => served(demo::run(args).await),
    }
}

/// SIGTERM is the normal way to end a server, so the result is success.
fn served(exit: anyhow::Result<Exit>) -> anyhow::Result<Exit> {
    exit.map(|exit| if matches!(exit, Exit::Terminated) { Exit::Done } else { exit })
}

/// The bus that the flags, the environment or the file name; `None` is every channel of a file without a bus.
async fn choose(which: &WhichBus) -> anyhow::Result<Option<BusReference>> {
    if let Some(bus) = which.bus.as_ref().or(which.cluster_bus.as_ref()) {
        if let Some(file) = &which.file {
            MonitorBuilder::read_file(file).await?;
        }
        return Ok(Some(bus.clone()));
    }
    if let Some(file) = &which.file {
        let buses = MonitorBuilder::read_file(file).await?.bus_references();
        if buses.len() > 1 {
            let flag = |bus: &BusReference| {
                format!("{} {bus}", if bus.is_namespaced() { "--bus" } else { "--cluster-bus" })
            };
            let names: Vec<_> = buses.iter().map(flag).collect();
            let file = file.display();
            return Err(Usage(format!("{file} has several buses, choose one: {}", names.join(", "))).into());
        }
        return Ok(buses.into_iter().next());
    }
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    match (variable("BUS_NAME"), variable("BUS_NAMESPACE")) {
        (Some(name), namespace) => Ok(Some(BusReference::new(name, namespace.unwrap_or_default()))),
        (None, _) => Err(Usage(
            "no bus: give --file, --bus or --cluster-bus, or set BUS_NAME and BUS_NAMESPACE".into(),
        )
        .into()),
    }
}

fn builder(which: &WhichBus, component: relay_bus::Component) -> MonitorBuilder {
    Monitor::builder(component)
        .file(which.file.clone())
        .kubeconfig(which.kubeconfig.clone())
        .master_url(which.master.clone())
        .finalizer(which.finalizer)
}

/// Runs a monitor until a signal, the end of its time, an error, or until its output cannot be written. After that,
/// waits until its calls in progress have ended, but at most for `patience`. Also returns when the end began.
async fn follow<H: MonitorHandler>(
    monitor: &Monitor<H>,
    bus: Option<&BusReference>,
    concurrency: usize,
    patience: Option<Duration>,
    stop: &CancellationToken,
    lines: &Lines,
    mut ending: Ending,
) -> (anyhow::Result<Exit>, Instant) {
    let mut exit = Exit::Done;
    let mut asked: Option<Instant> = None;
    let mut running = pin!(monitor.run(bus, concurrency, stop.clone()));
    loop {
        let late = async {
            match asked.zip(patience) {
                Some((asked, patience)) => tokio::time::sleep_until(asked + patience).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            ended = running.as_mut() => {
                let exit = match (ended, lines.fault()) {
                    (_, Some(fault)) => Err(fault),
                    (Err(error @ MonitorError::NoBus { .. }), _) => Ok(Exit::NotFound(error.to_string())),
                    (ended, None) => ended.map(|()| exit).map_err(Into::into),
                };
                return (exit, asked.unwrap_or_else(Instant::now));
            }
            () = late => {
                tracing::warn!("calls under way did not end in time");
                return (lines.fault().map_or(Ok(exit), Err), asked.unwrap_or_else(Instant::now));
            }
            end = ending.wait(), if !stop.is_cancelled() => {
                exit = end;
                asked = Some(Instant::now());
                stop.cancel();
            }
            () = lines.gone.cancelled(), if !stop.is_cancelled() => {
                asked = Some(Instant::now());
                stop.cancel();
            }
        }
    }
}
