//! The literal bytes of `fixtures/pods-wire`, as the client reads them. Their meaning is written here by hand.

use std::path::PathBuf;

use futures_util::StreamExt;
use relay_pods::{Client, EventHash, Filter, Phase};
use relay_proto::pods::problem_codes;
use relay_proto::pods::{
    EventPage, Health, ListDecoder, ListFormat, ListLimits, Message, Pod, Session, SourceState,
};
use relay_proto::problem::{Problem, ProblemCode};
use relay_proto::sse::{Decoder, Frame};
use relay_testkit::{Peer, Reply, Script};

use super::{lines, options};

fn fixture(name: &str) -> Vec<u8> {
    let path: PathBuf =
        [env!("CARGO_MANIFEST_DIR"), "..", "..", "fixtures", "pods-wire", name].iter().collect();
    std::fs::read(&path).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn messages(name: &str) -> Vec<Message> {
    let mut decoder = Decoder::default();
    decoder.feed(fixture(name));
    std::iter::from_fn(|| decoder.next_frame())
        .filter_map(|frame| match frame {
            Frame::Event(event) => Some(Message::decode(event.kind(), event.last_event_id(), event.data())),
            _ => None,
        })
        .collect()
}

/// A message as one line: its kind, its position, and its special fields.
fn show(message: &Message) -> String {
    let sequence = |hash: &EventHash| hash.as_str().split('.').nth(1).unwrap().to_owned();
    match message {
        Message::Connected(c) => {
            let (head, start) = (c.head.as_ref().unwrap(), c.resumes_after.as_ref().unwrap());
            let filtered = c.filtered.unwrap();
            format!(
                "connected v{} {} head={} after={} filtered={filtered} namespaces={:?} heartbeat={}",
                c.protocol,
                c.client_id.as_deref().unwrap_or("-"),
                head.sequence.unwrap(),
                start.sequence.unwrap(),
                c.namespaces,
                c.heartbeat_seconds.unwrap()
            )
        }
        Message::Pod(e) => {
            let previous = e.previous_hash.as_ref().map_or("-".into(), sequence);
            assert_eq!(sequence(&e.hash), e.sequence.unwrap().to_string());
            let mut text =
                format!("{} #{} after={previous} {}", e.kind.as_str(), e.sequence.unwrap(), e.pod.key());
            text += &e.sent.map_or(String::new(), |sent| format!(" sent={sent}"));
            text += if e.synthetic { " synthetic" } else { "" };
            text += if e.left_filter { " left" } else { "" };
            text += if e.entered_filter { " entered" } else { "" };
            text
        }
        Message::CatchupComplete(c) => format!(
            "catchup #{} replayed={} sent={:?}",
            sequence(c.hash.as_ref().unwrap()),
            c.replayed.unwrap(),
            c.sent
        ),
        Message::Gap(g) => format!(
            "gap {} #{} requested={} oldest={} missed={:?} sent={:?}",
            g.reason.as_str(),
            g.sequence.unwrap(),
            g.requested_hash.is_some(),
            g.oldest_hash.as_ref().map_or("-".into(), sequence),
            g.missed,
            g.sent
        ),
        Message::Heartbeat(h) => format!(
            "heartbeat #{} catching_up={} {} since={} sent={:?}",
            h.sequence.unwrap(),
            h.catching_up,
            h.source.as_ref().map_or("-", SourceState::as_str),
            h.stale_since.as_ref().map_or("-", |t| t.as_str()),
            h.sent
        ),
        Message::Closing(c) => format!("closing {}", c.reason.as_str()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_kind_of_message_is_read_as_it_is_meant() {
    #[rustfmt::skip]
    let expected = [
        ("connected.sse", "connected v1 deployment-service head=6 after=0 filtered=false namespaces=[] heartbeat=15"),
        ("filtered-connected.sse", "connected v1 - head=6 after=0 filtered=true namespaces=[\"prod\"] heartbeat=15"),
        ("pod-added-1.sse", "ADDED #1 after=0 dev/job-ü synthetic"),
        ("pod-added-2.sse", "ADDED #2 after=1 prod/web-7d9f-abcde synthetic"),
        ("pod-modified-3.sse", "MODIFIED #3 after=2 prod/web-7d9f-abcde"),
        ("pod-modified-4.sse", "MODIFIED #4 after=3 prod/web-7d9f-abcde"),
        ("pod-modified-5.sse", "MODIFIED #5 after=4 prod/web-7d9f-abcde"),
        ("pod-deleted-6.sse", "DELETED #6 after=5 dev/job-ü"),
        ("filtered-pod-added-1.sse", "ADDED #2 after=- prod/web-7d9f-abcde sent=1 synthetic"),
        ("filtered-pod-modified-3.sse", "MODIFIED #3 after=- prod/web-7d9f-abcde sent=2"),
        ("filtered-pod-left-4.sse", "DELETED #4 after=- prod/web-7d9f-abcde sent=3 left"),
        ("filtered-pod-entered-5.sse", "ADDED #5 after=- prod/web-7d9f-abcde sent=4 entered"),
        ("catchup-complete.sse", "catchup #6 replayed=6 sent=None"),
        ("filtered-catchup-complete.sse", "catchup #6 replayed=4 sent=Some(4)"),
        ("gap-cursor-expired.sse", "gap cursor-expired #4 requested=true oldest=5 missed=Some(3) sent=None"),
        ("gap-cursor-unknown.sse", "gap cursor-unknown #4 requested=true oldest=5 missed=None sent=None"),
        ("gap-slow-consumer.sse", "gap slow-consumer #7 requested=false oldest=- missed=Some(1) sent=None"),
        ("filtered-gap.sse", "gap cursor-expired #4 requested=true oldest=5 missed=None sent=Some(1)"),
        ("heartbeat.sse", "heartbeat #6 catching_up=false live since=- sent=None"),
        ("heartbeat-stale.sse", "heartbeat #6 catching_up=false stale since=2026-11-21T09:00:03.999Z sent=None"),
        ("filtered-heartbeat.sse", "heartbeat #6 catching_up=false live since=- sent=Some(2)"),
        ("closing.sse", "closing shutdown"),
    ];
    for (name, expected) in expected {
        let read = messages(name);
        assert_eq!(read.len(), 1, "{name}");
        assert_eq!(show(&read[0]), expected, "{name}");
    }
    let mut decoder = Decoder::default();
    decoder.feed(fixture("closing.sse"));
    assert!(matches!(decoder.next_frame(), Some(Frame::Retry(delay)) if delay.as_millis() == 100));
}

#[test]
fn lists_pages_and_documents_are_read() {
    for (name, format, count) in [
        ("pods.json", ListFormat::Json, 1),
        ("pods.ndjson", ListFormat::Ndjson, 1),
        ("pods-none.json", ListFormat::Json, 0),
        ("pods-none.ndjson", ListFormat::Ndjson, 0),
    ] {
        let mut decoder = ListDecoder::new(format, ListLimits::default());
        decoder.feed(&fixture(name)).unwrap();
        let list = decoder.finish().unwrap();
        assert_eq!((list.pods.len(), list.sequence), (count, Some(6)), "{name}");
        assert_eq!(list.epoch.unwrap().as_str(), "fixture-epoch-1");
    }
    let pod = Pod::from_json(&String::from_utf8(fixture("pod.json")).unwrap()).unwrap();
    assert_eq!((pod.name(), pod.label("run"), pod.ready()), ("web-7d9f-abcde", Some("d-17"), true));
    assert_eq!((pod.owner().unwrap().kind.as_str(), pod.containers()[0].restart_count), ("ReplicaSet", 1));
    for (name, count, more) in [
        ("events.json", 6, false),
        ("events-newest-2.json", 2, true),
        ("events-of-a-pod.json", 2, false),
        ("events-filtered.json", 4, false),
    ] {
        let page = EventPage::from_json(&fixture(name)).unwrap();
        assert_eq!((page.events.len(), page.next_hash.is_some()), (count, more), "{name}");
    }
    let session = Session::from_json(&fixture("session.json")).unwrap();
    assert_eq!((session.session_id.len(), session.expires_in_seconds), (32, Some(30.0)));
    for (name, status, sequence) in
        [("health.json", "ok", 6), ("health-stale.json", "degraded", 6), ("health-cold.json", "degraded", 0)]
    {
        let health = Health::from_body(&fixture(name));
        assert_eq!(health.status.as_deref(), Some(status), "{name}");
        assert_eq!(health.head.unwrap().sequence, Some(sequence), "{name}");
    }
}

#[test]
fn every_problem_is_known_by_its_code() {
    let mut known = 0;
    for code in ProblemCode::ALL.iter().chain(problem_codes::ALL) {
        // A relay with a store never sends this code.
        if *code == ProblemCode::STORAGE_DISABLED {
            continue;
        }
        let problem = Problem::from_body(code.status(), &fixture(&format!("problem-{}.json", code.as_str())));
        assert!(problem.is(*code), "{problem}");
        assert_eq!(problem.r#type.unwrap(), format!("urn:relay:problem:{}", code.as_str()));
        assert!(problem.detail.is_some_and(|detail| !detail.is_empty()));
        known += 1;
    }
    assert_eq!(known, 14);
}

/// The head and the body of a stream, and of the lists around it, are read from the files through sockets into
/// snapshots.
#[tokio::test]
async fn a_recorded_stream_is_followed() {
    let list = || Reply::new(200, "application/x-ndjson", fixture("pods.ndjson"));
    for (file, filter, expected) in [
        (
            "stream.sse",
            Filter::new(),
            vec!["ADDED 1", "ADDED 2", "MODIFIED 3", "MODIFIED 4", "MODIFIED 5", "DELETED 6"],
        ),
        (
            "filtered-stream.sse",
            Filter::new().namespace("prod").unwrap().label("run=d-17").unwrap(),
            vec!["ADDED 2", "MODIFIED 3", "DELETED 4", "ADDED 5"],
        ),
    ] {
        let stream = Reply::new(200, "text/event-stream", fixture(file));
        let script = Script::new().on("/pods", list()).on("/events/stream", stream).on("/pods", list());
        let peer = Peer::start(script).await;
        let client = Client::builder(peer.url()).build().unwrap();
        let mut snapshots = client.stream_pod_state_with_replay(options().filter(filter));
        assert_eq!(lines(&mut snapshots, 1).await, ["CurrentSeed"]);
        for expected in expected {
            let snapshot = snapshots.next().await.unwrap().unwrap();
            let event = snapshot.event.unwrap();
            assert_eq!(snapshot.phase, Phase::Backfill);
            assert_eq!(format!("{} {}", event.kind.as_str(), event.sequence.unwrap()), expected, "{file}");
        }
        for phase in [Phase::CatchupComplete, Phase::CurrentSeed] {
            assert_eq!(snapshots.next().await.unwrap().unwrap().phase, phase, "{file}");
        }
        let statistics = snapshots.handle().statistics();
        assert_eq!((statistics.holes, statistics.gaps, statistics.undecodable), (0, 0, 0), "{file}");
    }
}
