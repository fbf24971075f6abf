//! The failure that each rule prevents.

use super::exhaustive::{Plan, live, plans, search};
use super::*;
use crate::pods::rules::without;

/// Rule, the property that breaks without it, and the shortest life that shows it: each fault or other move, with the
/// number of driver's steps before it.
#[rustfmt::skip]
const TABLE: &[(Rule, Property, &str)] = &[
    (Rule::ConnectedFirst, Property::AckIsProcessed, "replay whole: 3 MessageLost, 3 MessageLost, 3 Beat"),
    (Rule::ConnectedOnce, Property::GapsHaveAReason, "replay whole: 4 NewEpoch, 8 MessageRepeated"),
    (Rule::GapIsDueAbove, Property::PodsAreTheRelays, "plain filtered: 2 Relabel(0), 2 Trim, 2 GapUnsaid"),
    (Rule::GapIsDueElsewhere, Property::AckIsProcessed, "replay filtered: 7 Restart, 9 StartsEarly, 10 Beat"),
    (Rule::StartIsResume, Property::NothingLost, "replay whole: 4 MessageLost"),
    (Rule::StartTellsSequence, Property::ListsAreFresh, "replay whole, history and bookmarks shown, from 1: 4 Cut, 5 LaggingSeed"),
    (Rule::EpochChange, Property::GapsHaveAReason, "replay whole: 4 NewEpoch, 7 GapUnsaid, 8 Beat"),
    (Rule::EpochAfterConnected, Property::GapsHaveAReason, "replay whole: 4 NewEpoch, 7 GapUnsaid, 8 Beat"),
    (Rule::SentOfEvents, Property::NothingLost, "replay filtered: 4 Relabel(0), 4 MessageLost"),
    (Rule::SentOfBookmarks, Property::NothingLost, "replay filtered: 4 MessageLost"),
    (Rule::UnreadableCounts, Property::GapsHaveAReason, "replay filtered: 4 MessageSpoiltWithoutId"),
    (Rule::Duplicates, Property::NothingTwice, "replay filtered: 6 Cut, 9 StartsEarly"),
    (Rule::Rewind, Property::PodsAreTheRelays, "replay filtered: 10 Rewritten, 11 Upsert(2)"),
    (Rule::RewindOfBookmark, Property::PodsAreTheRelays, "replay whole: 10 Rewritten, 10 MessageLost"),
    (Rule::OneCatchup, Property::Phases, "replay whole: 6 MessageRepeated"),
    (Rule::BookmarksMoveOn, Property::PositionsMoveOn, "replay whole: 6 Rewritten, 6 Beat"),
    (Rule::SequenceJump, Property::NothingLost, "replay whole without previous hashes: 4 Delete(0), 4 MessageLost"),
    (Rule::PreviousHash, Property::NothingLost, "replay whole: 4 Delete(0), 4 Upsert(0), 4 MessageSpoilt, 6 MessageLost"),
    (Rule::BookmarkAhead, Property::NothingLost, "replay whole: 4 MessageLost"),
    (Rule::BookmarkElsewhere, Property::AckIsProcessed, "replay whole: 4 Delete(0), 4 MessageSpoilt, 6 MessageLost, 6 Beat"),
    (Rule::LostCatchup, Property::ComesToRest, "replay whole: 6 MessageLost"),
    (Rule::CatchingUp, Property::NothingLost, "replay whole: 4 Beat"),
    (Rule::HealFirst, Property::GapsHaveAReason, "replay whole: 3 MessageLost"),
    (Rule::HealOnce, Property::ComesToRest, "replay whole: 4 EventWithheld"),
    (Rule::HealEachPlace, Property::GapsHaveAReason, "replay whole: 3 MessageSpoilt, 6 MessageLost"),
    (Rule::DiscardAfterHole, Property::GapsHaveAReason, "replay whole: 3 MessageSpoilt"),
    (Rule::GapEndsBefore, Property::GapsHaveAReason, "replay whole: 4 Delete(0), 4 EventWithheld"),
    (Rule::CountIsTheRelays, Property::GapsHaveAReason, "replay filtered: 4 Relabel(0), 4 EventWithheld"),
    (Rule::GapSetsPosition, Property::GapsHaveAReason, "replay whole: 4 NewEpoch, 12 Beat"),
    (Rule::GapSetsEpoch, Property::GapsHaveAReason, "replay whole: 4 Delete(0), 4 NewEpoch"),
    (Rule::UnreadableIsGap, Property::GapsHaveAReason, "replay whole: 4 MessageSpoilt"),
    (Rule::UnreadableMovesOn, Property::GapsHaveAReason, "replay whole: 4 MessageSpoilt"),
    (Rule::OlderList, Property::ListsAreFresh, "replay whole: 8 LaggingSeed"),
    (Rule::AtLeast, Property::ListsAreFresh, "replay whole: 4 MessageSpoilt, 4 LaggingSeed"),
    (Rule::ListReachesGap, Property::PodsAreTheRelays, "replay whole: 10 Delete(0), 10 MessageSpoiltWithoutId, 10 LaggingSeed"),
    (Rule::OtherEpochList, Property::PodsAreTheRelays, "replay whole: 8 ForeignSeed"),
    (Rule::PlainGoesOnFromList, Property::PodsAreTheRelays, "plain whole: 0 ForeignSeed, 4 ForeignSeed"),
    (Rule::PendingIsDiscarded, Property::GapsHaveAReason, "replay whole: 10 Rewritten, 11 ForeignSeed, 17 MessageRepeated"),
    (Rule::EndWaitsForList, Property::Phases, "replay whole: 8 Cut, 8 EndSeen"),
    (Rule::EndWaitsForPending, Property::GapsHaveAReason, "replay filtered: 4 Relabel(0), 4 EventWithheld, 11 Cut, 11 EndSeen"),
    (Rule::InsideList, Property::PodsAreTheRelays, "replay whole: 8 Delete(0), 8 Upsert(0)"),
    (Rule::AckAfterCaller, Property::AckIsProcessed, "replay whole: "),
    (Rule::CatchupAcksLast, Property::AckIsProcessed, "replay whole: 6 Cut, 9 ReplicaLags"),
    (Rule::BookmarkAcksLast, Property::AckIsProcessed, "replay whole: 6 Rewritten, 6 Beat"),
    (Rule::HistoryIsMarked, Property::PodsAreTheRelays, "replay whole, history and bookmarks shown, from 1: 4 Delete(0)"),
];

