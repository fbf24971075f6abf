//! The commands that make a single request: `pods`, `pod`, `events`, `session`, `health`; their JSON, exit codes
//! and settings.

use std::collections::BTreeSet;

use relay_testkit::ReservedPort;
use serde_json::Value;

use super::process::{Running, Server, check_event, command_at, fields, key, relay, run, run_command};
use super::wire::{encode, eventually, get, history, until_head};

const POD: [&str; 18] = [
    "annotations",
    "containers",
    "created_at",
    "deleted_at",
    "host_ip",
    "labels",
    "message",
    "name",
    "namespace",
    "node_name",
    "owner",
    "phase",
    "pod_ip",
    "ready",
    "reason",
    "resource_version",
    "started_at",
    "uid",
];
const CONTAINER: [&str; 7] = ["exit_code", "image", "name", "ready", "reason", "restart_count", "state"];

fn sorted(pods: &[Value]) -> Vec<Value> {
    let mut pods = pods.to_vec();
    pods.sort_by_key(key);
    pods
}

#[test]
fn pods_and_pod_print_the_flat_shape() {
    let server = Server::quiet(25);
    let listed = server.run(&["pods"]).expect(0).json();
    let wire = get(server.addr, "/pods").ok();
    assert_eq!(listed.len(), 25);
    assert_eq!(sorted(&listed), sorted(wire["pods"].as_array().unwrap()));
    for pod in &listed {
        assert_eq!(fields(pod), POD);
        for container in pod["containers"].as_array().unwrap() {
            assert_eq!(fields(container), CONTAINER);
        }
        assert_eq!(pod["annotations"], serde_json::json!({}), "nothing is on the allow-list");
        assert!(!pod["labels"].as_object().unwrap().is_empty(), "every simulated pod is labelled: {pod}");
    }
    assert!(listed.iter().any(|pod| pod["namespace"] == "prod"));

    // Without `-o` the output is also JSON, because it is not a terminal.
    let plain = run(&["pods", "--url", &server.url()]).expect(0);
    assert_eq!(sorted(&plain.json()), sorted(&listed));

    let pod = &listed[3];
    let (namespace, name) = key(pod);
    let slashed = format!("{namespace}/{name}");
    for args in
        [vec!["pod", &slashed], vec!["pod", &namespace, &name], vec!["pod", &name, "--namespace", &namespace]]
    {
        assert_eq!(server.run(&args).expect(0).json(), std::slice::from_ref(pod), "{args:?}");
    }
    let none = server.run(&["pod", "prod/no-such-pod"]).expect(3);
    assert_eq!(none.stdout, "");
    assert!(none.stderr.contains("no-such-pod"), "{}", none.stderr);
}

