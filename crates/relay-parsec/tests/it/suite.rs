//! The tests that every transport must pass, run over each of them.

use std::sync::Arc;

use futures_util::StreamExt;
use relay_parsec::{
    Error, HistoryOptions, Item, Outgoing, PublishFailure, SubscribeOptions, SubscriptionState,
};
use relay_proto::parsec::{
    Envelope, MAX_ENVELOPE_BYTES, Payload, PayloadRef, Producer, Registry, Validator, ValidatorMode,
};
use tokio::sync::Notify;

use crate::seen::{LIMIT, all, brief, next, until};
use crate::worlds::{CHANNEL, KEPT, World, envelope};

macro_rules! over_each_transport {
    ($($case:ident),* $(,)?) => {
        over_each_transport!(@ memory: $($case),*);
        over_each_transport!(@ sse: $($case),*);
        over_each_transport!(@ websocket: $($case),*);
    };
    (@ $world:ident: $($case:ident),*) => {
        mod $world {
            $(#[tokio::test]
            async fn $case() {
                super::$case(super::World::$world().await).await;
            })*
        }
    };
}

over_each_transport! {
    payloads_come_out_as_they_went_in,
    two_subscriptions_on_one_channel_both_get_everything,
    filters_and_validators_make_no_gap,
    a_cut_loses_nothing_and_repeats_nothing,
    from_the_start_and_from_a_sequence,
    a_position_is_where_another_subscription_goes_on,
    a_trimmed_position_is_one_gap_with_its_count,
    a_foreign_position_and_one_from_the_future_are_gaps,
    a_gap_names_its_producer_and_comes_before_the_envelope,
    late_arrivals_are_dropped_in_sight,
    what_is_no_envelope_is_told_or_refused,
    the_largest_envelope_passes_and_one_byte_more_spends_nothing,
    history_and_presence,
    unsubscribe_and_close_leave_nothing_behind,
    close_while_publishing,
    handlers_that_panic_or_unsubscribe_leave_the_others_working,
    the_state_can_be_watched,
    a_derived_envelope_names_its_parent,
}

fn options() -> SubscribeOptions {
    SubscribeOptions::default()
}

