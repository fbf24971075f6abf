//! The body of a stream's response, read from the connection itself.
//!
//! hyper hands a body over chunk by chunk, from one task to another, and counts a reference for each byte of a
//! chunk's head. A stream of small events has a chunk for each of them. Here, the bytes of one read are taken out
//! of their chunks in place and become one piece.

use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, Response, header};
use http_body::Body as _;
use hyper::body::Incoming;
use tokio::io::AsyncReadExt;

use crate::client::error::BoxError;
use crate::client::handover::{Io, Loan};
use relay_proto::error::chain;

/// The source of a response body.
pub(super) enum Body {
    /// From its own connection.
    Direct(Direct),
    /// From hyper, which shares the connection among streams.
    Hyper(Incoming),
}

impl Body {
    /// Takes the connection over from hyper, where it is lent.
    pub(super) fn of(response: Response<Incoming>) -> (Response<()>, Self) {
        let (mut parts, body) = response.into_parts();
        let loan = parts.extensions.remove::<Loan>();
        let direct = loan.and_then(|loan| loan.take()).map(|(io, start)| {
            let framing = Framing::of(parts.status.as_u16(), &parts.headers);
            Direct { io, buffer: start, framing, next: SMALLEST_READ }
        });
        (Response::from_parts(parts, ()), direct.map_or(Self::Hyper(body), Self::Direct))
    }

    /// The next piece, never an empty one; `None` at the end.
    pub(super) fn poll_bytes(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, String>>> {
        match self {
            Self::Direct(direct) => direct.poll_bytes(cx).map(|bytes| {
                let what = |error| format!("error reading a body from connection: {}", chain(&error));
                bytes.map_err(what).transpose()
            }),
            Self::Hyper(body) => loop {
                match ready!(Pin::new(&mut *body).poll_frame(cx)) {
                    // Trailers are ignored.
                    Some(Ok(frame)) => match frame.into_data() {
                        Ok(bytes) if !bytes.is_empty() => return Poll::Ready(Some(Ok(bytes))),
                        _ => {}
                    },
                    Some(Err(error)) => return Poll::Ready(Some(Err(chain(&error).to_string()))),
                    None => return Poll::Ready(None),
                }
            },
        }
    }
}

/// A body and its connection. It holds no buffer while it waits.
pub(super) struct Direct {
    io: Box<dyn Io>,
    /// Bytes as received, not parsed yet.
    buffer: BytesMut,
    framing: Framing,
    /// Size of the next read: grows while reads are full.
    next: usize,
}

const SMALLEST_READ: usize = 8 << 10;
/// With half of this, reading takes a tenth more time; with twice as much, it saves little, and an event that is kept
/// holds all of it.
const LARGEST_READ: usize = 128 << 10;

impl Direct {
    fn poll_bytes(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        loop {
            if !self.buffer.is_empty() {
                let bytes = self.framing.take_off(&mut self.buffer)?;
                if !bytes.is_empty() {
                    return Poll::Ready(Ok(Some(bytes)));
                }
                continue;
            }
            if self.framing.is_done() {
                return Poll::Ready(Ok(None));
            }
            self.buffer.reserve(self.next);
            let Poll::Ready(read) = pin!(self.io.read_buf(&mut self.buffer)).poll(cx) else {
                self.buffer = BytesMut::new();
                return Poll::Pending;
            };
            match read? {
                0 if self.framing.may_end() => return Poll::Ready(Ok(None)),
                0 => return Poll::Ready(Err(bad(io::ErrorKind::UnexpectedEof, "the body is not complete"))),
                full if full >= self.next => self.next = (2 * self.next).min(LARGEST_READ),
                little if little < self.next / 4 => self.next = (self.next / 2).max(SMALLEST_READ),
                _ => {}
            }
        }
    }
}

/// How the end of a body is found, and how much of it is left.
enum Framing {
    UntilClosed,
    Length(u64),
    Chunked(Chunked),
}

/// The place in a chunked body.
enum Chunked {
    /// The size of a chunk, of which so many digits were read.
    Size(u64, u32),
    /// An extension between the size and the end of its line, with the number of bytes read.
    Extension(u64, usize),
    /// The LF at the end of that line.
    SizeEnd(u64),
    Data(u64),
    /// The CR and the LF after a chunk.
    DataReturn,
    DataEnd,
    /// Trailers, of which so many bytes were read; whether the line is empty so far.
    Trailers(usize, bool),
    Done,
}

/// Limit of the bytes of an extension, and of all trailers.
const MOST_IGNORED: usize = 8 << 10;

/// Longer data is not moved, but becomes a piece of its own.
const LONG: usize = 4 << 10;

impl Framing {
    /// By the rules of RFC 9112. hyper has already refused ambiguous heads.
    fn of(status: u16, headers: &HeaderMap) -> Self {
        if matches!(status, 204 | 304) {
            return Self::Length(0);
        }
        if let Some(coding) = headers.get_all(header::TRANSFER_ENCODING).iter().next_back() {
            let last = coding.as_bytes().rsplit(|&byte| byte == b',').next().unwrap_or_default();
            return if last.trim_ascii().eq_ignore_ascii_case(b"chunked") {
                Self::Chunked(Chunked::Size(0, 0))
            } else {
                Self::UntilClosed
            };
        }
        let length = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok());
        length.and_then(|length| length.trim().parse().ok()).map_or(Self::UntilClosed, Self::Length)
    }

