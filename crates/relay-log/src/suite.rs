//! The tests that every [`Store`] passes.
//!
//! A store of your own gets a [`Subject`] and one test that calls [`run`]: it panics with the name of the rule that
//! does not hold. Times are set by the batches and nothing sleeps, but waits have a limit of 30 seconds.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{BoxFuture, join_all};

use crate::{
    Batch, Checkpoint, Entry, Error, Identity, Join, Joined, Key, Limit, Log, LogName, LogOptions, Logs,
    Page, Positions, Retention, Store,
};

/// Provides the stores of the suite.
pub trait Subject: Send + Sync {
    /// An empty store.
    fn fresh(&self) -> BoxFuture<'_, Arc<dyn Store>>;

    /// The same store after [`Store::close`], opened again; `None` when its content does not survive closing.
    fn reopened<'a>(&'a self, store: &'a Arc<dyn Store>) -> BoxFuture<'a, Option<Arc<dyn Store>>>;

    /// Makes its medium refuse writes, or accept them again. False when it cannot.
    fn refuse_writes(&self, store: &Arc<dyn Store>, refuse: bool) -> bool;
}

/// Runs the suite.
///
/// # Panics
/// When a rule does not hold.
pub async fn run(subject: &dyn Subject) {
    positions_are_contiguous(subject).await;
    a_batch_is_taken_whole_or_not_at_all(subject).await;
    a_batch_that_must_follow_a_position_does(subject).await;
    every_position_can_be_asked_for(subject).await;
    limits_are_kept(subject).await;
    parts_of_entries_come_without_a_hole(subject).await;
    the_oldest_go_by_count_bytes_and_age(subject).await;
    trimming_under_readers_shows_no_hole(subject).await;
    waiting_ends_when_there_is_more(subject).await;
    many_writers_share_one_log(subject).await;
    checkpoints_hold_what_follows_them(subject).await;
    logs_come_and_go(subject).await;
    a_fork_is_a_log_of_its_own(subject).await;
    a_store_that_is_opened_again_is_the_same(subject).await;
    a_medium_that_fails_takes_nothing_half(subject).await;
}

const PATIENCE: Duration = Duration::from_secs(30);

async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what}: not within {PATIENCE:?}"),
    }
}

fn name(text: &str) -> LogName {
    LogName::new(text).expect("a good name")
}

fn body(position: u64) -> Bytes {
    Bytes::from(format!("entry {position}"))
}

/// A batch of the entries for these positions. Its time is the first position in seconds.
fn batch(positions: std::ops::RangeInclusive<u64>) -> Batch {
    let at = i64::try_from(*positions.start()).expect("small") * 1000;
    Batch::new(positions.map(body)).at(at)
}

async fn new_log(subject: &dyn Subject, options: LogOptions) -> (Logs, Log) {
    let logs = Logs::shared(subject.fresh().await);
    let log = logs.create(&name("the log"), options).await.expect("a new log");
    (logs, log)
}

async fn fill(log: &Log, to: u64) {
    for position in log.bounds().head + 1..=to {
        log.append(batch(position..=position)).await.expect("an append");
    }
}

/// One page.
async fn page(log: &Log, after: u64, limit: Limit) -> Option<Vec<u64>> {
    match log.read(after, limit).await.expect("a read") {
        Page::Entries(entries) => Some(checked(&entries, after)),
        Page::Gone => None,
    }
}

/// Page after page: a store may return fewer than the limit allows.
async fn positions(log: &Log, after: u64, limit: Limit) -> Option<Vec<u64>> {
    let mut all = page(log, after, limit).await?;
    while let Some(last) = all.last() {
        match page(log, *last, limit).await {
            Some(next) if !next.is_empty() => all.extend(next),
            _ => break,
        }
    }
    Some(all)
}

