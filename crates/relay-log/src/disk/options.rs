//! Options of the disk store.

use std::time::Duration;

/// When appended entries are synced, so that they survive a power loss or a crash of the operating system.
///
/// With each policy an announced entry survives the end of the process, `kill -9` included. Costs and possible
/// losses are in `docs/log-format.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Fsync {
    /// Before it is announced: no announced entry is ever lost. Concurrent appends share one sync.
    #[default]
    Always,
    /// At most this long after it was announced (plus the time of a sync). A power loss may lose newer entries; the
    /// log then has a new epoch.
    Interval(Duration),
    /// When the operating system decides. A power loss may lose everything outside full segments; the log then has
    /// a new epoch.
    Never,
}

/// Settings of a [`DiskStore`](crate::DiskStore).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct DiskOptions {
    /// When entries are synced. Default [`Fsync::Always`].
    pub fsync: Fsync,
    /// Bytes after which a segment is full and the next one begins. Only whole segments are ever dropped, so that a
    /// trimmed log takes up to this much more space. Default 64 MiB, at least 1 KiB, at most 1 GiB.
    pub segment_bytes: u64,
    /// Bytes of the newest entries that are kept in memory for each log that is being written, so that readers at the
    /// head need no disk. Default 1 MiB.
    pub cache_bytes: u64,
    /// Logs that are being written at the same time, each with an open file. The least recently written one is
    /// closed to make room. Default 256.
    pub active_logs: usize,
    /// A log of at most this many bytes is checked as a whole when it is opened; of a larger one, the newest
    /// segment. Other segments are checked when they are read. Default 64 MiB.
    pub check_bytes: u64,
}

impl Default for DiskOptions {
    fn default() -> Self {
        Self {
            fsync: Fsync::Always,
            segment_bytes: 64 << 20,
            cache_bytes: 1 << 20,
            active_logs: 256,
            check_bytes: 64 << 20,
        }
    }
}

impl DiskOptions {
    /// Sets when entries are synced.
    #[must_use]
    pub fn fsync(mut self, fsync: Fsync) -> Self {
        self.fsync = fsync;
        self
    }

    /// Sets the size of a segment, in bytes.
    #[must_use]
    pub fn segment_bytes(mut self, bytes: u64) -> Self {
        self.segment_bytes = bytes.clamp(1 << 10, 1 << 30);
        self
    }

    /// Sets what is kept in memory for each log that is being written, in bytes.
    #[must_use]
    pub fn cache_bytes(mut self, bytes: u64) -> Self {
        self.cache_bytes = bytes;
        self
    }

    /// Sets how many logs are being written at the same time.
    #[must_use]
    pub fn active_logs(mut self, logs: usize) -> Self {
        self.active_logs = logs.max(1);
        self
    }

    /// Sets up to which size a log is compared with its checksums when it is opened, in bytes.
    #[must_use]
    pub fn check_bytes(mut self, bytes: u64) -> Self {
        self.check_bytes = bytes;
        self
    }
}
