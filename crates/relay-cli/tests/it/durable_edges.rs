//! `relay durable` with invalid responses, broken inputs, full disks and signals.

use std::io::Write as _;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::durable::{Asked, CLOSED, Said, Server, UP_TO_DATE, durable, next, say};
use super::process::{DEADLINE, relay, run, run_command};

const JSON: (&str, &str) = ("Content-Type", "application/json");
const HTML: (&str, &str) = ("Content-Type", "text/html; charset=utf-8");
const TEXT: &[&str] = &["--data", "12345", "--content-type", "text/plain"];

/// An HTML page with status 200, as a captive portal or a proxy may send it.
fn page(_: usize, _: &Asked) -> Said {
    say(200, &[HTML], "<html>Welcome to the hotel</html>")
}

/// A command whose input comes from a shell command.
fn shell(args: &[&str], input: &str) -> Command {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", input, env!("CARGO_BIN_EXE_relay")]).args(args);
    command.env_clear().env("PATH", "/bin:/usr/bin").env("HOME", std::env::temp_dir());
    command
}

#[test]
fn a_page_is_no_answer() {
    let server = Server::start(page);
    let done = run(&durable("append", &server, TEXT)).expect(7);
    assert!(done.stderr.contains("outcome unknown") && done.stderr.contains("page"), "{}", done.stderr);
    for command in ["create", "close", "head"] {
        let done = run(&durable(command, &server, &[])).expect(1);
        assert!(done.stderr.contains("malformed") && done.stdout.is_empty(), "{command}: {}", done.stderr);
    }
    let done = run(&durable("read", &server, &[])).expect(1);
    assert!(done.stderr.contains("malformed answer at offset -1"), "{}", done.stderr);
    // A producer may repeat its requests, so it waits until the server is back.
    let server =
        Server::start(|at, asked| if at == 0 { page(at, asked) } else { say(204, &[next("1")], "") });
    let flags = ["--content-type", "text/plain", "-o", "json"];
    let done = run_command(shell(&durable("produce", &server, &flags), "echo a | $0 \"$@\"")).expect(0);
    assert_eq!((done.json()[0]["attempts"].clone(), server.count("POST")), (json!(2), 2));
}

#[test]
fn a_producer_that_cannot_be_is_wrong_usage_before_any_request() {
    let server = Server::start(page);
    for (flags, rule) in [
        (["--epoch", "9007199254740992"], "--epoch"),
        (["--producer-id", ""], "one or more visible ASCII"),
        (["--producer-id", "\u{e4}"], "visible ASCII"),
        (["--producer-id", " a"], "blanks only between"),
    ] {
        let done = run_command(shell(&durable("produce", &server, &flags), "echo a | $0 \"$@\"")).expect(2);
        assert!(done.stderr.contains(rule), "{flags:?}: {}", done.stderr);
    }
    assert_eq!((server.count("HEAD"), server.count("POST")), (0, 0));
}

#[test]
fn a_status_that_says_neither_yes_nor_no_is_told() {
    for status in [202, 206, 304] {
        let server = Server::start(move |_, _| say(status, &[next("1")], ""));
        let done = run(&durable("append", &server, TEXT)).expect(1);
        assert!(done.stderr.contains(&format!("status {status}")), "{}", done.stderr);
        let flags = ["--content-type", "text/plain", "-o", "json"];
        let done = run_command(shell(&durable("produce", &server, &flags), "echo a | $0 \"$@\"")).expect(1);
        assert_eq!((done.json()[0]["done"].clone(), server.count("POST")), (json!(false), 2));
    }
}

