//! A directory of logs.

use std::collections::HashMap;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::files::{Disk, SystemDisk};
use super::framed::{self, failed};
use super::log::DiskLog;
use super::manifest::{self, Manifest};
use super::medium::Medium;
use super::options::{DiskOptions, Fsync};
use super::{folder, fork, open};
use crate::{Error, Identity, LogName, LogOptions, Store, StoredLog, Work};

const MARK: &str = "store";
const MARK_KIND: &[u8; 8] = b"relaystr";
const LOCK: &str = "lock";
/// Names are spread over this many locks.
const STRIPES: usize = 16;

/// Keeps logs in a directory of its own, one folder for each.
///
/// ```text
///   DIR/store              says that this is a store, and its format
///   DIR/lock               held while a process has the store
///   DIR/logs/NAME/manifest            epoch, key, and which files there should be
///                 NNNNNNNN.segment    entries, from position NNNNNNNN on
///                 checkpoint          the newest checkpoint
/// ```
/// The directory is for its owner only (0700, files 0600): it holds the keys. Calls that may wait for the disk run
/// on tokio's blocking threads. An idle log has no open file. The format is in `docs/log-format.md`.
///
/// ```
/// use relay_log::{DiskOptions, DiskStore, LogName, LogOptions, Logs};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?;
/// # let dir = dir.path();
/// let name = LogName::new("orders")?;
/// let logs = Logs::new(DiskStore::open(dir, DiskOptions::default())?);
/// logs.create(&name, LogOptions::default()).await?.append(vec!["first"]).await?;
/// logs.close().await?;
///
/// let logs = Logs::new(DiskStore::open(dir, DiskOptions::default())?);
/// assert_eq!(logs.open(&name).await?.bounds().head, 1);
/// # Ok(()) }
/// ```
pub struct DiskStore {
    shared: Arc<Shared>,
}

/// The logs of a store by their names.
struct Shared {
    medium: Arc<Medium<DiskLog>>,
    dir: PathBuf,
    stripes: [Mutex<()>; STRIPES],
    logs: Mutex<Known>,
    lock: Mutex<Option<Box<dyn fmt::Debug + Send + Sync>>>,
}

#[derive(Default)]
struct Known {
    held: HashMap<LogName, Weak<DiskLog>>,
    sweep_at: usize,
}

/// Runs blocking work on a thread for it. The work is completed even if its future is dropped.
pub(super) fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Work<Result<T, Error>> {
    let task = tokio::task::spawn_blocking(work);
    Work::Later(Box::pin(async move {
        task.await
            .unwrap_or_else(|broken| Err(Error::Closed { why: format!("its work broke off: {broken}") }))
    }))
}

impl DiskStore {
    /// Opens the store in a directory, or creates one in an empty or missing directory. Blocks briefly; each log is
    /// checked when it is opened.
    ///
    /// # Errors
    /// [`Error::Refused`] when another process has the store, when the directory is not a store, or of a newer
    /// format; [`Error::Io`] when it cannot be used.
    pub fn open(dir: impl AsRef<Path>, options: DiskOptions) -> Result<Self, Error> {
        Self::open_on(Arc::new(SystemDisk), dir.as_ref(), options)
    }

    /// [`Self::open`] on another file system.
    ///
    /// # Errors
    /// Those of [`Self::open`].
    pub fn open_on(disk: Arc<dyn Disk>, dir: &Path, options: DiskOptions) -> Result<Self, Error> {
        let lock = prepare(&*disk, dir)?;
        let medium = Arc::new(Medium::new(disk, options));
        if let Fsync::Interval(interval) = medium.options.fsync {
            let medium = Arc::downgrade(&medium);
            let started = std::thread::Builder::new().name("relay-log-sync".into());
            let started = started.spawn(move || {
                // A log that was closed in between has reported why.
                Medium::keep_syncing(&medium, interval, |log: &DiskLog| drop(log.sync_now()));
            });
            started.map_err(|source| Error::io("starting a thread failed", source))?;
        }
        let shared = Arc::new(Shared {
            medium,
            dir: dir.to_owned(),
            stripes: Default::default(),
            logs: Mutex::default(),
            lock: Mutex::new(Some(lock)),
        });
        Ok(Self { shared })
    }
}

