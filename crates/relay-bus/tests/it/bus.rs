use std::time::Duration;

use relay_bus::{DropReason, EngineOptions, Event, ReceiverOptions};

use crate::harness::{ACCEPTED, Bus, next, object, subscriber};

#[tokio::test]
async fn every_row_of_the_answer_table() {
    let options = ReceiverOptions::default().max_payload(10);
    let bus = Bus::start(&object("Channel", "c", ""), EngineOptions::default(), options).await;
    for (request, status, code) in [
        ("POST /x HTTP/1.1\r\nhost: c.ns\r\ncontent-length: 0\r\n\r\n", 404, "not-found"),
        ("GET / HTTP/1.1\r\nhost: c.ns\r\n\r\n", 405, "method-not-allowed"),
        ("POST / HTTP/1.1\r\nhost: c\r\ncontent-length: 0\r\n\r\n", 400, "bad-host"),
        ("POST / HTTP/1.1\r\nhost: 127.0.0.1:80\r\ncontent-length: 0\r\n\r\n", 400, "bad-host"),
        ("POST / HTTP/1.1\r\nhost: d.ns\r\ncontent-length: 5\r\n\r\n", 404, "unknown-channel"),
        (
            "POST / HTTP/1.1\r\nhost: c.ns\r\ncontent-encoding: gzip\r\ncontent-length: 1\r\n\r\nx",
            415,
            "encoded-body",
        ),
        ("POST / HTTP/1.1\r\nhost: c.ns\r\ncontent-length: 11\r\n\r\n", 413, "body-too-large"),
        (
            "POST / HTTP/1.1\r\nhost: c.ns\r\ntransfer-encoding: chunked\r\n\r\nb\r\n12345678901\r\n",
            413,
            "body-too-large",
        ),
        ("POST / HTTP/1.1\r\nhost: c.ns\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", 400, "bad-body"),
        ("POST /?query HTTP/1.1\r\nhost: c.ns\r\ncontent-length: 2\r\n\r\nhi", 202, ""),
        ("POST / HTTP/1.1\r\nhost: c-channel.ns.svc.cluster.local\r\ncontent-length: 0\r\n\r\n", 202, ""),
        ("POST http://c.ns/ HTTP/1.1\r\nhost: bad\r\ncontent-length: 0\r\n\r\n", 202, ""),
    ] {
        let (got, text) = bus.ask(request).await;
        assert_eq!(got, status, "{request}\n{text}");
        assert!(code.is_empty() || text.contains(&format!("\"code\":\"{code}\"")), "{request}\n{text}");
        assert_eq!(status == 405, text.to_lowercase().contains("allow: post"), "{text}");
    }
}

#[tokio::test]
async fn rule_3_and_7_only_the_list_passes_and_the_answer_goes_on() {
    let answer = "HTTP/1.1 200 OK\r\nce-id: answered\r\nset-cookie: no\r\nknative-correlation-id: theirs\r\ncontent-length: 5\r\n\r\nreply";
    let (first, mut firsts) = subscriber(answer).await;
    let (second, mut seconds) = subscriber(ACCEPTED).await;
    let spec = format!("channel: c, subscriber: \"{first}\", replyTo: \"{second}\"");
    let bus = Bus::of(&(object("Channel", "c", "") + &object("Subscription", "s", &spec))).await;
    let headers = "Knative-Correlation-Id: ours\r\nCE-Id: 1\r\ncookie: secret\r\nauthorization: secret\r\ntraceparent: t\r\n";
    assert_eq!(bus.post("c.ns", headers, "payload").await.0, 202);
    let request = next(&mut firsts).await.to_lowercase();
    for line in
        ["ce-id: 1\r\n", "knative-correlation-id: ours", "traceparent: t", "prefer: reply", "\r\n\r\npayload"]
    {
        assert!(request.contains(line), "{line}\n{request}");
    }
    assert!(!request.contains("secret"), "{request}");
    let reply = next(&mut seconds).await.to_lowercase();
    for line in ["ce-id: answered", "knative-correlation-id: ours", "traceparent: t", "\r\n\r\nreply"] {
        assert!(reply.contains(line), "{line}\n{reply}");
    }
    assert!(!reply.contains("cookie") && !reply.contains("prefer"), "{reply}");
}

