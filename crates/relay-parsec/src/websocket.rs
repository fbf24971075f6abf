//! The WebSocket transport, to servers that embed centrifuge; publishes by Twirp.

mod hub;
mod socket;

use std::collections::HashSet;
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use futures_util::future::{BoxFuture, FutureExt};
use relay_proto::parsec::Position;
use relay_proto::parsec::centrifuge::{
    TwirpError, TwirpPresence, TwirpPublished, twirp_name, twirp_path, twirp_publish,
};
use relay_proto::parsec::session::Config;
use tokio::task::JoinHandle;

use self::hub::{Hub, Local};
use crate::endpoint::unreadable;
use crate::{Endpoint, Error, Event, Feed, Presence, PublishFailure, Receipt, Start, Transport};

/// A transport to a server that embeds centrifuge, as Parsec's own does: subscriptions over one WebSocket, publishes
/// and presence by Twirp in JSON. It has no history.
///
/// One server subscription per channel, however many local ones. The connection waits for a subscriber whose queue is
/// full, so that a long replay is not lost. One that takes less than a queue's length within a second loses further
/// envelopes until it has read its queue, which a [`Frame::Lag`](relay_state::sequences::Frame::Lag) counts: it delays
/// others for that second, and not again before it has read.
pub struct WebSocketTransport {
    endpoint: Endpoint,
    hub: Arc<Hub>,
    open_channels: bool,
    opened: Mutex<HashSet<String>>,
    task: Mutex<Option<JoinHandle<()>>>,
}

/// Settings of a [`WebSocketTransport`].
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct WebSocketConfig {
    /// Ceiling of the first delay before a reconnect or another subscribe. Default 0.8 s.
    pub base: Duration,
    /// Ceiling of every delay. Default 30 s.
    pub cap: Duration,
    /// Number of attempts in a row for a subscribe that fails with error 100. Default 5.
    pub subscribe_tries: u32,
    /// Size of each subscriber's queue, in envelopes; at least 1. Default 64.
    pub queue: usize,
    /// Whether a channel is opened (`OpenPublic`) before the first publish to it. Default no.
    pub open_channels: bool,
}

impl Default for WebSocketConfig {
    fn default() -> Self {
        Self {
            base: Duration::from_millis(800),
            cap: Duration::from_secs(30),
            subscribe_tries: 5,
            queue: 64,
            open_channels: false,
        }
    }
}

impl WebSocketConfig {
    /// Sets the ceilings of the first delay and of every delay.
    #[must_use]
    pub fn backoff(mut self, base: Duration, cap: Duration) -> Self {
        (self.base, self.cap) = (base, cap);
        self
    }

    /// Sets the number of attempts after error 100.
    #[must_use]
    pub fn subscribe_tries(mut self, tries: u32) -> Self {
        self.subscribe_tries = tries;
        self
    }

    /// Sets the size of each subscriber's queue, in envelopes.
    #[must_use]
    pub fn queue(mut self, envelopes: usize) -> Self {
        self.queue = envelopes;
        self
    }

    /// Sets whether channels are opened.
    #[must_use]
    pub fn open_channels(mut self, open: bool) -> Self {
        self.open_channels = open;
        self
    }
}

impl WebSocketTransport {
    /// A transport to a server. Nothing is sent before the first subscribe or publish.
    pub fn new(endpoint: Endpoint, config: WebSocketConfig) -> Self {
        let mut session = Config::default();
        (session.base, session.cap) = (config.base, config.cap);
        session.subscribe_tries = config.subscribe_tries;
        Self {
            hub: Arc::new(Hub::new(session, config.queue.max(1))),
            endpoint,
            open_channels: config.open_channels,
            opened: Mutex::default(),
            task: Mutex::default(),
        }
    }

    async fn call(&self, method: &str, channel: &str, body: String) -> Result<Bytes, PublishFailure> {
        let what = format!("{method} of {channel}");
        let result = self.endpoint.post(&what, &twirp_path(method), &[], body.into()).await;
        result.map_err(|failure| match failure {
            PublishFailure::Refused(error) => PublishFailure::Refused(in_words(channel, error)),
            PublishFailure::Unavailable { error, retry_after } => {
                PublishFailure::Unavailable { error: in_words(channel, error), retry_after }
            }
        })
    }

