//! All other endpoints, and every wrong parameter.

use relay_parsec_server::ServerConfig;
use relay_proto::parsec::{Registry, ValidatorMode};
use serde_json::json;

use crate::raw::{CHANNEL, Rig, envelope_of};

#[tokio::test]
async fn history_is_the_newest_that_match() {
    let rig = Rig::start().await;
    for sequence in 1..=120 {
        rig.say(if sequence % 2 == 0 { "even" } else { "odd" }, sequence).await;
    }
    let base = format!("/parsec/history?channel={CHANNEL}");
    for (query, count, first) in [
        ("", 100, 21),
        ("&limit=3", 3, 118),
        ("&limit=1000", 120, 1),
        ("&since=118", 2, 119),
        ("&until=2", 2, 1),
        ("&since=0&until=0&limit=1", 1, 120),
        ("&since=&until=&producer=", 100, 21),
        ("&producer=odd&limit=2", 2, 117),
        ("&since=3&until=9&producer=even", 3, 4),
        ("&producer=none", 0, 0),
    ] {
        let page = rig.get(&format!("{base}{query}")).await.json();
        let envelopes = page["envelopes"].as_array().unwrap();
        assert_eq!(envelopes.len(), count, "{query}");
        assert_eq!(
            (&page["channel"], &page["head"], &page["oldest"]),
            (&json!(CHANNEL), &json!(120), &json!(1))
        );
        let sequences: Vec<i64> =
            envelopes.iter().map(|entry| entry["envelope"]["sequence"].as_i64().unwrap()).collect();
        assert!(sequences.is_sorted(), "oldest first: {sequences:?}");
        assert_eq!(sequences.first().copied().unwrap_or(0), first, "{query}");
        for entry in envelopes {
            let place = format!("{}.{}", page["epoch"].as_str().unwrap(), entry["envelope"]["sequence"]);
            assert_eq!(entry["position"], place);
        }
    }
    // This channel exists and is empty.
    let _stream = rig.stream("public:empty.one").await;
    let page = rig.get("/parsec/history?channel=public:empty.one").await.json();
    assert_eq!((&page["head"], &page["oldest"], &page["envelopes"]), (&json!(0), &json!(null), &json!([])));
}

#[tokio::test]
async fn parameters_are_checked_and_named() {
    let rig = Rig::start().await;
    let long = format!("public:a.{}", "b".repeat(300));
    let info = format!("&conn_info=%22{}%22", "x".repeat(1023));
    for (target, words) in [
        ("/parsec/stream", "channel"),
        ("/parsec/stream?channel=", "channel"),
        ("/parsec/stream?channel=public:a.b&channel=public:a.b", "channel"),
        ("/parsec/stream?channel=public:A.b", "channel"),
        ("/parsec/stream?channel=public:a", "channel"),
        ("/parsec/stream?channel=public:a.b.c.d.e", "channel"),
        ("/parsec/stream?channel=private:a.b", "channel"),
        ("/parsec/stream?channel=a.b", "channel"),
        ("/parsec/stream?channel=public:a.b%0D%0A", "channel"),
        ("/parsec/stream?channel=public:a.%25", "channel"),
        ("/parsec/stream?channel=public:a/b.c", "channel"),
        ("/parsec/stream?channel=public:a.b:c", "channel"),
        (&format!("/parsec/stream?channel={long}"), "channel"),
        ("/parsec/stream?channel=public:a.b&start=middle", "start"),
        ("/parsec/stream?channel=public:a.b&start=oldest&start=oldest", "start"),
        ("/parsec/stream?channel=public:a.b&after=e.1&after=e.2", "after"),
        ("/parsec/stream?channel=public:a.b&conn_info=%7B", "conn_info"),
        (&format!("/parsec/stream?channel=public:a.b{info}"), "conn_info"),
        ("/parsec/stream?channel=public:a.b&client_id=a%20b", "client_id"),
        (&format!("/parsec/stream?channel=public:a.b&client_id={}", "x".repeat(129)), "client_id"),
        ("/parsec/history?channel=public:a.b&limit=0", "limit"),
        ("/parsec/history?channel=public:a.b&limit=1001", "limit"),
        ("/parsec/history?channel=public:a.b&limit=", "limit"),
        ("/parsec/history?channel=public:a.b&limit=1.5", "limit"),
        ("/parsec/history?channel=public:a.b&limit=1&limit=1", "limit"),
        ("/parsec/history?channel=public:a.b&since=-1", "since"),
        ("/parsec/history?channel=public:a.b&until=9223372036854775808", "until"),
        ("/parsec/history?channel=public:a.b&producer=a&producer=b", "producer"),
        ("/parsec/history", "channel"),
        ("/parsec/presence?channel=x", "channel"),
    ] {
        rig.get(target).await.is_problem(400, "bad-parameter", &[words]);
    }
    rig.ask("POST", "/parsec/publish", &[], b"{}").await.is_problem(400, "bad-parameter", &["channel"]);
    // Unknown parameters are ignored, and an empty one counts as absent.
    let mut stream = rig.stream(&format!("{CHANNEL}&start=&after=&conn_info=&client_id=&other=1")).await;
    stream.event("connected").await;
}

