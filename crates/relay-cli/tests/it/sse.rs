//! `relay sse`, `completions` and `man`; the values of `RELAY_LOG`.

use relay_testkit::{Peer, RelayScript, Reply};
use serde_json::json;

use super::process::{Done, relay, run, run_command};
use super::terminal::Terminal;

const BODY: &str = "retry: 20\nid: 1\ndata: {\"a\": 1}\n\n: hello\nevent: price\nid: 2\ndata: two\ndata: lines\n\nid: 3\ndata: last\n\n";

async fn peer() -> Peer {
    let first = Reply::sse().send(BODY);
    Peer::start(RelayScript::new("e").on("/events", first).always("/events", Reply::sse().silence())).await
}

fn sse(peer: &Peer, args: &[&str]) -> Done {
    let url = format!("{}/events?token=secret", peer.url());
    run_command(relay(&[&["sse", &url, "--reconnect-base", "5ms"], args].concat()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn events_are_printed_in_each_form() {
    let lines = sse(&peer().await, &["--max", "3", "-o", "json"]).expect(0).json();
    assert_eq!(
        lines,
        [
            json!({"event": "message", "id": "1", "data": "{\"a\": 1}", "retry": 20}),
            json!({"event": "price", "id": "2", "data": "two\nlines", "retry": null}),
            json!({"event": "message", "id": "3", "data": "last", "retry": null}),
        ]
    );
    let parsed = sse(&peer().await, &["--max", "2", "-o", "json", "--parse"]).expect(0).json();
    assert_eq!((&parsed[0]["data"], &parsed[1]["data"]), (&json!({"a": 1}), &json!("two\nlines")));
    let data = sse(&peer().await, &["--max", "1", "--event", "price", "--data"]).expect(0);
    assert_eq!(data.stdout, "two\nlines\n");
    let table = sse(&peer().await, &["--max", "2", "-o", "table", "-v"]).expect(0);
    assert!(table.stdout.starts_with("EVENT"), "{}", table.stdout);
    assert!(table.stdout.contains("two\\nlines"), "{}", table.stdout);
    assert!(
        table.stderr.contains("comment: hello") && table.stderr.contains("connected"),
        "{}",
        table.stderr
    );
    assert!(!table.stderr.contains("secret"), "{}", table.stderr);
    // An event with two lines of data is one event.
    let two = sse(&peer().await, &["--max", "2", "--data"]).expect(0);
    assert_eq!(two.stdout, "{\"a\": 1}\ntwo\nlines\n");
    let help = run(&["sse", "--help"]).expect(0).stdout;
    assert!(help.contains("End after so many events"), "{help}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_connection_is_told_before_its_first_event() {
    let peer = peer().await;
    let url = format!("{}/events", peer.url());
    let mut command = relay(&["sse", &url, "-v", "--max", "1", "--data"]);
    command.env("TERM", "dumb");
    let (code, text) = Terminal::start(command, 80).wait();
    assert_eq!(code, Some(0), "{text}");
    assert!(text.find("connected") < text.find("{\"a\": 1}"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn it_resumes_and_says_what_it_waits_for() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("cursor");
    let file = file.to_str().unwrap();
    let peer = peer().await;
    let done = sse(&peer, &["--for", "1s", "-o", "json", "--cursor-file", file, "-H", "X-Me: you"]).expect(0);
    assert_eq!(done.json().len(), 3);
    assert!(done.stderr.contains("; next try "), "{}", done.stderr);
    let requests = peer.requests();
    assert_eq!(requests[0].header("last-event-id"), None);
    assert_eq!(requests[1].header("last-event-id"), Some("3"));
    assert_eq!(requests[0].header("x-me"), Some("you"));
    let kept: serde_json::Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    assert_eq!(kept["last_event_id"], "3");
    let again = super::sse::peer().await;
    // A cursor file of another address is refused, and both addresses are named.
    let other = sse(&again, &["--max", "1", "--cursor-file", file]).expect(2);
    assert!(other.stderr.contains(&peer.url()) && other.stderr.contains(&again.url()), "{}", other.stderr);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn requests_are_what_was_asked_for_and_refusals_have_their_codes() {
    let seen = Peer::start(RelayScript::new("e").always("/events", Reply::sse().send("data: x\n\n"))).await;
    sse(&seen, &["--max", "1", "-d", "{\"q\":1}"]).expect(0);
    let request = &seen.requests()[0];
    assert_eq!((request.method(), request.header("content-type")), ("POST", Some("application/json")));
    assert_eq!(&request.body()[..], b"{\"q\":1}");
    // Each header is sent, and one for the content type replaces ours.
    sse(&seen, &["--max", "1", "-H", "X: 1", "-H", "x: 2", "-d", "{}", "-H", "Content-Type: a/b"]).expect(0);
    let head = String::from_utf8(seen.requests()[1].head().to_vec()).unwrap().to_lowercase();
    assert!(head.contains("\r\nx: 1\r\n") && head.contains("\r\nx: 2\r\n"), "{head}");
    assert!(
        head.contains("\r\ncontent-type: a/b\r\n") && head.matches("content-type").count() == 1,
        "{head}"
    );
    let with_user = seen.url().replace("://", "://me:pa55word@");
    for (args, rule) in [
        (
            &[&*with_user, "--max", "1"][..],
            "it has a user name; give credentials as a header: -H 'Authorization",
        ),
        (
            &[&*seen.url(), "--last-event-id", "a\nb"],
            "--last-event-id \"a\\nb\": an id without control characters",
        ),
    ] {
        let done = run(&[&["sse"], args].concat()).expect(2);
        assert!(done.stderr.contains(rule) && !done.stderr.contains("pa55word"), "{}", done.stderr);
    }
    assert_eq!(seen.requests().len(), 2, "nothing was sent");
    for (status, code, told) in [
        (401, 4, "refused with 401 Unauthorized (give a credential: -H 'Authorization: Bearer TOKEN')"),
        (403, 4, "refused with 403 Forbidden (the credential does not cover"),
        (404, 3, "refused with 404 Not Found (is this the address of an event stream?)"),
        (400, 1, "refused with 400 Bad Request\n"),
        (204, 0, "/events: the server has nothing more to send (204)\n"),
    ] {
        let peer = Peer::start(RelayScript::new("e").always("/events", Reply::empty(status))).await;
        let done = sse(&peer, &["--max", "1"]).expect(code);
        assert!(done.stderr.contains(told), "{status}: {}", done.stderr);
        assert!(!done.stderr.contains("--token") && !done.stderr.contains("--url"), "{}", done.stderr);
    }
    // A page that is not an event stream stays one, so the command does not retry.
    let page =
        Peer::start(RelayScript::new("e").always("/events", Reply::new(200, "text/html", "<p>"))).await;
    let done = sse(&page, &[]).expect(1);
    assert!(
        done.stderr.contains("content type \"text/html\", not text/event-stream (is this"),
        "{}",
        done.stderr
    );
    assert_eq!(page.requests().len(), 1);
    for bad in
        [&["nonsense"][..], &["ftp://h/"], &["http://h/", "-H", "no colon"], &["http://h/", "-X", "A B"]]
    {
        run(&[&["sse"], bad].concat()).expect(2);
    }
}

#[test]
fn shells_and_manuals_are_served() {
    for shell in ["bash", "zsh", "fish"] {
        let script = run(&["completions", shell]).expect(0).stdout;
        assert!(script.contains("relay") && script.contains("no-headers"), "{shell}");
    }
    run(&["completions", "cmd"]).expect(2);
    let folder = tempfile::tempdir().unwrap();
    run(&["man", folder.path().to_str().unwrap()]).expect(0);
    let pages = std::fs::read_dir(folder.path()).unwrap().count();
    assert!(pages > 10, "{pages}");
    assert!(folder.path().join("relay-pods.1").exists());
}

#[test]
fn logging_is_asked_for_in_words_that_exist() {
    for bad in ["loud", "relay=loud", "=", "a=b=c"] {
        let mut command = relay(&["completions", "bash"]);
        command.env("RELAY_LOG", bad);
        let done = run_command(command).expect(2);
        assert!(done.stderr.contains("RELAY_LOG") && done.stderr.contains("debug"), "{bad}: {}", done.stderr);
    }
    for good in ["", "debug", "relay_pods=trace,warn", "off"] {
        let mut command = relay(&["completions", "bash"]);
        command.env("RELAY_LOG", good);
        run_command(command).expect(0);
    }
}
