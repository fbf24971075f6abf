//! The promises of the published client, with the numbers of its own tests.

use std::sync::{Arc, Mutex};

use relay_parsec::{
    Client, HistoryOptions, Item, MemoryTransport, Outgoing, SequenceSnapshotter, SnapshotError,
    SubscribeOptions, SubscriptionState,
};
use relay_proto::parsec::{Payload, Producer, Registry, Validator, ValidatorMode};

use crate::minimal::Minimal;

const CHANNEL: &str = "public:a.b.c";

fn client(transport: &MemoryTransport) -> Client {
    Client::builder(transport.clone()).producer(Producer::user("u-1")).build().unwrap()
}

fn payload(text: &str) -> Payload {
    Payload::parse(text).unwrap()
}

/// Collects what handlers get, and wakes a task that waits for it.
#[derive(Clone, Default)]
struct Seen(Arc<(Mutex<Vec<String>>, tokio::sync::Notify)>);

impl Seen {
    fn note(&self, what: impl Into<String>) {
        self.0.0.lock().unwrap().push(what.into());
        self.0.1.notify_one();
    }

    async fn wait(&self, count: usize) -> Vec<String> {
        tokio::time::timeout(std::time::Duration::from_secs(30), async {
            loop {
                let seen = self.0.0.lock().unwrap().clone();
                if seen.len() >= count {
                    return seen;
                }
                self.0.1.notified().await;
            }
        })
        .await
        .expect("it comes")
    }
}

#[tokio::test]
async fn behaviour_01_publishes_are_numbered_from_one() {
    let client = client(&MemoryTransport::new());
    for _ in 0..3 {
        client.publish(CHANNEL, Outgoing::new("data")).await.unwrap();
    }
    let history = client.history(CHANNEL, &HistoryOptions::default()).await.unwrap();
    let seen: Vec<_> = history.iter().map(|item| item.envelope.as_ref().unwrap()).collect();
    assert_eq!(seen.iter().map(|envelope| envelope.sequence()).collect::<Vec<_>>(), [1, 2, 3]);
    assert!(seen.iter().all(|envelope| envelope.producer().id() == "u-1"));
    let part = HistoryOptions::default().since(1).until(2);
    assert_eq!(client.history(CHANNEL, &part).await.unwrap().len(), 1);
    let newest = client.history(CHANNEL, &HistoryOptions::default().limit(1)).await.unwrap();
    assert_eq!(newest[0].envelope.as_ref().unwrap().sequence(), 3);
}

#[tokio::test]
async fn behaviours_02_and_03_handlers_see_their_aspects_in_order() {
    let client = client(&MemoryTransport::new());
    let seen = Seen::default();
    let (all, some) = (seen.clone(), seen.clone());
    let subscription = client
        .subscribe(CHANNEL, SubscribeOptions::default().aspect("data").aspect("more"))
        .await
        .unwrap()
        .on_envelope(move |handled| {
            all.note(format!("all {}", handled.envelope().aspect()));
            async {}
        })
        .on_aspect("more", move |handled| {
            some.note(format!("some {}", handled.envelope().sequence()));
            async {}
        })
        .start();
    for aspect in ["data", "cursor", "more"] {
        client.publish(CHANNEL, Outgoing::new(aspect)).await.unwrap();
    }
    assert_eq!(seen.wait(3).await, ["all data", "all more", "some 3"]);
    subscription.unsubscribe();
    subscription.ended().await;
    client.close().await;
    assert_eq!(client.tasks(), 0);
    assert!(client.publish(CHANNEL, Outgoing::new("data")).await.is_err());
}

