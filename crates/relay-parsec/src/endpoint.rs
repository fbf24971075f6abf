//! A server's address, and credentials for it.

use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, DATE, HeaderValue, RETRY_AFTER};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use relay_proto::http::{ResponseHead, is_html, media_type};
use relay_proto::problem::Problem;
use relay_transport::{BaseUrl, HttpClient, Outer, Secret, TokenSource};

use crate::{Error, PublishFailure};

/// Largest answer that is read.
const MAX_ANSWER: usize = 128 << 20;

/// A server and the credentials for it. Cheap to clone; clones share connections.
#[derive(Debug, Clone)]
pub struct Endpoint {
    pub(crate) base: BaseUrl,
    pub(crate) http: HttpClient,
    token: Option<TokenSource>,
    outer: Outer,
    pub(crate) client_id: Option<String>,
    pub(crate) conn_info: Option<String>,
}

/// Options of an [`Endpoint`].
#[derive(Debug)]
pub struct EndpointBuilder {
    base_url: String,
    http: Option<HttpClient>,
    token: Option<TokenSource>,
    outer: Outer,
    client_id: Option<String>,
    conn_info: Option<String>,
}

impl Endpoint {
    /// Builds an endpoint with a base URL, which may have a path prefix and is kept as given.
    pub fn builder(base_url: impl Into<String>) -> EndpointBuilder {
        EndpointBuilder {
            base_url: base_url.into(),
            http: None,
            token: None,
            outer: Outer::None,
            client_id: None,
            conn_info: None,
        }
    }

    /// The server's patterns, as the JSON it sends; [`Registry::from_json`](relay_proto::parsec::Registry::from_json)
    /// reads it.
    ///
    /// # Errors
    /// The server's errors; 404 when it has none.
    pub async fn schemas(&self) -> Result<Bytes, Error> {
        self.get("schemas", "parsec/schemas", &[]).await
    }

    /// The token to use now, if there is a source of one.
    pub(crate) async fn token(&self) -> Result<Option<Secret>, Error> {
        match &self.token {
            Some(source) => Ok(Some(source.token().await?)),
            None => Ok(None),
        }
    }

    /// A request with its credentials.
    pub(crate) async fn request(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
        body: Bytes,
    ) -> Result<Request<Full<Bytes>>, Error> {
        let unusable = |error: http::Error| Error::Usage(format!("the request cannot be made: {error}"));
        let request = Request::builder().method(method).uri(self.base.join(path, query));
        let mut request = request.body(Full::new(body)).map_err(unusable)?;
        self.authorize(request.headers_mut()).await?;
        Ok(request)
    }

    pub(crate) async fn authorize(&self, headers: &mut http::HeaderMap) -> Result<(), Error> {
        let token = self.token().await?;
        self.outer.authorize(token.as_ref(), headers).await?;
        Ok(())
    }

    /// Sends a JSON body; errors say whether a retry may help.
    pub(crate) async fn post(
        &self,
        what: &str,
        path: &str,
        query: &[(&str, &str)],
        body: Bytes,
    ) -> Result<Bytes, PublishFailure> {
        let refused = PublishFailure::Refused;
        let mut request = self.request(Method::POST, path, query, body).await.map_err(refused)?;
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        match self.exchange(what, request).await {
            Ok(body) => Ok(body),
            Err((error, retry_after)) => Err(match &error {
                Error::Refused { problem, .. } if !passing(problem.status) => PublishFailure::Refused(error),
                Error::Transport(transport) if !transport.is_retryable() => PublishFailure::Refused(error),
                _ => PublishFailure::Unavailable { error, retry_after },
            }),
        }
    }

    /// Requests a JSON document, once.
    pub(crate) async fn get(&self, what: &str, path: &str, query: &[(&str, &str)]) -> Result<Bytes, Error> {
        let request = self.request(Method::GET, path, query, Bytes::new()).await?;
        self.exchange(what, request).await.map_err(|(error, _)| error)
    }

