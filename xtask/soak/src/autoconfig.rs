//! An auto-configuration service and its client as two processes, under random changes of the file, cuts of the
//! connection between them, and kills of either.
//!
//! Both are the real binary. The client has a cache, so that after a kill it starts with its last state. After each
//! round the file is stable and both processes run: then client and service must agree on every environment and its
//! version, and no printed version may have gone back.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use relay_testkit::{FaultLink, Faults, Rng};
use serde_json::Value;

use crate::process::{Directory, Process};

/// The longest time until both agree after the last change.
const SOON: Duration = Duration::from_secs(60);

/// The result of a run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct AutoconfigReport {
    /// Rounds. At the end of each, client and service agreed.
    pub rounds: u64,
    /// Changes of the file, including those that break a rule.
    pub changes: u64,
    /// How many of them broke a rule.
    pub broken: u64,
    /// Connections that were cut.
    pub cuts: u64,
    /// Kills of the service.
    pub service_kills: u64,
    /// Kills of the client.
    pub client_kills: u64,
    /// Keys that expired.
    pub expired: u64,
    /// Lines of the client that were checked.
    pub lines: u64,
}

impl fmt::Display for AutoconfigReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rounds, changes, broken, cuts, service_kills, client_kills, expired, lines } = self;
        write!(
            f,
            "auto-configuration: {rounds} rounds, {changes} changes of the file ({broken} broken), {cuts} cuts, \
             {service_kills} kills of the service and {client_kills} of the client, {expired} keys ended, {lines} lines; \
             both agreed after each round, and no version went back"
        )
    }
}

/// Runs both processes with this binary for this time; a round is always finished.
///
/// # Errors
/// The first broken guarantee.
pub async fn autoconfig(relay: &Path, seed: u64, time: Duration) -> Result<AutoconfigReport> {
    let directory = Directory::new("autoconfig")?;
    let mut soak = Soak::start(relay, seed, &directory.0).await?;
    let began = Instant::now();
    while began.elapsed() < time || soak.report.rounds == 0 {
        soak.round().await.with_context(|| format!("round {}", soak.report.rounds))?;
        soak.report.rounds += 1;
    }
    soak.report.cuts = soak.link.counters().cuts;
    let AutoconfigReport { rounds, changes, broken, service_kills, client_kills, .. } = soak.report;
    if rounds >= 20 {
        for (what, count) in [
            ("change", changes),
            ("broken change", broken),
            ("kill of the service", service_kills),
            ("kill of the client", client_kills),
        ] {
            ensure!(count > 0, "there was no {what} in {rounds} rounds");
        }
    }
    Ok(soak.report)
}

/// An environment as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Wanted {
    name: u64,
    key: u64,
    /// The previous key, and its expiry.
    old: Option<(u64, u64)>,
}

struct Soak {
    relay: PathBuf,
    directory: PathBuf,
    rng: Rng,
    service: Process,
    address: SocketAddr,
    link: FaultLink,
    client: Process,
    /// The number of clients that were started; each has a file for its lines.
    lives: u64,
    read: u64,
    /// The state of the present client: version and name.
    known: BTreeMap<String, (i64, String)>,
    /// The highest version of each id that any client printed.
    highest: BTreeMap<String, i64>,
    wanted: BTreeMap<String, Wanted>,
    report: AutoconfigReport,
}

impl Soak {
    async fn start(relay: &Path, seed: u64, directory: &Path) -> Result<Self> {
        std::fs::write(directory.join("e.yaml"), "environments: {}\n")?;
        let (service, address) = serve(relay, directory, "127.0.0.1:0")?;
        let link = FaultLink::start(address, seed, Faults::none()).await;
        let client = watch(relay, directory, &link.url(), 0)?;
        Ok(Self {
            relay: relay.to_owned(),
            directory: directory.to_owned(),
            rng: Rng::new(seed),
            service,
            address,
            link,
            client,
            lives: 0,
            read: 0,
            known: BTreeMap::new(),
            highest: BTreeMap::new(),
            wanted: BTreeMap::new(),
            report: AutoconfigReport::default(),
        })
    }

