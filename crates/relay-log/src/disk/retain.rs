//! Retention: dropping entries and files.

use std::collections::VecDeque;

use super::framed::failed;
use super::log::{DiskLog, Writer};
use super::manifest::Segment;
use super::record::{RECORD_HEAD, Step, Walk};
use crate::{Entry, Error, Retention};

/// Number of entries whose size and time are read ahead.
const AHEAD: usize = 1024;
/// Bytes that are read at once for it.
const CHUNK: usize = 32 << 10;

/// Size and time of the oldest entries that can be read, from the one after the base on.
#[derive(Debug, Default)]
pub(super) struct Tail {
    next: VecDeque<(u64, i64)>,
}

impl DiskLog {
    /// Moves the base by the retention, at `now`, and drops unneeded segments.
    pub(super) fn retain(&self, writer: &mut Writer, now: i64) -> Result<(), Error> {
        let retention = self.retention();
        if retention == Retention::default() {
            return Ok(());
        }
        let oldest = retention.oldest_time(now);
        let (mut base, mut bytes) = {
            let view = self.view();
            (view.base, view.bytes)
        };
        while base < writer.head {
            if writer.tail.next.is_empty() {
                self.look_ahead(writer, base)?;
            }
            let Some((size, time)) = writer.tail.next.front().copied() else { break };
            let too_many = writer.head - base > retention.entries || bytes > retention.bytes;
            if !too_many && time >= oldest {
                break;
            }
            writer.tail.next.pop_front();
            base += 1;
            bytes -= size.min(bytes);
        }
        self.rebase(base, bytes);
        self.drop_segments(writer)
    }

    pub(super) fn trim_now(&self, to: u64) -> Result<(), Error> {
        let mut writer = self.writer();
        self.check_open()?;
        let base = self.view().base;
        if to > writer.head {
            return Err(Error::OutOfBounds { position: to, from: base, to: writer.head });
        }
        if to <= base {
            return Ok(());
        }
        let bytes = self.bytes_after(&writer, to)?;
        let former = std::mem::replace(&mut writer.manifest.base, to);
        let saved = writer.manifest.save(&*self.medium.disk, &self.dir);
        self.judge(saved, &mut writer, |manifest| manifest.base = former)?;
        writer.tail.next.clear();
        self.rebase(to, bytes);
        self.drop_segments(&mut writer)
    }

    fn rebase(&self, base: u64, bytes: u64) {
        let mut view = self.view();
        (view.base, view.bytes) = (base, bytes);
        let mut dropped = Vec::new();
        while view.cache.front().is_some_and(|entry| entry.position <= base) {
            let Some(oldest) = view.cache.pop_front() else { break };
            view.cached -= oldest.size();
            dropped.push(oldest);
        }
        drop(view);
        drop(dropped);
    }

    /// Bytes that the entries after a position are counted with.
    fn bytes_after(&self, writer: &Writer, position: u64) -> Result<u64, Error> {
        if position == writer.head {
            return Ok(0);
        }
        let (extent, offset) = self.locate(position + 1)?;
        let later = |first: u64| first > extent.first;
        let records: u64 = {
            let view = self.view();
            let rest = view.segments.iter().filter(|segment| later(segment.first));
            rest.map(|segment| segment.end - super::record::SEGMENT_HEAD).sum::<u64>() + extent.end - offset
        };
        let entries = writer.head - position;
        Ok(records + entries * (Entry::OVERHEAD - RECORD_HEAD as u64))
    }

    fn look_ahead(&self, writer: &mut Writer, base: u64) -> Result<(), Error> {
        let (extent, offset) = self.locate(base + 1)?;
        let (file, path) = self.segment_file(extent.first)?;
        let mut walk = Walk::new(&*file, offset, base + 1, extent.end, false).chunk(CHUNK);
        while writer.tail.next.len() < AHEAD {
            match walk.next().map_err(|source| failed("reading", &path, source))? {
                Step::Record(head) => {
                    writer.tail.next.push_back((head.len as u64 + Entry::OVERHEAD, head.time));
                }
                Step::End => break,
                Step::Cut | Step::Bad(_) => {
                    return Err(Error::Damaged {
                        file: path,
                        offset: walk.offset,
                        last_good: Some(walk.position - 1),
                        problem: "no whole record".into(),
                    });
                }
            }
        }
        let at = (walk.position, (extent.first, walk.offset));
        if walk.offset < extent.end {
            self.view().waypoint(at.0, at.1);
        }
        Ok(())
    }

    /// Removes segments whose entries are all trimmed and covered by the checkpoint.
    pub(super) fn drop_segments(&self, writer: &mut Writer) -> Result<(), Error> {
        let base = self.view().base;
        let floor = writer.checkpoint.map_or(base, |position| position.min(base));
        let segments = &writer.manifest.segments;
        let full = segments.windows(2).take_while(|pair| pair[1].first - 1 <= floor).count();
        if full == 0 {
            return Ok(());
        }
        let before = writer.manifest.clone();
        let dropped: Vec<Segment> = writer.manifest.segments.drain(..full).collect();
        writer.manifest.base = base;
        let saved = writer.manifest.save(&*self.medium.disk, &self.dir);
        self.judge(saved, writer, |manifest| *manifest = before)?;
        let first = writer.manifest.segments[0].first;
        {
            let mut view = self.view();
            view.segments.retain(|segment| segment.first >= first);
            view.waypoints = view.waypoints.split_off(&first);
        }
        for segment in dropped {
            let path = self.dir.join(Segment::file_name(segment.first));
            self.medium.forget(&path);
            // One that stays is removed when the log is opened the next time.
            if let Err(error) = self.medium.disk.remove_file(&path) {
                tracing::warn!(path = %path.display(), %error, "an old segment could not be removed");
            }
        }
        Ok(())
    }
}
