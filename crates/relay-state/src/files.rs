//! A file that is replaced atomically and locked by one process: for cursors, offsets, sequences and caches.
//!
//! [`LockedFile`] holds bytes and does not interpret them. Its owner checks the content, and calls
//! [`LockedFile::corrupt`] for invalid content. An invalid file is never replaced by an empty one without the
//! owner.
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
use std::sync::{Mutex, PoisonError};

use relay_proto::mark::without_mark;

/// Size limit of [`LockedFile::read`] and [`read`]: 64 MiB.
const MAX_BYTES: u64 = 64 << 20;

/// Limit of symbolic links to a file that does not exist yet.
const MAX_LINKS: usize = 40;

/// A small file that this process owns while the value lives.
///
/// [`Self::replace`] writes to `FILE.tmp`, syncs it, renames it over `FILE`, and syncs the directory: a reader
/// finds the old content or the new one, whole. `FILE.lock` is held while the value lives, so that two processes
/// cannot overwrite each other; it stays behind, empty, and a killed process frees it. If it was removed, the next
/// [`Self::replace`] creates and locks it again; if another process was faster, that is an error, and nothing is
/// replaced.
///
/// Symbolic links are followed once, when the file is opened: their target is locked and replaced, so that two
/// names of one file share one lock. A link that points elsewhere later is an error, because another process may
/// own that file. A file that is mounted by itself cannot be replaced. This, like a disk that is full or read-only,
/// is found when the file is opened, because opening writes the content once more.
#[derive(Debug)]
pub struct LockedFile {
    kind: &'static str,
    /// The path as given.
    path: PathBuf,
    /// The target of the path, with links resolved.
    target: PathBuf,
    private: bool,
    /// The open lock file.
    lock: Mutex<File>,
}

impl LockedFile {
    /// Opens and locks the file, which need not exist yet. `kind` names it in errors, such as `cursor file`.
    ///
    /// # Errors
    /// When another process has it, or it cannot be replaced. Then no files are left behind.
    pub fn open(kind: &'static str, path: impl Into<PathBuf>) -> Result<Self, FileError> {
        let path = path.into();
        let io = |action| {
            let path = path.clone();
            move |source| FileError::Io { kind, path, action, source }
        };
        let target = resolve(&path).map_err(io("find where it is to be"))?;
        if fs::metadata(&target).is_ok_and(|known| !known.is_file()) {
            // Devices are refused, because they would be replaced like files.
            return Err(io("read")(io::Error::new(ErrorKind::InvalidInput, "it is not a regular file")));
        }
        let beside_it = beside(&target, ".lock");
        let is_new = !beside_it.exists();
        let lock = match take_lock(&beside_it) {
            Ok(Some(lock)) => lock,
            Ok(None) => return Err(FileError::InUse { kind, path }),
            Err(error) => return Err(io("lock it")(error)),
        };
        let file = Self { kind, path, target, private: false, lock: Mutex::new(lock) };
        file.rehearse().inspect_err(|_| {
            if is_new {
                let _ = fs::remove_file(&beside_it);
            }
        })?;
        Ok(file)
    }

    /// Makes the file readable by its owner only from the next write on (mode 0600). Default: by the umask.
    #[must_use]
    pub fn private(mut self) -> Self {
        self.private = true;
        self
    }

    /// The file's name as it was given.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The content; `None` when there is no file. A byte order mark at its start is removed.
    ///
    /// # Errors
    /// When it cannot be read, or is over 64 MiB.
    pub fn read(&self) -> Result<Option<Vec<u8>>, FileError> {
        Ok(self.bytes()?.map(text_of))
    }

    fn bytes(&self) -> Result<Option<Vec<u8>>, FileError> {
        bytes_of(self.kind, &self.path, &self.target)
    }

    /// Replaces the content. When this returns, it survives a kill of the process and a loss of power.
    ///
    /// # Errors
    /// When it cannot be written; the old content is kept.
    pub fn replace(&self, bytes: &[u8]) -> Result<(), FileError> {
        match resolve(&self.path) {
            Ok(target) if target == self.target => {
                self.still_locked()?;
                self.put(bytes)
            }
            Ok(_) => Err(self.io("replace it", io::Error::other("it is a link that leads elsewhere by now"))),
            Err(error) => Err(self.io("find it again", error)),
        }
    }

    /// Checks that the held lock file is still the one at its path.
    fn still_locked(&self) -> Result<(), FileError> {
        let beside_it = beside(&self.target, ".lock");
        let mut lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        if is_at(&lock, &beside_it).map_err(|error| self.io("look at its lock", error))? {
            return Ok(());
        }
        match take_lock(&beside_it) {
            Ok(Some(taken)) => *lock = taken,
            Ok(None) => return Err(FileError::InUse { kind: self.kind, path: self.path.clone() }),
            Err(error) => return Err(self.io("lock it again", error)),
        }
        Ok(())
    }

    /// Makes all steps of [`Self::replace`] with the present content.
    fn rehearse(&self) -> Result<(), FileError> {
        match self.bytes()? {
            Some(bytes) => self.put(&bytes),
            None => {
                self.temporary()?;
                let temporary = beside(&self.target, ".tmp");
                fs::remove_file(temporary).map_err(|error| self.io("remove its temporary file", error))
            }
        }
    }

