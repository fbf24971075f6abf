//! A task that follows the stream and calls a handler.

use std::sync::{Mutex, PoisonError};

use relay_state::environments::{Event, State, Status};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::builder::{Builder, ConfigError};
use crate::events::{End, Events};
use crate::handler::{MessageHandler, call};

/// Follows the stream of one service, and calls a [`MessageHandler`] for changes.
///
/// Dropping it closes it, without waiting.
pub struct StreamManager {
    work: Mutex<Option<Work>>,
    tasks: TaskTracker,
    closed: CancellationToken,
    status: watch::Receiver<Status>,
    end: watch::Receiver<Option<End>>,
}

/// The task that is not started yet.
type Work = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

impl Builder {
    /// A manager that will call this handler. Nothing is sent before [`StreamManager::start`].
    ///
    /// # Errors
    /// The settings cannot be used.
    pub fn build<H: MessageHandler>(self, handler: H) -> Result<StreamManager, ConfigError> {
        Ok(StreamManager::new(Events::new(self)?, handler))
    }
}

impl StreamManager {
    /// Settings for the service at this URL, whose path and query are kept.
    pub fn builder(url: impl Into<String>) -> Builder {
        Builder::new(url.into())
    }

    fn new<H: MessageHandler>(events: Events, handler: H) -> Self {
        let (tell_status, status) = watch::channel(events.status().clone());
        let (tell_end, end) = watch::channel(None);
        let closed = CancellationToken::new();
        let sender = StatusSender { status: tell_status, end: tell_end };
        let work = Box::pin(work(events, handler, sender, closed.clone()));
        Self { work: Mutex::new(Some(work)), tasks: TaskTracker::new(), closed, status, end }
    }

    /// Begins, if it has not begun, and waits for the first connection. Needs a tokio runtime.
    ///
    /// At the first connection the environments are not known yet: wait for
    /// [`received_all_environments`](MessageHandler::received_all_environments).
    ///
    /// # Errors
    /// The reason, when the stream ended before it; [`End::Closed`] after [`close`](Self::close).
    pub async fn start(&self) -> Result<(), End> {
        if let Some(work) = self.take_work() {
            if self.closed.is_cancelled() {
                return Err(End::Closed);
            }
            self.tasks.spawn(work);
        }
        let (mut status, mut end) = (self.status.clone(), self.end.clone());
        tokio::select! {
            biased;
            Ok(_) = status.wait_for(|status| status.connected) => Ok(()),
            over = end.wait_for(Option::is_some) => Err(over.ok().and_then(|end| end.clone()).unwrap_or(End::Closed)),
        }
    }

    /// The status, as known to the handler.
    pub fn status(&self) -> Status {
        self.status.borrow().clone()
    }

    /// The status, and every change of it.
    pub fn watch(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// Why the stream has ended, if it has.
    pub fn end(&self) -> Option<End> {
        self.end.borrow().clone()
    }

    /// Ends the stream for good: the task is cancelled at its next `await`, also within a call of the handler. After
    /// this returns, no request is sent and no call is made. It may be called again, and before [`start`](Self::start).
    pub async fn close(&self) {
        self.closed.cancel();
        drop(self.take_work());
        self.tasks.close();
        self.tasks.wait().await;
    }

    fn take_work(&self) -> Option<Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Drop for StreamManager {
    fn drop(&mut self) {
        self.closed.cancel();
    }
}

impl std::fmt::Debug for StreamManager {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StreamManager")
            .field("status", &*self.status.borrow())
            .field("end", &*self.end.borrow())
            .finish_non_exhaustive()
    }
}

/// Publishes the status of the task. The last status is always `off`, also without a start and after a panic of the
/// handler.
struct StatusSender {
    status: watch::Sender<Status>,
    end: watch::Sender<Option<End>>,
}

impl StatusSender {
    fn over(&self, end: End) {
        self.status.send_modify(|status| {
            status.connected = false;
            status.retry = None;
            status.state = State::Off;
        });
        self.end.send_replace(Some(end));
    }
}

impl Drop for StatusSender {
    fn drop(&mut self) {
        if self.end.borrow().is_none() {
            self.over(End::Closed);
        }
    }
}

async fn work<H: MessageHandler>(
    mut events: Events,
    mut handler: H,
    sender: StatusSender,
    closed: CancellationToken,
) {
    let follow = async {
        while let Some(event) = events.next().await {
            let told = if let Event::Status(status) = &event { Some(status.clone()) } else { None };
            call(&mut handler, event).await;
            if let Some(told) = told {
                sender.status.send_replace(told);
            }
        }
    };
    closed.run_until_cancelled(follow).await;
    events.close();
    sender.over(events.end().cloned().unwrap_or(End::Closed));
}
