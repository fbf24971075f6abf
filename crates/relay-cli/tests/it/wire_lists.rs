//! The server on the wire: lists, history, parameters, problems, limits of requests.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::process::{Server, fields, key};
use super::wire::{
    Answer, Connection, encode, eventually, get, get_with, head, history, request, until_head,
};

fn cut(text: &str) -> String {
    text.chars().take(300).collect()
}

#[test]
fn a_list_says_what_it_reflects() {
    let server = Server::quiet(7);
    let answer = get(server.addr, "/pods");
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let list = answer.ok();
    assert_eq!(fields(&list), ["as_of", "epoch", "hash", "pods", "sequence"]);
    let health = get(server.addr, "/health").ok();
    assert_eq!(list["sequence"], 7);
    assert_eq!(list["hash"], health["head"]["hash"]);
    assert_eq!(list["epoch"], health["epoch"]);
    let hash = list["hash"].as_str().unwrap();
    assert!(hash.len() <= 256 && hash.bytes().all(|byte| byte.is_ascii_graphic()), "{hash}");

    let answer = get_with(server.addr, "/pods", &[("accept", "application/x-ndjson")]);
    assert_eq!(answer.header("content-type"), Some("application/x-ndjson"));
    let lines: Vec<Value> = answer.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(fields(&lines[0]), ["as_of", "count", "epoch", "hash", "sequence"]);
    assert_eq!(lines[0]["count"], 7);
    assert_eq!(lines[0]["hash"], list["hash"]);
    assert_eq!(lines[1..8], list["pods"].as_array().unwrap()[..]);
    assert_eq!(lines[8..], [json!({"end": true, "count": 7})]);

    let (namespace, name) = key(&lines[1]);
    assert_eq!(get(server.addr, &format!("/pods/{namespace}/{name}")).ok(), lines[1], "the bare object");
    get(server.addr, "/pods/prod/no-such-pod").problem(404, "not-found");
}

#[test]
fn an_empty_log_has_a_position_too() {
    let server = Server::quiet(0);
    let list = get(server.addr, "/pods").ok();
    assert_eq!((&list["pods"], &list["sequence"]), (&json!([]), &json!(0)));
    assert!(list["hash"].as_str().is_some_and(|hash| !hash.is_empty()), "its epoch's genesis");
    let health = get(server.addr, "/health").ok();
    assert_eq!(health["store"]["oldest_hash"], Value::Null);
    let page =
        get(server.addr, &format!("/events?since_hash={}", encode(list["hash"].as_str().unwrap()))).ok();
    assert_eq!(page, json!({"events": [], "next_hash": null}));
}

#[test]
fn at_least_is_answered_at_once_for_what_is_there_or_strange() {
    let server = Server::quiet(5);
    let list = get(server.addr, "/pods").ok();
    let first = get(server.addr, "/events?limit=1").ok()["next_hash"].clone();
    let foreign = Server::quiet(5);
    let other = get(foreign.addr, "/pods").ok()["hash"].clone();
    for hash in [&list["hash"], &first, &other, &json!("not-ours-at-all"), &json!("")] {
        let answer = get(server.addr, &format!("/pods?at_least={}", encode(hash.as_str().unwrap()))).ok();
        assert_eq!(answer["sequence"], 5, "{hash}");
        assert_eq!(answer["pods"], list["pods"], "{hash}");
    }
}

#[test]
fn filters_or_over_namespaces_and_over_labels() {
    let server = Server::quiet(60);
    let all = get(server.addr, "/pods").ok()["pods"].as_array().unwrap().clone();
    let other = all.iter().find(|pod| pod["namespace"] != "prod").unwrap()["namespace"].as_str().unwrap();
    let app = all[0]["labels"]["app"].as_str().unwrap();
    let in_app = |pod: &&Value| pod["labels"]["app"] == app;
    let in_two = |pod: &&Value| pod["namespace"] == "prod" || pod["namespace"] == other;
    let count =
        |query: &str| get(server.addr, &format!("/pods?{query}")).ok()["pods"].as_array().unwrap().len();
    assert_eq!(count("namespace="), 60, "no value, no filter");
    assert_eq!(count("label="), 60);
    assert_eq!(count("label=app"), 60, "present");
    assert_eq!(count("label=no.such%2Flabel"), 0);
    assert_eq!(count(&format!("label=app%3D{app}")), all.iter().filter(in_app).count());
    assert_eq!(count(&format!("namespace=prod&namespace={other}")), all.iter().filter(in_two).count());
    assert_eq!(
        count(&format!("namespace=prod&namespace={other}&label=app%3D{app}&label=app&unknown=1")),
        all.iter().filter(in_app).filter(in_two).count()
    );
    assert_eq!(count(&format!("label=app%3D{app}&label=app%3Dno-other-value")), 0, "all must match");
}

