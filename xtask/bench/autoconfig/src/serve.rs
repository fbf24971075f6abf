//! A change of 1,500 environments to 200 subscribers, with and without one that never reads.

use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use relay_autoconfig_server::{Handle, Server};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::{Figure, figure};

const SUBSCRIBERS: usize = 200;
const ENVIRONMENTS: usize = 1500;

fn write(file: &Path, name: &str) -> Result<()> {
    let mut text = "environments:\n".to_owned();
    for i in 0..ENVIRONMENTS {
        writeln!(
            text,
            "  e{i:04}: {{envName: {name}, projName: Project, sdkKey: sdk-{i}, mobKey: mob-{i}}}"
        )?;
    }
    let new = file.with_extension("new");
    std::fs::write(&new, text)?;
    Ok(std::fs::rename(new, file)?)
}

async fn subscribe(server: &Handle) -> Result<TcpStream> {
    let mut socket = TcpStream::connect(server.local_addr()).await?;
    socket.write_all(b"GET /relay_auto_config HTTP/1.1\r\nhost: bench\r\n\r\n").await?;
    Ok(socket)
}

/// Reads until this many events have arrived.
async fn events(socket: &mut TcpStream, wanted: usize) -> Result<()> {
    let (mut seen, mut buffer, mut tail) = (0, vec![0; 64 << 10], Vec::new());
    while seen < wanted {
        let read = socket.read(&mut buffer).await?;
        ensure!(read > 0, "the stream goes on");
        tail.extend_from_slice(&buffer[..read]);
        const MARK: &[u8] = b"\nevent: ";
        while let Some(at) = tail.windows(MARK.len()).position(|window| window == MARK) {
            seen += 1;
            tail.drain(..at + MARK.len());
        }
        // A mark may be split across two reads.
        let keep = tail.len().min(MARK.len());
        tail.drain(..tail.len() - keep);
    }
    Ok(())
}

pub(crate) fn run() -> Result<Vec<Figure>> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let directory = tempfile::tempdir()?;
        let file = directory.path().join("e.yaml");
        write(&file, "One")?;
        let server = Server::builder(&file).bind("127.0.0.1:0".parse()?).await?;
        let handle = server.handle();
        let running = tokio::spawn(server.run(std::future::pending()));
        let mut subscribers = Vec::new();
        for _ in 0..SUBSCRIBERS {
            let mut socket = subscribe(&handle).await?;
            events(&mut socket, 1).await?;
            subscribers.push(socket);
        }
        let mut figures = Vec::new();
        let mut deaf = Vec::new();
        for (name, work) in
            [("Two", "1,500 changes to 200 subscribers"), ("Three", "the same beside one that never reads")]
        {
            let before = handle.encoded();
            let begin = Instant::now();
            write(&file, name)?;
            let reading: Vec<_> = subscribers
                .drain(..)
                .map(|mut socket| {
                    tokio::spawn(async move { events(&mut socket, ENVIRONMENTS).await.map(|()| socket) })
                })
                .collect();
            for reading in reading {
                let socket =
                    tokio::time::timeout(Duration::from_secs(60), reading).await.context("too slow")??;
                subscribers.push(socket?);
            }
            figures.push(figure(work, begin.elapsed().as_secs_f64(), "s", 2.0));
            let encoded = (handle.encoded() - before) as f64 / ENVIRONMENTS as f64;
            figures.push(figure("encoded, per change", encoded, "times", 1.0));
            // The server encodes a put for this subscriber, which never reads.
            deaf.push(subscribe(&handle).await?);
            while handle.subscribers() <= SUBSCRIBERS as u64 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        handle.shutdown();
        running.await?;
        Ok(figures)
    })
}
