//! Runs the examples of `--help`, and checks more texts of help and of mistyped flags.

use std::path::Path;
use std::process::Command;

use super::process::{Running, Server, relay, run, run_command};

/// Commands that run until they are stopped.
const ENDLESS: [&str; 9] = [
    "serve",
    "state",
    "sse",
    "durable serve",
    "autoconfig serve",
    "autoconfig watch",
    "parsec serve",
    "bus serve",
    "stream",
];

/// Collects the paths of all commands without subcommands.
fn commands(path: &[String], found: &mut Vec<Vec<String>>) {
    let mut args: Vec<&str> = path.iter().map(String::as_str).collect();
    args.push("--help");
    let help = run(&args).expect(0).stdout;
    let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let names: Vec<String> = listed
        .take_while(|line| line.starts_with("  "))
        .filter(|line| !line.starts_with("    "))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .map(str::to_owned)
        .collect();
    if names.is_empty() {
        found.push(path.to_vec());
    }
    for name in names {
        commands(&[path, &[name]].concat(), found);
    }
}

fn examples(path: &[String]) -> Vec<String> {
    let mut args: Vec<&str> = path.iter().map(String::as_str).collect();
    args.push("--help");
    let help = run(&args).expect(0).stdout;
    let lines = help.lines().skip_while(|line| *line != "Examples:").skip(1);
    let text: Vec<&str> = lines.take_while(|line| line.starts_with("  ")).map(str::trim_end).collect();
    // A line that ends with a backslash or a pipe continues on the next line.
    let mut whole: Vec<String> = Vec::new();
    let mut goes_on = false;
    for line in text.into_iter().filter(|line| !line.starts_with("  # ")) {
        match whole.last_mut() {
            Some(last) if goes_on => *last += &format!("\n{line}"),
            _ => whole.push(line.trim_start().to_owned()),
        }
        goes_on = line.ends_with(['\\', '|']);
    }
    whole
}

/// A shell in which `relay` is this binary, and in which the variables name the servers of the examples.
fn shell(line: &str, folder: &Path, servers: &[(&str, String)]) -> Command {
    let binary = Path::new(env!("CARGO_BIN_EXE_relay")).parent().unwrap();
    let mut command = Command::new("/bin/sh");
    command.args(["-c", line]).current_dir(folder).env_clear().env("HOME", folder);
    command.env("PATH", format!("{}:/usr/local/bin:/usr/bin:/bin", binary.display()));
    command.envs(servers.iter().map(|(name, value)| (*name, value.as_str())));
    command
}

/// The first line of the output. A server of durable streams prints it on stderr, because it prints nothing on standard
/// output.
fn first_words(running: &Running, on_stderr: bool) -> String {
    if on_stderr {
        return running.until_stderr(|text| text.contains('\n')).lines().next().unwrap().to_owned();
    }
    running.line().unwrap_or_else(|| panic!("it prints nothing: {}", running.stderr()))
}

/// Starts a server whose first line has its URL.
fn start(args: &[&str]) -> (Running, String) {
    let server = Running::start(relay(args));
    let first = first_words(&server, args[..2] == ["durable", "serve"]);
    let url = first.split_whitespace().find(|word| word.starts_with("http://"));
    let url = url.unwrap_or_else(|| panic!("{args:?}: {first}")).to_owned();
    (server, url)
}

/// The name of a pod that exists now.
fn a_ready_pod(pods: &Server) -> String {
    let listed = pods.run(&["pods"]).expect(0).json();
    let pod = listed.iter().find(|pod| pod["ready"] == true).expect("some are ready");
    format!("{}/{}", pod["namespace"].as_str().unwrap(), pod["name"].as_str().unwrap())
}

const ENVIRONMENTS: &str = "environments:\n  prod: {envKey: production, envName: Production, projKey: shop, \
                            projName: Shop, sdkKey: sdk-1, mobKey: mob-1}\n";
const OBJECTS: &str = "apiVersion: channels.knative.dev/v1alpha1\nkind: Channel\nmetadata: {name: orders, namespace: \
                       shop}\n---\napiVersion: channels.knative.dev/v1alpha1\nkind: Subscription\nmetadata: {name: \
                       billing, namespace: shop}\nspec: {channel: orders, subscriber: \"127.0.0.1:9\"}\n";
const SCHEMAS: &str = r#"{"patterns":[{"pattern":"public:demo.chat","aspects":{"said":{"payload_schema":{"type":"object"}}}}]}"#;

