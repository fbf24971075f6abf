//! One consumer of a relay, which is slow, killed and started again, and checks its snapshots.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use relay_pods::{
    Client, EventHash, Filter, Freshness, Phase, Pod, Pods, Snapshot, Statistics, StreamHandle, StreamOptions,
};
use relay_testkit::Rng;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::audit::Audit;
use crate::ledger::Ledger;

/// The kind of a follower's stream. There is one follower of each kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kind {
    pub(crate) replay: bool,
    pub(crate) filtered: bool,
    pub(crate) conflated: bool,
}

impl Kind {
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        (0..8).map(|bits| Self { replay: bits & 1 == 0, filtered: bits & 2 != 0, conflated: bits & 4 != 0 })
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.replay { "replay" } else { "state" })?;
        f.write_str(if self.filtered { ", filtered" } else { "" })?;
        f.write_str(if self.conflated { ", conflated" } else { "" })
    }
}

/// The orders for a follower.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Orders {
    /// Whether the follower takes long for each snapshot.
    pub(crate) slow: bool,
    /// Grows by one with each kill.
    pub(crate) kills: u64,
    /// The round whose events and faults are over: the follower reports when everything has arrived.
    pub(crate) calm: Option<u64>,
}

/// The counts of a follower.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Tally {
    pub(crate) snapshots: u64,
    pub(crate) events: u64,
    /// Snapshots of several events.
    pub(crate) conflated: u64,
    pub(crate) reconnects: u64,
    pub(crate) gap_reseeds: u64,
    pub(crate) reconnect_reseeds: u64,
    pub(crate) holes: u64,
    pub(crate) duplicates: u64,
}

/// The progress of a follower, for the part that gives the orders.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    pub(crate) tally: Tally,
    /// The statistics of its present stream.
    pub(crate) life: Statistics,
    /// The last round of which everything has arrived.
    pub(crate) settled: Option<u64>,
    /// The reason why the next round has not arrived.
    pub(crate) why: String,
}

pub(crate) struct Follower {
    kind: Kind,
    url: String,
    filter: Filter,
    ledger: Ledger,
    audit: Audit,
    orders: watch::Receiver<Orders>,
    progress: Arc<Mutex<Progress>>,
    rng: Rng,
    /// The position that survives a kill.
    persisted: Option<EventHash>,
    pods: Pods,
    live: bool,
}

impl Progress {
    /// The counts over all of its runs.
    pub(crate) fn tally(&self) -> Tally {
        Tally {
            reconnects: self.tally.reconnects + self.life.reconnects,
            holes: self.tally.holes + self.life.holes,
            duplicates: self.tally.duplicates + self.life.duplicates,
            ..self.tally
        }
    }
}

impl Follower {
    pub(crate) fn new(
        kind: Kind,
        url: String,
        filter: Filter,
        ledger: Ledger,
        orders: watch::Receiver<Orders>,
        progress: Arc<Mutex<Progress>>,
        rng: Rng,
    ) -> Self {
        let audit = Audit::new(ledger.clone(), kind.filtered);
        let (persisted, pods) = (None, Pods::default());
        Self { kind, url, filter, ledger, audit, orders, progress, rng, persisted, pods, live: false }
    }

    /// Follows, one run after the other, until there are no more orders.
    ///
    /// # Errors
    /// The first wrong snapshot or acknowledgement.
    pub(crate) async fn run(mut self) -> Result<(), String> {
        loop {
            match self.live().await {
                Ok(true) => {}
                Ok(false) => return Ok(()),
                Err(why) => return Err(format!("{}: {why}", self.kind)),
            }
        }
    }

