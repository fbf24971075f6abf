//! Splitting a JSON array into messages.

use alloc::string::{String, ToString};

use bytes::{Bytes, BytesMut};

/// Splits a JSON array into the texts of its elements while it comes in. Holds one element at most.
///
/// ```
/// use relay_proto::durable::ArraySplitter;
/// let mut splitter = ArraySplitter::new(1 << 20);
/// splitter.feed("[{\"a\":1}, [2");
/// assert_eq!(splitter.next_message()?.unwrap(), "{\"a\":1}");
/// assert!(splitter.next_message()?.is_none());
/// splitter.feed(",3]]");
/// assert_eq!(splitter.next_message()?.unwrap(), "[2,3]");
/// assert!(splitter.next_message()?.is_none());
/// splitter.finish()?;
/// # Ok::<(), relay_proto::durable::ArrayError>(())
/// ```
#[derive(Debug)]
pub struct ArraySplitter {
    limit: usize,
    chunk: Bytes,
    /// The part of the current element from earlier chunks.
    partial: BytesMut,
    state: State,
    /// The finished element, while the white space after it is skipped.
    element: Bytes,
    /// Bytes before the chunk, for errors.
    before: u64,
    /// The position in the chunk at which the search continues.
    at: usize,
    /// The position in the chunk at which the element begins.
    start: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing but white space yet.
    Before,
    /// After the opening bracket.
    First,
    /// After a comma.
    Next,
    /// In an element: its depth, whether in a string, and whether after a backslash there.
    Element { depth: u32, string: bool, escape: bool },
    /// After an element and white space.
    Behind,
    /// After the closing bracket.
    Done,
}

/// The input is not one JSON array, or one of its elements is too long.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ArrayError {
    /// Not a JSON array.
    #[error("not a JSON array: {what} at byte {at}")]
    Malformed {
        /// What is wrong.
        what: String,
        /// Bytes before it.
        at: u64,
    },
    /// An element is longer than the limit.
    #[error("a message of more than {limit} bytes")]
    TooLarge {
        /// The limit, in bytes.
        limit: usize,
    },
}