async fn payloads_come_out_as_they_went_in(world: World) {
    let client = world.client("p");
    let mut items = client.subscribe(CHANNEL, options()).await.unwrap().items();
    assert_eq!(next(&mut items).await, "subscribed");
    let texts = [
        Some(r#"{"n":9007199254740993,"f":1.50,"h":"<&>\u00e9","z":[],"a":{}}"#),
        Some("null"),
        None,
        Some("-0.0"),
        Some("\"\""),
    ];
    for text in texts {
        let payload = text.map(|text| Payload::parse(text).unwrap());
        client.publish(CHANNEL, Outgoing::new("data").payload(payload)).await.unwrap();
    }
    for (sequence, text) in (1..).zip(texts) {
        let Some(Ok(Item::Envelope(delivered))) = items.next().await else { panic!("an envelope comes") };
        let envelope = &delivered.envelope;
        assert_eq!((envelope.sequence(), envelope.payload().map(PayloadRef::as_str)), (sequence, text));
        assert_eq!(delivered.position.unwrap().offset(), sequence as u64);
        let time = envelope.produced_at_text().unwrap();
        assert!(time.len() == 24 && time.ends_with('Z'), "{time}");
    }
}

async fn two_subscriptions_on_one_channel_both_get_everything(world: World) {
    let client = world.client("p");
    let mut first = client.subscribe(CHANNEL, options()).await.unwrap().items();
    let mut second = client.subscribe(CHANNEL, options()).await.unwrap().items();
    assert_eq!((next(&mut first).await, next(&mut second).await), ("subscribed".into(), "subscribed".into()));
    for sequence in 1..=3 {
        world.say("q", sequence).await;
    }
    for items in [&mut first, &mut second] {
        assert_eq!(until(items, "q3").await, ["q1@1", "q2@2", "q3@3"]);
    }
    // Dropping one subscription takes nothing from the other.
    drop(first);
    world.say("q", 4).await;
    assert_eq!(next(&mut second).await, "q4@4");
    // A later subscription begins at the present position, over the same subscription at the server.
    let mut third = client.subscribe(CHANNEL, options()).await.unwrap().items();
    assert_eq!(next(&mut third).await, "subscribed");
    world.say("q", 5).await;
    assert_eq!((next(&mut second).await, next(&mut third).await), ("q5@5".into(), "q5@5".into()));
    if let Some(server) = world.socket() {
        let subscribes = server.lines().iter().filter(|line| line.contains("subscribe")).count();
        assert_eq!((subscribes, server.connections()), (1, 1), "{:?}", server.lines());
    }
}

async fn filters_and_validators_make_no_gap(world: World) {
    let schemas =
        br#"[{"pattern":"public:**","aspects":{"a":{"payload_schema":{"type":"integer"}},"b":{}}}]"#;
    let validator = Validator::new(Registry::from_json(schemas).unwrap(), ValidatorMode::Strict);
    let strict = world.builder("s").validator(validator).build().unwrap();
    let client = world.client("p");
    let mut items = strict.subscribe(CHANNEL, options().aspect("a")).await.unwrap().items();
    assert_eq!(next(&mut items).await, "subscribed");
    for (aspect, payload) in [("a", "1"), ("b", "2"), ("a", "\"3\""), ("c", "4"), ("a", "5")] {
        let payload = Payload::parse(payload).unwrap();
        client.publish(CHANNEL, Outgoing::new(aspect).payload(payload)).await.unwrap();
    }
    let seen = until(&mut items, "p5").await;
    assert_eq!(seen, ["p1@1", "rejected p3 payload-invalid", "rejected p4 unsupported-aspect", "p5@5"]);
}

async fn a_cut_loses_nothing_and_repeats_nothing(world: World) {
    let client = world.client("p");
    let mut items = client.subscribe(CHANNEL, options()).await.unwrap().items();
    assert_eq!(next(&mut items).await, "subscribed");
    let mut sequence = 0;
    for _ in 0..4 {
        for _ in 0..3 {
            sequence += 1;
            world.say("q", sequence).await;
        }
        let seen = until(&mut items, &format!("q{sequence}@")).await;
        assert_eq!(seen.iter().filter(|item| item.starts_with('q')).count(), 3, "{seen:?}");
        assert!(seen.iter().all(|item| item.starts_with('q') || item == "resumed"), "{seen:?}");
        world.cut();
        sequence += 1;
        world.say("q", sequence).await;
        let seen = until(&mut items, &format!("q{sequence}@")).await;
        let expected = if world.connects() { &["resumed"][..] } else { &[] };
        assert_eq!(seen[..seen.len() - 1], *expected, "{seen:?}");
    }
}

async fn from_the_start_and_from_a_sequence(world: World) {
    for sequence in 1..=4 {
        world.say("q", sequence).await;
        world.say("r", sequence).await;
    }
    let client = world.client("p");
    let mut items = client.subscribe(CHANNEL, options().from_start(true)).await.unwrap().items();
    let seen = until(&mut items, "r4").await;
    assert_eq!(seen, ["subscribed", "q1@1", "r1@2", "q2@3", "r2@4", "q3@5", "r3@6", "q4@7", "r4@8"]);
    let mut items = client.subscribe(CHANNEL, options().from_sequence(3)).await.unwrap().items();
    assert_eq!(until(&mut items, "r4").await, ["subscribed", "q4@7", "r4@8"]);
    // The skipped envelopes were counted: no gap is reported for them.
    world.say("q", 5).await;
    assert_eq!(next(&mut items).await, "q5@9");
}

async fn a_position_is_where_another_subscription_goes_on(world: World) {
    let client = world.client("p");
    let mut items = client.subscribe(CHANNEL, options().from_start(true)).await.unwrap().items();
    assert_eq!(next(&mut items).await, "subscribed");
    for sequence in 1..=4 {
        world.say("q", sequence).await;
    }
    until(&mut items, "q2").await;
    let place = items.position().cloned().unwrap();
    assert_eq!(place.offset(), 2);
    drop(items);
    let other = world.client("o");
    let mut items = other.subscribe(CHANNEL, options().after(place)).await.unwrap().items();
    assert_eq!(until(&mut items, "q4").await, ["resumed", "q3@3", "q4@4"]);
}

async fn a_trimmed_position_is_one_gap_with_its_count(world: World) {
    let mut last = None;
    for sequence in 1..=30 {
        last = world.publish(envelope("q", sequence)).await.unwrap().position;
    }
    let after = last.unwrap().at(3);
    let client = world.client("p");
    let mut items = client.subscribe(CHANNEL, options().after(after)).await.unwrap().items();
    assert_eq!(next(&mut items).await, "resumed");
    // The server of this project continues with the oldest retained envelope; one that embeds centrifuge continues with
    // new ones.
    let lost = if world.socket().is_some() { 27 } else { 30 - KEPT - 3 };
    assert_eq!(next(&mut items).await, format!("gap trimmed {lost}"));
    for sequence in 4 + lost..=30 {
        assert_eq!(next(&mut items).await, format!("q{sequence}@{sequence}"));
    }
    world.say("q", 31).await;
    assert_eq!(next(&mut items).await, "q31@31");
}

async fn a_foreign_position_and_one_from_the_future_are_gaps(world: World) {
    let last = world.publish(envelope("q", 1)).await.unwrap().position.unwrap();
    let client = world.client("p");
    for (after, expected) in
        [("other.7".parse().unwrap(), "gap epoch-changed ?"), (last.at(99), "gap unknown-position ?")]
    {
        let mut items = client.subscribe(CHANNEL, options().after(after)).await.unwrap().items();
        assert_eq!([next(&mut items).await, next(&mut items).await], ["resumed", expected]);
    }
}

async fn a_gap_names_its_producer_and_comes_before_the_envelope(world: World) {
    let client = world.client("p");
    let mut items = client.subscribe(CHANNEL, options()).await.unwrap().items();
    assert_eq!(next(&mut items).await, "subscribed");
    for (producer, sequence) in [("q", 7), ("r", 1), ("q", 8), ("r", 5), ("q", 10), ("q", 11)] {
        world.say(producer, sequence).await;
    }
    assert_eq!(
        until(&mut items, "q11").await,
        [
            "q7@1",
            "r1@2",
            "q8@3",
            "gap sequence 3 of r 2-4",
            "r5@4",
            "gap sequence 1 of q 9-9",
            "q10@5",
            "q11@6"
        ]
    );
    // The highest numbers are kept over connections.
    world.cut();
    world.say("r", 7).await;
    let seen = until(&mut items, "r7").await;
    assert_eq!(seen[seen.len() - 2..], ["gap sequence 1 of r 6-6", "r7@7"]);
}

async fn late_arrivals_are_dropped_in_sight(world: World) {
    let client = world.client("p");
    let mut items = client.subscribe(CHANNEL, options()).await.unwrap().items();
    assert_eq!(next(&mut items).await, "subscribed");
    world.say("q", 1).await;
    world.say("q", 3).await;
    if world.takes_anything() {
        world.say("q", 2).await;
        world.say("q", 3).await;
    } else {
        // The server of this project accepts each number once. It accepts the same text again only to tell its
        // position.
        let Err(PublishFailure::Refused(Error::Refused { problem, .. })) =
            world.publish(envelope("q", 2)).await
        else {
            panic!("the server refuses")
        };
        assert_eq!((problem.status, &problem.members["last_sequence"]), (409, &3.into()));
        let again = world.publish(envelope("q", 3)).await.unwrap();
        assert!(again.duplicate && again.position.unwrap().offset() == 2);
    }
    world.say("q", 4).await;
    let seen = until(&mut items, "q4").await;
    let late = if world.takes_anything() { &["duplicate q2<=3", "duplicate q3<=3"][..] } else { &[] };
    assert_eq!(seen[..3], ["q1@1", "gap sequence 1 of q 2-2", "q3@2"]);
    assert_eq!(seen[3..seen.len() - 1], *late);
}

async fn what_is_no_envelope_is_told_or_refused(world: World) {
    let client = world.client("p");
    let mut items = client.subscribe(CHANNEL, options()).await.unwrap().items();
    assert_eq!(next(&mut items).await, "subscribed");
    let texts = ["[]", "\"text\"", "{}", r#"{"aspect":"a","producer":{"id":"q"},"sequence":1.5}"#];
    for text in texts {
        match world.publish(text).await {
            Ok(_) => assert!(world.takes_anything(), "{text}"),
            Err(PublishFailure::Refused(Error::Refused { problem, .. })) => {
                assert_eq!((problem.status, problem.code.as_deref()), (400, Some("bad-envelope")), "{text}");
            }
            Err(other) => panic!("{other:?}"),
        }
    }
    world.say("q", 1).await;
    let seen = until(&mut items, "q1").await;
    if world.takes_anything() {
        assert_eq!(
            seen,
            [
                "undecodable@1: not a JSON object",
                "undecodable@2: not a JSON object",
                "undecodable@3: aspect is required",
                "undecodable@4: sequence is not a whole number below 2^63",
                "q1@5",
            ]
        );
    } else {
        assert_eq!(seen, ["q1@1"]);
    }
}

async fn the_largest_envelope_passes_and_one_byte_more_spends_nothing(world: World) {
    let client = world.client("p");
    let mut items = client.subscribe(CHANNEL, options()).await.unwrap().items();
    assert_eq!(next(&mut items).await, "subscribed");
    let empty = Envelope::new(CHANNEL, "data", Producer::service("p"))
        .with_sequence(1)
        .with_produced_at_millis(0)
        .with_payload(Payload::parse("\"\"").unwrap());
    let room = MAX_ENVELOPE_BYTES - empty.to_json().len();
    let of = |bytes: usize| {
        Outgoing::new("data").payload(Payload::parse(&format!("\"{}\"", "x".repeat(bytes))).unwrap())
    };
    let error = client.publish(CHANNEL, of(room + 1)).await.unwrap_err().to_string();
    assert!(error.contains("65537") && error.contains("65536"), "{error}");
    assert_eq!(client.publish(CHANNEL, of(room)).await.unwrap().envelope.sequence(), 1);
    assert_eq!(next(&mut items).await, "p1@1");
    if !world.takes_anything() {
        let larger = format!("{} ", envelope("q", 1))
            .replace("\"payload\":1", &format!("\"payload\":\"{}\"", "x".repeat(70_000)));
        let Err(PublishFailure::Refused(Error::Refused { problem, .. })) =
            world.publish(larger.clone()).await
        else {
            panic!("the server refuses")
        };
        assert_eq!((problem.status, problem.code.as_deref()), (413, Some("envelope-too-large")));
        let detail = problem.detail.unwrap();
        assert!(detail.contains(&larger.len().to_string()) && detail.contains("65536"), "{detail}");
    }
}

async fn history_and_presence(world: World) {
    for sequence in 1..=5 {
        world.say("q", sequence).await;
        world.say("r", sequence).await;
    }
    let client = world.client("p");
    let mut items = client.subscribe(CHANNEL, options()).await.unwrap().items();
    assert_eq!(next(&mut items).await, "subscribed");
    if world.socket().is_some() {
        let error = client.history(CHANNEL, &HistoryOptions::default()).await.unwrap_err();
        assert_eq!(error.to_string(), "not implemented: history over websocket");
        let presence = client.presence(CHANNEL).await.unwrap();
        assert!(!presence.named && presence.entries.is_empty());
        return;
    }
    let numbers = async |options: HistoryOptions| -> Vec<String> {
        let items = client.history(CHANNEL, &options).await.unwrap();
        let number = |item: &relay_parsec::HistoryItem| {
            let envelope = item.envelope.as_ref().unwrap();
            format!("{}{}", envelope.producer().id(), envelope.sequence())
        };
        items.iter().map(number).collect()
    };
    let all = HistoryOptions::default();
    assert_eq!(numbers(all.clone()).await.len(), 10);
    assert_eq!(numbers(all.clone().since(1).until(3).producer("q")).await, ["q2", "q3"]);
    assert_eq!(numbers(all.clone().since(0).until(0).limit(3)).await, ["r4", "q5", "r5"]);
    assert_eq!(numbers(all.clone().until(2)).await, ["q1", "r1", "q2", "r2"]);
    let presence = client.presence(CHANNEL).await.unwrap();
    assert_eq!((presence.subscribers, presence.named, &*presence.entries[0].user_id), (1, true, "anonymous"));
}

async fn unsubscribe_and_close_leave_nothing_behind(world: World) {
    let client = world.client("p");
    let subscription = client.subscribe(CHANNEL, options()).await.unwrap().on_envelope(|_| async {}).start();
    let mut items = client.subscribe(CHANNEL, options()).await.unwrap().items();
    assert_eq!(next(&mut items).await, "subscribed");
    assert_eq!(client.tasks(), 1);
    subscription.unsubscribe();
    tokio::time::timeout(LIMIT, subscription.ended()).await.unwrap();
    tokio::time::timeout(LIMIT, client.close()).await.unwrap();
    assert_eq!(client.tasks(), 0);
    assert_eq!(all(&mut items).await, Vec::<String>::new());
    // The end is final, and later calls return it.
    assert!(matches!(client.connect().await, Err(Error::Closed)));
    assert!(matches!(client.publish(CHANNEL, Outgoing::new("data")).await, Err(Error::Closed)));
    assert!(matches!(client.subscribe(CHANNEL, options()).await, Err(Error::Closed)));
    assert!(matches!(client.history(CHANNEL, &HistoryOptions::default()).await, Err(Error::Closed)));
    client.close().await;
    if let Some(server) = world.socket() {
        server.over(1).await;
    }
}

async fn close_while_publishing(world: World) {
    let client = world.client("p");
    let begun = Arc::new(Notify::new());
    let publishing: Vec<_> = (0..8)
        .map(|_| {
            let (client, begun) = (client.clone(), begun.clone());
            tokio::spawn(async move {
                loop {
                    match client.publish(CHANNEL, Outgoing::new("data")).await {
                        Ok(_) => begun.notify_one(),
                        Err(error) => return error,
                    }
                }
            })
        })
        .collect();
    tokio::time::timeout(LIMIT, begun.notified()).await.unwrap();
    tokio::time::timeout(LIMIT, client.close()).await.unwrap();
    for publishing in publishing {
        let error = tokio::time::timeout(LIMIT, publishing).await.unwrap().unwrap();
        assert!(matches!(error, Error::Closed), "{error}");
    }
    assert_eq!(client.tasks(), 0);
}

async fn handlers_that_panic_or_unsubscribe_leave_the_others_working(world: World) {
    let client = world.client("p");
    let (sender, mut heard) = tokio::sync::mpsc::channel::<String>(64);
    let tell = |name: &'static str| {
        let sender = sender.clone();
        move |handled: relay_parsec::Handled| {
            let (sender, line) = (sender.clone(), format!("{name}{}", handled.envelope().sequence()));
            async move { sender.send(line).await.unwrap() }
        }
    };
    let panics = client
        .subscribe(CHANNEL, options())
        .await
        .unwrap()
        .on_envelope(
            |handled| async move { assert!(handled.envelope().sequence() > 100, "a handler's own bug") },
        )
        .on_envelope(tell("after"))
        .start();
    let leaves = client
        .subscribe(CHANNEL, options())
        .await
        .unwrap()
        .on_envelope(|handled| async move { handled.subscription().unsubscribe() })
        .start();
    let stays = client.subscribe(CHANNEL, options()).await.unwrap().on_envelope(tell("stays")).start();
    for subscription in [&panics, &leaves, &stays] {
        let mut state = subscription.state();
        let live = state.wait_for(|state| *state == SubscriptionState::Live);
        tokio::time::timeout(LIMIT, live).await.unwrap().unwrap();
    }
    assert_eq!(client.tasks(), 3);
    world.say("q", 1).await;
    tokio::time::timeout(LIMIT, leaves.ended()).await.unwrap();
    world.say("q", 2).await;
    let mut lines = Vec::new();
    while lines.len() < 4 {
        lines.push(tokio::time::timeout(LIMIT, heard.recv()).await.unwrap().unwrap());
    }
    lines.sort();
    assert_eq!(lines, ["after1", "after2", "stays1", "stays2"]);
    tokio::time::timeout(LIMIT, client.close()).await.unwrap();
    assert_eq!(client.tasks(), 0);
}

async fn the_state_can_be_watched(world: World) {
    let client = world.client("p");
    let mut items = client.subscribe(CHANNEL, options()).await.unwrap().items();
    let state = items.state();
    assert_eq!(*state.borrow(), SubscriptionState::Connecting);
    assert_eq!(next(&mut items).await, "subscribed");
    assert_eq!(*state.borrow(), SubscriptionState::Live);
    if world.connects() {
        let mut watched = state.clone();
        world.cut();
        let mut waited = false;
        loop {
            tokio::select! {
                biased;
                _ = watched.wait_for(|state| *state == SubscriptionState::Waiting), if !waited => waited = true,
                item = next(&mut items) => {
                    assert_eq!(item, "resumed");
                    break;
                }
            }
        }
        assert!(waited);
        assert_eq!(*state.borrow(), SubscriptionState::Live);
    }
    drop(items);
    assert_eq!(*state.borrow(), SubscriptionState::Ended);
}

async fn a_derived_envelope_names_its_parent(world: World) {
    let client = world.client("p");
    let mut items = client.subscribe(CHANNEL, options()).await.unwrap().items();
    assert_eq!(next(&mut items).await, "subscribed");
    let subscription = client
        .subscribe(CHANNEL, options())
        .await
        .unwrap()
        .on_aspect("ask", |handled| async move {
            // The derived envelopes, made from the envelope or from its subscription, both name the envelope that is
            // being handled.
            handled.publish_derived(Outgoing::new("one")).await.unwrap();
            handled.subscription().publish_derived(Outgoing::new("two")).await.unwrap();
        })
        .start();
    let root = subscription.publish_derived(Outgoing::new("root")).await.unwrap();
    assert!(root.envelope.causation().is_root(), "nothing was handed over yet");
    let mut state = subscription.state();
    state.wait_for(|state| *state == SubscriptionState::Live).await.unwrap();
    client.publish(CHANNEL, Outgoing::new("ask")).await.unwrap();
    let mut derived = Vec::new();
    while derived.len() < 4 {
        let Some(Ok(item)) = items.next().await else { panic!("it goes on") };
        let Item::Envelope(delivered) = &item else { panic!("{}", brief(&item)) };
        let (envelope, cause) = (&delivered.envelope, delivered.envelope.causation());
        derived.push(format!("{} of {}{}", envelope.aspect(), cause.parent_channel, cause.parent_sequence));
    }
    let parent = format!("of {CHANNEL}2");
    assert_eq!(
        derived,
        ["root of 0".into(), "ask of 0".into(), format!("one {parent}"), format!("two {parent}")]
    );
}
