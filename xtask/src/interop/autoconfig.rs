//! `interop autoconfig`: `relay autoconfig watch` with a service built on the original library, and that library's
//! client with `relay autoconfig serve`.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::json_lines::JsonLines;
use super::process::{Process, first_line};
use super::{Run, golang};

/// The longest time that a step waits for one thing.
const LIMIT: Duration = Duration::from_secs(30);
const KEY: &str = "auto-config-key-0123";

/// Runs the suite.
pub(super) fn run(run: &mut Run) -> Result<()> {
    let needs = "this suite needs Go 1.24 or later on the PATH, and for the first build a way to the Go module \
                 github.com/launchdarkly/eventsource";
    let peer = golang::build("autoconfig", "autoconfig-peer", needs)?;
    let world = World { peer, relay: run.relay()?, directory: run.directory().to_owned() };
    type Step = fn(&World) -> Result<()>;
    let steps: [(&str, Step); 5] = [
        ("puts, patches and deletes of its encoder are followed, compressed", followed),
        ("`reconnect`, closed streams and bad data are followed by a put and nothing twice", reconnected),
        ("a service that is killed and started again has changed meanwhile", restarted),
        ("a key that it does not know is the end", refused),
        ("its client follows `serve`: changes, a kill and the start after it", served),
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

/// The lines up to the first one that matches.
fn until(lines: &JsonLines, what: &str, fits: impl Fn(&Value) -> bool) -> Result<Vec<Value>> {
    lines.wait(what, LIMIT, |mut lines| {
        let at = lines.iter().position(&fits)?;
        lines.truncate(at + 1);
        Some(lines)
    })
}

struct Service {
    process: Process,
    address: String,
    file: PathBuf,
}

impl Service {
    fn publish(&self, event: &str, data: &str) -> Result<()> {
        ask(&self.address, "POST", &format!("/publish?event={event}"), data).map(drop)
    }

    fn say(&self, event: &str, data: &Value) -> Result<()> {
        self.publish(event, &data.to_string())
    }
}

impl World {
    fn service(&self, name: &str, listen: &str, everything: &Value) -> Result<Service> {
        let file = self.directory.join(format!("{name}.json"));
        std::fs::write(&file, put(everything).to_string())?;
        let log = self.directory.join("peer.log");
        let mut command = Command::new(&self.peer);
        command.args(["serve", listen, KEY]).arg(&file);
        let (process, stdout) = Process::start_piped(&mut command, &log)?;
        Ok(Service { process, address: first_line(stdout)?, file })
    }

    fn relay(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.relay);
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("RELAY_"))
        {
            command.env_remove(name);
        }
        command.arg("autoconfig").args(arguments);
        command
    }

    fn watch(&self, name: &str, service: &Service, key: &str) -> Result<JsonLines> {
        let url = format!("http://{}", service.address);
        let mut command = self.relay(&["watch", "--url", &url, "--key", key, "-o", "json"]);
        command.args(["--reconnect-base", "50ms", "--reconnect-cap", "300ms"]);
        JsonLines::start(&mut command, &self.directory, name)
    }
}

/// The body of an answer.
fn ask(address: &str, method: &str, path: &str, body: &str) -> Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(LIMIT))?;
    let length = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.0\r\nHost: {address}\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n\r\n{body}"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no head")?;
    ensure!(head.contains(" 200 "), "{head}");
    Ok(body.to_owned())
}

fn environment(id: &str, version: i64, sdk: &str) -> Value {
    json!({"envID": id, "envKey": "prod", "envName": "Ünïcödé ✓", "mobKey": "mob-1", "projKey": "p", "projName": "P",
        "sdkKey": {"value": sdk}, "defaultTtl": 5, "secureMode": false, "version": version})
}

fn put(everything: &Value) -> Value {
    json!({"path": "/", "data": everything})
}

fn patch(environment: &Value) -> Value {
    json!({"path": format!("/environments/{}", environment["envID"].as_str().unwrap_or_default()), "data": environment})
}

fn everything(version: i64) -> Value {
    json!({"environments": {"a": environment("a", version, "sdk-a"), "b": environment("b", 1, "sdk-b")},
        "filters": {"p.small": {"projKey": "p", "key": "small", "version": 1}}})
}

