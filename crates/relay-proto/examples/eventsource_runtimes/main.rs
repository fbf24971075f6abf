//! The connection machine without tokio: on [`blocking`] sockets, and on the [smol](on_smol) executor.
//!
//! Two drivers to read and to copy. Each is a loop that polls the machine and does what it says. They have no TLS, no
//! proxies and no connection pool; `relay-transport` has these.
//!
//! ```sh
//! cargo run -p relay-proto --example eventsource_runtimes -- blocking http://127.0.0.1:8080/events/stream
//! cargo run -p relay-proto --example eventsource_runtimes -- smol http://127.0.0.1:8080/events/stream
//! ```
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "an example shows what it does")]

use std::ops::ControlFlow;
use std::process::ExitCode;

use relay_proto::eventsource::{Config, Item};
use relay_proto::sse::Frame;

mod blocking;
mod http1;
mod on_smol;
#[cfg(test)]
mod tests;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let stop = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["blocking", url] => blocking::follow(url, Config::default(), print),
        ["smol", url] => smol::block_on(on_smol::follow(url, Config::default(), print)),
        _ => {
            eprintln!("usage: eventsource_runtimes blocking|smol http://HOST:PORT/PATH");
            return ExitCode::from(2);
        }
    };
    if let Some(stop) = stop {
        eprintln!("{stop}");
    }
    ExitCode::SUCCESS
}

fn print(item: Item) -> ControlFlow<()> {
    match item {
        Item::Frame(Frame::Event(event)) => println!("{}: {}", event.kind(), event.data()),
        Item::Ended(ended) => eprintln!("{}", ended.cause),
        _ => {}
    }
    ControlFlow::Continue(())
}
