//! Checks the guarantees after an end at every moment.
//!
//! One script of appends, a trim and a checkpoint runs on a simulated disk which is stopped at each of its operations.
//! Then the log is opened on everything that may be left: every part of the unsynced data, in every order.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use relay_log::sim::{Fault, FaultKind, SimDisk};
use relay_log::{
    Batch, Checkpoint, DiskOptions, DiskStore, Error, Fsync, Limit, Log, LogName, LogOptions, Logs, Retention,
};

/// What a run was told, and what it requested.
#[derive(Default)]
struct Story {
    /// Whether the log was created.
    created: bool,
    epoch: String,
    /// Entries whose append succeeded.
    announced: BTreeMap<u64, Bytes>,
    /// Entries that were handed over at a position, announced or not.
    tried: BTreeMap<u64, Vec<Bytes>>,
    /// Entries whose append failed while the disk went on working.
    refused: Vec<Bytes>,
    /// Position of the newest checkpoint whose saving succeeded.
    checkpoint: Option<u64>,
    ended_in_order: bool,
}

fn name() -> LogName {
    LogName::new("log").unwrap()
}

fn options(fsync: Fsync) -> DiskOptions {
    DiskOptions::default().fsync(fsync).segment_bytes(1024).cache_bytes(200)
}

fn body(position: u64, round: u64) -> Bytes {
    // The lengths differ, so that ends fall at many places.
    Bytes::from(format!("entry {position} of round {round} {}", "x".repeat((position * 7 % 60) as usize)))
}

/// The body of a checkpoint contains its position.
fn state(position: u64) -> Bytes {
    Bytes::from(format!("state at {position}"))
}

async fn append(log: &Log, count: u64, round: u64, story: &mut Story) -> bool {
    let first = log.bounds().head + 1;
    let entries: Vec<Bytes> = (first..first + count).map(|position| body(position, round)).collect();
    for (position, entry) in (first..).zip(&entries) {
        story.tried.entry(position).or_default().push(entry.clone());
    }
    match log.append(Batch::new(entries.clone()).at(0)).await {
        Ok(positions) => {
            assert_eq!(positions.first, first);
            story.announced.extend((first..).zip(entries));
            true
        }
        Err(_) => {
            story.refused.extend(entries);
            false
        }
    }
}

async fn checkpoint(log: &Log, position: u64, story: &mut Story) {
    if log.save_checkpoint(Checkpoint { position, body: state(position) }).await.is_ok() {
        story.checkpoint = Some(position);
    }
}

/// Writes 30 entries over three segments and more, with a trim and a checkpoint, to an orderly end. Continues after
/// errors.
async fn script(disk: &SimDisk, fsync: Fsync, story: &mut Story) -> Result<(), Error> {
    let store = DiskStore::open_on(Arc::new(disk.clone()), Path::new("d"), options(fsync))?;
    let logs = Logs::new(store);
    let log = logs.open_or_create(&name(), LogOptions::default().about("proof")).await?;
    story.created = true;
    story.epoch = log.identity().epoch().to_owned();
    for (turn, count) in [1, 2, 3, 1, 4, 1, 1, 3, 2, 4, 1, 2, 3, 1, 1].into_iter().enumerate() {
        append(&log, count, 0, story).await;
        let head = log.bounds().head;
        match turn {
            6 => checkpoint(&log, head, story).await,
            8 => {
                let _ = log.trim(head.saturating_sub(4)).await;
            }
            11 => {
                let before = head.saturating_sub(1);
                log.set_retention(Retention::default().entries(5));
                checkpoint(&log, before, story).await;
            }
            _ => {}
        }
    }
    assert!(readable_is_announced(&log, story).await, "nothing that failed is announced");
    story.ended_in_order = logs.close().await.is_ok();
    Ok(())
}

async fn entries(log: &Log) -> BTreeMap<u64, Bytes> {
    let mut recovery = log.recover().await.expect("a recovery");
    let mut found = BTreeMap::new();
    loop {
        let page = recovery.next(Limit::default()).await.expect("what is there can be read");
        if page.is_empty() {
            return found;
        }
        for entry in page {
            let due = found.last_key_value().map_or(entry.position, |(last, _)| last + 1);
            assert_eq!(entry.position, due, "no hole");
            found.insert(entry.position, entry.body);
        }
    }
}

async fn readable_is_announced(log: &Log, story: &Story) -> bool {
    let found = entries(log).await;
    found.iter().all(|(position, body)| story.announced.get(position) == Some(body))
        && log.bounds().head == story.announced.last_key_value().map_or(0, |(last, _)| *last)
}

