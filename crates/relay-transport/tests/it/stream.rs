//! The meaning of answers to a stream, with real sockets.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use relay_proto::eventsource::{Item, Refused, State, Stop};
use relay_testkit::{Gate, Opening, Peer, Reply, ReservedPort, Script, within};
use relay_transport::{EventStream, Secret, TokenSource};

use crate::*;

#[tokio::test]
async fn a_stream_over_two_connections() {
    let peer = Peer::start(
        Script::new()
            .on(
                "/events",
                Reply::sse().send_in(3, ": hi\nid: 1\ndata: a\n\nid: 2\ndata: b\n\nid: 3\ndata: lost"),
            )
            .on("/events", Reply::sse().chunked().send("data: c\n\n"))
            .on("/events", Reply::empty(204)),
    )
    .await;
    let mut stream = follow(&peer, quick());
    assert_eq!(
        told_next(&mut stream, 10).await,
        [
            "opened",
            "comment( hi)",
            "event(a)",
            "event(b)",
            "ended(the server ended the connection)",
            "opened",
            "event(c)",
            "ended(the server ended the connection)",
            "stop(the server has nothing more to say (204))",
            "end",
        ]
    );
    let requests = peer.requests();
    for (request, id) in requests.iter().zip([None, Some("2"), Some("2")]) {
        assert_eq!(request.method(), "GET");
        assert_eq!(request.header("accept"), Some("text/event-stream"));
        assert_eq!(request.header("cache-control"), Some("no-cache"));
        assert_eq!(request.header("last-event-id"), id);
    }
    assert_eq!(requests.len(), 3);
}

#[tokio::test]
async fn statuses_that_are_final_and_statuses_that_are_not() {
    for (status, outcome) in [
        (201, "stop(refused with status 201)"),
        (205, "stop(refused with status 205)"),
        (304, "stop(refused with status 304)"),
        (400, "stop(refused with status 400)"),
        (401, "stop(refused with status 401)"),
        (403, "stop(refused with status 403)"),
        (404, "stop(refused with status 404)"),
        (410, "stop(refused with status 410)"),
        (408, "failed(answered with status 408)"),
        (425, "failed(answered with status 425)"),
        (429, "failed(answered with status 429)"),
        (500, "failed(answered with status 500)"),
        (502, "failed(answered with status 502)"),
        (503, "failed(answered with status 503)"),
        (504, "failed(answered with status 504)"),
    ] {
        let script =
            Script::new().on("/events", Reply::empty(status)).on("/events", Reply::sse().send(":x\n"));
        let peer = Peer::start(script).await;
        let mut stream = follow(&peer, quick());
        assert_eq!(told(&mut stream).await, outcome);
        let next = if outcome.starts_with("stop") { "end" } else { "opened" };
        assert_eq!(told(&mut stream).await, next, "after {status}");
    }
}

#[tokio::test]
async fn error_bodies_come_with_the_verdict() {
    let problem = r#"{"code":"not-found"}"#;
    let html = "<html>".repeat(10_000);
    let script = Script::new()
        .on("/events", Reply::new(502, "text/html", html.clone()))
        .on("/events", Reply::new(200, "text/html", html))
        .on("/events", Reply::new(404, "application/problem+json", problem));
    let peer = Peer::start(script).await;
    let mut stream = follow(&peer, quick());
    let Some(Ok(Item::Ended(ended))) = stream.next().await else { panic!() };
    assert_eq!((ended.status(), ended.body.len()), (Some(502), 16 << 10));
    assert_eq!(
        told(&mut stream).await,
        "failed(answered with content type \"text/html\", not text/event-stream)"
    );
    let Some(Err(Stop::Status { status: 404, body })) = stream.next().await else { panic!() };
    assert_eq!(body, problem);
}

#[tokio::test]
async fn connections_that_fail_are_made_again() {
    let script = Script::new()
        .opening(Opening::Reset)
        .opening(Opening::Close)
        .on("/events", Reply::raw().send("SSH-2.0-OpenSSH_9.7\r\n").cut())
        .on("/events", Reply::raw().send("HTTP/1.1 200 OK\r\ncontent-type: text/event-str").reset())
        .on("/events", Reply::sse().chunked().send("data: a\n\n").cut())
        .on("/events", Reply::sse().send("data: b\n\n").chunked().send("data: c\n").reset())
        .on("/events", Reply::raw().send("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\nzz\r\ngarbage").cut())
        .on("/events", Reply::sse().send("data: d\n\n").silence());
    let peer = Peer::start(script).await;
    let mut stream = follow(&peer, quick());
    let (mut lines, mut ends) = (Vec::new(), 0);
    while lines.last().is_none_or(|line| line != "event(d)") {
        let line = told(&mut stream).await;
        assert!(!line.contains('\n'), "one line: {line}");
        ends += usize::from(line.starts_with("failed") || line.starts_with("ended"));
        lines.push(line);
    }
    assert_eq!(ends, 7, "{lines:#?}");
    let events: Vec<_> = lines.iter().filter(|line| line.starts_with("event")).collect();
    // An RST may discard unread bytes, so `b` may be missing; a truncated event is never delivered.
    assert!(
        events == ["event(a)", "event(b)", "event(d)"] || events == ["event(a)", "event(d)"],
        "{lines:#?}"
    );
}

