//! Kubeconfigs as people have them, and what they lead to.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use relay_kube::{Error, KubeClient, Kubeconfig};
use relay_proto::error::chain;
use relay_testkit::{ApiServer, Ask};
use serde_json::{Value, json};

use super::{client_as, pods};

const YAML: &str = "apiVersion: v1\nkind: Config\nclusters:\n- name: c\n  cluster: {server: 'https://api.test:6443'}\n\
                    contexts:\n- name: x\n  context: {cluster: c, user: u}\ncurrent-context: x\nusers:\n- name: u\n  user: {token: t}\n";

struct Home(tempfile::TempDir);

impl Home {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn put(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    fn script(&self, name: &str, content: &str) -> PathBuf {
        let path = self.put(name, format!("#!/bin/sh\n{content}\n"));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
        path
    }
}

/// Reads a file and makes a client from it; sends nothing.
async fn set_up(file: &Path) -> Result<KubeClient, Error> {
    KubeClient::connect(Kubeconfig::load(Some(file))?.access(None)?).await
}

fn utf16(text: &str, unit: fn(u16) -> [u8; 2]) -> Vec<u8> {
    text.encode_utf16().flat_map(unit).collect()
}

#[tokio::test]
async fn encodings_marks_and_documents_are_read() {
    let home = Home::new();
    let with_mark = format!("\u{feff}{YAML}");
    for (name, content) in [
        ("plain", YAML.as_bytes().to_vec()),
        ("line ends of Windows", YAML.replace('\n', "\r\n").into_bytes()),
        ("UTF-8 with a mark", with_mark.clone().into_bytes()),
        ("UTF-16, little end first, with a mark", utf16(&with_mark, u16::to_le_bytes)),
        ("UTF-16, big end first, with a mark", utf16(&with_mark, u16::to_be_bytes)),
        ("UTF-16, little end first", utf16(YAML, u16::to_le_bytes)),
        ("UTF-16, big end first", utf16(YAML, u16::to_be_bytes)),
        ("a document mark at the start", format!("---\n{YAML}").into_bytes()),
        ("a directive and a mark", format!("%YAML 1.2\n--- # mine\n{YAML}").into_bytes()),
        ("a document mark at the end", format!("{YAML}---\n").into_bytes()),
        ("an end mark", format!("{YAML}...\n").into_bytes()),
        ("another document, which is none of ours", format!("{YAML}---\n[what, ever\n").into_bytes()),
        ("no line feed at the end", YAML.trim_end().as_bytes().to_vec()),
    ] {
        let client =
            set_up(&home.put("config", content)).await.unwrap_or_else(|error| panic!("{name}: {error:?}"));
        assert_eq!(client.server().to_string(), "https://api.test:6443", "{name}");
    }
    for (name, content) in [
        ("half a unit", [&utf16(&with_mark, u16::to_le_bytes)[..], b"x"].concat()),
        ("no text", vec![b'a', 0xff, 0xfe]),
        ("half a pair", [vec![0xff, 0xfe], 0xd800_u16.to_le_bytes().to_vec()].concat()),
    ] {
        let error = set_up(&home.put("config", content)).await.unwrap_err().to_string();
        assert!(error.contains("config is neither UTF-8 nor UTF-16"), "{name}: {error}");
    }
}

/// The value of `Authorization` that an API server gets for a user of this kind.
async fn said(user: &Value) -> Option<String> {
    let server = ApiServer::start().await;
    let client = client_as(&server, user).await;
    client.list::<Value>(&pods(), None, &Default::default()).await.unwrap();
    server.request(Ask::List, 0).await.header("authorization").map(str::to_owned)
}

#[tokio::test]
async fn tokens_are_said_without_the_line_ends_they_were_written_with() {
    let home = Home::new();
    for ends in ["", "\n", "\r\n", " \n\n"] {
        let file = home.put("token", format!("abc{ends}"));
        assert_eq!(said(&json!({"tokenFile": file})).await.as_deref(), Some("Bearer abc"), "{ends:?}");
        assert_eq!(
            said(&json!({"token": format!("abc{ends}")})).await.as_deref(),
            Some("Bearer abc"),
            "{ends:?}"
        );
    }
    let marked = home.put("token", "\u{feff}abc\n");
    assert_eq!(
        said(&json!({"tokenFile": marked})).await.as_deref(),
        Some("Bearer abc"),
        "a mark is no part of it"
    );
    assert_eq!(said(&json!({"username": "u", "password": "p"})).await.as_deref(), Some("Basic dTpw"));
    assert_eq!(said(&json!({})).await, None);
}

/// As in `kubectl`, the file takes precedence for as long as it can be read.
#[tokio::test]
async fn a_token_stands_in_for_a_token_file_that_cannot_be_read() {
    let home = Home::new();
    let both = |file: &Path| json!({"token": "kept", "tokenFile": file});
    assert_eq!(said(&both(Path::new("/no/such"))).await.as_deref(), Some("Bearer kept"));
    assert_eq!(said(&both(&home.put("token", "read\n"))).await.as_deref(), Some("Bearer read"));
}

#[tokio::test]
async fn a_server_without_a_scheme_is_asked_as_what_is_known_of_it_says() {
    let home = Home::new();
    for (cluster, url) in [
        (json!({"server": "api.test:6443"}), "http://api.test:6443"),
        (json!({"server": "localhost"}), "http://localhost"),
        (json!({"server": "api.test/k8s", "insecure-skip-tls-verify": true}), "https://api.test/k8s"),
        (json!({"server": "http://api.test", "insecure-skip-tls-verify": true}), "http://api.test"),
    ] {
        let file = home.put("config", config(&cluster, &json!({})));
        let access = Kubeconfig::load(Some(&file)).unwrap().access(None).unwrap();
        assert_eq!(access.server().unwrap().to_string(), url);
    }
}

fn exec(command: &Path) -> Value {
    json!({"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": command, "interactiveMode": "Never"}})
}

