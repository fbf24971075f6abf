//! The verdict: every cut and gap, checked by the sequences of the events.

use relay_pods::{Phase, Snapshot};

/// The parts of a snapshot that the verdict needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seen {
    /// An event with its number.
    Event(Option<u64>),
    /// Everything retained was replayed, or a list was read without an error before it.
    Connected,
    /// The connection dropped.
    Cut,
    /// The relay reported that this many events were lost, and the list was read again.
    Gap(Option<u64>),
}

impl Seen {
    pub(super) fn of(snapshot: &Snapshot) -> Self {
        match (&snapshot.event, snapshot.phase) {
            (Some(event), _) => Self::Event(event.sequence),
            (None, Phase::GapReseed) => Self::Gap(snapshot.gap.as_ref().and_then(|gap| gap.missed)),
            (None, Phase::ReconnectReseed) => Self::Cut,
            (None, _) => Self::Connected,
        }
    }
}

/// Counts lost and repeated events by their numbers, for the time after each cut and each gap.
#[derive(Debug)]
pub(super) struct Verdict {
    /// The number of the last event.
    last: Option<u64>,
    /// The start, and each later fault.
    parts: Vec<Part>,
}

/// The time from one fault to the next.
#[derive(Debug)]
struct Part {
    kind: Kind,
    /// The last event before the fault.
    after: Option<u64>,
    connected: bool,
    events: u64,
    /// Numbers that are missing where the relay had announced it.
    announced: u64,
    /// Numbers that are missing anywhere else.
    lost: u64,
    twice: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Start,
    Cut,
    Gap { missed: Option<u64> },
}

impl Part {
    fn new(kind: Kind, after: Option<u64>) -> Self {
        Self { kind, after, connected: false, events: 0, announced: 0, lost: 0, twice: 0 }
    }

    fn number(&mut self, last: Option<u64>, number: u64) {
        let is_first = self.events == 0;
        self.events += 1;
        let Some(last) = last else { return };
        let left_out = number.saturating_sub(last).saturating_sub(1);
        if number <= last {
            self.twice += 1;
        } else if is_first && matches!(self.kind, Kind::Gap { .. }) {
            self.announced = left_out;
        } else {
            self.lost += left_out;
        }
    }

    /// Whether there was no error.
    fn is_good(&self) -> bool {
        let as_told = match self.kind {
            Kind::Gap { missed } => self.events == 0 || missed == Some(self.announced),
            Kind::Start | Kind::Cut => true,
        };
        as_told && (self.kind == Kind::Start || self.connected) && self.lost == 0 && self.twice == 0
    }

    fn text(&self) -> String {
        let counts = format!("{} lost, {} twice", self.lost, self.twice);
        match self.kind {
            Kind::Start => format!("{} events from the start: {counts}", self.events),
            Kind::Cut => {
                let after = self.after.map_or("the first list".into(), |number| format!("#{number}"));
                let resumed = if self.connected { "resumed" } else { "not resumed yet" };
                format!("cut after {after}: {resumed}, {counts}")
            }
            Kind::Gap { missed } => {
                let told = missed.map_or("an unknown number".into(), |missed| missed.to_string());
                let lost = match missed {
                    _ if self.events == 0 => format!("{told} announced, no event since"),
                    Some(missed) if missed == self.announced => format!("{missed} lost, announced"),
                    _ => format!("{} lost, {told} announced", self.announced),
                };
                let rest =
                    if self.lost + self.twice > 0 { format!("; then {counts}") } else { String::new() };
                format!("gap: {lost}, list read again{rest}")
            }
        }
    }
}

impl Verdict {
    pub(super) fn new() -> Self {
        Self { last: None, parts: vec![Part::new(Kind::Start, None)] }
    }

