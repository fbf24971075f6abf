//! Reading: the driver of the reader machine.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::Stream;
use futures_util::future::BoxFuture;
use http::{HeaderValue, Method, header};
use http_body::Body as _;
use hyper::body::Incoming;
use relay_proto::durable::{
    Answer, Ask, Checkpoint, End, Live, Piece, Reader, ReaderConfig, ReaderStop, ReaderWant, Refusal, Retry,
    is_json,
};
use tokio::time::{Instant, Sleep};

use crate::client::check_retries;
use crate::exchange::{Call, Lost, Reply, seed, words};
use crate::{DurableStream, Error, ErrorKind};

/// An item of a read.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReadEvent {
    /// Data, with the checkpoint after it.
    Piece(Piece),
    /// An attempt failed, and will be retried.
    Retry(Retry),
    /// The end: the last item.
    End(End),
}

/// Reads a stream over as many requests as it takes: a `Stream` that ends after [`ReadEvent::End`] or one error.
///
/// Nothing happens unless it is polled, and it does not read ahead of a piece. Dropping it closes the connection.
pub struct Reads {
    pub(crate) stream: DurableStream,
    machine: Reader,
    link: Link,
    origin: Instant,
    timer: Option<Pin<Box<Sleep>>>,
    retry_for: Option<Duration>,
    /// What is wrong with the configuration.
    refused: Option<Error>,
    /// The end, kept until the body of a refusal is read.
    stopping: Option<ReaderStop>,
    pub(crate) done: bool,
}

