//! Live reads by Server-Sent Events: data, each with its control event.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use bytes::Bytes;
use futures_util::stream;
use http::{Response, StatusCode};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use relay_proto::durable::{Control, Offset};
use relay_transport::server::{Body, Cut, with_body};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::answer::{joined, set};
use crate::fold::Position;
use crate::handler::Handler;
use crate::streams::Stream;

/// After this time without data an empty comment is sent, so that a closed connection is noticed.
const BREATH: Duration = Duration::from_secs(15);

/// The position of a reader.
struct Reading {
    handler: Arc<Handler>,
    stream: Arc<Stream>,
    at: Position,
    cursor: String,
    changes: watch::Receiver<u64>,
    until: Instant,
    base64: bool,
    /// Whether the reader was told that it is up to date.
    told: bool,
    ended: bool,
}

/// The response with events from a position on.
pub(crate) fn answer(
    handler: Arc<Handler>,
    stream: Arc<Stream>,
    from: Position,
    cursor: String,
) -> Response<Body> {
    let kind = stream.about.content_type.to_ascii_lowercase();
    let base64 = !(kind.starts_with("text/") || stream.about.is_json());
    let reading = Reading {
        changes: stream.watch(),
        until: Instant::now() + handler.config.events_age,
        handler,
        stream,
        at: from,
        cursor,
        base64,
        told: false,
        ended: false,
    };
    let frames = stream::unfold(reading, |mut reading| async move {
        let bytes = reading.next().await?;
        Some((bytes.map(Frame::data), reading))
    });
    let mut answer = with_body(StatusCode::OK, "text/event-stream", StreamBody::new(frames).boxed_unsync());
    set(&mut answer, "cache-control", "no-cache");
    if base64 {
        set(&mut answer, "stream-sse-data-encoding", "base64");
    }
    answer
}

impl Reading {
    /// The next events, or the end.
    async fn next(&mut self) -> Option<Result<Bytes, Cut>> {
        if self.ended {
            return None;
        }
        loop {
            self.changes.borrow_and_update();
            let (tail, closed, deleted) = {
                let state = self.stream.state();
                (state.tail, state.closed, state.deleted)
            };
            if deleted {
                return None;
            }
            if self.at.entry < tail.entry {
                let Ok(part) = self.handler.part(&self.stream, self.at).await else { return Some(Err(Cut)) };
                let (at_tail, closed) = {
                    let state = self.stream.state();
                    (part.next == state.tail, state.closed)
                };
                let events = self.events(&part.data, part.next, at_tail, at_tail && closed);
                self.at = part.next;
                return Some(Ok(events));
            }
            if closed || !self.told {
                self.at = tail;
                return Some(Ok(self.events(&[], tail, true, closed)));
            }
            tokio::select! {
                changed = self.changes.changed() => changed.ok()?,
                () = self.handler.stop.cancelled() => return None,
                () = tokio::time::sleep_until(self.until) => return None,
                // A closed connection is noticed by a write.
                () = tokio::time::sleep(BREATH) => return Some(Ok(Bytes::from_static(b":\n\n"))),
            }
            if Instant::now() >= self.until {
                return None;
            }
        }
    }

    fn events(&mut self, data: &[Bytes], next: Position, up_to_date: bool, closed: bool) -> Bytes {
        let mut out = Vec::new();
        if !data.is_empty() {
            let body = joined(self.stream.about.is_json(), data);
            out.extend_from_slice(b"event: data\n");
            if self.base64 {
                let packed = base64::engine::general_purpose::STANDARD.encode(&body);
                line(&mut out, packed.as_bytes());
            } else {
                for part in lines(&body) {
                    line(&mut out, part);
                }
            }
            out.push(b'\n');
        }
        let control = Control {
            stream_next_offset: Offset::new(&next.offset()).unwrap_or(Offset::START),
            stream_cursor: (!closed).then(|| self.cursor.clone()),
            up_to_date,
            stream_closed: closed,
        };
        out.extend_from_slice(b"event: control\n");
        line(&mut out, control.to_json().as_bytes());
        out.push(b'\n');
        self.told = up_to_date;
        self.ended = closed;
        out.into()
    }
}

fn line(out: &mut Vec<u8>, text: &[u8]) {
    out.extend_from_slice(b"data:");
    // One space after the colon is removed by readers.
    if text.first() == Some(&b' ') {
        out.push(b' ');
    }
    out.extend_from_slice(text);
    out.push(b'\n');
}

/// The lines of a text. Each ends with CR, LF or both; what follows the last line end counts as a line, even if it is
/// empty.
fn lines(text: &[u8]) -> Vec<&[u8]> {
    let (mut lines, mut start, mut at) = (Vec::new(), 0, 0);
    while at < text.len() {
        let both = text[at] == b'\r' && text.get(at + 1) == Some(&b'\n');
        if matches!(text[at], b'\r' | b'\n') {
            lines.push(&text[start..at]);
            at += usize::from(both);
            start = at + 1;
        }
        at += 1;
    }
    lines.push(&text[start..]);
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_end_ends_a_line() {
        for (text, expected) in [
            ("a", &["a"][..]),
            ("a\nb\r\nc\rd", &["a", "b", "c", "d"]),
            ("a\n", &["a", ""]),
            ("\r\n\r", &["", "", ""]),
            ("a\u{2028}b", &["a\u{2028}b"]),
        ] {
            let expected: Vec<&[u8]> = expected.iter().map(|line| line.as_bytes()).collect();
            assert_eq!(lines(text.as_bytes()), expected, "{text:?}");
        }
    }
}
