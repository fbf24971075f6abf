//! A TCP link on loopback that can be cut and joined: the network between relay and the system it follows.
//!
//! Bytes pass unread, so TLS goes through as it is. While the link is cut, every connection over it is closed and new
//! ones are closed as soon as they are accepted.

use std::io;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use anyhow::{Context, Result};

/// A link to one port. Its threads end with the process.
pub(super) struct Link {
    port: u16,
    state: Arc<Mutex<State>>,
}

struct State {
    cut: bool,
    /// Both ends of every connection that was opened since the last cut.
    open: Vec<TcpStream>,
}

impl Link {
    /// Listens on a free port, and passes connections on to `target`.
    pub(super) fn new(target: u16) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no free port for the link")?;
        let port = listener.local_addr()?.port();
        let state = Arc::new(Mutex::new(State { cut: false, open: Vec::new() }));
        let shared = state.clone();
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                // A connection that cannot be joined is closed, like one over a broken network.
                let _ = join(client, target, &shared);
            }
        });
        Ok(Self { port, state })
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// Closes all connections and refuses new ones until [`Link::mend`].
    pub(super) fn cut(&self) {
        let mut state = lock(&self.state);
        state.cut = true;
        for stream in state.open.drain(..) {
            // Fails only if the peer has closed the connection already.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Lets connections through again.
    pub(super) fn mend(&self) {
        lock(&self.state).cut = false;
    }
}

fn join(client: TcpStream, target: u16, state: &Mutex<State>) -> io::Result<()> {
    let server = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, target)))?;
    let mut state = lock(state);
    if state.cut {
        return Ok(());
    }
    state.open.push(client.try_clone()?);
    state.open.push(server.try_clone()?);
    pump(client.try_clone()?, server.try_clone()?);
    pump(server, client);
    Ok(())
}

/// Copies one direction in a separate thread; an end of any kind closes both.
fn pump(mut from: TcpStream, mut to: TcpStream) {
    thread::spawn(move || {
        let _ = io::copy(&mut from, &mut to);
        let _ = from.shutdown(Shutdown::Both);
        let _ = to.shutdown(Shutdown::Both);
    });
}

fn lock(state: &Mutex<State>) -> std::sync::MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn a_cut_link_closes_and_a_mended_one_carries() {
        let echo = TcpListener::bind("127.0.0.1:0").unwrap();
        let link = Link::new(echo.local_addr().unwrap().port()).unwrap();
        thread::spawn(move || {
            for mut stream in echo.incoming().flatten() {
                thread::spawn(move || {
                    let mut reader = stream.try_clone().unwrap();
                    io::copy(&mut reader, &mut stream)
                });
            }
        });
        let connect = || TcpStream::connect(("127.0.0.1", link.port())).unwrap();
        let ping = |stream: &mut TcpStream| {
            let mut answer = [0; 4];
            stream.write_all(b"ping").and_then(|()| stream.read_exact(&mut answer)).map(|()| answer)
        };
        let mut open = connect();
        assert_eq!(ping(&mut open).unwrap(), *b"ping");
        link.cut();
        assert!(ping(&mut open).is_err(), "open connections end");
        assert!(ping(&mut connect()).is_err(), "new ones end at once");
        link.mend();
        assert_eq!(ping(&mut connect()).unwrap(), *b"ping");
    }
}
