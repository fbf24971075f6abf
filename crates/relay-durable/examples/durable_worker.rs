//! A worker: a subscription wakes it, it claims the work, reads the new data and acknowledges it.
//!
//! ```sh
//! cargo run -p relay-durable --example durable_worker -- http://127.0.0.1:4437/v1/stream 'orders/*' 1
//! ```
//!
//! The server must offer subscriptions, as the protocol's reference server does. The arguments are the root of the
//! streams, a pattern, and the number of pieces of work after which the worker ends.
#![allow(clippy::print_stdout, reason = "an example talks to its terminal")]

use futures_util::StreamExt;
use relay_durable::{
    Ack, Checkpoint, Client, CreateOptions, Delivery, DurableStream, ErrorKind, Lease, LiveMode, Offset,
    ReaderConfig, Subscription, SubscriptionOptions,
};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

#[tokio::main]
async fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let root = args.next().unwrap_or_else(|| "http://127.0.0.1:4437/v1/stream".into());
    let pattern = args.next().unwrap_or_else(|| "orders/*".into());
    let mut left: u64 = args.next().map_or(Ok(u64::MAX), |count| count.parse())?;
    let client = Client::builder(root).build()?;
    let json = CreateOptions::new().content_type("application/json".to_owned());
    let wakes = client.create("wakes", json).await?;
    let subscription = client.subscription("example")?;
    subscription.create(&SubscriptionOptions::new("wakes").pattern(pattern)).await?;
    println!("ready");
    // Work that arrived while no worker was connected is found by the first claim.
    let mut woken = wakes.read_raw(ReaderConfig::default(), Checkpoint::at(Offset::NOW));
    loop {
        while let Some(lease) = claimed(&subscription).await? {
            work(&client, lease).await?;
            left -= 1;
            if left == 0 {
                return Ok(());
            }
        }
        match woken.next().await {
            Some(Ok(Delivery::Batch(_))) => {}
            Some(Err(error)) => return Err(error.into()),
            _ => return Ok(()),
        }
    }
}

/// Claims the work, if there is any and no other worker has it.
async fn claimed(subscription: &Subscription) -> Result<Option<Lease>> {
    match subscription.claim("example-worker").await {
        Ok(lease) => Ok(Some(lease)),
        Err(error) if matches!(error.kind(), ErrorKind::NoWork | ErrorKind::Claimed) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Reads the new data of each stream, with heartbeats in between, then acknowledges it.
async fn work(client: &Client, lease: Lease) -> Result<()> {
    let mut acks = Vec::new();
    for pending in lease.streams().iter().filter(|stream| stream.has_pending) {
        let stream = client.stream(&pending.path)?;
        let behind = lease.keep(read(&stream, pending.acked_offset.clone())).await??;
        acks.push(Ack::new(pending.path.clone(), behind));
    }
    lease.done(&acks).await?;
    Ok(())
}

/// Reads to the present end of the stream, and returns the offset there.
async fn read(stream: &DurableStream, from: Offset) -> Result<Offset> {
    let mut reads = stream.read(ReaderConfig::default().mode(LiveMode::Off), Checkpoint::at(from));
    while let Some(event) = reads.next().await {
        if let relay_durable::ReadEvent::Piece(piece) = event?
            && !piece.content.is_empty()
        {
            println!("{}: {:?}", stream.url(), piece.content);
        }
    }
    Ok(reads.position().offset.clone())
}