#[test]
fn parameters_are_checked_and_named() {
    let server = Server::quiet(3);
    for (target, parameter) in [
        ("/pods?namespace=Prod", "namespace"),
        ("/pods?namespace=-a", "namespace"),
        ("/pods?namespace=prod&namespace=a_b", "namespace"),
        ("/pods?label=%3Dv", "label"),
        ("/pods?label=app%3Da%20b", "label"),
        ("/pods?label=a%2Fb%2Fc", "label"),
        ("/pods?label=app%00", "label"),
        ("/pods?at_least=a&at_least=b", "at_least"),
        ("/events?limit=0", "limit"),
        ("/events?limit=1001", "limit"),
        ("/events?limit=many", "limit"),
        ("/events?limit=", "limit"),
        ("/events?limit=1&limit=2", "limit"),
        ("/events?order=sideways", "order"),
        ("/events?order=", "order"),
        ("/events?order=newest&order=oldest", "order"),
        ("/events?type=VANISHED", "type"),
        ("/events?type=", "type"),
        ("/events?since_hash=a&since_hash=b", "since_hash"),
        ("/events?namespace=UPPER", "namespace"),
        ("/events/stream?start=earliest", "start"),
        ("/events/stream?start=latest&start=latest", "start"),
        ("/events/stream?label=!", "label"),
        ("/events/stream?namespace=..", "namespace"),
        ("/events/stream?client_id=two%20words", "client_id"),
        ("/events/stream?client_id=a%0D%0Ax-evil:%201", "client_id"),
        ("/events/stream?session_id=a&session_id=b", "session_id"),
        ("/pods/prod/web/events?limit=x", "limit"),
    ] {
        let answer = get(server.addr, target);
        let detail = answer.problem(400, "bad-parameter");
        assert!(detail.contains(parameter), "{target}: {detail}");
        assert!(answer.headers.iter().all(|(name, _)| name != "x-evil"));
    }
    let detail =
        get(server.addr, &format!("/pods?namespace={}", "A".repeat(5000))).problem(400, "bad-parameter");
    assert!(detail.len() < 1000, "the value is cut: {}", cut(&detail));
    let detail = get(server.addr, "/events?limit=1001").problem(400, "bad-parameter");
    assert!(detail.contains("1001") && detail.contains("1000"), "value and rule: {detail}");
    let long = format!("/events/stream?client_id={}", "x".repeat(129));
    assert!(get(server.addr, &long).problem(400, "bad-parameter").contains("client_id"));
}

#[test]
fn methods_and_paths() {
    let server = Server::quiet(2);
    for path in ["/health", "/livez", "/readyz", "/metrics", "/pods", "/events"] {
        let got = get(server.addr, path);
        assert_eq!(got.status, 200, "{path}");
        let head = request(server.addr, "HEAD", path, &[], "");
        assert_eq!((head.status, head.body.len()), (200, 0), "{path}");
        assert_eq!(head.header("content-type"), got.header("content-type"), "{path}");
        let refused = request(server.addr, "POST", path, &[], "{}");
        refused.problem(405, "method-not-allowed");
        let allow = refused.header("allow").unwrap();
        assert!(allow.contains("GET") && allow.contains("HEAD"), "{path}: {allow}");
    }
    for (method, path, allowed) in [
        ("HEAD", "/events/stream", "GET"),
        ("DELETE", "/events/stream", "GET"),
        ("GET", "/auth/session", "POST"),
        ("PUT", "/pods/prod/web", "GET"),
    ] {
        let refused = request(server.addr, method, path, &[], "");
        assert_eq!(refused.status, 405, "{method} {path}");
        assert!(refused.header("allow").is_some_and(|allow| allow.contains(allowed)), "{method} {path}");
    }
    for path in ["/nothing", "/pods/prod", "/pods/prod/web/more", "/Pods", "/events/streams"] {
        get(server.addr, path).problem(404, "not-found");
    }
    let metrics = get(server.addr, "/metrics");
    assert!(metrics.header("content-type").is_some_and(|kind| kind.starts_with("text/plain")));
    assert!(metrics.text().lines().any(|line| line.starts_with("# TYPE ")), "{}", cut(metrics.text()));
}

