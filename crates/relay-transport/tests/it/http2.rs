//! Streams over HTTP/2.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::StreamBody;
use hyper::body::{Frame as BodyFrame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio_rustls::TlsAcceptor;

use crate::*;

type Events = mpsc::Sender<Result<BodyFrame<Bytes>, Infallible>>;

/// Serves one connection. The channel delivers the head of each request and the sender of its body.
async fn serve(
    io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    requests: mpsc::UnboundedSender<(Request<()>, Events)>,
) {
    let service = service_fn(move |request: Request<Incoming>| {
        let (events, body) = mpsc::channel(1);
        let _ = requests.send((request.map(|_| ()), events));
        let body = futures_util::stream::unfold(body, |mut body| async {
            body.recv().await.map(|frame| (frame, body))
        });
        let response =
            Response::builder().header("content-type", "text/event-stream").body(StreamBody::new(body));
        std::future::ready(response)
    });
    let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(io), service)
        .await;
}

async fn say(events: &Events, text: &'static str) {
    within("room for an event", events.send(Ok(BodyFrame::data(Bytes::from_static(text.as_bytes())))))
        .await
        .unwrap();
}

#[tokio::test]
async fn agreed_on_in_the_handshake_and_shared() {
    let mut config = relay_testkit::Authority::new().server("localhost", 2200, None);
    config.alpn_protocols = vec![b"h2".to_vec()];
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://localhost:{}/events", listener.local_addr().unwrap().port());
    let (tell, mut requests) = mpsc::unbounded_channel();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let (count, connections) = watch::channel(0);
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            count.send_modify(|count| *count += 1);
            tokio::spawn(serve(acceptor.accept(socket).await.unwrap(), tell.clone()));
        }
    });
    let http = HttpClient::builder().no_proxy().dangerously_accept_any_certificate().build().unwrap();
    let mut one = EventStream::get(http.clone(), quick(), &url).unwrap();
    assert_eq!(told(&mut one).await, "opened");
    let (head, one_events) = within("a request", requests.recv()).await.unwrap();
    assert_eq!(head.version(), http::Version::HTTP_2);
    assert_eq!(head.headers()["accept"], "text/event-stream");
    say(&one_events, "data: 1\n\n").await;
    assert_eq!(told(&mut one).await, "event(1)");

    let mut two = EventStream::get(http, quick(), &url).unwrap();
    assert_eq!(told(&mut two).await, "opened");
    let (_, two_events) = within("a request", requests.recv()).await.unwrap();
    say(&two_events, "data: 2\n\n").await;
    assert_eq!(told(&mut two).await, "event(2)");
    assert_eq!(*connections.borrow(), 1, "one connection for both");

    // Dropping one stream ends that one only.
    drop(one);
    within("the server to notice", one_events.closed()).await;
    say(&two_events, "data: 3\n\n").await;
    assert_eq!(told(&mut two).await, "event(3)");
}

/// The direction in which a network drops bytes silently.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Swallows {
    Everything,
    WhatTheClientSends,
    WhatTheServerSends,
}

#[tokio::test]
async fn a_peer_that_is_gone_is_found_by_pings() {
    for swallows in [Swallows::Everything, Swallows::WhatTheClientSends, Swallows::WhatTheServerSends] {
        let upstream = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let upstream_addr = upstream.local_addr().unwrap();
        let (tell, mut requests) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok((socket, _)) = upstream.accept().await {
                tokio::spawn(serve(socket, tell.clone()));
            }
        });
        let way = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/events", way.local_addr().unwrap());
        let (swallow, swallowing) = watch::channel(false);
        tokio::spawn(async move {
            while let Ok((client, _)) = way.accept().await {
                let (from_client, to_client) = client.into_split();
                let server = TcpStream::connect(upstream_addr).await.unwrap();
                let (from_server, to_server) = server.into_split();
                let (up, down) =
                    (swallows != Swallows::WhatTheServerSends, swallows != Swallows::WhatTheClientSends);
                tokio::spawn(pass(from_client, to_server, up.then(|| swallowing.clone())));
                tokio::spawn(pass(from_server, to_client, down.then(|| swallowing.clone())));
            }
        });
        let builder = HttpClient::builder().http2_only(true).http2_ping_interval(Duration::from_millis(100));
        let mut stream = EventStream::get(builder.build().unwrap(), quick().idle(None), &url).unwrap();
        assert_eq!(told(&mut stream).await, "opened");
        let (_, events) = within("a request", requests.recv()).await.unwrap();
        say(&events, "data: 1\n\n").await;
        assert_eq!(told(&mut stream).await, "event(1)");
        swallow.send(true).unwrap();
        let line = told(&mut stream).await;
        assert!(line.starts_with("ended(error reading"), "{swallows:?}: {line}");
    }
}

/// Passes bytes on until it has to swallow them; both ends stay open.
async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, swallowing: Option<watch::Receiver<bool>>) {
    let mut buffer = [0; 4096];
    while let Ok(size @ 1..) = from.read(&mut buffer).await {
        if !swallowing.as_ref().is_some_and(|now| *now.borrow())
            && to.write_all(&buffer[..size]).await.is_err()
        {
            return;
        }
    }
}

#[tokio::test]
async fn a_caller_that_does_not_poll_stops_the_server() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/events", listener.local_addr().unwrap());
    let (tell, mut requests) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        let (socket, _) = listener.accept().await.unwrap();
        serve(socket, tell).await;
    });
    let http = HttpClient::builder().http2_only(true).build().unwrap();
    let mut stream = EventStream::get(http, quick(), &url).unwrap();
    assert_eq!(told(&mut stream).await, "opened");
    let (_, events) = within("a request", requests.recv()).await.unwrap();
    let event = Bytes::from(format!("data:{}\n\n", "x".repeat(993)));
    let mut sent = 0;
    let room = async |events: &Events| {
        tokio::time::timeout(Duration::from_millis(500), events.reserve()).await.ok().map(drop)
    };
    while room(&events).await.is_some() {
        within("room", events.send(Ok(BodyFrame::data(event.clone())))).await.unwrap();
        sent += event.len();
        assert!(sent < 16 << 20, "no end to it");
    }
    // The bytes are in the window, in the sockets, and in hyper's buffer.
    assert!(sent >= 200 << 10, "{sent}");
    assert_eq!(stream.bytes_read(), 0);
    assert_eq!(told(&mut stream).await, format!("event({})", "x".repeat(993)));
}
