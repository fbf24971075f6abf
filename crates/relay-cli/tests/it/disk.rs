//! A relay with its log on disk: every kind of end (`kill -9` included), restart, verify, export and import.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{sleep, spawn};
use std::time::{Duration, Instant};

use relay_testkit::ReservedPort;
use serde_json::Value;

use super::process::{Running, Server, key, run};
use super::terminal::Terminal;
use super::wire::{eventually, get};

fn on_disk<'a>(dir: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["--store", "disk", "--data-dir", dir][..], more].concat()
}

fn pods(addr: SocketAddr) -> (u64, Vec<Value>) {
    let list = get(addr, "/pods").ok();
    (list["sequence"].as_u64().unwrap(), list["pods"].as_array().unwrap().clone())
}

fn verified(dir: &str) -> Value {
    run(&["store", "verify", "--data-dir", dir]).expect(0).json().remove(0)
}

#[test]
fn a_restart_over_a_trimmed_log_adds_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("data");
    let data = path.to_str().unwrap();
    let flags = on_disk(data, &["--sim-pods", "500", "--sim-rate", "0", "--retain-events", "100"]);
    let mut epoch = None;
    let mut before: Option<Vec<Value>> = None;
    for end in ["TERM", "KILL", "KILL", "TERM"] {
        let server = Server::start(&flags);
        let (head, mut list) = pods(server.addr);
        assert_eq!((head, list.len()), (500, 500), "after {end}");
        list.sort_by_key(key);
        assert!(before.as_ref().is_none_or(|before| *before == list), "the same pods");
        before = Some(list);
        let health = get(server.addr, "/health").ok();
        assert_eq!((&health["store"]["kind"], &health["store"]["events"]), (&"disk".into(), &100.into()));
        assert_eq!(epoch.get_or_insert_with(|| health["epoch"].clone()), &health["epoch"], "one epoch");
        server.signal(end);
        let done = server.wait();
        assert_eq!(done.code, (end == "TERM").then_some(0), "{}", done.stderr);
    }
    let report = verified(data);
    assert_eq!((&report["head"], &report["snapshot"]["pods"]), (&500.into(), &500.into()), "{report}");
    assert_eq!((&report["problems"], &report["snapshot"]["sequence"]), (&serde_json::json!([]), &500.into()));
    assert_eq!(Some(&report["epoch"]), epoch.as_ref());
    // `verify` finds the same events as the server, although the segment also has older ones.
    assert_eq!((&report["oldest"], &report["events"]), (&401.into(), &100.into()), "{report}");
}

#[test]
fn a_data_directory_is_used_without_further_flags_and_the_log_says_where_events_are() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("data");
    let data = path.to_str().unwrap();
    let kept = |flags: &[&str]| {
        let server = Server::start(&[flags, &["--sim-rate", "0"]].concat());
        let kind = get(server.addr, "/health").ok()["store"]["kind"].clone();
        server.signal("TERM");
        (kind, server.wait().expect(0).stderr)
    };
    let (kind, log) = kept(&["--store", "memory", "--data-dir", data]);
    assert!(
        kind == "memory" && log.contains("--store memory does not use") && !path.exists(),
        "{kind} {log}"
    );
    let (kind, log) = kept(&["--data-dir", data]);
    assert!(kind == "disk" && log.contains(&format!("events are kept in {data}")), "{kind} {log}");
    // Who named another directory by mistake sees that it had none.
    let begins = "the store has no log of pods: a new one begins";
    assert!(log.contains(begins), "{log}");
    assert!(!kept(&["--data-dir", data]).1.contains(begins), "the log is there by now");
    let (kind, log) = kept(&[]);
    assert!(kind == "memory" && log.contains("events are kept in memory only"), "{kind} {log}");
    assert!(log.contains("without --tokens-file everybody on this machine can read"), "{log}");
    // If the reader of an export closes the pipe, the export ends with 0, like every other command.
    let mut exporting = super::process::relay(&["store", "export", "--data-dir", data]);
    let mut exporting = exporting.stdout(std::process::Stdio::piped()).spawn().unwrap();
    drop(exporting.stdout.take());
    assert_eq!(exporting.wait().unwrap().code(), Some(0));
}

