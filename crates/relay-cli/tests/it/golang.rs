//! `relay sse` with event streams from a server that is written in Go. `cargo xtask interop sse` builds the server and
//! runs these tests.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use super::process::{Running, relay};

/// The server's process. It ends with the test.
struct Server {
    addr: String,
    child: Child,
}

impl Server {
    /// Starts a server whose log has this many events.
    fn listen(addr: &str, events: usize) -> Self {
        let binary = std::env::var_os("SSE_SERVER").expect("run by `cargo xtask interop sse`");
        let mut command = Command::new(binary);
        command.args([addr, &events.to_string()]).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut first = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut first).unwrap();
        Self { addr: first.trim().to_owned(), child }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Name and data of event `n`. The server uses the same rule.
fn event(n: usize) -> (&'static str, String) {
    let data = match n % 5 {
        0 => format!("first of {n}\n\nthird: after an empty one\n"),
        1 => String::new(),
        2 => format!(" a space before {n} … and more than ASCII ✓"),
        3 => format!("{n} ").repeat(200),
        _ => format!(r#"{{"n":{n}}}"#),
    };
    (["message", "put", "patch"][n % 3], data)
}

#[test]
#[ignore = "run by `cargo xtask interop sse`"]
fn relay_sse_prints_what_was_sent_and_resumes_after_a_kill() {
    let server = Server::listen("127.0.0.1:0", 20);
    let addr = server.addr.clone();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("sse.cursor");
    let url = format!("http://{addr}/events");
    let follow = |more: &[&str]| {
        let file = file.to_str().unwrap();
        let args = ["sse", &url, "-o", "json", "--reconnect-base", "5ms", "--cursor-file", file];
        Running::start(relay(&[&args, more].concat()))
    };
    let check = |line: &Value, n: usize| {
        let (name, data) = event(n);
        assert_eq!((&line["event"], &line["id"]), (&name.into(), &n.to_string().into()), "{line}");
        assert_eq!(line["data"], data, "event {n}");
    };
    let running = follow(&["--last-event-id", "5"]);
    (6..=20).for_each(|n| check(&running.json(), n));
    drop(server);
    let _server = Server::listen(&addr, 25);
    (21..=25).for_each(|n| check(&running.json(), n));
    running.signal("TERM");
    running.wait().expect(143);
    // The cursor file has the position, and other flags choose what is printed.
    drop(_server);
    let _server = Server::listen(&addr, 35);
    let done = follow(&["--max", "3", "--event", "put"]).wait().expect(0);
    let expected = (26..=35).filter(|n| event(*n).0 == "put").take(3);
    let lines = done.json();
    assert_eq!(lines.len(), 3, "{done:?}");
    expected.zip(&lines).for_each(|(n, line)| check(line, n));
}
