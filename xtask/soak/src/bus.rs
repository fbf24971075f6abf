//! A bus as a process, between an API server, NATS and subscribers that all fail, while objects come and go.
//!
//! The bus is the real binary; the API server is the testkit's, and NATS is a real one if it is installed. Rounds
//! alternate between the memory engine and the one on JetStream. In each round all kinds of faults happen for a while,
//! and then they stop. After that the bus must agree with the objects, and every message that a ledger expects must
//! have arrived. No subscription may ever get a message of another channel, or one after its removal.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use relay_testkit::{ApiServer, Ask, FaultLink, Faults, Reply, Rng};
use serde_json::{Value, json};

use self::ledger::{Ledger, Promise};
use self::wire::{Subscribers, metric, send};
use crate::process::{Directory, Process};

mod ledger;
mod wire;

/// The longest time until everything is right after the last fault.
const SOON: Duration = Duration::from_secs(90);
/// How long a message may take to a subscription while it is not known whether the bus has that one already.
const ARRIVES: Duration = Duration::from_secs(2);
const CHANNELS: &str = "channels.knative.dev/v1alpha1/channels";
const SUBSCRIPTIONS: &str = "channels.knative.dev/v1alpha1/subscriptions";
/// The highest number of channels, and of subscriptions.
const MOST: (u64, u64) = (3, 9);

/// The result of a run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BusReport {
    /// Rounds. At the end of each, bus and objects agreed.
    pub rounds: u64,
    /// How many of these were on JetStream.
    pub stored: u64,
    /// Messages that were answered with 202.
    pub accepted: u64,
    /// Requests that subscribers received.
    pub delivered: u64,
    /// Objects that were added, changed or deleted.
    pub changes: u64,
    /// Connections that were cut.
    pub cuts: u64,
    /// Refusals of the API server, expired versions, and versions that went back.
    pub refusals: u64,
    /// Kills of the bus.
    pub kills: u64,
    /// Kills of NATS.
    pub nats_kills: u64,
    /// Lines that report a failed attempt or a dropped message.
    pub told: u64,
}

impl fmt::Display for BusReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rounds, stored, accepted, delivered, changes, cuts, refusals, kills, nats_kills, told } =
            self;
        write!(
            f,
            "bus: {rounds} rounds, {stored} of them on JetStream, {accepted} messages taken, {delivered} requests to \
             subscribers, {told} failures told, {changes} changes of objects, {cuts} cuts, {refusals} refusals of the \
             API server, {kills} kills of the bus and {nats_kills} of NATS; what was owed arrived after each round, and \
             nobody got what was not theirs"
        )
    }
}

/// Runs a bus with this binary for this time; a round is always finished.
///
/// # Errors
/// The first broken guarantee.
pub async fn bus(relay: &Path, seed: u64, time: Duration) -> Result<BusReport> {
    let directory = Directory::new("bus")?;
    let nats = Command::new("nats-server").arg("--version").stdout(Stdio::null()).status().is_ok();
    let mut soak = Soak::start(relay, seed, &directory.0, nats).await?;
    let began = Instant::now();
    while began.elapsed() < time || soak.report.rounds == 0 {
        let number = soak.report.rounds;
        soak.round().await.with_context(|| format!("round {number} of engine {}", soak.engine()))?;
        soak.report.rounds += 1;
    }
    soak.end()
}

/// NATS on a port that it keeps over restarts.
struct Nats {
    port: u16,
    directory: PathBuf,
    process: Option<Process>,
}

impl Nats {
    fn run(&mut self) -> Result<()> {
        let mut command = Command::new("nats-server");
        command.args(["-a", "127.0.0.1", "-p", &self.port.to_string(), "-js", "-sd"]);
        command.arg(&self.directory).stdout(Stdio::null()).stderr(Stdio::null());
        self.process = Some(Process(command.spawn()?));
        Ok(())
    }
}

