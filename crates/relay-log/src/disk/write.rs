//! The writer of a log: groups, segments, checkpoints, closing.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::files::write_full;
use super::framed::{self, NotReplaced, Writer as Payload, failed};
use super::log::{Active, DiskLog, Writer};
use super::manifest::{Extent, Manifest, Segment, State};
use super::options::Fsync;
use super::record::{self, RECORD_HEAD, SEGMENT_HEAD};
use crate::{Batch, Checkpoint, Entry, Error, Positions};

pub(super) const CHECKPOINT: &str = "checkpoint";
pub(super) const CHECKPOINT_KIND: &[u8; 8] = b"relaychk";
/// A larger buffer is freed after its group.
const SCRATCH: usize = 1 << 20;

impl DiskLog {
    pub(super) fn append_now(&self, group: Vec<Batch>) -> Vec<Result<Positions, Error>> {
        let mut writer = self.writer();
        let mut results = Vec::with_capacity(group.len());
        let mut taken = Vec::with_capacity(group.len());
        let (mut head, mut bytes) = (writer.head, 0);
        for batch in group {
            let result =
                self.check_open().and_then(|()| batch.check()).and_then(|()| batch.check_follows(head));
            results.push(result.map(|()| {
                let positions = Positions { first: head + 1, last: head + batch.entries().len() as u64 };
                head = positions.last;
                bytes += (batch.bytes() + batch.entries().len() * RECORD_HEAD) as u64;
                taken.push((batch, positions.first));
                positions
            }));
        }
        if taken.is_empty() {
            return results;
        }
        if let Err(error) = self.write_group(&mut writer, taken, head, bytes) {
            results
                .iter_mut()
                .filter(|result| result.is_ok())
                .for_each(|result| *result = Err(error.clone()));
        }
        results
    }

    fn write_group(
        &self,
        writer: &mut Writer,
        taken: Vec<(Batch, u64)>,
        head: u64,
        bytes: u64,
    ) -> Result<(), Error> {
        self.activate(writer)?;
        if writer.len > SEGMENT_HEAD && writer.len + bytes > self.medium.options.segment_bytes {
            self.begin_segment(writer)?;
        }
        let path = self.segment_path(writer);
        let Writer { active: Some(active), len, .. } = &mut *writer else { return Err(self.gone()) };
        let mut entries = Vec::new();
        let mut newest = i64::MIN;
        active.scratch.clear();
        for (batch, first) in taken {
            let time = batch.time();
            newest = newest.max(time);
            record::encode(&batch, first, time, active.synced, &mut active.scratch);
            let numbered = (first..).zip(batch.into_entries());
            entries.extend(numbered.map(|(position, body)| Entry { position, time, body }));
        }
        if let Err(source) = write_full(&*active.file, &active.scratch, *len) {
            // A partial write must be cut before the next group.
            if let Err(error) = active.file.set_len(*len) {
                let why = failed("cutting what was written in part of", &path, error);
                self.give_up(&mut writer.manifest, &why);
            }
            return Err(failed("writing", &path, source));
        }
        let end = *len + active.scratch.len() as u64;
        if self.medium.options.fsync == Fsync::Always {
            if let Err(source) = active.file.sync() {
                // It is unknown whether the data is on the disk, and a second sync would not tell.
                let _ = active.file.set_len(*len);
                let why = failed("syncing", &path, source);
                self.give_up(&mut writer.manifest, &why);
                return Err(why);
            }
            active.synced = end;
        }
        if active.scratch.capacity() > SCRATCH {
            active.scratch = Vec::new();
        }
        (writer.len, writer.head) = (end, head);
        self.announce(writer, entries);
        self.used.store(self.medium.tick(), Ordering::Relaxed);
        if self.medium.options.fsync != Fsync::Always {
            self.medium.sync_later(&self.this);
        }
        // The new entries are stored, whatever happens to old ones.
        if let Err(error) = self.retain(writer, newest) {
            tracing::warn!(log = %self.name, error = %error, "old entries could not be dropped");
        }
        Ok(())
    }

    /// Makes written entries visible to readers.
    fn announce(&self, writer: &Writer, entries: Vec<Entry>) {
        let mut dropped = Vec::new();
        let mut view = self.view();
        let first = writer.manifest.segments.last().map_or(0, |segment| segment.first);
        match view.segments.back_mut() {
            Some(extent) if extent.first == first => extent.end = writer.len,
            _ => view.segments.push_back(Extent { first, end: writer.len }),
        }
        view.bytes += entries.iter().map(Entry::size).sum::<u64>();
        view.waypoint(writer.head + 1, (first, writer.len));
        for entry in entries {
            view.cached += entry.size();
            view.cache.push_back(entry);
            while view.cached > self.medium.options.cache_bytes {
                let Some(oldest) = view.cache.pop_front() else { break };
                view.cached -= oldest.size();
                dropped.push(oldest);
            }
        }
        drop(view);
        drop(dropped);
        self.head.advance(writer.head);
    }