/// A plugin names no expiry, or one that is far in the future, and its token is revoked.
#[tokio::test]
async fn a_plugin_whose_token_is_refused_is_asked_again_once() {
    for expiry in ["null", "\"2999-01-01T00:00:00Z\""] {
        let (server, home) = (ApiServer::start().await, Home::new());
        let token = home.put("now", "one");
        let plugin = home.script(
            "plugin",
            &format!(
                r#"echo run >> {0}.runs
printf '{{"apiVersion":"client.authentication.k8s.io/v1","kind":"ExecCredential","status":{{"token":"%s","expirationTimestamp":{expiry}}}}}' "$(cat {0})""#,
                token.display()
            ),
        );
        let runs = || std::fs::read_to_string(home.0.path().join("now.runs")).unwrap().lines().count();
        server.require_token(Some("one"));
        let client = client_as(&server, &exec(&plugin)).await;
        let list = async || client.list::<Value>(&pods(), None, &Default::default()).await;
        list().await.unwrap();
        list().await.unwrap();
        assert_eq!(runs(), 1, "it is kept");
        home.put("now", "two");
        server.require_token(Some("two"));
        list().await.unwrap();
        assert_eq!((runs(), server.count(Ask::List)), (2, 4));
        // The new token is refused, too: this is the final answer, and the plugin is not run again.
        server.require_token(Some("three"));
        let error = list().await.unwrap_err();
        assert_eq!((error.status().unwrap().code, runs(), server.count(Ask::List)), (401, 3, 6));
    }
}

#[tokio::test]
async fn who_acts_as_another_says_so() {
    let server = ApiServer::start().await;
    let user = json!({"token": "t", "as": "somebody", "as-uid": "u1", "as-groups": ["a", "b"],
        "as-user-extra": {"Example.com/Scope": ["x"]}});
    let client = client_as(&server, &user).await;
    client.list::<Value>(&pods(), None, &Default::default()).await.unwrap();
    let request = server.request(Ask::List, 0).await;
    for (header, value) in [
        ("authorization", "Bearer t"),
        ("impersonate-user", "somebody"),
        ("impersonate-uid", "u1"),
        ("impersonate-group", "a"),
        ("impersonate-extra-example.com%2Fscope", "x"),
    ] {
        assert_eq!(request.header(header), Some(value), "{header}");
    }
    let head = String::from_utf8_lossy(request.head()).to_lowercase();
    assert!(head.contains("impersonate-group: b\r\n"), "each group has a line: {head}");
}

fn config(cluster: &Value, user: &Value) -> String {
    json!({"current-context": "x", "contexts": [{"name": "x", "context": {"cluster": "here", "user": "me"}}],
        "clusters": [{"name": "here", "cluster": cluster}], "users": [{"name": "me", "user": user}]})
    .to_string()
}

