//! The server sends and accepts exactly the bytes in `fixtures/parsec-wire`; see the README there.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use relay_parsec_server::ServerConfig;
use relay_proto::parsec::{Registry, ValidatorMode};

use crate::raw::{Answer, CHANNEL, Rig, Stream, envelope, envelope_of};

/// The files have these values in place of those that differ each time.
const EPOCH: &str = "fixture-epoch";
const TIME: &str = "2026-11-29T12:00:00.000Z";

/// Checks files, and remembers their names.
#[derive(Default)]
struct Fixtures {
    seen: BTreeSet<String>,
    /// The epochs of this server's channels.
    epochs: Vec<String>,
}

impl Fixtures {
    fn directory() -> PathBuf {
        [env!("CARGO_MANIFEST_DIR"), "..", "..", "fixtures", "parsec-wire"].iter().collect()
    }

    /// Checks that the bytes are exactly those of the file, except for the epoch, times and delays. If `RELAY_BLESS` is
    /// set, the file is written instead.
    fn check(&mut self, name: &str, bytes: &str) {
        let mut bytes = bytes.to_owned();
        for epoch in &self.epochs {
            bytes = bytes.replace(epoch, EPOCH);
        }
        for (before, after, stands) in
            [("\"time\":\"", "\"", TIME), ("\"at\":\"", "\"", TIME), ("retry: ", "\n", "1000")]
        {
            if let Some(start) = bytes.find(before).map(|at| at + before.len()) {
                let end = start + bytes[start..].find(after).unwrap();
                bytes.replace_range(start..end, stands);
            }
        }
        let path = Self::directory().join(name);
        if std::env::var_os("RELAY_BLESS").is_some() {
            std::fs::write(&path, &bytes).unwrap();
        }
        let expected = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(bytes, expected, "{name}");
        assert!(self.seen.insert(name.to_owned()), "{name} is checked twice");
    }

    fn problem(&mut self, answer: &Answer) {
        let code = answer.json()["code"].as_str().unwrap().to_owned();
        self.check(&format!("problem-{code}.json"), &answer.body);
    }

    async fn block(&mut self, name: &str, stream: &mut Stream) {
        let block = stream.block().await.unwrap();
        self.check(name, &block);
    }

    /// Sends the bytes of a request file. The answer must have the head in the file next to it.
    async fn request(&mut self, rig: &Rig, name: &str) -> Answer {
        let file = format!("{name}.request");
        let request = std::fs::read(Self::directory().join(&file)).unwrap_or_else(|e| panic!("{file}: {e}"));
        self.seen.insert(file);
        let answer = rig.exchange(&request).await;
        let dated = |line: &&str| !line.to_ascii_lowercase().starts_with("date: ");
        self.check(
            &format!("{name}.head"),
            &answer.head.split_inclusive("\r\n").filter(dated).collect::<String>(),
        );
        answer
    }
}

fn config() -> ServerConfig {
    let schemas = br#"[{"pattern":"public:{app}.{domain}","description":"any channel","aspects":{"said":{}}},
        {"pattern":"public:strict.*","version":2,"aspects":{"said":{"payload_schema":{"type":"string"}}}}]"#;
    ServerConfig::default()
        .registry(Registry::from_json(schemas).unwrap())
        .validate(ValidatorMode::Strict)
        .retain_events(2_u64)
        .max_streams(4_usize)
        .max_channels(2_usize)
        .heartbeat(Duration::from_millis(1500))
}

#[tokio::test]
async fn every_fixture_is_what_the_server_sends_or_takes() {
    let mut fixtures = Fixtures::default();
    let rig = Rig::with(config()).await;
    let answer = fixtures.request(&rig, "publish").await;
    fixtures.epochs.push(answer.json()["epoch"].as_str().unwrap().to_owned());
    fixtures.check("published.json", &answer.body);
    let answer = fixtures.request(&rig, "publish-again").await;
    fixtures.check("published-again.json", &answer.body);
    streams(&mut fixtures, &rig).await;
    documents(&mut fixtures, &rig).await;
    refusals(&mut fixtures, &rig).await;

    let mut last = rig.stream(CHANNEL).await;
    last.event("connected").await;
    rig.stop.cancel();
    fixtures.block("closing.sse", &mut last).await;
    rig.end().await;

    // The bytes of other servers are only for the client.
    let listed: BTreeSet<String> = std::fs::read_dir(Fixtures::directory())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| {
            name != "README.md" && !name.starts_with("centrifuge-") && !name.starts_with("upstream-")
        })
        .collect();
    assert_eq!(listed, fixtures.seen, "every file is checked");
    assert!(listed.len() >= 12);
}

