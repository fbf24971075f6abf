//! `--cursor-file`: its content, its refusals, and resuming without loss.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::process::{Server, fields};
use super::wire::{eventually, history, until_head};

fn place() -> (TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cursor.json").to_str().unwrap().to_owned();
    (dir, path)
}

fn stored(path: &str) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn sequences(lines: &[Value]) -> Vec<u64> {
    lines.iter().filter_map(|line| line["event"]["sequence"].as_u64()).collect()
}

#[test]
fn the_file_holds_the_last_acknowledgement() {
    let server = Server::quiet(8);
    let log = history(server.addr);
    let (dir, path) = place();

    let lines = server.run(&["replay", "--cursor-file", &path, "--max", "4"]).expect(0).json();
    let file = stored(&path);
    assert_eq!(fields(&file), ["filter", "hash", "version"]);
    assert_eq!(file["version"], 1);
    assert_eq!(file["hash"], lines[3]["ack"]);
    assert_eq!(file["hash"], log[2]["hash"], "a seed, then three events");

    let lines =
        server.run(&["replay", "--cursor-file", &path, "--exit-after-phase", "Live"]).expect(0).json();
    assert_eq!(sequences(&lines), [4, 5, 6, 7, 8]);
    assert_eq!(stored(&path)["hash"], log[7]["hash"]);

    // There are no new events: nothing is replayed, and the position stays the same.
    let lines =
        server.run(&["replay", "--cursor-file", &path, "--exit-after-phase", "Live"]).expect(0).json();
    assert!(sequences(&lines).is_empty());
    assert_eq!(stored(&path)["hash"], log[7]["hash"]);
    // Replacing the file leaves no other file beside it, except a lock.
    let mut beside: Vec<_> =
        std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    beside.retain(|name| !name.to_string_lossy().ends_with(".lock"));
    assert_eq!(beside, ["cursor.json"]);
}

#[test]
fn another_filter_is_refused_and_both_are_named() {
    let server = Server::quiet(20);
    let (_dir, path) = place();
    let args = ["replay", "--cursor-file", &path, "--exit-after-phase", "Live"];
    let with = |extra: &[&str]| {
        let mut all = args.to_vec();
        all.extend(extra);
        server.run(&all)
    };
    with(&["-n", "prod", "-l", "app"]).expect(0);
    let before = std::fs::read_to_string(&path).unwrap();
    for other in [vec!["-n", "staging"], vec![], vec!["-n", "prod"], vec!["-n", "prod", "-l", "app=web"]] {
        let done = with(&other);
        assert!(matches!(done.code, Some(1 | 2)), "{other:?}: {done:?}");
        assert_eq!(done.stdout, "", "{other:?}");
        assert!(done.stderr.contains(&path), "names the file: {}", done.stderr);
        assert!(
            done.stderr.contains("prod") && done.stderr.contains("app"),
            "names its filter: {}",
            done.stderr
        );
        if let [_, namespace] = other[..] {
            assert!(done.stderr.contains(namespace), "names the one asked for: {}", done.stderr);
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap(), before, "left as it was");
    }
    with(&["-l", "app", "-n", "prod"]).expect(0);
}

#[test]
fn a_corrupt_file_is_an_error_that_names_it() {
    let server = Server::quiet(2);
    for text in [
        "",
        "garbage",
        "{\"version\":1}",
        "{\"version\":99,\"hash\":\"x\",\"filter\":\"\"}",
        "[]",
        "{\"version\":1,\"hash\":\"a",
    ] {
        let (_dir, path) = place();
        std::fs::write(&path, text).unwrap();
        let done = server.run(&["replay", "--cursor-file", &path, "--exit-after-phase", "Live"]);
        assert_eq!(done.code, Some(1), "{text}: {done:?}");
        assert_eq!(done.stdout, "", "{text}");
        assert!(done.stderr.contains(&path), "{text}: {}", done.stderr);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text, "left as it was");
    }
}

#[test]
fn a_place_that_cannot_be_written_is_an_error() {
    let server = Server::quiet(2);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("no/such/directory/cursor.json").to_str().unwrap().to_owned();
    let done = server.run(&["replay", "--cursor-file", &path, "--exit-after-phase", "Live"]);
    assert_eq!(done.code, Some(1), "{done:?}");
    assert!(done.stderr.contains(&path), "{}", done.stderr);
}