impl ArraySplitter {
    /// A splitter for one array whose elements have at most `limit` bytes each.
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            chunk: Bytes::new(),
            partial: BytesMut::new(),
            state: State::Before,
            element: Bytes::new(),
            before: 0,
            at: 0,
            start: 0,
        }
    }

    /// Adds the next bytes. All messages of the earlier bytes must have been taken.
    pub fn feed(&mut self, chunk: impl Into<Bytes>) {
        debug_assert_eq!(self.at, self.chunk.len(), "the messages before are still to be taken");
        self.before += self.chunk.len() as u64;
        self.chunk = chunk.into();
        (self.at, self.start) = (0, 0);
    }

    /// The next complete element, or `None` when more bytes are needed.
    ///
    /// # Errors
    /// [`ArrayError`]. The splitter is of no use afterwards.
    pub fn next_message(&mut self) -> Result<Option<Bytes>, ArrayError> {
        while let Some(&byte) = self.chunk.get(self.at) {
            let space = matches!(byte, b' ' | b'\t' | b'\n' | b'\r');
            match self.state {
                State::Element { depth, string: true, escape } => {
                    self.state = match (escape, byte) {
                        (true, _) => State::Element { depth, string: true, escape: false },
                        (_, b'\\') => State::Element { depth, string: true, escape: true },
                        (_, b'"') => State::Element { depth, string: false, escape: false },
                        _ => {
                            // Most characters of a string are neither.
                            let rest = &self.chunk[self.at..];
                            self.at += memchr::memchr2(b'"', b'\\', rest).unwrap_or(rest.len());
                            continue;
                        }
                    };
                    self.at += 1;
                }
                State::Element { depth, .. } => match byte {
                    b'"' => {
                        self.state = State::Element { depth, string: true, escape: false };
                        self.at += 1;
                    }
                    b'[' | b'{' => {
                        self.state = State::Element { depth: depth + 1, string: false, escape: false };
                        self.at += 1;
                    }
                    b']' | b'}' if depth > 0 => {
                        self.state = State::Element { depth: depth - 1, string: false, escape: false };
                        self.at += 1;
                    }
                    _ if space && depth == 0 => {
                        self.element = self.element()?;
                        self.state = State::Behind;
                    }
                    b',' | b']' if depth == 0 => {
                        let message = self.element()?;
                        self.state = if byte == b',' { State::Next } else { State::Done };
                        self.at += 1;
                        return Ok(Some(message));
                    }
                    _ => self.at += 1,
                },
                _ if space => self.at += 1,
                State::Behind if matches!(byte, b',' | b']') => {
                    self.state = if byte == b',' { State::Next } else { State::Done };
                    self.at += 1;
                    return Ok(Some(core::mem::take(&mut self.element)));
                }
                State::Behind => return Err(self.malformed("a message is not JSON")),
                State::Before if byte == b'[' => {
                    self.state = State::First;
                    self.at += 1;
                }
                State::First if byte == b']' => {
                    self.state = State::Done;
                    self.at += 1;
                }
                State::First | State::Next => {
                    if matches!(byte, b',' | b']') {
                        return Err(self.malformed("an element is missing"));
                    }
                    self.state = State::Element { depth: 0, string: false, escape: false };
                    self.start = self.at;
                }
                State::Before => return Err(self.malformed("it does not begin with a bracket")),
                State::Done => return Err(self.malformed("more behind its end")),
            }
        }
        if matches!(self.state, State::Element { .. }) && self.start < self.chunk.len() {
            self.partial.extend_from_slice(&self.chunk[self.start..]);
            self.start = self.chunk.len();
            if self.partial.len() > self.limit {
                return Err(ArrayError::TooLarge { limit: self.limit });
            }
        }
        Ok(None)
    }

    /// Whether the array was read to its end, or nothing but white space came: an empty body means an empty array.
    ///
    /// # Errors
    /// [`ArrayError::Malformed`] when the array is not complete.
    pub fn finish(&self) -> Result<(), ArrayError> {
        match self.state {
            State::Done | State::Before => Ok(()),
            _ => Err(self.malformed("it ends too early")),
        }
    }

    /// The element that ends before the position.
    fn element(&mut self) -> Result<Bytes, ArrayError> {
        let message = if self.partial.is_empty() {
            self.chunk.slice(self.start..self.at)
        } else {
            self.partial.extend_from_slice(&self.chunk[self.start..self.at]);
            self.partial.split().freeze()
        };
        if message.len() > self.limit {
            return Err(ArrayError::TooLarge { limit: self.limit });
        }
        let text = core::str::from_utf8(&message).map_err(|_| self.malformed("a message is not UTF-8"))?;
        serde_json::from_str::<serde::de::IgnoredAny>(text)
            .map_err(|_| self.malformed("a message is not JSON"))?;
        Ok(message)
    }

    fn malformed(&self, what: &str) -> ArrayError {
        ArrayError::Malformed { what: what.to_string(), at: self.before + self.at as u64 }
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    fn split(chunks: &[&[u8]], limit: usize) -> Result<Vec<String>, ArrayError> {
        let mut splitter = ArraySplitter::new(limit);
        let mut messages = Vec::new();
        for chunk in chunks {
            splitter.feed(Bytes::copy_from_slice(chunk));
            while let Some(message) = splitter.next_message()? {
                messages.push(String::from_utf8(message.to_vec()).unwrap());
            }
        }
        splitter.finish().map(|()| messages)
    }

    #[test]
    fn arrays_and_what_is_none() {
        for (text, messages) in [
            ("[]", &[][..]),
            ("", &[]),
            ("[1\t\r\n  ,2   ]  ", &["1", "2"]),
            (" [ 1 , \"a,]\\\"\" ,{\"b\":[1,2]} ] \n", &["1", "\"a,]\\\"\"", "{\"b\":[1,2]}"]),
            ("[[1,2],null]", &["[1,2]", "null"]),
            ("[\"é\\u00e9\"]", &["\"é\\u00e9\""]),
        ] {
            assert_eq!(split(&[text.as_bytes()], 100).unwrap(), messages, "{text}");
            let bytes: Vec<&[u8]> = text.as_bytes().chunks(1).collect();
            assert_eq!(split(&bytes, 100).unwrap(), messages, "{text} byte by byte");
        }
        for bad in [
            "[1",
            "[",
            "[1,]",
            "[,1]",
            "{}",
            "[1]x",
            "[1 2]",
            "[}]",
            "[\"a]",
            "[01]",
            "x",
            "[[1,2]",
            "[1\u{c}]",
            "[1 \u{c}]",
        ] {
            assert!(matches!(split(&[bad.as_bytes()], 100), Err(ArrayError::Malformed { .. })), "{bad}");
        }
        assert!(split(&[b"[\"\xff\"]"], 100).is_err());
    }

    #[test]
    fn the_limit_is_for_one_message() {
        assert_eq!(split(&[b"[12345,12345]"], 5).unwrap().len(), 2);
        let spaces = [&b"[12345"[..], &[b' '; 99], b"]"].concat();
        for size in [1, 7, spaces.len()] {
            let chunks: Vec<&[u8]> = spaces.chunks(size).collect();
            assert_eq!(split(&chunks, 5).unwrap(), ["12345"], "white space is no part of it");
        }
        let too_large = Err(ArrayError::TooLarge { limit: 5 });
        assert_eq!(split(&[b"[123456]"], 5), too_large);
        assert_eq!(split(&[b"[\"1234", b"5678", b"9\"]"], 5), too_large);
    }

    proptest! {
        #[test]
        fn any_chunking_gives_the_same(
            values in proptest::collection::vec(("[a-z\\\\\"\\[\\],{}é ]{0,12}", any::<i32>()), 0..20),
            cuts in proptest::collection::vec(1usize..9, 1..40),
        ) {
            let values: Vec<_> = values.iter().map(|(text, n)| serde_json::json!({"t": text, "n": [n, null]})).collect();
            let text = serde_json::to_string_pretty(&values).unwrap();
            let (mut rest, mut chunks) = (text.as_bytes(), Vec::new());
            for cut in cuts.iter().cycle() {
                if rest.is_empty() { break; }
                let (chunk, more) = rest.split_at((*cut).min(rest.len()));
                chunks.push(chunk);
                rest = more;
            }
            let messages = split(&chunks, 1 << 20).unwrap();
            let read: Vec<serde_json::Value> = messages.iter().map(|m| serde_json::from_str(m).unwrap()).collect();
            prop_assert_eq!(read, values);
        }

        #[test]
        fn whatever_comes_does_not_panic(chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..30), 0..8)) {
            let chunks: Vec<&[u8]> = chunks.iter().map(Vec::as_slice).collect();
            let _ = split(&chunks, 16);
        }
    }
}