async fn all_entries(log: &Log, after: u64) -> Vec<Entry> {
    let mut all: Vec<Entry> = Vec::new();
    loop {
        let at = all.last().map_or(after, |entry| entry.position);
        match log.read(at, Limit::default()).await.expect("a read") {
            Page::Entries(next) if next.is_empty() => return all,
            Page::Entries(next) => all.extend(next),
            Page::Gone => panic!("nothing was trimmed"),
        }
    }
}

/// The positions of the entries that follow `after`. Panics unless each is the entry that was appended there.
fn checked(entries: &[Entry], after: u64) -> Vec<u64> {
    for (at, entry) in entries.iter().enumerate() {
        let expected = after + 1 + at as u64;
        assert_eq!((entry.position, &entry.body), (expected, &body(expected)), "read after {after}");
    }
    entries.iter().map(|entry| entry.position).collect()
}

async fn positions_are_contiguous(subject: &dyn Subject) {
    let (_logs, log) = new_log(subject, LogOptions::default()).await;
    assert_eq!((log.bounds().base, log.bounds().head, log.bounds().bytes), (0, 0, 0), "a new log is empty");
    assert_eq!(log.append(batch(1..=1)).await.expect("one"), Positions { first: 1, last: 1 });
    assert_eq!(log.append(batch(2..=50)).await.expect("many"), Positions { first: 2, last: 50 });
    assert_eq!(log.append(batch(51..=51)).await.expect("one more").len(), 1);
    assert_eq!((log.bounds().base, log.bounds().head, log.bounds().entries()), (0, 51, 51));
    let entries = all_entries(&log, 0).await;
    assert_eq!(checked(&entries, 0), (1..=51).collect::<Vec<_>>());
    assert_eq!(log.bounds().bytes, entries.iter().map(Entry::size).sum::<u64>(), "bytes count the entries");
    assert_eq!((entries[1].time, entries[49].time, entries[50].time), (2000, 2000, 51_000));
}

async fn a_batch_is_taken_whole_or_not_at_all(subject: &dyn Subject) {
    let (_logs, log) = new_log(subject, LogOptions::default()).await;
    fill(&log, 3).await;
    let error = log.append(Vec::<Bytes>::new()).await.expect_err("no entries");
    assert!(matches!(error, Error::BadBatch { .. }), "{error}");
    let huge = Bytes::from(vec![0; (Batch::MAX_BYTES >> 3) + 1]);
    let error = log.append(vec![huge; 8]).await.expect_err("too many bytes");
    assert!(matches!(error, Error::BadBatch { .. }), "{error}");
    assert_eq!((log.bounds().head, log.bounds().entries()), (3, 3), "nothing of what was refused");
    // Bodies are returned unchanged: an empty one, one of many zeros, and one with every value of a byte.
    let odd = [Bytes::new(), Bytes::from(vec![0; 100_000]), (0..=255).collect::<Vec<u8>>().into()];
    log.append(Batch::new(odd.clone())).await.expect("odd entries");
    let entries = all_entries(&log, 3).await;
    assert_eq!(entries.into_iter().map(|entry| entry.body).collect::<Vec<_>>(), odd);
}

async fn a_batch_that_must_follow_a_position_does(subject: &dyn Subject) {
    let (_logs, log) = new_log(subject, LogOptions::default()).await;
    log.append(batch(1..=2).after(0)).await.expect("follows nothing");
    for wrong in [0, 1, 3, u64::MAX] {
        let error = log.append(batch(3..=3).after(wrong)).await.expect_err("another position");
        let told = matches!(error, Error::NotAtHead { expected, head: 2 } if expected == wrong);
        assert!(told, "after {wrong}: {error}");
    }
    log.append(batch(3..=3).after(2)).await.expect("follows the head");
    assert_eq!(positions(&log, 0, Limit::default()).await, Some(vec![1, 2, 3]));
    // Of several appends that expect the same head one succeeds, and the others are refused.
    let race = join_all((0..8).map(|_| log.append(batch(4..=4).after(3)))).await;
    assert_eq!(race.iter().filter(|result| result.is_ok()).count(), 1, "{race:?}");
    assert_eq!(log.bounds().head, 4);
}