#[tokio::test]
async fn behaviours_04_and_05_payloads_are_typed_and_children_name_their_parents() {
    #[derive(serde::Deserialize)]
    struct Said {
        text: String,
    }
    let client = client(&MemoryTransport::new());
    let seen = Seen::default();
    let (typed, child) = (seen.clone(), seen.clone());
    let _subscription = client
        .subscribe(CHANNEL, SubscribeOptions::default())
        .await
        .unwrap()
        .on_aspect_typed::<Said, _, _>("said", move |said, handled| {
            typed.note(said.map_or_else(|_| "not said".into(), |said| said.text));
            async move {
                let parent = handled.envelope().sequence();
                let sent = handled.publish_derived(Outgoing::new("reply")).await.unwrap();
                assert_eq!(sent.envelope.causation().parent_sequence, parent);
            }
        })
        .on_aspect("reply", move |handled| {
            let causation = handled.envelope().causation();
            child.note(format!("child of {} {}", causation.parent_channel, causation.parent_sequence));
            async {}
        })
        .start();
    client.publish(CHANNEL, Outgoing::new("said").payload(payload(r#"{"text":"hi"}"#))).await.unwrap();
    client.publish(CHANNEL, Outgoing::new("said").payload(payload(r#"{"text":42}"#))).await.unwrap();
    let mut seen = seen.wait(4).await;
    seen.sort();
    assert_eq!(seen, ["child of public:a.b.c 1", "child of public:a.b.c 2", "hi", "not said"]);
    client.close().await;
}

#[tokio::test]
async fn behaviour_06_a_strict_validator_rejects_in_sight() {
    let transport = MemoryTransport::new();
    let schemas = br#"[{"pattern":"public:**","aspects":{"said":{"payload_schema":{"type":"object","properties":{"text":{"type":"string"}}}}}}]"#;
    let validator = Validator::new(Registry::from_json(schemas).unwrap(), ValidatorMode::Strict);
    let strict = Client::builder(transport.clone()).producer(Producer::user("strict")).validator(validator);
    let (strict, free) = (strict.build().unwrap(), client(&transport));
    let mut items = strict.subscribe(CHANNEL, SubscribeOptions::default()).await.unwrap().items();
    for text in [r#"{"text":42}"#, r#"{"text":"ok"}"#] {
        free.publish(CHANNEL, Outgoing::new("said").payload(payload(text))).await.unwrap();
    }
    use futures_util::StreamExt;
    let mut next = async || items.next().await.unwrap().unwrap();
    assert!(matches!(next().await, Item::Subscribed { .. }));
    assert!(matches!(next().await, Item::Rejected { rejection, .. } if rejection.reason().contains(".text")));
    assert!(matches!(next().await, Item::Envelope(delivered) if delivered.envelope.sequence() == 2));
    // The publisher gets the error before anything is sent, and no number is used.
    let refused = strict.publish(CHANNEL, Outgoing::new("said").payload(payload(r#"{"text":1}"#))).await;
    assert_eq!(refused.unwrap_err().code(), "payload-invalid");
    let sent = strict.publish(CHANNEL, Outgoing::new("said").payload(payload(r#"{"text":"x"}"#))).await;
    assert_eq!(sent.unwrap().envelope.sequence(), 1);
}

#[derive(Clone, Default)]
struct Kept(Arc<Mutex<std::collections::BTreeMap<String, i64>>>);

impl SequenceSnapshotter for Kept {
    fn load(&self) -> Result<std::collections::BTreeMap<String, i64>, SnapshotError> {
        Ok(self.0.lock().unwrap().clone())
    }

    fn save(&self, snapshot: &std::collections::BTreeMap<String, i64>) -> Result<(), SnapshotError> {
        *self.0.lock().unwrap() = snapshot.clone();
        Ok(())
    }
}

#[tokio::test]
async fn behaviour_07_a_snapshot_is_where_counting_goes_on() {
    let kept = Kept::default();
    kept.0.lock().unwrap().insert(CHANNEL.into(), 5);
    let client = Client::builder(MemoryTransport::new())
        .producer(Producer::service("s"))
        .snapshotter(kept.clone())
        .build()
        .unwrap();
    assert_eq!(client.publish(CHANNEL, Outgoing::new("data")).await.unwrap().envelope.sequence(), 6);
    assert_eq!(kept.0.lock().unwrap()[CHANNEL], 6);
    // An envelope that is too large uses no number.
    let large = payload(&format!("\"{}\"", "x".repeat(70_000)));
    let refused = client.publish(CHANNEL, Outgoing::new("data").payload(large)).await.unwrap_err();
    assert_eq!(refused.code(), "envelope-too-large");
    assert_eq!(kept.0.lock().unwrap()[CHANNEL], 6);
    assert_eq!(client.publish(CHANNEL, Outgoing::new("data")).await.unwrap().envelope.sequence(), 7);
}

#[tokio::test]
async fn a_handler_that_panics_or_unsubscribes_leaves_the_others_working() {
    let client = client(&MemoryTransport::new());
    let seen = Seen::default();
    let (first, second) = (seen.clone(), seen.clone());
    let bad = client
        .subscribe(CHANNEL, SubscribeOptions::default())
        .await
        .unwrap()
        .on_envelope(
            |handled| async move { assert!(handled.envelope().sequence() > 100, "a handler's own bug") },
        )
        .on_envelope(move |handled| {
            first.note("after the panic");
            async move { handled.subscription().unsubscribe() }
        })
        .start();
    let _good = client
        .subscribe(CHANNEL, SubscribeOptions::default())
        .await
        .unwrap()
        .on_envelope(move |_| {
            second.note("good");
            async {}
        })
        .start();
    for _ in 0..3 {
        client.publish(CHANNEL, Outgoing::new("data")).await.unwrap();
    }
    bad.ended().await;
    assert_eq!(*bad.state().borrow(), SubscriptionState::Ended);
    let seen = seen.wait(4).await;
    assert_eq!(seen.iter().filter(|what| *what == "good").count(), 3);
    assert_eq!(seen.iter().filter(|what| *what == "after the panic").count(), 1);
    client.close().await;
    assert_eq!(client.tasks(), 0);
}

/// Calls that a minimal transport does not support give an error that names them.
#[tokio::test]
async fn what_a_transport_lacks_is_named() {
    let client = Client::builder(Minimal::default()).producer(Producer::service("s")).build().unwrap();
    let error = client.history(CHANNEL, &HistoryOptions::default()).await.unwrap_err();
    assert_eq!(error.to_string(), "not implemented: history over minimal");
    let error = client.presence(CHANNEL).await.unwrap_err();
    assert_eq!(error.to_string(), "not implemented: presence over minimal");
    assert_eq!(client.publish(CHANNEL, Outgoing::new("data")).await.unwrap().position, None);
}
