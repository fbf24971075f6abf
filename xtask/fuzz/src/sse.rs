//! Properties of the SSE codec, for any input: functions that panic on a violation.
//!
//! The fuzz targets, the property tests of `relay-proto` and the smoke run over the checked-in corpora all call these.

use std::time::Duration;

use relay_proto::sse::{Decoder, EncodeError, Encoder, Frame, Limit, Limits};

/// The result of decoding a stream, in a form that can be compared and read.
#[derive(Debug, PartialEq, Eq)]
pub struct Outcome {
    /// One line per frame, see [`render`].
    pub frames: Vec<String>,
    /// The last event id after the end of the stream.
    pub last_event_id: String,
}

/// The frames are the same for any chunking, however the chunks are fed.
///
/// Input: two bytes that choose limits and cuts, then the stream.
pub fn split_invariance(input: &[u8]) {
    let Some((&[seed, tight], stream)) = input.split_first_chunk() else { return };
    let limits = limits(tight);
    let whole = decode([stream], limits);
    assert_eq!(decode(stream.chunks(1), limits), whole, "one byte at a time");
    let mut cuts = u32::from(seed) | 1;
    let mut chunks = Vec::new();
    let mut rest = stream;
    while !rest.is_empty() {
        // A small linear congruential generator: cuts must depend on the input alone.
        cuts = cuts.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let (chunk, after) = rest.split_at(rest.len().min((cuts >> 24) as usize % 9));
        chunks.push(chunk);
        rest = after;
    }
    assert_eq!(decode(chunks.iter().copied(), limits), whole, "small chunks");
    assert_eq!(decode_late(chunks.iter().copied(), limits), whole, "fed before it was drained");
}

/// The decoder agrees with [`model`].
///
/// Input: a byte that chooses limits, then the stream.
pub fn reference(input: &[u8]) {
    let Some((&tight, stream)) = input.split_first() else { return };
    let limits = limits(tight);
    assert_eq!(decode([stream], limits), model(stream, limits));
}

/// What the encoder accepts, the decoder reads back; what it refuses cannot be framed.
///
/// Input: type, id and data, each followed by 0xFF (which does not occur in UTF-8).
pub fn round_trip(input: &[u8]) {
    let mut fields = input.splitn(3, |&byte| byte == 0xff).map(String::from_utf8_lossy);
    let kind = fields.next().unwrap_or_default();
    let id = fields.next().unwrap_or_default();
    let data = fields.next().unwrap_or_default();
    let delay = Duration::from_millis(data.len() as u64);

    let mut bytes = Vec::new();
    let mut encoder = Encoder::new(&mut bytes);
    let breaks = |value: &str| value.contains(['\r', '\n', '\0']);
    match encoder.event(Some(&kind), Some(&id), &data) {
        Err(EncodeError::Type) => {
            assert!(breaks(&kind) && bytes.is_empty());
            return;
        }
        Err(EncodeError::Id) => {
            assert!(breaks(&id) && bytes.is_empty());
            return;
        }
        Err(other) => panic!("unknown refusal: {other}"),
        Ok(()) => assert!(!breaks(&kind) && !breaks(&id)),
    }
    encoder.comment(&data);
    encoder.heartbeat();
    encoder.retry(delay);
    encoder.event_parts(None, None, data.split('\n')).expect("nothing to refuse");

    let lines = data.replace("\r\n", "\n").replace('\r', "\n");
    let kind = if kind.is_empty() { "message" } else { &kind };
    let mut frames = vec![format!("event {kind:?} {lines:?} {id:?}")];
    frames.extend(lines.split('\n').map(|line| format!("comment {line:?}")));
    frames.push("comment \"\"".into());
    frames.push(format!("retry {}", delay.as_millis()));
    // The CR at the end of a part and the LF between the parts would be one line end, so each part is split alone.
    let parts: Vec<String> =
        data.split('\n').map(|part| part.replace("\r\n", "\n").replace('\r', "\n")).collect();
    frames.push(format!("event \"message\" {:?} {id:?}", parts.join("\n")));
    let unlimited = Limits::default().line(usize::MAX).data(usize::MAX).id(usize::MAX).kind(usize::MAX);
    let expected = Outcome { frames, last_event_id: id.into_owned() };
    assert_eq!(decode([&bytes[..]], unlimited), expected);
}

/// Decodes a stream that arrives in these chunks and then ends.
pub fn decode<'a>(chunks: impl IntoIterator<Item = &'a [u8]>, limits: Limits) -> Outcome {
    let mut decoder = Decoder::new(limits);
    let mut frames = Vec::new();
    for (index, chunk) in chunks.into_iter().enumerate() {
        if index % 2 == 0 {
            decoder.feed(chunk.to_vec());
        } else {
            decoder.feed_slice(chunk);
        }
        while let Some(frame) = decoder.next_frame() {
            frames.push(render(&frame));
        }
    }
    decoder.finish();
    assert!(decoder.next_frame().is_none(), "the end of a stream dispatches nothing");
    assert_eq!(decoder.buffered(), 0);
    Outcome { frames, last_event_id: decoder.last_event_id().into() }
}

