//! `relay bus` with its objects in a file, as seen by senders, subscribers and scripts.

use std::io::{Read as _, Write as _};
use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};

use super::process::{Done, Running, fields, relay, run, run_command};
use super::wire::{eventually, get};

/// Objects in a file.
struct Objects(tempfile::TempDir);

impl Objects {
    fn new(text: &str) -> Self {
        let objects = Self(tempfile::tempdir().unwrap());
        objects.write(text);
        objects
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("objects.yaml")
    }

    fn write(&self, text: &str) {
        let new = self.0.path().join("new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, self.path()).unwrap();
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = relay(words);
        command.arg("--file").arg(self.path());
        command
    }

    fn run(&self, words: &[&str]) -> Done {
        run_command(self.command(words))
    }

    /// A bus that is ready.
    fn serve(&self, words: &[&str]) -> (Running, String) {
        let serve = [&["bus", "serve", "--listen", "127.0.0.1:0", "-o", "json"], words].concat();
        let running = Running::start(self.command(&serve));
        let first = running.json();
        assert_eq!((&first["event"], fields(&first)), (&json!("listening"), vec!["address", "event"]));
        running.until(|line| line["event"] == "ready");
        (running, first["address"].as_str().unwrap().to_owned())
    }
}

fn object(kind: &str, name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: channels.knative.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec: {{{spec}}}\n"
    )
}

fn receive(words: &[&str]) -> (Running, String) {
    let running = Running::start(relay(&[&["bus", "receive", "-o", "json"], words].concat()));
    let address = running.json()["address"].as_str().unwrap().to_owned();
    (running, address)
}

fn send(url: &str, channel: &str, words: &[&str]) -> Done {
    run(&[&["bus", "send", "--url", url, "--channel", channel, "-o", "json"], words].concat())
}

/// What was piped is the message, and nobody sends an empty one by mistake.
#[test]
fn without_a_payload_flag_stdin_is_the_message() {
    let (receiver, to) = receive(&["--max", "3"]);
    let spec = format!("channel: c, subscriber: \"{to}\"");
    let objects = Objects::new(&(object("Channel", "c", "") + &object("Subscription", "s", &spec)));
    let (_bus, url) = objects.serve(&[]);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("message");
    std::fs::write(&file, "one\ntwo\n").unwrap();
    let args = ["bus", "send", "--url", &url, "--channel", "default/c", "-o", "json"];
    let piped = relay(&args).stdin(std::fs::File::open(&file).unwrap()).output().unwrap();
    let sent: Value = serde_json::from_slice(&piped.stdout).unwrap();
    assert_eq!((piped.status.code(), &sent["bytes"]), (Some(0), &json!(8)));
    assert_eq!(receiver.json()["data"], "one\ntwo\n");
    // An empty one is still sent where it is asked for, and where stdin is empty.
    for words in [&["--data", ""][..], &[]] {
        assert_eq!(send(&url, "default/c", words).expect(0).json()[0]["bytes"], 0);
        assert_eq!(receiver.json()["data"], "");
    }
    let (code, seen) = super::terminal::Terminal::start_with_input(relay(&args), 200).wait();
    assert_eq!(code, Some(2), "{seen}");
    assert!(seen.contains("no payload: give --data TEXT, --data-file FILE"), "{seen}");
}

#[test]
fn a_message_is_sent_received_answered_and_the_answer_goes_on() {
    let (first, to) = receive(&["--reply", "yes", "--reply-header", "ce-id=2", "--max", "1"]);
    let (second, reply_to) = receive(&["--max", "1"]);
    let spec = format!("channel: c, subscriber: \"{to}\", replyTo: \"{reply_to}\"");
    let objects = Objects::new(&(object("Channel", "c", "") + &object("Subscription", "s", &spec)));
    let (bus, url) = objects.serve(&[]);
    let words =
        ["--data", "hello", "--header", "x-other=1", "--ce-type", "t", "--ce-source", "/s", "--ce-id", "1"];
    let sent = send(&url, "default/c", &words).expect(0).json();
    assert_eq!(sent, [json!({"channel": "default/c", "status": 202, "bytes": 5, "error": null})]);
    let message = first.json();
    assert_eq!(fields(&message), ["bytes", "data", "data_base64", "event", "headers", "host"]);
    assert_eq!((&message["data"], &message["data_base64"]), (&json!("hello"), &Value::Null));
    let headers = &message["headers"];
    for (name, value) in [("ce-specversion", "1.0"), ("ce-type", "t"), ("ce-source", "/s"), ("ce-id", "1")] {
        assert_eq!(headers[name], value, "{message}");
    }
    assert_eq!((&headers["prefer"], &headers["x-other"]), (&json!("reply"), &Value::Null));
    let reply = second.json();
    assert_eq!((&reply["data"], &reply["headers"]["ce-id"]), (&json!("yes"), &json!("2")));
    first.wait().expect(0);
    second.wait().expect(0);
    bus.signal("TERM");
    bus.wait().expect(0);
}

