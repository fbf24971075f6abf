//! Killed processes, cut connections, and misbehaving peers.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use relay_testkit::{FaultLink, Faults, ReservedPort};
use serde_json::Value;

use super::process::{DEADLINE, Server, fields, follow_at, key, resident_kib};
use super::wire::{Stream, get, history, request, until_head};

type Pods = BTreeMap<(String, String), Value>;

fn apply(pods: &mut Pods, event: &Value) {
    let pod = &event["pod"];
    match event["type"].as_str().unwrap() {
        "DELETED" => drop(pods.remove(&key(pod))),
        _ => drop(pods.insert(key(pod), pod.clone())),
    }
}

/// The pods after the events of the log up to this sequence.
fn pods_at(log: &[Value], sequence: u64) -> Pods {
    let mut pods = Pods::new();
    for event in log.iter().take_while(|event| event["sequence"].as_u64().unwrap() <= sequence) {
        apply(&mut pods, event);
    }
    pods
}

fn phases(lines: &[Value]) -> Vec<&str> {
    let mut phases: Vec<&str> = lines.iter().map(|line| line["phase"].as_str().unwrap()).collect();
    phases.dedup();
    phases
}

#[test]
fn a_relay_that_is_killed_and_comes_back_is_followed_on() {
    let args = ["--sim-rate", "100", "--sim-pods", "10"];
    let port = ReservedPort::reserve();
    let listen = port.addr().to_string();
    let server = Server::start_at(&listen, &args);
    let client = server.follow(&["replay", "--reconnect-cap", "50ms"]);
    client.until_phase("Live");
    let before = get(server.addr, "/health").ok()["epoch"].clone();
    server.signal("KILL");
    server.wait();
    client.until_stderr(|text| text.contains(&listen));
    let server = Server::start_at(&listen, &args);
    assert_ne!(get(server.addr, "/health").ok()["epoch"], before, "a new memory store is a new epoch");

    let dropped = client.until_phase("ReconnectReseed").pop().unwrap();
    assert!(dropped["cause"].is_string(), "{dropped}");
    assert!(dropped["gap"].is_null() && dropped["ack"].is_null());
    let lines = client.until_phase("Live");
    assert_eq!(phases(&lines), ["GapReseed", "Backfill", "CatchupComplete", "CurrentSeed", "Live"]);
    let gap = &lines[0]["gap"];
    assert_eq!(gap["reason"], "cursor-unknown");
    assert_eq!(lines[0]["ack"], Value::Null);
    let sequences: Vec<_> = lines.iter().filter_map(|line| line["event"]["sequence"].as_u64()).collect();
    assert_eq!(
        sequences,
        (1..=sequences.len() as u64).collect::<Vec<_>>(),
        "all of the new log, from its start"
    );
}

#[test]
fn plain_state_reseeds_from_a_new_relay() {
    let args = ["--sim-rate", "0", "--sim-pods", "10"];
    let port = ReservedPort::reserve();
    let listen = port.addr().to_string();
    let server = Server::start_at(&listen, &args);
    let client = server.follow(&["state", "--reconnect-cap", "50ms"]);
    assert_eq!(client.json()["pods"], 10);
    // The stream is open before the relay is killed: it counts as a subscriber.
    super::wire::eventually("a stream", || {
        (get(server.addr, "/health").ok()["subscribers"] == 1).then_some(())
    });
    server.signal("KILL");
    server.wait();
    let server = Server::start_at(&listen, &["--sim-rate", "0", "--sim-pods", "14"]);
    let lines = client.until(|line| line["pods"] == 14);
    let reseed = lines.last().unwrap();
    assert_eq!(reseed["event"], Value::Null);
    assert!(!reseed["gap"].is_null() || !reseed["cause"].is_null(), "says why: {reseed}");
    drop(server);
}

