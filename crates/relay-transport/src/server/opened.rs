//! A connection whose first bytes tell which version of HTTP it begins with.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::time::Instant;

/// The first bytes of every HTTP/2 connection, and of no HTTP/1.1 request.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

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

#[cfg(test)]
mod tests {
    use std::time::Duration;

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