#[tokio::test]
async fn a_port_nobody_listens_on() {
    let closed = ReservedPort::reserve();
    let gone = closed.url();
    let mut stream = EventStream::get(http(), quick(), &format!("{gone}/x?token=hunter2")).unwrap();
    for _ in 0..3 {
        let line = told(&mut stream).await;
        assert!(line.starts_with(&format!("failed(cannot connect to {gone}/x: ")), "{line}");
        assert!(line.contains("refused") && !line.contains("hunter2"), "{line}");
    }
}

fn with_token(peer: &Peer, config: Config, tokens: TokenSource) -> EventStream {
    let url = format!("{}/events?ticket=hunter2", peer.url());
    EventStream::new(http(), config, move |_attempt| {
        let (url, tokens) = (url.clone(), tokens.clone());
        Box::pin(async move {
            let token = tokens.token().await.map_err(|error| Refused::retry(error.line()))?;
            Request::get(url)
                .header("authorization", token.bearer().unwrap())
                .header("x-relay-token", token.expose())
                .header("cookie", format!("session={}", token.expose()))
                .header("x-team", "blue")
                .header("accept-language", "en")
                .body(Full::<Bytes>::default())
                .map_err(|error| Refused::permanent(error.to_string()))
        })
    })
}

#[tokio::test]
async fn unauthorized_gets_fresh_credentials_once() {
    let script = Script::new()
        .on("/events", Reply::empty(401))
        .on("/events", Reply::sse().send("data: in\n\n"))
        .on("/events", Reply::empty(401))
        .on("/events", Reply::empty(401))
        .on("/events", Reply::empty(401))
        .on("/events", Reply::empty(403));
    let peer = Peer::start(script).await;
    let asked = Arc::new(AtomicU32::new(0));
    let count = asked.clone();
    let tokens = TokenSource::function(move || {
        let n = count.fetch_add(1, Ordering::Relaxed);
        async move { Ok::<_, std::io::Error>(Secret::from(format!("t{n}"))) }
    });
    let mut stream = with_token(&peer, quick().credentials_can_refresh(true), tokens);
    assert_eq!(
        told_next(&mut stream, 9).await,
        [
            "failed(answered with status 401)",
            "opened",
            "event(in)",
            "ended(the server ended the connection)",
            "failed(answered with status 401)",
            "failed(answered with status 401)",
            "failed(answered with status 401)",
            "stop(refused with status 403)",
            "end",
        ]
    );
    let tokens: Vec<_> =
        peer.requests().iter().map(|r| r.header("x-relay-token").unwrap().to_owned()).collect();
    assert_eq!(tokens, ["t0", "t1", "t2", "t3", "t4", "t5"], "fresh for each attempt");
}

#[tokio::test]
async fn redirects_are_followed_and_secrets_stay_with_their_origin() {
    let other = Peer::start(
        Script::new()
            .on("/there", Reply::redirect(308, "/here"))
            .on("/here", Reply::sse().send("data: x\n\n").silence()),
    )
    .await;
    let there = format!("{}/there", other.url());
    let peer = Peer::start(
        Script::new()
            .on("/events", Reply::redirect(301, "a/../b"))
            .on("/b", Reply::redirect(302, "?q"))
            .on("/b", Reply::redirect(303, "//"))
            .on("/events", Reply::redirect(307, &there)),
    )
    .await;
    let mut stream = with_token(&peer, quick().last_event_id("41"), TokenSource::fixed("hunter2"));
    assert_eq!(
        told_next(&mut stream, 3).await,
        ["failed(redirected (303) to something that is not an http URL)", "opened", "event(x)"]
    );
    let targets: Vec<_> = peer.requests().iter().map(|request| request.target().to_owned()).collect();
    assert_eq!(targets, ["/events?ticket=hunter2", "/b", "/b?q", "/events?ticket=hunter2"]);
    for request in peer.requests() {
        assert_eq!(request.header("authorization"), Some("Bearer hunter2"), "same origin");
    }
    let elsewhere = other.requests();
    assert_eq!(elsewhere.iter().map(|r| r.target().to_owned()).collect::<Vec<_>>(), ["/there", "/here"]);
    for request in &elsewhere {
        let head = String::from_utf8_lossy(request.head());
        assert!(!head.contains("hunter2") && !head.contains("x-team"), "{head}");
        assert_eq!(request.header("last-event-id"), Some("41"));
        assert_eq!(request.header("accept-language"), Some("en"));
        assert_eq!(request.header("host"), Some(other.addr().to_string().as_str()));
    }
}

