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
use std::sync::{Mutex, PoisonError};

use relay_proto::mark::without_mark;

/// Most bytes that [`LockedFile::read`] takes: 64 MiB.
const MAX_BYTES: u64 = 64 << 20;

/// Most links that are followed to a file that is not there yet.
const MAX_LINKS: usize = 40;

/// A small file that this process owns while the value lives.
///
/// [`Self::replace`] writes to `FILE.tmp`, syncs it, renames it over `FILE`, and syncs the directory: a reader finds
/// the old content or the new one, whole. `FILE.lock` is held while the value lives, so that two processes cannot
/// overwrite each other; it stays behind, empty, and a killed process frees it. When somebody removes it, the next
/// [`Self::replace`] takes it anew; if another process was faster, that is an error, and nothing is replaced.
///
/// Symbolic links are followed once, when the file is opened: what they lead to is locked and replaced, so that two
/// names of one file are one file. A link that leads elsewhere later is an error, as somebody else may own that file.
/// A file that is mounted by itself cannot be replaced. This, like a disk that is full or read-only, is found when the
/// file is opened, and not only when there is something to lose: opening writes what is there once more.
#[derive(Debug)]
pub struct LockedFile {
    kind: &'static str,
    /// As it was given.
    path: PathBuf,
    /// What it led to.
    target: PathBuf,
    private: bool,
    /// Held for its lock.
    lock: Mutex<File>,
}

impl LockedFile {
    /// Takes the file; it need not exist yet. `kind` says what it is in errors, such as `cursor file`.
    ///
    /// # Errors
    /// When another process has it, or it could not be replaced. Then nothing is left behind.
    pub fn open(kind: &'static str, path: impl Into<PathBuf>) -> Result<Self, FileError> {
        let path = path.into();
        let io = |action| {
            let path = path.clone();
            move |source| FileError::Io { kind, path, action, source }
        };
        let target = resolve(&path).map_err(io("find where it is to be"))?;
        if fs::metadata(&target).is_ok_and(|known| !known.is_file()) {
            // A device would be replaced like any other file.
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

    /// The content; `None` when there is no file. A UTF-8 mark at its start, as some editors leave it, is left out.
    ///
    /// # Errors
    /// When it cannot be read, or is over 64 MiB.
    pub fn read(&self) -> Result<Option<Vec<u8>>, FileError> {
        let bytes = self.bytes()?;
        Ok(bytes.map(|bytes| match without_mark(&bytes) {
            rest if rest.len() == bytes.len() => bytes,
            rest => rest.to_vec(),
        }))
    }

    fn bytes(&self) -> Result<Option<Vec<u8>>, FileError> {
        let file = match File::open(&self.target) {
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
        match resolve(&self.path) {
            Ok(target) if target == self.target => {
                self.still_locked()?;
                self.put(bytes)
            }
            Ok(_) => Err(self.io("replace it", io::Error::other("it is a link that leads elsewhere by now"))),
            Err(error) => Err(self.io("find it again", error)),
        }
    }

    /// Makes sure that the lock which is held is the one that others meet.
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

    /// Does all that a later [`Self::replace`] does, and leaves the file as it is.
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

    /// The empty file that is to take the place of the other, with the mode of that, or that of a private one.
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

    /// The error for a content that its owner does not trust. `reason` never quotes a secret.
    pub fn corrupt(&self, reason: impl Into<String>) -> FileError {
        FileError::Corrupt { kind: self.kind, path: self.path.clone(), reason: reason.into() }
    }

    fn io(&self, action: &'static str, source: io::Error) -> FileError {
        FileError::Io { kind: self.kind, path: self.path.clone(), action, source }
    }
}

/// Locks the file at a path; `None` when another process has it. The file is made if it is not there.
fn take_lock(path: &Path) -> io::Result<Option<File>> {
    loop {
        let lock = File::options().create(true).truncate(false).write(true).open(path)?;
        match lock.try_lock() {
            // Somebody may have removed it in between, and a lock that nobody can find keeps nobody out.
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

/// Elsewhere a file that is open cannot be removed.
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

/// The file that a path leads to, by its only name; it need not be there yet, but its directory does.
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
    /// The file is a mount of its own, as containers mount single files: its place cannot be taken by another file.
    #[error("{kind} {} is mounted by itself, so it cannot be replaced; mount the directory that holds it", path.display())]
    Mounted {
        /// What the file is.
        kind: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
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
mod tests;