async fn every_position_can_be_asked_for(subject: &dyn Subject) {
    let (_logs, log) = new_log(subject, LogOptions::default()).await;
    assert_eq!(positions(&log, 0, Limit::default()).await, Some(vec![]), "an empty log");
    fill(&log, 10).await;
    log.trim(4).await.expect("a trim");
    for after in (0..=20).chain([u64::MAX - 1, u64::MAX]) {
        let expected = (after >= 4).then(|| (after.min(10) + 1..=10).collect::<Vec<_>>());
        assert_eq!(positions(&log, after, Limit::default()).await, expected, "after {after}");
    }
    log.trim(3).await.expect("below the base: nothing to do");
    assert_eq!(log.bounds().base, 4);
    let error = log.trim(11).await.expect_err("beyond the head");
    assert!(matches!(error, Error::OutOfBounds { position: 11, to: 10, .. }), "{error}");
    log.trim(10).await.expect("everything");
    assert_eq!((log.bounds().base, log.bounds().head, log.bounds().bytes), (10, 10, 0));
    assert_eq!(positions(&log, 9, Limit::default()).await, None);
    assert_eq!(positions(&log, 10, Limit::default()).await, Some(vec![]));
    fill(&log, 11).await;
    assert_eq!(positions(&log, 10, Limit::default()).await, Some(vec![11]), "positions go on");
}

async fn limits_are_kept(subject: &dyn Subject) {
    let (_logs, log) = new_log(subject, LogOptions::default()).await;
    fill(&log, 9).await;
    for (limit, most) in [
        (Limit::entries(3), vec![3, 4, 5]),
        (Limit::entries(0), vec![3]),
        (Limit::default().bytes(0), vec![3]),
        (Limit::default().bytes(14), vec![3, 4]),
        (Limit::default().bytes(20), vec![3, 4]),
    ] {
        let read = page(&log, 2, limit).await.expect("nothing was trimmed");
        assert!(!read.is_empty() && most.starts_with(&read), "{limit:?}: {read:?}");
        assert_eq!(positions(&log, 2, limit).await, Some((3..=9).collect()), "{limit:?}: page after page");
    }
}

/// What is behind `entry `, but for the seventh.
fn number(body: &[u8]) -> Option<std::ops::Range<usize>> {
    (body != b"entry 7").then(|| b"entry ".len()..body.len())
}

/// Joins until a page is empty. The numbers, and the position that the last page ended at; nothing for what is gone.
async fn joined(log: &Log, mut join: Join) -> Option<(String, u64)> {
    let mut all = String::new();
    'run: loop {
        let mut page = log.begin_join(join).done().await.expect("a read");
        loop {
            let Joined::Parts(parts) = page else { return None };
            assert_eq!(parts.last.is_some(), parts.entries > 0, "{parts:?}");
            assert!(parts.entries <= join.limit.entries.max(1), "{parts:?}");
            let Some(last) = parts.last else { return Some((all, join.after)) };
            assert_eq!(last.position, join.after + parts.entries as u64, "entries without a hole");
            assert_eq!(last.body, body(last.position), "the last one is whole");
            if parts.bytes.is_empty() {
                return Some((all, join.after));
            }
            all.push_str(std::str::from_utf8(&parts.bytes).expect("digits"));
            join.after = last.position;
            let Some(next) = parts.next else { continue 'run };
            page = next.read().await.expect("the page behind it");
        }
    }
}

