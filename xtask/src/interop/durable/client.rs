//! `relay durable` with the authors' server, with its faults and over a link that is cut.

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::cutter::Cutter;
use super::peer::Peer;
use super::{Run, World};
use crate::workspace;

/// The faults of the server. Each of them affects one attempt.
fn faults() -> [(&'static str, Value); 4] {
    [
        ("503", json!({"status": 503})),
        ("500", json!({"status": 500})),
        ("429", json!({"status": 429})),
        ("a dropped connection", json!({"dropConnection": true})),
    ]
}

/// Runs every scenario against one server.
pub(super) fn steps(run: &mut Run, world: &World, peer: &Peer, store: &str) {
    let place = Place { world, url: &peer.url, store };
    for in_flight in ["1", "5"] {
        for (name, fault) in faults() {
            run.step(&format!("client, {store}: a producer meets {name}, {in_flight} in flight"), || {
                place.produced_through(in_flight, |stream, _| place.fault(stream, &fault))
            });
        }
        run.step(&format!("client, {store}: a producer loses an answer, {in_flight} in flight"), || {
            place.produced_through(in_flight, |_, cutter| {
                cutter.cut_after(0);
                Ok(())
            })
        });
        run.step(
            &format!("client, {store}: a producer is cut again and again, {in_flight} in flight"),
            || place.produced_while_cut(in_flight),
        );
    }
    run.step(&format!("client, {store}: an append whose answer is lost is there once, and unknown"), || {
        place.append_unknown()
    });
    for (kind, live) in
        [("application/json", "sse"), ("application/json", "long-poll"), ("text/plain", "auto")]
    {
        run.step(&format!("client, {store}: a tail of {kind} by {live} is cut"), || place.tailed(kind, live));
    }
    for kind in ["application/json", "text/plain"] {
        run.step(&format!("client, {store}: a read of {kind} is cut in its body"), || place.read_cut(kind));
    }
    run.step(&format!("client, {store}: a closed stream costs no further request"), || place.closed());
    run.step(&format!("client, {store}: a worker is woken by a subscription"), || place.woken());
    run.step(&format!("client, {store}: kill -9 of a producer and of a reader"), || place.killed());
}

struct Place<'p> {
    world: &'p World,
    url: &'p str,
    store: &'p str,
}

