//! `cargo xtask bench log [--quick] [--only WORK] [--json FILE]`: appends, replay, opening, a kill and a flipped byte,
//! for relay-log and three embedded databases that could hold an append-only log; and a relay's replay compared with
//! hyper.

mod peers;
mod serve;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use cpu_time::ProcessTime;
use relay_log::{DiskOptions, DiskStore, Fsync, Limit, Log, LogName, LogOptions, Logs, Page};
use serde_json::json;

use peers::{Peer, Sync};

/// The number of bytes of an entry, which is that of a usual pod event.
const BODY: usize = 1024;

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let (mut quick, mut file, mut only) = (false, None, String::new());
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "log" => {}
            "--quick" => quick = true,
            "--json" => file = Some(PathBuf::from(args.next().context("--json FILE")?)),
            "--only" => only = args.next().context("--only WORK")?,
            // The process that `kill` starts and kills.
            "--writer" => {
                return writer(
                    &args.next().context("a name")?,
                    Path::new(&args.next().context("a directory")?),
                );
            }
            other => bail!("{other}: `bench log [--quick] [--only log|peers|kill|flip|serve] [--json FILE]`"),
        }
    }
    let mut out = Report { lines: Vec::new() };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let wanted = |work: &str| work.contains(&only);
    if wanted("log") {
        runtime.block_on(ours(&mut out, quick))?;
    }
    for peer in peers::all().into_iter().filter(|_| wanted("peers")) {
        theirs(&mut out, peer, quick)?;
    }
    let names: Vec<&str> =
        ["relay-log"].into_iter().chain(peers::all().iter().map(|peer| peer.name())).collect();
    for name in names.into_iter().filter(|_| wanted("kill")) {
        kill(&mut out, name)?;
    }
    if wanted("flip") {
        flips(&mut out, &runtime)?;
    }
    if wanted("serve") {
        serve::run(&mut out, &runtime, quick)?;
    }
    if let Some(file) = file {
        fs::write(file, out.lines.join("\n") + "\n")?;
    }
    Ok(())
}

struct Report {
    lines: Vec<String>,
}

impl Report {
    fn row(&mut self, work: &str, name: &str, value: f64, unit: &str) {
        println!("{work:<44} {name:<10} {value:>14.1} {unit}");
        self.lines.push(
            json!({"bench": "log", "work": work, "impl": name, "value": value, "unit": unit}).to_string(),
        );
    }
}

fn body(at: u64) -> Bytes {
    let mut body = vec![0; BODY];
    let mut word = at.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    for chunk in body.chunks_mut(8) {
        word ^= word << 13;
        word ^= word >> 7;
        word ^= word << 17;
        chunk.copy_from_slice(&word.to_le_bytes()[..chunk.len()]);
    }
    body.into()
}

fn resident_kib() -> f64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|text| text.parse().ok()).unwrap_or(f64::NAN)
}

async fn create(dir: &Path, fsync: Fsync) -> Result<(Logs, Log)> {
    let logs = Logs::new(DiskStore::open(dir, DiskOptions::default().fsync(fsync))?);
    let log = logs.open_or_create(&LogName::new("bench")?, LogOptions::default()).await?;
    Ok((logs, log))
}

/// Appends from this many tasks, each of which waits for one batch after another. Returns entries per second.
async fn appends(log: &Log, tasks: u64, batch: u64, total: u64) -> Result<f64> {
    let bodies: Vec<Bytes> = (0..batch).map(body).collect();
    let began = Instant::now();
    let each = total / tasks / batch;
    let running: Vec<_> = (0..tasks)
        .map(|_| {
            let (log, bodies) = (log.clone(), bodies.clone());
            tokio::spawn(async move {
                for _ in 0..each {
                    log.append(bodies.clone()).await?;
                }
                Ok::<_, relay_log::Error>(())
            })
        })
        .collect();
    for task in running {
        task.await??;
    }
    Ok((each * tasks * batch) as f64 / began.elapsed().as_secs_f64())
}

