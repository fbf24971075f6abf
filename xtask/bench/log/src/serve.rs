//! A relay's replay of its whole log to one client, from memory and from disk, compared with hyper sending a body of
//! the same bytes; and how fast events get into the log.

use std::convert::Infallible;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use bytes::Bytes;
use cpu_time::ProcessTime;
use http_body_util::StreamBody;
use hyper::body::Frame;
use relay_log::{DiskOptions, DiskStore, MemoryStore, Store};
use relay_pods_server::{Config, DEFAULT_RETENTION, Scope, Server};
use relay_proto::pods::{Pod, PodBuilder};

use crate::Report;

/// The number of pods that the events are about.
const PODS: u64 = 1000;
/// The number of bytes that hyper gets at a time. More does not make it faster.
const PIECE: usize = 128 << 10;
/// The two servers take turns, so that both see the same machine.
const ROUNDS: usize = 9;

/// Measures both stores.
pub fn run(out: &mut Report, runtime: &tokio::runtime::Runtime, quick: bool) -> Result<()> {
    let events = if quick { 200_000 } else { 1_000_000 };
    measure(out, runtime, "memory", Arc::new(MemoryStore::new()), events)?;
    let dir = tempfile::tempdir()?;
    let store = DiskStore::open(dir.path(), DiskOptions::default())?;
    measure(out, runtime, "disk", Arc::new(store), events)
}

fn pod(number: u64, version: u64) -> Pod {
    PodBuilder::new("prod", &format!("web-7d9f-{number:05}"))
        .uid(Some(&format!("6f1c0000-0000-4000-8000-{number:012}")))
        .resource_version(Some(&version.to_string()))
        .label("app", "web")
        .label("run", &format!("d-{}", number % 50))
        .phase(Some("Running"))
        .node_name(Some(&format!("node-{}", number % 20)))
        .build()
}

fn measure(
    out: &mut Report,
    runtime: &tokio::runtime::Runtime,
    kind: &str,
    store: Arc<dyn Store>,
    events: u64,
) -> Result<()> {
    let filled = runtime.block_on(async {
        let retention =
            DEFAULT_RETENTION.entries(2 * events).bytes(1 << 40).age(Duration::from_secs(1 << 20));
        let builder = Server::builder(Config::default()).shared_store(store).retention(retention);
        let server = builder.bind("127.0.0.1:0").await?;
        let (handle, address) = (server.handle(), server.local_addr());
        let running = tokio::spawn(server.run(std::future::pending()));
        let publisher = handle.publisher().ahead();
        publisher.relist(Scope::All, (0..PODS).map(|number| pod(number, 0)).collect()).await?;
        let began = Instant::now();
        for at in PODS..events {
            publisher.upsert(pod(at % PODS, at)).await?;
        }
        while publisher.head() < events {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let rate = (events - PODS) as f64 / began.elapsed().as_secs_f64();
        out.row(&format!("relay serve, {kind}: events taken one at a time"), "relay", rate, "events/s");
        Ok::<_, anyhow::Error>((handle, address, running))
    });
    let (handle, address, running) = filled?;
    let mut same = Vec::new();
    let bytes = receive(address, "/events/stream", None, &mut |fresh| same.extend_from_slice(fresh))?.0;
    let plain = runtime.block_on(body_of(same.into()))?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    // The CPU time of server and client together. On a busy machine it says more than elapsed time.
    let mut cpu = [Duration::ZERO; 2];
    for _ in 0..ROUNDS {
        let began = ProcessTime::now();
        // By the number of bytes for both: to look for the last event costs time that the other does not spend.
        ours.push(receive(address, "/events/stream", Some(bytes), &mut |_| ())?.1);
        let between = ProcessTime::now();
        theirs.push(receive(plain, "/", Some(bytes), &mut |_| ())?.1);
        cpu[0] += between.duration_since(began);
        cpu[1] += between.elapsed();
    }
    for times in [&mut ours, &mut theirs] {
        times.sort();
    }
    let mb = bytes as f64 / 1e6;
    let (ours, theirs) = (ours[ROUNDS / 2].as_secs_f64(), theirs[ROUNDS / 2].as_secs_f64());
    let work = format!("relay serve, {kind}: replay of {events} events, {mb:.0} MB");
    out.row(&work, "relay", mb / ours, "MB/s");
    out.row(&work, "hyper", mb / theirs, "MB/s");
    out.row(&work, "relay", 100.0 * theirs / ours, "% of hyper");
    let cpu = 100.0 * cpu[1].as_secs_f64() / cpu[0].as_secs_f64();
    out.row(&work, "relay", cpu, "% of hyper, CPU time of both ends");
    handle.shutdown();
    runtime.block_on(running)??;
    Ok(())
}

/// Requests a body, and reads until this many bytes have arrived or a relay says that it has sent everything. Returns
/// the bytes of the body, and the time since the request.
fn receive(
    address: SocketAddr,
    target: &str,
    bytes: Option<usize>,
    each: &mut dyn FnMut(&[u8]),
) -> Result<(usize, Duration)> {
    let mut stream = TcpStream::connect(address)?;
    let began = Instant::now();
    // HTTP/1.0 has no chunks, so both servers send the same bytes.
    write!(stream, "GET {target} HTTP/1.0\r\nhost: bench\r\n\r\n")?;
    let mut buffer = vec![0; 256 << 10];
    let (mut all, mut tail, mut head) = (0, Vec::new(), None);
    loop {
        let read = stream.read(&mut buffer)?;
        ensure!(read > 0, "the body ended after {all} bytes");
        let mut fresh = &buffer[..read];
        if head.is_none() {
            tail.extend_from_slice(fresh);
            let Some(end) = tail.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
            ensure!(tail.starts_with(b"HTTP/1.0 200"), "{}", String::from_utf8_lossy(&tail[..end]));
            head = Some(end);
            let behind = tail.len() - end - 4;
            fresh = &fresh[read - behind..];
            tail.clear();
        }
        all += fresh.len();
        each(fresh);
        match bytes {
            Some(bytes) if all >= bytes => return Ok((all, began.elapsed())),
            Some(_) => {}
            None => {
                // The last event is small: it is in the last piece, or spans the last two.
                let keep = &fresh[fresh.len().saturating_sub(512)..];
                tail.extend_from_slice(keep);
                if tail.windows(16).any(|name| name == b"catchup_complete") {
                    return Ok((all, began.elapsed()));
                }
                tail.drain(..tail.len().saturating_sub(512));
            }
        }
    }
}

/// A server that answers every request with these bytes, in pieces.
async fn body_of(body: Bytes) -> Result<SocketAddr> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let body = body.clone();
            let _ = stream.set_nodelay(true);
            tokio::spawn(async move {
                let service = hyper::service::service_fn(move |_| {
                    let body = body.clone();
                    let frames = (0..body.len().div_ceil(PIECE)).map(move |at| {
                        let piece = at * PIECE..body.len().min((at + 1) * PIECE);
                        Ok::<_, Infallible>(Frame::data(body.slice(piece)))
                    });
                    let body = StreamBody::new(futures_util::stream::iter(frames));
                    async move { Ok::<_, Infallible>(hyper::Response::new(body)) }
                });
                let io = hyper_util::rt::TokioIo::new(stream);
                // A client closes the connection when it has everything.
                let _ = hyper::server::conn::http1::Builder::new().serve_connection(io, service).await;
            });
        }
    });
    Ok(address)
}
