//! `wait` and `state --group-by`, which replace polling loops.

use relay_proto::pods::Pod;
use relay_testkit::{Conversation, Gate, Peer, RelayScript, Reply, ReservedPort, Script, pods_reply};
use serde_json::{Value, json};

use super::process::{Done, Running, Server, command_at, fields, follow_at, run_command};
use super::terminal::Terminal;

const STREAM: &str = "/events/stream";
const PODS: &str = "/pods";

fn pod(name: &str, run: &str, phase: &str, ready: bool) -> Pod {
    let builder = Conversation::sample_pod(name).to_builder();
    builder.labels([("app", "web"), ("run", run)]).phase(Some(phase)).ready(ready).build()
}

fn up(name: &str) -> Pod {
    pod(name, "d-1", "Running", true)
}

fn starting(name: &str) -> Pod {
    pod(name, "d-1", "Pending", false)
}

/// A relay whose list is always these pods, at sequence 3.
fn listing<'a>(pods: impl IntoIterator<Item = &'a Pod>) -> RelayScript {
    RelayScript::new("e1").always(PODS, pods_reply("e1", 3, pods))
}

/// A stream that has caught up with that list.
fn caught_up() -> Conversation {
    Conversation::new("e1").connected(3).catchup_complete()
}

fn wait(peer: &Peer, condition: &str, more: &[&str]) -> Done {
    run_command(command_at(&peer.url(), &[&["wait", "--for", condition], more].concat()))
}

fn waiting(peer: &Peer, condition: &str) -> Running {
    follow_at(&peer.url(), &["wait", "--for", condition, "--timeout", "5m"])
}

