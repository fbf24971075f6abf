//! From a host name to a TCP connection: tries all addresses, each with a head start over the next.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use http::Uri;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpStream, lookup_host};

/// Head start of an address over the next (RFC 8305 recommends as much).
const HEAD_START: Duration = Duration::from_millis(250);

/// Limit of addresses tried per host.
const MAX_ADDRESSES: usize = 32;

/// Makes TCP connections.
#[derive(Clone, Default)]
pub(crate) struct Dialer {
    /// Hosts with configured addresses, in lower case; the system does not resolve them.
    pub(crate) known: Arc<HashMap<String, Vec<IpAddr>>>,
}

impl Dialer {
    /// The first connection that one of the addresses of a URL's host gives.
    pub(crate) async fn dial(&self, uri: &Uri) -> io::Result<TcpStream> {
        let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
        let port = uri.port_u16().unwrap_or(if uri.scheme_str() == Some("https") { 443 } else { 80 });
        let addresses: Vec<SocketAddr> = match self.known.get(&host.to_ascii_lowercase()) {
            Some(known) => known.iter().map(|&ip| SocketAddr::new(ip, port)).collect(),
            None => lookup_host((host, port)).await.map_err(in_words("no address of the host"))?.collect(),
        };
        let stream = race(alternate(addresses), TcpStream::connect).await?;
        stream.set_nodelay(true)?;
        let keepalive = TcpKeepalive::new().with_time(Duration::from_secs(60));
        SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
        Ok(stream)
    }
}

/// Alternates IPv6 and IPv4, starting with the family that the system lists first, so that neither can delay the
/// other for long.
fn alternate(addresses: Vec<SocketAddr>) -> VecDeque<SocketAddr> {
    let first = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (mut one, mut other): (VecDeque<_>, VecDeque<_>) =
        addresses.into_iter().partition(|address| address.is_ipv6() == first);
    let mut turns = VecDeque::new();
    while !(one.is_empty() && other.is_empty()) {
        turns.extend(one.pop_front());
        turns.extend(other.pop_front());
    }
    turns.truncate(MAX_ADDRESSES);
    turns
}

/// The first connection that is made. Every address has a head start over the next, as long as it does not fail.
///
/// # Errors
/// The first failure, when all have failed.
async fn race<T, F>(mut addresses: VecDeque<SocketAddr>, connect: impl Fn(SocketAddr) -> F) -> io::Result<T>
where
    F: Future<Output = io::Result<T>>,
{
    let mut running = FuturesUnordered::new();
    let mut failed = None;
    loop {
        if let Some(address) = addresses.pop_front() {
            let attempt = connect(address);
            running.push(async move { attempt.await.map_err(in_words(address)) });
        }
        let end = if addresses.is_empty() {
            running.next().await
        } else {
            match tokio::time::timeout(HEAD_START, running.next()).await {
                Ok(end) => end,
                Err(_) => continue,
            }
        };
        match end {
            Some(Ok(connection)) => return Ok(connection),
            Some(Err(error)) => failed = failed.or(Some(error)),
            None => {
                return Err(failed
                    .unwrap_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the host has no address")));
            }
        }
    }
}

/// Puts a description in front of an error.
fn in_words(what: impl std::fmt::Display) -> impl Fn(io::Error) -> io::Error {
    move |error| io::Error::new(error.kind(), format!("{what}: {error}"))
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tokio::time::Instant;

    use super::*;

    #[derive(Clone, Copy)]
    enum Host {
        /// Accepts after this many milliseconds.
        Accepts(u64),
        /// Refuses after this many milliseconds.
        Refuses(u64),
        /// Never answers.
        Dead,
    }
    use Host::{Accepts, Dead, Refuses};

    /// Races addresses of these hosts. Returns when each was tried and how the race ended, in milliseconds of virtual
    /// time.
    async fn play(hosts: &[Host]) -> (Vec<u64>, String) {
        let start = Instant::now();
        let elapsed = || u64::try_from(start.elapsed().as_millis()).unwrap();
        let addresses = (0..hosts.len()).map(|n| SocketAddr::from(([127, 0, 0, 1], n as u16))).collect();
        let asked = Mutex::new(Vec::new());
        let connect = |address: SocketAddr| {
            asked.lock().unwrap().push(elapsed());
            let host = hosts[usize::from(address.port())];
            async move {
                match host {
                    Accepts(after) => {
                        tokio::time::sleep(Duration::from_millis(after)).await;
                        Ok(address.port())
                    }
                    Refuses(after) => {
                        tokio::time::sleep(Duration::from_millis(after)).await;
                        Err(io::ErrorKind::ConnectionRefused.into())
                    }
                    Dead => std::future::pending().await,
                }
            }
        };
        let limit = Duration::from_secs(10);
        let end = match tokio::time::timeout(limit, race(addresses, connect)).await {
            Ok(Ok(index)) => format!("{index} at {}", elapsed()),
            Ok(Err(error)) => format!("{error} at {}", elapsed()),
            Err(_) => "never".to_owned(),
        };
        (asked.into_inner().unwrap(), end)
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_answers_first_is_taken() {
        for (hosts, asked, end) in [
            (&[Accepts(10), Accepts(0)][..], &[0][..], "0 at 10"),
            (&[Dead, Accepts(10)], &[0, 250], "1 at 260"),
            (&[Dead, Dead, Dead, Accepts(10)], &[0, 250, 500, 750], "3 at 760"),
            // The attempt at a slow address continues while the next one is tried.
            (&[Accepts(300), Accepts(100)], &[0, 250], "0 at 300"),
            (&[Accepts(400), Accepts(100)], &[0, 250], "1 at 350"),
            // The head start of an address ends if it fails.
            (&[Refuses(0), Accepts(10)], &[0, 0], "1 at 10"),
            (&[Refuses(100), Refuses(100), Accepts(10)], &[0, 100, 200], "2 at 210"),
            (&[Dead, Refuses(50), Accepts(10)], &[0, 250, 300], "2 at 310"),
            (&[Refuses(300), Accepts(100)], &[0, 250], "1 at 350"),
            (&[Refuses(5), Refuses(5)], &[0, 5], "127.0.0.1:0: connection refused at 10"),
            (&[Dead, Refuses(5)], &[0, 250], "never"),
            (&[], &[], "the host has no address at 0"),
        ] {
            assert_eq!(play(hosts).await, (asked.to_vec(), end.to_owned()));
        }
    }

    #[test]
    fn families_take_turns() {
        let addresses = |text: &str| -> VecDeque<SocketAddr> {
            text.split(' ').filter(|word| !word.is_empty()).map(|word| word.parse().unwrap()).collect()
        };
        for (given, tried) in [
            ("", ""),
            ("127.0.0.1:1", "127.0.0.1:1"),
            ("[::1]:1 [::2]:1 [::3]:1 127.0.0.1:1", "[::1]:1 127.0.0.1:1 [::2]:1 [::3]:1"),
            ("127.0.0.1:1 127.0.0.2:1 [::1]:1 [::2]:1", "127.0.0.1:1 [::1]:1 127.0.0.2:1 [::2]:1"),
        ] {
            assert_eq!(alternate(addresses(given).into()), addresses(tried), "{given}");
        }
        let many = (0..200).map(|n| SocketAddr::from(([127, 0, 0, n], 1))).collect();
        assert_eq!(alternate(many).len(), MAX_ADDRESSES);
    }
}
