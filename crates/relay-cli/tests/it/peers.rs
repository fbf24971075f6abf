//! The client commands with a scripted relay that misbehaves.

use std::time::{Duration, Instant};

use relay_testkit::{Conversation, Peer, RelayScript, Reply, hash_of, pods_reply, session_reply, sse_event};
use serde_json::{Value, json};

use super::process::{Done, Running, command_at, follow_at, key, run_command};

const STREAM: &str = "/events/stream";
const PODS: &str = "/pods";

fn web(n: u32) -> relay_proto::pods::Pod {
    Conversation::sample_pod(&format!("web-{n}"))
}

/// A relay whose list is always two pods at this sequence.
fn relay(sequence: u64) -> RelayScript {
    RelayScript::new("e1").always(PODS, pods_reply("e1", sequence, [&web(1), &web(2)]))
}

/// A stream that has caught up at this sequence and goes silent.
fn caught_up(sequence: u64) -> Conversation {
    Conversation::new("e1").connected(sequence).catchup_complete().silence()
}

fn run(peer: &Peer, args: &[&str]) -> Done {
    run_command(command_at(&peer.url(), args))
}

fn replay(peer: &Peer) -> Running {
    follow_at(&peer.url(), &["replay"])
}

fn sequences(lines: &[Value]) -> Vec<u64> {
    lines.iter().filter_map(|line| line["event"]["sequence"].as_u64()).collect()
}