/// 10,000 events with a cut after every 100: every sequence is seen once and in order, there is no gap, and the pods
/// are right at the end.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn ten_thousand_events_through_a_link_that_cuts() {
    const EVENTS: u64 = 10_000;
    let server = Server::start(&["--sim-seed", "7", "--sim-pods", "60", "--sim-rate", "4000"]);
    let link = FaultLink::start(server.addr, 7, Faults::none().cut_every(100)).await;
    let client = follow_at(&link.url(), &["replay", "--reconnect-base", "5ms"]);

    let start = Instant::now();
    let (mut next, mut held, mut reseeds, mut last_fold) = (1, BTreeSet::new(), 0, None);
    while next <= EVENTS {
        let line = client.json();
        assert!(line["gap"].is_null(), "{line}");
        reseeds += u64::from(line["phase"] == "ReconnectReseed");
        if let Some(sequence) = line["event"]["sequence"].as_u64() {
            assert_eq!(sequence, next, "every event once and in order");
            next += 1;
        }
        for change in line["changed"].as_array().unwrap() {
            let changed = match change["change"].as_str().unwrap() {
                "added" => held.insert(key(change)),
                "removed" => held.remove(&key(change)),
                _ => held.contains(&key(change)),
            };
            assert!(changed, "a change of what the client does not hold, or holds already: {line}");
        }
        assert_eq!(line["pods"], held.len(), "{line}");
        // An event that changed the pods comes after the last seed, so the pods are those of its position.
        if line["phase"] == "Live" && line["changed"].as_array().is_some_and(|changed| !changed.is_empty()) {
            last_fold = Some((line["event"]["sequence"].as_u64().unwrap(), held.clone()));
        }
        assert!(start.elapsed() < 4 * DEADLINE, "at {next} after {:?}", start.elapsed());
    }
    let cuts = link.counters().cuts;
    assert!(cuts >= EVENTS / 100, "{cuts} cuts");
    assert!(reseeds > 0 && reseeds <= cuts, "{reseeds} reseeds, {cuts} cuts");

    if let Some((sequence, held)) = last_fold {
        let log = history(server.addr);
        assert_eq!(held, pods_at(&log, sequence).into_keys().collect(), "at {sequence}");
    }
}

/// Compares the pods themselves at every event that changes them, over a link that cuts, stalls and splits.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn pods_are_exact_on_a_bad_link() {
    // A connection brings 60 events: on a busy machine, more of them in a second would keep the client from being live.
    let server = Server::start(&["--sim-pods", "15", "--sim-rate", "60"]);
    let faults = Faults::none().cut_every(60).reset().split(700);
    let link = FaultLink::start(server.addr, 3, faults).await;
    let client = follow_at(&link.url(), &["replay", "--pods"]);
    let mut folds = Vec::new();
    let start = Instant::now();
    while folds.len() < 150 {
        let line = client.json();
        assert!(line["gap"].is_null(), "{line}");
        if line["phase"] == "Live" && !line["changed"].as_array().unwrap().is_empty() {
            folds.push((line["event"]["sequence"].as_u64().unwrap(), line["pod_set"].clone()));
        }
        assert!(start.elapsed() < 4 * DEADLINE, "{} folds", folds.len());
    }
    assert!(link.counters().cuts > 0 && link.counters().pieces > 0);
    let last = folds[folds.len() - 1].0;
    let log = history(server.addr);
    assert!(log.len() as u64 >= last);
    for (sequence, pods) in folds {
        let expected: Vec<_> = pods_at(&log, sequence).into_values().collect();
        assert_eq!(pods, Value::Array(expected), "at {sequence}");
    }

    // The list also agrees with the log at the list's position.
    let list = get(server.addr, "/pods").ok();
    let sequence = list["sequence"].as_u64().unwrap();
    until_head(server.addr, sequence);
    let listed: Pods = list["pods"].as_array().unwrap().iter().map(|pod| (key(pod), pod.clone())).collect();
    assert_eq!(listed, pods_at(&history(server.addr), sequence));
}

