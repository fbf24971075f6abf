//! Bad peers: each gives one line with advice. Also the progress of long operations.

use std::time::Duration;

use relay_testkit::{Conversation, Peer, Reply, ReservedPort, Script};
use serde_json::json;

use super::process::{Running, Server, command_at, follow_at, relay, run_command};
use super::terminal::Terminal;

const COMMANDS: [&[&str]; 6] = [
    &["pods"],
    &["events"],
    &["health"],
    &["stream", "--for", "300ms"],
    &["state", "--for", "300ms"],
    &["replay", "--for", "300ms"],
];

/// The last line that a command prints for this peer, and its exit code.
fn last_line(url: &str, args: &[&str]) -> (Option<i32>, String) {
    let done = run_command(command_at(url, args));
    // The line of an error that is retried says so; it is not the last one.
    let is_last = |line: &&str| line.starts_with("relay: ") && !line.contains("; next try ");
    let own: Vec<&str> = done.stderr.lines().filter(is_last).collect();
    assert_eq!(own.len(), 1, "{args:?}: one line: {}", done.stderr);
    assert!(done.stdout.is_empty(), "{args:?}: {}", done.stdout);
    (done.code, own[0].to_owned())
}

#[test]
fn a_dead_relay_is_a_line_that_asks_for_it() {
    let closed = ReservedPort::reserve();
    let url = closed.url();
    for args in COMMANDS {
        let (code, line) = last_line(&url, args);
        assert_eq!(code, Some(1), "{line}");
        assert!(line.contains("refused") && line.contains("does the server run, and is this"), "{line}");
    }
    let (code, line) = last_line(&url, &["wait", "--for", "ready", "--timeout", "300ms"]);
    assert_eq!(code, Some(5));
    assert!(line.contains("no list was read") && line.contains("refused"), "{line}");
    // Where nothing is printed in a table, the first attempt that fails says what to do, and no other.
    let args = ["state", "--for", "600ms", "--reconnect-base", "50ms", "--reconnect-cap", "50ms"];
    let done = run_command(command_at(&url, &args)).expect(1);
    let attempts: Vec<&str> = done.stderr.lines().filter(|line| line.contains("; next try ")).collect();
    assert!(attempts.len() > 1, "{done:?}");
    let says_what_to_do = |line: &&&str| line.contains("(does the server run, and is this its address?)");
    assert_eq!(attempts.iter().filter(says_what_to_do).count(), 1, "{done:?}");
    assert!(attempts[0].contains("(does the server run"), "{done:?}");
    for args in [
        &["parsec", "history", "public:a.b"][..],
        &["durable", "head", "/x", "--retry-for", "100ms"],
        &["sse", &format!("{url}/events"), "--for", "300ms"],
    ] {
        let mut command = relay(args);
        command.env("RELAY_URL", &url).env("RELAY_DURABLE_URL", &url);
        let done = run_command(command);
        assert!(matches!(done.code, Some(1 | 5)), "{done:?}");
        assert!(done.stderr.contains("refused"), "{args:?}: {}", done.stderr);
    }
}

