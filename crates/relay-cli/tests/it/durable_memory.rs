//! How much memory `relay durable read` and `produce` take: no more for a long answer, or for a server that is away.

use std::io::Write as _;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::durable::{Asked, CLOSED, Said, Server, durable, next, say};
use super::process::{DEADLINE, Running, peak_kib, relay};

/// The highest resident memory, in KiB.
const MOST: u64 = 64 << 10;
/// The number of bytes of a catch-up.
const LONG: usize = 64 << 20;

/// A server that gives one answer of this type with this body, and then waits before it answers that the stream has
/// ended. The receiver gets a message when that end is requested; the sender lets the server answer.
fn serving(kind: &'static str, body: String) -> (Server, Receiver<()>, std::sync::mpsc::Sender<()>) {
    let (asked, end_asked) = channel();
    let (go, going) = channel();
    let going = Mutex::new(going);
    let mut body = Some(body);
    let server = Server::start(move |_, request: &Asked| {
        if request.target.ends_with("offset=-1") {
            let body = body.take().expect("one request for it");
            return say(200, &[("Content-Type", kind), next("9")], &body);
        }
        let _ = asked.send(());
        let _ = going.lock().unwrap().recv_timeout(DEADLINE);
        let nothing = if kind.contains("json") { "[]" } else { "" };
        say(200, &[("Content-Type", kind), next("9"), CLOSED], nothing)
    });
    (server, end_asked, go)
}

#[test]
fn one_answer_of_64_mib_is_read_with_less_than_that_in_memory() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let message = format!("{{\"n\":1234567,\"text\":\"{}\"}}", "x".repeat(40));
    let messages = vec![message.as_str(); LONG / (message.len() + 1)].join(",");
    let bytes = "0123456789abcdef".repeat(LONG / 16);
    for (kind, body) in [("application/json", format!("[{messages}]")), ("application/octet-stream", bytes)] {
        let length = body.len();
        let (server, end_asked, go) = serving(kind, body);
        let read = Running::start(relay(&durable("read", &server, &["--out", out.to_str().unwrap()])));
        // When the command makes its next request, it has written everything.
        end_asked.recv_timeout(DEADLINE * 2).unwrap();
        let peak = peak_kib(read.pid());
        go.send(()).unwrap();
        read.wait().expect(0);
        let written = std::fs::metadata(&out).unwrap().len();
        assert!(written.abs_diff(length as u64) <= 2, "{written} of {length} bytes");
        println!("{kind}: {peak} KiB");
        assert!(peak <= MOST, "{kind}: {peak} KiB");
        std::fs::remove_file(&out).unwrap();
    }
}

#[test]
fn a_producer_whose_server_is_away_takes_no_more_than_its_buffer() {
    for line in ["x\n".to_owned(), "x".repeat(100) + "\n", "x".repeat(3 << 20) + "\n"] {
        let (away, bytes) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicU64::new(0)));
        let (is_away, taken) = (away.clone(), bytes.clone());
        let server = Server::start(move |_, request: &Asked| {
            if is_away.load(Ordering::Relaxed) {
                return say(503, &[], "");
            }
            taken.fetch_add(request.body.len() as u64, Ordering::Relaxed);
            answer_with(request.body.len())
        });
        let flags = ["--content-type", "text/plain", "--retry-base", "20ms", "--retry-cap", "60ms"];
        let mut command = relay(&durable("produce", &server, &flags));
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let mut input = child.stdin.take().unwrap();
        let (fed, enough) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (feeding, until) = (fed.clone(), enough.clone());
        let feeder = std::thread::spawn(move || {
            let lines = line.repeat((1 << 14) / line.len() + 1);
            while !until.load(Ordering::Relaxed) {
                input.write_all(lines.as_bytes()).unwrap();
                feeding.fetch_add(lines.len() as u64, Ordering::Relaxed);
            }
        });
        // The buffer is full if no more input is accepted while many requests fail.
        let began = Instant::now();
        let (mut before, mut asked) = (u64::MAX, 0);
        while server.count("POST") < asked + 20 {
            let now = fed.load(Ordering::Relaxed);
            if now != before {
                (before, asked) = (now, server.count("POST"));
            }
            assert!(began.elapsed() < DEADLINE * 3, "it takes ever more: {now} bytes");
            std::thread::sleep(Duration::from_millis(5));
        }
        let peak = peak_kib(child.id());
        // The server is back: everything that was accepted is delivered.
        enough.store(true, Ordering::Relaxed);
        away.store(false, Ordering::Relaxed);
        feeder.join().unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(0));
        assert_eq!(bytes.load(Ordering::Relaxed), fed.load(Ordering::Relaxed));
        println!("{peak} KiB with {before} bytes in it");
        assert!(peak <= MOST, "{peak} KiB with {before} bytes in it");
    }
}

fn answer_with(length: usize) -> Said {
    say(200, &[next(&length.to_string())], "")
}
