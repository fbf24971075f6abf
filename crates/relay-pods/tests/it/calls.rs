//! Single requests, with a plain HTTP mock.

use futures_util::TryStreamExt;
use relay_pods::{
    Blame, Client, ClientFactory, Error, EventHash, EventType, EventsQuery, Filter, HttpClient, Order,
    TokenSource,
};
use relay_proto::error::chain;
use relay_testkit::{Peer, Reply, Script};
use serde_json::{Value, json};
use wiremock::matchers::{header, headers, method, path, query_param, query_param_is_missing};
use wiremock::{Mock, MockServer, ResponseTemplate};

const LIST: &str = "{\"count\":1,\"hash\":\"h\",\"sequence\":4,\"epoch\":\"e\"}\n{\"namespace\":\"prod\",\"name\":\"web-1\"}\n{\"end\":true,\"count\":1}\n";

fn ndjson(body: &str) -> ResponseTemplate {
    ResponseTemplate::new(200).set_body_raw(body, "application/x-ndjson")
}

fn problem(status: u16, code: &str) -> ResponseTemplate {
    let body =
        json!({"type": format!("urn:relay:problem:{code}"), "status": status, "code": code, "detail": "why"});
    ResponseTemplate::new(status).set_body_raw(body.to_string(), "application/problem+json")
}

fn hash(text: &str) -> Option<EventHash> {
    Some(EventHash::new(text).unwrap())
}

#[tokio::test]
async fn lists_ask_for_lines_and_send_the_filter() {
    let server = MockServer::start().await;
    Mock::given(method("GET"))
        .and(path("/prefix/pods"))
        .and(query_param("namespace", "prod"))
        .and(query_param("label", "app=web"))
        .and(query_param("at_least", "h3"))
        .and(headers("accept", vec!["application/x-ndjson", "application/json;q=0.9"]))
        .respond_with(ndjson(LIST))
        .expect(1)
        .mount(&server)
        .await;
    let filter = Filter::new().namespace("prod").unwrap().label("app=web").unwrap();
    let client = super::client(&format!("{}/prefix", server.uri()));
    let list = client.pods_at_least(&filter, hash("h3").as_ref()).await.unwrap();
    assert_eq!((list.pods.len(), list.sequence), (1, Some(4)));
}

#[tokio::test]
async fn a_pod_that_is_not_there_is_none_and_one_that_is_refused_an_error() {
    let server = MockServer::start().await;
    let pod = json!({"metadata": {"namespace": "prod", "name": "web-1"}});
    Mock::given(path("/pods/prod/web-1"))
        .respond_with(ResponseTemplate::new(200).set_body_json(pod))
        .mount(&server)
        .await;
    Mock::given(path("/pods/prod/gone")).respond_with(problem(404, "not-found")).mount(&server).await;
    Mock::given(path("/pods/kube-system/x"))
        .respond_with(problem(403, "forbidden-namespace"))
        .mount(&server)
        .await;
    let client = super::client(&server.uri());
    assert_eq!(client.pod("prod", "web-1").await.unwrap().unwrap().name(), "web-1");
    assert!(client.pod("prod", "gone").await.unwrap().is_none());
    let error = client.pod("kube-system", "x").await.unwrap_err();
    assert_eq!((error.status(), error.blame(), error.is_retryable()), (Some(403), Blame::Caller, false));
    assert!(error.to_string().contains("forbidden-namespace"), "{error}");
}

#[tokio::test]
async fn the_base_url_is_kept_and_names_are_encoded_into_the_path() {
    // This peer checks the bytes, because the mock decodes paths.
    let target = "/api/v1/services/http:relay:80/proxy/a%2Fb/pods/a%2Fb/%2E%2E";
    let peer = Peer::start(Script::new().always(target, Reply::empty(404))).await;
    let base = format!("{}/api/v1/services/http:relay:80/proxy/a%2Fb", peer.url());
    for slash in ["", "/"] {
        assert!(super::client(&format!("{base}{slash}")).pod("a/b", "..").await.unwrap().is_none());
    }
    for n in [0, 1] {
        assert_eq!(peer.request(n).await.target(), target);
    }
}

fn event(sequence: u64) -> Value {
    json!({"type": "ADDED", "hash": format!("h{sequence}"), "sequence": sequence, "pod": {"namespace": "a", "name": "b"}})
}