/// Opens what is left, and compares it with the guarantees. `power`: the power was lost; otherwise only the process was
/// killed.
async fn examine(disk: SimDisk, fsync: Fsync, story: &Story, power: bool, what: &str) {
    let store = match DiskStore::open_on(Arc::new(disk.clone()), Path::new("d"), options(fsync)) {
        Ok(store) => store,
        Err(error) => panic!("{what}: {error}"),
    };
    let logs = Logs::new(store);
    let log = match logs.open(&name()).await {
        Ok(log) => log,
        Err(Error::NotFound { .. }) if !story.created => return,
        Err(error) => panic!("{what}: {error}"),
    };
    assert_eq!(log.about(), "proof", "{what}");
    let same_epoch = log.identity().epoch() == story.epoch;
    let mut recovery = log.recover().await.unwrap_or_else(|error| panic!("{what}: {error}"));
    let checkpoint = recovery.checkpoint().cloned();
    if let Some(checkpoint) = &checkpoint {
        assert_eq!(checkpoint.body, state(checkpoint.position), "{what}: the checkpoint is of its position");
    }
    assert!(checkpoint.as_ref().map(|c| c.position) >= story.checkpoint, "{what}: the checkpoint is kept");
    let start = recovery.position();
    assert!(start == 0 || checkpoint.is_some(), "{what}: the beginning is there, or what was made of it");
    drop(recovery.next(Limit::default()).await);
    let found = entries(&log).await;
    let head = log.bounds().head;
    assert_eq!(found.len() as u64, head - start, "{what}: everything after the checkpoint is there");
    for (position, body) in &found {
        let tried = story.tried.get(position).map(Vec::as_slice).unwrap_or_default();
        assert!(tried.contains(body), "{what}: position {position} holds what was never appended there");
        if same_epoch {
            let announced = story.announced.get(position);
            assert!(
                announced.is_none_or(|announced| announced == body),
                "{what}: {position} is another entry"
            );
        }
    }
    let last = story.announced.last_key_value().map_or(0, |(last, _)| *last);
    if same_epoch && story.created {
        assert!(head >= last, "{what}: announced up to {last}, and the log ends at {head} in the same epoch");
    }
    if fsync == Fsync::Always || !power {
        assert!(!story.created || same_epoch, "{what}: nothing can be lost, and the epoch is new");
    }
    // The log accepts new entries, and the next opening finds them.
    let mut next = Story { epoch: log.identity().epoch().into(), ..Story::default() };
    let epoch = next.epoch.clone();
    assert!(append(&log, 2, 1, &mut next).await, "{what}: a log that was opened takes entries");
    assert_eq!(*next.announced.first_key_value().unwrap().0, head + 1);
    drop((log, logs));
    let store = DiskStore::open_on(Arc::new(disk.after_kill()), Path::new("d"), options(fsync)).unwrap();
    let log = Logs::new(store).open(&name()).await.unwrap_or_else(|error| panic!("{what}, again: {error}"));
    assert_eq!((log.identity().epoch(), log.bounds().head), (&*epoch, head + 2), "{what}, again");
    let again = entries(&log).await;
    assert!(next.announced.iter().all(|(position, body)| again.get(position) == Some(body)), "{what}, again");
}

/// A small generator of numbers that look random, the same for the same seed.
struct Seeded(u64);

