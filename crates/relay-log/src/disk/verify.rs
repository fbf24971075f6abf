//! Checking a log, changing nothing.

use std::path::{Path, PathBuf};

use super::files::{Disk, SystemDisk};
use super::framed::{self, failed};
use super::manifest::{self, Manifest, Segment};
use super::open::{self, Ended};
use super::record::{SEGMENT_HEAD, Step, Walk};
use super::{folder, write};
use crate::{Checkpoint, Error, LogName};

/// The content of a log on disk, and its problems.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Verified {
    /// Its epoch.
    pub epoch: String,
    /// Position of the oldest entry that can be read; 0 when there is none. A trim after which the log's writer was
    /// killed may not be known.
    pub oldest: u64,
    /// Position of the newest.
    pub head: u64,
    /// How many entries can be read.
    pub entries: u64,
    /// Bytes of all its files.
    pub bytes: u64,
    /// How many files there are.
    pub files: u64,
    /// The checkpoint, if there is one that can be read.
    pub checkpoint: Option<Checkpoint>,
    /// Problems; empty when there are none.
    pub problems: Vec<Problem>,
}

/// A problem of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Problem {
    /// The file.
    pub file: PathBuf,
    /// The offset in it, in bytes.
    pub offset: u64,
    /// Position of the last complete entry before it; 0 when there is none, or it is not known.
    pub position: u64,
    /// What it is.
    pub problem: String,
}

/// Checks every byte of a log. `progress` gets the number of bytes checked, and of all bytes. Changes nothing; a
/// torn end is a problem too, although opening the log would repair it. Blocks.
///
/// # Errors
/// When there is no such store or log, another process has it, or a file cannot be read.
pub fn verify(dir: &Path, name: &LogName, progress: &mut dyn FnMut(u64, u64)) -> Result<Verified, Error> {
    let disk = SystemDisk;
    let _lock = super::store::look_at(&disk, dir)?;
    let dir = folder::of(dir, name);
    let files = match disk.list(&dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(Error::NotFound { name: name.clone() });
        }
        files => files.map_err(|source| failed("reading", &dir, source))?,
    };
    let mut found = Verified { files: files.len() as u64, ..Verified::default() };
    for file in &files {
        let path = dir.join(file);
        let opened = disk.open(&path, false).map_err(|source| failed("opening", &path, source))?;
        found.bytes += opened.len().map_err(|source| failed("reading", &path, source))?;
    }
    let manifest = match Manifest::load(&disk, &dir) {
        Ok(manifest) => manifest,
        Err(error) if framed::is_missing(&error) => {
            found.problem(open::damaged(dir.join(manifest::FILE), 0, None, "the file is missing".into()))?;
            return Ok(found);
        }
        Err(error) => {
            found.problem(error)?;
            return Ok(found);
        }
    };
    found.epoch = manifest.identity.epoch().to_owned();
    for stray in open::strays(&disk, &dir, &manifest)? {
        if let Some(problem) = stray.problem {
            found.problem(open::damaged(dir.join(stray.file), 0, manifest.held_base(), problem))?;
        }
    }
    let mut looked_at = 0;
    let mut positions = None;
    for (at, segment) in manifest.segments.iter().enumerate() {
        let result = if manifest.last_of(at).is_some() {
            open::check_full(&disk, &dir, &manifest, at)
                .and_then(|end| open::compare(&disk, &dir, &manifest, at, end).map(|()| end))
                .map(|end| (manifest.last_of(at).unwrap_or(segment.first), end))
        } else {
            let ended = open::ended(&manifest.state, &disk.boot().unwrap_or_default());
            open::newest(&disk, &dir, &manifest, segment, ended).map(|newest| {
                if newest.torn > 0 {
                    found.problems.push(Problem {
                        file: dir.join(Segment::file_name(segment.first)),
                        offset: newest.end,
                        position: newest.head,
                        problem: torn(newest.torn, ended),
                    });
                }
                (newest.head, newest.end)
            })
        };
        match result {
            Ok((last, end)) => {
                looked_at += end;
                if positions.is_none() && last >= segment.first {
                    found.oldest = segment.first;
                }
                found.entries += (last + 1).saturating_sub(segment.first);
                positions = Some(last);
            }
            Err(error) => {
                let whole = whole_until(&disk, &dir.join(Segment::file_name(segment.first)), segment.first);
                if positions.is_none() && whole >= segment.first {
                    found.oldest = segment.first;
                }
                found.entries += (whole + 1).saturating_sub(segment.first);
                positions = Some(positions.unwrap_or(0).max(whole));
                found.problem(error)?;
            }
        }
        progress(looked_at, found.bytes);
    }
    found.head = positions.unwrap_or(manifest.origin);
    if found.oldest > 0 && found.oldest <= manifest.base {
        // A segment is dropped whole, so that it may begin with entries that were trimmed.
        found.entries = found.entries.saturating_sub(manifest.base + 1 - found.oldest);
        found.oldest = if found.entries == 0 { 0 } else { manifest.base + 1 };
    }
    if manifest.checkpoint {
        match write::load_checkpoint(&disk, &dir, &manifest) {
            Ok(kept) if kept.position < manifest.held_base() || kept.position > found.head => {
                let problem = format!(
                    "the checkpoint is of position {}, and the log goes from {} to {}",
                    kept.position,
                    manifest.held_base(),
                    found.head
                );
                found.problem(open::damaged(dir.join(write::CHECKPOINT), 0, found.head, problem))?;
                found.checkpoint = Some(kept);
            }
            Ok(kept) => found.checkpoint = Some(kept),
            Err(error) if framed::is_missing(&error) => {
                let missing = "the checkpoint is missing".into();
                found.problem(open::damaged(
                    dir.join(write::CHECKPOINT),
                    0,
                    manifest.held_base(),
                    missing,
                ))?;
            }
            Err(error) => found.problem(error)?,
        }
    }
    progress(found.bytes, found.bytes);
    Ok(found)
}

fn torn(bytes: u64, ended: Ended) -> String {
    let why = if ended == Ended::Killed { "its writer was killed" } else { "the power was lost" };
    format!("torn: the last {bytes} bytes are no whole batch, as when {why}; opening the log cuts them")
}

/// The last position before the damage of a segment.
fn whole_until(disk: &dyn Disk, path: &Path, first: u64) -> u64 {
    let Ok(file) = disk.open(path, false) else { return first - 1 };
    let mut walk = Walk::new(&*file, SEGMENT_HEAD, first, file.len().unwrap_or(0), true);
    while let Ok(Step::Record(_)) = walk.next() {}
    walk.position - 1
}

impl Verified {
    /// Notes a problem of the files. Any other error ends the check, and is returned.
    fn problem(&mut self, error: Error) -> Result<(), Error> {
        let (file, offset, position, problem) = match error {
            Error::Damaged { file, offset, last_good, problem } => {
                (file, offset, last_good.unwrap_or(0), problem)
            }
            Error::Refused { path, problem } => (path, 0, 0, problem),
            error => return Err(error),
        };
        self.problems.push(Problem { file, offset, position, problem });
        Ok(())
    }
}
