//! Credentials that are refused although they had not expired.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use relay_pods::{Client, Filter, Secret, SessionMode, StreamOptions, TokenSource};
use relay_testkit::{Clock, Conversation, Peer, RelayScript, Reply};
use serde_json::json;

/// A source that returns `NAME-1` until it is refused, and then `NAME-2`; and the number of its calls.
fn rotating(name: &'static str) -> (TokenSource, Arc<AtomicUsize>) {
    let runs = Arc::new(AtomicUsize::new(1));
    let source = TokenSource::refreshing({
        let runs = runs.clone();
        move |refused| {
            let run =
                if refused { runs.fetch_add(1, Ordering::SeqCst) + 1 } else { runs.load(Ordering::SeqCst) };
            async move { Ok::<_, std::io::Error>(Secret::new(format!("{name}-{run}"))) }
        }
    });
    (source, runs)
}

fn unauthenticated() -> Reply {
    Reply::json(401, &json!({"code": "unauthenticated"}))
}

fn said(peer: &Peer, header: &str) -> Vec<(String, Option<String>)> {
    let said = |request: relay_testkit::Request| {
        (request.path().to_owned(), request.header(header).map(str::to_owned))
    };
    peer.requests().into_iter().map(said).collect()
}

fn pair(path: &str, text: &str) -> (String, Option<String>) {
    (path.to_owned(), Some(text.to_owned()))
}

#[tokio::test]
async fn a_call_that_is_refused_asks_its_token_source_again_once() {
    let pods = || relay_testkit::pods_reply("e", 1, []);
    let script = RelayScript::new("e").on("/pods", unauthenticated()).on("/pods", pods());
    let peer = Peer::start(script.on("/pods", unauthenticated()).on("/pods", unauthenticated())).await;
    let (source, runs) = rotating("t");
    let client = Client::builder(peer.url()).token_source(source).build().unwrap();
    client.pods(&Filter::new()).await.unwrap();
    assert_eq!(said(&peer, "authorization"), [pair("/pods", "Bearer t-1"), pair("/pods", "Bearer t-2")]);
    // A second refusal is the final answer.
    let error = client.pods(&Filter::new()).await.unwrap_err();
    assert_eq!((error.status(), runs.load(Ordering::SeqCst)), (Some(401), 3));
    assert_eq!(peer.requests().len(), 4);
}

/// A source that always returns the same token is not called again, and the request is not repeated.
#[tokio::test]
async fn a_fixed_token_that_is_refused_is_an_answer() {
    let script = RelayScript::new("e").on("/pods", unauthenticated());
    let peer = Peer::start(script).await;
    let client = Client::builder(peer.url()).token("t").build().unwrap();
    assert_eq!(client.pods(&Filter::new()).await.unwrap_err().status(), Some(401));
    assert_eq!(peer.requests().len(), 1);
}

#[tokio::test]
async fn a_stream_that_is_refused_comes_back_at_once_with_another_token() {
    for (mode, refused, streams) in
        [(SessionMode::Off, "/events/stream", 1), (SessionMode::Auto, "/auth/session", 0)]
    {
        let talk = Conversation::new("e").connected(0).catchup_complete().silence();
        let script = RelayScript::new("e").on(refused, unauthenticated()).sessions().stream(talk);
        let peer = Peer::start(script).await;
        let (source, runs) = rotating("t");
        let client = Client::builder(peer.url()).token_source(source).sessions(mode).build().unwrap();
        // With the usual delays, the second attempt would come up to 0.8 s of frozen time later.
        let clock = Clock::freeze();
        let mut stream = client.stream_pod_events(StreamOptions::new().start_latest(true));
        tokio::select! {
            item = stream.next() => panic!("there are no events: {item:?}"),
            _ = peer.request_to("/events/stream", streams) => {}
        }
        assert!(clock.elapsed() < Duration::from_millis(5), "{refused}: {:?}", clock.elapsed());
        assert_eq!(runs.load(Ordering::SeqCst), 2, "{refused}");
        let said = said(&peer, "authorization");
        assert_eq!(said[..2], [pair(refused, "Bearer t-1"), pair(refused, "Bearer t-2")], "{refused}");
    }
}

/// A proxy in front of the relay has a credential of its own; the relay's ticket stays valid.
#[tokio::test]
async fn a_proxy_that_refuses_gets_another_credential() {
    let talk = Conversation::new("e").connected(0).catchup_complete().silence();
    let script = RelayScript::new("e").on("/events/stream", unauthenticated()).sessions().stream(talk);
    let peer = Peer::start(script).await;
    let ((outer, outer_runs), (inner, inner_runs)) = (rotating("outer"), rotating("inner"));
    let client = Client::builder(peer.url()).token_source(inner).outer_token_source(outer).build().unwrap();
    let mut stream = client.stream_pod_events(StreamOptions::new().start_latest(true));
    tokio::select! {
        item = stream.next() => panic!("there are no events: {item:?}"),
        _ = peer.request_to("/events/stream", 1) => {}
    }
    let said = said(&peer, "authorization");
    let streams: Vec<_> = said.iter().filter(|(path, _)| path == "/events/stream").collect();
    assert_eq!(
        streams,
        [&pair("/events/stream", "Bearer outer-1"), &pair("/events/stream", "Bearer outer-2")]
    );
    assert_eq!((outer_runs.load(Ordering::SeqCst), inner_runs.load(Ordering::SeqCst)), (2, 1));
}
