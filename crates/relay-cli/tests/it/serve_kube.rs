//! `relay serve --source kube` in front of a fake API server: how operators see the state of the source.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use relay_testkit::{ApiServer, Ask, Peer, Reply, Script};
use serde_json::{Value, json};

use super::process::{Done, Running, relay, run_command};
use super::wire::{eventually, get};

const PODS: &str = "v1/pods";
/// All secrets of these tests contain this text.
const SECRET: &str = "s3cr3t";

fn pod(namespace: &str, name: &str) -> Value {
    json!({"metadata": {"namespace": namespace, "name": name}, "status": {"phase": "Running"},
        "spec": {"containers": [{"name": "app", "env": [{"name": "PASSWORD", "value": SECRET}]}]}})
}

/// A directory with a kubeconfig in it.
struct Home(tempfile::TempDir);

impl Home {
    fn new(kubeconfig: &str) -> Self {
        let home = Self(tempfile::tempdir().unwrap());
        home.put("config", kubeconfig);
        home
    }

    fn put(&self, name: &str, content: &str) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    fn command(&self, args: &[&str]) -> Command {
        let serve = ["serve", "--listen", "127.0.0.1:0", "--source", "kube"];
        let mut command = relay(&[&serve[..], args].concat());
        command.env("RELAY_KUBECONFIG", self.0.path().join("config"));
        command
    }
}

/// A relay that listens, whether it has pods or not.
struct Serving {
    running: Running,
    addr: SocketAddr,
}

impl Serving {
    #[track_caller]
    fn start(command: Command) -> Self {
        let running = Running::start(command);
        let first = running.line().unwrap_or_else(|| panic!("no first line; stderr: {}", running.stderr()));
        let addr = first.strip_prefix("relay listening on http://").and_then(|addr| addr.parse().ok());
        Self { addr: addr.unwrap_or_else(|| panic!("first line: {first}")), running }
    }

    fn source(&self) -> Value {
        get(self.addr, "/health").json()["source"].clone()
    }

    #[track_caller]
    fn until_ready(&self) {
        let ready = || (get(self.addr, "/readyz").status == 200).then_some(());
        eventually(&format!("readiness; {}", self.running.stderr()), ready);
    }

    #[track_caller]
    fn until_reason(&self, part: &str) -> Value {
        eventually(&format!("the reason {part}"), || {
            let source = self.source();
            source["reason"].as_str().is_some_and(|reason| reason.contains(part)).then_some(source)
        })
    }

    fn names(&self) -> Vec<String> {
        let pods = get(self.addr, "/pods").json()["pods"].as_array().cloned().unwrap_or_default();
        pods.iter().map(|pod| pod["name"].as_str().unwrap_or_default().to_owned()).collect()
    }

    /// Ends the relay, and checks all its output for secrets.
    #[track_caller]
    fn end(self) -> Done {
        self.running.signal("TERM");
        let done = self.running.wait().expect(0);
        for told in [&done.stdout, &done.stderr] {
            let line = told.lines().find(|line| line.contains(SECRET));
            assert_eq!(line, None, "a secret is printed");
        }
        done
    }
}