    async fn open(&self, channel: &str) -> Result<(), PublishFailure> {
        let known = self.opened.lock().unwrap_or_else(PoisonError::into_inner).contains(channel);
        if !self.open_channels || known {
            return Ok(());
        }
        match self.call("OpenPublic", channel, twirp_name(channel)).await {
            Ok(_) => {}
            // The channel is already open.
            Err(PublishFailure::Refused(Error::Refused { problem, .. })) if problem.status == 409 => {}
            Err(failure) => return Err(failure),
        }
        self.opened.lock().unwrap_or_else(PoisonError::into_inner).insert(channel.to_owned());
        Ok(())
    }
}

/// Converts a Twirp server's error.
fn in_words(channel: &str, error: Error) -> Error {
    let Error::Refused { what, mut problem } = error else { return error };
    let said = serde_json::json!({"code": problem.code, "msg": problem.members.get("msg")});
    if let Some(twirp) = TwirpError::from_body(said.to_string().as_bytes()) {
        let hint = match twirp.code.as_str() {
            "not_found" => format!("; channel {channel} must be opened before it takes anything"),
            _ => String::new(),
        };
        problem.detail = Some(format!("{}{hint}", twirp.msg));
    }
    Error::Refused { what, problem }
}

impl Transport for WebSocketTransport {
    fn name(&self) -> &'static str {
        "websocket"
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        async move {
            self.hub.close();
            let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(task) = task {
                // A task that panicked has ended, too.
                let _ = task.await;
            }
        }
        .boxed()
    }

    fn publish<'a>(
        &'a self,
        channel: &'a str,
        envelope: Bytes,
    ) -> BoxFuture<'a, Result<Receipt, PublishFailure>> {
        async move {
            self.open(channel).await?;
            let body = self.call("Publish", channel, twirp_publish(channel, &envelope)).await?;
            let published: TwirpPublished =
                serde_json::from_slice(&body).map_err(|error| PublishFailure::Unavailable {
                    error: unreadable(&format!("Publish to {channel}"), "receipt", &error),
                    retry_after: None,
                })?;
            let position = (!published.epoch.is_empty() && published.offset > 0)
                .then(|| Position::new(published.epoch, published.offset));
            Ok(Receipt::new(position, false))
        }
        .boxed()
    }

    fn subscribe<'a>(
        &'a self,
        channel: &'a str,
        start: Start,
    ) -> BoxFuture<'a, Result<Box<dyn Feed>, Error>> {
        let local = match self.hub.join(channel, start) {
            Ok(local) => local,
            Err(error) => return std::future::ready(Err(error)).boxed(),
        };
        let mut task = self.task.lock().unwrap_or_else(PoisonError::into_inner);
        if task.is_none() {
            *task = Some(tokio::spawn(socket::drive(self.endpoint.clone(), self.hub.clone())));
        }
        let feed = WebSocketFeed { hub: self.hub.clone(), local };
        std::future::ready(Ok(Box::new(feed) as Box<dyn Feed>)).boxed()
    }

    fn presence<'a>(&'a self, channel: &'a str) -> BoxFuture<'a, Result<Presence, Error>> {
        async move {
            let body = match self.call("Presence", channel, twirp_name(channel)).await {
                Ok(body) => body,
                Err(PublishFailure::Refused(error) | PublishFailure::Unavailable { error, .. }) => {
                    return Err(error);
                }
            };
            let presence: TwirpPresence = serde_json::from_slice(&body)
                .map_err(|error| unreadable(&format!("Presence of {channel}"), "count", &error))?;
            Ok(Presence::count(presence.subscribers))
        }
        .boxed()
    }
}

struct WebSocketFeed {
    hub: Arc<Hub>,
    local: Arc<Local>,
}

impl Stream for WebSocketFeed {
    type Item = Event;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        self.local.poll(cx)
    }
}

impl Feed for WebSocketFeed {
    fn resume(&mut self, _: Option<&Position>) {
        // The hub knows what was queued, and this feed returns all of it.
    }

    fn restart(&mut self, reason: &str) {
        self.hub.restart(reason);
    }
}

impl Drop for WebSocketFeed {
    fn drop(&mut self) {
        self.hub.leave(&self.local);
    }
}

impl fmt::Debug for WebSocketTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebSocketTransport").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}
