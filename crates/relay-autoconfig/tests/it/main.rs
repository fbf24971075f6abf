//! The client on real sockets, against scripted peers.
#![allow(clippy::unwrap_used, reason = "a helper that fails fails its test")]

mod close;

use std::sync::Arc;
use std::time::Duration;

use relay_autoconfig::{
    Builder, End, Environment, EnvironmentId, Event, Events, Expired, FileCache, Gone, MessageHandler,
    ReceivedAll, State, StreamManager, Unauthorized, Updated,
};
use relay_testkit::{Gate, Peer, Reply, Script, within};
use tokio::sync::mpsc;

const PATH: &str = "/relay_auto_config";
const KEY: &str = "a-very-secret-auto-config-key";

fn put(id: &str, version: i64) -> String {
    format!(
        "event: put\ndata: {{\"path\":\"/\",\"data\":{{\"environments\":{{\"{id}\":{{\"envID\":\"{id}\",\"version\":{version},\"sdkKey\":{{\"value\":\"sdk-key-of-{id}\"}}}}}}}}}}\n\n"
    )
}

fn quick(url: impl Into<String>) -> Builder {
    let (base, cap) = (Duration::from_millis(5), Duration::from_millis(20));
    StreamManager::builder(url).key(KEY).reconnect(base, cap).long_reconnect(base, cap)
}

/// Events as short texts: as many as asked for, or up to the end.
async fn told(events: &mut Events, most: usize) -> Vec<String> {
    let mut told = Vec::new();
    while told.len() < most {
        match within("an event", events.next()).await {
            Some(event) => {
                let json = event.to_json().to_string();
                assert!(!json.contains("secret") && !json.contains("sdk-key"), "{json}");
                told.push(word(&event));
            }
            None => {
                told.push("end".into());
                break;
            }
        }
    }
    told
}

fn word(event: &Event) -> String {
    match event {
        Event::Status(status) => {
            let connected = if status.connected { "+" } else { "" };
            let error = status.error.as_ref().map_or(String::new(), |error| {
                format!(
                    " {}{}",
                    error.kind.as_str(),
                    error.status.map_or(String::new(), |status| format!("={status}"))
                )
            });
            format!("{}{connected}{error}", status.state.as_str())
        }
        other => format!("{} {}", other.name(), other.id().unwrap_or_default()).trim_end().to_owned(),
    }
}

#[tokio::test]
async fn a_life_over_many_connections() {
    let bad = "event: put\ndata: {\"path\":\n\n";
    let html = Reply::new(200, "text/html", "<p>a-very-secret-auto-config-key</p>");
    let peer = Peer::start(
        Script::new()
            .on(PATH, Reply::sse().send_in(7, put("e", 1)).send("event: reconnect\ndata:\n\n").silence())
            .on(PATH, Reply::sse().send(put("e", 2)).send(bad).silence())
            .on(PATH, Reply::new(503, "text/plain", KEY))
            .on(PATH, Reply::new(404, "text/plain", KEY))
            .on(PATH, html)
            .on(PATH, Reply::empty(201))
            .on(PATH, Reply::sse().send(put("f", 1)))
            .on(PATH, Reply::empty(204)),
    )
    .await;
    let mut events = quick(format!("{}?x=1", peer.url())).events().unwrap();
    assert_eq!(
        told(&mut events, 100).await,
        [
            "initializing",
            "initializing+",
            "add e",
            "received_all",
            "valid+",
            "valid",
            "valid+",
            "update e",
            "received_all",
            "interrupted data",
            "interrupted response=503",
            "interrupted response=404",
            "interrupted response=200",
            "interrupted response=201",
            "interrupted+ response=201",
            "add f",
            "delete e",
            "received_all",
            "valid+ response=201",
            "interrupted network",
            "off response=204",
            "end"
        ]
    );
    assert_eq!(events.end(), Some(&End::NoContent));
    for request in peer.requests() {
        assert_eq!(request.target(), format!("{PATH}?x=1&rpacProtocolVersion=2"));
        assert_eq!(request.header("authorization"), Some(KEY));
        assert_eq!(request.header("accept"), Some("text/event-stream"));
        assert_eq!(request.header("accept-encoding"), Some("gzip"));
    }
}

#[tokio::test]
async fn n44_n45_a_refused_key_is_the_end_only_if_told_so_and_another_key_of_the_file_comes_first() {
    for status in [401, 403] {
        let peer = Peer::start(Script::new().always(PATH, Reply::new(status, "text/plain", KEY))).await;
        let mut events = quick(peer.url()).unauthorized(|_| Unauthorized::Stop).events().unwrap();
        let off = format!("off response={status}");
        assert_eq!(told(&mut events, 100).await, ["initializing", &off, "end"]);
        assert_eq!(events.end(), Some(&End::Unauthorized(status)));
        assert_eq!(peer.requests().len(), 1);
    }
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("key");
    std::fs::write(&file, " old-secret \n").unwrap();
    let new = file.clone();
    let peer =
        Peer::start(Script::new().answer(PATH, move |request| match request.header("authorization") {
            Some("new-secret") => Reply::sse().send(put("e", 1)).silence(),
            _ => {
                std::fs::write(&new, "new-secret\n").unwrap();
                Reply::empty(401)
            }
        }))
        .await;
    let hour = Duration::from_secs(3600);
    let builder =
        StreamManager::builder(peer.url()).key_file(&file).reconnect(hour, hour).long_reconnect(hour, hour);
    let mut events = builder.unauthorized(|_| Unauthorized::Stop).events().unwrap();
    assert_eq!(
        told(&mut events, 4).await,
        ["initializing", "initializing response=401", "initializing+ response=401", "add e"]
    );
}

