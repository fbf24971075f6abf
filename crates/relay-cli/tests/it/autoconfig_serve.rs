//! `relay autoconfig serve` and `demo` from outside: bytes on raw sockets, files of every kind, kills.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use relay_testkit::ReservedPort;
use serde_json::{Value, json};

use super::process::{Done, Running, relay, run, run_command};

/// The whole file that the manual shows.
const FULL: &str = "environments:
  e1:
    envKey: prod
    envName: Production
    projKey: p
    projName: P
    sdkKey: {value: sdk-s3cret-2, expiring: {value: sdk-s3cret-1, timestamp: 2026-12-01T00:00:00Z}}
    mobKey: mob-s3cret-1
    defaultTtl: 5
    secureMode: false
filters:
  p.small: {projKey: p, key: small}
";

pub(super) struct Service {
    pub(super) running: Running,
    address: String,
}

impl Service {
    #[track_caller]
    pub(super) fn start(file: &Path, args: &[&str]) -> Self {
        Self::start_at("127.0.0.1:0", file, args)
    }

    #[track_caller]
    fn start_at(listen: &str, file: &Path, args: &[&str]) -> Self {
        let mut all =
            vec!["autoconfig", "serve", file.to_str().unwrap(), "--listen", listen, "--poll", "20ms"];
        all.extend(args);
        let running = Running::start(relay(&all));
        let line = running.line().unwrap_or_else(|| panic!("{}", running.stderr()));
        let address =
            line.strip_prefix("relay autoconfig listening on http://").unwrap_or_else(|| panic!("{line}"));
        Self { address: address.to_owned(), running }
    }

    fn ask(&self, head: &str) -> Subscriber {
        let mut socket = TcpStream::connect(&self.address).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        socket.write_all(format!("{head}\r\nhost: h\r\n\r\n").as_bytes()).unwrap();
        let mut reader = BufReader::new(socket);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert_ne!(reader.read_line(&mut head).unwrap(), 0, "{head}");
        }
        Subscriber { reader, head }
    }

    pub(super) fn subscribe(&self, query: &str) -> Subscriber {
        let subscriber = self.ask(&format!("GET /relay_auto_config{query} HTTP/1.1"));
        assert!(subscriber.head.starts_with("HTTP/1.1 200 "), "{}", subscriber.head);
        subscriber
    }

    /// The whole configuration, as a subscriber gets it.
    pub(super) fn put(&self) -> Value {
        let (name, data) = self.subscribe("?rpacProtocolVersion=2").event();
        assert_eq!(name, "put");
        data
    }
}

pub(super) struct Subscriber {
    reader: BufReader<TcpStream>,
    head: String,
}

impl Subscriber {
    /// The next event. Lines with chunk sizes are skipped.
    pub(super) fn event(&mut self) -> (String, Value) {
        let mut name = String::new();
        loop {
            let mut line = String::new();
            assert_ne!(self.reader.read_line(&mut line).unwrap(), 0, "the stream goes on");
            if let Some(event) = line.trim_end().strip_prefix("event: ") {
                name = event.to_owned();
            } else if let Some(data) = line.trim_end().strip_prefix("data: ") {
                return (name, serde_json::from_str(data).unwrap());
            }
        }
    }

    pub(super) fn told(&mut self) -> (String, i64) {
        let (name, data) = self.event();
        let version = data["version"].as_i64().or(data["data"]["version"].as_i64()).unwrap_or_default();
        (format!("{name} {}", data["path"].as_str().unwrap()), version)
    }
}

pub(super) fn replace(file: &Path, text: &str) {
    let new = file.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(&new, file).unwrap();
}

pub(super) fn version(put: &Value, id: &str) -> i64 {
    put["data"]["environments"][id]["version"].as_i64().unwrap_or_else(|| panic!("{id}: {put}"))
}

