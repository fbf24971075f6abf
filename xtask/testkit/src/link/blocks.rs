//! Finds the ends of events in the bytes of an HTTP/1.1 server.

/// Follows responses byte by byte and finds the ends of SSE blocks: only in bodies of `text/event-stream`, and through
/// chunked transfer encoding, whose own line ends must not count. It does not know the requests, so answers to HEAD
/// confuse it.
#[derive(Debug, Default)]
pub(super) struct Scanner {
    state: State,
    /// The bytes so far of the head, or of the size line of a chunk.
    line: Vec<u8>,
    sse: bool,
    chunked: bool,
    /// Bytes since the last line end of the event stream's body; `None` before the first byte.
    line_length: Option<u64>,
    /// Whether the last byte of the body was a CR, so that a following LF belongs to it.
    after_cr: bool,
    /// Whether a part of an event was seen since the last blank line.
    in_event: bool,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    #[default]
    Head,
    /// A body with this many bytes left.
    Length(u64),
    /// A body that ends with the connection.
    UntilEnd,
    ChunkSize,
    /// A chunk with this many bytes left.
    Chunk(u64),
    /// The line end after a chunk.
    ChunkEnd,
    /// The lines after the last chunk.
    Trailer,
}

impl Scanner {
    /// Takes bytes up to the end of the next event, or all of them. Returns the number of bytes, and whether an event
    /// ended.
    ///
    /// The line end of a chunk after the event is left for the next call.
    pub(super) fn next_block(&mut self, bytes: &[u8]) -> (usize, bool) {
        for (at, byte) in bytes.iter().enumerate() {
            if self.step(*byte) {
                return (at + 1, true);
            }
        }
        (bytes.len(), false)
    }

    /// Whether the last byte taken was inside an event.
    pub(super) fn in_event(&self) -> bool {
        self.in_event
    }

    /// Takes one byte; true when it ends an event.
    fn step(&mut self, byte: u8) -> bool {
        match self.state {
            State::Head => {
                self.line.push(byte);
                if self.line.ends_with(b"\r\n\r\n") {
                    self.begin_body();
                }
            }
            State::Length(left) => {
                self.state = if left > 1 { State::Length(left - 1) } else { State::Head };
                return self.body(byte);
            }
            State::UntilEnd => return self.body(byte),
            State::ChunkSize => {
                self.line.push(byte);
                if byte == b'\n' {
                    let size =
                        std::str::from_utf8(&self.line).unwrap_or("").trim().split(';').next().unwrap_or("");
                    self.state = match u64::from_str_radix(size, 16) {
                        Ok(0) => State::Trailer,
                        Ok(size) => State::Chunk(size),
                        Err(_) => State::UntilEnd,
                    };
                    self.line.clear();
                }
            }
            State::Chunk(left) => {
                self.state = if left > 1 { State::Chunk(left - 1) } else { State::ChunkEnd };
                return self.body(byte);
            }
            State::ChunkEnd => {
                if byte == b'\n' {
                    self.state = State::ChunkSize;
                }
            }
            State::Trailer => {
                self.line.push(byte);
                if byte == b'\n' {
                    if self.line == b"\r\n" {
                        self.state = State::Head;
                    }
                    self.line.clear();
                }
            }
        }
        false
    }

    fn begin_body(&mut self) {
        let head = String::from_utf8_lossy(&std::mem::take(&mut self.line)).to_ascii_lowercase();
        let value = |name: &str| {
            let mut lines = head.lines().filter_map(|line| line.split_once(':'));
            lines.find(|(key, _)| *key == name).map(|(_, value)| value.trim().to_owned())
        };
        let status: u16 = head.split(' ').nth(1).and_then(|text| text.parse().ok()).unwrap_or(0);
        let length = value("content-length").and_then(|text| text.parse().ok());
        self.sse = value("content-type").is_some_and(|kind| kind.starts_with("text/event-stream"));
        self.chunked = value("transfer-encoding").is_some_and(|coding| coding.contains("chunked"));
        (self.line_length, self.after_cr, self.in_event) = (None, false, false);
        self.state = match (status, length) {
            (100..=199 | 204 | 304, _) | (_, Some(0)) => State::Head,
            _ if self.chunked => State::ChunkSize,
            (_, Some(length)) => State::Length(length),
            (_, None) => State::UntilEnd,
        };
    }

