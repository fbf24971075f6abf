//! Access control: the keys that subscribers may use.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

use relay_proto::autoconfig::AutoConfigKey;

/// Which keys are accepted, in an `Authorization` header without a scheme.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub enum Keys {
    /// Any key or none is accepted. For a loopback address only.
    #[default]
    Anyone,
    /// One key.
    Fixed(AutoConfigKey),
    /// The keys in a file, one per line. The file is read again when it changes. White space around keys and empty
    /// lines are ignored.
    File(PathBuf),
}

/// The file with the keys cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AccessError {
    /// It cannot be read.
    #[error("key file {} cannot be read", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It contains no key, so every subscriber would be refused.
    #[error("key file {} holds no key", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
}

/// The accepted keys.
#[derive(Debug)]
pub(crate) struct Access {
    file: Option<PathBuf>,
    /// `None`: any key or none.
    keys: RwLock<Option<Vec<AutoConfigKey>>>,
}

impl Access {
    pub(crate) fn new(keys: Keys) -> Result<Self, AccessError> {
        Ok(match keys {
            Keys::Anyone => Self { file: None, keys: RwLock::new(None) },
            Keys::Fixed(key) => Self { file: None, keys: RwLock::new(Some(vec![key])) },
            Keys::File(path) => {
                let keys = read(&path)?;
                Self { file: Some(path), keys: RwLock::new(Some(keys)) }
            }
        })
    }

    /// Reads the file again, if there is one. When that fails, the last keys remain valid.
    pub(crate) fn refresh(&self) -> Result<(), AccessError> {
        if let Some(file) = &self.file {
            // A pipe can be read at the start, but not again.
            let metadata = std::fs::metadata(file);
            if let Ok(metadata) = metadata
                && !metadata.is_file()
            {
                let source = std::io::Error::other("not a regular file");
                return Err(AccessError::Io { path: file.clone(), source });
            }
            let keys = read(file)?;
            *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Some(keys);
        }
        Ok(())
    }

    /// Whether the header has an accepted key. Compares with all keys, each in constant time.
    pub(crate) fn accepts(&self, authorization: Option<&[u8]>) -> bool {
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        let Some(keys) = &*keys else { return true };
        let Some(shown) = authorization.and_then(|bytes| std::str::from_utf8(bytes.trim_ascii()).ok()) else {
            return false;
        };
        keys.iter().fold(false, |found, key| found | key.is(shown))
    }
}

/// The largest file with keys that is read, in bytes.
const LARGEST: u64 = 1 << 20;

fn read(path: &Path) -> Result<Vec<AutoConfigKey>, AccessError> {
    let io = |source| AccessError::Io { path: path.to_owned(), source };
    let mut text = String::new();
    let mut file = std::fs::File::open(path).map_err(io)?.take(LARGEST + 1);
    file.read_to_string(&mut text).map_err(io)?;
    if text.len() as u64 > LARGEST {
        return Err(io(std::io::Error::other("it is larger than 1 MiB")));
    }
    let keys: Vec<_> =
        text.lines().map(str::trim).filter(|line| !line.is_empty()).map(AutoConfigKey::from).collect();
    if keys.is_empty() { Err(AccessError::Empty { path: path.to_owned() }) } else { Ok(keys) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_a_file_come_and_go_and_a_broken_file_changes_nothing() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let write = |text: &str| std::fs::write(file.path(), text).unwrap();
        write("one\n\n  two \r\n");
        let access = Access::new(Keys::File(file.path().to_owned())).unwrap();
        assert!(access.accepts(Some(b"one")) && access.accepts(Some(b" two")));
        for wrong in
            [None, Some(&b""[..]), Some(b"on"), Some(b"one\n\n  two"), Some(b"Bearer one"), Some(b"\xff")]
        {
            assert!(!access.accepts(wrong), "{wrong:?}");
        }
        write("\n\n");
        assert!(access.refresh().is_err() && access.accepts(Some(b"one")));
        write(&"k".repeat(LARGEST as usize + 1));
        assert!(access.refresh().is_err() && access.accepts(Some(b"one")));
        write("three");
        access.refresh().unwrap();
        assert!(!access.accepts(Some(b"one")) && access.accepts(Some(b"three")));
        assert!(Access::new(Keys::Anyone).unwrap().accepts(None));
        assert!(!Access::new(Keys::Fixed("k".into())).unwrap().accepts(None));
        assert!(Access::new(Keys::File("/nowhere/keys".into())).is_err());
    }
}
