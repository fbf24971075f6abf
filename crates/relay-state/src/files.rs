//! A file that is replaced as a whole and used by one process at a time: for cursors, offsets, sequences and caches.
//!
//! [`LockedFile`] holds bytes and knows nothing of what they mean. Its owner checks what it reads, and calls
//! [`LockedFile::corrupt`] for what it does not trust: nothing here ever starts anew on its own.
//!
//! ```
//! use relay_state::files::LockedFile;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let directory = tempfile::tempdir()?;
//! # let path = directory.path().join("offset");
//! let file = LockedFile::open("offset file", &path)?;
//! assert_eq!(file.read()?, None);
//! file.replace(b"42\n")?;
//! assert_eq!(file.read()?.as_deref(), Some(&b"42\n"[..]));
//! assert!(LockedFile::open("offset file", &path).is_err(), "it is in use");
//! # Ok(())
//! # }
//! ```

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

/// Most bytes that [`LockedFile::read`] takes: 64 MiB.
const MAX_BYTES: u64 = 64 << 20;

/// A small file that this process owns while the value lives.
///
/// [`Self::replace`] writes to `FILE.tmp`, syncs it, renames it over `FILE`, and syncs the directory: a reader finds the
/// old content or the new one, whole. `FILE.lock` is held while the value lives, so that two processes cannot overwrite
/// each other; it stays behind, empty, and a killed process frees it.
#[derive(Debug)]
pub struct LockedFile {
    kind: &'static str,
    path: PathBuf,
    private: bool,
    /// Held for its lock.
    _lock: File,
}

impl LockedFile {
    /// Takes the file; it need not exist yet. `kind` says what it is in errors, such as `cursor file`.
    ///
    /// # Errors
    /// When another process has it, or its lock cannot be created beside it.
    pub fn open(kind: &'static str, path: impl Into<PathBuf>) -> Result<Self, FileError> {
        let path = path.into();
        let io = |action| {
            let path = path.clone();
            move |source| FileError::Io { kind, path, action, source }
        };
        let lock = File::options().create(true).truncate(false).write(true).open(beside(&path, ".lock"));
        let lock = lock.map_err(io("open its lock"))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { kind, path, private: false, _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(FileError::InUse { kind, path }),
            Err(TryLockError::Error(error)) => Err(io("lock")(error)),
        }
    }

    /// Lets only the owner read what is written from now on (mode 0600). Default: what the umask allows.
    #[must_use]
    pub fn private(mut self) -> Self {
        self.private = true;
        self
    }

