//! A subscription as a stream.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use futures_util::Stream;
use relay_proto::parsec::Position;
use relay_state::sequences::{Follow, Frame, Item, Restart};
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
    /// This connection has brought something new.
    progressed: bool,
    /// The position of the last item that was handed out, while items after it wait in the fold.
    handed: Option<Position>,
}

/// Frames that are decoded one after another before their items are handed out. An item is moved several times on its
/// way, which stalls the processor when it was written just before; with others in between, it does not.
const AHEAD: usize = 8;

/// State shared by a subscription's handles and its stream.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) channel: String,
    pub(crate) state: watch::Sender<SubscriptionState>,
    cancel: CancellationToken,
    /// Whether it was unsubscribed, and whether its client was closed: what a look at the token would say, without its
    /// lock.
    unsubscribed: AtomicBool,
    closed: Arc<AtomicBool>,
    /// The last envelope that was handed over: its channel and sequence.
    pub(crate) last: std::sync::Mutex<Option<(String, i64)>>,
}

impl Shared {
    /// Of a subscription that ends with a token, which is cancelled after `closed` is set.
    pub(crate) fn new(channel: &str, cancel: CancellationToken, closed: Arc<AtomicBool>) -> Self {
        Self {
            channel: channel.to_owned(),
            state: watch::Sender::default(),
            cancel,
            unsubscribed: AtomicBool::new(false),
            closed,
            last: std::sync::Mutex::new(None),
        }
    }

    pub(crate) fn unsubscribe(&self) {
        self.unsubscribed.store(true, Ordering::Release);
        self.cancel.cancel();
    }

    fn is_over(&self) -> bool {
        self.unsubscribed.load(Ordering::Acquire) || self.closed.load(Ordering::Acquire)
    }
}

impl Items {
    pub(crate) fn new(feed: Box<dyn Feed>, follow: Follow, shared: Arc<Shared>) -> Self {
        let cancelled = Box::pin(shared.cancel.clone().cancelled_owned());
        let (ended, progressed, told) = (false, false, SubscriptionState::Connecting);
        Self { feed, follow, shared, cancelled, ended, told, progressed, handed: None }
    }

    /// The position after all items that were handed out. Store it to continue later.
    pub fn position(&self) -> Option<&Position> {
        if self.follow.is_drained() { self.follow.position() } else { self.handed.as_ref() }
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

    /// The next item that is decoded.
    #[inline]
    fn decoded(&mut self) -> Option<Item> {
        let item = self.follow.next_item()?;
        if !self.follow.is_drained()
            && let Some(position) = item.position()
        {
            match &mut self.handed {
                Some(handed) => handed.go_to(position),
                none => *none = Some(position.clone()),
            }
        }
        Some(item)
    }

    /// Decodes some of the frames that have come already. Returns whether there was any.
    #[inline]
    fn decode(&mut self) -> bool {
        for decoded in 0..AHEAD {
            let Some(result) = self.feed.next_into(&mut self.follow) else { return decoded > 0 };
            let restarts = result.is_err();
            self.handled(result);
            if restarts {
                break;
            }
        }
        true
    }

    /// Tells the feed what the fold returned for a frame.
    #[inline]
    fn handled(&mut self, result: Result<bool, Restart>) {
        match result {
            // Once per connection is enough.
            Ok(true) if !self.progressed => {
                self.progressed = true;
                self.feed.progress();
            }
            Ok(_) => {}
            Err(restart) => self.feed.restart(&restart.reason),
        }
    }

    /// Applies an event of the feed. `Err` ends the subscription.
    fn take(&mut self, event: Event) -> Result<(), Error> {
        match event {
            Event::Opened => {
                self.progressed = false;
                self.follow.handle_open();
            }
            Event::Frame(frame) => {
                if matches!(frame, Frame::Connected { .. }) {
                    self.tell(SubscriptionState::Live);
                }
                let result = self.follow.handle_frame(frame);
                self.handled(result);
            }
            Event::Waiting { reason, delay } => {
                let channel = &self.shared.channel;
                let cause = format!("{channel}: {reason}");
                tracing::warn!(target: crate::RETRY_TARGET, cause, delay = delay.as_secs_f64(), "connecting again");
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
        if this.shared.is_over() {
            this.ended = true;
            this.tell(SubscriptionState::Ended);
            return Poll::Ready(None);
        }
        loop {
            if let Some(item) = this.decoded() {
                return Poll::Ready(Some(Ok(item)));
            }
            if this.decode() {
                continue;
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
            .field("position", &self.position())
            .field("state", &self.told)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Otherwise an item would be written anew, and not only moved, on its way out.
    #[test]
    fn what_is_polled_is_as_large_as_an_item() {
        assert_eq!(size_of::<Poll<Option<Result<Item, Error>>>>(), size_of::<Item>());
    }
}