async fn parts_of_entries_come_without_a_hole(subject: &dyn Subject) {
    let (_logs, log) = new_log(subject, LogOptions::default()).await;
    fill(&log, 12).await;
    log.trim(2).await.expect("a trim");
    for pages in [1, 2, 3, 100] {
        for limit in [Limit::entries(0), Limit::entries(3), Limit::default().bytes(14), Limit::default()] {
            let join = |after, until| Join { after, until, limit, pages, part: number };
            let of = |after, until| joined(&log, join(after, until));
            assert_eq!(of(7, u64::MAX).await, Some(("89101112".into(), 12)), "{pages} pages of {limit:?}");
            assert_eq!(of(8, 10).await, Some(("910".into(), 10)), "{pages} pages of {limit:?}");
            // It ends before what has no such part, and goes on only from behind it.
            assert_eq!(of(2, 12).await, Some(("3456".into(), 6)), "{pages} pages of {limit:?}");
            let alone = log.begin_join(join(6, 12)).done().await.expect("a read");
            let Joined::Parts(alone) = alone else { panic!("nothing was trimmed there") };
            assert_eq!((alone.entries, &alone.bytes[..], alone.next.is_some()), (1, &b""[..], false));
            assert_eq!(of(1, 12).await, None, "gone");
            assert_eq!(
                (of(12, 20).await, of(20, 30).await),
                (Some((String::new(), 12)), Some((String::new(), 20)))
            );
            assert_eq!(of(9, 9).await, Some((String::new(), 9)), "nothing is asked for");
        }
    }
}

async fn the_oldest_go_by_count_bytes_and_age(subject: &dyn Subject) {
    let by_count = LogOptions::default().retention(Retention::default().entries(3));
    let (_logs, log) = new_log(subject, by_count).await;
    fill(&log, 2).await;
    assert_eq!(log.bounds().base, 0);
    log.append(batch(3..=9)).await.expect("more than are kept");
    assert_eq!(positions(&log, 6, Limit::default()).await, Some(vec![7, 8, 9]));
    assert_eq!(positions(&log, 5, Limit::default()).await, None);
    log.set_retention(Retention::default().entries(1));
    fill(&log, 10).await;
    assert_eq!(log.bounds().base, 9, "a new rule counts from the next append");

    let size = Entry { position: 1, time: 0, body: body(1) }.size();
    let by_bytes = LogOptions::default().retention(Retention::default().bytes(3 * size));
    let (_logs, log) = new_log(subject, by_bytes).await;
    fill(&log, 7).await;
    assert_eq!((log.bounds().base, log.bounds().bytes), (4, 3 * size));
    log.append(Batch::new([vec![b'x'; 1000]])).await.expect("larger than what is kept");
    assert_eq!((log.bounds().base, log.bounds().head, log.bounds().bytes), (8, 8, 0), "even the newest goes");

    let by_age = LogOptions::default().retention(Retention::default().age(Duration::from_secs(3)));
    let (_logs, log) = new_log(subject, by_age).await;
    fill(&log, 4).await;
    assert_eq!(log.bounds().base, 0, "three seconds are not over");
    log.expire(4001).await.expect("a look");
    assert_eq!(log.bounds().base, 1);
    log.append(batch(5..=5).at(6500)).await.expect("an append looks as well");
    assert_eq!(log.bounds().base, 3);
    log.expire(i64::MAX).await.expect("a look");
    assert_eq!((log.bounds().base, log.bounds().bytes), (5, 0));
}

async fn trimming_under_readers_shows_no_hole(subject: &dyn Subject) {
    const ALL: u64 = 3000;
    let retention = Retention::default().entries(40);
    let (_logs, log) = new_log(subject, LogOptions::default().retention(retention)).await;
    let writer = async {
        for first in (1..=ALL).step_by(10) {
            log.append(batch(first..=first + 9)).await.expect("an append");
            tokio::task::yield_now().await;
        }
    };
    let reader = |limit: usize| {
        let log = log.clone();
        async move {
            let mut at = 0;
            while at < ALL {
                log.wait(at).await.expect("more to come");
                match page(&log, at, Limit::entries(limit)).await {
                    Some(read) => at = read.last().copied().unwrap_or(at),
                    None => {
                        let base = log.bounds().base;
                        assert!(base > at, "gone, and the base is {base}, not beyond {at}");
                        at = base;
                    }
                }
                tokio::task::yield_now().await;
            }
        }
    };
    let readers = join_all([1, 7, 100].map(reader));
    soon("readers behind a writer", async { tokio::join!(writer, readers) }).await;
    assert_eq!(log.bounds().entries(), 40);
}

