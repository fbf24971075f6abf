//! A run: relays, links with faults, followers, and their results.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use relay_pods::{Filter, Pod};
use relay_pods_server::{CancellationToken, Config, DEFAULT_RETENTION, Handle, Server, SimSource, Source};
use relay_testkit::{FaultLink, Faults, Rng};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::sleep;

use crate::follower::{Follower, Kind, Orders, Progress, Tally};
use crate::ledger::{Ledger, Recorded};
use crate::meter::{Sample, flat};

/// The number of pods of the cluster, its events per second, and the number of events that a relay retains.
const PODS: usize = 30;
const RATE: f64 = 250.0;
const RETAINED: u64 = 3_000;
/// The longest time until everything has arrived after the last fault.
const PATIENCE: Duration = Duration::from_secs(60);

/// The settings of a run.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Soak {
    /// Decides the faults and their order; sockets and the scheduler decide the rest. Default 1.
    pub seed: u64,
    /// The time during which new rounds begin. Default none.
    pub time: Duration,
    /// The least number of rounds, whatever the time is. Default 6, in which every fault happens.
    pub rounds: u64,
    /// How long faults last in a round; after that everything must arrive. Default 3 s.
    pub faults_for: Duration,
}

impl Default for Soak {
    fn default() -> Self {
        Self { seed: 1, time: Duration::ZERO, rounds: 6, faults_for: Duration::from_secs(3) }
    }
}

/// The results of a run, so far or in all.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Report {
    /// The length of the run.
    pub time: Duration,
    /// Rounds of faults, each with a comparison at its end.
    pub rounds: u64,
    /// Events of the relays' logs.
    pub events: u64,
    /// Events that were handed over to the eight followers.
    pub handed_over: u64,
    /// Snapshots handed over.
    pub snapshots: u64,
    /// Snapshots of several events.
    pub conflated: u64,
    /// How often followers recovered from faults, by kind.
    pub recoveries: BTreeMap<&'static str, u64>,
    /// Holes that clients found. The relays cause none.
    pub holes: u64,
    /// Messages that came twice.
    pub duplicates: u64,
    /// Faults by name. In a run that passed, none of them is zero.
    pub faults: BTreeMap<&'static str, u64>,
    /// The last measurement.
    pub sample: Sample,
    /// The medians of the second and the last quarter, if the run was long enough.
    pub medians: Option<(Sample, Sample)>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |counts: &BTreeMap<&'static str, u64>| {
            counts.iter().map(|(name, count)| format!("{name} {count}")).collect::<Vec<_>>().join(", ")
        };
        writeln!(
            f,
            "{} s, {} rounds: {} events, handed over {} times in {} snapshots ({} conflated)",
            self.time.as_secs(),
            self.rounds,
            self.events,
            self.handed_over,
            self.snapshots,
            self.conflated
        )?;
        writeln!(f, "  faults: {}", list(&self.faults))?;
        let (holes, duplicates) = (self.holes, self.duplicates);
        writeln!(f, "  recoveries: {}, holes {holes}, duplicates {duplicates}", list(&self.recoveries))?;
        write!(f, "  {}", self.sample)?;
        if let Some((second, last)) = &self.medians {
            write!(f, "\n  median of the second quarter: {second}; of the last: {last}")?;
        }
        Ok(())
    }
}

impl Soak {
    /// Runs the soak in the present runtime, and reports every minute.
    ///
    /// # Errors
    /// An event that was lost, a wrong snapshot, data that never arrived, a resource that grew, or a fault that never
    /// occurred.
    pub async fn run(self, mut tell: impl FnMut(&Report)) -> Result<Report, String> {
        let began = Instant::now();
        let mut world = World::start(&self).await?;
        let (mut samples, mut minutes, mut round) = (Vec::new(), 0, 0);
        while round < self.rounds || began.elapsed() < self.time {
            world.round(round, self.faults_for).await?;
            round += 1;
            samples.push(Sample::take());
            let report = world.report(began.elapsed(), round);
            if began.elapsed().as_secs() / 60 > minutes {
                minutes = began.elapsed().as_secs() / 60;
                tell(&report);
            }
        }
        let mut report = world.report(began.elapsed(), round);
        if let Some((name, _)) =
            report.faults.iter().chain(&report.recoveries).find(|(_, count)| **count == 0)
        {
            return Err(format!("`{name}` never happened"));
        }
        if report.holes + report.duplicates > 0 {
            let (holes, duplicates) = (report.holes, report.duplicates);
            return Err(format!("{holes} holes and {duplicates} duplicates, although no relay made any"));
        }
        report.medians = flat(&samples)?;
        Ok(report)
    }
}

