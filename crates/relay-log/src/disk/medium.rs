//! Resources shared by the logs of a store: the disk, open files, and the scheduling of writes and syncs.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use crate::buffers::Buffers;

use super::files::{Disk, DiskFile};
use super::manifest::State;
use super::options::{DiskOptions, Fsync};

/// Files that are kept open for readers.
const READABLE: usize = 64;

/// Shared by logs of the kind `L`, of which it needs to know nothing.
pub(super) struct Medium<L> {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) options: DiskOptions,
    pub(super) boot: String,
    pub(super) buffers: Arc<Buffers>,
    /// Logs that are being written.
    active: Mutex<Vec<Arc<L>>>,
    writes: AtomicU64,
    readable: Mutex<VecDeque<(PathBuf, Arc<dyn DiskFile>)>>,
    /// Logs with data to sync, and the signal for the sync thread.
    due: Mutex<Vec<Weak<L>>>,
    news: Condvar,
    closed: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<L> Medium<L> {
    pub(super) fn new(disk: Arc<dyn Disk>, options: DiskOptions) -> Self {
        Self {
            boot: disk.boot().unwrap_or_default(),
            disk,
            options,
            buffers: Arc::default(),
            active: Mutex::default(),
            writes: AtomicU64::new(0),
            readable: Mutex::default(),
            due: Mutex::default(),
            news: Condvar::new(),
            closed: AtomicBool::new(false),
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    /// Closes it; returns whether it was closed before.
    pub(super) fn begin_close(&self) -> bool {
        self.closed.swap(true, Ordering::SeqCst)
    }

    /// Releases the resources of its logs.
    pub(super) fn end_close(&self) {
        lock(&self.active).clear();
        lock(&self.readable).clear();
        self.wake();
    }

    /// Lets the thread that syncs look whether it is still needed.
    pub(super) fn wake(&self) {
        self.news.notify_all();
    }

    /// The manifest's state of a log that is being written.
    pub(super) fn written(&self) -> State {
        let synced = self.options.fsync == Fsync::Always;
        State::Written { boot: self.boot.clone(), synced }
    }

    /// A number that grows with each write.
    pub(super) fn tick(&self) -> u64 {
        self.writes.fetch_add(1, Ordering::Relaxed)
    }

    /// Closes the least recently written logs until there is room for one more. `used` tells when one was written
    /// last, by [`Self::tick`]; `rest` puts one to rest if it can.
    pub(super) fn make_room(&self, wants: &Arc<L>, used: impl Fn(&L) -> u64, rest: impl Fn(&Arc<L>) -> bool) {
        let mut active = lock(&self.active);
        let excess = (active.len() + 1).saturating_sub(self.options.active_logs);
        if excess == 0 {
            return;
        }
        active.sort_by_key(|log| used(log));
        let candidates: Vec<Arc<L>> = active.iter().take(excess + 8).cloned().collect();
        drop(active);
        let rested = candidates.into_iter().filter(|log| !Arc::ptr_eq(log, wants) && rest(log));
        let rested: Vec<Arc<L>> = rested.take(excess).collect();
        lock(&self.active).retain(|log| !rested.iter().any(|rested| Arc::ptr_eq(rested, log)));
    }

    pub(super) fn is_active(&self, log: Arc<L>) {
        let mut active = lock(&self.active);
        if !active.iter().any(|other| Arc::ptr_eq(other, &log)) {
            active.push(log);
        }
    }

    pub(super) fn is_deleted(&self, log: &Arc<L>) {
        lock(&self.active).retain(|active| !Arc::ptr_eq(active, log));
    }

    /// A file open for reading; recently used ones are kept open.
    pub(super) fn readable(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let mut readable = lock(&self.readable);
        if let Some(at) = readable.iter().position(|(held, _)| held == path)
            && let Some(found) = readable.remove(at)
        {
            let file = found.1.clone();
            readable.push_back(found);
            return Ok(file);
        }
        drop(readable);
        let file = self.disk.open(path, false)?;
        let mut readable = lock(&self.readable);
        readable.push_back((path.to_owned(), file.clone()));
        if readable.len() > READABLE {
            readable.pop_front();
        }
        Ok(file)
    }

    /// Closes the open handles of a file, or of all files of a folder.
    pub(super) fn forget(&self, path: &Path) {
        lock(&self.readable).retain(|(held, _)| !held.starts_with(path));
    }

    /// Asks for a sync of a log before the interval is over.
    pub(super) fn sync_later(&self, log: &Weak<L>) {
        if !matches!(self.options.fsync, Fsync::Interval(_)) {
            return;
        }
        let mut due = lock(&self.due);
        if !due.iter().any(|other| Weak::ptr_eq(other, log)) {
            due.push(log.clone());
            self.news.notify_one();
        }
    }

    /// Syncs what is due, until the store is gone.
    pub(super) fn keep_syncing(medium: &Weak<Self>, interval: Duration, sync: impl Fn(&L)) {
        loop {
            let Some(this) = medium.upgrade() else { return };
            let due = lock(&this.due);
            if due.is_empty() {
                // Wakes up from time to time, because the store may be dropped without a signal.
                let waited = this.news.wait_timeout(due, Duration::from_secs(1));
                drop(waited.map(|(due, _)| due.is_empty()));
                if this.is_closed() {
                    return;
                }
                continue;
            }
            drop(due);
            std::thread::sleep(interval);
            let due = std::mem::take(&mut *lock(&this.due));
            due.iter().filter_map(Weak::upgrade).for_each(|log| sync(&log));
        }
    }
}