/// Names and ids of the lines that are not a status.
fn words(lines: &[Value]) -> Vec<String> {
    let told = lines.iter().filter(|line| line["event"] != "status");
    told.map(|line| {
        let text = |name: &str| line[name].as_str().unwrap_or_default();
        format!("{} {}", text("event"), text("id")).trim_end().to_owned()
    })
    .collect()
}

fn followed(world: &World) -> Result<()> {
    let service = world.service("followed", "127.0.0.1:0", &everything(1))?;
    let watch = world.watch("followed", &service, KEY)?;
    until(&watch, "the first put", |line| line["state"] == "valid")?;
    ask(&service.address, "POST", "/comment", "")?;
    let mut keys = environment("c", 7, "sdk-0123456789ab");
    keys["sdkKeys"] = json!([{"key": "n", "value": "sdk-0123456789ab", "hasViews": false}]);
    service.say("patch", &patch(&keys))?;
    service.say("patch", &patch(&environment("a", 2, "sdk-a2")))?;
    service.say(
        "patch",
        &json!({"path": "/filters/p.small", "data": {"projKey": "p", "key": "tiny", "version": 2}}),
    )?;
    service.say("delete", &json!({"path": "/filters/p.small", "version": 3}))?;
    service.say("delete", &json!({"path": "/environments/b", "version": 2}))?;
    // A put that takes many lines.
    let many: BTreeMap<String, Value> = (0..2000)
        .map(|i| (format!("e{i:04}"), environment(&format!("e{i:04}"), 1, &format!("sdk-{i}"))))
        .collect();
    service.say("put", &put(&json!({"environments": many})))?;
    let all = |line: &Value| line["event"] == "received_all" && line["environments"] == 2000;
    let lines = until(&watch, "the large put", all)?;
    let told = words(&lines);
    let start = [
        "add a",
        "add b",
        "filter_add p.small",
        "received_all",
        "add c",
        "update a",
        "filter_update p.small",
        "filter_delete p.small",
        "delete b",
    ];
    ensure!(told[..9] == start, "{:?}", &told[..9]);
    ensure!(told.len() == 9 + 2000 + 2 + 1, "{} lines", told.len());
    ensure!(lines.iter().any(|line| line["env"]["env_name"] == "Ünïcödé ✓"));
    let requests = ask(&service.address, "GET", "/requests", "")?;
    let request: Value = serde_json::from_str(requests.lines().next().context("no request")?)?;
    ensure!(
        request["target"] == "/relay_auto_config?rpacProtocolVersion=2" && request["authorization"] == KEY
    );
    ensure!(request["coding"] == "gzip" && request["last_event_id"] == "", "{request}");
    Ok(())
}

