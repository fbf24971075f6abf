//! The client against a scripted server.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

mod appends;
mod exchanges;
mod producers;
mod reads;
mod standstill;
mod subscriptions;

use std::time::Duration;

use relay_durable::{Client, ClientBuilder, DurableStream};
use relay_testkit::{Peer, Reply};

/// A client that retries quickly, and not for long.
fn builder(peer: &Peer) -> ClientBuilder {
    Client::builder(peer.url())
        .retry_base(Duration::from_millis(1))
        .retry_cap(Duration::from_millis(5))
        .retry_for(Some(Duration::from_secs(10)))
}

fn stream(peer: &Peer) -> DurableStream {
    builder(peer).build().unwrap().stream("/s").unwrap()
}

/// An answer with a next offset and flags, separated by blanks: `up-to-date`, `closed`, or `name=value` for a header.
fn says(status: u16, offset: &str, flags: &str, kind: &str, body: &str) -> Reply {
    let reply = match (status, body) {
        (204 | 304, _) => Reply::empty(status),
        _ => Reply::new(status, kind, body.to_owned()),
    };
    with(reply, offset, flags)
}

fn with(mut reply: Reply, offset: &str, flags: &str) -> Reply {
    if !offset.is_empty() {
        reply = reply.header("Stream-Next-Offset", offset);
    }
    for flag in flags.split_whitespace() {
        reply = match flag {
            "up-to-date" => reply.header("Stream-Up-To-Date", "true"),
            "closed" => reply.header("Stream-Closed", "true"),
            other => {
                let (name, value) = other.split_once('=').unwrap();
                reply.header(name, value)
            }
        };
    }
    reply
}
