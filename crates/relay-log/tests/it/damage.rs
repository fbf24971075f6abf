//! Damaged files: each is refused by name, or its torn end is reported, and `verify` agrees.

use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use relay_log::{
    Batch, Checkpoint, DiskOptions, DiskStore, Error, Fsync, Limit, Log, LogName, LogOptions, Logs, Page,
    Verified, salvage, verify,
};

fn name() -> LogName {
    LogName::new("log").unwrap()
}

fn body(position: u64) -> Bytes {
    Bytes::from(format!("entry {position}"))
}

fn options() -> DiskOptions {
    DiskOptions::default().fsync(Fsync::Never).segment_bytes(1024).cache_bytes(0)
}

async fn open(dir: &Path) -> Result<Log, Error> {
    // The log stays usable although its `Logs` is dropped here.
    Logs::new(DiskStore::open(dir, options())?).open(&name()).await
}

/// Makes a log of 60 entries in several segments, with a checkpoint and without the oldest segment. It ended in order,
/// or was killed.
async fn make(dir: &Path, in_order: bool) {
    let logs = Logs::new(DiskStore::open(dir, options()).unwrap());
    let log = logs.create(&name(), LogOptions::default()).await.unwrap();
    for first in (1..60).step_by(3) {
        log.append(Batch::new((first..first + 3).map(body)).at(0)).await.unwrap();
    }
    log.save_checkpoint(Checkpoint { position: 40, body: "forty".into() }).await.unwrap();
    log.trim(40).await.unwrap();
    if in_order {
        logs.close().await.unwrap();
    }
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if !path.ends_with("lock") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// The result of opening and reading a damaged log.
#[derive(Debug)]
enum Outcome {
    Refused(Error),
    /// It opened, with these positions.
    Opened(Vec<u64>),
}

async fn outcome(dir: &Path) -> Outcome {
    let log = match open(dir).await {
        Ok(log) => log,
        Err(error) => return Outcome::Refused(error),
    };
    let mut found = Vec::new();
    let mut after = log.bounds().base;
    loop {
        match log.read(after, Limit::default()).await {
            Ok(Page::Entries(entries)) if entries.is_empty() => return Outcome::Opened(found),
            Ok(Page::Entries(entries)) => {
                for entry in entries {
                    assert_eq!(
                        (entry.position, entry.body),
                        (after + 1, body(after + 1)),
                        "never a wrong byte"
                    );
                    after = entry.position;
                    found.push(after);
                }
            }
            Ok(page) => panic!("after {after}: {page:?}"),
            Err(error) => return Outcome::Refused(error),
        }
    }
}

fn look(dir: &Path) -> Result<Verified, Error> {
    verify(dir, &name(), &mut |_, _| ())
}

/// Damages a copy, and compares the result of opening it with what `verify` says.
async fn judge(whole: &Path, what: &str, in_order: bool, damage: impl FnOnce(&Path)) {
    let copy = tempfile::tempdir().unwrap();
    for file in files(whole) {
        let to = copy.path().join(file.strip_prefix(whole).unwrap());
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(&file, to).unwrap();
    }
    damage(copy.path());
    let verified = look(copy.path());
    let before = files(copy.path()).into_iter().map(|file| fs::read(file).unwrap()).collect::<Vec<_>>();
    let clean = matches!(&verified, Ok(verified) if verified.problems.is_empty());
    match outcome(copy.path()).await {
        Outcome::Refused(error) => {
            let text = error.to_string();
            assert!(text.contains(copy.path().to_str().unwrap()), "{what}: names the file: {text}");
            assert!(!clean, "{what}: opening says {text}, verify says {verified:?}");
        }
        Outcome::Opened(positions) => {
            assert!(!in_order, "{what}: opened, after an orderly end, with {positions:?}");
            let expected: Vec<u64> = (41..).take(positions.len()).collect();
            assert_eq!(positions, expected, "{what}: a whole prefix");
            let torn = matches!(&verified, Ok(v) if v.problems.iter().any(|p| p.problem.starts_with("torn")));
            // A file that ends after a whole batch looks like that of a killed writer, so it is not reported as torn.
            assert_eq!(
                torn,
                before != files(copy.path()).iter().map(|f| fs::read(f).unwrap()).collect::<Vec<_>>()
            );
            assert!(torn || (clean && positions.len() % 3 == 2), "{what}: {verified:?}, {positions:?}");
        }
    }
}

#[tokio::test]
async fn an_undamaged_log_is_found_well_and_left_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    make(dir.path(), true).await;
    let before: Vec<Vec<u8>> = files(dir.path()).iter().map(|file| fs::read(file).unwrap()).collect();
    let verified = look(dir.path()).unwrap();
    assert_eq!(verified.problems, []);
    assert_eq!((verified.head, verified.entries), (60, 60 - verified.oldest + 1));
    assert!(verified.oldest > 1 && verified.oldest <= 41, "{verified:?}");
    assert_eq!(verified.checkpoint.unwrap().position, 40);
    let after: Vec<Vec<u8>> = files(dir.path()).iter().map(|file| fs::read(file).unwrap()).collect();
    assert_eq!(before, after);
}