#[test]
fn since_hash_beats_the_file_with_a_note() {
    let server = Server::quiet(10);
    let log = history(server.addr);
    let (_dir, path) = place();
    server.run(&["replay", "--cursor-file", &path, "--exit-after-phase", "Live"]).expect(0);
    let since = log[6]["hash"].as_str().unwrap();
    let args = ["replay", "--cursor-file", &path, "--since-hash", since, "--exit-after-phase", "Live"];
    let done = server.run(&args).expect(0);
    assert_eq!(sequences(&done.json()), [8, 9, 10]);
    let note = done
        .stderr
        .lines()
        .find(|line| line.contains("since-hash"))
        .unwrap_or_else(|| panic!("{}", done.stderr));
    assert!(note.contains(&path) || note.contains("cursor-file") || note.contains("cursor file"), "{note}");
    assert_eq!(stored(&path)["hash"], log[9]["hash"], "and the file goes on");
}

#[test]
fn a_foreign_position_in_the_file_is_a_gap() {
    let server = Server::quiet(6);
    let (_dir, path) = place();
    server.run(&["replay", "--cursor-file", &path, "--exit-after-phase", "Live"]).expect(0);
    let old = stored(&path);
    let other = Server::quiet(6);
    let done = other.run(&["replay", "--cursor-file", &path, "--exit-after-phase", "Live"]).expect(0);
    let lines = done.json();
    let gap = lines.iter().find(|line| line["phase"] == "GapReseed").expect("announced");
    assert_eq!(gap["gap"]["reason"], "cursor-unknown");
    assert_eq!(gap["gap"]["requested_hash"], old["hash"]);
    assert_eq!(gap["ack"], Value::Null);
    assert_eq!(sequences(&lines), [1, 2, 3, 4, 5, 6]);
    assert_ne!(stored(&path)["hash"], old["hash"]);
    assert_eq!(stored(&path)["filter"], old["filter"]);
    assert_eq!(stored(&path)["version"], json!(1));
}

/// No event of the log passes the filter, but heartbeats still move the position.
#[test]
fn bookmarks_move_the_file_of_a_quiet_filter() {
    let server = Server::start(&["--sim-rate", "100", "--sim-pods", "5", "--heartbeat", "50ms"]);
    let (_dir, path) = place();
    let client = server.follow(&["replay", "-l", "no.such/label", "--cursor-file", &path]);
    client.until_phase("CatchupComplete");
    let stored_after = |old: Option<&str>| {
        eventually("the position to move", || {
            let text = std::fs::read_to_string(&path).ok()?;
            let hash = serde_json::from_str::<Value>(&text).expect("whole at any moment")["hash"]
                .as_str()?
                .to_owned();
            (Some(hash.as_str()) != old).then_some(hash)
        })
    };
    let first = stored_after(None);
    let second = stored_after(Some(&first));
    let third = stored_after(Some(&second));
    let sequence = |hash: &str| {
        let events = history(server.addr);
        events.iter().find(|event| event["hash"] == hash).map(|event| event["sequence"].as_u64().unwrap())
    };
    let moved = [sequence(&first), sequence(&second), sequence(&third)];
    assert!(moved.is_sorted() && moved[1].is_some() && moved[1] < moved[2], "{moved:?}");
}

/// The client is killed again and again at random moments. The lines of all its runs together must cover the log.
#[test]
fn kill_minus_nine_loses_nothing() {
    let server = Server::start(&["--sim-rate", "1000", "--sim-pods", "30"]);
    let (_dir, path) = place();
    let mut seen = BTreeSet::new();
    let mut last = 0;
    for life in 0..6 {
        let client = server.follow(&["replay", "--cursor-file", &path]);
        let goal = last + 150 + 31 * life;
        let lines =
            client.until(|line| line["event"]["sequence"].as_u64().is_some_and(|sequence| sequence >= goal));
        client.signal("KILL");
        // Lines that it wrote before it was killed count as well.
        let rest = client.wait();
        let mut complete: Vec<&str> = rest.stdout.lines().collect();
        if complete.last().is_some_and(|line| serde_json::from_str::<Value>(line).is_err()) {
            complete.pop();
        }
        let rest: Vec<Value> = complete.into_iter().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert!(lines.iter().chain(&rest).all(|line| line["gap"].is_null()), "no gap");
        let mut of_this_life = sequences(&lines);
        of_this_life.extend(sequences(&rest));
        assert!(of_this_life.is_sorted(), "in order");
        assert!(of_this_life[0] <= last + 1, "life {life} begins with {}, after {last}", of_this_life[0]);
        last = *of_this_life.last().unwrap();
        seen.extend(of_this_life);
        if Path::new(&path).exists() {
            assert_eq!(stored(&path)["version"], 1, "whole at any moment");
        }
    }
    until_head(server.addr, last);
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), (1..=last).collect::<Vec<_>>());
}