    /// One run; true if it ended with a kill.
    async fn live(&mut self) -> Result<bool, String> {
        let client = Client::builder(&self.url).build().map_err(|error| error.to_string())?;
        let mut options = StreamOptions::new()
            .reconnect_base(Duration::from_millis(10))
            .reconnect_cap(Duration::from_millis(250))
            .conflate(self.kind.conflated)
            .conflate_most(64);
        if self.kind.filtered {
            options = options.filter(self.filter.clone());
        }
        let mut stream = if self.kind.replay {
            client.stream_pod_state_with_replay(options.since(self.persisted.clone()))
        } else {
            client.stream_pod_state(options)
        };
        self.audit.restart(self.persisted.as_ref());
        self.live = false;
        let handle = stream.handle();
        let kills = self.orders.borrow_and_update().kills;
        let mut tick = interval(Duration::from_millis(25));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let killed = loop {
            tokio::select! {
                biased;
                changed = self.orders.changed() => {
                    if changed.is_err() {
                        break false;
                    }
                    if self.orders.borrow_and_update().kills != kills {
                        break true;
                    }
                }
                snapshot = stream.next() => {
                    match snapshot {
                        Some(Ok(snapshot)) => self.take(&snapshot, &handle)?,
                        Some(Err(error)) => return Err(format!("the stream ended: {error}")),
                        None => return Err("the stream ended".into()),
                    }
                    if self.orders.borrow().slow {
                        sleep(Duration::from_millis(5 + self.rng.below(45))).await;
                    }
                }
                _ = tick.tick() => self.persist(&handle)?,
            }
            let calm = self.orders.borrow().calm;
            if let Some(round) = calm {
                self.settle(round, &handle);
            }
        };
        self.with_progress(|progress| {
            let life = std::mem::take(&mut progress.life);
            progress.tally.reconnects += life.reconnects;
            progress.tally.holes += life.holes;
            progress.tally.duplicates += life.duplicates;
        });
        Ok(killed)
    }

    fn take(&mut self, snapshot: &Snapshot, handle: &StreamHandle) -> Result<(), String> {
        let events = snapshot.events().count() as u64;
        self.with_progress(|progress| {
            let tally = &mut progress.tally;
            tally.snapshots += 1;
            tally.events += events;
            tally.conflated += u64::from(events > 1);
            tally.gap_reseeds += u64::from(snapshot.phase == Phase::GapReseed);
            tally.reconnect_reseeds += u64::from(snapshot.phase == Phase::ReconnectReseed);
        });
        if events > 1 && (!self.kind.conflated || snapshot.gap.is_some() || snapshot.cause.is_some()) {
            return Err(format!("{events} events in a snapshot of {}", snapshot.phase));
        }
        self.pods = snapshot.pods.clone();
        self.live = snapshot.is_live();
        if !self.kind.replay {
            return self.persist(handle);
        }
        let acknowledged = handle.acknowledgement();
        if let Some(early) = snapshot.events().find(|event| Some(&event.hash) == acknowledged.as_ref()) {
            return Err(format!("{} is acknowledged and in hand", early.hash));
        }
        if let Some(gap) = &snapshot.gap {
            self.audit.gap(gap);
        }
        snapshot.events().try_for_each(|event| self.audit.event(event))?;
        if let Some(ack) = &snapshot.ack {
            self.audit.acknowledged(ack)?;
        }
        handle.finish();
        self.persist(handle)
    }

    /// Records the statistics, and saves the acknowledgement now and then, because a kill may come before a save.
    fn persist(&mut self, handle: &StreamHandle) -> Result<(), String> {
        self.with_progress(|progress| progress.life = handle.statistics());
        let Some(ack) = handle.acknowledgement().filter(|_| self.kind.replay) else { return Ok(()) };
        self.audit.acknowledged(&ack)?;
        if self.rng.one_in(3) {
            self.persisted = Some(ack);
        }
        Ok(())
    }

    /// Checks whether everything of a round has arrived, and records it, or the reason why not.
    fn settle(&mut self, round: u64, handle: &StreamHandle) {
        if self.with_progress(|progress| progress.settled == Some(round)) {
            return;
        }
        let freshness = handle.freshness();
        let why = if freshness != Freshness::Live || !self.live {
            Some(format!("it is {freshness:?}, after a snapshot that is live: {}", self.live))
        } else if self.kind.replay && !self.audit.is_complete() {
            Some("events are missing".into())
        } else {
            different(&self.ledger.pods(self.kind.filtered), &self.pods)
        };
        self.with_progress(|progress| match why {
            None => progress.settled = Some(round),
            Some(why) => progress.why = why,
        });
    }

    fn with_progress<T>(&self, access: impl FnOnce(&mut Progress) -> T) -> T {
        access(&mut self.progress.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The first difference, if there is one.
fn different(expected: &[Pod], held: &Pods) -> Option<String> {
    if let Some(pod) = expected.iter().find(|pod| held.get(pod.key()) != Some(pod)) {
        return Some(format!("it has {:?} in the place of {pod:?}", held.get(pod.key())));
    }
    (expected.len() != held.len()).then(|| format!("it has {} pods, not {}", held.len(), expected.len()))
}