    async fn exchange(
        &self,
        what: &str,
        request: Request<Full<Bytes>>,
    ) -> Result<Bytes, (Error, Option<Duration>)> {
        let response = self.http.send_following(request).await.map_err(|error| (error.into(), None))?;
        let (head, body) = response.into_parts();
        let retry_after = retry_after(&head);
        let read = Limited::new(body, MAX_ANSWER).collect();
        let body = match tokio::time::timeout(Duration::from_secs(30), read).await {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(error)) => return Err((answer(what, format!("its body broke off: {error}")), None)),
            Err(_) => return Err((answer(what, "its body did not come in time".into()), None)),
        };
        if head.status == StatusCode::OK {
            let types = head.headers.get_all(CONTENT_TYPE).iter().map(HeaderValue::as_bytes);
            return if media_type(types).is_some_and(is_html) {
                Err((answer(what, "the answer is an HTML page, and not one of a Parsec server".into()), None))
            } else {
                Ok(body)
            };
        }
        let problem = Box::new(Problem::from_body(head.status.as_u16(), &body));
        Err((Error::Refused { what: what.to_owned(), problem }, retry_after))
    }
}

/// Whether a retry may help.
pub(crate) fn passing(status: u16) -> bool {
    matches!(status, 408 | 425 | 429 | 500..)
}

pub(crate) fn answer(what: &str, reason: String) -> Error {
    Error::Answer { what: what.to_owned(), reason }
}

/// The error for a response that is not the expected document: it has the position, and nothing of the content.
pub(crate) fn unreadable(what: &str, wanted: &str, error: &serde_json::Error) -> Error {
    match (error.line(), error.column()) {
        (1, 0 | 1) => answer(what, format!("it is no {wanted}, and no JSON")),
        (line, column) => {
            answer(what, format!("it is no {wanted}: reading ended at line {line} column {column}"))
        }
    }
}

pub(crate) fn retry_after(head: &http::response::Parts) -> Option<Duration> {
    let mut answer = ResponseHead::new(head.status.as_u16(), "");
    for name in [RETRY_AFTER, DATE] {
        if let Some(value) = head.headers.get(&name) {
            answer = answer.header(name.as_str(), value.as_bytes());
        }
    }
    answer.retry_after()
}

impl EndpointBuilder {
    /// Sets what sends requests, to share connections and TLS set-up.
    #[must_use]
    pub fn http(mut self, http: HttpClient) -> Self {
        self.http = Some(http);
        self
    }

    /// Sets where the server's token comes from. Default: there is none.
    #[must_use]
    pub fn token_source(mut self, token: TokenSource) -> Self {
        self.token = Some(token);
        self
    }

    /// Sets the credential of a proxy in front of the server: it is sent as `Authorization`, and the server's own
    /// token as `X-Relay-Token`.
    #[must_use]
    pub fn outer_token_source(self, token: TokenSource) -> Self {
        self.outer(Outer::Bearer(token))
    }

    /// Sets a proxy in front of the server, and its credential. Default: none.
    #[must_use]
    pub fn outer(mut self, outer: Outer) -> Self {
        self.outer = outer;
        self
    }

    /// Sets the client's name in presence lists.
    #[must_use]
    pub fn client_id(mut self, client_id: impl Into<String>) -> Self {
        self.client_id = Some(client_id.into());
        self
    }

    /// Sets the client's information in presence lists: any JSON, 1 KiB at most.
    #[must_use]
    pub fn conn_info(mut self, conn_info: impl Into<String>) -> Self {
        self.conn_info = Some(conn_info.into());
        self
    }

    /// Builds the endpoint.
    ///
    /// # Errors
    /// When the URL cannot be used.
    pub fn build(self) -> Result<Endpoint, Error> {
        Ok(Endpoint {
            base: BaseUrl::parse(&self.base_url)?,
            http: match self.http {
                Some(http) => http,
                None => HttpClient::builder().build()?,
            },
            token: self.token,
            outer: self.outer,
            client_id: self.client_id,
            conn_info: self.conn_info,
        })
    }
}
