//! A bus of 2018 and one of this project in one chain of channels: senders and subscribers cannot distinguish them.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{ChildStdout, Command};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::interop::printing::Printing;
use crate::interop::process::{Process, first_line};
use crate::interop::relay::{SOON, command};
use crate::interop::{golang, wait_for};
use crate::workspace;

/// The last version of the module that still has the state of 2018.
const MODULE: &str = "github.com/knative/eventing@v0.2.1";
/// The files that are used: receiver, dispatcher, and what they need. The rest cannot be built without a cluster.
const FILES: [&str; 4] = ["message.go", "message_dispatcher.go", "message_receiver.go", "references.go"];

/// Builds the bus of 2018.
pub(super) fn build() -> Result<PathBuf> {
    let needs = format!(
        "this part needs Go 1.24 or later on the PATH, and for the first build a way to the Go modules {MODULE} and \
         go.uber.org/zap"
    );
    let told = workspace::output(Command::new("go").args(["mod", "download", "-json", MODULE]))
        .context(needs.clone())?;
    let module: Value = serde_json::from_str(&told)?;
    let module = Path::new(module["Dir"].as_str().context("Go does not say where the module is")?);
    let here = workspace::root().join("xtask/interop/bus");
    let source = workspace::target_directory()?.join("interop/bus-2018-source");
    std::fs::create_dir_all(source.join("provisioners"))?;
    for file in ["main.go", "go.mod", "go.sum"] {
        std::fs::copy(here.join(file), source.join(file))?;
    }
    for file in FILES {
        // Files of the module are read-only, and so would be their copies.
        let text = std::fs::read(module.join("pkg/provisioners").join(file))?;
        std::fs::write(source.join("provisioners").join(file), text)?;
    }
    golang::build_in(&source, "bus-2018", &needs)
}

/// The bus at a place of the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Ours,
    Of2018,
}

/// A received request: its first line, its headers without those of the transport, and its body.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Seen {
    first: String,
    headers: BTreeSet<String>,
    body: Vec<u8>,
}

/// Headers that belong to a connection or a client library, not to a message. Our bus adds `prefer: reply`.
const TRANSPORT: [&str; 9] = [
    "host",
    "user-agent",
    "accept-encoding",
    "content-length",
    "connection",
    "proxy-connection",
    "transfer-encoding",
    "prefer",
    "accept",
];

/// Subscribers, and a proxy that knows the addresses of channels, as a mesh does.
#[derive(Clone)]
struct Mesh {
    address: SocketAddr,
    shared: Arc<Mutex<Shared>>,
}

#[derive(Default)]
struct Shared {
    channels: BTreeMap<String, SocketAddr>,
    seen: BTreeMap<String, Vec<Seen>>,
}

impl Mesh {
    fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let mesh = Self { address: listener.local_addr()?, shared: Arc::default() };
        let shared = mesh.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(std::io::Result::ok) {
                let shared = shared.clone();
                std::thread::spawn(move || shared.serve(stream));
            }
        });
        Ok(mesh)
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self, stream: TcpStream) -> Result<()> {
        let mut writing = stream.try_clone()?;
        let mut reading = BufReader::new(stream);
        loop {
            let (mut seen, host) = read(&mut reading)?;
            let target = seen.first.split(' ').nth(1).unwrap_or_default().to_owned();
            if let Some(channel) = target.strip_prefix("http://") {
                let to = self.shared().channels.get(channel.trim_end_matches('/')).copied();
                let (status, _) = send(to.context("no such channel")?, &seen, &host)?;
                write!(writing, "HTTP/1.1 {status} Forwarded\r\ncontent-length: 0\r\n\r\n")?;
                continue;
            }
            let id = seen
                .headers
                .iter()
                .find_map(|header| header.strip_prefix("ce-id: "))
                .unwrap_or("none")
                .to_owned();
            seen.first = seen.first.to_lowercase();
            self.shared().seen.entry(target.clone()).or_default().push(seen);
            let answer = if target == "/x" { answer_to(&id) } else { ANSWER_ACCEPTED.to_owned() };
            writing.write_all(answer.as_bytes())?;
        }
    }
}

const ANSWER_ACCEPTED: &str = "HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n";

