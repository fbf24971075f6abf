//! Logs on a simulated disk, from a seed. They are longer than those of which a test can try every crash point.
//!
//! Each seed is one disk and one log, which is opened many times. Each time, one or several callers append batches;
//! the log is trimmed, checkpointed, given another retention; the disk fails sometimes; and the run ends in order,
//! by a kill, or by a power loss at any operation, after which any part of the unsynced data survives in any order.
//! The next run opens the log, and every guarantee must hold.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use relay_log::sim::{Fault, FaultKind, SimDisk};
use relay_log::{
    Batch, Checkpoint, DiskOptions, DiskStore, Error, Fsync, Limit, Log, LogName, LogOptions, Logs, Retention,
};
use relay_testkit::Rng;

/// The result of a run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DiskReport {
    /// The number of disks, one for each seed.
    pub disks: u64,
    /// The number of times that their logs were opened.
    pub lives: u64,
    /// How many of these runs ended with a power loss.
    pub power_losses: u64,
    /// How many ended with a kill.
    pub kills: u64,
    /// The number of new epochs.
    pub epochs: u64,
    /// The number of announced entries.
    pub entries: u64,
}

impl std::fmt::Display for DiskReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { disks, lives, power_losses, kills, epochs, entries } = self;
        write!(
            f,
            "simulated disks: {disks}, with {lives} lives of logs, {power_losses} ended by a power loss and {kills} by \
             a kill, {epochs} new epochs, {entries} entries"
        )
    }
}

/// Tries one seed after another for this time, and at least one.
///
/// # Errors
/// The first broken guarantee, and the seed that reproduces it.
pub fn disks(seed: u64, time: Duration) -> Result<DiskReport, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    let (began, mut report) = (Instant::now(), DiskReport::default());
    for seed in seed.. {
        runtime.block_on(disk(seed, &mut report)).map_err(|why| format!("the disk of seed {seed}: {why}"))?;
        report.disks += 1;
        if began.elapsed() >= time {
            break;
        }
    }
    Ok(report)
}

