//! The effect of each answer to the request for a stream.

use futures_util::StreamExt;
use relay_pods::{Client, Error};
use relay_proto::error::chain;
use relay_testkit::{Conversation, Peer, RelayScript, Reply, within};
use serde_json::json;

use super::options;

/// Connects to a peer whose first answer is `reply` and whose second is a stream. Returns the number of requests, or
/// the error.
async fn outcome(reply: Reply, token: Option<&str>) -> Result<usize, Error> {
    let script = RelayScript::new("e")
        .sessions()
        .on("/events/stream", reply)
        .stream(Conversation::new("e").connected(1).pod("ADDED", &Conversation::sample_pod("web")).silence());
    let peer = Peer::start(script).await;
    let builder = Client::builder(peer.url());
    let client = token.into_iter().fold(builder, |builder, token| builder.token(token)).build().unwrap();
    let mut stream = client.stream_pod_events(options());
    match within("an outcome", stream.next()).await.unwrap() {
        Ok(_) => Ok(peer.requests().iter().filter(|r| r.path() == "/events/stream").count()),
        Err(error) => Err(error),
    }
}

#[tokio::test]
async fn some_answers_are_worth_another_attempt() {
    for reply in [
        Reply::empty(408),
        Reply::empty(425),
        Reply::empty(500),
        Reply::empty(501),
        Reply::empty(502),
        Reply::empty(503).header("retry-after", "0"),
        Reply::empty(429).header("retry-after", "0"),
        Reply::new(200, "text/html", "<html>"),
        Reply::new(200, "application/json", "{}"),
        Reply::raw().send("garbage\r\n\r\n").cut(),
        Reply::raw().cut(),
        Reply::raw().reset(),
    ] {
        let name = format!("{reply:?}");
        assert_eq!(outcome(reply, None).await.unwrap(), 2, "{name}");
    }
}

#[tokio::test]
async fn some_answers_are_final_and_named() {
    for status in [400, 401, 403, 404, 405, 410] {
        let error = outcome(Reply::json(status, &json!({"code": "some-code"})), None).await.unwrap_err();
        assert_eq!(error.status(), Some(status));
        assert!(error.to_string().contains("some-code") && !error.is_retryable(), "{error}");
    }
    let error = outcome(Reply::empty(204), None).await.unwrap_err();
    assert!(matches!(error, Error::Finished { .. }), "{error}");
    // If the client uses tickets, it gets a new one after a 401.
    assert_eq!(outcome(Reply::empty(401), Some("t")).await.unwrap(), 2);
}

#[tokio::test]
async fn a_raw_stream_says_why_it_could_not_be_opened() {
    for (reply, status, why) in [
        (Reply::json(503, &json!({"code": "not-ready"})), Some(503), "not-ready"),
        (Reply::new(200, "text/html", "<html>"), None, "text/html"),
        (Reply::raw().cut(), None, "/events/stream"),
    ] {
        let peer = Peer::start(RelayScript::new("e").on("/events/stream", reply)).await;
        let mut stream = Client::builder(peer.url()).build().unwrap().stream(options());
        let error = within("the end", stream.next()).await.unwrap().unwrap_err();
        assert_eq!(error.status(), status, "{error}");
        assert!(chain(&error).to_string().contains(why) && error.is_retryable(), "{error}");
        assert!(stream.next().await.is_none());
    }
}

#[tokio::test]
async fn a_session_that_is_refused_ends_the_stream_with_the_relays_words() {
    let refusal = Reply::json(401, &json!({"code": "unauthenticated", "detail": "no such token"}));
    let peer = Peer::start(RelayScript::new("e").on("/auth/session", refusal)).await;
    let client = Client::builder(peer.url()).token("wr0ng").build().unwrap();
    let error = within("the end", client.stream_pod_events(options()).next()).await.unwrap().unwrap_err();
    assert_eq!(error.status(), Some(401));
    assert!(error.to_string().contains("no such token") && !error.to_string().contains("wr0ng"), "{error}");
    assert!(peer.requests().iter().all(|r| r.path() == "/auth/session"), "never without a ticket");
}

#[tokio::test]
async fn a_session_that_cannot_be_had_now_is_tried_again() {
    let script = RelayScript::new("e")
        .on("/auth/session", Reply::empty(503))
        .on("/auth/session", Reply::new(201, "application/json", "{}"))
        .on("/auth/session", relay_testkit::session_reply("s"))
        .stream(Conversation::new("e").connected(1).pod("ADDED", &Conversation::sample_pod("web")).silence());
    let peer = Peer::start(script).await;
    let client = Client::builder(peer.url()).token("t").build().unwrap();
    assert!(within("an event", client.stream_pod_events(options()).next()).await.unwrap().is_ok());
    assert_eq!(peer.request_to("/events/stream", 0).await.query("session_id").as_deref(), Some("s"));
}