#[tokio::test]
async fn what_cannot_be_had_is_said_by_the_name_of_its_entry_and_not_quoted() {
    let home = Home::new();
    let server = json!({"server": "https://api.test"});
    let with = |field: &str, value: Value| {
        let mut cluster = server.clone();
        cluster[field] = value;
        cluster
    };
    let (cluster, user) = ("cluster \"here\"", "user \"me\"");
    let plugin = home.script("plugin", "echo s3cr3t; exit 3");
    let interactive = {
        let mut user = exec(&plugin);
        user["exec"]["interactiveMode"] = "Always".into();
        user
    };
    let empty = home.put("empty", "\n");
    let not_pem = home.put("not-pem", "s3cr3t");
    let none = json!({});
    for (cluster_entry, user_entry, named, said) in [
        (json!({}), none.clone(), cluster, "no server"),
        (with("server", "s3cr3t://h".into()), none.clone(), cluster, "server"),
        (with("certificate-authority", "gone".into()), none.clone(), cluster, "gone cannot be read"),
        (with("certificate-authority", json!(not_pem)), none.clone(), cluster, "certificate-authority"),
        (with("certificate-authority-data", "s3cr3t!".into()), none.clone(), cluster, "not base64"),
        (with("tls-server-name", "s3cr3t name".into()), none.clone(), cluster, "tls-server-name"),
        (
            with("proxy-url", "socks5://s3cr3t".into()),
            none.clone(),
            cluster,
            "proxy-url: only http and https",
        ),
        (with("proxy-url", "http://u:s3cr3t@:x".into()), none.clone(), cluster, "proxy-url"),
        (server.clone(), json!({"token": "s3cr3t\u{7}"}), user, "token"),
        (server.clone(), json!({"tokenFile": "gone"}), user, "tokenFile"),
        (server.clone(), json!({"tokenFile": empty}), user, "tokenFile"),
        (
            server.clone(),
            json!({"client-certificate": "gone", "client-key": "gone"}),
            user,
            "client-certificate",
        ),
        (
            server.clone(),
            json!({"client-certificate": not_pem, "client-key": not_pem}),
            user,
            "client-certificate",
        ),
        (server.clone(), json!({"client-key-data": "s3cr3t!"}), user, "client-key-data: not base64"),
        (server.clone(), json!({"auth-provider": {"name": "oidc"}}), user, "auth-provider is not supported"),
        (server.clone(), json!({"as-uid": "s3cr3t"}), user, "need as"),
        (server.clone(), interactive, user, "interactiveMode Always"),
        (server.clone(), exec(&plugin), user, "exit status: 3"),
        (server.clone(), exec(Path::new("/no/such/plugin")), user, "/no/such/plugin"),
        (server.clone(), json!({"exec": {"command": "x", "apiVersion": "v0"}}), user, "apiVersion \"v0\""),
        (
            server.clone(),
            json!({"exec": {"apiVersion": "client.authentication.k8s.io/v1"}}),
            user,
            "no command",
        ),
    ] {
        let file = home.put("config", config(&cluster_entry, &user_entry));
        let error = set_up(&file).await.expect_err(said);
        let line = chain(&error).to_string();
        assert!(line.contains(named) && line.contains(said), "{said}: {line}");
        assert!(!line.contains("s3cr3t") && !format!("{error:?}").contains("s3cr3t"), "{line} {error:?}");
    }
}

/// Values that a field may have, whatever its purpose is.
fn anything() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "\\PC{0,12}".prop_map(Value::from),
        "[\\x00-\\x20a-z:/@%\\[\\]]{0,16}".prop_map(Value::from),
        "(https?|socks5)://[a-z0-9:@\\[\\]./%]{0,12}".prop_map(Value::from),
        Just(json!([])),
        Just(json!({})),
        Just(json!(["a", "b"])),
        Just(json!({"a": ["b"]})),
    ]
}

const CLUSTER: [&str; 7] = [
    "server",
    "certificate-authority",
    "certificate-authority-data",
    "tls-server-name",
    "proxy-url",
    "insecure-skip-tls-verify",
    "extensions",
];
const USER: [&str; 14] = [
    "token",
    "tokenFile",
    "username",
    "password",
    "client-certificate",
    "client-certificate-data",
    "client-key",
    "client-key-data",
    "as",
    "as-uid",
    "as-groups",
    "as-user-extra",
    "auth-provider",
    "unknown",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn nothing_in_a_file_makes_us_panic(
        cluster in prop::collection::vec((prop::sample::select(&CLUSTER[..]), anything()), 0..4),
        user in prop::collection::vec((prop::sample::select(&USER[..]), anything()), 0..4),
        noise in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
        damaged in any::<bool>(),
    ) {
        let mut here = json!({"server": "https://api.test"});
        for (field, value) in cluster {
            here[field] = value;
        }
        let me: Value = user.into_iter().map(|(field, value)| (field.to_owned(), value)).collect::<serde_json::Map<_, _>>().into();
        let mut bytes = config(&here, &me).into_bytes();
        if damaged {
            for (at, byte) in noise {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
        }
        let home = Home::new();
        let file = home.put("config", bytes);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        // Both an error and success are accepted.
        let _ = runtime.block_on(set_up(&file));
    }

    #[test]
    fn neither_does_a_file_that_is_something_else(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let home = Home::new();
        let file = home.put("config", bytes);
        let _ = Kubeconfig::load(Some(&file)).and_then(|config| config.access(None));
    }
}