    fn is_done(&self) -> bool {
        matches!(self, Self::Length(0) | Self::Chunked(Chunked::Done))
    }

    /// Whether the end of the connection is the end of the body.
    fn may_end(&self) -> bool {
        matches!(self, Self::UntilClosed) || self.is_done()
    }

    /// Takes bytes of the body out of the buffer, joining pieces where that is cheap. Consumes the whole buffer
    /// when it has none.
    fn take_off(&mut self, buffer: &mut BytesMut) -> io::Result<Bytes> {
        match self {
            Self::UntilClosed => Ok(buffer.split().freeze()),
            Self::Length(left) => {
                let size = buffer.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= size as u64;
                let mut bytes = buffer.split();
                bytes.truncate(size);
                Ok(bytes.freeze())
            }
            Self::Chunked(place) => {
                // Start and length of the joined data, and how far the buffer was read.
                let (mut start, mut size, mut at) = (0, 0, 0);
                while let Some(&byte) = buffer.get(at) {
                    let Chunked::Data(left) = place else {
                        match place.after(byte) {
                            Ok(next) => *place = next,
                            Err(error) if size == 0 => return Err(error),
                            // Data before the error counts; the error is found again by the next call.
                            Err(_) => break,
                        }
                        at += 1;
                        continue;
                    };
                    let more = (buffer.len() - at).min(usize::try_from(*left).unwrap_or(usize::MAX));
                    if size == 0 {
                        start = at;
                    } else if more >= LONG {
                        break;
                    } else {
                        buffer.copy_within(at..at + more, start + size);
                    }
                    size += more;
                    at += more;
                    *left -= more as u64;
                    if *left == 0 {
                        *place = Chunked::DataReturn;
                    }
                }
                let mut bytes = buffer.split_to(at);
                bytes.advance(start);
                bytes.truncate(size);
                Ok(bytes.freeze())
            }
        }
    }
}

impl Chunked {
    /// The place after one more byte that is not data.
    fn after(&self, byte: u8) -> io::Result<Self> {
        let wrong = |what| Err(bad(io::ErrorKind::InvalidData, what));
        Ok(match (self, byte) {
            (&Self::Size(size, digits), b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                let digit = char::from(byte).to_digit(16).unwrap_or_default();
                if digits == 16 {
                    return wrong("the size of a chunk is too large");
                }
                Self::Size(size << 4 | u64::from(digit), digits + 1)
            }
            (Self::Size(_, 0), _) => return wrong("a chunk has no size"),
            (&Self::Size(size, _), b'\r') => Self::SizeEnd(size),
            (&Self::Size(size, _), b'\t' | b' ' | b';') => Self::Extension(size, 0),
            (&Self::Extension(size, _), b'\r') => Self::SizeEnd(size),
            (&Self::Extension(size, read), _) if byte != b'\n' && read < MOST_IGNORED => {
                Self::Extension(size, read + 1)
            }
            (Self::SizeEnd(0), b'\n') => Self::Trailers(0, true),
            (&Self::SizeEnd(size), b'\n') => Self::Data(size),
            (Self::Size(..) | Self::Extension(..) | Self::SizeEnd(_), _) => {
                return wrong("the size of a chunk is not clear");
            }
            (Self::DataReturn, b'\r') => Self::DataEnd,
            (Self::DataEnd, b'\n') => Self::Size(0, 0),
            (Self::Data(_) | Self::DataReturn | Self::DataEnd, _) => {
                return wrong("a chunk does not end where it should");
            }
            (Self::Trailers(_, true), b'\n') | (Self::Done, _) => Self::Done,
            (&Self::Trailers(read, empty), _) if read < MOST_IGNORED => {
                Self::Trailers(read + 1, byte == b'\n' || (empty && byte == b'\r'))
            }
            (Self::Trailers(..), _) => return wrong("the trailers are too long"),
        })
    }
}

