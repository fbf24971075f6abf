//! The commands that follow: `stream`, `state`, `replay`, `demo`; their JSON, and every way in which they end.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read};
use std::process::Stdio;
use std::time::{Duration, Instant};

use relay_testkit::ReservedPort;
use serde_json::{Value, json};

use super::process::{DEADLINE, Running, Server, check_event, fields, key, relay, run};
use super::wire::{get, history, until_head};

const REPLAY: [&str; 7] = ["ack", "cause", "changed", "event", "gap", "phase", "pods"];
const STATE: [&str; 5] = ["cause", "changed", "event", "gap", "pods"];

/// The names of the fields, without those that `--pods` adds.
fn without_pods(line: &Value) -> Vec<&str> {
    fields(line).into_iter().filter(|name| *name != "pod_set").collect()
}

fn phases(lines: &[Value]) -> Vec<&str> {
    let mut phases: Vec<&str> = lines.iter().map(|line| line["phase"].as_str().unwrap()).collect();
    phases.dedup();
    phases
}

#[test]
fn stream_prints_raw_messages() {
    let server = Server::quiet(4);
    let lines = server.run(&["stream", "--max", "6", "--client-id", "me"]).expect(0).json();
    assert_eq!(lines.len(), 6);
    for line in &lines {
        assert_eq!(fields(line), ["data", "error", "event", "id"]);
        assert_eq!(line["error"], Value::Null);
    }
    assert_eq!(lines[0]["event"], "connected");
    assert_eq!(lines[0]["data"]["client_id"], "me");
    for (line, event) in lines[1..5].iter().zip(history(server.addr)) {
        assert_eq!(line["event"], "pod");
        assert_eq!(line["id"], event["hash"]);
        assert_eq!(line["data"], event);
    }
    assert_eq!(lines[5]["event"], "catchup_complete");
    assert_eq!(lines[5]["data"]["replayed"], 4);

    let lines = server.run(&["stream", "--latest", "--max", "2"]).expect(0).json();
    assert_eq!(lines[1]["event"], "catchup_complete");
    assert_eq!(lines[1]["data"]["replayed"], 0);

    let since = lines[0]["data"]["head"]["hash"].as_str().unwrap();
    let lines = server.run(&["stream", "--since-hash", since, "--max", "2"]).expect(0).json();
    assert_eq!(lines[1]["data"]["replayed"], 0);
}

#[test]
fn stream_ends_with_its_connection() {
    let server = Server::quiet(2);
    let client = server.follow(&["stream"]);
    client.until(|line| line["event"] == "catchup_complete");
    server.signal("TERM");
    let rest = client.wait();
    let last = rest.json().pop().unwrap();
    assert_eq!(last["event"], "closing");
    assert_eq!(last["data"]["reason"], "shutdown");
    assert_eq!(server.wait().code, Some(0), "a server that was told to end");
}

#[test]
fn state_prints_a_line_per_list_and_change() {
    let server = Server::start(&["--sim-rate", "100", "--sim-pods", "12"]);
    let lines = server.run(&["state", "--max", "40"]).expect(0).json();
    assert_eq!(lines.len(), 40);
    for line in &lines {
        assert_eq!(fields(line), STATE);
    }
    assert_eq!(lines[0]["event"], Value::Null, "first the seed");
    let seeded = lines[0]["changed"].as_array().unwrap();
    assert_eq!(lines[0]["pods"], seeded.len());
    assert!(seeded.iter().all(|change| change["change"] == "added"));
    let mut count = lines[0]["pods"].as_i64().unwrap();
    let mut last = None;
    for line in &lines[1..] {
        check_event(&line["event"]);
        assert_eq!((&line["gap"], &line["cause"]), (&Value::Null, &Value::Null));
        let sequence = line["event"]["sequence"].as_u64().unwrap();
        assert!(last.is_none_or(|last| sequence == last + 1), "none left out: {last:?} then {sequence}");
        last = Some(sequence);
        for change in line["changed"].as_array().unwrap() {
            assert_eq!(fields(change), ["change", "name", "namespace"]);
            assert_eq!(key(change), key(&line["event"]["pod"]));
            count += match change["change"].as_str().unwrap() {
                "added" => 1,
                "removed" => -1,
                "modified" => 0,
                other => panic!("{other}"),
            };
        }
        assert_eq!(line["pods"], count);
    }
}

#[test]
fn state_with_pods_folds_every_event() {
    let server = Server::start(&["--sim-rate", "100", "--sim-pods", "12"]);
    let lines = server.run(&["state", "--pods", "--max", "40"]).expect(0).json();
    let mut expected: std::collections::BTreeMap<_, _> = Default::default();
    for (nth, line) in lines.iter().enumerate() {
        assert_eq!(without_pods(line), STATE);
        let pods = line["pod_set"].as_array().unwrap();
        assert_eq!(line["pods"], pods.len());
        if nth == 0 {
            expected = pods.iter().map(|pod| (key(pod), pod.clone())).collect();
        } else {
            let pod = &line["event"]["pod"];
            match line["event"]["type"].as_str().unwrap() {
                "DELETED" => drop(expected.remove(&key(pod))),
                _ => drop(expected.insert(key(pod), pod.clone())),
            }
        }
        assert!(pods.iter().eq(expected.values()), "line {nth}: sorted by namespace and name, and exact");
    }
}