#[test]
fn requests_have_limits() {
    let server = Server::quiet(2);
    let long = "x".repeat(70 * 1024);
    for text in [
        head("GET", &format!("/pods?unknown={long}"), &[], ""),
        head("GET", "/pods", &[("x-long", &long)], ""),
    ] {
        let mut connection = Connection::open(server.addr);
        connection.try_send(text.as_bytes());
        let answer = connection.answer(false);
        assert_eq!(answer.status, 431, "{}", cut(answer.text()));
        if answer.header("content-type") == Some("application/problem+json") {
            answer.problem(431, "head-too-large");
        }
    }
    let body = format!("{{\"token\":\"{}\"}}", "x".repeat(70 * 1024));
    let mut connection = Connection::open(server.addr);
    connection
        .try_send(head("POST", "/auth/session", &[("content-type", "application/json")], &body).as_bytes());
    connection.answer(false).problem(413, "body-too-large");
    connection.until_end();

    // The server does not wait for a body that is too large and was only announced.
    let mut connection = Connection::open(server.addr);
    connection.send(b"POST /auth/session HTTP/1.1\r\nhost: relay\r\ncontent-length: 10000000\r\n\r\n");
    let answer = connection.answer(false);
    assert_eq!(answer.status, 413, "{}", cut(answer.text()));

    // Bytes that are not HTTP do not stop the server.
    let mut connection = Connection::open(server.addr);
    connection.try_send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 no http\r\n\r\n");
    connection.until_end();
    assert_eq!(get(server.addr, "/health").status, 200);
}

#[test]
fn a_head_that_takes_too_long_is_cut() {
    let server = Server::quiet(2);
    let start = Instant::now();
    let mut connection = Connection::open(server.addr);
    connection.send(b"GET /pods HTTP/1.1\r\nhost: rel");
    connection.until_end();
    let waited = start.elapsed();
    assert!((Duration::from_secs(8)..Duration::from_secs(25)).contains(&waited), "10 s, not {waited:?}");
}

#[test]
fn a_connection_is_kept_for_more_requests() {
    let server = Server::quiet(2);
    let mut connection = Connection::open(server.addr);
    for _ in 0..3 {
        connection.send(b"GET /pods HTTP/1.1\r\nhost: relay\r\n\r\n");
        assert_eq!(connection.answer(false).ok()["sequence"], 2);
    }
    // Pipelined.
    connection.send(b"GET /health HTTP/1.1\r\nhost: relay\r\n\r\nGET /livez HTTP/1.1\r\nhost: relay\r\nconnection: close\r\n\r\n");
    assert_eq!(connection.answer(false).status, 200);
    assert_eq!(connection.answer(false).status, 200);
    connection.until_end();
}

fn page(answer: &Answer) -> (Vec<u64>, Option<String>) {
    let page = answer.ok();
    assert_eq!(fields(&page), ["events", "next_hash"]);
    let events = page["events"].as_array().unwrap();
    (
        events.iter().map(|event| event["sequence"].as_u64().unwrap()).collect(),
        page["next_hash"].as_str().map(str::to_owned),
    )
}