    /// Prepares writing: opens the newest segment, and marks it in the manifest as being written.
    pub(super) fn activate(&self, writer: &mut Writer) -> Result<(), Error> {
        if writer.active.is_some() {
            return Ok(());
        }
        let Some(this) = self.this.upgrade() else { return Err(self.gone()) };
        self.medium.make_room(&this, |log| log.used.load(Ordering::Relaxed), rest_if_idle);
        let newest = writer.manifest.segments.last();
        // A new epoch begins a segment of its own.
        let fits = newest.is_some_and(|segment| *segment.epoch == *self.identity.epoch());
        if fits {
            let path = self.segment_path(writer);
            let file =
                self.medium.disk.open(&path, true).map_err(|source| failed("opening", &path, source))?;
            let state = writer.manifest.state.clone();
            writer.manifest.state = self.medium.written();
            if writer.manifest.state != state {
                let saved = writer.manifest.save(&*self.medium.disk, &self.dir);
                self.judge(saved, writer, |manifest| manifest.state = state)?;
            }
            writer.active = Some(Active { file, synced: writer.len, scratch: Vec::new() });
        } else {
            self.begin_segment(writer)?;
        }
        self.medium.is_active(this);
        Ok(())
    }

    /// Ends the newest segment, if there is one, and begins the next.
    fn begin_segment(&self, writer: &mut Writer) -> Result<(), Error> {
        self.sync(writer)?;
        let before = writer.manifest.clone();
        let first = writer.head + 1;
        if let Some(full) = writer.manifest.segments.last_mut() {
            full.len = writer.len;
        }
        let epoch: Box<str> = self.identity.epoch().into();
        writer.manifest.segments.push(Segment { first, epoch, len: 0 });
        writer.manifest.state = self.medium.written();
        writer.manifest.base = self.view().base;
        let path = self.segment_path(writer);
        let mut unsynced = false;
        let made = (|| {
            let disk = &*self.medium.disk;
            let head = record::segment_head(&writer.manifest.uid, first, self.identity.epoch());
            let file = disk.create(&path).map_err(|source| failed("creating", &path, source))?;
            write_full(&*file, &head, 0).map_err(|source| failed("writing", &path, source))?;
            // The file must be durable before the manifest names it.
            file.sync().and_then(|()| disk.sync_dir(&self.dir)).map_err(|source| {
                unsynced = true;
                failed("syncing", &path, source)
            })?;
            Ok(file)
        })();
        let file = match made {
            Ok(file) => file,
            Err(error) => {
                writer.manifest = before;
                let _ = self.medium.disk.remove_file(&path);
                if unsynced {
                    self.give_up(&mut writer.manifest, &error);
                }
                return Err(error);
            }
        };
        let saved = writer.manifest.save(&*self.medium.disk, &self.dir);
        self.judge(saved, writer, |manifest| *manifest = before)?;
        writer.active = Some(Active { file, synced: SEGMENT_HEAD, scratch: Vec::new() });
        writer.len = SEGMENT_HEAD;
        Ok(())
    }

    /// Handles a failed save of the manifest: reverts it, or closes the log when it is unknown whether it was
    /// saved.
    pub(super) fn judge(
        &self,
        saved: Result<(), NotReplaced>,
        writer: &mut Writer,
        take_back: impl FnOnce(&mut Manifest),
    ) -> Result<(), Error> {
        saved.map_err(|NotReplaced { error, in_doubt }| {
            if in_doubt {
                self.give_up(&mut writer.manifest, &error);
            } else {
                take_back(&mut writer.manifest);
            }
            error
        })
    }

    /// Closes the log, because the content of the disk is unknown. Readers may continue while the process lives.
    fn give_up(&self, manifest: &mut Manifest, why: &Error) {
        tracing::error!(log = %self.name, error = why.with_cause(), "the log closes itself");
        manifest.state = State::Suspect;
        // If this fails as well, the next start finds a log that was being written.
        let _ = manifest.save(&*self.medium.disk, &self.dir);
        self.head.close(&Error::Closed { why: why.with_cause() });
    }

    fn gone(&self) -> Error {
        Error::Closed { why: "its store is gone".into() }
    }

    pub(super) fn segment_path(&self, writer: &Writer) -> PathBuf {
        let first = writer.manifest.segments.last().map_or(0, |segment| segment.first);
        self.dir.join(Segment::file_name(first))
    }

    /// Syncs everything that was written.
    pub(super) fn sync(&self, writer: &mut Writer) -> Result<(), Error> {
        let path = self.segment_path(writer);
        let len = writer.len;
        let Some(active) = &mut writer.active else { return Ok(()) };
        if active.synced < len {
            if let Err(source) = active.file.sync() {
                let why = failed("syncing", &path, source);
                self.give_up(&mut writer.manifest, &why);
                return Err(why);
            }
            active.synced = len;
        }
        Ok(())
    }