/// A fault of a relay, or of a follower.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Blow {
    RestartSameEpoch,
    RestartNewEpoch,
    Trim,
    ForcedGap,
    Rebalance,
    CutStreams,
    SourceAway,
    Kill,
}

impl Blow {
    const ALL: [Self; 8] = [
        Self::RestartSameEpoch,
        Self::ForcedGap,
        Self::Kill,
        Self::Rebalance,
        Self::RestartNewEpoch,
        Self::CutStreams,
        Self::Trim,
        Self::SourceAway,
    ];
    /// The number of them in each round, one after the other.
    const PER_ROUND: usize = 3;

    fn name(self) -> &'static str {
        match self {
            Self::RestartSameEpoch => "relay restarted, same epoch",
            Self::RestartNewEpoch => "relay restarted, new epoch",
            Self::Trim => "log trimmed",
            Self::ForcedGap => "streams fell off the log",
            Self::Rebalance => "streams rebalanced",
            Self::CutStreams => "streams cut by the relay",
            Self::SourceAway => "source away",
            Self::Kill => "follower killed",
        }
    }
}

/// The faults of a link in a round. They rotate, so that every follower meets each of them.
fn profile(n: u64, rng: &mut Rng) -> Faults {
    let faults = Faults::none();
    match n % 8 {
        0 => faults.cut_every(20 + rng.below(60)).reset(),
        1 => faults.cut_bytes(80_000 + rng.below(120_000)).reset().split(700),
        2 => faults.hang_every(30 + rng.below(90)),
        3 => faults.stall(10 + rng.below(20), Duration::from_millis(30 + rng.below(200))),
        4 => faults.slow(60_000 + rng.below(60_000)),
        5 => faults.refuse_one_in(2).cut_every(25 + rng.below(50)),
        6 => faults.split(50).cut_bytes(60_000 + rng.below(200_000)),
        _ => faults,
    }
}

struct World {
    rng: Rng,
    ledger: Ledger,
    relay: Relay,
    consumers: Vec<Consumer>,
    running: JoinSet<Result<(), String>>,
    blows: BTreeMap<&'static str, u64>,
    /// The number of faults so far: the next one is the next in the list.
    given: usize,
}

/// A follower seen from outside, and its link.
struct Consumer {
    kind: Kind,
    link: FaultLink,
    orders: watch::Sender<Orders>,
    progress: Arc<Mutex<Progress>>,
}

impl World {
    async fn start(soak: &Soak) -> Result<Self, String> {
        let rng = Rng::new(soak.seed);
        // Pods get this label and lose it again.
        let filter = Filter::new().label("track=stable").map_err(|error| error.to_string())?;
        let ledger = Ledger::new(filter.clone());
        let store = ledger.store();
        let relay = Relay::start("127.0.0.1:0".parse().map_err(|_| "an address")?, store, None).await?;
        let (mut consumers, mut running) = (Vec::new(), JoinSet::new());
        for (n, kind) in (0..).zip(Kind::all()) {
            let link = FaultLink::start(relay.address, soak.seed.wrapping_add(n), Faults::none()).await;
            let (orders, obeyed) = watch::channel(Orders::default());
            let progress = Arc::new(Mutex::new(Progress::default()));
            let follower = Follower::new(
                kind,
                link.url(),
                filter.clone(),
                ledger.clone(),
                obeyed,
                progress.clone(),
                rng.fork(100 + n),
            );
            running.spawn(follower.run());
            consumers.push(Consumer { kind, link, orders, progress });
        }
        let mut blows: BTreeMap<_, _> = Blow::ALL.iter().map(|blow| (blow.name(), 0)).collect();
        blows.insert("slow follower", 0);
        Ok(Self { rng, ledger, relay, consumers, running, blows, given: 0 })
    }

