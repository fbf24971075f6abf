//! `interop parsec`: `relay parsec` with a server that embeds centrifuge, like Parsec's own server.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::json_lines::JsonLines;
use super::process::{Process, first_line};
use super::{Run, golang};

/// The longest time that a step waits for one thing.
const LIMIT: Duration = Duration::from_secs(30);

/// Builds the server, and returns its path.
pub(super) fn build_peer() -> Result<PathBuf> {
    let needs = "this needs Go 1.26 or later on the PATH, and for the first build a way to the Go module \
                 github.com/centrifugal/centrifuge";
    golang::build("parsec", "parsec-peer", needs)
}

/// Runs the suite.
pub(super) fn run(run: &mut Run) -> Result<()> {
    let peer = build_peer()?;
    let world = World { peer, relay: run.relay()?, directory: run.directory().to_owned() };
    type Step = fn(&World) -> Result<()>;
    let steps: [(&str, Step); 10] = [
        ("what is published arrives, and payloads as they were written", arrives),
        ("a disconnect resumes without loss, duplicate or gap", resumes),
        ("a trimmed history is one gap with its count", trimmed),
        ("a removed history is a gap, and what comes then is not lost", forgotten),
        ("a server that was killed and started again is another epoch", restarted),
        ("a channel that is not open ends after five tries of error 100", unopened),
        ("a private channel wants its token", private),
        ("close codes end it or do not", closes),
        ("an unsubscribe ends it or resubscribes", unsubscribes),
        ("Twirp errors are told: not open, and passing ones are tried again", twirp),
    ];
    for (name, step) in steps {
        run.step(name, || step(&world));
    }
    Ok(())
}

struct World {
    peer: PathBuf,
    relay: PathBuf,
    directory: PathBuf,
}

struct Peer {
    process: Process,
    address: String,
}

impl World {
    fn start(&self, arguments: &[&str]) -> Result<Peer> {
        let log = self.directory.join("peer.log");
        let (process, stdout) = Process::start_piped(Command::new(&self.peer).args(arguments), &log)?;
        Ok(Peer { process, address: first_line(stdout)? })
    }

    fn command(&self, verb: &str, peer: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.relay);
        let url = format!("http://{peer}");
        command.args(["parsec", verb, "--url", &url, "--transport", "websocket", "-o", "json"]);
        command.args(["--reconnect-base", "50ms", "--reconnect-cap", "500ms"]).args(arguments);
        command.env_remove("RELAY_TOKEN").env_remove("RELAY_URL");
        command
    }

    fn subscribe(&self, name: &str, peer: &str, arguments: &[&str]) -> Result<Subscriber> {
        let mut command = self.command("subscribe", peer, arguments);
        Ok(Subscriber(JsonLines::start(&mut command, &self.directory, name)?))
    }

    /// Publishes a payload per line. Returns the exit code and both outputs.
    fn publish(&self, peer: &str, lines: &str, arguments: &[&str]) -> Result<(i32, String, String)> {
        let mut command = self.command("publish", peer, arguments);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        child.stdin.take().context("the pipe was asked for above")?.write_all(lines.as_bytes())?;
        let end = child.wait_with_output()?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok((end.status.code().unwrap_or(-1), text(&end.stdout), text(&end.stderr)))
    }

    fn publish_numbers(&self, peer: &str, numbers: std::ops::RangeInclusive<u32>) -> Result<()> {
        let lines: String = numbers.map(|number| format!("{number}\n")).collect();
        let file = self.directory.join("sequences.json").display().to_string();
        let arguments = ["public:a.b", "--aspect", "n", "--producer", "me", "--sequence-file", &file];
        let (code, _, errors) = self.publish(peer, &lines, &arguments)?;
        ensure!(code == 0, "publish ended with {code}: {errors}");
        Ok(())
    }

    /// Removes the sequences, so that each step counts from 1.
    fn forget_sequences(&self) {
        // The file may not exist.
        let _ = std::fs::remove_file(self.directory.join("sequences.json"));
    }
}

struct Subscriber(JsonLines);

impl Subscriber {
    fn wait(&self, event: &str, count: usize) -> Result<Vec<Value>> {
        self.0.wait(&format!("{count} lines of {event}"), LIMIT, |lines| {
            (of(&lines, event).len() >= count).then_some(lines)
        })
    }

