//! As much of HTTP/1.1 as one request per connection needs, without I/O.

use std::hash::{BuildHasher, RandomState};
use std::io;

use bytes::{Buf, Bytes, BytesMut};
use relay_proto::eventsource::{Attempt, Refused};

/// A random seed for this process.
pub(crate) fn seed() -> u64 {
    RandomState::new().hash_one(std::process::id())
}

/// The target of a request.
pub(crate) struct Target {
    pub(crate) url: String,
    /// Host and port to connect to.
    pub(crate) authority: String,
    path: String,
}

impl Target {
    pub(crate) fn new(url: &str, attempt: &Attempt) -> Result<Self, Refused> {
        let url = attempt.redirect().map_or(url, |redirect| redirect.url());
        let rest = url.strip_prefix("http://").ok_or_else(|| Refused::permanent("only http:// here"))?;
        let (host, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        let authority = if host.rsplit(']').next().unwrap_or_default().contains(':') {
            host.to_owned()
        } else {
            format!("{host}:80")
        };
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        Ok(Self { url: url.to_owned(), authority, path })
    }

    pub(crate) fn request(&self, attempt: &Attempt) -> Vec<u8> {
        let mut request = format!("GET {} HTTP/1.1\r\nhost: {}\r\n", self.path, self.authority).into_bytes();
        for (name, value) in attempt.headers() {
            request.extend_from_slice(name.as_bytes());
            request.extend_from_slice(b": ");
            request.extend_from_slice(value);
            request.extend_from_slice(b"\r\n");
        }
        request.extend_from_slice(b"\r\n");
        request
    }
}

/// A piece of an answer.
pub(crate) enum Part {
    Head(Head),
    Body(Bytes),
    End,
}

/// Status and headers of an answer.
pub(crate) struct Head {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, Vec<u8>)>,
}

/// Takes bytes, gives parts.
#[derive(Default)]
pub(crate) struct Reader {
    buffer: BytesMut,
    eof: bool,
    state: State,
}

#[derive(Default, Clone, Copy)]
enum State {
    #[default]
    Head,
    /// The end of the connection ends the body.
    UntilEnd,
    Length(u64),
    ChunkSize,
    Chunk(u64),
    /// CR and LF after a chunk.
    ChunkEnd,
    Done,
}

/// Largest head, and largest line with a chunk's size.
const LARGEST: usize = 16 << 10;

impl Reader {
    /// Adds bytes that were read; no bytes mean the end of the connection.
    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        self.eof |= bytes.is_empty();
        self.buffer.extend_from_slice(bytes);
    }

    /// The next part, `None` when more bytes are needed.
    pub(crate) fn next(&mut self) -> io::Result<Option<Part>> {
        loop {
            match self.state {
                State::Head => {
                    let mut headers = [httparse::EMPTY_HEADER; 64];
                    let mut response = httparse::Response::new(&mut headers);
                    let size = match response.parse(&self.buffer).map_err(bad)? {
                        httparse::Status::Complete(size) => size,
                        httparse::Status::Partial => return self.more(),
                    };
                    let head = Head {
                        status: response.code.unwrap_or_default(),
                        headers: response
                            .headers
                            .iter()
                            .map(|h| (h.name.to_owned(), h.value.to_vec()))
                            .collect(),
                    };
                    self.buffer.advance(size);
                    self.state = head.body()?;
                    return Ok(Some(Part::Head(head)));
                }
                State::UntilEnd if self.buffer.is_empty() && self.eof => return Ok(Some(Part::End)),
                State::UntilEnd => return self.body(u64::MAX, |_| State::UntilEnd),
                State::Length(0) | State::Done => return Ok(Some(Part::End)),
                State::Length(left) => return self.body(left, State::Length),
                State::ChunkSize => {
                    let Some(end) = self.buffer.iter().position(|&byte| byte == b'\n') else {
                        return self.more();
                    };
                    let line = self.buffer.split_to(end + 1);
                    let digits = line[..].split(|&byte| byte == b';').next().unwrap_or_default().trim_ascii();
                    let text = std::str::from_utf8(digits).map_err(bad)?;
                    self.state = match u64::from_str_radix(text, 16).map_err(bad)? {
                        // Whatever follows the last chunk is ignored.
                        0 => State::Done,
                        size => State::Chunk(size),
                    };
                }
                State::Chunk(0) => self.state = State::ChunkEnd,
                State::Chunk(left) => return self.body(left, State::Chunk),
                State::ChunkEnd if self.buffer.len() < 2 => return self.more(),
                State::ChunkEnd => {
                    self.buffer.advance(2);
                    self.state = State::ChunkSize;
                }
            }
        }
    }

    /// At most `most` bytes of the body.
    fn body(&mut self, most: u64, then: impl Fn(u64) -> State) -> io::Result<Option<Part>> {
        if self.buffer.is_empty() {
            return self.more();
        }
        let size = most.min(self.buffer.len() as u64);
        self.state = then(most - size);
        Ok(Some(Part::Body(self.buffer.split_to(size as usize).freeze())))
    }

    fn more(&self) -> io::Result<Option<Part>> {
        if self.eof {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if self.buffer.len() > LARGEST {
            return Err(bad("too large"));
        }
        Ok(None)
    }
}

impl Head {
    fn get(&self, name: &str) -> Option<&[u8]> {
        let found = self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name))?;
        Some(&found.1)
    }

    fn body(&self) -> io::Result<State> {
        if self.status == 204 || self.status == 304 {
            return Ok(State::Done);
        }
        if self.get("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case(b"chunked")) {
            return Ok(State::ChunkSize);
        }
        match self.get("content-length") {
            None => Ok(State::UntilEnd),
            Some(value) => Ok(State::Length(std::str::from_utf8(value).map_err(bad)?.parse().map_err(bad)?)),
        }
    }
}

fn bad(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
