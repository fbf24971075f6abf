//! Single requests: refusals, lost answers, headers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use http::{HeaderMap, HeaderValue};
use relay_durable::{
    AppendOptions, Client, CreateOptions, ErrorKind, Expiry, ForkOptions, Offset, TokenSource,
};
use relay_testkit::{Opening, Peer, Reply, Script};

use crate::*;

fn plain() -> AppendOptions {
    AppendOptions::new().content_type("text/plain".to_owned())
}

#[tokio::test]
async fn refusals_by_kind() {
    type Row = (u16, &'static str, bool, ErrorKind, &'static str);
    let table: &[Row] = &[
        (404, "", false, ErrorKind::NotFound, "not found"),
        (410, "", false, ErrorKind::Gone, "gone"),
        (401, "", false, ErrorKind::NotAuthorised, "not authorised"),
        (403, "", false, ErrorKind::NotAuthorised, "not authorised"),
        (403, "Producer-Epoch=4", false, ErrorKind::Fenced, "epoch 4"),
        (409, "closed Stream-Next-Offset=e_7", true, ErrorKind::Closed, "e_7"),
        (409, "", true, ErrorKind::SequenceConflict, "sequence conflict"),
        (409, "", false, ErrorKind::ContentType, "text/plain"),
        (413, "", false, ErrorKind::TooLarge, "5 bytes"),
        (500, "", false, ErrorKind::OutcomeUnknown, "outcome unknown"),
        (501, "", false, ErrorKind::Refused, "501: words"),
        (202, "", false, ErrorKind::Refused, "202"),
        (302, "Location=http://127.0.0.1:1/", false, ErrorKind::Refused, "redirect"),
    ];
    for (status, flags, sequenced, kind, words) in table {
        let peer =
            Peer::start(Script::new().always("/s", says(*status, "", flags, "text/plain", "words"))).await;
        let options = if *sequenced { plain().seq("1".to_owned()) } else { plain() };
        let error = stream(&peer).append("12345", options).await.unwrap_err();
        assert_eq!((error.kind(), error.status()), (*kind, Some(*status)), "{error}");
        assert!(error.to_string().contains(words) && error.url() == stream(&peer).url(), "{error}");
        assert_eq!(peer.requests().len(), 1, "{error}");
    }
    let peer = Peer::start(Script::new().always("/s", says(409, "", "", "text/plain", ""))).await;
    let error = stream(&peer).create(CreateOptions::new()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Exists);
    let target = builder(&peer).build().unwrap().stream("/s").unwrap();
    let error = stream(&peer).fork(&target, ForkOptions::new()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Exists);
}

#[tokio::test]
async fn an_append_is_sent_again_only_when_it_was_not_taken() {
    let taken = || says(204, "9", "", "", "");
    let lost = || Reply::raw().cut();
    for (name, script, sent, kind) in [
        ("no answer", Script::new().on("/s", lost()), 1, Some(ErrorKind::OutcomeUnknown)),
        ("429", Script::new().on("/s", Reply::empty(429)).on("/s", taken()), 2, None),
        ("503", Script::new().on("/s", Reply::empty(503)), 1, Some(ErrorKind::OutcomeUnknown)),
    ] {
        let peer = Peer::start(script).await;
        let done = stream(&peer).append("x", plain()).await;
        assert_eq!(done.as_ref().err().map(relay_durable::Error::kind), kind, "{name}: {done:?}");
        assert_eq!(peer.requests().len(), sent, "{name}");
    }
    // The caller has asked for retries and accepts the risk.
    let peer = Peer::start(Script::new().on("/s", lost()).on("/s", taken())).await;
    assert_eq!(stream(&peer).append("x", plain().resend(true)).await.unwrap().status, 204);
    // A request that may be repeated is repeated, and a 404 then means that the first one succeeded.
    let peer = Peer::start(Script::new().on("/s", lost()).on("/s", Reply::empty(404))).await;
    assert_eq!(stream(&peer).delete().await.unwrap(), 404);
    let peer = Peer::start(Script::new().on("/s", Reply::empty(404))).await;
    assert_eq!(stream(&peer).delete().await.unwrap_err().kind(), ErrorKind::NotFound);
    let peer =
        Peer::start(Script::new().opening(Opening::Close).on("/s", says(200, "9", "closed", "", ""))).await;
    assert!(stream(&peer).close().await.unwrap().closed);
}

/// A pooled connection that the server closes when the next request comes.
#[tokio::test]
async fn a_pooled_connection_that_dies_unanswered() {
    let script = Script::new()
        .on("/s", says(200, "1", "", "text/plain", ""))
        .on("/s", Reply::raw().cut())
        .always("/s", says(200, "2", "", "text/plain", ""));
    let peer = Peer::start(script).await;
    let one = stream(&peer);
    one.head().await.unwrap();
    let error = one.append("x", plain()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutcomeUnknown, "{error}");
    assert_eq!((peer.requests().len(), peer.connections()), (2, 1));
    one.head().await.unwrap();
}

