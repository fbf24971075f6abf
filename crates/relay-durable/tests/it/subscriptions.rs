//! Subscriptions and leases.

use std::time::Duration;

use relay_durable::{Ack, ErrorKind, Offset, Subscription, SubscriptionOptions, TokenSource};
use relay_testkit::{Peer, Reply, Request, Script};
use serde_json::{Value, json};

use crate::*;

const BASE: &str = "/__ds/subscriptions/a%2Fb";

fn subscription(peer: &Peer) -> Subscription {
    let client = builder(peer).token(TokenSource::fixed("client")).build().unwrap();
    client.subscription("a/b").unwrap()
}

fn body(request: &Request) -> Value {
    serde_json::from_slice(request.body()).unwrap()
}

fn refusal(status: u16, code: &str) -> Reply {
    let error = json!({"error": {"code": code, "message": "words", "current_holder": "w2"}});
    Reply::json(status, &error)
}

fn claim() -> Reply {
    Reply::json(
        200,
        &json!({
            "wake_id": "w", "generation": 3, "token": "lease", "lease_ttl_ms": 1000,
            "streams": [{"path": "orders/1", "acked_offset": "0_1", "tail_offset": "0_9", "has_pending": true}],
        }),
    )
}

#[tokio::test]
async fn is_made_shown_changed_and_deleted() {
    let known = json!({
        "id": "a/b", "subscription_id": "a/b", "type": "pull-wake", "pattern": "orders/*", "wake_stream": "wakes",
        "lease_ttl_ms": 5000, "status": "active", "created_at": "2026-01-01T00:00:00Z",
        "streams": [{"path": "orders/1", "link_type": "glob", "acked_offset": "0_1"}],
    });
    let known = |status| Reply::json(status, &known);
    let gone = || Reply::empty(204);
    let script = Script::new()
        .on(BASE, known(201))
        .on(BASE, known(200))
        .on(BASE, known(200))
        .on(BASE, refusal(409, "SUBSCRIPTION_ALREADY_EXISTS"))
        .on(BASE, gone())
        .on(BASE, refusal(404, "SUBSCRIPTION_NOT_FOUND"))
        .on(BASE, refusal(404, "SUBSCRIPTION_NOT_FOUND"))
        .on(&format!("{BASE}/streams"), gone())
        .on(&format!("{BASE}/streams/x/y%20z"), gone());
    let peer = Peer::start(script).await;
    let subscription = subscription(&peer);
    let options =
        SubscriptionOptions::new("wakes").pattern("orders/*").stream("x").lease(Duration::from_secs(5));
    let (info, new) = subscription.create(&options).await.unwrap();
    assert!(
        new && info.streams[0].acked_offset.as_str() == "0_1" && info.pattern.as_deref() == Some("orders/*")
    );
    let sent = json!({"type": "pull-wake", "pattern": "orders/*", "streams": ["x"], "wake_stream": "wakes",
        "lease_ttl_ms": 5000});
    assert_eq!(body(&peer.requests()[0]), sent);
    assert!(!subscription.create(&options).await.unwrap().1);
    assert_eq!(subscription.get().await.unwrap(), info);
    assert_eq!(subscription.create(&options).await.unwrap_err().kind(), ErrorKind::Exists);
    subscription.add_streams(&["x", "y"]).await.unwrap();
    assert_eq!(body(&peer.requests()[4]), json!({"streams": ["x", "y"]}));
    subscription.remove_stream("/x/y z").await.unwrap();
    subscription.delete().await.unwrap();
    subscription.delete().await.unwrap();
    let error = subscription.get().await.unwrap_err();
    assert!(error.kind() == ErrorKind::NotFound && error.url().ends_with(BASE), "{error}");
    assert!(peer.unscripted().is_empty(), "{:?}", peer.unscripted());
    for lease in [Duration::from_millis(999), Duration::from_secs(601)] {
        let error = subscription.create(&SubscriptionOptions::new("w").lease(lease)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage);
    }
}

