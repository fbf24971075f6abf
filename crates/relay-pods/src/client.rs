//! The client: what is asked once.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::{Stream, stream};
use http::header::{CONTENT_TYPE, DATE, RETRY_AFTER};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use relay_proto::http::ResponseHead;
use relay_proto::pods::{
    Endpoints, EventHash, EventPage, Filter, Health, ListDecoder, ListFormat, ListLimits, Pod, PodEvent,
    PodList, Session,
};
use relay_proto::problem::Problem;
use relay_state::pods::Pods;
use relay_transport::{BaseUrl, HttpClient, Secret, TokenSource};
use tokio::time::timeout;

use crate::connection::MessageStream;
use crate::events::PodEventStream;
use crate::request::{Credentials, Requests};
use crate::session::SessionMode;
use crate::state::SnapshotStream;
use crate::{AnswerError, Error, EventsQuery, Order, StreamOptions};

/// Largest body of an answer that is neither a list nor a stream.
const MAX_ANSWER: usize = 64 << 20;
/// Largest part of an error answer that is read.
const MAX_PROBLEM: usize = 64 << 10;

/// A client of one relay. Cheap to clone; clones share connections.
#[derive(Debug, Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    http: HttpClient,
    requests: Requests,
    settings: Settings,
}

/// What a builder hands over as it is.
#[derive(Debug, Clone)]
struct Settings {
    token: Option<TokenSource>,
    outer_token: Option<TokenSource>,
    /// The outer token is the whole header, scheme included.
    outer_has_scheme: bool,
    behind_proxy: bool,
    sessions: SessionMode,
    request_timeout: Duration,
    list_timeout: Duration,
    list_idle_timeout: Duration,
    list_limits: ListLimits,
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("base_url", &self.requests.base.to_string()).finish_non_exhaustive()
    }
}

impl Client {
    /// Begins a client of the relay at `base_url`, which may carry a path prefix and is kept as given.
    pub fn builder(base_url: impl Into<String>) -> ClientBuilder {
        ClientBuilder::new(base_url)
    }

    /// The current pods, with the position that they reflect.
    ///
    /// # Errors
    /// When the relay refuses or cannot be reached, or the list ends early: never a short list.
    pub async fn pods(&self, filter: &Filter) -> Result<PodList, Error> {
        self.pods_at_least(filter, None).await
    }

    /// The current pods, reflecting at least a position.
    ///
    /// # Errors
    /// As [`Client::pods`]; also when the relay does not reach the position in time (retryable).
    pub async fn pods_at_least(
        &self,
        filter: &Filter,
        at_least: Option<&EventHash>,
    ) -> Result<PodList, Error> {
        self.list(filter, at_least, Pods::default()).await
    }

    /// A list in which a pod that is held already stands for the equal one that came, so that it costs no memory twice.
    pub(crate) async fn list(
        &self,
        filter: &Filter,
        at_least: Option<&EventHash>,
        held: Pods,
    ) -> Result<PodList, Error> {
        let request = self.inner.requests.pods(filter, at_least);
        let url = display_url(&request);
        self.limited(&url, self.inner.settings.list_timeout, async {
            let response = self.send(request, true).await?;
            let content_type =
                response.headers().get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("");
            let essence = content_type.split(';').next().unwrap_or("").trim();
            if essence.eq_ignore_ascii_case("text/html") {
                let what = AnswerError::Unexpected(format!("content type {essence}, not a list"));
                return Err(Error::Answer { url: url.clone(), source: what });
            }
            let mut decoder = ListDecoder::new(
                ListFormat::from_content_type(content_type),
                self.inner.settings.list_limits,
            )
            .reuse(move |key| held.get(key).cloned());
            let answer = |error| Error::Answer { url: url.clone(), source: AnswerError::List(error) };
            let mut body = response.into_body();
            while let Some(chunk) = self.next_chunk(&url, &mut body).await? {
                decoder.feed(&chunk).map_err(answer)?;
            }
            decoder.finish().map_err(answer)
        })
        .await
    }

