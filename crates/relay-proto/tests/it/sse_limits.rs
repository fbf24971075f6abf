//! How much a decoder holds, for how long, and that it reports limits.

use relay_proto::sse::{Decoder, Frame, Limit, Limits};

fn drain(decoder: &mut Decoder) -> Vec<Frame> {
    std::iter::from_fn(|| decoder.next_frame()).collect()
}

#[test]
fn an_endless_line_is_not_held() {
    let mut decoder = Decoder::new(Limits::default().line(64 << 10));
    let chunk = vec![b'x'; 16 << 10];
    decoder.feed("data: ");
    for fed in 1..=4096u64 {
        decoder.feed(chunk.clone());
        assert!(drain(&mut decoder).is_empty());
        assert!(decoder.buffered() <= 64 << 10, "{}", decoder.buffered());
        assert_eq!(decoder.block_bytes(), 6 + fed * (16 << 10));
    }
    decoder.feed("\nid: 5\n\ndata: on\n\n");
    let frames = drain(&mut decoder);
    let [Frame::Oversized(over), Frame::Event(event)] = &frames[..] else { panic!("{frames:?}") };
    assert_eq!((over.limit(), over.size(), over.last_event_id()), (Limit::Line, (64 << 20) + 6 + 1 + 6, "5"));
    assert_eq!((event.data(), event.last_event_id()), ("on", "5"));
    assert_eq!((decoder.buffered(), decoder.block_bytes()), (0, 0));
}

#[test]
fn an_endless_block_is_not_held() {
    let mut decoder = Decoder::new(Limits::default().data(64 << 10).id(16).kind(16));
    for line in 0..100_000u64 {
        decoder.feed("data: 12345\nid: 7\nevent: e\n");
        assert!(drain(&mut decoder).is_empty());
        assert!(decoder.buffered() <= (64 << 10) + 32, "{}", decoder.buffered());
        assert_eq!(decoder.block_bytes(), (line + 1) * 27);
    }
    assert_eq!(decoder.last_event_id(), "", "the block has not ended");
    decoder.feed("\n");
    let frames = drain(&mut decoder);
    let [Frame::Oversized(over)] = &frames[..] else { panic!("{frames:?}") };
    assert_eq!((over.limit(), over.kind(), over.last_event_id()), (Limit::Data, "e", "7"));
}

#[test]
fn comments_without_blank_lines_are_no_endless_block() {
    let mut decoder = Decoder::default();
    for end in ["\n", "\r\n", "\r"] {
        for _ in 0..1000 {
            decoder.feed(format!(": still here{end}"));
            assert_eq!(drain(&mut decoder).len(), 1);
        }
        assert_eq!((decoder.buffered(), decoder.block_bytes()), (0, 0));
    }
    decoder.feed("data: a\n: b\n");
    drain(&mut decoder);
    assert_eq!(decoder.block_bytes(), 12, "inside a block a comment counts");
}

#[test]
fn blank_lines_alone_are_nothing() {
    let mut decoder = Decoder::default();
    decoder.feed("\r\n\n\r\r\n".repeat(10_000));
    assert!(drain(&mut decoder).is_empty());
    assert_eq!((decoder.buffered(), decoder.block_bytes()), (0, 0));
}

#[test]
fn what_is_held_of_a_block_is_what_it_needs() {
    let mut decoder = Decoder::default();
    decoder.feed("event: abc\n: comment\nid: 12\nunknown: field\ndata: 12345\ndata: 6");
    drain(&mut decoder);
    assert_eq!(decoder.buffered(), "abc".len() + "12".len() + "12345".len() + "data: 6".len());
    decoder.finish();
    assert_eq!((decoder.buffered(), decoder.block_bytes()), (0, 0));
    assert_eq!(decoder.last_event_id(), "");
}

#[test]
fn input_that_was_not_pulled_is_counted() {
    let mut decoder = Decoder::default();
    decoder.feed("data: a\n\n");
    decoder.feed("data: b\n\n");
    assert_eq!(decoder.buffered(), 18);
    assert!(decoder.next_frame().is_some());
    assert_eq!(decoder.buffered(), 9);
}