#[tokio::test]
async fn work_is_claimed_acknowledged_and_given_back() {
    let path = |action: &str| format!("{BASE}/{action}");
    let ok = |next: bool| Reply::json(200, &json!({"ok": true, "next_wake": next}));
    let script = Script::new()
        .on(&path("claim"), refusal(409, "ALREADY_CLAIMED"))
        .on(&path("claim"), refusal(409, "NO_PENDING_WORK"))
        .always(&path("claim"), claim())
        .on(&path("ack"), Reply::raw().cut())
        .on(&path("ack"), ok(false))
        .on(&path("ack"), ok(true))
        .on(&path("ack"), refusal(409, "INVALID_OFFSET"))
        .on(&path("ack"), refusal(409, "FENCED"))
        .on(&path("ack"), Reply::raw().cut())
        .on(&path("ack"), refusal(409, "FENCED"))
        .on(&path("release"), Reply::empty(204))
        .on(&path("release"), refusal(409, "FENCED"))
        .on(&path("release"), Reply::empty(401));
    let peer = Peer::start(script).await;
    let subscription = subscription(&peer);
    let error = subscription.claim("w1").await.unwrap_err();
    assert!(error.kind() == ErrorKind::Claimed && error.to_string().contains("w2"), "{error}");
    assert_eq!(subscription.claim("w1").await.unwrap_err().kind(), ErrorKind::NoWork);
    let lease = subscription.claim("w1").await.unwrap();
    assert_eq!((lease.generation(), lease.time(), lease.streams().len()), (3, Duration::from_secs(1), 1));
    let acks = [Ack::new("orders/1", Offset::new("0_9").unwrap())];
    lease.ack(&acks).await.unwrap();
    assert!(lease.done(&acks).await.unwrap(), "there is more");
    let requests: Vec<_> =
        peer.requests().into_iter().filter(|request| request.path().ends_with("/ack")).collect();
    for (request, done) in requests.iter().zip([false, false, true]) {
        assert_eq!(request.header("authorization"), Some("Bearer lease"), "not the client's");
        let sent = json!({"wake_id": "w", "generation": 3, "done": done,
            "acks": [{"stream": "orders/1", "offset": "0_9"}]});
        assert_eq!(body(request), sent);
    }
    let lease = subscription.claim("w1").await.unwrap();
    assert_eq!(lease.ack(&acks).await.unwrap_err().kind(), ErrorKind::Refused);
    assert_eq!(lease.heartbeat().await.unwrap_err().kind(), ErrorKind::Fenced);
    assert_eq!(lease.done(&acks).await.unwrap_err().kind(), ErrorKind::OutcomeUnknown);
    for fine in [true, true, false] {
        let released = subscription.claim("w1").await.unwrap().release().await;
        assert_eq!(released.is_ok(), fine, "{released:?}");
    }
    assert!(peer.unscripted().is_empty(), "{:?}", peer.unscripted());
    let shown = format!("{:?}", subscription.claim("w1").await.unwrap());
    assert!(!shown.contains("lease\"") && !shown.contains("client"), "{shown}");
}

#[tokio::test]
async fn signs_of_life_keep_a_lease_while_work_goes_on() {
    let ack = format!("{BASE}/ack");
    let script = || Script::new().always(&format!("{BASE}/claim"), claim());
    let fine = Reply::json(200, &json!({"ok": true}));
    let peer = Peer::start(script().always(&ack, fine)).await;
    let lease = subscription(&peer).claim("w1").await.unwrap();
    let work = async {
        // There are three extensions within the time of a lease.
        peer.request_to(&ack, 2).await;
        7
    };
    assert_eq!(lease.keep(work).await.unwrap(), 7);
    let peer = Peer::start(script().always(&ack, refusal(409, "FENCED"))).await;
    let lease = subscription(&peer).claim("w1").await.unwrap();
    let error = lease.keep(std::future::pending::<()>()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Fenced);
}
