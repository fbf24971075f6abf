//! Small files that are replaced atomically: kind, version, length and checksum around a payload.
//!
//! ```text
//!   8 bytes  kind, such as "relaylog"            4 bytes  CRC32C over everything except this field
//!   4 bytes  version; numbers are little-endian  n bytes  the payload
//!   8 bytes  length of the payload
//! ```

use std::path::{Path, PathBuf};

use super::checksum::crc32c;
use super::files::{Disk, read_full, write_full};
use crate::Error;

/// The version of every file that this crate writes.
pub(super) const VERSION: u32 = 1;
const HEAD: usize = 24;

/// Replaces a file atomically: after a crash, readers find the former content or the new one.
pub(super) fn replace(
    disk: &dyn Disk,
    path: &Path,
    kind: &[u8; 8],
    payload: &[u8],
) -> Result<(), NotReplaced> {
    let fresh = new_name(path);
    write_new(disk, &fresh, kind, payload).map_err(|error| {
        let _ = disk.remove_file(&fresh);
        NotReplaced { error, in_doubt: false }
    })?;
    disk.rename(&fresh, path).map_err(|source| {
        let _ = disk.remove_file(&fresh);
        NotReplaced { error: failed("renaming", &fresh, source), in_doubt: false }
    })?;
    let directory = path.parent().unwrap_or(path);
    disk.sync_dir(directory)
        .map_err(|source| NotReplaced { error: failed("syncing", directory, source), in_doubt: true })
}

/// Why a file was not replaced.
#[derive(Debug)]
pub(super) struct NotReplaced {
    pub(super) error: Error,
    /// Whether readers may find the new content nevertheless.
    pub(super) in_doubt: bool,
}

/// The temporary path of a file's next content.
pub(super) fn new_name(path: &Path) -> PathBuf {
    path.with_extension("new")
}

/// Writes a new file and syncs it.
pub(super) fn write_new(disk: &dyn Disk, path: &Path, kind: &[u8; 8], payload: &[u8]) -> Result<(), Error> {
    let mut content = Vec::with_capacity(HEAD + payload.len());
    content.extend_from_slice(kind);
    content.extend_from_slice(&VERSION.to_le_bytes());
    content.extend_from_slice(&(payload.len() as u64).to_le_bytes());
    let sum = crc32c(&[&content, payload]);
    content.extend_from_slice(&sum.to_le_bytes());
    content.extend_from_slice(payload);
    let file = disk.create(path).map_err(|source| failed("creating", path, source))?;
    write_full(&*file, &content, 0).map_err(|source| failed("writing", path, source))?;
    file.sync().map_err(|source| failed("syncing", path, source))
}

/// The payload of a file; [`std::io::ErrorKind::NotFound`] within the error when it is not there.
pub(super) fn read(disk: &dyn Disk, path: &Path, kind: &[u8; 8]) -> Result<Vec<u8>, Error> {
    let reading = |source| failed("reading", path, source);
    let file = disk.open(path, false).map_err(reading)?;
    let len = file.len().map_err(reading)?;
    let mut content = vec![0; usize::try_from(len).unwrap_or(usize::MAX)];
    let read = read_full(&*file, &mut content, 0).map_err(reading)?;
    content.truncate(read);
    let bad = |offset: usize, problem: &str| Error::Damaged {
        file: path.to_owned(),
        offset: offset as u64,
        last_good: None,
        problem: problem.into(),
    };
    let Some((head, payload)) = content.split_at_checked(HEAD) else {
        return Err(bad(content.len(), "the file ends within its header"));
    };
    if &head[..8] != kind {
        return Err(bad(0, "the file is of another kind"));
    }
    let sum = crc32c(&[&head[..20], payload]);
    if sum.to_le_bytes() != head[20..24] {
        return Err(bad(HEAD, "the checksum does not fit"));
    }
    check_version(path, &head[8..12])?;
    if (payload.len() as u64).to_le_bytes() != head[12..20] {
        return Err(bad(HEAD, "the length does not fit"));
    }
    content.drain(..HEAD);
    Ok(content)
}

/// Refuses files of a later version.
pub(super) fn check_version(path: &Path, version: &[u8]) -> Result<(), Error> {
    let version = version.try_into().map_or(0, u32::from_le_bytes);
    if version == VERSION {
        return Ok(());
    }
    let problem = format!("the file has format {version}, and this program reads format {VERSION}");
    Err(Error::Refused { path: path.to_owned(), problem })
}

/// A failure of the medium.
pub(super) fn failed(doing: &str, path: &Path, source: std::io::Error) -> Error {
    Error::io(format!("{doing} {} failed", path.display()), source)
}

/// Whether a file is not there.
pub(super) fn is_missing(error: &Error) -> bool {
    matches!(error, Error::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound)
}

/// Builds a payload.
#[derive(Default)]
pub(super) struct Writer(pub(super) Vec<u8>);

impl Writer {
    pub(super) fn number(&mut self, number: u64) {
        self.0.extend_from_slice(&number.to_le_bytes());
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }
}

/// Reads a payload; `None` when it ends too early.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn number(&mut self) -> Option<u64> {
        let (number, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u64::from_le_bytes(*number))
    }

    pub(super) fn bytes(&mut self) -> Option<&'a [u8]> {
        let len = usize::try_from(self.number()?).ok()?;
        let (bytes, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(bytes)
    }

    pub(super) fn text(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.bytes()?).ok()
    }
}
