//! Limits of streams, channels, retained envelopes and producers, and what is removed first.

use std::time::Duration;

use relay_parsec_server::{ParsecServer, ServerConfig};

use crate::raw::{CHANNEL, Rig, envelope, envelope_of};

#[tokio::test]
async fn streams_and_channels_are_counted() {
    let rig = Rig::with(ServerConfig::default().max_streams(2_usize).max_channels(2_usize)).await;
    let first = rig.stream(CHANNEL).await;
    let _second = rig.stream("public:c.d").await;
    let refused = rig.get(&format!("/parsec/stream?channel={CHANNEL}")).await;
    refused.is_problem(429, "too-many-streams", &["2"]);
    assert!(refused.header("retry-after").is_some());
    let refused = rig.publish_to("public:e.f", &envelope_of("public:e.f", "p", 1, "1")).await;
    refused.is_problem(429, "too-many-channels", &["2"]);
    assert!(refused.header("retry-after").is_some());
    // The place of a closed stream can be used again.
    drop(first);
    rig.until("/health", |health| health["subscribers"] == 1).await;
    let mut again = rig.stream(CHANNEL).await;
    again.event("connected").await;
}

#[tokio::test]
async fn a_channel_keeps_its_newest() {
    let rig = Rig::with(ServerConfig::default().retain_events(3_u64)).await;
    for sequence in 1..=5 {
        rig.say("p", sequence).await;
    }
    let page = rig.get(&format!("/parsec/history?channel={CHANNEL}")).await.json();
    assert_eq!((&page["head"], &page["oldest"]), (&5.into(), &3.into()));
    assert_eq!(page["envelopes"].as_array().unwrap().len(), 3);
    // A number stays used after its envelope was dropped, and then a retry cannot be compared with it.
    rig.publish(&envelope("p", 1)).await.is_problem(409, "sequence-conflict", &["5"]);
    assert_eq!(rig.publish(&envelope("p", 5)).await.json()["duplicate"], true);
}

#[tokio::test]
async fn the_channel_with_the_oldest_envelope_gives_first() {
    let rig = Rig::with(ServerConfig::default().retain_bytes(100_000_u64)).await;
    let payload = format!("\"{}\"", "x".repeat(10_000));
    let say = |channel: &'static str, sequence| {
        let (rig, text) = (&rig, envelope_of(channel, "p", sequence, &payload));
        async move { assert_eq!(rig.publish_to(channel, &text).await.status(), 200) }
    };
    for sequence in 1..=5 {
        say("public:old.one", sequence).await;
    }
    // Waits until the clock of the log has advanced.
    tokio::time::sleep(Duration::from_millis(5)).await;
    for sequence in 1..=8 {
        say("public:new.one", sequence).await;
    }
    let channels = rig.get("/parsec/channels").await.json();
    let retained = |at: usize| channels["channels"][at]["retained"].as_u64().unwrap();
    assert_eq!(channels["channels"][0]["channel"], "public:new.one");
    assert_eq!(retained(0), 8);
    assert!(retained(1) < 5, "{channels}");
    assert!(rig.get("/health").await.json()["retained_bytes"].as_u64().unwrap() <= 100_000);
}

/// An empty channel without subscribers is removed, and gets a new epoch when it is used again.
#[tokio::test]
async fn age_empties_a_channel_and_an_empty_one_is_forgotten() {
    let rig = Rig::with(ServerConfig::default().retain_age(Duration::from_millis(500))).await;
    let first = rig.say("p", 7).await;
    let mut stream = rig.stream(CHANNEL).await;
    stream.event("connected").await;
    let empty = rig.until("/parsec/channels", |list| list["channels"][0]["retained"] == 0).await;
    assert_eq!((&empty["channels"][0]["head"], &empty["channels"][0]["subscribers"]), (&1.into(), &1.into()));
    let page = rig.get(&format!("/parsec/history?channel={CHANNEL}")).await.json();
    assert_eq!((&page["head"], &page["oldest"]), (&1.into(), &serde_json::Value::Null));
    drop(stream);
    rig.until("/parsec/channels", |list| list["channels"] == serde_json::json!([])).await;
    rig.get(&format!("/parsec/presence?channel={CHANNEL}")).await.is_problem(404, "not-found", &[CHANNEL]);
    // The numbers of its producers are removed with it.
    let again = rig.say("p", 1).await;
    assert_ne!(first.rsplit_once('.').unwrap().0, again.rsplit_once('.').unwrap().0);
    let mut stream = rig.stream(&format!("{CHANNEL}&after={first}")).await;
    stream.event("connected").await;
    assert_eq!(stream.event("gap").await.1["reason"], "epoch-changed");
}

/// A subscriber of a quiet channel that was disconnected for a moment finds the same channel.
#[tokio::test]
async fn a_quiet_channel_waits_for_its_listeners() {
    let rig = Rig::start().await;
    let mut stream = rig.stream(CHANNEL).await;
    let place = stream.event("connected").await.1["resumes_after"].as_str().unwrap().to_owned();
    drop(stream);
    rig.until("/health", |health| health["subscribers"] == 0).await;
    // This is longer than the interval at which the server removes channels.
    tokio::time::sleep(Duration::from_millis(2200)).await;
    let mut stream = rig.stream(&format!("{CHANNEL}&after={place}")).await;
    assert_eq!(stream.event("connected").await.1["resumes_after"], place);
    rig.say("p", 1).await;
    assert_eq!(stream.event("envelope").await.1["sequence"], 1);
}

#[tokio::test]
async fn the_producer_that_published_longest_ago_is_forgotten_first() {
    let rig = Rig::with(ServerConfig::default().max_producers(2_usize)).await;
    rig.say("first", 9).await;
    rig.say("second", 9).await;
    rig.say("first", 10).await;
    rig.say("third", 1).await;
    // `second` published longest ago and was forgotten, so its next number counts as the first.
    rig.say("second", 1).await;
    rig.publish(&envelope("third", 1).replace("\"x\"", "2")).await.is_problem(
        409,
        "sequence-conflict",
        &["third"],
    );
}

#[tokio::test]
async fn settings_have_their_range() {
    for config in [
        ServerConfig::default().heartbeat(Duration::ZERO),
        ServerConfig::default().retain_events(0_u64),
        ServerConfig::default().max_channels(0_usize),
    ] {
        let error = ParsecServer::bind("127.0.0.1:0".parse().unwrap(), config).await.unwrap_err();
        assert!(error.to_string().contains("above 0"), "{error}");
    }
}