#[test]
fn what_the_manual_shows_is_served_with_all_fields() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("e.yaml");
    std::fs::write(&file, FULL).unwrap();
    let service = Service::start(&file, &["--heartbeat", "200ms"]);
    let mut new = service.subscribe("?rpacProtocolVersion=2");
    assert!(new.head.contains("content-type: text/event-stream"), "{}", new.head);
    let (_, put) = new.event();
    let version = version(&put, "e1");
    let environments = json!({"e1": {"envID": "e1", "envKey": "prod", "envName": "Production", "mobKey": "mob-s3cret-1",
        "projKey": "p", "projName": "P", "sdkKey": {"value": "sdk-s3cret-2", "expiring": {"value": "sdk-s3cret-1", "timestamp": 1_796_083_200_000_u64}},
        "defaultTtl": 5, "secureMode": false, "version": version}});
    let filters = json!({"p.small": {"projKey": "p", "key": "small", "version": put["data"]["filters"]["p.small"]["version"]}});
    assert_eq!(put, json!({"path": "/", "data": {"environments": environments, "filters": filters}}));
    for query in ["", "?rpacProtocolVersion=1", "?rpacProtocolVersion=x"] {
        let (_, old) = service.subscribe(query).event();
        assert_eq!(old, json!({"path": "/", "data": {"environments": environments}}), "{query}");
    }
    assert!(service.subscribe("?rpacProtocolVersion=7").event().1["data"].get("filters").is_some());
    // While there are no events, comments are sent.
    let mut line = String::new();
    while !line.starts_with(':') {
        line.clear();
        assert_ne!(new.reader.read_line(&mut line).unwrap(), 0);
    }
    // The same content in JSON, with names left out.
    let other = folder.path().join("f.json");
    std::fs::write(&other, r#"{"environments":{"e":{"sdkKey":"k","sdkKeys":[{"key":"n","value":"k","expiry":5,"hasViews":true}]}}}"#).unwrap();
    let put = Service::start(&other, &[]).put();
    let entry = &put["data"]["environments"]["e"];
    assert_eq!(entry["sdkKeys"], json!([{"key": "n", "value": "k", "expiry": 5, "hasViews": true}]));
    assert_eq!((&entry["envName"], entry.get("mobileKeys")), (&json!(""), None));
}

#[test]
fn changes_become_events_and_what_is_wrong_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("e.yml");
    std::fs::write(&file, FULL).unwrap();
    let service = Service::start(&file, &[]);
    let mut subscriber = service.subscribe("?rpacProtocolVersion=2");
    let (_, put) = subscriber.event();
    let first = version(&put, "e1");
    // The same content in another notation is not a change.
    let same =
        FULL.replace("2026-12-01T00:00:00Z", "1796083200000").replace("secureMode: false", "version: 1");
    replace(&file, &same);
    let start = Instant::now();
    replace(&file, &same.replace("Production", "Produktion"));
    let (told, second) = subscriber.told();
    assert_eq!(told, "patch /environments/e1");
    assert!(second > first && start.elapsed() < Duration::from_secs(10));
    for bad in
        ["", "environments:\n", "environments: {e1: {sdkKey: k, ", "filters: {}", "environments: {}\nx: 1"]
    {
        replace(&file, bad);
        service
            .running
            .until_stderr(|text| text.lines().last().is_some_and(|line| line.contains("is served on")));
    }
    std::fs::remove_file(&file).unwrap();
    service.running.until_stderr(|text| text.contains("cannot be read"));
    std::fs::create_dir(&file).unwrap();
    std::fs::remove_dir(&file).unwrap();
    assert_eq!(version(&service.put(), "e1"), second, "new subscribers get what was last good");
    // A link that is replaced by one to a file of the same size and time.
    let (one, two) = (folder.path().join("one"), folder.path().join("two"));
    std::fs::write(&one, "environments: {a: {sdkKey: key-1}}").unwrap();
    std::fs::write(&two, "environments: {a: {sdkKey: key-2}}").unwrap();
    let time = std::fs::metadata(&one).unwrap().modified().unwrap();
    std::fs::File::options().write(true).open(&two).unwrap().set_modified(time).unwrap();
    std::os::unix::fs::symlink(&one, &file).unwrap();
    assert_eq!(subscriber.told().0, "patch /environments/a");
    assert_eq!(subscriber.told().0, "delete /environments/e1");
    assert_eq!(subscriber.told().0, "delete /filters/p.small");
    std::os::unix::fs::symlink(&two, folder.path().join("link")).unwrap();
    std::fs::rename(folder.path().join("link"), &file).unwrap();
    assert_eq!(subscriber.event().1["data"]["sdkKey"]["value"], "key-2");
    let stderr = service.running.stderr();
    assert!(!stderr.contains("s3cret"), "{stderr}");
    service.running.signal("TERM");
    let start = Instant::now();
    service.running.wait().expect(0);
    assert!(start.elapsed() < Duration::from_secs(20));
    let mut rest = Vec::new();
    subscriber.reader.read_to_end(&mut rest).unwrap();
}

