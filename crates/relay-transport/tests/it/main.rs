//! The driver and the client with real sockets.
#![allow(clippy::unwrap_used, reason = "a helper that fails fails its test")]

mod bounds;
mod client;
mod faults;
mod framing;
mod golang;
mod http2;
mod log;
mod proxy;
mod stream;
mod time;
mod tls;
mod tokens;

use std::time::Duration;

use futures_util::StreamExt;
use relay_proto::eventsource::{Config, Item, Stop};
use relay_proto::sse::Frame;
use relay_testkit::{Peer, within};
use relay_transport::{EventStream, HttpClient};

fn http() -> HttpClient {
    HttpClient::builder().build().unwrap()
}

/// Settings with delays of a millisecond, so that retries come at once.
fn quick() -> Config {
    let millisecond = Duration::from_millis(1);
    Config::default().base(millisecond).floor(millisecond).cap(millisecond)
}

fn follow(peer: &Peer, config: Config) -> EventStream {
    EventStream::get(http(), config, &format!("{}/events", peer.url())).unwrap()
}

/// The next item as a line of text; `end` if there is none.
async fn told(stream: &mut EventStream) -> String {
    match within("the next item", stream.next()).await {
        Some(item) => word(&item),
        None => "end".into(),
    }
}

/// The next items.
async fn told_next(stream: &mut EventStream, count: usize) -> Vec<String> {
    let mut lines = Vec::new();
    for _ in 0..count {
        lines.push(told(stream).await);
    }
    lines
}

fn word(item: &Result<Item, Stop>) -> String {
    match item {
        Ok(Item::Opened) => "opened".into(),
        Ok(Item::Frame(Frame::Event(event))) => format!("event({})", event.data()),
        Ok(Item::Frame(Frame::Comment(comment))) => format!("comment({})", comment.text()),
        Ok(Item::Frame(Frame::Retry(retry))) => format!("retry({})", retry.as_millis()),
        Ok(Item::Frame(Frame::Oversized(over))) => format!("oversized({})", over.limit()),
        Ok(Item::Ended(ended)) => {
            format!("{}({})", if ended.opened { "ended" } else { "failed" }, ended.cause)
        }
        Ok(other) => format!("{other:?}"),
        Err(stop) => format!("stop({stop})"),
    }
}
