//! The server sends and accepts exactly the bytes in `fixtures/pods-wire`; see the README there.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use relay_pods_server::{Config, DEFAULT_RETENTION, Retention, Scope};
use relay_proto::pods::{Container, Owner, Pod, PodBuilder};
use relay_proto::time::Timestamp;

use crate::raw::{Answer, Rig};

/// Checks files, and remembers their names.
#[derive(Default)]
struct Fixtures {
    seen: BTreeSet<String>,
}

impl Fixtures {
    fn directory() -> PathBuf {
        [env!("CARGO_MANIFEST_DIR"), "..", "..", "fixtures", "pods-wire"].iter().collect()
    }

    /// Checks that the bytes are exactly those of the file. If `RELAY_BLESS` is set, the file is written instead.
    fn check(&mut self, name: &str, bytes: &str) {
        let path = Self::directory().join(name);
        if std::env::var_os("RELAY_BLESS").is_some() {
            std::fs::write(&path, bytes).unwrap();
        }
        let expected = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(bytes, expected, "{name}");
        assert!(self.seen.insert(name.to_owned()), "{name} is checked twice");
    }

    fn problem(&mut self, answer: &Answer) {
        let code = answer.json()["code"].as_str().unwrap().to_owned();
        self.check(&format!("problem-{code}.json"), &answer.body);
    }

    /// Sends the bytes of a request file. The answer must have the head in the file next to it.
    async fn request(&mut self, rig: &Rig, name: &str) -> String {
        let file = format!("{name}.request");
        let request = std::fs::read(Self::directory().join(&file)).unwrap_or_else(|e| panic!("{file}: {e}"));
        self.seen.insert(file);
        let mut peer = rig.connect().await;
        peer.send(&request).await;
        let head = peer.head().await;
        let dated = |line: &&str| !line.to_ascii_lowercase().starts_with("date: ");
        self.check(&format!("{name}.head"), &head.split_inclusive("\r\n").filter(dated).collect::<String>());
        head
    }
}

fn full_pod(version: u64, run: &str, ready: bool) -> Pod {
    let time = |text| Some(Timestamp::new(text));
    PodBuilder::new("prod", "web-7d9f-abcde")
        .uid(Some("6f1c0c1e-0000-4000-8000-000000000001"))
        .resource_version(Some(&version.to_string()))
        .labels([("app", "web"), ("run", run)])
        .phase(Some("Running"))
        .ready(ready)
        .node_name(Some("node-3"))
        .pod_ip(Some("10.1.2.3"))
        .host_ip(Some("10.0.0.3"))
        .created_at(time("2026-11-21T08:59:00Z"))
        .started_at(time("2026-11-21T08:59:01Z"))
        .owner(Some(Owner { kind: "ReplicaSet".into(), name: "web-7d9f".into() }))
        .containers(vec![Container {
            name: "app".into(),
            image: Some("registry.example/web:1.4".into()),
            ready,
            restart_count: 1,
            state: Some("running".into()),
            ..Container::default()
        }])
        .build()
}

fn small_pod() -> Pod {
    PodBuilder::new("dev", "job-ü").message(Some("line one\nline \"two\"")).build()
}

/// A list finds two pods; the first one changes, and its label `run` changes and changes back; the second one is
/// deleted.
async fn six_events(config: Config, retention: Retention) -> Rig {
    let rig = Rig::unsynced(config, retention).await;
    let at = |millis: u64| {
        rig.clock.advance(Duration::from_millis(millis));
        &rig.publisher
    };
    at(0).relist(Scope::All, vec![full_pod(812_345, "d-17", false), small_pod()]).await.unwrap();
    at(1500).upsert(full_pod(812_346, "d-17", true)).await.unwrap();
    at(1500).upsert(full_pod(812_347, "d-18", true)).await.unwrap();
    at(0).upsert(full_pod(812_348, "d-17", true)).await.unwrap();
    at(999).delete(small_pod()).await.unwrap();
    rig
}

#[tokio::test]
async fn every_fixture_is_what_the_server_sends_or_takes() {
    let mut fixtures = Fixtures::default();
    unfiltered_stream(&mut fixtures).await;
    filtered_stream(&mut fixtures).await;
    gaps(&mut fixtures).await;
    heartbeats(&mut fixtures).await;
    documents(&mut fixtures).await;
    refusals(&mut fixtures).await;
    let listed: BTreeSet<String> = std::fs::read_dir(Fixtures::directory())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name != "README.md")
        .collect();
    assert_eq!(listed, fixtures.seen, "every file is checked");
    assert!(listed.len() >= 20);
}