#[tokio::test]
async fn methods_and_paths() {
    let rig = Rig::start().await;
    rig.say("p", 1).await;
    for (method, target, allow) in [
        ("POST", "/parsec/stream?channel=public:a.b", "GET"),
        ("HEAD", "/parsec/stream?channel=public:a.b", "GET"),
        ("GET", "/parsec/publish?channel=public:a.b", "POST"),
        ("PUT", "/parsec/history?channel=public:a.b", "GET, HEAD"),
        ("DELETE", "/parsec/channels", "GET, HEAD"),
        ("POST", "/health", "GET, HEAD"),
    ] {
        let answer = rig.ask(method, target, &[], b"").await;
        assert_eq!((answer.status(), answer.header("allow")), (405, Some(allow)), "{method} {target}");
    }
    for target in ["/", "/parsec", "/parsec/", "/parsec/streams", "/parsec/stream/"] {
        rig.get(target).await.is_problem(404, "not-found", &["path"]);
    }
    for target in ["/health", "/parsec/channels", "/parsec/history?channel=public:a.b"] {
        let answer = rig.ask("HEAD", target, &[("connection", "close")], b"").await;
        assert_eq!((answer.status(), &*answer.body), (200, ""), "{target}");
    }
    for target in ["/parsec/history?channel=public:no.one", "/parsec/presence?channel=public:no.one"] {
        rig.get(target).await.is_problem(404, "not-found", &["public:no.one"]);
    }
}

#[tokio::test]
async fn who_listens_and_what_there_is() {
    let rig = Rig::start().await;
    rig.say("p", 1).await;
    let presence = format!("/parsec/presence?channel={CHANNEL}");
    assert_eq!(rig.get(&presence).await.json(), json!({"channel": CHANNEL, "subscribers": 0, "entries": []}));
    let mut streams = Vec::new();
    for (id, info) in [("zoe", "&conn_info=%7B%22room%22%3A1.50%7D"), ("adam", "")] {
        let mut stream = rig.stream(&format!("{CHANNEL}&client_id={id}{info}")).await;
        assert_eq!(stream.event("connected").await.1["client_id"], id);
        streams.push(stream);
    }
    let body = rig.get(&presence).await.body;
    assert_eq!(
        body,
        r#"{"channel":"public:a.b","subscribers":2,"entries":[{"user_id":"anonymous","client_id":"adam"},{"user_id":"anonymous","client_id":"zoe","conn_info":{"room":1.50}}]}"#
    );
    // A subscriber without a name gets one.
    let mut unnamed = rig.stream("public:z.z").await;
    assert_ne!(unnamed.event("connected").await.1["client_id"], "");
    let channels = rig.get("/parsec/channels").await.json();
    let brief: Vec<_> = channels["channels"]
        .as_array()
        .unwrap()
        .iter()
        .map(|channel| {
            (
                channel["channel"].as_str().unwrap(),
                channel["head"].as_u64(),
                channel["retained"].as_u64(),
                channel["subscribers"].as_u64(),
            )
        })
        .collect();
    assert_eq!(brief, [(CHANNEL, Some(1), Some(1), Some(2)), ("public:z.z", Some(0), Some(0), Some(1))]);
    let health = rig.get("/health").await.json();
    assert_eq!(
        (&health["status"], &health["channels"], &health["subscribers"]),
        (&json!("ok"), &json!(2), &json!(3))
    );
    assert!(health["retained_bytes"].as_u64().unwrap() > 100);
    drop(streams);
    rig.until(&presence, |list| list["subscribers"] == 0).await;
}

#[tokio::test]
async fn behaviour_24_schemas_are_served_and_hold() {
    let schemas = br#"[{"pattern":"public:chat.{room}","aspects":{"said":{"payload_schema":{"type":"object","required":["text"]}}}},
        {"pattern":"public:**","aspects":{}}]"#;
    let registry = Registry::from_json(schemas).unwrap();
    let rig = Rig::with(ServerConfig::default().registry(registry).validate(ValidatorMode::Strict)).await;
    let snapshot = rig.get("/parsec/schemas").await.json();
    assert_eq!(snapshot["patterns"].as_array().unwrap().len(), 2);
    assert!(snapshot["at"].is_string());
    let found = rig.get("/parsec/schemas?channel=public:chat.x").await.json();
    assert_eq!(
        (&found["pattern"]["pattern"], &found["bindings"]),
        (&json!("public:chat.{room}"), &json!({"room": "x"}))
    );
    assert!(rig.get("/parsec/schemas?channel=public:other.x").await.json().get("bindings").is_none());
    let missing = rig.get("/parsec/schemas?channel=private:chat.x").await;
    missing.is_problem(404, "not-found", &["private:chat.x"]);
    assert!(missing.json()["error"].is_string());
    assert_eq!(rig.get("/parsec/schemas?pattern=public:**").await.json()["version"], 1);
    let history = rig.get("/parsec/schemas?pattern=public:**&history=true").await.json();
    assert_eq!((&history["pattern"], history["history"].as_array().unwrap().len()), (&json!("public:**"), 1));
    rig.get("/parsec/schemas?pattern=none").await.is_problem(404, "not-found", &["none"]);

    let room = "public:chat.x";
    let bad = rig.publish_to(room, &envelope_of(room, "p", 1, "{}")).await;
    bad.is_problem(422, "payload-invalid", &["said", "<root>", "text"]);
    let bad = rig.publish_to(room, &envelope_of(room, "p", 1, "{}").replace("said", "sung")).await;
    bad.is_problem(422, "unsupported-aspect", &["sung", "public:chat.{room}"]);
    // The number of a refused envelope can be used again.
    assert_eq!(rig.publish_to(room, &envelope_of(room, "p", 1, "{\"text\":1}")).await.status(), 200);
    // A server without schemas answers 404.
    Rig::start().await.get("/parsec/schemas").await.is_problem(404, "not-found", &["schemas"]);
}
