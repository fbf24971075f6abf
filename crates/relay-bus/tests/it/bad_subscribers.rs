//! Errors that subscribers can make: each gives an error that names the destination and the rule, and its slot is free
//! again.

use std::time::Duration;

use relay_bus::{
    DispatchDefaults, DispatcherOptions, EngineOptions, Event, Message, MessageDispatcher, ReceiverOptions,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::harness::{ACCEPTED, Bus, next, object, subscriber};

/// The error of a dispatch to a subscriber with this answer.
async fn error_of(answer: &'static str, credentials: &str) -> String {
    let (to, _requests) = subscriber(answer).await;
    let options = DispatcherOptions::default().timeout(Duration::from_millis(700)).max_payload(1000);
    let dispatcher = MessageDispatcher::new(options).unwrap();
    let message = Message::new(relay_bus::Headers::new(), "x");
    let destination = format!("http://{credentials}{to}/p");
    let sent = dispatcher.dispatch_message(&message, &destination, &DispatchDefaults::new("ns")).await;
    let mut error = &sent.unwrap_err() as &dyn std::error::Error;
    let mut text = error.to_string();
    while let Some(source) = error.source() {
        text += &format!(": {source}");
        error = source;
    }
    assert!(!text.contains("secret"), "{text}");
    text.replace(&to, "THERE")
}

#[tokio::test]
async fn rule_5_every_answer_that_is_no_success_is_an_error_that_says_which() {
    let huge: &'static str = Box::leak(
        format!("HTTP/1.1 200 OK\r\ncontent-length: 2000\r\n\r\n{}", "x".repeat(2000)).into_boxed_str(),
    );
    let endless: &'static str =
        Box::leak(format!("HTTP/1.1 200 OK\r\nx: {}", "y".repeat(200_000)).into_boxed_str());
    for (answer, error) in [
        ("", "no answer from http://THERE/p within 700ms"),
        ("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf", "no answer from http://THERE/p within 700ms"),
        ("HTTP/1.1 500 X\r\ncontent-length: 9\r\n\r\nhalf", "expected 2xx, got 500"),
        (huge, "the answer of http://THERE/p is over 1000 bytes"),
        (endless, "http://THERE/p"),
        (
            "HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 1\r\n\r\nx",
            "the answer of http://THERE/p is encoded",
        ),
        ("nonsense\r\n\r\n", "http://THERE/p"),
        ("HTTP/1.1 404 X\r\ncontent-length: 0\r\n\r\n", "unexpected HTTP response, expected 2xx, got 404"),
        ("HTTP/1.1 302 X\r\nlocation: /\r\ncontent-length: 0\r\n\r\n", "expected 2xx, got 302"),
        ("HTTP/1.1 307 X\r\ncontent-length: 0\r\n\r\n", "expected 2xx, got 307"),
        ("HTTP/1.1 307 X\r\nlocation: ftp://x/\r\ncontent-length: 0\r\n\r\n", "it leads nowhere"),
        ("HTTP/1.1 308 X\r\nlocation: /p\r\ncontent-length: 0\r\n\r\n", "more than 5 redirects in a row"),
    ] {
        let text = error_of(answer, "user:secret@").await;
        assert!(text.contains(error), "{answer:.60}\n{text}");
        assert!(text.starts_with("Unable to complete request: "), "{text}");
    }
}

#[tokio::test]
async fn rule_5_a_redirect_keeps_method_headers_and_body_and_no_credential_goes_elsewhere() {
    let (to, mut requests) = subscriber(ACCEPTED).await;
    let answer = format!("HTTP/1.1 308 X\r\nlocation: http://{to}/moved?a=b\r\ncontent-length: 0\r\n\r\n");
    let (from, mut firsts) = subscriber(Box::leak(answer.into_boxed_str())).await;
    let dispatcher = MessageDispatcher::new(DispatcherOptions::default()).unwrap();
    let message = Message::new(relay_bus::Headers::from_iter([("ce-id", "1")]), "body");
    let destination = format!("http://user:secret@{from}/");
    dispatcher.dispatch_message(&message, &destination, &DispatchDefaults::new("ns")).await.unwrap();
    assert!(next(&mut firsts).await.contains("authorization: Basic dXNlcjpzZWNyZXQ="));
    let request = next(&mut requests).await;
    assert!(
        request.starts_with("POST /moved?a=b HTTP/1.1\r\n") && request.ends_with("\r\n\r\nbody"),
        "{request}"
    );
    assert!(request.contains("ce-id: 1") && !request.contains("authorization"), "{request}");
}

