//! Bad peers: each is one line that says what to do next. And what takes long, shown to those who wait.

use std::time::Duration;

use relay_testkit::{Conversation, Peer, Reply, Script};
use serde_json::json;

use super::process::{command_at, run_command};
use super::terminal::Terminal;

const COMMANDS: [&[&str]; 6] = [
    &["pods"],
    &["events"],
    &["health"],
    &["stream", "--for", "300ms"],
    &["state", "--for", "300ms"],
    &["replay", "--for", "300ms"],
];

/// The last line that a command says to a peer, with its exit code.
fn last_line(url: &str, args: &[&str]) -> (Option<i32>, String) {
    let done = run_command(command_at(url, args));
    let own: Vec<&str> = done.stderr.lines().filter(|line| line.starts_with("relay: ")).collect();
    assert_eq!(own.len(), 1, "{args:?}: one line: {}", done.stderr);
    assert!(done.stdout.is_empty(), "{args:?}: {}", done.stdout);
    (done.code, own[0].to_owned())
}

#[test]
fn a_dead_relay_is_a_line_that_asks_for_it() {
    // Nobody listens where somebody just did.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    for args in COMMANDS {
        let (code, line) = last_line(&url, args);
        assert_eq!(code, Some(1), "{line}");
        assert!(line.contains("refused") && line.contains("does the server run, and is this"), "{line}");
    }
    let (code, line) = last_line(&url, &["wait", "--for", "ready", "--timeout", "300ms"]);
    assert_eq!(code, Some(5));
    assert!(line.contains("no list was read") && line.contains("refused"), "{line}");
    for args in [
        &["parsec", "history", "public:a.b"][..],
        &["durable", "head", "/x", "--retry-for", "100ms"],
        &["sse", &format!("{url}/events"), "--for", "300ms"],
    ] {
        let mut command = super::process::relay(args);
        command.env("RELAY_URL", &url).env("RELAY_DURABLE_URL", &url);
        let done = run_command(command);
        assert!(matches!(done.code, Some(1 | 5)), "{done:?}");
        assert!(done.stderr.contains("refused"), "{args:?}: {}", done.stderr);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_is_no_relay_is_told_from_one() {
    let everywhere = |reply: fn() -> Reply| {
        let paths = ["/pods", "/events", "/health", "/events/stream", "/auth/session"];
        paths.into_iter().fold(Script::new(), |script, path| script.always(path, reply()))
    };
    let not_found = || Reply::new(404, "text/plain", "404 page not found\n");
    let page = || Reply::new(200, "text/html", "<html><body>Sign in</body></html>");
    let (missing, html) = (Peer::start(everywhere(not_found)).await, Peer::start(everywhere(page)).await);
    for args in COMMANDS {
        let (code, line) = last_line(&missing.url(), args);
        assert_eq!(code, Some(3), "{line}");
        assert!(
            line.contains("404") && line.contains("is no relay: check host, port and path of --url"),
            "{line}"
        );
        let (code, line) = last_line(&html.url(), args);
        assert_eq!(code, Some(1), "{line}");
        let html = ["text/html", "not a h"].iter().any(|part| line.contains(part));
        assert!(html && line.contains("--url"), "{line}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn who_is_not_let_in_is_told_how() {
    for (status, code, next) in [(401, "unauthorized", "--token-file"), (403, "forbidden-namespace", "-n")] {
        let problem = json!({"type": format!("urn:relay:problem:{code}"), "status": status, "code": code});
        let peer = Peer::start(Script::new().always("/pods", Reply::json(status, &problem))).await;
        let (exit, line) = last_line(&peer.url(), &["pods"]);
        assert_eq!(exit, Some(4));
        assert!(line.contains(code) && line.contains(next), "{line}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_newer_protocol_is_gone_on_with_and_named() {
    let newer = Conversation::new("e1").event(
        "connected",
        None,
        &json!({"protocol": 2, "epoch": "e1", "head": {"hash": "e1-1", "sequence": 1},
            "resumes_after": {"hash": "e1-1", "sequence": 1}, "filtered": false}),
    );
    let peer = Peer::start(Script::new().on("/events/stream", newer.cut().into())).await;
    let done = run_command(command_at(&peer.url(), &["stream", "--max", "1"])).expect(0);
    let lines: Vec<&str> = done.stderr.lines().collect();
    assert_eq!(lines.len(), 1, "{}", done.stderr);
    assert!(lines[0].contains("newer protocol") && lines[0].contains("take a newer version"), "{}", lines[0]);
}

/// A list with a pause in it.
fn slow_list() -> Reply {
    let pod = |name: &str| format!("{{\"namespace\":\"prod\",\"name\":\"{name}\"}}\n");
    let head = "{\"count\":4,\"hash\":\"h\",\"sequence\":1,\"epoch\":\"e\"}\n".to_owned() + &pod("a");
    let rest = pod("c") + &pod("d") + "{\"end\":true,\"count\":4}\n";
    Reply::new(200, "application/x-ndjson", "")
        .chunked()
        .send(head)
        .delay(Duration::from_millis(1300))
        .send(pod("b"))
        .delay(Duration::from_millis(300))
        .send(rest)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_list_that_takes_long_shows_how_far_it_is() {
    let peer = Peer::start(Script::new().always("/pods", slow_list())).await;
    let args = ["pods", "-o", "name"];
    let (code, seen) = Terminal::start(command_at(&peer.url(), &args), 80).wait();
    assert_eq!(code, Some(0), "{seen}");
    assert!(seen.contains(" 50 %") && seen.contains("/s, ") && seen.contains(" s left"), "{seen:?}");
    // It is gone before the names come.
    assert!(seen.ends_with("\r\u{1b}[Kprod/a\nprod/b\nprod/c\nprod/d\n"), "{seen:?}");
    // Nobody waits in front of a pipe, and a dumb terminal cannot write over a line.
    let done = run_command(command_at(&peer.url(), &args)).expect(0);
    assert_eq!(done.stderr, "");
    let mut dumb = command_at(&peer.url(), &args);
    dumb.env("TERM", "dumb");
    let (code, seen) = Terminal::start(dumb, 80).wait();
    assert_eq!((code, seen.as_str()), (Some(0), "prod/a\nprod/b\nprod/c\nprod/d\n"));
}
