//! Case files of the SSE decoder (format in `fixtures/README.md`), and the ways to cut a stream that every case is
//! decoded in. `cargo xtask conformance sse` uses this file as well.

use relay_proto::sse::{Decoder, Frame, Limits};

/// One stream, and the frames that a decoder must find in it.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) input: Vec<u8>,
    pub(crate) limits: Limits,
    /// The expected frames as [`render`]ed lines: every frame in order, or only the events if `by_kind` is set.
    pub(crate) frames: Vec<String>,
    pub(crate) by_kind: bool,
    /// If `by_kind` is set, the reconnection times, unless the case has none.
    pub(crate) retries: Option<Vec<String>>,
    /// The last event id after the end of the stream, if the case has it.
    pub(crate) last_event_id: Option<String>,
}

impl Case {
    /// Decodes the stream whole, in chunks of 1, 2 and 3 bytes, and cut in two at every place. Returns the number of
    /// ways, or the first one that failed.
    pub(crate) fn check(&self) -> Result<usize, String> {
        let length = self.input.len();
        let mut tried = 0;
        let mut check = |cuts: String, chunks: &[&[u8]]| {
            tried += 1;
            self.compare(chunks).map_err(|difference| format!("{}: {cuts}: {difference}", self.name))
        };
        check("whole".into(), &[&self.input])?;
        for size in 1..=3 {
            check(format!("chunks of {size}"), &self.input.chunks(size).collect::<Vec<_>>())?;
        }
        for at in 0..=length {
            let (head, tail) = self.input.split_at(at);
            check(format!("cut at {at} of {length}"), &[head, tail])?;
        }
        Ok(tried)
    }

    fn compare(&self, chunks: &[&[u8]]) -> Result<(), String> {
        let mut decoder = Decoder::new(self.limits);
        let mut frames = Vec::new();
        for chunk in chunks {
            decoder.feed(chunk.to_vec());
            while let Some(frame) = decoder.next_frame() {
                frames.push(render(&frame));
            }
        }
        decoder.finish();
        let only = |kind: &str| frames.iter().filter(|frame| frame.starts_with(kind)).cloned().collect();
        let mut compared = vec![(&self.frames, if self.by_kind { only("event ") } else { frames.clone() })];
        compared.extend(self.retries.as_ref().map(|retries| (retries, only("retry "))));
        for (expected, decoded) in compared {
            if *expected != decoded {
                return Err(format!("expected {expected:#?}, decoded {decoded:#?}"));
            }
        }
        match &self.last_event_id {
            Some(id) if id != decoder.last_event_id() => {
                Err(format!("expected the last id {id:?}, got {:?}", decoder.last_event_id()))
            }
            _ => Ok(()),
        }
    }
}

/// A frame as a line of a case file.
pub(crate) fn render(frame: &Frame) -> String {
    match frame {
        Frame::Event(event) => {
            format!("event {:?} {:?} {:?}", event.kind(), event.data(), event.last_event_id())
        }
        Frame::Comment(comment) => format!("comment {:?}", comment.text()),
        Frame::Retry(delay) => format!("retry {}", delay.as_millis()),
        Frame::Oversized(over) => {
            let (limit, size) = (over.limit(), over.size());
            format!("oversized {limit} {size} {:?} {:?}", over.kind(), over.last_event_id())
        }
        _ => "unknown".into(),
    }
}

/// Reads a case file.
pub(crate) fn parse(file: &str) -> Result<Vec<Case>, String> {
    let mut cases: Vec<Case> = Vec::new();
    for (number, line) in file.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let wrong = |what: &str| format!("line {}: {what}: {line}", number + 1);
        let (word, rest) = line.split_once(' ').ok_or_else(|| wrong("a word and a value are needed"))?;
        if word == "case" {
            cases.push(Case {
                name: rest.into(),
                input: Vec::new(),
                limits: Limits::default(),
                frames: Vec::new(),
                by_kind: false,
                retries: None,
                last_event_id: None,
            });
            continue;
        }
        let case = cases.last_mut().ok_or_else(|| wrong("before the first case"))?;
        match word {
            "in" => {
                let (literal, times) = match rest.rsplit_once(" * ") {
                    Some((literal, times)) if literal.ends_with('"') => {
                        (literal, times.parse().map_err(|_| wrong("how many times?"))?)
                    }
                    _ => (rest, 1),
                };
                let bytes = unescape(literal).ok_or_else(|| wrong("not a byte string"))?;
                case.input.extend(bytes.repeat(times));
            }
            "limit" => {
                let (name, bytes) = rest.split_once(' ').ok_or_else(|| wrong("a name and a number"))?;
                let bytes = bytes.parse().map_err(|_| wrong("not a number"))?;
                case.limits = match name {
                    "line" => case.limits.line(bytes),
                    "data" => case.limits.data(bytes),
                    "id" => case.limits.id(bytes),
                    "type" => case.limits.kind(bytes),
                    _ => return Err(wrong("no such limit")),
                };
            }
            "event" | "comment" | "retry" | "oversized" => case.frames.push(line.into()),
            "last-id" => {
                let id = unescape(rest).and_then(|id| String::from_utf8(id).ok());
                case.last_event_id = Some(id.ok_or_else(|| wrong("not a string"))?);
            }
            _ => return Err(wrong("unknown word")),
        }
    }
    Ok(cases)
}

/// The bytes of a quoted literal with `\n \r \t \0 \\ \" \xHH` and `\u{H..}`.
fn unescape(literal: &str) -> Option<Vec<u8>> {
    let mut rest = literal.strip_prefix('"')?.strip_suffix('"')?.chars();
    let mut bytes = Vec::new();
    while let Some(char) = rest.next() {
        let char = match (char, char == '\\') {
            (char, false) => char,
            _ => match rest.next()? {
                'n' => '\n',
                'r' => '\r',
                't' => '\t',
                '0' => '\0',
                'x' => {
                    let byte = u8::from_str_radix(rest.as_str().get(..2)?, 16).ok()?;
                    bytes.push(byte);
                    rest.nth(1);
                    continue;
                }
                'u' => {
                    let (hex, after) = rest.as_str().strip_prefix('{')?.split_once('}')?;
                    let char = char::from_u32(u32::from_str_radix(hex, 16).ok()?)?;
                    rest = after.chars();
                    char
                }
                same @ ('\\' | '"' | '\'') => same,
                _ => return None,
            },
        };
        bytes.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes());
    }
    Some(bytes)
}
