//! Where an acknowledged position is kept between runs.

use std::path::PathBuf;

use relay_proto::pods::EventHash;

#[cfg(feature = "files")]
pub use file::FileCursorStore;

/// Keeps the last acknowledged position of one consumer.
///
/// A store belongs to one filter: positions acknowledged under one filter say nothing about events that another
/// filter would have let through.
pub trait CursorStore: Send {
    /// The position saved last; `None` when there is none yet.
    ///
    /// # Errors
    /// When what is stored cannot be read or trusted. A store never starts anew on its own.
    fn load(&mut self) -> Result<Option<EventHash>, CursorError>;

    /// Saves a position. When this returns, it survives a kill of the process.
    ///
    /// # Errors
    /// When it cannot be written; what was saved before is still there.
    fn save(&mut self, ack: &EventHash) -> Result<(), CursorError>;
}

/// Keeps the position in memory, for tests and for programs that persist it themselves.
#[derive(Debug, Clone, Default)]
pub struct MemoryCursorStore(Option<EventHash>);

impl MemoryCursorStore {
    /// A store that holds `ack`.
    pub fn new(ack: Option<EventHash>) -> Self {
        Self(ack)
    }
}

impl CursorStore for MemoryCursorStore {
    fn load(&mut self) -> Result<Option<EventHash>, CursorError> {
        Ok(self.0.clone())
    }

    fn save(&mut self, ack: &EventHash) -> Result<(), CursorError> {
        self.0 = Some(ack.clone());
        Ok(())
    }
}

/// A cursor that cannot be loaded or saved. Names the file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CursorError {
    /// The operating system refused.
    #[error("cursor file {}: cannot {action}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The file is not a cursor file of a version we read.
    #[error("cursor file {}: {reason}; remove it to start anew", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The file was written under another filter.
    #[error("cursor file {} belongs to the filter {stored:?}, not to {given:?}; use another file, or remove it to start anew", path.display())]
    OtherFilter {
        /// The file.
        path: PathBuf,
        /// The filter it was written under.
        stored: String,
        /// The filter in use now.
        given: String,
    },
    /// Another process uses the file.
    #[error("cursor file {} is in use by another process", path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
}

#[cfg(feature = "files")]
mod file {
    use std::fs::{self, File, TryLockError};
    use std::io::{ErrorKind, Write};
    use std::path::{Path, PathBuf};

    use relay_proto::pods::{EventHash, Filter};
    use serde::{Deserialize, Serialize};

    use super::{CursorError, CursorStore};

    /// Keeps the position in a file: `{"version":1,"hash":..,"filter":..}`.
    ///
    /// Written to `FILE.tmp`, synced, renamed over `FILE`, and the directory synced: a reader finds the old position or
    /// the new one, whole. `FILE.lock` is held while the store lives, so that two processes cannot overwrite each
    /// other; it stays behind, empty, and a killed process frees it.
    #[derive(Debug)]
    pub struct FileCursorStore {
        path: PathBuf,
        filter: String,
        /// Held for its lock.
        _lock: File,
    }

    #[derive(Serialize, Deserialize)]
    struct Content {
        version: u32,
        hash: String,
        filter: String,
    }

    const VERSION: u32 = 1;

    impl FileCursorStore {
        /// Opens a file for a consumer with this filter, and checks what is in it.
        ///
        /// # Errors
        /// When the file is in use, cannot be read, is corrupt, or belongs to another filter.
        pub fn open(path: impl Into<PathBuf>, filter: &Filter) -> Result<Self, CursorError> {
            let path = path.into();
            let io =
                |action| move |path: &Path, source| CursorError::Io { path: path.into(), action, source };
            let lock_path = beside(&path, ".lock");
            let lock = File::options().create(true).truncate(false).write(true).open(&lock_path);
            let lock = lock.map_err(|e| io("open its lock")(&path, e))?;
            match lock.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Err(CursorError::InUse { path }),
                Err(TryLockError::Error(e)) => return Err(io("lock")(&path, e)),
            }
            let mut store = Self { path, filter: filter.to_string(), _lock: lock };
            store.load()?;
            Ok(store)
        }

        fn corrupt(&self, reason: impl Into<String>) -> CursorError {
            CursorError::Corrupt { path: self.path.clone(), reason: reason.into() }
        }