    /// One pod; `None` when there is none of that name.
    ///
    /// # Errors
    /// When the relay refuses or cannot be reached, or the answer is not a pod.
    pub async fn pod(&self, namespace: &str, name: &str) -> Result<Option<Pod>, Error> {
        let request = self.inner.requests.get(&self.inner.requests.pod(namespace, name, ""), &[]);
        let url = display_url(&request);
        let body = match self.fetch(request, true).await {
            // An API server's 404 is about the relay's service, and says nothing of the pod.
            Err(Error::Refused { problem, .. }) if problem.status == 404 && !problem.from_kubernetes => {
                return Ok(None);
            }
            other => other?,
        };
        let pod = Pod::from_json(&String::from_utf8_lossy(&body));
        pod.map(Some).map_err(|error| Error::Answer { url, source: AnswerError::Pod(error) })
    }

    /// One page of the history. Needs a relay with storage.
    ///
    /// # Errors
    /// When the relay refuses or cannot be reached, the page's start is no longer retained (410), or the page is
    /// malformed.
    pub async fn events(&self, query: &EventsQuery) -> Result<EventPage, Error> {
        self.event_page(&self.inner.requests.endpoints.events, query).await
    }

    /// One page of one pod's history, also after its deletion.
    ///
    /// # Errors
    /// As [`Client::events`].
    pub async fn pod_events(
        &self,
        namespace: &str,
        name: &str,
        query: &EventsQuery,
    ) -> Result<EventPage, Error> {
        self.event_page(&self.inner.requests.pod(namespace, name, "/events"), query).await
    }

    /// The history, page after page, until there is no further event.
    pub fn all_events(
        &self,
        query: EventsQuery,
    ) -> impl Stream<Item = Result<PodEvent, Error>> + Send + use<> {
        let path = self.inner.requests.endpoints.events.clone();
        self.pages(path, query)
    }

    /// One pod's history, page after page, until there is no further event.
    pub fn all_pod_events(
        &self,
        namespace: &str,
        name: &str,
        query: EventsQuery,
    ) -> impl Stream<Item = Result<PodEvent, Error>> + Send + use<> {
        self.pages(self.inner.requests.pod(namespace, name, "/events"), query)
    }

    /// A single-use ticket for one stream.
    ///
    /// # Errors
    /// When the relay refuses or cannot be reached.
    pub async fn create_session(&self) -> Result<Session, Error> {
        let request = self.inner.requests.session();
        let url = display_url(&request);
        let body = self.fetch(request, true).await?;
        Session::from_json(&body).map_err(|error| Error::Answer { url, source: AnswerError::Session(error) })
    }

    /// Whether the relay says that it is well. Any trouble on the way counts as no.
    pub async fn is_healthy(&self) -> bool {
        matches!(self.health().await, Ok((true, _)))
    }

    /// Whether the relay says that it is well, and its health document.
    ///
    /// # Errors
    /// When the relay cannot be reached, or answers with anything but 200 or 503 and a JSON object.
    pub async fn health(&self) -> Result<(bool, Health), Error> {
        let request = self.inner.requests.get(&self.inner.requests.endpoints.health, &[]);
        let url = display_url(&request);
        self.limited(&url, self.inner.settings.request_timeout, async {
            let response = self.exchange(request, false).await?;
            let status = response.status();
            if status != StatusCode::OK && status != StatusCode::SERVICE_UNAVAILABLE {
                return Err(self.refusal(&url, response).await);
            }
            let body = self.read_body(&url, response.into_body(), MAX_PROBLEM).await?;
            let health = Health::from_body(&body);
            if !health.raw.is_object() {
                let what = AnswerError::Unexpected("not a health document".into());
                return Err(Error::Answer { url: url.clone(), source: what });
            }
            Ok((
                status == StatusCode::OK && health.status.as_deref().is_none_or(|status| status == "ok"),
                health,
            ))
        })
        .await
    }

    /// The raw messages of one connection; ends when the connection ends.
    pub fn stream(&self, options: StreamOptions) -> MessageStream {
        MessageStream::new(self, options)
    }

    /// Events and gaps. Reconnects, resumes from the last event handed over, and heals holes.
    pub fn stream_pod_events(&self, options: StreamOptions) -> PodEventStream {
        PodEventStream::new(self, options)
    }