#[tokio::test]
async fn a_wait_is_asked_for_in_seconds_or_with_a_date() {
    for (answer, seconds) in [
        ("retry-after: 7", Some(7)),
        // The server's own clock counts, if the response has it.
        ("date: Sun, 06 Nov 1994 08:49:07 GMT\r\nretry-after: Sun, 06 Nov 1994 08:49:37 GMT", Some(30)),
        ("retry-after: Fri, 31 Dec 2123 23:59:59 GMT", Some(60)),
        ("retry-after: Sun, 06 Nov 1994 08:49:37 GMT", None),
        ("retry-after: soon", None),
    ] {
        let answer = format!("HTTP/1.1 503 X\r\n{answer}\r\ncontent-length: 0\r\n\r\n");
        let (to, _requests) = subscriber(Box::leak(answer.clone().into_boxed_str())).await;
        let dispatcher = MessageDispatcher::new(DispatcherOptions::default()).unwrap();
        let message = Message::new(relay_bus::Headers::new(), "x");
        let sent = dispatcher.dispatch_message(&message, &to, &DispatchDefaults::new("ns")).await;
        let after = sent.unwrap_err().call_error().retry_after();
        assert_eq!(after, seconds.map(Duration::from_secs), "{answer}");
    }
}

#[tokio::test]
async fn an_empty_message_says_its_length() {
    let (to, mut requests) = subscriber(ACCEPTED).await;
    let (moved, mut firsts) = subscriber(Box::leak(
        format!("HTTP/1.1 307 X\r\nlocation: http://{to}/\r\ncontent-length: 0\r\n\r\n").into_boxed_str(),
    ))
    .await;
    let dispatcher = MessageDispatcher::new(DispatcherOptions::default()).unwrap();
    let message = Message::new(relay_bus::Headers::new(), "");
    dispatcher.dispatch_message(&message, &moved, &DispatchDefaults::new("ns")).await.unwrap();
    for request in [next(&mut firsts).await, next(&mut requests).await] {
        let lengths = request.lines().filter(|line| line.to_lowercase().starts_with("content-length"));
        assert_eq!(lengths.collect::<Vec<_>>(), ["content-length: 0"], "{request}");
    }
}

/// A subscriber that answers the first request of each connection, and closes at the second.
async fn tired() -> (String, tokio::sync::mpsc::UnboundedReceiver<usize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (tell, told) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        let mut connection = 0;
        while let Ok((mut stream, _)) = listener.accept().await {
            connection += 1;
            let tell = tell.clone();
            tokio::spawn(async move {
                let mut buffer = [0; 4096];
                if stream.read(&mut buffer).await.is_ok() {
                    let _ = tell.send(connection);
                    stream.write_all(ACCEPTED.as_bytes()).await.unwrap();
                    let _ = stream.read(&mut buffer).await;
                }
            });
        }
    });
    (address, told)
}

#[tokio::test]
async fn rule_5_a_reused_connection_that_was_closed_meanwhile_is_no_failed_delivery() {
    let (to, mut told) = tired().await;
    let dispatcher = MessageDispatcher::new(DispatcherOptions::default()).unwrap();
    let message = Message::new(relay_bus::Headers::new(), "x");
    for connection in 1..=3 {
        let sent = dispatcher.dispatch_message(&message, &to, &DispatchDefaults::new("ns")).await;
        sent.unwrap();
        assert_eq!(told.recv().await, Some(connection));
    }
}

#[tokio::test]
async fn a_connection_of_each_answer_and_one_that_stalls_cost_no_slot() {
    let closing = "HTTP/1.1 202 Accepted\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
    let (to, mut requests) = subscriber(closing).await;
    let (silent, mut unheard) = subscriber("").await;
    let objects = object("Channel", "c", "")
        + &object("Channel", "d", "")
        + &object("Subscription", "s", &format!("channel: c, subscriber: \"{to}\""))
        + &object("Subscription", "t", &format!("channel: d, subscriber: \"{silent}\""));
    let options = EngineOptions::default().in_flight(1);
    let limit = Duration::from_secs(2);
    let mut bus = Bus::start_within(&objects, options, ReceiverOptions::default(), limit).await;
    for number in 0..5 {
        assert_eq!(bus.post("c.ns", "", &number.to_string()).await.0, 202);
        assert!(next(&mut requests).await.ends_with(&number.to_string()), "in order");
    }
    // The only slot, taken by a subscriber that never answers, is free again after the time limit of a call.
    for number in 0..2 {
        assert_eq!(bus.post("d.ns", "", &number.to_string()).await.0, 202);
        assert!(next(&mut unheard).await.ends_with(&number.to_string()));
        bus.event(|event| matches!(event, Event::DispatchFailed { .. })).await;
    }
}