    async fn round(&mut self) -> Result<()> {
        let bytes = 400 + self.rng.below(6000);
        self.link.set(Faults::none().cut_bytes(bytes).split(1 + self.rng.below(60) as usize));
        for _ in 0..2 + self.rng.below(6) {
            match self.rng.below(8) {
                0 => {
                    self.service.kill()?;
                    self.report.service_kills += 1;
                    if self.rng.one_in(2) {
                        self.change()?;
                    }
                    (self.service, _) = serve(&self.relay, &self.directory, &self.address.to_string())?;
                }
                1 => {
                    self.client.kill()?;
                    self.report.client_kills += 1;
                    self.look()?;
                    self.lives += 1;
                    (self.read, self.known) = (0, BTreeMap::new());
                    self.client = watch(&self.relay, &self.directory, &self.link.url(), self.lives)?;
                }
                2 => self.link.cut_all(),
                3 => {
                    let broken =
                        ["", "environments: {e0: {sdkKey: ", "environments: {e0: {}}", "environments: 5"];
                    let which = self.rng.below(broken.len() as u64) as usize;
                    self.write(broken[which])?;
                    self.report.broken += 1;
                }
                _ => self.change()?,
            }
            tokio::time::sleep(Duration::from_millis(self.rng.below(120))).await;
            self.look()?;
        }
        // From here on nothing changes any more.
        self.link.set(Faults::none());
        self.write(&text(&self.wanted))?;
        let deadline = Instant::now() + SOON;
        loop {
            self.look()?;
            let Err(why) = self.agreed() else { return Ok(()) };
            ensure!(Instant::now() < deadline, "no agreement within {SOON:?}: {why:#}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Adds, changes or removes some environments.
    fn change(&mut self) -> Result<()> {
        for _ in 0..1 + self.rng.below(3) {
            let id = format!("e{}", self.rng.below(6));
            let (name, key) = (self.rng.next_u64() % 1_000_000, self.rng.next_u64() % 1_000_000_000);
            match self.rng.below(5) {
                0 => drop(self.wanted.remove(&id)),
                _ => {
                    let until = now_ms() + self.rng.below(600);
                    let old = self.wanted.get(&id).map(|known| (known.key, until));
                    self.wanted.insert(id, Wanted { name, key, old });
                }
            }
        }
        self.write(&text(&self.wanted))
    }

    /// Replaces the file, or overwrites it so that a reader may see half of it.
    fn write(&mut self, text: &str) -> Result<()> {
        self.report.changes += 1;
        let file = self.directory.join("e.yaml");
        if self.rng.one_in(3) {
            return Ok(std::fs::write(file, text)?);
        }
        let new = self.directory.join("new");
        std::fs::write(&new, text)?;
        Ok(std::fs::rename(new, file)?)
    }

    /// Folds the lines that the client has printed since the last call.
    fn look(&mut self) -> Result<()> {
        let mut file = File::open(lines_of(&self.directory, self.lives))?;
        std::io::Seek::seek(&mut file, std::io::SeekFrom::Start(self.read))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        // The last line may be incomplete.
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        self.read += whole as u64;
        for line in String::from_utf8(bytes[..whole].to_vec())?.lines() {
            self.report.lines += 1;
            let line: Value = serde_json::from_str(line).with_context(|| format!("no JSON: {line}"))?;
            self.fold(&line).with_context(|| format!("{line}"))?;
        }
        Ok(())
    }

    fn fold(&mut self, line: &Value) -> Result<()> {
        let id = line["id"].as_str().unwrap_or_default().to_owned();
        match line["event"].as_str() {
            Some(event @ ("add" | "update")) => {
                let version = line["version"].as_i64().context("no version")?;
                let name = line["env"]["env_name"].as_str().unwrap_or_default().to_owned();
                let known = self.known.insert(id.clone(), (version, name));
                ensure!(known.is_some() == (event == "update"), "{id} was known: {known:?}");
                let highest = self.highest.entry(id).or_insert(version);
                ensure!(version >= *highest, "version {version} after {highest}");
                *highest = version;
            }
            Some("delete") => {
                ensure!(self.known.remove(&id).is_some(), "{id} was not known");
                if let Some(version) = line["version"].as_i64() {
                    let highest = self.highest.entry(id).or_insert(version);
                    ensure!(version >= *highest, "version {version} after {highest}");
                    *highest = version;
                }
            }
            Some("key_expired") => {
                ensure!(self.known.contains_key(&id), "a key of {id} ends, which is not known");
                ensure!(line["expires_ms"].as_u64() < Some(now_ms()), "a key ends before its time");
                self.report.expired += 1;
            }
            Some("refused" | "held") => bail!("nothing is refused or held here"),
            _ => {}
        }
        Ok(())
    }

    /// Whether the client has the state of the file, in the versions that the service sends.
    fn agreed(&self) -> Result<()> {
        let names: BTreeMap<&str, String> =
            self.wanted.iter().map(|(id, wanted)| (id.as_str(), format!("n{}", wanted.name))).collect();
        let known: BTreeMap<&str, String> =
            self.known.iter().map(|(id, (_, name))| (id.as_str(), name.clone())).collect();
        ensure!(known == names, "the client knows {known:?}, the file says {names:?}");
        let sent = self.sent()?;
        let known: BTreeMap<&str, i64> =
            self.known.iter().map(|(id, (version, _))| (id.as_str(), *version)).collect();
        let sent: BTreeMap<&str, i64> = sent.iter().map(|(id, version)| (id.as_str(), *version)).collect();
        ensure!(known == sent, "the client knows the versions {known:?}, the service sends {sent:?}");
        Ok(())
    }

    /// The versions that the service sends to a new subscriber.
    fn sent(&self) -> Result<BTreeMap<String, i64>> {
        let mut socket = TcpStream::connect(self.address)?;
        socket.set_read_timeout(Some(SOON))?;
        socket.write_all(b"GET /relay_auto_config HTTP/1.1\r\nhost: soak\r\n\r\n")?;
        for line in BufReader::new(socket).lines() {
            let line = line?;
            let Some(data) = line.strip_prefix("data: ") else { continue };
            let put: Value = serde_json::from_str(data)?;
            let environments = put["data"]["environments"].as_object().context("no environments")?;
            return environments
                .iter()
                .map(|(id, rep)| Ok((id.clone(), rep["version"].as_i64().context("no version")?)))
                .collect();
        }
        bail!("the service sent no put")
    }
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn text(wanted: &BTreeMap<String, Wanted>) -> String {
    if wanted.is_empty() {
        return "environments: {}\n".to_owned();
    }
    let lines = wanted.iter().map(|(id, Wanted { name, key, old })| {
        let expiring = old.map_or(String::new(), |(key, until)| {
            format!(", expiring: {{value: key-{id}-{key}, timestamp: {until}}}")
        });
        format!("  {id}: {{envName: n{name}, sdkKey: {{value: key-{id}-{key}{expiring}}}}}\n")
    });
    "environments:\n".to_owned() + &lines.collect::<String>()
}

fn lines_of(directory: &Path, life: u64) -> PathBuf {
    directory.join(format!("lines-{life}"))
}

fn command(relay: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(relay);
    command.arg("autoconfig").args(arguments).env_clear().stdin(Stdio::null()).stderr(Stdio::null());
    command
}

fn serve(relay: &Path, directory: &Path, listen: &str) -> Result<(Process, SocketAddr)> {
    let file = directory.join("e.yaml");
    let deadline = Instant::now() + SOON;
    loop {
        let mut command = command(relay, &["serve", "--listen", listen, "--poll", "20ms"]);
        let mut process = Process(command.arg(&file).stdout(Stdio::piped()).spawn()?);
        let mut line = String::new();
        BufReader::new(process.0.stdout.take().context("it was asked for")?).read_line(&mut line)?;
        if let Some(address) = line.trim().strip_prefix("relay autoconfig listening on http://") {
            return Ok((process, address.parse()?));
        }
        // The service does not start with a file that breaks a rule, so the file is corrected.
        ensure!(Instant::now() < deadline, "the service does not start: {line:?}");
        std::fs::write(&file, "environments: {}\n")?;
    }
}

fn watch(relay: &Path, directory: &Path, url: &str, life: u64) -> Result<Process> {
    let mut command = command(relay, &["watch", "--url", url, "--key", "any", "-o", "json"]);
    command.args([
        "--reconnect-base",
        "20ms",
        "--reconnect-cap",
        "100ms",
        "--idle-timeout",
        "10s",
        "--cache-file",
    ]);
    command.arg(directory.join("cache")).stdout(File::create(lines_of(directory, life))?);
    Ok(Process(command.spawn()?))
}
