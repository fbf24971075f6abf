//! The REST interface.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use relay_transport::HttpClient;
use tokio::net::TcpListener;
use tokio::sync::Notify;

use crate::subject::{Options, Subject};

/// The capabilities that this service claims; the harness tests only these.
const CAPABILITIES: [&str; 10] = [
    "bom",
    "comments",
    "event-type-listeners",
    "headers",
    "last-event-id",
    "post",
    "read-timeout",
    "report",
    "restart",
    "server-directed-shutdown-request",
];

/// The highest number of bytes of an order.
const LARGEST: usize = 1 << 20;

struct Service {
    http: HttpClient,
    subjects: Mutex<Subjects>,
    exit: Notify,
}

#[derive(Default)]
struct Subjects {
    created: u64,
    alive: HashMap<u64, Subject>,
}

/// Serves until a request to exit.
pub(crate) async fn serve(listener: TcpListener) -> io::Result<()> {
    let http = HttpClient::builder().no_proxy().build().map_err(io::Error::other)?;
    let service = Arc::new(Service { http, subjects: Mutex::default(), exit: Notify::new() });
    loop {
        let socket = tokio::select! {
            accepted = listener.accept() => accepted?.0,
            () = service.exit.notified() => return Ok(()),
        };
        let service = service.clone();
        tokio::spawn(async move {
            let answer = service_fn(move |request| {
                let service = service.clone();
                async move { Ok::<_, Infallible>(service.answer(request).await) }
            });
            // If a connection breaks, the harness notices it itself.
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(socket), answer)
                .await;
        });
    }
}

impl Service {
    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let path = request.uri().path().to_owned();
        let subject = path.strip_prefix("/streams/").and_then(|id| id.parse::<u64>().ok());
        match (request.method().clone(), path.as_str(), subject) {
            (Method::GET, "/", _) => {
                let body = serde_json::json!({ "name": "relay", "capabilities": CAPABILITIES }).to_string();
                Response::builder()
                    .header(header::CONTENT_TYPE, "application/json")
                    .body(Full::from(body))
                    .unwrap_or_else(|_| plain(StatusCode::INTERNAL_SERVER_ERROR))
            }
            (Method::POST, "/", _) => match body(request).await.and_then(|body| self.create(&body)) {
                Some(id) => Response::builder()
                    .status(StatusCode::CREATED)
                    .header(header::LOCATION, format!("/streams/{id}"))
                    .body(Full::default())
                    .unwrap_or_else(|_| plain(StatusCode::INTERNAL_SERVER_ERROR)),
                None => plain(StatusCode::BAD_REQUEST),
            },
            (Method::DELETE, "/", _) => {
                self.exit.notify_one();
                plain(StatusCode::NO_CONTENT)
            }
            (Method::POST, _, Some(id)) => {
                let order = body(request).await.and_then(|body| serde_json::from_slice(&body).ok());
                match (self.subjects().alive.get(&id), order) {
                    (None, _) => plain(StatusCode::NOT_FOUND),
                    (Some(subject), Some(order)) if subject.obey(&order) => plain(StatusCode::ACCEPTED),
                    _ => plain(StatusCode::BAD_REQUEST),
                }
            }
            (Method::DELETE, _, Some(id)) => match self.subjects().alive.remove(&id) {
                Some(_) => plain(StatusCode::NO_CONTENT),
                None => plain(StatusCode::NOT_FOUND),
            },
            _ => plain(StatusCode::NOT_FOUND),
        }
    }

    /// Begins to follow a stream in the background, because the harness expects an answer before the stream's server
    /// gives one.
    fn create(&self, body: &[u8]) -> Option<u64> {
        let options: Options = serde_json::from_slice(body).ok()?;
        let subject = Subject::start(self.http.clone(), options)?;
        let mut subjects = self.subjects();
        subjects.created += 1;
        let id = subjects.created;
        subjects.alive.insert(id, subject);
        Some(id)
    }

    fn subjects(&self) -> MutexGuard<'_, Subjects> {
        self.subjects.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn body(request: Request<Incoming>) -> Option<Bytes> {
    Some(Limited::new(request.into_body(), LARGEST).collect().await.ok()?.to_bytes())
}

fn plain(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = status;
    response
}
