//! The case files of `fixtures/sse`, with every chunking.

use crate::sse_cases::{Case, parse};

#[track_caller]
fn check(file: &str, at_least: usize) {
    let cases = parse(file).expect("a case file");
    assert!(cases.len() >= at_least, "{} cases were read", cases.len());
    let failures: Vec<String> = cases.iter().filter_map(|case| case.check().err()).collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn interpretation() {
    check(include_str!("../../../../fixtures/sse/interpretation.txt"), 55);
}

#[test]
fn limits() {
    check(include_str!("../../../../fixtures/sse/limits.txt"), 20);
}

#[test]
fn every_case_has_a_name_of_its_own_and_says_the_last_id() {
    let mut names: Vec<String> = Vec::new();
    for file in [
        include_str!("../../../../fixtures/sse/interpretation.txt"),
        include_str!("../../../../fixtures/sse/limits.txt"),
    ] {
        for Case { name, last_event_id, .. } in parse(file).unwrap() {
            assert!(last_event_id.is_some(), "{name}");
            assert!(!names.contains(&name), "{name}");
            names.push(name);
        }
    }
}

/// Tests the checker itself: a wrong expectation is reported with its chunking.
#[test]
fn a_wrong_case_fails() {
    let wrong = |frames: &str| {
        let file = format!("case x\n in \"data: a\\n\\n\"\n {frames}\n last-id \"\"\n");
        parse(&file).unwrap()[0].check()
    };
    assert_eq!(wrong("event \"message\" \"a\" \"\"").unwrap(), 1 + 3 + 10);
    assert!(wrong("event \"message\" \"b\" \"\"").unwrap_err().starts_with("x: whole: expected"));
    assert!(parse("case x\n in data\n").is_err());
}