/// The answer of the first channel's subscriber to each message.
fn answer_to(id: &str) -> String {
    let with = |status: &str, headers: &str, body: &str| {
        format!("HTTP/1.1 {status}\r\n{headers}content-length: {}\r\n\r\n{body}", body.len())
    };
    match id {
        "answered" => with(
            "200 OK",
            "CE-Id: answer-1\r\nX-Request-Id: altered\r\nset-cookie: no\r\nknative-correlation-id: theirs\r\n\
             content-type: text/x\r\nContent-Language: no\r\n",
            "the answer",
        ),
        "uncorrelated" => {
            with("201 Made", "ce-id: answer-2\r\nknative-correlation-id: theirs\r\n", "another")
        }
        "headless" => with("200 OK", "ce-id: answer-3\r\n", "x"),
        "failing" => with("500 No", "ce-id: never\r\n", "why"),
        "refused" => with("404 No", "ce-id: never\r\n", "why"),
        "last" => with("200 OK", "ce-id: answer-last\r\n", "the end"),
        _ => ANSWER_ACCEPTED.to_owned(),
    }
}

/// A request or an answer, and its Host.
fn read(reading: &mut BufReader<TcpStream>) -> Result<(Seen, String)> {
    let (mut first, mut length, mut host) = (String::new(), 0, String::new());
    ensure!(reading.read_line(&mut first)? > 0, "the end");
    let mut headers = BTreeSet::new();
    loop {
        let mut line = Vec::new();
        ensure!(reading.read_until(b'\n', &mut line)? > 0, "the end");
        // Values are bytes: each byte becomes the character with its number.
        let line: String = line.iter().map(|byte| char::from(*byte)).collect();
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        let (name, value) = (name.to_ascii_lowercase(), value.trim());
        match name.as_str() {
            "content-length" => length = value.parse()?,
            "host" => value.clone_into(&mut host),
            _ => {}
        }
        if !TRANSPORT.contains(&name.as_str()) {
            headers.insert(format!("{name}: {value}"));
        }
    }
    let mut body = vec![0; length];
    reading.read_exact(&mut body)?;
    Ok((Seen { first: first.trim_end().to_owned(), headers, body }, host))
}

/// Posts a message. Returns the status and the body of the answer.
fn send(to: SocketAddr, message: &Seen, host: &str) -> Result<(u16, Vec<u8>)> {
    let stream = TcpStream::connect(to)?;
    stream.set_read_timeout(Some(SOON))?;
    let (mut writing, mut reading) = (stream.try_clone()?, BufReader::new(stream));
    let method = message.first.split(' ').next().unwrap_or("POST");
    let path = message.first.split(' ').nth(1).filter(|target| target.starts_with('/')).unwrap_or("/");
    let mut bytes =
        format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {}\r\n", message.body.len())
            .into_bytes();
    for header in &message.headers {
        bytes.extend(header.chars().map(|c| c as u8));
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"\r\n");
    bytes.extend_from_slice(&message.body);
    writing.write_all(&bytes)?;
    let (answer, _) = read(&mut reading)?;
    let status = answer.first.split(' ').nth(1).and_then(|status| status.parse().ok());
    Ok((status.with_context(|| answer.first.clone())?, answer.body))
}

/// A bus of either kind, with one channel.
enum Bus {
    Ours { _process: Printing },
    Of2018 { _process: Process, _output: ChildStdout },
}

/// The programs, and the folder for their files.
pub(super) struct Chain<'a> {
    pub(super) relay: &'a Path,
    pub(super) of_2018: &'a Path,
    pub(super) directory: &'a Path,
}

/// What the sender and the two subscribers of a chain got.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Story {
    statuses: Vec<(String, u16)>,
    seen: BTreeMap<String, Vec<Seen>>,
}

