//! The deadlines of one connection.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::time::{Instant, Sleep};

use super::framing::Framing;
use super::hyper_answers::substitute_for;
use super::opened::Opened;

/// Time limit of a request head, from the connect or from its first byte.
pub(super) const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a kept-alive connection may be idle.
pub(super) const IDLE_TIMEOUT: Duration = Duration::from_secs(75);
/// Time limit to write a response that is not a stream: a list holds memory for as long.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(300);
/// How long a client's bytes are drained after an error response, so that the response is not lost in a reset.
const LINGER: Duration = Duration::from_secs(1);

/// What a connection is doing, shared between its socket and its requests.
#[derive(Debug, Default)]
pub(crate) struct Activity {
    phase: AtomicU8,
    linger: AtomicBool,
    /// A request head has more fields than there is room for.
    needs_room: AtomicBool,
    /// There is something written that is not flushed.
    unflushed: AtomicBool,
    /// Number of reads after the peer's last byte.
    dry: AtomicU64,
    dried: Notify,
}

/// ```text
///   Fresh --(first byte)--> Head --(request)--> Busy --(answer handed over)--> Idle --(first byte)--> Head
///                                                \--> Streaming --(its end)---/
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Phase {
    Fresh = 0,
    Head = 1,
    Busy = 2,
    Streaming = 3,
    Idle = 4,
}

impl Phase {
    /// Whether the connection waits for the peer.
    fn waits(self) -> bool {
        matches!(self, Self::Fresh | Self::Head | Self::Idle)
    }
}

impl Activity {
    fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Acquire) {
            0 => Phase::Fresh,
            1 => Phase::Head,
            2 => Phase::Busy,
            3 => Phase::Streaming,
            _ => Phase::Idle,
        }
    }

    fn set(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Release);
    }

    /// A request begins; it ends when the guard is dropped.
    pub(crate) fn begin(self: &Arc<Self>) -> Busy {
        self.set(Phase::Busy);
        Busy(self.clone())
    }

    /// Whether the connection can be closed without losing a request.
    pub(crate) fn is_waiting(&self) -> bool {
        self.phase().waits()
    }

    /// Whether the peer has not sent a byte yet.
    pub(crate) fn is_fresh(&self) -> bool {
        self.phase() == Phase::Fresh
    }

    /// Whether the peer has begun to send a request head.
    pub(crate) fn is_heading(&self) -> bool {
        self.phase() == Phase::Head
    }

    /// Marks the response as a stream: a client that closes its sending side is gone.
    pub(crate) fn streams(&self) {
        self.set(Phase::Streaming);
    }

    /// Number of reads after the peer's last byte, during a request.
    pub(crate) fn dry(&self) -> u64 {
        self.dry.load(Ordering::Acquire)
    }

    /// Waits until there was one more read without bytes.
    pub(crate) async fn dried(&self, before: u64) {
        loop {
            let dried = self.dried.notified();
            if self.dry() > before {
                return;
            }
            dried.await;
        }
    }

    /// Whether a request head waits for a connection with more room, and everything before it is answered.
    pub(crate) fn needs_room(&self) -> bool {
        self.needs_room.load(Ordering::Acquire)
            && !self.unflushed.load(Ordering::Acquire)
            && self.phase() == Phase::Head
    }

    /// Drains the client's bytes for a moment after the response.
    pub(crate) fn linger(&self) {
        self.linger.store(true, Ordering::Release);
    }
}

/// A body that keeps its connection busy for as long as it is being read.
pub(crate) struct Held<B> {
    body: B,
    _busy: Busy,
}

impl<B> Held<B> {
    pub(crate) fn new(body: B, busy: Busy) -> Self {
        Self { body, _busy: busy }
    }
}

impl<B: http_body::Body + Unpin> http_body::Body for Held<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

/// A request in progress.
#[derive(Debug)]
pub(crate) struct Busy(Arc<Activity>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.set(Phase::Idle);
    }
}

