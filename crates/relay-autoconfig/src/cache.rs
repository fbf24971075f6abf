//! The last good configuration, for when the service is away at the start.

use std::error::Error;
use std::path::PathBuf;

use relay_state::environments::decode_saved;
use relay_state::files::{FileError, LockedFile};

use crate::events::{service, shown};

/// Keeps one text, which holds keys. It is called between messages, and nothing else happens meanwhile.
pub trait Cache: Send {
    /// The text that was stored last; `None` when there is none.
    ///
    /// # Errors
    /// It cannot be read: the program goes on without a cache, and nothing is stored.
    fn load(&mut self) -> Result<Option<String>, Box<dyn Error + Send + Sync>>;

    /// Replaces it, all or nothing.
    ///
    /// # Errors
    /// It cannot be stored: what was stored before is still there, and the next change is stored again.
    fn store(&mut self, text: &str) -> Result<(), Box<dyn Error + Send + Sync>>;

    /// What to call it in a warning.
    fn name(&self) -> String;
}

/// A file (mode 0600), replaced by a temporary one each time. No other process has it meanwhile.
#[derive(Debug)]
pub struct FileCache {
    file: LockedFile,
}

impl FileCache {
    /// Takes the file; it need not exist yet.
    ///
    /// # Errors
    /// When another process has it, or its lock cannot be created beside it.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, FileError> {
        Ok(Self { file: LockedFile::open("cache file", path)?.private() })
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
        let bytes = self.file.read()?;
        let text =
            bytes.map(|bytes| String::from_utf8(bytes).map_err(|_| self.file.corrupt("it is not text")));
        Ok(text.transpose()?)
    }

    fn store(&mut self, text: &str) -> Result<(), Box<dyn Error + Send + Sync>> {
        Ok(self.file.replace(text.as_bytes())?)
    }

    fn name(&self) -> String {
        format!("cache file {}", self.file.path().display())
    }
}
