//! What people try first, by habit or by mistake: names, numbers and words as in other tools.

use relay_testkit::{Peer, RelayScript, Reply, Script};
use serde_json::json;

use super::process::{Server, command_at, key, relay, run, run_command};

#[test]
fn several_pods_are_shown_at_once_in_every_spelling() {
    let server = Server::quiet(12);
    let names = server.run(&["pods", "-o", "name"]).expect(0).stdout;
    let names: Vec<&str> = names.lines().collect();
    let all = [&["pod"], &names[..]].concat();
    let shown = server.run(&[&all[..], &["-o", "name"]].concat()).expect(0).stdout;
    assert_eq!(shown.lines().collect::<Vec<_>>(), names);

    let (namespace, name) = names[0].split_once('/').unwrap();
    for spelled in [
        &["pod", "-n", namespace, name][..],
        &["pod", "-n", namespace, names[0]],
        &["pod", "-n", namespace, &format!("pod/{name}")],
        &["pod", "-n", namespace, &format!("pods/{name}")],
        &["pod", namespace, name],
    ] {
        let done = server.run(&[spelled, &["-o", "name"]].concat()).expect(0);
        assert_eq!(done.stdout.trim_end(), names[0], "{spelled:?}");
    }
    // The variable is only a default, and names with a namespace take precedence over it.
    let mut command = server.command(&["pod", names[0], names[1], "-o", "name"]);
    command.env("RELAY_NAMESPACE", "elsewhere");
    assert_eq!(run_command(command).expect(0).stdout.lines().count(), 2);

    // The pods that exist are printed, and each missing one is named.
    let done = server.run(&["pod", names[0], "prod/gone-1", "prod/gone-2", "-o", "name"]).expect(3);
    assert_eq!(done.stdout.trim_end(), names[0]);
    for gone in ["prod/gone-1", "prod/gone-2"] {
        let told = format!("relay: there is no pod {gone} (what happened to it: relay events --pod {gone})");
        assert!(done.stderr.lines().any(|line| line == told), "{}", done.stderr);
    }
    let other = server.run(&["pod", "-n", "elsewhere", names[0]]).expect(2);
    assert!(other.stderr.contains("not the one of --namespace, \"elsewhere\""), "{}", other.stderr);
    for command in
        [&["pod", "pod/web"][..], &["wait", "pods/web", "--for", "ready"], &["events", "--pod", "pod/web"]]
    {
        let done = server.run(command).expect(2);
        assert!(done.stderr.contains("in which namespace?"), "{}", done.stderr);
    }
    let done = server.run(&["wait", "-n", "prod", "deployment/web", "--for", "ready"]).expect(2);
    assert!(done.stderr.contains("knows pods only"), "{}", done.stderr);
    let met = server.run(&["wait", "-n", namespace, &format!("pod/{name}"), "--for", "count=1"]).expect(0);
    assert!(met.stdout.contains("count=1"), "{}", met.stdout);
}

/// The name of what is wrong stands in the error, without what may be a secret.
#[test]
fn an_address_that_is_none_is_named_without_secrets() {
    for (url, shown, rule) in [
        ("foo", "--url \"foo\": ", "does not begin with http:// or https://"),
        ("ftp://host/", "--url \"ftp://host/\": ", "does not begin with http:// or https://"),
        ("http://host:99999", "--url \"http://host:99999\": ", "host or port is not valid"),
        ("http://u:s3cr3t@host", "--url \"http://host\": ", "it has a user name"),
        ("http://host/?key=s3cr3t", "--url \"http://host/\": ", "has no query"),
    ] {
        for command in [&["pods"][..], &["durable", "head", "/x"], &["parsec", "history", "public:a.b"]] {
            let done = run(&[command, &["--url", url]].concat()).expect(2);
            assert!(done.stderr.contains(shown) && done.stderr.contains(rule), "{command:?}: {done:?}");
            assert!(!done.stderr.contains("s3cr3t"), "{done:?}");
            assert_eq!(done.stderr.lines().count(), 1, "{done:?}");
        }
    }
    let mut command = relay(&["pods"]);
    let done = run_command({
        command.env("RELAY_URL", "foo");
        command
    });
    assert!(done.expect(2).stderr.contains("RELAY_URL \"foo\": "));
}