    /// Takes a byte of a body; true when it ends an event.
    ///
    /// A blank line directly after another one, or at the start, ends nothing. The LF of a CRLF belongs to the next
    /// line if the CR has ended the event.
    fn body(&mut self, byte: u8) -> bool {
        if !self.sse {
            return false;
        }
        let after_cr = std::mem::replace(&mut self.after_cr, byte == b'\r');
        if byte == b'\n' && after_cr {
            return false;
        }
        if byte == b'\n' || byte == b'\r' {
            let blank = self.line_length.replace(0) == Some(0);
            return blank && std::mem::replace(&mut self.in_event, false);
        }
        self.line_length = Some(self.line_length.unwrap_or(0) + 1);
        self.in_event = true;
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The pieces of a text that is split at the ends of its events.
    fn pieces(text: &str, chunk: usize) -> Vec<String> {
        let (mut scanner, mut pieces) = (Scanner::default(), vec![String::new()]);
        for mut bytes in text.as_bytes().chunks(chunk) {
            while !bytes.is_empty() {
                let (length, event) = scanner.next_block(bytes);
                pieces.last_mut().unwrap().push_str(std::str::from_utf8(&bytes[..length]).unwrap());
                bytes = &bytes[length..];
                if event {
                    pieces.push(String::new());
                }
            }
        }
        pieces
    }

    const SSE: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n";

    #[test]
    fn only_events_of_event_streams_count() {
        for (text, events) in [
            (format!("{SSE}\r\ndata: 1\n\ndata: 2\n\n"), 2),
            (format!("{SSE}\r\n\n\n:\n\n\n\ndata: 1\ndata: 2\n\ndata"), 2),
            (format!("{SSE}\r\ndata: 1\r\n\r\ndata: 2\r\n\r\n"), 2),
            (format!("{SSE}\r\ndata: 1\r\rdata: 2\r\r"), 2),
            ("HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n\r\na\n\nb\n\n".into(), 0),
            (
                format!(
                    "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\na\n\nb{SSE}content-length: 10\r\n\r\ndata: 1\n\n"
                ),
                1,
            ),
            (
                format!(
                    "HTTP/1.1 204 No\r\n\r\n{SSE}transfer-encoding: chunked\r\n\r\n9\r\ndata: 1\n\n\r\n0\r\n\r\n"
                ),
                1,
            ),
            (
                format!(
                    "{SSE}transfer-encoding: chunked\r\n\r\n8;x=y\r\ndata: 1\n\r\n1\r\n\n\r\n4\r\ndata\r\n"
                ),
                1,
            ),
        ] {
            for chunk in [1, 2, 7, 1000] {
                assert_eq!(pieces(&text, chunk).len() - 1, events, "{text:?} in chunks of {chunk}");
                assert_eq!(pieces(&text, chunk).concat(), text);
            }
        }
    }

    #[test]
    fn an_event_ends_right_behind_its_blank_line() {
        let text = format!("{SSE}\r\ndata: 1\n\ndata: 2\n\nrest");
        assert_eq!(pieces(&text, 3)[1..], ["data: 2\n\n", "rest"]);
        let mut scanner = Scanner::default();
        for (part, inside) in [(SSE, false), ("\r\n", false), ("da", true), ("ta\n", true), ("\n", false)] {
            scanner.next_block(part.as_bytes());
            assert_eq!(scanner.in_event(), inside, "{part:?}");
        }
    }

    proptest! {
        /// For any bytes, nothing is lost, nothing panics, and chunking does not matter.
        #[test]
        fn any_input_passes(tail in "[ -~\r\n]{0,80}", chunk in 1..20_usize, framing in 0..3_usize) {
            let framing = ["", "content-length: 30\r\n", "transfer-encoding: chunked\r\n"][framing];
            let text = format!("{SSE}{framing}\r\n{tail}");
            prop_assert_eq!(pieces(&text, chunk), pieces(&text, 1));
            prop_assert_eq!(pieces(&text, chunk).concat(), text);
        }
    }
}
