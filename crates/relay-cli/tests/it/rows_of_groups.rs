//! Compares the tables of the command groups with their JSON: each line contains everything that its object says. Where
//! a group leaves something out of its table on purpose, the reason is given.

use relay_proto::time::Timestamp;
use relay_testkit::{Peer, Reply, Script};
use serde_json::{Value, json};

use super::autoconfig_watch::{KEY, OLD, PATH, SDK, env, event, now_ms, patch, put, with};
use super::parsec_rows::{CHANNEL, Server as Parsec, at, publish};
use super::process::{Running, relay, run, run_command};

/// Collects the name and value of each field of an object, without fields that are lists or objects.
fn leaves<'a>(name: &'a str, value: &'a Value, found: &mut Vec<(&'a str, &'a Value)>) {
    match value {
        Value::Object(fields) => fields.iter().for_each(|(name, value)| leaves(name, value, found)),
        Value::Array(items) => items.iter().for_each(|item| leaves(name, item, found)),
        leaf => found.push((name, leaf)),
    }
}

/// Each value must be in the row, in the form that `shown` gives it; `None` if it need not be there.
#[track_caller]
fn says_all(object: &Value, row: &str, shown: impl Fn(&str, &Value) -> Option<String>) {
    let mut found = Vec::new();
    leaves("", object, &mut found);
    for (name, value) in found {
        if let Some(text) = shown(name, value) {
            assert!(row.contains(&text), "{name}: {text:?} is not in: {row}\n{object}");
        }
    }
}