    /// Causes faults for a while. After that, everything must arrive and match the ledger.
    async fn round(&mut self, round: u64, time: Duration) -> Result<(), String> {
        for (n, consumer) in (0..).zip(&self.consumers) {
            consumer.link.set(profile(n + round, &mut self.rng));
            let slow = (n + round) % 4 == 3;
            consumer.orders.send_modify(|orders| (orders.slow, orders.calm) = (slow, None));
            *self.blows.entry("slow follower").or_default() += u64::from(slow);
        }
        self.relay.begin(self.rng.next_u64());
        let pause = time / (Blow::PER_ROUND as u32 + 1);
        for _ in 0..Blow::PER_ROUND {
            self.pass(pause).await?;
            let blow = Blow::ALL[self.given % Blow::ALL.len()];
            self.given += 1;
            self.strike(blow).await?;
        }
        self.pass(pause).await?;
        self.relay.quiet().await?;
        for consumer in &self.consumers {
            consumer.link.set(Faults::none());
            consumer.orders.send_modify(|orders| (orders.slow, orders.calm) = (false, Some(round)));
        }
        let deadline = Instant::now() + PATIENCE;
        while let Some(late) = self.unsettled(round) {
            if Instant::now() > deadline {
                return Err(format!("round {round}: not everything arrived within {PATIENCE:?}: {late}"));
            }
            self.pass(Duration::from_millis(10)).await?;
        }
        let (mut held, ours) = (self.relay.handle.publisher().current(), self.ledger.pods(false));
        held.sort_by(|a, b| a.key().cmp(b.key()));
        if held != ours {
            return Err(format!(
                "round {round}: the relay has {} pods, the ledger {}",
                held.len(),
                ours.len()
            ));
        }
        self.ledger.broken().map_or(Ok(()), Err)
    }

    /// Lets time pass, and fails if a follower reports an error.
    async fn pass(&mut self, time: Duration) -> Result<(), String> {
        tokio::select! {
            biased;
            Some(ended) = self.running.join_next() => Err(match ended {
                Ok(Ok(())) => "a follower ended".into(),
                Ok(Err(why)) => why,
                Err(panic) => panic.to_string(),
            }),
            () = sleep(time) => Ok(()),
        }
    }

    async fn strike(&mut self, blow: Blow) -> Result<(), String> {
        let mut happened = true;
        match blow {
            Blow::RestartSameEpoch => self.restart(None).await?,
            Blow::RestartNewEpoch => {
                // The old log must end first, because the ledger records into the newest one.
                self.relay.quiet().await?;
                let store = self.ledger.store();
                self.restart(Some(store)).await?;
            }
            Blow::Trim => self.relay.handle.trim_to_head().await.map_err(|error| error.to_string())?,
            Blow::ForcedGap => happened = self.relay.handle.force_gap(Duration::from_secs(5)).await,
            Blow::Rebalance => self.relay.handle.rebalance(),
            Blow::CutStreams => self.relay.handle.cut_streams(),
            Blow::SourceAway => {
                let publisher = self.relay.handle.publisher();
                publisher.stale("the soak says so");
                self.pass(Duration::from_millis(300)).await?;
                publisher.live();
            }
            Blow::Kill => {
                let first = self.rng.below(self.consumers.len() as u64) as usize;
                for n in [first, (first + 3) % self.consumers.len()] {
                    self.consumers[n].orders.send_modify(|orders| orders.kills += 1);
                }
            }
        }
        *self.blows.entry(blow.name()).or_default() += u64::from(happened);
        Ok(())
    }

    /// Ends the relay and starts another one on its port, over the same log or a new one.
    async fn restart(&mut self, new: Option<Recorded>) -> Result<(), String> {
        self.relay.quiet().await?;
        let pods = new.is_none().then(|| self.relay.handle.publisher().current());
        let (address, store) = (self.relay.address, new.unwrap_or_else(|| self.relay.store.clone()));
        self.relay.end().await?;
        self.relay = Relay::start(address, store, pods).await?;
        self.relay.begin(self.rng.next_u64());
        Ok(())
    }

    /// A follower that has not got everything of a round, and its reason.
    fn unsettled(&self, round: u64) -> Option<String> {
        self.consumers.iter().find_map(|consumer| {
            let progress = consumer.progress.lock().unwrap_or_else(PoisonError::into_inner);
            (progress.settled != Some(round)).then(|| format!("{}: {}", consumer.kind, progress.why))
        })
    }