fn no_pod_relay(origin: &str, got: &str) -> String {
    format!("relay: {origin} answers, but is no Pod Event Relay ({got}): check host, port and path of --url")
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
        let path = match args[0] {
            "health" => "/health",
            "events" => "/events",
            "stream" => "/events/stream",
            _ => "/pods",
        };
        assert_eq!(line, no_pod_relay(&missing.url(), &format!("404 for {path}")));
        let (code, line) = last_line(&html.url(), args);
        assert_eq!(code, Some(1), "{line}");
        let html = ["text/html", "an HTML page"].iter().any(|part| line.contains(part));
        assert!(html && line.contains("--url"), "{line}");
    }
    let (_, line) = last_line(&html.url(), &["session"]);
    assert!(line.contains("an HTML page") && line.contains("--url"), "{line}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_page_is_told_from_a_durable_stream() {
    let peer = |status| async move {
        let page = || Reply::new(status, "text/html; charset=utf-8", "<html><body>Sign in</body></html>");
        Peer::start(["/x", "/y"].into_iter().fold(Script::new(), |script, path| script.always(path, page())))
            .await
    };
    let (page, missing) = (peer(200).await, peer(404).await);
    let commands: [(&[&str], i32); 13] = [
        (&["head", "/x"], 1),
        (&["read", "/x"], 1),
        (&["tail", "/x"], 1),
        (&["tail", "/x", "--live", "sse"], 1),
        (&["tail", "/x", "--live", "sse", "--offset", "now"], 1),
        (&["tail", "/x", "--live", "long-poll", "--offset", "start"], 1),
        (&["create", "/x"], 1),
        (&["append", "/x", "--data", "a"], 1),
        (&["append", "/x", "--data", "a", "--content-type", "text/plain"], 7),
        (&["close", "/x"], 1),
        (&["delete", "/x"], 1),
        (&["fork", "/x", "/y"], 1),
        (&["produce", "/x", "--retry-for", "300ms"], 1),
    ];
    for (args, code) in commands {
        for (peer, code) in [(&page, code), (&missing, 3)] {
            let mut command = relay(&[&["durable"], args].concat());
            command.env("RELAY_DURABLE_URL", peer.url()).stdin(std::process::Stdio::null());
            let done = run_command(command);
            let line = done.stderr.lines().last().unwrap_or_default();
            assert_eq!(done.code, Some(code), "{args:?}: {done:?}");
            assert!(
                line.contains("an HTML page") && !line.contains("Stream-Next-Offset"),
                "{args:?}: {line}"
            );
            let next =
                "(what answers there is no server of durable streams: check host, port and path of --url";
            assert!(line.contains(next), "{args:?}: {line}");
        }
    }
}

/// `stream` follows one connection, and says why that connection ended.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_stream_that_ends_is_not_said_to_go_on() {
    let peer =
        Peer::start(Script::new().on("/events/stream", Conversation::new("e1").connected(0).cut().into()))
            .await;
    let done = run_command(command_at(&peer.url(), &["stream"])).expect(0);
    let lines: Vec<&str> = done.stderr.lines().collect();
    assert_eq!(lines.len(), 1, "{}", done.stderr);
    assert!(
        lines[0].contains("the stream ends with its connection") && !lines[0].contains("again"),
        "{}",
        lines[0]
    );
    assert_eq!(peer.requests().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn other_services_and_what_is_no_service_are_named_as_such() {
    const STRANGER: &str = "check host, port and path of --url";
    const NO_HTTP: &str = "speaks no HTTP, or hangs up: check http or https";
    type Case = (&'static str, fn() -> Reply, &'static str);
    let cases: [Case; 4] = [
        ("another JSON", || Reply::json(200, &json!({"a": 1})), STRANGER),
        ("no HTTP", || Reply::raw().send("\u{0}\u{1}no HTTP\r\n\r\n").cut(), NO_HTTP),
        ("nothing", || Reply::raw().cut(), NO_HTTP),
        ("a gateway", || Reply::new(502, "text/plain", "Bad gateway"), "does the relay behind it run?"),
    ];
    for (what, reply, advice) in cases {
        let paths = ["/pods", "/pods/a/b", "/events", "/health", "/events/stream", "/auth/session"];
        let script = paths.into_iter().fold(Script::new(), |script, path| script.always(path, reply()));
        let peer = Peer::start(script).await;
        for args in COMMANDS.into_iter().chain([&["pod", "a/b"][..], &["session"]]) {
            let (code, line) = last_line(&peer.url(), args);
            assert_eq!(code, Some(1), "{what}: {line}");
            assert!(line.contains(advice), "{what}: {args:?}: {line}");
        }
    }
}

/// Only a relay's word that there is no such pod is exit code 3.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_pod_is_missing_only_where_a_relay_says_so() {
    type Answer = fn() -> Reply;
    let bare: Answer = || Reply::new(404, "text/html", "<html>Nothing here</html>");
    let coded: Answer = || Reply::json(404, &json!({"code": "not-found", "status": 404}));
    let relays: Answer = || Reply::json(200, &json!({"status": "ok", "head": {"hash": "h", "sequence": 1}}));
    let foreign: Answer = || Reply::json(503, &json!({"status": "starting"}));
    let parsec: Answer = || Reply::json(200, &json!({"status": "ok", "channels": 0, "subscribers": 0}));
    for (pod, health, is_relay) in [
        (coded, relays, true),
        (bare, relays, true),
        (bare, foreign, true),
        // It has no health document, but a code.
        (coded, bare, true),
        (bare, bare, false),
        (bare, coded, false),
        (coded, coded, false),
        (coded, parsec, false),
    ] {
        let script = Script::new().always("/x/pods/a/b", pod()).always("/x/health", health());
        let peer = Peer::start(script).await;
        let (code, line) = last_line(&format!("{}/x", peer.url()), &["pod", "a/b"]);
        if is_relay {
            let next = "what happened to it: relay events --pod a/b";
            assert_eq!((code, line), (Some(3), format!("relay: there is no pod a/b ({next})")));
        } else {
            assert_eq!((code, line), (Some(1), no_pod_relay(&peer.url(), "404 for /x/pods/a/b")));
        }
    }
}