#[tokio::test]
async fn history_is_paged_to_its_end() {
    let server = MockServer::start().await;
    let page = |events: Vec<Value>, next: Option<&str>| {
        ResponseTemplate::new(200).set_body_json(json!({"events": events, "next_hash": next}))
    };
    Mock::given(path("/events"))
        .and(query_param_is_missing("since_hash"))
        .and(query_param("limit", "2"))
        .and(query_param("type", "ADDED"))
        .and(query_param_is_missing("order"))
        .respond_with(page(vec![event(1), event(2)], Some("h2")))
        .expect(1)
        .mount(&server)
        .await;
    Mock::given(path("/events"))
        .and(query_param("since_hash", "h2"))
        .respond_with(page(vec![event(3)], None))
        .expect(1)
        .mount(&server)
        .await;
    Mock::given(path("/pods/a/b/events"))
        .and(query_param("order", "newest"))
        .and(query_param("before_hash", "h9"))
        .respond_with(page(vec![event(8)], None))
        .expect(1)
        .mount(&server)
        .await;
    let client = super::client(&server.uri());
    let query = EventsQuery::new().limit(Some(2)).types(vec![EventType::Added]);
    let all: Vec<_> = client.all_events(query).map_ok(|e| e.sequence.unwrap()).try_collect().await.unwrap();
    assert_eq!(all, [1, 2, 3]);
    let newest = EventsQuery::new().order(Order::Newest).before(hash("h9"));
    let page = client.pod_events("a", "b", &newest).await.unwrap();
    assert_eq!((page.events.len(), page.next_hash), (1, None));
}

#[tokio::test]
async fn tokens_travel_in_the_header_that_is_theirs() {
    let server = MockServer::start().await;
    let ticket =
        ResponseTemplate::new(201).set_body_json(json!({"session_id": "ticket", "expires_in_seconds": 30}));
    Mock::given(method("POST"))
        .and(path("/auth/session"))
        .and(header("authorization", "Bearer inner"))
        .and(query_param("client_id", "me"))
        .respond_with(ticket.clone())
        .expect(1)
        .mount(&server)
        .await;
    Mock::given(method("POST"))
        .and(path("/proxied/auth/session"))
        .and(header("authorization", "Bearer outer"))
        .and(header("x-relay-token", "inner"))
        .respond_with(ticket)
        .expect(1)
        .mount(&server)
        .await;
    let plain = Client::builder(server.uri()).token("inner").client_id("me").build().unwrap();
    assert_eq!(plain.create_session().await.unwrap().session_id, "ticket");
    let outer = TokenSource::fixed("outer");
    let proxied = format!("{}/proxied", server.uri());
    let proxied = Client::builder(proxied).token("inner").outer_token_source(outer).build().unwrap();
    proxied.create_session().await.unwrap();

    // One proxy uses another scheme, and one needs no header.
    for (base, authorization) in [("/basic", Some("Basic dTpw")), ("/certificate", None)] {
        Mock::given(method("POST"))
            .and(path(format!("{base}/auth/session")))
            .and(header("x-relay-token", "inner"))
            .and(move |request: &wiremock::Request| {
                request.headers.get("authorization").map(|value| value.to_str().unwrap()) == authorization
            })
            .respond_with(ResponseTemplate::new(201).set_body_json(json!({"session_id": "t"})))
            .expect(1)
            .mount(&server)
            .await;
        let builder = Client::builder(format!("{}{base}", server.uri())).token("inner").behind_proxy();
        let builder = match authorization {
            Some(text) => builder.outer_authorization_source(TokenSource::fixed(text)),
            None => builder,
        };
        builder.build().unwrap().create_session().await.unwrap();
    }
}

#[tokio::test]
async fn a_token_file_is_read_again_when_it_changes() {
    let server = MockServer::start().await;
    for token in ["first", "second-token"] {
        let wanted = format!("Bearer {token}");
        let matched = Mock::given(path("/pods")).and(header("authorization", wanted.as_str()));
        matched.respond_with(ndjson(LIST)).expect(1).mount(&server).await;
    }
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    let client = Client::builder(server.uri()).token_file(&file).build().unwrap();
    assert!(matches!(client.pods(&Filter::new()).await, Err(Error::Credential { .. })), "no file yet");
    for token in ["first\n", "second-token\n"] {
        std::fs::write(&file, token).unwrap();
        client.pods(&Filter::new()).await.unwrap();
    }
}

#[tokio::test]
async fn health_is_a_document_with_either_status() {
    let server = MockServer::start().await;
    let up = Mock::given(path("/up/health"))
        .respond_with(ResponseTemplate::new(200).set_body_json(json!({"status": "ok"})));
    let down = json!({"status": "degraded", "subscribers": 3});
    let down = Mock::given(path("/down/health")).respond_with(ResponseTemplate::new(503).set_body_json(down));
    let odd = Mock::given(path("/odd/health")).respond_with(ResponseTemplate::new(500));
    let page = ResponseTemplate::new(200).set_body_raw("<html>", "text/html");
    let page = Mock::given(path("/page/health")).respond_with(page);
    for mock in [up, down, odd, page] {
        mock.mount(&server).await;
    }
    let at = |prefix: &str| super::client(&format!("{}/{prefix}", server.uri()));
    assert!(at("up").is_healthy().await);
    let (healthy, health) = at("down").health().await.unwrap();
    assert_eq!((healthy, health.status.as_deref(), health.subscribers), (false, Some("degraded"), Some(3)));
    assert!(!at("odd").is_healthy().await && !at("page").is_healthy().await);
    assert_eq!(at("odd").health().await.unwrap_err().status(), Some(500));
    assert!(!super::client("http://127.0.0.1:1").is_healthy().await);
}