async fn waiting_ends_when_there_is_more(subject: &dyn Subject) {
    let (logs, log) = new_log(subject, LogOptions::default()).await;
    fill(&log, 2).await;
    assert_eq!(log.wait(1).await.expect("there already"), 2);
    let waiting = join_all((2..5).map(|after| log.wait(after)));
    let writing = async {
        fill(&log, 5).await;
    };
    let (heads, ()) = soon("waiters", async { tokio::join!(waiting, writing) }).await;
    for (after, head) in (2..).zip(heads) {
        let head = head.expect("a head");
        assert!(head > after && head <= 5, "waited for more than {after}, told {head}");
    }
    let deleting = logs.delete(log.name());
    let (end, deleted) = soon("the end", async { tokio::join!(log.wait(5), deleting) }).await;
    deleted.expect("a deletion");
    assert!(matches!(end, Err(Error::Closed { .. })), "{end:?}");
}

async fn many_writers_share_one_log(subject: &dyn Subject) {
    let store = subject.fresh().await;
    // Two handles that do not know of each other, each with many tasks.
    let fronts = [Logs::shared(store.clone()), Logs::shared(store)];
    fronts[0].create(&name("shared"), LogOptions::default()).await.expect("a new log");
    let mut appends = Vec::new();
    for (front, logs) in fronts.iter().enumerate() {
        let log = logs.open(&name("shared")).await.expect("the log");
        for writer in 0..16 {
            let log = log.clone();
            appends.push(async move {
                let mut taken = Vec::new();
                for turn in 0..8 {
                    let entries = (0..1 + turn % 3).map(|at| format!("{front} {writer} {turn} {at}"));
                    let entries: Vec<String> = entries.collect();
                    let positions = log.append(entries.clone()).await.expect("an append");
                    assert_eq!(positions.len(), entries.len() as u64);
                    assert!(log.bounds().head >= positions.last, "it can be read when its writer is told");
                    taken.extend((positions.first..).zip(entries));
                }
                taken
            });
        }
    }
    let mut taken: Vec<(u64, String)> = soon("writers", join_all(appends)).await.concat();
    taken.sort();
    let log = fronts[1].open(&name("shared")).await.expect("the log");
    let entries = all_entries(&log, 0).await;
    let found = entries.into_iter().map(|e| (e.position, String::from_utf8_lossy(&e.body).into_owned()));
    assert_eq!(found.collect::<Vec<_>>(), taken, "each batch stands where its writer was told, in one piece");
}

async fn checkpoints_hold_what_follows_them(subject: &dyn Subject) {
    let retention = Retention::default().entries(2);
    let (_logs, log) = new_log(subject, LogOptions::default().retention(retention)).await;
    fill(&log, 3).await;
    let recovery = log.recover().await.expect("a recovery");
    assert!(recovery.checkpoint().is_none() && recovery.position() <= 1, "the beginning may be lost");
    let checkpoint = |position| Checkpoint { position, body: Bytes::from(format!("up to {position}")) };
    let error = log.save_checkpoint(checkpoint(4)).await.expect_err("beyond the head");
    assert!(matches!(error, Error::OutOfBounds { position: 4, to: 3, .. }), "{error}");
    log.save_checkpoint(checkpoint(3)).await.expect("a checkpoint");
    fill(&log, 10).await;
    assert_eq!(positions(&log, 7, Limit::default()).await, None, "trimmed for readers");
    for at in [3, 8] {
        if at == 8 {
            log.save_checkpoint(checkpoint(8)).await.expect("the next checkpoint");
        }
        let mut recovery = log.recover().await.expect("a recovery");
        assert_eq!((recovery.checkpoint(), recovery.position()), (Some(&checkpoint(at)), at));
        let mut found = Vec::new();
        loop {
            let entries = recovery.next(Limit::entries(3)).await.expect("held");
            if entries.is_empty() {
                break;
            }
            found.extend(checked(&entries, recovery.position() - entries.len() as u64));
        }
        assert_eq!(found, (at + 1..=10).collect::<Vec<_>>());
    }
    let error = log.save_checkpoint(checkpoint(7)).await.expect_err("before the former one");
    assert!(matches!(error, Error::OutOfBounds { .. }), "{error}");
}

