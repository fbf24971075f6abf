//! The literal bytes of `fixtures/parsec-wire`, as the client reads and sends them. Their meaning is written here by
//! hand.

use std::path::PathBuf;
use std::time::Duration;

use relay_parsec::{
    Client, Endpoint, HistoryOptions, Outgoing, PublishFailure, SseConfig, SseTransport, SubscribeOptions,
    Transport,
};
use relay_proto::parsec::Producer;
use relay_proto::parsec::centrifuge::{Command, Message, Recover, Reply as Answer};
use relay_proto::parsec::session::{Action, Config, From, Session};
use relay_testkit::{Peer, Reply, Script};

use crate::seen::{all, next};
use crate::worlds::CHANNEL;

fn fixture(name: &str) -> String {
    let path: PathBuf =
        [env!("CARGO_MANIFEST_DIR"), "..", "..", "fixtures", "parsec-wire", name].iter().collect();
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn client(peer: &Peer) -> Client {
    let endpoint = Endpoint::builder(peer.url()).build().unwrap();
    let config = SseConfig::default().backoff(Duration::from_millis(1), Duration::from_millis(2));
    Client::builder(SseTransport::new(endpoint, config))
        .producer(Producer::service("p"))
        .backoff(Duration::from_millis(1), Duration::from_millis(2))
        .build()
        .unwrap()
}

/// The items that a subscriber gets from a stream with these files, whole and byte by byte, followed by 204.
async fn stream(names: &[&str], after: Option<&str>) -> Vec<String> {
    let bytes: String = names.iter().map(|name| fixture(name)).collect();
    let mut results = Vec::new();
    for size in [usize::MAX, 1, 3] {
        let script = Script::new()
            .on("/parsec/stream", Reply::sse().send_in(size, bytes.clone()).cut())
            .always("/parsec/stream", Reply::empty(204));
        let peer = Peer::start(script).await;
        let options = SubscribeOptions::default().after(after.map(|after| after.parse().unwrap()));
        let mut items = client(&peer).subscribe(CHANNEL, options).await.unwrap().items();
        let mut seen = all(&mut items).await;
        assert!(seen.pop().unwrap().starts_with("ended finished"), "{seen:?}");
        results.push(seen);
    }
    assert!(results.windows(2).all(|pair| pair[0] == pair[1]), "{results:?}");
    results.remove(0)
}

#[tokio::test]
async fn blocks_of_a_stream() {
    assert_eq!(
        stream(
            &["connected.sse", "envelope.sse", "envelope-on-lines.sse", "heartbeat.sse", "closing.sse"],
            None
        )
        .await,
        ["subscribed", "p1@1", "p2@2"]
    );
    assert_eq!(
        stream(&["connected.sse", "gap-trimmed.sse"], Some("fixture-epoch.1")).await,
        ["resumed", "gap trimmed 1"]
    );
    assert_eq!(
        stream(&["connected.sse", "gap-unknown-position.sse"], Some("fixture-epoch.99")).await,
        ["resumed", "gap unknown-position ?"]
    );
    assert_eq!(
        stream(&["connected.sse", "gap-epoch-changed.sse"], Some("another.7")).await,
        ["resumed", "gap epoch-changed ?"]
    );
    // A stream of upstream's own server, which sends nothing first and has no positions.
    assert_eq!(stream(&["upstream-envelope.sse"], None).await, ["subscribed", "p3@-"]);
}

#[tokio::test]
async fn bodies_of_answers() {
    let answer = |name: &str| Reply::new(200, "application/json", fixture(name));
    let script = Script::new()
        .on("/parsec/publish", answer("published.json"))
        .on("/parsec/publish", answer("published-again.json"))
        .on("/parsec/history", answer("history.json"))
        .on("/parsec/history", answer("history-empty.json"))
        .on("/parsec/presence", answer("presence.json"))
        .on("/parsec/schemas", answer("schemas.json"));
    let peer = Peer::start(script).await;
    let client = client(&peer);
    let sent = client.publish(CHANNEL, Outgoing::new("said")).await.unwrap();
    assert_eq!((sent.position.unwrap().to_string(), sent.duplicate), ("fixture-epoch.1".into(), false));
    assert!(client.publish(CHANNEL, Outgoing::new("said")).await.unwrap().duplicate);
    let history = client.history(CHANNEL, &HistoryOptions::default()).await.unwrap();
    let brief: Vec<_> = history
        .iter()
        .map(|item| (item.position.as_ref().unwrap().offset(), item.envelope.as_ref().unwrap().sequence()))
        .collect();
    assert_eq!(brief, [(3, 3), (4, 4)]);
    assert!(client.history(CHANNEL, &HistoryOptions::default()).await.unwrap().is_empty());
    let presence = client.presence(CHANNEL).await.unwrap();
    let entry = &presence.entries[0];
    assert_eq!((presence.subscribers, &*entry.client_id, &*entry.user_id), (1, "me", "anonymous"));
    assert_eq!(entry.conn_info.as_ref().unwrap().get(), r#"{"room":1}"#);
    let schemas = Endpoint::builder(peer.url()).build().unwrap().schemas().await.unwrap();
    assert_eq!(relay_proto::parsec::Registry::from_json(&schemas).unwrap().list().count(), 2);
}

/// The client's error for each refusal.
#[tokio::test]
async fn refusals() {
    for (code, status, refused, kind) in [
        ("bad-envelope", 400, true, "failed"),
        ("bad-parameter", 400, true, "failed"),
        ("unauthenticated", 401, true, "denied"),
        ("forbidden-channel", 403, true, "denied"),
        ("not-found", 404, true, "not found"),
        ("method-not-allowed", 405, true, "failed"),
        ("sequence-conflict", 409, true, "failed"),
        ("body-too-large", 413, true, "failed"),
        ("envelope-too-large", 413, true, "failed"),
        ("payload-invalid", 422, true, "failed"),
        ("unsupported-aspect", 422, true, "failed"),
        ("too-many-streams", 429, false, "failed"),
        ("too-many-channels", 429, false, "failed"),
    ] {
        let body = fixture(&format!("problem-{code}.json"));
        let problem = || Reply::new(status, "application/problem+json", body.clone());
        let peer = Peer::start(
            Script::new()
                .always("/parsec/publish", problem())
                .on("/parsec/stream", problem())
                .always("/parsec/stream", Reply::empty(204)),
        )
        .await;
        let endpoint = Endpoint::builder(peer.url()).build().unwrap();
        let transport = SseTransport::new(endpoint, SseConfig::default());
        match transport.publish(CHANNEL, "{}".into()).await.unwrap_err() {
            PublishFailure::Refused(error) => assert!(refused && error.code() == code, "{code}: {error}"),
            PublishFailure::Unavailable { error, .. } => {
                assert!(!refused && error.code() == code, "{code}: {error}")
            }
            other => panic!("{other:?}"),
        }
        let mut items = client(&peer).subscribe(CHANNEL, SubscribeOptions::default()).await.unwrap().items();
        let end = next(&mut items).await;
        // Temporary errors are retried.
        let expected = if refused { kind } else { "finished" };
        assert!(end.starts_with(&format!("ended {expected}: ")), "{code}: {end}");
        assert!(!refused || end.contains(code), "{end}");
    }
    let peer = Peer::start(Script::new().always(
        "/parsec/publish",
        Reply::new(409, "application/problem+json", fixture("problem-sequence-conflict.json")),
    ))
    .await;
    let error = client(&peer).publish(CHANNEL, Outgoing::new("said")).await.unwrap_err().to_string();
    assert!(error.contains(", 4:") && error.contains("another producer id"), "{error}");
}

/// The frames that the client sends over a WebSocket are those of the file, and decode to the intended commands.
#[test]
fn commands_of_a_websocket() {
    let commands = [
        (1, Command::Connect { token: String::new(), name: "relay".into() }),
        (2, Command::Subscribe { channel: CHANNEL.into(), token: String::new(), recover: None }),
        (0, Command::Pong),
        (
            2,
            Command::Subscribe {
                channel: CHANNEL.into(),
                token: String::new(),
                recover: Some(Recover { epoch: "Xy.1".into(), offset: 12 }),
            },
        ),
        (
            2,
            Command::Subscribe {
                channel: "private:a.b.c".into(),
                token: "TOKEN".into(),
                recover: Some(Recover::default()),
            },
        ),
        (3, Command::Unsubscribe { channel: CHANNEL.into() }),
    ];
    let file = fixture("centrifuge-commands.jsonl");
    assert_eq!(file.lines().count(), commands.len());
    for (line, (id, command)) in file.lines().zip(&commands) {
        assert_eq!(command.to_line(*id), line);
        assert_eq!(Command::from_line(line).unwrap(), (*id, command.clone()));
    }
}

/// The session's actions for the frames of a server.
#[test]
fn frames_of_a_websocket() {
    let after = |at: &str| From::After(at.parse().unwrap());
    for (from, frames, expected) in [
        (
            From::Latest,
            &["subscribed", "pushes"][..],
            &["subscribed Xy.1.12", "Xy.1.13", "Xy.1.14", "send {}"][..],
        ),
        (From::Latest, &["subscribed-empty", "pushes"], &["subscribed -", "-", "-", "send {}"]),
        // The offset in the answer is the requested one; the publications in the answer advance it.
        (after("Xy.1.12"), &["recovered"], &["subscribed Xy.1.12", "Xy.1.13", "Xy.1.14"]),
        (after("Xy.1.12"), &["not-recovered"], &["subscribed Xy.1.40", "gap trimmed Some(28)"]),
        (after("other.3"), &["not-recovered"], &["subscribed Xy.1.40", "gap epoch-changed None"]),
        (From::Oldest, &["not-recovered"], &["subscribed Xy.1.40", "gap trimmed Some(40)"]),
        (From::Latest, &["error-100"], &["refused with 100"]),
        (From::Latest, &["subscribed", "unsubscribe"], &["subscribed Xy.1.12", "ended 2000"]),
        (From::Latest, &["subscribed", "disconnect"], &["subscribed Xy.1.12", "lost 3012"]),
    ] {
        assert_eq!(session(from, frames), expected, "{frames:?}");
    }
    // Client and server agree on these lines.
    for name in
        ["connected", "subscribed", "subscribed-empty", "error-100", "pushes", "unsubscribe", "disconnect"]
    {
        for line in fixture(&format!("centrifuge-{name}.jsonl")).lines().filter(|line| !line.contains("join"))
        {
            let message = Message::from_line(line).unwrap();
            assert_eq!(message.to_line(), line, "{name}");
        }
    }
    let recovered = Message::from_line(fixture("centrifuge-recovered.jsonl").trim_end()).unwrap();
    let Message::Reply { id: 2, result: Ok(Answer::Subscribe(answer)) } = recovered else { panic!() };
    assert_eq!((answer.offset, answer.newest(), answer.publications.len()), (12, 14, 2));
    assert!(answer.publications[1].data.starts_with(b"{\"channel\": \"public:a.b\""), "blanks stay");
}

fn session(from: From, frames: &[&str]) -> Vec<String> {
    use relay_proto::parsec::session::Item;
    let now = Duration::ZERO;
    let mut session = Session::new(Config::default(), 1);
    session.subscribe(CHANNEL, from);
    assert!(matches!(session.poll(now), Action::Connect));
    session.handle_open("", now);
    let mut seen = Vec::new();
    let mut frames = ["connected"].iter().chain(frames);
    loop {
        match session.poll(now) {
            Action::Item(Item::Subscribed { resumes_after, .. }) => {
                seen.push(format!("subscribed {}", resumes_after.map_or("-".into(), |at| at.to_string())));
            }
            Action::Item(Item::Publication { position, .. }) => {
                seen.push(position.map_or("-".into(), |at| at.to_string()));
            }
            Action::Item(Item::Gap { reason, missed, .. }) => {
                let reason = match reason {
                    relay_proto::parsec::session::LossReason::Server(reason) => reason.as_str().to_owned(),
                    other => format!("{other:?}"),
                };
                seen.push(format!("gap {reason} {missed:?}"));
            }
            Action::Item(Item::Refused { reason, .. }) => {
                seen.push(format!("refused with {}", if reason.contains("100") { "100" } else { "another" }));
            }
            Action::Item(Item::Ended { end, .. }) => seen.push(format!("ended {}", end.code.unwrap_or(0))),
            Action::Item(Item::Lost { reason, .. }) => {
                seen.push(format!("lost {}", if reason.contains("3012") { "3012" } else { &reason }));
            }
            Action::Item(other) => panic!("{other:?}"),
            Action::Send(line) if line.contains("connect") || line.contains("subscribe") => {}
            Action::Send(line) => seen.push(format!("send {line}")),
            Action::Receive(_) => match frames.next() {
                Some(name) => session.handle_text(&fixture(&format!("centrifuge-{name}.jsonl")), now),
                None => return seen,
            },
            _ => return seen,
        }
    }
}
