//! What people bring along from other tools, and what they are told when there is nothing to show.

use super::process::{Running, Server, command_at, relay, run, run_command};
use super::terminal::Terminal;

#[test]
fn commands_and_flags_of_other_tools_are_told_their_counterpart() {
    for (args, hint) in [
        (&["get", "pods"][..], "relay pods lists pods"),
        (&["logs", "web-0"], "no logs of containers"),
        (&["describe", "pod", "web-0"], "relay pod NAMESPACE/NAME -o yaml"),
        (&["top", "pods"], "relay pods --group-by node"),
        (&["version"], "relay --version"),
        (&["delete", "pod", "web-0"], "kubectl does"),
        (&["pods", "web-0"], "relay pod NAMESPACE/NAME shows one pod"),
        (&["pods", "-w"], "relay state follows the pods"),
        (&["pods", "-n", "prod", "--watch"], "relay state follows the pods"),
        (&["events", "--watch=true"], "relay state follows the pods"),
        (&["events", "web-0"], "relay events --pod NAMESPACE/NAME"),
        (&["sse", "http://127.0.0.1:1/", "--data-raw", "{}"], "--request-data TEXT"),
        (&["sse", "http://127.0.0.1:1/", "--data-binary", "@x"], "--request-data TEXT"),
    ] {
        let done = run(args).expect(2);
        let tip = done.stderr.lines().find(|line| line.trim_start().starts_with("tip: "));
        assert!(tip.is_some_and(|tip| tip.contains(hint)), "{args:?}: {}", done.stderr);
        assert!(!done.stderr.contains("similar"), "{args:?}: {}", done.stderr);
    }
    // What another group of commands does not have is none of these habits.
    assert!(!run(&["durable", "logs"]).expect(2).stderr.contains("containers"));
    let server = Server::quiet(6);
    let by_alias = server.run(&["pods", "--selector", "app", "-o", "name"]).expect(0).stdout;
    assert_eq!(by_alias, server.run(&["pods", "--label", "app", "-o", "name"]).expect(0).stdout);
    assert!(by_alias.lines().count() > 0);
    let done = run(&["sse", "http://127.0.0.1:1/", "-d", "@file", "--for", "100ms"]).expect(1);
    assert!(done.stderr.contains("@ is not special"), "{}", done.stderr);
}

#[test]
fn nothing_to_show_is_said_to_people() {
    let server = Server::quiet(4);
    let told = |args: &[&str]| {
        let table = server.run(&[args, &["-o", "table"]].concat()).expect(0);
        let json = server.run(&[args, &["-o", "json"]].concat()).expect(0);
        assert_eq!(json.stderr, "", "{args:?}: programs see that there is nothing");
        table.stderr
    };
    let oldest = server.run(&["events", "--max", "1"]).expect(0).json()[0]["timestamp"].clone();
    let back_to = format!("; the log goes back to {}\n", oldest.as_str().unwrap());
    assert_eq!(
        told(&["events", "--pod", "prod/neverwas"]),
        format!("relay: no events match --pod prod/neverwas{back_to}")
    );
    assert_eq!(told(&["events", "-n", "nosuch"]), format!("relay: no events match -n nosuch{back_to}"));
    assert_eq!(
        told(&["events", "--type", "DELETED", "-l", "app"]),
        format!("relay: no events match --type DELETED -l app{back_to}")
    );
    assert_eq!(told(&["events", "--max", "0"]), "");
    assert_eq!(told(&["state", "-n", "nosuch", "--for", "1s"]), "relay: no pods match -n nosuch yet\n");
    assert_eq!(
        told(&["state", "-l", "app=nosuch", "--group-by", "app", "--for", "1s"]),
        "relay: no pods match -l app=nosuch yet\n"
    );
    let state = server.run(&["state", "--max", "1", "-o", "table"]).expect(0);
    assert!(state.stdout.contains("4 pods listed") && state.stderr.is_empty(), "{state:?}");
    // The pods that are listed are no lines.
    let state = server.run(&["state", "--max", "2", "--for", "1s", "-o", "table"]).expect(0);
    assert_eq!(state.stdout.matches("LISTED").count(), 4, "{}", state.stdout);
    assert!(run(&["state", "--help"]).expect(0).stdout.contains("LISTED at first are not counted"));
}

#[test]
fn an_address_that_is_none_is_named_with_its_flag_or_variable() {
    for args in [&["pods"][..], &["state"], &["durable", "head", "/x"], &["parsec", "presence", "public:a.b"]]
    {
        let done = run(&[args, &["--url", "127.0.0.1:8080"]].concat()).expect(2);
        let told = "relay: --url \"127.0.0.1:8080\": ";
        assert!(done.stderr.starts_with(told), "{args:?}: {}", done.stderr);
        assert!(done.stderr.contains("http://"), "{args:?}: {}", done.stderr);
    }
    let mut command = relay(&["pods"]);
    command.env("RELAY_URL", "ftp://me:s3cret@host/?token=s3cret");
    let done = run_command(command).expect(2);
    assert!(done.stderr.starts_with("relay: RELAY_URL \"ftp://host/\": "), "{}", done.stderr);
    assert!(!done.stderr.contains("s3cret"), "{}", done.stderr);
}