#[test]
fn every_example_of_the_help_does_what_it_says() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    for (name, content) in [
        ("environments.yaml", ENVIRONMENTS),
        ("objects.yaml", OBJECTS),
        ("schemas.json", SCHEMAS),
        ("app.jsonl", "{\"n\":3}\n{\"n\":4}\n"),
        ("app.log", "one\ntwo\n"),
        ("tokens", "s3cr3t somebody *\n"),
        (
            "kubeconfig",
            "{apiVersion: v1, kind: Config, current-context: c, contexts: [{name: c, context: {cluster: c, user: u}}], \
             clusters: [{name: c, cluster: {server: \"http://127.0.0.1:1\"}}], users: [{name: u, user: {}}]}",
        ),
    ] {
        std::fs::write(folder.join(name), content).unwrap();
    }
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(folder.join("tokens"), std::fs::Permissions::from_mode(0o600)).unwrap();
    let pods = Server::start(&["--sim-pods", "40", "--sim-rate", "2"]);
    let listen = ["--listen", "127.0.0.1:0"];
    let (_durable, durable) = start(&[&["durable", "serve"][..], &listen].concat());
    for stream in ["/done", "/old", "/log"] {
        run(&["durable", "create", stream, "--url", &durable]).expect(0);
    }
    let (_parsec, parsec) = start(&[&["parsec", "serve"][..], &listen].concat());
    let file = folder.join("environments.yaml").display().to_string();
    let state = folder.join("other.versions").display().to_string();
    let autoconfig = [&["autoconfig", "serve", &file, "--state-file", &state][..], &listen].concat();
    let (_autoconfig, autoconfig) = start(&autoconfig);
    let objects = folder.join("objects.yaml").display().to_string();
    let (_bus, bus) = start(&[&["bus", "serve", "--file", &objects][..], &listen].concat());

    let mut found = Vec::new();
    commands(&[], &mut found);
    assert!(found.len() > 35, "{found:?}");
    let mut count = 0;
    for path in found {
        let name = path.join(" ");
        let lines = examples(&path);
        assert!(!lines.is_empty(), "relay {name} --help has no examples");
        for line in lines {
            let relay_url = match path[0].as_str() {
                "parsec" => parsec.clone(),
                "bus" => bus.clone(),
                _ => pods.url(),
            };
            let through_kube = line.contains("--kube-service");
            let servers = [
                ("RELAY_DURABLE_URL", durable.clone()),
                ("RELAY_AUTOCONFIG_URL", autoconfig.clone()),
                ("RELAY_LISTEN", "127.0.0.1:0".into()),
                ("RELAY_DURABLE_LISTEN", "127.0.0.1:0".into()),
                ("RELAY_AUTOCONFIG_LISTEN", "127.0.0.1:0".into()),
                ("KUBECONFIG", folder.join("kubeconfig").display().to_string()),
                ("POD", if line.contains("$POD") { a_ready_pod(&pods) } else { String::new() }),
                (if through_kube { "NO_URL" } else { "RELAY_URL" }, relay_url.clone()),
            ];
            // Long times of the examples become a second.
            let mut run_line = line.clone();
            for time in ["--for 20s", "--for 10m", "--for 1m", "--for 1h", "--for 5s", "--for 10s"] {
                run_line = run_line.replace(time, "--for 1s");
            }
            // A log that does not grow, and a tail that ends.
            run_line =
                run_line.replace(" URL", " \"$RELAY_DURABLE_URL/log\"").replace("-F app.log", "app.log");
            if name == "durable tail" && !line.contains("--for") {
                run_line = run_line.replace("relay durable tail", "relay durable tail --for 1s");
            }
            if line.contains("jq") && !Path::new("/usr/bin/jq").exists() {
                continue;
            }
            if name == "bus send" {
                run_line = run_line.replace("relay bus send", &format!("relay bus send --url {bus}"));
            }
            if name == "replay" && !line.contains("exit-after-phase") {
                run_line = run_line.replace("relay replay", "relay replay --for 1s");
            }
            let endless =
                ENDLESS.contains(&name.as_str()) && !run_line.contains("--for") && !line.contains("--max ");
            let expected = if through_kube { 1 } else { 0 };
            if endless {
                let running = Running::start(shell(&format!("exec {run_line}"), folder, &servers));
                first_words(&running, name == "durable serve");
                running.signal("TERM");
                let done = running.wait();
                assert!(matches!(done.code, Some(0 | 143)), "`{line}`: {done:?}");
            } else {
                let done = run_command(shell(&run_line, folder, &servers));
                assert_eq!(done.code, Some(expected), "`{line}`: {}{:.500}", done.stderr, done.stdout);
            }
            // The folder is kept, because later examples read what this one wrote.
            count += 1;
        }
    }
    assert!(count > 60, "{count}");
}