fn status(code: u16, reason: &str, message: &str) -> Reply {
    Reply::json(code, &json!({"kind": "Status", "code": code, "reason": reason, "message": message}))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn why_a_source_is_away_is_told_once_and_stands_in_health() {
    let server = ApiServer::start().await;
    server.put(PODS, pod("prod", "a"));
    server.always(Ask::List, status(403, "Forbidden", "pods is forbidden: User \"relay\" cannot list"));
    let home = Home::new(&server.kubeconfig(&json!({})));
    let relay = Serving::start(home.command(&[]));
    let source = relay.until_reason("list: 403 Forbidden: pods is forbidden");
    assert_eq!((&source["synced"], &source["state"]), (&json!(false), &json!("stale")));
    let probe = get(relay.addr, "/readyz").problem(503, "not-ready");
    assert!(probe.contains("403 Forbidden: pods is forbidden"), "{probe}");
    server.request(Ask::List, 2).await;
    server.always(Ask::List, Reply::new(503, "text/html", SECRET));
    relay.until_reason("list: 503 ServiceUnavailable");
    server.restore(Ask::List);
    relay.until_ready();
    assert_eq!((relay.source()["reason"].clone(), relay.names()), (Value::Null, vec!["a".to_owned()]));
    let told = relay.end().stderr;
    let warnings: Vec<_> = told.lines().filter(|line| line.contains(" WARN ")).collect();
    assert!(
        warnings.len() == 2 && warnings[0].contains("403 Forbidden") && warnings[1].contains("503"),
        "each reason once, whatever the number of attempts: {told}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn one_forbidden_namespace_is_named_and_the_others_are_served() {
    let server = ApiServer::start().await;
    server.put(PODS, pod("prod", "a"));
    server.put(PODS, pod("hidden", "b"));
    server.forbid("hidden");
    let home = Home::new(&server.kubeconfig(&json!({})));
    let relay = Serving::start(home.command(&["--watch-namespace", "hidden", "--watch-namespace", "prod"]));
    relay.until_ready();
    assert_eq!(relay.names(), ["a"]);
    let health = get(relay.addr, "/health").ok();
    let reason = health["source"]["reason"].as_str().unwrap();
    assert!(reason.starts_with("namespace hidden: list: 403 Forbidden"), "{health}");
    assert_eq!((&health["status"], &health["source"]["state"]), (&json!("degraded"), &json!("live")));
    assert!(get(relay.addr, "/readyz").text().contains("namespace hidden"));
    assert!(relay.end().stderr.contains("namespace hidden: list: 403 Forbidden"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn versions_that_expire_again_and_again_make_the_source_stale() {
    let server = ApiServer::start().await;
    server.put(PODS, pod("prod", "a"));
    let expired = json!({"type": "ERROR", "object": {"kind": "Status", "code": 410, "reason": "Expired"}});
    server.always(Ask::Watch, Reply::sse().chunked().send(format!("{expired}\n")));
    let home = Home::new(&server.kubeconfig(&json!({})));
    let relay = Serving::start(home.command(&[]));
    relay.until_reason("again and again");
    assert_eq!(get(relay.addr, "/readyz").status, 503);
    // Further lists are read, and do not make the relay ready.
    let lists = server.count(Ask::List);
    server.request(Ask::List, lists).await;
    server.request(Ask::Watch, lists).await;
    assert_eq!((get(relay.addr, "/readyz").status, relay.names()), (503, vec!["a".to_owned()]));
    server.restore(Ask::Watch);
    relay.until_ready();
    relay.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_plugin_whose_token_was_revoked_is_asked_again() {
    use std::os::unix::fs::PermissionsExt;
    let server = ApiServer::start().await;
    server.put(PODS, pod("prod", "a"));
    server.require_token(Some("s3cr3t-one"));
    let home = Home::new("");
    let token = home.put("token", "s3cr3t-one");
    let credential =
        r#"{"apiVersion":"client.authentication.k8s.io/v1","kind":"ExecCredential","status":{"token":"%s"}}"#;
    let script = format!("#!/bin/sh\nprintf '{credential}' \"$(cat {})\"\n", token.display());
    let plugin = home.put("plugin", &script);
    std::fs::set_permissions(&plugin, std::fs::Permissions::from_mode(0o700)).unwrap();
    let exec = json!({"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": plugin}});
    home.put("config", &server.kubeconfig(&exec));
    let mut command = home.command(&[]);
    command.env("PATH", "/usr/bin:/bin");
    let relay = Serving::start(command);
    relay.until_ready();
    server.request(Ask::Watch, 0).await;
    home.put("token", "s3cr3t-two");
    server.require_token(Some("s3cr3t-two"));
    server.put(PODS, pod("prod", "b"));
    server.end_watches();
    // One request is made with the old token, and then at once one with the new token; the source stays live.
    server.request(Ask::Check, 1).await;
    server.request(Ask::Watch, 1).await;
    assert_eq!(relay.source()["state"], "live");
    let told = relay.end().stderr;
    assert!(!told.contains("WARN"), "{told}");
}

/// The peer is both a proxy and the API server behind it.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn proxies_of_the_environment_and_of_the_kubeconfig_are_used_and_spared() {
    let list = json!({"metadata": {"resourceVersion": "1"}, "items": [pod("prod", "a")]});
    let at = |url: &str| {
        let script = Script::new().on(&format!("{url}/api/v1/pods"), Reply::json(200, &list));
        script.always(&format!("{url}/api/v1/pods"), Reply::sse().chunked().silence())
    };
    let kubeconfig = |cluster: Value| {
        json!({"current-context": "x", "contexts": [{"name": "x", "context": {"cluster": "c"}}],
            "clusters": [{"name": "c", "cluster": cluster}]})
        .to_string()
    };
    let through = "http://api.test";
    for (variable, no_proxy, used) in [
        ("HTTP_PROXY", "", true),
        ("http_proxy", "other.test, .example", true),
        ("ALL_PROXY", "api.test:6443", true),
        ("HTTP_PROXY", "api.test", false),
        ("HTTP_PROXY", "10.0.0.0/8, .test:80", false),
        ("HTTP_PROXY", "*", false),
    ] {
        let proxy = Peer::start(at(through)).await;
        let home = Home::new(&kubeconfig(json!({"server": through})));
        let mut command = home.command(&[]);
        command.env(variable, proxy.url()).env("NO_PROXY", no_proxy);
        let relay = Serving::start(command);
        if used {
            relay.until_ready();
        } else {
            let source = relay.until_reason("cannot connect to http://api.test");
            assert!(!source.to_string().contains("proxy"), "{variable} {no_proxy:?}: {source}");
            assert_eq!(proxy.requests().len(), 0, "{variable} {no_proxy:?}");
        }
        relay.end();
    }
    // The proxy of the kubeconfig is used for this server, whatever the environment says.
    let proxy = Peer::start(at(through)).await;
    let home = Home::new(&kubeconfig(json!({"server": through, "proxy-url": proxy.url()})));
    let mut command = home.command(&[]);
    command.env("HTTP_PROXY", "http://127.0.0.1:1").env("NO_PROXY", "*");
    let relay = Serving::start(command);
    relay.until_ready();
    relay.end();
    // A value that is not a proxy is named by the request that would use it, and is not quoted.
    let home = Home::new(&kubeconfig(json!({"server": "https://api.test"})));
    let mut command = home.command(&[]);
    command.env("HTTPS_PROXY", "http://u:s3cr3t@a proxy");
    let relay = Serving::start(command);
    relay.until_reason("HTTPS_PROXY is not the URL of a proxy");
    relay.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn nothing_secret_is_printed_at_the_most_talkative_level() {
    let server = ApiServer::start().await;
    server.put(PODS, pod("prod", "a"));
    let whole = json!({"metadata": {"resourceVersion": "1"}, "items": [pod("prod", "a")]}).to_string();
    server.reply(Ask::List, Reply::new(200, "application/json", whole[..whole.len() - 40].to_owned()));
    server.reply(Ask::List, Reply::json(500, &json!({"kind": "Status", "code": 500, "message": SECRET})));
    let odd = json!({"metadata": {"namespace": "prod", "name": "a"}, "status": {"phase": [SECRET]}});
    let event = json!({"type": "MODIFIED", "object": odd});
    server.reply(Ask::Watch, Reply::sse().chunked().send(format!("{event}\n{SECRET}\n")));
    let home = Home::new(&server.kubeconfig(&json!({"token": "s3cr3t-token"})));
    let mut command = home.command(&[]);
    command.env("RELAY_LOG", "trace");
    let relay = Serving::start(command);
    server.request(Ask::Watch, 1).await;
    relay.until_ready();
    assert_eq!(get(relay.addr, "/pods").ok()["pods"][0]["name"], "a");
    assert!(!get(relay.addr, "/health").text().contains(SECRET));
    let told = relay.end().stderr;
    assert!(told.contains("TRACE") && told.contains("cannot be read"), "it is talkative");
}

/// An invalid configuration is reported before the server says that it listens.
#[test]
fn a_kubeconfig_that_cannot_be_used_ends_it_before_it_listens() {
    let home = Home::new("[s3cr3t");
    let done = run_command(home.command(&[])).expect(1);
    assert!(done.stdout.is_empty() && done.stderr.contains("config, line"), "{done:?}");
    assert!(!done.stderr.contains(SECRET), "{done:?}");
    let mut command = home.command(&[]);
    command.env("RELAY_KUBECONFIG", "/no/such/file");
    let done = run_command(command).expect(1);
    assert!(done.stderr.contains("/no/such/file cannot be read"), "{done:?}");
    let mut command = home.command(&[]);
    command.env_remove("RELAY_KUBECONFIG").env("HOME", "/nowhere");
    let done = run_command(command).expect(1);
    assert!(done.stderr.contains("there is no kubeconfig, and this is no pod"), "{done:?}");
}

/// As for clients, `KUBECONFIG` is a list of files, some of which may be missing.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn several_files_are_merged() {
    let server = ApiServer::start().await;
    server.put(PODS, pod("prod", "a"));
    let home = Home::new(&server.kubeconfig(&json!({})));
    let users = json!({"users": [{"name": "tester", "user": {"token": "s3cr3t-first"}}]});
    let first = home.put("first", &users.to_string());
    let missing = home.0.path().join("missing");
    let files = std::env::join_paths([missing, first, home.0.path().join("config")]).unwrap();
    for variable in ["RELAY_KUBECONFIG", "KUBECONFIG"] {
        let mut command = home.command(&[]);
        command.env_remove("RELAY_KUBECONFIG").env(variable, &files);
        let relay = Serving::start(command);
        relay.until_ready();
        relay.end();
    }
    let last = server.request(Ask::List, 1).await;
    assert_eq!(last.header("authorization"), Some("Bearer s3cr3t-first"));
}