#[test]
fn sending_ends_as_its_last_failure_says() {
    let objects = Objects::new(&object("Channel", "c", ""));
    let (_bus, url) = objects.serve(&[]);
    send(&url, "default/c", &[]).expect(0);
    let unknown = send(&url, "default/other", &[]).expect(3).json();
    assert_eq!(unknown[0]["status"], 404);
    assert!(unknown[0]["error"].as_str().unwrap().contains("unknown channel"), "{unknown:?}");
    let nobody = send("http://127.0.0.1:1", "default/c", &[]).expect(1).json();
    // The command takes the same flags of the transport as other commands.
    let missing = send(&url, "default/c", &["--ca-file", "/nowhere/ca.pem"]).expect(1);
    assert!((missing.stderr + &missing.stdout).contains("/nowhere/ca.pem"));
    send(&url, "default/c", &["--client-cert", "/nowhere/cert.pem"]).expect(2);
    send(&url, "default/c", &["--connect-timeout", "5s"]).expect(0);
    assert_eq!(nobody[0]["status"], Value::Null);
    let large = Objects::new(&"x".repeat(2 << 20));
    let path = large.path().display().to_string();
    let refused = send(&url, "default/c", &["--data-file", &path]).expect(1).json();
    assert_eq!(refused[0]["status"], 413);
    for wrong in [
        &["bus", "send", "--channel", "c"][..],
        &["bus", "send", "--channel", "default/c", "--data", "x", "--data-file", "-"],
        &["bus", "send", "--channel", "default/c", "--ce-type", "t"],
        &["bus", "send", "--channel", "default/c", "--url", "nonsense"],
        &["bus", "send", "--channel", "default/c", "--header", "a b=1"],
        &["bus", "send", "--channel", "default/c", "--data", "", "--header", "Content-Length=1"],
        &["bus", "send", "--channel", "default/c", "--data", "", "--header", "host=other"],
        &["bus", "send", "--channel", "default/c", "--data", "", "--header", "transfer-encoding=chunked"],
        &["bus", "serve"],
        &["bus", "monitor"],
        &["bus", "serve", "--bus", "no-namespace"],
        &["bus", "serve", "--engine", "other"],
        &["bus", "serve", "--cluster-bus", "b", "--dead-letter", ""],
        &["bus", "serve", "--cluster-bus", "b", "--dead-letter", "a b"],
        &["bus", "serve", "--cluster-bus", "b", "--forward-header", "host"],
    ] {
        run(wrong).expect(2);
    }
    let letters = ["bus", "serve", "--cluster-bus", "b", "--dead-letter", "ftp://user:secret@x/"];
    let refused = run(&letters).expect(2).stderr;
    assert!(refused.contains("--dead-letter: ") && refused.contains("ftp://x/"), "{refused}");
    assert!(!refused.contains("secret"), "{refused}");
}

#[test]
fn an_empty_message_says_its_length() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let (mut head, mut buffer) = (String::new(), [0; 4096]);
        while !head.contains("\r\n\r\n") {
            let count = stream.read(&mut buffer).unwrap();
            assert_ne!(count, 0, "{head}");
            head.push_str(std::str::from_utf8(&buffer[..count]).unwrap());
        }
        stream.write_all(b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n").unwrap();
        head
    });
    send(&url, "default/c", &["--data", ""]).expect(0);
    let head = server.join().unwrap();
    assert_eq!(head.lines().filter(|line| *line == "content-length: 0").count(), 1, "{head}");
}

