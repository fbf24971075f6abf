//! The conversations of this repository pass, and wrong ones fail.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

mod autoconfig;

use std::path::Path;

use relay_conformance::{Conversation, Report, play_http, play_pure};

/// Every conversation of `fixtures/pods`, in both ways.
#[test]
fn every_conversation_holds() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/pods");
    let report = Report::of(&directory).unwrap();
    assert!(report.conversations() >= 140, "{} conversations are not all there were", report.conversations());
    assert!(report.failures().next().is_none(), "{report}");
}

const HELD: &str = r#"{"name":"x","about":"a seed and a replayed event","mode":"replay","options":{"since":"h3"}}
{"list":{"pods":[{"namespace":"prod","name":"web-1"}],"hash":"h5","sequence":5,"epoch":"e"}}
{"expect":{"phase":"CurrentSeed","pods":["prod/web-1"],"changed":["added prod/web-1"]}}
{"connect":{"since":"h3"}}
{"sse":"connected","data":{"epoch":"e","resumes_after":{"hash":"h3","sequence":3},"filtered":false,"heartbeat_seconds":1}}
{"sse":"pod","id":"h4","data":{"type":"MODIFIED","hash":"h4","sequence":4,"pod":{"namespace":"prod","name":"web-1"}}}
{"expect":{"phase":"Backfill","event":"h4","ack":"h4"}}
{"end":"cut"}
{"list":{"pods":[{"namespace":"prod","name":"web-1"}],"hash":"h5","sequence":5,"epoch":"e"}}
{"expect":{"phase":"ReconnectReseed","cause":"ended"}}
{"connect":{"since":"h4"}}
{"finally":{"acknowledged":"h4","counts":{"duplicates":0}}}
"#;

/// Plays a conversation in both ways.
fn play(text: &str) -> [Result<(), String>; 2] {
    let conversation = Conversation::parse("x", text).unwrap();
    [play_pure(&conversation), play_http(&conversation)]
}

#[test]
fn what_is_not_so_is_found_both_ways() {
    assert_eq!(play(HELD), [Ok(()), Ok(())]);
    let rows: [(&str, &str, &str); 14] = [
        // A change to a conversation that passes, and the line of the difference.
        (r#""phase":"Backfill""#, r#""phase":"Live""#, "+ Backfill event=h4"),
        (r#""event":"h4""#, r#""event":"h5""#, "- Backfill event=h5"),
        (r#","ack":"h4""#, "", "- Backfill event=h4 pods"),
        (r#""cause":"ended""#, r#""cause":"hole""#, "+ ReconnectReseed cause=ended"),
        (r#""changed":["added prod/web-1"]"#, r#""changed":[]"#, "- CurrentSeed pods"),
        (r#""pods":["prod/web-1"]"#, r#""pods":["prod/web-2"]"#, "pods=[prod/web-2]"),
        (r#""pods":["prod/web-1"]"#, r#""pods":[]"#, "- CurrentSeed changed=[added prod/web-1] pods=[]"),
        (
            r#"{"connect":{"since":"h4"}}"#,
            r#"{"connect":{"since":"h3"}}"#,
            "+ GET /events/stream since_hash=h4",
        ),
        (r#""acknowledged":"h4""#, r#""acknowledged":null"#, "- finally acknowledged=none"),
        (r#""duplicates":0"#, r#""duplicates":1"#, "+ finally acknowledged=h4 duplicates=0"),
        (r#""sequence":4,"#, r#""sequence":5,"#, "- Backfill event=h4"),
        // A missing request, an additional answer, and a line that comes too early.
        (r#"{"end":"cut"}"#, r#"{"end":"client"}"#, "- ReconnectReseed"),
        (r#"{"connect":{"since":"h4"}}"#, r#"{"list":[]}"#, "- GET /pods"),
        (r#"{"expect":{"phase":"Backfill","event":"h4","ack":"h4"}}"#, "", "+ Backfill event=h4"),
    ];
    for (from, to, difference) in rows {
        assert!(HELD.contains(from), "{from}");
        let conversation = Conversation::parse("x", &HELD.replace(from, to)).unwrap();
        for (way, play) in [("pure", play_pure as fn(&Conversation) -> _), ("http", play_http)] {
            let shown: Result<(), String> = play(&conversation);
            let shown = shown.expect_err(&format!("{way}: {to} is not so"));
            assert!(shown.contains(difference), "{way}, {to}:\n{shown}");
        }
    }
}

#[test]
fn a_report_counts_and_shows_what_fails() {
    let directory = tempfile::tempdir().unwrap();
    let bad = HELD.replace(r#""phase":"Backfill""#, r#""phase":"Live""#);
    std::fs::write(directory.path().join("x.jsonl"), HELD).unwrap();
    std::fs::write(directory.path().join("y.jsonl"), bad.replace(r#""name":"x""#, r#""name":"y""#)).unwrap();
    std::fs::write(directory.path().join("README.md"), "not a conversation").unwrap();
    let report = Report::of(directory.path()).unwrap();
    assert_eq!((report.conversations(), report.failures().collect::<Vec<_>>()), (2, vec!["y", "y"]));
    let text = report.to_string();
    assert!(text.contains("FAILED y (the pure machines): a seed and a replayed event\n"), "{text}");
    assert!(text.contains("     7 - Live event=h4 ack=h4 pods=[prod/web-1]\n"), "{text}");
    assert!(text.ends_with(
        "1 of 2 conversations hold against the pure machines\n1 of 2 conversations hold against real HTTP\n"
    ));
}