#[tokio::test]
async fn redirects_without_an_end_or_a_place_to_go() {
    let script = Script::new()
        .on("/events", Reply::empty(301))
        .on("/events", Reply::redirect(307, ""))
        .on("/events", Reply::redirect(302, "ftp://h/"))
        .always("/loop", Reply::redirect(302, "/loop"))
        .on("/events", Reply::redirect(302, "/loop"))
        .on("/events", Reply::sse());
    let peer = Peer::start(script).await;
    let mut stream = follow(&peer, quick());
    assert_eq!(
        told_next(&mut stream, 5).await,
        [
            "failed(redirected (301) without a Location)",
            "failed(redirected (307) without a Location)",
            "failed(redirected (302) to something that is not an http URL)",
            "failed(too many redirects in a row)",
            "opened",
        ]
    );
    assert_eq!(peer.requests().iter().filter(|request| request.path() == "/loop").count(), 5);
}

#[tokio::test]
async fn bodies_and_methods_over_redirects() {
    let other = Peer::start(Script::new()).await;
    let script = Script::new()
        .on("/events", Reply::redirect(307, "/again"))
        .on("/again", Reply::redirect(303, "/plain"))
        .on("/plain", Reply::sse())
        .on("/events", Reply::redirect(307, &other.url()))
        .on("/events", Reply::empty(204));
    let peer = Peer::start(script).await;
    let url = format!("{}/events", peer.url());
    let mut stream = EventStream::new(http(), quick(), move |_| {
        let request = Request::builder().method("REPORT").uri(&url).header("content-type", "text/plain");
        Box::pin(std::future::ready(Ok(request.body(Full::from("what I want")).unwrap())))
    });
    assert_eq!(
        told_next(&mut stream, 4).await,
        [
            "opened",
            "ended(the server ended the connection)",
            "failed(redirected to another origin, which may not see the request's body)",
            "stop(the server has nothing more to say (204))"
        ]
    );
    let seen: Vec<_> = peer.requests().iter().map(|r| (r.method().to_owned(), r.body().len())).collect();
    let expected = [("REPORT", 11), ("REPORT", 11), ("GET", 0), ("REPORT", 11), ("REPORT", 11)];
    assert_eq!(seen, expected.map(|(method, size)| (method.to_owned(), size)));
    assert_eq!(peer.request(2).await.header("content-type"), None);
    assert_eq!(other.connections(), 0);
}

#[tokio::test]
async fn requests_that_cannot_be_made() {
    for (refused, line) in [
        (Refused::permanent("no credentials"), "stop(no credentials)"),
        (Refused::retry("no credentials yet"), "failed(no credentials yet)"),
    ] {
        let mut stream =
            EventStream::new(http(), quick(), move |_| Box::pin(std::future::ready(Err(refused.clone()))));
        assert_eq!(told(&mut stream).await, line);
    }
    let relative = || Request::get("/events").body(Full::<Bytes>::default()).unwrap();
    let mut stream = EventStream::new(http(), quick(), move |_| Box::pin(std::future::ready(Ok(relative()))));
    assert_eq!(told_next(&mut stream, 2).await, ["stop(not a usable URL: it is not absolute)", "end"]);
}

#[tokio::test]
async fn dropping_and_closing_close_the_socket() {
    let script = || Script::new().always("/events", Reply::sse().send("data: x\n\n").silence());
    let peer = Peer::start(script()).await;
    let mut stream = follow(&peer, quick());
    assert_eq!(told_next(&mut stream, 2).await, ["opened", "event(x)"]);
    drop(stream);
    peer.closed(0).await;

    let mut stream = follow(&peer, quick());
    assert_eq!(told_next(&mut stream, 2).await, ["opened", "event(x)"]);
    stream.close();
    peer.closed(1).await;
    assert_eq!(stream.state(), State::Stopped);
    assert_eq!(told(&mut stream).await, "end");
    assert_eq!(peer.connections(), 2);
}