#[test]
fn versions_outlive_kills_and_never_go_back() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("e.yaml");
    let text = |a: &str, b: &str| format!("environments: {{a: {{sdkKey: {a}}}, b: {{sdkKey: {b}}}}}");
    std::fs::write(&file, text("a-s3cret", "b-s3cret")).unwrap();
    let mut highest = [0_i64; 2];
    for round in 0..6 {
        let service = Service::start(&file, &[]);
        let put = service.put();
        let versions = [version(&put, "a"), version(&put, "b")];
        assert!(versions[0] > highest[0], "round {round}: `a` has changed meanwhile");
        assert!(round == 0 || versions[1] == highest[1], "round {round}: `b` has not");
        highest = versions;
        let mut subscriber = service.subscribe("");
        subscriber.event();
        replace(&file, &text(&format!("a-s3cret-{round}-live"), "b-s3cret"));
        highest[0] = subscriber.told().1;
        service.running.signal("KILL");
        let done = service.running.wait();
        assert_eq!(done.code, None);
        replace(&file, &text(&format!("a-s3cret-{round}-dead"), "b-s3cret"));
    }
    // A deleted environment keeps its version, also while no server runs.
    replace(&file, "environments: {a: {sdkKey: k}}");
    Service::start(&file, &[]).running.signal("KILL");
    replace(&file, &text("k", "b-s3cret"));
    let put = Service::start(&file, &[]).put();
    assert!(version(&put, "b") > highest[1]);
    let state = folder.path().join("e.yaml.versions");
    let kept = std::fs::read_to_string(&state).unwrap();
    assert!(!kept.contains("s3cret"), "{kept}");
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(std::fs::metadata(&state).unwrap().permissions().mode() & 0o777, 0o600);
    // `version` in the file is a minimum.
    replace(
        &file,
        "environments: {a: {sdkKey: k, version: 9000000000000000000}, b: {sdkKey: b, version: 5}}",
    );
    let put = Service::start(&file, &[]).put();
    assert_eq!(version(&put, "a"), 9_000_000_000_000_000_000);
    assert!(version(&put, "b") > 5);
    // After the highest version no other one is left, so subscribers would ignore every change.
    replace(&file, "environments: {a: {sdkKey: k, version: 9223372036854775807}}");
    let service = Service::start(&file, &[]);
    assert_eq!(version(&service.put(), "a"), i64::MAX);
    for changed in ["environments: {}", "environments: {a: {sdkKey: s3cret-l}}"] {
        replace(&file, changed);
        let said = service
            .running
            .until_stderr(|text| text.contains("environments.a has version 9223372036854775807"));
        assert!(said.contains("is served on") && !said.contains("s3cret"), "{said}");
        assert_eq!(version(&service.put(), "a"), i64::MAX);
    }
    drop(service);
    let done = serve(&file, &[]).expect(1);
    assert!(done.stderr.contains("environments.a has version 9223372036854775807"), "{}", done.stderr);
}

