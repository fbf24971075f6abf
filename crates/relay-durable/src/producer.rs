//! Producing: the driver of the producer machine.

use std::collections::VecDeque;
use std::error::Error as StdError;
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use http::Method;
use relay_proto::durable::{
    Answer, Attempt, Event, Offset, Producer, ProducerState, ProducerStop, ProducerWant, Refusal, Refused,
    is_json,
};
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::exchange::{Call, Lost, seed, words};
use crate::{DurableStream, Error, ErrorKind};

mod options;

pub use options::{Notice, ProducerOptions, StateStore};

use options::{OnNotice, check};

/// The outcome of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Outcome {
    /// The offset after its batch. A server need not send it for a duplicate.
    pub offset: Option<Offset>,
    /// Whether an earlier attempt had been accepted.
    pub duplicate: bool,
    /// The epoch it was written in.
    pub epoch: u64,
    /// The number of its batch.
    pub seq: u64,
}

type Answered = Result<Outcome, Arc<Error>>;

/// Resolves once the message is on the server, or this producer has failed. Dropping it has no effect.
#[derive(Debug)]
pub struct Receipt(oneshot::Receiver<Answered>);

impl Future for Receipt {
    type Output = Answered;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Answered> {
        Pin::new(&mut self.0).poll(cx).map(|answered| {
            answered.unwrap_or_else(|_| {
                Err(Arc::new(Error::new(
                    ErrorKind::OutcomeUnknown,
                    "",
                    "outcome unknown: the producer was dropped",
                )))
            })
        })
    }
}

/// Writes each message once, in order: batches are sent again with the same number and bytes until they are
/// acknowledged.
///
/// One task sends; it ends when this is dropped, and then the outcome of unacknowledged messages is unknown. After
/// the first permanent error nothing more is sent, and every receipt, [`flush`](Self::flush) and append returns it.
pub struct IdempotentProducer {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

struct Shared {
    inner: Mutex<Inner>,
    /// Wakes the task.
    work: Notify,
    /// Wakes waiting callers.
    news: Notify,
    origin: Instant,
}

struct Inner {
    machine: Producer,
    mark: u64,
    receipts: VecDeque<(u64, oneshot::Sender<Answered>)>,
    failure: Option<Arc<Error>>,
    /// Where the stream ends, once it is closed.
    closed: Option<Option<Offset>>,
    last_offset: Option<Offset>,
    /// The task is to end, and has ended.
    ending: bool,
    ended: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Duration {
        self.origin.elapsed()
    }
}

impl IdempotentProducer {
    /// A producer for an existing stream. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] naming the field that is wrong; those of a HEAD when the content type is not given.
    pub async fn start(stream: &DurableStream, options: ProducerOptions) -> Result<Self, Error> {
        let ProducerOptions { id, mut config, content_type, resume, store, on_notice, messages_before } =
            options;
        check(&id, &config)?;
        let kind = match content_type {
            Some(kind) => kind,
            None => stream.content_type().await?,
        };
        config.json = is_json(&kind);
        let retry_for = config.retry_for;
        let mark = resume.as_ref().map_or(0, |state| state.acknowledged);
        let machine = match &resume {
            Some(state) => Producer::resume(config, state, seed()),
            None => Producer::new(config, seed()),
        };
        let inner = Inner {
            machine,
            mark,
            receipts: VecDeque::new(),
            failure: None,
            closed: None,
            last_offset: None,
            ending: false,
            ended: false,
        };
        let shared = Arc::new(Shared {
            inner: Mutex::new(inner),
            work: Notify::new(),
            news: Notify::new(),
            origin: Instant::now(),
        });
        let task = Task {
            shared: shared.clone(),
            stream: stream.clone(),
            id,
            kind,
            store,
            on_notice,
            retry_for,
            messages_before,
            said: String::new(),
        };
        Ok(Self { task: tokio::spawn(task.run()), shared })
    }

    /// Appends a message and returns at once. When there is no room, or the producer has ended, the receipt has the
    /// error.
    pub fn append(&self, message: impl AsRef<[u8]>) -> Receipt {
        self.try_append(message).unwrap_or_else(|error| {
            let (sender, receiver) = oneshot::channel();
            let _ = sender.send(Err(error));
            Receipt(receiver)
        })
    }

    /// Appends a message if there is room for it.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] when there is none, or it is not JSON though the stream is; else why the producer has
    /// ended.
    pub fn try_append(&self, message: impl AsRef<[u8]>) -> Result<Receipt, Arc<Error>> {
        let (message, mut inner) = (message.as_ref(), self.shared.lock());
        if let Some(failure) = &inner.failure {
            return Err(failure.clone());
        }
        if !inner.machine.has_room(message.len()) {
            return Err(Arc::new(Error::usage("the producer's buffer is full")));
        }
        let mark = inner.mark + 1;
        let (sender, receiver) = oneshot::channel();
        inner.receipts.push_back((mark, sender));
        self.push(inner, mark, |machine, now| machine.push(message, mark, now));
        Ok(Receipt(receiver))
    }