#[test]
fn what_cannot_be_used_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().to_str().unwrap();
    run(&["serve", "--store", "disk"]).expect(2);
    let server = Server::start(&on_disk(data, &["--sim-rate", "0"]));
    let serve = ["serve", "--listen", "127.0.0.1:0", "--store", "disk", "--data-dir", data];
    let second = run(&serve).expect(1);
    assert!(second.stderr.contains(data) && second.stderr.contains("another process"), "{}", second.stderr);
    server.signal("TERM");
    server.wait().expect(0);
    // One byte of an event is changed.
    let segment = dir.path().join("logs/pods/00000000000000000001.segment");
    let mut bytes = std::fs::read(&segment).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&segment, bytes).unwrap();
    let refused = run(&serve).expect(1);
    for part in [segment.to_str().unwrap(), "offset", "last good position"] {
        assert!(refused.stderr.contains(part), "{part}: {}", refused.stderr);
    }
    let report = run(&["store", "verify", "--data-dir", data]).expect(1);
    let problem = &report.json()[0]["problems"][0];
    assert_eq!(problem["file"], segment.to_str().unwrap());
    assert!(
        problem["offset"].as_u64().unwrap() <= middle as u64 && problem["sequence"].is_u64(),
        "{problem}"
    );
    // What stands before it is rescued, into another epoch.
    let root = tempfile::tempdir().unwrap();
    let path = |name: &str| root.path().join(name).to_str().unwrap().to_owned();
    let export = |more: &[&str]| run(&[&["store", "export", "--data-dir", data], more].concat());
    assert!(export(&[]).expect(1).stderr.contains(segment.to_str().unwrap()));
    export(&["--until-damage", "--with-key"]).expect(2);
    let part = export(&["--until-damage", "--out", &path("part")]).expect(1);
    let last = problem["sequence"].as_u64().unwrap();
    let told = format!("relay: {last} events up to #{last} exported, and not what follows: ");
    assert!(last > 5 && part.stderr.starts_with(&told), "{last} {}", part.stderr);
    assert!(part.stderr.contains(segment.to_str().unwrap()) && part.stderr.contains("checksum"), "{part:?}");
    run(&["store", "import", "--data-dir", &path("new"), "--from", &path("part")]).expect(0);
    let rescued = verified(&path("new"));
    assert_eq!((&rescued["head"], &rescued["events"]), (&last.into(), &last.into()));
    assert_ne!(rescued["epoch"], report.json()[0]["epoch"]);
    // Of a log that is whole, it is all.
    let whole = run(&["store", "export", "--data-dir", &path("new")]).expect(0).stdout;
    let all = run(&["store", "export", "--data-dir", &path("new"), "--until-damage"]).expect(0);
    assert_eq!(all.stdout, whole);
    // The file `store` says what the directory is.
    let mark = dir.path().join("store");
    let mut newer = std::fs::read(&mark).unwrap();
    newer[8] = 2;
    let sum = newer[..20].iter().fold(!0_u32, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| (sum >> 1) ^ (0x82f6_3b78 & (sum & 1).wrapping_neg()))
    });
    newer[20..24].copy_from_slice(&(!sum).to_le_bytes());
    for (content, what) in [(Some(newer), "format 2"), (Some(vec![0; 24]), "another kind"), (None, "missing")]
    {
        match content {
            Some(content) => std::fs::write(&mark, content).unwrap(),
            None => std::fs::remove_file(&mark).unwrap(),
        }
        let refused = run(&serve).expect(1);
        assert!(refused.stderr.contains(what) && refused.stderr.contains(data), "{}", refused.stderr);
        assert!(!refused.stderr.contains("events are kept in"), "{}", refused.stderr);
        assert!(!refused.stderr.contains("last good position"), "it is not known: {}", refused.stderr);
        let report = run(&["store", "verify", "--data-dir", data]).expect(1).json();
        let problem = &report[0]["problems"][0];
        assert_eq!((&problem["file"], &report[0]["epoch"]), (&mark.to_str().unwrap().into(), &Value::Null));
        assert!(problem["problem"].as_str().unwrap().contains(what), "{problem}");
    }
    let missing = dir.path().join("missing");
    run(&["store", "verify", "--data-dir", missing.to_str().unwrap()]).expect(1);
}

