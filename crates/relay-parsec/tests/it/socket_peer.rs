//! Servers that misbehave, over a WebSocket and with Twirp.

use std::time::{Duration, Instant};

use relay_parsec::{
    Client, Endpoint, Error, Items, Outgoing, SubscribeOptions, Transport, WebSocketConfig,
    WebSocketTransport,
};
use relay_proto::parsec::Producer;
use relay_testkit::{CentrifugeServer, Clock, Reply};
use relay_transport::TokenSource;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};

use crate::seen::{next, until};
use crate::worlds::{CHANNEL, envelope};

const SECRET: &str = "s3cret-token";

fn transport(server: &CentrifugeServer, config: WebSocketConfig) -> WebSocketTransport {
    let endpoint = Endpoint::builder(server.url()).token_source(TokenSource::fixed(SECRET)).build().unwrap();
    WebSocketTransport::new(endpoint, config.backoff(Duration::from_millis(1), Duration::from_millis(5)))
}

fn client_with(server: &CentrifugeServer, config: WebSocketConfig) -> Client {
    Client::builder(transport(server, config))
        .producer(Producer::service("p"))
        .backoff(Duration::from_millis(1), Duration::from_millis(5))
        .build()
        .unwrap()
}

fn client(server: &CentrifugeServer) -> Client {
    client_with(server, WebSocketConfig::default())
}

async fn start() -> CentrifugeServer {
    let server = CentrifugeServer::start().await;
    server.open(CHANNEL);
    server
}

/// A client with a subscription, and its items.
async fn subscribed(server: &CentrifugeServer) -> (Client, Items) {
    let client = client(server);
    let mut items = client.subscribe(CHANNEL, SubscribeOptions::default()).await.unwrap().items();
    assert_eq!(next(&mut items).await, "subscribed");
    (client, items)
}

/// A frame that breaks the protocol ends the connection, and has no other effect.
#[tokio::test]
async fn nonsense_costs_the_connection_and_nothing_else() {
    for frame in [
        Message::binary(vec![1, 2, 3]),
        Message::text("nonsense"),
        Message::text("[]"),
        Message::text("{\"push\":1}"),
        Message::text("{\"push\":{\"channel\":\"public:a.b\",\"pub\":{\"data\":s3cret}}}"),
        Message::text(format!("{{\"push\":\"{}\"}}", "x".repeat(2 << 20))),
    ] {
        let server = start().await;
        let (client, mut items) = subscribed(&server).await;
        server.publish(CHANNEL, envelope("q", 1)).await;
        server.send(vec![frame.clone()]).await;
        server.publish(CHANNEL, envelope("q", 2)).await;
        assert_eq!(until(&mut items, "q2").await, ["q1@1", "resumed", "q2@2"], "{frame:?}");
        client.close().await;
    }
}

#[tokio::test]
async fn what_is_unknown_or_oddly_framed_is_taken_as_it_is_meant() {
    let server = start().await;
    let (_client, mut items) = subscribed(&server).await;
    let push = |offset: u64| {
        format!(
            "{{\"push\":{{\"channel\":\"{CHANNEL}\",\"pub\":{{\"data\":{},\"offset\":{offset}}}}}}}",
            envelope("q", offset as i64)
        )
    };
    for ignored in [
        "{\"push\":{\"channel\":\"public:a.b\",\"join\":{}}}",
        "{\"push\":{\"channel\":\"public:a.b\",\"weather\":\"fine\"}}",
        "{\"push\":{\"channel\":\"public:nobody.asked\",\"pub\":{\"data\":1,\"offset\":9}}}",
        "{\"id\":99,\"subscribe\":{\"epoch\":\"z\",\"offset\":4}}",
        "{\"id\":99,\"error\":{\"code\":103}}",
        "\n\n",
    ] {
        server.say(ignored).await;
    }
    // Several lines in one frame, with a ping among them.
    server.say(format!("{}\n{{}}\n{}\n", push(1), push(2))).await;
    // A message in three frames.
    let third = push(3);
    let (first, rest) = third.split_at(20);
    let (second, last) = rest.split_at(30);
    let frame = |text: &str, code, end| {
        Message::Frame(Frame::message(text.as_bytes().to_vec(), OpCode::Data(code), end))
    };
    server
        .send(vec![
            frame(first, Data::Text, false),
            frame(second, Data::Continue, false),
            frame(last, Data::Continue, true),
        ])
        .await;
    assert_eq!(until(&mut items, "q3").await, ["q1@1", "q2@2", "q3@3"]);
    assert_eq!(server.connections(), 1);
}