    /// Waits for room, then appends a message.
    ///
    /// # Errors
    /// Why the producer has ended.
    pub async fn append_wait(&self, message: impl AsRef<[u8]>) -> Result<Receipt, Arc<Error>> {
        self.room(message.as_ref().len()).await?;
        self.try_append(message)
    }

    /// Waits for room, then appends a message without a receipt. `mark` is the caller's position after the message;
    /// it comes back in [`Acknowledged::mark`](crate::Acknowledged::mark) and in the stored state, and must grow.
    ///
    /// # Errors
    /// Why the producer has ended.
    pub async fn append_marked(&self, message: &[u8], mark: u64) -> Result<(), Arc<Error>> {
        self.taken(message.len(), mark, |machine, now| machine.push(message, mark, now)).await
    }

    /// Like [`append_marked`](Self::append_marked), for a message in memory of its own: a large one is not copied.
    ///
    /// # Errors
    /// Why the producer has ended.
    pub async fn append_owned(&self, message: Bytes, mark: u64) -> Result<(), Arc<Error>> {
        let bytes = message.len();
        self.taken(bytes, mark, |machine, now| machine.push_owned(message, mark, now)).await
    }

    async fn taken(
        &self,
        bytes: usize,
        mark: u64,
        push: impl FnOnce(&mut Producer, Duration),
    ) -> Result<(), Arc<Error>> {
        loop {
            let news = self.shared.news.notified();
            {
                let inner = self.shared.lock();
                if let Some(failure) = &inner.failure {
                    return Err(failure.clone());
                }
                if inner.ended {
                    return Err(Arc::new(Error::usage("the producer has ended")));
                }
                if inner.machine.has_room(bytes) {
                    self.push(inner, mark, push);
                    return Ok(());
                }
            }
            news.await;
        }
    }

    /// Hands in a batch that was in flight in an earlier process: see [`ProducerOptions::resume`].
    pub fn append_batch<'m>(&self, messages: impl Iterator<Item = (&'m [u8], u64)>) {
        let mut inner = self.shared.lock();
        let now = self.shared.now();
        inner.machine.push_batch(messages, now);
        drop(inner);
        self.shared.work.notify_one();
    }

    fn push(&self, mut inner: MutexGuard<'_, Inner>, mark: u64, push: impl FnOnce(&mut Producer, Duration)) {
        inner.mark = mark;
        push(&mut inner.machine, self.shared.now());
        drop(inner);
        self.shared.work.notify_one();
    }

    async fn room(&self, bytes: usize) -> Result<(), Arc<Error>> {
        loop {
            let news = self.shared.news.notified();
            {
                let inner = self.shared.lock();
                if let Some(failure) = &inner.failure {
                    return Err(failure.clone());
                }
                if inner.machine.has_room(bytes) {
                    return Ok(());
                }
            }
            news.await;
        }
    }

    /// Waits until everything appended is on the server.
    ///
    /// # Errors
    /// Why the producer has ended.
    pub async fn flush(&self) -> Result<Option<Offset>, Arc<Error>> {
        loop {
            let news = self.shared.news.notified();
            {
                let mut inner = self.shared.lock();
                if let Some(failure) = &inner.failure {
                    return Err(failure.clone());
                }
                if inner.machine.is_idle() {
                    return Ok(inner.last_offset.clone());
                }
                inner.machine.flush();
            }
            self.shared.work.notify_one();
            news.await;
        }
    }

    /// Closes the stream with the producer's next number, after everything appended. Safe to repeat, also by a producer
    /// that continues from the same state. Returns the final offset.
    ///
    /// # Errors
    /// Why the producer has ended.
    pub async fn close(&self) -> Result<Option<Offset>, Arc<Error>> {
        loop {
            let news = self.shared.news.notified();
            {
                let mut inner = self.shared.lock();
                if let Some(failure) = &inner.failure {
                    return Err(failure.clone());
                }
                if let Some(offset) = &inner.closed {
                    return Ok(offset.clone());
                }
                inner.machine.close();
            }
            self.shared.work.notify_one();
            news.await;
        }
    }

    /// Waits until everything appended is on the server, then continues in the next epoch with number 0, and returns
    /// that epoch. Other producers with the old epoch are refused from the next batch on.
    ///
    /// # Errors
    /// Those of [`flush`](Self::flush), and [`ErrorKind::Closed`] after a close.
    pub async fn restart(&self) -> Result<u64, Arc<Error>> {
        loop {
            self.flush().await?;
            let mut inner = self.shared.lock();
            if inner.machine.restart() {
                return Ok(inner.machine.epoch());
            }
            // There may be new appends.
            if inner.machine.is_idle() {
                return Err(Arc::new(Error::new(
                    ErrorKind::Closed,
                    "",
                    "the stream is closed, or being closed",
                )));
            }
        }
    }

    /// Flushes and ends, and leaves the stream open.
    ///
    /// # Errors
    /// Those of [`flush`](Self::flush).
    pub async fn detach(self) -> Result<Option<Offset>, Arc<Error>> {
        self.flush().await
    }

    /// Ends the producer's task once its state is stored. Unacknowledged batches stay in flight: see
    /// [`ProducerOptions::resume`]. Nothing can be appended afterwards.
    ///
    /// # Errors
    /// Why the producer had ended before, or that its state cannot be stored.
    pub async fn end(&self) -> Result<(), Arc<Error>> {
        loop {
            let news = self.shared.news.notified();
            {
                let mut inner = self.shared.lock();
                inner.ending = true;
                if inner.ended {
                    return inner.failure.clone().map_or(Ok(()), Err);
                }
            }
            self.shared.work.notify_one();
            news.await;
        }
    }

    /// The state from which another process can continue.
    pub fn state(&self) -> ProducerState {
        self.shared.lock().machine.state()
    }

    /// The present epoch.
    pub fn epoch(&self) -> u64 {
        self.shared.lock().machine.epoch()
    }

    /// Waits until the producer has ended for good.
    pub async fn failed(&self) -> Arc<Error> {
        loop {
            let news = self.shared.news.notified();
            if let Some(failure) = &self.shared.lock().failure {
                return failure.clone();
            }
            news.await;
        }
    }
}

