//! Properties of Parsec's readers, for any input: functions that panic on a violation.

use std::time::Duration;

use relay_proto::parsec::session::{Config, From, Session, Action};
use relay_proto::parsec::{Envelope, Position, StreamFrame};
use relay_proto::sse::{Decoder, Frame as SseFrame, Limits};
use relay_state::sequences::{Follow, FollowOptions, Frame, GapCause, Item};

/// An envelope that is read is also valid JSON for serde, and reads the same after it was written again. A refusal has
/// a reason. A blank before the envelope, which publishers do not write, changes nothing.
pub fn envelope(input: &[u8]) {
    let decoded = Envelope::decode(input.to_vec());
    assert_eq!(decoded.as_ref().ok(), Envelope::decode([b" ", input].concat()).as_ref().ok());
    match decoded {
        Ok(envelope) => {
            assert!(serde_json::from_slice::<serde::de::IgnoredAny>(input).is_ok());
            let text = envelope.to_json();
            assert!(!text.contains('\n') && !text.contains('\r'), "one line: {text}");
            let again = Envelope::decode(text.clone()).expect("what is written is read");
            assert_eq!(again.to_json(), text);
            assert_eq!((again.channel(), again.sequence()), (envelope.channel(), envelope.sequence()));
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// A stream over two connections, cut where the first byte says: positions grow by one, or a gap gives the reason.
pub fn stream(input: &[u8]) {
    let Some((&cut, bytes)) = input.split_first() else { return };
    let mut follow = Follow::new("public:a.b", FollowOptions::default());
    let cut = usize::from(cut).min(bytes.len());
    let mut place: Option<Position> = None;
    for part in [&bytes[..cut], bytes] {
        follow.handle_open();
        let mut decoder = Decoder::new(Limits::default().line(1024).data(1024));
        decoder.feed_slice(part);
        while let Some(frame) = decoder.next_frame() {
            let SseFrame::Event(event) = frame else { continue };
            let Ok(frame) = StreamFrame::decode(&event, None) else { break };
            let frame = match frame {
                StreamFrame::Envelope { position, envelope } if envelope.len() % 2 == 0 => {
                    let (text, part) = event.into_data();
                    assert_eq!(text.get(part.clone()).map(str::as_bytes), Some(&*envelope));
                    Frame::Text { position, text, part }
                }
                StreamFrame::Connected(connected) => Frame::Connected { resumes_after: Some(connected.resumes_after) },
                StreamFrame::Envelope { position, envelope } => Frame::Envelope { position, envelope },
                StreamFrame::Heartbeat { position } => Frame::Heartbeat { position },
                StreamFrame::Gap(gap) => Frame::Gap {
                    cause: GapCause::Server(gap.reason),
                    missed: gap.missed,
                    resumes_after: gap.resumes_after,
                },
                _ => continue,
            };
            let restart = follow.handle_frame(frame).is_err();
            while let Some(item) = follow.next_item() {
                check(&item, &mut place);
            }
            if restart {
                break;
            }
        }
    }
}

fn check(item: &Item, place: &mut Option<Position>) {
    let position = match item {
        Item::Envelope(delivered) => delivered.position.as_ref(),
        Item::Duplicate { position, .. } | Item::Undecodable { position, .. } => position.as_ref(),
        Item::Gap(gap) if gap.producer.is_none() => {
            place.clone_from(&gap.position);
            return;
        }
        Item::Subscribed { position, .. } => {
            if place.is_none() {
                place.clone_from(position);
            }
            return;
        }
        _ => return,
    };
    if let (Some(before), Some(position)) = (place.as_ref(), position) {
        assert!(before.same_epoch(position), "{before} to {position}");
        assert_eq!(before.offset() + 1, position.offset(), "{before} to {position}");
    }
    if let Some(position) = position {
        *place = Some(position.clone());
    }
}

/// Frames of a WebSocket, one per line: the session always waits for something, and stops only for a reason.
pub fn socket(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let mut session = Session::new(Config::default(), 7);
    session.subscribe("public:a.b", From::Oldest);
    let mut now = Duration::ZERO;
    let mut frames = text.split('\n');
    // Every request except a wait for input is done at once. Their number is limited for each input.
    let mut busy = 0;
    loop {
        busy += 1;
        assert!(busy < 200 + text.len(), "it waits for nothing");
        match session.poll(now) {
            Action::Connect => session.handle_open("token", now),
            Action::Wait(until) => now = until,
            Action::Token => session.handle_token("again"),
            Action::Receive(_) => {
                busy = 0;
                match frames.next() {
                    Some("close") => session.handle_close(Some(3001), "as asked", now),
                    Some("binary") => session.handle_binary(now),
                    Some("late") => {
                        now += Duration::from_secs(60);
                        session.handle_timeout(now);
                    }
                    Some(frame) => session.handle_text(&frame.replace('\r', "\n"), now),
                    None => return,
                }
            }
            Action::Idle => return,
            Action::Stop(end) => {
                assert!(!end.reason.is_empty());
                return;
            }
            _ => {}
        }
    }
}
