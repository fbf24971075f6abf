#![doc = include_str!("traps.md")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use futures_util::StreamExt;
use relay_parsec::{
    Client, Error, HistoryOptions, Item, MemoryTransport, Outgoing, SequenceSnapshotter, SnapshotError,
    SubscribeOptions, SubscriptionState, Transport,
};
use relay_proto::parsec::{Payload, Position, Producer};
use relay_state::sequences::{Follow, FollowOptions, Frame};
use tokio::sync::mpsc;

use crate::minimal::Minimal;

const CHANNEL: &str = "public:a.b";

fn client(transport: impl Transport) -> Client {
    Client::builder(transport).producer(Producer::service("p")).build().unwrap()
}

#[tokio::test]
async fn what_comes_before_a_handler_is_set_waits_for_it() {
    let client = client(MemoryTransport::new());
    let subscriber = client.subscribe(CHANNEL, SubscribeOptions::default()).await.unwrap();
    client.publish(CHANNEL, Outgoing::new("early")).await.unwrap();
    let (sender, mut seen) = mpsc::channel(4);
    let _subscription = subscriber
        .on_envelope(move |handled| {
            let sender = sender.clone();
            async move { sender.send(handled.envelope().aspect().to_owned()).await.unwrap() }
        })
        .start();
    assert_eq!(seen.recv().await.unwrap(), "early");
    client.close().await;
}

#[tokio::test]
async fn a_second_subscription_on_a_channel_takes_nothing_from_the_first_and_close_ends_both() {
    let client = client(MemoryTransport::new());
    let seen = Arc::new(Mutex::new(Vec::new()));
    let mut subscriptions = Vec::new();
    for name in ["first", "second"] {
        let (sender, mut came) = mpsc::channel(4);
        let seen = seen.clone();
        let subscriber = client.subscribe(CHANNEL, SubscribeOptions::default()).await.unwrap();
        let subscription = subscriber
            .on_envelope(move |_| {
                seen.lock().unwrap().push(name);
                let sender = sender.clone();
                async move { sender.send(()).await.unwrap() }
            })
            .start();
        client.publish(CHANNEL, Outgoing::new("data")).await.unwrap();
        came.recv().await.unwrap();
        subscriptions.push((subscription, came));
    }
    subscriptions[0].1.recv().await.unwrap();
    assert_eq!(seen.lock().unwrap().iter().filter(|name| **name == "first").count(), 2);
    client.close().await;
    assert_eq!(client.tasks(), 0);
    for (subscription, _) in subscriptions {
        subscription.ended().await;
        assert_eq!(*subscription.state().borrow(), SubscriptionState::Ended);
    }
}

#[tokio::test]
async fn a_stream_that_is_over_ends_the_subscription_in_sight_and_makes_no_loop() {
    let transport = Minimal::default();
    let client = client(transport.clone());
    let subscriber = client.subscribe(CHANNEL, SubscribeOptions::default()).await.unwrap();
    let subscription = subscriber.on_envelope(|_| async {}).start();
    subscription.ended().await;
    assert_eq!(*subscription.state().borrow(), SubscriptionState::Ended);
    assert_eq!(transport.0.load(Ordering::Relaxed), 1);
}

