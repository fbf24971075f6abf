//! The answers of `fixtures/durable/exchanges`, whole and byte by byte.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::StreamExt;
use relay_durable::{
    AppendOptions, Checkpoint, Content, CreateOptions, DurableStream, End, Error, Fetched,
    IdempotentProducer, LiveMode, Offset, ProducerOptions, ReadEvent, ReaderConfig,
};
use relay_testkit::{Peer, Reply, Script};
use serde_json::{Map, Value, json};

use crate::stream;

/// The result of a request, in the words of the fixtures.
async fn ask(stream: DurableStream, to: &str) -> Result<Map<String, Value>, Error> {
    let plain = || AppendOptions::new().content_type("text/plain".to_owned());
    let shared = |error: std::sync::Arc<Error>| std::sync::Arc::try_unwrap(error);
    let outcome = match to {
        "create" => {
            let created = stream.create(CreateOptions::new()).await?;
            json!({"status": created.status, "offset": created.offset, "closed": created.closed})
        }
        "append" | "append-seq" => {
            let options = if to == "append" { plain() } else { plain().seq("1".to_owned()) };
            let done = stream.append("x", options).await?;
            json!({"status": done.status, "offset": done.offset, "closed": done.closed})
        }
        "close" => {
            let done = stream.close().await?;
            json!({"status": done.status, "offset": done.offset, "closed": done.closed})
        }
        "delete" => json!({"status": stream.delete().await?}),
        "get" => match stream.get(&Offset::START, Some("\"a:b\""), 100).await? {
            Fetched::NotModified => json!({"status": 304, "offset": "0_12"}),
            Fetched::Snapshot(found) => {
                json!({"status": 200, "offset": found.offset, "closed": found.closed})
            }
            other => panic!("{other:?}"),
        },
        "head" => {
            let head = stream.head().await?;
            json!({"status": head.status, "offset": head.offset, "closed": head.closed})
        }
        "produce" => {
            let options = ProducerOptions::new("me").content_type("text/plain");
            let producer = IdempotentProducer::start(&stream, options).await?;
            let receipt = producer.append("x");
            match receipt.await {
                Ok(outcome) => json!({"offset": outcome.offset, "duplicate": outcome.duplicate}),
                Err(error) => {
                    // The producer keeps the error, too.
                    drop(producer);
                    tokio::task::yield_now().await;
                    return Err(shared(error).unwrap_or_else(|_| panic!("the producer has ended")));
                }
            }
        }
        "read" => read(stream, LiveMode::Off).await?,
        "poll" => read(stream, LiveMode::LongPoll).await?,
        "events-json" => read(stream.with_content_type("application/json"), LiveMode::Sse).await?,
        "events-text" => read(stream.with_content_type("text/plain"), LiveMode::Sse).await?,
        "events-bytes" => read(stream.with_content_type("application/octet-stream"), LiveMode::Sse).await?,
        other => panic!("{other}"),
    };
    Ok(outcome.as_object().unwrap().clone())
}

async fn read(stream: DurableStream, mode: LiveMode) -> Result<Value, Error> {
    let config = ReaderConfig::default().mode(mode);
    let mut reads = stream.read(config, Checkpoint::at(Offset::START));
    let mut data = Vec::new();
    let mut closed = false;
    while let Some(event) = reads.next().await {
        match event? {
            ReadEvent::Piece(piece) => match piece.content {
                Content::Bytes(bytes) => data.extend_from_slice(&bytes),
                Content::Messages(messages) => {
                    messages
                        .iter()
                        .for_each(|message| data.extend_from_slice(&[&message[..], b"|"].concat()));
                }
            },
            ReadEvent::End(end) => closed = end == End::Closed,
            other => panic!("{other:?}"),
        }
    }
    let text = String::from_utf8(data.clone()).ok();
    let offset = &reads.position().offset;
    Ok(json!({"data": text, "base64": STANDARD.encode(data), "offset": offset, "closed": closed}))
}

#[tokio::test]
async fn every_answer_means_what_it_must() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/durable/exchanges/answers.jsonl");
    let mut count = 0;
    for line in std::fs::read_to_string(file).unwrap().lines() {
        let exchange: Value = serde_json::from_str(line).unwrap();
        let (name, said) = (exchange["name"].as_str().unwrap(), exchange["said"].as_str().unwrap());
        let means = exchange["means"].as_object().unwrap();
        for size in [said.len(), 1] {
            let reply = Reply::raw().send_in(size, said.to_owned());
            let peer = Peer::start(Script::new().on("/s", reply)).await;
            let found = ask(stream(&peer), exchange["to"].as_str().unwrap()).await;
            match (&found, means.get("kind")) {
                (Ok(found), None) => {
                    for (wanted, value) in means {
                        assert_eq!(&found[wanted], value, "{name}: {wanted}");
                    }
                }
                (Err(error), Some(kind)) => {
                    assert_eq!(format!("{:?}", error.kind()), kind.as_str().unwrap(), "{name}: {error}");
                    let says = means.get("says").map_or("", |says| says.as_str().unwrap());
                    assert!(error.to_string().contains(says), "{name}: {error}");
                }
                _ => panic!("{name}: {found:?}"),
            }
            assert_eq!(peer.requests().len(), 1, "{name}");
            count += 1;
        }
    }
    assert!(count > 90, "{count}");
}