    fn end(mut self) -> Result<i32> {
        self.0.process.wait(LIMIT)?.code().context("it was killed")
    }
}

fn post(peer: &str, path: &str, body: &str) -> Result<String> {
    let mut stream = TcpStream::connect(peer)?;
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: {peer}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    ensure!(answer.starts_with("HTTP/1.1 200"), "{path}: {answer}");
    Ok(answer)
}

/// The sequences that arrived, in order.
fn numbers(lines: &[Value]) -> Vec<u64> {
    let envelopes = lines.iter().filter(|line| line["event"] == "envelope");
    envelopes.filter_map(|line| line["envelope"]["payload"].as_u64()).collect()
}

fn of<'a>(lines: &'a [Value], event: &str) -> Vec<&'a Value> {
    lines.iter().filter(|line| line["event"] == event).collect()
}

fn arrives(world: &World) -> Result<()> {
    world.forget_sequences();
    let peer = world.start(&["-open", "public:a.b"])?;
    let subscriber =
        world.subscribe("arrives", &peer.address, &["public:a.b", "public:a.b", "--max", "4"])?;
    subscriber.wait("subscribed", 2)?;
    let payload = r#"{"big":9007199254740993,"f":1.50,"h":"<&>"}"#;
    let arguments = ["public:a.b", "--aspect", "said", "--producer", "me"];
    let (code, _, errors) = world.publish(&peer.address, &format!("{payload}\nnull\n"), &arguments)?;
    ensure!(code == 0, "{errors}");
    subscriber.wait("envelope", 4)?;
    let text = std::fs::read_to_string(&subscriber.0.file)?;
    ensure!(text.matches(payload).count() == 2, "both subscriptions have it as it was written: {text}");
    ensure!(subscriber.end()? == 0, "--max is an orderly end");
    Ok(())
}

fn resumes(world: &World) -> Result<()> {
    world.forget_sequences();
    let peer = world.start(&["-open", "public:a.b"])?;
    let subscriber = world.subscribe("resumes", &peer.address, &["public:a.b"])?;
    subscriber.wait("subscribed", 1)?;
    for (round, code) in ["3001", "3000", "4001"].iter().enumerate() {
        let first = round as u32 * 10 + 1;
        world.publish_numbers(&peer.address, first..=first + 4)?;
        post(&peer.address, &format!("/test/disconnect?code={code}"), "")?;
        world.publish_numbers(&peer.address, first + 5..=first + 9)?;
        subscriber.wait("envelope", round * 10 + 10)?;
    }
    let lines = subscriber.wait("subscribed", 4)?;
    ensure!(numbers(&lines) == (1..=30).collect::<Vec<_>>(), "{:?}", numbers(&lines));
    ensure!(of(&lines, "gap").is_empty() && of(&lines, "duplicate").is_empty(), "{lines:?}");
    Ok(())
}

fn trimmed(world: &World) -> Result<()> {
    world.forget_sequences();
    let peer = world.start(&["-open", "public:a.b", "-history", "10"])?;
    world.publish_numbers(&peer.address, 1..=16)?;
    let history = world.subscribe("trimmed", &peer.address, &["public:a.b", "--from-start"])?;
    let lines = history.wait("gap", 1)?;
    let gap = of(&lines, "gap")[0];
    ensure!(gap["cause"] == "trimmed" && gap["missing"] == 16 && gap["producer"].is_null(), "{gap}");
    let epoch = of(&lines, "subscribed")[0]["position"].as_str().context("a position")?.to_owned();
    let epoch = epoch.rsplit_once('.').context("an epoch")?.0.to_owned();
    for (offset, first) in [(6, Some(7)), (5, None)] {
        let after = format!("{epoch}.{offset}");
        let arguments = ["public:a.b", "--after", &after];
        let subscriber = world.subscribe(&format!("trimmed-{offset}"), &peer.address, &arguments)?;
        match first {
            Some(first) => {
                let lines = subscriber.wait("envelope", 10)?;
                ensure!(numbers(&lines) == (first..=16).collect::<Vec<_>>(), "{lines:?}");
                ensure!(of(&lines, "gap").is_empty(), "{lines:?}");
            }
            None => {
                let lines = subscriber.wait("gap", 1)?;
                ensure!(of(&lines, "gap")[0]["missing"] == 11, "{lines:?}");
            }
        }
    }
    Ok(())
}

