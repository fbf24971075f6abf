//! The server with the client of this workspace, on loopback: every mode of reading, producers, forks, restarts.

use std::path::Path;
use std::time::Duration;

use futures_util::StreamExt;
use relay_durable::{
    AppendOptions, Checkpoint, Client, Content, CreateOptions, DurableStream, End, ErrorKind, ForkOptions,
    IdempotentProducer, LiveMode, Offset, ProducerConfig, ProducerOptions, ReadEvent, ReaderConfig,
};
use relay_durable_server::{Config, Server};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

struct Running {
    client: Client,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Running {
    async fn start(dir: Option<&Path>) -> Self {
        let config = Config::default()
            .dir(dir.map(Into::into))
            .poll_wait(Duration::from_millis(200))
            .answer_bytes(1000);
        let server = Server::bind("127.0.0.1:0", config).await.unwrap();
        let client = Client::builder(format!("http://{}/v1", server.local_addr())).build().unwrap();
        let stop = server.stop_token();
        Self { client, stop, task: tokio::spawn(server.run()) }
    }

    async fn end(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }

    async fn json(&self, path: &str) -> DurableStream {
        let options = CreateOptions::new().content_type("application/json".to_owned());
        self.client.create(path, options).await.unwrap()
    }
}

/// Everything from the start on, and how it ended.
async fn read(stream: &DurableStream, mode: LiveMode) -> (Vec<String>, Option<End>) {
    let mut reads = stream.read(ReaderConfig::default().mode(mode), Checkpoint::at(Offset::START));
    let (mut all, mut end) = (Vec::new(), None);
    while let Some(event) = reads.next().await {
        match event.unwrap() {
            ReadEvent::Piece(piece) => match piece.content {
                Content::Messages(messages) => {
                    all.extend(messages.iter().map(|message| String::from_utf8(message.to_vec()).unwrap()));
                }
                Content::Bytes(bytes) if bytes.is_empty() => {}
                Content::Bytes(bytes) => all.push(String::from_utf8_lossy(&bytes).into_owned()),
            },
            ReadEvent::End(how) => end = Some(how),
            other => panic!("{other:?}"),
        }
    }
    (all, end)
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_are_read_in_every_mode_while_they_are_written() {
    let server = Running::start(None).await;
    let stream = server.json("/a").await;
    for n in 0..50 {
        stream
            .append(format!("{{\"n\":{n},\"pad\":\"{}\"}}", "x".repeat(50)), AppendOptions::new())
            .await
            .unwrap();
    }
    let modes = [LiveMode::Auto, LiveMode::Sse, LiveMode::LongPoll];
    let readers: Vec<_> = modes
        .into_iter()
        .map(|mode| {
            let stream = stream.clone();
            tokio::spawn(async move { read(&stream, mode).await })
        })
        .collect();
    for n in 50..100 {
        stream.append(format!("[{n}]"), AppendOptions::new()).await.unwrap();
    }
    assert_eq!(read(&stream, LiveMode::Off).await.1, Some(End::UpToDate));
    let closed = stream.append("\"last\"", AppendOptions::new().close(true)).await.unwrap();
    assert!(closed.closed);
    for reader in readers {
        let (all, end) = reader.await.unwrap();
        assert_eq!((all.len(), end), (101, Some(End::Closed)));
        assert_eq!((all[99].as_str(), all[100].as_str()), ("[99]", "\"last\""));
    }
    let error = stream.append("1", AppendOptions::new()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Closed);
    assert_eq!(stream.close().await.unwrap().offset, closed.offset, "again is fine");
    server.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_come_as_they_are_and_sequences_must_grow() {
    let server = Running::start(None).await;
    let stream = server.client.create("/b", CreateOptions::new().closed(false)).await.unwrap();
    let data: Vec<u8> = (0..=255).cycle().take(5000).collect();
    for chunk in data.chunks(700) {
        stream.append(chunk.to_vec(), AppendOptions::new()).await.unwrap();
    }
    stream.append("x", AppendOptions::new().seq("05".to_owned())).await.unwrap();
    let error = stream.append("y", AppendOptions::new().seq("04".to_owned())).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::SequenceConflict);
    let error =
        stream.append("y", AppendOptions::new().content_type("text/plain".to_owned())).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ContentType);
    stream.close().await.unwrap();
    for mode in [LiveMode::Off, LiveMode::Sse, LiveMode::LongPoll] {
        let mut reads = stream.read(ReaderConfig::default().mode(mode), Checkpoint::at(Offset::START));
        let mut all = Vec::new();
        while let Some(event) = reads.next().await {
            if let ReadEvent::Piece(piece) = event.unwrap()
                && let Content::Bytes(bytes) = piece.content
            {
                all.extend_from_slice(&bytes);
            }
        }
        assert_eq!(all, [&data[..], b"x"].concat(), "{mode:?}");
    }
    server.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_keeps_streams_producers_and_closure_over_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let server = Running::start(Some(dir.path())).await;
    let stream = server.json("/kept").await;
    let options = || ProducerOptions::new("p").config(ProducerConfig::default().max_batch_items(3));
    let producer = IdempotentProducer::start(&stream, options()).await.unwrap();
    let receipts: Vec<_> = (0..10).map(|n| producer.append(n.to_string())).collect();
    producer.flush().await.unwrap();
    for receipt in receipts {
        assert!(!receipt.await.unwrap().duplicate);
    }
    let state = producer.state();
    server.end().await;

    let server = Running::start(Some(dir.path())).await;
    let stream = server.client.connect("/kept").await.unwrap();
    // The server knows the name and the epoch, so a producer without the state gets an error.
    let stranger = IdempotentProducer::start(&stream, options()).await.unwrap();
    let _receipt = stranger.append("1");
    assert_eq!(stranger.flush().await.unwrap_err().kind(), ErrorKind::UsedBefore);
    let producer = IdempotentProducer::start(&stream, options().resume(state)).await.unwrap();
    let _receipt = producer.append("10");
    producer.close().await.unwrap();
    let (all, end) = read(&stream, LiveMode::Auto).await;
    assert_eq!(all, (0..=10).map(|n| n.to_string()).collect::<Vec<_>>());
    assert_eq!(end, Some(End::Closed));
    server.end().await;

    let server = Running::start(Some(dir.path())).await;
    let head = server.client.stream("/kept").unwrap().head().await.unwrap();
    assert!(head.closed);
    assert_eq!(head.content_type.as_deref(), Some("application/json"));
    server.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_takes_the_name_and_the_former_holder_is_fenced() {
    let server = Running::start(None).await;
    let stream = server.json("/claimed").await;
    let old = IdempotentProducer::start(&stream, ProducerOptions::new("p")).await.unwrap();
    let _receipt = old.append("1");
    old.flush().await.unwrap();
    let claiming = ProducerOptions::new("p").config(ProducerConfig::default().auto_claim(true));
    let new = IdempotentProducer::start(&stream, claiming).await.unwrap();
    let outcome = new.append("2").await.unwrap();
    assert_eq!((outcome.epoch, outcome.seq), (1, 0));
    let error = old.append("3").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Fenced);
    assert_eq!(old.flush().await.unwrap_err().kind(), ErrorKind::Fenced, "it has ended for good");
    assert_eq!(read(&stream, LiveMode::Off).await.0, ["1", "2"]);
    server.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn forks_share_what_was_and_keep_a_deleted_source() {
    let server = Running::start(None).await;
    let source = server.json("/source").await;
    let first = source.append("1", AppendOptions::new()).await.unwrap();
    source.append("[2,3,4]", AppendOptions::new().raw(true)).await.unwrap();
    let fork = server.client.stream("/fork").unwrap();
    let options = ForkOptions::new().at(first.offset).sub_offset(2);
    assert_eq!(source.fork(&fork, options.clone()).await.unwrap().status, 201);
    assert_eq!(source.fork(&fork, options).await.unwrap().status, 200, "again is fine");
    source.append("5", AppendOptions::new()).await.unwrap();
    fork.append("\"own\"", AppendOptions::new()).await.unwrap();
    assert_eq!(read(&fork, LiveMode::Off).await.0, ["1", "2", "3", "\"own\""]);
    source.delete().await.unwrap();
    assert_eq!(source.head().await.unwrap_err().kind(), ErrorKind::Gone);
    assert_eq!(read(&fork, LiveMode::Off).await.0.len(), 4);
    fork.delete().await.unwrap();
    assert_eq!(source.head().await.unwrap_err().kind(), ErrorKind::NotFound, "the last fork took it along");
    let error = source.fork(&fork, ForkOptions::new()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    server.end().await;
}