#[test]
fn a_second_server_at_an_address_is_told_of_the_first() {
    let server = Server::quiet(1);
    let address = server.addr.to_string();
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (objects, environments) = (path("objects.yaml"), path("environments.yaml"));
    let channel = "apiVersion: channels.knative.dev/v1alpha1\nkind: Channel\nmetadata: {name: orders, namespace: shop}\n";
    std::fs::write(&objects, channel).unwrap();
    std::fs::write(&environments, "environments: {}\n").unwrap();
    for args in [
        &["serve"][..],
        &["parsec", "serve"],
        &["durable", "serve"],
        &["bus", "serve", "--file", &objects],
        &["autoconfig", "serve", &environments, "--key", "any"],
    ] {
        let done = run(&[args, &["--listen", &address]].concat()).expect(1);
        assert!(done.stderr.contains(&address), "{args:?}: {}", done.stderr);
        let hint = "(another server listens there: give another address with --listen HOST:PORT)";
        assert!(done.stderr.contains(hint), "{args:?}: {}", done.stderr);
    }
}

#[test]
fn a_file_in_the_place_of_another_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file").to_str().unwrap().to_owned();
    std::fs::write(&file, "x\n").unwrap();
    for args in [
        &["serve", "--data-dir"][..],
        &["parsec", "serve", "--data-dir"],
        &["durable", "serve", "--dir"],
        &["store", "verify", "--data-dir"],
        &["man"],
    ] {
        let done = run(&[args, &[&file]].concat()).expect(2);
        let told = done.stderr.contains(&format!("invalid value '{file}'"));
        assert!(told && done.stderr.contains("this is no directory"), "{args:?}: {}", done.stderr);
    }
    let new = folder.path().join("new").to_str().unwrap().to_owned();
    let done = run(&["store", "import", "--data-dir", &new, "--from", &file]).expect(1);
    assert!(done.stderr.contains(&format!("cannot be filled from {file}: line 1: ")), "{}", done.stderr);
}

#[test]
fn a_durable_stream_that_is_there_or_is_not_says_what_to_do() {
    let server = Running::start(relay(&["durable", "serve", "--listen", "127.0.0.1:0"]));
    let said = server.until_stderr(|text| text.contains("listening on http://") && text.ends_with('\n'));
    let url = said.split("listening on ").nth(1).unwrap().lines().next().unwrap().to_owned();
    let at = |args: &[&str]| run(&[&["durable"], args, &["--url", &url]].concat());
    let json = ["create", "/a", "--content-type", "application/json", "--closed"];
    at(&json).expect(0);
    at(&json).expect(0);
    let other = at(&["create", "/a", "--content-type", "text/plain"]).expect(6);
    assert!(
        other.stderr.starts_with("relay: what is there is application/json, closed\n"),
        "{}",
        other.stderr
    );
    let missing = at(&["append", "/nosuch", "--data", "x"]).expect(3);
    assert!(missing.stderr.contains("relay durable create makes a stream"), "{}", missing.stderr);
}

/// Names of files are offered for files only.
#[test]
fn shells_complete_files_where_files_are_meant() {
    let script = run(&["completions", "bash"]).expect(0).stdout;
    let wait = script
        .split("relay__subcmd__wait)")
        .nth(1)
        .expect("the part about wait")
        .split("esac")
        .next()
        .unwrap();
    let offers = |flag: &str| {
        let part = wait.split(&format!("{flag})")).nth(1).unwrap_or_else(|| panic!("{flag}: {wait}"));
        part.split("return 0").next().unwrap().contains("compgen -f")
    };
    assert!(offers("--token-file"), "{wait}");
    for flag in ["--for", "--timeout", "--namespace", "--label"] {
        assert!(!offers(flag), "{flag}: {wait}");
    }
}

/// On a terminal: what one wants to know is there as a whole, or is left out.
#[test]
fn a_position_is_shown_whole_or_not_at_all() {
    let server = Server::quiet(3);
    let hash = server.run(&["events", "--max", "1"]).expect(0).json()[0]["hash"].as_str().unwrap().to_owned();
    for (columns, shown) in [(100, false), (170, true)] {
        let command = command_at(&server.url(), &["events", "--max", "1", "-o", "wide", "--no-headers"]);
        let (code, seen) = Terminal::start(command, columns).wait();
        assert_eq!((code, seen.contains(&hash)), (Some(0), shown), "{columns}: {seen}");
        assert!(shown || !seen.contains(&hash[..10]), "{columns}: {seen}");
    }
}
