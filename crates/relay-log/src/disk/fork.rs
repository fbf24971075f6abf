//! Forks: logs that begin with the entries of another.

use std::path::Path;
use std::sync::Arc;

use super::files::write_full;
use super::framed::failed;
use super::log::DiskLog;
use super::manifest::{Manifest, Segment, State};
use super::medium::Medium;
use super::record::{self, SEGMENT_HEAD};
use super::take::Whole;
use crate::{Batch, Error, Identity, Limit, LogName, LogOptions, Page};

/// Fills a folder with a copy of a log up to `at`.
pub(super) fn copy(
    medium: &Medium<DiskLog>,
    source: &Arc<DiskLog>,
    at: u64,
    name: &LogName,
    options: LogOptions,
    dir: &Path,
) -> Result<(), Error> {
    let (from, to) = (source.view().base, source.head.position());
    if !(from..=to).contains(&at) {
        return Err(Error::OutOfBounds { position: at, from, to });
    }
    let identity = options.identity.unwrap_or_else(Identity::random);
    let mut manifest = Manifest::new(name, options.about, identity, from);
    let mut done = from;
    let mut len = 0;
    while done < at {
        let first = done + 1;
        let path = dir.join(Segment::file_name(first));
        let file = medium.disk.create(&path).map_err(|source| failed("creating", &path, source))?;
        let writing = |source| failed("writing", &path, source);
        let head = record::segment_head(&manifest.uid, first, manifest.identity.epoch());
        write_full(&*file, &head, 0).map_err(writing)?;
        len = SEGMENT_HEAD;
        let mut records = Vec::new();
        while done < at && len < medium.options.segment_bytes {
            let few = Limit::entries(usize::try_from(at - done).unwrap_or(usize::MAX).min(4096));
            // Even if trimmed in between, held entries can be read.
            let Page::Entries(entries) = source.read_now(done, few, true, Whole)? else {
                return Err(Error::OutOfBounds { position: at, from: source.view().base, to });
            };
            records.clear();
            for entry in entries {
                let one = Batch::new([entry.body]);
                record::encode(&one, entry.position, entry.time, SEGMENT_HEAD, &mut records);
                done = entry.position;
            }
            write_full(&*file, &records, len).map_err(writing)?;
            len += records.len() as u64;
        }
        file.sync().map_err(|source| failed("syncing", &path, source))?;
        let epoch = manifest.identity.epoch().into();
        manifest.segments.push(Segment { first, epoch, len });
    }
    manifest.epoch_base = at;
    manifest.state = State::Rest { head: at, len };
    manifest.save_new(&*medium.disk, dir)
}
