//! Credentials, rights and tickets.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use relay_pods_server::{Config, DEFAULT_RETENTION, Server};
use serde_json::json;

use crate::raw::{Answer, End, Rig, parse, pod};

const TOKENS: &str = "alpha ops *\nbeta ci prod\ngamma dev dev,test\n";

fn write_tokens(path: &Path, text: &str) {
    // Like an operator, moves a new file over the old one, so that it is never read half-written.
    let new = path.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::rename(&new, path).unwrap();
}

/// A server with tokens and a pod in each of three namespaces.
async fn guarded(adjust: impl FnOnce(Config) -> Config) -> (Rig, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    write_tokens(&dir.path().join("tokens"), TOKENS);
    let config = adjust(Config::default().tokens_file(Some(dir.path().join("tokens"))));
    let rig = Rig::with_retention(config, DEFAULT_RETENTION).await;
    for namespace in ["dev", "prod", "test"] {
        rig.publisher.upsert(pod(namespace, "web", 1, &["app=web"])).await.unwrap();
    }
    (rig, dir)
}

async fn get_as(rig: &Rig, target: &str, token: &str) -> Answer {
    rig.ask(&format!("GET {target} HTTP/1.1\r\nhost: r\r\nx-relay-token: {token}\r\n\r\n")).await
}

async fn mint(rig: &Rig, query: &str, fields: &str, body: &str) -> Answer {
    let length = body.len();
    rig.ask(&format!(
        "POST /auth/session{query} HTTP/1.1\r\nhost: r\r\n{fields}content-length: {length}\r\n\r\n{body}"
    ))
    .await
}