    pub(super) fn sync_now(&self) -> Result<(), Error> {
        let mut writer = self.writer();
        self.check_open()?;
        self.sync(&mut writer)
    }

    /// Syncs, says so in the manifest, and closes the file.
    pub(super) fn rest(&self, writer: &mut Writer) -> Result<(), Error> {
        if writer.active.is_none() || self.head.closed().is_some() {
            writer.active = None;
            return Ok(());
        }
        self.sync(writer)?;
        let (state, base) = (writer.manifest.state.clone(), writer.manifest.base);
        writer.manifest.state = State::Rest { head: writer.head, len: writer.len };
        writer.manifest.base = self.view().base;
        let saved = writer.manifest.save(&*self.medium.disk, &self.dir);
        self.judge(saved, writer, |manifest| (manifest.state, manifest.base) = (state, base))?;
        writer.active = None;
        let cache = {
            let mut view = self.view();
            view.cached = 0;
            std::mem::take(&mut view.cache)
        };
        drop::<VecDeque<Entry>>(cache);
        Ok(())
    }

    pub(super) fn save_checkpoint_now(&self, checkpoint: &Checkpoint) -> Result<(), Error> {
        let mut writer = self.writer();
        self.check_open()?;
        let (from, to) = (writer.checkpoint.unwrap_or_else(|| writer.manifest.held_base()), writer.head);
        if !(from..=to).contains(&checkpoint.position) {
            return Err(Error::OutOfBounds { position: checkpoint.position, from, to });
        }
        // The entries that it reflects must be at least as safe.
        self.sync(&mut writer)?;
        let mut payload = Payload::default();
        payload.bytes(&writer.manifest.uid);
        payload.number(checkpoint.position);
        payload.bytes(&checkpoint.body);
        let saved =
            framed::replace(&*self.medium.disk, &self.dir.join(CHECKPOINT), CHECKPOINT_KIND, &payload.0);
        self.judge(saved, &mut writer, |_| ())?;
        if !writer.manifest.checkpoint {
            writer.manifest.checkpoint = true;
            let saved = writer.manifest.save(&*self.medium.disk, &self.dir);
            self.judge(saved, &mut writer, |manifest| manifest.checkpoint = false)?;
        }
        writer.checkpoint = Some(checkpoint.position);
        self.drop_segments(&mut writer)
    }

    pub(super) fn checkpoint_now(&self) -> Result<Option<Checkpoint>, Error> {
        // Under the lock, so that it is not replaced in between.
        let writer = self.writer();
        if writer.checkpoint.is_none() {
            return Ok(None);
        }
        let loaded = load_checkpoint(&*self.medium.disk, &self.dir, &writer.manifest)?;
        Ok(Some(loaded))
    }

    pub(super) fn expire_now(&self, now: i64) -> Result<(), Error> {
        let mut writer = self.writer();
        self.check_open()?;
        self.retain(&mut writer, now)
    }

    pub(super) fn retention(&self) -> crate::Retention {
        *self.retention.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes the files of a deleted log, which can no longer be found by its name.
    pub(super) fn end(&self, why: &str) {
        let mut writer = self.writer();
        writer.active = None;
        self.head.close(&Error::Closed { why: why.into() });
        self.ended.store(true, Ordering::Release);
    }
}

/// Reads the checkpoint of a log.
pub(super) fn load_checkpoint(
    disk: &dyn super::files::Disk,
    dir: &std::path::Path,
    manifest: &Manifest,
) -> Result<Checkpoint, Error> {
    let path = dir.join(CHECKPOINT);
    let payload = framed::read(disk, &path, CHECKPOINT_KIND)?;
    let mut from = framed::Reader(&payload);
    let damaged = |problem: &str| Error::Damaged {
        file: path.clone(),
        offset: 0,
        last_good: Some(manifest.held_base()),
        problem: problem.into(),
    };
    let uid = from.bytes().ok_or_else(|| damaged("the content makes no sense"))?;
    if uid != manifest.uid {
        return Err(damaged("the checkpoint is of another log"));
    }
    let checkpoint = from.number().zip(from.bytes()).filter(|_| from.0.is_empty());
    let (position, body) = checkpoint.ok_or_else(|| damaged("the content makes no sense"))?;
    Ok(Checkpoint { position, body: Bytes::copy_from_slice(body) })
}

impl From<NotReplaced> for Error {
    fn from(not: NotReplaced) -> Self {
        not.error
    }
}

/// For the store: closes a log if it is not being written.
pub(super) fn rest_if_idle(log: &Arc<DiskLog>) -> bool {
    let Ok(mut writer) = log.writer.try_lock() else { return false };
    match log.rest(&mut writer) {
        Ok(()) => true,
        Err(error) => {
            tracing::warn!(log = %log.name, error = %error, "a log could not be put to rest");
            writer.active = None;
            true
        }
    }
}
