//! Runs the commands of `docs/tutorial.md` one after the other.

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
    for line in blocks(&page, "sh").iter().flat_map(|block| block.lines()) {
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
        count += 1;
    }
    assert_eq!(count, 5);
    let files = blocks(&page, "yaml");
    let documents = files.iter().flat_map(|file| file.split("---\n"));
    let objects: Vec<Value> = documents.map(|text| serde_saphyr::from_str(text).unwrap()).collect();
    let kinds: Vec<_> = objects.iter().map(|object| object["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["ClusterRole", "ServiceAccount", "ClusterRoleBinding", "Role"]);
    // The binding names the role and the account beside it.
    let [role, account, binding, _] = &objects[..] else { panic!("{objects:?}") };
    assert_eq!(binding["roleRef"]["name"], role["metadata"]["name"]);
    assert_eq!(binding["subjects"][0]["name"], account["metadata"]["name"]);
    assert_eq!(binding["subjects"][0]["namespace"], account["metadata"]["namespace"]);
    assert_eq!(role["rules"][0]["verbs"], json!(["list", "watch"]));
}