async fn streams(fixtures: &mut Fixtures, rig: &Rig) {
    let mut stream = rig.stream(&format!("{CHANNEL}&client_id=me&start=oldest")).await;
    fixtures.block("connected.sse", &mut stream).await;
    fixtures.block("envelope.sse", &mut stream).await;
    let lines = envelope_of(CHANNEL, "p", 2, "{\n  \"n\": 9007199254740993,\r\n  \"f\": 1.50\n}");
    assert_eq!(rig.publish(&lines).await.status(), 200);
    fixtures.block("envelope-on-lines.sse", &mut stream).await;
    fixtures.block("heartbeat.sse", &mut stream).await;
    drop(stream);
    rig.until("/health", |health| health["subscribers"] == 0).await;
    for sequence in 3..=4 {
        rig.say("p", sequence).await;
    }
    let epoch = fixtures.epochs[0].clone();
    for (after, name) in [
        (format!("{epoch}.1"), "gap-trimmed.sse"),
        (format!("{epoch}.99"), "gap-unknown-position.sse"),
        ("another.7".to_owned(), "gap-epoch-changed.sse"),
    ] {
        let mut stream = rig.stream(&format!("{CHANNEL}&after={after}")).await;
        stream.event("connected").await;
        fixtures.block(name, &mut stream).await;
    }
    rig.until("/health", |health| health["subscribers"] == 0).await;
}

async fn documents(fixtures: &mut Fixtures, rig: &Rig) {
    let listening = rig.stream(&format!("{CHANNEL}&client_id=me&conn_info=%7B%22room%22%3A1%7D")).await;
    for (target, name) in [
        ("/parsec/history?channel=public:a.b&limit=2", "history.json"),
        ("/parsec/presence?channel=public:a.b", "presence.json"),
        ("/parsec/channels", "channels.json"),
        ("/health", "health.json"),
        ("/parsec/schemas", "schemas.json"),
        ("/parsec/schemas?channel=public:strict.x", "schemas-channel.json"),
        ("/parsec/schemas?pattern=public:strict.*", "schemas-pattern.json"),
        ("/parsec/schemas?pattern=public:strict.*&history=true", "schemas-history.json"),
    ] {
        let answer = rig.get(target).await;
        assert_eq!(answer.status(), 200, "{target}: {}", answer.body);
        fixtures.check(name, &answer.body);
    }
    drop(listening);
    let mut empty = rig.stream("public:empty.one").await;
    let connected = empty.event("connected").await.1;
    fixtures.epochs.push(connected["epoch"].as_str().unwrap().to_owned());
    let answer = rig.get("/parsec/history?channel=public:empty.one").await;
    fixtures.check("history-empty.json", &answer.body);
    drop(empty);
    rig.until("/health", |health| health["subscribers"] == 0).await;
}

async fn refusals(fixtures: &mut Fixtures, rig: &Rig) {
    fixtures.problem(&rig.get("/parsec/stream?channel=public:a.b&start=middle").await);
    fixtures.problem(&rig.publish("{}").await);
    fixtures.problem(&rig.get("/parsec/presence?channel=public:no.one").await);
    fixtures.problem(&rig.ask("PUT", "/parsec/channels", &[], b"").await);
    fixtures.problem(&rig.publish(&envelope("p", 1)).await);
    let large = format!("\"{}\"", "x".repeat(70_000));
    fixtures.problem(&rig.publish(&envelope_of(CHANNEL, "p", 9, &large)).await);
    fixtures.problem(&rig.publish(&"x".repeat(1_100_000)).await);
    let strict = "public:strict.x";
    fixtures.problem(&rig.publish_to(strict, &envelope_of(strict, "p", 1, "1")).await);
    let sung = envelope_of(strict, "p", 1, "\"1\"").replace("said", "sung");
    fixtures.problem(&rig.publish_to(strict, &sung).await);
    fixtures.problem(&rig.publish_to("public:three.x", &envelope_of("public:three.x", "p", 1, "1")).await);
    let mut open = Vec::new();
    for _ in 0..4 {
        open.push(rig.stream(CHANNEL).await);
    }
    fixtures.problem(&rig.get("/parsec/stream?channel=public:a.b").await);
    drop(open);
    rig.until("/health", |health| health["subscribers"] == 0).await;

    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tokens");
    std::fs::write(&path, "TOKEN ann public:a.b -\n").unwrap();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    }
    let guarded = Rig::with(ServerConfig::default().tokens_file(Some(path))).await;
    let answer = fixtures.request(&guarded, "unauthenticated").await;
    fixtures.problem(&answer);
    let headers = [("authorization", "Bearer TOKEN")];
    let target = format!("/parsec/publish?channel={CHANNEL}");
    fixtures.problem(&guarded.ask("POST", &target, &headers, envelope("p", 1).as_bytes()).await);
}
