//! A transport of your own: this one counts what passes through another.
#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use relay_parsec::{
    Client, Error, Feed, MemoryTransport, Outgoing, PublishFailure, Receipt, Start, SubscribeOptions,
    Transport,
};
use relay_proto::parsec::Producer;

struct Counting {
    inner: MemoryTransport,
    published: Arc<AtomicU64>,
}

impl Transport for Counting {
    fn name(&self) -> &'static str {
        "counting"
    }

    fn publish<'a>(
        &'a self,
        channel: &'a str,
        envelope: Bytes,
    ) -> BoxFuture<'a, Result<Receipt, PublishFailure>> {
        self.published.fetch_add(1, Ordering::Relaxed);
        self.inner.publish(channel, envelope)
    }

    fn subscribe<'a>(
        &'a self,
        channel: &'a str,
        start: Start,
    ) -> BoxFuture<'a, Result<Box<dyn Feed>, Error>> {
        self.inner.subscribe(channel, start)
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    println!("{}", run().await?);
    Ok(())
}

/// Publishes twice, and makes a call that this transport does not support.
async fn run() -> Result<String, Error> {
    let published = Arc::new(AtomicU64::new(0));
    let transport = Counting { inner: MemoryTransport::new(), published: published.clone() };
    let client = Client::builder(transport).producer(Producer::service("worker")).build()?;
    let _items = client.subscribe("public:demo.jobs", SubscribeOptions::default()).await?.items();
    for _ in 0..2 {
        client.publish("public:demo.jobs", Outgoing::new("done")).await?;
    }
    let missing = match client.presence("public:demo.jobs").await {
        Err(error) => error.to_string(),
        Ok(_) => "it has presence".to_owned(),
    };
    Ok(format!("{} published; {missing}", published.load(Ordering::Relaxed)))
}

#[cfg(test)]
mod tests {
    #[tokio::test]
    async fn what_passes_is_counted_and_what_is_missing_named() {
        let said = super::run().await.unwrap();
        assert_eq!(said, "2 published; not implemented: presence over counting");
    }
}
