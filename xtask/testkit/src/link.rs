//! A proxy with network faults, reproducible by a seed.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

use super::seed::Rng;

mod blocks;
use blocks::Scanner;

/// A TCP proxy on a free loopback port in front of a real server. The client's bytes pass unchanged; the [`Faults`]
/// apply to the server's bytes. Dropping it closes the port and every connection.
///
/// Each connection uses its own part of the seed, by the order in which connections were accepted.
pub struct FaultLink {
    addr: SocketAddr,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

/// The faults of a link for the bytes from the server. The default has none.
///
/// Events are counted on each connection separately. An event is a block of a `text/event-stream` body that a blank
/// line ends; a block of comments also counts. If a count is not higher than the number of messages at the beginning of
/// each stream, nothing else ever passes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Faults {
    cut_every: Option<u64>,
    cut_bytes: Option<u64>,
    reset: bool,
    stall_every: Option<u64>,
    stall: Duration,
    hang_every: Option<u64>,
    split: Option<usize>,
    slow: Option<u64>,
    refuse_one_in: u64,
}

impl Faults {
    /// No fault.
    pub fn none() -> Self {
        Self::default()
    }

    /// Ends a connection after this many events: in half of the cases on average directly after the last one, otherwise
    /// inside the next event.
    #[must_use]
    pub fn cut_every(mut self, events: u64) -> Self {
        self.cut_every = Some(events.max(1));
        self
    }

    /// Ends a connection after this many bytes from the server of any kind, including heads and lists.
    #[must_use]
    pub fn cut_bytes(mut self, bytes: u64) -> Self {
        self.cut_bytes = Some(bytes.max(1));
        self
    }

    /// Makes half of the cuts on average an RST instead of a FIN. An RST may discard bytes that the client has not
    /// read.
    #[must_use]
    pub fn reset(mut self) -> Self {
        self.reset = true;
        self
    }

    /// Each time this many events have passed, holds back the following bytes for this long on tokio's time.
    #[must_use]
    pub fn stall(mut self, events: u64, time: Duration) -> Self {
        (self.stall_every, self.stall) = (Some(events.max(1)), time);
        self
    }

    /// After this many events a connection passes nothing more, and stays open until the client closes it, like a peer
    /// that has disappeared without a FIN.
    #[must_use]
    pub fn hang_every(mut self, events: u64) -> Self {
        self.hang_every = Some(events.max(1));
        self
    }

    /// Writes in pieces of 1 to this many bytes.
    #[must_use]
    pub fn split(mut self, most: usize) -> Self {
        self.split = Some(most.max(1));
        self
    }

    /// Passes at most this many bytes per second of tokio's time.
    #[must_use]
    pub fn slow(mut self, bytes_per_second: u64) -> Self {
        self.slow = Some(bytes_per_second.max(1));
        self
    }

    /// Resets one in this many connections (on average) before a byte has passed.
    #[must_use]
    pub fn refuse_one_in(mut self, connections: u64) -> Self {
        self.refuse_one_in = connections;
        self
    }
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident)*) => {
        /// What a link has done so far. Tests assert that the faults that they rely on have occurred.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct Counters { $($(#[$doc])* pub $name: u64,)* }

        #[derive(Default)]
        struct Tally { $($name: AtomicU64,)* }

        impl Tally {
            fn read(&self) -> Counters {
                Counters { $($name: self.$name.load(Ordering::Relaxed),)* }
            }
        }
    };
}

counters! {
    /// Connections accepted.
    connections
    /// Connections reset before a byte has passed.
    refused
    /// Connections ended on purpose, RSTs and `cut_all` included.
    cuts
    /// Cuts inside an event.
    cuts_inside
    /// Cuts by an RST.
    resets
    /// Times that bytes were held back.
    stalls
    /// Connections left open without passing anything.
    hangs
    /// Pieces written because of `split`.
    pieces
    /// Waits because of `slow`.
    waits
    /// SSE events passed whole.
    events
    /// Bytes passed to the client.
    bytes_down
    /// Bytes passed to the server.
    bytes_up
}

struct Shared {
    upstream: SocketAddr,
    seed: Rng,
    faults: watch::Sender<Arc<Faults>>,
    /// Grows by one at each `cut_all`.
    cut: watch::Sender<u64>,
    tally: Tally,
}

impl Shared {
    fn count(&self, which: fn(&Tally) -> &AtomicU64, by: u64) {
        which(&self.tally).fetch_add(by, Ordering::Relaxed);
    }
}

