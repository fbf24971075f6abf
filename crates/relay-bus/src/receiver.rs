//! The receiver: messages by HTTP.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::header::{CONTENT_ENCODING, HOST};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use relay_proto::bus::{
    ChannelHost, ChannelReference, HeaderRules, Message, check_cloudevent, problem_codes as codes,
};
use relay_proto::problem::{Problem, ProblemCode};
use relay_transport::server::{
    Body, BodyError, Cut, HttpServer, Service, check_head, collect_body, method_not_allowed, problem,
};
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;

/// The receiver function of a bus.
pub trait Receive: Send + Sync + 'static {
    /// Accepts a message. The response is 202 only for `Ok`.
    fn receive(
        &self,
        channel: &ChannelReference,
        message: Message,
    ) -> impl Future<Output = Result<(), ReceiveError>> + Send;

    /// Whether a message for the channel would be accepted; called before its body is read. Default: always.
    ///
    /// # Errors
    /// The error that [`receive`](Self::receive) would return.
    fn check(&self, channel: &ChannelReference) -> Result<(), ReceiveError> {
        let _ = channel;
        Ok(())
    }
}

/// Why a message was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReceiveError {
    /// The channel is not one of this bus: 404.
    #[error("unknown channel")]
    UnknownChannel,
    /// The bus does not know its channels yet: 503.
    #[error("the bus is not ready")]
    NotReady,
    /// The store of messages is unreachable or full: 503.
    #[error("the store is not available: {0}")]
    StoreUnavailable(String),
    /// The payload is over a limit of the bus: 413. The text names it.
    #[error("{0}")]
    TooLarge(String),
    /// Anything else: 500. The text is for the log, not for the sender.
    #[error("{0}")]
    Failed(String),
}

/// Settings of a [`MessageReceiver`]: `ReceiverOptions::default()` and setters named like the fields.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ReceiverOptions {
    /// Bytes of a payload. Default 1 MiB. That much may be held for each request under way.
    pub max_payload: usize,
    /// Which headers pass.
    pub rules: HeaderRules,
    /// Whether only CloudEvents are accepted. Default no.
    pub require_cloudevents: bool,
}

impl Default for ReceiverOptions {
    fn default() -> Self {
        Self { max_payload: 1 << 20, rules: HeaderRules::default(), require_cloudevents: false }
    }
}

impl ReceiverOptions {
    /// Sets the limit of payloads.
    #[must_use]
    pub fn max_payload(mut self, max_payload: usize) -> Self {
        self.max_payload = max_payload;
        self
    }

    /// Sets which headers pass.
    #[must_use]
    pub fn rules(mut self, rules: HeaderRules) -> Self {
        self.rules = rules;
        self
    }

    /// Sets whether only CloudEvents are accepted.
    #[must_use]
    pub fn require_cloudevents(mut self, require: bool) -> Self {
        self.require_cloudevents = require;
        self
    }
}

/// Time limit of a body.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// Receives messages by HTTP: the channel is named by the Host. Cheap to clone.
#[derive(Debug)]
pub struct MessageReceiver<R>(Arc<Inner<R>>);

#[derive(Debug)]
struct Inner<R> {
    receive: R,
    options: ReceiverOptions,
    metrics: Arc<Metrics>,
}

impl<R> Clone for MessageReceiver<R> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<R: Receive> MessageReceiver<R> {
    /// A receiver that passes messages to `receive`.
    pub fn new(receive: R, options: ReceiverOptions) -> Self {
        Self::with_metrics(receive, options, Arc::default())
    }

    /// The same, with these metrics.
    pub fn with_metrics(receive: R, options: ReceiverOptions, metrics: Arc<Metrics>) -> Self {
        Self(Arc::new(Inner { receive, options, metrics }))
    }

    /// Serves until `stop`: `POST /` for messages, 404 and 405 for the rest. At the end, responses in progress are
    /// completed.
    pub async fn run(self, server: HttpServer, stop: CancellationToken) {
        server.run(Arc::new(self), stop.cancelled()).await;
    }

    /// Answers one request, whatever its path and method: for use in another server. Also a hyper `Service`.
    pub async fn handle_request(&self, request: Request<Incoming>) -> Response<Body> {
        let (head, body) = request.into_parts();
        self.answered(self.take(head, body).await).unwrap_or_else(|Cut| accepted(StatusCode::BAD_REQUEST))
    }

    fn answered(&self, taken: Result<(), Refused>) -> Result<Response<Body>, Cut> {
        let response = match taken {
            Ok(()) => accepted(StatusCode::ACCEPTED),
            Err(Refused::Answer(response)) => *response,
            Err(Refused::Gone) => return Err(Cut),
        };
        self.0.metrics.received(response.status().as_u16());
        Ok(response)
    }