async fn logs_come_and_go(subject: &dyn Subject) {
    let logs = Logs::shared(subject.fresh().await);
    assert_eq!(logs.names().await.expect("names"), []);
    let missing = logs.open(&name("a")).await.expect_err("not there yet");
    assert!(matches!(missing, Error::NotFound { .. }), "{missing}");
    assert!(matches!(logs.delete(&name("a")).await, Err(Error::NotFound { .. })));
    let names = ["/", "..", "a", "a/b", "A", "con", "ü", &"long/".repeat(400)].map(name);
    for name in &names {
        let log = logs.create(name, LogOptions::default().about(name.to_string())).await.expect("a new log");
        log.append(vec![name.to_string()]).await.expect("an append");
    }
    let exists = logs.create(&name("a"), LogOptions::default()).await.expect_err("there already");
    assert!(matches!(exists, Error::Exists { .. }), "{exists}");
    let mut sorted = names.to_vec();
    sorted.sort();
    assert_eq!(logs.names().await.expect("names"), sorted);
    for name in &names {
        let log = logs.open(name).await.expect("each");
        let Page::Entries(entries) = log.read(0, Limit::default()).await.expect("a read") else { panic!() };
        assert_eq!(
            (log.about().as_ref(), &entries[0].body[..]),
            (name.as_str().as_bytes(), name.as_str().as_bytes())
        );
    }
    let old = logs.open(&name("a")).await.expect("the log");
    let epoch = old.identity().epoch().to_owned();
    logs.delete(&name("a")).await.expect("a deletion");
    assert!(
        matches!(old.append(vec!["late"]).await, Err(Error::Closed { .. })),
        "it is gone for who held it"
    );
    assert!(matches!(old.read(0, Limit::default()).await, Err(Error::Closed { .. })));
    assert!(matches!(logs.open(&name("a")).await, Err(Error::NotFound { .. })));
    let new = logs.open_or_create(&name("a"), LogOptions::default()).await.expect("another of this name");
    assert_eq!(new.bounds().head, 0);
    assert_ne!(new.identity().epoch(), epoch, "another log is another epoch");
    new.append(vec!["new"]).await.expect("an append");
    assert!(old.closed().is_some() && new.closed().is_none());
    let same = logs.open_or_create(&name("a"), LogOptions::default()).await.expect("the same");
    assert_eq!((same.bounds().head, same.identity().epoch()), (1, new.identity().epoch()));
    let given = Identity::new("a-given-epoch", Key::new([7; 32])).expect("a good epoch");
    let log =
        logs.create(&name("given"), LogOptions::default().identity(given.clone())).await.expect("a log");
    assert_eq!(log.identity(), given);
}