/// Parses a life as written in [`TABLE`].
fn read(life: &str) -> (Plan, Vec<Move>) {
    let (name, happened) = life.split_once(": ").expect("a plan and what happened");
    let plan = plans(2).into_iter().find(|plan| plan.to_string() == name).expect("a plan");
    let ops = [Op::Upsert(0), Op::Upsert(1), Op::Upsert(2), Op::Delete(0), Op::Relabel(0)];
    let moves = ops.map(Move::Append).into_iter().chain(Fault::ALL.map(Move::Fault));
    let named = |step: &Move| match step {
        Move::Append(op) => format!("{op:?}"),
        Move::Fault(fault) => format!("{fault:?}"),
        step => format!("{step:?}"),
    };
    let moves: Vec<Move> = moves.chain([Move::Beat, Move::EndSeen]).collect();
    let mut steps = Vec::new();
    let mut gone = 0;
    for what in happened.split(", ").filter(|what| !what.is_empty()) {
        let (at, what) = what.split_once(' ').expect("a number and a move");
        let at: usize = at.parse().expect("a number of steps");
        steps.extend(std::iter::repeat_n(Move::Go, at - gone));
        gone = at;
        steps.push(*moves.iter().find(|step| named(step) == what).expect("a move"));
    }
    (plan, steps)
}

#[test]
fn every_rule_is_missed() {
    for (rule, property, life) in TABLE {
        let (plan, steps) = read(life);
        if let Err(broken) = live(&mut plan.world(), &steps) {
            panic!("{rule:?} holds, and {life}: {broken:?}");
        }
        let broken = without(Some(*rule), || live(&mut plan.world(), &steps));
        let broken = broken.expect_err("the rule is not missed");
        assert_eq!(broken.property, *property, "without {rule:?}, {life}: {}", broken.detail);
        println!("| {} | {property:?} | {life} |", rule.says());
    }
    let rules: Vec<Rule> = TABLE.iter().map(|(rule, ..)| *rule).collect();
    assert_eq!(rules, Rule::ALL, "every rule has its row");
}

/// Searches for the rows of [`TABLE`]. The variable `RULES` limits it to some rules, separated by commas.
#[test]
#[ignore = "minutes"]
fn find_what_misses_each_rule() {
    let only = std::env::var("RULES").ok();
    let mut unnoticed = Vec::new();
    for rule in Rule::ALL {
        let named = |only: &String| only.split(',').any(|name| name == format!("{rule:?}"));
        if !only.as_ref().is_none_or(named) {
            continue;
        }
        let mut found = None;
        // Some rules need a third fault.
        let [whole, _, filtered, ..] = plans(3)[..] else { panic!("too few plans") };
        let deeper = [
            Plan { only: &[Fault::Rewritten, Fault::ForeignSeed, Fault::MessageRepeated], ..whole },
            Plan { only: &[Fault::EventWithheld, Fault::Cut, Fault::MessageRepeated], ..whole },
            Plan { only: &[Fault::EventWithheld, Fault::Cut, Fault::MessageRepeated], ..filtered },
        ];
        for plan in (0..3).flat_map(plans).chain(deeper) {
            found = without(Some(*rule), || search(plan)).broken;
            if found.is_some() {
                break;
            }
        }
        match found {
            Some(found) => println!(
                "    (Rule::{rule:?}, Property::{:?}, \"{}\"),",
                found.broken.property,
                found.brief()
            ),
            None => unnoticed.push(rule),
        }
    }
    assert!(unnoticed.is_empty(), "not missed: {unnoticed:?}");
}
