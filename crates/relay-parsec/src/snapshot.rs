//! Storing sequences.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::Path;

use relay_state::files::{FileError, LockedFile};
use serde_json::Value;

/// Stores the last sequence of each channel. `save` must not return before they would survive a kill.
pub trait SequenceSnapshotter: Send + Sync + 'static {
    /// The map that was saved last; empty if none was.
    ///
    /// # Errors
    /// When it cannot be read or is invalid. Then nothing may be published, because sequences would be used twice.
    fn load(&self) -> Result<BTreeMap<String, i64>, SnapshotError>;

    /// Replaces the saved map.
    ///
    /// # Errors
    /// When it cannot be saved.
    fn save(&self, snapshot: &BTreeMap<String, i64>) -> Result<(), SnapshotError>;
}

/// The sequences cannot be stored, or are invalid.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
#[non_exhaustive]
pub struct SnapshotError {
    /// The failed operation, and its file.
    pub what: String,
    /// The cause, if there is one.
    pub source: Option<io::Error>,
}

impl SnapshotError {
    /// An error with this text.
    pub fn new(what: impl Into<String>, source: impl Into<Option<io::Error>>) -> Self {
        Self { what: what.into(), source: source.into() }
    }
}

impl From<FileError> for SnapshotError {
    fn from(error: FileError) -> Self {
        let what = error.to_string();
        match error {
            FileError::Io { source, .. } => Self::new(what, source),
            _ => Self::new(what, None),
        }
    }
}

/// The place where a [`FileSnapshotter`] reads and writes.
pub trait FileIo: Send + Sync + 'static {
    /// Names the place in errors.
    fn place(&self) -> String;

    /// The content; `None` when there is none.
    ///
    /// # Errors
    /// When it cannot be read.
    fn read(&self) -> Result<Option<Vec<u8>>, SnapshotError>;

    /// Replaces the content, completely or not at all.
    ///
    /// # Errors
    /// When it cannot be written.
    fn replace(&self, content: &[u8]) -> Result<(), SnapshotError>;
}

impl FileIo for LockedFile {
    fn place(&self) -> String {
        format!("sequence file {}", self.path().display())
    }

    fn read(&self) -> Result<Option<Vec<u8>>, SnapshotError> {
        Ok(LockedFile::read(self)?)
    }

    fn replace(&self, content: &[u8]) -> Result<(), SnapshotError> {
        Ok(LockedFile::replace(self, content)?)
    }
}

/// Stores the sequences as one JSON object, from channel to sequence: `{"public:a.b.c":5}`.
///
/// The file is replaced atomically and synced, has mode 0600, and is locked while the value lives. Other content than
/// such an object is an error, and is not overwritten.
pub struct FileSnapshotter {
    io: Box<dyn FileIo>,
}

impl FileSnapshotter {
    /// Stores them in a file, which need not exist yet.
    ///
    /// # Errors
    /// When another process uses the file, or its lock cannot be created.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, SnapshotError> {
        let file = LockedFile::open("sequence file", path.as_ref())?.private();
        Ok(Self::with_io(file))
    }

    /// Stores them elsewhere.
    pub fn with_io(io: impl FileIo) -> Self {
        Self { io: Box::new(io) }
    }
}

impl fmt::Debug for FileSnapshotter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("FileSnapshotter").field(&self.io.place()).finish()
    }
}

impl SequenceSnapshotter for FileSnapshotter {
    fn load(&self) -> Result<BTreeMap<String, i64>, SnapshotError> {
        let wrong = |rule: String| SnapshotError::new(format!("{}: {rule}", self.io.place()), None);
        let Some(content) = self.io.read()? else { return Ok(BTreeMap::new()) };
        let content: Value = serde_json::from_slice(&content)
            .map_err(|error| wrong(format!("it is not JSON ({error}); it is left as it is: put back a copy, or take another file and another producer id")))?;
        let Value::Object(counts) = content else {
            return Err(wrong("it is not an object of channels and numbers; it is left as it is: put back a copy, or take another file and another producer id".into()));
        };
        let count = |(channel, value): (String, Value)| match value.as_i64() {
            Some(count) if count >= 0 => Ok((channel, count)),
            _ => {
                let rule = "is no whole number from 0 to 2^63 - 1; it is left as it is: put back a copy, or take another file and another producer id";
                Err(wrong(format!("the value of {channel:?} {rule}")))
            }
        };
        counts.into_iter().map(count).collect()
    }

    fn save(&self, snapshot: &BTreeMap<String, i64>) -> Result<(), SnapshotError> {
        let content = serde_json::to_vec(snapshot)
            .map_err(|error| SnapshotError::new(format!("{}: {error}", self.io.place()), None))?;
        self.io.replace(&content)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_saved_is_loaded_and_what_is_damaged_is_left() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("sequences");
        let snapshotter = FileSnapshotter::open(&path).unwrap();
        assert!(snapshotter.load().unwrap().is_empty());
        let counts = BTreeMap::from([("public:a.b.c".to_owned(), 5), ("public:x.y".to_owned(), 0)]);
        snapshotter.save(&counts).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), r#"{"public:a.b.c":5,"public:x.y":0}"#);
        assert_eq!(snapshotter.load().unwrap(), counts);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        }
        let error = FileSnapshotter::open(&path).unwrap_err().to_string();
        assert!(error.contains("in use") && error.contains("sequences"), "{error}");
        for (damaged, word) in [
            ("", "not JSON"),
            ("[]", "not an object"),
            ("{\"a\":1.5}", "\"a\""),
            ("{\"a\":-1}", "\"a\""),
            ("{\"a\":\"1\"}", "\"a\""),
            ("{\"a\":9223372036854775808}", "\"a\""),
            ("{\"a\":1", "not JSON"),
        ] {
            std::fs::write(&path, damaged).unwrap();
            let error = snapshotter.load().unwrap_err().to_string();
            assert!(error.contains(word) && error.contains(path.to_str().unwrap()), "{error}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), damaged);
        }
    }
}