    /// Snapshots of the pods: one at once, then one after each change, and one after each gap.
    pub fn stream_pod_state(&self, options: StreamOptions) -> SnapshotStream {
        SnapshotStream::new(self, options, relay_state::pods::ReplayMode::State)
    }

    /// Snapshots in six phases, each with the position that may be persisted after it was processed.
    pub fn stream_pod_state_with_replay(&self, options: StreamOptions) -> SnapshotStream {
        SnapshotStream::new(self, options, relay_state::pods::ReplayMode::Phases)
    }

    pub(crate) fn http(&self) -> &HttpClient {
        &self.inner.http
    }

    pub(crate) fn requests(&self) -> &Requests {
        &self.inner.requests
    }

    pub(crate) fn sessions(&self) -> &SessionMode {
        &self.inner.settings.sessions
    }

    pub(crate) fn has_token(&self) -> bool {
        self.inner.settings.token.is_some()
    }

    /// The credentials as they are now: files are read again when they changed.
    pub(crate) async fn credentials(&self) -> Result<Credentials, Error> {
        let read = async |source: &Option<TokenSource>| -> Result<Option<Secret>, Error> {
            match source {
                Some(source) => {
                    source.token().await.map(Some).map_err(|e| Error::Credential { source: Box::new(e) })
                }
                None => Ok(None),
            }
        };
        Ok(Credentials {
            token: read(&self.inner.settings.token).await?,
            outer: read(&self.inner.settings.outer_token).await?,
            outer_has_scheme: self.inner.settings.outer_has_scheme,
            behind_proxy: self.inner.settings.behind_proxy,
        })
    }

    fn pages(
        &self,
        path: String,
        query: EventsQuery,
    ) -> impl Stream<Item = Result<PodEvent, Error>> + Send + use<> {
        let client = self.clone();
        let pages = stream::try_unfold(Some(query), move |query| {
            let (client, path) = (client.clone(), path.clone());
            async move {
                let Some(mut query) = query else { return Ok::<_, Error>(None) };
                let page = client.event_page(&path, &query).await?;
                let next = page.next_hash.map(|hash| {
                    match query.order {
                        Order::Oldest => query.since = Some(hash),
                        Order::Newest => query.before = Some(hash),
                    }
                    query
                });
                Ok(Some((stream::iter(page.events.into_iter().map(Ok)), next)))
            }
        });
        futures_util::TryStreamExt::try_flatten(pages)
    }

    async fn event_page(&self, path: &str, query: &EventsQuery) -> Result<EventPage, Error> {
        let request = self.inner.requests.events(path, query);
        let url = display_url(&request);
        let body = self.fetch(request, true).await?;
        EventPage::from_json(&body).map_err(|error| Error::Answer { url, source: AnswerError::Page(error) })
    }

    /// Sends a request and reads the whole answer, within the request timeout.
    async fn fetch(&self, request: Request<Full<Bytes>>, credentials: bool) -> Result<Bytes, Error> {
        let url = display_url(&request);
        self.limited(&url, self.inner.settings.request_timeout, async {
            let response = self.send(request, credentials).await?;
            self.read_body(&url, response.into_body(), MAX_ANSWER).await
        })
        .await
    }

    /// Sends a request; anything but success is an error.
    async fn send(
        &self,
        request: Request<Full<Bytes>>,
        credentials: bool,
    ) -> Result<Response<Incoming>, Error> {
        let url = display_url(&request);
        let response = self.exchange(request, credentials).await?;
        if response.status().is_success() { Ok(response) } else { Err(self.refusal(&url, response).await) }
    }

    async fn exchange(
        &self,
        mut request: Request<Full<Bytes>>,
        credentials: bool,
    ) -> Result<Response<Incoming>, Error> {
        let url = display_url(&request);
        let mut held = self.credentials().await?;
        if !credentials {
            held.token = None;
        }
        held.apply(&mut request)?;
        self.inner
            .http
            .send_following(request)
            .await
            .map_err(|error| Error::Transport { url, source: Box::new(error) })
    }

