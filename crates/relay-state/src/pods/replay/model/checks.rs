//! Checks of the model at each snapshot, at each acknowledgement, and at rest.

use super::*;

impl World {
    /// Checks a snapshot that the caller gets.
    pub(super) fn see(&mut self, snapshot: &Snapshot) -> Verdict {
        self.note(|| {
            let (phase, goes_on) = (snapshot.phase, snapshot.goes_on);
            let event = snapshot.event.as_ref().map(|e| &e.hash);
            let gap = snapshot.gap.as_ref().map(|g| (g.reason.as_str(), &g.hash, g.sequence));
            format!(
                "  SEES {phase} event {event:?} gap {gap:?} ack {:?}, goes on with {goes_on}",
                snapshot.ack
            )
        });
        self.count(snapshot.phase.as_str());
        self.check_phase(snapshot)?;
        if let Some(gap) = &snapshot.gap {
            self.check_gap(gap)?;
        }
        let event = snapshot.event.as_ref().map(|event| At::parse(&event.hash));
        if let Some(at) = event {
            if self.unplaced_gap {
                self.unplaced_gap = false;
                self.cover(At::new(at.epoch, at.sequence - 1));
            }
            self.complete_up_to(at, Some(at), "handed over")?;
            if !self.handed.insert(at) {
                return broken(Property::NothingTwice, format!("{} is handed over again", at.hash()));
            }
            self.count_event(at, snapshot);
        }
        if snapshot.phase == Phase::Live && event.is_none() {
            self.count("bookmark shown");
        }
        self.in_hand = event;
        self.check_pods(snapshot, event)
    }

    fn count_event(&mut self, at: At, snapshot: &Snapshot) {
        let Some(event) = &snapshot.event else { return };
        self.count(event.kind.as_str());
        if event.left_filter {
            self.count("left the filter");
        }
        let replaced = snapshot.changed.len() > 1;
        if replaced || (at.sequence > 1 && event.kind.as_str() == "ADDED" && at.epoch == 0) {
            self.count("appeared again");
        }
    }

    fn check_phase(&mut self, snapshot: &Snapshot) -> Verdict {
        let plain = self.is_plain();
        let next = match (self.stage, snapshot.phase) {
            (Stage::FirstSeed, Phase::CurrentSeed) if plain => Stage::Live,
            (Stage::FirstSeed, Phase::CurrentSeed) => Stage::Backfill,
            (Stage::Backfill, Phase::Backfill | Phase::GapReseed) => Stage::Backfill,
            (Stage::Backfill, Phase::CatchupComplete) => Stage::CaughtUpSeed,
            (Stage::CaughtUpSeed, Phase::CurrentSeed) => Stage::Live,
            (Stage::Live, Phase::Live | Phase::GapReseed) => Stage::Live,
            (Stage::Backfill | Stage::Live, Phase::ReconnectReseed) if self.opened && !plain => {
                Stage::Backfill
            }
            (stage, phase) => return broken(Property::Phases, format!("{phase} in {stage:?}")),
        };
        if snapshot.phase == Phase::ReconnectReseed {
            self.opened = self.client.is_connected();
        }
        let goes_on = if next == Stage::Backfill { Phase::Backfill } else { Phase::Live };
        let bookmark = snapshot.phase == Phase::Live && self.options.yield_bookmarks;
        let has_event = matches!(snapshot.phase, Phase::Backfill | Phase::Live);
        let event = snapshot.event.as_ref().map(|event| &event.hash);
        let may_ack = !plain && (has_event || snapshot.phase == Phase::CatchupComplete);
        let fits = snapshot.goes_on == goes_on
            && (snapshot.event.is_some() == has_event || bookmark)
            && (snapshot.gap.is_some() == (snapshot.phase == Phase::GapReseed))
            && (snapshot.cause.is_none() || plain || snapshot.phase == Phase::ReconnectReseed)
            && (snapshot.ack.is_none() || may_ack)
            && (plain || event.is_none() || event == snapshot.ack.as_ref());
        if !fits {
            return broken(Property::Phases, format!("{} shows what it may not", snapshot.phase));
        }
        if snapshot.phase == Phase::CatchupComplete
            && let Some(head) = self.relay.head_at_connect()
        {
            // The client still has that connection, or does not know yet that it ended.
            if rule(Rule::DiscardAfterHole) && self.client.is_connected() {
                self.complete_up_to(head, None, "the head at the connect, caught up with")?;
            }
        }
        self.stage = next;
        Ok(())
    }