/// Makes a directory a store, or checks that it is one; and locks it.
fn prepare(disk: &dyn Disk, dir: &Path) -> Result<Box<dyn fmt::Debug + Send + Sync>, Error> {
    disk.create_dir(dir).map_err(|source| failed("creating", dir, source))?;
    let (mark, lock) = (dir.join(MARK), dir.join(LOCK));
    let listed = || disk.list(dir).map_err(|source| failed("reading", dir, source));
    let refused = |problem: String| Error::Refused { path: dir.to_owned(), problem };
    let foreign = |files: &[String]| {
        files.iter().find(|file| !matches!(file.as_str(), MARK | LOCK | "store.new" | "logs")).cloned()
    };
    // In a foreign directory nothing is created, not even the lock.
    let files = listed()?;
    if !files.iter().any(|file| file == MARK)
        && let Some(file) = foreign(&files)
    {
        return Err(refused(format!("this is no store, and not empty: there is {file}")));
    }
    let lock = disk.lock(&lock, true).map_err(|source| match source.kind() {
        io::ErrorKind::WouldBlock => refused("another process has the store".into()),
        _ => failed("locking", &lock, source),
    })?;
    match framed::read(disk, &mark, MARK_KIND) {
        Ok(_) => {}
        Err(error) if framed::is_missing(&error) => {
            let logs = folder::logs(dir);
            if listed()?.iter().any(|file| file == "logs") && disk.list(&logs).is_ok_and(|l| !l.is_empty()) {
                return Err(refused(format!("there are logs, and the file {MARK} is missing")));
            }
            disk.create_dir(&logs).map_err(|source| failed("creating", &logs, source))?;
            // The marker file is written last.
            disk.sync_dir(dir).map_err(|source| failed("syncing", dir, source))?;
            framed::replace(disk, &mark, MARK_KIND, b"")?;
            if let Some(parent) = dir.parent() {
                let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
                disk.sync_dir(parent).map_err(|source| failed("syncing", parent, source))?;
            }
        }
        Err(error) => return Err(error),
    }
    let logs = folder::logs(dir);
    let folders = disk.list(&logs).map_err(|source| failed("reading", &logs, source))?;
    for passing in folders.iter().filter(|name| folder::is_passing(name)) {
        remove_folder(disk, &logs.join(passing))?;
    }
    Ok(lock)
}

/// Checks that a directory is a store without a running process, changing nothing.
///
/// # Errors
/// [`Error::Refused`] when it is not a store, or is in use; [`Error::Damaged`] when its marker file cannot be read.
pub fn look(dir: &Path) -> Result<(), Error> {
    look_at(&SystemDisk, dir).map(drop)
}

/// Checks that a directory is a store, changing nothing, and locks it.
pub(super) fn look_at(
    disk: &dyn Disk,
    dir: &Path,
) -> Result<Option<Box<dyn fmt::Debug + Send + Sync>>, Error> {
    let refused = |problem: &str| Error::Refused { path: dir.to_owned(), problem: problem.into() };
    let mark = dir.join(MARK);
    framed::read(disk, &mark, MARK_KIND).map_err(|error| match framed::is_missing(&error) {
        true if disk.list(&folder::logs(dir)).is_ok_and(|logs| !logs.is_empty()) => {
            open::damaged(mark.clone(), 0, None, "the file is missing, and there are logs".into())
        }
        true => refused("this is no store of logs: its file `store` is missing"),
        false => error,
    })?;
    match disk.lock(&dir.join(LOCK), false) {
        Ok(lock) => Ok(Some(lock)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            Err(refused("another process has the store"))
        }
        // A missing store is not in use.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(failed("locking", dir, source)),
    }
}

fn remove_folder(disk: &dyn Disk, dir: &Path) -> Result<(), Error> {
    for file in disk.list(dir).map_err(|source| failed("reading", dir, source))? {
        let path = dir.join(file);
        disk.remove_file(&path).map_err(|source| failed("removing", &path, source))?;
    }
    disk.remove_dir(dir).map_err(|source| failed("removing", dir, source))
}

