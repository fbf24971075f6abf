//! The service, seen from raw sockets.
#![allow(clippy::unwrap_used, reason = "a helper that fails fails its test")]

mod load;

use std::path::Path;
use std::time::Duration;

use relay_autoconfig_server::{Builder, Handle, Keys, Server, StartError};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    let waited = tokio::time::timeout(Duration::from_secs(30), future).await;
    waited.unwrap_or_else(|_| panic!("{what} did not come"))
}

const TWO: &str =
    "environments: {a: {sdkKey: key-a}, b: {sdkKey: key-b}}\nfilters: {f: {projKey: p, key: k}}\n";

fn builder(file: &Path) -> Builder {
    Server::builder(file).poll(Duration::from_millis(10))
}

async fn start(builder: Builder) -> (Handle, tokio::task::JoinHandle<()>) {
    let server = builder.bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    (server.handle(), tokio::spawn(server.run(std::future::pending())))
}

fn write(file: &Path, text: &str) {
    let new = file.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(&new, file).unwrap();
}

/// One subscriber.
struct Subscriber(BufReader<TcpStream>);

impl Subscriber {
    async fn new(server: &Handle, head: &str) -> Self {
        let mut socket = TcpStream::connect(server.local_addr()).await.unwrap();
        socket.write_all(format!("{head}\r\nhost: h\r\n\r\n").as_bytes()).await.unwrap();
        Self(BufReader::new(socket))
    }

    /// Requests the stream; the answer must be 200.
    async fn open(server: &Handle, query: &str) -> Self {
        let mut subscriber = Self::new(server, &format!("GET /relay_auto_config{query} HTTP/1.1")).await;
        let head = subscriber.head().await;
        assert!(
            head.starts_with("HTTP/1.1 200 ") && head.contains("content-type: text/event-stream"),
            "{head}"
        );
        subscriber
    }