#[tokio::test]
async fn the_key_stays_with_its_origin() {
    let other = Peer::start(
        Script::new().on("/there", Reply::sse().send(put("e", 1))).on("/there", Reply::empty(204)),
    )
    .await;
    let there = format!("{}/there", other.url());
    let peer = Peer::start(Script::new().always(PATH, Reply::redirect(307, &there))).await;
    let mut events = quick(peer.url()).events().unwrap();
    assert_eq!(told(&mut events, 3).await, ["initializing", "initializing+", "add e"]);
    assert_eq!(other.request(0).await.header("authorization"), None);
    // The next attempt starts from the original URL again.
    told(&mut events, 100).await;
    assert_eq!(peer.requests().len(), 2);
}

#[tokio::test]
async fn an_event_over_the_limit_is_bad_data_and_so_is_one_without_end() {
    let large = format!("event: put\ndata: {}\n\n", " ".repeat(3000));
    let endless = format!("data: {}", "x".repeat(200_000));
    for text in [large, endless] {
        let script = Script::new().on(PATH, Reply::sse().send(text).silence()).on(PATH, Reply::empty(204));
        let peer = Peer::start(script).await;
        let mut events = quick(peer.url()).max_event(1000).events().unwrap();
        assert_eq!(
            told(&mut events, 100).await,
            ["initializing", "initializing+", "initializing data", "off response=204", "end"]
        );
    }
}

#[tokio::test]
async fn n85_the_last_good_configuration_is_there_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("cache");
    let peer = Peer::start(
        Script::new()
            .on(PATH, Reply::sse().send(put("e", 1)).silence())
            .on(PATH, Reply::sse().send(put("e", 1)).silence()),
    )
    .await;
    let mut events = quick(peer.url()).cache(FileCache::open(&file).unwrap()).events().unwrap();
    assert_eq!(
        told(&mut events, 5).await,
        ["initializing", "initializing+", "add e", "received_all", "valid+"]
    );
    drop(events);
    let mut events = quick(peer.url()).cache(FileCache::open(&file).unwrap()).events().unwrap();
    assert_eq!(
        told(&mut events, 7).await,
        ["initializing", "add e", "received_all", "initializing", "initializing+", "received_all", "valid+"]
    );
    drop(events);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    }
    assert_eq!(
        FileCache::open(&file).unwrap().other_service("http://other/").as_deref(),
        Some(peer.url().as_str())
    );
    // A file that is not a cache is not changed.
    std::fs::write(&file, "precious").unwrap();
    let peer = Peer::start(Script::new().on(PATH, Reply::sse().send(put("e", 1)).silence())).await;
    let mut events = quick(peer.url()).cache(FileCache::open(&file).unwrap()).events().unwrap();
    told(&mut events, 5).await;
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "precious");
}

/// A handler that sends each call as a short text, and waits in each call until it may continue.
struct Slow(mpsc::Sender<String>);

impl MessageHandler for Slow {
    async fn add_environment(&mut self, environment: Arc<Environment>) {
        let _ = self.0.send(format!("add {}", environment.id)).await;
    }
    async fn update_environment(&mut self, update: Updated) {
        let _ = self.0.send(format!("update {}", update.environment.id)).await;
    }
    async fn received_all_environments(&mut self, all: ReceivedAll) {
        let _ = self.0.send(format!("all {}", all.environments)).await;
    }
    async fn delete_environment(&mut self, gone: Gone<EnvironmentId>) {
        let _ = self.0.send(format!("delete {}", gone.id)).await;
    }
    async fn key_expired(&mut self, expired: Expired) {
        let _ = self.0.send(format!("expired {}", expired.id)).await;
    }
}

fn handler() -> (Slow, mpsc::Receiver<String>) {
    let (tell, told) = mpsc::channel(1);
    (Slow(tell), told)
}

#[tokio::test]
async fn a_manager_calls_its_handler_and_tells_three_signals() {
    let gate = Gate::new();
    let script =
        Script::new().on(PATH, Reply::sse().send(": hello\n\n").hold(&gate).send(put("e", 1)).silence());
    let peer = Peer::start(script).await;
    let (handler, mut calls) = handler();
    let manager = quick(peer.url()).build(handler).unwrap();
    assert_eq!(peer.requests().len(), 0);
    within("the connection", manager.start()).await.unwrap();
    let status = manager.status();
    assert!(status.connected && !status.configured && status.state == State::Initializing);
    gate.open();
    for call in ["add e", "all 1"] {
        assert_eq!(within("a call", calls.recv()).await.as_deref(), Some(call));
    }
    let mut watch = manager.watch();
    within("the status", watch.wait_for(|status| status.configured && status.state == State::Valid))
        .await
        .unwrap();
    within("the end", manager.close()).await;
    assert_eq!((manager.status().state, manager.end()), (State::Off, Some(End::Closed)));
    manager.close().await;
    assert_eq!(manager.start().await, Err(End::Closed));
}
