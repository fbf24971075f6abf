//! Follows a stream and stores a checkpoint of what it has processed: after a restart it continues there.
//!
//! ```sh
//! cargo run -p relay-durable --example durable_follow -- http://127.0.0.1:4437/numbers numbers.checkpoint
//! ```
#![allow(clippy::print_stdout, reason = "an example talks to its terminal")]

use futures_util::StreamExt;
use relay_durable::{Checkpoint, Client, Offset, ReadEvent, ReaderConfig};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let url = args.next().unwrap_or_else(|| "http://127.0.0.1:4437/example".into());
    let file = args.next().unwrap_or_else(|| "example.checkpoint".into());
    let from = match std::fs::read(&file) {
        Ok(kept) => serde_json::from_slice(&kept)?,
        Err(_) => Checkpoint::at(Offset::START),
    };
    let stream = Client::builder("http://127.0.0.1:4437").build()?.stream(&url)?;
    let mut reads = stream.read(ReaderConfig::default(), from);
    while let Some(event) = reads.next().await {
        match event? {
            ReadEvent::Piece(piece) => {
                println!("{:?}", piece.content);
                // Processed: a restart begins after it. A kill here leaves the old file or the new one.
                let beside = format!("{file}.new");
                std::fs::write(&beside, serde_json::to_vec(&piece.checkpoint)?)?;
                std::fs::rename(&beside, &file)?;
            }
            ReadEvent::Retry(retry) => println!("trying again: {}", retry.cause),
            ReadEvent::End(_) => println!("the stream is closed"),
            _ => {}
        }
    }
    Ok(())
}
