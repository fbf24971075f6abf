//! A driver on a thread of its own, with `std::net`.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use relay_proto::eventsource::{Action, Attempt, Config, End, Item, Machine, Refused, Stop};
use relay_proto::http::ResponseHead;

use crate::http1::{Part, Reader, Target};

/// Follows the event stream at `url` (plain `http`) until the machine stops or `each` breaks off. `None`: `each` did.
pub(crate) fn follow(
    url: &str,
    config: Config,
    mut each: impl FnMut(Item) -> ControlFlow<()>,
) -> Option<Stop> {
    let start = Instant::now();
    let mut machine = Machine::new(config, crate::http1::seed());
    let mut connection = None;
    loop {
        match machine.poll(start.elapsed()) {
            Action::Connect(attempt) => match connect(url, &attempt) {
                Ok(opened) => connection = Some(opened),
                Err(Failed::Never(refused)) => machine.handle_refused(refused, start.elapsed()),
                Err(Failed::Now(error)) => machine.handle_end(End::Io(error.to_string()), start.elapsed()),
            },
            Action::Response(until) | Action::Bytes(until) => {
                let Some((socket, reader, target)) = &mut connection else { return None };
                let part = read(socket, reader, until.map(|until| until.saturating_sub(start.elapsed())));
                let now = start.elapsed();
                match part {
                    Ok(Part::Head(head)) => machine.handle_response(head.for_machine(&target.url), now),
                    Ok(Part::Body(bytes)) => machine.handle_bytes(bytes, now),
                    Ok(Part::End) => machine.handle_end(End::Eof, now),
                    Err(error) if is_timeout(&error) => machine.handle_timeout(now),
                    Err(error) => machine.handle_end(End::Io(error.to_string()), now),
                }
            }
            Action::Wait(until) => {
                connection = None;
                std::thread::sleep(until.saturating_sub(start.elapsed()));
            }
            Action::Item(item) => {
                if each(item).is_break() {
                    return None;
                }
            }
            Action::Stop(stop) => return Some(stop),
            _ => machine.close(),
        }
    }
}

type Connection = (TcpStream, Reader, Target);

enum Failed {
    Never(Refused),
    Now(io::Error),
}

fn connect(url: &str, attempt: &Attempt) -> Result<Connection, Failed> {
    let target = Target::new(url, attempt).map_err(Failed::Never)?;
    let mut socket = TcpStream::connect(&target.authority).map_err(Failed::Now)?;
    socket.write_all(&target.request(attempt)).map_err(Failed::Now)?;
    Ok((socket, Reader::default(), target))
}

fn read(socket: &mut TcpStream, reader: &mut Reader, limit: Option<Duration>) -> io::Result<Part> {
    loop {
        if let Some(part) = reader.next()? {
            return Ok(part);
        }
        // A limit of zero means "no limit" to a socket.
        socket.set_read_timeout(limit.map(|limit| limit.max(Duration::from_millis(1))))?;
        let mut buffer = [0; 8 << 10];
        let size = socket.read(&mut buffer)?;
        reader.feed(&buffer[..size]);
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

impl crate::http1::Head {
    pub(crate) fn for_machine<'h>(&'h self, url: &'h str) -> ResponseHead<'h> {
        self.headers
            .iter()
            .fold(ResponseHead::new(self.status, url), |head, (name, value)| head.header(name, value))
    }
}
