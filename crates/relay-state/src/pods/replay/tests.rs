use super::*;
use crate::pods::script::{Input, input};

fn show(step: &Step) -> String {
    let hash = |hash: &Option<EventHash>| hash.as_ref().map_or("-".to_owned(), |h| h.to_string());
    match step {
        Step::Seed { at_least: None } => "seed?".into(),
        Step::Seed { at_least } => format!("seed?>={}", hash(at_least)),
        Step::Message => "message?".into(),
        Step::Reconnect(cause) => format!("reconnect({})", cause.split(':').next().unwrap()),
        Step::Snapshot(s) => {
            let mut text = s.phase.to_string();
            if let Some(event) = &s.event {
                text += &format!(" event={}", event.hash);
            }
            if let Some(gap) = &s.gap {
                text += &format!(" gap={}@{}", gap.reason.as_str(), hash(&gap.hash));
            }
            if let Some(cause) = &s.cause {
                text += &format!(" cause={}", cause.split(':').next().unwrap());
            }
            if s.ack.is_some() {
                text += &format!(" ack={}", hash(&s.ack));
            }
            // The version of the only pod tells which position the pods show.
            let version = s.pods.iter().next().and_then(|p| p.resource_version()).unwrap_or("none");
            let historic = if s.historic { "!" } else { "" };
            text + &format!(" pods={version}{historic}")
        }
    }
}

/// Gives one input to the fold, and returns its outputs up to its next request.
fn give(fold: &mut Replay, word: &str) -> Vec<String> {
    let refused = match input(word) {
        Input::Drop => {
            fold.handle_dropped("eof");
            None
        }
        Input::Seed(list) => match fold.handle_seed(list) {
            Ok(SeedVerdict::Taken) => None,
            Ok(SeedVerdict::TooOld) => Some("too-old"),
            Err(_) => Some("refused"),
        },
        Input::Message(message) => fold.handle_message(*message).err().map(|_| "refused"),
    };
    let mut out: Vec<String> = refused.map(Into::into).into_iter().collect();
    loop {
        let step = fold.poll();
        out.push(show(&step));
        if matches!(step, Step::Seed { .. } | Step::Message) {
            return out;
        }
    }
}

fn play(options: &ReplayOptions, script: &str) -> (Replay, Vec<String>) {
    let mut fold = Replay::new(options.clone());
    fold.poll();
    let out = script.split_whitespace().flat_map(|word| give(&mut fold, word)).collect();
    (fold, out)
}

fn phases(since: &str) -> ReplayOptions {
    ReplayOptions::default().since(Some(EventHash::new(since).unwrap()))
}

