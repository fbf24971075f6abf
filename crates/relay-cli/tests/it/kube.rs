//! A relay behind an API server that a kubeconfig names. The scripted peer plays both.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use relay_testkit::{Authority, Conversation, Gate, Peer, RelayScript, Reply, Script, pods_reply};
use serde_json::{Value, json};

use super::process::{Done, Running, relay, run_command};

const SERVICE: &str = "relay-system/relay:8080";
const PROXY: &str = "/api/v1/namespaces/relay-system/services/http:relay:8080/proxy";
const STREAM: &str = "/events/stream";
/// All secrets of these tests contain this text, and no output may contain it.
const SECRET: &str = "s3cr3t";

/// A home directory with kubeconfigs in it.
struct Home(tempfile::TempDir);

impl Home {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn put(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
        path
    }

    fn script(&self, name: &str, content: &str) -> PathBuf {
        let path = self.put(name, format!("#!/bin/sh\n{content}\n"));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
        path
    }

    /// Writes the kubeconfig in its usual place.
    fn config(&self, cluster: Value, user: Value) {
        self.put(".kube/config", config(cluster, user));
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = relay(args);
        command.env("HOME", self.0.path()).env("RELAY_OUTPUT", "json").env("PATH", "/usr/bin:/bin");
        command
    }

    fn pods(&self, more: &[&str]) -> Done {
        run(self.command(&[&["--kube-service", SERVICE, "pods"], more].concat()))
    }
}

/// A kubeconfig as JSON, which is also YAML.
fn config(cluster: Value, user: Value) -> String {
    json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "here", "preferences": {},
        "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u", "namespace": "default"}}],
        "clusters": [{"name": "c", "cluster": cluster}],
        "users": [{"name": "u", "user": user}],
    })
    .to_string()
}

/// Runs a command to its end, and checks that its output has no secret.
#[track_caller]
fn run(command: Command) -> Done {
    let done = run_command(command);
    for told in [&done.stdout, &done.stderr] {
        assert!(!told.contains(SECRET), "a secret is printed: {done:?}");
    }
    done
}

fn behind() -> RelayScript {
    RelayScript::new("e1")
        .prefix(PROXY)
        .always("/pods", pods_reply("e1", 3, [&Conversation::sample_pod("web-1")]))
}

async fn api_server() -> Peer {
    Peer::start(behind()).await
}

