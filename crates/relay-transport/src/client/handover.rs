//! Connections that are lent to hyper for a request and the head of its answer.

use std::io;
use std::mem;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, BytesMut};
use hyper::rt::{Read, ReadBufCursor, Write};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};

/// The transport of a connection: a socket, or TLS over one.
pub(crate) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// A connection that hyper reads up to the end of a response head only. The body is read by the owner that takes
/// the connection over; to hyper the connection then looks closed, and it frees its buffers and its task.
#[derive(Clone)]
pub(crate) struct Loan(Arc<Mutex<Lent>>);

struct Lent {
    /// Until it is taken over.
    io: Option<Box<dyn Io>>,
    head: HeadEnd,
    /// Bytes that were read and not passed to hyper.
    held: BytesMut,
    /// Set when hyper waits for more than the head.
    waiting: Option<Waker>,
}

/// Size of a read before the end of the head.
const READ: usize = 4 << 10;

impl Loan {
    pub(crate) fn new(io: Box<dyn Io>) -> Self {
        let lent = Lent { io: Some(io), head: HeadEnd::default(), held: BytesMut::new(), waiting: None };
        Self(Arc::new(Mutex::new(lent)))
    }

    /// The connection, and the bytes already read after the head. `None` when it is closed, or while hyper is writing.
    pub(crate) fn take(&self) -> Option<(Box<dyn Io>, BytesMut)> {
        let mut lent = self.lock();
        if !lent.head.is_over {
            return None;
        }
        let io = lent.io.take()?;
        if let Some(waker) = lent.waiting.take() {
            waker.wake();
        }
        Some((io, mem::take(&mut lent.held)))
    }

    fn lock(&self) -> MutexGuard<'_, Lent> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with_io(
        &self,
        use_it: impl FnOnce(Pin<&mut dyn Io>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        match &mut self.lock().io {
            Some(io) => use_it(Pin::new(&mut **io)),
            None => Poll::Ready(Ok(0)),
        }
    }
}

impl Read for Loan {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut into: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let mut lent = self.lock();
        let Lent { io: Some(io), head, held, waiting } = &mut *lent else { return Poll::Ready(Ok(())) };
        if head.is_over {
            *waiting = Some(cx.waker().clone());
            return Poll::Pending;
        }
        if held.is_empty() {
            held.reserve(READ);
            if ready!(pin!(io.read_buf(held)).poll(cx))? == 0 {
                return Poll::Ready(Ok(()));
            }
        }
        let most = held.len().min(into.remaining());
        let passed = head.find(&held[..most]);
        into.put_slice(&held[..passed]);
        held.advance(passed);
        Poll::Ready(Ok(()))
    }
}

impl Write for Loan {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.with_io(|io| io.poll_write(cx, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with_io(|io| io.poll_flush(cx).map_ok(|()| 0)).map_ok(|_| ())
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with_io(|io| io.poll_shutdown(cx).map_ok(|()| 0)).map_ok(|_| ())
    }
}

/// Finds the empty line that ends the head of an answer. It does not parse the head: hyper does.
#[derive(Default)]
struct HeadEnd {
    is_over: bool,
    /// The start of the first line, up to the digit that marks an interim response: `HTTP/1.1 1`.
    start: [u8; 12],
    /// How many bytes of it there are.
    length: usize,
    /// Whether the line has bytes.
    in_line: bool,
}

impl HeadEnd {
    /// How many of these bytes belong to the head, or to an interim one before it.
    fn find(&mut self, bytes: &[u8]) -> usize {
        for (at, &byte) in bytes.iter().enumerate() {
            match byte {
                b'\r' => {}
                b'\n' if mem::take(&mut self.in_line) => self.length = self.start.len(),
                // There may be empty lines before the first.
                b'\n' if self.length == 0 => {}
                b'\n' if self.is_interim() => *self = Self::default(),
                b'\n' => {
                    self.is_over = true;
                    return at + 1;
                }
                _ => {
                    self.in_line = true;
                    if let Some(place) = self.start.get_mut(self.length) {
                        *place = byte;
                        self.length += 1;
                    }
                }
            }
        }
        bytes.len()
    }

    fn is_interim(&self) -> bool {
        self.start[8..10] == *b" 1" && self.start[10..] != *b"01"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_head_however_it_is_cut() {
        for (before, head) in [
            ("", "HTTP/1.1 200 OK\r\n\r\n"),
            ("", "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"),
            ("\r\n\n", "HTTP/1.1 200 OK\nx: y\n\n"),
            ("HTTP/1.1 100 Continue\r\n\r\n", "HTTP/1.1 200 OK\r\nx: HTTP/1.1 100\r\n\r\n"),
            ("HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 102 .\r\n\r\n", "HTTP/1.1 500 X\r\n\r\n"),
            ("", "HTTP/1.1 101 Switching Protocols\r\n\r\n"),
            ("", "HTTP/1.0 200\r\n\r\n"),
            ("", "X\r\n\r\n"),
        ] {
            let text = format!("{before}{head}data: 1\n\n");
            let expected = before.len() + head.len();
            for size in [1, 2, 3, 5, 1000] {
                let (mut end, mut found) = (HeadEnd::default(), 0);
                for piece in text.as_bytes().chunks(size) {
                    if !end.is_over {
                        found += end.find(piece);
                    }
                }
                assert!(end.is_over && found == expected, "{text:?} in pieces of {size}: {found}");
            }
        }
    }

    #[test]
    fn no_end_without_an_empty_line() {
        for text in ["", "\r\n\r\n", "HTTP/1.1 200 OK\r\nx: y\r\n", "HTTP/1.1 100 Continue\r\n\r\n"] {
            let mut end = HeadEnd::default();
            assert_eq!(end.find(text.as_bytes()), text.len());
            assert!(!end.is_over, "{text:?}");
        }
    }
}
