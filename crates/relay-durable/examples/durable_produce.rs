//! Writes the lines of standard input to a stream, each exactly once, and prints their offsets.
//!
//! ```sh
//! relay durable serve &
//! seq 10 | cargo run -p relay-durable --example durable_produce -- http://127.0.0.1:4437/numbers
//! ```
#![allow(clippy::print_stdout, reason = "an example talks to its terminal")]

use std::io::BufRead;

use relay_durable::{Client, CreateOptions, IdempotentProducer, ProducerOptions};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url = std::env::args().nth(1).unwrap_or_else(|| "http://127.0.0.1:4437/example".into());
    let client = Client::builder("http://127.0.0.1:4437").build()?;
    let stream = client.create(&url, CreateOptions::new().content_type("text/plain".to_owned())).await?;
    let id = format!("example-{}", std::process::id());
    let producer = IdempotentProducer::start(&stream, ProducerOptions::new(id)).await?;
    for line in std::io::stdin().lock().lines() {
        // Waits while the buffer is full; the receipt resolves once the line is on the server.
        let receipt = producer.append_wait(line? + "\n").await?;
        tokio::spawn(async move {
            match receipt.await {
                Ok(outcome) => println!("written before {:?}", outcome.offset),
                Err(error) => println!("not written: {error}"),
            }
        });
    }
    // An error here means that not everything is on the server.
    producer.flush().await?;
    Ok(())
}
