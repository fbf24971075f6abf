//! A driver on the smol executor. Nothing here depends on it, so any other executor works, too.

use std::io;
use std::ops::ControlFlow;
use std::time::Instant;

use relay_proto::eventsource::{Action, Attempt, Config, End, Item, Machine, Stop};
use smol::Timer;
use smol::future::or;
use smol::io::{AsyncReadExt, AsyncWriteExt};
use smol::net::TcpStream;

use crate::http1::{Part, Reader, Target};

/// Follows the event stream at `url` (plain `http`) until the machine stops or `each` breaks off. `None`: `each` did.
/// Dropping the future closes the connection.
pub(crate) async fn follow(
    url: &str,
    config: Config,
    mut each: impl FnMut(Item) -> ControlFlow<()>,
) -> Option<Stop> {
    let start = Instant::now();
    let mut machine = Machine::new(config, crate::http1::seed());
    let mut connection = None;
    loop {
        let until = match machine.poll(start.elapsed()) {
            Action::Connect(attempt) => {
                match Target::new(url, &attempt) {
                    Ok(target) => connection = Some(Connection::new(target, attempt)),
                    Err(refused) => machine.handle_refused(refused, start.elapsed()),
                }
                continue;
            }
            Action::Response(until) | Action::Bytes(until) => until,
            Action::Wait(until) => {
                connection = None;
                Timer::at(start + until).await;
                continue;
            }
            Action::Item(item) => {
                if each(item).is_break() {
                    return None;
                }
                continue;
            }
            Action::Stop(stop) => return Some(stop),
            _ => return None,
        };
        let connection = connection.as_mut()?;
        let timeout = async {
            match until {
                Some(until) => Timer::at(start + until).await,
                None => smol::future::pending().await,
            };
            Err(io::ErrorKind::TimedOut.into())
        };
        // Bytes are read before the clock: the deadline may have passed while the caller was busy.
        let part = or(connection.next(), timeout).await;
        let now = start.elapsed();
        match part {
            Ok(Part::Head(head)) => machine.handle_response(head.for_machine(&connection.target.url), now),
            Ok(Part::Body(bytes)) => machine.handle_bytes(bytes, now),
            Ok(Part::End) => machine.handle_end(End::Eof, now),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => machine.handle_timeout(now),
            Err(error) => machine.handle_end(End::Io(error.to_string()), now),
        }
    }
}

/// Opened when it is first read, so that connecting has the same deadline as the response.
struct Connection {
    socket: Option<TcpStream>,
    reader: Reader,
    target: Target,
    attempt: Attempt,
}

impl Connection {
    fn new(target: Target, attempt: Attempt) -> Self {
        Self { socket: None, reader: Reader::default(), target, attempt }
    }

    /// The next part of the answer. May be dropped at any time: nothing is lost but an attempt to connect.
    async fn next(&mut self) -> io::Result<Part> {
        loop {
            if let Some(part) = self.reader.next()? {
                return Ok(part);
            }
            let socket = match &mut self.socket {
                Some(socket) => socket,
                unopened => {
                    let mut socket = TcpStream::connect(&self.target.authority).await?;
                    socket.write_all(&self.target.request(&self.attempt)).await?;
                    unopened.insert(socket)
                }
            };
            let mut buffer = [0; 8 << 10];
            let size = socket.read(&mut buffer).await?;
            self.reader.feed(&buffer[..size]);
        }
    }
}