/// Texts as they are, numbers as digits, a true value by its field name; nothing for a false or missing value.
fn plain(name: &str, value: &Value) -> Option<String> {
    match value {
        Value::Null | Value::Bool(false) => None,
        Value::Bool(true) => Some(name.replace('_', " ")),
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn autoconfig_lines() {
    let far = 1_796_083_200_000_u64;
    let full = with(
        env("a", 1),
        json!({"envKey": "prod", "envName": "Production", "projKey": "pay", "projName": "Payments", "defaultTtl": 7,
            "secureMode": true, "mobKey": "s3cret-mobile-mob1",
            "sdkKeys": [{"key": "main", "value": SDK}, {"key": "old", "value": OLD, "expiry": far},
                {"key": "view", "value": "s3cret-view-1234", "hasViews": true}]}),
    );
    let grace = || json!({"sdkKey": {"value": SDK, "expiring": {"value": OLD, "timestamp": now_ms() + 600}}});
    let filter = |version: i64| json!({"projKey": "pay", "key": "small", "version": version});
    let text = || {
        put(
            json!({"a": full.clone(), "b": with(env("b", 3), grace())}),
            json!({"f": filter(1), "g": filter(1)}),
        ) + &patch(
            "a",
            &with(env("a", 2), json!({"envName": "Other", "sdkKey": {"value": "s3cret-new-key-wxyz"}})),
        ) + &event("patch", &json!({"path": "/filters/f", "data": filter(2)}).to_string())
            + &event("delete", r#"{"path":"/filters/f","version":3}"#)
            + &put(json!({"b": env("b", 3), "c": {"envID": "c", "version": 8}}), json!({}))
            + &put(json!({}), json!({}))
    };
    let script = || {
        let stream = Reply::sse().send(text()).delay(std::time::Duration::from_millis(900)).cut();
        Script::new().on(PATH, stream).always(PATH, Reply::empty(404))
    };
    let watch = async |format: &str| {
        let peer = Peer::start(script()).await;
        let url = peer.url();
        let args = ["autoconfig", "watch", "--url", &url, "--key", KEY, "-o", format, "--hold-empty", "1h"];
        run_command(relay(&[&args[..], &["--reconnect-base", "1ms", "--max", "19"]].concat())).expect(0)
    };
    let (objects, table) = (watch("json").await.json(), watch("table").await.stdout);
    let rows: Vec<&str> = table.lines().collect();
    assert_eq!(objects.len(), rows.len(), "{table}");
    let mut kinds = std::collections::BTreeSet::new();
    for (object, row) in objects.iter().zip(&rows) {
        kinds.insert(object["event"].as_str().unwrap());
        says_all(object, row, |name, value| match (name, value) {
            ("expires_ms", Value::Number(ms)) => {
                let time = Timestamp::from_unix_millis(ms.as_i64().unwrap());
                // The key that expires soon has a different time in each run.
                let same = if ms.as_u64() == Some(far) { time.as_str() } else { &time.as_str()[..8] };
                Some(same.to_owned())
            }
            // The primary key comes first.
            ("primary", _) => None,
            ("default_ttl_minutes" | "dropped_keys", Value::Number(n)) if n.as_u64() == Some(0) => None,
            // The delay is random and rounded.
            ("retry_ms", Value::Number(_)) => Some("next attempt in ".to_owned()),
            // It is shown only if it is something else.
            ("source", Value::String(source)) if source == "stream" => None,
            ("by", Value::String(by)) if by == "delete" => None,
            _ => plain(name, value),
        });
    }
    let all = [
        "add",
        "delete",
        "filter_add",
        "filter_delete",
        "filter_update",
        "held",
        "key_expired",
        "received_all",
        "refused",
        "status",
        "update",
    ];
    assert_eq!(kinds.into_iter().collect::<Vec<_>>(), all, "{table}");
    assert!(!table.contains("s3cret"), "{table}");
}

#[test]
fn parsec_lines() {
    let server = Parsec::start(&[]);
    for (producer, lines) in [("p1", "{\"n\":1}\n{\"n\":2}\n"), ("p2", "{\"n\":3}\n")] {
        publish(&server, producer, lines, &["--aspect", "said"]).expect(0);
    }
    let table = |verb: &str, arguments: &[&str]| {
        let mut command = at(&server.url, verb, arguments);
        let args: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
        let place = args.iter().position(|arg| arg == "-o").unwrap();
        let mut other = relay(&[]);
        other.args(&args[..=place]).arg("table").args(&args[place + 2..]);
        std::mem::swap(&mut command, &mut other);
        run_command(command).expect(0).stdout
    };
    for (verb, arguments) in
        [("subscribe", &[CHANNEL, "--from-start", "--max", "3"][..]), ("history", &[CHANNEL])]
    {
        let objects = run_command(at(&server.url, verb, arguments)).expect(0).json();
        let table = table(verb, arguments);
        // A history has headings.
        let rows: Vec<&str> = table.lines().skip(usize::from(verb == "history")).collect();
        assert_eq!(objects.len(), rows.len(), "{table}");
        for (object, row) in objects.iter().zip(rows) {
            let envelope = &object["envelope"];
            if envelope.is_object() {
                for (name, text) in [
                    ("producer", envelope["producer"]["id"].as_str().unwrap().to_owned()),
                    ("sequence", format!("#{}", envelope["sequence"])),
                    ("aspect", envelope["aspect"].as_str().unwrap().to_owned()),
                    ("payload", envelope["payload"].to_string()),
                ] {
                    assert!(row.contains(&text), "{name}: {text} is not in: {row}");
                }
            }
            // The other fields of an envelope are for programs. The number of a subscription is represented by its
            // channel.
            let mut rest = object.clone();
            rest["envelope"] = Value::Null;
            rest["subscription"] = Value::Null;
            // A history contains only envelopes.
            let history = verb == "history";
            says_all(&rest, row, |name, value| match name {
                "event" if value == "envelope" => None,
                "channel" if history => None,
                _ => plain(name, value),
            });
        }
    }
}

#[test]
fn durable_and_bus_lines() {
    let serve = Running::start(relay(&["durable", "serve", "--listen", "127.0.0.1:0"]));
    let said = serve.until_stderr(|said| said.contains("listening on ") && said.ends_with('\n'));
    let url = said.lines().find_map(|line| line.rsplit_once("listening on ")).unwrap().1;
    let stream = format!("{url}/a/stream");
    let on = |number: usize, words: &[&str], format: &str| {
        let stream = format!("{stream}-{number}");
        let mut all = vec!["durable", words[0], &stream];
        all.extend(&words[1..]);
        all.extend(["-o", format]);
        run(&all).expect(0).stdout
    };
    for words in [
        &["create", "--content-type", "text/plain", "--ttl", "1h"][..],
        &["append", "--content-type", "text/plain", "--data", "hello"],
        &["head"],
        &["close"],
        &["delete"],
    ] {
        // Each output has its own stream, with the same history.
        let object: Value = serde_json::from_str(&on(1, words, "json")).unwrap();
        let row = on(2, words, "table").replace("/a/stream-2", "/a/stream-1");
        says_all(&object, &row, |name, value| match (name, value) {
            // The value counts down, or is a time of day.
            ("ttl_seconds" | "expires_at", _) => Some(name.replace('_', " ")),
            _ => plain(name, value),
        });
    }
    // The line of a fork names its start, and `head` shows the type of each stream.
    on(3, &["create", "--content-type", "application/json", "--data", "[1,2]"], "json");
    let source = format!("{stream}-3");
    let fork = |target: &str, format: &str| {
        let target = format!("{url}/a/{target}");
        run(&["durable", "fork", &source, &target, "--ttl", "1h", "-o", format]).expect(0).stdout
    };
    let object: Value = serde_json::from_str(&fork("fork-1", "json")).unwrap();
    let row = fork("fork-2", "table").replace("/a/fork-2", "/a/fork-1");
    assert_eq!((&object["created"], &object["forked_from"]), (&json!(true), &json!(source)));
    says_all(&object, &row, plain);
    for (target, fields) in [
        ("fork-1", ["application/json", "ttl seconds: 3"]),
        ("stream-3", ["application/json", "ttl seconds: -"]),
    ] {
        let target = format!("{url}/a/{target}");
        let object: Value =
            serde_json::from_str(&run(&["durable", "head", &target]).expect(0).stdout).unwrap();
        let row = run(&["durable", "head", &target, "-o", "table"]).expect(0).stdout;
        says_all(&object, &row, |name, value| (name != "ttl_seconds").then(|| plain(name, value)).flatten());
        for field in fields {
            assert!(row.contains(field), "{field}: {row}");
        }
        // Every field is shown with its name, even without a value.
        for name in object.as_object().unwrap().keys() {
            assert!(row.contains(&format!("{}: ", name.replace('_', " "))), "{name}: {row}");
        }
    }
    let nobody = ["bus", "send", "--url", "http://127.0.0.1:1", "--channel", "default/c", "--data", "x"];
    let object: Value =
        serde_json::from_str(&run(&[&nobody[..], &["-o", "json"]].concat()).expect(1).stdout).unwrap();
    let row = run(&[&nobody[..], &["-o", "table"]].concat()).expect(1).stdout;
    assert_eq!(object["bytes"], 1);
    says_all(&object, &row, |name, value| match name {
        // The size of data that was not sent is not shown.
        "bytes" => None,
        _ => plain(name, value),
    });
}

/// Objects with something for every field of the lines: defaults, arguments, a reply, one without a destination, and
/// one whose arguments are missing.
const OBJECTS: &str = "\
apiVersion: channels.knative.dev/v1alpha1
kind: Bus
metadata: {name: b}
spec: {parameters: {channel: [{name: size, default: \"10\"}], subscription: [{name: level}]}}
---
apiVersion: channels.knative.dev/v1alpha1
kind: Channel
metadata: {name: c}
spec: {bus: b, arguments: [{name: size, value: \"77\"}]}
---
apiVersion: channels.knative.dev/v1alpha1
kind: Subscription
metadata: {name: whole}
spec: {channel: c, subscriber: \"http://user:s3cret@127.0.0.1:1/in\", replyTo: answers, arguments: [{name: level, value: high}]}
---
apiVersion: channels.knative.dev/v1alpha1
kind: Subscription
metadata: {name: nowhere}
spec: {channel: c, arguments: [{name: level, value: low}]}
---
apiVersion: channels.knative.dev/v1alpha1
kind: Subscription
metadata: {name: lacking}
spec: {channel: c, subscriber: \"http://127.0.0.1:1/\"}
";

/// Each object next to the row of the same kind that is about the same.
#[track_caller]
fn says_each(objects: &[Value], rows: &[String]) {
    for object in objects {
        let event = object["event"].as_str().unwrap();
        let about = ["subscription", "channel", "bus"].iter().find_map(|name| object[*name].as_str());
        let row = rows.iter().find(|row| {
            row.split_whitespace().next() == Some(event) && about.is_none_or(|about| row.contains(about))
        });
        let row = row.unwrap_or_else(|| panic!("no row of {object} in {rows:#?}"));
        says_all(object, row, |name, value| match value {
            Value::Bool(last) => Some(format!("{name}={last}")),
            _ => plain(name, value),
        });
    }
}

#[test]
fn bus_monitor_lines() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("objects.yaml");
    std::fs::write(&file, OBJECTS).unwrap();
    let file = file.to_str().unwrap();
    let all = ["bus", "monitor", "--file", file, "--exec", "echo a reason >&2; exit 1", "--max", "4", "-o"];
    let failing = |format: &str| run(&[&all[..], &[format]].concat()).expect(0).stdout;
    let all = ["bus", "monitor", "--file", file, "--max", "6", "-o"];
    let working = |format: &str| run(&[&all[..], &[format]].concat()).expect(0).stdout;
    let mut kinds = std::collections::BTreeSet::new();
    for (objects, table) in [(failing("json"), failing("table")), (working("json"), working("table"))] {
        let objects: Vec<Value> =
            objects.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()).collect();
        let rows: Vec<String> = table.lines().map(Into::into).collect();
        assert_eq!(objects.len(), rows.len(), "{table}");
        kinds.extend(objects.iter().map(|object| object["event"].as_str().unwrap().to_owned()));
        // Which try it was, and which of the calls come first, is not the same in two runs.
        let objects: Vec<Value> = objects
            .into_iter()
            .filter(|object| object["error"].is_null() || object["attempt"] == 1)
            .collect();
        says_each(&objects, &rows);
    }
    assert_eq!(
        kinds.into_iter().collect::<Vec<_>>(),
        ["bus", "missing-arguments", "provision", "subscribe", "synced"]
    );
}

#[test]
fn bus_serve_and_receive_lines() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("objects.yaml");
    let serve = |format: &str| {
        std::fs::write(&file, OBJECTS).unwrap();
        let words =
            ["bus", "serve", "--listen", "127.0.0.1:0", "-o", format, "--file", file.to_str().unwrap()];
        let running = Running::start(relay(&words));
        let first = running.line().unwrap();
        let url = first.split(['"', ' ']).find(|word| word.starts_with("http://")).unwrap().to_owned();
        (running, url)
    };
    let send = |url: &str| {
        run(&["bus", "send", "--url", url, "--channel", "default/c", "--data", "x"]).expect(0);
    };
    let last = "reload-failed";
    let (running, url) = serve("json");
    let mut objects = running.until(|line| line["event"] == "ready");
    send(&url);
    for event in ["dropped", "dispatch-failed"] {
        if !objects.iter().any(|object| object["event"] == event) {
            objects.extend(running.until(|line| line["event"] == event));
        }
    }
    std::fs::write(&file, OBJECTS.replace("77", "78")).unwrap();
    objects.extend(running.until(|line| line["event"] == "reloaded"));
    std::fs::write(&file, "kind: [").unwrap();
    objects.extend(running.until(|line| line["event"] == last));
    drop(running);

    let (running, url) = serve("table");
    running.until_stderr(|said| said.contains("ready "));
    send(&url);
    running.until_stderr(|said| said.contains("dropped ") && said.contains("dispatch-failed"));
    std::fs::write(&file, OBJECTS.replace("77", "78")).unwrap();
    running.until_stderr(|said| said.contains("reloaded "));
    std::fs::write(&file, "kind: [").unwrap();
    let said =
        running.until_stderr(|said| said.split_once(last).is_some_and(|(_, rest)| rest.contains('\n')));
    says_each(&objects, &said.lines().map(Into::into).collect::<Vec<_>>());
    assert!(!said.contains("s3cret"), "{said}");

    let received = |format: &str| {
        let running = Running::start(relay(&["bus", "receive", "--max", "2", "-o", format]));
        let first = running.line().unwrap();
        let url = first.split(['"', ' ']).find(|word| word.starts_with("http://")).unwrap().to_owned();
        for data in ["@text", "@bytes"] {
            let data_file = directory.path().join("data");
            std::fs::write(&data_file, if data == "@text" { &b"some text"[..] } else { b"\xff\xfe" })
                .unwrap();
            let data_file = data_file.to_str().unwrap();
            run(&["bus", "send", "--url", &url, "--channel", "default/c", "--data-file", data_file])
                .expect(0);
        }
        running.wait().expect(0).stdout
    };
    let (objects, table) = (received("json"), received("table"));
    assert_eq!((objects.lines().count(), table.lines().count()), (2, 2), "{table}");
    for (object, row) in objects.lines().zip(table.lines()) {
        let mut object: Value = serde_json::from_str(object).unwrap();
        // Headers, and bytes that are no text, are for programs: a row has the text, or says how long it is.
        object["headers"] = Value::Null;
        let is_text = object["data"].is_string();
        says_all(&object, row, |name, value| match name {
            "event" | "data_base64" => None,
            "bytes" if is_text => None,
            "bytes" => Some(format!("{value} bytes")),
            _ => plain(name, value),
        });
    }
}