fn forgotten(world: &World) -> Result<()> {
    world.forget_sequences();
    let peer = world.start(&["-open", "public:a.b"])?;
    let live = world.subscribe("forgotten-live", &peer.address, &["public:a.b"])?;
    let lines = live.wait("subscribed", 1)?;
    let epoch = of(&lines, "subscribed")[0]["position"].as_str().context("a position")?.to_owned();
    let epoch = epoch.rsplit_once('.').context("an epoch")?.0.to_owned();
    world.publish_numbers(&peer.address, 1..=5)?;
    live.wait("envelope", 5)?;
    post(&peer.address, "/test/forget?channel=public:a.b", "")?;
    // Epoch and offset stay, but the requested envelopes are gone.
    let arguments = ["public:a.b", "--after", &format!("{epoch}.3")];
    let late = world.subscribe("forgotten-late", &peer.address, &arguments)?;
    let lines = late.wait("gap", 1)?;
    let gap = of(&lines, "gap")[0];
    ensure!(gap["cause"] == "trimmed" && gap["missing"] == 2 && gap["producer"].is_null(), "{gap}");
    post(&peer.address, "/test/disconnect?code=3001", "")?;
    world.publish_numbers(&peer.address, 6..=8)?;
    for (subscriber, expected) in [(&live, 1..=8), (&late, 6..=8)] {
        let lines = subscriber.wait("envelope", expected.clone().count())?;
        ensure!(numbers(&lines) == expected.collect::<Vec<_>>(), "{lines:?}");
        ensure!(of(&lines, "duplicate").is_empty(), "{lines:?}");
        // Nothing was lost after the removal, and no gap is reported.
        let lost: u64 = of(&lines, "gap").iter().filter_map(|gap| gap["missing"].as_u64()).sum();
        ensure!(lost == if numbers(&lines).len() == 8 { 0 } else { 2 }, "{lines:?}");
    }
    Ok(())
}

fn restarted(world: &World) -> Result<()> {
    world.forget_sequences();
    let mut peer = world.start(&["-open", "public:a.b"])?;
    let subscriber = world.subscribe("restarted", &peer.address, &["public:a.b"])?;
    subscriber.wait("subscribed", 1)?;
    world.publish_numbers(&peer.address, 1..=3)?;
    subscriber.wait("envelope", 3)?;
    let address = peer.address.clone();
    peer.process.kill()?;
    let peer = world.start(&["-open", "public:a.b", "-listen", &address])?;
    let lines = subscriber.wait("gap", 1)?;
    ensure!(of(&lines, "gap")[0]["cause"] == "epoch-changed", "{lines:?}");
    world.publish_numbers(&peer.address, 4..=5)?;
    let lines = subscriber.wait("envelope", 5)?;
    ensure!(numbers(&lines) == [1, 2, 3, 4, 5], "{lines:?}");
    Ok(())
}

fn unopened(world: &World) -> Result<()> {
    let peer = world.start(&[])?;
    let subscriber = world.subscribe("unopened", &peer.address, &["public:no.where"])?;
    let lines = subscriber.wait("ended", 1)?;
    let reason = of(&lines, "ended")[0]["reason"].as_str().unwrap_or_default().to_owned();
    ensure!(reason.contains("100") && reason.contains("5 times"), "{reason}");
    let code = subscriber.end()?;
    ensure!(code == 1, "it ended with {code}");
    Ok(())
}