/// A relay at another path, and other servers of ours.
#[test]
fn a_wrong_path_and_another_of_our_servers_are_no_pod_relay() {
    let server = Server::quiet(1);
    let wrong = format!("{}/wrong", server.url());
    let mut cases = vec![(wrong, server.url(), 3, "404 for /wrong/health")];
    let parsec = Running::start(relay(&["parsec", "serve", "--listen", "127.0.0.1:0"]));
    let url = parsec.line().unwrap().rsplit_once(' ').unwrap().1.to_owned();
    cases.push((url.clone(), url, 1, "another document for /health"));
    for (url, origin, health, got) in cases {
        let prefix = url.strip_prefix(&origin).unwrap();
        for (args, expected, got) in [
            (&["pods"][..], 3, format!("404 for {prefix}/pods")),
            (&["pod", "a/b"], 1, format!("404 for {prefix}/pods/a/b")),
            (&["wait", "--for", "ready"], 3, format!("404 for {prefix}/pods")),
            (&["health"], health, got.to_owned()),
        ] {
            let (code, line) = last_line(&url, args);
            assert_eq!((code, line), (Some(expected), no_pod_relay(&origin, &got)), "{args:?}");
        }
    }
}

/// Each command says once that it waits, and continues by itself when the relay is there.
#[test]
fn a_relay_that_comes_later_is_waited_for() {
    let closed = ReservedPort::reserve();
    let url = closed.url();
    let table = |args: &[&str]| {
        let args = [args, &["-o", "table", "--reconnect-base", "200ms", "--reconnect-cap", "200ms"]].concat();
        Terminal::start(command_at(&url, &args), 200)
    };
    let mut tables = [table(&["state", "--group-by", "app"]), table(&["state"]), table(&["replay"])];
    for table in &mut tables {
        let seen = table.until(|seen| seen.contains("no connection since"));
        assert!(seen.contains("; next try ") && seen.contains("(does the server run"), "{seen}");
    }
    let waits = follow_at(&url, &["wait", "--for", "count=3", "--timeout", "30s"]);
    let sse = Running::start(relay(&["sse", &format!("{url}/events/stream"), "-o", "json"]));
    for running in [&waits, &sse] {
        let said = running.until_stderr(|said| said.contains('\n'));
        assert!(said.contains("refused"), "{said}");
    }
    let server = Server::start_at(&closed.addr().to_string(), &["--sim-rate", "0", "--sim-pods", "3"]);
    for mut table in tables {
        let shows_pods = |seen: &str| seen.contains(" listed") || seen.contains("app=");
        table.until(|seen| seen.contains("connected again after ") && shows_pods(seen));
        table.signal("INT");
        let (code, seen) = table.wait();
        assert_eq!(code, Some(130), "{seen}");
        let count = |what: &str| seen.matches(what).count();
        assert_eq!((count("no connection since"), count("connected again")), (1, 1), "{seen}");
        // The table says it, so no log line repeats it.
        assert_eq!(count("WARN"), 0, "{seen}");
    }
    sse.until(|line| line["event"] == "pod");
    waits.wait().expect(0);
    drop(server);
}