    /// The file's name as it was given.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The content; `None` when there is no file.
    ///
    /// # Errors
    /// When it cannot be read, or is over 64 MiB.
    pub fn read(&self) -> Result<Option<Vec<u8>>, FileError> {
        let file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(self.io("read", error)),
        };
        let mut bytes = Vec::new();
        file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(|error| self.io("read", error))?;
        if bytes.len() as u64 > MAX_BYTES {
            return Err(self.corrupt("it is over 64 MiB"));
        }
        Ok(Some(bytes))
    }

    /// Replaces the content. When this returns, it survives a kill of the process and a loss of power.
    ///
    /// # Errors
    /// When it cannot be written; what was there before is still there.
    pub fn replace(&self, bytes: &[u8]) -> Result<(), FileError> {
        let temporary = beside(&self.path, ".tmp");
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true);
        #[cfg(unix)]
        if self.private {
            use std::os::unix::fs::OpenOptionsExt;
            options.mode(0o600);
        }
        let mut file =
            options.open(&temporary).map_err(|error| self.io("create its temporary file", error))?;
        self.restrict(&file)
            .and_then(|()| file.write_all(bytes))
            .and_then(|()| file.sync_all())
            .map_err(|error| self.io("write its temporary file", error))?;
        fs::rename(&temporary, &self.path).map_err(|error| self.io("replace it", error))?;
        let directory = self.path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(directory)
            .and_then(|directory| directory.sync_all())
            .map_err(|error| self.io("sync its directory", error))
    }

    /// The error for a content that its owner does not trust. `reason` never quotes a secret.
    pub fn corrupt(&self, reason: impl Into<String>) -> FileError {
        FileError::Corrupt { kind: self.kind, path: self.path.clone(), reason: reason.into() }
    }

    /// A temporary file that was left behind keeps its mode when it is used again.
    #[cfg(unix)]
    fn restrict(&self, file: &File) -> io::Result<()> {
        use std::os::unix::fs::PermissionsExt;
        if !self.private {
            return Ok(());
        }
        file.set_permissions(fs::Permissions::from_mode(0o600))
    }

    #[cfg(not(unix))]
    fn restrict(&self, _: &File) -> io::Result<()> {
        Ok(())
    }

    fn io(&self, action: &'static str, source: io::Error) -> FileError {
        FileError::Io { kind: self.kind, path: self.path.clone(), action, source }
    }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// A file that cannot be used. Names it, and what it is.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// The operating system refused.
    #[error("{kind} {}: cannot {action}", path.display())]
    Io {
        /// What the file is.
        kind: &'static str,
        /// The file.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// The content cannot be trusted.
    #[error("{kind} {}: {reason}; remove it to start anew", path.display())]
    Corrupt {
        /// What the file is.
        kind: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Another process uses the file.
    #[error("{kind} {} is in use by another process", path.display())]
    InUse {
        /// What the file is.
        kind: &'static str,
        /// The file.
        path: PathBuf,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(error: &FileError) -> String {
        let source = std::error::Error::source(error).map(|source| format!(": {source}"));
        format!("{error}{}", source.unwrap_or_default())
    }

    #[test]
    fn a_content_survives_reopening_and_leaves_nothing_beside_it_but_the_lock() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c");
        let file = LockedFile::open("cursor file", &path).unwrap();
        assert_eq!(file.read().unwrap(), None);
        file.replace(b"one").unwrap();
        file.replace(b"two").unwrap();
        drop(file);
        let names: std::collections::BTreeSet<_> =
            fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["c", "c.lock"].map(Into::into).into());
        assert_eq!(LockedFile::open("x", &path).unwrap().read().unwrap(), Some(b"two".to_vec()));
    }

    #[test]
    fn two_users_of_one_file_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c");
        let first = LockedFile::open("cursor file", &path).unwrap();
        let error = LockedFile::open("cursor file", &path).unwrap_err();
        assert_eq!(chain(&error), format!("cursor file {} is in use by another process", path.display()));
        drop(first);
        assert!(LockedFile::open("cursor file", &path).is_ok());
    }

    #[test]
    fn a_write_that_fails_leaves_what_was_there() {
        let dir = tempfile::tempdir().unwrap();
        let file = LockedFile::open("state file", dir.path().join("c")).unwrap();
        file.replace(b"one").unwrap();
        // Nothing can be written under that name, as on a disk that is full or read-only.
        fs::create_dir(dir.path().join("c.tmp")).unwrap();
        let error = chain(&file.replace(b"two").unwrap_err());
        assert!(error.contains("cannot create its temporary file: "), "{error}");
        assert_eq!(file.read().unwrap(), Some(b"one".to_vec()));
        fs::remove_dir(dir.path().join("c.tmp")).unwrap();
        file.replace(b"two").unwrap();
        assert_eq!(file.read().unwrap(), Some(b"two".to_vec()));
    }

    #[test]
    fn a_directory_that_is_not_there_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let error = chain(&LockedFile::open("cursor file", dir.path().join("no/c")).unwrap_err());
        assert!(error.contains("cannot open its lock: "), "{error}");
    }

    #[test]
    fn a_file_without_a_bound_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c");
        let file = LockedFile::open("cursor file", &path).unwrap();
        File::create(&path).unwrap().set_len(MAX_BYTES + 1).unwrap();
        assert!(chain(&file.read().unwrap_err()).contains("over 64 MiB"));
    }

    #[cfg(unix)]
    #[test]
    fn a_private_file_is_its_owners() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c");
        fs::write(dir.path().join("c.tmp"), "left behind").unwrap();
        let file = LockedFile::open("cache", &path).unwrap().private();
        file.replace(b"secret").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