#[test]
fn who_is_answered_and_what() {
    let folder = tempfile::tempdir().unwrap();
    let (file, keys) = (folder.path().join("e.json"), folder.path().join("keys"));
    std::fs::write(&file, r#"{"environments":{}}"#).unwrap();
    std::fs::write(&keys, "s3cret-one\n\n s3cret-two \n").unwrap();
    let service = Service::start(&file, &["--key-file", keys.to_str().unwrap()]);
    for (head, status) in [
        ("GET /relay_auto_config HTTP/1.1\r\nauthorization: s3cret-one", 200),
        ("GET /relay_auto_config?a=b HTTP/1.1\r\nauthorization: s3cret-two", 200),
        ("GET /relay_auto_config HTTP/1.1\r\nauthorization: Bearer s3cret-one", 401),
        ("GET /relay_auto_config HTTP/1.1\r\nauthorization: s3cret-on", 401),
        ("GET /relay_auto_config HTTP/1.1", 401),
        ("POST /relay_auto_config HTTP/1.1\r\ncontent-length: 0\r\nauthorization: s3cret-one", 405),
        ("GET /base/relay_auto_config HTTP/1.1\r\nauthorization: s3cret-one", 404),
        ("GET /relay_auto_config/ HTTP/1.1\r\nauthorization: s3cret-one", 404),
        ("GET / HTTP/1.1", 404),
    ] {
        let answer = service.ask(head).head;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{head}: {answer}");
    }
    // The server distinguishes the keys, and the file with the keys may change.
    let url = format!("http://{}", service.address);
    let watch =
        |key: &str| run(&["autoconfig", "watch", "--url", &url, "--key", key, "-o", "json", "--max", "4"]);
    watch("s3cret-one").expect(0);
    watch("s3cret-six").expect(4);
    std::fs::write(&keys, "s3cret-six").unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    while watch("s3cret-six").code != Some(0) {
        assert!(Instant::now() < deadline);
    }
    watch("s3cret-one").expect(4);
    std::fs::write(&keys, "").unwrap();
    service.running.until_stderr(|text| text.contains("holds no key"));
    watch("s3cret-six").expect(0);
    assert!(!service.running.stderr().contains("s3cret"));
}

pub(super) fn serve(file: &Path, args: &[&str]) -> Done {
    let mut all = vec!["autoconfig", "serve", file.to_str().unwrap(), "--listen", "127.0.0.1:0"];
    if args.contains(&"--listen") {
        all.truncate(3);
    }
    all.extend(args);
    run_command(relay(&all))
}

#[test]
fn what_cannot_be_served_is_named_with_its_place_and_rule() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("e.yaml");
    for (text, place, rule) in [
        ("", "the file", "empty"),
        (" \n# nothing\n", "the file", "map"),
        ("environments:\n", "environments", "map"),
        ("environments: []", "environments", "map"),
        ("filters: {}", "environments", "missing"),
        ("environments: {}\nenvironmnets: {}", "environmnets", "no such field"),
        ("environments:\n  a: {sdkKey: s3cret\n  b: {}", "line", "YAML"),
        ("environments: {a: {sdkKey: s3cret}, a: {sdkKey: s3cret}}", "line 1", "twice"),
        ("environments: {a: {sdkKey: s3cret, sdkkey: s3cret}}", "environments.a.sdkkey", "no such field"),
        ("environments: {a: {sdkKey: s3cret}, b: {sdkKey: s3cret}}", "environments.b", "environments.a"),
        (
            "environments: {a: {sdkKey: k, mobKey: s3cret}, b: {sdkKey: l, mobKey: s3cret}}",
            "environments.b",
            "mobile",
        ),
        (
            "environments: {a: {sdkKey: {value: k, expiring: {value: s3cret, timestamp: 5}}}, b: {sdkKey: s3cret}}",
            "environments.b",
            "environments.a",
        ),
        ("environments: {a: {sdkKey: [s3cret]}}", "environments.a.sdkKey", "key"),
        ("environments: {a: {sdkKey: k, envName: 5}}", "environments.a.envName", "text"),
        ("environments: {a: {sdkKey: k, defaultTtl: 1.5}}", "environments.a.defaultTtl", "whole number"),
        ("environments: {a: {sdkKey: k, defaultTtl: s3cret}}", "environments.a.defaultTtl", "whole number"),
        (
            "environments: {a: {sdkKey: k, secureMode: 's3cret'}}",
            "environments.a.secureMode",
            "true or false",
        ),
        ("environments: {a: {sdkKey: k, version: 9223372036854775808}}", "environments.a.version", "64 bits"),
        (
            "environments: {a: {sdkKey: {value: k, expiring: {value: s3cret, timestamp: s3cret}}}}",
            "environments.a.sdkKey.expiring.timestamp",
            "RFC 3339",
        ),
        (
            "environments: {a: {sdkKey: {value: k, expiring: {value: s3cret, timestamp: -1}}}}",
            "environments.a.sdkKey.expiring.timestamp",
            "time",
        ),
        ("environments: {a: {envID: s3cret, sdkKey: k}}", "environments.a.envID", "leave it out"),
        ("environments: {a: {envKey: s3cret}}", "environments.a.sdkKey", "no-sdk-key"),
        (
            "environments: {a: {sdkKey: k, sdkKeys: [{value: k}, {key: s3cret}]}}",
            "environments.a.sdkKeys[1].value",
            "empty-key",
        ),
        (
            "environments: {a: {sdkKey: k, sdkKeys: [{value: s3cret}]}}",
            "environments.a.sdkKeys",
            "primary-not-listed",
        ),
        (
            "environments: {a: {sdkKey: k, mobKey: m, mobileKeys: [{value: s3cret}]}}",
            "environments.a.mobileKeys",
            "mobile-not-listed",
        ),
        (
            "environments: {a: {sdkKey: k, mobileKeys: [{value: s3cret}]}}",
            "environments.a.mobKey",
            "no-primary-mobile",
        ),
        ("environments: {'a/b': {sdkKey: k}}", "environments.a/b", "slash"),
        ("environments: {'': {sdkKey: k}}", "environments.", "empty"),
        ("environments: {}\nfilters: {f: s3cret}", "filters.f", "map"),
        ("environments: {}\nfilters: {f: {project: p}}", "filters.f.project", "no such field"),
        ("- s3cret", "the file", "map"),
        ("\u{0}s3cret", "line 1", "YAML"),
    ] {
        std::fs::write(&file, text).unwrap();
        let done = serve(&file, &[]).expect(1);
        let said = &done.stderr;
        assert!(
            said.contains(file.to_str().unwrap()) && said.contains(place) && said.contains(rule),
            "{text}: {said}"
        );
        assert!(!said.contains("s3cret") && done.stdout.is_empty(), "{text}: {said}");
    }
    std::fs::write(&file, b"environments: {a: {sdkKey: \xff}}").unwrap();
    assert!(serve(&file, &[]).expect(1).stderr.contains("UTF-8"));
    let json = folder.path().join("e.json");
    std::fs::write(&json, "{\"environments\":\n s3cret}").unwrap();
    let done = serve(&json, &[]).expect(1);
    assert!(done.stderr.contains("line 2") && !done.stderr.contains("s3cret"), "{}", done.stderr);
    for name in ["e.txt", "e", "e.jsonx"] {
        serve(&folder.path().join(name), &[]).expect(2);
    }
    serve(&folder.path().join("missing.yaml"), &[]).expect(1);
}

