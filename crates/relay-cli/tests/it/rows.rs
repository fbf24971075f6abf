//! Compares each line of a table with its JSON: no information is lost or contradicted. Also fields with text that must
//! not reach a terminal.

use std::collections::HashMap;

use relay_testkit::{Conversation, Peer, RelayScript, Reply};
use serde_json::{Value, json};

use super::process::{Server, command_at, key, run_command};
use super::terminal::Terminal;

/// Checks the row of an event, given the pod before the event.
fn check(event: &Value, before: Option<&Value>, row: &str) {
    let pod = &event["pod"];
    let (namespace, name) = key(pod);
    let word = match event["type"].as_str().unwrap() {
        _ if event["left_filter"] == true => "LEFT",
        _ if event["entered_filter"] == true => "ENTERED",
        kind => kind,
    };
    let sequence = format!("#{}", event["sequence"]);
    let hash = event["hash"].as_str().unwrap();
    let pod_name = format!("{namespace}/{name}");
    let cells: Vec<&str> = row.split_whitespace().collect();
    for cell in [sequence.as_str(), word, &pod_name, event["timestamp"].as_str().unwrap(), hash] {
        assert!(cells.contains(&cell), "{cell} is not in: {row}\n{event}");
    }
    assert_eq!(row.contains("(found in a list)"), event["synthetic"] == true, "{row}\n{event}");
    assert_eq!(row.contains("lives on, outside"), event["left_filter"] == true, "{row}\n{event}");
    assert_eq!(row.contains("was there before"), event["entered_filter"] == true, "{row}\n{event}");
    let restarts = |pod: &Value| -> u64 {
        let containers = pod["containers"].as_array().into_iter().flatten();
        containers.map(|container| container["restart_count"].as_u64().unwrap_or(0)).sum()
    };
    let Some(before) = before.filter(|_| matches!(word, "MODIFIED" | "LEFT")) else {
        // The row has the state of the pod: its phase or a reason, and how many containers are ready.
        if word != "DELETED" && restarts(pod) > 0 {
            assert!(row.contains("restart"), "{row}\n{event}");
        }
        let containers = pod["containers"].as_array().unwrap();
        let apps = containers
            .iter()
            .filter(|c| matches!(c["kind"].as_str(), None | Some("app" | "sidecar")))
            .count();
        assert!(row.contains(&format!("/{apps}")), "{row}\n{event}");
        return;
    };
    let mut differs = false;
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    for field in ["node_name", "pod_ip", "host_ip", "reason", "message", "started_at", "deleted_at"] {
        if before[field] != pod[field] {
            differs = true;
            let change = format!("{} -> {}", text(&before[field]), text(&pod[field]));
            assert!(row.contains(&change), "{field}: {change} is not in: {row}");
        }
    }
    if before["phase"] != pod["phase"] {
        differs = true;
        assert!(row.contains(" -> "), "{row}");
    }
    let keys = |pod: &Value| pod["labels"].as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    for label in keys(before).into_iter().chain(keys(pod)) {
        let (old, new) = (&before["labels"][&label], &pod["labels"][&label]);
        if old != new {
            differs = true;
            let change = format!("label {label}: {} -> {}", text(old), text(new));
            assert!(row.contains(&change), "{change} is not in: {row}");
        }
    }
    if restarts(before) != restarts(pod) {
        differs = true;
        assert!(row.contains(&format!("{} restart", restarts(pod))), "{row}\n{event}");
    }
    if before["ready"] != pod["ready"] {
        differs = true;
        assert!(row.contains("ready"), "{row}");
    }
    differs |= before["containers"] != pod["containers"];
    assert_eq!(row.contains("nothing shown"), !differs, "{row}\n{before}\n{pod}");
    assert!(!row.contains("nothing changed"), "{row}");
}

#[test]
fn every_row_of_the_history_says_what_its_json_says() {
    let server = Server::start(&["--sim-pods", "30", "--sim-rate", "400"]);
    let events = server.run(&["events", "--max", "1500"]);
    let whole = loop {
        let done = server.run(&["events", "--max", "1500"]).expect(0);
        if done.stdout.lines().count() == 1500 {
            break done.json();
        }
    };
    drop(events);
    let values: Vec<&Value> = whole.iter().map(|event| &event["pod"]["labels"]).collect();
    let traffic = values.iter().find_map(|labels| {
        let (name, value) = labels.as_object().unwrap().iter().next()?;
        Some(format!("{name}={}", value.as_str().unwrap()))
    });
    for filter in [None, traffic, Some("traffic=on".into()), Some("!traffic".into())] {
        let mut args = vec!["events", "--max", "800"];
        args.extend(filter.iter().flat_map(|filter| ["-l", filter.as_str()]));
        let json = server.run(&args).expect(0).json();
        let table = [&args[..], &["-o", "wide", "--timestamps"]].concat();
        let table = server.run(&table).expect(0).stdout;
        let rows: Vec<&str> = table.lines().skip(1).collect();
        // The filtered log may have grown between the two commands.
        let count = rows.len().min(json.len());
        let mut pods: HashMap<(String, String), Value> = HashMap::new();
        for (event, row) in json.iter().zip(&rows).take(count) {
            check(event, pods.get(&key(&event["pod"])), row);
            if event["type"] == "DELETED" {
                pods.remove(&key(&event["pod"]));
            } else {
                pods.insert(key(&event["pod"]), event["pod"].clone());
            }
        }
    }
}

