//! Conflation: several events in one snapshot, for a caller that is slower than the relay.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use relay_proto::pods::{EventHash, Pod, PodEvent, PodKey};

use super::{Replay, Snapshot};
use crate::pods::Change;

/// Merges consecutive snapshots of events into one.
///
/// The merged snapshot lists every event ([`Snapshot::events`]), has the pods and the ack of the last one, and the
/// net change since the snapshot before the first. Only snapshots of events of one phase are merged: any other
/// snapshot (a list, a gap, a drop, the end of the replay, a bookmark) stays separate and in its place.
///
/// It holds the merged events, and two pods per key that changed.
#[derive(Debug, Clone)]
pub struct Conflation {
    /// The snapshot that was added last.
    last: Snapshot,
    /// The events before its own.
    earlier: Vec<PodEvent>,
    /// `None` until there is more than one.
    net: Option<BTreeMap<PodKey, Net>>,
}

/// The pod of a key before the first of the merged changes, and after the last.
#[derive(Debug, Clone, Default)]
struct Net {
    before: Option<Pod>,
    after: Option<Pod>,
}

impl Conflation {
    /// Begins with a snapshot, which is returned unchanged when nothing is added.
    pub fn new(first: Snapshot) -> Self {
        Self { last: first, earlier: Vec::new(), net: None }
    }

    /// Whether anything can be added: it began with a snapshot of an event.
    pub fn is_open(&self) -> bool {
        is_of_an_event(&self.last)
    }

    /// Number of events covered so far.
    pub fn events(&self) -> usize {
        self.earlier.len() + self.last.events().count()
    }

    /// The position that may be saved once everything covered was processed.
    pub fn ack(&self) -> Option<&EventHash> {
        self.last.ack.as_ref()
    }

    /// Adds the snapshot that follows.
    ///
    /// # Errors
    /// Returns it when it may not be merged: it follows as a separate snapshot.
    pub fn push(&mut self, mut next: Snapshot) -> Result<(), Box<Snapshot>> {
        let last = &mut self.last;
        let fits = is_of_an_event(last)
            && is_of_an_event(&next)
            && (next.phase, next.goes_on, next.historic) == (last.phase, last.goes_on, last.historic);
        if !fits {
            return Err(Box::new(next));
        }
        let net = self.net.get_or_insert_default();
        // The changes of the first snapshot are added together with the second.
        add_up(net, std::mem::take(&mut last.changed));
        add_up(net, std::mem::take(&mut next.changed));
        self.earlier.append(&mut last.earlier);
        self.earlier.extend(last.event.take());
        self.last = next;
        Ok(())
    }

    /// The merged snapshot.
    pub fn finish(self) -> Snapshot {
        let Self { mut last, mut earlier, net } = self;
        let Some(net) = net else { return last };
        earlier.append(&mut last.earlier);
        let changed = net.into_values().flat_map(Net::changes).collect();
        Snapshot { changed, earlier, ..last }
    }
}

impl Snapshot {
    /// The events that it covers, oldest first: none, one, or several when it is conflated.
    pub fn events(&self) -> impl Iterator<Item = &PodEvent> {
        self.earlier.iter().chain(&self.event)
    }
}

impl Replay {
    /// Whether the next step is `Step::Message`.
    pub fn wants_message(&self) -> bool {
        !self.has_output() && self.reads_messages()
    }

    /// For a driver that conflates: merges the pending snapshots, if possible, into the next one for the caller.
    /// Merged snapshots are acknowledged together, once the caller has processed them; others are left for
    /// [`Replay::poll`].
    pub fn conflate(&mut self, into: &mut Conflation) {
        while let Some(next) = self.ready.pop_front() {
            if let Err(apart) = into.push(next) {
                self.ready.push_front(*apart);
                return;
            }
            self.acks.hand_over(into.ack());
        }
    }
}

/// Whether it is a snapshot of an event. A bookmark has no event, and would move the ack beyond the last one.
fn is_of_an_event(snapshot: &Snapshot) -> bool {
    snapshot.event.is_some() && snapshot.gap.is_none() && snapshot.cause.is_none()
}

fn add_up(net: &mut BTreeMap<PodKey, Net>, changes: Vec<Change>) {
    for Change { before, after, .. } in changes {
        let Some(key) = after.as_ref().or(before.as_ref()).map(|pod| pod.key().clone()) else { continue };
        match net.entry(key) {
            Entry::Vacant(entry) => {
                entry.insert(Net { before, after });
            }
            // Each change continues from the one before.
            Entry::Occupied(entry) => entry.into_mut().after = after,
        }
    }
}

impl Net {
    /// The change of one key as a list would show it: nothing, one change, or a removal and an addition.
    fn changes(self) -> impl Iterator<Item = Change> {
        let same = self.before == self.after;
        Change::between(self.before, self.after).filter(move |_| !same)
    }
}

#[cfg(test)]
mod tests;
