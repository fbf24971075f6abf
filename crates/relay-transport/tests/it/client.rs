//! Single requests.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use relay_testkit::{Gate, Peer, Reply, ReservedPort, Script};
use relay_transport::{BaseUrl, Error, HttpClient};

use crate::*;

async fn text(response: Response<Incoming>) -> String {
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

fn get(url: &str) -> Request<Full<Bytes>> {
    Request::get(url).header("authorization", "Bearer hunter2").body(Full::default()).unwrap()
}

#[tokio::test]
async fn a_base_with_a_prefix_reaches_the_wire_as_given() {
    let path = "/api/v1/namespaces/relay%2Dsystem/services/http:relay:8080/proxy/pods";
    let peer = Peer::start(Script::new().always(path, Reply::new(200, "text/plain", "[]"))).await;
    for slash in ["", "/"] {
        let base =
            format!("{}/api/v1/namespaces/relay%2Dsystem/services/http:relay:8080/proxy{slash}", peer.url());
        let url = BaseUrl::parse(&base).unwrap().join("/pods", &[("label", "a=b/c d")]);
        assert_eq!(text(http().send(get(&url)).await.unwrap()).await, "[]");
    }
    for request in peer.requests() {
        assert_eq!(request.target(), format!("{path}?label=a%3Db%2Fc%20d"));
    }
}

#[tokio::test]
async fn one_pool_for_all_clones() {
    let peer = Peer::start(Script::new().always("/", Reply::new(200, "text/plain", "ok"))).await;
    let http = http();
    for _ in 0..5 {
        let response = http.clone().send(get(&peer.url())).await.unwrap();
        assert_eq!(text(response).await, "ok");
        // The connection returns to the pool when its task runs.
        tokio::task::yield_now().await;
    }
    assert_eq!(peer.connections(), 1);
}

#[tokio::test]
async fn an_old_connection_is_used_no_more() {
    let peer = Peer::start(Script::new().always("/", Reply::new(200, "text/plain", "ok"))).await;
    let age = Duration::from_millis(300);
    let http = HttpClient::builder().no_proxy().connection_age(age).build().unwrap();
    let began = Instant::now();
    let mut asked = 0;
    while peer.connections() < 2 {
        assert_eq!(text(http.send(get(&peer.url())).await.unwrap()).await, "ok");
        asked += 1;
        // On a busy machine, both conditions may hold here; at least one must.
        assert!(peer.connections() < 2 || began.elapsed() >= age);
    }
    assert!(asked > 1, "it was used while it was young");
}

#[tokio::test]
async fn one_connection_too_many_waits_for_its_turn() {
    let gate = Gate::new();
    let reply = Reply::new(200, "text/plain", "").hold(&gate).send("ok");
    let peer = Peer::start(Script::new().always("/", reply)).await;
    let http = HttpClient::builder().no_proxy().connections_per_host(2).build().unwrap();
    let requests = (0..6).map(|_| async {
        let response = http.send(get(&peer.url())).await.unwrap();
        text(response).await
    });
    let all = futures_util::future::join_all(requests);
    tokio::pin!(all);
    // Two requests get as far as the gate; the others have no connection.
    let waiting = async {
        while peer.requests().len() < 2 {
            tokio::task::yield_now().await;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    tokio::select! {
        _ = &mut all => panic!("the gate is shut"),
        () = waiting => {}
    }
    assert_eq!((peer.connections(), peer.requests().len()), (2, 2));
    gate.open();
    assert_eq!(all.await, ["ok"; 6]);
    assert_eq!(peer.connections(), 2);
}

#[tokio::test]
async fn redirects_are_an_answer_unless_asked_to_follow() {
    let other = Peer::start(Script::new().always("/x", Reply::new(200, "text/plain", "there"))).await;
    let script = Script::new()
        .always("/a", Reply::redirect(302, "/b"))
        .always("/b", Reply::redirect(308, &format!("{}/x", other.url())))
        .always("/loop", Reply::redirect(302, "/loop"))
        .always("/nowhere", Reply::empty(301));
    let peer = Peer::start(script).await;
    let (http, url) = (http(), peer.url());
    assert_eq!(http.send(get(&format!("{url}/a"))).await.unwrap().status(), 302);

    let mut request = get(&format!("{url}/a"));
    // The name of the header is harmless, but the caller has marked its value as a secret.
    let mut secret = http::HeaderValue::from_static("hunter2");
    secret.set_sensitive(true);
    request.headers_mut().insert("user-agent", secret);
    let response = http.send_following(request).await.unwrap();
    assert_eq!(text(response).await, "there");
    assert_eq!(other.request(0).await.header("user-agent"), None);
    assert_eq!(peer.request_to("/b", 0).await.header("authorization"), Some("Bearer hunter2"));
    assert_eq!(other.request(0).await.header("authorization"), None);

    for (path, reason) in [("/loop", "too many in a row"), ("/nowhere", "301 without a usable Location")] {
        let error = http.send_following(get(&format!("{url}{path}?ticket=hunter2"))).await.unwrap_err();
        assert!(matches!(error, Error::Redirect { .. }));
        assert!(error.to_string().ends_with(reason), "{error}");
        assert!(!format!("{error} {error:?}").contains("hunter2"));
    }
    let post = Request::post(format!("{url}/a")).body(Full::default()).unwrap();
    assert_eq!(http.send_following(post).await.unwrap().status(), 302, "only GET and HEAD");
}

#[tokio::test]
async fn errors_say_who_and_why_but_no_secret() {
    let closed = ReservedPort::reserve();
    let gone = closed.url();
    let garbage = Peer::start(Script::new().always("/", Reply::raw().send("garbage\r\n\r\n").cut())).await;
    let http = http();
    let refused = http.send(get(&format!("{gone}/p?ticket=hunter2"))).await.unwrap_err();
    assert!(matches!(refused, Error::Connect { .. }) && refused.is_retryable(), "{refused:?}");
    let address = gone.trim_start_matches("http://");
    let why = format!("cannot connect to {gone}/p: {address}: Connection refused (os error 111)");
    assert_eq!(refused.line(), why, "nothing but what happened, and to whom");
    let broken = http.send(get(&format!("{}/?ticket=hunter2", garbage.url()))).await.unwrap_err();
    assert!(matches!(broken, Error::Exchange { .. }) && broken.is_retryable(), "{broken:?}");
    assert!(broken.line().ends_with(" failed: invalid HTTP version parsed"), "{}", broken.line());
    let relative = http.send(get("/p?ticket=hunter2")).await.unwrap_err();
    assert!(matches!(relative, Error::Url { .. }) && !relative.is_retryable(), "{relative:?}");
    for error in [refused, broken, relative] {
        let shown = format!("{error} {error:?} {}", error.line());
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}

#[tokio::test]
async fn every_address_of_a_host_is_tried() {
    let peer = Peer::start(Script::new().always("/", Reply::new(200, "text/plain", "here"))).await;
    let port = peer.addr().port();
    let ask = async |addresses: &[&str]| {
        let addresses = addresses.iter().map(|address| address.parse::<std::net::IpAddr>().unwrap());
        let http = HttpClient::builder().no_proxy().resolve("Relay.test", addresses).build().unwrap();
        let request = http::Request::get(format!("http://relay.test:{port}/")).body(Full::default()).unwrap();
        within("an answer", http.send(request)).await.map_err(|error| error.line())
    };
    // The other addresses refuse connections, and there may be no IPv6 at all.
    for addresses in [&["127.0.0.1"][..], &["::1", "127.0.0.1"], &["127.0.0.2", "::1", "127.0.0.1"]] {
        assert_eq!(ask(addresses).await.unwrap().status(), 200, "{addresses:?}");
    }
    let line = ask(&["127.0.0.2", "127.0.0.3"]).await.unwrap_err();
    assert!(line.starts_with(&format!("cannot connect to http://relay.test:{port}/: ")), "{line}");
    assert!(line.contains(&format!("127.0.0.2:{port}: ")) && line.contains("refused"), "{line}");
    assert!(ask(&[]).await.unwrap_err().contains("the host has no address"));
    let requests = peer.request(2).await;
    assert_eq!(requests.header("host"), Some(&*format!("relay.test:{port}")));
}
