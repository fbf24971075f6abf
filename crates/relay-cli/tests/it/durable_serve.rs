//! `relay durable serve --dir`: killed while it is written, and how much memory a long stream takes.

use std::io::Write as _;
use std::thread::sleep;
use std::time::Duration;

use super::process::{Running, peak_kib, relay, run};

/// A `relay durable serve` that listens.
struct Server {
    running: Running,
    url: String,
}

impl Server {
    fn start(listen: &str, dir: &str) -> Self {
        let running = Running::start(relay(&["durable", "serve", "--listen", listen, "--dir", dir]));
        let said = running.until_stderr(|text| text.contains("listening on http://") && text.ends_with('\n'));
        let url = said.split("listening on ").nth(1).unwrap().lines().next().unwrap().to_owned();
        Self { running, url }
    }

    fn end(self) {
        self.running.signal("TERM");
        self.running.wait().expect(0);
    }
}

/// `RELAY_KILLS` sets the number of kills (default 6).
#[test]
fn a_server_that_is_killed_while_it_is_written_has_every_message_once() {
    let kills: u64 = std::env::var("RELAY_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(6);
    let root = tempfile::tempdir().unwrap();
    let path = |name: &str| root.path().join(name).to_str().unwrap().to_owned();
    let dir = path("data");
    let mut server = Server::start("127.0.0.1:0", &dir);
    let url = server.url.clone();
    let listen = url.trim_start_matches("http://").to_owned();
    let stream = format!("{url}/lines");
    for in_flight in ["1", "5"] {
        run(&["durable", "create", &format!("{stream}-{in_flight}"), "--content-type", "text/plain"])
            .expect(0);
    }
    // The producers get lines for as long as the test runs.
    let producers: Vec<_> = ["1", "5"]
        .into_iter()
        .map(|in_flight| {
            let lines = path(in_flight);
            assert!(std::process::Command::new("mkfifo").arg(&lines).status().unwrap().success());
            let target = format!("{stream}-{in_flight}");
            let args = ["durable", "produce", &target, "--file", &lines, "--in-flight", in_flight];
            let more =
                ["--max-batch-items", "20", "--retry-base", "10ms", "--retry-cap", "50ms", "-o", "json"];
            let running = Running::start(relay(&[&args[..], &more].concat()));
            (target, running, std::fs::File::create(&lines).unwrap())
        })
        .collect();
    let done = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let writers: Vec<_> = producers
        .into_iter()
        .map(|(target, running, mut pipe)| {
            let done = done.clone();
            std::thread::spawn(move || {
                let mut written = String::new();
                for line in 0.. {
                    let text = format!("line {line}\n");
                    pipe.write_all(text.as_bytes()).unwrap();
                    written += &text;
                    if line % 10 == 0 {
                        sleep(Duration::from_millis(2));
                        if done.load(std::sync::atomic::Ordering::Relaxed) {
                            break;
                        }
                    }
                }
                drop(pipe);
                (target, running, written)
            })
        })
        .collect();
    for kill in 0..kills {
        // The pause varies, so that the kills have no rhythm.
        sleep(Duration::from_millis(60 + kill * 7919 % 240));
        server.running.signal("KILL");
        server.running.wait();
        server = Server::start(&listen, &dir);
    }
    done.store(true, std::sync::atomic::Ordering::Relaxed);
    for writer in writers {
        let (target, running, written) = writer.join().unwrap();
        let end = running.wait().expect(0);
        let last = end.json().pop().unwrap();
        assert_eq!((&last["done"], &last["messages"]), (&true.into(), &written.lines().count().into()));
        let read = run(&["durable", "read", &target, "--batch-bytes", "64MiB"]).expect(0);
        // `assert!` and not `assert_eq!`, so that a failure does not print all of it.
        assert!(read.stdout == written, "{target}: {} of {} bytes", read.stdout.len(), written.len());
        println!("{target}: {} lines over {kills} kills", written.lines().count());
    }
    server.end();
}

#[cfg(target_os = "linux")]
#[test]
fn a_stream_of_64_mib_is_read_with_less_than_that_in_memory() {
    let root = tempfile::tempdir().unwrap();
    let path = |name: &str| root.path().join(name).to_str().unwrap().to_owned();
    let server = Server::start("127.0.0.1:0", &path("data"));
    let message = format!("{{\"n\":1234567,\"text\":\"{}\"}}", "x".repeat(70));
    let batch: Vec<&str> = (0..10_000).map(|_| message.as_str()).collect();
    let (array, bytes) = (format!("[{}]", batch.join(",")), vec![b'x'; 1 << 20]);
    std::fs::write(path("array"), array).unwrap();
    std::fs::write(path("bytes"), bytes).unwrap();
    for (name, kind, count) in [("array", "application/json", 72), ("bytes", "application/octet-stream", 64)]
    {
        let stream = format!("{}/{name}", server.url);
        run(&["durable", "create", &stream, "--content-type", kind]).expect(0);
        for _ in 0..count {
            run(&["durable", "append", &stream, "--raw", "--content-type", kind, "--file", &path(name)])
                .expect(0);
        }
        run(&["durable", "read", &stream, "--out", &path("out")]).expect(0);
        let read = std::fs::metadata(path("out")).unwrap().len();
        assert!(read >= 64 << 20, "{name}: {read} bytes");
        std::fs::remove_file(path("out")).unwrap();
    }
    let peak = peak_kib(server.running.pid());
    assert!(peak <= 64 << 10, "{peak} KiB at most");
    server.end();
}