impl Place<'_> {
    fn relay(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.world.relay);
        command.arg("durable").args(args);
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("RELAY_"))
        {
            command.env_remove(name);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn run(&self, args: &[&str], input: &str) -> Result<Output> {
        let mut child = self.relay(args).stdin(Stdio::piped()).spawn()?;
        let mut stdin = child.stdin.take().context("piped above")?;
        let input = input.to_owned();
        let feeding = thread::spawn(move || stdin.write_all(input.as_bytes()));
        let output = child.wait_with_output()?;
        let _ = feeding.join();
        Ok(output)
    }

    fn done(&self, args: &[&str], input: &str) -> Result<String> {
        let output = self.run(args, input)?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{} ended with {}: {errors}", args.join(" "), output.status);
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Creates a new stream, and returns its path.
    fn create(&self, name: &str, kind: &str) -> Result<String> {
        static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let count = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path = format!("/{name}-{count}");
        self.done(&["create", &path, "--url", self.url, "--content-type", kind], "")?;
        Ok(path)
    }

    fn fault(&self, stream: &str, fault: &Value) -> Result<()> {
        let mut order = fault.clone();
        order["path"] = json!(stream);
        order["count"] = json!(1);
        order["method"] = json!("POST");
        let request = ureq::post(format!("{}/_test/inject-error", self.url));
        let answer = request.header("content-type", "application/json").send(order.to_string())?;
        ensure!(answer.status().is_success(), "the hook answers {}", answer.status());
        Ok(())
    }

    fn read(&self, stream: &str) -> Result<String> {
        self.done(&["read", stream, "--url", self.url], "")
    }

    /// Sends twelve messages, one per batch, with one fault. All of them must be there, once and in order.
    fn produced_through(&self, in_flight: &str, spoil: impl Fn(&str, &Cutter) -> Result<()>) -> Result<()> {
        let stream = self.create("probe", "application/json")?;
        let cutter = Cutter::new(self.url)?;
        spoil(&stream, &cutter)?;
        let flags = ["--url", &cutter.url(), "--max-batch-items", "1", "--in-flight", in_flight];
        // The type is given, so the first answer is the one to the first batch.
        let known = ["--content-type", "application/json"];
        let input = numbers(0..12);
        self.done(&[&["produce", &stream], &flags[..], &known].concat(), &input)?;
        ensure!(cutter.orders() == 0, "nothing was lost on the way");
        let read = self.read(&stream)?;
        ensure!(read == input, "the stream holds {read:?}");
        Ok(())
    }

    fn produced_while_cut(&self, in_flight: &str) -> Result<()> {
        let stream = self.create("cut", "application/json")?;
        let cutter = Cutter::new(self.url)?;
        let input = numbers(0..20_000);
        let url = cutter.url();
        let args = [
            "produce",
            &stream,
            "--url",
            &url,
            "--max-batch-items",
            "50",
            "--in-flight",
            in_flight,
            "--retry-cap",
            "100ms",
        ];
        thread::scope(|scope| {
            let producing = scope.spawn(|| self.done(&args, &input));
            while !producing.is_finished() {
                thread::sleep(Duration::from_millis(40));
                cutter.cut();
            }
            producing.join().unwrap_or_else(|_| anyhow::bail!("the producer's thread panicked"))
        })?;
        ensure!(cutter.connections() > 3, "it was never cut");
        ensure!(self.read(&stream)? == input, "the stream does not hold what was sent");
        Ok(())
    }

    fn append_unknown(&self) -> Result<()> {
        let stream = self.create("unknown", "text/plain")?;
        let cutter = Cutter::new(self.url)?;
        cutter.cut_after(0);
        let flags =
            ["append", &stream, "--url", &cutter.url(), "--content-type", "text/plain", "--data", "x"];
        let output = self.run(&flags, "")?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.code() == Some(7) && errors.contains("outcome unknown"), "{errors}");
        ensure!(self.read(&stream)? == "x", "it is not there once");
        Ok(())
    }

    /// A tail that is cut while a producer writes, until the end of the stream.
    fn tailed(&self, kind: &str, live: &str) -> Result<()> {
        let stream = self.create("tail", kind)?;
        let cutter = Cutter::new(self.url)?;
        let url = cutter.url();
        let input = numbers(0..3000);
        let args =
            ["tail", &stream, "--url", &url, "--offset", "start", "--live", live, "--retry-cap", "50ms"];
        let read = thread::scope(|scope| {
            let tailing = scope.spawn(|| self.done(&args, ""));
            for part in 0..10 {
                let lines = numbers(part * 300..(part + 1) * 300);
                let last: &[&str] = if part == 9 { &["--close"] } else { &[] };
                let produce = ["produce", &stream, "--url", self.url, "--max-batch-items", "25"];
                self.done(&[&produce[..], last].concat(), &lines)?;
                // The cuts come in the middle of an event or a body, and between two of them.
                cutter.cut_after(97 + 211 * usize::try_from(part)?);
                if part % 3 == 2 {
                    cutter.cut();
                }
            }
            tailing.join().unwrap_or_else(|_| anyhow::bail!("the reader's thread panicked"))
        })?;
        ensure!(read == input, "{} bytes were read of {}", read.len(), input.len());
        Ok(())
    }

    fn read_cut(&self, kind: &str) -> Result<()> {
        let stream = self.create("body", kind)?;
        let input = numbers(0..50_000);
        self.done(&["produce", &stream, "--url", self.url], &input)?;
        let cutter = Cutter::new(self.url)?;
        for bytes in [10, 600, 70_001, 200_003, 5_000] {
            cutter.cut_after(bytes);
        }
        let read = self.done(&["read", &stream, "--url", &cutter.url(), "--batch-bytes", "10KiB"], "")?;
        ensure!(cutter.orders() == 0, "it was not cut");
        ensure!(read == input, "{} bytes were read of {}", read.len(), input.len());
        Ok(())
    }

    fn closed(&self) -> Result<()> {
        let stream = self.create("closed", "application/json")?;
        self.done(&["produce", &stream, "--url", self.url, "--close"], "1\n")?;
        for live in ["auto", "sse", "long-poll"] {
            let cutter = Cutter::new(self.url)?;
            let began = Instant::now();
            let args = ["tail", &stream, "--url", &cutter.url(), "--offset", "start", "--live", live];
            ensure!(self.done(&args, "")? == "1\n", "{live}: something else was read");
            ensure!(
                cutter.connections() <= 2 && began.elapsed() < Duration::from_secs(15),
                "{live}: it went on"
            );
        }
        Ok(())
    }

    /// The example of a worker processes the work of two streams, in two pieces.
    fn woken(&self) -> Result<()> {
        let mut build = workspace::cargo();
        build.args(["build", "--quiet", "-p", "relay-durable", "--example", "durable_worker"]);
        workspace::check(&mut build)?;
        let root = format!("{}/v1/stream", self.url);
        let mut worker = Command::new(workspace::target_directory()?.join("debug/examples/durable_worker"));
        worker.args([&root, "orders/*", "2"]).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = worker.spawn()?;
        let stdout = child.stdout.take().context("piped above")?;
        let (sender, lines) = std::sync::mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        let line = || lines.recv_timeout(Duration::from_secs(30)).context("the worker says nothing");
        let worked = (|| {
            ensure!(line()? == "ready", "it says something else first");
            for order in ["1", "2"] {
                let stream = format!("{root}/orders/{order}");
                self.done(&["create", &stream, "--content-type", "text/plain"], "")?;
                self.done(&["append", &stream, "--data", &format!("order {order}")], "")?;
                let said = line()?;
                ensure!(said.contains(&stream) && said.contains(&format!("order {order}")), "it read {said}");
            }
            ensure!(child.wait()?.success(), "the worker failed");
            Ok(())
        })();
        let _ = child.kill();
        let _ = child.wait();
        worked
    }

    /// A producer with a state file and a reader with a checkpoint, killed again and again.
    fn killed(&self) -> Result<()> {
        let stream = self.create("killed", "application/json")?;
        let input = numbers(0..60_000);
        let file = |name: &str| self.world.directory.join(format!("{}-{name}", self.store));
        let (lines, state, checkpoint, out) = (file("lines"), file("state"), file("checkpoint"), file("out"));
        std::fs::write(&lines, &input)?;
        let text = |path: &PathBuf| path.display().to_string();
        let (lines, state, checkpoint) = (text(&lines), text(&state), text(&checkpoint));
        let produce = ["produce", &stream, "--url", self.url, "--file", &lines, "--state", &state];
        let batches = ["--max-batch-items", "100", "--producer-id", "killed"];
        self.until_done(&[&produce[..], &batches].concat(), Duration::from_millis(150))?;
        self.done(&["close", &stream, "--url", self.url], "")?;
        ensure!(self.read(&stream)? == input, "the stream does not hold what was sent");
        let out_path = text(&out);
        let read = ["read", &stream, "--url", self.url, "--out", &out_path, "--checkpoint", &checkpoint];
        self.until_done(&[&read[..], &["--batch-bytes", "4KiB"]].concat(), Duration::from_millis(60))?;
        ensure!(std::fs::read_to_string(&out)? == input, "the file does not hold what was read");
        Ok(())
    }

    /// Runs a command until it ends by itself, and kills it after longer and longer times until then.
    fn until_done(&self, args: &[&str], mut patience: Duration) -> Result<()> {
        for _ in 0..200 {
            let mut child = self.relay(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
            let until = Instant::now() + patience;
            while Instant::now() < until {
                if let Some(end) = child.try_wait()? {
                    ensure!(end.success(), "{} ended with {end}", args.join(" "));
                    return Ok(());
                }
                thread::sleep(Duration::from_millis(3));
            }
            child.kill()?;
            child.wait()?;
            patience += Duration::from_millis(11);
        }
        anyhow::bail!("{} never got to its end", args.join(" "))
    }
}

/// Numbers, one per line.
fn numbers(range: std::ops::Range<u32>) -> String {
    let mut lines = String::new();
    for number in range {
        let _ = writeln!(lines, "{number}");
    }
    lines
}
