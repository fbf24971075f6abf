//! HTTP/2 without TLS, for clients that begin with it (RFC 9113, 3.3: prior knowledge).

use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::connection::{HEAD_TIMEOUT, IDLE_TIMEOUT};
use super::request::MAX_HEAD;
use super::service::Answers;

/// The first bytes of every HTTP/2 connection, and of no HTTP/1.1 request.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Limit of concurrent requests on one connection.
const STREAMS: u32 = 256;
/// Interval of pings on a silent connection, and the time limit of their answers.
const PING: Duration = Duration::from_secs(20);
const PONG: Duration = Duration::from_secs(10);
/// How often a connection is checked for being idle.
const LOOK: Duration = Duration::from_secs(1);

/// Writes at once what the kernel takes, even if it has not said that it takes something.
pub(super) type Push<S> = fn(&S, &[u8]) -> io::Result<usize>;

/// A socket whose first bytes were read and will be returned again.
pub(super) struct Opened<S> {
    stream: S,
    push: Push<S>,
    first: [u8; PREFACE.len()],
    /// How many of them there are, and how many were returned.
    length: usize,
    read: usize,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Opened<S> {
    pub(super) fn new(stream: S) -> Self {
        let push: Push<S> = |_, _| Err(io::ErrorKind::WouldBlock.into());
        Self { stream, push, first: [0; PREFACE.len()], length: 0, read: 0 }
    }

    pub(super) fn with_push(self, push: Push<S>) -> Self {
        Self { push, ..self }
    }

    pub(super) fn push(&self, bytes: &[u8]) -> io::Result<usize> {
        (self.push)(&self.stream, bytes)
    }

    /// Whether the peer begins with HTTP/2; `None` when it is gone, or has sent too little by then.
    pub(super) async fn is_http2(&mut self, until: Instant) -> Option<bool> {
        while self.length < PREFACE.len() {
            let reading = self.stream.read(&mut self.first[self.length..]);
            match tokio::time::timeout_at(until, reading).await {
                Ok(Ok(count)) if count > 0 => self.length += count,
                _ => return None,
            }
            if self.first[..self.length] != PREFACE[..self.length] {
                return Some(false);
            }
        }
        Some(true)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Opened<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.read == self.length {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        let count = buf.remaining().min(self.length - self.read);
        buf.put_slice(&self.first[self.read..self.read + count]);
        self.read += count;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Opened<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Requests in progress.
struct Open(Arc<AtomicUsize>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Serves a connection. One without a request is closed after 75 s (10 s before its first request), one whose peer does
/// not answer pings after 30 s.
pub(super) async fn serve(
    service: Arc<dyn Answers>,
    stream: Opened<impl AsyncRead + AsyncWrite + Unpin>,
    stop: CancellationToken,
) {
    let open = Arc::new(AtomicUsize::new(0));
    let begun = AtomicUsize::new(0);
    let answers = service_fn(|request: Request<Incoming>| {
        open.fetch_add(1, Ordering::AcqRel);
        begun.fetch_add(1, Ordering::AcqRel);
        let (held, service) = (Open(open.clone()), service.clone());
        async move {
            let answer = service.boxed_answer(request).await;
            drop(held);
            answer
        }
    });
    let mut http = http2::Builder::new(TokioExecutor::new());
    http.timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(MAX_HEAD as u32)
        .keep_alive_interval(PING)
        .keep_alive_timeout(PONG);
    let mut connection = pin!(http.serve_connection(TokioIo::new(stream), answers));
    let (mut stopping, mut quiet_since, mut seen) = (false, Instant::now(), 0);
    loop {
        tokio::select! {
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "a connection ended");
                }
                return;
            }
            () = stop.cancelled(), if !stopping => {
                stopping = true;
                connection.as_mut().graceful_shutdown();
            }
            () = tokio::time::sleep(LOOK) => {
                let count = begun.load(Ordering::Acquire);
                if open.load(Ordering::Acquire) > 0 || count != seen {
                    (quiet_since, seen) = (Instant::now(), count);
                }
                let patience = if count == 0 { HEAD_TIMEOUT } else { IDLE_TIMEOUT };
                if quiet_since.elapsed() >= patience {
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt as _;

    #[tokio::test(start_paused = true)]
    async fn the_first_bytes_tell_and_are_read_again() {
        for (sent, expected) in [
            (&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nmore"[..], Some(true)),
            (b"POST / HTTP/1.1\r\n", Some(false)),
            (b"PRI * HTTP/1.1\r\n", Some(false)),
            (b"PRI", None),
        ] {
            let (mut client, server) = tokio::io::duplex(64);
            client.write_all(sent).await.unwrap();
            let mut opened = Opened::new(server);
            let until = Instant::now() + Duration::from_secs(10);
            assert_eq!(opened.is_http2(until).await, expected);
            drop(client);
            let mut read = Vec::new();
            opened.read_to_end(&mut read).await.unwrap();
            assert_eq!(read, sent);
        }
    }
}
