//! Pod events across connections, without a cache.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_util::Stream;
use relay_proto::pods::{Gap, Message, PodEvent, Undecodable};
use relay_state::pods::{Continuity, Verdict};

use crate::calls::Client;
use crate::error::Error;
use crate::messages::{Incoming, ResumingMessages};
use crate::request::StreamOptions;

/// An item of a [`PodEventStream`].
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum PodEventItem {
    /// An event, each once and in the order of the log.
    Event(Box<PodEvent>),
    /// Events were lost, as announced by the relay or found by the client.
    Gap(Box<Gap>),
    /// A message could not be read; the stream goes on after it.
    Undecodable(Box<Undecodable>),
}

/// Events and gaps: a `Stream` that reconnects and resumes after the last event it handed over. Errors are final.
pub struct PodEventStream {
    messages: ResumingMessages,
    continuity: Continuity,
    ready: VecDeque<PodEventItem>,
    done: bool,
}

impl Client {
    /// Events and gaps. Reconnects, resumes from the last event handed over, and heals holes.
    pub fn stream_pod_events(&self, options: StreamOptions) -> PodEventStream {
        PodEventStream::new(self, options)
    }
}

impl PodEventStream {
    pub(crate) fn new(client: &Client, options: StreamOptions) -> Self {
        let narrowed = !options.filter.is_empty() || client.has_token();
        Self {
            messages: ResumingMessages::new(client, &options),
            continuity: Continuity::new(options.since, narrowed),
            ready: VecDeque::new(),
            done: false,
        }
    }

    /// The order of checks, with its positions and counts.
    pub fn continuity(&self) -> &Continuity {
        &self.continuity
    }

    fn take(&mut self, message: Message) {
        loop {
            match self.continuity.check(&message) {
                Verdict::GapBefore(gap) => {
                    self.ready.push_back(PodEventItem::Gap(Box::new(gap)));
                    continue;
                }
                Verdict::Gap(gap) => self.ready.push_back(match message {
                    Message::Undecodable(message) => PodEventItem::Undecodable(Box::new(message)),
                    _ => PodEventItem::Gap(Box::new(gap)),
                }),
                Verdict::Hole(cause) => {
                    self.continuity.handle_dropped();
                    self.messages.restart(&format!("hole: {cause}"));
                }
                Verdict::Accept => {
                    if let Message::Pod(event) = message {
                        self.ready.push_back(PodEventItem::Event(Box::new(event)));
                    }
                }
                _ => {}
            }
            break;
        }
        if self.continuity.has_progress() {
            self.messages.progress();
        }
    }
}

impl Stream for PodEventStream {
    type Item = Result<PodEventItem, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        loop {
            if let Some(item) = this.ready.pop_front() {
                return Poll::Ready(Some(Ok(item)));
            }
            if this.done {
                return Poll::Ready(None);
            }
            this.messages.resume_from(this.continuity.resume());
            match ready!(this.messages.poll_next(cx)) {
                Ok(Incoming::Opened) => {}
                Ok(Incoming::Message(message)) => this.take(message.into_message()),
                Ok(Incoming::Ended { .. }) => {
                    this.continuity.handle_dropped();
                }
                Err(error) => {
                    this.done = true;
                    return Poll::Ready(Some(Err(error)));
                }
            }
        }
    }
}

impl fmt::Debug for PodEventStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PodEventStream").field("connection", &self.messages).finish_non_exhaustive()
    }
}