async fn a_fork_is_a_log_of_its_own(subject: &dyn Subject) {
    let (logs, source) = new_log(subject, LogOptions::default()).await;
    fill(&source, 6).await;
    source.trim(2).await.expect("a trim");
    let fork = |at, to: &str| {
        let (logs, from, to) = (logs.clone(), source.name().clone(), name(to));
        async move { logs.fork(&from, at, &to, LogOptions::default().about("a fork")).await }
    };
    for wrong in [1, 7] {
        let error = fork(wrong, "wrong").await.expect_err("not there");
        assert!(matches!(error, Error::OutOfBounds { from: 2, to: 6, .. }), "{wrong}: {error}");
    }
    assert_eq!(logs.names().await.expect("names").len(), 1, "nothing is left of what was refused");
    let forked = fork(4, "fork").await.expect("a fork");
    assert!(matches!(fork(4, "fork").await, Err(Error::Exists { .. })));
    assert_eq!((forked.bounds().base, forked.bounds().head), (2, 4));
    assert_ne!(forked.identity().epoch(), source.identity().epoch());
    assert_eq!(&forked.about()[..], b"a fork");
    fill(&forked, 5).await;
    source.append(vec!["another entry 7"]).await.expect("an append");
    logs.delete(source.name()).await.expect("a deletion");
    assert_eq!(positions(&forked, 2, Limit::default()).await, Some(vec![3, 4, 5]));
    assert_eq!(positions(&forked, 1, Limit::default()).await, None);
    let entries = all_entries(&forked, 2).await;
    assert_eq!(entries.iter().map(|entry| entry.time).collect::<Vec<_>>(), [3000, 4000, 5000]);
    let empty = logs.fork(forked.name(), 2, &name("empty"), LogOptions::default()).await.expect("a fork");
    assert_eq!((empty.bounds().base, empty.bounds().head, empty.bounds().bytes), (2, 2, 0));
    fill(&empty, 3).await;
    assert_eq!(positions(&empty, 2, Limit::default()).await, Some(vec![3]));
}

async fn a_store_that_is_opened_again_is_the_same(subject: &dyn Subject) {
    let store = subject.fresh().await;
    let logs = Logs::shared(store.clone());
    let log = logs.create(&name("kept"), LogOptions::default().about("for ever")).await.expect("a new log");
    logs.create(&name("empty"), LogOptions::default()).await.expect("another");
    logs.create(&name("deleted"), LogOptions::default()).await.expect("a third");
    fill(&log, 20).await;
    log.trim(5).await.expect("a trim");
    let checkpoint = Checkpoint { position: 12, body: "half of it".into() };
    log.save_checkpoint(checkpoint.clone()).await.expect("a checkpoint");
    logs.delete(&name("deleted")).await.expect("a deletion");
    let before = (log.identity(), log.bounds());
    logs.close().await.expect("an orderly end");
    assert!(matches!(log.append(vec!["late"]).await, Err(Error::Closed { .. })));
    let Some(store) = subject.reopened(&store).await else { return };
    let logs = Logs::shared(store.clone());
    assert_eq!(logs.names().await.expect("names"), [name("empty"), name("kept")]);
    let log = logs.open(&name("kept")).await.expect("the log");
    assert_eq!((log.identity(), log.bounds()), before, "same epoch, same bounds");
    assert_eq!(&log.about()[..], b"for ever");
    assert_eq!(log.recover().await.expect("a recovery").checkpoint(), Some(&checkpoint));
    assert_eq!(positions(&log, 5, Limit::default()).await, Some((6..=20).collect()));
    fill(&log, 25).await;
    logs.close().await.expect("an orderly end");
    let Some(store) = subject.reopened(&store).await else { return };
    let log = Logs::shared(store).open(&name("kept")).await.expect("the log");
    assert_eq!(positions(&log, 5, Limit::default()).await, Some((6..=25).collect()));
}

async fn a_medium_that_fails_takes_nothing_half(subject: &dyn Subject) {
    let store = subject.fresh().await;
    let log =
        Logs::shared(store.clone()).create(&name("log"), LogOptions::default()).await.expect("a new log");
    fill(&log, 5).await;
    if !subject.refuse_writes(&store, true) {
        return;
    }
    let results = join_all((0..20).map(|_| log.append(vec!["never seen", "nor this"]))).await;
    assert!(results.iter().all(Result::is_err), "{results:?}");
    assert_eq!(log.bounds().head, 5, "nothing that failed is announced");
    assert_eq!(positions(&log, 0, Limit::default()).await, Some((1..=5).collect()), "reading goes on");
    subject.refuse_writes(&store, false);
    fill(&log, 8).await;
    assert_eq!(positions(&log, 0, Limit::default()).await, Some((1..=8).collect()), "and so does writing");
}