    async fn head(&mut self) -> String {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert_ne!(within("a head", self.0.read_line(&mut head)).await.unwrap(), 0, "{head}");
        }
        head
    }

    /// The next event: its name and data. Lines with chunk sizes are skipped.
    async fn event(&mut self) -> (String, Value) {
        let mut name = String::new();
        loop {
            let mut line = String::new();
            assert_ne!(
                within("an event", self.0.read_line(&mut line)).await.unwrap(),
                0,
                "the stream goes on"
            );
            if let Some(event) = line.trim_end().strip_prefix("event: ") {
                name = event.to_owned();
            } else if let Some(data) = line.trim_end().strip_prefix("data: ") {
                return (name, serde_json::from_str(data).unwrap());
            }
        }
    }

    /// The line with the data of the next event.
    async fn data(&mut self) -> String {
        let mut line = String::new();
        while !line.starts_with("data: ") {
            line.clear();
            assert_ne!(
                within("an event", self.0.read_line(&mut line)).await.unwrap(),
                0,
                "the stream goes on"
            );
        }
        line
    }

    /// Event and path, and the version.
    async fn told(&mut self) -> (String, i64) {
        let (name, data) = self.event().await;
        let version = data["version"].as_i64().or(data["data"]["version"].as_i64()).unwrap_or_default();
        (format!("{name} {}", data["path"].as_str().unwrap()), version)
    }

    async fn ends(mut self) {
        let mut rest = Vec::new();
        let _ = within("the end", self.0.read_to_end(&mut rest)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_of_the_file_become_events_and_versions_outlive_the_process() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("e.yaml");
    write(&file, TWO);
    let (server, run) = start(builder(&file)).await;
    let mut one = Subscriber::open(&server, "?rpacProtocolVersion=2").await;
    let mut two = Subscriber::open(&server, "").await;
    let (name, put) = one.event().await;
    let version = |put: &Value, id: &str| put["data"]["environments"][id]["version"].as_i64().unwrap();
    assert_eq!((name.as_str(), put["data"]["environments"]["a"]["envID"].as_str()), ("put", Some("a")));
    assert_eq!(put["data"]["filters"]["f"]["key"], "k");
    assert_eq!(put["data"]["environments"]["a"]["secureMode"], false);
    let (_, old) = two.event().await;
    assert!(old["data"].get("filters").is_none());

    // A file that breaks a rule deletes nothing. A renamed file, or one behind a link, is noticed.
    for bad in ["", "environments:\n", "environments: {a: {sdkKey: ", "environments: {}\nenvironmnets: {}"] {
        write(&file, bad);
    }
    std::fs::remove_file(&file).unwrap();
    let elsewhere = dir.path().join("elsewhere.yaml");
    std::fs::write(&elsewhere, TWO.replace("key-a", "key-c")).unwrap();
    #[cfg(unix)]
    std::os::unix::fs::symlink(&elsewhere, &file).unwrap();
    let (told, a) = one.told().await;
    assert_eq!(told, "patch /environments/a");
    assert!(a > version(&put, "a"));
    assert_eq!(two.told().await.0, "patch /environments/a");

    write(&file, "environments: {a: {sdkKey: key-c, envName: N}}\n");
    let (told, newer) = one.told().await;
    assert_eq!(told, "patch /environments/a");
    assert!(newer > a);
    let (told, gone) = one.told().await;
    assert_eq!(told, "delete /environments/b");
    assert!(gone > version(&put, "b"));
    assert_eq!(one.told().await.0, "delete /filters/f");
    assert_eq!([two.told().await.0, two.told().await.0], ["patch /environments/a", "delete /environments/b"]);
    assert_eq!(server.subscribers(), 2);
    assert_eq!(server.encoded(), 6, "two puts and four changes, whoever is told");
    server.shutdown();
    one.ends().await;
    two.ends().await;
    within("the server's end", run).await.unwrap();

    // The file changes while no server runs.
    write(&file, "environments: {a: {envName: N, sdkKey: {value: key-c}}, b: {sdkKey: key-b}}\n");
    let (server, _run) = start(builder(&file)).await;
    let (_, put) = Subscriber::open(&server, "").await.event().await;
    assert_eq!(version(&put, "a"), newer);
    assert!(version(&put, "b") > gone);
    let state = std::fs::read_to_string(dir.path().join("e.yaml.versions")).unwrap();
    assert!(!state.contains("key-"), "{state}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_answered_and_what() {
    let dir = tempfile::tempdir().unwrap();
    let (file, keys) = (dir.path().join("e.json"), dir.path().join("keys"));
    std::fs::write(&file, r#"{"environments":{}}"#).unwrap();
    std::fs::write(&keys, "one\ntwo\n").unwrap();
    let (server, _run) = start(builder(&file).keys(Keys::File(keys.clone()))).await;
    for (request, status) in [
        ("GET /relay_auto_config HTTP/1.1\r\nauthorization: one", "200"),
        ("GET /relay_auto_config?x HTTP/1.1\r\nauthorization: two", "200"),
        ("GET /relay_auto_config HTTP/1.1\r\nauthorization: Bearer one", "401"),
        ("GET /relay_auto_config HTTP/1.1", "401"),
        ("POST /relay_auto_config HTTP/1.1\r\ncontent-length: 0\r\nauthorization: one", "405"),
        ("GET /prefix/relay_auto_config HTTP/1.1\r\nauthorization: one", "404"),
        ("GET /relay_auto_config/ HTTP/1.1\r\nauthorization: one", "404"),
        ("GET / HTTP/1.1", "404"),
    ] {
        let head = Subscriber::new(&server, request).await.head().await;
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{request}: {head}");
    }
    std::fs::write(&keys, "three").unwrap();
    within("a new key", async {
        let request = "GET /relay_auto_config HTTP/1.1\r\nauthorization: three";
        while !Subscriber::new(&server, request).await.head().await.starts_with("HTTP/1.1 200 ") {}
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_start_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let loopback = "127.0.0.1:0".parse().unwrap();
    let file = dir.path().join("e.yaml");
    let missing = builder(&file).bind(loopback).await.unwrap_err();
    assert!(matches!(missing, StartError::File(_)), "{missing}");
    assert!(matches!(
        builder(&dir.path().join("e.txt")).bind(loopback).await,
        Err(StartError::Format { .. })
    ));
    write(&file, TWO);
    assert!(matches!(builder(&file).bind("0.0.0.0:0".parse().unwrap()).await, Err(StartError::Open { .. })));
    let first = builder(&file).bind(loopback).await.unwrap();
    assert!(matches!(builder(&file).bind(loopback).await, Err(StartError::Versions(_))), "taken");
    drop(first);
    std::fs::write(dir.path().join("e.yaml.versions"), "{").unwrap();
    assert!(matches!(builder(&file).bind(loopback).await, Err(StartError::Versions(_))), "damaged");
}
