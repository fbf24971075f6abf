//! How long a close takes, in every state.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use relay_autoconfig::{
    Environment, EnvironmentId, Expired, Gone, MessageHandler, ReceivedAll, StreamManager, Updated,
};
use relay_testkit::{Peer, Reply, Script};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::Notify;

use crate::{Figure, figure};

const PATH: &str = "/relay_auto_config";

/// A handler that tells when something was received.
struct Handler(Arc<Notify>);

impl MessageHandler for Handler {
    async fn add_environment(&mut self, _: Arc<Environment>) {
        self.0.notify_one();
    }
    async fn update_environment(&mut self, _: Updated) {}
    async fn received_all_environments(&mut self, _: ReceivedAll) {}
    async fn delete_environment(&mut self, _: Gone<EnvironmentId>) {}
    async fn key_expired(&mut self, _: Expired) {}
}

fn flood() -> String {
    let patch = |version: usize| {
        format!(
            "event: patch\ndata: {{\"path\":\"/environments/e\",\"data\":{{\"envID\":\"e\",\"version\":{version},\"sdkKey\":{{\"value\":\"k\"}}}}}}\n\n"
        )
    };
    (1..4000).map(patch).collect()
}

/// The longest of many closes, in milliseconds.
pub(crate) fn run(quick: bool) -> Result<Vec<Figure>> {
    let rounds = if quick { 34 } else { 167 };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let socket = TcpSocket::new_v4()?;
        socket.bind((Ipv4Addr::LOCALHOST, 0).into())?;
        let listener = socket.listen(1)?;
        let full = listener.local_addr()?;
        let mut queue = Vec::new();
        while let Ok(stream) =
            tokio::time::timeout(Duration::from_millis(300), TcpStream::connect(full)).await
        {
            queue.push(stream?);
        }
        let states = [
            ("resolving", None),
            ("connecting", None),
            ("waiting for an answer", Some(Reply::raw().silence())),
            ("in a body", Some(Reply::sse().send("event: put\ndata: {").silence())),
            ("in a flood", Some(Reply::sse().send(flood()).silence())),
            ("in a wait of 5 minutes", Some(Reply::empty(404))),
        ];
        let mut figures = Vec::new();
        for (state, reply) in states {
            let peer = match reply {
                Some(reply) => Some(Peer::start(Script::new().always(PATH, reply)).await),
                None => None,
            };
            let url = match &peer {
                Some(peer) => peer.url(),
                None if state == "resolving" => "http://host.invalid".to_owned(),
                None => format!("http://{full}"),
            };
            let mut longest = Duration::ZERO;
            for round in 0..rounds {
                let received = Arc::new(Notify::new());
                let manager = StreamManager::builder(&url).key("any").build(Handler(received.clone()))?;
                let manager = Arc::new(manager);
                let starting = tokio::spawn({
                    let manager = manager.clone();
                    async move { manager.start().await }
                });
                match &peer {
                    Some(peer) => {
                        peer.request(round).await;
                        if state == "in a flood" {
                            received.notified().await;
                        }
                    }
                    None => tokio::time::sleep(Duration::from_millis(1)).await,
                }
                let begin = Instant::now();
                manager.close().await;
                longest = longest.max(begin.elapsed());
                // It may have connected before the close.
                let _ = starting.await?;
            }
            figures.push(figure(
                format!("the longest of {rounds} closes, {state}"),
                longest.as_secs_f64() * 1e3,
                "ms",
                100.0,
            ));
        }
        Ok(figures)
    })
}