    fn put(&self, bytes: &[u8]) -> Result<(), FileError> {
        let temporary = beside(&self.target, ".tmp");
        let written = self.temporary().and_then(|mut file| {
            let written = file.write_all(bytes).and_then(|()| file.sync_all());
            written.map_err(|error| self.io("write its temporary file", error))
        });
        let renamed = written
            .and_then(|()| fs::rename(&temporary, &self.target).map_err(|error| self.not_replaced(error)));
        renamed.inspect_err(|_| {
            let _ = fs::remove_file(&temporary);
        })?;
        File::open(directory_of(&self.target))
            .and_then(|directory| directory.sync_all())
            .map_err(|error| self.io("sync its directory", error))
    }

    /// Creates the empty temporary file, with the mode of the present file or of a private one.
    fn temporary(&self) -> Result<File, FileError> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true);
        #[cfg(unix)]
        {
            use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
            let held = fs::metadata(&self.target).ok().map(|data| data.permissions().mode() & 0o777);
            let mode = if self.private { Some(0o600) } else { held };
            if let Some(mode) = mode {
                options.mode(mode & 0o600);
                return options
                    .open(beside(&self.target, ".tmp"))
                    .and_then(|file| file.set_permissions(fs::Permissions::from_mode(mode)).map(|()| file))
                    .map_err(|error| self.io("create its temporary file", error));
            }
        }
        options
            .open(beside(&self.target, ".tmp"))
            .map_err(|error| self.io("create its temporary file", error))
    }

    fn not_replaced(&self, source: io::Error) -> FileError {
        if matches!(source.kind(), ErrorKind::ResourceBusy | ErrorKind::CrossesDevices) {
            return FileError::Mounted { kind: self.kind, path: self.path.clone(), source };
        }
        self.io("replace it", source)
    }

    /// The error for content that its owner finds invalid. `reason` never quotes a secret.
    pub fn corrupt(&self, reason: impl Into<String>) -> FileError {
        FileError::Corrupt { kind: self.kind, path: self.path.clone(), reason: reason.into() }
    }

    fn io(&self, action: &'static str, source: io::Error) -> FileError {
        FileError::Io { kind: self.kind, path: self.path.clone(), action, source }
    }
}

/// Reads a file as [`LockedFile::read`] does, without a lock: for a file that is never written.
///
/// # Errors
/// When it cannot be read, or is over 64 MiB.
pub fn read(kind: &'static str, path: &Path) -> Result<Option<Vec<u8>>, FileError> {
    Ok(bytes_of(kind, path, path)?.map(text_of))
}

/// The bytes of `target`, which errors call `path`.
fn bytes_of(kind: &'static str, path: &Path, target: &Path) -> Result<Option<Vec<u8>>, FileError> {
    let unreadable = |source| FileError::Io { kind, path: path.to_owned(), action: "read", source };
    let file = match File::open(target) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unreadable(error)),
    };
    let mut bytes = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(FileError::Corrupt { kind, path: path.to_owned(), reason: "it is over 64 MiB".into() });
    }
    Ok(Some(bytes))
}

/// Without a byte order mark.
fn text_of(bytes: Vec<u8>) -> Vec<u8> {
    match without_mark(&bytes) {
        rest if rest.len() == bytes.len() => bytes,
        rest => rest.to_vec(),
    }
}

/// Locks the file at a path; `None` when another process has it. The file is made if it is not there.
fn take_lock(path: &Path) -> io::Result<Option<File>> {
    loop {
        let lock = File::options().create(true).truncate(false).write(true).open(path)?;
        match lock.try_lock() {
            // The file may have been removed in between: then the lock would not exclude others.
            Ok(()) if is_at(&lock, path)? => return Ok(Some(lock)),
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
}

/// Whether an open file is the one at a path.
#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let open = file.metadata()?;
    match fs::metadata(path) {
        Ok(there) => Ok((open.dev(), open.ino()) == (there.dev(), there.ino())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// On other systems an open file cannot be removed.
#[cfg(not(unix))]
fn is_at(_file: &File, _path: &Path) -> io::Result<bool> {
    Ok(true)
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// The canonical path of a file, which need not exist; its directory must.
fn resolve(path: &Path) -> io::Result<PathBuf> {
    let mut path = path.to_owned();
    for _ in 0..MAX_LINKS {
        match fs::canonicalize(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            found => return found,
        }
        match fs::read_link(&path) {
            Ok(next) => path = directory_of(&path).join(next),
            Err(_) => {
                let name = path.file_name().ok_or(ErrorKind::InvalidInput)?;
                return Ok(fs::canonicalize(directory_of(&path))?.join(name));
            }
        }
    }
    Err(io::Error::other("too many links"))
}

/// A file that cannot be used. The error names the file and its kind.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// The operating system refused.
    #[error("{kind} {}: cannot {action}", path.display())]
    Io {
        /// The kind of file.
        kind: &'static str,
        /// The file.
        path: PathBuf,
        /// The action that failed.
        action: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// The content is invalid.
    #[error("{kind} {}: {reason}; remove it to start anew", path.display())]
    Corrupt {
        /// The kind of file.
        kind: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The file is a mount of its own, as containers mount single files: it cannot be replaced.
    #[error("{kind} {} is mounted by itself, so it cannot be replaced; mount the directory that holds it", path.display())]
    Mounted {
        /// The kind of file.
        kind: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// Another process uses the file.
    #[error("{kind} {} is in use by another process", path.display())]
    InUse {
        /// The kind of file.
        kind: &'static str,
        /// The file.
        path: PathBuf,
    },
}

#[cfg(test)]
mod tests;