impl FaultLink {
    /// Listens on a free port of 127.0.0.1 and passes on to `upstream`.
    ///
    /// # Panics
    /// When there is no free port.
    pub async fn start(upstream: SocketAddr, seed: u64, faults: Faults) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free loopback port");
        let addr = listener.local_addr().expect("a bound socket has an address");
        let shared = Arc::new(Shared {
            upstream,
            seed: Rng::new(seed),
            faults: watch::Sender::new(Arc::new(faults)),
            cut: watch::Sender::new(0),
            tally: Tally::default(),
        });
        let accepting = tokio::spawn(accept(listener, shared.clone()));
        Self { addr, shared, accepting }
    }

    /// The address of the link.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// `http://127.0.0.1:PORT`, without a slash at the end.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// What the link has done so far.
    pub fn counters(&self) -> Counters {
        self.shared.tally.read()
    }

    /// Changes the faults, also for open connections. Their counts so far are kept.
    pub fn set(&self, faults: Faults) {
        self.shared.faults.send_replace(Arc::new(faults));
    }

    /// Ends every open connection at once, with a FIN towards the client.
    pub fn cut_all(&self) {
        self.shared.cut.send_modify(|times| *times += 1);
    }
}

impl Drop for FaultLink {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl fmt::Debug for FaultLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { addr, shared, .. } = self;
        f.debug_struct("FaultLink")
            .field("addr", addr)
            .field("upstream", &shared.upstream)
            .field("counters", &self.counters())
            .finish_non_exhaustive()
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    // Dropped with this task, which ends all connections.
    let mut connections = JoinSet::new();
    for number in 0.. {
        let Ok((client, _)) = listener.accept().await else { continue };
        shared.count(|tally| &tally.connections, 1);
        connections.spawn(connection(client, shared.seed.fork(number), shared.clone()));
        while connections.try_join_next().is_some() {}
    }
}

/// How the link ends a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// With the end of one of the two sides.
    Passed,
    Fin,
    Reset,
}

async fn connection(mut client: TcpStream, mut rng: Rng, shared: Arc<Shared>) {
    if rng.one_in(shared.faults.borrow().refuse_one_in) {
        shared.count(|tally| &tally.refused, 1);
        let _ = client.set_zero_linger();
        return;
    }
    // If the server is down, the connection ends at once.
    let Ok(mut server) = TcpStream::connect(shared.upstream).await else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let mut cut_all = shared.cut.subscribe();
    let (mut from_client, mut to_client) = client.split();
    let (mut from_server, mut to_server) = server.split();
    let hung = Arc::new(Notify::new());
    let down = Down {
        hung: hung.clone(),
        scanner: Scanner::default(),
        faults: shared.faults.subscribe(),
        shared: shared.clone(),
        rng,
        events: 0,
        bytes: 0,
        free_at: Instant::now(),
    };
    let end = {
        let up = async {
            pass_up(&mut from_client, &mut to_server, &shared).await;
            // The client has finished sending. The answer may still arrive, unless nothing passes any more.
            hung.notified().await;
        };
        tokio::select! {
            biased;
            _ = cut_all.changed() => {
                shared.count(|tally| &tally.cuts, 1);
                End::Fin
            }
            end = down.pass(&mut from_server, &mut to_client) => end,
            () = up => End::Passed,
        }
    };
    match end {
        End::Reset => {
            let _ = client.set_zero_linger();
        }
        End::Fin | End::Passed => {
            let _ = to_client.shutdown().await;
            // The server's connection ends first, because the server must see that its client is gone.
            drop(server);
            // The rest of the client's data is read, so that the FIN does not become an RST.
            let mut rest = [0; 1024];
            while from_client.read(&mut rest).await.unwrap_or(0) > 0 {}
        }
    }
}

async fn pass_up(from: &mut ReadHalf<'_>, to: &mut WriteHalf<'_>, shared: &Shared) {
    let mut buffer = vec![0; 16 << 10];
    loop {
        match from.read(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(read) => {
                if to.write_all(&buffer[..read]).await.is_err() {
                    break;
                }
                shared.count(|tally| &tally.bytes_up, read as u64);
            }
        }
    }
    let _ = to.shutdown().await;
}

/// The direction from the server to the client.
struct Down {
    /// Notified when nothing passes any more: the connection then ends when its client leaves.
    hung: Arc<Notify>,
    scanner: Scanner,
    faults: watch::Receiver<Arc<Faults>>,
    shared: Arc<Shared>,
    rng: Rng,
    /// Events passed on this connection.
    events: u64,
    /// Bytes passed on this connection.
    bytes: u64,
    /// The time when the next byte may pass with `slow`.
    free_at: Instant,
}

