//! A store that observes, delays or refuses appends, for tests.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;

use crate::{
    Batch, Bounds, Checkpoint, Error, Identity, Join, Joined, Limit, LogName, LogOptions, Page, Positions,
    Retention, Store, StoredLog, Work,
};

/// Called before each group of batches is appended; an error is returned in place of the append.
type Before = Arc<dyn Fn(&[Batch]) -> BoxFuture<'static, Result<(), Error>> + Send + Sync>;

/// Wraps another store.
pub struct Intercept {
    inner: Arc<dyn Store>,
    before: Before,
}

impl Intercept {
    /// Calls `before` with each group, and appends the group to the inner store when `before` has succeeded.
    pub fn new(
        inner: Arc<dyn Store>,
        before: impl Fn(&[Batch]) -> BoxFuture<'static, Result<(), Error>> + Send + Sync + 'static,
    ) -> Self {
        Self { inner, before: Arc::new(before) }
    }

    fn wrap(&self, work: Work<Result<Arc<dyn StoredLog>, Error>>) -> Work<Result<Arc<dyn StoredLog>, Error>> {
        let before = self.before.clone();
        let wrap = |inner| Arc::new(InterceptedLog { inner, before }) as Arc<dyn StoredLog>;
        match work {
            Work::Ready(result) => Work::Ready(result.map(wrap)),
            Work::Later(later) => Work::Later(Box::pin(async move { later.await.map(wrap) })),
        }
    }
}

impl fmt::Debug for Intercept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Intercept").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl Store for Intercept {
    fn kind(&self) -> &'static str {
        self.inner.kind()
    }

    fn outlives_process(&self) -> bool {
        self.inner.outlives_process()
    }

    fn directory(&self) -> Option<&Path> {
        self.inner.directory()
    }

    fn create(&self, name: &LogName, options: LogOptions) -> Work<Result<Arc<dyn StoredLog>, Error>> {
        self.wrap(self.inner.create(name, options))
    }

    fn open(&self, name: &LogName) -> Work<Result<Arc<dyn StoredLog>, Error>> {
        self.wrap(self.inner.open(name))
    }

    fn delete(&self, name: &LogName) -> Work<Result<(), Error>> {
        self.inner.delete(name)
    }

    fn fork(
        &self,
        source: &LogName,
        at: u64,
        name: &LogName,
        options: LogOptions,
    ) -> Work<Result<Arc<dyn StoredLog>, Error>> {
        self.wrap(self.inner.fork(source, at, name, options))
    }

    fn names(&self) -> Work<Result<Vec<LogName>, Error>> {
        self.inner.names()
    }

    fn close(&self) -> Work<Result<(), Error>> {
        self.inner.close()
    }
}

struct InterceptedLog {
    inner: Arc<dyn StoredLog>,
    before: Before,
}

impl fmt::Debug for InterceptedLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InterceptedLog").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl StoredLog for InterceptedLog {
    fn identity(&self) -> Identity {
        self.inner.identity()
    }

    fn epoch_base(&self) -> u64 {
        self.inner.epoch_base()
    }

    fn about(&self) -> Bytes {
        self.inner.about()
    }

    fn append(&self, group: Vec<Batch>) -> Work<Vec<Result<Positions, Error>>> {
        let (inner, before) = (self.inner.clone(), (self.before)(&group));
        Work::Later(Box::pin(async move {
            match before.await {
                Ok(()) => inner.append(group).done().await,
                Err(error) => vec![Err(error); group.len()],
            }
        }))
    }

    fn read(&self, after: u64, limit: Limit) -> Work<Result<Page, Error>> {
        self.inner.read(after, limit)
    }

    fn join(&self, join: Join) -> Work<Result<Joined, Error>> {
        self.inner.join(join)
    }

    fn read_held(&self, after: u64, limit: Limit) -> Work<Result<Page, Error>> {
        self.inner.read_held(after, limit)
    }

    fn bounds(&self) -> Bounds {
        self.inner.bounds()
    }

    fn held_base(&self) -> u64 {
        self.inner.held_base()
    }

    fn closed(&self) -> Option<Error> {
        self.inner.closed()
    }

    fn wait(&self, after: u64) -> Work<Result<u64, Error>> {
        self.inner.wait(after)
    }

    fn trim(&self, to: u64) -> Work<Result<(), Error>> {
        self.inner.trim(to)
    }

    fn expire(&self, now: i64) -> Work<Result<(), Error>> {
        self.inner.expire(now)
    }

    fn set_retention(&self, retention: Retention) {
        self.inner.set_retention(retention);
    }

    fn save_checkpoint(&self, checkpoint: Checkpoint) -> Work<Result<(), Error>> {
        self.inner.save_checkpoint(checkpoint)
    }

    fn checkpoint(&self) -> Work<Result<Option<Checkpoint>, Error>> {
        self.inner.checkpoint()
    }
}