#[tokio::test]
async fn a_list_that_cannot_be_trusted_is_an_error_and_never_short() {
    let server = MockServer::start().await;
    let cut = LIST.rsplit_once("{\"end\"").unwrap().0.to_owned();
    for (at, answer, why) in [
        ("/cut", ndjson(&cut), "ended early, after 1"),
        ("/malformed", ndjson(&LIST.replace("\"name\":\"web-1\"", "\"name\":")), "line 2"),
        (
            "/json",
            ResponseTemplate::new(200).set_body_raw("{\"pods\":[{\"namespace\":\"a\"", "application/json"),
            "EOF",
        ),
        ("/html", ResponseTemplate::new(200).set_body_raw("<html>", "text/html"), "an HTML page"),
    ] {
        Mock::given(path(format!("{at}/pods"))).respond_with(answer).mount(&server).await;
        let error = super::client(&format!("{}{at}", server.uri())).pods(&Filter::new()).await.unwrap_err();
        assert!(chain(&error).to_string().contains(why), "{at}: {error}");
        assert!(error.is_retryable(), "{at}: a list that ends early is like a relay that is down");
        assert_eq!(error.blame(), Blame::Relay);
    }
}

#[tokio::test]
async fn errors_say_who_is_to_blame_and_whether_a_retry_helps() {
    let server = MockServer::start().await;
    let rows = [
        (401, "unauthenticated", Blame::Caller, false),
        (404, "not-found", Blame::Caller, false),
        (410, "cursor-expired", Blame::Caller, false),
        (429, "too-many-streams", Blame::Relay, true),
        (500, "oops", Blame::Relay, true),
        (501, "storage-disabled", Blame::Relay, false),
        (503, "not-ready", Blame::Relay, true),
    ];
    for (status, code, blame, retryable) in rows {
        let answer = problem(status, code).insert_header("retry-after", "7");
        Mock::given(path(format!("/{status}/events"))).respond_with(answer).mount(&server).await;
        let client = super::client(&format!("{}/{status}", server.uri()));
        let error = client.events(&EventsQuery::new()).await.unwrap_err();
        assert_eq!(
            (error.status(), error.blame(), error.is_retryable()),
            (Some(status), blame, retryable),
            "{error}"
        );
        assert_eq!(error.retry_after().map(|d| d.as_secs()), Some(7));
        assert!(error.to_string().contains(code) && error.to_string().contains("/events"), "{error}");
    }
    let refused = super::client("http://127.0.0.1:1").pods(&Filter::new()).await.unwrap_err();
    assert_eq!((refused.blame(), refused.is_retryable()), (Blame::Transport, true), "{refused}");
}

#[tokio::test]
async fn secrets_do_not_print() {
    let refused = Client::builder("http://user:pa55word@127.0.0.1:1/x").build().unwrap_err();
    let client = Client::builder("http://127.0.0.1:1/x").token("t0ken").build().unwrap();
    let error = client.create_session().await.unwrap_err();
    let shown = format!("{refused} {refused:?} {client:?} {error} {error:?}");
    assert!(!shown.contains("t0ken") && !shown.contains("pa55word"), "{shown}");
}

#[test]
fn what_the_caller_got_wrong_is_told_at_once() {
    for (url, client_id) in
        [("not a url", "ok"), ("ftp://x", "ok"), ("http://ok", "a\r\nb"), ("http://ok", "")]
    {
        let error = Client::builder(url).client_id(client_id).build().unwrap_err();
        assert!(matches!(error, Error::Usage { .. }), "{url} {client_id}: {error}");
    }
    let long = "x".repeat(129);
    assert!(Client::builder("http://ok").client_id(long).build().is_err());
}

#[tokio::test]
async fn a_token_with_a_line_break_is_refused_before_it_is_sent() {
    let server = MockServer::start().await;
    let client = Client::builder(server.uri()).token("a\r\nX-Evil: 1").build().unwrap();
    let error = client.pods(&Filter::new()).await.unwrap_err();
    assert_eq!(error.blame(), Blame::Caller);
    assert!(!error.to_string().contains("Evil"), "{error}");
    assert!(server.received_requests().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_factory_shares_one_pool_among_relays() {
    let server = MockServer::start().await;
    let matched = Mock::given(path("/b/pods")).and(header("authorization", "Bearer t"));
    matched.respond_with(ndjson(LIST)).expect(1).mount(&server).await;
    Mock::given(path("/a/pods")).respond_with(ndjson(LIST)).expect(1).mount(&server).await;
    let factory = ClientFactory::new(HttpClient::builder().build().unwrap());
    for (prefix, token) in [("a", None), ("b", Some("t"))] {
        let client = factory.create(&format!("{}/{prefix}", server.uri()), token).unwrap();
        client.pods(&Filter::new()).await.unwrap();
    }
}
