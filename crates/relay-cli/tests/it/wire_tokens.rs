//! Tokens and sessions, on the wire and through the command line; and a relay behind a path prefix.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::process::{Running, Server, command_at, follow_at, relay, run_command};
use super::wire::{Answer, Stream, eventually, get, get_with, request, until_head};

const ALL: &str = "token-for-everything";
const PROD: &str = "token-for-prod";
const HASHED: &str = "token-known-by-its-hash";
/// SHA-256 of [`HASHED`].
const DIGEST: &str = "sha256:a484e90b80d1e88d638f171c12483c1a490406dc66711a778985b6bab54e555c";

struct Tokens {
    dir: TempDir,
}

impl Tokens {
    fn new() -> Self {
        let tokens = Self { dir: tempfile::tempdir().unwrap() };
        tokens.write(&format!("# who may\n{ALL} admin *\n\n{PROD} team prod\n{DIGEST} other prod,staging\n"));
        tokens
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("tokens")
    }

    /// Replaces the file atomically, readable for its owner only.
    fn write(&self, text: &str) {
        replace(&self.path(), text, 0o600);
    }

    fn serve(&self, args: &[&str]) -> Server {
        let path = self.path();
        let mut all = vec!["--tokens-file", path.to_str().unwrap(), "--sim-pods", "40"];
        if !args.contains(&"--sim-rate") {
            all.extend(["--sim-rate", "0"]);
        }
        all.extend(args);
        Server::start(&all)
    }
}

fn replace(path: &Path, text: &str, mode: u32) {
    let new = path.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::set_permissions(&new, std::fs::Permissions::from_mode(mode)).unwrap();
    std::fs::rename(new, path).unwrap();
}

fn with(addr: SocketAddr, target: &str, token: &str) -> Answer {
    get_with(addr, target, &[("x-relay-token", token)])
}

fn session(addr: SocketAddr, target: &str, token: &str) -> String {
    let answer = request(addr, "POST", target, &[("x-relay-token", token)], "");
    assert_eq!(answer.status, 201, "{}", answer.text());
    answer.json()["session_id"].as_str().unwrap().into()
}

fn refusal(addr: SocketAddr, query: &str) -> Answer {
    Stream::open_with(addr, query, &[]).err().expect("refused")
}

#[test]
fn credentials_are_asked_for() {
    let tokens = Tokens::new();
    let server = tokens.serve(&[]);
    for open in ["/health", "/livez", "/readyz", "/metrics"] {
        assert_eq!(get(server.addr, open).status, 200, "{open}");
    }
    for closed in ["/pods", "/pods/prod/web", "/events", "/pods/prod/web/events", "/events/stream"] {
        let refused = get(server.addr, closed);
        refused.problem(401, "unauthenticated");
        assert!(
            refused.header("www-authenticate").is_some_and(|value| value.starts_with("Bearer")),
            "{closed}"
        );
        with(server.addr, closed, "wrong").problem(401, "unauthenticated");
    }
    for (headers, status) in [
        (vec![("x-relay-token", ALL)], 200),
        (vec![("authorization", "Bearer token-for-everything")], 200),
        (vec![("authorization", "bearer token-for-everything")], 200),
        (vec![("x-relay-token", ALL), ("authorization", "Bearer the-api-servers-own")], 200),
        (vec![("x-relay-token", "wrong"), ("authorization", "Bearer token-for-everything")], 401),
        (vec![("authorization", "Basic token-for-everything")], 401),
        (vec![("x-relay-token", HASHED)], 200),
        (vec![("x-relay-token", DIGEST)], 401),
    ] {
        assert_eq!(get_with(server.addr, "/pods", &headers).status, status, "{headers:?}");
    }
}

