//! Cursor stores: the acknowledged position, kept between runs.

use std::path::PathBuf;

use relay_proto::pods::EventHash;

#[cfg(feature = "files")]
use crate::files::FileError;

#[cfg(feature = "files")]
pub use file::FileCursorStore;

/// Keeps the last acknowledged position of one consumer.
///
/// A store belongs to one filter: a position acknowledged with one filter says nothing about events that another
/// filter lets through.
pub trait CursorStore: Send {
    /// The position saved last; `None` when there is none yet.
    ///
    /// # Errors
    /// When the stored position cannot be read or is invalid. A store never starts from the beginning by itself.
    fn load(&mut self) -> Result<Option<EventHash>, CursorError>;

    /// Saves a position. When this returns, it survives a kill of the process.
    ///
    /// # Errors
    /// When it cannot be written; the position saved before is kept.
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
    /// The file cannot be used, or is not a cursor file of a version we read.
    #[cfg(feature = "files")]
    #[error(transparent)]
    File(#[from] FileError),
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
}

#[cfg(feature = "files")]
mod file {
    use std::path::PathBuf;

    use relay_proto::pods::{EventHash, Filter};
    use serde::{Deserialize, Serialize};

    use super::{CursorError, CursorStore};
    use crate::files::LockedFile;

    /// Keeps the position in a file: `{"version":1,"hash":..,"filter":..}`. See [`LockedFile`] for how it is written.
    #[derive(Debug)]
    pub struct FileCursorStore {
        file: LockedFile,
        filter: String,
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
            let file = LockedFile::open("cursor file", path)?;
            let mut store = Self { file, filter: filter.to_string() };
            store.load()?;
            Ok(store)
        }
    }

    impl CursorStore for FileCursorStore {
        fn load(&mut self) -> Result<Option<EventHash>, CursorError> {
            let Some(bytes) = self.file.read()? else { return Ok(None) };
            let corrupt = |reason| Err(self.file.corrupt(reason).into());
            let content: Content = match serde_json::from_slice(&bytes) {
                Ok(content) => content,
                Err(error) => return corrupt(format!("not a cursor file: {error}")),
            };
            if content.version != VERSION {
                return corrupt(format!("version {} is not {VERSION}", content.version));
            }
            if content.filter != self.filter {
                let (stored, given) = (content.filter, self.filter.clone());
                return Err(CursorError::OtherFilter { path: self.file.path().into(), stored, given });
            }
            EventHash::new(&content.hash).map(Some).or_else(|error| corrupt(error.to_string()))
        }

        fn save(&mut self, ack: &EventHash) -> Result<(), CursorError> {
            let content =
                Content { version: VERSION, hash: ack.as_str().into(), filter: self.filter.clone() };
            let mut bytes = serde_json::to_vec(&content).expect("texts and a number are JSON");
            bytes.push(b'\n');
            Ok(self.file.replace(&bytes)?)
        }
    }

    #[cfg(test)]
    mod tests {
        use std::fs;

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
    }
}