#[tokio::test]
async fn a_flipped_bit_is_refused_by_name_wherever_it_is() {
    for in_order in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        make(dir.path(), in_order).await;
        for file in files(dir.path()) {
            let name = file.strip_prefix(dir.path()).unwrap().to_owned();
            for at in 0..fs::read(&file).unwrap().len() {
                let what = format!("{}, byte {at} flipped, in order: {in_order}", name.display());
                judge(dir.path(), &what, in_order, |copy| {
                    let mut bytes = fs::read(copy.join(&name)).unwrap();
                    bytes[at] ^= 1 << (at % 8);
                    fs::write(copy.join(&name), bytes).unwrap();
                })
                .await;
            }
        }
    }
}

#[tokio::test]
async fn a_file_that_was_cut_is_refused_by_name_or_is_torn() {
    for in_order in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        make(dir.path(), in_order).await;
        for file in files(dir.path()) {
            let name = file.strip_prefix(dir.path()).unwrap().to_owned();
            for len in 0..fs::read(&file).unwrap().len() {
                let what = format!("{}, cut to {len} bytes, in order: {in_order}", name.display());
                judge(dir.path(), &what, in_order, |copy| {
                    let bytes = fs::read(copy.join(&name)).unwrap();
                    fs::write(copy.join(&name), &bytes[..len]).unwrap();
                })
                .await;
            }
        }
    }
}

#[tokio::test]
async fn a_file_that_is_missing_is_named() {
    let dir = tempfile::tempdir().unwrap();
    make(dir.path(), true).await;
    for file in files(dir.path()) {
        let name = file.strip_prefix(dir.path()).unwrap().to_owned();
        judge(dir.path(), &format!("{} is missing", name.display()), true, |copy| {
            fs::remove_file(copy.join(&name)).unwrap();
        })
        .await;
    }
}

#[tokio::test]
async fn a_file_of_another_log_is_named() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    make(dir.path(), true).await;
    make(other.path(), true).await;
    for file in files(dir.path()) {
        let name = file.strip_prefix(dir.path()).unwrap().to_owned();
        if name == Path::new("store") || name.ends_with("manifest") {
            continue;
        }
        judge(dir.path(), &format!("{} of another log", name.display()), true, |copy| {
            fs::copy(other.path().join(&name), copy.join(&name)).unwrap();
        })
        .await;
    }
    judge(dir.path(), "a segment too many", true, |copy| {
        let log = copy.join("logs/log");
        let newest = files(&log).pop().unwrap();
        fs::copy(newest, log.join("00000000000000009999.segment")).unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_directory_of_somebody_else_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("thesis.txt"), "ten years").unwrap();
    let error = DiskStore::open(dir.path(), options()).unwrap_err().to_string();
    assert!(error.contains("thesis.txt") && error.contains(dir.path().to_str().unwrap()), "{error}");
    assert_eq!(files(dir.path()).len(), 1);
    assert!(matches!(look(dir.path()), Err(Error::Refused { .. })));
}

