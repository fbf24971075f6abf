use super::*;
use crate::pods::script::{Input, input};

fn show(verdict: &Verdict) -> String {
    let gap = |gap: &Gap| {
        let hash = gap.hash.as_ref().map_or("?", |h| h.as_str());
        format!("{}@{hash}/{}", gap.reason.as_str(), gap.sequence.map_or("?".into(), |s| s.to_string()))
    };
    match verdict {
        Verdict::Accept => "ok".into(),
        Verdict::AcceptAsCatchup(_) => "catchup".into(),
        Verdict::Ignore(why) => format!("{why:?}"),
        Verdict::Hole(cause) => format!("hole:{cause:?}"),
        Verdict::Gap(g) => format!("gap:{}", gap(g)),
        Verdict::GapBefore(g) => format!("gap-before:{}", gap(g)),
    }
}

/// Plays a conversation like a driver: a hole drops the connection, and after a gap before a message the message is
/// checked again.
fn play(since: Option<&str>, narrowed: bool, script: &str) -> (Continuity, Vec<String>) {
    let mut fold = Continuity::new(since.map(|h| EventHash::new(h).unwrap()), narrowed);
    let mut verdicts = Vec::new();
    for word in script.split_whitespace() {
        match input(word) {
            Input::Drop => {
                fold.handle_dropped();
            }
            Input::Seed(_) => panic!("no seeds here"),
            Input::Message(message) => loop {
                let verdict = fold.check(&message);
                verdicts.push(show(&verdict));
                match verdict {
                    Verdict::Hole(_) => {
                        fold.handle_dropped();
                    }
                    Verdict::GapBefore(_) => continue,
                    _ => {}
                }
                break;
            },
        }
    }
    (fold, verdicts)
}

