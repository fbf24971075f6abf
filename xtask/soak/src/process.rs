//! Processes of the real binary, and the folders of their files.

use std::path::PathBuf;
use std::process::Child;
use std::time::SystemTime;

use anyhow::{Context, Result};

/// A folder that is removed when this is dropped.
pub(crate) struct Directory(pub(crate) PathBuf);

impl Directory {
    pub(crate) fn new(of: &str) -> Result<Self> {
        let nanos = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_nanos();
        let folder = std::env::temp_dir().join(format!("relay-soak-{of}-{}-{nanos}", std::process::id()));
        std::fs::create_dir(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        Ok(Self(folder))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // If it cannot be removed, a temporary folder is left behind.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A process that is killed when this is dropped.
pub(crate) struct Process(pub(crate) Child);

impl Process {
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.0.kill()?;
        self.0.wait()?;
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.kill();
    }
}
