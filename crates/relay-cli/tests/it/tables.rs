//! Output for people: tables in terminals of several widths, in pipes, in colour, and with unusual names.

use relay_testkit::{Conversation, Peer, RelayScript, Reply};
use serde_json::{Value, json};

use super::process::{Server, command_at, relay, run_command};
use super::terminal::Terminal;

const LONG: &str = "a-job-whose-name-is-far-longer-than-anybody-would-like-it-to-be-28471920-xyz12";

/// A list with pods of several kinds.
fn list() -> Value {
    json!({"hash": "h1", "sequence": 3, "epoch": "e", "pods": [
        {"namespace": "prod", "name": "web-7d9f8b6c5d-abcde", "phase": "Running", "ready": true,
         "created_at": "2020-01-01T00:00:00Z", "pod_ip": "10.1.2.3", "node_name": "node-3", "containers": [
            {"name": "app", "ready": true, "restart_count": 0, "state": "running"},
            {"name": "proxy", "ready": true, "restart_count": 0, "state": "running"}]},
        {"namespace": "prod", "name": "checkout-5f6b7c8d9-fghij", "phase": "Running", "ready": false,
         "created_at": "2020-01-01T00:00:00Z", "pod_ip": "10.1.2.4", "node_name": "node-4", "containers": [
            {"name": "app", "ready": false, "restart_count": 7, "state": "waiting", "reason": "CrashLoopBackOff"}]},
        {"namespace": "a-namespace-with-a-long-name", "name": LONG, "phase": "Pending",
         "created_at": "2020-01-01T00:00:00Z"},
    ]})
}

async fn peer(list: &Value) -> Peer {
    Peer::start(RelayScript::new("e").always("/pods", Reply::json(200, list))).await
}