#[test]
fn pods_are_narrowed_by_namespaces_and_labels() {
    let server = Server::quiet(60);
    let all = server.run(&["pods"]).expect(0).json();
    let namespaces: BTreeSet<_> =
        all.iter().map(|pod| pod["namespace"].as_str().unwrap().to_owned()).collect();
    assert!(namespaces.len() >= 2, "several namespaces: {namespaces:?}");
    let second = namespaces.iter().find(|namespace| *namespace != "prod").unwrap();
    let app = all.iter().find(|pod| pod["namespace"] == "prod").unwrap()["labels"]["app"]
        .as_str()
        .unwrap()
        .to_owned();
    let label = format!("app={app}");

    type Fits<'a> = Box<dyn Fn(&Value) -> bool + 'a>;
    let cases: [(Vec<&str>, Fits<'_>); 5] = [
        (vec!["-n", "prod"], Box::new(|pod| pod["namespace"] == "prod")),
        (
            vec!["-n", "prod", "--namespace", second],
            Box::new(|pod| pod["namespace"] == "prod" || pod["namespace"] == second.as_str()),
        ),
        (vec!["-l", &label], Box::new(|pod| pod["labels"]["app"] == app.as_str())),
        (
            vec!["-l", &label, "--label", "app", "-n", "prod"],
            Box::new(|pod| pod["labels"]["app"] == app.as_str() && pod["namespace"] == "prod"),
        ),
        (vec!["-l", "no-such-label"], Box::new(|_| false)),
    ];
    for (args, fits) in cases {
        let mut command = vec!["pods"];
        command.extend(&args);
        let seen = server.run(&command).expect(0).json();
        let expected: Vec<_> = all.iter().filter(|pod| fits(pod)).cloned().collect();
        assert_eq!(sorted(&seen), sorted(&expected), "{args:?}");
    }
}

#[test]
fn events_page_through_the_history() {
    let server = Server::start(&["--sim-rate", "400", "--sim-pods", "20"]);
    until_head(server.addr, 120);
    let log = history(server.addr);

    let lines = server.run(&["events", "--limit", "7", "--max", "100"]).expect(0).json();
    assert_eq!(lines.len(), 100);
    for (line, event) in lines.iter().zip(&log) {
        check_event(line);
        for field in ["hash", "sequence", "timestamp", "type", "pod"] {
            assert_eq!(line[field], event[field], "{field}");
        }
        assert_eq!(line["synthetic"], event["synthetic"].as_bool().unwrap_or(false));
    }
    assert_eq!(lines.iter().filter(|line| line["synthetic"] == true).count(), 20);

    let since = log[49]["hash"].as_str().unwrap();
    let lines = server.run(&["events", "--since-hash", since, "--max", "3"]).expect(0).json();
    assert_eq!(lines.iter().map(|line| line["sequence"].as_u64().unwrap()).collect::<Vec<_>>(), [51, 52, 53]);

    let before = ["events", "--order", "newest", "--before-hash", since, "--limit", "20"];
    let lines = server.run(&before).expect(0).json();
    let sequences: Vec<_> = lines.iter().map(|line| line["sequence"].as_u64().unwrap()).collect();
    assert_eq!(
        sequences,
        (1..=49).rev().collect::<Vec<_>>(),
        "from the newest below the cursor to the oldest"
    );

    let typed = ["events", "--type", "DELETED", "--type", "MODIFIED", "--max", "30"];
    let lines = server.run(&typed).expect(0).json();
    let expected: Vec<_> =
        log.iter().filter(|event| event["type"] != "ADDED").take(30).map(|e| &e["hash"]).collect();
    assert_eq!(lines.iter().map(|line| &line["hash"]).collect::<Vec<_>>(), expected);

    let (namespace, name) = key(&log[0]["pod"]);
    let lines =
        server.run(&["events", "--pod", &format!("{namespace}/{name}"), "--max", "1"]).expect(0).json();
    assert_eq!(lines[0]["hash"], log[0]["hash"]);
    let unseen = server.run(&["events", "--pod", "prod/never-seen"]).expect(0);
    assert_eq!(unseen.stdout, "");
}

#[test]
fn session_and_health_print_what_the_wire_says() {
    let server = Server::start(&["--sim-rate", "0", "--session-ttl", "90s"]);
    let session = server.run(&["session"]).expect(0).json().remove(0);
    assert_eq!(fields(&session), ["expires_at", "expires_in_seconds", "session_id"]);
    assert!(session["session_id"].as_str().unwrap().len() >= 22, "128 bits or more: {session}");
    let seconds = session["expires_in_seconds"].as_f64().unwrap();
    assert!((80.0..=90.0).contains(&seconds), "{session}");

    let health = server.run(&["health"]).expect(0).json().remove(0);
    assert_eq!(fields(&health), ["epoch", "head", "source", "status", "store", "subscribers"]);
    assert_eq!(fields(&health["head"]), ["hash", "sequence"]);
    assert_eq!(
        fields(&health["source"]),
        ["kind", "last_event_age_ms", "reason", "stale_since", "state", "synced"]
    );
    assert_eq!(fields(&health["store"]), ["bytes", "events", "kind", "oldest_hash"]);
    assert_eq!(health["status"], "ok");
    assert_eq!(health["source"]["kind"], "sim");
    assert_eq!(health["head"]["sequence"], 60);
    assert_eq!(health["store"]["events"], 60);
    assert_eq!(health["subscribers"], 0);
}

#[test]
fn tables_are_for_people() {
    let server = Server::quiet(5);
    let name = key(&get(server.addr, "/pods").ok()["pods"][0]).1;
    for args in [
        vec!["pods"],
        vec!["events"],
        vec!["replay", "--exit-after-phase", "Live"],
        vec!["state", "--max", "1"],
    ] {
        let mut command = args.clone();
        command.extend(["-o", "table"]);
        let done = server.run(&command).expect(0);
        assert!(!done.stdout.trim_start().starts_with('{'), "{args:?}: {}", done.stdout);
        if args[0] != "state" {
            assert!(done.stdout.contains(&name), "{args:?}: {}", done.stdout);
        }
    }
}

#[test]
fn nobody_listens() {
    let closed = ReservedPort::reserve();
    let url = closed.url();
    for args in [vec!["pods"], vec!["pod", "prod/web"], vec!["events"], vec!["session"], vec!["health"]] {
        let done = run_command(command_at(&url, &args)).expect(1);
        assert_eq!(done.stdout, "", "{args:?}");
        assert!(done.stderr.contains(&url), "{args:?} names the URL: {}", done.stderr);
    }
}

#[test]
fn wrong_usage_is_refused_with_2() {
    // No server listens there either: the error is found before any connection is tried.
    let closed = ReservedPort::reserve();
    let url = closed.url();
    for args in [
        vec!["no-such-command"],
        vec!["pods", "--no-such-flag"],
        vec!["pods", "--namespace", "Not_A_Namespace"],
        vec!["pods", "-n", "-dash"],
        vec!["pods", "--label", "=value"],
        vec!["pods", "--label", "app=not valid"],
        vec!["pods", "-l", "a/b/c=d"],
        vec!["events", "--limit", "0"],
        vec!["events", "--limit", "1001"],
        vec!["events", "--order", "sideways"],
        vec!["events", "--type", "VANISHED"],
        vec!["replay", "--exit-after-phase", "Lively"],
        vec!["replay", "--for", "soon"],
        vec!["replay", "--reconnect-base", "5"],
        vec!["replay", "--client-id", "two words"],
        vec!["replay", "--client-id", "line\r\nx-evil: 1"],
        vec!["stream", "--client-id", ""],
        vec!["stream", "--client-id", &"x".repeat(129)],
        vec!["state", "--label", "!"],
        vec!["pods", "-o", "xml"],
        vec!["state", "-o", "name"],
        vec!["pods", "--color", "red"],
        vec!["pod"],
        vec!["pods", "--url", "not a url"],
        vec!["pods", "--url", "ftp://127.0.0.1/"],
        vec!["serve", "--listen", "nowhere"],
        vec!["serve", "--retain-bytes", "many"],
        vec!["serve", "--sim-rate", "-1"],
        vec!["demo", "--for", "never"],
    ] {
        let mut command = args.clone();
        if args[0] != "serve" && args[0] != "demo" && args[0] != "no-such-command" && !args.contains(&"--url")
        {
            command.extend(["--url", &url]);
        }
        let done = run(&command);
        assert_eq!(done.code, Some(2), "{args:?}: {}", done.stderr);
        assert_eq!(done.stdout, "", "{args:?}");
        assert!(!done.stderr.is_empty(), "{args:?}");
    }
}

#[test]
fn a_server_that_cannot_begin_does_not_say_that_it_listens() {
    for args in [
        ["--kubeconfig", "/no/such/kubeconfig"],
        ["--watch-namespace", "Not_A_Namespace"],
        // The home directory has no kubeconfig, and there is no service account.
        ["--retain-events", "10"],
    ] {
        let mut command = relay(&["serve", "--source", "kube", "--listen", "127.0.0.1:0", args[0], args[1]]);
        command.env("HOME", "/no/such/home");
        let done = run_command(command).expect(1);
        assert_eq!(done.stdout, "", "{args:?}");
        assert!(done.stderr.contains("the source failed"), "{args:?}: {}", done.stderr);
        assert!(args[0] == "--retain-events" || done.stderr.contains(args[1]), "{args:?}: {}", done.stderr);
    }
}

/// A relay that serves a simulated cluster in the place of the one that was meant would be believed.
#[test]
fn flags_of_the_other_source_are_refused() {
    for (args, flag, needed) in [
        (&["--kubeconfig", "x"][..], "--kubeconfig", "kube"),
        (&["--watch-namespace", "prod"], "--watch-namespace", "kube"),
        (&["--watch-namespace", "prod", "--source", "sim"], "--watch-namespace", "kube"),
        (&["--source", "kube", "--sim-seed", "1"], "--sim-seed", "sim"),
        (&["--sim-rate", "0", "--source", "kube"], "--sim-rate", "sim"),
        (&["--sim-pods", "1", "--source=kube"], "--sim-pods", "sim"),
        (&["--sim-clock", "real", "--source", "kube"], "--sim-clock", "sim"),
    ] {
        let done = run(&[&["serve", "--listen", "127.0.0.1:0"], args].concat()).expect(2);
        let told = format!("relay: {flag} needs --source {needed}, and the source is ");
        assert!(done.stderr.starts_with(&told) && done.stdout.is_empty(), "{args:?}: {done:?}");
    }
    let mut command = relay(&["serve", "--watch-namespace", "prod"]);
    command.env("RELAY_SOURCE", "sim");
    run_command(command).expect(2);
    // Variables may be those of the whole machine: one is told that it is not used.
    let mut command = relay(&["serve", "--listen", "127.0.0.1:0"]);
    command.env("RELAY_WATCH_NAMESPACE", "prod").env("RELAY_KUBECONFIG", "x");
    let running = Running::start(command);
    running.until_stderr(|said| said.contains("RELAY_WATCH_NAMESPACE is not used: it needs --source kube"));
    let url = running.line().unwrap().rsplit_once(' ').unwrap().1.to_owned();
    let health = || run(&["health", "-o", "table", "--url", &url]);
    let table = eventually("a live source", || Some(health()).filter(|done| done.code == Some(0))).stdout;
    assert!(table.starts_with("ok, source sim, log at "), "{table}");
}

#[test]
fn all_namespaces_goes_before_the_variable_and_not_together_with_the_flag() {
    let server = Server::quiet(12);
    let all = server.run(&["pods", "-o", "name"]).expect(0).stdout;
    let namespace = all.split('/').next().unwrap();
    let mut some = server.command(&["pods", "-o", "name"]);
    some.env("RELAY_NAMESPACE", namespace);
    assert!(run_command(some).expect(0).stdout.len() < all.len());
    let mut every = server.command(&["pods", "-A", "-o", "name"]);
    every.env("RELAY_NAMESPACE", namespace);
    assert_eq!(run_command(every).expect(0).stdout, all);
    for command in
        [&["pods"][..], &["events"], &["stream"], &["state"], &["replay"], &["wait", "--for", "ready"]]
    {
        for both in
            [&["-A", "-n", "prod"][..], &["-n", "prod", "-A"], &["--namespace=prod", "--all-namespaces"]]
        {
            let done = server.run(&[command, both].concat()).expect(2);
            assert_eq!(
                done.stderr, "relay: --all-namespaces cannot be used with --namespace: give one of them\n",
                "{command:?} {both:?}"
            );
        }
    }
}

#[test]
fn help_and_version_are_no_errors() {
    for args in [vec!["--help"], vec!["--version"], vec!["replay", "--help"], vec!["help", "serve"]] {
        let done = run(&args).expect(0);
        assert!(!done.stdout.is_empty(), "{args:?}");
    }
    let help = run(&["--help"]).stdout;
    for command in
        ["demo", "serve", "pods", "pod", "events", "stream", "state", "replay", "wait", "session", "health"]
    {
        assert!(help.lines().any(|line| line.trim_start().starts_with(command)), "{command}: {help}");
    }
}

#[test]
fn a_cursor_that_is_gone_from_the_history_is_an_error() {
    let server = Server::quiet(5);
    // A hash may be any text that a relay sends, also one that looks like a flag.
    for hash in ["no.such.hash", "-no.such.hash", "--limit"] {
        let done = server.run(&["events", "--since-hash", hash]).expect(1);
        assert_eq!(done.stdout, "");
        assert!(done.stderr.contains("cursor-unknown"), "{}", done.stderr);
    }
}

#[test]
fn settings_come_from_the_environment_and_flags_beat_them() {
    let server = Server::quiet(40);
    let in_prod = server.run(&["pods", "-n", "prod"]).expect(0).json();
    assert!(!in_prod.is_empty() && in_prod.len() < 40);

    let mut command = relay(&["pods"]);
    command.env("RELAY_URL", server.url()).env("RELAY_NAMESPACE", "prod").env("RELAY_OUTPUT", "json");
    assert_eq!(sorted(&run_command(command).expect(0).json()), sorted(&in_prod));

    let mut command = relay(&["pods", "--url", &server.url(), "--namespace", "prod"]);
    let closed = ReservedPort::reserve();
    command.env("RELAY_URL", closed.url()).env("RELAY_NAMESPACE", "no-such-namespace");
    assert_eq!(sorted(&run_command(command).expect(0).json()), sorted(&in_prod));

    let mut command = relay(&["events"]);
    let third = get(server.addr, "/events?limit=3").ok();
    let third = third["next_hash"].as_str().unwrap();
    command.env("RELAY_URL", server.url()).env("RELAY_MAX", "4").env("RELAY_SINCE_HASH", third);
    let lines = run_command(command).expect(0).json();
    assert_eq!(lines.iter().map(|line| line["sequence"].as_u64().unwrap()).collect::<Vec<_>>(), [4, 5, 6, 7]);

    let mut command = relay(&["replay", "--exit-after-phase", "Live"]);
    command.env("RELAY_URL", server.url()).env("RELAY_LABEL", "app").env("RELAY_CLIENT_ID", "from-env");
    assert!(!run_command(command).expect(0).json().is_empty());

    let mut command = relay(&["pods"]);
    command.env("RELAY_URL", server.url()).env("RELAY_LABEL", "!");
    assert_eq!(run_command(command).code, Some(2));

    // An empty variable counts as absent, whatever it sets.
    let mut command = relay(&["pods", "--url", &server.url()]);
    let names = ["RELAY_URL", "RELAY_TOKEN", "RELAY_TOKEN_FILE", "RELAY_CLIENT_ID", "RELAY_PROXY_TOKEN"];
    let more = ["RELAY_CA_FILE", "RELAY_CLIENT_CERT", "RELAY_CLIENT_KEY", "RELAY_CONNECT_TIMEOUT"];
    let rest = ["RELAY_NAMESPACE", "RELAY_LABEL", "RELAY_OUTPUT", "RELAY_LOG"];
    command.envs(names.into_iter().chain(more).chain(rest).map(|name| (name, "")));
    assert_eq!(run_command(command).expect(0).json().len(), 40);
    let mut command = relay(&["replay", "--max", "1"]);
    command.env("RELAY_URL", server.url()).env("RELAY_SINCE_HASH", "").env("RELAY_CURSOR_FILE", "");
    command.env("RELAY_MAX", "").env("RELAY_FOR", "").env("RELAY_RECONNECT_BASE", "");
    assert_eq!(run_command(command).expect(0).json().len(), 1);
    let mut command = relay(&["wait", "--for", "count=40"]);
    command.env("RELAY_URL", server.url()).env("RELAY_TIMEOUT", "");
    run_command(command).expect(0);

    // The same holds for variables of the server.
    let mut command = relay(&["serve"]);
    command.env("RELAY_LISTEN", "127.0.0.1:0").env("RELAY_SIM_PODS", "3").env("RELAY_SIM_RATE", "0");
    command.env("RELAY_TOKENS_FILE", "").env("RELAY_HEARTBEAT", "").env("RELAY_KUBECONFIG", "");
    let running = super::process::Running::start(command);
    let first = running.line().unwrap();
    let addr = first.strip_prefix("relay listening on http://").unwrap().parse().unwrap();
    assert_eq!(get(addr, "/pods").ok()["pods"].as_array().unwrap().len(), 3);
}

#[test]
fn filters_reach_the_history_encoded() {
    let server = Server::quiet(30);
    let all = history(server.addr);
    let in_prod = all.iter().find(|event| event["pod"]["namespace"] == "prod").unwrap();
    let app = in_prod["pod"]["labels"]["app"].as_str().unwrap();
    let label = format!("app={app}");
    let lines = server.run(&["events", "-l", &label, "-n", "prod"]).expect(0).json();
    let wire = get(server.addr, &format!("/events?namespace=prod&label={}&limit=1000", encode(&label))).ok();
    let expected: Vec<_> = wire["events"].as_array().unwrap().iter().map(|event| &event["hash"]).collect();
    assert!(!expected.is_empty());
    assert_eq!(lines.iter().map(|line| &line["hash"]).collect::<Vec<_>>(), expected);
}