impl Store for DiskStore {
    fn kind(&self) -> &'static str {
        "disk"
    }

    fn outlives_process(&self) -> bool {
        true
    }

    fn directory(&self) -> Option<&Path> {
        Some(&self.shared.dir)
    }

    fn create(&self, name: &LogName, options: LogOptions) -> Work<Result<Arc<dyn StoredLog>, Error>> {
        let (shared, name) = (self.shared.clone(), name.clone());
        blocking(move || Ok(shared.create(&name, options)? as Arc<dyn StoredLog>))
    }

    fn open(&self, name: &LogName) -> Work<Result<Arc<dyn StoredLog>, Error>> {
        let (shared, name) = (self.shared.clone(), name.clone());
        blocking(move || Ok(shared.open(&name)? as Arc<dyn StoredLog>))
    }

    fn delete(&self, name: &LogName) -> Work<Result<(), Error>> {
        let (shared, name) = (self.shared.clone(), name.clone());
        blocking(move || shared.delete(&name))
    }

    fn fork(
        &self,
        source: &LogName,
        at: u64,
        name: &LogName,
        options: LogOptions,
    ) -> Work<Result<Arc<dyn StoredLog>, Error>> {
        let (shared, source, name) = (self.shared.clone(), source.clone(), name.clone());
        blocking(move || Ok(shared.fork(&source, at, &name, options)? as Arc<dyn StoredLog>))
    }

    fn names(&self) -> Work<Result<Vec<LogName>, Error>> {
        let shared = self.shared.clone();
        blocking(move || shared.names())
    }

    fn close(&self) -> Work<Result<(), Error>> {
        let shared = self.shared.clone();
        blocking(move || shared.close())
    }
}

impl Drop for DiskStore {
    /// Not an orderly end: remaining handles of a log may still write.
    fn drop(&mut self) {
        self.shared.medium.wake();
    }
}

