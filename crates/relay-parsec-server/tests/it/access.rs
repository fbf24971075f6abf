//! The tokens file.

use std::path::{Path, PathBuf};

use relay_parsec_server::{ParsecServer, ServerConfig};

use crate::raw::{Rig, Stream, envelope_of};

struct Tokens {
    directory: tempfile::TempDir,
}

impl Tokens {
    fn new(text: &str) -> Self {
        let tokens = Self { directory: tempfile::tempdir().unwrap() };
        tokens.write(text);
        tokens
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("tokens")
    }

    /// Replaces the file as a whole.
    fn write(&self, text: &str) {
        let next = self.directory.path().join("next");
        std::fs::write(&next, text).unwrap();
        private(&next);
        std::fs::rename(next, self.path()).unwrap();
    }
}

fn private(path: &Path) {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
    }
    #[cfg(not(unix))]
    let _ = path;
}

async fn rig(tokens: &Tokens) -> Rig {
    Rig::with(ServerConfig::default().tokens_file(Some(tokens.path()))).await
}

fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

async fn publish(rig: &Rig, token: &str, channel: &str) -> u16 {
    let body = envelope_of(channel, token, 1, "1");
    let target = format!("/parsec/publish?channel={channel}");
    rig.ask("POST", &target, &[("authorization", &bearer(token))], body.as_bytes()).await.status()
}

async fn read(rig: &Rig, token: &str, channel: &str) -> u16 {
    let target = format!("/parsec/presence?channel={channel}");
    rig.ask("GET", &target, &[("authorization", &bearer(token))], b"").await.status()
}

#[tokio::test]
async fn reading_and_writing_are_rights_of_their_own() {
    let hashed = "sha256:2bd806c97f0e00af1a1fc3328fa763a9269723c8db8fac4f93af71db186d6e90";
    let tokens = Tokens::new(&format!(
        "# who may what\nboth ann public:a.**\nreader bob public:a.* - # not public:b\n{hashed} eve - *\nall zoe *\n"
    ));
    let rig = rig(&tokens).await;
    for (token, channel, written, seen) in [
        ("both", "public:a.b", 200, 200),
        ("both", "public:b.b", 403, 403),
        ("reader", "public:a.b", 403, 200),
        ("reader", "public:a.b.c", 403, 403),
        ("alice", "public:c.c", 200, 403),
        ("all", "public:d.d", 200, 200),
        ("nobody", "public:a.b", 401, 401),
    ] {
        assert_eq!(publish(&rig, token, channel).await, written, "{token} writes {channel}");
        assert_eq!(read(&rig, token, channel).await, seen, "{token} reads {channel}");
    }
    let list = rig.ask("GET", "/parsec/channels", &[("authorization", "Bearer reader")], b"").await.json();
    let names: Vec<_> =
        list["channels"].as_array().unwrap().iter().map(|c| c["channel"].as_str().unwrap()).collect();
    assert_eq!(names, ["public:a.b"]);
    let refused =
        rig.ask("GET", "/parsec/stream?channel=public:z.z", &[("x-relay-token", "reader")], b"").await;
    refused.is_problem(403, "forbidden-channel", &["public:z.z"]);
}

#[tokio::test]
async fn credentials_are_asked_for_and_the_own_header_wins() {
    let tokens = Tokens::new("one ann *\n");
    let rig = rig(&tokens).await;
    for target in ["/parsec/channels", "/parsec/schemas", "/parsec/stream?channel=public:a.b", "/nowhere"] {
        let answer = rig.get(target).await;
        answer.is_problem(401, "unauthenticated", &["credential"]);
        assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
    }
    assert_eq!(rig.get("/health").await.status(), 200);
    for (headers, status) in [
        (&[("x-relay-token", "one"), ("authorization", "Bearer of-a-proxy")][..], 200),
        (&[("x-relay-token", "two"), ("authorization", "Bearer one")], 401),
        (&[("authorization", "Basic one")], 401),
        (&[("authorization", "bearer one")], 200),
    ] {
        assert_eq!(rig.ask("GET", "/parsec/channels", headers, b"").await.status(), status, "{headers:?}");
    }
    let mut stream = rig.stream_with("public:a.b", &[("x-relay-token", "one")]).await;
    stream.event("connected").await;
    let list =
        rig.ask("GET", "/parsec/presence?channel=public:a.b", &[("x-relay-token", "one")], b"").await.json();
    assert_eq!(list["entries"][0]["user_id"], "ann");
}

/// A token that is removed or loses a channel closes its streams there, and no others.
#[tokio::test]
async fn what_is_revoked_ends_there_and_only_there() {
    let tokens = Tokens::new("goes ann *\nloses bob public:a.b,public:a.c\nstays eve *\n");
    let rig = rig(&tokens).await;
    let open = async |token: &str, channel: &str| -> Stream {
        let mut stream = rig.stream_with(channel, &[("x-relay-token", token)]).await;
        stream.event("connected").await;
        stream
    };
    let mut gone = open("goes", "public:a.b").await;
    let mut lost = open("loses", "public:a.b").await;
    let mut kept = open("loses", "public:a.c").await;
    let mut other = open("stays", "public:a.b").await;
    tokens.write("loses bob public:a.c\nstays eve *\n");
    for stream in [&mut gone, &mut lost] {
        assert_eq!(stream.event("closing").await.1["reason"], "revoked");
        assert_eq!(stream.block().await, None);
    }
    let say = |channel: &'static str, sequence| {
        let body = envelope_of(channel, "p", sequence, "1");
        let rig = &rig;
        async move {
            let target = format!("/parsec/publish?channel={channel}");
            rig.ask("POST", &target, &[("x-relay-token", "stays")], body.as_bytes()).await
        }
    };
    for (channel, stream) in [("public:a.c", &mut kept), ("public:a.b", &mut other)] {
        assert_eq!(say(channel, 1).await.status(), 200);
        assert_eq!(stream.event("envelope").await.1["sequence"], 1);
    }
    // The stream that stayed open follows the new version of the token.
    tokens.write("loses bob public:x.y\nstays eve *\n");
    assert_eq!(kept.event("closing").await.1["reason"], "revoked");
}

#[tokio::test]
async fn a_bad_file_is_refused_with_its_rule() {
    for (text, words) in [
        ("secret\n", "READ [WRITE]"),
        ("secret ann\n", "READ [WRITE]"),
        ("secret ann * * *\n", "READ [WRITE]"),
        ("secret ann a..b\n", "patterns"),
        ("secret ann a*\n", "patterns"),
    ] {
        let tokens = Tokens::new(text);
        let config = ServerConfig::default().tokens_file(Some(tokens.path()));
        let error = ParsecServer::bind("127.0.0.1:0".parse().unwrap(), config).await.unwrap_err();
        let error = relay_proto::error::chain(&error).to_string();
        assert!(error.contains(words) && error.contains("line 1") && !error.contains("secret"), "{error}");
    }
}
