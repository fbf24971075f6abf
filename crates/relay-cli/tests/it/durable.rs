//! `relay durable` with a server that fails on demand: messages, exit codes, and requests.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use super::process::{relay, run, run_command};

/// A request.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) method: String,
    pub(crate) target: String,
    headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Asked {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    pub(crate) fn number(&self, name: &str) -> u64 {
        self.header(name).unwrap().parse().unwrap()
    }
}

/// An answer: its bytes, and whether the connection ends after them.
pub(crate) struct Said(Vec<u8>, bool);

pub(crate) fn say(status: u16, headers: &[(&str, &str)], body: &str) -> Said {
    let mut out = format!("HTTP/1.1 {status} Said\r\n");
    for (name, value) in headers {
        out += &format!("{name}: {value}\r\n");
    }
    if status != 204 {
        out += &format!("Content-Length: {}\r\n", body.len());
    }
    Said((out + "\r\n" + body).into_bytes(), false)
}

/// The connection ends without an answer.
fn cut() -> Said {
    Said(Vec::new(), true)
}

impl Said {
    /// The answer ends in the middle of the body.
    fn half(mut self) -> Self {
        self.0.truncate(self.0.len() - self.0.len() / 3);
        Self(self.0, true)
    }
}

type Answering = Box<dyn FnMut(usize, &Asked) -> Said + Send>;

/// A server whose answers are made by a function of the request and its number.
pub(crate) struct Server {
    pub(crate) url: String,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Server {
    pub(crate) fn start(answer: impl FnMut(usize, &Asked) -> Said + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/s", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let answer: Arc<Mutex<Answering>> = Arc::new(Mutex::new(Box::new(answer)));
        let shared = asked.clone();
        std::thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                let (shared, answer) = (shared.clone(), answer.clone());
                std::thread::spawn(move || serve(&connection, &shared, &answer));
            }
        });
        Self { url, asked }
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    pub(crate) fn count(&self, method: &str) -> usize {
        self.asked().iter().filter(|asked| asked.method == method).count()
    }
}

fn serve(connection: &TcpStream, asked: &Mutex<Vec<Asked>>, answer: &Mutex<Answering>) -> Option<()> {
    let mut reader = BufReader::new(connection.try_clone().ok()?);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
        let mut parts = line.split_whitespace().map(ToOwned::to_owned);
        let (method, target) = (parts.next()?, parts.next()?);
        let mut headers = Vec::new();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).ok()?;
            let Some((name, value)) = line.trim_end().split_once(": ") else { break };
            headers.push((name.to_owned(), value.to_owned()));
        }
        let request = Asked { method, target, headers, body: Vec::new() };
        let mut body = vec![0; request.header("content-length").map_or(0, |length| length.parse().unwrap())];
        reader.read_exact(&mut body).ok()?;
        let request = Asked { body, ..request };
        // The lock is held while the answer is made, so that requests are recorded in the order of their answers.
        let Said(bytes, end) = {
            let mut answer = answer.lock().unwrap();
            let mut asked = asked.lock().unwrap();
            asked.push(request.clone());
            let number = asked.len() - 1;
            drop(asked);
            answer(number, &request)
        };
        (&*connection).write_all(&bytes).ok()?;
        if end {
            let _ = connection.shutdown(std::net::Shutdown::Both);
            return None;
        }
    }
}

const JSON: (&str, &str) = ("Content-Type", "application/json");
pub(crate) const UP_TO_DATE: (&str, &str) = ("Stream-Up-To-Date", "true");
pub(crate) const CLOSED: (&str, &str) = ("Stream-Closed", "true");

pub(crate) fn next(offset: &str) -> (&str, &str) {
    ("Stream-Next-Offset", offset)
}

/// The arguments of a command on the stream of a server, with a short limit for retries.
pub(crate) fn durable<'a>(command: &'a str, server: &'a Server, more: &[&'a str]) -> Vec<&'a str> {
    let mut args = vec!["durable", command, &server.url];
    args.extend_from_slice(more);
    args
}

const TEXT: &[&str] = &["--data", "12345", "--content-type", "text/plain"];

