//! The conversations and messages of auto-configuration streams pass, and wrong ones fail.

use std::path::{Path, PathBuf};

use relay_conformance::{AutoconfigMessage, AutoconfigReport};

fn fixtures(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(name)
}

#[test]
fn every_conversation_holds() {
    let report = AutoconfigReport::of(&fixtures("autoconfig")).unwrap();
    assert!(report.conversations() >= 48, "{} conversations are not all there were", report.conversations());
    assert!(report.failures().is_empty(), "{report}");
}

#[test]
fn every_message_means_the_same_however_it_is_cut() {
    let messages = AutoconfigMessage::read_all(&fixtures("autoconfig-wire")).unwrap();
    assert!(messages.len() >= 38, "{} messages are not all there were", messages.len());
    for message in &messages {
        for chunk in [1, 2, 3, 7, 64, usize::MAX] {
            message.play(chunk).unwrap_or_else(|why| panic!("in chunks of {chunk}: {why}"));
        }
    }
}

const HELD: &str = r#"{"name":"x","about":"an environment, and the end of its connection"}
{"line":{"event":"status","state":"initializing"}}
{"answer":200}
{"line":{"event":"status","connected":true}}
{"event":"patch","data":{"path":"/environments/a","data":{"envID":"a","version":1,"sdkKey":{"value":"k","expiring":{"value":"o","timestamp":1000500}}}}}
{"line":{"event":"add","id":"a","version":1}}
{"line":{"event":"status","state":"valid"}}
{"time":501}
{"line":{"event":"key_expired","id":"a"}}
{"end":"cut"}
{"line":{"event":"status","state":"interrupted"}}
"#;

/// The failures of a conversation, in both ways.
fn failures(text: &str) -> Vec<String> {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("x.jsonl"), text).unwrap();
    AutoconfigReport::of(directory.path()).unwrap().failures().to_vec()
}

#[test]
fn what_is_not_so_is_found_both_ways() {
    assert_eq!(failures(HELD), [""; 0]);
    for (from, to) in [
        (r#""id":"a","version":1"#, r#""id":"a","version":2"#),
        (r#""state":"valid"}}"#, r#""state":"valid","configured":true}}"#),
        (
            r#"{"time":501}"#,
            r#"{"time":501}
{"line":{"event":"add"}}"#,
        ),
        (
            r#"{"line":{"event":"key_expired","id":"a"}}
"#,
            "",
        ),
        (
            r#"{"line":{"event":"status","state":"interrupted"}}
"#,
            "",
        ),
        (
            r#"{"end":"cut"}"#,
            r#"{"end":"cut"}
{"line":{"event":"received_all"}}"#,
        ),
    ] {
        assert!(HELD.contains(from), "{from}");
        let failures = failures(&HELD.replace(from, to));
        assert_eq!(failures.len(), 2, "{from} {to}: {failures:?}");
    }
    let directory = tempfile::tempdir().unwrap();
    for (text, words) in [
        ("", "empty"),
        ("{\"name\":\"y\",\"about\":\"\"}", "name"),
        ("{\"name\":\"x\",\"about\":\"\"}\n{\"end\":\"never\"}", ":2"),
        ("{\"name\":\"x\",\"about\":\"\"}\n{\"answer\":200,\"more\":1}", "more"),
    ] {
        std::fs::write(directory.path().join("x.jsonl"), text).unwrap();
        let mistake = AutoconfigReport::of(directory.path()).unwrap_err().to_string();
        assert!(mistake.contains(words), "{mistake}");
    }
}