/// Text that would clear the screen, change its colours or its direction, or break the line.
const EVIL: &str = "x\u{1b}[2J\u{9b}31m\u{7f}\u{202e}\n\r\u{7}\u{0}y";

/// Pods with names of the greatest length, with wide letters and combining ones, and with this text in every field.
fn hostile() -> Vec<Value> {
    let names = [
        "n".repeat(253),
        "日本語".repeat(40),
        "e\u{301}\u{323}".repeat(60),
        EVIL.to_owned(),
        "👩‍👩‍👧".repeat(20),
    ];
    names
        .iter()
        .map(|name| {
            json!({"namespace": EVIL, "name": name, "uid": EVIL, "resource_version": EVIL, "phase": EVIL, "ready": true,
                "labels": {EVIL: EVIL, "a": name}, "annotations": {EVIL: EVIL}, "node_name": name, "pod_ip": EVIL,
                "host_ip": EVIL, "created_at": EVIL, "started_at": EVIL, "deleted_at": EVIL, "reason": EVIL,
                "message": EVIL, "owner": {"kind": EVIL, "name": EVIL},
                "containers": [{"name": EVIL, "image": EVIL, "ready": true, "restart_count": 1, "state": EVIL,
                    "reason": EVIL, "exit_code": 1}]})
        })
        .collect()
}

fn harmless(text: &str) -> bool {
    text.chars().all(|c| {
        c == '\n' || !(c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'))
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn nothing_in_any_field_gives_orders_to_a_terminal() {
    let pods = hostile();
    let list = json!({"pods": pods, "hash": "h", "sequence": 1, "epoch": "e1"});
    let event = |n: usize, pod: &Value| json!({"type": EVIL, "hash": format!("h{n}"), "sequence": n, "timestamp": EVIL, "pod": pod});
    let page: Vec<Value> = pods.iter().enumerate().map(|(n, pod)| event(n + 1, pod)).collect();
    let health =
        json!({"status": EVIL, "source": {"kind": EVIL, "state": EVIL, "reason": EVIL}, "epoch": EVIL});
    let talk = || {
        let mut talk = Conversation::new("e1").connected(1);
        for (n, pod) in hostile().iter().enumerate() {
            let mut event = event(n + 2, pod);
            event["type"] = "MODIFIED".into();
            talk = talk.event("pod", Some(&format!("h{}", n + 2)), &event);
        }
        talk.event(EVIL.split('\n').next().unwrap(), None, &json!({"evil": EVIL})).silence()
    };
    let mut script = RelayScript::new("e1")
        .always("/pods", Reply::json(200, &list))
        .always("/events", Reply::json(200, &json!({"events": page, "next_hash": null})))
        .always("/health", Reply::json(200, &health))
        .always("/auth/session", Reply::json(201, &json!({"session_id": EVIL})));
    for _ in 0..40 {
        script = script.stream(talk());
    }
    let peer = Peer::start(script).await;
    for args in [
        &["pods"][..],
        &["events"],
        &["health"],
        &["session"],
        &["stream", "--max", "6"],
        &["state", "--max", "4"],
        &["state", "--group-by", "a", "--max", "4"],
        &["replay", "--max", "4", "--for", "5s"],
    ] {
        for format in ["table", "wide", "json", "yaml", "name"] {
            let named = matches!(args[0], "pods" | "events");
            if format == "name" && !named {
                continue;
            }
            let all = [args, &["-o", format]].concat();
            let done = run_command(command_at(&peer.url(), &all));
            for told in [&done.stdout, &done.stderr] {
                assert!(harmless(told), "{all:?}: {told:?}");
            }
            assert!(!done.stdout.is_empty(), "{all:?}: {done:?}");
            if !matches!(format, "table" | "wide") {
                continue;
            }
            for columns in [1, 20, 80] {
                let mut command = command_at(&peer.url(), &all);
                command.env("NO_COLOR", "1").env("TERM", "dumb").env("RELAY_LOG", "error");
                let (_, text) = Terminal::start(command, columns).wait();
                assert!(harmless(&text), "{all:?} in {columns} columns: {text:?}");
                // An answer of one line is not cut; the terminal wraps it.
                if matches!(args[0], "health" | "session") {
                    continue;
                }
                let own = text.lines().filter(|line| !line.starts_with("relay: "));
                let widest = own.map(unicode_width::UnicodeWidthStr::width).max().unwrap_or(0);
                assert!(widest <= usize::from(columns), "{all:?}: {widest} of {columns} columns: {text}");
            }
        }
    }
}