/// Publications without an offset, and offsets that jump or go back.
#[tokio::test]
async fn an_offset_that_is_missing_jumps_or_goes_back() {
    let server = start().await;
    let (_client, mut items) = subscribed(&server).await;
    for sequence in 1..=2 {
        server.publish(CHANNEL, envelope("q", sequence)).await;
    }
    server.push(CHANNEL, envelope("q", 1), 1).await;
    // After a jump, the client reconnects and gets the missing envelopes from the server.
    server.push(CHANNEL, envelope("q", 9), 9).await;
    server.publish(CHANNEL, envelope("q", 3)).await;
    assert_eq!(until(&mut items, "q3").await, ["q1@1", "q2@2", "resumed", "q3@3"]);
    // A second jump at the same place is a hole, which is reported.
    server.push(CHANNEL, envelope("q", 6), 6).await;
    server.opened(3).await;
    assert_eq!(next(&mut items).await, "resumed");
    server.push(CHANNEL, envelope("q", 6), 6).await;
    assert_eq!(until(&mut items, "q6").await, ["gap hole 2", "gap sequence 2 of q 4-5", "q6@6"]);
}

#[tokio::test]
async fn every_error_of_a_subscribe_has_its_end() {
    for (code, temporary, expected) in [
        (101, false, "ended denied"),
        (102, false, "ended not found"),
        (103, false, "ended denied"),
        (105, false, "ended failed"),
        (106, false, "ended failed"),
        (107, false, "ended failed"),
        (108, false, "ended failed"),
        (100, true, "subscribed"),
        (106, true, "subscribed"),
        (109, false, "subscribed"),
        (112, false, "subscribed"),
    ] {
        let server = start().await;
        server.refuse_subscribe(code, "as asked", temporary);
        let client = client(&server);
        let mut items = client.subscribe(CHANNEL, SubscribeOptions::default()).await.unwrap().items();
        let first = next(&mut items).await;
        assert!(first.starts_with(expected), "{code}: {first}");
        assert!(expected == "subscribed" || first.contains(&code.to_string()), "{first}");
        assert!(!first.contains("s3cret"));
        client.close().await;
    }
    // Error 109 is final if it comes again with a fresh token. Error 100 is final after the allowed number of attempts.
    let server = start().await;
    (0..2).for_each(|_| server.refuse_subscribe(109, "token expired", false));
    let mut items = client(&server).subscribe(CHANNEL, SubscribeOptions::default()).await.unwrap().items();
    assert!(next(&mut items).await.starts_with("ended denied"));
    let server = CentrifugeServer::start().await;
    let client = client_with(&server, WebSocketConfig::default().subscribe_tries(3));
    let mut items = client.subscribe(CHANNEL, SubscribeOptions::default()).await.unwrap().items();
    let end = next(&mut items).await;
    assert!(end.starts_with("ended failed") && end.contains("error 100") && end.contains("3 times"), "{end}");
    assert_eq!(server.lines().iter().filter(|line| line.contains("subscribe")).count(), 3);
}

#[tokio::test]
async fn a_position_that_cannot_be_recovered_is_a_gap() {
    let server = start().await;
    let (_client, mut items) = subscribed(&server).await;
    server.publish(CHANNEL, envelope("q", 1)).await;
    assert_eq!(next(&mut items).await, "q1@1");
    server.refuse_subscribe(112, "unrecoverable position", false);
    server.cut();
    for sequence in 2..=4 {
        server.publish(CHANNEL, envelope("q", sequence)).await;
    }
    let seen = until(&mut items, "gap").await;
    assert_eq!(seen.last().unwrap(), "gap trimmed 3", "{seen:?}");
    // If the history was removed, the epoch and the offset stay.
    server.cut();
    server.publish(CHANNEL, envelope("q", 5)).await;
    server.trim(CHANNEL, 0);
    let seen = until(&mut items, "gap").await;
    assert!(seen.last().unwrap().starts_with("gap trimmed"), "{seen:?}");
    // The channel has a new log.
    server.cut();
    server.open(CHANNEL);
    let seen = until(&mut items, "gap").await;
    assert_eq!(seen.last().unwrap(), "gap epoch-changed ?");
}