    fn check_gap(&mut self, gap: &Gap) -> Verdict {
        let epoch = gap.epoch.as_ref().or(self.client.continuity().epoch());
        let epoch = epoch.and_then(|e| e.as_str().parse().ok()).unwrap_or(self.relay.head().epoch);
        let at = match (&gap.hash, gap.sequence) {
            (Some(hash), _) => Some(At::parse(hash)),
            (None, Some(sequence)) => Some(At::new(epoch, sequence as u16)),
            (None, None) => None,
        };
        self.count(gap.reason.as_str());
        self.gapped = true;
        if let Some(Message::Pod(event)) = self.client.pending.as_ref().map(|pending| &*pending.message)
            && let Some(at) = at.filter(|at| *at >= At::parse(&event.hash))
        {
            let detail = format!("up to {}, and {} came", at.hash(), event.hash);
            return broken(Property::GapsHaveAReason, detail);
        }
        let happened = |faults: &[Fault]| faults.iter().any(|fault| self.happened.contains(fault));
        let reason = match gap.reason {
            GapReason::Hole => {
                let last = self.handed.last().copied().unwrap_or(self.known).max(self.known);
                let withheld = at.is_none_or(|at| self.relay.withholds(last, at));
                withheld || self.tampered.values().any(|n| *n > 1)
            }
            GapReason::Rewind => happened(&[Fault::Rewritten]),
            GapReason::EpochChanged => {
                happened(&[Fault::MessageLost, Fault::MessageSpoilt, Fault::GapUnsaid])
            }
            GapReason::Undecodable => happened(&[Fault::MessageSpoilt, Fault::MessageSpoiltWithoutId]),
            GapReason::CursorExpired | GapReason::SlowConsumer => happened(&[Fault::Trim]),
            _ => true,
        };
        if !reason {
            return broken(Property::GapsHaveAReason, format!("{} without a reason", gap.reason.as_str()));
        }
        match at {
            Some(at) => {
                let lost: Vec<At> = self.relay.events(self.covered, at).collect();
                let lost = lost.into_iter().filter(|at| !self.processed.contains(at));
                if lost.into_iter().any(|at| self.relay.is_deletion(at)) {
                    self.count("deletion in a gap");
                }
                self.cover(at);
                self.known = at;
                self.handed.retain(|handed| *handed <= at);
            }
            None if !self.nameless => return broken(Property::GapsHaveAReason, "it does not say where"),
            None => {
                self.unplaced_gap = true;
                self.handed.clear();
            }
        }
        Ok(())
    }

