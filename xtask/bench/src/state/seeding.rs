//! The memory that is needed to read a list of pods through HTTP, compared with the memory to keep them.

use std::io::{BufRead, BufReader, BufWriter, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use futures_util::StreamExt as _;
use relay_pods::{Client, Phase, StreamOptions};

use super::corpus::{Cluster, EPOCH, hash};
use crate::measure::{self, Result as Figure};

const PODS: u64 = 100_000;
/// The number of lists that are read again on one stream.
const RESEEDS: usize = 3;

/// A client in a separate process follows a relay in this process.
pub fn run() -> Result<Vec<Figure>> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                if let Err(error) = answer(stream) {
                    eprintln!("the list was not read to its end: {error}");
                }
            });
        }
    });
    let output = Command::new(std::env::current_exe()?)
        .args(["state-seed-once", &format!("http://{address}"), &PODS.to_string()])
        .output()?;
    ensure!(output.status.success(), "seeding: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout)?;
    let values: Vec<f64> = text.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
    let [before, steady, first, again] = values[..] else { bail!("seeding: {text}") };
    println!(
        "Seeding {PODS} pods through HTTP (whole process): {:.1} MB before, {:.1} MB with the pods.\n\
         Peak of the first list {:.2} times that, of {RESEEDS} more lists {:.2} times.",
        before / 1e6,
        steady / 1e6,
        first / steady,
        again / steady
    );
    let figure = |work: &str, value| Figure {
        bench: "state",
        work: format!("{work}/{PODS}"),
        name: "relay".into(),
        unit: "peak/steady",
        value,
        runs: 1,
    };
    Ok(vec![figure("seed", first / steady), figure("reseed", again / steady)])
}

/// `bench state-seed-once URL PODS`: prints the resident bytes before, with the pods, and the peaks.
pub fn once(arguments: &[String]) -> Result<()> {
    let [url, pods] = arguments else { bail!("usage: state-seed-once URL PODS") };
    let pods: usize = pods.parse()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let client = Client::builder(url).build()?;
        let before = measure::memory("VmRSS")?;
        let mut snapshots = client.stream_pod_state(StreamOptions::new());
        let mut held = snapshots.next().await.context("no snapshot")??;
        ensure!(held.pods.len() == pods, "a list of {} pods", held.pods.len());
        let (steady, first) = (measure::memory("VmRSS")?, measure::memory("VmHWM")?);
        for _ in 0..RESEEDS {
            held = snapshots.next().await.context("no snapshot")??;
            ensure!(
                held.phase == Phase::GapReseed && held.pods.len() == pods,
                "{}: {}",
                held.phase,
                held.pods.len()
            );
        }
        println!("{before} {steady} {first} {}", measure::memory("VmHWM")?);
        Ok(())
    })
}

/// A minimal relay: a list, and a stream with a gap for each further list.
fn answer(stream: TcpStream) -> Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut request = String::new();
    reader.read_line(&mut request)?;
    let mut line = String::new();
    while reader.read_line(&mut line)? > 2 {
        line.clear();
    }
    let mut out = BufWriter::with_capacity(64 << 10, stream);
    let position = format!("\"hash\":\"{}\",\"sequence\":{PODS},\"epoch\":\"{EPOCH}\"", hash(PODS));
    let head = |kind: &str| format!("HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\nconnection: close\r\n\r\n");
    if request.starts_with("GET /pods") {
        out.write_all(head("application/x-ndjson").as_bytes())?;
        writeln!(out, "{{\"count\":{PODS},{position}}}")?;
        for pod in Cluster::new(PODS, super::GROUPS).relay_list() {
            writeln!(out, "{pod}")?;
        }
        writeln!(out, "{{\"end\":true,\"count\":{PODS}}}")?;
        out.flush()?;
        return Ok(());
    }
    out.write_all(head("text/event-stream").as_bytes())?;
    let at = format!("{{\"hash\":\"{}\",\"sequence\":{PODS}}}", hash(PODS));
    write!(
        out,
        "event: connected\ndata: {{\"protocol\":1,\"epoch\":\"{EPOCH}\",\"filtered\":false,\"head\":{at},\"resumes_after\":{at}}}\n\n"
    )?;
    for _ in 0..RESEEDS {
        write!(out, "event: gap\ndata: {{\"reason\":\"slow-consumer\",{position}}}\n\n")?;
    }
    out.flush()?;
    // Waits until the client is gone.
    std::io::copy(&mut reader, &mut std::io::sink())?;
    Ok(())
}
