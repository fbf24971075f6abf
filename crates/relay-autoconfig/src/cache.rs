//! Caches of the last good configuration, for a start while the service is unavailable.

use std::error::Error;
use std::path::PathBuf;

use relay_state::environments::decode_saved;
use relay_state::files::{self, FileError, LockedFile};

use crate::service::{service, shown};

/// Stores one text, which contains keys. Calls are made between messages; the next message waits for them.
pub trait Cache: Send {
    /// The stored text; `None` when there is none.
    ///
    /// # Errors
    /// When it cannot be read: the client then continues without a cache, and stores nothing.
    fn load(&mut self) -> Result<Option<String>, Box<dyn Error + Send + Sync>>;

    /// Replaces the text atomically.
    ///
    /// # Errors
    /// When it cannot be stored: the former text stays, and the next change is stored again.
    fn store(&mut self, text: &str) -> Result<(), Box<dyn Error + Send + Sync>>;

    /// Its name in warnings.
    fn name(&self) -> String;
}

/// What the file is, in errors.
const KIND: &str = "cache file";

/// A file (mode 0600) that is replaced atomically and locked.
#[derive(Debug)]
pub struct FileCache {
    file: Backend,
}

#[derive(Debug)]
enum Backend {
    Locked(LockedFile),
    /// Nothing is stored.
    ReadOnly(PathBuf),
}

impl FileCache {
    /// Opens the file, which need not exist yet.
    ///
    /// # Errors
    /// When another process has it, or it cannot be replaced, for example on a full or read-only disk.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, FileError> {
        Ok(Self { file: Backend::Locked(LockedFile::open(KIND, path)?.private()) })
    }

    /// Reads the file and never writes it: for a disk on which [`open`](Self::open) fails. An old configuration is
    /// better than none.
    pub fn read_only(path: impl Into<PathBuf>) -> Self {
        Self { file: Backend::ReadOnly(path.into()) }
    }

    /// The other service, without its query, that the file belongs to, if it can be read and is not for the one at
    /// `url`.
    pub fn other_service(&mut self, url: &str) -> Option<String> {
        let text = self.load().ok()??;
        let (source, _) = decode_saved(&text).ok()?;
        (source != service(url)).then(|| shown(&source).to_owned())
    }
}

impl Cache for FileCache {
    fn load(&mut self) -> Result<Option<String>, Box<dyn Error + Send + Sync>> {
        let bytes = match &self.file {
            Backend::Locked(file) => file.read()?,
            Backend::ReadOnly(path) => files::read(KIND, path)?,
        };
        let text = bytes.map(|bytes| String::from_utf8(bytes).map_err(|_| "it is not text"));
        Ok(text.transpose()?)
    }

    fn store(&mut self, text: &str) -> Result<(), Box<dyn Error + Send + Sync>> {
        match &self.file {
            Backend::Locked(file) => Ok(file.replace(text.as_bytes())?),
            Backend::ReadOnly(_) => Ok(()),
        }
    }

    fn name(&self) -> String {
        let path = match &self.file {
            Backend::Locked(file) => file.path(),
            Backend::ReadOnly(path) => path,
        };
        format!("{KIND} {}", path.display())
    }
}
