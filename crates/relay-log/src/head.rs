//! The head of a log, and waiting for it.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::watch;

use crate::{Error, Work};

/// The newest position that can be read, and whether there will be more.
///
/// It is small until a reader waits: most logs never have a waiting reader.
#[derive(Debug, Default)]
pub(crate) struct Head {
    position: AtomicU64,
    closed: OnceLock<Error>,
    news: OnceLock<watch::Sender<Seen>>,
}

impl Head {
    pub(crate) fn new(position: u64) -> Self {
        Self { position: position.into(), ..Self::default() }
    }

    pub(crate) fn position(&self) -> u64 {
        self.position.load(Ordering::SeqCst)
    }

    /// Advances the head, and wakes waiting readers. Calls may come in any order; the head never goes back.
    pub(crate) fn advance(&self, position: u64) {
        if self.position.fetch_max(position, Ordering::SeqCst) < position {
            self.tell();
        }
    }

    /// Closes it: there will be no more entries. The first reason stays.
    pub(crate) fn close(&self, why: &Error) {
        let _ = self.closed.set(why.clone());
        self.tell();
    }

    pub(crate) fn closed(&self) -> Option<Error> {
        self.closed.get().cloned()
    }

    pub(crate) fn wait(&self, after: u64) -> Work<Result<u64, Error>> {
        if let Some(result) = self.seen().beyond(after) {
            return Work::Ready(result);
        }
        let mut news = self.news.get_or_init(|| watch::Sender::new(self.seen())).subscribe();
        // The head may have moved before the receiver existed.
        self.tell();
        Work::Later(Box::pin(async move {
            loop {
                if let Some(result) = news.borrow_and_update().beyond(after) {
                    return result;
                }
                if news.changed().await.is_err() {
                    return Err(Error::Closed { why: "nobody holds it any more".into() });
                }
            }
        }))
    }

    fn seen(&self) -> Seen {
        Seen { position: self.position(), closed: self.closed() }
    }

    fn tell(&self) {
        let Some(news) = self.news.get() else { return };
        news.send_if_modified(|told| {
            let seen = self.seen();
            let more = seen.position > told.position || seen.closed.is_some() != told.closed.is_some();
            if more {
                *told = seen;
            }
            more
        });
    }
}

/// The state that waiting readers see.
#[derive(Debug)]
struct Seen {
    position: u64,
    closed: Option<Error>,
}

impl Seen {
    /// The end of a wait, once it has come. What can still be read comes before the end of the log.
    fn beyond(&self, after: u64) -> Option<Result<u64, Error>> {
        if self.position > after { Some(Ok(self.position)) } else { self.closed.clone().map(Err) }
    }
}