async fn ours(out: &mut Report, quick: bool) -> Result<()> {
    let scale = if quick { 10 } else { 1 };
    let name = "relay-log";
    for (fsync, policy) in [
        (Fsync::Never, "never"),
        (Fsync::Interval(Duration::from_millis(10)), "interval 10ms"),
        (Fsync::Always, "always"),
    ] {
        for (tasks, batch, total) in
            [(1, 64, 1_000_000), (1000, 1, 500_000), (64, 1, 100_000), (1, 1, 20_000)]
        {
            let dir = tempfile::tempdir()?;
            let (logs, log) = create(dir.path(), fsync).await?;
            let rate = appends(&log, tasks, batch, total / scale).await?;
            out.row(
                &format!("appends, {policy}, {tasks} tasks, batches of {batch}"),
                name,
                rate,
                "entries/s",
            );
            logs.close().await?;
        }
    }
    // A log that is ten times as long takes no more memory.
    for total in [100_000, 1_000_000] {
        let dir = tempfile::tempdir()?;
        let (logs, log) = create(dir.path(), Fsync::Never).await?;
        appends(&log, 1, 512, total).await?;
        logs.close().await?;
        drop((logs, log));
        let before = resident_kib();
        let began = Instant::now();
        let (logs, log) = create(dir.path(), Fsync::Never).await?;
        let took = began.elapsed().as_secs_f64() * 1e3;
        out.row(&format!("open, {total} entries of {BODY} bytes"), name, took, "ms");
        let (clock, cpu) = (Instant::now(), ProcessTime::now());
        let (mut at, mut bytes) = (0, 0);
        loop {
            let Page::Entries(entries) = log.read(at, Limit::entries(1024)).await? else { bail!("trimmed") };
            let Some(last) = entries.last() else { break };
            at = last.position;
            bytes += entries.iter().map(|entry| entry.body.len()).sum::<usize>();
        }
        let mb = bytes as f64 / 1e6;
        out.row(
            &format!("replay of {total} entries, wall"),
            name,
            mb / clock.elapsed().as_secs_f64(),
            "MB/s",
        );
        out.row(
            &format!("replay of {total} entries, cpu"),
            name,
            mb / cpu.elapsed().as_secs_f64(),
            "MB/s of CPU time",
        );
        let more = resident_kib() - before;
        out.row(&format!("memory on top after the replay of {total}"), name, more, "KiB");
        logs.close().await?;
    }
    Ok(())
}

fn theirs(out: &mut Report, peer: Box<dyn Peer>, quick: bool) -> Result<()> {
    let scale = if quick { 20 } else { 2 };
    let name = peer.name();
    for (sync, policy) in [(Sync::Never, "never"), (Sync::Always, "always")] {
        for (batch, total) in [(64, 1_000_000), (1, 20_000)] {
            let dir = tempfile::tempdir()?;
            let mut db = peer.open(dir.path(), sync)?;
            let bodies: Vec<Bytes> = (0..batch).map(body).collect();
            let began = Instant::now();
            let total = if sync == Sync::Always { total / scale / 10 } else { total / scale };
            let mut at = 0;
            while at < total.max(batch) {
                db.append(at + 1, &bodies)?;
                at += batch;
            }
            let rate = at as f64 / began.elapsed().as_secs_f64();
            out.row(&format!("appends, {policy}, 1 tasks, batches of {batch}"), name, rate, "entries/s");
        }
    }
    let dir = tempfile::tempdir()?;
    let mut db = peer.open(dir.path(), Sync::Never)?;
    let total = 1_000_000 / scale;
    let bodies: Vec<Bytes> = (0..500).map(body).collect();
    for first in (0..total).step_by(500) {
        db.append(first + 1, &bodies)?;
    }
    drop(db);
    let began = Instant::now();
    let db = peer.open(dir.path(), Sync::Never)?;
    out.row(
        &format!("open, {total} entries of {BODY} bytes"),
        name,
        began.elapsed().as_secs_f64() * 1e3,
        "ms",
    );
    let (clock, cpu) = (Instant::now(), ProcessTime::now());
    let mut bytes = 0;
    db.replay(&mut |body| bytes += body.len())?;
    let mb = bytes as f64 / 1e6;
    out.row("replay, wall", name, mb / clock.elapsed().as_secs_f64(), "MB/s");
    out.row("replay, cpu", name, mb / cpu.elapsed().as_secs_f64(), "MB/s of CPU time");
    Ok(())
}