/// Runs the commands of `docs/tasks.md`.
#[test]
fn every_task_of_the_page_is_done_by_its_command() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/tasks.md");
    let page = std::fs::read_to_string(page).unwrap();
    let is_task = |line: &str| line.trim_start_matches("| ").starts_with(|c: char| c.is_ascii_digit());
    let rows = page.lines().filter(|line| is_task(line) && line.contains("| `relay "));
    let commands: Vec<String> = rows
        .map(|row| row.split_once("| `relay ").unwrap().1.trim_end_matches("` |").replace("\\|", "|"))
        .collect();
    assert_eq!(commands.len(), 20);
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("kubeconfig");
    std::fs::write(
        &config,
        "{apiVersion: v1, kind: Config, contexts: [{name: c, context: {cluster: c, user: u}}], \
        current-context: c, clusters: [{name: c, cluster: {server: 'http://127.0.0.1:1'}}], \
        users: [{name: u, user: {}}]}",
    )
    .unwrap();
    let pods = Server::start(&["--sim-pods", "60", "--sim-rate", "5"]);
    for command in commands {
        let line = format!("relay {}", command.replace("--for 1m", "--for 1s"));
        if line.contains("jq") && !Path::new("/usr/bin/jq").exists() {
            continue;
        }
        let through_kube = line.contains("--kube-service");
        let servers = [
            (if through_kube { "NO_URL" } else { "RELAY_URL" }, pods.url()),
            ("KUBECONFIG", config.display().to_string()),
            ("POD", if line.contains("$POD") { a_ready_pod(&pods) } else { String::new() }),
        ];
        let done = run_command(shell(&line, folder.path(), &servers));
        // The last command of a pipe decides the exit code. `grep` may find nothing, because no pod may have restarted
        // yet.
        let expected: &[i32] = match () {
            () if through_kube => &[1],
            () if line.contains("grep") => &[0, 1],
            () => &[0],
        };
        assert!(done.code.is_some_and(|code| expected.contains(&code)), "`{line}`: {done:?}");
    }
}

/// The right column of the table for those who know kubectl: every command is one.
#[test]
fn what_takes_the_place_of_a_command_of_kubectl_is_no_wrong_usage() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/tasks.md");
    let page = std::fs::read_to_string(page).unwrap();
    let rows = page.lines().filter(|line| line.starts_with("| `kubectl ") || line.starts_with("| `stern "));
    // Every other piece is inside of backticks; the first of them is what it takes the place of.
    let commands: Vec<&str> = rows
        .flat_map(|row| row.split('`').skip(2))
        .filter_map(|piece| piece.strip_prefix("relay "))
        .collect();
    assert!(commands.len() >= 11, "{commands:?}");
    let folder = tempfile::tempdir().unwrap();
    for command in commands {
        let end = match command.split(' ').next() {
            Some("state" | "replay") => "--for 1ms",
            Some("wait") => "--timeout 1ms",
            _ => "",
        };
        let line = format!("relay {command} {end} --url http://127.0.0.1:1");
        let done = run_command(shell(&line, folder.path(), &[]));
        assert!(matches!(done.code, Some(1 | 5)), "`{line}`: {done:?}");
    }
}

#[test]
fn a_mistyped_flag_or_command_is_told_the_nearest() {
    for (args, nearest) in [
        (&["pods", "--lable", "app=web"][..], "--label"),
        (&["replay", "--cursorfile", "x"], "--cursor-file"),
        (&["wait", "--for", "ready", "--time-out", "1s"], "--timeout"),
        (&["evens"], "events"),
        (&["durable", "tial", "/x"], "tail"),
        (&["pods", "-o", "jsn"], "json"),
        (&["autoconfig", "watch", "--key-fil", "x"], "--key-file"),
        (&["parsec", "subscribe", "a:b", "--from-strt"], "--from-start"),
        (&["bus", "serve", "--max-deliverr", "3"], "--max-deliver"),
    ] {
        let done = run(args).expect(2);
        assert!(
            done.stderr.contains("similar") && done.stderr.contains(nearest),
            "{args:?}: {}",
            done.stderr
        );
    }
}

#[test]
fn short_help_points_to_the_long_one() {
    for args in [&["-h"][..], &["pods", "-h"], &["serve", "-h"], &["durable", "read", "-h"], &["bus", "-h"]] {
        let short = run(args).expect(0).stdout;
        assert!(short.contains("--help"), "{short}");
        assert!(!short.contains("[env:") && !short.contains("Examples:"), "{short}");
        let long = [&args[..args.len() - 1], &["--help"]].concat();
        assert!(run(&long).expect(0).stdout.lines().count() > short.lines().count(), "{args:?}");
    }
    // `-h` is not a flag if it is the value of another flag or comes after `--`.
    let done = run(&["events", "--since-hash", "-h", "--url", "http://127.0.0.1:1"]).expect(1);
    assert!(done.stdout.is_empty(), "{done:?}");
}
