//! A subscriber on a raw socket, and a sender.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::interop::relay::SOON;
use crate::interop::wait_for;

/// A subscriber that answers with a status that can be changed; 0 means no answer.
#[derive(Clone)]
pub(super) struct Subscriber {
    address: SocketAddr,
    status: Arc<AtomicU16>,
    bodies: Arc<Mutex<Vec<String>>>,
}

impl Subscriber {
    pub(super) fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let subscriber = Self {
            address: listener.local_addr()?,
            status: Arc::new(AtomicU16::new(202)),
            bodies: Arc::default(),
        };
        let shared = subscriber.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(std::io::Result::ok) {
                let shared = shared.clone();
                std::thread::spawn(move || shared.serve(stream));
            }
        });
        Ok(subscriber)
    }

    fn serve(&self, stream: TcpStream) {
        let Ok(mut writing) = stream.try_clone() else { return };
        let mut reading = BufReader::new(stream);
        while let Ok(Some((_, body))) = read(&mut reading) {
            let status = self.status.load(Ordering::Acquire);
            self.bodies.lock().expect("nobody panics with it").push(body);
            let answer = format!("HTTP/1.1 {status} X\r\ncontent-length: 0\r\n\r\n");
            if status > 0 && writing.write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    pub(super) fn answers(&self, status: u16) {
        self.status.store(status, Ordering::Release);
    }

    /// Bodies of all requests so far.
    pub(super) fn bodies(&self) -> Vec<String> {
        self.bodies.lock().expect("nobody panics with it").clone()
    }

    pub(super) fn wait_for(&self, body: &str) -> Result<()> {
        wait_for(body, SOON, || Ok(self.bodies().iter().any(|known| known == body).then_some(())))
    }
}

/// The first line and the body of a request or an answer; `None` at the end.
fn read(reading: &mut BufReader<TcpStream>) -> Result<Option<(String, String)>> {
    let (mut first, mut length) = (String::new(), 0);
    if reading.read_line(&mut first)? == 0 {
        return Ok(None);
    }
    loop {
        let mut line = String::new();
        if reading.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        if line == "\r\n" {
            break;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse()?;
        }
    }
    let mut body = vec![0; length];
    reading.read_exact(&mut body)?;
    Ok(Some((first, String::from_utf8_lossy(&body).into_owned())))
}

/// Sends messages to a channel over one connection.
pub(super) struct Sender {
    host: String,
    connection: BufReader<TcpStream>,
}

impl Sender {
    /// `channel` is `NAME.NAMESPACE`.
    pub(super) fn connect(url: &str, channel: &str) -> Result<Self> {
        let stream = TcpStream::connect(url.trim_start_matches("http://"))?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        stream.set_nodelay(true)?;
        Ok(Self { host: channel.to_owned(), connection: BufReader::new(stream) })
    }

    /// Sends a message and returns the status of the answer.
    pub(super) fn send(&mut self, body: &str) -> Result<u16> {
        let request =
            format!("POST / HTTP/1.1\r\nhost: {}\r\ncontent-length: {}\r\n\r\n{body}", self.host, body.len());
        self.connection.get_mut().write_all(request.as_bytes())?;
        let (first, _) = read(&mut self.connection)?.context("the connection ended")?;
        first.split(' ').nth(1).and_then(|status| status.parse().ok()).with_context(|| first.clone())
    }
}

/// Sends one message over its own connection.
pub(super) fn send(url: &str, channel: &str, body: &str) -> Result<u16> {
    Sender::connect(url, channel)?.send(body)
}