/// The message of a condition that was not met.
#[track_caller]
fn timed_out(done: &Done) -> &str {
    assert_eq!((done.code, done.stdout.as_str()), (Some(5), ""), "{done:?}");
    let last = done.stderr.lines().last().unwrap_or_default();
    last.strip_prefix("relay: timed out after ").unwrap_or_else(|| panic!("{done:?}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn each_condition_is_met_by_what_happens() {
    let done = |name| pod(name, "d-1", "Succeeded", false);
    for (condition, talk, pods, ready, phases) in [
        ("ready=2", caught_up().pod("MODIFIED", &up("b")), 2, 2, json!({"Running": 2})),
        ("count=3", caught_up().pod("ADDED", &starting("c")), 3, 1, json!({"Running": 1, "Pending": 2})),
        ("count=0", caught_up().pod("DELETED", &up("a")).pod("DELETED", &up("b")), 0, 0, json!({})),
        ("deleted", caught_up().pod("DELETED", &up("a")).pod("DELETED", &up("b")), 0, 0, json!({})),
        (
            "phase=Succeeded",
            caught_up().pod("MODIFIED", &done("a")).pod("MODIFIED", &done("b")),
            2,
            0,
            json!({"Succeeded": 2}),
        ),
    ] {
        let peer = Peer::start(listing([&up("a"), &starting("b")]).stream(talk.silence())).await;
        let lines = wait(&peer, condition, &["--timeout", "5m"]).expect(0).json();
        let expected =
            json!({"condition": condition, "pods": pods, "ready": ready, "phases": phases, "restarts": 0});
        assert_eq!(lines, [expected], "{condition}");
        let asked: Vec<_> = peer.requests().iter().map(|request| request.path().to_owned()).collect();
        assert_eq!(asked, [PODS, STREAM, "/health"], "{condition}: one list and one stream, no polling");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_holds_already_is_met_at_once() {
    for (condition, pods) in [
        ("ready=1", vec![up("a"), starting("b")]),
        ("count=2", vec![up("a"), starting("b")]),
        ("count=0", vec![]),
        ("deleted", vec![]),
        ("phase=Running", vec![up("a"), up("b")]),
    ] {
        let peer = Peer::start(listing(&pods).stream(caught_up().silence())).await;
        assert_eq!(wait(&peer, condition, &["--timeout", "5m"]).expect(0).json()[0]["pods"], pods.len());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_timeout_says_what_was_seen_last() {
    let three = [up("a"), starting("b"), starting("c")];
    for (condition, timeout, pods, said) in [
        ("ready=3", "600ms", &three[..], "600ms: 1 ready, 3 wanted, 3 match"),
        ("deleted", "600ms", &three, "600ms: 3 pods still match"),
        ("count=2", "0.6s", &three, "600ms: 3 pods match, not 2"),
        ("phase=Running", "600ms", &three, "600ms: 1 of 3 pods Running (Pending 2, Running 1)"),
        ("phase=Running", "600ms", &[], "600ms: no pod matches, so none is Running"),
        // With a time limit of 0, the first live state decides.
        ("ready=3", "0", &three, "0s: 1 ready, 3 wanted, 3 match"),
    ] {
        let peer = Peer::start(listing(pods).stream(caught_up().silence())).await;
        let done = wait(&peer, condition, &["--timeout", timeout]);
        assert_eq!(timed_out(&done), said, "{condition}");
    }
    let peer = Peer::start(listing(&three).stream(caught_up().silence())).await;
    wait(&peer, "ready=1", &["--timeout", "0"]).expect(0);
}

/// In each of these cases, the list alone would meet the condition.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn only_what_is_seen_live_counts() {
    let away = json!({"source": "stale", "stale_since": "2026-01-01T00:00:00Z", "catching_up": true});
    for (why, script, said) in [
        (
            "the stream is refused",
            listing([&up("a")]).always(STREAM, Reply::empty(503)),
            "the pods were never seen live: 503",
        ),
        (
            "the replay does not end",
            listing([&up("a")]).stream(Conversation::new("e1").connected_to(3, 9).silence()),
            "the pods were never seen live: the stream did not catch up",
        ),
        (
            "a heartbeat says that the source is away",
            listing([&up("a")]).stream(
                Conversation::new("e1").connected(3).heartbeat_with(away).catchup_complete().silence(),
            ),
            "the pods were never seen live: the relay's source is away",
        ),
        (
            "the health document says that the source is away",
            listing([&up("a")])
                .always("/health", Reply::json(200, &json!({"source": {"state": "stale"}})))
                .stream(caught_up().silence()),
            "1 ready, 1 wanted, 1 match when last seen live, which it is not any more: the relay's source is away",
        ),
        ("there is no list", RelayScript::new("e1").always(PODS, Reply::empty(503)), "no list was read"),
    ] {
        let peer = Peer::start(script).await;
        let done = wait(&peer, "ready=1", &["--timeout", "700ms"]);
        assert!(timed_out(&done).contains(said), "{why}: {done:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_source_that_comes_back_is_waited_for() {
    let health = |state| Reply::json(200, &json!({"source": {"state": state}}));
    let script = Script::from(listing([&up("a")]).stream(caught_up().silence()));
    let peer = Peer::start(script.on("/health", health("stale")).always("/health", health("live"))).await;
    wait(&peer, "ready=1", &["--timeout", "5m"]).expect(0);
    let asked = peer.requests().iter().filter(|request| request.path() == "/health").count();
    assert_eq!(asked, 2);
}

/// What a stream replays after a drop is in the past: three pods, two, three again.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_is_replayed_after_a_drop_does_not_count() {
    let (all, gate) = ([up("a"), up("b"), up("c")], Gate::new());
    let again = Conversation::new("e1")
        .connected_to(3, 5)
        .pod("DELETED", &up("c"))
        .hold(&gate)
        .pod("ADDED", &up("c"))
        .catchup_complete()
        .silence();
    let peer = Peer::start(listing(&all).stream(caught_up().cut()).stream(again)).await;
    let client =
        follow_at(&peer.url(), &["wait", "--for", "count=2", "--timeout", "1s", "--reconnect-base", "5ms"]);
    gate.reached().await;
    let done = client.wait();
    assert!(timed_out(&done).contains("the stream did not catch up"), "{done:?}");
    gate.open();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_relay_that_is_down_is_waited_for() {
    let closed = ReservedPort::reserve();
    let url = closed.url();
    let done = run_command(command_at(&url, &["wait", "--for", "count=0", "--timeout", "300ms"]));
    assert!(timed_out(&done).contains("never seen live: no list was read"), "{done:?}");

    let client = follow_at(&url, &["wait", "--for", "ready=1", "--timeout", "5m"]);
    client.until_stderr(|text| text.contains("cannot connect"));
    let _peer = Peer::start_at(closed.addr(), listing([&up("a")]).stream(caught_up().silence())).await;
    assert_eq!(client.json()["ready"], 1);
    assert_eq!(client.wait().code, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_relay_behind_an_ingress_that_does_not_know_it_yet_is_waited_for() {
    let nobody = || Reply::new(404, "text/html", "<html>default backend - 404</html>");
    let script = RelayScript::new("e1").on(PODS, nobody()).on(PODS, nobody()).always("/health", nobody());
    let script = script.always(PODS, pods_reply("e1", 3, [&up("a")])).stream(caught_up().silence());
    let peer = Peer::start(script).await;
    let client = waiting(&peer, "ready=1");
    assert_eq!(client.json()["ready"], 1);
    let done = client.wait();
    assert_eq!(done.code, Some(0));
    let told = done.stderr.matches("it is not the relay that answers").count();
    assert_eq!(told, 2, "{}", done.stderr);

    // A 404 from the relay itself is final, however long the time limit is.
    let own = || Reply::json(404, &json!({"code": "not-found", "status": 404}));
    for (pods, health) in [(own(), nobody()), (nobody(), own())] {
        let script = RelayScript::new("e1").always(PODS, pods).always("/health", health);
        let peer = Peer::start(script).await;
        wait(&peer, "ready=1", &["--timeout", "5m"]).expect(3);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn wait_ends_with_the_codes_of_the_others() {
    for (stream, code) in [(401, 4), (403, 4), (404, 3), (400, 1), (204, 1)] {
        let peer = Peer::start(listing([&starting("a")]).always(STREAM, Reply::empty(stream))).await;
        let done = wait(&peer, "ready=1", &["--timeout", "5m"]).expect(code);
        assert!(done.stderr.contains(&stream.to_string()), "{stream} is named: {}", done.stderr);
    }
    for (signal, code) in [("INT", Some(130)), ("TERM", Some(143))] {
        let gate = Gate::new();
        let peer = Peer::start(listing([]).stream(caught_up().hold(&gate))).await;
        let client = waiting(&peer, "ready=1");
        gate.reached().await;
        client.signal(signal);
        assert_eq!(client.wait().code, code, "{signal}");
    }
}

#[test]
fn wrong_conditions_are_refused_with_2() {
    for (args, named) in [
        (&["--for", "ready=0"][..], &["--for", "ready=0", "a number from 1"][..]),
        (&["--for", "ready=many"], &["--for", "ready=many"]),
        (&["--for", "count=-1"], &["--for", "count=-1", "a number from 0"]),
        (&["--for", "phase=Done"], &["--for", "phase=Done", "Pending, Running, Succeeded, Failed, Unknown"]),
        (&["--for", "gone"], &["--for", "gone", "ready=N, count=N, phase=PHASE, deleted"]),
        (&["--for", "condition=Initialized"], &["condition=Ready", "condition=Ready=false"]),
        (&["--for", "ready", "web"], &["web", "NAMESPACE/NAME"]),
        (&["--for", "ready", "prod/web", "-l", "app"], &["names", "--label"]),
        (&[], &["--for"]),
        (&["--for", "deleted", "--timeout", "soon"], &["--timeout", "soon", "a duration is"]),
        (&["--for", "deleted", "--label", "!"], &["label", "!"]),
    ] {
        let done = run_command(command_at("http://127.0.0.1:1", &[&["wait"], args].concat())).expect(2);
        for part in named {
            assert!(done.stderr.contains(part), "{args:?} names {part}: {}", done.stderr);
        }
    }
    let help = super::process::run(&["wait", "--help"]).expect(0).stdout;
    for part in ["ready=N", "count=N", "phase=PHASE", "deleted", "--timeout", "exit code 5", "RELAY_TIMEOUT"]
    {
        assert!(help.contains(part), "{part}: {help}");
    }
}

/// With the server of this project: the filter limits which pods count.
#[test]
fn wait_looks_at_the_pods_asked_for() {
    let server = Server::quiet(40);
    let prod = server.run(&["pods", "-n", "prod"]).expect(0).json();
    let ready = prod.iter().filter(|pod| pod["ready"] == true).count();
    assert!(ready > 0 && prod.len() < 40);
    let condition = format!("count={}", prod.len());
    let line = &server.run(&["wait", "-n", "prod", "--for", &condition]).expect(0).json()[0];
    assert_eq!((&line["pods"], &line["ready"]), (&json!(prod.len()), &json!(ready)));
    let none = server.run(&["wait", "-l", "app=no-such-app", "--for", "deleted"]).expect(0);
    assert_eq!(none.json()[0]["pods"], 0);
    let table = server.run(&["wait", "--for", "ready=1", "-o", "table"]).expect(0);
    assert!(table.stdout.starts_with("ready=1: met, 40 pods, "), "{}", table.stdout);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn several_conditions_and_names_hold_together() {
    let pods = [up("a"), up("b"), starting("c")];
    let namespace = pods[0].namespace();
    let name = |name: &str| format!("{namespace}/{name}");
    for (args, code, said) in [
        (vec!["--for", "ready"], 5, "1s: 2 of 3 pods ready"),
        (vec!["--for", "ready=2", "--for", "count=3"], 0, ""),
        (vec!["--for", "ready=2", "--for", "count=2"], 5, "1s: 3 pods match, not 2"),
        (vec!["--for", "condition=Ready", &name("a"), &name("b")], 0, ""),
        (vec!["--for", "condition=Ready=false", &name("c")], 0, ""),
        (vec!["--for", "condition=Ready=false", &name("a")], 5, "1s: 1 of 1 pods still ready"),
        (vec!["--for", "phase=Pending", "c", "-n", namespace], 0, ""),
        (vec!["--for", "delete", &name("gone")], 0, ""),
        (vec!["--for", "delete", &name("a")], 5, "1s: 1 pod still matches"),
        (vec!["--for", "ready", &name("gone")], 5, "1s: no pod matches, so none is ready"),
        (vec!["--for", "ready", &name("a"), &name("gone")], 5, "1s: 1 of 1 pods ready"),
    ] {
        let peer = Peer::start(listing(&pods).stream(caught_up().silence())).await;
        let done = run_command(command_at(&peer.url(), &[&["wait", "--timeout", "1s"], &args[..]].concat()));
        assert_eq!(done.code, Some(code), "{args:?}: {done:?}");
        if code == 5 {
            assert_eq!(timed_out(&done), said, "{args:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_is_missing_is_told_pod_by_pod() {
    let pods = [up("a"), starting("b"), starting("c")];
    let namespace = pods[0].namespace().to_owned();
    let peer = Peer::start(listing(&pods).stream(caught_up().silence())).await;
    let gone = format!("{namespace}/gone");
    let named = format!("{namespace}/b");
    let done = wait(&peer, "ready", &["--timeout", "1s", &named, &gone]);
    assert_eq!(done.code, Some(5));
    assert!(
        done.stderr.contains(&format!("relay: {namespace}/gone: there is no such pod\n")),
        "{}",
        done.stderr
    );
    assert!(done.stderr.contains(&format!("relay: {namespace}/b: not ready: Pending")), "{}", done.stderr);
    assert!(!done.stderr.contains("/a:") && !done.stderr.contains("/c:"), "{}", done.stderr);
    let peer = Peer::start(listing([]).stream(caught_up().silence())).await;
    let done = wait(&peer, "ready", &["--timeout", "1s"]);
    assert!(done.stderr.contains("relay: no pod matches yet; waiting for ready\n"), "{}", done.stderr);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_time_without_a_connection_is_a_failure_that_says_why() {
    for command in ["state", "replay", "stream"] {
        let peer = Peer::start(listing([&up("a")]).always(STREAM, Reply::empty(503))).await;
        let done = run_command(command_at(&peer.url(), &[command, "--for", "1s"]));
        assert_eq!(done.code, Some(1), "{command}: {done:?}");
        let dead = run_command(command_at("http://127.0.0.1:1", &[command, "--for", "1s"]));
        assert_eq!(dead.code, Some(1), "{command}: {dead:?}");
        if command != "stream" {
            assert!(done.stderr.contains("never connected in this time: 503"), "{command}: {}", done.stderr);
            assert!(dead.stderr.contains("never connected in this time: "), "{command}: {}", dead.stderr);
        }
    }
    let peer = Peer::start(listing([&up("a")]).stream(caught_up().silence())).await;
    run_command(command_at(&peer.url(), &["state", "--for", "1s"])).expect(0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_outage_and_its_end_are_lines_of_the_table() {
    let gate = Gate::new();
    let script = listing([&up("a")])
        .stream(caught_up().cut())
        .stream(Reply::empty(503))
        .stream(Reply::empty(503))
        .stream(caught_up().hold(&gate).silence());
    let peer = Peer::start(script).await;
    let args = ["state", "-o", "table", "--reconnect-base", "900ms"];
    let client = follow_at(&peer.url(), &args);
    let mut lines = Vec::new();
    while !lines.iter().any(|line: &String| line.starts_with("connected again after ")) {
        lines.push(client.line().unwrap());
    }
    let told: Vec<&String> = lines.iter().filter(|line| line.contains("no connection")).collect();
    assert!(told[0].starts_with("no connection since ") && told[0].contains("Z; next try "), "{told:?}");
    for again in &told[1..] {
        assert!(again.starts_with("still no connection after ") && again.contains("; next try "), "{again}");
    }
    assert_eq!(client.stderr(), "", "one voice");
    gate.open();
}

#[test]
fn an_outage_is_told_at_each_attempt_on_stderr_where_lines_are_json() {
    let closed = ReservedPort::reserve();
    let url = closed.url();
    for command in [&["state"][..], &["replay"], &["wait", "--for", "ready", "--timeout", "30s"]] {
        let client =
            follow_at(&url, &[command, &["--reconnect-base", "300ms", "--reconnect-cap", "300ms"]].concat());
        let told = client.until_stderr(|text| text.matches("; next try ").count() >= 3);
        let whole = &told[..=told.rfind('\n').unwrap()];
        for line in whole.lines() {
            assert!(line.starts_with("relay: ") && line.contains("; next try "), "one voice: {told}");
        }
        assert!(told.contains("Connection refused"), "{told}");
    }
}

fn counts(line: &Value) -> (&str, u64, u64, &Value) {
    let number = |name: &str| line[name].as_u64().unwrap();
    (line["group"].as_str().unwrap(), number("pods"), number("ready"), &line["phases"])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn groups_are_printed_when_they_are_touched() {
    let seed = [
        pod("a", "d-1", "Running", true),
        pod("b", "d-1", "Pending", false),
        pod("c", "d-2", "Running", true),
        pod("d", "d-3", "Running", true),
        Conversation::sample_pod("e").to_builder().labels([("app", "web")]).build(),
    ];
    let moved = pod("c", "d-1", "Running", true);
    let talk = caught_up()
        .pod("MODIFIED", &pod("b", "d-1", "Running", true))
        .pod("MODIFIED", &moved)
        .pod("ADDED", &pod("f", "d-0", "Pending", false))
        .pod("MODIFIED", &seed[4])
        .pod("DELETED", &seed[3])
        .silence();
    let peer = Peer::start(listing(&seed).stream(talk)).await;
    let client = follow_at(&peer.url(), &["state", "--group-by", "run"]);
    let running = |n: u32| json!({"Running": n});
    for expected in [
        // The seed: a line for every group, and one for the pods that are in no group.
        ("d-1", 2, 1, &json!({"Pending": 1, "Running": 1})),
        ("d-2", 1, 1, &running(1)),
        ("d-3", 1, 1, &running(1)),
        ("(none)", 1, 1, &running(1)),
        // One event changes one group.
        ("d-1", 2, 2, &running(2)),
        // A pod that moves changes two groups; one of them is then empty.
        ("d-1", 3, 3, &running(3)),
        ("d-2", 0, 0, &json!({})),
        ("d-0", 1, 0, &json!({"Pending": 1})),
        ("(none)", 1, 1, &running(1)),
        ("d-3", 0, 0, &json!({})),
    ] {
        let line = client.json();
        assert_eq!(counts(&line), expected, "{line}");
        assert_eq!(fields(&line), ["group", "label", "phases", "pods", "ready", "restarts"]);
        assert_eq!(line["label"], "run");
    }
}

/// A table leaves out a repeated line of a group; JSON has every line.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_group_in_which_nothing_is_new_is_a_line_of_json_only() {
    let seed = [up("a"), starting("b")];
    let talk = || {
        let touched = seed[1].to_builder().annotations([("seen", "again")]).build();
        let talk = caught_up().pod("MODIFIED", &touched).pod("MODIFIED", &touched);
        talk.pod("MODIFIED", &up("b")).silence()
    };
    let peer = Peer::start(listing(&seed).stream(talk()).stream(talk())).await;
    let args = ["state", "--group-by", "run", "-o", "json", "--max", "4"];
    let lines = run_command(command_at(&peer.url(), &args)).expect(0).json();
    assert_eq!(lines.iter().map(|line| counts(line).2).collect::<Vec<_>>(), [1, 1, 1, 2]);
    let args = ["state", "--group-by", "run", "-o", "table", "--max", "2"];
    let table = run_command(command_at(&peer.url(), &args)).expect(0).stdout;
    let rows: Vec<_> = table.lines().filter(|line| line.starts_with("run=d-1")).collect();
    assert_eq!(rows.len(), 2, "{table}");
    assert!(rows[0].contains(" 1/2 ") && rows[1].contains(" 2/2 "), "{table}");
}

/// On a terminal, the command reports its progress from time to time, without repetitions.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn who_waits_at_a_terminal_is_told_how_far_it_is() {
    let script = || listing(&[up("a"), starting("b")]).stream(caught_up().silence());
    let peer = Peer::start(script()).await;
    let args = ["wait", "-l", "app=web", "--for", "ready=2", "--timeout", "8s"];
    let started = std::time::Instant::now();
    let mut terminal = Terminal::start(command_at(&peer.url(), &args), 120);
    terminal.until(|seen| seen.contains("relay: waiting for ready=2: ") && seen.ends_with('\n'));
    assert!(started.elapsed() >= std::time::Duration::from_secs(3), "{:?}", started.elapsed());
    let (code, seen) = terminal.wait();
    assert_eq!(code, Some(5), "{seen}");
    assert_eq!(seen.matches("relay: waiting for ready=2: 1 ready, 2 wanted").count(), 1, "{seen}");
    // In a pipe, it reports only at the end.
    let peer = Peer::start(script()).await;
    let args = ["wait", "-l", "app=web", "--for", "ready=2", "--timeout", "4s"];
    let done = run_command(command_at(&peer.url(), &args));
    assert!(timed_out(&done).contains("ready"), "{done:?}");
    assert!(!done.stderr.contains("waiting for"), "{done:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn groups_survive_a_gap_and_are_counted_by_max() {
    let (one, two) = (pod("a", "d-1", "Running", true), pod("b", "d-2", "Running", true));
    let script = RelayScript::new("e1")
        .seed(3, [&one, &two])
        .always(PODS, pods_reply("e1", 9, [&one]))
        .stream(caught_up().gap("slow-consumer", 9).silence());
    let peer = Peer::start(script).await;
    let args = ["state", "--group-by", "run", "--pods", "--max", "3"];
    let lines = run_command(command_at(&peer.url(), &args)).expect(0).json();
    // The list after the gap differs in one group.
    let seen: Vec<_> = lines.iter().map(|line| (line["group"].as_str().unwrap(), &line["pods"])).collect();
    assert_eq!(seen, [("d-1", &json!(1)), ("d-2", &json!(1)), ("d-2", &json!(0))]);
    assert_eq!(lines[0]["pod_set"][0]["name"], "a");
    assert_eq!(lines[2]["pod_set"], json!([]));

    let peer = Peer::start(listing([&one, &two]).stream(caught_up().silence())).await;
    let args = ["state", "--group-by", "run", "--max", "1"];
    assert_eq!(run_command(command_at(&peer.url(), &args)).expect(0).json().len(), 1, "also inside a list");
}

/// The same words as `pods --group-by`, with the same meaning.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn groups_are_by_field_as_those_of_pods_are() {
    let on = |name: &str, node: Option<&str>, ready: bool| {
        let pod = pod(name, "d-1", "Running", ready);
        pod.to_builder().node_name(node).build()
    };
    let seed = [on("a", Some("n-1"), true), on("b", Some("n-1"), false), on("c", None, false)];
    let moved = on("c", Some("n-2"), true);
    let talk = || caught_up().pod("MODIFIED", &moved).silence();
    for (by, list, after) in [
        ("node", &[("n-1", 2), ("(none)", 1)][..], &[("n-2", 1), ("(none)", 0)][..]),
        ("namespace", &[("prod", 3)], &[("prod", 3)]),
        ("status", &[("Running", 3)], &[("Running", 3)]),
        ("label:run", &[("d-1", 3)], &[("d-1", 3)]),
        ("label:node", &[("(none)", 3)], &[("(none)", 3)]),
    ] {
        let peer = Peer::start(listing(&seed).stream(talk())).await;
        let pods = run_command(command_at(&peer.url(), &["pods", "--group-by", by])).expect(0).json();
        let client = follow_at(&peer.url(), &["state", "--group-by", by]);
        for (line, expected) in pods.iter().zip(list) {
            let first = client.json();
            assert_eq!(
                (first["group"].as_str().unwrap(), first["pods"].as_u64().unwrap()),
                *expected,
                "{by}"
            );
            assert_eq!(&first, line, "{by}");
        }
        assert_eq!(pods.len(), list.len(), "{by}");
        for expected in after {
            let line = client.json();
            assert_eq!((line["group"].as_str().unwrap(), line["pods"].as_u64().unwrap()), *expected, "{by}");
        }
    }
}

/// With the server of this project: adding up the lines gives the content of the list.
#[test]
fn groups_add_up_to_the_list() {
    let server = Server::start(&["--sim-rate", "200", "--sim-pods", "30"]);
    let client = server.follow(&["state", "--group-by", "run", "--pods"]);
    for _ in 0..200 {
        let line = client.json();
        let set = line["pod_set"].as_array().unwrap();
        let count = |fits: &dyn Fn(&Value) -> bool| set.iter().filter(|pod| fits(pod)).count();
        assert_eq!(line["pods"], set.len());
        assert_eq!(line["ready"], count(&|pod| pod["ready"] == true));
        assert_eq!(count(&|pod| pod["labels"]["run"] == line["group"]), set.len(), "{line}");
        for (phase, pods) in line["phases"].as_object().unwrap() {
            assert_eq!(*pods, count(&|pod| pod["phase"] == *phase), "{line}");
        }
        let restarts: u64 = set
            .iter()
            .flat_map(|pod| pod["containers"].as_array().unwrap())
            .map(|container| container["restart_count"].as_u64().unwrap())
            .sum();
        assert_eq!(line["restarts"], restarts);
    }
}

#[test]
fn group_keys_are_checked() {
    for bad in ["", "=x", "run=d-1", "not a key"] {
        let args = ["state", "--group-by", bad];
        let done = run_command(command_at("http://127.0.0.1:1", &args)).expect(2);
        assert!(done.stderr.contains("--group-by"), "{}", done.stderr);
    }
}