#[test]
fn a_limited_token_sees_its_namespaces() {
    let tokens = Tokens::new();
    let server = tokens.serve(&[]);
    let all = with(server.addr, "/pods", ALL).ok()["pods"].as_array().unwrap().clone();
    let outside = all.iter().find(|pod| pod["namespace"] != "prod").unwrap();
    let listed = with(server.addr, "/pods", PROD).ok()["pods"].as_array().unwrap().clone();
    assert_eq!(listed, all.iter().filter(|pod| pod["namespace"] == "prod").cloned().collect::<Vec<_>>());
    assert!(!listed.is_empty() && listed.len() < all.len());

    let namespace = outside["namespace"].as_str().unwrap();
    let pod = format!("/pods/{namespace}/{}", outside["name"].as_str().unwrap());
    for target in [
        format!("/pods?namespace={namespace}"),
        format!("/pods?namespace=prod&namespace={namespace}"),
        format!("/events?namespace={namespace}"),
        format!("/events/stream?namespace={namespace}"),
        pod.clone(),
        format!("{pod}/events"),
    ] {
        with(server.addr, &target, PROD).problem(403, "forbidden-namespace");
    }
    let history = with(server.addr, "/events?limit=1000", PROD).ok();
    let events = history["events"].as_array().unwrap();
    assert_eq!(events.len(), listed.len());
    assert!(
        events
            .iter()
            .all(|event| event["pod"]["namespace"] == "prod" && event.get("previous_hash").is_none())
    );

    let mut stream = Stream::open_with(server.addr, "", &[("x-relay-token", PROD)]).unwrap();
    let opened = stream.message().data;
    assert_eq!((&opened["filtered"], &opened["namespaces"]), (&json!(true), &json!(["prod"])));
    let messages = stream.until("catchup_complete");
    assert_eq!(messages.len() - 1, listed.len());
    assert!(messages.iter().filter(|m| m.event == "pod").all(|m| m.data["pod"]["namespace"] == "prod"));

    // The same on the command line, with its exit code.
    let forbidden =
        run_command(command_at(&server.url(), &["pods", "--token", PROD, "-n", namespace])).expect(4);
    assert!(
        forbidden.stderr.contains("forbidden-namespace") || forbidden.stderr.contains("403"),
        "{}",
        forbidden.stderr
    );
    let lines = server.run(&["replay", "--token", PROD, "--exit-after-phase", "Live"]).expect(0).json();
    assert_eq!(lines[0]["pods"], listed.len());
}

