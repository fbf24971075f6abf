//! Checks of a follower's snapshots and acknowledgements.

use relay_pods::{EventHash, Gap, PodEvent};

use crate::ledger::{Ledger, Place};

/// Checks one follower of a replay stream against the ledger, event by event.
///
/// It knows the place up to which every event for the follower was handed over or announced as lost. An event or
/// acknowledgement beyond that place must not leave out an event.
pub(crate) struct Audit {
    ledger: Ledger,
    filtered: bool,
    whole: Option<Place>,
    /// The last acknowledgement. It stays valid until the next one, also over a gap.
    acknowledged: Option<EventHash>,
}

impl Audit {
    pub(crate) fn new(ledger: Ledger, filtered: bool) -> Self {
        Self { ledger, filtered, whole: None, acknowledged: None }
    }

    /// The follower starts again from its saved position.
    pub(crate) fn restart(&mut self, persisted: Option<&EventHash>) {
        self.whole = persisted.and_then(|hash| self.ledger.place(hash));
        self.acknowledged = persisted.cloned();
    }

    /// An event was handed over.
    pub(crate) fn event(&mut self, event: &PodEvent) -> Result<(), String> {
        let Some(place) = self.ledger.place(&event.hash) else {
            return Err(format!("the event {} is in no log", event.hash));
        };
        if self.whole.is_some_and(|whole| whole.log == place.log && place.sequence <= whole.sequence) {
            return Err(format!("event {place:?} came again; everything up to {:?} was seen", self.whole));
        }
        self.reaches(Place { sequence: place.sequence - 1, ..place }, "an event")?;
        self.whole = Some(place);
        Ok(())
    }

    /// A gap was reported.
    pub(crate) fn gap(&mut self, gap: &Gap) {
        let log = gap.epoch.as_ref().and_then(|epoch| self.ledger.log(epoch.as_str()));
        self.whole = log.zip(gap.sequence).map(|(log, sequence)| Place { log, sequence });
    }

    /// Something was acknowledged: by a snapshot, or by a bookmark.
    pub(crate) fn acknowledged(&mut self, hash: &EventHash) -> Result<(), String> {
        if self.acknowledged.as_ref() == Some(hash) {
            return Ok(());
        }
        self.acknowledged = Some(hash.clone());
        // The ledger has forgotten this position: it is an old acknowledgement that was repeated.
        let Some(place) = self.ledger.place(hash) else { return Ok(()) };
        self.reaches(place, "an acknowledgement")
    }

    /// Whether everything up to the end of the newest log was handed over or announced as lost.
    pub(crate) fn is_complete(&self) -> bool {
        let head = self.ledger.head();
        let at = self.whole.filter(|whole| whole.log == head.log);
        at.is_some_and(|at| self.ledger.first_between(at, head.sequence, self.filtered).is_none())
    }

    fn reaches(&mut self, place: Place, what: &str) -> Result<(), String> {
        // Before the first event or acknowledgement nothing is known, so the check begins there.
        let Some(whole) = self.whole else {
            self.whole = Some(place);
            return Ok(());
        };
        if whole.log != place.log {
            return Err(format!("{what} at {place:?}, of another log than {whole:?}, without a gap"));
        }
        if let Some(lost) = self.ledger.first_between(whole, place.sequence, self.filtered) {
            return Err(format!("{what} at {place:?}, but {lost} was lost unannounced after {whole:?}"));
        }
        if place.sequence > whole.sequence {
            self.whole = Some(place);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use relay_pods::{EventType, Filter, GapReason};
    use relay_proto::pods::PodBuilder;

    /// Plays a script: `e.3` is an event, `!e.3` an acknowledgement, `?e.3` a gap, `^e.3` a restart, `^` a restart
    /// without a saved position. Returns the word at which the audit finds an error.
    fn play(filtered: bool, script: &str) -> Option<String> {
        let filter = Filter::new().namespace("prod").unwrap();
        let ledger = Ledger::new(filter).with_log("e", "+--+-+").with_log("f", "++");
        let mut audit = Audit::new(ledger, filtered);
        for word in script.split_whitespace() {
            let hash = |text: &str| EventHash::new(text).unwrap();
            let result = match word.as_bytes()[0] {
                b'!' => audit.acknowledged(&hash(&word[1..])),
                b'^' => {
                    audit.restart((word.len() > 1).then(|| hash(&word[1..])).as_ref());
                    Ok(())
                }
                b'?' => {
                    let (epoch, sequence) = word[1..].split_once('.').unwrap();
                    let mut gap = Gap::new(GapReason::SlowConsumer, None, sequence.parse().ok());
                    gap.epoch = Some(relay_proto::pods::Epoch::new(epoch));
                    audit.gap(&gap);
                    Ok(())
                }
                _ => {
                    let pod = PodBuilder::new("prod", "web").build();
                    audit.event(&PodEvent::new(EventType::Modified, hash(word), None, pod))
                }
            };
            if let Err(why) = result {
                return Some(format!("{word}: {why}"));
            }
        }
        None
    }

    #[test]
    fn what_is_lost_twice_or_acknowledged_too_early_is_found() {
        for (filtered, script, objects) in [
            (false, "e.1 e.2 e.3 !e.3 e.4", None),
            (false, "e.3 e.4 !e.4", None),
            (false, "e.1 e.3", Some("e.3: an event")),
            (false, "e.1 e.2 e.2", Some("e.2: event")),
            (false, "e.1 !e.3", Some("!e.3: an acknowledgement")),
            (false, "e.1 ?e.4 e.5 e.6 !e.6", None),
            (false, "e.1 ?e.4 e.6", Some("e.6: an event")),
            (false, "e.1 e.2 !e.1 ^e.1 e.2 e.3", None),
            (false, "e.1 e.2 !e.1 ^e.1 e.3", Some("e.3: an event")),
            (false, "e.1 ^ e.5 e.6", None),
            (false, "!e.0 e.1", None),
            (false, "!e.0 e.2", Some("e.2: an event")),
            (false, "e.6 f.1", Some("f.1: an event")),
            (false, "e.6 ?f.0 f.1 f.2", None),
            (false, "e.6 ?f.0 f.2", Some("f.2: an event")),
            (false, "e.6 !e.6 ?f.0 !e.6 f.1", None),
            (false, "e.6 !e.6 ?f.0 !e.5", Some("!e.5: an acknowledgement")),
            (false, "e.1 x.1", Some("x.1: the event")),
            (true, "e.1 e.4 !e.5 e.6", None),
            (true, "e.1 !e.3 e.4", None),
            (true, "e.1 !e.4", Some("!e.4: an acknowledgement")),
            (true, "e.1 e.6", Some("e.6: an event")),
        ] {
            let found = play(filtered, script);
            match (&found, objects) {
                (None, None) => {}
                (Some(found), Some(objects)) if found.starts_with(objects) => {}
                _ => panic!("{script} (filtered {filtered}): {found:?}, expected {objects:?}"),
            }
        }
    }

    #[test]
    fn only_the_end_of_the_newest_log_is_complete() {
        let ledger =
            Ledger::new(Filter::new().namespace("prod").unwrap()).with_log("e", "+").with_log("f", "+-");
        for (hash, filtered, complete) in [
            ("e.1", false, false),
            ("f.1", false, false),
            ("f.1", true, true),
            ("f.2", false, true),
            ("f.0", true, false),
        ] {
            let mut audit = Audit::new(ledger.clone(), filtered);
            audit.acknowledged(&EventHash::new(hash).unwrap()).unwrap();
            assert_eq!(audit.is_complete(), complete, "{hash}, filtered {filtered}");
        }
    }
}