/// One row for each rule and each of its edge cases: cursor, script, the verdicts on the messages after `|`, the resume
/// position.
#[rustfmt::skip]
const RULES: &[(&str, Option<&str>, &str, &str, &str)] = &[
    // 1: connected comes first, and once
    ("1-first-is-connected",       Some("h3"), "| conn@3", "ok", "h3"),
    ("1-pod-first",                Some("h3"), "| pod@4", "hole:NotConnected", "h3"),
    ("1-heartbeat-first",          Some("h3"), "| hb@3", "hole:NotConnected", "h3"),
    ("1-undecodable-first",        Some("h3"), "| bad@4", "hole:NotConnected", "h3"),
    ("1-pod-first-twice",          Some("h3"), "pod@4 | pod@4", "gap-before:hole@h3/3 ok", "h4"),
    ("1-goes-on-as-unfiltered",    Some("h3"), "pod@4 pod@4 | pod@6", "hole:SequenceJump", "h4"),
    ("1-second-connected",         Some("h3"), "conn@3 | conn@3", "hole:SecondConnected", "h3"),
    ("1-second-connected-twice",   Some("h3"), "conn@3 conn@3 conn@3 | conn@3", "gap-before:hole@h3/3 ok", "h3"),
    ("1-closing-and-unknown-pass", Some("h3"), "| closing new", "ok Unknown", "h3"),
    // 2: resuming elsewhere is announced
    ("2-restored-elsewhere-gap",   Some("h3"), "conn@9 | gap@9", "gap:cursor-expired@h9/9", "h9"),
    ("2-restored-elsewhere-pod",   Some("h3"), "conn@9 | pod@10", "hole:UnannouncedGap", "h3"),
    ("2-restored-elsewhere-twice", Some("h3"), "conn@9 pod@10 conn@9 | pod@10", "gap-before:hole@h9/9 ok", "h10"),
    ("2-restored-lower",           Some("h3"), "conn@1 | pod@2", "hole:UnannouncedGap", "h3"),
    ("2-known-above",              Some("h3"), "conn@3 pod@4 drop conn@6 | pod@7", "hole:UnannouncedGap", "h4"),
    ("2-known-above-gap",          Some("h3"), "conn@3 pod@4 drop conn@6 | gap@6 pod@7", "gap:cursor-expired@h6/6 ok", "h7"),
    ("2-known-below-is-repeat",    Some("h3"), "conn@3 pod@4 pod@5 drop conn@4 | pod@5 pod@6", "Duplicate ok", "h6"),
    ("2-no-cursor-takes-start",    None,       "conn@7 | pod@8", "ok", "h8"),
    ("2-no-cursor-start-is-resume",None,       "| conn@7", "ok", "h7"),
    ("2-no-cursor-hole-after-start",None,      "conn@7 | pod@9", "hole:SequenceJump", "h7"),
    // 3: a new epoch without a gap
    ("3-new-epoch",                Some("h3"), "conn@3 pod@4 drop conn@0f | pod@1f", "gap-before:epoch-changed@f0/0 ok", "f1"),
    ("3-new-epoch-on-heartbeat",   Some("h3"), "conn@3 pod@4 drop conn@2f | hb!@2f", "gap-before:epoch-changed@f2/2 ok", "f2"),
    ("3-new-epoch-with-gap",       Some("h3"), "conn@3 pod@4 drop conn@0f | gap@0f pod@1f", "gap:cursor-expired@f0/0 ok", "f1"),
    ("3-judged-after-connected",   Some("h3"), "conn@3 pod@4 drop conn@0f drop conn@4 | pod@5", "ok", "h5"),
    ("3-lower-sequence-is-new",    Some("h3"), "conn@3 pod@4 drop conn@0f gap@0f | pod@1f pod@2f pod@2f", "ok ok Duplicate", "f2"),
    ("3-gap-lost-then-epoch",      Some("h3"), "conn@3 pod@4 drop narrow@0f gap@0f#2 narrow@0f | pod@1f#1", "gap-before:epoch-changed@f0/0 ok", "f1"),
    // 4: sent counts on filtered streams
    ("4-counts",                   Some("h3"), "narrow@3 | pod@5#1 pod@9#2 hb!@12#2 catch@12#2", "ok ok ok ok", "h12"),
    ("4-pod-lost",                 Some("h3"), "narrow@3 pod@5#1 | pod@9#3", "hole:SentCount", "h5"),
    ("4-pod-lost-at-heartbeat",    Some("h3"), "narrow@3 pod@5#1 | hb@9#2", "hole:SentCount", "h5"),
    ("4-pod-lost-at-catchup",      Some("h3"), "narrow@3 pod@5#1 | catch@9#2", "hole:SentCount", "h5"),
    ("4-pod-lost-at-gap",          Some("h3"), "narrow@3 pod@5#1 | gap@9#3", "hole:SentCount", "h5"),
    ("4-gap-counts",               Some("h3"), "narrow@3 gap@7#1 | pod@9#2", "ok", "h9"),
    ("4-undecodable-counts",       Some("h3"), "narrow@3 bad@5 big@6 | pod@9#3", "ok", "h9"),
    ("4-lost-twice",               Some("h3"), "narrow@3 pod@5#1 pod@9#3 narrow@5 | pod@9#2 pod@10#3", "gap-before:hole@?/8 ok ok", "h10"),
    ("4-lost-twice-at-heartbeat",  Some("h3"), "narrow@3 hb@9#1 narrow@3 | hb@9#1 pod@10#2", "gap-before:hole@h9/9 catchup ok", "h10"),
    ("4-a-duplicate-counts",       Some("h3"), "narrow@3 pod@5#1 drop narrow@3 | pod@5#1 pod@6#2", "Duplicate ok", "h6"),
    ("4-absent-on-unfiltered",     Some("h3"), "conn@3 | pod@4", "ok", "h4"),
    // 5: duplicates and rewinds
    ("5-duplicate",                Some("h3"), "conn@3 pod@4 | pod@4", "Duplicate", "h4"),
    ("5-older",                    Some("h3"), "conn@3 pod@4 pod@5 | pod@4", "Duplicate", "h5"),
    ("5-rewind",                   Some("h3"), "conn@3 pod@4 | pod@4x", "gap-before:rewind@h3/3 ok", "x4"),
    ("5-rewind-on-filtered",       Some("h3"), "narrow@3 pod@4#1 | pod@4x#2", "gap-before:rewind@?/3 ok", "x4"),
    ("5-rewind-at-heartbeat",      Some("h3"), "conn@3 pod@4 | hb!@4x", "gap-before:rewind@x4/4 ok", "x4"),
    ("5-second-catchup",           Some("h3"), "conn@3 catch@3 | catch@3", "SecondCatchup", "h3"),
    ("5-catchup-per-connection",   Some("h3"), "conn@3 catch@3 drop conn@3 | catch@3", "ok", "h3"),
    ("5-bookmark-never-backwards", Some("h3"), "narrow@3 pod@9#1 | hb!@5#1 catch@6#1", "ok ok", "h9"),
    // 6: unfiltered streams link up
    ("6-sequence-jump",            Some("h3"), "conn@3 pod@4 | pod@6", "hole:SequenceJump", "h4"),
    ("6-previous-hash",            Some("h3"), "conn@3 pod@4 | pod@5<4x", "hole:PreviousHash", "h4"),
    ("6-heartbeat-ahead",          Some("h3"), "conn@3 pod@4 | hb@5", "hole:BookmarkAhead", "h4"),
    ("6-catchup-ahead",            Some("h3"), "conn@3 pod@4 | catch@5", "hole:BookmarkAhead", "h4"),
    ("6-healed",                   Some("h3"), "conn@3 pod@4 pod@6 | conn@4 pod@5 pod@6", "ok ok ok", "h6"),
    ("6-for-good",                 Some("h3"), "conn@3 pod@4 pod@6 conn@4 | pod@6 pod@7", "gap-before:hole@h5/5 ok ok", "h7"),
    ("6-for-good-at-heartbeat",    Some("h3"), "conn@3 hb!@5 conn@3 | hb!@5 pod@6", "gap-before:hole@h5/5 ok ok", "h6"),
    ("6-for-good-at-catchup",      Some("h3"), "conn@3 catch@5 conn@3 | catch@5", "gap-before:hole@h5/5 ok", "h5"),
    ("6-second-hole-elsewhere",    Some("h3"), "conn@3 pod@5 conn@3 pod@4 | pod@6", "hole:SequenceJump", "h4"),
    ("6-after-undecodable",        Some("h3"), "conn@3 bad@4 | pod@5", "ok", "h5"),
    ("6-hole-after-undecodable",   Some("h3"), "conn@3 bad@4 | pod@6", "hole:PreviousHash", "h4"),
    ("6-ahead-after-undecodable",  Some("h3"), "conn@3 bad@4 | hb@6", "hole:BookmarkAhead", "h4"),
    ("6-gap-restarts-the-chain",   Some("h3"), "conn@3 pod@4 gap@9 | pod@10", "ok", "h10"),
    // 7: a heartbeat after a lost catchup_complete
    ("7-lost-catchup",             Some("h3"), "conn@3 pod@4 | hb@4", "catchup", "h4"),
    ("7-still-catching-up",        Some("h3"), "conn@3 pod@4 | hb!@4", "ok", "h4"),
    ("7-after-catchup",            Some("h3"), "conn@3 catch@3 | hb@3", "ok", "h3"),
    ("7-then-catchup",             Some("h3"), "conn@3 hb@3 | catch@3", "SecondCatchup", "h3"),
    // messages that cannot be read
    ("8-undecodable",              Some("h3"), "conn@3 | bad@4", "gap:undecodable@h4/?", "h4"),
    ("8-too-large",                Some("h3"), "conn@3 | big@4", "gap:too-large@h4/?", "h4"),
    ("8-without-id",               Some("h3"), "conn@3 | bad pod@5", "gap:undecodable@?/? ok", "h5"),
    // a relay that says nothing about itself
    ("9-bare",                     Some("h3"), "bare | pod@4 pod@4", "ok Duplicate", "h4"),
    ("9-bare-resume",              Some("h3"), "bare pod@4 drop bare | pod@4 pod@5", "Duplicate ok", "h5"),
    ("9-no-epoch-same-log",        Some("h3"), "anon@3 pod@4 drop anon@4 | pod@5", "ok", "h5"),
    ("9-no-epoch-other-log",       Some("h3"), "anon@3 pod@4 drop anon@0x | pod@1x", "hole:UnannouncedGap", "h4"),
    ("9-no-epoch-other-log-twice", Some("h3"), "anon@3 pod@4 drop anon@0x pod@1x anon@0x | pod@1x", "gap-before:hole@h0/0 ok", "x1"),
    ("9-unknown-type-moves",       Some("h3"), "conn@3 | type@4", "ok", "h4"),
];