async fn unfiltered_stream(fixtures: &mut Fixtures) {
    let config = Config::default().reconnect_spread(Duration::ZERO);
    let rig = six_events(config, DEFAULT_RETENTION).await;
    let mut stream = rig.stream("/events/stream?client_id=deployment-service").await;
    let mut whole = String::new();
    for name in [
        "connected",
        "pod-added-1",
        "pod-added-2",
        "pod-modified-3",
        "pod-modified-4",
        "pod-modified-5",
        "pod-deleted-6",
        "catchup-complete",
    ] {
        let block = stream.block().await.unwrap();
        fixtures.check(&format!("{name}.sse"), &block);
        whole += &block;
    }
    rig.handle.shutdown();
    let closing = stream.block().await.unwrap();
    fixtures.check("closing.sse", &closing);
    fixtures.check("stream.sse", &(whole + &closing));
}

async fn filtered_stream(fixtures: &mut Fixtures) {
    let rig = six_events(Config::default(), DEFAULT_RETENTION).await;
    let mut stream = rig.stream("/events/stream?namespace=prod&label=run%3Dd-17").await;
    let mut whole = String::new();
    for name in [
        "filtered-connected",
        "filtered-pod-added-1",
        "filtered-pod-modified-3",
        "filtered-pod-left-4",
        "filtered-pod-entered-5",
        "filtered-catchup-complete",
    ] {
        let block = stream.block().await.unwrap();
        // The events of the first list are in the order of keys: the small pod is number 1.
        fixtures.check(&format!("{name}.sse"), &block);
        whole += &block;
    }
    fixtures.check("filtered-stream.sse", &whole);
}

async fn gaps(fixtures: &mut Fixtures) {
    let rig = six_events(Config::default(), DEFAULT_RETENTION.entries(2)).await;
    let first = {
        let whole = six_events(Config::default(), DEFAULT_RETENTION).await;
        whole.get("/events?limit=1").await.json()["events"][0]["hash"].as_str().unwrap().to_owned()
    };
    for (cursor, filter, name) in [
        (first.as_str(), "", "gap-cursor-expired.sse"),
        ("of-another-relay", "", "gap-cursor-unknown.sse"),
        (&first, "&namespace=dev", "filtered-gap.sse"),
    ] {
        let mut stream = rig.stream(&format!("/events/stream?since_hash={cursor}{filter}")).await;
        stream.expect("connected").await;
        fixtures.check(name, &stream.block().await.unwrap());
    }
    let mut stream = rig.stream("/events/stream?start=latest").await;
    stream.until("catchup_complete").await;
    let (forced, ()) = tokio::join!(rig.handle.force_gap(Duration::from_secs(20)), async {
        rig.publisher.upsert(full_pod(812_400, "d-19", true)).await.unwrap();
    });
    assert!(forced);
    fixtures.check("gap-slow-consumer.sse", &stream.block().await.unwrap());
}

async fn heartbeats(fixtures: &mut Fixtures) {
    let rig = six_events(Config::default().heartbeat(Duration::from_millis(20)), DEFAULT_RETENTION).await;
    let mut stream = rig.stream("/events/stream?start=latest").await;
    stream.until("catchup_complete").await;
    fixtures.check("heartbeat.sse", &stream.block().await.unwrap());
    let mut stream = rig.stream("/events/stream?namespace=dev").await;
    stream.until("catchup_complete").await;
    fixtures.check("filtered-heartbeat.sse", &stream.block().await.unwrap());
    rig.publisher.stale("for the test");
    rig.clock.advance(Duration::from_secs(30));
    let mut stream = rig.stream("/events/stream?start=latest").await;
    stream.until("catchup_complete").await;
    fixtures.check("heartbeat-stale.sse", &stream.block().await.unwrap());
    fixtures.check("health-stale.json", &rig.get("/health").await.body);
}

