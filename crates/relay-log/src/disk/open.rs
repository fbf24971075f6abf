//! Opening a log: recovery and checks.
//!
//! ```text
//!   how it ended               allowed state of the newest segment          otherwise
//!   in order                   exactly as the manifest says                 refused
//!   killed, same boot          ends within a record or batch: cut           refused
//!   power loss, synced         damaged after what was synced: cut           refused
//!   power loss, else           the same, and the epoch is new               refused
//! ```

use std::io;
use std::path::{Path, PathBuf};

use super::files::{Disk, read_full};
use super::framed::{self, failed};
use super::manifest::{Extent, Manifest, Segment, State};
use super::record::{self, RECORD_HEAD, SEGMENT_HEAD, Step, Walk};
use super::write::{CHECKPOINT, load_checkpoint};
use crate::{Entry, Error};

/// A log whose files were checked.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) manifest: Manifest,
    pub(super) head: u64,
    /// Length of the newest segment.
    pub(super) len: u64,
    pub(super) extents: Vec<Extent>,
    pub(super) base: u64,
    pub(super) bytes: u64,
    pub(super) checkpoint: Option<u64>,
}

/// How the last writer of the log ended.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Ended {
    Orderly,
    Killed,
    /// `synced`: announced entries are on the disk.
    Power {
        synced: bool,
    },
}

pub(super) fn ended(state: &State, boot: &str) -> Ended {
    match state {
        State::Rest { .. } => Ended::Orderly,
        State::Written { boot: then, .. } if !boot.is_empty() && then == boot => Ended::Killed,
        State::Written { synced, .. } => Ended::Power { synced: *synced },
        State::Suspect => Ended::Power { synced: false },
    }
}

/// The content of the newest segment.
#[derive(Debug, PartialEq)]
pub(super) struct Newest {
    /// The last position of the last complete batch, and its end.
    pub(super) head: u64,
    pub(super) end: u64,
    /// Bytes after it, which were never announced or are lost by a power failure.
    pub(super) torn: u64,
}

/// Opens a log; cuts a torn end, and begins a new epoch when necessary.
pub(super) fn open(disk: &dyn Disk, dir: &Path, boot: &str, check_bytes: u64) -> Result<Opened, Error> {
    let mut manifest = Manifest::load(disk, dir)?;
    tidy(disk, dir, &manifest)?;
    let ended = ended(&manifest.state, boot);
    let checkpoint = checkpoint(disk, dir, &manifest)?;
    let mut extents = Vec::new();
    let mut known = 0;
    for at in 0..manifest.segments.len().saturating_sub(1) {
        let len = check_full(disk, dir, &manifest, at)?;
        extents.push(Extent { first: manifest.segments[at].first, end: len });
        known += len;
    }
    let mut newest = match manifest.segments.last() {
        None => Newest { head: manifest.origin, end: 0, torn: 0 },
        Some(segment) => {
            let newest = newest(disk, dir, &manifest, segment, ended)?;
            extents.push(Extent { first: segment.first, end: newest.end });
            newest
        }
    };
    if known + newest.end <= check_bytes {
        let full = manifest.segments.len().saturating_sub(1);
        for (at, extent) in extents.iter().enumerate().take(full) {
            compare(disk, dir, &manifest, at, extent.end)?;
        }
    }
    let head = newest.head;
    if let Some(ahead) = checkpoint.filter(|position| *position > head) {
        let problem = format!("the checkpoint is of position {ahead}, and the log ends at {head}");
        return Err(damaged(dir.join(CHECKPOINT), 0, head, problem));
    }
    if ended != Ended::Orderly
        && let Some(segment) = manifest.segments.last()
    {
        settle(disk, &dir.join(Segment::file_name(segment.first)), &newest)?;
    }
    if ended == (Ended::Power { synced: false }) {
        let former = manifest.identity.epoch().to_owned();
        manifest.identity = manifest.identity.next_epoch();
        manifest.epoch_base = head;
        // A segment of the former epoch without entries has the name that the first of this one needs.
        let emptied = manifest.segments.pop_if(|segment| segment.first > head);
        if emptied.is_some() {
            extents.pop();
            newest.end = extents.last().map_or(0, |extent| extent.end);
            manifest.origin = head;
        }
        manifest.state = State::Rest { head, len: newest.end };
        manifest.save(disk, dir)?;
        if let Some(segment) = emptied {
            let path = dir.join(Segment::file_name(segment.first));
            disk.remove_file(&path).map_err(|source| failed("removing", &path, source))?;
        }
        let epoch = manifest.identity.epoch();
        tracing::warn!(log = %manifest.name, former, epoch, head, "entries may be lost: the log is in a new epoch");
    }
    // The known base, if its entries still exist.
    let base = manifest.base.clamp(manifest.held_base(), head);
    let bytes = bytes_after(disk, dir, &extents, base, head)?;
    Ok(Opened { manifest, head, len: newest.end, extents, base, bytes, checkpoint })
}

