//! The log at its most detailed level: it has connections and the reasons for their ends, but no payload and no secret.

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use relay_testkit::{Logged, Reply, Script};
use relay_transport::Secret;

use crate::*;

#[tokio::test]
async fn connections_but_no_payload_and_no_secret() {
    let log = Logged::listen();
    let script = Script::new()
        .on("/events", Reply::redirect(307, "/there?ticket=hunter2"))
        .on("/there", Reply::sse().send("event: kind\ndata: payload\n\n"))
        .on("/events", Reply::new(503, "text/plain", "payload"))
        .on("/events", Reply::empty(404));
    let peer = Peer::start(script).await;
    let url = format!("{}/events?ticket=hunter2", peer.url());
    let mut stream = EventStream::new(http(), quick(), move |_| {
        let token = Secret::from("hunter2").bearer().unwrap();
        let request = Request::get(&url).header("authorization", token).body(Full::<Bytes>::default());
        Box::pin(std::future::ready(Ok(request.unwrap())))
    });
    while told(&mut stream).await != "end" {}

    let text = log.text();
    assert!(!text.contains("hunter2") && !text.contains("payload"), "{text}");
    // The server chooses the target of a redirect and may put a secret there, so its path is not logged.
    assert!(!text.contains("/there"), "{text}");
    let span = |path: &str, attempt| format!("connection{{attempt={attempt} url=\"{}{path}\"}}", peer.url());
    for line in [
        format!("{}: relay_transport::client::stream::connection: answered status=307", span("/events", 1)),
        format!("{}: relay_transport::client::stream::connection: answered status=200", span("", 1)),
        format!(
            "{}: relay_transport::client::stream::connection: ended why=the server ended the connection",
            span("", 1)
        ),
        format!(
            "{}: relay_transport::client::stream::connection: ended why=answered with status 503",
            span("/events", 2)
        ),
        format!("{}: relay_transport::client::stream::connection: answered status=404", span("/events", 3)),
    ] {
        assert!(text.contains(&line), "{line}\nis not in\n{text}");
    }
}