        fn replace(&self, bytes: &[u8]) -> Result<(), (&'static str, std::io::Error)> {
            let temporary = beside(&self.path, ".tmp");
            let mut file = File::create(&temporary).map_err(|e| ("create its temporary file", e))?;
            file.write_all(bytes)
                .and_then(|()| file.sync_all())
                .map_err(|e| ("write its temporary file", e))?;
            fs::rename(&temporary, &self.path).map_err(|e| ("replace it", e))?;
            let directory =
                self.path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
            File::open(directory).and_then(|d| d.sync_all()).map_err(|e| ("sync its directory", e))
        }
    }

    fn beside(path: &Path, suffix: &str) -> PathBuf {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        name.into()
    }

    impl CursorStore for FileCursorStore {
        fn load(&mut self) -> Result<Option<EventHash>, CursorError> {
            let bytes = match fs::read(&self.path) {
                Ok(bytes) => bytes,
                Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
                Err(source) => {
                    return Err(CursorError::Io { path: self.path.clone(), action: "read", source });
                }
            };
            let content: Content = serde_json::from_slice(&bytes)
                .map_err(|e| self.corrupt(format!("not a cursor file: {e}")))?;
            if content.version != VERSION {
                return Err(self.corrupt(format!("version {} is not {VERSION}", content.version)));
            }
            if content.filter != self.filter {
                let (stored, given) = (content.filter, self.filter.clone());
                return Err(CursorError::OtherFilter { path: self.path.clone(), stored, given });
            }
            EventHash::new(&content.hash).map(Some).map_err(|e| self.corrupt(e.to_string()))
        }

        fn save(&mut self, ack: &EventHash) -> Result<(), CursorError> {
            let content =
                Content { version: VERSION, hash: ack.as_str().into(), filter: self.filter.clone() };
            let mut bytes = serde_json::to_vec(&content).map_err(|e| self.corrupt(e.to_string()))?;
            bytes.push(b'\n');
            self.replace(&bytes).map_err(|(action, source)| CursorError::Io {
                path: self.path.clone(),
                action,
                source,
            })
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        fn hash(text: &str) -> EventHash {
            EventHash::new(text).unwrap()
        }

        #[test]
        fn a_position_survives_reopening() {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("cursor.json");
            let filter = Filter::new().namespace("prod").unwrap();
            let mut store = FileCursorStore::open(&path, &filter).unwrap();
            assert_eq!(store.load().unwrap(), None);
            store.save(&hash("h1")).unwrap();
            store.save(&hash("h2")).unwrap();
            drop(store);
            let content: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
            assert_eq!(content, serde_json::json!({"version": 1, "hash": "h2", "filter": "namespace=prod"}));
            assert_eq!(FileCursorStore::open(&path, &filter).unwrap().load().unwrap(), Some(hash("h2")));
            assert!(!dir.path().join("cursor.json.tmp").exists());
        }

        #[test]
        fn another_filter_is_refused_with_both_names() {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("c");
            let prod = Filter::new().namespace("prod").unwrap();
            FileCursorStore::open(&path, &prod).unwrap().save(&hash("h")).unwrap();
            let error = FileCursorStore::open(&path, &Filter::new().label("app=web").unwrap())
                .unwrap_err()
                .to_string();
            for part in ["namespace=prod", "label=app=web", path.to_str().unwrap()] {
                assert!(error.contains(part), "{error}");
            }
        }

        #[test]
        fn a_file_that_cannot_be_trusted_is_an_error_that_names_it() {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("c");
            for (content, why) in [
                ("", "not a cursor file"),
                ("{\"version\":1,\"hash\":\"h\",\"fil", "not a cursor file"),
                ("{\"version\":2,\"hash\":\"h\",\"filter\":\"\"}", "version 2"),
                ("{\"version\":1,\"hash\":\"\",\"filter\":\"\"}", "visible ASCII"),
            ] {
                fs::write(&path, content).unwrap();
                let error = FileCursorStore::open(&path, &Filter::new()).unwrap_err().to_string();
                assert!(error.contains(why) && error.contains(path.to_str().unwrap()), "{content}: {error}");
                assert_eq!(fs::read_to_string(&path).unwrap(), content, "left as it was");
            }
        }

        #[test]
        fn two_users_of_one_file_are_told() {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("c");
            let first = FileCursorStore::open(&path, &Filter::new()).unwrap();
            assert!(matches!(FileCursorStore::open(&path, &Filter::new()), Err(CursorError::InUse { .. })));
            drop(first);
            assert!(FileCursorStore::open(&path, &Filter::new()).is_ok());
        }

        #[test]
        fn a_save_that_fails_leaves_what_was_there() {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("c");
            let mut store = FileCursorStore::open(&path, &Filter::new()).unwrap();
            store.save(&hash("h1")).unwrap();
            // Nothing can be written under that name, as on a disk that is full or read-only.
            fs::create_dir(dir.path().join("c.tmp")).unwrap();
            let error = store.save(&hash("h2")).unwrap_err().to_string();
            assert!(error.contains("cannot create its temporary file"), "{error}");
            assert_eq!(store.load().unwrap(), Some(hash("h1")));
            fs::remove_dir(dir.path().join("c.tmp")).unwrap();
            store.save(&hash("h2")).unwrap();
            assert_eq!(store.load().unwrap(), Some(hash("h2")));
        }

        #[test]
        fn a_directory_that_is_not_there_is_an_error() {
            let dir = tempfile::tempdir().unwrap();
            let error = FileCursorStore::open(dir.path().join("no/c"), &Filter::new()).unwrap_err();
            assert!(error.to_string().contains("cannot open its lock"), "{error}");
        }
    }
}