/// A socket that keeps the connection's deadlines.
///
/// Reads return the end of input when a head takes too long or a connection is idle for too long. Writes fail when
/// the peer takes no bytes for too long, or takes too long for a response that is not a stream. Error responses of
/// hyper itself get a problem document. A client that closes its sending side with its request still gets its
/// answer, unless that is a stream.
pub(crate) struct Socket<S> {
    stream: Opened<S>,
    activity: Arc<Activity>,
    /// The phase that the read deadline belongs to.
    armed: Phase,
    read_deadline: Pin<Box<Sleep>>,
    stall_timeout: Duration,
    stalled: Option<Pin<Box<Sleep>>>,
    /// Runs from the first time that a response has to wait for the peer.
    answer_deadline: Option<Pin<Box<Sleep>>>,
    /// A substituted response, and how much of it is written.
    substitute: Option<(Vec<u8>, usize)>,
    lingering: Option<Pin<Box<Sleep>>>,
    /// An end of input that hyper has not seen yet.
    hidden_end: bool,
    framing: Framing,
    /// Bytes that were received, to be read by hyper next, or once there is room for their fields.
    ahead: Vec<u8>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Socket<S> {
    pub(super) fn new(
        stream: Opened<S>,
        activity: Arc<Activity>,
        stall_timeout: Duration,
        opened: Instant,
    ) -> Self {
        Self {
            stream,
            activity,
            armed: Phase::Fresh,
            read_deadline: Box::pin(tokio::time::sleep_until(opened + HEAD_TIMEOUT)),
            stall_timeout,
            stalled: None,
            answer_deadline: None,
            substitute: None,
            lingering: None,
            hidden_end: false,
            framing: Framing::default(),
            ahead: Vec::new(),
        }
    }

    /// The connection has room for all fields now, and begins with what hyper had read of the head and not used. False
    /// if that is not the head: what it is cannot be told.
    pub(crate) fn has_room(&mut self, unused: &[u8]) -> bool {
        if unused.len() as u64 != self.framing.begun() {
            return false;
        }
        self.ahead.splice(..0, unused.iter().copied());
        self.framing = Framing::roomy();
        self.activity.needs_room.store(false, Ordering::Release);
        true
    }

    /// Bytes of the peer came.
    fn began(&mut self) {
        if self.activity.is_waiting() {
            if self.activity.phase() == Phase::Fresh {
                // The deadline runs from the connect.
                self.armed = Phase::Head;
            }
            self.activity.set(Phase::Head);
        }
    }

    /// Reads what comes next, and keeps what there is no room for. Nothing is ready then.
    fn poll_bytes(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.activity.needs_room.load(Ordering::Acquire) {
            self.began();
            return Poll::Pending;
        }
        let before = buf.filled().len();
        if self.ahead.is_empty() {
            ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        } else {
            let count = buf.remaining().min(self.ahead.len());
            buf.put_slice(&self.ahead[..count]);
            self.ahead.drain(..count);
        }
        let came = &mut buf.filled_mut()[before..];
        let handed_on = self.framing.look_at(came);
        if handed_on == came.len() {
            return Poll::Ready(Ok(()));
        }
        self.ahead = came[handed_on..].to_vec();
        self.activity.needs_room.store(true, Ordering::Release);
        buf.set_filled(before + handed_on);
        if handed_on > 0 {
            return Poll::Ready(Ok(()));
        }
        self.began();
        Poll::Pending
    }

    /// Ready when the read deadline has passed.
    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let phase = self.activity.phase();
        if !phase.waits() {
            self.armed = phase;
            return Poll::Pending;
        }
        self.answer_deadline = None;
        if phase != self.armed {
            self.armed = phase;
            let patience = if phase == Phase::Idle { IDLE_TIMEOUT } else { HEAD_TIMEOUT };
            self.read_deadline.as_mut().reset(Instant::now() + patience);
        }
        self.read_deadline.as_mut().poll(cx)
    }