fn bad(kind: io::ErrorKind, what: &'static str) -> io::Error {
    io::Error::new(kind, BoxError::from(what))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads a body in pieces of this size. Returns the bytes, and whether the body is complete.
    fn read(headers: &[(&str, &str)], sent: &[u8], size: usize) -> io::Result<(Vec<u8>, bool)> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(http::HeaderName::try_from(*name).unwrap(), value.parse().unwrap());
        }
        let mut framing = Framing::of(200, &map);
        let mut body = Vec::new();
        for piece in sent.chunks(size) {
            let mut buffer = BytesMut::from(piece);
            while !buffer.is_empty() {
                body.extend(framing.take_off(&mut buffer)?);
            }
        }
        Ok((body, framing.may_end()))
    }

    fn chunked(sent: &[u8], size: usize) -> io::Result<(Vec<u8>, bool)> {
        read(&[("transfer-encoding", "chunked")], sent, size)
    }

    #[test]
    fn bodies_however_they_are_cut() {
        let long = "x".repeat(3 * LONG);
        let longs = format!("{0:x}\r\n{long}\r\n1\r\n!\r\n{0:x}\r\n{long}\r\n0\r\n\r\n", long.len());
        let closed: &[(&str, &str)] = &[];
        let chunked: &[(&str, &str)] = &[("transfer-encoding", "gzip, Chunked"), ("content-length", "3")];
        for (headers, sent, body, complete) in [
            (closed, "as it is", "as it is", true),
            (&[("transfer-encoding", "gzip")], "as it is", "as it is", true),
            (&[("content-length", "5")], "12345", "12345", true),
            (&[("content-length", "5")], "12345 and more", "12345", true),
            (&[("content-length", "5")], "1234", "1234", false),
            (&[("content-length", "0")], "", "", true),
            (chunked, "2\r\nab\r\n1\r\nc\r\n0\r\n\r\n", "abc", true),
            (chunked, "0A;x=\"y\"\r\n0123456789\r\n00\r\nx: y\r\nz: 0\r\n\r\n0\r\n", "0123456789", true),
            (chunked, "1 \t;\r\na\r\n2\r\n\r\n\r\n0;\r\n\r\n", "a\r\n", true),
            (chunked, "3\r\nab", "ab", false),
            (chunked, "2\r\nab\r\n", "ab", false),
            (chunked, "2\r\nab\r\n0\r\n", "ab", false),
            (chunked, "2\r\nab\r\n0\r\nx: y\r\n", "ab", false),
            (chunked, &longs, &format!("{long}!{long}"), true),
        ] {
            for size in [1, 2, 3, 7, 100, LONG + 3, 1 << 20] {
                let (read, end) = read(headers, sent.as_bytes(), size).unwrap();
                assert!(read == body.as_bytes() && end == complete, "{sent:.40?} in pieces of {size}");
            }
        }
    }

    #[test]
    fn chunks_that_are_not_clear() {
        for (sent, why) in [
            ("\r\n", "has no size"),
            ("x", "has no size"),
            ("-1\r\n", "has no size"),
            ("0x1\r\n", "is not clear"),
            ("1\na", "is not clear"),
            ("1\r\r", "is not clear"),
            ("1;\n", "is not clear"),
            ("11111111111111111\r\n", "too large"),
            ("1\r\nab", "where it should"),
            ("1\r\na\n", "where it should"),
            ("1\r\na\r\r", "where it should"),
            (&format!("1;{}", "x".repeat(2 * MOST_IGNORED)), "is not clear"),
            (&format!("0\r\nx: {}", "y".repeat(2 * MOST_IGNORED)), "too long"),
            (&format!("0\r\n{}", "x: y\r\n".repeat(MOST_IGNORED)), "too long"),
        ] {
            for size in [1, 3, 1 << 20] {
                let error = chunked(sent.as_bytes(), size).unwrap_err();
                assert!(error.to_string().contains(why), "{sent:.20?}: {error}");
            }
        }
        // The largest value of the type is still valid.
        assert_eq!(chunked(b"ffffffffffffffff\r\nab", 1).unwrap(), (b"ab".to_vec(), false));
    }

    /// Answers that have no body, whatever their headers say.
    #[test]
    fn statuses_without_a_body() {
        let mut headers = HeaderMap::new();
        headers.insert(header::TRANSFER_ENCODING, http::HeaderValue::from_static("chunked"));
        for status in [204, 304] {
            assert!(Framing::of(status, &headers).is_done());
        }
    }

    proptest::proptest! {
        /// Chunks of any size, cut anywhere, give the same bytes.
        #[test]
        fn chunks_come_off(sizes in proptest::collection::vec(1_usize..9000, 0..12), cut in 1_usize..20_000) {
            let body: Vec<u8> = (0..sizes.iter().sum::<usize>()).map(|n| n as u8).collect();
            let (mut sent, mut rest) = (Vec::new(), &body[..]);
            for size in sizes {
                let (chunk, after) = rest.split_at(size);
                rest = after;
                sent.extend(format!("{size:X}\r\n").into_bytes());
                sent.extend(chunk);
                sent.extend(b"\r\n");
            }
            sent.extend(b"0\r\n\r\n");
            let (read, complete) = chunked(&sent, cut).unwrap();
            proptest::prop_assert!(complete && read == body);
        }
    }
}