type Row = (&'static str, &'static str, &'static [(&'static str, &'static str)]);

/// Every state, the script that leads there from the cursor `h3`, and the outputs for every input.
#[rustfmt::skip]
const TABLE: &[Row] = &[
    ("first-seed", "", &[
        ("seed@5",  "CurrentSeed pods=5; message?"),
        ("seed",    "CurrentSeed pods=1; message?"),
        ("seed@2",  "CurrentSeed pods=2; message?"),
        ("seed@5f", "CurrentSeed pods=5; message?"),
        ("drop",    "seed?"),
        ("conn@3 pod@4 pod@9 catch@3 hb@3 hb!@3 gap@9 bad@4 closing new", "refused; seed?"),
    ]),
    ("connecting", "seed@5", &[
        ("conn@3",  "message?"),
        ("drop",    "message?"),
        ("closing", "message?"),
        ("new",     "message?"),
        ("pod@4 pod@9 catch@3 hb@3 hb!@3 gap@9 bad@4", "reconnect(hole); message?"),
        ("seed@5 seed seed@2 seed@5f", "refused; message?"),
    ]),
    ("backfill", "seed@5 conn@3", &[
        ("pod@4",   "Backfill event=h4 ack=h4 pods=5; message?"),
        ("type@4",  "Backfill event=h4 ack=h4 pods=5; message?"),
        ("pod@3",   "message?"),
        ("pod@3x",  "seed?>=h2"),
        ("pod@5",   "reconnect(hole); seed?>=h3"),
        ("conn@3",  "reconnect(hole); seed?>=h3"),
        ("catch@3", "CatchupComplete ack=h3 pods=5; seed?>=h3"),
        ("catch@4", "reconnect(hole); seed?>=h3"),
        ("hb@3",    "CatchupComplete ack=h3 pods=5; seed?>=h3"),
        ("hb!@3",   "message?"),
        ("hb!@4",   "reconnect(hole); seed?>=h3"),
        ("gap@9",   "seed?>=h9"),
        ("bad@4",   "seed?>=h4"),
        ("big@4",   "seed?>=h4"),
        ("closing", "message?"),
        ("new",     "message?"),
        ("drop",    "seed?>=h3"),
        ("seed@5 seed seed@2 seed@5f", "refused; message?"),
    ]),
    ("caught-up-seed", "seed@5 conn@3 pod@4 catch@4", &[
        ("seed@5",  "CurrentSeed pods=5; message?"),
        ("seed@4",  "CurrentSeed pods=4; message?"),
        ("seed",    "CurrentSeed pods=1; message?"),
        ("seed@3",  "too-old; seed?>=h4"),
        ("seed@2f", "CurrentSeed pods=2; reconnect(the list is of another epoch than the stream); seed?>=h4"),
        ("drop",    "seed?>=h4"),
        ("conn@3 pod@5 pod@9 catch@4 hb@4 hb!@4 gap@9 bad@5 closing new", "refused; seed?>=h4"),
    ]),
    ("live", "seed@5 conn@3 pod@4 catch@4 seed@5", &[
        ("pod@5",   "Live event=h5 ack=h5 pods=5; message?"),
        ("type@5",  "Live event=h5 ack=h5 pods=5; message?"),
        ("pod@4",   "message?"),
        ("pod@4x",  "seed?>=h3"),
        ("pod@6",   "reconnect(hole); seed?>=h4"),
        ("conn@4",  "reconnect(hole); seed?>=h4"),
        ("catch@4", "message?"),
        ("hb@4",    "message?"),
        ("hb!@4",   "message?"),
        ("hb@5",    "reconnect(hole); seed?>=h4"),
        ("gap@9",   "seed?>=h9"),
        ("bad@5",   "seed?>=h5"),
        ("big@5",   "seed?>=h5"),
        ("closing", "message?"),
        ("new",     "message?"),
        ("drop",    "seed?>=h4"),
        ("seed@5 seed seed@2 seed@5f", "refused; message?"),
    ]),
    ("gap-seed-in-backfill", "seed@5 conn@3 pod@4 gap@9", &[
        ("seed@9",  "GapReseed gap=cursor-expired@h9 pods=9; message?"),
        ("seed",    "GapReseed gap=cursor-expired@h9 pods=1; message?"),
        ("seed@8",  "too-old; seed?>=h9"),
        ("seed@2f", "GapReseed gap=cursor-expired@h9 pods=2; message?"),
        ("drop",    "seed?>=h9"),
        ("conn@3 pod@10 pod@12 catch@9 hb@9 hb!@9 gap@12 bad@10 closing new", "refused; seed?>=h9"),
    ]),
    ("gap-seed-in-live", "seed@5 conn@3 catch@3 seed@5 gap@9", &[
        ("seed@9",  "GapReseed gap=cursor-expired@h9 pods=9; message?"),
        ("seed",    "GapReseed gap=cursor-expired@h9 pods=1; message?"),
        ("seed@8",  "too-old; seed?>=h9"),
        ("seed@2f", "GapReseed gap=cursor-expired@h9 pods=2; reconnect(the list is of another epoch than the stream); seed?>=h9"),
        ("drop",    "seed?>=h9"),
        ("conn@3 pod@10 pod@12 catch@9 hb@9 hb!@9 gap@12 bad@10 closing new", "refused; seed?>=h9"),
    ]),
    ("drop-seed", "seed@5 conn@3 pod@4 drop", &[
        ("seed@5",  "ReconnectReseed cause=eof pods=5; message?"),
        ("seed",    "ReconnectReseed cause=eof pods=1; message?"),
        ("seed@3",  "too-old; seed?>=h4"),
        ("seed@2f", "ReconnectReseed cause=eof pods=2; message?"),
        ("drop",    "seed?>=h4"),
        ("conn@3 pod@5 pod@9 catch@4 hb@4 hb!@4 gap@9 bad@5 closing new", "refused; seed?>=h4"),
    ]),
    ("plain-first-seed", "", &[
        ("seed@5",  "CurrentSeed pods=5; message?"),
        ("seed",    "CurrentSeed pods=1; message?"),
        ("drop",    "seed?"),
        ("conn@3 pod@4 pod@9 catch@3 hb@3 hb!@3 gap@9 bad@4 closing new", "refused; seed?"),
    ]),
    ("plain-connecting", "seed@5", &[
        ("conn@5",  "message?"),
        ("drop",    "message?"),
        ("closing", "message?"),
        ("new",     "message?"),
        ("pod@6 pod@9 catch@5 hb@5 hb!@5 gap@9 bad@6", "reconnect(hole); message?"),
        ("seed@5 seed seed@2 seed@5f", "refused; message?"),
    ]),
    ("plain-live", "seed@5 conn@5", &[
        ("pod@6",   "Live event=h6 pods=6; message?"),
        ("type@6",  "message?"),
        ("pod@5",   "message?"),
        ("pod@5x",  "seed?>=h4"),
        ("pod@7",   "reconnect(hole); message?"),
        ("conn@5",  "reconnect(hole); message?"),
        ("catch@5", "message?"),
        ("catch@6", "reconnect(hole); message?"),
        ("hb@5",    "message?"),
        ("hb!@5",   "message?"),
        ("hb!@6",   "reconnect(hole); message?"),
        ("gap@9",   "seed?>=h9"),
        ("bad@6",   "seed?>=h6"),
        ("big@6",   "seed?>=h6"),
        ("closing", "message?"),
        ("new",     "message?"),
        ("drop",    "message?"),
        ("seed@5 seed seed@2 seed@5f", "refused; message?"),
    ]),
    ("plain-gap-seed", "seed@5 conn@5 gap@9", &[
        ("seed@9",  "GapReseed gap=cursor-expired@h9 pods=9; message?"),
        ("seed",    "GapReseed gap=cursor-expired@h9 pods=1; message?"),
        ("seed@8",  "too-old; seed?>=h9"),
        ("seed@2f", "GapReseed gap=cursor-expired@h9 pods=2; reconnect(the list is of another epoch than the stream); message?"),
        ("drop",    "seed?>=h9"),
        ("conn@3 pod@10 pod@12 catch@9 hb@9 hb!@9 gap@12 bad@10 closing new", "refused; seed?>=h9"),
    ]),
];

/// A test for each state. The plain ones are those of the plain state stream.
macro_rules! every_input_in_state {
    ($($test:ident: $state:literal,)*) => {
        const TESTED: &[&str] = &[$($state),*];
        $(#[test] fn $test() { check_state($state); })*
    };
}

every_input_in_state! {
    every_input_in_first_seed: "first-seed",
    every_input_in_connecting: "connecting",
    every_input_in_backfill: "backfill",
    every_input_in_caught_up_seed: "caught-up-seed",
    every_input_in_live: "live",
    every_input_in_gap_seed_in_backfill: "gap-seed-in-backfill",
    every_input_in_gap_seed_in_live: "gap-seed-in-live",
    every_input_in_drop_seed: "drop-seed",
    every_input_in_plain_first_seed: "plain-first-seed",
    every_input_in_plain_connecting: "plain-connecting",
    every_input_in_plain_live: "plain-live",
    every_input_in_plain_gap_seed: "plain-gap-seed",
}

fn check_state(state: &str) {
    let (_, script, rows) = TABLE.iter().find(|(name, ..)| *name == state).unwrap();
    let plain = state.starts_with("plain-");
    let options = if plain { ReplayOptions::default().mode(ReplayMode::State) } else { phases("h3") };
    for (inputs, expected) in *rows {
        for word in inputs.split_whitespace() {
            let (mut fold, _) = play(&options, script);
            assert_eq!(give(&mut fold, word).join("; "), *expected, "in {state}, {word}");
        }
    }
}

#[test]
fn every_state_is_tested_with_every_input() {
    assert_eq!(TABLE.iter().map(|(state, ..)| *state).collect::<Vec<_>>(), TESTED);
    let kinds = ["seed", "conn", "pod", "catch", "hb", "hb!", "gap", "bad", "closing", "new", "drop"];
    for (state, _, rows) in TABLE {
        let words = || rows.iter().flat_map(|(inputs, _)| inputs.split_whitespace());
        for kind in kinds {
            assert!(
                words().any(|word| word.split('@').next() == Some(kind)),
                "{state} has no row for {kind}"
            );
        }
    }
}

/// Longer conversations: options, script, and all outputs except the requests.
fn conversation(name: &str, options: &ReplayOptions, script: &str, expected: &[&str]) {
    let (_, out) = play(options, script);
    let told: Vec<&str> = out.iter().map(String::as_str).filter(|line| !line.contains('?')).collect();
    assert_eq!(told, expected, "{name}");
}

#[test]
fn a_whole_cycle() {
    conversation(
        "whole cycle",
        &phases("h3"),
        "seed@5 conn@3 pod@4 pod@5 catch@5 seed@6 pod@6 pod@7 drop seed@8 conn@7 pod@8 catch@8 seed@8 pod@9",
        &[
            "CurrentSeed pods=5",
            "Backfill event=h4 ack=h4 pods=5",
            "Backfill event=h5 ack=h5 pods=5",
            "CatchupComplete ack=h5 pods=5",
            "CurrentSeed pods=6",
            // The event is already included in the seed: it is handed over, and the pods stay the same.
            "Live event=h6 ack=h6 pods=6",
            "Live event=h7 ack=h7 pods=7",
            "ReconnectReseed cause=eof pods=8",
            "Backfill event=h8 ack=h8 pods=8",
            "CatchupComplete ack=h8 pods=8",
            "CurrentSeed pods=8",
            "Live event=h9 ack=h9 pods=9",
        ],
    );
}

#[test]
fn a_drop_waits_for_the_seed_of_a_gap() {
    conversation(
        "gap, then drop",
        &phases("h3"),
        "seed@5 conn@3 catch@3 seed@5 gap@9 drop seed@9 seed@9 conn@9",
        &[
            "CurrentSeed pods=5",
            "CatchupComplete ack=h3 pods=5",
            "CurrentSeed pods=5",
            "GapReseed gap=cursor-expired@h9 pods=9",
            "ReconnectReseed cause=eof pods=9",
        ],
    );
}

#[test]
fn a_drop_is_told_once_however_many_attempts_follow() {
    conversation(
        "attempts",
        &phases("h3"),
        "seed@5 drop drop conn@3 pod@4 drop drop drop seed@6 drop drop conn@4 pod@5",
        &[
            "CurrentSeed pods=5",
            "Backfill event=h4 ack=h4 pods=5",
            "ReconnectReseed cause=eof pods=6",
            "Backfill event=h5 ack=h5 pods=6",
        ],
    );
}

#[test]
fn a_hole_is_healed_and_if_not_is_a_gap_before_its_message() {
    conversation(
        "healed",
        &phases("h3"),
        "seed@5 conn@3 pod@5 seed@5 conn@3 pod@4 pod@5",
        &[
            "CurrentSeed pods=5",
            "reconnect(hole)",
            "ReconnectReseed cause=hole pods=5",
            "Backfill event=h4 ack=h4 pods=5",
            "Backfill event=h5 ack=h5 pods=5",
        ],
    );
    conversation(
        "for good",
        &phases("h3"),
        "seed@5 conn@3 pod@5 seed@5 conn@3 pod@5 seed@6 pod@6",
        &[
            "CurrentSeed pods=5",
            "reconnect(hole)",
            "ReconnectReseed cause=hole pods=5",
            "GapReseed gap=hole@h4 pods=6",
            "Backfill event=h5 ack=h5 pods=6",
            "Backfill event=h6 ack=h6 pods=6",
        ],
    );
}

#[test]
fn a_restart_of_the_relay_is_a_gap_and_goes_on() {
    conversation(
        "new epoch",
        &phases("h3"),
        "seed@5 conn@3 catch@3 seed@5 pod@4 drop seed@1f conn@0f gap@0f seed@1f pod@1f catch@1f seed@1f pod@2f",
        &[
            "CurrentSeed pods=5",
            "CatchupComplete ack=h3 pods=5",
            "CurrentSeed pods=5",
            "Live event=h4 ack=h4 pods=5",
            "ReconnectReseed cause=eof pods=1",
            "GapReseed gap=cursor-expired@f0 pods=1",
            "Backfill event=f1 ack=f1 pods=1",
            "CatchupComplete ack=f1 pods=1",
            "CurrentSeed pods=1",
            "Live event=f2 ack=f2 pods=2",
        ],
    );
}

#[test]
fn backfill_may_be_folded_into_the_pods() {
    conversation(
        "history",
        &phases("h3").apply_backfill(true),
        "seed@5 conn@3 pod@4 catch@4 seed@5",
        &[
            "CurrentSeed pods=5",
            "Backfill event=h4 ack=h4 pods=4!",
            "CatchupComplete ack=h4 pods=4!",
            "CurrentSeed pods=5",
        ],
    );
}

#[test]
fn the_plain_state_starts_at_the_seed_and_reseeds_only_after_gaps() {
    let state = ReplayOptions::default().mode(ReplayMode::State);
    conversation(
        "plain",
        &state,
        "seed@5 conn@5 pod@6 catch@6 drop conn@6 pod@7 drop conn@9 gap@9 seed@9 pod@10",
        &[
            "CurrentSeed pods=5",
            "Live event=h6 pods=6",
            "Live event=h7 pods=7",
            "GapReseed gap=cursor-expired@h9 cause=eof pods=9",
            "Live event=h10 pods=10",
        ],
    );
    let (fold, out) = play(&state, "seed@5 conn@5 pod@6 gap@9 seed@2f");
    assert_eq!(out.last().unwrap(), "message?");
    assert_eq!(fold.resume().unwrap().as_str(), "f2", "goes on from the seed of the other epoch");
}

#[test]
fn a_list_from_before_a_message_without_content_or_id_is_not_trusted_for_good() {
    let (_, out) = play(&phases("h3"), "seed@5 conn@3 catch@3 seed@5 pod@4 bad");
    assert_eq!(out.last().unwrap(), "seed?>=h4", "at least not before what came last");
    conversation(
        "an older list, then one that reaches the next position",
        &phases("h3"),
        "seed@3 conn@3 catch@3 seed@3 bad seed@3 pod@5 seed@3 seed@4 pod@6",
        &[
            "CurrentSeed pods=3",
            "CatchupComplete ack=h3 pods=3",
            "CurrentSeed pods=3",
            "GapReseed gap=undecodable@- pods=3",
            "too-old",
            "GapReseed gap=undecodable@h4 pods=4",
            "Live event=h5 ack=h5 pods=5",
            "Live event=h6 ack=h6 pods=6",
        ],
    );
    conversation(
        "a list that reaches it",
        &phases("h3"),
        "seed@3 conn@3 catch@3 seed@3 bad seed@4 pod@5",
        &[
            "CurrentSeed pods=3",
            "CatchupComplete ack=h3 pods=3",
            "CurrentSeed pods=3",
            "GapReseed gap=undecodable@- pods=4",
            "Live event=h5 ack=h5 pods=5",
        ],
    );
}

#[test]
fn a_drop_waits_for_the_message_that_showed_a_gap() {
    conversation(
        "hole for good, then a drop",
        &phases("h3"),
        "seed@5 conn@3 pod@5 seed@5 conn@3 pod@5 drop drop seed@5 drop seed@5 conn@5 pod@6",
        &[
            "CurrentSeed pods=5",
            "reconnect(hole)",
            "ReconnectReseed cause=hole pods=5",
            "GapReseed gap=hole@h4 pods=5",
            "Backfill event=h5 ack=h5 pods=5",
            "ReconnectReseed cause=eof pods=5",
            "Backfill event=h6 ack=h6 pods=5",
        ],
    );
}

#[test]
fn a_catch_up_below_the_last_event_acknowledges_that_event() {
    conversation(
        "lower catch-up",
        &phases("h3"),
        "seed@9 narrow@3 pod@9#1 catch@6#1 seed@9",
        &[
            "CurrentSeed pods=9",
            "Backfill event=h9 ack=h9 pods=9",
            "CatchupComplete ack=h9 pods=9",
            "CurrentSeed pods=9",
        ],
    );
}

#[test]
fn bookmarks_move_the_acknowledgement_and_are_yielded_on_demand() {
    let live = "seed@5 narrow@3 catch@3#0 seed@5";
    let (mut fold, _) = play(&phases("h3"), live);
    assert_eq!(fold.acknowledged().unwrap().as_str(), "h3");
    assert_eq!(give(&mut fold, "hb@9#0"), ["message?"]);
    assert_eq!(fold.acknowledged().unwrap().as_str(), "h9");
    assert_eq!(fold.resume().unwrap().as_str(), "h9");

    let (mut fold, _) = play(&phases("h3").yield_bookmarks(true), live);
    assert_eq!(give(&mut fold, "hb@9#0"), ["Live ack=h9 pods=5", "message?"]);
    assert_eq!(give(&mut fold, "hb@9#0"), ["message?"], "only when it moves");
}

#[test]
fn an_acknowledgement_never_runs_ahead_of_the_caller() {
    let (mut fold, _) = play(&phases("h3"), "seed@5 conn@3");
    for message in ["pod@4", "pod@5"] {
        let Input::Message(message) = input(message) else { panic!() };
        fold.handle_message(*message).unwrap();
        assert!(matches!(fold.poll(), Step::Snapshot(_)));
        if fold.acknowledged().is_none() {
            // The first event was handed over, and the caller has not finished it.
            assert_eq!(fold.resume().unwrap().as_str(), "h4");
        }
        fold.poll();
    }
    assert_eq!(fold.acknowledged().unwrap().as_str(), "h5");
    let Input::Message(message) = input("pod@6") else { panic!() };
    fold.handle_message(*message).unwrap();
    fold.poll();
    assert_eq!(fold.acknowledged().unwrap().as_str(), "h5", "in hand");
    fold.finish();
    assert_eq!(fold.acknowledged().unwrap().as_str(), "h6", "said to be finished");
}

#[test]
fn stale_sources_are_noticed() {
    let (mut fold, _) = play(&phases("h3"), "seed@5 conn@3");
    give(&mut fold, "stale@3");
    assert!(fold.source_is_stale());
    give(&mut fold, "seed@5");
    give(&mut fold, "hb@3");
    assert!(!fold.source_is_stale());
}