    async fn refusal(&self, url: &str, response: Response<Incoming>) -> Error {
        let status = response.status().as_u16();
        let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let mut head = ResponseHead::new(status, url).unix_time(since_1970);
        for name in [RETRY_AFTER, DATE] {
            if let Some(value) = response.headers().get(&name) {
                head = head.header(name.as_str(), value.as_bytes());
            }
        }
        let retry_after = head.retry_after();
        let body = self.read_body(url, response.into_body(), MAX_PROBLEM).await.unwrap_or_default();
        let problem = Box::new(Problem::from_body(status, &body));
        Error::Refused { url: url.into(), problem, retry_after }
    }

    async fn read_body(&self, url: &str, mut body: Incoming, limit: usize) -> Result<Bytes, Error> {
        let mut held = Vec::new();
        while let Some(chunk) = self.next_chunk(url, &mut body).await? {
            if held.len() + chunk.len() > limit {
                return Err(Error::Limit { url: url.into(), limit: format!("{limit} bytes of an answer") });
            }
            held.extend_from_slice(&chunk);
        }
        Ok(held.into())
    }

    async fn next_chunk(&self, url: &str, body: &mut Incoming) -> Result<Option<Bytes>, Error> {
        loop {
            let frame = self
                .limited(url, self.inner.settings.list_idle_timeout, async { Ok(body.frame().await) })
                .await?;
            match frame {
                None => return Ok(None),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
                Some(Err(error)) => {
                    return Err(Error::Transport { url: url.into(), source: Box::new(error) });
                }
            }
        }
    }

    async fn limited<T>(
        &self,
        url: &str,
        limit: Duration,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        match timeout(limit, work).await {
            Ok(result) => result,
            Err(_) => Err(Error::Limit { url: url.into(), limit: format!("{limit:?} without an answer") }),
        }
    }
}

/// The URL of a request without its query, which may hold a ticket.
pub(crate) fn display_url(request: &Request<Full<Bytes>>) -> String {
    let uri = request.uri();
    let host = uri.authority().map_or("", |a| a.as_str().rsplit('@').next().unwrap_or(""));
    format!("{}://{host}{}", uri.scheme_str().unwrap_or("http"), uri.path())
}

/// Options of a [`Client`].
#[derive(Debug, Clone)]
pub struct ClientBuilder {
    base_url: String,
    http: Option<HttpClient>,
    endpoints: Endpoints,
    client_id: Option<String>,
    settings: Settings,
}

impl ClientBuilder {
    fn new(base_url: impl Into<String>) -> Self {
        Self {
            base_url: base_url.into(),
            http: None,
            endpoints: Endpoints::default(),
            client_id: None,
            settings: Settings {
                token: None,
                outer_token: None,
                outer_has_scheme: false,
                behind_proxy: false,
                sessions: SessionMode::Auto,
                request_timeout: Duration::from_secs(30),
                list_timeout: Duration::from_secs(300),
                list_idle_timeout: Duration::from_secs(30),
                list_limits: ListLimits::default(),
            },
        }
    }

    /// Sets the relay's token. Default: none.
    #[must_use]
    pub fn token(mut self, token: impl Into<Arc<str>>) -> Self {
        self.settings.token = Some(TokenSource::fixed(Secret::new(token)));
        self
    }

    /// Sets where the relay's token comes from, such as a file that is read again when it changes.
    #[must_use]
    pub fn token_source(mut self, token: TokenSource) -> Self {
        self.settings.token = Some(token);
        self
    }

    /// Sets a file that holds the relay's token and is read again when it changes.
    #[must_use]
    pub fn token_file(self, path: impl Into<std::path::PathBuf>) -> Self {
        self.token_source(TokenSource::file(path))
    }

    /// Sets the credential of a proxy in front of the relay. `Authorization` is then the proxy's, and the relay's token
    /// travels in `X-Relay-Token`. Default: none.
    #[must_use]
    pub fn outer_token_source(mut self, token: TokenSource) -> Self {
        (self.settings.outer_token, self.settings.outer_has_scheme) = (Some(token), false);
        self.behind_proxy()
    }

