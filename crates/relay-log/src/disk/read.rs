//! Reading entries: the newest from memory, others from their segment.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::files::{DiskFile, read_full};
use super::framed::failed;
use super::log::{DiskLog, View};
use super::manifest::{Extent, Segment};
use super::record::{self, Found, SEGMENT_HEAD, Step, Walk};
use super::take::Take;
use crate::{Error, Limit, Page};

/// Bytes between two waypoints of a walk.
const STRIDE: u64 = 256 << 10;
/// Waypoints of a log, at most.
const WAYPOINTS: usize = 2048;
/// The least number of bytes that are read for a page, if the segment has them.
const LEAST: u64 = 16 << 10;

impl View {
    /// Records the place of a position.
    pub(super) fn waypoint(&mut self, position: u64, place: (u64, u64)) {
        if self.waypoints.len() >= WAYPOINTS {
            let mut keep = false;
            self.waypoints.retain(|_, _| {
                keep = !keep;
                keep
            });
        }
        self.waypoints.insert(position, place);
    }

    /// The segment of a position, and the nearest known place in it that is not after the position.
    fn nearest(&self, position: u64) -> Option<(Extent, u64, u64)> {
        let after = self.segments.partition_point(|segment| segment.first <= position);
        let extent = *self.segments.get(after.checked_sub(1)?)?;
        let known = self.waypoints.range(extent.first..=position).next_back();
        let place = known.filter(|(_, (first, _))| *first == extent.first);
        let (from, offset) =
            place.map_or((extent.first, SEGMENT_HEAD), |(from, (_, offset))| (*from, *offset));
        Some((extent, from, offset))
    }
}

impl DiskLog {
    /// Reads from memory, without the disk.
    pub(super) fn read_from_memory(
        &self,
        after: u64,
        limit: Limit,
        held: bool,
    ) -> Option<Result<Page, Error>> {
        if self.ended.load(Ordering::Acquire) {
            return Some(Err(self.check_open().err()?));
        }
        let view = self.view();
        let held_base = view.segments.front().map_or(view.base, |segment| segment.first - 1);
        if after < if held { held_base.min(view.base) } else { view.base } {
            return Some(Ok(Page::Gone));
        }
        let head = self.head.position();
        if after >= head {
            return Some(Ok(Page::Entries(Vec::new())));
        }
        // While a group is being announced, the cache is ahead of the head.
        let first = view.cache.front()?.position;
        let skip = usize::try_from((after + 1).checked_sub(first)?).ok()?;
        let (mut entries, mut room) = (Vec::new(), limit.bytes);
        for entry in view.cache.iter().skip(skip).take(limit.entries.max(1)) {
            if entry.position > head || (entry.body.len() > room && !entries.is_empty()) {
                break;
            }
            room = room.saturating_sub(entry.body.len());
            entries.push(entry.clone());
        }
        Some(Ok(Page::Entries(entries)))
    }

    pub(super) fn read_now<T: Take>(
        &self,
        after: u64,
        limit: Limit,
        held: bool,
        take: T,
    ) -> Result<T::Taken, Error> {
        loop {
            if let Some(result) = self.read_from_memory(after, limit, held) {
                return result.map(|page| take.take_page(page, &self.medium.buffers));
            }
            let (extent, offset) = match self.locate(after + 1) {
                Ok(place) => place,
                // Dropped in between: the next check finds that.
                Err(error) if super::framed::is_missing(&error) && !self.is_there(after + 1) => continue,
                Err(error) => return Err(error),
            };
            match self.read_segment(extent, offset, after, limit, take) {
                Err(error) if super::framed::is_missing(&error) && !self.is_there(after + 1) => {}
                result => return result,
            }
        }
    }

    /// Whether there is, as far as is known, a segment with this position.
    fn is_there(&self, position: u64) -> bool {
        let view = self.view();
        view.base < position && view.segments.front().is_some_and(|segment| segment.first <= position)
    }

