//! `relay durable` killed (SIGKILL) again and again: its producer, its reader and its server.

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use relay_testkit::ReservedPort;

use super::process::{DEADLINE, Running, relay, run};

/// The number of kills of each kind in the short test, and in the long one.
const FEW: u32 = 3;
const MANY: u32 = 100;
/// The number of messages of a round. It is large enough that a round takes longer than several kills.
const MESSAGES: u32 = 30_000;

/// A `relay durable serve` with a directory, which is killed and started again at the same address.
struct Server {
    running: Option<Running>,
    port: ReservedPort,
    dir: String,
}

impl Server {
    fn start(dir: &Path) -> Self {
        let dir = dir.to_str().unwrap().to_owned();
        let port = ReservedPort::reserve();
        let running = Self::listen(&port, &dir);
        Self { running: Some(running), port, dir }
    }

    fn listen(port: &ReservedPort, dir: &str) -> Running {
        let address = port.addr().to_string();
        let running = Running::start(relay(&["durable", "serve", "--listen", &address, "--dir", dir]));
        running.until_stderr(|text| text.contains('\n'));
        running
    }

    fn url(&self) -> String {
        self.port.url()
    }

    fn kill(&mut self) {
        // Dropping the process kills it and waits for its end. Then its port is free.
        drop(self.running.take());
        self.running = Some(Self::listen(&self.port, &self.dir));
    }
}

fn lines() -> String {
    let mut lines = String::new();
    for number in 0..MESSAGES {
        writeln!(lines, "{{\"number\":{number}}}").unwrap();
    }
    lines
}

fn spawn(args: &[&str]) -> Child {
    let mut command = relay(args);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().unwrap()
}

/// Runs a command until it succeeds, and kills it after longer and longer times until then. Returns the number of
/// kills.
fn kill_until_done(args: &[&str], mut patience: Duration) -> u32 {
    let mut kills = 0;
    loop {
        let mut child = spawn(args);
        let until = Instant::now() + patience;
        while Instant::now() < until {
            if let Some(end) = child.try_wait().unwrap() {
                assert!(end.success(), "{args:?}: {end}");
                return kills;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        kills += 1;
        patience += Duration::from_millis(17);
    }
}

fn create(url: &str, stream: &str) {
    run(&["durable", "create", stream, "--url", url, "--content-type", "application/json"]).expect(0);
}

fn assert_holds(url: &str, stream: &str, lines: &str) {
    let read = run(&["durable", "read", stream, "--url", url]).expect(0).stdout;
    assert!(read == lines, "{} bytes for {}", read.len(), lines.len());
}

#[allow(clippy::print_stdout, reason = "how many kills there were is what a long run is for")]
fn killed(wanted: u32) {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: String| dir.path().join(name).to_str().unwrap().to_owned();
    let (input, lines) = (path("lines".into()), lines());
    std::fs::write(&input, &lines).unwrap();
    let mut server = Server::start(&dir.path().join("data"));
    let url = server.url();
    let (mut producer, mut reader, mut served, mut round) = (0, 0, 0, 0);
    while producer < wanted || reader < wanted || served < wanted {
        let stream = format!("/round-{round}");
        create(&url, &stream);
        let state = path(format!("state-{round}"));
        let in_flight = if round % 2 == 0 { "1" } else { "5" };
        let produce = ["durable", "produce", &stream, "--url", &url, "--file", &input, "--state", &state];
        let produce = [&produce[..], &["--max-batch-items", "50", "--in-flight", in_flight]].concat();
        if producer < wanted {
            producer += kill_until_done(&produce, Duration::from_millis(90));
        } else if served < wanted {
            let mut child = spawn(&[&produce[..], &["--retry-cap", "50ms"]].concat());
            let began = Instant::now();
            while child.try_wait().unwrap().is_none() {
                std::thread::sleep(Duration::from_millis(120));
                if served < wanted {
                    server.kill();
                    served += 1;
                }
                assert!(began.elapsed() < DEADLINE * 20);
            }
            assert!(child.wait().unwrap().success());
        } else {
            run(&produce).expect(0);
        }
        assert_holds(&url, &stream, &lines);
        run(&["durable", "close", &stream, "--url", &url]).expect(0);
        let (out, checkpoint) = (path(format!("out-{round}")), path(format!("checkpoint-{round}")));
        let tail = ["durable", "tail", &stream, "--url", &url, "--offset", "start", "--batch-bytes", "2KiB"];
        let tail = [&tail[..], &["--out", &out, "--checkpoint", &checkpoint]].concat();
        reader += kill_until_done(&tail, Duration::from_millis(40));
        assert!(std::fs::read_to_string(&out).unwrap() == lines, "round {round}");
        round += 1;
    }
    println!("{producer} kills of producers, {reader} of readers, {served} of servers, in {round} rounds");
}

#[test]
fn a_few_kills_of_each_lose_and_double_nothing() {
    killed(FEW);
}

/// Run it with `cargo test -p relay-cli --test it -- --ignored many_kills --nocapture`; it takes minutes.
#[test]
#[ignore = "takes minutes"]
fn many_kills_of_each_lose_and_double_nothing() {
    killed(MANY);
}