/// What is known of a log over all of its runs.
#[derive(Default)]
struct Story {
    created: bool,
    epoch: String,
    /// The entry that was announced or read at a position of an epoch.
    told: BTreeMap<(String, u64), Vec<u8>>,
    /// The newest position that was announced, or found when the log was opened.
    head: u64,
    /// The entries that may be at a position: those that were found there, and those that were appended since.
    possible: BTreeMap<u64, Vec<Vec<u8>>>,
    /// The newest checkpoint whose saving succeeded.
    checkpoint: Option<u64>,
    /// Whether an error occurred in this run after which a log may close itself.
    failed: bool,
    turn: u64,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum End {
    Orderly,
    Killed,
    Power,
}

async fn disk(seed: u64, report: &mut DiskReport) -> Result<(), String> {
    let mut random = Rng::new(seed);
    let fsync = match random.below(3) {
        0 => Fsync::Always,
        1 => Fsync::Never,
        _ => Fsync::Interval(Duration::from_micros(50)),
    };
    let options = DiskOptions::default()
        .fsync(fsync)
        .segment_bytes([700, 2000, 10_000, 100_000][random.below(4) as usize])
        .cache_bytes([0, 500, 1 << 20][random.below(3) as usize]);
    let (mut disk, mut story) = (SimDisk::default(), Story::default());
    let mut end = End::Orderly;
    for life in 0..8 {
        let what = format!("life {life} under {fsync:?}, after {end:?}");
        let wrong = |why: String| format!("{what}: {why}");
        report.lives += 1;
        if random.one_in(2) {
            let kind = match random.below(6) {
                0..=2 => FaultKind::PowerOff,
                3 => FaultKind::Error,
                4 => FaultKind::NoRoom,
                _ => FaultKind::Short,
            };
            // The fault comes only after the log is open, because other tests cover openings that fail.
            disk.set_fault(Some(Fault { at: disk.operations() + 40 + random.below(1500), kind }));
        }
        let store = DiskStore::open_on(Arc::new(disk.clone()), Path::new("d"), options.clone());
        let logs = Logs::new(store.map_err(|error| wrong(error.to_string()))?);
        let name = LogName::new("log").map_err(|error| wrong(error.to_string()))?;
        let opened = logs.open_or_create(&name, LogOptions::default().about("soak")).await;
        let log = opened.map_err(|error| wrong(error.to_string()))?;
        check(&log, &mut story, fsync, end, report).await.map_err(wrong)?;
        story.failed = false;
        live(&log, &mut random, &mut story, report).await;
        end = match random.below(3) {
            0 => End::Orderly,
            1 => End::Killed,
            _ => End::Power,
        };
        if end == End::Orderly {
            let closed = logs.close().await;
            // If a sync fails in the background, the log closes itself, possibly between two calls.
            let by_its_store =
                log.closed().is_some_and(|why| why.to_string().contains("its store was closed"));
            if closed.is_err() || !by_its_store {
                end = End::Killed;
                story.failed = true;
            }
        }
        drop((log, logs));
        disk = match end {
            End::Power => {
                report.power_losses += 1;
                disk.after_power_loss(|| [0, 0, 3, 7, 8, 8, 8][random.below(7) as usize])
            }
            End::Killed => {
                report.kills += 1;
                disk.after_kill()
            }
            End::Orderly => disk.after_kill(),
        };
    }
    Ok(())
}

/// One run: up to a few hundred steps, some of which may fail because of the disk.
async fn live(log: &Log, random: &mut Rng, story: &mut Story, report: &mut DiskReport) {
    for _ in 0..20 + random.below(300) {
        let head = log.bounds().head;
        let failed = match random.below(40) {
            0 => log.trim(log.bounds().base + random.below(head - log.bounds().base + 1)).await.is_err(),
            1 => {
                let position = head - random.below(3).min(head - log.bounds().base);
                let body = state(position).into();
                match log.save_checkpoint(Checkpoint { position, body }).await {
                    Ok(()) => {
                        story.checkpoint = Some(position);
                        false
                    }
                    Err(Error::OutOfBounds { .. }) => false,
                    Err(_) => true,
                }
            }
            2 => {
                log.set_retention(Retention::default().entries(1 + random.below(60)));
                false
            }
            3 => {
                log.set_retention(Retention::default());
                false
            }
            _ => append(log, random, story, report).await,
        };
        story.failed |= failed;
        if log.closed().is_some() {
            return;
        }
    }
}

/// Appends one batch, or several at the same time. Returns whether one failed.
async fn append(log: &Log, random: &mut Rng, story: &mut Story, report: &mut DiskReport) -> bool {
    let callers = if random.one_in(4) { 1 + random.below(4) } else { 1 };
    let mut batches = Vec::new();
    for _ in 0..callers {
        let batch: Vec<Vec<u8>> = (0..1 + random.below(6))
            .map(|_| {
                story.turn += 1;
                format!("entry {} {}", story.turn, "x".repeat(random.below(300) as usize)).into_bytes()
            })
            .collect();
        batches.push(batch);
    }
    // Each of them may end up at any of these positions.
    let first = log.bounds().head + 1;
    let all: Vec<Vec<u8>> = batches.concat();
    for position in first..first + all.len() as u64 {
        story.possible.entry(position).or_default().extend(all.iter().cloned());
    }
    let appending = batches.iter().map(|batch| log.append(Batch::new(batch.clone()).at(0)));
    let results = futures_util::future::join_all(appending).await;
    let mut failed = false;
    for (batch, result) in batches.into_iter().zip(results) {
        match result {
            Ok(positions) => {
                for (position, body) in (positions.first..).zip(batch) {
                    story.told.insert((story.epoch.clone(), position), body);
                    report.entries += 1;
                }
                story.head = story.head.max(positions.last);
            }
            Err(_) => failed = true,
        }
    }
    failed
}

fn state(position: u64) -> String {
    format!("state at {position}")
}

/// Compares an opened log with all guarantees.
async fn check(
    log: &Log,
    story: &mut Story,
    fsync: Fsync,
    end: End,
    report: &mut DiskReport,
) -> Result<(), String> {
    let epoch = log.identity().epoch().to_owned();
    let same = epoch == story.epoch;
    if log.about() != "soak" {
        return Err("it is called otherwise".into());
    }
    let mut recovery = log.recover().await.map_err(|error| error.to_string())?;
    let (checkpoint, start) = (recovery.checkpoint().cloned(), recovery.position());
    if let Some(kept) = &checkpoint
        && kept.body != state(kept.position)
    {
        return Err(format!("the checkpoint at {} is another", kept.position));
    }
    let kept = checkpoint.map(|kept| kept.position);
    if kept < story.checkpoint {
        return Err(format!("the checkpoint is {kept:?}, and {:?} was kept", story.checkpoint));
    }
    let (mut position, mut found) = (start, BTreeMap::new());
    loop {
        let entries = recovery.next(Limit::default()).await.map_err(|error| error.to_string())?;
        if entries.is_empty() {
            break;
        }
        for entry in entries {
            position += 1;
            if entry.position != position {
                return Err(format!("{} stands where {position} should", entry.position));
            }
            let possible = story.possible.get(&position).map(Vec::as_slice).unwrap_or_default();
            if !possible.iter().any(|body| *body == entry.body) {
                return Err(format!("what stands at {position} was never appended there"));
            }
            found.insert(position, entry.body.to_vec());
        }
    }
    let head = log.bounds().head;
    if position != head {
        return Err(format!("it can be read up to {position}, and its head is {head}"));
    }
    if story.created && same && head < story.head {
        return Err(format!("announced up to {}, and it ends at {head} in the same epoch", story.head));
    }
    let kept_whole = fsync == Fsync::Always || end != End::Power;
    if story.created && !same && kept_whole && !story.failed {
        return Err("nothing can be lost, and the epoch is new".into());
    }
    report.epochs += u64::from(story.created && !same);
    for (position, body) in &found {
        let told = story.told.entry((epoch.clone(), *position)).or_insert_with(|| body.clone());
        if told != body {
            return Err(format!("{position} was told as another entry in this epoch"));
        }
    }
    story.possible = found.into_iter().map(|(position, body)| (position, vec![body])).collect();
    (story.created, story.epoch, story.head, story.checkpoint) = (true, epoch, head, kept);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_logs_promise_holds_on_disks_of_many_seeds() {
        let report = (0..24).try_fold(DiskReport::default(), |all, seed| {
            let one = disks(seed * 1_000_003, Duration::ZERO)?;
            Ok::<_, String>(DiskReport {
                disks: all.disks + one.disks,
                lives: all.lives + one.lives,
                power_losses: all.power_losses + one.power_losses,
                kills: all.kills + one.kills,
                epochs: all.epochs + one.epochs,
                entries: all.entries + one.entries,
            })
        });
        let report = report.unwrap();
        assert_eq!((report.disks, report.lives), (24, 192));
        assert!(report.power_losses > 10 && report.kills > 10 && report.epochs > 5, "{report}");
        assert!(report.entries > 20_000, "{report}");
        assert_eq!(disks(7, Duration::ZERO), disks(7, Duration::ZERO), "seed 7, always synced, is one run");
    }
}