#[test]
fn a_stream_can_end_and_another_begin() {
    let mut decoder = Decoder::default().with_last_event_id("old");
    decoder.feed("\u{feff}data: a\n\nid: 1\n\nid: 2\ndata: b");
    assert_eq!(drain(&mut decoder).len(), 1);
    decoder.finish();
    assert_eq!(decoder.last_event_id(), "1");
    decoder.feed("\u{feff}data: c\n\n");
    let frames = drain(&mut decoder);
    let [Frame::Event(event)] = &frames[..] else { panic!("{frames:?}") };
    assert_eq!((event.data(), event.last_event_id()), ("c", "1"));
}

#[test]
fn a_given_last_event_id_is_inherited() {
    let mut decoder = Decoder::default().with_last_event_id("old");
    assert_eq!(decoder.last_event_id(), "old");
    decoder.feed("data: a\n\nid\ndata: b\n\n");
    let frames = drain(&mut decoder);
    let [Frame::Event(a), Frame::Event(b)] = &frames[..] else { panic!("{frames:?}") };
    assert_eq!((a.last_event_id(), b.last_event_id(), decoder.last_event_id()), ("old", "", ""));
}

#[test]
fn a_cr_before_the_end_of_a_stream_swallows_nothing_of_the_next() {
    let mut decoder = Decoder::default();
    decoder.feed("data: a\n\r");
    assert_eq!(drain(&mut decoder).len(), 1);
    decoder.finish();
    decoder.feed("\ndata: b\n\n");
    assert_eq!(drain(&mut decoder).len(), 1);
}

#[test]
fn frames_outlive_the_decoder_and_borrow_the_chunk() {
    let chunk = bytes::Bytes::from("event: k\nid: 1\ndata: one line\n\n");
    let mut decoder = Decoder::default();
    decoder.feed(chunk.clone());
    let frames = drain(&mut decoder);
    drop(decoder);
    let [Frame::Event(event)] = &frames[..] else { panic!("{frames:?}") };
    assert!(chunk.as_ptr_range().contains(&event.data_bytes().as_ptr()), "the data was copied");
    assert!(chunk.as_ptr_range().contains(&event.kind().as_ptr()), "the type was copied");
    assert!(chunk.as_ptr_range().contains(&event.last_event_id().as_ptr()), "the id was copied");
}

/// The decoder keeps a short line back until the blank line after it arrives. This must not change the result.
#[test]
fn a_line_that_is_put_off_is_not_lost() {
    for next in [
        "\n",
        "\ndata: b\n\n",
        "data: c\n\n",
        "id: 1\n",
        "event: x\nid: 1\n\n: long enough to be no crumb".repeat(9).as_str(),
    ] {
        let mut whole = Decoder::default();
        whole.feed(format!("data: 0\n\ndata: a\n{next}"));
        let mut pieces = Decoder::default();
        let mut seen = Vec::new();
        for piece in ["data: 0\n\nda", "ta: a\n", next] {
            pieces.feed(piece.to_owned());
            seen.extend(drain(&mut pieces));
        }
        assert_eq!(seen, drain(&mut whole), "{next}");
        assert_eq!(pieces.block_bytes(), whole.block_bytes(), "{next}");
        pieces.finish();
        assert_eq!((pieces.buffered(), pieces.last_event_id()), (0, whole.last_event_id()));
    }
    let mut decoder = Decoder::default();
    for piece in ["data: 0\n\nda", "ta: a\n"] {
        decoder.feed_slice(piece.as_bytes());
        drain(&mut decoder);
    }
    decoder.finish();
    decoder.feed("\ndata: b\n\n");
    assert_eq!(drain(&mut decoder).len(), 1, "what was put off ended with its stream");
}

#[test]
fn debug_output_has_no_payload() {
    let mut decoder = Decoder::default();
    decoder.feed(":secret\nevent: k\nid: 1\ndata: secret\n\ndata: secret");
    let frames = drain(&mut decoder);
    let shown = format!("{frames:?} {decoder:?}");
    assert!(shown.contains("\"k\"") && shown.contains("\"1\""), "{shown}");
    assert!(!shown.contains("secret"), "{shown}");
}