#[test]
fn an_export_is_imported_as_the_same_log_with_the_key_and_as_another_without() {
    let root = tempfile::tempdir().unwrap();
    let path = |name: &str| root.path().join(name).to_str().unwrap().to_owned();
    let (first, same, other) = (path("first"), path("same"), path("other"));
    let server =
        Server::start(&on_disk(&first, &["--sim-pods", "30", "--sim-rate", "200", "--retain-events", "50"]));
    eventually("events", || (pods(server.addr).0 > 200).then_some(()));
    server.signal("TERM");
    server.wait().expect(0);
    let whole = verified(&first);
    run(&["store", "export", "--data-dir", &first, "--with-key", "--out", &path("with")]).expect(0);
    let without = run(&["store", "export", "--data-dir", &first]).expect(0);
    let with = std::fs::read_to_string(path("with")).unwrap();
    assert!(with.lines().next().unwrap().contains("\"key\"") && !without.stdout.contains("\"key\""));
    std::fs::write(path("without"), &without.stdout).unwrap();
    run(&["store", "import", "--data-dir", &same, "--from", &path("with")]).expect(0);
    run(&["store", "import", "--data-dir", &other, "--from", &path("without")]).expect(0);
    let full = run(&["store", "import", "--data-dir", &other, "--from", &path("with")]).expect(1);
    assert!(full.stderr.contains("not empty"), "{}", full.stderr);
    // A truncated export is not a log and must leave no log behind, because its sequences would be used again.
    std::fs::write(path("cut"), &with[..with.len() / 2]).unwrap();
    run(&["store", "import", "--data-dir", &path("fourth"), "--from", &path("cut")]).expect(1);
    assert_eq!(std::fs::read_dir(path("fourth")).unwrap().count(), 0);
    // Neither is an export that something follows. Blank lines say nothing.
    let next = with.lines().count() + 1;
    let event = with.lines().find(|line| line.contains("\"event\"")).unwrap();
    for (more, line) in [("rubbish", next), (event, next), (with.as_str(), next), ("\n \r\n\t{", next + 2)] {
        std::fs::write(path("more"), format!("{with}{more}")).unwrap();
        let done = run(&["store", "import", "--data-dir", &path("fifth"), "--from", &path("more")]).expect(1);
        assert!(done.stderr.contains(&format!("line {line}: the export ended before")), "{}", done.stderr);
        assert_eq!((std::fs::read_dir(path("fifth")).unwrap().count(), &*done.stdout), (0, ""));
    }
    std::fs::write(path("more"), format!("{with}\r\n \n")).unwrap();
    run(&["store", "import", "--data-dir", &path("fifth"), "--from", &path("more")]).expect(0);

    let serve = |dir: &str| Server::start(&on_disk(dir, &["--sim-rate", "0", "--retain-events", "50"]));
    let events =
        |server: &Server| get(server.addr, "/events?limit=1000").ok()["events"].as_array().unwrap().clone();
    let (server_first, server_same, server_other) = (serve(&first), serve(&same), serve(&other));
    let health = |server: &Server| get(server.addr, "/health").ok();
    assert_eq!(health(&server_same)["epoch"], whole["epoch"]);
    assert_ne!(health(&server_other)["epoch"], whole["epoch"]);
    assert_eq!(events(&server_first), events(&server_same), "hashes included");
    let without_hashes = |events: Vec<Value>| -> Vec<Value> {
        let hashless = |mut event: Value| {
            let fields = event.as_object_mut().unwrap();
            assert!(fields.remove("hash").is_some() && fields.remove("previous_hash").is_some());
            event
        };
        events.into_iter().map(hashless).collect()
    };
    assert_eq!(without_hashes(events(&server_first)), without_hashes(events(&server_other)));
    for server in [&server_same, &server_other] {
        assert_eq!(pods(server.addr), pods(server_first.addr));
    }
}

