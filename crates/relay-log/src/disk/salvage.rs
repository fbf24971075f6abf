//! Reading what stands before the damage of a log, changing nothing.

use std::fmt;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::files::{Disk, SystemDisk};
use super::framed::{self, failed};
use super::manifest::{self, Manifest, Segment};
use super::open;
use super::record::{SEGMENT_HEAD, Step, Walk};
use super::{folder, write};
use crate::{Checkpoint, Entry, Error, LogName};

/// The undamaged beginning of a log. It holds the store's lock.
#[derive(Debug)]
#[non_exhaustive]
pub struct Salvaged {
    /// The epoch of the log.
    pub epoch: String,
    /// The position before the oldest entry that may be read.
    pub base: u64,
    /// The position before the oldest entry that there is: entries that are trimmed may be there for the checkpoint.
    pub held: u64,
    /// Position of the last entry before the damage; of the last complete batch when there is none. The batch that the
    /// damage is in may be incomplete.
    pub head: u64,
    /// The checkpoint, if there is one that is good and of a position that is there.
    pub checkpoint: Option<Checkpoint>,
    /// The first damage; `None` when the log is whole. A torn end, which opening the log cuts, is none.
    pub damage: Option<Error>,
    spans: Vec<Span>,
    _lock: Option<Box<dyn fmt::Debug + Send + Sync>>,
}

/// The entries of a segment that are used.
#[derive(Debug)]
struct Span {
    path: PathBuf,
    first: u64,
    last: u64,
}

/// Looks for the undamaged beginning of a log. Changes nothing. Blocks.
///
/// # Errors
/// When there is no such store or log, another process has it, a file cannot be read, or the damage is in the mark of
/// the store or in the log's manifest, without which nothing can be told of its entries.
pub fn salvage(dir: &Path, name: &LogName) -> Result<Salvaged, Error> {
    let disk = SystemDisk;
    let lock = super::store::look_at(&disk, dir)?;
    let dir = folder::of(dir, name);
    let manifest = Manifest::load(&disk, &dir).map_err(|error| match framed::is_missing(&error) {
        true if disk.list(&dir).is_err() => Error::NotFound { name: name.clone() },
        true => open::damaged(dir.join(manifest::FILE), 0, None, "the file is missing".into()),
        false => error,
    })?;
    let mut damage = None;
    let mut spans: Vec<Span> = Vec::new();
    for (at, segment) in manifest.segments.iter().enumerate() {
        let path = dir.join(Segment::file_name(segment.first));
        // What stands behind a foreign header is another log's.
        let len = match open::check_head(&disk, &path, &manifest, segment) {
            Ok(len) => len,
            Err(error) => {
                damage = Some(damage_only(error)?);
                break;
            }
        };
        let whole = match manifest.last_of(at) {
            Some(last) => open::check_full(&disk, &dir, &manifest, at)
                .and_then(|end| open::compare(&disk, &dir, &manifest, at, end))
                .map(|()| last),
            None => {
                let ended = open::ended(&manifest.state, &disk.boot().unwrap_or_default());
                open::newest(&disk, &dir, &manifest, segment, ended).map(|newest| newest.head)
            }
        };
        let last = match whole {
            Ok(last) => last,
            Err(error) => {
                damage = Some(damage_only(error)?);
                last_good(&disk, &path, segment.first, len)?
            }
        };
        spans.push(Span { path, first: segment.first, last });
        if damage.is_some() {
            break;
        }
    }
    for stray in open::strays(&disk, &dir, &manifest)? {
        if let Some(problem) = stray.problem {
            damage.get_or_insert(open::damaged(dir.join(stray.file), 0, manifest.held_base(), problem));
        }
    }
    let held = manifest.held_base();
    let head = spans.last().map_or(held, |span| span.last);
    let checkpoint = match manifest.checkpoint.then(|| write::load_checkpoint(&disk, &dir, &manifest)) {
        None => None,
        Some(Ok(kept)) if (held..=head).contains(&kept.position) => Some(kept),
        // What it is of is behind the damage, unless it is the damage itself.
        Some(Ok(kept)) => {
            let problem = format!("the checkpoint is of position {}, which is not there", kept.position);
            damage.get_or_insert(open::damaged(dir.join(write::CHECKPOINT), 0, head, problem));
            None
        }
        Some(Err(error)) if framed::is_missing(&error) => {
            let missing = "the checkpoint is missing".into();
            damage.get_or_insert(open::damaged(dir.join(write::CHECKPOINT), 0, held, missing));
            None
        }
        Some(Err(error)) => {
            let error = damage_only(error)?;
            damage.get_or_insert(error);
            None
        }
    };
    let base = manifest.base.clamp(held.min(head), head);
    let epoch = manifest.identity.epoch().to_owned();
    Ok(Salvaged { epoch, base, held, head, checkpoint, damage, spans, _lock: lock })
}

/// The error, if it is about the content of a file.
fn damage_only(error: Error) -> Result<Error, Error> {
    if matches!(error, Error::Damaged { .. }) { Ok(error) } else { Err(error) }
}

/// The position of the last entry before the damage of a segment; before the first when there is none.
fn last_good(disk: &dyn Disk, path: &Path, first: u64, len: u64) -> Result<u64, Error> {
    let file = disk.open(path, false).map_err(|source| failed("opening", path, source))?;
    let mut walk = Walk::new(&*file, SEGMENT_HEAD, first, len, true);
    while let Step::Record(_) = walk.next().map_err(|source| failed("reading", path, source))? {}
    Ok(walk.position - 1)
}

impl Salvaged {
    /// Reads the entries after a position in order, up to the head, with bounded memory. Blocks.
    ///
    /// # Errors
    /// Those of `each`, or when a file cannot be read or changed in the meantime.
    pub fn read<E: From<Error>>(
        &self,
        after: u64,
        mut each: impl FnMut(Entry) -> Result<(), E>,
    ) -> Result<(), E> {
        for span in self.spans.iter().filter(|span| span.last > after) {
            let reading = |source| failed("reading", &span.path, source);
            let file = SystemDisk.open(&span.path, false).map_err(reading)?;
            let len = file.len().map_err(reading)?;
            let mut walk = Walk::new(&*file, SEGMENT_HEAD, span.first, len, true);
            while walk.position <= span.last {
                let Step::Record(head) = walk.next().map_err(reading)? else {
                    let changed = "the file is not what it was a moment ago".into();
                    return Err(
                        open::damaged(span.path.clone(), walk.offset, walk.position - 1, changed).into()
                    );
                };
                if head.position > after {
                    let body = Bytes::copy_from_slice(walk.body(&head));
                    each(Entry { position: head.position, time: head.time, body })?;
                }
            }
        }
        Ok(())
    }
}