#[test]
fn every_refusal_has_its_words_and_its_code() {
    type Refusal =
        (u16, &'static [(&'static str, &'static str)], &'static [&'static str], i32, &'static [&'static str]);
    let table: &[Refusal] = &[
        (404, &[], &[], 3, &["not found"]),
        (410, &[], &[], 3, &["gone"]),
        (401, &[], &[], 4, &["not authorised"]),
        (403, &[], &[], 4, &["not authorised"]),
        (409, &[CLOSED, ("Stream-Next-Offset", "e_7")], &[], 6, &["closed", "e_7"]),
        (409, &[], &["--seq", "5"], 6, &["sequence conflict"]),
        (409, &[], &[], 6, &["content type", "text/plain"]),
        (413, &[], &[], 1, &["too large", "5 bytes"]),
        (400, &[], &[], 1, &["400", "some words"]),
        (501, &[], &[], 1, &["501"]),
        (503, &[], &[], 7, &["outcome unknown"]),
        (302, &[("Location", "http://127.0.0.1:1/")], &[], 1, &["redirect"]),
    ];
    for (status, headers, flags, code, words) in table {
        let server = Server::start(move |_, _| say(*status, headers, "some\nwords"));
        let flags: Vec<&str> = TEXT.iter().chain(*flags).copied().collect();
        let done = run(&durable("append", &server, &flags)).expect(*code);
        for word in *words {
            assert!(done.stderr.contains(word), "{status}: {}", done.stderr);
        }
        assert!(done.stderr.contains(&server.url), "{}", done.stderr);
        assert_eq!((server.asked().len(), done.stdout.as_str()), (1, ""), "{status}");
    }
    let server = Server::start(|_, _| say(409, &[], ""));
    assert!(run(&durable("create", &server, &[])).expect(6).stderr.contains("exists"));
    let server = Server::start(|_, _| say(410, &[], ""));
    let done = run(&durable("read", &server, &["--offset", "a+b"])).expect(3);
    assert!(done.stderr.contains("gone") && done.stderr.contains("offset a+b"), "{}", done.stderr);
    assert_eq!(server.asked()[0].target, "/s?offset=a%2Bb");
}

#[test]
fn an_append_is_sent_again_only_when_it_was_not_taken() {
    // The answer is lost, so the outcome is unknown.
    let server = Server::start(|_, _| cut());
    let done = run(&durable("append", &server, TEXT)).expect(7);
    assert!(done.stderr.contains("outcome unknown"), "{}", done.stderr);
    assert_eq!(server.count("POST"), 1);
    // The server did not accept the append, or the caller accepts the risk.
    let server = Server::start(|at, _| if at == 0 { say(429, &[], "") } else { say(204, &[next("9")], "") });
    let done = run(&durable("append", &server, TEXT)).expect(0);
    assert_eq!(done.json(), [json!({"stream": server.url, "status": 204, "offset": "9", "closed": false})]);
    let server = Server::start(|at, _| if at == 0 { cut() } else { say(204, &[next("9")], "") });
    let flags: Vec<&str> = TEXT.iter().copied().chain(["--retry-unsafe"]).collect();
    run(&durable("append", &server, &flags)).expect(0);
    assert_eq!(server.count("POST"), 2);
    // Requests that may be repeated are repeated. A 404 to a repeated delete is success, because the first one deleted
    // the stream.
    let server = Server::start(|at, _| if at == 0 { cut() } else { say(404, &[], "") });
    assert_eq!(run(&durable("delete", &server, &[])).expect(0).json()[0]["deleted"], true);
}

#[test]
fn one_value_stays_one_message_and_nothing_is_no_message() {
    let server = Server::start(|_, asked| match asked.method.as_str() {
        "HEAD" => say(200, &[("Content-Type", "Application/JSON; charset=utf-8"), next("0")], ""),
        _ => say(204, &[next("1")], ""),
    });
    run(&durable("append", &server, &["--data", "[1,2]"])).expect(0);
    run(&durable("append", &server, &["--data", "[1,2]", "--raw"])).expect(0);
    let bodies: Vec<_> =
        server.asked().into_iter().filter(|asked| asked.method == "POST").map(|a| a.body).collect();
    assert_eq!(bodies, [b"[[1,2]]".to_vec(), b"[1,2]".to_vec()]);
    let done = run(&durable("append", &server, &["--data", "{\"a\":}"])).expect(2);
    assert!(done.stderr.contains("line 1 column 6"), "{}", done.stderr);
    assert!(run(&durable("append", &server, &["--data", ""])).expect(2).stderr.contains("empty"));
    run(&["durable", "head", &(server.url.clone() + "?x=1")]).expect(2);
    run(&durable("head", &server, &["--header", "Stream-Seq: 1"])).expect(2);
}

#[test]
fn a_new_token_is_tried_at_once_and_the_same_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    std::fs::write(&file, "old-secret").unwrap();
    let written = file.clone();
    let server = Server::start(move |_, asked| match asked.header("authorization") {
        Some("Bearer new-secret") => say(204, &[next("9")], ""),
        _ => {
            std::fs::write(&written, "new-secret").unwrap();
            say(401, &[], "")
        }
    });
    let flags: Vec<&str> = TEXT.iter().copied().chain(["--token-file", file.to_str().unwrap()]).collect();
    run(&durable("append", &server, &flags)).expect(0);
    assert_eq!(server.count("POST"), 2);
    let server = Server::start(|_, _| say(401, &[], ""));
    let done = run(&durable("append", &server, &flags)).expect(4);
    assert_eq!(server.count("POST"), 1);
    assert!(!done.stderr.contains("secret"), "{}", done.stderr);
}

#[test]
fn a_body_that_is_cut_gives_every_message_once() {
    let numbers: Vec<Value> = (0..500).map(|n| json!({ "n": n })).collect();
    let body = Value::from(numbers.clone()).to_string();
    let server = Server::start(move |at, _| {
        let whole = say(200, &[JSON, next("7"), UP_TO_DATE], &body);
        if at < 3 { whole.half() } else { whole }
    });
    let done = run(&durable("read", &server, &["--batch-bytes", "512"])).expect(0);
    assert_eq!(done.json(), numbers);
    assert!(server.asked().iter().all(|asked| asked.target == "/s?offset=-1"));
}

#[test]
fn events_resume_behind_the_last_control() {
    let events = |text: &str| {
        Said(format!("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n{text}").into(), true)
    };
    let server = Server::start(move |at, _| match at {
        0 => say(200, &[JSON, next("1"), UP_TO_DATE], "[]"),
        1 => events(
            "event: data\ndata: [1]\n\nevent: control\ndata: {\"streamNextOffset\":\"2\",\"streamCursor\":\"c\"}\n\n\
             event: data\ndata: [2]\n\n",
        ),
        _ => events(
            "event: data\ndata: [2]\n\nevent: control\ndata: {\"streamNextOffset\":\"3\",\"streamClosed\":true}\n\n",
        ),
    });
    let done = run(&durable("tail", &server, &["-o", "json"])).expect(0);
    let pieces: Vec<_> =
        done.json().iter().map(|line| (line["items"].clone(), line["offset"].clone())).collect();
    assert_eq!(pieces, [(json!([]), json!("1")), (json!([1]), json!("2")), (json!([2]), json!("3"))]);
    let targets: Vec<_> = server.asked().into_iter().map(|asked| asked.target).collect();
    assert_eq!(targets, ["/s?offset=now", "/s?live=sse&offset=1", "/s?cursor=c&live=sse&offset=2"]);
}

#[test]
fn answers_that_make_no_sense_end_it() {
    for (body, headers, word) in [
        ("[1", vec![JSON, next("7"), UP_TO_DATE], "malformed"),
        ("<html>", vec![("Content-Type", "text/html")], "malformed"),
        ("[1]", vec![JSON, next("3")], "no progress"),
    ] {
        let server = Server::start(move |_, _| say(200, &headers, body));
        let done = run(&durable("read", &server, &["--offset", "3", "--retry-base", "10ms"])).expect(1);
        assert!(done.stderr.contains(word) && done.stderr.contains("offset 3"), "{}", done.stderr);
        assert_eq!(done.stdout, "");
        assert!(server.asked().len() <= 5);
    }
    let server = Server::start(|_, _| say(500, &[], ""));
    let done = run(&durable("head", &server, &["--retry-for", "300ms"])).expect(5);
    assert_eq!(done.stderr.lines().count(), 2, "each cause once, and the end: {}", done.stderr);
}

#[test]
fn a_checkpoint_goes_on_where_it_was_and_is_never_trusted_blindly() {
    let dir = tempfile::tempdir().unwrap();
    let (file, out) = (dir.path().join("checkpoint"), dir.path().join("out"));
    let (file, out) = (file.to_str().unwrap(), out.to_str().unwrap());
    let server = Server::start(|_, asked| match asked.target.as_str() {
        "/s?offset=-1" => say(200, &[JSON, next("5"), UP_TO_DATE], "[1,2,3]"),
        _ => say(200, &[JSON, next("6"), CLOSED], "[4]"),
    });
    let flags = ["--checkpoint", file, "--out", out];
    run(&durable("read", &server, &flags)).expect(0);
    // The output is as after a kill between writing it and saving the checkpoint.
    std::fs::OpenOptions::new().append(true).open(out).unwrap().write_all(b"half a li").unwrap();
    run(&durable("read", &server, &flags)).expect(0);
    assert_eq!(std::fs::read_to_string(out).unwrap(), "1\n2\n3\n4\n");
    let kept: Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    assert_eq!(
        (&kept["offset"], &kept["closed"], &kept["out_bytes"]),
        (&json!("6"), &json!(true), &json!(8))
    );
    let before = server.asked().len();
    run(&durable("tail", &server, &flags)).expect(0);
    assert_eq!(server.asked().len(), before, "a closed stream costs no request");
    let done = run(&["durable", "read", "http://127.0.0.1:1/other", "--checkpoint", file]).expect(2);
    assert!(done.stderr.contains("/other") && done.stderr.contains(&server.url), "{}", done.stderr);
    std::fs::write(file, "{\"version\":1").unwrap();
    assert!(run(&durable("read", &server, &["--checkpoint", file])).expect(1).stderr.contains("damaged"));
    let skipped = json!({"version": 1, "stream": server.url, "offset": "-1", "cursor": null, "skip": 2,
        "out_bytes": null, "closed": false});
    std::fs::write(file, skipped.to_string()).unwrap();
    assert_eq!(run(&durable("read", &server, &["--checkpoint", file])).expect(0).stdout, "3\n");
    let done = run(&durable("read", &server, &["--max", "2", "-o", "json"])).expect(0);
    assert_eq!((&done.json()[0]["items"], &done.json()[0]["offset"]), (&json!([1, 2]), &Value::Null));
}

/// The state of one producer at the server.
#[derive(Default)]
struct Producing {
    epoch: u64,
    expected: u64,
    log: Vec<Value>,
}

impl Producing {
    fn answer(&mut self, asked: &Asked) -> Said {
        if asked.method == "HEAD" {
            return say(200, &[JSON, next("0")], "");
        }
        let (epoch, seq) = (asked.number("producer-epoch"), asked.number("producer-seq"));
        if epoch < self.epoch {
            return say(403, &[("Producer-Epoch", &self.epoch.to_string())], "");
        }
        if epoch > self.epoch {
            (self.epoch, self.expected) = (epoch, 0);
        }
        if seq > self.expected {
            return say(409, &[("Producer-Expected-Seq", &self.expected.to_string())], "");
        }
        if seq < self.expected {
            return say(204, &[("Producer-Seq", &(self.expected - 1).to_string())], "");
        }
        self.expected += 1;
        if !asked.body.is_empty() {
            let messages: Vec<Value> = serde_json::from_slice(&asked.body).unwrap();
            self.log.extend(messages);
        }
        say(if asked.body.is_empty() { 204 } else { 200 }, &[next(&self.log.len().to_string())], "")
    }
}

fn input(dir: &tempfile::TempDir, lines: usize) -> (String, Vec<Value>) {
    let messages: Vec<Value> = (0..lines).map(|n| json!({ "n": n })).collect();
    let text: String = messages.iter().map(|message| format!("{message}\n")).collect();
    let path = dir.path().join("input");
    std::fs::write(&path, text).unwrap();
    (path.to_str().unwrap().to_owned(), messages)
}

#[test]
fn a_producer_is_exact_through_every_fault() {
    let dir = tempfile::tempdir().unwrap();
    let (file, messages) = input(&dir, 12);
    for in_flight in ["1", "5"] {
        for fault in ["503", "429", "dropped", "lost"] {
            let state = Arc::new(Mutex::new(Producing::default()));
            let shared = state.clone();
            let server = Server::start(move |at, asked| {
                let mut state = shared.lock().unwrap();
                match fault {
                    "503" | "429" if at % 4 == 2 => say(fault.parse().unwrap(), &[], ""),
                    "dropped" if at % 4 == 2 => cut(),
                    "lost" if at % 4 == 2 => {
                        state.answer(asked);
                        cut()
                    }
                    _ => state.answer(asked),
                }
            });
            let flags = [
                "--file",
                &file,
                "--max-batch-items",
                "1",
                "--in-flight",
                in_flight,
                "--retry-base",
                "5ms",
                "--close",
            ];
            let done = run(&durable("produce", &server, &flags)).expect(0);
            assert_eq!(state.lock().unwrap().log, messages, "{in_flight} {fault}");
            let lines = done.json();
            let last = lines.last().unwrap();
            assert_eq!(
                (&last["done"], &last["messages"], &last["closed"]),
                (&json!(true), &json!(12), &json!(true))
            );
        }
    }
}

#[test]
fn a_producer_ends_when_somebody_else_has_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let (file, messages) = input(&dir, 3);
    let flags = ["--file", &file, "--producer-id", "me"];
    let claiming = ["--file", &file, "--producer-id", "me", "--auto-claim"];
    for (epoch, expected, words) in
        [(0, 4, &["used before", "me", "epoch 0"][..]), (7, 0, &["fenced", "me", "epoch 0", "epoch 7"])]
    {
        let start = move || {
            let state = Arc::new(Mutex::new(Producing { epoch, expected, log: Vec::new() }));
            let shared = state.clone();
            (Server::start(move |_, asked| shared.lock().unwrap().answer(asked)), state)
        };
        let (server, _) = start();
        let done = run(&durable("produce", &server, &flags)).expect(6);
        for word in words {
            assert!(done.stderr.contains(word), "{}", done.stderr);
        }
        assert_eq!(done.json().last().unwrap()["done"], false);
        let (server, state) = start();
        run(&durable("produce", &server, &claiming)).expect(0);
        let state = state.lock().unwrap();
        assert_eq!((&state.log, state.epoch), (&messages, epoch + 1));
    }
}

#[test]
fn a_state_file_makes_a_restart_exact_and_knows_its_input() {
    let dir = tempfile::tempdir().unwrap();
    let (file, messages) = input(&dir, 40);
    let kept = dir.path().join("state");
    let kept = kept.to_str().unwrap();
    let state = Arc::new(Mutex::new(Producing::default()));
    let shared = state.clone();
    // After every few batches the server is unavailable, and the outcome of the last batch is unknown until the next
    // run.
    let (mut posts, mut away) = (0, false);
    let server = Server::start(move |_, asked| {
        if asked.method == "HEAD" {
            away = false;
        } else if away {
            return cut();
        }
        let said = shared.lock().unwrap().answer(asked);
        posts += u32::from(asked.method == "POST");
        away = asked.method == "POST" && posts % 4 == 0;
        if away { cut() } else { said }
    });
    let flags =
        ["--file", &file, "--state", kept, "--max-batch-items", "3", "--linger", "0s", "--retry-for", "50ms"];
    let mut runs = 0;
    while run(&durable("produce", &server, &flags)).code != Some(0) {
        runs += 1;
        assert!(runs < 20);
    }
    assert!(runs > 0);
    assert_eq!(state.lock().unwrap().log, messages);
    let posts = server.count("POST");
    run(&durable("produce", &server, &flags)).expect(0);
    assert_eq!(server.count("POST"), posts, "all of it is there");
    for (text, word) in [("{\"n\":0}\n", "shorter"), (&"{\"n\":9}\n".repeat(60)[..], "another input")] {
        std::fs::write(&file, text).unwrap();
        assert!(run(&durable("produce", &server, &flags)).expect(1).stderr.contains(word));
    }
    assert_eq!(server.count("POST"), posts, "nothing is sent");
    let other: Vec<&str> = flags.iter().copied().chain(["--producer-id", "other"]).collect();
    run(&durable("produce", &server, &other)).expect(2);
}

#[test]
fn what_comes_before_a_bad_line_is_delivered() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("input");
    std::fs::write(&file, "1\n\n2\nx\n3\n").unwrap();
    let state = Arc::new(Mutex::new(Producing::default()));
    let shared = state.clone();
    let server = Server::start(move |_, asked| shared.lock().unwrap().answer(asked));
    let done = run(&durable("produce", &server, &["--file", file.to_str().unwrap()])).expect(1);
    assert!(done.stderr.contains("line 4"), "{}", done.stderr);
    assert_eq!(state.lock().unwrap().log, [json!(1), json!(2)]);
    assert_eq!(done.json().last().unwrap()["messages"], 2);
}

#[test]
fn the_demo_loses_nothing_and_says_so() {
    let mut command = relay(&["durable", "demo", "--for", "1200ms", "-o", "json"]);
    command.env_remove("RELAY_OUTPUT");
    let done = run_command(command).expect(0);
    let last = done.json().pop().unwrap();
    assert_eq!(
        (&last["lost"], &last["duplicated"], &last["read"]),
        (&json!(0), &json!(0), &last["produced"])
    );
    assert!(done.stdout.contains("was there already"), "{}", done.stdout);
    // To people it tells whole sentences, also on a narrow terminal.
    let command = relay(&["durable", "demo", "--for", "900ms", "-o", "table"]);
    let (code, told) = super::terminal::Terminal::start(command, 60).wait();
    assert_eq!(code, Some(0), "{told}");
    assert!(told.lines().all(|line| line.chars().count() <= 60) && !told.contains('…'), "{told}");
    let words = told.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(
        words.contains("a producer writes to it, a reader follows it")
            && words.contains("lost 0, duplicated 0"),
        "{told}"
    );
}