struct Soak {
    relay: PathBuf,
    directory: PathBuf,
    rng: Rng,
    cluster: ApiServer,
    /// The links to the API server, to NATS, and to the subscribers.
    links: [FaultLink; 3],
    nats: Option<Nats>,
    subscribers: Subscribers,
    bus: Option<Process>,
    address: SocketAddr,
    admin: SocketAddr,
    /// The number of buses that were started; each has a file for its lines.
    lives: u64,
    read: u64,
    /// The existing subscriptions.
    wanted: BTreeMap<String, String>,
    /// The existing channels.
    channels: BTreeSet<String>,
    ledger: Arc<Mutex<Ledger>>,
    messages: u64,
    report: BusReport,
}

fn free_port() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

fn address_of(url: &str) -> Result<SocketAddr> {
    Ok(url.trim_start_matches("http://").parse()?)
}

impl Soak {
    async fn start(relay: &Path, seed: u64, directory: &Path, nats: bool) -> Result<Self> {
        let cluster = ApiServer::start().await;
        let named = json!({"namespace": "ns", "name": "b"});
        cluster.put("channels.knative.dev/v1alpha1/buses", json!({"metadata": named, "spec": {}}));
        let subscribers = Subscribers::start().await?;
        let mut server = None;
        if nats {
            let mut nats =
                Nats { port: free_port()?.port(), directory: directory.join("nats"), process: None };
            nats.run()?;
            server = Some(nats);
        }
        let behind = server.as_ref().map_or(1, |nats| nats.port);
        let links =
            [address_of(&cluster.url())?, SocketAddr::from(([127, 0, 0, 1], behind)), subscribers.address];
        let [cluster_link, nats_link, subscriber_link] =
            links.map(|to| async move { FaultLink::start(to, seed, Faults::none()).await });
        Ok(Self {
            relay: relay.to_owned(),
            directory: directory.to_owned(),
            rng: Rng::new(seed),
            cluster,
            links: [cluster_link.await, nats_link.await, subscriber_link.await],
            nats: server,
            subscribers,
            bus: None,
            address: free_port()?,
            admin: free_port()?,
            lives: 0,
            read: 0,
            wanted: BTreeMap::new(),
            channels: BTreeSet::new(),
            ledger: Arc::default(),
            messages: 0,
            report: BusReport::default(),
        })
    }