#[test]
fn replay_goes_through_the_phases() {
    let server = Server::quiet(9);
    let log = history(server.addr);
    let lines = server.run(&["replay", "--exit-after-phase", "Live"]).expect(0).json();
    for line in &lines {
        assert_eq!(fields(line), REPLAY);
        assert_eq!((&line["gap"], &line["cause"]), (&Value::Null, &Value::Null));
    }
    // The phase `Live` begins after the second seed, although there is no event.
    assert_eq!(phases(&lines)[..4], ["CurrentSeed", "Backfill", "CatchupComplete", "CurrentSeed"]);
    let seed = &lines[0];
    assert_eq!((&seed["ack"], &seed["event"], &seed["pods"]), (&Value::Null, &Value::Null, &json!(9)));
    assert_eq!(seed["changed"].as_array().unwrap().len(), 9);
    for (line, event) in lines[1..10].iter().zip(&log) {
        assert_eq!(line["phase"], "Backfill");
        check_event(&line["event"]);
        assert_eq!(line["ack"], event["hash"]);
        assert_eq!(line["event"]["hash"], event["hash"]);
        assert_eq!((&line["pods"], &line["changed"]), (&json!(9), &json!([])), "the pods stay as they are");
    }
    assert_eq!(lines[10]["phase"], "CatchupComplete");
    assert_eq!(lines[10]["ack"], log[8]["hash"], "the position reached");
    assert_eq!((&lines[11]["phase"], &lines[11]["ack"]), (&json!("CurrentSeed"), &Value::Null));
}

#[test]
fn replay_with_pods_shows_them_sorted() {
    let server = Server::quiet(30);
    let lines = server.run(&["replay", "--pods", "--exit-after-phase", "Live"]).expect(0).json();
    let mut listed = server.run(&["pods"]).expect(0).json();
    listed.sort_by_key(key);
    for line in &lines {
        assert_eq!(without_pods(line), REPLAY);
        assert_eq!(line["pod_set"], Value::Array(listed.clone()));
    }

    // With `--apply-backfill` the pods show history: at the end of the replay they are those of the log's end, and the
    // next seed corrects them.
    let lines =
        server.run(&["replay", "--pods", "--apply-backfill", "--exit-after-phase", "Live"]).expect(0).json();
    let last = lines.iter().rfind(|line| line["phase"] == "Backfill").unwrap();
    assert_eq!(last["pod_set"], Value::Array(listed.clone()));
    assert_eq!(lines.last().unwrap()["pod_set"], Value::Array(listed));
}

#[test]
fn replay_ends_after_the_phase_asked_for() {
    let server = Server::quiet(3);
    for (phase, expected) in [
        ("CurrentSeed", vec!["CurrentSeed"]),
        ("Backfill", vec!["CurrentSeed", "Backfill"]),
        ("CatchupComplete", vec!["CurrentSeed", "Backfill", "CatchupComplete"]),
    ] {
        let lines = server.run(&["replay", "--exit-after-phase", phase]).expect(0).json();
        assert_eq!(phases(&lines), expected);
    }
}

/// Without this line, the table would not show why the command ends, because no event shows it.
#[test]
fn a_table_says_that_live_is_reached() {
    let server = Server::quiet(3);
    let args = ["replay", "--exit-after-phase", "Live", "-o", "table"];
    let table = server.run(&args).expect(0).stdout;
    let last = table.lines().last().unwrap();
    assert!(last.starts_with("Live is reached: "), "{table}");
    // A live event shows by itself that the phase is reached.
    let busy = Server::start(&["--sim-rate", "50", "--sim-pods", "3"]);
    let lines = busy.run(&["replay", "--exit-after-phase", "Live"]).expect(0).json();
    assert_eq!(phases(&lines).last(), Some(&"CurrentSeed"));
    assert_eq!(phases(&lines).len(), 4, "not a line more than what leads to it");
}

#[test]
fn filtered_replay_is_narrowed_and_exact() {
    let server = Server::start(&["--sim-rate", "400", "--sim-pods", "30"]);
    until_head(server.addr, 300);
    let wire = get(server.addr, "/events?namespace=prod&limit=1000").ok();
    let expected: Vec<_> =
        wire["events"].as_array().unwrap().iter().map(|event| event["hash"].clone()).collect();
    let client = server.follow(&["replay", "-n", "prod"]);
    let lines = client.until(|line| line["event"]["hash"] == *expected.last().unwrap());
    let seen: Vec<_> =
        lines.iter().filter(|line| !line["event"].is_null()).map(|l| l["event"]["hash"].clone()).collect();
    assert_eq!(seen, expected);
    assert!(lines.iter().all(|line| line["gap"].is_null() && line["phase"] != "ReconnectReseed"));
    assert!(lines.iter().all(|line| line["event"].is_null() || line["event"]["pod"]["namespace"] == "prod"));
}