/// A backup that is good is not lost to one that fails.
#[test]
fn a_failed_export_leaves_the_file_alone_and_a_complete_one_replaces_it() {
    use std::os::unix::fs::PermissionsExt as _;
    let root = tempfile::tempdir().unwrap();
    let path = |name: &str| root.path().join(name).to_str().unwrap().to_owned();
    let (data, out) = (path("data"), path("out"));
    let server = Server::start(&on_disk(&data, &["--sim-pods", "5", "--sim-rate", "0"]));
    server.signal("TERM");
    server.wait().expect(0);
    let export = |data: &str| run(&["store", "export", "--data-dir", data, "--out", &out]);
    let files = || {
        let mut names: Vec<_> =
            std::fs::read_dir(root.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };

    std::fs::write(&out, "the good one").unwrap();
    let misspelt = export(&path("dat")).expect(1);
    assert!(misspelt.stderr.contains("dat cannot be exported"), "{}", misspelt.stderr);
    let damaged = path("damaged");
    std::fs::create_dir(&damaged).unwrap();
    let copied = std::process::Command::new("cp").args(["-r", &format!("{data}/."), &damaged]).status();
    assert!(copied.unwrap().success());
    damage(Path::new(&damaged));
    export(&damaged).expect(1);
    assert_eq!(std::fs::read_to_string(&out).unwrap(), "the good one");
    assert_eq!(files(), ["damaged", "data", "out"], "nothing is left behind");

    std::os::unix::fs::symlink("out", path("link")).unwrap();
    run(&["store", "export", "--data-dir", &data, "--out", &path("link")]).expect(0);
    assert!(std::fs::read_to_string(&out).unwrap().contains("\"end\""));
    assert!(std::fs::symlink_metadata(path("link")).unwrap().is_symlink());
    assert_eq!(std::fs::metadata(&out).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(files(), ["damaged", "data", "link", "out"]);
    let nowhere = run(&["store", "export", "--data-dir", &data, "--out", &path("no/such")]).expect(1);
    assert!(nowhere.stderr.contains("no/such cannot be written"), "{}", nowhere.stderr);
}

/// Changes the first byte of every file that has one.
fn damage(dir: &Path) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            damage(&path);
        } else if let Ok(mut bytes) = std::fs::read(&path)
            && let Some(first) = bytes.first_mut()
        {
            *first ^= 0xff;
            std::fs::write(&path, bytes).unwrap();
        }
    }
}

/// A named pipe: opening it waits for the other side.
fn pipe(dir: &Path, name: &str) -> String {
    let path = dir.join(name).to_str().unwrap().to_owned();
    let made = std::process::Command::new("mkfifo").arg(&path).status().unwrap();
    assert!(made.success());
    path
}