#[tokio::test]
async fn a_second_process_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let first = DiskStore::open(dir.path(), options()).unwrap();
    let error = DiskStore::open(dir.path(), options()).unwrap_err();
    assert!(error.to_string().contains("another process"), "{error}");
    assert!(look(dir.path()).unwrap_err().to_string().contains("another process"));
    drop(first);
    DiskStore::open(dir.path(), options()).unwrap();
}

#[cfg(unix)]
#[tokio::test]
async fn only_the_owner_may_look_inside() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let inner = dir.path().join("data");
    make(&inner, true).await;
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    for folder in [&inner, &inner.join("logs"), &inner.join("logs/log")] {
        assert_eq!(mode(folder), 0o700, "{}", folder.display());
    }
    for file in files(&inner) {
        assert_eq!(mode(&file), 0o600, "{}", file.display());
    }
}

#[tokio::test]
async fn a_newer_format_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    make(dir.path(), true).await;
    for name in ["store", "logs/log/manifest"] {
        judge(dir.path(), name, true, |copy| {
            let path = copy.join(name);
            let mut bytes = fs::read(&path).unwrap();
            bytes[8] = 9;
            let mut summed = bytes[..20].to_vec();
            summed.extend_from_slice(&bytes[24..]);
            bytes[20..24].copy_from_slice(&crc32c::crc32c(&summed).to_le_bytes());
            fs::write(&path, bytes).unwrap();
        })
        .await;
        let path = dir.path().join(name);
        let mut bytes = fs::read(&path).unwrap();
        let whole = bytes.clone();
        bytes[8] = 9;
        let summed = [&bytes[..20], &bytes[24..]].concat();
        bytes[20..24].copy_from_slice(&crc32c::crc32c(&summed).to_le_bytes());
        fs::write(&path, bytes).unwrap();
        let error = open(dir.path()).await.unwrap_err().to_string();
        assert!(error.contains("format 9") && error.contains(name), "{error}");
        fs::write(&path, whole).unwrap();
    }
}

/// Whatever byte is flipped: what is salvaged is what was written, up to an entry before the damage.
#[tokio::test]
async fn what_stands_before_the_damage_is_read_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    make(dir.path(), true).await;
    let read = |dir: &Path| {
        let found = salvage(dir, &name())?;
        let mut entries = Vec::new();
        found.read(found.held, |entry| {
            entries.push((entry.position, entry.body));
            Ok::<_, Error>(())
        })?;
        let expected: Vec<_> = (found.held + 1..=found.head).map(|at| (at, body(at))).collect();
        assert_eq!(entries, expected);
        Ok::<_, Error>(found)
    };
    let whole = read(dir.path()).unwrap();
    assert!(whole.damage.is_none() && whole.head == 60 && whole.base == 40, "{whole:?}");
    assert_eq!(whole.checkpoint.as_ref().map(|kept| kept.position), Some(40));
    // Another process must not write meanwhile.
    assert!(DiskStore::open(dir.path(), options()).is_err());
    drop(whole);
    let (mut refused, mut parts) = (0, 0);
    for path in files(dir.path()) {
        let good = fs::read(&path).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            fs::write(&path, &bad).unwrap();
            match read(dir.path()) {
                Err(error) => {
                    assert!(path.ends_with("store") || path.ends_with("manifest"), "{path:?}: {error}");
                    assert!(!error.to_string().contains("last good position"), "{error}");
                    refused += 1;
                }
                Ok(found) => {
                    let damage = found.damage.as_ref().map(ToString::to_string).unwrap_or_default();
                    assert!(damage.contains(path.to_str().unwrap()), "{path:?} {at}: {found:?}");
                    assert_eq!(found.head < 60, path.extension().is_some(), "{path:?} {at}: {found:?}");
                    parts += 1;
                }
            }
        }
        fs::write(&path, good).unwrap();
    }
    assert!(refused > 100 && parts > 1000, "{refused} {parts}");
    assert!(read(dir.path()).unwrap().damage.is_none());
}
