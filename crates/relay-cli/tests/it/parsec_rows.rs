//! `relay parsec` in tables of cases: every command's output, exit codes and messages.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};

use relay_testkit::{Peer, Reply, Script, sse_event};
use serde_json::{Value, json};

use super::process::{Done, Running, relay, run_command};

pub(super) const CHANNEL: &str = "public:demo.chat";

pub(super) fn parsec(arguments: &[&str]) -> Command {
    let mut command = relay(&["parsec"]);
    command.args(arguments);
    command
}

/// A command for a server, with JSON output and short delays.
pub(super) fn at(url: &str, verb: &str, arguments: &[&str]) -> Command {
    let mut command =
        parsec(&[verb, "--url", url, "-o", "json", "--reconnect-base", "20ms", "--reconnect-cap", "100ms"]);
    command.args(arguments);
    command
}

/// `relay parsec serve` on a free port.
pub(super) struct Server {
    pub(super) child: Child,
    _stdout: BufReader<ChildStdout>,
    pub(super) url: String,
}

impl Server {
    pub(super) fn start(arguments: &[&str]) -> Self {
        let mut command = parsec(&["serve", "--listen", "127.0.0.1:0"]);
        let mut child = command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        let url = line.trim().strip_prefix("relay listening on ").expect("the first line").to_owned();
        Self { child, _stdout: stdout, url }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a command with this input.
pub(super) fn fed(mut command: Command, input: &[u8]) -> Done {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    // The command may end before it has read everything.
    let writing = std::thread::spawn(move || drop(stdin.write_all(&input)));
    let output = child.wait_with_output().unwrap();
    writing.join().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Done { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

pub(super) fn publish(server: &Server, producer: &str, input: &str, arguments: &[&str]) -> Done {
    let mut command = at(&server.url, "publish", &[CHANNEL, "--producer", producer]);
    command.args(arguments);
    fed(command, input.as_bytes())
}

/// Checks that a line has these fields. Others are not compared.
#[track_caller]
pub(super) fn is(line: &Value, expected: Value) {
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(line.get(name), Some(value), "{name} of {line}");
    }
}

const SCHEMAS: &str = r#"{"patterns":[
    {"pattern":"public:demo.{room}","version":3,"aspects":{"said":{"payload_schema":{"type":"object","required":["text"],"properties":{"text":{"type":"string"}}}},"free":{}}},
    {"pattern":"public:**","aspects":{"said":{}}}]}"#;

pub(super) fn schemas(directory: &tempfile::TempDir, text: &str) -> String {
    let path = directory.path().join("schemas.json");
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn published_lines_and_envelopes_of_lines() {
    let server = Server::start(&[]);
    let done =
        publish(&server, "me", "{ \"text\" : \"a b\" }\n\n1.50\nnull\n", &["--aspect", "said"]).expect(0);
    let lines = done.json();
    assert_eq!(lines.len(), 3);
    for (sequence, line) in (1..).zip(&lines) {
        is(line, json!({"event": "published", "channel": CHANNEL, "sequence": sequence, "duplicate": false}));
        assert!(line["position"].as_str().unwrap().ends_with(&format!(".{sequence}")));
        let time = line["produced_at"].as_str().unwrap();
        assert!(time.len() == 24 && time.ends_with('Z'), "{time}");
    }
    // The values of the flags, and values of a line, which take precedence.
    let lines = concat!(
        "{\"payload\":{\"big\":9007199254740993}}\n",
        "{\"aspect\":\"own\",\"payload\":null,\"schema_ref\":\"r/2\",\"causation\":{\"parent_channel\":\"public:x.y\",\"parent_sequence\":4},\"later\":1}\n",
        "{}\n",
    );
    let flags = [
        "--envelopes",
        "--aspect",
        "flag",
        "--schema-ref",
        "r/1",
        "--parent",
        "public:a.b/7",
        "--kind",
        "agent",
    ];
    publish(&server, "it", lines, &flags).expect(0);
    publish(&server, "one", "not read", &["--aspect", "said", "--payload", "{\"a\": [1]}"]).expect(0);
    let history = run_command(at(&server.url, "history", &[CHANNEL])).expect(0);
    let texts: Vec<&str> =
        history.stdout.lines().map(|line| line.split_once("\"envelope\":{").unwrap().1).collect();
    assert!(
        texts[0].contains(r#""payload":{"text":"a b"}"#) && texts[0].contains(r#""kind":"service""#),
        "{}",
        texts[0]
    );
    assert!(texts[1].contains(r#""payload":1.50"#) && texts[2].contains(r#""payload":null"#));
    let envelopes: Vec<Value> = history.json().into_iter().map(|line| line["envelope"].clone()).collect();
    is(
        &envelopes[3],
        json!({"aspect": "flag", "schema_ref": "r/1", "causation": {"parent_channel": "public:a.b", "parent_sequence": 7}}),
    );
    assert_eq!(envelopes[3]["producer"], json!({"id": "it", "kind": "agent"}));
    is(
        &envelopes[4],
        json!({"aspect": "own", "schema_ref": "r/2", "payload": null, "causation": {"parent_channel": "public:x.y", "parent_sequence": 4}}),
    );
    assert!(envelopes[5].get("payload").is_none(), "absent stays absent");
    assert_eq!(envelopes[6]["payload"], json!({"a": [1]}));
    let place = history.json()[0]["position"].clone();
    is(&history.json()[0], json!({"event": "envelope", "channel": CHANNEL, "position": place}));
}

#[test]
fn what_is_wrong_with_a_line_is_named_without_its_content() {
    let server = Server::start(&[]);
    for (line, words) in [
        ("{\"aspect\":\"s3cret\"", "JSON"),
        ("[\"s3cret\"]", "object"),
        ("{\"payload\":1}", "aspect"),
        ("{\"aspect\":{\"s3cret\":1}}", "aspect"),
        ("{\"aspect\":\"a\",\"schema_ref\":[\"s3cret\"]}", "schema_ref"),
        ("{\"aspect\":\"a\",\"causation\":\"s3cret\"}", "causation"),
        ("{\"aspect\":\"a\",\"causation\":{\"parent_channel\":[\"s3cret\"]}}", "causation.parent_channel"),
        ("{\"aspect\":\"a\",\"causation\":{\"parent_sequence\":\"s3cret\"}}", "causation.parent_sequence"),
        ("{\"aspect\":\"a\",\"causation\":{\"parent_sequence\":1.5}}", "causation.parent_sequence"),
    ] {
        let done = publish(&server, "me", &format!("\n{line}\n{{\"aspect\":\"never\"}}\n"), &["--envelopes"])
            .expect(1);
        assert!(done.stderr.contains("line 2") && done.stderr.contains(words), "{line}: {}", done.stderr);
        assert!(!done.stderr.contains("s3cret") && done.stdout.is_empty(), "{line}: {}", done.stderr);
    }
    // No line after it was read: the channel does not exist.
    run_command(at(&server.url, "history", &[CHANNEL])).expect(3);
}

#[test]
fn keep_going_says_what_failed_and_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let file = schemas(&directory, SCHEMAS);
    let server = Server::start(&["--schemas", &file, "--validate", "strict"]);
    let large = format!("\"{}\"", "x".repeat(70_000));
    let input = format!(
        "{{\"text\":\"a\"}}\n{{\"text\":\"s3cret\",\"text\":1}}\nnope\n{large}\n{{\"text\":\"b\"}}\n"
    );
    let done = publish(&server, "me", &input, &["--aspect", "said", "--keep-going"]).expect(1);
    let brief: Vec<_> = done
        .json()
        .iter()
        .map(|line| {
            (line["event"].clone(), line["line"].clone(), line["code"].clone(), line["sequence"].clone())
        })
        .collect();
    assert_eq!(
        brief,
        [
            (json!("published"), json!(null), json!(null), json!(1)),
            (json!("failed"), json!(2), json!("payload-invalid"), json!(null)),
            (json!("failed"), json!(3), json!("not-json"), json!(null)),
            (json!("failed"), json!(4), json!("envelope-too-large"), json!(null)),
            (json!("published"), json!(null), json!(null), json!(2)),
        ]
    );
    assert!(done.json()[3]["error"].as_str().unwrap().contains("65536"));
    assert!(!done.stdout.contains("s3cret") && !done.stderr.contains("s3cret"));
    // The client's own validator reports the same error, and nothing is sent.
    let own = ["--aspect", "sung", "--schemas", &file, "--validate", "strict", "--keep-going"];
    let done = publish(&server, "own", "1\n", &own).expect(1);
    is(&done.json()[0], json!({"event": "failed", "line": 1, "code": "unsupported-aspect"}));
    // A conflict has the code that the server sent.
    let done = publish(&server, "me", "{\"text\":\"c\"}\n", &["--aspect", "said"]).expect(1);
    assert!(done.stderr.contains("--sequence-file FILE keeps the number"), "{}", done.stderr);
    let done = publish(&server, "me", "{\"text\":\"c\"}\n", &["--aspect", "said", "--keep-going"]).expect(1);
    is(&done.json()[0], json!({"event": "failed", "line": 1, "code": "sequence-conflict"}));
}

/// 401, 403 and 404 end the command even with `--keep-going`.
#[tokio::test]
async fn a_refusal_is_final_and_has_its_exit_code() {
    for (status, code) in [(401, 4), (403, 4), (404, 3), (400, 1), (413, 1)] {
        let peer = Peer::start(
            Script::new()
                .always("/parsec/publish", Reply::empty(status))
                .always("/parsec/stream", Reply::empty(status)),
        )
        .await;
        let url = peer.url();
        let done = tokio::task::spawn_blocking(move || {
            let end = run_command(at(&url, "subscribe", &[CHANNEL])).expect(code);
            is(
                &end.json()[0],
                json!({"event": "ended", "subscription": 0, "channel": CHANNEL, "code": code}),
            );
            assert!(end.json()[0]["reason"].as_str().unwrap().contains(&status.to_string()));
            fed(
                at(&url, "publish", &[CHANNEL, "--producer", "me", "--aspect", "a", "--keep-going"]),
                b"1\n2\n",
            )
        })
        .await
        .unwrap()
        .expect(code);
        let goes_on = if matches!(status, 401 | 403 | 404) { 1 } else { 2 };
        let publishes = peer.requests().iter().filter(|request| request.method() == "POST").count();
        assert_eq!(publishes, goes_on, "{status}: {}", done.stderr);
    }
    let peer = Peer::start(Script::new().always("/parsec/stream", Reply::empty(204))).await;
    let url = peer.url();
    let done = tokio::task::spawn_blocking(move || {
        run_command(at(&url, "subscribe", &[CHANNEL, "public:other.one"]))
    })
    .await;
    let lines = done.unwrap().expect(0).json();
    assert_eq!(lines.len(), 2);
    assert!(lines.iter().all(|line| line["event"] == "ended" && line["code"] == 0), "{lines:?}");
}

/// Every line that a subscription prints.
#[tokio::test]
async fn every_line_of_a_subscription() {
    let directory = tempfile::tempdir().unwrap();
    let file = schemas(&directory, SCHEMAS);
    let envelope = |at: &str, producer: &str, sequence: i64, rest: &str| {
        let text = format!(
            r#"{{"aspect":"said","producer":{{"id":"{producer}","kind":"robot"}},"sequence":{sequence}{rest}}}"#
        );
        sse_event("envelope", Some(at), &text)
    };
    let text = r#","payload":{"text":"hi"},"unknown":1"#;
    let stream = [
        sse_event("connected", None, r#"{"resumes_after":"e.0","heartbeat_seconds":15}"#),
        envelope("e.1", "p", 1, &format!("{text},\"produced_at\":\"2026-05-27T16:22:09.3319+02:00\"")),
        envelope("e.2", "p", 4, text),
        envelope("e.3", "p", 3, text),
        sse_event("envelope", Some("e.4"), "[\"s3cret\"]"),
        envelope("e.5", "p", 5, r#","payload":{"text":1}"#),
        sse_event(
            "gap",
            Some("e.9"),
            r#"{"reason":"slow-consumer","requested":null,"resumes_after":"e.9","missed":4}"#,
        ),
        envelope("e.10", "q", 1, text),
    ]
    .concat();
    let strict = ["--schemas", &file, "--validate", "strict"].map(str::to_owned);
    let warn = ["--schemas", &file, "--validate", "warn"].map(str::to_owned);
    for (validate, mode) in [(strict, "strict"), (warn, "warn")] {
        let peer = Peer::start(
            Script::new()
                .on("/parsec/stream", Reply::sse().send(stream.clone()).cut())
                .always("/parsec/stream", Reply::empty(204)),
        )
        .await;
        let url = peer.url();
        let done = tokio::task::spawn_blocking(move || {
            let mut command = at(
                &url,
                "subscribe",
                &[CHANNEL, "--after", "e.0", "--client-id", "me", "--conn-info", "{\"a\":1}"],
            );
            command.args(validate);
            run_command(command).expect(0)
        })
        .await
        .unwrap();
        let lines = done.json();
        let of = |event: &str| -> Vec<Value> {
            lines.iter().filter(|line| line["event"] == event).cloned().collect()
        };
        assert!(
            lines.iter().all(|line| line["subscription"] == 0 && line["channel"] == CHANNEL),
            "{lines:?}"
        );
        is(&of("subscribed")[0], json!({"position": "e.0", "resumed": true}));
        let first = &of("envelope")[0];
        is(first, json!({"position": "e.1"}));
        assert_eq!(
            first["envelope"],
            json!({"channel": "", "sequence": 1, "producer": {"id": "p", "kind": "robot"}, "aspect": "said",
                   "payload": {"text": "hi"}, "produced_at": "2026-05-27T14:22:09.331Z"})
        );
        assert_eq!(of("envelope")[1]["envelope"]["produced_at"], json!(null));
        is(
            &of("gap")[0],
            json!({"producer": "p", "missing": 2, "from": 2, "to": 3, "cause": "sequence", "position": "e.1"}),
        );
        is(
            &of("gap")[1],
            json!({"producer": null, "missing": 4, "from": null, "to": null, "cause": "slow-consumer", "position": "e.9"}),
        );
        is(&of("duplicate")[0], json!({"producer": "p", "sequence": 3, "high_water": 4, "position": "e.3"}));
        is(&of("undecodable")[0], json!({"position": "e.4", "bytes": 10, "error": "not a JSON object"}));
        if mode == "strict" {
            is(
                &of("rejected")[0],
                json!({"position": "e.5", "producer": "p", "sequence": 5, "aspect": "said", "code": "payload-invalid"}),
            );
            assert!(of("rejected")[0]["reason"].as_str().unwrap().contains(".text"));
            assert!(of("envelope").iter().all(|line| line.get("warning").is_none()));
        } else {
            assert!(of("envelope")[2]["warning"].as_str().unwrap().contains(".text"));
        }
        is(lines.last().unwrap(), json!({"event": "ended", "code": 0}));
        assert!(lines.last().unwrap()["reason"].as_str().unwrap().contains("204"));
        let request = &peer.requests()[0];
        assert_eq!(request.header("last-event-id"), Some("e.0"));
        assert_eq!(
            (request.query("client_id").as_deref(), request.query("conn_info").as_deref()),
            (Some("me"), Some("{\"a\":1}"))
        );
        assert!(!done.stderr.contains("s3cret") && !done.stdout.contains("s3cret"));
    }
}

#[test]
fn where_a_subscription_begins_and_ends() {
    let server = Server::start(&[]);
    let sent = publish(&server, "me", "1\n2\n3\n4\n", &["--aspect", "n"]).expect(0).json();
    let second = sent[1]["position"].as_str().unwrap();
    let numbers = |arguments: &[&str]| -> Vec<i64> {
        let mut command = at(&server.url, "subscribe", &[CHANNEL]);
        let lines = run_command({
            command.args(arguments);
            command
        })
        .expect(0)
        .json();
        assert_eq!(lines[0]["resumed"], arguments.contains(&"--after"), "{lines:?}");
        lines.iter().filter_map(|line| line["envelope"]["sequence"].as_i64()).collect()
    };
    assert_eq!(numbers(&["--from-start", "--max", "2"]), [1, 2]);
    assert_eq!(numbers(&["--from-sequence", "2", "--max", "2"]), [3, 4]);
    assert_eq!(numbers(&["--after", second, "--max", "1"]), [3]);
    assert_eq!(numbers(&["--from-start", "--aspect", "other", "--for", "1s"]), Vec::<i64>::new());
    assert_eq!(numbers(&["--for", "500ms"]), Vec::<i64>::new());
    // A command that never had a connection has failed.
    let lost = run_command(at("http://127.0.0.1:1", "subscribe", &[CHANNEL, "--for", "300ms"])).expect(1);
    assert!(lost.stderr.contains("no connection"), "{}", lost.stderr);
    // A signal to a client.
    let running = Running::start(at(&server.url, "subscribe", &[CHANNEL, CHANNEL]));
    let both: Vec<_> = (0..2).map(|_| running.json()["subscription"].as_u64().unwrap()).collect();
    assert!(both.contains(&0) && both.contains(&1), "{both:?}");
    running.signal("TERM");
    running.wait().expect(143);
    let running = Running::start(at(&server.url, "subscribe", &[CHANNEL]));
    running.json();
    running.signal("INT");
    running.wait().expect(130);
}

#[test]
fn history_and_presence_lines() {
    let server = Server::start(&[]);
    publish(&server, "a", "1\n2\n3\n", &["--aspect", "n"]).expect(0);
    publish(&server, "b", "1\n", &["--aspect", "n"]).expect(0);
    let numbers = |arguments: &[&str]| -> Vec<(String, i64)> {
        let mut command = at(&server.url, "history", &[CHANNEL]);
        command.args(arguments);
        let of = |line: Value| {
            let envelope = &line["envelope"];
            (envelope["producer"]["id"].as_str().unwrap().to_owned(), envelope["sequence"].as_i64().unwrap())
        };
        run_command(command).expect(0).json().into_iter().map(of).collect()
    };
    assert_eq!(numbers(&["--limit", "2"]), [("a".into(), 3), ("b".into(), 1)]);
    assert_eq!(numbers(&["--since", "1", "--until", "2", "--producer", "a"]), [("a".into(), 2)]);
    let table = |args: &[&str]| {
        let args = [&["parsec"], args, &["--url", &server.url, "-o", "table"]].concat();
        run_command(relay(&args)).expect(0).stdout
    };
    let rows_of = |table: &str| -> Vec<Vec<String>> {
        table.lines().map(|line| line.split_whitespace().map(str::to_owned).collect()).collect()
    };
    let history = table(&["history", CHANNEL, "--limit", "2", "--timestamps"]);
    let rows = rows_of(&history);
    assert_eq!(rows[0], ["TIME", "POSITION", "PRODUCER", "SEQUENCE", "ASPECT", "PAYLOAD"], "{history}");
    assert_eq!((rows.len(), rows[1][2..].join(" ").as_str()), (3, "a #3 n 3"), "{history}");
    assert!(rows[1][0].ends_with('Z') && rows[1][1].ends_with(".3"), "{history}");
    run_command(at(&server.url, "history", &["public:no.one"])).expect(3);
    run_command(at(&server.url, "history", &[CHANNEL, "--limit", "1001"])).expect(2);
    assert_eq!(run_command(at(&server.url, "presence", &[CHANNEL])).expect(0).stdout, "");
    let listening = Running::start(at(
        &server.url,
        "subscribe",
        &[CHANNEL, "--client-id", "me", "--conn-info", "{\"r\":1.50}"],
    ));
    listening.json();
    let line = run_command(at(&server.url, "presence", &[CHANNEL])).expect(0).stdout;
    assert_eq!(line, "{\"user_id\":\"anonymous\",\"client_id\":\"me\",\"conn_info\":{\"r\":1.50}}\n");
    let presence = table(&["presence", CHANNEL]);
    assert_eq!(rows_of(&presence), [["CLIENT", "USER"], ["me", "anonymous"]], "{presence}");
    run_command(at(&server.url, "presence", &["public:no.one"])).expect(3);
    run_command(at(&server.url, "subscribe", &[CHANNEL, "--conn-info", "{"])).expect(2);
}

/// The history of another server may contain something that is not an envelope.
#[tokio::test]
async fn an_unreadable_part_of_a_history_is_a_line() {
    let page = r#"{"channel":"c","epoch":"e","head":3,"oldest":1,"envelopes":[{"position":"e.1","envelope":{"aspect":"a","producer":{"id":"p"},"sequence":1}},{"position":"e.2","envelope":["s3cret"]},{"position":"e.3","envelope":{"aspect":"a","producer":{"id":"p"},"sequence":0}}]}"#;
    let peer =
        Peer::start(Script::new().always("/parsec/history", Reply::new(200, "application/json", page))).await;
    let url = peer.url();
    let done = tokio::task::spawn_blocking(move || run_command(at(&url, "history", &[CHANNEL])))
        .await
        .unwrap()
        .expect(0);
    let lines = done.json();
    assert_eq!(lines[0]["event"], "envelope");
    is(&lines[1], json!({"event": "undecodable", "position": "e.2", "error": "not a JSON object"}));
    is(&lines[2], json!({"event": "undecodable", "position": "e.3"}));
    assert!(lines[2]["error"].as_str().unwrap().contains("sequence") && !done.stdout.contains("s3cret"));
}

#[test]
fn schema_from_a_file_and_from_a_server() {
    let directory = tempfile::tempdir().unwrap();
    let file = schemas(&directory, SCHEMAS);
    let server = Server::start(&["--schemas", &file]);
    for source in [["--schemas", &file], ["--url", &server.url]] {
        let schema = |arguments: &[&str]| {
            let mut command = parsec(&["schema"]);
            command.args(arguments).args(source).args(["-o", "json"]);
            command
        };
        let listed = run_command(schema(&["list"])).expect(0).json();
        assert_eq!(
            listed.iter().map(|line| line["pattern"].as_str().unwrap()).collect::<Vec<_>>(),
            ["public:**", "public:demo.{room}"]
        );
        let resolved = run_command(schema(&["resolve", "public:demo.x"])).expect(0).json();
        assert_eq!(
            resolved,
            [json!({"pattern": "public:demo.{room}", "version": 3, "bindings": {"room": "x"}})]
        );
        let missing = run_command(schema(&["resolve", "private:a.b.c"])).expect(3);
        assert!(missing.stderr.contains("private:a.b.c"), "{}", missing.stderr);
        let checked = fed(
            schema(&["check", "public:demo.x", "said"]),
            b"{\"text\":\"a\"}\n\n{\"text\":1}\n\xff\nnope\n",
        )
        .expect(1);
        let brief: Vec<_> = checked
            .json()
            .iter()
            .map(|line| (line["line"].as_u64().unwrap(), line["ok"].as_bool().unwrap(), line["code"].clone()))
            .collect();
        assert_eq!(
            brief,
            [
                (1, true, json!(null)),
                (3, false, json!("payload-invalid")),
                (4, false, json!("not-json")),
                (5, false, json!("not-json"))
            ]
        );
        assert!(checked.json()[1]["reason"].as_str().unwrap().contains(".text"));
        fed(schema(&["check", "public:demo.x", "free"]), b"1\n").expect(0);
        // A channel without a pattern takes anything.
        fed(schema(&["check", "private:a.b.c", "x"]), b"1\n").expect(0);
        let undeclared = fed(schema(&["check", "public:demo.x", "sung"]), b"1\n").expect(1);
        assert_eq!(undeclared.json()[0]["code"], "unsupported-aspect");
    }
}

#[test]
fn a_bad_schemas_file_is_named_with_its_pattern_and_rule() {
    let directory = tempfile::tempdir().unwrap();
    for (text, words) in [
        (r#"[{"pattern":"a..b"}]"#, &["a..b", "not empty"][..]),
        (r#"[{"pattern":"a*.b"}]"#, &["a*.b", "mix"]),
        (r#"[{"pattern":"a.**.b"}]"#, &["a.**.b", "last"]),
        (r#"[{"pattern":"a.{}"}]"#, &["a.{}", "name"]),
        (r#"[{"pattern":""}]"#, &["pattern", "not empty"]),
        (r#"{"patterns":[{"pattern":"a.b"},{"pattern":"a.b"}]}"#, &["a.b", "registered already"]),
        ("nope", &["list of patterns"]),
        (
            r#"{"patterns":[{"pattern":"a.b","aspects":{"said":{"type":"object"}}}]}"#,
            &[
                ": patterns[0].aspects.said: unknown member \"type\" (known: name, description, payload_schema, required)",
            ],
        ),
        (
            r#"[{"pattern":"a.b","aspects":{"said":{"schema":{}}}}]"#,
            &["[0].aspects.said: unknown member \"schema\""],
        ),
        (r#"[{"pattern":"a.b","aspects":["said"]}]"#, &["[0].aspects: not an object"]),
        ("", &["list of patterns"]),
    ] {
        let file = schemas(&directory, text);
        for command in [
            parsec(&["schema", "list", "--schemas", &file]),
            parsec(&["serve", "--listen", "127.0.0.1:0", "--schemas", &file]),
            parsec(&[
                "publish",
                CHANNEL,
                "--producer",
                "me",
                "--aspect",
                "a",
                "--schemas",
                &file,
                "--validate",
                "strict",
            ]),
            parsec(&["subscribe", CHANNEL, "--schemas", &file, "--validate", "warn"]),
        ] {
            let done = run_command(command).expect(1);
            assert!(
                done.stderr.contains(&file) && words.iter().all(|word| done.stderr.contains(word)),
                "{text}: {}",
                done.stderr
            );
        }
    }
}

#[test]
fn the_sequence_file_is_one_process_s_and_outlives_it() {
    let directory = tempfile::tempdir().unwrap();
    let path: PathBuf = directory.path().join("sequences");
    std::fs::write(&path, "{\"public:other.one\":9,\"public:demo.chat\":5}").unwrap();
    let file = path.to_str().unwrap().to_owned();
    let server = Server::start(&[]);
    let done = publish(&server, "me", "1\n2\n", &["--aspect", "n", "--sequence-file", &file]).expect(0);
    assert_eq!(done.json().iter().map(|line| line["sequence"].as_i64().unwrap()).collect::<Vec<_>>(), [6, 7]);
    let kept: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    assert_eq!(kept, json!({"public:other.one": 9, "public:demo.chat": 7}));
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
    // A line that cannot be published uses no number.
    publish(&server, "me", "nope\n", &["--aspect", "n", "--sequence-file", &file]).expect(1);
    let mut first =
        at(&server.url, "publish", &[CHANNEL, "--producer", "me", "--aspect", "n", "--sequence-file", &file]);
    let mut first = first.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    first.stdin.as_mut().unwrap().write_all(b"3\n").unwrap();
    let mut line = String::new();
    BufReader::new(first.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert!(line.contains("\"sequence\":8"), "{line}");
    let second = publish(&server, "me", "4\n", &["--aspect", "n", "--sequence-file", &file]).expect(1);
    assert!(second.stderr.contains(&file) && second.stderr.contains("in use"), "{}", second.stderr);
    drop(first.stdin.take());
    assert!(first.wait().unwrap().success());
}

/// A server that is told to stop tells its subscribers, and ends with 0.
#[test]
fn a_server_that_is_told_to_end_says_so() {
    let mut server = Server::start(&["--heartbeat", "1s"]);
    let listening = Running::start(at(&server.url, "subscribe", &[CHANNEL]));
    listening.json();
    let kill = format!("kill -TERM {}", server.child.id());
    assert!(Command::new("/bin/sh").args(["-c", &kill]).status().unwrap().success());
    assert_eq!(server.child.wait().unwrap().code(), Some(0));
    listening.until_stderr(|text| text.contains("shutdown"));
}

/// No log and no stderr contains tokens, payloads or query strings, at the most detailed log level and with any answer.
#[tokio::test]
async fn nothing_secret_is_told() {
    let answers = [
        Reply::new(200, "text/html", "<p>s3cret-page</p>"),
        Reply::new(200, "application/json", r#"{"position":"s3cret-receipt","envelopes":"s3cret"}"#),
        Reply::new(500, "application/json", r#"{"s3cret-body":1}"#),
        Reply::sse().send("event: envelope\nid: e.1\ndata: {\"aspect\":\"s3cret\",\"sequence\":\"s3cret\"}\n\n").cut(),
        Reply::sse().send("event: connected\ndata: {\"resumes_after\":\"e.0\"}\n\nevent: envelope\nid: e.1\ndata: {\"aspect\":\"a\",\"producer\":{\"id\":\"p\"},\"sequence\":1,\"payload\":\"s3cret-payload\"}\n\n").cut(),
        Reply::redirect(302, "http://127.0.0.1:1/?s3cret-location=1"),
        Reply::raw().send("s3cret-nonsense\r\n\r\n").cut(),
    ];
    for reply in answers {
        let script = ["/parsec/stream", "/parsec/publish", "/parsec/history", "/parsec/presence"]
            .iter()
            .fold(Script::new(), |script, path| script.always(path, reply.clone()));
        let peer = Peer::start(script).await;
        let url = peer.url();
        let told = tokio::task::spawn_blocking(move || {
            let mut told = String::new();
            let command = |verb: &str, arguments: &[&str]| {
                let mut command = at(&url, verb, &[CHANNEL, "--token", "s3cret-token"]);
                command.args(arguments).env("RELAY_LOG", "trace");
                command
            };
            let subscribe =
                ["--for", "300ms", "--conn-info", "\"s3cret-info\"", "--client-id", "s3cret-client"];
            told += &run_command(command("subscribe", &subscribe)).stderr;
            told += &fed(
                command("publish", &["--producer", "me", "--aspect", "a", "--publish-timeout", "300ms"]),
                b"\"s3cret-line\"\n",
            )
            .stderr;
            told += &run_command(command("history", &["--producer", "s3cret-producer"])).stderr;
            told += &run_command(command("presence", &[])).stderr;
            told
        })
        .await
        .unwrap();
        assert!(told.contains("parsec"), "something is told: {told}");
        let leak = told.find("s3cret").map(|at| &told[at.saturating_sub(200)..(at + 60).min(told.len())]);
        assert_eq!(leak, None);
    }
    // The server prints none either.
    let mut command = parsec(&["serve", "--listen", "127.0.0.1:0"]);
    command.env("RELAY_LOG", "trace");
    let server = Running::start(command);
    let url = server.line().unwrap().strip_prefix("relay listening on ").unwrap().to_owned();
    let told = tokio::task::spawn_blocking(move || {
        fed(
            at(&url, "publish", &[CHANNEL, "--producer", "me", "--aspect", "a", "--token", "s3cret-token"]),
            b"\"s3cret-line\"\n",
        )
        .expect(0);
        run_command(at(
            &url,
            "subscribe",
            &[CHANNEL, "--from-start", "--max", "1", "--conn-info", "\"s3cret-info\""],
        ))
        .expect(0);
        server.until_stderr(|text| text.contains("Stream"))
    })
    .await
    .unwrap();
    assert!(!told.contains("s3cret"), "{told}");
}
