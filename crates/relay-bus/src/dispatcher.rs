//! The dispatcher: sends messages by HTTP.

use std::pin::pin;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{ACCEPT_ENCODING, AUTHORIZATION, CONTENT_ENCODING, CONTENT_LENGTH, LOCATION};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use relay_proto::bus::{
    CLUSTER_DOMAIN, Destination, HeaderRules, InvalidDestination, Message, is_retryable, reply_message,
};
use relay_proto::http::Redirect;
use relay_transport::server::percent_decode;
use relay_transport::{HttpClient, retry_after};
use tokio::time::Instant;

/// The namespace of names, and the destination of replies: `DispatchDefaults::new(namespace)` and
/// [`reply_to`](Self::reply_to).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DispatchDefaults {
    /// The namespace of names without a dot.
    pub namespace: String,
    /// The destination of the reply. Default none.
    pub reply_to: Option<String>,
}

impl DispatchDefaults {
    /// Defaults with this namespace, and no destination of replies.
    pub fn new(namespace: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), reply_to: None }
    }

    /// Sets the destination of the reply.
    #[must_use]
    pub fn reply_to(mut self, reply_to: Option<String>) -> Self {
        self.reply_to = reply_to;
        self
    }
}

/// Settings of a [`MessageDispatcher`]: `DispatcherOptions::default()` and setters named like the fields.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct DispatcherOptions {
    /// Time limit of one call, including the response body. Default 30 s.
    pub timeout: Duration,
    /// Size limit of a response body, in bytes. Default 1 MiB.
    pub max_payload: usize,
    /// The headers that are forwarded.
    pub rules: HeaderRules,
    /// The domain of the cluster's services. Default `cluster.local`.
    pub cluster_domain: String,
}

impl Default for DispatcherOptions {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(30),
            max_payload: 1 << 20,
            rules: HeaderRules::default(),
            cluster_domain: CLUSTER_DOMAIN.to_owned(),
        }
    }
}

impl DispatcherOptions {
    /// Sets the time for one call.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sets the limit of answers.
    #[must_use]
    pub fn max_payload(mut self, max_payload: usize) -> Self {
        self.max_payload = max_payload;
        self
    }

    /// Sets the headers that are forwarded.
    #[must_use]
    pub fn rules(mut self, rules: HeaderRules) -> Self {
        self.rules = rules;
        self
    }

    /// Sets the domain of the cluster's services.
    #[must_use]
    pub fn cluster_domain(mut self, domain: impl Into<String>) -> Self {
        self.cluster_domain = domain.into();
        self
    }
}

/// The number of redirects that are followed in a row.
const MAX_REDIRECTS: usize = 5;
const GRACE: Duration = Duration::from_secs(1);
/// Bytes kept of an error response, for diagnosis.
const MAX_ERROR_BODY: usize = 1024;

/// Sends messages. Proxies are those of the environment. Cheap to clone.
#[derive(Debug, Clone)]
pub struct MessageDispatcher {
    http: HttpClient,
    options: std::sync::Arc<DispatcherOptions>,
}

/// The response of a successful call.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Answer {
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body; an empty one is no reply.
    pub body: Bytes,
}

impl MessageDispatcher {
    /// A dispatcher with connections of its own.
    ///
    /// # Errors
    /// When the system's certificates or proxies cannot be used.
    pub fn new(options: DispatcherOptions) -> Result<Self, relay_transport::Error> {
        let http = HttpClient::builder()
            // The time limit of a call covers connecting, sending and reading.
            .connect_timeout(options.timeout.saturating_add(GRACE))
            .request_timeout(Duration::MAX)
            .idle_connections(256)
            .resend_when_closed(true)
            .build()?;
        Ok(Self { http, options: std::sync::Arc::new(options) })
    }

    /// Its settings.
    pub fn options(&self) -> &DispatcherOptions {
        &self.options
    }

    /// Sends the message to `destination`, and the response, if it has a body, to `defaults.reply_to`. With an
    /// empty destination the message itself is sent there; with neither nothing is sent. Nothing is retried.
    ///
    /// # Errors
    /// [`DispatchError`]; only 2xx is success.
    pub async fn dispatch_message(
        &self,
        message: &Message,
        destination: &str,
        defaults: &DispatchDefaults,
    ) -> Result<(), DispatchError> {
        let reply_to = defaults.reply_to.as_deref().filter(|to| !to.is_empty());
        let reply = if destination.is_empty() {
            Some(message.clone())
        } else {
            let call = async {
                let to = self.resolve(destination, &defaults.namespace)?;
                self.call(message, &to, reply_to.is_some()).await
            };
            let answer = call.await.map_err(|source| DispatchError::Call { source })?;
            self.reply_of(message, answer)
        };
        let (Some(reply), Some(reply_to)) = (reply, reply_to) else { return Ok(()) };
        let forward = async {
            let to = self.resolve(reply_to, &defaults.namespace)?;
            self.call(&reply, &to, false).await
        };
        forward.await.map(drop).map_err(|source| DispatchError::Reply { source })
    }

