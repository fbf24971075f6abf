//! No secret is logged, whatever fails, at the most detailed log level.

use std::time::Duration;

use relay_kube::Watcher;
use relay_testkit::{ApiServer, Ask, Clock, Logged, Reply};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{client_as, pods};

/// All secrets of this test contain this text.
const SECRET: &str = "s3cr3t";

#[derive(Debug, Deserialize)]
struct Pod {
    #[expect(dead_code, reason = "it is only there to be unreadable")]
    spec: u64,
}

fn object() -> Value {
    json!({"metadata": {"name": "a", "namespace": "n", "uid": "u", "resourceVersion": "7",
        "annotations": {"x": SECRET}}, "spec": SECRET})
}

fn status(code: u16) -> Value {
    json!({"kind": "Status", "code": code, "reason": "a s3cr3t", "message": "about s3cr3t"})
}

#[tokio::test]
async fn no_error_and_no_log_holds_a_secret() {
    let log = Logged::listen();
    let clock = Clock::freeze();
    let server = ApiServer::start().await;
    let list =
        |items: Value| json!({"metadata": {"resourceVersion": "9", "continue": SECRET}, "items": items});
    let json = |value: &Value| Reply::json(200, value);
    let watch = |line: &str| Reply::sse().chunked().send(format!("{line}\n"));
    for reply in [
        Reply::json(500, &status(500)),
        Reply::json(400, &status(400)),
        Reply::new(503, "text/plain", SECRET).header("x-s3cr3t", SECRET),
        Reply::new(200, "text/html", SECRET),
        Reply::new(200, "application/json", format!("{{\"items\":[{}", object())),
        Reply::redirect(302, "http://s3cr3t:s3cr3t@elsewhere/?s3cr3t"),
        json(&json!({"metadata": SECRET, "items": SECRET})),
        json(&json!({"metadata": {"resourceVersion": [SECRET]}, "items": [object()]})),
        Reply::raw().send("HTTP/1.1 200 s3cr3t\r\ns3cr3t\r\n\r\n"),
        Reply::sse().declare_length(500).send(object().to_string()).cut(),
        Reply::sse().declare_length(500).send(object().to_string()).reset(),
        json(&list(json!([object(), {"metadata": SECRET}, SECRET]))),
    ] {
        server.reply(Ask::List, reply);
    }
    server.reply(Ask::Page, Reply::json(410, &status(500)));
    server.reply(Ask::List, json(&json!({"metadata": {"resourceVersion": "9"}, "items": [object()]})));
    for reply in [
        watch(SECRET),
        watch(&json!({"type": SECRET, "object": object()}).to_string()),
        watch(&json!({"type": "MODIFIED", "object": object()}).to_string()),
        watch(&json!({"type": "DELETED", "object": object()}).to_string()),
        watch(&json!({"type": "ERROR", "object": status(500)}).to_string()),
        watch(&json!({"type": "ERROR", "object": SECRET}).to_string()),
        Reply::json(500, &status(500)),
    ] {
        server.reply(Ask::Watch, reply);
    }
    server.reply(Ask::Check, Reply::new(500, "text/plain", SECRET));

    let client = client_as(&server, &json!({"token": "s3cr3t-token"})).await;
    let mut watcher: Watcher<Pod> = Watcher::new(client, pods()).namespace("prod");
    let mut told = String::new();
    let events = async {
        // Until all prepared answers were used.
        while server.count(Ask::Watch) < 8 {
            told += &format!("{:?} {watcher:?}\n", watcher.next().await);
        }
    };
    clock.run(Duration::from_millis(200), events).await;
    let logged = log.text();
    assert!(logged.contains("TRACE") && logged.contains("cannot be read"), "it listens closely");
    for (what, text) in [("an event", &told), ("the log", &logged)] {
        let line = text.lines().find(|line| line.contains(SECRET));
        assert_eq!(line, None, "{what} tells a secret");
    }
}