fn streams(peer: &Peer) -> usize {
    peer.requests().iter().filter(|request| request.path() == STREAM).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn answers_that_are_retried_with_a_report() {
    for (reply, named) in [
        (Reply::new(200, "text/html", "<html>log in</html>"), "text/html"),
        (Reply::empty(408), "408"),
        (Reply::empty(425), "425"),
        (Reply::empty(500), "500"),
        (Reply::empty(502), "502"),
        (Reply::new(503, "text/plain", "away"), "503"),
    ] {
        let peer = Peer::start(relay(3).stream(reply).stream(caught_up(3))).await;
        let client = replay(&peer);
        let lines = client.until_phase("CatchupComplete");
        assert!(
            lines.iter().all(|line| line["phase"] != "ReconnectReseed"),
            "{named}: a first connect that fails"
        );
        let said = client.until_stderr(|text| text.contains(named));
        assert!(!said.contains("log in"), "payloads are not logged: {said}");
        assert_eq!(streams(&peer), 2, "{named}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn every_5xx_of_the_list_is_retried() {
    for status in [500, 501, 502, 505, 599] {
        let good = pods_reply("e1", 3, [&web(1), &web(2)]);
        for args in [&["replay", "--max", "1"][..], &["state", "--max", "1"], &["wait", "--for", "count=2"]] {
            let script = RelayScript::new("e1").on(PODS, Reply::empty(status)).always(PODS, good.clone());
            let peer = Peer::start(script.stream(caught_up(3))).await;
            let done = run(&peer, &[args, &["--reconnect-base", "5ms"]].concat());
            assert_eq!(done.code, Some(0), "{args:?} {status}: {done:?}");
            assert!(!done.json().is_empty(), "{args:?} {status}: {done:?}");
            assert!(done.stderr.contains(&status.to_string()), "{args:?}: {}", done.stderr);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_history_that_does_not_move_on_ends_with_an_error() {
    let event = |sequence: Option<u64>, hash: &str| {
        let mut event = json!({"type": "ADDED", "hash": hash, "pod": {"namespace": "a", "name": "b"}});
        if let Some(sequence) = sequence {
            event["sequence"] = sequence.into();
        }
        event
    };
    let page = |events: &[Value], next: &str| Reply::json(200, &json!({"events": events, "next_hash": next}));
    let (same, other) = (event(Some(1), "h1"), event(Some(2), "h2"));
    for (replies, lines, why) in [
        (vec![page(std::slice::from_ref(&same), "h1")], 1, "next_hash is \"h1\", the cursor of the request"),
        (vec![page(&[event(None, "h1")], "h1")], 1, "next_hash is \"h1\", the cursor of the request"),
        (vec![page(&[], "h1")], 0, "next_hash is \"h1\", the cursor of the request"),
        (vec![page(&[same], "h1"), page(&[other], "h2")], 2, "next_hash is \"h1\" again"),
        (vec![page(&[], "h1"), page(&[], "h2")], 0, "next_hash is \"h"),
    ] {
        let turns = replies.into_iter().cycle().take(40);
        let peer = Peer::start(turns.fold(relay(3), |script, reply| script.on("/events", reply))).await;
        let done = run(&peer, &["events"]).expect(1);
        assert_eq!(done.json().len(), lines, "{why}: {}", done.stdout);
        let told = "the answer cannot be used: the pages of the history do not move on: ";
        assert!(done.stderr.contains(&format!("{told}{why}")), "{why}: {}", done.stderr);
        assert!(peer.requests().len() <= 6, "{}", peer.requests().len());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn answers_that_end_it() {
    for (status, codes) in [(401, &[4][..]), (403, &[4]), (404, &[1, 3]), (400, &[1]), (410, &[1])] {
        for command in ["replay", "state", "stream"] {
            let peer = Peer::start(relay(3).always(STREAM, Reply::empty(status))).await;
            let done = run(&peer, &[command]);
            assert!(codes.contains(&done.code.unwrap()), "{command} {status}: {done:?}");
            assert!(
                done.stderr.contains(&status.to_string()),
                "{command} {status} is named: {}",
                done.stderr
            );
            assert_eq!(streams(&peer), 1, "{command} {status}: not retried");
            done.json();
            let sessions = peer.requests().iter().filter(|request| request.path() == "/auth/session").count();
            assert_eq!(sessions, 0, "no session without a token");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn nothing_more_to_come_ends_it() {
    for command in ["replay", "stream"] {
        let peer = Peer::start(relay(3).always(STREAM, Reply::empty(204))).await;
        let done = run(&peer, &[command]);
        assert_eq!(done.code, Some(0), "{command}: {done:?}");
        assert!(done.stderr.contains("204"), "{command} names it: {}", done.stderr);
        assert_eq!(streams(&peer), 1, "{command}: not retried");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_proxy_gets_its_own_credential() {
    let peer = Peer::start(relay(3)).await;
    let done = run(&peer, &["pods", "--token", "inner", "--proxy-token", "outer"]);
    assert_eq!(done.code, Some(0), "{done:?}");
    let asked = peer.request_to(PODS, 0).await;
    assert_eq!(asked.header("authorization"), Some("Bearer outer"));
    assert_eq!(asked.header("x-relay-token"), Some("inner"));
    assert!(!done.stderr.contains("inner") && !done.stderr.contains("outer"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_error_is_told_once() {
    let done = run_command(command_at("http://127.0.0.1:1", &["pods"]));
    assert_eq!(done.code, Some(1));
    assert_eq!(done.stderr.matches("127.0.0.1:1/pods").count(), 1, "{}", done.stderr);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn unauthorised_with_a_token_means_another_session() {
    let peer = Peer::start(
        relay(3).sessions().stream(Reply::empty(401)).stream(Reply::empty(401)).stream(caught_up(3)),
    )
    .await;
    let client = follow_at(&peer.url(), &["replay", "--token", "a-token"]);
    client.until_phase("CatchupComplete");
    let tickets: Vec<_> = peer
        .requests()
        .iter()
        .filter(|request| request.path() == STREAM)
        .map(|request| request.query("session_id").unwrap_or_default())
        .collect();
    assert_eq!(tickets, ["s-1", "s-2", "s-3"], "a fresh one before each connect");
    client.until_stderr(|text| text.contains("401"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_token_that_is_refused_everywhere_ends_with_4() {
    let problem = json!({"type": "urn:relay:problem:unauthenticated", "title": "Unauthenticated", "status": 401,
        "detail": "no such token", "code": "unauthenticated"});
    let refusal = || Reply::new(401, "application/problem+json", problem.to_string());
    for command in [vec!["pods"], vec!["pod", "prod/web"], vec!["events"], vec!["session"]] {
        let script = RelayScript::new("e1")
            .always(PODS, refusal())
            .always("/pods/prod/web", refusal())
            .always("/events", refusal())
            .always("/auth/session", refusal());
        let peer = Peer::start(script).await;
        let mut args = command.clone();
        args.extend(["--token", "tell-nobody"]);
        let done = run(&peer, &args);
        assert_eq!(done.code, Some(4), "{command:?}: {done:?}");
        assert!(!done.stderr.contains("tell-nobody"), "{}", done.stderr);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn retry_after_is_waited_for() {
    for status in [429, 503] {
        let away = Reply::empty(status).header("retry-after", "1");
        let peer = Peer::start(relay(3).stream(away).stream(caught_up(3))).await;
        let client = replay(&peer);
        peer.request_to(STREAM, 0).await;
        let start = Instant::now();
        peer.request_to(STREAM, 1).await;
        let waited = start.elapsed();
        // The test sees the first request a moment after it was sent, so the measured time is shorter.
        assert!(waited >= Duration::from_millis(900), "{status}: {waited:?}");
        assert!(waited < Duration::from_secs(10), "{status}: {waited:?}");
        client.until_phase("CatchupComplete");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_list_cut_short_is_never_a_short_list() {
    let lines = |parts: &[&str]| parts.join("\n") + "\n";
    let first =
        json!({"count": 2, "hash": "e1.3", "sequence": 3, "epoch": "e1", "as_of": "2026-01-01T00:00:00Z"})
            .to_string();
    let pod = serde_json::to_string(&web(1)).unwrap();
    let other = serde_json::to_string(&web(2)).unwrap();
    let whole = json!({"pods": [web(1), web(2)], "hash": "e1.3", "sequence": 3, "epoch": "e1"}).to_string();
    let ndjson = "application/x-ndjson";
    let bad = [
        ("no end line", Reply::new(200, ndjson, lines(&[&first, &pod, &other]))),
        ("only the first line", Reply::new(200, ndjson, lines(&[&first]))),
        (
            "an end that counts one",
            Reply::new(200, ndjson, lines(&[&first, &pod, r#"{"end":true,"count":1}"#])),
        ),
        (
            "an end that counts what is missing",
            Reply::new(200, ndjson, lines(&[&first, &pod, r#"{"end":true,"count":2}"#])),
        ),
        (
            "a line that is no JSON",
            Reply::new(
                200,
                ndjson,
                lines(&[&first, &pod, r#"{"namespace":"prod","name"#, r#"{"end":true,"count":2}"#]),
            ),
        ),
        (
            "cut by the connection",
            Reply::new(200, ndjson, lines(&[&first, &pod])).declare_length(100_000).cut(),
        ),
        ("chunks without a last one", Reply::new(200, ndjson, lines(&[&first, &pod])).chunked().cut()),
        ("JSON cut short", Reply::new(200, "application/json", whole[..whole.len() - 40].to_owned())),
        (
            "JSON cut by the connection",
            Reply::new(200, "application/json", whole[..whole.len() / 2].to_owned())
                .declare_length(whole.len() as u64)
                .cut(),
        ),
        ("no JSON at all", Reply::new(200, "application/json", "<html>")),
        ("empty", Reply::new(200, "application/json", "")),
    ];
    for (what, reply) in bad {
        // A command that follows asks again.
        let good = pods_reply("e1", 3, [&web(1), &web(2)]);
        let script = RelayScript::new("e1").on(PODS, reply.clone()).always(PODS, good).stream(caught_up(3));
        let peer = Peer::start(script).await;
        let client = replay(&peer);
        let seed = client.json();
        assert_eq!((&seed["phase"], &seed["pods"]), (&json!("CurrentSeed"), &json!(2)), "{what}");
        client.until_stderr(|text| !text.is_empty());
        drop(client);

        // A command that makes a single request has nothing to print.
        let peer = Peer::start(RelayScript::new("e1").always(PODS, reply)).await;
        let done = run(&peer, &["pods"]);
        assert_eq!((done.code, done.stdout.as_str()), (Some(1), ""), "{what}: {}", done.stderr);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_message_that_cannot_be_read_is_one_gap() {
    let huge = json!({"type": "ADDED", "hash": "e1.4", "sequence": 4, "previous_hash": "e1.3",
        "pod": {"namespace": "prod", "name": "web-9", "message": "x".repeat(2 << 20)}});
    for (reason, bad) in [
        (
            "undecodable",
            sse_event("pod", Some("e1.4"), r#"{"type":"ADDED","hash":"e1.4","sequence":4,"pod":{"#),
        ),
        (
            "undecodable",
            sse_event("pod", Some("e1.4"), r#"{"type":"ADDED","hash":"e1.4","sequence":4,"pod":7}"#),
        ),
        ("too-large", sse_event("pod", Some("e1.4"), &huge.to_string())),
    ] {
        let conversation = Conversation::new("e1")
            .connected(3)
            .catchup_complete()
            .bytes(bad)
            .pod_at(5, "MODIFIED", &web(1))
            .silence();
        let script = RelayScript::new("e1")
            .seed(3, [&web(1), &web(2)])
            .seed(3, [&web(1), &web(2)])
            .always(PODS, pods_reply("e1", 4, [&web(1), &web(2), &web(9)]));
        let peer = Peer::start(script.stream(conversation)).await;
        let client = replay(&peer);
        let lines = client.until(|line| line["event"]["sequence"] == 5);
        let gap =
            lines.iter().find(|line| line["phase"] == "GapReseed").unwrap_or_else(|| panic!("{lines:?}"));
        assert_eq!(gap["gap"]["reason"], reason);
        assert_eq!((&gap["ack"], &gap["pods"]), (&Value::Null, &json!(3)), "{reason}");
        assert_eq!(peer.request_to(PODS, 2).await.query("at_least").as_deref(), Some("e1.4"), "{reason}");
        let live = lines.last().unwrap();
        assert_eq!((&live["phase"], &live["ack"]), (&json!("Live"), &json!("e1.5")), "the stream goes on");
        assert_eq!(streams(&peer), 1, "{reason}");

        // The raw stream reports it as an error with the known details, and continues, too.
        let conversation = peer.requests()[0].clone();
        assert_eq!(conversation.path(), PODS);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_raw_stream_shows_what_cannot_be_read() {
    let big = "x".repeat(2 << 20);
    let conversation = Conversation::new("e1")
        .connected(3)
        .bytes(sse_event("pod", Some("e1.4"), "{not json"))
        .bytes(sse_event(
            "pod",
            Some("e1.5"),
            &json!({"type": "ADDED", "sequence": 5, "padding": big}).to_string(),
        ))
        .event("from-the-future", Some("e1.5"), &json!({"new": true}))
        .bytes(sse_event("note", Some("x1"), "plain text"))
        .bytes(sse_event("note", Some("x2"), ""))
        .catchup_complete()
        .silence();
    let peer = Peer::start(relay(3).stream(conversation)).await;
    let client = follow_at(&peer.url(), &["stream"]);
    let lines = client.until(|line| line["event"] == "catchup_complete");
    let errors: Vec<_> = lines.iter().filter(|line| !line["error"].is_null()).collect();
    assert_eq!(errors.len(), 2, "{lines:.3000?}");
    for (line, id) in errors.iter().zip(["e1.4", "e1.5"]) {
        assert_eq!((&line["event"], &line["id"]), (&json!("pod"), &json!(id)), "{:.500}", line.to_string());
        assert!(line.to_string().len() < 10_000, "no payload in an error");
        assert_eq!(line["data"], Value::Null);
    }
    let notes: Vec<_> = lines.iter().filter(|line| line["event"] == "note").collect();
    let note = |id: &str, data: &str| json!({"event": "note", "id": id, "data": data, "error": null});
    assert_eq!(notes, [&note("x1", "plain text"), &note("x2", "")]);
    let unknown = lines.iter().find(|line| line["event"] == "from-the-future").expect("passed on");
    assert_eq!(unknown["data"], json!({"new": true}));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_line_without_an_end_stays_small() {
    let mut endless =
        Conversation::new("e1").connected(3).catchup_complete().bytes("event: pod\nid: e1.4\ndata: ");
    for _ in 0..64 {
        endless = endless.bytes(vec![b'x'; 1 << 20]);
    }
    let peer = Peer::start(relay(3).stream(endless.cut()).stream(caught_up(3)).stream(caught_up(3))).await;
    let client = replay(&peer);
    client.until_phase("ReconnectReseed");
    let status = std::fs::read_to_string(format!("/proc/{}/status", client.pid())).unwrap();
    let peak =
        status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap().trim().trim_end_matches(" kB");
    let peak: u64 = peak.parse().unwrap();
    assert!(peak < 60 * 1024, "{peak} KiB for 64 MiB of one line");
    client.until_phase("CatchupComplete");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_seed_older_than_the_stream_is_asked_for_again() {
    let conversation = Conversation::new("e1")
        .connected_to(0, 5)
        .pod("ADDED", &web(1))
        .pod("ADDED", &web(2))
        .pod("ADDED", &web(3))
        .pod("ADDED", &web(4))
        .pod("ADDED", &web(5))
        .catchup_complete()
        .silence();
    let script = RelayScript::new("e1")
        .seed(5, [&web(1), &web(2), &web(3), &web(4), &web(5)])
        .seed(3, [&web(1), &web(2), &web(3)])
        .seed(4, [&web(1), &web(2), &web(3), &web(4)])
        .seed(6, [&web(1)])
        .stream(conversation);
    let peer = Peer::start(script).await;
    let client = replay(&peer);
    let mut lines = client.until_phase("CatchupComplete");
    lines.extend(client.until_phase("CurrentSeed"));
    let seed = lines.last().unwrap();
    assert_eq!(seed["pods"], 1, "never the older ones");
    for n in [2, 3] {
        assert_eq!(peer.request_to(PODS, n).await.query("at_least").as_deref(), Some("e1.5"), "request {n}");
    }
    assert_eq!(peer.request_to(PODS, 0).await.query("at_least"), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_silent_hole_is_healed() {
    let broken = Conversation::new("e1")
        .connected_to(0, 3)
        .pod("ADDED", &web(1))
        .lose(1)
        .pod("MODIFIED", &web(2))
        .catchup_complete()
        .silence();
    let whole = Conversation::new("e1")
        .connected_to(1, 3)
        .pod("ADDED", &web(2))
        .pod("MODIFIED", &web(2))
        .catchup_complete()
        .silence();
    let peer = Peer::start(relay(3).stream(broken).stream(whole)).await;
    let lines = replay(&peer).until_phase("CatchupComplete");
    assert_eq!(sequences(&lines), [1, 2, 3]);
    assert!(lines.iter().all(|line| line["gap"].is_null()), "healed");
    let drop = lines.iter().find(|line| line["phase"] == "ReconnectReseed").expect("a drop like any other");
    assert!(drop["cause"].as_str().unwrap().contains("hole"), "{drop}");
    assert_eq!(peer.request_to(STREAM, 1).await.query("since_hash").as_deref(), Some("e1.1"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_hole_for_good_is_a_gap() {
    let first = Conversation::new("e1")
        .connected_to(0, 3)
        .pod("ADDED", &web(1))
        .lose(1)
        .pod("MODIFIED", &web(2))
        .silence();
    let again = Conversation::new("e1")
        .connected_to(1, 3)
        .lose(1)
        .pod("MODIFIED", &web(2))
        .catchup_complete()
        .pod("MODIFIED", &web(1))
        .silence();
    let peer = Peer::start(relay(3).stream(first).stream(again)).await;
    let lines = replay(&peer).until_phase("Live");
    let gaps: Vec<_> = lines.iter().filter(|line| !line["gap"].is_null()).collect();
    assert_eq!(gaps.len(), 1, "{lines:?}");
    assert_eq!((&gaps[0]["phase"], &gaps[0]["gap"]["reason"]), (&json!("GapReseed"), &json!("hole")));
    assert_eq!(sequences(&lines), [1, 3, 4], "the connection then goes on");
    assert_eq!(streams(&peer), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_lost_message_of_a_filtered_stream_is_seen_by_its_count() {
    let broken = Conversation::new("e1")
        .filtered()
        .connected_to(0, 9)
        .pod("ADDED", &web(1))
        .lose(1)
        .pod("ADDED", &web(3))
        .silence();
    let whole = Conversation::new("e1")
        .filtered()
        .connected_to(1, 9)
        .pod("ADDED", &web(2))
        .pod("ADDED", &web(3))
        .catchup_complete()
        .silence();
    let peer = Peer::start(relay(3).stream(broken).stream(whole)).await;
    let lines = follow_at(&peer.url(), &["replay", "-n", "prod"]).until_phase("CatchupComplete");
    assert_eq!(sequences(&lines), [1, 2, 3]);
    let drop = lines.iter().find(|line| line["phase"] == "ReconnectReseed").expect("dropped and healed");
    assert!(drop["cause"].as_str().unwrap().contains("hole"), "{drop}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn duplicates_are_dropped_and_another_hash_is_a_rewind() {
    let twice = Conversation::new("e1")
        .connected(3)
        .catchup_complete()
        .pod("MODIFIED", &web(1))
        .pod_at(4, "MODIFIED", &web(1))
        .pod_at(3, "MODIFIED", &web(1))
        .pod_at(5, "MODIFIED", &web(2))
        .silence();
    let peer = Peer::start(relay(3).stream(twice)).await;
    let lines = replay(&peer).until(|line| line["event"]["sequence"] == 5);
    assert_eq!(sequences(&lines), [4, 5]);
    assert!(lines.iter().all(|line| line["gap"].is_null()));

    let rewound = json!({"type": "MODIFIED", "hash": "another", "previous_hash": "e1.3", "sequence": 4,
        "timestamp": "2026-01-01T00:00:00Z", "pod": web(2)});
    let rewind = Conversation::new("e1")
        .connected(3)
        .catchup_complete()
        .pod("MODIFIED", &web(1))
        .event("pod", Some("another"), &rewound)
        .silence();
    let script = RelayScript::new("e1").always(PODS, pods_reply("e1", 4, [&web(1), &web(2)]));
    let peer = Peer::start(script.stream(rewind)).await;
    let lines = replay(&peer).until_phase("GapReseed");
    assert_eq!(lines.last().unwrap()["gap"]["reason"], "rewind");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn closing_reconnects_with_the_cursor() {
    let first = Conversation::new("e1")
        .connected(3)
        .catchup_complete()
        .pod("MODIFIED", &web(1))
        .closing("rebalance", Duration::from_millis(100))
        .cut();
    let second = Conversation::new("e1").connected(4).catchup_complete().silence();
    let script = RelayScript::new("e1").always(PODS, pods_reply("e1", 4, [&web(1), &web(2)]));
    let peer = Peer::start(script.stream(first).stream(second)).await;
    let client = replay(&peer);
    client.until_phase("ReconnectReseed");
    client.until_phase("CatchupComplete");
    assert_eq!(peer.request_to(STREAM, 1).await.query("since_hash"), Some(hash_of("e1", 4)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn silence_beyond_three_heartbeats_is_a_drop() {
    let connected = json!({"protocol": 1, "client_id": null, "epoch": "e1", "head": {"hash": "e1.3", "sequence": 3},
        "resumes_after": {"hash": "e1.3", "sequence": 3}, "filtered": false, "namespaces": [], "heartbeat_seconds": 0.2});
    let mute = Conversation::new("e1").event("connected", None, &connected).silence();
    let peer = Peer::start(relay(3).stream(mute).stream(caught_up(3))).await;
    let client = replay(&peer);
    client.until_phase("ReconnectReseed");
    client.until_phase("CatchupComplete");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn other_shapes_are_read_too() {
    let kubernetes = json!({"kind": "PodList", "apiVersion": "v1", "metadata": {"resourceVersion": "7"}, "items": [{
        "metadata": {"namespace": "prod", "name": "web-1", "uid": "u1", "resourceVersion": "5", "labels": {"app": "web"}},
        "spec": {"nodeName": "node-1", "containers": [{"name": "app", "image": "web:1"}]},
        "status": {"phase": "Running", "podIP": "10.1.0.1", "conditions": [{"type": "Ready", "status": "True"}]}}]});
    let camel = json!([{"namespace": "prod", "name": "web-1", "uid": "u1", "resourceVersion": "5", "labels": {"app": "web"},
        "nodeName": "node-1", "phase": "Running", "podIp": "10.1.0.1", "ready": true}]);
    for body in [kubernetes, camel] {
        let peer = Peer::start(RelayScript::new("e1").always(PODS, Reply::json(200, &body))).await;
        let pods = run(&peer, &["pods"]).expect(0).json();
        assert_eq!(pods.len(), 1);
        assert_eq!(key(&pods[0]), ("prod".into(), "web-1".into()));
        for (field, value) in [
            ("resource_version", json!("5")),
            ("node_name", json!("node-1")),
            ("phase", json!("Running")),
            ("pod_ip", json!("10.1.0.1")),
            ("ready", json!(true)),
            ("labels", json!({"app": "web"})),
        ] {
            assert_eq!(pods[0][field], value, "{field} of {body}");
        }
    }
    for session in [json!({"sessionId": "t-1"}), json!({"session": "t-1"}), json!({"id": "t-1"})] {
        let script = RelayScript::new("e1").always("/auth/session", Reply::json(201, &session));
        let peer = Peer::start(script).await;
        assert_eq!(run(&peer, &["session"]).expect(0).json()[0]["session_id"], "t-1", "{session}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn health_tells_by_its_code() {
    for (status, body, code) in [(200, json!({"status": "ok"}), 0), (503, json!({"status": "degraded"}), 1)] {
        let peer =
            Peer::start(relay_testkit::Script::new().always("/health", Reply::json(status, &body))).await;
        let done = run(&peer, &["health"]).expect(code);
        assert_eq!(done.json(), [body], "as on the wire");
    }
}

/// Tokens and tickets are in no output, also where errors contain URLs.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn secrets_are_not_printed() {
    let (token, ticket) = ("very-secret-token", "very-secret-ticket");
    for stream in [
        Reply::empty(500),
        Reply::empty(404),
        Reply::new(200, "text/html", ""),
        Reply::sse().send("garbage\n\n"),
    ] {
        let script =
            relay(3).always("/auth/session", session_reply(ticket)).stream(stream.clone()).stream(stream);
        let peer = Peer::start(script.always(STREAM, caught_up(3).into())).await;
        for command in [
            vec!["stream"],
            vec!["replay", "--exit-after-phase", "CatchupComplete"],
            vec!["state", "--max", "1"],
            vec!["pods"],
            vec!["events"],
        ] {
            let mut args = command.clone();
            args.extend(["--token", token, "--for", "400ms"]);
            if command[0] == "pods" {
                args.truncate(3);
            }
            let mut shell = command_at(&peer.url(), &args);
            shell.env("RUST_LOG", "trace");
            let done = run_command(shell);
            for secret in [token, ticket] {
                assert!(!done.stdout.contains(secret), "{command:?}: {:.3000}", done.stdout);
                assert!(!done.stderr.contains(secret), "{command:?}: {:.6000}", done.stderr);
            }
        }
        assert!(
            peer.requests().iter().any(|r| r.query("session_id").as_deref() == Some(ticket)),
            "it was used"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_token_does_not_follow_a_redirect_to_another_origin() {
    let stranger = Peer::start(relay(3)).await;
    let script =
        RelayScript::new("e1").always(PODS, Reply::redirect(307, &format!("{}/pods", stranger.url())));
    let peer = Peer::start(script).await;
    run(&peer, &["pods", "--token", "not-for-strangers"]);
    for request in stranger.requests() {
        assert!(!format!("{request:?}").contains("not-for-strangers"), "{request:?}");
    }
    assert!(
        peer.request(0).await.header("x-relay-token").is_some()
            || peer.request(0).await.header("authorization").is_some()
    );
}
