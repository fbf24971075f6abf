//! Stores sequences elsewhere than in a file.
#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::sync::{Arc, Mutex, PoisonError};

use relay_parsec::{Client, FileIo, FileSnapshotter, MemoryTransport, Outgoing, SnapshotError};
use relay_proto::parsec::Producer;

/// A place that outlives the client, such as a row of a database.
#[derive(Clone, Default)]
struct Row(Arc<Mutex<Option<Vec<u8>>>>);

impl FileIo for Row {
    fn place(&self) -> String {
        "row 7".to_owned()
    }

    fn read(&self) -> Result<Option<Vec<u8>>, SnapshotError> {
        Ok(self.0.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }

    fn replace(&self, content: &[u8]) -> Result<(), SnapshotError> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(content.to_vec());
        Ok(())
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), relay_parsec::Error> {
    println!("the second life goes on with #{}", run().await?);
    Ok(())
}

/// Two lives of one publisher; the second continues the count.
async fn run() -> Result<i64, relay_parsec::Error> {
    let row = Row::default();
    let mut last = 0;
    for _ in 0..2 {
        let client = Client::builder(MemoryTransport::new())
            .producer(Producer::service("worker"))
            .snapshotter(FileSnapshotter::with_io(row.clone()))
            .build()?;
        last = client.publish("public:demo.jobs", Outgoing::new("done")).await?.envelope.sequence();
        client.close().await;
    }
    Ok(last)
}

#[cfg(test)]
mod tests {
    #[tokio::test]
    async fn the_second_life_goes_on() {
        assert_eq!(super::run().await.unwrap(), 2);
    }
}