#[test]
fn a_command_ends_with_its_shell_whatever_it_leaves_in_the_background() {
    let objects = Objects::new(&object("Channel", "c", ""));
    // Longer than any test waits.
    let behind = "sleep 60 & ";
    for (command, error) in [
        ("exit 0", Value::Null),
        ("exit 3", json!("exit status 3")),
        ("echo first >&2; echo second >&2; exit 1", json!("first")),
        // Much more than a pipe holds.
        ("yes much | head -c 1000000 >&2; exit 1", json!("much")),
    ] {
        let command = format!("{behind}{command}");
        let words = ["bus", "monitor", "-o", "json", "--max", "2", "--for", "60s", "--exec", &command];
        let lines = objects.run(&words).expect(0).json();
        assert_eq!((&lines[1]["event"], &lines[1]["error"]), (&json!("provision"), &error), "{command}");
    }
}

#[test]
fn output_that_cannot_be_written_is_a_failure() {
    let objects = Objects::new(&object("Channel", "c", ""));
    for words in [&["bus", "monitor", "--for", "20s"][..], &["bus", "monitor", "--max", "1", "-o", "json"]] {
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let done = objects.command(words).stdin(std::process::Stdio::null()).stdout(full).output().unwrap();
        let said = String::from_utf8_lossy(&done.stderr);
        assert_eq!(done.status.code(), Some(1), "{words:?} {said}");
        assert!(said.contains("No space left on device"), "{said}");
    }
    // That nobody reads it is none.
    let mut shell = Command::new("/bin/sh");
    let monitor = format!("{} bus monitor --file {}", env!("CARGO_BIN_EXE_relay"), objects.path().display());
    let script = format!("{{ {monitor} --for 20s -o json; echo $? >&2; }} | head -c 1");
    shell.args(["-c", &script]).env_clear();
    let done = run_command(shell).expect(0);
    assert_eq!((done.stdout.as_str(), done.stderr.trim()), ("{\n", "0"));
}

#[test]
fn a_time_that_ends_without_a_connection_is_a_failure_that_says_why() {
    let words = ["bus", "monitor", "--bus", "a/b", "--master", "http://127.0.0.1:1", "--for", "500ms"];
    let done = run(&words).expect(1);
    let last = done.stderr.lines().last().unwrap();
    assert!(last.contains("never connected in this time: ") && last.contains("127.0.0.1:1"), "{done:?}");
}

#[test]
fn each_line_of_stdin_is_a_message() {
    let (subscriber, to) = receive(&["--max", "3"]);
    let spec = format!("channel: c, subscriber: \"{to}\"");
    let objects = Objects::new(&(object("Channel", "c", "") + &object("Subscription", "s", &spec)));
    let (_bus, url) = objects.serve(&["--in-flight", "1"]);
    let send = format!(
        "printf 'one\\r\\ntwo\\n\\nfour' | {} bus send --lines --channel default/c --url {url} -o json",
        env!("CARGO_BIN_EXE_relay")
    );
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", &send]).env_clear();
    assert_eq!(run_command(shell).expect(0).json().len(), 4);
    let data: Vec<_> = (0..3).map(|_| subscriber.json()["data"].clone()).collect();
    assert_eq!(data, ["one", "two", ""], "in order");
}

