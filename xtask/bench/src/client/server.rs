//! The server: sends prepared bytes, and does as little else as possible.

use std::collections::HashMap;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};

use super::work::{self, GREETING_EVENT, WORKS, Wire, Work};

const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-store\r\n\
    transfer-encoding: chunked\r\n\r\n";

struct Server {
    works: HashMap<&'static str, (&'static Work, Wire)>,
    burst: Wire,
    /// Connections that wait for the burst.
    idle: Mutex<Vec<TcpStream>>,
}

/// `bench client-server`: prints its port and serves until its standard input ends.
///
/// `/WORK/PASSES/...` is a stream of that work. `/idle/0/...` is one event and then silence until a client requests
/// `/burst/0/...`: then all silent streams get 1 MB, one after the other.
pub fn serve() -> anyhow::Result<()> {
    let burst = work::burst()?;
    let works = WORKS.iter().map(|work| Ok((work.name, (work, work.wire()?))));
    let works = works.collect::<anyhow::Result<_>>()?;
    let server = Arc::new(Server { works, burst, idle: Mutex::default() });
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    println!("{}", listener.local_addr()?.port());
    std::thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            let server = server.clone();
            // A client that has everything closes the connection, which is not an error.
            std::thread::spawn(move || server.answer(connection));
        }
    });
    io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

impl Server {
    fn answer(&self, mut connection: TcpStream) -> io::Result<()> {
        connection.set_nodelay(true)?;
        let mut request = BufReader::new(connection.try_clone()?);
        let mut first = String::new();
        request.read_line(&mut first)?;
        let mut line = String::new();
        while line != "\r\n" {
            line.clear();
            if request.read_line(&mut line)? == 0 {
                return Ok(());
            }
        }
        let mut path = first.split_whitespace().nth(1).unwrap_or_default().split('/').skip(1);
        let (name, passes) = (path.next().unwrap_or_default(), path.next().unwrap_or_default());
        let idle = || self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        match name {
            "idle" => {
                connection.write_all(HEAD)?;
                connection.write_all(GREETING_EVENT)?;
                idle().push(connection);
            }
            "burst" => {
                for mut idle in std::mem::take(&mut *idle()) {
                    for write in &self.burst.writes {
                        idle.write_all(write)?;
                    }
                    // The connection stays open until the client is gone.
                    std::thread::Builder::new()
                        .stack_size(64 << 10)
                        .spawn(move || idle.read_to_end(&mut Vec::new()))?;
                }
                connection.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")?;
            }
            _ => {
                let Some((work, wire)) = self.works.get(name) else { return Ok(()) };
                connection.write_all(HEAD)?;
                for _ in 0..passes.parse().unwrap_or(0) {
                    for write in &wire.writes {
                        connection.write_all(write)?;
                        if !work.pause.is_zero() {
                            std::thread::sleep(work.pause);
                        }
                    }
                }
                connection.write_all(b"0\r\n\r\n")?;
            }
        }
        Ok(())
    }
}
