//! The file system operations of the disk store, as a trait, so that tests can simulate a disk.

use std::fmt::Debug;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::Path;
use std::sync::Arc;

/// A file system, with the operations that the disk store needs. Calls block.
pub trait Disk: Debug + Send + Sync + 'static {
    /// Creates a directory that only its owner may enter, with its parents.
    ///
    /// # Errors
    /// When it cannot be created. An existing directory is no error.
    fn create_dir(&self, path: &Path) -> io::Result<()>;

    /// The names in a directory, in no order.
    ///
    /// # Errors
    /// When it cannot be read.
    fn list(&self, path: &Path) -> io::Result<Vec<String>>;

    /// Opens an existing file.
    ///
    /// # Errors
    /// When it cannot be opened.
    fn open(&self, path: &Path, write: bool) -> io::Result<Arc<dyn DiskFile>>;

    /// Creates a file that only its owner may read. An existing file is emptied.
    ///
    /// # Errors
    /// When it cannot be created.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;

    /// Renames a file or directory, replacing a file of that name.
    ///
    /// # Errors
    /// When it cannot.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    /// When it cannot.
    fn remove_file(&self, path: &Path) -> io::Result<()>;

    /// Removes an empty directory.
    ///
    /// # Errors
    /// When it cannot.
    fn remove_dir(&self, path: &Path) -> io::Result<()>;

    /// Makes the names in a directory survive a power loss.
    ///
    /// # Errors
    /// When they may not survive. The state of the names is then unknown, and a repeated call cannot tell more.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;

    /// Takes an exclusive lock until the returned value is dropped; [`io::ErrorKind::WouldBlock`] when it is taken.
    /// Creates the file when `create` is set.
    ///
    /// # Errors
    /// When the lock cannot be taken.
    fn lock(&self, path: &Path, create: bool) -> io::Result<Box<dyn Debug + Send + Sync>>;

    /// An id of the present run of the operating system, or `None` when it has none: then each start counts as one
    /// after a power loss, unless the previous end was orderly.
    fn boot(&self) -> Option<String>;
}

/// An open file. Calls block, and may be made from several threads.
pub trait DiskFile: Debug + Send + Sync + 'static {
    /// Reads at an offset. It may read less than was requested, at the end of the file and elsewhere.
    ///
    /// # Errors
    /// When it cannot be read.
    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes at an offset. It may write less than was requested.
    ///
    /// # Errors
    /// When it cannot be written. Any part of it may have been written.
    fn write_at(&self, from: &[u8], offset: u64) -> io::Result<usize>;

    /// Makes content and length survive a power loss.
    ///
    /// # Errors
    /// When they may not survive. The state of the file is then unknown, and a repeated call cannot tell more.
    fn sync(&self) -> io::Result<()>;

    /// Its length in bytes.
    ///
    /// # Errors
    /// When it cannot be determined.
    fn len(&self) -> io::Result<u64>;

    /// Whether it has no bytes.
    ///
    /// # Errors
    /// When it cannot be determined.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Cuts it.
    ///
    /// # Errors
    /// When it cannot be cut.
    fn set_len(&self, len: u64) -> io::Result<()>;
}

/// The file system of the operating system.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemDisk;

impl Disk for SystemDisk {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        fs::read_dir(path)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    }

    fn open(&self, path: &Path, write: bool) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(OpenOptions::new().read(true).write(write).open(path)?))
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(owned().truncate(true).open(path)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        // On other systems a directory cannot be opened as a file, and cannot be synced.
        if cfg!(unix) { File::open(path)?.sync_all() } else { Ok(()) }
    }

    fn lock(&self, path: &Path, create: bool) -> io::Result<Box<dyn Debug + Send + Sync>> {
        let file = if create { owned().truncate(false).open(path)? } else { File::open(path)? };
        file.try_lock()?;
        Ok(Box::new(file))
    }

    fn boot(&self) -> Option<String> {
        let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        Some(id.trim().to_owned()).filter(|id| !id.is_empty())
    }
}

/// Options of a file that only its owner may read; it is created when it does not exist.
fn owned() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

impl DiskFile for File {
    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<usize> {
        #[cfg(unix)]
        return std::os::unix::fs::FileExt::read_at(self, into, offset);
        #[cfg(windows)]
        return std::os::windows::fs::FileExt::seek_read(self, into, offset);
    }

    fn write_at(&self, from: &[u8], offset: u64) -> io::Result<usize> {
        #[cfg(unix)]
        return std::os::unix::fs::FileExt::write_at(self, from, offset);
        #[cfg(windows)]
        return std::os::windows::fs::FileExt::seek_write(self, from, offset);
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        File::set_len(self, len)
    }
}

/// Reads until the buffer is full or the file ends.
pub(super) fn read_full(file: &dyn DiskFile, into: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < into.len() {
        match file.read_at(&mut into[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(read) => done += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// Writes everything.
pub(super) fn write_full(file: &dyn DiskFile, from: &[u8], offset: u64) -> io::Result<()> {
    let mut done = 0;
    while done < from.len() {
        match file.write_at(&from[done..], offset + done as u64) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => done += written,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
