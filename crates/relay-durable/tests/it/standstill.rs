//! Servers that are silent, or bring nothing new.

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use relay_durable::{
    Checkpoint, ErrorKind, IdempotentProducer, LiveMode, Offset, ProducerConfig, ProducerOptions, ReadEvent,
    ReaderConfig,
};
use relay_testkit::{Peer, Reply, Script};

use crate::*;

/// How long the attempts may take; an attempt alone could take a minute.
const LIMIT: Duration = Duration::from_millis(300);
const MINUTE: Duration = Duration::from_secs(60);

async fn silent() -> (Peer, DurableStream) {
    let peer = Peer::start(Script::new().always("/s", Reply::raw().silence())).await;
    let client = builder(&peer).timeout(MINUTE).retry_for(Some(LIMIT)).build().unwrap();
    let stream = client.stream("/s").unwrap();
    (peer, stream)
}

#[tokio::test]
async fn the_time_for_attempts_cuts_a_request_without_an_answer() {
    let (peer, stream) = silent().await;
    let began = Instant::now();
    for (method, result) in [
        ("HEAD", stream.head().await.map(drop)),
        ("PUT", stream.create(relay_durable::CreateOptions::new()).await.map(drop)),
        ("DELETE", stream.delete().await.map(drop)),
    ] {
        let error = result.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut, "{method}: {error}");
    }
    assert!(began.elapsed() < MINUTE / 2, "{:?}", began.elapsed());
    assert!(peer.requests().len() >= 3);
}

#[tokio::test]
async fn the_time_without_progress_cuts_a_read_and_a_batch() {
    let (_peer, stream) = silent().await;
    let began = Instant::now();
    let config = ReaderConfig::default().mode(LiveMode::Off).timeout(MINUTE).retry_for(Some(LIMIT));
    let read = stream.read(config, Checkpoint::at(Offset::START)).next().await.unwrap();
    assert_eq!(read.unwrap_err().kind(), ErrorKind::TimedOut);
    let options = ProducerOptions::new("p")
        .content_type("text/plain")
        .config(ProducerConfig::default().retry_for(Some(LIMIT)));
    let producer = IdempotentProducer::start(&stream, options).await.unwrap();
    let receipt = producer.append("x");
    assert_eq!(producer.flush().await.unwrap_err().kind(), ErrorKind::TimedOut);
    assert_eq!(receipt.await.unwrap_err().kind(), ErrorKind::TimedOut);
    assert!(began.elapsed() < MINUTE / 2, "{:?}", began.elapsed());
}

#[tokio::test]
async fn event_connections_that_are_closed_before_a_head_lead_to_long_polls() {
    let peer = Peer::start(Script::new().answer("/s", |request| {
        let json = |offset, flags, body| says(200, offset, flags, "application/json", body);
        match request.query("live").as_deref() {
            None => json("a", "up-to-date", "[1]"),
            Some("sse") => Reply::raw().reset(),
            Some(_) => json("b", "closed", "[2]"),
        }
    }))
    .await;
    let config =
        ReaderConfig::default().retry_base(Duration::from_millis(1)).retry_cap(Duration::from_millis(5));
    let mut reads = stream(&peer).read(config, Checkpoint::at(Offset::START));
    let ended = tokio::time::timeout(MINUTE, async {
        while let Some(event) = reads.next().await {
            if let ReadEvent::End(end) = event.unwrap() {
                return Some(end);
            }
        }
        None
    });
    assert_eq!(ended.await.unwrap(), Some(relay_durable::End::Closed));
    let lives: Vec<_> = peer.requests().iter().filter_map(|request| request.query("live")).collect();
    assert_eq!(lives.last().map(String::as_str), Some("long-poll"));
    // A connection pool may have sent one again by itself.
    assert!((3..=6).contains(&(lives.len() - 1)), "{lives:?}");
}