async fn ticket(rig: &Rig, query: &str, token: &str) -> String {
    let answer = mint(rig, query, &format!("x-relay-token: {token}\r\n"), "").await;
    assert_eq!(answer.status(), 201, "{answer:?}");
    answer.json()["session_id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn only_health_probes_and_metrics_are_open() {
    let (rig, _dir) = guarded(|config| config).await;
    for open in ["/health", "/livez", "/readyz", "/metrics"] {
        assert_eq!(rig.get(open).await.status(), 200, "{open}");
    }
    for closed in
        ["/pods", "/pods/prod/web", "/events", "/pods/prod/web/events", "/events/stream", "/pods?namespace=A"]
    {
        for fields in [
            "",
            "authorization: Basic YTpi\r\n",
            "x-relay-token: wrong\r\n",
            "authorization: Bearer beta2\r\n",
        ] {
            let answer = rig.ask(&format!("GET {closed} HTTP/1.1\r\nhost: r\r\n{fields}\r\n")).await;
            assert_eq!(
                (answer.status(), answer.field("www-authenticate")),
                (401, Some("Bearer")),
                "{closed} {fields}"
            );
            answer.problem("unauthenticated");
        }
    }
    for fields in [
        "x-relay-token: alpha\r\n",
        "authorization: Bearer alpha\r\n",
        "x-relay-token: alpha\r\nauthorization: Bearer of-the-proxy\r\n",
    ] {
        assert_eq!(rig.ask(&format!("GET /pods HTTP/1.1\r\nhost: r\r\n{fields}\r\n")).await.status(), 200);
    }
    let own = "x-relay-token: wrong\r\nauthorization: Bearer alpha\r\n";
    assert_eq!(rig.ask(&format!("GET /pods HTTP/1.1\r\nhost: r\r\n{own}\r\n")).await.status(), 401);
}

#[tokio::test]
async fn a_limited_token_sees_its_namespaces_and_no_other() {
    let (rig, _dir) = guarded(|config| config).await;
    let namespaces = |answer: &Answer, list: &str| {
        let items = answer.json()[list].as_array().unwrap().clone();
        let of = |item: &serde_json::Value| {
            let pod = if list == "pods" { item } else { &item["pod"] };
            pod["namespace"].as_str().unwrap().to_owned()
        };
        items.iter().map(of).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(namespaces(&get_as(&rig, "/pods", "gamma").await, "pods"), "dev test");
    assert_eq!(namespaces(&get_as(&rig, "/pods?namespace=test", "gamma").await, "pods"), "test");
    assert_eq!(namespaces(&get_as(&rig, "/events", "gamma").await, "events"), "dev test");
    assert_eq!(namespaces(&get_as(&rig, "/events", "alpha").await, "events"), "dev prod test");
    assert!(get_as(&rig, "/events", "gamma").await.json()["events"][0].get("previous_hash").is_none());
    assert_eq!(get_as(&rig, "/pods/prod/web", "beta").await.status(), 200);
    for forbidden in [
        "/pods?namespace=prod&namespace=dev",
        "/pods/prod/web",
        "/pods/prod/absent",
        "/events?namespace=prod",
        "/pods/prod/web/events",
        "/events/stream?namespace=prod",
    ] {
        let answer = get_as(&rig, forbidden, "gamma").await;
        assert_eq!(answer.status(), 403, "{forbidden}");
        assert!(answer.problem("forbidden-namespace").contains("prod"));
    }
    let mut stream = rig.stream_with("/events/stream", "x-relay-token: gamma\r\n").await;
    let messages = stream.until("catchup_complete").await;
    assert_eq!(messages[0].1["namespaces"], json!(["dev", "test"]));
    assert_eq!(messages[0].1["filtered"], true);
    assert_eq!(messages.len(), 4);
    assert_eq!((&messages[2].1["sent"], &messages[2].1["sequence"]), (&2.into(), &3.into()));
}

#[tokio::test]
async fn tickets_are_made_by_header_or_body() {
    let (rig, _dir) = guarded(|config| config).await;
    let made =
        mint(&rig, "", "authorization: Bearer alpha\r\ncontent-type: text/plain\r\n", "not { json").await;
    assert_eq!(made.status(), 201, "with a header the body is not looked at: {made:?}");
    let document = made.json();
    assert_eq!(document["expires_at"], "2026-11-21T09:00:30Z");
    assert_eq!(document["expires_in_seconds"], 30);
    assert!(document["session_id"].as_str().unwrap().len() >= 22, "128 bits at least");
    assert_eq!(mint(&rig, "", "", r#"{"token":"beta","client_id":"c"}"#).await.status(), 201);
    for (query, fields, body, status, code) in [
        ("", "", "", 401, "unauthenticated"),
        ("", "", "{}", 401, "unauthenticated"),
        ("", "", r#"{"token":"wrong"}"#, 401, "unauthenticated"),
        ("", "", r#"{"token":null}"#, 401, "unauthenticated"),
        ("", "x-relay-token: wrong\r\n", r#"{"token":"alpha"}"#, 401, "unauthenticated"),
        ("", "", "token=alpha", 400, "bad-parameter"),
        ("", "", r#"["alpha"]"#, 400, "bad-parameter"),
        ("", "", r#"{"token":5}"#, 400, "bad-parameter"),
        ("", "", r#"{"token":"alpha","client_id":"a b"}"#, 400, "bad-parameter"),
        ("", "", r#"{"token":"alpha","client_id":""}"#, 400, "bad-parameter"),
        ("?client_id=a%0Ab", "x-relay-token: alpha\r\n", "", 400, "bad-parameter"),
    ] {
        let answer = mint(&rig, query, fields, body).await;
        assert_eq!(answer.status(), status, "{query} {fields} {body}");
        let detail = answer.problem(code);
        assert!(!detail.contains("alpha"), "{detail}");
        assert_eq!(answer.field("www-authenticate").is_some(), status == 401);
    }
}

#[tokio::test]
async fn a_ticket_opens_one_stream_with_its_rights() {
    let (rig, _dir) = guarded(|config| config).await;
    let id = ticket(&rig, "?client_id=me", "beta").await;
    // Refused requests do not use up the ticket.
    for (query, status, code) in [
        ("&client_id=other", 401, "session-unknown"),
        ("&namespace=dev", 403, "forbidden-namespace"),
        ("&namespace=A", 400, "bad-parameter"),
        ("&start=x", 400, "bad-parameter"),
    ] {
        let answer = rig.get(&format!("/events/stream?session_id={id}{query}")).await;
        assert_eq!(answer.status(), status, "{query}");
        answer.problem(code);
    }
    // The session decides, and not the header.
    let mut stream =
        rig.stream_with(&format!("/events/stream?session_id={id}"), "x-relay-token: wrong\r\n").await;
    let connected = stream.expect("connected").await;
    assert_eq!((&connected["client_id"], &connected["namespaces"]), (&"me".into(), &json!(["prod"])));
    let again = rig.get(&format!("/events/stream?session_id={id}")).await;
    assert_eq!((again.status(), again.field("www-authenticate")), (401, Some("Bearer")));
    again.problem("session-used");

    let late = ticket(&rig, "", "alpha").await;
    rig.clock.advance(Duration::from_secs(30));
    rig.get(&format!("/events/stream?session_id={late}")).await.problem("session-expired");
    rig.get("/events/stream?session_id=never-made").await.problem("session-unknown");
    rig.get("/events/stream?session_id=").await.problem("unauthenticated");
    // A ticket is only valid for streams.
    let id = ticket(&rig, "", "alpha").await;
    rig.get(&format!("/pods?session_id={id}")).await.problem("unauthenticated");
}

#[tokio::test]
async fn of_two_streams_racing_for_a_ticket_one_wins() {
    let (rig, _dir) = guarded(|config| config).await;
    for _ in 0..20 {
        let id = ticket(&rig, "", "alpha").await;
        let request = format!("GET /events/stream?session_id={id} HTTP/1.1\r\nhost: r\r\n\r\n");
        let (mut one, mut two) = (rig.connect().await, rig.connect().await);
        tokio::join!(one.send(request.as_bytes()), two.send(request.as_bytes()));
        let heads = tokio::join!(one.head(), two.head());
        let mut statuses = [&heads.0[9..12], &heads.1[9..12]];
        statuses.sort_unstable();
        assert_eq!(statuses, ["200", "401"]);
    }
}

#[tokio::test]
async fn tickets_work_without_tokens_too() {
    let rig = Rig::start(Config::default().session_ttl(Duration::from_millis(1500))).await;
    let made = mint(&rig, "?client_id=q", "", "").await;
    assert_eq!((made.status(), &made.json()["expires_in_seconds"]), (201, &json!(1.5)));
    let id = made.json()["session_id"].as_str().unwrap().to_owned();
    let mut stream = rig.stream(&format!("/events/stream?session_id={id}")).await;
    assert_eq!(stream.expect("connected").await["client_id"], "q");
    rig.get(&format!("/events/stream?session_id={id}")).await.problem("session-used");
    assert_eq!(mint(&rig, "", "x-relay-token: anything\r\n", "").await.status(), 201);
    assert_eq!(mint(&rig, "", "", "no json").await.status(), 400);
}

#[tokio::test]
async fn streams_beyond_the_limit_are_refused_and_keep_their_ticket() {
    let (rig, _dir) = guarded(|config| config.max_streams(2)).await;
    let token = "x-relay-token: alpha\r\n";
    let mut one = rig.stream_with("/events/stream", token).await;
    let _two = rig.stream_with("/events/stream", token).await;
    let id = ticket(&rig, "", "alpha").await;
    let refused = rig.get(&format!("/events/stream?session_id={id}")).await;
    assert_eq!((refused.status(), refused.field("retry-after")), (429, Some("5")));
    refused.problem("too-many-streams");
    assert_eq!(rig.get("/health").await.json()["subscribers"], 2);
    one.until("catchup_complete").await;
    drop(one);
    rig.subscribers_are(1).await;
    rig.stream(&format!("/events/stream?session_id={id}")).await;
}

#[tokio::test]
async fn a_changed_tokens_file_closes_the_streams_of_changed_tokens() {
    let (rig, dir) = guarded(|config| config.reconnect_spread(Duration::ZERO)).await;
    let mut open = Vec::new();
    for token in ["alpha", "beta", "gamma"] {
        let mut stream = rig.stream_with("/events/stream", &format!("x-relay-token: {token}\r\n")).await;
        stream.until("catchup_complete").await;
        open.push(stream);
    }
    let orphan = ticket(&rig, "", "beta").await;
    write_tokens(&dir.path().join("tokens"), "alpha ops *\n# beta is gone\ngamma dev dev\ndelta new *\n");
    for stream in &mut open[1..] {
        let block = stream.block().await.unwrap();
        assert!(block.starts_with("retry: 100\n") || block.contains("\nretry: 100\n"), "{block}");
        assert_eq!(parse(&block), ("closing".into(), json!({ "reason": "revoked" })));
        assert_eq!(stream.block().await, Err(End::Proper));
    }
    assert_eq!(get_as(&rig, "/pods", "beta").await.status(), 401);
    assert_eq!(get_as(&rig, "/pods", "delta").await.status(), 200);
    rig.get(&format!("/events/stream?session_id={orphan}")).await.problem("session-unknown");
    rig.publisher.upsert(pod("prod", "new", 1, &[])).await.unwrap();
    assert_eq!(open[0].expect("pod").await["pod"]["name"], "new", "an unchanged token's stream goes on");
}

#[tokio::test]
async fn a_bad_tokens_file_keeps_a_server_from_starting() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tokens");
    let bind = || Server::builder(Config::default().tokens_file(Some(path.clone()))).bind("127.0.0.1:0");
    assert!(bind().await.unwrap_err().to_string().contains("cannot be read"));
    write_tokens(&path, TOKENS);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert!(bind().await.unwrap_err().to_string().contains("chmod o-r"));
    write_tokens(&path, "alpha ops\n");
    assert!(bind().await.unwrap_err().to_string().contains("line 1"));
}
