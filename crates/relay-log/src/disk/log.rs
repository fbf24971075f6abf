//! One log on disk: the state of readers, and the state of the writer.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bytes::Bytes;

use super::files::DiskFile;
use super::manifest::{Extent, Manifest};
use super::medium::Medium;
use super::open::Opened;
use super::take::Whole;
use crate::head::Head;
use crate::{
    Batch, Bounds, Checkpoint, Entry, Error, Identity, Join, Joined, Limit, LogName, Next, Page, Positions,
    Retention, StoredLog, Work,
};

/// One log. Readers and the writer share little:
///
/// ```text
///   writer: Mutex, held while files are written            view: Mutex, held for moments
///     manifest, open file, what was synced  --announces-->   base, segments and where they end, newest entries
///                                                               |
///                                          readers look here, then read files without a lock
/// ```
pub(super) struct DiskLog {
    pub(super) medium: Arc<Medium<Self>>,
    pub(super) this: Weak<Self>,
    pub(super) name: LogName,
    pub(super) dir: PathBuf,
    pub(super) identity: Identity,
    pub(super) about: Bytes,
    pub(super) epoch_base: u64,
    pub(super) head: Head,
    /// Whether it can no longer be read.
    pub(super) ended: AtomicBool,
    pub(super) view: Mutex<View>,
    pub(super) writer: Mutex<Writer>,
    pub(super) retention: Mutex<Retention>,
    /// When it was last written, by the store's count.
    pub(super) used: AtomicU64,
}

/// The state of readers.
#[derive(Debug)]
pub(super) struct View {
    pub(super) base: u64,
    pub(super) bytes: u64,
    /// First position of each segment, and the end of its announced entries. Oldest first.
    pub(super) segments: VecDeque<Extent>,
    /// The newest entries, without a hole up to the head.
    pub(super) cache: VecDeque<Entry>,
    pub(super) cached: u64,
    /// Places of entries: position to segment and offset. Thinned out when there are many.
    pub(super) waypoints: BTreeMap<u64, (u64, u64)>,
}

/// The state of the writer.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) manifest: Manifest,
    pub(super) head: u64,
    /// Length of the newest segment.
    pub(super) len: u64,
    pub(super) checkpoint: Option<u64>,
    pub(super) active: Option<Active>,
    pub(super) tail: super::retain::Tail,
}

/// The newest segment while it is being written.
#[derive(Debug)]
pub(super) struct Active {
    pub(super) file: Arc<dyn DiskFile>,
    /// How much of it is synced.
    pub(super) synced: u64,
    /// Reused for the next group.
    pub(super) scratch: Vec<u8>,
}

impl DiskLog {
    pub(super) fn new(medium: Arc<Medium<Self>>, dir: PathBuf, opened: Opened) -> Arc<Self> {
        let Opened { manifest, head, len, extents, base, bytes, checkpoint } = opened;
        let view = View {
            base,
            bytes,
            segments: extents.into(),
            cache: VecDeque::new(),
            cached: 0,
            waypoints: BTreeMap::new(),
        };
        Arc::new_cyclic(|this| Self {
            medium,
            this: this.clone(),
            name: manifest.name.clone(),
            dir,
            identity: manifest.identity.clone(),
            about: manifest.about.clone(),
            epoch_base: manifest.epoch_base,
            head: Head::new(head),
            ended: AtomicBool::new(false),
            view: Mutex::new(view),
            retention: Mutex::default(),
            used: AtomicU64::new(0),
            writer: Mutex::new(Writer {
                manifest,
                head,
                len,
                checkpoint,
                active: None,
                tail: super::retain::Tail::default(),
            }),
        })
    }

    // A panic leaves both locks consistent: their content is changed only after the steps that may fail.
    pub(super) fn view(&self) -> MutexGuard<'_, View> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn writer(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn check_open(&self) -> Result<(), Error> {
        self.head.closed().map_or(Ok(()), Err)
    }

    /// Does something that may wait for the disk, on a thread for that.
    fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<T, Error> + Send + 'static,
    ) -> Work<Result<T, Error>> {
        let Some(this) = self.this.upgrade() else { return Work::Ready(Err(ended())) };
        super::store::blocking(move || work(&this))
    }
}

fn ended() -> Error {
    Error::Closed { why: "nobody holds it any more".into() }
}

impl StoredLog for DiskLog {
    fn identity(&self) -> Identity {
        self.identity.clone()
    }

    fn epoch_base(&self) -> u64 {
        self.epoch_base
    }

    fn about(&self) -> Bytes {
        self.about.clone()
    }

    fn append(&self, group: Vec<Batch>) -> Work<Vec<Result<Positions, Error>>> {
        let batches = group.len();
        let Work::Later(writing) = self.blocking(move |log| Ok(log.append_now(group))) else {
            return Work::Ready(vec![Err(ended()); batches]);
        };
        Work::Later(Box::pin(async move { writing.await.unwrap_or_else(|error| vec![Err(error); batches]) }))
    }

    fn read(&self, after: u64, limit: Limit) -> Work<Result<Page, Error>> {
        match self.read_from_memory(after, limit, false) {
            Some(result) => Work::Ready(result),
            None => self.blocking(move |log| log.read_now(after, limit, false, Whole)),
        }
    }

    fn join(&self, join: Join) -> Work<Result<Joined, Error>> {
        if let Some(result) = self.read_from_memory(join.after, join.page(), false) {
            return Work::Ready(result.map(|page| Joined::of(&page, join.part, &self.medium.buffers)));
        }
        let Some(this) = self.this.upgrade() else { return Work::Ready(Err(ended())) };
        let (tell, first) = Next::new();
        tokio::task::spawn_blocking(move || {
            let read = |join: &Join| this.read_now(join.after, join.page(), false, join.part);
            join.read_on(tell, || this.head.position(), read);
        });
        Work::Later(Box::pin(first.read()))
    }

    fn read_held(&self, after: u64, limit: Limit) -> Work<Result<Page, Error>> {
        match self.read_from_memory(after, limit, true) {
            Some(result) => Work::Ready(result),
            None => self.blocking(move |log| log.read_now(after, limit, true, Whole)),
        }
    }

    fn bounds(&self) -> Bounds {
        let view = self.view();
        Bounds::new(view.base, self.head.position(), view.bytes)
    }

    fn held_base(&self) -> u64 {
        let view = self.view();
        view.segments.front().map_or(view.base, |segment| segment.first - 1)
    }

    fn closed(&self) -> Option<Error> {
        self.head.closed()
    }

    fn wait(&self, after: u64) -> Work<Result<u64, Error>> {
        self.head.wait(after)
    }

    fn trim(&self, to: u64) -> Work<Result<(), Error>> {
        self.blocking(move |log| log.trim_now(to))
    }

    fn expire(&self, now: i64) -> Work<Result<(), Error>> {
        if *self.retention.lock().unwrap_or_else(PoisonError::into_inner) == Retention::default() {
            return Work::Ready(self.check_open());
        }
        self.blocking(move |log| log.expire_now(now))
    }

    fn set_retention(&self, retention: Retention) {
        *self.retention.lock().unwrap_or_else(PoisonError::into_inner) = retention;
    }

    fn save_checkpoint(&self, checkpoint: Checkpoint) -> Work<Result<(), Error>> {
        self.blocking(move |log| log.save_checkpoint_now(&checkpoint))
    }

    fn checkpoint(&self) -> Work<Result<Option<Checkpoint>, Error>> {
        self.blocking(Self::checkpoint_now)
    }
}

impl fmt::Debug for DiskLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DiskLog").field("dir", &self.dir).finish_non_exhaustive()
    }
}