    /// As [`outer_token_source`](Self::outer_token_source), for a proxy that wants something else than a bearer token: what
    /// comes is the whole `Authorization`, such as `Basic dXNlcjpwYXNzd29yZA==`.
    #[must_use]
    pub fn outer_authorization_source(mut self, authorization: TokenSource) -> Self {
        (self.settings.outer_token, self.settings.outer_has_scheme) = (Some(authorization), true);
        self.behind_proxy()
    }

    /// Says that `Authorization` belongs to a proxy in front of the relay, even if nothing is to be said to it there (it may
    /// know us by our certificate): the relay's token travels in `X-Relay-Token`. An outer credential implies it.
    #[must_use]
    pub fn behind_proxy(mut self) -> Self {
        self.settings.behind_proxy = true;
        self
    }

    /// Sets the name of this consumer in the relay's metrics, limits and logs: 1 to 128 visible ASCII characters.
    #[must_use]
    pub fn client_id(mut self, client_id: impl Into<String>) -> Self {
        self.client_id = Some(client_id.into());
        self
    }

    /// Sets where session tickets come from. Default: the relay, whenever there is a token.
    #[must_use]
    pub fn sessions(mut self, sessions: SessionMode) -> Self {
        self.settings.sessions = sessions;
        self
    }

    /// Sets paths and query names of a foreign relay.
    #[must_use]
    pub fn endpoints(mut self, endpoints: Endpoints) -> Self {
        self.endpoints = endpoints;
        self
    }

    /// Shares connections and TLS set-up with other clients: see [`ClientFactory`].
    #[must_use]
    pub fn http(mut self, http: HttpClient) -> Self {
        self.http = Some(http);
        self
    }

    /// Sets the longest time of a request that is neither a list nor a stream. Default 30 s.
    #[must_use]
    pub fn request_timeout(mut self, limit: Duration) -> Self {
        self.settings.request_timeout = limit;
        self
    }

    /// Sets the longest time of a list, and its longest pause. Default 5 min and 30 s.
    #[must_use]
    pub fn list_timeouts(mut self, whole: Duration, idle: Duration) -> Self {
        (self.settings.list_timeout, self.settings.list_idle_timeout) = (whole, idle);
        self
    }

    /// Sets the bounds of a list.
    #[must_use]
    pub fn list_limits(mut self, limits: ListLimits) -> Self {
        self.settings.list_limits = limits;
        self
    }

    /// Makes the client. Connects to nothing yet.
    ///
    /// # Errors
    /// When the base URL or the client id is not valid, or the system's certificates cannot be read.
    pub fn build(self) -> Result<Client, Error> {
        let base = BaseUrl::parse(&self.base_url).map_err(|error| Error::usage(error.to_string()))?;
        if let Some(id) = &self.client_id
            && !((1..=128).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_graphic()))
        {
            return Err(Error::usage(format!("client id {id:?}: 1 to 128 visible ASCII characters")));
        }
        let http = match self.http {
            Some(http) => http,
            None => HttpClient::builder().build().map_err(|error| Error::usage(error.to_string()))?,
        };
        let requests = Requests { base, endpoints: self.endpoints, client_id: self.client_id };
        Ok(Client { inner: Arc::new(Inner { http, requests, settings: self.settings }) })
    }
}

/// Makes clients of many relays that share one pool of connections and one TLS set-up.
#[derive(Debug, Clone)]
pub struct ClientFactory {
    http: HttpClient,
}

impl ClientFactory {
    /// A factory on a connection pool.
    pub fn new(http: HttpClient) -> Self {
        Self { http }
    }

    /// A client of the relay at `base_url`.
    ///
    /// # Errors
    /// When the base URL is not valid.
    pub fn create(&self, base_url: &str, token: Option<&str>) -> Result<Client, Error> {
        let builder = self.builder(base_url);
        token.into_iter().fold(builder, |builder, token| builder.token(token)).build()
    }

    /// Begins a client with more options.
    pub fn builder(&self, base_url: &str) -> ClientBuilder {
        Client::builder(base_url).http(self.http.clone())
    }
}