    async fn route(&self, request: Request<Incoming>) -> Result<(), Refused> {
        let (head, body) = request.into_parts();
        let checked = check_head(&head);
        if let Err(refusal) = &checked
            && refusal.status != 400
        {
            return Err(Refused::of(refusal));
        }
        if head.uri.path() != "/" {
            return Err(Refused::new(ProblemCode::NOT_FOUND, "messages go to the path /"));
        }
        if head.method != Method::POST {
            return Err(Refused::Answer(Box::new(method_not_allowed("POST"))));
        }
        // An invalid Host header does not matter if the request target has a host.
        if let Err(refusal) = checked
            && (head.uri.authority().is_none() || head.headers.get_all(HOST).iter().count() > 1)
        {
            return Err(Refused::new(codes::BAD_HOST, refusal.detail.clone().unwrap_or_default()));
        }
        self.take(head, body).await
    }

    async fn take(&self, head: Parts, body: Incoming) -> Result<(), Refused> {
        let Inner { receive, options, .. } = &*self.0;
        let host = match head.uri.authority() {
            Some(authority) => Some(authority.as_str().as_bytes()),
            None => head.headers.get(HOST).map(|host| host.as_bytes()),
        };
        let host = std::str::from_utf8(host.unwrap_or_default()).unwrap_or("\u{fffd}");
        let host =
            ChannelHost::parse(host).map_err(|error| Refused::new(codes::BAD_HOST, error.to_string()))?;
        let mut channel = host.channel();
        if let Err(refused) = receive.check(channel) {
            match host.behind_service().filter(|_| matches!(refused, ReceiveError::UnknownChannel)) {
                Some(behind) => {
                    channel = behind;
                    receive.check(channel).map_err(|error| refuse(channel, error))?;
                }
                None => return Err(refuse(channel, refused)),
            }
        }
        let encoded =
            |value: &http::HeaderValue| !value.as_bytes().trim_ascii().eq_ignore_ascii_case(b"identity");
        if head.headers.get_all(CONTENT_ENCODING).iter().any(encoded) {
            return Err(Refused::new(codes::ENCODED_BODY, "send the body without a content-encoding"));
        }
        let payload = read(&head, body, options.max_payload).await?;
        let headers = head.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
        let message = Message::new(options.rules.filter(headers), payload);
        // Its fields are pieces of the connection's read buffer. While one is held, hyper allocates another buffer.
        drop(head);
        if options.require_cloudevents {
            check_cloudevent(&message)
                .map_err(|error| Refused::new(codes::NOT_A_CLOUDEVENT, error.to_string()))?;
        }
        receive.receive(channel, message).await.map_err(|error| refuse(channel, error))
    }
}

impl<R: Receive> Service for MessageReceiver<R> {
    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Result<Response<Body>, Cut> {
        let routed = self.route(request).await;
        self.answered(routed)
    }
}

impl<R: Receive> hyper::service::Service<Request<Incoming>> for MessageReceiver<R> {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let receiver = self.clone();
        Box::pin(async move { Ok(receiver.handle_request(request).await) })
    }
}

enum Refused {
    Answer(Box<Response<Body>>),
    Gone,
}

impl Refused {
    fn new(code: ProblemCode, detail: impl Into<String>) -> Self {
        Self::of(&Problem::new(code, detail))
    }

    fn of(document: &Problem) -> Self {
        Self::Answer(Box::new(problem(document)))
    }
}

fn refuse(channel: &ChannelReference, error: ReceiveError) -> Refused {
    match error {
        ReceiveError::UnknownChannel => {
            Refused::new(codes::UNKNOWN_CHANNEL, format!("unknown channel {channel}"))
        }
        ReceiveError::NotReady => {
            Refused::new(ProblemCode::NOT_READY, "the channels of this bus are not known yet")
        }
        ReceiveError::StoreUnavailable(why) => Refused::new(codes::STORE_UNAVAILABLE, why),
        ReceiveError::TooLarge(why) => Refused::new(ProblemCode::BODY_TOO_LARGE, why),
        ReceiveError::Failed(why) => {
            tracing::warn!(%channel, why, "a message could not be taken");
            Refused::new(codes::BUS_FAILED, "the bus could not take the message")
        }
    }
}

/// A response without a body.
fn accepted(status: StatusCode) -> Response<Body> {
    let body = Empty::new().map_err(|never: Infallible| match never {});
    let mut response = Response::new(body.boxed_unsync());
    *response.status_mut() = status;
    response
}

/// A payload up to this size is copied, so that it does not keep the connection's read buffer.
const SMALL: usize = 16 << 10;

async fn read(head: &Parts, body: Incoming, limit: usize) -> Result<Bytes, Refused> {
    match collect_body(head, body, limit, BODY_TIMEOUT).await {
        Ok(body) if body.len() <= SMALL => Ok(Bytes::copy_from_slice(&body)),
        Ok(body) => Ok(body),
        Err(BodyError::TooLarge) => {
            Err(Refused::new(ProblemCode::BODY_TOO_LARGE, format!("a payload is at most {limit} bytes")))
        }
        Err(error @ BodyError::Broken) => Err(Refused::new(codes::BAD_BODY, error.to_string())),
        Err(_) => Err(Refused::Gone),
    }
}