#[test]
fn states_and_addresses_that_cannot_be_had() {
    let folder = tempfile::tempdir().unwrap();
    let (file, state) = (folder.path().join("e.yaml"), folder.path().join("state"));
    std::fs::write(&file, FULL).unwrap();
    let state_file = ["--state-file", state.to_str().unwrap()];
    let service = Service::start(&file, &state_file);
    let taken = serve(&file, &state_file).expect(1);
    assert!(
        taken.stderr.contains(state.to_str().unwrap()) && taken.stderr.contains("in use"),
        "{}",
        taken.stderr
    );
    let port = serve(
        &file,
        &["--listen", &service.address, "--state-file", folder.path().join("other").to_str().unwrap()],
    )
    .expect(1);
    assert!(port.stderr.contains(&service.address), "{}", port.stderr);
    let good = std::fs::read(&state).unwrap();
    drop(service);
    for bad in [&b""[..], b"{}", b"garbage", &good[..good.len() / 2]] {
        std::fs::write(&state, bad).unwrap();
        let damaged = serve(&file, &state_file).expect(1);
        assert!(damaged.stderr.contains(state.to_str().unwrap()), "{}", damaged.stderr);
        assert_eq!(std::fs::read(&state).unwrap(), bad);
    }
    let open = serve(&file, &["--listen", "0.0.0.0:0"]).expect(2);
    assert!(open.stderr.contains("loopback"), "{}", open.stderr);
    serve(&file, &["--key", "a", "--key-file", "b"]).expect(2);
    serve(&file, &["--key-file", folder.path().join("none").to_str().unwrap()]).expect(1);
    serve(&file, &["--poll", "0s"]).expect(2);
}

