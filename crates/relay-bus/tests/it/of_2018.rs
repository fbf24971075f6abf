//! Behaviours of a dispatcher and a receiver that the tests of the 2018 package and of its successors check.
//! `docs/buses.md` names the tests of the other behaviours.

use std::sync::Mutex;

use relay_bus::{
    CancellationToken, ChannelReference, DispatchDefaults, DispatcherOptions, Headers, Message,
    MessageDispatcher, MessageReceiver, Receive, ReceiveError, ReceiverOptions,
};
use relay_transport::server::{HttpServer, Settings};
use tokio::sync::mpsc::UnboundedReceiver;

use crate::harness::{ACCEPTED, Asking as _, next, subscriber};

const NOT_FOUND: &str = "HTTP/1.1 404 No\r\ncontent-length: 0\r\n\r\n";
const FAILED: &str = "HTTP/1.1 500 No\r\ncontent-length: 3\r\n\r\nwhy";
const ANSWERED: &str = "HTTP/1.1 200 OK\r\ndo-not-passthrough: no\r\nX-Request-Id: altered\r\nknative-2: new\r\n\
                        content-length: 6\r\n\r\nanswer";

/// Headers of a message. The last ones must not be forwarded.
const HEADERS: [(&str, &str); 6] = [
    ("x-request-id", "asked"),
    ("knative-1", "one"),
    ("ce-abc", "two"),
    ("X-B3-Spanid", "three"),
    ("do-not-forward", "secret"),
    ("authorization", "secret"),
];

fn lines(request: &str) -> (Vec<String>, String) {
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    (head.lines().map(str::to_lowercase).collect(), body.to_owned())
}

/// Checks that a request is the original message, as its destination gets it.
fn is_original(request: &str, host: &str) {
    let (head, body) = lines(request);
    for line in [
        "x-request-id: asked",
        "knative-1: one",
        "ce-abc: two",
        "x-b3-spanid: three",
        &format!("host: {host}"),
    ] {
        assert!(head.iter().any(|held| held == line), "{line}\n{request}");
    }
    assert!(head[0] == "post / http/1.1" && !request.contains("secret") && body == "payload", "{request}");
}

fn nothing(requests: &mut UnboundedReceiver<String>) {
    assert!(requests.try_recv().is_err(), "a request that should not be");
}

#[tokio::test]
async fn a_message_goes_to_its_destination_and_the_answer_to_reply() {
    let dispatcher = MessageDispatcher::new(DispatcherOptions::default()).unwrap();
    let message = Message::new(Headers::from_iter(HEADERS), "payload");
    // The answers of destination and reply (`None`: there is no such address), whether the dispatch succeeds, and
    // whether the reply is called: `Some(true)` with the original message, `Some(false)` with the answer.
    for (destination, reply, succeeds, replies) in [
        (Some(ACCEPTED), None, true, None),
        (Some(NOT_FOUND), None, false, None),
        (None, Some(ACCEPTED), true, Some(true)),
        (None, Some(NOT_FOUND), false, Some(true)),
        (Some(FAILED), Some(ACCEPTED), false, None),
        (Some(ACCEPTED), Some(ACCEPTED), true, None),
        (Some(ANSWERED), Some(ACCEPTED), true, Some(false)),
        (Some(ANSWERED), Some(FAILED), false, Some(false)),
        (None, None, true, None),
    ] {
        let case = format!("{destination:?} {reply:?}");
        let (first, mut firsts) = subscriber(destination.unwrap_or(ACCEPTED)).await;
        let (second, mut seconds) = subscriber(reply.unwrap_or(ACCEPTED)).await;
        let to = destination.map(|_| first.clone()).unwrap_or_default();
        let defaults = DispatchDefaults::new("ns").reply_to(reply.map(|_| second.clone()));
        let sent = dispatcher.dispatch_message(&message, &to, &defaults).await;
        assert_eq!(sent.is_ok(), succeeds, "{case}: {sent:?}");
        if destination.is_some() {
            is_original(&next(&mut firsts).await, &first);
        }
        match replies {
            None => nothing(&mut seconds),
            Some(true) => is_original(&next(&mut seconds).await, &second),
            Some(false) => {
                let request = next(&mut seconds).await;
                let (head, body) = lines(&request);
                for line in ["x-request-id: altered", "knative-2: new"] {
                    assert!(head.iter().any(|held| held == line), "{line}\n{request}");
                }
                for absent in ["do-not", "asked", "knative-1", "ce-abc", "x-b3"] {
                    assert!(!request.to_lowercase().contains(absent), "{absent}\n{request}");
                }
                assert_eq!(body, "answer");
            }
        }
        nothing(&mut firsts);
        nothing(&mut seconds);
    }
}

/// A receiver that keeps its messages, and fails for one channel.
#[derive(Default)]
struct Kept(Mutex<Vec<(ChannelReference, Message)>>);

impl Receive for &'static Kept {
    async fn receive(&self, channel: &ChannelReference, message: Message) -> Result<(), ReceiveError> {
        self.0.lock().unwrap().push((channel.clone(), message));
        match channel.name() {
            "unknown" => Err(ReceiveError::UnknownChannel),
            "fails" => Err(ReceiveError::Failed("for a reason of its own".into())),
            _ => Ok(()),
        }
    }
}

#[tokio::test]
async fn the_receiver_hands_over_what_may_pass_and_says_how_it_went() {
    let kept: &'static Kept = Box::leak(Box::default());
    let server = HttpServer::bind("127.0.0.1:0", Settings::default()).await.unwrap();
    let (address, stop) = (server.local_addr(), CancellationToken::new());
    tokio::spawn(MessageReceiver::new(kept, ReceiverOptions::default()).run(server, stop.clone()));
    let headers = "KNATIVE-a: 1\r\nCe-B: 2\r\nce-b: 3\r\nX-Request-ID: 4\r\ncookie: no\r\nknativ: no\r\n";
    for (host, status, code) in [
        ("c.ns.channels.cluster.local", 202, ""),
        ("c.ns", 202, ""),
        ("C.NS:8080", 202, ""),
        ("unknown.ns", 404, "unknown-channel"),
        ("fails.ns", 500, "bus-failed"),
    ] {
        let (got, text) = address.post(host, headers, "payload").await;
        assert_eq!(got, status, "{text}");
        assert!(text.contains(code) && !text.contains("a reason of its own"), "{text}");
        let (channel, message) = kept.0.lock().unwrap().pop().unwrap();
        if status == 202 {
            assert_eq!(channel.to_string(), "ns/c");
        }
        let mut passed: Vec<_> = message.headers.iter().map(|(name, value)| (name, &value[..])).collect();
        passed.sort_unstable();
        let expected: [(&str, &[u8]); 3] = [("ce-b", b"2"), ("knative-a", b"1"), ("x-request-id", b"4")];
        assert_eq!(passed, expected);
        assert_eq!(&message.payload[..], b"payload");
    }
    stop.cancel();
}