#[test]
fn what_takes_longer_than_a_second_shows_on_a_terminal_how_far_it_is() {
    let root = tempfile::tempdir().unwrap();
    let path = |name: &str| root.path().join(name).to_str().unwrap().to_owned();
    let (first, second) = (path("first"), path("second"));
    let server = Server::start(&on_disk(&first, &["--sim-pods", "3000", "--sim-rate", "0"]));
    server.signal("TERM");
    server.wait().expect(0);
    let in_terminal = |args: &[&str]| Terminal::start(super::process::relay(args), 60);
    let shows = |seen: &str| seen.contains("#.") && seen.contains(" %, ");

    // Nobody reads the export for a while.
    let out = pipe(root.path(), "out");
    let mut exporting = in_terminal(&["store", "export", "--data-dir", &first, "--with-key", "--out", &out]);
    let mut reader = BufReader::new(std::fs::File::open(&out).unwrap());
    let mut lines = Vec::new();
    sleep(Duration::from_millis(1100));
    reader.read_to_end(&mut lines).unwrap();
    exporting.until(shows);
    let (code, seen) = exporting.wait();
    assert_eq!((code, seen.ends_with("\r\x1b[K")), (Some(0), true), "{seen:?}");

    // Half of the export is there at once, and the rest comes late.
    let from = pipe(root.path(), "from");
    let mut importing = in_terminal(&["store", "import", "--data-dir", &second, "--from", &from]);
    let mut writer = std::fs::File::create(&from).unwrap();
    writer.write_all(&lines[..lines.len() / 2]).unwrap();
    sleep(Duration::from_millis(1100));
    writer.write_all(&lines[lines.len() / 2..]).unwrap();
    drop(writer);
    importing.until(shows);
    let (code, seen) = importing.wait();
    assert_eq!(code, Some(0), "{seen:?}");
    assert!(seen.contains("\r\x1b[K{\"done\":true,\"events\":3000}"), "{seen:?}");

    // `verify` reads a file, which cannot be made slow, so its process is stopped for a while.
    let shown = (0..200).any(|wait| {
        let verifying = in_terminal(&["store", "verify", "--data-dir", &second]);
        sleep(Duration::from_micros(500 * wait));
        verifying.signal("STOP");
        sleep(Duration::from_millis(1100));
        verifying.signal("CONT");
        let (code, seen) = verifying.wait();
        assert_eq!(code, Some(0), "{seen:?}");
        shows(&seen)
    });
    assert!(shown, "in none of many tries");
    // Without a terminal there is no progress line.
    let out = pipe(root.path(), "again");
    let exporting =
        Running::start(super::process::relay(&["store", "export", "--data-dir", &first, "--out", &out]));
    let mut reader = BufReader::new(std::fs::File::open(&out).unwrap());
    sleep(Duration::from_millis(1100));
    reader.read_to_end(&mut Vec::new()).unwrap();
    assert_eq!(exporting.wait().expect(0).stderr, "");
}

/// What one client has seen over all its connections.
#[derive(Default)]
struct Seen {
    epoch: String,
    hash: String,
    sequence: u64,
    pods: BTreeMap<(String, String), Value>,
    connections: u64,
}

/// Follows the stream until the process ends. The first broken promise is written to `wrong`.
fn follow(addr: SocketAddr, seen: &Arc<Mutex<Seen>>, wrong: &Arc<Mutex<Option<String>>>) {
    loop {
        if let Err(problem) = follow_once(addr, seen) {
            wrong.lock().unwrap().get_or_insert(problem);
            return;
        }
        sleep(Duration::from_millis(20));
    }
}

fn follow_once(addr: SocketAddr, seen: &Arc<Mutex<Seen>>) -> Result<(), String> {
    let Ok(mut stream) = TcpStream::connect(addr) else { return Ok(()) };
    let since = seen.lock().unwrap().hash.clone();
    // HTTP/1.0 gives a body without chunks, so that its lines can be read.
    let request = format!("GET /events/stream?since_hash={since} HTTP/1.0\r\nhost: relay\r\n\r\n");
    if stream.write_all(request.as_bytes()).is_err() {
        return Ok(());
    }
    let (mut event, mut data) = (String::new(), String::new());
    for line in BufReader::new(stream).lines() {
        let Ok(line) = line else { return Ok(()) };
        if let Some(name) = line.strip_prefix("event: ") {
            event = name.into();
        } else if let Some(text) = line.strip_prefix("data: ") {
            data = text.into();
        } else if line.is_empty() && !event.is_empty() {
            let message: Value = serde_json::from_str(&data).map_err(|error| format!("{error}: {data}"))?;
            take(&mut seen.lock().unwrap(), &event, &message)?;
            event.clear();
        }
    }
    Ok(())
}

