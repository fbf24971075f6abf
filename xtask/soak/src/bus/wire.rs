//! Subscribers and a sender, on raw sockets.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// The messages that subscriptions got: by path, how often each one came.
type Got = BTreeMap<String, BTreeMap<String, u64>>;

/// All subscribers in one server; the path is the name of the subscription.
#[derive(Clone)]
pub(super) struct Subscribers {
    pub(super) address: SocketAddr,
    got: Arc<Mutex<Got>>,
    /// One in this many requests gets an error, or no answer.
    failing: Arc<AtomicU64>,
}

impl Subscribers {
    pub(super) async fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let subscribers = Self { address, got: Arc::default(), failing: Arc::default() };
        let shared = subscribers.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let shared = shared.clone();
                tokio::spawn(async move { shared.serve(stream).await });
            }
        });
        Ok(subscribers)
    }

    /// From now on, every n-th request is answered with 500, or its connection is closed; 0 means never.
    pub(super) fn fail_one_in(&self, n: u64) {
        self.failing.store(n, Ordering::Release);
    }

    pub(super) fn got(&self) -> MutexGuard<'_, Got> {
        self.got.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a subscription has got this message.
    pub(super) fn has(&self, subscription: &str, message: &str) -> bool {
        self.got().get(subscription).is_some_and(|got| got.contains_key(message))
    }

    async fn serve(&self, stream: TcpStream) {
        let mut stream = BufReader::new(stream);
        let mut count = 0;
        while let Ok((first, body)) = read(&mut stream).await {
            let path = first.split(' ').nth(1).unwrap_or_default().trim_start_matches('/').to_owned();
            *self.got().entry(path).or_default().entry(body).or_default() += 1;
            count += 1;
            let answer = match self.failing.load(Ordering::Acquire) {
                0 => "202 Accepted",
                n if count % (2 * n) == 0 => return,
                n if count % n == 0 => "500 No",
                _ => "202 Accepted",
            };
            let answer = format!("HTTP/1.1 {answer}\r\ncontent-length: 0\r\n\r\n");
            if stream.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    }
}

/// The first line and the body of a request or an answer.
async fn read(stream: &mut BufReader<TcpStream>) -> Result<(String, String)> {
    let (mut first, mut length) = (String::new(), 0);
    stream.read_line(&mut first).await?;
    loop {
        let mut line = String::new();
        anyhow::ensure!(stream.read_line(&mut line).await? > 0, "the connection ended");
        if line == "\r\n" {
            break;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse()?;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    Ok((first, String::from_utf8(body)?))
}

/// Makes one request to a server. Returns the status and the body.
async fn ask(to: SocketAddr, request: String) -> Result<(u16, String)> {
    let asked = async {
        let mut stream = BufReader::new(TcpStream::connect(to).await?);
        stream.write_all(request.as_bytes()).await?;
        let (first, body) = read(&mut stream).await?;
        let status = first.split(' ').nth(1).and_then(|status| status.parse().ok());
        Ok((status.with_context(|| format!("no status: {first}"))?, body))
    };
    tokio::time::timeout(Duration::from_secs(20), asked).await.context("no answer within 20 s")?
}

/// Sends a message to a channel of the namespace `ns`. Returns the status, or `None` without an answer.
pub(super) async fn send(to: SocketAddr, channel: &str, message: &str) -> Option<u16> {
    let length = message.len();
    let request = format!(
        "POST / HTTP/1.1\r\nhost: {channel}.ns\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{message}"
    );
    Some(ask(to, request).await.ok()?.0)
}

/// The value of a metric, or of another line with a name and a value.
pub(super) async fn metric(admin: SocketAddr, name: &str) -> Option<u64> {
    let request = "GET /metrics HTTP/1.1\r\nhost: soak\r\nconnection: close\r\n\r\n".to_owned();
    let (_, text) = ask(admin, request).await.ok()?;
    text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
}