#[tokio::test]
async fn a_handle_commands_and_watches() {
    let script = Script::new().always("/events", Reply::sse().send("data: x\n\n").silence());
    let peer = Peer::start(script).await;
    let mut stream = follow(&peer, quick());
    let handle = stream.handle();
    let mut watch = handle.watch();
    let reader = tokio::spawn(async move {
        let mut lines = Vec::new();
        while let Some(item) = stream.next().await {
            lines.push(word(&item));
        }
        lines
    });
    let opened = |watch: &mut tokio::sync::watch::Receiver<State>| {
        let mut watch = watch.clone();
        async move {
            drop(within("an open stream", watch.wait_for(|state| *state == State::Bytes)).await.unwrap())
        }
    };
    opened(&mut watch).await;
    peer.request(0).await;
    handle.restart("the caller knows better");
    peer.closed(0).await;
    peer.request(1).await;
    opened(&mut watch).await;
    handle.close();
    let lines = within("the end", reader).await.unwrap();
    assert_eq!(lines.iter().filter(|line| *line == "ended(restarted: the caller knows better)").count(), 1);
    assert_eq!(lines.iter().filter(|line| *line == "opened").count(), 2);
    assert_eq!(*watch.borrow_and_update(), State::Stopped);
}

#[tokio::test]
async fn polling_may_be_given_up_at_any_time() {
    let gate = Gate::new();
    let script = Script::new()
        .on("/events", Reply::sse().send("data: a\n\nda").hold(&gate).send("ta: b\n\n").silence());
    let peer = Peer::start(script).await;
    let mut stream = follow(&peer, quick());
    let mut lines = Vec::new();
    while lines.len() < 3 {
        // The poll is dropped at every point where it waits.
        tokio::select! {
            biased;
            line = told(&mut stream) => lines.push(line),
            () = tokio::task::yield_now() => {}
        }
        if lines.len() == 2 {
            gate.open();
        }
    }
    assert_eq!(lines, ["opened", "event(a)", "event(b)"]);
    assert_eq!(peer.connections(), 1);
    assert_eq!(stream.bytes_read(), 18);
}

#[tokio::test]
async fn compressed_streams_when_wanted() {
    use std::io::Write;

    let pack = |texts: &[&str]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        let mut pieces = Vec::new();
        for text in texts {
            encoder.write_all(text.as_bytes()).unwrap();
            encoder.flush().unwrap();
            pieces.push(std::mem::take(encoder.get_mut()));
        }
        pieces
    };
    let huge = format!("data:{}\n\n", "x".repeat(40 << 20));
    let pieces = pack(&["data: a\n\n", "data: b\n\n", &huge, "data: c\n\n"]);
    let gate = Gate::new();
    let packed = || Reply::sse().header("content-encoding", "GZIP").chunked();
    let script = Script::new()
        // Each event arrives when it is sent, not when a block of the compression is full.
        .on("/events", packed().send(pieces[0].clone()).hold(&gate).send(pieces[1].clone()).cut())
        .on("/events", packed().send("no gzip at all"))
        .on("/events", packed().send_in(7, pieces.concat()))
        .on("/events", Reply::sse().send("data: plain\n\n"))
        .on("/events", packed())
        .on("/events", Reply::empty(204));
    let peer = Peer::start(script).await;
    let willing = HttpClient::builder().compressed_streams(true).build().unwrap();
    let mut stream = EventStream::get(willing, quick(), &format!("{}/events", peer.url())).unwrap();
    assert_eq!(told_next(&mut stream, 2).await, ["opened", "event(a)"]);
    gate.open();
    assert_eq!(told(&mut stream).await, "event(b)");
    assert!(told(&mut stream).await.starts_with("ended(error reading"));
    assert_eq!(told_next(&mut stream, 2).await, ["opened", "ended(invalid gzip header)"]);
    assert_eq!(
        told_next(&mut stream, 11).await,
        [
            "opened",
            "event(a)",
            "event(b)",
            "oversized(line)",
            "event(c)",
            "ended(the server ended the connection)",
            "opened",
            "event(plain)",
            "ended(the server ended the connection)",
            "opened",
            "ended(the server ended the connection)",
        ]
    );
    assert_eq!(peer.request(0).await.header("accept-encoding"), Some("gzip"));

    let peer = Peer::start(Script::new().on("/events", packed().send(pieces[0].clone()))).await;
    let mut stream = follow(&peer, quick());
    assert_eq!(told(&mut stream).await, "failed(answered in content coding \"gzip\")");
    assert_eq!(peer.request(0).await.header("accept-encoding"), Some("identity"));
}

#[tokio::test]
async fn folded_header_lines_are_spaces() {
    let head = "HTTP/1.1 200 OK\r\nX-Odd: a\r\n b\r\nContent-Type: text/html,\r\n\ttext/event-stream\r\n\r\n";
    let reply = Reply::raw().send(format!("{head}data: folded\n\n"));
    let peer = Peer::start(Script::new().on("/events", reply)).await;
    let mut stream = follow(&peer, quick());
    assert_eq!(told_next(&mut stream, 2).await, ["opened", "event(folded)"]);
}