/// The credentials of the first request for a list.
async fn asked(peer: &Peer) -> (Option<String>, Option<String>) {
    let request = peer.request_to(&format!("{PROXY}/pods"), 0).await;
    (request.header("authorization").map(Into::into), request.header("x-relay-token").map(Into::into))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn lists_and_streams_go_through_the_service_proxy() {
    let talk = Conversation::new("e1").connected(3).catchup_complete().silence();
    let peer = Peer::start(behind().sessions().stream(talk)).await;
    let home = Home::new();
    home.put(
        ".kube/config",
        format!(
            "# as kubectl writes it\napiVersion: v1\nkind: Config\nclusters:\n- cluster:\n    server: {}\n  name: kind-one\n\
             contexts:\n- context:\n    cluster: kind-one\n    user: admin\n  name: one\ncurrent-context: one\npreferences: {{}}\n\
             users:\n- name: admin\n  user:\n    token: {SECRET}-outer\n",
            peer.url()
        ),
    );
    let args = ["replay", "--exit-after-phase", "Live", "--token", "s3cr3t-inner"];
    let mut command =
        home.command(&[&["--kube-context", "one", "--kube-service", SERVICE], &args[..]].concat());
    command.env("RELAY_LOG", "trace");
    assert!(run(command).expect(0).stderr.contains("TRACE"), "and still no secret");
    let requests = peer.requests();
    let paths: Vec<_> =
        requests.iter().map(|r| r.path().strip_prefix(PROXY).unwrap_or("elsewhere")).collect();
    assert_eq!(paths, ["/pods", "/auth/session", STREAM, "/pods"]);
    for request in &requests {
        assert_eq!(request.header("authorization"), Some("Bearer s3cr3t-outer"), "{request:?}");
        let own = (request.path() != format!("{PROXY}{STREAM}")).then_some("s3cr3t-inner");
        assert_eq!(request.header("x-relay-token"), own, "a ticket in its place: {request:?}");
    }
    assert_eq!(requests[2].query("session_id").as_deref(), Some("s-1"));
}

/// Every command group takes the same flags, before its name and after it, and sends the same two credentials.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn other_systems_go_through_the_service_proxy_too() {
    let head = Reply::empty(200)
        .header("content-type", "application/json")
        .header("stream-next-offset", "0000000000000000_0000000000000002");
    let script = RelayScript::new("e1")
        .prefix(PROXY)
        .always("/app", head)
        .always("/parsec/schemas", Reply::json(200, &json!({"patterns": []})));
    let peer = Peer::start(script).await;
    let home = Home::new();
    home.config(json!({"server": peer.url()}), json!({"token": "s3cr3t-outer"}));
    let inner = ["--token", "s3cr3t-inner"];
    let there = ["--kube-service", SERVICE];
    for (before, command, path) in [
        (true, &["durable", "head", "/app"][..], "/app"),
        (false, &["durable", "head", "/app"], "/app"),
        (true, &["parsec", "schema", "list"], "/parsec/schemas"),
        (false, &["parsec", "schema", "list"], "/parsec/schemas"),
    ] {
        let seen = peer.requests().len();
        let args =
            if before { [&there, command, &inner].concat() } else { [command, &there, &inner].concat() };
        run(home.command(&args)).expect(0);
        let requests = peer.requests();
        let request = &requests[seen];
        assert_eq!(request.path(), format!("{PROXY}{path}"));
        assert_eq!(request.header("authorization"), Some("Bearer s3cr3t-outer"), "{request:?}");
        assert_eq!(request.header("x-relay-token"), Some("s3cr3t-inner"), "{request:?}");
    }
    // The credentials are only for the URL of the service.
    let elsewhere = format!("{}/app", peer.url());
    let done = run(home.command(&[&["durable", "head", &elsewhere][..], &there].concat())).expect(2);
    assert!(done.stderr.contains("--kube-service") && done.stderr.contains(&elsewhere), "{}", done.stderr);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn flags_and_files_are_found_where_they_may_be() {
    let peer = api_server().await;
    let home = Home::new();
    let file = home.put("else/where", config(json!({"server": peer.url()}), json!({})));
    let file = file.to_str().unwrap();
    let mut commands = Vec::new();
    for args in [
        vec!["--kubeconfig", file, "--kube-service", SERVICE, "pods"],
        vec!["pods", "--kubeconfig", file, "--kube-service", SERVICE, "--kube-context", "here"],
        vec!["--kubeconfig", file, "pods", "--kube-service", SERVICE],
    ] {
        commands.push(home.command(&args));
    }
    for variable in ["KUBECONFIG", "RELAY_KUBECONFIG"] {
        let mut command = home.command(&["pods", "--kube-service", SERVICE]);
        command.env("RELAY_URL", "http://127.0.0.1:1").env(variable, file);
        commands.push(command);
    }
    let mut command = home.command(&["pods"]);
    command
        .env("RELAY_KUBE_SERVICE", SERVICE)
        .env("RELAY_KUBE_CONTEXT", "here")
        .env("RELAY_KUBECONFIG", file);
    command.env("KUBECONFIG", "/no/such/file");
    commands.push(command);
    for command in commands {
        assert_eq!(run(command).expect(0).json().len(), 1);
    }
    // `--url` takes precedence over a service from the environment, and its kubeconfig is then not read.
    let plain = Peer::start(RelayScript::new("e1").always("/pods", pods_reply("e1", 3, []))).await;
    let mut command = home.command(&["pods", "--url", &plain.url()]);
    command.env("RELAY_KUBE_SERVICE", SERVICE).env("KUBECONFIG", "/no/such/file");
    assert_eq!(run(command).expect(0).stdout, "");
}

/// If several files have an entry, the first one is used. Paths are relative to the file that has them.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn files_are_merged_and_paths_are_theirs() {
    let peer = api_server().await;
    let home = Home::new();
    home.put("one/token", "s3cr3t-one\n");
    home.put("two/token", "s3cr3t-two\n");
    let users = json!([{"name": "u", "user": {"tokenFile": "token"}}]);
    let one = home.put("one/config", json!({"users": users, "contexts": null}).to_string());
    let clusters = json!([{"name": "c", "cluster": {"server": peer.url()}}]);
    let contexts = json!([{"name": "x", "context": {"cluster": "c", "user": "u"}}]);
    let rest = json!({"current-context": "x", "users": users, "clusters": clusters, "contexts": contexts});
    let two = home.put("two/config", rest.to_string());
    let missing = home.0.path().join("missing");
    let empty = home.put("empty", "");
    let mut command = home.command(&["pods", "--kube-service", SERVICE]);
    command.env("KUBECONFIG", std::env::join_paths([&missing, &empty, &one, &two]).unwrap());
    run(command).expect(0);
    assert_eq!(asked(&peer).await.0.as_deref(), Some("Bearer s3cr3t-one"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn each_credential_is_said_in_its_way() {
    let home = Home::new();
    let file = home.put("token", "s3cr3t-file\n");
    for (user, more, said) in [
        (json!({"token": "s3cr3t-a"}), &[][..], Some("Bearer s3cr3t-a")),
        (json!({"tokenFile": file}), &[], Some("Bearer s3cr3t-file")),
        // The token file takes precedence, because it may be newer than the token.
        (json!({"token": "s3cr3t-a", "tokenFile": file}), &[], Some("Bearer s3cr3t-file")),
        (json!({"username": "u", "password": "s3cr3t"}), &[], Some("Basic dTpzM2NyM3Q=")),
        (json!({}), &[], None),
        (Value::Null, &[], None),
        // A flag takes precedence over the kubeconfig.
        (json!({"token": "s3cr3t-a"}), &["--proxy-token", "s3cr3t-given"], Some("Bearer s3cr3t-given")),
    ] {
        let peer = api_server().await;
        home.config(json!({"server": peer.url()}), user.clone());
        home.pods(&[&["--token", "s3cr3t-inner"], more].concat()).expect(0);
        // The relay's own token is always sent in its own header, whatever the API server gets.
        assert_eq!(asked(&peer).await, (said.map(Into::into), Some("s3cr3t-inner".into())), "{user}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_token_file_that_changes_is_read_again() {
    let gate = Gate::new();
    let talk = || Conversation::new("e1").connected(3).catchup_complete();
    let script = behind().stream(talk().hold(&gate).cut()).stream(talk().silence());
    let peer = Peer::start(script).await;
    let home = Home::new();
    home.put(".kube/token", "s3cr3t-first");
    home.config(json!({"server": peer.url()}), json!({"tokenFile": "token"}));
    let _client =
        Running::start(home.command(&["--kube-service", SERVICE, "state", "--reconnect-base", "5ms"]));
    gate.reached().await;
    home.put(".kube/token", "s3cr3t-second-one");
    gate.open();
    let again = peer.request_to(&format!("{PROXY}{STREAM}"), 1).await;
    assert_eq!(again.header("authorization"), Some("Bearer s3cr3t-second-one"));
    let first = peer.request_to(&format!("{PROXY}{STREAM}"), 0).await;
    assert_eq!(first.header("authorization"), Some("Bearer s3cr3t-first"));
}

fn exec(command: &str, version: &str) -> Value {
    json!({"exec": {"apiVersion": format!("client.authentication.k8s.io/{version}"), "command": command,
        "args": ["an argument"], "env": [{"name": "WHO", "value": "me"}], "installHint": "install it from there",
        "interactiveMode": "IfAvailable", "provideClusterInfo": true}})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_plugin_is_run_for_its_token_and_again_when_it_has_expired() {
    for (version, expires, runs) in [
        ("v1", r#""2999-01-01T00:00:00Z""#, 1),
        ("v1beta1", "null", 1),
        // Each of the two lists and the stream runs the plugin again.
        ("v1", r#""2001-01-01T00:00:00Z""#, 4),
    ] {
        let talk = Conversation::new("e1").connected(3).catchup_complete().silence();
        let peer = Peer::start(behind().stream(talk)).await;
        let home = Home::new();
        home.script(
            ".kube/bin/plugin",
            &format!(
                r#"cd "$(dirname "$0")"; echo run >> runs; echo "$KUBERNETES_EXEC_INFO" > info; echo "$WHO $1" > told
echo "login is fine" >&2
echo '{{"apiVersion":"client.authentication.k8s.io/{version}","kind":"ExecCredential","status":{{"token":"s3cr3t-'$(wc -l < runs | tr -d " ")'","expirationTimestamp":{expires}}}}}'"#
            ),
        );
        home.config(json!({"server": peer.url()}), exec("bin/plugin", version));
        let args = ["--kube-service", SERVICE, "replay", "--exit-after-phase", "Live"];
        let done = run(home.command(&args)).expect(0);
        assert!(done.stderr.contains("login is fine"), "its own words are passed on: {done:?}");
        let read = |name| std::fs::read_to_string(home.0.path().join(".kube/bin").join(name)).unwrap();
        assert_eq!(read("runs").lines().count(), runs, "{version} {expires}");
        assert_eq!(read("told"), "me an argument\n");
        let info: Value = serde_json::from_str(&read("info")).unwrap();
        assert_eq!(info["apiVersion"], format!("client.authentication.k8s.io/{version}"));
        assert_eq!((&info["kind"], &info["spec"]["interactive"]), (&json!("ExecCredential"), &json!(false)));
        assert_eq!(info["spec"]["cluster"]["server"], peer.url());
        let said: Vec<_> =
            peer.requests().iter().map(|r| r.header("authorization").unwrap().to_owned()).collect();
        let expected = if runs == 1 {
            vec!["Bearer s3cr3t-1"; 3]
        } else {
            vec!["Bearer s3cr3t-2", "Bearer s3cr3t-3", "Bearer s3cr3t-4"]
        };
        assert_eq!(said, expected, "{version} {expires}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_plugin_that_fails_is_named_and_not_quoted() {
    let peer = api_server().await;
    let home = Home::new();
    let good = |status: &str| {
        format!(
            r#"echo '{{"apiVersion":"client.authentication.k8s.io/v1","kind":"ExecCredential","status":{status}}}'"#
        )
    };
    for (script, said) in [
        ("echo s3cr3t; exit 3".to_owned(), "exit status: 3"),
        ("echo '{\"s3cr3t\": s3cr3t'".to_owned(), "no ExecCredential"),
        (r#"echo '{"apiVersion":"client.authentication.k8s.io/v1beta1","kind":"ExecCredential","status":{"token":"s3cr3t"}}'"#.to_owned(), "no ExecCredential of client.authentication.k8s.io/v1"),
        (good("null"), "no status"),
        (good("{}"), "neither a token nor a certificate"),
        (good(r#"{"clientCertificateData":"s3cr3t"}"#), "go together"),
        (good(r#"{"clientCertificateData":"s3cr3t","clientKeyData":"s3cr3t"}"#), "no private key"),
        (good(r#"{"token":"s3cr3t","expirationTimestamp":"soon"}"#), "expirationTimestamp"),
        (good(r#"{"token":"s3cr3t\u0001"}"#), "no header can hold"),
    ] {
        home.script(".kube/plugin", &script);
        home.config(json!({"server": peer.url()}), exec("./plugin", "v1"));
        let done = home.pods(&[]);
        assert!(matches!(done.code, Some(1 | 2)) && done.stderr.contains(said), "{script}: {done:?}");
    }
    home.config(json!({"server": peer.url()}), exec("no-such-plugin", "v1"));
    let done = home.pods(&[]).expect(1);
    for part in ["no-such-plugin", "install it from there", "No such file"] {
        assert!(done.stderr.contains(part), "{part}: {}", done.stderr);
    }
    home.config(json!({"server": peer.url()}), exec("plugin", "v1alpha1"));
    assert!(home.pods(&[]).expect(1).stderr.contains("v1alpha1\" is not supported"));
    assert_eq!(peer.requests().len(), 0);
}

#[test]
fn wrong_usage_names_the_flags() {
    let home = Home::new();
    home.config(json!({"server": "http://127.0.0.1:1"}), json!({}));
    home.put("no-current", json!({"contexts": [{"name": "a", "context": {}}]}).to_string());
    for (args, named) in [
        (&["--kube-context", "here", "pods"][..], &["--kube-context needs --kube-service"][..]),
        (&["pods", "--kubeconfig", "x"], &["--kubeconfig needs --kube-service"]),
        (&["--kube-service", SERVICE, "pods", "--url", "http://h"], &["--url and --kube-service exclude"]),
        (&["pods", "--kube-context", "here", "--url", "http://h"], &["--url and --kube-context exclude"]),
        (&["--kube-service", "relay", "pods"], &["--kube-service \"relay\"", "NAMESPACE/NAME:PORT"]),
        (&["--kube-service", "a/b:0", "pods"], &["--kube-service \"a/b:0\"", "a port is"]),
        (
            &["--kube-service", SERVICE, "--kube-context", "there", "pods"],
            &["no context \"there\"", "here", "config"],
        ),
        (&["--kube-service", SERVICE, "serve"], &["--kube-service before the command"]),
        (&["--kube-service", SERVICE, "demo"], &["--kube-service before the command"]),
    ] {
        let done = run(home.command(args)).expect(2);
        for part in named {
            assert!(done.stderr.contains(part), "{args:?}: {part}: {}", done.stderr);
        }
    }
    let mut command = home.command(&["pods"]);
    command.env("RELAY_URL", "http://127.0.0.1:1").env("RELAY_KUBE_SERVICE", SERVICE);
    assert!(run(command).expect(2).stderr.contains("RELAY_URL and RELAY_KUBE_SERVICE exclude"));
    let mut command = home.command(&["pods", "--kube-service", SERVICE]);
    command.env("KUBECONFIG", home.0.path().join("no-current"));
    assert!(run(command).expect(2).stderr.contains("no current context"));
    // This variable is for servers and has no effect on a client.
    let mut command = home.command(&["pods", "--url", "http://127.0.0.1:1"]);
    command.env("RELAY_KUBECONFIG", "/no/such/file");
    assert!(run(command).expect(1).stderr.contains("cannot connect"));
    for help in [&["--help"][..], &["pods", "--help"]] {
        let help = run(home.command(help)).expect(0).stdout;
        assert!(help.contains("--kube-service") && help.contains("--kube-context"), "{help}");
    }
}

#[test]
fn files_that_cannot_be_used_are_named_and_not_quoted() {
    let home = Home::new();
    let server = json!({"server": "http://127.0.0.1:1"});
    for (content, said) in [
        ("users:\n- name: u\n  user: {token: s3cr3t".to_owned(), "config, line"),
        ("users:\n- name: u\n  user: s3cr3t\n".to_owned(), "line 3"),
        ("s3cr3t".to_owned(), "not a kubeconfig"),
        ("[s3cr3t]".to_owned(), "not a kubeconfig"),
        ("current-context: x\ncurrent-context: s3cr3t\n".to_owned(), "line 2"),
        (String::new(), "no current context"),
        (json!({"current-context": "x", "contexts": [{"name": "x"}]}).to_string(), "names no cluster"),
        (
            json!({"current-context": "x", "contexts": [{"name": "x", "context": {"cluster": "c"}}]}).to_string(),
            "no cluster \"c\"",
        ),
        (
            json!({"current-context": "x", "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
                "clusters": [{"name": "c", "cluster": server}]})
            .to_string(),
            "no user \"u\"",
        ),
        (config(json!({}), json!({})), "cluster \"c\": no server"),
        (config(json!({"server": "http://[s3cr3t"}), json!({})), "not a usable URL"),
        (config(json!({"server": "https://u:s3cr3t@h"}), json!({})), "not a usable URL"),
        (
            config(json!({"server": "https://h", "certificate-authority-data": "s3cr3t!"}), json!({})),
            "cluster \"c\": certificate-authority-data: not base64",
        ),
        (
            config(json!({"server": "https://h", "certificate-authority-data": "czNjcjN0"}), json!({})),
            "cluster \"c\": certificate-authority: no certificate",
        ),
        (config(json!({"server": "https://h", "certificate-authority": "gone.pem"}), json!({})), ".kube/gone.pem"),
        (
            config(json!({"server": "https://h", "proxy-url": "socks5://u:s3cr3t@h"}), json!({})),
            "proxy-url: only http and https proxies are supported",
        ),
        (config(server.clone(), json!({"auth-provider": {"name": "gcp"}})), "auth-provider is not supported"),
        (config(server.clone(), json!({"as-groups": ["g"], "token": "s3cr3t"})), "user \"u\": as-uid, as-groups and as-user-extra need as"),
        (config(server.clone(), json!({"as": "s3cr3t\u{1}"})), "user \"u\": as: no header can hold it"),
        (config(server.clone(), json!({"token": "s3cr3t", "username": "u"})), "a token and a password"),
        (config(server.clone(), json!({"client-certificate": "c"})), "client-certificate and client-key go together"),
        (config(server.clone(), json!({"client-key-data": "s3cr3t!", "client-certificate": "c"})), "client-key-data: not base64"),
        (config(server.clone(), json!({"tokenFile": "gone"})), ".kube/gone"),
    ] {
        home.put(".kube/config", &content);
        let done = home.pods(&[]);
        assert!(matches!(done.code, Some(1 | 2)), "{content}: {done:?}");
        assert!(done.stderr.contains(said), "{content}: {done:?}");
    }
    let mut command = home.command(&["pods", "--kube-service", SERVICE]);
    command.env("KUBECONFIG", "/no/such/a:/no/such/b");
    assert!(run(command).expect(1).stderr.contains("none of the files"));
    let done = run(home.command(&["pods", "--kube-service", SERVICE, "--kubeconfig", "/no/such/file"]));
    assert!(done.expect(1).stderr.contains("kubeconfig /no/such/file cannot be read"));
}

/// The error text of the API server is shown.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_service_that_is_not_there_is_told_by_the_api_server() {
    let home = Home::new();
    for (status, reason, message, code) in [
        (404, "NotFound", "services \"relay\" not found", 3),
        (503, "ServiceUnavailable", "no endpoints available for service \"relay\"", 1),
        (401, "Unauthorized", "Unauthorized", 4),
        (403, "Forbidden", "services \"http:relay:8080\" is forbidden", 4),
    ] {
        let body = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": message, "reason": reason, "code": status});
        let reply = || Reply::json(status, &body);
        let script = Script::new().always(&format!("{PROXY}/pods"), reply());
        let peer = Peer::start(script.always(&format!("{PROXY}/pods/prod/web"), reply())).await;
        home.config(json!({"server": peer.url()}), json!({"token": "s3cr3t"}));
        let done = home.pods(&[]).expect(code);
        assert!(done.stderr.contains(message), "{status}: {}", done.stderr);
        let done = run(home.command(&["pod", "prod/web", "--kube-service", SERVICE])).expect(code);
        assert!(done.stderr.contains(message), "that is not about the pod: {}", done.stderr);
        let next = "(check namespace, name and port of --kube-service)";
        assert_eq!(done.stderr.contains(next), status == 404, "{}", done.stderr);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_proxy_of_the_kubeconfig_is_used() {
    let target = format!("http://api.test{PROXY}/pods");
    let proxy = Peer::start(Script::new().always(&target, pods_reply("e1", 3, []))).await;
    let home = Home::new();
    home.config(json!({"server": "http://api.test", "proxy-url": proxy.url()}), json!({}));
    home.pods(&[]).expect(0);
    assert_eq!(proxy.requests().len(), 1);
}

/// A certificate cannot be requested again before each request, as a token can.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_plugin_is_run_again_for_its_certificate() {
    let talk = Conversation::new("e1").connected(3).catchup_complete().silence();
    let (peer, home) = (Peer::start(behind().stream(talk)).await, Home::new());
    let (certificate, key) = Authority::new().sign("me", Authority::FUTURE);
    let credential = json!({"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": {
        "clientCertificateData": certificate, "clientKeyData": key, "expirationTimestamp": "2001-01-01T00:00:00Z"}});
    home.put(".kube/credential.json", credential.to_string());
    home.script(".kube/plugin", r#"cd "$(dirname "$0")"; echo run >> runs; cat credential.json"#);
    home.config(json!({"server": peer.url()}), exec("./plugin", "v1"));
    let _client = Running::start(home.command(&["--kube-service", SERVICE, "state"]));
    let runs =
        || std::fs::read_to_string(home.0.path().join(".kube/runs")).unwrap_or_default().lines().count();
    super::wire::eventually("another run", || (runs() >= 2).then_some(()));
}

fn base64(text: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(text)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn certificates_are_those_of_the_kubeconfig() {
    let (peer, authority, home) = (api_server().await, Authority::new(), Home::new());
    let server = authority.front("api.cluster.test", Some(&authority), peer.addr()).await;
    let (certificate, key) = authority.sign("me", Authority::FUTURE);
    home.put(".kube/ca.pem", &authority.pem);
    home.put(".kube/me.pem", &certificate);
    home.put(".kube/me.key", &key);
    let ca = base64(&authority.pem);
    let held = json!({"client-certificate-data": base64(&certificate), "client-key-data": base64(&key)});
    let files = json!({"client-certificate": "me.pem", "client-key": "me.key"});
    let mixed = json!({"client-certificate": "me.pem", "client-key-data": base64(&key)});
    let name = "api.cluster.test";
    let good = json!({"server": server, "certificate-authority-data": ca, "tls-server-name": name});
    let by_file = json!({"server": server, "certificate-authority": "ca.pem", "tls-server-name": name});
    for (cluster, user) in [(&good, &held), (&by_file, &files), (&good, &mixed)] {
        home.config(cluster.clone(), user.clone());
        assert_eq!(home.pods(&[]).expect(0).json().len(), 1, "{user}");
    }
    // A plugin may return a certificate instead of a token.
    let credential = json!({"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential",
        "status": {"clientCertificateData": certificate, "clientKeyData": key}});
    home.put(".kube/credential.json", credential.to_string());
    home.script(".kube/plugin", r#"cat "$(dirname "$0")/credential.json""#);
    home.config(good.clone(), exec("./plugin", "v1"));
    assert_eq!(home.pods(&[]).expect(0).json().len(), 1);

    // The connection fails if the name is wrong, the authority is wrong, or there is no client certificate. With TLS
    // 1.3, the refusal of a missing certificate comes after the handshake. If it arrives before the request is sent,
    // hyper only says that the connection was not ready.
    for (cluster, user, said) in [
        (json!({"server": server, "certificate-authority-data": ca}), &held, &["not valid for name"][..]),
        (json!({"server": server, "tls-server-name": name}), &held, &["UnknownIssuer", "unknown issuer"]),
        (
            good.clone(),
            &json!({}),
            &["CertificateRequired", "certificate required", "connection was not ready"],
        ),
    ] {
        home.config(cluster, user.clone());
        let done = home.pods(&[]).expect(1);
        assert!(said.iter().any(|part| done.stderr.contains(part)), "{said:?}: {done:?}");
    }

    // The kubeconfig alone cannot switch off verification: the flag is needed, too.
    home.config(json!({"server": server, "insecure-skip-tls-verify": true}), held);
    let done = home.pods(&[]).expect(2);
    for part in ["cluster \"c\"", "insecure-skip-tls-verify", "--insecure-accept-any-certificate"] {
        assert!(done.stderr.contains(part), "{part}: {}", done.stderr);
    }
    let done = home.pods(&["--insecure-accept-any-certificate"]).expect(0);
    assert!(done.stderr.contains("any certificate is accepted"), "{}", done.stderr);
}