/// A gateway in front of a server is named as such. People are also told why a relay is not well.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_gateway_and_a_source_that_is_away_are_named() {
    let gateway = || Reply::new(502, "text/html", "<html>Bad gateway</html>");
    let away = json!({"status": "degraded", "head": {"hash": "h", "sequence": 7}, "subscribers": 2,
        "source": {"kind": "kube", "state": "stale", "stale_since": "2026-11-21T09:00:00Z", "reason": "forbidden"}});
    let peer =
        Peer::start(Script::new().always("/x", gateway()).always("/health", Reply::json(503, &away))).await;
    let mut command = relay(&["durable", "head", "/x", "--retry-for", "200ms"]);
    command.env("RELAY_DURABLE_URL", peer.url());
    let done = run_command(command).expect(5);
    assert!(done.stderr.contains(": status 502 (that is the word of what stands in front"), "{done:?}");
    let done = run_command(command_at(&peer.url(), &["health", "-o", "table"])).expect(1);
    let told = "degraded, source kube, log at 7, 2 streams; the source is away since 2026-11-21T09:00:00Z: forbidden";
    assert_eq!(done.stdout.trim_end(), told);
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
    // The progress line is removed before the names are printed.
    assert!(seen.ends_with("\r\u{1b}[Kprod/a\nprod/b\nprod/c\nprod/d\n"), "{seen:?}");
    // There is no progress line in a pipe, where nobody watches, or on a dumb terminal, which cannot overwrite a line.
    let done = run_command(command_at(&peer.url(), &args)).expect(0);
    assert_eq!(done.stderr, "");
    let mut dumb = command_at(&peer.url(), &args);
    dumb.env("TERM", "dumb");
    let (code, seen) = Terminal::start(dumb, 80).wait();
    assert_eq!((code, seen.as_str()), (Some(0), "prod/a\nprod/b\nprod/c\nprod/d\n"));
}

/// Pages of a history; the second one is late.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_history_that_takes_long_shows_how_far_it_is() {
    let event = |sequence: u64| {
        json!({"type": "ADDED", "hash": format!("h{sequence}"), "sequence": sequence,
            "timestamp": "2026-11-21T09:00:00Z", "pod": {"namespace": "prod", "name": "a"}})
    };
    let page = |sequence: u64, next: Option<&str>| json!({"events": [event(sequence)], "next_hash": next});
    let late = |page: serde_json::Value| {
        let body = page.to_string();
        Reply::new(200, "application/json", "").chunked().delay(Duration::from_millis(1200)).send(body)
    };
    let script = || {
        Script::new()
            .on("/events", Reply::json(200, &page(1, Some("h1"))))
            .on("/events", late(page(2, Some("h2"))))
            .on("/events", late(page(3, None)))
    };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("events.jsonl");
    let into_file = |url: &str| {
        let mut command = std::process::Command::new("sh");
        command.args(["-c", "exec \"$@\" > \"$FILE\"", "sh"]).env("FILE", &file);
        let relay = command_at(url, &["events"]);
        command.arg(relay.get_program()).args(relay.get_args());
        command
    };
    let peer = Peer::start(script()).await;
    let (code, seen) = Terminal::start(into_file(&peer.url()), 80).wait();
    assert_eq!(code, Some(0), "{seen}");
    assert!(seen.contains("2 events so far, ") && seen.contains("/s"), "{seen:?}");
    assert!(seen.ends_with("\r\u{1b}[K"), "it is gone at the end: {seen:?}");
    assert_eq!(std::fs::read_to_string(&file).unwrap().lines().count(), 3);
    // There is no progress line in a pipe.
    let peer = Peer::start(script()).await;
    let done = run_command(command_at(&peer.url(), &["events"])).expect(0);
    assert_eq!((done.stderr.as_str(), done.json().len()), ("", 3));
}

#[test]
fn https_to_a_server_without_tls_is_named() {
    let server = Server::quiet(1);
    let url = server.url().replace("http://", "https://");
    for args in [
        &["pods", "--url", &url][..],
        &["parsec", "history", "public:a.b", "--url", &url],
        &["sse", &format!("{url}/events"), "--for", "1s"],
    ] {
        let done = run_command(relay(args)).expect(1);
        assert!(
            done.stderr.contains("speak TLS") && done.stderr.contains("http:// meant"),
            "{}",
            done.stderr
        );
        assert!(!done.stderr.contains("InvalidContentType"), "{}", done.stderr);
    }
}