impl Seeded {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// Tries every way in which unsynced data may have reached the disk if there are few; otherwise the most important
/// ones, and some at random.
async fn every_loss(disk: &SimDisk, fsync: Fsync, story: &Story, what: &str) {
    let pending = disk.pending();
    let check = async |which: &str, survives: &dyn Fn(usize) -> u8| {
        let mut at = 0;
        let left = disk.after_power_loss(|| {
            at += 1;
            survives(at - 1)
        });
        examine(left, fsync, story, true, &format!("{what}, of {pending} pending {which}")).await;
    };
    if pending <= 6 {
        for set in 0..1_u32 << pending {
            check(&format!("the set {set:b}"), &|at| if set >> at & 1 == 1 { 8 } else { 0 }).await;
        }
    } else {
        for cut in 0..=pending {
            check(&format!("the first {cut}"), &|at| if at < cut { 8 } else { 0 }).await;
            check(&format!("all from {cut} on"), &|at| if at < cut { 0 } else { 8 }).await;
            check(&format!("all but {cut}"), &|at| if at == cut { 0 } else { 8 }).await;
        }
    }
    for cut in 0..pending {
        for part in [1, 4, 7] {
            let survives = |at| if at == cut { part } else { 8 };
            check(&format!("all, and {part}/8 of {cut}"), &survives).await;
        }
    }
    for seed in 0..12 {
        let choices: Vec<u8> = {
            let mut seeded = Seeded(seed << 32 | pending as u64);
            (0..pending).map(|_| [0, 0, 3, 8, 8][(seeded.next() % 5) as usize]).collect()
        };
        check(&format!("by seed {seed}"), &|at| choices[at]).await;
    }
}

async fn prove(fsync: Fsync, losses: bool) {
    let whole = SimDisk::default();
    let mut story = Story::default();
    script(&whole, fsync, &mut story).await.unwrap();
    assert!(story.ended_in_order && story.announced.len() == 30, "{}", story.announced.len());
    for at in 0..=whole.operations() {
        let disk = SimDisk::default();
        disk.set_fault(Some(Fault { at, kind: FaultKind::PowerOff }));
        let mut story = Story::default();
        let _ = script(&disk, fsync, &mut story).await;
        let what = format!("{fsync:?}, stopped at operation {at}");
        if losses {
            every_loss(&disk, fsync, &story, &what).await;
        } else {
            examine(disk.after_kill(), fsync, &story, false, &format!("{what}, killed")).await;
        }
    }
}

#[tokio::test]
async fn a_kill_at_every_moment_loses_nothing() {
    for fsync in [Fsync::Always, Fsync::Never] {
        prove(fsync, false).await;
    }
}

#[tokio::test]
async fn a_power_loss_at_every_moment_is_survived_or_told_when_always_synced() {
    prove(Fsync::Always, true).await;
}

/// A writer that was killed leaves unsynced data, and the next writer must not take it for synced.
#[tokio::test]
async fn a_power_loss_after_a_kill_finds_the_log_that_went_on_between_them() {
    for fsync in [Fsync::Always, Fsync::Never] {
        for more in [0, 1, 9] {
            let (disk, mut story) = (SimDisk::default(), Story::default());
            let store = DiskStore::open_on(Arc::new(disk.clone()), Path::new("d"), options(fsync)).unwrap();
            let log = Logs::new(store).open_or_create(&name(), LogOptions::default()).await.unwrap();
            // Appends a full segment, so that the next append begins another one at once.
            assert!(append(&log, 30, 1, &mut story).await);
            drop(log);

            let disk = disk.after_kill();
            let store = DiskStore::open_on(Arc::new(disk.clone()), Path::new("d"), options(fsync)).unwrap();
            let logs = Logs::new(store);
            let log = logs.open(&name()).await.unwrap();
            for _ in 0..more {
                assert!(append(&log, 10, 1, &mut story).await);
            }
            let head = log.bounds().head;
            let epoch = log.identity().epoch().to_owned();
            if more == 0 {
                logs.close().await.unwrap();
            }
            drop((log, logs));

            let disk = disk.after_power_loss(|| 0);
            let store = DiskStore::open_on(Arc::new(disk.clone()), Path::new("d"), options(fsync)).unwrap();
            let log = Logs::new(store).open(&name()).await.unwrap();
            assert_eq!(*log.identity().epoch() == *epoch, fsync == Fsync::Always, "{fsync:?}, {more}");
            assert!(log.bounds().head == head || fsync == Fsync::Never && more > 0, "{fsync:?}, {more}");
            let kept = entries(&log).await;
            assert!(kept.iter().all(|(position, body)| story.announced.get(position) == Some(body)));
        }
    }
}

#[tokio::test]
async fn a_power_loss_at_every_moment_is_survived_or_told_when_never_synced() {
    prove(Fsync::Never, true).await;
}

#[tokio::test]
async fn a_power_loss_at_every_moment_is_survived_or_told_when_synced_now_and_then() {
    prove(Fsync::Interval(Duration::from_micros(50)), true).await;
}

#[tokio::test]
async fn whatever_fails_at_every_moment_is_told_and_nothing_that_failed_is_announced() {
    for fsync in [Fsync::Always, Fsync::Never] {
        let whole = SimDisk::default();
        script(&whole, fsync, &mut Story::default()).await.unwrap();
        for kind in [FaultKind::Error, FaultKind::NoRoom, FaultKind::Short, FaultKind::Interrupted] {
            for at in 0..=whole.operations() {
                let disk = SimDisk::default();
                disk.set_fault(Some(Fault { at, kind }));
                let mut story = Story::default();
                let what = format!("{fsync:?}, {kind:?} at operation {at}");
                let result = script(&disk, fsync, &mut story).await;
                if kind == FaultKind::Short {
                    assert!(result.is_ok() && story.ended_in_order, "{what}: no error of the caller's");
                    assert_eq!((story.announced.len(), story.refused.len()), (30, 0), "{what}");
                }
                after_a_fault(disk.after_kill(), fsync, &story, &what).await;
            }
        }
    }
}

/// After a fault the log may have a new epoch, even without a power loss. In the same epoch, no refused entry appears.
async fn after_a_fault(disk: SimDisk, fsync: Fsync, story: &Story, what: &str) {
    let store = match DiskStore::open_on(Arc::new(disk), Path::new("d"), options(fsync)) {
        Ok(store) => store,
        Err(error) => panic!("{what}: {error}"),
    };
    let log = match Logs::new(store).open(&name()).await {
        Ok(log) => log,
        Err(Error::NotFound { .. }) if !story.created => return,
        Err(error) => panic!("{what}: {error}"),
    };
    let found = entries(&log).await;
    if story.created && log.identity().epoch() == story.epoch {
        for (position, body) in &found {
            assert_eq!(story.announced.get(position), Some(body), "{what}: position {position}");
        }
        assert_eq!(
            log.bounds().head,
            story.announced.last_key_value().map_or(0, |(last, _)| *last),
            "{what}"
        );
    }
}