/// Removes files of interrupted operations, and refuses foreign files.
fn tidy(disk: &dyn Disk, dir: &Path, manifest: &Manifest) -> Result<(), Error> {
    for stray in strays(disk, dir, manifest)? {
        let path = dir.join(&stray.file);
        if let Some(problem) = stray.problem {
            return Err(damaged(path, 0, manifest.held_base(), problem));
        }
        disk.remove_file(&path).map_err(|source| failed("removing", &path, source))?;
    }
    Ok(())
}

/// A file that is not in the manifest.
#[derive(Debug)]
pub(super) struct Stray {
    pub(super) file: String,
    /// Why it cannot be from an interrupted operation.
    pub(super) problem: Option<String>,
}

pub(super) fn strays(disk: &dyn Disk, dir: &Path, manifest: &Manifest) -> Result<Vec<Stray>, Error> {
    let mut strays = Vec::new();
    let mut files = disk.list(dir).map_err(|source| failed("reading", dir, source))?;
    files.sort();
    for file in files {
        let stray = |problem: Option<&str>| {
            let problem = problem.map(Into::into);
            Stray { file: file.clone(), problem }
        };
        if let Some(first) = Segment::first_of(&file) {
            if manifest.segments.iter().any(|segment| segment.first == first) {
                continue;
            }
            let path = dir.join(&file);
            let opened = disk.open(&path, false).map_err(|source| failed("opening", &path, source))?;
            let len = opened.len().map_err(|source| failed("reading", &path, source))?;
            let mut head = [0; SEGMENT_HEAD as usize];
            let read =
                read_full(&*opened, &mut head, 0).map_err(|source| failed("reading", &path, source))?;
            // A dropped segment that was not removed yet, or a new one without entries.
            let old = first <= manifest.held_base() && read == head.len() && head[12..28] == manifest.uid;
            let begun = len <= SEGMENT_HEAD;
            strays.push(stray((!old && !begun).then_some("the log knows of no such segment")));
        } else if file.ends_with(".new") || (file == CHECKPOINT && !manifest.checkpoint) {
            strays.push(stray(None));
        } else if file != CHECKPOINT && file != super::manifest::FILE {
            strays.push(stray(Some("the log knows of no such file")));
        }
    }
    Ok(strays)
}

