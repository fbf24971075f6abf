//! Accepting: a bounded number of connections, and an orderly shutdown.

use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::{self, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use http::Request;
use http::header::CONTENT_TYPE;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, ToSocketAddrs};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::answer::Cut;
use super::connection::{Activity, HEAD_TIMEOUT, Held, Socket};
use super::h2c;
use super::opened::Opened;
use super::request::{Input, MAX_FIELDS, MAX_HEAD};
use super::service::{Answers, Service};

/// Time left for a started request head when the server shuts down.
const HEAD_GRACE: Duration = Duration::from_millis(250);

/// Limits of an [`HttpServer`]: `Settings::default()` and setters named like the fields.
///
/// Fixed limits: 64 KiB and 4,096 fields for a request head, 10 s to receive it, 75 s for an idle connection, 5 min
/// to write a response that is not a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Settings {
    /// Open connections in all. Default 8,192. At the limit, connections that are idle or have sent nothing yet are
    /// closed first, oldest first.
    pub max_connections: usize,
    /// A connection that takes no byte for this long while there is something to send is cut. Default 30 s.
    pub stall_timeout: Duration,
    /// How long an orderly shutdown waits for responses before it cuts them. Default 5 s.
    pub drain: Duration,
    /// Whether HTTP/2 is accepted from clients that begin with it (prior knowledge). Default no.
    pub h2c: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_connections: 8192,
            stall_timeout: Duration::from_secs(30),
            drain: Duration::from_secs(5),
            h2c: false,
        }
    }
}

impl Settings {
    /// Sets the number of connections.
    #[must_use]
    pub fn max_connections(mut self, max_connections: usize) -> Self {
        self.max_connections = max_connections;
        self
    }

    /// Sets the time limit for a connection that takes no bytes.
    #[must_use]
    pub fn stall_timeout(mut self, stall_timeout: Duration) -> Self {
        self.stall_timeout = stall_timeout;
        self
    }

    /// Sets the time limit of an orderly shutdown.
    #[must_use]
    pub fn drain(mut self, drain: Duration) -> Self {
        self.drain = drain;
        self
    }

    /// Sets whether HTTP/2 is accepted.
    #[must_use]
    pub fn h2c(mut self, h2c: bool) -> Self {
        self.h2c = h2c;
        self
    }
}

/// A listening port. It serves once [`run`](Self::run) is called.
#[derive(Debug)]
pub struct HttpServer {
    listener: TcpListener,
    address: SocketAddr,
    settings: Settings,
    connections: Connections,
}

/// How many connections of a server are open. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Connections(Arc<AtomicU64>);

impl Connections {
    /// Open connections right now.
    pub fn open(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }
}

impl HttpServer {
    /// Opens the port. Port 0 lets the system choose one.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub async fn bind(address: impl ToSocketAddrs, settings: Settings) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        Ok(Self { listener, address, settings, connections: Connections::default() })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// The count of its connections.
    pub fn connections(&self) -> Connections {
        self.connections.clone()
    }

    /// Serves until `stop` completes, and returns its result: accepts no more connections, lets responses in
    /// progress end within [`Settings::drain`], and cuts the rest. Dropping the future cuts everything at once.
    pub async fn run<S: Service, T>(self, service: Arc<S>, stop: impl Future<Output = T>) -> T {
        let Self { listener, settings, connections: open, .. } = self;
        let mut stop = pin!(stop);
        let (ending, kill) = (CancellationToken::new(), CancellationToken::new());
        let _cut_when_dropped = kill.clone().drop_guard();
        let connections = TaskTracker::new();
        let evict = watch::Sender::new(0);
        let mut next_id = 0;
        let given = loop {
            tokio::select! {
                given = &mut stop => break given,
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => {
                        next_id += 1;
                        // Events are small and must not be delayed.
                        let _ = stream.set_nodelay(true);
                        if let Some(place) = Place::take(&open, settings.max_connections, &evict, next_id) {
                            let watch = (evict.subscribe(), ending.clone(), kill.clone());
                            let stream = Opened::new(stream).with_push(push);
                            let settings = settings.clone();
                            connections.spawn(serve_in_place(service.clone(), stream, place, settings, watch));
                        }
                    }
                    Err(error) => {
                        tracing::warn!(%error, "a connection could not be accepted");
                        // Most likely out of file descriptors: close connections that have sent nothing.
                        evict.send_replace(next_id);
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                },
            }
        };
        drop(listener);
        ending.cancel();
        connections.close();
        if tokio::time::timeout(settings.drain, connections.wait()).await.is_err() {
            tracing::warn!(left = connections.len(), "connections are cut: they did not end in time");
            kill.cancel();
            connections.wait().await;
        }
        given
    }
}