    /// Returns the result of a write of these bytes, unless the peer has taken none for too long.
    fn watch_stall(
        &mut self,
        cx: &mut Context<'_>,
        outcome: Poll<io::Result<usize>>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.activity.phase() != Phase::Busy {
            self.answer_deadline = None;
        } else if outcome.is_pending() || self.answer_deadline.is_some() {
            let timer = || Box::pin(tokio::time::sleep(ANSWER_TIMEOUT));
            if self.answer_deadline.get_or_insert_with(timer).as_mut().poll(cx).is_ready() {
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the peer is too slow")));
            }
        }
        if outcome.is_ready() {
            self.stalled = None;
            return outcome;
        }
        let timeout = self.stall_timeout;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(timeout)));
        ready!(stalled.as_mut().poll(cx));
        // Linux says that there is room once a third of its buffer is free, which may be a megabyte. A slow peer may
        // take longer for that.
        if let Ok(count @ 1..) = self.stream.push(bytes) {
            self.stalled = None;
            return Poll::Ready(Ok(count));
        }
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the peer takes no bytes")))
    }

    /// Writes the rest of a substituted response.
    fn poll_substitute(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some((answer, written)) = self.substitute.take() {
            if written == answer.len() {
                break;
            }
            let outcome = Pin::new(&mut self.stream).poll_write(cx, &answer[written..]);
            let outcome = self.watch_stall(cx, outcome, &answer[written..]);
            let count = if let Poll::Ready(Ok(count)) = &outcome { *count } else { 0 };
            self.substitute = Some((answer, written + count));
            ready!(outcome)?;
        }
        Poll::Ready(Ok(()))
    }

    /// Replaces hyper's own response to a malformed head by a problem document.
    fn substitute(&mut self, bytes: &[u8]) -> bool {
        let Some(answer) = substitute_for(bytes) else { return false };
        self.activity.linger();
        self.substitute = Some((answer, 0));
        true
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Socket<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        if let Poll::Ready(outcome) = this.poll_bytes(cx, buf) {
            let ended = buf.filled().len() == before;
            if ended && outcome.is_ok() && this.activity.phase() == Phase::Busy {
                this.hidden_end = true;
                this.activity.dry.fetch_add(1, Ordering::AcqRel);
                this.activity.dried.notify_waiters();
                return Poll::Pending;
            }
            if !ended {
                this.began();
            }
            // A peer that sends its head slowly always has bytes to read, so the deadline is checked first.
            if this.poll_deadline(cx).is_pending() {
                return Poll::Ready(outcome);
            }
            buf.set_filled(before);
            return Poll::Ready(Ok(()));
        }
        // An end of input makes hyper close the connection.
        this.poll_deadline(cx).map(Ok)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Socket<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.activity.unflushed.store(true, Ordering::Release);
        ready!(this.poll_substitute(cx))?;
        if this.substitute(buf) {
            return Poll::Ready(Ok(buf.len()));
        }
        let outcome = Pin::new(&mut this.stream).poll_write(cx, buf);
        this.watch_stall(cx, outcome, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.activity.unflushed.store(true, Ordering::Release);
        ready!(this.poll_substitute(cx))?;
        if let [only] = bufs
            && this.substitute(only)
        {
            return Poll::Ready(Ok(only.len()));
        }
        let outcome = Pin::new(&mut this.stream).poll_write_vectored(cx, bufs);
        let first = bufs.iter().find(|bytes| !bytes.is_empty());
        this.watch_stall(cx, outcome, first.map_or(&[], |bytes| &**bytes))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // hyper flushes the end of a response and may not read again by itself: the next deadline begins here.
        let late = this.poll_deadline(cx).is_ready();
        // The response is complete, or is a stream: the client is gone.
        let gone = this.hidden_end && this.activity.phase() != Phase::Busy;
        if late || gone {
            // Wake hyper, so that it reads and sees the end.
            this.hidden_end = false;
            cx.waker().wake_by_ref();
        }
        ready!(this.poll_substitute(cx))?;
        ready!(Pin::new(&mut this.stream).poll_flush(cx))?;
        this.activity.unflushed.store(false, Ordering::Release);
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_substitute(cx))?;
        if this.lingering.is_none() {
            ready!(Pin::new(&mut this.stream).poll_shutdown(cx))?;
            if !this.activity.linger.load(Ordering::Acquire) {
                return Poll::Ready(Ok(()));
            }
        }
        let lingering = this.lingering.get_or_insert_with(|| Box::pin(tokio::time::sleep(LINGER)));
        let mut scratch = [0; 8192];
        while lingering.as_mut().poll(cx).is_pending() {
            let mut buf = ReadBuf::new(&mut scratch);
            match Pin::new(&mut this.stream).poll_read(cx, &mut buf) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(())) if !buf.filled().is_empty() => {}
                Poll::Ready(_) => break,
            }
        }
        Poll::Ready(Ok(()))
    }
}