impl Drop for IdempotentProducer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl fmt::Debug for IdempotentProducer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdempotentProducer").field("state", &self.state()).finish_non_exhaustive()
    }
}

/// The task that sends.
struct Task {
    shared: Arc<Shared>,
    stream: DurableStream,
    id: String,
    kind: String,
    store: Option<Box<dyn StateStore>>,
    on_notice: Option<OnNotice>,
    retry_for: Option<Duration>,
    messages_before: u64,
    /// The body of the last refusal.
    said: String,
}

/// The result of an attempt.
type Done = (u64, Result<(Answer, String), Lost>);

impl Task {
    async fn run(mut self) {
        let failure = self.work().await;
        let state = self.shared.lock().machine.state();
        let saved = self.save(state).await.map_err(|error| self.unstored(error)).err();
        let (failure, receipts) = {
            let mut inner = self.shared.lock();
            // The first error is reported.
            let failure = failure.or(saved).map(Arc::new);
            inner.failure.clone_from(&failure);
            inner.ended = true;
            (failure, std::mem::take(&mut inner.receipts))
        };
        if let Some(failure) = failure {
            for (_, receipt) in receipts {
                let _ = receipt.send(Err(failure.clone()));
            }
        }
        self.shared.news.notify_waiters();
    }

    fn unstored(&self, error: Box<dyn StdError + Send + Sync>) -> Error {
        Error::new(ErrorKind::Local, self.stream.url(), "the producer's state cannot be stored")
            .with_source(error)
    }

    /// Sends until something fails for good, or it is to end.
    async fn work(&mut self) -> Option<Error> {
        let mut out = FuturesUnordered::new();
        loop {
            let want = self.shared.lock().machine.poll(self.shared.now());
            let until = match want {
                ProducerWant::Send(attempt) => {
                    if attempt.first {
                        let state = self.shared.lock().machine.state();
                        if let Err(error) = self.save(state).await {
                            return Some(self.unstored(error));
                        }
                    }
                    match self.call(&attempt) {
                        Ok(call) => out.push(send(self.stream.clone(), call, attempt.ticket)),
                        Err(error) => return Some(error),
                    }
                    continue;
                }
                ProducerWant::Event(event) => {
                    self.happened(&event);
                    continue;
                }
                ProducerWant::Stop(stop) => return Some(self.error(stop)),
                ProducerWant::Wait(until) => Some(until),
                _ => None,
            };
            if self.shared.lock().ending {
                return None;
            }
            let timer = async {
                match until.and_then(|until| self.shared.origin.checked_add(until)) {
                    Some(until) => tokio::time::sleep_until(until).await,
                    None => std::future::pending().await,
                }
            };
            let done = tokio::select! {
                Some(done) = out.next(), if !out.is_empty() => done,
                () = timer => continue,
                () = self.shared.work.notified() => continue,
            };
            if let Some(error) = self.handle(done) {
                return Some(error);
            }
        }
    }

