//! The messages of the scripted relay are read with the decoders that a client uses.

use super::*;
use crate::peer::Peer;
use relay_proto::pods::{GapReason, ListDecoder, ListFormat, ListLimits, Message, PodEvent, Session};
use relay_proto::sse::{Decoder, Frame};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

async fn ask(peer: &Peer, request: &str) -> String {
    let mut socket = TcpStream::connect(peer.addr()).await.unwrap();
    socket.write_all(format!("{request}\r\nconnection: close\r\n\r\n").as_bytes()).await.unwrap();
    socket.shutdown().await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    answer.split_once("\r\n\r\n").unwrap().1.to_owned()
}

async fn heard(conversation: Conversation) -> (Vec<Message>, Vec<Duration>) {
    let mut out = Vec::new();
    Reply::from(conversation).play(&mut out).await.unwrap();
    let body = String::from_utf8(out).unwrap().split_once("\r\n\r\n").unwrap().1.to_owned();
    let mut decoder = Decoder::default();
    decoder.feed(body);
    let (mut messages, mut retries) = (Vec::new(), Vec::new());
    while let Some(frame) = decoder.next_frame() {
        match frame {
            Frame::Event(event) => {
                messages.push(Message::decode(event.kind(), event.last_event_id(), event.data()));
            }
            Frame::Retry(delay) => retries.push(delay),
            other => panic!("{other:?}"),
        }
    }
    (messages, retries)
}

fn event(message: &Message) -> &PodEvent {
    match message {
        Message::Pod(event) => event,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn an_unfiltered_stream_chains_hashes() {
    let pod = Conversation::sample_pod("web-1");
    let conversation = Conversation::new("e1")
        .connected_to(2, 9)
        .pod("ADDED", &pod)
        .catchup_complete()
        .pod_at(7, "DELETED", &pod)
        .heartbeat_with(json!({"source": "stale"}))
        .gap("slow-consumer", 20)
        .pod("MODIFIED", &pod)
        .closing("shutdown", Duration::from_millis(1500))
        .cut_inside("ADDED", &pod);
    let (heard, retries) = heard(conversation).await;
    let Message::Connected(connected) = &heard[0] else { panic!() };
    assert_eq!(connected.head.as_ref().unwrap().sequence, Some(9));
    assert_eq!(
        (connected.resumes_after.as_ref().unwrap().hash.as_str(), connected.filtered),
        ("e1.2", Some(false))
    );
    let first = event(&heard[1]);
    assert_eq!((first.hash.as_str(), first.previous_hash.as_ref().unwrap().as_str()), ("e1.3", "e1.2"));
    assert_eq!((first.sent, &first.pod), (None, &pod));
    let Message::CatchupComplete(complete) = &heard[2] else { panic!() };
    assert_eq!((complete.sequence, complete.replayed, complete.sent), (Some(3), Some(1), None));
    assert_eq!(event(&heard[3]).sequence, Some(7));
    let Message::Heartbeat(beat) = &heard[4] else { panic!() };
    assert_eq!((beat.sequence, beat.source.as_ref().unwrap().as_str()), (Some(7), "stale"));
    let Message::Gap(gap) = &heard[5] else { panic!() };
    assert_eq!((&gap.reason, gap.sequence), (&GapReason::SlowConsumer, Some(20)));
    assert_eq!(event(&heard[6]).previous_hash.as_ref().unwrap().as_str(), "e1.20");
    assert!(matches!(&heard[7], Message::Closing(_)));
    assert_eq!((heard.len(), retries), (8, vec![Duration::from_millis(1500)]), "half an event is none");
}

#[tokio::test]
async fn a_filtered_stream_counts_what_it_sent() {
    let pod = Conversation::sample_pod("web-1");
    let conversation = Conversation::new("e1")
        .filtered()
        .connected(5)
        .pod_at(8, "ADDED", &pod)
        .gap("cursor-expired", 10)
        .heartbeat()
        .lose(2)
        .pod("ADDED", &pod);
    let (heard, _) = heard(conversation).await;
    let first = event(&heard[1]);
    assert_eq!((first.sent, first.previous_hash.as_ref()), (Some(1), None));
    let Message::Gap(gap) = &heard[2] else { panic!() };
    let Message::Heartbeat(beat) = &heard[3] else { panic!() };
    assert_eq!((gap.sent, beat.sent), (Some(2), Some(2)));
    let after = event(&heard[4]);
    assert_eq!((after.sent, after.sequence), (Some(5), Some(13)));
}

#[tokio::test]
async fn lists_tickets_and_prefixes() {
    let pods = [Conversation::sample_pod("a"), Conversation::sample_pod("b")];
    let relay = RelayScript::new("e1").prefix("/x%2Fy").sessions().seed(4, &pods);
    let peer = Peer::start(relay.on("/pods", Reply::json(503, &json!({"code": "not-ready"})))).await;

    let body = ask(&peer, "GET /x%2Fy/pods?namespace=prod HTTP/1.1").await;
    let mut decoder = ListDecoder::new(ListFormat::Ndjson, ListLimits::default());
    decoder.feed(body.as_bytes()).unwrap();
    let list = decoder.finish().unwrap();
    assert_eq!((list.sequence, list.hash.unwrap().as_str()), (Some(4), "e1.4"));
    assert_eq!(list.pods, pods);
    assert!(ask(&peer, "GET /x%2Fy/pods HTTP/1.1").await.contains("not-ready"));

    for id in ["s-1", "s-2"] {
        let body = ask(&peer, "POST /x%2Fy/auth/session HTTP/1.1").await;
        assert_eq!(Session::from_json(body.as_bytes()).unwrap().session_id, id);
    }
    assert!(peer.unscripted().is_empty());
    assert!(ask(&peer, "GET /pods HTTP/1.1").await.contains("nothing is scripted"));
    assert_eq!(peer.unscripted().len(), 1);
}
