//! The last good configuration, for when the service is away at the start.

use std::error::Error;
use std::io::{ErrorKind, Read};
use std::path::PathBuf;

use relay_state::environments::decode_saved;
use relay_state::files::{FileError, LockedFile};

use crate::service::{service, shown};

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

/// Most bytes of a cache file that is only read: 64 MiB.
const LARGEST: u64 = 64 << 20;

/// A file (mode 0600), replaced by a temporary one each time. No other process has it meanwhile.
#[derive(Debug)]
pub struct FileCache {
    file: Kept,
}

#[derive(Debug)]
enum Kept {
    Up(LockedFile),
    /// Nothing is stored.
    AsItIs(PathBuf),
}

impl FileCache {
    /// Takes the file; it need not exist yet.
    ///
    /// # Errors
    /// When another process has it, or it could not be replaced: the disk is full or read-only, say.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, FileError> {
        Ok(Self { file: Kept::Up(LockedFile::open("cache file", path)?.private()) })
    }

    /// Reads the file and never writes it: for when [`open`](Self::open) finds a disk that takes nothing. What was
    /// good last is worth more than a file that is up to date.
    pub fn read_only(path: impl Into<PathBuf>) -> Self {
        Self { file: Kept::AsItIs(path.into()) }
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
            Kept::Up(file) => file.read()?,
            Kept::AsItIs(path) => match std::fs::File::open(path) {
                Ok(file) => {
                    let mut bytes = Vec::new();
                    file.take(LARGEST + 1).read_to_end(&mut bytes)?;
                    if bytes.len() as u64 > LARGEST {
                        return Err("it is over 64 MiB".into());
                    }
                    Some(bytes)
                }
                Err(error) if error.kind() == ErrorKind::NotFound => None,
                Err(error) => return Err(error.into()),
            },
        };
        let text = bytes.map(|bytes| String::from_utf8(bytes).map_err(|_| "it is not text"));
        Ok(text.transpose()?)
    }

    fn store(&mut self, text: &str) -> Result<(), Box<dyn Error + Send + Sync>> {
        match &self.file {
            Kept::Up(file) => Ok(file.replace(text.as_bytes())?),
            Kept::AsItIs(_) => Ok(()),
        }
    }

    fn name(&self) -> String {
        let path = match &self.file {
            Kept::Up(file) => file.path(),
            Kept::AsItIs(path) => path,
        };
        format!("cache file {}", path.display())
    }
}