#[test]
fn an_end_that_was_there_from_the_start_is_named() {
    let server = Server::quiet(6);
    let pods = server.run(&["pods"]).expect(0).json();
    let (namespace, name) = key(&pods[0]);
    for (args, told) in [
        (&["prod/typo"][..], "relay: prod/typo was not there from the start\n"),
        (&["-n", "nowhere"], "relay: no pod matched from the start\n"),
    ] {
        let done = server.run(&[&["wait", "--for", "delete"], args].concat()).expect(0);
        assert_eq!(done.stderr, told, "{args:?}");
    }
    let there = format!("{namespace}/{name}");
    let done = server.run(&["wait", &there, "--for", "delete", "--timeout", "300ms"]).expect(5);
    assert!(done.stderr.contains("1 pod still matches"), "{}", done.stderr);
    let done = server.run(&["wait", &there, "--for", "count=1", "-o", "table"]).expect(0);
    assert!(done.stdout.starts_with("count=1: met, 1 pod, "), "{}", done.stdout);
}

#[test]
fn values_that_cannot_be_say_their_rule() {
    for (args, rule) in [
        (&["state", "--for", "-5s"][..], "not negative"),
        (&["state", "--for", "0"], "a duration above 0"),
        (&["events", "--since", "-5m"], "not negative"),
        (&["serve", "--sim-rate", "-1"], "0 to 1000000 events per second"),
        (&["replay", "--max", "-1"], "a whole number from 0"),
        (&["serve", "--sim-pods", "x"], "a whole number from 0"),
        (&["events", "--limit", "0"], "a whole number from 1 to 1000"),
        (&["bus", "receive", "--status", "99"], "a whole number from 200 to 599"),
        (&["parsec", "history", "public:a.b", "--since", "-1"], "a whole number from 0"),
        (&["serve", "--listen", "8080"], "such as 127.0.0.1:8080"),
        (&["serve", "--listen", ":8080"], "such as 127.0.0.1:8080"),
        (&["durable", "serve", "--listen", "localhost:8080"], "such as 127.0.0.1:8080"),
        (&["parsec", "serve", "--listen", "8080"], "such as 127.0.0.1:8080"),
    ] {
        let done = run(args).expect(2);
        assert!(
            done.stderr.contains(rule) && done.stderr.contains("invalid value"),
            "{args:?}: {}",
            done.stderr
        );
        assert!(!done.stderr.contains("unexpected argument"), "{args:?}: {}", done.stderr);
    }
    // The same with the value from the environment.
    let mut command = relay(&["state"]);
    command.env("RELAY_FOR", "-1s");
    assert!(run_command(command).expect(2).stderr.contains("not negative"));
}