#[tokio::test]
async fn close_codes_end_it_or_do_not() {
    for (code, end) in [
        (None, None),
        (Some(1000), None),
        (Some(1001), None),
        (Some(3001), None),
        (Some(3012), None),
        (Some(4000), None),
        (Some(1009), Some("failed")),
        (Some(3500), Some("denied")),
        (Some(3501), Some("failed")),
        (Some(3506), Some("failed")),
        (Some(3507), Some("denied")),
        (Some(4500), Some("failed")),
    ] {
        let server = start().await;
        let (client, mut items) = subscribed(&server).await;
        server.close(code, "as asked").await;
        let said = next(&mut items).await;
        match end {
            None => assert_eq!(said, "resumed", "{code:?}"),
            Some(kind) => {
                let code = code.unwrap().to_string();
                assert!(said.starts_with(&format!("ended {kind}: ")), "{code}: {said}");
                assert!(said.contains(&code) && said.contains("as asked"), "{said}");
                // The whole client has ended: a later subscribe returns the same error.
                let error = client.subscribe(CHANNEL, SubscribeOptions::default()).await.err().unwrap();
                assert!(error.to_string().contains(&code), "{error}");
            }
        }
        client.close().await;
        assert_eq!(client.tasks(), 0);
    }
}

#[tokio::test]
async fn unsubscribes_and_disconnect_pushes() {
    let server = start().await;
    let (_client, mut items) = subscribed(&server).await;
    server.unsubscribe(CHANNEL, 2500).await;
    server.publish(CHANNEL, envelope("q", 1)).await;
    assert_eq!(until(&mut items, "q1").await, ["resumed", "q1@1"]);
    server.say("{\"push\":{\"disconnect\":{\"code\":3012,\"reason\":\"no pong\"}}}").await;
    assert_eq!(next(&mut items).await, "resumed");
    server.unsubscribe(CHANNEL, 2000).await;
    let end = next(&mut items).await;
    assert!(end.starts_with("ended failed") && end.contains("2000"), "{end}");
}

#[tokio::test]
async fn upgrades_that_are_refused() {
    for (status, end) in [
        (401, "ended denied"),
        (403, "ended denied"),
        (404, "ended not found"),
        (400, "ended failed"),
        (503, ""),
        (429, ""),
        (200, ""),
        (302, ""),
    ] {
        let server = start().await;
        server.refuse_upgrade(Reply::empty(status));
        let client = client(&server);
        let mut items = client.subscribe(CHANNEL, SubscribeOptions::default()).await.unwrap().items();
        let said = next(&mut items).await;
        match end {
            "" => assert_eq!(said, "subscribed", "{status}"),
            end => assert!(said.starts_with(end) && said.contains(&status.to_string()), "{status}: {said}"),
        }
        client.close().await;
    }
    let (server, begun) = (start().await, Instant::now());
    server.refuse_upgrade(Reply::empty(503).header("retry-after", "1"));
    let (_client, _items) = subscribed(&server).await;
    assert!(begun.elapsed() >= Duration::from_secs(1), "{:?}", begun.elapsed());
}

/// If no ping comes for the announced interval and ten seconds more, the connection is dead.
#[tokio::test]
async fn a_connection_without_pings_is_dead() {
    let server = start().await;
    server.pings(5, true);
    let clock = Clock::freeze();
    let (_client, mut items) = subscribed(&server).await;
    server.say("{}").await;
    assert_eq!(server.line("{}", 0).await, server.line("{}", 0).await);
    // Counts the pongs.
    let pongs = || server.lines().iter().filter(|line| *line == "{}").count();
    while pongs() == 0 {
        tokio::task::yield_now().await;
    }
    clock.advance(Duration::from_secs(14)).await;
    assert_eq!(server.connections(), 1);
    clock.advance(Duration::from_secs(2)).await;
    drop(clock);
    assert_eq!(next(&mut items).await, "resumed");
    server.opened(2).await;
}

