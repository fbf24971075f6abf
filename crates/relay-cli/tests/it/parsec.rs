//! `relay parsec` from outside: three terminals, kills, and errors for lines that cannot be published.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use relay_testkit::ReservedPort;
use serde_json::Value;

const CHANNEL: &str = "public:demo.chat";

fn relay(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_relay"));
    command.arg("parsec").args(arguments);
    for name in ["RELAY_URL", "RELAY_TOKEN", "RELAY_TOKEN_FILE", "RELAY_OUTPUT"] {
        command.env_remove(name);
    }
    command
}

/// A process that is killed when the test is over.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // The process may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn serve(arguments: &[&str]) -> (Running, String) {
    let mut command = relay(&["serve"]);
    command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut server = Running(command.spawn().unwrap());
    let mut line = String::new();
    BufReader::new(server.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let url = line.trim().strip_prefix("relay listening on ").expect("the first line names the address");
    (server, url.to_owned())
}

fn subscribe(url: &str, lines: &Path, arguments: &[&str]) -> Running {
    let mut command = relay(&["subscribe", CHANNEL, "--url", url, "-o", "json"]);
    command.args(["--reconnect-base", "50ms", "--reconnect-cap", "300ms"]).args(arguments);
    let file = std::fs::File::create(lines).unwrap();
    Running(command.stdout(file).stderr(Stdio::null()).spawn().unwrap())
}

fn publish(url: &str, lines: &[u8], arguments: &[&str]) -> Output {
    let mut command = relay(&["publish", CHANNEL, "--url", url, "-o", "json", "--producer", "me"]);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // The command may end before it has read everything.
    let _ = child.stdin.take().unwrap().write_all(lines);
    child.wait_with_output().unwrap()
}

fn read(lines: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(lines).unwrap();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

fn wait(lines: &Path, event: &str, count: usize) -> Vec<Value> {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let seen = read(lines);
        if seen.iter().filter(|line| line["event"] == event).count() >= count {
            return seen;
        }
        assert!(Instant::now() < deadline, "{count} lines of {event} did not come: {seen:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn sequences(lines: &[Value]) -> Vec<i64> {
    let envelopes = lines.iter().filter(|line| line["event"] == "envelope");
    envelopes.map(|line| line["envelope"]["sequence"].as_i64().unwrap()).collect()
}

#[test]
fn three_terminals() {
    let directory = tempfile::tempdir().unwrap();
    let lines = directory.path().join("lines");
    let (_server, url) = serve(&["--listen", "127.0.0.1:0"]);
    let _subscriber = subscribe(&url, &lines, &["--aspect", "said"]);
    wait(&lines, "subscribed", 1);
    let payload = br#"{"text":"hi", "n":9007199254740993, "f":1.50, "h":"<&>"}"#;
    let sent = publish(&url, payload, &["--aspect", "said"]);
    assert!(sent.status.success(), "{}", String::from_utf8_lossy(&sent.stderr));
    wait(&lines, "envelope", 1);
    let text = std::fs::read_to_string(&lines).unwrap();
    assert!(text.contains(r#""payload":{"text":"hi","n":9007199254740993,"f":1.50,"h":"<&>"}"#), "{text}");
    // Another process with this producer's id and without its sequences gets an error.
    let again = publish(&url, b"1\n", &["--aspect", "said"]);
    assert_eq!(again.status.code(), Some(1));
    let said = String::from_utf8_lossy(&again.stderr).into_owned();
    assert!(said.contains("line 1") && said.contains("another producer id"), "{said}");
}

#[test]
fn a_line_that_cannot_be_published_is_named_and_spends_no_number() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("sequences");
    let (_server, url) = serve(&["--listen", "127.0.0.1:0"]);
    let arguments = ["--aspect", "said", "--sequence-file", file.to_str().unwrap()];
    let large = format!("\"{}\"", "x".repeat(70_000));
    for (bad, words) in [
        (&b"nope"[..], &["line 3", "column"][..]),
        (large.as_bytes(), &["line 3", "65536"]),
        (b"\xff\xfe", &["line 3", "UTF-8"]),
    ] {
        let lines = [b"1\n\n", bad, b"\n2\n"].concat();
        let ended = publish(&url, &lines, &arguments);
        assert_eq!(ended.status.code(), Some(1));
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert!(words.iter().all(|word| said.contains(word)), "{said}");
    }
    let mut going = arguments.to_vec();
    going.push("--keep-going");
    let ended = publish(&url, b"1\nnope\n2\n", &going);
    let said = String::from_utf8_lossy(&ended.stdout).into_owned();
    let codes: Vec<_> = said.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()).collect();
    assert_eq!(
        codes.iter().map(|line| line["sequence"].as_i64()).collect::<Vec<_>>(),
        [Some(4), None, Some(5)]
    );
    assert_eq!((codes[1]["code"].as_str(), codes[1]["line"].as_u64()), (Some("not-json"), Some(2)));
    for damaged in ["", "[]", r#"{"public:demo.chat":1.5}"#] {
        std::fs::write(&file, damaged).unwrap();
        let ended = publish(&url, b"1\n", &arguments);
        assert_eq!(ended.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&ended.stderr).contains(file.to_str().unwrap()));
        assert_eq!(std::fs::read_to_string(&file).unwrap(), damaged, "it is left as it is");
    }
}

/// A publisher is killed many times: no number is used twice, and each kill skips at most one.
#[test]
fn a_publisher_under_kills() {
    let directory = tempfile::tempdir().unwrap();
    let (lines, file) = (directory.path().join("lines"), directory.path().join("sequences"));
    let (_server, url) = serve(&["--listen", "127.0.0.1:0"]);
    let _subscriber = subscribe(&url, &lines, &[]);
    wait(&lines, "subscribed", 1);
    let arguments = ["--aspect", "n", "--producer", "me", "--sequence-file", file.to_str().unwrap()];
    const KILLS: u64 = 50;
    for round in 0..KILLS {
        let mut command = relay(&["publish", CHANNEL, "--url", &url]);
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut publisher = Running(command.spawn().unwrap());
        let _ = publisher.0.stdin.take().unwrap().write_all("1\n".repeat(300).as_bytes());
        // The moment of the kill varies from before the first envelope to the middle of them.
        std::thread::sleep(Duration::from_millis(15 + round * 37 % 180));
    }
    let last = publish(&url, b"1\n", &["--aspect", "n", "--sequence-file", file.to_str().unwrap()]);
    assert!(last.status.success());
    let last: Value = serde_json::from_slice(&last.stdout).unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    let seen = loop {
        let seen = read(&lines);
        if sequences(&seen).last().copied() == last["sequence"].as_i64() {
            break seen;
        }
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(20));
    };
    assert!(sequences(&seen).windows(2).all(|pair| pair[0] < pair[1]));
    assert!(!seen.iter().any(|line| line["event"] == "duplicate"));
    let skipped: u64 = seen.iter().filter_map(|line| line["missing"].as_u64()).sum();
    assert!(skipped <= KILLS, "{skipped} numbers were skipped");
}

