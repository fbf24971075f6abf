//! The log is best effort: its reader may be gone, stuck, or have a full disk, and nothing else is affected.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use super::process::{Running, relay};
use super::wire::get;

/// A server that is killed when the test ends.
struct Server(Child, SocketAddr);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn serve(stderr: Stdio, log: &str) -> Server {
    let mut command =
        relay(&["serve", "--listen", "127.0.0.1:0", "--sim-rate", "20", "--heartbeat", "100ms"]);
    command.env("RELAY_LOG", log).stdout(Stdio::piped()).stderr(stderr).stdin(Stdio::null());
    let mut child = command.spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let addr = line.trim().rsplit('/').next().unwrap().parse().unwrap_or_else(|_| panic!("{line:?}"));
    Server(child, addr)
}

/// The server answers new streams and plain requests, and continues to run.
fn expect_well(mut server: Server, what: &str) {
    for _ in 0..3 {
        let mut command = relay(&["stream", "--max", "3", "-o", "json", "--url"]);
        let command = command.arg(format!("http://{}", server.1));
        let done = command.stderr(Stdio::piped()).output().unwrap();
        assert_eq!(done.status.code(), Some(0), "{what}: {}", String::from_utf8_lossy(&done.stderr));
        assert_eq!(done.stdout.iter().filter(|byte| **byte == b'\n').count(), 3, "{what}");
        assert_eq!(get(server.1, "/health").status, 200, "{what}");
    }
    assert!(server.0.try_wait().unwrap().is_none(), "{what}: it has ended");
}

fn full() -> Stdio {
    File::options().write(true).open("/dev/full").unwrap().into()
}

#[test]
fn a_server_whose_log_cannot_be_written_goes_on() {
    expect_well(serve(full(), "trace"), "a full disk");
    let (reader, writer) = std::io::pipe().unwrap();
    let server = serve(writer.into(), "trace");
    drop(reader);
    expect_well(server, "nobody reads the log");
}

/// A pipe holds 64 KiB; after that, a writer waits for the reader.
#[test]
fn a_server_whose_log_is_not_read_goes_on() {
    let (reader, mut writer) = std::io::pipe().unwrap();
    writer.write_all(&[b'x'; 64 << 10]).unwrap();
    expect_well(serve(writer.into(), "trace"), "the reader of the log is stuck");
    drop(reader);
}

/// Who can reach a server without access control can do everything, and its operator is told.
#[test]
fn a_server_that_others_can_reach_says_that_it_is_open() {
    let folder = tempfile::tempdir().unwrap();
    let objects = folder.path().join("objects.yaml");
    let channel = "apiVersion: channels.knative.dev/v1alpha1\nkind: Channel\nmetadata: {name: c}\n";
    std::fs::write(&objects, channel).unwrap();
    let bus = ["bus", "serve", "--file", objects.to_str().unwrap()];
    for (command, can) in [
        (&["serve"][..], "without --tokens-file everybody who can connect can read 0.0.0.0:"),
        (
            &["parsec", "serve"],
            "without --tokens-file everybody who can connect can read and publish at 0.0.0.0:",
        ),
        (
            &["durable", "serve"],
            "there is no access control: everybody who can connect can read, write and delete at 0.0.0.0:",
        ),
        (&bus, "there is no access control: everybody who can connect can send to every channel at 0.0.0.0:"),
    ] {
        let open = Running::start(relay(&[command, &["--listen", "0.0.0.0:0"]].concat()));
        let said = open.until_stderr(|said| said.contains(can));
        assert!(said.contains("WARN"), "{said}");
        // It is said before the server says that it listens.
        let own = Running::start(relay(&[command, &["--listen", "127.0.0.1:0"]].concat()));
        match command[0] {
            "durable" => drop(own.until_stderr(|said| said.contains("listening on"))),
            _ => drop(own.line()),
        }
        assert!(!own.stderr().contains("who can connect"), "{command:?}: {}", own.stderr());
    }
}

#[test]
fn a_server_whose_output_is_not_read_goes_on() {
    let mut command = relay(&["serve", "--listen", "127.0.0.1:0", "--sim-rate", "0"]);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut child = command.stdout(writer).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    let mut log = BufReader::new(child.stderr.take().unwrap());
    while !line.contains("cannot be told") {
        line.clear();
        assert!(log.read_line(&mut line).unwrap() > 0, "it has ended");
    }
    assert!(child.try_wait().unwrap().is_none());
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn clients_that_cannot_say_what_is_wrong_end_with_its_code() {
    let code = |args: &[&str], stderr: Stdio| {
        let mut command: Command = relay(args);
        command.stdout(Stdio::null()).stdin(Stdio::null()).stderr(stderr).status().unwrap().code()
    };
    let gone = || {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        Stdio::from(writer)
    };
    for stderr in [full, gone] {
        assert_eq!(code(&["pods", "--url", "http://127.0.0.1:1"], stderr()), Some(1));
        assert_eq!(code(&["pods", "--url", "http://127.0.0.1:1", "-l", "-"], stderr()), Some(2));
        assert_eq!(code(&["pods", "--odd"], stderr()), Some(2));
        let wait = ["wait", "--url", "http://127.0.0.1:1", "--for", "ready=1", "--timeout", "1s"];
        assert_eq!(code(&wait, stderr()), Some(5));
    }
}