    fn read_segment<T: Take>(
        &self,
        extent: Extent,
        offset: u64,
        after: u64,
        limit: Limit,
        take: T,
    ) -> Result<T::Taken, Error> {
        let (file, path) = self.segment_file(extent.first)?;
        let reading = |source: io::Error| failed("reading", &path, source);
        let damaged = |offset: u64, problem: &str| Error::Damaged {
            file: path.clone(),
            offset,
            last_good: Some(after),
            problem: problem.into(),
        };
        let left = extent.end - offset;
        // Reads about as much as the requested entries are likely to take. Their heads count as bytes here, so that
        // hardly anything is read twice: what does not fit is left to the next page.
        let records = self.view().average(extent).saturating_mul(limit.entries.max(1) as u64);
        let most = (limit.bytes as u64).min(records.saturating_add(records / 4));
        let mut want = most.max(LEAST).min(left);
        loop {
            let mut chunk = self.medium.buffers.take(usize::try_from(want).unwrap_or(usize::MAX));
            let read = read_full(&*file, chunk.as_mut(), offset).map_err(reading)?;
            if (read as u64) < want {
                return Err(damaged(offset + read as u64, "the file is shorter than it was"));
            }
            if let Found::More(size) = record::look(chunk.as_ref(), after + 1, false) {
                if size as u64 > left {
                    return Err(damaged(offset, "the file ends within a record"));
                }
                want = size as u64;
                continue;
            }
            let last = self.head.position();
            let (taken, next) = take
                .take_chunk(chunk, &self.medium.buffers, after, last, limit)
                .map_err(|(at, problem)| damaged(offset + at as u64, problem))?;
            let end = offset + next.at as u64;
            if end < extent.end {
                self.view().waypoint(next.position, (extent.first, end));
            }
            return Ok(taken);
        }
    }

    /// The segment and offset of a position that is not beyond the head.
    pub(super) fn locate(&self, position: u64) -> Result<(Extent, u64), Error> {
        let nearest = self.view().nearest(position);
        let Some((extent, from, offset)) = nearest else {
            let source = io::Error::from(io::ErrorKind::NotFound);
            return Err(failed("looking for an entry in", &self.dir, source));
        };
        if from == position {
            return Ok((extent, offset));
        }
        let (file, path) = self.segment_file(extent.first)?;
        let mut walk = Walk::new(&*file, offset, from, extent.end, false);
        let mut noted = offset;
        while walk.position < position {
            match walk.next().map_err(|source| failed("reading", &path, source))? {
                Step::Record(_) => {}
                step => {
                    let problem = match step {
                        Step::Bad(problem) => problem,
                        _ => "the file ends before the entry that it should have",
                    };
                    return Err(Error::Damaged {
                        file: path,
                        offset: walk.offset,
                        last_good: Some(walk.position - 1),
                        problem: problem.into(),
                    });
                }
            }
            if walk.offset - noted >= STRIDE {
                noted = walk.offset;
                self.view().waypoint(walk.position, (extent.first, noted));
            }
        }
        self.view().waypoint(position, (extent.first, walk.offset));
        Ok((extent, walk.offset))
    }

    /// A segment, open for reading.
    pub(super) fn segment_file(&self, first: u64) -> Result<(Arc<dyn DiskFile>, PathBuf), Error> {
        let path = self.dir.join(Segment::file_name(first));
        let file = self.medium.readable(&path).map_err(|source| failed("opening", &path, source))?;
        Ok((file, path))
    }
}

impl View {
    /// The approximate size of a record of a segment, in bytes.
    fn average(&self, extent: Extent) -> u64 {
        let next = self.segments.iter().find(|segment| segment.first > extent.first).map(|next| next.first);
        let newest = self.waypoints.keys().next_back().copied();
        let records = next.or(newest).unwrap_or(extent.first + 1).saturating_sub(extent.first).max(1);
        (extent.end - SEGMENT_HEAD).div_ceil(records)
    }
}