    /// The engine of this round; rounds alternate.
    fn engine(&self) -> &'static str {
        if self.nats.is_some() && self.report.rounds % 2 == 1 { "jetstream" } else { "memory" }
    }

    fn ledger(&self) -> std::sync::MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lines(&self) -> PathBuf {
        self.directory.join(format!("lines-{}", self.lives))
    }

    fn serve(&mut self) -> Result<()> {
        self.lives += 1;
        self.read = 0;
        let mut command = Command::new(&self.relay);
        command.args(["bus", "serve", "-o", "json", "--bus", "ns/b", "--engine", self.engine()]);
        command.args(["--master", &self.links[0].url(), "--listen", &self.address.to_string()]);
        command.args(["--admin-listen", &self.admin.to_string(), "--nats"]);
        command.arg(self.links[1].url().replace("http:", "nats:"));
        command.args(["--retry-delay", "20ms", "--dispatch-timeout", "3s"]);
        let errors = File::create(self.directory.join(format!("errors-{}", self.lives)))?;
        command.stdin(Stdio::null()).stdout(File::create(self.lines())?).stderr(errors);
        self.bus = Some(Process(command.spawn()?));
        Ok(())
    }

    fn kill(&mut self) -> Result<()> {
        if let Some(mut bus) = self.bus.take() {
            bus.kill()?;
        }
        self.look()
    }

    async fn round(&mut self) -> Result<()> {
        // The other engine starts without messages, with the present objects.
        self.kill()?;
        self.serve()?;
        self.agree().await.context("at its begin")?;
        let there = self.there();
        self.ledger().begin(&there);
        let sending = self.send_meanwhile();
        self.links[0].set(Faults::none().cut_bytes(2000 + self.rng.below(20_000)).refuse_one_in(8));
        self.links[1].set(Faults::none().cut_bytes(3000 + self.rng.below(30_000)));
        self.links[2].set(Faults::none().cut_bytes(200 + self.rng.below(4000)).reset().refuse_one_in(8));
        self.subscribers.fail_one_in(3 + self.rng.below(20));
        for _ in 0..4 + self.rng.below(8) {
            self.fault().await?;
            tokio::time::sleep(Duration::from_millis(self.rng.below(250))).await;
            self.look()?;
        }
        // From here on nothing changes any more.
        sending.abort();
        let _ = sending.await;
        self.links.iter().for_each(|link| link.set(Faults::none()));
        self.links[0].cut_all();
        for ask in [Ask::List, Ask::Watch, Ask::PatchStatus, Ask::Create] {
            self.cluster.restore(ask);
        }
        self.subscribers.fail_one_in(0);
        self.agree().await.context("at its end")?;
        let promise = if self.engine() == "memory" { Promise::Told } else { Promise::Delivered };
        self.eventually("everything that is owed", |soak| soak.ledger().settled(promise, &soak.subscribers))
            .await?;
        self.ledger().nothing_strange(channel_of, &self.subscribers)?;
        self.report.stored += u64::from(promise == Promise::Delivered);
        self.conditions().await
    }

    async fn fault(&mut self) -> Result<()> {
        match self.rng.below(9) {
            0 => {
                self.kill()?;
                self.report.kills += 1;
                self.ledger().killed();
                if self.rng.one_in(2) {
                    self.change();
                }
                self.serve()?;
            }
            1 => {
                let Some(nats) = self.nats.as_mut().filter(|_| self.report.rounds % 2 == 1) else {
                    return Ok(());
                };
                nats.process = None;
                tokio::time::sleep(Duration::from_millis(self.rng.below(600))).await;
                self.report.nats_kills += 1;
                if let Some(nats) = &mut self.nats {
                    nats.run()?;
                }
            }
            2 => {
                let which = self.rng.below(3) as usize;
                self.links[which].cut_all();
            }
            3 => {
                self.report.refusals += 1;
                let version = self.cluster.version();
                match self.rng.below(3) {
                    0 => self.cluster.expire(),
                    1 => self.cluster.go_back(version.saturating_sub(1 + self.rng.below(20)).max(1)),
                    _ => self.cluster.expire_pages(),
                }
                self.links[0].cut_all();
            }
            4 => {
                self.report.refusals += 1;
                let asks = [Ask::List, Ask::Watch, Ask::PatchStatus, Ask::Create];
                let ask = asks[self.rng.below(asks.len() as u64) as usize];
                let codes = [401, 403, 409, 410, 429, 500];
                let code = codes[self.rng.below(codes.len() as u64) as usize];
                for _ in 0..1 + self.rng.below(3) {
                    self.cluster.reply(ask, Reply::json(code, &json!({"kind": "Status", "code": code})));
                }
                self.cluster.end_watches();
            }
            _ => self.change(),
        }
        Ok(())
    }

    /// Adds, changes or deletes an object.
    fn change(&mut self) {
        self.report.changes += 1;
        let named = |name: &str| json!({"namespace": "ns", "name": name});
        let others = json!([{"type": "Others", "status": "True"}]);
        if self.rng.one_in(4) {
            let channel = format!("c{}", self.rng.below(MOST.0));
            if self.channels.remove(&channel) {
                self.cluster.delete(CHANNELS, "ns", &channel);
                // The messages in its storage are deleted with the channel.
                for subscription in self.wanted.keys().filter(|name| channel_of(name) == channel) {
                    self.ledger().removed(subscription);
                }
            } else {
                let object = json!({"metadata": named(&channel), "spec": {"bus": "b"}, "status": {"conditions": others}});
                self.cluster.put(CHANNELS, object);
                self.channels.insert(channel);
            }
            return;
        }
        let name = format!("s{}", self.rng.below(MOST.1));
        if self.wanted.remove(&name).is_some() {
            self.ledger().removed(&name);
            self.cluster.delete(SUBSCRIPTIONS, "ns", &name);
            return;
        }
        let to = format!("{}/{name}", self.links[2].url());
        let spec = json!({"channel": channel_of(&name), "subscriber": to});
        self.cluster.put(
            SUBSCRIPTIONS,
            json!({"metadata": named(&name), "spec": spec, "status": {"conditions": others}}),
        );
        self.wanted.insert(name.clone(), channel_of(&name));
    }

    /// Sends messages to all channels until it is aborted.
    fn send_meanwhile(&mut self) -> tokio::task::JoinHandle<()> {
        let (ledger, address) = (self.ledger.clone(), self.address);
        let (round, first) = (self.report.rounds, self.messages);
        self.messages += 1_000_000;
        tokio::spawn(async move {
            for number in first.. {
                let (channel, message) = (format!("c{}", number % MOST.0), format!("m{round}-{number}"));
                // Recorded before it is sent, because it may arrive before its answer.
                ledger.lock().unwrap_or_else(PoisonError::into_inner).sent(&message, &channel, None);
                let status = send(address, &channel, &message).await;
                ledger.lock().unwrap_or_else(PoisonError::into_inner).sent(&message, &channel, status);
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        })
    }

    /// Waits until the bus serves exactly the existing objects: each subscription gets a message, and there are no
    /// other subscriptions.
    async fn agree(&mut self) -> Result<()> {
        let there: BTreeMap<_, _> =
            self.wanted.clone().into_iter().filter(|(_, channel)| self.channels.contains(channel)).collect();
        let deadline = Instant::now() + SOON;
        loop {
            match self.agrees(&there).await {
                Ok(()) => break,
                Err(why) if Instant::now() > deadline => {
                    let errors = self.directory.join(format!("errors-{}", self.lives));
                    let errors = std::fs::read_to_string(errors)?;
                    let last: Vec<_> = errors.lines().rev().take(5).collect();
                    return Err(
                        why.context(format!("no agreement within {SOON:?}; last on stderr: {last:#?}"))
                    );
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
        // From here on, removed subscriptions must get nothing.
        let before: BTreeMap<String, u64> = self.removed(&there);
        for _ in 0..3 {
            for channel in self.channels.clone() {
                let message = self.probe(&channel).await?;
                let arrived = self.arrives(&there, &channel, &message, SOON).await;
                arrived.context("a message that was sent in peace")?;
            }
        }
        let after = self.removed(&there);
        ensure!(before == after, "a subscription that went still gets messages: {before:?}, {after:?}");
        Ok(())
    }

    /// Subscriptions whose channel exists, too.
    fn there(&self) -> BTreeMap<String, String> {
        let wanted = self.wanted.clone().into_iter();
        wanted.filter(|(_, channel)| self.channels.contains(channel)).collect()
    }

    /// The number of requests for each subscription that does not exist.
    fn removed(&self, there: &BTreeMap<String, String>) -> BTreeMap<String, u64> {
        let got = self.subscribers.got();
        let gone = got.iter().filter(|(name, _)| !there.contains_key(*name));
        gone.map(|(name, got)| (name.clone(), got.values().sum())).collect()
    }

    async fn probe(&mut self, channel: &str) -> Result<String> {
        self.messages += 1;
        let message = format!("p-{}", self.messages);
        self.ledger().sent(&message, channel, None);
        let status = send(self.address, channel, &message).await;
        ensure!(status == Some(202), "{channel} answers {status:?}");
        self.ledger().sent(&message, channel, status);
        Ok(message)
    }

    async fn agrees(&mut self, there: &BTreeMap<String, String>) -> Result<()> {
        for (name, count) in
            [("relay_bus_channels ", self.channels.len()), ("relay_bus_subscriptions ", there.len())]
        {
            let says = metric(self.admin, name).await;
            ensure!(says == Some(count as u64), "{name}is {says:?} and should be {count}");
        }
        // As many as there should be may still be others.
        for channel in self.channels.clone() {
            let message = self.probe(&channel).await?;
            self.arrives(there, &channel, &message, ARRIVES).await?;
        }
        for number in 0..MOST.0 {
            let channel = format!("c{number}");
            if !self.channels.contains(&channel) {
                let status = send(self.address, &channel, "nobody's").await;
                ensure!(status == Some(404), "{channel} is gone and answers {status:?}");
            }
        }
        Ok(())
    }

    /// Waits until every subscription of the channel has the message.
    async fn arrives(
        &mut self,
        there: &BTreeMap<String, String>,
        channel: &str,
        message: &str,
        patience: Duration,
    ) -> Result<()> {
        let has_it = |soak: &Self| {
            for subscription in there.iter().filter(|(_, of)| *of == channel).map(|(name, _)| name) {
                ensure!(soak.subscribers.has(subscription, message), "{subscription} lacks {message}");
            }
            Ok(())
        };
        self.within(patience, "the message", has_it).await
    }

    async fn eventually(&mut self, what: &str, holds: impl Fn(&Self) -> Result<()>) -> Result<()> {
        self.within(SOON, what, holds).await
    }

    async fn within(
        &mut self,
        patience: Duration,
        what: &str,
        holds: impl Fn(&Self) -> Result<()>,
    ) -> Result<()> {
        let deadline = Instant::now() + patience;
        loop {
            self.look()?;
            match holds(self) {
                Ok(()) => return Ok(()),
                Err(why) if Instant::now() > deadline => {
                    return Err(why.context(format!("{what}, {patience:?} later")));
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    /// Checks that every object has a condition that says it is served, and that conditions of other writers are still
    /// there.
    async fn conditions(&mut self) -> Result<()> {
        self.eventually("the conditions", |soak| {
            let channels = soak.channels.iter().map(|name| (CHANNELS, name, "Provisioned"));
            let there = soak.wanted.iter().filter(|(_, channel)| soak.channels.contains(*channel));
            let subscriptions = there.map(|(name, _)| (SUBSCRIPTIONS, name, "Dispatching"));
            for (kind, name, ours) in channels.chain(subscriptions) {
                let object = soak.cluster.get(kind, "ns", name).context("it is there")?;
                let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
                let is = |of: &str| conditions.iter().any(|one| one["type"] == of && one["status"] == "True");
                ensure!(is(ours) && is("Others"), "{name} has {conditions:?}");
            }
            Ok(())
        })
        .await
    }

    /// Reads the lines that the bus has printed since the last call.
    fn look(&mut self) -> Result<()> {
        let Ok(mut file) = File::open(self.lines()) else { return Ok(()) };
        file.seek(SeekFrom::Start(self.read))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        // The last line may be incomplete.
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        self.read += whole as u64;
        for line in String::from_utf8(bytes[..whole].to_vec())?.lines() {
            let line: Value = serde_json::from_str(line).with_context(|| format!("no JSON: {line}"))?;
            let subscription = line["subscription"].as_str().unwrap_or_default().trim_start_matches("ns/");
            let lost = match line["event"].as_str() {
                Some("dispatch-failed") => u64::from(line["final"] == true),
                Some("dropped") => line["count"].as_u64().unwrap_or(0),
                _ => continue,
            };
            self.report.told += 1;
            self.ledger().told(subscription, lost);
        }
        Ok(())
    }

    fn end(mut self) -> Result<BusReport> {
        self.report.cuts = self.links.iter().map(|link| link.counters().cuts).sum();
        let accepted = self.ledger().accepted_ever();
        self.report.accepted = accepted;
        self.report.delivered = self.subscribers.got().values().flat_map(BTreeMap::values).sum();
        let BusReport { rounds, stored, changes, cuts, refusals, kills, nats_kills, told, .. } = self.report;
        if rounds >= 20 {
            for (what, count) in [
                ("change", changes),
                ("cut", cuts),
                ("refusal", refusals),
                ("kill of the bus", kills),
                ("failure", told),
                ("kill of NATS", nats_kills + u64::from(stored == 0)),
            ] {
                ensure!(count > 0, "there was no {what} in {rounds} rounds");
            }
        }
        Ok(self.report)
    }
}

/// The channel of a subscription, which is a part of its name.
fn channel_of(subscription: &str) -> String {
    let number: u64 = subscription.trim_start_matches('s').parse().unwrap_or(0);
    format!("c{}", number % MOST.0)
}
