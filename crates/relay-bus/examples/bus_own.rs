//! A bus of your own: it counts the bytes of each provisioned channel, and prints them at the end.
//!
//! `cargo run -p relay-bus --example bus_own -- objects.yaml`, then `relay bus send --url http://127.0.0.1:8080 ..`
#![allow(clippy::print_stdout, reason = "an example talks to its terminal")]

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use relay_bus::*;
use relay_transport::server::{HttpServer, Settings};
use tokio::sync::Mutex;

#[derive(Clone, Default)]
struct Counter(Arc<Mutex<BTreeMap<ChannelReference, usize>>>);

impl MonitorHandler for Counter {
    async fn provision(
        &self,
        channel: &ChannelReference,
        _: &ChannelSpec,
        _: &ResolvedParameters,
    ) -> Result<(), HandlerError> {
        self.0.lock().await.entry(channel.clone()).or_default();
        Ok(())
    }
}

impl Receive for Counter {
    async fn receive(&self, channel: &ChannelReference, message: Message) -> Result<(), ReceiveError> {
        *self.0.lock().await.get_mut(channel).ok_or(ReceiveError::UnknownChannel)? += message.payload.len();
        Ok(())
    }
}

/// Serves until `stop`, then prints how many bytes each channel received.
pub(crate) async fn count(
    file: Option<PathBuf>,
    server: HttpServer,
    stop: CancellationToken,
) -> Result<String, MonitorError> {
    let counter = Counter::default();
    let monitor = Monitor::builder(Component::Dispatcher).file(file).handler(counter.clone());
    let receiver = MessageReceiver::new(counter.clone(), ReceiverOptions::default());
    tokio::spawn(receiver.run(server, stop.clone()));
    monitor.run(None, 4, stop).await?;
    let counts = counter.0.lock().await;
    Ok(format!("{counts:?}"))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (stop, interrupt) = (CancellationToken::new(), tokio::signal::ctrl_c());
    let server = HttpServer::bind("127.0.0.1:8080", Settings::default().h2c(true)).await?;
    let interrupted = stop.clone();
    tokio::spawn(async move { interrupt.await.map(|()| interrupted.cancel()) });
    let file = std::env::args_os().nth(1).map(Into::into);
    println!("{}", count(file, server, stop).await?);
    Ok(())
}
