//! Random streams in random chunks, compared with the slow model; and the corpora of the fuzz targets.

use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;
use relay_proto::sse::{Decoder, Encoder, Frame, Limits};

use crate::sse_model::{self, Outcome, decode, model};

/// Pieces that are valid more often than random bytes are.
fn stream() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        8 => prop::sample::select(vec![
            &b"data: "[..], b"data:", b"data", b"event: ", b"event", b"id: ", b"id:", b"id", b"retry: ", b"retry:",
            b":", b": ", b" ", b"\0", b"foo: ", b"\xef\xbb\xbf", b"7", b"\xe2\x82\xac", b"\xe2\x82", b"\xff",
            b"\xf0\x9f\x98\x80", b"dat", b"Data: ", b"message", b"0123456789012345678901",
        ]).prop_map(<[u8]>::to_vec),
        8 => prop::sample::select(vec![&b"\n"[..], b"\r", b"\r\n", b"\n\n", b"\r\r", b"\r\n\r\n", b"\n\r"])
            .prop_map(<[u8]>::to_vec),
        3 => prop::collection::vec(any::<u8>(), 0..12),
        2 => "[a-z]{0,40}".prop_map(String::into_bytes),
    ];
    prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

fn limits() -> impl Strategy<Value = Limits> {
    prop_oneof![
        Just(Limits::default()),
        (0usize..40, 0usize..30, 0usize..8, 0usize..8).prop_map(|(line, data, id, kind)| Limits::default()
            .line(line)
            .data(data)
            .id(id)
            .kind(kind)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_decoder_is_the_model(stream in stream(), limits in limits(), size in 1usize..20) {
        let expected = model(&stream, limits);
        prop_assert_eq!(&decode([&stream[..]], limits), &expected);
        prop_assert_eq!(&decode(stream.chunks(size), limits), &expected);
    }

    #[test]
    fn cuts_change_nothing(stream in stream(), seed in any::<u8>(), tight in any::<u8>()) {
        let mut input = vec![seed, tight];
        input.extend(stream);
        sse_model::split_invariance(&input);
    }

    /// Replacing invalid UTF-8 before the lines are split gives the same result as after it.
    #[test]
    fn replacement_can_come_first(stream in stream()) {
        let replaced = String::from_utf8_lossy(&stream);
        let limits = Limits::default();
        prop_assert_eq!(decode([&stream[..]], limits), decode([replaced.as_bytes()], limits));
    }

    #[test]
    fn what_was_encoded_is_decoded(
        events in prop::collection::vec((
            prop::option::of("[^\r\n\0]{0,12}"),
            prop::option::of("[^\r\n\0]{0,12}"),
            "[a-z :\n\0€]{0,80}",
            prop::option::of("[^\r\n]{0,12}"),
            prop::option::of(0u64..),
        ), 0..12),
        size in 1usize..40,
    ) {
        let mut bytes = bytes::BytesMut::new();
        let mut encoder = Encoder::new(&mut bytes);
        let mut expected = Outcome { frames: Vec::new(), last_event_id: String::new() };
        for (kind, id, data, comment, retry) in &events {
            if let Some(text) = comment {
                encoder.comment(text);
                expected.frames.push(format!("comment {text:?}"));
            }
            if let Some(millis) = retry {
                encoder.retry(Duration::from_millis(*millis));
                expected.frames.push(format!("retry {millis}"));
            }
            encoder.event(kind.as_deref(), id.as_deref(), data).unwrap();
            let kind = kind.as_deref().filter(|kind| !kind.is_empty()).unwrap_or("message");
            if let Some(id) = id {
                expected.last_event_id.clone_from(id);
            }
            expected.frames.push(format!("event {kind:?} {data:?} {:?}", expected.last_event_id));
        }
        prop_assert_eq!(decode(bytes.chunks(size), Limits::default()), expected);
    }

    #[test]
    fn refusals_and_odd_line_ends(kind in "[a\r\n\0]{0,3}", id in "[a\r\n\0]{0,3}", data in "[a\r\n]{0,9}") {
        let input = [kind.as_bytes(), id.as_bytes(), data.as_bytes()].join(&0xff);
        sse_model::round_trip(&input);
    }
}

#[test]
fn the_fuzz_corpora_hold() {
    let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../xtask/fuzz/corpus");
    for (name, body) in [
        ("sse_split", sse_model::split_invariance as fn(&[u8])),
        ("sse_reference", sse_model::reference),
        ("sse_round_trip", sse_model::round_trip),
    ] {
        let mut inputs = 0;
        for entry in std::fs::read_dir(corpora.join(name)).unwrap() {
            body(&std::fs::read(entry.unwrap().path()).unwrap());
            inputs += 1;
        }
        assert!(inputs >= 20, "{name} has {inputs} inputs");
    }
}

/// A chunk takes as many steps as it has bytes: if a step looked back, neither of these cases would end.
#[test]
fn long_lines_in_small_chunks() {
    for (length, size) in [(64 << 20, 1460), (4 << 20, 1)] {
        let mut decoder = Decoder::new(Limits::default().line(usize::MAX).data(usize::MAX));
        let chunk = bytes::Bytes::from(vec![b'x'; size]);
        decoder.feed("data: ");
        for _ in 0..length / size {
            decoder.feed(chunk.clone());
            assert!(decoder.next_frame().is_none());
        }
        decoder.feed("\n\n");
        let Some(Frame::Event(event)) = decoder.next_frame() else { panic!("an event of {length} bytes") };
        assert_eq!(event.data().len(), length / size * size);
        assert!(event.data().bytes().all(|byte| byte == b'x'));
    }
}