    /// Resolves a destination.
    ///
    /// # Errors
    /// [`CallError::Destination`].
    pub fn resolve(&self, text: &str, namespace: &str) -> Result<Destination, CallError> {
        Ok(Destination::resolve(text, namespace, &self.options.cluster_domain)?)
    }

    /// The reply in a response; `None` when its body is empty.
    pub fn reply_of(&self, original: &Message, answer: Answer) -> Option<Message> {
        let headers = answer.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
        reply_message(&self.options.rules, original, headers, answer.body)
    }

    /// One call: a POST that follows redirects and reads the response to its end.
    ///
    /// # Errors
    /// [`CallError`]; only 2xx is success.
    pub async fn call(
        &self,
        message: &Message,
        to: &Destination,
        wants_reply: bool,
    ) -> Result<Answer, CallError> {
        let after = self.options.timeout;
        let until = Instant::now() + after;
        // Pinned here, as a future is copied each time that it is moved.
        let following = pin!(self.follow(message, to, wants_reply));
        match tokio::time::timeout_at(until, following).await {
            Ok(answering) => answering?.answer(until).await,
            Err(_) => Err(CallError::Late { url: to.url().to_owned(), after }),
        }
    }

    /// The headers of a request.
    fn headers(&self, message: &Message, wants_reply: bool) -> HeaderMap {
        // With host, content-length and the two below.
        let mut headers = HeaderMap::with_capacity(message.headers.len() + 4);
        for (name, value) in message.headers.iter().filter(|(name, _)| self.options.rules.passes(name)) {
            // Values that are not valid in a header cannot have been received in one.
            let (Ok(name), Ok(value)) =
                (HeaderName::try_from(name), HeaderValue::from_maybe_shared(value.clone()))
            else {
                continue;
            };
            headers.insert(name, value);
        }
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        if message.payload.is_empty() {
            // The HTTP client leaves it out then, but some servers answer 411 to a POST without it.
            headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
        }
        if wants_reply {
            headers.insert("prefer", HeaderValue::from_static("reply"));
        }
        headers
    }

    async fn follow(
        &self,
        message: &Message,
        to: &Destination,
        wants_reply: bool,
    ) -> Result<Answering<'_>, CallError> {
        let mut credential = to.userinfo().map(basic);
        let mut url = to.url().to_owned();
        let mut trail: Option<Redirect> = None;
        for _ in 0..=MAX_REDIRECTS {
            let mut request = Request::new(Full::new(message.payload.clone()));
            *request.method_mut() = Method::POST;
            *request.uri_mut() = url.parse().map_err(|_| CallError::Url { url: to.url().to_owned() })?;
            *request.headers_mut() = self.headers(message, wants_reply);
            request.headers_mut().extend(credential.clone().map(|value| (AUTHORIZATION, value)));
            let response = self.http.send(request).await?;
            let status = response.status().as_u16();
            let (head, body) = response.into_parts();
            if matches!(status, 307 | 308)
                && let Some(location) = head.headers.get(LOCATION).and_then(|value| value.to_str().ok())
            {
                let next = match &trail {
                    None => Redirect::new(&url, status, location),
                    Some(trail) => trail.then(status, location),
                };
                let next = next.ok_or(CallError::Redirect { url: url.clone(), rule: "it leads nowhere" })?;
                if !next.may_carry_secrets() {
                    credential = None;
                }
                url = next.url().to_owned();
                trail = Some(next);
                // The body is read so that the connection can be reused.
                let _ = Limited::new(body, MAX_ERROR_BODY).collect().await;
                continue;
            }
            return Ok(Answering { head, body, url, dispatcher: self });
        }
        Err(CallError::Redirect { url, rule: "there are more than 5 redirects in a row" })
    }
}

/// A response of which the head has come.
struct Answering<'d> {
    head: http::response::Parts,
    body: hyper::body::Incoming,
    url: String,
    dispatcher: &'d MessageDispatcher,
}