#[tokio::test]
async fn rule_6_a_chain_of_channels_stays_inside() {
    let (end, mut ends) = subscriber(ACCEPTED).await;
    let to_d = "channel: c, subscriber: d.ns.channels.cluster.local";
    let objects = object("Channel", "c", "")
        + &object("Channel", "d", "")
        + &object("Subscription", "s", to_d)
        + &object("Subscription", "t", &format!("channel: d, subscriber: \"{end}\""));
    let bus = Bus::of(&objects).await;
    assert_eq!(bus.post("c.ns", "ce-id: 7\r\n", "x").await.0, 202);
    assert!(next(&mut ends).await.contains("ce-id: 7"));
}

#[tokio::test]
async fn a_failed_try_is_told_tried_again_and_buried() {
    let (fails, mut tries) = subscriber("HTTP/1.1 500 No\r\ncontent-length: 3\r\n\r\nwhy").await;
    let (grave, mut letters) = subscriber(ACCEPTED).await;
    let spec = format!("channel: c, subscriber: \"http://user:secret@{fails}/p\"");
    let options = EngineOptions::default()
        .max_deliver(2)
        .retry_delay(Duration::from_millis(1))
        .dead_letter(Some(grave));
    let objects = object("Channel", "c", "") + &object("Subscription", "s", &spec);
    let mut bus = Bus::start(&objects, options, ReceiverOptions::default()).await;
    assert_eq!(bus.post("c.ns", "", "x").await.0, 202);
    for number in 1..=2 {
        assert!(next(&mut tries).await.contains("authorization: Basic dXNlcjpzZWNyZXQ="));
        let event = bus.event(|event| matches!(event, Event::DispatchFailed { .. })).await;
        let Event::DispatchFailed { destination, error, tries, last, .. } = event else { unreachable!() };
        assert_eq!(
            (destination.as_str(), tries, last),
            (format!("http://{fails}/p").as_str(), number, number == 2)
        );
        assert_eq!(error, "Unable to complete request: unexpected HTTP response, expected 2xx, got 500");
    }
    let letter = next(&mut letters).await.to_lowercase();
    for line in [
        "ce-knativeerrorcode: 500",
        &format!("ce-knativeerrordest: http://{fails}/p"),
        "ce-knativeerrordata: d2h5",
    ] {
        assert!(letter.contains(line), "{line}\n{letter}");
    }
}

#[tokio::test]
async fn one_that_stalls_loses_alone_and_is_told_of() {
    let (stalls, mut stalled) = subscriber("").await;
    let (works, mut worked) = subscriber(ACCEPTED).await;
    let subscribed =
        |name: &str, to: &str| object("Subscription", name, &format!("channel: c, subscriber: \"{to}\""));
    let objects = object("Channel", "c", "") + &subscribed("stalls", &stalls) + &subscribed("works", &works);
    let options = EngineOptions::default().in_flight(1).queue(2);
    let mut bus = Bus::start(&objects, options, ReceiverOptions::default()).await;
    for number in 0..4 {
        assert_eq!(bus.post("c.ns", "", &format!("m{number}")).await.0, 202);
        assert!(next(&mut worked).await.ends_with(&format!("m{number}")));
    }
    assert!(next(&mut stalled).await.ends_with("m0"));
    let event = bus.event(|event| matches!(event, Event::Dropped { .. })).await;
    let Event::Dropped { subscription, reason, count, .. } = event else { unreachable!() };
    assert_eq!((subscription.to_string(), reason, count), ("ns/stalls".into(), DropReason::QueueFull, 1));
}
