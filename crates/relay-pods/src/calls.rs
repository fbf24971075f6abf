//! The client: single requests.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, stream};
use http::header::CONTENT_TYPE;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use relay_proto::http::media_type;
use relay_proto::pods::{
    EventHash, EventPage, Filter, Health, ListDecoder, ListFormat, ListLimits, Pod, PodEvent, PodList,
    Session,
};
use relay_proto::problem::Problem;
use relay_state::pods::Pods;
use relay_transport::{HttpClient, Secret, TokenSource, retry_after};
use tokio::time::timeout;

use crate::error::{AnswerError, Error};
use crate::pages::Progress;
use crate::request::{Credentials, EventsQuery, Order, Outer, Requests, display_url};
use crate::session::SessionMode;

/// Size limit of a response that is neither a list nor a stream.
const MAX_ANSWER: usize = 64 << 20;
/// Size limit of an error response that is read.
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

/// Settings taken from a builder.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) token: Option<TokenSource>,
    pub(crate) outer: Outer<TokenSource>,
    pub(crate) sessions: SessionMode,
    pub(crate) request_timeout: Duration,
    pub(crate) list_timeout: Duration,
    pub(crate) list_idle_timeout: Duration,
    pub(crate) list_limits: ListLimits,
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("base_url", &self.requests.base.to_string()).finish_non_exhaustive()
    }
}

impl Client {
    pub(crate) fn new(http: HttpClient, requests: Requests, settings: Settings) -> Self {
        Self { inner: Arc::new(Inner { http, requests, settings }) }
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
        self.list(filter, at_least, Pods::default(), |_, _| {}).await
    }

    /// As [`Client::pods`], and reports from time to time the number of pods so far, and the total if the relay has
    /// sent it.
    ///
    /// # Errors
    /// As [`Client::pods`].
    pub async fn pods_with_progress(
        &self,
        filter: &Filter,
        progress: impl FnMut(u64, Option<u64>) + Send,
    ) -> Result<PodList, Error> {
        self.list(filter, None, Pods::default(), progress).await
    }

    /// A list in which equal pods of a former list are reused, so that they take no memory twice.
    pub(crate) async fn list(
        &self,
        filter: &Filter,
        at_least: Option<&EventHash>,
        held: Pods,
        mut progress: impl FnMut(u64, Option<u64>) + Send,
    ) -> Result<PodList, Error> {
        let request = self.inner.requests.pods(filter, at_least);
        let url = display_url(&request);
        self.limited(&url, self.inner.settings.list_timeout, async {
            let response = self.send(request, true).await?;
            let content_types = response.headers().get_all(CONTENT_TYPE).iter().map(|v| v.as_bytes());
            let content_type = media_type(content_types).and_then(|v| str::from_utf8(v).ok()).unwrap_or("");
            let essence = content_type.split(';').next().unwrap_or("").trim();
            if essence.eq_ignore_ascii_case("text/html") {
                let what = AnswerError::Unexpected("an HTML page, not a list".into());
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
                let (done, all) = decoder.progress();
                progress(done, all);
            }
            decoder.finish().map_err(answer)
        })
        .await
    }

    /// One pod; `None` when there is none of that name. Any 404 counts as that; see [`Client::require_pod`] to know
    /// who said it.
    ///
    /// # Errors
    /// When the relay refuses or cannot be reached, or the answer is not a pod.
    pub async fn pod(&self, namespace: &str, name: &str) -> Result<Option<Pod>, Error> {
        match self.require_pod(namespace, name).await {
            // A 404 of an API server is about the relay's service, not about the pod.
            Err(Error::Refused { problem, .. }) if problem.status == 404 && !problem.from_kubernetes => {
                Ok(None)
            }
            other => other.map(Some),
        }
    }

    /// One pod that must be there.
    ///
    /// # Errors
    /// As [`Client::pod`]; also [`Error::Refused`] with status 404 when there is none of that name. Its problem
    /// document has the code [`NOT_FOUND`](relay_proto::problem::ProblemCode::NOT_FOUND) when a relay said so; another
    /// server at this address sends 404 too, but hardly the document.
    pub async fn require_pod(&self, namespace: &str, name: &str) -> Result<Pod, Error> {
        let request = self.inner.requests.get(&self.inner.requests.pod(namespace, name, ""), &[]);
        let url = display_url(&request);
        let body = self.fetch(request, true).await?;
        let pod = Pod::from_json(&String::from_utf8_lossy(&body));
        pod.map_err(|error| unusable(url, &body, AnswerError::Pod(error)))
    }

    /// One page of the history. Needs a relay with storage.
    ///
    /// # Errors
    /// When the relay refuses or cannot be reached, the page's start is no longer retained (410), or the page is
    /// malformed.
    pub async fn events(&self, query: &EventsQuery) -> Result<EventPage, Error> {
        self.event_page(self.inner.requests.events(&self.inner.requests.endpoints.events, query)).await
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
        let path = self.inner.requests.pod(namespace, name, "/events");
        self.event_page(self.inner.requests.events(&path, query)).await
    }

