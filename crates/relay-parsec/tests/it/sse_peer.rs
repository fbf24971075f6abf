//! Servers that misbehave, over SSE and with POST.

use std::time::{Duration, Instant};

use relay_parsec::{Client, Endpoint, Outgoing, SseConfig, SseTransport, SubscribeOptions};
use relay_proto::parsec::Producer;
use relay_testkit::{Peer, Reply, Script, sse_event};
use relay_transport::TokenSource;

use crate::seen::{all, ending, until};
use crate::worlds::CHANNEL;

const SECRET: &str = "s3cret-token";

fn client(peer: &Peer) -> Client {
    let endpoint = Endpoint::builder(peer.url())
        .token_source(TokenSource::fixed(SECRET))
        .conn_info("\"s3cret-info\"")
        .build()
        .unwrap();
    let (base, cap) = (Duration::from_millis(1), Duration::from_millis(5));
    Client::builder(SseTransport::new(
        endpoint,
        SseConfig::default().backoff(base, cap).max_event_bytes(1 << 20),
    ))
    .producer(Producer::service("p"))
    .backoff(base, cap)
    .publish_timeout(Duration::from_secs(20))
    .build()
    .unwrap()
}

/// The blocks of a stream, written as one line each: `connected e.5`, `p7@e.6`, `gap trimmed 2 e.5`, `heartbeat e.5`;
/// any other text is used as it is.
fn blocks(lines: &[&str]) -> String {
    let block = |line: &&str| {
        let words: Vec<&str> = line.split(' ').collect();
        let bytes = match words[..] {
            ["connected", at] => {
                let data = format!(
                    r#"{{"protocol":1,"channel":"{CHANNEL}","resumes_after":"{at}","heartbeat_seconds":15}}"#
                );
                sse_event("connected", None, &data)
            }
            ["gap", reason, missed, at] => {
                let data = format!(
                    r#"{{"reason":"{reason}","requested":null,"resumes_after":"{at}","missed":{missed}}}"#
                );
                sse_event("gap", Some(at), &data)
            }
            ["heartbeat", at] => sse_event("heartbeat", None, &format!(r#"{{"position":"{at}"}}"#)),
            ["closing", reason] => sse_event("closing", None, &format!(r#"{{"reason":"{reason}"}}"#)),
            [envelope] if envelope.contains('@') && !envelope.contains(':') => {
                let (name, at) = envelope.split_once('@').unwrap();
                sse_event("envelope", Some(at), &envelope_of(name))
            }
            _ => line.to_string().into(),
        };
        String::from_utf8(bytes.to_vec()).unwrap()
    };
    lines.iter().map(block).collect()
}

/// The text of the envelope that is written as `p7`.
fn envelope_of(name: &str) -> String {
    let (producer, sequence) = name.split_at(1);
    format!(r#"{{"aspect":"a","producer":{{"id":"{producer}"}},"sequence":{sequence},"payload":{sequence}}}"#)
}

/// The items that a subscriber gets from a server with these answers, one after another, and then 204.
async fn over(replies: Vec<Reply>, after: Option<&str>) -> (Vec<String>, Peer) {
    let script = replies.into_iter().fold(Script::new(), |script, reply| script.on("/parsec/stream", reply));
    let peer = Peer::start(script.always("/parsec/stream", Reply::empty(204))).await;
    let options = SubscribeOptions::default().after(after.map(|after| after.parse().unwrap()));
    let client = client(&peer);
    let mut items = client.subscribe(CHANNEL, options).await.unwrap().items();
    let seen = all(&mut items).await;
    assert!(!seen.iter().any(|line| line.contains("s3cret")), "{seen:?}");
    client.close().await;
    assert_eq!(client.tasks(), 0);
    (seen, peer)
}

/// The items of streams with these blocks, one connection after another, without the end.
async fn streams(connections: &[&[&str]], after: Option<&str>) -> Vec<String> {
    let reply = |lines: &&[&str]| Reply::sse().send(blocks(lines)).cut();
    let (mut seen, _) = over(connections.iter().map(reply).collect(), after).await;
    assert!(seen.pop().unwrap().starts_with("ended finished"), "{seen:?}");
    seen
}

#[tokio::test]
async fn a_stream_that_begins_wrong() {
    // Without `connected`, the client connects again, and then reports a hole.
    let silent: &[&str] = &["p1@e.6"];
    assert_eq!(streams(&[silent], Some("e.5")).await, Vec::<String>::new());
    assert_eq!(streams(&[silent, silent], Some("e.5")).await, ["resumed", "p1@6"]);
    assert_eq!(streams(&[&["p1@e.8"], &["p1@e.8"]], Some("e.5")).await, ["resumed", "gap hole 2", "p1@8"]);
    // The stream begins at another position than requested, without a gap.
    assert_eq!(
        streams(&[&["connected e.7", "p1@e.8"]], Some("e.5")).await,
        ["resumed", "gap hole 2", "p1@8"]
    );
    assert_eq!(
        streams(&[&["connected f.1", "p1@f.2"]], Some("e.5")).await,
        ["resumed", "gap epoch-changed ?", "p1@2"]
    );
    // If `connected` cannot be read, the client connects again.
    for connected in [
        "event: connected\ndata: []\n\n",
        "event: connected\ndata: {\"resumes_after\":\"nowhere\"}\n\n",
        "event: connected\ndata: {}\n\n",
        "event: connected\ndata: nonsense\n\n",
    ] {
        assert_eq!(
            streams(&[&[connected], &["connected e.5", "p1@e.6"]], Some("e.5")).await,
            ["resumed", "p1@6"]
        );
    }
    // Comments and unknown events are ignored.
    assert_eq!(
        streams(&[&[": hello\n\n", "event: weather\ndata: x\n\n", "connected e.5", "p1@e.6"]], Some("e.5"))
            .await,
        ["resumed", "p1@6"]
    );
}

#[tokio::test]
async fn positions_that_jump_or_go_back() {
    // Repeated envelopes are dropped silently.
    assert_eq!(
        streams(&[&["connected e.5", "p1@e.6", "p1@e.6", "p0@e.3", "p2@e.7"]], Some("e.5")).await,
        ["resumed", "p1@6", "p2@7"]
    );
    // After a hole, the client resumes from the last good position, and the envelope is there.
    assert_eq!(
        streams(
            &[&["connected e.5", "p1@e.6", "p3@e.8"], &["connected e.6", "p2@e.7", "p3@e.8"]],
            Some("e.5")
        )
        .await,
        ["resumed", "p1@6", "resumed", "p2@7", "p3@8"]
    );
    // If the hole is there again, it is reported once as a gap, and the stream continues.
    assert_eq!(
        streams(&[&["connected e.6", "p3@e.8"], &["connected e.6", "p3@e.8", "p4@e.9"]], Some("e.6")).await,
        ["resumed", "resumed", "gap hole 1", "p3@8", "p4@9"]
    );
    // A heartbeat that is ahead of the last envelope.
    assert_eq!(
        streams(
            &[
                &["connected e.6", "heartbeat e.7"],
                &["connected e.6", "heartbeat e.6", "p1@e.7", "heartbeat e.7"]
            ],
            Some("e.6")
        )
        .await,
        ["resumed", "resumed", "p1@7"]
    );
    // A gap that is sent twice is reported once.
    assert_eq!(
        streams(&[&["connected e.9", "gap trimmed 4 e.9", "gap trimmed 4 e.9", "p1@e.10"]], Some("e.5"))
            .await,
        ["resumed", "gap trimmed 4", "p1@10"]
    );
    // A malformed position is ignored; a loss that it hides is found as a hole.
    let odd = format!("event: envelope\nid: nonsense\ndata: {}\n\n", envelope_of("p1"));
    assert_eq!(
        streams(&[&["connected e.5", &odd, "p2@e.7"], &["connected e.5", "p1@e.6", "p2@e.7"]], Some("e.5"))
            .await,
        ["resumed", "p1@-", "resumed", "duplicate p1<=1", "p2@7"]
    );
}

/// Each is reported with the broken rule, counts as received, and never appears as a gap.
#[tokio::test]
async fn what_is_no_envelope() {
    let bad = [
        ("nonsense", "not JSON"),
        ("{\"aspect\":", "not JSON"),
        ("[]", "not a JSON object"),
        ("\"s3cret\"", "not a JSON object"),
        ("{\"aspect\":\"a\",\"producer\":{\"id\":\"p\"},\"sequence\":0}", "sequence"),
        ("{\"aspect\":\"a\",\"producer\":{\"id\":\"p\"},\"sequence\":1.5}", "sequence"),
        ("{\"aspect\":\"a\",\"producer\":{\"id\":\"p\"},\"sequence\":\"2\"}", "sequence"),
        ("{\"aspect\":\"a\",\"producer\":{\"id\":\"p\"},\"sequence\":9223372036854775808}", "sequence"),
        ("{\"aspect\":\"a\",\"producer\":{},\"sequence\":1}", "producer.id"),
        ("{\"aspect\":\"a\",\"producer\":[],\"sequence\":1}", "producer"),
        ("{\"producer\":{\"id\":\"p\"},\"sequence\":1}", "aspect"),
        (
            "{\"aspect\":\"a\",\"producer\":{\"id\":\"p\"},\"sequence\":1,\"produced_at\":\"noon\"}",
            "produced_at",
        ),
        ("", "not JSON"),
    ];
    let mut stream = blocks(&["connected e.0"]);
    for (offset, (text, _)) in (1..).zip(bad) {
        stream += std::str::from_utf8(&sse_event("envelope", Some(&format!("e.{offset}")), text)).unwrap();
    }
    // Two MiB, which is over the limit, and then a valid envelope.
    let large = format!("{{\"payload\":\"{}\"}}", "x".repeat(2 << 20));
    let at = bad.len() + 1;
    stream += &format!("event: envelope\nid: e.{at}\ndata: {large}\n\n");
    stream += &blocks(&[&format!("p1@e.{}", at + 1)]);
    let (seen, _) = over(vec![Reply::sse().send(stream).cut()], Some("e.0")).await;
    assert_eq!(seen[0], "resumed");
    for (offset, (line, (text, words))) in (1..).zip(seen[1..].iter().zip(bad)) {
        assert!(
            line.starts_with(&format!("undecodable@{offset}: ")) && line.contains(words),
            "{text}: {line}"
        );
    }
    assert!(
        seen[at].starts_with(&format!("undecodable@{at}: ")) && seen[at].contains("1048576"),
        "{}",
        seen[at]
    );
    assert_eq!(seen[at + 1], format!("p1@{}", at + 1));
}

#[tokio::test]
async fn a_line_without_an_end_is_bounded() {
    let before = resident();
    let endless = Reply::sse().send(blocks(&["connected e.0"])).send("event: envelope\nid: e.1\ndata: ");
    let endless = (0..256).fold(endless, |reply, _| reply.send(vec![b'x'; 1 << 18])).cut();
    let (seen, _) =
        over(vec![endless, Reply::sse().send(blocks(&["connected e.0", "p1@e.1"])).cut()], Some("e.0")).await;
    assert_eq!(seen[..3], ["resumed", "resumed", "p1@1"]);
    // 64 MiB were sent. The script also holds them once, and other tests run at the same time.
    let grown = resident().saturating_sub(before);
    assert!(grown < 250 << 20, "{grown}");
}

fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0) << 10
}

#[tokio::test]
async fn answers_that_open_no_stream() {
    let html = || Reply::new(200, "text/html", "<html>s3cret</html>");
    let good = || Reply::sse().send(blocks(&["connected e.0", "p1@e.1"])).cut();
    // Temporary errors are retried.
    for status in [408, 425, 429, 500, 502, 503, 504] {
        let (seen, _) = over(vec![Reply::empty(status), good()], None).await;
        assert_eq!(seen[..2], ["subscribed", "p1@1"], "{status}");
    }
    let (seen, _) = over(vec![html(), html(), good()], None).await;
    assert_eq!(seen[..2], ["subscribed", "p1@1"]);
    // All other errors end the subscription, each with its kind.
    for (status, kind) in [
        (400, "failed"),
        (401, "denied"),
        (403, "denied"),
        (404, "not found"),
        (405, "failed"),
        (410, "failed"),
        (422, "failed"),
    ] {
        let (seen, peer) = over(vec![Reply::empty(status), good()], None).await;
        assert_eq!(seen.len(), 1, "{status}: {seen:?}");
        assert!(
            seen[0].starts_with(&format!("ended {kind}: ")) && seen[0].contains(&status.to_string()),
            "{seen:?}"
        );
        assert_eq!(peer.requests().len(), 1);
    }
    let (seen, _) = over(vec![Reply::empty(204)], None).await;
    assert!(seen[0].starts_with("ended finished") && seen[0].contains("204"), "{seen:?}");
    // If the channel was deleted, the subscription ends; after every other reason the client reconnects.
    let (seen, _) =
        over(vec![Reply::sse().send(blocks(&["connected e.0", "closing deleted"])).cut(), good()], None)
            .await;
    assert!(seen[1].starts_with("ended not found") && seen.len() == 2, "{seen:?}");
    for reason in ["shutdown", "lifetime", "revoked", "tired"] {
        let closing = Reply::sse().send(blocks(&["connected e.0", &format!("closing {reason}")])).cut();
        assert_eq!(
            over(vec![closing, good()], None).await.0[..3],
            ["subscribed", "resumed", "p1@1"],
            "{reason}"
        );
    }
}

#[tokio::test]
async fn the_server_s_delay_is_a_minimum() {
    for status in [429, 503] {
        let begun = Instant::now();
        let wait = Reply::empty(status).header("retry-after", "1");
        let good = Reply::sse().send(blocks(&["connected e.0", "p1@e.1"])).cut();
        over(vec![wait, good], None).await;
        assert!(begun.elapsed() >= Duration::from_secs(1), "{status}: {:?}", begun.elapsed());
    }
    let begun = Instant::now();
    let closing = format!(
        "{}retry: 700\nevent: closing\ndata: {{\"reason\":\"lifetime\"}}\n\n",
        blocks(&["connected e.0"])
    );
    over(vec![Reply::sse().send(closing).cut()], None).await;
    assert!(begun.elapsed() >= Duration::from_millis(700), "{:?}", begun.elapsed());
}

/// Each connection requests the last position that was handed over.
#[tokio::test]
async fn what_is_asked_for() {
    let lines: &[&[&str]] = &[
        &["connected e.5", "p1@e.6"],
        &["connected e.6", "event: envelope\nid: e.7\ndata: []\n\n"],
        &["connected e.7", "gap trimmed 2 e.9"],
    ];
    let replies = lines.iter().map(|lines| Reply::sse().send(blocks(lines)).cut()).collect();
    let (seen, peer) = over(replies, None).await;
    assert_eq!(seen.len(), 7, "{seen:?}");
    let requests = peer.requests();
    let asked: Vec<_> = requests.iter().map(|request| request.header("last-event-id")).collect();
    assert_eq!(asked, [None, Some("e.6"), Some("e.7"), Some("e.9")]);
    for request in &requests {
        assert_eq!(request.query("channel").as_deref(), Some(CHANNEL));
        assert_eq!(request.query("conn_info").as_deref(), Some("\"s3cret-info\""));
        assert_eq!(request.header("authorization"), Some("Bearer s3cret-token"));
        assert!(!request.target().contains(SECRET), "a token is never in a URL");
    }
    // A client without a position uses the first one that it gets, so a drop before the first item loses nothing.
    let (_, peer) = over(vec![Reply::sse().send(blocks(&["connected e.5"])).cut()], None).await;
    assert_eq!(peer.request(1).await.header("last-event-id"), Some("e.5"));
}

/// Channel names that the server of this project refuses, but another server may have.
#[tokio::test]
async fn names_of_channels_are_passed_on_as_they_are() {
    let long = "x".repeat(300);
    for name in ["a/b?c=d&e", "50%", "a b", "ü:#", "+", &long] {
        let peer = Peer::start(Script::new().on("/parsec/stream", Reply::empty(204)).on(
            "/parsec/publish",
            Reply::new(200, "application/json", r#"{"position":"e.1","offset":1,"epoch":"e"}"#),
        ))
        .await;
        let client = client(&peer);
        all(&mut client.subscribe(name, SubscribeOptions::default()).await.unwrap().items()).await;
        client.publish(name, Outgoing::new("a")).await.unwrap();
        for request in peer.requests() {
            assert_eq!(request.query_all("channel"), [name]);
        }
        assert!(peer.unscripted().is_empty());
    }
    let peer = Peer::start(Script::new()).await;
    for name in ["", "a\r\nb", "a\0"] {
        let error = client(&peer).subscribe(name, SubscribeOptions::default()).await.err().unwrap();
        assert!(error.to_string().contains("name"), "{error}");
    }
    assert!(peer.requests().is_empty());
}

/// Publishes until the outcome is known. Returns the outcome, and the bodies of the requests.
async fn publish(replies: Vec<Reply>) -> (Result<i64, String>, Vec<bytes::Bytes>) {
    let script = replies.into_iter().fold(Script::new(), |script, reply| script.on("/parsec/publish", reply));
    let receipt = || {
        Reply::new(200, "application/json", r#"{"position":"e.1","offset":1,"epoch":"e","duplicate":true}"#)
    };
    let peer = Peer::start(script.always("/parsec/publish", receipt())).await;
    let client = client(&peer);
    let sent = client.publish(CHANNEL, Outgoing::new("a")).await;
    let bodies: Vec<_> = peer.requests().iter().map(|request| request.body().clone()).collect();
    let result = sent.map(|sent| sent.envelope.sequence()).map_err(|error| ending(&error));
    assert!(!format!("{result:?}").contains("s3cret"), "{result:?}");
    (result, bodies)
}

#[tokio::test]
async fn a_retry_sends_the_same_bytes() {
    for reply in [
        Reply::empty(503),
        Reply::empty(429).header("retry-after", "0"),
        Reply::empty(408),
        Reply::empty(425),
        Reply::new(200, "text/html", "<html>s3cret</html>"),
        Reply::new(200, "application/json", "{}"),
        Reply::new(200, "application/json", r#"{"position":"s3cret"}"#),
        Reply::new(200, "application/json", "{\"position\":").declare_length(40).cut(),
        Reply::raw().reset(),
        Reply::raw().send("nonsense\r\n\r\n").cut(),
    ] {
        let (result, bodies) = publish(vec![reply.clone(), reply]).await;
        assert_eq!(result, Ok(1));
        assert!(bodies.len() >= 3 && bodies.windows(2).all(|pair| pair[0] == pair[1]), "{bodies:?}");
    }
    for (status, kind) in [
        (400, "failed"),
        (401, "denied"),
        (403, "denied"),
        (404, "not found"),
        (413, "failed"),
        (422, "failed"),
    ] {
        let (result, bodies) = publish(vec![Reply::empty(status)]).await;
        let error = result.unwrap_err();
        assert!(
            error.starts_with(&format!("ended {kind}")) && error.contains(&status.to_string()),
            "{error}"
        );
        assert_eq!(bodies.len(), 1, "{status}");
    }
}

/// If a server is silent for three heartbeats, the client reconnects; a comment is a sign of life.
#[tokio::test]
async fn silence_has_its_limit() {
    let brief = "event: connected\ndata: {\"resumes_after\":\"e.0\",\"heartbeat_seconds\":0.2}\n\n";
    let mut quiet = Reply::sse().send(brief);
    for _ in 0..4 {
        quiet = quiet.delay(Duration::from_millis(300)).send(": still here\n\n");
    }
    let begun = Instant::now();
    let (seen, _) = over(vec![quiet.silence()], None).await;
    assert_eq!(seen[0], "subscribed");
    assert!(begun.elapsed() >= Duration::from_millis(1500), "{:?}", begun.elapsed());
}

/// Nothing is read before the items are polled, and dropping a subscription closes its connection.
#[tokio::test]
async fn a_subscription_that_is_dropped_hangs_up() {
    let peer = Peer::start(
        Script::new().always("/parsec/stream", Reply::sse().send(blocks(&["connected e.0"])).silence()),
    )
    .await;
    let client = client(&peer);
    let mut items = client.subscribe(CHANNEL, SubscribeOptions::default()).await.unwrap().items();
    assert_eq!(until(&mut items, "subscribed").await.len(), 1);
    drop(items);
    peer.closed(0).await;
}