    fn check_pods(&mut self, snapshot: &Snapshot, event: Option<At>) -> Verdict {
        let text = |text: Option<&str>| text.unwrap_or("").to_owned();
        let pods: Shown = snapshot
            .pods
            .sorted()
            .into_iter()
            .map(|p| (p.name().to_owned(), text(p.uid()), text(p.resource_version())))
            .collect();
        let applies = self.options.apply_backfill && snapshot.phase == Phase::Backfill;
        self.historic |= applies;
        if snapshot.historic != self.historic {
            return broken(Property::PodsAreTheRelays, "history is not marked, or marks the present");
        }
        let seed = self.seed.expect("a list was taken before anything is shown");
        let expected = match (snapshot.phase, event) {
            (Phase::Backfill, _) if applies => None,
            (Phase::Backfill | Phase::CatchupComplete, _) | (_, None) if snapshot.gap.is_none() => {
                let is_seed = matches!(snapshot.phase, Phase::CurrentSeed | Phase::ReconnectReseed);
                Some(if is_seed { self.relay.pods(seed) } else { self.shown.clone() })
            }
            (_, None) => Some(self.relay.pods(seed)),
            (_, Some(at)) if seed.epoch == at.epoch => Some(self.relay.pods(at.max(seed))),
            (_, Some(at)) => Some(self.relay.pods(at)),
        };
        if let Some(expected) = expected.filter(|expected| *expected != pods) {
            let detail = format!("{} {event:?} shows {pods:?}, not {expected:?}", snapshot.phase);
            return broken(Property::PodsAreTheRelays, detail);
        }
        let changed: BTreeSet<&str> = snapshot.changed.iter().map(|change| change.key().name()).collect();
        let differs = |(name, ..): &&(String, String, String)| {
            let of = |all: &Shown| all.iter().find(|p| p.0 == *name).cloned();
            of(&pods) != of(&self.shown)
        };
        let untold = pods.iter().chain(&self.shown).filter(differs).find(|p| !changed.contains(&*p.0));
        if let Some((name, ..)) = untold {
            return broken(Property::PodsAreTheRelays, format!("{name} changed and is not named"));
        }
        self.shown = pods;
        Ok(())
    }

    pub(super) fn cover(&mut self, at: At) {
        self.covered = self.covered.max(at);
        self.known = self.known.max(at);
    }

    pub(super) fn acknowledge(&mut self, at: At) -> Verdict {
        if std::mem::take(&mut self.unplaced_gap) {
            self.cover(at);
        }
        let gapped = std::mem::take(&mut self.gapped);
        let before = self.persisted.as_ref().map(At::parse);
        if let Some(before) = before.filter(|b| b.epoch == at.epoch && b.sequence > at.sequence && !gapped) {
            let detail = format!("{} after {}", at.hash(), before.hash());
            return broken(Property::AckIsProcessed, detail);
        }
        self.complete_up_to(at, None, "acknowledged")
            .map_err(|e| Broken { property: Property::AckIsProcessed, ..e })
    }

    /// Checks that everything up to a position was handed over or announced as lost, except for one event.
    pub(super) fn complete_up_to(&self, at: At, but: Option<At>, why: &str) -> Verdict {
        if self.is_plain() || self.unplaced_gap {
            // In the plain state each list stands for everything that it contains, and the first for everything before
            // it.
            return Ok(());
        }
        // Any version of a rewritten event counts here; a separate check of the pods finds rewritten events.
        let same = |a: &At, b: &At| (a.epoch, a.sequence) == (b.epoch, b.sequence);
        let in_hand = self.in_hand.filter(|_| why != "acknowledged");
        let known = |e: &At| self.processed.iter().chain(&in_hand).any(|known| same(known, e));
        let missing = self.relay.events(self.covered, at).find(|e| !known(e) && Some(*e) != but);
        missing.map_or(Ok(()), |e| {
            let detail =
                format!("{} {why}, but {} neither handed over nor announced lost", at.hash(), e.hash());
            broken(Property::NothingLost, detail)
        })
    }

    /// Checks the state in which nothing is left to do.
    pub(super) fn rest(&mut self) -> Verdict<bool> {
        let head = self.relay.head();
        self.complete_up_to(head, None, "at rest")?;
        let (stream, expected) = (self.client.continuity(), self.relay.pods(head));
        if self.stage != Stage::Live || !stream.is_caught_up() {
            return broken(Property::ComesToRest, format!("in {:?}", self.stage));
        }
        if self.shown != expected {
            let detail = format!("at rest {:?}, not {expected:?}", self.shown);
            return broken(Property::PodsAreTheRelays, detail);
        }
        let at = self.persisted.as_ref().map(At::parse);
        if at != Some(head) && !self.is_plain() {
            return broken(Property::AckIsProcessed, format!("at rest {at:?}, not {head:?}"));
        }
        Ok(false)
    }
}