#[tokio::test]
async fn what_goes_with_every_request() {
    let peer = Peer::start(Script::new().always("/s", says(200, "1", "up-to-date", "text/plain", ""))).await;
    let count = Arc::new(AtomicU32::new(0));
    let params = count.clone();
    let client = builder(&peer)
        .token(TokenSource::fixed("secret"))
        .header("X-Fixed", "also secret")
        .dynamic_headers(move || {
            let count = count.clone();
            Box::pin(async move {
                let number = count.fetch_add(1, Ordering::Relaxed);
                Ok(HeaderMap::from_iter([(
                    http::HeaderName::from_static("x-count"),
                    HeaderValue::from(number),
                )]))
            })
        })
        .dynamic_params(move || {
            let count = params.load(Ordering::Relaxed);
            Box::pin(async move { Ok(vec![("n".to_owned(), format!("{count}&"))]) })
        })
        .build()
        .unwrap();
    let stream = client.stream("/s").unwrap();
    stream.head().await.unwrap();
    stream.create(CreateOptions::new()).await.unwrap();
    stream.append("x", plain()).await.unwrap();
    stream.get(&Offset::START, None, 9).await.unwrap();
    stream.close().await.unwrap();
    stream.delete().await.unwrap();
    for (number, request) in peer.requests().iter().enumerate() {
        assert_eq!(request.header("authorization"), Some("Bearer secret"));
        assert_eq!(request.header("x-fixed"), Some("also secret"));
        assert_eq!(request.header("x-count"), Some(&*number.to_string()));
        assert!(request.target().contains(&format!("n={number}%26")), "{}", request.target());
    }
    assert!(peer.requests()[3].target().ends_with("&offset=-1"), "sorted");
    let shown = format!("{client:?} {stream:?} {:?}", builder(&peer).header("X-Fixed", "also secret"));
    assert!(!shown.contains("secret"), "{shown}");
}

#[tokio::test]
async fn nothing_follows_to_another_origin() {
    let other = Peer::start(Script::new().always("/s", Reply::empty(200))).await;
    let script = Script::new()
        .on("/s", Reply::redirect(307, "/t"))
        .on("/t", says(204, "1", "", "", ""))
        .on("/s", Reply::redirect(307, &format!("{}/s", other.url())));
    let peer = Peer::start(script).await;
    let stream = builder(&peer).token(TokenSource::fixed("secret")).build().unwrap().stream("/s").unwrap();
    stream.append("x", plain()).await.unwrap();
    assert_eq!(peer.requests()[1].body(), "x");
    let error = stream.append("x", plain()).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Refused && error.to_string().contains("redirect"), "{error}");
    assert_eq!(other.requests().len(), 0);
}

#[tokio::test]
async fn one_value_stays_one_message() {
    let peer = Peer::start(Script::new().always("/s", says(200, "1", "", "application/json", ""))).await;
    let stream = stream(&peer);
    stream.append("[1,2]", AppendOptions::new()).await.unwrap();
    stream.append("[1,2]", AppendOptions::new().raw(true)).await.unwrap();
    let json = || CreateOptions::new().content_type("Application/JSON; charset=utf-8".to_owned());
    stream.create(json().data("[3]")).await.unwrap();
    stream.create(json().data("[3]").raw(true)).await.unwrap();
    let bodies: Vec<_> = peer.requests()[1..].iter().map(|request| request.body().clone()).collect();
    assert_eq!(bodies, ["[[1,2]]", "[1,2]", "[[3]]", "[3]"]);
    for wrong in ["", "{", "1 2"] {
        let error = stream.append(wrong, AppendOptions::new()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage);
    }
    let half = Expiry::Ttl(Duration::from_millis(1500));
    let error = stream.create(CreateOptions::new().expiry(half)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Usage);
    assert_eq!(peer.requests().len(), 5, "nothing of that was asked");
}

#[tokio::test]
async fn options_are_checked_by_name() {
    let zero = Duration::ZERO;
    let builder = || Client::builder("http://127.0.0.1:1");
    for (name, wrong) in [
        ("retry_base", builder().retry_base(zero)),
        ("retry_cap", builder().retry_cap(Duration::from_millis(1))),
        ("retry_for", builder().retry_for(Some(zero))),
        ("timeout", builder().timeout(zero)),
        ("connection_age", builder().connection_age(zero)),
        ("connections_per_host", builder().connections_per_host(0)),
        ("base URL", Client::builder("ftp://x")),
        ("Stream-Seq", builder().header("Stream-Seq", "1")),
    ] {
        let error = wrong.build().unwrap_err();
        assert!(error.kind() == ErrorKind::Usage && error.to_string().contains(name), "{error}");
    }
    let client = builder().build().unwrap();
    for wrong in ["", "/a?b=c", "/a#b", "ftp://host/a", "http://"] {
        assert_eq!(client.stream(wrong).unwrap_err().kind(), ErrorKind::Usage, "{wrong}");
    }
    assert_eq!(client.stream("a/b").unwrap().url(), "http://127.0.0.1:1/a/b");
}
