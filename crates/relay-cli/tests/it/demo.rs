//! The output of `relay demo` for people; its JSON is tested with the commands that follow.

use std::time::Instant;

use super::process::{Running, relay};

/// The number of the event that a line is about.
fn event_number(line: &str) -> Option<u64> {
    let mut words = line.split_whitespace();
    let number = words.nth(1)?.strip_prefix('#')?.parse().ok()?;
    words.next().is_some_and(|kind| ["ADDED", "MODIFIED", "DELETED"].contains(&kind)).then_some(number)
}

/// The index of the first line that starts like this.
#[track_caller]
fn at(lines: &[String], start: &str) -> usize {
    let found = lines.iter().position(|line| line.starts_with(start));
    found.unwrap_or_else(|| panic!("no line begins with {start:?}:\n{}", lines.join("\n")))
}

#[test]
fn demo_explains_a_cut_and_a_gap_slowly_and_ends_with_a_verdict() {
    let start = Instant::now();
    let demo = Running::start(relay(&["demo", "-o", "table"]));
    let mut lines: Vec<String> = Vec::new();
    let mut is_after_gap = false;
    while !(is_after_gap && lines.last().is_some_and(|line| event_number(line).is_some())) {
        let line = demo.line().unwrap_or_else(|| panic!("it ends by itself:\n{}", lines.join("\n")));
        is_after_gap |= line.starts_with("GapReseed: ");
        lines.push(line);
    }
    demo.signal("INT");
    let done = demo.wait().expect(130);
    let seconds = start.elapsed().as_secs() + 1;
    assert_eq!(done.stderr, "", "an orderly end is no reason to warn");
    lines.extend(done.stdout.lines().map(str::to_owned));

    let events = lines.iter().filter(|line| event_number(line).is_some()).count() as u64;
    assert!(events <= 4 * seconds, "{events} events in {seconds} s:\n{}", lines.join("\n"));

    let headings =
        ["CurrentSeed: ", "Backfill: ", "CatchupComplete: ", "Live: "].map(|start| at(&lines, start));
    assert!(headings.is_sorted(), "{headings:?}");
    for (title, phase) in [("---- The cut ", "ReconnectReseed: "), ("---- The gap ", "GapReseed: ")] {
        let title = at(&lines, title);
        assert_eq!(lines[title - 1], "", "it is set off");
        assert!(lines[title + 1].starts_with(phase), "{}", lines[title + 1]);
    }

    // The numbers are those that were printed when the cut and the gap happened.
    let told = &lines[at(&lines, "ReconnectReseed: ")];
    let cut =
        told.split_whitespace().find_map(|word| word.strip_prefix('#')).unwrap().trim_end_matches([',', ';']);
    let gap = lines.iter().find(|line| line.contains("gap (slow-consumer): ")).unwrap();
    let lost = gap.split("gap (slow-consumer): ").nth(1).unwrap().split(' ').next().unwrap();
    let verdict = &lines[lines.len() - 2];
    assert!(verdict.starts_with("Verdict, by the events' numbers (lost: never came; twice: "), "{verdict}");
    assert!(told.ends_with("; the relay did not say why"), "{told}");
    assert_eq!(
        lines[lines.len() - 1],
        format!("cut after #{cut}: resumed, 0 lost, 0 twice; gap: {lost} lost, announced, list read again")
    );
}

#[test]
fn demo_that_ends_before_anything_went_wrong_says_only_what_it_saw() {
    let done = super::process::run(&["demo", "-o", "table", "--for", "1ms"]).expect(0);
    let last = done.stdout.lines().last().unwrap();
    assert!(last.ends_with(" events from the start: 0 lost, 0 twice"), "{last}");
    assert_eq!(done.stderr, "");
}
