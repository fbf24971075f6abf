//! A real disk that is full or read-only: a file system of a few KiB in memory.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Unmounted when this is dropped.
pub(crate) struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// `None`, with a line that says so, if this process may not mount.
    #[allow(clippy::print_stderr, reason = "a test that is skipped says so")]
    pub(crate) fn mount() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mount =
            Command::new("mount").args(["-t", "tmpfs", "-o", "size=64k", "tmpfs"]).arg(dir.path()).output();
        if mount.is_ok_and(|mount| mount.status.success()) {
            return Some(Self(dir));
        }
        eprintln!("SKIPPED: a full disk needs the right to mount");
        None
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn fill(&self) {
        let mut file = std::fs::File::create(self.path("filler")).unwrap();
        while file.write_all(&[0; 512]).is_ok() {}
    }

    pub(crate) fn free(&self) {
        std::fs::remove_file(self.path("filler")).unwrap();
    }

    /// No file on it may be open for writing.
    pub(crate) fn writable(&self, writable: bool) {
        remount(self.0.path(), if writable { "remount,rw" } else { "remount,ro" });
    }
}

fn remount(path: &Path, how: &str) {
    assert!(Command::new("mount").args(["-o", how]).arg(path).status().unwrap().success());
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}
