//! Counts the allocations of the SSE decoder and of the pod messages. This is a separate program, because it has its
//! own allocator.

use allocation_counter::measure;
use bytes::Bytes;
use relay_proto::sse::{Decoder, Frame};

/// Decodes `stream` again and again in chunks of `size`, drops each event after a look at it, and returns the number of
/// allocations of the later rounds and the number of their events. The chunks are allocated before.
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
                    // Small data from small chunks is stored in the event itself, so there is nothing to share.
                    assert!(size < 64 || event.data_bytes() == event.data());
                    events += 1;
                }
            }
        }
    };
    // Runs until every buffer has reached its size.
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

/// Events that are kept share memory with their neighbours: the allocations depend on bytes, not on events.
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

/// After an event that is far larger than its neighbours, no large buffer is kept.
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

/// The memory for a line that is too long is bounded by the limit.
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

/// A message with a pod as a relay sends it, and the number of bytes of the pod's JSON.
#[cfg(feature = "pods")]
fn pod_message(n: usize) -> (String, usize) {
    let pod = format!(
        concat!(
            r#"{{"namespace":"prod","name":"web-7d9f8c6b5-{n:05}","uid":"6f1c2a3b-1111-2222-3333-{n:012}","resource_version":"{n}","#,
            r#""labels":{{"app":"web","pod-template-hash":"7d9f8c6b5","run":"d-17","tier":"frontend"}},"annotations":{{}},"phase":"Running","#,
            r#""ready":true,"node_name":"node-3","pod_ip":"10.1.2.3","host_ip":"10.0.0.3","created_at":"2026-11-21T09:00:00Z","#,
            r#""started_at":"2026-11-21T09:00:05Z","deleted_at":null,"reason":null,"message":null,"owner":{{"kind":"ReplicaSet","name":"web"}},"#,
            r#""containers":[{{"name":"app","image":"i:1","ready":true,"restart_count":0,"state":"running","reason":null,"exit_code":null}}]}}"#
        ),
        n = n
    );
    let hash = "x".repeat(48);
    let head = format!(r#""type":"MODIFIED","previous_hash":"{hash}","hash":"{hash}","sequence":{n}"#);
    (format!(r#"{{{head},"timestamp":"2026-11-21T09:00:00.123Z","pod":{pod}}}"#), pod.len())
}

#[cfg(feature = "pods")]
#[test]
fn a_pod_is_its_text_and_little_more() {
    use relay_proto::pods::{Message, Pod};

    let messages: Vec<(String, usize)> = (0..1000).map(pod_message).collect();
    let text: usize = messages.iter().map(|(_, bytes)| bytes).sum();
    let mut pods: Vec<Pod> = Vec::with_capacity(messages.len());
    let decoding = measure(|| {
        for (data, _) in &messages {
            let Message::Pod(event) = Message::decode("pod", "", data) else { panic!("{data}") };
            pods.push(event.pod);
        }
    });
    // The hashes, the key, the text, and the positions in it.
    assert_eq!(decoding.count_total, 4 * pods.len() as u64);
    let beside = decoding.bytes_current as usize - text;
    assert!(beside < 230 * pods.len(), "{} bytes beside the text of each pod", beside / pods.len());

    let reading = measure(|| {
        for pod in &pods {
            assert_eq!((pod.label("run"), pod.phase(), pod.ready()), (Some("d-17"), Some("Running"), true));
            assert!(pod.created_at().is_some() && pod.message().is_none() && pod.labels().count() == 4);
        }
    });
    assert_eq!(reading.count_total, 0, "fields are read where they stand");
    let cold = measure(|| assert_eq!(pods[0].containers()[0].name, "app"));
    assert!(cold.count_total > 0 && cold.bytes_current > 0, "kept from then on");
    assert_eq!(measure(|| assert!(pods[0].owner().is_some())).count_total, 0);
}
