//! The store's handle.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crate::log::Inner;
use crate::{Error, Log, LogName, LogOptions, Store, StoredLog};

/// The logs of one store, by name. Cheap to clone; keep one for each store.
#[derive(Clone)]
pub struct Logs {
    store: Arc<dyn Store>,
    /// Open logs, so that all handles of one share its queue.
    open: Arc<Mutex<Open>>,
}

#[derive(Default)]
struct Open {
    held: HashMap<LogName, Weak<Inner>>,
    /// Number of logs at which unused ones are removed.
    sweep_at: usize,
}

impl Logs {
    /// Handles for a store.
    pub fn new(store: impl Store) -> Self {
        Self::shared(Arc::new(store))
    }

    /// Handles for a shared store.
    pub fn shared(store: Arc<dyn Store>) -> Self {
        Self { store, open: Arc::default() }
    }

    /// The store.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// Creates a log.
    ///
    /// # Errors
    /// [`Error::Exists`] when there is one of this name, [`Error::BadBatch`] when the options are refused, or when the
    /// medium fails.
    pub async fn create(&self, name: &LogName, options: LogOptions) -> Result<Log, Error> {
        options.check()?;
        let stored = self.store.create(name, options).done().await?;
        Ok(self.fresh(name, stored))
    }

    /// Opens a log. Handles of one log share its queue.
    ///
    /// # Errors
    /// [`Error::NotFound`] when there is none, [`Error::Damaged`] when it cannot be trusted, or when the medium fails.
    pub async fn open(&self, name: &LogName) -> Result<Log, Error> {
        if let Some(log) = self.held(name) {
            return Ok(log);
        }
        let stored = self.store.open(name).done().await?;
        let mut open = self.open_logs();
        if let Some(log) = open.get(name) {
            return Ok(log);
        }
        Ok(open.insert(name, stored))
    }

    /// Opens a log, or creates it. The options count only for a new log, except for the retention, which is always set.
    ///
    /// # Errors
    /// Those of [`Self::open`] and [`Self::create`].
    pub async fn open_or_create(&self, name: &LogName, options: LogOptions) -> Result<Log, Error> {
        loop {
            match self.open(name).await {
                Ok(log) => {
                    log.set_retention(options.retention);
                    return Ok(log);
                }
                Err(Error::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
            match self.create(name, options.clone()).await {
                // Another caller was faster: its log is used.
                Err(Error::Exists { .. }) => {}
                result => return result,
            }
        }
    }

    /// Removes a log with everything in it. Its handles are closed.
    ///
    /// # Errors
    /// [`Error::NotFound`] when there is none, or when the medium fails.
    pub async fn delete(&self, name: &LogName) -> Result<(), Error> {
        self.store.delete(name).done().await?;
        let mut open = self.open_logs();
        if open.get(name).is_some_and(|log| log.closed().is_some()) {
            open.held.remove(name);
        }
        Ok(())
    }

    /// Creates the log `name` with the entries of `source` up to position `at`, with the same positions and times. From
    /// there on the two logs are independent: the new one has its own epoch and no checkpoint, and later changes of the
    /// source do not affect it.
    ///
    /// # Errors
    /// [`Error::NotFound`] without a source, [`Error::Exists`], [`Error::OutOfBounds`] when `at` is not between the
    /// source's base and head, or when the medium fails.
    pub async fn fork(
        &self,
        source: &LogName,
        at: u64,
        name: &LogName,
        options: LogOptions,
    ) -> Result<Log, Error> {
        options.check()?;
        let stored = self.store.fork(source, at, name, options).done().await?;
        Ok(self.fresh(name, stored))
    }

    /// The names of all logs, sorted.
    ///
    /// # Errors
    /// When the medium fails.
    pub async fn names(&self) -> Result<Vec<LogName>, Error> {
        self.store.names().done().await
    }

    /// Closes the store in order, with all logs.
    ///
    /// # Errors
    /// When the medium fails: then the next start recovers.
    pub async fn close(&self) -> Result<(), Error> {
        self.store.close().done().await
    }

    fn held(&self, name: &LogName) -> Option<Log> {
        self.open_logs().get(name)
    }

    fn fresh(&self, name: &LogName, stored: Arc<dyn StoredLog>) -> Log {
        self.open_logs().insert(name, stored)
    }

    fn open_logs(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    fn get(&self, name: &LogName) -> Option<Log> {
        // A log that was deleted, perhaps through another handle to the store, is no longer the log of this name.
        self.held.get(name).and_then(Log::upgrade).filter(|log| log.closed().is_none())
    }

    fn insert(&mut self, name: &LogName, stored: Arc<dyn StoredLog>) -> Log {
        if self.held.len() >= self.sweep_at {
            self.held.retain(|_, log| log.strong_count() > 0);
            self.sweep_at = 64.max(2 * self.held.len());
        }
        let log = Log::new(name.clone(), stored);
        self.held.insert(name.clone(), log.downgrade());
        log
    }
}

impl fmt::Debug for Logs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Logs").field("store", &self.store).finish_non_exhaustive()
    }
}