#[test]
fn sessions_are_tickets() {
    let tokens = Tokens::new();
    let server = tokens.serve(&[]);
    let addr = server.addr;
    let ticket = session(addr, "/auth/session?client_id=me", ALL);
    refusal(addr, &format!("?session_id={ticket}&client_id=you")).problem(401, "session-unknown");
    refusal(addr, &format!("?session_id={ticket}&label=!")).problem(400, "bad-parameter");
    // Neither request used up the ticket.
    let mut stream = Stream::open(addr, &format!("?session_id={ticket}"));
    assert_eq!(stream.message().data["client_id"], "me", "left out, it is the session's");
    refusal(addr, &format!("?session_id={ticket}")).problem(401, "session-used");
    refusal(addr, "?session_id=no-such-session").problem(401, "session-unknown");
    // If both are given, the session decides.
    let both =
        Stream::open_with(addr, "?session_id=no-such-session", &[("x-relay-token", ALL)]).err().unwrap();
    both.problem(401, "session-unknown");

    // The ticket has the namespaces of the token, and a refused request does not use it up.
    let ticket = session(addr, "/auth/session", PROD);
    refusal(addr, &format!("?session_id={ticket}&namespace=staging")).problem(403, "forbidden-namespace");
    let mut stream = Stream::open(addr, &format!("?session_id={ticket}"));
    assert_eq!(stream.message().data["namespaces"], json!(["prod"]));

    // Credentials in the body, wrong credentials, and none.
    let post = |headers: &[(&str, &str)], body: &str| request(addr, "POST", "/auth/session", headers, body);
    let kind = [("content-type", "application/json")];
    let in_body = json!({"token": ALL, "client_id": "me"}).to_string();
    let answer = post(&kind, &in_body);
    assert_eq!(answer.status, 201);
    assert_eq!(super::process::fields(&answer.json()), ["expires_at", "expires_in_seconds", "session_id"]);
    assert_eq!(post(&[("x-relay-token", ALL), ("content-type", "text/plain")], "not JSON").status, 201);
    post(&kind, r#"{"token":"wrong"}"#).problem(401, "unauthenticated");
    post(&[], "").problem(401, "unauthenticated");
    assert_eq!(post(&kind, "{not json").status, 400);
}

#[test]
fn sessions_expire() {
    let tokens = Tokens::new();
    let server = tokens.serve(&["--session-ttl", "200ms"]);
    let ticket = session(server.addr, "/auth/session", PROD);
    // Requests for a forbidden namespace do not use up the ticket; it expires by time.
    eventually("the session to expire", || {
        let refused = refusal(server.addr, &format!("?session_id={ticket}&namespace=staging"));
        (refused.status != 403).then_some(())
    });
    refusal(server.addr, &format!("?session_id={ticket}")).problem(401, "session-expired");
}

#[test]
fn sessions_work_without_tokens() {
    let server = Server::quiet(2);
    let answer = request(server.addr, "POST", "/auth/session", &[], "");
    assert_eq!(answer.status, 201);
    let ticket = answer.json()["session_id"].as_str().unwrap().to_owned();
    assert_eq!(Stream::open(server.addr, &format!("?session_id={ticket}")).message().event, "connected");
    refusal(server.addr, &format!("?session_id={ticket}")).problem(401, "session-used");
    assert_eq!(
        Stream::open(server.addr, "?session_id=").message().event,
        "connected",
        "an empty one is none"
    );
}

#[test]
fn a_tokens_file_that_others_may_read_is_refused() {
    let tokens = Tokens::new();
    let path = tokens.path();
    for (text, mode) in [
        ("a-token admin *\n", 0o604),
        ("a-token-without-more\n", 0o600),
        ("a-token admin Not_A_Namespace\n", 0o600),
    ] {
        replace(&path, text, mode);
        let args = ["serve", "--listen", "127.0.0.1:0", "--tokens-file", path.to_str().unwrap()];
        let done = run_command(relay(&args));
        assert!(matches!(done.code, Some(1 | 2)), "{text}: {done:?}");
        assert!(done.stderr.contains("tokens"), "{text}: {}", done.stderr);
        assert!(!done.stdout.contains("listening") && !done.stderr.contains("a-token"), "{text}: {done:?}");
    }
}

/// The server's file and the client's file are both read again: a token is replaced while a replay runs.
#[test]
fn a_token_is_replaced_in_flight() {
    let tokens = Tokens::new();
    let server = tokens.serve(&["--sim-rate", "50"]);
    let file = tokens.dir.path().join("mine");
    replace(&file, &format!("{ALL}\n"), 0o600);
    let client = follow_at(&server.url(), &["replay", "--token-file", file.to_str().unwrap()]);
    client.until_phase("Live");
    let mut held = Stream::open_with(server.addr, "?start=latest", &[("x-relay-token", ALL)]).unwrap();
    held.until("catchup_complete");

    tokens.write(&format!("{ALL} admin *\nits-successor admin *\n"));
    eventually("the new token", || (with(server.addr, "/pods", "its-successor").status == 200).then_some(()));
    replace(&file, "its-successor\n", 0o600);
    tokens.write("its-successor admin *\n");

    let closing = held.until("closing").pop().unwrap();
    assert_eq!(closing.data["reason"], "revoked");
    let lines = client.until_phase("ReconnectReseed");
    let again = client.until_phase("Live");
    assert!(lines.iter().chain(&again).all(|line| line["gap"].is_null()));
    with(server.addr, "/pods", ALL).problem(401, "unauthenticated");
    for secret in [ALL, "its-successor"] {
        assert!(!client.stderr().contains(secret) && !server.stderr().contains(secret));
    }
}

#[test]
fn a_wrong_token_ends_with_4_and_is_not_told() {
    let tokens = Tokens::new();
    let server = tokens.serve(&[]);
    for command in [
        vec!["pods"],
        vec!["pod", "prod/web"],
        vec!["events"],
        vec!["session"],
        vec!["stream"],
        vec!["state"],
        vec!["replay"],
    ] {
        for token in [Some("mistyped-token"), None] {
            let mut args = command.clone();
            if let Some(token) = token {
                args.extend(["--token", token]);
            }
            let done = run_command(command_at(&server.url(), &args));
            assert_eq!(done.code, Some(4), "{args:?}: {done:?}");
            assert_eq!(done.stdout, "", "{args:?}");
            assert!(!done.stderr.contains("mistyped-token"), "{args:?}: {}", done.stderr);
        }
    }
    let mut command = relay(&["session"]);
    command.env("RELAY_URL", server.url()).env("RELAY_TOKEN", ALL);
    let done = run_command(command).expect(0);
    assert!(!done.stdout.contains(ALL) && done.stderr.is_empty());
    let help = run_command({
        let mut command = relay(&["pods", "--help"]);
        command.env("RELAY_TOKEN", ALL);
        command
    });
    assert!(!help.stdout.contains(ALL), "nor by the help");
    let missing = run_command(command_at(&server.url(), &["pods", "--token-file", "/no/such/file"]));
    assert!(missing.code != Some(0) && missing.stderr.contains("/no/such/file"), "{missing:?}");
}

/// A proxy that serves a relay under a prefix, as the Kubernetes API server does for services.
struct Prefixed {
    addr: SocketAddr,
}

impl Prefixed {
    const PREFIX: &str = "/api/v1/namespaces/relay-system/services/http:pod-event-relay:8080/proxy";

    fn start(upstream: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        // The thread ends with the process; it holds nothing except its port.
        std::thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                std::thread::spawn(move || Self::pass(socket, upstream));
            }
        });
        Self { addr }
    }

    fn pass(mut client: TcpStream, upstream: SocketAddr) -> Option<()> {
        let mut text = Vec::new();
        while !text.windows(4).any(|four| four == b"\r\n\r\n") {
            let mut byte = [0; 1];
            client.read_exact(&mut byte).ok()?;
            text.push(byte[0]);
        }
        let text = String::from_utf8(text).ok()?;
        let (line, headers) = text.split_once("\r\n")?;
        let mut words = line.split(' ');
        let (method, target) = (words.next()?, words.next()?);
        let Some(target) =
            target.strip_prefix(Self::PREFIX).filter(|rest| rest.starts_with('/') && !rest.starts_with("//"))
        else {
            return client
                .write_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
                .ok();
        };
        let kept = headers.split("\r\n").filter(|header| {
            let name = header.split(':').next().unwrap_or("").to_ascii_lowercase();
            !matches!(name.as_str(), "connection" | "")
        });
        let mut forward = format!("{method} {target} HTTP/1.1\r\nconnection: close\r\n");
        for header in kept {
            forward.push_str(header);
            forward.push_str("\r\n");
        }
        let mut server = TcpStream::connect(upstream).ok()?;
        server.write_all((forward + "\r\n").as_bytes()).ok()?;
        let (mut body, mut onward) = (client.try_clone().ok()?, server.try_clone().ok()?);
        std::thread::spawn(move || {
            let _ = std::io::copy(&mut body, &mut onward);
            let _ = onward.shutdown(std::net::Shutdown::Write);
        });
        let _ = std::io::copy(&mut server, &mut client);
        client.shutdown(std::net::Shutdown::Both).ok()
    }
}

#[test]
fn a_base_url_with_a_path_is_kept() {
    let tokens = Tokens::new();
    let server = tokens.serve(&["--sim-rate", "50"]);
    until_head(server.addr, 60);
    let proxy = Prefixed::start(server.addr);
    for slash in ["", "/"] {
        let url = format!("http://{}{}{slash}", proxy.addr, Prefixed::PREFIX);
        let at = |args: &[&str]| {
            let mut args = args.to_vec();
            args.extend(["--token", ALL]);
            command_at(&url, &args)
        };
        let pods = run_command(at(&["pods"])).expect(0).json();
        let (namespace, name) = super::process::key(&pods[0]);
        run_command(at(&["session"])).expect(0);
        run_command(at(&["health"])).expect(0);
        assert_eq!(run_command(at(&["events", "--max", "5"])).expect(0).json().len(), 5);
        let pod = run_command(at(&["pod", &format!("{namespace}/{name}")]));
        assert!(matches!(pod.code, Some(0 | 3)), "{pod:?}");
        let client = Running::start(at(&["replay", "-l", "app"]));
        let lines = client.until_phase("Live");
        assert!(lines.iter().all(|line| line["gap"].is_null() && line["cause"] == Value::Null));
    }
}
