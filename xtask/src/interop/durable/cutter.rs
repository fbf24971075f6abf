//! A link to a server that cuts connections on demand: after a number of bytes of a response, or instead of one.

use std::collections::VecDeque;
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use anyhow::{Context, Result};

/// A proxy to one port. Its threads end with the process.
pub(super) struct Cutter {
    port: u16,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// For each connection to be cut: the number of answer bytes that it still passes on.
    orders: VecDeque<usize>,
    connections: usize,
    open: Vec<TcpStream>,
}

impl Cutter {
    /// Listens on a free port, and passes connections on to the server of this URL.
    pub(super) fn new(url: &str) -> Result<Self> {
        let (_, port) = url.rsplit_once(':').context("a URL without a port")?;
        let target: u16 = port.trim_end_matches('/').parse()?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no free port")?;
        let port = listener.local_addr()?.port();
        let state = Arc::new(Mutex::new(State::default()));
        let shared = state.clone();
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                // A connection that cannot be made is closed, as on a broken network.
                let _ = join(client, target, &shared);
            }
        });
        Ok(Self { port, state })
    }

    pub(super) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Cuts the next connection with an answer after this many bytes of it; 0 loses the answer.
    pub(super) fn cut_after(&self, bytes: usize) {
        lock(&self.state).orders.push_back(bytes);
    }

    /// Cuts all connections.
    pub(super) fn cut(&self) {
        for stream in lock(&self.state).open.drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// The number of connections so far.
    pub(super) fn connections(&self) -> usize {
        lock(&self.state).connections
    }

    /// The number of orders that are left.
    pub(super) fn orders(&self) -> usize {
        lock(&self.state).orders.len()
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn join(client: TcpStream, target: u16, state: &Arc<Mutex<State>>) -> io::Result<()> {
    let server = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, target)))?;
    {
        let mut state = lock(state);
        state.connections += 1;
        state.open.push(client.try_clone()?);
        state.open.push(server.try_clone()?);
    }
    let (mut up, mut to_server) = (client.try_clone()?, server.try_clone()?);
    thread::spawn(move || {
        let _ = io::copy(&mut up, &mut to_server);
        let _ = up.shutdown(Shutdown::Both);
        let _ = to_server.shutdown(Shutdown::Both);
    });
    let state = state.clone();
    thread::spawn(move || {
        let (mut server, mut client) = (server, client);
        let _ = answers(&mut server, &mut client, &state);
        let _ = server.shutdown(Shutdown::Both);
        let _ = client.shutdown(Shutdown::Both);
    });
    Ok(())
}

/// Passes answers on until the connection ends or its order is used up.
fn answers(server: &mut TcpStream, client: &mut TcpStream, state: &Mutex<State>) -> io::Result<()> {
    let mut buffer = vec![0; 16 << 10];
    let mut left = None;
    loop {
        let read = server.read(&mut buffer)?;
        if read == 0 {
            return Ok(());
        }
        if left.is_none() {
            left = lock(state).orders.pop_front();
        }
        let passed = left.map_or(read, |left: usize| left.min(read));
        client.write_all(&buffer[..passed])?;
        if let Some(left) = &mut left {
            *left -= passed;
            if *left == 0 {
                return Ok(());
            }
        }
    }
}