#[test]
fn max_counts_lines_and_for_counts_time() {
    let server = Server::start(&["--sim-rate", "50", "--sim-pods", "5"]);
    for command in ["stream", "state", "replay"] {
        let lines = server.run(&[command, "--max", "7"]).expect(0).json();
        assert_eq!(lines.len(), 7, "{command}");
        let start = Instant::now();
        let done = server.run(&[command, "--for", "300ms"]).expect(0);
        assert!(start.elapsed() >= Duration::from_millis(300), "{command}");
        assert!(!done.json().is_empty(), "{command}");
    }
    let start = Instant::now();
    let quiet = Server::quiet(1);
    quiet.run(&["replay", "--for", "200ms"]).expect(0);
    assert!(start.elapsed() < DEADLINE);
}

#[test]
fn signals_end_with_their_codes() {
    let server = Server::quiet(2);
    for command in ["stream", "state", "replay"] {
        let client = server.follow(&[command]);
        client.json();
        client.signal("INT");
        assert_eq!(client.wait().code, Some(130), "{command}");
    }
    let interrupted = Server::quiet(2);
    interrupted.signal("INT");
    assert_eq!(interrupted.wait().code, Some(130), "serve");
    server.signal("TERM");
    assert_eq!(server.wait().code, Some(0), "serve");
}

#[test]
fn a_reader_that_leaves_is_no_error() {
    let server = Server::start(&["--sim-rate", "500", "--sim-pods", "20"]);
    until_head(server.addr, 100);
    for args in [vec!["stream"], vec!["state"], vec!["replay"], vec!["events"], vec!["pods"]] {
        let mut child = server.command(&args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        assert!(line.starts_with('{'), "{args:?}: {line}");
        drop(stdout);
        let mut errors = String::new();
        child.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
        let code = child.wait().unwrap().code();
        assert_eq!(code, Some(0), "{args:?}: {errors}");
        assert_eq!(errors, "", "{args:?}");
    }
}

#[test]
fn retried_errors_go_to_stderr_and_stdout_stays_json() {
    let port = ReservedPort::reserve();
    let listen = port.addr().to_string();
    let client = super::process::follow_at(&port.url(), &["replay", "--reconnect-cap", "50ms"]);
    let complaint = client.until_stderr(|text| text.lines().count() >= 2);
    assert!(complaint.contains(&listen), "names the URL: {complaint}");
    let _server = Server::start_at(&listen, &["--sim-rate", "0", "--sim-pods", "3"]);
    let lines = client.until_phase("CatchupComplete");
    assert_eq!(
        phases(&lines),
        ["CurrentSeed", "Backfill", "CatchupComplete"],
        "no reseed for a first connect that fails"
    );
    client.signal("INT");
    client.wait().json();
}

#[test]
fn demo_shows_all_six_phases_in_five_seconds() {
    let done = run(&["demo", "--for", "5s", "-o", "json"]).expect(0);
    let lines = done.json();
    for line in &lines {
        assert_eq!(fields(line), REPLAY);
    }
    let seen: BTreeSet<_> = lines.iter().map(|line| line["phase"].as_str().unwrap()).collect();
    let all = ["Backfill", "CatchupComplete", "CurrentSeed", "GapReseed", "Live", "ReconnectReseed"];
    assert_eq!(seen, BTreeSet::from(all));
    for line in &lines {
        match line["phase"].as_str().unwrap() {
            "GapReseed" => {
                assert!(line["gap"]["reason"].is_string(), "{line}");
                assert_eq!((&line["ack"], &line["event"]), (&Value::Null, &Value::Null));
            }
            "ReconnectReseed" => {
                assert!(line["cause"].as_str().is_some_and(|cause| !cause.is_empty()), "{line}");
                assert_eq!(
                    (&line["ack"], &line["event"], &line["gap"]),
                    (&Value::Null, &Value::Null, &Value::Null)
                );
            }
            "Backfill" | "Live" => assert_eq!(line["ack"], line["event"]["hash"]),
            "CatchupComplete" => assert!(line["ack"].is_string()),
            _ => assert_eq!(line["ack"], Value::Null),
        }
    }
}

#[test]
fn demo_speaks_plainly_and_ends_on_interrupt() {
    let demo = Running::start(relay(&["demo", "-o", "table"]));
    let first = demo.line().unwrap();
    assert!(!first.starts_with('{'), "{first}");
    demo.signal("INT");
    assert_eq!(demo.wait().code, Some(130));
}