#[test]
fn the_first_message_of_a_stream_stays_one_message() {
    let server = Server::start(|_, _| say(201, &[next("1")], ""));
    let json = ["--content-type", "application/json; charset=utf-8"];
    let create = |more: &[&'static str]| run(&durable("create", &server, &[&json[..], more].concat()));
    create(&["--data", "[1,2]"]).expect(0);
    assert!(create(&["--data", "[1,2"]).expect(2).stderr.contains("column 4"));
    assert_eq!(server.asked().iter().map(|asked| asked.body.clone()).collect::<Vec<_>>(), [b"[[1,2]]"]);
    for (flags, word) in [
        (&["--expires-at", "tomorrow"][..], "RFC 3339"),
        (&["--ttl", "1500ms"], "whole seconds"),
        (&["--ttl", "9s", "--expires-at", "2030-01-01T00:00:00Z"], "--ttl"),
    ] {
        let done = run(&durable("create", &server, flags)).expect(2);
        assert!(done.stderr.contains(word), "{}", done.stderr);
    }
}

#[test]
fn headers_of_the_protocol_and_of_http_are_not_for_callers() {
    let server = Server::start(|_, _| say(200, &[next("1")], ""));
    for name in ["Producer-Id", "stream-ttl", "Host", "Expect", "Range", "If-None-Match", "Upgrade"] {
        let done = run(&durable("head", &server, &["--header", &format!("{name}: x")])).expect(2);
        assert!(done.stderr.contains(name), "{}", done.stderr);
    }
    run(&durable("head", &server, &["--header", "X-Mine: secret"])).expect(0);
    assert_eq!(server.asked().len(), 1);
    assert_eq!(server.asked()[0].header("x-mine"), Some("secret"));
}

#[test]
fn a_password_in_a_url_is_refused_and_not_printed() {
    for url in ["http://u:s3cr3t@127.0.0.1/s", "http://u:s3cr3t@127.0.0.1/s?x=1", "ftp://u:s3cr3t@h/s"] {
        let done = run(&["durable", "head", url]).expect(2);
        assert!(!done.stderr.contains("s3cr3t") && done.stderr.contains("/s"), "{}", done.stderr);
    }
    let done = run(&["durable", "head", "/s", "--url", "http://u:s3cr3t@127.0.0.1/"]).expect(2);
    assert!(!done.stderr.contains("s3cr3t"), "{}", done.stderr);
}

/// A server of one JSON stream that accepts only the batch with the next number.
fn taking(asked: &Asked, next_seq: &mut u64, epoch: u64) -> Said {
    if asked.method == "HEAD" {
        return say(200, &[JSON, next("0")], "");
    }
    if asked.number("producer-epoch") < epoch {
        return say(403, &[("Producer-Epoch", &epoch.to_string())], "");
    }
    assert_eq!(asked.number("producer-seq"), *next_seq);
    *next_seq += 1;
    say(200, &[next(&next_seq.to_string())], "")
}

#[test]
fn the_same_flags_go_on_after_a_claim() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let mut seq = 0;
    let server = Server::start(move |_, asked| taking(asked, &mut seq, 5));
    let flags = ["--state", state.to_str().unwrap(), "--producer-id", "p", "--epoch", "3", "--auto-claim"];
    let args = durable("produce", &server, &flags);
    run_command(shell(&args, "echo 1 | $0 \"$@\"")).expect(0);
    let done = run_command(shell(&args, "printf '1\\n2\\n' | $0 \"$@\"")).expect(0);
    assert!(done.stderr.is_empty(), "{}", done.stderr);
    assert_eq!(server.asked().last().unwrap().body, b"[2]");
    // An epoch that no claim explains is still a conflict, and the command ends with a summary line.
    let flags = ["--state", state.to_str().unwrap(), "--epoch", "3", "-o", "json"];
    let done = run_command(shell(&durable("produce", &server, &flags), "echo 1 | $0 \"$@\"")).expect(2);
    assert!(done.stderr.contains("--epoch 3") && done.json()[0]["done"] == false, "{}", done.stderr);
}

#[test]
fn another_input_is_known_before_anything_is_asked() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let mut seq = 0;
    let server = Server::start(move |_, asked| taking(asked, &mut seq, 0));
    let flags = ["--state", state.to_str().unwrap()];
    let args = durable("produce", &server, &flags);
    run_command(shell(&args, "printf '1\\n2\\n' | $0 \"$@\"")).expect(0);
    let before = server.asked().len();
    for (input, words) in [("printf '1\\n3\\n4\\n'", "another input"), ("echo 1", "shorter")] {
        let done = run_command(shell(&args, &format!("{input} | $0 \"$@\""))).expect(1);
        assert!(done.stderr.contains(words), "{}", done.stderr);
    }
    assert_eq!(server.asked().len(), before);
}

/// A producer whose input stays open after this text.
fn producing(server: &Server, flags: &[&str], input: &str) -> (Child, ChildStdin) {
    let mut command = relay(&durable("produce", server, flags));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(input.as_bytes()).unwrap();
    (child, stdin)
}

fn kill(child: &Child, name: &str) {
    let line = format!("kill -{name} {}", child.id());
    assert!(Command::new("/bin/sh").args(["-c", &line]).status().unwrap().success());
}

fn last_line(child: Child) -> (Option<i32>, Value) {
    let done = child.wait_with_output().unwrap();
    let text = String::from_utf8(done.stdout).unwrap();
    (done.status.code(), serde_json::from_str(text.lines().last().unwrap()).unwrap())
}