impl fmt::Debug for DiskStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DiskStore").field("dir", &self.shared.dir).finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn create(self: &Arc<Self>, name: &LogName, options: LogOptions) -> Result<Arc<DiskLog>, Error> {
        let retention = options.retention;
        self.begin(name, |dir| {
            let identity = options.identity.unwrap_or_else(Identity::random);
            let begins_after = options.begins_after;
            Manifest::new(name, options.about, identity, begins_after).save_new(&*self.medium.disk, dir)
        })
        .inspect(|log| log.set_retention(retention))
    }

    fn fork(
        self: &Arc<Self>,
        source: &LogName,
        at: u64,
        name: &LogName,
        options: LogOptions,
    ) -> Result<Arc<DiskLog>, Error> {
        let source = self.open(source)?;
        let retention = options.retention;
        self.begin(name, |dir| fork::copy(&self.medium, &source, at, name, options, dir))
            .inspect(|log| log.set_retention(retention))
    }

    /// Creates a log: fills a temporary folder, and renames it when it is complete.
    fn begin(
        self: &Arc<Self>,
        name: &LogName,
        fill: impl FnOnce(&Path) -> Result<(), Error>,
    ) -> Result<Arc<DiskLog>, Error> {
        let _turn = lock(self.stripe(name));
        self.check_open()?;
        let dir = folder::of(&self.dir, name);
        match self.medium.disk.open(&dir.join(manifest::FILE), false) {
            Ok(_) => return Err(Error::Exists { name: name.clone() }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(failed("opening", &dir, source)),
        }
        let fresh = folder::passing(&self.dir);
        let filled = (|| {
            self.medium.disk.create_dir(&fresh).map_err(|source| failed("creating", &fresh, source))?;
            fill(&fresh)?;
            self.medium.disk.sync_dir(&fresh).map_err(|source| failed("syncing", &fresh, source))?;
            self.medium.disk.rename(&fresh, &dir).map_err(|source| failed("renaming", &fresh, source))
        })();
        if let Err(error) = filled {
            let _ = remove_folder(&*self.medium.disk, &fresh);
            return Err(error);
        }
        let logs = folder::logs(&self.dir);
        self.medium.disk.sync_dir(&logs).map_err(|source| failed("syncing", &logs, source))?;
        self.load(name, dir)
    }

    fn open(self: &Arc<Self>, name: &LogName) -> Result<Arc<DiskLog>, Error> {
        let _turn = lock(self.stripe(name));
        self.check_open()?;
        let held = lock(&self.logs).held.get(name).and_then(Weak::upgrade);
        match held {
            Some(log) => Ok(log),
            None => self.load(name, folder::of(&self.dir, name)),
        }
    }

    /// Opens the log in a folder. The caller holds the lock of the name.
    fn load(self: &Arc<Self>, name: &LogName, dir: PathBuf) -> Result<Arc<DiskLog>, Error> {
        // A folder without a manifest is damaged, not missing.
        if matches!(self.medium.disk.list(&dir), Err(error) if error.kind() == io::ErrorKind::NotFound) {
            return Err(Error::NotFound { name: name.clone() });
        }
        let opened = open::open(&*self.medium.disk, &dir, &self.medium.boot, self.medium.options.check_bytes);
        let opened = opened.map_err(|error| match framed::is_missing(&error) {
            true => {
                let file = dir.join(manifest::FILE);
                open::damaged(file, 0, 0, "the file is missing".into())
            }
            false => error,
        })?;
        if opened.manifest.name != *name {
            let problem = format!("the folder holds the log {}, not {name}", opened.manifest.name);
            return Err(Error::Refused { path: dir, problem });
        }
        let log = DiskLog::new(self.medium.clone(), dir, opened);
        let mut known = lock(&self.logs);
        if known.held.len() >= known.sweep_at {
            known.held.retain(|_, log| log.strong_count() > 0);
            known.sweep_at = 64.max(2 * known.held.len());
        }
        known.held.insert(name.clone(), Arc::downgrade(&log));
        Ok(log)
    }

    fn delete(self: &Arc<Self>, name: &LogName) -> Result<(), Error> {
        let _turn = lock(self.stripe(name));
        self.check_open()?;
        let dir = folder::of(&self.dir, name);
        if matches!(self.medium.disk.list(&dir), Err(error) if error.kind() == io::ErrorKind::NotFound) {
            return Err(Error::NotFound { name: name.clone() });
        }
        let held = lock(&self.logs).held.get(name).and_then(Weak::upgrade);
        // Prevents writes while the folder is removed.
        let writing = held.as_ref().map(|log| log.writer());
        let going = folder::passing(&self.dir);
        self.medium.disk.rename(&dir, &going).map_err(|source| failed("renaming", &dir, source))?;
        drop(writing);
        if let Some(log) = held {
            log.end("it was deleted");
            self.medium.is_deleted(&log);
            lock(&self.logs).held.remove(name);
        }
        self.medium.forget(&dir);
        let logs = folder::logs(&self.dir);
        self.medium.disk.sync_dir(&logs).map_err(|source| failed("syncing", &logs, source))?;
        if let Err(error) = remove_folder(&*self.medium.disk, &going) {
            tracing::warn!(%error, "the files of a deleted log are removed at the next start");
        }
        Ok(())
    }

    fn names(&self) -> Result<Vec<LogName>, Error> {
        self.check_open()?;
        let logs = folder::logs(&self.dir);
        let folders = self.medium.disk.list(&logs).map_err(|source| failed("reading", &logs, source))?;
        let mut names = Vec::with_capacity(folders.len());
        for folder in folders.iter().filter(|name| !folder::is_passing(name)) {
            match Manifest::load(&*self.medium.disk, &logs.join(folder)) {
                Ok(manifest) => names.push(manifest.name),
                // The log was deleted in the meantime.
                Err(error)
                    if framed::is_missing(&error) && self.medium.disk.list(&logs.join(folder)).is_err() => {}
                Err(error) => return Err(error),
            }
        }
        names.sort();
        Ok(names)
    }

    fn close(&self) -> Result<(), Error> {
        if self.medium.begin_close() {
            return Ok(());
        }
        let held: Vec<Arc<DiskLog>> = lock(&self.logs).held.values().filter_map(Weak::upgrade).collect();
        let mut result = Ok(());
        for log in &held {
            let mut writer = log.writer();
            let rested = log.rest(&mut writer);
            drop(writer);
            log.end("its store was closed");
            result = result.and(rested);
        }
        self.medium.end_close();
        *lock(&self.lock) = None;
        result
    }

    fn check_open(&self) -> Result<(), Error> {
        match self.medium.is_closed() {
            true => Err(Error::Closed { why: "its store was closed".into() }),
            false => Ok(()),
        }
    }

    fn stripe(&self, name: &LogName) -> &Mutex<()> {
        let mut hasher = DefaultHasher::new();
        name.hash(&mut hasher);
        &self.stripes[hasher.finish() as usize % STRIPES]
    }
}