fn private(world: &World) -> Result<()> {
    let peer = world.start(&[])?;
    post(&peer.address, "/twirp/parsec.ParsecService/CreatePrivate", r#"{"name":"private:a.b.c"}"#)?;
    let arguments = ["private:a.b.c", "--token", "token-of-private:a.b.c"];
    let subscriber = world.subscribe("private", &peer.address, &arguments)?;
    subscriber.wait("subscribed", 1)?;
    let arguments = ["private:a.b.c", "--token", "another", "--subscribe-tries", "2"];
    let refused = world.subscribe("private-refused", &peer.address, &arguments)?;
    refused.wait("ended", 1)?;
    ensure!(refused.end()? == 1, "error 100 says no more than that it failed");
    let log = std::fs::read_to_string(world.directory.join("private-refused.log"))?;
    ensure!(!log.contains("another"), "the token stands in the log");
    Ok(())
}

fn closes(world: &World) -> Result<()> {
    for (code, expected) in [("3500", 4), ("3507", 4), ("3501", 1), ("4500", 1)] {
        let peer = world.start(&["-open", "public:a.b"])?;
        let subscriber = world.subscribe(&format!("closes-{code}"), &peer.address, &["public:a.b"])?;
        subscriber.wait("subscribed", 1)?;
        post(&peer.address, &format!("/test/disconnect?code={code}"), "")?;
        let lines = subscriber.wait("ended", 1)?;
        let reason = of(&lines, "ended")[0]["reason"].as_str().unwrap_or_default().to_owned();
        ensure!(reason.contains(code), "{reason}");
        let end = subscriber.end()?;
        ensure!(end == expected, "{code}: it ended with {end}");
    }
    // A payload that is not JSON ends every subscriber that uses JSON.
    let peer = world.start(&["-open", "public:a.b"])?;
    let subscriber = world.subscribe("closes-raw", &peer.address, &["public:a.b"])?;
    subscriber.wait("subscribed", 1)?;
    post(&peer.address, "/test/raw?channel=public:a.b", "no JSON")?;
    let lines = subscriber.wait("ended", 1)?;
    let reason = of(&lines, "ended")[0]["reason"].to_string();
    ensure!(reason.contains("3506"), "{reason}");
    Ok(())
}

fn unsubscribes(world: &World) -> Result<()> {
    world.forget_sequences();
    let peer = world.start(&["-open", "public:a.b"])?;
    let subscriber = world.subscribe("unsubscribes", &peer.address, &["public:a.b"])?;
    subscriber.wait("subscribed", 1)?;
    world.publish_numbers(&peer.address, 1..=2)?;
    post(&peer.address, "/test/unsubscribe?channel=public:a.b&code=2500", "")?;
    world.publish_numbers(&peer.address, 3..=4)?;
    let lines = subscriber.wait("envelope", 4)?;
    ensure!(numbers(&lines) == [1, 2, 3, 4] && of(&lines, "gap").is_empty(), "{lines:?}");
    post(&peer.address, "/test/unsubscribe?channel=public:a.b&code=2000", "")?;
    subscriber.wait("ended", 1)?;
    ensure!(subscriber.end()? == 1, "an unsubscribe below 2500 is final");
    Ok(())
}

fn twirp(world: &World) -> Result<()> {
    let peer = world.start(&["-bearer", "T"])?;
    let arguments = ["public:a.b", "--aspect", "n", "--producer", "me"];
    let (code, _, errors) = world.publish(&peer.address, "1\n", &arguments)?;
    ensure!(code == 4, "without the bearer: {code} {errors}");
    let with_token = [&arguments[..], &["--token", "T"]].concat();
    let (code, _, errors) = world.publish(&peer.address, "1\n", &with_token)?;
    ensure!(code == 3 && errors.contains("must be opened"), "not open: {code} {errors}");
    post(&peer.address, "/test/fail?method=Publish&status=503&count=2", "")?;
    let opening = [&with_token[..], &["--open"]].concat();
    let (code, lines, errors) = world.publish(&peer.address, "1\n2\n", &opening)?;
    ensure!(code == 0, "after two that pass: {code} {errors}");
    let sequences: Vec<_> =
        lines.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()).collect();
    ensure!(sequences.iter().map(|line| line["sequence"].as_i64()).eq([Some(1), Some(2)]), "{lines}");
    let (code, ..) = world.publish(&peer.address, "3\n", &opening)?;
    ensure!(code == 0, "a channel that is open already is fine");
    let mut history = world.command("history", &peer.address, &["public:a.b"]);
    let end = history.output()?;
    let said = String::from_utf8_lossy(&end.stderr).into_owned();
    if end.status.code() != Some(1) || !said.contains("not implemented") {
        bail!("history: {said}");
    }
    Ok(())
}