/// The output on a terminal with this many columns, without ages, because they grow.
async fn pods_in(columns: u16, list: &Value, more: &[&str]) -> String {
    let peer = peer(list).await;
    let mut args = vec!["pods"];
    args.extend(more);
    let mut command = command_at(&peer.url(), &args);
    command.env("TERM", "xterm-256color").env("NO_COLOR", "1");
    let (code, text) = Terminal::start(command, columns).wait();
    assert_eq!(code, Some(0), "{text}");
    let age =
        text.split_whitespace().find(|word| word.starts_with('6') && word.contains('y')).map(str::to_owned);
    age.map_or(text.clone(), |age| text.replace(&age, &"a".repeat(age.len())))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_table_is_as_wide_as_the_terminal() {
    let list = list();
    for (columns, format, shown) in [
        (80, "table", "\
NAMESPACE            NAME                 READY STATUS           RESTARTS AGE
prod                 web-7d9f8b6c5d-abcde 2/2   Running          0        aaaaaa
prod                 checkout-5…8d9-fghij 0/1   CrashLoopBackOff 7        aaaaaa
a-namespac…long-name a-job-whos…920-xyz12 0/0   Pending          0        aaaaaa
"),
        (80, "wide", "\
NAMESPACE    NAME         READY STATUS           RESTARTS AGE    IP       NODE
prod         web-7d…abcde 2/2   Running          0        aaaaaa 10.1.2.3 node-3
prod         checko…fghij 0/1   CrashLoopBackOff 7        aaaaaa 10.1.2.4 node-4
a-name…-name a-job-…xyz12 0/0   Pending          0        aaaaaa <none>   <none>
"),
        (120, "wide", "\
NAMESPACE                    NAME                                 READY STATUS           RESTARTS AGE    IP       NODE
prod                         web-7d9f8b6c5d-abcde                 2/2   Running          0        aaaaaa 10.1.2.3 node-3
prod                         checkout-5f6b7c8d9-fghij             0/1   CrashLoopBackOff 7        aaaaaa 10.1.2.4 node-4
a-namespace-with-a-long-name a-job-whose-name-i…be-28471920-xyz12 0/0   Pending          0        aaaaaa <none>   <none>
"),
        (200, "wide", "\
NAMESPACE                      NAME                                                                             READY   STATUS             RESTARTS   AGE      IP         NODE
prod                           web-7d9f8b6c5d-abcde                                                             2/2     Running            0          aaaaaa   10.1.2.3   node-3
prod                           checkout-5f6b7c8d9-fghij                                                         0/1     CrashLoopBackOff   7          aaaaaa   10.1.2.4   node-4
a-namespace-with-a-long-name   a-job-whose-name-is-far-longer-than-anybody-would-like-it-to-be-28471920-xyz12   0/0     Pending            0          aaaaaa   <none>     <none>
"),
        (20, "table", "\
NAME         STATUS
web-7d…abcde Running
checko…fghij CrashL…
a-job-…xyz12 Pending
"),
    ] {
        assert_eq!(pods_in(columns, &list, &["-o", format]).await, shown, "{columns} {format}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_pipe_gets_everything_and_no_colour() {
    let peer = peer(&list()).await;
    let table = run_command(command_at(&peer.url(), &["pods", "-o", "wide"])).expect(0).stdout;
    assert!(table.starts_with("NAMESPACE"), "{table}");
    assert!(table.contains(LONG) && table.contains("10.1.2.4") && table.contains("node-4"), "{table}");
    assert!(!table.contains('\x1b'), "{table}");
    assert!(table.lines().all(|line| line == line.trim_end()), "{table}");
    // Tools such as awk split a row at white space: no cell is empty, and none contains a space.
    for line in table.lines() {
        assert_eq!(line.split_whitespace().count(), 8, "{line}");
    }
    let bare =
        run_command(command_at(&peer.url(), &["pods", "-o", "table", "--no-headers"])).expect(0).stdout;
    assert_eq!(bare.lines().count(), 3);
    assert!(bare.starts_with("prod "), "{bare}");
    let timed =
        run_command(command_at(&peer.url(), &["pods", "-o", "table", "--timestamps"])).expect(0).stdout;
    assert!(timed.contains("CREATED") && !timed.contains("AGE"), "{timed}");
    assert!(timed.contains("2020-01-01T00:00:00Z"), "{timed}");
    let names = run_command(command_at(&peer.url(), &["pods", "-o", "name"])).expect(0).stdout;
    assert_eq!(
        names,
        format!(
            "prod/web-7d9f8b6c5d-abcde\nprod/checkout-5f6b7c8d9-fghij\na-namespace-with-a-long-name/{LONG}\n"
        )
    );
    let yaml = run_command(command_at(&peer.url(), &["pods", "-o", "yaml"])).expect(0).stdout;
    let json = run_command(command_at(&peer.url(), &["pods", "-o", "json"])).expect(0).json();
    let read: Vec<Value> = serde_saphyr::from_multiple(&yaml).unwrap();
    assert_eq!(read, json);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn colour_is_used_where_it_is_wanted() {
    let peer = peer(&list()).await;
    let always =
        run_command(command_at(&peer.url(), &["pods", "-o", "table", "--color", "always"])).expect(0).stdout;
    assert!(always.contains("\x1b[31mCrashLoopBackOff\x1b[0m"), "{always:?}");
    assert!(always.contains("\x1b[32mRunning\x1b[0m"), "{always:?}");
    for (args, env, color) in [
        (vec!["pods", "-o", "table"], vec![], true),
        (vec!["pods", "-o", "table"], vec![("NO_COLOR", "1")], false),
        (vec!["pods", "-o", "table"], vec![("TERM", "dumb")], false),
        (vec!["pods", "-o", "table", "--color", "never"], vec![], false),
        (vec!["--color", "always", "pods", "-o", "table"], vec![("NO_COLOR", "1"), ("TERM", "dumb")], true),
        (vec!["pods", "-o", "json"], vec![], false),
    ] {
        let mut command =
            command_at(&peer.url(), &args[args.iter().position(|arg| *arg == "pods").unwrap()..]);
        if args[0] == "--color" {
            command.args(["--color", "always"]);
        }
        command.env("TERM", "xterm").envs(env.iter().copied());
        let (code, text) = Terminal::start(command, 200).wait();
        assert_eq!(code, Some(0), "{text}");
        assert_eq!(text.contains("\x1b["), color, "{args:?} {env:?}: {text:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn no_field_gives_orders_to_the_terminal() {
    let evil = "x\u{1b}[2J\u{9b}31m\u{7f}\u{202e}\n\r\u{7}y";
    let pod = json!({"namespace": evil, "name": evil, "phase": evil, "uid": evil, "resource_version": evil,
        "pod_ip": evil, "node_name": evil, "created_at": evil, "reason": evil, "message": evil,
        "labels": {evil: evil}, "annotations": {evil: evil}, "owner": {"kind": evil, "name": evil},
        "containers": [{"name": evil, "image": evil, "state": "waiting", "reason": evil}]});
    let list = json!({"hash": "h", "sequence": 1, "epoch": "e", "pods": [pod]});
    for format in ["table", "wide", "json", "yaml", "name"] {
        let peer = peer(&list).await;
        let mut command = command_at(&peer.url(), &["pods", "-o", format]);
        command.env("TERM", "xterm").env("NO_COLOR", "1");
        let (code, text) = Terminal::start(command, 400).wait();
        assert_eq!(code, Some(0), "{text}");
        let raw: Vec<_> = text.chars().filter(|c| c.is_control() && *c != '\n' || *c == '\u{202e}').collect();
        assert!(raw.is_empty() && !text.is_empty(), "{format}: {raw:?} in {text:?}");
        let lines = text.lines().count();
        assert!(format == "yaml" || lines <= 2, "{format}: {text}");
    }
    // The error text of a relay contains none either.
    let problem = json!({"type": "urn:relay:problem:not-ready", "title": evil, "detail": evil, "status": 400, "code": "bad-parameter"});
    let peer = Peer::start(RelayScript::new("e").always("/pods", Reply::json(400, &problem))).await;
    let (code, text) = Terminal::start(command_at(&peer.url(), &["pods"]), 80).wait();
    assert_eq!(code, Some(1));
    assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{text:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_empty_list_says_what_was_asked_for() {
    let none = json!({"hash": "h", "sequence": 0, "epoch": "e", "pods": []});
    let peer = peer(&none).await;
    let done = run_command(command_at(&peer.url(), &["pods", "-n", "prod", "-l", "app=web", "-o", "table"]))
        .expect(0);
    assert_eq!(
        (done.stdout.as_str(), done.stderr.as_str()),
        ("", "relay: no pods match -n prod -l app=web\n")
    );
    let done = run_command(command_at(&peer.url(), &["pods", "-o", "table"])).expect(0);
    assert_eq!((done.stdout.as_str(), done.stderr.as_str()), ("", "relay: the relay has no pods\n"));
    let done = run_command(command_at(&peer.url(), &["pods", "-o", "json"])).expect(0);
    assert_eq!((done.stdout.as_str(), done.stderr.as_str()), ("", ""));
}

#[test]
fn a_table_that_goes_on_follows_the_terminal() {
    let server = Server::start(&["--sim-pods", "20", "--sim-rate", "20"]);
    let mut command = server.command(&["state", "-o", "table"]);
    command.env("TERM", "dumb");
    let mut terminal = Terminal::start(command, 120);
    // Waits for the first list and a few changes.
    terminal.until(|text| text.lines().count() > 26);
    terminal.resize(60);
    let before = terminal.until(|_| true).len();
    // The lines after the next whole line are formatted for the new width.
    let text = terminal.until(|text| text[before..].lines().count() > 12).to_owned();
    let after: Vec<_> = text[before..].lines().skip(2).collect();
    assert!(text[..before].lines().all(|line| line.chars().count() <= 120));
    assert!(text[..before].lines().any(|line| line.chars().count() > 60));
    assert!(after.iter().all(|line| line.chars().count() <= 60), "{text}");
}

/// The column where each heading begins.
fn columns(headings: &str) -> Vec<(usize, &str)> {
    let names = ["TIME", "PHASE", "PODS", "SEQUENCE", "EVENT", "POD ", "WHAT CHANGED"];
    names.iter().filter_map(|name| Some((headings.find(name)?, *name))).collect()
}

#[test]
fn cells_stand_below_their_headings_from_the_first_line_on() {
    let server = Server::start(&["--sim-pods", "9", "--sim-rate", "40"]);
    for (width, args) in [
        (80, &["state", "-o", "table"][..]),
        (110, &["replay", "-o", "table"]),
        (120, &["state", "--timestamps", "-o", "table"]),
        (200, &["replay", "--timestamps", "-o", "wide"]),
    ] {
        let mut command = server.command(&[args, &["--max", "60"]].concat());
        command.env("TERM", "dumb");
        let (code, text) = Terminal::start(command, width).wait();
        assert_eq!(code, Some(0), "{text}");
        let headings = text.lines().next().unwrap();
        let at = columns(headings);
        let event = at.iter().find(|(_, name)| *name == "EVENT").unwrap().0;
        let mut events = 0;
        for line in text.lines().skip(1) {
            let line: Vec<char> = line.chars().collect();
            let word: String = line.iter().skip(event).take_while(|c| **c != ' ').collect();
            let is_event = ["ADDED", "MODIFIED", "DELETED", "LISTED"].contains(&word.as_str());
            if !is_event {
                continue;
            }
            events += 1;
            // There is a space before each left-aligned column, and no cell overlaps the next column.
            for (start, name) in
                at.iter().filter(|(start, name)| *start > 0 && !["PODS", "SEQUENCE"].contains(name))
            {
                assert_eq!(line[start - 1], ' ', "{width} {args:?} {name}: {text}");
                assert_ne!(line[*start], ' ', "{width} {args:?} {name}: {text}");
            }
        }
        assert!(events > 30, "{width} {args:?}: {events}: {text}");
    }
}

#[test]
fn positions_stand_below_their_heading_in_a_pipe_too() {
    let server = Server::quiet(9);
    for (args, hashes) in [
        (&["events"][..], 9),
        (&["replay", "--exit-after-phase", "Live"], 9),
        (&["replay", "--exit-after-phase", "Live", "--timestamps"], 9),
    ] {
        let json = server.run(&[args, &["-o", "json"]].concat()).expect(0).stdout;
        let table = server.run(&[args, &["-o", "wide"]].concat()).expect(0).stdout;
        let at = table.lines().next().unwrap().find("HASH").unwrap();
        let below = |line: &&str| {
            let hash = line.get(at..).and_then(|rest| rest.split(' ').next()).unwrap_or_default();
            line.contains("ADDED") && hash.len() > 20 && json.contains(&format!("\"hash\":\"{hash}\""))
        };
        assert_eq!(table.lines().filter(below).count(), hashes, "{args:?}: {table}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_sentence_begins_early_and_is_given_whole() {
    let talk = Conversation::new("e").connected(3).event(
        "gap",
        None,
        &json!({"reason": "slow-consumer", "missed": 12, "epoch": "e", "hash": "h1", "sequence": 3,
            "oldest_hash": "h1", "requested_hash": null}),
    );
    let script = RelayScript::new("e").always("/pods", Reply::json(200, &list()));
    let script = [40, 80, 120].iter().fold(script, |script, _| script.stream(talk.clone().silence()));
    let peer = Peer::start(script).await;
    let whole = "gap (slow-consumer): 12 events were lost; the list was read again";
    for (width, most) in [(40, 3), (80, 1), (120, 1)] {
        let mut command = command_at(&peer.url(), &["state", "--max", "2", "-o", "table"]);
        command.env("TERM", "dumb").env("RELAY_LOG", "off");
        let (code, text) = Terminal::start(command, width).wait();
        assert_eq!(code, Some(0), "{text}");
        let from = text.lines().position(|line| line.contains("gap (")).unwrap_or_else(|| panic!("{text}"));
        let lines: Vec<&str> = text.lines().skip(from).collect();
        assert!(lines.len() <= most, "{width}: {text}");
        assert!(lines[0].find("gap (").unwrap() < 12, "{text}");
        let words: Vec<&str> = lines.iter().flat_map(|line| line.split_whitespace()).collect();
        assert!(words.join(" ").ends_with(whole), "{width}: {text}");
        assert!(lines.iter().all(|line| line.len() <= usize::from(width)), "{text}");
    }
}

/// Tickets, addresses and positions are never cut, because a copy of a part would be useless.
#[test]
fn what_is_to_be_copied_is_whole_on_the_narrowest_terminal() {
    let server = Server::quiet(3);
    let on_terminal = |args: &[&str]| {
        let mut command = server.command(args);
        command.env("TERM", "dumb");
        let (code, text) = Terminal::start(command, 20).wait();
        assert_eq!(code, Some(0), "{text}");
        text
    };
    let ticket = on_terminal(&["session", "-o", "table"]);
    let like = server.run(&["session"]).expect(0).json()[0]["session_id"].as_str().unwrap().len();
    assert_eq!(ticket.trim_end().len(), like, "{ticket}");
    // Ids of messages are complete or left out.
    let args = ["stream", "--max", "4", "-o", "table"];
    assert!(!on_terminal(&args).contains(" ID"), "{}", on_terminal(&args));
    let objects = server.run(&["stream", "--max", "4", "-o", "json"]).expect(0).json();
    let wide = server.run(&args).expect(0).stdout;
    for id in objects.iter().map(|object| object["id"].as_str().unwrap()) {
        assert!(wide.contains(id), "{id} is not in: {wide}");
    }
    for args in [&["serve", "--sim-pods", "1"][..], &["parsec", "serve"], &["bus", "receive"]] {
        let mut command = relay(&[args, &["--listen", "127.0.0.1:0"]].concat());
        command.env("TERM", "dumb").env("RELAY_LOG", "off");
        let mut terminal = Terminal::start(command, 20);
        let seen = terminal.until(|seen| seen.contains("http://") && seen.ends_with('\n'));
        let address = seen.split("http://").nth(1).unwrap().trim_end();
        assert!(address.parse::<std::net::SocketAddr>().is_ok(), "{args:?}: {seen}");
        terminal.signal("TERM");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_gap_after_a_drop_is_one_sentence_with_both() {
    let pod = Conversation::sample_pod("a");
    let script = RelayScript::new("e")
        .seed(3, [&pod])
        .seed(9, [&pod])
        .stream(Conversation::new("e").connected(3).catchup_complete().cut())
        .stream(Conversation::new("e").connected_to(9, 9).gap("cursor-expired", 9).silence());
    let peer = Peer::start(script).await;
    let args = ["state", "--max", "2", "-o", "table", "--reconnect-base", "1ms"];
    let table = run_command(command_at(&peer.url(), &args)).expect(0).stdout;
    let told = " lost; the connection dropped (the server ended the connection); the list was read again";
    let line = table.lines().find(|line| line.contains("gap (cursor-expired): "));
    assert!(line.is_some_and(|line| line.contains(told)), "{table}");
    assert_eq!(table.matches("the list was read again").count(), 1, "{table}");
}