enum Link {
    None,
    Opening(BoxFuture<'static, Result<Reply, Lost>>),
    Open(Incoming),
    /// A refusal whose body is being read.
    Words(BoxFuture<'static, String>, Box<Answer>),
}

impl DurableStream {
    /// Reads from a checkpoint on.
    pub fn read(&self, config: ReaderConfig, from: Checkpoint) -> Reads {
        Reads::new(self.clone(), config, from)
    }
}

impl Reads {
    pub(crate) fn new(stream: DurableStream, config: ReaderConfig, from: Checkpoint) -> Self {
        let retry_for = config.retry_for;
        let refused = check_retries(config.retry_base, config.retry_cap, retry_for).err();
        let machine = Reader::new(config, from, seed());
        Self {
            refused,
            machine: match stream.known_type() {
                Some(kind) => machine.known(is_json(&kind)),
                None => machine,
            },
            stream,
            link: Link::None,
            origin: Instant::now(),
            timer: None,
            retry_for,
            stopping: None,
            done: false,
        }
    }

    /// The checkpoint after everything given out so far.
    pub fn position(&self) -> &Checkpoint {
        self.machine.position()
    }

    /// The start of the read; for [`Offset::NOW`](crate::Offset::NOW) the offset from the server's first response.
    pub fn began(&self) -> &Checkpoint {
        self.machine.began()
    }

    /// Whether the stream is one of JSON messages; `None` while that is unknown.
    pub fn is_json(&self) -> Option<bool> {
        self.machine.is_json()
    }

    fn now(&self) -> Duration {
        self.origin.elapsed()
    }

    fn open(&self, ask: Ask) -> Link {
        let method = if ask.head { Method::HEAD } else { Method::GET };
        let mut call = Call::new(method, self.stream.url(), ask.wait);
        call.query = ask.query;
        if ask.live == Some(Live::Sse) {
            call.headers.insert(header::ACCEPT, HeaderValue::from_static("text/event-stream"));
        }
        let client = self.stream.client.clone();
        Link::Opening(Box::pin(async move { client.shared.exchange(&call).await }))
    }

    fn poll_timer(&mut self, until: Duration, cx: &mut Context<'_>) -> Poll<()> {
        let Some(deadline) = self.origin.checked_add(until) else { return Poll::Pending };
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        if timer.deadline() != deadline {
            timer.as_mut().reset(deadline);
        }
        timer.as_mut().poll(cx)
    }

    /// Polls the request in progress.
    fn poll_link(&mut self, cx: &mut Context<'_>) -> Poll<Option<Error>> {
        let now = self.now();
        match &mut self.link {
            Link::None | Link::Words(..) => Poll::Pending,
            Link::Opening(opening) => match std::task::ready!(opening.as_mut().poll(cx)) {
                Ok(reply) => {
                    self.machine.handle_answer(&reply.answer, now);
                    self.link = match reply.answer.refusal() {
                        Some(refusal) if refusal != Refusal::Busy => {
                            let patience = self.stream.client.shared.timeout;
                            Link::Words(Box::pin(words(reply.body, patience)), Box::new(reply.answer))
                        }
                        _ => Link::Open(reply.body),
                    };
                    Poll::Ready(None)
                }
                Err(Lost::Never(error)) => Poll::Ready(Some(error)),
                Err(Lost::Unsent(cause)) => {
                    self.link = Link::None;
                    self.machine.handle_failure(&cause, now);
                    Poll::Ready(None)
                }
                Err(Lost::Unknown(cause)) => {
                    self.link = Link::None;
                    self.machine.handle_end(Some(&cause), now);
                    Poll::Ready(None)
                }
            },
            Link::Open(body) => {
                match std::task::ready!(Pin::new(body).poll_frame(cx)) {
                    Some(Ok(frame)) => {
                        if let Ok(data) = frame.into_data() {
                            self.machine.handle_bytes(data, now);
                        }
                    }
                    Some(Err(error)) => {
                        self.link = Link::None;
                        self.machine.handle_end(Some(&cause_of(&error)), now);
                    }
                    None => {
                        self.link = Link::None;
                        self.machine.handle_end(None, now);
                    }
                }
                Poll::Ready(None)
            }
        }
    }

    /// The end, as an item or an error; `Pending` while the body of a refusal is read.
    fn poll_stop(&mut self, stop: &ReaderStop, cx: &mut Context<'_>) -> Poll<Result<End, Error>> {
        let url = self.stream.url().to_owned();
        let error = match stop {
            ReaderStop::End(end) => return Poll::Ready(Ok(*end)),
            ReaderStop::Refused { refusal, status, offset } => {
                let said = match &mut self.link {
                    Link::Words(reading, _) => std::task::ready!(reading.as_mut().poll(cx)),
                    _ => String::new(),
                };
                let answer = match &self.link {
                    Link::Words(_, answer) => Answer::clone(answer),
                    _ => Answer::new(*status),
                };
                match refusal {
                    Refusal::Gone => {
                        Error::new(ErrorKind::Gone, &url, format!("gone: offset {offset}")).with_status(410)
                    }
                    refusal => Error::refused(&url, *refusal, &answer, &said),
                }
            }
            ReaderStop::Malformed { offset, what } => {
                Error::new(ErrorKind::Malformed, &url, format!("malformed answer at offset {offset}: {what}"))
            }
            ReaderStop::TooLarge { offset, limit } => Error::new(
                ErrorKind::TooLarge,
                &url,
                format!("too large: a message after offset {offset} has more than {limit} bytes"),
            ),
            ReaderStop::NoProgress { offset } => Error::new(
                ErrorKind::NoProgress,
                &url,
                format!("no progress: answers to offset {offset} move neither it nor the cursor"),
            ),
            ReaderStop::OutOfTime { cause } => Error::out_of_time(&url, self.retry_for, cause),
            other => Error::new(ErrorKind::Local, &url, format!("{other:?}")),
        };
        Poll::Ready(Err(error))
    }
}

/// The causes of a broken body, in one line.
fn cause_of(error: &hyper::Error) -> String {
    let mut line = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        let text = cause.to_string();
        if !line.contains(&text) {
            line = format!("{line}: {text}");
        }
        source = cause.source();
    }
    line
}

impl Stream for Reads {
    type Item = Result<ReadEvent, Error>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if this.done {
            return Poll::Ready(None);
        }
        if let Some(refused) = this.refused.take() {
            this.done = true;
            return Poll::Ready(Some(Err(refused)));
        }
        loop {
            if let Some(stop) = this.stopping.take() {
                let Poll::Ready(ended) = this.poll_stop(&stop, cx) else {
                    this.stopping = Some(stop);
                    return Poll::Pending;
                };
                this.done = true;
                this.link = Link::None;
                return Poll::Ready(Some(ended.map(ReadEvent::End)));
            }
            let want = this.machine.poll(this.now());
            let until = match want {
                ReaderWant::Ask(ask) => {
                    this.link = this.open(ask);
                    continue;
                }
                ReaderWant::Piece(piece) => return Poll::Ready(Some(Ok(ReadEvent::Piece(piece)))),
                ReaderWant::Retry(retry) => return Poll::Ready(Some(Ok(ReadEvent::Retry(retry)))),
                ReaderWant::Stop(stop) => {
                    this.stopping = Some(stop);
                    continue;
                }
                ReaderWant::Wait(until) => {
                    this.link = Link::None;
                    until
                }
                ReaderWant::Answer(until) | ReaderWant::Bytes(until) => until,
                _ => return Poll::Pending,
            };
            match this.poll_link(cx) {
                Poll::Ready(None) => {}
                Poll::Ready(Some(error)) => {
                    this.done = true;
                    this.link = Link::None;
                    return Poll::Ready(Some(Err(error)));
                }
                Poll::Pending => {
                    std::task::ready!(this.poll_timer(until, cx));
                    this.timer = None;
                    let now = this.now();
                    this.machine.handle_timeout(now);
                }
            }
        }
    }
}

impl fmt::Debug for Reads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reads")
            .field("stream", &self.stream)
            .field("position", self.position())
            .finish_non_exhaustive()
    }
}
