//! Logs on disk.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use relay_log::sim::SimDisk;
use relay_log::suite::{self, Subject};
use relay_log::{DiskOptions, DiskStore, Fsync, Limit, LogName, LogOptions, Logs, Page, Store};

/// Stores on simulated disks, which can be full.
struct Simulated {
    disk: std::sync::Mutex<SimDisk>,
    options: DiskOptions,
}

impl Subject for Simulated {
    fn fresh(&self) -> BoxFuture<'_, Arc<dyn Store>> {
        Box::pin(async {
            let disk = SimDisk::default();
            *self.disk.lock().unwrap() = disk.clone();
            let store = DiskStore::open_on(Arc::new(disk), Path::new("d"), self.options.clone()).unwrap();
            Arc::new(store) as Arc<dyn Store>
        })
    }

    fn reopened<'a>(&'a self, _store: &'a Arc<dyn Store>) -> BoxFuture<'a, Option<Arc<dyn Store>>> {
        Box::pin(async {
            let disk = self.disk.lock().unwrap().clone();
            let store = DiskStore::open_on(Arc::new(disk), Path::new("d"), self.options.clone()).unwrap();
            Some(Arc::new(store) as Arc<dyn Store>)
        })
    }

    fn refuse_writes(&self, _store: &Arc<dyn Store>, refuse: bool) -> bool {
        self.disk.lock().unwrap().set_full(refuse);
        true
    }
}

/// Stores in a real directory.
struct Real {
    dir: tempfile::TempDir,
    options: DiskOptions,
    stores: std::sync::atomic::AtomicUsize,
}

impl Real {
    fn open(&self, fresh: bool) -> Arc<dyn Store> {
        let at = self.stores.fetch_add(usize::from(fresh), std::sync::atomic::Ordering::SeqCst);
        let dir = self.dir.path().join(format!("{}", at - usize::from(!fresh)));
        Arc::new(DiskStore::open(dir, self.options.clone()).unwrap())
    }
}

impl Subject for Real {
    fn fresh(&self) -> BoxFuture<'_, Arc<dyn Store>> {
        Box::pin(async { self.open(true) })
    }

    fn reopened<'a>(&'a self, _store: &'a Arc<dyn Store>) -> BoxFuture<'a, Option<Arc<dyn Store>>> {
        Box::pin(async { Some(self.open(false)) })
    }

    fn refuse_writes(&self, _store: &Arc<dyn Store>, _refuse: bool) -> bool {
        false
    }
}

async fn simulated(options: DiskOptions) {
    suite::run(&Simulated { disk: std::sync::Mutex::default(), options }).await;
}

async fn real(options: DiskOptions) {
    let dir = tempfile::tempdir().unwrap();
    suite::run(&Real { dir, options, stores: 1.into() }).await;
}

/// Small segments, no cache, one open log at a time: all code paths are used often.
fn small() -> DiskOptions {
    DiskOptions::default().segment_bytes(1024).cache_bytes(0).active_logs(1)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_disk_store_passes_the_suite() {
    real(DiskOptions::default().fsync(Fsync::Never)).await;
}

#[tokio::test]
async fn a_disk_store_of_small_segments_passes_the_suite() {
    real(small().fsync(Fsync::Interval(Duration::from_millis(2)))).await;
}

#[tokio::test]
async fn a_simulated_disk_passes_the_suite() {
    for fsync in [Fsync::Always, Fsync::Interval(Duration::from_millis(1)), Fsync::Never] {
        simulated(DiskOptions::default().fsync(fsync)).await;
        simulated(small().fsync(fsync)).await;
    }
}

/// Open logs that are quiet have no open file, however many there are; the logs that were written last have one.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn quiet_logs_cost_no_descriptor() {
    let dir = tempfile::tempdir().unwrap();
    let below = |path: &Path| path.starts_with(dir.path());
    let open_files = || {
        let files = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
        files.filter(|file| std::fs::read_link(file.path()).is_ok_and(|path| below(&path))).count()
    };
    let options = DiskOptions::default().fsync(Fsync::Never).active_logs(4);
    let logs = Logs::new(DiskStore::open(dir.path(), options).unwrap());
    let mut held = Vec::new();
    for number in 0..300 {
        let name = LogName::new(&format!("log {number}")).unwrap();
        let log = logs.create(&name, LogOptions::default()).await.unwrap();
        log.append(vec![format!("entry of {number}")]).await.unwrap();
        held.push(log);
    }
    // The lock of the store, and the logs that were written last.
    assert!(open_files() <= 1 + 4, "{} files are open", open_files());
    for (number, log) in held.iter().enumerate() {
        let Page::Entries(entries) = log.read(0, Limit::default()).await.unwrap() else { panic!("gone") };
        assert_eq!(entries[0].body, format!("entry of {number}"));
    }
    // Readers keep the files that they used last.
    assert!(open_files() <= 1 + 4 + 64, "{} files are open", open_files());
    logs.close().await.unwrap();
    assert_eq!(open_files(), 0);
}

#[tokio::test]
async fn a_read_over_damage_ends_before_it_and_the_next_one_names_the_last_good_position() {
    let dir = tempfile::tempdir().unwrap();
    let options = DiskOptions::default().cache_bytes(0);
    let logs = Logs::new(DiskStore::open(dir.path(), options).unwrap());
    let log = logs.create(&LogName::new("a").unwrap(), LogOptions::default()).await.unwrap();
    log.append((0..100_u8).map(|at| vec![at; 50]).collect::<Vec<_>>()).await.unwrap();
    // The file is damaged while the log is open, so that the check at opening does not find it.
    let segment = dir.path().join("logs/a/00000000000000000001.segment");
    let mut bytes = std::fs::read(&segment).unwrap();
    let body = bytes.windows(50).position(|bytes| bytes == [40; 50]).unwrap();
    bytes[body + 7] ^= 1;
    std::fs::write(&segment, bytes).unwrap();

    let Page::Entries(entries) = log.read(10, Limit::default()).await.unwrap() else { panic!("trimmed") };
    assert!(entries.iter().map(|entry| entry.position).eq(11..=40));
    assert!(entries.iter().all(|entry| entry.body[..] == [entry.position as u8 - 1; 50]));
    for _ in 0..2 {
        let error = log.read(40, Limit::default()).await.unwrap_err().to_string();
        assert!(error.contains("the last good position is 40") && error.contains("checksum"), "{error}");
        assert!(error.contains(segment.to_str().unwrap()), "{error}");
    }
    // Entries after the damage can be read.
    let Page::Entries(entries) = log.read(41, Limit::default()).await.unwrap() else { panic!("trimmed") };
    assert!(entries.iter().map(|entry| entry.position).eq(42..=100));
}