/// A directory that is gone accepts no bytes, like a full disk.
#[test]
fn a_version_that_cannot_be_kept_is_not_told() {
    let folder = tempfile::tempdir().unwrap();
    let (file, place) = (folder.path().join("e.yaml"), folder.path().join("place"));
    std::fs::create_dir(&place).unwrap();
    std::fs::write(&file, "environments: {a: {sdkKey: one}}").unwrap();
    let service = Service::start(&file, &["--state-file", place.join("state").to_str().unwrap()]);
    let mut subscriber = service.subscribe("");
    let before = version(&subscriber.event().1, "a");
    std::fs::rename(&place, folder.path().join("away")).unwrap();
    replace(&file, "environments: {a: {sdkKey: two}}");
    service.running.until_stderr(|text| text.contains("state"));
    assert_eq!(version(&service.put(), "a"), before);
    std::fs::rename(folder.path().join("away"), &place).unwrap();
    let (told, after) = subscriber.told();
    assert_eq!(told, "patch /environments/a");
    assert!(after > before);
}

#[test]
fn two_terminals_and_a_client_that_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let (file, cache) = (folder.path().join("e.yaml"), folder.path().join("cache"));
    std::fs::write(&file, FULL).unwrap();
    let port = ReservedPort::reserve();
    let (listen, url) = (port.addr().to_string(), port.url());
    let service = Service::start_at(&listen, &file, &[]);
    let watch = || {
        let args = [
            "autoconfig",
            "watch",
            "--url",
            &url,
            "--key",
            "any",
            "-o",
            "json",
            "--cache-file",
            cache.to_str().unwrap(),
        ];
        let mut command: Command = relay(&args);
        command.args(["--reconnect-base", "20ms", "--reconnect-cap", "50ms"]);
        Running::start(command)
    };
    let first = watch();
    first.until(|line| line["state"] == "valid");
    replace(&file, &FULL.replace("Production", "Two"));
    first.until(|line| line["event"] == "update" && line["env"]["env_name"] == "Two");
    first.signal("KILL");
    drop(first);
    replace(&file, &FULL.replace("Production", "Three"));
    let second = watch();
    let lines = second.until(|line| line["event"] == "update");
    assert_eq!(lines[1]["env"]["env_name"], "Two", "it begins with what it had");
    assert_eq!(lines[lines.len() - 1]["env"]["env_name"], "Three");
    // The service is killed and comes back: nothing is reported twice.
    service.running.signal("KILL");
    second.until(|line| line["state"] == "interrupted");
    let service = Service::start_at(&listen, &file, &[]);
    let lines = second.until(|line| line["event"] == "received_all");
    assert!(
        lines.iter().all(|line| line["event"] == "status" || line["event"] == "received_all"),
        "{lines:?}"
    );
    drop(service);
}

#[test]
fn the_demo_shows_it_all_and_ends() {
    let done = run(&["autoconfig", "demo", "--for", "8s", "-o", "json"]).expect(0);
    assert_eq!(done.stderr, "", "its lines tell of the cut that it made itself");
    let lines = done.json();
    let events: Vec<&str> = lines.iter().map(|line| line["event"].as_str().unwrap()).collect();
    for event in ["add", "filter_add", "received_all", "update", "key_expired", "delete"] {
        assert!(events.contains(&event), "{event}: {events:?}");
    }
    assert_eq!(events.iter().filter(|event| **event == "add").count(), 2);
    assert!(events.iter().filter(|event| **event == "received_all").count() >= 2, "the connection was cut");
    let cut = lines.iter().position(|line| line["state"] == "interrupted").unwrap();
    let last_add = events.iter().rposition(|event| *event == "add").unwrap();
    assert!(last_add < cut);
    let table = run(&["autoconfig", "demo", "--for", "1s"]).expect(0).stdout;
    assert!(table.lines().next().unwrap().contains("http://127.0.0.1:"), "{table}");
}
