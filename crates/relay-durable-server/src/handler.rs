//! The handler of requests: streams, settings, refusals.

use std::sync::Arc;

use http::Response;
use http::request::Parts;
use relay_proto::error::chain;
use relay_transport::server::Body;
use tokio_util::sync::CancellationToken;

use crate::answer::refuse;
use crate::config::Config;
use crate::fold::Position;
use crate::streams::{Part, Stream, Streams};

/// Handles the requests of a server.
#[derive(Debug)]
pub(crate) struct Handler {
    pub(crate) streams: Streams,
    pub(crate) config: Config,
    pub(crate) stop: CancellationToken,
}

/// A refusal that ends the handling of a request.
pub(crate) type Refused = Box<Response<Body>>;

/// A refusal as an error.
pub(crate) fn no(status: u16, why: &str) -> Refused {
    Box::new(refuse(status, why))
}

/// The store failed. Its errors name files of this machine, which are logged and not sent to clients.
pub(crate) fn broken(error: relay_log::Error) -> Refused {
    tracing::error!(error = %chain(&error), "the store failed");
    no(503, "the store failed")
}

impl Handler {
    pub(crate) fn new(streams: Streams, config: Config, stop: CancellationToken) -> Self {
        Self { streams, config, stop }
    }

    pub(crate) async fn close(&self) {
        // Acknowledged appends are stored already.
        let _ = self.streams.close().await;
    }

    /// The requested stream; refuses when it does not exist or was deleted.
    pub(crate) async fn stream(&self, head: &Parts) -> Result<Arc<Stream>, Refused> {
        let stream = self.streams.get(head.uri.path()).await.map_err(broken)?;
        let stream = stream.ok_or_else(|| no(404, "there is no such stream"))?;
        if stream.state().deleted {
            return Err(no(410, "the stream is deleted"));
        }
        Ok(stream)
    }

    /// The data from a position on. A position after the end counts as the end.
    pub(crate) async fn part(&self, stream: &Stream, from: Position) -> Result<Part, Refused> {
        let tail = stream.state().tail;
        if from.entry >= tail.entry {
            return Ok(Part { data: Vec::new(), next: tail });
        }
        stream.read(from, self.config.answer_bytes).await.map_err(broken)
    }
}