    /// Records the next snapshot.
    pub(super) fn saw(&mut self, seen: Seen) {
        match seen {
            Seen::Cut => self.parts.push(Part::new(Kind::Cut, self.last)),
            Seen::Gap(missed) => {
                self.parts.push(Part { connected: true, ..Part::new(Kind::Gap { missed }, self.last) });
            }
            Seen::Connected => self.connected(),
            Seen::Event(number) => {
                self.connected();
                if let (Some(number), Some(part)) = (number, self.parts.last_mut()) {
                    part.number(self.last, number);
                    self.last = self.last.max(Some(number));
                }
            }
        }
    }

    fn connected(&mut self) {
        if let Some(part) = self.parts.last_mut() {
            part.connected = true;
        }
    }

    /// The number of the last event.
    pub(super) fn last(&self) -> Option<u64> {
        self.last
    }

    /// Whether the last fault is a cut.
    pub(super) fn was_cut(&self) -> bool {
        self.parts.last().is_some_and(|part| part.kind == Kind::Cut)
    }

    /// Whether there was no error at all.
    pub(super) fn is_good(&self) -> bool {
        self.parts.iter().all(Part::is_good)
    }

    /// The faults, one after the other. The start is included only if there is nothing else, or if it had an error.
    pub(super) fn text(&self) -> String {
        let told = self
            .parts
            .iter()
            .filter(|part| part.kind != Kind::Start || self.parts.len() == 1 || !part.is_good())
            .map(Part::text);
        told.collect::<Vec<_>>().join("; ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(numbers: impl IntoIterator<Item = u64>) -> Vec<Seen> {
        numbers.into_iter().map(|number| Seen::Event(Some(number))).collect()
    }

    #[test]
    fn the_verdict_says_what_was_seen() {
        use Seen::{Connected, Cut, Gap};
        let whole = [events(1..=35), vec![Cut, Connected], events(36..=40)].concat();
        for (seen, good, text) in [
            (vec![], true, "0 events from the start: 0 lost, 0 twice"),
            ([vec![Connected], events(1..=3)].concat(), true, "3 events from the start: 0 lost, 0 twice"),
            (events([5, 6, 9, 9]), false, "4 events from the start: 2 lost, 1 twice"),
            (
                [whole.clone(), vec![Gap(Some(1))], events(42..=50)].concat(),
                true,
                "cut after #35: resumed, 0 lost, 0 twice; gap: 1 lost, announced, list read again",
            ),
            // Each of these is a client or a relay that is broken in one way.
            (
                [events(1..=35), vec![Cut], events([35, 36, 38])].concat(),
                false,
                "cut after #35: resumed, 1 lost, 1 twice",
            ),
            ([events(1..=35), vec![Cut]].concat(), false, "cut after #35: not resumed yet, 0 lost, 0 twice"),
            (vec![Cut, Connected], true, "cut after the first list: resumed, 0 lost, 0 twice"),
            (
                [whole.clone(), vec![Gap(Some(1))], events([44])].concat(),
                false,
                "cut after #35: resumed, 0 lost, 0 twice; gap: 3 lost, 1 announced, list read again",
            ),
            (
                [events(1..=2), vec![Gap(None)], events([4])].concat(),
                false,
                "gap: 1 lost, an unknown number announced, list read again",
            ),
            (
                [events(1..=2), vec![Gap(Some(1))]].concat(),
                true,
                "gap: 1 announced, no event since, list read again",
            ),
            (
                [events(1..=2), vec![Gap(Some(1))], events([4, 6, 6])].concat(),
                false,
                "gap: 1 lost, announced, list read again; then 1 lost, 1 twice",
            ),
            (
                [events([1, 3]), vec![Cut, Connected]].concat(),
                false,
                "2 events from the start: 1 lost, 0 twice; cut after #3: resumed, 0 lost, 0 twice",
            ),
        ] {
            let mut verdict = Verdict::new();
            seen.iter().for_each(|seen| verdict.saw(*seen));
            assert_eq!((verdict.text().as_str(), verdict.is_good()), (text, good), "{seen:?}");
        }
    }
}