fn reconnected(world: &World) -> Result<()> {
    let service = world.service("reconnected", "127.0.0.1:0", &everything(1))?;
    let watch = world.watch("reconnected", &service, KEY)?;
    // The lines up to this many puts.
    let complete = |count: usize| {
        watch.wait(&format!("{count} puts"), LIMIT, |lines| {
            let puts = lines.iter().filter(|line| line["event"] == "received_all").count();
            (puts >= count).then_some(lines)
        })
    };
    complete(1)?;
    service.publish("reconnect", " ")?;
    complete(2)?;
    ask(&service.address, "POST", "/close", "")?;
    complete(3)?;
    service.publish("patch", r#"{"path":"/environments/a","data":{"version":1.5}}"#)?;
    complete(4)?;
    // Its encoder writes a data line even if there is no data.
    service.publish("reconnect", "")?;
    let lines = complete(5)?;
    ensure!(
        words(&lines) == [&["add a", "add b", "filter_add p.small"][..], &["received_all"; 5]].concat(),
        "{lines:?}"
    );
    Ok(())
}

fn restarted(world: &World) -> Result<()> {
    let mut service = world.service("restarted", "127.0.0.1:0", &everything(1))?;
    let watch = world.watch("restarted", &service, KEY)?;
    until(&watch, "the first put", |line| line["state"] == "valid")?;
    service.process.kill()?;
    until(&watch, "the loss", |line| line["state"] == "interrupted")?;
    let mut changed = everything(2);
    changed["environments"]["c"] = environment("c", 1, "sdk-c");
    if let Some(known) = changed["environments"].as_object_mut() {
        known.remove("b");
    }
    let again = world.service("restarted", &service.address, &changed)?;
    let lines = until(&watch, "what has changed", |line| line["event"] == "delete")?;
    let told = words(&lines);
    ensure!(told[4..] == ["update a", "add c", "delete b"], "{told:?}");
    std::fs::write(&again.file, put(&everything(2)).to_string())?;
    ask(&again.address, "POST", "/close", "")?;
    until(&watch, "what is back", |line| line["event"] == "delete" && line["id"] == "c")?;
    Ok(())
}

fn refused(world: &World) -> Result<()> {
    let service = world.service("refused", "127.0.0.1:0", &everything(1))?;
    let mut watch = world.watch("refused", &service, "another-key-4567")?;
    let code = watch.process.wait(LIMIT)?.code();
    ensure!(code == Some(4), "it ended with {code:?}");
    let said = std::fs::read_to_string(&watch.file)? + &watch.process.log_end();
    ensure!(!said.contains("another-key"), "the key is told: {said}");
    Ok(())
}

/// The event and the path, and the version of an environment.
fn heard(line: &Value) -> Result<(String, Value)> {
    let data: Value = serde_json::from_str(line["data"].as_str().context("no data")?)?;
    Ok((
        format!(
            "{} {}",
            line["event"].as_str().unwrap_or_default(),
            data["path"].as_str().unwrap_or_default()
        ),
        data,
    ))
}

fn served(world: &World) -> Result<()> {
    let file = world.directory.join("served.yaml");
    let text = |name: &str, more: &str| {
        format!(
            "environments:\n  a: {{envName: {name}, sdkKey: sdk-a, mobKey: mob-a}}\n{more}filters: {{p.small: {{projKey: p, key: small}}}}\n"
        )
    };
    let write = |text: String| -> Result<()> {
        let new = file.with_extension("new");
        std::fs::write(&new, text)?;
        Ok(std::fs::rename(&new, &file)?)
    };
    write(text("One", "  b: {sdkKey: sdk-b}\n"))?;
    let serve = |listen: &str, file: &Path| -> Result<(Process, String)> {
        let mut command = world.relay(&["serve", "--listen", listen, "--key", KEY, "--poll", "50ms"]);
        let (process, stdout) = Process::start_piped(command.arg(file), &world.directory.join("serve.log"))?;
        let line = first_line(stdout)?;
        let address =
            line.strip_prefix("relay autoconfig listening on http://").context("another first line")?;
        Ok((process, address.to_owned()))
    };
    let (mut server, address) = serve("127.0.0.1:0", &file)?;
    let mut command = Command::new(&world.peer);
    command.args(["follow", &format!("http://{address}/relay_auto_config?rpacProtocolVersion=2"), KEY]);
    let client = JsonLines::start(&mut command, &world.directory, "client")?;
    let count = |count: usize| -> Result<Vec<(String, Value)>> {
        let enough = |lines: Vec<Value>| (lines.len() >= count).then_some(lines);
        client.wait(&format!("{count} events"), LIMIT, enough)?.iter().map(heard).collect()
    };
    count(1)?;
    write(text("Two", "  b: {sdkKey: sdk-b}\n"))?;
    count(2)?;
    write(text("Two", "  c: {sdkKey: sdk-c}\n"))?;
    count(4)?;
    server.kill()?;
    write(text("Three", "  c: {sdkKey: sdk-c}\n"))?;
    let (server, _) = serve(&address, &file)?;
    let events = count(5)?;
    let names: Vec<&str> = events.iter().map(|(name, _)| name.as_str()).collect();
    ensure!(
        names
            == ["put /", "patch /environments/a", "patch /environments/c", "delete /environments/b", "put /"],
        "{names:?}"
    );
    let version = |event: usize, id: &str| events[event].1["data"]["environments"][id]["version"].as_i64();
    ensure!(events[0].1["data"]["filters"]["p.small"]["key"] == "small");
    ensure!(events[4].1["data"]["environments"]["a"]["envName"] == "Three");
    ensure!(version(4, "a") > events[1].1["data"]["version"].as_i64(), "a changed");
    ensure!(version(4, "c") == events[2].1["data"]["version"].as_i64(), "c did not");
    ensure!(server.terminate(LIMIT)?.code() == Some(0), "it did not end in order");
    Ok(())
}
