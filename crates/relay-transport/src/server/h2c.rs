//! HTTP/2 without TLS, for clients that begin with it (RFC 9113, 3.3: prior knowledge).

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::connection::{HEAD_TIMEOUT, IDLE_TIMEOUT};
use super::opened::Opened;
use super::request::MAX_HEAD;
use super::service::Answers;

/// Limit of concurrent requests on one connection.
const STREAMS: u32 = 256;
/// Interval of pings on a silent connection, and the time limit of their answers.
const PING: Duration = Duration::from_secs(20);
const PONG: Duration = Duration::from_secs(10);
/// How often a connection is checked for being idle.
const LOOK: Duration = Duration::from_secs(1);

/// Requests in progress.
struct Open(Arc<AtomicUsize>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Serves a connection. One without a request is closed after 75 s (10 s before its first request), one whose peer does
/// not answer pings after 30 s.
pub(super) async fn serve(
    service: Arc<dyn Answers>,
    stream: Opened<impl AsyncRead + AsyncWrite + Unpin>,
    stop: CancellationToken,
) {
    let open = Arc::new(AtomicUsize::new(0));
    let begun = AtomicUsize::new(0);
    let answers = service_fn(|request: Request<Incoming>| {
        open.fetch_add(1, Ordering::AcqRel);
        begun.fetch_add(1, Ordering::AcqRel);
        let (held, service) = (Open(open.clone()), service.clone());
        async move {
            let answer = service.boxed_answer(request).await;
            drop(held);
            answer
        }
    });
    let mut http = http2::Builder::new(TokioExecutor::new());
    http.timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(MAX_HEAD as u32)
        .keep_alive_interval(PING)
        .keep_alive_timeout(PONG);
    let mut connection = pin!(http.serve_connection(TokioIo::new(stream), answers));
    let (mut stopping, mut quiet_since, mut seen) = (false, Instant::now(), 0);
    loop {
        tokio::select! {
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "a connection ended");
                }
                return;
            }
            () = stop.cancelled(), if !stopping => {
                stopping = true;
                connection.as_mut().graceful_shutdown();
            }
            () = tokio::time::sleep(LOOK) => {
                let count = begun.load(Ordering::Acquire);
                if open.load(Ordering::Acquire) > 0 || count != seen {
                    (quiet_since, seen) = (Instant::now(), count);
                }
                let patience = if count == 0 { HEAD_TIMEOUT } else { IDLE_TIMEOUT };
                if quiet_since.elapsed() >= patience {
                    return;
                }
            }
        }
    }
}