#[test]
fn a_drop_before_the_first_envelope_forgets_no_from_sequence_and_no_position() {
    let mut options = FollowOptions::default();
    options.from_sequence = 2;
    let mut follow = Follow::new(CHANNEL, options);
    let genesis = Position::new("e", 0);
    for _ in 0..3 {
        follow.handle_open();
        follow.handle_frame(Frame::Connected { resumes_after: Some(genesis.clone()) }).unwrap();
        assert_eq!(follow.position(), Some(&genesis));
    }
    // Two producers, each with its own numbers.
    let mut offset = 0;
    for (producer, sequence) in [("p", 1), ("q", 2), ("p", 2), ("q", 3), ("p", 3)] {
        offset += 1;
        let text = format!(r#"{{"aspect":"a","producer":{{"id":"{producer}"}},"sequence":{sequence}}}"#);
        let frame = Frame::Envelope { position: Some(genesis.at(offset)), envelope: text.into() };
        follow.handle_frame(frame).unwrap();
    }
    let mut seen = Vec::new();
    while let Some(item) = follow.next_item() {
        match item {
            Item::Subscribed { .. } => {}
            Item::Envelope(delivered) => {
                let envelope = delivered.envelope;
                seen.push((envelope.producer().id().to_owned(), envelope.sequence()));
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(seen, [("q".to_owned(), 3), ("p".to_owned(), 3)]);
}

#[tokio::test]
async fn a_payload_that_holds_a_sequence_fools_nobody() {
    let client = client(MemoryTransport::new());
    for number in [900, 1, 0] {
        let payload = Payload::parse(&format!(r#"{{"sequence":{number}}}"#)).unwrap();
        client.publish(CHANNEL, Outgoing::new("data").payload(payload)).await.unwrap();
    }
    let options = SubscribeOptions::default().from_sequence(2);
    let mut items = client.subscribe(CHANNEL, options).await.unwrap().items();
    assert!(matches!(items.next().await, Some(Ok(Item::Subscribed { .. }))));
    let Some(Ok(Item::Envelope(delivered))) = items.next().await else { panic!("the third comes") };
    assert_eq!(delivered.envelope.sequence(), 3);
    let options = HistoryOptions::default().since(1).until(2);
    let history = client.history(CHANNEL, &options).await.unwrap();
    assert_eq!(history.len(), 1);
}

/// Numbers that can be read, but not written.
struct Full;

impl SequenceSnapshotter for Full {
    fn load(&self) -> Result<BTreeMap<String, i64>, SnapshotError> {
        Ok(BTreeMap::new())
    }

    fn save(&self, _: &BTreeMap<String, i64>) -> Result<(), SnapshotError> {
        Err(SnapshotError::new("the disk is full", None))
    }
}

/// Numbers that cannot be read.
struct Damaged;

impl SequenceSnapshotter for Damaged {
    fn load(&self) -> Result<BTreeMap<String, i64>, SnapshotError> {
        Err(SnapshotError::new("what is there is damaged", None))
    }

    fn save(&self, _: &BTreeMap<String, i64>) -> Result<(), SnapshotError> {
        panic!("it is left as it is")
    }
}

#[tokio::test]
async fn numbers_that_cannot_be_kept_stop_the_publisher() {
    let transport = MemoryTransport::new();
    let builder = || Client::builder(transport.clone()).producer(Producer::service("p"));
    let error = builder().snapshotter(Damaged).build().unwrap_err();
    assert!(matches!(error, Error::Snapshot(_)), "{error}");
    let client = builder().snapshotter(Full).build().unwrap();
    let error = client.publish(CHANNEL, Outgoing::new("data")).await.unwrap_err();
    assert!(matches!(&error, Error::Snapshot(_)) && error.to_string().contains("full"), "{error}");
    assert!(client.history(CHANNEL, &HistoryOptions::default()).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_channel_with_a_line_end_is_refused_before_it_spends_a_number() {
    let client = client(Minimal::default());
    for name in ["", "public:a.b\r\nx: y", "public:a\0.b"] {
        let error = client.publish(name, Outgoing::new("data")).await.unwrap_err();
        assert!(matches!(error, Error::Usage(_)), "{error}");
        assert!(client.subscribe(name, SubscribeOptions::default()).await.is_err());
    }
    assert_eq!(client.publish(CHANNEL, Outgoing::new("data")).await.unwrap().envelope.sequence(), 1);
}

/// Checks that every test in the tables above exists.
#[test]
fn the_tables_name_tests_that_exist() {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut named = 0;
    for line in include_str!("traps.md").lines().filter(|line| line.starts_with('|')) {
        let tests = line.trim_end_matches('|').rsplit('|').next().unwrap();
        for test in tests.split('`').filter(|part| part.contains("::")) {
            let (file, name) = test.split_once("::").unwrap();
            let path = crates.join(file);
            let source =
                fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            assert!(source.contains(&format!("fn {name}(")), "{test}");
            named += 1;
        }
    }
    assert!(named > 60, "{named}");
}