/// The checkpoint's position, if there should be one. A bad one is ignored while all entries exist.
pub(super) fn checkpoint(disk: &dyn Disk, dir: &Path, manifest: &Manifest) -> Result<Option<u64>, Error> {
    if !manifest.checkpoint {
        return Ok(None);
    }
    let path = dir.join(CHECKPOINT);
    let loaded = load_checkpoint(disk, dir, manifest).map_err(|error| {
        if framed::is_missing(&error) {
            damaged(path.clone(), 0, manifest.held_base(), "the checkpoint is missing".into())
        } else {
            error
        }
    });
    match loaded {
        Ok(kept) if kept.position < manifest.held_base() => {
            let problem =
                format!("the checkpoint is of position {}, and what follows it is gone", kept.position);
            Err(damaged(path, 0, manifest.held_base(), problem))
        }
        Ok(kept) => Ok(Some(kept.position)),
        Err(error @ Error::Damaged { .. }) if manifest.held_base() == 0 => {
            tracing::warn!(log = %manifest.name, %error, "a bad checkpoint is left out: every entry is there");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Checks header and length of a full segment; returns its length.
pub(super) fn check_full(disk: &dyn Disk, dir: &Path, manifest: &Manifest, at: usize) -> Result<u64, Error> {
    let segment = &manifest.segments[at];
    let path = dir.join(Segment::file_name(segment.first));
    let len = check_head(disk, &path, manifest, segment)?;
    if len == segment.len {
        return Ok(len);
    }
    let problem = format!("the file has {len} bytes, and should have {}", segment.len);
    Err(damaged(path, len.min(segment.len), segment.first - 1, problem))
}

/// Checks the header of a segment; returns the length of its file.
pub(super) fn check_head(
    disk: &dyn Disk,
    path: &Path,
    manifest: &Manifest,
    segment: &Segment,
) -> Result<u64, Error> {
    let last_good = segment.first - 1;
    let file = match disk.open(path, false) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(damaged(path.to_owned(), 0, last_good, "the file is missing".into()));
        }
        opened => opened.map_err(|source| failed("opening", path, source))?,
    };
    let reading = |source| failed("reading", path, source);
    let mut head = [0; SEGMENT_HEAD as usize];
    let read = read_full(&*file, &mut head, 0).map_err(reading)?;
    let expected = record::segment_head(&manifest.uid, segment.first, &segment.epoch);
    if let Some(problem) = record::head_problem(&head[..read], &expected) {
        return Err(damaged(path.to_owned(), 0, last_good, problem));
    }
    file.len().map_err(reading)
}

/// Checks every checksum of a full segment.
pub(super) fn compare(
    disk: &dyn Disk,
    dir: &Path,
    manifest: &Manifest,
    at: usize,
    end: u64,
) -> Result<(), Error> {
    let segment = &manifest.segments[at];
    let path = dir.join(Segment::file_name(segment.first));
    let file = disk.open(&path, false).map_err(|source| failed("opening", &path, source))?;
    let mut walk = Walk::new(&*file, SEGMENT_HEAD, segment.first, end, true);
    let problem = loop {
        match walk.next().map_err(|source| failed("reading", &path, source))? {
            Step::Record(_) => {}
            Step::End if Some(walk.position - 1) == manifest.last_of(at) => return Ok(()),
            Step::End => break "the next segment begins with another position",
            Step::Cut => break "the file ends within a record",
            Step::Bad(problem) => break problem,
        }
    };
    Err(damaged(path, walk.offset, walk.position - 1, problem.into()))
}

/// Reads the newest segment, by the rules at the top.
pub(super) fn newest(
    disk: &dyn Disk,
    dir: &Path,
    manifest: &Manifest,
    segment: &Segment,
    ended: Ended,
) -> Result<Newest, Error> {
    let path = dir.join(Segment::file_name(segment.first));
    let len = check_head(disk, &path, manifest, segment)?;
    let reading = |source| failed("reading", &path, source);
    let file = disk.open(&path, false).map_err(|source| failed("opening", &path, source))?;
    let mut walk = Walk::new(&*file, SEGMENT_HEAD, segment.first, len, true);
    // The end of the last complete batch.
    let mut good = (segment.first - 1, SEGMENT_HEAD);
    let stop = loop {
        match walk.next().map_err(reading)? {
            Step::Record(head) if head.continues => {}
            Step::Record(_) => good = (walk.position - 1, walk.offset),
            stop => break stop,
        }
    };
    let (head, end) = good;
    let whole = stop == Step::End && end == len;
    let bad = |problem: String| Err(damaged(path.clone(), walk.offset, walk.position - 1, problem));
    let what = match stop {
        Step::Bad(problem) => problem,
        _ => "the file ends within a record or batch",
    };
    if let State::Rest { head: last, len: length } = manifest.state {
        return match whole {
            true if (head, len) == (last, length) => Ok(Newest { head, end, torn: 0 }),
            true => {
                let problem = format!("the file ends with position {head}, and should end with {last}");
                bad(problem)
            }
            false => bad(what.into()),
        };
    }
    if whole {
        return Ok(Newest { head, end, torn: 0 });
    }
    let behind = record::record_behind(&*file, walk.offset, walk.position, len).map_err(reading)?;
    match (ended, behind) {
        // After a kill, a write is there up to some byte, and nothing is after it.
        (Ended::Killed, None) if matches!(stop, Step::End | Step::Cut) => {}
        (Ended::Killed, None) => return bad(what.into()),
        (Ended::Killed, Some((position, _))) => return bad(format!("{what}, and entry {position} follows")),
        (_, Some((position, synced))) if synced > walk.offset => {
            return bad(format!(
                "{what}, and entry {position} follows, which was written when this was synced"
            ));
        }
        (Ended::Power { .. } | Ended::Orderly, _) => {}
    }
    Ok(Newest { head, end, torn: len - end })
}

/// Cuts a torn end and syncs the rest: the writes of a killed process may only be in the system's memory, but count
/// as synced from here on.
fn settle(disk: &dyn Disk, path: &Path, newest: &Newest) -> Result<(), Error> {
    let file = disk.open(path, true).map_err(|source| failed("opening", path, source))?;
    if newest.torn > 0 {
        file.set_len(newest.end).map_err(|source| failed("cutting", path, source))?;
    }
    file.sync().map_err(|source| failed("syncing", path, source))?;
    if newest.torn > 0 {
        let (file, bytes, last) = (path.display(), newest.torn, newest.head);
        tracing::warn!(%file, bytes, last, "the newest segment was torn at its end, and was cut");
    }
    Ok(())
}

/// The size of the entries after `base`, as counted for the retention.
fn bytes_after(disk: &dyn Disk, dir: &Path, extents: &[Extent], base: u64, head: u64) -> Result<u64, Error> {
    if base == head {
        return Ok(0);
    }
    let at = extents.partition_point(|extent| extent.first <= base + 1).saturating_sub(1);
    let Some(extent) = extents.get(at) else { return Ok(0) };
    let mut offset = SEGMENT_HEAD;
    if extent.first <= base {
        let path = dir.join(Segment::file_name(extent.first));
        let file = disk.open(&path, false).map_err(|source| failed("opening", &path, source))?;
        let mut walk = Walk::new(&*file, SEGMENT_HEAD, extent.first, extent.end, false);
        while walk.position <= base {
            match walk.next().map_err(|source| failed("reading", &path, source))? {
                Step::Record(_) => {}
                _ => return Err(damaged(path, walk.offset, walk.position - 1, "no whole record".into())),
            }
        }
        offset = walk.offset;
    }
    let later: u64 = extents[at + 1..].iter().map(|extent| extent.end - SEGMENT_HEAD).sum();
    Ok(later + extent.end - offset + (head - base) * (Entry::OVERHEAD - RECORD_HEAD as u64))
}

pub(super) fn damaged(
    file: PathBuf,
    offset: u64,
    last_good: impl Into<Option<u64>>,
    problem: String,
) -> Error {
    Error::Damaged { file, offset, last_good: last_good.into(), problem }
}