    fn handle(&mut self, (ticket, result): Done) -> Option<Error> {
        let now = self.shared.now();
        let mut inner = self.shared.lock();
        match result {
            Ok((answer, said)) => {
                self.said = said;
                inner.machine.handle_answer(ticket, &answer, now);
            }
            Err(Lost::Unsent(cause)) => inner.machine.handle_failure(ticket, &cause, false, now),
            Err(Lost::Unknown(cause)) => inner.machine.handle_failure(ticket, &cause, true, now),
            Err(Lost::Never(error)) => return Some(error),
        }
        None
    }

    fn happened(&mut self, event: &Event) {
        match event {
            Event::Acknowledged(batch) => {
                let mut inner = self.shared.lock();
                if batch.offset.is_some() {
                    inner.last_offset.clone_from(&batch.offset);
                }
                while inner.receipts.front().is_some_and(|(mark, _)| *mark <= batch.mark) {
                    let Some((_, receipt)) = inner.receipts.pop_front() else { break };
                    let _ = receipt.send(Ok(Outcome {
                        offset: batch.offset.clone(),
                        duplicate: batch.duplicate,
                        epoch: batch.epoch,
                        seq: batch.seq,
                    }));
                }
            }
            Event::Closed { offset } => self.shared.lock().closed = Some(offset.clone()),
            _ => {}
        }
        if let Some(told) = &mut self.on_notice {
            told(event);
        }
        self.shared.news.notify_waiters();
    }

    async fn save(&mut self, state: ProducerState) -> Result<(), Box<dyn StdError + Send + Sync>> {
        let Some(mut store) = self.store.take() else { return Ok(()) };
        let saving = tokio::task::spawn_blocking(move || {
            let saved = store.save(&state);
            (store, saved)
        });
        let (store, saved) = saving.await?;
        self.store = Some(store);
        saved
    }

    fn call(&self, attempt: &Attempt) -> Result<Call, Error> {
        let mut call = Call::new(Method::POST, self.stream.url(), self.stream.client.shared.timeout);
        call.header("producer-id", &self.id)?;
        call.header("producer-epoch", &attempt.epoch.to_string())?;
        call.header("producer-seq", &attempt.seq.to_string())?;
        if attempt.close {
            call.header("stream-closed", "true")?;
        } else {
            call.header("content-type", &self.kind)?;
        }
        call.body = attempt.body.clone();
        Ok(call)
    }

    fn error(&self, stop: ProducerStop) -> Error {
        let (url, id, epoch) = (self.stream.url(), &self.id, stop.epoch);
        match stop.refused {
            Refused::Fenced { epoch: theirs } => {
                let what =
                    format!("fenced: producer {id} has epoch {epoch}, the server knows epoch {theirs}");
                Error::new(ErrorKind::Fenced, url, what).with_status(403)
            }
            Refused::Gap { expected, seq } => {
                let what =
                    format!("sequence gap: expected {expected}, sent {seq} (producer {id}, epoch {epoch})");
                Error::new(ErrorKind::Gap, url, what).with_status(409)
            }
            Refused::UsedBefore { seq } => {
                let what = format!(
                    "producer {id} with epoch {epoch} was used before: number {seq} is taken, and not by this producer"
                );
                Error::new(ErrorKind::UsedBefore, url, what)
            }
            Refused::TooLarge { message, bytes } => {
                let message = self.messages_before + message;
                Error::new(
                    ErrorKind::TooLarge,
                    url,
                    format!("too large: message {message} has {bytes} bytes"),
                )
                .with_status(413)
            }
            Refused::Refusal { refusal: Refusal::Conflict, status, .. } => {
                let what = format!("conflict: another content type than ours, {}", self.kind);
                Error::new(ErrorKind::ContentType, url, what).with_status(status)
            }
            Refused::Refusal { refusal, status, offset } => {
                let mut answer = Answer::new(status);
                if let Some(offset) = offset {
                    answer = answer.header("stream-next-offset", offset.as_str().as_bytes());
                }
                Error::refused(url, refusal, &answer, &self.said)
            }
            Refused::OutOfTime { cause } => Error::out_of_time(url, self.retry_for, &cause),
            other => Error::new(ErrorKind::Local, url, format!("{other:?}")),
        }
    }
}

async fn send(stream: DurableStream, call: Call, ticket: u64) -> Done {
    let client = stream.client.clone();
    let result = match client.shared.exchange(&call).await {
        Ok(reply) => {
            let said = words(reply.body, client.shared.timeout).await;
            Ok((reply.answer, said))
        }
        Err(lost) => Err(lost),
    };
    (ticket, result)
}
