//! Senders and subscribers on raw sockets. They cost as little as possible, because the bus between them is measured.

use std::collections::BTreeSet;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::Notify;

use crate::process::processor_time;

/// Finds the end of a head.
fn head_end(bytes: &[u8]) -> Option<usize> {
    let mut from = 0;
    // A line end is rarer than any other byte: few places are looked at twice.
    while let Some(at) = bytes[from..].iter().position(|byte| *byte == b'\n') {
        from += at + 1;
        if bytes[..from].ends_with(b"\r\n\r\n") {
            return Some(from);
        }
    }
    None
}

fn content_length(head: &[u8]) -> usize {
    const NAME: &[u8] = b"content-length:";
    let mut lines = head.split(|byte| *byte == b'\n');
    let value = lines.find_map(|line| {
        let (name, value) = line.split_at_checked(NAME.len())?;
        name.eq_ignore_ascii_case(NAME).then_some(value)
    });
    let digits = value.unwrap_or_default().trim_ascii();
    digits.iter().fold(0, |length, digit| length * 10 + usize::from(digit - b'0'))
}

/// A thread with all senders and subscribers of a work: one thread that waits for all of its connections at once costs
/// the machine less than several that wake each other.
pub(crate) struct Load {
    runtime: Handle,
    /// As [`processor_time`](crate::process::processor_time) wants it.
    thread: String,
}

impl Load {
    pub(crate) fn start() -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (tell, told) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let _ = tell.send(std::fs::read_link("/proc/thread-self"));
            runtime.block_on(std::future::pending::<()>());
        });
        let thread = told.recv()??.to_string_lossy().into_owned();
        Ok(Self { runtime: handle, thread })
    }

    /// Does it in that thread.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        self.runtime.spawn(work).await?
    }

    pub(crate) fn processor_time(&self) -> Result<Duration> {
        processor_time(&self.thread)
    }
}

/// A subscriber that accepts every message, and knows how long each one was in transit.
#[derive(Clone)]
pub(crate) struct Sink {
    pub(crate) address: SocketAddr,
    begin: Instant,
    pub(crate) count: Arc<AtomicU64>,
    more: Arc<Notify>,
    /// In nanoseconds; empty unless it is wanted.
    pub(crate) delays: Arc<Mutex<Vec<u64>>>,
    timed: bool,
    answers: bool,
    /// The sending times of the received messages, which identify them.
    came: Option<Arc<Mutex<BTreeSet<u64>>>>,
}

impl Sink {
    pub(crate) async fn start(begin: Instant, timed: bool, answers: bool) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let (address, count) = (listener.local_addr()?, Arc::default());
        let (more, delays) = Default::default();
        let came = Some(Arc::default()).filter(|_| timed);
        let sink = Self { address, begin, count, more, delays, timed, answers, came };
        let shared = sink.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let shared = shared.clone();
                tokio::spawn(async move { shared.serve(stream).await });
            }
        });
        Ok(sink)
    }

    /// Whether the message with this sending time has arrived. Only for a sink that records times.
    pub(crate) fn remembers(&self, time: u64) -> bool {
        self.came.as_ref().is_some_and(|came| came.lock().expect("nobody panics with it").contains(&time))
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    async fn serve(&self, mut stream: TcpStream) -> Result<()> {
        stream.set_nodelay(true)?;
        let mut held = Vec::with_capacity(8 << 10);
        loop {
            let (end, length) = loop {
                if let Some(end) = head_end(&held) {
                    break (end, content_length(&held[..end]));
                }
                ensure!(stream.read_buf(&mut held).await? > 0);
            };
            while held.len() < end + length {
                ensure!(stream.read_buf(&mut held).await? > 0);
            }
            if self.timed {
                let sent =
                    held[end..end + 20].iter().fold(0, |time, digit| time * 10 + u64::from(digit - b'0'));
                let delay = (self.begin.elapsed().as_nanos() as u64).saturating_sub(sent);
                self.delays.lock().expect("nobody panics with it").push(delay);
                if let Some(came) = &self.came {
                    came.lock().expect("nobody panics with it").insert(sent);
                }
            }
            held.drain(..end + length);
            self.count.fetch_add(1, Ordering::AcqRel);
            self.more.notify_waiters();
            if self.answers {
                stream.write_all(b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n").await?;
            }
        }
    }

    /// Waits until this many messages have arrived.
    pub(crate) async fn wait_for(&self, count: u64) -> Result<()> {
        let waiting = async {
            loop {
                let more = self.more.notified();
                if self.count.load(Ordering::Acquire) >= count {
                    return;
                }
                more.await;
            }
        };
        let came = tokio::time::timeout(Duration::from_secs(120), waiting).await;
        ensure!(came.is_ok(), "{} of {count} messages came", self.count.load(Ordering::Acquire));
        Ok(())
    }
}

/// A connection that sends messages of one size to a channel.
pub(crate) struct Sender {
    stream: TcpStream,
    begin: Instant,
    request: Vec<u8>,
    /// The position of the sending time in the message.
    time: usize,
    answer: Vec<u8>,
}

impl Sender {
    pub(crate) async fn connect(to: SocketAddr, channel: &str, size: usize, begin: Instant) -> Result<Self> {
        let stream = TcpStream::connect(to).await?;
        stream.set_nodelay(true)?;
        let mut request =
            format!("POST / HTTP/1.1\r\nhost: {channel}.ns\r\nce-id: 1\r\ncontent-length: {size}\r\n\r\n")
                .into_bytes();
        let time = request.len();
        request.resize(time + size, b'x');
        Ok(Self { stream, begin, request, time, answer: Vec::new() })
    }

    /// The sending time of the last message.
    pub(crate) fn last_time(&self) -> u64 {
        let digits = &self.request[self.time..self.time + 20];
        digits.iter().fold(0, |time, digit| time * 10 + u64::from(digit - b'0'))
    }

    /// Sends one message, and reads the status of its answer.
    pub(crate) async fn send(&mut self) -> Result<u16> {
        let now = format!("{:020}", self.begin.elapsed().as_nanos());
        self.request[self.time..self.time + 20].copy_from_slice(now.as_bytes());
        self.stream.write_all(&self.request).await?;
        let end = loop {
            if let Some(end) = head_end(&self.answer) {
                break end;
            }
            ensure!(self.stream.read_buf(&mut self.answer).await? > 0, "the connection ended");
        };
        let whole = end + content_length(&self.answer[..end]);
        while self.answer.len() < whole {
            ensure!(self.stream.read_buf(&mut self.answer).await? > 0, "the connection ended");
        }
        let status = std::str::from_utf8(&self.answer[9..12])?.parse()?;
        self.answer.drain(..whole);
        Ok(status)
    }
}

/// Many senders together send many messages; each of them must be accepted.
pub(crate) async fn send_all(to: SocketAddr, senders: usize, messages: u64, begin: Instant) -> Result<()> {
    let left = Arc::new(AtomicU64::new(messages));
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..senders {
        let left = left.clone();
        tasks.spawn(async move {
            let mut sender = Sender::connect(to, "c0", 1024, begin).await?;
            let take = |left: u64| left.checked_sub(1);
            while left.fetch_update(Ordering::AcqRel, Ordering::Acquire, take).is_ok() {
                let status = sender.send().await?;
                ensure!(status == 202, "a message was answered with {status}");
            }
            Ok(())
        });
    }
    while let Some(sent) = tasks.join_next().await {
        sent??;
    }
    Ok(())
}
