//! The cursor file of `replay`: written at most every 100 ms, and at the end.

use std::path::Path;
use std::time::Duration;

use relay_pods::{EventHash, Filter};
use relay_state::pods::{CursorError, CursorStore, FileCursorStore};
use tokio::time::{Instant, sleep_until};

/// Time between two writes.
const COALESCE: Duration = Duration::from_millis(100);

/// Acknowledgements that are saved to a file; without a file they are dropped.
#[derive(Debug)]
pub(crate) struct Cursor {
    store: Option<FileCursorStore>,
    loaded: Option<EventHash>,
    saved: Option<EventHash>,
    waiting: Option<EventHash>,
    next_write: Instant,
}

impl Cursor {
    pub(crate) fn open(path: Option<&Path>, filter: &Filter) -> Result<Self, CursorError> {
        let mut store = path.map(|path| FileCursorStore::open(path, filter)).transpose()?;
        let loaded = match &mut store {
            Some(store) => store.load()?,
            None => None,
        };
        Ok(Self { store, saved: loaded.clone(), loaded, waiting: None, next_write: Instant::now() })
    }

    /// The content of the file at the start.
    pub(crate) fn loaded(&self) -> Option<&EventHash> {
        self.loaded.as_ref()
    }

    pub(crate) fn is_open(&self) -> bool {
        self.store.is_some()
    }

    /// Takes an acknowledgement. It is written at once, or when the last write is 100 ms old.
    pub(crate) fn acknowledge(&mut self, ack: EventHash) -> Result<(), CursorError> {
        if self.store.is_some() && self.saved.as_ref() != Some(&ack) {
            self.waiting = Some(ack);
            if Instant::now() >= self.next_write {
                return self.flush();
            }
        }
        Ok(())
    }

    /// Ready when an acknowledgement has waited long enough; never ready if none waits.
    pub(crate) async fn due(&self) {
        match self.waiting {
            Some(_) => sleep_until(self.next_write).await,
            None => std::future::pending().await,
        }
    }

    /// Writes the acknowledgement that waits.
    pub(crate) fn flush(&mut self) -> Result<(), CursorError> {
        if let (Some(ack), Some(store)) = (self.waiting.take(), &mut self.store) {
            store.save(&ack)?;
            self.saved = Some(ack);
            self.next_write = Instant::now() + COALESCE;
        }
        Ok(())
    }
}
