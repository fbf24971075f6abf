//! A subscription as a stream.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::Stream;
use relay_proto::parsec::Position;
use relay_state::sequences::{Follow, Frame, Item};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::{Error, Event, Feed};

/// The state of a subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum SubscriptionState {
    /// It waits for its first connection.
    #[default]
    Connecting,
    /// It waits for frames of an open connection.
    Live,
    /// It waits for the next attempt to connect.
    Waiting,
    /// It waits for nothing: the subscription is over.
    Ended,
}

/// The items of a channel, in order, across reconnects.
///
/// Nothing happens unless it is polled: a subscriber that does not read only stalls its own transport. It yields at
/// most one error, as its last item. When it was unsubscribed or the client was closed, it ends without an error.
pub struct Items {
    feed: Box<dyn Feed>,
    follow: Follow,
    shared: Arc<Shared>,
    cancelled: Pin<Box<WaitForCancellationFutureOwned>>,
    ended: bool,
    told: SubscriptionState,
}

/// State shared by a subscription's handles and its stream.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) channel: String,
    pub(crate) state: watch::Sender<SubscriptionState>,
    pub(crate) cancel: CancellationToken,
    /// The last envelope that was handed over: its channel and sequence.
    pub(crate) last: std::sync::Mutex<Option<(String, i64)>>,
}

impl Items {
    pub(crate) fn new(feed: Box<dyn Feed>, follow: Follow, shared: Arc<Shared>) -> Self {
        let cancelled = Box::pin(shared.cancel.clone().cancelled_owned());
        Self { feed, follow, shared, cancelled, ended: false, told: SubscriptionState::Connecting }
    }

    /// The position after all items that were handed out. Store it to continue later.
    pub fn position(&self) -> Option<&Position> {
        self.follow.position()
    }

    /// A receiver of the subscription's state: what it waits for.
    pub fn state(&self) -> watch::Receiver<SubscriptionState> {
        self.shared.state.subscribe()
    }

    fn tell(&mut self, state: SubscriptionState) {
        if self.told != state {
            self.told = state;
            self.shared.state.send_replace(state);
        }
    }

    /// Applies an event of the feed. `Err` ends the subscription.
    fn take(&mut self, event: Event) -> Result<(), Error> {
        match event {
            Event::Opened => self.follow.handle_open(),
            Event::Frame(frame) => {
                if matches!(frame, Frame::Connected { .. }) {
                    self.tell(SubscriptionState::Live);
                }
                match self.follow.handle_frame(frame) {
                    Ok(true) => self.feed.progress(),
                    Ok(false) => {}
                    Err(restart) => self.feed.restart(&restart.reason),
                }
            }
            Event::Waiting { reason, delay } => {
                let channel = &self.shared.channel;
                tracing::warn!(
                    channel,
                    reason,
                    delay_ms = delay.as_millis() as u64,
                    "not connected; trying again"
                );
                self.feed.resume(self.follow.position());
                self.tell(SubscriptionState::Waiting);
            }
            Event::Ended(error) => return Err(error),
        }
        Ok(())
    }
}

impl Stream for Items {
    type Item = Result<Item, Error>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if this.ended {
            return Poll::Ready(None);
        }
        if this.shared.cancel.is_cancelled() {
            this.ended = true;
            this.tell(SubscriptionState::Ended);
            return Poll::Ready(None);
        }
        loop {
            if let Some(item) = this.follow.next_item() {
                return Poll::Ready(Some(Ok(item)));
            }
            match Pin::new(&mut this.feed).poll_next(cx) {
                Poll::Ready(Some(event)) => {
                    if let Err(error) = this.take(event) {
                        this.ended = true;
                        this.tell(SubscriptionState::Ended);
                        return Poll::Ready(Some(Err(error)));
                    }
                }
                Poll::Ready(None) => {
                    this.ended = true;
                    this.tell(SubscriptionState::Ended);
                    return Poll::Ready(None);
                }
                Poll::Pending => {
                    if Future::poll(this.cancelled.as_mut(), cx).is_pending() {
                        return Poll::Pending;
                    }
                    this.ended = true;
                    this.tell(SubscriptionState::Ended);
                    return Poll::Ready(None);
                }
            }
        }
    }
}

impl Drop for Items {
    fn drop(&mut self) {
        self.tell(SubscriptionState::Ended);
    }
}

impl fmt::Debug for Items {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Items")
            .field("channel", &self.shared.channel)
            .field("position", &self.follow.position())
            .field("state", &self.told)
            .finish_non_exhaustive()
    }
}