/// Serves one connection that did not come from a port: a Unix socket, or an end of a pipe in a test. It has the
/// deadlines of [`HttpServer`], does not count among its connections, and ends in an orderly way when `stop` is
/// cancelled.
pub async fn serve_connection<S: Service>(
    service: Arc<S>,
    stream: impl AsyncRead + AsyncWrite + Unpin,
    settings: &Settings,
    stop: CancellationToken,
) {
    let place = Place { open: Arc::new(AtomicU64::new(1)), id: 0 };
    let watch = (watch::Sender::new(0).subscribe(), stop, CancellationToken::new());
    serve_in_place(service, Opened::new(stream), place, settings.clone(), watch).await;
}

/// A connection's place within the limit.
struct Place {
    open: Arc<AtomicU64>,
    id: u64,
}

impl Place {
    /// The newest connections, this many, are not closed for others: their first request may be on its way.
    const SPARED: u64 = 64;

    /// Takes a place; when all are taken, idle connections are closed for the next ones.
    fn take(connections: &Connections, max: usize, evict: &watch::Sender<u64>, id: u64) -> Option<Self> {
        let place = Self { open: connections.0.clone(), id };
        let open = place.open.fetch_add(1, Ordering::AcqRel) + 1;
        let max = max as u64;
        if open > max {
            evict.send_replace(id.saturating_sub(Self::SPARED));
        }
        // Other tasks close their connections a little later, so the limit can be exceeded by a few.
        (open <= max + Self::SPARED).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A write to a peer that is gone must be an error, and no signal to the process.
const NO_SIGNAL: i32 = if cfg!(any(target_os = "linux", target_os = "android")) { 0x4000 } else { 0 };

/// Writes what the kernel takes now. (Tokio's `try_write` waits until the kernel says that there is room.)
fn push(stream: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    SockRef::from(stream).send_with_flags(bytes, NO_SIGNAL)
}

async fn serve_in_place(
    service: Arc<dyn Answers>,
    mut stream: Opened<impl AsyncRead + AsyncWrite + Unpin>,
    place: Place,
    settings: Settings,
    (mut evict, stop, kill): (watch::Receiver<u64>, CancellationToken, CancellationToken),
) {
    let opened = Instant::now();
    if settings.h2c {
        let begun = tokio::select! {
            begun = stream.is_http2(opened + HEAD_TIMEOUT) => begun,
            () = stop.cancelled() => None,
            () = kill.cancelled() => None,
            () = evicted(&mut evict, place.id) => None,
        };
        match begun {
            None => return,
            Some(false) => {}
            Some(true) => {
                tokio::select! {
                    () = h2c::serve(service, stream, stop) => {}
                    () = kill.cancelled() => {}
                }
                return;
            }
        }
    }
    let activity = Arc::new(Activity::default());
    let socket = Socket::new(stream, activity.clone(), settings.stall_timeout, opened);
    let answers = service_fn(|mut request: Request<Incoming>| {
        request.extensions_mut().insert(Input(activity.clone()));
        let (service, activity) = (service.clone(), activity.clone());
        // Before the future is first polled: the connection may be examined in between.
        let busy = activity.begin();
        async move {
            let response = service.boxed_answer(request).await?;
            if matches!(response.status().as_u16(), 413 | 431) {
                activity.linger();
            }
            if response.headers().get(CONTENT_TYPE).is_some_and(|kind| kind == "text/event-stream") {
                activity.streams();
            }
            Ok::<_, Cut>(response.map(|body| Held::new(body, busy)))
        }
    });
    let mut http = http1::Builder::new();
    // Larger than our limit on heads, so that our own check answers the usual excess.
    http.max_buf_size(MAX_HEAD + (16 << 10));
    let mut connection = http.serve_connection(TokioIo::new(socket), answers);
    let mut stopping = false;
    let mut grace = pin!(tokio::time::sleep(Duration::ZERO));
    let mut in_grace = false;
    loop {
        tokio::select! {
            ended = poll_fn(|cx| match pin::Pin::new(&mut connection).poll(cx) {
                Poll::Ready(ended) => Poll::Ready(Some(ended)),
                Poll::Pending if activity.needs_room() => Poll::Ready(None),
                Poll::Pending => Poll::Pending,
            }) => {
                if let Some(ended) = ended {
                    if let Err(error) = ended {
                        tracing::debug!(%error, "a connection ended");
                    }
                    return;
                }
                // The rare head with many fields: hyper allocates for all fields that may come, for each head.
                let parts = connection.into_parts();
                let mut socket = parts.io.into_inner();
                if stopping || !socket.has_room(&parts.read_buf) {
                    return;
                }
                http.max_headers(MAX_FIELDS);
                connection = http.serve_connection(TokioIo::new(socket), parts.service);
            }
            () = stop.cancelled(), if !stopping => {
                if activity.is_fresh() {
                    return;
                }
                stopping = true;
                in_grace = true;
                grace.as_mut().reset(Instant::now() + HEAD_GRACE);
                pin::Pin::new(&mut connection).graceful_shutdown();
            }
            () = &mut grace, if in_grace => {
                if activity.is_heading() {
                    return;
                }
                in_grace = false;
            }
            () = kill.cancelled() => return,
            Ok(()) = evict.changed() => {
                if place.id <= *evict.borrow_and_update() && activity.is_waiting() {
                    return;
                }
            }
        }
    }
}

/// Waits until this connection has to be closed for others.
async fn evicted(evict: &mut watch::Receiver<u64>, id: u64) {
    while evict.changed().await.is_ok() {
        if id <= *evict.borrow_and_update() {
            return;
        }
    }
    std::future::pending().await
}

#[cfg(test)]
mod tests {
    use super::super::answer::Body;
    use super::super::answer::{full, with_body};
    use super::*;
    use http::{Response, StatusCode};
    use http_body_util::{BodyExt, StreamBody};
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

    async fn answer(request: Request<Incoming>) -> Result<Response<Body>, Cut> {
        if request.uri().path() != "/stream" {
            // A body that is not read may end the connection.
            let _ = request.into_body().collect().await;
            return Ok(full(StatusCode::OK, "text/plain", "ok\n"));
        }
        let silent = StreamBody::new(futures_util::stream::pending());
        Ok(with_body(StatusCode::OK, "text/event-stream", silent.boxed_unsync()))
    }

    fn connect(evict: &watch::Sender<u64>) -> DuplexStream {
        let (client, server) = tokio::io::duplex(4096);
        let place = Place::take(&Connections::default(), 10, evict, 1).unwrap();
        let watch = (evict.subscribe(), CancellationToken::new(), CancellationToken::new());
        tokio::spawn(serve_in_place(
            Arc::new(answer),
            Opened::new(server),
            place,
            Settings::default(),
            watch,
        ));
        client
    }

    async fn read_head(client: &mut DuplexStream) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(client.read_u8().await.unwrap());
        }
        String::from_utf8(head).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn only_connections_that_wait_for_their_peer_make_room() {
        let evict = watch::Sender::new(0);
        let (mut silent, mut half, mut stream) = (connect(&evict), connect(&evict), connect(&evict));
        half.write_all(b"GET /").await.unwrap();
        stream.write_all(b"GET /stream HTTP/1.1\r\nhost: r\r\n\r\n").await.unwrap();
        assert!(read_head(&mut stream).await.starts_with("HTTP/1.1 200 "));
        let begin = Instant::now();
        evict.send_replace(1);
        assert_eq!(silent.read(&mut [0]).await.unwrap(), 0);
        assert_eq!(half.read(&mut [0]).await.unwrap(), 0);
        assert_eq!(begin.elapsed(), Duration::ZERO);
        let open = tokio::time::timeout(Duration::from_secs(3600), stream.read(&mut [0])).await;
        assert!(open.is_err(), "the stream goes on");
    }

    /// hyper would use one of the two headers and hide the other.
    #[tokio::test]
    async fn a_request_that_says_its_length_twice_is_refused_and_nothing_behind_it_is_read() {
        let good = "POST / HTTP/1.1\r\nhost: r\r\ncontent-length: 5\r\n\r\nhello";
        for fields in [
            "content-length: 5\r\ntransfer-encoding: chunked",
            "transfer-encoding: chunked\r\ncontent-length: 5",
            "Transfer-Encoding: chunked\r\nx: y\r\nCONTENT-LENGTH:0",
        ] {
            for before in ["", good] {
                let mut client = connect(&watch::Sender::new(0));
                let request = format!(
                    "{before}POST / HTTP/1.1\r\nhost: r\r\n{fields}\r\n\r\n0\r\n\r\nGET / HTTP/1.1\r\nhost: r\r\n\r\n"
                );
                client.write_all(request.as_bytes()).await.unwrap();
                let mut answers = String::new();
                client.read_to_string(&mut answers).await.unwrap();
                let status: Vec<_> = answers.matches("HTTP/1.1 ").collect();
                assert_eq!(status.len(), 1 + usize::from(!before.is_empty()), "{fields}: {answers}");
                let refused = "HTTP/1.1 400 Bad Request\r\ncontent-type: application/problem+json\r\n";
                assert!(answers.contains(refused), "{fields}: {answers}");
                assert_eq!(answers.contains("HTTP/1.1 200"), !before.is_empty(), "{fields}: {answers}");
            }
        }
    }

    /// A request with this many fields after its first line, and this body.
    fn request(fields: usize, more: &str, body: &str) -> String {
        let mut request = format!("POST / HTTP/1.1\r\nhost: r\r\ncontent-length: {}\r\n{more}", body.len());
        for number in request.lines().count() - 1..fields {
            request += &format!("x-{number}: {number}\r\n");
        }
        request + "\r\n" + body
    }

    /// What is answered to these bytes, which come in pieces of this size.
    async fn answers(bytes: &str, piece: usize) -> String {
        let mut client = connect(&watch::Sender::new(0));
        let (mut reading, mut writing) = tokio::io::split(&mut client);
        let write = async {
            for piece in bytes.as_bytes().chunks(piece) {
                let _ = writing.write_all(piece).await;
                tokio::task::yield_now().await;
            }
            let _ = writing.shutdown().await;
        };
        let mut answers = String::new();
        let (read, ()) = tokio::join!(reading.read_to_string(&mut answers), write);
        read.unwrap();
        answers
    }

    #[tokio::test]
    async fn a_head_with_many_fields_is_taken_wherever_it_comes() {
        let few = request(3, "", "hello");
        for fields in [99, 100, 101, 150, 1000, 4096] {
            for more in ["", "upgrade: h2c\r\n"] {
                let many = request(fields, more, "world");
                for (stream, taken) in [
                    (many.clone(), 1),
                    ([&many[..], &few, &many].concat(), 3),
                    ([&few[..], &many, &few, &many].concat(), 4),
                    ([&few[..], "\r\n", &many].concat(), 2),
                ] {
                    for piece in [stream.len(), 1400, 97] {
                        let answers = answers(&stream, piece).await;
                        let ok = answers.matches("HTTP/1.1 200 OK\r\n").count();
                        assert_eq!(ok, taken, "{fields} {more:?} {taken} by {piece}: {answers}");
                    }
                }
            }
        }
    }

    #[tokio::test]
    async fn a_head_with_too_many_fields_is_refused_after_the_requests_before_it() {
        let stream = [request(120, "", "hello"), request(4097, "", "")].concat();
        let answers = answers(&stream, 1400).await;
        let status: Vec<_> =
            answers.match_indices("HTTP/1.1 ").map(|(at, _)| &answers[at + 9..at + 12]).collect();
        assert_eq!(status, ["200", "431"], "{answers}");
    }

    #[tokio::test(start_paused = true)]
    async fn places_are_bounded_and_given_back() {
        let (connections, evict) = (Connections::default(), watch::Sender::new(0));
        let places: Vec<_> =
            (1..=Place::SPARED + 3).map_while(|id| Place::take(&connections, 2, &evict, id)).collect();
        assert_eq!(places.len() as u64, Place::SPARED + 2, "a few more than the limit, while room is made");
        assert_eq!(*evict.borrow(), 3, "the oldest make room");
        drop(places);
        assert_eq!(connections.open(), 0);
    }
}