#[test]
fn words_of_other_tools_are_taken() {
    let server = Server::quiet(4);
    assert_eq!(server.run(&["watch", "--max", "1"]).expect(0).json()[0]["pods"], 4);
    assert_eq!(run(&["completion", "bash"]).expect(0).stdout, run(&["completions", "bash"]).expect(0).stdout);
    assert_eq!(server.run(&["state", "--for", "1h0m", "--max", "1"]).expect(0).json().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_time_before_the_log_says_what_to_ask_for() {
    let problem = json!({"type": "urn:relay:problem:cursor-expired", "status": 410, "code": "cursor-expired",
        "detail": "since_time: events of that time may no longer be retained"});
    let peer = Peer::start(Script::new().always("/events", Reply::json(410, &problem))).await;
    let done = run_command(command_at(&peer.url(), &["events", "--since", "5m"])).expect(1);
    assert!(
        done.stderr.contains("(give a shorter --since, or none for all that is kept)"),
        "{}",
        done.stderr
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn pods_that_are_not_ready_are_found_and_groups_counted() {
    let pod = |namespace: &str, name: &str, phase: &str, ready: bool, more: serde_json::Value| {
        let mut pod = json!({"namespace": namespace, "name": name, "phase": phase, "ready": ready,
            "labels": {"app": name.split('-').next()}});
        pod.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        pod
    };
    let list = json!({"hash": "h", "sequence": 1, "epoch": "e", "pods": [
        pod("prod", "web-0", "Running", true, json!({"node_name": "node-1"})),
        pod("prod", "web-1", "Running", false, json!({"node_name": "node-2"})),
        pod("batch", "import-0", "Succeeded", false, json!({"node_name": "node-1"})),
        pod("batch", "import-1", "Pending", false, json!({"labels": {}})),
        pod("prod", "web-2", "Running", true, json!({"node_name": "node-1", "deleted_at": "2026-11-21T09:00:00Z"})),
    ]});
    let peer = Peer::start(RelayScript::new("e").always("/pods", Reply::json(200, &list))).await;
    let pods = |args: &[&str]| run_command(command_at(&peer.url(), &[&["pods"], args].concat())).expect(0);
    assert_eq!(pods(&["--not-ready", "-o", "name"]).stdout, "prod/web-1\nbatch/import-1\nprod/web-2\n");
    let counts = |args: &[&str]| -> Vec<(String, u64, u64)> {
        let lines = pods(args).json();
        let number = |value: &serde_json::Value| value.as_u64().unwrap();
        lines
            .iter()
            .map(|line| {
                (line["group"].as_str().unwrap().into(), number(&line["pods"]), number(&line["ready"]))
            })
            .collect()
    };
    for (by, expected) in [
        ("namespace", vec![("batch", 2, 0), ("prod", 3, 1)]),
        ("node", vec![("node-1", 3, 1), ("node-2", 1, 0), ("(none)", 1, 0)]),
        ("app", vec![("import", 1, 0), ("web", 3, 1), ("(none)", 1, 0)]),
        ("label:app", vec![("import", 1, 0), ("web", 3, 1), ("(none)", 1, 0)]),
    ] {
        let expected: Vec<_> =
            expected.into_iter().map(|(group, pods, ready)| (group.to_owned(), pods, ready)).collect();
        assert_eq!(counts(&["--group-by", by]), expected, "{by}");
    }
    let table = pods(&["--group-by", "status", "-o", "table"]).stdout;
    assert!(table.starts_with("GROUP") && table.contains("status=Terminating"), "{table}");
    run(&["pods", "--group-by", "a=b"]).expect(2);

    let ready = json!({"hash": "h", "sequence": 1, "epoch": "e", "pods": [list["pods"][0], list["pods"][2]]});
    let peer = Peer::start(RelayScript::new("e").always("/pods", Reply::json(200, &ready))).await;
    let done = run_command(command_at(&peer.url(), &["pods", "--not-ready", "-o", "table"])).expect(0);
    assert_eq!(
        (done.stdout.as_str(), done.stderr.as_str()),
        ("", "relay: all 2 pods are ready, or have succeeded\n")
    );
}

/// Without a seed, times come from the real clock: ages make sense, and `--since-time` with the time of an event finds
/// it.
#[test]
fn times_of_a_simulated_cluster_are_of_today_unless_a_seed_is_asked_for() {
    let time = |server: &Server| {
        let events = server.run(&["events", "--max", "4"]).expect(0).json();
        events[3]["timestamp"].as_str().unwrap().to_owned()
    };
    let args = ["serve", "--listen", "127.0.0.1:0", "--sim-pods", "4", "--sim-rate", "50"];
    let real = Server::start(&["--sim-pods", "4", "--sim-rate", "50", "--sim-clock", "real"]);
    let seeded = Server::start(&["--sim-pods", "4", "--sim-rate", "50", "--sim-seed", "3"]);
    assert!(time(&seeded).starts_with("2026-01-05"));
    let copied = time(&real);
    assert!(!copied.starts_with("2026-01-05"), "{copied}");
    real.follow(&["state"]).until(|line| line["event"]["sequence"].as_u64() > Some(20));
    let since = real.run(&["events", "--since-time", &copied, "--max", "5"]).expect(0).json();
    assert_eq!(since.len(), 5);
    // The default is the real clock.
    let running = super::process::Running::start(relay(&args));
    let line = running.line().unwrap();
    let url = line.split_whitespace().find(|word| word.starts_with("http")).unwrap().trim_end_matches(',');
    let pods = run_command(command_at(url, &["pods"])).expect(0).json();
    assert!(pods.iter().all(|pod| !pod["created_at"].as_str().unwrap().starts_with("2025-12")), "{pods:?}");
}
