//! How streams and servers end.

use std::time::Duration;

use relay_pods_server::{
    BoxFuture, CancellationToken, Config, Publisher, Scope, Server, Source, SourceError,
};
use serde_json::json;

use crate::raw::{End, Rig, parse, pod};

fn retry(block: &str) -> u64 {
    block.lines().find_map(|line| line.strip_prefix("retry: ")).expect("a retry line").parse().unwrap()
}

#[tokio::test]
async fn a_shutdown_says_closing_and_ends_everything() {
    let rig = Rig::start(Config::default()).await;
    rig.publisher.upsert(pod("prod", "a", 1, &[])).await.unwrap();
    let mut streams = Vec::new();
    for _ in 0..3 {
        let mut stream = rig.stream("/events/stream").await;
        stream.until("catchup_complete").await;
        streams.push(stream);
    }
    let mut silent = rig.connect().await;
    let mut idle = rig.connect().await;
    idle.send(b"GET /livez HTTP/1.1\r\nhost: r\r\n\r\n").await;
    assert_eq!(idle.answer().await.status(), 200);
    rig.handle.shutdown();
    for stream in &mut streams {
        let block = stream.block().await.unwrap();
        assert_eq!(parse(&block), ("closing".into(), json!({ "reason": "shutdown" })));
        assert!((100..=2100).contains(&retry(&block)), "{block}");
        assert_eq!(block.matches("\n\n").count(), 1, "one block");
        assert_eq!(stream.block().await, Err(End::Proper));
    }
    rig.served.await.unwrap();
    assert_eq!((silent.rest().await, idle.rest().await), (vec![], vec![]));
    assert!(tokio::net::TcpStream::connect(rig.handle.local_addr()).await.is_err());
}

#[tokio::test]
async fn a_stream_that_takes_nothing_does_not_keep_a_server_from_ending() {
    let rig = Rig::start(Config::default().drain(Duration::from_millis(200))).await;
    let labels = "x".repeat(60);
    let pods = (0..20_000).map(|at| pod("prod", &format!("{at}"), 1, &[&format!("l={labels}")])).collect();
    rig.publisher.relist(Scope::All, pods).await.unwrap();
    let mut peer = rig.connect().await;
    peer.send(b"GET /events/stream HTTP/1.1\r\nhost: r\r\n\r\n").await;
    peer.head().await;
    rig.subscribers_are(1).await;
    rig.handle.shutdown();
    rig.served.await.unwrap();
    assert_eq!(rig.handle.subscribers(), 0);
}

#[tokio::test]
async fn streams_end_with_their_lifetime() {
    let config =
        Config::default().stream_lifetime(Duration::from_millis(60)).reconnect_spread(Duration::ZERO);
    let rig = Rig::start(config).await;
    let mut stream = rig.stream("/events/stream").await;
    let messages = stream.until("closing").await;
    assert_eq!(messages.last().unwrap().1, json!({ "reason": "lifetime" }));
    assert_eq!(stream.block().await, Err(End::Proper));
    assert_eq!(stream.peer.rest().await, b"", "and their connection with them");
}

#[tokio::test]
async fn streams_can_be_sent_elsewhere_or_cut() {
    let rig = Rig::start(Config::default()).await;
    let mut one = rig.stream("/events/stream").await;
    one.until("catchup_complete").await;
    rig.handle.rebalance();
    assert_eq!(one.expect("closing").await, json!({ "reason": "rebalance" }));
    assert_eq!(one.block().await, Err(End::Proper));
    let mut two = rig.stream("/events/stream").await;
    two.until("catchup_complete").await;
    rig.handle.cut_streams();
    assert_eq!(two.block().await, Err(End::Cut));
    let mut three = rig.stream("/events/stream").await;
    three.until("catchup_complete").await;
    rig.publisher.upsert(pod("prod", "a", 1, &[])).await.unwrap();
    three.expect("pod").await;
}

/// A source that lists once, and then ends with this result.
struct Short(Option<SourceError>);

impl Source for Short {
    fn kind(&self) -> &'static str {
        "short"
    }

    fn run(
        self: Box<Self>,
        publisher: Publisher,
        _stop: CancellationToken,
    ) -> BoxFuture<'static, Result<(), SourceError>> {
        Box::pin(async move {
            publisher.relist(Scope::All, vec![pod("prod", "a", 1, &[])]).await?;
            self.0.map_or(Ok(()), Err)
        })
    }
}

#[tokio::test]
async fn a_source_that_ends_leaves_the_log_stale_and_one_that_fails_ends_the_server() {
    let server = Server::builder(Config::default()).source(Short(None)).bind("127.0.0.1:0").await.unwrap();
    let handle = server.handle();
    let served = tokio::spawn(server.run(std::future::pending()));
    let rig = Rig::start(Config::default()).await;
    let health = loop {
        let mut peer = rig.connect_to(handle.local_addr()).await;
        peer.send(b"GET /health HTTP/1.1\r\nhost: r\r\n\r\n").await;
        let health = peer.answer().await.json();
        if health["source"]["synced"] == true && health["source"]["state"] == "stale" {
            break health;
        }
    };
    assert_eq!((&health["source"]["kind"], &health["status"]), (&"short".into(), &"degraded".into()));
    handle.shutdown();
    assert!(served.await.unwrap().is_ok());

    let broken = SourceError::setup("reading the kubeconfig", std::io::Error::other("no such file"));
    let server =
        Server::builder(Config::default()).source(Short(Some(broken))).bind("127.0.0.1:0").await.unwrap();
    let error = server.run(std::future::pending()).await.unwrap_err();
    let error = relay_proto::error::chain(&error).to_string();
    assert!(error.contains("reading the kubeconfig: no such file"), "{error}");
}