macro_rules! rows_of_rule {
    ($($test:ident: $rule:literal,)*) => { $(#[test] fn $test() { check_rule($rule); })* };
}

rows_of_rule! {
    rule_1_connected_comes_first_and_once: '1',
    rule_2_resuming_elsewhere_is_announced: '2',
    rule_3_a_new_epoch_without_a_gap_is_a_gap: '3',
    rule_4_sent_counts_without_a_hole: '4',
    rule_5_duplicates_and_rewinds: '5',
    rule_6_unfiltered_streams_link_up: '6',
    rule_7_a_heartbeat_stands_for_a_lost_catch_up: '7',
    messages_that_cannot_be_read_are_gaps: '8',
    relays_that_say_little_are_followed: '9',
}

fn check_rule(rule: char) {
    let rows: Vec<_> = RULES.iter().filter(|(name, ..)| name.starts_with(rule)).collect();
    assert!(!rows.is_empty());
    for (name, since, script, expected, resume) in rows {
        let (before, tested) = script.split_once('|').unwrap();
        let (_, skipped) = play(*since, false, before);
        let (fold, verdicts) = play(*since, false, &script.replace('|', " "));
        assert_eq!(verdicts[skipped.len()..].join(" "), *expected, "{name}: {tested}");
        assert_eq!(fold.resume().map_or("none", |h| h.as_str()), *resume, "{name}: resume position");
    }
}

#[test]
fn a_relay_that_does_not_say_is_taken_to_filter_when_we_asked_it_to() {
    let (_, verdicts) = play(Some("h3"), true, "bare pod@5 pod@9");
    assert_eq!(verdicts, ["ok", "ok", "ok"], "no positions are expected to link up");
    let (_, verdicts) = play(Some("h3"), false, "bare pod@4 pod@9");
    assert_eq!(verdicts, ["ok", "ok", "hole:SequenceJump"]);
}

#[test]
fn counts_tell_what_happened() {
    let (fold, _) = play(Some("h3"), false, "conn@3 pod@4 pod@4 new bad@5 pod@9 conn@5 pod@9 gap@20");
    let counts = fold.counts();
    assert_eq!((counts.duplicates, counts.unknown, counts.undecodable), (1, 1, 1));
    assert_eq!((counts.holes, counts.gaps), (2, 3));
}