    fn report(&self, time: Duration, rounds: u64) -> Report {
        let mut faults = self.blows.clone();
        let mut sum = Tally::default();
        let mut count = |name, by| *faults.entry(name).or_default() += by;
        for consumer in &self.consumers {
            let link = consumer.link.counters();
            count("cut between events", link.cuts - link.cuts_inside);
            count("cut inside an event", link.cuts_inside);
            count("reset", link.resets);
            count("refused", link.refused);
            count("half-open", link.hangs);
            count("latency", link.stalls);
            count("trickle", link.waits);
            count("fragments", link.pieces);
            let tally = consumer.progress.lock().unwrap_or_else(PoisonError::into_inner).tally();
            sum.snapshots += tally.snapshots;
            sum.events += tally.events;
            sum.conflated += tally.conflated;
            sum.reconnects += tally.reconnects;
            sum.gap_reseeds += tally.gap_reseeds;
            sum.reconnect_reseeds += tally.reconnect_reseeds;
            sum.holes += tally.holes;
            sum.duplicates += tally.duplicates;
        }
        let recoveries = [
            ("gap reseeds", sum.gap_reseeds),
            ("reconnect reseeds", sum.reconnect_reseeds),
            ("reconnects", sum.reconnects),
        ];
        Report {
            time,
            rounds,
            events: self.ledger.events(),
            handed_over: sum.events,
            snapshots: sum.snapshots,
            conflated: sum.conflated,
            recoveries: recoveries.into_iter().collect(),
            holes: sum.holes,
            duplicates: sum.duplicates,
            faults,
            sample: Sample::take(),
            medians: None,
        }
    }
}

/// A relay on its port, and its cluster.
struct Relay {
    address: SocketAddr,
    store: Recorded,
    handle: Handle,
    serving: JoinHandle<Result<(), String>>,
    source: Option<(CancellationToken, JoinHandle<Result<(), String>>)>,
}

impl Relay {
    /// `pods`: the present pods of the cluster, if the log may have forgotten them.
    async fn start(address: SocketAddr, store: Recorded, pods: Option<Vec<Pod>>) -> Result<Self, String> {
        let config =
            Config::default().heartbeat(Duration::from_millis(250)).drain(Duration::from_millis(200));
        let config = config.reconnect_spread(Duration::from_millis(200)).wait(Duration::from_secs(1));
        let deadline = Instant::now() + Duration::from_secs(10);
        let server = loop {
            let builder = Server::builder(config.clone())
                .shared_store(store.store.clone())
                .identity(store.identity.clone())
                .retention(DEFAULT_RETENTION.entries(RETAINED));
            match builder.bind(address).await {
                Ok(server) => break server,
                // The previous relay may not have released the port yet.
                Err(error) if Instant::now() > deadline => return Err(error.to_string()),
                Err(_) => sleep(Duration::from_millis(10)).await,
            }
        };
        let handle = server.handle();
        let serving =
            async move { server.run(std::future::pending()).await.map_err(|error| error.to_string()) };
        let serving = tokio::spawn(serving);
        if let Some(pods) = pods {
            let relisted = handle.publisher().relist(relay_pods_server::Scope::All, pods).await;
            relisted.map_err(|error| error.to_string())?;
        }
        Ok(Self { address: handle.local_addr(), store, handle, serving, source: None })
    }

    /// Starts the changes of the cluster.
    fn begin(&mut self, seed: u64) {
        let stop = CancellationToken::new();
        let cluster = Box::new(SimSource::default().seed(seed).pods(PODS).rate(RATE));
        let source = cluster.run(self.handle.publisher(), stop.clone());
        let source = tokio::spawn(async move { source.await.map_err(|error| error.to_string()) });
        self.source = Some((stop, source));
    }

    /// Stops the changes of the cluster.
    async fn quiet(&mut self) -> Result<(), String> {
        let Some((stop, source)) = self.source.take() else { return Ok(()) };
        stop.cancel();
        source.await.map_err(|error| error.to_string())?
    }

    async fn end(&mut self) -> Result<(), String> {
        self.handle.shutdown();
        (&mut self.serving).await.map_err(|error| error.to_string())?
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.serving.abort();
        if let Some((_, source)) = &self.source {
            source.abort();
        }
    }
}
