//! Random streams in random chunks, compared with the slow model; and the corpora of the fuzz targets.

use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;
use relay_proto::sse::{Decoder, Encoder, Frame, Limits, Series};

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

/// Blocks of which many, but not all, belong to the series `tick` with ids of `clock-` and a number.
fn series_piece() -> impl Strategy<Value = Vec<u8>> {
    let numbers = prop::sample::select(vec![
        "0",
        "1",
        "7",
        "41",
        "007",
        "",
        "x",
        "9x",
        "9 ",
        "9999999999999999999",
        "18446744073709551615",
        "18446744073709551616",
        "123456789012345678901",
        "4\0",
    ]);
    let lines = prop::sample::select(vec![
        &b"noon"[..],
        b"",
        b" ",
        b"\xe2\x82\xac",
        b"\xff",
        b"\xe2\x82",
        b"a\rb",
        b"a\r",
        b"x\ndata: y",
        b"x\nid: other",
        b"x\nevent: other",
        b"x\nretry: 7",
        b"x\n: comment",
        b"a long line of more than thirty-two bytes, to be read",
    ]);
    let block = (numbers, lines, prop::sample::select(vec!["\n\n", "\n\n", "\n\n", "\n", "\r\n\r\n"]))
        .prop_map(|(number, line, end)| {
            [format!("event: tick\nid: clock-{number}\ndata: ").as_bytes(), line, end.as_bytes()].concat()
        });
    prop_oneof![9 => block, 1 => stream()]
}

#[test]
fn a_series_is_read_in_the_short_way() {
    let series = Series::new("tick", "clock-").unwrap();
    let mut decoder = Decoder::default();
    // The first line of a stream is read in the general way, and so is the event that is not UTF-8.
    decoder.feed(
        [&b": begins\n\n"[..], b"event: tick\nid: clock-7\ndata: \xff\n\n"]
            .into_iter()
            .chain((8..20).map(|_| &b"event: tick\nid: clock-8\ndata: x\n\n"[..]))
            .collect::<Vec<_>>()
            .concat(),
    );
    for _ in 0..2 {
        assert!(decoder.next_in_series(&series).is_none());
        assert!(decoder.next_frame().is_some());
    }
    assert_eq!(std::iter::from_fn(|| decoder.next_in_series(&series).map(|_| ())).count(), 12);
    for bad in ["a\nb", "a\rb", "a\0"] {
        assert!(Series::new(bad, "").is_none() && Series::new("", bad).is_none());
    }
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

    /// Events of a series are the same in the short way as in the general one, and so is everything between them.
    #[test]
    fn a_series_is_read_as_other_events(
        pieces in prop::collection::vec(series_piece(), 0..12), limits in limits(), size in 1usize..200,
    ) {
        let stream = pieces.concat();
        let series = Series::new("tick", "clock-").unwrap();
        let (mut short, mut general) = (Decoder::new(limits), Decoder::new(limits));
        for chunk in stream.chunks(size) {
            short.feed(chunk.to_vec());
            general.feed(chunk.to_vec());
            loop {
                let event = short.next_in_series(&series).map(|event| {
                    assert_eq!(event.part().0.get(event.part().1), Some(event.data()));
                    let id = format!("clock-{}", event.number());
                    format!("event {:?} {:?} {id:?}", "tick", event.data())
                });
                let frame = event.or_else(|| short.next_frame().as_ref().map(sse_model::render));
                prop_assert_eq!(&frame, &general.next_frame().as_ref().map(sse_model::render));
                prop_assert_eq!(short.last_event_id(), general.last_event_id());
                prop_assert_eq!(short.buffered(), general.buffered());
                prop_assert_eq!(short.block_bytes(), general.block_bytes());
                if frame.is_none() {
                    break;
                }
            }
        }
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
