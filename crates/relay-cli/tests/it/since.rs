//! `--since` and `--since-time` of `events` and `replay`.

use serde_json::Value;

use super::process::{Server, run};
use super::wire::history;

fn hashes(events: &[Value]) -> Vec<&Value> {
    events.iter().map(|event| &event["hash"]).collect()
}

#[test]
fn since_and_since_time_choose_where_events_and_replay_begin() {
    let server = Server::quiet(6);
    let log = history(server.addr);
    let log: Vec<_> = log.iter().map(|event| &event["hash"]).collect();
    assert_eq!(log.len(), 6);
    for (flags, count) in [
        (["--since", "1h"], 6),
        (["--since", "100000d"], 6),
        (["--since-time", "1970-01-01T00:00:00Z"], 6),
        (["--since-time", "1970-01-01T01:00:00+01:00"], 6),
        (["--since-time", "9999-12-31T23:59:59.0000000001Z"], 0),
    ] {
        let events = server.run(&[&["events"], &flags[..]].concat()).expect(0).json();
        assert_eq!(hashes(&events), log[6 - count..], "{flags:?}");
        let newest = server.run(&[&["events", "--order", "newest", "--limit", "2"], &flags[..]].concat());
        assert_eq!(newest.expect(0).json().len(), count, "{flags:?}: page after page");
        let oldest = server.run(&[&["events", "--limit", "2"], &flags[..]].concat());
        assert_eq!(hashes(&oldest.expect(0).json()), log[6 - count..], "{flags:?}: page after page");

        let replay = server.run(&[&["replay", "--exit-after-phase", "Live"], &flags[..]].concat());
        let lines = replay.expect(0).json();
        let replayed = lines.iter().filter(|line| line["event"]["sequence"].is_u64()).count();
        assert_eq!(replayed, count, "{flags:?}: {lines:?}");
        assert!(lines.iter().all(|line| line["gap"].is_null()), "{flags:?}: {lines:?}");
    }
}

#[test]
fn a_time_before_what_is_retained_is_a_gap_of_replay_and_refused_by_events() {
    let server = Server::start(&["--sim-rate", "0", "--sim-pods", "6", "--retain-events", "2"]);
    let refused = server.run(&["events", "--since", "1h"]).expect(1);
    assert_eq!(refused.stdout, "");
    assert!(refused.stderr.contains("since_time"), "{}", refused.stderr);
    let lines = server.run(&["replay", "--since", "1h", "--exit-after-phase", "Live"]).expect(0).json();
    let gap = lines.iter().find(|line| line["phase"] == "GapReseed").expect("announced");
    assert_eq!(
        (gap["gap"]["reason"].as_str(), &gap["gap"]["requested_hash"]),
        (Some("cursor-expired"), &().into())
    );
    let replayed: Vec<_> = lines.iter().filter_map(|line| line["event"]["sequence"].as_u64()).collect();
    assert_eq!(replayed, [5, 6]);
}

#[test]
fn a_time_goes_before_the_cursor_file_with_a_note() {
    let server = Server::quiet(4);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cursor.json").to_str().unwrap().to_owned();
    let args = ["replay", "--cursor-file", &path, "--exit-after-phase", "Live"];
    // At first there is no position in it that could be left out.
    let first = server.run(&[&args[..], &["--since", "1h"]].concat()).expect(0);
    assert!(!first.stderr.contains("cursor file"), "{}", first.stderr);
    let again = server.run(&[&args[..], &["--since", "1h"]].concat()).expect(0);
    let replayed = again.json().iter().filter(|line| line["event"]["sequence"].is_u64()).count();
    assert_eq!(replayed, 4);
    assert!(again.stderr.contains("cursor file is not used"), "{}", again.stderr);
}

#[test]
fn wrong_times_and_two_beginnings_are_wrong_usage() {
    for command in ["events", "replay"] {
        for (flags, named) in [
            (vec!["--since", "5"], "--since"),
            (vec!["--since", "yesterday"], "--since"),
            (vec!["--since-time", "5m"], "RFC 3339"),
            (vec!["--since-time", "2026-11-21"], "RFC 3339"),
            (vec!["--since-time", "2026-11-21T09:00:00+24:00"], "RFC 3339"),
            (vec!["--since-time", ""], "--since-time"),
            (vec!["--since", "5m", "--since-time", "2026-11-21T09:00:00Z"], "--since-time"),
            (vec!["--since", "5m", "--since-hash", "x"], "--since-hash"),
            (vec!["--since-time", "2026-11-21T09:00:00Z", "--since-hash", "x"], "--since-hash"),
        ] {
            let done = run(&[&[command], &flags[..]].concat()).expect(2);
            assert!(done.stderr.contains(named), "{flags:?}: {}", done.stderr);
        }
    }
}
