//! Typed aspects, and answers that name what they answer.
#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use relay_parsec::{Client, MemoryTransport, Outgoing, SubscribeOptions};
use relay_proto::parsec::{Payload, Producer};
use serde::Deserialize;
use tokio::sync::mpsc;

#[derive(Deserialize)]
struct Said {
    text: String,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    for line in run().await? {
        println!("{line}");
    }
    Ok(())
}

/// Publishes an envelope, answers it, and prints what was received.
async fn run() -> Result<Vec<String>, Box<dyn std::error::Error>> {
    let client = Client::builder(MemoryTransport::new()).producer(Producer::agent("echo")).build()?;
    let (heard, mut hear) = mpsc::channel(8);
    let (said, replied) = (heard.clone(), heard);
    client
        .subscribe("public:demo.chat", SubscribeOptions::default())
        .await?
        .on_aspect_typed::<Said, _, _>("said", move |payload, handled| {
            let said = said.clone();
            async move {
                match payload {
                    Ok(Said { text }) => {
                        let _ = said.send(format!("heard {text:?}")).await;
                        // Inside a handler the child names the envelope that is being handled.
                        if let Err(error) = handled.publish_derived(Outgoing::new("reply")).await {
                            let _ = said.send(format!("no reply: {error}")).await;
                        }
                    }
                    Err(error) => {
                        let _ = said.send(format!("not what was agreed: {error}")).await;
                    }
                }
            }
        })
        .on_aspect("reply", move |handled| {
            let replied = replied.clone();
            async move {
                let parent = handled.envelope().causation().parent_sequence;
                let _ = replied.send(format!("a reply to #{parent}")).await;
            }
        })
        .start();
    let hello = Payload::of(&serde_json::json!({"text": "hello"}))?;
    client.publish("public:demo.chat", Outgoing::new("said").payload(hello)).await?;
    let mut lines = Vec::new();
    while lines.len() < 2 {
        lines.extend(hear.recv().await);
    }
    client.close().await;
    Ok(lines)
}

#[cfg(test)]
mod tests {
    #[tokio::test]
    async fn it_is_heard_and_answered() {
        assert_eq!(super::run().await.unwrap(), ["heard \"hello\"", "a reply to #1"]);
    }
}