#[test]
fn a_signal_ends_a_producer_whose_server_is_away() {
    let signalled = |twice: bool| {
        let server = Server::start(|_, asked| match asked.method.as_str() {
            "HEAD" => say(200, &[JSON, next("0")], ""),
            _ => say(503, &[], ""),
        });
        // The second line is not JSON. The producer first has to deliver the line before it, which fails.
        let (mut child, _stdin) = producing(&server, &["-o", "json"], "1\nnope\n");
        eventually(|| server.count("POST") > 0);
        let began = Instant::now();
        kill(&child, "INT");
        eventually(|| {
            let ended = child.try_wait().unwrap().is_some();
            // The first signal may not have been handled yet when the second one comes, so more are sent.
            if twice && !ended {
                kill(&child, "INT");
            }
            ended
        });
        let (code, line) = last_line(child);
        assert_eq!((code, &line["done"]), (Some(130), &json!(false)));
        began.elapsed()
    };
    let once = signalled(false);
    assert!(once >= Duration::from_secs(4), "it goes on for some seconds: {once:?}");
    // On a busy machine any command may take that long.
    let is_quick = |_| signalled(true) < Duration::from_secs(4);
    assert!((0..3).any(is_quick), "the second signal ends it at once");
}

#[test]
fn what_was_read_before_a_signal_is_delivered() {
    let mut seq = 0;
    let server = Server::start(move |_, asked| taking(asked, &mut seq, 0));
    // The last line is incomplete, and therefore not a message.
    let flags = ["-o", "json", "--linger", "60s", "--max-batch-items", "2"];
    let (child, _stdin) = producing(&server, &flags, "1\n2\n3\n4");
    eventually(|| server.count("POST") == 1);
    kill(&child, "TERM");
    let (code, line) = last_line(child);
    assert_eq!(code, Some(143));
    assert_eq!(server.asked().last().unwrap().body, b"[3]");
    assert_eq!(
        (&line["done"], &line["messages"], &line["input_bytes"]),
        (&json!(false), &json!(3), &json!(6))
    );
}

/// Waits until the condition holds.
fn eventually(mut so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !so() {
        assert!(began.elapsed() < DEADLINE);
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_full_disk_is_told_and_the_file_can_be_cut_back() {
    if !Path::new("/dev/full").exists() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("checkpoint");
    let server = Server::start(|_, _| say(200, &[JSON, next("5"), UP_TO_DATE], "[1,2,3]"));
    let flags = ["--out", "/dev/full", "--checkpoint", file.to_str().unwrap()];
    let done = run(&durable("read", &server, &flags)).expect(1);
    assert!(done.stderr.contains("No space left"), "{}", done.stderr);
    // The checkpoint does not go beyond what was written, and has the length to which the file must be cut back.
    let kept: Value = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
    assert_eq!((&kept["offset"], &kept["out_bytes"], &kept["skip"]), (&json!("-1"), &json!(0), &json!(0)));
    let mut command = relay(&durable("read", &server, &[]));
    command.stdout(Stdio::from(std::fs::File::options().write(true).open("/dev/full").unwrap()));
    let done = command.stderr(Stdio::piped()).output().unwrap();
    assert_eq!(done.status.code(), Some(1), "{}", String::from_utf8_lossy(&done.stderr));
}

#[test]
fn a_tail_from_now_stores_where_now_was() {
    let dir = tempfile::tempdir().unwrap();
    let (file, out) = (dir.path().join("checkpoint"), dir.path().join("out"));
    let server = Server::start(|_, asked| match asked.target.as_str() {
        "/s" => say(200, &[JSON, next("5")], ""),
        "/s?live=long-poll&offset=5" => say(200, &[JSON, next("6"), UP_TO_DATE], "[1]"),
        _ => say(200, &[JSON, next("6"), CLOSED], ""),
    });
    let flags =
        ["--checkpoint", file.to_str().unwrap(), "--out", out.to_str().unwrap(), "--live", "long-poll"];
    run(&durable("tail", &server, &flags)).expect(0);
    assert_eq!(std::fs::read_to_string(&out).unwrap(), "1\n");
    // The result is as after a kill before the first data was written: the position of "now" is saved.
    let full = ["--checkpoint", file.to_str().unwrap(), "--out", "/dev/full", "--live", "long-poll"];
    if Path::new("/dev/full").exists() {
        std::fs::remove_file(&file).unwrap();
        run(&durable("tail", &server, &full)).expect(1);
        let kept: Value = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
        assert_eq!((&kept["offset"], &kept["out_bytes"]), (&json!("5"), &json!(0)));
    }
}