/// A server that keeps its channels in a directory is killed many times: it loses no envelope and accepts none twice.
#[test]
fn a_server_with_a_directory_under_kills() {
    let directory = tempfile::tempdir().unwrap();
    let (lines, data) = (directory.path().join("lines"), directory.path().join("data"));
    let data = data.to_str().unwrap();
    let port = ReservedPort::reserve();
    let address = port.addr().to_string();
    let (mut server, url) = serve(&["--listen", &address, "--data-dir", data]);
    let _subscriber = subscribe(&url, &lines, &["--from-start"]);
    wait(&lines, "subscribed", 1);
    let mut command = relay(&["publish", CHANNEL, "--url", &url, "--aspect", "n", "--producer", "me"]);
    command.args(["--reconnect-base", "50ms", "--reconnect-cap", "300ms", "--publish-timeout", "60s"]);
    let mut publisher =
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let mut input = publisher.stdin.take().unwrap();
    for round in 1..=5 {
        for _ in 0..40 {
            input.write_all(b"1\n").unwrap();
        }
        wait(&lines, "envelope", round * 40 - 20);
        drop(server);
        (server, _) = serve(&["--listen", &address, "--data-dir", data]);
    }
    drop(input);
    assert!(publisher.wait().unwrap().success());
    let seen = wait(&lines, "envelope", 200);
    assert_eq!(sequences(&seen), (1..=200).collect::<Vec<_>>());
    assert!(!seen.iter().any(|line| line["event"] == "gap" || line["event"] == "duplicate"), "{seen:?}");
    drop(server);
}

#[test]
fn wrong_usage_is_exit_code_2() {
    for arguments in [
        &["publish", CHANNEL, "--producer", "me"][..],
        &["publish", CHANNEL, "--aspect", "a"],
        &["publish", CHANNEL, "--aspect", "a", "--producer", ""],
        &["publish", CHANNEL, "--aspect", "a", "--producer", "me", "--kind", "robot"],
        &["publish", CHANNEL, "--aspect", "a", "--producer", "me", "--parent", "x"],
        &["subscribe", CHANNEL, "--from-start", "--after", "a.1"],
        &["subscribe", CHANNEL, "--after", "nowhere"],
        &["subscribe"],
    ] {
        let ended = relay(arguments).stdin(Stdio::null()).output().unwrap();
        assert_eq!(ended.status.code(), Some(2), "{arguments:?}");
    }
}