/// The same, but everything is fed and ended before the first frame is taken.
fn decode_late<'a>(chunks: impl IntoIterator<Item = &'a [u8]>, limits: Limits) -> Outcome {
    let mut decoder = Decoder::new(limits);
    for chunk in chunks {
        decoder.feed_slice(chunk);
    }
    decoder.finish();
    let frames = std::iter::from_fn(|| decoder.next_frame()).map(|frame| render(&frame)).collect();
    Outcome { frames, last_event_id: decoder.last_event_id().into() }
}

/// A frame as a line of text: its name and its parts as string literals.
pub fn render(frame: &Frame) -> String {
    match frame {
        Frame::Event(event) => {
            assert_eq!(event.data_bytes(), event.data());
            format!("event {:?} {:?} {:?}", event.kind(), event.data(), event.last_event_id())
        }
        Frame::Comment(comment) => format!("comment {:?}", comment.text()),
        Frame::Retry(delay) => format!("retry {}", delay.as_millis()),
        Frame::Oversized(over) => {
            let (limit, size) = (over.limit(), over.size());
            format!("oversized {limit} {size} {:?} {:?}", over.kind(), over.last_event_id())
        }
        other => panic!("a frame this check does not know: {other:?}"),
    }
}

/// The rules, written as simply as possible: the whole stream in memory, and one copy per step.
pub fn model(stream: &[u8], limits: Limits) -> Outcome {
    let mut frames = Vec::new();
    let mut last_event_id = String::new();
    let mut block = Block::default();
    let lines = match stream.strip_prefix(b"\xef\xbb\xbf") {
        Some(rest) => {
            // The mark is not part of the line, but it counts towards the size of the block.
            block.size = 3;
            lines(rest)
        }
        None => lines(stream),
    };
    for (line, length_with_end) in lines {
        if line.is_empty() {
            let block = std::mem::take(&mut block);
            if let Some(id) = block.id {
                last_event_id = id;
            }
            let kind = if block.kind.is_empty() { "message" } else { &block.kind };
            if let Some(limit) = block.over {
                frames.push(format!("oversized {limit} {} {kind:?} {last_event_id:?}", block.size));
            } else if let Some(data) = block.data {
                let data = String::from_utf8_lossy(&data);
                frames.push(format!("event {kind:?} {data:?} {last_event_id:?}"));
            }
            continue;
        }
        block.size += length_with_end as u64;
        if line.len() > limits.line {
            block.pass(Limit::Line);
            continue;
        }
        if line[0] == b':' {
            frames.push(format!("comment {:?}", String::from_utf8_lossy(&line[1..])));
            if !block.touched {
                block.size = 0;
            }
            continue;
        }
        block.touched = true;
        let colon = line.iter().position(|&byte| byte == b':');
        let (name, value) = match colon {
            Some(at) => (&line[..at], &line[at + 1..]),
            None => (&line[..], &line[line.len()..]),
        };
        let value = value.strip_prefix(b" ").unwrap_or(value);
        let text = String::from_utf8_lossy(value).into_owned();
        match name {
            b"data" => {
                let mut data = match block.data.take() {
                    Some(mut data) => {
                        data.push(b'\n');
                        data
                    }
                    None => Vec::new(),
                };
                data.extend_from_slice(value);
                if data.len() > limits.data && block.over.is_none() {
                    block.pass(Limit::Data);
                }
                block.data = Some(data);
            }
            b"event" if value.len() > limits.kind => block.pass(Limit::Type),
            b"event" => block.kind = text,
            b"id" if value.len() > limits.id => block.pass(Limit::Id),
            b"id" if !value.contains(&0) => block.id = Some(text),
            b"retry" if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) => {
                if let Ok(millis) = text.parse::<u64>() {
                    frames.push(format!("retry {millis}"));
                }
            }
            _ => {}
        }
    }
    Outcome { frames, last_event_id }
}

#[derive(Default)]
struct Block {
    touched: bool,
    size: u64,
    over: Option<Limit>,
    kind: String,
    id: Option<String>,
    data: Option<Vec<u8>>,
}

impl Block {
    fn pass(&mut self, limit: Limit) {
        self.touched = true;
        self.over.get_or_insert(limit);
    }
}

/// The complete lines, each with its length including the line end.
fn lines(stream: &[u8]) -> Vec<(Vec<u8>, usize)> {
    let mut lines = Vec::new();
    let mut line = Vec::new();
    let mut at = 0;
    while at < stream.len() {
        let end = match stream[at..] {
            [b'\r', b'\n', ..] => 2,
            [b'\r' | b'\n', ..] => 1,
            _ => 0,
        };
        if end == 0 {
            line.push(stream[at]);
            at += 1;
        } else {
            let length = line.len() + end;
            lines.push((std::mem::take(&mut line), length));
            at += end;
        }
    }
    lines
}

/// Limits that one byte chooses: the default, or limits that short inputs can exceed.
fn limits(choice: u8) -> Limits {
    if choice.is_multiple_of(4) {
        return Limits::default();
    }
    let pick = |shift: u8| 1 + usize::from(choice >> shift & 3) * 4;
    Limits::default().line(8 + pick(2) * 2).data(pick(3) * 2).id(pick(4)).kind(pick(6))
}