impl Down {
    async fn pass(mut self, from: &mut ReadHalf<'_>, to: &mut WriteHalf<'_>) -> End {
        let mut buffer = vec![0; 16 << 10];
        loop {
            let read = match from.read(&mut buffer).await {
                Ok(0) | Err(_) => return End::Passed,
                Ok(read) => read,
            };
            let mut rest = &buffer[..read];
            while !rest.is_empty() {
                let faults = self.faults.borrow().clone();
                let room = faults.cut_bytes.map_or(u64::MAX, |most| most.saturating_sub(self.bytes));
                let within = rest.len().min(usize::try_from(room).unwrap_or(usize::MAX));
                let (length, event) = self.scanner.next_block(&rest[..within]);
                if !self.write(to, &rest[..length], &faults).await {
                    return End::Passed;
                }
                rest = &rest[length..];
                if faults.cut_bytes.is_some_and(|most| self.bytes >= most) {
                    return self.cut(&faults, self.scanner.in_event());
                }
                if event {
                    self.events += 1;
                    self.shared.count(|tally| &tally.events, 1);
                    if let Some(end) = self.after_event(&mut rest, to, &faults).await {
                        return end;
                    }
                }
            }
        }
    }

    async fn after_event(
        &mut self,
        rest: &mut &[u8],
        to: &mut WriteHalf<'_>,
        faults: &Faults,
    ) -> Option<End> {
        let due = |every: Option<u64>| every.is_some_and(|every| self.events.is_multiple_of(every));
        let (stall, hang, cut) = (due(faults.stall_every), due(faults.hang_every), due(faults.cut_every));
        if stall {
            self.shared.count(|tally| &tally.stalls, 1);
            tokio::time::sleep(faults.stall).await;
        }
        if hang {
            self.shared.count(|tally| &tally.hangs, 1);
            self.hung.notify_one();
            std::future::pending::<()>().await;
        }
        if !cut {
            return None;
        }
        // Cuts inside the next event only if it has arrived, because on a quiet stream the wait could take for ever.
        let inside = self.rng.one_in(2);
        let length = self.scanner.next_block(rest).0 as u64;
        if inside && length > 1 {
            let part = 1 + self.rng.below(length - 1) as usize;
            if !self.write(to, &rest[..part], faults).await {
                return Some(End::Passed);
            }
        }
        Some(self.cut(faults, inside && length > 1))
    }

    fn cut(&mut self, faults: &Faults, inside: bool) -> End {
        self.shared.count(|tally| &tally.cuts, 1);
        self.shared.count(|tally| &tally.cuts_inside, u64::from(inside));
        if faults.reset && self.rng.one_in(2) {
            self.shared.count(|tally| &tally.resets, 1);
            return End::Reset;
        }
        End::Fin
    }

    /// Writes the bytes, in pieces and slowly if that is set. False if the client is gone.
    async fn write(&mut self, to: &mut WriteHalf<'_>, mut bytes: &[u8], faults: &Faults) -> bool {
        while !bytes.is_empty() {
            let mut size = bytes.len();
            if let Some(most) = faults.split {
                size = size.min(1 + self.rng.below(most as u64) as usize);
                self.shared.count(|tally| &tally.pieces, 1);
            }
            if let Some(rate) = faults.slow {
                // Writes at most the bytes of a tenth of a second at a time, so that the stream is slow and does not
                // come in bursts.
                size = size.min(usize::try_from(rate / 10).unwrap_or(usize::MAX).max(1));
                // Timers are late by a millisecond or two; the next piece makes up for it.
                let now = Instant::now();
                let due = self.free_at.max(now.checked_sub(Duration::from_millis(20)).unwrap_or(now));
                self.free_at = due + Duration::from_secs_f64(size as f64 / rate as f64);
                if self.free_at > now {
                    self.shared.count(|tally| &tally.waits, 1);
                    tokio::time::sleep_until(self.free_at).await;
                }
            }
            let (piece, rest) = bytes.split_at(size);
            if to.write_all(piece).await.is_err() {
                return false;
            }
            if faults.split.is_some() {
                // Lets a reader on the same runtime read the piece alone.
                tokio::task::yield_now().await;
            }
            self.bytes += size as u64;
            self.shared.count(|tally| &tally.bytes_down, size as u64);
            bytes = rest;
        }
        true
    }
}
