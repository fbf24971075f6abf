//! Runs the commands of `docs/tutorial.md` one after the other.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use serde_json::{Value, json};

use super::process::{Server, relay, run_command};

#[test]
fn the_tutorial_does_what_it_says() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/tutorial.md");
    let page = std::fs::read_to_string(page).unwrap();
    let lines = page.lines().filter_map(|line| line.strip_prefix("target/release/relay "));
    let commands: Vec<Vec<&str>> =
        lines.map(|line| line.split('#').next().unwrap().split_whitespace().collect()).collect();
    let (serve, others) = commands.split_first().unwrap();
    assert_eq!(serve[0], "serve");
    assert!(others.len() >= 5, "{others:?}");
    let server = Server::start(&serve[1..]);
    let folder = tempfile::tempdir().unwrap();
    for args in others {
        let mut command = relay(args);
        command.args(["--url", &server.url()]).current_dir(folder.path());
        let done = run_command(command).expect(0);
        assert!(!done.stdout.is_empty(), "{args:?}");
    }
    assert!(folder.path().join("pods.cursor").exists());
}

/// The blocks of a page in this language.
fn blocks<'a>(page: &'a str, language: &str) -> Vec<&'a str> {
    let begin = format!("```{language}\n");
    page.split(&begin).skip(1).map(|rest| rest.split("```").next().unwrap()).collect()
}

/// Runs the commands of `docs/how-to.md`, without a cluster as far as they go, and reads the files for a cluster.
#[test]
fn the_how_to_pages_do_what_they_say() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/how-to.md");
    let page = std::fs::read_to_string(page).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("kubeconfig");
    let cluster = json!({
        "apiVersion": "v1", "kind": "Config", "users": [{"name": "u", "user": {}}],
        "contexts": [{"name": "prod", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:1"}}],
    });
    std::fs::write(&config, cluster.to_string()).unwrap();
    let server = Server::start(&["--sim-pods", "60", "--sim-rate", "50"]);
    let mut count = 0;
    let shown = blocks(&page, "sh");
    let lines = shown.iter().flat_map(|block| block.lines()).map(str::trim).filter(|line| !line.is_empty());
    for line in lines {
        count += 1;
        let line = line.split('#').next().unwrap().trim();
        if line.starts_with("relay serve --data-dir ") || line.starts_with("relay store ") {
            keep(folder.path(), line);
            continue;
        }
        let words = line.strip_prefix("relay ").unwrap_or_else(|| panic!("{line}"));
        let words = words.replace("https://example.com/events", &format!("{}/events/stream", server.url()));
        // The relay has no event with the name in the page.
        let words = words.replace("--event price", "--event pod").replace('\'', "");
        let mut args: Vec<&str> = words.split_whitespace().collect();
        if let Some(at) = args.iter().position(|word| *word == "Authorization:") {
            args.splice(at..=at + 2, ["Authorization: Bearer TOKEN"]);
        }
        let through_kube = args.contains(&"--kube-service");
        let mut command = relay(&args);
        if !through_kube {
            command.args(["--max", "3"]).env("RELAY_URL", server.url());
        }
        command.current_dir(folder.path()).env("KUBECONFIG", &config);
        let done = run_command(command);
        if through_kube {
            assert!(done.stderr.contains("/services/http:relay:8080/proxy/pods"), "{line}: {done:?}");
        } else {
            assert_eq!((done.code, done.stdout.lines().count()), (Some(0), 3), "{line}: {done:?}");
        }
    }
    assert_eq!(count, 5 + 8);
    let files = blocks(&page, "yaml");
    let documents = files.iter().flat_map(|file| file.split("---\n"));
    let objects: Vec<Value> = documents.map(|text| serde_saphyr::from_str(text).unwrap()).collect();
    let kinds: Vec<_> = objects.iter().map(|object| object["kind"].as_str().unwrap()).collect();
    let all =
        ["ClusterRole", "ServiceAccount", "ClusterRoleBinding", "Secret", "Deployment", "Service", "Role"];
    assert_eq!(kinds, all);
    // The binding names the role and the account beside it.
    let [role, account, binding, secret, ..] = &objects[..] else { panic!("{objects:?}") };
    assert_eq!(binding["roleRef"]["name"], role["metadata"]["name"]);
    assert_eq!(binding["subjects"][0]["name"], account["metadata"]["name"]);
    assert_eq!(binding["subjects"][0]["namespace"], account["metadata"]["namespace"]);
    assert_eq!(role["rules"][0]["verbs"], json!(["list", "watch"]));
    // The tokens are taken as they are mounted: with mode 0440.
    let tokens = folder.path().join("tokens");
    std::fs::write(&tokens, secret["stringData"]["tokens"].as_str().unwrap()).unwrap();
    std::fs::set_permissions(&tokens, std::fs::Permissions::from_mode(0o440)).unwrap();
    let server = Server::start(&["--tokens-file", tokens.to_str().unwrap()]);
    server.run(&["pods", "--token", "2f6c0b9e4d8a4b6f9c1e7a35"]).expect(0);
    server.run(&["pods", "-n", "prod", "--token", "test"]).expect(0);
    server.run(&["pods", "-n", "batch", "--token", "test"]).expect(4);
}

/// Runs a line about data directories, in a folder. What rescues a damaged log finds one.
fn keep(folder: &Path, line: &str) {
    let args: Vec<&str> = line.split_whitespace().skip(1).collect();
    if args[0] == "serve" {
        let dir = folder.join(args[2]);
        let server =
            Server::start(&["--sim-pods", "5", "--sim-rate", "0", "--data-dir", dir.to_str().unwrap()]);
        server.signal("TERM");
        server.wait().expect(0);
        return;
    }
    let damaged = args.contains(&"--until-damage");
    if damaged {
        let segment = folder.join("data/logs/pods/00000000000000000001.segment");
        let mut bytes = std::fs::read(&segment).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(&segment, bytes).unwrap();
    }
    let mut command = relay(&args);
    command.current_dir(folder);
    run_command(command).expect(if damaged { 1 } else { 0 });
}