#[test]
fn history_pages_forward_and_backward() {
    let server = Server::quiet(25);
    let log = history(server.addr);
    assert_eq!(log.len(), 25);
    for pair in log.windows(2) {
        assert_eq!(pair[1]["previous_hash"], pair[0]["hash"], "a chain");
    }
    for event in &log {
        assert_eq!(event["synthetic"], true, "the first list");
        assert_eq!(event["type"], "ADDED");
    }

    let (mut target, mut seen, mut pages) = ("/events?limit=10".to_owned(), Vec::new(), 0);
    loop {
        let (events, next) = page(&get(server.addr, &target));
        seen.extend(events);
        pages += 1;
        let Some(next) = next else { break };
        target = format!("/events?limit=10&since_hash={}", encode(&next));
    }
    assert_eq!((seen, pages), ((1..=25).collect(), 3), "null when no further event matches");

    let (mut target, mut seen) = ("/events?limit=10&order=newest".to_owned(), Vec::new());
    loop {
        let (events, next) = page(&get(server.addr, &target));
        seen.extend(events);
        let Some(next) = next else { break };
        target = format!("/events?limit=10&order=newest&before_hash={}", encode(&next));
    }
    assert_eq!(seen, (1..=25).rev().collect::<Vec<_>>());

    assert_eq!(page(&get(server.addr, "/events")).0.len(), 25, "100 by default");
    let narrowed = get(server.addr, "/events?type=ADDED&limit=3").ok();
    assert!(narrowed["events"][1].get("previous_hash").is_none(), "a narrowed page is no chain");
    assert_eq!(get(server.addr, "/events?type=DELETED").ok(), json!({"events": [], "next_hash": null}));
    assert_eq!(
        get(server.addr, "/events?type=DELETED&type=ADDED").ok()["events"].as_array().unwrap().len(),
        25
    );
    let (namespace, name) = key(&log[4]["pod"]);
    let one = get(server.addr, &format!("/pods/{namespace}/{name}/events")).ok();
    assert_eq!(one["events"].as_array().unwrap().len(), 1);
    assert_eq!(one["events"][0]["hash"], log[4]["hash"]);
    assert_eq!(
        get(server.addr, "/pods/prod/never-seen/events").ok(),
        json!({"events": [], "next_hash": null})
    );
}

#[test]
fn history_that_is_gone_is_410() {
    let server = Server::start(&["--sim-rate", "500", "--sim-pods", "10", "--retain-events", "50"]);
    let first = get(server.addr, "/events?limit=1").ok()["next_hash"].as_str().unwrap().to_owned();
    until_head(server.addr, 200);
    let gone = eventually("the first event to expire", || {
        let answer = get(server.addr, &format!("/events?since_hash={}", encode(&first)));
        (answer.status == 410).then_some(answer)
    });
    gone.problem(410, "cursor-expired");
    assert!(gone.json()["oldest_hash"].is_string(), "{}", gone.text());
    let unknown = get(server.addr, "/events?since_hash=not-ours");
    unknown.problem(410, "cursor-unknown");
    assert!(unknown.json()["oldest_hash"].is_string(), "{}", unknown.text());
    let foreign = Server::quiet(2);
    let theirs = get(foreign.addr, "/pods").ok()["hash"].as_str().unwrap().to_owned();
    get(server.addr, &format!("/events?since_hash={}", encode(&theirs))).problem(410, "cursor-unknown");
    let store = get(server.addr, "/health").ok()["store"].clone();
    assert!(store["events"].as_u64().unwrap() <= 50, "{store}");
}

#[test]
fn a_deleted_pod_keeps_its_history() {
    let server = Server::start(&["--sim-rate", "500", "--sim-pods", "20"]);
    let deleted = eventually("a deletion", || {
        let page = get(server.addr, "/events?type=DELETED&limit=1").ok();
        page["events"].as_array().unwrap().first().cloned()
    });
    let (namespace, name) = key(&deleted["pod"]);
    let own = get(server.addr, &format!("/pods/{namespace}/{name}/events")).ok();
    let own = own["events"].as_array().unwrap();
    assert!(own.len() >= 2 && own[0]["type"] == "ADDED");
    assert!(own.iter().any(|event| event["hash"] == deleted["hash"]));
    assert!(own.iter().all(|event| key(&event["pod"]) == (namespace.clone(), name.clone())));
}