fn take(seen: &mut Seen, event: &str, message: &Value) -> Result<(), String> {
    let text = |name: &str| message[name].as_str().unwrap_or_default().to_owned();
    match event {
        "connected" => {
            seen.connections += 1;
            let epoch = text("epoch");
            if !seen.epoch.is_empty() && seen.epoch != epoch {
                return Err(format!("epoch {epoch} after {}", seen.epoch));
            }
            seen.epoch = epoch;
        }
        "gap" => return Err(format!("a gap: {message}")),
        "pod" => {
            let sequence = message["sequence"].as_u64().unwrap_or_default();
            let follows = seen.hash.is_empty() || text("previous_hash") == seen.hash;
            if sequence != seen.sequence + 1 || !follows {
                return Err(format!("event {sequence} after {}", seen.sequence));
            }
            (seen.sequence, seen.hash) = (sequence, text("hash"));
            let pod = message["pod"].clone();
            match text("type").as_str() {
                "DELETED" => seen.pods.remove(&key(&pod)),
                _ => seen.pods.insert(key(&pod), pod),
            };
        }
        _ => {}
    }
    Ok(())
}

/// Ten clients, and a server that is killed again and again. `RELAY_KILLS` sets the number of kills (default 8). If it
/// is set, there must also have been at least a thousand events a second, which a busy machine may not reach.
#[test]
fn a_server_that_is_killed_under_load_breaks_no_chain() {
    let asked: Option<u64> = std::env::var("RELAY_KILLS").ok().and_then(|text| text.parse().ok());
    let kills = asked.unwrap_or(8);
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().to_str().unwrap();
    let port = ReservedPort::reserve();
    let (addr, listen) = (port.addr(), port.addr().to_string());
    let mut server = Server::start_at(&listen, &on_disk(data, &["--sim-pods", "200", "--sim-rate", "4000"]));
    let wrong = Arc::new(Mutex::new(None));
    let clients: Vec<Arc<Mutex<Seen>>> = (0..10).map(|_| Arc::default()).collect();
    for seen in &clients {
        let (seen, wrong) = (seen.clone(), wrong.clone());
        spawn(move || follow(addr, &seen, &wrong));
    }
    let turn = AtomicU64::new(dir.path().as_os_str().len() as u64);
    let (mut up, mut last) = (Duration::ZERO, 0);
    for kill in 0..kills {
        let began = Instant::now();
        // The pause varies, so that the kills have no rhythm.
        sleep(Duration::from_millis(300 + turn.fetch_add(7919, Ordering::Relaxed) % 1000));
        last = get(addr, "/health").json()["head"]["sequence"].as_u64().unwrap_or(last);
        server.signal("KILL");
        server.wait();
        up += began.elapsed();
        assert_eq!(*wrong.lock().unwrap(), None, "after kill {kill}");
        let quiet = kill + 1 == kills;
        let rate = if quiet { "0" } else { "4000" };
        server = Server::start_at(&listen, &on_disk(data, &["--sim-pods", "200", "--sim-rate", rate]));
    }
    let rate = last as f64 / up.as_secs_f64();
    println!("{kills} kills, {last} events, {rate:.0} a second while it was up");
    let (head, list) = pods(addr);
    let expected: BTreeMap<_, _> = list.into_iter().map(|pod| (key(&pod), pod)).collect();
    for (at, seen) in clients.iter().enumerate() {
        eventually("a client at the head", || {
            let wrong = wrong.lock().unwrap().clone();
            assert_eq!(wrong, None);
            (seen.lock().unwrap().sequence == head).then_some(())
        });
        let seen = seen.lock().unwrap();
        assert!(seen.pods == expected, "client {at} has other pods than the server");
        assert!(seen.connections > kills, "client {at} came back");
    }
    server.signal("TERM");
    server.wait().expect(0);
    assert_eq!(verified(data)["head"], head);
    assert!(asked.is_none() || rate >= 1000.0, "only {rate:.0} events a second");
}

#[cfg(target_os = "linux")]
#[test]
fn a_directory_that_cannot_be_made_is_refused_by_name() {
    let done =
        run(&["serve", "--listen", "127.0.0.1:0", "--store", "disk", "--data-dir", "/proc/relay-data"])
            .expect(1);
    assert!(done.stderr.contains("/proc/relay-data"), "{}", done.stderr);
}
