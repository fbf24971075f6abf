//! Counts what the SSE decoder allocates. A program of its own, since it has an allocator of its own.

use allocation_counter::measure;
use bytes::Bytes;
use relay_proto::sse::{Decoder, Frame};

/// Decodes `stream` again and again in chunks of `size`, dropping each event after a look at it, and returns the
/// allocations of the later rounds with the number of their events. The chunks are there before.
#[track_caller]
fn steady(stream: &str, size: usize) -> (u64, u64) {
    let stream = Bytes::from(stream.to_owned());
    let chunks: Vec<Bytes> =
        (0..stream.len()).step_by(size).map(|at| stream.slice(at..stream.len().min(at + size))).collect();
    let mut decoder = Decoder::default();
    let mut events = 0;
    let mut round = || {
        for chunk in &chunks {
            decoder.feed(chunk.clone());
            while let Some(frame) = decoder.next_frame() {
                if let Frame::Event(event) = frame {
                    assert!(!event.data().is_empty() && !event.kind().is_empty());
                    assert!(event.last_event_id().len() < 10);
                    // Small data from small chunks is in the event itself: there is nothing to share.
                    assert!(size < 64 || event.data_bytes() == event.data());
                    events += 1;
                }
            }
        }
    };
    // Until every buffer has found its size.
    for _ in 0..10 {
        round();
    }
    let allocations = measure(|| {
        for _ in 0..10 {
            round();
        }
    });
    (allocations.count_total, events)
}

#[test]
fn a_steady_stream_allocates_nothing() {
    let pod = format!("event: pod\nid: 12345\ndata: {{\"pod\":\"{}\"}}\n\n", "x".repeat(1000)).repeat(40);
    let crlf = pod.replace('\n', "\r\n");
    let tiny = "data: 12345\n\n".repeat(1000);
    let lines = format!("event: log\n{}\n", "data: a line of text\n".repeat(20)).repeat(40);
    let sometimes = "id: 1\ndata: a\n\ndata: b\n\nid: 2\n\ndata: c\n\ndata: d\n\n".repeat(100);
    let comments = ": hello\n\ndata: a\n\nretry: 5\n\n".repeat(100);
    for (name, stream) in [
        ("pods", &pod),
        ("pods with CRLF", &crlf),
        ("tiny events", &tiny),
        ("lines", &lines),
        ("ids now and then", &sometimes),
        ("comments", &comments),
    ] {
        for size in [16 << 10, 1460, 100, 7, 1] {
            let (allocations, events) = steady(stream, size);
            assert!(events >= 400, "{name}: {events} events");
            assert_eq!(allocations, 0, "{name} in chunks of {size}: {events} events");
        }
    }
}

/// Events that are kept share their memory with neighbours: what is allocated depends on bytes, not on events.
#[test]
fn events_that_are_kept_share_allocations() {
    let stream = "data: 1\ndata: 2\n\n".repeat(10_000);
    let mut kept = Vec::with_capacity(10_000);
    let allocations = measure(|| {
        let mut decoder = Decoder::default();
        for chunk in stream.as_bytes().chunks(100) {
            decoder.feed_slice(chunk);
            kept.extend(std::iter::from_fn(|| decoder.next_frame()));
        }
    });
    assert_eq!(kept.len(), 10_000);
    assert!(allocations.count_total < 1000, "{allocations:?}");
}

/// An event far larger than its neighbours leaves nothing behind.
#[test]
fn a_huge_event_is_not_remembered() {
    let mut decoder = Decoder::default();
    let held = measure(|| {
        for chunk in format!("data: {}\n\n", "x".repeat(8 << 20)).as_bytes().chunks(1460) {
            decoder.feed_slice(chunk);
            while decoder.next_frame().is_some() {}
        }
    });
    assert!(held.bytes_max > 8 << 20, "{held:?}");
    assert!(held.bytes_current < 600 << 10, "{held:?}");
}

/// Memory for a line that is too long is bounded by the limit, whatever comes.
#[test]
fn an_endless_line_is_bounded() {
    let limits = relay_proto::sse::Limits::default().line(1 << 20);
    let chunk = vec![b'x'; 1460];
    let peak = measure(|| {
        let mut decoder = Decoder::new(limits);
        decoder.feed_slice(b"data: ");
        for _ in 0..50_000 {
            decoder.feed_slice(&chunk);
            assert!(decoder.next_frame().is_none());
        }
    });
    assert!(peak.bytes_max < 4 << 20, "{peak:?}");
}