/// Appends one entry after another, and prints each one once it is stored, until it is killed.
fn writer(name: &str, dir: &Path) -> Result<()> {
    let mut said = std::io::stdout().lock();
    if name == "relay-log" {
        let runtime = tokio::runtime::Runtime::new()?;
        return runtime.block_on(async {
            let (_logs, log) = create(dir, Fsync::Never).await?;
            loop {
                let last = log.append(body(log.bounds().head + 1)).await?.last;
                writeln!(said, "{last}")?;
            }
        });
    }
    let peer = peers::all().into_iter().find(|peer| peer.name() == name).context("no such peer")?;
    let mut db = peer.open(dir, Sync::Never)?;
    for at in 1.. {
        db.append(at, &[body(at)])?;
        writeln!(said, "{at}")?;
    }
    Ok(())
}

/// Kills a writer that does not sync, and counts the printed entries that are lost.
fn kill(out: &mut Report, name: &str) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let said = dir.path().join("said");
    let data = dir.path().join("data");
    fs::create_dir(&data)?;
    let mut child = Command::new(std::env::current_exe()?)
        .args(["--writer", name])
        .arg(&data)
        .stdout(fs::File::create(&said)?)
        .stdin(Stdio::null())
        .spawn()?;
    std::thread::sleep(Duration::from_millis(500));
    child.kill()?;
    child.wait()?;
    let text = fs::read_to_string(&said)?;
    let last: u64 = text.lines().rev().find_map(|line| line.parse().ok()).unwrap_or(0);
    let kept = count(name, &data)?;
    out.row("killed while it writes: said and lost", name, last.saturating_sub(kept) as f64, "entries");
    Ok(())
}

fn count(name: &str, dir: &Path) -> Result<u64> {
    if name == "relay-log" {
        let runtime = tokio::runtime::Runtime::new()?;
        return runtime.block_on(async { Ok(create(dir, Fsync::Never).await?.1.bounds().head) });
    }
    let peer = peers::all().into_iter().find(|peer| peer.name() == name).context("no such peer")?;
    let mut count = 0;
    peer.open(dir, Sync::Never)?.replay(&mut |_| count += 1)?;
    Ok(count)
}

/// Flips a bit in the middle of an entry's body, and checks whether the wrong bytes are served.
fn flips(out: &mut Report, runtime: &tokio::runtime::Runtime) -> Result<()> {
    let wrong = |entries: &mut dyn Iterator<Item = Vec<u8>>| {
        entries.enumerate().filter(|(at, entry)| entry[..] != body(*at as u64 + 1)[..]).count()
    };
    for name in ["relay-log"].into_iter().chain(peers::all().iter().map(|peer| peer.name())) {
        let dir = tempfile::tempdir()?;
        let bodies: Vec<Bytes> = (1..=200).map(body).collect();
        if name == "relay-log" {
            runtime.block_on(async {
                let (logs, log) = create(dir.path(), Fsync::Always).await?;
                log.append(bodies).await?;
                Ok::<_, anyhow::Error>(logs.close().await?)
            })?;
        } else {
            let peer = peers::all().into_iter().find(|peer| peer.name() == name).context("no such peer")?;
            peer.open(dir.path(), Sync::Always)?.append(1, &bodies)?;
        }
        let needle = &body(100)[400..432];
        let flipped = flip(dir.path(), needle)?;
        let served = if name == "relay-log" {
            runtime.block_on(async {
                let Ok((_, log)) = create(dir.path(), Fsync::Never).await else { return 0 };
                match log.read(0, Limit::entries(1000)).await {
                    Ok(Page::Entries(entries)) => {
                        wrong(&mut entries.into_iter().map(|entry| entry.body.to_vec()))
                    }
                    _ => 0,
                }
            })
        } else {
            let peer = peers::all().into_iter().find(|peer| peer.name() == name).context("no such peer")?;
            let mut entries = Vec::new();
            let read = peer
                .open(dir.path(), Sync::Never)
                .and_then(|db| db.replay(&mut |body| entries.push(body.to_vec())));
            if read.is_err() { 0 } else { wrong(&mut entries.into_iter()) }
        };
        out.row(&format!("{flipped} flipped bytes: wrong entries served"), name, served as f64, "entries");
    }
    Ok(())
}

/// Flips a byte at each place where these bytes are in the files of a directory.
fn flip(dir: &Path, needle: &[u8]) -> Result<u64> {
    let mut flipped = 0;
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            flipped += flip(&path, needle)?;
            continue;
        }
        let mut bytes = fs::read(&path)?;
        if let Some(at) = bytes.windows(needle.len()).position(|window| window == needle) {
            bytes[at + 5] ^= 0x10;
            fs::write(&path, bytes)?;
            flipped += 1;
        }
    }
    Ok(flipped)
}
