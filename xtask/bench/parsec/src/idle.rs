//! The memory that an idle subscription takes in a server.

use anyhow::{Context as _, Result};
use relay_bench_report::{Bar, Figure, Options};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::process::Part;

/// Ten thousand channels with a subscriber each, or fewer if the limit of open files is lower.
pub(crate) fn run(options: &Options) -> Result<Vec<Figure>> {
    let wanted: usize = if options.quick { 2_000 } else { 10_000 };
    let mut server = Part::own(&["child-server", "1000"])?;
    let url = server.line()?;
    let address = url.strip_prefix("http://").context("an address")?.to_owned();
    let runtime = tokio::runtime::Runtime::new()?;
    let figure = runtime.block_on(async {
        // The first connections make the process allocate memory that it keeps.
        let warm = open(&address, "warm", 100).await?;
        let before = server.memory()?;
        let streams = open(&address, "idle", wanted).await?;
        let after = server.memory()?;
        let each = after.saturating_sub(before) as f64 / streams.len() as f64 / 1024.0;
        drop(warm);
        Ok::<_, anyhow::Error>((streams.len(), each))
    })?;
    let name = format!("the server, per idle subscription, {} channels", figure.0);
    Ok(vec![Figure::new("idle", name, "KiB", figure.1).bar(Bar::AtMost(24.0))])
}

/// Streams that have received `connected`, each of its own channel.
async fn open(address: &str, name: &str, count: usize) -> Result<Vec<TcpStream>> {
    let mut streams = Vec::with_capacity(count);
    for number in 0..count {
        let mut socket = TcpStream::connect(address).await?;
        let request = format!(
            "GET /parsec/stream?channel=public:bench.{name}{number} HTTP/1.1\r\nhost: {address}\r\n\r\n"
        );
        socket.write_all(request.as_bytes()).await?;
        let mut seen = Vec::new();
        while !seen.windows(18).any(|window| window == b"\"heartbeat_seconds") {
            let read = socket.read_buf(&mut seen).await?;
            anyhow::ensure!(read > 0, "stream {number} ended: {}", String::from_utf8_lossy(&seen));
        }
        streams.push(socket);
    }
    Ok(streams)
}