#[test]
fn a_changed_file_is_in_force_soon_and_a_wrong_one_never() {
    let objects = Objects::new(&object("Channel", "c", ""));
    let (bus, url) = objects.serve(&["--admin-listen", "127.0.0.1:0"]);
    let told = bus.until_stderr(|text| text.contains("health and metrics"));
    let admin = told.split("address=").nth(1).unwrap().split_whitespace().next().unwrap().parse().unwrap();
    assert_eq!(get(admin, "/readyz").status, 200);
    objects.write(&(object("Channel", "c", "") + &object("Channel", "d", "")));
    let reloaded = bus.json();
    assert_eq!(reloaded, json!({"event": "reloaded", "channels": 2, "subscriptions": 0}));
    send(&url, "default/d", &[]).expect(0);
    for (wrong, names) in [
        (object("Pod", "p", ""), "Pod"),
        (object("Channel", "e", "bus: a, clusterBus: b") + &object("Bus", "a", ""), "Channel default/e"),
        (object("Channel", "c", "") + &object("Channel", "c", ""), "Channel default/c"),
        (object("Subscription", "s", "subscriber: x"), "Subscription default/s"),
        (object("Channel", "Bad_Name", ""), "Bad_Name"),
        (object("Channel", "c", "arguments: [{name: a, value: 5}]"), "Channel default/c"),
        ("a: [1".to_owned(), "syntax"),
    ] {
        objects.write(&wrong);
        let failed = bus.json();
        assert_eq!((&failed["event"], fields(&failed)), (&json!("reload-failed"), vec!["error", "event"]));
        assert!(failed["error"].as_str().unwrap().contains(names), "{names}: {failed}");
        let refused = objects.run(&["bus", "serve", "--listen", "127.0.0.1:0"]).expect(1);
        assert!(refused.stderr.contains(names), "{names}: {}", refused.stderr);
        send(&url, "default/d", &[]).expect(0);
    }
    std::fs::remove_file(objects.path()).unwrap();
    assert_eq!(bus.json()["event"], "reload-failed");
    eventually("it is not ready without its file", || (get(admin, "/readyz").status == 503).then_some(()));
    objects.write(&object("Channel", "d", ""));
    assert_eq!(bus.until(|line| line["event"] == "reloaded").last().unwrap()["channels"], 1);
    send(&url, "default/c", &[]).expect(3);
    eventually("it is ready again", || (get(admin, "/readyz").status == 200).then_some(()));
    let metrics = get(admin, "/metrics").text().to_owned();
    for line in [
        "relay_bus_received_total{status=\"202\"}",
        "relay_bus_received_total{status=\"404\"} 1",
        "relay_bus_dispatched_total{result=\"given_up\"} 0",
        "relay_bus_replies_total{result=\"ok\"} 0",
        "relay_bus_dropped_total{reason=\"queue-full\"} 0",
        "relay_bus_queued 0",
        "relay_bus_channels 1",
        "relay_bus_subscriptions 0",
    ] {
        assert!(metrics.contains(line), "{line}\n{metrics}");
    }
}

#[test]
fn the_bus_of_a_file_is_the_only_one_or_has_to_be_named() {
    let one = object("ClusterBus", "a", "") + &object("Channel", "c", "clusterBus: a");
    let (bus, _) = Objects::new(&one).serve(&[]);
    drop(bus);
    let two = Objects::new(&(one + &object("Bus", "b", "") + &object("Channel", "d", "bus: b")));
    let refused = two.run(&["bus", "serve", "--listen", "127.0.0.1:0"]).expect(2);
    assert!(
        refused.stderr.contains("--cluster-bus a") && refused.stderr.contains("--bus default/b"),
        "{refused:?}"
    );
    let lines =
        two.run(&["bus", "monitor", "--bus", "default/b", "--max", "3", "-o", "json"]).expect(0).json();
    let bus = json!({"event": "bus", "bus": "default/b", "spec": {}, "attempt": 1, "error": null});
    let provision = json!({
        "event": "provision", "channel": "default/d", "bus": "default/b", "parameters": {}, "arguments": [],
        "attempt": 1, "error": null,
    });
    assert_eq!(lines, [json!({"event": "synced", "channels": 2, "subscriptions": 0}), bus, provision]);
    two.run(&["bus", "monitor", "--bus", "default/absent"]).expect(3);
    two.run(&["bus", "serve", "--listen", "127.0.0.1:0", "--cluster-bus", "absent"]).expect(3);
}