/// Nobody reads the client's output: its memory stays small, and it reports what it missed.
#[test]
fn a_consumer_that_stalls() {
    const EVENTS: u64 = 20_000;
    let args = ["--sim-rate", "10000", "--sim-pods", "20", "--retain-events", "2000"];
    let server = Server::start(&args);
    let mut command = server.command(&["replay"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = || -> Value { serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap() };
    assert_eq!(next()["phase"], "CurrentSeed");
    let head = get(server.addr, "/health").ok()["head"]["sequence"].as_u64().unwrap();
    // A time limit for each part: a busy machine may take longer than one for all.
    (1..=5).for_each(|part| until_head(server.addr, head + EVENTS * part / 5));
    let resident = resident_kib(child.id());
    assert!(resident < 100 * 1024, "{resident} KiB");

    // The lines that the client already had come first, complete; then the gap.
    let (mut last, mut seen) = (None, 0);
    let gap = loop {
        let line = next();
        if !line["gap"].is_null() {
            break line;
        }
        if let Some(sequence) = line["event"]["sequence"].as_u64() {
            assert!(last.is_none_or(|last| sequence == last + 1), "{last:?}, then {sequence}");
            (last, seen) = (Some(sequence), seen + 1);
            assert!(seen < 2 * EVENTS, "no gap although it cannot have kept up");
        }
    };
    assert_eq!(gap["phase"], "GapReseed");
    let reason = gap["gap"]["reason"].as_str().unwrap();
    assert!(["slow-consumer", "cursor-expired"].contains(&reason), "{gap}");
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_thousand_connections_that_say_nothing() {
    if !enough_files("faults::a_thousand_connections_that_say_nothing") {
        return;
    }
    let server = Server::start(&["--sim-rate", "20", "--sim-pods", "60"]);
    let silent: Vec<_> = (0..1000)
        .map(|n| {
            TcpStream::connect_timeout(&server.addr, DEADLINE).unwrap_or_else(|error| panic!("{n}: {error}"))
        })
        .collect();
    for _ in 0..5 {
        let start = Instant::now();
        assert_eq!(get(server.addr, "/health").status, 200);
        assert!(start.elapsed() < Duration::from_secs(10), "answered after {:?}", start.elapsed());
    }
    assert_eq!(
        server.run(&["replay", "--exit-after-phase", "Live"]).expect(0).json()[0]["phase"],
        "CurrentSeed"
    );
    let resident = resident_kib(server.pid());
    assert!(resident < 200 * 1024, "{resident} KiB");
    drop(silent);
}

/// Whether this process may open as many files as a test needs. If not, runs the test in a process that may.
fn enough_files(test: &str) -> bool {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
    let soft = line.split_whitespace().next().unwrap();
    if soft == "unlimited" || soft.parse::<u64>().unwrap() >= 4096 {
        return true;
    }
    let again = Command::new("/bin/sh")
        .args(["-c", "ulimit -n 4096 && exec \"$0\" --exact \"$1\""])
        .arg(std::env::current_exe().unwrap())
        .arg(test)
        .output()
        .unwrap();
    assert!(again.status.success(), "{}", String::from_utf8_lossy(&again.stdout));
    false
}

#[test]
fn streams_race_for_one_session() {
    const RACERS: usize = 4;
    let server = Server::quiet(3);
    for round in 0..20 {
        let session = request(server.addr, "POST", "/auth/session", &[], "");
        assert_eq!(session.status, 201);
        let query = format!("?session_id={}", session.json()["session_id"].as_str().unwrap());
        // All requests wait for their last byte, so that they arrive as close together as possible.
        let barrier = Arc::new(Barrier::new(RACERS));
        let racers = [(); RACERS].map(|()| {
            let (almost, barrier) = (Stream::almost(server.addr, &query, &[]), barrier.clone());
            std::thread::spawn(move || {
                barrier.wait();
                almost.go()
            })
        });
        let results = racers.map(|racer| racer.join().unwrap());
        let (won, lost): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
        assert_eq!((won.len(), lost.len()), (1, RACERS - 1), "round {round}");
        for loser in lost {
            loser.err().unwrap().problem(401, "session-used");
        }
        for winner in won {
            assert_eq!(winner.ok().unwrap().message().event, "connected");
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_cluster() {
    let args = ["--sim-rate", "1000", "--sim-pods", "25", "--sim-seed", "42"];
    let servers = [(); 2].map(|()| Server::start(&args));
    let logs = servers.each_ref().map(|server| {
        until_head(server.addr, 400);
        let log = history(server.addr);
        log.into_iter()
            .take(400)
            .map(|mut event| {
                for own in ["hash", "previous_hash"] {
                    event.as_object_mut().unwrap().remove(own);
                }
                event
            })
            .collect::<Vec<_>>()
    });
    for (one, other) in logs[0].iter().zip(&logs[1]) {
        assert_eq!(one, other);
    }
    assert_eq!(logs[0].len(), 400);

    let kinds: BTreeSet<_> = logs[0].iter().map(|event| event["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, BTreeSet::from(["ADDED", "DELETED", "MODIFIED"]));
    assert!(logs[0].iter().all(|event| !event["pod"]["labels"].as_object().unwrap().is_empty()));
    // At least one event in 50 changes a label of a running pod.
    let mut labels = BTreeMap::new();
    let relabelled = logs[0].iter().filter(|event| {
        let now = event["pod"]["labels"].clone();
        let before = labels.insert(key(&event["pod"]), now.clone());
        event["type"] == "MODIFIED" && before.is_some_and(|before| before != now)
    });
    assert!(relabelled.count() >= (400 - 25) / 50);

    let other = Server::start(&["--sim-rate", "0", "--sim-pods", "25", "--sim-seed", "43"]);
    let names = |server: &Server| {
        history(server.addr)[..25].iter().map(|event| key(&event["pod"])).collect::<Vec<_>>()
    };
    assert_ne!(names(&other), names(&servers[0]), "another seed, another cluster");
}

/// A link that passes nothing more and does not end: the client notices that there are no heartbeats.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_link_that_hangs_is_left() {
    let server = Server::start(&["--sim-rate", "0", "--sim-pods", "5", "--heartbeat", "300ms"]);
    // `connected`, 5 pods, `catchup_complete`, one heartbeat; then silence.
    let link = FaultLink::start(server.addr, 1, Faults::none().hang_every(8)).await;
    let client = follow_at(&link.url(), &["replay"]);
    let lines = client.until_phase("ReconnectReseed");
    assert!(lines.iter().all(|line| line["gap"].is_null()));
    assert!(fields(lines.last().unwrap()).contains(&"cause"));
    assert!(link.counters().hangs >= 1);
    let again = client.until_phase("CatchupComplete");
    assert!(again.iter().all(|line| line["event"].is_null()), "nothing is replayed twice");
}