    /// The history, page after page, until there is no further event. Pages that do not lead on, as from a server that
    /// ignores the cursor, end it with [`AnswerError::Stuck`].
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
        Session::from_json(&body).map_err(|error| unusable(url, &body, AnswerError::Session(error)))
    }

    /// Whether the relay reports that it is healthy. Any error counts as no.
    pub async fn is_healthy(&self) -> bool {
        matches!(self.health().await, Ok((true, _)))
    }

    /// Whether the relay reports that it is healthy, and its health document.
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
                return Err(unusable(url.clone(), &body, what));
            }
            Ok((
                status == StatusCode::OK && health.status.as_deref().is_none_or(|status| status == "ok"),
                health,
            ))
        })
        .await
    }

    /// The base URL of the relay, without user information.
    pub fn base_url(&self) -> String {
        self.inner.requests.base.to_string()
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

    /// Whether a source may have new credentials after the current ones were refused.
    pub(crate) fn credentials_can_refresh(&self) -> bool {
        let settings = &self.inner.settings;
        let outer = match &settings.outer {
            Outer::Bearer(source) | Outer::Header(source) => Some(source),
            Outer::None | Outer::Known => None,
        };
        settings.token.iter().chain(outer).any(TokenSource::can_refresh)
    }

    /// The current credentials: changed files are read again. After a refusal, new ones if a source can give them;
    /// the relay's own token is not renewed unless it is `wanted`.
    pub(crate) async fn credentials(&self, refused: bool, wanted: bool) -> Result<Credentials, Error> {
        let settings = &self.inner.settings;
        let token = match &settings.token {
            Some(source) if wanted => Some(read(source, refused).await?),
            _ => None,
        };
        let outer = match &settings.outer {
            Outer::None => Outer::None,
            Outer::Known => Outer::Known,
            Outer::Bearer(source) => Outer::Bearer(read(source, refused).await?),
            Outer::Header(source) => Outer::Header(read(source, refused).await?),
        };
        Ok(Credentials { token, outer })
    }

    fn pages(
        &self,
        path: String,
        query: EventsQuery,
    ) -> impl Stream<Item = Result<PodEvent, Error>> + Send + use<> {
        let client = self.clone();
        let first = Some((query, Progress::default()));
        let pages = stream::try_unfold(first, move |asked| {
            let (client, path) = (client.clone(), path.clone());
            async move {
                let Some((mut query, mut progress)) = asked else { return Ok::<_, Error>(None) };
                let request = client.inner.requests.events(&path, &query);
                let url = display_url(&request);
                let page = client.event_page(request).await?;
                let cursor = match query.order {
                    Order::Oldest => &mut query.since,
                    Order::Newest => &mut query.before,
                };
                progress.check(cursor.as_ref(), &page).map_err(|source| Error::Answer { url, source })?;
                let goes_on = page.next_hash.is_some();
                *cursor = page.next_hash;
                let next = goes_on.then_some((query, progress));
                Ok(Some((stream::iter(page.events.into_iter().map(Ok)), next)))
            }
        });
        futures_util::TryStreamExt::try_flatten(pages)
    }

    async fn event_page(&self, request: Request<Full<Bytes>>) -> Result<EventPage, Error> {
        let url = display_url(&request);
        let body = self.fetch(request, true).await?;
        EventPage::from_json(&body).map_err(|error| unusable(url, &body, AnswerError::Page(error)))
    }

    /// Sends a request and reads the whole response, within the request timeout.
    async fn fetch(&self, request: Request<Full<Bytes>>, credentials: bool) -> Result<Bytes, Error> {
        let url = display_url(&request);
        self.limited(&url, self.inner.settings.request_timeout, async {
            let response = self.send(request, credentials).await?;
            self.read_body(&url, response.into_body(), MAX_ANSWER).await
        })
        .await
    }

    /// Sends a request; any status but success is an error.
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
        request: Request<Full<Bytes>>,
        credentials: bool,
    ) -> Result<Response<Incoming>, Error> {
        let url = display_url(&request);
        let mut refused = false;
        loop {
            let mut request = request.clone();
            self.credentials(refused, credentials).await?.apply(&mut request)?;
            let response = self.inner.http.send_following(request).await;
            let response =
                response.map_err(|source| Error::Transport { url: url.clone(), source: Box::new(source) })?;
            // Only once: a revoked credential is no reason to fail while a new one is available.
            if response.status() != StatusCode::UNAUTHORIZED || refused || !self.credentials_can_refresh() {
                return Ok(response);
            }
            refused = true;
        }
    }

    async fn refusal(&self, url: &str, response: Response<Incoming>) -> Error {
        let status = response.status().as_u16();
        let retry_after = retry_after(response.headers());
        let body = self.read_body(url, response.into_body(), MAX_PROBLEM).await.unwrap_or_default();
        let problem = Box::new(Problem::from_body(status, &body));
        Error::Refused { url: url.into(), problem, retry_after }
    }

    async fn read_body(&self, url: &str, mut body: Incoming, limit: usize) -> Result<Bytes, Error> {
        let mut held = Vec::new();
        while let Some(chunk) = self.next_chunk(url, &mut body).await? {
            if held.len() + chunk.len() > limit {
                return Err(Error::TooLarge { url: url.into(), limit });
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
            Err(_) => Err(Error::TooLate { url: url.into(), limit }),
        }
    }
}

/// The error for a response that cannot be used. For an HTML page it does not mention the syntax.
fn unusable(url: String, body: &[u8], why: AnswerError) -> Error {
    let text = body.trim_ascii_start();
    let begins_with = |tag: &[u8]| text.get(..tag.len()).is_some_and(|start| start.eq_ignore_ascii_case(tag));
    let source = if begins_with(b"<html") || begins_with(b"<!doctype html") {
        AnswerError::Unexpected("an HTML page".into())
    } else {
        why
    };
    Error::Answer { url, source }
}

async fn read(source: &TokenSource, refused: bool) -> Result<Secret, Error> {
    let token = if refused { source.fresh_token().await } else { source.token().await };
    token.map_err(|error| Error::Credential { source: Box::new(error) })
}