async fn documents(fixtures: &mut Fixtures) {
    let rig = six_events(Config::default(), DEFAULT_RETENTION).await;
    for (name, target) in [
        ("pods.json", "/pods"),
        ("pods-none.json", "/pods?namespace=none"),
        ("pod.json", "/pods/prod/web-7d9f-abcde"),
        ("events.json", "/events"),
        ("events-newest-2.json", "/events?order=newest&limit=2"),
        ("events-filtered.json", "/events?label=run%3Dd-17"),
        ("events-of-a-pod.json", "/pods/dev/job-%C3%BC/events"),
        ("health.json", "/health"),
    ] {
        fixtures.check(name, &rig.get(target).await.body);
    }
    for (name, target) in [("pods.ndjson", "/pods"), ("pods-none.ndjson", "/pods?namespace=none")] {
        let lines = format!("GET {target} HTTP/1.1\r\nhost: r\r\naccept: application/x-ndjson\r\n\r\n");
        fixtures.check(name, &rig.ask(&lines).await.body);
    }
    let rig = Rig::unsynced(Config::default(), DEFAULT_RETENTION).await;
    fixtures.check("health-cold.json", &rig.get("/health").await.body);
    for name in ["session-by-header", "session-by-body"] {
        let head = fixtures.request(&rig, name).await;
        assert!(head.starts_with("HTTP/1.1 201 "), "{head}");
    }
    let made = rig.ask("POST /auth/session HTTP/1.1\r\nhost: r\r\n\r\n").await;
    let id = made.json()["session_id"].as_str().unwrap().to_owned();
    fixtures.check("session.json", &made.body.replace(&id, &"A".repeat(id.len())));
}

async fn refusals(fixtures: &mut Fixtures) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tokens");
    std::fs::write(&path, "fixture-token ci prod\n").unwrap();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    }
    let config = Config::default().tokens_file(Some(path)).wait(Duration::from_millis(1)).max_streams(1);
    let rig = six_events(config, DEFAULT_RETENTION.entries(2)).await;
    let ask = async |method: &str, target: &str, fields: &str| {
        let token = "x-relay-token: fixture-token\r\n";
        rig.ask(&format!("{method} {target} HTTP/1.1\r\nhost: r\r\n{token}{fields}\r\n")).await
    };
    let minted = ask("POST", "/auth/session", "").await.json()["session_id"].as_str().unwrap().to_owned();
    let expired = ask("POST", "/auth/session", "").await.json()["session_id"].as_str().unwrap().to_owned();
    let ahead = {
        let whole = six_events(Config::default(), DEFAULT_RETENTION).await;
        whole.publisher.upsert(full_pod(1, "x", true)).await.unwrap();
        whole.get("/pods").await.json()["hash"].as_str().unwrap().to_owned()
    };
    let genesis =
        Rig::start(Config::default()).await.get("/pods").await.json()["hash"].as_str().unwrap().to_owned();
    for answer in [
        rig.get("/pods").await,
        ask("GET", "/pods?label=-x", "").await,
        ask("GET", "/pods?namespace=dev", "").await,
        ask("GET", "/pods/prod/absent", "").await,
        ask("PUT", "/pods", "").await,
        ask("GET", &format!("/pods?at_least={ahead}"), "").await,
        ask("GET", "/events?since_hash=of-another-relay", "").await,
        ask("GET", &format!("/events?since_hash={genesis}"), "").await,
        ask("POST", "/auth/session", "content-length: 70000\r\n").await,
        ask("GET", "/pods", &format!("x: {}\r\n", "y".repeat(65_600))).await,
        rig.get("/events/stream?session_id=unheard-of").await,
    ] {
        fixtures.problem(&answer);
    }
    let head = fixtures.request(&rig, "stream").await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    rig.subscribers_are(0).await;
    for (name, status) in [("pods", 200), ("events", 200), ("unauthenticated", 401), ("not-allowed", 405)] {
        let head = fixtures.request(&rig, name).await;
        assert_eq!(head[9..12], status.to_string(), "{head}");
    }
    let _open = rig.stream(&format!("/events/stream?session_id={minted}")).await;
    fixtures.problem(&rig.get(&format!("/events/stream?session_id={minted}")).await);
    fixtures.problem(&rig.get(&format!("/events/stream?session_id={expired}")).await);
    rig.clock.advance(Duration::from_secs(31));
    fixtures.problem(&rig.get(&format!("/events/stream?session_id={expired}")).await);
}
