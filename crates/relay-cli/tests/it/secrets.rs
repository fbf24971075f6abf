//! No secret is printed: every way in which an answer can be wrong, with marked secrets in bodies, headers and
//! addresses, and all output of the program at its most detailed log level.

use std::io::{Read, Write};
use std::net::TcpListener;

use super::process::{relay, run_command};

/// This text is part of every secret below.
const MARK: &str = "s3cret";

/// Answers every request with these bytes, and closes.
fn peer(answer: Vec<u8>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (Ok(mut stream), mut head) = (stream, Vec::new()) else { return };
            let mut chunk = [0; 4096];
            while !head.windows(4).any(|end| end == b"\r\n\r\n") {
                match stream.read(&mut chunk) {
                    Ok(read) if read > 0 => head.extend_from_slice(&chunk[..read]),
                    _ => break,
                }
            }
            let _ = stream.write_all(&answer);
        }
    });
    format!("http://127.0.0.1:{}", addr.port())
}

fn answer(status: &str, headers: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\nX-Password: {MARK}-header\r\nSet-Cookie: id={MARK}-cookie\r\n{headers}Content-Length: {length}\r\n\r\n{body}")
        .into_bytes()
}

/// The ways in which an answer can be wrong. The `detail` of a problem document is not among them, because it is meant
/// to be shown.
fn answers() -> Vec<(&'static str, Vec<u8>)> {
    let json = "Content-Type: application/json\r\n";
    let stream = "Content-Type: text/event-stream\r\n";
    let mut answers = vec![
        ("no JSON", answer("200 OK", json, "{\"pods\":[{\"env\":\"s3cret-1\"")),
        ("no JSON at all", answer("200 OK", json, "s3cret-2")),
        ("another type", answer("200 OK", json, r#"{"pods":"s3cret-3"}"#)),
        ("no pod", answer("200 OK", json, r#"{"pods":[{"namespace":"a","name":"b","labels":"s3cret-4"}]}"#)),
        ("an odd field", answer("200 OK", json, r#"{"pods":[{"namespace":"a","name":"b","ready":"s3cret-5"}]}"#)),
        ("an odd kind", answer("200 OK", json, r#"{"pods":[],"sequence":"s3cret-6"}"#)),
        ("a page", answer("200 OK", json, r#"{"events":[{"type":"ADDED","pod":"s3cret-7"}]}"#)),
        ("a session", answer("201 Created", json, r#"{"session_id":["s3cret-8"]}"#)),
        ("lines", answer("200 OK", "Content-Type: application/x-ndjson\r\n", "{\"count\":1}\n{\"s3cret-9\":\n")),
        ("a page of a proxy", answer("200 OK", "Content-Type: text/html\r\n", "<p>s3cret-10")),
        ("bytes", answer("200 OK", json, "\u{feff}s3cret-11")),
        ("an event", answer("200 OK", stream, "event: connected\ndata: {\"protocol\":\"s3cret-12\"}\n\n")),
        ("an event that is no JSON", answer("200 OK", stream, "event: pod\ndata: s3cret-13\n\n")),
        (
            "an event with an odd pod",
            answer("200 OK", stream, "event: pod\ndata: {\"type\":\"ADDED\",\"hash\":\"h\",\"pod\":{\"namespace\":\"s3cret-14\",\"name\":7}}\n\n"),
        ),
        ("half a head", b"HTTP/1.1 200 OK\r\nX-Key: s3cret-15".to_vec()),
        ("no HTTP", b"s3cret-16 is no HTTP\r\n\r\n".to_vec()),
        ("an odd header", b"HTTP/1.1 200 OK\r\ns3cret 17: x\r\nContent-Length: 0\r\n\r\n".to_vec()),
        ("cut", b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{\"pods\":[\"s3cret-18".to_vec()),
        (
            "a redirect elsewhere",
            answer("307 Temporary Redirect", "Location: http://127.0.0.1:1/?ticket=s3cret-19\r\n", ""),
        ),
        ("a redirect nowhere", answer("302 Found", "Location: http://[s3cret-20\r\n", "s3cret-21")),
    ];
    for status in ["400 Bad Request", "401 Unauthorized", "403 Forbidden", "404 Not Found", "410 Gone"] {
        answers.push((status, answer(status, json, r#"{"password":"s3cret-22"}"#)));
    }
    for status in ["429 Too Many Requests", "500 Internal Server Error", "503 Service Unavailable"] {
        answers.push((status, answer(status, "Content-Type: text/plain\r\n", "s3cret-23")));
    }
    answers
}

#[test]
fn no_error_quotes_what_came_or_what_was_sent() {
    let token = std::env::temp_dir().join(format!("relay-secret-token-{}", std::process::id()));
    std::fs::write(&token, "s3cret-token\n").unwrap();
    let token_file = token.to_str().unwrap();
    let mut leaks = Vec::new();
    for (what, answer) in answers() {
        let url = peer(answer);
        let url = url.as_str();
        let replay = ["replay", "--url", url, "--for", "300ms", "-o", "json"];
        let commands: [&[&str]; 6] = [
            &["pods", "--url", url],
            &["pod", "a", "b", "--url", url],
            &["events", "--url", url],
            &["session", "--url", url],
            &["health", "--url", url],
            &replay,
        ];
        for command in commands {
            let mut program = relay(command);
            program.args(["--token-file", token_file]).env("RELAY_LOG", "trace");
            let done = run_command(program);
            // A successful answer is printed: a session, a health document, a pod.
            let asked_for = matches!(command[0], "session" | "health") && done.code == Some(0);
            let said = if asked_for { done.stderr } else { done.stderr + &done.stdout };
            leaks.extend(
                said.lines()
                    .filter(|l| l.contains(MARK))
                    .map(|l| format!("{what}, {}: {l:.300}", command[0])),
            );
        }
    }
    std::fs::remove_file(token).unwrap();
    assert!(leaks.is_empty(), "{} leaks:\n{}", leaks.len(), leaks.join("\n"));
}

#[test]
fn addresses_are_told_without_their_credentials() {
    for url in [
        "http://user:s3cret-1@127.0.0.1:1",
        "http://127.0.0.1:1/?token=s3cret-2",
        "http://user:s3cret-3@[",
        "ftp://user:s3cret-4@host",
    ] {
        let mut program = relay(&["pods", "--url", url]);
        program.env("RELAY_LOG", "trace");
        let done = run_command(program);
        let said = done.stderr + &done.stdout;
        assert_ne!(done.code, Some(0));
        assert!(!said.contains(MARK), "{url}: {said}");
        let mut program = relay(&["pods", "--url", "http://relay.invalid"]);
        program.env("RELAY_LOG", "trace").env("http_proxy", url).env("HTTP_PROXY", url);
        let said = run_command(program).stderr;
        assert!(!said.contains(MARK), "{url}: {said}");
    }
}
