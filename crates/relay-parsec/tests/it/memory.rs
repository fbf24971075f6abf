//! Limits and positions within a process.

use futures_util::StreamExt;
use relay_parsec::{Client, Item, Items, MemoryTransport, Outgoing, SubscribeOptions};
use relay_proto::parsec::Producer;

const CHANNEL: &str = "public:a.b";

async fn publish(client: &Client, count: usize) {
    for _ in 0..count {
        client.publish(CHANNEL, Outgoing::new("data")).await.unwrap();
    }
}

/// The items that are ready now, as short texts.
fn drain(items: &mut Items) -> Vec<String> {
    let mut seen = Vec::new();
    while let Some(Some(item)) = futures_util::FutureExt::now_or_never(items.next()) {
        seen.push(match item.unwrap() {
            Item::Subscribed { resumed, .. } => format!("subscribed {resumed}"),
            Item::Envelope(delivered) => format!("#{}", delivered.envelope.sequence()),
            Item::Gap(gap) => format!("gap {} {:?}", gap.cause, gap.missing),
            Item::Lag { dropped, .. } => format!("lag {dropped}"),
            other => format!("{other:?}"),
        });
    }
    seen
}

fn client(transport: MemoryTransport) -> Client {
    Client::builder(transport).producer(Producer::agent("a")).build().unwrap()
}

#[tokio::test]
async fn a_subscriber_that_does_not_read_loses_the_oldest_in_sight_and_nobody_else_does() {
    let client = client(MemoryTransport::new().queue(8));
    let mut slow = client.subscribe(CHANNEL, SubscribeOptions::default()).await.unwrap().items();
    let mut quick = client.subscribe(CHANNEL, SubscribeOptions::default()).await.unwrap().items();
    let mut seen = Vec::new();
    for _ in 0..5 {
        publish(&client, 4).await;
        seen.extend(drain(&mut quick));
    }
    assert_eq!(seen.len(), 21, "{seen:?}");
    let slow = drain(&mut slow);
    assert_eq!(slow[..3], ["subscribed false", "lag 12", "#13"]);
    assert_eq!(slow.last().unwrap(), "#20");
}

#[tokio::test]
async fn history_is_replayed_however_long_it_is() {
    let client = client(MemoryTransport::new().queue(8).retain(100, 1 << 20));
    publish(&client, 50).await;
    let mut items =
        client.subscribe(CHANNEL, SubscribeOptions::default().from_start(true)).await.unwrap().items();
    publish(&client, 4).await;
    assert_eq!(drain(&mut items).len(), 55);
    let place = items.position().unwrap().clone();
    publish(&client, 2).await;
    let options = SubscribeOptions::default().after(place);
    let mut resumed = client.subscribe(CHANNEL, options).await.unwrap().items();
    assert_eq!(drain(&mut resumed), ["subscribed true", "#55", "#56"]);
    let options = SubscribeOptions::default().from_sequence(54);
    let mut from = client.subscribe(CHANNEL, options).await.unwrap().items();
    assert_eq!(drain(&mut from), ["subscribed false", "#55", "#56"]);
    let entries = client.presence(CHANNEL).await.unwrap().entries;
    assert_eq!(entries.len(), 3);
    drop((items, resumed, from));
    assert_eq!(client.presence(CHANNEL).await.unwrap().subscribers, 0);
}

#[tokio::test]
async fn a_position_that_is_gone_foreign_or_ahead_is_a_gap_with_its_cause() {
    let client = client(MemoryTransport::new().queue(1).retain(4, 1 << 20));
    publish(&client, 10).await;
    let items =
        client.subscribe(CHANNEL, SubscribeOptions::default().from_start(true)).await.unwrap().items();
    drop(items);
    let history = client.history(CHANNEL, &Default::default()).await.unwrap();
    let head = history.last().unwrap().position.clone().unwrap();
    for (after, expected) in [
        (head.at(2), "gap trimmed Some(4)"),
        (head.at(99), "gap unknown-position None"),
        ("other.3".parse().unwrap(), "gap epoch-changed None"),
    ] {
        let options = SubscribeOptions::default().after(after);
        let mut items = client.subscribe(CHANNEL, options).await.unwrap().items();
        let seen = drain(&mut items);
        assert_eq!(seen[..2], ["subscribed true", expected]);
        assert_eq!(seen[2..], ["#7", "#8", "#9", "#10"]);
    }
}
