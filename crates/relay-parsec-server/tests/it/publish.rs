//! Which envelopes are accepted, which are refused, and with which message.

use crate::raw::{CHANNEL, Rig, envelope, envelope_of};

#[tokio::test]
async fn what_is_taken_is_told_its_place() {
    let rig = Rig::start().await;
    for (sequence, offset) in [(3, 1), (4, 2), (9, 3)] {
        let answer = rig.publish(&envelope("p", sequence)).await;
        assert_eq!(answer.status(), 200);
        let receipt = answer.json();
        let epoch = receipt["epoch"].as_str().unwrap();
        assert!((1..=32).contains(&epoch.len()), "{epoch}");
        assert!(epoch.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte)), "{epoch}");
        assert_eq!(receipt["position"], format!("{epoch}.{offset}"));
        assert_eq!((&receipt["offset"], &receipt["duplicate"]), (&offset.into(), &false.into()));
    }
    // Offsets count the envelopes of all producers; sequences belong to each producer.
    assert!(rig.say("q", 1).await.ends_with(".4"));
}

/// The order in which the rules are checked. Each error names the member.
#[tokio::test]
async fn the_first_broken_rule_is_named() {
    let rig = Rig::start().await;
    let good = envelope("p", 1);
    for (bad, words) in [
        (String::new(), "JSON"),
        ("{".into(), "JSON"),
        ("nope".into(), "JSON"),
        (format!("{good}x"), "JSON"),
        ("[]".into(), "not a JSON object"),
        ("\"text\"".into(), "not a JSON object"),
        ("null".into(), "not a JSON object"),
        ("{}".into(), "channel"),
        (good.replace("\"aspect\":\"said\"", "\"aspect\":\"\""), "aspect"),
        (good.replace("\"id\":\"p\"", "\"id\":\"\""), "producer.id"),
        (good.replace("service", "robot"), "producer.kind"),
        (good.replace("\"sequence\":1", "\"sequence\":0"), "sequence"),
        (good.replace("\"sequence\":1", "\"sequence\":-1"), "sequence"),
        (good.replace("\"sequence\":1", "\"sequence\":1.5"), "sequence"),
        (good.replace("\"sequence\":1", "\"sequence\":\"1\""), "sequence"),
        (good.replace("\"sequence\":1", "\"sequence\":9223372036854775808"), "sequence"),
        (good.replace("\"sequence\":1,", ""), "sequence"),
        (good.replace("2026-05-27T14:22:09.331Z", "yesterday"), "produced_at"),
        (good.replace("2026-05-27T14:22:09.331Z", ""), "produced_at"),
        (good.replace(CHANNEL, "public:other.one"), "channel"),
        // If two rules are broken, the first one is named: the order is channel, aspect, producer, kind, sequence,
        // time.
        (good.replace("service", "robot").replace("\"sequence\":1", "\"sequence\":0"), "producer.kind"),
        (good.replace("\"id\":\"p\"", "\"id\":\"\"").replace("said", ""), "aspect"),
    ] {
        let answer = rig.publish(&bad).await;
        answer.is_problem(400, "bad-envelope", &[words]);
    }
    // None of them was accepted, and the channel does not exist yet.
    rig.get(&format!("/parsec/history?channel={CHANNEL}")).await.is_problem(404, "not-found", &[CHANNEL]);
    let answer = rig.ask("POST", &format!("/parsec/publish?channel={CHANNEL}"), &[], b"\xff\xfe{}").await;
    answer.is_problem(400, "bad-envelope", &["UTF-8"]);
}

#[tokio::test]
async fn the_limit_is_65536_bytes() {
    let rig = Rig::start().await;
    let room = 65_536 - envelope_of(CHANNEL, "p", 1, "\"\"").len();
    let of = |bytes: usize| envelope_of(CHANNEL, "p", 1, &format!("\"{}\"", "x".repeat(bytes)));
    rig.publish(&of(room + 1)).await.is_problem(413, "envelope-too-large", &["65537", "65536"]);
    assert_eq!(rig.publish(&of(room)).await.status(), 200);
    rig.publish(&of(2 << 20)).await.is_problem(413, "body-too-large", &["1048576"]);
}

#[tokio::test]
async fn a_number_is_taken_once_and_a_retry_is_told_its_place() {
    let rig = Rig::start().await;
    let mut stream = rig.stream(CHANNEL).await;
    stream.event("connected").await;
    let first = rig.say("p", 5).await;
    let again = rig.publish(&envelope("p", 5)).await.json();
    assert_eq!((again["duplicate"].as_bool(), again["position"].as_str()), (Some(true), Some(&*first)));
    // Another text with the same number, or a lower number.
    for (sequence, payload) in [(5, "2"), (4, "1")] {
        let answer = rig.publish(&envelope_of(CHANNEL, "p", sequence, payload)).await;
        answer.is_problem(
            409,
            "sequence-conflict",
            &[CHANNEL, "\"p\"", &format!("sequence {sequence}"), "5"],
        );
        assert_eq!(answer.json()["last_sequence"], 5);
    }
    rig.say("p", 6).await;
    // Subscribers got each envelope once.
    assert_eq!(stream.event("envelope").await.1["sequence"], 5);
    assert_eq!(stream.event("envelope").await.1["sequence"], 6);
}

#[tokio::test]
async fn an_envelope_stays_as_its_bytes() {
    let rig = Rig::start().await;
    let payload = r#"{"n":9007199254740993,"f":1.50,"e":"\u00e9<&>","z":null}"#;
    let text = envelope_of(CHANNEL, "p", 1, payload).replace("{\"channel\"", "{\"later\":[1,2],\"channel\"");
    assert_eq!(rig.publish(&text).await.status(), 200);
    let lines = envelope_of(CHANNEL, "p", 2, "{\n \"a\": 1,\r\n\t\"b\": [\r2]}");
    assert_eq!(rig.publish(&lines).await.status(), 200);
    let mut stream = rig.stream(&format!("{CHANNEL}&start=oldest")).await;
    stream.event("connected").await;
    let block = stream.block().await.unwrap();
    assert!(block.ends_with(&format!("data: {text}\n\n")), "{block}");
    // A line end between tokens becomes the start of another `data:` line.
    assert_eq!(stream.event("envelope").await.1["payload"], serde_json::json!({"a": 1, "b": [2]}));
    let history = rig.get(&format!("/parsec/history?channel={CHANNEL}")).await.body;
    assert!(history.contains(&text), "{history}");
}