#[test]
fn what_cannot_be_delivered_is_told_and_the_end_comes_in_time() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let to = silent.local_addr().unwrap();
    let objects = Objects::new(
        &(object("Channel", "c", "")
            + &object("Subscription", "s", &format!("channel: c, subscriber: \"http://u:secret@{to}/p\""))
            + &object("Channel", "d", "")
            + &object("Subscription", "none", "channel: d")
            + &object("Channel", "e", "")
            + &object("Subscription", "refused", "channel: e, subscriber: \"http://u:secret@127.0.0.1:1/\"")),
    );
    let (bus, url) = objects.serve(&["--drain", "1s", "--in-flight", "1", "--queue", "1"]);
    send(&url, "default/d", &[]).expect(0);
    let dropped = json!({
        "event": "dropped", "channel": "default/d", "subscription": "default/none",
        "reason": "no-destination", "count": 1,
    });
    assert_eq!(bus.json(), dropped);
    send(&url, "default/e", &[]).expect(0);
    let failed = bus.json();
    let names = ["channel", "destination", "error", "event", "final", "subscription", "tries"];
    assert_eq!(fields(&failed), names);
    assert_eq!((&failed["destination"], &failed["final"]), (&json!("http://127.0.0.1:1/"), &json!(true)));
    for _ in 0..4 {
        send(&url, "default/c", &["--data", "confidential"]).expect(0);
    }
    let full = bus.until(|line| line["event"] == "dropped");
    assert_eq!(full.last().unwrap()["reason"], "queue-full");
    bus.signal("TERM");
    let begin = std::time::Instant::now();
    let done = bus.wait().expect(0);
    assert!(begin.elapsed() < std::time::Duration::from_secs(10), "{:?}", begin.elapsed());
    assert!(done.stderr.contains("not sent and"), "{}", done.stderr);
    let said = done.stdout + &done.stderr;
    assert!(!said.contains("secret") && !said.contains("confidential"), "{said}");
}

#[test]
fn the_definitions_are_documents_that_kubectl_takes() {
    let text = run(&["bus", "crds", "--rbac"]).expect(0).stdout;
    assert!(text.starts_with("---\n"), "{text}");
    let documents: Vec<_> = text.split("---\n").filter(|part| !part.is_empty()).collect();
    assert_eq!(documents.len(), 5);
    for (document, name) in documents.iter().zip(["buses", "clusterbuses", "channels", "subscriptions"]) {
        assert!(document.contains(&format!("  name: {name}.channels.knative.dev\n")), "{document}");
        assert!(
            document.contains("x-kubernetes-preserve-unknown-fields: true\n      subresources:\n"),
            "{document}"
        );
    }
    assert!(documents[4].contains("kind: ClusterRole\n"), "{}", documents[4]);
    assert!(!run(&["bus", "crds", "--no-status-subresource"]).expect(0).stdout.contains("subresources"));
}

#[test]
fn the_demo_ends_with_what_became_of_the_messages() {
    let demo = run(&["bus", "demo", "--for", "5s"]).expect(0);
    assert_eq!(demo.stderr, "");
    let (_, verdict) = demo.stdout.split_once("What became of them:\n").unwrap();
    let of = |name: &str| verdict.lines().find(|line| line.contains(name)).unwrap();
    assert!(of("shop/answers").ends_with("0 given up, 0 dropped"), "{verdict}");
    assert!(of("shop/stalls").contains(" 0 delivered"), "{verdict}");
}

#[test]
fn the_demo_shows_a_reply_a_failure_and_one_that_loses_alone() {
    let demo = Running::start(relay(&["bus", "demo", "--for", "20s", "-o", "json"]));
    let mut lines = demo.until(|line| line["event"] == "dropped");
    let of = |lines: &[Value], event: &str| -> Vec<Value> {
        lines.iter().filter(|line| line["event"] == event).cloned().collect()
    };
    assert_eq!(lines[0]["event"], "listening");
    assert_eq!(of(&lines, "ready"), [json!({"event": "ready", "channels": 2, "subscriptions": 4})]);
    assert!(of(&lines, "sent").iter().all(|line| line["channel"] == "shop/orders"));
    assert_eq!(lines.last().unwrap()["subscription"], "shop/stalls");
    if of(&lines, "dispatch-failed").is_empty() {
        lines.extend(demo.until(|line| line["event"] == "dispatch-failed"));
    }
    assert_eq!(of(&lines, "dispatch-failed")[0]["subscription"], "shop/fails");
    assert!(of(&lines, "delivered").iter().any(|line| line["subscription"] == "shop/billing"), "{lines:?}");
}