impl Chain<'_> {
    fn start(
        &self,
        kind: Kind,
        channel: &str,
        subscriber: &str,
        reply: Option<&str>,
        mesh: &Mesh,
    ) -> Result<(Bus, SocketAddr)> {
        let proxy = format!("http://{}", mesh.address);
        let (file, log) =
            (self.directory.join(format!("{kind:?}-{channel}.json")), self.directory.join("of-2018.log"));
        match kind {
            Kind::Of2018 => {
                let to = json!({"subscriber": subscriber, "reply": reply.unwrap_or_default()});
                std::fs::write(&file, json!({format!("ns/{channel}"): [to]}).to_string())?;
                let mut program = Command::new(self.of_2018);
                program.arg(&file).env("http_proxy", &proxy);
                let (process, mut output) = Process::start_piped(&mut program, &log)?;
                let address = first_line(&mut output)?.trim().parse()?;
                Ok((Bus::Of2018 { _process: process, _output: output }, address))
            }
            Kind::Ours => {
                let version = "channels.knative.dev/v1alpha1";
                let meta = |name: &str| json!({"name": name, "namespace": "ns"});
                let spec = json!({"channel": channel, "subscriber": subscriber, "replyTo": reply});
                let objects = json!([
                    {"apiVersion": version, "kind": "Channel", "metadata": meta(channel)},
                    {"apiVersion": version, "kind": "Subscription", "metadata": meta("s"), "spec": spec},
                ]);
                std::fs::write(&file, objects.to_string())?;
                let mut program = command(self.relay);
                program.args([
                    "bus",
                    "serve",
                    "--listen",
                    "127.0.0.1:0",
                    "--trace-context",
                    "drop",
                    "--file",
                ]);
                program
                    .arg(&file)
                    .args(["-o", "json"])
                    .env("http_proxy", &proxy)
                    .env("no_proxy", "127.0.0.1");
                let mut process = Printing::start_command(program, &log)?;
                let listening = process.until("the first line", 0, |line| line["event"] == "listening")?;
                process.until("ready", 0, |line| line["event"] == "ready")?;
                let address = listening["address"].as_str().context("it says no address")?;
                let address = address.trim_start_matches("http://").parse()?;
                Ok((Bus::Ours { _process: process }, address))
            }
        }
    }

    /// Sends all messages through a chain of two buses. The reply of the first channel's subscriber goes to the second
    /// channel.
    pub(super) fn run(&self, first: Kind, second: Kind) -> Result<Story> {
        let mesh = Mesh::start()?;
        let to = |name: &str| format!("http://{}/{name}", mesh.address);
        let next = "d.ns.channels.cluster.local";
        let (_one, at) = self.start(first, "c", &to("x"), Some(next), &mesh)?;
        let (_other, second_at) = self.start(second, "d", &to("y"), None, &mesh)?;
        mesh.shared().channels.insert(next.to_owned(), second_at);
        let mut statuses = Vec::new();
        for (request, host, headers, body) in requests() {
            let headers = headers.iter().map(|header| (*header).to_owned()).collect();
            let message = Seen { first: request.to_owned(), headers, body };
            let (status, answer) = send(at, &message, host)?;
            ensure!(status != 202 || answer.is_empty(), "a 202 with a body");
            statuses.push((format!("{request} {host} {:?}", message.headers), status));
        }
        let count = |path: &str| mesh.shared().seen.get(path).map_or(0, Vec::len);
        wait_for("what the subscribers are sent", SOON, || {
            Ok((count("/x") >= AT_X && count("/y") >= AT_Y).then_some(()))
        })?;
        let mut seen = mesh.shared().seen.clone();
        seen.values_mut().for_each(|list| list.sort());
        Ok(Story { statuses, seen })
    }
}

/// The number of messages that reach the first subscriber, and the second one.
const AT_X: usize = 8;
const AT_Y: usize = 4;

type Request = (&'static str, &'static str, Vec<&'static str>, Vec<u8>);

/// Method and path, Host, headers, body. The last message is answered, so it comes last at both subscribers.
fn requests() -> Vec<Request> {
    let text = |text: &str| text.as_bytes().to_vec();
    let host = "c.ns.channels.cluster.local";
    vec![
        (
            "POST /",
            host,
            vec!["CE-Id: plain", "Content-Type: a/b", "cookie: no", "traceparent: no"],
            text("hello"),
        ),
        ("POST /", "c.ns", vec!["ce-id: short", "knative-x: 1", "X-B3-TraceId: 2", "x-ot-y: 3"], text("hi")),
        ("POST /", "c.ns.svc.cluster.local", vec!["ce-id: bytes"], (0..=255).collect()),
        (
            "POST /",
            host,
            vec![
                "ce-id: answered",
                "Knative-Correlation-Id: ours",
                "x-request-id: asked",
                "authorization: no",
            ],
            text("question"),
        ),
        ("POST /", host, vec!["ce-id: uncorrelated"], text("question")),
        ("POST /?query=1", host, vec!["ce-id: headless"], Vec::new()),
        ("POST /", host, vec!["ce-id: failing", "knative-correlation-id: ours"], text("question")),
        ("POST /path", host, vec!["ce-id: no"], text("x")),
        ("GET /", host, vec!["ce-id: no"], Vec::new()),
        ("PUT /", host, vec!["ce-id: no"], text("x")),
        ("POST /", "absent.ns", vec!["ce-id: no"], text("x")),
        ("POST /", "c.other", vec!["ce-id: no"], text("x")),
        ("POST /", host, vec!["ce-id: last"], text("x")),
    ]
}
