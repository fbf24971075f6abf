//! The client against scripted peers and the real server.
#![allow(clippy::unwrap_used)]

mod calls;
mod conflation;
mod credentials;
mod freshness;
mod pressure;
mod relay;
mod streams;
mod verdicts;
mod watching;
mod wire;

use std::time::Duration;

use futures_util::StreamExt;
use relay_pods::{Client, Error, Snapshot, SnapshotStream, StreamOptions};
use relay_testkit::within;

/// A client of a peer.
fn client(url: &str) -> Client {
    Client::builder(url).build().unwrap()
}

/// Options that reconnect at once, for tests in which delays do not matter.
fn options() -> StreamOptions {
    StreamOptions::new().reconnect_base(Duration::from_millis(1)).reconnect_cap(Duration::from_millis(20))
}

/// The next snapshot of a stream, which must not end.
async fn next(stream: &mut SnapshotStream) -> Snapshot {
    within("a snapshot", stream.next()).await.expect("the stream goes on").expect("no error")
}

/// The error with which a stream ends.
async fn end(stream: &mut SnapshotStream) -> Error {
    loop {
        match within("the end", stream.next()).await.expect("an error comes before the end") {
            Ok(_) => {}
            Err(error) => {
                assert!(stream.next().await.is_none(), "an error is the end");
                return error;
            }
        }
    }
}

/// A snapshot as one line: the phase, and what came with it.
fn show(snapshot: &Snapshot) -> String {
    let mut text = snapshot.phase.to_string();
    if let Some(event) = &snapshot.event {
        text += &format!(" {} {}", event.kind.as_str(), event.hash);
    }
    if let Some(gap) = &snapshot.gap {
        text += &format!(" {}", gap.reason.as_str());
    }
    if let Some(ack) = &snapshot.ack {
        text += &format!(" ack={ack}");
    }
    text
}

async fn lines(stream: &mut SnapshotStream, count: usize) -> Vec<String> {
    let mut lines = Vec::new();
    for _ in 0..count {
        lines.push(show(&next(stream).await));
    }
    lines
}