impl Answering<'_> {
    /// Reads the body to its end, so that the connection can be used again, and checks the response.
    async fn answer(self, until: Instant) -> Result<Answer, CallError> {
        let Self { head, body, url, dispatcher } = self;
        let DispatcherOptions { max_payload: limit, timeout: after, .. } = *dispatcher.options;
        let status = head.status.as_u16();
        if !(200..300).contains(&status) {
            let retry_after = retry_after(&head.headers);
            let mut start = Vec::new();
            // The status is known, so errors of reading the body do not matter.
            let _ = tokio::time::timeout_at(until, read_start(body, limit, &mut start)).await;
            return Err(CallError::Status { status, retry_after, body: start.into() });
        }
        let encoded = |value: &HeaderValue| !value.as_bytes().trim_ascii().eq_ignore_ascii_case(b"identity");
        if head.headers.get_all(CONTENT_ENCODING).iter().any(encoded) {
            return Err(CallError::Encoded { url });
        }
        let body = match tokio::time::timeout_at(until, Limited::new(body, limit).collect()).await {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(error)) if error.is::<LengthLimitError>() => {
                return Err(CallError::TooLarge { url, limit });
            }
            Ok(Err(source)) => return Err(CallError::Cut { url, source }),
            Err(_) => return Err(CallError::Late { url, after }),
        };
        Ok(Answer { headers: head.headers, body })
    }
}

/// Reads a body up to a limit, and keeps its start.
async fn read_start(mut body: hyper::body::Incoming, limit: usize, start: &mut Vec<u8>) {
    let mut read = 0;
    while let Some(Ok(frame)) = body.frame().await {
        if let Some(data) = frame.data_ref() {
            read += data.len();
            start.extend_from_slice(&data[..data.len().min(MAX_ERROR_BODY - start.len())]);
        }
        if read > limit {
            return;
        }
    }
}

fn basic(userinfo: &str) -> HeaderValue {
    let (user, password) = userinfo.split_once(':').unwrap_or((userinfo, ""));
    let decoded = format!("{}:{}", percent_decode(user, false), percent_decode(password, false));
    let mut value = HeaderValue::try_from(format!("Basic {}", STANDARD.encode(decoded)))
        .expect("base64 is a header value");
    value.set_sensitive(true);
    value
}

/// Why a message was not dispatched.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DispatchError {
    /// The first call failed; no reply was sent.
    #[error("Unable to complete request: {}", source.line())]
    Call {
        /// How.
        #[source]
        source: CallError,
    },
    /// The first call succeeded, but sending its reply failed.
    #[error("Failed to forward reply: {}", source.line())]
    Reply {
        /// How.
        #[source]
        source: CallError,
    },
}

impl DispatchError {
    /// How the call failed.
    pub fn call_error(&self) -> &CallError {
        match self {
            Self::Call { source } | Self::Reply { source } => source,
        }
    }
}

/// Why one call failed. URLs are without user information.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// The destination cannot be used.
    #[error(transparent)]
    Destination(#[from] InvalidDestination),
    /// The destination is no URL that can be requested.
    #[error("not a usable URL: {url}")]
    Url {
        /// The URL.
        url: String,
    },
    /// It could not be reached, or broke off.
    #[error(transparent)]
    Transport(#[from] relay_transport::Error),
    /// The response did not come in time.
    #[error("no answer from {url} within {after:?}")]
    Late {
        /// The URL that was called.
        url: String,
        /// The time limit.
        after: Duration,
    },
    /// The status was not 2xx.
    #[error("unexpected HTTP response, expected 2xx, got {status}")]
    Status {
        /// What it answered.
        status: u16,
        /// The delay that the response asked for.
        retry_after: Option<Duration>,
        /// The first 1,024 bytes of its body.
        body: Bytes,
    },
    /// It redirected without a usable URL, or too often.
    #[error("redirect by {url} not followed: {rule}")]
    Redirect {
        /// The URL that redirected.
        url: String,
        /// Why the redirect was not followed.
        rule: &'static str,
    },
    /// The response is encoded, although the request did not allow it.
    #[error("the answer of {url} is encoded")]
    Encoded {
        /// The URL that was called.
        url: String,
    },
    /// The response is too large.
    #[error("the answer of {url} is over {limit} bytes")]
    TooLarge {
        /// The URL that was called.
        url: String,
        /// Bytes.
        limit: usize,
    },
    /// The response ended too early.
    #[error("the answer of {url} broke off")]
    Cut {
        /// The URL that was called.
        url: String,
        /// How.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl CallError {
    /// Whether a retry may succeed.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Destination(_) | Self::Url { .. } | Self::Redirect { .. } => false,
            Self::Encoded { .. } | Self::TooLarge { .. } => false,
            Self::Transport(error) => error.is_retryable(),
            Self::Late { .. } | Self::Cut { .. } => true,
            Self::Status { status, .. } => is_retryable(*status),
        }
    }

    /// The delay that the peer asked for; at most a minute.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => retry_after.map(|after| after.min(Duration::from_secs(60))),
            _ => None,
        }
    }

    /// The error and its sources on one line, as far as each adds something.
    pub fn line(&self) -> String {
        relay_proto::error::chain(self).to_string()
    }
}