/// The client sends the token for a private channel, and not for a public one.
#[tokio::test]
async fn tokens_go_where_they_belong() {
    let server = start().await;
    server.open("private:a.b.c");
    let (client, _items) = subscribed(&server).await;
    let endpoint = Endpoint::builder(server.url())
        .token_source(TokenSource::fixed("token-of-private:a.b.c"))
        .build()
        .unwrap();
    let config = WebSocketConfig::default().backoff(Duration::from_millis(1), Duration::from_millis(5));
    let insider = Client::builder(WebSocketTransport::new(endpoint, config)).build().unwrap();
    let mut items = insider.subscribe("private:a.b.c", SubscribeOptions::default()).await.unwrap().items();
    assert_eq!(next(&mut items).await, "subscribed");
    let mut refused = client.subscribe("private:a.b.c", SubscribeOptions::default()).await.unwrap().items();
    assert!(next(&mut refused).await.contains("error 100"));
    let lines = server.lines();
    assert!(
        lines.iter().filter(|line| line.contains(CHANNEL)).all(|line| !line.contains("token")),
        "{lines:?}"
    );
}

#[tokio::test]
async fn twirp_answers_in_any_spelling_and_its_errors() {
    let server = start().await;
    let client = client(&server);
    let receipt = |body: &str| server.answer("Publish", Reply::new(200, "application/json", body.to_owned()));
    for (body, position) in [
        (r#"{"offset":"7","epoch":"Xy"}"#, Some("Xy.7")),
        (r#"{"offset":7,"epoch":"a.b","newer":{"x":[]}}"#, Some("a.b.7")),
        (r#"{"offset":"18446744073709551615","epoch":"e"}"#, Some("e.18446744073709551615")),
        ("{}", None),
    ] {
        receipt(body);
        let sent = client.publish(CHANNEL, Outgoing::new("a")).await.unwrap();
        assert_eq!(sent.position.map(|position| position.to_string()).as_deref(), position, "{body}");
    }
    for body in [r#"{"numSubscribers":"3"}"#, r#"{"subscribers":3,"other":1}"#] {
        server.answer("Presence", Reply::new(200, "application/json", body));
        assert_eq!(client.presence(CHANNEL).await.unwrap().subscribers, 3);
    }
    for (status, code, kind) in [
        (404, "not_found", "not found"),
        (401, "unauthenticated", "denied"),
        (403, "permission_denied", "denied"),
        (400, "invalid_argument", "failed"),
        (412, "failed_precondition", "failed"),
    ] {
        server.answer("Publish", Reply::json(status, &serde_json::json!({"code": code, "msg": "as asked"})));
        let error = crate::seen::ending(&client.publish(CHANNEL, Outgoing::new("a")).await.unwrap_err());
        assert!(error.starts_with(&format!("ended {kind}")) && error.contains("as asked"), "{error}");
        assert_eq!(error.contains("must be opened") && error.contains(CHANNEL), status == 404, "{error}");
    }
    // Temporary errors are retried with the same bytes.
    let before = server.requests().len();
    for reply in [
        Reply::json(503, &serde_json::json!({"code": "unavailable", "msg": "later"})),
        Reply::json(429, &serde_json::json!({"code": "resource_exhausted", "msg": "later"})),
        Reply::new(200, "text/html", "<html>s3cret</html>"),
    ] {
        server.answer("Publish", reply);
    }
    let sent = client.publish(CHANNEL, Outgoing::new("a")).await.unwrap();
    assert_eq!(sent.envelope.sequence(), 5);
    let bodies: Vec<_> = server.requests()[before..].iter().map(|request| request.body().clone()).collect();
    assert!(bodies.len() == 4 && bodies.windows(2).all(|pair| pair[0] == pair[1]));
    for request in server.requests() {
        assert_eq!(request.header("authorization"), Some("Bearer s3cret-token"));
    }
}

/// A channel is opened once. If it is open already, this is not an error.
#[tokio::test]
async fn channels_are_opened_when_that_is_wanted() {
    let server = CentrifugeServer::start().await;
    let opening = client_with(&server, WebSocketConfig::default().open_channels(true));
    for _ in 0..2 {
        opening.publish("public:new.one", Outgoing::new("a")).await.unwrap();
    }
    client_with(&server, WebSocketConfig::default().open_channels(true))
        .publish("public:new.one", Outgoing::new("a"))
        .await
        .unwrap();
    let opens = server.requests().iter().filter(|request| request.path().ends_with("OpenPublic")).count();
    assert_eq!(opens, 2, "once per client");
}

/// A replay, and a burst, bring more envelopes at once than a queue holds.
#[tokio::test]
async fn a_reader_gets_all_of_a_long_replay_and_of_a_burst() {
    const COUNT: i64 = 500;
    let server = start().await;
    server.retain(COUNT as usize);
    for sequence in 1..=COUNT {
        server.publish(CHANNEL, envelope("q", sequence)).await;
    }
    let client = client(&server);
    let options = SubscribeOptions::default().from_start(true);
    let mut items = client.subscribe(CHANNEL, options).await.unwrap().items();
    assert_eq!(next(&mut items).await, "subscribed");
    let pushes: Vec<_> = (COUNT + 1..=2 * COUNT)
        .map(|at| {
            let data = envelope("q", at);
            format!("{{\"push\":{{\"channel\":\"{CHANNEL}\",\"pub\":{{\"data\":{data},\"offset\":{at}}}}}}}")
        })
        .collect();
    // In one frame, so that they come at once.
    server.say(pushes.join("\n")).await;
    for at in 1..=2 * COUNT {
        assert_eq!(next(&mut items).await, format!("q{at}@{at}"));
    }
    assert_eq!(server.connections(), 1);
    client.close().await;
}

/// A subscriber that does not read takes a bounded amount of memory, delays nobody, and learns what it lost.
#[tokio::test]
async fn a_subscriber_that_does_not_read_lags_in_sight() {
    let server = start().await;
    let client = client_with(&server, WebSocketConfig::default().queue(8));
    let mut slow = client.subscribe(CHANNEL, SubscribeOptions::default()).await.unwrap().items();
    let mut quick = client.subscribe(CHANNEL, SubscribeOptions::default()).await.unwrap().items();
    assert_eq!((next(&mut slow).await, next(&mut quick).await), ("subscribed".into(), "subscribed".into()));
    const COUNT: i64 = 100;
    for sequence in 1..=COUNT {
        server.publish(CHANNEL, envelope("q", sequence)).await;
        assert_eq!(next(&mut quick).await, format!("q{sequence}@{sequence}"));
    }
    // Losses from before a broken connection are reported once, before the items of the next connection.
    server.cut();
    assert_eq!(next(&mut quick).await, "resumed");
    server.publish(CHANNEL, envelope("q", COUNT + 1)).await;
    assert_eq!(next(&mut quick).await, format!("q{}@{}", COUNT + 1, COUNT + 1));
    let seen = until(&mut slow, "resumed").await;
    let lag = seen.len() - 2;
    assert!(seen[..lag].iter().all(|item| item.starts_with('q')), "{seen:?}");
    assert_eq!(seen[lag], format!("lag {}", COUNT as usize - lag), "{seen:?}");
    // The queue of the slow subscriber was still full at that time.
    assert_eq!(next(&mut slow).await, "lag 1");
    server.publish(CHANNEL, envelope("q", COUNT + 2)).await;
    let skipped = format!("gap sequence {} of q {}-{}", COUNT as usize - lag + 1, lag + 1, COUNT + 1);
    assert_eq!(until(&mut slow, "q").await, [skipped, format!("q{}@{}", COUNT + 2, COUNT + 2)]);
    client.close().await;
    server.over(2).await;
}

#[tokio::test]
async fn history_is_not_implemented() {
    let server = start().await;
    let transport = transport(&server, WebSocketConfig::default());
    let error = transport.history(CHANNEL, &Default::default()).await.unwrap_err();
    assert!(matches!(error, Error::NotImplemented { transport: "websocket", call: "history" }));
}
